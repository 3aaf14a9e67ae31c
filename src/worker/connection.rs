//! A connection as the worker has it: an ordinary socket, and a guard that keeps the account.

use std::io::{self, IoSlice, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use mio::unix::SourceFd;
use mio::{Interest, Registry, Token, event};
use nix::fcntl::{FcntlArg, OFlag, fcntl};

use super::lane::Lane;
use crate::protocol::record::Record;

/// A client's connection. This process owns it; the primary has no copy of it any more.
///
/// Dropping it closes it and counts it closed, which may make room for the next one. From
/// [`Listener::accept`](super::Listener::accept) it blocks, from
/// [`Listener::try_accept`](super::Listener::try_accept) it does not.
#[derive(Debug)]
pub struct Connection {
    // Before the guard: it must be closed when it is counted closed.
    stream: Stream,
    origin: Origin,
}

/// Where a connection came from, and what it is accounted to.
#[derive(Debug)]
pub(super) struct Origin {
    pub(super) guard: CountGuard,
    pub(super) peer: Option<SocketAddr>,
    record: Option<Record>,
}

/// A connection could not be given back; it is still here, and still served by this worker if nobody drops it.
#[derive(Debug)]
pub struct NotGivenBack<C = Connection> {
    /// The connection.
    pub connection: C,
    /// Why.
    pub error: io::Error,
}

/// The socket of a connection.
#[derive(Debug)]
pub enum Stream {
    /// From a TCP listener.
    Tcp(TcpStream),
    /// From a Unix listener.
    Unix(UnixStream),
}

/// Counts a connection closed when it is dropped. Keep it as long as the connection: the primary holds back new
/// connections from a worker by this account.
#[derive(Debug)]
#[must_use = "dropping the guard counts the connection closed"]
pub struct CountGuard {
    lane: Option<Arc<Lane>>,
}

impl Connection {
    /// A connection that was dealt through `lane`.
    pub(super) fn dealt(stream: Stream, record: Record, lane: Arc<Lane>) -> Self {
        let guard = CountGuard { lane: Some(lane) };
        Self { stream, origin: Origin { guard, peer: record.peer, record: Some(record) } }
    }

    /// A connection that this process accepted from the socket of a shared lane.
    pub(super) fn shared(stream: Stream, peer: Option<SocketAddr>, lane: Arc<Lane>) -> Self {
        lane.count_accepted();
        Self { stream, origin: Origin { guard: CountGuard { lane: Some(lane) }, peer, record: None } }
    }

    /// A connection that this process accepted itself.
    pub(super) fn accepted(stream: Stream, peer: Option<SocketAddr>) -> Self {
        Self { stream, origin: Origin { guard: CountGuard { lane: None }, peer, record: None } }
    }

    /// Its PROXY header was taken off, by this worker or by one that gave it back.
    pub(super) fn proxy_is_consumed(&self) -> bool {
        self.origin.record.is_some_and(|record| record.proxy_consumed)
    }

    /// Its PROXY header was taken off, and said that it is from `source`.
    pub(super) fn consume_proxy(&mut self, source: Option<SocketAddr>) {
        self.origin.peer = source.or(self.origin.peer);
        if let Some(record) = &mut self.origin.record {
            *record = Record { proxy_consumed: true, peer: self.origin.peer, ..*record };
        }
    }

    /// Returns the live connection to the primary, which deals it to another worker as if it were new: the same peer
    /// address, and whatever the client has sent and this process has not read. It comes back here at once if no other
    /// worker listens, and after a second if none of them has had room for it.
    ///
    /// Only at a message boundary, with nothing of it in buffers of this process, and nothing remembered that its
    /// next message needs; never a connection with TLS, or one that was upgraded. Deregister it from mio or epoll
    /// first: the primary holds the same socket, so that closing it here would not.
    ///
    /// # Errors
    /// [`NotGivenBack`] has the connection: `WouldBlock` and `ETOOMANYREFS` pass, try again later; `EPIPE`,
    /// `ECONNRESET` if the primary has gone; `Unsupported` if no primary dealt it.
    pub fn give_back(self) -> Result<(), NotGivenBack> {
        match self.send_back() {
            Ok(()) => Ok(()),
            Err(error) => Err(NotGivenBack { connection: self, error }),
        }
    }

    /// Sends it to the primary. After success it must be deregistered and dropped.
    pub(super) fn send_back(&self) -> io::Result<()> {
        self.origin.send_back(self.as_fd())
    }

    /// The client's address: the one that a PROXY header named, if the primary has `--proxy-protocol`, otherwise as it
    /// was when the connection was accepted; `None` for a Unix client. Unlike getpeername(2) it is there even if the
    /// client has already gone.
    pub fn peer_addr(&self) -> Option<SocketAddr> {
        self.origin.peer
    }

    /// Whether reads and writes return `WouldBlock` instead of sleeping.
    ///
    /// # Errors
    /// Those of fcntl(2); none is expected.
    pub fn set_nonblocking(&self, nonblocking: bool) -> io::Result<()> {
        self.stream.set_nonblocking(nonblocking)
    }

    /// Shuts down one or both directions.
    ///
    /// # Errors
    /// `NotConnected` if the client has gone.
    pub fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        match &self.stream {
            Stream::Tcp(stream) => stream.shutdown(how),
            Stream::Unix(stream) => stream.shutdown(how),
        }
    }

    /// The socket, and the guard that must live as long as it is open.
    pub fn into_parts(self) -> (Stream, CountGuard) {
        (self.stream, self.origin.guard)
    }

    #[cfg(feature = "tokio")]
    pub(super) fn into_stream_and_origin(self) -> (Stream, Origin) {
        (self.stream, self.origin)
    }
}

