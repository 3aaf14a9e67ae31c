//! What a primary tells of itself: lines of JSON in a file, and server-sent events.

use std::io::Write;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::log::Log;
use super::{Croupier, until};

/// The file of `--events`.
pub struct EventFile(PathBuf);

impl EventFile {
    pub fn at(path: impl AsRef<Path>) -> Self {
        Self(path.as_ref().to_owned())
    }

    /// All events until now. A line that is still being written does not count.
    #[track_caller]
    pub fn all(&self) -> Vec<Value> {
        let text = std::fs::read_to_string(&self.0).unwrap_or_default();
        text.split_inclusive('\n').filter(|line| line.ends_with('\n')).map(read).collect()
    }

    /// The first event of this name that is as wanted.
    #[track_caller]
    pub fn wait_for(&self, name: &str, is_wanted: impl Fn(&Value) -> bool) -> Value {
        let find = || self.all().into_iter().find(|event| event["event"] == name && is_wanted(event));
        until(find).unwrap_or_else(|| panic!("no such {name} in {:#?}", self.all()))
    }
}

/// A line as JSON.
#[track_caller]
pub fn read(line: &str) -> Value {
    serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line:?}"))
}

/// The ids of events.
pub fn ids(events: &[Value]) -> Vec<u64> {
    events.iter().map(|event| event["id"].as_u64().unwrap_or_else(|| panic!("no id: {event}"))).collect()
}

/// A stream of `GET /events` on the control socket. Dropping it ends it.
pub struct Stream {
    socket: UnixStream,
    lines: Log,
}

/// One message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    pub event: Option<String>,
    pub id: Option<u64>,
    pub data: Value,
}

impl Stream {
    /// Asks, and reads what comes. HTTP/1.0: the answer comes in one piece, and ends with the connection.
    pub fn open(croupier: &Croupier, path: &str, last_event_id: Option<u64>) -> Self {
        let socket = ask(&croupier.control(), path, last_event_id);
        let lines = Log::collect(socket.try_clone().expect("there are descriptors"));
        Self { socket, lines }
    }

    pub fn lines(&self) -> &Log {
        &self.lines
    }

    /// The whole messages until now.
    #[track_caller]
    pub fn messages(&self) -> Vec<Message> {
        messages(&self.lines.lines())
    }

    /// The first message that is as wanted.
    #[track_caller]
    pub fn wait_for(&self, what: &str, is_wanted: impl Fn(&Message) -> bool) -> Message {
        self.lines.wait_until(what, |lines| messages(lines).into_iter().find(&is_wanted))
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        let _ = self.socket.shutdown(Shutdown::Both);
    }
}

/// A connection that has asked for a stream.
pub fn ask(control: &str, path: &str, last_event_id: Option<u64>) -> UnixStream {
    let mut socket = UnixStream::connect(control).expect("the primary listens there");
    let last = last_event_id.map_or(String::new(), |id| format!("last-event-id: {id}\r\n"));
    socket.write_all(format!("GET {path} HTTP/1.0\r\nhost: croupier\r\n{last}\r\n").as_bytes()).unwrap();
    socket
}

/// What stands in these lines, the head of the answer aside. One that has no end yet does not count.
#[track_caller]
pub fn messages(lines: &[String]) -> Vec<Message> {
    let body = lines.split(|line| line.is_empty()).skip(1);
    let whole = body.clone().count().saturating_sub(1);
    let message = |lines: &[String]| {
        let field = |name: &str| lines.iter().find_map(|line| line.strip_prefix(name)).map(str::to_owned);
        let data = read(&field("data: ")?);
        Some(Message { event: field("event: "), id: field("id: ").and_then(|id| id.parse().ok()), data })
    };
    body.take(whole).filter_map(message).collect()
}
