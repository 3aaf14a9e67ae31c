//! The lines of Node's cluster IPC, as they are read; how they are written is in `writing.rs`. Pure.
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

use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::writing::ACK;
use crate::primary::address::Address;
use crate::protocol::body::Body;
use crate::protocol::control::ListenWish;

/// What a program sends that says itself when it is ready.
pub const READY: &str = "\"ready\"";

/// Of `flags` in a query: bind to IPv6 alone. Source: `UV_TCP_IPV6ONLY`, `UV_UDP_IPV6ONLY`.
const FLAG_IPV6_ONLY: u64 = 1;
/// Of `flags` in a query for UDP. Source: `UV_UDP_REUSEADDR`.
const FLAG_REUSE_ADDRESS: u64 = 4;
/// What `readableAll` and `writableAll` mean for the file of a Unix socket. Source: uv_pipe_chmod.
const MODE_READABLE_ALL: u32 = 0o444;
const MODE_WRITABLE_ALL: u32 = 0o222;
/// What they are added to: the mode that bind(2) gives it, with the usual umask.
const MODE_BOUND: u32 = 0o755;
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
        /// The number of the connection and its lane: see [`connection_number`](super::writing::connection_number).
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
    #[serde(default, deserialize_with = "number_or_digits")]
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
    /// Null for a UDP socket that was inherited.
    #[serde(default)]
    flags: Value,
    /// A number, or false.
    #[serde(default)]
    backlog: Value,
    #[serde(default)]
    readable_all: Value,
    #[serde(default)]
    writable_all: Value,
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
        Malformed(format!("`{shown}` is no message of Node's: {why}"))
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
    // An array of the program's would be read as one, too.
    if !text.starts_with('{') {
        return None;
    }
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

