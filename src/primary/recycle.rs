//! When a worker has served long enough. Pure.

use serde::{Deserialize, Serialize};
use std::time::Duration;

/// After how much a worker is replaced. Every worker draws its own limits, so that those that were started together
/// are not due together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Recycle {
    /// Connections taken.
    pub after: Option<Spread<u64>>,
    /// Time since its start.
    pub age: Option<Spread<Duration>>,
    /// Resident memory.
    pub rss_bytes: Option<u64>,
}

/// A limit, and how much may be added to it by chance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Spread<T> {
    /// The least.
    pub base: T,
    /// The most that is added.
    pub jitter: T,
}

/// The limits of one worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Limits {
    taken_max: Option<u64>,
    age_max: Option<Duration>,
    rss_max_bytes: Option<u64>,
}

/// What a worker has done so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// Connections taken.
    pub taken: u64,
    /// Time since its start.
    pub age: Duration,
    /// Resident memory; 0 if nobody looked.
    pub rss_bytes: u64,
}

impl Recycle {
    /// Nothing makes a worker due.
    pub fn is_off(&self) -> bool {
        *self == Self::default()
    }

    /// The limits of one worker. `chance` is uniform over all `u64`.
    pub fn draw(&self, chance: u64) -> Limits {
        // Of 2^64 chances, the part below `chance` is as large a part of the jitter.
        let part = |jitter: u64| ((u128::from(jitter) * u128::from(chance)) >> 64) as u64;
        let nanos = |jitter: Duration| u64::try_from(jitter.as_nanos()).unwrap_or(u64::MAX);
        Limits {
            taken_max: self.after.map(|after| after.base.saturating_add(part(after.jitter))),
            age_max: self.age.map(|age| age.base.saturating_add(Duration::from_nanos(part(nanos(age.jitter))))),
            rss_max_bytes: self.rss_bytes,
        }
    }
}

impl Limits {
    /// Which limit has been reached, in words for the log.
    pub fn reached(&self, usage: &Usage) -> Option<&'static str> {
        if self.taken_max.is_some_and(|max| usage.taken >= max) {
            return Some("--recycle-after");
        }
        if self.age_max.is_some_and(|max| usage.age >= max) {
            return Some("--recycle-age");
        }
        self.rss_max_bytes.is_some_and(|max| usage.rss_bytes >= max).then_some("--recycle-rss")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOTHING: Usage = Usage { taken: 0, age: Duration::ZERO, rss_bytes: 0 };

    #[test]
    fn each_limit_is_reached_by_its_own_measure() {
        let after = Spread { base: 500, jitter: 0 };
        let age = Spread { base: Duration::from_secs(60), jitter: Duration::ZERO };
        let limits = Recycle { after: Some(after), age: Some(age), rss_bytes: Some(1 << 20) }.draw(u64::MAX);
        assert_eq!(limits.reached(&NOTHING), None);
        assert_eq!(limits.reached(&Usage { taken: 500, ..NOTHING }), Some("--recycle-after"));
        assert_eq!(limits.reached(&Usage { age: Duration::from_secs(60), ..NOTHING }), Some("--recycle-age"));
        assert_eq!(limits.reached(&Usage { rss_bytes: 1 << 20, ..NOTHING }), Some("--recycle-rss"));
        assert!(Recycle::default().is_off());
    }

    proptest! {
        #[test]
        fn jitter_adds_at_most_what_it_says(base in 0u64..1000, jitter in 0u64..1000, chance: u64) {
            let limits = Recycle { after: Some(Spread { base, jitter }), ..Recycle::default() }.draw(chance);
            let max = limits.taken_max.unwrap();
            prop_assert!((base..=base + jitter).contains(&max));
        }
    }
}
