//! How a primary that found no room goes to sleep without missing the worker that makes room.
//!
//! The worker counts (`taken`, `closed`); the primary writes the count at which it wants to be woken (`kick_at`).
//! Each side writes its own word, then a `fence(SeqCst)`, then reads the other's. So of two that pass each other at
//! least one sees the other: the primary sees the new count, or the worker sees the wish and kicks. Relaxed, release
//! and acquire accesses without the fences, or with a fence on one side only, lose a wake-up: a hang. Model-checked
//! in `tests/loom.rs`, which compiles this very file with loom's atomics.

use super::atomic::{AtomicU64, Ordering, fence};

/// The value of `kick_at` that asks for nothing: counts are compared after they were incremented, so never 0.
pub const NO_KICK: u64 = 0;

/// Worker: counts one more, and says whether the primary waits for exactly this count (then: kick).
///
/// Of several threads that count, exactly one reaches the awaited count. `Release`: what this thread counted before
/// is visible to a primary that reads this count.
pub fn count_one(count: &AtomicU64, kick_at: &AtomicU64) -> bool {
    let now = count.fetch_add(1, Ordering::Release) + 1;
    fence(Ordering::SeqCst);
    kick_at.load(Ordering::Relaxed) == now
}

/// Primary: asks to be kicked when `count` reaches `at`, then looks once more. If the result is `at` or more the
/// kick may never come: there is room already.
pub fn ask_for_kick(count: &AtomicU64, kick_at: &AtomicU64, at: u64) -> u64 {
    kick_at.store(at, Ordering::Relaxed);
    fence(Ordering::SeqCst);
    count.load(Ordering::Acquire)
}
