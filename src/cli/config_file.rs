//! The configuration file: TOML whose keys are the long options of `run`, with `command` and `env`. A value becomes the
//! words that a flag would be given, and the flag's own parser judges them: there is one definition of each option.
//!
//! ```toml
//! listen = ["127.0.0.1:8000"]
//! workers = 4
//! kill-delay = "500ms"
//! declared-only = true
//! command = ["node", "app.js"]
//! env = { MODE = "fast" }          # or ["MODE=fast"]
//! ```

use std::error::Error;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::Read;
use std::ops::Range;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use clap::error::{ContextKind, ContextValue};
use clap::{Arg, ArgAction};
use nix::fcntl::OFlag;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// The longest file that is read. A longer one is refused.
const FILE_MAX_BYTES: u64 = 1024 * 1024;
/// How much of a value stands in an error, in characters.
const QUOTED_MAX_CHARS: usize = 60;
/// The key of the positional arguments.
pub(super) const COMMAND: &str = "command";
/// The key that may be a table.
const ENV: &str = "env";
/// What only a flag or a variable can say.
const NO_KEYS: [&str; 3] = ["config", "help", "version"];

/// One key of the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    /// The long option, or [`COMMAND`].
    pub(super) key: String,
    /// Where it stands, from 1.
    pub(super) line: usize,
    /// The words that make it on the command line, flag by flag; those of the command.
    pub(super) words: Vec<OsString>,
}

/// The option that a key of the file means.
pub(super) fn option_of<'a>(run: &'a clap::Command, key: &str) -> Option<&'a Arg> {
    let is_meant = |arg: &&Arg| match arg.get_long() {
        Some(long) => long == key && !NO_KEYS.contains(&long),
        None => key == COMMAND && arg.is_last_set(),
    };
    run.get_arguments().find(is_meant)
}

/// What the file says, in its order. `run` defines the options.
///
/// # Errors
/// One line that names file, line, key and the remedy. Never waits: whatever is no plain file is refused unread.
pub(super) fn read(path: &Path, run: &clap::Command) -> Result<Vec<Entry>, String> {
    let whole = |why| format!("{}: {why}", path.display());
    let at_line = |(line, why)| format!("{}:{line}: {why}", path.display());
    let bytes = read_bytes(path).map_err(whole)?;
    parse(text_in(&bytes).map_err(at_line)?, run).map_err(at_line)
}

/// The whole of a plain file of at most [`FILE_MAX_BYTES`]. Never waits.
pub(super) fn read_bytes(path: &Path) -> Result<Vec<u8>, String> {
    let remedy = "; give --config a file that croupier may read";
    let failed = |error: std::io::Error| format!("{error}{remedy}");
    // Without O_NONBLOCK the open of a FIFO would wait for a writer. Source: fifo(7).
    let flags = (OFlag::O_NONBLOCK | OFlag::O_NOCTTY).bits();
    let file = File::options().read(true).custom_flags(flags).open(path).map_err(failed)?;
    if !file.metadata().map_err(failed)?.is_file() {
        return Err(format!("no plain file{remedy}"));
    }
    let mut bytes = Vec::new();
    file.take(FILE_MAX_BYTES + 1).read_to_end(&mut bytes).map_err(failed)?;
    match bytes.len() as u64 {
        0..=FILE_MAX_BYTES => Ok(bytes),
        _ => Err(format!("longer than {} KiB; give --config a file of options", FILE_MAX_BYTES / 1024)),
    }
}

fn text_in(bytes: &[u8]) -> Result<&str, Wrong> {
    str::from_utf8(bytes).map_err(|error| {
        let line = bytes[..error.valid_up_to()].split(|it| *it == b'\n').count();
        (line, "no UTF-8; save the file as UTF-8".to_owned())
    })
}

/// The number of a line and what is wrong there.
type Wrong = (usize, String);

fn parse(text: &str, run: &clap::Command) -> Result<Vec<Entry>, Wrong> {
    let line_of = |span: Range<usize>| 1 + text.bytes().take(span.start).filter(|it| *it == b'\n').count();
    let table = DeTable::parse(text).map_err(|error| {
        let what = error.message().lines().collect::<Vec<_>>().join(", ");
        let hint = "each key stands once, like workers = 4 or listen = [\"127.0.0.1:8000\"]";
        (line_of(error.span().unwrap_or(0..0)), format!("{what}; {hint}"))
    })?;
    let mut pairs: Vec<_> = table.get_ref().iter().collect();
    pairs.sort_by_key(|(key, _)| key.span().start);
    let mut entries = Vec::new();
    for (key, value) in pairs {
        let (line, key) = (line_of(key.span()), key.get_ref().as_ref());
        let option = option_of(run, key).ok_or_else(|| (line, unknown(key, run)))?;
        let words = words_of(key, value, option).map_err(|(at, why)| {
            let quoted = quote(&text[at.clone()]);
            (line_of(at), format!("{key} = {quoted}: {why}"))
        })?;
        entries.push(Entry { key: key.to_owned(), line, words });
    }
    Ok(entries)
}

