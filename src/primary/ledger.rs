//! What has been counted since the start of the primary, by listener and by slot, whoever counted it and whether it is
//! still there. Pure.
//!
//! Whoever counts comes and goes: a lane ends with its worker, a listener on demand with its last lane. What it has
//! counted by then is entered here. So everything there ever was is the ledger and those who are still there, and no
//! sum ever goes back: [`Ledger::enter_lane`] and [`Ledger::enter_listener`] serve both for the ends and, on a copy,
//! for whoever asks in between.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::returned::Reason;
use super::supervisor::Restart;
use crate::protocol::ids::Slot;
use crate::protocol::scoreboard::{Counts, Waits};

/// Listeners on demand that have an account of their own, for as long as the primary runs. Later ones share that of
/// [`OTHER`]: a worker that asks for one port after the other must not fill the memory of whoever collects metrics.
pub const OWN_ACCOUNTS_MAX: usize = 64;

/// Stands for all listeners on demand after the first [`OWN_ACCOUNTS_MAX`] addresses.
pub const OTHER: &str = "other";

/// Why a listener accepts nothing for a while.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PauseReason {
    /// No worker has room.
    NoRoom,
    /// The primary, or the machine, has no descriptor left.
    Descriptors,
    /// The kernel has no memory for it.
    Memory,
    /// This user has too many descriptors in flight.
    InFlight,
    /// Another error.
    Other,
}

impl PauseReason {
    /// All of them; the index of each is its number.
    pub const ALL: [PauseReason; 5] =
        [PauseReason::NoRoom, PauseReason::Descriptors, PauseReason::Memory, PauseReason::InFlight, PauseReason::Other];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            PauseReason::NoRoom => "no_room",
            PauseReason::Descriptors => "descriptors",
            PauseReason::Memory => "memory",
            PauseReason::InFlight => "in_flight",
            PauseReason::Other => "other",
        }
    }
}

/// What has happened on one listener since it was bound, or on several.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Counters {
    /// Connections accepted.
    pub accepted: u64,
    /// Deals, those of connections that had come back included.
    pub dealt: u64,
    /// Deals of connections that had come back, by reason.
    #[serde(deserialize_with = "as_many_as_there_are")]
    pub redealt: [u64; Reason::ALL.len()],
    /// Connections that came back and were closed because nobody took them in time.
    pub expired: u64,
    /// How often accepting paused, by [`PauseReason`].
    #[serde(default, deserialize_with = "as_many_as_there_are")]
    pub pauses: [u64; PauseReason::ALL.len()],
}

/// Another version of croupier may know fewer reasons, or more.
fn as_many_as_there_are<'de, D: serde::Deserializer<'de>, const COUNT: usize>(
    from: D,
) -> Result<[u64; COUNT], D::Error> {
    let mut counts = Vec::<u64>::deserialize(from)?;
    counts.resize(COUNT, 0);
    Ok(std::array::from_fn(|index| counts[index]))
}

impl std::ops::AddAssign for Counters {
    fn add_assign(&mut self, other: Counters) {
        self.accepted += other.accepted;
        self.dealt += other.dealt;
        self.redealt.iter_mut().zip(other.redealt).for_each(|(ours, theirs)| *ours += theirs);
        self.expired += other.expired;
        self.pauses.iter_mut().zip(other.pauses).for_each(|(ours, theirs)| *ours += theirs);
    }
}

/// What has gone through one lane, or several.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Tally {
    /// Connections dealt.
    pub dealt: u64,
    /// Of those, taken.
    pub taken: u64,
    /// Of those, closed or given back.
    pub closed: u64,
    /// Taken, and neither closed nor given back when the worker's process ended.
    pub cut: u64,
    /// Workers that do not tell when a connection ends have taken some of them: closed and cut say nothing then.
    #[serde(default)]
    pub ends_unknown: bool,
}

impl Tally {
    /// Takes note of what a worker claims. It may claim anything: nothing goes back, and nobody has taken more than was
    /// dealt, or closed more than it has taken.
    pub fn note(&mut self, dealt: u64, claimed: Counts) {
        self.dealt = self.dealt.max(dealt);
        self.taken = self.taken.max(claimed.taken.min(self.dealt));
        self.closed = self.closed.max(claimed.closed.min(self.taken));
    }

    /// Taken and still there.
    pub fn open(&self) -> u64 {
        self.taken.saturating_sub(self.closed).saturating_sub(self.cut)
    }

    /// The same when the worker's process has ended: nothing is open any more.
    pub fn ended(self) -> Self {
        Self { cut: self.cut + self.open(), ..self }
    }
}

