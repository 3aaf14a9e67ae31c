//! Replacing workers that serve: reload, recycling, scaling. The new one is ready before the old one is told to finish.
//!
//! A rollout goes through slots, `reload_parallel` at a time. In each a second worker is started beside the first; when
//! it is ready the first one is let go. If one does not become ready the rollout stops there, and whoever was serving
//! goes on. Only one rollout is under way at a time.

use std::collections::VecDeque;

use super::{Effect, KillReason, Occupant, Phase, Seat, Supervisor};
use crate::protocol::ids::{Slot, WorkerId};
use crate::protocol::time::Monotonic;
use serde::{Deserialize, Serialize};

/// A rollout under way.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Rollout {
    purpose: Purpose,
    pending: VecDeque<Slot>,
    /// Where a replacement has been asked for and is not ready yet.
    starting: Vec<Slot>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum Purpose {
    Reload,
    Recycle,
}

/// Why a worker is started in the place of another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Restart {
    /// That one exited with code 0.
    Exited,
    /// It exited with another code, or by a signal, whoever sent it.
    Failed,
    /// It was to be replaced, by somebody's order or because its counts made no sense.
    Disconnected,
    /// Every worker is replaced.
    Reload,
    /// It had reached a limit.
    Recycle,
}

impl Restart {
    /// All of them.
    pub const ALL: [Restart; 5] =
        [Restart::Exited, Restart::Failed, Restart::Disconnected, Restart::Reload, Restart::Recycle];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Restart::Exited => "exited",
            Restart::Failed => "failed",
            Restart::Disconnected => "disconnected",
            Restart::Reload => "reload",
            Restart::Recycle => "recycle",
        }
    }
}

/// How a reload ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReloadEnd {
    /// Every worker is of the new generation.
    Done {
        /// That generation; the next reload may have begun in the same moment.
        generation: u32,
    },
    /// A new worker did not become ready: the old ones that are left go on.
    NotReady,
    /// The configuration that was to be read again makes no sense: nobody was replaced. Not the supervisor's affair.
    Misconfigured,
    /// Croupier is stopping.
    Stopping,
}

/// The worker that is to take over a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Incoming {
    /// `Start` is on its way.
    Requested,
    /// It is to be ready by then.
    Starting { worker: WorkerId, deadline: Monotonic },
    /// It is ready, and gets the slot if it lives until then: one that dies at once must not take over.
    Settling { worker: WorkerId, until: Monotonic },
    /// It was killed for not becoming ready.
    TimedOut { worker: WorkerId },
}

/// A worker that has lost its slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Leaver {
    pub(super) worker: WorkerId,
    pub(super) stage: Stage,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Stage {
    /// It serves until somebody else is ready.
    Deferred,
    /// It finishes; SIGTERM then.
    Draining { deadline: Monotonic },
    /// SIGKILL then.
    Terminated { deadline: Monotonic },
    /// Only its exit can follow.
    Killed,
}

impl Stage {
    pub(super) fn deadline(self) -> Option<Monotonic> {
        match self {
            Stage::Draining { deadline } | Stage::Terminated { deadline } => Some(deadline),
            Stage::Deferred | Stage::Killed => None,
        }
    }
}

impl Incoming {
    pub(super) fn worker(self) -> Option<WorkerId> {
        match self {
            Incoming::Requested => None,
            Incoming::Starting { worker, .. } | Incoming::Settling { worker, .. } | Incoming::TimedOut { worker } => {
                Some(worker)
            }
        }
    }

    /// What it is when the one that it was to replace has gone by itself.
    fn promoted(self) -> Occupant {
        match self {
            Incoming::Requested => Occupant::Requested,
            Incoming::Starting { worker, deadline } => Occupant::Starting { worker, deadline },
            Incoming::Settling { worker, .. } => Occupant::Ready { worker },
            Incoming::TimedOut { worker } => Occupant::TimedOut { worker },
        }
    }
}

