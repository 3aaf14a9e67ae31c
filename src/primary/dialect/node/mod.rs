//! The Node dialect: what Node's own cluster primary speaks with its workers, so that Node programs are workers as they
//! are. What the lines are is in `reading.rs` and `writing.rs`, how they travel in `channel.rs`; this is the
//! conversation.
//!
//! A Node worker acknowledges what it is dealt and can refuse it. Until then the primary keeps its copy of the
//! connection, in the [lane](crate::primary::lanes), for nobody could receive it back out of the channel. Three rules
//! of Node's own primary's making:
//!
//! - A worker's descriptor is always acknowledged: until it is, everything else that it has to say waits inside it.
//! - Once it may leave, no descriptor is sent any more: one that is read together with that answer kills it.
//! - It is told to finish once, by `disconnect` or by the answer to its own wish: both together make it throw.

mod channel;
pub mod inspect;
mod reading;
mod writing;

#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};

use nix::errno::Errno;
use serde::{Deserialize, Serialize};
use socket2::{Domain, SockRef, Type};

use super::outbox::{self, Kind, Outbox};
use super::{Buffer, Grant, ListenRequest, Said};
use crate::primary::reexec::baggage::Baggage;
use crate::primary::settings::NodeOptions;
use crate::protocol::body::Body;
use crate::protocol::bootstrap;
use crate::protocol::control::MESSAGES_UNREAD_MAX;
use crate::protocol::ids::{LaneId, Slot, WorkerId};
use channel::{Channel, LINE_MAX_BYTES, Received};
use reading::{FromNode, Place, Query};

/// The number of the channel's descriptor, in decimal. Like the two that follow it is removed by Node before the
/// program runs.
const CHANNEL: &str = "NODE_CHANNEL_FD";
/// How lines are written.
const SERIALIZATION: &str = "NODE_CHANNEL_SERIALIZATION_MODE";
/// `cluster.worker.id`; what makes a worker of a program.
const WORKER_ID: &str = "NODE_UNIQUE_ID";
/// What pm2 tells a worker: its slot.
const APP_INSTANCE: &str = "NODE_APP_INSTANCE";

/// What a worker of another kind must not inherit.
pub const VARIABLES: [&str; 4] = [CHANNEL, SERIALIZATION, WORKER_ID, APP_INSTANCE];

/// The primary's end of one Node worker's channel.
#[derive(Debug)]
pub struct Node {
    channel: Channel,
    options: NodeOptions,
    outbox: Outbox,
    /// The channel was full when a connection was to be sent.
    is_full: bool,
    /// How much of the first packet in the outbox has been sent. Its descriptor went with the first byte.
    first_sent_bytes: usize,
    /// What came with descriptors that the worker has not acknowledged, in the order in which they were sent.
    unacknowledged: VecDeque<Sent>,
    /// How many connections it has neither accepted nor refused.
    unanswered: usize,
    /// Queries that are not answered, and servers that do not listen yet.
    asked: Vec<Asked>,
    /// Lanes on which it listens, and of which the core has not been told.
    to_announce: VecDeque<LaneId>,
    readiness: Readiness,
    leaving: Leaving,
    /// The line of a deal: its memory is used again.
    line: String,
}

/// What went with a descriptor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum Sent {
    Connection { lane: LaneId, sequence: u64 },
    Listener { request: u64, lane: LaneId },
    Message,
}

/// A server of the worker, from its query until it listens.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Asked {
    request: u64,
    place: Place,
    datagrams: bool,
    data: Option<Body>,
    /// `None`: not answered.
    lane: Option<LaneId>,
}

/// Whether it counts as ready when it listens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum Readiness {
    /// Not before it says so.
    Awaited,
    /// It has just said so; it may listen on nothing.
    News,
    /// It does.
    Known,
}

/// How far the worker's end has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum Leaving {
    No,
    /// It is to be told to finish, once it has answered for every connection. From Node 26 on a server that closes ends
    /// what it has accepted a moment before, and whose request has not come yet; the answers leave it that moment.
    Due,
    /// It wants to leave by itself and waits for the answer to this request.
    Asked(u64),
    /// It has been told to finish. That is an answer to a wish that crosses it, too.
    Told,
    /// It may leave.
    Answered,
}

/// A channel as it goes over an exec.
#[derive(Debug, Serialize, Deserialize)]
pub struct Saved {
    lines: channel::Saved,
    options: NodeOptions,
    outbox: Vec<outbox::Saved>,
    first_sent_bytes: usize,
    unacknowledged: VecDeque<Sent>,
    unanswered: usize,
    asked: Vec<Asked>,
    to_announce: VecDeque<LaneId>,
    readiness: Readiness,
    leaving: Leaving,
}

