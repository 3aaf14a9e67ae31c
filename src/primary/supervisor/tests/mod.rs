//! Tests of the supervisor: first what operators are promised, one by one, then what holds whatever happens.
//!
//! The clock is a number. A [`Rig`] plays the part of the event loop: it remembers which starts are on their way and
//! which workers live, and checks with every step what must hold always.

mod rollout;

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

const PLAN: Plan = Plan {
    worker_count: 2,
    respawn: Respawn::Always,
    outlives_workers: false,
    burst_max: 5,
    burst_window: Duration::from_secs(10),
    start_timeout: Duration::from_secs(30),
    shutdown_timeout: Duration::from_secs(20),
    kill_delay: Duration::from_secs(2),
    shutdown_delay: Duration::ZERO,
    reload_parallel: 1,
};
/// What a cluster has.
const CLUSTER: Plan = Plan { outlives_workers: true, ..PLAN };
const ONE_WORKER: Plan = Plan { worker_count: 1, ..PLAN };

const A: WorkerId = WorkerId(1);
const B: WorkerId = WorkerId(2);
const STRANGER: WorkerId = WorkerId(999);
const ZERO: Duration = Duration::ZERO;
const TICK: Duration = Duration::from_millis(1);

struct Rig {
    supervisor: Supervisor,
    now: Monotonic,
    /// Asked for by `Start`, not answered yet.
    requested: Vec<Slot>,
    /// The workers that live, where, and since when they have been ready.
    living: BTreeMap<WorkerId, (Slot, Option<Monotonic>)>,
    /// The strongest that was done to a living worker to make it end.
    ordered: BTreeMap<WorkerId, Force>,
    last_id: u32,
    listeners_are_ending: bool,
    listeners_have_ended: bool,
    reload_ends: Vec<ReloadEnd>,
    /// How many workers that have not been told to end may sit in a slot for which another one is started.
    sitting_max: usize,
    finished: Option<Outcome>,
}

/// What makes a worker exit, the gentlest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Force {
    Disconnect,
    Terminate,
    Kill,
}

impl Rig {
    /// Before [`Event::Begun`].
    fn new(plan: Plan) -> Self {
        Self {
            supervisor: Supervisor::new(plan),
            now: Monotonic { ns: 1 << 40 },
            requested: Vec::new(),
            living: BTreeMap::new(),
            ordered: BTreeMap::new(),
            last_id: 0,
            listeners_are_ending: false,
            listeners_have_ended: false,
            reload_ends: Vec::new(),
            sitting_max: 0,
            finished: None,
        }
    }

    /// Every worker ready, and replacements start beside them.
    fn replacing(plan: Plan) -> Self {
        Self { sitting_max: 1, ..Self::ready(plan) }
    }

    /// Every worker started, none ready: A in slot 0, B in slot 1.
    fn started(plan: Plan) -> Self {
        let mut rig = Self::new(plan);
        rig.hear(Event::Begun);
        while !rig.requested.is_empty() {
            rig.start_succeeds(0);
        }
        rig
    }

    /// Every worker ready.
    fn ready(plan: Plan) -> Self {
        let mut rig = Self::started(plan);
        (1..=plan.worker_count).for_each(|id| drop(rig.becomes_ready(WorkerId(id))));
        rig
    }

    fn hear(&mut self, event: Event) -> Vec<Effect> {
        let was_finished = self.finished.is_some();
        let effects = self.supervisor.handle(event, self.now);
        assert!(!was_finished || effects.is_empty(), "{effects:?} after the end");
        for effect in &effects {
            self.check_and_note(*effect);
        }
        effects
    }

