//! Torture: clients at a steady rate against a croupier whose workers are killed, stopped and replaced, and a verdict
//! on what became of every single client.
//!
//! ```text
//!   scenario   what is done to whom, how often ── Croupier (tests/support)
//!   node       the same with Node programs, and with Node's own primary
//!   load       the clients                     ── what each of them has seen
//!   verdict    answered, cut or lost           ── by the accounts that croupier logs at each worker's exit
//!   table      one line per scenario
//! ```
//! `benches/torture.rs` runs whole scenarios (`scripts/torture`), `tests/torture.rs` a few seconds of each.

#![allow(dead_code)] // Each of the two uses another part.

pub mod chance;
pub mod client;
pub mod load;
pub mod node;
pub mod peers;
pub mod scenario;
pub mod stage;
pub mod table;
pub mod verdict;

/// Every scenario, in the order of the table.
pub fn scenarios() -> impl Iterator<Item = &'static scenario::Scenario> {
    scenario::ALL.iter().chain(node_scenarios())
}

/// Those with Node programs as workers.
pub fn node_scenarios() -> impl Iterator<Item = &'static scenario::Scenario> {
    scenario::NODE.iter().chain(&node::ALL)
}