/// The variables of one worker.
pub fn variables(channel: RawFd, worker: WorkerId, slot: Slot, generation: u32) -> Vec<(OsString, OsString)> {
    let variable = |name: &str, value: String| (name.into(), value.into());
    vec![
        variable(CHANNEL, channel.to_string()),
        variable(SERIALIZATION, "json".into()),
        variable(WORKER_ID, worker.to_string()),
        variable(APP_INSTANCE, slot.to_string()),
        variable(bootstrap::WORKER_ID, worker.to_string()),
        variable(bootstrap::GENERATION, generation.to_string()),
    ]
}

impl Node {
    /// A new channel, and the end that the worker inherits.
    ///
    /// # Errors
    /// `EMFILE`/`ENFILE`: try again later.
    pub fn pair(options: NodeOptions) -> io::Result<(Self, OwnedFd)> {
        let (channel, theirs) = Channel::pair()?;
        let readiness = if options.wait_ready { Readiness::Awaited } else { Readiness::Known };
        let node = Self {
            channel,
            options,
            outbox: Outbox::default(),
            is_full: false,
            first_sent_bytes: 0,
            unacknowledged: VecDeque::new(),
            unanswered: 0,
            asked: Vec::new(),
            to_announce: VecDeque::new(),
            readiness,
            leaving: Leaving::No,
            line: String::new(),
        };
        Ok((node, theirs))
    }

    /// What the next image needs to go on with it.
    pub fn save(&self, baggage: &mut Baggage) -> Saved {
        Saved {
            lines: self.channel.save(baggage),
            options: self.options,
            outbox: self.outbox.save(baggage),
            first_sent_bytes: self.first_sent_bytes,
            unacknowledged: self.unacknowledged.clone(),
            unanswered: self.unanswered,
            asked: self.asked.clone(),
            to_announce: self.to_announce.clone(),
            readiness: self.readiness,
            leaving: self.leaving,
        }
    }

    /// Goes on with it.
    ///
    /// # Errors
    /// As [`baggage::unpack`](crate::primary::reexec::baggage::unpack).
    pub fn restore(saved: Saved) -> io::Result<Self> {
        Ok(Self {
            channel: Channel::restore(saved.lines)?,
            options: saved.options,
            outbox: Outbox::restore(saved.outbox)?,
            // If it is not, trying costs nothing.
            is_full: true,
            first_sent_bytes: saved.first_sent_bytes,
            unacknowledged: saved.unacknowledged,
            unanswered: saved.unanswered,
            asked: saved.asked,
            to_announce: saved.to_announce,
            readiness: saved.readiness,
            leaving: saved.leaving,
            line: String::new(),
        })
    }

    /// What the worker said next, or `None` when there is nothing more for now.
    pub fn hear(&mut self, buffer: &mut Buffer) -> Option<Said> {
        loop {
            if let Some(said) = self.announce() {
                return Some(said);
            }
            let Some(line) = self.channel.next_line() else {
                match self.channel.receive(buffer) {
                    Received::Bytes => continue,
                    Received::Nothing => return self.tell_when_due().err().and_then(unsent),
                    Received::End => return Some(Said::End),
                    Received::TooMuch(what) => return Some(Said::Garbage(what.to_owned())),
                }
            };
            let said = match reading::read(line) {
                Ok(message) => self.said(message),
                Err(malformed) => Ok(Some(Said::Garbage(malformed.0))),
            };
            match said {
                Ok(Some(said)) => return Some(said),
                Ok(None) => {}
                Err(error) => {
                    if let Some(said) = unsent(error) {
                        return Some(said);
                    }
                }
            }
        }
    }

    /// What follows from what was said before.
    fn announce(&mut self) -> Option<Said> {
        if self.readiness == Readiness::Awaited {
            return None;
        }
        let is_news = std::mem::replace(&mut self.readiness, Readiness::Known) == Readiness::News;
        self.to_announce.pop_front().map(Said::Listening).or_else(|| is_news.then_some(Said::Ready))
    }

