//! Node programs as workers: what befalls the same script behind croupier, and behind Node's own primary beside it.
//!
//! A worker that is killed, or ends itself on the spot, **cuts** the clients whose requests it is serving, at most as
//! many as there are clients at a time: no primary can help them. Everybody else is **lost** who is refused, hangs, or
//! sees an end instead of an answer; behind croupier there must be nobody. Workers bind what they like, as under Node's
//! primary: nothing is declared.

use std::collections::HashSet;
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use super::chance::Chance;
use super::load::{Load, ONCE, Tally, Traffic};
use super::scenario::{Extent, HANG, Scenario, keep_log, row};
use super::stage::{Actor, NODE_WORKER, Stage, send};
use super::table::Row;
use super::verdict::{Circumstances, Kill, Verdict};
use crate::support::script::free_port;
use crate::support::{Croupier, plain, processes, undeclared, until};

const NODE_PRIMARY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/programs/primary.js");

/// Longer than a worker must have served to be replaced at once.
const EVERY: Duration = Duration::from_millis(1500);
/// At the same time; whoever is answered makes room for the next.
const CLIENTS: usize = 16;
/// Of one stopped worker, on each of its two listeners.
const CLIENTS_OF_STOPPED: u64 = 10;
/// Nobody answers that late without hanging: a Node program is there again within a second.
const PATIENCE: Duration = Duration::from_secs(4);

pub const ALL: [Scenario; 16] = [
    Scenario {
        name: "node-stop",
        what: "a Node worker hangs, 20 clients of 2 listeners come, it is SIGKILLed",
        play: |name, extent| Script(Primary::Croupier, 2, Act::StopAndKill).play(name, extent),
    },
    Scenario {
        name: "node-stop: own",
        what: "the same under Node's own primary",
        play: |name, extent| Script(Primary::Node, 2, Act::StopAndKill).play(name, extent),
    },
    Scenario {
        name: "node-reload",
        what: "one reload after the other, 2 Node workers",
        play: |name, extent| Script(Primary::Croupier, 2, Act::Reload).play(name, extent),
    },
    Scenario {
        name: "node-reload: own",
        what: "the same under Node's own primary",
        play: |name, extent| Script(Primary::Node, 2, Act::Reload).play(name, extent),
    },
    Scenario {
        name: "node-kill",
        what: "SIGKILL of one of 2 Node workers every 1.5 s",
        play: |name, extent| Script(Primary::Croupier, 2, Act::Kill).play(name, extent),
    },
    Scenario {
        name: "node-kill: own",
        what: "the same under Node's own primary",
        play: |name, extent| Script(Primary::Node, 2, Act::Kill).play(name, extent),
    },
    Scenario {
        name: "node-kill-only",
        what: "SIGKILL of the only Node worker every 1.5 s",
        play: |name, extent| Script(Primary::Croupier, 1, Act::Kill).play(name, extent),
    },
    Scenario {
        name: "node-kill-only: own",
        what: "the same under Node's own primary",
        play: |name, extent| Script(Primary::Node, 1, Act::Kill).play(name, extent),
    },
    Scenario {
        name: "node-disconnect",
        what: "worker.disconnect() in the only Node worker",
        play: |name, extent| Script(Primary::Croupier, 1, Act::Itself("disconnect")).play(name, extent),
    },
    Scenario {
        name: "node-disconnect: own",
        what: "the same under Node's own primary",
        play: |name, extent| Script(Primary::Node, 1, Act::Itself("disconnect")).play(name, extent),
    },
    Scenario {
        name: "node-close",
        what: "server.close() and exit in the only Node worker",
        play: |name, extent| Script(Primary::Croupier, 1, Act::Itself("close")).play(name, extent),
    },
    Scenario {
        name: "node-close: own",
        what: "the same under Node's own primary",
        play: |name, extent| Script(Primary::Node, 1, Act::Itself("close")).play(name, extent),
    },
    Scenario {
        name: "node-self-kill",
        what: "worker.kill() in one of 2 Node workers",
        play: |name, extent| Script(Primary::Croupier, 2, Act::Itself("kill")).play(name, extent),
    },
    Scenario {
        name: "node-self-kill: own",
        what: "the same under Node's own primary",
        play: |name, extent| Script(Primary::Node, 2, Act::Itself("kill")).play(name, extent),
    },
    Scenario {
        name: "node-exit",
        what: "process.exit() in one of 2 Node workers",
        play: |name, extent| Script(Primary::Croupier, 2, Act::Itself("exit")).play(name, extent),
    },
    Scenario {
        name: "node-exit: own",
        what: "the same under Node's own primary",
        play: |name, extent| Script(Primary::Node, 2, Act::Itself("exit")).play(name, extent),
    },
];

