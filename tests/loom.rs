//! Model check of the handshake by which a primary without room goes to sleep and a worker that makes room wakes it.
//!
//! This compiles the very file `src/protocol/handshake.rs` with loom's atomics and tries every interleaving, and every
//! value that the memory model lets a load return. The models are small enough to be searched completely: no bound
//! on preemptions is set. In most of them the primary does not really sleep; that it would have slept is enough to
//! ask whether a kick comes. One of them sleeps: there a lost wake-up is a deadlock, which loom reports.
//!
//! The negative controls weaken the same protocol and must be found broken: they prove that the models can fail.

use loom::sync::mpsc::channel;
use loom::sync::{Arc, Notify};
use loom::thread::{self, JoinHandle};

/// The atomics of the file under test.
mod atomic {
    pub(super) use loom::sync::atomic::{AtomicU64, Ordering, fence};
}

#[path = "../src/protocol/handshake.rs"]
mod handshake;

use atomic::{AtomicU64, Ordering, fence};
use handshake::{NO_KICK, ask_for_kick, count_one};

/// One word that the worker counts in, and the word with the count at which the primary wants a kick.
struct Words {
    count: AtomicU64,
    kick_at: AtomicU64,
}

impl Words {
    fn new() -> Arc<Self> {
        Arc::new(Self { count: AtomicU64::new(0), kick_at: AtomicU64::new(NO_KICK) })
    }

    fn count_one(&self) -> bool {
        count_one(&self.count, &self.kick_at)
    }

    /// True: there is room already, so the primary does not sleep.
    fn primary_sees_room(&self, at: u64) -> bool {
        ask_for_kick(&self.count, &self.kick_at, at) >= at
    }
}

/// A thread of a worker that counts `times`. Returns at which of its own counts it was told to kick: 1, 2 ...
fn counting_thread(words: &Arc<Words>, times: u64) -> JoinHandle<Vec<u64>> {
    let words = Arc::clone(words);
    thread::spawn(move || (1..=times).filter(|_| words.count_one()).collect())
}

/// A primary that asks for a kick at `at` while threads of a worker count past it: would it sleep for ever?
fn one_wish(threads: u64, counts_each: u64, at: u64) {
    let words = Words::new();
    let threads: Vec<_> = (0..threads).map(|_| counting_thread(&words, counts_each)).collect();
    let saw_room = words.primary_sees_room(at);
    let kicks: usize = threads.into_iter().map(|thread| thread.join().unwrap().len()).sum();
    assert!(kicks <= 1, "{kicks} kicks for one wish");
    assert!(kicks == 1 || saw_room, "the primary sleeps, and nobody kicks");
}

#[test]
fn no_interleaving_sleeps_for_ever() {
    for at in 1..=3 {
        loom::model(move || one_wish(1, 3, at));
    }
}

#[test]
fn of_two_counting_threads_exactly_one_kicks_a_sleeping_primary() {
    for at in 1..=2 {
        loom::model(move || one_wish(2, 1, at));
    }
}

#[test]
fn a_worker_that_does_not_reach_the_wanted_count_does_not_kick() {
    loom::model(|| {
        let words = Words::new();
        let worker = counting_thread(&words, 2);
        assert!(!words.primary_sees_room(3));
        assert_eq!(worker.join().unwrap(), []);
    });
}

/// The kick for the first wish may come late, when the second wish has been made: the second one has its own.
#[test]
fn a_second_wish_is_answered_like_the_first() {
    loom::model(|| {
        let words = Words::new();
        let worker = counting_thread(&words, 2);
        words.primary_sees_room(1);
        let saw_room = words.primary_sees_room(2);
        let kicked_at = worker.join().unwrap();
        assert!(kicked_at.contains(&2) || saw_room, "the second wish was lost: kicked at {kicked_at:?}");
    });
}

/// The whole cycle with a place for one: deal, ask, sleep until the kick, deal again. A lost kick is a deadlock.
#[test]
fn a_primary_that_was_kicked_deals_and_asks_again() {
    const CONNECTIONS: u64 = 2;
    loom::model(|| {
        let (words, kicked) = (Words::new(), Arc::new(Notify::new()));
        let (deal, take) = channel();
        let worker = {
            let (words, kicked) = (Arc::clone(&words), Arc::clone(&kicked));
            thread::spawn(move || {
                for _ in 1..=CONNECTIONS {
                    take.recv().unwrap();
                    if words.count_one() {
                        kicked.notify();
                    }
                }
            })
        };
        for dealt in 1..=CONNECTIONS {
            deal.send(()).unwrap();
            while !words.primary_sees_room(dealt) {
                kicked.wait();
            }
        }
        worker.join().unwrap();
    });
}

// `closed` beside `taken`.

/// The two words of a lane, and the order in which `LaneBoard` reads and asks.
struct Lane {
    taken: Words,
    closed: Words,
}

impl Lane {
    fn new() -> Arc<Self> {
        let words = || Words { count: AtomicU64::new(0), kick_at: AtomicU64::new(NO_KICK) };
        Arc::new(Self { taken: words(), closed: words() })
    }

