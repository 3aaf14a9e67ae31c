//! Messages between this program and whoever started the primary, in both directions.
//!
//! What comes is kept from before anybody asks for it, up to [`MESSAGES_UNREAD_MAX`]: the primary sends more only when
//! the library tells it that the program has consumed some, which it does by itself.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Mutex;

use mio::unix::SourceFd;
use mio::{Interest, Registry, Token, event};
use nix::sys::eventfd::{EfdFlags, EventFd};
use serde::Serialize;

use super::membership::{Worker, lock};
use super::readiness::wait_readable;
use crate::protocol::Wait;
use crate::protocol::body::Body;
use crate::protocol::control::{self, FromWorker, MESSAGES_UNREAD_MAX, PACKET_MAX_BYTES};

/// How many messages the program consumes before the primary is told: half of what may be under way, so that a program
/// that keeps up never makes the primary wait.
const TOLD_EVERY: u32 = MESSAGES_UNREAD_MAX / 2;

/// A message of the primary.
#[derive(Debug)]
pub struct Message {
    /// What it says.
    pub body: Body,
    /// What was attached. `None` although something was: this process had no descriptor left for it.
    pub fd: Option<OwnedFd>,
}

/// Where messages come out: each of them once, whoever asks. Clones, and what [`Worker::messages`] returns at another
/// time, share one queue.
///
/// Readable (poll(2), mio) while there are messages, and for ever after the end. With mio, which is edge-triggered:
/// receive until `WouldBlock` after an event, and once after registering.
#[derive(Debug, Clone)]
pub struct Messages {
    worker: Worker,
}

/// The queue between the library's thread and the program.
#[derive(Debug)]
pub(super) struct Inbox {
    queue: Mutex<Queue>,
    /// Not 0 while there is something to receive. Written with the queue locked.
    readable: EventFd,
}

#[derive(Debug, Default)]
struct Queue {
    messages: VecDeque<Message>,
    has_ended: bool,
    /// Consumed since the primary was told.
    untold: u32,
}

/// What a look into the queue found.
enum Taken {
    Message(Message),
    /// Of which the primary is to be told now.
    MessageAndTell(Message, u32),
    Nothing,
    End,
}

impl Worker {
    /// Sends a message to whoever started the primary, in order with everything else. Sleeps while the primary has
    /// more to read than the channel holds. `fd` may be of any kind and stays the caller's. Whether anybody there
    /// listens is not known here.
    ///
    /// # Errors
    /// `InvalidInput` if `body` is no JSON, or larger than [`PACKET_MAX_BYTES`] with its envelope: send less at a time.
    /// `BrokenPipe` if the primary has gone. `ETOOMANYREFS` if this user has too many descriptors in flight: later.
    pub fn send(&self, body: &(impl Serialize + ?Sized), fd: Option<BorrowedFd<'_>>) -> io::Result<()> {
        self.send_message(body, fd, Wait::Block)
    }

    /// As [`send`](Self::send), but never sleeps.
    ///
    /// # Errors
    /// `WouldBlock` if the channel is full: nothing was sent, try again. Otherwise as [`send`](Self::send).
    pub fn try_send(&self, body: &(impl Serialize + ?Sized), fd: Option<BorrowedFd<'_>>) -> io::Result<()> {
        self.send_message(body, fd, Wait::Never)
    }

    /// The messages of the primary.
    pub fn messages(&self) -> Messages {
        Messages { worker: self.clone() }
    }

    fn send_message(&self, body: &(impl Serialize + ?Sized), fd: Option<BorrowedFd<'_>>, wait: Wait) -> io::Result<()> {
        let invalid = |why: String| io::Error::new(io::ErrorKind::InvalidInput, why);
        let body = Body::of(body).map_err(|error| invalid(format!("the message is no JSON: {error}")))?;
        let packet = control::encode(&FromWorker::Message { body });
        let len = packet.len();
        if len > PACKET_MAX_BYTES {
            let limit = format!("at most {PACKET_MAX_BYTES}, send less at a time");
            return Err(invalid(format!("a message of {len} bytes with its envelope: {limit}")));
        }
        self.channel().send_packet(&packet, fd, wait).map_err(|error| match error.kind() {
            // The kernel says so once if the primary had messages of ours unread.
            io::ErrorKind::ConnectionReset => io::ErrorKind::BrokenPipe.into(),
            _ => error,
        })
    }
}

impl Messages {
    /// The next message; sleeps until there is one. `None`: the primary has gone, and everything was received.
    ///
    /// # Errors
    /// Those of poll(2); none is expected.
    pub fn receive(&self) -> io::Result<Option<Message>> {
        loop {
            match self.try_receive() {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                other => return other,
            }
            wait_readable([self.as_fd()])?;
        }
    }

