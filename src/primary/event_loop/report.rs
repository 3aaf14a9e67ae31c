//! The state of everything, copied out for whoever asks. It looks at the register and the scoreboards; it changes
//! nothing.

use std::collections::BTreeMap;

use super::Primary;
use crate::primary::dialect::DialectKind;
use crate::primary::lifecycle;
use crate::primary::listeners::Listener;
use crate::primary::returned::Reason;
use crate::primary::status::{Counters, Glance, ListenerStatus, Metrics, Redealt, State, Status, WorkerStatus};
use crate::primary::workers::Worker;
use crate::protocol::time::Monotonic;
use crate::sys::usage;

impl Primary {
    pub(super) fn status(&self) -> Status {
        let now = Monotonic::now();
        let listeners: Vec<ListenerStatus> =
            self.listeners.iter().filter(|it| !it.is_gone()).map(of_listener).collect();
        let mut sum = self.ledger.counters();
        self.listeners.iter().for_each(|listener| sum += listener.counters);
        let of_worker = |worker: &Worker| of_worker(worker, self.workers.restarts(worker.slot), now);
        Status {
            name: self.name.clone(),
            pid: std::process::id(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            command: self.settings.command.display(),
            kernel: usage::kernel_release(),
            started_unix_seconds: self.started_unix_seconds,
            age_seconds: now.since(self.started_at).as_secs(),
            upgrades: self.upgrade_count,
            generation: self.supervisor.generation(),
            state: self.state(),
            enabled: self.enabled.is_enabled,
            enabled_since_unix_seconds: self.enabled.since_unix_seconds,
            workers_wanted: self.supervisor.worker_count(),
            workers: self.workers.iter().map(of_worker).collect(),
            counters: Counters {
                accepted: sum.accepted,
                dealt: sum.dealt,
                redealt: sum.redealt.iter().sum(),
                workers_started: self.workers.started_count(),
                workers_ended: self.workers.started_count() - self.workers.iter().count() as u64,
            },
            listeners,
        }
    }

    /// Everything there has been: those who are still there are entered into a copy of the ledger.
    pub(super) fn metrics(&mut self) -> Metrics {
        let mut ledger = self.ledger.clone();
        let mut untaken = BTreeMap::new();
        let addresses: Vec<String> = self.listeners.iter().map(|listener| listener.address().to_string()).collect();
        for (listener, address) in self.listeners.iter().zip(&addresses) {
            ledger.enter_listener(address, listener.counters);
        }
        for worker in self.workers.iter_mut() {
            let slot = worker.slot;
            for lane in worker.lanes_mut() {
                let address = &addresses[lane.listener];
                let Some(counted) = lane.counted() else { continue };
                ledger.enter_lane(address, slot, &counted);
                *untaken.entry((ledger.name_of(address).to_owned(), slot)).or_default() += lane.untaken();
            }
        }
        Metrics { status: self.status(), ledger, untaken, starts: self.workers.slot_starts() }
    }

    pub(super) fn glance(&self) -> Glance {
        let ready = self.workers.iter().filter(|worker| worker.state() == lifecycle::State::Ready);
        Glance {
            state: self.state(),
            is_reloading: self.is_reloading(),
            workers_ready: ready.count() as u32,
            workers_wanted: self.supervisor.worker_count(),
            workers: self.workers.iter().count() as u32,
            accepted: self.sequence,
            enabled: self.enabled,
            address: self.listeners.iter().find(|it| !it.is_gone()).and_then(|it| it.address().socket_addr()),
        }
    }

    fn state(&self) -> State {
        if self.supervisor.is_stopping() { State::Stopping } else { State::Running }
    }
}

fn of_worker(worker: &Worker, restarts: u64, now: Monotonic) -> WorkerStatus {
    let (figures, dialect) = (worker.figures(), worker.dialect.kind());
    let open = match dialect {
        // The worker writes both at any time: a closed one may be seen before it is seen taken.
        DialectKind::Native => Some(figures.taken.saturating_sub(figures.closed)),
        DialectKind::Node => None,
    };
    WorkerStatus {
        id: worker.id.0,
        slot: worker.slot.0,
        generation: worker.generation,
        pid: worker.process.pid(),
        state: worker.state().name().to_owned(),
        dialect,
        open,
        taken: figures.taken,
        untaken: figures.untaken,
        dealt: figures.dealt,
        reclaimed: figures.reclaimed,
        restarts,
        age_seconds: now.since(worker.started_at).as_secs(),
        rss_bytes: 0,
        cpu_seconds: 0.0,
    }
}

fn of_listener(listener: &Listener) -> ListenerStatus {
    let counters = &listener.counters;
    let redealt = |reason: Reason| counters.redealt[reason as usize];
    ListenerStatus {
        address: listener.address().to_string(),
        policy: listener.chooser.name().to_owned(),
        accepted: counters.accepted,
        dealt: counters.dealt,
        redealt: Redealt {
            untaken: redealt(Reason::Untaken),
            reclaimed: redealt(Reason::Reclaimed),
            given_back: redealt(Reason::GivenBack),
            unsent: redealt(Reason::Unsent),
            died: redealt(Reason::Died),
            refused: redealt(Reason::Refused),
        },
        expired: counters.expired,
        returned: listener.returned.held_count() as u64,
        paused: listener.is_resting(),
        is_asked_for: listener.is_asked_for,
        declared: listener.is_declared(),
    }
}
