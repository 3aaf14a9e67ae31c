//! The configuration read again for a reload. The arguments and the variables are those of the start; only the file can
//! say something new. What cannot change while croupier runs is named in one warning.

use super::arguments::Command;
use super::inherited::Passed;
use super::sources::{self, Asked, Given, NotAsked};
use super::{Failure, check, dialect, settings};
use crate::primary::settings::{Configuration, Settings};

/// What a reload puts in force: the plan at once, the rest for the workers that it starts. [`Settings::adopt`] does it.
const BY_RELOAD: [&str; 27] = [
    "chdir",
    "command",
    "connections-max",
    "declared-only",
    "dialect",
    "env",
    "group",
    "hang-timeout",
    "idle-timeout",
    "kill-delay",
    "node-depth",
    "queue-max",
    "recycle-after",
    "recycle-age",
    "recycle-rss",
    "redeal-timeout",
    "reload-parallel",
    "respawn",
    "respawn-burst",
    "shutdown-delay",
    "shutdown-message",
    "shutdown-timeout",
    "stall-after",
    "start-timeout",
    "user",
    "wait-ready",
    "workers",
];

/// What an upgrade takes over as it is.
const BY_RESTART: [&str; 8] =
    ["backlog", "control", "ipv6-only", "listen", "name", "policy", "proxy-protocol", "unix-mode"];

/// Where the settings come from, if there is a file. `at_start` is what was given then.
pub(super) fn configuration(at_start: Given, passed: Passed) -> Configuration {
    Configuration::new(move || {
        let Asked { command, given } = sources::read(std::env::args_os()).map_err(|not_asked| match not_asked {
            NotAsked::Failed(failure) => failure.line,
            NotAsked::Help(text) => text.to_string(),
        })?;
        let Command::Run(options) = command else {
            return Err("the arguments of this process are not those of a primary".into());
        };
        let settings = settings::resolve(*options, passed.clone());
        let settings = settings.and_then(checked).map_err(|failure| given.blame(failure).line)?;
        warn_of_what_stays(&at_start, &given);
        Ok(settings)
    })
}

fn checked(settings: Settings) -> Result<Settings, Failure> {
    check::find_program(&settings)?;
    if let Some(warning) = dialect::warning(&settings.command) {
        log::warn!("{warning}");
    }
    Ok(settings)
}

fn warn_of_what_stays(at_start: &Given, now: &Given) {
    let changed = at_start.changed_in(now).filter(|key| !BY_RELOAD.contains(key));
    let (by_restart, by_upgrade): (Vec<&str>, Vec<&str>) = changed.partition(|key| BY_RESTART.contains(key));
    let named = [(by_restart, "croupier is started anew"), (by_upgrade, "`croupier upgrade`")];
    let named = named.iter().filter(|(keys, _)| !keys.is_empty());
    let stays: Vec<String> = named.map(|(keys, until)| format!("{} until {until}", keys.join(", "))).collect();
    if let (false, Some(file)) = (stays.is_empty(), now.file()) {
        log::warn!("{}: a reload cannot change these [they stay]: {}", file.display(), stays.join("; "));
    }
}
