//! The limit of open files (`RLIMIT_NOFILE`).

use serde::{Deserialize, Serialize};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// How many descriptors a process may have open: the soft limit binds, the hard one bounds the soft one.
/// Source: getrlimit(2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenFiles {
    /// In force.
    pub soft: u64,
    /// What `soft` may be raised to without privilege.
    pub hard: u64,
}

/// The limits of this process.
///
/// # Errors
/// Those of getrlimit(2); none is expected.
pub fn open_files() -> io::Result<OpenFiles> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    Ok(OpenFiles { soft, hard })
}

/// Whether `fd` is among the last quarter of the numbers that this process may have. Whatever is opened gets the lowest
/// one that is free, so that then three quarters were in use. Source: open(2), getrlimit(2).
pub fn is_in_last_quarter(fd: BorrowedFd<'_>) -> bool {
    let soft = open_files().map_or(u64::MAX, |limit| limit.soft);
    fd.as_raw_fd().unsigned_abs() as u64 >= soft - soft / 4
}

/// Raises the soft limit of this process to the hard one and returns what was in force before.
///
/// # Errors
/// Those of getrlimit(2) and setrlimit(2); raising the soft limit needs no privilege.
pub fn raise_open_files() -> io::Result<OpenFiles> {
    let before = open_files()?;
    setrlimit(Resource::RLIMIT_NOFILE, before.hard, before.hard)?;
    Ok(before)
}
