//! The deal channel of one lane: a `SOCK_SEQPACKET` socket pair on which one message is one connection.
//!
//! It polls like a listening socket: readable means that a connection waits. SEQPACKET, because STREAM merges a
//! short message with the next one, and DGRAM hides that the peer has gone. Only single receives and sends happen
//! here; the primary's copy of the worker's end (the retained end) is a [`WorkerEnd`] too.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, Shutdown, SockFlag, SockType, shutdown, socketpair};

use super::record::{Kind, RECORD_BYTES, Record};
use crate::sys::fd_passing::{self, Wait};

/// The byte that a worker sends up to say "there is room again".
const KICK: u8 = 1;

/// The end on which the primary deals and hears kicks.
#[derive(Debug)]
pub struct PrimaryEnd {
    socket: OwnedFd,
}

/// The end on which the worker takes; the primary keeps a duplicate, the retained end, from which it can receive
/// back what the worker has not taken.
#[derive(Debug)]
pub struct WorkerEnd {
    socket: OwnedFd,
}

/// What a take found.
#[derive(Debug)]
pub enum Took {
    /// A connection. It is in non-blocking mode.
    Connection(Record, OwnedFd),
    /// A probe: answer with a kick and take again.
    Probe,
    /// The listener's own socket: the lane is a shared one.
    Socket(OwnedFd),
    /// The message came but its descriptor could not be installed: this process has none left, and the connection
    /// is gone. Count it, say it, and leave more descriptors free.
    Lost(Record),
    /// The primary has ended the lane (or itself), and everything that was queued has been taken.
    End,
}

/// What a worker sent up.
#[derive(Debug)]
pub enum FromBelow {
    /// There is room again, or something else on the scoreboard is worth a look.
    Kick,
    /// A live connection that it does not want, or cannot keep.
    GivenBack(Record, OwnedFd),
    /// A connection that came back while this process had no descriptor left for it: it is gone.
    Lost(Record),
    /// Nothing that this version knows: end the worker.
    Malformed,
}

/// A new deal channel.
///
/// # Errors
/// `EMFILE`/`ENFILE`: try again later.
pub fn pair() -> io::Result<(PrimaryEnd, WorkerEnd)> {
    let (primary, worker) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?;
    Ok((PrimaryEnd { socket: primary }, WorkerEnd { socket: worker }))
}

impl PrimaryEnd {
    /// The end that an earlier image of this process made.
    pub fn from_fd(socket: OwnedFd) -> Self {
        Self { socket }
    }

    /// Deals one connection. `connection` is borrowed: close it after success, the worker (or the queue) has its own.
    ///
    /// # Errors
    /// `WouldBlock`: the socket's queue is full. `EPIPE`/`ECONNRESET`: the worker's end is closed everywhere.
    /// `ETOOMANYREFS`/`ENOBUFS`/`ENOMEM`: this user has too much in flight, keep the connection and try later.
    pub fn deal(&self, record: &Record, connection: BorrowedFd<'_>) -> io::Result<()> {
        fd_passing::send(self.socket.as_fd(), &record.encode(), Some(connection))
    }

    /// How many bytes wait here. Less than [`RECORD_BYTES`]: kicks only, and as many as that.
    pub fn unheard_bytes(&self) -> usize {
        fd_passing::queued_bytes(self.socket.as_fd()).unwrap_or(0)
    }

    /// What the worker sent up, or `None` when there is nothing more. Look for a spare descriptor first if
    /// [`unheard_bytes`](Self::unheard_bytes) says that a connection may be among it.
    pub fn hear(&self) -> Option<FromBelow> {
        let mut bytes = [0; RECORD_BYTES + 1];
        let received = loop {
            match fd_passing::receive(self.socket.as_fd(), &mut bytes, Wait::Never) {
                // The worker's end is gone while it had unread messages: what it sent up is still queued.
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => continue,
                Err(_) => return None,
                Ok(received) => break received,
            }
        };
        match (&bytes[..received.len], received.fd) {
            ([], None) if fd_passing::peer_has_ended(self.socket.as_fd()).unwrap_or(true) => None,
            ([KICK], None) => Some(FromBelow::Kick),
            (record, fd) => match (Record::decode(record), fd) {
                (Ok(record), Some(fd)) if record.kind == Kind::Connection => Some(FromBelow::GivenBack(record, fd)),
                (Ok(record), None) if record.kind == Kind::Connection => Some(FromBelow::Lost(record)),
                (_, fd) => {
                    if let Some(unasked) = fd {
                        fd_passing::close_at_once(unasked);
                    }
                    Some(FromBelow::Malformed)
                }
            },
        }
    }

