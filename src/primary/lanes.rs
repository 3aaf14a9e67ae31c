//! One lane as the primary has it: what is in flight there, its account, and where it stands.
//!
//! Where nobody but the primary counts, because the worker does not know of a scoreboard, the primary writes what the
//! worker says onto it, so that accounts, room and metrics are the same in every dialect.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};
use std::time::Duration;

use super::kept::{self, Kept, Remains};
use super::ledger::Counted;
use super::patience::Patience;
use super::reexec::baggage::{self, Baggage};
use super::room::{Account, Bounds, Impossible};
use super::stall::Stall;
use crate::protocol::Wait;
use crate::protocol::deal_channel::{PrimaryEnd, Took, WorkerEnd};
use crate::protocol::handshake::NO_KICK;
use crate::protocol::record::{RECORD_BYTES, Record};
use crate::protocol::scoreboard::{Counts, KickAt, LaneBoard, Pause};
use crate::protocol::time::Monotonic;
use crate::sys::fd_passing;
use serde::{Deserialize, Serialize};

/// One listener's part of one worker.
#[derive(Debug)]
pub struct Lane {
    /// The listener's index.
    pub listener: usize,
    /// Whether its worker takes.
    pub stall: Stall,
    /// When its worker is tried again after it has refused.
    pub patience: Patience,
    in_flight: InFlight,
    account: Account,
    board: LaneBoard,
    /// What it has been found to have counted.
    counted: Counted,
    phase: Phase,
    /// The worker has the listener's own socket: nothing is dealt, and what the worker counts is not checked.
    is_shared: bool,
}

/// Where connections are that were dealt and not taken.
#[derive(Debug)]
pub enum InFlight {
    /// In the kernel's queue of a deal channel, which both sides read.
    Queued {
        /// Dealing, kicks and give-backs.
        primary_end: PrimaryEnd,
        /// The duplicate of the worker's end, until the listener inherits it.
        retained: Option<WorkerEnd>,
    },
    /// With the worker, which has not acknowledged them.
    Kept(Kept),
}

/// Where a lane stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Phase {
    /// The worker has been given its end and has not said that it takes.
    Granted,
    /// It takes.
    Listening,
    /// Nothing more is dealt. Its connections may still be open, and may be given back.
    Ended,
}

/// A lane, or several, in numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Figures {
    /// Sent to the worker.
    pub dealt: u64,
    /// Of those, received back untaken.
    pub reclaimed: u64,
    /// Received by the worker.
    pub taken: u64,
    /// Of those, closed or given back.
    pub closed: u64,
    /// Waiting in the lane's queue.
    pub untaken: u64,
}

/// A lane as it goes over an exec.
#[derive(Debug, Serialize, Deserialize)]
pub struct Saved {
    listener: usize,
    /// `None`: connections are kept.
    primary_end: Option<RawFd>,
    retained: Option<RawFd>,
    #[serde(default)]
    kept: kept::Saved,
    stall: Stall,
    #[serde(default)]
    patience: Patience,
    account: Account,
    #[serde(default)]
    counted: Counted,
    phase: Phase,
    is_shared: bool,
}

/// Whether there is room, after a look at the scoreboard.
pub type Room = Result<bool, Impossible>;

impl Lane {
    /// A lane on a fresh part of a scoreboard.
    pub fn new(listener: usize, in_flight: InFlight, bounds: Bounds, board: LaneBoard) -> Self {
        board.reset();
        Self {
            listener,
            stall: Stall::default(),
            patience: Patience::default(),
            in_flight,
            account: Account::new(bounds),
            board,
            counted: Counted::default(),
            phase: Phase::Granted,
            is_shared: false,
        }
    }

    /// What the next image needs to go on with it.
    pub fn save(&self, baggage: &mut Baggage) -> Saved {
        Saved {
            listener: self.listener,
            primary_end: self.primary_end().map(|end| baggage.pack(end.as_fd())),
            retained: self.retained().map(|retained| baggage.pack(retained.as_fd())),
            kept: self.kept().map(|kept| kept.save(baggage)).unwrap_or_default(),
            stall: self.stall,
            patience: self.patience,
            account: self.account,
            counted: self.counted,
            phase: self.phase,
            is_shared: self.is_shared,
        }
    }