/// Who deals to how many workers, and what happens to them.
#[derive(Debug, Clone, Copy)]
struct Script(Primary, u32, Act);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Primary {
    Croupier,
    Node,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Act {
    StopAndKill,
    Reload,
    Kill,
    /// What the program does to itself: see `benches/programs/tortured.js`.
    Itself(&'static str),
}

/// A script under way.
struct Play {
    script: Script,
    extent: Extent,
    stage: Stage,
    /// Of the second listener.
    other_address: String,
    chance: Chance,
    /// Those to whom it has happened, and when.
    struck: Vec<Kill>,
    reloads: usize,
}

impl Script {
    fn play(self, name: &'static str, extent: &Extent) -> Row {
        let mut play = self.start(extent);
        let started = Instant::now();
        let mut faults = Vec::new();
        let tally = match self.2 {
            Act::StopAndKill => play.stop_and_kill(&mut faults),
            Act::Reload | Act::Kill | Act::Itself(_) => play.go_through(&mut faults),
        };
        play.judge(name, &tally, faults, started)
    }

    fn start(self, extent: &Extent) -> Play {
        let Self(primary, worker_count, act) = self;
        let ports = [free_port(), free_port()];
        let mut command = match primary {
            Primary::Croupier => {
                let mut run = undeclared(&["--workers", &worker_count.to_string(), "--dialect", "node"]);
                run.args(["--", "node", NODE_WORKER]);
                run
            }
            Primary::Node => {
                let mut node = plain("node");
                node.args([NODE_PRIMARY, &worker_count.to_string(), "round-robin", NODE_WORKER]);
                node
            }
        };
        prepare(&mut command, ports, act);
        let croupier = Croupier::spawn(command);
        let [address, other_address] = ports.map(|port| format!("127.0.0.1:{port}"));
        croupier.log().wait_for_count(&format!(" listening on {address}"), worker_count as usize);
        Play {
            script: self,
            extent: *extent,
            stage: Stage { croupier, address },
            other_address,
            chance: Chance::new(extent.seed),
            struck: Vec::new(),
            reloads: 0,
        }
    }
}

/// What the workers go by.
fn prepare(command: &mut Command, ports: [u16; 2], act: Act) {
    command.env("PORTS", ports.map(|port| port.to_string()).join(" "));
    if let Act::Itself(what) = act {
        command.env("ACT", what);
    }
}

impl Play {
    /// Load, and acts, until there were enough of both.
    fn go_through(&mut self, faults: &mut Vec<String>) -> Tally {
        let Extent { connections, occurrences, rate, haste, time_max, .. } = self.extent;
        let traffic = Traffic { rate, threads: 2, errands: vec![ONCE], open_max: CLIENTS, patience: PATIENCE };
        let deadline = Instant::now() + time_max;
        let load = Load::start(&self.stage.address, &traffic, u64::from(u32::MAX));
        while load.opened() < connections || self.acts() < occurrences / 2 {
            if Instant::now() >= deadline {
                faults.push(format!("time is up after {} occurrences", self.acts()));
                break;
            }
            sleep(EVERY / haste);
            self.act();
        }
        if until(|| self.has_reloaded().then_some(())).is_none() {
            faults.push("the last reload does not end".to_owned());
        }
        load.finish()
    }

    fn acts(&self) -> u64 {
        (self.struck.len() + self.reloads) as u64
    }

    fn has_reloaded(&self) -> bool {
        self.stage.count("reload done") == self.reloads
    }

    fn act(&mut self) {
        match self.script.2 {
            Act::Reload if self.has_reloaded() => {
                self.stage.signal(Signal::SIGHUP);
                self.reloads += 1;
            }
            Act::Reload => {} // the one before goes on
            Act::Kill | Act::StopAndKill => self.strike(Signal::SIGKILL),
            Act::Itself(_) => self.strike(Signal::SIGUSR2),
        }
    }

    /// Anybody, once all of them are there again: with two workers, one is always left to take clients.
    fn victim(&mut self) -> Option<Actor> {
        let struck: HashSet<i32> = self.struck.iter().map(|kill| kill.pid).collect();
        let mut actors = self.stage.actors();
        actors.retain(|actor| !struck.contains(&actor.pid));
        (actors.len() == self.script.1 as usize).then(|| self.chance.pick(&actors).copied())?
    }

    fn strike(&mut self, signal: Signal) {
        let Some(actor) = self.victim() else { return };
        let at = Instant::now();
        if send(actor, signal) {
            self.struck.push(Kill { pid: actor.pid, at });
        }
    }

    /// Nothing else goes on when a worker is stopped: it has taken nobody, so nobody may be cut.
    fn stop_and_kill(&mut self, faults: &mut Vec<String>) -> Tally {
        let mut tally = Tally::default();
        for _ in 0..self.extent.occurrences.div_ceil(4) {
            until(|| (self.stage.actors().len() == self.script.1 as usize).then_some(()));
            let Some(actor) = self.victim() else {
                faults.push("a killed worker is not replaced".to_owned());
                break;
            };
            send(actor, Signal::SIGSTOP);
            until(|| processes::stat(actor.pid).is_none_or(|stat| stat.state == 'T').then_some(()));
            let traffic =
                Traffic { rate: 10_000, threads: 1, errands: vec![ONCE], open_max: CLIENTS, patience: PATIENCE };
            let loads = [&self.stage.address, &self.other_address]
                .map(|address| Load::start(address, &traffic, CLIENTS_OF_STOPPED));
            until(|| loads.iter().all(|load| load.opened() == CLIENTS_OF_STOPPED).then_some(()));
            sleep(HANG);
            self.struck.push(Kill { pid: actor.pid, at: Instant::now() });
            send(actor, Signal::SIGKILL);
            loads.into_iter().for_each(|load| tally.add(load.finish()));
        }
        tally
    }

    /// How many clients one act may cut.
    fn cut_max(&self) -> u64 {
        match self.script.2 {
            Act::Kill | Act::Itself("kill" | "exit") => CLIENTS as u64,
            Act::StopAndKill | Act::Reload | Act::Itself(_) => 0,
        }
    }

    fn judge(mut self, name: &'static str, tally: &Tally, mut faults: Vec<String>, started: Instant) -> Row {
        let is_comparison = self.script.0 == Primary::Node;
        if !is_comparison {
            faults.extend(self.stage.complaints());
            match self.stage.croupier.terminate() {
                Some(0) => {}
                code => faults.push(format!("exit code {code:?}")),
            }
        }
        let (acts, allowed) = (self.acts(), vec![self.cut_max(); self.struck.len()]);
        let circumstances = Circumstances { kills: self.struck, ..Circumstances::default() };
        let mut row = row(name, tally, Verdict::allowing(allowed, tally, &circumstances, started), acts);
        row.is_comparison = is_comparison;
        row.faults.extend(faults);
        if !row.is_good() {
            row.notes.push(format!("the log is in {}", keep_log(name, &self.stage)));
        }
        row
    }
}
