//! The conversation with a worker that is played by the test, over a real channel.

use std::io::Read;
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::unix::net::UnixStream;

use serde_json::{Value, json};

use super::*;
use crate::protocol::Wait;
use crate::sys::fd_passing;

const OPTIONS: NodeOptions = NodeOptions { depth: 8, wait_ready: false, shutdown_message: false };
const QUERY: &str = concat!(
    r#"{"cmd":"NODE_CLUSTER","act":"queryServer","index":0,"data":null,"address":null,"port":80,"#,
    r#""addressType":4,"seq":1}"#
);

/// Both sides of a channel.
struct Rig {
    node: Node,
    worker: OwnedFd,
    buffer: Buffer,
}

impl Rig {
    fn new(options: NodeOptions) -> Self {
        let (node, worker) = Node::pair(options).unwrap();
        Self { node, worker, buffer: Buffer::default() }
    }

    fn says(&self, line: &str, fd: Option<BorrowedFd<'_>>) {
        let line = format!("{line}\n");
        assert_eq!(fd_passing::send_some(self.worker.as_fd(), line.as_bytes(), fd).unwrap(), line.len());
    }

    fn hears(&mut self) -> Option<Said> {
        self.node.has_become_readable(false);
        self.node.hear(&mut self.buffer)
    }

    /// What the worker reads next, and what comes with it.
    fn is_told(&self) -> (Value, Option<OwnedFd>) {
        let mut buffer = vec![0; 1 << 16];
        let received = fd_passing::receive(self.worker.as_fd(), &mut buffer, Wait::Never).unwrap();
        (serde_json::from_slice(&buffer[..received.len]).unwrap(), received.fd)
    }

    fn is_told_nothing(&self) -> bool {
        fd_passing::receive(self.worker.as_fd(), &mut [0; 9], Wait::Never).is_err()
    }

    /// It listens, as far as the dialect is concerned.
    fn listen(&mut self) {
        self.says(QUERY, None);
        let Some(Said::Listen(wanted)) = self.hears() else { panic!("no wish") };
        self.node.grant(wanted.request, &grant(), None).unwrap();
        assert_eq!(self.is_told().0["key"], json!("0"));
        self.says(&QUERY.replace("queryServer", "listening"), None);
    }
}

fn grant() -> Grant {
    let address = "[::]:80".parse().unwrap();
    Grant { lane: LaneId(0), address, shared: false, proxy_protocol: None, data: None }
}

fn connection() -> (OwnedFd, UnixStream) {
    let (ours, client) = UnixStream::pair().unwrap();
    (ours.into(), client)
}

