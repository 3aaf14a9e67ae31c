//! Commands of other threads obeyed, and those answered who wait for the end of a reload.

use std::sync::Arc;

use crossbeam_channel::Receiver;

use super::Primary;
use crate::primary::commands::{Answer, Command, Refused, Remote, Scale};
use crate::primary::events;
use crate::primary::output::LineSink;
use crate::primary::settings::{Variable, WORKERS_MAX};
use crate::primary::status::{Enabled, Scaled};
use crate::primary::supervisor::{Event, ReloadEnd};
use crate::protocol::ids::WorkerId;
use crate::sys::clock;
use crate::sys::signals::Signal;

/// The most commands that one turn of the loop obeys: dealing goes on between them.
const COMMANDS_PER_TURN: usize = 8;
/// The most requests that wait for the end of a reload. Above it they are refused.
const RELOAD_REQUESTS_MAX: usize = 256;

/// Who waits for the end of a reload.
#[derive(Debug, Default)]
pub(super) struct ReloadRequests {
    /// For the next one that ends.
    current: Vec<Answer<Result<(), Refused>>>,
    /// For the one after it: they came when it was under way already.
    queued: Vec<Answer<Result<(), Refused>>>,
}

/// Somebody waits until nobody is left of those who were there.
#[derive(Debug)]
pub(super) struct Departure {
    /// The id of the last one of them.
    last: u32,
    answer: Answer<Result<(), Refused>>,
}

impl ReloadRequests {
    fn count(&self) -> usize {
        self.current.len() + self.queued.len()
    }

    fn answer_current(&mut self, result: &Result<(), Refused>) {
        let queued = std::mem::take(&mut self.queued);
        for answer in std::mem::replace(&mut self.current, queued) {
            answer.give(result.clone());
        }
    }
}

impl Primary {
    /// A handle on this primary for other threads.
    pub fn remote(&self) -> Remote {
        self.commands.remote()
    }

    /// Everything that happens from the first worker on, if it is called before [`run`](Self::run). Otherwise as
    /// [`Remote::subscribe`].
    pub fn subscribe(&mut self, capacity: usize) -> Receiver<events::Event> {
        let (subscriber, receiver) = events::subscription(capacity);
        self.subscribers.add(subscriber);
        receiver
    }

    /// The same without the messages of workers, and so without descriptors that wait with them: for whoever follows
    /// the lives of workers and may be slow.
    pub fn subscribe_to_lives(&mut self, capacity: usize) -> Receiver<events::Event> {
        let (subscriber, receiver) = events::subscription(capacity);
        self.subscribers.add(subscriber.without_messages());
        receiver
    }

    /// The lines of everything that happens from the first worker on, if it is called before [`run`](Self::run); at
    /// most `capacity` at a time. `wake` is called in the event loop whenever there is a new one, and at the end: it
    /// must not wait for anybody. Drop the receiver to end it.
    pub fn observe(&mut self, capacity: usize, wake: impl Fn() + Send + 'static) -> Receiver<events::Line> {
        let (observer, receiver) = events::observation(capacity, wake);
        self.subscribers.add_observer(observer);
        receiver
    }

    /// Has `onlooker` get every line of workers that passes through the primary:
    /// [`Destination::Lines`](crate::primary::output::Destination::Lines).
    pub fn show_output_to(&mut self, onlooker: Arc<dyn LineSink>) {
        self.outputs.show_to(onlooker);
    }

    pub(super) fn hear_commands(&mut self) {
        for _ in 0..COMMANDS_PER_TURN {
            match self.commands.next() {
                Some(command) => self.obey_command(command),
                None => return,
            }
        }
        self.commands.come_back();
    }

    fn obey_command(&mut self, command: Command) {
        match command {
            Command::Status(answer) => answer.give(self.status()),
            Command::Metrics(answer) => answer.give(self.metrics()),
            Command::Glance(answer) => answer.give(self.glance()),
            Command::Reload(answer) => self.reload(answer),
            Command::Reconfigure(read) => self.reconfigure(read),
            Command::Upgrade(answer) => {
                self.upgrade_requests.push(answer);
                self.upgrade_requested();
            }
            Command::Scale(scale, answer) => answer.give(self.scale_as_told(scale)),
            Command::Stop(stop, answer) => {
                answer.give(());
                self.decide(Event::StopRequested(stop));
            }
            Command::SetEnabled(is_enabled, answer) => answer.give(self.set_enabled(is_enabled)),
            Command::Fork(variables, answer) => answer.give(self.fork(variables)),
            Command::Change(change, answer) => {
                change.make(&mut self.settings);
                answer.give(());
            }
            Command::DisconnectAll(answer) => self.disconnect_all(answer),
            Command::Disconnect(id, answer) => answer.give(self.replace_worker(id)),
            Command::Kill(id, signal, answer) => answer.give(self.kill_as_told(id, signal)),
            Command::Send { worker, body, fd, answer } => answer.give(self.send_message(worker, body, fd)),
            Command::Broadcast(body, answer) => answer.give(self.broadcast(body)),
            Command::Subscribe(subscriber) => self.subscribers.add(subscriber),
        }
    }