    /// The record at the head of what the worker sent up, left there; kicks before it are thrown away. `None` when
    /// there is none.
    pub fn peek(&self) -> Option<Record> {
        loop {
            let mut bytes = [0; RECORD_BYTES + 1];
            let len = peek_bytes(&self.socket, &mut bytes)?;
            match Record::decode(&bytes[..len]) {
                Ok(record) => return Some(record),
                Err(_) if len == 0 => return None,
                Err(_) => drop(self.hear()),
            }
        }
    }

    /// Asks whether the worker is awake: the library answers with a kick.
    ///
    /// # Errors
    /// As [`deal`](Self::deal).
    pub fn probe(&self) -> io::Result<()> {
        fd_passing::send(self.socket.as_fd(), &Record::probe().encode(), None)
    }

    /// Ends the lane in band: the worker takes what is queued, then sees [`Took::End`].
    pub fn end(&self) {
        // ENOTCONN: the other end has gone already, which is the same end.
        let _ = shutdown(self.socket.as_raw_fd(), Shutdown::Write);
    }
}

impl WorkerEnd {
    /// The end that arrived with the answer to `listen`.
    pub fn from_fd(socket: OwnedFd) -> Self {
        Self { socket }
    }

    /// Takes the next connection.
    ///
    /// # Errors
    /// `WouldBlock` with [`Wait::Never`] when none waits. `InvalidData` for a record of another version. `EMFILE` if
    /// the listener's own socket came and found no descriptor.
    pub fn take(&self, wait: Wait) -> io::Result<Took> {
        let mut bytes = [0; RECORD_BYTES];
        let received = loop {
            match fd_passing::receive(self.socket.as_fd(), &mut bytes, wait) {
                // An unread kick makes ECONNRESET come before the messages that are still queued: only 0 is the end.
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => continue,
                other => break other?,
            }
        };
        if received.len == 0 {
            return Ok(Took::End);
        }
        let bad = || io::Error::new(io::ErrorKind::InvalidData, "deal record of another version");
        let record = Record::decode(&bytes[..received.len]).map_err(|_| bad())?;
        match (record.kind, received.fd) {
            (Kind::Connection, Some(fd)) => Ok(Took::Connection(record, fd)),
            (Kind::Connection, None) => Ok(Took::Lost(record)),
            (Kind::Probe, _) => Ok(Took::Probe),
            (Kind::Socket, Some(fd)) => Ok(Took::Socket(fd)),
            (Kind::Socket, None) => Err(io::Error::from_raw_os_error(Errno::EMFILE as i32)),
        }
    }

    /// Tells the primary that there is room again. A full channel is no error: it is full of unread kicks.
    pub fn kick(&self) {
        let _ = fd_passing::send(self.socket.as_fd(), &[KICK], None);
    }

    /// The record at the head of the queue, left there. `None` when the queue is empty or its head is no record.
    pub fn peek(&self) -> Option<Record> {
        let mut bytes = [0; RECORD_BYTES];
        let len = peek_bytes(&self.socket, &mut bytes)?;
        Record::decode(&bytes[..len]).ok()
    }

    /// Returns a live connection to the primary. `connection` is borrowed: close it after success.
    ///
    /// # Errors
    /// `WouldBlock`: the primary has too much to read, try again. `EPIPE`/`ECONNRESET`: it has gone.
    /// `ETOOMANYREFS`: this user has too much in flight, try again.
    pub fn give_back(&self, record: &Record, connection: BorrowedFd<'_>) -> io::Result<()> {
        let record = Record { given_back: true, ..*record };
        fd_passing::send(self.socket.as_fd(), &record.encode(), Some(connection))
    }

    /// How many messages are queued: the kernel's own count of what is untaken.
    pub fn untaken(&self) -> usize {
        fd_passing::queued_bytes(self.socket.as_fd()).map_or(0, |bytes| bytes / RECORD_BYTES)
    }

    /// Ends the channel in both directions, for every process that holds this end: nothing more comes in, what is
    /// queued can still be taken, and everyone who is blocked in a take wakes up.
    pub fn end(&self) {
        let _ = shutdown(self.socket.as_raw_fd(), Shutdown::Both);
    }
}

