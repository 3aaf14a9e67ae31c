//! UDP: one socket of the primary, shared by its workers. Every datagram is received once, by some worker; replies
//! leave from the shared port.

use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use mio::{Interest, Registry, Token, event};

use super::listener::{ListenOptions, Membership};
use super::membership::{Alone, Granted, Worker};
use super::readiness::{Fds, Registration, wait_readable};
use crate::sys::fd_passing;

/// A UDP socket: under a primary its own, shared with the other workers that ask for the address; alone this process's.
///
/// The socket itself does not block, whoever has it: [`recv_from`](Self::recv_from) waits by poll(2). Dropping it tells
/// the primary, which closes the socket after its last worker.
#[derive(Debug)]
pub struct UdpSocket {
    // Before the membership, which tells the primary that it is closed.
    socket: std::net::UdpSocket,
    membership: Option<Membership>,
    /// This process bound it itself although it has a primary: it ends when the primary says so.
    alone: Option<Alone>,
    /// Where it is registered: the description lives on in other processes, so close(2) alone would leave it there.
    registration: Registration,
}

impl UdpSocket {
    /// Binds `address` with the default options.
    ///
    /// # Errors
    /// As [`ListenOptions::bind_udp`].
    pub fn bind(address: &str) -> io::Result<Self> {
        ListenOptions::new().bind_udp(address)
    }

    /// Sleeps until there is a datagram, and receives it. `None`: the primary has ended it.
    ///
    /// # Errors
    /// Those of recvfrom(2).
    pub fn recv_from(&self, buffer: &mut [u8]) -> io::Result<Option<(usize, SocketAddr)>> {
        loop {
            match self.try_recv_from(buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.wait_readable()?,
                other => return other,
            }
        }
    }

    /// The datagram that waits, if one does. `None`: the primary has ended it.
    ///
    /// # Errors
    /// `WouldBlock` when none waits, also after an event: another worker was faster. Those of recvfrom(2).
    pub fn try_recv_from(&self, buffer: &mut [u8]) -> io::Result<Option<(usize, SocketAddr)>> {
        if self.membership.as_ref().is_some_and(|membership| membership.lane.has_ended()) {
            return Ok(None);
        }
        match self.socket.recv_from(buffer) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && self.is_to_end() => Ok(None),
            other => other.map(Some),
        }
    }

    /// Sends a datagram from the shared port.
    ///
    /// # Errors
    /// Those of sendto(2); `WouldBlock` if the socket's buffer is full.
    pub fn send_to(&self, datagram: &[u8], to: impl ToSocketAddrs) -> io::Result<usize> {
        self.socket.send_to(datagram, to)
    }

    /// Tells the primary that this worker wants no more datagrams: every thread that waits gets the end. The address is
    /// free once it is dropped too. Without a primary it does nothing: drop the socket.
    pub fn close(&self) {
        if let Some(membership) = &self.membership {
            membership.close();
        }
    }

    /// The address with the real port.
    ///
    /// # Errors
    /// Those of getsockname(2).
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    /// What becomes readable when the primary ends it; `None` if there is none.
    pub fn end_fd(&self) -> Option<BorrowedFd<'_>> {
        let own = self.alone.as_ref().map(Alone::end_fd);
        self.membership.as_ref().map(|membership| membership.lane.as_fd()).or(own)
    }

    fn is_to_end(&self) -> bool {
        self.alone.as_ref().is_some_and(Alone::is_to_end)
    }

    fn wait_readable(&self) -> io::Result<()> {
        wait_readable(std::iter::once(self.as_fd()).chain(self.end_fd()))
    }

    fn fds(&self) -> Fds {
        [Some(self.as_fd().as_raw_fd()), self.end_fd().map(|fd| fd.as_raw_fd())]
    }
}

impl Worker {
    /// Binds a UDP socket through the primary. As [`ListenOptions::bind_udp`] with the default options.
    ///
    /// # Errors
    /// As there.
    pub fn bind_udp(&self, address: &str) -> io::Result<UdpSocket> {
        self.bind_udp_with(address, &ListenOptions::new())
    }

    fn bind_udp_with(&self, address: &str, options: &ListenOptions) -> io::Result<UdpSocket> {
        let Granted { lane, address, socket, .. } = self.ask_for(options.udp_wish(address))?;
        let ended = || io::Error::new(io::ErrorKind::ConnectionAborted, "the primary ends its listeners");
        let socket = std::net::UdpSocket::from(socket.ok_or_else(ended)?);
        let membership = Some(Membership { lane, worker: self.clone(), address });
        Ok(UdpSocket { socket, membership, alone: None, registration: Registration::default() })
    }
}

impl ListenOptions {
    /// Binds a UDP socket at `HOST:PORT`, or `fd:N`, one that the primary inherited and declares, or, alone, this
    /// process. `exclusive`, `reuse_port`, `reuse_address` and `ipv6_only` count; an exclusive one is this process's
    /// own.
    ///
    /// # Errors
    /// As [`bind`](Self::bind).
    pub fn bind_udp(&self, address: &str) -> io::Result<UdpSocket> {
        match Worker::from_env()? {
            Some(worker) if self.is_own() => {
                let mut socket = self.bind_udp_here(address)?;
                socket.alone = Some(Alone::under(worker.clone())?);
                worker.say_listening_alone(socket.local_addr()?.to_string())?;
                Ok(socket)
            }
            Some(worker) => worker.bind_udp_with(address, self),
            None => self.bind_udp_here(address),
        }
    }

    fn bind_udp_here(&self, address: &str) -> io::Result<UdpSocket> {
        let socket = match address.strip_prefix("fd:") {
            Some(number) => fd_passing::adopt_fd(number.parse().map_err(|_| io::ErrorKind::InvalidInput)?)?.into(),
            None => self.bind_udp_socket(address)?,
        };
        socket.set_nonblocking(true)?;
        Ok(UdpSocket { socket, membership: None, alone: None, registration: Registration::default() })
    }
}

impl AsFd for UdpSocket {
    /// Readable when a datagram waits, which another worker may receive first. The end shows in
    /// [`end_fd`](Self::end_fd).
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Edge-triggered like everything in mio: after an event receive with [`UdpSocket::try_recv_from`] until `WouldBlock`,
/// or the end. Dropping it deregisters it.
impl event::Source for UdpSocket {
    fn register(&mut self, registry: &Registry, token: Token, interests: Interest) -> io::Result<()> {
        let fds = self.fds();
        self.registration.register(fds, registry, token, interests)
    }

    fn reregister(&mut self, registry: &Registry, token: Token, interests: Interest) -> io::Result<()> {
        Registration::reregister(self.fds(), registry, token, interests)
    }

    fn deregister(&mut self, registry: &Registry) -> io::Result<()> {
        let fds = self.fds();
        self.registration.deregister(fds, registry)
    }
}

impl Drop for UdpSocket {
    fn drop(&mut self) {
        let fds = self.fds();
        self.registration.end(fds);
    }
}
