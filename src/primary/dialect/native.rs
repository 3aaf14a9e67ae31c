//! The native dialect: croupier's own protocol (see [`protocol`](crate::protocol)).

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use super::{Grant, ListenRequest, Said};
use crate::protocol::Wait;
use crate::protocol::control::{FromPrimary, FromWorker, IdleRule, PACKET_MAX_BYTES, VERSION};
use crate::protocol::control_channel::{ControlChannel, Incoming};
use crate::protocol::ids::{Slot, WorkerId};

/// The primary's end of one worker's control channel.
#[derive(Debug)]
pub struct Native {
    channel: ControlChannel,
}

impl Native {
    /// A new channel, and the end that the worker inherits.
    ///
    /// # Errors
    /// `EMFILE`/`ENFILE`: try again later.
    pub fn pair() -> io::Result<(Self, OwnedFd)> {
        let (channel, theirs) = ControlChannel::pair()?;
        Ok((Self { channel }, theirs))
    }

    /// The end of a channel that an earlier image of this process made.
    pub fn from_fd(channel: OwnedFd) -> Self {
        Self { channel: ControlChannel::from_fd(channel) }
    }

    /// What the worker said next, or `None` when there is nothing more for now. A descriptor that comes with a
    /// message is closed: no message of this version carries one up.
    pub fn hear(&self, buffer: &mut Buffer) -> Option<Said> {
        match self.channel.receive::<FromWorker>(&mut buffer.0, Wait::Never) {
            Ok(Incoming::Message(message, _)) => Some(said(message)),
            Ok(Incoming::Malformed(malformed)) => Some(Said::Garbage(malformed.reason)),
            Ok(Incoming::End) => Some(Said::End),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => None,
            Err(_) => Some(Said::End),
        }
    }

    /// Answers `hello`.
    ///
    /// # Errors
    /// Those of [`ControlChannel::send`], like the other answers here: a worker that is not there any more, or does
    /// not read. End it.
    pub fn welcome(&self, worker: WorkerId, slot: Slot, generation: u32, scoreboard: BorrowedFd<'_>) -> io::Result<()> {
        self.channel.send(&FromPrimary::Welcome { version: VERSION, worker, slot, generation }, Some(scoreboard))
    }

    /// Answers `listen` with a lane. `end` is borrowed: the primary keeps it as the retained end.
    ///
    /// # Errors
    /// As [`welcome`](Self::welcome).
    pub fn grant(&self, request: u32, grant: Grant, end: BorrowedFd<'_>) -> io::Result<()> {
        let Grant { lane, address, shared } = grant;
        self.channel.send(&FromPrimary::Lane { request, lane, address, shared }, Some(end))
    }

    /// Answers `listen` with an error.
    ///
    /// # Errors
    /// As [`welcome`](Self::welcome).
    pub fn refuse(&self, request: u32, errno: i32, reason: String) -> io::Result<()> {
        self.channel.send(&FromPrimary::Refused { request, errno, reason }, None)
    }

    /// Tells the worker to finish.
    ///
    /// # Errors
    /// As [`welcome`](Self::welcome).
    pub fn disconnect(&self, idle: IdleRule) -> io::Result<()> {
        self.channel.send(&FromPrimary::Disconnect { idle }, None)
    }
}

impl AsFd for Native {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.channel.as_fd()
    }
}

/// Room for the largest packet, one for all channels.
#[derive(Debug)]
pub struct Buffer(Box<[u8]>);

impl Default for Buffer {
    fn default() -> Self {
        Self(vec![0; PACKET_MAX_BYTES].into())
    }
}

fn said(message: FromWorker) -> Said {
    match message {
        FromWorker::Hello { version, .. } if version != VERSION => Said::Garbage(format!(
            "it speaks version {version} of the protocol, this croupier version {VERSION}: \
             build it with the library of this release"
        )),
        FromWorker::Hello { pid, open_files_max, .. } => Said::Hello { pid, open_files_max },
        FromWorker::Listen { request, wish } => Said::Listen(ListenRequest { request, wish }),
        FromWorker::ListeningAlone { address } => Said::ListeningAlone(address),
        FromWorker::Listening { lane } => Said::Listening(lane),
        FromWorker::Close { lane } => Said::Close(lane),
        FromWorker::Unknown => Said::Unknown,
    }
}
