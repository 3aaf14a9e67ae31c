//! The plain event loop: one thread, one `mio::Poll`, and a server that is one small trait.
//!
//! ```no_run
//! use croupier::worker::Listener;
//! use croupier::worker::event_loop::{EventLoop, Exchange, Next, Server};
//!
//! struct Echo;
//!
//! impl Server for Echo {
//!     type Session = ();
//!     fn open(&mut self, _peer: Option<std::net::SocketAddr>) {}
//!     fn receive(&mut self, _session: &mut (), exchange: &mut Exchange<'_>) -> Next {
//!         exchange.output.append(exchange.input);
//!         Next::Idle
//!     }
//! }
//!
//! fn main() -> std::io::Result<()> {
//!     let mut event_loop = EventLoop::new(Echo)?;
//!     event_loop.listen(Listener::bind("127.0.0.1:8000")?)?;
//!     event_loop.run() // until the primary says so, or SIGTERM or SIGINT, and everything is finished
//! }
//! ```
//!
//! **Messages** of whoever started the primary go to [`Server::message`], in order with the order to drain.
//!
//! **Idle connections** end after the primary's `--idle-timeout`, or that of [`EventLoop::idle_timeout`]: those on
//! which nothing is in progress, that is the server said [`Next::Idle`] or nothing has ever come, and everything is
//! sent. A client that has sent half a request, or reads its answer slowly, is not idle: nothing here ends that. The
//! client sees a FIN; what it sends in the same moment is lost, as with every server that ends idle connections, and
//! clients repeat it on a new one.
//!
//! **Draining.** When the primary orders it, or has gone, or SIGTERM or SIGINT comes, the listeners are taken empty,
//! connections with a request in progress finish, and `run` returns. A second signal ends it at once. Idle connections,
//! and those on which nothing has come yet, are given back to the primary, which deals them to other workers: their
//! clients notice nothing. If there are no other workers they end, a fresh one after [`FRESH_GRACE`]: its client has
//! connected and its request may be under way. Ending means FIN, then waiting for the client's own end: closing a
//! socket that data reaches later would answer with a reset.

mod session;
mod timers;

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;
use std::time::Duration;

use mio::event::Source;
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token, Waker};
use slab::Slab;

use super::{Connection, Drain, Listener, Message, Messages, Worker};
use crate::protocol::control::{IdleRule, MESSAGES_UNREAD_MAX};
use crate::protocol::time::Monotonic;
use crate::sys::signals::{Signal, Signals};
use session::{Buffers, Fate, Session};
use timers::Timers;

/// How long a draining worker waits for the first byte of a connection that it has taken.
pub const FRESH_GRACE: Duration = Duration::from_secs(1);
/// How long an ended connection waits for its client's end before it is closed.
pub const LINGER: Duration = Duration::from_secs(1);
/// Unconsumed input of one connection above which it is closed: the server waits for the end of a message that is
/// larger than any server should accept.
pub const INPUT_MAX_BYTES: usize = 1024 * 1024;

/// How long to wait before giving back again what the primary could not take.
const GIVE_BACK_AGAIN: Duration = Duration::from_millis(10);
/// How many connections one turn of the loop takes from one listener.
const TAKES_PER_TURN: usize = 32;
/// How many messages one turn hears. Never more wait at a time.
const MESSAGES_PER_TURN: u32 = MESSAGES_UNREAD_MAX;

const SIGNALS: Token = Token(usize::MAX);
const DRAIN: Token = Token(usize::MAX - 1);
const MESSAGES: Token = Token(usize::MAX - 2);
/// Listeners count down from here, connections count up from 0.
const LISTENERS: usize = usize::MAX - 3;

/// What the program does with the bytes of its connections.
pub trait Server {
    /// What it remembers of each connection.
    type Session;

    /// A connection has come.
    fn open(&mut self, peer: Option<SocketAddr>) -> Self::Session;

