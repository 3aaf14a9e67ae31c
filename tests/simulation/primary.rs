//! The primary: its glue as in `src/primary/dealing.rs`, `lanes.rs`, `returned.rs` and `event_loop/`, around the real
//! pure pieces. Change them together.
//!
//! What is serialized is what goes over an upgrade; what is skipped the next image has to find out by itself.

use std::collections::BTreeMap;
use std::time::Duration;

use croupier::primary::chooser::Chooser;
use croupier::primary::room::Account;
use croupier::primary::scheduler::Rotation;
use croupier::primary::stall::{LOOKS, Stall};
use croupier::primary::supervisor::{Effect, Ended, Event, Supervisor};
use croupier::protocol::handshake::NO_KICK;
use croupier::protocol::ids::{Slot, WorkerId};
use croupier::protocol::scoreboard::{KickAt, Pause};
use croupier::protocol::time::Monotonic;
use serde::{Deserialize, Serialize};

use super::kernel::{Board, Connection, Down, Process, Says, Up};
use super::{Fault, Simulation};

const DEALS_PER_TURN: usize = 64;
pub const DEAL_PAUSE: Duration = Duration::from_millis(10);
pub const STALL_AFTER: Duration = Duration::from_millis(100);
pub const LOOK_EVERY: Duration = Duration::from_millis(50);
pub const NOT_AGAIN_FOR: Duration = Duration::from_secs(1);

#[derive(Serialize, Deserialize)]
pub struct Primary {
    pub supervisor: Supervisor,
    pub workers: BTreeMap<WorkerId, Worker>,
    /// By channel.
    pub lanes: BTreeMap<usize, Lane>,
    pub seats: Vec<Option<(WorkerId, usize)>>,
    /// In the order of their accepts.
    pub held: Vec<Held>,
    pub remnants: Vec<Remnant>,
    last_id: u32,
    next_slot: usize,
    #[serde(skip)]
    pub rotation: Rotation,
    #[serde(skip)]
    pub chooser: Chooser,
    #[serde(skip)]
    pub rest_until: Option<Monotonic>,
    #[serde(skip)]
    unheard: Vec<usize>,
    #[serde(skip)]
    next_look: Option<Monotonic>,
}

