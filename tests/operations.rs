//! `tests/OPERATIONS.md` says the truth: it has a line for everything that operators meet, and every test that it names
//! is there.

#![cfg(feature = "cli")]

#[path = "support/named_tests.rs"]
mod named_tests;

use std::collections::BTreeSet;
use std::process::Command;

use named_tests::{missing, named};

const TABLE: &str = include_str!("OPERATIONS.md");

/// What the table says of, and which tests it names.
fn lines(text: &str) -> Vec<(&str, &str)> {
    let cells = text.lines().map(|line| line.split('|').map(str::trim).collect::<Vec<_>>());
    let lines = cells.filter_map(|cells| match cells[..] {
        ["", "what" | "---", ..] => None,
        ["", what, tests, ""] => Some((what, tests)),
        _ => None,
    });
    lines.collect()
}

/// What is wrong with a line.
fn finding((what, tests): &(&str, &str)) -> Option<String> {
    let missing = missing(tests);
    if !missing.is_empty() {
        return Some(format!("{what}: no such test: {missing:?}"));
    }
    let is_settled = named(tests).next().is_some() || tests.starts_with("script: `");
    (!is_settled).then(|| format!("{what}: no test"))
}

/// The words of this form that help prints for `arguments`.
fn offered(arguments: &[&str], form: impl Fn(&str) -> Option<&str>) -> BTreeSet<String> {
    let help = Command::new(env!("CARGO_BIN_EXE_croupier")).args(arguments).output().unwrap();
    let text = String::from_utf8(help.stdout).unwrap();
    let words = text.lines().filter_map(|line| form(line).map(str::to_owned));
    words.collect()
}

fn is_in_table(word: &str) -> bool {
    lines(TABLE).iter().any(|(what, _)| what.split('`').skip(1).step_by(2).any(|it| it == word))
}

/// `  -l, --listen <ADDR>` and `      --backlog <N>`.
fn option(line: &str) -> Option<&str> {
    let rest = line.trim_start().trim_start_matches(|it: char| it != '-');
    let begins = line.trim_start().starts_with('-');
    let long = rest.split([' ', ',', '=', '[']).find(|word| word.starts_with("--"))?;
    (begins && !["--help", "--version"].contains(&long)).then_some(long)
}

/// `  status       Show ...` below `Commands:`.
fn command(line: &str) -> Option<&str> {
    let name = line.strip_prefix("  ").filter(|rest| !rest.starts_with([' ', '-']))?.split(' ').next()?;
    (name != "help").then_some(name)
}

#[test]
fn every_line_has_its_test() {
    let findings: Vec<String> = lines(TABLE).iter().filter_map(finding).collect();
    assert!(findings.is_empty(), "\n{}\n", findings.join("\n"));
}

#[test]
fn no_command_and_no_option_is_forgotten() {
    let commands = offered(&["--help"], command);
    assert!(commands.contains("reload") && commands.len() > 8, "{commands:?}");
    let options = offered(&["run", "--help"], option);
    assert!(options.contains("--listen") && options.len() > 30, "{options:?}");
    let commands_words = commands.iter().map(|name| format!("croupier {name}"));
    let forgotten: Vec<String> = commands_words.chain(options).filter(|word| !is_in_table(word)).collect();
    assert!(forgotten.is_empty(), "not in tests/OPERATIONS.md: {forgotten:?}");
}

#[test]
fn the_check_sees_what_is_wrong() {
    let own = "`operations::the_check_sees_what_is_wrong`";
    let sample = format!(
        "| what | tests |\n|---|---|\n| good | {own} |\n| fleet | script: `scripts/check` |\n| none | |\n\
         | gone | {own}, `operations::nobody` |\n| words | somebody looked |\n"
    );
    let lines = lines(&sample);
    let found: Vec<&str> = lines.iter().filter(|line| finding(line).is_some()).map(|line| line.0).collect();
    assert_eq!((lines.len(), found), (5, vec!["none", "gone", "words"]));
    assert_eq!(option("  -l, --listen <ADDR>"), Some("--listen"));
    assert_eq!(option("      --ipv6-only"), Some("--ipv6-only"));
    assert_eq!(option("          for --listen or so"), None);
    assert_eq!((command("  run   Start"), command("          more")), (Some("run"), None));
}
