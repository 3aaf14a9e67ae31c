//! `--respawn`: who is replaced, and how croupier ends when nobody is.

#![cfg(feature = "cli")]

mod support;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use support::Croupier;
use support::http;

/// A demo worker that ends with this code when it is told to (the shell stays between it and croupier).
fn demo_that_ends_with(code: u32) -> Vec<String> {
    let script = format!("trap '' TERM; \"$0\" demo; exit {code}");
    ["sh", "-c", &script, support::PROGRAM].map(String::from).to_vec()
}

fn croupier(options: &[&str], command: &[String]) -> Croupier {
    let command: Vec<&str> = command.iter().map(String::as_str).collect();
    Croupier::of_command(options, &command)
}

/// The demo below the shell of worker `id`.
fn end_demo(croupier: &Croupier, id: u32) {
    let shell = croupier.wait_started(id).pid;
    let demo = support::until(|| support::processes::children(shell).first().copied()).expect("the demo runs");
    kill(Pid::from_raw(demo), Signal::SIGKILL).unwrap();
}

#[test]
fn never_ends_with_0_when_the_last_worker_has_ended_with_0() {
    let mut croupier = croupier(&["--workers", "2", "--respawn", "never"], &demo_that_ends_with(0));
    let address = croupier.wait_ready(2);
    end_demo(&croupier, 1);
    croupier.log().wait_for("[not replaced]");
    let left: Vec<u32> = (0..4).map(|_| http::get(&address).unwrap().worker()).collect();
    assert_eq!(left, [2, 2, 2, 2]);
    end_demo(&croupier, 2);
    assert_eq!(croupier.wait_exit(), Some(0));
    assert_eq!(croupier.started().len(), 2);
}

#[test]
fn never_ends_with_1_when_one_of_the_workers_had_failed() {
    let mut croupier = Croupier::demo(&["--workers", "2", "--respawn", "never"]);
    croupier.wait_ready(2);
    for (id, signal) in [(1, Signal::SIGKILL), (2, Signal::SIGTERM)] {
        let worker = croupier.wait_started(id);
        kill(Pid::from_raw(worker.pid), signal).unwrap();
        croupier.log().wait_for(&format!("worker={id} pid={} exited", worker.pid));
    }
    assert_eq!(croupier.wait_exit(), Some(1));
    assert_eq!(croupier.started().len(), 2);
}

#[test]
fn on_failure_replaces_those_that_fail_and_ends_with_1_after_the_last_that_did_not() {
    let mut croupier = Croupier::demo(&["--workers", "1", "--respawn", "on-failure"]);
    croupier.wait_ready(1);
    kill(Pid::from_raw(croupier.wait_started(1).pid), Signal::SIGKILL).unwrap();
    let second = croupier.wait_started(2);
    croupier.wait_ready(2);
    kill(Pid::from_raw(second.pid), Signal::SIGTERM).unwrap();
    assert_eq!(croupier.wait_exit(), Some(1), "not all of them ended with 0");
}

#[test]
fn on_failure_ends_with_0_when_nobody_has_failed() {
    let mut croupier = croupier(&["--workers", "2", "--respawn", "on-failure"], &demo_that_ends_with(0));
    croupier.wait_ready(2);
    end_demo(&croupier, 1);
    end_demo(&croupier, 2);
    assert_eq!(croupier.wait_exit(), Some(0));
}

#[test]
fn always_replaces_also_those_that_end_with_0() {
    let mut croupier = Croupier::demo(&["--workers", "1"]);
    let address = croupier.wait_ready(1);
    kill(Pid::from_raw(croupier.wait_started(1).pid), Signal::SIGTERM).unwrap();
    croupier.log().wait_for("exited code=0");
    croupier.wait_ready(2);
    assert_eq!(http::get(&address).unwrap().worker(), 2);
    assert_eq!(croupier.terminate(), Some(0));
}
