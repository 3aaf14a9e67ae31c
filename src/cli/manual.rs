//! The manual page and the completions of shells. Both are made from the definition of the arguments; what the page
//! says beyond it (signals, exit codes, files) stands here.

use std::io::Write;

use clap::CommandFactory;
use clap_complete::Shell;
use clap_mangen::Man;
use clap_mangen::roff::{Inline, Roff, bold, roman};

use super::arguments::Arguments;

const NAME: &str = "croupier";

const CONFIGURATION_FILE: &str = "A TOML file. Its keys are the long options of run; an option that may be repeated \
    takes a list, one without a value true or false. The key command takes the worker's program and its arguments, the \
    key env a list of K=V or a table. Flags come before CROUPIER_* variables, those before the file. SIGHUP and \
    croupier reload read it again. croupier check prints one with what is in force.";

const SIGNALS: [(&str, &str); 7] = [
    (
        "TERM, QUIT",
        "End: every client is served to the end, workers finish. What has not after --shutdown-timeout is cut off.",
    ),
    ("INT", "The same; a second one ends at once: TERM to every worker, KILL after --kill-delay."),
    ("HUP", "Read the configuration file again, and replace every worker, one after the other."),
    ("USR1", "Open log and event files again."),
    ("USR2", "Replace the primary's program by what is now at its path; workers and connections stay."),
    ("TTIN, TTOU", "One worker more, one fewer."),
    ("CHLD", "As PID 1: reap whoever has lost its parent."),
];

const EXIT_STATUS: [(&str, &str); 7] = [
    ("0", "It did what it was asked to, and ended when it was asked to."),
    ("1", "It failed while running, or workers had to be cut off; a client command found no primary, or was refused."),
    ("2", "Arguments, variables or the configuration file make no sense. Nothing was started."),
    ("3", "Another primary of that name runs, or keeps its files in that --pid-dir."),
    ("4", "A listener could not be bound."),
    ("5", "Workers cannot be started."),
    ("101", "A bug: please report it."),
];

const ENVIRONMENT: [(&str, &str); 8] = [
    ("WEB_CONCURRENCY", "How many workers, if neither --workers nor the configuration file says it."),
    ("RUST_LOG", "What is logged, as env_logger reads it."),
    ("XDG_RUNTIME_DIR", "Where the directory of the control sockets is."),
    ("LISTEN_PID, LISTEN_FDS, LISTEN_FDNAMES", "Listening sockets from systemd. They are not handed on to workers."),
    ("NOTIFY_SOCKET, WATCHDOG_PID, WATCHDOG_USEC", "Where systemd is told of READY, RELOADING, STOPPING and WATCHDOG."),
    ("CROUPIER_CHANNEL", "In a worker: the descriptor of its control channel."),
    ("CROUPIER_WORKER_ID", "In a worker: its number, never used again."),
    ("CROUPIER_GENERATION", "In a worker: how many reloads there had been when it was started."),
];

const FILES: [(&str, &str); 4] = [
    ("$XDG_RUNTIME_DIR/croupier/NAME.sock", "The control socket: HTTP/1.1 with JSON, for the same user and root."),
    ("/run/croupier/NAME.sock", "The same for root, without XDG_RUNTIME_DIR."),
    ("/tmp/croupier-UID/NAME.sock", "The same for others, without XDG_RUNTIME_DIR."),
    ("DIR/primary.pid, DIR/worker.ID.pid", "With --pid-dir DIR: the numbers of the processes that run."),
];

const EXAMPLES: [(&str, &str); 4] = [
    ("croupier", "Deals 127.0.0.1:8000 to one demo worker per CPU."),
    (
        "croupier run --listen 0.0.0.0:80 --workers 4 -- ./my-worker",
        "Four workers of a program that links the library.",
    ),
    ("croupier check --config /etc/croupier.toml", "Is it right, and what would be in force?"),
    ("croupier shutdown --wait 1m", "Ends the only primary that runs, and fails if that takes longer."),
];

/// Prints the manual page.
pub(super) fn print() {
    // Nobody reads: nothing to do about it.
    let _ = std::io::stdout().write_all(&page());
}

/// Prints the completions of `shell`.
pub(super) fn print_completions(shell: Shell) {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Arguments::command(), NAME, &mut script);
    // As above.
    let _ = std::io::stdout().write_all(&script);
}

fn page() -> Vec<u8> {
    let mut page = Vec::new();
    write_page(&mut page).expect("a vector takes everything");
    page
}

fn write_page(page: &mut Vec<u8>) -> std::io::Result<()> {
    let mut definition = Arguments::command();
    definition.build();
    let man = Man::new(definition.clone()).manual("User Commands");
    man.render_title(page)?;
    man.render_name_section(page)?;
    man.render_synopsis_section(page)?;
    man.render_description_section(page)?;
    let run = definition.find_subcommand("run");
    let commands = || definition.get_subcommands().filter(|it| !it.is_hide_set() && it.get_name() != "help");
    Roff::new().control("SH", ["COMMANDS"]).to_writer(page)?;
    for command in commands() {
        write_head(command.clone(), page)?;
        let is_like_run =
            |run: &clap::Command| command.get_name() != "run" && run.get_arguments().eq(command.get_arguments());
        match run.is_some_and(is_like_run) {
            true => Roff::new().control("PP", []).text([roman("Its options are those of run.")]).to_writer(page)?,
            false => write_options(command.clone(), page)?,
        }
    }
    Roff::new().control("SH", ["CONFIGURATION FILE"]).text([roman(CONFIGURATION_FILE)]).to_writer(page)?;
    let own = commands().flat_map(|it| it.get_arguments()).filter_map(|it| Some((it.get_env()?, it.get_long()?)));
    let mut own: Vec<(String, String)> =
        own.map(|(name, long)| (name.to_string_lossy().into_owned(), format!("As --{long}."))).collect();
    own.sort();
    own.dedup();
    let own = own.iter().map(|(name, what)| (name.as_str(), what.as_str()));
    section("SIGNALS", SIGNALS, page)?;
    section("EXIT STATUS", EXIT_STATUS, page)?;
    section("ENVIRONMENT", own.chain(ENVIRONMENT), page)?;
    section("FILES", FILES, page)?;
    section("EXAMPLES", EXAMPLES, page)?;
    man.render_version_section(page)
}

/// How a command is written, and what it is for.
fn write_head(mut command: clap::Command, page: &mut Vec<u8>) -> std::io::Result<()> {
    let usage = command.render_usage().to_string();
    let usage = usage.trim_start_matches("Usage: ").lines().next().unwrap_or_default().to_owned();
    let about = command.get_about().map(ToString::to_string).unwrap_or_default();
    Roff::new().control("SS", [usage.as_str()]).text([roman(about)]).to_writer(page)
}

fn write_options(command: clap::Command, page: &mut Vec<u8>) -> std::io::Result<()> {
    let mut options = Vec::new();
    Man::new(command.disable_help_flag(true)).render_options_section(&mut options)?;
    // Its heading is one of a page of its own.
    let options = String::from_utf8_lossy(&options).replacen(".SH OPTIONS\n", "", 1);
    page.write_all(options.as_bytes())
}

fn section<'a>(
    title: &str,
    entries: impl IntoIterator<Item = (&'a str, &'a str)>,
    page: &mut Vec<u8>,
) -> std::io::Result<()> {
    let mut roff = Roff::new();
    roff.control("SH", [title]);
    for (name, what) in entries {
        let (name, what): (Inline, Inline) = (bold(name), roman(what));
        roff.control("TP", []).text([name]).text([what]);
    }
    roff.to_writer(page)
}
