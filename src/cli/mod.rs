//! The command line: arguments in, exit code out. It is one user of [`primary`](crate::primary) and
//! [`worker`](crate::worker), and nothing in there knows of it.

mod arguments;
mod check;
mod client;
mod config_file;
mod demo;
mod dialect;
mod doors;
mod event_log;
mod inherited;
mod log_writer;
mod manual;
mod notify;
mod pid_files;
mod prefixed;
mod program;
mod rereading;
mod run;
mod runtime_directory;
mod settings;
mod sources;
mod upgrade_check;
mod writer;

use std::process::ExitCode;

use clap::CommandFactory;

use arguments::{Arguments, Command, LogFormat};
use sources::{Asked, NotAsked};

/// The exit codes of `croupier`. Their meaning is fixed: scripts and service managers go by them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Exit {
    /// It did what it was asked to, and ended when it was asked to.
    Clean = 0,
    /// It failed while running; workers had to be killed; a client command that found no primary, or was refused.
    Failed = 1,
    /// The arguments make no sense.
    Usage = 2,
    /// Another primary of that name runs.
    NameTaken = 3,
    /// A listener could not be bound.
    CannotListen = 4,
    /// Workers cannot be started.
    CannotStartWorkers = 5,
}

/// A reason to end, in one line that names the thing and the remedy.
#[derive(Debug)]
struct Failure {
    exit: Exit,
    line: String,
}

impl Failure {
    fn new(exit: Exit, line: impl Into<String>) -> Self {
        Self { exit, line: line.into() }
    }
}

/// Runs the command that this process was started with.
pub fn main() -> ExitCode {
    let Asked { command, given } = match sources::read(std::env::args_os()) {
        Ok(asked) => asked,
        Err(NotAsked::Failed(failure)) => {
            if asked_for_json() {
                log_writer::speak(LogFormat::Json);
            }
            return conclude(Err(failure));
        }
        Err(NotAsked::Help(text)) => {
            // Nobody reads: nothing to do about it.
            let _ = text.print();
            return conclude(Ok(()));
        }
    };
    conclude(match command {
        Command::Run(options) => run::run(*options, &given),
        Command::Check(options) => check::check(*options, &given),
        Command::Status(options) => client::status(&options),
        Command::Reload(target) => client::reload(&target),
        Command::Upgrade(target) => client::upgrade(&target),
        Command::Scale(options) => client::scale(&options),
        Command::Enable(target) => client::enable(&target),
        Command::Disable(target) => client::disable(&target),
        Command::Events(options) => client::events(&options),
        Command::Shutdown(options) => client::shutdown(&options),
        Command::Stop(options) => client::stop(&options),
        Command::Demo(options) => demo::demo(&options),
        Command::Completions(options) => {
            manual::print_completions(options.shell);
            Ok(())
        }
        Command::Man => {
            manual::print();
            Ok(())
        }
        Command::UpgradeCheck(options) => upgrade_check::upgrade_check(&options),
    })
}

/// The one line of a failure, and the exit code.
fn conclude(done: Result<(), Failure>) -> ExitCode {
    let exit = match done {
        Ok(()) => Exit::Clean,
        Err(failure) => {
            log_writer::say(&failure.line);
            failure.exit
        }
    };
    writer::flush();
    ExitCode::from(exit as u8)
}

/// Arguments that cannot be read may still say how they want to be answered.
fn asked_for_json() -> bool {
    let words: Vec<String> = std::env::args_os().filter_map(|word| word.into_string().ok()).collect();
    let is_given = words.iter().any(|word| word == "--log-format=json")
        || words.windows(2).any(|pair| pair[0] == "--log-format" && pair[1] == "json");
    is_given || std::env::var("CROUPIER_LOG_FORMAT").is_ok_and(|value| value == "json")
}

/// What clap has against the arguments or the variables, as one line with a remedy.
fn one_line(error: &clap::Error) -> String {
    let text = error.render().to_string();
    let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let what = lines.next().unwrap_or_default().trim_start_matches("error: ").to_owned();
    let missing: Vec<&str> = lines.clone().take_while(|line| line.starts_with(['<', '[', '-'])).collect();
    let tip = lines.find_map(|line| line.strip_prefix("tip: "));
    let line = [vec![what.as_str()], missing].concat().join(" ");
    let subcommand = std::env::args().nth(1).filter(|name| Arguments::command().find_subcommand(name).is_some());
    let help = || format!("see croupier {}--help", subcommand.map_or(String::new(), |name| name + " "));
    format!("{line}; {}", tip.map_or_else(help, str::to_owned))
}
