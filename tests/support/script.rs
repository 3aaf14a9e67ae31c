//! Workers that follow a script: what to listen on, what to close, and what to wait for. The test asks them, and reads
//! in the log what they say.

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::process::Command;
use std::sync::Arc;

use croupier::worker::{ListenOptions, Listener, UdpSocket, Worker};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::http;
use super::roles::{self, say};
use super::{Croupier, Directory, undeclared};

/// What the worker is to do, one thing per line: see [`obey`].
pub const SCRIPT: &str = "CROUPIER_TEST_SCRIPT";
/// Where it looks for the files that it waits for.
const PLACE: &str = "CROUPIER_TEST_PLACE";

/// Plays the worker, in a test function called `worker_with_script`.
pub fn play() {
    if roles::plays("worker_with_script") {
        let worker = roles::join();
        let mut open = BTreeMap::new();
        for line in roles::variable(SCRIPT).lines() {
            obey(&worker, &mut open, &line.split_whitespace().collect::<Vec<_>>());
        }
        let mut fds = [PollFd::new(worker.drain_fd(), PollFlags::POLLIN)];
        poll(&mut fds, PollTimeout::NONE).unwrap();
        for (_, Open { thread, .. }) in open {
            thread.join().unwrap();
        }
        std::process::exit(0); // before the test harness says how well it went
    }
}

/// What a worker listens on, and the thread that answers there.
struct Open {
    source: Source,
    thread: std::thread::JoinHandle<()>,
}

#[derive(Clone)]
enum Source {
    Listener(Arc<Listener>),
    Udp(Arc<UdpSocket>),
}

/// Does one thing.
///
/// - `listen NAME ADDRESS [OPTION ...]`: listens and answers every request there with `ID NAME`, or says why not
/// - `udp NAME ADDRESS [OPTION ...]`: the same with datagrams
/// - `close NAME`
/// - `wait FILE`: until the test has made it
/// - `only ID WORD ...`: if this is that worker
fn obey(worker: &Worker, open: &mut BTreeMap<String, Open>, words: &[&str]) {
    let id = worker.id();
    match words {
        ["only", who, rest @ ..] if *who == id.to_string() => obey(worker, open, rest),
        ["only", ..] | [] => {}
        [kind @ ("listen" | "udp"), name, address, rest @ ..] => match bind(kind, address, &options(rest)) {
            Ok((source, address)) => {
                let (own, text) = (source.clone(), format!("{id} {name}"));
                let thread = std::thread::spawn(move || own.answer_all(&text));
                say(&format!("worker {id}: {name} is {address}"));
                open.insert((*name).to_owned(), Open { source, thread });
            }
            Err(error) => say(&format!("worker {id}: {name} failed {:?}: {error}", error.kind())),
        },
        ["close", name] => {
            let Open { source, thread } = open.remove(*name).unwrap();
            match source {
                Source::Listener(listener) => listener.close(),
                Source::Udp(socket) => socket.close(),
            }
            thread.join().unwrap();
            say(&format!("worker {id}: {name} closed"));
        }
        ["wait", file] => {
            let file = format!("{}/{file}", roles::variable(PLACE));
            while !std::path::Path::new(&file).exists() {
                std::thread::sleep(std::time::Duration::from_millis(1));
            }
        }
        _ => panic!("no such thing to do: {words:?}"),
    }
}

fn options(words: &[&str]) -> ListenOptions {
    words.iter().fold(ListenOptions::new(), |all, option| match option.split_once('=') {
        Some(("backlog", number)) => all.backlog(number.parse().unwrap()),
        Some(("mode", mode)) => all.unix_mode(u32::from_str_radix(mode, 8).unwrap()),
        Some(("connections", number)) => all.connections_max(number.parse().unwrap()),
        _ if *option == "exclusive" => all.exclusive(true),
        _ if *option == "reuse_port" => all.reuse_port(true),
        _ if *option == "reuse_address" => all.reuse_address(true),
        _ if *option == "ipv6_only" => all.ipv6_only(true),
        _ => panic!("no such option: {option}"),
    })
}

fn bind(kind: &str, address: &str, options: &ListenOptions) -> std::io::Result<(Source, String)> {
    if kind == "listen" {
        let listener = options.bind(address)?;
        let address = listener.address();
        return Ok((Source::Listener(Arc::new(listener)), address));
    }
    let socket = options.bind_udp(address)?;
    let address = socket.local_addr()?.to_string();
    Ok((Source::Udp(Arc::new(socket)), address))
}

impl Source {
    fn answer_all(&self, text: &str) {
        match self {
            Source::Listener(listener) => {
                while let Some(connection) = listener.accept().unwrap() {
                    let _ = http::answer(&connection, text);
                }
            }
            Source::Udp(socket) => {
                let mut datagram = [0; 64];
                while let Some((len, from)) = socket.recv_from(&mut datagram).unwrap() {
                    let answer = format!("{text} {}", String::from_utf8_lossy(&datagram[..len]));
                    socket.send_to(answer.as_bytes(), from).unwrap();
                }
            }
        }
    }
}

/// A primary without declared listeners, whose workers follow a script.
pub struct Scripted {
    pub croupier: Croupier,
    pub place: Directory,
}

impl Scripted {
    pub fn start(options: &[&str], script: &str) -> Self {
        let place = Directory::new();
        let run = undeclared(options);
        Self { croupier: Croupier::spawn(scripted(run, &place, script)), place }
    }

    /// Makes the file that the script waits for.
    pub fn go_on(&self, file: &str) {
        std::fs::write(self.place.file(file), "").unwrap();
    }

    /// The address of listener `name`, once `count` workers have it: all of them the same.
    #[track_caller]
    pub fn address(&self, name: &str, count: usize) -> String {
        let addresses = self.addresses(name, count);
        assert!(addresses.iter().all(|address| *address == addresses[0]), "{addresses:?}");
        addresses[0].clone()
    }

    #[track_caller]
    pub fn addresses(&self, name: &str, count: usize) -> Vec<String> {
        let lines = self.croupier.log().wait_for_count(&format!(": {name} is "), count);
        lines.iter().map(|line| line.rsplit(' ').next().unwrap().to_owned()).collect()
    }

    #[track_caller]
    pub fn says(&self, what: &str) -> String {
        self.croupier.log().wait_for(what)
    }

    /// Ends it; every worker must have ended well.
    #[track_caller]
    pub fn end(mut self) {
        assert_eq!(self.croupier.terminate(), Some(0));
    }
}

/// `run` with workers that follow `script`, and look in `place` for what they wait for.
pub fn scripted(mut run: Command, place: &Directory, script: &str) -> Command {
    let role = "worker_with_script";
    run.arg(format!("--env={}={role}", roles::ROLE));
    run.arg(format!("--env={SCRIPT}={script}")).arg(format!("--env={PLACE}={}", place.path().display()));
    run.arg("--").args(roles::command(role));
    run
}

/// The body of an answer from `address`.
#[track_caller]
pub fn ask(address: &str) -> String {
    who(&http::get(address).unwrap_or_else(|error| panic!("{address}: {error}")))
}

/// The id of the worker that answered, and the name of its listener.
pub fn who(response: &http::Response) -> String {
    response.body.trim().trim_start_matches("hello from worker ").to_owned()
}

/// A port that was free a moment ago.
pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}
