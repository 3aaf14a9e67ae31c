//! A simulation of dealing: one listener, several workers, a clock that is a number, and everything that can go wrong.
//!
//! The decisions are the real ones: [`Rotation`], [`Account`] and the handshake of the scoreboard. Around them is a
//! model of the rest: connections are numbers in the order of their accept, a queue of the kernel is a list that two
//! sides can receive from, kicks arrive late, workers stall, die, close their lanes and are replaced. `deal` mirrors
//! `src/primary/dealing.rs`, `Lane` mirrors `src/primary/workers.rs`: change them together.
//!
//! Proptest prints the steps of a failure, shrunk, and the seed with which it comes again.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};

use croupier::primary::room::{Account, Bounds};
use croupier::primary::scheduler::Rotation;
use croupier::protocol::handshake::{self, NO_KICK};
use croupier::protocol::scoreboard::{Counts, KickAt};
use proptest::prelude::*;
use proptest::sample::Index;

type Connection = u64;

const DEALS_PER_TURN: usize = 64;
const DEAL_PAUSE_MS: u64 = 10;

/// The words of one lane, as on the scoreboard.
#[derive(Debug, Default)]
struct Board {
    taken: AtomicU64,
    closed: AtomicU64,
    kick_at_taken: AtomicU64,
    kick_at_closed: AtomicU64,
}

impl Board {
    fn counts(&self) -> Counts {
        let closed = self.closed.load(Ordering::Acquire);
        Counts { taken: self.taken.load(Ordering::Acquire), closed }
    }

    fn ask_for_kick(&self, at: KickAt) -> Counts {
        let closed = handshake::ask_for_kick(&self.closed, &self.kick_at_closed, at.closed);
        Counts { taken: handshake::ask_for_kick(&self.taken, &self.kick_at_taken, at.taken), closed }
    }

    fn want_no_kick(&self) {
        self.kick_at_taken.store(NO_KICK, Ordering::Relaxed);
        self.kick_at_closed.store(NO_KICK, Ordering::Relaxed);
    }
}

/// What the primary keeps of a lane.
struct Lane {
    account: Account,
    /// The kernel's queue.
    queue: usize,
}

impl Lane {
    fn look_or_ask_for_kick(&mut self, board: &Board) -> bool {
        self.account.observe(board.counts()).unwrap();
        if self.account.has_room() {
            return true;
        }
        self.account.observe(board.ask_for_kick(self.account.kick_at())).unwrap();
        let has_room = self.account.has_room();
        if has_room {
            board.want_no_kick();
        }
        has_room
    }

    fn ask_for_kick_at_next_take(&mut self, board: &Board) -> bool {
        let at = self.account.taken() + 1;
        let counts = board.ask_for_kick(KickAt { taken: at, closed: NO_KICK });
        self.account.observe(counts).unwrap();
        counts.taken >= at
    }
}

/// A worker's process, and what the primary has of it.
struct Worker {
    slot: usize,
    is_alive: bool,
    board: Board,
    /// Where it takes from, also after the primary has taken the lane away.
    queue: usize,
    open: Vec<Connection>,
    lane: Option<Lane>,
}

#[derive(Debug, Clone, Copy)]
struct World {
    slots: usize,
    bounds: Bounds,
    /// How many records a queue of the kernel takes; above queue_max except in a kernel with little memory.
    socket_max: usize,
}

struct Simulation {
    world: World,
    now_ms: u64,
    sequence: Connection,
    rotation: Rotation,
    /// The worker whose lane sits at each slot.
    seats: Vec<Option<usize>>,
    backlog: VecDeque<Connection>,
    returned: VecDeque<Connection>,
    remnants: Vec<usize>,
    rest_until_ms: u64,
    /// The next send fails for want of something that no other worker has either.
    exhausted: bool,
    queues: Vec<VecDeque<Connection>>,
    workers: Vec<Worker>,
    /// Kicks that were sent and not heard.
    kicks: Vec<usize>,
    taken_by: BTreeMap<Connection, usize>,
    /// Closed by the worker that took them, or ended by its death.
    ended: BTreeSet<Connection>,
    watch: Watch,
}