    /// Goes on with it.
    ///
    /// # Errors
    /// As [`baggage::unpack`].
    pub fn restore(saved: Saved, board: LaneBoard) -> io::Result<Self> {
        let in_flight = match saved.primary_end {
            Some(primary_end) => InFlight::Queued {
                primary_end: PrimaryEnd::from_fd(baggage::unpack(primary_end)?),
                retained: saved.retained.map(baggage::unpack).transpose()?.map(WorkerEnd::from_fd),
            },
            None => InFlight::Kept(Kept::restore(saved.kept)?),
        };
        Ok(Self {
            listener: saved.listener,
            stall: saved.stall,
            patience: saved.patience,
            in_flight,
            account: saved.account,
            board,
            counted: saved.counted,
            phase: saved.phase,
            is_shared: saved.is_shared,
        })
    }

    /// The primary's end of its deal channel, if it has one.
    pub fn primary_end(&self) -> Option<&PrimaryEnd> {
        match &self.in_flight {
            InFlight::Queued { primary_end, .. } => Some(primary_end),
            InFlight::Kept(_) => None,
        }
    }

    fn retained(&self) -> Option<&WorkerEnd> {
        match &self.in_flight {
            InFlight::Queued { retained, .. } => retained.as_ref(),
            InFlight::Kept(_) => None,
        }
    }

    fn kept(&self) -> Option<&Kept> {
        match &self.in_flight {
            InFlight::Queued { .. } => None,
            InFlight::Kept(kept) => Some(kept),
        }
    }

    /// Whether the primary keeps copies of what is in flight: nothing can be taken back while the worker lives.
    pub fn keeps_copies(&self) -> bool {
        self.kept().is_some()
    }

    /// Lets the worker have the listener's own socket, unless it has got it with the lane.
    ///
    /// # Errors
    /// Those of [`PrimaryEnd::deal`].
    pub fn share(&mut self, socket: BorrowedFd<'_>) -> io::Result<()> {
        self.is_shared = true;
        self.primary_end().map_or(Ok(()), |end| end.deal(&Record::socket(), socket))
    }

    /// Whether connections are dealt through it.
    pub fn is_dealt(&self) -> bool {
        !self.is_shared
    }

    /// Where it stands.
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// The worker takes from it, unless it has ended in the meantime; then false.
    pub fn set_listening(&mut self) -> bool {
        let is_open = self.phase != Phase::Ended;
        if is_open {
            self.phase = Phase::Listening;
        }
        is_open
    }

    /// Ends it in band: the worker sees the end after what is queued.
    pub fn end(&mut self) {
        self.phase = Phase::Ended;
        if let Some(end) = self.primary_end() {
            end.end();
        }
    }

    /// Hands over the retained end, once. In a shared lane there is nothing to receive back.
    pub fn take_retained(&mut self) -> Option<WorkerEnd> {
        match &mut self.in_flight {
            InFlight::Queued { retained, .. } => retained.take().filter(|_| !self.is_shared),
            InFlight::Kept(_) => None,
        }
    }

    /// What is in flight, when the worker is dead.
    pub fn into_in_flight(self) -> InFlight {
        self.in_flight
    }

    /// Counts a connection that was sent, and keeps or closes the primary's copy of it.
    pub fn sent(&mut self, record: &Record, connection: OwnedFd, now: Monotonic) {
        self.account.count_dealt(now);
        if let InFlight::Kept(kept) = &mut self.in_flight {
            kept.keep(*record, connection);
        }
    }

    /// The worker has said that a connection of which a copy is kept is its own: the copy is closed, for while it is
    /// open the client would not see the worker close. `None`: it was never dealt that. True: there is room worth
    /// waking up for.
    pub fn acknowledged(&mut self, sequence: u64, now: Monotonic) -> Option<bool> {
        let (record, _connection) = self.take_kept(sequence)?;
        // Whoever takes does not refuse.
        self.patience.took();
        let was_paused = self.board.change_pause(Pause::NoDescriptors, Pause::None);
        let is_kick = self.board.count_taken(Some(now.since(record.accepted)));
        // What becomes of it nobody will tell.
        Some(self.board.count_closed() || is_kick || was_paused)
    }