impl Origin {
    /// Not accepted by this process itself.
    #[cfg(feature = "axum")]
    pub(super) fn was_dealt(&self) -> bool {
        self.record.is_some()
    }

    /// Sends `socket`, the one that came from there, to the primary.
    pub(super) fn send_back(&self, socket: BorrowedFd<'_>) -> io::Result<()> {
        let (Some(lane), Some(record)) = (&self.guard.lane, &self.record) else {
            return Err(io::ErrorKind::Unsupported.into());
        };
        let flags = OFlag::from_bits_retain(fcntl(socket, FcntlArg::F_GETFL)?);
        // The mode lives on the connection, and whoever gets it next expects it like a new one.
        fcntl(socket, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
        lane.give_back(record, socket).inspect_err(|_| {
            // None is expected: it was set a moment ago.
            let _ = fcntl(socket, FcntlArg::F_SETFL(flags));
        })
    }
}

impl Stream {
    /// As [`Connection::set_nonblocking`].
    ///
    /// # Errors
    /// Those of fcntl(2); none is expected.
    pub fn set_nonblocking(&self, nonblocking: bool) -> io::Result<()> {
        match self {
            Stream::Tcp(stream) => stream.set_nonblocking(nonblocking),
            Stream::Unix(stream) => stream.set_nonblocking(nonblocking),
        }
    }
}

impl Drop for CountGuard {
    fn drop(&mut self) {
        if let Some(lane) = &self.lane {
            lane.count_closed();
        }
    }
}

impl Read for &Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Stream::Tcp(stream) => (&mut &*stream).read(buffer),
            Stream::Unix(stream) => (&mut &*stream).read(buffer),
        }
    }
}

impl Write for &Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Stream::Tcp(stream) => (&mut &*stream).write(bytes),
            Stream::Unix(stream) => (&mut &*stream).write(bytes),
        }
    }

    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        match self {
            Stream::Tcp(stream) => (&mut &*stream).write_vectored(slices),
            Stream::Unix(stream) => (&mut &*stream).write_vectored(slices),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Read for &Connection {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        (&self.stream).read(buffer)
    }
}

impl Write for &Connection {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        (&self.stream).write(bytes)
    }

    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        (&self.stream).write_vectored(slices)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Read for Connection {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        (&*self).read(buffer)
    }
}

impl Write for Connection {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        (&*self).write(bytes)
    }

    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        (&*self).write_vectored(slices)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Stream::Tcp(stream) => stream.as_fd(),
            Stream::Unix(stream) => stream.as_fd(),
        }
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

impl AsRawFd for Connection {
    fn as_raw_fd(&self) -> RawFd {
        self.stream.as_fd().as_raw_fd()
    }
}

impl From<Stream> for OwnedFd {
    fn from(stream: Stream) -> OwnedFd {
        match stream {
            Stream::Tcp(stream) => stream.into(),
            Stream::Unix(stream) => stream.into(),
        }
    }
}

/// For use with mio: only for a connection in non-blocking mode.
impl event::Source for Connection {
    fn register(&mut self, registry: &Registry, token: Token, interests: Interest) -> io::Result<()> {
        SourceFd(&self.as_raw_fd()).register(registry, token, interests)
    }

    fn reregister(&mut self, registry: &Registry, token: Token, interests: Interest) -> io::Result<()> {
        SourceFd(&self.as_raw_fd()).reregister(registry, token, interests)
    }

    fn deregister(&mut self, registry: &Registry) -> io::Result<()> {
        SourceFd(&self.as_raw_fd()).deregister(registry)
    }
}
