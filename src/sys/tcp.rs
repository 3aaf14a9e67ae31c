//! Options of TCP sockets that no package offers.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use nix::libc;

/// Has the kernel wait so many seconds for the first bytes of a client before it lets `listener` accept it; 0: accept
/// at once. The kernel counts in retransmissions and rounds up to one. When the time is over the client is accepted
/// all the same. Source: tcp(7), `TCP_DEFER_ACCEPT`; `secs_to_retrans` of the kernel.
///
/// # Errors
/// Those of setsockopt(2): `ENOPROTOOPT`/`EOPNOTSUPP` if it is no TCP socket.
pub fn set_defer_accept(listener: BorrowedFd<'_>, secs: u32) -> io::Result<()> {
    let value = libc::c_int::try_from(secs).unwrap_or(libc::c_int::MAX);
    let len = size_of_val(&value) as libc::socklen_t;
    let option = libc::TCP_DEFER_ACCEPT;
    // SAFETY: the pointer is to a live integer of the length that is given, and the kernel only reads it.
    let result =
        unsafe { libc::setsockopt(listener.as_raw_fd(), libc::IPPROTO_TCP, option, (&raw const value).cast(), len) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
