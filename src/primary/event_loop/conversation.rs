//! What workers say, and what is answered. What they want to listen on is in `listening.rs`.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

use mio::unix::SourceFd;

use super::Primary;
use crate::primary::dialect::Said;
use crate::primary::lifecycle::{self};
use crate::primary::supervisor::Event;
use crate::protocol::ids::WorkerId;

/// How much of a text of a worker is repeated to people.
const ECHO_MAX: usize = 200;
/// How many messages of one worker are heard in one turn of the loop.
const MESSAGES_PER_TURN: usize = 64;

impl Primary {
    pub(super) fn hear_worker(&mut self, id: WorkerId) {
        for _ in 0..MESSAGES_PER_TURN {
            let Some(worker) = self.workers.get(id) else { return };
            let Some(said) = worker.dialect.hear(&mut self.buffer) else { return };
            log::debug!("worker={id} said={said:?}");
            match said {
                Said::Hello { pid, open_files_max } => self.welcome(id, pid, open_files_max),
                Said::Listen(request) => self.listen(id, &request),
                Said::Listening(lane) => self.listening(id, lane),
                Said::ListeningAlone(address) => self.listening_alone(id, &echo(&address)),
                Said::Close(lane) => self.close_lane_as_told(id, lane),
                Said::Unknown => log::debug!("worker={id} said something of a newer version [ignored]"),
                Said::Garbage(why) => return self.end_worker(id, &echo(&why)),
                Said::End => return self.disconnected(id),
            }
        }
        self.more_to_hear.push(id);
    }

    /// Those that had more to say than one turn allows.
    pub(super) fn hear_the_rest(&mut self) {
        for id in std::mem::take(&mut self.more_to_hear) {
            self.hear_worker(id);
        }
    }

    /// An answer could not be sent. A worker that has gone says so by its exit; one that does not read is ended.
    pub(super) fn cannot_answer(&mut self, id: WorkerId, error: &io::Error) {
        match error.kind() {
            io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => {}
            io::ErrorKind::WouldBlock => self.end_worker(id, "it does not read its control channel"),
            _ => self.end_worker(id, &format!("it cannot be answered: {error}")),
        }
    }

    pub(super) fn welcome(&mut self, id: WorkerId, pid: u32, open_files_max: u64) {
        let Some(worker) = self.workers.get_mut(id) else { return };
        if worker.apply(lifecycle::Event::Hello).is_err() {
            return self.end_worker(id, "it said hello twice");
        }
        worker.hello_pid = i32::try_from(pid).ok();
        worker.open_files_max = open_files_max;
        log::debug!("worker={id} pid={pid} online open_files_max={open_files_max}");
        if let Err(error) = worker.dialect.welcome(id, worker.slot, worker.generation, worker.board.as_fd()) {
            self.cannot_answer(id, &error);
        }
    }

    pub(super) fn disconnected(&mut self, id: WorkerId) {
        let Some(worker) = self.workers.get_mut(id) else { return };
        let fd = worker.dialect.as_fd().as_raw_fd();
        let _ = self.poll.registry().deregister(&mut SourceFd(&fd));
        let _ = worker.apply(lifecycle::Event::ChannelEnded);
        self.close_lanes(id);
        self.decide(Event::Disconnected(id));
    }
}

/// A text of a worker as it may stand in a log line.
pub(super) fn echo(text: &str) -> String {
    text.escape_debug().take(ECHO_MAX).collect()
}
