//! The lines of Node's cluster IPC. Pure: bytes in, what they mean out, and back.
//!
//! UTF-8 JSON, one value per line. An object whose `cmd` is a string that begins with `NODE_` is Node's own, everything
//! else is a message of the program. Read in Node's sources (lib/internal/cluster, lib/internal/child_process.js) and
//! tried with versions 14 to 25:
//!
//! ```text
//!   worker                                                         primary
//!   {"cmd":"NODE_CLUSTER","act":"online","seq":0}             ──▶
//!   {...,"act":"queryServer","address":"::1","port":80,...}   ──▶
//!                                                             ◀──  {...,"ack":1,"key":"0","sockname":{...}}
//!   {...,"act":"listening",...}                               ──▶
//!                                                             ◀──  {"cmd":"NODE_HANDLE",..."act":"newconn"...} + fd
//!   {"cmd":"NODE_HANDLE_ACK"}                                 ──▶  the descriptor has arrived; NACK: it was lost
//!   {...,"ack":7,"accepted":true}                             ──▶  the connection is the worker's; false: deal again
//!   {...,"act":"close","key":"0"}                             ──▶
//!                                                             ◀──  {...,"act":"disconnect"}   finish, then exit
//!   {...,"act":"exitedAfterDisconnect","seq":9}               ──▶  the worker leaves by itself, once it is answered
//!   {"cmd":"NODE_HANDLE","type":"net.Socket","msg":ANY}  + fd ──▶  a message with a descriptor; answered by ACK
//! ```
//! What no version of Node sends is an error of that worker: nothing here can fail for any other reason.

use std::fmt::Write;

use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use crate::primary::address::Address;
use crate::protocol::body::Body;
use crate::protocol::control::ListenWish;
use crate::protocol::ids::LaneId;

/// The answer to a descriptor that has arrived.
pub const ACK: &str = "{\"cmd\":\"NODE_HANDLE_ACK\"}\n";
/// The answer to a message that came without its descriptor: Node sends it again.
pub const NACK: &str = "{\"cmd\":\"NODE_HANDLE_NACK\"}\n";
/// What pm2 sends before it ends a worker.
pub const SHUTDOWN: &str = "\"shutdown\"\n";
/// What a program sends that says itself when it is ready.
pub const READY: &str = "\"ready\"";

/// Of `flags` in a query: bind to IPv6 alone. Source: `UV_TCP_IPV6ONLY`, `UV_UDP_IPV6ONLY`.
const FLAG_IPV6_ONLY: u64 = 1;
/// Of `flags` in a query for UDP. Source: `UV_UDP_REUSEADDR`.
const FLAG_REUSE_ADDRESS: u64 = 4;
/// What `readableAll` and `writableAll` mean for the file of a Unix socket. Source: uv_pipe_chmod.
const MODE_READABLE_ALL: u32 = 0o444;
const MODE_WRITABLE_ALL: u32 = 0o222;
/// How much of a line that is none is repeated to people.
const SHOWN_MAX: usize = 80;

/// A line of a worker.
#[derive(Debug)]
pub enum FromNode {
    /// Its cluster part is there.
    Online,
    /// It wants to listen.
    Query(Query),
    /// It listens on what it was granted.
    Listening(Place),
    /// It has closed a server.
    Close(String),
    /// It has received the descriptor that was sent before all others that it has not answered for.
    Ack,
    /// It has received the message, and had no descriptor left for what came with it.
    Nack,
    /// A connection is its own from now on, or is none of its business.
    Answer {
        /// The number of the connection and its lane: see [`connection_number`].
        number: u64,
        /// Whether it takes it.
        is_accepted: bool,
    },
    /// It leaves by itself, and waits for an answer.
    Leaving {
        /// To be repeated in the answer.
        request: u64,
    },
    /// Its program has something to say.
    Message(Body),
    /// Its program has something to say, and a descriptor comes with it.
    WithHandle(Body),
    /// Something that nothing follows from.
    Unknown,
}

/// The wish to listen.
#[derive(Debug, Clone, PartialEq)]
pub struct Query {
    /// To be repeated in the answer.
    pub request: u64,
    /// Where.
    pub place: Place,
    /// Which listener, and how; or why there can be none.
    pub wish: Result<ListenWish, String>,
    /// What a TLS server has for the others on its listener: the keys of its session tickets.
    pub data: Option<Body>,
}

/// By what a worker tells its servers apart.
#[derive(Debug, Clone, PartialEq, Deserialize, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Place {
    #[serde(default)]
    address: Option<String>,
    #[serde(default)]
    address_type: Value,
    #[serde(default)]
    port: Option<i64>,
    #[serde(default)]
    fd: Option<i64>,
    #[serde(default)]
    index: Value,
}

/// A line that is none of Node's. The worker that sent it cannot be understood any more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Malformed(pub String);

#[derive(Deserialize)]
struct Peek<'a> {
    #[serde(borrow, default)]
    cmd: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Handle {
    #[serde(default)]
    msg: Option<Box<RawValue>>,
}

