//! The end: TERM, INT, INT again, and workers that do not want to.

#![cfg(feature = "cli")]

mod support;

use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::sync::Barrier;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use nix::sys::signal::Signal;

use support::http::{self, Client};
use support::{Croupier, Directory, processes, roles, wait_until};

const CLIENTS: usize = 8;

/// Whoever had connected is answered. Whoever had not is refused, or still waits for the handshake: both know that
/// they were not served.
#[test]
fn no_client_that_had_connected_goes_without_an_answer_when_croupier_is_terminated_under_load() {
    terminate_under_load(Croupier::demo(&["--workers", "3"]));
}

/// Newer kernels let only the privileged filter what comes to a TCP listener.
#[test]
fn nor_when_it_has_no_privileges() {
    const NOBODY: u32 = 65534;
    let place = Directory::new();
    let program = place.copy_for_all(support::PROGRAM);
    std::os::unix::fs::chown(place.path(), Some(NOBODY), Some(NOBODY)).unwrap();
    for round in 0..5 {
        let mut run = support::plain(&program);
        run.args(["run", "--listen", "127.0.0.1:0", "--workers", "3"]);
        run.args(["--control", &place.file(&format!("control-{round}"))]).uid(NOBODY).gid(NOBODY).current_dir("/");
        terminate_under_load(Croupier::spawn(run));
    }
}

#[track_caller]
fn terminate_under_load(mut croupier: Croupier) {
    let address = croupier.wait_ready(3);
    let served = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS).map(|_| scope.spawn(|| request_until_refused(&address, &served))).collect();
        wait_until("the load is on", || served.load(Ordering::Relaxed) > 200);
        croupier.signal(Signal::SIGTERM);
        let failed: Vec<String> = clients.into_iter().filter_map(|client| client.join().unwrap().err()).collect();
        assert!(failed.is_empty(), "of {} requests: {failed:?}", served.load(Ordering::Relaxed));
    });
    assert_eq!(croupier.wait_exit(), Some(0));
    assert_eq!(croupier.log().count("WARN"), 0, "{}", croupier.log());
}

fn request_until_refused(address: &str, served: &AtomicUsize) -> Result<(), String> {
    let address: SocketAddr = address.parse().unwrap();
    loop {
        let stream = match TcpStream::connect_timeout(&address, Duration::from_secs(5)) {
            Ok(stream) => stream,
            Err(error) => match error.kind() {
                ErrorKind::ConnectionRefused | ErrorKind::TimedOut => return Ok(()),
                _ => return Err(format!("connect: {error}")),
            },
        };
        stream.set_read_timeout(Some(support::DEADLINE)).unwrap();
        let mut client = Client::on(stream);
        client.send(http::LAST_REQUEST).map_err(|error| format!("send: {error}"))?;
        let response = client.response().map_err(|error| format!("receive: {error}"))?;
        if response.status != 200 {
            return Err(format!("{response:?}"));
        }
        served.fetch_add(1, Ordering::Relaxed);
    }
}

#[test]
fn clients_in_the_backlog_and_in_the_queues_are_answered_before_the_end() {
    let mut croupier = Croupier::demo(&["--workers", "1", "--queue-max", "2"]);
    let address = croupier.wait_ready(1);
    let worker = nix::unistd::Pid::from_raw(croupier.wait_started(1).pid);
    nix::sys::signal::kill(worker, Signal::SIGSTOP).unwrap();
    processes::wait_stopped(worker.as_raw());
    let mut clients: Vec<Client> = (0..40).map(|_| Client::connect(&address).unwrap()).collect();
    for client in &mut clients {
        client.send(http::LAST_REQUEST).unwrap();
    }
    croupier.signal(Signal::SIGTERM);
    croupier.log().wait_for("ending listeners");
    nix::sys::signal::kill(worker, Signal::SIGCONT).unwrap();
    for client in &mut clients {
        assert_eq!(client.response().unwrap().status, 200);
    }
    assert_eq!(croupier.wait_exit(), Some(0));
}

