//! What has happened between two looks at one primary. Pure.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::primary::policy::PolicyKind;
use crate::primary::status::{ListenerStatus, Status};

/// What has happened between two looks.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Rates {
    /// Connections accepted per second, all listeners together.
    pub(super) accepts: f64,
    /// The same by the address of the listener; of shared ones [nothing is known](is_counted).
    pub(super) accepts_at: BTreeMap<String, f64>,
    /// By the ids of the workers that there are.
    pub(super) workers: BTreeMap<u32, WorkerRates>,
}

/// What one worker has had.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct WorkerRates {
    /// Connections taken per second.
    pub(super) takes: f64,
    /// Of all connections that were taken; `None` if none was.
    pub(super) share: Option<f64>,
    /// Of one processor.
    pub(super) cpu: f64,
}

impl Rates {
    /// `None` if these are two primaries, one after the other, or no time has passed.
    pub(super) fn between(before: &Status, after: &Status, elapsed: Duration) -> Option<Self> {
        let is_same = (before.pid, before.started_unix_seconds) == (after.pid, after.started_unix_seconds);
        if !is_same || elapsed.is_zero() {
            return None;
        }
        let per_second = |before: u64, after: u64| after.saturating_sub(before) as f64 / elapsed.as_secs_f64();
        let accepts_at = after.listeners.iter().filter(|it| is_counted(it)).map(|listener| {
            let then = before.listeners.iter().find(|it| is_counted(it) && it.address == listener.address);
            (listener.address.clone(), per_second(then.map_or(0, |it| it.accepted), listener.accepted))
        });
        // Who was not there before has done everything since.
        let workers = after.workers.iter().map(|worker| {
            let then = before.workers.iter().find(|it| it.id == worker.id);
            let takes = per_second(then.map_or(0, |it| it.taken), worker.taken);
            let cpu = (worker.cpu_seconds - then.map_or(0.0, |it| it.cpu_seconds)).max(0.0) / elapsed.as_secs_f64();
            (worker.id, WorkerRates { takes, share: None, cpu })
        });
        let mut workers: BTreeMap<u32, WorkerRates> = workers.collect();
        let all: f64 = workers.values().map(|worker| worker.takes).sum();
        if all > 0.0 {
            workers.values_mut().for_each(|worker| worker.share = Some(worker.takes / all));
        }
        let accepts = per_second(before.counters.accepted, after.counters.accepted);
        Some(Self { accepts, accepts_at: accepts_at.collect(), workers })
    }
}

/// Whether its accepts are the primary's. Of a shared one they are its workers', and another listener may have the same
/// address: one of TCP beside one of UDP.
pub(super) fn is_counted(listener: &ListenerStatus) -> bool {
    listener.policy != PolicyKind::Shared.name()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::client::table::tests::{listener, status, worker};

    #[test]
    fn rates_and_shares_are_of_what_happened_in_between() {
        let mut before = status(vec![listener("a:1")], vec![worker(1), worker(2)]);
        (before.counters.accepted, before.listeners[0].accepted) = (100, 100);
        (before.workers[0].taken, before.workers[0].cpu_seconds) = (60, 1.0);
        let mut after = status(vec![listener("a:1"), listener("a:2")], vec![worker(1), worker(2), worker(3)]);
        (after.counters.accepted, after.listeners[0].accepted, after.listeners[1].accepted) = (140, 130, 10);
        (after.workers[0].taken, after.workers[0].cpu_seconds) = (90, 2.5);
        after.workers[2].taken = 10;
        let rates = Rates::between(&before, &after, Duration::from_secs(2)).unwrap();
        assert_eq!((rates.accepts, rates.accepts_at["a:1"], rates.accepts_at["a:2"]), (20.0, 15.0, 5.0));
        assert_eq!(rates.workers[&1], WorkerRates { takes: 15.0, share: Some(0.75), cpu: 0.75 });
        assert_eq!(rates.workers[&2], WorkerRates { takes: 0.0, share: Some(0.0), cpu: 0.0 });
        assert_eq!(rates.workers[&3], WorkerRates { takes: 5.0, share: Some(0.25), cpu: 0.125 });
    }

    #[test]
    fn a_shared_listener_at_the_same_address_counts_for_nothing() {
        let shared = ListenerStatus { policy: "shared".into(), ..listener("a:1") };
        let before = status(vec![shared.clone(), listener("a:1"), shared.clone()], vec![]);
        let mut after = before.clone();
        after.listeners[1].accepted = 10;
        let rates = Rates::between(&before, &after, Duration::from_secs(1)).unwrap();
        assert_eq!(rates.accepts_at, BTreeMap::from([("a:1".to_owned(), 10.0)]));
    }

    #[test]
    fn there_are_none_between_two_primaries_and_no_shares_of_nothing() {
        let before = status(vec![], vec![worker(1)]);
        let rates = Rates::between(&before, &before, Duration::from_secs(1)).unwrap();
        assert_eq!((rates.accepts, rates.workers[&1].share), (0.0, None));
        let other = Status { pid: before.pid + 1, ..before.clone() };
        assert_eq!(Rates::between(&before, &other, Duration::from_secs(1)), None);
        assert_eq!(Rates::between(&before, &before, Duration::ZERO), None);
    }
}
