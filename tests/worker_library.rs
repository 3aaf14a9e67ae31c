//! The worker library in programs of its users: blocking, with threads, with mio, alone, and over Unix sockets.

#![cfg(feature = "cli")]

mod support;

use std::io::{ErrorKind, Read, Write};
use std::os::fd::AsFd;
use std::path::Path;
use std::process::Stdio;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use croupier::protocol::control::{FromPrimary, FromWorker, PACKET_MAX_BYTES, VERSION};
use croupier::protocol::control_channel::{ControlChannel, Incoming};
use croupier::protocol::ids::{LaneId, Slot, WorkerId};
use croupier::protocol::scoreboard::Scoreboard;
use croupier::protocol::{Wait, bootstrap};
use croupier::worker::event_loop::EventLoop;
use croupier::worker::{Connection, CountGuard, ListenOptions, Listener};
use mio::{Events, Interest, Poll, Token};

use support::http::{self, Client};
use support::log::Log;
use support::roles;
use support::{Croupier, Directory, wait_until};

/// Where a worker listens; by default on the first listener.
const ADDRESS: &str = "CROUPIER_TEST_ADDRESS";
/// A file that says "go on".
const GO: &str = "CROUPIER_TEST_GO";

#[test]
fn threads_that_share_a_listener_all_serve_and_all_see_its_end() {
    let mut croupier = Croupier::of_role(&["--workers", "1"], "worker_with_threads");
    let address = croupier.wait_ready(1);
    // As many at a time as there are threads, and each holds one: so all of them serve.
    let mut clients: Vec<Client> = (0..4).map(|_| Client::connect(&address).unwrap()).collect();
    clients.iter_mut().for_each(|client| client.send("GET / HTTP/1.1\r\n").unwrap());
    croupier.log().wait_for_count("has a connection", 4);
    for client in &mut clients {
        client.send("\r\n").unwrap();
        assert_eq!(client.response().unwrap().status, 200);
    }
    for _ in 0..100 {
        assert_eq!(http::get(&address).unwrap().status, 200);
    }
    croupier.signal(nix::sys::signal::Signal::SIGTERM);
    croupier.log().wait_for("all threads have ended, served=104");
    assert_eq!(croupier.wait_exit(), Some(0));
}

#[test]
fn a_worker_for_one_connection_at_a_time_gets_the_next_when_the_first_is_closed() {
    let mut croupier = Croupier::of_role(&["--workers", "1"], "worker_for_one_at_a_time");
    let address = croupier.wait_ready(1);
    let mut first = Client::connect(&address).unwrap();
    first.send("GET / HTTP/1.1\r\n").unwrap();
    croupier.log().wait_for("open=1");
    let mut others: Vec<Client> = (0..5).map(|_| Client::connect(&address).unwrap()).collect();
    others.iter_mut().for_each(|client| client.send(http::LAST_REQUEST).unwrap());
    first.send("\r\n").unwrap();
    assert_eq!(first.response().unwrap().status, 200);
    others.iter_mut().for_each(|client| assert_eq!(client.response().unwrap().status, 200));
    assert_eq!(croupier.log().wait_for_count("open=", 6).len(), 6);
    assert_eq!(croupier.log().count("open=1"), 6, "never two:\n{}", croupier.log());
    assert_eq!(croupier.terminate(), Some(0));
}

#[test]
fn the_guard_of_a_taken_apart_connection_counts_until_it_is_dropped() {
    let directory = Directory::new();
    let go = format!("--env={GO}={}", directory.file("go"));
    let mut croupier = Croupier::of_role(&["--workers", "1", &go], "worker_that_keeps_guards");
    let address = croupier.wait_ready(1);
    let mut first = Client::connect(&address).unwrap();
    first.send(http::LAST_REQUEST).unwrap();
    assert_eq!(first.response().unwrap().status, 200);
    assert_eq!(first.rest().unwrap(), b"", "the socket is closed");
    croupier.log().wait_for("guard kept");

    let mut second = Client::connect(&address).unwrap();
    second.send(http::LAST_REQUEST).unwrap();
    second.stream().set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    assert_eq!(second.response().unwrap_err().kind(), ErrorKind::WouldBlock, "there is no room yet");
    second.stream().set_read_timeout(Some(support::DEADLINE)).unwrap();
    std::fs::write(directory.file("go"), "").unwrap();
    assert_eq!(second.response().unwrap().status, 200);
    assert_eq!(croupier.terminate(), Some(0));
}

