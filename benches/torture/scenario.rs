//! The scenarios: what is done to whom, how often, under which traffic.

use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use super::chance::Chance;
use super::client::Errand;
use super::load::{KEEP_ALIVE, Load, ONCE, Tally, Traffic, percentile};
use super::peers::{self, Peer};
use super::stage::{Actor, Holding, Stage, send};
use super::table::Row;
use super::verdict::{Circumstances, Kill, Verdict};
use crate::support::{processes, until};

/// The default of `--stall-after`, and how long a client of a stopped worker that has not taken it may wait.
const STALL_AFTER: Duration = Duration::from_millis(100);
const WAIT_MAX: Duration = Duration::from_millis(2 * 100 + 50);
/// How long a worker hangs before it is killed, where it is.
pub const HANG: Duration = Duration::from_millis(60);
/// Resident memory that allocators and logs may move about without anything growing.
const RSS_SLACK_KIB: u64 = 1024;

/// How much.
#[derive(Debug, Clone, Copy)]
pub struct Extent {
    pub connections: u64,
    pub occurrences: u64,
    /// Connections per second.
    pub rate: u32,
    /// How much shorter than described everything takes.
    pub haste: u32,
    /// Also judge how long clients waited. Other load on the machine makes them wait too.
    pub judge_waits: bool,
    pub seed: u64,
    pub time_max: Duration,
}

impl Extent {
    pub const FULL: Self = Self {
        connections: 20_000,
        occurrences: 20,
        rate: 2000,
        haste: 1,
        judge_waits: true,
        seed: 1,
        time_max: Duration::from_secs(400),
    };
    /// Seconds each.
    pub const QUICK: Self = Self {
        connections: 1_000,
        occurrences: 4,
        rate: 500,
        haste: 4,
        judge_waits: false,
        seed: 1,
        time_max: Duration::from_secs(60),
    };
}