    /// Bytes have come. Remove from the input what is dealt with, append the answer to the output.
    fn receive(&mut self, session: &mut Self::Session, exchange: &mut Exchange<'_>) -> Next;

    /// The primary has sent a message. Unless a server says otherwise, it is dropped: all messages come here, so nobody
    /// else in the process should receive from [`Worker::messages`].
    fn message(&mut self, message: Message) {
        drop(message);
    }
}

/// The buffers of one connection.
#[derive(Debug)]
pub struct Exchange<'a> {
    /// Received and not yet removed by the server. At most [`INPUT_MAX_BYTES`] may stay.
    pub input: &'a mut Vec<u8>,
    /// To be sent. Nothing more is received until it is.
    pub output: &'a mut Vec<u8>,
    /// This worker is finishing: tell the client, if the protocol has a way (`Connection: close`).
    pub draining: bool,
}

/// Where a connection stands after the server has seen its input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Between messages, and nothing that the next one needs is remembered here: a draining worker may move the
    /// connection to another worker, or end it.
    Idle,
    /// In the middle of a message, or of a conversation that only this worker can go on with: a draining worker waits.
    Busy,
    /// End it once the output is sent.
    Close,
}

/// The loop. Not `Send`: it takes signals on the thread that made it.
pub struct EventLoop<S: Server> {
    server: S,
    poll: Poll,
    signals: Signals,
    worker: Option<Worker>,
    messages: Option<Messages>,
    /// One turn was not enough for those that wait.
    may_have_messages: bool,
    listeners: Vec<Option<Listening>>,
    sessions: Slab<Session<S::Session>>,
    /// Connections that have more to read than one turn allows.
    unfinished: VecDeque<usize>,
    buffers: Buffers,
    draining: bool,
    /// What draining does with idle connections.
    idle: IdleRule,
    /// When to try again to give back what could not be.
    give_back_at: Option<Monotonic>,
    /// How long a connection may be idle.
    idle_timeout: Option<Duration>,
    /// When to look at which connection.
    timers: Timers,
}

struct Listening {
    listener: Listener,
    /// There may be a connection to take.
    ready: bool,
    /// The last take failed for want of something; tried again when a connection has ended.
    starved: bool,
}

impl<S: Server> EventLoop<S> {
    /// A loop without listeners. Make it before the program starts threads: it blocks SIGTERM and SIGINT for this
    /// thread and those that come after, and reads them itself.
    ///
    /// # Errors
    /// Those of [`Worker::from_env`]; `EMFILE`/`ENFILE`/`ENOMEM`.
    pub fn new(server: S) -> io::Result<Self> {
        let signals = Signals::block(&[Signal::SIGTERM, Signal::SIGINT])?;
        let worker = Worker::from_env()?;
        let poll = Poll::new()?;
        let signal_fd = signals.as_fd().as_raw_fd();
        poll.registry().register(&mut SourceFd(&signal_fd), SIGNALS, Interest::READABLE)?;
        if let Some(worker) = &worker {
            worker.wake_on_drain(Arc::new(Waker::new(poll.registry(), DRAIN)?));
        }
        let mut messages = worker.as_ref().map(Worker::messages);
        if let Some(messages) = &mut messages {
            poll.registry().register(messages, MESSAGES, Interest::READABLE)?;
        }
        let idle_timeout = worker.as_ref().and_then(Worker::idle_timeout);
        Ok(Self {
            server,
            poll,
            signals,
            worker,
            messages,
            may_have_messages: false,
            listeners: Vec::new(),
            sessions: Slab::new(),
            unfinished: VecDeque::new(),
            buffers: Buffers::new(),
            draining: false,
            idle: IdleRule::Close,
            give_back_at: None,
            idle_timeout,
            timers: Timers::default(),
        })
    }

    /// Ends connections that are idle for `timeout`, also without a primary. The primary's own `--idle-timeout`, if it
    /// has one, is stronger.
    pub fn idle_timeout(&mut self, timeout: Duration) {
        if self.worker.as_ref().and_then(Worker::idle_timeout).is_none() {
            self.idle_timeout = Some(timeout);
        }
    }

    /// Adds a listener.
    ///
    /// # Errors
    /// Those of epoll_ctl(2).
    pub fn listen(&mut self, mut listener: Listener) -> io::Result<()> {
        let token = Token(LISTENERS - self.listeners.len());
        listener.register(self.poll.registry(), token, Interest::READABLE)?;
        self.listeners.push(Some(Listening { listener, ready: true, starved: false }));
        Ok(())
    }

