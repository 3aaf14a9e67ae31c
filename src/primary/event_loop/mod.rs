//! The primary's one loop: readiness becomes an event, a pure file decides, the effect is carried out here.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::time::Duration;

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll};

use super::address::Address;
use super::commands::{Answer, Inbox, Refused};
use super::dealing::{self, Stopped};
use super::dialect::Buffer;
use super::events::{self, Subscribers};
use super::ledger::Ledger;
use super::lifecycle;
use super::listener_spec::BadListener;
use super::listeners::{BindError, Listener};
use super::output::{OpenError, Outputs};
use super::reexec::{CarriedDoors, CarriedLock, Trial};
use super::settings::{Command, Inherited, Settings, Variable, WORKERS_MAX};
use super::status::Enabled;
use super::supervisor::{Event, Outcome, Stop, Supervisor};
use super::workers::{Register, Worker};
use crate::protocol::ids::{LaneId, Slot, WorkerId};
use crate::protocol::time::Monotonic;
use crate::sys::signals::{Signal, Signals};
use crate::sys::{clock, process};
use bypass::Bypass;
use commands::{Departure, ReloadRequests};
use reconfiguring::Reconfiguration;
use token::Source;

mod bypass;
mod coming_back;
mod commands;
mod conversation;
mod effects;
mod gathering;
mod listening;
mod messages;
mod reconfiguring;
mod report;
mod token;
mod upgrade;

/// How long after the first worker is ready a declared listener that nobody asked for is worth a warning.
const UNASKED_AFTER: Duration = Duration::from_secs(2);

/// A primary with its listeners bound.
#[derive(Debug)]
pub struct Primary {
    name: String,
    started_unix_seconds: u64,
    /// Whether it is for clients, as load balancers are told.
    enabled: Enabled,
    settings: Settings,
    poll: Poll,
    signals: Option<Signals>,
    commands: Inbox,
    reload_requests: ReloadRequests,
    reconfiguration: Reconfiguration,
    /// The variables of slots that were forked.
    forked: BTreeMap<Slot, Vec<Variable>>,
    departures: Vec<Departure>,
    /// The sockets of whoever lets others watch and command this primary, kept for the next image.
    doors: CarriedDoors,
    /// A lock of whoever runs this primary, kept for the next image.
    lock: Option<CarriedLock>,
    /// A lane knows its listener by its index, so a closed one stays until no lane does.
    listeners: Vec<Listener>,
    /// What those have counted that are gone.
    ledger: Ledger,
    workers: Register,
    outputs: Outputs,
    supervisor: Supervisor,
    /// Connections accepted so far.
    sequence: u64,
    /// When the first image of this process was started.
    started_at: Monotonic,
    upgrade_count: u32,
    /// Who waits to hear that an upgrade failed. One that succeeds ends their connections.
    upgrade_requests: Vec<Answer<Refused>>,
    /// The new program on trial, while an upgrade is under way.
    trial: Option<Trial>,
    /// The supervisor has been told that croupier begins.
    has_begun: bool,
    outcome: Option<Outcome>,
    /// How the last worker that never became ready failed, for people.
    last_failure: Option<String>,
    interrupted: bool,
    is_ending: bool,
    unasked_at: Option<Monotonic>,
    /// When to look for workers that do not take; `None` while nothing is untaken.
    next_look: Option<Monotonic>,
    /// When to try the next of those that have refused connections.
    next_try: Option<Monotonic>,
    /// When to look for workers that have served long enough; `None` if nothing makes them due.
    next_due_look: Option<Monotonic>,
    bypass: Bypass,
    /// Lanes with connections that were given back and could not be received yet.
    unheard: Vec<(WorkerId, LaneId)>,
    /// Workers that have more to say than they have been heard.
    more_to_hear: Vec<WorkerId>,
    /// Workers for which packets wait although their channels may have room.
    unsent: Vec<WorkerId>,
    subscribers: Subscribers,
    buffer: Buffer,
}

/// How a primary ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ending {
    /// Why.
    pub outcome: Outcome,
    /// How the last worker that never became ready failed, for people.
    pub last_failure: Option<String>,
    /// The command of workers that was in force at the end.
    pub command: Command,
    /// How long workers had to finish.
    pub shutdown_timeout: Duration,
}

