//! How much of the primary's time one worker may take by talking. Pure.
//!
//! A worker is heard at once, unless it has lately taken more than a tenth of the primary's time: then it is heard a
//! little later, and as soon as its channel is full it sleeps in sendmsg(2). What is counted is time, not messages or
//! bytes: a wish for a listener costs the primary twenty times what a small message does.

use std::time::Duration;

use crate::protocol::time::Monotonic;

/// How long one worker is heard before it is the turn of the others, and of the dealing.
pub const HEARD_PER_TURN: Duration = Duration::from_micros(200);
/// Of how many parts of the time one worker gets one.
const PARTS: u32 = 10;
/// A worker may be so far ahead of its share: what is said now and then is heard without delay.
const AHEAD_MAX: Duration = Duration::from_millis(20);
/// No turn counts for more. It takes longer only if the primary did not run, for which the worker is not to blame, or
/// if the kernel was slow. So no turn alone makes anybody wait.
const COUNTED_MAX: Duration = Duration::from_millis(2);

/// What one worker has taken.
#[derive(Debug, Clone, Copy, Default)]
pub struct Hearing {
    /// When what it has taken will be no more than its share.
    even_at: Monotonic,
}

impl Hearing {
    /// From when on the worker may be heard again.
    pub fn resumes_at(self) -> Monotonic {
        self.even_at - AHEAD_MAX
    }

    /// It was heard from `begin` to `end`.
    pub fn took(&mut self, begin: Monotonic, end: Monotonic) {
        self.even_at = self.even_at.max(begin) + end.since(begin).min(COUNTED_MAX) * PARTS;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(us: u64) -> Monotonic {
        Monotonic { ns: us * 1_000 }
    }

    #[test]
    fn who_says_little_never_waits() {
        let mut hearing = Hearing::default();
        for turn in 1..10_000 {
            let begin = at(turn * 1_000);
            assert!(hearing.resumes_at() <= begin);
            hearing.took(begin, begin + Duration::from_micros(90));
        }
    }

    #[test]
    fn who_always_talks_gets_a_tenth_of_the_time() {
        let (mut hearing, mut now, mut heard) = (Hearing::default(), at(1), Duration::ZERO);
        while now < at(1_000_000) {
            now = now.max(hearing.resumes_at());
            hearing.took(now, now + HEARD_PER_TURN);
            now = now + HEARD_PER_TURN;
            heard += HEARD_PER_TURN;
        }
        let (tenth, allowance) = (Duration::from_millis(100), AHEAD_MAX / PARTS + HEARD_PER_TURN);
        assert!(heard >= tenth && heard <= tenth + allowance, "{heard:?}");
    }

    #[test]
    fn a_machine_that_was_frozen_is_nobodys_fault() {
        let mut hearing = Hearing::default();
        hearing.took(at(1), at(60_000_000));
        assert!(hearing.resumes_at() <= at(60_000_000));
    }
}
