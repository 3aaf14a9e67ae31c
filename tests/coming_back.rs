//! Connections that come back to the primary from live workers: given back, refused, or taken back from workers that
//! do not take.

#![cfg(feature = "cli")]

mod support;

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::os::fd::AsFd;
use std::process::Stdio;

use croupier::worker::{ListenOptions, Listener};
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::signal::Signal;

use support::http::{self, Client};
use support::roles::{self, Orders};
use support::{Croupier, Directory, processes, wait_until};

/// How often the giver gives each connection back; `all` is always.
const TIMES: &str = "CROUPIER_TEST_TIMES";

// Given back.

#[test]
fn a_connection_that_is_given_back_reaches_another_worker_as_if_it_were_new() {
    const CLIENTS: usize = 20;
    let times = format!("--env={TIMES}=all");
    let mut croupier = Croupier::of_role(&["--workers", "2", "--stall-after", "1h", &times], "worker_that_gives_back");
    let address = croupier.wait_ready(2);
    for _ in 0..CLIENTS {
        let mut client = Client::connect(&address).unwrap();
        let own = client.own_address();
        client.send("GET / HTTP/1.1\r\n").unwrap();
        // Worker 1 has its turn first each time, because worker 2 always had the last one.
        croupier.log().wait_for(&format!("worker 1 gives back a connection of Some({own})"));
        croupier.log().wait_for(&format!("worker 2 has a connection of Some({own})"));
        client.send("\r\n").unwrap();
        assert_eq!(client.response().unwrap().worker(), 2, "with all the bytes of its request");
        assert_eq!(client.rest().unwrap(), b"");
    }
    assert_eq!(croupier.terminate(), Some(0));
    assert_eq!(lines(&croupier, "gives back"), CLIENTS, "never twice, because another is ready");
}

#[test]
fn what_a_client_sends_while_its_connection_is_given_back_again_and_again_arrives_in_order() {
    let times = format!("--env={TIMES}=1000");
    let mut croupier = Croupier::of_role(&["--workers", "1", &times], "worker_that_gives_back");
    let address = croupier.wait_ready(1);
    let mut client = Client::connect(&address).unwrap();
    for part in ["GET /", " HTTP", "/1.1\r", "\nhost", ": x\r\n", "\r\n"] {
        let before = croupier.log().count("gives back");
        client.send(part).unwrap();
        croupier.log().wait_for_count("gives back", (before + 20).min(1000));
    }
    assert_eq!(client.response().unwrap().worker(), 1);
    assert_eq!(croupier.terminate(), Some(0));
    assert_eq!(lines(&croupier, "gives back"), 1000);
}

#[test]
fn alone_a_worker_gets_back_what_it_gave_back() {
    let times = format!("--env={TIMES}=3");
    let mut croupier = Croupier::of_role(&["--workers", "1", &times], "worker_that_gives_back");
    let address = croupier.wait_ready(1);
    for _ in 0..5 {
        assert_eq!(http::get(&address).unwrap().worker(), 1);
    }
    assert_eq!(croupier.terminate(), Some(0));
    assert_eq!(lines(&croupier, "gives back"), 15);
}

#[test]
fn a_unix_connection_is_given_back_like_any_other() {
    let directory = Directory::new();
    let path = directory.file("listener.sock");
    let role = "worker_that_gives_back";
    let mut run = support::plain(support::PROGRAM);
    run.args(["run", "--workers", "2", "--stall-after", "1h", "--listen", &format!("unix:{path}")]);
    run.arg(format!("--env={TIMES}=all"));
    run.arg(format!("--env={}={role}", roles::ROLE)).arg("--").args(roles::command(role));
    let mut croupier = Croupier::spawn(run);
    croupier.wait_ready(2);
    for _ in 0..10 {
        let mut client = Client::connect_unix(&path).unwrap();
        client.send(http::LAST_REQUEST).unwrap();
        assert_eq!(client.response().unwrap().worker(), 2);
    }
    assert_eq!(croupier.terminate(), Some(0));
    assert_eq!(lines(&croupier, "worker 1 gives back a connection of None"), 10);
}

