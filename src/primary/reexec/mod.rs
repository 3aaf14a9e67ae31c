//! Upgrade in place: the primary replaces its own image by the program that is now at its path. Same process, so
//! workers stay its children; listeners, channels, retained ends and held connections go over as descriptors, the
//! rest as [`State`]. Workers never notice.
//!
//! ```text
//!   asked ─▶ the new program runs as a child and reads the state ("upgrade-check")
//!              │ says the agreed line and exits 0, within CHECK_TIMEOUT      │ anything else
//!              ▼                                                             ▼
//!            state written, close-on-exec cleared, execve                  the old image goes on and says why
//!              │ fails: restored, the old image goes on
//!              ▼
//!            the new image reads the state and goes on
//! ```
//! Handled signals stay blocked over the exec: a second SIGUSR2 during start-up would kill the new image otherwise.

pub mod baggage;
pub mod state;

use std::ffi::{CString, OsStr, OsString};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::time::Duration;

use nix::fcntl::OFlag;

use crate::primary::address::Address;
use crate::protocol::time::Monotonic;
use crate::sys::process::{Launch, Process};
use baggage::Baggage;
use state::{STATE_VERSION, State};

/// How long the new program may take to say that it can take over.
pub const CHECK_TIMEOUT: Duration = Duration::from_secs(5);

/// How this process was started, and so how its next image is.
#[derive(Debug, Clone)]
pub struct Invocation {
    /// The program's path as resolved at the start. Never /proc/self/exe, which goes on naming the replaced file.
    pub program: PathBuf,
    /// Its arguments, without its own name.
    pub arguments: Vec<OsString>,
    /// Variables that it was started with, and has removed because workers must not see them.
    pub variables: Vec<(OsString, OsString)>,
    /// Called right before the exec, which ends every other thread: to write out what is buffered.
    pub before_exec: fn(),
}

/// A listening socket with a file that goes over an exec beside what the primary itself owns.
#[derive(Debug)]
pub struct CarriedSocket {
    /// The socket.
    pub socket: OwnedFd,
    /// Its file.
    pub path: PathBuf,
    /// Device and inode of the file.
    pub identity: (u64, u64),
}

/// The monitor's listening socket, which goes over an exec too.
#[derive(Debug)]
pub struct CarriedMonitor {
    /// The socket.
    pub socket: OwnedFd,
    /// The address as it was asked for.
    pub wanted: Address,
}

/// The sockets of whoever lets others watch and command the primary.
#[derive(Debug, Default)]
pub struct CarriedDoors {
    /// The control socket.
    pub control: Option<CarriedSocket>,
    /// The monitor's, if there is one.
    pub monitor: Option<CarriedMonitor>,
}

/// A file that is locked as long as this process lives, also over an exec, and the directory that it stands for.
#[derive(Debug)]
pub struct CarriedLock {
    /// The file. The lock is its open description's. Source: flock(2).
    pub file: OwnedFd,
    /// The directory.
    pub directory: PathBuf,
}

/// The new program on trial.
#[derive(Debug)]
pub struct Trial {
    process: Process,
    output: OwnedFd,
    /// It must have ended by then.
    pub deadline: Monotonic,
}

/// What the new program says if it can take over.
pub fn agreed_line() -> String {
    format!("croupier upgrade-check ok state-version={STATE_VERSION}")
}

impl Trial {
    /// Starts the program with `state` to look at.
    ///
    /// # Errors
    /// Those of fork(2) and execve(2).
    pub fn start(invocation: &Invocation, state: &State) -> io::Result<Self> {
        let memfd = state.write()?;
        let (output, stdout) = nix::unistd::pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)?;
        let (name, value) = State::variable(&memfd);
        let mut arguments: Vec<OsString> = vec!["upgrade-check".into(), "--".into()];
        arguments.extend(invocation.arguments.iter().cloned());
        let process = Process::spawn(&Launch {
            program: invocation.program.as_os_str(),
            arguments: &arguments,
            variables: &[(name.into(), value.into())],
            withheld: &[],
            directory: None,
            channel: memfd.as_fd(),
            stdout: Some(stdout),
            stderr: None,
            open_files: None,
            identity: None,
        })?;
        Ok(Self { process, output, deadline: Monotonic::now() + CHECK_TIMEOUT })
    }

    /// Readable once the program has ended.
    pub fn process(&self) -> &Process {
        &self.process
    }

    /// Ends it: nobody waits for its verdict any more.
    pub fn call_off(self) {
        self.process.kill_and_wait();
    }

    /// What it came to, once it has ended.
    ///
    /// # Errors
    /// Why it cannot take over, for people.
    pub fn verdict(self) -> Result<(), String> {
        let exit = match self.process.try_wait() {
            Ok(Some(exit)) => exit,
            Ok(None) => {
                self.process.kill_and_wait();
                return Err(format!("it did not answer within {CHECK_TIMEOUT:?}"));
            }
            Err(error) => return Err(error.to_string()),
        };
        let mut said = Vec::new();
        // Non-blocking: a child of its own that keeps the pipe open must not keep us.
        let _ = File::from(self.output).take(4096).read_to_end(&mut said);
        let said = String::from_utf8_lossy(&said);
        if exit.is_success() && said.lines().any(|line| line == agreed_line()) {
            return Ok(());
        }
        let first = said.lines().next().unwrap_or_default().escape_debug().to_string();
        Err(format!("it is not a croupier that knows this state ({exit}, it said {first:?})"))
    }
}

/// Replaces this process's image. Returns only if that failed.
pub fn exec(invocation: &Invocation, state: &State, mut baggage: Baggage) -> io::Error {
    let memfd = match state.write() {
        Ok(memfd) => memfd,
        Err(error) => return error,
    };
    baggage.pack(memfd.as_fd());
    let failed = try_exec(invocation, &memfd, &baggage).err().unwrap_or_else(|| io::ErrorKind::Other.into());
    if let Err(error) = baggage.keep_over_exec(false) {
        log::error!("close-on-exec cannot be set again: {error} [new workers may inherit descriptors]");
    }
    failed
}

fn try_exec(invocation: &Invocation, memfd: &OwnedFd, baggage: &Baggage) -> io::Result<()> {
    let program = c_string(invocation.program.as_os_str())?;
    let arguments = std::iter::once(invocation.program.as_os_str()).chain(invocation.arguments.iter().map(|it| &**it));
    let arguments = arguments.map(c_string).collect::<io::Result<Vec<_>>>()?;
    let (name, value) = State::variable(memfd);
    let variables = std::env::vars_os().chain(invocation.variables.iter().cloned());
    let variables = variables.map(|(name, value)| [name, "=".into(), value].join(OsStr::new("")));
    let variables = variables.chain([format!("{name}={value}").into()]);
    let variables = variables.map(|it| c_string(&it)).collect::<io::Result<Vec<_>>>()?;
    baggage.keep_over_exec(true)?;
    (invocation.before_exec)();
    nix::unistd::execve(&program, &arguments, &variables)?;
    Ok(())
}

fn c_string(text: &OsStr) -> io::Result<CString> {
    CString::new(text.as_bytes()).map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))
}
