//! Policy `shared`: workers accept from the listening socket of the primary themselves.

#![cfg(feature = "cli")]

mod support;

use std::collections::BTreeSet;
use std::io::{ErrorKind, Read};
use std::net::{TcpListener, TcpStream};

use nix::sys::signal::Signal;
use support::http::{self, Client};
use support::load::Load;
use support::script::{self, Scripted, ask, free_port};
use support::{Croupier, processes, wait_until};

#[test]
fn worker_with_script() {
    script::play();
}

fn start(workers: &str, script: &str) -> Scripted {
    Scripted::start(&["--policy", "shared", "--workers", workers], script)
}

#[test]
fn workers_accept_from_one_socket_and_their_connections_are_counted() {
    let scripted = start("3", "listen a 127.0.0.1:0");
    let address = scripted.address("a", 3);
    let held: Vec<Client> = (0..30).map(|_| Client::connect(&address).unwrap()).collect();
    wait_until("all are taken", || {
        let status = scripted.croupier.status();
        let taken = |worker: &serde_json::Value| worker["taken"].as_u64().unwrap();
        status["workers"].as_array().unwrap().iter().map(taken).sum::<u64>() >= 3
    });
    drop(held);
    assert!((0..10).all(|_| ask(&address).ends_with(" a")));
    let status = scripted.croupier.status();
    assert_eq!(status["listeners"][0]["policy"], "shared");
    assert_eq!(status["counters"]["accepted"], 0, "the primary accepts nothing");
    scripted.end();
}

#[test]
fn declared_listeners_are_shared_one_by_one_and_demo_workers_drain() {
    let options = ["--workers", "2", "--listen", "127.0.0.1:0,policy=shared"];
    let mut croupier = Croupier::spawn({
        let mut run = support::undeclared(&options);
        run.arg("--").args([support::PROGRAM, "demo"]);
        run
    });
    let address = croupier.wait_ready(2);
    let mut kept = Client::connect(&address).unwrap();
    assert_eq!(kept.get().unwrap().status, 200);
    assert_eq!(http::get(&address).unwrap().status, 200);
    assert_eq!(croupier.terminate(), Some(0));
}

#[test]
fn a_reload_loses_nobody() {
    let mut croupier = Croupier::demo(&["--workers", "2", "--policy", "shared"]);
    let address = croupier.wait_ready(2);
    let load = Load::start(&address, 4, 0);
    for round in 1..=3 {
        load.wait_for(round * 50);
        croupier.signal(Signal::SIGHUP);
        croupier.log().wait_for_count("reload done", round);
    }
    assert!(load.end() > 0);
    assert_eq!(croupier.terminate(), Some(0));
}

#[test]
fn everybody_ends_well_while_a_connection_is_served_and_another_one_waits() {
    let scripted = start("2", "listen a 127.0.0.1:0");
    let address = scripted.address("a", 2);
    let _waiting = Client::connect(&address).unwrap();
    let _serving = Client::connect(&address).unwrap();
    let mut scripted = scripted;
    // Its workers sit in a read of a client that says nothing: a graceful end has to wait for them, a fast one not.
    scripted.croupier.signal(Signal::SIGTERM);
    scripted.croupier.log().wait_for("signal=SIGTERM");
    drop((_waiting, _serving));
    assert_eq!(scripted.croupier.wait_exit(), Some(0));
}

#[test]
fn a_client_of_a_listener_that_no_worker_asked_for_does_not_delay_the_end() {
    let options = ["--workers", "1", "--listen", "127.0.0.1:0", "--listen", "127.0.0.1:0,policy=shared"];
    let mut croupier = Croupier::spawn(support::undeclared(&options));
    croupier.wait_ready(1);
    let line = croupier.log().wait_for_count("dealing 127.", 2)[1].clone();
    let unasked = line.split("dealing ").nth(1).unwrap().split(' ').next().unwrap().to_owned();
    let mut waiting = TcpStream::connect(unasked).unwrap();
    assert_eq!(croupier.terminate(), Some(0), "without force, before --shutdown-timeout");
    let end = waiting.read(&mut [0]).map_err(|error| error.kind());
    assert!(matches!(end, Ok(0) | Err(ErrorKind::ConnectionReset)), "{end:?}");
}

