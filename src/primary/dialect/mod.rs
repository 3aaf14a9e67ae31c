//! How workers are spoken to. The core knows what a worker said, not how.

pub mod native;
pub mod node;
pub mod outbox;

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::time::Duration;

use mio::Interest;
use serde::{Deserialize, Serialize};

use super::address::Address;
use super::reexec::baggage::Baggage;
use super::settings::NodeOptions;
use crate::protocol::allow_list::AllowList;
use crate::protocol::body::Body;
use crate::protocol::bootstrap;
use crate::protocol::control::{self, FromPrimary, IdleRule, ListenWish, PACKET_MAX_BYTES};
use crate::protocol::ids::{LaneId, Slot, WorkerId};
use native::Native;
use node::Node;

/// How a worker is spoken to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DialectKind {
    /// croupier's own protocol: programs that use the worker library.
    Native,
    /// The protocol between Node's own cluster primary and its workers: Node programs, as they are.
    Node,
}

/// What a worker said, in whatever dialect.
#[derive(Debug)]
pub enum Said {
    /// It is there.
    Hello {
        /// The process that speaks, if it says so.
        pid: Option<u32>,
        /// Its soft limit of open files.
        open_files_max: u64,
    },
    /// It wants a lane.
    Listen(ListenRequest),
    /// It takes from a lane.
    Listening(LaneId),
    /// It accepts from a socket of its own, there.
    ListeningAlone(String),
    /// It has nothing (more) to listen on for now, and is as ready as it will be.
    Ready,
    /// A connection that was dealt to it, and of which the primary has kept a copy, is its own from now on.
    Took {
        /// Through which lane.
        lane: LaneId,
        /// The number of the connection.
        sequence: u64,
    },
    /// It does not take it, for now or because it has closed its server.
    Refused {
        /// Through which lane.
        lane: LaneId,
        /// The number of the connection.
        sequence: u64,
    },
    /// It has closed its end of a lane.
    Close(LaneId),
    /// Its program has something to say to whoever started the primary.
    Message {
        /// What.
        body: Body,
        /// What was attached.
        fd: Option<OwnedFd>,
    },
    /// Something that concerns the dialect alone, which has taken note of it.
    Noted,
    /// It wants to finish.
    Disconnect,
    /// Something that this version does not know; nothing follows from it.
    Unknown,
    /// Something that no worker says: end it.
    Garbage(String),
    /// It has closed its channel, or has gone.
    End,
}

/// What a worker is told first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Welcome {
    /// Who it is.
    pub worker: WorkerId,
    /// Its stable place.
    pub slot: Slot,
    /// How many reloads there had been when it was started.
    pub generation: u32,
    /// After how long without a request it is to end a connection; `None`: never.
    pub idle_timeout: Option<Duration>,
}

/// A wish granted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    /// The new lane.
    pub lane: LaneId,
    /// The listener's real address.
    pub address: Address,
    /// The worker gets the listener's own socket through it, and no connections.
    pub shared: bool,
    /// Its connections begin with a PROXY header of one of these.
    pub proxy_protocol: Option<AllowList>,
    /// What the first worker on that listener had for the others.
    pub data: Option<Body>,
}

/// The wish for a lane.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListenRequest {
    /// To be repeated in the answer.
    pub request: u64,
    /// Which listener, and how.
    pub wish: ListenWish,
    /// What it has for the other workers on that listener, if it is the first; the primary does not look into it.
    pub data: Option<Body>,
}

/// The primary's end of the conversation with one worker.
#[derive(Debug)]
pub enum Dialect {
    /// With a program that uses the worker library.
    Native(Native),
    /// With a Node program.
    Node(Box<Node>),
}

/// A conversation as it goes over an exec: one of them.
pub type Saved = (Option<native::Saved>, Option<node::Saved>);

/// A message of whoever started the primary, in every dialect. It is made once, whoever is to have it.
#[derive(Debug)]
pub struct Message {
    body: Body,
    packet: Arc<[u8]>,
}

