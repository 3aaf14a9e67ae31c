//! Workers that say what no worker says: they are ended and replaced, and nobody else notices.

#![cfg(feature = "cli")]

mod support;

use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::time::Duration;

use croupier::protocol::bootstrap::WORKER_ID;
use croupier::protocol::control::{FromPrimary, FromWorker};
use croupier::protocol::control_channel::{ControlChannel, Incoming};
use croupier::protocol::ids::LaneId;
use croupier::protocol::record::{Kind, Record};
use nix::sys::signal::Signal;
use nix::sys::socket::{Shutdown, shutdown};

use support::http::{self, Client};
use support::roles::{self, Bare};
use support::{Croupier, Directory, processes};

/// Says when the first worker is to misbehave, and how.
const TRIGGER: &str = "CROUPIER_TEST_TRIGGER";
const MODE: &str = "CROUPIER_TEST_MODE";

#[test]
fn garbage_on_its_control_channel_ends_a_worker_and_nobody_else() {
    for mode in ["control: no JSON", "control: no object", "control: not UTF-8"] {
        is_ended_and_nobody_notices(mode, "not a message");
    }
}

#[test]
fn an_empty_packet_ends_a_worker_and_nobody_else() {
    is_ended_and_nobody_notices("control: empty", "not a message");
}

#[test]
fn a_packet_over_64_kib_ends_a_worker_and_nobody_else() {
    is_ended_and_nobody_notices("control: too long", "a packet of more than 65536 bytes");
}

#[test]
fn messages_out_of_turn_end_a_worker_and_nobody_else() {
    is_ended_and_nobody_notices("hello again", "it said hello twice");
    is_ended_and_nobody_notices("listening nowhere", "it listens on lane 5, which it does not have");
}

#[test]
fn garbage_on_its_deal_channel_ends_a_worker_and_nobody_else() {
    for mode in ["deal: wrong byte", "deal: long", "deal: a descriptor"] {
        is_ended_and_nobody_notices(mode, "it sent garbage on a deal channel");
    }
}

/// Closing the last copy of a socket that lingers sleeps until its data is acknowledged: here never.
#[test]
fn a_lingering_socket_with_what_no_worker_says_holds_nobody_up() {
    for (mode, why) in [
        ("control: no JSON, a lingering socket", "not a message"),
        ("control: empty, a lingering socket", "not a message"),
        ("control: too long, a lingering socket", "a packet of more than 65536 bytes"),
        ("deal: a lingering socket", "it sent garbage on a deal channel"),
        ("deal: a lingering socket that it was never dealt", "it gave back a connection that it was never dealt"),
    ] {
        is_ended_and_nobody_notices(mode, why);
    }
}

#[test]
fn an_impossible_scoreboard_ends_a_worker_and_nobody_else() {
    for mode in ["board: taken without deals", "board: closed before taken"] {
        is_ended_and_nobody_notices(mode, "its scoreboard makes no sense");
    }
}

#[test]
fn a_deal_channel_that_is_shut_ends_a_worker_and_nobody_else() {
    is_ended_and_nobody_notices("deal: shut", "its deal channel is shut");
}

