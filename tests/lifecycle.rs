//! The lives of workers as an embedder hears of them: every event once and in order, what was voluntary and what was
//! not, and asking for an end twice, early or late.

#![cfg(feature = "cli")]

mod support;

use std::io::Read;
use std::time::Duration;

use croupier::primary::commands::{Command, Refused, Scale, Signal};
use croupier::primary::events::Event;
use croupier::primary::policy::PolicyKind;
use croupier::primary::settings::Settings;
use croupier::primary::supervisor::{Outcome, Respawn, Stop};
use croupier::protocol::ids::WorkerId;
use croupier::worker::event_loop::EventLoop;
use croupier::worker::{Drain, ListenOptions};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::killpg;
use nix::unistd::Pid;

use support::embedded::{self, Embedded, word};
use support::http::{self, Client};
use support::{Directory, processes, roles, script, wait_until};

const BIRTH: [&str; 3] = ["fork 1 slot=0 generation=0", "online 1", "listening 1"];

/// The variable with the second listener of [`worker_on_two_listeners`].
const SECOND: &str = "CROUPIER_TEST_SECOND";
/// The variable with the address to which [`worker_with_work_of_its_own`] connects.
const UPSTREAM: &str = "CROUPIER_TEST_UPSTREAM";

#[track_caller]
fn begins(embedded: &Embedded) {
    assert_eq!(embedded.words(3), BIRTH);
}

#[test]
fn a_life_is_told_in_order_and_each_event_once() {
    let mut embedded = Embedded::of_role("worker_that_serves");
    let Event::Fork { worker, pid, .. } = embedded.event() else { panic!("it begins with the process") };
    assert_eq!((worker, pid), (WorkerId(1), embedded.pid(1)), "ids begin with 1");
    assert_eq!(embedded.word(), "online 1");
    let Event::Listening { worker: WorkerId(1), address } = embedded.event() else { panic!("then it listens") };
    assert_eq!(address, embedded.address(), "with the real port");
    assert_eq!(http::get(&address).unwrap().worker(), 1);

    embedded.kill(1, Signal::SIGKILL).unwrap();
    assert_eq!(embedded.words(2), ["disconnect 1 voluntary=true", "exit 1 signal=9 voluntary=true"]);
    processes::wait_gone(pid);
    assert_eq!(embedded.wait_end(), Outcome::WorkersEnded { all_succeeded: false });
}

#[test]
fn every_listener_is_told_once() {
    let directory = Directory::new();
    let second = format!("unix:{}", directory.file("second.sock"));
    let mut settings = embedded::settings("worker_on_two_listeners");
    settings.listeners.push(embedded::listener(&second));
    settings.command.variables.push((SECOND.into(), (&second).into()));
    let embedded = Embedded::of(settings);
    assert_eq!(embedded.words(2), BIRTH[..2]);
    for expected in [embedded.address(), &second] {
        let Event::Listening { address, .. } = embedded.event() else { panic!("it listens twice") };
        assert_eq!(address, expected);
    }
    embedded.ask_to_stop(Stop::Graceful);
    assert_eq!(embedded.words(2), ["disconnect 1 voluntary=true", "exit 1 code=0 voluntary=true"]);
}

#[test]
fn a_crash_and_an_exit_without_a_word_are_not_voluntary() {
    let embedded = Embedded::of_role("worker_that_serves");
    begins(&embedded);
    processes::send(embedded.pid(1), Signal::SIGKILL);
    assert_eq!(embedded.words(2), ["disconnect 1 voluntary=false", "exit 1 signal=9 voluntary=false"]);

    let embedded = Embedded::of_role("worker_that_leaves_without_a_word");
    begins(&embedded);
    assert_eq!(embedded.words(2), ["disconnect 1 voluntary=false", "exit 1 code=42 voluntary=false"]);
}

#[test]
fn one_that_never_says_hello_is_still_disconnected_before_it_has_ended() {
    let mut settings = embedded::settings("nobody");
    settings.command.program = "sh".into();
    // The child outlives it, and has the channel open.
    settings.command.arguments = vec!["-c".into(), "sleep 1000 >/dev/null 2>&1 & exit 42".into()];
    let embedded = Embedded::of(settings);
    let Event::Fork { pid, .. } = embedded.event() else { panic!("it begins with the process") };
    let words = embedded.words(2);
    killpg(Pid::from_raw(pid), Signal::SIGKILL).expect("the child is there");
    assert_eq!(words, ["disconnect 1 voluntary=false", "exit 1 code=42 voluntary=false"]);
}

