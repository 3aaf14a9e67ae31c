//! The register of workers: the only place where a worker's state is kept, and written.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use super::dialect::native::Native;
use super::lifecycle::{Event, OutOfTurn, State};
use super::room::{Account, Bounds, Impossible};
use crate::protocol::deal_channel::{PrimaryEnd, WorkerEnd};
use crate::protocol::handshake::NO_KICK;
use crate::protocol::ids::{LaneId, Slot, WorkerId};
use crate::protocol::record::Record;
use crate::protocol::scoreboard::{KickAt, LANES_MAX, LaneBoard, Scoreboard};
use crate::protocol::time::Monotonic;
use crate::sys::process::Process;

/// All workers whose processes have not been seen to end.
#[derive(Debug, Default)]
pub struct Register {
    workers: BTreeMap<WorkerId, Worker>,
    last_id: u32,
}

/// One worker.
#[derive(Debug)]
pub struct Worker {
    /// Who.
    pub id: WorkerId,
    /// Its stable place.
    pub slot: Slot,
    /// Its process.
    pub process: Process,
    /// How it is spoken to.
    pub dialect: Native,
    /// Its scoreboard.
    pub board: Arc<Scoreboard>,
    /// Said in `hello`; 0 before.
    pub open_files_max: u64,
    /// When it first listened.
    pub ready_since: Option<Monotonic>,
    state: State,
    lanes: Vec<Option<Lane>>,
    /// Lanes that were closed while their connections may still be open, and count on the scoreboard.
    closed: Vec<(LaneId, LaneBoard)>,
}

/// One listener's part of one worker.
#[derive(Debug)]
pub struct Lane {
    /// The listener's index.
    pub listener: usize,
    /// Dealing and kicks.
    pub primary_end: PrimaryEnd,
    /// The duplicate of the worker's end.
    pub retained: WorkerEnd,
    account: Account,
    board: LaneBoard,
    is_listening: bool,
}

/// What a look at a lane's scoreboard found.
pub type Room = Result<bool, Impossible>;

impl Register {
    /// The id for the next worker.
    pub fn next_id(&mut self) -> WorkerId {
        self.last_id += 1;
        WorkerId(self.last_id)
    }

    /// Enters a worker whose process has just been started.
    pub fn enter(&mut self, id: WorkerId, slot: Slot, process: Process, dialect: Native, board: Arc<Scoreboard>) {
        let worker = Worker {
            id,
            slot,
            process,
            dialect,
            board,
            open_files_max: 0,
            ready_since: None,
            state: State::Starting,
            lanes: Vec::new(),
            closed: Vec::new(),
        };
        self.workers.insert(id, worker);
    }

    /// Takes out a worker whose process has ended.
    pub fn remove(&mut self, id: WorkerId) -> Option<Worker> {
        self.workers.remove(&id)
    }

    /// The worker, if its process has not been seen to end.
    pub fn get(&self, id: WorkerId) -> Option<&Worker> {
        self.workers.get(&id)
    }

    /// As [`get`](Self::get).
    pub fn get_mut(&mut self, id: WorkerId) -> Option<&mut Worker> {
        self.workers.get_mut(&id)
    }

    /// One lane of one worker.
    pub fn lane_mut(&mut self, id: WorkerId, lane: LaneId) -> Option<&mut Lane> {
        self.workers.get_mut(&id)?.lane_mut(lane)
    }

    /// All of them, by id.
    pub fn iter(&self) -> impl Iterator<Item = &Worker> {
        self.workers.values()
    }

    /// Whether `pid` is the process of a worker.
    pub fn has_process(&self, pid: i32) -> bool {
        self.workers.values().any(|worker| worker.process.pid() == pid)
    }
}

impl Worker {
    /// Where it stands.
    pub fn state(&self) -> State {
        self.state
    }

    /// Moves on. See [`State::after`].
    ///
    /// # Errors
    /// [`OutOfTurn`]: nothing has changed.
    pub fn apply(&mut self, event: Event) -> Result<(), OutOfTurn> {
        self.state = self.state.after(event)?;
        Ok(())
    }

    /// A lane, if it is there.
    pub fn lane_mut(&mut self, lane: LaneId) -> Option<&mut Lane> {
        self.lanes.get_mut(usize::from(lane.0))?.as_mut()
    }

    /// Its lanes.
    pub fn lanes(&self) -> impl Iterator<Item = (LaneId, &Lane)> {
        (0..).map(LaneId).zip(&self.lanes).filter_map(|(id, lane)| Some((id, lane.as_ref()?)))
    }