#[derive(Deserialize)]
struct Internal {
    #[serde(default)]
    act: Option<String>,
    #[serde(default)]
    seq: Option<u64>,
    #[serde(default)]
    ack: Option<Value>,
    #[serde(default)]
    accepted: bool,
    #[serde(default)]
    key: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Options {
    #[serde(default)]
    data: Option<Body>,
    #[serde(default)]
    flags: u64,
    #[serde(default)]
    backlog: Value,
    #[serde(default)]
    readable_all: bool,
    #[serde(default)]
    writable_all: bool,
}

/// Reads a line, without its line break.
///
/// # Errors
/// [`Malformed`]: end that worker.
pub fn read(line: &[u8]) -> Result<FromNode, Malformed> {
    if let Some(answer) = read_usual(line) {
        return Ok(answer);
    }
    // Bun marks Node's own messages so.
    let line = line.strip_prefix(b"\x02").unwrap_or(line);
    let malformed = |why: serde_json::Error| {
        let shown: String = String::from_utf8_lossy(line).chars().take(SHOWN_MAX).collect();
        Malformed(format!("{shown:?} is no message of Node's: {why}"))
    };
    let message: &RawValue = serde_json::from_slice(line).map_err(malformed)?;
    let text = message.get();
    let Some(command) = internal_command(text) else { return Ok(FromNode::Message(message.to_owned().into())) };
    Ok(match command.as_str() {
        "NODE_HANDLE_ACK" => FromNode::Ack,
        "NODE_HANDLE_NACK" => FromNode::Nack,
        "NODE_HANDLE" => {
            let handle: Handle = serde_json::from_str(text).map_err(malformed)?;
            FromNode::WithHandle(handle.msg.unwrap_or_else(null).into())
        }
        "NODE_CLUSTER" => read_cluster(text).map_err(malformed)?,
        _ => FromNode::Unknown,
    })
}

/// The two lines that come for every connection, without the detour over JSON.
fn read_usual(line: &[u8]) -> Option<FromNode> {
    if line == ACK.trim_end().as_bytes() {
        return Some(FromNode::Ack);
    }
    let rest = line.strip_prefix(br#"{"cmd":"NODE_CLUSTER","ack":"#)?;
    let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let (number, rest) = (std::str::from_utf8(&rest[..digits]).ok()?.parse().ok()?, &rest[digits..]);
    let rest = rest.strip_prefix(br#","accepted":"#)?;
    let is_accepted = rest.starts_with(br#"true,"seq":"#);
    (is_accepted || rest.starts_with(br#"false,"seq":"#)).then_some(FromNode::Answer { number, is_accepted })
}

/// The `cmd` of a message of Node's own. Node looks at no more than this, so a program's `{"cmd":"NODE_"}` is its own.
fn internal_command(text: &str) -> Option<String> {
    let peek: Peek<'_> = serde_json::from_str(text).ok()?;
    let command: String = serde_json::from_str(peek.cmd?.get()).ok()?;
    (command.starts_with("NODE_") && command.len() > "NODE_".len()).then_some(command)
}

/// Whether Node would take this message of a program's for its own.
pub fn is_internal(body: &Body) -> bool {
    internal_command(body.as_str()).is_some()
}

fn read_cluster(text: &str) -> serde_json::Result<FromNode> {
    let message: Internal = serde_json::from_str(text)?;
    if let Some(number) = message.ack.as_ref().and_then(Value::as_u64) {
        return Ok(FromNode::Answer { number, is_accepted: message.accepted });
    }
    Ok(match (message.act.as_deref(), message.seq, message.key) {
        (Some("online"), ..) => FromNode::Online,
        (Some("queryServer"), Some(request), _) => {
            let place: Place = serde_json::from_str(text)?;
            let options: Options = serde_json::from_str(text)?;
            let wish = place.wish(&options);
            FromNode::Query(Query { request, place, wish, data: options.data })
        }
        (Some("listening"), ..) => FromNode::Listening(serde_json::from_str(text)?),
        (Some("close"), _, Some(key)) => FromNode::Close(key),
        (Some("exitedAfterDisconnect"), Some(request), _) => FromNode::Leaving { request },
        _ => FromNode::Unknown,
    })
}

fn null() -> Box<RawValue> {
    RawValue::from_string("null".into()).expect("null is JSON")
}

impl Place {
    /// Whether `listening` at this place is about what was granted for `asked`: it names the real port.
    pub fn is_of(&self, asked: &Place) -> bool {
        let is_port = self.port == asked.port || asked.port.unwrap_or(0) <= 0;
        let same = |it: &Place| (it.address.clone(), it.address_type.clone(), it.fd, it.index.clone());
        is_port && same(self) == same(asked)
    }

    fn wish(&self, options: &Options) -> Result<ListenWish, String> {
        let datagrams = matches!(self.address_type.as_str(), Some("udp4" | "udp6"));
        let is_ipv6 = self.address_type == json!(6) || self.address_type == json!("udp6");
        let mode = |is_wanted: bool, mode: u32| if is_wanted { mode } else { 0 };
        let mode = mode(options.readable_all, MODE_READABLE_ALL) | mode(options.writable_all, MODE_WRITABLE_ALL);
        Ok(ListenWish {
            address: Some(self.wanted(datagrams, is_ipv6)?.to_string()),
            backlog: options.backlog.as_u64().and_then(|it| u32::try_from(it).ok()).filter(|backlog| *backlog > 0),
            ipv6_only: is_ipv6 && options.flags & FLAG_IPV6_ONLY != 0,
            datagrams,
            reuse_address: datagrams && options.flags & FLAG_REUSE_ADDRESS != 0,
            unix_mode: (mode != 0).then_some(mode),
            ..ListenWish::default()
        })
    }

    fn wanted(&self, datagrams: bool, is_ipv6: bool) -> Result<Address, String> {
        if let Some(fd) = self.fd.filter(|fd| *fd >= 0) {
            return Ok(Address::Fd(i32::try_from(fd).map_err(|_| format!("{fd} is no descriptor"))?));
        }
        if self.address_type == json!(-1)
            && let Some(path) = &self.address
        {
            return Ok(Address::Unix(path.into()));
        }
        // Up to Node 18 a server that was passed to a worker makes it ask for port -1.
        let port = self.port.unwrap_or(0);
        let port = u16::try_from(port).map_err(|_| format!("{port} is no port"))?;
        let every = if datagrams && !is_ipv6 { "0.0.0.0" } else { "::" };
        let host = self.address.clone().filter(|host| !host.is_empty()).unwrap_or_else(|| every.to_owned());
        Ok(Address::Tcp { host, port })
    }
}

/// The number under which a connection goes to a worker, and comes back in its answer.
pub fn connection_number(lane: LaneId, sequence: u64) -> u64 {
    sequence << u8::BITS | u64::from(lane.0)
}

/// The lane and the sequence of a [`connection_number`].
pub fn connection_of(number: u64) -> (LaneId, u64) {
    (LaneId(number as u8), number >> u8::BITS)
}

/// What a worker calls a server. It is told in the answer to its query.
pub fn key(lane: LaneId) -> String {
    lane.to_string()
}

/// The lane of a [`key`].
pub fn lane_of(key: &str) -> Option<LaneId> {
    key.parse().ok().map(LaneId)
}

/// Writes the line that goes with a connection.
pub fn write_connection(line: &mut String, lane: LaneId, sequence: u64) {
    line.clear();
    let number = connection_number(lane, sequence);
    let _ = writeln!(
        line,
        r#"{{"cmd":"NODE_HANDLE","type":"net.Native","msg":{{"cmd":"NODE_CLUSTER","act":"newconn","key":"{lane}","seq":{number}}}}}"#
    );
}

/// Answers a query: connections will come under `lane`. `data` is what the first worker on that listener gave to it:
/// a TLS server dies without. `sockname` is null for a Unix path.
pub fn granted(request: u64, lane: LaneId, address: &Address, data: Option<&Body>) -> String {
    let sockname = address.socket_addr().map(|it| {
        let family = if it.is_ipv6() { "IPv6" } else { "IPv4" };
        json!({ "address": it.ip().to_string(), "family": family, "port": it.port() })
    });
    let key = key(lane);
    let mut answer = json!({ "cmd": "NODE_CLUSTER", "errno": null, "key": key, "ack": request, "data": data });
    if let Some(sockname) = sockname {
        answer["sockname"] = sockname;
    }
    line(&answer)
}

/// Answers a query: the listener's own socket comes with it.
pub fn shared(request: u64, lane: LaneId, data: Option<&Body>, is_datagrams: bool) -> String {
    let answer = json!({ "cmd": "NODE_CLUSTER", "errno": 0, "key": key(lane), "ack": request, "data": data });
    let kind = if is_datagrams { "dgram.Native" } else { "net.Native" };
    line(&json!({ "cmd": "NODE_HANDLE", "type": kind, "msg": answer }))
}

/// Answers a query: it is not possible. A TLS server wants its `data` all the same.
pub fn refused(request: u64, errno: i32, data: Option<&Body>) -> String {
    // Its key is never used: nothing is open under it.
    line(&json!({ "cmd": "NODE_CLUSTER", "errno": -errno, "key": "-", "ack": request, "data": data }))
}

/// Lets a worker go that leaves by itself.
pub fn may_leave(request: u64) -> String {
    line(&json!({ "cmd": "NODE_CLUSTER", "ack": request }))
}

/// Tells a worker to finish.
pub fn disconnect() -> String {
    line(&json!({ "cmd": "NODE_CLUSTER", "act": "disconnect" }))
}

/// A message of whoever started the primary; `kind` is what comes with it, as JSON in Node's words.
pub fn message(body: &Body, kind: Option<&str>) -> String {
    match kind {
        None => format!("{body}\n"),
        Some(kind) => format!("{{\"cmd\":\"NODE_HANDLE\",\"type\":{kind},\"msg\":{body}}}\n"),
    }
}

fn line(value: &Value) -> String {
    format!("{value}\n")
}