/// A scenario.
pub struct Scenario {
    pub name: &'static str,
    pub what: &'static str,
    pub play: fn(&'static str, &Extent) -> Row,
}

pub const ALL: [Scenario; 17] = [
    Scenario {
        name: "calm",
        what: "nothing happens",
        play: |name, extent| Script::new(name, Act::Nothing).run(extent),
    },
    Scenario {
        name: "kill",
        what: "SIGKILL of a random worker every 300 ms",
        play: |name, extent| Script::new(name, Act::Kill).run(extent),
    },
    Scenario {
        name: "hang-kill",
        what: "a worker hangs for 60 ms and is SIGKILLed then, every 300 ms",
        play: |name, extent| Script::new(name, Act::HangAndKill).run(extent),
    },
    Scenario {
        name: "stop",
        what: "SIGSTOP for 2 s of one of 4 workers",
        play: |name, extent| Script { every_ms: 3000, ..Script::new(name, Act::Stop) }.run(extent),
    },
    Scenario {
        name: "reload",
        what: "reload every 2 s, one connection per request",
        play: |name, extent| Script { every_ms: 2000, ..Script::new(name, RELOAD) }.run(extent),
    },
    Scenario {
        name: "reload-keep-alive",
        what: "reload every 2 s, idle connections",
        play: |name, extent| {
            Script { every_ms: 2000, slower: 4, errands: &[KEEP_ALIVE], ..Script::new(name, RELOAD) }.run(extent)
        },
    },
    Scenario {
        name: "upgrade",
        what: "upgrade every 2 s, one connection per request and idle ones",
        play: |name, extent| {
            Script { every_ms: 2000, errands: &[ONCE, KEEP_ALIVE], ..Script::new(name, UPGRADE) }.run(extent)
        },
    },
    Scenario {
        name: "scale",
        what: "1 to 8 workers and back",
        play: |name, extent| {
            Script { workers: 1, every_ms: 150, errands: &[ONCE, KEEP_ALIVE], ..Script::new(name, Act::Scale) }
                .run(extent)
        },
    },
    Scenario {
        name: "recycle",
        what: "every worker is replaced after 500 connections",
        play: |name, extent| {
            let options = &["--recycle-after", "500"];
            Script { options, errands: &[ONCE, KEEP_ALIVE], ..Script::new(name, Act::Recycle) }.run(extent)
        },
    },
    Scenario { name: "mixed", what: "all of it", play: |name, extent| MIXED.named(name).run(extent) },
    Scenario {
        name: "term",
        what: "TERM of the whole",
        play: |name, extent| term(name, extent, Stage::set, &[ONCE, ONCE, KEEP_ALIVE]),
    },
    Scenario {
        name: "leak",
        what: "ten times as many connections, all of it; nothing that the primary holds may grow",
        play: |name, extent| {
            let extent =
                Extent { connections: extent.connections * 10, occurrences: 0, rate: extent.rate * 5 / 4, ..*extent };
            Script { judge_holding: true, ..MIXED.named(name) }.run(&extent)
        },
    },
    Scenario {
        name: "so-reuseport: kill",
        what: "as kill, the same workers without croupier",
        play: |name, extent| Peer::ReusePort(peers::Act::Kill).play(name, extent),
    },
    Scenario {
        name: "so-reuseport: hang",
        what: "as hang-kill, the same workers without croupier",
        play: |name, extent| Peer::ReusePort(peers::Act::HangAndKill).play(name, extent),
    },
    Scenario {
        name: "node: kill",
        what: "as kill, Node's cluster",
        play: |name, extent| Peer::NodeCluster(peers::Act::Kill).play(name, extent),
    },
    Scenario {
        name: "node: hang",
        what: "as hang-kill, Node's cluster",
        play: |name, extent| Peer::NodeCluster(peers::Act::HangAndKill).play(name, extent),
    },
    Scenario {
        name: "nginx: reload",
        what: "as reload-keep-alive, nginx",
        play: |name, extent| Peer::Nginx.play(name, extent),
    },
];

/// The same with Node workers. Their clients ask once: a Node worker that is to finish ends idle connections.
pub const NODE: [Scenario; 7] = [
    Scenario {
        name: "node-hang-kill",
        what: "a Node worker hangs for 60 ms and is SIGKILLed then, every 600 ms",
        play: |name, extent| Script { every_ms: 600, act: Act::HangAndKill, ..NODE_SCRIPT }.named(name).run(extent),
    },
    Scenario {
        name: "node-halt",
        what: "SIGSTOP for 2 s of one of 4 Node workers; what it has not acknowledged waits with it",
        play: |name, extent| Script { every_ms: 3000, act: Act::Stop, ..NODE_SCRIPT }.named(name).run(extent),
    },
    Scenario {
        name: "node-upgrade",
        what: "upgrade every 2 s, Node workers",
        play: |name, extent| Script { every_ms: 2000, act: UPGRADE, ..NODE_SCRIPT }.named(name).run(extent),
    },
    Scenario {
        name: "node-scale",
        what: "1 to 8 Node workers and back",
        play: |name, extent| {
            Script { workers: 1, every_ms: 200, act: Act::Scale, ..NODE_SCRIPT }.named(name).run(extent)
        },
    },
    Scenario {
        name: "node-recycle",
        what: "every Node worker is replaced after 500 connections",
        play: |name, extent| {
            let options = &["--recycle-after", "500"];
            Script { options, act: Act::Recycle, ..NODE_SCRIPT }.named(name).run(extent)
        },
    },
    Scenario {
        name: "node-mixed",
        what: "all of it, Node workers; nothing that the primary holds may grow",
        play: |name, extent| {
            let extent = Extent { connections: extent.connections * 2, occurrences: 0, ..*extent };
            Script { every_ms: 400, act: Act::Mixed, judge_holding: true, ..NODE_SCRIPT }.named(name).run(&extent)
        },
    },
    Scenario {
        name: "node-term",
        what: "TERM of the whole, Node workers",
        play: |name, extent| {
            term(name, &Extent { rate: extent.rate / NODE_SCRIPT.slower, ..*extent }, Stage::set_node, &[ONCE])
        },
    },
];

/// What is done again and again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Act {
    Nothing,
    Kill,
    HangAndKill,
    Stop,
    /// A signal to croupier; each line with this text is an occurrence.
    Ask(Signal, &'static str),
    Scale,
    Recycle,
    Mixed,
}

const RELOAD: Act = Act::Ask(Signal::SIGHUP, "reload done");
const UPGRADE: Act = Act::Ask(Signal::SIGUSR2, "took over from ");

const MIXED: Script = Script {
    name: "mixed",
    workers: 4,
    options: &["--recycle-after", "2000+1000"],
    errands: &[ONCE, ONCE, ONCE, KEEP_ALIVE],
    every_ms: 200,
    act: Act::Mixed,
    slower: 1,
    judge_holding: false,
    is_node: false,
};

const NODE_SCRIPT: Script = Script { slower: 2, is_node: true, ..Script::new("node", Act::Kill) };

/// How many clients a Node worker may have when it is killed: nobody knows how many it has open.
const NODE_CUT_MAX: u64 = 64;

#[derive(Debug, Clone, Copy)]
struct Script {
    name: &'static str,
    workers: u32,
    options: &'static [&'static str],
    errands: &'static [Errand],
    every_ms: u32,
    act: Act,
    /// Clients that stay come at a lower rate: each of them is many requests.
    slower: u32,
    judge_holding: bool,
    /// Whether workers are Node programs.
    is_node: bool,
}

