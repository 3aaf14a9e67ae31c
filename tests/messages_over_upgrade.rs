//! Messages that wait in a primary which replaces its own image arrive all the same. The embedder here is the test
//! program too: an upgrade replaces the whole process.

#![cfg(feature = "cli")]

mod support;

use std::fs::File;
use std::io::Write;
use std::os::fd::AsFd;

use croupier::primary::Primary;
use croupier::primary::commands::{Answer, Command, Remote, Undelivered};
use croupier::primary::events::Event;
use croupier::primary::reexec::state::State;
use croupier::primary::reexec::{self, Invocation};
use croupier::protocol::body::Body;
use croupier::protocol::control::MESSAGES_UNREAD_MAX;
use croupier::protocol::ids::WorkerId;

use support::{Croupier, DEADLINE, Directory, embedded, roles, wait_until};

/// A file that says that the worker may join.
const GO: &str = "CROUPIER_TEST_GO";
const WORKER: WorkerId = WorkerId(1);

#[test]
fn messages_and_their_credits_survive_an_upgrade() {
    let directory = Directory::new();
    let role = "embedder_that_upgrades";
    let mut command = roles::command(role).into_iter();
    let mut embedder = support::plain(command.next().unwrap());
    embedder.args(command).env(roles::ROLE, role).env(GO, directory.file("go"));
    let embedder = Croupier::spawn(embedder);
    embedder.log().wait_for("all arrived");
}

/// The first image leaves its messages to the second, and that one lets the worker join.
#[test]
fn embedder_that_upgrades() {
    if !roles::plays("embedder_that_upgrades") {
        return;
    }
    let state = State::claim().unwrap();
    if std::env::args().any(|argument| argument == "upgrade-check") {
        assert!(state.is_some());
        std::io::stdout().write_all(format!("{}\n", reexec::agreed_line()).as_bytes()).unwrap();
        std::process::exit(0);
    }
    let mut command = roles::command("embedder_that_upgrades").into_iter();
    let mut settings = embedded::settings("worker_that_joins_late");
    settings.invocation = Some(Invocation {
        program: command.next().unwrap().into(),
        arguments: command.map(Into::into).collect(),
        variables: Vec::new(),
        before_exec: || {},
    });
    let is_first = state.is_none();
    let mut primary = match state {
        None => Primary::bind(settings).unwrap(),
        Some(state) => Primary::take_over(settings, state).unwrap(),
    };
    let (remote, events) = (primary.remote(), primary.subscribe(1000));
    std::thread::spawn(move || {
        if is_first {
            assert!(matches!(events.recv(), Ok(Event::Fork { worker: WORKER, .. })));
            for number in 0..MESSAGES_UNREAD_MAX {
                send(&remote, number).unwrap();
            }
            let failed = Answer::new(|why| roles::say(&format!("no upgrade: {why}")));
            return remote.send(Command::Upgrade(failed)).unwrap();
        }
        assert_eq!(send(&remote, 0), Err(Undelivered::WouldExceed(WORKER)));
        assert!(matches!(events.recv_timeout(DEADLINE), Ok(Event::Upgrade { .. })));
        std::fs::write(roles::variable(GO), "").unwrap();
        assert!(matches!(events.recv_timeout(DEADLINE), Ok(Event::Online { worker: WORKER })));
        for expected in 0..MESSAGES_UNREAD_MAX {
            let Ok(Event::Message { body, fd, .. }) = events.recv_timeout(DEADLINE) else { panic!("no {expected}") };
            assert_eq!((body.parse().unwrap(), fd.is_some()), ((expected, large()), has_descriptor(expected)));
        }
        send(&remote, 0).expect("the credits are back");
        roles::say("all arrived");
    });
    primary.run().unwrap();
}

fn send(remote: &Remote, number: u32) -> Result<(), Undelivered> {
    let body = Body::of(&(number, large())).unwrap();
    let fd = has_descriptor(number).then(|| File::open("/dev/null").unwrap().into());
    remote.ask(|answer| Command::Send { worker: WORKER, body, fd, answer }).unwrap()
}

fn has_descriptor(number: u32) -> bool {
    number.is_multiple_of(10)
}

fn large() -> String {
    "\"ä\n".repeat(3_000)
}

#[test]
fn worker_that_joins_late() {
    if roles::plays("worker_that_joins_late") {
        wait_until("the second image", || std::path::Path::new(&roles::variable(GO)).exists());
        let worker = roles::join();
        while let Some(message) = worker.messages().receive().unwrap() {
            worker.send(&message.body, message.fd.as_ref().map(AsFd::as_fd)).unwrap();
        }
    }
}
