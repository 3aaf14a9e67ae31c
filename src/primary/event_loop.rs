//! The primary's one loop: readiness becomes an event, a pure file decides, the effect is carried out here.

use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::time::Duration;

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use nix::errno::Errno;

use super::address::Address;
use super::dealing::{self, Stopped};
use super::dialect::native::{Buffer, Native};
use super::dialect::{ListenRequest, Said};
use super::lifecycle;
use super::listeners::{BindError, Listener};
use super::room::Bounds;
use super::settings::{OPEN_FILES_RESERVED, Settings};
use super::supervisor::{Effect, Ended, Event, KillReason, Outcome, Stop, Supervisor};
use super::workers::Register;
use crate::protocol::bootstrap;
use crate::protocol::control::IdleRule;
use crate::protocol::deal_channel::{self, FromBelow};
use crate::protocol::ids::{LaneId, Slot, WorkerId};
use crate::protocol::scoreboard::{LANES_MAX, Scoreboard};
use crate::protocol::time::Monotonic;
use crate::sys::process::{self, Exit, Launch, Process};
use crate::sys::signals::{Signal, Signals};

/// How long after the first worker is ready a declared listener that nobody asked for is worth a warning.
const UNASKED_AFTER: Duration = Duration::from_secs(2);

/// A primary with its listeners bound.
#[derive(Debug)]
pub struct Primary {
    settings: Settings,
    poll: Poll,
    signals: Option<Signals>,
    listeners: Vec<Listener>,
    workers: Register,
    supervisor: Supervisor,
    /// Connections accepted so far.
    sequence: u64,
    outcome: Option<Outcome>,
    /// How the last worker that never became ready failed, for people.
    last_failure: Option<String>,
    interrupted: bool,
    is_ending: bool,
    unasked_at: Option<Monotonic>,
    buffer: Buffer,
}

/// How a primary ended.
#[derive(Debug)]
pub struct Ending {
    /// Why.
    pub outcome: Outcome,
    /// How the last worker that never became ready failed, for people.
    pub last_failure: Option<String>,
}

/// A primary could not be made.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// An address could not be bound.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// The event loop could not be made.
    #[error("start the event loop: {0}")]
    EventLoop(#[from] io::Error),
}

/// What a token stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Source {
    Signals,
    Listener(usize),
    Control(WorkerId),
    Exit(WorkerId),
    Deal(WorkerId, LaneId),
}

impl Primary {
    /// Binds every listener. No worker is started yet.
    ///
    /// # Errors
    /// [`StartError`]; what was bound is released again.
    pub fn bind(settings: Settings) -> Result<Self, StartError> {
        let poll = Poll::new()?;
        let mut listeners = Vec::new();
        for address in &settings.listeners {
            let mut listener = Listener::bind(address, settings.backlog)?;
            listener.register(poll.registry(), Source::Listener(listeners.len()).token())?;
            listeners.push(listener);
        }
        Ok(Self {
            supervisor: Supervisor::new(settings.plan),
            settings,
            poll,
            signals: None,
            listeners,
            workers: Register::default(),
            sequence: 0,
            outcome: None,
            last_failure: None,
            interrupted: false,
            is_ending: false,
            unasked_at: None,
            buffer: Buffer::default(),
        })
    }

    /// The real addresses of the listeners.
    pub fn addresses(&self) -> impl Iterator<Item = &Address> {
        self.listeners.iter().map(Listener::address)
    }

    /// Obeys these signals as `OPERATIONS` says: TERM and QUIT stop gracefully, INT too and the second one fast.
    ///
    /// # Errors
    /// Those of epoll_ctl(2).
    pub fn obey(&mut self, signals: Signals) -> io::Result<()> {
        let fd = signals.as_fd().as_raw_fd();
        self.poll.registry().register(&mut SourceFd(&fd), Source::Signals.token(), Interest::READABLE)?;
        self.signals = Some(signals);
        Ok(())
    }

