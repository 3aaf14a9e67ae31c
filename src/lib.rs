//! croupier: a userspace round-robin accept proxy for Linux.
//!
//! A **primary** process owns the listening sockets, accepts connections, and deals each accepted file descriptor to
//! the next **worker** process that has room, over Unix sockets. The workers read and write the connection
//! themselves: after the handoff no byte of it passes through the primary.
//!
//! # Promises
//! 1. **Even.** Connections go round the workers in strict rotation, skipping those without room, or as another policy
//!    says.
//! 2. **Nothing lost.** A connection that was accepted reaches exactly one worker, or its client sees a clear end.
//! 3. **Out of the way.** One accept, one sendmsg, one close per connection in the primary; nothing per byte.
//! 4. **One bad worker hurts nobody else**: not the primary, not the other workers, not their clients.
//!
//! # Map
//! - [`worker`]: for servers. [`worker::Listener::bind`] asks the primary if there is one and binds itself if not.
//! - [`primary`]: for whoever starts the workers. [`primary::Cluster`] is a primary in a few lines of a program of your
//!   own; the `croupier` command is the other user.
//! - [`protocol`]: the contract between the two, for workers in other languages.
//!
//! # A worker
//! ```no_run
//! # fn main() -> std::io::Result<()> {
//! use std::io::Write;
//!
//! let listener = croupier::worker::Listener::bind("127.0.0.1:8000")?;
//! for connection in listener.incoming() {
//!     let mut connection = connection?;
//!     let _ = writeln!(connection, "hello {:?}", connection.peer_addr());
//! }
//! # Ok(())
//! # }
//! ```
//! It runs alone, and as `croupier run --listen 127.0.0.1:8000 --workers 4 -- ./this-program`.
//!
//! # Features
//! `worker` and `primary` are the two libraries; `cli` (the default) is the command and needs both. A server wants
//! `default-features = false, features = ["worker"]`; `tokio` and `axum` in its place add the async listener, and the
//! one for `axum::serve`.

#[cfg(not(all(target_os = "linux", target_pointer_width = "64")))]
compile_error!("croupier runs on 64-bit Linux only: it passes connections with SCM_RIGHTS, pidfds and sealed memfds");

#[cfg(feature = "cli")]
#[doc(hidden)]
pub mod cli;
#[cfg(feature = "primary")]
pub mod primary;
pub mod protocol;
mod sys;
#[cfg(feature = "worker")]
pub mod worker;
