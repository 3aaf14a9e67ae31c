//! Upgrade in place, as the loop sees it: see [`reexec`](crate::primary::reexec).

use std::io;
use std::os::fd::{AsFd, AsRawFd};

use mio::unix::SourceFd;
use mio::{Interest, Poll};

use super::reconfiguring::{LeftOver, Reconfiguration};
use super::token::Source;
use super::{Primary, StartError};
use crate::primary::commands::Refused;
use crate::primary::listeners::Listener;
use crate::primary::output::Outputs;
use crate::primary::reexec::baggage::Baggage;
use crate::primary::reexec::state::{STATE_VERSION, State};
use crate::primary::reexec::{self, Invocation, Trial};
use crate::primary::settings::Settings;
use crate::primary::workers::Register;
use crate::protocol::time::Monotonic;
use crate::sys::process;

impl Primary {
    /// Goes on where an earlier image of this process stopped.
    ///
    /// # Errors
    /// Those of epoll(7), and `InvalidData`/`EBADF` if the state does not belong to this process.
    pub fn take_over(settings: Settings, state: State) -> Result<Self, StartError> {
        let outputs = Outputs::restore(state.outputs, &settings.stdout, &settings.stderr)?;
        let mut primary = Self::new(settings, Poll::new()?, outputs)?;
        primary.name = state.name;
        primary.sequence = state.sequence;
        primary.upgrade_count = state.upgrade_count;
        primary.subscribers.go_on_after(state.last_event_id);
        (primary.started_at, primary.started_unix_seconds) = (state.started_at, state.started_unix_seconds);
        primary.enabled = state.enabled.unwrap_or(primary.enabled);
        primary.supervisor = state.supervisor;
        primary.supervisor.set_plan(primary.settings.plan);
        let policy_named = |name: &str| primary.settings.policy_named(name);
        let listeners = state.listeners.into_iter().map(|saved| Listener::restore(saved, policy_named));
        primary.listeners = listeners.collect::<io::Result<_>>()?;
        primary.listeners.iter().for_each(|listener| listener.set_tcp_options(&primary.settings.bind.tcp));
        primary.ledger = state.ledger;
        for listener in &primary.listeners {
            primary.ledger.open_account(&listener.address().to_string(), listener.is_declared());
        }
        primary.workers = Register::restore(state.workers, state.last_id, state.slot_starts)?;
        primary.register_everything()?;
        primary.has_begun = true;
        primary.watch();
        primary.next_try = Some(Monotonic::now());
        // Orphans that ended between the two images raise no signal any more.
        while process::reap_stranger(|pid| primary.workers.has_process(pid)).is_some() {}
        log::info!("took over from version={} upgrades={}", state.croupier, state.upgrade_count);
        primary.reconfiguration = Reconfiguration::after(LeftOver {
            worker_count: state.configured_workers.unwrap_or(primary.settings.plan.worker_count),
            is_reload_due: state.is_reload_due,
        });
        Ok(primary)
    }

    fn register_everything(&mut self) -> io::Result<()> {
        let registry = self.poll.registry();
        for (index, listener) in self.listeners.iter_mut().enumerate() {
            listener.register(registry, Source::Listener(index).token())?;
        }
        self.outputs.register(registry, |worker, stream| Source::Output(worker, stream).token())?;
        let mut lanes = Vec::new();
        for worker in self.workers.iter() {
            let add =
                |fd: i32, source: Source| registry.register(&mut SourceFd(&fd), source.token(), Interest::READABLE);
            let (control, token) = (worker.dialect.as_fd().as_raw_fd(), Source::Control(worker.id).token());
            registry.register(&mut SourceFd(&control), token, worker.interest)?;
            add(worker.process.as_fd().as_raw_fd(), Source::Exit(worker.id))?;
            for (lane_id, lane) in worker.lanes() {
                if let Some(end) = lane.primary_end() {
                    add(end.as_fd().as_raw_fd(), Source::Deal(worker.id, lane_id))?;
                }
                lanes.push((worker.id, lane_id));
            }
        }
        for (id, lane_id) in lanes {
            self.look_for_room(id, lane_id);
        }
        Ok(())
    }

