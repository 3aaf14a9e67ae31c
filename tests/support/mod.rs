//! What every test with real processes needs: a running croupier, a small HTTP client, a look at other processes,
//! and the two kinds of workers that the test programs play themselves.
//!
//! Everything waits for an event under [`DEADLINE`], which is generous: it only decides how long a failure takes.

#![allow(dead_code)] // Every test program uses another part.

pub mod browser;
pub mod embedded;
pub mod events;
pub mod forwarder;
pub mod http;
pub mod load;
pub mod log;
pub mod node;
pub mod processes;
pub mod roles;
pub mod script;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;

use log::Log;

/// How long a test waits for what must happen.
pub const DEADLINE: Duration = Duration::from_secs(30);

/// The program under test.
pub const PROGRAM: &str = env!("CARGO_BIN_EXE_croupier");

/// A running primary. Dropping it kills it and every worker that it has.
pub struct Croupier {
    child: Child,
    log: Log,
}

/// A worker as the log tells of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Started {
    pub id: u32,
    pub pid: i32,
    pub slot: u32,
}

impl Croupier {
    /// `croupier run` on a port of the kernel's choice, with these options and demo workers.
    pub fn demo(options: &[&str]) -> Self {
        Self::spawn(run(options))
    }

    /// The same with workers of this command.
    pub fn of_command(options: &[&str], command: &[&str]) -> Self {
        let mut run = run(options);
        run.arg("--").args(command);
        Self::spawn(run)
    }

    /// The same with workers that are this test program itself, in the part of `role` (see [`roles`]).
    pub fn of_role(options: &[&str], role: &str) -> Self {
        let mut run = run(options);
        run.arg(format!("--env={}={role}", roles::ROLE)).arg("--").args(roles::command(role));
        Self::spawn(run)
    }

    /// A command that becomes, or starts, a primary.
    pub fn spawn(command: Command) -> Self {
        Self::spawn_with_stdin(command, Stdio::null())
    }

    /// The same with a standard input.
    pub fn spawn_with_stdin(mut command: Command, stdin: Stdio) -> Self {
        command.stdin(stdin).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let log = Log::collect(child.stderr.take().expect("it is piped"));
        Self { child, log }
    }

    /// As [`spawn`](Self::spawn); and the lines of its standard output.
    pub fn spawn_with_stdout(mut command: Command) -> (Self, Log) {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let [stdout, log] = [
            Log::collect(child.stdout.take().expect("it is piped")),
            Log::collect(child.stderr.take().expect("it is piped")),
        ];
        (Self { child, log }, stdout)
    }

    /// Adopts a primary whose log is read by the test itself.
    pub fn adopt(child: Child, log: Log) -> Self {
        Self { child, log }
    }

    pub fn log(&self) -> &Log {
        &self.log
    }

    pub fn pid(&self) -> i32 {
        self.child.id() as i32
    }

    /// The first listener's address, without `unix:`.
    pub fn address(&self) -> String {
        let line = self.log.wait_for("dealing ");
        let address = line.split("dealing ").nth(1).and_then(|rest| rest.split(" to ").next());
        address.expect("the line names the address").trim_start_matches("unix:").to_owned()
    }

    /// The path of its control socket.
    pub fn control(&self) -> String {
        let line = self.log.wait_for("control=");
        line.split("control=").nth(1).expect("the line names the path").to_owned()
    }

    /// The address of its monitor.
    pub fn monitor(&self) -> String {
        // The blank: the URL of --ecv-monitor is another one's.
        let line = self.log.wait_for(" monitor=http://");
        let address = line.split("monitor=http://").nth(1).and_then(|rest| rest.strip_suffix('/'));
        address.expect("the line names the address").to_owned()
    }

    /// A client command for this primary, run to its end.
    pub fn client(&self, arguments: &[&str]) -> Outcome {
        let mut command = plain(PROGRAM);
        command.args(arguments).args(["--control", &self.control()]);
        Outcome::of(command)
    }

