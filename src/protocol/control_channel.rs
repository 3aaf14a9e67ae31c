//! The control channel: a `SOCK_SEQPACKET` socket pair, one packet per message, at most one descriptor with each.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use serde::Serialize;

use super::control::{self, Malformed, PACKET_MAX_BYTES, Spoken};
use crate::sys::fd_passing::{self, Wait};

/// One end of a control channel.
#[derive(Debug)]
pub struct ControlChannel {
    socket: OwnedFd,
}

/// What a receive found.
#[derive(Debug)]
pub enum Incoming<M> {
    /// A message, and the descriptor that came with it.
    Message(M, Option<OwnedFd>),
    /// A packet that is no message: end the sender.
    Malformed(Malformed),
    /// The other side has gone, or has closed its end.
    End,
}

/// What a receive found, before it is read as a message.
#[derive(Debug)]
pub enum Packet<'a> {
    /// A whole packet, and the descriptor that came with it; surplus ones are closed.
    Whole(&'a [u8], Option<OwnedFd>),
    /// A packet of more than [`PACKET_MAX_BYTES`]: end the sender.
    TooLong,
    /// The other side has gone, or has closed its end.
    End,
}

impl ControlChannel {
    /// A new pair: the primary's end and the worker's. Both close on exec.
    ///
    /// # Errors
    /// `EMFILE`/`ENFILE`: try again later.
    pub fn pair() -> io::Result<(Self, OwnedFd)> {
        let (ours, theirs) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?;
        Ok((Self { socket: ours }, theirs))
    }

    /// The end that this process was given.
    pub fn from_fd(socket: OwnedFd) -> Self {
        Self { socket }
    }

    /// Sends a message without sleeping; `fd` stays the caller's.
    ///
    /// # Errors
    /// `WouldBlock` if the other side does not read; `EPIPE`/`ECONNRESET` if it has gone; `EMSGSIZE` above
    /// [`PACKET_MAX_BYTES`].
    pub fn send<M: Serialize>(&self, message: &M, fd: Option<BorrowedFd<'_>>) -> io::Result<()> {
        self.send_packet(&control::encode(message), fd, Wait::Never)
    }

    /// Sends a message and sleeps while the other side does not read.
    ///
    /// # Errors
    /// As [`send`](Self::send), without `WouldBlock`.
    pub fn send_blocking<M: Serialize>(&self, message: &M) -> io::Result<()> {
        self.send_packet(&control::encode(message), None, Wait::Block)
    }

    /// Sends what [`encode`](control::encode) made of a message; `fd` stays the caller's.
    ///
    /// # Errors
    /// As [`send`](Self::send), without `WouldBlock` if it may sleep.
    pub fn send_packet(&self, packet: &[u8], fd: Option<BorrowedFd<'_>>, wait: Wait) -> io::Result<()> {
        if packet.len() > PACKET_MAX_BYTES {
            return Err(io::Error::from_raw_os_error(nix::libc::EMSGSIZE));
        }
        match wait {
            Wait::Never => fd_passing::send(self.socket.as_fd(), packet, fd),
            Wait::Block => fd_passing::send_blocking(self.socket.as_fd(), packet, fd),
        }
    }

    /// The next message. `buffer` must hold [`PACKET_MAX_BYTES`].
    ///
    /// # Errors
    /// `WouldBlock` with [`Wait::Never`] when there is none. Others end the channel.
    pub fn receive<M: Spoken>(&self, buffer: &mut [u8], wait: Wait) -> io::Result<Incoming<M>> {
        Ok(match self.receive_packet(buffer, wait)? {
            Packet::Whole(packet, fd) => match control::decode(packet) {
                Ok(message) => Incoming::Message(message, fd),
                Err(malformed) => Incoming::Malformed(malformed),
            },
            Packet::TooLong => Incoming::Malformed(Malformed::too_long()),
            Packet::End => Incoming::End,
        })
    }

    /// The next packet. As [`receive`](Self::receive).
    ///
    /// # Errors
    /// As [`receive`](Self::receive).
    pub fn receive_packet<'a>(&self, buffer: &'a mut [u8], wait: Wait) -> io::Result<Packet<'a>> {
        let received = match fd_passing::receive(self.socket.as_fd(), buffer, wait) {
            // The other side left with messages of ours unread. Only 0 bytes are the end: what it said before is
            // still queued here.
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {
                fd_passing::receive(self.socket.as_fd(), buffer, wait)?
            }
            other => other?,
        };
        let is_end = received.len == 0 && fd_passing::peer_has_ended(self.socket.as_fd())?;
        if !is_end && !received.truncated {
            return Ok(Packet::Whole(&buffer[..received.len], received.fd));
        }
        if let Some(unasked) = received.fd {
            fd_passing::close_at_once(unasked);
        }
        Ok(if is_end { Packet::End } else { Packet::TooLong })
    }
}

impl AsFd for ControlChannel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::control::FromWorker;
    use crate::protocol::ids::LaneId;

    fn receive(channel: &ControlChannel) -> io::Result<Incoming<FromWorker>> {
        channel.receive(&mut [0; PACKET_MAX_BYTES], Wait::Never)
    }

    #[test]
    fn what_was_said_before_the_end_is_still_heard() {
        let (primary, worker) = ControlChannel::pair().unwrap();
        let worker = ControlChannel::from_fd(worker);
        worker.send(&FromWorker::Close { lane: LaneId(1) }, None).unwrap();
        primary.send(&FromWorker::Unknown, None).unwrap();
        drop(worker); // with a message of the primary unread: the kernel reports ECONNRESET once
        assert!(matches!(receive(&primary), Ok(Incoming::Message(FromWorker::Close { .. }, None))));
        assert!(matches!(receive(&primary), Ok(Incoming::End)));
    }

    #[test]
    fn an_empty_packet_is_malformed_and_not_the_end() {
        let (primary, worker) = ControlChannel::pair().unwrap();
        fd_passing::send(worker.as_fd(), &[], None).unwrap();
        assert!(matches!(receive(&primary), Ok(Incoming::Malformed(_))));
        assert_eq!(receive(&primary).unwrap_err().kind(), io::ErrorKind::WouldBlock);
    }

    #[test]
    fn a_packet_over_the_limit_is_malformed() {
        let (primary, worker) = ControlChannel::pair().unwrap();
        fd_passing::send(worker.as_fd(), &[b' '; PACKET_MAX_BYTES + 1], None).unwrap();
        assert!(matches!(receive(&primary), Ok(Incoming::Malformed(_))));
    }
}
