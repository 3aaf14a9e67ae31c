//! How workers are to be spoken to: as `--dialect` says, or as their program needs it.

mod env;
mod node_program;
mod refusals;

use super::arguments::{DialectChoice, RunOptions};
use super::program::Place;
use super::{Exit, Failure};
use crate::primary::listener_spec::ListenerSpec;
use crate::primary::settings::{Command, DialectKind};

/// The dialect of this command. Files are read, but only if nobody has said it.
pub(super) fn resolve(choice: Option<DialectChoice>, command: &Command) -> DialectKind {
    match choice {
        Some(DialectChoice::Native) => DialectKind::Native,
        Some(DialectChoice::Node) => DialectKind::Node,
        None | Some(DialectChoice::Auto) => {
            let words = std::iter::once(&command.program).chain(&command.arguments).cloned();
            match node_program::is_node(words.collect(), Place::of(command)) {
                true => DialectKind::Node,
                false => DialectKind::Native,
            }
        }
    }
}

/// Whether workers of this command can be what these options ask for.
///
/// # Errors
/// [`Exit::Usage`], with the option.
pub(super) fn check(options: &RunOptions, listeners: &[ListenerSpec], command: &Command) -> Result<(), Failure> {
    match refusals::refused(options, listeners, command) {
        None => Ok(()),
        Some(line) => Err(Failure::new(Exit::Usage, line)),
    }
}
