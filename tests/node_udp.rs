//! UDP sockets of Node programs: one of the primary's is shared by its workers, and every datagram reaches one of them.

#![cfg(feature = "cli")]

mod support;

use std::collections::BTreeSet;
use std::net::UdpSocket;
use std::os::fd::OwnedFd;

use support::script::{Scripted, free_port, node_scripted};
use support::{Croupier, DEADLINE, Directory, node, wait_until};

fn start(worker_count: u32, script: &str) -> Scripted {
    Scripted::start_node(&[&format!("--workers={worker_count}")], script)
}

fn client() -> UdpSocket {
    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    client.set_read_timeout(Some(DEADLINE)).unwrap();
    client
}

#[track_caller]
fn answer(client: &UdpSocket) -> (String, String) {
    let mut answer = [0; 64];
    let (len, from) = client.recv_from(&mut answer).unwrap();
    (String::from_utf8(answer[..len].to_vec()).unwrap(), from.to_string())
}

/// The answer of whoever receives the datagram.
#[track_caller]
fn ask(client: &UdpSocket, address: &str, text: &str) -> String {
    client.send_to(text.as_bytes(), address).unwrap();
    let (answer, from) = answer(client);
    assert_eq!(from, address, "the answer leaves from the shared port");
    answer
}

#[test]
fn every_datagram_is_received_once_by_some_worker_and_answered_from_the_shared_port() {
    let scripted = start(4, "udp a 127.0.0.1:0");
    let address = scripted.address("a", 4);
    let clients: Vec<UdpSocket> = (0..60).map(|_| client()).collect();
    for (index, client) in clients.iter().enumerate() {
        client.send_to(index.to_string().as_bytes(), &address).unwrap();
    }
    for (index, client) in clients.iter().enumerate() {
        let (text, _) = answer(client);
        assert!(text.ends_with(&format!(" a {index}")), "{text}");
        client.set_nonblocking(true).unwrap();
    }
    // Whoever has answered the last one has nothing left of the others.
    ask(&self::client(), &address, "last");
    assert!(clients.iter().all(|client| client.recv_from(&mut [0; 64]).is_err()), "one was answered twice");
    scripted.end();
}

#[test]
fn workers_end_although_datagrams_keep_coming() {
    let scripted = start(2, "udp a 127.0.0.1:0");
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
    let scripted = start(2, "listen tcp 127.0.0.1:0\nonly 1 udp a 127.0.0.1:0");
    scripted.address("tcp", 2);
    scripted.address("a", 1);
    scripted.end();
}

#[test]
fn an_error_of_bind_reaches_the_worker_which_can_try_again() {
    let taken = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let script = format!("listen own 127.0.0.1:0\nudp a {address}\nwait free\nudp a {address}");
    let scripted = start(1, &script);
    assert!(scripted.says("a failed").contains("EADDRINUSE"));
    drop(taken);
    scripted.go_on("free");
    assert_eq!(scripted.address("a", 1), address);
    assert_eq!(ask(&client(), &address, "x"), "1 a x");
    scripted.end();
}

#[test]
fn a_port_may_come_straight_from_the_environment() {
    let port = free_port();
    let scripted = start(2, &format!("udp a 127.0.0.1:0 port=\"{port}\""));
    let address = scripted.address("a", 2);
    assert_eq!(address, format!("127.0.0.1:{port}"));
    assert!(ask(&client(), &address, "x").ends_with(" a x"));
    scripted.end();
}

/// Also of one that is closed before the primary has answered.
#[test]
fn closing_and_binding_again_at_once_works_and_the_last_close_frees_the_port() {
    let [address, early] = [(); 2].map(|()| format!("127.0.0.1:{}", free_port()));
    let script = format!(
        "udp a {address}\nclose a\nudp a {address}\nclose a\nglance {early}\n\
         udp p 127.0.0.1:0\nudp q 127.0.0.1:0"
    );
    let scripted = start(1, &script);
    assert_ne!(scripted.address("p", 1), scripted.address("q", 1));
    for address in [address, early] {
        wait_until("nobody has it", || UdpSocket::bind(&address).is_ok());
    }
    scripted.end();
}

#[test]
fn a_socket_that_gave_up_its_reference_before_it_was_bound_lets_its_worker_end() {
    let script = "udp a 127.0.0.1:0 unref\nunref channel";
    let mut scripted = Scripted::start_node(&["--workers=2", "--respawn=never"], script);
    assert_eq!(scripted.croupier.wait_exit(), Some(0));
    assert_eq!(scripted.croupier.log().count(" exited code=0"), 2);
}

