//! A primary as a library: settings in, a handle on a running one out. It decides nothing: what it says to the event
//! loop are [`commands`](super::commands), what it hears are [`events`](super::events).

use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_channel::Receiver;
use serde::Serialize;

use super::address::Address;
use super::commands::{Answer, Change, Command as Order, Refused, Remote, Scale, Signal, Undelivered, Unsent};
use super::events::Event;
use super::listener_spec::{BadListener, ListenerSpec, ListenerSpecs};
use super::output::Destination;
use super::policy::PolicyKind;
use super::settings::{Command, Group, Identity, NODE_DEPTH_LIMIT, QUEUE_MAX_LIMIT, Settings, Unknown, WORKERS_MAX};
use super::status::{Scaled, Status};
use super::supervisor::{Respawn, Stop};
use super::{Ending, Primary, StartError};
use crate::protocol::body::Body;
use crate::protocol::ids::WorkerId;
use crate::sys::signals;

/// The most events that wait for a reader of [`RunningCluster::events`], unless [`Cluster::events_max`] says otherwise.
pub const EVENTS_MAX_DEFAULT: usize = 1024;

/// What a cluster is to be. Everything has a default, the same as the command line's: see [`Settings::of`]. What has no
/// method here is a field of the settings: [`Cluster::settings`].
#[derive(Debug)]
pub struct Cluster {
    settings: Settings,
    /// Of the command without a group.
    worker_count: u32,
    events_max: usize,
    /// The first mistake in an address, kept for [`start`](Self::start).
    mistake: Option<StartError>,
}

/// A running cluster. It may be shared by threads; every method may be called twice, late, or from several of them at
/// the same time, and says so if it is too late.
///
/// Dropping it stops it [at once](Self::stop) and waits: no process, thread or descriptor is left. That takes at most
/// [`kill_delay`](super::supervisor::Plan::kill_delay).
pub struct RunningCluster {
    remote: Remote,
    addresses: Vec<Address>,
    events: Receiver<Event>,
    thread: Mutex<Thread>,
}

enum Thread {
    Runs(JoinHandle<io::Result<Ending>>),
    Ended(Result<Ending, Crash>),
}