#[test]
fn a_request_in_progress_is_finished_and_an_idle_connection_ends_with_a_fin() {
    let mut croupier = Croupier::demo(&["--workers", "1"]);
    let address = croupier.wait_ready(1);
    let mut idle = Client::connect(&address).unwrap();
    idle.get().unwrap();
    let mut busy = Client::connect(&address).unwrap();
    let (first_half, second_half) = http::REQUEST.split_at(10);
    busy.send(first_half).unwrap();
    // Answered after the half request had arrived in the same event loop.
    http::get(&address).unwrap();

    croupier.signal(Signal::SIGTERM);
    assert_eq!(idle.rest().unwrap(), b"", "an end and no reset");
    drop(idle);
    busy.send(second_half).unwrap();
    let response = busy.response().unwrap();
    assert!(response.status == 200 && response.head.contains("connection: close"), "{response:?}");
    assert_eq!(busy.rest().unwrap(), b"");
    assert_eq!(croupier.wait_exit(), Some(0));
}

#[test]
fn after_the_end_the_port_is_free_and_no_worker_is_left() {
    let mut croupier = Croupier::demo(&["--workers", "3"]);
    let address = croupier.wait_ready(3);
    http::get(&address).unwrap();
    assert_eq!(croupier.terminate(), Some(0));
    for worker in croupier.started() {
        assert!(!processes::runs(worker.pid), "croupier has waited for it");
    }
    TcpListener::bind(&address).unwrap();
    assert_eq!(croupier.log().wait_end().last().unwrap().split("INFO").nth(1), Some("  stopped"));
}

#[test]
fn every_graceful_signal_ends_it_with_0() {
    for signal in [Signal::SIGTERM, Signal::SIGQUIT, Signal::SIGINT] {
        let mut croupier = Croupier::demo(&["--workers", "2"]);
        croupier.wait_ready(2);
        croupier.signal(signal);
        assert_eq!(croupier.wait_exit(), Some(0), "{signal}");
    }
}

/// Before any worker has said hello there is nobody to tell: SIGTERM ends them.
#[test]
fn a_signal_during_start_up_ends_it_with_0() {
    let mut croupier = Croupier::of_command(&["--workers", "2"], &["sleep", "1000"]);
    croupier.wait_started(2);
    assert_eq!(croupier.terminate(), Some(0));
    assert!(croupier.started().iter().all(|worker| !processes::runs(worker.pid)));
}

#[test]
fn a_second_interrupt_does_not_wait_for_requests_in_progress() {
    let mut croupier = Croupier::demo(&["--workers", "2", "--shutdown-timeout", "1h"]);
    let address = croupier.wait_ready(2);
    let mut idle: Vec<Client> = (0..2).map(|_| Client::connect(&address).unwrap()).collect();
    idle.iter_mut().for_each(|client| assert_eq!(client.get().unwrap().status, 200));
    let mut busy = Client::connect(&address).unwrap();
    busy.send("GET / HTTP/1.1\r\n").unwrap();
    http::get(&address).unwrap();
    http::get(&address).unwrap();

    croupier.signal(Signal::SIGINT);
    // Both workers have heard of it and end what is idle.
    idle.iter_mut().for_each(|client| assert_eq!(client.rest().unwrap(), b""));
    croupier.signal(Signal::SIGINT);
    assert_eq!(croupier.wait_exit(), Some(0), "every worker went by itself at SIGTERM");
    assert_eq!(busy.rest().unwrap(), b"");
}

#[test]
fn a_worker_that_never_finishes_is_killed_after_the_timeouts_and_the_exit_code_is_1() {
    let mut run = support::run(&["--workers", "2", "--shutdown-timeout", "200ms", "--kill-delay", "200ms"]);
    let role = "worker_never_finishes";
    run.arg(format!("--env={}={role}", roles::ROLE));
    // The shell makes SIGTERM ignored for what it becomes.
    run.args(["--", "sh", "-c", "trap '' TERM; exec \"$0\" \"$@\""]).args(roles::command(role));
    let mut croupier = Croupier::spawn(run);
    let address = croupier.wait_ready(2);
    http::get(&address).unwrap();
    croupier.signal(Signal::SIGTERM);
    assert_eq!(croupier.wait_exit(), Some(1));
    assert_eq!(croupier.log().count("SIGKILL to its group"), 2);
    assert_eq!(croupier.log().count("exited signal=9"), 2);
    croupier.log().wait_for("croupier: stopped, but workers had not finished");
    assert!(croupier.started().iter().all(|worker| !processes::runs(worker.pid)));
}