    /// `None`: that is all that there is to it. So it is only with what a worker cannot say without end: its talk is
    /// counted by what [`hear`](Self::hear) returns.
    ///
    /// # Errors
    /// The answer cannot be sent: see [`put`](Self::put).
    fn said(&mut self, message: FromNode) -> io::Result<Option<Said>> {
        Ok(match message {
            FromNode::Online => Some(Said::Hello { pid: None, open_files_max: u64::MAX }),
            FromNode::Query(query) => return self.asked_for(query),
            FromNode::Listening(place) => {
                let granted = |asked: &Asked| asked.lane.is_some() && place.is_of(&asked.place);
                let granted = self.asked.iter().position(granted).map(|index| self.asked.swap_remove(index));
                let Some(lane) = granted.and_then(|asked| asked.lane) else { return Ok(Some(Said::Unknown)) };
                self.to_announce.push_back(lane);
                None
            }
            FromNode::Close(key) => match writing::lane_of(&key) {
                Some(lane) => {
                    self.forget(lane);
                    Some(Said::Close(lane))
                }
                None => Some(Said::Unknown),
            },
            FromNode::Ack => match self.unacknowledged.pop_front() {
                Some(_) => None,
                None => Some(Said::Garbage("it acknowledged a descriptor that it was never sent".into())),
            },
            FromNode::Nack => return self.lost_in_transit(),
            FromNode::Answer { number, is_accepted } => {
                let (lane, sequence) = writing::connection_of(number);
                self.unanswered = self.unanswered.saturating_sub(1);
                Some(if is_accepted { Said::Took { lane, sequence } } else { Said::Refused { lane, sequence } })
            }
            FromNode::Leaving { request } => match self.leaving {
                Leaving::No | Leaving::Asked(_) => {
                    self.leaving = Leaving::Asked(request);
                    Some(Said::Disconnect)
                }
                Leaving::Told => Some(Said::Noted),
                Leaving::Due | Leaving::Answered => {
                    self.leaving = Leaving::Answered;
                    self.put(Kind::Answer, writing::may_leave(request), None)?;
                    Some(Said::Noted)
                }
            },
            FromNode::Message(body) => {
                if self.readiness == Readiness::Awaited && body.as_str() == reading::READY {
                    self.readiness = Readiness::News;
                }
                Some(Said::Message { body, fd: None })
            }
            FromNode::WithHandle(body) => {
                let fd = self.channel.take_fd();
                let answer = if fd.is_some() { writing::ACK } else { writing::NACK };
                self.put(Kind::Answer, answer.to_owned(), None)?;
                Some(fd.map_or(Said::Noted, |fd| Said::Message { body, fd: Some(fd) }))
            }
            FromNode::Unknown => Some(Said::Unknown),
        })
    }

    fn asked_for(&mut self, query: Query) -> io::Result<Option<Said>> {
        let Query { request, place, wish, data } = query;
        let wish = match wish {
            Ok(wish) if self.leaving == Leaving::No => wish,
            Ok(_) => return self.refuse_at_once(request, Errno::ESHUTDOWN, data),
            Err(why) => {
                log::debug!("query={request} {why} [refused]");
                return self.refuse_at_once(request, Errno::EINVAL, data);
            }
        };
        self.asked.push(Asked { request, place, datagrams: wish.datagrams, data: data.clone(), lane: None });
        Ok(Some(Said::Listen(ListenRequest { request, wish, data })))
    }

    fn refuse_at_once(&mut self, request: u64, errno: Errno, data: Option<Body>) -> io::Result<Option<Said>> {
        self.put(Kind::Answer, writing::refused(request, errno as i32, data.as_ref()), None)?;
        Ok(Some(Said::Noted))
    }

    /// The worker had no descriptor left for what came with the message that it has not answered for longest; it has
    /// forgotten the message.
    fn lost_in_transit(&mut self) -> io::Result<Option<Said>> {
        Ok(match self.unacknowledged.pop_front() {
            Some(Sent::Connection { lane, sequence }) => {
                self.unanswered = self.unanswered.saturating_sub(1);
                Some(Said::Refused { lane, sequence })
            }
            Some(Sent::Listener { request, lane }) => {
                let asked = self.asked.iter().find(|asked| asked.request == request);
                let data = asked.and_then(|asked| asked.data.clone());
                self.forget(lane);
                self.put(Kind::Answer, writing::refused(request, Errno::EMFILE as i32, data.as_ref()), None)?;
                Some(Said::Close(lane))
            }
            Some(Sent::Message) => Some(Said::Noted),
            None => Some(Said::Garbage("it misses a descriptor that it was never sent".into())),
        })
    }

    /// A server is closed.
    fn forget(&mut self, lane: LaneId) {
        self.asked.retain(|asked| asked.lane != Some(lane));
        self.to_announce.retain(|it| *it != lane);
    }

