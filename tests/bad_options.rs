//! Every option, with values that make no sense: as a flag, as a variable and as a key of the file. Each time it is one
//! line that names where the value stands and what to do, exit code 2, and nothing is started. Which options there are
//! is asked of croupier itself: a new one without a bad value here fails.
#![cfg(feature = "cli")]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::process::Command;

use support::{Directory, Outcome};

/// Options of `run` with values that none of them takes, as TOML has them and without their quotes on the command line.
const VALUES: &[(&str, &[&str])] = &[
    ("backlog", &["0", "-1", "'many'", "4294967296", "1.5", "'1k'"]),
    ("chdir", &["'/no/such/directory'", "'/etc/passwd'"]),
    ("config", &["'/no/such/file.toml'", "'/'", "'/dev/zero'"]),
    ("connections-max", &["0", "'all'", "-3"]),
    ("control", &["''"]),
    ("defer-accept", &["'1s'", "-1"]),
    ("dialect", &["'bun'", "''", "'Node'", "'preload'"]),
    ("ecv-monitor", &["'no'", "'https://127.0.0.1/'", "''"]),
    ("ecv-path", &["'ecv'", "''", "'/e?c=v'"]),
    ("env", &["'NAME'", "'=value'", "''"]),
    ("events", &["''", "'/tmp'", "'/no/such/directory/file'"]),
    ("group", &["'no-such-group'", "4294967295"]),
    ("hang-timeout", &["0", "30", "'1 fortnight'"]),
    ("idle-timeout", &["0", "'soon'"]),
    ("keepalive", &["0", "'1h'"]),
    ("kill-delay", &["2", "'-2s'", "'2 x'"]),
    (
        "listen",
        &[
            "'8000'",
            "'127.0.0.1:http'",
            "'127.0.0.1:65536'",
            "'::1:8000'",
            "'unix:'",
            "'[::1]:80,policy=fair'",
            "'policy=shared'",
            "8000",
        ],
    ),
    ("log-format", &["'xml'", "''", "'JSON'"]),
    ("monitor", &["'3001'", "'unix:/tmp/x'", "'127.0.0.1:x'"]),
    ("name", &["'a/b'", "''", "'.hidden'", "'x\ty'"]),
    ("node-depth", &["0", "257", "-1", "'deep'"]),
    ("pid-dir", &["'/no/such/directory'", "'/etc/passwd'"]),
    ("policy", &["'fair'", "''", "1"]),
    ("proxy-protocol", &["'proxy.example'", "''", "'10.0.0.0/33'", "'unix,'"]),
    ("queue-max", &["0", "257", "'many'", "-1"]),
    ("recycle-after", &["0", "'1+'", "'x+1'", "'1h'"]),
    ("recycle-age", &["0", "3600", "'1h+x'", "'1x'"]),
    ("recycle-rss", &["0", "'1XB'", "'99999999999GiB'", "'half'"]),
    ("redeal-timeout", &["0", "30"]),
    ("reload-parallel", &["0", "'all'"]),
    ("respawn", &["'sometimes'", "''", "'Always'"]),
    ("respawn-burst", &["5", "'0/10'", "'5/0'", "'5/10s'"]),
    ("shutdown-delay", &["5", "'later'"]),
    ("shutdown-timeout", &["30", "'never'"]),
    ("stall-after", &["100", "'9ms'", "'fast'"]),
    ("start-timeout", &["30", "'30 sec ago'"]),
    ("stderr", &["''", "'/tmp'", "'/no/such/directory/file'"]),
    ("stdout", &["''", "'/tmp'", "'/no/such/directory/file'"]),
    ("unix-mode", &["888", "'rw'", "7777", "-1"]),
    ("user", &["'no-such-user'", "4294967295"]),
    ("workers", &["0", "4097", "'many'", "-1", "''", "1.0"]),
];

/// Options of `run` that take no value.
const SWITCHES: &[&str] =
    &["declared-only", "ecv-control", "ipv6-only", "nodelay", "quiet", "shutdown-message", "verbose", "wait-ready"];

/// Those that a list is for.
const REPEATABLE: &[&str] = &["env", "listen"];

