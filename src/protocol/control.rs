//! The messages of the control channel. Pure: bytes in, messages out, and back.
//!
//! One JSON object per packet, at most [`PACKET_MAX_BYTES`], told apart by `type`. The first message of a worker is
//! [`FromWorker::Hello`], the first of the primary [`FromPrimary::Welcome`]; both carry [`VERSION`]. A type that the
//! reader does not know is ignored, so that a newer side can say more to an older one. Fields are only ever added.
//!
//! ```text
//!   worker                                         primary
//!   {"type":"hello","version":1,...}          ──▶
//!                                             ◀──  {"type":"welcome","version":1,...}       + scoreboard memfd
//!   {"type":"listen","request":1}             ──▶
//!                                             ◀──  {"type":"lane","request":1,"lane":0,...} + deal channel
//!                                                  or {"type":"refused","request":1,...}
//!   {"type":"listening","lane":0}             ──▶  connections are dealt from now on
//!   {"type":"listening_alone",...}            ──▶  on a socket of its own, of which the primary knows nothing
//!   {"type":"close","lane":0}                 ──▶  no more of them; what is untaken goes to other workers
//!   {"type":"message","body":ANY JSON}        ──▶  to whoever started it                    + any descriptor
//!                                             ◀──  {"type":"message","body":ANY JSON}       + any descriptor
//!   {"type":"consumed","messages":32}         ──▶  the primary may send so many more
//!   {"type":"disconnect"}                     ──▶  this worker wants to finish
//!                                             ◀──  {"type":"disconnect","idle":"close"}     finish, then exit
//! ```
//! **Messages** are the programs' own, in order with everything else; one may have one descriptor attached, of any
//! kind. A worker must always read this channel, because orders come through it, so unread messages need another
//! bound: the primary sends [`MESSAGES_UNREAD_MAX`] and then only as many as the worker says that it has consumed. A
//! worker that never says so gets that many. The other way round the kernel's queue is the bound: the primary reads at
//! once, unless what the worker says has lately taken more than a tenth of the primary's time. A worker that writes
//! faster than that sleeps in sendmsg(2).

use std::borrow::Cow;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;

use super::allow_list::AllowList;
use super::body::Body;
use super::ids::{LaneId, Slot, WorkerId};

/// The version of this protocol.
pub const VERSION: u32 = 1;

/// The largest packet on a control channel.
pub const PACKET_MAX_BYTES: usize = 64 * 1024;

/// The most messages that a worker has been sent and has not consumed. More are refused to the sender.
pub const MESSAGES_UNREAD_MAX: u32 = 64;

/// The `type` of messages.
const MESSAGE: &str = "message";

/// What a worker says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum FromWorker {
    /// The first message.
    Hello {
        /// [`VERSION`] of the worker's library.
        version: u32,
        /// The process that speaks; not always the one that the primary started (a shell may stand in between).
        pid: u32,
        /// Its soft RLIMIT_NOFILE: the most connections it could hold.
        open_files_max: u64,
    },
    /// Asks for a lane of a listener.
    Listen {
        /// Chosen by the worker, repeated in the answer.
        request: u32,
        /// Which listener, and how.
        #[serde(flatten)]
        wish: ListenWish,
    },
    /// The lane's channel has arrived and is being read.
    Listening {
        /// Which.
        lane: LaneId,
    },
    /// The worker accepts from a socket that it has bound itself: it is as ready as it will be.
    ListeningAlone {
        /// Where, for people.
        address: String,
    },
    /// The worker has closed its end of a lane, or is about to.
    Close {
        /// Which.
        lane: LaneId,
    },
    /// From the program to whoever started the primary; a descriptor may be attached.
    #[serde(skip_deserializing)]
    Message {
        /// What it says.
        body: Body,
    },
    /// The program has consumed messages: as many more may come.
    Consumed {
        /// How many since this was said last.
        messages: u32,
    },
    /// The worker wants to finish. The answer is [`FromPrimary::Disconnect`].
    Disconnect,
    /// A type that this version does not know.
    #[serde(other)]
    Unknown,
}

