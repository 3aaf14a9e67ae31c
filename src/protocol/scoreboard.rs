//! The scoreboard: what a worker has taken and closed, in memory that the primary reads without a system call.
//!
//! One per worker, [`LANES_MAX`] lanes of [`LANE_WORDS`] 64-bit words in native byte order:
//!
//! ```text
//!   word  0   taken             written by the worker: connections received
//!         1   closed            written by the worker: of those, how many it has no more (closed or given back)
//!         2   paused            written by the worker: 1 its program wants no connections, 2 it has no descriptors
//!   16 .. 40  waits             written by the worker: how many waited from accept to take, by power of two
//!        40   wait_sum_ns       written by the worker: the sum of those waits
//!        48   kick_at_taken     written by the primary: kick when `taken` reaches this (0: do not)
//!        49   kick_at_closed    written by the primary: kick when `closed` reaches this (0: do not)
//! ```
//! The two writers are at least 128 bytes apart, so that they do not pass a cache line to and fro.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::handshake::{self, NO_KICK};
use super::ids::LaneId;
use crate::sys::shared_memory::SharedWords;
use serde::{Deserialize, Serialize};

/// The most listeners that one worker can have at a time; the next one is refused with `EMFILE`.
pub const LANES_MAX: usize = 24;

/// Buckets of the accept-to-take histogram: bucket `i` counts waits below 2^i microseconds (and at least half of
/// that), the last one everything above: 4 s.
pub const WAIT_BUCKETS: usize = 24;

/// Words of one lane.
pub const LANE_WORDS: usize = 64;

const TAKEN: usize = 0;
const CLOSED: usize = 1;
const PAUSED: usize = 2;
const WAITS: usize = 16;
const WAIT_SUM_NS: usize = WAITS + WAIT_BUCKETS;
const KICK_AT_TAKEN: usize = 48;
const KICK_AT_CLOSED: usize = 49;
const BY_PROGRAM: u64 = 1;
const NO_DESCRIPTORS: u64 = 2;

/// Why a lane wants no connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pause {
    /// It wants them.
    None,
    /// Its program said so, until it says otherwise.
    ByProgram,
    /// The worker has no descriptors for them at the moment.
    NoDescriptors,
}

impl Pause {
    fn word(self) -> u64 {
        match self {
            Pause::None => 0,
            Pause::ByProgram => BY_PROGRAM,
            Pause::NoDescriptors => NO_DESCRIPTORS,
        }
    }
}

/// The scoreboard of one worker.
#[derive(Debug)]
pub struct Scoreboard {
    words: SharedWords,
}

/// How many connections of one lane the worker has taken and has no more, as last seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Counts {
    /// Received by the worker.
    pub taken: u64,
    /// Of those, closed or given back.
    pub closed: u64,
}

/// How long connections of one lane, or of several, waited from accept to take. Those that were given back, and those
/// that nobody dealt, are not among them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Waits {
    /// How many, by length: see [`WAIT_BUCKETS`].
    pub buckets: [u64; WAIT_BUCKETS],
    /// All of them together, in nanoseconds.
    pub sum_ns: u64,
}

impl std::ops::AddAssign for Waits {
    fn add_assign(&mut self, other: Waits) {
        // A worker may write anything.
        let sum = |ours: &mut u64, theirs: u64| *ours = ours.saturating_add(theirs);
        self.buckets.iter_mut().zip(other.buckets).for_each(|(ours, theirs)| sum(ours, theirs));
        sum(&mut self.sum_ns, other.sum_ns);
    }
}

/// The counts at which the primary wants a kick; [`NO_KICK`] for none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KickAt {
    /// Kick when `taken` reaches this.
    pub taken: u64,
    /// Kick when `closed` reaches this.
    pub closed: u64,
}

impl Scoreboard {
    /// Primary: a new board, all zero.
    ///
    /// # Errors
    /// `EMFILE`/`ENFILE`/`ENOMEM`: try again later.
    pub fn create() -> io::Result<Arc<Self>> {
        Ok(Arc::new(Self { words: SharedWords::create("croupier-scoreboard", LANES_MAX * LANE_WORDS)? }))
    }

    /// Worker: the board that came with `welcome`.
    ///
    /// # Errors
    /// `InvalidData` if it is not a sealed board of the right size.
    pub fn open(memfd: OwnedFd) -> io::Result<Arc<Self>> {
        Ok(Arc::new(Self { words: SharedWords::open(memfd, LANES_MAX * LANE_WORDS)? }))
    }

    /// One lane's part.
    ///
    /// # Panics
    /// If `lane` is [`LANES_MAX`] or more: check ids that come from the other process first.
    pub fn lane(self: &Arc<Self>, lane: LaneId) -> LaneBoard {
        assert!(usize::from(lane.0) < LANES_MAX, "lane {lane} of {LANES_MAX}");
        LaneBoard { board: Arc::clone(self), first: usize::from(lane.0) * LANE_WORDS }
    }
}

impl AsFd for Scoreboard {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.words.as_fd()
    }
}