/// Other things that may be wrong with a file: its text, the line, and a part of what is said.
const TEXTS: &[(&str, usize, &str)] = &[
    ("workers = 1\nworkes = 1", 2, "workes: there is no such key; did you mean workers?"),
    ("queue_max = 1", 1, "queue_max: there is no such key; did you mean queue-max?"),
    ("Workers = 1", 1, "Workers: there is no such key"),
    ("colour = 'red'", 1, "colour: there is no such key; see the long options in `croupier run --help`"),
    ("'' = 1", 1, "there is no such key"),
    ("'--workers' = 1", 1, "--workers: there is no such key"),
    ("w = 1", 1, "w: there is no such key"),
    ("config = 'other.toml'", 1, "config: only the command line can say this; leave it out"),
    ("help = true", 1, "help: only the command line can say this"),
    ("\n\nworkers = 1\nworkers = 2", 4, "duplicate key"),
    ("[server]\nworkers = 1", 1, "server: there is no such key"),
    ("[workers]\ncount = 1", 1, "workers = [workers]: give a value: only env may be a table"),
    ("workers.count = 1", 1, "only env may be a table"),
    ("[[listen]]\naddress = '127.0.0.1:0'", 1, "give a single value here"),
    ("workers = ", 1, "each key stands once, like workers = 4"),
    ("workers 4", 1, "each key stands once, like workers = 4"),
    ("workers = 4 5", 1, "each key stands once"),
    ("\nname = \"open", 2, "each key stands once"),
    ("name = \"\\q\"", 1, "each key stands once"),
    ("= 4", 1, "each key stands once"),
    ("{", 1, "each key stands once"),
    ("workers = 0x4", 1, "give a decimal number, or a text in quotes"),
    ("unix-mode = 0o660", 1, "give a decimal number, or a text in quotes"),
    ("name = \"a\\u0000b\"", 1, "leave out the NUL"),
    ("command = 'node app.js'", 1, "give the program and its arguments in a list, like [\"node\", \"app.js\"]"),
    ("command = []", 1, "give the program and its arguments, like [\"node\", \"app.js\"]"),
    ("command = ['node', ['app.js']]", 1, "command = ['app.js']: give a single value here"),
    ("command = ['node', true]", 1, "command = true: give a number, or a text in quotes"),
    ("command = { program = 'node' }", 1, "give the program and its arguments in a list"),
    ("env = { MODE = ['fast'] }", 1, "env = ['fast']: give a single value here"),
    ("env = { MODE = true }", 1, "env = true: give a number, or a text in quotes"),
    ("env = { '' = 'x' }", 1, "give a name and a value, like MODE=fast"),
    ("[env]\nMODE = 'fast'\n[env.more]\nX = 1", 3, "give a single value here"),
    ("env = ['A=1',\n'B']", 2, "env = 'B': give a name and a value, like MODE=fast"),
    ("listen = ['127.0.0.1:0',\n\n'8000']", 3, "listen = '8000': "),
    ("listen = ['127.0.0.1:1', '127.0.0.1:1']", 1, "listen 127.0.0.1:1 is there twice: once is enough"),
    ("\nquiet = true\nverbose = true", 2, "cannot be used with"),
    ("group = 'no-such-group'\nuser = 'nobody'", 1, "group no-such-group: there is no such group"),
];

/// What the client commands and the demo worker do not take.
const CLIENTS: &[&[&str]] = &[
    &["status", "--name", "a/b"],
    &["status", "--json", "now"],
    &["status", "--control", ""],
    &["reload", "--name", ""],
    &["reload", "--workers", "3"],
    &["upgrade", "now"],
    &["scale"],
    &["scale", "many"],
    &["scale", "+-1"],
    &["scale", "1.5"],
    &["scale", "99999999999"],
    &["shutdown", "--wait", "30"],
    &["shutdown", "--wait"],
    &["stop", "--wait", "soon"],
    &["stop", "--name", "../x"],
    &["enable", "--name", "."],
    &["disable", "--control"],
    &["demo", "--reuse-port=yes"],
    &["completions"],
    &["completions", "cmd"],
    &["man", "run"],
    &["run", "--config"],
    &["run", "--config", ""],
    &["chek"],
    &["--no-such-option"],
];

