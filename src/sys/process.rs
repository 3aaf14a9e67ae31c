//! Starting, watching and ending child processes.
//!
//! A child is watched through a pidfd, so that waiting for it never touches the children of whatever program
//! embeds this library, and its number cannot be mistaken for another process's.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;
use std::ptr;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::{Signal, kill, killpg};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use nix::unistd::Pid;

use super::identity::Identity;
use super::limits::OpenFiles;

/// No wait is longer: a deadline must be a time that the clock can show.
const WAIT_MAX: Duration = Duration::from_secs(365 * 24 * 3600);

/// How to start a process. It inherits fds 0, 1, 2 and `channel`, nothing else; default signal dispositions and an
/// empty signal mask; a process group of its own.
#[derive(Debug)]
pub struct Launch<'a> {
    /// The program, looked up in `PATH` if it has no slash.
    pub program: &'a OsStr,
    /// Its arguments, without the program's own name.
    pub arguments: &'a [OsString],
    /// Variables added to (or replacing those of) this process's environment.
    pub variables: &'a [(OsString, OsString)],
    /// Variables of this process's environment that it does not get.
    pub withheld: &'a [&'a str],
    /// Where it runs; `None` is this process's directory.
    pub directory: Option<&'a PathBuf>,
    /// The descriptor that stays open over the exec, under the same number.
    pub channel: BorrowedFd<'a>,
    /// Its standard output; `None` is this process's.
    pub stdout: Option<OwnedFd>,
    /// Its standard error; `None` is this process's.
    pub stderr: Option<OwnedFd>,
    /// The limit of open files it gets; `None` is this process's.
    pub open_files: Option<OpenFiles>,
    /// Whose it is; `None`: this process's user, with its groups. It is executed as that user, in a directory that was
    /// entered as this one's.
    pub identity: Option<&'a Identity>,
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// It exited with this code.
    Code(i32),
    /// This signal ended it. A number, because real-time signals have no name.
    Signal(i32),
}

impl Exit {
    /// Exit code 0.
    pub fn is_success(self) -> bool {
        self == Exit::Code(0)
    }
}

impl std::fmt::Display for Exit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Exit::Code(code) => write!(f, "code={code}"),
            Exit::Signal(signal) => write!(f, "signal={signal}"),
        }
    }
}

/// A child process that has not been waited for.
#[derive(Debug)]
pub struct Process {
    pid: Pid,
    pidfd: OwnedFd,
}

impl Process {
    /// Starts a process.
    ///
    /// # Errors
    /// Those of fork(2) and execve(2): `NotFound` if there is no such program (or interpreter, or directory),
    /// `PermissionDenied` if it is not executable (by that user), `WouldBlock` (EAGAIN) if there are too many processes
    /// (of that user), `EPERM` or `EINVAL` if this process cannot become that user.
    pub fn spawn(launch: &Launch<'_>) -> io::Result<Self> {
        let mut command = Command::new(launch.program);
        launch.withheld.iter().for_each(|name| {
            command.env_remove(name);
        });
        command.args(launch.arguments).envs(launch.variables.iter().map(|(name, value)| (name, value)));
        command.process_group(0);
        if let Some(directory) = launch.directory {
            command.current_dir(directory);
        }
        if let Some(stdout) = &launch.stdout {
            command.stdout(stdout.try_clone()?);
        }
        if let Some(stderr) = &launch.stderr {
            command.stderr(stderr.try_clone()?);
        }
        let channel = launch.channel.as_raw_fd();
        let (open_files, identity) = (launch.open_files, launch.identity.cloned());
        // SAFETY: the closure runs between fork and exec and makes only async-signal-safe system calls; it
        // allocates nothing and takes no lock.
        unsafe {
            command.pre_exec(move || prepare_child(channel, open_files, identity.as_ref()));
        }
        let child = command.spawn()?;
        let pid = Pid::from_raw(child.id() as i32);
        match open_pidfd(pid) {
            Ok(pidfd) => Ok(Self { pid, pidfd }),
            Err(error) => {
                // Without a pidfd nobody would ever wait for it.
                let mut child = child;
                let _ = child.kill();
                let _ = child.wait();
                Err(error)
            }
        }
    }