/// clap knows which options are near.
fn unknown(key: &str, run: &clap::Command) -> String {
    let shown = quote(key);
    if NO_KEYS.contains(&key) {
        return format!("{shown}: only the command line can say this; leave it out");
    }
    let tried = run.clone().no_binary_name(true).try_get_matches_from([format!("--{key}")]);
    let suggested = tried.err().and_then(|error| match error.get(ContextKind::SuggestedArg) {
        Some(ContextValue::String(option)) => Some(option.trim_start_matches('-').to_owned()),
        _ => None,
    });
    match suggested.filter(|near| option_of(run, near).is_some()) {
        Some(near) => format!("{shown}: there is no such key; did you mean {near}?"),
        None => format!("{shown}: there is no such key; see the long options in `croupier run --help`"),
    }
}

/// The words for one key. An error names the part of the text that is wrong.
fn words_of(key: &str, value: &Spanned<DeValue<'_>>, option: &Arg) -> Result<Vec<OsString>, (Range<usize>, String)> {
    let whole = |why: &str| (value.span(), why.to_owned());
    let takes_values = option.get_action().takes_values();
    let takes_many = matches!(option.get_action(), ArgAction::Append);
    let may_be_bare = !takes_values || option.get_num_args().is_some_and(|count| count.min_values() == 0);
    let bare = || vec![format!("--{key}").into()];
    match value.get_ref() {
        DeValue::Boolean(is_set) if may_be_bare => Ok(if *is_set { bare() } else { Vec::new() }),
        _ if !takes_values => Err(whole("give true or false")),
        DeValue::Array(values) if key == COMMAND => match values.iter().map(text_of).collect::<Result<Vec<_>, _>>()? {
            words if words.is_empty() => Err(whole("give the program and its arguments, like [\"node\", \"app.js\"]")),
            words => Ok(words),
        },
        _ if key == COMMAND => Err(whole("give the program and its arguments in a list, like [\"node\", \"app.js\"]")),
        DeValue::Array(values) if takes_many => values.iter().map(|it| flag(key, option, text_of(it)?, it)).collect(),
        DeValue::Array(_) => Err(whole("give one value, not a list")),
        DeValue::Table(variables) if key == ENV => {
            let mut pairs: Vec<_> = variables.iter().collect();
            pairs.sort_by_key(|(name, _)| name.span().start);
            let word = |(name, it): (&Spanned<_>, &Spanned<_>)| {
                let text = text_of(it)?.into_string().unwrap_or_default();
                flag(key, option, format!("{}={text}", name.get_ref()).into(), it)
            };
            pairs.into_iter().map(word).collect()
        }
        DeValue::Table(_) => Err(whole("give a value: only env may be a table")),
        _ => Ok(vec![flag(key, option, text_of(value)?, value)?]),
    }
}

/// What a flag would be given for a single value.
fn text_of(value: &Spanned<DeValue<'_>>) -> Result<OsString, (Range<usize>, String)> {
    let whole = |why: &str| Err((value.span(), why.to_owned()));
    match value.get_ref() {
        DeValue::String(text) if text.contains('\0') => whole("leave out the NUL: no argument can have one"),
        DeValue::String(text) => Ok(text.as_ref().into()),
        DeValue::Integer(number) if number.radix() == 10 => Ok(number.as_str().into()),
        DeValue::Integer(_) => whole("give a decimal number, or a text in quotes"),
        DeValue::Float(number) => Ok(number.as_str().into()),
        DeValue::Boolean(_) | DeValue::Datetime(_) => whole("give a number, or a text in quotes"),
        DeValue::Array(_) | DeValue::Table(_) => whole("give a single value here"),
    }
}

/// `--key=text`, if the option's own parser takes it. Alone it is asked: what options have to do with each other is
/// judged later, together with the command line.
fn flag(
    key: &str,
    option: &Arg,
    text: OsString,
    value: &Spanned<DeValue<'_>>,
) -> Result<OsString, (Range<usize>, String)> {
    let alone = Arg::new(option.get_id()).action(ArgAction::Set).value_parser(option.get_value_parser().clone());
    let parser = clap::Command::new("file").no_binary_name(true).disable_help_flag(true).arg(alone);
    match parser.try_get_matches_from([OsStr::new("--"), &text]) {
        Ok(_) => Ok([OsStr::new("--"), OsStr::new(key), OsStr::new("="), &text].join(OsStr::new(""))),
        Err(error) => Err((value.span(), remedy(&error, option, key))),
    }
}

fn remedy(error: &clap::Error, option: &Arg, key: &str) -> String {
    if let Some(ContextValue::Strings(values)) = error.get(ContextKind::ValidValue)
        && let Some((last, others)) = values.split_last()
    {
        return if others.is_empty() {
            format!("give {last}")
        } else {
            format!("give {} or {last}", others.join(", "))
        };
    }
    match error.source().map(ToString::to_string) {
        Some(why) if why.contains("give ") => why,
        Some(why) => format!("{why}; see --{key} in `croupier run --help`"),
        None => {
            let names = option.get_value_names().unwrap_or_default().join(" ");
            format!("give {names}, as for --{key} in `croupier run --help`")
        }
    }
}

/// A piece of the file for an error: one line, not too long.
fn quote(text: &str) -> String {
    let line = text.trim().lines().next().unwrap_or_default();
    let mut shown: String = line.chars().take(QUOTED_MAX_CHARS).flat_map(printable).collect();
    if shown.is_empty() || line.len() < text.trim().len() || line.chars().count() > QUOTED_MAX_CHARS {
        shown += "...";
    }
    shown
}

/// Backslashes and quotes stay as the file has them.
fn printable(it: char) -> Vec<char> {
    if it.is_control() { it.escape_default().collect() } else { vec![it] }
}