/// A file of options, and a command whose workers would tell that they were started.
struct Attempt {
    directory: Directory,
}

impl Attempt {
    fn new() -> Self {
        Self { directory: Directory::new() }
    }

    fn path(&self) -> String {
        self.directory.file("croupier.toml")
    }

    /// `croupier run` with these options, and with a runtime directory of its own.
    fn run(&self, options: &[&str], variable: Option<(&str, &str)>) -> Outcome {
        let mut command = support::plain(support::PROGRAM);
        command.env("XDG_RUNTIME_DIR", self.directory.path()).arg("run").args(options).envs(variable);
        command.args(["--", "touch", &self.directory.file("started")]);
        Outcome::of(command)
    }

    /// With a file of this text.
    fn run_with_file(&self, text: &[u8]) -> Outcome {
        fs::write(self.path(), text).unwrap();
        self.run(&["--config", &self.path(), "--listen", "127.0.0.1:0"], None)
    }

    /// It failed at once, and its one line has these parts and says what to do.
    #[track_caller]
    fn assert_refused(&self, what: &str, outcome: &Outcome, parts: &[&str]) {
        let is_log = |line: &&str| line.starts_with("20") && (line.contains(" INFO ") || line.contains(" WARN "));
        let lines: Vec<&str> = outcome.stderr.lines().filter(|line| !is_log(line)).collect();
        let [line] = lines[..] else { panic!("{what}: not one line: {outcome:?}") };
        assert_eq!((outcome.code, outcome.stdout.as_str()), (Some(2), ""), "{what}: {line}");
        for part in parts {
            assert!(line.contains(part), "{what}: no {part:?} in: {line}");
        }
        let remedies = [
            "give ",
            "see ",
            "choose ",
            "did you mean",
            "write ",
            "give its",
            "each key stands",
            "leave ",
            "once is enough",
            "a similar ",
            "some similar ",
            "unset it",
            "check ",
            "getent",
            "save the file",
        ];
        assert!(remedies.iter().any(|remedy| line.contains(remedy)), "{what}: what to do? {line}");
        assert!(!fs::exists(self.directory.file("started")).unwrap(), "{what}: a worker was started");
    }
}

/// What the manual page says: options of `run` by their long names, and the variable of those that have one.
fn options_of_run() -> BTreeMap<String, Option<String>> {
    let mut man = support::plain(support::PROGRAM);
    man.arg("man");
    let page = Outcome::of(man).assert_ok().stdout.replace('\\', "").replace("fB", "").replace("fR", "");
    let environment: Vec<&str> = page.lines().collect();
    let variable_of = |option: &str| {
        let says = format!("As --{option}.");
        let at = environment.iter().position(|line| *line == says)?;
        Some(environment[at - 1].trim().to_owned())
    };
    let mut help = support::plain(support::PROGRAM);
    help.args(["run", "--help"]);
    let help = Outcome::of(help);
    let names = help.assert_ok().stdout.lines().filter_map(|line| {
        let word = line.trim_start().split(' ').find(|word| word.starts_with("--"))?;
        line.trim_start().starts_with('-').then(|| word.trim_start_matches("--").to_owned())
    });
    let names = names.filter(|name| name != "help" && name != "version");
    names.map(|name| (name.clone(), variable_of(&name))).collect()
}

fn unquoted(value: &str) -> &str {
    value.trim_matches('\'')
}

#[test]
fn every_option_has_bad_values_here() {
    let known: BTreeSet<String> =
        VALUES.iter().map(|(option, _)| *option).chain(SWITCHES.iter().copied()).map(Into::into).collect();
    let all: BTreeSet<String> = options_of_run().into_keys().collect();
    assert_eq!(all, known, "give a new option bad values in this file");
    assert!(all.len() > 40, "{all:?}");
}