#[test]
fn a_worker_that_was_asked_to_disconnect_finishes_and_its_exit_is_voluntary() {
    let mut settings = embedded::settings("worker_that_exits_42_after_its_drain");
    settings.plan.worker_count = 2;
    let embedded = Embedded::of(settings);
    for _ in 0..6 {
        embedded.event();
    }
    let mut client = Client::connect(embedded.address()).unwrap();
    client.send("GET / HTTP/1.1\r\n").unwrap();
    let serving = 1;
    support::wait_until("worker 1 has the connection", || embedded.status().workers[0].open == Some(1));
    embedded.disconnect(serving).unwrap();
    assert_eq!(embedded.word(), "fork 3 slot=0 generation=0", "somebody follows whom the primary asked");
    client.send("\r\n").unwrap();
    assert_eq!(client.response().unwrap().worker(), serving, "it finishes what it has");
    let last = "exit 1 code=42 voluntary=true";
    let words = embedded.words_until(last);
    assert_eq!(words.iter().filter(|word| word.contains(" 1 ")).count(), 2, "{words:?}");
    assert!(words.contains(&"disconnect 1 voluntary=true".to_owned()), "{words:?}");
    assert!(matches!(embedded.disconnect(serving), Err(Refused::NoSuchWorker(WorkerId(1)))));
}

#[test]
fn a_worker_that_disconnects_itself_waits_for_the_primarys_word_and_drains() {
    let mut embedded = Embedded::of_role("worker_that_disconnects_itself");
    begins(&embedded);
    let mut clients: Vec<Client> = (0..3).map(|_| Client::connect(embedded.address()).unwrap()).collect();
    for client in &mut clients {
        assert_eq!(client.get().unwrap().worker(), 1);
    }
    assert_eq!(embedded.word(), "message 1 \"connected\"");
    embedded.send(1, "now").unwrap();
    assert_eq!(
        embedded.words(3),
        ["message 1 [\"told\",\"told again\",false]", "disconnect 1 voluntary=true", "exit 1 code=0 voluntary=true"]
    );
    assert_eq!(embedded.wait_end(), Outcome::WorkersEnded { all_succeeded: true });
}

#[test]
fn a_worker_may_disconnect_itself_before_anything_listens_and_the_plan_decides_who_follows() {
    let mut settings = embedded::settings("worker_that_disconnects_at_once");
    settings.plan.respawn = Respawn::Always;
    let embedded = Embedded::of(settings);
    assert_eq!(
        embedded.words(4),
        ["fork 1 slot=0 generation=0", "online 1", "disconnect 1 voluntary=true", "exit 1 code=0 voluntary=true"]
    );
    let Event::Respawn { after, .. } = embedded.event() else { panic!("the plan says always") };
    assert!(after > Duration::ZERO, "one that never listens is started with a pause");
    assert_eq!(embedded.word(), "fork 2 slot=0 generation=0");
}

/// Whatever becomes of it afterwards: that it wanted to go is not lost.
#[test]
fn a_worker_that_cannot_listen_may_leave_and_fail_after_that() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    for policy in [PolicyKind::RoundRobin, PolicyKind::Shared] {
        for (last, code) in [("exit 0", 0), ("panic", 101)] {
            let place = Directory::new();
            let script = format!("listen a {address}\ndisconnect\n{last}");
            let embedded = Embedded::of(Settings { policy: policy.clone(), ..script::settings(&place, &script) });
            assert_eq!(embedded.words(2), BIRTH[..2]);
            let end = format!("exit 1 code={code} voluntary=true");
            assert_eq!(embedded.words(2), ["disconnect 1 voluntary=true", &end], "{policy:?}");
        }
    }
}

