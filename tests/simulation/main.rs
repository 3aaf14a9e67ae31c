//! A simulation of dealing: one listener, several workers, a clock that is a number, and everything that can go wrong.
//!
//! The decisions are the real ones: the rotation, the policies, the account, the stall, the supervisor and the
//! handshake of the scoreboard. Around them is a model of the rest: connections are numbers in the order of their
//! accept, a queue of the kernel is a list that two sides can receive from, kicks and words arrive late. Workers stall,
//! refuse, pause, give back, die, close their lanes and are replaced; the primary is upgraded at any moment.
//!
//! Proptest prints the steps of a failure, shrunk, and the seed with which it comes again. [`Fault`] are mistakes that
//! the primary could make; a test shows that each would be found.

mod kernel;
mod policies;
mod primary;
mod watch;

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use croupier::primary::room::{Bounds, SLOW_QUEUE_MAX};
use croupier::primary::stall::LOOKS;
use croupier::primary::supervisor::{Event, Plan, Supervisor};
use croupier::protocol::ids::WorkerId;
use croupier::protocol::scoreboard::Pause;
use croupier::protocol::time::Monotonic;
use proptest::prelude::*;
use proptest::sample::Index;
use proptest::strategy::ValueTree;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

use kernel::{Connection, Kernel};
use policies::Dealing;
use primary::{DEAL_PAUSE, LOOK_EVERY, NOT_AGAIN_FOR, Phase, Primary, Remnant};
use watch::Watch;

#[derive(Debug, Clone, Copy)]
struct World {
    slots: u32,
    bounds: Bounds,
    /// How many records a queue of the kernel takes; above queue_max except in a kernel with little memory.
    socket_max: usize,
    held_max: usize,
    reload_parallel: u32,
    dealing: Dealing,
    fault: Option<Fault>,
}

/// A mistake of the primary.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    NewBeforeReturned,
    DealsToTheGiver,
    HoldsWithoutBound,
    ForgetsToCountReclaimed,
    LeavesNoProbe,
    TakesAnythingForAnAnswer,
    WaitsForALostAnswer,
    ReclaimsOnlyOnce,
    TriesWithoutRoom,
    DropsUntaken,
    ForgetsTheGivenBackOfTheDead,
    SeatsWhoWasTurnedAway,
    StartsTheRotationAnew,
    LooksForNoRoomAfterAnUpgrade,
    JudgesByOldNumbers,
}

struct Simulation {
    world: World,
    now: Monotonic,
    kernel: Kernel,
    primary: Primary,
    watch: Watch,
}

impl Simulation {
    fn new(world: World) -> Self {
        let long = Duration::from_secs(30);
        let plan = Plan {
            burst_max: u32::MAX,
            burst_window: long,
            start_timeout: long,
            shutdown_timeout: long,
            kill_delay: Duration::from_secs(5),
            reload_parallel: world.reload_parallel,
            ..Plan::of(world.slots)
        };
        let now = Monotonic { ns: 1_000_000_000 };
        let primary = Primary::new(Supervisor::new(plan), world.dealing.chooser());
        let kernel = Kernel::new(world.socket_max);
        let mut simulation = Self { world, now, kernel, primary, watch: Watch::default() };
        simulation.decide(Event::Begun);
        simulation.everybody_listens();
        simulation
    }

    fn everybody_listens(&mut self) {
        for _ in 0..2 {
            self.kernel.living().into_iter().for_each(|worker| self.kernel.talk(worker));
            self.hear_everything();
        }
    }

