//! How workers are to be spoken to: as `--dialect` says, or as their program needs it; and what does not go together
//! with that.

mod env;
mod node_program;
mod refusals;
mod wrapper;

use serde::Deserialize;

use super::arguments::{DialectChoice, RunOptions};
use super::program::Place;
use super::{Exit, Failure, config_file};
use crate::primary::listener_spec::ListenerSpec;
use crate::primary::settings::{Command, DialectKind};
use crate::primary::supervisor::GaveUp;
use wrapper::Scripts;

/// What of a `package.json` matters here.
#[derive(Deserialize)]
struct Package {
    #[serde(default)]
    scripts: Scripts,
}

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

/// What will not be as expected with this command: what happens, and what to write instead.
pub(super) fn warning(command: &Command) -> Option<String> {
    let (what, remedy) = (command.display(), instead(command)?);
    Some(format!("`{what}` becomes the worker itself, and what it starts would listen beside croupier; {remedy}"))
}

/// What may help when workers of this command do not start.
pub(super) fn remedy(command: &Command, why: GaveUp) -> String {
    if let Some(instead) = instead(command).filter(|_| why != GaveUp::NoCommand) {
        return format!("it becomes the worker itself, and what it starts is none: {instead}");
    }
    match (why, command.dialect) {
        (GaveUp::NoCommand, _) => "check the path after --",
        (GaveUp::Burst, DialectKind::Native) => {
            "run it by hand to see what it says (if it starts Node, write --dialect node)"
        }
        (GaveUp::Burst, DialectKind::Node) => {
            "run it by hand to see what it says; if it starts the server as a process of its own, write that after --"
        }
        (GaveUp::NeverReady, DialectKind::Native) => {
            "it must use croupier's worker library (if it starts Node, write --dialect node); \
             if it only starts slowly, raise --start-timeout"
        }
        (GaveUp::NeverReady, DialectKind::Node) => {
            "it must be Node with a program in a file, which with --wait-ready has to say process.send('ready'); \
             if it only starts slowly, raise --start-timeout"
        }
    }
    .to_owned()
}

/// What to write instead of a command that is a Node program only to start another one.
fn instead(command: &Command) -> Option<String> {
    if command.dialect != DialectKind::Node {
        return None;
    }
    let words: Vec<String> =
        std::iter::once(&command.program).chain(&command.arguments).map(|it| it.to_string_lossy().into()).collect();
    let instead = wrapper::instead_of(&words, &scripts(command))?;
    Some(match instead.0.and_then(|words| shlex::try_join(words.iter().map(String::as_str)).ok()) {
        Some(better) => format!("write -- {better}"),
        None => "write what it runs, like -- node server.js".to_owned(),
    })
}

/// Those of the package that workers run in; none if there is no such file, or it makes no sense.
fn scripts(command: &Command) -> Scripts {
    let file = command.directory.clone().unwrap_or_default().join("package.json");
    let bytes = config_file::read_bytes(&file).unwrap_or_default();
    serde_json::from_slice(&bytes).map(|package: Package| package.scripts).unwrap_or_default()
}
