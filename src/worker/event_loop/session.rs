//! One connection on the event loop: what it has received and has to send, and in which phase of its life it is.

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::time::Duration;

use mio::event::Source;
use mio::{Interest, Registry, Token};

use super::{Exchange, FRESH_GRACE, INPUT_MAX_BYTES, LINGER, Next, Server};
use crate::protocol::time::Monotonic;
use crate::worker::Connection;

/// How much one read takes, and how many reads one turn of the loop gives to one connection.
const READ_BYTES: usize = 16 * 1024;
const READS_PER_TURN: usize = 4;

/// A connection and what the server remembers of it.
pub(super) struct Session<T> {
    connection: Connection,
    state: T,
    input: Vec<u8>,
    output: Vec<u8>,
    phase: Phase,
    readable: bool,
    /// The client's FIN is on its way to us: no further event will announce it.
    client_ended: bool,
    registered: bool,
    /// It waits for its next turn.
    pub(super) queued: bool,
    /// When it is to be dropped.
    deadline: Option<Monotonic>,
    /// While nothing is in progress: when it has been so for too long.
    idle_until: Option<Monotonic>,
}

/// Memory lent to whichever connection is being served, so that idle ones hold none.
pub(super) struct Buffers {
    received: Box<[u8]>,
    input: Vec<u8>,
    output: Vec<u8>,
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

/// What is to become of a connection after it was served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    /// It waits for its next event.
    Waiting,
    /// There is more to read than one turn allows.
    Unfinished,
    /// It is over: drop it.
    Ended,
}

impl Buffers {
    pub(super) fn new() -> Self {
        let buffer = || Vec::with_capacity(READ_BYTES);
        Self { received: vec![0; READ_BYTES].into(), input: buffer(), output: buffer() }
    }
}

impl<T> Session<T> {
    pub(super) fn new(connection: Connection, state: T) -> Self {
        Self {
            connection,
            state,
            input: Vec::new(),
            output: Vec::new(),
            phase: Phase::Fresh,
            readable: true,
            client_ended: false,
            registered: false,
            queued: false,
            deadline: None,
            idle_until: None,
        }
    }

    /// Takes note of an event.
    pub(super) fn hear(&mut self, event: &mio::event::Event) {
        self.readable |= event.is_readable() || event.is_read_closed();
        self.client_ended |= event.is_read_closed();
    }

    /// Registers it, once.
    pub(super) fn ensure_registered(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        if !self.registered {
            self.connection.register(registry, token, Interest::READABLE | Interest::WRITABLE)?;
            self.registered = true;
        }
        Ok(())
    }

    /// Another worker could go on with it: nothing of a message has been read, or is left to send.
    pub(super) fn is_movable(&self) -> bool {
        matches!(self.phase, Phase::Fresh | Phase::Idle) && self.input.is_empty() && self.output.is_empty()
    }

    /// Returns it to the primary; after success it must be dropped. Deregistered before: closing would not do that,
    /// because the primary holds it too.
    pub(super) fn give_back(&mut self, registry: &Registry) -> io::Result<()> {
        self.connection.send_back()?;
        if std::mem::take(&mut self.registered) {
            let _ = self.connection.deregister(registry);
        }
        Ok(())
    }

    /// When to look at it.
    pub(super) fn deadline(&self) -> Option<Monotonic> {
        [self.deadline, self.idle_until].into_iter().flatten().min()
    }

    /// Whether it is to be dropped, whatever it is doing.
    pub(super) fn is_overdue(&self, now: Monotonic) -> bool {
        self.deadline.is_some_and(|deadline| now >= deadline)
    }

    /// Whether nothing has been in progress for too long.
    pub(super) fn is_idle_too_long(&self, now: Monotonic) -> bool {
        self.idle_until.is_some_and(|until| now >= until)
    }

    /// After it was served: from when on it is idle, if it is. What has not changed that, as an event without bytes,
    /// does not make it younger.
    pub(super) fn note_idleness(&mut self, timeout: Option<Duration>) {
        if let Some(timeout) = timeout.filter(|_| self.is_movable() && self.idle_until.is_none()) {
            self.idle_until = Some(Monotonic::now() + timeout);
        }
    }

    /// Has the next [`advance`](Self::advance) read, whether an event said so or not.
    pub(super) fn look_again(&mut self) {
        self.readable = true;
    }