/// One lane's part of a scoreboard.
#[derive(Debug, Clone)]
pub struct LaneBoard {
    board: Arc<Scoreboard>,
    first: usize,
}

impl LaneBoard {
    fn word(&self, offset: usize) -> &AtomicU64 {
        self.board.words.word(self.first + offset)
    }

    /// Worker: counts a connection taken that had waited for `waited`, if that says anything. True: the primary wants
    /// a kick now.
    #[must_use]
    pub fn count_taken(&self, waited: Option<Duration>) -> bool {
        if let Some(waited) = waited {
            let ns = u64::try_from(waited.as_nanos()).unwrap_or(u64::MAX);
            self.word(WAITS + wait_bucket(ns)).fetch_add(1, Ordering::Relaxed);
            self.word(WAIT_SUM_NS).fetch_add(ns, Ordering::Relaxed);
        }
        handshake::count_one(self.word(TAKEN), self.word(KICK_AT_TAKEN))
    }

    /// Worker: counts a taken connection that it has no more. True: the primary wants a kick now.
    #[must_use]
    pub fn count_closed(&self) -> bool {
        handshake::count_one(self.word(CLOSED), self.word(KICK_AT_CLOSED))
    }

    /// Primary: what the worker has counted so far. `closed` first: a close is counted after its take, so this
    /// order never shows more closed than taken.
    pub fn counts(&self) -> Counts {
        let closed = self.word(CLOSED).load(Ordering::Acquire);
        let taken = self.word(TAKEN).load(Ordering::Acquire);
        Counts { taken, closed }
    }

    /// Primary: asks for a kick and looks once more. The caller must judge room by the result before it sleeps.
    pub fn ask_for_kick(&self, at: KickAt) -> Counts {
        let closed = handshake::ask_for_kick(self.word(CLOSED), self.word(KICK_AT_CLOSED), at.closed);
        let taken = handshake::ask_for_kick(self.word(TAKEN), self.word(KICK_AT_TAKEN), at.taken);
        Counts { taken, closed }
    }

    /// Primary: no kick is wanted any more.
    pub fn want_no_kick(&self) {
        self.word(KICK_AT_TAKEN).store(NO_KICK, Ordering::Relaxed);
        self.word(KICK_AT_CLOSED).store(NO_KICK, Ordering::Relaxed);
    }

    /// Primary: sets every word to zero, before the lane is given to its next listener.
    pub fn reset(&self) {
        for offset in 0..LANE_WORDS {
            self.word(offset).store(0, Ordering::Relaxed);
        }
    }

    /// Whether the worker wants connections.
    pub fn pause(&self) -> Pause {
        match self.word(PAUSED).load(Ordering::Acquire) {
            0 => Pause::None,
            NO_DESCRIPTORS => Pause::NoDescriptors,
            _ => Pause::ByProgram,
        }
    }

    /// Worker: says whether it wants connections, and whether that is news. Kick after news.
    pub fn set_pause(&self, pause: Pause) -> bool {
        self.word(PAUSED).swap(pause.word(), Ordering::AcqRel) != pause.word()
    }

    /// Worker: the same, but only if it is `from` now. True if it was: kick.
    pub fn change_pause(&self, from: Pause, to: Pause) -> bool {
        let (from, to) = (from.word(), to.word());
        self.word(PAUSED).compare_exchange(from, to, Ordering::AcqRel, Ordering::Relaxed).is_ok()
    }

    /// Primary: how long connections have waited so far.
    pub fn waits(&self) -> Waits {
        let word = |offset| self.word(offset).load(Ordering::Relaxed);
        Waits { buckets: std::array::from_fn(|bucket| word(WAITS + bucket)), sum_ns: word(WAIT_SUM_NS) }
    }
}

fn wait_bucket(ns: u64) -> usize {
    let us = ns / 1000;
    ((u64::BITS - us.leading_zeros()) as usize).min(WAIT_BUCKETS - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_other_mapping_sees_the_counts_and_the_wish() {
        let primary = Scoreboard::create().unwrap();
        let worker = Scoreboard::open(primary.as_fd().try_clone_to_owned().unwrap()).unwrap();
        let (ours, theirs) = (primary.lane(LaneId(3)), worker.lane(LaneId(3)));
        assert_eq!(ours.ask_for_kick(KickAt { taken: 2, closed: NO_KICK }), Counts::default());
        assert!(!theirs.count_taken(Some(Duration::ZERO)));
        assert!(theirs.count_taken(Some(Duration::from_millis(1))));
        assert!(!theirs.count_closed());
        assert_eq!(ours.counts(), Counts { taken: 2, closed: 1 });
        assert_eq!(primary.lane(LaneId(2)).counts(), Counts::default(), "lanes are apart");
    }

    #[test]
    fn waits_fall_into_the_bucket_of_their_power_of_two() {
        let cases = [(0, 0), (999, 0), (1_000, 1), (1_999, 1), (2_000, 2), (1_000_000, 10), (u64::MAX, 23)];
        for (ns, bucket) in cases {
            assert_eq!(wait_bucket(ns), bucket, "{ns} ns");
        }
    }
}
