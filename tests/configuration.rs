//! The configuration file: what comes before what, and that `croupier check` writes what `--config` reads.
#![cfg(feature = "cli")]

mod support;

use std::fs;
use std::process::Command;

use support::{Directory, Outcome};

/// A file with this text, and the command to check it with.
struct Configuration {
    directory: Directory,
}

impl Configuration {
    fn new(text: &str) -> Self {
        let configuration = Self { directory: Directory::new() };
        fs::write(configuration.path(), text).unwrap();
        configuration
    }

    fn path(&self) -> String {
        self.directory.file("croupier.toml")
    }

    fn check(&self, arguments: &[&str]) -> Command {
        let mut command = support::plain(support::PROGRAM);
        command.args(["check", "--config", &self.path()]).args(arguments);
        command
    }
}

#[track_caller]
fn assert_says(command: Command, lines: &[&str]) -> String {
    let outcome = Outcome::of(command);
    outcome.assert_ok();
    for line in lines {
        assert!(outcome.stdout.lines().any(|it| it == *line), "no {line:?} in:\n{}", outcome.stdout);
    }
    outcome.stdout
}

#[test]
fn a_key_is_what_its_flag_would_be() {
    let text = "
        # A comment.
        listen = ['127.0.0.1:0', '[::1]:0,policy=source-hash']
        workers = 3
        kill-delay = '1500ms'
        ipv6-only = true
        declared-only = false
        queue-max = 1_0
        recycle-rss = '64MiB'
        command = ['sleep', 'a b', '-v', \"quote \\\" delete \\u007f\"]
        log-format = 'json'
        env.MODE = 'fast=1'
        env.NUMBER = 7
    ";
    let lines = [
        "listen = [\"127.0.0.1:0\",\"[::1]:0,policy=source-hash\"]",
        "workers = 3",
        "kill-delay = \"1s 500ms\"",
        "ipv6-only = true",
        "declared-only = false",
        "queue-max = 10",
        "recycle-rss = \"67108864B\"",
        "command = [\"sleep\",\"a b\",\"-v\",\"quote \\\" delete \\u007f\"]",
        "log-format = \"json\"",
        "env = [\"MODE=fast=1\",\"NUMBER=7\"]",
    ];
    assert_says(Configuration::new(text).check(&[]), &lines);
    let as_list = Configuration::new("env = ['A=1', 'B=']\nlisten = 'unix:/tmp/x'");
    assert_says(as_list.check(&["--", "cat"]), &["env = [\"A=1\",\"B=\"]", "listen = [\"unix:/tmp/x\"]"]);
    assert_says(Configuration::new("").check(&[]), &["stall-after = \"100ms\""]);
}

#[test]
fn flags_come_before_variables_and_variables_before_the_file() {
    let text = "workers = 3\nqueue-max = 3\nbacklog = 3\nlisten = ['127.0.0.1:3', '127.0.0.1:4']\nquiet = true";
    let configuration = Configuration::new(&format!("{text}\ncommand = ['sleep', '3']"));
    let mut command = configuration.check(&["--workers", "1", "-l", "127.0.0.1:1", "--verbose", "--", "cat"]);
    command.env("CROUPIER_WORKERS", "2").env("CROUPIER_QUEUE_MAX", "2").env("WEB_CONCURRENCY", "9");
    let lines = [
        "workers = 1",
        "queue-max = 2",
        "backlog = 3",
        "listen = [\"127.0.0.1:1\"]",
        "command = [\"cat\"]",
        "verbose = true",
    ];
    let out = assert_says(command, &lines);
    assert!(!out.contains("quiet"), "a flag has said the opposite:\n{out}");

    let mut command = support::plain(support::PROGRAM);
    command.arg("check").env("CROUPIER_CONFIG", configuration.path()).env("WEB_CONCURRENCY", "9");
    assert_says(command, &["workers = 3", "command = [\"sleep\",\"3\"]"]);
    // The file of the flag, not that of the variable.
    let other = Configuration::new("workers = 4");
    let mut command = other.check(&[]);
    command.env("CROUPIER_CONFIG", configuration.path());
    assert_says(command, &["workers = 4", "queue-max = 64"]);
    // A mistake counts, also in what is not asked for.
    let bad = Configuration::new("workers = 0");
    let mut command = bad.check(&["--workers", "1"]);
    command.env("CROUPIER_WORKERS", "2");
    Outcome::of(command).assert_failed(2, "croupier.toml:1: workers = 0: give a number from 1");
}

#[test]
fn what_check_prints_is_a_file_that_says_the_same() {
    let directory = Directory::new();
    let file = directory.file("effective.toml");
    let cases: &[&[&str]] = &[
        &[],
        &["--listen", "127.0.0.1:1", "--listen", "[::1]:1,policy=shared", "--ipv6-only", "--unix-mode", "600"],
        &["--recycle-after", "5+1", "--recycle-age", "1h+60s", "--recycle-rss", "1GiB", "--env", "A=b=\"c\"\n", "-v"],
        &["--nodelay", "--keepalive", "5", "--defer-accept", "3", "--idle-timeout", "5s", "--events", "-"],
        &["--monitor", "--ecv-path", "/up", "--ecv-control", "--ecv-monitor", "http://127.0.0.1:1/health"],
        &["--proxy-protocol", "10.0.0.0/8,::1,unix", "-l", "127.0.0.1:1,proxy-protocol=off", "--pid-dir", "/tmp"],
        &["--dialect", "node", "--node-depth", "2", "--wait-ready", "--shutdown-message", "--", "cat"],
        &["--user", "4711", "--group", "4712", "--chdir", "/tmp", "--stdout", "/tmp/a b", "--stderr", "null"],
        &[
            "--connections-max",
            "7",
            "--hang-timeout",
            "3s",
            "--name",
            "it's",
            "--log-format",
            "json",
            "--",
            "cat",
            "-",
            "--",
        ],
        &[
            "--control",
            "/tmp/c \"x\".sock",
            "--respawn",
            "never",
            "--respawn-burst",
            "3/7",
            "--declared-only",
            "-l",
            "[::]:1",
        ],
    ];
    for options in cases {
        let mut command = support::plain(support::PROGRAM);
        command.arg("check").args(*options);
        let first = Outcome::of(command);
        fs::write(&file, &first.assert_ok().stdout).unwrap();
        let mut command = support::plain(support::PROGRAM);
        command.args(["check", "--config", &file]);
        assert_eq!(Outcome::of(command).assert_ok().stdout, first.stdout, "{options:?}");
    }
}
