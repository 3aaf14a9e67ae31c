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
//! Three ways to accept: blocking ([`Listener::incoming`] or [`Listener::accept`], from any number of threads), non-blocking
//! ([`Listener::try_accept`] with mio), and the [`event_loop`], where a server is one small trait and draining is
//! taken care of.
//!
//! **When the primary dies** every listener reports its end after the last queued connection, and the process exits
//! with 0 after [`ORPHAN_GRACE`] at the latest.

#[cfg(feature = "axum")]
pub mod axum;
mod connection;
pub mod event_loop;
mod incoming;
mod lane;
mod listener;
mod membership;
#[cfg(feature = "tokio")]
pub mod tokio;

pub use connection::{Connection, CountGuard, NotGivenBack, Stream};
pub use incoming::Incoming;
pub use listener::{ListenOptions, Listener};
pub use membership::{Drain, ORPHAN_GRACE, Worker};
