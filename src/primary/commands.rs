//! What other threads may ask of a running primary, and how the answers come back.
//!
//! ```text
//!   admin, embedder ── Remote::send ──▶ bounded channel + Waker ──▶ event loop
//!         ▲                                                             │
//!         └───────────────────── Answer::give ◀─────────────────────────┘
//! ```
//! Whoever asks waits in its own thread; the event loop never waits for it. Nothing is decided here.

use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::str::FromStr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};
use mio::{Registry, Token, Waker};

use super::events::{self, Event, Subscriber};
use super::settings::{self, Settings, Variable, WORKERS_MAX};
use super::status::{Enabled, Glance, Metrics, Scaled, Status};
#[cfg(doc)]
use super::supervisor::Plan;
use super::supervisor::Stop;
use crate::protocol::body::Body;
use crate::protocol::control::{MESSAGES_UNREAD_MAX, PACKET_MAX_BYTES};
use crate::protocol::ids::WorkerId;
pub use crate::sys::signals::Signal;

/// The most commands that wait for the event loop. Above it [`Remote::send`] says [`Unsent::Busy`].
pub const COMMANDS_MAX: usize = 64;

/// A request to a running primary.
#[derive(Debug)]
pub enum Command {
    /// Everything that it knows.
    Status(Answer<Status>),
    /// Everything that it has counted. More work than [`Status`](Self::Status), and bounded like that: a look at every
    /// lane of every worker.
    Metrics(Answer<Metrics>),
    /// As much as a health check needs.
    Glance(Answer<Glance>),
    /// Read the [configuration](settings::Configuration) again, if there is one, and replace every worker. The answer
    /// comes at the end of the reload.
    Reload(Answer<Result<(), Refused>>),
    /// The configuration was read again, as a reload had asked for. Without one this is ignored.
    Reconfigure(Result<Box<Settings>, String>),
    /// Replace this image by the program at its path. Answered only if that fails: what succeeds ends every thread.
    Upgrade(Answer<Refused>),
    /// Have another number of workers. The answer comes at once.
    Scale(Scale, Answer<Result<Scaled, Refused>>),
    /// End. The answer comes at once.
    Stop(Stop, Answer<()>),
    /// Be for clients, or not: what load balancers are told. Dealing goes on. The answer comes at once.
    SetEnabled(bool, Answer<Enabled>),
    /// Start one worker more, of the command without a group, with these variables besides. It has a slot of its own,
    /// and who is started there later has the same ones. The answer comes once its process runs, or does not.
    Fork(Vec<Variable>, Answer<Result<WorkerId, Refused>>),
    /// Have other commands for workers that are started from now on.
    Change(Change, Answer<()>),
    /// Replace one worker: it finishes what it is doing.
    Disconnect(WorkerId, Answer<Result<(), Refused>>),
    /// Have no workers: all of them finish, and nobody follows. The answer comes when those that there are have ended.
    /// Only for a primary that [outlives its workers](Plan::outlives_workers).
    DisconnectAll(Answer<Result<(), Refused>>),
    /// Send one worker a signal that is to end it, SIGKILL to its whole process group. It is replaced as if it had
    /// ended by itself. One that has ended already, or is about to, and is not forgotten yet is no error.
    Kill(WorkerId, Signal, Answer<Result<(), Refused>>),
    /// Send one worker a message. It is kept until the worker has said hello and reads, so the answer comes at once;
    /// what a worker has not received when it ends is lost, as its [`Event::Exit`] tells.
    Send {
        /// To whom.
        worker: WorkerId,
        /// What.
        body: Body,
        /// A descriptor of any kind that goes with it. The primary closes its own copy, also if it cannot be sent.
        fd: Option<OwnedFd>,
        /// Whether it is on its way.
        answer: Answer<Result<(), Undelivered>>,
    },
    /// Send every worker a message. The answer names those that do not get it, and why.
    Broadcast(Body, Answer<Vec<(WorkerId, Undelivered)>>),
    /// Tell somebody what happens: see [`Remote::subscribe`].
    Subscribe(Subscriber),
}

/// A change of commands, made in the event loop: it must neither block nor panic.
pub struct Change(Box<dyn FnMut(&mut settings::Command) + Send>);

/// Where an answer goes. Dropping it unused tells that none will come, if the receiver can tell.
pub struct Answer<T>(Box<dyn FnOnce(T) + Send>);

