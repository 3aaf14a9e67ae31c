//! The worker library on tokio (feature `tokio`).
//!
//! A [`Listener`] and a [`Connection`] that are awaited; everything else is as in the [parent module](super). A server
//! that keeps connections open between messages looks out for the drain there, and nowhere else:
//!
//! ```no_run
//! # #![allow(unused)]
//! use croupier::worker::tokio::{Connection, Listener};
//! use tokio::io::{AsyncReadExt, AsyncWriteExt};
//! use tokio::task::JoinSet;
//!
//! #[tokio::main]
//! async fn main() -> std::io::Result<()> {
//!     let listener = Listener::bind("127.0.0.1:8000").await?;
//!     let mut serving = JoinSet::new();
//!     while let Some(connection) = listener.accept().await? {
//!         serving.spawn(serve(connection, listener.drained()));
//!         while serving.try_join_next().is_some() {} // forget those that have ended
//!     }
//!     while serving.join_next().await.is_some() {} // nothing more is dealt: finish what is there
//!     Ok(())
//! }
//!
//! async fn serve(mut connection: Connection, drained: impl Future<Output = ()>) -> std::io::Result<()> {
//!     let mut drained = std::pin::pin!(drained);
//!     loop {
//!         let mut message = [0; 4096];
//!         // Between messages, and only there: `read` has read nothing if the other branch is taken.
//!         let len = tokio::select! {
//!             len = connection.read(&mut message) => len?,
//!             () = &mut drained => break,
//!         };
//!         if len == 0 {
//!             return Ok(());
//!         }
//!         connection.write_all(&message[..len]).await?;
//!     }
//!     // The client notices nothing: another worker goes on with it. If there is none, it ends.
//!     let _ = connection.give_back();
//!     Ok(())
//! }
//! ```
//!
//! **Idle connections.** [`Worker::idle_timeout`](super::Worker::idle_timeout) says the primary's `--idle-timeout`;
//! only the program knows which of its connections are idle. Between messages it may wait in
//! `tokio::time::timeout(idle_timeout, connection.read(..))`; dropping the connection then ends it with a FIN.
//!
//! **Draining.** [`Listener::drained`] comes first, when the order is given: idle connections may go. Then
//! [`Listener::accept`] hands out what was dealt before, and reports the end; [`Listener::ended`] resolves then. Stop
//! accepting at the end, not at the order: when the whole cluster ends, the clients in the primary's backlog are dealt
//! in between.
//!
//! **When the primary dies** the same happens, and the process exits with 0 after
//! [`ORPHAN_GRACE`](super::ORPHAN_GRACE) at the latest, whatever its tasks do.

mod connection;
mod listener;

pub use connection::{Connection, Stream};
pub use listener::Listener;