    /// Sends a connection, which the worker has to answer for. `connection` is borrowed.
    ///
    /// # Errors
    /// `WouldBlock` if the worker does not read, or was told to finish; nothing was sent. `EPIPE` if it has closed its
    /// end. `ETOOMANYREFS`: this user has too many descriptors in flight.
    pub fn deal(&mut self, lane: LaneId, sequence: u64, connection: BorrowedFd<'_>) -> io::Result<()> {
        if self.leaving != Leaving::No || self.is_behind() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        writing::write_connection(&mut self.line, lane, sequence);
        let sent = self.channel.send(self.line.as_bytes(), Some(connection));
        self.is_full = sent.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock);
        let sent_bytes = sent?;
        self.unacknowledged.push_back(Sent::Connection { lane, sequence });
        self.unanswered += 1;
        let rest = &self.line.as_bytes()[sent_bytes..];
        if !rest.is_empty() {
            self.outbox.push(Kind::Answer, rest.into(), None)?;
        }
        Ok(())
    }

    /// Answers a query. `socket` is the listener's own if the lane is shared; it is borrowed.
    ///
    /// # Errors
    /// `WouldBlock` if the worker does not read, others if it is not there any more; like the other answers here.
    /// End it.
    pub fn grant(&mut self, request: u64, grant: &Grant, socket: Option<BorrowedFd<'_>>) -> io::Result<()> {
        let Some(asked) = self.asked.iter_mut().find(|asked| asked.request == request) else { return Ok(()) };
        let lane = grant.lane;
        asked.lane = Some(lane);
        let Some(socket) = socket else {
            let answer = writing::granted(request, lane, &grant.address, grant.data.as_ref());
            return self.put(Kind::Answer, answer, None);
        };
        let answer = writing::shared(request, lane, grant.data.as_ref(), asked.datagrams);
        self.put(Kind::Answer, answer, Some(socket.try_clone_to_owned()?))?;
        self.unacknowledged.push_back(Sent::Listener { request, lane });
        Ok(())
    }

    /// Answers a query with an error.
    ///
    /// # Errors
    /// As [`grant`](Self::grant).
    pub fn refuse(&mut self, request: u64, errno: i32) -> io::Result<()> {
        let asked = self.asked.iter().position(|asked| asked.request == request);
        let data = asked.and_then(|index| self.asked.swap_remove(index).data);
        self.put(Kind::Answer, writing::refused(request, errno, data.as_ref()), None)
    }

    /// Tells the worker to finish, once it has answered for what it was dealt, or answers its wish to.
    ///
    /// # Errors
    /// As [`grant`](Self::grant).
    pub fn disconnect(&mut self) -> io::Result<()> {
        match self.leaving {
            Leaving::No => {
                self.leaving = Leaving::Due;
                self.tell_when_due()
            }
            Leaving::Asked(request) => {
                self.leaving = Leaving::Answered;
                self.put(Kind::Answer, writing::may_leave(request), None)
            }
            Leaving::Due | Leaving::Told | Leaving::Answered => Ok(()),
        }
    }

    fn tell_when_due(&mut self) -> io::Result<()> {
        if self.leaving != Leaving::Due || self.unanswered > 0 {
            return Ok(());
        }
        self.leaving = Leaving::Told;
        if self.options.shutdown_message {
            self.put(Kind::Answer, writing::SHUTDOWN.to_owned(), None)?;
        }
        self.put(Kind::Answer, writing::disconnect(), None)
    }

    /// Sends a message, or lets it wait for the worker. Our copy of `fd`, a socket, is closed once it is sent.
    ///
    /// # Errors
    /// `InvalidInput` if Node would take the message for its own, or `fd` is of no kind that it knows; `QuotaExceeded`
    /// if [`MESSAGES_UNREAD_MAX`] messages wait, or [`LINE_MAX_BYTES`]; `EMSGSIZE` above that; others of sendmsg(2).
    /// Nothing was sent.
    pub fn message(&mut self, body: &Body, fd: Option<OwnedFd>) -> io::Result<()> {
        if reading::is_internal(body) {
            let why = "a message whose `cmd` begins with NODE_ is Node's own";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
        }
        if fd.is_some() && self.leaving != Leaving::No {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        let line = writing::message(body, fd.as_ref().map(kind_of).transpose()?);
        if line.len() > LINE_MAX_BYTES {
            return Err(io::Error::from_raw_os_error(nix::libc::EMSGSIZE));
        }
        let is_first = self.outbox.is_empty();
        let is_too_much = self.outbox.waiting_bytes() + line.len() > LINE_MAX_BYTES;
        if !is_first && (is_too_much || self.outbox.message_count() >= MESSAGES_UNREAD_MAX as usize) {
            return Err(io::ErrorKind::QuotaExceeded.into());
        }
        let has_fd = fd.is_some();
        self.put(Kind::Message, line, fd)?;
        self.unacknowledged.extend(has_fd.then_some(Sent::Message));
        Ok(())
    }

    /// Sends what waits, as far as the worker has read. When there is room again the channel becomes writable.
    ///
    /// # Errors
    /// `ETOOMANYREFS`: no event will tell when it is over, try again a little later.
    pub fn send_waiting(&mut self) -> io::Result<()> {
        self.is_full = false;
        while let Some((line, fd)) = self.outbox.first() {
            let fd = fd.filter(|_| self.first_sent_bytes == 0);
            let (rest, len) = (&line[self.first_sent_bytes..], line.len());
            match self.channel.send(rest, fd) {
                Ok(sent_bytes) => self.first_sent_bytes += sent_bytes,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.raw_os_error() == Some(nix::libc::ETOOMANYREFS) => return Err(error),
                // The worker has gone: its end will be heard.
                Err(_) => {
                    self.outbox.clear();
                    self.first_sent_bytes = 0;
                }
            }
            if self.first_sent_bytes == len {
                self.outbox.remove_first();
                self.first_sent_bytes = 0;
            }
        }
        Ok(())
    }

    /// Whether it may never ask to listen: a program that has nothing to serve, or a socket of its own. One that was to
    /// say that it is ready has to.
    pub fn may_be_silent(&self) -> bool {
        !self.options.wait_ready
    }

    /// Whether something waits for room in the channel: no connection is dealt before it.
    pub fn is_behind(&self) -> bool {
        self.is_full || !self.outbox.is_empty()
    }

    /// The channel has become readable; if the worker has closed its end, to the end.
    pub fn has_become_readable(&mut self, is_closed: bool) {
        self.channel.has_become_readable(is_closed);
    }

    /// Lets a line follow what waits, and sends it at once if nothing does.
    ///
    /// # Errors
    /// `WouldBlock` if too many wait: the worker does not read. `EPIPE`: it has closed its end.
    fn put(&mut self, kind: Kind, line: String, fd: Option<OwnedFd>) -> io::Result<()> {
        let is_first = self.outbox.is_empty();
        if is_first {
            self.first_sent_bytes = match self.channel.send(line.as_bytes(), fd.as_ref().map(AsFd::as_fd)) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
                sent_bytes => sent_bytes?,
            };
            if self.first_sent_bytes == line.len() {
                self.first_sent_bytes = 0;
                return Ok(());
            }
        }
        self.outbox.push(kind, line.into_bytes().into(), fd)
    }
}

