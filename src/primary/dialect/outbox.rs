//! What a worker has been told and has not been sent yet, because its channel is full. It sends nothing itself.
//!
//! A healthy worker's library always reads, so this is empty but for moments. For one that does not, both kinds of
//! packets have their own bound: answers by [`ANSWERS_UNSENT_MAX`], messages by
//! [`MESSAGES_UNREAD_MAX`](crate::protocol::control::MESSAGES_UNREAD_MAX), those that have reached it included.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::primary::reexec::baggage::{self, Baggage};

/// The most answers and orders that wait for a worker to read. One that lets more come to wait is ended.
pub const ANSWERS_UNSENT_MAX: usize = 64;

/// Packets in the order in which they are to be sent.
#[derive(Debug, Default)]
pub struct Outbox {
    packets: VecDeque<Packet>,
    answer_count: usize,
}

/// What is in a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    /// An answer or an order of the primary.
    Answer,
    /// A message of whoever started the primary.
    Message,
}

/// One packet that waits.
#[derive(Debug)]
struct Packet {
    kind: Kind,
    json: Arc<[u8]>,
    fd: Option<OwnedFd>,
}

/// A packet as it goes over an exec.
#[derive(Debug, Serialize, Deserialize)]
pub struct Saved {
    kind: Kind,
    json: String,
    fd: Option<RawFd>,
}

impl Outbox {
    /// Whether nothing waits: what is to be sent next may be sent at once.
    pub fn is_empty(&self) -> bool {
        self.packets.is_empty()
    }

    /// How many messages wait.
    pub fn message_count(&self) -> usize {
        self.packets.len() - self.answer_count
    }

    /// How much waits.
    pub fn waiting_bytes(&self) -> usize {
        self.packets.iter().map(|packet| packet.json.len()).sum()
    }

    /// Lets a packet wait.
    ///
    /// # Errors
    /// `WouldBlock` at [`ANSWERS_UNSENT_MAX`]: the worker does not read. End it.
    pub fn push(&mut self, kind: Kind, json: Arc<[u8]>, fd: Option<OwnedFd>) -> io::Result<()> {
        if kind == Kind::Answer {
            if self.answer_count >= ANSWERS_UNSENT_MAX {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            self.answer_count += 1;
        }
        self.packets.push_back(Packet { kind, json, fd });
        Ok(())
    }

    /// The packet that is next, and its descriptor.
    pub fn first(&self) -> Option<(&[u8], Option<BorrowedFd<'_>>)> {
        self.packets.front().map(|packet| (&*packet.json, packet.fd.as_ref().map(AsFd::as_fd)))
    }

    /// It has been sent: our copy of its descriptor is closed.
    pub fn remove_first(&mut self) {
        if self.packets.pop_front().is_some_and(|packet| packet.kind == Kind::Answer) {
            self.answer_count -= 1;
        }
    }

    /// Nothing of it will be read any more.
    pub fn clear(&mut self) {
        *self = Self::default();
    }

    /// What the next image needs to go on with it.
    pub fn save(&self, baggage: &mut Baggage) -> Vec<Saved> {
        let mut save = |packet: &Packet| Saved {
            kind: packet.kind,
            json: String::from_utf8_lossy(&packet.json).into_owned(),
            fd: packet.fd.as_ref().map(|fd| baggage.pack(fd.as_fd())),
        };
        self.packets.iter().map(&mut save).collect()
    }

    /// Goes on with it.
    ///
    /// # Errors
    /// As [`baggage::unpack`].
    pub fn restore(saved: Vec<Saved>) -> io::Result<Self> {
        let mut outbox = Self::default();
        for Saved { kind, json, fd } in saved {
            outbox.push(kind, json.into_bytes().into(), fd.map(baggage::unpack).transpose()?)?;
        }
        Ok(outbox)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn push(outbox: &mut Outbox, kind: Kind, json: &str) -> io::Result<()> {
        outbox.push(kind, json.as_bytes().into(), None)
    }

    fn all(mut outbox: Outbox) -> Vec<String> {
        let mut all = Vec::new();
        while let Some((json, fd)) = outbox.first() {
            assert!(fd.is_none());
            all.push(String::from_utf8(json.to_vec()).unwrap());
            outbox.remove_first();
        }
        assert!(outbox.is_empty() && outbox.answer_count == 0);
        all
    }

    #[test]
    fn answers_and_messages_keep_their_order_also_over_an_upgrade() {
        let mut outbox = Outbox::default();
        let packets = ["\"ä\\u00e4\\n\"", "{}", "2", "3"];
        for (index, json) in packets.iter().enumerate() {
            push(&mut outbox, if index % 2 == 0 { Kind::Answer } else { Kind::Message }, json).unwrap();
        }
        let saved = serde_json::to_string(&outbox.save(&mut Baggage::default())).unwrap();
        let restored = Outbox::restore(serde_json::from_str(&saved).unwrap()).unwrap();
        assert_eq!(all(restored), packets);
        assert_eq!(all(outbox), packets);
    }

    #[test]
    fn answers_are_bounded_and_messages_in_between_do_not_count() {
        let mut outbox = Outbox::default();
        for _ in 0..ANSWERS_UNSENT_MAX {
            push(&mut outbox, Kind::Answer, "{}").unwrap();
            push(&mut outbox, Kind::Message, "{}").unwrap();
        }
        assert_eq!(push(&mut outbox, Kind::Answer, "{}").unwrap_err().kind(), io::ErrorKind::WouldBlock);
        outbox.remove_first();
        push(&mut outbox, Kind::Answer, "{}").unwrap();
        outbox.clear();
        assert!(outbox.is_empty());
    }
}
