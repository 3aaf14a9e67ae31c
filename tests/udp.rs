//! UDP sockets of the primary, shared by its workers.

#![cfg(feature = "cli")]

mod support;

use std::collections::BTreeSet;
use std::net::UdpSocket;
use std::os::fd::OwnedFd;

use support::roles;
use support::script::{self, Scripted, free_port, scripted};
use support::{Croupier, DEADLINE, Directory};

#[test]
fn worker_with_script() {
    script::play();
}

fn client() -> UdpSocket {
    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    client.set_read_timeout(Some(DEADLINE)).unwrap();
    client
}

/// The answer of whoever receives the datagram, and where it came from.
#[track_caller]
fn ask(client: &UdpSocket, address: &str, text: &str) -> String {
    client.send_to(text.as_bytes(), address).unwrap();
    let mut answer = [0; 64];
    let (len, from) = client.recv_from(&mut answer).unwrap();
    assert_eq!(from.to_string(), address, "the answer leaves from the shared port");
    String::from_utf8(answer[..len].to_vec()).unwrap()
}

#[test]
fn every_datagram_is_received_once_by_some_worker_and_answered_from_the_shared_port() {
    let scripted = Scripted::start(&["--workers", "4"], "udp a 127.0.0.1:0");
    let address = scripted.address("a", 4);
    let clients: Vec<UdpSocket> = (0..60).map(|_| client()).collect();
    for (index, client) in clients.iter().enumerate() {
        client.send_to(index.to_string().as_bytes(), &address).unwrap();
    }
    for (index, client) in clients.iter().enumerate() {
        let mut answer = [0; 64];
        let (len, _) = client.recv_from(&mut answer).unwrap();
        let answer = String::from_utf8(answer[..len].to_vec()).unwrap();
        assert!(answer.ends_with(&format!(" a {index}")), "{answer}");
        client.set_nonblocking(true).unwrap();
    }
    // Whoever has answered the last one has nothing left of the others.
    ask(&self::client(), &address, "last");
    assert!(clients.iter().all(|client| client.recv_from(&mut [0; 64]).is_err()), "one was answered twice");
    scripted.end();
}

#[test]
fn workers_end_although_datagrams_keep_coming() {
    let scripted = Scripted::start(&["--workers", "2"], "udp a 127.0.0.1:0");
    let address = scripted.address("a", 2);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let client = client();
            client.connect(&address).unwrap();
            // Until nobody has the socket, also if that is because something here has failed.
            while client.send(b"x").is_ok() {
                std::thread::sleep(std::time::Duration::from_micros(200));
            }
        });
        ask(&self::client(), &address, "y");
        scripted.end();
    });
}

#[test]
fn a_worker_that_shares_nothing_and_one_that_does_end_alike() {
    let script = "listen tcp 127.0.0.1:0\nonly 1 udp a 127.0.0.1:0";
    let scripted = Scripted::start(&["--workers", "2"], script);
    scripted.address("tcp", 2);
    scripted.address("a", 1);
    scripted.end();
}

#[test]
fn an_error_of_bind_reaches_the_worker_which_can_try_again() {
    let taken = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let script = format!("listen own 127.0.0.1:0\nudp a {address}\nwait free\nudp a {address}\nudp b unix:/tmp/x");
    let scripted = Scripted::start(&["--workers", "1"], &script);
    assert!(scripted.says("a failed").contains("AddrInUse"));
    drop(taken);
    scripted.go_on("free");
    assert_eq!(scripted.address("a", 1), address);
    assert_eq!(ask(&client(), &address, "x"), "1 a x");
    scripted.says("b failed");
    scripted.end();
}

#[test]
fn closing_and_binding_again_at_once_works_and_the_last_close_frees_the_port() {
    let address = format!("127.0.0.1:{}", free_port());
    let script = format!("udp a {address}\nclose a\nudp a {address}\nclose a\nudp p 127.0.0.1:0\nudp q 127.0.0.1:0");
    let scripted = Scripted::start(&["--workers", "1"], &script);
    assert_ne!(scripted.address("p", 1), scripted.address("q", 1));
    drop(UdpSocket::bind(&address).unwrap());
    scripted.end();
}

#[test]
fn worker_that_binds_again_and_again() {
    if roles::plays("worker_that_binds_again_and_again") {
        let worker = roles::join();
        for _ in 0..500 {
            drop(worker.bind_udp(&roles::variable(ADDRESS)).unwrap());
        }
        roles::say("bound every time");
        worker.disconnect().unwrap();
        std::process::exit(0);
    }
}

const ADDRESS: &str = "CROUPIER_TEST_ADDRESS";

#[test]
fn an_address_is_free_when_the_last_of_several_workers_has_dropped_it() {
    let role = "worker_that_binds_again_and_again";
    let mut run = support::undeclared(&["--workers", "3", "--respawn", "never"]);
    run.arg(format!("--env={ADDRESS}=127.0.0.1:{}", free_port()));
    run.arg(format!("--env={}={role}", roles::ROLE)).arg("--").args(roles::command(role));
    let mut croupier = Croupier::spawn(run);
    assert_eq!(croupier.wait_exit(), Some(0));
    assert_eq!(croupier.log().count("bound every time"), 3);
}