/// A worker that did not run.
#[derive(Debug, Clone, Copy)]
struct Halt {
    actor: Actor,
    from: Instant,
    to: Instant,
}

/// A scenario under way.
struct Play {
    stage: Stage,
    script: Script,
    extent: Extent,
    chance: Chance,
    started: Instant,
    tally: Tally,
    kills: Vec<Kill>,
    halts: Vec<Halt>,
    acts: u64,
    /// Workers above (or below) the number at the start.
    more_workers: i32,
    is_swinging_down: bool,
    /// All the way up and back.
    swings: u64,
}

impl Script {
    const fn new(name: &'static str, act: Act) -> Self {
        let (workers, every_ms, slower) = (4, 300, 1);
        let (judge_holding, is_node) = (false, false);
        Self { name, workers, options: &[], errands: &[ONCE], every_ms, act, slower, judge_holding, is_node }
    }

    fn named(self, name: &'static str) -> Self {
        Self { name, ..self }
    }

    fn run(self, extent: &Extent) -> Row {
        let mut play = Play {
            stage: if self.is_node { Stage::set_node } else { Stage::set }(self.workers, self.options),
            script: self,
            extent: *extent,
            chance: Chance::new(extent.seed),
            started: Instant::now(),
            tally: Tally::default(),
            kills: Vec::new(),
            halts: Vec::new(),
            acts: 0,
            more_workers: 0,
            is_swinging_down: false,
            swings: 0,
        };
        let mut faults = Vec::new();
        // Once small, so that everything has happened before it is measured.
        faults.extend(play.go_through(extent.connections / 10, extent.occurrences / 10));
        let before = play.stage.settled_holding(self.workers as usize);
        let calm = (self.act == Act::Stop).then(|| play.calm());
        faults.extend(play.go_through(extent.connections, extent.occurrences));
        let after = play.stage.settled_holding(self.workers as usize);
        play.judge(before, after, calm, faults)
    }
}

impl Play {
    fn traffic(&self) -> Traffic {
        Traffic {
            rate: self.extent.rate / self.script.slower,
            threads: 2,
            errands: self.script.errands.to_vec(),
            open_max: 8000,
            patience: Duration::from_secs(10),
        }
    }

    /// The waits of the same clients when nothing happens.
    fn calm(&mut self) -> Vec<Duration> {
        let load = Load::start(&self.stage.address, &self.traffic(), self.extent.connections / 4);
        until(|| load.is_over().then_some(()));
        let tally = load.finish();
        let waits = tally.waits();
        self.tally.add(Tally { answers: Vec::new(), ..tally });
        waits
    }

