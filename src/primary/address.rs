//! Where a listener listens, as people write it.

use std::fmt;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// An address of `--listen`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// `HOST:PORT` or `[IPV6]:PORT`. The host is kept as written until it is bound.
    Tcp {
        /// A name or an IP address, without brackets.
        host: String,
        /// 0: the kernel chooses.
        port: u16,
    },
    /// `unix:PATH`.
    Unix(PathBuf),
}

/// A text that is no address. Its message says what one looks like.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not an address: {why}; write HOST:PORT, [IPV6]:PORT or unix:PATH")]
pub struct BadAddress {
    text: String,
    why: &'static str,
}

/// The longest path that fits into `sockaddr_un`, with its final zero. Source: unix(7).
const UNIX_PATH_MAX_BYTES: usize = 107;

impl FromStr for Address {
    type Err = BadAddress;

    fn from_str(text: &str) -> Result<Self, BadAddress> {
        let bad = |why| BadAddress { text: text.to_owned(), why };
        if let Some(path) = text.strip_prefix("unix:") {
            return match path.len() {
                0 => Err(bad("the path is empty")),
                1..=UNIX_PATH_MAX_BYTES => Ok(Address::Unix(path.into())),
                _ => Err(bad("the path is longer than 107 bytes")),
            };
        }
        let (host, port) = text.rsplit_once(':').ok_or_else(|| bad("there is no port"))?;
        let port = port.parse().map_err(|_| bad("the port is not a number from 0 to 65535"))?;
        let host = match host.strip_prefix('[').map(|rest| rest.strip_suffix(']')) {
            Some(Some(inside)) if inside.parse::<std::net::Ipv6Addr>().is_ok() => inside,
            Some(_) => return Err(bad("there is no IPv6 address between the brackets")),
            None if host.contains(':') => return Err(bad("an IPv6 address stands in brackets")),
            None if host.is_empty() => return Err(bad("the host is missing (0.0.0.0 is every IPv4 address)")),
            None => host,
        };
        Ok(Address::Tcp { host: host.to_owned(), port })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Tcp { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Address::Tcp { host, port } => write!(f, "{host}:{port}"),
            Address::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl Address {
    /// The first socket address that the host stands for.
    ///
    /// # Errors
    /// Those of getaddrinfo(3): an unknown host.
    pub fn resolve(host: &str, port: u16) -> io::Result<SocketAddr> {
        let no_address = || io::Error::new(io::ErrorKind::NotFound, "the host has no address");
        (host, port).to_socket_addrs()?.next().ok_or_else(no_address)
    }

    /// The path, if it has one.
    pub fn path(&self) -> Option<&Path> {
        match self {
            Address::Unix(path) => Some(path),
            Address::Tcp { .. } => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_and_written_alike() {
        for text in ["127.0.0.1:8000", "localhost:0", "[::]:80", "[::1]:65535", "unix:/run/app.sock"] {
            assert_eq!(text.parse::<Address>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn every_wrong_address_is_refused_with_its_reason() {
        let long = format!("unix:/{}", "x".repeat(107));
        let cases = [
            ("8000", "no port"),
            ("127.0.0.1:http", "port is not a number"),
            ("127.0.0.1:65536", "port is not a number"),
            (":8000", "host is missing"),
            ("::1:8000", "brackets"),
            ("[::1:8000", "brackets"),
            ("[localhost]:1", "brackets"),
            ("unix:", "path is empty"),
            (&long, "longer than 107"),
        ];
        for (text, reason) in cases {
            let error = text.parse::<Address>().unwrap_err().to_string();
            assert!(error.contains(reason), "{error}");
        }
    }
}