#[test]
fn without_a_primary_nothing_is_given_back_and_the_connection_stays_whole() {
    let listener = Listener::bind("127.0.0.1:0").unwrap();
    let mut client = TcpStream::connect(listener.address()).unwrap();
    client.write_all(b"ping").unwrap();
    let connection = listener.accept().unwrap().unwrap();
    let kept = connection.give_back().unwrap_err();
    assert_eq!(kept.error.kind(), ErrorKind::Unsupported);
    let mut connection = kept.connection;
    assert_eq!(connection.peer_addr(), Some(client.local_addr().unwrap()));
    let mut received = [0; 4];
    connection.read_exact(&mut received).unwrap();
    connection.write_all(&received).unwrap();
    drop(connection);
    let mut answer = Vec::new();
    client.read_to_end(&mut answer).unwrap();
    assert_eq!(answer, b"ping");
}

#[test]
fn what_was_given_back_and_nobody_takes_in_time_is_closed_and_logged() {
    let orders = Orders::new();
    let options = ["--workers", "2", "--redeal-timeout", "300ms", &orders.option()];
    let croupier = Croupier::of_role(&options, "worker_on_command");
    let address = croupier.wait_ready(2);
    orders.give(&croupier, 2, "pause");
    orders.give(&croupier, 1, "return");
    orders.give(&croupier, 1, "take");
    let mut client = Client::connect(&address).unwrap();
    client.send("GET / HTTP/1.1\r\n").unwrap();
    croupier.log().wait_for("worker 1 returns");
    let closed = croupier.log().wait_for("came back and nobody took them within 300ms");
    assert!(closed.contains("connections=1"), "{closed}");
    assert!(client.rest().map_or_else(|error| error.kind() == ErrorKind::ConnectionReset, |rest| rest.is_empty()));
    // The service goes on.
    orders.give(&croupier, 2, "take");
    orders.give(&croupier, 2, "resume");
    assert_eq!(http::get(&address).unwrap().worker(), 2);
}

/// The others listen, but have no room: better the giver than nobody.
#[test]
fn what_was_given_back_goes_to_its_giver_again_before_it_is_lost() {
    let orders = Orders::new();
    let croupier = Croupier::of_role(&["--workers", "2", &orders.option()], "worker_on_command");
    let address = croupier.wait_ready(2);
    orders.give(&croupier, 2, "pause");
    orders.give(&croupier, 1, "return");
    orders.give(&croupier, 1, "take");
    let mut client = Client::connect(&address).unwrap();
    client.send("GET / HTTP/1.1\r\n").unwrap();
    croupier.log().wait_for("worker 1 returns");
    orders.give(&croupier, 1, "keep");
    client.send("\r\n").unwrap();
    assert_eq!(client.response().unwrap().worker(), 1);
}

// Paused.

#[test]
fn a_paused_worker_gets_nothing_and_what_was_queued_for_it_goes_to_others() {
    let orders = Orders::new();
    let options = ["--workers", "2", "--stall-after", "1h", &orders.option()];
    let mut croupier = Croupier::of_role(&options, "worker_on_command");
    let address = croupier.wait_ready(2);
    orders.give(&croupier, 2, "take");
    let mut clients = clients_with_requests(&address, 10);
    // The rotation had both of them: the others wait for worker 1.
    for client in clients.iter_mut().skip(1).step_by(2) {
        assert_eq!(client.response().unwrap().worker(), 2);
    }
    orders.give(&croupier, 1, "pause");
    for client in clients.iter_mut().step_by(2) {
        assert_eq!(client.response().unwrap().worker(), 2);
    }
    orders.give(&croupier, 1, "take");
    assert_eq!(http::next_workers(&address, 10), [2; 10]);
    orders.give(&croupier, 1, "resume");
    wait_until("worker 1 serves again", || http::get(&address).unwrap().worker() == 1);
    let workers = http::next_workers(&address, 10);
    assert!(http::is_rotation(&workers, 2), "{workers:?}");
    assert_eq!(croupier.terminate(), Some(0));
}

