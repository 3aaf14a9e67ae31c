//! Where a listener listens, as people write it.

use std::fmt;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::os::fd::RawFd;
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
    /// `fd:N`: a listening socket that the primary inherited under that number.
    Fd(RawFd),
    /// `systemd:NAME`: a listening socket that systemd passed under that name; the next one of that name if it is
    /// declared again. Source: sd_listen_fds(3).
    Systemd(String),
}

/// How much of a text that is no address is repeated to people.
const SHOWN_MAX: usize = 100;

/// A text that is no address. Its message says what one looks like.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not an address: {why}; write HOST:PORT, [IPV6]:PORT, unix:PATH, fd:N or systemd:NAME")]
pub struct BadAddress {
    text: String,
    why: &'static str,
}

impl FromStr for Address {
    type Err = BadAddress;

    fn from_str(text: &str) -> Result<Self, BadAddress> {
        let bad = |why| BadAddress { text: text.chars().take(SHOWN_MAX).collect(), why };
        // It stands in log lines, and workers send them too.
        if text.contains(char::is_control) {
            return Err(bad("there is a control character in it"));
        }
        if let Some(path) = text.strip_prefix("unix:") {
            return if path.is_empty() { Err(bad("the path is empty")) } else { Ok(Address::Unix(path.into())) };
        }
        if let Some(number) = text.strip_prefix("fd:") {
            let number = number.parse().ok().filter(|fd| *fd > 2);
            return number.map(Address::Fd).ok_or_else(|| bad("the descriptor is not a number from 3 upwards"));
        }
        if let Some(name) = text.strip_prefix("systemd:") {
            return if name.is_empty() { Err(bad("the name is empty")) } else { Ok(Address::Systemd(name.into())) };
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
            Address::Fd(number) => write!(f, "fd:{number}"),
            Address::Systemd(name) => write!(f, "systemd:{name}"),
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
            Address::Tcp { .. } | Address::Fd(_) | Address::Systemd(_) => None,
        }
    }

    /// The socket address, if it is written as one: the host is an IP address.
    pub fn socket_addr(&self) -> Option<SocketAddr> {
        match self {
            Address::Tcp { host, port } => Some(SocketAddr::new(host.parse().ok()?, *port)),
            Address::Unix(_) | Address::Fd(_) | Address::Systemd(_) => None,
        }
    }

    /// Whether both are written for the same place: two ways to write an IP address, a relative and an absolute path.
    pub fn is_same_place(&self, other: &Address) -> bool {
        match (self, other) {
            (Address::Tcp { .. }, Address::Tcp { .. }) => {
                let (ours, theirs) = (self.socket_addr(), other.socket_addr());
                self == other || ours.is_some() && ours == theirs
            }
            (Address::Unix(ours), Address::Unix(theirs)) => {
                ours == theirs || absolute(ours).is_some_and(|path| absolute(theirs) == Some(path))
            }
            _ => self == other,
        }
    }
}

impl From<SocketAddr> for Address {
    fn from(address: SocketAddr) -> Self {
        Address::Tcp { host: address.ip().to_string(), port: address.port() }
    }
}

fn absolute(path: &Path) -> Option<PathBuf> {
    std::path::absolute(path).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_and_written_alike() {
        let texts =
            ["127.0.0.1:8000", "localhost:0", "[::]:80", "[::1]:65535", "unix:/run/app.sock", "fd:3", "systemd:web"];
        for text in texts {
            assert_eq!(text.parse::<Address>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn a_place_has_many_names() {
        let same = |one: &str, other: &str| one.parse::<Address>().unwrap().is_same_place(&other.parse().unwrap());
        assert!(same("[::1]:80", "[0:0::1]:80") && same("unix:app", &format!("unix:{}", absolute("app"))));
        assert!(!same("127.0.0.1:80", "127.0.0.1:81") && !same("127.0.0.1:80", "unix:app") && !same("fd:3", "fd:4"));
    }

    fn absolute(path: &str) -> String {
        std::path::absolute(path).unwrap().display().to_string()
    }

    #[test]
    fn every_wrong_address_is_refused_with_its_reason() {
        let cases = [
            ("8000", "no port"),
            ("127.0.0.1:http", "port is not a number"),
            ("127.0.0.1:65536", "port is not a number"),
            (":8000", "host is missing"),
            ("::1:8000", "brackets"),
            ("[::1:8000", "brackets"),
            ("[localhost]:1", "brackets"),
            ("unix:", "path is empty"),
            ("fd:2", "number from 3"),
            ("fd:x", "number from 3"),
            ("systemd:", "name is empty"),
            ("vsock:2:80", "brackets"),
            ("[fe80::1%lo]:80", "brackets"),
            ("unix:/tmp/a\nERROR everything is lost", "control character"),
            ("systemd:\u{1b}[2J", "control character"),
            (&"x".repeat(100_000), "no port"),
        ];
        for (text, reason) in cases {
            let error = text.parse::<Address>().unwrap_err().to_string();
            assert!(error.contains(reason) && error.len() < 300 && !error.contains(char::is_control), "{error}");
        }
    }
}