    fn check_and_note(&mut self, effect: Effect) {
        assert_eq!(self.finished, None, "nothing follows Finish: {effect:?}");
        match effect {
            Effect::Start(slot) => {
                assert!(self.supervisor.is_running(), "nobody is started once a stop shows");
                let sits = |(worker, (taken, _)): &(&WorkerId, &(Slot, _))| {
                    *taken == slot && !self.ordered.contains_key(worker)
                };
                let sitting = self.living.iter().filter(sits).count();
                assert!(sitting <= self.sitting_max, "{sitting} workers sit in slot {slot}, and one more is to come");
                self.requested.push(slot);
            }
            Effect::EndListeners => {
                assert!(!self.listeners_are_ending, "listeners end once");
                self.listeners_are_ending = true;
            }
            Effect::CloseListeners => {}
            Effect::Seat(worker) => assert!(self.living.contains_key(&worker), "{worker} is not there"),
            Effect::ReloadEnded(end) => self.reload_ends.push(end),
            Effect::Drain(worker) => {
                let stays = |(other, (_, since)): (&WorkerId, &(Slot, Option<Monotonic>))| {
                    *other != worker && since.is_some() && !self.ordered.contains_key(other)
                };
                let wanted_to = self.ordered.contains_key(&worker);
                assert!(wanted_to || self.living.iter().any(stays), "{worker} was the last one that served");
                self.note_order(worker, Force::Disconnect);
            }
            Effect::Disconnect(worker) => self.note_order(worker, Force::Disconnect),
            Effect::Terminate(worker) => self.note_order(worker, Force::Terminate),
            Effect::Kill(worker, _) => self.note_order(worker, Force::Kill),
            Effect::Finish(outcome) => {
                assert!(self.living.is_empty() && self.requested.is_empty(), "it left somebody behind");
                self.finished = Some(outcome);
            }
        }
    }

    fn note_order(&mut self, worker: WorkerId, force: Force) {
        assert!(self.living.contains_key(&worker), "{force:?} for {worker}, who is not there");
        let strongest = self.ordered.entry(worker).or_insert(force);
        *strongest = force.max(*strongest);
    }

    fn pass(&mut self, duration: Duration) -> Vec<Effect> {
        self.now = self.now + duration;
        self.hear(Event::TimePassed)
    }

    /// The time until the supervisor wants to be called.
    fn due_in(&self) -> Option<Duration> {
        self.supervisor.deadline().map(|deadline| deadline.since(self.now))
    }

    fn pass_to_deadline(&mut self) -> Vec<Effect> {
        let Some(due) = self.supervisor.deadline() else { return Vec::new() };
        self.now = self.now.max(due);
        let effects = self.hear(Event::TimePassed);
        let moved = self.supervisor.deadline().is_none_or(|next| next > due);
        assert!(!effects.is_empty() || moved, "the event loop would spin at {due:?}");
        effects
    }

    fn start_succeeds(&mut self, index: usize) -> Vec<Effect> {
        let slot = self.requested.remove(index);
        self.last_id += 1;
        let worker = WorkerId(self.last_id);
        self.living.insert(worker, (slot, None));
        self.hear(Event::Started(slot, worker))
    }

    fn start_fails(&mut self, index: usize, permanent: bool) -> Vec<Effect> {
        let slot = self.requested.remove(index);
        self.hear(Event::StartFailed { slot, permanent })
    }

    fn becomes_ready(&mut self, worker: WorkerId) -> Vec<Effect> {
        if let Some((_, since)) = self.living.get_mut(&worker) {
            since.get_or_insert(self.now);
        }
        self.hear(Event::Ready(worker))
    }

    /// A replacement becomes ready, and lives long enough to take over.
    fn takes_over(&mut self, worker: WorkerId) -> Vec<Effect> {
        assert_eq!(self.becomes_ready(worker), [], "not before it has settled");
        self.pass(SETTLING)
    }

    fn exits(&mut self, worker: WorkerId, is_success: bool) -> Vec<Effect> {
        let ready_since = self.living.remove(&worker).and_then(|(_, since)| since);
        self.ordered.remove(&worker);
        self.hear(Event::Exited(worker, Ended { is_success, ready_since }))
    }

    /// Somebody has had one more started.
    fn forks(&mut self) -> Vec<Effect> {
        let slot = self.supervisor.free_slot();
        self.last_id += 1;
        self.living.insert(WorkerId(self.last_id), (slot, None));
        self.hear(Event::Forked(slot, WorkerId(self.last_id)))
    }

