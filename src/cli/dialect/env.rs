//! What `env` executes, from its arguments: `env -S`, options, `VAR=x`. Pure. Source: env(1) of GNU coreutils.

use std::collections::VecDeque;
use std::ffi::OsString;

/// What becomes of `env`.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Executed {
    /// The program and its arguments.
    pub(super) words: Vec<OsString>,
    /// `PATH=...`, by which it is looked for; `None`: as it was.
    pub(super) path: Option<OsString>,
    /// `--chdir`; `None`: as it was.
    pub(super) directory: Option<OsString>,
}

/// What `env` with these arguments executes. `None`: nothing, or it cannot be told.
pub(super) fn executed_by_env(arguments: impl IntoIterator<Item = OsString>) -> Option<Executed> {
    let (mut executed, mut are_options) = (Executed::default(), true);
    let mut words: VecDeque<OsString> = arguments.into_iter().collect();
    while let Some(word) = words.pop_front() {
        match word.to_str() {
            Some("--") if are_options => are_options = false,
            Some(option) if are_options && option.starts_with('-') => obey(option, &mut words, &mut executed)?,
            Some(text) if text.contains('=') => {
                are_options = false;
                executed.path = text.strip_prefix("PATH=").map(Into::into).or(executed.path);
            }
            _ => {
                executed.words = std::iter::once(word).chain(words).collect();
                return Some(executed);
            }
        }
    }
    None
}

/// One word of options. `words` are those behind it, where its value may stand.
fn obey(option: &str, words: &mut VecDeque<OsString>, executed: &mut Executed) -> Option<()> {
    let (letter, value) = match option.strip_prefix("--") {
        Some(long) => {
            let (name, value) = long.split_once('=').map_or((long, None), |(name, value)| (name, Some(value)));
            let letter = match name {
                "split-string" => 'S',
                "chdir" => 'C',
                "unset" | "argv0" => 'u',
                _ => return Some(()),
            };
            (letter, value)
        }
        None => {
            let Some(at) = option.find(['S', 'C', 'u', 'a']) else { return Some(()) };
            let (letter, value) = option[at..].split_at(1);
            (letter.chars().next()?, Some(value).filter(|value| !value.is_empty()))
        }
    };
    let value = value.map(Into::into).or_else(|| words.pop_front())?;
    match letter {
        'S' => shlex::split(value.to_str()?)?.into_iter().rev().for_each(|word| words.push_front(word.into())),
        'C' => executed.directory = Some(value),
        _ => {}
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<OsString> {
        shlex::split(text).unwrap().into_iter().map(Into::into).collect()
    }

    #[test]
    fn options_and_assignments_come_before_the_program() {
        for before in ["", "-", "-i", "-i A=1 B=", "-u HOME -uX --unset=Y --unset Z", "-v --", "-a x", "--block-signal"]
        {
            let executed = executed_by_env(words(&format!("{before} node app.js -S A=1"))).unwrap();
            assert_eq!(executed, Executed { words: words("node app.js -S A=1"), ..Executed::default() }, "{before}");
        }
        assert_eq!(executed_by_env(words("-i A=1")), None);
    }

    #[test]
    fn one_word_can_be_split_into_several() {
        for split in
            ["-S 'node --flag'", "'-S node --flag'", "'-vSnode --flag'", "'--split-string=A=\"b c\" node --flag'"]
        {
            let executed = executed_by_env(words(&format!("{split} app.js"))).unwrap();
            assert_eq!(executed.words, words("node --flag app.js"), "{split}");
        }
        assert_eq!(executed_by_env(words("-S")), None);
    }

    #[test]
    fn the_place_may_be_another_one() {
        let executed = executed_by_env(words("-C /srv PATH=/a:/b PATHS=/c app.js")).unwrap();
        assert_eq!((executed.directory, executed.path), (Some("/srv".into()), Some("/a:/b".into())));
        assert_eq!(executed.words, words("app.js"));
    }
}