    /// Load, and acts, until there were enough of both.
    fn go_through(&mut self, connections: u64, occurrences: u64) -> Option<String> {
        let deadline = Instant::now() + self.extent.time_max;
        let load = Load::start(&self.stage.address, &self.traffic(), u64::from(u32::MAX));
        let every = Duration::from_millis(u64::from(self.script.every_ms / self.extent.haste));
        let mut next = Instant::now() + every;
        let occurrences = self.occurrences().saturating_add(occurrences);
        let is_calm = self.script.act == Act::Nothing;
        while load.opened() < connections || !is_calm && self.occurrences() < occurrences {
            if Instant::now() >= deadline {
                load.finish();
                return Some(format!("time is up after {} occurrences", self.occurrences()));
            }
            sleep(next.saturating_duration_since(Instant::now()));
            self.act(self.script.act);
            // What took long itself is still followed by a rest.
            next = (next + every).max(Instant::now() + every / 2);
        }
        self.scale_back();
        self.tally.add(load.finish());
        None
    }

    fn occurrences(&self) -> u64 {
        match self.script.act {
            Act::Nothing => 0,
            Act::Ask(_, done) => self.stage.count(done) as u64,
            Act::Recycle => self.stage.count("[recycling]") as u64,
            Act::Scale => self.swings,
            Act::Kill | Act::HangAndKill | Act::Stop | Act::Mixed => self.acts,
        }
    }

    fn act(&mut self, act: Act) {
        self.acts += 1;
        match act {
            Act::Nothing | Act::Recycle => {}
            Act::Kill => self.kill(Duration::ZERO),
            Act::HangAndKill => self.kill(HANG),
            Act::Stop => self.halt(Duration::from_millis(2000) / self.extent.haste),
            Act::Ask(signal, _) => self.stage.signal(signal),
            Act::Scale => self.swing(),
            Act::Mixed => {
                let all = [Act::Kill, Act::Kill, Act::HangAndKill, Act::Stop, RELOAD, UPGRADE, Act::Scale];
                match all[self.chance.below(all.len())] {
                    Act::Stop => self.halt(Duration::from_millis(250)),
                    Act::Scale => {
                        let wanted = self.chance.below(5) as i32 - 2;
                        self.scale(wanted < self.more_workers);
                    }
                    other => {
                        self.acts -= 1;
                        self.act(other);
                    }
                }
            }
        }
    }

    fn random_worker(&mut self) -> Option<Actor> {
        let actors = self.stage.actors();
        self.chance.pick(&actors).copied()
    }

    fn kill(&mut self, hang: Duration) {
        let Some(actor) = self.random_worker() else { return };
        if !hang.is_zero() {
            send(actor, Signal::SIGSTOP);
            sleep(hang);
        }
        let at = Instant::now();
        if send(actor, Signal::SIGKILL) {
            self.kills.push(Kill { pid: actor.pid, at });
        }
    }

    fn halt(&mut self, time: Duration) {
        let Some(actor) = self.random_worker() else { return };
        send(actor, Signal::SIGSTOP);
        until(|| processes::stat(actor.pid).is_none_or(|stat| stat.state == 'T').then_some(()));
        let from = Instant::now();
        sleep(time);
        let to = Instant::now();
        send(actor, Signal::SIGCONT);
        self.halts.push(Halt { actor, from, to });
    }

    fn scale(&mut self, down: bool) {
        let heard = self.stage.count("[workers=");
        self.stage.signal(if down { Signal::SIGTTOU } else { Signal::SIGTTIN });
        // Two equal signals that are pending at the same time are one.
        until(|| (self.stage.count("[workers=") > heard).then_some(()));
        self.more_workers += if down { -1 } else { 1 };
    }

    /// One worker more, up to the most; then one fewer, down to the number at the start.
    fn swing(&mut self) {
        self.scale(self.is_swinging_down);
        match self.more_workers {
            SWING_MAX => self.is_swinging_down = true,
            0 => {
                self.is_swinging_down = false;
                self.swings += 1;
            }
            _ => {}
        }
    }

