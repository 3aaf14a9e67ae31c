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

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};

use super::supervisor::ReloadEnd;
use crate::protocol::body::Body;
use crate::protocol::ids::{Slot, WorkerId};
pub use crate::sys::process::Exit;

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
    /// This reader was too slow, and events that came here are missing.
    Lost {
        /// How many.
        count: u64,
    },
}

/// Whoever wants to hear events.
#[derive(Debug, Default)]
pub(super) struct Subscribers(Vec<Subscriber>);

/// The primary's side of one subscription.
#[derive(Debug)]
pub struct Subscriber {
    events: Sender<Event>,
    /// Events since the last one that found room.
    lost: u64,
}

/// A subscription that holds at most `capacity` events, and where they come out. It ends when the receiver is dropped.
pub(super) fn subscription(capacity: usize) -> (Subscriber, Receiver<Event>) {
    // Events and the word of those that were lost before them go together.
    let (events, receiver) = bounded(capacity.max(2));
    (Subscriber { events, lost: 0 }, receiver)
}

impl Subscribers {
    pub(super) fn add(&mut self, subscriber: Subscriber) {
        self.0.push(subscriber);
    }

    /// Tells all of them, if there are any.
    pub(super) fn tell(&mut self, event: impl FnOnce() -> Event) {
        if self.0.is_empty() {
            return;
        }
        let event = event();
        self.0.retain_mut(|subscriber| subscriber.tell(&event));
    }
}

impl Subscriber {
    /// False: nobody reads any more.
    fn tell(&mut self, event: &Event) -> bool {
        if self.lost > 0 {
            // Only this side sends: what finds room now is not taken by anybody else.
            if self.events.capacity().is_some_and(|capacity| self.events.len() + 2 > capacity) {
                self.lost += 1;
                return true;
            }
            let told = self.events.try_send(Event::Lost { count: self.lost });
            self.lost = 0;
            if told.is_err() {
                return false;
            }
        }
        match self.events.try_send(event.clone()) {
            Ok(()) => true,
            Err(TrySendError::Full(_)) => {
                self.lost = 1;
                true
            }
            Err(TrySendError::Disconnected(_)) => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn online(id: u32) -> impl FnOnce() -> Event {
        move || Event::Online { worker: WorkerId(id) }
    }

    /// Ids, and losses as negative numbers.
    fn heard(events: &Receiver<Event>) -> Vec<i64> {
        let number = |event| match event {
            Event::Online { worker } => worker.0.into(),
            Event::Lost { count } => -(count as i64),
            other => panic!("nobody told {other:?}"),
        };
        events.try_iter().map(number).collect()
    }

    #[test]
    fn a_slow_reader_loses_events_and_hears_how_many_in_their_place() {
        let mut subscribers = Subscribers::default();
        let (subscriber, slow) = subscription(3);
        subscribers.add(subscriber);
        let (subscriber, fast) = subscription(100);
        subscribers.add(subscriber);
        (1..=7).for_each(|id| subscribers.tell(online(id)));
        assert!(matches!(slow.try_recv(), Ok(Event::Online { worker: WorkerId(1) })));
        subscribers.tell(online(8));
        assert_eq!(heard(&slow), [2, 3], "no room yet for the loss and what comes after it");
        subscribers.tell(online(9));
        assert_eq!(heard(&slow), [-5, 9]);
        (10..=11).for_each(|id| subscribers.tell(online(id)));
        assert_eq!(heard(&slow), [10, 11]);
        assert_eq!(heard(&fast), (1..=11).collect::<Vec<_>>(), "whatever the other one does");
    }

    #[test]
    fn nothing_is_made_for_nobody() {
        let mut subscribers = Subscribers::default();
        let (subscriber, events) = subscription(3);
        subscribers.add(subscriber);
        drop(events);
        subscribers.tell(online(1));
        subscribers.tell(|| panic!("the only one has gone"));
    }
}