/// An independent account of the rotation.
#[derive(Default)]
struct Watch {
    deals: Vec<usize>,
    /// For each slot with room: how many deals there had been when it got it.
    with_room_since: BTreeMap<usize, usize>,
}

impl Watch {
    fn room_changed(&mut self, slot: usize, has_room: bool) {
        if has_room {
            self.with_room_since.entry(slot).or_insert(self.deals.len());
        } else {
            self.with_room_since.remove(&slot);
        }
    }

    /// Between two deals to one slot everybody else who had room all the time has had a turn; just one, if the slot
    /// itself had room all the time.
    fn dealt(&mut self, slot: usize) {
        if let Some(before) = self.deals.iter().rposition(|dealt| *dealt == slot) {
            let always_had_room = self.with_room_since[&slot] <= before;
            for (other, _) in self.with_room_since.iter().filter(|(other, since)| **other != slot && **since <= before)
            {
                let turns = self.deals[before..].iter().filter(|dealt| *dealt == other).count();
                assert!(turns >= 1, "slot {other} was passed over: {:?} then {slot}", &self.deals[before..]);
                assert!(turns == 1 || !always_had_room, "slot {other} had {turns} turns to one of {slot}");
            }
        }
        self.deals.push(slot);
    }
}

impl Simulation {
    fn new(world: World) -> Self {
        let mut simulation = Self {
            world,
            now_ms: 0,
            sequence: 0,
            rotation: Rotation::new(),
            seats: vec![None; world.slots],
            backlog: VecDeque::new(),
            returned: VecDeque::new(),
            remnants: Vec::new(),
            rest_until_ms: 0,
            exhausted: false,
            queues: Vec::new(),
            workers: Vec::new(),
            kicks: Vec::new(),
            taken_by: BTreeMap::new(),
            ended: BTreeSet::new(),
            watch: Watch::default(),
        };
        (0..world.slots).for_each(|slot| simulation.start_worker(slot));
        simulation
    }

    fn set_room(&mut self, slot: usize, has_room: bool) {
        self.rotation.set_room(slot, has_room);
        self.watch.room_changed(slot, has_room);
    }

    // The primary.

    fn turn(&mut self) {
        if self.now_ms < self.rest_until_ms {
            return;
        }
        for _ in 0..DEALS_PER_TURN {
            let Some(slot) = self.rotation.pick() else { return };
            let Some(worker) = self.seats[slot] else {
                self.set_room(slot, false);
                continue;
            };
            let Some(connection) = self.next() else { return };
            let queue = &mut self.queues[self.workers[worker].queue];
            let has_room = if std::mem::take(&mut self.exhausted) {
                self.returned.push_front(connection);
                self.rest_until_ms = self.now_ms + DEAL_PAUSE_MS;
                return;
            } else if queue.len() >= self.world.socket_max {
                self.returned.push_front(connection);
                let Worker { board, lane, .. } = &mut self.workers[worker];
                lane.as_mut().expect("seated").ask_for_kick_at_next_take(board)
            } else {
                self.assert_room(worker);
                self.watch.dealt(slot);
                self.queues[self.workers[worker].queue].push_back(connection);
                self.rotation.advance(slot);
                let Worker { board, lane, .. } = &mut self.workers[worker];
                let lane = lane.as_mut().expect("seated");
                lane.account.count_dealt();
                lane.account.has_room() || lane.look_or_ask_for_kick(board)
            };
            if !has_room {
                self.set_room(slot, false);
            }
        }
    }

    /// By what is really there, which the primary has not always looked at.
    fn assert_room(&self, worker: usize) {
        let Worker { queue, open, .. } = &self.workers[worker];
        let (untaken, open) = (self.queues[*queue].len() as u64, open.len() as u64);
        let Bounds { queue_max, connections_max } = self.world.bounds;
        assert!(untaken < queue_max, "worker {worker} has {untaken} untaken");
        assert!(untaken + open < connections_max, "worker {worker} has {untaken} + {open} open");
    }