/// A plain recv has no room for descriptors, so that peeking installs none.
fn peek_bytes(socket: &OwnedFd, bytes: &mut [u8]) -> Option<usize> {
    use nix::sys::socket::{MsgFlags, recv};
    loop {
        match recv(socket.as_raw_fd(), bytes, MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT) {
            // Reported once, before what is queued.
            Err(Errno::ECONNRESET) => continue,
            other => return other.ok(),
        }
    }
}

impl AsFd for PrimaryEnd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl AsFd for WorkerEnd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::protocol::time::Monotonic;

    fn record(sequence: u64) -> Record {
        Record { kind: Kind::Connection, sequence, accepted: Monotonic { ns: 5 }, ..Record::probe() }
    }

    fn some_fd() -> OwnedFd {
        std::fs::File::open("/dev/null").unwrap().into()
    }

    #[test]
    fn the_end_comes_after_everything_that_was_dealt() {
        let (primary, worker) = pair().unwrap();
        let fd = some_fd();
        for sequence in 0..3 {
            primary.deal(&record(sequence), fd.as_fd()).unwrap();
        }
        worker.kick(); // unread: must not hide what is queued
        primary.end();
        drop(primary);
        for sequence in 0..3 {
            let took = worker.take(Wait::Never).unwrap();
            assert!(matches!(took, Took::Connection(record, _) if record.sequence == sequence), "{took:?}");
        }
        assert!(matches!(worker.take(Wait::Never).unwrap(), Took::End));
        assert!(matches!(worker.take(Wait::Block).unwrap(), Took::End), "the end stays");
    }

    #[test]
    fn the_retained_end_counts_peeks_and_takes_back_what_is_untaken() {
        let (primary, worker) = pair().unwrap();
        let retained = WorkerEnd::from_fd(worker.as_fd().try_clone_to_owned().unwrap());
        let fd = some_fd();
        for sequence in 10..15 {
            primary.deal(&record(sequence), fd.as_fd()).unwrap();
        }
        assert!(matches!(worker.take(Wait::Never).unwrap(), Took::Connection(..)));
        drop(worker);
        retained.end();
        assert_eq!(retained.untaken(), 4);
        for sequence in 11..15 {
            assert_eq!(retained.peek().unwrap().sequence, sequence);
            let took = retained.take(Wait::Never).unwrap();
            assert!(matches!(took, Took::Connection(record, _) if record.sequence == sequence), "{took:?}");
        }
        assert!(matches!(retained.take(Wait::Never).unwrap(), Took::End));
    }

    #[test]
    fn blocked_threads_all_see_the_end() {
        let (primary, worker) = pair().unwrap();
        let ended = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    assert!(matches!(worker.take(Wait::Block).unwrap(), Took::End));
                    ended.fetch_add(1, Ordering::Relaxed);
                });
            }
            primary.end();
        });
        assert_eq!(ended.into_inner(), 3);
    }

    #[test]
    fn a_kick_is_heard_and_anything_else_is_malformed() {
        let (primary, worker) = pair().unwrap();
        assert!(primary.hear().is_none());
        worker.kick();
        assert_eq!(primary.unheard_bytes(), 1);
        assert!(matches!(primary.hear(), Some(FromBelow::Kick)));
        for garbage in [&b""[..], b"garbage", &[0; RECORD_BYTES], &[1; RECORD_BYTES + 1], &Record::probe().encode()] {
            fd_passing::send(worker.as_fd(), garbage, None).unwrap();
            assert!(matches!(primary.hear(), Some(FromBelow::Malformed)), "{garbage:?}");
        }
        assert!(primary.hear().is_none());
    }

    #[test]
    fn what_is_given_back_outlives_the_worker_that_gave_it() {
        let (primary, worker) = pair().unwrap();
        let fd = some_fd();
        primary.deal(&record(1), fd.as_fd()).unwrap(); // never taken
        worker.kick();
        worker.give_back(&record(7), fd.as_fd()).unwrap();
        drop(worker);
        assert_eq!(primary.peek().map(|record| record.sequence), Some(7));
        let heard = primary.hear();
        assert!(matches!(heard, Some(FromBelow::GivenBack(record, _)) if record.given_back && record.sequence == 7));
        assert!(primary.peek().is_none() && primary.hear().is_none());
    }
}