    /// What draining asks of it in its present phase.
    pub(super) fn settle_for_drain(&mut self) {
        match self.phase {
            Phase::Fresh => {
                self.deadline.get_or_insert_with(|| Monotonic::now() + FRESH_GRACE);
            }
            Phase::Idle if self.output.is_empty() => self.start_lingering(),
            Phase::Idle | Phase::Busy | Phase::Closing | Phase::Lingering => {}
        }
    }

    /// Sends and receives as far as it goes without sleeping.
    pub(super) fn advance<S>(&mut self, server: &mut S, buffers: &mut Buffers, draining: bool) -> io::Result<Fate>
    where
        S: Server<Session = T>,
    {
        for _ in 0..READS_PER_TURN {
            if !self.flush()? {
                return Ok(Fate::Waiting);
            }
            if self.phase == Phase::Closing {
                return Ok(self.end_sending());
            }
            if !self.readable {
                return Ok(Fate::Waiting);
            }
            let still_there = match self.phase {
                Phase::Lingering => self.read(&mut buffers.received)?.is_some(),
                Phase::Fresh | Phase::Idle | Phase::Busy | Phase::Closing => self.serve(server, buffers, draining)?,
            };
            if !still_there {
                return Ok(Fate::Ended);
            }
        }
        Ok(if self.readable { Fate::Unfinished } else { Fate::Waiting })
    }

    /// One read, and what the server makes of it; false if the connection is over.
    fn serve<S>(&mut self, server: &mut S, buffers: &mut Buffers, draining: bool) -> io::Result<bool>
    where
        S: Server<Session = T>,
    {
        let len = match self.read(&mut buffers.received)? {
            None => return Ok(false),
            Some(0) => return Ok(true),
            Some(len) => len,
        };
        swap_if_empty(&mut self.input, &mut buffers.input);
        swap_if_empty(&mut self.output, &mut buffers.output);
        self.idle_until = None;
        self.input.extend_from_slice(&buffers.received[..len]);
        let mut exchange = Exchange { input: &mut self.input, output: &mut self.output, draining };
        self.phase = match server.receive(&mut self.state, &mut exchange) {
            Next::Idle if self.input.is_empty() => Phase::Idle,
            Next::Idle | Next::Busy => Phase::Busy,
            Next::Close => {
                // What follows a message after which the server ends the connection is nobody's.
                self.input.clear();
                Phase::Closing
            }
        };
        self.deadline = None;
        let sent = self.flush();
        swap_if_empty(&mut self.input, &mut buffers.input);
        swap_if_empty(&mut self.output, &mut buffers.output);
        sent?;
        Ok(self.input.len() <= INPUT_MAX_BYTES)
    }

    /// True once everything is sent.
    fn flush(&mut self) -> io::Result<bool> {
        let mut sent = 0;
        while sent < self.output.len() {
            match self.connection.write(&self.output[sent..]) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(len) => sent += len,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        self.output.drain(..sent);
        Ok(self.output.is_empty())
    }

    /// One read. `None` is the client's end, 0 that nothing is there at the moment.
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        match self.connection.read(buffer) {
            Ok(0) => Ok(None),
            Ok(len) => {
                // A short read emptied the socket, and what comes next raises a new edge; unless the FIN was there
                // already. Source: epoll(7), questions and answers, 9.
                self.readable = len == buffer.len() || self.client_ended;
                Ok(Some(len))
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(Some(0)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.readable = false;
                Ok(Some(0))
            }
            Err(error) => Err(error),
        }
    }

    /// The server is done with it and everything is sent. If the client has nothing under way the close is a FIN; a
    /// client that has sent more than it was asked for is given time to see our end first.
    fn end_sending(&mut self) -> Fate {
        match self.connection.read(&mut [0]) {
            Ok(len) if len > 0 => {
                self.start_lingering();
                Fate::Unfinished
            }
            _ => Fate::Ended,
        }
    }

    /// Ends it, so that its client sees a FIN whatever it has under way.
    pub(super) fn start_lingering(&mut self) {
        // ENOTCONN: the client has gone; the next read says so.
        let _ = self.connection.shutdown(Shutdown::Write);
        self.phase = Phase::Lingering;
        self.readable = true;
        self.deadline = Some(Monotonic::now() + LINGER);
        self.idle_until = None;
    }
}

/// Lends a connection without bytes the loop's memory, or takes it back: the same swap.
fn swap_if_empty(own: &mut Vec<u8>, lent: &mut Vec<u8>) {
    if own.is_empty() {
        std::mem::swap(own, lent);
    }
}
