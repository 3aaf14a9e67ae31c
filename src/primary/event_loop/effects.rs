//! Decisions of the supervisor carried out, and the ends of workers brought before it.

use std::hash::{BuildHasher, RandomState};
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::time::Duration;

use mio::Interest;
use mio::unix::SourceFd;
use nix::errno::Errno;

use super::Primary;
use super::token::Source;
use crate::primary::dialect::node::inspect::{self, NODE_OPTIONS};
use crate::primary::dialect::{self, Dialect, DialectKind};
use crate::primary::events::{self, Who};
use crate::primary::lanes::{Figures, InFlight};
use crate::primary::ledger::Counted;
use crate::primary::lifecycle;
use crate::primary::output::Stream;
use crate::primary::recycle::Usage;
use crate::primary::returned::Reason;
use crate::primary::supervisor::{Effect, Ended, Event, KillReason, ReloadEnd};
use crate::primary::workers::Worker;
use crate::protocol::control::IdleRule;
use crate::protocol::ids::{Slot, WorkerId};
use crate::protocol::scoreboard::Scoreboard;
use crate::protocol::time::Monotonic;
use crate::sys::process::{Exit, Launch, Process};
use crate::sys::signals::Signal;
use crate::sys::usage;

/// How often workers' limits are looked at, if they have any.
const DUE_LOOK_EVERY: Duration = Duration::from_millis(250);
/// When a worker whose replacement failed is tried again.
pub(super) const DUE_AGAIN: Duration = Duration::from_secs(30);

/// Errors of starting a worker that trying again does not mend: they are the command's, or the user's it is to run as.
const NEVER_STARTS: [Errno; 7] =
    [Errno::ENOENT, Errno::EACCES, Errno::ENOEXEC, Errno::ENOTDIR, Errno::E2BIG, Errno::EPERM, Errno::EINVAL];

impl Primary {
    pub(super) fn decide(&mut self, event: Event) {
        for effect in self.supervisor.handle(event, Monotonic::now()) {
            self.carry_out(effect);
        }
    }

    pub(super) fn carry_out(&mut self, effect: Effect) {
        match effect {
            Effect::Start(slot) => self.start_worker(slot),
            Effect::EndListeners => self.end_listeners(),
            Effect::CloseListeners => self.close_listeners(),
            Effect::Seat(id) => self.seat(id),
            Effect::Drain(id) => self.disconnect(id, IdleRule::GiveBack),
            Effect::Disconnect(id) => self.disconnect(id, IdleRule::Close),
            Effect::Terminate(id) => self.terminate(id),
            Effect::Kill(id, reason) => self.kill(id, reason),
            Effect::ReloadEnded(end) => self.reload_ended(end),
            Effect::Finish(outcome) => self.outcome = Some(outcome),
        }
    }

    pub(super) fn start_worker(&mut self, slot: Slot) {
        if !self.supervisor.is_running() {
            // A worker that could not be started has ended it all, and this one was to be the next.
            return self.decide(Event::StartFailed { slot, permanent: false });
        }
        let id = self.workers.next_id();
        match self.try_start_worker(id, slot) {
            Ok(pid) => {
                self.note_started(id, pid, slot);
                self.decide(Event::Started(slot, id));
            }
            Err(error) => {
                let permanent = error.raw_os_error().is_some_and(|it| NEVER_STARTS.contains(&Errno::from_raw(it)));
                let why = self.why_not_started(&error);
                self.last_failure = Some(why.clone());
                self.decide(Event::StartFailed { slot, permanent });
                if self.supervisor.is_running() {
                    log::error!("worker={id} slot={slot} cannot be started: {why} [trying again]");
                }
            }
        }
    }

    pub(super) fn note_started(&mut self, id: WorkerId, pid: i32, slot: Slot) {
        self.last_failure = None;
        if let Some(reason) = self.supervisor.restarts(slot) {
            self.ledger.enter_restart(slot, reason);
        }
        log::info!("worker={id} pid={pid} slot={slot} started");
        let generation = self.supervisor.generation();
        let who = Who { worker: id, slot, pid, generation };
        self.subscribers.tell_of(who, || events::Event::Fork { worker: id, slot, pid, generation });
    }

    /// What went wrong, with what another user has to do with it.
    pub(super) fn why_not_started(&self, error: &io::Error) -> String {
        match (&self.settings.identity, error.raw_os_error().map(Errno::from_raw)) {
            (Some(identity), Some(Errno::EACCES)) => {
                format!("{error} for {identity} (the program, and every directory above it, must be open to that user)")
            }
            (Some(identity), Some(Errno::EPERM | Errno::EINVAL)) => {
                format!("{error} (this process may not become {identity}: it needs CAP_SETUID and CAP_SETGID)")
            }
            _ => error.to_string(),
        }
    }