/// Why a running cluster did not do what it was told.
#[derive(Debug, thiserror::Error)]
pub enum NotDone {
    /// It was not told: it has ended, or is busy.
    #[error(transparent)]
    Unsent(#[from] Unsent),
    /// It would not.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// The message is not on its way.
    #[error(transparent)]
    Undelivered(#[from] Undelivered),
    /// The message is none.
    #[error("the message is no JSON: {0}")]
    NoJson(#[from] serde_json::Error),
}

/// The primary ended as it never should. Its workers see the end of their channels, and end.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Crash {
    /// epoll_wait(2) failed.
    #[error("wait for events: {0}")]
    Events(Arc<io::Error>),
    /// Something of the program's own runs in the primary's thread, and panicked.
    #[error("the primary panicked: a policy, a change of commands or a line sink must not")]
    Panicked,
}

impl Cluster {
    /// Workers of this command, one per CPU.
    pub fn of(command: Command) -> Self {
        let settings = Settings::of(command);
        Self { worker_count: settings.plan.worker_count, settings, events_max: EVENTS_MAX_DEFAULT, mistake: None }
    }

    /// Declares listeners, written as for `--listen`: `127.0.0.1:8000`, `[::]:0,policy=source-hash`,
    /// `unix:/run/app.sock`. They are there from the start to the end; the first is the default of workers, which may
    /// ask for others.
    pub fn listen(mut self, listeners: &str) -> Self {
        match listeners.parse() {
            Ok(ListenerSpecs(specs)) => self.settings.listeners.extend(specs),
            Err(mistake) => self.note(mistake),
        }
        self
    }

    /// As [`listen`](Self::listen), with a policy for this address: for policies that have no name.
    pub fn listen_with(mut self, address: &str, policy: PolicyKind) -> Self {
        match address.parse::<Address>() {
            Ok(address) => self.settings.listeners.push(ListenerSpec { policy: Some(policy), ..address.into() }),
            Err(mistake) => self.note(BadListener::from(mistake)),
        }
        self
    }

    /// So many workers of the command that [`of`](Self::of) was given, besides those of groups. 0 is possible.
    pub fn workers(self, worker_count: u32) -> Self {
        Self { worker_count, ..self }
    }

    /// Besides, so many workers of another command.
    pub fn group(mut self, command: Command, worker_count: u32) -> Self {
        self.settings.groups.push(Group { command, worker_count });
        self
    }

    /// Who gets the connections of listeners that do not say so themselves.
    pub fn policy(mut self, policy: PolicyKind) -> Self {
        self.settings.policy = policy;
        self
    }

    /// Whether a worker that has ended is replaced. One that was asked to [disconnect](RunningCluster::disconnect) is.
    pub fn respawn(mut self, respawn: Respawn) -> Self {
        self.settings.plan.respawn = respawn;
        self
    }

    /// Whose workers are, by name or number: that user's, with its groups. Needs root.
    ///
    /// # Errors
    /// [`Unknown`].
    pub fn user(mut self, user: &str) -> Result<Self, Unknown> {
        self.settings.identity = Some(Identity::of_user(user)?);
        Ok(self)
    }

    /// The primary group of workers, by name or number, in place of that of their user. Needs root.
    ///
    /// # Errors
    /// [`Unknown`].
    pub fn user_group(mut self, group: &str) -> Result<Self, Unknown> {
        let identity = self.settings.identity.take().unwrap_or_else(Identity::own);
        self.settings.identity = Some(identity.with_group(group)?);
        Ok(self)
    }

    /// Where the standard output of workers goes.
    pub fn stdout(mut self, destination: Destination) -> Self {
        self.settings.stdout = destination;
        self
    }

    /// Where the standard error of workers goes.
    pub fn stderr(mut self, destination: Destination) -> Self {
        self.settings.stderr = destination;
        self
    }

    /// How long workers may take until they listen, and until they have finished. One that does not listen by then is
    /// killed, also if it is there for messages only: it may listen on a socket of its own, or `start` may be years.
    pub fn timeouts(mut self, start: Duration, shutdown: Duration) -> Self {
        self.settings.plan.start_timeout = start;
        self.settings.plan.shutdown_timeout = shutdown;
        self
    }

    /// The most events that wait in [`RunningCluster::events`]. Descriptors of messages wait there too.
    pub fn events_max(self, events_max: usize) -> Self {
        Self { events_max, ..self }
    }

    /// Everything else. Three fields are taken from elsewhere: `plan.worker_count` is the sum of
    /// [`workers`](Self::workers) and groups, `plan.outlives_workers` is true, `invocation` is `None`: a program that
    /// embeds a primary cannot be upgraded in place.
    pub fn settings(mut self, set: impl FnOnce(&mut Settings)) -> Self {
        set(&mut self.settings);
        self
    }

    /// Binds every listener, starts the workers, and returns. The primary runs in a thread of its own, in which every
    /// signal is blocked. The process's signal handlers, directory, umask and limits are left as they are.
    ///
    /// Workers are waited for by pidfd, each by itself. But a process that ignores SIGCHLD, or waits for any child,
    /// takes their exit codes away.
    ///
    /// # Errors
    /// [`StartError`]; nothing is left of it then. A command that cannot be executed is no such error: it ends the
    /// cluster, and [`RunningCluster::wait`] says why.
    pub fn start(self) -> Result<RunningCluster, StartError> {
        let Self { mut settings, worker_count, events_max, mistake } = self;
        if let Some(mistake) = mistake {
            return Err(mistake);
        }
        let in_groups = settings.groups.iter().map(|group| group.worker_count);
        settings.plan.worker_count = in_groups.fold(worker_count, u32::saturating_add);
        settings.plan.outlives_workers = true;
        settings.invocation = None;
        check("workers", settings.plan.worker_count, 0, WORKERS_MAX)?;
        check("queue_max", settings.queue_max, 1, QUEUE_MAX_LIMIT)?;
        check("node.depth", settings.node.depth, 1, NODE_DEPTH_LIMIT)?;
        let mut primary = Primary::bind(settings)?;
        let (remote, events) = (primary.remote(), primary.subscribe(events_max));
        let addresses = primary.addresses().cloned().collect();
        let run = move || {
            // The program's signals are for its own threads.
            signals::block_all_in_this_thread()?;
            primary.run()
        };
        let thread = std::thread::Builder::new().name("croupier".into()).spawn(run)?;
        Ok(RunningCluster { remote, addresses, events, thread: Mutex::new(Thread::Runs(thread)) })
    }

    fn note(&mut self, mistake: BadListener) {
        self.mistake.get_or_insert(mistake.into());
    }
}

fn check(what: &'static str, value: u32, least: u32, most: u32) -> Result<(), StartError> {
    if (least..=most).contains(&value) {
        return Ok(());
    }
    Err(StartError::OutOfRange { what, value, least, most })
}

impl RunningCluster {
    /// The real addresses of the declared listeners, in their order.
    pub fn addresses(&self) -> &[Address] {
        &self.addresses
    }

    /// Everything that happens, from the first worker on until the end, which ends it. Each event comes once, whoever
    /// reads: clones of the receiver share them, [`subscribe`](Self::subscribe) makes another one. If nobody reads, the
    /// first [`events_max`](Cluster::events_max) wait, and later ones are counted.
    pub fn events(&self) -> &Receiver<Event> {
        &self.events
    }

    /// Everything that happens from now on, for one more reader. At most `capacity` events wait.
    ///
    /// # Errors
    /// [`Unsent`].
    pub fn subscribe(&self, capacity: usize) -> Result<Receiver<Event>, Unsent> {
        self.remote.subscribe(capacity)
    }

    /// For those who speak to the primary in [`commands`](super::commands), and do not wait for answers.
    pub fn remote(&self) -> &Remote {
        &self.remote
    }

    /// Sends a worker a message: any JSON, and one descriptor of any kind if need be, which the primary closes when it
    /// is sent. What a worker has not read yet is kept, and what it has not received when it ends is lost.
    ///
    /// # Errors
    /// [`NotDone`]; [`Undelivered::WouldExceed`] if the worker must read some first.
    pub fn send(
        &self,
        worker: WorkerId,
        message: &(impl Serialize + ?Sized),
        fd: Option<OwnedFd>,
    ) -> Result<(), NotDone> {
        let body = Body::of(message)?;
        Ok(self.remote.ask(|answer| Order::Send { worker, body, fd, answer })??)
    }

    /// Sends every worker a message. Those that do not get it, and why.
    ///
    /// # Errors
    /// [`NotDone`]: nobody gets it.
    pub fn broadcast(&self, message: &(impl Serialize + ?Sized)) -> Result<Vec<(WorkerId, Undelivered)>, NotDone> {
        let body = Body::of(message)?;
        Ok(self.remote.ask(|answer| Order::Broadcast(body, answer))?)
    }

    /// Starts one worker more, with these variables besides those of its command. Who replaces it gets them too.
    ///
    /// # Errors
    /// [`NotDone`]; [`Refused::NotStarted`] if there is no such program: nothing has changed.
    pub fn fork(&self, variables: &[(&str, &str)]) -> Result<WorkerId, NotDone> {
        let variables = variables.iter().map(|(name, value)| (name.into(), value.into())).collect();
        self.asked(|answer| Order::Fork(variables, answer))
    }

    /// Changes the command for workers that are started from now on; what `change` leaves alone stays. It is called for
    /// the command of every [group](Cluster::group) too, after the one without: in the primary's thread, where it must
    /// neither block nor panic. [`reload`](Self::reload) brings the change to everybody.
    ///
    /// # Errors
    /// [`NotDone`].
    pub fn change(&self, change: impl FnMut(&mut Command) + Send + 'static) -> Result<(), NotDone> {
        Ok(self.remote.ask(|answer| Order::Change(Change::new(change), answer))?)
    }

    /// Has a worker finish what it is doing, and another one follow it, whatever [`respawn`](Cluster::respawn) says. It
    /// returns at once: the worker's events tell the rest.
    ///
    /// # Errors
    /// [`NotDone`].
    pub fn disconnect(&self, worker: WorkerId) -> Result<(), NotDone> {
        self.asked(|answer| Order::Disconnect(worker, answer))
    }

    /// Has all workers finish, with nobody to follow them, and waits until they have ended. Clients wait in the
    /// backlogs of declared listeners until [`scale`](Self::scale) or [`fork`](Self::fork) bring somebody.
    ///
    /// # Errors
    /// [`NotDone`].
    pub fn disconnect_all(&self) -> Result<(), NotDone> {
        self.asked(Order::DisconnectAll)
    }

    /// Sends a worker a signal that is to end it, SIGKILL to its process group. Whether somebody follows is up to
    /// [`respawn`](Cluster::respawn).
    ///
    /// # Errors
    /// [`NotDone`].
    pub fn kill(&self, worker: WorkerId, signal: Signal) -> Result<(), NotDone> {
        self.asked(|answer| Order::Kill(worker, signal, answer))
    }

    /// Has another number of workers, those of groups and forked ones included: more of the command without a group, or
    /// fewer, the latest first. A place whose worker was not replaced counts, and [`fork`](Self::fork) takes it first.
    ///
    /// # Errors
    /// [`NotDone`].
    pub fn scale(&self, scale: Scale) -> Result<Scaled, NotDone> {
        self.asked(|answer| Order::Scale(scale, answer))
    }

    /// Replaces every worker, and waits until that is done. The new ones listen before the old ones finish.
    ///
    /// # Errors
    /// [`NotDone`]; [`Refused::NotReady`] if a new one did not listen: the old ones go on.
    pub fn reload(&self) -> Result<(), NotDone> {
        self.asked(Order::Reload)
    }

    /// Everything that it knows.
    ///
    /// # Errors
    /// [`NotDone`].
    pub fn status(&self) -> Result<Status, NotDone> {
        let mut status = self.remote.ask(Order::Status)?;
        status.look_at_processes();
        Ok(status)
    }

    /// Ends it: whoever has connected is served, workers finish, and what does not within
    /// [`shutdown_timeout`](super::supervisor::Plan::shutdown_timeout) is ended. Waits for the end.
    ///
    /// # Errors
    /// [`Crash`].
    pub fn shutdown(&self) -> Result<Ending, Crash> {
        self.end(Stop::Graceful)
    }

    /// Ends it at once, with SIGTERM to every worker, and SIGKILL after
    /// [`kill_delay`](super::supervisor::Plan::kill_delay). Waits for the end.
    ///
    /// # Errors
    /// [`Crash`].
    pub fn stop(&self) -> Result<Ending, Crash> {
        self.end(Stop::Fast)
    }

    /// Waits until it has ended: because somebody else has ended it, or because workers cannot be started.
    ///
    /// # Errors
    /// [`Crash`].
    pub fn wait(&self) -> Result<Ending, Crash> {
        let mut thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner);
        let crashed = Thread::Ended(Err(Crash::Panicked));
        let ended = match std::mem::replace(&mut *thread, crashed) {
            Thread::Runs(handle) => match handle.join() {
                Ok(ended) => ended.map_err(|error| Crash::Events(Arc::new(error))),
                Err(_) => Err(Crash::Panicked),
            },
            Thread::Ended(ended) => ended,
        };
        *thread = Thread::Ended(ended.clone());
        ended
    }

    fn end(&self, stop: Stop) -> Result<Ending, Crash> {
        loop {
            match self.remote.ask(|answer| Order::Stop(stop, answer)) {
                Err(Unsent::Busy) => std::thread::yield_now(),
                Ok(()) | Err(Unsent::Ended) => return self.wait(),
            }
        }
    }

    fn asked<T: Send + 'static>(&self, order: impl FnOnce(Answer<Result<T, Refused>>) -> Order) -> Result<T, NotDone> {
        Ok(self.remote.ask(order)??)
    }
}

impl Drop for RunningCluster {
    fn drop(&mut self) {
        // How it ended is nobody's concern any more.
        let _ = self.stop();
    }
}

impl fmt::Debug for RunningCluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RunningCluster").field("addresses", &self.addresses).finish_non_exhaustive()
    }
}
