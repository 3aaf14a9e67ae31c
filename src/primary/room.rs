//! The account of one lane, and whether it has room. Pure.
//!
//! ```text
//!   untaken = dealt - reclaimed - taken      waiting in the lane's queue; bounded by queue_max
//!   open    = dealt - reclaimed - closed     all that this worker has or is about to have; by connections_max
//! ```
//! `dealt` and `reclaimed` are the primary's own; `taken` and `closed` are the worker's, from the scoreboard. What
//! was last seen of them is kept, because a look costs a cache line of another processor: the primary looks again
//! only when the account says that there is no room.

use crate::protocol::handshake::NO_KICK;
use crate::protocol::scoreboard::{Counts, KickAt};
use serde::{Deserialize, Serialize};

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
        Self { bounds, dealt: 0, reclaimed: 0, seen: Counts::default() }
    }

    /// Whether another connection may be dealt, by what was last seen.
    pub fn has_room(&self) -> bool {
        self.untaken() < self.bounds.queue_max && self.open() < self.bounds.connections_max
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
    pub fn count_dealt(&mut self) {
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
    pub fn observe(&mut self, counts: Counts) -> Result<(), Impossible> {
        let given = self.given();
        let backwards = counts.taken < self.seen.taken || counts.closed < self.seen.closed;
        if counts.taken > given || counts.closed > counts.taken || backwards {
            return Err(Impossible { claimed: counts, given });
        }
        self.seen = counts;
        Ok(())
    }

    /// At which counts there is room worth waking up for: half the queue, so that a burst of short connections
    /// costs one kick and not one each; a single place among the open ones, because connections may live long.
    pub fn kick_at(&self) -> KickAt {
        let taken =
            if self.untaken() < self.bounds.queue_max { NO_KICK } else { self.given() - self.bounds.queue_max / 2 };
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

    fn account(queue_max: u64, connections_max: u64) -> Account {
        Account::new(Bounds { queue_max, connections_max })
    }

    fn deal(account: &mut Account, count: u64) {
        (0..count).for_each(|_| account.count_dealt());
    }

    #[test]
    fn the_queue_bound_holds_until_the_worker_takes() {
        let mut account = account(4, 100);
        deal(&mut account, 4);
        assert!(!account.has_room());
        assert_eq!(account.kick_at(), KickAt { taken: 2, closed: NO_KICK });
        account.observe(Counts { taken: 1, closed: 0 }).unwrap();
        assert!(account.has_room());
    }

    #[test]
    fn the_connection_bound_counts_untaken_ones_and_holds_until_one_closes() {
        let mut account = account(10, 1);
        deal(&mut account, 1);
        assert!(!account.has_room());
        account.observe(Counts { taken: 1, closed: 0 }).unwrap();
        assert!(!account.has_room());
        assert_eq!(account.kick_at(), KickAt { taken: NO_KICK, closed: 1 });
        account.observe(Counts { taken: 1, closed: 1 }).unwrap();
        assert!(account.has_room());
    }

    #[test]
    fn a_worker_that_lied_about_its_takes_is_found_out_when_they_are_reclaimed() {
        let mut account = account(4, 4);
        deal(&mut account, 4);
        account.observe(Counts { taken: 4, closed: 4 }).unwrap();
        (0..4).for_each(|_| account.count_reclaimed());
        assert_eq!((account.untaken(), account.open()), (0, 0));
        assert!(account.observe(Counts { taken: 4, closed: 4 }).is_err());
    }

    #[test]
    fn nonsense_is_refused_and_not_believed() {
        let mut account = account(4, 4);
        deal(&mut account, 2);
        account.observe(Counts { taken: 1, closed: 0 }).unwrap();
        for (taken, closed) in [(3, 0), (2, 3), (0, 0), (u64::MAX, 0)] {
            assert!(account.observe(Counts { taken, closed }).is_err(), "{taken} {closed}");
        }
        assert_eq!(account.untaken(), 1);
    }

    proptest! {
        /// Whenever there is no room, the kick comes at counts that the worker has yet to reach, and reaching them
        /// makes room: otherwise the primary would sleep for ever, or wake up for nothing.
        #[test]
        fn a_kick_is_always_ahead_and_always_makes_room(
            queue_max in 1u64..20, connections_max in 1u64..20, steps in proptest::collection::vec(0u8..3, 0..200)
        ) {
            let mut account = account(queue_max, connections_max);
            let mut counts = Counts::default();
            for step in steps {
                match step {
                    0 if account.has_room() => account.count_dealt(),
                    1 if counts.taken < account.given() => counts.taken += 1,
                    2 if counts.closed < counts.taken => counts.closed += 1,
                    _ => {}
                }
                account.observe(counts).unwrap();
                if !account.has_room() {
                    let at = account.kick_at();
                    prop_assert!(at.taken > counts.taken || at.closed > counts.closed);
                    let mut then = account;
                    then.observe(Counts {
                        taken: at.taken.max(at.closed).max(counts.taken), closed: at.closed.max(counts.closed)
                    }).unwrap();
                    prop_assert!(then.has_room());
                }
            }
        }
    }
}