    /// The smallest lane number that is free, or `None` at [`LANES_MAX`]. One whose connections are still open is
    /// not: they go on counting on its part of the scoreboard.
    pub fn free_lane(&mut self) -> Option<LaneId> {
        self.closed.retain(|(_, board)| {
            let counts = board.counts();
            counts.taken != counts.closed
        });
        (0..LANES_MAX as u8).map(LaneId).find(|id| {
            let is_open = self.lanes.get(usize::from(id.0)).is_some_and(Option::is_some);
            !is_open && self.closed.iter().all(|(closed, _)| closed != id)
        })
    }

    /// Adds a lane under a number of [`free_lane`](Self::free_lane).
    pub fn open_lane(&mut self, id: LaneId, listener: usize, ends: (PrimaryEnd, WorkerEnd), bounds: Bounds) {
        let board = self.board.lane(id);
        board.reset();
        let (primary_end, retained) = ends;
        let account = Account::new(bounds);
        let index = usize::from(id.0);
        self.lanes.resize_with(self.lanes.len().max(index + 1), || None);
        self.lanes[index] = Some(Lane { listener, primary_end, retained, account, board, is_listening: false });
    }

    /// Takes a lane away. The worker's end stays open in the worker.
    pub fn close_lane(&mut self, id: LaneId) -> Option<Lane> {
        let lane = self.lanes.get_mut(usize::from(id.0))?.take()?;
        self.closed.push((id, lane.board.clone()));
        Some(lane)
    }

    /// Connections it has taken over lanes that are open, or were closed with connections still open.
    pub fn taken(&self) -> u64 {
        let open = self.lanes.iter().flatten().map(|lane| &lane.board);
        open.chain(self.closed.iter().map(|(_, board)| board)).map(|board| board.counts().taken).sum()
    }

    /// The numbers of its lanes.
    pub fn lane_ids(&self) -> Vec<LaneId> {
        self.lanes().map(|(id, _)| id).collect()
    }

    /// Whether it takes from any lane.
    pub fn listens(&self) -> bool {
        self.lanes().any(|(_, lane)| lane.is_listening)
    }
}

impl Lane {
    /// The worker takes from it.
    pub fn set_listening(&mut self) {
        self.is_listening = true;
    }

    /// Whether it may be dealt to.
    pub fn is_listening(&self) -> bool {
        self.is_listening
    }

    /// Deals one connection. `connection` is borrowed.
    ///
    /// # Errors
    /// Those of [`PrimaryEnd::deal`]; nothing is counted then.
    pub fn deal(&mut self, record: &Record, connection: BorrowedFd<'_>) -> io::Result<()> {
        self.primary_end.deal(record, connection)?;
        self.account.count_dealt();
        Ok(())
    }

    /// Whether there is room after a deal; looks at the scoreboard only if the account says that there is none.
    ///
    /// # Errors
    /// As [`look_or_ask_for_kick`](Self::look_or_ask_for_kick).
    pub fn has_room_left(&mut self) -> Room {
        if self.account.has_room() { Ok(true) } else { self.look_or_ask_for_kick() }
    }

    /// The socket was full although the account had room: asks for a kick at the very next take; true if there has
    /// been one by now.
    ///
    /// # Errors
    /// As [`look_or_ask_for_kick`](Self::look_or_ask_for_kick).
    pub fn ask_for_kick_at_next_take(&mut self) -> Room {
        let at = self.account.taken() + 1;
        let counts = self.board.ask_for_kick(KickAt { taken: at, closed: NO_KICK });
        self.account.observe(counts)?;
        Ok(counts.taken >= at)
    }

    /// Looks at the scoreboard; true if there is room.
    ///
    /// # Errors
    /// [`Impossible`] counts: replace the worker.
    pub fn look(&mut self) -> Room {
        self.account.observe(self.board.counts())?;
        Ok(self.account.has_room())
    }

    /// Looks at the scoreboard, and if there is no room asks for a kick and looks once more; true if there is room.
    /// After false the kick will come.
    ///
    /// # Errors
    /// [`Impossible`] counts: replace the worker.
    pub fn look_or_ask_for_kick(&mut self) -> Room {
        if self.look()? {
            return Ok(true);
        }
        let counts = self.board.ask_for_kick(self.account.kick_at());
        self.account.observe(counts)?;
        let has_room = self.account.has_room();
        if has_room {
            self.board.want_no_kick();
        }
        Ok(has_room)
    }
}