/// What a worker wants to listen on. Whatever is absent is left to the primary.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ListenWish {
    /// The address as in `--listen`, with an IP address for a host and an absolute path; absent: the first declared
    /// listener. Port 0: the n-th such wish of every worker is one listener, with one port of the kernel's choice.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// The worker's own bound on untaken connections, if lower than the primary's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queue_max: Option<u32>,
    /// The worker's own bound on open connections, if lower than the primary's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connections_max: Option<u32>,
    /// The backlog, if this wish is the first for its address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backlog: Option<u32>,
    /// An IPv6 listener is not to take IPv4 clients.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub ipv6_only: bool,
    /// A UDP socket, which is always shared, and no listener for streams.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub datagrams: bool,
    /// For datagrams: `SO_REUSEADDR`, and a socket of its own for every such wish of a worker.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub reuse_address: bool,
    /// The mode of the socket file, if this wish is the first for its path.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unix_mode: Option<u32>,
}

/// What the primary says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum FromPrimary {
    /// The answer to `hello`; the scoreboard's memfd is attached.
    Welcome {
        /// [`VERSION`] of the primary.
        version: u32,
        /// Who the worker is.
        worker: WorkerId,
        /// Its stable place.
        slot: Slot,
        /// How many reloads its primary had done when it was started.
        generation: u32,
        /// After how many milliseconds without a request a connection is to end; absent: never.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        idle_timeout_ms: Option<u64>,
    },
    /// The answer to `listen`; the worker's end of the deal channel is attached.
    Lane {
        /// Of the question.
        request: u32,
        /// The lane's number in messages and on the scoreboard.
        lane: LaneId,
        /// The listener's real address.
        address: String,
        /// The lane carries the listener's own socket, and no connections: see [`Kind::Socket`](super::record::Kind).
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        shared: bool,
        /// Every connection begins with a PROXY header, and these may send one; absent: there is none. The worker takes
        /// it off, unless [the record](super::record::Record::proxy_consumed) says that it has gone, and ends
        /// connections of anybody else.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        proxy_protocol: Option<AllowList>,
    },
    /// The other answer to `listen`.
    Refused {
        /// Of the question.
        request: u32,
        /// What bind(2) or listen(2) would have said.
        errno: i32,
        /// For people.
        reason: String,
    },
    /// From whoever started the primary to the program; a descriptor may be attached.
    #[serde(skip_deserializing)]
    Message {
        /// What it says.
        body: Body,
    },
    /// Finish and exit: no more connections come.
    Disconnect {
        /// What to do with idle connections.
        idle: IdleRule,
    },
    /// A type that this version does not know.
    #[serde(other)]
    Unknown,
}

/// What a draining worker does with connections on which no request is in progress.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum IdleRule {
    /// End them.
    Close,
    /// Return them to the primary, which deals them to other workers.
    GiveBack,
}

/// A packet that is no message of this protocol.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Malformed {
    /// What is wrong with it, for the log.
    pub reason: String,
}

impl Malformed {
    /// A packet of more than [`PACKET_MAX_BYTES`].
    pub fn too_long() -> Self {
        Self { reason: format!("a packet of more than {PACKET_MAX_BYTES} bytes") }
    }
}

impl std::fmt::Display for Malformed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.reason.fmt(f)
    }
}

/// The packet of a message.
pub fn encode<M: Serialize>(message: &M) -> Vec<u8> {
    serde_json::to_vec(message).expect("messages are plain structs with string keys")
}

/// One side's messages.
pub trait Spoken: Serialize + DeserializeOwned {
    /// The one that carries a body.
    fn message(body: Body) -> Self;
}

impl Spoken for FromWorker {
    fn message(body: Body) -> Self {
        Self::Message { body }
    }
}

impl Spoken for FromPrimary {
    fn message(body: Body) -> Self {
        Self::Message { body }
    }
}

/// What is looked at first. An internally tagged enum would take a body to pieces before it knew its type, and could
/// not give the text back any more.
#[derive(Deserialize)]
struct Envelope<'a> {
    #[serde(rename = "type", borrow)]
    kind: Cow<'a, str>,
    #[serde(borrow, default, deserialize_with = "even_null")]
    body: Option<&'a RawValue>,
}