impl Supervisor {
    pub(super) fn reload_requested(&mut self, now: Monotonic, effects: &mut Vec<Effect>) {
        if self.phase == Phase::Finished {
            // Nobody is left to tell.
        } else if !self.is_running() {
            effects.push(Effect::ReloadEnded(ReloadEnd::Stopping));
        } else if self.rollout.is_some() {
            self.reload_is_queued = true;
        } else {
            self.begin_reload(now, effects);
        }
    }

    fn begin_reload(&mut self, now: Monotonic, effects: &mut Vec<Effect>) {
        self.generation += 1;
        let pending = (0..self.slots.len() as u32).map(Slot).collect();
        self.rollout = Some(Rollout { purpose: Purpose::Reload, pending, starting: Vec::new() });
        self.advance_rollout(now, effects);
    }

    /// In whose place the worker is that is about to be started in `slot`; `None`: nobody's.
    pub fn restarts(&self, slot: Slot) -> Option<Restart> {
        let seat = self.slots.get(slot.0 as usize)?;
        match (seat.occupant, seat.incoming) {
            (Occupant::Requested, _) => seat.vacated,
            (_, Some(Incoming::Requested)) => self.rollout.as_ref().map(|rollout| match rollout.purpose {
                Purpose::Reload => Restart::Reload,
                Purpose::Recycle => Restart::Recycle,
            }),
            _ => None,
        }
    }

    /// A reload is under way: another one would only begin after it.
    pub fn is_reloading(&self) -> bool {
        self.rollout.as_ref().is_some_and(|rollout| rollout.purpose == Purpose::Reload)
    }

    /// A worker loses its slot and finishes. As in a reload, somebody follows it whatever the policy of respawning, and
    /// if nobody else is ready it serves until then.
    pub(super) fn disconnect_requested(&mut self, worker: WorkerId, now: Monotonic, effects: &mut Vec<Effect>) {
        let Some(slot) = self.slot_of(worker).filter(|_| self.is_running()) else { return };
        let before = std::mem::replace(&mut self.slots[slot].occupant, Occupant::Vacant { start_at: now });
        self.slots[slot].vacated = Some(Restart::Disconnected);
        self.promote(slot, now, effects);
        self.let_go(before, now, effects);
    }

    /// A worker finishes because it wants to. In a stop all of them do.
    pub(super) fn leave_requested(&mut self, worker: WorkerId, now: Monotonic, effects: &mut Vec<Effect>) {
        if !self.is_running() {
            return effects.push(Effect::Disconnect(worker));
        }
        effects.push(Effect::Drain(worker));
        let stage = Stage::Draining { deadline: now + self.plan.shutdown_timeout };
        if let Some(leaver) = self.leaving.iter_mut().find(|leaver| leaver.worker == worker) {
            if leaver.stage == Stage::Deferred {
                leaver.stage = stage;
            }
        } else if let Some(slot) = self.slot_of(worker) {
            let occupant = &mut self.slots[slot].occupant;
            if matches!(occupant, Occupant::Starting { .. } | Occupant::Ready { .. }) {
                *occupant = Occupant::Leaving { worker, stage };
            }
        } else if let Some(slot) = self.slots.iter().position(|seat| seat.is_to_get(worker)) {
            // A replacement that leaves is none: whoever was to go stays.
            self.slots[slot].incoming = None;
            self.leaving.push(Leaver { worker, stage });
            self.note_failure_in(slot, now, effects);
        }
    }

    /// A replacement that had listened listens no more: if it does not come back, the start timeout ends it.
    pub(super) fn will_not_take_over(&mut self, worker: WorkerId, now: Monotonic) {
        for seat in &mut self.slots {
            if matches!(seat.incoming, Some(Incoming::Settling { worker: it, .. }) if it == worker) {
                seat.incoming = Some(Incoming::Starting { worker, deadline: now + self.plan.start_timeout });
            }
        }
    }

    /// The one who was to be replaced has gone by itself: whoever is on the way takes the slot over as it is.
    pub(super) fn promote(&mut self, slot: usize, now: Monotonic, effects: &mut Vec<Effect>) {
        let Some(incoming) = self.slots[slot].incoming.take() else { return };
        self.slots[slot].occupant = incoming.promoted();
        if let Incoming::Settling { worker, .. } = incoming {
            effects.push(Effect::Seat(worker));
            self.drain_deferred(now, effects);
            self.note_ready_in(slot, now, effects);
        }
    }

