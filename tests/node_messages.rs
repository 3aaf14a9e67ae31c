//! `process.send` and `process.on('message')` of Node workers, with handles, in both directions, as an embedder of the
//! primary sees them.

#![cfg(feature = "cli")]

mod support;

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::OwnedFd;

use croupier::primary::commands::{Signal, Undelivered};
use croupier::primary::events::Event;
use croupier::protocol::body::Body;
use serde_json::{Value, json};

use support::embedded::Embedded;
use support::http::{self, Client};
use support::{DEADLINE, node};

/// So many workers of `messages.js`, each of which has said that it is there.
fn start(worker_count: u32) -> Embedded {
    let mut settings = node::settings(&[&node::path("messages.js")]);
    settings.plan.worker_count = worker_count;
    let embedded = Embedded::of(settings);
    for _ in 0..worker_count {
        let (worker, body, _) = embedded.message();
        assert_eq!(body.parse::<Value>().unwrap(), json!({ "online": worker }));
    }
    embedded
}

/// Both ends of a connection.
fn connection() -> (TcpStream, OwnedFd) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    client.set_read_timeout(Some(DEADLINE)).unwrap();
    (client, listener.accept().unwrap().0.into())
}

fn read_to_end(mut client: TcpStream) -> String {
    let mut text = String::new();
    client.read_to_string(&mut text).unwrap();
    text
}

#[test]
fn messages_go_both_ways_in_order_and_say_who_sent_them() {
    let embedded = start(2);
    // Only what begins with NODE_ and goes on is Node's own.
    let bodies = [
        r#"{"n":[1,2.5,null],"ä":"ä"}"#,
        "\"text\"",
        "0",
        "true",
        r#"{"cmd":"NODE_"}"#,
        r#"{"cmd":"fooNODE_CLUSTER","act":"disconnect"}"#,
        r#"{"cmd":7,"type":"disconnect"}"#,
    ];
    for worker in [2, 1] {
        for body in bodies {
            let body: Body = serde_json::from_str::<Box<serde_json::value::RawValue>>(body).unwrap().into();
            embedded.send(worker, &body).unwrap();
        }
        for body in bodies {
            let (from, heard, fd) = embedded.message();
            assert_eq!((from, heard.as_str(), fd.is_none()), (worker, body, true));
        }
    }
    assert!(matches!(embedded.send(3, "hello"), Err(Undelivered::NoSuchWorker(_))));
}

