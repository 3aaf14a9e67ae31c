//! What workers say, and what is answered. What they want to listen on is in `listening.rs`.

use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::time::Duration;

use mio::unix::SourceFd;

use super::Primary;
use crate::primary::dialect::{DialectKind, Said, Welcome};
use crate::primary::events;
use crate::primary::hearing::HEARD_PER_TURN;
use crate::primary::lifecycle::{self, State};
use crate::primary::supervisor::Event;
use crate::protocol::control::IdleRule;
use crate::protocol::ids::WorkerId;
use crate::protocol::time::Monotonic;

/// What a worker was heard to say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Heard {
    /// It has nothing more to say for now.
    Nothing,
    /// What became of a connection that was dealt to it.
    Answer,
    /// Something else.
    Talk,
}

/// How much of a text of a worker is repeated to people.
const ECHO_MAX: usize = 200;

impl Primary {
    /// Hears what a worker has to say, for one turn and not before its time. The rest comes with
    /// [`hear_the_rest`](Self::hear_the_rest).
    pub(super) fn hear_worker(&mut self, id: WorkerId) {
        let begin = Monotonic::now();
        let Some(worker) = self.workers.get(id) else { return };
        let is_heard = worker.hearing.resumes_at() <= begin;
        let (mut heard, mut now, mut talked) = (Heard::Talk, begin, Duration::ZERO);
        while is_heard && heard != Heard::Nothing && now.since(begin) < HEARD_PER_TURN {
            let before = now;
            heard = self.hear_once(id);
            now = Monotonic::now();
            // An answer is part of a deal, of which the primary decides how many there are.
            if heard != Heard::Answer {
                talked += now.since(before);
            }
        }
        if let Some(worker) = self.workers.get_mut(id) {
            worker.hearing.took(begin, begin + talked);
        }
        let has_more = heard != Heard::Nothing;
        if has_more && !self.more_to_hear.contains(&id) {
            self.more_to_hear.push(id);
        }
    }

    /// When somebody who has more to say is to be heard again.
    pub(super) fn hearing_deadline(&self) -> Option<Monotonic> {
        let talkers = self.more_to_hear.iter().filter_map(|id| self.workers.get(*id));
        talkers.map(|worker| worker.hearing.resumes_at()).min()
    }

    /// Those that had more to say, as far as it is their time.
    pub(super) fn hear_the_rest(&mut self) {
        for id in std::mem::take(&mut self.more_to_hear) {
            self.hear_worker(id);
        }
    }

    /// There is something to hear; if the worker has closed its end of its channel, also that.
    pub(super) fn channel_has_become_readable(&mut self, id: WorkerId, is_closed: bool) {
        if let Some(worker) = self.workers.get_mut(id) {
            worker.dialect.has_become_readable(is_closed);
        }
    }

    /// Hears a dead worker to the end.
    pub(super) fn hear_last_words(&mut self, id: WorkerId) {
        self.channel_has_become_readable(id, true);
        let max = self.workers.get(id).map_or(0, |worker| worker.dialect.last_words_max());
        for _ in 0..max {
            if self.hear_once(id) == Heard::Nothing {
                break;
            }
        }
    }

    fn hear_once(&mut self, id: WorkerId) -> Heard {
        let Some(worker) = self.workers.get_mut(id).filter(|it| it.state() != State::Disconnected) else {
            return Heard::Nothing;
        };
        let Some(said) = worker.dialect.hear(&mut self.buffer) else { return Heard::Nothing };
        log::debug!("worker={id} said={said:?}");
        match said {
            Said::Hello { pid, open_files_max } => self.welcome(id, pid, open_files_max),
            Said::Listen(request) => self.listen(id, &request),
            Said::Listening(lane) => self.listening(id, lane),
            Said::ListeningAlone(address) => self.listening_alone(id, &echo(&address)),
            Said::Ready => self.ready_without_listening(id),
            Said::Took { lane, sequence } => {
                self.took(id, lane, sequence);
                return Heard::Answer;
            }
            Said::Refused { lane, sequence } => {
                self.refused(id, lane, sequence);
                return Heard::Answer;
            }
            Said::Close(lane) => self.close_lane_as_told(id, lane),
            Said::Message { body, fd } => self.pass_on(id, body, fd),
            Said::Noted => {}
            Said::Disconnect => self.wants_to_leave(id),
            Said::Unknown => log::debug!("worker={id} said something of a newer version [ignored]"),
            Said::Garbage(why) => {
                self.end_worker(id, &echo(&why));
                return Heard::Nothing;
            }
            Said::End => {
                self.disconnected(id);
                return Heard::Nothing;
            }
        }
        Heard::Talk
    }

    /// An answer could not be sent. A worker that has gone says so by its exit; one that does not read is ended.
    pub(super) fn cannot_answer(&mut self, id: WorkerId, error: &io::Error) {
        match error.kind() {
            io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => {}
            io::ErrorKind::WouldBlock => self.end_worker(id, "it does not read its control channel"),
            _ => self.end_worker(id, &format!("it cannot be answered: {error}")),
        }
    }

    pub(super) fn welcome(&mut self, id: WorkerId, pid: Option<u32>, open_files_max: u64) {
        let Some(worker) = self.workers.get_mut(id) else { return };
        if worker.apply(lifecycle::Event::Hello).is_err() {
            return self.end_worker(id, "it said hello twice");
        }
        worker.hello_pid = pid.and_then(|pid| i32::try_from(pid).ok());
        worker.open_files_max = open_files_max;
        self.subscribers.tell_of(worker.who(), || events::Event::Online { worker: id });
        log::debug!("worker={id} pid={} online open_files_max={open_files_max}", worker.process.pid());
        if worker.dialect.kind() == DialectKind::Node {
            self.bypass.expect(Monotonic::now());
        }
        let is_late = worker.state() == State::Draining;
        let (slot, generation, idle_timeout) = (worker.slot, worker.generation, self.settings.idle_timeout);
        let welcome = Welcome { worker: id, slot, generation, idle_timeout };
        let welcomed = worker.dialect.welcome(welcome, worker.board.as_fd());
        // One that was told to finish before it could hear is told again.
        let told = welcomed.and_then(|()| if is_late { worker.dialect.disconnect(IdleRule::Close) } else { Ok(()) });
        if let Err(error) = told {
            self.cannot_answer(id, &error);
        }
    }

    /// The worker wants to finish: it drains, and the order to do so is its answer. Whether somebody follows it is
    /// decided at its exit.
    fn wants_to_leave(&mut self, id: WorkerId) {
        let Some(worker) = self.workers.get_mut(id) else { return };
        worker.is_voluntary = true;
        // One that drains already has been told, or will be ended.
        if matches!(worker.state(), State::Online | State::Ready) {
            log::info!("worker={id} pid={} wants to finish", worker.process.pid());
            self.decide(Event::LeaveRequested(id));
        }
    }

    /// Once for every worker, whether it has closed its channel, was ended, or just died.
    pub(super) fn disconnected(&mut self, id: WorkerId) {
        let Some(worker) = self.workers.get_mut(id).filter(|it| it.state() != State::Disconnected) else { return };
        let voluntary = worker.is_voluntary;
        self.subscribers.tell_of(worker.who(), || events::Event::Disconnect { worker: id, voluntary });
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