/// A client, and a connection to somewhere else.
#[test]
fn a_worker_that_was_told_to_finish_is_heard_and_lives_until_its_work_is_done() {
    let upstream = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let mut settings = embedded::settings("worker_with_work_of_its_own");
    settings.command.variables.push((UPSTREAM.into(), upstream.local_addr().unwrap().to_string().into()));
    let embedded = Embedded::of(settings);
    begins(&embedded);
    let (upstream, _) = upstream.accept().unwrap();
    let mut client = Client::connect(embedded.address()).unwrap();
    client.send("GET / HTTP/1.1\r\n").unwrap();
    assert_eq!(embedded.word(), "message 1 \"has a client\"");
    embedded.ask_to_stop(Stop::Graceful);
    assert_eq!(embedded.word(), "message 1 \"finishing\"");
    client.send("\r\n").unwrap();
    assert_eq!(client.response().unwrap().worker(), 1);
    assert_eq!(embedded.word(), "message 1 \"has served it\"");
    assert!(processes::runs(embedded.pid(1)));
    drop(upstream);
    assert_eq!(
        embedded.words(3),
        ["message 1 \"has done everything\"", "disconnect 1 voluntary=true", "exit 1 code=0 voluntary=true"]
    );
}

#[test]
fn a_worker_that_never_comes_back_to_its_loop_is_ended_by_a_signal_and_by_a_stop() {
    let embedded = Embedded::of_role("worker_that_spins");
    begins(&embedded);
    embedded.kill(1, Signal::SIGTERM).unwrap();
    assert_eq!(embedded.words(2), ["disconnect 1 voluntary=true", "exit 1 signal=15 voluntary=true"]);

    let mut settings = embedded::settings("worker_that_spins");
    settings.plan.shutdown_timeout = Duration::from_millis(100);
    let mut embedded = Embedded::of(settings);
    begins(&embedded);
    embedded.ask_to_stop(Stop::Graceful);
    assert_eq!(embedded.words(2), ["disconnect 1 voluntary=true", "exit 1 signal=15 voluntary=true"]);
    assert_eq!(embedded.wait_end(), Outcome::StoppedByForce);
}

#[test]
fn a_stop_completes_while_nobody_lives_and_while_somebody_is_half_gone() {
    let mut settings = embedded::settings("nobody");
    (settings.command.program, settings.plan.respawn) = ("false".into(), Respawn::Always);
    let mut embedded = Embedded::of(settings);
    wait_until("nobody lives, and somebody will follow", || matches!(embedded.event(), Event::Respawn { .. }));
    embedded.ask_to_stop(Stop::Graceful);
    assert_eq!(embedded.wait_end(), Outcome::Stopped);

    let mut embedded = Embedded::of_role("worker_that_hangs_up_and_stays");
    begins(&embedded);
    assert_eq!(embedded.word(), "disconnect 1 voluntary=false");
    embedded.ask_to_stop(Stop::Graceful);
    assert_eq!(embedded.word(), "exit 1 signal=15 voluntary=true");
    assert_eq!(embedded.wait_end(), Outcome::Stopped, "it hears nothing, so it was ended at once");
}

#[test]
fn ending_a_worker_by_a_signal_is_harmless_twice_and_late() {
    let embedded = Embedded::of_role("worker_that_hangs_up_and_stays");
    begins(&embedded);
    assert_eq!(embedded.word(), "disconnect 1 voluntary=false");
    let pid = embedded.pid(1);
    assert_eq!(embedded.status().workers[0].state, "disconnected");
    embedded.disconnect(1).unwrap();
    assert_eq!(embedded.word(), "fork 2 slot=0 generation=0", "it has lost its slot");
    embedded.kill(1, Signal::SIGTERM).unwrap();
    embedded.words_until("exit 1 signal=15 voluntary=true");
    processes::wait_gone(pid);
    assert_eq!(embedded.kill(1, Signal::SIGKILL), Err(Refused::NoSuchWorker(WorkerId(1))));
}

#[test]
fn reloads_and_scaling_are_told_too_and_late_subscribers_hear_the_rest() {
    let embedded = Embedded::of_role("worker_that_serves");
    begins(&embedded);
    let late = embedded.remote.subscribe(1000).unwrap();
    embedded.remote.ask(Command::Reload).unwrap().unwrap();
    let words = embedded.words_until("exit 1 code=0 voluntary=true");
    for expected in ["fork 2 slot=0 generation=1", "online 2", "listening 2", "disconnect 1 voluntary=true"] {
        assert_eq!(words.iter().filter(|word| *word == expected).count(), 1, "{expected} in {words:?}");
    }
    assert!(words.iter().any(|word| word.starts_with("Reload { end: Done")), "{words:?}");
    embedded.remote.ask(|answer| Command::Scale(Scale::To(2), answer)).unwrap().unwrap();
    let more = embedded.words(4);
    assert_eq!(more, ["Scale { workers: 2 }", "fork 3 slot=1 generation=1", "online 3", "listening 3"]);
    let all = [words, more].concat();
    let heard: Vec<String> = all.iter().map(|_| word(&late.recv_timeout(support::DEADLINE).unwrap())).collect();
    assert_eq!(heard, all);
}

