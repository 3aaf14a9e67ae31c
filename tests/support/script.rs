//! Workers that follow a script: what to listen on, what to close, and what to wait for. The test asks them, and reads
//! in the log what they say.

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

use croupier::primary::settings::Settings;
use croupier::worker::{ListenOptions, Listener, UdpSocket, Worker};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::http;
use super::roles::{self, say};
use super::{Croupier, Directory, embedded, node, undeclared};

/// The test function that plays the worker.
const ROLE: &str = "worker_with_script";
/// What the worker is to do, one thing per line: see [`obey`].
pub const SCRIPT: &str = "CROUPIER_TEST_SCRIPT";
/// Where it looks for the files that it waits for.
const PLACE: &str = "CROUPIER_TEST_PLACE";

/// Somebody without any privilege.
pub const NOBODY: u32 = 65534;

/// Plays the worker, in a test function called `worker_with_script`.
pub fn play() {
    if roles::plays(ROLE) {
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
    served: Arc<AtomicUsize>,
    thread: std::thread::JoinHandle<()>,
}

#[derive(Clone)]
enum Source {
    Listener(Arc<Listener>),
    Udp(Arc<UdpSocket>),
}

/// Does one thing.
///
/// - `listen NAME ADDRESS [OPTION ...]`: listens and answers every request there with `ID NAME`, or says why not; one
///   connection after the other
/// - `hold NAME ADDRESS [OPTION ...]`: the same, any number of connections at a time
/// - `drop NAME ADDRESS [OPTION ...]`: the same, but it ends every connection at once
/// - `udp NAME ADDRESS [OPTION ...]`: the same with datagrams
/// - `served NAME COUNT`: until it has taken so many connections there one after the other
/// - `close NAME`
/// - `wait FILE`: until the test has made it
/// - `disconnect`: until the primary has told it to finish
/// - `send TEXT`: a message of one word
/// - `exit CODE`: ends the process, whatever it is at
/// - `panic`
/// - `only ID WORD ...`: if this is that worker
///
/// The address `@FILE` is what the test writes to that file.
fn obey(worker: &Worker, open: &mut BTreeMap<String, Open>, words: &[&str]) {
    let id = worker.id();
    match words {
        ["only", who, rest @ ..] if *who == id.to_string() => obey(worker, open, rest),
        ["only", ..] | [] => {}
        [way @ ("listen" | "hold" | "drop" | "udp"), name, address, rest @ ..] => {
            match bind(way, &read(address), &options(rest)) {
                Ok((source, address)) => {
                    let (own, way, text) = (source.clone(), (*way).to_owned(), format!("{id} {name}"));
                    let served = Arc::new(AtomicUsize::new(0));
                    let count = Arc::clone(&served);
                    let thread = std::thread::spawn(move || own.answer_all(&way, &text, &count));
                    say(&format!("worker {id}: {name} is {address}"));
                    open.insert((*name).to_owned(), Open { source, served, thread });
                }
                Err(error) => say(&format!("worker {id}: {name} failed {:?}: {error}", error.kind())),
            }
        }
        ["served", name, count] => {
            let (served, count) = (&open[*name].served, count.parse().unwrap());
            while served.load(Ordering::Relaxed) < count {
                std::thread::sleep(std::time::Duration::from_millis(1));
            }
        }
        ["close", name] => {
            let Open { source, thread, .. } = open.remove(*name).unwrap();
            match source {
                Source::Listener(listener) => listener.close(),
                Source::Udp(socket) => socket.close(),
            }
            thread.join().unwrap();
            say(&format!("worker {id}: {name} closed"));
        }
        ["wait", file] => _ = wait_for(file),
        ["disconnect"] => {
            worker.disconnect().unwrap();
            say(&format!("worker {id}: disconnected"));
        }
        ["send", text] => worker.send(text, None).unwrap(),
        ["exit", code] => std::process::exit(code.parse().unwrap()),
        ["panic"] => panic!("as the script says"),
        _ => panic!("no such thing to do: {words:?}"),
    }
}

/// Waits for a file of the test; what is in it.
fn wait_for(file: &str) -> String {
    let file = format!("{}/{file}", roles::variable(PLACE));
    loop {
        if let Ok(text) = std::fs::read_to_string(&file) {
            return text;
        }
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
}

fn read(address: &str) -> String {
    address.strip_prefix('@').map_or(address.to_owned(), wait_for)
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

fn bind(way: &str, address: &str, options: &ListenOptions) -> std::io::Result<(Source, String)> {
    if way == "udp" {
        let socket = options.bind_udp(address)?;
        let address = socket.local_addr()?.to_string();
        return Ok((Source::Udp(Arc::new(socket)), address));
    }
    let listener = options.bind(address)?;
    let address = listener.address();
    Ok((Source::Listener(Arc::new(listener)), address))
}

impl Source {
    fn answer_all(&self, way: &str, text: &str, served: &AtomicUsize) {
        match self {
            Source::Listener(listener) => std::thread::scope(|scope| {
                while let Some(connection) = listener.accept().unwrap() {
                    match way {
                        "drop" => drop(connection),
                        "hold" => _ = scope.spawn(move || http::answer(&connection, text)),
                        _ => {
                            let _ = http::answer(&connection, text);
                            served.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                }
            }),
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

    /// The same with workers that are a Node program: see `tests/node/script.js` for what it can do.
    pub fn start_node(options: &[&str], script: &str) -> Self {
        let place = Directory::new();
        Self { croupier: Croupier::spawn(node_scripted(undeclared(options), &place, script)), place }
    }

    /// The same as a user without privileges, whose are the place, and copies of both programs in it.
    pub fn start_as_nobody(options: &[&str], script: &str) -> Self {
        let place = Directory::new();
        let us = roles::command(ROLE).swap_remove(0);
        let (program, worker) = (place.copy_for_all(super::PROGRAM), place.copy_for_all(&us));
        let run = run_as_nobody(&program, &place, options);
        Self { croupier: Croupier::spawn(scripted_by(worker, run, &place, script)), place }
    }

    /// The same with workers that are a Node program.
    pub fn start_node_as_nobody(options: &[&str], script: &str) -> Self {
        let place = Directory::new();
        let [program, script_js] = [super::PROGRAM, &node::path("script.js")].map(|file| place.copy_for_all(file));
        let mut node = node::program();
        if node.contains('/') {
            node = place.copy_for_all(&node);
        }
        let run = run_as_nobody(&program, &place, options);
        Self { croupier: Croupier::spawn(node::run_by(&node, run, &[&script_js, &path_of(&place), script])), place }
    }

    /// Makes the file that the script waits for.
    pub fn go_on(&self, file: &str) {
        self.tell(file, "");
    }

    /// Makes it with this text, in one step.
    pub fn tell(&self, file: &str, text: &str) {
        std::fs::write(self.place.file("new"), text).unwrap();
        std::fs::rename(self.place.file("new"), self.place.file(file)).unwrap();
    }

    /// The address of listener `name`, once `count` workers have it: all of them the same.
    #[track_caller]
    pub fn address(&self, name: &str, count: usize) -> String {
        let addresses = self.addresses(name, count);
        assert!(addresses.iter().all(|address| *address == addresses[0]), "{addresses:?}");
        addresses[0].clone()
    }

    /// The same, once they are all in the rotation: a worker has its listener a moment before.
    #[track_caller]
    pub fn dealt_address(&self, name: &str, count: usize) -> String {
        let address = self.address(name, count);
        self.croupier.log().wait_for_count(&format!(" listening on {address}"), count);
        address
    }

    #[track_caller]
    pub fn addresses(&self, name: &str, count: usize) -> Vec<String> {
        let lines = self.croupier.log().wait_for_count(&format!(": {name} is "), count);
        // A worker says so when it has told the primary. Whatever was told before the first of two questions is heard
        // before the second one is answered: then it is in the rotation.
        let _ = [self.croupier.status(), self.croupier.status()];
        lines.iter().map(|line| line.rsplit(' ').next().unwrap().to_owned()).collect()
    }

    #[track_caller]
    pub fn says(&self, what: &str) -> String {
        self.croupier.log().wait_for(what)
    }

    /// Ends it; every worker must have ended well. Returns the whole log: croupier's own lines may come later than what
    /// its workers say.
    #[track_caller]
    pub fn end(mut self) -> Vec<String> {
        assert_eq!(self.croupier.terminate(), Some(0));
        self.croupier.log().wait_end()
    }
}

/// `run` of a user without privileges, whose is the place.
fn run_as_nobody(program: &str, place: &Directory, options: &[&str]) -> Command {
    std::os::unix::fs::chown(place.path(), Some(NOBODY), Some(NOBODY)).unwrap();
    let mut run = super::plain(program);
    run.args(["run", "--control", &place.file("control")]).args(options).uid(NOBODY).gid(NOBODY).current_dir("/");
    run
}

/// `run` with workers that follow `script`, and look in `place` for what they wait for.
pub fn scripted(run: Command, place: &Directory, script: &str) -> Command {
    let us = roles::command(ROLE).swap_remove(0);
    scripted_by(us, run, place, script)
}

/// The same with a Node program.
pub fn node_scripted(run: Command, place: &Directory, script: &str) -> Command {
    node::run(run, &[&node::path("script.js"), &path_of(place), script])
}

fn path_of(place: &Directory) -> String {
    place.path().to_str().expect("temporary paths are text").to_owned()
}

fn scripted_by(program: String, mut run: Command, place: &Directory, script: &str) -> Command {
    for (name, value) in variables(place, script) {
        run.arg(format!("--env={name}={value}"));
    }
    run.arg("--").arg(program).args(&roles::command(ROLE)[1..]);
    run
}

/// The settings of a primary inside the test, without declared listeners, whose workers follow a script.
pub fn settings(place: &Directory, script: &str) -> Settings {
    let mut settings = embedded::settings(ROLE);
    settings.listeners.clear();
    settings.command.variables = variables(place, script).map(|(name, value)| (name.into(), value.into())).into();
    settings
}

/// What the worker goes by.
fn variables(place: &Directory, script: &str) -> [(&'static str, String); 3] {
    [(roles::ROLE, ROLE.into()), (SCRIPT, script.into()), (PLACE, path_of(place))]
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

/// A port that nobody has, and that the kernel gives to nobody: below those that it chooses from for port 0 and for
/// clients (ip(7), `ip_local_port_range`), one of which may be taken at any time.
pub fn free_port() -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    loop {
        let step = NEXT.fetch_add(1, Ordering::Relaxed);
        let port = 10_000 + (std::process::id().wrapping_mul(64).wrapping_add(step) % 20_000) as u16;
        if TcpListener::bind(("0.0.0.0", port)).is_ok() && std::net::UdpSocket::bind(("0.0.0.0", port)).is_ok() {
            return port;
        }
    }
}