    pub(super) fn try_start_worker(&mut self, id: WorkerId, slot: Slot) -> io::Result<i32> {
        let board = Scoreboard::create()?;
        // Whoever was forked has the command without a group, and variables of its own.
        let own = self.forked.get(&slot);
        let command = if own.is_some() { &self.settings.command } else { self.settings.command_of(slot) };
        let (kind, generation) = (command.dialect, self.supervisor.generation());
        let (dialect, channel) = Dialect::pair(kind, self.settings.node)?;
        let identity = self.settings.identity.as_ref();
        let mut variables: Vec<_> = command.variables.iter().chain(own.into_iter().flatten()).cloned().collect();
        let arguments = match kind {
            DialectKind::Native => command.arguments.clone(),
            DialectKind::Node => inspect::with_own_port(command, &mut variables, std::env::var_os(NODE_OPTIONS), id),
        };
        variables.extend(dialect::variables(kind, channel.as_raw_fd(), id, slot, generation));
        let mut output = |stream| {
            let token = Source::Output(id, stream).token();
            self.outputs.for_worker(id, stream, identity, self.poll.registry(), token)
        };
        let (stdout, stderr) = (output(Stream::Stdout)?, output(Stream::Stderr)?);
        let process = Process::spawn(&Launch {
            program: &command.program,
            arguments: &arguments,
            variables: &variables,
            withheld: dialect::foreign_variables(kind),
            directory: command.directory.as_ref(),
            channel: channel.as_fd(),
            stdout,
            stderr,
            open_files: self.settings.open_files,
            identity,
        })?;
        let registry = self.poll.registry();
        let (control, exit) = (Source::Control(id).token(), Source::Exit(id).token());
        let registered = registry
            .register(&mut SourceFd(&dialect.as_fd().as_raw_fd()), control, dialect.interest())
            .and_then(|()| registry.register(&mut SourceFd(&process.as_fd().as_raw_fd()), exit, Interest::READABLE));
        if let Err(error) = registered {
            process.kill_and_wait(); // nobody would ever see its end
            return Err(error);
        }
        let pid = process.pid();
        self.workers.enter(Worker::new(
            id,
            slot,
            generation,
            process,
            dialect,
            board,
            self.settings.recycle.draw(chance(id)),
        ));
        Ok(pid)
    }

    pub(super) fn reload_ended(&mut self, end: ReloadEnd) {
        self.answer_reload_requests(end);
        self.subscribers.tell(|| events::Event::Reload { end });
        match end {
            ReloadEnd::Done { generation } => log::info!("reload done generation={generation}"),
            ReloadEnd::NotReady => {
                let why = self.last_failure.as_deref().unwrap_or("it did not become ready");
                log::error!("reload stopped: the new worker failed: {why} [the old ones go on]");
            }
            ReloadEnd::Misconfigured => {
                log::error!("no reload: {} [the old configuration goes on]", self.reconfiguration.mistake);
            }
            ReloadEnd::Stopping => log::warn!("no reload: croupier is stopping"),
        }
        self.conclude_reconfiguration(end);
    }

    /// Whose limits are reached goes to the supervisor; again after a while, should its replacement have failed.
    pub(super) fn look_for_due(&mut self, now: Monotonic) {
        self.next_due_look = Some(now + DUE_LOOK_EVERY);
        let watch_rss = self.settings.recycle.rss_bytes.is_some();
        let mut due = Vec::new();
        for worker in self.workers.iter_mut() {
            let told = worker.due_since.is_some_and(|since| now.since(since) < DUE_AGAIN);
            if told || worker.state() != lifecycle::State::Ready {
                continue;
            }
            let rss_bytes = if watch_rss { usage::of(worker.process.pid()).map_or(0, |it| it.rss_bytes) } else { 0 };
            let usage = Usage { taken: worker.figures().taken, age: now.since(worker.started_at), rss_bytes };
            if let Some(limit) = worker.limits.reached(&usage) {
                log::info!("worker={} pid={} {limit} reached [recycling]", worker.id, worker.process.pid());
                worker.due_since = Some(now);
                due.push(worker.who());
            }
        }
        for who in due {
            self.subscribers.tell_of(who, || events::Event::Recycle { worker: who.worker });
            self.decide(Event::RecycleDue(who.worker));
        }
    }