impl Message {
    /// One that says this.
    pub fn new(body: Body) -> Self {
        let packet = control::encode(&FromPrimary::Message { body: body.clone() }).into();
        Self { body, packet }
    }

    /// How long what it says is.
    pub fn body_bytes(&self) -> usize {
        self.body.as_str().len()
    }
}

/// What a worker finds in its environment.
pub fn variables(
    kind: DialectKind,
    channel: RawFd,
    worker: WorkerId,
    slot: Slot,
    generation: u32,
) -> Vec<(OsString, OsString)> {
    match kind {
        DialectKind::Native => bootstrap::variables(channel, worker, generation),
        DialectKind::Node => node::variables(channel, worker, slot, generation),
    }
}

/// What it must not find there, because this process has inherited it: it would take itself for a worker of another
/// kind, or of somebody else.
pub fn foreign_variables(kind: DialectKind) -> &'static [&'static str] {
    match kind {
        DialectKind::Native => &node::VARIABLES,
        DialectKind::Node => &[bootstrap::CHANNEL],
    }
}

impl Dialect {
    /// A new conversation, and the end of its channel that the worker inherits.
    ///
    /// # Errors
    /// `EMFILE`/`ENFILE`: try again later.
    pub fn pair(kind: DialectKind, node: NodeOptions) -> io::Result<(Self, OwnedFd)> {
        match kind {
            DialectKind::Native => Native::pair().map(|(native, theirs)| (Self::Native(native), theirs)),
            DialectKind::Node => Node::pair(node).map(|(node, theirs)| (Self::Node(Box::new(node)), theirs)),
        }
    }

    /// Which dialect it is.
    pub fn kind(&self) -> DialectKind {
        match self {
            Self::Native(_) => DialectKind::Native,
            Self::Node(_) => DialectKind::Node,
        }
    }

    /// What the next image needs to go on with it.
    pub fn save(&self, baggage: &mut Baggage) -> Saved {
        match self {
            Self::Native(native) => (Some(native.save(baggage)), None),
            Self::Node(node) => (None, Some(node.save(baggage))),
        }
    }

    /// Goes on with it.
    ///
    /// # Errors
    /// As [`baggage::unpack`](super::reexec::baggage::unpack); `InvalidData` if there is none.
    pub fn restore(saved: Saved) -> io::Result<Self> {
        match saved {
            (Some(native), _) => Native::restore(native).map(Self::Native),
            (None, Some(node)) => Node::restore(node).map(|node| Self::Node(Box::new(node))),
            (None, None) => Err(io::Error::new(io::ErrorKind::InvalidData, "a worker without a channel")),
        }
    }

    /// What the worker said next, or `None` when there is nothing more for now.
    pub fn hear(&mut self, buffer: &mut Buffer) -> Option<Said> {
        match self {
            Self::Native(native) => native.hear(buffer),
            Self::Node(node) => node.hear(buffer),
        }
    }

    /// Answers [`Said::Hello`]. Messages that came before it follow.
    ///
    /// # Errors
    /// `WouldBlock` if the worker does not read, others if it is not there any more; like the other answers here.
    /// End it.
    pub fn welcome(&mut self, welcome: Welcome, scoreboard: BorrowedFd<'_>) -> io::Result<()> {
        match self {
            Self::Native(native) => native.welcome(welcome, scoreboard),
            Self::Node(_) => Ok(()),
        }
    }

    /// Answers [`Said::Listen`] with a lane. `fd` is the worker's end of its deal channel, if it has one, else the
    /// listener's own socket, if that is shared. It is borrowed.
    ///
    /// # Errors
    /// As [`welcome`](Self::welcome).
    pub fn grant(&mut self, request: u64, grant: Grant, fd: Option<BorrowedFd<'_>>) -> io::Result<()> {
        match self {
            Self::Native(native) => native.grant(request, grant, fd),
            Self::Node(node) => node.grant(request, &grant, fd),
        }
    }

