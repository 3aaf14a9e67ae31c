//! What goes on whatever the primary does, and over its upgrades too: clients, channels, scoreboards, processes.
//!
//! A worker's moves are those of `src/worker/lane.rs` and `src/worker/connection.rs`: change them together.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};

use croupier::protocol::handshake::{self, NO_KICK};
use croupier::protocol::ids::WorkerId;
use croupier::protocol::scoreboard::{Counts, KickAt, Pause};

/// A connection is its number in the order of the accepts.
pub type Connection = u64;

/// The words of one lane, as on the scoreboard.
#[derive(Debug)]
pub struct Board {
    taken: AtomicU64,
    closed: AtomicU64,
    kick_at_taken: AtomicU64,
    kick_at_closed: AtomicU64,
    pub pause: Pause,
}

impl Board {
    fn new() -> Self {
        let zero = || AtomicU64::new(0);
        let pause = Pause::None;
        Self { taken: zero(), closed: zero(), kick_at_taken: zero(), kick_at_closed: zero(), pause }
    }

    pub fn counts(&self) -> Counts {
        let closed = self.closed.load(Ordering::Acquire);
        Counts { taken: self.taken.load(Ordering::Acquire), closed }
    }

    pub fn ask_for_kick(&self, at: KickAt) -> Counts {
        let closed = handshake::ask_for_kick(&self.closed, &self.kick_at_closed, at.closed);
        Counts { taken: handshake::ask_for_kick(&self.taken, &self.kick_at_taken, at.taken), closed }
    }