#[test]
fn while_all_are_paused_clients_wait_and_the_first_that_resumes_serves_them() {
    let orders = Orders::new();
    let mut croupier = Croupier::of_role(&["--workers", "2", &orders.option()], "worker_on_command");
    let address = croupier.wait_ready(2);
    for id in [1, 2] {
        orders.give(&croupier, id, "take");
        orders.give(&croupier, id, "pause");
    }
    // A pause is seen with the kick that announces it; a connection that is dealt before is served.
    let mut clients = clients_with_requests(&address, 4);
    wait_until("a client has to wait", || {
        clients.extend(clients_with_requests(&address, 1));
        clients.last().unwrap().stays_silent()
    });
    orders.give(&croupier, 2, "resume");
    for client in &mut clients {
        assert_eq!(client.response().unwrap().status, 200);
    }
    orders.give(&croupier, 1, "resume");
    assert_eq!(croupier.terminate(), Some(0));
}

/// What it had not even seen before its pause is no less welcome to it afterwards than to anybody else.
#[test]
fn what_waited_for_a_worker_before_its_pause_is_served_by_it_when_only_it_resumes() {
    let orders = Orders::new();
    let options = ["--workers", "2", "--stall-after", "1h", &orders.option()];
    let croupier = Croupier::of_role(&options, "worker_on_command");
    let address = croupier.wait_ready(2);
    let mut clients = clients_with_requests(&address, 6);
    for id in [2, 1] {
        orders.give(&croupier, id, "pause");
    }
    orders.give(&croupier, 1, "resume");
    orders.give(&croupier, 1, "take");
    for client in &mut clients {
        assert_eq!(client.response().unwrap().worker(), 1);
    }
}

// Stalled.

#[test]
fn what_a_stopped_worker_does_not_take_others_answer_and_it_takes_again_when_it_goes_on() {
    let mut croupier = Croupier::demo(&["--workers", "3", "--stall-after", "500ms"]);
    let address = croupier.wait_ready(3);
    let stopped = croupier.wait_started(2);
    processes::stop(stopped.pid);
    for client in &mut clients_with_requests(&address, 30) {
        assert_ne!(client.response().unwrap().worker(), 2);
    }
    assert!(croupier.log().wait_for("reclaimed [skipped").contains("worker=2 "));
    for _ in 0..10 {
        let workers = http::next_workers(&address, 9);
        assert!(http::is_rotation(&workers, 2) && !workers.contains(&2), "{workers:?}");
    }
    processes::send(stopped.pid, Signal::SIGCONT);
    croupier.log().wait_for("worker=2 takes again");
    let workers = http::next_workers(&address, 9);
    assert!(http::is_rotation(&workers, 3), "{workers:?}");
    assert_eq!(croupier.terminate(), Some(0));
    assert_eq!(lines(&croupier, "reclaimed [skipped"), 1, "it is asked once");
    assert_eq!(croupier.started().len(), 3);
}

#[test]
fn when_all_workers_are_stopped_nothing_is_moved_to_and_fro() {
    let mut croupier = Croupier::demo(&["--workers", "3", "--stall-after", "20ms"]);
    let address = croupier.wait_ready(3);
    let workers = croupier.started();
    workers.iter().for_each(|worker| processes::stop(worker.pid));
    let mut clients = clients_with_requests(&address, 30);
    std::thread::sleep(std::time::Duration::from_millis(500)); // the window in which nothing may happen
    assert_eq!(croupier.log().count("reclaimed [skipped"), 0, "{}", croupier.log());
    workers.iter().for_each(|worker| processes::send(worker.pid, Signal::SIGCONT));
    for client in &mut clients {
        assert_eq!(client.response().unwrap().status, 200);
    }
    assert_eq!(croupier.terminate(), Some(0));
}

