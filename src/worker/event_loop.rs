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
//! **Draining.** When the primary orders it, or has gone, or SIGTERM or SIGINT comes, the listeners are taken empty,
//! idle connections end, those with a request in progress finish, and `run` returns. A second signal ends it at once.
//! A connection on which nothing has come yet gets [`FRESH_GRACE`]: its client has connected and its request may be
//! under way. Ending an idle connection means FIN, then waiting for the client's own end: closing a socket that data
//! reaches later would answer with a reset.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use mio::event::Source;
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token, Waker};
use slab::Slab;

use super::{Connection, Listener, Worker};
use crate::protocol::time::Monotonic;
use crate::sys::signals::{Signal, Signals};

/// How long a draining worker waits for the first byte of a connection that it has taken.
pub const FRESH_GRACE: Duration = Duration::from_secs(1);
/// How long an ended connection waits for its client's end before it is closed.
pub const LINGER: Duration = Duration::from_secs(1);
/// Unconsumed input of one connection above which it is closed: the server waits for the end of a message that is
/// larger than any server should accept.
pub const INPUT_MAX_BYTES: usize = 1024 * 1024;

/// How much one read takes, and how many reads and takes one turn of the loop gives to one source.
const READ_BYTES: usize = 16 * 1024;
const READS_PER_TURN: usize = 4;
const TAKES_PER_TURN: usize = 32;

const SIGNALS: Token = Token(usize::MAX);
const DRAIN: Token = Token(usize::MAX - 1);
/// Listeners count down from here, connections count up from 0.
const LISTENERS: usize = usize::MAX - 2;

/// What the program does with the bytes of its connections.
pub trait Server {
    /// What it remembers of each connection.
    type Session;

    /// A connection has come.
    fn open(&mut self, peer: Option<SocketAddr>) -> Self::Session;