    /// A thread of a worker that serves one connection after the other. Returns whether a close had to kick.
    fn serving_thread(lane: &Arc<Lane>, connections: u64) -> JoinHandle<bool> {
        let lane = Arc::clone(lane);
        thread::spawn(move || {
            let mut kicked = false;
            for _ in 0..connections {
                lane.taken.count_one();
                kicked |= lane.closed.count_one();
            }
            kicked
        })
    }

    /// `(taken, closed)`, as `LaneBoard::counts`.
    fn counts(&self) -> (u64, u64) {
        let closed = self.closed.count.load(Ordering::Acquire);
        (self.taken.count.load(Ordering::Acquire), closed)
    }

    /// As `LaneBoard::ask_for_kick`.
    fn ask_for_kick(&self, taken_at: u64, closed_at: u64) -> (u64, u64) {
        let closed = ask_for_kick(&self.closed.count, &self.closed.kick_at, closed_at);
        (ask_for_kick(&self.taken.count, &self.taken.kick_at, taken_at), closed)
    }
}

#[test]
fn a_close_wakes_a_primary_that_waits_for_one() {
    loom::model(|| {
        let lane = Lane::new();
        let worker = Lane::serving_thread(&lane, 1);
        let (taken, closed) = lane.ask_for_kick(NO_KICK, 1);
        assert!(closed <= taken);
        assert!(worker.join().unwrap() || closed >= 1, "the primary sleeps, and nobody kicks");
    });
}

#[test]
fn closed_is_never_seen_above_taken() {
    loom::model(|| {
        let lane = Lane::new();
        let worker = Lane::serving_thread(&lane, 2);
        let (taken, closed) = lane.counts();
        assert!(closed <= taken, "closed={closed} taken={taken}");
        worker.join().unwrap();
    });
}

#[test]
fn closed_is_never_seen_above_taken_with_two_serving_threads() {
    loom::model(|| {
        let lane = Lane::new();
        let threads = [Lane::serving_thread(&lane, 1), Lane::serving_thread(&lane, 1)];
        let (taken, closed) = lane.counts();
        assert!(closed <= taken, "closed={closed} taken={taken}");
        for thread in threads {
            thread.join().unwrap();
        }
    });
}

// Negative controls.

/// The handshake with its parts made optional.
#[derive(Debug, Clone, Copy)]
struct Protocol {
    worker_fence: bool,
    primary_fence: bool,
    read: Ordering,
    write: Ordering,
    read_write: Ordering,
}

const RELAXED: Protocol = Protocol {
    worker_fence: false,
    primary_fence: false,
    read: Ordering::Relaxed,
    write: Ordering::Relaxed,
    read_write: Ordering::Relaxed,
};

const ACQUIRE_RELEASE: Protocol =
    Protocol { read: Ordering::Acquire, write: Ordering::Release, read_write: Ordering::AcqRel, ..RELAXED };

impl Protocol {
    fn loses_a_wake_up(self) -> bool {
        can_fail(move || {
            let words = Words::new();
            let worker = {
                let words = Arc::clone(&words);
                thread::spawn(move || {
                    let now = words.count.fetch_add(1, self.read_write) + 1;
                    if self.worker_fence {
                        fence(Ordering::SeqCst);
                    }
                    words.kick_at.load(self.read) == now
                })
            };
            words.kick_at.store(1, self.write);
            if self.primary_fence {
                fence(Ordering::SeqCst);
            }
            let saw_room = words.count.load(self.read) >= 1;
            assert!(worker.join().unwrap() || saw_room);
        })
    }
}

/// Whether an assertion of the model fails in any execution. The panic's message goes where the test harness
/// captures it.
fn can_fail(model: impl Fn() + Sync + Send + 'static) -> bool {
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| loom::model(model))).is_err()
}

#[test]
fn without_fences_a_wake_up_is_lost() {
    assert!(RELAXED.loses_a_wake_up());
    assert!(ACQUIRE_RELEASE.loses_a_wake_up());
}

#[test]
fn with_a_fence_on_one_side_only_a_wake_up_is_lost() {
    for accesses in [RELAXED, ACQUIRE_RELEASE] {
        assert!(Protocol { worker_fence: true, ..accesses }.loses_a_wake_up());
        assert!(Protocol { primary_fence: true, ..accesses }.loses_a_wake_up());
    }
}

#[test]
fn with_fences_on_both_sides_even_relaxed_accesses_lose_none() {
    assert!(!Protocol { worker_fence: true, primary_fence: true, ..RELAXED }.loses_a_wake_up());
}

#[test]
fn without_the_second_look_a_wake_up_is_lost() {
    assert!(can_fail(|| {
        let words = Words::new();
        let worker = counting_thread(&words, 1);
        let saw_room = words.count.load(Ordering::Acquire) >= 1;
        words.kick_at.store(1, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        assert!(!worker.join().unwrap().is_empty() || saw_room);
    }));
}

#[test]
fn reading_taken_before_closed_shows_closed_above_taken() {
    assert!(can_fail(|| {
        let lane = Lane::new();
        let worker = Lane::serving_thread(&lane, 1);
        let taken = lane.taken.count.load(Ordering::Acquire);
        let closed = lane.closed.count.load(Ordering::Acquire);
        assert!(closed <= taken);
        worker.join().unwrap();
    }));
}