    /// Starts the workers and deals until the end.
    ///
    /// # Errors
    /// Those of epoll_wait(2): none is expected.
    pub fn run(mut self) -> io::Result<Ending> {
        let mut events = Events::with_capacity(1024);
        self.decide(Event::Begun);
        loop {
            self.let_time_pass();
            let more = self.deal_all();
            self.close_listeners_if_empty();
            if let Some(outcome) = self.outcome {
                return Ok(Ending { outcome, last_failure: self.last_failure });
            }
            let timeout = if more { Some(Duration::ZERO) } else { self.timeout() };
            match self.poll.poll(&mut events, timeout) {
                Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(error),
                _ => {}
            }
            for event in &events {
                match Source::of(event.token()) {
                    Source::Listener(index) => self.listeners[index].has_become_readable(),
                    Source::Deal(worker, lane) => self.hear_from_below(worker, lane),
                    Source::Control(worker) => self.hear_worker(worker),
                    Source::Exit(worker) => self.see_exit(worker),
                    Source::Signals => self.hear_signals(),
                }
            }
        }
    }

    fn timeout(&self) -> Option<Duration> {
        let of_listeners = self.listeners.iter().filter_map(Listener::deadline);
        let due = of_listeners.chain(self.supervisor.deadline()).chain(self.unasked_at).min()?;
        Some(due.since(Monotonic::now()))
    }

    fn let_time_pass(&mut self) {
        let now = Monotonic::now();
        if self.supervisor.deadline().is_some_and(|deadline| now >= deadline) {
            self.decide(Event::TimePassed);
        }
        if self.unasked_at.is_some_and(|at| now >= at) {
            self.unasked_at = None;
            for listener in self.listeners.iter().filter(|listener| !listener.is_asked_for) {
                let command = self.settings.command.display();
                log::warn!(
                    "listener={} no worker has asked for it [clients wait]: does `{command}` listen there?",
                    listener.address()
                );
            }
        }
        for listener in &mut self.listeners {
            listener.let_time_pass(now);
        }
    }

    // Dealing.

    /// True if there may be more to deal at once.
    fn deal_all(&mut self) -> bool {
        let now = Monotonic::now();
        let mut more = false;
        for index in 0..self.listeners.len() {
            while self.listeners[index].may_have_connections(now) {
                match dealing::deal(&mut self.listeners[index], &mut self.workers, &mut self.sequence, now) {
                    Stopped::NothingToDeal | Stopped::NoRoom => break,
                    Stopped::TurnOver => {
                        more = true;
                        break;
                    }
                    Stopped::BadWorker(worker, why) => self.end_worker(worker, &why),
                }
            }
        }
        more
    }

    /// The end of an ending: nobody new comes, and everybody who was there is dealt.
    fn close_listeners_if_empty(&mut self) {
        if self.is_ending && self.listeners.iter().all(Listener::has_ended) {
            self.close_listeners();
            self.decide(Event::ListenersEnded);
        }
    }

    fn hear_from_below(&mut self, worker: WorkerId, lane_id: LaneId) {
        let Some(lane) = self.workers.lane_mut(worker, lane_id) else { return };
        while let Some(heard) = lane.primary_end.hear() {
            match heard {
                FromBelow::Kick => {}
                FromBelow::Malformed => return self.end_worker(worker, "it sent garbage on a deal channel"),
            }
        }
        self.look_for_room(worker, lane_id);
    }

    fn look_for_room(&mut self, id: WorkerId, lane_id: LaneId) {
        let Some(worker) = self.workers.get_mut(id) else { return };
        let (slot, is_ready) = (worker.slot.0 as usize, worker.state().is_ready());
        let Some(lane) = worker.lane_mut(lane_id) else { return };
        let listener = &mut self.listeners[lane.listener];
        if !is_ready || !lane.is_listening() || listener.lanes.get(slot) != Some(&Some((id, lane_id))) {
            return;
        }
        match lane.look_or_ask_for_kick() {
            Ok(has_room) => listener.rotation.set_room(slot, has_room),
            Err(impossible) => self.end_worker(id, &impossible.to_string()),
        }
    }

