//! What the same clients see without croupier: from the same workers that listen themselves (SO_REUSEPORT), from Node's
//! cluster, and from nginx when it reloads. Nothing is promised here and nothing judged.

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use socket2::{Domain, Socket, Type};

use super::chance::Chance;
use super::client::{Errand, What};
use super::load::{KEEP_ALIVE, Load, ONCE, Traffic};
use super::scenario::{Extent, HANG, row};
use super::table::Row;
use super::verdict::Verdict;
use crate::support::{Directory, PROGRAM, http, processes, wait_until};

const WORKERS: usize = 4;
const KILL_EVERY: Duration = Duration::from_millis(300);
const RELOAD_EVERY: Duration = Duration::from_millis(2000);

/// A comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Peer {
    /// The demo worker without croupier; whoever dies is replaced at once.
    ReusePort(Act),
    /// Node's cluster with its own round robin; its primary replaces whoever dies.
    NodeCluster(Act),
    /// nginx itself as the server.
    Nginx,
}

/// What is done to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    Kill,
    HangAndKill,
    Reload,
}

/// The processes of a peer. Dropping it kills them.
struct Running {
    address: String,
    /// The parent of the workers, if it is not us.
    primary: Option<Child>,
    children: Vec<Child>,
    _directory: Directory,
}

const NODE_CLUSTER: &str = "
const cluster = require('cluster'), http = require('http');
if (cluster.isPrimary) {
  for (let i = 0; i < WORKERS; i++) cluster.fork();
  cluster.on('exit', () => cluster.fork());
} else {
  http.createServer((request, response) => {
    response.writeHead(200, { 'content-length': 6, 'x-worker': process.pid });
    response.end('hello\\n');
  }).listen(PORT, '127.0.0.1');
}
";

const NGINX: &str = "
user root; daemon off; worker_processes WORKERS; pid DIR/pid; error_log DIR/error.log;
events { worker_connections 8192; }
http {
  access_log off; client_body_temp_path DIR/b; proxy_temp_path DIR/p; fastcgi_temp_path DIR/f;
  uwsgi_temp_path DIR/u; scgi_temp_path DIR/s;
  server {
    listen 127.0.0.1:PORT;
    location / { add_header x-worker $pid; default_type text/plain; return 200 hello; }
  }
}
";

impl Peer {
    pub fn play(self, name: &'static str, extent: &Extent) -> Row {
        let mut running = Running::start(self);
        let mut chance = Chance::new(extent.seed);
        let (act, every, errand) = match self {
            Peer::ReusePort(act) | Peer::NodeCluster(act) => (act, KILL_EVERY, ONCE),
            Peer::Nginx => (Act::Reload, RELOAD_EVERY, KEEP_ALIVE),
        };
        let load = Load::start(&running.address, &traffic(extent, errand), u64::from(u32::MAX));
        let (started, mut acts) = (Instant::now(), 0);
        while (load.opened() < extent.connections || acts < extent.occurrences) && started.elapsed() < extent.time_max {
            sleep(every / extent.haste);
            running.suffer(act, &mut chance);
            acts += 1;
        }
        let tally = load.finish();
        // Nobody keeps an account: one cut client per kill is believed to have been served at that moment.
        let is_cut = |what: What| matches!(what, What::Reset(_) | What::Ended);
        let cuts = tally.failures.iter().filter(|it| is_cut(it.what)).count() as u64;
        let cut = if act == Act::Reload { 0 } else { cuts.min(acts) };
        let describe = |what: &super::client::Failure| format!("{:?} while {:?}", what.what, what.moment);
        let lost = tally.failures.iter().skip(cut as usize).map(describe).collect();
        let count = |what: What| tally.failures.iter().filter(|it| it.what == what).count() as u64;
        let (refused, hung) = (count(What::Refused), count(What::Hung));
        let mut row = row(name, &tally, Verdict { cut, lost, refused, hung, ..Verdict::default() }, acts);
        row.notes.push("no account: one cut per kill is believed".to_owned());
        row.is_comparison = true;
        row
    }
}

