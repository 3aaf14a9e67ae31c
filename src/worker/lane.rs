//! The worker's part of a lane: the end on which it takes, and the account it keeps for the primary.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use crate::protocol::Wait;
use crate::protocol::deal_channel::{Took, WorkerEnd};
use crate::protocol::ids::LaneId;
use crate::protocol::record::Record;
use crate::protocol::scoreboard::LaneBoard;
use crate::protocol::time::Monotonic;

/// One lane. Shared by the listener and every connection that came through it.
#[derive(Debug)]
pub(super) struct Lane {
    pub(super) id: LaneId,
    end: WorkerEnd,
    board: LaneBoard,
}

impl Lane {
    pub(super) fn new(id: LaneId, end: OwnedFd, board: LaneBoard) -> Self {
        Self { id, end: WorkerEnd::from_fd(end), board }
    }

    /// Takes and counts the next connection; `None` is the end of the lane. Probes are answered and not shown.
    pub(super) fn take(&self, wait: Wait) -> io::Result<Option<(Record, OwnedFd)>> {
        loop {
            match self.end.take(wait)? {
                Took::Connection(record, connection) => {
                    self.count_taken(&record);
                    return Ok(Some((record, connection)));
                }
                Took::Probe => self.end.kick(),
                Took::Lost(record) => {
                    log::error!("connection={} lost: no file descriptor left in this worker", record.sequence);
                    self.count_taken(&record);
                    self.count_closed();
                }
                Took::End => return Ok(None),
            }
        }
    }

    fn count_taken(&self, record: &Record) {
        if self.board.count_taken(Monotonic::now().since(record.accepted)) {
            self.end.kick();
        }
    }

    pub(super) fn count_closed(&self) {
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
