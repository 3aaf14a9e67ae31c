//! A primary leaves nothing behind in the process that embeds it, which can start another one. Alone in its program:
//! it counts the process's descriptors and children, one test at a time.

#![cfg(feature = "cli")]

mod support;

use std::collections::BTreeSet;
use std::net::TcpListener;
use std::sync::{Mutex, MutexGuard, PoisonError};

use croupier::primary::events::Event;
use croupier::primary::settings::Settings;
use croupier::primary::supervisor::Outcome;
use croupier::primary::{Cluster, RunningCluster};
use croupier::worker::ListenOptions;
use croupier::worker::event_loop::EventLoop;

use support::embedded::{self, Embedded};
use support::{DEADLINE, Directory, http, processes, roles, script};

/// The variable with the second listener of [`worker_on_two_listeners`].
const SECOND: &str = "CROUPIER_TEST_SECOND";

/// Held by the test that counts.
fn alone() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What this process has: its descriptors and its children.
fn possessions() -> (Vec<i32>, Vec<i32>) {
    let us = std::process::id() as i32;
    (processes::descriptors(us), processes::children(us))
}

#[test]
fn a_stop_completes_when_all_are_gone_and_the_same_process_can_start_again() {
    let _alone = alone();
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
    for _ in 0..2 {
        eight_workers_on_two_listeners_that_they_ask_for();
        assert_eq!(processes::children(us), [0; 0]);
        assert_eq!(processes::descriptors(us).len(), before);
    }
}

fn eight_workers_on_two_listeners_that_they_ask_for() {
    let place = Directory::new();
    let mut settings = script::settings(&place, "listen a 127.0.0.1:0\nlisten b 127.0.0.1:0");
    settings.plan.worker_count = 8;
    let embedded = Embedded::of(settings);
    let (mut addresses, mut told) = (BTreeSet::new(), 0);
    while told < 16 {
        if let Event::Listening { address, .. } = embedded.event() {
            addresses.insert(address);
            told += 1;
        }
    }
    assert_eq!(addresses.len(), 2, "{addresses:?}");
    for address in &addresses {
        script::ask(address);
    }
    assert_eq!(embedded.stop(), Outcome::Stopped);
    assert!(addresses.iter().all(|address| TcpListener::bind(address).is_ok()), "they are free");
}

#[test]
fn a_cluster_leaves_nothing_when_it_is_shut_down_stopped_or_dropped() {
    let _alone = alone();
    let before = possessions();
    let directory = Directory::new();
    let second = format!("unix:{}", directory.file("second.sock"));
    let mut address = "127.0.0.1:0".to_owned();
    let ends: [fn(RunningCluster); 4] = [
        |cluster| assert_eq!(cluster.shutdown().unwrap().outcome, Outcome::Stopped),
        |cluster| assert_eq!(cluster.stop().unwrap().outcome, Outcome::Stopped),
        |cluster| cluster.disconnect_all().unwrap(),
        drop,
    ];
    for end in ends {
        let command = embedded::command("worker_on_two_listeners").variable(SECOND, &second);
        let cluster = Cluster::of(command).workers(8).listen(&address).listen(&second).start().unwrap();
        address = cluster.addresses()[0].to_string();
        let mut count = 0;
        while count < 8 * 2 {
            let event = cluster.events().recv_timeout(DEADLINE).expect("all of them come up");
            count += usize::from(matches!(event, Event::Listening { .. }));
        }
        assert_eq!(http::get(&address).unwrap().status, 200);
        end(cluster);
        assert_eq!(possessions(), before);
        assert!(!std::path::Path::new(&directory.file("second.sock")).exists(), "the path is free");
    }
    // Without waiting for anybody to be there.
    let command = embedded::command("worker_that_serves");
    drop(Cluster::of(command).workers(8).listen(&address).start().unwrap());
    assert_eq!(possessions(), before);
}

fn four_on(address: &str) -> Settings {
    let mut settings = embedded::settings("worker_that_serves");
    settings.listeners = vec![embedded::listener(address)];
    settings.plan.worker_count = 4;
    settings
}

#[test]
fn worker_with_script() {
    script::play();
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