    /// A worker wants to finish: it may also be the last one that serves.
    fn leaves(&mut self, worker: WorkerId) -> Vec<Effect> {
        self.note_order(worker, Force::Disconnect);
        self.hear(Event::LeaveRequested(worker))
    }

    fn stop(&mut self, stop: Stop) -> Vec<Effect> {
        self.hear(Event::StopRequested(stop))
    }
}

// Starting.

#[test]
fn every_slot_gets_a_worker_at_once() {
    let mut rig = Rig::new(PLAN);
    assert_eq!(rig.hear(Event::Begun), [Effect::Start(Slot(0)), Effect::Start(Slot(1))]);
    assert_eq!(rig.start_succeeds(0), []);
    assert_eq!(rig.start_succeeds(0), []);
    assert_eq!(rig.due_in(), Some(PLAN.start_timeout));
    assert_eq!(rig.becomes_ready(A), []);
    assert_eq!(rig.becomes_ready(B), []);
    assert_eq!(rig.due_in(), None);
}

#[test]
fn a_missing_command_gives_up_at_once_and_the_other_starts_do_not_happen() {
    let mut rig = Rig::new(PLAN);
    rig.hear(Event::Begun);
    assert_eq!(rig.start_fails(0, true), [Effect::CloseListeners]);
    assert!(!rig.supervisor.is_running(), "the event loop asks this before it carries out the other Start");
    let end = [Effect::CloseListeners, Effect::Finish(Outcome::GaveUp(GaveUp::NoCommand))];
    assert_eq!(rig.start_fails(0, false), end);
}

#[test]
fn a_command_that_goes_missing_later_is_tried_again() {
    let mut rig = Rig::ready(ONE_WORKER);
    rig.pass(SETTLED);
    assert_eq!(rig.exits(A, false), [Effect::Start(Slot(0))]);
    assert_eq!(rig.start_fails(0, true), []);
    assert_eq!(rig.due_in(), Some(BACKOFF_MIN));
}

#[test]
fn a_worker_that_is_not_ready_in_time_is_killed_and_if_none_ever_was_that_is_all() {
    let mut rig = Rig::started(ONE_WORKER);
    assert_eq!(rig.pass(PLAN.start_timeout - TICK), []);
    assert_eq!(rig.pass(TICK), [Effect::Kill(A, KillReason::StartTimeout)]);
    assert_eq!(rig.pass(PLAN.start_timeout), [], "it is killed once");
    let end = [Effect::CloseListeners, Effect::CloseListeners, Effect::Finish(Outcome::GaveUp(GaveUp::NeverReady))];
    assert_eq!(rig.exits(A, false), end);
}

#[test]
fn a_worker_that_is_not_ready_in_time_is_replaced_if_another_one_was() {
    let mut rig = Rig::started(PLAN);
    rig.becomes_ready(B);
    assert_eq!(rig.pass(PLAN.start_timeout), [Effect::Kill(A, KillReason::StartTimeout)]);
    assert_eq!(rig.exits(A, false), []);
    assert_eq!(rig.pass(BACKOFF_MIN), [Effect::Start(Slot(0))]);
}

#[test]
fn a_worker_that_closes_its_channel_before_it_is_ready_counts_as_never_ready() {
    let mut rig = Rig::started(ONE_WORKER);
    assert_eq!(rig.hear(Event::Disconnected(A)), []);
    assert_eq!(rig.pass(PLAN.start_timeout), [Effect::Kill(A, KillReason::StartTimeout)]);
    rig.exits(A, false);
    assert_eq!(rig.finished, Some(Outcome::GaveUp(GaveUp::NeverReady)));
}

// Replacing.

