//! Where the program of a command is: looked for as the process that executes it does, in its directory and with its
//! `PATH`. It executes nothing.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use nix::unistd::{AccessFlags, access};

use crate::primary::settings::Command;

/// Where programs are looked for.
#[derive(Debug, Clone)]
pub(super) struct Place {
    /// What relative paths count from; empty: this process's directory.
    pub(super) directory: PathBuf,
    /// Where names without a slash are looked for, as in `PATH`.
    pub(super) path: OsString,
}

impl Place {
    /// Where a worker of this command is started.
    pub(super) fn of(command: &Command) -> Self {
        let own_path = command.variables.iter().rev().find(|(name, _)| name == "PATH").map(|(_, value)| value.clone());
        Self {
            directory: command.directory.clone().unwrap_or_default(),
            path: own_path.or_else(|| std::env::var_os("PATH")).unwrap_or_default(),
        }
    }

    /// The file that `program` means here; `None`: there is none that this process may execute.
    pub(super) fn find(&self, program: &OsStr) -> Option<PathBuf> {
        let program = Path::new(program);
        let has_slash = program.components().count() > 1 || program.is_absolute();
        let executable = |file: &Path| {
            let file = self.directory.join(file);
            // To a directory X_OK means that it may be entered.
            (file.is_file() && access(&file, AccessFlags::X_OK).is_ok()).then_some(file)
        };
        match has_slash {
            true => executable(program),
            false => std::env::split_paths(&self.path).find_map(|folder| executable(&folder.join(program))),
        }
    }
}