    /// Somebody wants the primary replaced by the program that is now at its path.
    pub(super) fn upgrade_requested(&mut self) {
        if self.trial.is_some() {
            return log::info!("an upgrade is under way already");
        }
        match self.start_trial() {
            Ok(trial) => self.trial = Some(trial),
            Err(why) => self.upgrade_failed(&why),
        }
    }

    fn start_trial(&self) -> Result<Trial, String> {
        let invocation = self.may_upgrade()?;
        let text = |error: io::Error| error.to_string();
        let trial = Trial::start(invocation, &self.save().0).map_err(text)?;
        let fd = trial.process().as_fd().as_raw_fd();
        let registry = self.poll.registry();
        registry.register(&mut SourceFd(&fd), Source::Trial.token(), Interest::READABLE).map_err(text)?;
        Ok(trial)
    }

    fn may_upgrade(&self) -> Result<&Invocation, String> {
        if !self.supervisor.is_running() {
            return Err("croupier is stopping".into());
        }
        self.settings.invocation.as_ref().ok_or_else(|| "this program has not said how it was started".into())
    }

    /// The new program has ended its trial, or its time is over.
    pub(super) fn judge_trial(&mut self) {
        let Some(trial) = self.trial.take() else { return };
        let why = match trial.verdict().and_then(|()| self.may_upgrade()) {
            Ok(invocation) => {
                let (state, baggage) = self.save();
                log::info!("upgrading [the new image goes on as pid={}]", std::process::id());
                reexec::exec(invocation, &state, baggage).to_string()
            }
            Err(why) => why,
        };
        self.upgrade_failed(&why);
    }

    fn upgrade_failed(&mut self, why: &str) {
        let program = self.settings.invocation.as_ref().map_or_else(String::new, |it| it.program.display().to_string());
        log::error!("no upgrade: {program}: {why} [the running one goes on]");
        for answer in self.upgrade_requests.drain(..) {
            answer.give(Refused::NoUpgrade(format!("{program}: {why}")));
        }
    }

    fn save(&self) -> (State, Baggage) {
        let mut baggage = Baggage::default();
        let (control, monitor) = (self.doors.control.as_ref(), self.doors.monitor.as_ref());
        let state = State {
            version: STATE_VERSION,
            croupier: env!("CARGO_PKG_VERSION").to_owned(),
            upgrade_count: self.upgrade_count + 1,
            started_at: self.started_at,
            sequence: self.sequence,
            last_event_id: self.subscribers.last_id(),
            last_id: self.workers.last_id(),
            slot_starts: self.workers.slot_starts(),
            name: self.name.clone(),
            started_unix_seconds: self.started_unix_seconds,
            enabled: Some(self.enabled),
            control: control.map(|it| (baggage.pack(it.socket.as_fd()), it.path.clone(), it.identity)),
            monitor: monitor.map(|it| (baggage.pack(it.socket.as_fd()), it.wanted.to_string())),
            open_files: self.settings.open_files,
            lock: self.lock.as_ref().map(|it| (baggage.pack(it.file.as_fd()), it.directory.clone())),
            supervisor: self.supervisor.clone(),
            configured_workers: Some(self.followed_worker_count()),
            is_reload_due: self.is_reload_due(),
            listeners: self.listeners.iter().map(|listener| listener.save(&mut baggage)).collect(),
            ledger: self.ledger.clone(),
            workers: self.workers.save(&mut baggage),
            outputs: self.outputs.save(&mut baggage),
        };
        (state, baggage)
    }

    pub(super) fn trial_is_overdue(&self, now: Monotonic) -> bool {
        self.trial.as_ref().is_some_and(|trial| now >= trial.deadline)
    }
}
