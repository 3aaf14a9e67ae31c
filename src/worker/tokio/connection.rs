//! A connection on tokio's reactor.

use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

use crate::worker::connection::Origin;
use crate::worker::{self, CountGuard, NotGivenBack};

/// A client's connection, as [`worker::Connection`]: this process owns it, and dropping it closes it and counts it
/// closed. Dropping and [`give_back`](Self::give_back) take it out of the reactor first, which matters: the primary
/// may hold the same socket.
#[derive(Debug)]
pub struct Connection {
    // Before the origin: it must be closed when it is counted closed.
    stream: Stream,
    origin: Origin,
}

/// The socket of a connection, registered with the reactor.
#[derive(Debug)]
pub enum Stream {
    /// From a TCP listener.
    Tcp(TcpStream),
    /// From a Unix listener.
    Unix(UnixStream),
}

impl Connection {
    /// Registers a connection that was accepted some other way with the reactor of the runtime that this is called in,
    /// and puts it into non-blocking mode.
    ///
    /// # Errors
    /// Those of epoll_ctl(2): `ENOSPC`, `ENOMEM`. The connection is closed then.
    ///
    /// # Panics
    /// Outside of a runtime, or in one without I/O, as everything of tokio does.
    pub fn new(connection: worker::Connection) -> io::Result<Self> {
        connection.set_nonblocking(true)?;
        let (stream, origin) = connection.into_stream_and_origin();
        let stream = match stream {
            worker::Stream::Tcp(stream) => Stream::Tcp(TcpStream::from_std(stream)?),
            worker::Stream::Unix(stream) => Stream::Unix(UnixStream::from_std(stream)?),
        };
        Ok(Self { stream, origin })
    }

    /// The client's address, as [`worker::Connection::peer_addr`].
    pub fn peer_addr(&self) -> Option<SocketAddr> {
        self.origin.peer
    }

    /// Returns the live connection to the primary, as [`worker::Connection::give_back`] with all its conditions: only
    /// at a message boundary, with nothing of it in buffers of this process. It does not wait.
    ///
    /// # Errors
    /// As there; [`NotGivenBack`] has the connection, still registered and usable.
    #[expect(clippy::result_large_err, reason = "the error is the connection itself")]
    pub fn give_back(self) -> Result<(), NotGivenBack<Self>> {
        match self.send_back() {
            // Dropping it deregisters it before it closes it.
            Ok(()) => Ok(()),
            Err(error) => Err(NotGivenBack { connection: self, error }),
        }
    }

    /// Whether it can be given back.
    #[cfg(feature = "axum")]
    pub(in crate::worker) fn was_dealt(&self) -> bool {
        self.origin.was_dealt()
    }

    /// Sends it to the primary. After success it must be dropped.
    pub(in crate::worker) fn send_back(&self) -> io::Result<()> {
        self.origin.send_back(self.as_fd())
    }

    /// The socket, and the guard that must live as long as it is open.
    pub fn into_parts(self) -> (Stream, CountGuard) {
        (self.stream, self.origin.guard)
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_read(context, buffer),
            Self::Unix(stream) => Pin::new(stream).poll_read(context, buffer),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write(context, bytes),
            Self::Unix(stream) => Pin::new(stream).poll_write(context, bytes),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write_vectored(context, slices),
            Self::Unix(stream) => Pin::new(stream).poll_write_vectored(context, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// Nothing is ever kept back: a write goes to the kernel.
    fn poll_flush(self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_shutdown(context),
            Self::Unix(stream) => Pin::new(stream).poll_shutdown(context),
        }
    }
}

impl AsyncRead for Connection {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(context)
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(stream) => stream.as_fd(),
            Self::Unix(stream) => stream.as_fd(),
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
        self.as_fd().as_raw_fd()
    }
}