#[test]
fn a_settled_worker_is_replaced_at_once_and_a_short_lived_one_after_a_pause() {
    let mut rig = Rig::ready(PLAN);
    rig.pass(SETTLED - TICK);
    assert_eq!(rig.exits(A, true), []);
    assert_eq!(rig.due_in(), Some(BACKOFF_MIN));
    assert_eq!(rig.supervisor.starts_at(Slot(0)), Some(rig.now + BACKOFF_MIN));
    rig.pass(TICK);
    assert_eq!(rig.exits(B, true), [Effect::Start(Slot(1))]);
}

#[test]
fn workers_that_die_soon_after_they_were_ready_come_back_ever_later_up_to_a_second() {
    let mut rig = Rig::ready(ONE_WORKER);
    let mut pauses = Vec::new();
    for _ in 0..6 {
        rig.exits(WorkerId(rig.last_id), false);
        pauses.push(rig.due_in().unwrap().as_millis());
        rig.pass_to_deadline();
        rig.start_succeeds(0);
        rig.becomes_ready(WorkerId(rig.last_id));
    }
    assert_eq!(pauses, [100, 200, 400, 800, 1000, 1000]);
    rig.pass(SETTLED);
    assert_eq!(rig.exits(WorkerId(rig.last_id), false), [Effect::Start(Slot(0))]);
}

#[test]
fn on_failure_replaces_failures_only() {
    let plan = Plan { respawn: Respawn::OnFailure, ..PLAN };
    let mut rig = Rig::ready(plan);
    rig.pass(SETTLED);
    assert_eq!(rig.exits(A, true), []);
    assert_eq!(rig.exits(B, false), [Effect::Start(Slot(1))]);
    assert_eq!(rig.supervisor.starts_at(Slot(0)), None);
}

#[test]
fn without_respawn_croupier_ends_with_the_last_worker() {
    for (a_succeeds, b_succeeds) in [(true, true), (false, true), (true, false)] {
        let mut rig = Rig::ready(Plan { respawn: Respawn::Never, ..PLAN });
        rig.pass(SETTLED);
        assert_eq!(rig.exits(A, a_succeeds), []);
        rig.exits(B, b_succeeds);
        assert_eq!(rig.finished, Some(Outcome::WorkersEnded { all_succeeded: a_succeeds && b_succeeds }));
    }
}

#[test]
fn workers_that_are_never_ready_come_back_ever_later_up_to_30_s() {
    let mut rig = Rig::ready(PLAN);
    rig.pass(SETTLED);
    let mut worker = A;
    rig.exits(worker, false);
    let mut pauses = Vec::new();
    for _ in 0..12 {
        rig.start_succeeds(0);
        worker = WorkerId(rig.last_id);
        assert_eq!(rig.exits(worker, false), []);
        pauses.push(rig.due_in().unwrap().as_millis());
        assert_eq!(rig.pass_to_deadline(), [Effect::Start(Slot(0))]);
    }
    assert_eq!(pauses, [100, 200, 400, 800, 1600, 3200, 6400, 12800, 25600, 30000, 30000, 30000]);
    rig.start_succeeds(0);
    worker = WorkerId(rig.last_id);
    rig.becomes_ready(worker);
    rig.exits(worker, false);
    assert_eq!(rig.due_in(), Some(BACKOFF_MIN), "being ready once starts the series again");
}

#[test]
fn a_burst_of_failures_gives_up_while_nobody_is_ready() {
    let mut rig = Rig::started(ONE_WORKER);
    for failure in 1..=PLAN.burst_max {
        assert_eq!(rig.finished, None, "after {} failures", failure - 1);
        rig.exits(WorkerId(rig.last_id), false);
        if rig.finished.is_none() {
            rig.pass_to_deadline();
            rig.start_succeeds(0);
        }
    }
    assert_eq!(rig.finished, Some(Outcome::GaveUp(GaveUp::Burst)));
}

#[test]
fn failures_that_are_far_apart_are_no_burst() {
    let mut rig = Rig::started(ONE_WORKER);
    for _ in 0..PLAN.burst_max * 3 {
        rig.pass(PLAN.burst_window / 4);
        rig.exits(WorkerId(rig.last_id), false);
        rig.pass_to_deadline();
        rig.start_succeeds(0);
    }
    assert_eq!(rig.finished, None);
}