    // What workers say.

    fn hear_worker(&mut self, id: WorkerId) {
        while let Some(worker) = self.workers.get(id) {
            let Some(said) = worker.dialect.hear(&mut self.buffer) else { return };
            log::debug!("worker={id} said={said:?}");
            match said {
                Said::Hello { pid, open_files_max } => self.welcome(id, pid, open_files_max),
                Said::Listen(request) => self.listen(id, request),
                Said::Listening(lane) => self.listening(id, lane),
                Said::Close(lane) => self.close_lane(id, lane),
                Said::Unknown => log::info!("worker={id} said something of a newer version [ignored]"),
                Said::Garbage(why) => return self.end_worker(id, &why),
                Said::End => return self.disconnected(id),
            }
        }
    }

    fn welcome(&mut self, id: WorkerId, pid: u32, open_files_max: u64) {
        let Some(worker) = self.workers.get_mut(id) else { return };
        if worker.apply(lifecycle::Event::Hello).is_err() {
            return self.end_worker(id, "it said hello twice");
        }
        worker.open_files_max = open_files_max;
        log::debug!("worker={id} pid={pid} online open_files_max={open_files_max}");
        if let Err(error) = worker.dialect.welcome(id, worker.slot, 0, worker.board.as_fd()) {
            self.end_worker(id, &format!("it does not read its control channel: {error}"));
        }
    }

