//! Letting answers gather: a Node worker answers twice for every connection, and each answer would wake the primary.
//! While everybody has enough to do, it lets a moment pass and hears what has come together.

use std::thread;
use std::time::Duration;

use super::Primary;
use crate::primary::dialect::DialectKind;
use crate::primary::workers::Worker;

/// How long it lets pass. The kernel adds some 50 us (`timerslack_ns`, prctl(2)).
const PAUSE: Duration = Duration::from_micros(250);

/// A Node worker that has not answered for so many connections of a lane is busy for longer than [`PAUSE`]: each takes
/// it some 100 us. So nobody becomes idle meanwhile, and nobody new could be served sooner. With a smaller
/// `--node-depth` there are no pauses.
const BUSY_FROM: u64 = 6;

impl Primary {
    /// Sleeps for [`PAUSE`] if all workers are Node programs, and busy. Those that are stuck count as busy: then it is
    /// one pause before each wait for an event, and no more.
    pub(super) fn let_answers_gather(&self) {
        let mut workers = self.workers.iter().peekable();
        if workers.peek().is_some() && workers.all(is_busy) {
            thread::sleep(PAUSE);
        }
    }
}

fn is_busy(worker: &Worker) -> bool {
    worker.dialect.kind() == DialectKind::Node && worker.lanes().any(|(_, lane)| lane.untaken() >= BUSY_FROM)
}