    /// The worker has said that it does not take a connection of which a copy is kept. It has no room until somebody
    /// tries again. `None`: it was never dealt that.
    pub fn refused(&mut self, sequence: u64, now: Monotonic) -> Option<(Record, OwnedFd)> {
        let refused = self.take_kept(sequence)?;
        self.patience.refused(now);
        self.account.count_reclaimed();
        self.board.set_pause(Pause::NoDescriptors);
        Some(refused)
    }

    fn take_kept(&mut self, sequence: u64) -> Option<(Record, OwnedFd)> {
        match &mut self.in_flight {
            InFlight::Queued { .. } => None,
            InFlight::Kept(kept) => kept.take(sequence),
        }
    }

    /// The worker is dead, or has closed its channel: what it had not acknowledged.
    pub fn take_remains(&mut self) -> Remains {
        let InFlight::Kept(kept) = &mut self.in_flight else { return Remains::default() };
        let remains = kept.take_remains();
        remains.untouched.iter().for_each(|_| self.account.count_reclaimed());
        for _ in &remains.begun {
            let _ = (self.board.count_taken(None), self.board.count_closed());
        }
        remains
    }

    /// Receives back one connection that the worker has not taken, while a descriptor is to spare.
    pub fn reclaim_one(&mut self) -> Option<(Record, OwnedFd)> {
        let InFlight::Queued { retained: Some(retained), .. } = &self.in_flight else { return None };
        while fd_passing::has_spare_fd(retained.as_fd()) {
            match retained.take(Wait::Never) {
                Ok(Took::Connection(record, connection)) => {
                    self.account.count_reclaimed();
                    return Some((record, connection));
                }
                Ok(Took::Lost(record)) => {
                    self.account.count_reclaimed();
                    log::error!("connection={} lost: no file descriptor left", record.sequence);
                }
                Ok(Took::Probe | Took::Socket(_)) => {}
                Ok(Took::End) | Err(_) => return None,
            }
        }
        None
    }

    /// Whether there is room after a deal; looks at the scoreboard only if the account says that there may be none.
    ///
    /// # Errors
    /// As [`look_or_ask_for_kick`](Self::look_or_ask_for_kick).
    pub fn has_room_left(&mut self, now: Monotonic) -> Room {
        // One that refuses is tried with one.
        if self.keeps_copies() && self.board.pause() != Pause::None {
            return Ok(false);
        }
        if self.account.has_room_without_a_look() { Ok(true) } else { self.look_or_ask_for_kick(now) }
    }

    /// The socket was full although the account had room: asks for a kick at the very next take; true if there has
    /// been one by now.
    ///
    /// # Errors
    /// As [`look_or_ask_for_kick`](Self::look_or_ask_for_kick).
    pub fn ask_for_kick_at_next_take(&mut self, now: Monotonic) -> Room {
        let at = self.account.taken() + 1;
        let counts = self.board.ask_for_kick(KickAt { taken: at, closed: NO_KICK });
        self.account.observe(counts, now)?;
        Ok(counts.taken >= at)
    }

    /// Looks at the scoreboard, and if there is no room asks for a kick and looks once more; true if there is room.
    /// After false a kick will come. A paused lane has none, and announces the end of its pause by a kick, or is tried.
    ///
    /// # Errors
    /// [`Impossible`] counts: replace the worker.
    pub fn look_or_ask_for_kick(&mut self, now: Monotonic) -> Room {
        self.account.observe(self.board.counts(), now)?;
        if self.board.pause() != Pause::None {
            return Ok(self.is_to_be_tried());
        }
        if self.account.has_room(now) {
            return Ok(true);
        }
        let counts = self.board.ask_for_kick(self.account.kick_at(now));
        self.account.observe(counts, now)?;
        let has_room = self.account.has_room(now);
        if has_room {
            self.board.want_no_kick();
        }
        Ok(has_room)
    }

