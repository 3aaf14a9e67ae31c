//! When a worker that has refused a connection is tried with another one. Pure.
//!
//! Nobody says when such a worker wants some again, so it is asked: soon, for it may have finished with one in a
//! moment, and each time it refuses once more after twice as long, so that one that is full for hours costs nothing.

use std::time::Duration;

use crate::protocol::time::Monotonic;
use serde::{Deserialize, Serialize};

/// How long after the first refusal.
pub const AGAIN_AFTER_MIN: Duration = Duration::from_millis(1);
/// How long at most.
pub const AGAIN_AFTER_MAX: Duration = Duration::from_millis(32);

/// What is known of one lane. By default it has refused nothing, or has taken something since.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Patience {
    again_after: Duration,
    /// `None`: it has not refused since it was tried.
    again_at: Option<Monotonic>,
}

impl Patience {
    /// It has refused a connection; more of them than one, if they were under way together, count once.
    pub fn refused(&mut self, now: Monotonic) {
        if self.again_at.is_none() {
            self.again_after = (self.again_after * 2).clamp(AGAIN_AFTER_MIN, AGAIN_AFTER_MAX);
            self.again_at = Some(now + self.again_after);
        }
    }

    /// It has taken one.
    pub fn took(&mut self) {
        *self = Self::default();
    }

    /// When it is to be tried.
    pub fn again_at(&self) -> Option<Monotonic> {
        self.again_at
    }

    /// Whether its time has come. One that has not answered for all that it had is left alone once more.
    pub fn is_over(&mut self, has_answered: bool, now: Monotonic) -> bool {
        if self.again_at.is_none_or(|at| now < at) {
            return false;
        }
        self.again_at = if has_answered { None } else { Some(now + self.again_after) };
        has_answered
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Monotonic = Monotonic { ns: 1 << 40 };

    #[test]
    fn whoever_goes_on_refusing_is_asked_ever_more_rarely_up_to_a_limit() {
        let (mut patience, mut now) = (Patience::default(), NOW);
        let mut pauses_ms = Vec::new();
        for _ in 0..8 {
            patience.refused(now);
            patience.refused(now + AGAIN_AFTER_MIN / 2);
            let again_at = patience.again_at().unwrap();
            assert!(!patience.is_over(true, again_at - Duration::from_nanos(1)));
            assert!(patience.is_over(true, again_at) && !patience.is_over(true, again_at));
            pauses_ms.push(again_at.since(now).as_millis());
            now = again_at;
        }
        assert_eq!(pauses_ms, [1, 2, 4, 8, 16, 32, 32, 32]);
    }

    #[test]
    fn whoever_has_taken_one_is_asked_soon_again() {
        let mut patience = Patience::default();
        for _ in 0..8 {
            patience.refused(NOW);
            assert!(patience.is_over(true, NOW + AGAIN_AFTER_MAX));
        }
        patience.took();
        assert_eq!(patience.again_at(), None);
        patience.refused(NOW);
        assert_eq!(patience.again_at(), Some(NOW + AGAIN_AFTER_MIN));
    }

    #[test]
    fn nobody_is_tried_who_still_has_something_to_answer_for() {
        let mut patience = Patience::default();
        patience.refused(NOW);
        let later = NOW + AGAIN_AFTER_MIN;
        assert!(!patience.is_over(false, later) && !patience.is_over(true, later));
        assert!(patience.is_over(true, later + AGAIN_AFTER_MIN));
    }
}
