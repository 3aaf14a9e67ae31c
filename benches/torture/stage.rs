//! The croupier under torture: who its workers are at the moment, what its log says of their ends, what it holds.

use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::support::script::free_port;
use crate::support::{Croupier, processes, undeclared};

/// How long croupier may take to be at rest again after the load.
const SETTLE_MAX: Duration = Duration::from_secs(20);

/// The Node program.
pub const NODE_WORKER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/programs/tortured.js");

/// A running croupier.
pub struct Stage {
    pub croupier: Croupier,
    pub address: String,
}

/// A worker that is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Actor {
    pub id: u32,
    pub pid: i32,
}

/// What croupier logs at a worker's exit.
#[derive(Debug, Clone)]
pub struct Exit {
    pub pid: i32,
    pub signal: Option<i32>,
    pub state: String,
    pub dealt: u64,
    pub reclaimed: u64,
    pub taken: u64,
    pub closed: u64,
    pub untaken: u64,
    pub line: String,
}

/// What the primary holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Holding {
    pub fds: usize,
    pub rss_kib: u64,
}

impl Stage {
    /// Starts it with demo workers, and waits until they listen.
    pub fn set(worker_count: u32, options: &[&str]) -> Self {
        let count = worker_count.to_string();
        let mut all = vec!["--workers", &count];
        all.extend(options);
        let croupier = Croupier::demo(&all);
        let address = croupier.wait_ready(worker_count as usize);
        Self { croupier, address }
    }

    /// The same with Node workers, on a listener that is declared.
    pub fn set_node(worker_count: u32, options: &[&str]) -> Self {
        let port = free_port().to_string();
        let mut command =
            undeclared(&["--listen", &format!("127.0.0.1:{port}"), "--workers", &worker_count.to_string()]);
        command.args(options).args(["--", "node", NODE_WORKER]).env("PORTS", port);
        let croupier = Croupier::spawn(command);
        let address = croupier.wait_ready(worker_count as usize);
        Self { croupier, address }
    }

    pub fn signal(&self, signal: Signal) {
        self.croupier.signal(signal);
    }

    pub fn count(&self, text: &str) -> usize {
        self.croupier.log().count(text)
    }

    /// Workers that listen and have not exited, and still are the primary's children.
    pub fn actors(&self) -> Vec<Actor> {
        let mut actors: Vec<Actor> = Vec::new();
        for line in self.croupier.log().lines() {
            let Some(pid) = number(&line, "pid=") else { continue };
            if line.contains(" listening on ") && !actors.iter().any(|actor| actor.pid == pid) {
                actors.push(Actor { id: number(&line, "worker=").unwrap_or(0), pid });
            } else if line.contains(" exited ") {
                actors.retain(|actor| actor.pid != pid);
            }
        }
        actors.retain(|actor| self.is_child(actor.pid));
        actors
    }

    fn is_child(&self, pid: i32) -> bool {
        processes::stat(pid).is_some_and(|stat| stat.parent == self.croupier.pid() && stat.state != 'Z')
    }

    pub fn exits(&self) -> Vec<Exit> {
        self.croupier.log().lines().iter().filter_map(|line| Exit::read(line)).collect()
    }

    /// Lines of croupier that name something that must not happen.
    pub fn complaints(&self) -> Vec<String> {
        let is_bad = |line: &String| {
            ["ERROR", "panicked", " lost", "nobody", "no sense", "Lingering", "SIGKILL to its group"]
                .iter()
                .any(|word| line.contains(word))
        };
        self.croupier.log().lines().into_iter().filter(is_bad).collect()
    }

    pub fn holding(&self) -> Holding {
        let pid = self.croupier.pid();
        let rss = processes::status(pid, "VmRSS").and_then(|text| text.split(' ').next()?.parse().ok());
        Holding { fds: processes::descriptors(pid).len(), rss_kib: rss.unwrap_or(0) }
    }

    /// What it holds once everything is over: as many workers as at the start, and nobody else.
    pub fn settled_holding(&self, worker_count: usize) -> Holding {
        let deadline = Instant::now() + SETTLE_MAX;
        let is_settled = || {
            let actors = self.actors();
            actors.len() == worker_count && processes::children(self.croupier.pid()).len() == worker_count
        };
        let mut settled = 0;
        while settled < 3 && Instant::now() < deadline {
            settled = if is_settled() { settled + 1 } else { 0 };
            std::thread::sleep(Duration::from_millis(100));
        }
        self.holding()
    }
}

/// Signals a process that was seen to be a worker of ours a moment ago.
pub fn send(actor: Actor, signal: Signal) -> bool {
    kill(Pid::from_raw(actor.pid), signal).is_ok()
}

impl Exit {
    /// From `worker=3 pid=4711 exited signal=9 state=ready dealt=9 reclaimed=0 taken=9 closed=8 untaken=0 [...]`.
    fn read(line: &str) -> Option<Self> {
        line.contains(" exited ").then_some(())?;
        let count = |name| number::<u64>(line, name);
        let state = line.split(' ').find_map(|word| word.strip_prefix("state="))?;
        Some(Self {
            pid: number(line, "pid=")?,
            signal: number(line, "signal="),
            state: state.to_owned(),
            dealt: count("dealt=")?,
            reclaimed: count("reclaimed=")?,
            taken: count("taken=")?,
            closed: count("closed=")?,
            untaken: count("untaken=")?,
            line: line.to_owned(),
        })
    }

    /// Connections of which neither the worker's count nor its queue knows.
    pub fn unaccounted(&self) -> i64 {
        let [dealt, reclaimed, taken, untaken] =
            [self.dealt, self.reclaimed, self.taken, self.untaken].map(|count| count as i64);
        dealt - reclaimed - taken - untaken
    }

    /// It was killed by a signal, and its clients may have suffered.
    pub fn had_anything(&self) -> bool {
        self.signal.is_some() && (self.state == "ready" || self.taken > self.closed || self.untaken > 0)
    }

    /// How many clients it may have taken with it: what it had open, and a take that it had not counted, which shows
    /// in the account.
    pub fn open_max(&self) -> u64 {
        self.taken.saturating_sub(self.closed) + u64::from(self.unaccounted() == 1)
    }
}

fn number<T: std::str::FromStr>(line: &str, name: &str) -> Option<T> {
    line.split(' ').find_map(|word| word.strip_prefix(name))?.parse().ok()
}
