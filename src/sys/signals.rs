//! Signals as readable events: blocked, and read from a signalfd.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use nix::errno::Errno;
use nix::sys::signal::SigSet;
use nix::sys::signalfd::{SfdFlags, SignalFd};

pub use nix::sys::signal::Signal;

/// Signals that this thread, and threads it starts later, no longer receive but read here.
///
/// Signals stay blocked when this is dropped: the process is about to end or to exec, and a late one must not kill it.
#[derive(Debug)]
pub struct Signals {
    fd: SignalFd,
}

impl Signals {
    /// Blocks `signals` for the calling thread and opens a signalfd for them. Call it before starting threads:
    /// a signal to the process goes to any thread that does not block it. Source: signalfd(2).
    ///
    /// # Errors
    /// `EMFILE`/`ENFILE`/`ENOMEM`.
    pub fn block(signals: &[Signal]) -> io::Result<Self> {
        let set: SigSet = signals.iter().copied().collect();
        set.thread_block()?;
        let fd = SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
        Ok(Self { fd })
    }

    /// The next pending signal, or `None` when there is none.
    pub fn next(&self) -> Option<Signal> {
        loop {
            match self.fd.read_signal() {
                Ok(Some(info)) => match Signal::try_from(info.ssi_signo as i32) {
                    Ok(signal) => return Some(signal),
                    Err(_) => continue,
                },
                Err(Errno::EINTR) => continue,
                Ok(None) | Err(_) => return None,
            }
        }
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Gives SIGCHLD its default disposition: whoever started this process may have left it ignored, and then the kernel
/// reaps children before anybody can wait for them. Source: wait(2), notes.
///
/// # Errors
/// None is expected.
pub fn stop_ignoring_children() -> io::Result<()> {
    // SAFETY: no handler is installed, and the default action does nothing.
    unsafe { nix::sys::signal::signal(Signal::SIGCHLD, nix::sys::signal::SigHandler::SigDfl)? };
    Ok(())
}

/// Blocks every signal for the calling thread: for threads of a library, which must not be the ones that a
/// program's signals land on.
///
/// # Errors
/// None is expected. Source: pthread_sigmask(3).
pub fn block_all_in_this_thread() -> io::Result<()> {
    Ok(SigSet::all().thread_block()?)
}
