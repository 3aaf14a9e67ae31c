//! What comes up the deal channels, and what the primary takes back by itself: kicks, connections given back, lanes
//! that are paused, workers that do not take.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use super::Primary;
use super::effects::DUE_AGAIN;
use crate::primary::dialect::DialectKind;
use crate::primary::events;
use crate::primary::kept::Remains;
use crate::primary::lanes::{Lane, Phase};
use crate::primary::returned::{self, CameBack, Reason};
use crate::primary::room::Impossible;
use crate::primary::stall::LOOKS;
use crate::primary::supervisor::Event;
use crate::protocol::deal_channel::{FromBelow, PrimaryEnd};
use crate::protocol::ids::{LaneId, WorkerId};
use crate::protocol::record::{RECORD_BYTES, Record};
use crate::protocol::scoreboard::Pause;
use crate::protocol::time::Monotonic;
use crate::sys::fd_passing;
use crate::sys::signals::Signal;

impl Primary {
    /// Hears what a worker sent up a deal channel. A connection is received only if the listener may hold one more
    /// and there is a descriptor for it; otherwise it waits in the channel for the next look.
    pub(super) fn hear_from_below(&mut self, id: WorkerId, lane_id: LaneId) {
        let Some(lane) = self.workers.lane_mut(id, lane_id) else { return };
        let mut unheard = lane.primary_end().map_or(0, PrimaryEnd::unheard_bytes);
        while unheard > 0 {
            let Some(lane) = self.workers.lane_mut(id, lane_id) else { return };
            let Some(primary_end) = lane.primary_end() else { return };
            let may_hold_more = self.listeners[lane.listener].returned.may_hold_more();
            if unheard >= RECORD_BYTES && !(may_hold_more && fd_passing::has_spare_fd(primary_end.as_fd())) {
                if !self.unheard.contains(&(id, lane_id)) {
                    self.unheard.push((id, lane_id));
                }
                self.watch();
                break;
            }
            match primary_end.hear() {
                Some(FromBelow::Kick) => unheard -= 1,
                Some(FromBelow::GivenBack(record, connection)) => {
                    unheard -= RECORD_BYTES.min(unheard);
                    self.take_back(id, lane_id, record, connection);
                }
                Some(FromBelow::Lost(record)) => {
                    unheard -= RECORD_BYTES.min(unheard);
                    log::error!("connection={} given back and lost: no file descriptor left", record.sequence);
                }
                Some(FromBelow::Malformed) => return self.end_worker(id, "it sent garbage on a deal channel"),
                None => break,
            }
        }
        self.look_after_kick(id, lane_id);
    }

    /// A worker returned a live connection.
    fn take_back(&mut self, id: WorkerId, lane_id: LaneId, record: Record, connection: OwnedFd) {
        // First of all: whatever becomes of it, closing it must not sleep.
        let prepared = returned::prepare(&connection);
        let Some(lane) = self.workers.lane_mut(id, lane_id) else { return };
        // Without descriptors it takes and returns untouched; otherwise it has served, and others are to go on.
        let is_refused = lane.pause() == Pause::NoDescriptors;
        let listener = &mut self.listeners[lane.listener];
        if record.sequence == 0 || record.sequence > self.sequence {
            return self.end_worker(id, "it gave back a connection that it was never dealt");
        }
        if listener.is_closed() {
            return log::debug!("connection={} given back after the listener's end [closed]", record.sequence);
        }
        if let Err(why) = prepared {
            return log::debug!("connection={} given back by worker={id}: {why} [closed]", record.sequence);
        }
        let reason = if is_refused { Reason::Refused } else { Reason::GivenBack };
        listener.returned.hold(record, connection, CameBack { not_again: true, ..came_back(reason, id) });
    }

    /// A worker has a connection of which the primary has kept a copy.
    pub(super) fn took(&mut self, id: WorkerId, lane_id: LaneId, sequence: u64) {
        let lane = self.workers.lane_mut(id, lane_id);
        match lane.and_then(|lane| lane.acknowledged(sequence, Monotonic::now())) {
            Some(true) => self.look_for_room(id, lane_id),
            Some(false) => {}
            None => self.end_worker(id, "it acknowledged a connection that it was never dealt"),
        }
    }