#[test]
fn what_is_sent_before_the_program_runs_waits_for_it() {
    let embedded = Embedded::of(node::settings(&[&node::path("messages.js")]));
    assert!(matches!(embedded.event(), Event::Fork { .. }));
    for number in 0..10 {
        embedded.send(1, &number).unwrap();
    }
    assert_eq!(embedded.message().1.as_str(), r#"{"online":1}"#);
    let heard: Vec<i32> = (0..10).map(|_| embedded.message().1.parse().unwrap()).collect();
    assert_eq!(heard, (0..10).collect::<Vec<_>>());
}

#[test]
fn the_last_words_of_a_worker_come_before_its_end() {
    let embedded = start(1);
    embedded.send(1, &json!({ "last": 1 })).unwrap();
    let said = embedded.words_until("exit 1 code=3 voluntary=false");
    assert_eq!(said, [r#"message 1 {"last":1}"#, "disconnect 1 voluntary=false", "exit 1 code=3 voluntary=false"]);
}

#[test]
fn a_program_that_throws_over_a_message_gets_those_behind_it() {
    let embedded = start(1);
    embedded.send(1, &json!({ "fail": 1 })).unwrap();
    embedded.send(1, "next").unwrap();
    assert_eq!(embedded.message().1.as_str(), r#"{"caught":"over a message"}"#);
    assert_eq!(embedded.message().1.as_str(), "\"next\"");
}

/// Written in many pieces, of which some end inside a character.
#[test]
fn text_of_any_length_arrives_whole_from_a_worker() {
    let embedded = start(1);
    for characters in [1, 400_000, 1_500_000] {
        embedded.send(1, &json!({ "say": characters })).unwrap();
        let (_, body, _) = embedded.message();
        assert_eq!(body.parse::<String>().unwrap(), "ä".repeat(characters));
    }
}

// Handles.

/// The descriptor belongs to the first byte of the line that it came with. What is sent behind such a line Node may
/// hear before it.
#[test]
fn a_large_message_and_its_connection_arrive_together_both_ways() {
    let embedded = start(1);
    let text = "x".repeat(800_000);
    let (mut client, ours) = connection();
    embedded.send(1, "before").unwrap();
    embedded.send_with(1, &text, Some(ours)).unwrap();
    let heard: Vec<_> = (0..2).map(|_| embedded.message()).collect();
    let shapes: Vec<_> = heard.iter().map(|(_, body, fd)| (body.as_str().len(), fd.is_some())).collect();
    assert_eq!(shapes, [(8, false), (800_002, true)]);
    assert_eq!(heard[1].1.parse::<String>().unwrap(), text);
    let mut back = TcpStream::from(heard[1].2.as_ref().unwrap().try_clone().unwrap());
    back.write_all(b"it is the same").unwrap();
    let mut bytes = [0; 14];
    client.read_exact(&mut bytes).unwrap();
    assert_eq!(&bytes, b"it is the same");
}

#[test]
fn handles_in_both_directions_block_nobody_and_stay_with_their_messages() {
    const COUNT: usize = 100;
    let embedded = start(1);
    let mut clients = Vec::new();
    let (mut sent, mut heard) = (0, 0);
    while heard < COUNT {
        while sent < COUNT && sent < heard + 40 {
            let (client, ours) = connection();
            embedded.send_with(1, &sent, Some(ours)).unwrap();
            clients.push(client);
            sent += 1;
        }
        let (_, body, fd) = embedded.message();
        let number: usize = body.parse().unwrap();
        assert_eq!(number, heard, "in order");
        let mut back = TcpStream::from(fd.unwrap().try_clone().unwrap());
        back.write_all(format!("I am {number}").as_bytes()).unwrap();
        heard += 1;
    }
    for (number, client) in clients.into_iter().enumerate() {
        assert_eq!(read_to_end(client), format!("I am {number}"), "and nobody keeps a copy");
    }
}

#[test]
fn a_connection_between_two_messages_stays_with_the_one_that_it_came_with() {
    let embedded = start(1);
    let (_client, ours) = connection();
    embedded.send(1, "one").unwrap();
    embedded.send_with(1, "two", Some(ours)).unwrap();
    embedded.send(1, "three").unwrap();
    let heard: Vec<_> = (0..3).map(|_| embedded.message()).collect();
    let words: Vec<_> = heard.iter().map(|(_, body, fd)| (body.as_str(), fd.is_some())).collect();
    assert_eq!(words, [("\"one\"", false), ("\"two\"", true), ("\"three\"", false)]);
}

/// Node sends it without its handle, which it does not have any more.
#[test]
fn the_same_connection_sent_twice_is_no_harm() {
    let embedded = start(1);
    let (_client, ours) = connection();
    embedded.send_with(1, &json!({ "handleTwice": 1 }), Some(ours)).unwrap();
    let (_, first, fd) = embedded.message();
    assert_eq!((first.as_str(), fd.is_some()), (r#"{"first":true}"#, true));
    assert_eq!(embedded.message().1.as_str(), r#"{"second":true}"#);
    embedded.send(1, "alive").unwrap();
    assert_eq!(embedded.message().1.as_str(), "\"alive\"");
}

#[test]
fn a_connection_is_served_and_ended_by_the_worker_that_was_given_it() {
    let embedded = start(2);
    for worker in [2, 1] {
        let (client, ours) = connection();
        embedded.send_with(worker, &json!({ "serve": 1 }), Some(ours)).unwrap();
        let mut client = Client::on(client);
        assert_eq!(client.get().unwrap().worker(), worker);
        assert_eq!(client.rest().unwrap(), b"", "the primary keeps no copy");
    }
}

#[test]
fn connections_end_with_the_worker_that_was_given_them_however_it_ends() {
    let embedded = start(2);
    let mut clients = Vec::new();
    for worker in [1, 2, 1, 2] {
        let (client, ours) = connection();
        embedded.send_with(worker, &json!({ "serve": 1 }), Some(ours)).unwrap();
        clients.push(client);
    }
    // Whoever has answered this has taken what came before it.
    for worker in [1, 2] {
        embedded.send(worker, "taken?").unwrap();
        embedded.message();
    }
    embedded.kill(1, Signal::SIGKILL).unwrap();
    embedded.send(2, &json!({ "last": 1 })).unwrap();
    for mut client in clients {
        let end = client.read(&mut [0]).map_err(|error| error.kind());
        assert!(matches!(end, Ok(0) | Err(ErrorKind::ConnectionReset)), "{end:?}");
    }
}

/// New in Node 20; before, a worker cannot be sent a server, and goes on without it.
#[test]
fn a_listening_socket_is_shared_with_the_worker_that_was_given_it() {
    let embedded = start(1);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    embedded.send_with(1, &json!({ "accept": 1 }), Some(listener.into())).unwrap();
    if node::version() >= 20 {
        assert_eq!(http::get(&address).unwrap().worker(), 1);
    }
    embedded.send(1, "alive").unwrap();
    while embedded.message().1.as_str() != "\"alive\"" {}
}

#[test]
fn a_udp_socket_is_shared_with_the_worker_that_was_given_it() {
    let embedded = start(1);
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    embedded.send_with(1, &json!({ "receive": 1 }), Some(socket.into())).unwrap();
    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    client.set_read_timeout(Some(DEADLINE)).unwrap();
    client.send_to(b"echo", address).unwrap();
    let mut bytes = [0; 16];
    let (len, from) = client.recv_from(&mut bytes).unwrap();
    assert_eq!((&bytes[..len], from), (&b"echo"[..], address));
}