#[test]
fn the_same_program_serves_without_a_primary() {
    let mut command = roles::command("worker_with_threads").into_iter();
    let mut alone = support::plain(command.next().unwrap());
    alone.args(command).env(roles::ROLE, "worker_with_threads").env(ADDRESS, "127.0.0.1:0");
    let mut alone = alone.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let log = Log::collect(alone.stderr.take().unwrap());
    let line = log.wait_for("listens on ");
    let (_, address) = line.split_once("listens on ").unwrap();
    for _ in 0..20 {
        assert_eq!(http::get(address).unwrap().body, "hello from worker alone\n");
    }
    alone.kill().unwrap();
    alone.wait().unwrap();
}

#[test]
fn a_unix_listener_deals_end_to_end_and_its_path_goes_with_it() {
    let directory = Directory::new();
    let path = directory.file("listener.sock");
    let role = "worker_with_threads";
    let mut run = support::plain(support::PROGRAM);
    run.args(["run", "--workers", "2", "--listen", &format!("unix:{path}")]);
    run.arg(format!("--env={}={role}", roles::ROLE)).arg("--").args(roles::command(role));
    let mut croupier = Croupier::spawn(run);
    assert_eq!(croupier.wait_ready(2), path);
    let workers: Vec<u32> = (0..20)
        .map(|_| {
            let mut client = Client::connect_unix(&path).unwrap();
            client.send(http::LAST_REQUEST).unwrap();
            client.response().unwrap().worker()
        })
        .collect();
    assert!(workers.windows(3).all(|turn| turn[0] == turn[2] && turn[0] != turn[1]), "{workers:?}");
    assert_eq!(croupier.log().wait_for_count("has a connection of None", 20).len(), 20);
    assert_eq!(croupier.terminate(), Some(0));
    assert!(!Path::new(&path).exists());
}

#[test]
fn the_path_that_a_dead_primary_left_can_be_bound_again() {
    let directory = Directory::new();
    let path = directory.file("listener.sock");
    let start = || {
        let mut run = support::plain(support::PROGRAM);
        run.args(["run", "--workers", "1", "--listen", &format!("unix:{path}")]);
        let croupier = Croupier::spawn(run);
        croupier.wait_ready(1);
        croupier
    };
    let mut first = start();
    first.signal(nix::sys::signal::Signal::SIGKILL);
    first.wait_status();
    assert!(Path::new(&path).exists());
    let mut second = start();
    assert_eq!(Client::connect_unix(&path).unwrap().get().unwrap().status, 200);
    assert_eq!(second.terminate(), Some(0));
}

/// A client over TCP is known by its address, also if it has gone before the worker took it.
#[test]
fn the_peer_address_is_the_clients_own() {
    let croupier = Croupier::of_role(&["--workers", "1"], "worker_with_threads");
    let address = croupier.wait_ready(1);
    let client = Client::connect(&address).unwrap();
    let own = client.stream().local_addr().unwrap();
    drop(client);
    croupier.log().wait_for(&format!("has a connection of Some({own})"));
}

#[test]
fn declared_only_refuses_other_addresses_and_names_those_that_are_declared() {
    let address = "CROUPIER_TEST_ADDRESS=127.0.0.1:1";
    let options = ["--workers", "1", "--declared-only", "--listen", "[::1]:0", "--env", address];
    let croupier = Croupier::of_role(&options, "worker_that_asks");
    let line = croupier.log().wait_for("refused with");
    let declared = croupier.log().wait_for_count("dealing ", 2);
    let addresses: Vec<&str> = declared
        .iter()
        .filter_map(|line| line.split(' ').find(|word| word.contains("]:") || word.starts_with("127.")))
        .collect();
    assert_eq!(addresses.len(), 2, "{declared:?}");
    for part in ["PermissionDenied", "127.0.0.1:1 is not declared", addresses[0], addresses[1]] {
        assert!(line.contains(part), "no {part} in {line}");
    }
    assert!(croupier.log().wait_for("may not listen").contains("WARN"));
}