    fn scale_back(&mut self) {
        self.is_swinging_down = false;
        while self.more_workers != 0 {
            self.scale(self.more_workers > 0);
        }
    }

    fn judge(self, before: Holding, after: Holding, calm: Option<Vec<Duration>>, mut faults: Vec<String>) -> Row {
        let occurrences = self.occurrences();
        let Self { mut stage, script, extent, started, tally, kills, halts, .. } = self;
        let exits = stage.exits();
        let killed = |pid: i32| kills.iter().any(|kill| kill.pid == pid);
        faults.extend(exits.iter().filter(|it| it.had_anything() && !killed(it.pid)).map(|it| it.line.clone()));
        // A reload whose new worker we have killed stops there: as it should.
        let may_stop = |line: &String| !kills.is_empty() && line.contains("reload stopped: the new worker failed");
        faults.extend(stage.complaints().into_iter().filter(|line| !may_stop(line)));
        match stage.croupier.terminate() {
            Some(0) => {}
            code => faults.push(format!("exit code {code:?}")),
        }
        let mut notes = Vec::new();
        if script.judge_holding {
            if after.fds > before.fds {
                faults.push(format!("the primary's descriptors have grown from {} to {}", before.fds, after.fds));
            }
            if after.rss_kib > before.rss_kib + RSS_SLACK_KIB {
                faults.push(format!("the primary has grown from {} to {} KiB", before.rss_kib, after.rss_kib));
            }
        }
        if let Some(calm) = calm {
            let (note, found) = judge_waits(&tally, &halts, &calm, &extent, script.is_node);
            notes.push(note);
            faults.extend(found);
        }
        let allowed = script.is_node.then(|| vec![NODE_CUT_MAX; kills.len()]);
        let circumstances = Circumstances { kills, exits, ending_since: None };
        let verdict = match allowed {
            Some(allowed) => Verdict::allowing(allowed, &tally, &circumstances, started),
            None => Verdict::of(&tally, &circumstances, started),
        };
        let mut row = row(script.name, &tally, verdict, occurrences);
        row.holding = Some((before, after));
        row.notes.extend(notes);
        row.faults.extend(faults);
        if !row.is_good() {
            row.notes.push(format!("the log is in {}", keep_log(script.name, &stage)));
        }
        row
    }
}

/// Writes croupier's log where it can be read afterwards.
pub fn keep_log(name: &str, stage: &Stage) -> String {
    let path = std::env::temp_dir().join(format!("croupier-torture-{name}.log"));
    let text = stage.croupier.log().to_string();
    match std::fs::write(&path, text) {
        Ok(()) => path.display().to_string(),
        Err(error) => format!("no file: {error}"),
    }
}

/// From 1 to 8.
const SWING_MAX: i32 = 7;