/// Worker 1 misbehaves while it has an untaken connection; worker 2 has one with a client that stays.
fn is_ended_and_nobody_notices(mode: &str, why: &str) {
    let directory = Directory::new();
    let trigger = directory.file("trigger");
    let (trigger_option, mode_option) = (format!("--env={TRIGGER}={trigger}"), format!("--env={MODE}={mode}"));
    let options = ["--workers", "2", &trigger_option, &mode_option];
    let mut croupier = Croupier::of_role(&options, "worker_that_misbehaves");
    let address = croupier.wait_ready(2);

    let mut clients: Vec<Client> = (0..2).map(|_| Client::connect(&address).unwrap()).collect();
    for client in &mut clients {
        client.send(http::REQUEST).unwrap();
    }
    // Worker 1 takes nothing, so the second answers, whoever was dealt first.
    assert_eq!(clients[1].response().unwrap().worker(), 2, "{mode}");

    std::fs::write(&trigger, "now").unwrap();
    if mode == "deal: shut" {
        // Nothing tells the primary until it deals there. The next connection is worker 1's.
        clients.push(Client::connect(&address).unwrap());
        croupier.log().wait_for("worker=1 is shut");
        clients.push(Client::connect(&address).unwrap());
        clients.push(Client::connect(&address).unwrap());
        clients[2..].iter_mut().for_each(|client| client.send(http::REQUEST).unwrap());
    }
    let ended = croupier.log().wait_for(why);
    assert!(ended.contains("worker=1") && ended.contains("ERROR"), "{mode}: {ended}");
    assert_ne!(clients[0].response().unwrap().worker(), 1, "{mode}: what it had not taken goes to another");
    for client in clients.iter_mut().skip(2) {
        assert_ne!(client.response().unwrap().worker(), 1, "{mode}");
    }
    croupier.log().wait_for("worker=3 pid=");
    croupier.wait_ready(3);
    assert_eq!(clients[1].get().unwrap().worker(), 2, "{mode}: the connection is still there");
    let mut workers: Vec<u32> = (0..4).map(|_| http::get(&address).unwrap().worker()).collect();
    workers.sort_unstable();
    assert_eq!(workers, [2, 2, 3, 3], "{mode}");
    drop(clients);
    assert_eq!(croupier.terminate(), Some(0), "{mode}");
}

/// The control channel closed, and the process goes on: it gets nothing more, and its clients stay.
#[test]
fn a_worker_that_hangs_up_gets_no_more_connections_and_keeps_those_that_it_has() {
    let directory = Directory::new();
    let trigger_option = format!("--env={TRIGGER}={}", directory.file("trigger"));
    let options =
        ["--workers", "2", "--shutdown-timeout", "300ms", &trigger_option, "--env", "CROUPIER_TEST_MODE=hang up"];
    let croupier = Croupier::of_role(&options, "worker_that_misbehaves");
    let address = croupier.wait_ready(2);
    std::fs::write(directory.file("trigger"), "now").unwrap();
    // It is given --shutdown-timeout to end by itself.
    croupier.log().wait_for("still there although it has closed its channel");
    croupier.wait_ready(3);
    let mut workers: Vec<u32> = (0..4).map(|_| http::get(&address).unwrap().worker()).collect();
    workers.sort_unstable();
    assert_eq!(workers, [2, 2, 3, 3]);
}

#[test]
fn a_worker_that_floods_its_control_channel_does_not_keep_others_from_being_served() {
    the_flood_drowns_nobody("flood: control");
}

#[test]
fn a_worker_that_floods_its_deal_channel_does_not_keep_others_from_being_served() {
    the_flood_drowns_nobody("flood: deal");
}

#[test]
fn a_worker_that_asks_and_never_reads_the_answers_is_ended() {
    is_ended_and_nobody_notices("ask without reading", "it does not read its control channel");
}

fn the_flood_drowns_nobody(mode: &str) {
    let directory = Directory::new();
    let trigger_option = format!("--env={TRIGGER}={}", directory.file("trigger"));
    let mode_option = format!("--env={MODE}={mode}");
    let mut croupier =
        Croupier::of_role(&["--quiet", "--workers", "2", &trigger_option, &mode_option], "worker_that_misbehaves");
    // With --quiet there is neither address nor readiness in the log: see them otherwise.
    let address = processes::listening_address(croupier.pid());
    std::fs::write(directory.file("trigger"), "now").unwrap();
    croupier.log().wait_for("flooding");
    for _ in 0..100 {
        assert_eq!(http::get(&address).unwrap().status, 200);
    }
    croupier.signal(Signal::SIGTERM);
    croupier.wait_exit();
}

