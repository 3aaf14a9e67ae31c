//! The register of workers: the only place where a worker's state is kept, and written.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd, RawFd};
use std::sync::Arc;

use mio::Interest;

use super::dialect::{Dialect, DialectKind, native, node};
use super::events::Who;
use super::hearing::Hearing;
use super::lanes::{self, Figures, InFlight, Lane, Phase};
use super::lifecycle::{Event, OutOfTurn, State};
use super::recycle::Limits;
use super::reexec::baggage::{self, Baggage};
use super::returned::CameBack;
use super::room::Bounds;
use serde::{Deserialize, Serialize};

use crate::protocol::ids::{LaneId, Slot, WorkerId};
use crate::protocol::record::Record;
use crate::protocol::scoreboard::{LANES_MAX, Scoreboard};
use crate::protocol::time::Monotonic;
use crate::sys::process::Process;
use crate::sys::signals::Signal;

/// All workers whose processes have not been seen to end.
#[derive(Debug, Default)]
pub struct Register {
    workers: BTreeMap<WorkerId, Worker>,
    last_id: u32,
    /// Workers started, by slot.
    started: BTreeMap<Slot, u64>,
    /// There is, or was, a worker whose channel carries connections.
    has_busy_channels: bool,
}

/// One worker.
#[derive(Debug)]
pub struct Worker {
    /// Who.
    pub id: WorkerId,
    /// Its stable place.
    pub slot: Slot,
    /// How many reloads there had been when it was started.
    pub generation: u32,
    /// Its process.
    pub process: Process,
    /// How it is spoken to.
    pub dialect: Dialect,
    /// What its channel is watched for.
    pub interest: Interest,
    /// How much of the primary's time it has taken by talking.
    pub hearing: Hearing,
    /// Its scoreboard.
    pub board: Arc<Scoreboard>,
    /// Its end was asked for, by itself or by the primary: it did not come by itself.
    pub is_voluntary: bool,
    /// Its process has ended; what it had said is still being heard.
    pub has_exited: bool,
    /// When its process was started.
    pub started_at: Monotonic,
    /// The process that said hello: not always the one that was started.
    pub hello_pid: Option<i32>,
    /// Said in `hello`; 0 before.
    pub open_files_max: u64,
    /// After how much it is replaced.
    pub limits: Limits,
    /// The supervisor has been told that it is due, then.
    pub due_since: Option<Monotonic>,
    /// When it first listened.
    pub ready_since: Option<Monotonic>,
    state: State,
    /// Where it stood when its channel ended.
    last_state: Option<State>,
    lanes: Vec<Option<Lane>>,
}

/// A worker as it goes over an exec.
#[derive(Debug, Serialize, Deserialize)]
pub struct Saved {
    id: WorkerId,
    slot: Slot,
    generation: u32,
    pid: i32,
    pidfd: RawFd,
    dialect: Option<native::Saved>,
    #[serde(default)]
    node: Option<node::Saved>,
    is_voluntary: bool,
    board: RawFd,
    limits: Limits,
    due_since: Option<Monotonic>,
    started_at: Monotonic,
    hello_pid: Option<i32>,
    open_files_max: u64,
    ready_since: Option<Monotonic>,
    state: State,
    #[serde(default)]
    last_state: Option<State>,
    lanes: Vec<Option<lanes::Saved>>,
}

impl Register {
    /// What the next image needs to go on with all of them.
    pub fn save(&self, baggage: &mut Baggage) -> Vec<Saved> {
        self.workers.values().map(|worker| worker.save(baggage)).collect()
    }

    /// Goes on with them.
    ///
    /// # Errors
    /// As [`baggage::unpack`]; `InvalidData` for a board that is none.
    pub fn restore(saved: Vec<Saved>, last_id: u32, slot_starts: Vec<(Slot, u64)>) -> io::Result<Self> {
        let has_busy_channels = saved.iter().any(|saved| saved.node.is_some());
        let workers = saved.into_iter().map(|saved| Ok((saved.id, Worker::restore(saved)?)));
        let started = slot_starts.into_iter().collect();
        Ok(Self { workers: workers.collect::<io::Result<_>>()?, last_id, started, has_busy_channels })
    }

    /// The id of the last worker.
    pub fn last_id(&self) -> u32 {
        self.last_id
    }

    /// The id for the next worker.
    pub fn next_id(&mut self) -> WorkerId {
        self.last_id += 1;
        WorkerId(self.last_id)
    }

