//! The admin server: HTTP/1.1 with JSON through two doors, in a thread of its own. It decides nothing: it sends
//! [`commands`](super::commands) to the event loop and waits for the answers, so that a slow client costs only itself.
//!
//! ```text
//!   control socket ─┐                                            ┌─▶ event loop
//!                   ├─▶ connections ─▶ admission ─▶ routes ─▶ desk ┘
//!   monitor address ┘
//!
//!   socket       the path of the control socket: claimed, replaced if stale, removed if still ours
//!   monitor      the socket of the monitor address
//!   connections  accepting, the limits, who asks
//!   admission    who may ask what at which door
//!   audit        what somebody did, or wanted to
//!   ecv          what a load balancer asks, and the URL that must answer for it
//!   routes       requests to commands, answers to JSON
//!   events       what happens, as a stream
//!   feed         what watchers see, and those who watch
//!   ring         the last lines of a kind
//!   tap          lines of workers on their way from the event loop
//!   desk         questions to the event loop, a bounded number at once for each door
//!   metrics      the same for Prometheus; exposition: as text
//!   page         what people see in a browser
//!   problem      answers that nobody asked for
//! ```

mod admission;
mod audit;
mod connections;
mod desk;
mod ecv;
mod events;
mod exposition;
mod feed;
mod metrics;
mod monitor;
mod page;
mod problem;
mod ring;
mod routes;
mod socket;
mod tap;

use std::fmt;
use std::io;
use std::path::Path;
use std::thread::JoinHandle;

use tokio::runtime;
use tokio::sync::oneshot;

use super::Primary;
use super::address::Address;
use crate::sys::signals;
pub use ecv::{BadPath, BadUrl, EcvOptions, EcvPath, MonitorUrl};
pub use monitor::MonitorSocket;
pub use socket::{ClaimError, ControlSocket, is_alive};

/// Futures live on the heap; what is left for the stack is shallow.
const STACK_BYTES: usize = 256 * 1024;

/// Where requests come in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Door {
    /// The control socket: everything, for processes of this user and root.
    Control,
    /// The monitor address: what is safe to read, for whoever can connect.
    Monitor,
}

impl fmt::Display for Door {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Door::Control => "control",
            Door::Monitor => "monitor",
        })
    }
}

/// The sockets of an admin server.
#[derive(Debug)]
pub struct Doors {
    /// For processes of this user.
    pub control: ControlSocket,
    /// For everybody who can connect, if it was asked for.
    pub monitor: Option<MonitorSocket>,
    /// For the load balancer in front, at both.
    pub ecv: EcvOptions,
}

/// A running admin server. Dropping it ends it: answers under way get a moment, the socket file goes.
#[derive(Debug)]
pub struct Admin {
    control: ControlSocket,
    monitor: Option<Address>,
    end: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Admin {
    /// Serves `doors` in a thread of its own, which no signal lands on. `primary` does not run yet: watchers see
    /// everything from the first worker on.
    ///
    /// # Errors
    /// Those of epoll_create(2) and pthread_create(3): out of descriptors, memory or threads.
    pub fn start(doors: Doors, primary: &mut Primary) -> io::Result<Self> {
        let Doors { mut control, monitor, ecv } = doors;
        let address = monitor.as_ref().map(|monitor| monitor.address().clone());
        let listener = control.take_listener()?;
        let (remote, source) = (primary.remote(), feed::Source::of(primary));
        let runtime = runtime::Builder::new_current_thread().enable_io().enable_time().build()?;
        let (end, ended) = oneshot::channel();
        let thread = std::thread::Builder::new().name("croupier-admin".into()).stack_size(STACK_BYTES);
        let thread = thread.spawn(move || {
            let served = signals::block_all_in_this_thread()
                .and_then(|()| runtime.block_on(connections::serve(listener, monitor, ecv, &remote, source, ended)));
            if let Err(error) = served {
                log::error!("the admin server is out of order: {error} [dealing goes on]");
            }
            // Whoever resolves a name now is not waited for.
            runtime.shutdown_background();
        })?;
        Ok(Self { control, monitor: address, end: Some(end), thread: Some(thread) })
    }

    /// The path of the control socket.
    pub fn path(&self) -> &Path {
        self.control.path()
    }

    /// The monitor's address, with the real port.
    pub fn monitor(&self) -> Option<&Address> {
        self.monitor.as_ref()
    }
}

impl Drop for Admin {
    fn drop(&mut self) {
        self.control.remove();
        drop(self.end.take());
        if let Some(thread) = self.thread.take() {
            // It has panicked: the panic itself has said so.
            let _ = thread.join();
        }
    }
}

/// The name of this machine. Source: gethostname(2).
fn own_name() -> Option<String> {
    nix::unistd::gethostname().ok()?.into_string().ok()
}
