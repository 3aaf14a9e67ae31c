//! Workers that speak Node's protocol wrongly, on purpose or not: such a one is ended and replaced, with as little
//! memory as it takes, and nobody else notices. What is merely unknown is ignored.

#![cfg(feature = "cli")]

mod support;

use support::http::{self, Client};
use support::{Croupier, node, processes};

/// Workers that write to the primary what they are asked to.
fn start(worker_count: u32) -> Croupier {
    node::start(&[&format!("--workers={worker_count}")], "hostile.js", &[])
}

/// The path that has a worker write this line.
fn path_of(line: &str) -> String {
    let escaped: String = line.bytes().map(|byte| format!("%{byte:02X}")).collect();
    format!("/{escaped}")
}

#[test]
fn what_is_unknown_or_too_much_is_ignored() {
    let mut croupier = start(2);
    let address = croupier.wait_ready(2);
    for line in [
        r#"{"cmd":"NODE_CLUSTER","ack":-1,"seq":0}"#,
        r#"{"cmd":"NODE_CLUSTER","act":"queryServer","address":"127.0.0.1","port":70000,"addressType":4,"seq":4711}"#,
        r#"{"cmd":"NODE_CLUSTER","act":"nobodyKnowsThis","seq":0}"#,
        r#"{"cmd":"NODE_CLUSTER","act":"close","key":"none such","seq":0}"#,
        r#"{"cmd":"NODE_NOBODY_KNOWS_THIS"}"#,
        r#" {"cmd":"fooNODE_"}  "#,
        "\"text\"",
    ] {
        for _ in 0..2 {
            let mut client = Client::connect(&address).unwrap();
            client.send(&node::request(&path_of(line))).unwrap();
            assert_eq!(client.response().unwrap().status, 200);
        }
    }
    let answers = http::next_workers(&address, 8);
    assert!(http::is_rotation(&answers, 2), "{answers:?}");
    assert_eq!(croupier.started().len(), 2);
    assert_eq!(croupier.terminate(), Some(0));
}

#[test]
fn what_makes_no_sense_ends_the_worker_that_said_it_and_nobody_else() {
    let lines = [
        "{",
        "}{",
        "nonsense",
        r#"{"cmd":"NODE_HANDLE_ACK"}"#,
        r#"{"cmd":"NODE_HANDLE_NACK"}"#,
        r#"{"cmd":"NODE_CLUSTER","act":"queryServer","index":{},"address":7,"port":"x","seq":1}"#,
        r#"{"cmd":"NODE_CLUSTER","ack":4711,"accepted":true,"seq":0}"#,
    ];
    // More than there are lines: two of them live.
    let mut croupier = start(8);
    let address = croupier.wait_ready(8);
    for (round, line) in (1..).zip(lines) {
        let mut kept = Client::connect(&address).unwrap();
        let good = kept.get().unwrap().worker();
        // It is another one's turn, which may end before its answer has left.
        let mut client = Client::connect(&address).unwrap();
        client.send(&node::request(&path_of(line))).unwrap();
        let _ = client.response();
        croupier.log().wait_for_count(" exited signal=", round);
        assert_eq!(kept.get().unwrap().worker(), good);
    }
    croupier.wait_ready(8 + lines.len());
    assert_eq!(croupier.terminate(), Some(0));
}

/// A message needs its end to be one; up to a limit the primary waits for that.
#[test]
fn a_line_without_end_ends_its_worker_and_takes_no_more_memory_than_the_longest() {
    const FLOOD_BYTES: usize = 200 << 20;
    let mut croupier = start(2);
    let address = croupier.wait_ready(2);
    let mut client = Client::connect(&address).unwrap();
    client.send(&node::request(&format!("/flood/{FLOOD_BYTES}"))).unwrap();
    let _ = client.response();
    croupier.log().wait_for(" exited signal=");
    croupier.wait_ready(3);
    assert_eq!(http::next_workers(&address, 4).len(), 4);
    let peak = processes::status(croupier.pid(), "VmHWM").unwrap();
    let peak_kib: usize = peak.trim_end_matches(" kB").parse().unwrap();
    assert!(peak_kib < FLOOD_BYTES / 1024 / 2, "{peak}");
    assert_eq!(croupier.terminate(), Some(0));
}
