//! Which workers there should be, and when croupier itself ends. Pure: events and the time in, effects out.
//!
//! ```text
//!            Stop(Graceful)          delay over            ListenersEnded
//!   Running ───────────────▶ Delaying ─────────▶ Ending ──────────────────▶ Draining
//!      │  │                      │                 │  shutdown-timeout          │ shutdown-timeout
//!      │  └ Stop(Fast) ──────────┴────────┬────────┴────────────────────────────┘
//!      │  └ giving up ────────────────────▼
//!      │                             Terminating ──── kill-delay ────▶ Killing
//!      └ nothing left to respawn ─────────┐
//!                                         ▼  (from every state: when the last worker has gone)
//!                                      Finished
//! ```

mod plan;
mod rollout;

use std::collections::VecDeque;
use std::time::Duration;

use crate::protocol::ids::{Slot, WorkerId};
use crate::protocol::time::Monotonic;
pub use plan::{Plan, Respawn};
use rollout::{Incoming, Leaver, Rollout, Stage};
pub use rollout::{ReloadEnd, Restart};
use serde::{Deserialize, Serialize};

/// The shortest and the longest pause before a worker that never became ready is started again; doubled each time.
pub const BACKOFF_MIN: Duration = Duration::from_millis(100);
/// See [`BACKOFF_MIN`].
pub const BACKOFF_MAX: Duration = Duration::from_secs(30);
/// A worker that was ready for at least this long is replaced at once, a shorter-lived one after [`BACKOFF_MIN`],
/// doubled each time, up to this again.
pub const SETTLED: Duration = Duration::from_secs(1);
/// How long a replacement must have been ready before the worker that serves is let go.
pub const SETTLING: Duration = Duration::from_millis(200);

/// How a worker came to its end, as far as the supervisor cares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ended {
    /// It exited with code 0.
    pub is_success: bool,
    /// Since when it had been ready, if it ever was.
    pub ready_since: Option<Monotonic>,
}

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// Croupier begins.
    Begun,
    /// A worker's process runs.
    Started(Slot, WorkerId),
    /// A worker could not be started. `permanent`: the command is not there or not executable.
    StartFailed {
        /// For which slot.
        slot: Slot,
        /// Trying again will not help.
        permanent: bool,
    },
    /// A worker listens.
    Ready(WorkerId),
    /// A worker has closed its control channel; its process may go on for a while.
    Disconnected(WorkerId),
    /// A worker's process has ended.
    Exited(WorkerId, Ended),
    /// Somebody wants every worker replaced.
    ReloadRequested,
    /// Somebody wants this many workers.
    ScaleRequested(u32),
    /// Somebody has had a worker started beside those that there should be, in a [free slot](Supervisor::free_slot).
    Forked(Slot, WorkerId),
    /// A worker has reached one of the limits after which it is to be replaced.
    RecycleDue(WorkerId),
    /// Somebody wants this worker to finish.
    DisconnectRequested(WorkerId),
    /// This worker wants to finish.
    LeaveRequested(WorkerId),
    /// Somebody wants croupier to end.
    StopRequested(Stop),
    /// The listeners are closed, and everything they had accepted is dealt.
    ListenersEnded,
    /// Time has passed.
    TimePassed,
}

/// How to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// Every client is served to the end.
    Graceful,
    /// At once.
    Fast,
}

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// Start a worker in this slot.
    Start(Slot),
    /// End the listeners without losing anybody in their backlogs; report `ListenersEnded`.
    EndListeners,
    /// Close the listeners at once.
    CloseListeners,
    /// A worker that listens gets its seat in the rotations.
    Seat(WorkerId),
    /// Tell a worker to finish, and to return its idle connections: others go on.
    Drain(WorkerId),
    /// Tell a worker to finish, and to end its idle connections: all of them finish.
    Disconnect(WorkerId),
    /// SIGTERM to a worker.
    Terminate(WorkerId),
    /// SIGKILL to a worker's process group.
    Kill(WorkerId, KillReason),
    /// A reload is over.
    ReloadEnded(ReloadEnd),
    /// Everything has ended: leave.
    Finish(Outcome),
}

/// Why a worker is killed, for the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KillReason {
    /// It was not ready in time.
    StartTimeout,
    /// It did not end in time after SIGTERM.
    KillDelay,
    /// It had closed its control channel and did not end.
    Lingering,
}