#[test]
fn a_worker_that_lingers_after_it_closed_its_channel_is_killed_and_replaced() {
    let mut rig = Rig::ready(PLAN);
    assert_eq!(rig.hear(Event::Disconnected(A)), []);
    assert_eq!(rig.due_in(), Some(PLAN.shutdown_timeout));
    assert_eq!(rig.pass_to_deadline(), [Effect::Kill(A, KillReason::Lingering)]);
    assert_eq!(rig.exits(A, false), [Effect::Start(Slot(0))]);
}

// Stopping.

#[test]
fn a_graceful_stop_ends_listeners_then_workers_then_itself() {
    let delay = Duration::from_secs(5);
    let mut rig = Rig::ready(Plan { shutdown_delay: delay, ..PLAN });
    rig.pass(SETTLED);
    assert_eq!(rig.stop(Stop::Graceful), []);
    assert_eq!(rig.exits(A, false), [Effect::Start(Slot(0))], "as if nothing had happened");
    rig.start_succeeds(0);
    assert_eq!(rig.pass(delay), [Effect::EndListeners]);
    let workers = [Effect::Disconnect(WorkerId(3)), Effect::Disconnect(B)];
    assert_eq!(rig.hear(Event::ListenersEnded), workers);
    assert_eq!(rig.hear(Event::Disconnected(B)), []);
    assert_eq!(rig.exits(B, true), []);
    assert_eq!(rig.exits(WorkerId(3), true), [Effect::CloseListeners, Effect::Finish(Outcome::Stopped)]);
}

#[test]
fn workers_that_do_not_finish_are_terminated_then_killed() {
    for listeners_end in [true, false] {
        let mut rig = Rig::ready(PLAN);
        assert_eq!(rig.stop(Stop::Graceful), [Effect::EndListeners]);
        if listeners_end {
            rig.hear(Event::ListenersEnded);
        }
        rig.exits(A, true);
        assert_eq!(rig.due_in(), Some(PLAN.shutdown_timeout));
        assert_eq!(rig.pass_to_deadline(), [Effect::CloseListeners, Effect::Terminate(B)]);
        assert_eq!(rig.due_in(), Some(PLAN.kill_delay));
        assert_eq!(rig.pass_to_deadline(), [Effect::Kill(B, KillReason::KillDelay)]);
        assert_eq!(rig.due_in(), None);
        rig.exits(B, false);
        assert_eq!(rig.finished, Some(Outcome::StoppedByForce));
    }
}

#[test]
fn a_fast_stop_terminates_at_once_and_is_clean_if_that_is_enough() {
    for patient in [true, false] {
        let mut rig = Rig::ready(ONE_WORKER);
        if patient {
            rig.stop(Stop::Graceful);
        }
        assert_eq!(rig.stop(Stop::Fast), [Effect::CloseListeners, Effect::Terminate(A)]);
        assert_eq!(rig.pass(PLAN.kill_delay - TICK), []);
        rig.exits(A, false);
        assert_eq!(rig.finished, Some(Outcome::Stopped));
    }
}

#[test]
fn a_worker_whose_start_was_on_its_way_is_ended_too() {
    let mut rig = Rig::new(ONE_WORKER);
    rig.hear(Event::Begun);
    rig.stop(Stop::Fast);
    assert_eq!(rig.pass(PLAN.kill_delay), []);
    assert_eq!(rig.start_succeeds(0), [Effect::Kill(A, KillReason::KillDelay)], "SIGTERM had its time already");
    rig.exits(A, false);
    assert_eq!(rig.finished, Some(Outcome::StoppedByForce));
}