impl std::ops::AddAssign for Tally {
    fn add_assign(&mut self, other: Tally) {
        // What workers claim of shared lanes is not checked against anything.
        let sum = |ours: &mut u64, theirs: u64| *ours = ours.saturating_add(theirs);
        sum(&mut self.dealt, other.dealt);
        sum(&mut self.taken, other.taken);
        sum(&mut self.closed, other.closed);
        sum(&mut self.cut, other.cut);
        self.ends_unknown = self.ends_unknown || other.ends_unknown;
    }
}

/// What a lane has counted, as far as it was believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Counted {
    /// Where its connections are.
    pub tally: Tally,
    /// How long they waited from accept to take.
    pub waits: Waits,
}

impl Counted {
    /// As [`Tally::note`], and of the waits: there are no more than connections, and none is taken back.
    pub fn note(&mut self, dealt: u64, claimed: Counts, waits: &Waits) {
        self.tally.note(dealt, claimed);
        for (ours, theirs) in self.waits.buckets.iter_mut().zip(waits.buckets) {
            *ours = theirs.min(self.tally.dealt).max(*ours);
        }
        self.waits.sum_ns = self.waits.sum_ns.max(waits.sum_ns);
    }
}

/// What has happened in one slot.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct SlotSums {
    /// Workers started in the place of another one, by reason.
    pub restarts: BTreeMap<Restart, u64>,
    /// The time that ended workers had on the processors.
    pub cpu: Duration,
}

/// Everything about one address.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ListenerSums {
    /// It was there before any worker ran.
    pub is_declared: bool,
    /// What has happened on the listener, or the listeners one after the other.
    pub counters: Counters,
    /// What has gone through lanes, by the slots of their workers.
    pub by_slot: BTreeMap<Slot, Tally>,
    /// How long connections waited, all slots together: a histogram for each would be most of the metrics.
    pub waits: Waits,
}

/// See the [module](self).
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Ledger {
    listeners: BTreeMap<String, ListenerSums>,
    slots: BTreeMap<Slot, SlotSums>,
}

impl Ledger {
    /// A listener is bound. It gets the account of its address, while there are [some left](OWN_ACCOUNTS_MAX).
    pub fn open_account(&mut self, address: &str, is_declared: bool) {
        let on_demand = self.listeners.iter().filter(|(name, it)| !it.is_declared && *name != OTHER).count();
        if is_declared || on_demand < OWN_ACCOUNTS_MAX {
            self.listeners.entry(address.to_owned()).or_default().is_declared |= is_declared;
        }
    }

    /// Enters what has happened on a listener.
    pub fn enter_listener(&mut self, address: &str, counters: Counters) {
        self.account(address).counters += counters;
    }

    /// Enters what a lane of the worker in `slot` has counted.
    pub fn enter_lane(&mut self, address: &str, slot: Slot, counted: &Counted) {
        let account = self.account(address);
        *account.by_slot.entry(slot).or_default() += counted.tally;
        account.waits += counted.waits;
    }

    /// A worker was started in the place of another one.
    pub fn enter_restart(&mut self, slot: Slot, reason: Restart) {
        *self.slots.entry(slot).or_default().restarts.entry(reason).or_default() += 1;
    }

    /// A worker has ended, and had the processors for so long.
    pub fn enter_cpu(&mut self, slot: Slot, cpu: Duration) {
        self.slots.entry(slot).or_default().cpu += cpu;
    }

    /// By address, or [`OTHER`].
    pub fn listeners(&self) -> impl Iterator<Item = (&str, &ListenerSums)> {
        self.listeners.iter().map(|(address, sums)| (address.as_str(), sums))
    }

    /// By slot.
    pub fn slots(&self) -> &BTreeMap<Slot, SlotSums> {
        &self.slots
    }

    /// All listeners together.
    pub fn counters(&self) -> Counters {
        self.listeners.values().fold(Counters::default(), |mut sum, account| {
            sum += account.counters;
            sum
        })
    }

