//! Descriptors that go over an exec: they keep their numbers, and lose close-on-exec at the last moment.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};

use crate::sys::fd_passing;

/// The descriptors that one state speaks of.
#[derive(Debug, Default)]
pub struct Baggage {
    fds: Vec<RawFd>,
}

impl Baggage {
    /// Takes note of a descriptor and returns its number. It stays its owner's.
    pub fn pack(&mut self, fd: BorrowedFd<'_>) -> RawFd {
        self.fds.push(fd.as_raw_fd());
        fd.as_raw_fd()
    }

    /// Lets all of them stay open over an exec, or close again.
    ///
    /// # Errors
    /// Those of fcntl(2); none is expected.
    pub fn keep_over_exec(&self, keep: bool) -> io::Result<()> {
        self.fds.iter().try_for_each(|fd| fd_passing::set_close_on_exec(*fd, !keep))
    }
}

/// Takes ownership of a descriptor that came over the exec.
///
/// # Errors
/// `EBADF` if it did not: the state and the process do not belong together.
pub fn unpack(number: RawFd) -> io::Result<OwnedFd> {
    let fd = fd_passing::adopt_fd(number)?;
    fd_passing::set_close_on_exec(number, true)?;
    Ok(fd)
}
