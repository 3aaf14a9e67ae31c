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
    let secs = libc::c_int::try_from(secs).unwrap_or(libc::c_int::MAX);
    set_option(listener, libc::IPPROTO_TCP, libc::TCP_DEFER_ACCEPT, secs)
}

/// Takes `listener` off every network interface: new clients are refused, handshakes under way are completed, and who
/// has connected can be accepted. For good: taking it back needs `CAP_NET_RAW`. Done by binding it to an interface that
/// is not there, which the kernel does not mind. Source: socket(7), `SO_BINDTODEVICE`, and `sock_bindtoindex` of the
/// kernel, since 5.7 for everybody.
///
/// # Errors
/// `EPERM` if it was bound to an interface before, as listeners on link-local addresses are.
pub fn bind_to_no_interface(listener: BorrowedFd<'_>) -> io::Result<()> {
    const NO_INTERFACE: libc::c_int = libc::c_int::MAX;
    set_option(listener, libc::SOL_SOCKET, libc::SO_BINDTOIFINDEX, NO_INTERFACE)
}

fn set_option(socket: BorrowedFd<'_>, level: libc::c_int, option: libc::c_int, value: libc::c_int) -> io::Result<()> {
    let len = size_of_val(&value) as libc::socklen_t;
    // SAFETY: the pointer is to a live integer of the length that is given, and the kernel only reads it.
    let result = unsafe { libc::setsockopt(socket.as_raw_fd(), level, option, (&raw const value).cast(), len) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