/// What a worker has started in its group goes with it.
#[test]
fn the_last_kill_goes_to_the_whole_group_of_a_worker() {
    let options = ["--workers", "1", "--shutdown-timeout", "200ms", "--kill-delay", "200ms"];
    let mut croupier = Croupier::of_command(&options, &["sh", "-c", "trap '' TERM; sleep 1000 & wait; sleep 1000"]);
    let worker = croupier.wait_started(1).pid;
    wait_until("it has a child", || !processes::children(worker).is_empty());
    let children = processes::children(worker);
    assert_eq!(croupier.terminate(), Some(1));
    children.into_iter().for_each(processes::wait_gone);
}

#[test]
fn the_shutdown_delay_goes_on_accepting_and_a_fast_stop_cuts_it_short() {
    let mut croupier = Croupier::demo(&["--workers", "1", "--shutdown-delay", "1h"]);
    let address = croupier.wait_ready(1);
    croupier.signal(Signal::SIGINT);
    croupier.log().wait_for("signal=SIGINT");
    for _ in 0..20 {
        assert_eq!(http::get(&address).unwrap().status, 200);
    }
    croupier.signal(Signal::SIGINT);
    assert_eq!(croupier.wait_exit(), Some(0));
}

/// Nobody has room, and nobody is in the backlog: that is no reason to wait.
#[test]
fn the_end_comes_although_no_worker_has_room() {
    let mut croupier = Croupier::demo(&["--workers", "1", "--connections-max", "1"]);
    let address = croupier.wait_ready(1);
    let mut idle = Client::connect(&address).unwrap();
    idle.get().unwrap();
    croupier.signal(Signal::SIGTERM);
    assert_eq!(idle.rest().unwrap(), b"");
    assert_eq!(croupier.wait_exit(), Some(0));
}

/// Nobody will ever serve this client: it is no reason to wait for --shutdown-timeout, or to fail.
#[test]
fn a_client_of_a_listener_that_no_worker_asked_for_does_not_hold_up_the_end() {
    let mut croupier = Croupier::demo(&["--workers", "1", "--listen", "127.0.0.1:0", "--shutdown-timeout", "5s"]);
    croupier.wait_ready(1);
    let lines = croupier.log().wait_for_count("dealing ", 2);
    let unasked = lines[1].split(' ').find(|word| word.starts_with("127.0.0.1:")).unwrap();
    let mut client = Client::connect(unasked).unwrap();
    client.send(http::REQUEST).unwrap();
    assert_eq!(croupier.terminate(), Some(0));
    assert_ne!(client.response().unwrap_err().kind(), ErrorKind::WouldBlock, "its client sees a clear end");
}

/// The idle connections that take up all the room end, and so there is room.
#[test]
fn a_client_that_waits_for_room_does_not_hold_up_the_end() {
    let options = ["--workers", "1", "--connections-max", "1", "--shutdown-timeout", "5s"];
    let mut croupier = Croupier::demo(&options);
    let address = croupier.wait_ready(1);
    let mut idle = Client::connect(&address).unwrap();
    idle.get().unwrap();
    let mut waiting = Client::connect(&address).unwrap();
    waiting.send(http::LAST_REQUEST).unwrap();
    croupier.signal(Signal::SIGTERM);
    assert_eq!(idle.rest().unwrap(), b"");
    drop(idle);
    match waiting.response() {
        Ok(response) => assert_eq!(response.status, 200),
        Err(error) => assert_ne!(error.kind(), ErrorKind::WouldBlock, "an answer or a clear end"),
    }
    assert_eq!(croupier.wait_exit(), Some(0));
}

#[test]
fn a_worker_that_dies_during_the_end_does_not_hold_it_up() {
    let mut croupier = Croupier::demo(&["--workers", "4"]);
    croupier.wait_ready(4);
    let workers = croupier.started();
    let at_once = Barrier::new(2);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            at_once.wait();
            for worker in &workers {
                let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(worker.pid), Signal::SIGKILL);
            }
        });
        at_once.wait();
        croupier.signal(Signal::SIGTERM);
    });
    assert_eq!(croupier.wait_exit(), Some(0));
}

#[test]
fn worker_never_finishes() {
    if !roles::plays("worker_never_finishes") {
        return;
    }
    let bare = roles::Bare::listen();
    let _ = bare.serve(|| {});
    roles::wait_for_the_end();
}
