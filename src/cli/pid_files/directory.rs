//! The directory itself: who owns it, and its files. Nothing here knows of events.
//!
//! Its owner is whoever has `primary.pid` locked (flock(2)): the kernel gives the lock up with the process, whatever
//! its end, and a pid that somebody else has by now proves nothing. The lock is on the inode, so the file appears with
//! it: another one is written, locked, and linked to the name, or renamed over what a dead primary left there.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg, OFlag};

use crate::primary::reexec::CarriedLock;

/// The file of the primary.
const PRIMARY: &str = "primary.pid";
/// How often a start looks again when another one is just beginning or ending there.
const CLAIMS_MAX: u32 = 16;
/// The longest number in a file that is taken for a pid file.
const PID_MAX_BYTES: u64 = 16;

/// A directory whose owner this process is.
#[derive(Debug)]
pub(super) struct Directory {
    path: PathBuf,
    /// `primary.pid`, locked.
    lock: Flock<File>,
}

/// Why a directory cannot be had.
#[derive(Debug, thiserror::Error)]
pub(super) enum ClaimError {
    /// A primary that lives has its files there.
    #[error("another primary keeps its files there (pid {0})")]
    Alive(String),
    /// Something of that name was not written by a primary.
    #[error("{PRIMARY} is no pid file")]
    Strange,
    /// Anything else.
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl Directory {
    /// Writes `primary.pid` and locks it. What a dead primary left is replaced, the files of its workers removed.
    ///
    /// # Errors
    /// [`ClaimError`]; nothing has changed then.
    pub(super) fn claim(path: &Path) -> Result<Self, ClaimError> {
        let own = path.join(format!(".{PRIMARY}.{}", std::process::id()));
        let claimed = write_locked(&own).map_err(ClaimError::from).and_then(|lock| {
            put_in_place(&own, &path.join(PRIMARY))?;
            Ok(Self { path: path.to_owned(), lock })
        });
        // Its other name, or what is left of a failure.
        let _ = fs::remove_file(&own);
        let directory = claimed?;
        directory.retain_workers(|_| false)?;
        Ok(directory)
    }

    /// Goes on with one that came over an exec, with its lock. `None`: somebody has removed or replaced the file.
    pub(super) fn restore(carried: CarriedLock) -> Option<Self> {
        // It is locked already, by this very description.
        let lock = Flock::lock(File::from(carried.file), FlockArg::LockExclusiveNonblock).ok()?;
        let directory = Self { path: carried.directory, lock };
        directory.is_ours().then_some(directory)
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Another handle on the lock, for the next image.
    ///
    /// # Errors
    /// `EMFILE`.
    pub(super) fn carried(&self) -> io::Result<CarriedLock> {
        Ok(CarriedLock { file: self.lock.try_clone()?.into(), directory: self.path.clone() })
    }

    /// Writes the file of a worker, in one piece for whoever reads it.
    ///
    /// # Errors
    /// Those of open(2), write(2) and rename(2): a full disk, a directory that has gone.
    pub(super) fn write_worker(&self, id: u32, pid: i32) -> io::Result<()> {
        let (new, name) = (self.path.join(format!(".worker.{id}.pid")), self.path.join(format!("worker.{id}.pid")));
        let written = create(&new).and_then(|mut file| writeln!(file, "{pid}")).and_then(|()| fs::rename(&new, name));
        written.inspect_err(|_| drop(fs::remove_file(&new)))
    }

    /// Removes the file of a worker. One that is not there is no error.
    pub(super) fn remove_worker(&self, id: u32) -> io::Result<()> {
        match fs::remove_file(self.path.join(format!("worker.{id}.pid"))) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// Removes the files of all workers but those to `keep`.
    ///
    /// # Errors
    /// Those of reading the directory and of unlink(2).
    pub(super) fn retain_workers(&self, keep: impl Fn(u32) -> bool) -> io::Result<()> {
        for entry in fs::read_dir(&self.path)? {
            let id = entry?.file_name().to_str().and_then(id_in);
            if let Some(id) = id.filter(|id| !keep(*id)) {
                self.remove_worker(id)?;
            }
        }
        Ok(())
    }

    /// The name still means the file that is locked.
    fn is_ours(&self) -> bool {
        is_same(&self.lock, &self.path.join(PRIMARY))
    }
}

impl Drop for Directory {
    /// Removes the primary's file, if it is still ours, and then gives the lock up.
    fn drop(&mut self) {
        if self.is_ours() {
            // Nothing to do about it: the next primary takes it for what it is.
            let _ = fs::remove_file(self.path.join(PRIMARY));
        }
    }
}

/// The id in `worker.ID.pid`.
fn id_in(name: &str) -> Option<u32> {
    let id = name.strip_prefix("worker.")?.strip_suffix(".pid")?;
    id.parse().ok().filter(|_| id.bytes().all(|it| it.is_ascii_digit()))
}

fn write_locked(path: &Path) -> io::Result<Flock<File>> {
    let mut file = create(path)?;
    writeln!(file, "{}", std::process::id())?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, error)| error.into())
}

/// A new file, in the place of whatever has this name. The directory may be the workers' user's, and this process root:
/// a link that is there leads nowhere.
fn create(path: &Path) -> io::Result<File> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    File::options().write(true).create_new(true).mode(0o644).open(path)
}