#[test]
fn port_0_of_every_worker_is_one_socket_and_an_exclusive_one_is_not() {
    let script = "udp a 127.0.0.1:0\nudp each 127.0.0.1:0 exclusive";
    let scripted = Scripted::start(&["--workers", "3"], script);
    scripted.address("a", 3);
    let each: BTreeSet<String> = scripted.addresses("each", 3).into_iter().collect();
    assert_eq!(each.len(), 3);
    for address in &each {
        assert!(ask(&client(), address, "x").ends_with(" each x"));
    }
    scripted.end();
}

#[test]
fn a_worker_that_has_only_a_socket_of_its_own_is_ready() {
    let scripted = Scripted::start(&["--workers", "1"], "udp own 127.0.0.1:0 exclusive");
    let address = scripted.address("own", 1);
    scripted.says(&format!(" listening on {address} (a socket of its own)"));
    scripted.end();
}

#[test]
fn a_fixed_port_is_shared_and_one_of_a_worker_s_own_is_not() {
    let [shared, own, reused] = [(); 3].map(|()| format!("127.0.0.1:{}", free_port()));
    let script =
        format!("udp shared {shared}\nonly 2 wait first\nudp own {own} exclusive\nudp reused {reused} reuse_port");
    let scripted = Scripted::start(&["--workers", "2"], &script);
    assert_eq!(scripted.address("shared", 2), shared);
    assert_eq!(scripted.address("own", 1), own);
    scripted.go_on("first");
    assert!(scripted.says("worker 2: own failed").contains("AddrInUse"));
    assert_eq!(scripted.address("reused", 2), reused);
    for (address, name) in [(&shared, " shared x"), (&own, "1 own x"), (&reused, " reused x")] {
        assert!(ask(&client(), address, "x").ends_with(name));
    }
    let bound = scripted.end().iter().filter(|line| line.contains("bound for worker")).count();
    assert_eq!(bound, 1, "the primary was asked for `shared` only");
}

#[test]
fn the_number_that_port_0_became_is_the_same_socket() {
    let scripted = Scripted::start(&["--workers", "2"], "only 1 udp a 127.0.0.1:0\nonly 2 udp b @port");
    let a = scripted.address("a", 1);
    scripted.tell("port", &a);
    assert_eq!(scripted.address("b", 1), a);
    let answer = ask(&client(), &a, "x");
    assert!(["1 a x", "2 b x"].contains(&&*answer), "{answer}");
    scripted.end();
}

#[test]
fn ipv6_only_and_ipv4_on_one_port_do_not_clash() {
    let port = free_port();
    let script = format!("udp six [::]:{port} ipv6_only\nudp four 0.0.0.0:{port}");
    let scripted = Scripted::start(&["--workers", "2"], &script);
    scripted.address("six", 2);
    scripted.address("four", 2);
    assert!(ask(&client(), &format!("127.0.0.1:{port}"), "x").ends_with(" four x"));
    scripted.end();
}

#[test]
fn with_reuse_address_one_worker_has_two_sockets_on_one_port() {
    let address = format!("127.0.0.1:{}", free_port());
    let script = format!("udp a {address} reuse_address\nudp b {address} reuse_address\nudp c {address}");
    let scripted = Scripted::start(&["--workers", "1"], &script);
    assert_eq!(scripted.address("a", 1), scripted.address("b", 1));
    assert!(scripted.says("c failed").contains("AddrInUse"));
    scripted.end();
}

#[test]
fn an_inherited_udp_socket_is_shared_by_its_number() {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap().to_string();
    for _ in 0..2 {
        // A second primary gets it as the first one did.
        let place = Directory::new();
        let run = support::undeclared_with_fds(&["--workers", "2", "--listen", "fd:3"], None);
        let theirs = OwnedFd::from(socket.try_clone().unwrap());
        let croupier = Croupier::spawn_with_stdin(scripted(run, &place, "udp a fd:3"), theirs.into());
        let scripted = Scripted { croupier, place };
        assert_eq!(scripted.address("a", 2), address);
        assert!(ask(&client(), &address, "x").ends_with(" a x"));
        scripted.end();
    }
}

#[test]
fn a_udp_socket_survives_a_reload_and_an_upgrade() {
    let scripted = Scripted::start(&["--workers", "2"], "udp a 127.0.0.1:0");
    let address = scripted.address("a", 2);
    scripted.croupier.signal(nix::sys::signal::Signal::SIGHUP);
    scripted.says("reload done");
    assert!(ask(&client(), &address, "x").ends_with(" a x"));
    scripted.croupier.signal(nix::sys::signal::Signal::SIGUSR2);
    scripted.says("took over");
    assert_eq!(scripted.address("a", 4), address);
    assert!(ask(&client(), &address, "y").ends_with(" a y"));
    scripted.end();
}