#[test]
fn a_worker_listens_once_on_each_of_several_listeners() {
    let mut run = support::run(&["--workers", "2", "--listen", "127.0.0.1:0"]);
    let role = "worker_on_all_listeners";
    run.arg(format!("--env={}={role}", roles::ROLE));
    let directory = Directory::new();
    let path = directory.file("third.sock");
    run.arg(format!("--listen=unix:{path}")).arg(format!("--env={ADDRESS}=unix:{path}"));
    run.arg("--").args(roles::command(role));
    let mut croupier = Croupier::spawn(run);
    let tcp = croupier.wait_ready(2);
    croupier.log().wait_for_count("has both", 2);
    croupier.log().wait_for_count("the second time: AddrInUse", 2);
    for _ in 0..10 {
        assert_eq!(http::get(&tcp).unwrap().status, 200);
        let mut client = Client::connect_unix(&path).unwrap();
        client.send(http::LAST_REQUEST).unwrap();
        assert_eq!(client.response().unwrap().status, 200);
    }
    croupier.log().wait_for("no worker has asked for it");
    assert_eq!(croupier.terminate(), Some(0));
}

/// The primary keeps the other end of it alive, so that close(2) alone would leave the channel in the epoll.
#[test]
fn a_dropped_listener_leaves_no_ghost_in_the_epoll_of_its_worker() {
    let directory = Directory::new();
    let go = format!("--env={GO}={}", directory.file("go"));
    let mut croupier = Croupier::of_role(&["--workers", "2", &go], "worker_that_drops_its_listener");
    let address = croupier.wait_ready(2);
    // Each of the two is dealt one of these; worker 1 drops its listener, and takes nothing.
    let mut clients: Vec<Client> = (0..2).map(|_| Client::connect(&address).unwrap()).collect();
    clients.iter_mut().for_each(|client| client.send(http::LAST_REQUEST).unwrap());
    croupier.log().wait_for("dropped its listener");
    clients.iter_mut().for_each(|client| assert_eq!(client.response().unwrap().worker(), 2));
    for _ in 0..20 {
        assert_eq!(http::get(&address).unwrap().worker(), 2);
    }
    std::fs::write(directory.file("go"), "").unwrap();
    assert!(croupier.log().wait_for("ghosts=").ends_with("ghosts=0"), "{}", croupier.log());
    assert_eq!(croupier.terminate(), Some(0));
}

/// A listener that is dropped and asked for again is dealt to as before.
#[test]
fn a_listener_can_be_dropped_and_asked_for_again() {
    let mut croupier = Croupier::of_role(&["--workers", "1"], "worker_that_listens_again_and_again");
    let address = croupier.wait_ready(1);
    for _ in 0..100 {
        assert_eq!(http::get(&address).unwrap().status, 200);
    }
    assert_eq!(croupier.started().len(), 1, "nobody died of it");
    assert_eq!(croupier.terminate(), Some(0));
}