#[test]
fn a_connection_is_dealt_acknowledged_and_answered() {
    let mut rig = Rig::new(OPTIONS);
    rig.listen();
    assert!(matches!(rig.hears(), Some(Said::Listening(LaneId(0)))));
    let (ours, mut client) = connection();
    rig.node.deal(LaneId(0), 7, ours.as_fd()).unwrap();
    drop(ours);
    let (line, fd) = rig.is_told();
    drop(fd.unwrap());
    assert_eq!(client.read(&mut [0; 1]).unwrap(), 0, "there was no other copy");
    rig.says(r#"{"cmd":"NODE_HANDLE_ACK"}"#, None);
    rig.says(&format!(r#"{{"cmd":"NODE_CLUSTER","ack":{},"accepted":true,"seq":3}}"#, line["msg"]["seq"]), None);
    assert!(matches!(rig.hears(), Some(Said::Took { lane: LaneId(0), sequence: 7 })));
    assert!(rig.hears().is_none());
}

#[test]
fn one_that_has_no_descriptor_left_refuses() {
    let mut rig = Rig::new(OPTIONS);
    let (ours, _client) = connection();
    rig.node.deal(LaneId(2), 1, ours.as_fd()).unwrap();
    rig.node.deal(LaneId(2), 2, ours.as_fd()).unwrap();
    rig.says(r#"{"cmd":"NODE_HANDLE_NACK"}"#, None);
    assert!(matches!(rig.hears(), Some(Said::Refused { lane: LaneId(2), sequence: 1 })));
}

#[test]
fn an_acknowledgement_of_nothing_is_garbage() {
    let mut rig = Rig::new(OPTIONS);
    rig.says(r#"{"cmd":"NODE_HANDLE_ACK"}"#, None);
    assert!(matches!(rig.hears(), Some(Said::Garbage(_))));
}

#[test]
fn a_descriptor_of_the_workers_is_always_acknowledged_and_belongs_to_its_message() {
    let mut rig = Rig::new(OPTIONS);
    let (sent, mut client) = connection();
    rig.says("\"one\"", None);
    rig.says(r#"{"cmd":"NODE_HANDLE","type":"net.Socket","msg":"two"}"#, Some(sent.as_fd()));
    rig.says("\"three\"", None);
    drop(sent);
    let mut heard = Vec::new();
    while let Some(Said::Message { body, fd }) = rig.hears() {
        heard.push((body.to_string(), fd.is_some()));
    }
    assert_eq!(heard, [("\"one\"".into(), false), ("\"two\"".into(), true), ("\"three\"".into(), false)]);
    assert_eq!(rig.is_told().0, json!({ "cmd": "NODE_HANDLE_ACK" }));
    assert_eq!(client.read(&mut [0; 1]).unwrap(), 0);
    rig.says(r#"{"cmd":"NODE_HANDLE","type":"net.Socket","msg":"lost"}"#, None);
    assert!(matches!(rig.hears(), Some(Said::Noted)));
    assert_eq!(rig.is_told().0, json!({ "cmd": "NODE_HANDLE_NACK" }));
}

#[test]
fn who_leaves_is_answered_and_who_was_told_to_finish_is_not_told_again() {
    let leaves = r#"{"cmd":"NODE_CLUSTER","act":"exitedAfterDisconnect","seq":4}"#;
    let mut by_itself = Rig::new(OPTIONS);
    by_itself.says(leaves, None);
    assert!(matches!(by_itself.hears(), Some(Said::Disconnect)));
    by_itself.node.disconnect().unwrap();
    assert_eq!(by_itself.is_told().0["ack"], json!(4));
    by_itself.node.disconnect().unwrap();
    assert!(by_itself.is_told_nothing());

    let mut told = Rig::new(OPTIONS);
    told.node.disconnect().unwrap();
    assert_eq!(told.is_told().0["act"], json!("disconnect"));
    told.says(leaves, None);
    assert!(matches!(told.hears(), Some(Said::Noted)) && told.is_told_nothing(), "both would make it throw");
}

#[test]
fn who_has_not_answered_for_everything_is_told_to_finish_when_it_has() {
    let answer = |number: u64, accepted| {
        let number = writing::connection_number(LaneId(0), number);
        format!(r#"{{"cmd":"NODE_CLUSTER","ack":{number},"accepted":{accepted},"seq":3}}"#)
    };
    let mut rig = Rig::new(OPTIONS);
    let (ours, _client) = connection();
    for sequence in 1..=3 {
        rig.node.deal(LaneId(0), sequence, ours.as_fd()).unwrap();
        rig.is_told();
    }
    rig.node.disconnect().unwrap();
    rig.says(r#"{"cmd":"NODE_HANDLE_ACK"}"#, None);
    rig.says(r#"{"cmd":"NODE_HANDLE_NACK"}"#, None);
    rig.says(r#"{"cmd":"NODE_HANDLE_ACK"}"#, None);
    rig.says(&answer(1, true), None);
    assert!(matches!(rig.hears(), Some(Said::Refused { sequence: 2, .. })));
    assert!(matches!(rig.hears(), Some(Said::Took { sequence: 1, .. })));
    assert!(rig.hears().is_none() && rig.is_told_nothing(), "the third is on its way");
    rig.says(&answer(3, false), None);
    assert!(matches!(rig.hears(), Some(Said::Refused { sequence: 3, .. })));
    assert!(rig.hears().is_none());
    assert_eq!(rig.is_told().0["act"], json!("disconnect"));
    rig.node.disconnect().unwrap();
    assert!(rig.hears().is_none() && rig.is_told_nothing());
}

#[test]
fn who_leaves_by_itself_before_it_was_told_to_finish_gets_the_answer_alone() {
    let mut rig = Rig::new(OPTIONS);
    let (ours, _client) = connection();
    rig.node.deal(LaneId(0), 1, ours.as_fd()).unwrap();
    rig.is_told();
    rig.node.disconnect().unwrap();
    rig.says(r#"{"cmd":"NODE_CLUSTER","act":"exitedAfterDisconnect","seq":4}"#, None);
    assert!(matches!(rig.hears(), Some(Said::Noted)));
    assert_eq!(rig.is_told().0["ack"], json!(4));
    rig.says(&format!(r#"{{"cmd":"NODE_CLUSTER","ack":{},"accepted":false,"seq":5}}"#, 1 << 8), None);
    assert!(matches!(rig.hears(), Some(Said::Refused { sequence: 1, .. })));
    assert!(rig.hears().is_none() && rig.is_told_nothing(), "both would make it throw");
}

#[test]
fn no_descriptor_goes_to_one_that_may_leave() {
    let mut rig = Rig::new(OPTIONS);
    rig.node.disconnect().unwrap();
    rig.is_told();
    let (ours, _client) = connection();
    assert_eq!(rig.node.deal(LaneId(0), 1, ours.as_fd()).unwrap_err().kind(), io::ErrorKind::WouldBlock);
    let message = Body::of("take").unwrap();
    assert_eq!(rig.node.message(&message, Some(ours)).unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    rig.says(QUERY, None);
    assert!(matches!(rig.hears(), Some(Said::Noted)));
    assert_eq!(rig.is_told().0["errno"], json!(-(Errno::ESHUTDOWN as i32)));
}

/// Otherwise one that repeats it would have the primary to itself.
#[test]
fn whatever_can_be_said_without_end_is_heard_one_at_a_time() {
    let mut rig = Rig::new(OPTIONS);
    rig.node.disconnect().unwrap();
    let lines = [
        r#"{"cmd":"NODE_CLUSTER","act":"exitedAfterDisconnect","seq":4}"#,
        r#"{"cmd":"NODE_CLUSTER","act":"close","key":"none such"}"#,
        r#"{"cmd":"NODE_HANDLE","type":"net.Socket","msg":"without"}"#,
        r#"{"cmd":"NODE_NEW"}"#,
        &QUERY.replace("queryServer", "listening"),
        QUERY,
    ];
    for line in lines {
        rig.says(line, None);
        rig.says(line, None);
        assert!(rig.hears().is_some() && rig.hears().is_some() && rig.hears().is_none(), "{line}");
    }
}

#[test]
fn one_that_is_to_say_so_is_not_ready_before_it_does() {
    let mut rig = Rig::new(NodeOptions { wait_ready: true, ..OPTIONS });
    rig.listen();
    assert!(rig.hears().is_none());
    rig.says("\"ready\"", None);
    assert!(matches!(rig.hears(), Some(Said::Message { .. })));
    assert!(matches!(rig.hears(), Some(Said::Listening(LaneId(0)))));
    let mut silent = Rig::new(NodeOptions { wait_ready: true, ..OPTIONS });
    silent.says("\"ready\"", None);
    assert!(matches!(silent.hears(), Some(Said::Message { .. })));
    assert!(matches!(silent.hears(), Some(Said::Ready)) && silent.hears().is_none());
}

#[test]
fn the_message_of_pm2_comes_before_the_end() {
    let mut rig = Rig::new(NodeOptions { shutdown_message: true, ..OPTIONS });
    rig.node.disconnect().unwrap();
    let mut told = [0; 100];
    let len = fd_passing::receive(rig.worker.as_fd(), &mut told, Wait::Never).unwrap().len;
    assert!(told[..len].starts_with(b"\"shutdown\"\n{"), "both in one read, in this order");
}

#[test]
fn a_line_goes_on_where_it_was_cut_and_nothing_overtakes_it() {
    let mut rig = Rig::new(OPTIONS);
    let large = Body::of(&"x".repeat(1 << 20)).unwrap();
    let (sent, mut client) = connection();
    rig.node.message(&large, Some(sent)).unwrap();
    let (ours, _client) = connection();
    assert_eq!(rig.node.deal(LaneId(0), 1, ours.as_fd()).unwrap_err().kind(), io::ErrorKind::WouldBlock);
    rig.node.message(&Body::of("behind").unwrap(), None).unwrap();
    let (mut read, mut fds, mut buffer) = (Vec::new(), Vec::new(), vec![0; 1 << 16]);
    while !read.ends_with(b"\"behind\"\n") {
        rig.node.send_waiting().unwrap();
        while let Ok(received) = fd_passing::receive(rig.worker.as_fd(), &mut buffer, Wait::Never) {
            read.extend_from_slice(&buffer[..received.len]);
            fds.extend(received.fd);
        }
    }
    assert_eq!(fds.len(), 1, "once, with the first byte");
    drop(fds);
    assert_eq!(client.read(&mut [0; 1]).unwrap(), 0);
    let first = read.split(|byte| *byte == b'\n').next().unwrap();
    let first: Value = serde_json::from_slice(first).unwrap();
    assert_eq!(first["msg"].as_str().map(str::len), Some(1 << 20));
    assert!(!rig.node.is_behind());
    rig.node.deal(LaneId(0), 1, ours.as_fd()).unwrap();
}

#[test]
fn what_waits_for_a_worker_that_does_not_read_is_bounded() {
    let mut rig = Rig::new(OPTIONS);
    let large = Body::of(&"x".repeat(1 << 20)).unwrap();
    let refused = (0..LINE_MAX_BYTES >> 19).find_map(|_| rig.node.message(&large, None).err());
    assert_eq!(refused.unwrap().kind(), io::ErrorKind::QuotaExceeded);
    assert!(rig.node.outbox.waiting_bytes() <= LINE_MAX_BYTES);
    let longest = Body::of(&"x".repeat(LINE_MAX_BYTES)).unwrap();
    let too_long = Rig::new(OPTIONS).node.message(&longest, None).unwrap_err();
    assert_eq!(too_long.raw_os_error(), Some(Errno::EMSGSIZE as i32));
}

#[test]
fn a_worker_that_never_ends_its_line_is_ended() {
    let mut rig = Rig::new(OPTIONS);
    let piece = vec![b'x'; 1 << 16];
    let said = (0..=LINE_MAX_BYTES >> 15).find_map(|_| {
        let _ = fd_passing::send_some(rig.worker.as_fd(), &piece, None);
        rig.hears()
    });
    assert!(matches!(said, Some(Said::Garbage(why)) if why.contains("16 MiB")));
}

#[test]
fn only_what_node_knows_goes_with_a_message_and_it_is_called_by_its_name() {
    let mut rig = Rig::new(OPTIONS);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let body = Body::of(&json!({ "hello": 1 })).unwrap();
    let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    for (fd, kind) in
        [(OwnedFd::from(client), "net.Socket"), (listener.into(), "net.Server"), (udp.into(), "dgram.Socket")]
    {
        rig.node.message(&body, Some(fd)).unwrap();
        let (told, fd) = rig.is_told();
        assert_eq!((told["type"].as_str(), &told["msg"]), (Some(kind), &json!({ "hello": 1 })));
        assert!(fd.is_some());
    }
    let file = std::fs::File::open("/dev/null").unwrap();
    assert_eq!(rig.node.message(&body, Some(file.into())).unwrap_err().kind(), io::ErrorKind::InvalidInput);
    let internal = Body::of(&json!({ "cmd": "NODE_CLUSTER", "act": "disconnect" })).unwrap();
    assert_eq!(rig.node.message(&internal, None).unwrap_err().kind(), io::ErrorKind::InvalidInput);
    assert!(rig.is_told_nothing());
}
