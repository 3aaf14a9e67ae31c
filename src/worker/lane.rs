//! The worker's part of a lane: the end on which it takes, and the account it keeps for the primary.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};

use crate::protocol::Wait;
use crate::protocol::deal_channel::{Took, WorkerEnd};
use crate::protocol::ids::LaneId;
use crate::protocol::record::Record;
use crate::protocol::scoreboard::{LaneBoard, Pause};
use crate::protocol::time::Monotonic;
use crate::sys::limits;

/// Descriptors that a take leaves free: a connection that arrives under a number as high as that is refused, because
/// without a free one the next would be lost on the way.
const SPARE_FDS: u64 = 8;

/// One lane. Shared by the listener and every connection that came through it.
#[derive(Debug)]
pub(super) struct Lane {
    pub(super) id: LaneId,
    end: WorkerEnd,
    board: LaneBoard,
    /// Descriptor numbers from here on are too high to keep.
    refuse_from_fd: u64,
    is_closed: AtomicBool,
}

impl Lane {
    pub(super) fn new(id: LaneId, end: OwnedFd, board: LaneBoard) -> Self {
        let open_files_max = limits::open_files().map_or(u64::MAX, |limit| limit.soft);
        let refuse_from_fd = open_files_max.saturating_sub(SPARE_FDS);
        Self { id, end: WorkerEnd::from_fd(end), board, refuse_from_fd, is_closed: AtomicBool::new(false) }
    }

    /// True once: the primary is to be told. A second time its number may be another lane's.
    pub(super) fn close(&self) -> bool {
        !self.is_closed.swap(true, Ordering::Relaxed)
    }

    /// Takes and counts the next connection; `None` is the end of the lane. Probes are answered and not shown.
    pub(super) fn take(&self, wait: Wait) -> io::Result<Option<(Record, OwnedFd)>> {
        loop {
            match self.end.take(wait)? {
                Took::Connection(record, connection) => {
                    self.count_taken(&record);
                    if connection.as_raw_fd() as u64 >= self.refuse_from_fd {
                        self.refuse(&record, connection);
                        continue;
                    }
                    return Ok(Some((record, connection)));
                }
                Took::Probe => self.end.kick(),
                Took::Socket(_) => log::warn!("the primary sent a listener's socket twice [ignored]"),
                Took::Lost(record) => {
                    log::error!("connection={} lost: no file descriptor left in this worker", record.sequence);
                    self.count_taken(&record);
                    self.count_closed();
                }
                Took::End => return Ok(None),
            }
        }
    }

    /// The listener's own socket: what comes first through a shared lane. `None` if the lane has ended already.
    pub(super) fn take_socket(&self) -> io::Result<Option<OwnedFd>> {
        loop {
            match self.end.take(Wait::Block)? {
                Took::Socket(socket) => return Ok(Some(socket)),
                Took::End => return Ok(None),
                Took::Connection(..) | Took::Lost(_) => return Err(io::ErrorKind::InvalidData.into()),
                Took::Probe => self.end.kick(),
            }
        }
    }

    /// Whether a shared lane, through which nothing else comes, has ended.
    pub(super) fn has_ended(&self) -> bool {
        match self.take(Wait::Never) {
            Ok(took) => took.is_none(),
            Err(error) => error.kind() != io::ErrorKind::WouldBlock,
        }
    }

    /// Counts a connection that this process has accepted from the listener's own socket.
    pub(super) fn count_accepted(&self) {
        // Nobody deals, so nobody waits for a kick.
        let _ = self.board.count_taken(None);
    }

    /// Descriptors are allotted lowest first: so high a number says that nearly none is left.
    fn refuse(&self, record: &Record, connection: OwnedFd) {
        if self.board.change_pause(Pause::None, Pause::NoDescriptors) {
            self.end.kick();
        }
        match self.end.give_back(record, connection.as_fd()) {
            Ok(()) => log::warn!("connection={} refused: few file descriptors are left [given back]", record.sequence),
            Err(error) => log::error!("connection={} ended: no file descriptors, and {error}", record.sequence),
        }
        drop(connection);
        self.count_one_closed();
    }

    /// Returns a connection to the primary. It is counted closed by its guard.
    pub(super) fn give_back(&self, record: &Record, connection: BorrowedFd<'_>) -> io::Result<()> {
        self.end.give_back(record, connection)
    }

    /// Tells the primary whether this lane wants connections.
    pub(super) fn pause(&self, pause: Pause) {
        if self.board.set_pause(pause) {
            self.end.kick();
        }
    }

    fn count_taken(&self, record: &Record) {
        // One that another worker gave back was accepted long ago, and did not wait since.
        let waited = (!record.given_back).then(|| Monotonic::now().since(record.accepted));
        if self.board.count_taken(waited) {
            self.end.kick();
        }
    }

    pub(super) fn count_closed(&self) {
        self.count_one_closed();
        if self.board.pause() == Pause::NoDescriptors && self.board.change_pause(Pause::NoDescriptors, Pause::None) {
            self.end.kick();
        }
    }

    fn count_one_closed(&self) {
        if self.board.count_closed() {
            self.end.kick();
        }
    }
}

impl AsFd for Lane {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.end.as_fd()
    }
}