/// Answers to nobody, a second welcome, what only a newer primary says. Then it is gone without an order to finish:
/// that is the end of a worker, and no failure.
#[test]
fn nonsense_of_a_primary_is_ignored_and_its_end_ends_the_worker_with_0() {
    let (channel, theirs) = ControlChannel::pair().unwrap();
    let command = roles::command("worker_that_asks");
    let mut worker = support::plain("sh");
    worker.args(["-c", "exec 3<&0 0</dev/null \"$0\" \"$@\""]).args(&command).stdin(theirs);
    worker.env(roles::ROLE, "worker_that_asks").env(ADDRESS, "127.0.0.1:80");
    worker.env(bootstrap::CHANNEL, "3").env(bootstrap::WORKER_ID, "7").stderr(Stdio::piped());
    let mut child = worker.stdout(Stdio::null()).spawn().unwrap();
    drop(worker); // with its copy of the other end
    let log = Log::collect(child.stderr.take().unwrap());

    let hear = || channel.receive::<FromWorker>(&mut vec![0; PACKET_MAX_BYTES], Wait::Block).unwrap();
    let Incoming::Message(FromWorker::Hello { .. }, _) = hear() else { panic!("it begins with hello") };
    let board = Scoreboard::create().unwrap();
    let (worker, slot) = (WorkerId(7), Slot(0));
    let welcome = FromPrimary::Welcome { version: VERSION, worker, slot, generation: 0, idle_timeout_ms: None };
    channel.send(&welcome, Some(board.as_fd())).unwrap();
    let Incoming::Message(FromWorker::Listen { request, .. }, _) = hear() else { panic!("then it asks") };
    let refused = |request| FromPrimary::Refused { request, errno: 98, reason: format!("the answer to {request}") };
    channel.send_packet(br#"{"type":"sing","of":"-1"}"#, None, Wait::Block).unwrap();
    channel.send(&welcome, None).unwrap();
    let lane = FromPrimary::Lane {
        request: u32::MAX,
        lane: LaneId(0),
        address: "x".into(),
        shared: false,
        proxy_protocol: None,
    };
    let (_ours, pipe) = nix::unistd::pipe().unwrap();
    channel.send(&lane, Some(pipe.as_fd())).unwrap();
    channel.send(&refused(u32::MAX), None).unwrap();
    channel.send(&refused(request), None).unwrap();
    let line = log.wait_for("refused with");
    assert!(line.contains("AddrInUse") && line.ends_with(&format!("the answer to {request}")), "{line}");
    drop(channel);
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

// The workers.

#[test]
fn worker_with_threads() {
    if !roles::plays("worker_with_threads") {
        return;
    }
    let listener = listen(&ListenOptions::new());
    let who =
        std::env::var("CROUPIER_TEST_ADDRESS").map_or_else(|_| roles::join().id().to_string(), |_| "alone".into());
    roles::say(&format!("listens on {}", listener.address()));
    let served = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let (listener, served, who) = (&listener, &served, &who);
            scope.spawn(move || {
                for connection in listener {
                    let connection = connection.unwrap();
                    roles::say(&format!("thread {thread} has a connection of {:?}", connection.peer_addr()));
                    if http::answer(&connection, who).unwrap_or(false) {
                        served.fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
        }
    });
    roles::say(&format!("all threads have ended, served={}", served.into_inner()));
}

#[test]
fn worker_for_one_at_a_time() {
    if !roles::plays("worker_for_one_at_a_time") {
        return;
    }
    let listener = listen(&ListenOptions::new().connections_max(1));
    let open = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        while let Some(connection) = listener.accept().unwrap() {
            roles::say(&format!("open={}", open.fetch_add(1, Ordering::SeqCst) + 1));
            let open = &open;
            scope.spawn(move || {
                http::answer(&connection, "1").unwrap();
                open.fetch_sub(1, Ordering::SeqCst);
                drop(connection);
            });
        }
    });
}

#[test]
fn worker_that_keeps_guards() {
    if !roles::plays("worker_that_keeps_guards") {
        return;
    }
    let listener = listen(&ListenOptions::new().connections_max(1));
    let kept: Mutex<Option<Vec<CountGuard>>> = Mutex::new(Some(Vec::new()));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            wait_until("the test says so", || Path::new(&roles::variable(GO)).exists());
            // From now on none is kept.
            *kept.lock().unwrap() = None;
        });
        while let Some(connection) = listener.accept().unwrap() {
            let (stream, guard) = connection.into_parts();
            http::answer(Both(&stream), "1").unwrap();
            drop(stream);
            if let Some(kept) = &mut *kept.lock().unwrap() {
                kept.push(guard);
                roles::say("guard kept");
            }
        }
    });
}

/// Reads and writes of a stream that is only borrowed.
struct Both<'a>(&'a croupier::worker::Stream);

impl Read for Both<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        (&mut &*self.0).read(buffer)
    }
}

impl Write for Both<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        (&mut &*self.0).write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn worker_that_asks() {
    if !roles::plays("worker_that_asks") {
        return;
    }
    let error = Listener::bind(&roles::variable(ADDRESS)).unwrap_err();
    roles::say(&format!("refused with {:?}: {error}", error.kind()));
    roles::wait_for_the_end();
}

