//! Servers that croupier is bypassed by: a Node worker that never asks to listen, while a process that it has started
//! listens by itself. So it is with `npm start`: npm is a Node program, and becomes the worker. A warning says so, once
//! for every command. Looking takes a while: a short-lived thread does it.

use std::io;
use std::thread::JoinHandle;
use std::time::Duration;

use super::Primary;
use super::conversation::echo;
use crate::primary::dialect::DialectKind;
use crate::primary::lifecycle::State;
use crate::primary::settings::Command;
use crate::primary::workers::Worker;
use crate::protocol::ids::WorkerId;
use crate::protocol::time::Monotonic;
use crate::sys::listening::{self, Listening};
use crate::sys::signals;

/// How old a worker is that might have asked to listen by now; also how long until the next look, up to
/// `start_timeout`: what it starts may take its time, too.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// How often to see whether a look is over.
const POLL_EVERY: Duration = Duration::from_millis(100);

/// Looks for servers that bypass croupier.
#[derive(Debug, Default)]
pub(super) struct Bypass {
    /// When to look again; `None` while every worker has asked to listen.
    pub(super) next_look: Option<Monotonic>,
    look: Option<JoinHandle<Option<Found>>>,
    warned_of: Vec<Command>,
}

/// What a look has found, and beside which worker.
type Found = (WorkerId, Listening);

impl Bypass {
    /// A worker is online.
    pub(super) fn expect(&mut self, now: Monotonic) {
        self.next_look.get_or_insert(now + LOOK_EVERY);
    }
}

impl Primary {
    pub(super) fn look_for_bypass(&mut self, now: Monotonic) {
        let pause = match self.bypass.look.take() {
            Some(look) if !look.is_finished() => {
                self.bypass.look = Some(look);
                POLL_EVERY
            }
            Some(look) => {
                look.join().ok().flatten().into_iter().for_each(|found| self.warn_of_bypass(found));
                LOOK_EVERY
            }
            None => {
                let due = self.silent().filter(|worker| now >= worker.started_at + LOOK_EVERY);
                let due: Vec<(WorkerId, i32)> = due.map(|worker| (worker.id, worker.process.pid())).collect();
                self.bypass.look = if due.is_empty() { None } else { look_beside(due).ok() };
                POLL_EVERY
            }
        };
        let is_over = self.bypass.look.is_none() && self.silent().next().is_none();
        self.bypass.next_look = if is_over { None } else { Some(now + pause) };
    }

    /// Workers of which it is to be found out.
    fn silent(&self) -> impl Iterator<Item = &Worker> {
        self.workers.iter().filter(|worker| {
            let is_node = worker.dialect.kind() == DialectKind::Node;
            let never_asked = worker.ready_since.is_none() && worker.lanes().next().is_none();
            is_node && worker.state() == State::Online && never_asked && !self.is_warned_of(worker)
        })
    }

    fn is_warned_of(&self, worker: &Worker) -> bool {
        self.bypass.warned_of.contains(self.settings.command_of(worker.slot))
    }

    fn warn_of_bypass(&mut self, (id, listening): Found) {
        let Some(worker) = self.workers.get(id).filter(|worker| !self.is_warned_of(worker)) else { return };
        let command = self.settings.command_of(worker.slot);
        let Listening { pid, command: other, address } = listening;
        log::warn!(
            "worker={id} `{}` has not asked to listen, but pid={pid} `{}`, which it has started, listens on {} \
             [nothing is dealt to that]: if it is the server, write its command after --",
            command.display(),
            echo(&other),
            echo(&address)
        );
        let command = command.clone();
        let commands: Vec<&Command> = self.settings.commands().collect();
        self.bypass.warned_of.retain(|it| commands.contains(&it));
        self.bypass.warned_of.push(command);
    }
}

/// Whether somebody listens in the process groups of these workers.
fn look_beside(workers: Vec<(WorkerId, i32)>) -> io::Result<JoinHandle<Option<Found>>> {
    let look = move || {
        signals::block_all_in_this_thread().ok()?;
        workers.into_iter().find_map(|(id, pid)| Some((id, listening::in_group(pid)?)))
    };
    std::thread::Builder::new().name("croupier-bypass".into()).spawn(look)
}