    fn listen(&mut self, id: WorkerId, wanted: ListenRequest) {
        let granted = match self.find_listener(wanted.address.as_deref()) {
            Some(index) => self.open_lane(id, index, &wanted),
            None => self.refuse_undeclared(id, &wanted),
        };
        match granted {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
                self.end_worker(id, "it asked to listen before it said hello");
            }
            Err(error) => self.end_worker(id, &format!("it does not read its control channel: {error}")),
        }
    }

    fn find_listener(&self, wanted: Option<&str>) -> Option<usize> {
        match wanted {
            None => (!self.listeners.is_empty()).then_some(0),
            Some(wanted) => self.listeners.iter().position(|listener| listener.answers_to(wanted)),
        }
    }

    fn refuse_undeclared(&mut self, id: WorkerId, wanted: &ListenRequest) -> io::Result<()> {
        let Some(worker) = self.workers.get(id) else { return Ok(()) };
        let address = wanted.address.as_deref().unwrap_or("the first listener");
        let declared: Vec<String> = self.listeners.iter().map(|listener| listener.address().to_string()).collect();
        let reason = format!("{address} is not declared; --listen declares {}", declared.join(" "));
        log::warn!("worker={id} refused listen: {reason}");
        worker.dialect.refuse(wanted.request, Errno::EADDRNOTAVAIL as i32, reason)
    }

    /// Answers with a new lane of a listener, or with why there is none.
    fn open_lane(&mut self, id: WorkerId, index: usize, wanted: &ListenRequest) -> io::Result<()> {
        let bounds = self.bounds(id, wanted);
        let listener = &mut self.listeners[index];
        listener.is_asked_for = true;
        let Some(worker) = self.workers.get_mut(id) else { return Ok(()) };
        if !worker.state().hears() {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        if worker.lanes().any(|(_, lane)| lane.listener == index) {
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
        worker.open_lane(lane_id, index, ends, bounds);
        Ok(())
    }

    /// The primary's bounds, or the worker's where they are lower.
    fn bounds(&self, id: WorkerId, wanted: &ListenRequest) -> Bounds {
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

    fn listening(&mut self, id: WorkerId, lane_id: LaneId) {
        let Some(worker) = self.workers.get_mut(id) else { return };
        let slot = worker.slot.0 as usize;
        let Some(lane) = worker.lane_mut(lane_id) else {
            return self.end_worker(id, &format!("it listens on lane {lane_id}, which it does not have"));
        };
        lane.set_listening();
        let listener = &mut self.listeners[lane.listener];
        if worker.apply(lifecycle::Event::Listening).is_err() {
            return self.end_worker(id, "it listens before it said hello");
        }
        listener.lanes.resize(listener.lanes.len().max(slot + 1), None);
        listener.lanes[slot] = Some((id, lane_id));
        if worker.ready_since.is_none() {
            let now = Monotonic::now();
            worker.ready_since = Some(now);
            log::info!("worker={id} pid={} listening on {}", worker.process.pid(), listener.address());
            if self.unasked_at.is_none() && id.0 <= self.settings.plan.worker_count {
                self.unasked_at = Some(now + UNASKED_AFTER);
            }
            self.decide(Event::Ready(id));
        }
        self.look_for_room(id, lane_id);
    }

    /// The worker takes no more from a lane: the lane ends, and what is untaken goes to others.
    fn close_lane(&mut self, id: WorkerId, lane_id: LaneId) {
        let Some(worker) = self.workers.get_mut(id) else { return };
        let slot = worker.slot.0 as usize;
        let Some(lane) = worker.close_lane(lane_id) else { return };
        if !worker.listens() && worker.apply(lifecycle::Event::LastClosed).is_err() {
            return self.end_worker(id, "it closed a lane before it said hello");
        }
        let listener = &mut self.listeners[lane.listener];
        if listener.lanes.get(slot) == Some(&Some((id, lane_id))) {
            listener.lanes[slot] = None;
            listener.rotation.set_room(slot, false);
        }
        lane.primary_end.end();
        listener.inherit(lane.retained);
    }

    fn close_lanes(&mut self, id: WorkerId) {
        let lanes = self.workers.get(id).map(|worker| worker.lane_ids()).unwrap_or_default();
        for lane in lanes {
            self.close_lane(id, lane);
        }
    }

    fn disconnected(&mut self, id: WorkerId) {
        let Some(worker) = self.workers.get_mut(id) else { return };
        let fd = worker.dialect.as_fd().as_raw_fd();
        let _ = self.poll.registry().deregister(&mut SourceFd(&fd));
        let _ = worker.apply(lifecycle::Event::ChannelEnded);
        self.close_lanes(id);
        self.decide(Event::Disconnected(id));
    }

    /// A worker that cannot be trusted any more. Its exit brings its untaken connections back.
    fn end_worker(&mut self, id: WorkerId, why: &str) {
        let Some(worker) = self.workers.get(id) else { return };
        if worker.ready_since.is_none() {
            self.last_failure = Some(why.to_owned());
        }
        log::error!("worker={id} pid={} ended: {why} [SIGKILL, then a replacement]", worker.process.pid());
        worker.process.signal_group(Signal::SIGKILL);
        self.disconnected(id);
    }

    fn see_exit(&mut self, id: WorkerId) {
        let Some(worker) = self.workers.get(id) else { return };
        let exit = match worker.process.try_wait() {
            Ok(Some(exit)) => exit,
            Ok(None) => return,
            Err(error) => {
                log::error!("worker={id} wait: {error} [taken for dead]");
                Exit::Code(-1)
            }
        };
        // What it said before it died, in particular which lanes it had closed.
        self.hear_worker(id);
        self.close_lanes(id);
        let Some(worker) = self.workers.remove(id) else { return };
        let (pid, state) = (worker.process.pid(), worker.state().name());
        if worker.ready_since.is_none() {
            let exited = || format!("it exited before it listened ({exit})");
            self.last_failure.get_or_insert_with(exited);
        }
        let ended = Ended { is_success: exit.is_success(), ready_since: worker.ready_since };
        let now = Monotonic::now();
        let effects = self.supervisor.handle(Event::Exited(id, ended), now);
        let next = match self.supervisor.starts_at(worker.slot) {
            Some(at) => format!("[restart in {} ms]", at.since(now).as_millis()),
            None if effects.contains(&Effect::Start(worker.slot)) => "[restart now]".into(),
            None => "[not replaced]".into(),
        };
        log::info!("worker={id} pid={pid} exited {exit} state={state} taken={} {next}", worker.taken());
        for effect in effects {
            self.carry_out(effect);
        }
    }

    // Decisions and their effects.

    fn decide(&mut self, event: Event) {
        for effect in self.supervisor.handle(event, Monotonic::now()) {
            self.carry_out(effect);
        }
    }

    fn carry_out(&mut self, effect: Effect) {
        match effect {
            Effect::Start(slot) => self.start_worker(slot),
            Effect::EndListeners => self.end_listeners(),
            Effect::CloseListeners => self.close_listeners(),
            Effect::Disconnect(id) => self.disconnect(id),
            Effect::Terminate(id) => self.signal(id, Signal::SIGTERM),
            Effect::Kill(id, reason) => self.kill(id, reason),
            Effect::Finish(outcome) => self.outcome = Some(outcome),
        }
    }

    fn start_worker(&mut self, slot: Slot) {
        if !self.supervisor.is_running() {
            // A worker that could not be started has ended it all, and this one was to be the next.
            return self.decide(Event::StartFailed { slot, permanent: false });
        }
        let id = self.workers.next_id();
        match self.try_start_worker(id, slot) {
            Ok(pid) => {
                self.last_failure = None;
                log::info!("worker={id} pid={pid} slot={slot} started");
                self.decide(Event::Started(slot, id));
            }
            Err(error) => {
                let permanent = matches!(
                    error.raw_os_error().map(Errno::from_raw),
                    Some(Errno::ENOENT | Errno::EACCES | Errno::ENOEXEC | Errno::ENOTDIR | Errno::E2BIG)
                );
                self.last_failure = Some(error.to_string());
                self.decide(Event::StartFailed { slot, permanent });
                if self.supervisor.is_running() {
                    log::error!("worker={id} slot={slot} cannot be started: {error} [trying again]");
                }
            }
        }
    }

    fn try_start_worker(&mut self, id: WorkerId, slot: Slot) -> io::Result<i32> {
        let board = Scoreboard::create()?;
        let (dialect, channel) = Native::pair()?;
        let command = &self.settings.command;
        let mut variables = command.variables.clone();
        variables.extend(bootstrap::variables(channel.as_raw_fd(), id, 0));
        let process = Process::spawn(&Launch {
            program: &command.program,
            arguments: &command.arguments,
            variables: &variables,
            directory: command.directory.as_ref(),
            channel: channel.as_fd(),
            open_files: command.open_files,
        })?;
        let registry = self.poll.registry();
        let (control, exit) = (Source::Control(id).token(), Source::Exit(id).token());
        registry.register(&mut SourceFd(&dialect.as_fd().as_raw_fd()), control, Interest::READABLE)?;
        registry.register(&mut SourceFd(&process.as_fd().as_raw_fd()), exit, Interest::READABLE)?;
        let pid = process.pid();
        self.workers.enter(id, slot, process, dialect, board);
        Ok(pid)
    }

    fn end_listeners(&mut self) {
        log::info!("ending listeners [clients in the backlog are served, new ones are not let in]");
        let now = Monotonic::now();
        self.is_ending = true;
        for listener in &mut self.listeners {
            listener.begin_ending(now);
        }
    }

    fn close_listeners(&mut self) {
        self.is_ending = false;
        for listener in &mut self.listeners {
            let dropped = listener.close();
            if dropped > 0 {
                log::warn!("listener={} closed connections={dropped} that nobody had taken", listener.address());
            }
        }
    }

    /// Tells a worker to finish. The end of its lanes is in band: what is queued is taken first.
    fn disconnect(&mut self, id: WorkerId) {
        let Some(worker) = self.workers.get_mut(id) else { return };
        let hears = worker.state().hears();
        let _ = worker.apply(lifecycle::Event::DrainOrdered);
        for (_, lane) in worker.lanes() {
            lane.primary_end.end();
        }
        if !hears || worker.dialect.disconnect(IdleRule::Close).is_err() {
            self.signal(id, Signal::SIGTERM);
        }
    }

    fn signal(&mut self, id: WorkerId, signal: Signal) {
        if let Some(worker) = self.workers.get(id) {
            log::debug!("worker={id} pid={} {signal}", worker.process.pid());
            worker.process.signal(signal);
        }
    }

    fn kill(&mut self, id: WorkerId, reason: KillReason) {
        let Some(worker) = self.workers.get(id) else { return };
        let plan = &self.settings.plan;
        let (state, pid) = (worker.state().name(), worker.process.pid());
        let why = match reason {
            KillReason::StartTimeout => {
                let said = if worker.open_files_max == 0 { "it never said hello" } else { "it never listened" };
                self.last_failure = Some(format!("{said} within {:?}", plan.start_timeout));
                format!("{said} within {:?} (--start-timeout)", plan.start_timeout)
            }
            KillReason::KillDelay => format!("still there {:?} after SIGTERM (--kill-delay)", plan.kill_delay),
            KillReason::Lingering => "still there although it has closed its channel".to_owned(),
        };
        log::warn!("worker={id} pid={pid} state={state} {why} [SIGKILL to its group]");
        worker.process.signal_group(Signal::SIGKILL);
    }

    fn hear_signals(&mut self) {
        while let Some(signal) = self.signals.as_ref().and_then(Signals::next) {
            match signal {
                Signal::SIGTERM | Signal::SIGQUIT => self.stop(signal, Stop::Graceful),
                Signal::SIGINT if self.interrupted => self.stop(signal, Stop::Fast),
                Signal::SIGINT => {
                    self.interrupted = true;
                    self.stop(signal, Stop::Graceful);
                }
                Signal::SIGCHLD => self.reap_strangers(),
                other => log::warn!("signal={other} has no meaning yet [ignored]"),
            }
        }
    }

    fn stop(&mut self, signal: Signal, stop: Stop) {
        let how = match stop {
            Stop::Graceful => "finishing; SIGINT again to stop at once",
            Stop::Fast => "stopping at once",
        };
        log::info!("signal={signal} [{how}]");
        self.decide(Event::StopRequested(stop));
    }

    /// As PID 1: whoever has lost its parent. Our own are seen through their pidfds, but one that waits to be seen
    /// hides the strangers behind it.
    fn reap_strangers(&mut self) {
        let ours: Vec<WorkerId> = self.workers.iter().map(|worker| worker.id).collect();
        for id in ours {
            self.see_exit(id);
        }
        while process::reap_stranger(|pid| self.workers.has_process(pid)).is_some() {}
    }
}

impl Source {
    const LANE_SHIFT: u32 = 32;
    const KIND_SHIFT: u32 = 48;

    fn token(self) -> Token {
        let (kind, lane, number) = match self {
            Source::Signals => (0, 0, 0),
            Source::Listener(index) => (1, 0, index),
            Source::Control(worker) => (2, 0, worker.0 as usize),
            Source::Exit(worker) => (3, 0, worker.0 as usize),
            Source::Deal(worker, lane) => (4, usize::from(lane.0), worker.0 as usize),
        };
        Token(kind << Self::KIND_SHIFT | lane << Self::LANE_SHIFT | number)
    }

    fn of(token: Token) -> Source {
        let number = token.0 as u32;
        let lane = LaneId((token.0 >> Self::LANE_SHIFT) as u8);
        match token.0 >> Self::KIND_SHIFT {
            0 => Source::Signals,
            1 => Source::Listener(number as usize),
            2 => Source::Control(WorkerId(number)),
            3 => Source::Exit(WorkerId(number)),
            _ => Source::Deal(WorkerId(number), lane),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_source_is_found_again_by_its_token() {
        let worker = WorkerId(u32::MAX);
        let sources = [
            Source::Signals,
            Source::Listener(3),
            Source::Control(worker),
            Source::Exit(WorkerId(1)),
            Source::Deal(worker, LaneId(23)),
        ];
        for source in sources {
            assert_eq!(Source::of(source.token()), source);
        }
    }
}
