//! Connections that came back to a listener. They are older than anything in its backlog, so they are dealt first, in
//! the order in which they were accepted.
//!
//! Some are held by the primary: given back by a worker, or reclaimed from one that did not take. The others are still
//! in queues that a dead or finishing worker left behind: there the kernel is the store, and one is received only
//! when there is room for it and a descriptor to spare.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, OwnedFd, RawFd};
use std::time::Duration;

use nix::errno::Errno;

use crate::protocol::Wait;
use crate::protocol::deal_channel::{FromBelow, PrimaryEnd, Took, WorkerEnd};
use crate::protocol::ids::{LaneId, WorkerId};
use crate::protocol::record::Record;
use crate::protocol::time::Monotonic;
use crate::sys::fd_passing;
use serde::{Deserialize, Serialize};

use super::reexec::baggage::{self, Baggage};

/// The most connections that a listener holds. Above it no more give-backs are read: workers keep what they have.
pub const HELD_MAX: usize = 1024;

/// For so long a connection does not go back to the worker that gave it back, while another one listens. After that
/// the others are full, paused or stuck, and whoever has room may have it: better than to close it.
pub const NOT_AGAIN_FOR: Duration = Duration::from_secs(1);

/// Why a connection came back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reason {
    /// Its worker finished, or closed its listener, before it took it.
    Untaken,
    /// Its worker did not take it in time.
    Reclaimed,
    /// Its worker had taken it, and gave it back.
    GivenBack,
    /// It was never dealt: the kernel did not take the message.
    Unsent,
    /// Its worker died before it took it.
    Died,
    /// Its worker wants no connections for now, or has no descriptors for them.
    Refused,
}

impl Reason {
    /// All of them; the index of each is its number.
    pub const ALL: [Reason; 6] =
        [Reason::Untaken, Reason::Reclaimed, Reason::GivenBack, Reason::Unsent, Reason::Died, Reason::Refused];
}

/// A connection to deal.
#[derive(Debug)]
pub struct Candidate {
    /// What is known of it.
    pub record: Record,
    /// The connection.
    pub connection: OwnedFd,
    /// If it was dealt before.
    pub came_back: Option<CameBack>,
}

/// How a connection came back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct CameBack {
    /// Why.
    pub reason: Reason,
    /// When.
    pub at: Monotonic,
    /// Who had it.
    pub from: WorkerId,
    /// It does not go to `from` while somebody else listens: see [`NOT_AGAIN_FOR`].
    pub not_again: bool,
    /// It has come straight out of the queue of this lane, whose account does not know it yet.
    pub uncounted: Option<LaneId>,
}

/// The connections that came back to one listener.
#[derive(Debug, Default)]
pub struct Returned {
    /// In the order of their acceptance.
    held: VecDeque<(Record, OwnedFd, CameBack)>,
    queues: Vec<Queue>,
}

/// What a worker left behind.
#[derive(Debug)]
struct Queue {
    end: QueueEnd,
    came_back: CameBack,
}

#[derive(Debug)]
enum QueueEnd {
    /// The retained end: dealt and not taken.
    Untaken(WorkerEnd),
    /// The primary's own end: given back and not yet heard.
    GivenBack(PrimaryEnd),
}

/// Whether there is one for a certain worker.
#[derive(Debug)]
pub enum Found {
    /// This one.
    Candidate(Candidate),
    /// There are some, but this worker gave all of them back.
    NotForThisWorker,
    /// None.
    Nothing,
}

/// All of them as they go over an exec.
#[derive(Debug, Serialize, Deserialize)]
pub struct Saved {
    held: Vec<(Record, RawFd, CameBack)>,
    queues: Vec<(SavedQueue, RawFd, CameBack)>,
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
enum SavedQueue {
    Untaken,
    GivenBack,
}

impl Returned {
    /// What the next image needs to go on with them.
    pub fn save(&self, baggage: &mut Baggage) -> Saved {
        let held = self.held.iter();
        let held = held.map(|(record, connection, it)| (*record, baggage.pack(connection.as_fd()), *it)).collect();
        let queues = self.queues.iter().map(|queue| {
            let (kind, fd) = match &queue.end {
                QueueEnd::Untaken(end) => (SavedQueue::Untaken, end.as_fd()),
                QueueEnd::GivenBack(end) => (SavedQueue::GivenBack, end.as_fd()),
            };
            (kind, baggage.pack(fd), queue.came_back)
        });
        Saved { held, queues: queues.collect() }
    }

