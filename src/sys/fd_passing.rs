//! Messages with a file descriptor attached, over Unix sockets (`SCM_RIGHTS`).
//!
//! nix's `sendmsg`/`recvmsg` are not used here: they allocate for every message, and on `MSG_CTRUNC` they return
//! an error and leak the descriptors that were installed (nix 0.29 to 0.31).

use std::io;
use std::mem::{self, MaybeUninit};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;

use nix::libc;

/// The most descriptors that one message can carry (`SCM_MAX_FD` of the kernel; unix(7)).
const KERNEL_FDS_MAX: usize = 253;

/// Room for the control message of one descriptor, and of the kernel's maximum. `CMSG_SPACE` is pure arithmetic.
// SAFETY: CMSG_SPACE reads no memory.
const SEND_CONTROL_BYTES: usize = unsafe { libc::CMSG_SPACE(mem::size_of::<RawFd>() as u32) } as usize;
// SAFETY: as above.
const RECEIVE_CONTROL_BYTES: usize =
    unsafe { libc::CMSG_SPACE((KERNEL_FDS_MAX * mem::size_of::<RawFd>()) as u32) } as usize;

/// A control buffer, aligned as the kernel's `cmsghdr` wants it.
#[repr(C)]
struct Control<const N: usize> {
    _align: [libc::cmsghdr; 0],
    bytes: [u8; N],
}

/// Whether a receive may sleep until a message comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wait {
    /// Sleep until there is a message or the end.
    Block,
    /// Return `WouldBlock` at once when there is nothing (`MSG_DONTWAIT`; the socket's own flag is not touched).
    Never,
}

/// What one receive brought.
#[derive(Debug)]
pub struct Received {
    /// Bytes of the message in the buffer. 0 means the end of the stream, or an empty packet.
    pub len: usize,
    /// The message was longer than the buffer; the rest is gone (`MSG_TRUNC`).
    pub truncated: bool,
    /// The first descriptor that came with it; surplus ones have been closed. `None` although one was sent: see
    /// `lost_fd`.
    pub fd: Option<OwnedFd>,
    /// This process had no room for a descriptor that was sent, and it is gone (`MSG_CTRUNC`).
    pub lost_fd: bool,
}

/// Sends `bytes` as one message, with `fd` attached if there is one. Never sleeps. `fd` is borrowed: the caller
/// still owns it, whatever the result.
///
/// # Errors
/// `WouldBlock` if the receiver's queue is full: nothing was sent, deal to the next worker.
/// `EPIPE`/`ECONNRESET` if the peer is gone. `ETOOMANYREFS` if this user has too many descriptors in flight:
/// nothing was sent, try later. Source: sendmsg(2), unix(7).
pub fn send(socket: BorrowedFd<'_>, bytes: &[u8], fd: Option<BorrowedFd<'_>>) -> io::Result<()> {
    send_with(socket, bytes, fd, libc::MSG_DONTWAIT).map(drop)
}

/// Sends as much of `bytes` over a stream socket as there is room for, with `fd` attached to the first of them, and
/// returns how much that was. Never sleeps. `fd` is borrowed. What is left goes without it.
///
/// # Errors
/// As [`send`].
pub fn send_some(socket: BorrowedFd<'_>, bytes: &[u8], fd: Option<BorrowedFd<'_>>) -> io::Result<usize> {
    send_with(socket, bytes, fd, libc::MSG_DONTWAIT)
}

/// Like [`send`], but sleeps while the receiver's queue is full.
///
/// # Errors
/// As [`send`], without `WouldBlock` (unless the socket itself is non-blocking).
pub fn send_blocking(socket: BorrowedFd<'_>, bytes: &[u8], fd: Option<BorrowedFd<'_>>) -> io::Result<()> {
    send_with(socket, bytes, fd, 0).map(drop)
}

