//! Whose PROXY headers are believed. Pure.
//!
//! A PROXY header says whom a connection is from: whoever may send one can be anybody. So there is none without a list
//! of those who may.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// The word for clients of Unix sockets.
const UNIX: &str = "unix";

/// Networks, and whether clients of Unix sockets are in it; never empty. Written `10.0.0.0/8,2001:db8::7,unix`, in
/// messages as a list of such texts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Vec<String>", into = "Vec<String>")]
pub struct AllowList {
    networks: Vec<IpNet>,
    unix: bool,
}

/// A text that names no proxies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadAllowList(String);

impl AllowList {
    /// Whether `peer` is among them; `None` is a client of a Unix socket. An IPv4 client of an IPv6 listener is in the
    /// networks of its IPv4 address.
    pub fn allows(&self, peer: Option<SocketAddr>) -> bool {
        let Some(ip) = peer.map(|peer| peer.ip()) else { return self.unix };
        self.networks.iter().any(|network| network.contains(&ip) || network.contains(&ip.to_canonical()))
    }

    /// Those of both.
    pub fn and(mut self, others: Self) -> Self {
        self.networks.extend(others.networks);
        self.unix |= others.unix;
        self
    }

    /// Each of them as it is written.
    pub fn names(&self) -> impl Iterator<Item = String> {
        self.networks.iter().map(IpNet::to_string).chain(self.unix.then(|| UNIX.to_owned()))
    }

    fn of<'a>(names: impl Iterator<Item = &'a str>) -> Result<Self, BadAllowList> {
        let mut list = Self { networks: Vec::new(), unix: false };
        for name in names.map(str::trim) {
            match name {
                UNIX => list.unix = true,
                network => list.networks.push(network_of(network).ok_or_else(|| BadAllowList(network.to_owned()))?),
            }
        }
        match list.unix || !list.networks.is_empty() {
            true => Ok(list),
            false => Err(BadAllowList(String::new())),
        }
    }
}

/// An address alone is a network of one.
fn network_of(text: &str) -> Option<IpNet> {
    let of_one = || text.parse::<IpAddr>().map(IpNet::from);
    text.parse().or_else(|_| of_one()).ok()
}

impl fmt::Display for AllowList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.names().collect::<Vec<_>>().join(","))
    }
}

impl FromStr for AllowList {
    type Err = BadAllowList;

    fn from_str(text: &str) -> Result<Self, BadAllowList> {
        Self::of(text.split(','))
    }
}

impl TryFrom<Vec<String>> for AllowList {
    type Error = BadAllowList;

    fn try_from(names: Vec<String>) -> Result<Self, BadAllowList> {
        Self::of(names.iter().map(String::as_str))
    }
}

impl From<AllowList> for Vec<String> {
    fn from(list: AllowList) -> Self {
        list.names().collect()
    }
}

impl fmt::Display for BadAllowList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} is no proxy: write networks, addresses or unix, like 10.0.0.0/8,::1,unix", self.0)
    }
}

impl std::error::Error for BadAllowList {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_knows_its_own() {
        let list: AllowList = "10.0.0.0/8, 2001:db8::/32,192.0.2.7,unix".parse().unwrap();
        for (peer, is_allowed) in [
            ("10.255.0.1:1", true),
            ("11.0.0.1:1", false),
            ("192.0.2.7:1", true),
            ("192.0.2.8:1", false),
            ("[2001:db8:1::]:1", true),
            ("[2001:db9::]:1", false),
            ("[::ffff:10.0.0.1]:1", true),
            ("[::ffff:11.0.0.1]:1", false),
        ] {
            assert_eq!(list.allows(Some(peer.parse().unwrap())), is_allowed, "{peer}");
        }
        assert!(list.allows(None));
        assert!(!"0.0.0.0/0,::/0".parse::<AllowList>().unwrap().allows(None));
        assert!("::ffff:0:0/96".parse::<AllowList>().unwrap().allows(Some("[::ffff:11.0.0.1]:1".parse().unwrap())));
    }

    #[test]
    fn it_is_written_as_it_is_read() {
        let text = "10.0.0.0/8,2001:db8::/32,192.0.2.7/32,unix";
        let list: AllowList = text.parse().unwrap();
        assert_eq!(list.to_string(), text);
        let json = serde_json::to_string(&list).unwrap();
        assert_eq!(json, r#"["10.0.0.0/8","2001:db8::/32","192.0.2.7/32","unix"]"#);
        assert_eq!(serde_json::from_str::<AllowList>(&json).unwrap(), list);
    }

    #[test]
    fn what_names_nobody_is_refused() {
        for text in ["", ",", "10.0.0.0/33", "10.0.0/8", "proxy.example", "unix,", "Unix", "10.0.0.0/8;::1"] {
            assert!(text.parse::<AllowList>().is_err(), "{text}");
        }
        assert!(serde_json::from_str::<AllowList>("[]").is_err());
    }
}
