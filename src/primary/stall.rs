//! Whether a lane's worker is taking at all. Pure.
//!
//! The primary looks at every lane that has something untaken, [`LOOKS`] times per `stall_after`. A look at which
//! nothing has been taken since the one before adds the time between the two, but never more than the distance at
//! which looks are meant to be: if the whole machine was frozen, the primary did not look, and nobody is to blame.

use std::time::Duration;

use crate::protocol::time::Monotonic;
use serde::{Deserialize, Serialize};

/// Looks per `stall_after`.
pub const LOOKS: u32 = 2;

/// What is known of one lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Stall {
    last: Option<(u64, Monotonic)>,
    stuck: Duration,
    /// What was untaken has been taken away from it, and it has not answered since.
    is_probed: bool,
}

impl Stall {
    /// One look: the lane has `untaken` connections and its worker has taken `taken` so far. Returns for how long it
    /// has taken nothing although something waited, as far as the primary can tell.
    pub fn look(&mut self, untaken: u64, taken: u64, now: Monotonic, every: Duration) -> Duration {
        let something_waits = untaken > 0 || self.is_probed;
        self.stuck = match self.last {
            Some((before, at)) if before == taken && something_waits => self.stuck + now.since(at).min(every),
            _ => Duration::ZERO,
        };
        self.last = something_waits.then_some((taken, now));
        self.stuck
    }

    /// Its connections were taken away and a probe was left.
    pub fn probed(&mut self) {
        self.is_probed = true;
    }

    /// It has answered, or whatever it was is over.
    pub fn answered(&mut self) {
        *self = Self::default();
    }

    /// A probe is unanswered.
    pub fn is_probed(&self) -> bool {
        self.is_probed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVERY: Duration = Duration::from_millis(50);

    fn at(ms: u64) -> Monotonic {
        Monotonic { ns: ms * 1_000_000 }
    }

    #[test]
    fn a_worker_that_takes_nothing_is_stuck_from_the_second_look_on() {
        let mut stall = Stall::default();
        assert_eq!(stall.look(3, 10, at(0), EVERY), Duration::ZERO);
        assert_eq!(stall.look(3, 10, at(50), EVERY), EVERY);
        assert_eq!(stall.look(4, 10, at(100), EVERY), EVERY * 2);
    }

    #[test]
    fn a_single_take_starts_it_over_and_an_empty_queue_ends_it() {
        let mut stall = Stall::default();
        stall.look(3, 10, at(0), EVERY);
        stall.look(3, 10, at(50), EVERY);
        assert_eq!(stall.look(3, 11, at(100), EVERY), Duration::ZERO);
        stall.look(0, 14, at(150), EVERY);
        assert_eq!(stall.look(1, 14, at(10_000), EVERY), Duration::ZERO, "idle is not stuck");
    }

    #[test]
    fn a_worker_whose_connections_were_taken_back_when_it_paused_is_not_stuck() {
        let mut stall = Stall::default();
        stall.look(3, 10, at(0), EVERY);
        stall.look(3, 10, at(50), EVERY);
        assert_eq!(stall.look(0, 10, at(100), EVERY), Duration::ZERO);
    }

    #[test]
    fn a_machine_that_was_frozen_counts_as_one_look() {
        let mut stall = Stall::default();
        stall.look(3, 10, at(0), EVERY);
        assert_eq!(stall.look(3, 10, at(60_000), EVERY), EVERY);
    }

    #[test]
    fn an_unanswered_probe_goes_on_counting_though_nothing_is_untaken() {
        let mut stall = Stall::default();
        stall.look(3, 10, at(0), EVERY);
        stall.look(3, 10, at(50), EVERY);
        stall.probed();
        stall.look(0, 10, at(100), EVERY);
        assert_eq!(stall.look(0, 10, at(150), EVERY), EVERY * 3);
        stall.answered();
        assert_eq!(stall.look(0, 10, at(200), EVERY), Duration::ZERO);
    }
}