    /// The next message, if there is one. `None`: as [`receive`](Self::receive).
    ///
    /// # Errors
    /// `WouldBlock` if there is none at the moment.
    pub fn try_receive(&self) -> io::Result<Option<Message>> {
        match self.worker.inbox().take() {
            Taken::Message(message) => Ok(Some(message)),
            Taken::MessageAndTell(message, messages) => {
                // If the primary has gone, it does not matter.
                let _ = self.worker.channel().send_blocking(&FromWorker::Consumed { messages });
                Ok(Some(message))
            }
            Taken::Nothing => Err(io::ErrorKind::WouldBlock.into()),
            Taken::End => Ok(None),
        }
    }
}

impl AsFd for Messages {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.worker.inbox().readable.as_fd()
    }
}

impl event::Source for Messages {
    fn register(&mut self, registry: &Registry, token: Token, interests: Interest) -> io::Result<()> {
        SourceFd(&self.as_fd().as_raw_fd()).register(registry, token, interests)
    }

    fn reregister(&mut self, registry: &Registry, token: Token, interests: Interest) -> io::Result<()> {
        SourceFd(&self.as_fd().as_raw_fd()).reregister(registry, token, interests)
    }

    fn deregister(&mut self, registry: &Registry) -> io::Result<()> {
        SourceFd(&self.as_fd().as_raw_fd()).deregister(registry)
    }
}

impl Inbox {
    /// # Errors
    /// `EMFILE`/`ENFILE`/`ENOMEM`.
    pub(super) fn new() -> io::Result<Self> {
        let readable = EventFd::from_value_and_flags(0, EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
        Ok(Self { queue: Mutex::default(), readable })
    }

    /// Keeps a message until somebody asks. A primary never sends more than may be kept.
    pub(super) fn put(&self, message: Message) {
        let mut queue = lock(&self.queue);
        if queue.messages.len() >= MESSAGES_UNREAD_MAX as usize {
            return log::error!("the primary sent more than {MESSAGES_UNREAD_MAX} messages unasked [dropped]");
        }
        queue.messages.push_back(message);
        if queue.messages.len() == 1 {
            let _ = self.readable.write(1);
        }
    }

    /// Nothing more comes.
    pub(super) fn end(&self) {
        lock(&self.queue).has_ended = true;
        let _ = self.readable.write(1);
    }

    fn take(&self) -> Taken {
        let mut queue = lock(&self.queue);
        let Some(message) = queue.messages.pop_front() else {
            return if queue.has_ended { Taken::End } else { Taken::Nothing };
        };
        if queue.messages.is_empty() && !queue.has_ended {
            let _ = self.readable.read();
        }
        queue.untold += 1;
        if queue.untold < TOLD_EVERY {
            return Taken::Message(message);
        }
        Taken::MessageAndTell(message, std::mem::take(&mut queue.untold))
    }
}

#[cfg(test)]
mod tests {
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

    use super::*;

    fn message(number: u32) -> Message {
        Message { body: Body::of(&number).unwrap(), fd: None }
    }

    fn is_readable(inbox: &Inbox) -> bool {
        poll(&mut [PollFd::new(inbox.readable.as_fd(), PollFlags::POLLIN)], PollTimeout::ZERO).unwrap() == 1
    }

    #[test]
    fn it_is_readable_as_long_as_there_is_something_and_after_the_end() {
        let inbox = Inbox::new().unwrap();
        assert!(!is_readable(&inbox) && matches!(inbox.take(), Taken::Nothing));
        (1..=2).for_each(|number| inbox.put(message(number)));
        assert!(is_readable(&inbox));
        assert!(matches!(inbox.take(), Taken::Message(first) if first.body.as_str() == "1"));
        assert!(is_readable(&inbox));
        assert!(matches!(inbox.take(), Taken::Message(_)));
        assert!(!is_readable(&inbox));
        inbox.put(message(3));
        inbox.end();
        assert!(matches!(inbox.take(), Taken::Message(_)));
        assert!(is_readable(&inbox) && matches!(inbox.take(), Taken::End));
        assert!(is_readable(&inbox) && matches!(inbox.take(), Taken::End));
    }

    #[test]
    fn it_is_bounded_and_what_is_consumed_is_told_twice_per_window() {
        let inbox = Inbox::new().unwrap();
        (0..=MESSAGES_UNREAD_MAX).for_each(|number| inbox.put(message(number)));
        let mut told = Vec::new();
        for number in 0..MESSAGES_UNREAD_MAX {
            if let Taken::MessageAndTell(_, messages) = inbox.take() {
                told.push((number + 1, messages));
            }
        }
        assert!(matches!(inbox.take(), Taken::Nothing), "the surplus one is gone");
        assert_eq!(told, [(TOLD_EVERY, TOLD_EVERY), (2 * TOLD_EVERY, TOLD_EVERY)]);
    }
}
