//! The native dialect: croupier's own protocol (see [`protocol`](crate::protocol)).

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::outbox::{self, Kind, Outbox};
use super::{Buffer, Grant, ListenRequest, Said, Welcome};
use crate::primary::reexec::baggage::{self, Baggage};
use crate::protocol::Wait;
use crate::protocol::control::{
    self, FromPrimary, FromWorker, IdleRule, MESSAGES_UNREAD_MAX, Malformed, PACKET_MAX_BYTES, VERSION,
};
use crate::protocol::control_channel::{ControlChannel, Packet};
use crate::sys::fd_passing;

/// The primary's end of one worker's control channel.
#[derive(Debug)]
pub struct Native {
    channel: ControlChannel,
    /// `welcome` has been sent. Before that everything waits: it is the first that the worker is to hear.
    is_welcomed: bool,
    outbox: Outbox,
    /// Messages sent to the worker, or waiting for it, that it has not said to have consumed.
    unconsumed: u32,
}

/// A channel as it goes over an exec.
#[derive(Debug, Serialize, Deserialize)]
pub struct Saved {
    channel: RawFd,
    is_welcomed: bool,
    outbox: Vec<outbox::Saved>,
    unconsumed: u32,
}

impl Native {
    /// A new channel, and the end that the worker inherits.
    ///
    /// # Errors
    /// `EMFILE`/`ENFILE`: try again later.
    pub fn pair() -> io::Result<(Self, OwnedFd)> {
        let (channel, theirs) = ControlChannel::pair()?;
        Ok((Self { channel, is_welcomed: false, outbox: Outbox::default(), unconsumed: 0 }, theirs))
    }

    /// What the next image needs to go on with it.
    pub fn save(&self, baggage: &mut Baggage) -> Saved {
        Saved {
            channel: baggage.pack(self.channel.as_fd()),
            is_welcomed: self.is_welcomed,
            outbox: self.outbox.save(baggage),
            unconsumed: self.unconsumed,
        }
    }

    /// Goes on with it.
    ///
    /// # Errors
    /// As [`baggage::unpack`].
    pub fn restore(saved: Saved) -> io::Result<Self> {
        Ok(Self {
            channel: ControlChannel::from_fd(baggage::unpack(saved.channel)?),
            is_welcomed: saved.is_welcomed,
            outbox: Outbox::restore(saved.outbox)?,
            unconsumed: saved.unconsumed,
        })
    }

