//! Many clients at a steady rate, from a few threads: each opens its share on time, whatever becomes of those before,
//! and notes what each of them has seen.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use mio::{Events, Interest, Poll, Token};
use slab::Slab;

use super::client::{Answer, Client, Errand, Failure, Moment, Step, What, what};

/// How often pauses and patience are looked at.
const LOOK_EVERY: Duration = Duration::from_millis(4);

/// What the clients do.
#[derive(Debug, Clone)]
pub struct Traffic {
    /// Connections per second, all threads together.
    pub rate: u32,
    pub threads: u32,
    /// One after the other in turn.
    pub errands: Vec<Errand>,
    /// Connections at the same time, at most; above it the rate is not kept.
    pub open_max: usize,
    /// How long a client waits for an answer before it counts as hanging.
    pub patience: Duration,
}

/// One request on each connection.
pub const ONCE: Errand = Errand { requests: 1, pause: Duration::ZERO };
/// Several requests with idle time in between.
pub const KEEP_ALIVE: Errand = Errand { requests: 6, pause: Duration::from_millis(200) };

/// What all clients have seen.
#[derive(Debug, Default)]
pub struct Tally {
    /// Connections that were begun.
    pub connections: u64,
    /// Connections that got every answer that they asked for.
    pub served: u64,
    /// Of those, connections that the server ended earlier than the client wanted, in an answer that said so.
    pub sent_away: u64,
    pub answers: Vec<Answer>,
    pub failures: Vec<Failure>,
}

/// A load that is running.
pub struct Load {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<Tally>>,
}

#[derive(Default)]
struct Shared {
    opened: AtomicU64,
    stop: AtomicBool,
}

struct Clients {
    to: SocketAddr,
    traffic: Traffic,
    shared: Arc<Shared>,
    poll: Poll,
    clients: Slab<Client>,
    tally: Tally,
}

impl Load {
    /// Opens at most `connections_max`, then no more.
    pub fn start(address: &str, traffic: &Traffic, connections_max: u64) -> Self {
        let to = address.parse().expect("a socket address");
        let shared = Arc::<Shared>::default();
        let each = connections_max / u64::from(traffic.threads);
        let start = |_| {
            let mut clients = Clients {
                to,
                traffic: traffic.clone(),
                shared: Arc::clone(&shared),
                poll: Poll::new().expect("a descriptor is left"),
                clients: Slab::new(),
                tally: Tally::default(),
            };
            std::thread::spawn(move || {
                clients.run(each);
                clients.tally
            })
        };
        let threads = (0..traffic.threads).map(start).collect();
        Self { shared, threads }
    }

    /// Connections begun so far.
    pub fn opened(&self) -> u64 {
        self.shared.opened.load(Ordering::Relaxed)
    }

    /// Every connection that will be is finished.
    pub fn is_over(&self) -> bool {
        self.threads.iter().all(JoinHandle::is_finished)
    }

    /// Opens no more, lets every client have the answer that it is waiting for, and returns what all have seen.
    pub fn finish(self) -> Tally {
        self.shared.stop.store(true, Ordering::Relaxed);
        let mut all = Tally::default();
        for thread in self.threads {
            all.add(thread.join().expect("no client panics"));
        }
        all
    }
}

impl Tally {
    pub fn add(&mut self, other: Tally) {
        self.connections += other.connections;
        self.served += other.served;
        self.sent_away += other.sent_away;
        self.answers.extend(other.answers);
        self.failures.extend(other.failures);
    }

    /// The waits of all answered requests, sorted.
    pub fn waits(&self) -> Vec<Duration> {
        let mut waits: Vec<Duration> = self.answers.iter().map(|answer| answer.waited).collect();
        waits.sort_unstable();
        waits
    }
}

/// The wait that this share of sorted waits does not exceed.
pub fn percentile(sorted: &[Duration], share: f64) -> Duration {
    let index = (sorted.len() as f64 * share).ceil() as usize;
    sorted.get(index.saturating_sub(1).min(sorted.len().saturating_sub(1))).copied().unwrap_or_default()
}

impl Clients {
    fn run(&mut self, connections_max: u64) {
        let mut events = Events::with_capacity(1024);
        let interval = Duration::from_secs(1) * self.traffic.threads / self.traffic.rate;
        let open_max = self.traffic.open_max / self.traffic.threads as usize;
        let mut due = Instant::now();
        let mut looked = due;
        loop {
            let stopped = self.is_stopped();
            let now = Instant::now();
            while !stopped && due <= now && self.tally.connections < connections_max && self.clients.len() < open_max {
                due += interval;
                self.open();
            }
            if self.clients.is_empty() && (stopped || self.tally.connections >= connections_max) {
                return;
            }
            let until_look = (looked + LOOK_EVERY).saturating_duration_since(now);
            let timeout = until_look.min(due.saturating_duration_since(now).max(Duration::from_millis(1)));
            if self.poll.poll(&mut events, Some(timeout)).is_err() {
                continue; // interrupted
            }
            for event in &events {
                let key = event.token().0;
                let Some(client) = self.clients.get_mut(key) else { continue };
                let step = client.advance(stopped);
                self.follow(key, step);
            }
            if looked.elapsed() >= LOOK_EVERY {
                looked = Instant::now();
                self.look(looked, stopped);
            }
        }
    }

    fn is_stopped(&self) -> bool {
        self.shared.stop.load(Ordering::Relaxed)
    }

    fn open(&mut self) {
        let number = self.tally.connections;
        self.tally.connections += 1;
        self.shared.opened.fetch_add(1, Ordering::Relaxed);
        let errand = self.traffic.errands[number as usize % self.traffic.errands.len()];
        let opened = Instant::now();
        match Client::connect(self.to, errand, number) {
            Ok(mut client) => {
                let token = Token(self.clients.vacant_key());
                let both = Interest::READABLE | Interest::WRITABLE;
                self.poll.registry().register(&mut client.stream, token, both).expect("epoll has room");
                self.clients.insert(client);
            }
            Err(error) => self.tally.failures.push(Failure {
                at: Instant::now(),
                opened,
                asked: opened,
                what: what(&error),
                moment: Moment::Connecting,
                answered: 0,
                worker: None,
                address: None,
            }),
        }
    }

    fn follow(&mut self, key: usize, step: Step) {
        let client = &mut self.clients[key];
        match step {
            Step::Goes => return,
            Step::Answered(worker) => {
                self.tally.answers.push(client.answer(worker));
                return;
            }
            Step::Done(worker) => {
                self.tally.answers.push(client.answer(worker));
                self.tally.served += 1;
                self.tally.sent_away += u64::from(client.was_sent_away());
            }
            Step::Failed(what) => self.tally.failures.push(client.failure(what)),
        }
        self.clients.remove(key);
    }

    /// Who has paused long enough, and who has waited too long?
    fn look(&mut self, now: Instant, stopped: bool) {
        let keys: Vec<usize> = self.clients.iter().map(|(key, _)| key).collect();
        for key in keys {
            let client = &mut self.clients[key];
            if client.resumes.is_some_and(|at| stopped || now >= at) {
                let step = client.resume(stopped);
                self.follow(key, step);
            } else if client.waits_since().is_some_and(|since| now - since > self.traffic.patience) {
                self.follow(key, Step::Failed(What::Hung));
            }
        }
    }
}
