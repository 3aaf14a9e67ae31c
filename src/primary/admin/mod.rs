//! The admin server: HTTP/1.1 with JSON on the control socket, in a thread of its own. It decides nothing: it sends
//! [`commands`](super::commands) to the event loop and waits for the answers, so that a slow client costs only itself.
//!
//! ```text
//!   socket       the path: claimed, replaced if stale, removed if still ours
//!   connections  accepting, the limits, who the peer is
//!   routes       requests to commands, answers to JSON
//! ```

mod connections;
mod routes;
mod socket;

use std::io;
use std::path::Path;
use std::thread::JoinHandle;

use tokio::runtime;
use tokio::sync::oneshot;

use super::commands::Remote;
use crate::sys::signals;
pub use socket::{ClaimError, ControlSocket, is_alive};

/// Futures live on the heap; what is left for the stack is shallow.
const STACK_BYTES: usize = 256 * 1024;

/// A running admin server. Dropping it ends it: answers under way get a moment, the socket file goes.
#[derive(Debug)]
pub struct Admin {
    socket: ControlSocket,
    end: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Admin {
    /// Serves `socket` in a thread of its own, which no signal lands on.
    ///
    /// # Errors
    /// Those of epoll_create(2) and pthread_create(3): out of descriptors, memory or threads.
    pub fn start(mut socket: ControlSocket, remote: Remote) -> io::Result<Self> {
        let listener = socket.take_listener()?;
        let runtime = runtime::Builder::new_current_thread().enable_io().enable_time().build()?;
        let (end, ended) = oneshot::channel();
        let thread = std::thread::Builder::new().name("croupier-admin".into()).stack_size(STACK_BYTES);
        let thread = thread.spawn(move || {
            let served = signals::block_all_in_this_thread()
                .and_then(|()| runtime.block_on(connections::serve(listener, remote, ended)));
            if let Err(error) = served {
                log::error!("the control socket is out of order: {error} [dealing goes on]");
            }
        })?;
        Ok(Self { socket, end: Some(end), thread: Some(thread) })
    }

    /// Where it listens.
    pub fn path(&self) -> &Path {
        self.socket.path()
    }
}

impl Drop for Admin {
    fn drop(&mut self) {
        self.socket.remove();
        drop(self.end.take());
        if let Some(thread) = self.thread.take() {
            // It has panicked: the panic itself has said so.
            let _ = thread.join();
        }
    }
}