    /// Goes on with them.
    ///
    /// # Errors
    /// As [`baggage::unpack`].
    pub fn restore(saved: Saved) -> io::Result<Self> {
        let held = saved.held.into_iter().map(|(record, fd, it)| Ok((record, baggage::unpack(fd)?, it)));
        let held = held.collect::<io::Result<_>>()?;
        let queues = saved.queues.into_iter().map(|(kind, fd, came_back)| {
            let fd = baggage::unpack(fd)?;
            let end = match kind {
                SavedQueue::Untaken => QueueEnd::Untaken(WorkerEnd::from_fd(fd)),
                SavedQueue::GivenBack => QueueEnd::GivenBack(PrimaryEnd::from_fd(fd)),
            };
            Ok(Queue { end, came_back })
        });
        Ok(Self { held, queues: queues.collect::<io::Result<_>>()? })
    }

    /// Holds a connection.
    pub fn hold(&mut self, record: Record, connection: OwnedFd, came_back: CameBack) {
        let came_back = CameBack { uncounted: None, ..came_back };
        let index = self.held.partition_point(|(held, ..)| held.sequence <= record.sequence);
        self.held.insert(index, (record, connection, came_back));
    }

    /// Takes over what `from` has not taken and never will: it is dead, or its lane has ended.
    pub fn inherit_untaken(&mut self, end: WorkerEnd, from: (WorkerId, LaneId), reason: Reason, at: Monotonic) {
        let (from, lane) = from;
        let came_back = CameBack { reason, at, from, not_again: false, uncounted: Some(lane) };
        self.queues.push(Queue { end: QueueEnd::Untaken(end), came_back });
    }

    /// Takes over what `from` gave back before it died.
    pub fn inherit_given_back(&mut self, end: PrimaryEnd, from: WorkerId, at: Monotonic) {
        let came_back = CameBack { reason: Reason::GivenBack, at, from, not_again: false, uncounted: None };
        self.queues.push(Queue { end: QueueEnd::GivenBack(end), came_back });
    }

    /// How many are still in the queue that this lane left behind.
    pub fn untaken_of(&self, worker: WorkerId, lane: LaneId) -> usize {
        let is_its = |queue: &&Queue| queue.came_back.from == worker && queue.came_back.uncounted == Some(lane);
        self.queues.iter().filter(is_its).map(Queue::len).sum()
    }

    /// Nothing is held and no queue is left.
    pub fn is_empty(&self) -> bool {
        self.held.is_empty() && self.queues.is_empty()
    }

    /// How many are held. What waits in queues that workers left behind is not counted.
    pub fn held_count(&self) -> usize {
        self.held.len()
    }

    /// Whether another one may be held.
    pub fn may_hold_more(&self) -> bool {
        self.held.len() < HELD_MAX
    }

    /// The oldest one; but not of those that `giver` gave back, which wait for somebody else.
    ///
    /// # Errors
    /// `EMFILE`, `ENOMEM`: there is nothing to receive it with. It stays in its queue; again later.
    pub fn next_but_from(&mut self, giver: Option<WorkerId>) -> io::Result<Found> {
        let may_go = |it: &CameBack| !it.not_again || Some(it.from) != giver;
        loop {
            let held = self.held.iter().enumerate().find(|(_, (.., came_back))| may_go(came_back));
            let held = held.map(|(index, (record, ..))| (record.sequence, index));
            let queues = self.queues.iter().enumerate().filter(|(_, queue)| may_go(&queue.came_back));
            let queued = queues.map(|(index, queue)| (queue.head_sequence(), index)).min();
            let candidate = match (held, queued) {
                (Some((held, _)), Some((queued, index))) if queued < held => self.receive(index)?,
                (Some((_, index)), _) => self.take_held(index),
                (None, Some((_, index))) => self.receive(index)?,
                (None, None) if self.is_empty() => return Ok(Found::Nothing),
                (None, None) => return Ok(Found::NotForThisWorker),
            };
            if let Some(candidate) = candidate {
                return Ok(Found::Candidate(candidate));
            }
        }
    }

    fn take_held(&mut self, index: usize) -> Option<Candidate> {
        let (record, connection, came_back) = self.held.remove(index)?;
        Some(Candidate { record, connection, came_back: Some(came_back) })
    }

    /// Receives the head of a queue. `None`: the queue has come to its end and is gone.
    fn receive(&mut self, index: usize) -> io::Result<Option<Candidate>> {
        match self.queues[index].receive()? {
            Some(candidate) => Ok(Some(candidate)),
            None => {
                self.queues.swap_remove(index);
                Ok(None)
            }
        }
    }

    /// When something is due: the end of [`NOT_AGAIN_FOR`], or that one has waited for `timeout`.
    pub fn deadline(&self, timeout: Duration) -> Option<Monotonic> {
        let held = self.held.iter().map(|(.., came_back)| came_back);
        let all = held.chain(self.queues.iter().map(|queue| &queue.came_back));
        all.map(|it| it.at + if it.not_again { timeout.min(NOT_AGAIN_FOR) } else { timeout }).min()
    }

