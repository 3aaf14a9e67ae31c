//! The lives of Node workers as an embedder hears of them: every event once and in order, what was voluntary and what
//! was not, ends that the worker, the primary or nobody asked for, and programs written for pm2.

#![cfg(feature = "cli")]

mod support;

use std::net::TcpStream;
use std::time::Duration;

use croupier::primary::commands::Signal;
use croupier::primary::events::Event;
use croupier::primary::policy::PolicyKind;
use croupier::primary::settings::Settings;
use croupier::primary::supervisor::{Outcome, Stop};
use croupier::protocol::ids::WorkerId;

use support::embedded::Embedded;
use support::http::{self, Client};
use support::node;
use support::script::{Scripted, ask, free_port};
use support::{Croupier, Directory, processes, wait_until};

const BIRTH: [&str; 3] = ["fork 1 slot=0 generation=0", "online 1", "listening 1"];

/// One worker that follows this script, and is not replaced.
fn embed(place: &Directory, script: &str) -> Embedded {
    Embedded::of(node::scripted_settings(place, script))
}

/// Its first events; the address of its first listener.
#[track_caller]
fn birth(embedded: &Embedded) -> String {
    assert_eq!(embedded.words(2), BIRTH[..2]);
    let Event::Listening { worker: WorkerId(1), address } = embedded.event() else { panic!("then it listens") };
    address
}

// What is told.

#[test]
fn a_life_is_told_in_order_and_each_event_once() {
    let place = Directory::new();
    let mut embedded = embed(&place, "listen a 127.0.0.1:0");
    let address = birth(&embedded);
    assert!(!address.ends_with(":0"), "with the real port");
    assert_eq!(ask(&address), "1 a");
    embedded.kill(1, Signal::SIGKILL).unwrap();
    assert_eq!(embedded.words(2), ["disconnect 1 voluntary=true", "exit 1 signal=9 voluntary=true"]);
    assert_eq!(embedded.wait_end(), Outcome::WorkersEnded { all_succeeded: false });
}

#[test]
fn a_crash_and_an_exit_without_a_word_are_not_voluntary() {
    let place = Directory::new();
    let embedded = embed(&place, "listen a 127.0.0.1:0");
    birth(&embedded);
    processes::send(embedded.pid(1), Signal::SIGKILL);
    assert_eq!(embedded.words(2), ["disconnect 1 voluntary=false", "exit 1 signal=9 voluntary=false"]);

    let embedded = embed(&place, "listen a 127.0.0.1:0\nwait go\nexit 42");
    birth(&embedded);
    std::fs::write(place.file("go"), "").unwrap();
    assert_eq!(embedded.words(2), ["disconnect 1 voluntary=false", "exit 1 code=42 voluntary=false"]);

    let embedded = embed(&place, "exit 42");
    let words = embedded.words_until("exit 1 code=42 voluntary=false");
    assert_eq!(words[words.len() - 2], "disconnect 1 voluntary=false");
}

#[test]
fn a_worker_that_was_asked_to_disconnect_finishes_and_its_exit_is_voluntary() {
    let place = Directory::new();
    let settings = node::scripted_settings(&place, "listen a 127.0.0.1:0\nafter 10 42");
    let embedded = Embedded::of(settings);
    let address = birth(&embedded);
    let client = node::begin(&address);
    embedded.disconnect(1).unwrap();
    embedded.words_until("fork 2 slot=0 generation=0");
    assert_eq!(node::finish(client), 1, "it finishes what it has");
    let words = embedded.words_until("exit 1 code=42 voluntary=true");
    assert!(words.contains(&"disconnect 1 voluntary=true".to_owned()), "{words:?}");
}

/// One that listens, one that does not yet.
#[test]
fn a_worker_that_disconnects_or_kills_itself_leaves_by_its_own_will() {
    let place = Directory::new();
    let end = ["disconnect 1 voluntary=true", "exit 1 code=0 voluntary=true"];
    for word in ["disconnect", "kill", "disconnect\nkill", "kill\nkill"] {
        let mut embedded = embed(&place, &format!("listen a 127.0.0.1:0\n{word}"));
        assert_eq!(embedded.words(5), [&BIRTH[..], &end].concat(), "{word}");
        assert_eq!(embedded.wait_end(), Outcome::WorkersEnded { all_succeeded: true });
        let embedded = embed(&place, word);
        assert_eq!(embedded.words(4), [&BIRTH[..2], &end].concat(), "{word} at once");
    }
}