#[test]
fn stopping_twice_early_or_late_is_harmless() {
    let mut rig = Rig::ready(ONE_WORKER);
    rig.stop(Stop::Graceful);
    assert_eq!(rig.stop(Stop::Graceful), []);
    rig.stop(Stop::Fast);
    assert_eq!(rig.stop(Stop::Fast), []);
    assert_eq!(rig.stop(Stop::Graceful), []);
    rig.exits(A, true);
    assert!(rig.finished.is_some());
    assert_eq!(rig.stop(Stop::Fast), []);

    for stop in [Stop::Graceful, Stop::Fast] {
        let mut rig = Rig::new(PLAN);
        rig.hear(Event::Begun);
        rig.stop(stop);
        rig.start_fails(0, false);
        rig.start_fails(0, false);
        assert_eq!(rig.finished, Some(Outcome::Stopped), "{stop:?} before anyone was started");
    }
}

#[test]
fn news_of_strangers_is_harmless() {
    let mut rig = Rig::ready(PLAN);
    let ended = Ended { is_success: false, ready_since: None };
    for event in [Event::Ready(STRANGER), Event::Disconnected(STRANGER), Event::Exited(STRANGER, ended)] {
        assert_eq!(rig.hear(event), []);
        assert_eq!(rig.due_in(), None);
    }
    assert_eq!(rig.hear(Event::ListenersEnded), [], "nobody asked for that");
}

// Whatever happens.

/// What the world does next. Numbers choose among those who are there.
#[derive(Debug, Clone, Copy)]
enum Step {
    Pass(Duration),
    PassToDeadline,
    StartSucceeds(prop::sample::Index),
    StartFails(prop::sample::Index, bool),
    BecomesReady(prop::sample::Index),
    Disconnects(prop::sample::Index),
    Exits(prop::sample::Index, bool),
    Reload,
    Scale(u32),
    Fork,
    Recycle(prop::sample::Index),
    Leave(prop::sample::Index),
    Stop(Stop),
    ListenersEnd,
    Stranger(bool),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    use prop::sample::Index;
    let stop = prop_oneof![Just(Stop::Graceful), Just(Stop::Fast)];
    let step = prop_oneof![
        4 => (0u64..3000).prop_map(|ms| Step::Pass(Duration::from_millis(ms))),
        1 => (0u64..60).prop_map(|seconds| Step::Pass(Duration::from_secs(seconds))),
        8 => Just(Step::PassToDeadline),
        12 => any::<Index>().prop_map(Step::StartSucceeds),
        2 => (any::<Index>(), prop::bool::weighted(0.1)).prop_map(|(who, permanent)| Step::StartFails(who, permanent)),
        8 => any::<Index>().prop_map(Step::BecomesReady),
        2 => any::<Index>().prop_map(Step::Disconnects),
        6 => (any::<Index>(), any::<bool>()).prop_map(|(who, success)| Step::Exits(who, success)),
        3 => Just(Step::Reload),
        2 => (0u32..6).prop_map(Step::Scale),
        1 => Just(Step::Fork),
        2 => any::<Index>().prop_map(Step::Recycle),
        2 => any::<Index>().prop_map(Step::Leave),
        1 => stop.prop_map(Step::Stop),
        1 => Just(Step::ListenersEnd),
        1 => any::<bool>().prop_map(Step::Stranger),
    ];
    prop::collection::vec(step, 0..120)
}

fn plans() -> impl Strategy<Value = Plan> {
    let seconds = || prop_oneof![Just(ZERO), (1u64..40).prop_map(Duration::from_secs)];
    let respawn = prop_oneof![3 => Just(Respawn::Always), 1 => Just(Respawn::OnFailure), 1 => Just(Respawn::Never)];
    let counts = (0u32..5, respawn, 1u32..8, seconds(), any::<bool>());
    (counts, (seconds(), seconds(), seconds(), seconds())).prop_map(|(counts, times)| {
        let (worker_count, respawn, burst_max, burst_window, outlives_workers) = counts;
        let (start_timeout, shutdown_timeout, kill_delay, shutdown_delay) = times;
        let times = Plan { start_timeout, shutdown_timeout, kill_delay, shutdown_delay, ..PLAN };
        let reload_parallel = 1 + burst_max % 3;
        Plan { worker_count, respawn, outlives_workers, burst_max, burst_window, reload_parallel, ..times }
    })
}