/// `null` is a body too, not the lack of one.
fn even_null<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<&'de RawValue>, D::Error> {
    <&RawValue>::deserialize(deserializer).map(Some)
}

/// The message of a packet.
///
/// # Errors
/// [`Malformed`]: end the sender, nothing it says can be trusted.
pub fn decode<M: Spoken>(packet: &[u8]) -> Result<M, Malformed> {
    let malformed = |error: serde_json::Error| Malformed { reason: format!("not a message: {error}") };
    let Envelope { kind, body } = serde_json::from_slice(packet).map_err(malformed)?;
    match body {
        Some(body) if kind == MESSAGE => Ok(M::message(body.to_owned().into())),
        None if kind == MESSAGE => Err(Malformed { reason: "a message without a body".to_owned() }),
        _ => serde_json::from_slice(packet).map_err(malformed),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn messages_look_on_the_wire_as_documented() {
        let hello = FromWorker::Hello { version: 1, pid: 7, open_files_max: 1024 };
        assert_eq!(encode(&hello), br#"{"type":"hello","version":1,"pid":7,"open_files_max":1024}"#);
        let listen = FromWorker::Listen { request: 1, wish: ListenWish::default() };
        assert_eq!(encode(&listen), br#"{"type":"listen","request":1}"#);
        let end = FromPrimary::Disconnect { idle: IdleRule::GiveBack };
        assert_eq!(encode(&end), br#"{"type":"disconnect","idle":"give_back"}"#);
    }

    #[test]
    fn an_unknown_type_and_an_unknown_field_are_no_error() {
        assert_eq!(decode(br#"{"type":"sing","song":"x"}"#), Ok(FromWorker::Unknown));
        let close = decode(br#"{"type":"close","lane":3,"why":"tired"}"#);
        assert_eq!(close, Ok(FromWorker::Close { lane: LaneId(3) }));
    }

    #[test]
    fn a_message_carries_its_body_as_it_was_written() {
        let packet = br#"{"type":"message","body":{ "n":[1, 2.50,"\u00e4"] }}"#;
        let body = r#"{ "n":[1, 2.50,"\u00e4"] }"#;
        let Ok(FromWorker::Message { body: heard }) = decode(packet) else { panic!("it is a message") };
        assert_eq!(heard.as_str(), body);
        assert_eq!(encode(&FromPrimary::Message { body: heard }), packet);
        // The order of fields is nobody's promise, and null is a body like any other.
        let Ok(FromPrimary::Message { body: heard }) = decode(br#"{"body":null,"type":"message"}"#) else { panic!() };
        assert_eq!(heard.as_str(), "null");
        let nested = ["[".repeat(20_000), "]".repeat(20_000)].concat();
        let packet = format!(r#"{{"type":"message","body":{nested}}}"#);
        assert!(matches!(decode(packet.as_bytes()), Ok(FromWorker::Message { .. })), "no stack is used up by it");
    }

    #[test]
    fn garbage_is_malformed() {
        for packet in [
            &b""[..],
            b"{",
            b"[]",
            b"null",
            b"\xff\xfe",
            br#"{"type":"close","lane":300}"#,
            br#"{"type":7}"#,
            br#"{"type":"message"}"#,
            br#"{"type":"message","body":[}"#,
            b"{\"type\":\"message\",\"body\":\"\xff\"}",
            br#"{"type":"consumed","messages":-1}"#,
        ] {
            assert!(decode::<FromWorker>(packet).is_err(), "{packet:?}");
        }
    }

    proptest! {
        #[test]
        fn any_listen_survives_the_wire(
            request: u32, address: Option<String>, queue_max: Option<u32>, connections_max: Option<u32>,
            backlog: Option<u32>, ipv6_only: bool, unix_mode: Option<u32>
        ) {
            let others = ListenWish { backlog, ipv6_only, unix_mode, ..ListenWish::default() };
            let wish = ListenWish { address, queue_max, connections_max, ..others };
            let message = FromWorker::Listen { request, wish };
            prop_assert_eq!(decode(&encode(&message)), Ok(message));
        }

        #[test]
        fn any_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..256)) {
            let _ = decode::<FromWorker>(&bytes);
        }
    }
}