    fn step(&mut self, step: Step) {
        let living = self.kernel.living();
        let pick = |who: Index| (!living.is_empty()).then(|| *who.get(&living));
        let open = |simulation: &Self, worker| simulation.kernel.processes[&worker].open.len();
        match step {
            Step::Arrive(count) => self.kernel.arrive(count),
            Step::Turn => self.turn(),
            Step::Take(who, count) => {
                pick(who).into_iter().for_each(|who| (0..count).for_each(|_| self.kernel.take(who)))
            }
            Step::Close(who, which) => {
                if let Some(worker) = pick(who).filter(|worker| open(self, *worker) > 0) {
                    self.kernel.close(worker, which.index(open(self, worker)));
                }
            }
            Step::GiveBack(who, which) => {
                if let Some(worker) = pick(who).filter(|worker| open(self, *worker) > 0) {
                    self.kernel.give_back(worker, which.index(open(self, worker)));
                }
            }
            Step::Refuse(who) => pick(who).into_iter().for_each(|who| self.kernel.refuse(who)),
            Step::Pause(who, pause) => pick(who).into_iter().for_each(|who| self.kernel.pause(who, pause)),
            Step::KickForNothing(who) => pick(who).into_iter().for_each(|who| self.kernel.kick(who)),
            Step::Hear(which) => {
                let news = self.news();
                if !news.is_empty() {
                    self.hear(*which.get(&news));
                }
            }
            Step::Talk(who) => pick(who).into_iter().for_each(|who| self.kernel.talk(who)),
            Step::HearWorker(who) => pick(who).into_iter().for_each(|who| self.hear_worker(who)),
            Step::CloseLane(who) => pick(who).into_iter().for_each(|who| self.kernel.close_lane(who)),
            Step::Die(who) => pick(who).into_iter().for_each(|who| self.kernel.die(who)),
            Step::SeeExits => self.see_exits(),
            Step::Reload => self.decide(Event::ReloadRequested),
            Step::Disconnect(who) => pick(who).into_iter().for_each(|who| self.decide(Event::DisconnectRequested(who))),
            Step::Upgrade => self.upgrade(),
            Step::Exhaust => self.kernel.is_exhausted = true,
            Step::Pass(ms) => self.now = self.now + Duration::from_millis(ms),
            Step::Looks => (0..=LOOKS + 1).for_each(|_| {
                self.now = self.now + LOOK_EVERY;
                self.turn();
            }),
        }
        self.assert_nothing_lost();
    }

    fn news(&self) -> Vec<usize> {
        (0..self.kernel.channels.len()).filter(|channel| self.kernel.channels[*channel].has_news).collect()
    }

    fn hear(&mut self, channel: usize) {
        self.kernel.channels[channel].has_news = false;
        self.hear_from_below(channel);
    }

    // What must hold.

    /// What waits and came back: held, and the heads of the queues that were left behind.
    fn heads(&self) -> Vec<Connection> {
        let held = self.primary.held.iter().map(|held| held.connection);
        let heads = self.primary.remnants.iter().filter_map(|remnant| match remnant {
            Remnant::Untaken(channel) => self.kernel.channels[*channel].untaken().next(),
            Remnant::GivenBack(channel) => self.kernel.channels[*channel].given_back().next(),
        });
        held.chain(heads).collect()
    }

    /// Whether `worker` gave this one back, and somebody else may want it.
    fn is_forbidden(&self, connection: Connection, worker: WorkerId) -> bool {
        let is_giver = |(giver, at): &(WorkerId, Monotonic)| *giver == worker && self.now < *at + NOT_AGAIN_FOR;
        self.watch.givers.get(&connection).is_some_and(is_giver) && self.primary.has_other_than(worker)
    }

    /// By what is really there, which the primary has not always looked at.
    fn check_deal(&self, worker: WorkerId, channel: usize, connection: Connection, heads: &[Connection]) {
        let older = heads.iter().find(|head| **head < connection && !self.is_forbidden(**head, worker));
        assert_eq!(older, None, "connection {connection} was dealt before it");
        assert!(!self.is_forbidden(connection, worker), "connection {connection} went back to worker {worker}");
        let below = &self.kernel.channels[channel];
        assert!(!below.has_ended, "the lane of worker {worker} has ended");
        let is_unknown = below.has_news || below.has_lost_kick;
        assert!(below.board.pause != Pause::ByProgram || is_unknown, "worker {worker} is known to be paused");
        assert!(!below.is_asleep, "worker {worker} has not answered");
        let open = &self.kernel.processes[&worker].open;
        let untaken = below.untaken().count() as u64;
        let open = untaken + open.iter().filter(|(_, through)| *through == channel).count() as u64;
        let Bounds { queue_max, connections_max } = self.world.bounds;
        assert!(untaken < queue_max, "worker {worker} has {untaken} untaken");
        assert!(open < connections_max, "worker {worker} has {open} open");
    }