impl Rig {
    fn take(&mut self, step: Step) {
        let workers: Vec<WorkerId> = self.living.keys().copied().collect();
        let starts = self.requested.len();
        match step {
            Step::Pass(duration) => drop(self.pass(duration)),
            Step::PassToDeadline => drop(self.pass_to_deadline()),
            Step::StartSucceeds(who) if starts > 0 => drop(self.start_succeeds(who.index(starts))),
            Step::StartFails(who, permanent) if starts > 0 => drop(self.start_fails(who.index(starts), permanent)),
            Step::BecomesReady(who) if !workers.is_empty() => drop(self.becomes_ready(*who.get(&workers))),
            Step::Disconnects(who) if !workers.is_empty() => drop(self.hear(Event::Disconnected(*who.get(&workers)))),
            Step::Exits(who, success) if !workers.is_empty() => drop(self.exits(*who.get(&workers), success)),
            Step::Reload => drop(self.hear(Event::ReloadRequested)),
            Step::Scale(count) => drop(self.hear(Event::ScaleRequested(count))),
            Step::Fork if self.supervisor.is_running() => drop(self.forks()),
            Step::Recycle(who) if !workers.is_empty() => drop(self.hear(Event::RecycleDue(*who.get(&workers)))),
            Step::Leave(who) if !workers.is_empty() => drop(self.leaves(*who.get(&workers))),
            Step::Stop(stop) => drop(self.stop(stop)),
            Step::ListenersEnd if self.listeners_are_ending => {
                self.listeners_have_ended = true;
                self.hear(Event::ListenersEnded);
            }
            Step::Stranger(is_ready) => {
                let ended = Ended { is_success: false, ready_since: is_ready.then_some(self.now) };
                self.hear(if is_ready { Event::Disconnected(STRANGER) } else { Event::Exited(STRANGER, ended) });
            }
            _ => {}
        }
    }

    /// Lets the world run until the end: starts succeed, listeners end or not, and nothing less than `force` makes a
    /// worker exit.
    fn run_to_the_end(&mut self, force: Force, listeners_end: bool) {
        for _ in 0..1000 {
            let obeying = self.ordered.iter().find(|(_, ordered)| **ordered >= force).map(|(worker, _)| *worker);
            if self.finished.is_some() {
                return;
            } else if let Some(worker) = obeying {
                self.exits(worker, true);
            } else if !self.requested.is_empty() {
                self.start_succeeds(0);
            } else if listeners_end && self.listeners_are_ending && !self.listeners_have_ended {
                self.listeners_have_ended = true;
                self.hear(Event::ListenersEnded);
            } else {
                self.pass_to_deadline();
            }
        }
        panic!("it never ends: {:?}", self.supervisor);
    }
}

proptest! {
    /// The checks are those of [`Rig::check_and_note`] and [`Rig::pass_to_deadline`].
    #[test]
    fn slots_are_never_shared_nobody_starts_during_a_stop_and_the_end_comes_once(plan in plans(), steps in steps()) {
        let mut rig = Rig { sitting_max: 2, ..Rig::new(plan) };
        rig.hear(Event::Begun);
        steps.into_iter().for_each(|step| rig.take(step));
    }

    /// The steps before the stop leave any state behind, also one in which a stop is under way already.
    #[test]
    fn after_a_stop_the_end_always_comes(
        plan in plans(), steps in steps(), fast: bool, listeners_end: bool,
        force in prop_oneof![Just(Force::Disconnect), Just(Force::Terminate), Just(Force::Kill)]
    ) {
        let mut rig = Rig { sitting_max: 2, ..Rig::new(plan) };
        rig.hear(Event::Begun);
        steps.into_iter().for_each(|step| rig.take(step));
        rig.stop(if fast { Stop::Fast } else { Stop::Graceful });
        rig.run_to_the_end(force, listeners_end);
        prop_assert!(!rig.supervisor.is_running());
    }
}