#[test]
fn worker_that_misbehaves() {
    if !roles::plays("worker_that_misbehaves") {
        return;
    }
    if roles::variable(WORKER_ID) != "1" {
        return roles::serve_well();
    }
    let (mode, trigger) = (roles::variable(MODE), roles::variable(TRIGGER));
    let bare = Bare::listen();
    if mode.starts_with("flood") {
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    wait_for(&trigger);
                    roles::say("flooding");
                    flood(&bare, &mode);
                });
            }
            bare.serve(|| {}).unwrap();
            std::process::exit(0);
        });
    }
    wait_for(&trigger);
    misbehave(&bare, &mode);
    if mode.starts_with("board") {
        // It may be told to finish instead of being killed.
        while let Incoming::Message(message, _) = roles::receive(&bare.channel) {
            if matches!(message, FromPrimary::Disconnect { .. }) {
                return;
            }
        }
    }
    roles::wait_for_the_end();
}

fn wait_for(file: &str) {
    while !std::fs::exists(file).unwrap() {
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn flood(bare: &Bare, mode: &str) {
    while match mode {
        "flood: control" => bare.channel.send_blocking(&FromWorker::Unknown).is_ok(),
        _ => {
            bare.end.kick();
            true
        }
    } {}
}

/// Sends a packet with a socket that nobody else has any more when the primary receives it.
fn send_lingering(channel: BorrowedFd<'_>, packet: &[u8]) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut lingering = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (never_read, _) = listener.accept().unwrap();
    lingering.set_nonblocking(true).unwrap();
    while lingering.write(&[0; 65_536]).is_ok() {}
    socket2::SockRef::from(&lingering).set_linger(Some(Duration::from_secs(3600))).unwrap();
    let primary = nix::unistd::getppid().as_raw();
    processes::stop(primary);
    roles::send_with(channel, packet, &[lingering.as_fd()]);
    drop(lingering);
    processes::send(primary, Signal::SIGCONT);
    std::mem::forget(never_read); // it stays open as long as this process
}

fn misbehave(bare: &Bare, mode: &str) {
    let (control, deal) = (bare.channel.as_fd(), bare.end.as_fd());
    match mode {
        "control: no JSON" => roles::send_raw(control, b"{\"type\":"),
        "control: no object" => roles::send_raw(control, b"[1,2,3]"),
        "control: not UTF-8" => roles::send_raw(control, b"\xff\xfe\x00"),
        "control: empty" => roles::send_raw(control, b""),
        "control: too long" => roles::send_raw(control, &[b' '; 70_000]),
        "hello again" => bare.channel.send(&roles::hello_message(), None).unwrap(),
        "listening nowhere" => bare.channel.send(&FromWorker::Listening { lane: LaneId(5) }, None).unwrap(),
        "deal: wrong byte" => roles::send_raw(deal, b"\x07"),
        "deal: long" => roles::send_raw(deal, &[1; 1000]),
        "deal: a descriptor" => {
            let channel = ControlChannel::from_fd(deal.try_clone_to_owned().unwrap());
            channel.send(&"a message of the other channel", Some(std::io::stdin().as_fd())).unwrap();
        }
        "control: no JSON, a lingering socket" => send_lingering(control, b"{"),
        "control: empty, a lingering socket" => send_lingering(control, b""),
        "control: too long, a lingering socket" => send_lingering(control, &[b' '; 70_000]),
        "deal: a lingering socket" => send_lingering(deal, &[1; 1000]),
        "deal: a lingering socket that it was never dealt" => {
            let record = Record { kind: Kind::Connection, sequence: u64::MAX, ..Record::probe() };
            send_lingering(deal, &record.encode());
        }
        "deal: shut" => {
            shutdown(deal.as_raw_fd(), Shutdown::Both).unwrap();
            roles::say("worker=1 is shut");
        }
        "board: taken without deals" => {
            for _ in 0..1000 {
                let _ = bare.board.count_taken(None);
            }
            bare.end.kick();
        }
        "board: closed before taken" => {
            let _ = bare.board.count_closed();
            bare.end.kick();
        }
        "ask without reading" => {
            for request in 2.. {
                if bare.channel.send_blocking(&roles::listen_request(request)).is_err() {
                    break;
                }
            }
        }
        "hang up" => shutdown(control.as_raw_fd(), Shutdown::Both).unwrap(),
        other => panic!("unknown mode {other}"),
    }
}
