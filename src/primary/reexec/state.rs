//! What one image of the primary leaves to the next: JSON in a memfd, with a version of its own.

use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::path::PathBuf;

use nix::sys::memfd::{MFdFlags, memfd_create};
use serde::{Deserialize, Serialize};

use super::{CarriedDoors, CarriedLock, CarriedMonitor, CarriedSocket, baggage};
use crate::primary::address::Address;
use crate::primary::ledger::Ledger;
use crate::primary::status::Enabled;
use crate::primary::supervisor::Supervisor;
use crate::primary::{listeners, output, workers};
use crate::protocol::ids::Slot;
use crate::protocol::time::Monotonic;
use crate::sys::environment;
use crate::sys::limits::OpenFiles;

/// The version of this layout. A new image that does not know it does not take over.
pub const STATE_VERSION: u32 = 3;

/// The variable that names the descriptor of the state.
const STATE: &str = "CROUPIER_STATE";

/// Everything that a primary knows and that is not in its arguments.
#[derive(Debug, Serialize, Deserialize)]
pub struct State {
    /// [`STATE_VERSION`].
    pub version: u32,
    /// The version of croupier that wrote it, for the log.
    pub croupier: String,
    /// How many upgrades there have been, this one included.
    pub upgrade_count: u32,
    /// When the first image was started.
    pub started_at: Monotonic,
    /// Connections accepted so far.
    pub sequence: u64,
    /// The number of the last event.
    #[serde(default)]
    pub last_event_id: u64,
    /// The id of the last worker.
    pub last_id: u32,
    /// How many workers each slot has had.
    pub slot_starts: Vec<(Slot, u64)>,
    /// What the limits of open files were before the first image raised them.
    pub open_files: Option<OpenFiles>,
    /// Its name.
    pub name: String,
    /// When the first image was started, for people.
    pub started_unix_seconds: u64,
    /// Whether it is for clients; `None`: the image that wrote this did not know.
    #[serde(default)]
    pub enabled: Option<Enabled>,
    /// See [`CarriedSocket`]: descriptor, path, device and inode.
    pub control: Option<(RawFd, PathBuf, (u64, u64))>,
    /// See [`CarriedMonitor`]: descriptor, and the address as it was asked for.
    #[serde(default)]
    pub monitor: Option<(RawFd, String)>,
    /// See [`CarriedLock`]: descriptor and directory.
    #[serde(default)]
    pub lock: Option<(RawFd, PathBuf)>,
    /// The plan and where it stands.
    pub supervisor: Supervisor,
    /// How many workers the settings asked for when that was last followed, whatever there have been since.
    #[serde(default)]
    pub configured_workers: Option<u32>,
    /// Somebody wants a reload that has not begun: the configuration was still to be read.
    #[serde(default)]
    pub is_reload_due: bool,
    /// The listeners, in the order in which lanes count them.
    pub listeners: Vec<listeners::Saved>,
    /// What those have counted that are gone.
    #[serde(default)]
    pub ledger: Ledger,
    /// The workers.
    pub workers: Vec<workers::Saved>,
    /// Where they write to.
    #[serde(default)]
    pub outputs: output::Saved,
}

impl State {
    /// The sockets that were carried, once.
    ///
    /// # Errors
    /// As [`baggage::unpack`].
    pub fn carried_doors(&mut self) -> io::Result<CarriedDoors> {
        let control = self
            .control
            .take()
            .map(|(fd, path, identity)| baggage::unpack(fd).map(|socket| CarriedSocket { socket, path, identity }));
        let monitor = self.monitor.take().map(|(fd, wanted)| {
            let bad = |error| io::Error::new(io::ErrorKind::InvalidData, error);
            let wanted: Address = wanted.parse().map_err(bad)?;
            baggage::unpack(fd).map(|socket| CarriedMonitor { socket, wanted })
        });
        Ok(CarriedDoors { control: control.transpose()?, monitor: monitor.transpose()? })
    }

    /// The lock that was carried, once.
    ///
    /// # Errors
    /// As [`baggage::unpack`].
    pub fn carried_lock(&mut self) -> io::Result<Option<CarriedLock>> {
        let Some((fd, directory)) = self.lock.take() else { return Ok(None) };
        Ok(Some(CarriedLock { file: baggage::unpack(fd)?, directory }))
    }

    /// Writes it into a new memfd.
    ///
    /// # Errors
    /// `EMFILE`/`ENFILE`/`ENOMEM`.
    pub fn write(&self) -> io::Result<OwnedFd> {
        let mut file = File::from(memfd_create("croupier-state", MFdFlags::MFD_CLOEXEC)?);
        file.write_all(&serde_json::to_vec(self)?)?;
        file.rewind()?;
        Ok(file.into())
    }

    /// The variable that tells another image of this process, or a child, where it is.
    pub fn variable(memfd: &OwnedFd) -> (&'static str, String) {
        (STATE, memfd.as_raw_fd().to_string())
    }

    /// Reads the state that this process was left, if it was, and forgets the variable.
    ///
    /// # Errors
    /// `InvalidData` if it is no state, or of another version.
    pub fn claim() -> io::Result<Option<Self>> {
        let Some(number) = std::env::var_os(STATE) else { return Ok(None) };
        environment::remove(STATE);
        let bad = |why: String| io::Error::new(io::ErrorKind::InvalidData, why);
        let number: Option<RawFd> = number.to_str().and_then(|text| text.parse().ok());
        let mut file = File::from(baggage::unpack(number.ok_or_else(|| bad(format!("{STATE} is no number")))?)?);
        let mut json = Vec::new();
        file.rewind()?;
        file.read_to_end(&mut json)?;
        let version: Version = serde_json::from_slice(&json).map_err(|error| bad(error.to_string()))?;
        if version.version != STATE_VERSION {
            return Err(bad(format!("the state has version {}, this image knows {STATE_VERSION}", version.version)));
        }
        serde_json::from_slice(&json).map(Some).map_err(|error| bad(error.to_string()))
    }
}

/// The one field that every version has.
#[derive(Deserialize)]
struct Version {
    version: u32,
}