/// Those that send without binding have a port each.
#[test]
fn port_0_of_every_worker_is_one_socket_and_an_exclusive_one_is_not() {
    let ours = client();
    let script = format!(
        "udp a 127.0.0.1:0\nudp each 127.0.0.1:0 exclusive\nwait go\nclose each\nsend each {}\nwait end\nclose each",
        ours.local_addr().unwrap()
    );
    let scripted = start(3, &script);
    scripted.address("a", 3);
    let each: BTreeSet<String> = scripted.addresses("each", 3).into_iter().collect();
    assert_eq!(each.len(), 3);
    for address in &each {
        assert!(ask(&client(), address, "x").ends_with(" each x"));
    }
    scripted.go_on("go");
    let from: BTreeSet<String> = (0..3).map(|_| answer(&ours).1).collect();
    assert_eq!(from.len(), 3);
    scripted.go_on("end");
    scripted.end();
}

#[test]
fn a_fixed_port_is_shared_and_one_of_a_worker_s_own_is_not() {
    let [shared, own] = [(); 2].map(|()| format!("127.0.0.1:{}", free_port()));
    let script = format!("udp shared {shared}\nonly 2 wait first\nudp own {own} exclusive\nwait end\nonly 1 close own");
    let scripted = start(2, &script);
    assert_eq!(scripted.address("shared", 2), shared);
    assert_eq!(scripted.address("own", 1), own);
    scripted.go_on("first");
    assert!(scripted.says("worker 2: own failed").contains("EADDRINUSE"));
    for (address, name) in [(&shared, " shared x"), (&own, "1 own x")] {
        assert!(ask(&client(), address, "x").ends_with(name));
    }
    assert_eq!(scripted.croupier.log().count("bound for worker"), 1, "the primary was asked for `shared` only");
    scripted.go_on("end");
    scripted.end();
}

/// New in Node 22, where it bypasses the primary; before, the option is ignored.
#[test]
fn with_reuse_port_workers_share_a_port_without_their_primary() {
    let address = format!("127.0.0.1:{}", free_port());
    let scripted = start(2, &format!("udp a {address} reusePort\nlisten up 127.0.0.1:0\nwait end\nclose a"));
    assert_eq!(scripted.address("a", 2), address);
    scripted.address("up", 2);
    assert!(ask(&client(), &address, "x").ends_with(" a x"));
    let bound = scripted.croupier.log().count("bound for worker");
    assert_eq!(bound, if node::version() >= 22 { 1 } else { 2 });
    scripted.go_on("end");
    scripted.end();
}

#[test]
fn ipv6_only_and_ipv4_on_one_port_do_not_clash() {
    let port = free_port();
    let scripted = start(2, &format!("udp six [::]:{port} ipv6Only\nudp four 0.0.0.0:{port}"));
    scripted.address("six", 2);
    scripted.address("four", 2);
    assert!(ask(&client(), &format!("127.0.0.1:{port}"), "x").ends_with(" four x"));
    scripted.end();
}

#[test]
fn with_reuse_address_one_worker_has_two_sockets_on_one_port() {
    let address = format!("127.0.0.1:{}", free_port());
    let script = format!("udp a {address} reuseAddr\nudp b {address} reuseAddr\nudp c {address}");
    let scripted = start(1, &script);
    assert_eq!(scripted.address("a", 1), scripted.address("b", 1));
    assert!(scripted.says("c failed").contains("EADDRINUSE"));
    scripted.end();
}

#[test]
fn an_inherited_udp_socket_is_shared_by_its_number() {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap().to_string();
    let place = Directory::new();
    let run = support::undeclared_with_fds(&["--workers=2", "--listen=fd:3"], None);
    let croupier = Croupier::spawn_with_stdin(node_scripted(run, &place, "udp a fd:3"), OwnedFd::from(socket).into());
    let scripted = Scripted { croupier, place };
    assert_eq!(scripted.address("a", 2), address);
    assert!(ask(&client(), &address, "x").ends_with(" a x"));
    scripted.end();
}

#[test]
fn a_udp_socket_survives_a_reload_and_an_upgrade() {
    let scripted = start(2, "udp a 127.0.0.1:0");
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