    pub fn want_no_kick(&self) {
        self.kick_at_taken.store(NO_KICK, Ordering::Relaxed);
        self.kick_at_closed.store(NO_KICK, Ordering::Relaxed);
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Down {
    Connection(Connection),
    Probe,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Up {
    Kick,
    GivenBack(Connection),
}

/// The deal channel of one lane, and its scoreboard.
#[derive(Debug)]
pub struct Channel {
    pub worker: WorkerId,
    /// What the worker and the primary may both receive.
    pub down: VecDeque<Down>,
    pub up: VecDeque<Up>,
    /// Shut down by the primary: the worker sees the end after what is queued.
    pub has_ended: bool,
    pub board: Board,
    /// Something has come up since the primary last listened: an edge of epoll.
    pub has_news: bool,
    /// A kick has found no place, so the primary need not know what it was about.
    pub has_lost_kick: bool,
    /// A probe was left, and the worker has not received it.
    pub is_asleep: bool,
    /// How often the primary has looked since the worker last took one, or had nothing to take.
    pub looks: u32,
}

impl Channel {
    pub fn untaken(&self) -> impl Iterator<Item = Connection> {
        self.down.iter().filter_map(|message| match message {
            Down::Connection(connection) => Some(*connection),
            Down::Probe => None,
        })
    }

    pub fn given_back(&self) -> impl Iterator<Item = Connection> {
        self.up.iter().filter_map(|message| match message {
            Up::GivenBack(connection) => Some(*connection),
            Up::Kick => None,
        })
    }
}

/// What a worker says on its control channel.
#[derive(Debug, Clone, Copy)]
pub enum Says {
    Hello,
    Listen,
    Listening(usize),
    Close(usize),
}

#[derive(Debug, Default)]
pub struct Process {
    pub is_alive: bool,
    pub says: VecDeque<Says>,
    /// The answer to `listen`.
    pub granted: Option<usize>,
    /// Where it takes from.
    pub taking: Option<usize>,
    /// What it has, and through which channel it came.
    pub open: Vec<(Connection, usize)>,
    pub has_said_hello: bool,
    pub is_asking: bool,
    /// It was told to finish.
    pub is_finishing: bool,
    /// It was sent SIGTERM, and will end in its own time.
    pub is_terminated: bool,
}

#[derive(Debug)]
pub struct Kernel {
    /// How many messages a socket takes.
    pub socket_max: usize,
    pub arrived: Connection,
    pub backlog: VecDeque<Connection>,
    pub channels: Vec<Channel>,
    pub processes: BTreeMap<WorkerId, Process>,
    /// Closed by the worker that had them, or ended by its death.
    pub ended: BTreeSet<Connection>,
    /// The next send fails for want of something that no other worker has either.
    pub is_exhausted: bool,
}

impl Kernel {
    pub fn new(socket_max: usize) -> Self {
        Self {
            socket_max,
            arrived: 0,
            backlog: VecDeque::new(),
            channels: Vec::new(),
            processes: BTreeMap::new(),
            ended: BTreeSet::new(),
            is_exhausted: false,
        }
    }

    pub fn arrive(&mut self, count: u64) {
        self.backlog.extend(self.arrived + 1..=self.arrived + count);
        self.arrived += count;
    }

    pub fn open_channel(&mut self, worker: WorkerId) -> usize {
        self.channels.push(Channel {
            worker,
            down: VecDeque::new(),
            up: VecDeque::new(),
            has_ended: false,
            board: Board::new(),
            has_news: false,
            has_lost_kick: false,
            is_asleep: false,
            looks: 0,
        });
        self.channels.len() - 1
    }

    pub fn living(&self) -> Vec<WorkerId> {
        self.processes.iter().filter(|(_, process)| process.is_alive).map(|(id, _)| *id).collect()
    }

    pub fn process(&mut self, worker: WorkerId) -> &mut Process {
        self.processes.get_mut(&worker).expect("started")
    }

    pub fn has_room_below(&self, channel: usize) -> bool {
        self.channels[channel].down.len() < self.socket_max
    }

    // What workers do.

    /// The next step to a lane: hello and listen, listening, or listen again after a close.
    pub fn talk(&mut self, worker: WorkerId) {
        let process = self.process(worker);
        if !process.has_said_hello {
            process.has_said_hello = true;
            process.is_asking = true;
            process.says.extend([Says::Hello, Says::Listen]);
        } else if let Some(channel) = process.granted.take() {
            process.is_asking = false;
            process.taking = Some(channel);
            process.says.push_back(Says::Listening(channel));
        } else if process.taking.is_none() && !process.is_asking && !process.is_finishing {
            process.is_asking = true;
            process.says.push_back(Says::Listen);
        }
    }

    pub fn close_lane(&mut self, worker: WorkerId) {
        let process = self.process(worker);
        if let Some(channel) = process.taking.take() {
            process.says.push_back(Says::Close(channel));
        }
    }

    fn receive(&mut self, worker: WorkerId) -> Option<(Connection, usize)> {
        let index = self.process(worker).taking?;
        loop {
            let channel = &mut self.channels[index];
            match channel.down.pop_front()? {
                Down::Probe => {
                    channel.is_asleep = false;
                    self.send_up(index, Up::Kick);
                }
                Down::Connection(connection) => {
                    channel.looks = 0;
                    let Board { taken, kick_at_taken, .. } = &channel.board;
                    if handshake::count_one(taken, kick_at_taken) {
                        self.send_up(index, Up::Kick);
                    }
                    return Some((connection, index));
                }
            }
        }
    }

    pub fn take(&mut self, worker: WorkerId) {
        if let Some(taken) = self.receive(worker) {
            self.process(worker).open.push(taken);
        }
    }

    /// It takes one, and has no descriptor to keep it.
    pub fn refuse(&mut self, worker: WorkerId) {
        let Some((connection, channel)) = self.receive(worker) else { return };
        self.set_pause(channel, Pause::NoDescriptors);
        if !self.send_up(channel, Up::GivenBack(connection)) {
            assert!(self.ended.insert(connection));
        }
        self.count_closed(channel);
    }

    pub fn close(&mut self, worker: WorkerId, position: usize) {
        let (connection, channel) = self.process(worker).open.swap_remove(position);
        assert!(self.ended.insert(connection), "connection {connection} ended twice");
        self.count_dropped(channel);
    }

    /// Returns a live connection, unless the channel is full.
    pub fn give_back(&mut self, worker: WorkerId, position: usize) {
        let (connection, channel) = self.process(worker).open[position];
        if self.send_up(channel, Up::GivenBack(connection)) {
            self.process(worker).open.swap_remove(position);
            self.count_dropped(channel);
        }
    }

    pub fn pause(&mut self, worker: WorkerId, pause: Pause) {
        if let Some(channel) = self.process(worker).taking {
            self.set_pause(channel, pause);
        }
    }

    pub fn kick(&mut self, worker: WorkerId) {
        if let Some(channel) = self.process(worker).taking {
            self.send_up(channel, Up::Kick);
        }
    }

    pub fn die(&mut self, worker: WorkerId) {
        let process = self.process(worker);
        process.is_alive = false;
        process.taking = None;
        let open = std::mem::take(&mut process.open);
        for (connection, _) in open {
            assert!(self.ended.insert(connection), "connection {connection} ended twice");
        }
    }

    fn set_pause(&mut self, channel: usize, pause: Pause) {
        if std::mem::replace(&mut self.channels[channel].board.pause, pause) != pause {
            self.send_up(channel, Up::Kick);
        }
    }

    fn count_dropped(&mut self, channel: usize) {
        self.count_closed(channel);
        if self.channels[channel].board.pause == Pause::NoDescriptors {
            self.set_pause(channel, Pause::None);
        }
    }

    fn count_closed(&mut self, channel: usize) {
        let Board { closed, kick_at_closed, .. } = &self.channels[channel].board;
        if handshake::count_one(closed, kick_at_closed) {
            self.send_up(channel, Up::Kick);
        }
    }

    fn send_up(&mut self, channel: usize, message: Up) -> bool {
        let socket_max = self.socket_max;
        let channel = &mut self.channels[channel];
        let is_room = channel.up.len() < socket_max;
        if is_room {
            channel.up.push_back(message);
            channel.has_news = true;
        }
        channel.has_lost_kick = !is_room;
        is_room
    }
}
