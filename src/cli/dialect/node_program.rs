//! Whether a command is Node: by its name, by where its path leads, or as what a script is written for. Bun and Deno
//! are not: they speak their own versions of the protocol, or none.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::ffi::OsStringExt;
use std::path::Path;

use super::env::executed_by_env;
use crate::cli::program::Place;

/// How much of a script's first line the kernel reads, in bytes. Source: BINPRM_BUF_SIZE, execve(2).
const FIRST_LINE_MAX_BYTES: u64 = 256;
/// How often one program may stand for another. Interpreters may nest five deep, each behind an `env`. Source:
/// execve(2), ELOOP.
const HOPS_MAX: usize = 10;

/// Something to be executed.
#[derive(Debug)]
struct Call {
    words: Vec<OsString>,
    place: Place,
}

/// Whether these words, a program and its arguments, execute Node.
pub(super) fn is_node(words: Vec<OsString>, place: Place) -> bool {
    let mut call = Some(Call { words, place });
    for _ in 0..HOPS_MAX {
        let Some(Call { words, place }) = call else { return false };
        let Some(program) = words.first() else { return false };
        if is_named_node(program) {
            return true;
        }
        call = match base_name(program) {
            "env" => behind_env(words, place),
            _ => behind_file(&words, place),
        };
    }
    false
}

/// `node`, `nodejs`, and as distributions name several versions: `node20`, `node-20`.
pub(super) fn is_named_node(program: &OsStr) -> bool {
    let name = base_name(program);
    let version = name.strip_prefix("nodejs").or_else(|| name.strip_prefix("node"));
    let is_version = |text: &str| text.chars().all(|it| it.is_ascii_digit() || it == '.');
    version.is_some_and(|version| is_version(version.strip_prefix('-').unwrap_or(version)))
}

fn base_name(program: &OsStr) -> &str {
    Path::new(program).file_name().and_then(OsStr::to_str).unwrap_or_default()
}

fn behind_env(words: Vec<OsString>, place: Place) -> Option<Call> {
    let executed = executed_by_env(words.into_iter().skip(1))?;
    let place = Place {
        directory: place.directory.join(executed.directory.unwrap_or_default()),
        path: executed.path.unwrap_or(place.path),
    };
    Some(Call { words: executed.words, place })
}

/// What the file is a link to, if that is Node, else what is to read it.
fn behind_file(words: &[OsString], place: Place) -> Option<Call> {
    let file = fs::canonicalize(place.find(words.first()?)?).ok()?;
    let words = match is_named_node(file.as_os_str()) {
        true => vec![file.into()],
        false => interpreter_of(&file)?.into_iter().chain([file.into()]).collect(),
    };
    Some(Call { words, place })
}

/// The words of its first line, if that says what is to execute it. Source: execve(2).
fn interpreter_of(file: &Path) -> Option<Vec<OsString>> {
    let mut bytes = Vec::new();
    File::open(file).ok()?.take(FIRST_LINE_MAX_BYTES).read_to_end(&mut bytes).ok()?;
    let line = bytes.strip_prefix(b"#!")?.split(|it| *it == b'\n').next()?.trim_ascii();
    // One word, and the rest as one more.
    let end = line.iter().position(u8::is_ascii_whitespace).unwrap_or(line.len());
    let (interpreter, argument) = line.split_at(end);
    let words = [interpreter, argument.trim_ascii()].into_iter().filter(|word| !word.is_empty());
    Some(words.map(|word| OsString::from_vec(word.to_vec())).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_node_are_known_with_their_versions_and_no_others() {
        for name in ["node", "nodejs", "/usr/bin/node", "./node", "node20", "node-18", "/opt/node/bin/node22.1"] {
            assert!(is_named_node(OsStr::new(name)), "{name}");
        }
        for name in ["nodemon", "node.sh", "anode", "bun", "deno", "node-gyp", "/usr/bin/node/x", "", "/", "Node"] {
            assert!(!is_named_node(OsStr::new(name)), "{name}");
        }
    }
}