    /// A child that an earlier image of this process started.
    pub fn inherited(pid: i32, pidfd: OwnedFd) -> Self {
        Self { pid: Pid::from_raw(pid), pidfd }
    }

    /// The process's number, for people and logs.
    pub fn pid(&self) -> i32 {
        self.pid.as_raw()
    }

    /// How it ended, or `None` while it runs. Reaps it: the answer comes once.
    ///
    /// # Errors
    /// `ECHILD` if somebody else has reaped it (a SIGCHLD set to be ignored, or a wait for any child).
    pub fn try_wait(&self) -> io::Result<Option<Exit>> {
        let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG;
        loop {
            return match waitid(Id::PIDFd(self.pidfd.as_fd()), flags) {
                Ok(WaitStatus::Exited(_, code)) => Ok(Some(Exit::Code(code))),
                Ok(WaitStatus::Signaled(_, signal, _)) => Ok(Some(Exit::Signal(signal as i32))),
                Ok(_) => Ok(None),
                Err(Errno::EINTR) => continue,
                // nix has no name for the real-time signal that ended it, and the process is reaped by now.
                Err(Errno::EINVAL) => Ok(Some(Exit::Signal(libc::SIGRTMIN()))),
                Err(error) => Err(error.into()),
            };
        }
    }

    /// SIGKILL, and sleeps until the process has ended.
    pub fn kill_and_wait(&self) {
        self.signal_group(Signal::SIGKILL);
        self.signal(Signal::SIGKILL);
        let _ = waitid(Id::PIDFd(self.pidfd.as_fd()), WaitPidFlag::WEXITED);
    }

    /// Sends `signal` to the process alone. A process that has ended is no error.
    pub fn signal(&self, signal: Signal) {
        // It is our child and not yet waited for, so the number is still its own.
        let _ = kill(self.pid, signal);
    }

    /// Sends `signal` to the whole process group of the process.
    pub fn signal_group(&self, signal: Signal) {
        let _ = killpg(self.pid, signal);
    }
}

impl AsFd for Process {
    /// The pidfd: readable once the process has ended. Source: pidfd_open(2).
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }
}

/// A process that need not be a child of ours.
#[derive(Debug)]
pub struct Stranger {
    pidfd: OwnedFd,
}

impl Stranger {
    /// The process with this number.
    ///
    /// # Errors
    /// `ESRCH` if there is none, `EINVAL` for 0, which stands for one of another pid namespace.
    pub fn open(pid: i32) -> io::Result<Self> {
        Ok(Self { pidfd: open_pidfd(Pid::from_raw(pid))? })
    }

    /// Waits for its end; false if it has not come within `timeout`.
    pub fn wait_end(&self, timeout: Duration) -> bool {
        let deadline = Instant::now() + timeout.min(WAIT_MAX);
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            // Rounded up: a last look may come late, not early.
            let timeout = PollTimeout::try_from(left + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX);
            match poll(&mut [PollFd::new(self.pidfd.as_fd(), PollFlags::POLLIN)], timeout) {
                Ok(1..) => return true,
                _ if left.is_zero() => return false,
                _ => {}
            }
        }
    }
}

