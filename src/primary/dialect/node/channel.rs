//! The channel of one Node worker: lines over a `SOCK_STREAM` socket pair, at most one descriptor with each.
//!
//! What matters to libuv at the other end: a descriptor goes with the first byte of its line, one per sendmsg(2) (with
//! two in one, every later connection gets its predecessor's socket), and the rest of a line that was cut short goes
//! without it. The other way round a descriptor belongs to the next line that speaks of one: the kernel ends a receive
//! behind the bytes that it came with.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};

use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use serde::{Deserialize, Serialize};

use crate::primary::dialect::Buffer;
use crate::primary::reexec::baggage::{self, Baggage};
use crate::protocol::Wait;
use crate::sys::fd_passing;

/// The longest line of a worker. One that sends more without a line break is ended.
pub const LINE_MAX_BYTES: usize = 16 * 1024 * 1024;
/// The most descriptors of a worker that no line has spoken of yet. Node sends one, and waits until it is acknowledged.
pub const STRAY_FDS_MAX: usize = 16;
/// An input buffer that has become larger than this for one long line is given back behind it.
const INPUT_KEPT_BYTES: usize = 128 * 1024;

/// The primary's end.
#[derive(Debug)]
pub struct Channel {
    socket: OwnedFd,
    /// What was received. Lines before `read` have been read; behind it there is no line break before `searched`.
    input: Vec<u8>,
    read: usize,
    searched: usize,
    /// The last receive has emptied the socket, as far as can be told: another one is not worth its system call.
    is_empty: bool,
    /// The worker has closed its end, which only another receive can tell.
    is_closed: bool,
    /// Descriptors of lines that have not been read yet.
    fds: VecDeque<OwnedFd>,
}

/// A channel as it goes over an exec.
#[derive(Debug, Serialize, Deserialize)]
pub struct Saved {
    socket: RawFd,
    /// A character for each byte: a line may be cut inside one of UTF-8, and numbers would take long to write and read
    /// while nobody deals.
    input: String,
    fds: Vec<RawFd>,
}

/// What a receive brought.
#[derive(Debug, PartialEq, Eq)]
pub enum Received {
    /// Bytes: there may be lines now.
    Bytes,
    /// Nothing, for now.
    Nothing,
    /// The worker has closed its end.
    End,
    /// More than any Node sends: end the worker.
    TooMuch(&'static str),
}

impl Channel {
    /// A new pair: the primary's end and the worker's, which Node makes non-blocking itself. Both close on exec.
    ///
    /// # Errors
    /// `EMFILE`/`ENFILE`: try again later.
    pub fn pair() -> io::Result<(Self, OwnedFd)> {
        let (ours, theirs) = socketpair(AddressFamily::Unix, SockType::Stream, None, SockFlag::SOCK_CLOEXEC)?;
        Ok((Self::of(ours), theirs))
    }

    fn of(socket: OwnedFd) -> Self {
        let (is_empty, is_closed) = (false, false);
        Self { socket, input: Vec::new(), read: 0, searched: 0, is_empty, is_closed, fds: VecDeque::new() }
    }

    /// What the next image needs to go on with it.
    pub fn save(&self, baggage: &mut Baggage) -> Saved {
        Saved {
            socket: baggage.pack(self.socket.as_fd()),
            input: self.input[self.read..].iter().copied().map(char::from).collect(),
            fds: self.fds.iter().map(|fd| baggage.pack(fd.as_fd())).collect(),
        }
    }

    /// Goes on with it.
    ///
    /// # Errors
    /// As [`baggage::unpack`]; `InvalidData` if what was received is none.
    pub fn restore(saved: Saved) -> io::Result<Self> {
        let fds = saved.fds.into_iter().map(baggage::unpack).collect::<io::Result<_>>()?;
        let bytes = saved.input.chars().map(|it| u8::try_from(it).map_err(|_| io::ErrorKind::InvalidData.into()));
        let input = bytes.collect::<io::Result<_>>()?;
        Ok(Self { input, fds, ..Self::of(baggage::unpack(saved.socket)?) })
    }

    /// It has become readable; if the worker has closed its end, to the end.
    pub fn has_become_readable(&mut self, is_closed: bool) {
        self.is_empty = false;
        self.is_closed |= is_closed;
    }