    /// It has refused, and its time to get one connection all the same has come.
    fn is_to_be_tried(&self) -> bool {
        self.kept().is_some_and(|kept| kept.len() == 0) && self.patience.again_at().is_none()
    }

    /// The account, after a look at the scoreboard.
    ///
    /// # Errors
    /// [`Impossible`] counts: replace the worker.
    pub fn look(&mut self, now: Monotonic) -> Result<&Account, Impossible> {
        self.account.observe(self.board.counts(), now)?;
        Ok(&self.account)
    }

    /// One look for a stall; returns for how long the worker has taken nothing although something waited.
    ///
    /// # Errors
    /// [`Impossible`] counts: replace the worker.
    pub fn look_for_stall(&mut self, now: Monotonic, every: Duration) -> Result<Duration, Impossible> {
        self.account.observe(self.board.counts(), now)?;
        Ok(self.stall.look(self.account.untaken(), self.account.taken(), now, every))
    }

    /// Whether there is room; asks for no kick, so it may not be what the rotation goes by.
    pub fn has_room_at_a_look(&mut self, now: Monotonic) -> bool {
        let is_believable = self.account.observe(self.board.counts(), now).is_ok();
        is_believable && self.account.has_room(now) && self.board.pause() == Pause::None
    }

    /// A probe was left, and the worker has received everything that was left to it, the probe last of all. Also when
    /// its answer, or the probe itself, found no place in the channel.
    pub fn has_answered(&self) -> bool {
        self.stall.is_probed() && self.retained().is_none_or(|retained| retained.untaken() == 0)
    }

    /// Whether there is room by what was last seen, paused or not.
    pub fn has_room_but_for_a_pause(&self, now: Monotonic) -> bool {
        self.account.has_room(now)
    }

    /// Nothing is untaken, as far as was seen.
    pub fn is_idle(&self) -> bool {
        self.account.untaken() == 0
    }

    /// Whether its worker wants connections.
    pub fn pause(&self) -> Pause {
        self.board.pause()
    }

    /// The lane in numbers.
    pub fn figures(&self) -> Figures {
        let counts = self.board.counts();
        let Counts { taken, closed } = counts;
        if self.is_shared {
            return Figures { dealt: taken, taken, closed, ..Figures::default() };
        }
        let (dealt, reclaimed) = (self.account.dealt(), self.account.reclaimed());
        Figures { dealt, reclaimed, taken, closed, untaken: self.untaken() }
    }

    /// What it has counted so far; `None`: nobody counts what such a worker accepts itself.
    pub fn counted(&mut self) -> Option<Counted> {
        if self.is_shared && self.keeps_copies() {
            return None;
        }
        let counts = self.board.counts();
        let dealt = if self.is_shared { counts.taken } else { self.account.dealt() };
        self.counted.note(dealt, counts, &self.board.waits());
        self.counted.tally.ends_unknown = self.keeps_copies();
        Some(self.counted)
    }

    /// Connections that wait in its queue.
    pub fn untaken(&self) -> u64 {
        if let InFlight::Kept(kept) = &self.in_flight {
            return kept.len() as u64;
        }
        let queued = self.retained().filter(|_| !self.is_shared).map_or(0, WorkerEnd::untaken);
        // The last message in the queue is the probe, and no connection.
        let untaken = if self.stall.is_probed() { queued.saturating_sub(1) } else { queued };
        untaken as u64
    }

    /// It has ended, and everything that was dealt has come back or is closed: its number is free. What was given back
    /// counts as closed before it is heard.
    pub fn is_deserted(&mut self) -> bool {
        let counts = self.board.counts();
        let unheard_bytes = self.primary_end().map_or(0, PrimaryEnd::unheard_bytes);
        if self.phase != Phase::Ended || unheard_bytes >= RECORD_BYTES {
            return false;
        }
        if self.is_shared {
            return counts.taken == counts.closed;
        }
        self.account.observe(counts, Monotonic::now()).is_ok() && self.account.open() == 0
    }