fn send_with(socket: BorrowedFd<'_>, bytes: &[u8], fd: Option<BorrowedFd<'_>>, flags: i32) -> io::Result<usize> {
    let mut control = Control { _align: [], bytes: [0u8; SEND_CONTROL_BYTES] };
    let mut iov = libc::iovec { iov_base: bytes.as_ptr() as *mut libc::c_void, iov_len: bytes.len() };
    // SAFETY: a msghdr of zeroes is a valid empty one.
    let mut message: libc::msghdr = unsafe { mem::zeroed() };
    message.msg_iov = &mut iov;
    message.msg_iovlen = 1;
    if let Some(fd) = fd {
        message.msg_control = control.bytes.as_mut_ptr().cast();
        message.msg_controllen = SEND_CONTROL_BYTES as _;
        // SAFETY: the control buffer is aligned and has room for exactly one header with one descriptor, so
        // CMSG_FIRSTHDR is not null and CMSG_DATA points at four writable bytes inside the buffer.
        unsafe {
            let header = libc::CMSG_FIRSTHDR(&message);
            (*header).cmsg_level = libc::SOL_SOCKET;
            (*header).cmsg_type = libc::SCM_RIGHTS;
            (*header).cmsg_len = libc::CMSG_LEN(mem::size_of::<RawFd>() as u32) as _;
            ptr::write_unaligned(libc::CMSG_DATA(header).cast(), fd.as_raw_fd());
        }
    }
    loop {
        // SAFETY: message points at live buffers with their true lengths; the kernel only reads them.
        let sent = unsafe { libc::sendmsg(socket.as_raw_fd(), &message, libc::MSG_NOSIGNAL | flags) };
        if sent >= 0 {
            return Ok(sent as usize);
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}

/// Receives one message into `buffer`, with at most one descriptor (close-on-exec); surplus ones are closed.
///
/// The buffers on the stack are written just before the call: a page fault inside `recvmsg` would hold the lock of
/// the socket's queue, and with it the other process that reads the same queue.
///
/// # Errors
/// `WouldBlock` with [`Wait::Never`] when there is nothing. `ConnectionReset` once when the peer went away with
/// unread messages of ours: receive again, what is queued here is still there. Source: recvmsg(2), unix(7).
pub fn receive(socket: BorrowedFd<'_>, buffer: &mut [u8], wait: Wait) -> io::Result<Received> {
    let mut control = Control { _align: [], bytes: [0u8; RECEIVE_CONTROL_BYTES] };
    if let Some(first) = buffer.first_mut() {
        *first = 0;
    }
    let mut iov = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    // SAFETY: a msghdr of zeroes is a valid empty one.
    let mut message: libc::msghdr = unsafe { mem::zeroed() };
    message.msg_iov = &mut iov;
    message.msg_iovlen = 1;
    message.msg_control = control.bytes.as_mut_ptr().cast();
    message.msg_controllen = RECEIVE_CONTROL_BYTES as _;
    let flags = libc::MSG_CMSG_CLOEXEC
        | match wait {
            Wait::Block => 0,
            Wait::Never => libc::MSG_DONTWAIT,
        };
    let len = loop {
        // SAFETY: message points at live, writable buffers with their true lengths.
        let len = unsafe { libc::recvmsg(socket.as_raw_fd(), &mut message, flags) };
        if len >= 0 {
            break len as usize;
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    };
    let fd = take_fds(&message);
    let has_flag = |flag| message.msg_flags & flag != 0;
    Ok(Received { len, truncated: has_flag(libc::MSG_TRUNC), fd, lost_fd: has_flag(libc::MSG_CTRUNC) })
}

/// Owns every descriptor that the kernel installed for `message`; returns the first, closes the others.
fn take_fds(message: &libc::msghdr) -> Option<OwnedFd> {
    let mut first = None;
    // SAFETY: message was filled by a successful recvmsg and its control buffer is still alive, so the CMSG macros
    // walk inside it. Each SCM_RIGHTS number is a descriptor that is now this process's and nobody else's.
    unsafe {
        let mut header = libc::CMSG_FIRSTHDR(message);
        while !header.is_null() {
            if (*header).cmsg_level == libc::SOL_SOCKET && (*header).cmsg_type == libc::SCM_RIGHTS {
                let data: *const RawFd = libc::CMSG_DATA(header).cast();
                let bytes = (*header).cmsg_len as usize - libc::CMSG_LEN(0) as usize;
                for index in 0..bytes / mem::size_of::<RawFd>() {
                    let fd = OwnedFd::from_raw_fd(ptr::read_unaligned(data.add(index)));
                    match first {
                        None => first = Some(fd),
                        Some(_) => close_at_once(fd),
                    }
                }
            }
            header = libc::CMSG_NXTHDR(message, header);
        }
    }
    first
}

/// Closes a descriptor that somebody else has sent. If it is a socket that lingers, close(2) alone may sleep until its
/// data is acknowledged (measured: 3 s). Source: SO_LINGER in socket(7).
pub fn close_at_once(fd: OwnedFd) {
    // ENOTSOCK: then it does not linger.
    let _ = socket2::SockRef::from(&fd).set_linger(None);
}

/// Whether the peer of a stream or seqpacket socket has shut down or closed its sending side.
///
/// A receive of 0 bytes on a seqpacket socket is the end only if this says so too; an empty packet looks the same.
///
/// # Errors
/// Those of poll(2).
pub fn peer_has_ended(socket: BorrowedFd<'_>) -> io::Result<bool> {
    // Not nix's poll: its flags do not know POLLRDHUP, and it then reports no flags at all.
    let mut entry = libc::pollfd { fd: socket.as_raw_fd(), events: libc::POLLRDHUP, revents: 0 };
    // SAFETY: one live entry, and it does not sleep.
    if unsafe { libc::poll(&mut entry, 1, 0) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(entry.revents & (libc::POLLRDHUP | libc::POLLHUP) != 0)
}

/// Whether this process could install one more descriptor right now (it may not be able to a moment later).
pub fn has_spare_fd(socket: BorrowedFd<'_>) -> bool {
    socket.try_clone_to_owned().is_ok()
}

/// Bytes that wait in the receive queue of `socket`. Source: `SIOCINQ` in unix(7).
///
/// # Errors
/// Those of ioctl(2).
pub fn queued_bytes(socket: BorrowedFd<'_>) -> io::Result<usize> {
    let mut bytes = MaybeUninit::<libc::c_int>::uninit();
    // SAFETY: FIONREAD writes one int through the pointer.
    if unsafe { libc::ioctl(socket.as_raw_fd(), libc::FIONREAD, bytes.as_mut_ptr()) } < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the ioctl succeeded, so it has written the value.
    Ok(unsafe { bytes.assume_init() } as usize)
}

/// Takes ownership of a descriptor that this process inherited under a known number.
///
/// The caller must be the only one who does that with this number: call it once, at start-up.
///
/// # Errors
/// `EBADF` if nothing is open under that number.
pub fn adopt_fd(number: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: fcntl on an integer.
    if number < 0 || unsafe { libc::fcntl(number, libc::F_GETFD) } < 0 {
        return Err(io::Error::from_raw_os_error(libc::EBADF));
    }
    // SAFETY: it is open, and that nobody else owns it is the documented duty of the caller.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// Whether the descriptor with this number closes on exec.
///
/// # Errors
/// `EBADF` if nothing is open under that number.
pub fn set_close_on_exec(number: RawFd, close: bool) -> io::Result<()> {
    // SAFETY: fcntl on an integer; it changes a flag of this process's descriptor table and nothing in memory.
    if unsafe { libc::fcntl(number, libc::F_SETFD, if close { libc::FD_CLOEXEC } else { 0 }) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};

    use super::*;

    fn pair() -> (OwnedFd, OwnedFd) {
        socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC).unwrap()
    }

    #[test]
    fn a_message_arrives_whole_with_its_descriptor() {
        let (ours, theirs) = pair();
        let (passed, _other) = pair();
        send(ours.as_fd(), b"record", Some(passed.as_fd())).unwrap();
        let mut buffer = [0; 16];
        let received = receive(theirs.as_fd(), &mut buffer, Wait::Never).unwrap();
        assert_eq!(&buffer[..received.len], b"record");
        assert!(received.fd.is_some() && !received.truncated);
    }

    #[test]
    fn a_longer_message_is_reported_as_truncated() {
        let (ours, theirs) = pair();
        send(ours.as_fd(), &[7; 32], None).unwrap();
        let mut buffer = [0; 16];
        let received = receive(theirs.as_fd(), &mut buffer, Wait::Never).unwrap();
        assert!(received.truncated);
    }

    #[test]
    fn an_empty_packet_is_told_apart_from_the_end() {
        let (ours, theirs) = pair();
        send(ours.as_fd(), &[], None).unwrap();
        let mut buffer = [0; 16];
        assert_eq!(receive(theirs.as_fd(), &mut buffer, Wait::Never).unwrap().len, 0);
        assert!(!peer_has_ended(theirs.as_fd()).unwrap());
        drop(ours);
        assert_eq!(receive(theirs.as_fd(), &mut buffer, Wait::Never).unwrap().len, 0);
        assert!(peer_has_ended(theirs.as_fd()).unwrap());
    }

    #[test]
    fn a_full_queue_says_would_block_and_sends_nothing() {
        let (ours, theirs) = pair();
        let mut sent = 0;
        let error = loop {
            match send(ours.as_fd(), &[1; 48], None) {
                Ok(()) => sent += 1,
                Err(error) => break error,
            }
        };
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
        assert_eq!(queued_bytes(theirs.as_fd()).unwrap(), sent * 48);
    }
}