#[test]
fn an_address_in_use_is_an_error_of_the_worker_which_can_leave() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let scripted = start("2", &format!("listen own 127.0.0.1:0\nlisten a {address}\nonly 2 disconnect\nonly 2 exit 0"));
    assert!(scripted.says("worker 1: a failed").contains("AddrInUse"));
    scripted.says("worker 2: disconnected");
    scripted.says(&format!("worker=2 pid={} exited code=0", scripted.croupier.wait_started(2).pid));
    assert!(ask(&scripted.address("own", 2)).ends_with(" own"));
    scripted.end();
}

#[test]
fn a_stop_right_after_the_start_ends_well() {
    for _ in 0..5 {
        let scripted = start("2", "listen a 127.0.0.1:0");
        scripted.croupier.wait_started(1);
        scripted.end();
    }
}

/// The one that leaves may be the last one there, or the other may have come.
#[test]
fn a_worker_leaves_while_another_one_asks_for_its_listener() {
    for _ in 0..10 {
        let address = format!("127.0.0.1:{}", free_port());
        let script = format!(
            "only 1 listen a {address}\nonly 2 listen own 127.0.0.1:0\nwait go\nonly 1 disconnect\nonly 1 exit 0\n\
             only 2 listen a {address}\nonly 2 exit 0"
        );
        let options = ["--policy", "shared", "--workers", "2", "--respawn", "never"];
        let mut scripted = Scripted::start(&options, &script);
        scripted.address("a", 1);
        scripted.address("own", 1);
        scripted.go_on("go");
        assert_eq!(scripted.croupier.wait_exit(), Some(0));
        assert_eq!(scripted.croupier.log().count(": a failed"), 0, "{}", scripted.croupier.log());
    }
}

#[test]
fn a_worker_that_has_never_listened_leaves_before_one_that_has() {
    let scripted = start("2", "only 1 listen a 127.0.0.1:0\nonly 2 wait go\nonly 2 disconnect\nonly 2 exit 0");
    let address = scripted.address("a", 1);
    scripted.go_on("go");
    scripted.says(&format!("worker=2 pid={} exited code=0", scripted.croupier.wait_started(2).pid));
    assert_eq!(ask(&address), "1 a");
    scripted.end();
}

#[test]
fn one_worker_closes_and_listens_again_while_the_other_keeps_serving() {
    let address = format!("127.0.0.1:{}", free_port());
    let again = format!("only 1 close a\nonly 1 listen a {address}\n").repeat(10);
    let scripted = start("2", &format!("listen a {address}\nwait go\n{again}only 1 listen done 127.0.0.1:0"));
    scripted.address("a", 2);
    scripted.go_on("go");
    let mut asked = 0;
    while scripted.croupier.log().count(": done is ") == 0 || asked < 100 {
        assert!(ask(&address).ends_with(" a"));
        asked += 1;
    }
    scripted.end();
}

#[test]
fn three_workers_agree_on_an_ipv6_only_port_and_leave_the_other_one_free() {
    let port = free_port();
    let scripted = start("3", &format!("listen a [::]:{port} ipv6_only"));
    assert_eq!(scripted.address("a", 3), format!("[::]:{port}"));
    drop(TcpListener::bind(("0.0.0.0", port)).unwrap());
    scripted.end();
}

#[test]
fn a_worker_that_listens_on_nothing_shared_ends_before_or_after_one_that_does() {
    for stopped in [1, 2] {
        let scripted = start("2", "listen own 127.0.0.1:0\nonly 1 listen a 127.0.0.1:0");
        scripted.address("own", 2);
        scripted.address("a", 1);
        let worker = scripted.croupier.wait_started(stopped);
        scripted.croupier.client(&["reload"]).assert_ok();
        processes::wait_gone(worker.pid);
        scripted.end();
    }
}

#[test]
fn the_port_is_free_when_all_have_gone_and_a_second_start_gets_it() {
    let address = format!("127.0.0.1:{}", free_port());
    let ids: BTreeSet<String> = (0..2)
        .map(|_| {
            let scripted = start("1", &format!("listen a {address}"));
            scripted.address("a", 1);
            let answer = ask(&address);
            scripted.end();
            answer
        })
        .collect();
    assert_eq!(ids.len(), 1, "each time it is worker 1: {ids:?}");
}