    /// One of its connections has come out of the queue that it left to its listener.
    pub fn count_received_back(&mut self) {
        self.account.count_reclaimed();
    }
}

impl std::iter::Sum for Figures {
    fn sum<I: Iterator<Item = Figures>>(all: I) -> Self {
        all.fold(Figures::default(), |sum, lane| Figures {
            dealt: sum.dealt + lane.dealt,
            reclaimed: sum.reclaimed + lane.reclaimed,
            taken: sum.taken + lane.taken,
            closed: sum.closed + lane.closed,
            untaken: sum.untaken + lane.untaken,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::deal_channel::{self, FromBelow};
    use crate::protocol::ids::LaneId;
    use crate::protocol::record::Kind;
    use crate::protocol::scoreboard::Scoreboard;

    #[test]
    fn its_number_is_not_free_before_what_was_given_back_is_heard() {
        let board = Scoreboard::create().unwrap();
        let (primary_end, retained) = deal_channel::pair().unwrap();
        let worker_end = WorkerEnd::from_fd(retained.as_fd().try_clone_to_owned().unwrap());
        let bounds = Bounds { queue_max: 1, connections_max: 1 };
        let in_flight = InFlight::Queued { primary_end, retained: Some(retained) };
        let mut lane = Lane::new(0, in_flight, bounds, board.lane(LaneId(0)));
        let (connection, _client) = std::os::unix::net::UnixStream::pair().unwrap();
        let record = Record { kind: Kind::Connection, sequence: 1, ..Record::probe() };
        lane.primary_end().unwrap().deal(&record, connection.as_fd()).unwrap();
        lane.sent(&record, connection.try_clone().unwrap().into(), Monotonic::now());
        lane.end();
        assert!(!lane.is_deserted(), "it waits untaken");
        let theirs = board.lane(LaneId(0));
        assert!(matches!(worker_end.take(Wait::Never), Ok(Took::Connection(..))));
        let _ = theirs.count_taken(None);
        worker_end.give_back(&record, connection.as_fd()).unwrap();
        let _ = theirs.count_closed();
        worker_end.kick();
        assert!(!lane.is_deserted(), "it waits to be heard");
        assert!(matches!(lane.primary_end().unwrap().hear(), Some(FromBelow::GivenBack(..))));
        assert!(lane.is_deserted(), "whatever kicks are left");
    }

    #[test]
    fn one_that_has_refused_is_tried_with_one_when_its_time_has_come() {
        let board = Scoreboard::create().unwrap();
        let bounds = Bounds { queue_max: 8, connections_max: u64::MAX };
        let mut lane = Lane::new(0, InFlight::Kept(Kept::default()), bounds, board.lane(LaneId(0)));
        let now = Monotonic::now();
        let deal = |lane: &mut Lane, sequence| {
            let (connection, _client) = std::os::unix::net::UnixStream::pair().unwrap();
            lane.sent(&Record { kind: Kind::Connection, sequence, ..Record::probe() }, connection.into(), now);
            lane.has_room_left(now)
        };
        assert_eq!((deal(&mut lane, 1), deal(&mut lane, 2)), (Ok(true), Ok(true)));
        assert!(lane.refused(1, now).is_some() && lane.refused(2, now).is_some());
        assert_eq!(lane.look_or_ask_for_kick(now), Ok(false));
        let later = lane.patience.again_at().unwrap();
        assert!(lane.patience.is_over(lane.untaken() == 0, later));
        assert_eq!((lane.look_or_ask_for_kick(later), lane.look_or_ask_for_kick(later)), (Ok(true), Ok(true)));
        assert_eq!((deal(&mut lane, 3), lane.look_or_ask_for_kick(later)), (Ok(false), Ok(false)), "one and no more");
        assert_eq!(lane.acknowledged(3, later), Some(true));
        assert_eq!((lane.look_or_ask_for_kick(later), deal(&mut lane, 4)), (Ok(true), Ok(true)));
    }
}