    /// Under which name the account of an address is kept.
    pub fn name_of<'a>(&self, address: &'a str) -> &'a str {
        if self.listeners.contains_key(address) { address } else { OTHER }
    }

    fn account(&mut self, address: &str) -> &mut ListenerSums {
        let name = self.name_of(address).to_owned();
        self.listeners.entry(name).or_default()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::protocol::scoreboard::WAIT_BUCKETS;

    fn counted(dealt: u64, taken: u64, closed: u64) -> Counted {
        let mut counted = Counted::default();
        counted.note(dealt, Counts { taken, closed }, &Waits::default());
        counted
    }

    fn sums<'a>(ledger: &'a Ledger, name: &str) -> &'a ListenerSums {
        ledger.listeners().find(|(address, _)| *address == name).unwrap().1
    }

    #[test]
    fn what_has_ended_is_added_to_what_was_there_by_address_and_by_slot() {
        let mut ledger = Ledger::default();
        ledger.open_account("a:1", true);
        ledger.enter_lane("a:1", Slot(0), &counted(5, 4, 3));
        ledger.enter_lane("a:1", Slot(1), &counted(1, 1, 1));
        ledger.enter_lane("a:1", Slot(0), &counted(2, 2, 0));
        let by_slot = &sums(&ledger, "a:1").by_slot;
        assert_eq!(by_slot[&Slot(0)], Tally { dealt: 7, taken: 6, closed: 3, cut: 0, ends_unknown: false });
        assert_eq!(by_slot[&Slot(1)], Tally { dealt: 1, taken: 1, closed: 1, cut: 0, ends_unknown: false });
    }

    #[test]
    fn what_a_worker_had_open_at_its_end_was_cut_and_is_open_no_more() {
        let tally = counted(9, 7, 4).tally;
        assert_eq!((tally.open(), tally.ended().open(), tally.ended().cut), (3, 0, 3));
        assert_eq!(tally.ended().ended(), tally.ended());
    }

    #[test]
    fn the_first_addresses_on_demand_and_all_declared_ones_have_accounts_of_their_own() {
        let mut ledger = Ledger::default();
        let address = |number: usize| format!("a:{number}");
        for number in 0..OWN_ACCOUNTS_MAX + 10 {
            ledger.open_account(&address(number), false);
            ledger.enter_listener(&address(number), Counters { accepted: 1, ..Counters::default() });
        }
        let late = address(OWN_ACCOUNTS_MAX + 20);
        ledger.open_account(&late, true);
        ledger.open_account(&address(0), false);
        ledger.enter_listener(&address(0), Counters { accepted: 1, ..Counters::default() });
        assert_eq!(ledger.listeners().count(), OWN_ACCOUNTS_MAX + 2);
        assert_eq!((ledger.name_of(&late), ledger.name_of("a:70")), (late.as_str(), OTHER));
        assert_eq!(sums(&ledger, OTHER).counters.accepted, 10);
        assert_eq!(sums(&ledger, "a:0").counters.accepted, 2);
        assert_eq!(ledger.counters().accepted, OWN_ACCOUNTS_MAX as u64 + 11);
    }

    #[test]
    fn it_goes_over_an_upgrade_also_from_an_image_that_knew_fewer_reasons() {
        let mut ledger = Ledger::default();
        ledger.enter_lane("a:1", Slot(3), &counted(5, 4, 3));
        ledger.enter_restart(Slot(3), Restart::Failed);
        ledger.enter_cpu(Slot(3), Duration::from_millis(1500));
        let json = serde_json::to_string(&ledger).unwrap();
        assert_eq!(serde_json::from_str::<Ledger>(&json).unwrap(), ledger);
        let older = r#"{"accepted": 7, "dealt": 8, "redealt": [1, 0, 2, 0], "expired": 0}"#;
        let counters: Counters = serde_json::from_str(older).unwrap();
        assert_eq!((counters.redealt, counters.pauses), ([1, 0, 2, 0, 0, 0], [0; 5]));
        let newer = r#"{"accepted": 7, "dealt": 8, "redealt": [1, 0, 2, 0, 0, 0, 9], "expired": 0}"#;
        assert_eq!(serde_json::from_str::<Counters>(newer).unwrap().redealt, [1, 0, 2, 0, 0, 0]);
    }

    proptest! {
        #[test]
        fn nothing_goes_back_and_nothing_exceeds_what_was_dealt_whatever_a_worker_claims(
            claims in proptest::collection::vec((0..9_u64, any::<u64>(), any::<u64>(), any::<u64>()), 1..20)
        ) {
            let (mut counted, mut dealt) = (Counted::default(), 0);
            for (more, taken, closed, waits) in claims {
                dealt += more;
                let before = counted;
                let waits = Waits { buckets: [waits; WAIT_BUCKETS], sum_ns: waits };
                counted.note(dealt, Counts { taken: taken % 50, closed: closed % 50 }, &waits);
                let (old, new) = (before.tally, counted.tally);
                prop_assert!(new.closed <= new.taken && new.taken <= new.dealt && new.dealt == dealt);
                prop_assert!(new.taken >= old.taken && new.closed >= old.closed);
                let pairs = before.waits.buckets.into_iter().zip(counted.waits.buckets);
                prop_assert!(pairs.into_iter().all(|(old, new)| old <= new && new <= dealt));
                prop_assert!(counted.waits.sum_ns >= before.waits.sum_ns);
            }
        }
    }
}
