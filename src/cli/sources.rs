//! What this process is asked to do, from all its sources: flags, then `CROUPIER_*` variables, then the configuration
//! file. What the file says is put in front of the flags as further ones, unless a flag or a variable has said it.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clap::error::{ContextKind, ContextValue};
use clap::parser::ValueSource;
use clap::{Arg, ArgMatches, CommandFactory, FromArgMatches};

use super::arguments::{Arguments, Command};
use super::config_file::{self, COMMAND, Entry};
use super::{Exit, Failure};

/// The commands that take the options of a primary.
const WITH_FILE: [&str; 2] = ["run", "check"];

/// What is to be done, and from where that is known.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) command: Command,
    pub(super) given: Given,
}

/// The options of a primary that somebody has given, as text.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Given {
    /// By long option, without `--config`. A flag without a value has no words.
    pub(super) options: BTreeMap<String, Vec<String>>,
    file: Option<PathBuf>,
    /// Where in the file those stand that it was asked for.
    lines: BTreeMap<String, usize>,
}

/// Nothing is to be done.
#[derive(Debug)]
pub(super) enum NotAsked {
    /// Somebody wants to read help or the version.
    Help(clap::Error),
    /// The arguments, the variables or the file make no sense.
    Failed(Failure),
}

/// Reads `words`, which begin with the program's name, the variables, and the file that they name. `croupier` alone is
/// `croupier run`.
///
/// # Errors
/// [`NotAsked`].
pub(super) fn read(words: impl IntoIterator<Item = OsString>) -> Result<Asked, NotAsked> {
    let mut words: Vec<OsString> = words.into_iter().collect();
    if words.len() == 1 {
        words.push("run".into());
    }
    let mut definition = Arguments::command();
    definition.build();
    // Wrong flags are judged below, together with what the file adds.
    let tolerant = definition.clone().ignore_errors(true).try_get_matches_from(&words).map_err(not_asked)?;
    let mut given = Given::default();
    if let Some((name, matches)) = tolerant.subcommand()
        && WITH_FILE.contains(&name)
        && let Some(path) = matches.get_one::<PathBuf>("config")
        && let Some(run) = definition.find_subcommand(name)
    {
        let entries = config_file::read(path, run).map_err(usage)?;
        given.file = Some(path.clone());
        for entry in entries.into_iter().filter(|entry| !is_overruled(run, matches, &entry.key)) {
            given.lines.insert(entry.key.clone(), entry.line);
            add(&mut words, entry);
        }
    }
    let matches = definition.clone().try_get_matches_from(&words).map_err(|error| {
        let variable = variable_of(&error, &definition, &words);
        given.blame_clap(error, variable)
    })?;
    if let Some((name, matches)) = matches.subcommand()
        && WITH_FILE.contains(&name)
        && let Some(run) = definition.find_subcommand(name)
    {
        given.note_options(run, matches);
    }
    let arguments = Arguments::from_arg_matches(&matches).map_err(not_asked)?;
    Ok(Asked { command: arguments.command, given })
}

/// Whether a flag or a variable says it, or the opposite.
fn is_overruled(run: &clap::Command, matches: &ArgMatches, key: &str) -> bool {
    let Some(option) = config_file::option_of(run, key) else { return false };
    // clap knows of a conflict on the side where it is declared only.
    let excludes = |one: &Arg, other: &Arg| run.get_arg_conflicts_with(one).contains(&other);
    let overrules = |it: &Arg| it == option || excludes(it, option) || excludes(option, it);
    run.get_arguments().any(|it| is_given(matches, it) && overrules(it))
}

fn is_given(matches: &ArgMatches, option: &Arg) -> bool {
    let source = matches.value_source(option.get_id().as_str());
    matches!(source, Some(ValueSource::CommandLine | ValueSource::EnvVariable))
}

