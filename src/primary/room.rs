//! The account of one lane, and whether it has room. Pure.
//!
//! ```text
//!   untaken = dealt - reclaimed - taken      waiting in the lane's queue; bounded by queue_max
//!   open    = dealt - reclaimed - closed     all that this worker has or is about to have; by connections_max
//! ```
//! `dealt` and `reclaimed` are the primary's own; `taken` and `closed` are the worker's, from the scoreboard. What
//! was last seen of them is kept, because a look costs a cache line of another processor: the primary looks again
//! only when the account says that there may be none.
//!
//! A queue may be full for two reasons. A worker that waits for the CPU a few milliseconds is to have its turns, or the
//! shares drift apart; a worker that has stopped is to have few connections waiting for it. So the whole of `queue_max`
//! is for workers that take: one that has taken nothing for [`SLOW_AFTER`] has room for [`SLOW_QUEUE_MAX`] only.

use std::time::Duration;

use crate::protocol::handshake::NO_KICK;
use crate::protocol::scoreboard::{Counts, KickAt};
use crate::protocol::time::Monotonic;
use serde::{Deserialize, Serialize};

/// A worker that has taken nothing for so long, although connections waited, may be a stopped one.
pub const SLOW_AFTER: Duration = Duration::from_millis(20);
/// The most untaken connections of such a worker, if `queue_max` is not lower.
pub const SLOW_QUEUE_MAX: u64 = 16;

/// The bounds of one lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bounds {
    /// The most untaken connections, at least 1.
    pub queue_max: u64,
    /// The most open connections, untaken ones included, at least 1.
    pub connections_max: u64,
}

/// How many connections went where.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Account {
    bounds: Bounds,
    dealt: u64,
    reclaimed: u64,
    seen: Counts,
    /// Until when the worker is known to have taken something, or to have had nothing to take.
    took_at: Monotonic,
    /// The last look at the worker's counts.
    looked_at: Monotonic,
}

/// Counts that cannot be: the worker's memory is corrupted, or it writes nonsense on purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Impossible {
    /// What it claims.
    pub claimed: Counts,
    /// How many it was given at all.
    pub given: u64,
}

impl std::fmt::Display for Impossible {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Counts { taken, closed } = self.claimed;
        write!(f, "its scoreboard makes no sense: taken={taken} closed={closed} of {} dealt", self.given)
    }
}

impl Account {
    /// An empty account.
    pub fn new(bounds: Bounds) -> Self {
        let never = Monotonic::default();
        Self { bounds, dealt: 0, reclaimed: 0, seen: Counts::default(), took_at: never, looked_at: never }
    }

    /// Whether another connection may be dealt, by what was last seen.
    pub fn has_room(&self, now: Monotonic) -> bool {
        self.untaken() < self.queue_max(now) && self.open() < self.bounds.connections_max
    }

    /// Whether another connection may be dealt whatever the worker has done since the last look.
    pub fn has_room_without_a_look(&self) -> bool {
        let queue_max = self.bounds.queue_max.min(SLOW_QUEUE_MAX);
        self.untaken() < queue_max && self.open() < self.bounds.connections_max
    }

    /// See [`SLOW_AFTER`].
    fn queue_max(&self, now: Monotonic) -> u64 {
        let is_slow = now.since(self.took_at) >= SLOW_AFTER;
        if is_slow { self.bounds.queue_max.min(SLOW_QUEUE_MAX) } else { self.bounds.queue_max }
    }

    /// Dealt and, as far as was seen, not yet taken.
    pub fn untaken(&self) -> u64 {
        // A worker that lied about its takes may have been reclaimed from below them: that is no room, not a panic.
        self.given().saturating_sub(self.seen.taken)
    }

    /// Dealt and, as far as was seen, not yet closed.
    pub fn open(&self) -> u64 {
        self.given().saturating_sub(self.seen.closed)
    }

    /// Connections dealt so far, those that were received back included.
    pub fn dealt(&self) -> u64 {
        self.dealt
    }

    /// Connections received back untaken so far.
    pub fn reclaimed(&self) -> u64 {
        self.reclaimed
    }

    /// Connections taken as far as was seen.
    pub fn taken(&self) -> u64 {
        self.seen.taken
    }

    /// One was dealt.
    pub fn count_dealt(&mut self, now: Monotonic) {
        if self.untaken() == 0 {
            self.took_at = now;
        }
        self.dealt += 1;
    }

    /// One that was dealt was received back untaken.
    pub fn count_reclaimed(&mut self) {
        self.reclaimed += 1;
    }

    /// Takes note of the worker's counts.
    ///
    /// # Errors
    /// [`Impossible`] if they exceed what was dealt, contradict each other or run backwards; nothing is noted then.
    /// Drain and replace that worker.
    pub fn observe(&mut self, counts: Counts, now: Monotonic) -> Result<(), Impossible> {
        let given = self.given();
        let backwards = counts.taken < self.seen.taken || counts.closed < self.seen.closed;
        if counts.taken > given || counts.closed > counts.taken || backwards {
            return Err(Impossible { claimed: counts, given });
        }
        if counts.taken > self.seen.taken {
            // Some time since the last look, and not necessarily just now: it may have stopped in between.
            self.took_at = self.took_at.max(self.looked_at);
        }
        self.looked_at = now;
        self.seen = counts;
        Ok(())
    }