    /// What came back first, oldest first (of several queues: the one with the oldest head), then the backlog.
    fn next(&mut self) -> Option<Connection> {
        if let Some(connection) = self.returned.pop_front() {
            return Some(connection);
        }
        self.remnants.retain(|queue| !self.queues[*queue].is_empty());
        let oldest = self.remnants.iter().copied().min_by_key(|queue| self.queues[*queue].front().copied());
        match oldest {
            Some(queue) => self.queues[queue].pop_front(),
            None => self.backlog.pop_front(),
        }
    }

    fn hear_kick(&mut self, worker: usize) {
        let Worker { slot, board, lane: Some(lane), .. } = &mut self.workers[worker] else { return };
        let (slot, has_room) = (*slot, lane.look_or_ask_for_kick(board));
        self.set_room(slot, has_room);
    }

    /// Its exit was seen, or it said that it takes no more: what is queued goes to others.
    fn close_lane(&mut self, worker: usize) {
        let Worker { slot, lane, .. } = &mut self.workers[worker];
        let slot = *slot;
        let Some(lane) = lane.take() else { return };
        self.remnants.push(lane.queue);
        self.seats[slot] = None;
        self.set_room(slot, false);
    }

    /// A worker that listens, in a slot that is free.
    fn start_worker(&mut self, slot: usize) {
        let (worker, queue) = (self.workers.len(), self.queues.len());
        self.queues.push(VecDeque::new());
        let lane = Some(Lane { account: Account::new(self.world.bounds), queue });
        self.workers.push(Worker { slot, is_alive: true, board: Board::default(), queue, open: Vec::new(), lane });
        self.seats[slot] = Some(worker);
        self.hear_kick(worker);
    }

    // The workers.

    fn take(&mut self, worker: usize) {
        let Worker { queue, board, open, .. } = &mut self.workers[worker];
        let Some(connection) = self.queues[*queue].pop_front() else { return };
        open.push(connection);
        if handshake::count_one(&board.taken, &board.kick_at_taken) {
            self.kicks.push(worker);
        }
        let before = self.taken_by.insert(connection, worker);
        assert_eq!(before, None, "connection {connection} was taken by two workers");
    }

    fn close(&mut self, worker: usize, position: usize) {
        let Worker { board, open, .. } = &mut self.workers[worker];
        let connection = open.swap_remove(position);
        assert!(self.ended.insert(connection));
        if handshake::count_one(&board.closed, &board.kick_at_closed) {
            self.kicks.push(worker);
        }
    }

    fn die(&mut self, worker: usize) {
        let Worker { is_alive, open, .. } = &mut self.workers[worker];
        *is_alive = false;
        self.ended.extend(open.drain(..));
    }

    // The world.

    fn those(&self, who: impl Fn(&Worker) -> bool) -> Vec<usize> {
        (0..self.workers.len()).filter(|worker| who(&self.workers[*worker])).collect()
    }

    fn step(&mut self, step: Step) {
        let alive = self.those(|worker| worker.is_alive);
        let pick = |who: Index| (!alive.is_empty()).then(|| *who.get(&alive));
        match step {
            Step::Arrive(count) => {
                self.backlog.extend(self.sequence + 1..=self.sequence + count);
                self.sequence += count;
            }
            Step::Turn => self.turn(),
            Step::Take(who, count) => pick(who).into_iter().for_each(|who| (0..count).for_each(|_| self.take(who))),
            Step::Close(who, which) => {
                if let Some(worker) = pick(who).filter(|worker| !self.workers[*worker].open.is_empty()) {
                    self.close(worker, which.index(self.workers[worker].open.len()));
                }
            }
            Step::HearKick(which) if !self.kicks.is_empty() => {
                let worker = self.kicks.swap_remove(which.index(self.kicks.len()));
                self.hear_kick(worker);
            }
            Step::HearKick(_) => {}
            Step::KickForNothing(who) => self.kicks.extend(pick(who)),
            Step::Die(who) => pick(who).into_iter().for_each(|who| self.die(who)),
            Step::CloseLane(who) => pick(who).into_iter().for_each(|who| self.close_lane(who)),
            Step::SeeExits => {
                self.those(|worker| !worker.is_alive).into_iter().for_each(|worker| self.close_lane(worker))
            }
            Step::Replace => self.replace_all(),
            Step::Exhaust => self.exhausted = true,
            Step::Pass(ms) => self.now_ms += ms,
        }
        self.assert_nothing_lost();
    }

