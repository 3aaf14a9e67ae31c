//! The manual page and the completions: made of the arguments' definition, and good for the programs that read them.
#![cfg(feature = "cli")]

mod support;

use std::fs;
use std::process::Command;

use support::{Directory, Outcome};

fn said(arguments: &[&str]) -> String {
    let mut command = support::plain(support::PROGRAM);
    command.args(arguments);
    Outcome::of(command).assert_ok().stdout.clone()
}

/// The long options in the help of a command.
fn options_of(command: &str) -> Vec<String> {
    let help = said(&[command, "--help"]);
    let options = help.lines().filter_map(|line| {
        let word = line.trim_start().split([' ', ',']).find(|word| word.starts_with("--"))?;
        line.trim_start().starts_with('-').then(|| word.to_owned())
    });
    options.filter(|option| option != "--help").collect()
}

/// What bash offers after `line`, whose last word is being written.
fn bash_completes(script: &str, line: &str) -> Vec<String> {
    let words: Vec<&str> = line.split(' ').collect();
    let program = format!(
        "source {script}; COMP_WORDS=({}); COMP_CWORD={}; _croupier croupier '{}' '{}'; \
         printf '%s\\n' \"${{COMPREPLY[@]}}\"",
        words.iter().map(|word| format!("'{word}'")).collect::<Vec<_>>().join(" "),
        words.len() - 1,
        words[words.len() - 1],
        words[words.len() - 2],
    );
    let mut bash = Command::new("bash");
    bash.args(["--norc", "-c", &program]);
    Outcome::of(bash).assert_ok().stdout.lines().map(str::to_owned).collect()
}

#[test]
fn bash_takes_the_completions_and_completes_commands_options_and_values() {
    let directory = Directory::new();
    let script = directory.file("croupier.bash");
    fs::write(&script, said(&["completions", "bash"])).unwrap();
    let mut bash = Command::new("bash");
    bash.args(["-n", &script]);
    assert_eq!(Outcome::of(bash).assert_ok().stderr, "");
    assert_eq!(bash_completes(&script, "croupier rel"), ["reload"]);
    assert_eq!(bash_completes(&script, "croupier run --queue"), ["--queue-max"]);
    assert_eq!(bash_completes(&script, "croupier run --respawn o"), ["on-failure"]);
    let offered = bash_completes(&script, "croupier run --");
    let missing: Vec<String> = options_of("run").into_iter().filter(|option| !offered.contains(option)).collect();
    assert!(missing.is_empty() && offered.len() > 30, "{missing:?} in {offered:?}");
}

#[test]
fn every_shell_gets_a_script_of_its_own() {
    for (shell, part) in [("zsh", "#compdef croupier"), ("fish", "complete -c croupier"), ("elvish", "edit:completion")]
    {
        let script = said(&["completions", shell]);
        assert!(script.contains(part) && script.contains("queue-max"), "{shell}");
    }
    let mut unknown = support::plain(support::PROGRAM);
    unknown.args(["completions", "cmd"]);
    Outcome::of(unknown).assert_failed(2, "invalid value 'cmd' for '<SHELL>'");
}

#[test]
fn the_manual_page_has_every_option_and_what_is_no_option() {
    let directory = Directory::new();
    let file = directory.file("croupier.1");
    fs::write(&file, said(&["man"])).unwrap();
    let mut groff = Command::new("groff");
    groff.args(["-man", "-ww", "-Tascii", "-P-bcou", "-rHY=0", "-rLL=1000n", &file]);
    let outcome = Outcome::of(groff);
    let page = &outcome.assert_ok().stdout;
    assert_eq!(outcome.stderr, "", "warnings of groff");
    let sections = [
        "NAME",
        "SYNOPSIS",
        "COMMANDS",
        "CONFIGURATION FILE",
        "SIGNALS",
        "EXIT STATUS",
        "ENVIRONMENT",
        "FILES",
        "EXAMPLES",
    ];
    for section in sections {
        assert!(page.lines().any(|line| line == section), "no section {section} in\n{page}");
    }
    for option in options_of("run").into_iter().chain(options_of("stop")).chain(options_of("status")) {
        let begins = |line: &str| line.trim_start().starts_with('-') && line.contains(&option);
        assert!(page.lines().any(begins), "no {option} in\n{page}");
    }
    for text in
        ["CROUPIER_QUEUE_MAX", "As --queue-max.", "WEB_CONCURRENCY", "TTIN, TTOU", "Its options are those of run."]
    {
        assert!(page.contains(text), "no {text:?} in\n{page}");
    }
    assert_eq!(page.matches("--queue-max <N>").count(), 1, "not again for check");
}
