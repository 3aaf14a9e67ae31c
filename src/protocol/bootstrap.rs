//! How a worker finds its channel: two environment variables and an inherited descriptor.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::socket::{SockType, getsockopt, sockopt};

use super::ids::WorkerId;
use crate::sys::environment;
use crate::sys::fd_passing::adopt_fd;

/// The number of the control channel's descriptor, in decimal.
pub const CHANNEL: &str = "CROUPIER_CHANNEL";
/// The worker's id, in decimal.
pub const WORKER_ID: &str = "CROUPIER_WORKER_ID";
/// How many reloads the primary had done when it started this worker, in decimal.
pub const GENERATION: &str = "CROUPIER_GENERATION";

/// The variables of one worker.
pub fn variables(channel: RawFd, worker: WorkerId, generation: u32) -> Vec<(OsString, OsString)> {
    vec![
        (CHANNEL.into(), channel.to_string().into()),
        (WORKER_ID.into(), worker.to_string().into()),
        (GENERATION.into(), generation.to_string().into()),
    ]
}

/// Takes the channel that this process was started with, and removes its number and the worker's id from the
/// environment, so that programs which this one starts do not take themselves for workers. `None` if there is none.
///
/// # Errors
/// `InvalidData` if the variable does not name an open `SOCK_SEQPACKET` socket: something between the primary and
/// this process closed it or reused its number.
pub fn claim_channel() -> io::Result<Option<OwnedFd>> {
    let Some(value) = std::env::var_os(CHANNEL) else { return Ok(None) };
    environment::remove(CHANNEL);
    environment::remove(WORKER_ID);
    let bad = |why: &str| {
        let text = format!("{CHANNEL}={}: {why}; start this program by `croupier run`", value.to_string_lossy());
        io::Error::new(io::ErrorKind::InvalidData, text)
    };
    let number = value.to_str().and_then(|text| text.parse::<RawFd>().ok()).filter(|fd| *fd > 2);
    let fd = adopt_fd(number.ok_or_else(|| bad("not a descriptor"))?).map_err(|_| bad("not an open descriptor"))?;
    if getsockopt(&fd.as_fd(), sockopt::SockType).ok() != Some(SockType::SeqPacket) {
        // It is somebody else's: leave it open.
        let _ = std::os::fd::IntoRawFd::into_raw_fd(fd);
        return Err(bad("not the socket of a primary"));
    }
    fcntl(&fd, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))?;
    debug_assert!(fd.as_raw_fd() > 2);
    Ok(Some(fd))
}