#[test]
fn as_flags_and_as_variables() {
    let (attempt, options, mut count) = (Attempt::new(), options_of_run(), 0);
    for (option, values) in VALUES {
        for value in *values {
            let flag = format!("--{option}");
            let outcome = attempt.run(&[&format!("{flag}={}", unquoted(value))], None);
            let named = if *option == "config" { unquoted(value) } else { &flag };
            attempt.assert_refused(&format!("{flag} {value}"), &outcome, &[named]);
            count += 1;
        }
        if let Some(variable) = &options[*option] {
            let value = unquoted(values[0]);
            let outcome = attempt.run(&[], Some((variable, value)));
            let named = [variable.as_str(), &format!("--{option}"), value];
            let is_named = named.iter().any(|name| !name.is_empty() && outcome.stderr.contains(name));
            assert!(is_named, "{variable}={value}: {outcome:?}");
            attempt.assert_refused(&format!("{variable}={value}"), &outcome, &[]);
            count += 1;
        }
    }
    for option in SWITCHES {
        let outcome = attempt.run(&[&format!("--{option}=yes")], None);
        attempt.assert_refused(option, &outcome, &[&format!("--{option}")]);
        count += 1;
    }
    let outcome = attempt.run(&[], Some(("WEB_CONCURRENCY", "lots")));
    attempt.assert_refused("WEB_CONCURRENCY", &outcome, &["WEB_CONCURRENCY=lots"]);
    assert!(count > 120, "{count} cases");
}

#[test]
fn as_keys_of_the_file() {
    let (attempt, mut count) = (Attempt::new(), 0);
    let mut refuses = |key: &str, value: &str| {
        let outcome = attempt.run_with_file(format!("# A comment.\n\n{key} = {value}\n").as_bytes());
        attempt.assert_refused(&format!("{key} = {value}"), &outcome, &[&format!("{}:3: {key}", attempt.path())]);
        count += 1;
    };
    for (key, values) in VALUES.iter().filter(|(key, _)| *key != "config") {
        // The flag `--listen` of this test would overrule what is only wrong together with others.
        values.iter().filter(|value| **value != "'policy=shared'").for_each(|value| refuses(key, value));
        refuses(key, "1979-05-27");
        refuses(key, if REPEATABLE.contains(key) { "['X', { a = 1 }]" } else { "['1', '2']" });
        refuses(key, if *key == "env" { "[true]" } else { "{ a = 1 }" });
        if *key != "monitor" {
            refuses(key, "true");
        }
    }
    for key in SWITCHES {
        ["'yes'", "1", "[]", "['true']", "{}"].iter().for_each(|value| refuses(key, value));
    }
    assert!(count > 200, "{count} cases");
}

#[test]
fn as_texts_that_are_no_file_of_options() {
    let attempt = Attempt::new();
    for (text, line, part) in TEXTS {
        fs::write(attempt.path(), text).unwrap();
        let outcome = attempt.run(&["--config", &attempt.path()], None);
        attempt.assert_refused(text, &outcome, &[&format!("{}:{line}: ", attempt.path()), part]);
    }
    let mut not_utf8 = b"workers = 1\nname = '".to_vec();
    not_utf8.extend(b"\xff'\n");
    let outcome = attempt.run_with_file(&not_utf8);
    attempt.assert_refused("no UTF-8", &outcome, &["croupier.toml:2: no UTF-8; save the file as UTF-8"]);
    let outcome = attempt.run_with_file(&vec![b'#'; 1024 * 1024 + 1]);
    attempt.assert_refused("too long", &outcome, &["croupier.toml: longer than 1024 KiB; give --config"]);
    let nested = format!("env = {}1{}", "[".repeat(100_000), "]".repeat(100_000));
    let outcome = attempt.run_with_file(nested.as_bytes());
    attempt.assert_refused("nested deeply", &outcome, &["croupier.toml:1: "]);
    fs::remove_file(attempt.path()).unwrap();
    nix::unistd::mkfifo(attempt.path().as_str(), nix::sys::stat::Mode::S_IRWXU).unwrap();
    let outcome = attempt.run(&["--config", &attempt.path()], None);
    attempt.assert_refused("a FIFO that nobody writes to", &outcome, &["croupier.toml: no plain file; give --config"]);
}

#[test]
fn as_arguments_of_the_other_commands() {
    let attempt = Attempt::new();
    for arguments in CLIENTS {
        let mut command: Command = support::plain(support::PROGRAM);
        command.args(*arguments).env("XDG_RUNTIME_DIR", attempt.directory.path());
        let outcome = Outcome::of(command);
        attempt.assert_refused(&format!("{arguments:?}"), &outcome, &[]);
    }
}
