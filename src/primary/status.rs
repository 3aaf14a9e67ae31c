//! What `GET /status` says, as plain data. Filled by the event loop from the register. Names are stable: fields are
//! only ever added. Numbers count from the start of the primary (or of the worker), unless the name says otherwise.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use super::dialect::DialectKind;
use super::ledger::Ledger;
use crate::protocol::ids::Slot;
use crate::sys::usage;

/// Everything about one primary.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// Its name.
    pub name: String,
    /// Its process.
    pub pid: u32,
    /// Of this program.
    pub version: String,
    /// What workers execute, with its arguments.
    #[serde(default)]
    pub command: String,
    /// The release of the running kernel.
    #[serde(default)]
    pub kernel: String,
    /// When it was started.
    pub started_unix_seconds: u64,
    /// How long ago that was.
    pub age_seconds: u64,
    /// How many upgrades in place there have been.
    pub upgrades: u32,
    /// How many reloads there have been.
    pub generation: u32,
    /// Whether a stop is under way.
    pub state: State,
    /// Whether it is for clients, as load balancers are told. It deals either way.
    pub enabled: bool,
    /// Since when it is, or is not.
    pub enabled_since_unix_seconds: u64,
    /// How many workers there should be. Those that finish are among `workers` too.
    pub workers_wanted: u32,
    /// By id: every worker whose process has not ended.
    pub workers: Vec<WorkerStatus>,
    /// In the order of their declaration.
    pub listeners: Vec<ListenerStatus>,
    /// All together.
    pub counters: Counters,
}

impl Status {
    /// Fills in what workers' processes have of the machine. It reads files: for whoever asks, not for the event loop.
    /// A process that has just ended has nothing.
    pub fn look_at_processes(&mut self) {
        for worker in &mut self.workers {
            let usage = usage::of(worker.pid);
            worker.rss_bytes = usage.map_or(0, |it| it.rss_bytes);
            worker.cpu_seconds = usage.map_or(0.0, |it| it.cpu.as_secs_f64());
        }
    }
}

/// Where the primary stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// It deals.
    Running,
    /// A stop was asked for. It may still deal: `--shutdown-delay`.
    Stopping,
}

/// One worker.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WorkerStatus {
    /// Its number, never used again.
    pub id: u32,
    /// Its stable place.
    pub slot: u32,
    /// How many reloads there had been when it was started.
    pub generation: u32,
    /// Its process.
    pub pid: i32,
    /// starting, online, ready, draining or disconnected.
    pub state: String,
    /// How it is spoken to.
    #[serde(default = "native")]
    pub dialect: DialectKind,
    /// Connections that it has open now; `None`: Node workers do not tell when one ends.
    pub open: Option<u64>,
    /// Connections that were dealt to it and that it has taken.
    pub taken: u64,
    /// Connections that wait for it now.
    pub untaken: u64,
    /// Connections that were dealt to it.
    pub dealt: u64,
    /// Of those, how many were taken back because it did not take them.
    pub reclaimed: u64,
    /// How many workers its slot has had before it, those that a reload replaced included.
    pub restarts: u64,
    /// How long ago it was started.
    pub age_seconds: u64,
    /// Its resident memory. As [`cpu_seconds`](Self::cpu_seconds), not known to the event loop:
    /// [`Status::look_at_processes`].
    #[serde(default)]
    pub rss_bytes: u64,
    /// Its time on the processors so far.
    #[serde(default)]
    pub cpu_seconds: f64,
}

/// What all workers were before there were others.
fn native() -> DialectKind {
    DialectKind::Native
}

/// One listener.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListenerStatus {
    /// With the real port.
    pub address: String,
    /// Who gets its connections: the name of a policy.
    pub policy: String,
    /// Connections accepted.
    pub accepted: u64,
    /// Deals, those of connections that had come back included.
    pub dealt: u64,
    /// Deals of connections that had come back, by reason.
    pub redealt: Redealt,
    /// Connections that came back and were closed because nobody took them in time.
    pub expired: u64,
    /// Connections that came back and that the primary holds now.
    pub returned: u64,
    /// It rests now, for want of descriptors or memory.
    pub paused: bool,
    /// A worker has asked for it.
    pub is_asked_for: bool,
    /// It was declared; otherwise it is there because a worker asked for it.
    pub declared: bool,
}

/// Deals of connections that had come back, by reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Redealt {
    /// Their worker finished, or closed its listener, before it took them.
    pub untaken: u64,
    /// Their worker did not take them in time.
    pub reclaimed: u64,
    /// Their worker had taken them, and gave them back.
    pub given_back: u64,
    /// The kernel did not take the message.
    pub unsent: u64,
    /// Their worker died before it took them.
    #[serde(default)]
    pub died: u64,
    /// Their worker wanted none for a while, or had no descriptors for them.
    #[serde(default)]
    pub refused: u64,
}

impl Redealt {
    /// All of them together.
    pub fn sum(&self) -> u64 {
        let Self { untaken, reclaimed, given_back, unsent, died, refused } = *self;
        untaken + reclaimed + given_back + unsent + died + refused
    }
}

/// Sums over everything, ended workers included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Counters {
    /// Connections accepted.
    pub accepted: u64,
    /// Deals.
    pub dealt: u64,
    /// Deals of connections that had come back.
    pub redealt: u64,
    /// Workers started.
    pub workers_started: u64,
    /// Workers whose processes have ended.
    pub workers_ended: u64,
}

/// As much as a health check needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Glance {
    /// Whether a stop is under way.
    pub state: State,
    /// Whether a reload is under way.
    pub is_reloading: bool,
    /// Workers that are dealt connections.
    pub workers_ready: u32,
    /// How many workers there should be.
    pub workers_wanted: u32,
    /// Workers whose processes have not ended.
    pub workers: u32,
    /// Connections accepted.
    pub accepted: u64,
    /// Whether it is for clients.
    pub enabled: Enabled,
    /// Of the first listener, with the real port; `None`: it has none of IP.
    pub address: Option<SocketAddr>,
}

/// Whether a primary is for clients, as load balancers are told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Enabled {
    /// It is.
    pub is_enabled: bool,
    /// Since when it is, or is not.
    pub since_unix_seconds: u64,
}

/// A change of the number of workers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scaled {
    /// So many there were to be.
    pub workers_before: u32,
    /// So many there are to be now.
    pub workers: u32,
}

/// Everything that there is to count and to measure, copied out in one turn of the event loop.
#[derive(Debug, Clone)]
pub struct Metrics {
    /// What there is now.
    pub status: Status,
    /// What there has been since the start of the primary, as if everything had ended now.
    pub ledger: Ledger,
    /// Connections that wait untaken now, by listener as the ledger names it and by slot.
    pub untaken: BTreeMap<(String, Slot), u64>,
    /// How many workers each slot has had.
    pub starts: Vec<(Slot, u64)>,
}