    pub(super) fn end_listeners(&mut self) {
        log::info!("ending listeners [clients in the backlog are served, new ones are not let in]");
        let now = Monotonic::now();
        self.is_ending = true;
        self.refuse_reload_requests();
        for listener in &mut self.listeners {
            listener.begin_ending(now);
        }
        // Workers go on taking until their lanes end. But what is idle there must not keep out who is in the backlog.
        for worker in self.workers.iter_mut().filter(|worker| worker.state().hears()) {
            worker.is_voluntary = true;
            let _ = worker.dialect.end_idle();
        }
    }

    pub(super) fn close_listeners(&mut self) {
        self.is_ending = false;
        self.refuse_reload_requests();
        for listener in &mut self.listeners {
            let dropped = listener.close();
            dropped.iter().for_each(|it| self.workers.count_received_back(it));
            if !dropped.is_empty() {
                let (address, count) = (listener.address(), dropped.len());
                log::warn!("listener={address} closed connections={count} that nobody had taken");
            }
        }
    }

    /// Tells a worker to finish. The end of its lanes is in band. If others can serve its clients, what it has not
    /// taken goes to them at once, and what is idle is given back; if not, it takes what is queued, then ends.
    fn disconnect(&mut self, id: WorkerId, idle: IdleRule) {
        let Some(worker) = self.workers.get_mut(id) else { return };
        let (slot, hears, now) = (worker.slot.0 as usize, worker.state().hears(), Monotonic::now());
        let has_left = worker.state() == lifecycle::State::Disconnected && worker.is_voluntary;
        worker.is_voluntary = true;
        let _ = worker.apply(lifecycle::Event::DrainOrdered);
        let mut others_everywhere = true;
        for lane_id in worker.lane_ids() {
            let Some(lane) = worker.lane_mut(lane_id) else { continue };
            let listener = &mut self.listeners[lane.listener];
            listener.unseat(slot, id, lane_id);
            lane.end();
            let has_others = listener.has_other_than(id);
            // Through a shared lane, or one that is over, nothing can be given back.
            others_everywhere &= has_others || !lane.is_dealt() || lane.is_deserted();
            if idle == IdleRule::GiveBack
                && has_others
                && let Some(retained) = lane.take_retained()
            {
                listener.returned.inherit_untaken(retained, (id, lane_id), Reason::Untaken, now);
            }
        }
        self.note_deserted();
        let idle = if others_everywhere { idle } else { IdleRule::Close };
        let Some(worker) = self.workers.get_mut(id) else { return };
        let told = if hears { worker.dialect.disconnect(idle) } else { Err(io::ErrorKind::NotConnected.into()) };
        match told {
            Ok(()) => {}
            // It finishes what it has begun, as it was allowed to.
            Err(_) if has_left => {}
            // Its end is on its way: a program that does not know SIGTERM would be cut off.
            Err(error) if matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset) => {}
            Err(_) => self.terminate(id),
        }
    }

    fn terminate(&mut self, id: WorkerId) {
        let Some(worker) = self.workers.get_mut(id) else { return };
        log::debug!("worker={id} pid={} SIGTERM", worker.process.pid());
        worker.is_voluntary = true;
        worker.signal(Signal::SIGTERM);
    }

    pub(super) fn kill(&mut self, id: WorkerId, reason: KillReason) {
        let Some(worker) = self.workers.get(id) else { return };
        let plan = &self.settings.plan;
        let (state, pid) = (worker.state().name(), worker.process.pid());
        let why = match reason {
            KillReason::StartTimeout => {
                let has_said_hello = worker.state() != lifecycle::State::Starting;
                let said = if has_said_hello { "it never listened" } else { "it never said hello" };
                self.last_failure = Some(format!("{said} within {:?}", plan.start_timeout));
                format!("{said} within {:?} (--start-timeout)", plan.start_timeout)
            }
            KillReason::KillDelay => format!("still there {:?} after SIGTERM (--kill-delay)", plan.kill_delay),
            KillReason::Lingering => "still there although it has closed its channel".to_owned(),
        };
        log::warn!("worker={id} pid={pid} state={state} {why} [SIGKILL to its group]");
        worker.process.signal_group(Signal::SIGKILL);
    }

    /// What a dead worker had not taken, and what it had given back, goes to the others.
    fn bring_back(&mut self, worker: &mut Worker) -> Figures {
        let (id, slot, now) = (worker.id, worker.slot.0 as usize, Monotonic::now());
        for (lane_id, lane) in worker.lanes() {
            self.listeners[lane.listener].unseat(slot, id, lane_id);
        }
        let mut figures = worker.figures();
        for (lane_id, mut lane) in worker.take_lanes() {
            let listener = &mut self.listeners[lane.listener];
            if let Some(Counted { tally, waits }) = lane.counted() {
                let counted = Counted { tally: tally.ended(), waits };
                self.ledger.enter_lane(&listener.address().to_string(), worker.slot, &counted);
            }
            // A lane that has ended left its queue to the listener.
            figures.untaken += listener.returned.untaken_of(id, lane_id) as u64;
            let is_dealt = lane.is_dealt();
            // What is kept has been brought back with the end of its channel.
            let InFlight::Queued { primary_end, retained } = lane.into_in_flight() else { continue };
            if listener.is_closed() || !is_dealt {
                continue;
            }
            // For every process that holds the worker's end, a forked child too: nothing more comes.
            if let Some(retained) = retained {
                retained.end();
                listener.returned.inherit_untaken(retained, (id, lane_id), Reason::Died, now);
            }
            listener.returned.inherit_given_back(primary_end, id, now);
        }
        figures
    }

    /// A worker that cannot be trusted any more. Its exit brings its untaken connections back.
    pub(super) fn end_worker(&mut self, id: WorkerId, why: &str) {
        let Some(worker) = self.workers.get(id).filter(|worker| !worker.has_exited) else { return };
        if worker.ready_since.is_none() {
            self.last_failure = Some(why.to_owned());
        }
        log::error!("worker={id} pid={} ended: {why} [SIGKILL, then a replacement]", worker.process.pid());
        worker.process.signal_group(Signal::SIGKILL);
        self.disconnected(id);
    }

    pub(super) fn see_exit(&mut self, id: WorkerId) {
        let Some(worker) = self.workers.get(id) else { return };
        // Its last chance: once waited for, it is gone from /proc.
        let (usage, of_others) = (usage::of(worker.process.pid()), usage::cpu_of_ended_children());
        let exit = match worker.process.try_wait() {
            Ok(Some(exit)) => exit,
            Ok(None) => return,
            Err(error) => {
                log::error!("worker={id} wait: {error} [taken for dead]");
                Exit::Code(-1)
            }
        };
        if let Some(worker) = self.workers.get_mut(id) {
            worker.has_exited = true;
            // Without a descriptor to look into /proc: what waiting for it has added.
            let added = || usage::cpu_of_ended_children().saturating_sub(of_others);
            self.ledger.enter_cpu(worker.slot, usage.map_or_else(added, |it| it.cpu));
        }
        self.outputs.worker_ended(id, Monotonic::now());
        // What it said before it died, in particular which lanes it had closed: all of it, it is not getting more.
        self.hear_last_words(id);
        // Somebody else may hold its end of the channel open: a child that it forked.
        self.disconnected(id);
        let Some(mut worker) = self.workers.remove(id) else { return };
        let figures = self.bring_back(&mut worker);
        self.note_deserted();
        let (pid, state) = (worker.process.pid(), worker.last_state().name());
        if worker.ready_since.is_none() {
            let exited = || format!("it exited before it listened ({exit})");
            self.last_failure.get_or_insert_with(exited);
        }
        let ended = Ended { is_success: exit.is_success(), ready_since: worker.ready_since };
        let now = Monotonic::now();
        let effects = self.supervisor.handle(Event::Exited(id, ended), now);
        let respawn_after = match self.supervisor.starts_at(worker.slot) {
            Some(at) => Some(at.since(now)),
            None => effects.contains(&Effect::Start(worker.slot)).then_some(Duration::ZERO),
        };
        let next = match respawn_after {
            Some(Duration::ZERO) => "[restart now]".into(),
            Some(after) => format!("[restart in {} ms]", after.as_millis()),
            None => "[not replaced]".into(),
        };
        let Figures { dealt, reclaimed, taken, closed, untaken } = figures;
        let closed = match worker.dialect.kind() {
            DialectKind::Native => format!(" closed={closed}"),
            // It has not told. No number is better than a wrong one: `taken` less `closed` is how many were cut.
            DialectKind::Node => String::new(),
        };
        log::info!(
            "worker={id} pid={pid} exited {exit} state={state} dealt={dealt} reclaimed={reclaimed} \
             taken={taken}{closed} untaken={untaken} {next}"
        );
        let (who, voluntary) = (worker.who(), worker.is_voluntary);
        self.subscribers.tell_of(who, || events::Event::Exit { worker: id, exit, voluntary });
        if let Some(after) = respawn_after {
            self.subscribers.tell_of(who, || events::Event::Respawn { slot: who.slot, after });
        }
        for effect in effects {
            self.carry_out(effect);
        }
        self.answer_departures();
    }
}

/// A number by chance: the standard library seeds every `RandomState` anew.
fn chance(id: WorkerId) -> u64 {
    RandomState::new().hash_one(id)
}