#[test]
fn worker_on_all_listeners() {
    if !roles::plays("worker_on_all_listeners") {
        return;
    }
    let worker = roles::join();
    let first = worker.listen_on_first(&ListenOptions::new()).unwrap();
    let third = Listener::bind(&roles::variable(ADDRESS)).unwrap();
    roles::say("has both");
    let again = worker.listen_on_first(&ListenOptions::new()).unwrap_err();
    roles::say(&format!("the second time: {:?}", again.kind()));
    std::thread::scope(|scope| {
        for listener in [&first, &third] {
            let who = worker.id().to_string();
            scope.spawn(move || {
                while let Some(connection) = listener.accept().unwrap() {
                    http::answer(&connection, &who).unwrap();
                }
            });
        }
    });
}

#[test]
fn worker_that_drops_its_listener() {
    if !roles::plays("worker_that_drops_its_listener") {
        return;
    }
    let worker = roles::join();
    if worker.id().0 != 1 {
        return roles::serve_well();
    }
    const LISTENER: Token = Token(7);
    let mut listener = worker.listen_on_first(&ListenOptions::new()).unwrap();
    let (mut poll, mut events) = (Poll::new().unwrap(), Events::with_capacity(8));
    poll.registry().register(&mut listener, LISTENER, Interest::READABLE).unwrap();
    poll.poll(&mut events, None).unwrap();
    assert!(events.iter().any(|event| event.token() == LISTENER), "a connection waits");
    drop(listener);
    roles::say("worker 1 dropped its listener");
    let mut ghosts = 0;
    loop {
        let is_last = Path::new(&roles::variable(GO)).exists();
        poll.poll(&mut events, Some(Duration::from_millis(20))).unwrap();
        ghosts += events.iter().count();
        if is_last {
            break;
        }
    }
    roles::say(&format!("ghosts={ghosts}"));
    wait_until("the primary says that it is over", || worker.drain().is_some());
}

#[test]
fn worker_that_listens_again_and_again() {
    if !roles::plays("worker_that_listens_again_and_again") {
        return;
    }
    let worker = roles::join();
    while worker.drain().is_none() {
        let listener = worker.listen_on_first(&ListenOptions::new()).unwrap();
        for _ in 0..3 {
            match listener.accept().unwrap() {
                Some(connection) => drop(answer_and_end(connection)),
                None => break,
            }
        }
    }
}

fn answer_and_end(connection: Connection) -> std::io::Result<bool> {
    http::answer(&connection, "1")
}

/// Under a primary its first listener, alone the address of the test.
fn listen(options: &ListenOptions) -> Listener {
    match std::env::var(ADDRESS) {
        Ok(address) => options.bind(&address).unwrap(),
        Err(_) => roles::join().listen_on_first(options).unwrap(),
    }
}

/// The order to finish ends each of them: a descriptor that both shared could be watched for one only.
#[test]
fn an_event_loop_has_several_sockets_of_its_own_and_all_of_them_end() {
    let mut croupier = Croupier::of_role(&["--workers", "1"], "worker_with_two_own_sockets");
    let line = croupier.log().wait_for("its own sockets are ");
    for address in line.rsplit(' ').take(2) {
        assert_eq!(http::get(address).unwrap().status, 200);
    }
    assert_eq!(croupier.terminate(), Some(0));
}

#[test]
fn worker_with_two_own_sockets() {
    if roles::plays("worker_with_two_own_sockets") {
        let mut event_loop = EventLoop::new(roles::Good::named(roles::join().id())).unwrap();
        let own = [(); 2].map(|()| ListenOptions::new().exclusive(true).bind("127.0.0.1:0").unwrap());
        let addresses = own.each_ref().map(Listener::address);
        own.into_iter().for_each(|listener| event_loop.listen(listener).unwrap());
        roles::say(&format!("its own sockets are {}", addresses.join(" ")));
        event_loop.run().unwrap();
        std::process::exit(0); // before the test harness says how well it went
    }
}