    /// What `croupier status --json` says.
    #[track_caller]
    pub fn status(&self) -> serde_json::Value {
        let outcome = self.client(&["status", "--json"]);
        serde_json::from_str(&outcome.stdout).unwrap_or_else(|error| panic!("{error}: {outcome:?}"))
    }

    /// Waits until `count` workers have listened since the start, and returns the address.
    pub fn wait_ready(&self, count: usize) -> String {
        self.log.wait_for_count(" listening on ", count);
        self.address()
    }

    /// Every worker that was ever started.
    pub fn started(&self) -> Vec<Started> {
        self.log.lines().iter().filter_map(|line| Started::read(line)).collect()
    }

    /// The worker with this id, once it is started.
    pub fn wait_started(&self, id: u32) -> Started {
        let line = self.log.wait_until("the start of a worker", |lines| {
            lines.iter().find(|line| Started::read(line).is_some_and(|started| started.id == id)).cloned()
        });
        Started::read(&line).expect("it was read a moment ago")
    }

    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.pid()), signal).expect("it is our child and not yet waited for");
    }

    /// Waits for its end and returns the exit code (`None`: a signal).
    pub fn wait_exit(&mut self) -> Option<i32> {
        self.wait_status().code()
    }

    pub fn wait_status(&mut self) -> ExitStatus {
        let child = &mut self.child;
        let status = until(|| child.try_wait().expect("it is our child"));
        status.unwrap_or_else(|| panic!("croupier does not end; its log:\n{}", self.log))
    }

    /// SIGTERM, and the exit code.
    pub fn terminate(&mut self) -> Option<i32> {
        self.signal(Signal::SIGTERM);
        self.wait_exit()
    }

    /// Workers that may still run: its children, and those that outlived it.
    fn remaining(&self) -> Vec<i32> {
        let logged = self.started().into_iter().map(|started| started.pid).filter(|pid| processes::is_worker(*pid));
        processes::children(self.pid()).into_iter().chain(logged).collect()
    }
}

impl Drop for Croupier {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the log of croupier {}:\n{}", self.pid(), self.log);
        }
        let workers = self.remaining();
        let _ = self.child.kill();
        let _ = self.child.wait();
        if let Some(line) = self.log.lines().iter().find(|line| line.contains(" control=")) {
            let _ = fs::remove_file(line.split("control=").nth(1).unwrap_or_default());
        }
        for worker in workers {
            let _ = kill(Pid::from_raw(worker), Signal::SIGKILL);
            let _ = killpg(Pid::from_raw(worker), Signal::SIGKILL);
        }
    }
}

/// How a command ended, and what it said.
#[derive(Debug)]
pub struct Outcome {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Outcome {
    /// Runs a command to its end.
    pub fn of(mut command: Command) -> Self {
        let output = command.stdin(Stdio::null()).output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Self { code: output.status.code(), stdout: text(&output.stdout), stderr: text(&output.stderr) }
    }

    /// It failed with this code, and its one line on stderr says `text`.
    #[track_caller]
    pub fn assert_failed(&self, code: i32, text: &str) {
        let is_one_line = self.stderr.lines().filter(|line| line.starts_with("croupier: ")).count() == 1;
        assert!(self.code == Some(code) && self.stderr.contains(text) && is_one_line, "no {code}, {text:?}: {self:?}");
    }