/// How long those waited that the stopped worker had not taken: everybody who was answered by another one, and
/// everybody who came when it stood still.
fn judge_waits(
    tally: &Tally,
    halts: &[Halt],
    calm: &[Duration],
    extent: &Extent,
    is_node: bool,
) -> (String, Vec<String>) {
    let had_been_taken = |answer: &super::client::Answer| {
        let halted = |halt: &Halt| {
            // Nothing can be taken back from a Node worker: its clients wait with it, whenever they came.
            let last = if is_node { halt.to } else { halt.from };
            answer.worker == halt.actor.id && answer.asked < last && answer.asked + answer.waited >= halt.from
        };
        halts.iter().any(halted)
    };
    let free: Vec<_> = tally.answers.iter().filter(|answer| !had_been_taken(answer)).collect();
    let held = tally.answers.len() - free.len();
    let mut waits: Vec<Duration> = free.iter().map(|answer| answer.waited).collect();
    waits.sort_unstable();
    let [p99, calm_p99] = [percentile(&waits, 0.99), percentile(calm, 0.99)];
    let max = waits.last().copied().unwrap_or_default();
    let note = format!(
        "taken by a stopped worker before it stopped: {held}; the others waited p99 {p99:.2?} (without stops \
         {calm_p99:.2?}), max {max:.2?} (bound {WAIT_MAX:?})"
    );
    let mut faults = Vec::new();
    let held_max = halts.len() as u64 * NODE_CUT_MAX;
    if is_node && held as u64 > held_max {
        faults.push(format!("{held} waited with stopped Node workers, {held_max} at most"));
    }
    let wait_max = if extent.judge_waits { WAIT_MAX } else { STALL_AFTER * 20 / extent.haste };
    for answer in free.iter().filter(|answer| answer.waited > wait_max) {
        let during = halts.iter().find(|halt| (halt.from..halt.to).contains(&answer.asked));
        let during =
            during.map(|halt| format!(", {:.1?} after worker={} stopped", answer.asked - halt.from, halt.actor.id));
        faults.push(format!(
            "a client of worker={} waited {:.1?}{}",
            answer.worker,
            answer.waited,
            during.unwrap_or_default()
        ));
    }
    if extent.judge_waits && p99 > calm_p99 * 2 {
        faults.push(format!("the 99th percentile is {p99:.2?}, without stops {calm_p99:.2?}"));
    }
    (note, faults)
}

/// Everything but the holding.
pub fn row(name: &str, tally: &Tally, verdict: Verdict, occurrences: u64) -> Row {
    let waits = tally.waits();
    let mut notes = Vec::new();
    if tally.sent_away > 0 {
        notes.push(format!("{} were told `connection: close` in an answer", tally.sent_away));
    }
    if verdict.cut_max > 0 {
        notes.push(format!("of those whom killed workers had, {} may be cut at most", verdict.cut_max));
    }
    if verdict.turned_away + verdict.sent_home > 0 {
        let (turned_away, sent_home) = (verdict.turned_away, verdict.sent_home);
        notes.push(format!("at the end {sent_home} idle ones were closed, {turned_away} could not connect any more"));
    }
    Row {
        name: name.to_owned(),
        connections: tally.connections - verdict.turned_away,
        occurrences,
        answered: tally.served + verdict.sent_home,
        cut: verdict.cut,
        lost: verdict.lost.len() as u64,
        refused: verdict.refused,
        hung: verdict.hung,
        p50: percentile(&waits, 0.5),
        p99: percentile(&waits, 0.99),
        max: waits.last().copied().unwrap_or_default(),
        notes,
        faults: verdict.faults,
        details: verdict.lost,
        ..Row::default()
    }
}

/// TERM of the whole under load, a new croupier each time.
fn term(name: &'static str, extent: &Extent, set: fn(u32, &[&str]) -> Stage, errands: &[Errand]) -> Row {
    let mut all = Row { name: name.to_owned(), ..Row::default() };
    let (mut tallies, mut verdicts) = (Tally::default(), Verdict::default());
    let started = Instant::now();
    for _ in 0..extent.occurrences {
        let mut stage = set(4, &[]);
        let traffic = Traffic {
            rate: extent.rate,
            threads: 2,
            errands: errands.to_vec(),
            open_max: 8000,
            patience: Duration::from_secs(10),
        };
        let load = Load::start(&stage.address, &traffic, u64::from(u32::MAX));
        until(|| (load.opened() >= extent.connections / extent.occurrences).then_some(()));
        let ending_since = Some(Instant::now());
        match stage.croupier.terminate() {
            Some(0) => {}
            code => all.faults.push(format!("exit code {code:?}")),
        }
        let tally = load.finish();
        all.faults.extend(stage.complaints());
        verdicts.add(Verdict::of(&tally, &Circumstances { ending_since, ..Circumstances::default() }, started));
        tallies.add(tally);
    }
    let faults = std::mem::take(&mut all.faults);
    let mut row = row(name, &tallies, verdicts, extent.occurrences);
    row.faults.extend(faults);
    row
}