/// Why a command was not obeyed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// It is too late for this.
    #[error("croupier is stopping")]
    Stopping,
    /// No such worker, or not any more.
    #[error("there is no worker {0}")]
    NoSuchWorker(WorkerId),
    /// So many workers are not possible.
    #[error("{wanted} workers are not possible: give {least} to {WORKERS_MAX}")]
    OutOfRange {
        /// So many.
        wanted: i64,
        /// The fewest that are possible.
        least: u32,
    },
    /// The process of a worker could not be started.
    #[error("start a worker: {0}")]
    NotStarted(String),
    /// A reload stopped.
    #[error("the new worker failed: {0}; the old ones go on")]
    NotReady(String),
    /// The program at the primary's path cannot take over.
    #[error("{0}; the running one goes on")]
    NoUpgrade(String),
    /// What a reload has read makes no sense.
    #[error("{0}; nothing was reloaded, the old configuration goes on")]
    BadConfiguration(String),
    /// Too many wait for the end of a reload.
    #[error("too many wait for the end of a reload")]
    TooManyWaiting,
}

/// Why a message was not sent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Undelivered {
    /// No such worker, or not any more.
    #[error("there is no worker {0}")]
    NoSuchWorker(WorkerId),
    /// It hears nothing any more.
    #[error("worker {0} has closed its channel")]
    Disconnected(WorkerId),
    /// It would not fit into one packet.
    #[error("a message with a body of {0} bytes: at most {PACKET_MAX_BYTES} with its envelope, send less at a time")]
    TooLong(usize),
    /// The worker must consume some first. Try again later, or give it up.
    #[error("worker {0} has not consumed the {MESSAGES_UNREAD_MAX} messages that it has; wait until it has")]
    WouldExceed(WorkerId),
    /// The kernel did not take it.
    #[error("send to worker {0}: {1}")]
    Kernel(WorkerId, String),
}

/// Why a command did not reach the event loop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unsent {
    /// [`COMMANDS_MAX`] are waiting. Try again.
    #[error("the primary is busy: too many commands wait")]
    Busy,
    /// The primary has ended.
    #[error("the primary has ended")]
    Ended,
}

/// How many workers there should be: `4`, `+1` or `-2`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scale {
    /// So many.
    To(u32),
    /// So many more, or fewer.
    By(i32),
}

/// A text that is no [`Scale`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no number of workers: give 4, +1 or -1")]
pub struct BadScale(String);

/// A handle on a running primary, for other threads. Clones talk to the same one.
#[derive(Debug, Clone)]
pub struct Remote {
    /// `None`: the primary has ended.
    commands: Arc<Mutex<Option<Sender<Command>>>>,
    waker: Arc<Waker>,
}

/// The event loop's side of it.
#[derive(Debug)]
pub(super) struct Inbox {
    commands: Receiver<Command>,
    remote: Remote,
}

impl<T> Answer<T> {
    /// `give` is called in the event loop: it must not block.
    pub fn new(give: impl FnOnce(T) + Send + 'static) -> Self {
        Self(Box::new(give))
    }

    /// Gives the answer.
    pub fn give(self, answer: T) {
        (self.0)(answer);
    }
}

impl<T> fmt::Debug for Answer<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Answer")
    }
}

impl Change {
    /// `change` is called once for every command, the one without a group first.
    pub fn new(change: impl FnMut(&mut settings::Command) + Send + 'static) -> Self {
        Self(Box::new(change))
    }

    /// Makes it.
    pub(super) fn make(mut self, settings: &mut Settings) {
        settings.commands_mut().for_each(|command| (self.0)(command));
    }
}

impl fmt::Debug for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Change")
    }
}

impl Scale {
    /// The number of workers it makes of `count`; it may be out of range.
    pub fn applied_to(self, count: u32) -> i64 {
        match self {
            Scale::To(count) => count.into(),
            Scale::By(change) => i64::from(count) + i64::from(change),
        }
    }
}

impl FromStr for Scale {
    type Err = BadScale;

    fn from_str(text: &str) -> Result<Self, BadScale> {
        let is_relative = text.starts_with(['+', '-']);
        let read = if is_relative { text.parse().map(Scale::By) } else { text.parse().map(Scale::To) };
        read.map_err(|_| BadScale(text.to_owned()))
    }
}

impl fmt::Display for Scale {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Scale::To(count) => write!(f, "{count}"),
            Scale::By(change) => write!(f, "{change:+}"),
        }
    }
}

impl Remote {
    /// Sends a command without waiting.
    ///
    /// # Errors
    /// [`Unsent`]; the command's answer is dropped.
    pub fn send(&self, command: Command) -> Result<(), Unsent> {
        self.try_send(command).map_err(|(why, _)| why)
    }

    /// Sends a command, and tries again as long as too many wait: the event loop obeys them all the time. Not for the
    /// thread that runs the primary.
    ///
    /// # Errors
    /// [`Unsent::Ended`]; the command is dropped.
    pub(super) fn send_in_turn(&self, mut command: Command) -> Result<(), Unsent> {
        loop {
            match self.try_send(command) {
                Err((Unsent::Busy, again)) => command = again,
                sent => return sent.map_err(|(why, _)| why),
            }
            std::thread::yield_now();
        }
    }