    #[track_caller]
    pub fn assert_ok(&self) -> &Self {
        assert_eq!(self.code, Some(0), "{self:?}");
        self
    }
}

impl Started {
    /// From `worker=3 pid=4711 slot=0 started`.
    fn read(line: &str) -> Option<Self> {
        let rest = line.strip_suffix(" started")?;
        let field = |name: &str| {
            let word = rest.split(' ').find_map(|word| word.strip_prefix(name));
            word.and_then(|number| number.parse::<u32>().ok())
        };
        Some(Self { id: field("worker=")?, pid: field("pid=")? as i32, slot: field("slot=")? })
    }
}

/// `croupier run --listen 127.0.0.1:0` with these options and the environment of a plain shell.
pub fn run(options: &[&str]) -> Command {
    let mut command = plain(PROGRAM);
    command.args(["run", "--listen", "127.0.0.1:0"]).args(options);
    command
}

/// The same, started by `sh` after `prelude`: for what a primary may inherit (limits, dispositions, descriptors).
pub fn run_after(prelude: &str, options: &[&str]) -> Command {
    let mut command = plain("sh");
    command.args(["-c", &format!("{prelude}; exec \"$0\" \"$@\""), PROGRAM]);
    command.args(["run", "--listen", "127.0.0.1:0"]).args(options);
    command
}

/// `croupier run` without a declared listener, unless these options declare one.
pub fn undeclared(options: &[&str]) -> Command {
    let mut command = plain(PROGRAM);
    command.arg("run").args(options);
    command
}

/// The same, with its standard input as descriptor 3 and /dev/null as 4, in the way of systemd if there are `names`.
pub fn undeclared_with_fds(options: &[&str], names: Option<&str>) -> Command {
    let mut command = plain("sh");
    command.args(["-c", "exec 3<&0 4</dev/null 0</dev/null; LISTEN_PID=$$ exec \"$0\" \"$@\"", PROGRAM, "run"]);
    if let Some(names) = names {
        command.env("LISTEN_FDS", "2").env("LISTEN_FDNAMES", names);
    }
    command.args(options);
    command
}

/// A command without the variables that croupier goes by, and with a runtime directory of the tests.
pub fn plain(program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new(program);
    let ours = |name: &str| name.starts_with("CROUPIER_") || name == "WEB_CONCURRENCY" || name == "RUST_LOG";
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_str().is_some_and(ours)) {
        command.env_remove(name);
    }
    command.env("XDG_RUNTIME_DIR", runtime_directory());
    command
}

/// Where the control sockets of all tests of this user are: ports are used once, so names are unique.
fn runtime_directory() -> PathBuf {
    let path = std::env::temp_dir().join(format!("croupier-tests-{}", nix::unistd::geteuid()));
    fs::create_dir_all(&path).expect("the temporary directory is writable");
    path
}

/// Asks again and again until there is an answer, or gives up after [`DEADLINE`].
pub fn until<T>(mut ask: impl FnMut() -> Option<T>) -> Option<T> {
    let deadline = Instant::now() + DEADLINE;
    loop {
        let answer = ask();
        if answer.is_some() || Instant::now() >= deadline {
            return answer;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Waits until something is so.
#[track_caller]
pub fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    assert!(until(|| is_so().then_some(())).is_some(), "waited {DEADLINE:?} in vain: {what}");
}

/// A directory of one test, removed with everything in it.
pub struct Directory(PathBuf);

impl Directory {
    pub fn new() -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let name = format!("croupier-test-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        fs::create_dir(&path).expect("the temporary directory is writable");
        Self(path)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    /// A copy of a program that every user may execute: where the build is may be closed to others. Another process
    /// makes it: a child that a second test starts would keep a file open that this one writes, and nobody can
    /// execute it then (ETXTBSY).
    pub fn copy_for_all(&self, program: &str) -> String {
        let copy = self.file(Path::new(program).file_name().and_then(|name| name.to_str()).expect("it has a name"));
        let status =
            Command::new("install").args(["--mode=755", program, &copy]).status().expect("coreutils are there");
        assert!(status.success());
        fs::set_permissions(self.path(), fs::Permissions::from_mode(0o755)).expect("it is ours");
        copy
    }

    /// The path of a file in it, as text.
    pub fn file(&self, name: &str) -> String {
        self.0.join(name).to_str().expect("temporary paths are text").to_owned()
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
