//! `croupier upgrade-check`: a primary that is about to be replaced asks this program whether it could go on.

use std::ffi::OsString;
use std::io::Write;

use super::arguments::{Command, LogFormat, UpgradeCheckOptions};
use super::inherited::Passed;
use super::sources::NotAsked;
use super::{Exit, Failure, log_writer, settings, sources};
use crate::primary::reexec;
use crate::primary::reexec::state::State;

pub(super) fn upgrade_check(options: &UpgradeCheckOptions) -> Result<(), Failure> {
    let checked = take_over(options);
    let answer = checked.as_ref().map_or_else(|failure| failure.line.clone(), |()| reexec::agreed_line());
    // Nobody reads: then nobody is convinced either.
    let _ = writeln!(std::io::stdout(), "{answer}");
    checked
}

fn take_over(options: &UpgradeCheckOptions) -> Result<(), Failure> {
    let failed = |why: String| Failure::new(Exit::Usage, format!("upgrade-check: {why}"));
    let words = std::iter::once(OsString::from("croupier")).chain(options.arguments.iter().cloned());
    let asked = sources::read(words).map_err(|not_asked| match not_asked {
        NotAsked::Failed(failure) => failure,
        NotAsked::Help(_) => failed("these arguments only ask for help".into()),
    })?;
    let Command::Run(run) = asked.command else {
        return Err(failed("these are not the arguments of a primary".into()));
    };
    log_writer::speak(run.log_format.unwrap_or(LogFormat::Text));
    settings::resolve(*run, Passed::default()).map_err(|failure| asked.given.blame(failure))?;
    match State::claim() {
        Ok(Some(_)) => Ok(()),
        Ok(None) => Err(failed("there is no state to look at; a primary asks this, people do not".into())),
        Err(error) => Err(failed(error.to_string())),
    }
}
