//! A primary leaves nothing behind in the process that embeds it, which can start another one. Alone in its program:
//! it counts the process's descriptors and children.

#![cfg(feature = "cli")]

mod support;

use croupier::primary::settings::Settings;
use croupier::primary::supervisor::Outcome;

use support::embedded::{self, Embedded};
use support::{http, processes, roles};

#[test]
fn a_stop_completes_when_all_are_gone_and_the_same_process_can_start_again() {
    let us = std::process::id() as i32;
    let before = processes::descriptors(us).len();
    let first = Embedded::of(four_on("127.0.0.1:0"));
    let address = first.address().to_owned();
    first.words(4 * 3);
    http::get(&address).unwrap();
    assert_eq!(first.stop(), Outcome::Stopped);
    assert_eq!(processes::children(us), [0; 0], "nobody is left");
    assert_eq!(processes::descriptors(us).len(), before, "and nothing");

    let again = Embedded::of(four_on(&address));
    again.words(4 * 3);
    assert_eq!(http::get(&address).unwrap().status, 200);
    assert_eq!(again.stop(), Outcome::Stopped);
    // And once more, without waiting for anybody to be there.
    assert_eq!(Embedded::of(four_on(&address)).stop(), Outcome::Stopped);
    assert_eq!(processes::children(us), [0; 0]);
    assert_eq!(processes::descriptors(us).len(), before);
}

fn four_on(address: &str) -> Settings {
    let mut settings = embedded::settings("worker_that_serves");
    settings.listeners = vec![embedded::listener(address)];
    settings.plan.worker_count = 4;
    settings
}

#[test]
fn worker_that_serves() {
    if roles::plays("worker_that_serves") {
        roles::serve_well();
    }
}