    /// Replacements that have lived long enough take over.
    pub(super) fn settle_incoming(&mut self, now: Monotonic, effects: &mut Vec<Effect>) {
        for slot in 0..self.slots.len() {
            if let Some(Incoming::Settling { worker, until }) = self.slots[slot].incoming
                && now >= until
            {
                self.take_over(slot, worker, now, effects);
            }
        }
    }

    /// A replacement gets the slot, and the one who had it is let go.
    pub(super) fn take_over(&mut self, slot: usize, worker: WorkerId, now: Monotonic, effects: &mut Vec<Effect>) {
        let seat = Seat { occupant: Occupant::Ready { worker }, ..Seat::DONE };
        let before = std::mem::replace(&mut self.slots[slot], seat).occupant;
        effects.push(Effect::Seat(worker));
        self.let_go(before, now, effects);
        self.drain_deferred(now, effects);
        self.note_ready_in(slot, now, effects);
    }

    /// A worker is old, or large, or has served enough.
    pub(super) fn recycle_due(&mut self, worker: WorkerId) {
        if self.is_running() && !self.recycle_queue.contains(&worker) {
            self.recycle_queue.push_back(worker);
        }
    }

    /// What is queued begins when nothing else is under way.
    pub(super) fn begin_next_rollout(&mut self, now: Monotonic, effects: &mut Vec<Effect>) {
        if self.rollout.is_some() {
            return;
        }
        if std::mem::take(&mut self.reload_is_queued) {
            return self.begin_reload(now, effects);
        }
        while let Some(worker) = self.recycle_queue.pop_front() {
            if let Some(slot) = self.slot_of(worker) {
                let pending = VecDeque::from([Slot(slot as u32)]);
                self.rollout = Some(Rollout { purpose: Purpose::Recycle, pending, starting: Vec::new() });
                return self.advance_rollout(now, effects);
            }
        }
    }

    /// Whether what a worker listens on is dealt to: it has its slot or is on the way to it, or serves until somebody
    /// else is ready. One that was turned away may still say that it listens.
    pub fn may_serve(&self, worker: WorkerId) -> bool {
        let is_settling =
            |seat: &Seat| matches!(seat.incoming, Some(Incoming::Settling { worker: it, .. }) if it == worker);
        let is_on_its_way = |seat: &Seat| seat.is_starting(worker) || is_settling(seat);
        self.holds_slot(worker)
            || self.slots.iter().any(is_on_its_way)
            || self.leaving.contains(&Leaver { worker, stage: Stage::Deferred })
    }

    /// Asks for as many replacements as may be under way, and ends the rollout after the last one.
    pub(super) fn advance_rollout(&mut self, now: Monotonic, effects: &mut Vec<Effect>) {
        let is_running = self.is_running();
        let Some(rollout) = self.rollout.as_mut().filter(|_| is_running) else { return };
        while rollout.starting.len() < self.plan.reload_parallel.max(1) as usize
            && let Some(slot) = rollout.pending.pop_front()
        {
            // A vacant slot gets a worker of the new generation anyway, and a done one none at all.
            if let Some(seat) = self.slots.get_mut(slot.0 as usize)
                && seat.occupant.worker().is_some()
                && seat.incoming.is_none()
            {
                seat.incoming = Some(Incoming::Requested);
                rollout.starting.push(slot);
                effects.push(Effect::Start(slot));
            }
        }
        if rollout.starting.is_empty() && rollout.pending.is_empty() {
            self.end_rollout(ReloadEnd::Done { generation: self.generation }, now, effects);
        }
    }

    fn end_rollout(&mut self, end: ReloadEnd, now: Monotonic, effects: &mut Vec<Effect>) {
        let Some(rollout) = self.rollout.take() else { return };
        for slot in rollout.starting {
            self.call_off(slot.0 as usize, now, effects);
        }
        if rollout.purpose == Purpose::Reload {
            effects.push(Effect::ReloadEnded(end));
        }
    }