    fn reload(&mut self, answer: Answer<Result<(), Refused>>) {
        if self.reload_requests.count() >= RELOAD_REQUESTS_MAX {
            return answer.give(Err(Refused::TooManyWaiting));
        }
        if self.is_reloading() {
            self.reload_requests.queued.push(answer);
        } else {
            self.reload_requests.current.push(answer);
        }
        self.request_reload();
    }

    /// Both those who began a reload and those who came too late to wait for another one hear how it ended.
    pub(super) fn answer_reload_requests(&mut self, end: ReloadEnd) {
        match end {
            ReloadEnd::Done { .. } => self.reload_requests.answer_current(&Ok(())),
            ReloadEnd::NotReady => {
                let why = self.last_failure.clone().unwrap_or_else(|| "it did not become ready".into());
                self.reload_requests.answer_current(&Err(Refused::NotReady(why)));
            }
            ReloadEnd::Misconfigured => {
                let why = self.reconfiguration.mistake.clone();
                self.reload_requests.answer_current(&Err(Refused::BadConfiguration(why)));
            }
            ReloadEnd::Stopping => self.refuse_reload_requests(),
        }
    }

    /// No reload will come to its end any more.
    pub(super) fn refuse_reload_requests(&mut self) {
        self.reload_requests.answer_current(&Err(Refused::Stopping));
        self.reload_requests.answer_current(&Err(Refused::Stopping));
    }

    pub(super) fn scale_as_told(&mut self, scale: Scale) -> Result<Scaled, Refused> {
        if !self.supervisor.is_running() {
            return Err(Refused::Stopping);
        }
        let workers_before = self.supervisor.worker_count();
        let wanted = scale.applied_to(workers_before);
        let least = self.settings.plan.worker_count_min();
        let workers = u32::try_from(wanted).ok().filter(|count| (least..=WORKERS_MAX).contains(count));
        let workers = workers.ok_or(Refused::OutOfRange { wanted, least })?;
        log::info!("scale={scale} [workers={workers}]");
        self.subscribers.tell(|| events::Event::Scale { workers });
        self.forked.retain(|slot, _| slot.0 < workers);
        self.decide(Event::ScaleRequested(workers));
        Ok(Scaled { workers_before, workers })
    }

    fn set_enabled(&mut self, is_enabled: bool) -> Enabled {
        if self.enabled.is_enabled != is_enabled {
            self.enabled = Enabled { is_enabled, since_unix_seconds: clock::since_epoch().as_secs() };
            let (what, event) = match is_enabled {
                true => ("enabled", events::Event::Enable),
                false => ("disabled", events::Event::Disable),
            };
            log::info!("{what} [load balancers are told so; dealing goes on]");
            self.subscribers.tell(|| event);
        }
        self.enabled
    }

    /// The supervisor hears of it once the process runs: if it does not, whoever asked knows, and nobody tries again.
    fn fork(&mut self, variables: Vec<Variable>) -> Result<WorkerId, Refused> {
        if !self.supervisor.is_running() {
            return Err(Refused::Stopping);
        }
        let (slot, id) = (self.supervisor.free_slot(), self.workers.next_id());
        let least = self.settings.plan.worker_count_min();
        if slot.0 >= WORKERS_MAX {
            return Err(Refused::OutOfRange { wanted: i64::from(slot.0) + 1, least });
        }
        let before = self.forked.insert(slot, variables);
        match self.try_start_worker(id, slot) {
            Ok(pid) => {
                self.note_started(id, pid, slot);
                self.decide(Event::Forked(slot, id));
                Ok(id)
            }
            Err(error) => {
                self.forked.remove(&slot);
                self.forked.extend(before.map(|variables| (slot, variables)));
                Err(Refused::NotStarted(self.why_not_started(&error)))
            }
        }
    }

    fn disconnect_all(&mut self, answer: Answer<Result<(), Refused>>) {
        // In a stop all of them finish anyway.
        if self.supervisor.is_running()
            && let Err(refused) = self.scale_as_told(Scale::To(0))
        {
            return answer.give(Err(refused));
        }
        self.departures.push(Departure { last: self.workers.last_id(), answer });
        self.answer_departures();
    }

    /// A worker may have been the last one that somebody waits for.
    pub(super) fn answer_departures(&mut self) {
        let oldest = self.workers.iter().next().map_or(u32::MAX, |worker| worker.id.0);
        for Departure { answer, .. } in self.departures.extract_if(.., |it| it.last < oldest) {
            answer.give(Ok(()));
        }
    }

    fn replace_worker(&mut self, id: WorkerId) -> Result<(), Refused> {
        if !self.supervisor.is_running() {
            return Err(Refused::Stopping);
        }
        let worker = self.workers.get(id).ok_or(Refused::NoSuchWorker(id))?;
        log::info!("worker={id} pid={} is to disconnect", worker.process.pid());
        self.decide(Event::DisconnectRequested(id));
        Ok(())
    }

    fn kill_as_told(&mut self, id: WorkerId, signal: Signal) -> Result<(), Refused> {
        let worker = self.workers.get_mut(id).ok_or(Refused::NoSuchWorker(id))?;
        worker.is_voluntary = true;
        let pid = worker.process.pid();
        if signal == Signal::SIGKILL {
            log::warn!("worker={id} pid={pid} is to be killed [SIGKILL to its group]");
            worker.process.signal_group(signal);
        } else {
            log::info!("worker={id} pid={pid} is to end [{signal}]");
            worker.signal(signal);
        }
        Ok(())
    }
}