    /// Answers [`Said::Listen`] with an error.
    ///
    /// # Errors
    /// As [`welcome`](Self::welcome).
    pub fn refuse(&mut self, request: u64, errno: i32, reason: String) -> io::Result<()> {
        match self {
            Self::Native(native) => native.refuse(request, errno, reason),
            Self::Node(node) => node.refuse(request, errno),
        }
    }

    /// Tells the worker to finish.
    ///
    /// # Errors
    /// As [`welcome`](Self::welcome).
    pub fn disconnect(&mut self, idle: IdleRule) -> io::Result<()> {
        match self {
            Self::Native(native) => native.disconnect(idle),
            Self::Node(node) => node.disconnect(),
        }
    }

    /// Has the worker end connections on which no request is in progress, while it still takes others; if it can.
    ///
    /// # Errors
    /// As [`welcome`](Self::welcome).
    pub fn end_idle(&mut self) -> io::Result<()> {
        match self {
            Self::Native(native) => native.disconnect(IdleRule::Close),
            // Being told to finish it would close its servers.
            Self::Node(_) => Ok(()),
        }
    }

    /// Sends a message, or lets it wait for the worker. Our copy of `fd` is closed once it is sent.
    ///
    /// # Errors
    /// `QuotaExceeded` if too many wait already; `EMSGSIZE` if it is too long; `InvalidInput` if this kind of worker
    /// cannot be sent such a thing; others of sendmsg(2): the worker has gone, or this user has too many descriptors in
    /// flight (`ETOOMANYREFS`). Nothing was sent.
    pub fn message(&mut self, message: &Message, fd: Option<OwnedFd>) -> io::Result<()> {
        match self {
            Self::Native(native) => native.message(&message.packet, fd),
            Self::Node(node) => node.message(&message.body, fd),
        }
    }

    /// Sends what waits, as far as the worker has read. When there is room again the channel becomes writable.
    ///
    /// # Errors
    /// `ETOOMANYREFS`: no event will tell when it is over, try again a little later.
    pub fn send_waiting(&mut self) -> io::Result<()> {
        match self {
            Self::Native(native) => native.send_waiting(),
            Self::Node(node) => node.send_waiting(),
        }
    }

    /// Whether a worker may never say that it is ready, and be it all the same.
    pub fn may_be_silent(&self) -> bool {
        match self {
            Self::Native(_) => false,
            Self::Node(node) => node.may_be_silent(),
        }
    }

    /// The channel has become readable; if the worker has closed its end, to the end.
    pub fn has_become_readable(&mut self, is_closed: bool) {
        match self {
            Self::Native(_) => {}
            Self::Node(node) => node.has_become_readable(is_closed),
        }
    }

    /// How many messages of a dead worker are heard. Its channel holds less; a child that it left behind may go on
    /// writing.
    pub fn last_words_max(&self) -> usize {
        match self {
            Self::Native(_) => 1 << 10,
            // Of any length: one call of Node's can write many of them.
            Self::Node(_) => 1 << 17,
        }
    }

    /// What the channel is watched for. Where connections go through it, every one that is taken would make it writable
    /// once more: there that is asked only while something waits.
    pub fn interest(&self) -> Interest {
        match self {
            Self::Node(node) if !node.is_behind() => Interest::READABLE,
            Self::Native(_) | Self::Node(_) => Interest::READABLE | Interest::WRITABLE,
        }
    }

    /// Whether connections have to wait until what waits is sent.
    pub fn is_behind(&self) -> bool {
        match self {
            Self::Native(_) => false,
            Self::Node(node) => node.is_behind(),
        }
    }
}

impl AsFd for Dialect {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Native(native) => native.as_fd(),
            Self::Node(node) => node.as_fd(),
        }
    }
}

/// Room for the largest packet, one for all channels.
#[derive(Debug)]
pub struct Buffer(Box<[u8]>);

impl Default for Buffer {
    fn default() -> Self {
        Self(vec![0; PACKET_MAX_BYTES].into())
    }
}