// The workers.

#[test]
fn worker_with_script() {
    script::play();
}

#[test]
fn worker_with_work_of_its_own() {
    if roles::plays("worker_with_work_of_its_own") {
        let worker = roles::join();
        let mut upstream = std::net::TcpStream::connect(roles::variable(UPSTREAM)).unwrap();
        let listener = worker.listen_on_first(&ListenOptions::new()).unwrap();
        let client = listener.accept().unwrap().unwrap();
        worker.send("has a client", None).unwrap();
        let mut fds = [PollFd::new(worker.drain_fd(), PollFlags::POLLIN)];
        poll(&mut fds, PollTimeout::NONE).unwrap();
        worker.send("finishing", None).unwrap();
        http::answer(&client, &worker.id().to_string()).unwrap();
        drop(client);
        worker.send("has served it", None).unwrap();
        assert_eq!(upstream.read(&mut [0]).unwrap(), 0);
        worker.send("has done everything", None).unwrap();
        std::process::exit(0);
    }
}

/// The library's own thread ends it if the test does not.
#[test]
fn worker_that_spins() {
    if roles::plays("worker_that_spins") {
        let _listener = roles::join().listen_on_first(&ListenOptions::new()).unwrap();
        loop {
            std::hint::spin_loop();
        }
    }
}

#[test]
fn worker_that_serves() {
    if roles::plays("worker_that_serves") {
        roles::serve_well();
    }
}

#[test]
fn worker_on_two_listeners() {
    if roles::plays("worker_on_two_listeners") {
        let worker = roles::join();
        let mut event_loop = EventLoop::new(roles::Good::named(worker.id())).unwrap();
        event_loop.listen(worker.listen_on_first(&ListenOptions::new()).unwrap()).unwrap();
        event_loop.listen(worker.listen(Some(&roles::variable(SECOND)), &ListenOptions::new()).unwrap()).unwrap();
        event_loop.run().unwrap();
    }
}

#[test]
fn worker_that_leaves_without_a_word() {
    if roles::plays("worker_that_leaves_without_a_word") {
        let _listener = roles::join().listen_on_first(&ListenOptions::new()).unwrap();
        std::process::exit(42);
    }
}

#[test]
fn worker_that_exits_42_after_its_drain() {
    if roles::plays("worker_that_exits_42_after_its_drain") {
        roles::serve_well();
        assert!(matches!(roles::join().drain(), Some(Drain::Ordered(_))) && !roles::join().is_connected());
        std::process::exit(42);
    }
}

/// It takes the end of its listener as the end.
#[test]
fn worker_that_disconnects_itself() {
    if roles::plays("worker_that_disconnects_itself") {
        let worker = roles::join();
        let listener = worker.listen_on_first(&ListenOptions::new()).unwrap();
        let id = worker.id().to_string();
        let clients = std::thread::scope(|scope| {
            let taking = scope.spawn(|| {
                let mut connections = Vec::new();
                while let Some(connection) = listener.accept().unwrap() {
                    http::answer(&connection, &id).unwrap();
                    connections.push(connection);
                    if connections.len() == 3 {
                        assert!(worker.is_connected());
                        worker.send("connected", None).unwrap();
                    }
                }
                connections
            });
            worker.messages().receive().unwrap().unwrap();
            worker.disconnect().unwrap();
            let told = if worker.drain().is_some() { "told" } else { "not told" };
            worker.disconnect().unwrap();
            worker.send(&(told, "told again", worker.is_connected()), None).unwrap();
            taking.join().unwrap()
        });
        drop(clients);
        worker.disconnect().unwrap();
        std::process::exit(0);
    }
}

#[test]
fn worker_that_disconnects_at_once() {
    if roles::plays("worker_that_disconnects_at_once") {
        let worker = roles::join();
        std::thread::scope(|scope| {
            // From two threads at the same time: both are told.
            scope.spawn(|| worker.disconnect().unwrap());
            worker.disconnect().unwrap();
        });
        std::process::exit(0);
    }
}

/// Without the library, which would not do that.
#[test]
fn worker_that_hangs_up_and_stays() {
    if roles::plays("worker_that_hangs_up_and_stays") {
        drop(roles::Bare::listen().channel);
        roles::wait_for_the_end();
    }
}
