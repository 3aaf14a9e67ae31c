//! The lines of Node's cluster IPC, as the primary writes them; how they are read is in `reading.rs`. Pure.

use std::fmt::Write;

use serde_json::{Value, json};

use crate::primary::address::Address;
use crate::protocol::body::Body;
use crate::protocol::ids::LaneId;

/// The answer to a descriptor that has arrived.
pub const ACK: &str = "{\"cmd\":\"NODE_HANDLE_ACK\"}\n";
/// The answer to a message that came without its descriptor: Node sends it again.
pub const NACK: &str = "{\"cmd\":\"NODE_HANDLE_NACK\"}\n";
/// What pm2 sends before it ends a worker.
pub const SHUTDOWN: &str = "\"shutdown\"\n";

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
    line.push_str(r#"{"cmd":"NODE_HANDLE","type":"net.Native","msg":{"cmd":"NODE_CLUSTER","act":"newconn","#);
    // Writing to a string cannot fail.
    let _ = writeln!(line, r#""key":"{lane}","seq":{number}}}}}"#);
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_said_is_what_nodes_own_primary_says() {
        let address = |text: &str| text.parse::<Address>().unwrap();
        let value = |line: String| serde_json::from_str::<Value>(&line).unwrap();
        let tickets = Body::of(&json!({ "ticketKeys": "00" })).unwrap();
        assert_eq!(
            value(granted(2, LaneId(3), &address("127.0.0.1:80"), Some(&tickets))),
            json!({ "cmd": "NODE_CLUSTER", "errno": null, "key": "3", "ack": 2, "data": { "ticketKeys": "00" },
                    "sockname": { "address": "127.0.0.1", "family": "IPv4", "port": 80 } })
        );
        assert!(value(granted(2, LaneId(3), &address("unix:/u"), None)).get("sockname").is_none());
        assert_eq!(value(refused(2, 98, Some(&tickets)))["data"], json!({ "ticketKeys": "00" }));
        let mut line = String::from("of before");
        write_connection(&mut line, LaneId(3), 9);
        assert_eq!(
            value(line),
            json!({ "cmd": "NODE_HANDLE", "type": "net.Native",
                    "msg": { "cmd": "NODE_CLUSTER", "act": "newconn", "key": "3",
                             "seq": connection_number(LaneId(3), 9) } })
        );
    }

    proptest! {
        #[test]
        fn a_connection_is_found_again_by_its_number(lane in any::<u8>(), sequence in 0u64..1 << 45) {
            prop_assert_eq!(connection_of(connection_number(LaneId(lane), sequence)), (LaneId(lane), sequence));
        }
    }
}