    /// At which counts there is room worth waking up for: half the queue, so that a burst of short connections
    /// costs one kick and not one each; a single place among the open ones, because connections may live long.
    pub fn kick_at(&self, now: Monotonic) -> KickAt {
        let queue_max = self.queue_max(now);
        let taken = if self.untaken() < queue_max { NO_KICK } else { self.given() - queue_max / 2 };
        let closed = if self.open() < self.bounds.connections_max {
            NO_KICK
        } else {
            self.given() - self.bounds.connections_max + 1
        };
        KickAt { taken, closed }
    }

    /// Dealt and not received back.
    fn given(&self) -> u64 {
        self.dealt.saturating_sub(self.reclaimed)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOW: Monotonic = Monotonic { ns: 1 << 40 };

    fn account(queue_max: u64, connections_max: u64) -> Account {
        Account::new(Bounds { queue_max, connections_max })
    }

    fn deal(account: &mut Account, count: u64) {
        (0..count).for_each(|_| account.count_dealt(NOW));
    }

    #[test]
    fn the_queue_bound_holds_until_the_worker_takes() {
        let mut account = account(4, 100);
        deal(&mut account, 4);
        assert!(!account.has_room(NOW));
        assert_eq!(account.kick_at(NOW), KickAt { taken: 2, closed: NO_KICK });
        account.observe(Counts { taken: 1, closed: 0 }, NOW).unwrap();
        assert!(account.has_room(NOW));
    }

    #[test]
    fn a_worker_that_takes_nothing_has_room_for_a_few_only_until_it_takes_again() {
        let mut account = account(64, 100);
        deal(&mut account, 20);
        let later = NOW + SLOW_AFTER;
        assert!(account.has_room(NOW) && !account.has_room(later) && !account.has_room_without_a_look());
        assert_eq!(account.kick_at(later), KickAt { taken: 12, closed: NO_KICK });
        account.observe(Counts { taken: 1, closed: 0 }, later).unwrap();
        assert!(!account.has_room(later), "that may have been long ago");
        account.observe(Counts { taken: 2, closed: 0 }, later).unwrap();
        assert!(account.has_room(later), "it takes: the whole queue is for it");
    }

    #[test]
    fn a_worker_that_had_nothing_to_take_was_not_slow() {
        let mut account = account(64, 100);
        deal(&mut account, 1);
        account.observe(Counts { taken: 1, closed: 1 }, NOW).unwrap();
        let later = NOW + 100 * SLOW_AFTER;
        (0..20).for_each(|_| account.count_dealt(later));
        account.observe(Counts { taken: 1, closed: 1 }, later).unwrap();
        assert!(account.has_room(later));
    }

    #[test]
    fn the_connection_bound_counts_untaken_ones_and_holds_until_one_closes() {
        let mut account = account(10, 1);
        deal(&mut account, 1);
        assert!(!account.has_room(NOW));
        account.observe(Counts { taken: 1, closed: 0 }, NOW).unwrap();
        assert!(!account.has_room(NOW));
        assert_eq!(account.kick_at(NOW), KickAt { taken: NO_KICK, closed: 1 });
        account.observe(Counts { taken: 1, closed: 1 }, NOW).unwrap();
        assert!(account.has_room(NOW));
    }

    #[test]
    fn a_worker_that_lied_about_its_takes_is_found_out_when_they_are_reclaimed() {
        let mut account = account(4, 4);
        deal(&mut account, 4);
        account.observe(Counts { taken: 4, closed: 4 }, NOW).unwrap();
        (0..4).for_each(|_| account.count_reclaimed());
        assert_eq!((account.untaken(), account.open()), (0, 0));
        assert!(account.observe(Counts { taken: 4, closed: 4 }, NOW).is_err());
    }

    #[test]
    fn nonsense_is_refused_and_not_believed() {
        let mut account = account(4, 4);
        deal(&mut account, 2);
        account.observe(Counts { taken: 1, closed: 0 }, NOW).unwrap();
        for (taken, closed) in [(3, 0), (2, 3), (0, 0), (u64::MAX, 0)] {
            assert!(account.observe(Counts { taken, closed }, NOW).is_err(), "{taken} {closed}");
        }
        assert_eq!(account.untaken(), 1);
    }

    proptest! {
        /// Whenever there is no room, the kick comes at counts that the worker has yet to reach, and reaching them
        /// makes room: otherwise the primary would sleep for ever, or wake up for nothing.
        #[test]
        fn a_kick_is_always_ahead_and_always_makes_room(
            queue_max in 1u64..40, connections_max in 1u64..40, steps in proptest::collection::vec(0u8..4, 0..300)
        ) {
            let mut account = account(queue_max, connections_max);
            let (mut counts, mut now) = (Counts::default(), NOW);
            for step in steps {
                match step {
                    0 if account.has_room(now) => account.count_dealt(now),
                    1 if counts.taken < account.given() => counts.taken += 1,
                    2 if counts.closed < counts.taken => counts.closed += 1,
                    3 => now = now + SLOW_AFTER / 2,
                    _ => {}
                }
                account.observe(counts, now).unwrap();
                if !account.has_room(now) {
                    let at = account.kick_at(now);
                    prop_assert!(at.taken > counts.taken || at.closed > counts.closed);
                    let mut then = account;
                    then.observe(Counts {
                        taken: at.taken.max(at.closed).max(counts.taken), closed: at.closed.max(counts.closed)
                    }, now).unwrap();
                    prop_assert!(then.has_room(now));
                }
            }
        }
    }
}
