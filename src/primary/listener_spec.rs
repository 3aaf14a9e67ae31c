//! What is said of a listener before it is bound: its address, and what is special about it. Pure.
//!
//! Written `ADDR[,KEY=VALUE]...`; several of them in a row are separated by commas too, and every `KEY=VALUE` belongs
//! to the address before it: `127.0.0.1:80,policy=source-hash,unix:/run/app.sock` are two. A key is a word, so a path
//! may contain `=`, but no comma.

use std::fmt;
use std::str::FromStr;

use super::address::{Address, BadAddress};
use super::policy::{PolicyKind, UnknownPolicy};
use crate::protocol::allow_list::{AllowList, BadAllowList};

/// A listener to be bound.
#[derive(Debug, Clone)]
pub struct ListenerSpec {
    /// Where.
    pub address: Address,
    /// Who gets its connections; `None`: as [`Settings::policy`](super::settings::Settings::policy) says.
    pub policy: Option<PolicyKind>,
    /// Whether its connections begin with a PROXY header; `None`: as
    /// [`Settings::proxy_protocol`](super::settings::Settings::proxy_protocol) says.
    pub proxy_protocol: Option<ProxyProtocol>,
}

/// What the connections of one listener begin with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ProxyProtocol {
    /// No PROXY header, whatever is said for all listeners.
    Off,
    /// A PROXY header of one of these.
    Of(AllowList),
}

/// One or more listeners in one text.
#[derive(Debug, Clone)]
pub struct ListenerSpecs(pub Vec<ListenerSpec>);

/// A text that is no listener. The message says why, and what to write.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadListener {
    /// An address.
    #[error(transparent)]
    Address(#[from] BadAddress),
    /// The value of `policy`.
    #[error(transparent)]
    Policy(#[from] UnknownPolicy),
    /// The value of `proxy-protocol`.
    #[error("{0}; or write proxy-protocol=off")]
    ProxyProtocol(BadAllowList),
    /// `KEY=VALUE` without an address to belong to.
    #[error("{0:?} stands before any address: write ADDR,{0}")]
    NoAddress(String),
    /// A key that means nothing.
    #[error("listeners have no option {0:?}: there are policy=NAME and proxy-protocol=CIDR")]
    UnknownKey(String),
    /// A key for the second time.
    #[error("{address} has {key} twice: once is enough")]
    Twice {
        /// Of which listener.
        address: Address,
        /// Which.
        key: &'static str,
    },
}

impl ListenerSpec {
    /// With this key set to what `value` says.
    fn with(self, key: &str, value: &str) -> Result<Self, BadListener> {
        match key {
            "policy" if self.policy.is_some() => Err(BadListener::Twice { address: self.address, key: "policy" }),
            "policy" => Ok(Self { policy: Some(value.parse()?), ..self }),
            // Commas separate options: every network comes with its key.
            "proxy-protocol" => {
                let more = value.parse().map_err(BadListener::ProxyProtocol)?;
                let proxy_protocol = match self.proxy_protocol {
                    None => more,
                    Some(before) => before
                        .and(more)
                        .ok_or(BadListener::Twice { address: self.address.clone(), key: "proxy-protocol" })?,
                };
                Ok(Self { proxy_protocol: Some(proxy_protocol), ..self })
            }
            _ => Err(BadListener::UnknownKey(key.to_owned())),
        }
    }
}

impl From<Address> for ListenerSpec {
    /// With nothing special about it.
    fn from(address: Address) -> Self {
        Self { address, policy: None, proxy_protocol: None }
    }
}

impl fmt::Display for ListenerSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.address.fmt(f)?;
        self.policy.iter().try_for_each(|policy| write!(f, ",policy={policy}"))?;
        match &self.proxy_protocol {
            None => Ok(()),
            Some(ProxyProtocol::Off) => write!(f, ",proxy-protocol=off"),
            Some(ProxyProtocol::Of(proxies)) => proxies.names().try_for_each(|it| write!(f, ",proxy-protocol={it}")),
        }
    }
}

impl ProxyProtocol {
    /// Both lists as one; `None` if one of them is `off`.
    fn and(self, more: Self) -> Option<Self> {
        match (self, more) {
            (Self::Of(before), Self::Of(more)) => Some(Self::Of(before.and(more))),
            (Self::Off, _) | (_, Self::Off) => None,
        }
    }
}

impl FromStr for ProxyProtocol {
    type Err = BadAllowList;

    fn from_str(text: &str) -> Result<Self, BadAllowList> {
        match text {
            "off" => Ok(Self::Off),
            list => list.parse().map(Self::Of),
        }
    }
}

impl FromStr for ListenerSpecs {
    type Err = BadListener;

    fn from_str(text: &str) -> Result<Self, BadListener> {
        let mut specs: Vec<ListenerSpec> = Vec::new();
        for part in text.split(',') {
            let spec = match as_option(part) {
                None => part.parse::<Address>()?.into(),
                Some((key, value)) => {
                    let before = specs.pop().ok_or_else(|| BadListener::NoAddress(part.to_owned()))?;
                    before.with(key, value)?
                }
            };
            specs.push(spec);
        }
        Ok(Self(specs))
    }
}

/// Key and value, if this is no address: those have a colon before any `=`.
fn as_option(part: &str) -> Option<(&str, &str)> {
    part.split_once('=').filter(|(key, _)| !key.contains(':'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Vec<String>, String> {
        let specs: Result<ListenerSpecs, _> = text.parse();
        specs.map(|specs| specs.0.iter().map(ToString::to_string).collect()).map_err(|error| error.to_string())
    }

    #[test]
    fn what_follows_an_address_belongs_to_it() {
        let cases: [(&str, &[&str]); 6] = [
            ("127.0.0.1:80", &["127.0.0.1:80"]),
            ("[::]:80,127.0.0.1:81", &["[::]:80", "127.0.0.1:81"]),
            ("a:1,policy=source-hash,b:2", &["a:1,policy=source-hash", "b:2"]),
            ("a:1,unix:/x=y,policy=round-robin", &["a:1", "unix:/x=y,policy=round-robin"]),
            ("a:1,proxy-protocol=off,b:2", &["a:1,proxy-protocol=off", "b:2"]),
            (
                "a:1,proxy-protocol=10.0.0.0/8,proxy-protocol=unix",
                &["a:1,proxy-protocol=10.0.0.0/8,proxy-protocol=unix"],
            ),
        ];
        for (text, specs) in cases {
            assert_eq!(read(text).unwrap(), specs);
        }
    }

    #[test]
    fn what_cannot_be_is_refused_with_its_reason() {
        let cases = [
            ("policy=source-hash", "before any address: write ADDR,policy=source-hash"),
            ("a:1,policy=fair", "no policy \"fair\": choose round-robin, least-connections, source-hash or shared"),
            ("a:1,policy=", "no policy \"\""),
            ("a:1,colour=red", "no option \"colour\""),
            ("a:1,policy=round-robin,policy=round-robin", "a:1 has policy twice"),
            ("a:1,proxy-protocol=me", "\"me\" is no proxy"),
            ("a:1,proxy-protocol=off,proxy-protocol=::1", "a:1 has proxy-protocol twice"),
            ("a:1,", "\"\" is not an address"),
            ("a:1,source-hash", "\"source-hash\" is not an address"),
        ];
        for (text, reason) in cases {
            let error = read(text).unwrap_err();
            assert!(error.contains(reason), "{text}: {error}");
        }
    }
}