    /// The worker in `slot` is ready.
    pub(super) fn note_ready_in(&mut self, slot: usize, now: Monotonic, effects: &mut Vec<Effect>) {
        if let Some(rollout) = &mut self.rollout {
            rollout.starting.retain(|starting| starting.0 as usize != slot);
            self.advance_rollout(now, effects);
        }
    }

    /// Somebody is ready: those who served until then finish.
    pub(super) fn drain_deferred(&mut self, now: Monotonic, effects: &mut Vec<Effect>) {
        self.end_deferred(Effect::Drain, now, effects);
    }

    fn end_deferred(&mut self, end: fn(WorkerId) -> Effect, now: Monotonic, effects: &mut Vec<Effect>) {
        let deadline = now + self.plan.shutdown_timeout;
        for leaver in self.leaving.iter_mut().filter(|leaver| leaver.stage == Stage::Deferred) {
            leaver.stage = Stage::Draining { deadline };
            effects.push(end(leaver.worker));
        }
    }

    /// The worker that was being started in `slot` will not become ready.
    pub(super) fn note_failure_in(&mut self, slot: usize, now: Monotonic, effects: &mut Vec<Effect>) {
        let concerned = |rollout: &Rollout| rollout.starting.iter().any(|starting| starting.0 as usize == slot);
        if self.rollout.as_ref().is_some_and(concerned) {
            self.end_rollout(ReloadEnd::NotReady, now, effects);
        }
    }

    /// The replacement in `slot` is no longer wanted.
    fn call_off(&mut self, slot: usize, now: Monotonic, effects: &mut Vec<Effect>) {
        let incoming = self.slots.get_mut(slot).and_then(|seat| seat.incoming.take());
        match incoming {
            None => {}
            Some(Incoming::Requested) => self.starts_without_place += 1,
            Some(Incoming::Starting { worker, .. } | Incoming::Settling { worker, .. }) => {
                self.turn_away(worker, now, effects)
            }
            Some(Incoming::TimedOut { worker }) => self.leaving.push(Leaver { worker, stage: Stage::Killed }),
        }
    }

    /// Ends a worker that serves nobody.
    pub(super) fn turn_away(&mut self, worker: WorkerId, now: Monotonic, effects: &mut Vec<Effect>) {
        let deadline = now + self.plan.kill_delay;
        self.leaving.push(Leaver { worker, stage: Stage::Terminated { deadline } });
        effects.push(Effect::Terminate(worker));
    }

    /// The worker of a slot has been replaced, or its slot is no more.
    pub(super) fn let_go(&mut self, occupant: Occupant, now: Monotonic, effects: &mut Vec<Effect>) {
        let deadline = now + self.plan.shutdown_timeout;
        let (worker, stage) = match occupant {
            Occupant::Vacant { .. } | Occupant::Done => return,
            Occupant::Requested => {
                self.starts_without_place += 1;
                return;
            }
            // In a stop all of them are told to finish, and hurried, in the same way.
            Occupant::Starting { worker, .. } | Occupant::Ready { worker } if !self.is_running() => {
                (worker, Stage::Draining { deadline })
            }
            Occupant::Starting { worker, .. } => return self.turn_away(worker, now, effects),
            // Nobody is to go on with what it has.
            Occupant::Ready { worker } if self.plan.worker_count == 0 => {
                effects.push(Effect::Disconnect(worker));
                (worker, Stage::Draining { deadline })
            }
            Occupant::Ready { worker } if !self.anyone_is_ready() => (worker, Stage::Deferred),
            Occupant::Ready { worker } => {
                effects.push(Effect::Drain(worker));
                (worker, Stage::Draining { deadline })
            }
            Occupant::Disconnected { worker, deadline } => (worker, Stage::Draining { deadline }),
            Occupant::Leaving { worker, stage } => (worker, stage),
            Occupant::TimedOut { worker } | Occupant::Killed { worker } => (worker, Stage::Killed),
        };
        self.leaving.push(Leaver { worker, stage });
    }