fn traffic(extent: &Extent, errand: Errand) -> Traffic {
    let patience = Duration::from_secs(10);
    let slower = if errand.requests > 1 { 4 } else { 1 };
    Traffic { rate: extent.rate / slower, threads: 2, errands: vec![errand], open_max: 8000, patience }
}

impl Running {
    fn start(peer: Peer) -> Self {
        let directory = Directory::new();
        let mut running = match peer {
            Peer::ReusePort(_) => Self::reuse_port(directory),
            Peer::NodeCluster(_) => {
                let (address, text) = fill_in(NODE_CLUSTER, &directory);
                let file = directory.file("cluster.js");
                fs::write(&file, text).expect("the directory is ours");
                let primary = spawn(Command::new("node").arg(file));
                Self { address, primary: Some(primary), children: Vec::new(), _directory: directory }
            }
            Peer::Nginx => {
                let (address, text) = fill_in(NGINX, &directory);
                let file = directory.file("nginx.conf");
                fs::write(&file, text).expect("the directory is ours");
                let primary = spawn(Command::new("nginx").args(["-c", &file, "-p"]).arg(directory.path()));
                Self { address, primary: Some(primary), children: Vec::new(), _directory: directory }
            }
        };
        while running.primary.is_none() && running.children.len() < WORKERS {
            running.children.push(demo(&running.address));
        }
        wait_until("all workers run", || running.workers().len() == WORKERS);
        wait_until("a worker listens", || http::get(&running.address).is_ok());
        sleep(Duration::from_millis(500));
        running
    }

    fn reuse_port(directory: Directory) -> Self {
        // Bound and not listening: the port is chosen, and free for those who share it.
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a descriptor is left");
        socket.set_reuse_port(true).expect("Linux can");
        socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).expect("a port is free");
        let address = socket.local_addr().ok().and_then(|it| it.as_socket()).expect("it is bound").to_string();
        Self { address, primary: None, children: Vec::new(), _directory: directory }
    }

    fn workers(&self) -> Vec<i32> {
        match &self.primary {
            Some(primary) => processes::children(primary.id() as i32),
            None => self.children.iter().map(|child| child.id() as i32).collect(),
        }
    }

    fn suffer(&mut self, act: Act, chance: &mut Chance) {
        if let (Act::Reload, Some(primary)) = (act, &self.primary) {
            let _ = kill(Pid::from_raw(primary.id() as i32), Signal::SIGHUP);
            return;
        }
        let Some(worker) = chance.pick(&self.workers()).copied() else { return };
        if act == Act::HangAndKill {
            let _ = kill(Pid::from_raw(worker), Signal::SIGSTOP);
            sleep(HANG);
        }
        let _ = kill(Pid::from_raw(worker), Signal::SIGKILL);
        for child in self.children.iter_mut().filter(|child| child.id() as i32 == worker) {
            let _ = child.wait();
            *child = demo(&self.address);
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let workers = self.workers();
        for child in self.primary.iter_mut().chain(&mut self.children) {
            let _ = child.kill();
            let _ = child.wait();
        }
        if self.primary.is_some() {
            for worker in workers {
                let _ = kill(Pid::from_raw(worker), Signal::SIGKILL);
            }
        }
    }
}

fn demo(address: &str) -> Child {
    spawn(Command::new(PROGRAM).args(["demo", "--reuse-port", "--listen", address]))
}

fn spawn(command: &mut Command) -> Child {
    let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
    child.unwrap_or_else(|error| panic!("{command:?}: {error}"))
}

/// The text with a port that was free a moment ago.
fn fill_in(text: &str, directory: &Directory) -> (String, String) {
    let free = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a port is free");
    let text = text.replace("PORT", &free.port().to_string()).replace("WORKERS", &WORKERS.to_string());
    (free.to_string(), text.replace("DIR", directory.path().to_str().expect("temporary paths are text")))
}