/// `process.disconnect()`: without a word, the end of the channel is all that there is.
#[test]
fn a_worker_that_hangs_up_is_forgotten() {
    let place = Directory::new();
    let mut embedded = embed(&place, "listen a 127.0.0.1:0\nhangup");
    birth(&embedded);
    assert_eq!(embedded.words(2), ["disconnect 1 voluntary=false", "exit 1 code=0 voluntary=false"]);
    assert_eq!(embedded.wait_end(), Outcome::WorkersEnded { all_succeeded: true });
}

// The end of all.

#[test]
fn requests_in_flight_are_answered_before_a_stop_ends() {
    let place = Directory::new();
    let mut embedded = embed(&place, "listen a 127.0.0.1:0");
    let address = birth(&embedded);
    let clients: Vec<Client> = (0..3).map(|_| node::begin(&address)).collect();
    embedded.ask_to_stop(Stop::Graceful);
    wait_until("nobody listens", || TcpStream::connect(&address).is_err());
    assert!(processes::runs(embedded.pid(1)));
    assert!(clients.into_iter().all(|client| node::finish(client) == 1));
    assert_eq!(embedded.words(2), ["disconnect 1 voluntary=true", "exit 1 code=0 voluntary=true"]);
    assert_eq!(embedded.wait_end(), Outcome::Stopped);
}

#[test]
fn the_same_process_can_start_again_on_the_same_ports() {
    let place = Directory::new();
    let address = format!("127.0.0.1:{}", free_port());
    for _ in 0..2 {
        let mut settings = node::scripted_settings(&place, &format!("listen a {address}\nlisten b 127.0.0.1:0"));
        settings.plan.worker_count = 3;
        let embedded = Embedded::of(settings);
        for _ in 0..12 {
            embedded.event();
        }
        assert!(ask(&address).ends_with(" a"));
        assert_eq!(embedded.stop(), Outcome::Stopped);
        assert!(TcpStream::connect(&address).is_err());
    }
}

#[test]
fn a_stop_right_after_the_start_ends_well() {
    let place = Directory::new();
    for policy in [PolicyKind::RoundRobin, PolicyKind::Shared] {
        let settings = node::scripted_settings(&place, "listen a 127.0.0.1:0");
        let embedded = Embedded::of(Settings { policy, ..settings });
        assert_eq!(embedded.word(), BIRTH[0]);
        assert_eq!(embedded.stop(), Outcome::Stopped);
    }
}

/// The primary writes to channels that are being closed.
#[test]
fn workers_that_leave_all_at_once_while_they_are_sent_messages_end_well() {
    let place = Directory::new();
    let mut settings = node::scripted_settings(&place, "listen a 127.0.0.1:0\nwait go\ndisconnect");
    (settings.plan.worker_count, settings.plan.outlives_workers) = (4, true);
    let mut embedded = Embedded::of(settings);
    let words: Vec<String> = (0..12).map(|_| embedded.word()).collect();
    assert_eq!(words.iter().filter(|word| word.starts_with("listening")).count(), 4, "{words:?}");
    std::fs::write(place.file("go"), "").unwrap();
    for number in 0..200 {
        // It may have left.
        let _ = embedded.send(number % 4 + 1, &number);
    }
    embedded.ask_to_stop(Stop::Graceful);
    let words: Vec<String> = (0..8).map(|_| embedded.word()).collect();
    for id in 1..=4 {
        assert!(words.contains(&format!("disconnect {id} voluntary=true")), "{words:?}");
        assert!(words.contains(&format!("exit {id} code=0 voluntary=true")), "{words:?}");
    }
    assert_eq!(embedded.wait_end(), Outcome::Stopped);
}

#[test]
fn a_worker_that_never_comes_back_to_its_loop_is_ended_by_a_signal_and_by_a_stop() {
    let place = Directory::new();
    let spins = |shutdown_timeout| {
        let mut settings = node::scripted_settings(&place, "listen a 127.0.0.1:0\nspin");
        settings.plan.shutdown_timeout = shutdown_timeout;
        let embedded = Embedded::of(settings);
        birth(&embedded);
        embedded
    };
    let embedded = spins(Duration::from_secs(30));
    embedded.kill(1, Signal::SIGTERM).unwrap();
    assert_eq!(embedded.words(2), ["disconnect 1 voluntary=true", "exit 1 signal=15 voluntary=true"]);

    let mut embedded = spins(Duration::from_millis(100));
    embedded.ask_to_stop(Stop::Graceful);
    assert_eq!(embedded.words(2), ["disconnect 1 voluntary=true", "exit 1 signal=15 voluntary=true"]);
    assert_eq!(embedded.wait_end(), Outcome::StoppedByForce);
}