    /// Serves until it is told to finish and everything has finished.
    ///
    /// # Errors
    /// Those of epoll_wait(2). What happens on a connection ends that connection.
    pub fn run(mut self) -> io::Result<()> {
        let mut events = Events::with_capacity(256);
        self.look_for_drain();
        while !self.is_finished() {
            match self.poll.poll(&mut events, self.timeout()) {
                Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(error),
                _ => {}
            }
            for event in &events {
                match event.token() {
                    SIGNALS => {
                        if self.hear_signals() {
                            return Ok(());
                        }
                    }
                    DRAIN => self.look_for_drain(),
                    MESSAGES => self.may_have_messages = true,
                    Token(token) if token > LISTENERS - self.listeners.len() => {
                        if let Some(listening) = &mut self.listeners[LISTENERS - token] {
                            listening.ready = true;
                        }
                    }
                    Token(key) => {
                        if let Some(session) = self.sessions.get_mut(key) {
                            session.hear(event);
                            self.advance(key);
                        }
                    }
                }
            }
            if self.may_have_messages {
                self.hear_messages();
            }
            self.take_connections();
            for _ in 0..self.unfinished.len() {
                let key = self.unfinished.pop_front().expect("counted above");
                if let Some(session) = self.sessions.get_mut(key) {
                    session.queued = false;
                }
                self.advance(key);
            }
            self.end_overdue();
        }
        Ok(())
    }

    fn is_finished(&self) -> bool {
        self.draining
            && !self.may_have_messages
            && self.sessions.is_empty()
            && self.listeners.iter().all(Option::is_none)
    }

    fn timeout(&self) -> Option<Duration> {
        let ready = self.listeners.iter().flatten().any(|listening| listening.ready);
        if ready || self.may_have_messages || !self.unfinished.is_empty() {
            return Some(Duration::ZERO);
        }
        // Up to the next millisecond, which is what epoll counts in: not to wake too early and spin.
        let due = [self.timers.next_due(), self.give_back_at].into_iter().flatten().min();
        due.map(|due| due.since(Monotonic::now()) + Duration::from_millis(1))
    }

    /// True: a second signal, stop at once.
    fn hear_signals(&mut self) -> bool {
        while let Some(signal) = self.signals.next() {
            if self.draining {
                return true;
            }
            log::info!("signal={signal} [draining]");
            // The primary ends the lanes. Closing them would free the ports on which nobody else listens, and the
            // replacement is on its way.
            let asked = self.worker.as_ref().map(Worker::ask_to_disconnect);
            if let Some(Err(error)) = asked {
                log::error!("cannot ask the primary for the end: {error} [finishing]");
                self.listeners.iter().flatten().for_each(|it| it.listener.close());
            }
            let is_dealt = self.worker.is_some();
            self.start_draining(if is_dealt { IdleRule::GiveBack } else { IdleRule::Close });
        }
        false
    }

    fn hear_messages(&mut self) {
        self.may_have_messages = self.messages.is_some();
        for _ in 0..MESSAGES_PER_TURN {
            match self.messages.as_ref().map(Messages::try_receive) {
                Some(Ok(Some(message))) => self.server.message(message),
                Some(Ok(None) | Err(_)) | None => {
                    self.may_have_messages = false;
                    break;
                }
            }
        }
    }

    fn look_for_drain(&mut self) {
        // What was said before the order is heard before it: all of that waits already, and it is not more than this.
        self.hear_messages();
        match self.worker.as_ref().and_then(Worker::drain) {
            Some(Drain::Ordered(idle)) => self.start_draining(idle),
            Some(Drain::PrimaryGone) => self.start_draining(IdleRule::Close),
            None => {}
        }
    }

    fn start_draining(&mut self, idle: IdleRule) {
        self.draining = true;
        self.idle = idle;
        // A lane ends after what is queued in it. A socket of this process's own ends here.
        for listening in self.listeners.iter_mut().filter(|it| it.as_ref().is_some_and(|it| !it.listener.is_dealt())) {
            *listening = None;
        }
        self.settle_all();
    }

