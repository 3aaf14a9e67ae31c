//! What is said of a listener before it is bound: its address, and what is special about it. Pure.
//!
//! Written `ADDR[,KEY=VALUE]...`; several of them in a row are separated by commas too, and every `KEY=VALUE` belongs
//! to the address before it: `127.0.0.1:80,policy=source-hash,unix:/run/app.sock` are two. A key is a word, so a path
//! may contain `=`, but no comma.

use std::fmt;
use std::str::FromStr;

use super::address::{Address, BadAddress};
use super::policy::{PolicyKind, UnknownPolicy};

/// A listener to be bound.
#[derive(Debug, Clone)]
pub struct ListenerSpec {
    /// Where.
    pub address: Address,
    /// Who gets its connections; `None`: as [`Settings::policy`](super::settings::Settings::policy) says.
    pub policy: Option<PolicyKind>,
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
    /// `KEY=VALUE` without an address to belong to.
    #[error("{0:?} stands before any address: write ADDR,{0}")]
    NoAddress(String),
    /// A key that means nothing.
    #[error("listeners have no option {0:?}: the only one is policy=NAME")]
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
            _ => Err(BadListener::UnknownKey(key.to_owned())),
        }
    }
}

impl From<Address> for ListenerSpec {
    /// With nothing special about it.
    fn from(address: Address) -> Self {
        Self { address, policy: None }
    }
}

impl fmt::Display for ListenerSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.address.fmt(f)?;
        self.policy.iter().try_for_each(|policy| write!(f, ",policy={policy}"))
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
        let cases: [(&str, &[&str]); 4] = [
            ("127.0.0.1:80", &["127.0.0.1:80"]),
            ("[::]:80,127.0.0.1:81", &["[::]:80", "127.0.0.1:81"]),
            ("a:1,policy=source-hash,b:2", &["a:1,policy=source-hash", "b:2"]),
            ("a:1,unix:/x=y,policy=round-robin", &["a:1", "unix:/x=y,policy=round-robin"]),
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
            ("a:1,", "\"\" is not an address"),
            ("a:1,source-hash", "\"source-hash\" is not an address"),
        ];
        for (text, reason) in cases {
            let error = read(text).unwrap_err();
            assert!(error.contains(reason), "{text}: {error}");
        }
    }
}