    /// A worker does not want a connection of which the primary has kept a copy, or has lost its descriptor. It goes to
    /// somebody else; this one is tried again a little later, for nobody says when it wants some again.
    pub(super) fn refused(&mut self, id: WorkerId, lane_id: LaneId, sequence: u64) {
        let (lane, now) = (self.workers.lane_mut(id, lane_id), Monotonic::now());
        let Some((lane, (record, connection))) = lane.and_then(|lane| lane.refused(sequence, now).map(|it| (lane, it)))
        else {
            return self.end_worker(id, "it refused a connection that it was never dealt");
        };
        self.next_try = self.next_try.into_iter().chain(lane.patience.again_at()).min();
        let listener = &mut self.listeners[lane.listener];
        if listener.is_closed() {
            return log::debug!("connection={sequence} refused by worker={id} after the listener's end [closed]");
        }
        listener.returned.hold(record, connection, came_back(Reason::Refused, id));
        self.look_for_room(id, lane_id);
    }

    /// Those that have refused connections, and whose time to be asked again has come, get one.
    pub(super) fn try_again(&mut self, now: Monotonic) {
        self.next_try = None;
        for (id, lane_id) in self.lanes_in_use() {
            let Some(lane) = self.workers.lane_mut(id, lane_id) else { continue };
            let has_answered = lane.untaken() == 0;
            let is_its_time = lane.patience.is_over(has_answered, now);
            self.next_try = self.next_try.into_iter().chain(lane.patience.again_at()).min();
            if is_its_time {
                self.look_for_room(id, lane_id);
            }
        }
    }

    /// What a worker that is dead, or has closed its channel, had not acknowledged. Others get what it has not touched.
    pub(super) fn bring_back_kept(&mut self, id: WorkerId, lane_id: LaneId) {
        let Some(lane) = self.workers.lane_mut(id, lane_id) else { return };
        let Remains { untouched, begun } = lane.take_remains();
        for record in begun {
            log::info!(
                "connection={} was begun by worker={id} and not acknowledged [it ends with it]",
                record.sequence
            );
        }
        let listener = &mut self.listeners[lane.listener];
        if !listener.is_closed() {
            let hold = |(record, connection)| listener.returned.hold(record, connection, came_back(Reason::Died, id));
            untouched.into_iter().for_each(hold);
        }
    }

    /// A connection could not be sent to a worker. One that can be sent nothing and lives has shut its deal channel;
    /// where there is none it has closed all that it has, and says so.
    pub(super) fn cannot_deal(&mut self, id: WorkerId, error: &io::Error) {
        match self.workers.get(id).map(|worker| worker.dialect.kind()) {
            Some(DialectKind::Native) => self.end_worker(id, &format!("its deal channel is shut: {error}")),
            Some(DialectKind::Node) => {
                self.hear_last_words(id);
                self.disconnected(id);
            }
            None => {}
        }
    }

    /// A kick says: look. There is room again, or a pause has begun or ended, or the worker is awake again.
    fn look_after_kick(&mut self, id: WorkerId, lane_id: LaneId) {
        let Some(worker) = self.workers.get_mut(id) else { return };
        let slot = worker.slot.0 as usize;
        let Some(lane) = worker.lane_mut(lane_id) else { return };
        if lane.has_answered() {
            lane.stall.answered();
            let seats = &mut self.listeners[lane.listener];
            if lane.phase() == Phase::Listening && seats.is_vacant(slot) && self.supervisor.holds_slot(id) {
                seats.seat(slot, id, lane_id);
                log::info!("worker={id} takes again");
            }
        }
        if lane.pause() != Pause::None && !lane.stall.is_probed() {
            self.reclaim(id, lane_id, Reason::Refused);
            self.watch();
        }
        self.look_for_room(id, lane_id);
    }