/// Why croupier ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// It was asked to, and every worker finished.
    Stopped,
    /// It was asked to, and workers had to be cut off.
    StoppedByForce,
    /// No worker is left and none is to be respawned.
    WorkersEnded {
        /// All of them exited with code 0.
        all_succeeded: bool,
    },
    /// Workers cannot be started.
    GaveUp(GaveUp),
}

/// Why workers cannot be started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum GaveUp {
    /// The command is not there or not executable.
    NoCommand,
    /// Too many ended before they were ready.
    Burst,
    /// One was not ready in time, and none ever was.
    NeverReady,
}

/// The supervisor.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Supervisor {
    plan: Plan,
    slots: Vec<Seat>,
    /// Workers that have been replaced, or scaled away, and have not gone yet.
    leaving: Vec<Leaver>,
    phase: Phase,
    /// How many reloads there have been.
    generation: u32,
    rollout: Option<Rollout>,
    /// Starts on their way whose place has gone.
    starts_without_place: u32,
    reload_is_queued: bool,
    recycle_queue: VecDeque<WorkerId>,
    /// When workers that were never ready ended, the latest ones.
    failures: VecDeque<Monotonic>,
    anyone_was_ready: bool,
    anyone_failed: bool,
    /// Becomes the outcome when the last worker has gone.
    outcome: Outcome,
    deadline: Option<Monotonic>,
}