/// Gives `own` the name `name` too, unless somebody alive has it.
fn put_in_place(own: &Path, name: &Path) -> Result<(), ClaimError> {
    for _ in 0..CLAIMS_MAX {
        match fs::hard_link(own, name) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            linked => return Ok(linked?),
        }
        let flags = (OFlag::O_NONBLOCK | OFlag::O_NOFOLLOW).bits();
        let mut before = match File::options().read(true).custom_flags(flags).open(name) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) if error.raw_os_error() == Some(Errno::ELOOP as i32) => return Err(ClaimError::Strange),
            opened => opened?,
        };
        let pid = pid_in(&mut before)?;
        match Flock::lock(before, FlockArg::LockExclusiveNonblock) {
            Err((_, Errno::EWOULDBLOCK)) => return Err(ClaimError::Alive(pid)),
            Err((_, error)) => return Err(io::Error::from(error).into()),
            // While it is locked here nobody else replaces it.
            Ok(stale) if is_same(&stale, name) => return Ok(fs::rename(own, name)?),
            // Its owner has just ended.
            Ok(_) => {}
        }
    }
    Err(io::Error::from(io::ErrorKind::ResourceBusy).into())
}

fn pid_in(file: &mut File) -> Result<String, ClaimError> {
    let mut text = String::new();
    let is_read = file.metadata()?.is_file() && file.take(PID_MAX_BYTES).read_to_string(&mut text).is_ok();
    let pid = text.trim();
    match is_read && pid.bytes().all(|it| it.is_ascii_digit()) {
        true => Ok(pid.to_owned()),
        false => Err(ClaimError::Strange),
    }
}

fn is_same(file: &File, name: &Path) -> bool {
    let identity = |it: fs::Metadata| (it.dev(), it.ino());
    let of_name = fs::symlink_metadata(name).map(identity).ok();
    of_name.is_some() && of_name == file.metadata().map(identity).ok()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn nothing_is_written_through_links_that_somebody_has_put_there() {
        let place = std::env::temp_dir().join(format!("croupier-pid-links-{}", std::process::id()));
        fs::create_dir(&place).unwrap();
        let precious = place.join("precious");
        fs::write(&precious, "precious").unwrap();
        let names = [format!(".primary.pid.{}", std::process::id()), ".worker.7.pid".into(), "worker.7.pid".into()];
        names.iter().for_each(|name| symlink(&precious, place.join(name)).unwrap());
        let directory = Directory::claim(&place).unwrap();
        // That of a worker which a primary before this one has left; somebody is quick.
        symlink(&precious, place.join("worker.7.pid")).unwrap();
        directory.write_worker(7, 4711).unwrap();
        assert_eq!(fs::read_to_string(place.join("worker.7.pid")).unwrap(), "4711\n");
        assert!(!place.join("worker.7.pid").is_symlink());
        assert_eq!(fs::read_to_string(&precious).unwrap(), "precious");
        drop(directory);
        fs::remove_dir_all(&place).unwrap();
    }
}
