//! Unix sockets at any path, also one that does not fit into `sockaddr_un`.
//!
//! The kernel takes 107 bytes and a final zero (unix(7)). A longer path is reached from a shorter one: relative to
//! the working directory, or through a descriptor of its directory in `/proc/self/fd` (proc(5)).

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;

/// The longest path that the kernel takes as it is.
const DIRECT_MAX_BYTES: usize = 107;

/// A way to a socket file that the kernel takes, for as long as it lives.
#[derive(Debug)]
pub struct SocketPath {
    path: PathBuf,
    _directory: Option<OwnedFd>,
}

impl SocketPath {
    /// A way to `path`. Its directory must be there; the file need not.
    ///
    /// # Errors
    /// `ENAMETOOLONG` if the file's own name is too long; those of open(2) for its directory.
    pub fn to(path: &Path) -> io::Result<Self> {
        let fits = |path: &Path| path.as_os_str().len() <= DIRECT_MAX_BYTES;
        let direct = |path: &Path| Self { path: path.to_owned(), _directory: None };
        if fits(path) {
            return Ok(direct(path));
        }
        let here = std::env::current_dir().ok();
        if let Some(relative) = here.and_then(|here| path.strip_prefix(here).ok()).filter(|path| fits(path)) {
            return Ok(direct(relative));
        }
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(io::Error::from_raw_os_error(nix::libc::EINVAL));
        };
        let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
        let directory = open(parent, OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())?;
        let path = Path::new("/proc/self/fd").join(directory.as_raw_fd().to_string()).join(name);
        if !fits(&path) {
            return Err(io::Error::from_raw_os_error(nix::libc::ENAMETOOLONG));
        }
        Ok(Self { path, _directory: Some(directory) })
    }

    /// The socket address.
    ///
    /// # Errors
    /// `InvalidInput` for a path with a zero byte.
    pub fn address(&self) -> io::Result<socket2::SockAddr> {
        if self.path.as_os_str().as_bytes().contains(&0) || self.path.as_os_str() == OsStr::new("") {
            return Err(io::Error::from_raw_os_error(nix::libc::EINVAL));
        }
        socket2::SockAddr::unix(&self.path)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn a_socket_can_be_bound_and_reached_at_a_path_of_any_length() {
        let top = std::env::temp_dir().join(format!("croupier-socket-path-{}", std::process::id()));
        let deep = top.join("x".repeat(100)).join("y".repeat(100));
        std::fs::create_dir_all(&deep).unwrap();
        for path in [top.join("short"), deep.join("long")] {
            let socket = socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::STREAM, None).unwrap();
            socket.bind(&SocketPath::to(&path).unwrap().address().unwrap()).unwrap();
            socket.listen(1).unwrap();
            assert!(path.exists());
            let client = socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::STREAM, None).unwrap();
            client.connect(&SocketPath::to(&path).unwrap().address().unwrap()).unwrap();
            drop(UnixStream::from(client));
        }
        let name = SocketPath::to(&deep.join("z".repeat(100))).unwrap_err();
        assert_eq!(name.raw_os_error(), Some(nix::libc::ENAMETOOLONG));
        let nowhere = SocketPath::to(&deep.join("missing").join("s")).unwrap_err();
        assert_eq!(nowhere.raw_os_error(), Some(nix::libc::ENOENT));
        std::fs::remove_dir_all(top).unwrap();
    }
}