    /// Slots whose worker has died and been seen get a new one.
    fn replace_all(&mut self) {
        for slot in 0..self.world.slots {
            if self.those(|worker| worker.slot == slot && (worker.is_alive || worker.lane.is_some())).is_empty() {
                self.start_worker(slot);
            }
        }
    }

    /// Every connection is in exactly one place.
    fn assert_nothing_lost(&self) {
        let waiting = self.backlog.iter().chain(&self.returned).chain(self.queues.iter().flatten());
        let open = self.workers.iter().flat_map(|worker| &worker.open);
        let mut all: Vec<Connection> = waiting.chain(open).chain(&self.ended).copied().collect();
        all.sort_unstable();
        assert!(all.iter().copied().eq(1..=self.sequence), "of {} there are {all:?}", self.sequence);
    }

    /// All kicks are heard, all rests are over, and the primary has had as many turns as it wants.
    fn settle(&mut self) {
        self.now_ms += DEAL_PAUSE_MS;
        self.exhausted = false;
        loop {
            for worker in std::mem::take(&mut self.kicks) {
                self.hear_kick(worker);
            }
            let dealt = self.watch.deals.len();
            self.turn();
            if self.watch.deals.len() == dealt && self.kicks.is_empty() {
                return;
            }
        }
    }

    /// When it sleeps with connections waiting, then because nobody has made the room that it waits for: half of the
    /// queue, and one place among the open ones.
    fn assert_sleeps_for_a_reason(&self) {
        let waits = !self.backlog.is_empty() || !self.returned.is_empty();
        if !waits && self.remnants.iter().all(|queue| self.queues[*queue].is_empty()) {
            return;
        }
        for worker in self.those(|worker| worker.lane.is_some()) {
            let Bounds { queue_max, connections_max } = self.world.bounds;
            let untaken = self.queues[self.workers[worker].queue].len();
            let open = untaken + self.workers[worker].open.len();
            let is_full = untaken as u64 > queue_max / 2 || untaken >= self.world.socket_max;
            // What a dead worker had open counts until its exit is seen.
            let is_dead = !self.workers[worker].is_alive;
            assert!(
                is_full || open as u64 >= connections_max || is_dead,
                "worker {worker}: {untaken} untaken, {open} open"
            );
        }
    }

    /// The workers do their work until nothing is left to do.
    fn run_dry(&mut self) {
        self.step(Step::SeeExits);
        self.step(Step::Replace);
        // A worker that lives and listens no more would otherwise keep its slot empty for ever.
        for worker in self.those(|worker| worker.lane.is_none()) {
            while self.workers[worker].is_alive && !self.queues[self.workers[worker].queue].is_empty() {
                self.take(worker);
            }
            self.die(worker);
        }
        self.step(Step::Replace);
        for _ in 0..=self.sequence {
            self.settle();
            self.assert_sleeps_for_a_reason();
            if self.ended.len() as u64 == self.sequence {
                return;
            }
            for worker in self.those(|worker| worker.is_alive) {
                (0..self.world.bounds.queue_max).for_each(|_| self.take(worker));
                while !self.workers[worker].open.is_empty() {
                    self.close(worker, 0);
                }
            }
        }
    }
}

#[derive(Debug, Clone, Copy)]
enum Step {
    Arrive(u64),
    Turn,
    Take(Index, usize),
    Close(Index, Index),
    HearKick(Index),
    KickForNothing(Index),
    Die(Index),
    CloseLane(Index),
    SeeExits,
    Replace,
    Exhaust,
    Pass(u64),
}