#[test]
fn when_the_primary_is_killed_its_workers_end_and_its_port_is_free() {
    let mut croupier = node::start(&["--workers=2"], "http.js", &[]);
    let address = croupier.wait_ready(2);
    assert_eq!(http::get(&address).unwrap().status, 200);
    croupier.signal(Signal::SIGKILL);
    assert_eq!(croupier.wait_exit(), None);
    croupier.started().into_iter().for_each(|worker| processes::wait_gone(worker.pid));
    assert!(TcpStream::connect(&address).is_err());
}

// Together with others.

/// With workers that accept themselves, where the last one that closes it ends a listener.
#[test]
fn workers_of_a_shared_listener_come_and_go_in_any_order() {
    let address = format!("127.0.0.1:{}", free_port());
    let script = format!(
        "only 1 listen a {address}\nonly 2 listen own 127.0.0.1:0\nonly 3 listen own 127.0.0.1:0\nwait go\n\
         only 1 disconnect\nonly 2 listen a {address}\nonly 2 disconnect\nonly 3 disconnect"
    );
    let mut scripted = Scripted::start_node(&["--policy=shared", "--workers=3", "--respawn=never"], &script);
    scripted.address("a", 1);
    scripted.address("own", 2);
    let pending = Client::connect(&address).unwrap();
    scripted.go_on("go");
    scripted.says("worker 3: disconnected");
    drop(pending);
    assert_eq!(scripted.croupier.log().wait_for_count(" exited code=0", 3).len(), 3);
    assert_eq!(scripted.croupier.wait_exit(), Some(0));
    assert_eq!(scripted.croupier.log().count(": a failed"), 0, "{}", scripted.croupier.log());
}

/// One has a listener, one has another, one has none.
#[test]
fn workers_end_alike_whatever_they_listen_on() {
    let script = "only 1 listen a 127.0.0.1:0\nonly 2 listen b 127.0.0.1:0\nonly 3 wait go";
    for policy in ["--policy=round-robin", "--policy=shared"] {
        let scripted = Scripted::start_node(&[policy, "--workers=3"], script);
        scripted.address("a", 1);
        scripted.address("b", 1);
        scripted.go_on("go");
        scripted.end();
    }
}

// Programs written for pm2.

#[test]
fn a_program_is_ready_when_it_says_so_and_has_finished_when_it_was_told_to() {
    let place = Directory::new();
    let is_ready = place.file("ready");
    let options = ["--workers=2", "--wait-ready", "--shutdown-message"];
    let mut croupier = node::start(&options, "pm2_style.js", &[&is_ready]);
    let address = croupier.address();
    let mut early = Client::connect(&address).unwrap();
    early.send(http::LAST_REQUEST).unwrap();
    croupier.log().wait_for_count(" prepares", 2);
    assert_eq!(croupier.log().count(" listening on "), 0, "{}", croupier.log());
    std::fs::write(&is_ready, "").unwrap();
    assert!(early.response().unwrap().body.starts_with("hello from instance "));
    croupier.wait_ready(2);
    croupier.log().wait_for("instance 0 does the jobs of all");
    let mut bodies = [http::get(&address).unwrap().body, http::get(&address).unwrap().body];
    bodies.sort();
    assert_eq!(bodies, ["hello from instance 0", "hello from instance 1"]);

    croupier.client(&["reload"]).assert_ok();
    for instance in [0, 1] {
        croupier.log().wait_for(&format!("instance {instance} has finished"));
    }
    assert_eq!(croupier.log().count("instance 0 does the jobs of all"), 2, "its replacement has its number");
    assert_eq!(croupier.terminate(), Some(0));
    assert_eq!(croupier.log().wait_end().iter().filter(|line| line.ends_with(" has finished")).count(), 4);
}

#[test]
fn one_that_never_says_that_it_is_ready_is_given_up_after_the_start_timeout() {
    let options = ["--workers=1", "--wait-ready", "--start-timeout=300ms", "--respawn=never"];
    let mut croupier: Croupier = node::start(&options, "http.js", &[]);
    assert_eq!(croupier.wait_exit(), Some(1));
    assert_eq!(croupier.log().count(" exited signal=9"), 1, "{}", croupier.log());
}