#[derive(Debug, Serialize, Deserialize)]
pub struct Worker {
    slot: Slot,
    has_said_hello: bool,
    is_draining: bool,
    ready_since: Option<Monotonic>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Phase {
    Granted,
    Listening,
    Ended,
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Lane {
    pub worker: WorkerId,
    pub account: Account,
    pub stall: Stall,
    pub phase: Phase,
    /// Its queue has not been left to the listener.
    pub is_retained: bool,
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Held {
    pub connection: Connection,
    pub from: WorkerId,
    at: Monotonic,
    pub not_again: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Remnant {
    Untaken(usize),
    GivenBack(usize),
}

pub enum Next {
    Connection(Connection, Option<Held>),
    NotForThisWorker,
    Nothing,
}

/// A place, and a connection for it.
pub struct Match {
    pub slot: usize,
    /// Whose turn it was, if what there is must not go there.
    pub passed: Option<usize>,
    pub worker: WorkerId,
    pub channel: usize,
    pub connection: Connection,
    pub held: Option<Held>,
}

pub enum Matched {
    Match(Match),
    Vacant,
    Nothing,
}

impl Primary {
    pub fn new(supervisor: Supervisor, chooser: Chooser) -> Self {
        Self {
            supervisor,
            workers: BTreeMap::new(),
            lanes: BTreeMap::new(),
            seats: Vec::new(),
            held: Vec::new(),
            remnants: Vec::new(),
            last_id: 0,
            next_slot: 0,
            rotation: Rotation::new(),
            chooser,
            rest_until: None,
            unheard: Vec::new(),
            next_look: None,
        }
    }

    pub fn has_other_than(&self, worker: WorkerId) -> bool {
        self.seats.iter().flatten().any(|(other, _)| *other != worker)
    }

    fn is_seated(&self, slot: usize, channel: usize) -> bool {
        self.seats.get(slot).copied().flatten().is_some_and(|(_, seated)| seated == channel)
    }

    fn slot_of(&self, channel: usize) -> usize {
        self.workers[&self.lanes[&channel].worker].slot.0 as usize
    }

    fn hold(&mut self, held: Held) {
        let index = self.held.partition_point(|other| other.connection <= held.connection);
        self.held.insert(index, held);
    }
}

impl Lane {
    fn look_or_ask_for_kick(&mut self, board: &Board, now: Monotonic) -> bool {
        self.account.observe(board.counts(), now).unwrap();
        if board.pause != Pause::None {
            return false;
        }
        if self.account.has_room(now) {
            return true;
        }
        self.account.observe(board.ask_for_kick(self.account.kick_at(now)), now).unwrap();
        let has_room = self.account.has_room(now);
        if has_room {
            board.want_no_kick();
        }
        has_room
    }

    fn ask_for_kick_at_next_take(&mut self, board: &Board, now: Monotonic) -> bool {
        let at = self.account.taken() + 1;
        let counts = board.ask_for_kick(KickAt { taken: at, closed: NO_KICK });
        self.account.observe(counts, now).unwrap();
        counts.taken >= at
    }
}

impl Simulation {
    // Dealing.

    pub fn turn(&mut self) {
        self.let_time_pass();
        if self.primary.rest_until.is_some() {
            return;
        }
        let before = self.watch.deals.len();
        self.deal();
        if self.watch.deals.len() != before {
            self.watch_lanes();
        }
    }

    fn deal(&mut self) {
        for _ in 0..DEALS_PER_TURN {
            let heads = self.heads();
            let is_rotation = self.primary.chooser.is_rotation();
            let matched = if is_rotation { self.match_in_turn() } else { self.match_by_policy() };
            let Match { slot, passed, worker, channel, connection, held } = match matched {
                Matched::Match(it) => it,
                Matched::Vacant => continue,
                Matched::Nothing => return,
            };
            let never = Held { connection, from: worker, at: self.now, not_again: false };
            let has_room = if std::mem::take(&mut self.kernel.is_exhausted) {
                self.primary.hold(held.unwrap_or(never));
                self.primary.rest_until = Some(self.now + DEAL_PAUSE);
                return;
            } else if !self.kernel.has_room_below(channel) {
                self.primary.hold(held.unwrap_or(never));
                self.with_lane_and_board(channel, Lane::ask_for_kick_at_next_take)
            } else {
                self.check_deal(worker, channel, connection, &heads);
                if is_rotation {
                    passed.into_iter().chain([slot]).for_each(|slot| self.watch.dealt(slot));
                } else {
                    self.watch.deals.push(slot);
                }
                self.watch.givers.remove(&connection);
                self.kernel.channels[channel].down.push_back(Down::Connection(connection));
                self.primary.rotation.advance(slot);
                let lane = self.primary.lanes.get_mut(&channel).expect("seated");
                lane.account.count_dealt(self.now);
                lane.account.has_room_without_a_look() || self.look(channel)
            };
            if !has_room {
                self.set_room(slot, false);
            }
        }
    }

    fn match_in_turn(&mut self) -> Matched {
        let Some(mut slot) = self.primary.rotation.pick() else { return Matched::Nothing };
        let Some((mut worker, mut channel)) = self.seat(slot) else { return Matched::Vacant };
        let mut passed = None;
        let mut next = self.next_for(worker);
        if let Next::NotForThisWorker = next {
            let Some(other) = self.primary.rotation.pick_other(slot) else { return Matched::Nothing };
            let Some(seated) = self.seat(other) else { return Matched::Vacant };
            passed = Some(slot);
            (slot, (worker, channel)) = (other, seated);
            next = self.next_for(worker);
        }
        let Next::Connection(connection, held) = next else { return Matched::Nothing };
        Matched::Match(Match { slot, passed, worker, channel, connection, held })
    }

    /// Who sits at `slot`. A slot where nobody sits has no room.
    pub fn seat(&mut self, slot: usize) -> Option<(WorkerId, usize)> {
        let seated = self.primary.seats.get(slot).copied().flatten();
        if seated.is_none() {
            self.set_room(slot, false);
        }
        seated
    }

    pub fn next_for(&mut self, worker: WorkerId) -> Next {
        let any_other = self.primary.has_other_than(worker);
        self.next_but_from(any_other.then_some(worker))
    }

    /// What came back first, oldest first (of several queues: the one with the oldest head), then the backlog.
    pub fn next_but_from(&mut self, giver: Option<WorkerId>) -> Next {
        let (primary, kernel) = (&mut self.primary, &mut self.kernel);
        let channels = &mut kernel.channels;
        primary.remnants.retain(|remnant| match remnant {
            Remnant::Untaken(channel) => !channels[*channel].down.is_empty(),
            Remnant::GivenBack(channel) => channels[*channel].given_back().next().is_some(),
        });
        if self.world.fault == Some(Fault::NewBeforeReturned)
            && let Some(connection) = kernel.backlog.pop_front()
        {
            return Next::Connection(connection, None);
        }
        let to_giver = self.world.fault == Some(Fault::DealsToTheGiver);
        let may_go = |held: &Held| to_giver || !held.not_again || Some(held.from) != giver;
        loop {
            let held = primary.held.iter().position(may_go);
            let queued = (0..primary.remnants.len()).min_by_key(|index| match primary.remnants[*index] {
                Remnant::Untaken(channel) => channels[channel].untaken().next(),
                Remnant::GivenBack(channel) => channels[channel].given_back().next(),
            });
            let head = queued.and_then(|index| match primary.remnants[index] {
                Remnant::Untaken(channel) => channels[channel].untaken().next(),
                Remnant::GivenBack(channel) => channels[channel].given_back().next(),
            });
            match (held, queued) {
                (Some(held), queued) if queued.is_none() || head > Some(primary.held[held].connection) => {
                    let held = primary.held.remove(held);
                    return Next::Connection(held.connection, Some(held));
                }
                (_, Some(index)) => {
                    let Some(connection) = head else {
                        primary.remnants.swap_remove(index);
                        continue;
                    };
                    let (Remnant::Untaken(channel) | Remnant::GivenBack(channel)) = primary.remnants[index];
                    let from = channels[channel].worker;
                    match primary.remnants[index] {
                        Remnant::Untaken(channel) => {
                            while channels[channel].down.pop_front() == Some(Down::Probe) {}
                            if let Some(lane) = primary.lanes.get_mut(&channel) {
                                lane.account.count_reclaimed();
                            }
                        }
                        Remnant::GivenBack(channel) => while channels[channel].up.pop_front() == Some(Up::Kick) {},
                    }
                    let held = Held { connection, from, at: self.now, not_again: false };
                    return Next::Connection(connection, Some(held));
                }
                (_, None) => {
                    let none = if primary.held.is_empty() { Next::Nothing } else { Next::NotForThisWorker };
                    return kernel.backlog.pop_front().map_or(none, |connection| Next::Connection(connection, None));
                }
            }
        }
    }

    // Rooms and seats.

    fn set_room(&mut self, slot: usize, has_room: bool) {
        self.primary.rotation.set_room(slot, has_room);
        self.watch.room_changed(slot, has_room);
    }

    fn look(&mut self, channel: usize) -> bool {
        self.with_lane_and_board(channel, Lane::look_or_ask_for_kick)
    }

    fn with_lane_and_board(&mut self, channel: usize, look: impl Fn(&mut Lane, &Board, Monotonic) -> bool) -> bool {
        let lane = self.primary.lanes.get_mut(&channel).expect("there");
        look(lane, &self.kernel.channels[channel].board, self.now)
    }

    fn look_for_room(&mut self, channel: usize) {
        let slot = self.primary.slot_of(channel);
        if self.primary.is_seated(slot, channel) {
            let has_room = self.look(channel);
            self.set_room(slot, has_room);
        }
    }

    fn take_seat(&mut self, slot: usize, channel: usize) {
        let seats = &mut self.primary.seats;
        seats.resize(seats.len().max(slot + 1), None);
        seats[slot] = Some((self.primary.lanes[&channel].worker, channel));
    }

    fn unseat(&mut self, slot: usize, channel: usize) {
        if self.primary.is_seated(slot, channel) {
            self.primary.seats[slot] = None;
            self.set_room(slot, false);
        }
    }

    // What comes up.

    pub fn hear_from_below(&mut self, channel: usize) {
        if !self.primary.lanes.contains_key(&channel) {
            return;
        }
        while let Some(first) = self.kernel.channels[channel].up.front().copied() {
            let has_returned = self.kernel.channels[channel].given_back().next().is_some();
            if has_returned && !self.may_hold_more() {
                self.primary.unheard.push(channel);
                self.watch_lanes();
                break;
            }
            self.kernel.channels[channel].up.pop_front();
            if let Up::GivenBack(connection) = first {
                let from = self.primary.lanes[&channel].worker;
                self.primary.hold(Held { connection, from, at: self.now, not_again: true });
                self.watch.givers.insert(connection, (from, self.now));
            }
        }
        self.look_after_kick(channel);
    }

    fn may_hold_more(&self) -> bool {
        self.primary.held.len() < self.world.held_max || self.world.fault == Some(Fault::HoldsWithoutBound)
    }

    /// There is room again, or a pause has begun or ended, or the worker is awake again.
    fn look_after_kick(&mut self, channel: usize) {
        let slot = self.primary.slot_of(channel);
        let has_answered = self.has_answered(channel) || self.world.fault == Some(Fault::TakesAnythingForAnAnswer);
        let lane = self.primary.lanes.get_mut(&channel).expect("heard");
        if lane.stall.is_probed() && has_answered {
            lane.stall.answered();
            if lane.phase == Phase::Listening && self.primary.seats[slot].is_none() {
                self.take_seat(slot, channel);
            }
        }
        let is_probed = self.primary.lanes[&channel].stall.is_probed();
        if self.kernel.channels[channel].board.pause != Pause::None && !is_probed {
            self.reclaim(channel);
            self.watch_lanes();
        }
        self.look_for_room(channel);
    }

    /// It has received what was left to it, the probe last of all.
    fn has_answered(&self, channel: usize) -> bool {
        self.kernel.channels[channel].down.is_empty()
    }

    fn reclaim(&mut self, channel: usize) {
        while self.primary.lanes[&channel].is_retained
            && self.may_hold_more()
            && let Some(message) = self.kernel.channels[channel].down.pop_front()
        {
            let lane = self.primary.lanes.get_mut(&channel).expect("checked");
            match message {
                Down::Probe => self.kernel.channels[channel].is_asleep = false,
                Down::Connection(connection) => {
                    if self.world.fault != Some(Fault::ForgetsToCountReclaimed) {
                        lane.account.count_reclaimed();
                    }
                    let from = lane.worker;
                    self.watch.reclaimed += 1;
                    self.primary.hold(Held { connection, from, at: self.now, not_again: false });
                }
            }
        }
    }

    // Stalls.

    fn watch_lanes(&mut self) {
        let at = self.now + STALL_AFTER / LOOKS;
        self.primary.next_look.get_or_insert(at);
    }

    fn let_time_pass(&mut self) {
        let now = self.now;
        if self.primary.supervisor.deadline().is_some_and(|deadline| now >= deadline) {
            self.decide(Event::TimePassed);
        }
        self.primary.rest_until = self.primary.rest_until.filter(|until| now < *until);
        for held in &mut self.primary.held {
            held.not_again &= now < held.at + NOT_AGAIN_FOR;
        }
        if self.primary.next_look.is_some_and(|at| now >= at) {
            self.look_for_stalls();
        }
    }

    fn look_for_stalls(&mut self) {
        self.primary.next_look = None;
        for channel in std::mem::take(&mut self.primary.unheard) {
            self.hear_from_below(channel);
        }
        let listening = self.primary.lanes.iter().filter(|(_, lane)| lane.phase == Phase::Listening);
        let listening: Vec<usize> = listening.map(|(channel, _)| *channel).collect();
        let (mut stuck, mut awake, mut go_on) = (Vec::new(), Vec::new(), false);
        for channel in listening {
            let slot = self.primary.slot_of(channel);
            let has_answered = self.has_answered(channel);
            let lane = self.primary.lanes.get_mut(&channel).expect("listening");
            let below = &mut self.kernel.channels[channel];
            lane.account.observe(below.board.counts(), self.now).unwrap();
            let (untaken, taken) = (lane.account.untaken(), lane.account.taken());
            below.looks = if untaken > 0 { below.looks + 1 } else { 0 };
            let time = lane.stall.look(untaken, taken, self.now, LOOK_EVERY);
            if lane.stall.is_probed() && has_answered && self.world.fault != Some(Fault::WaitsForALostAnswer) {
                awake.push(channel);
            } else if time >= STALL_AFTER {
                stuck.push(channel);
            }
            go_on |= untaken > 0 || lane.stall.is_probed();
            let has_room = lane.account.has_room(self.now) || self.world.fault == Some(Fault::TriesWithoutRoom);
            if below.board.pause == Pause::NoDescriptors && self.primary.is_seated(slot, channel) {
                self.set_room(slot, has_room);
                go_on = true;
            }
        }
        awake.into_iter().for_each(|channel| self.look_after_kick(channel));
        stuck.into_iter().for_each(|channel| self.deal_with_stuck(channel));
        if go_on {
            self.watch_lanes();
        }
    }

    fn deal_with_stuck(&mut self, channel: usize) {
        let Lane { stall, account, .. } = self.primary.lanes[&channel];
        let is_done =
            stall.is_probed() && (account.untaken() == 0 || self.world.fault == Some(Fault::ReclaimsOnlyOnce));
        if is_done || !self.anyone_is_idle(channel) {
            return;
        }
        let below = &self.kernel.channels[channel];
        assert!(stall.is_probed() || below.looks > LOOKS, "lane {channel} took one {} looks ago", below.looks);
        self.reclaim(channel);
        self.primary.lanes.get_mut(&channel).expect("stuck").stall.probed();
        let slot = self.primary.slot_of(channel);
        self.unseat(slot, channel);
        if self.kernel.has_room_below(channel) && self.world.fault != Some(Fault::LeavesNoProbe) {
            let below = &mut self.kernel.channels[channel];
            below.down.push_back(Down::Probe);
            below.is_asleep = true;
        }
    }

    fn anyone_is_idle(&mut self, channel: usize) -> bool {
        let worker = self.primary.lanes[&channel].worker;
        let seats: Vec<(WorkerId, usize)> = self.primary.seats.iter().flatten().copied().collect();
        seats.into_iter().filter(|(other, _)| *other != worker).any(|(_, other)| {
            let account = &self.primary.lanes[&other].account;
            account.untaken() == 0 && (account.has_room(self.now) || self.look(other))
        })
    }

    // Workers come and go.

    pub fn decide(&mut self, event: Event) {
        for effect in self.primary.supervisor.handle(event, self.now) {
            self.carry_out(effect);
        }
    }

    fn carry_out(&mut self, effect: Effect) {
        match effect {
            Effect::Start(slot) => self.start_worker(slot),
            Effect::Seat(id) => self.give_seats(id),
            Effect::Drain(id) | Effect::Disconnect(id) => self.disconnect(id),
            Effect::Terminate(id) => self.kernel.process(id).is_terminated = true,
            Effect::Kill(id, _) => self.kernel.die(id),
            Effect::ReloadEnded(_) => {}
            Effect::EndListeners | Effect::CloseListeners | Effect::Finish(_) => panic!("{effect:?} while serving"),
        }
    }

    fn start_worker(&mut self, slot: Slot) {
        self.primary.last_id += 1;
        let id = WorkerId(self.primary.last_id);
        self.kernel.processes.insert(id, Process { is_alive: true, ..Process::default() });
        let worker = Worker { slot, has_said_hello: false, is_draining: false, ready_since: None };
        self.primary.workers.insert(id, worker);
        self.decide(Event::Started(slot, id));
    }

    pub fn hear_worker(&mut self, id: WorkerId) {
        while let Some(says) = self.kernel.process(id).says.pop_front() {
            match says {
                Says::Hello => self.primary.workers.get_mut(&id).expect("alive").has_said_hello = true,
                Says::Listen => self.open_lane(id),
                Says::Listening(channel) => self.listening(id, channel),
                Says::Close(channel) => self.close_lane(channel),
            }
        }
    }

    fn open_lane(&mut self, id: WorkerId) {
        let channel = self.kernel.open_channel(id);
        let is_draining = self.primary.workers[&id].is_draining;
        let phase = Phase::Granted;
        self.kernel.channels[channel].has_ended = is_draining;
        let (account, stall) = (Account::new(self.world.bounds), Stall::default());
        self.primary.lanes.insert(channel, Lane { worker: id, account, stall, phase, is_retained: true });
        self.kernel.process(id).granted = Some(channel);
    }

    fn listening(&mut self, id: WorkerId, channel: usize) {
        let may_serve = self.world.fault == Some(Fault::SeatsWhoWasTurnedAway) || self.may_serve(id);
        let lane = self.primary.lanes.get_mut(&channel).expect("granted");
        if lane.phase == Phase::Ended || !may_serve {
            return;
        }
        lane.phase = Phase::Listening;
        let worker = self.primary.workers.get_mut(&id).expect("alive");
        if worker.ready_since.is_none() {
            worker.ready_since = Some(self.now);
            self.decide(Event::Ready(id));
        }
        let supervisor = &self.primary.supervisor;
        if self.world.fault == Some(Fault::SeatsWhoWasTurnedAway) || supervisor.holds_slot(id) {
            self.give_seats(id);
        } else if !supervisor.expects(id) {
            self.end_lane(channel);
        }
    }

    fn give_seats(&mut self, id: WorkerId) {
        for channel in self.lanes_of(id) {
            let lane = &self.primary.lanes[&channel];
            if lane.phase == Phase::Listening && !lane.stall.is_probed() && !self.primary.workers[&id].is_draining {
                self.take_seat(self.primary.slot_of(channel), channel);
                self.look_for_room(channel);
            }
        }
    }

    fn may_serve(&self, id: WorkerId) -> bool {
        self.primary.supervisor.may_serve(id)
    }

    fn close_lane(&mut self, channel: usize) {
        let slot = self.primary.slot_of(channel);
        self.unseat(slot, channel);
        self.end_lane(channel);
        self.leave_untaken(channel);
    }

    fn end_lane(&mut self, channel: usize) {
        self.primary.lanes.get_mut(&channel).expect("open").phase = Phase::Ended;
        self.kernel.channels[channel].has_ended = true;
    }

    fn leave_untaken(&mut self, channel: usize) {
        let lane = self.primary.lanes.get_mut(&channel).expect("open");
        if std::mem::take(&mut lane.is_retained) && self.world.fault != Some(Fault::DropsUntaken) {
            self.primary.remnants.push(Remnant::Untaken(channel));
        }
    }

    /// Tells a worker to finish.
    fn disconnect(&mut self, id: WorkerId) {
        let worker = self.primary.workers.get_mut(&id).expect("alive");
        worker.is_draining = true;
        let (slot, hears) = (worker.slot.0 as usize, worker.has_said_hello);
        for channel in self.lanes_of(id) {
            self.unseat(slot, channel);
            self.end_lane(channel);
            if self.primary.has_other_than(id) {
                self.leave_untaken(channel);
            }
        }
        let process = self.kernel.process(id);
        process.is_finishing |= hears;
        process.is_terminated |= !hears;
    }

    fn lanes_of(&self, id: WorkerId) -> Vec<usize> {
        let lanes = self.primary.lanes.iter().filter(|(_, lane)| lane.worker == id);
        lanes.map(|(channel, _)| *channel).collect()
    }

    pub fn see_exits(&mut self) {
        let has_exited = |id: &WorkerId| !self.kernel.processes[id].is_alive;
        let exited: Vec<WorkerId> = self.primary.workers.keys().copied().filter(has_exited).collect();
        for id in exited {
            self.hear_worker(id);
            for channel in self.lanes_of(id) {
                let slot = self.primary.slot_of(channel);
                self.unseat(slot, channel);
                self.leave_untaken(channel);
                self.kernel.channels[channel].has_ended = true;
                self.primary.lanes.remove(&channel);
                if self.world.fault != Some(Fault::ForgetsTheGivenBackOfTheDead) {
                    self.primary.remnants.push(Remnant::GivenBack(channel));
                }
            }
            let worker = self.primary.workers.remove(&id).expect("listed");
            self.decide(Event::Exited(id, Ended { is_success: false, ready_since: worker.ready_since }));
        }
    }

    // Upgrades.

    /// The next image goes on from what this one wrote. Nobody has room until somebody looks, but whoever had it before
    /// and has it then has not lost a turn.
    pub fn upgrade(&mut self) {
        self.primary.next_slot = self.primary.rotation.position();
        let state = serde_json::to_string(&self.primary).expect("it can be written");
        self.primary = serde_json::from_str(&state).expect("it can be read");
        let next_slot = if self.world.fault == Some(Fault::StartsTheRotationAnew) { 0 } else { self.primary.next_slot };
        self.primary.rotation = Rotation::starting_at(next_slot);
        self.primary.chooser = self.world.dealing.chooser();
        let had_room = std::mem::take(&mut self.watch.with_room_since);
        let lanes: Vec<usize> = self.primary.lanes.keys().copied().collect();
        for channel in lanes {
            let below = &mut self.kernel.channels[channel];
            below.has_news = !below.up.is_empty();
            if self.world.fault != Some(Fault::LooksForNoRoomAfterAnUpgrade) {
                self.look_for_room(channel);
            }
        }
        for (slot, since) in &mut self.watch.with_room_since {
            *since = had_room.get(slot).copied().unwrap_or(*since);
        }
        self.watch_lanes();
    }
}