/// A primary could not be made.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// An address is none.
    #[error(transparent)]
    Listener(#[from] BadListener),
    /// A number is none that a primary can go by.
    #[error("{what}: {value} is not possible: give {least} to {most}")]
    OutOfRange {
        /// Of what.
        what: &'static str,
        /// The number.
        value: u32,
        /// The smallest that is possible.
        least: u32,
        /// The largest.
        most: u32,
    },
    /// An address could not be bound.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// A file for the output of workers could not be opened.
    #[error(transparent)]
    Output(#[from] OpenError),
    /// The event loop could not be made.
    #[error("start the event loop: {0}")]
    EventLoop(#[from] io::Error),
}

impl Primary {
    /// Opens the files for the output of workers and binds every listener. No worker is started yet.
    ///
    /// # Errors
    /// [`StartError`]; what was bound is released again.
    pub fn bind(settings: Settings) -> Result<Self, StartError> {
        let outputs = Outputs::open(&settings.stdout, &settings.stderr)?;
        let mut primary = Self::new(settings, Poll::new()?, outputs)?;
        for spec in primary.settings.listeners.clone() {
            primary.declare(&spec)?;
        }
        for Inherited { fd, name } in &primary.settings.inherited {
            if let Some(name) = name {
                log::warn!("fd:{fd} was passed as systemd:{name} and is not declared [its clients wait]: --listen it");
            }
        }
        primary.name = primary.settings.name_with(primary.listeners.first().map(Listener::address));
        Ok(primary)
    }

    fn new(settings: Settings, poll: Poll, outputs: Outputs) -> io::Result<Self> {
        let now = Monotonic::now();
        let started_unix_seconds = clock::since_epoch().as_secs();
        Ok(Self {
            name: String::new(),
            started_unix_seconds,
            enabled: Enabled { is_enabled: true, since_unix_seconds: started_unix_seconds },
            commands: Inbox::new(poll.registry(), Source::Commands.token())?,
            reload_requests: ReloadRequests::default(),
            reconfiguration: Reconfiguration::default(),
            forked: BTreeMap::new(),
            departures: Vec::new(),
            doors: CarriedDoors::default(),
            lock: None,
            supervisor: Supervisor::new(settings.plan),
            next_due_look: (!settings.recycle.is_off()).then_some(now),
            bypass: Bypass::default(),
            settings,
            poll,
            signals: None,
            listeners: Vec::new(),
            ledger: Ledger::default(),
            workers: Register::default(),
            outputs,
            sequence: 0,
            started_at: now,
            upgrade_count: 0,
            trial: None,
            upgrade_requests: Vec::new(),
            has_begun: false,
            outcome: None,
            last_failure: None,
            interrupted: false,
            is_ending: false,
            unasked_at: None,
            next_look: None,
            next_try: None,
            unheard: Vec::new(),
            more_to_hear: Vec::new(),
            unsent: Vec::new(),
            subscribers: Subscribers::default(),
            buffer: Buffer::default(),
        })
    }

    /// Takes sockets to the next image, for whoever lets others watch and command this primary. See
    /// [`State::carried_doors`](super::reexec::state::State::carried_doors).
    pub fn carry(&mut self, doors: CarriedDoors) {
        self.doors = doors;
    }

    /// Takes a lock to the next image. See [`State::carried_lock`](super::reexec::state::State::carried_lock).
    pub fn carry_lock(&mut self, lock: CarriedLock) {
        self.lock = Some(lock);
    }

    /// Its name: given, or made of the first listener's address.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The real addresses of the declared listeners.
    pub fn addresses(&self) -> impl Iterator<Item = &Address> {
        self.listeners.iter().filter(|listener| listener.is_declared()).map(Listener::address)
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
        if !std::mem::replace(&mut self.has_begun, true) {
            self.decide(Event::Begun);
        } else {
            let upgrades = self.upgrade_count;
            self.subscribers.tell(|| events::Event::Upgrade { upgrades });
            self.come_to_what_was_left();
        }
        loop {
            self.let_time_pass();
            let more = self.deal_all();
            self.close_listeners_if_empty();
            if let Some(outcome) = self.outcome {
                if let Some(trial) = self.trial.take() {
                    trial.call_off();
                }
                self.outputs.finish();
                return Ok(Ending {
                    outcome,
                    last_failure: self.last_failure,
                    command: self.settings.command,
                    shutdown_timeout: self.settings.plan.shutdown_timeout,
                });
            }
            self.watch_channels();
            if !more {
                self.let_answers_gather();
            }
            let timeout = if more { Some(Duration::ZERO) } else { self.timeout() };
            match self.poll.poll(&mut events, timeout) {
                Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(error),
                _ => {}
            }
            self.hear_the_rest();
            for event in &events {
                match Source::of(event.token()) {
                    Source::Listener(index) => self.listeners[index].has_become_readable(),
                    Source::Deal(worker, lane) => self.hear_from_below(worker, lane),
                    Source::Control(worker) => {
                        self.channel_has_become_readable(worker, event.is_read_closed());
                        self.send_waiting(worker);
                        self.hear_worker(worker);
                    }
                    Source::Exit(worker) => self.see_exit(worker),
                    Source::Signals => self.hear_signals(),
                    Source::Output(worker, stream) => self.outputs.has_become_readable(worker, stream),
                    Source::Trial => self.judge_trial(),
                    Source::Commands => self.hear_commands(),
                }
            }
        }
    }

    fn timeout(&self) -> Option<Duration> {
        let redeal_timeout = self.settings.redeal_timeout;
        let of_listeners = self.listeners.iter().filter_map(|listener| listener.deadline(redeal_timeout));
        let trial = self.trial.as_ref().map(|trial| trial.deadline);
        let others = [
            self.supervisor.deadline(),
            self.unasked_at,
            self.next_look,
            self.next_try,
            self.next_due_look,
            self.bypass.next_look,
            self.deserted_deadline(),
            self.outputs.deadline(),
            self.hearing_deadline(),
            trial,
        ];
        let due = of_listeners.chain(others.into_iter().flatten()).min()?;
        Some(due.since(Monotonic::now()))
    }

    fn let_time_pass(&mut self) {
        let now = Monotonic::now();
        if self.supervisor.deadline().is_some_and(|deadline| now >= deadline) {
            self.wait_no_longer(now);
            self.decide(Event::TimePassed);
        }
        if self.unasked_at.is_some_and(|at| now >= at) {
            self.unasked_at = None;
            for listener in self.listeners.iter().filter(|it| it.is_declared() && !it.is_asked_for) {
                let command = self.settings.command.display();
                log::warn!(
                    "listener={} no worker has asked for it [clients wait]: does `{command}` listen there?",
                    listener.address()
                );
            }
        }
        for listener in &mut self.listeners {
            let closed = listener.let_time_pass(now, self.settings.redeal_timeout);
            closed.iter().for_each(|it| self.workers.count_received_back(it));
        }
        if self.next_look.is_some_and(|at| now >= at) {
            self.look_for_stalls(now);
        }
        if self.next_try.is_some_and(|at| now >= at) {
            self.try_again(now);
        }
        self.outputs.let_time_pass(now);
        if self.trial_is_overdue(now) {
            self.judge_trial();
        }
        if self.next_due_look.is_some_and(|at| now >= at) {
            self.look_for_due(now);
        }
        if self.bypass.next_look.is_some_and(|at| now >= at) {
            self.look_for_bypass(now);
        }
        if self.deserted_deadline().is_some_and(|at| now >= at) {
            self.close_deserted(now);
        }
    }

    // Dealing.

    /// True if there may be more to deal at once.
    fn deal_all(&mut self) -> bool {
        let now = Monotonic::now();
        let mut more = false;
        let dealt = |listeners: &[Listener]| listeners.iter().map(|listener| listener.counters.dealt).sum::<u64>();
        let before = dealt(&self.listeners);
        for index in 0..self.listeners.len() {
            let was_resting = self.listeners[index].is_resting();
            while self.listeners[index].may_have_connections(now) {
                match dealing::deal(&mut self.listeners[index], &mut self.workers, &mut self.sequence, now) {
                    Stopped::NothingToDeal => break,
                    Stopped::NoRoom => {
                        self.listeners[index].note_no_room();
                        break;
                    }
                    Stopped::TurnOver => {
                        more = true;
                        break;
                    }
                    Stopped::BadAccount(worker, impossible) => self.distrust(worker, impossible),
                    Stopped::BadChannel(worker, error) => self.cannot_deal(worker, &error),
                }
            }
            if self.listeners[index].is_resting() != was_resting {
                self.tell_of_rest(index);
            }
        }
        if dealt(&self.listeners) != before {
            self.watch();
        }
        more
    }

    /// A listener has begun or ceased to rest.
    fn tell_of_rest(&mut self, index: usize) {
        let (address, why) = (self.listeners[index].address().to_string(), self.listeners[index].rests_because());
        self.subscribers.tell(|| match why {
            Some(why) => events::Event::AcceptPaused { address, why: why.to_owned() },
            None => events::Event::AcceptResumed { address },
        });
    }

    /// The end of an ending: nobody new comes, and everybody who was there is dealt.
    fn close_listeners_if_empty(&mut self) {
        if !self.is_ending {
            return;
        }
        // Whoever may still listen for the first time: no new worker is started any more.
        let may_come = |worker: &Worker| match worker.state() {
            lifecycle::State::Starting | lifecycle::State::Online => worker.ready_since.is_none(),
            lifecycle::State::Ready | lifecycle::State::Draining | lifecycle::State::Disconnected => false,
        };
        let anyone_may_come = self.workers.iter().any(may_come);
        let nobody_takes = |index: usize, listener: &Listener| match listener.is_shared() {
            true => !self.anyone_listens(index),
            false => listener.is_vacated(),
        };
        let has_ended = |(index, listener): (usize, &Listener)| {
            listener.has_ended() || listener.is_emptying() && !anyone_may_come && nobody_takes(index, listener)
        };
        if self.listeners.iter().enumerate().all(has_ended) {
            self.close_listeners();
            self.decide(Event::ListenersEnded);
        }
    }

    // Signals.

    fn hear_signals(&mut self) {
        while let Some(signal) = self.signals.as_ref().and_then(Signals::next) {
            if signal != Signal::SIGCHLD {
                self.subscribers.tell(|| events::Event::Signal { signal });
            }
            match signal {
                Signal::SIGTERM | Signal::SIGQUIT => self.stop(signal, Stop::Graceful),
                Signal::SIGINT if self.interrupted => self.stop(signal, Stop::Fast),
                Signal::SIGINT => {
                    self.interrupted = true;
                    self.stop(signal, Stop::Graceful);
                }
                Signal::SIGCHLD => self.reap_strangers(),
                Signal::SIGHUP => {
                    log::info!("signal={signal} [reloading]");
                    self.request_reload();
                }
                Signal::SIGTTIN => self.scale(signal, self.supervisor.worker_count() + 1),
                Signal::SIGTTOU => self.scale(signal, self.supervisor.worker_count().saturating_sub(1)),
                Signal::SIGUSR2 => {
                    log::info!("signal={signal} [upgrading]");
                    self.upgrade_requested();
                }
                Signal::SIGUSR1 => {
                    log::info!("signal={signal} [opening files anew]");
                    self.reopen_outputs();
                }
                other => log::warn!("signal={other} has no meaning [ignored]"),
            }
        }
    }

    fn scale(&mut self, signal: Signal, worker_count: u32) {
        let worker_count = worker_count.clamp(1, WORKERS_MAX);
        log::info!("signal={signal} [workers={worker_count}]");
        self.subscribers.tell(|| events::Event::Scale { workers: worker_count });
        self.decide(Event::ScaleRequested(worker_count));
    }

    fn stop(&mut self, signal: Signal, stop: Stop) {
        let how = match stop {
            Stop::Graceful => "finishing; SIGINT again to stop at once",
            Stop::Fast => "stopping at once",
        };
        log::info!("signal={signal} [{how}]");
        self.decide(Event::StopRequested(stop));
    }

    /// In the loop, like the start of a worker, which touches files too: whom a reload that follows starts has the new
    /// ones.
    fn reopen_outputs(&mut self) {
        for (stream, reopened) in self.outputs.reopen(&self.settings.stdout, &self.settings.stderr) {
            match reopened {
                Ok(()) => log::info!("{stream} of workers: opened anew [for those that are started from now on]"),
                Err(error) => log::error!("{error} [going on with the old file]"),
            }
        }
    }

    /// As PID 1: whoever has lost its parent. Our own are seen through their pidfds, but one that waits to be seen
    /// hides the strangers behind it.
    fn reap_strangers(&mut self) {
        let ours: Vec<WorkerId> = self.workers.iter().map(|worker| worker.id).collect();
        for id in ours {
            self.see_exit(id);
        }
        let trial = self.trial.as_ref().map(|trial| trial.process().pid());
        while process::reap_stranger(|pid| self.workers.has_process(pid) || trial == Some(pid)).is_some() {}
    }
}