    pub(super) fn look_for_room(&mut self, id: WorkerId, lane_id: LaneId) {
        let Some(worker) = self.workers.get_mut(id) else { return };
        let slot = worker.slot.0 as usize;
        let Some(lane) = worker.lane_mut(lane_id) else { return };
        let listener = &mut self.listeners[lane.listener];
        if !listener.is_seated(slot, id, lane_id) {
            return;
        }
        match lane.look_or_ask_for_kick(Monotonic::now()) {
            Ok(has_room) => listener.rotation.set_room(slot, has_room),
            Err(impossible) => self.distrust(id, impossible),
        }
    }

    /// Takes everything back that the worker has not taken. Returns how much that was.
    fn reclaim(&mut self, id: WorkerId, lane_id: LaneId, reason: Reason) -> usize {
        let Some(lane) = self.workers.lane_mut(id, lane_id) else { return 0 };
        let listener = &mut self.listeners[lane.listener];
        let mut count = 0;
        while listener.returned.may_hold_more()
            && let Some((record, connection)) = lane.reclaim_one()
        {
            listener.returned.hold(record, connection, came_back(reason, id));
            count += 1;
        }
        if count > 0
            && let Some(worker) = self.workers.get(id)
        {
            let address = listener.address().to_string();
            let reclaimed = || events::Event::Reclaimed { worker: id, address, count: count as u64 };
            self.subscribers.tell_of(worker.who(), reclaimed);
        }
        count
    }

    /// Something is under way that needs looks: connections are untaken, a probe is unanswered, a lane has no
    /// descriptors.
    pub(super) fn watch(&mut self) {
        let every = self.look_every();
        self.next_look.get_or_insert_with(|| Monotonic::now() + every);
    }

    fn look_every(&self) -> Duration {
        self.settings.stall_after / LOOKS
    }

    /// One round of looks at who takes and who does not.
    pub(super) fn look_for_stalls(&mut self, now: Monotonic) {
        self.next_look = None;
        self.send_unsent();
        for (id, lane_id) in std::mem::take(&mut self.unheard) {
            self.hear_from_below(id, lane_id);
        }
        let mut stuck = Vec::new();
        let (mut awake, mut bad) = (Vec::new(), Vec::new());
        let mut go_on = false;
        let every = self.look_every();
        for (id, lane_id) in self.lanes_in_use() {
            let Some(worker) = self.workers.get_mut(id) else { continue };
            let slot = worker.slot.0 as usize;
            let Some(lane) = worker.lane_mut(lane_id) else { continue };
            match lane.look_for_stall(now, every) {
                Ok(_) if lane.has_answered() => awake.push((id, lane_id)),
                Ok(time) if time >= self.settings.stall_after => stuck.push((id, lane_id, time)),
                Ok(_) => {}
                Err(impossible) => bad.push((id, impossible)),
            }
            go_on |= !lane.is_idle() || lane.stall.is_probed();
            let listener = &mut self.listeners[lane.listener];
            let is_paused = lane.pause() == Pause::NoDescriptors && !lane.keeps_copies();
            if is_paused && listener.is_seated(slot, id, lane_id) && lane.is_idle() {
                // It resumes when it closes one; if it has none to close, somebody has to try.
                listener.rotation.set_room(slot, lane.has_room_but_for_a_pause(now));
                go_on = true;
            }
        }
        for (id, lane_id) in awake {
            self.look_after_kick(id, lane_id);
        }
        for (id, lane_id, time) in stuck {
            self.deal_with_stuck(id, lane_id, time);
        }
        for (id, impossible) in bad {
            self.distrust(id, impossible);
        }
        if go_on {
            self.watch();
        }
    }

    /// A worker's counts make no sense. Nothing more is dealt to it, and it is replaced; what it serves it may finish.
    pub(super) fn distrust(&mut self, id: WorkerId, impossible: Impossible) {
        let Some(worker) = self.workers.get_mut(id) else { return };
        let slot = worker.slot.0 as usize;
        let now = Monotonic::now();
        let is_news = worker.due_since.is_none_or(|since| now.since(since) >= DUE_AGAIN);
        if is_news {
            worker.due_since = Some(now);
            log::error!("worker={id} pid={} {impossible} [replacing it]", worker.process.pid());
        }
        for lane_id in worker.lane_ids() {
            if let Some(lane) = self.workers.lane_mut(id, lane_id) {
                self.listeners[lane.listener].unseat(slot, id, lane_id);
            }
            self.reclaim(id, lane_id, Reason::Untaken);
        }
        if is_news {
            self.decide(Event::DisconnectRequested(id));
        }
    }

