//! What a primary tells those who subscribe, and how it reaches them.
//!
//! ```text
//!   of one worker, in this order:  Fork  Online  Listening...  Message...  Disconnect  Exit
//! ```
//! Each comes once; `Listening` once for every listener, and again if the worker closed it and listens there again.
//! Messages may come anywhere between `Online` and `Disconnect`. A worker that dies is disconnected first, and the last
//! message that it sent comes before that. One that never said hello has no `Online`.
//!
//! ```no_run
//! use croupier::primary::Primary;
//! use croupier::primary::commands::Command;
//! use croupier::primary::events::Event;
//! # fn embed(settings: croupier::primary::settings::Settings) -> Result<(), Box<dyn std::error::Error>> {
//! let mut primary = Primary::bind(settings)?;
//! let (remote, events) = (primary.remote(), primary.subscribe(1000));
//! let running = std::thread::spawn(move || primary.run());
//! for event in events {
//!     match event {
//!         // Every message goes back to whom it came from.
//!         Event::Message { worker, body, .. } => {
//!             remote.ask(|answer| Command::Send { worker, body, fd: None, answer })??;
//!         }
//!         Event::Exit { worker, exit, voluntary: false } => println!("worker {worker} failed: {exit}"),
//!         _ => {}
//!     }
//! }
//! # drop(running);
//! # Ok(())
//! # }
//! ```
//!
//! Subscriptions are bounded channels, and the event loop never waits for one: a reader that is too slow loses events,
//! and is told how many by an [`Event::Lost`] in their place. Without subscriptions no event is made. They end with
//! the primary, and with its image: after an upgrade in place whoever wants events subscribes again. Descriptors of
//! messages that wait in a subscription are descriptors of this process: choose its capacity with its limit in mind.
//!
//! Whoever writes events down or shows them gets [`Line`]s instead ([`Primary::observe`](super::Primary::observe)).

pub mod json;
mod subscribers;

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use super::supervisor::ReloadEnd;
use crate::protocol::body::Body;
use crate::protocol::ids::{Slot, WorkerId};
pub use crate::sys::process::Exit;
pub use crate::sys::signals::Signal;
pub use subscribers::Subscriber;
pub(super) use subscribers::{Subscribers, observation, subscription};

/// An event as a line of JSON, for those who write it down or show it: see [`json`].
#[derive(Debug, Clone)]
pub struct Line {
    /// Its number. Events are counted from 1 on, whoever listens, and over an upgrade in place: who misses a number has
    /// lost an event.
    pub id: u64,
    /// Without a line break.
    pub json: Arc<str>,
    /// The signal that it tells of. SIGUSR1 is the order to open files anew: it is the first line of the new one.
    pub signal: Option<Signal>,
}

/// A worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Who {
    /// Its number.
    pub worker: WorkerId,
    /// Its stable place.
    pub slot: Slot,
    /// Its process.
    pub pid: i32,
    /// How many reloads there had been when it was started.
    pub generation: u32,
}

/// Something that has happened.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Event {
    /// A worker's process was started.
    Fork {
        /// Who.
        worker: WorkerId,
        /// Its stable place.
        slot: Slot,
        /// Its process.
        pid: i32,
        /// How many reloads there had been.
        generation: u32,
    },
    /// A worker has said hello.
    Online {
        /// Who.
        worker: WorkerId,
    },
    /// A worker takes connections from a listener.
    Listening {
        /// Who.
        worker: WorkerId,
        /// Where clients connect, with the real port; of a socket of its own what the worker says.
        address: String,
    },
    /// A worker sent a message.
    Message {
        /// Who.
        worker: WorkerId,
        /// What it says.
        body: Body,
        /// What was attached; all subscribers share it, and the last one closes it.
        fd: Option<Arc<OwnedFd>>,
    },
    /// A worker's control channel has ended: it hears and says nothing any more.
    Disconnect {
        /// Who.
        worker: WorkerId,
        /// As in [`Event::Exit`].
        voluntary: bool,
    },
    /// A worker's process has ended.
    Exit {
        /// Who.
        worker: WorkerId,
        /// Its code, or the signal that ended it.
        exit: Exit,
        /// The primary had asked for its end (a stop, a reload, a disconnect, a kill), or the worker itself had
        /// (`Worker::disconnect`). False: it crashed, or left without a word.
        voluntary: bool,
    },
    /// The worker of a slot has ended, and another one will be started there.
    Respawn {
        /// Which.
        slot: Slot,
        /// When.
        after: Duration,
    },
    /// A worker has reached a limit and is to be replaced.
    Recycle {
        /// Who.
        worker: WorkerId,
    },
    /// A reload is over.
    Reload {
        /// How.
        end: ReloadEnd,
    },
    /// There is to be another number of workers.
    Scale {
        /// How many.
        workers: u32,
    },
    /// This primary is for clients again.
    Enable,
    /// This primary is to be left out by whoever sends it clients.
    Disable,
    /// The primary was sent a signal that means something to it.
    Signal {
        /// Which.
        signal: Signal,
    },
    /// Nothing is dealt for a while, for want of descriptors or memory. Clients wait in the backlog.
    AcceptPaused {
        /// Of which listener.
        address: String,
        /// What failed, and why.
        why: String,
    },
    /// There is enough of everything again.
    AcceptResumed {
        /// Of which listener.
        address: String,
    },
    /// Connections were taken back from a worker that did not take them: it has stalled, has paused, or cannot be
    /// trusted. One event for all that were taken back at once.
    Reclaimed {
        /// Who.
        worker: WorkerId,
        /// Of which listener.
        address: String,
        /// How many.
        count: u64,
    },
    /// This is another image of the same primary, after an upgrade in place.
    Upgrade {
        /// How many there have been.
        upgrades: u32,
    },
    /// This reader was too slow, and events that came here are missing.
    Lost {
        /// How many.
        count: u64,
    },
}
