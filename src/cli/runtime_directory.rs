//! Where control sockets are: `$XDG_RUNTIME_DIR/croupier`, else `/run/croupier` for root and `/tmp/croupier-UID` for
//! others. The directory is nobody else's (0700): otherwise another user could put a socket there first.

use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::unistd::geteuid;

/// What follows the name of a primary.
const SUFFIX: &str = ".sock";

/// Where the control socket of the primary `name` is.
pub(super) fn socket_of(name: &str) -> PathBuf {
    path().join(format!("{name}{SUFFIX}"))
}

/// Makes the directory if it is not there, and checks that it is ours alone.
///
/// # Errors
/// A text that names the directory and what is wrong with it.
pub(super) fn make() -> Result<(), String> {
    let path = path();
    match DirBuilder::new().mode(0o700).create(&path) {
        // A umask may have taken some of it away.
        Ok(()) => drop(fs::set_permissions(&path, Permissions::from_mode(0o700))),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(format!("cannot create the runtime directory {}: {error}", path.display())),
    }
    check(&path)
}

/// The control sockets in the directory, by name: those of dead primaries too.
///
/// # Errors
/// As [`make`]; a directory that is not there is empty.
pub(super) fn sockets() -> Result<Vec<(String, PathBuf)>, String> {
    let path = path();
    if !path.exists() {
        return Ok(Vec::new());
    }
    check(&path)?;
    let entries = fs::read_dir(&path).map_err(|error| format!("read {}: {error}", path.display()))?;
    let named = |file: PathBuf| Some((file.file_name()?.to_str()?.strip_suffix(SUFFIX)?.to_owned(), file));
    let mut sockets: Vec<_> = entries.flatten().filter_map(|entry| named(entry.path())).collect();
    sockets.sort();
    Ok(sockets)
}

fn path() -> PathBuf {
    let uid = geteuid();
    match std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from) {
        Some(directory) if directory.is_absolute() => directory.join("croupier"),
        _ if uid.is_root() => "/run/croupier".into(),
        _ => format!("/tmp/croupier-{uid}").into(),
    }
}

fn check(path: &Path) -> Result<(), String> {
    let found = fs::symlink_metadata(path).map_err(|error| format!("{}: {error}", path.display()))?;
    let is_ours = found.is_dir() && found.uid() == geteuid().as_raw();
    match found.mode() & 0o777 {
        _ if !is_ours => Err(format!("the runtime directory {} is no directory of this user", path.display())),
        0o700 => Ok(()),
        mode => Err(format!("the runtime directory {} has mode {mode:o} and needs 700 (chmod it)", path.display())),
    }
}