impl AsFd for Node {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.channel.as_fd()
    }
}

/// What to make of an answer that could not be sent. Nothing, if the worker has gone: its end comes after what it has
/// said before.
fn unsent(error: io::Error) -> Option<Said> {
    let has_gone = matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset);
    (!has_gone).then(|| Said::Garbage(format!("it does not read its channel: {error}")))
}

/// What Node makes of a descriptor, as it stands in the message. Anything else would end the worker. It is made
/// non-blocking: libuv takes that for granted.
///
/// # Errors
/// `InvalidInput`: it is no socket that a Node program can have.
fn kind_of(fd: &OwnedFd) -> io::Result<&'static str> {
    let socket = SockRef::from(fd);
    let unfit =
        || io::Error::new(io::ErrorKind::InvalidInput, "Node takes stream sockets, servers and UDP sockets only");
    let (domain, kind) = (socket.domain().map_err(|_| unfit())?, socket.r#type()?);
    socket.set_nonblocking(true)?;
    match (domain, kind) {
        (Domain::IPV4 | Domain::IPV6 | Domain::UNIX, Type::STREAM) if socket.is_listener()? => Ok(r#""net.Server""#),
        (Domain::IPV4 | Domain::IPV6 | Domain::UNIX, Type::STREAM) => Ok(r#""net.Socket""#),
        (Domain::IPV4, Type::DGRAM) => Ok(r#""dgram.Socket","dgramType":"udp4""#),
        (Domain::IPV6, Type::DGRAM) => Ok(r#""dgram.Socket","dgramType":"udp6""#),
        _ => Err(unfit()),
    }
}
