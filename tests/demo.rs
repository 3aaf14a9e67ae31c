//! `croupier demo` without a primary, and how much croupier logs.

#![cfg(feature = "cli")]

mod support;

use std::process::Command;

use nix::sys::signal::Signal;

use support::script::free_port;
use support::{Croupier, PROGRAM, http, plain, processes, run, wait_until};

fn demo(options: &[&str]) -> Command {
    let mut command = plain(PROGRAM);
    command.arg("demo").args(options);
    command
}

#[test]
fn alone_it_listens_itself_until_it_is_told_to_finish() {
    let address = format!("127.0.0.1:{}", free_port());
    let mut demo = Croupier::spawn(demo(&["--listen", &address]));
    wait_until("it listens", || http::get(&address).is_ok());
    assert_eq!(http::get(&address).unwrap().status, 200);
    demo.signal(Signal::SIGTERM);
    assert_eq!(demo.wait_exit(), Some(0));
    assert!(http::get(&address).is_err(), "and the port is free");
}

#[test]
fn two_of_them_share_a_port_if_both_say_so() {
    let address = format!("127.0.0.1:{}", free_port());
    let mut demos = [(); 2].map(|()| Croupier::spawn(demo(&["--listen", &address, "--reuse-port"])));
    for demo in &mut demos {
        assert_eq!(processes::listening_address(demo.pid()), address);
    }
    for demo in &mut demos {
        demo.signal(Signal::SIGTERM);
        assert_eq!(demo.wait_exit(), Some(0), "{}", demo.log());
    }
}

#[test]
fn quiet_leaves_warnings_and_verbose_or_rust_log_adds_what_is_done_for_each_worker() {
    let levels = |options: &[&str], rust_log: Option<&str>| {
        let mut command = run(&[&["--workers", "1"], options].concat());
        command.envs(rust_log.map(|value| ("RUST_LOG", value)));
        let mut croupier = Croupier::spawn(command);
        let address = processes::listening_address(croupier.pid());
        assert_eq!(http::get(&address).unwrap().status, 200);
        assert_eq!(croupier.terminate(), Some(0));
        croupier.log().wait_end();
        [" INFO ", " DEBUG "].map(|level| croupier.log().count(level) > 0)
    };
    assert_eq!(levels(&[], None), [true, false]);
    assert_eq!(levels(&["--quiet"], None), [false, false]);
    assert_eq!(levels(&["--verbose"], None), [true, true]);
    assert_eq!(levels(&[], Some("croupier=debug")), [true, true]);
}
