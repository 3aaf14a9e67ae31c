//! How workers are spoken to. The core knows what a worker said, not how.

pub mod native;
pub mod outbox;

use std::os::fd::OwnedFd;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::protocol::allow_list::AllowList;
use crate::protocol::body::Body;
use crate::protocol::control::ListenWish;
use crate::protocol::ids::{LaneId, Slot, WorkerId};

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
        /// The process that speaks.
        pid: u32,
        /// Its soft limit of open files.
        open_files_max: u64,
    },
    /// It wants a lane.
    Listen(ListenRequest),
    /// It takes from a lane.
    Listening(LaneId),
    /// It accepts from a socket of its own, there.
    ListeningAlone(String),
    /// It has closed its end of a lane.
    Close(LaneId),
    /// Its program has something to say to whoever started the primary.
    Message {
        /// What.
        body: Body,
        /// What was attached.
        fd: Option<OwnedFd>,
    },
    /// It has consumed messages; the dialect has taken note.
    Consumed,
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
    pub address: String,
    /// The worker gets the listener's own socket through it, and no connections.
    pub shared: bool,
    /// Its connections begin with a PROXY header of one of these.
    pub proxy_protocol: Option<AllowList>,
}

/// The wish for a lane.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListenRequest {
    /// To be repeated in the answer.
    pub request: u32,
    /// Which listener, and how.
    pub wish: ListenWish,
}
