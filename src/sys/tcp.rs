//! Options of TCP sockets that no package offers.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd};

use nix::libc;

use super::fd_passing;

/// States in which the peer has ended its side. Source: include/net/tcp_states.h.
const TIME_WAIT: u8 = 6;
const CLOSE_WAIT: u8 = 8;
const LAST_ACK: u8 = 9;
const CLOSING: u8 = 11;

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

/// Whether anybody has read from this connection, or written to it. What a client has sent and nobody has read does not
/// count, and neither does its end, which is one more byte received. Source: tcp(7), `TCP_INFO`; RFC 4898 for its
/// counters; measured: a FIN counts as one.
///
/// # Errors
/// Those of getsockopt(2): it is no TCP socket.
pub fn was_touched(connection: BorrowedFd<'_>) -> io::Result<bool> {
    let mut info = MaybeUninit::<libc::tcp_info>::zeroed();
    let mut len = size_of::<libc::tcp_info>() as libc::socklen_t;
    let (level, option) = (libc::IPPROTO_TCP, libc::TCP_INFO);
    // SAFETY: the kernel writes at most `len` bytes into a buffer of that length; every byte pattern is a tcp_info.
    let info = unsafe {
        let result = libc::getsockopt(connection.as_raw_fd(), level, option, info.as_mut_ptr().cast(), &mut len);
        if result != 0 {
            return Err(io::Error::last_os_error());
        }
        info.assume_init()
    };
    let end = u64::from(matches!(info.tcpi_state, CLOSE_WAIT | LAST_ACK | CLOSING | TIME_WAIT));
    let unread = fd_passing::queued_bytes(connection)? as u64;
    Ok(info.tcpi_bytes_received.saturating_sub(end) > unread || info.tcpi_bytes_sent > 0)
}

fn set_option(socket: BorrowedFd<'_>, level: libc::c_int, option: libc::c_int, value: libc::c_int) -> io::Result<()> {
    let len = size_of_val(&value) as libc::socklen_t;
    // SAFETY: the pointer is to a live integer of the length that is given, and the kernel only reads it.
    let result = unsafe { libc::setsockopt(socket.as_raw_fd(), level, option, (&raw const value).cast(), len) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