    /// Closes those that have waited for `timeout`. Returns where each came from.
    pub fn expire(&mut self, timeout: Duration, now: Monotonic) -> Vec<CameBack> {
        let is_over = |came_back: &CameBack| now >= came_back.at + timeout;
        for (.., came_back) in &mut self.held {
            came_back.not_again &= now < came_back.at + NOT_AGAIN_FOR;
        }
        let mut expired = Vec::new();
        self.held.retain(|(.., came_back)| {
            let over = is_over(came_back);
            expired.extend(over.then_some(*came_back));
            !over
        });
        self.queues.retain(|queue| {
            let over = is_over(&queue.came_back);
            if over {
                queue.empty(&mut expired);
            }
            !over
        });
        expired
    }

    /// Closes all of them. Returns where each came from.
    pub fn clear(&mut self) -> Vec<CameBack> {
        let Self { held, queues } = std::mem::take(self);
        let mut dropped: Vec<CameBack> = held.iter().map(|(.., came_back)| *came_back).collect();
        queues.iter().for_each(|queue| queue.empty(&mut dropped));
        dropped
    }
}

impl Queue {
    /// The accept number of its head. A queue whose end can only be found by receiving counts as the oldest.
    fn head_sequence(&self) -> u64 {
        let head = match &self.end {
            QueueEnd::Untaken(end) => end.peek(),
            QueueEnd::GivenBack(end) => end.peek(),
        };
        head.map_or(0, |record| record.sequence)
    }

    fn len(&self) -> usize {
        match &self.end {
            QueueEnd::Untaken(end) => end.untaken(),
            QueueEnd::GivenBack(end) => usize::from(end.peek().is_some()),
        }
    }

    /// Closes everything in it. Dropping our end would not, as long as the worker keeps its own.
    fn empty(&self, closed: &mut Vec<CameBack>) {
        while let Ok(Some(Candidate { came_back, .. })) = self.receive() {
            closed.extend(came_back);
        }
    }

    /// The next connection, or `None` at the end.
    fn receive(&self) -> io::Result<Option<Candidate>> {
        loop {
            let received = match &self.end {
                QueueEnd::Untaken(end) => {
                    spare_fd_for(end.peek(), end.as_fd())?;
                    match end.take(Wait::Never) {
                        Ok(Took::Connection(record, connection)) => Ok((record, connection)),
                        Ok(Took::Lost(record)) => Err(record),
                        Ok(Took::Probe | Took::Socket(_)) => continue,
                        Ok(Took::End) => return Ok(None),
                        Err(error) if error.kind() == io::ErrorKind::InvalidData => continue,
                        Err(error) => return Err(error),
                    }
                }
                QueueEnd::GivenBack(end) => {
                    spare_fd_for(end.peek(), end.as_fd())?;
                    match end.hear() {
                        Some(FromBelow::GivenBack(record, connection)) if prepare(&connection).is_ok() => {
                            Ok((record, connection))
                        }
                        Some(FromBelow::GivenBack(..)) => continue,
                        Some(FromBelow::Lost(record)) => Err(record),
                        Some(FromBelow::Kick | FromBelow::Malformed) => continue,
                        None => return Ok(None),
                    }
                }
            };
            match received {
                Ok((record, connection)) => {
                    return Ok(Some(Candidate { record, connection, came_back: Some(self.came_back) }));
                }
                Err(record) => log::error!("connection={} lost: no file descriptor left", record.sequence),
            }
        }
    }
}

/// Makes sure that a descriptor that came up is a live connection, and makes it fit for another worker: non-blocking
/// like a new one, and not lingering, which would block whoever closes it (measured: 3 s).
///
/// # Errors
/// Why it is not.
pub fn prepare(connection: &OwnedFd) -> Result<(), &'static str> {
    let socket = socket2::SockRef::from(connection);
    let _ = socket.set_linger(None);
    let _ = socket.set_nonblocking(true);
    if socket.r#type().ok() != Some(socket2::Type::STREAM) {
        return Err("it is no stream socket");
    }
    if socket.peer_addr().is_err() {
        return Err("its client has gone");
    }
    Ok(())
}