    /// Lanes whose workers are to take: those through which they are dealt, and those that have ended while there is
    /// something that only they can take.
    fn lanes_in_use(&self) -> Vec<(WorkerId, LaneId)> {
        let of_worker = |id: WorkerId| move |lane: LaneId| (id, lane);
        let is_in_use = |lane: &Lane| match lane.phase() {
            Phase::Listening => lane.is_dealt(),
            Phase::Ended => lane.keeps_copies() && lane.untaken() > 0,
            Phase::Granted => false,
        };
        let workers = self.workers.iter();
        workers
            .flat_map(|worker| {
                let lanes = worker.lanes().filter(|(_, lane)| is_in_use(lane));
                lanes.map(|(lane, _)| lane).map(of_worker(worker.id)).collect::<Vec<_>>()
            })
            .collect()
    }

    /// A worker has taken nothing for longer than `stall_after`, although connections waited.
    fn deal_with_stuck(&mut self, id: WorkerId, lane_id: LaneId, time: Duration) {
        if self.settings.hang_timeout.is_some_and(|timeout| time >= timeout) {
            return self.kill_hung(id, time);
        }
        let Some(lane) = self.workers.lane_mut(id, lane_id) else { return };
        // As long as it lives nothing can be taken out of its hands.
        if lane.keeps_copies() {
            return;
        }
        // The first time not everything may have found a place in the primary.
        let is_done = lane.stall.is_probed() && lane.is_idle();
        // When all are equally busy, moving connections helps nobody.
        if is_done || !self.anyone_is_idle(id, lane_id) {
            return;
        }
        let count = self.reclaim(id, lane_id, Reason::Reclaimed);
        let Some(worker) = self.workers.get_mut(id) else { return };
        let (slot, pid) = (worker.slot.0 as usize, worker.process.pid());
        let Some(lane) = worker.lane_mut(lane_id) else { return };
        let is_news = !lane.stall.is_probed() || count > 0;
        lane.stall.probed();
        self.listeners[lane.listener].unseat(slot, id, lane_id);
        match lane.primary_end().map_or(Ok(()), PrimaryEnd::probe) {
            Ok(()) if is_news => log::warn!(
                "worker={id} pid={pid} has taken nothing for {} ms, connections={count} reclaimed \
                 [skipped until it takes again]",
                time.as_millis()
            ),
            // Its own messages fill the channel: it is awake when it has taken them.
            Err(error) if is_news => log::warn!("worker={id} pid={pid} cannot be probed: {error}"),
            Ok(()) | Err(_) => {}
        }
    }

    /// Whether another worker on the same listener has nothing untaken, and room.
    fn anyone_is_idle(&mut self, id: WorkerId, lane_id: LaneId) -> bool {
        let Some(index) = self.workers.lane_mut(id, lane_id).map(|lane| lane.listener) else { return false };
        let seats: Vec<_> = self.listeners[index].seats.iter().flatten().copied().collect();
        seats.into_iter().filter(|(other, _)| *other != id).any(|(other, lane)| {
            let lane = self.workers.lane_mut(other, lane);
            lane.is_some_and(|lane| lane.is_idle() && lane.has_room_at_a_look(Monotonic::now()))
        })
    }

    fn kill_hung(&mut self, id: WorkerId, time: Duration) {
        let Some(worker) = self.workers.get(id) else { return };
        let pid = worker.process.pid();
        log::error!("worker={id} pid={pid} has taken nothing for {time:?} (--hang-timeout) [SIGKILL to its group]");
        worker.process.signal_group(Signal::SIGKILL);
    }
}

pub(super) fn came_back(reason: Reason, from: WorkerId) -> CameBack {
    CameBack { reason, at: Monotonic::now(), from, not_again: false, uncounted: None }
}