    pub(super) fn scale_requested(&mut self, worker_count: u32, now: Monotonic, effects: &mut Vec<Effect>) {
        if !self.is_running() {
            return;
        }
        let wanted = worker_count.max(self.plan.worker_count_min()) as usize;
        self.plan.worker_count = wanted as u32;
        while self.slots.len() > wanted {
            self.call_off(self.slots.len() - 1, now, effects);
            if let Some(seat) = self.slots.pop() {
                self.let_go(seat.occupant, now, effects);
            }
        }
        if wanted == 0 {
            // Nobody will ever be ready.
            self.end_deferred(Effect::Disconnect, now, effects);
        }
        let vacant = Seat { occupant: Occupant::Vacant { start_at: now }, ..Seat::DONE };
        self.slots.resize(wanted, vacant);
        if let Some(rollout) = &mut self.rollout {
            rollout.starting.retain(|slot| (slot.0 as usize) < wanted);
            self.advance_rollout(now, effects);
        }
    }

    /// Where a worker beside those that there should be has its place: where nobody is and nobody will come, else in a
    /// slot more.
    pub fn free_slot(&self) -> Slot {
        let is_free = |seat: &Seat| seat.occupant == Occupant::Done && seat.incoming.is_none();
        Slot(self.slots.iter().position(is_free).unwrap_or(self.slots.len()) as u32)
    }

    /// From now on it is one of those that there should be.
    pub(super) fn forked(&mut self, slot: Slot, worker: WorkerId, now: Monotonic, effects: &mut Vec<Effect>) {
        let index = slot.0 as usize;
        self.slots.resize(self.slots.len().max(index + 1), Seat::DONE);
        self.plan.worker_count = self.slots.len() as u32;
        self.slots[index] = Seat { occupant: Occupant::Requested, ..Seat::DONE };
        self.started(slot, worker, now, effects);
    }

    /// Those who leave, with or without their slots, get the time that a shutdown would give them.
    pub(super) fn hurry_leavers(&mut self, now: Monotonic, effects: &mut Vec<Effect>) {
        let who_keeps_a_slot = self.slots.iter_mut().filter_map(|seat| match &mut seat.occupant {
            Occupant::Leaving { worker, stage } => Some((*worker, stage)),
            _ => None,
        });
        let all = self.leaving.iter_mut().map(|leaver| (leaver.worker, &mut leaver.stage)).chain(who_keeps_a_slot);
        for (worker, stage) in all {
            match *stage {
                Stage::Draining { deadline } if now >= deadline => {
                    *stage = Stage::Terminated { deadline: now + self.plan.kill_delay };
                    effects.push(Effect::Terminate(worker));
                }
                Stage::Terminated { deadline } if now >= deadline => {
                    *stage = Stage::Killed;
                    effects.push(Effect::Kill(worker, KillReason::KillDelay));
                }
                Stage::Deferred | Stage::Draining { .. } | Stage::Terminated { .. } | Stage::Killed => {}
            }
        }
    }

    /// Replacements that are not ready in time.
    pub(super) fn hurry_incoming(&mut self, now: Monotonic, effects: &mut Vec<Effect>) {
        for seat in &mut self.slots {
            if let Some(Incoming::Starting { worker, deadline }) = seat.incoming
                && now >= deadline
            {
                seat.incoming = Some(Incoming::TimedOut { worker });
                effects.push(Effect::Kill(worker, KillReason::StartTimeout));
            }
        }
    }

    pub(super) fn rollout_deadlines(&self) -> impl Iterator<Item = Monotonic> {
        let of_leavers = self.leaving.iter().filter_map(|leaver| leaver.stage.deadline());
        let of_incoming = self.slots.iter().filter_map(|seat| match seat.incoming {
            Some(Incoming::Starting { deadline, .. }) => Some(deadline),
            Some(Incoming::Settling { until, .. }) => Some(until),
            Some(Incoming::Requested | Incoming::TimedOut { .. }) | None => None,
        });
        of_leavers.chain(of_incoming)
    }
}