    /// What the worker said next, or `None` when there is nothing more for now. A descriptor that comes with anything
    /// but a message is closed.
    pub fn hear(&mut self, buffer: &mut Buffer) -> Option<Said> {
        let (packet, fd) = match self.channel.receive_packet(&mut buffer.0, Wait::Never) {
            Ok(Packet::Whole(packet, fd)) => (packet, fd),
            Ok(Packet::TooLong) => return Some(Said::Garbage(Malformed::too_long().reason)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return None,
            Ok(Packet::End) | Err(_) => return Some(Said::End),
        };
        Some(match control::decode(packet) {
            Ok(FromWorker::Message { body }) => Said::Message { body, fd },
            decoded => {
                if let Some(unasked) = fd {
                    fd_passing::close_at_once(unasked);
                }
                decoded.map_or_else(|malformed| Said::Garbage(malformed.reason), |message| self.said(message))
            }
        })
    }

    fn said(&mut self, message: FromWorker) -> Said {
        match message {
            FromWorker::Hello { version, .. } if version != VERSION => Said::Garbage(format!(
                "it speaks version {version} of the protocol, this croupier version {VERSION}: \
                 build it with the library of this release"
            )),
            FromWorker::Hello { pid, open_files_max, .. } => Said::Hello { pid: Some(pid), open_files_max },
            FromWorker::Listen { request, wish } => {
                Said::Listen(ListenRequest { request: request.into(), wish, data: None })
            }
            FromWorker::ListeningAlone { address } => Said::ListeningAlone(address),
            FromWorker::Listening { lane } => Said::Listening(lane),
            FromWorker::Close { lane } => Said::Close(lane),
            FromWorker::Message { body } => Said::Message { body, fd: None },
            FromWorker::Consumed { messages } => match self.unconsumed.checked_sub(messages) {
                Some(left) => {
                    self.unconsumed = left;
                    Said::Noted
                }
                None => Said::Garbage(format!("it consumed {messages} messages and had {}", self.unconsumed)),
            },
            FromWorker::Disconnect => Said::Disconnect,
            FromWorker::Unknown => Said::Unknown,
        }
    }

    /// Answers `hello`. Messages that came before it follow.
    ///
    /// # Errors
    /// `WouldBlock` if the worker does not read, others if it is not there any more; like the other answers here.
    /// End it.
    pub fn welcome(&mut self, welcome: Welcome, scoreboard: BorrowedFd<'_>) -> io::Result<()> {
        let Welcome { worker, slot, generation, idle_timeout } = welcome;
        // 0 would end connections at once; whoever asks for less than a millisecond gets one.
        let idle_timeout_ms = idle_timeout.map(|it| u64::try_from(it.as_millis()).unwrap_or(u64::MAX).max(1));
        let message = FromPrimary::Welcome { version: VERSION, worker, slot, generation, idle_timeout_ms };
        self.channel.send(&message, Some(scoreboard))?;
        self.is_welcomed = true;
        self.send_waiting()
    }

    /// Answers `listen` with a lane. `end`, the worker's of its deal channel, is borrowed: the primary keeps it as the
    /// retained end.
    ///
    /// # Errors
    /// As [`welcome`](Self::welcome).
    pub fn grant(&mut self, request: u64, grant: Grant, end: Option<BorrowedFd<'_>>) -> io::Result<()> {
        let Grant { lane, address, shared, proxy_protocol, data: _ } = grant;
        let (request, address) = (number(request), address.to_string());
        self.answer(&FromPrimary::Lane { request, lane, address, shared, proxy_protocol }, end)
    }

    /// Answers `listen` with an error.
    ///
    /// # Errors
    /// As [`welcome`](Self::welcome).
    pub fn refuse(&mut self, request: u64, errno: i32, reason: String) -> io::Result<()> {
        self.answer(&FromPrimary::Refused { request: number(request), errno, reason }, None)
    }

    /// Tells the worker to finish.
    ///
    /// # Errors
    /// As [`welcome`](Self::welcome).
    pub fn disconnect(&mut self, idle: IdleRule) -> io::Result<()> {
        self.answer(&FromPrimary::Disconnect { idle }, None)
    }

    /// Sends a message, or lets it wait for the worker. `packet` is what [`control::encode`] made of a
    /// [`FromPrimary::Message`]. Our copy of `fd` is closed once it is sent.
    ///
    /// # Errors
    /// `QuotaExceeded` if [`MESSAGES_UNREAD_MAX`] are not consumed; `EMSGSIZE` above [`PACKET_MAX_BYTES`]; others of
    /// sendmsg(2): the worker has gone, or this user has too many descriptors in flight (`ETOOMANYREFS`). Nothing was
    /// sent.
    pub fn message(&mut self, packet: &Arc<[u8]>, fd: Option<OwnedFd>) -> io::Result<()> {
        if packet.len() > PACKET_MAX_BYTES {
            return Err(io::Error::from_raw_os_error(nix::libc::EMSGSIZE));
        }
        if self.unconsumed >= MESSAGES_UNREAD_MAX {
            return Err(io::ErrorKind::QuotaExceeded.into());
        }
        if !self.send_at_once(packet, fd.as_ref().map(AsFd::as_fd))? {
            self.outbox.push(Kind::Message, Arc::clone(packet), fd)?;
        }
        self.unconsumed += 1;
        Ok(())
    }

    /// Sends what waits, as far as the worker has read. When there is room again the channel becomes writable.
    ///
    /// # Errors
    /// `ETOOMANYREFS`: no event will tell when it is over, try again a little later.
    pub fn send_waiting(&mut self) -> io::Result<()> {
        while self.is_welcomed
            && let Some((packet, fd)) = self.outbox.first()
        {
            match self.channel.send_packet(packet, fd, Wait::Never) {
                Ok(()) => self.outbox.remove_first(),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.raw_os_error() == Some(nix::libc::ETOOMANYREFS) => return Err(error),
                // The worker has gone: its end will be heard.
                Err(_) => self.outbox.clear(),
            }
        }
        Ok(())
    }

    fn answer(&mut self, message: &FromPrimary, fd: Option<BorrowedFd<'_>>) -> io::Result<()> {
        let packet = control::encode(message);
        if !self.send_at_once(&packet, fd)? {
            let fd = fd.map(|fd| fd.try_clone_to_owned()).transpose()?;
            self.outbox.push(Kind::Answer, packet.into(), fd)?;
        }
        Ok(())
    }

    /// False: it has to wait.
    fn send_at_once(&self, packet: &[u8], fd: Option<BorrowedFd<'_>>) -> io::Result<bool> {
        if !self.is_welcomed || !self.outbox.is_empty() {
            return Ok(false);
        }
        match self.channel.send_packet(packet, fd, Wait::Never) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
            Err(error) => Err(error),
        }
    }
}

impl AsFd for Native {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.channel.as_fd()
    }
}

/// The number of a request as this dialect has it.
fn number(request: u64) -> u32 {
    u32::try_from(request).expect("the worker's own number comes back to it")
}