fn worlds() -> impl Strategy<Value = World> {
    let socket_max = prop_oneof![4 => Just(278usize), 1 => 1usize..5];
    (1usize..7, 1u64..9, 1u64..20, socket_max).prop_map(|(slots, queue_max, connections_max, socket_max)| World {
        slots,
        bounds: Bounds { queue_max, connections_max },
        socket_max,
    })
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let index = any::<Index>;
    let step = prop_oneof![
        6 => (1u64..12).prop_map(Step::Arrive),
        10 => Just(Step::Turn),
        10 => (index(), 1usize..6).prop_map(|(who, count)| Step::Take(who, count)),
        10 => (index(), index()).prop_map(|(who, which)| Step::Close(who, which)),
        6 => index().prop_map(Step::HearKick),
        1 => index().prop_map(Step::KickForNothing),
        1 => index().prop_map(Step::Die),
        1 => index().prop_map(Step::CloseLane),
        2 => Just(Step::SeeExits),
        2 => Just(Step::Replace),
        1 => Just(Step::Exhaust),
        2 => (1u64..20).prop_map(Step::Pass),
    ];
    prop::collection::vec(step, 0..150)
}

proptest! {
    /// The checks are in [`Watch::dealt`], [`Simulation::assert_room`], [`Simulation::take`] and
    /// [`Simulation::assert_nothing_lost`].
    #[test]
    fn every_connection_is_dealt_in_strict_rotation_to_workers_with_room_and_taken_once(
        world in worlds(), steps in steps()
    ) {
        let mut simulation = Simulation::new(world);
        steps.into_iter().for_each(|step| simulation.step(step));
    }

    #[test]
    fn the_primary_never_sleeps_while_it_could_deal(world in worlds(), steps in steps()) {
        let mut simulation = Simulation::new(world);
        for step in steps {
            simulation.step(step);
            simulation.settle();
            simulation.assert_sleeps_for_a_reason();
        }
    }

    #[test]
    fn in_the_end_every_connection_has_been_served(world in worlds(), steps in steps()) {
        let mut simulation = Simulation::new(world);
        steps.into_iter().for_each(|step| simulation.step(step));
        simulation.run_dry();
        simulation.assert_nothing_lost();
        prop_assert_eq!(simulation.ended.len() as u64, simulation.sequence);
        prop_assert!(simulation.taken_by.keys().copied().eq(1..=simulation.sequence));
    }

    /// With everybody quick, the shares are even whatever the bounds are.
    #[test]
    fn shares_differ_by_at_most_one_when_everybody_has_room(world in worlds(), connections in 1u64..500) {
        let mut simulation = Simulation::new(world);
        for _ in 0..connections {
            simulation.step(Step::Arrive(1));
            simulation.settle();
            for worker in 0..world.slots {
                simulation.take(worker);
                if !simulation.workers[worker].open.is_empty() {
                    simulation.close(worker, 0);
                }
            }
        }
        let shares = (0..world.slots).map(|slot| simulation.watch.deals.iter().filter(|dealt| **dealt == slot).count());
        let shares: Vec<usize> = shares.collect();
        prop_assert!(shares.iter().max().unwrap() - shares.iter().min().unwrap() <= 1, "{:?}", shares);
    }
}

/// What a dead worker had not taken is dealt to others, before anybody new and in the order of the accepts.
#[test]
fn what_a_dead_worker_left_is_dealt_first_and_oldest_first() {
    let bounds = Bounds { queue_max: 4, connections_max: 100 };
    let mut simulation = Simulation::new(World { slots: 3, bounds, socket_max: 278 });
    simulation.step(Step::Arrive(14));
    simulation.turn();
    simulation.die(0);
    simulation.die(1);
    simulation.step(Step::SeeExits);
    simulation.step(Step::Replace);
    simulation.turn();
    let queues: Vec<Vec<Connection>> = (3..5).map(|worker| simulation.queues[worker].clone().into()).collect();
    assert_eq!(queues, [[1, 4, 7, 10], [2, 5, 8, 11]], "the third worker is full");
    assert_eq!(simulation.backlog, [13, 14]);
}

/// The watch is known to be able to see a slot that was passed over, and one that was favoured.
#[test]
fn the_watch_sees_an_unfair_rotation() {
    for unfair in [&[0, 1, 2, 0, 2, 0][..], &[0, 1, 2, 1, 0]] {
        let watched = std::panic::catch_unwind(|| {
            let mut watch = Watch::default();
            (0..3).for_each(|slot| watch.room_changed(slot, true));
            unfair.iter().for_each(|slot| watch.dealt(*slot));
        });
        assert!(watched.is_err(), "{unfair:?}");
    }
}
