//! The worker side: a program that is dealt connections.
//!
//! The same program runs under a primary and alone. [`Listener::bind`] asks the primary if there is one and binds
//! the address itself if there is none; what it accepts are ordinary sockets, of which no byte passes through the
//! primary.
//!
//! ```no_run
//! use std::io::{Read, Write};
//! use croupier::worker::{Connection, Listener};
//!
//! fn main() -> std::io::Result<()> {
//!     let listener = Listener::bind("127.0.0.1:8000")?;
//!     for connection in listener.incoming() {
//!         let _ = serve(connection?); // a client that goes away is its own affair
//!     }
//!     Ok(()) // the primary has ended the listener, and everything it had dealt has been served
//! }
//!
//! fn serve(mut connection: Connection) -> std::io::Result<()> {
//!     let mut request = [0; 1024];
//!     let len = connection.read(&mut request)?;
//!     connection.write_all(&request[..len])
//! }
//! ```
//!
//! In `Cargo.toml`: `croupier = { version = "0.1", default-features = false, features = ["worker"] }`, or `["tokio"]`,
//! or `["axum"]`.
//!
//! # Which way to accept
//! | the program | accepts by |
//! |---|---|
//! | blocks, in one thread or in many | [`Listener::incoming`], [`Listener::accept`] |
//! | has nothing but connections to do | the [`event_loop`] |
//! | has an event loop of its own | [`Listener::try_accept`] with mio or epoll |
//! | runs on tokio | [`worker::tokio`], feature `tokio` |
//! | serves HTTP with axum | [`worker::axum`], feature `axum` |
//!
//! Datagrams are not dealt but shared: [`UdpSocket`].
//!
//! ## Blocking
//! The program above. A thread that blocks in `accept` is woken by the end of the listener, so any number of them can
//! share one listener. A program that serves one connection at a time should say so, and the next connection goes to a
//! worker that is free: [`ListenOptions::connections_max`] 1.
//!
//! ## The event loop
//! One thread for any number of connections, and a server that is one small trait:
//!
//! ```no_run
//! use croupier::worker::Listener;
//! use croupier::worker::event_loop::{EventLoop, Exchange, Next, Server};
//!
//! /// Answers every line with itself.
//! struct Lines;
//!
//! impl Server for Lines {
//!     type Session = ();
//!
//!     fn open(&mut self, _peer: Option<std::net::SocketAddr>) {}
//!
//!     fn receive(&mut self, (): &mut (), exchange: &mut Exchange<'_>) -> Next {
//!         let complete = exchange.input.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
//!         exchange.output.extend(exchange.input.drain(..complete));
//!         if exchange.input.is_empty() { Next::Idle } else { Next::Busy }
//!     }
//! }
//!
//! fn main() -> std::io::Result<()> {
//!     let mut event_loop = EventLoop::new(Lines)?;
//!     event_loop.listen(Listener::bind("127.0.0.1:8000")?)?;
//!     event_loop.run()
//! }
//! ```
//!
//! ## Async
//! The same on tokio, with the feature of that name:
//!
#![cfg_attr(feature = "tokio", doc = "```no_run")]
#![cfg_attr(not(feature = "tokio"), doc = "```ignore")]
//! use croupier::worker::tokio::{Connection, Listener};
//! use tokio::io::{AsyncReadExt, AsyncWriteExt};
//! use tokio::task::JoinSet;
//!
//! #[tokio::main]
//! async fn main() -> std::io::Result<()> {
//!     let listener = Listener::bind("127.0.0.1:8000").await?;
//!     let mut serving = JoinSet::new();
//!     while let Some(connection) = listener.accept().await? {
//!         serving.spawn(serve(connection));
//!         while serving.try_join_next().is_some() {} // forget those that have ended
//!     }
//!     while serving.join_next().await.is_some() {} // nothing more is dealt: finish what is there
//!     Ok(())
//! }
//!
//! async fn serve(mut connection: Connection) -> std::io::Result<()> {
//!     let mut request = [0; 1024];
//!     let len = connection.read(&mut request).await?;
//!     connection.write_all(&request[..len]).await
//! }
//! ```
//!
//! # Messages
//! [`Worker::send`] says something to whoever started the primary, [`Worker::messages`] hears what they say: any JSON,
//! with a descriptor of any kind if need be. [`Messages`] is readable like a socket, for programs with an event loop.
//!
//! ```no_run
//! # fn main() -> std::io::Result<()> {
//! if let Some(worker) = croupier::worker::Worker::from_env()? {
//!     worker.send(&("hello from", worker.id()), None)?;
//!     while let Some(message) = worker.messages().receive()? {
//!         if message.body.parse().is_ok_and(|word: String| word == "leave") {
//!             worker.disconnect()?; // listeners end, and then the program does
//!         }
//!     }
//! }
//! # Ok(())
//! # }
//! ```
//!
//! # Behind a proxy
//! With the primary's `--proxy-protocol` every connection begins with a PROXY header, version 1 or 2, which says who
//! the client is. The library takes it off: all ways to accept hand out a connection only when its header has come,
//! with the client's address as its peer, and not a byte of what follows is missing. A connection that is from none
//! of the listed proxies, begins otherwise, or takes longer than [`PROXY_HEADER_TIMEOUT`] or more than
//! [`PROXY_HEADER_MAX_BYTES`] for it, ends; the first one is warned of, later ones are logged at level debug.
//! Meanwhile the others go on. If the proxy speaks for itself, or does not know the client, the peer is the proxy.
//! Sockets of a program's own ([`ListenOptions::exclusive`], [`reuse_port`](ListenOptions::reuse_port), or alone)
//! know nothing of it.
//!
//! # How a worker ends
//! **When the primary says so** ([`Worker::drain`]) it deals no more, and every listener reports its end after the last
//! connection that had been dealt to it. What is in progress is to be finished; what is idle may be
//! [given back](Connection::give_back), and another worker goes on with it. Then the program returns from `main`.
//! SIGTERM comes only to those that need longer than `--shutdown-timeout`.
//!
//! **When the primary dies** every listener reports its end too, and the process exits with 0 after [`ORPHAN_GRACE`] at
//! the latest.
//!
#![cfg_attr(feature = "tokio", doc = "[`worker::tokio`]: tokio")]
#![cfg_attr(not(feature = "tokio"), doc = "[`worker::tokio`]: https://docs.rs/croupier/latest/croupier/worker/tokio/")]
#![cfg_attr(feature = "axum", doc = "[`worker::axum`]: axum")]
#![cfg_attr(not(feature = "axum"), doc = "[`worker::axum`]: https://docs.rs/croupier/latest/croupier/worker/axum/")]

#[cfg(feature = "axum")]
pub mod axum;
mod connection;
pub mod event_loop;
mod incoming;
mod lane;
mod listener;
mod membership;
mod messages;
mod proxy_header;
mod readiness;
mod reception;
#[cfg(feature = "tokio")]
pub mod tokio;
mod udp;

pub use connection::{Connection, CountGuard, NotGivenBack, Stream};
pub use incoming::Incoming;
pub use listener::{ListenOptions, Listener};
pub use membership::{Drain, ORPHAN_GRACE, Worker};
pub use messages::{Message, Messages};
pub use proxy_header::PROXY_HEADER_MAX_BYTES;
pub use reception::PROXY_HEADER_TIMEOUT;
pub use udp::UdpSocket;