    /// Bytes have come. Remove from the input what is dealt with, append the answer to the output.
    fn receive(&mut self, session: &mut Self::Session, exchange: &mut Exchange<'_>) -> Next;
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
    /// Between messages: a draining worker may end it.
    Idle,
    /// In the middle of a message: a draining worker waits for it.
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
    listeners: Vec<Option<Listening>>,
    sessions: Slab<Session<S::Session>>,
    /// Connections that have more to read than one turn allows.
    unfinished: VecDeque<usize>,
    /// What a read writes into.
    received: Box<[u8]>,
    /// Lent to whichever connection is served, so that idle ones hold no memory.
    input: Vec<u8>,
    output: Vec<u8>,
    draining: bool,
    /// The earliest deadline of any connection.
    deadline: Option<Monotonic>,
}

struct Listening {
    listener: Listener,
    /// There may be a connection to take.
    ready: bool,
    /// The last take failed for want of something; tried again when a connection has ended.
    starved: bool,
}

struct Session<T> {
    connection: Connection,
    state: T,
    input: Vec<u8>,
    output: Vec<u8>,
    phase: Phase,
    readable: bool,
    /// The client's FIN is on its way to us: no further event will announce it.
    client_ended: bool,
    registered: bool,
    deadline: Option<Monotonic>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Nothing has ever come.
    Fresh,
    Idle,
    Busy,
    /// Closed as soon as the output is sent.
    Closing,
    /// FIN sent, waiting for the client's.
    Lingering,
}

/// Whether a connection is still there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Open,
    Ended,
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
        let signal_fd = std::os::fd::AsRawFd::as_raw_fd(&std::os::fd::AsFd::as_fd(&signals));
        poll.registry().register(&mut SourceFd(&signal_fd), SIGNALS, Interest::READABLE)?;
        if let Some(worker) = &worker {
            worker.wake_on_drain(Arc::new(Waker::new(poll.registry(), DRAIN)?));
        }
        Ok(Self {
            server,
            poll,
            signals,
            worker,
            listeners: Vec::new(),
            sessions: Slab::new(),
            unfinished: VecDeque::new(),
            received: vec![0; READ_BYTES].into(),
            input: Vec::with_capacity(READ_BYTES),
            output: Vec::with_capacity(READ_BYTES),
            draining: false,
            deadline: None,
        })
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
                    Token(token) if token > LISTENERS - self.listeners.len() => {
                        if let Some(listening) = &mut self.listeners[LISTENERS - token] {
                            listening.ready = true;
                        }
                    }
                    Token(key) => {
                        if let Some(session) = self.sessions.get_mut(key) {
                            session.readable |= event.is_readable() || event.is_read_closed();
                            session.client_ended |= event.is_read_closed();
                            self.advance_session(key);
                        }
                    }
                }
            }
            self.take_connections();
            for _ in 0..self.unfinished.len() {
                let key = self.unfinished.pop_front().expect("counted above");
                self.advance_session(key);
            }
            self.end_overdue();
        }
        Ok(())
    }

    fn is_finished(&self) -> bool {
        self.draining && self.sessions.is_empty() && self.listeners.iter().all(Option::is_none)
    }

    fn timeout(&self) -> Option<Duration> {
        let ready = self.listeners.iter().flatten().any(|listening| listening.ready);
        if ready || !self.unfinished.is_empty() {
            return Some(Duration::ZERO);
        }
        // Up to the next millisecond, which is what epoll counts in: not to wake too early and spin.
        self.deadline.map(|deadline| deadline.since(Monotonic::now()) + Duration::from_millis(1))
    }

    /// True: a second signal, stop at once.
    fn hear_signals(&mut self) -> bool {
        while let Some(signal) = self.signals.next() {
            if self.draining {
                return true;
            }
            log::info!("signal={signal} [draining]");
            for listening in &mut self.listeners {
                match listening {
                    Some(listening) if listening.listener.is_dealt() => listening.listener.close(),
                    own => *own = None,
                }
            }
            self.start_draining();
        }
        false
    }

    fn look_for_drain(&mut self) {
        if !self.draining && self.worker.as_ref().is_some_and(|worker| worker.drain().is_some()) {
            self.start_draining();
        }
    }

    fn start_draining(&mut self) {
        self.draining = true;
        let keys: Vec<usize> = self.sessions.iter().map(|(key, _)| key).collect();
        for key in keys {
            self.settle(key);
        }
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
        let key = self.sessions.insert(Session {
            connection,
            state,
            input: Vec::new(),
            output: Vec::new(),
            phase: Phase::Fresh,
            readable: true,
            client_ended: false,
            registered: false,
            deadline: None,
        });
        // Its request is often there already: look before paying for a registration.
        self.advance_session(key);
    }

    fn advance_session(&mut self, key: usize) {
        if !self.sessions.contains(key) {
            return;
        }
        let fate = self.advance(key).and_then(|fate| match fate {
            Fate::Open => self.ensure_registered(key),
            Fate::Ended => Ok(Fate::Ended),
        });
        match fate {
            Ok(Fate::Open) => self.settle(key),
            Ok(Fate::Ended) | Err(_) => self.end_session(key),
        }
    }

    fn end_session(&mut self, key: usize) {
        self.sessions.remove(key);
        for listening in self.listeners.iter_mut().flatten().filter(|it| it.starved) {
            listening.ready = true;
        }
    }

    fn ensure_registered(&mut self, key: usize) -> io::Result<Fate> {
        let session = &mut self.sessions[key];
        if !session.registered {
            let interest = Interest::READABLE | Interest::WRITABLE;
            session.connection.register(self.poll.registry(), Token(key), interest)?;
            session.registered = true;
        }
        Ok(Fate::Open)
    }

    /// Sends and receives as far as it goes without sleeping.
    fn advance(&mut self, key: usize) -> io::Result<Fate> {
        for _ in 0..READS_PER_TURN {
            let session = &mut self.sessions[key];
            if !flush(session)? {
                return Ok(Fate::Open);
            }
            if session.phase == Phase::Closing {
                return Ok(end_sending(session));
            }
            if !session.readable {
                return Ok(Fate::Open);
            }
            if session.phase == Phase::Lingering {
                if read_more(session, &mut self.received)?.is_none() {
                    return Ok(Fate::Ended);
                }
                continue;
            }
            if self.receive(key)? == Fate::Ended {
                return Ok(Fate::Ended);
            }
        }
        if self.sessions[key].readable {
            self.unfinished.push_back(key);
        }
        Ok(Fate::Open)
    }

    /// One read, and what the server makes of it. Borrows the loop's buffers for a connection that has none.
    fn receive(&mut self, key: usize) -> io::Result<Fate> {
        let session = &mut self.sessions[key];
        if session.input.is_empty() {
            std::mem::swap(&mut session.input, &mut self.input);
        }
        if session.output.is_empty() {
            std::mem::swap(&mut session.output, &mut self.output);
        }
        let received = read_more(session, &mut self.received);
        if let Ok(Some(len)) = received
            && len > 0
        {
            session.input.extend_from_slice(&self.received[..len]);
            let mut exchange =
                Exchange { input: &mut session.input, output: &mut session.output, draining: self.draining };
            session.phase = match self.server.receive(&mut session.state, &mut exchange) {
                Next::Idle if session.input.is_empty() => Phase::Idle,
                Next::Idle | Next::Busy => Phase::Busy,
                Next::Close => Phase::Closing,
            };
            session.deadline = None;
        }
        let too_much = session.input.len() > INPUT_MAX_BYTES && session.phase != Phase::Closing;
        let sent = flush(session);
        if session.input.is_empty() || session.phase == Phase::Closing {
            // What follows a message after which the server ends the connection is nobody's.
            session.input.clear();
            std::mem::swap(&mut session.input, &mut self.input);
        }
        if session.output.is_empty() {
            std::mem::swap(&mut session.output, &mut self.output);
        }
        sent?;
        let ended = received?.is_none() || too_much;
        Ok(if ended { Fate::Ended } else { Fate::Open })
    }

    /// What draining asks of a connection in its present phase; and the loop wakes up for its deadline.
    fn settle(&mut self, key: usize) {
        let session = &mut self.sessions[key];
        if self.draining {
            match session.phase {
                Phase::Fresh => {
                    session.deadline.get_or_insert_with(|| Monotonic::now() + FRESH_GRACE);
                }
                Phase::Idle if session.output.is_empty() => start_lingering(session),
                Phase::Idle | Phase::Busy | Phase::Closing | Phase::Lingering => {}
            }
        }
        if let Some(deadline) = session.deadline {
            self.deadline = Some(self.deadline.map_or(deadline, |earliest| earliest.min(deadline)));
        }
    }

    fn end_overdue(&mut self) {
        let Some(earliest) = self.deadline else { return };
        let now = Monotonic::now();
        if now < earliest {
            return;
        }
        self.sessions.retain(|_, session| session.deadline.is_none_or(|deadline| now < deadline));
        self.deadline = self.sessions.iter().filter_map(|(_, session)| session.deadline).min();
    }
}