    fn try_send(&self, command: Command) -> Result<(), (Unsent, Command)> {
        let sent = match &*self.lock() {
            Some(commands) => commands.try_send(command),
            None => return Err((Unsent::Ended, command)),
        };
        sent.map_err(|error| match error {
            TrySendError::Full(command) => (Unsent::Busy, command),
            TrySendError::Disconnected(command) => (Unsent::Ended, command),
        })?;
        self.wake();
        Ok(())
    }

    /// Sends a command and sleeps until it is answered: `remote.ask(Command::Status)`. Not for the thread that runs the
    /// primary, nor while it does not run yet.
    ///
    /// # Errors
    /// [`Unsent`]; also if the primary ends before it answers.
    pub fn ask<T: Send + 'static>(&self, command: impl FnOnce(Answer<T>) -> Command) -> Result<T, Unsent> {
        let (sender, answer) = bounded(1);
        self.send(command(Answer::new(move |it| drop(sender.send(it)))))?;
        answer.recv().map_err(|_| Unsent::Ended)
    }

    /// Everything that happens from now on, at most `capacity` events at a time: see [`events`]. Drop the receiver to
    /// end it.
    ///
    /// # Errors
    /// [`Unsent`].
    pub fn subscribe(&self, capacity: usize) -> Result<Receiver<Event>, Unsent> {
        let (subscriber, receiver) = events::subscription(capacity);
        self.send(Command::Subscribe(subscriber))?;
        Ok(receiver)
    }

    fn lock(&self) -> MutexGuard<'_, Option<Sender<Command>>> {
        self.commands.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wake(&self) {
        // It fails only when the eventfd's counter is full, and then the loop is awake.
        let _ = self.waker.wake();
    }
}

impl Inbox {
    /// An inbox whose arrivals are readable as `token`.
    pub(super) fn new(registry: &Registry, token: Token) -> io::Result<Self> {
        let waker = Arc::new(Waker::new(registry, token)?);
        let (sender, commands) = bounded(COMMANDS_MAX);
        Ok(Self { commands, remote: Remote { commands: Arc::new(Mutex::new(Some(sender))), waker } })
    }

    pub(super) fn remote(&self) -> Remote {
        self.remote.clone()
    }

    pub(super) fn next(&self) -> Option<Command> {
        self.commands.try_recv().ok()
    }

    /// What is left will be read in the next turn.
    pub(super) fn come_back(&self) {
        if !self.commands.is_empty() {
            self.remote.wake();
        }
    }
}

impl Drop for Inbox {
    /// A bounded channel keeps what is in it as long as it has senders: those who wait for answers would wait on. So
    /// nothing more may come in, and then what is there is dropped.
    fn drop(&mut self) {
        *self.remote.lock() = None;
        while self.commands.try_recv().is_ok() {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_workers_are_absolute_or_relative() {
        for (text, scale, of_three) in
            [("4", Scale::To(4), 4), ("+1", Scale::By(1), 4), ("-2", Scale::By(-2), 1), ("-9", Scale::By(-9), -6)]
        {
            assert_eq!(text.parse(), Ok(scale));
            assert_eq!((scale.to_string().as_str(), scale.applied_to(3)), (text, of_three));
        }
        for text in ["", "+", "-", "many", "1.5", "+-1", "99999999999", " 1"] {
            assert!(text.parse::<Scale>().is_err(), "{text}");
        }
    }

    #[test]
    fn an_inbox_is_bounded_and_tells_when_it_is_gone() {
        let poll = mio::Poll::new().unwrap();
        let inbox = Inbox::new(poll.registry(), Token(1)).unwrap();
        let remote = inbox.remote();
        let (sender, receiver) = crossbeam_channel::unbounded();
        let stop = || {
            let sender = sender.clone();
            Command::Stop(Stop::Fast, Answer::new(move |()| sender.send(()).unwrap()))
        };
        for _ in 0..COMMANDS_MAX {
            remote.send(stop()).unwrap();
        }
        assert_eq!(remote.send(stop()), Err(Unsent::Busy));
        let Some(Command::Stop(_, answer)) = inbox.next() else { panic!("there are some") };
        answer.give(());
        assert_eq!(receiver.len(), 1);
        drop(inbox);
        assert_eq!(remote.send(stop()), Err(Unsent::Ended));
        drop(sender);
        assert_eq!(receiver.iter().count(), 1, "the others' answers are dropped, not kept");
    }

    #[test]
    fn whoever_asks_while_the_primary_ends_hears_of_the_end() {
        for _ in 0..300 {
            let poll = mio::Poll::new().unwrap();
            let inbox = Inbox::new(poll.registry(), Token(1)).unwrap();
            let remote = inbox.remote();
            std::thread::scope(|scope| {
                for _ in 0..3 {
                    scope.spawn(|| while remote.ask(Command::Glance) != Err(Unsent::Ended) {});
                }
                while inbox.next().is_none() {}
                drop(inbox);
            });
        }
    }
}