    /// Enters a worker.
    pub fn enter(&mut self, worker: Worker) {
        *self.started.entry(worker.slot).or_default() += 1;
        self.has_busy_channels |= worker.dialect.kind() == DialectKind::Node;
        self.workers.insert(worker.id, worker);
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

    /// Tells the account of a lane that has ended, and whose worker lives, that a connection has come out of the queue
    /// that it left to its listener.
    pub fn count_received_back(&mut self, came_back: &CameBack) {
        if let Some(lane) = came_back.uncounted.and_then(|lane| self.lane_mut(came_back.from, lane)) {
            lane.count_received_back();
        }
    }

    /// As [`iter`](Self::iter).
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut Worker> {
        self.workers.values_mut()
    }

    /// Those whose channels carry connections, and maybe others.
    pub fn with_busy_channels(&mut self) -> impl Iterator<Item = &mut Worker> {
        self.workers.values_mut().take_while(|_| self.has_busy_channels)
    }

    /// All of them, by id.
    pub fn iter(&self) -> impl Iterator<Item = &Worker> {
        self.workers.values()
    }

    /// How many workers each slot has had.
    pub fn slot_starts(&self) -> Vec<(Slot, u64)> {
        self.started.iter().map(|(slot, count)| (*slot, *count)).collect()
    }

    /// How many workers a slot has had before the latest one.
    pub fn restarts(&self, slot: Slot) -> u64 {
        self.started.get(&slot).map_or(0, |count| count - 1)
    }

    /// How many workers were ever started.
    pub fn started_count(&self) -> u64 {
        self.started.values().sum()
    }

    /// Whether `pid` is the process of a worker.
    pub fn has_process(&self, pid: i32) -> bool {
        self.workers.values().any(|worker| worker.process.pid() == pid)
    }
}

impl Worker {
    /// A worker whose process has just been started.
    pub fn new(
        id: WorkerId,
        slot: Slot,
        generation: u32,
        process: Process,
        dialect: Dialect,
        board: Arc<Scoreboard>,
        limits: Limits,
    ) -> Self {
        Self {
            id,
            slot,
            generation,
            process,
            interest: dialect.interest(),
            dialect,
            hearing: Hearing::default(),
            board,
            started_at: Monotonic::now(),
            limits,
            due_since: None,
            is_voluntary: false,
            has_exited: false,
            hello_pid: None,
            open_files_max: 0,
            ready_since: None,
            state: State::Starting,
            last_state: None,
            lanes: Vec::new(),
        }
    }

    fn save(&self, baggage: &mut Baggage) -> Saved {
        let (dialect, node) = self.dialect.save(baggage);
        Saved {
            id: self.id,
            slot: self.slot,
            generation: self.generation,
            pid: self.process.pid(),
            pidfd: baggage.pack(self.process.as_fd()),
            dialect,
            node,
            is_voluntary: self.is_voluntary,
            board: baggage.pack(self.board.as_fd()),
            limits: self.limits,
            due_since: self.due_since,
            started_at: self.started_at,
            hello_pid: self.hello_pid,
            open_files_max: self.open_files_max,
            ready_since: self.ready_since,
            state: self.state,
            last_state: self.last_state,
            lanes: self.lanes.iter().map(|lane| lane.as_ref().map(|lane| lane.save(baggage))).collect(),
        }
    }

    fn restore(saved: Saved) -> io::Result<Self> {
        let board = Scoreboard::open(baggage::unpack(saved.board)?)?;
        let lanes = (0..).map(LaneId).zip(saved.lanes);
        let lanes = lanes.map(|(id, lane)| lane.map(|lane| Lane::restore(lane, board.lane(id))).transpose());
        let dialect = Dialect::restore((saved.dialect, saved.node))?;
        Ok(Self {
            id: saved.id,
            slot: saved.slot,
            generation: saved.generation,
            process: Process::inherited(saved.pid, baggage::unpack(saved.pidfd)?),
            interest: dialect.interest(),
            dialect,
            hearing: Hearing::default(),
            limits: saved.limits,
            due_since: saved.due_since,
            is_voluntary: saved.is_voluntary,
            has_exited: false,
            started_at: saved.started_at,
            hello_pid: saved.hello_pid,
            open_files_max: saved.open_files_max,
            ready_since: saved.ready_since,
            state: saved.state,
            last_state: saved.last_state,
            lanes: lanes.collect::<io::Result<_>>()?,
            board,
        })
    }

    /// As events tell of it.
    pub fn who(&self) -> Who {
        Who { worker: self.id, slot: self.slot, pid: self.process.pid(), generation: self.generation }
    }

    /// Where it stands.
    pub fn state(&self) -> State {
        self.state
    }

