//! The torture of `scripts/torture`, a few seconds of each scenario: not one client may be lost.
//!
//! How long clients wait is judged there, and here only coarsely: tests run beside each other.

#![cfg(feature = "cli")]

mod support;
#[path = "../benches/torture/mod.rs"]
mod torture;

use std::sync::{Mutex, PoisonError};

use torture::scenario::Extent;
use torture::table;

/// One after the other: each of them is load enough.
static TURN: Mutex<()> = Mutex::new(());

#[track_caller]
fn nobody_is_lost(name: &str) {
    let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let scenario = torture::scenarios().find(|scenario| scenario.name == name).expect("a scenario of that name");
    let row = (scenario.play)(scenario.name, &Extent::QUICK);
    drop(turn);
    let text = [row.notes.clone(), row.faults.clone(), row.details.clone()].concat().join("\n");
    assert!(row.is_good(), "\n{}\n{}\n{text}", table::HEAD, table::line(&row));
    assert!(row.answered > 0, "{text}");
}

#[test]
fn nobody_is_lost_when_workers_are_killed() {
    nobody_is_lost("kill");
}

#[test]
fn nobody_is_lost_when_workers_hang_and_are_killed() {
    nobody_is_lost("hang-kill");
}

#[test]
fn nobody_is_lost_and_nobody_waits_long_when_a_worker_is_stopped() {
    nobody_is_lost("stop");
}

#[test]
fn nobody_is_lost_in_a_reload() {
    nobody_is_lost("reload");
}

#[test]
fn no_idle_connection_is_lost_in_a_reload() {
    nobody_is_lost("reload-keep-alive");
}

#[test]
fn nobody_is_lost_in_an_upgrade() {
    nobody_is_lost("upgrade");
}

#[test]
fn nobody_is_lost_when_workers_are_added_and_removed() {
    nobody_is_lost("scale");
}

#[test]
fn nobody_is_lost_when_workers_are_recycled() {
    nobody_is_lost("recycle");
}

#[test]
fn nobody_is_lost_when_all_of_it_happens() {
    nobody_is_lost("mixed");
}

#[test]
fn nobody_who_had_connected_is_lost_when_croupier_ends() {
    nobody_is_lost("term");
}

#[test]
fn nobody_is_lost_when_a_node_worker_hangs_and_is_killed() {
    nobody_is_lost("node-stop");
}

#[test]
fn nobody_is_lost_in_a_reload_of_node_workers() {
    nobody_is_lost("node-reload");
}

#[test]
fn nobody_is_refused_when_the_only_node_worker_is_killed() {
    nobody_is_lost("node-kill-only");
}

#[test]
fn nobody_is_lost_when_the_only_node_worker_closes_its_servers() {
    nobody_is_lost("node-close");
}