    /// Every connection is in exactly one place, and somebody has that place.
    fn assert_nothing_lost(&self) {
        let mut all: Vec<Connection> = self.kernel.backlog.iter().chain(&self.kernel.ended).copied().collect();
        all.extend(self.primary.held.iter().map(|held| held.connection));
        for process in self.kernel.processes.values() {
            all.extend(process.open.iter().map(|(connection, _)| *connection));
        }
        for (index, channel) in self.kernel.channels.iter().enumerate() {
            let lane = self.primary.lanes.get(&index);
            let is_taken = self.kernel.processes[&channel.worker].taking == Some(index);
            let is_left = |remnant| self.primary.remnants.contains(&remnant);
            if is_taken || lane.is_some_and(|lane| lane.is_retained) || is_left(Remnant::Untaken(index)) {
                all.extend(channel.untaken());
            }
            if lane.is_some() || is_left(Remnant::GivenBack(index)) {
                all.extend(channel.given_back());
            }
        }
        all.sort_unstable();
        assert!(all.iter().copied().eq(1..=self.kernel.arrived), "of {} there are {all:?}", self.kernel.arrived);
        // And a few that could not be sent.
        assert!(self.primary.held.len() <= self.world.held_max + 8, "{} held", self.primary.held.len());
    }

    fn hear_everything(&mut self) {
        loop {
            self.see_exits();
            let workers: Vec<WorkerId> = self.primary.workers.keys().copied().collect();
            workers.into_iter().for_each(|worker| self.hear_worker(worker));
            let news = self.news();
            if news.is_empty() {
                return;
            }
            news.into_iter().for_each(|channel| self.hear(channel));
        }
    }

    /// Everything is heard, all rests are over, and the primary has had as many turns as it wants.
    fn settle(&mut self) {
        self.kernel.is_exhausted = false;
        for _ in 0..ROUNDS_MAX {
            self.now = self.now + DEAL_PAUSE;
            self.hear_everything();
            let (dealt, reclaimed) = (self.watch.deals.len(), self.watch.reclaimed);
            self.turn();
            if self.watch.deals.len() == dealt && self.watch.reclaimed == reclaimed && self.news().is_empty() {
                return;
            }
        }
        panic!("the primary does not come to rest");
    }

    /// As long as looks move anything.
    fn settle_with_looks(&mut self) {
        let mut quiet = 0;
        for _ in 0..ROUNDS_MAX {
            if quiet > 3 * LOOKS {
                return;
            }
            let before = (self.watch.deals.len(), self.watch.reclaimed);
            self.now = self.now + LOOK_EVERY;
            self.settle();
            quiet = if (self.watch.deals.len(), self.watch.reclaimed) == before { quiet + 1 } else { 0 };
        }
        panic!("looks go on moving connections");
    }

    /// When everything is heard and something waits, then because nobody has made the room that the primary waits for:
    /// half of the queue, and one place among the open ones. And everybody who takes has a seat.
    fn assert_sleeps_for_a_reason(&self) {
        let heads = self.heads();
        for (index, lane) in self.primary.lanes.iter().filter(|(_, lane)| lane.phase == Phase::Listening) {
            let (worker, below) = (lane.worker, &self.kernel.channels[*index]);
            let process = &self.kernel.processes[&worker];
            let is_seated = self.primary.seats.contains(&Some((worker, *index)));
            if !is_seated {
                let is_ending = process.is_finishing || process.is_terminated || process.taking != Some(*index);
                let is_settling = self.primary.supervisor.expects(worker);
                assert!(is_ending || is_settling || lane.stall.is_probed(), "worker {worker} takes, and has no seat");
                continue;
            }
            if below.up.len() >= self.world.socket_max {
                continue; // A kick may have found no place. The next look is for that.
            }
            let Bounds { queue_max, connections_max } = self.world.bounds;
            let untaken = below.untaken().count();
            let open = process.open.iter().filter(|(_, through)| through == index).count() + untaken;
            // A slow one is asked for a kick when it has taken half of what it may have.
            let is_full =
                untaken as u64 > SLOW_QUEUE_MAX.min(queue_max) / 2 || below.down.len() >= self.world.socket_max;
            let is_full = is_full || open as u64 >= connections_max || below.board.pause != Pause::None;
            let waits = !self.kernel.backlog.is_empty() || heads.iter().any(|it| !self.is_forbidden(*it, worker));
            assert!(is_full || !waits, "worker {worker}: {untaken} untaken, {open} open");
        }
    }

