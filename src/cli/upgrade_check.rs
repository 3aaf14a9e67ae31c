//! `croupier upgrade-check`: a primary that is about to be replaced asks this program whether it could go on.

use std::ffi::OsString;
use std::io::Write;

use clap::Parser;

use super::arguments::{Arguments, Command, LogFormat, RunOptions, UpgradeCheckOptions};
use super::inherited::Passed;
use super::{Exit, Failure, log_writer, settings};
use crate::primary::reexec;
use crate::primary::reexec::state::State;

pub(super) fn upgrade_check(options: &UpgradeCheckOptions) -> Result<(), Failure> {
    let failed = |why: String| Failure::new(Exit::Usage, format!("upgrade-check: {why}"));
    let arguments = std::iter::once(OsString::from("croupier")).chain(options.arguments.iter().cloned());
    let arguments = Arguments::try_parse_from(arguments).map_err(|error| failed(error.to_string()))?;
    let run = match arguments.command {
        None => RunOptions::bare(),
        Some(Command::Run(run)) => *run,
        Some(_) => return Err(failed("these are not the arguments of a primary".into())),
    };
    log_writer::speak(run.log_format.unwrap_or(LogFormat::Text));
    settings::resolve(run, Passed::default())?;
    match State::claim() {
        Ok(Some(_)) => {}
        Ok(None) => return Err(failed("there is no state to look at; a primary asks this, people do not".into())),
        Err(error) => return Err(failed(error.to_string())),
    }
    // Nobody reads: then nobody is convinced either.
    let _ = writeln!(std::io::stdout(), "{}", reexec::agreed_line());
    Ok(())
}
