//! Descriptors that are waited for on tokio's reactor.

use std::io;
use std::os::fd::OwnedFd;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Registers `fd` for reading with the reactor of the runtime that this is called in. Dropping the result deregisters
/// it before it closes it, which matters where somebody else has a duplicate: epoll forgets a closed descriptor only
/// with the last of them. Source: epoll(7), questions and answers, 6.
///
/// # Errors
/// Those of epoll_ctl(2): `ENOSPC` (`fs.epoll.max_user_watches`), `ENOMEM`. The descriptor is closed then.
///
/// # Panics
/// Outside of a runtime, or in one without I/O.
#[track_caller]
pub fn register_readable(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` is open and has the same number as long as it lives, and nobody replaces it in there.
    Ok(unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) }?)
}
