//! The listener under `axum::serve` (feature `axum`).
//!
//! ```no_run
//! use axum::Router;
//! use axum::routing::get;
//! use croupier::worker::tokio::Listener;
//!
//! #[tokio::main]
//! async fn main() -> std::io::Result<()> {
//!     let listener = Listener::bind("127.0.0.1:8000").await?;
//!     let ended = listener.ended();
//!     let app = Router::new().route("/", get(|| async { "hello\n" }));
//!     axum::serve(listener, app).with_graceful_shutdown(ended).await
//! }
//! ```
//!
//! Give `axum::serve` [`Listener::ended`] as its signal, not [`Listener::drained`]: at the signal axum stops accepting
//! at once, and when the whole cluster ends, clients from the backlog are still dealt after the order to drain. Without
//! any signal the server never returns, and the primary has to end it after `--shutdown-timeout`.
//!
//! # What becomes of connections when the worker drains
//! - **A request in progress** is answered, with `connection: close`.
//! - **A connection without any byte yet** gets [`FRESH_GRACE`] for its first request. If none comes it is given back
//!   to the primary, and its client notices nothing; if there is no other worker it ends.
//! - **An idle keep-alive connection** is closed by hyper at the signal: it is not given back, because only hyper knows
//!   where its messages end. The client sees a FIN. If its next request is already on the way it sees a reset, or the
//!   end without an answer. That can happen with every HTTP/1.1 server that closes idle connections, and clients are to
//!   repeat such a request on a new connection (RFC 9112, 9.3.1 and 9.5); browsers and most libraries do, for methods
//!   that are safe to repeat. The library's own [`event_loop`](super::event_loop) has no such moment: it gives idle
//!   connections back. Until the signal they stay, and count against `--connections-max`.
//! - **An upgraded connection** (WebSocket) is the program's affair: axum does not wait for it.
//!
//! # Idle connections before that
//! `axum::serve` knows no timeout, so under it `--idle-timeout` has no effect. hyper, which it is made of, has one for
//! the time until the next head is there as a whole. It ends idle connections, never a request in progress, and, other
//! than the library's own event loop, clients that are slow with a head:
//!
//! ```no_run
//! use std::pin::pin;
//!
//! use axum::Router;
//! use axum::routing::get;
//! use croupier::worker::Worker;
//! use croupier::worker::tokio::{Connection, Listener};
//! use hyper::server::conn::http1;
//! use hyper_util::rt::{TokioIo, TokioTimer};
//! use hyper_util::service::TowerToHyperService;
//! use tokio::task::JoinSet;
//!
//! #[tokio::main]
//! async fn main() -> std::io::Result<()> {
//!     let listener = Listener::bind("127.0.0.1:8000").await?;
//!     let mut http = http1::Builder::new();
//!     if let Some(timeout) = Worker::from_env()?.and_then(|worker| worker.idle_timeout()) {
//!         http.timer(TokioTimer::new()).header_read_timeout(timeout);
//!     }
//!     let app = Router::new().route("/", get(|| async { "hello\n" }));
//!     let mut serving = JoinSet::new();
//!     while let Some(connection) = listener.accept().await? {
//!         serving.spawn(serve(http.clone(), app.clone(), connection, listener.ended()));
//!         while serving.try_join_next().is_some() {} // forget those that have ended
//!     }
//!     while serving.join_next().await.is_some() {}
//!     Ok(())
//! }
//!
//! async fn serve(http: http1::Builder, app: Router, connection: Connection, ended: impl Future<Output = ()>) {
//!     let mut serving = pin!(http.serve_connection(TokioIo::new(connection), TowerToHyperService::new(app)));
//!     tokio::select! {
//!         _ = &mut serving => return, // a client that goes away is its own affair
//!         () = ended => serving.as_mut().graceful_shutdown(),
//!     }
//!     let _ = serving.await;
//! }
//! ```
//!
//! # The client's address
//! Serve with `app.into_make_service_with_connect_info::<Address>()` and extract
//! `ConnectInfo<Address>`.

