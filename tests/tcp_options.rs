//! Options of TCP listeners that their connections inherit: `--nodelay`, `--keepalive`, `--defer-accept`.

#![cfg(feature = "cli")]

mod support;

use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::time::Duration;

use croupier::worker::{Connection, ListenOptions};
use socket2::SockRef;

use support::http::{self, Client};
use support::roles::{self, say};
use support::{Croupier, Directory};

/// Says what every connection that it takes has inherited, and answers it.
#[test]
fn worker_that_looks_at_options() {
    if !roles::plays("worker_that_looks_at_options") {
        return;
    }
    let worker = roles::join();
    let listener = worker.listen_on_first(&ListenOptions::new()).unwrap();
    for connection in listener.incoming() {
        let connection = connection.unwrap();
        say(&format!("a connection has {}", options_of(&connection)));
        let _ = http::answer(&connection, &worker.id().to_string());
    }
}

fn options_of(connection: &Connection) -> String {
    let socket = SockRef::from(connection);
    match socket.local_addr().unwrap().is_unix() {
        true => "those of a Unix socket".into(),
        false => format!(
            "nodelay={} keepalive={} keepidle={:?}",
            socket.tcp_nodelay().unwrap(),
            socket.keepalive().unwrap(),
            socket.tcp_keepalive_time().unwrap()
        ),
    }
}

#[test]
fn accepted_connections_inherit_what_is_asked_for_and_nothing_else() {
    let cases = [
        (&["--nodelay", "--keepalive", "77"][..], "nodelay=true keepalive=true keepidle=77s"),
        (&["--keepalive", "5"], "nodelay=false keepalive=true keepidle=5s"),
        (&["--nodelay"], "nodelay=true keepalive=false"),
        (&[], "nodelay=false keepalive=false"),
    ];
    for (options, expected) in cases {
        let options = [&["--workers", "1"], options].concat();
        let mut croupier = Croupier::of_role(&options, "worker_that_looks_at_options");
        let address = croupier.wait_ready(1);
        assert_eq!(http::get(&address).unwrap().status, 200);
        croupier.log().wait_for(&format!("a connection has {expected}"));
        assert_eq!(croupier.terminate(), Some(0));
    }
}

#[test]
fn an_upgrade_keeps_the_options() {
    let options = ["--workers", "1", "--nodelay", "--keepalive", "77", "--defer-accept", "9"];
    let mut croupier = Croupier::of_role(&options, "worker_that_looks_at_options");
    let address = croupier.wait_ready(1);
    croupier.signal(nix::sys::signal::Signal::SIGUSR2);
    croupier.log().wait_for("took over");
    assert_eq!(http::get(&address).unwrap().status, 200);
    croupier.log().wait_for("a connection has nodelay=true keepalive=true keepidle=77s");
    assert_eq!(croupier.terminate(), Some(0));
}

#[test]
fn an_inherited_socket_gets_what_is_asked_for_and_keeps_the_rest() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    SockRef::from(&listener).set_keepalive(true).unwrap();
    let options = ["--workers", "1", "--listen", "fd:3", "--nodelay"];
    let run = support::undeclared_with_fds(&options, None);
    let mut croupier = Croupier::spawn_with_stdin(run, OwnedFd::from(listener.try_clone().unwrap()).into());
    croupier.wait_ready(1);
    let options = || (SockRef::from(&listener).tcp_nodelay().unwrap(), SockRef::from(&listener).keepalive().unwrap());
    assert_eq!(options(), (true, true));
    croupier.signal(nix::sys::signal::Signal::SIGUSR2);
    croupier.log().wait_for("took over");
    assert_eq!(options(), (true, true));
    assert_eq!(croupier.terminate(), Some(0));
}

#[test]
fn a_unix_listener_has_none_of_them() {
    let directory = Directory::new();
    let path = directory.file("listener.sock");
    let role = "worker_that_looks_at_options";
    let mut run = support::undeclared(&["--workers", "1", "--nodelay", "--keepalive", "5", "--defer-accept", "5"]);
    run.args(["--listen", &format!("unix:{path}"), &format!("--env={}={role}", roles::ROLE), "--"]);
    run.args(roles::command(role));
    let mut croupier = Croupier::spawn(run);
    croupier.wait_ready(1);
    let mut client = Client::connect_unix(&path).unwrap();
    client.send(http::LAST_REQUEST).unwrap();
    assert_eq!(client.response().unwrap().status, 200);
    croupier.log().wait_for("a connection has those of a Unix socket");
    assert_eq!(croupier.terminate(), Some(0));
}

#[test]
fn a_client_that_says_nothing_is_not_accepted_before_its_time() {
    let mut croupier = Croupier::demo(&["--workers", "1", "--defer-accept", "30"]);
    let address = croupier.wait_ready(1);
    let mut silent = Client::connect(&address).unwrap();
    assert_eq!(http::get(&address).unwrap().status, 200);
    let accepted = || croupier.status()["listeners"][0]["accepted"].as_u64();
    assert_eq!(accepted(), Some(1), "the one that came later and spoke");
    silent.stream().set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    assert_eq!(silent.get().unwrap().status, 200, "as soon as it speaks");
    assert_eq!(accepted(), Some(2));
    assert_eq!(croupier.terminate(), Some(0));
}
