//! The path of the control socket: claimed at the start, given back at the end.
//!
//! Claiming replaces what a dead primary left behind and nothing else. The directory is locked meanwhile, so that two
//! primaries that start at once cannot both take the other's fresh socket for an abandoned one.

use std::fs::{self, File, Metadata, Permissions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::sys::socket::{getsockopt, sockopt};
use nix::sys::stat::{Mode, fchmod};
use nix::unistd::geteuid;
use socket2::{Domain, SockAddr, Socket, Type};

use crate::primary::reexec::CarriedSocket;

/// The longest path that fits into `sockaddr_un`, with its final zero. Source: unix(7).
const PATH_MAX_BYTES: usize = 107;
/// For its user alone.
const MODE: u32 = 0o600;
/// Clients that wait for a place among the connections.
const BACKLOG: i32 = 128;
/// How long another one may hold the lock of the directory; it does for microseconds. Then it goes without.
const LOCK_TRIES_MAX: u32 = 100;
const LOCK_AGAIN: Duration = Duration::from_millis(5);

/// A control socket that is bound and listens. Dropping it leaves its file: [`Admin`](super::Admin) removes it.
#[derive(Debug)]
pub struct ControlSocket {
    path: PathBuf,
    listener: Option<UnixListener>,
    /// Device and inode: what stands there later need not be ours.
    identity: (u64, u64),
}

/// A path could not be claimed. Nothing was removed.
#[derive(Debug, thiserror::Error)]
pub enum ClaimError {
    /// Too long for a socket.
    #[error("the control socket's path is longer than {PATH_MAX_BYTES} bytes: {}", .0.display())]
    TooLong(PathBuf),
    /// Something stands there that no primary of this user has made.
    #[error("the control socket's path is taken: {} is {what}", path.display())]
    Taken {
        /// The path.
        path: PathBuf,
        /// What stands there.
        what: &'static str,
    },
    /// Somebody listens there.
    #[error("another primary listens on {} (pid {pid})", path.display())]
    Alive {
        /// The path.
        path: PathBuf,
        /// Its process, 0 if it is in another pid namespace.
        pid: i32,
    },
    /// Anything else.
    #[error("make the control socket {}: {error}", path.display())]
    Io {
        /// The path.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
}

impl ControlSocket {
    /// Binds `path` with mode 0600 and listens. A socket that a dead primary of this user left there is replaced.
    ///
    /// # Errors
    /// [`ClaimError`].
    pub fn claim(path: &Path) -> Result<Self, ClaimError> {
        if path.as_os_str().len() > PATH_MAX_BYTES {
            return Err(ClaimError::TooLong(path.to_owned()));
        }
        let io = |error| ClaimError::Io { path: path.to_owned(), error };
        let _lock = lock_directory_of(path);
        match fs::symlink_metadata(path) {
            Ok(file) => {
                check_abandoned(path, &file)?;
                fs::remove_file(path).map_err(io)?;
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(io(error)),
        }
        let (listener, identity) = bind(path).map_err(io)?;
        Ok(Self { path: path.to_owned(), listener: Some(listener), identity })
    }

    /// Goes on with one that came over an exec.
    ///
    /// # Errors
    /// Those of fcntl(2); none is expected.
    pub fn restore(carried: CarriedSocket) -> io::Result<Self> {
        let listener = UnixListener::from(carried.socket);
        listener.set_nonblocking(true)?;
        Ok(Self { path: carried.path, listener: Some(listener), identity: carried.identity })
    }

    /// Another handle on it, for the next image.
    ///
    /// # Errors
    /// `EMFILE`.
    pub fn carried(&self) -> io::Result<CarriedSocket> {
        let listener =
            self.listener.as_ref().ok_or_else(|| io::Error::other("the control socket is served already"))?;
        let socket = OwnedFd::from(listener.try_clone()?);
        Ok(CarriedSocket { socket, path: self.path.clone(), identity: self.identity })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The listening socket, non-blocking; once.
    pub(super) fn take_listener(&mut self) -> io::Result<UnixListener> {
        self.listener.take().ok_or_else(|| io::Error::other("the control socket is served already"))
    }

    /// Removes the file, unless somebody has replaced it.
    pub(super) fn remove(&self) {
        let _lock = lock_directory_of(&self.path);
        if fs::symlink_metadata(&self.path).is_ok_and(|file| identity_of(&file) == self.identity) {
            // Somebody else was faster.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Whether anybody listens on the socket at `path`, and who: its process (0: of another pid namespace).
///
/// # Errors
/// Those of connect(2), but for `ECONNREFUSED` and `ENOENT`, which are `None`.
pub fn is_alive(path: &Path) -> io::Result<Option<i32>> {
    // With a full backlog a blocking one would wait for whoever does not accept.
    let socket = Socket::new(Domain::UNIX, Type::STREAM.nonblocking().cloexec(), None)?;
    match socket.connect(&SockAddr::unix(path)?) {
        Ok(()) => Ok(Some(getsockopt(&socket, sockopt::PeerCredentials).map_or(0, |peer| peer.pid()))),
        Err(error) => match error.raw_os_error().map(Errno::from_raw) {
            Some(Errno::ECONNREFUSED | Errno::ENOENT) => Ok(None),
            Some(Errno::EAGAIN) => Ok(Some(0)),
            _ => Err(error),
        },
    }
}

/// The file is a socket of ours that nobody listens on any more.
fn check_abandoned(path: &Path, file: &Metadata) -> Result<(), ClaimError> {
    let taken = |what| Err(ClaimError::Taken { path: path.to_owned(), what });
    if !file.file_type().is_socket() {
        return taken("a file that is no socket");
    }
    match is_alive(path) {
        Ok(Some(pid)) => Err(ClaimError::Alive { path: path.to_owned(), pid }),
        Ok(None) if file.uid() == geteuid().as_raw() => Ok(()),
        Ok(None) => taken("a socket of another user"),
        Err(error) if error.raw_os_error() == Some(Errno::EPROTOTYPE as i32) => {
            taken("a socket of another kind, which no primary has made")
        }
        Err(error) => Err(ClaimError::Io { path: path.to_owned(), error }),
    }
}

fn bind(path: &Path) -> io::Result<(UnixListener, (u64, u64))> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM.nonblocking().cloexec(), None)?;
    // The file gets the mode of the socket, less the umask: never wider than this, not even for a moment. Source:
    // unix_bind() in net/unix/af_unix.c.
    fchmod(&socket, Mode::from_bits_truncate(MODE))?;
    socket.bind(&SockAddr::unix(path)?)?;
    let file = fs::symlink_metadata(path)?;
    let identity = identity_of(&file);
    let is_usable = || match file.mode() & 0o777 {
        MODE => Ok(()),
        _ => fs::set_permissions(path, Permissions::from_mode(MODE)),
    };
    if let Err(error) = is_usable().and_then(|()| socket.listen(BACKLOG)) {
        let _ = fs::remove_file(path);
        return Err(error);
    }
    Ok((UnixListener::from(OwnedFd::from(socket)), identity))
}

fn identity_of(file: &Metadata) -> (u64, u64) {
    (file.dev(), file.ino())
}

/// Keeps other primaries from claiming or removing in the same directory. One that cannot be locked (not readable, or
/// held by somebody for too long) is used without: only two that start at the same moment could then disturb each
/// other.
fn lock_directory_of(path: &Path) -> Option<Flock<File>> {
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut file = File::open(directory).ok()?;
    for _ in 0..LOCK_TRIES_MAX {
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => return Some(lock),
            Err((again, Errno::EAGAIN)) => file = again,
            Err(_) => return None,
        }
        std::thread::sleep(LOCK_AGAIN);
    }
    log::debug!("directory={} stays locked [going without]", directory.display());
    None
}
