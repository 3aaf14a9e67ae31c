//! A point in time as the deal record carries it, and the only kind of time that pure code knows.

use serde::{Deserialize, Serialize};
use std::ops::{Add, Sub};
use std::time::Duration;

/// Nanoseconds of `CLOCK_MONOTONIC`. A number rather than an `Instant`: it crosses process borders, and a
/// simulation can make its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct Monotonic {
    /// Nanoseconds since some point before the machine's boot finished.
    pub ns: u64,
}

impl Monotonic {
    /// The time now.
    pub fn now() -> Self {
        Self { ns: crate::sys::clock::monotonic_ns() }
    }

    /// The time from `earlier` to this one, zero if `earlier` is later.
    pub fn since(self, earlier: Monotonic) -> Duration {
        Duration::from_nanos(self.ns.saturating_sub(earlier.ns))
    }
}

impl Add<Duration> for Monotonic {
    type Output = Monotonic;

    fn add(self, duration: Duration) -> Monotonic {
        let ns = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        Monotonic { ns: self.ns.saturating_add(ns) }
    }
}

impl Sub<Duration> for Monotonic {
    type Output = Monotonic;

    fn sub(self, duration: Duration) -> Monotonic {
        let ns = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        Monotonic { ns: self.ns.saturating_sub(ns) }
    }
}