    /// Moves on. See [`State::after`].
    ///
    /// # Errors
    /// [`OutOfTurn`]: nothing has changed.
    pub fn apply(&mut self, event: Event) -> Result<(), OutOfTurn> {
        let after = self.state.after(event)?;
        let before = std::mem::replace(&mut self.state, after);
        if self.state == State::Disconnected {
            self.last_state.get_or_insert(before);
        }
        Ok(())
    }

    /// Where it stood when its channel ended, for people: a dying process closes its channel first.
    pub fn last_state(&self) -> State {
        self.last_state.unwrap_or(self.state)
    }

    /// Sends a signal to the worker. If the process that was started is not the one that said hello, a shell stands in
    /// between, or it is no worker at all: then to its whole group.
    pub fn signal(&self, signal: Signal) {
        if self.hello_pid == Some(self.process.pid()) {
            self.process.signal(signal);
        } else {
            self.process.signal_group(signal);
        }
    }

    /// A lane, if it is there.
    pub fn lane_mut(&mut self, lane: LaneId) -> Option<&mut Lane> {
        self.lanes.get_mut(usize::from(lane.0))?.as_mut()
    }

    /// Deals one connection. If it cannot be sent it comes back to the caller, with why: `NotFound` if there is no such
    /// lane, else those of [`PrimaryEnd::deal`](crate::protocol::deal_channel::PrimaryEnd::deal).
    pub fn deal(
        &mut self,
        lane_id: LaneId,
        record: &Record,
        connection: OwnedFd,
        now: Monotonic,
    ) -> Result<(), (OwnedFd, io::Error)> {
        let Some(lane) = self.lanes.get_mut(usize::from(lane_id.0)).and_then(Option::as_mut) else {
            return Err((connection, io::ErrorKind::NotFound.into()));
        };
        let fd = connection.as_fd();
        let sent = match (&mut self.dialect, lane.primary_end()) {
            (Dialect::Node(node), _) => node.deal(lane_id, record.sequence, fd),
            (Dialect::Native(_), Some(end)) => end.deal(record, fd),
            (Dialect::Native(_), None) => Err(io::ErrorKind::NotFound.into()),
        };
        match sent {
            Ok(()) => {
                lane.sent(record, connection, now);
                Ok(())
            }
            Err(error) => Err((connection, error)),
        }
    }

    /// Its lanes, those that have ended included.
    pub fn lanes(&self) -> impl Iterator<Item = (LaneId, &Lane)> {
        (0..).map(LaneId).zip(&self.lanes).filter_map(|(id, lane)| Some((id, lane.as_ref()?)))
    }

    /// As [`lanes`](Self::lanes), without their numbers.
    pub fn lanes_mut(&mut self) -> impl Iterator<Item = &mut Lane> {
        self.lanes.iter_mut().flatten()
    }

    /// The numbers of its lanes.
    pub fn lane_ids(&self) -> Vec<LaneId> {
        self.lanes().map(|(id, _)| id).collect()
    }

    /// A lane number that is free, or `None` at [`LANES_MAX`]: one that was never used, else one that has ended and
    /// whose connections are all accounted for. Before that they go on counting on its part of the scoreboard.
    pub fn free_lane(&mut self) -> Option<LaneId> {
        if self.lanes.len() < LANES_MAX {
            return Some(LaneId(self.lanes.len() as u8));
        }
        let index = self.lanes.iter_mut().position(|lane| lane.as_mut().is_none_or(Lane::is_deserted))?;
        Some(LaneId(index as u8))
    }

    /// Adds a lane under a number of [`free_lane`](Self::free_lane). Returns the one that had it.
    pub fn open_lane(&mut self, id: LaneId, listener: usize, in_flight: InFlight, bounds: Bounds) -> Option<Lane> {
        let index = usize::from(id.0);
        self.lanes.resize_with(self.lanes.len().max(index + 1), || None);
        let mut old = self.lanes[index].take();
        // The new one begins on a clean board.
        old.as_mut().map(Lane::counted);
        self.lanes[index] = Some(Lane::new(listener, in_flight, bounds, self.board.lane(id)));
        old
    }

    /// Takes its lanes away: its process has ended.
    pub fn take_lanes(&mut self) -> Vec<(LaneId, Lane)> {
        let lanes = std::mem::take(&mut self.lanes);
        (0..).map(LaneId).zip(lanes).filter_map(|(id, lane)| Some((id, lane?))).collect()
    }

    /// Whether it takes from any lane.
    pub fn listens(&self) -> bool {
        self.lanes().any(|(_, lane)| lane.phase() == Phase::Listening)
    }

    /// All its lanes together, in numbers.
    pub fn figures(&self) -> Figures {
        self.lanes().map(|(_, lane)| lane.figures()).sum()
    }
}