#[test]
fn a_worker_that_never_takes_is_killed_after_hang_timeout_also_when_nobody_is_idle() {
    let options = ["--workers", "2", "--hang-timeout", "400ms", "--stall-after", "50ms"];
    let mut croupier = Croupier::of_role(&options, "worker_of_which_the_first_never_takes");
    let address = croupier.wait_ready(2);
    // Worker 2 has room for two, and these stay.
    let mut clients: Vec<Client> = (0..4).map(|_| Client::connect(&address).unwrap()).collect();
    clients.iter_mut().for_each(|client| client.send("GET / HTTP/1.1\r\n").unwrap());
    croupier.log().wait_for_count("worker 2 has a connection", 2);
    let line = croupier.log().wait_for("(--hang-timeout)");
    assert!(line.contains("worker=1 "), "{line}");
    croupier.log().wait_for(" exited signal=9");
    assert_eq!(croupier.wait_started(3).slot, 0);
    for client in clients.iter_mut().step_by(2) {
        client.send("\r\n").unwrap();
        assert_eq!(client.response().unwrap().worker(), 3, "what waited for the dead one");
    }
    for client in clients.iter_mut().skip(1).step_by(2) {
        client.send("\r\n").unwrap();
        assert_eq!(client.response().unwrap().worker(), 2);
    }
    drop(clients);
    assert_eq!(croupier.terminate(), Some(0));
    assert_eq!(lines(&croupier, "reclaimed [skipped"), 0, "nobody was idle");
}

// Dead, with somebody who still holds its channels.

#[test]
fn what_a_dead_worker_had_not_taken_is_recovered_although_its_child_holds_the_channel() {
    let options = ["--workers", "2", "--stall-after", "1h"];
    let mut croupier = Croupier::of_role(&options, "worker_with_a_child_that_holds_its_channel");
    let address = croupier.wait_ready(2);
    let line = croupier.log().wait_for("worker 1 has the child ");
    let child: i32 = line.rsplit(' ').next().unwrap().parse().unwrap();
    let mut clients = clients_with_requests(&address, 10);
    for client in clients.iter_mut().skip(1).step_by(2) {
        assert_eq!(client.response().unwrap().worker(), 2);
    }
    processes::send(croupier.wait_started(1).pid, Signal::SIGKILL);
    for client in clients.iter_mut().step_by(2) {
        assert_ne!(client.response().unwrap().worker(), 1);
    }
    assert!(processes::runs(child), "it is still there, and has the channel");
    processes::send(child, Signal::SIGKILL);
    croupier.wait_ready(3);
    assert_eq!(croupier.terminate(), Some(0));
}

// Refused.

/// Worker 1 may open 40 files, and is dealt more than that.
#[test]
fn a_worker_without_descriptors_refuses_and_the_others_serve() {
    let script = "[ $CROUPIER_WORKER_ID = 1 ] && ulimit -n 40; exec \"$0\" demo";
    let options = ["--workers", "2", "--connections-max", "500"];
    let mut croupier = Croupier::of_command(&options, &["sh", "-c", script, support::PROGRAM]);
    let address = croupier.wait_ready(2);
    let mut clients = Vec::new();
    let mut workers = Vec::new();
    for _ in 0..100 {
        let mut client = Client::connect(&address).unwrap();
        workers.push(client.get().unwrap().worker());
        clients.push(client);
    }
    croupier.log().wait_for("refused: few file descriptors");
    let of_first = workers.iter().filter(|worker| **worker == 1).count();
    assert!((10..40).contains(&of_first), "{of_first}");
    for (client, worker) in clients.iter_mut().zip(&workers) {
        assert_eq!(client.get().unwrap().worker(), *worker, "they stay where they are");
    }
    drop(clients);
    wait_until("it takes again when it has closed some", || http::get(&address).unwrap().worker() == 1);
    assert_eq!(croupier.terminate(), Some(0));
    assert_eq!((lines(&croupier, " lost"), croupier.started().len()), (0, 2), "{}", croupier.log());
}

