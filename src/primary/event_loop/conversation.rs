//! What workers say, and what is answered.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

use mio::Interest;
use mio::unix::SourceFd;
use nix::errno::Errno;

use super::token::Source;
use super::{Primary, UNASKED_AFTER};
use crate::primary::dialect::{ListenRequest, Said};
use crate::primary::lanes::Phase;
use crate::primary::lifecycle::{self, State};
use crate::primary::room::Bounds;
use crate::primary::settings::OPEN_FILES_RESERVED;
use crate::primary::supervisor::Event;
use crate::protocol::deal_channel;
use crate::protocol::ids::{LaneId, WorkerId};
use crate::protocol::scoreboard::LANES_MAX;
use crate::protocol::time::Monotonic;

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
                Said::Listen(request) => self.listen(id, request),
                Said::Listening(lane) => self.listening(id, lane),
                Said::Close(lane) => self.close_lane(id, lane),
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
    fn cannot_answer(&mut self, id: WorkerId, error: &io::Error) {
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

    pub(super) fn listen(&mut self, id: WorkerId, wanted: ListenRequest) {
        let granted = match self.find_listener(wanted.address.as_deref()) {
            Some(index) => self.open_lane(id, index, &wanted),
            None => self.refuse_undeclared(id, &wanted),
        };
        match granted {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
                self.end_worker(id, "it asked to listen before it said hello");
            }
            Err(error) => self.cannot_answer(id, &error),
        }
    }

    pub(super) fn find_listener(&self, wanted: Option<&str>) -> Option<usize> {
        match wanted {
            None => (!self.listeners.is_empty()).then_some(0),
            Some(wanted) => self.listeners.iter().position(|listener| listener.answers_to(wanted)),
        }
    }

    pub(super) fn refuse_undeclared(&mut self, id: WorkerId, wanted: &ListenRequest) -> io::Result<()> {
        let Some(worker) = self.workers.get(id) else { return Ok(()) };
        let address = echo(wanted.address.as_deref().unwrap_or_default());
        let declared: Vec<String> = self.listeners.iter().map(|listener| listener.address().to_string()).collect();
        let reason = format!("{address} is not declared; --listen declares {}", declared.join(" "));
        log::warn!("worker={id} refused listen: {reason}");
        worker.dialect.refuse(wanted.request, Errno::EADDRNOTAVAIL as i32, reason)
    }

    /// Answers with a new lane of a listener, or with why there is none.
    pub(super) fn open_lane(&mut self, id: WorkerId, index: usize, wanted: &ListenRequest) -> io::Result<()> {
        let bounds = self.bounds(id, wanted);
        let listener = &mut self.listeners[index];
        listener.is_asked_for = true;
        let Some(worker) = self.workers.get_mut(id) else { return Ok(()) };
        if !worker.state().hears() {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        if worker.lanes().any(|(_, lane)| lane.listener == index && lane.phase() != Phase::Ended) {
            let reason = format!("this worker listens on {} already", listener.address());
            return worker.dialect.refuse(wanted.request, Errno::EADDRINUSE as i32, reason);
        }
        let Some(lane_id) = worker.free_lane() else {
            let reason = format!("a worker can have {LANES_MAX} listeners");
            return worker.dialect.refuse(wanted.request, Errno::EMFILE as i32, reason);
        };
        let ends = match deal_channel::pair() {
            Ok(ends) => ends,
            Err(error) => {
                let reason = format!("the primary has no file descriptor left: {error}");
                return worker.dialect.refuse(wanted.request, Errno::ENFILE as i32, reason);
            }
        };
        let token = Source::Deal(id, lane_id).token();
        self.poll.registry().register(&mut SourceFd(&ends.0.as_fd().as_raw_fd()), token, Interest::READABLE)?;
        let address = listener.address().to_string();
        worker.dialect.grant(wanted.request, lane_id, address, ends.1.as_fd())?;
        let is_draining = worker.state() == State::Draining;
        worker.open_lane(lane_id, index, ends, bounds);
        if let Some(lane) = worker.lane_mut(lane_id).filter(|_| is_draining) {
            // Its other lanes were ended when it was told to finish; this one must not keep it.
            lane.end();
        }
        Ok(())
    }

    /// The primary's bounds, or the worker's where they are lower.
    pub(super) fn bounds(&self, id: WorkerId, wanted: &ListenRequest) -> Bounds {
        let open_files_max = self.workers.get(id).map_or(0, |worker| worker.open_files_max);
        let share = open_files_max.saturating_sub(OPEN_FILES_RESERVED) / self.listeners.len().max(1) as u64;
        let connections_max = self.settings.connections_max.unwrap_or(share);
        let queue_max = u64::from(self.settings.queue_max);
        Bounds {
            queue_max: wanted.queue_max.map_or(queue_max, |own| queue_max.min(own.into())).max(1),
            connections_max: wanted
                .connections_max
                .map_or(connections_max, |own| connections_max.min(own.into()))
                .max(1),
        }
    }

    pub(super) fn listening(&mut self, id: WorkerId, lane_id: LaneId) {
        let may_serve = self.supervisor.may_serve(id);
        let Some(worker) = self.workers.get_mut(id) else { return };
        let Some(lane) = worker.lane_mut(lane_id) else {
            return self.end_worker(id, &format!("it listens on lane {lane_id}, which it does not have"));
        };
        if !may_serve || !lane.set_listening() {
            return; // it was told to finish in the meantime, and its seat may be somebody else's
        }
        let listener = &self.listeners[lane.listener];
        if worker.apply(lifecycle::Event::Listening).is_err() {
            return self.end_worker(id, "it listens before it said hello");
        }
        if worker.ready_since.is_none() && !worker.has_exited {
            let now = Monotonic::now();
            worker.ready_since = Some(now);
            log::info!("worker={id} pid={} listening on {}", worker.process.pid(), listener.address());
            if self.unasked_at.is_none() && id.0 <= self.settings.plan.worker_count {
                self.unasked_at = Some(now + UNASKED_AFTER);
            }
            self.decide(Event::Ready(id));
        }
        if self.supervisor.holds_slot(id) {
            self.seat(id);
        } else if !self.supervisor.expects(id) {
            // It was turned away, or replaced, in the meantime: the seat is another's.
            if let Some(lane) = self.workers.lane_mut(id, lane_id) {
                lane.end();
            }
        }
    }

    /// A worker gets its seats in the rotations, wherever it listens. Whoever sat there has been replaced.
    pub(super) fn seat(&mut self, id: WorkerId) {
        let Some(worker) = self.workers.get_mut(id).filter(|worker| worker.state() == State::Ready) else { return };
        let slot = worker.slot.0 as usize;
        for lane_id in worker.lane_ids() {
            if let Some(lane) = worker.lane_mut(lane_id).filter(|lane| lane.phase() == Phase::Listening)
                && !lane.stall.is_probed()
            {
                self.listeners[lane.listener].seat(slot, id, lane_id);
            }
        }
        for lane_id in self.workers.get(id).map(|worker| worker.lane_ids()).unwrap_or_default() {
            self.look_for_room(id, lane_id);
        }
    }

    /// The worker takes no more from a lane: the lane ends, and what is untaken goes to others.
    pub(super) fn close_lane(&mut self, id: WorkerId, lane_id: LaneId) {
        let Some(worker) = self.workers.get_mut(id) else { return };
        let slot = worker.slot.0 as usize;
        let Some(lane) = worker.lane_mut(lane_id) else { return };
        let listener = &mut self.listeners[lane.listener];
        listener.unseat(slot, id, lane_id);
        lane.end();
        if let Some(retained) = lane.take_retained() {
            listener.returned.inherit_untaken(retained, (id, lane_id), Monotonic::now());
        }
        if !worker.listens() && worker.apply(lifecycle::Event::LastClosed).is_err() {
            self.end_worker(id, "it closed a lane before it said hello");
        }
    }

    pub(super) fn close_lanes(&mut self, id: WorkerId) {
        let lanes = self.workers.get(id).map(|worker| worker.lane_ids()).unwrap_or_default();
        for lane in lanes {
            self.close_lane(id, lane);
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
fn echo(text: &str) -> String {
    text.escape_debug().take(ECHO_MAX).collect()
}