    /// After looks: whoever has answered has its seat, and nobody waits in the queue of one that does not take while
    /// another one is idle.
    fn assert_nobody_waits_beside_an_idle_worker(&self) {
        for (channel, lane) in self.primary.lanes.iter().filter(|(_, lane)| lane.phase == Phase::Listening) {
            let has_answered = self.kernel.channels[*channel].down.is_empty();
            assert!(!lane.stall.is_probed() || !has_answered, "worker {} has answered", lane.worker);
        }
        let untaken = |channel: usize| self.kernel.channels[channel].untaken().count();
        let is_idle = |(worker, channel): &(WorkerId, usize)| {
            let open = self.kernel.processes[worker].open.iter().filter(|(_, through)| through == channel).count();
            let has_room = (open as u64) < self.world.bounds.connections_max;
            untaken(*channel) == 0 && has_room && self.kernel.channels[*channel].board.pause == Pause::None
        };
        let idle: BTreeSet<WorkerId> =
            self.primary.seats.iter().flatten().filter(|seat| is_idle(seat)).map(|(worker, _)| *worker).collect();
        if self.primary.held.len() < self.world.held_max {
            for (channel, lane) in self.primary.lanes.iter().filter(|(_, lane)| lane.phase == Phase::Listening) {
                let waiting = untaken(*channel);
                assert!(waiting == 0 || idle.iter().all(|it| *it == lane.worker), "{waiting} wait beside {idle:?}");
            }
        }
    }