#[test]
fn when_nobody_has_descriptors_clients_wait_and_are_served_as_others_leave() {
    let script = "ulimit -n 40; exec \"$0\" demo";
    let options = ["--workers", "2", "--connections-max", "500"];
    let mut croupier = Croupier::of_command(&options, &["sh", "-c", script, support::PROGRAM]);
    let address = croupier.wait_ready(2);
    let mut clients: Vec<Client> = (0..100).map(|_| Client::connect(&address).unwrap()).collect();
    clients.iter_mut().for_each(|client| client.send(http::REQUEST).unwrap());
    croupier.log().wait_for_count("refused: few file descriptors", 2);
    // Each that is served and leaves makes room for one more.
    while !clients.is_empty() {
        let is_served = |client: &Client| !client.stays_silent();
        let served = clients.iter().position(is_served).expect("somebody is served");
        assert_eq!(clients.remove(served).response().unwrap().status, 200);
    }
    assert_eq!(croupier.terminate(), Some(0));
    assert_eq!((lines(&croupier, " lost"), croupier.started().len()), (0, 2), "{}", croupier.log());
}

// The workers.

#[test]
fn worker_on_command() {
    if roles::plays("worker_on_command") {
        roles::obey_files();
    }
}

/// The first worker gives every connection back as often as [`TIMES`] says; the others serve.
#[test]
fn worker_that_gives_back() {
    if !roles::plays("worker_that_gives_back") {
        return;
    }
    let worker = roles::join();
    let (id, times) = (worker.id(), roles::variable(TIMES));
    let times = if id.0 == 1 { times.parse().unwrap_or(usize::MAX) } else { 0 };
    let listener = worker.listen_on_first(&ListenOptions::new()).unwrap();
    let mut given_back = 0;
    while let Some(connection) = listener.accept().unwrap() {
        let peer = connection.peer_addr();
        if given_back < times {
            given_back += 1;
            roles::say(&format!("worker {id} gives back a connection of {peer:?}"));
            connection.give_back().unwrap();
            continue;
        }
        roles::say(&format!("worker {id} has a connection of {peer:?}"));
        http::answer(&connection, &id.to_string()).unwrap();
        given_back = 0;
    }
}

#[test]
fn worker_of_which_the_first_never_takes() {
    if !roles::plays("worker_of_which_the_first_never_takes") {
        return;
    }
    let worker = roles::join();
    let id = worker.id();
    let listener = worker.listen_on_first(&ListenOptions::new().connections_max(2)).unwrap();
    if id.0 == 1 {
        roles::wait_for_the_end();
    }
    std::thread::scope(|scope| {
        while let Some(connection) = listener.accept().unwrap() {
            roles::say(&format!("worker {id} has a connection"));
            scope.spawn(move || _ = http::answer(&connection, &id.to_string()));
        }
    });
}

#[test]
fn worker_with_a_child_that_holds_its_channel() {
    if !roles::plays("worker_with_a_child_that_holds_its_channel") {
        return;
    }
    let worker = roles::join();
    if worker.id().0 != 1 {
        return roles::serve_well();
    }
    let listener = worker.listen_on_first(&ListenOptions::new()).unwrap();
    fcntl(listener.as_fd(), FcntlArg::F_SETFD(FdFlag::empty())).unwrap();
    let mut child = support::plain("sleep").arg("1000").stderr(Stdio::null()).spawn().unwrap();
    roles::say(&format!("worker 1 has the child {}", child.id()));
    child.wait().unwrap();
}

/// How many lines its whole log has with `text`, when it has ended.
fn lines(croupier: &Croupier, text: &str) -> usize {
    croupier.log().wait_end().iter().filter(|line| line.contains(text)).count()
}

/// Clients that have sent a request after which they expect the end.
fn clients_with_requests(address: &str, count: usize) -> Vec<Client> {
    let mut clients: Vec<Client> = (0..count).map(|_| Client::connect(address).unwrap()).collect();
    clients.iter_mut().for_each(|client| client.send(http::LAST_REQUEST).unwrap());
    clients
}