/// The port of a UDP socket is passed on as the program has it, which may be straight from its environment.
fn number_or_digits<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<i64>, D::Error> {
    Ok(match Value::deserialize(deserializer)? {
        Value::String(digits) => digits.trim().parse().ok(),
        number => number.as_i64(),
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
        let has_flag = |flag| options.flags.as_u64().is_some_and(|flags| flags & flag != 0);
        let mode = |is_wanted: &Value, mode: u32| if *is_wanted == json!(true) { mode } else { 0 };
        let mode = mode(&options.readable_all, MODE_READABLE_ALL) | mode(&options.writable_all, MODE_WRITABLE_ALL);
        Ok(ListenWish {
            address: Some(self.wanted(datagrams, is_ipv6)?.to_string()),
            backlog: options.backlog.as_u64().and_then(|it| u32::try_from(it).ok()).filter(|backlog| *backlog > 0),
            ipv6_only: is_ipv6 && has_flag(FLAG_IPV6_ONLY),
            datagrams,
            reuse_address: datagrams && has_flag(FLAG_REUSE_ADDRESS),
            unix_mode: (mode != 0).then_some(MODE_BOUND | mode),
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// As Node 20 sends them.
    const QUERY: &str = concat!(
        r#"{"cmd":"NODE_CLUSTER","act":"queryServer","index":0,"data":null,"address":"127.0.0.1","port":22001,"#,
        r#""addressType":4,"flags":0,"backlog":false,"seq":2}"#
    );

    fn query(text: &str) -> Query {
        match read(text.as_bytes()) {
            Ok(FromNode::Query(query)) => query,
            other => panic!("{text}: {other:?}"),
        }
    }

    fn wish(fields: &str) -> ListenWish {
        query(&format!(r#"{{"cmd":"NODE_CLUSTER","act":"queryServer","index":0,"data":null,{fields},"seq":1}}"#))
            .wish
            .unwrap()
    }

    #[test]
    fn every_way_to_listen_is_a_wish() {
        assert_eq!(query(QUERY).request, 2);
        assert_eq!(query(QUERY).wish.unwrap().address.unwrap(), "127.0.0.1:22001");
        let address = |fields: &str| wish(fields).address.unwrap();
        assert_eq!(address(r#""address":null,"port":80,"addressType":4,"backlog":0"#), "[::]:80");
        assert_eq!(address(r#""address":"::1","port":80,"addressType":6"#), "[::1]:80");
        assert_eq!(address(r#""address":"/run/u.sock","port":-1,"addressType":-1,"backlog":0"#), "unix:/run/u.sock");
        assert_eq!(address(r#""address":null,"port":null,"addressType":null,"fd":28"#), "fd:28");
        let inherited = wish(r#""address":null,"port":null,"addressType":"udp4","fd":3,"flags":null"#);
        assert_eq!((inherited.address.as_deref(), inherited.datagrams), (Some("fd:3"), true));
        let udp = wish(r#""address":null,"port":0,"addressType":"udp4","fd":-1,"flags":4"#);
        assert_eq!(udp.address.as_deref(), Some("0.0.0.0:0"));
        assert!(udp.datagrams && udp.reuse_address && !udp.ipv6_only);
        let from_environment = wish(r#""address":"127.0.0.1","port":"5353","addressType":"udp4","fd":-1,"flags":0"#);
        assert_eq!(from_environment.address.as_deref(), Some("127.0.0.1:5353"));
        let ipv6 = wish(r#""address":"::","port":1,"addressType":"udp6","fd":-1,"flags":1"#);
        assert!(ipv6.ipv6_only && ipv6.datagrams && !ipv6.reuse_address);
        assert!(!wish(r#""address":"0.0.0.0","port":1,"addressType":4,"flags":1"#).ipv6_only);
        assert_eq!(wish(r#""address":"::","port":1,"addressType":6,"backlog":127"#).backlog, Some(127));
        let mode = |fields: &str| wish(&format!(r#""address":"/u","port":-1,"addressType":-1,{fields}"#)).unix_mode;
        assert_eq!(mode(r#""readableAll":true,"writableAll":true"#), Some(0o777));
        assert_eq!(mode(r#""readableAll":false"#), None);
    }

    #[test]
    fn a_wish_that_nobody_can_grant_is_no_reason_to_end_a_worker() {
        let text = QUERY.replace("22001", "-1");
        assert_eq!(query(&text).wish.unwrap_err(), "-1 is no port");
    }

    #[test]
    fn a_server_listens_at_the_port_that_it_got_for_port_0() {
        let place = |text: &str| match read(text.as_bytes()) {
            Ok(FromNode::Listening(place)) => place,
            Ok(FromNode::Query(query)) => query.place,
            other => panic!("{text}: {other:?}"),
        };
        let asked = place(&QUERY.replace("22001", "0"));
        let listening = QUERY.replace("queryServer", "listening");
        assert!(place(&listening).is_of(&asked));
        assert!(!place(&listening.replace(r#""index":0"#, r#""index":1"#)).is_of(&asked));
        assert!(!place(&listening).is_of(&place(&QUERY.replace("22001", "22002"))));
    }

    #[test]
    fn answers_are_read_in_their_usual_form_and_in_any_other() {
        let answer = |text: &str| match read(text.as_bytes()) {
            Ok(FromNode::Answer { number, is_accepted }) => Some((number, is_accepted)),
            other => panic!("{text}: {other:?}"),
        };
        assert_eq!(answer(r#"{"cmd":"NODE_CLUSTER","ack":770,"accepted":true,"seq":7}"#), Some((770, true)));
        assert_eq!(answer(r#"{"cmd":"NODE_CLUSTER","ack":770,"accepted":false,"seq":7}"#), Some((770, false)));
        assert_eq!(answer(r#"{ "seq":7, "accepted":true, "ack":770, "cmd":"NODE_CLUSTER"}"#), Some((770, true)));
        assert!(matches!(read(br#"{"cmd":"NODE_HANDLE_ACK"}"#), Ok(FromNode::Ack)));
        assert!(matches!(read(br#" {"cmd": "NODE_HANDLE_NACK"}"#), Ok(FromNode::Nack)));
    }

    #[test]
    fn what_is_not_nodes_own_is_the_programs() {
        let its = [
            "\"ready\"",
            "7",
            "null",
            "[1]",
            r#"["NODE_HANDLE_ACK"]"#,
            r#"{"cmd":"NODE_"}"#,
            r#"{"cmd":"fooNODE_X"}"#,
            r#"{"cmd":5}"#,
            " {} ",
        ];
        for text in its {
            let Ok(FromNode::Message(body)) = read(text.as_bytes()) else { panic!("{text}") };
            assert_eq!(body.as_str(), text.trim());
        }
        let unknown =
            [r#"{"cmd":"NODE_NEW"}"#, r#"{"cmd":"NODE_CLUSTER","act":"x"}"#, r#"{"cmd":"NODE_CLUSTER","ack":-1}"#];
        for text in unknown {
            assert!(matches!(read(text.as_bytes()), Ok(FromNode::Unknown)), "{text}");
        }
        for text in ["", "{", "nonsense", "{\"cmd\":\"NODE_CLUSTER\",\"seq\":\"x\"}", "1 2", "\u{0}"] {
            assert!(read(text.as_bytes()).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(line in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = read(&line);
        }

        #[test]
        fn any_message_of_nodes_with_strange_fields_is_read_or_refused(
            name in "act|ack|seq|key|address|port|fd|flags|backlog|index|data|accepted|addressType",
            strange in "null|true|-1|1e99|\"x\"|\\[\\]|\\{\\}|18446744073709551615|\"\"",
        ) {
            for act in ["queryServer", "listening", "close", "exitedAfterDisconnect", "online"] {
                let text = format!(r#"{{"cmd":"NODE_CLUSTER","act":"{act}","seq":1,"{name}":{strange}}}"#);
                let _ = read(text.as_bytes());
            }
        }
    }
}
