//! The clock that croupier goes by, `CLOCK_MONOTONIC`, which all processes of a machine share; and the one that people
//! read.

use std::time::{Duration, SystemTime};

use nix::time::{ClockId, clock_gettime};

/// Nanoseconds of `CLOCK_MONOTONIC`: comparable between processes of one machine, meaningless between machines.
/// Source: clock_gettime(2).
pub fn monotonic_ns() -> u64 {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).expect("CLOCK_MONOTONIC exists on every Linux");
    now.tv_sec() as u64 * 1_000_000_000 + now.tv_nsec() as u64
}

/// The time since 1970, for people only: it may jump, also back. Zero on a machine that believes to be before that.
pub fn since_epoch() -> Duration {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default()
}