/// Without a spare descriptor the kernel would drop the connection on the way.
fn spare_fd_for(head: Option<Record>, any: std::os::fd::BorrowedFd<'_>) -> io::Result<()> {
    if head.is_some() && !fd_passing::has_spare_fd(any) {
        return Err(io::Error::from_raw_os_error(Errno::EMFILE as i32));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::deal_channel;
    use crate::protocol::record::Kind;

    const A: WorkerId = WorkerId(1);
    const B: WorkerId = WorkerId(2);

    fn record(sequence: u64) -> Record {
        Record { kind: Kind::Connection, sequence, ..Record::probe() }
    }

    fn some_fd() -> OwnedFd {
        std::fs::File::open("/dev/null").unwrap().into()
    }

    fn came_back(from: WorkerId) -> CameBack {
        CameBack { reason: Reason::GivenBack, at: Monotonic { ns: 1 }, from, not_again: true, uncounted: None }
    }

    fn next(returned: &mut Returned, giver: Option<WorkerId>) -> Option<u64> {
        match returned.next_but_from(giver).unwrap() {
            Found::Candidate(candidate) => Some(candidate.record.sequence),
            Found::NotForThisWorker | Found::Nothing => None,
        }
    }

    fn untaken(sequences: &[u64]) -> WorkerEnd {
        let (primary, worker) = deal_channel::pair().unwrap();
        sequences.iter().for_each(|sequence| primary.deal(&record(*sequence), some_fd().as_fd()).unwrap());
        worker.end();
        worker
    }

    #[test]
    fn the_oldest_comes_first_wherever_it_waits() {
        let mut returned = Returned::default();
        returned.inherit_untaken(untaken(&[2, 5]), (A, LaneId(0)), Reason::Died, Monotonic::default());
        returned.inherit_untaken(untaken(&[1, 6]), (A, LaneId(1)), Reason::Died, Monotonic::default());
        returned.hold(record(4), some_fd(), came_back(A));
        returned.hold(record(3), some_fd(), came_back(A));
        let order: Vec<_> = std::iter::from_fn(|| next(&mut returned, Some(B))).collect();
        assert_eq!(order, [1, 2, 3, 4, 5, 6]);
        assert!(returned.is_empty());
    }

    #[test]
    fn what_a_dead_worker_had_given_back_is_found_too() {
        let (primary, worker) = deal_channel::pair().unwrap();
        let (connection, _client) = std::os::unix::net::UnixStream::pair().unwrap();
        worker.kick();
        worker.give_back(&record(9), connection.as_fd()).unwrap();
        worker.give_back(&record(10), some_fd().as_fd()).unwrap(); // no connection
        drop(worker);
        let mut returned = Returned::default();
        returned.inherit_given_back(primary, A, Monotonic::default());
        assert_eq!(next(&mut returned, Some(B)), Some(9));
        assert_eq!(next(&mut returned, Some(B)), None);
        assert!(returned.is_empty());
    }

    #[test]
    fn nobody_gets_back_what_it_gave_back_while_another_is_ready() {
        let mut returned = Returned::default();
        returned.hold(record(1), some_fd(), came_back(A));
        assert!(matches!(returned.next_but_from(Some(A)).unwrap(), Found::NotForThisWorker));
        returned.hold(record(2), some_fd(), came_back(B));
        assert_eq!(next(&mut returned, Some(A)), Some(2), "a younger one that may go there");
        assert_eq!(next(&mut returned, None), Some(1), "alone, it has to");
    }

    #[test]
    fn what_a_worker_had_not_taken_may_go_there_again() {
        let mut returned = Returned::default();
        returned.hold(record(1), some_fd(), CameBack { not_again: false, ..came_back(A) });
        assert_eq!(next(&mut returned, Some(A)), Some(1));
    }

    #[test]
    fn it_may_go_to_its_giver_when_nobody_else_has_taken_it_for_a_while() {
        let mut returned = Returned::default();
        returned.hold(record(1), some_fd(), came_back(A));
        let due = returned.deadline(NOT_AGAIN_FOR * 30).unwrap();
        assert_eq!(due, came_back(A).at + NOT_AGAIN_FOR);
        assert!(returned.expire(NOT_AGAIN_FOR * 30, due).is_empty());
        assert_eq!(returned.deadline(NOT_AGAIN_FOR * 30), Some(came_back(A).at + NOT_AGAIN_FOR * 30));
        assert_eq!(next(&mut returned, Some(A)), Some(1));
    }

    #[test]
    fn what_nobody_takes_expires() {
        let mut returned = Returned::default();
        returned.hold(record(1), some_fd(), came_back(A));
        returned.inherit_untaken(untaken(&[2, 3]), (A, LaneId(0)), Reason::Died, Monotonic { ns: 5 });
        let timeout = Duration::from_nanos(10);
        assert_eq!(returned.deadline(timeout), Some(Monotonic { ns: 11 }));
        assert_eq!(returned.expire(timeout, Monotonic { ns: 11 }).len(), 1);
        let expired = returned.expire(timeout, Monotonic { ns: 15 });
        assert_eq!(expired.iter().map(|it| it.uncounted).collect::<Vec<_>>(), [Some(LaneId(0)); 2]);
        assert!(returned.is_empty() && returned.deadline(timeout).is_none());
    }
}