use std::future::pending;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::extract::connect_info::Connected;
use axum::serve::IncomingStream;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::watch;
use tokio::time;

use super::event_loop::FRESH_GRACE;
use super::tokio::{Connection, Listener};
use super::{Drain, Worker};
use crate::protocol::control::IdleRule;

/// How long to wait before accepting again when this process lacks something for it, as axum's own listeners do.
const ACCEPT_AGAIN: Duration = Duration::from_secs(1);

/// The address of one end of a connection; `None` on a Unix socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Address(pub Option<SocketAddr>);

/// A connection that axum serves. One on which nothing was ever read or written is given back to the primary if it
/// is dropped while this worker drains.
#[derive(Debug)]
pub struct Io {
    connection: Connection,
    /// Until the first byte.
    fresh: Option<Fresh>,
}

#[derive(Debug)]
struct Fresh {
    /// `None` if no primary dealt it: then it cannot be given back.
    worker: Option<Worker>,
    /// The listener waits until all of these are dropped.
    _waited_for: watch::Receiver<()>,
}

/// After the end it is pending for ever: axum knows no end of a listener, only the signal.
impl axum::serve::Listener for Listener {
    type Io = Io;
    type Addr = Address;

    async fn accept(&mut self) -> (Io, Address) {
        loop {
            match self.take().await {
                Ok(Some(connection)) => {
                    let address = Address(connection.peer_addr());
                    let worker = self.get_ref().worker().filter(|_| connection.was_dealt()).cloned();
                    let fresh = Fresh { worker, _waited_for: self.fresh.subscribe() };
                    return (Io { connection, fresh: Some(fresh) }, address);
                }
                Ok(None) => {
                    // At the signal hyper closes what it has not read from, also if a request is there to be read.
                    let _ = time::timeout(FRESH_GRACE, self.fresh.closed()).await;
                    self.say_ended();
                    return pending().await;
                }
                Err(error) if concerns_the_client(&error) => {}
                Err(error) => {
                    log::error!("accept: {error} [again in {} s]", ACCEPT_AGAIN.as_secs());
                    time::sleep(ACCEPT_AGAIN).await;
                }
            }
        }
    }

    fn local_addr(&self) -> io::Result<Address> {
        Ok(Address(self.get_ref().address().parse().ok()))
    }
}

impl Connected<IncomingStream<'_, Listener>> for Address {
    fn connect_info(stream: IncomingStream<'_, Listener>) -> Self {
        *stream.remote_addr()
    }
}

/// Those of one client that went away before it was accepted. Source: accept(2).
fn concerns_the_client(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}

impl Fresh {
    fn is_another_workers(&self) -> bool {
        self.worker.as_ref().and_then(Worker::drain) == Some(Drain::Ordered(IdleRule::GiveBack))
    }
}

/// For socket options.
impl AsFd for Io {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.connection.as_fd()
    }
}

impl AsyncRead for Io {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let read = Pin::new(&mut self.connection).poll_read(context, buffer);
        if read.is_ready() {
            self.fresh = None;
        }
        read
    }
}

impl AsyncWrite for Io {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.fresh = None;
        Pin::new(&mut self.connection).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.fresh = None;
        Pin::new(&mut self.connection).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.connection.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.connection).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        // A FIN would end it for the worker that is to have it. It is dropped next, which ends it otherwise.
        if self.fresh.as_ref().is_some_and(Fresh::is_another_workers) {
            return Poll::Ready(Ok(()));
        }
        self.fresh = None;
        Pin::new(&mut self.connection).poll_shutdown(context)
    }
}

impl Drop for Io {
    fn drop(&mut self) {
        if self.fresh.as_ref().is_some_and(Fresh::is_another_workers)
            && let Err(error) = self.connection.send_back()
        {
            log::warn!("give back: {error} [closing the connection]");
        }
    }
}