/// The option that an error is about, as clap writes it, and the variable that its value came from.
fn variable_of(error: &clap::Error, definition: &clap::Command, words: &[OsString]) -> Option<(String, String)> {
    let Some(ContextValue::String(shown)) = error.get(ContextKind::InvalidArg) else { return None };
    let command = definition.find_subcommand(words.get(1)?)?;
    let option = command.get_arguments().find(|option| option.to_string() == *shown)?;
    let is_flag_of_it = |word: &str| match word.strip_prefix("--") {
        Some(long) => option.get_long() == Some(long.split('=').next().unwrap_or_default()),
        None => option.get_short().is_some_and(|short| word.starts_with('-') && word.contains(short)),
    };
    let has_flag = words.iter().take_while(|word| *word != "--").any(|word| word.to_str().is_some_and(is_flag_of_it));
    let variable = option.get_env().filter(|_| !has_flag)?.to_string_lossy().into_owned();
    Some((shown.clone(), variable))
}

fn add(words: &mut Vec<OsString>, entry: Entry) {
    if entry.key != COMMAND {
        // After the program's name and that of its command.
        words.splice(2..2, entry.words);
        return;
    }
    if words.last().is_none_or(|last| last != "--") {
        words.push("--".into());
    }
    words.extend(entry.words);
}

fn usage(line: String) -> NotAsked {
    NotAsked::Failed(Failure::new(Exit::Usage, line))
}

fn not_asked(error: clap::Error) -> NotAsked {
    match error.use_stderr() {
        true => usage(super::one_line(&error)),
        false => NotAsked::Help(error),
    }
}

impl Given {
    /// Where the file is, if there is one.
    pub(super) fn file(&self) -> Option<&Path> {
        self.file.as_deref()
    }

    /// The options that `now` says otherwise.
    pub(super) fn changed_in<'a>(&'a self, now: &'a Self) -> impl Iterator<Item = &'a str> {
        let keys: BTreeSet<&String> = self.options.keys().chain(now.options.keys()).collect();
        keys.into_iter().filter(|key| self.options.get(*key) != now.options.get(*key)).map(String::as_str)
    }

    /// The failure of an option that the file has given names the file and the line. Failures that are about an option
    /// begin with its flag.
    pub(super) fn blame(&self, failure: Failure) -> Failure {
        let begins_with = |key: &str| {
            let rest = failure.line.strip_prefix("--").and_then(|line| line.strip_prefix(key));
            rest.filter(|rest| !rest.starts_with(is_of_a_name))
        };
        let blamed = self.lines.iter().find_map(|(key, at)| Some((key, at, begins_with(key)?)));
        if failure.exit == Exit::CannotStartWorkers
            && let (Some(file), Some(at)) = (&self.file, self.lines.get(COMMAND))
        {
            return Failure { line: format!("{}:{at}: {COMMAND}: {}", file.display(), failure.line), ..failure };
        }
        match (&self.file, blamed) {
            (Some(file), Some((key, at, rest))) => {
                Failure { line: format!("{}:{at}: {key}{rest}", file.display()), ..failure }
            }
            _ => failure,
        }
    }

    /// Each value of the file was good alone: what clap says then is about an option and another one.
    fn blame_clap(&self, error: clap::Error, variable: Option<(String, String)>) -> NotAsked {
        let not_asked = not_asked(error);
        let NotAsked::Failed(failure) = not_asked else { return not_asked };
        if let Some((option, variable)) = variable {
            return usage(failure.line.replace(&format!("'{option}'"), &variable));
        }
        let flags: Vec<&str> = failure.line.split(|it: char| !is_of_a_name(it)).collect();
        let concerned = |key: &str| flags.iter().any(|flag| flag.strip_prefix("--") == Some(key));
        match (&self.file, self.lines.iter().find(|(key, _)| concerned(key))) {
            (Some(file), Some((_, at))) => usage(format!("{}:{at}: {}", file.display(), failure.line)),
            _ => NotAsked::Failed(failure),
        }
    }

    fn note_options(&mut self, run: &clap::Command, matches: &ArgMatches) {
        for option in run.get_arguments().filter(|option| is_given(matches, option)) {
            let key = option.get_long().unwrap_or(COMMAND);
            if config_file::option_of(run, key).is_some() {
                let words = matches.get_raw(option.get_id().as_str()).into_iter().flatten();
                let words = words.filter(|_| option.get_action().takes_values());
                self.options.insert(key.to_owned(), words.map(|it| it.to_string_lossy().into_owned()).collect());
            }
        }
    }
}

fn is_of_a_name(it: char) -> bool {
    it == '-' || it.is_ascii_alphanumeric()
}