    /// The workers do their work until nothing is left to do.
    fn run_dry(&mut self) {
        for _ in 0..2000 + self.kernel.arrived {
            self.settle();
            self.assert_sleeps_for_a_reason();
            self.assert_nothing_lost();
            if self.kernel.ended.len() as u64 == self.kernel.arrived {
                return;
            }
            self.now = self.now + Duration::from_secs(1);
            for worker in self.kernel.living() {
                self.kernel.talk(worker);
                self.kernel.pause(worker, Pause::None);
                (0..=self.world.bounds.queue_max).for_each(|_| self.kernel.take(worker));
                while !self.kernel.processes[&worker].open.is_empty() {
                    self.kernel.close(worker, 0);
                }
                let process = &self.kernel.processes[&worker];
                let is_through = process.taking.is_none_or(|channel| self.kernel.channels[channel].down.is_empty());
                if is_through && (process.is_finishing || process.is_terminated) {
                    self.kernel.die(worker);
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
    GiveBack(Index, Index),
    Refuse(Index),
    Pause(Index, Pause),
    KickForNothing(Index),
    Hear(Index),
    Talk(Index),
    HearWorker(Index),
    CloseLane(Index),
    Die(Index),
    SeeExits,
    Reload,
    Disconnect(Index),
    Upgrade,
    Exhaust,
    Pass(u64),
    /// As many as it takes to find out who does not take.
    Looks,
}

fn worlds() -> impl Strategy<Value = World> {
    let socket_max = prop_oneof![4 => Just(278usize), 1 => 1usize..5];
    let held_max = prop_oneof![Just(1024usize), 1usize..6];
    let bounds = prop_oneof![4 => (1u64..9, 1u64..20), 1 => (SLOW_QUEUE_MAX..40, 20u64..80)];
    (1u32..7, bounds, socket_max, held_max, 1u32..3, Dealing::any()).prop_map(
        |(slots, (queue_max, connections_max), socket_max, held_max, reload_parallel, dealing)| {
            let bounds = Bounds { queue_max, connections_max };
            World { slots, bounds, socket_max, held_max, reload_parallel, dealing, fault: None }
        },
    )
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let index = any::<Index>;
    let common = prop_oneof![
        6 => (1u64..12).prop_map(Step::Arrive),
        12 => Just(Step::Turn),
        8 => (index(), 1usize..6).prop_map(|(who, count)| Step::Take(who, count)),
        8 => (index(), index()).prop_map(|(who, which)| Step::Close(who, which)),
        8 => index().prop_map(Step::Hear),
        3 => (1u64..20).prop_map(Step::Pass),
        3 => Just(Step::Pass(50)),
        4 => Just(Step::Looks),
    ];
    let pauses = prop_oneof![2 => Just(Pause::None), 1 => Just(Pause::ByProgram), 1 => Just(Pause::NoDescriptors)];
    let rare = prop_oneof![
        8 => (index(), index()).prop_map(|(who, which)| Step::GiveBack(who, which)),
        3 => index().prop_map(Step::Refuse),
        4 => (index(), pauses).prop_map(|(who, pause)| Step::Pause(who, pause)),
        1 => index().prop_map(Step::KickForNothing),
        8 => index().prop_map(Step::Talk),
        8 => index().prop_map(Step::HearWorker),
        1 => index().prop_map(Step::CloseLane),
        1 => index().prop_map(Step::Die),
        2 => Just(Step::SeeExits),
        1 => Just(Step::Reload),
        1 => index().prop_map(Step::Disconnect),
        2 => Just(Step::Upgrade),
        1 => Just(Step::Exhaust),
        1 => (100u64..40_000).prop_map(Step::Pass),
    ];
    prop::collection::vec(prop_oneof![3 => common, 2 => rare], 0..200)
}

fn play(world: World, steps: &[Step]) -> Simulation {
    let mut simulation = Simulation::new(world);
    steps.iter().for_each(|step| simulation.step(*step));
    simulation
}

fn play_and_settle(world: World, steps: &[Step]) {
    let mut simulation = play(world, steps);
    simulation.settle();
    simulation.assert_sleeps_for_a_reason();
    simulation.settle_with_looks();
    simulation.assert_sleeps_for_a_reason();
    simulation.assert_nobody_waits_beside_an_idle_worker();
    simulation.assert_nothing_lost();
}

fn play_and_run_dry(world: World, steps: &[Step]) {
    let mut simulation = play(world, steps);
    simulation.run_dry();
    assert!(simulation.kernel.ended.iter().copied().eq(1..=simulation.kernel.arrived));
}

proptest! {
    #![proptest_config(Config { cases: 256, ..Config::default() })]

    /// The checks on the way are in [`Watch::dealt`], [`Simulation::check_choice`], [`Simulation::check_deal`] and
    /// [`Simulation::assert_nothing_lost`].
    #[test]
    fn in_the_end_every_connection_has_been_served_by_one_worker(world in worlds(), steps in steps()) {
        play_and_run_dry(world, &steps);
    }

    #[test]
    fn nobody_waits_while_somebody_could_take(world in worlds(), steps in steps()) {
        play_and_settle(world, &steps);
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

    /// With everybody quick, the shares are even whatever the bounds are, over upgrades too.
    #[test]
    fn shares_differ_by_at_most_one_when_everybody_has_room(world in worlds(), connections in 1u64..300) {
        let mut simulation = Simulation::new(World { dealing: Dealing::RoundRobin, ..world });
        for number in 0..connections {
            simulation.step(Step::Arrive(1));
            simulation.settle();
            for worker in simulation.kernel.living() {
                simulation.kernel.take(worker);
                if !simulation.kernel.processes[&worker].open.is_empty() {
                    simulation.kernel.close(worker, 0);
                }
            }
            if number % 7 == 0 {
                simulation.step(Step::Upgrade);
            }
        }
        let slots = 0..world.slots as usize;
        let shares = slots.map(|slot| simulation.watch.deals.iter().filter(|dealt| **dealt == slot).count());
        let shares: Vec<usize> = shares.collect();
        prop_assert!(shares.iter().max().unwrap() - shares.iter().min().unwrap() <= 1, "{:?}", shares);
    }
}

/// What steps at random hardly ever come to: the first look at a worker that does not take cannot take everything back,
/// and later the other one is idle.
fn play_little_place(fault: Option<Fault>) {
    let mut simulation = Simulation::new(little_world(278, fault));
    let other = WorkerId(2);
    simulation.step(Step::Arrive(4));
    simulation.turn();
    for _ in 0..4 {
        (0..2).for_each(|_| simulation.kernel.take(other));
        simulation.step(Step::Looks);
    }
    (0..2).for_each(|_| simulation.kernel.take(other));
    simulation.settle_with_looks();
    simulation.assert_nobody_waits_beside_an_idle_worker();
}

/// There is no place for the probe either, and the worker then wakes up: the kick comes before it has taken everything.
fn play_no_place(fault: Option<Fault>) {
    let mut simulation = Simulation::new(little_world(2, fault));
    simulation.step(Step::Arrive(4));
    simulation.turn();
    (0..2).for_each(|_| simulation.kernel.take(WorkerId(2)));
    simulation.kernel.give_back(WorkerId(2), 1);
    simulation.hear_everything();
    simulation.step(Step::Looks);
    for _ in 0..2 {
        simulation.kernel.take(WorkerId(1));
        simulation.hear_everything();
    }
    simulation.settle_with_looks();
    simulation.assert_nobody_waits_beside_an_idle_worker();
}

fn little_world(socket_max: usize, fault: Option<Fault>) -> World {
    let bounds = Bounds { queue_max: 4, connections_max: 100 };
    World { slots: 2, bounds, socket_max, held_max: 1, reload_parallel: 1, dealing: Dealing::RoundRobin, fault }
}

#[test]
fn a_worker_that_does_not_take_keeps_nothing_and_comes_back_however_little_place_there_is() {
    play_little_place(None);
    play_no_place(None);
}

/// Random steps that are always the same ones.
fn find(fault: Fault) -> Option<u32> {
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &[7; 32]);
    let mut runner = TestRunner::new_with_rng(Config::default(), rng);
    let plays = (worlds(), steps());
    if [play_little_place, play_no_place].iter().any(|play| catch_unwind(|| play(Some(fault))).is_err()) {
        return Some(0);
    }
    (1..=TRIES).find(|_| {
        let (world, steps) = plays.new_tree(&mut runner).unwrap().current();
        let world = World { fault: Some(fault), ..world };
        let found = |play: fn(World, &[Step])| catch_unwind(AssertUnwindSafe(|| play(world, &steps))).is_err();
        found(play_and_settle) || found(play_and_run_dry)
    })
}

const ROUNDS_MAX: u32 = 500;
const TRIES: u32 = 300;

#[test]
fn every_fault_is_found() {
    let faults = [
        Fault::NewBeforeReturned,
        Fault::DealsToTheGiver,
        Fault::HoldsWithoutBound,
        Fault::ForgetsToCountReclaimed,
        Fault::LeavesNoProbe,
        Fault::TakesAnythingForAnAnswer,
        Fault::WaitsForALostAnswer,
        Fault::ReclaimsOnlyOnce,
        Fault::TriesWithoutRoom,
        Fault::DropsUntaken,
        Fault::ForgetsTheGivenBackOfTheDead,
        Fault::SeatsWhoWasTurnedAway,
        Fault::StartsTheRotationAnew,
        Fault::LooksForNoRoomAfterAnUpgrade,
        Fault::JudgesByOldNumbers,
    ];
    let tries: Vec<(Fault, Option<u32>)> = faults.into_iter().map(|fault| (fault, find(fault))).collect();
    assert!(tries.iter().all(|(_, tries)| tries.is_some()), "{tries:?}");
}

/// What a dead worker had not taken is dealt to others, before anybody new and in the order of the accepts.
#[test]
fn what_a_dead_worker_left_is_dealt_first_and_oldest_first() {
    let bounds = Bounds { queue_max: 4, connections_max: 100 };
    let world = World { slots: 3, held_max: 1024, bounds, ..little_world(278, None) };
    let mut simulation = Simulation::new(world);
    simulation.step(Step::Arrive(14));
    simulation.turn();
    simulation.kernel.die(WorkerId(1));
    simulation.kernel.die(WorkerId(2));
    simulation.step(Step::SeeExits);
    simulation.step(Step::Pass(100));
    simulation.turn();
    simulation.everybody_listens();
    simulation.turn();
    let queues: Vec<Vec<Connection>> =
        simulation.kernel.channels[3..].iter().map(|channel| channel.untaken().collect()).collect();
    assert_eq!(queues, [[1, 4, 7, 10], [2, 5, 8, 11]], "the third worker is full");
    assert_eq!(simulation.kernel.backlog, [13, 14]);
}
