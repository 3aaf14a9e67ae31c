//! Listening sockets, and UDP sockets, that this process was started with.

use std::io;
use std::os::fd::{BorrowedFd, RawFd};

use nix::sys::socket::{AddressFamily, SockType, SockaddrLike, SockaddrStorage};
use nix::sys::socket::{getsockname, getsockopt, sockopt};

/// The numbers, from 3 upwards, under which this process has listening or UDP sockets. Before it opens any itself
/// these are those that it was started with. Source: proc(5), `/proc/self/fd`; socket(7), `SO_ACCEPTCONN`.
///
/// # Errors
/// Those of reading `/proc`.
pub fn listening_fds() -> io::Result<Vec<RawFd>> {
    let mut numbers = Vec::new();
    for entry in std::fs::read_dir("/proc/self/fd")? {
        let number = entry?.file_name().to_str().and_then(|name| name.parse::<RawFd>().ok());
        numbers.extend(number.filter(|number| *number > 2));
    }
    numbers.sort_unstable();
    numbers.retain(|number| is_listening(*number));
    Ok(numbers)
}

fn is_listening(number: RawFd) -> bool {
    // SAFETY: getsockopt only looks at the number; one that is not open any more is answered with EBADF.
    let fd = unsafe { BorrowedFd::borrow_raw(number) };
    let family = getsockname::<SockaddrStorage>(number).ok().and_then(|name| name.family());
    let is_udp = getsockopt(&fd, sockopt::SockType) == Ok(SockType::Datagram)
        && matches!(family, Some(AddressFamily::Inet | AddressFamily::Inet6));
    is_udp || getsockopt(&fd, sockopt::AcceptConn) == Ok(true)
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;

    use super::*;

    #[test]
    fn a_listening_socket_is_found_and_a_connected_one_is_not() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let found = listening_fds().unwrap();
        assert!(found.contains(&listener.as_raw_fd()) && !found.contains(&client.as_raw_fd()));
    }
}
