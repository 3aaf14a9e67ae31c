//! What the same clients see from the same workers without croupier: each listens itself, with SO_REUSEPORT, and
//! whoever dies is replaced at once.

use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use socket2::{Domain, Socket, Type};

use super::chance::Chance;
use super::client::{Moment, What};
use super::load::{Load, ONCE, Traffic};
use super::scenario::{Extent, row};
use super::stage::{Actor, send};
use super::table::Row;
use super::verdict::Verdict;
use crate::support::{PROGRAM, http, wait_until};

const WORKERS: usize = 4;
const EVERY: Duration = Duration::from_millis(300);

/// The workers. Dropping them kills them.
struct Workers {
    address: String,
    children: Vec<Child>,
}

impl Workers {
    fn start() -> Self {
        // Bound and not listening: it keeps the port for them.
        let keeper = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a descriptor is left");
        keeper.set_reuse_port(true).expect("Linux can");
        keeper.bind(&std::net::SocketAddr::from(([127, 0, 0, 1], 0)).into()).expect("a port is free");
        let address = keeper.local_addr().ok().and_then(|it| it.as_socket()).expect("it is bound").to_string();
        let mut workers = Self { address, children: Vec::new() };
        for _ in 0..WORKERS {
            let child = workers.spawn();
            workers.children.push(child);
        }
        wait_until("a worker listens", || http::get(&workers.address).is_ok());
        sleep(EVERY);
        workers
    }

    fn spawn(&self) -> Child {
        let mut command = Command::new(PROGRAM);
        command.args(["demo", "--reuse-port", "--listen", &self.address]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command.spawn().expect("croupier is there")
    }

    fn kill(&mut self, index: usize, hang: Option<Duration>) {
        let actor = Actor { id: 0, pid: self.children[index].id() as i32 };
        if let Some(hang) = hang {
            send(actor, Signal::SIGSTOP);
            sleep(hang);
        }
        let _ = self.children[index].kill();
        let _ = self.children[index].wait();
        self.children[index] = self.spawn();
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        for child in &mut self.children {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// SIGKILL of a random worker again and again. Nobody keeps an account: one cut client per kill is believed to have
/// been served at that moment, the others are lost.
pub fn play(name: &'static str, extent: &Extent, hang: Option<Duration>) -> Row {
    let mut workers = Workers::start();
    let mut chance = Chance::new(extent.seed);
    let traffic = Traffic {
        rate: extent.rate,
        threads: 2,
        errands: vec![ONCE],
        open_max: 8000,
        patience: Duration::from_secs(10),
    };
    let load = Load::start(&workers.address, &traffic, u64::from(u32::MAX));
    let (started, mut kills) = (Instant::now(), 0);
    while (load.opened() < extent.connections || kills < extent.occurrences) && started.elapsed() < extent.time_max {
        sleep(EVERY / extent.haste);
        workers.kill(chance.below(WORKERS), hang);
        kills += 1;
    }
    let tally = load.finish();
    let count = |what: fn(&What) -> bool| tally.failures.iter().filter(|it| what(&it.what)).count();
    let is_cut = |what: &What| matches!(what, What::Reset(_) | What::Ended);
    let cut = (count(is_cut) as u64).min(kills);
    let lost = tally.failures.iter().skip(cut as usize);
    let mut verdict = Verdict { cut, ..Verdict::default() };
    verdict.lost.extend(lost.map(|it| format!("{:?} while {:?}", it.what, it.moment)));
    let connecting = tally.failures.iter().filter(|it| it.moment == Moment::Connecting).count();
    let mut row = row(name, &tally, verdict, kills);
    row.notes.push(format!("no account: one cut per kill is believed; {connecting} failed while connecting"));
    row.is_comparison = true;
    row
}