    /// Receives what there is, at most a buffer full. After [`Received::Nothing`], wait until the channel is readable.
    pub fn receive(&mut self, buffer: &mut Buffer) -> Received {
        self.forget_what_was_read();
        if std::mem::take(&mut self.is_empty) {
            return Received::Nothing;
        }
        let received = match fd_passing::receive(self.socket.as_fd(), &mut buffer.0, Wait::Never) {
            Ok(received) => received,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Received::Nothing,
            // The worker left with lines of ours unread; what it said before is still there.
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Received::Bytes,
            Err(_) => return Received::End,
        };
        if received.len == 0 {
            return Received::End;
        }
        self.is_empty = has_emptied(&received, buffer.0.len()) && !self.is_closed;
        self.fds.extend(received.fd);
        self.input.extend_from_slice(&buffer.0[..received.len]);
        if self.input.len() > LINE_MAX_BYTES {
            return Received::TooMuch("it sent a line of more than 16 MiB");
        }
        if self.fds.len() > STRAY_FDS_MAX {
            return Received::TooMuch("it sent descriptors that no message speaks of");
        }
        Received::Bytes
    }

    fn forget_what_was_read(&mut self) {
        self.searched -= self.read;
        self.input.drain(..std::mem::take(&mut self.read));
        if self.input.is_empty() && self.input.capacity() > INPUT_KEPT_BYTES {
            self.input = Vec::new();
        }
    }

    /// The next whole line that was received, without its line break.
    pub fn next_line(&mut self) -> Option<&[u8]> {
        let unsearched = &self.input[self.searched..];
        let Some(at) = unsearched.iter().position(|byte| *byte == b'\n') else {
            self.searched = self.input.len();
            return None;
        };
        let (begin, end) = (self.read, self.searched + at);
        self.read = end + 1;
        self.searched = self.read;
        Some(&self.input[begin..end])
    }

    /// The descriptor that came with the line that was read last, if it spoke of one.
    pub fn take_fd(&mut self) -> Option<OwnedFd> {
        self.fds.pop_front()
    }

    /// Sends as much of `bytes` as there is room for, with `fd` attached to the first of them. Returns how much.
    ///
    /// # Errors
    /// `WouldBlock`: nothing was sent, the channel becomes writable. `EPIPE`: the worker has closed its end.
    /// `ETOOMANYREFS`: this user has too many descriptors in flight.
    pub fn send(&self, bytes: &[u8], fd: Option<BorrowedFd<'_>>) -> io::Result<usize> {
        fd_passing::send_some(self.socket.as_fd(), bytes, fd)
    }
}

/// Whether nothing was left behind what was received. The kernel ends a receive behind a descriptor, also behind one
/// that it had to drop, with more to come. Otherwise it goes on to the last byte.
fn has_emptied(received: &fd_passing::Received, room_bytes: usize) -> bool {
    received.len < room_bytes && received.fd.is_none() && !received.lost_fd
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::IntoRawFd;

    use super::*;

    #[test]
    fn a_line_that_is_cut_anywhere_is_whole_again_after_an_upgrade() {
        let line: Vec<u8> = (0..=u8::MAX).filter(|byte| *byte != b'\n').chain("\u{fffd}ä".bytes()).collect();
        for cut in [0, 1, 130, line.len() - 1, line.len()] {
            let (mut before, worker) = Channel::pair().unwrap();
            fd_passing::send_some(worker.as_fd(), &[b"read\n", &line[..cut]].concat(), None).unwrap();
            assert_eq!(before.receive(&mut Buffer::default()), Received::Bytes);
            assert_eq!(before.next_line(), Some(&b"read"[..]));
            let saved = serde_json::to_string(&before.save(&mut Baggage::default())).unwrap();
            let socket = before.socket.into_raw_fd();
            let saved = Saved { socket, ..serde_json::from_str(&saved).unwrap() };
            let mut after = Channel::restore(saved).unwrap();
            assert_eq!(after.next_line(), None);
            fd_passing::send_some(worker.as_fd(), &[&line[cut..], b"\n"].concat(), None).unwrap();
            assert_eq!(after.receive(&mut Buffer::default()), Received::Bytes);
            assert_eq!(after.next_line(), Some(&line[..]));
        }
    }

    #[test]
    fn there_may_be_more_behind_a_descriptor_also_where_there_was_no_room_for_it() {
        let received = |len, lost_fd| fd_passing::Received { len, truncated: false, fd: None, lost_fd };
        assert!(has_emptied(&received(9, false), 10));
        assert!(!has_emptied(&received(10, false), 10));
        assert!(!has_emptied(&received(9, true), 10));
    }
}