    fn settle_all(&mut self) {
        self.give_back_at = None;
        let keys: Vec<usize> = self.sessions.iter().map(|(key, _)| key).collect();
        for key in keys {
            self.settle(key);
        }
    }

    /// What draining asks of a connection in its present phase.
    fn settle(&mut self, key: usize) {
        let session = &mut self.sessions[key];
        if self.idle == IdleRule::GiveBack && session.is_movable() {
            return self.give_back(key);
        }
        session.settle_for_drain();
        self.keep_time(key);
    }

    /// While the primary takes no more, all of them wait for the next try; what their clients send is served here.
    fn give_back(&mut self, key: usize) {
        if self.give_back_at.is_some() {
            return;
        }
        match self.sessions[key].give_back(self.poll.registry()) {
            Ok(()) => self.end_session(key),
            Err(error) if matches!(error.raw_os_error(), Some(nix::libc::EAGAIN | nix::libc::ETOOMANYREFS)) => {
                self.give_back_at = Some(Monotonic::now() + GIVE_BACK_AGAIN);
            }
            Err(_) => {
                self.sessions[key].settle_for_drain();
                self.keep_time(key);
            }
        }
    }

    fn keep_time(&mut self, key: usize) {
        self.timers.ask(key, self.sessions[key].deadline());
    }

    fn take_connections(&mut self) {
        for index in 0..self.listeners.len() {
            for _ in 0..TAKES_PER_TURN {
                let Some(listening) = self.listeners[index].as_mut().filter(|it| it.ready) else { break };
                listening.starved = false;
                match listening.listener.try_accept() {
                    Ok(Some(connection)) => self.open_session(connection),
                    Ok(None) => self.listeners[index] = None,
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => listening.ready = false,
                    Err(error) => {
                        log::warn!("accept: {error} [again when a connection has ended]");
                        listening.ready = false;
                        listening.starved = true;
                    }
                }
            }
        }
    }

    fn open_session(&mut self, connection: Connection) {
        let state = self.server.open(connection.peer_addr());
        let key = self.sessions.insert(Session::new(connection, state));
        // Its request is often there already: look before paying for a registration.
        self.advance(key);
    }

    fn advance(&mut self, key: usize) {
        let Some(session) = self.sessions.get_mut(key) else { return };
        let fate = session.advance(&mut self.server, &mut self.buffers, self.draining);
        if matches!(fate, Ok(Fate::Ended) | Err(_))
            || session.ensure_registered(self.poll.registry(), Token(key)).is_err()
        {
            return self.end_session(key);
        }
        if matches!(fate, Ok(Fate::Unfinished)) && !std::mem::replace(&mut session.queued, true) {
            self.unfinished.push_back(key);
        }
        session.note_idleness(self.idle_timeout);
        self.keep_time(key);
        if self.draining {
            self.settle(key);
        }
    }

    fn end_session(&mut self, key: usize) {
        self.sessions.remove(key);
        self.timers.forget(key);
        for listening in self.listeners.iter_mut().flatten().filter(|it| it.starved) {
            listening.ready = true;
        }
    }

    fn end_overdue(&mut self) {
        let Some(due) = [self.timers.next_due(), self.give_back_at].into_iter().flatten().min() else { return };
        let now = Monotonic::now();
        if now < due {
            return;
        }
        if self.give_back_at.is_some_and(|at| now >= at) {
            self.settle_all();
        }
        while let Some(key) = self.timers.pop_due(now) {
            self.look_at_the_time(key, now);
        }
    }

    /// A connection that is ended for its idleness is read from once more before: a request may have come in between.
    fn look_at_the_time(&mut self, key: usize, now: Monotonic) {
        let Some(session) = self.sessions.get_mut(key) else { return };
        if session.is_overdue(now) {
            return self.end_session(key);
        }
        if session.is_idle_too_long(now) {
            session.look_again();
            self.advance(key);
        }
        let Some(session) = self.sessions.get_mut(key) else { return };
        if session.is_idle_too_long(now) {
            session.start_lingering();
        }
        self.keep_time(key);
    }
}