/// True once everything is sent.
fn flush<T>(session: &mut Session<T>) -> io::Result<bool> {
    let mut sent = 0;
    while sent < session.output.len() {
        match (&session.connection).write(&session.output[sent..]) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(len) => sent += len,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            Err(error) => return Err(error),
        }
    }
    session.output.drain(..sent);
    Ok(session.output.is_empty())
}

/// One read into `buffer`. `None` is the client's end, 0 that nothing is there at the moment.
fn read_more<T>(session: &mut Session<T>, buffer: &mut [u8]) -> io::Result<Option<usize>> {
    match (&session.connection).read(buffer) {
        Ok(0) => Ok(None),
        Ok(len) => {
            // A short read emptied the socket, and what comes next raises a new edge; unless the FIN was there
            // already. Source: epoll(7), questions and answers, 9.
            session.readable = len == buffer.len() || session.client_ended;
            Ok(Some(len))
        }
        Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(Some(0)),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
            session.readable = false;
            Ok(Some(0))
        }
        Err(error) => Err(error),
    }
}

/// The server is done with this connection and everything is sent. If the client has nothing under way the close is
/// a FIN; a client that has sent more than it was asked for is given time to see our end first.
fn end_sending<T>(session: &mut Session<T>) -> Fate {
    let mut byte = [0];
    match (&session.connection).read(&mut byte) {
        Ok(len) if len > 0 => {
            start_lingering(session);
            Fate::Open
        }
        _ => Fate::Ended,
    }
}

fn start_lingering<T>(session: &mut Session<T>) {
    let _ = session.connection.shutdown(Shutdown::Write);
    session.phase = Phase::Lingering;
    session.deadline = Some(Monotonic::now() + LINGER);
}