fn open_pidfd(pid: Pid) -> io::Result<OwnedFd> {
    // SAFETY: the system call takes two integers and returns a new descriptor (always close-on-exec) or -1.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid.as_raw(), 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// The highest signal of the kernel, the size of its signal sets, and the default disposition in its own layout:
/// all zero, whatever the order of the fields. Source: rt_sigaction(2), signal(7).
const LAST_SIGNAL: i32 = 64;
const SIGNAL_SET_BYTES: usize = 8;
const DEFAULT_ACTION: [u64; 4] = [0; 4];

/// Runs in the child between fork and exec.
fn prepare_child(channel: i32, open_files: Option<OpenFiles>, identity: Option<&Identity>) -> io::Result<()> {
    close_on_exec_from(3);
    // SAFETY: plain system calls on integers.
    unsafe {
        if libc::fcntl(channel, libc::F_SETFD, 0) < 0 {
            return Err(io::Error::last_os_error());
        }
        for signal in 1..=LAST_SIGNAL {
            // The bare system call: libc's refuses its own two signals, which may have been inherited ignored. It
            // fails for SIGKILL and SIGSTOP, whose disposition is always the default.
            libc::syscall(libc::SYS_rt_sigaction, signal, &DEFAULT_ACTION, ptr::null::<u64>(), SIGNAL_SET_BYTES);
        }
        let mut none: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &none, std::ptr::null_mut());
    }
    if let Some(limit) = open_files {
        setrlimit(Resource::RLIMIT_NOFILE, limit.soft, limit.hard)?;
    }
    identity.map_or(Ok(()), Identity::assume)
}

/// Marks every descriptor from `first` on close-on-exec: also those that this process inherited from its own
/// parent without the mark. `CLOSE_RANGE_CLOEXEC` came with Linux 5.11; before, one by one. Source: close_range(2).
fn close_on_exec_from(first: i32) {
    // SAFETY: plain system calls on integers.
    unsafe {
        let all = libc::syscall(libc::SYS_close_range, first, u32::MAX, libc::CLOSE_RANGE_CLOEXEC);
        if all < 0 {
            for fd in first..libc::sysconf(libc::_SC_OPEN_MAX) as i32 {
                libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC);
            }
        }
    }
}

/// Waits for one ended child that `is_ours` does not claim: orphans that a PID 1 inherits. `None` when there is none.
///
/// Our own children are left alone: their ends are read through their pidfds. An ended child of ours that has not
/// been read yet hides the strangers behind it until then.
pub fn reap_stranger(is_ours: impl Fn(i32) -> bool) -> Option<i32> {
    let peek = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
    let pid = waitid(Id::All, peek).ok()?.pid()?;
    if is_ours(pid.as_raw()) {
        return None;
    }
    waitid(Id::Pid(pid), WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG).ok()?;
    Some(pid.as_raw())
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    fn launch<'a>(program: &'a OsStr, arguments: &'a [OsString], channel: &'a OwnedFd) -> Launch<'a> {
        Launch {
            program,
            arguments,
            variables: &[],
            withheld: &[],
            directory: None,
            channel: channel.as_fd(),
            stdout: None,
            stderr: None,
            open_files: None,
            identity: None,
        }
    }

    fn wait(process: &Process) -> Exit {
        let mut fds = [PollFd::new(process.as_fd(), PollFlags::POLLIN)];
        assert_eq!(poll(&mut fds, PollTimeout::from(30_000u16)).unwrap(), 1, "the child never ended");
        process.try_wait().unwrap().unwrap()
    }

    fn null() -> OwnedFd {
        std::fs::File::open("/dev/null").unwrap().into()
    }

    #[test]
    fn the_exit_of_a_child_is_seen_with_its_code_or_signal() {
        let null = null();
        let arguments = ["-c".into(), "exit 7".into()];
        assert_eq!(wait(&Process::spawn(&launch("sh".as_ref(), &arguments, &null)).unwrap()), Exit::Code(7));
        let arguments = ["-c".into(), "kill -9 $$".into()];
        assert_eq!(wait(&Process::spawn(&launch("sh".as_ref(), &arguments, &null)).unwrap()), Exit::Signal(9));
    }

    #[test]
    fn a_missing_and_an_unexecutable_program_are_told_apart() {
        let null = null();
        let missing = Process::spawn(&launch("/no/such/program".as_ref(), &[], &null)).unwrap_err();
        assert_eq!(missing.kind(), io::ErrorKind::NotFound);
        let plain = Process::spawn(&launch("/etc/passwd".as_ref(), &[], &null)).unwrap_err();
        assert_eq!(plain.kind(), io::ErrorKind::PermissionDenied);
    }
}
