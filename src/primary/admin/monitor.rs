//! The monitor's listening socket: bound at the start, carried over an upgrade in place.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, OwnedFd};

use crate::primary::address::Address;
use crate::primary::reexec::CarriedMonitor;
use crate::primary::socket::{BindOptions, Socket, TcpOptions};

/// Clients that wait for a place among the connections. Above it the kernel drops their handshakes, and they try again.
const BACKLOG: u32 = 1024;

/// A monitor address that is bound and listens.
#[derive(Debug)]
pub struct MonitorSocket {
    /// As it was asked for.
    wanted: Address,
    /// With the real port.
    address: Address,
    listener: TcpListener,
}

impl MonitorSocket {
    /// Binds `wanted` and listens.
    ///
    /// # Errors
    /// Those of getaddrinfo(3), socket(2), bind(2) and listen(2); `InvalidInput` if the address is not one of TCP.
    pub fn bind(wanted: &Address) -> io::Result<Self> {
        let tcp = TcpOptions { nodelay: true, ..TcpOptions::default() };
        let options = BindOptions { backlog: BACKLOG, ipv6_only: false, unix_mode: None, tcp };
        match Socket::bind(wanted, &options)? {
            (Socket::Tcp(listener), address) => {
                Ok(Self { wanted: wanted.clone(), address, listener: OwnedFd::from(listener).into() })
            }
            (Socket::Unix(..) | Socket::Udp(_), _) => Err(io::ErrorKind::InvalidInput.into()),
        }
    }

    /// Goes on with one that came over an exec.
    ///
    /// # Errors
    /// Those of fcntl(2) and getsockname(2); none is expected.
    pub fn restore(carried: CarriedMonitor) -> io::Result<Self> {
        let listener = TcpListener::from(carried.socket);
        listener.set_nonblocking(true)?;
        Ok(Self { wanted: carried.wanted, address: listener.local_addr()?.into(), listener })
    }

    /// Another handle on it, for the next image.
    ///
    /// # Errors
    /// `EMFILE`.
    pub fn carried(&self) -> io::Result<CarriedMonitor> {
        Ok(CarriedMonitor { socket: self.listener.as_fd().try_clone_to_owned()?, wanted: self.wanted.clone() })
    }

    /// Where it listens, with the real port.
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// Only this machine can connect.
    pub fn is_loopback(&self) -> bool {
        self.address.socket_addr().is_some_and(|address: SocketAddr| address.ip().is_loopback())
    }

    /// The host as it was asked for.
    pub(super) fn host(&self) -> Option<&str> {
        match &self.wanted {
            Address::Tcp { host, .. } => Some(host),
            Address::Unix(_) | Address::Fd(_) | Address::Systemd(_) => None,
        }
    }

    /// The listening socket, non-blocking.
    pub(super) fn into_listener(self) -> TcpListener {
        self.listener
    }
}