/// One slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Seat {
    occupant: Occupant,
    /// Who is to take over from the occupant.
    incoming: Option<Incoming>,
    /// Why the last occupant is no more.
    #[serde(default)]
    vacated: Option<Restart>,
    /// Ends without having been ready, in a row.
    failures_in_row: u32,
    /// Ends within [`SETTLED`] of having become ready, in a row.
    short_lives_in_row: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum Occupant {
    /// Nobody, until then.
    Vacant { start_at: Monotonic },
    /// `Start` is on its way.
    Requested,
    /// A worker that is to be ready by then.
    Starting { worker: WorkerId, deadline: Monotonic },
    /// A worker that has become ready.
    Ready { worker: WorkerId },
    /// A worker that was killed for not becoming ready.
    TimedOut { worker: WorkerId },
    /// A worker that has closed its control channel, and is to end by then.
    Disconnected { worker: WorkerId, deadline: Monotonic },
    /// A worker that finishes because it wanted to. It keeps its slot: its exit decides whether somebody follows.
    Leaving { worker: WorkerId, stage: Stage },
    /// A worker that was killed for not finishing.
    Killed { worker: WorkerId },
    /// Nobody, and nobody will come.
    Done,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum Phase {
    Running,
    Delaying { until: Monotonic },
    Ending { deadline: Monotonic },
    Draining { deadline: Monotonic },
    Terminating { kill_at: Monotonic },
    Killing,
    Finished,
}

impl Supervisor {
    /// A supervisor that has done nothing yet; its first event is [`Event::Begun`].
    pub fn new(plan: Plan) -> Self {
        Self {
            plan,
            slots: vec![Seat::DONE; plan.worker_count as usize],
            leaving: Vec::new(),
            phase: Phase::Running,
            generation: 0,
            rollout: None,
            starts_without_place: 0,
            reload_is_queued: false,
            recycle_queue: VecDeque::new(),
            failures: VecDeque::new(),
            anyone_was_ready: false,
            anyone_failed: false,
            outcome: Outcome::Stopped,
            deadline: None,
        }
    }

    /// What follows from `event` at `now`.
    pub fn handle(&mut self, event: Event, now: Monotonic) -> Vec<Effect> {
        let mut effects = Vec::new();
        match event {
            Event::Begun => self.begin(now),
            Event::Started(slot, worker) => self.started(slot, worker, now, &mut effects),
            Event::StartFailed { slot, permanent } => self.start_failed(slot, permanent, now, &mut effects),
            Event::Ready(worker) => self.ready(worker, now, &mut effects),
            Event::Disconnected(worker) => self.disconnected(worker, now),
            Event::Exited(worker, ended) => self.exited(worker, ended, now, &mut effects),
            Event::ReloadRequested => self.reload_requested(now, &mut effects),
            Event::ScaleRequested(worker_count) => self.scale_requested(worker_count, now, &mut effects),
            Event::Forked(slot, worker) => self.forked(slot, worker, now, &mut effects),
            Event::RecycleDue(worker) => self.recycle_due(worker),
            Event::DisconnectRequested(worker) => self.disconnect_requested(worker, now, &mut effects),
            Event::LeaveRequested(worker) => self.leave_requested(worker, now, &mut effects),
            Event::StopRequested(stop) => self.stop_requested(stop, now, &mut effects),
            Event::ListenersEnded => self.listeners_ended(&mut effects),
            Event::TimePassed => {}
        }
        self.let_time_pass(now, &mut effects);
        self.finish_if_over(&mut effects);
        self.deadline = self.next_deadline();
        effects
    }

    /// When [`Event::TimePassed`] is due, unless something else happens first.
    pub fn deadline(&self) -> Option<Monotonic> {
        self.deadline
    }

    fn next_deadline(&self) -> Option<Monotonic> {
        let of_phase = match self.phase {
            Phase::Running | Phase::Killing | Phase::Finished => None,
            Phase::Delaying { until } => Some(until),
            Phase::Ending { deadline } | Phase::Draining { deadline } => Some(deadline),
            Phase::Terminating { kill_at } => Some(kill_at),
        };
        let of_slots = self.slots.iter().filter_map(|seat| match seat.occupant {
            Occupant::Vacant { start_at } if self.is_running() => Some(start_at),
            Occupant::Starting { deadline, .. } | Occupant::Disconnected { deadline, .. } if self.is_running() => {
                Some(deadline)
            }
            Occupant::Leaving { stage, .. } if self.is_running() => stage.deadline(),
            _ => None,
        });
        let of_rollout = self.rollout_deadlines().filter(|_| self.is_running());
        of_slots.chain(of_phase).chain(of_rollout).min()
    }

    /// Goes on by another plan, with as many workers as there are.
    pub fn set_plan(&mut self, plan: Plan) {
        self.plan = Plan { worker_count: self.plan.worker_count, ..plan };
    }

    /// How many reloads there have been: the generation of workers that are started now.
    pub fn generation(&self) -> u32 {
        self.generation
    }

    /// Whether the seats of a slot are this worker's.
    pub fn holds_slot(&self, worker: WorkerId) -> bool {
        self.slots.iter().any(|seat| seat.occupant == Occupant::Ready { worker })
    }

    /// Whether it is about to get a slot.
    pub fn expects(&self, worker: WorkerId) -> bool {
        self.slots.iter().any(|seat| seat.is_to_get(worker))
    }

    /// How many workers there should be.
    pub fn worker_count(&self) -> u32 {
        self.plan.worker_count
    }

    /// When the next worker of `slot` will be started, if nobody is there.
    pub fn starts_at(&self, slot: Slot) -> Option<Monotonic> {
        match self.slots.get(slot.0 as usize)?.occupant {
            Occupant::Vacant { start_at } if self.is_running() => Some(start_at),
            _ => None,
        }
    }

    /// Whether a worker is on its way that has not listened yet.
    pub fn awaits_anyone(&self) -> bool {
        let is_on_its_way = |seat: &Seat| match seat.occupant {
            Occupant::Vacant { .. } | Occupant::Requested | Occupant::Starting { .. } => true,
            Occupant::TimedOut { .. } | Occupant::Disconnected { .. } | Occupant::Killed { .. } => true,
            Occupant::Leaving { .. } => true,
            Occupant::Ready { .. } | Occupant::Done => seat.incoming.is_some(),
        };
        self.is_running() && self.slots.iter().any(is_on_its_way)
    }

    /// No stop is under way (or it has not begun to show yet).
    pub fn is_running(&self) -> bool {
        matches!(self.phase, Phase::Running | Phase::Delaying { .. })
    }

    /// A stop was asked for, even if it has not begun to show yet.
    pub fn is_stopping(&self) -> bool {
        self.phase != Phase::Running
    }

    fn begin(&mut self, now: Monotonic) {
        for seat in &mut self.slots {
            seat.occupant = Occupant::Vacant { start_at: now };
        }
    }

    fn started(&mut self, slot: Slot, worker: WorkerId, now: Monotonic, effects: &mut Vec<Effect>) {
        let deadline = now + self.plan.start_timeout;
        let is_running = self.is_running();
        match self.slots.get_mut(slot.0 as usize) {
            Some(seat) if seat.occupant == Occupant::Requested => {
                seat.occupant = Occupant::Starting { worker, deadline };
            }
            Some(seat) if seat.incoming == Some(Incoming::Requested) => {
                seat.incoming = Some(Incoming::Starting { worker, deadline });
            }
            _ => {
                self.starts_without_place = self.starts_without_place.saturating_sub(1);
                if is_running {
                    return self.turn_away(worker, now, effects);
                }
                self.leaving.push(Leaver { worker, stage: Stage::Killed });
            }
        }
        match self.phase {
            Phase::Running | Phase::Delaying { .. } => {}
            Phase::Ending { .. } | Phase::Draining { .. } | Phase::Terminating { .. } => {
                effects.push(Effect::Terminate(worker));
            }
            // The time for SIGTERM is over, and no deadline is left that would end it.
            Phase::Killing | Phase::Finished => self.cut_off(worker, effects),
        }
    }

    fn start_failed(&mut self, slot: Slot, permanent: bool, now: Monotonic, effects: &mut Vec<Effect>) {
        match self.slots.get_mut(slot.0 as usize) {
            Some(seat) if seat.occupant == Occupant::Requested => seat.occupant = Occupant::Vacant { start_at: now },
            Some(seat) if seat.incoming == Some(Incoming::Requested) => {
                seat.incoming = None;
                return self.note_failure_in(slot.0 as usize, now, effects);
            }
            _ => {
                self.starts_without_place = self.starts_without_place.saturating_sub(1);
                return;
            }
        }
        if !self.is_running() {
            return;
        }
        self.note_failure_in(slot.0 as usize, now, effects);
        if permanent && !self.anyone_was_ready {
            self.give_up(GaveUp::NoCommand, now, effects);
        } else {
            self.failed_to_start(slot.0 as usize, now, effects);
        }
    }

    fn ready(&mut self, worker: WorkerId, now: Monotonic, effects: &mut Vec<Effect>) {
        self.anyone_was_ready = true;
        let Some(slot) = self.slots.iter().position(|seat| seat.is_starting(worker)) else { return };
        let seat = &mut self.slots[slot];
        if seat.occupant.worker() == Some(worker) {
            seat.occupant = Occupant::Ready { worker };
            seat.failures_in_row = 0;
            let will_be_replaced = seat.incoming.is_some();
            if self.is_running() {
                self.drain_deferred(now, effects);
                // One that will be replaced all the same does not end the replacing.
                if !will_be_replaced {
                    self.note_ready_in(slot, now, effects);
                }
            }
        } else if matches!(seat.occupant, Occupant::Ready { .. }) {
            seat.incoming = Some(Incoming::Settling { worker, until: now + SETTLING });
        } else if self.is_running() {
            self.take_over(slot, worker, now, effects);
        }
    }

    fn disconnected(&mut self, worker: WorkerId, now: Monotonic) {
        let deadline = now + self.plan.shutdown_timeout;
        // One that was not ready yet never will be: the start timeout ends it, and counts it among those.
        if let Some(slot) = self.slot_of(worker)
            && matches!(self.slots[slot].occupant, Occupant::Ready { .. })
        {
            self.slots[slot].occupant = Occupant::Disconnected { worker, deadline };
        }
        self.will_not_take_over(worker, now);
    }

    fn exited(&mut self, worker: WorkerId, ended: Ended, now: Monotonic, effects: &mut Vec<Effect>) {
        self.leaving.retain(|leaver| leaver.worker != worker);
        if let Some(slot) = self.slots.iter().position(|seat| seat.is_to_get(worker)) {
            self.slots[slot].incoming = None;
            return self.note_failure_in(slot, now, effects);
        }
        let Some(slot) = self.slot_of(worker) else { return };
        let timed_out = self.slots[slot].occupant == Occupant::TimedOut { worker };
        let was_starting = timed_out || matches!(self.slots[slot].occupant, Occupant::Starting { .. });
        self.slots[slot].occupant = Occupant::Done;
        self.slots[slot].vacated = Some(if ended.is_success { Restart::Exited } else { Restart::Failed });
        self.anyone_failed |= !ended.is_success;
        if self.slots[slot].incoming.is_some() {
            return self.promote(slot, now, effects);
        }
        if was_starting && self.is_running() {
            self.note_failure_in(slot, now, effects);
        }
        let replace = match self.plan.respawn {
            Respawn::Always => true,
            Respawn::OnFailure => !ended.is_success,
            Respawn::Never => false,
        };
        if !replace || !self.is_running() {
            return;
        }
        match ended.ready_since {
            Some(since) if now.since(since) >= SETTLED => {
                self.slots[slot].short_lives_in_row = 0;
                self.start_after(slot, Duration::ZERO, now);
            }
            Some(_) => {
                let seat = &mut self.slots[slot];
                let pause = BACKOFF_MIN.saturating_mul(1 << seat.short_lives_in_row.min(16)).min(SETTLED);
                seat.short_lives_in_row += 1;
                self.start_after(slot, pause, now);
            }
            None if timed_out && !self.anyone_was_ready => self.give_up(GaveUp::NeverReady, now, effects),
            None => self.failed_to_start(slot, now, effects),
        }
    }

    fn stop_requested(&mut self, stop: Stop, now: Monotonic, effects: &mut Vec<Effect>) {
        match (stop, self.phase) {
            (_, Phase::Terminating { .. } | Phase::Killing | Phase::Finished) => {}
            (Stop::Graceful, Phase::Running) => {
                self.phase = Phase::Delaying { until: now + self.plan.shutdown_delay };
            }
            (Stop::Graceful, Phase::Delaying { .. } | Phase::Ending { .. } | Phase::Draining { .. }) => {}
            (Stop::Fast, _) => self.terminate(now, effects),
        }
    }

    fn listeners_ended(&mut self, effects: &mut Vec<Effect>) {
        if let Phase::Ending { deadline } = self.phase {
            self.phase = Phase::Draining { deadline };
            effects.extend(self.workers().map(Effect::Disconnect));
        }
    }

    fn let_time_pass(&mut self, now: Monotonic, effects: &mut Vec<Effect>) {
        match self.phase {
            Phase::Delaying { until } if now >= until => {
                self.phase = Phase::Ending { deadline: now + self.plan.shutdown_timeout };
                effects.push(Effect::EndListeners);
            }
            Phase::Ending { deadline } | Phase::Draining { deadline } if now >= deadline => {
                self.outcome = Outcome::StoppedByForce;
                self.terminate(now, effects);
            }
            Phase::Terminating { kill_at } if now >= kill_at => {
                self.phase = Phase::Killing;
                for worker in self.workers().collect::<Vec<_>>() {
                    self.cut_off(worker, effects);
                }
            }
            _ => {}
        }
        if self.is_running() {
            self.fill_slots(now, effects);
            self.settle_incoming(now, effects);
            self.hurry_incoming(now, effects);
            self.hurry_leavers(now, effects);
            self.begin_next_rollout(now, effects);
        }
    }

    fn fill_slots(&mut self, now: Monotonic, effects: &mut Vec<Effect>) {
        for (slot, seat) in (0..).map(Slot).zip(&mut self.slots) {
            match seat.occupant {
                Occupant::Vacant { start_at } if now >= start_at => {
                    seat.occupant = Occupant::Requested;
                    effects.push(Effect::Start(slot));
                }
                Occupant::Starting { worker, deadline } if now >= deadline => {
                    seat.occupant = Occupant::TimedOut { worker };
                    effects.push(Effect::Kill(worker, KillReason::StartTimeout));
                }
                Occupant::Disconnected { worker, deadline } if now >= deadline => {
                    seat.occupant = Occupant::Killed { worker };
                    effects.push(Effect::Kill(worker, KillReason::Lingering));
                }
                _ => {}
            }
        }
    }

    /// A worker ended, or could not be started, before it was ready.
    fn failed_to_start(&mut self, slot: usize, now: Monotonic, effects: &mut Vec<Effect>) {
        self.failures.push_back(now);
        while self.failures.front().is_some_and(|first| now.since(*first) > self.plan.burst_window) {
            self.failures.pop_front();
        }
        // With somebody ready, giving up would turn a part of the service missing into all of it.
        if self.failures.len() >= self.plan.burst_max as usize && !self.anyone_is_ready() {
            return self.give_up(GaveUp::Burst, now, effects);
        }
        let seat = &mut self.slots[slot];
        let doubled = BACKOFF_MIN.saturating_mul(1 << seat.failures_in_row.min(16));
        seat.failures_in_row += 1;
        self.start_after(slot, doubled.min(BACKOFF_MAX), now);
    }

    fn start_after(&mut self, slot: usize, pause: Duration, now: Monotonic) {
        self.slots[slot].occupant = Occupant::Vacant { start_at: now + pause };
    }

    fn give_up(&mut self, why: GaveUp, now: Monotonic, effects: &mut Vec<Effect>) {
        if self.is_running() {
            self.outcome = Outcome::GaveUp(why);
            self.terminate(now, effects);
        }
    }

    fn terminate(&mut self, now: Monotonic, effects: &mut Vec<Effect>) {
        self.phase = Phase::Terminating { kill_at: now + self.plan.kill_delay };
        effects.push(Effect::CloseListeners);
        effects.extend(self.workers().map(Effect::Terminate));
    }

    fn cut_off(&mut self, worker: WorkerId, effects: &mut Vec<Effect>) {
        effects.push(Effect::Kill(worker, KillReason::KillDelay));
        if self.outcome == Outcome::Stopped {
            self.outcome = Outcome::StoppedByForce;
        }
    }

    fn finish_if_over(&mut self, effects: &mut Vec<Effect>) {
        let nobody_left = self.slots.iter().all(|seat| match seat.occupant {
            Occupant::Done => true,
            Occupant::Vacant { .. } => !self.is_running(),
            _ => false,
        });
        let nobody_left = nobody_left && self.leaving.is_empty() && self.starts_without_place == 0;
        if !nobody_left || self.phase == Phase::Finished || self.is_running() && self.plan.outlives_workers {
            return;
        }
        if self.is_running() && self.plan.worker_count > 0 {
            self.outcome = Outcome::WorkersEnded { all_succeeded: !self.anyone_failed };
        }
        self.phase = Phase::Finished;
        effects.extend([Effect::CloseListeners, Effect::Finish(self.outcome)]);
    }

    fn anyone_is_ready(&self) -> bool {
        self.slots.iter().any(|seat| matches!(seat.occupant, Occupant::Ready { .. }))
    }

    fn workers(&self) -> impl Iterator<Item = WorkerId> {
        let occupants = self.slots.iter().filter_map(|seat| seat.occupant.worker());
        let incoming = self.slots.iter().filter_map(|seat| seat.incoming.and_then(Incoming::worker));
        occupants.chain(incoming).chain(self.leaving.iter().map(|leaver| leaver.worker))
    }

    fn slot_of(&self, worker: WorkerId) -> Option<usize> {
        self.slots.iter().position(|seat| seat.occupant.worker() == Some(worker))
    }
}

impl Seat {
    /// Nobody is here, and nobody is on the way.
    const DONE: Seat =
        Seat { occupant: Occupant::Done, incoming: None, vacated: None, failures_in_row: 0, short_lives_in_row: 0 };

    /// `worker` is to be the next one here.
    fn is_to_get(&self, worker: WorkerId) -> bool {
        self.incoming.and_then(Incoming::worker) == Some(worker)
    }

    /// `worker` is being started here, as the first or as the next.
    fn is_starting(&self, worker: WorkerId) -> bool {
        let first = matches!(self.occupant, Occupant::Starting { worker: it, .. } if it == worker);
        let next = matches!(self.incoming, Some(Incoming::Starting { worker: it, .. }) if it == worker);
        first || next
    }
}

impl Occupant {
    fn worker(self) -> Option<WorkerId> {
        match self {
            Occupant::Starting { worker, .. }
            | Occupant::Ready { worker }
            | Occupant::TimedOut { worker }
            | Occupant::Disconnected { worker, .. }
            | Occupant::Leaving { worker, .. }
            | Occupant::Killed { worker } => Some(worker),
            Occupant::Vacant { .. } | Occupant::Requested | Occupant::Done => None,
        }
    }
}

#[cfg(test)]
mod tests;
