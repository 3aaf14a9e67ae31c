//! The house rules, enforced: what a reviewer would otherwise have to look for in every change.
//!
//! Each rule is a function from sources to findings, a test over the files of this repository, and a sample that
//! breaks it, so that the check is known to be able to fail. The sources are read as text; comments, strings and
//! character literals are blanked first where a rule is about code.

use std::path::Path;
use std::sync::LazyLock;

/// One source file.
struct Source {
    /// Relative to the repository.
    path: String,
    text: String,
    /// `text` with comments and literals blanked, line by line.
    code: Vec<String>,
    /// Whether a line belongs to tests: a `#[cfg(test)]` item, or a whole file of tests.
    is_test: Vec<bool>,
}

struct Finding {
    path: String,
    line: usize,
    what: String,
}

type Rule = fn(&Source) -> Vec<Finding>;

impl Source {
    fn new(path: &str, text: &str) -> Self {
        let code: Vec<String> = blank_comments_and_literals(text).lines().map(str::to_owned).collect();
        let is_test_file = !path.starts_with("src/") || path.contains("/tests/");
        let is_test = if is_test_file { vec![true; code.len()] } else { lines_of_tests(&code) };
        Self { path: path.to_owned(), text: text.to_owned(), code, is_test }
    }

    fn is_in_src(&self) -> bool {
        self.path.starts_with("src/")
    }

    /// Line numbers and code.
    fn code(&self) -> impl Iterator<Item = (usize, &str)> {
        (1..).zip(self.code.iter().map(String::as_str))
    }

    fn code_outside_tests(&self) -> impl Iterator<Item = (usize, &str)> {
        self.code().filter(|(line, _)| !self.is_test[line - 1])
    }

    fn finding(&self, line: usize, what: impl Into<String>) -> Finding {
        Finding { path: self.path.clone(), line, what: what.into() }
    }
}

// Reading.

/// Read once for all rules.
static SOURCES: LazyLock<Vec<Source>> = LazyLock::new(|| {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut paths = Vec::new();
    for folder in ["src", "tests", "benches", "examples"] {
        collect_rust_files(root, &root.join(folder), &mut paths);
    }
    paths.sort();
    assert!(paths.iter().any(|path| path == "src/lib.rs"), "no sources found under {}", root.display());
    paths.iter().map(|path| Source::new(path, &std::fs::read_to_string(root.join(path)).unwrap())).collect()
});

fn collect_rust_files(root: &Path, folder: &Path, paths: &mut Vec<String>) {
    let Ok(entries) = std::fs::read_dir(folder) else { return };
    for path in entries.map(|entry| entry.unwrap().path()) {
        if path.is_dir() {
            collect_rust_files(root, &path, paths);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            paths.push(path.strip_prefix(root).unwrap().to_str().unwrap().to_owned());
        }
    }
}

/// Replaces every character of comments, strings and character literals by a blank; line breaks stay.
fn blank_comments_and_literals(text: &str) -> String {
    let chars: Vec<char> = text.chars().collect();
    let mut code = String::with_capacity(text.len());
    let mut at = 0;
    while at < chars.len() {
        let len = skipped_len(&chars, at);
        let blanked = chars[at..at + len].iter().map(|it| if *it == '\n' { '\n' } else { ' ' });
        code.extend(blanked);
        at += len;
        if len == 0 {
            code.push(chars[at]);
            at += 1;
        }
    }
    code
}

/// How long the comment or literal is that begins at `at`; 0 if none does.
fn skipped_len(chars: &[char], at: usize) -> usize {
    let rest = &chars[at..];
    let begins = |with: &str| rest.iter().copied().take(with.len()).eq(with.chars());
    let is_word = |it: &char| it.is_alphanumeric() || *it == '_';
    if begins("//") {
        return rest.iter().position(|it| *it == '\n').unwrap_or(rest.len());
    }
    if begins("/*") {
        return block_comment_len(rest);
    }
    if rest[0] == '"' {
        return quoted_len(rest, '"');
    }
    if rest[0] == '\'' {
        // A lifetime has no closing quote after one character.
        let is_literal = rest.get(1) == Some(&'\\') || rest.get(2) == Some(&'\'');
        return if is_literal { quoted_len(rest, '\'') } else { 0 };
    }
    let is_prefix = at == 0 || !is_word(&chars[at - 1]);
    let prefix = rest.iter().take(2).take_while(|it| matches!(it, 'r' | 'b' | 'c')).count();
    let hashes = rest[prefix..].iter().take_while(|it| **it == '#').count();
    let is_raw = rest[..prefix].contains(&'r') && rest.get(prefix + hashes) == Some(&'"');
    if !is_prefix || !is_raw {
        return 0;
    }
    let end: String = std::iter::once('"').chain(std::iter::repeat_n('#', hashes)).collect();
    let body: String = rest[prefix + hashes + 1..].iter().collect();
    let len = body.find(&end).map_or(body.chars().count(), |bytes| body[..bytes].chars().count());
    (prefix + hashes + 1 + len + end.len()).min(rest.len())
}

fn quoted_len(rest: &[char], quote: char) -> usize {
    let mut at = 1;
    while at < rest.len() && rest[at] != quote {
        at += if rest[at] == '\\' { 2 } else { 1 };
    }
    (at + 1).min(rest.len())
}

fn block_comment_len(rest: &[char]) -> usize {
    let (mut depth, mut at) = (0, 0);
    while at < rest.len() {
        match (rest[at], rest.get(at + 1)) {
            ('/', Some('*')) => (depth, at) = (depth + 1, at + 2),
            ('*', Some('/')) => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
        if depth == 0 {
            break;
        }
    }
    at.min(rest.len())
}

/// Marks the items that follow a `#[cfg(test)]`, up to their closing brace or semicolon.
fn lines_of_tests(code: &[String]) -> Vec<bool> {
    let mut is_test = vec![false; code.len()];
    let mut line = 0;
    while line < code.len() {
        if code[line].trim_start().starts_with("#[cfg(test)]") {
            let end = end_of_item(code, line);
            is_test[line..=end].fill(true);
            line = end;
        }
        line += 1;
    }
    is_test
}

fn end_of_item(code: &[String], first: usize) -> usize {
    let mut depth = 0;
    for (line, text) in code.iter().enumerate().skip(first) {
        for it in text.chars() {
            match it {
                '{' => depth += 1,
                '}' => depth -= 1,
                ';' if depth == 0 => return line,
                _ => {}
            }
            if it == '}' && depth == 0 {
                return line;
            }
        }
    }
    code.len() - 1
}

fn words(code: &str) -> impl Iterator<Item = &str> {
    code.split(|it: char| !it.is_alphanumeric() && it != '_').filter(|word| !word.is_empty())
}

/// Every path of two or more names in the code, with its line: `use a::{b, c::d}` is `a::b` and `a::c::d`.
fn paths(source: &Source) -> Vec<(usize, String)> {
    let code: Vec<char> = source.code.join("\n").chars().collect();
    let mut paths = Vec::new();
    let mut at = 0;
    while at < code.len() {
        at = if is_name_start(&code, at) { read_path(&code, at, "", &mut paths) } else { at + 1 };
    }
    let breaks: Vec<usize> = (0..code.len()).filter(|at| code[*at] == '\n').collect();
    paths.into_iter().map(|(at, path)| (1 + breaks.partition_point(|it| *it < at), path)).collect()
}

fn is_name(it: char) -> bool {
    it.is_alphanumeric() || it == '_'
}

fn is_name_start(code: &[char], at: usize) -> bool {
    is_name(code[at]) && (at == 0 || !is_name(code[at - 1]))
}

/// Reads one path, or one branch of a `use`, from `at`; returns where it ends.
fn read_path(code: &[char], mut at: usize, prefix: &str, paths: &mut Vec<(usize, String)>) -> usize {
    let (first, mut path) = (at, prefix.to_owned());
    loop {
        while at < code.len() && is_name(code[at]) {
            path.push(code[at]);
            at += 1;
        }
        if code.get(at) != Some(&':') || code.get(at + 1) != Some(&':') {
            break;
        }
        at += 2;
        match code.get(at) {
            Some('{') => return read_branches(code, at + 1, &(path + "::"), paths),
            Some(it) if is_name(*it) => path += "::",
            _ => break,
        }
    }
    if path.contains("::") {
        paths.push((first, path));
    }
    at
}

fn read_branches(code: &[char], mut at: usize, prefix: &str, paths: &mut Vec<(usize, String)>) -> usize {
    while at < code.len() && code[at] != '}' {
        at = if is_name_start(code, at) { read_path(code, at, prefix, paths) } else { at + 1 };
    }
    at + 1
}

// The rules.

fn begins_with_its_purpose(source: &Source) -> Vec<Finding> {
    let begins = source.text.starts_with("//!");
    if begins { vec![] } else { vec![source.finding(1, "begin the file with `//!`: what it is for")] }
}

/// Who may import whom, besides itself.
const IMPORTS: [(&str, &[&str]); 6] = [
    ("main", &["cli"]),
    ("cli", &["primary", "worker", "sys"]),
    ("primary", &["protocol", "sys"]),
    ("worker", &["protocol", "sys"]),
    ("protocol", &["sys"]),
    ("sys", &[]),
];

fn imports_follow_the_layers(source: &Source) -> Vec<Finding> {
    let Some(inside) = source.path.strip_prefix("src/").filter(|path| *path != "lib.rs") else { return vec![] };
    let layer = inside.split(['/', '.']).next().unwrap();
    let Some((_, allowed)) = IMPORTS.iter().find(|(name, _)| *name == layer) else {
        return vec![source.finding(1, format!("`{layer}` is no layer: say in IMPORTS whom it may import"))];
    };
    let mut findings = Vec::new();
    for (line, path) in paths(source) {
        let names: Vec<&str> = path.split("::").collect();
        let supers = names.iter().take_while(|name| **name == "super").count();
        if supers >= module_depth(inside) + usize::from(source.is_test[line - 1]) {
            findings.push(source.finding(line, format!("`{path}` leaves `{layer}`: write it as `crate::`")));
        }
        let is_ours = matches!(names[0], "crate" | "croupier");
        let is_layer = |name: &&str| IMPORTS.iter().any(|(layer, _)| layer == name);
        if is_ours && is_layer(&names[1]) && names[1] != layer && !allowed.contains(&names[1]) {
            let what = format!("`{layer}` must not know `{}` (`{path}`): move what both need down", names[1]);
            findings.push(source.finding(line, what));
        }
    }
    findings
}

/// How many `super` lead from the module of a file to the crate.
fn module_depth(inside_src: &str) -> usize {
    let names = inside_src.split('/').count();
    if inside_src.ends_with("mod.rs") { names - 1 } else { names }
}

/// HTTP and its runtime stay with the admin thread and its client: the event loop must neither wait for them nor be
/// compiled with them.
const HTTP_FOLDERS: [&str; 2] = ["src/primary/admin/", "src/cli/client/"];
const HTTP_PACKAGES: [&str; 8] =
    ["axum", "futures_util", "hyper", "hyper_util", "http_body_util", "prometheus_client", "tokio", "tokio_io_timeout"];

fn http_stays_out_of_the_event_loop(source: &Source) -> Vec<Finding> {
    let is_inside = HTTP_FOLDERS.iter().any(|folder| source.path.starts_with(folder));
    if is_inside || !(source.path.starts_with("src/primary/") || source.path.starts_with("src/cli/")) {
        return vec![];
    }
    let is_http = |path: &str| path.split("::").next().is_some_and(|package| HTTP_PACKAGES.contains(&package));
    let is_admin = |path: &str| path.starts_with("crate::primary::admin") || path.starts_with("super::admin");
    let may_use_admin = source.path.starts_with("src/cli/");
    let found = paths(source).into_iter().filter(|(_, path)| is_http(path) || !may_use_admin && is_admin(path));
    found.map(|(line, path)| source.finding(line, format!("`{path}` here: send a command to the event loop"))).collect()
}

const PURE_FILES: &[&str] = &[
    "src/cli/dialect/env.rs",
    "src/cli/dialect/refusals.rs",
    "src/cli/dialect/wrapper.rs",
    "src/cli/client/rates.rs",
    "src/primary/admin/ring.rs",
    "src/primary/dialect/node/inspect.rs",
    "src/primary/events/json.rs",
    "src/primary/dialect/node/reading.rs",
    "src/primary/dialect/node/writing.rs",
    "src/primary/scheduler.rs",
    "src/primary/policy/mod.rs",
    "src/primary/policy/least_connections.rs",
    "src/primary/policy/source_hash.rs",
    "src/primary/listener_spec.rs",
    "src/primary/room.rs",
    "src/primary/lifecycle.rs",
    "src/primary/supervisor/mod.rs",
    "src/primary/supervisor/plan.rs",
    "src/primary/supervisor/rollout.rs",
    "src/primary/stall.rs",
    "src/primary/patience.rs",
    "src/primary/hearing.rs",
    "src/primary/ledger.rs",
    "src/primary/recycle.rs",
    "src/primary/output/lines.rs",
    "src/cli/notify/news.rs",
    "src/protocol/allow_list.rs",
    "src/protocol/body.rs",
    "src/protocol/control.rs",
    "src/protocol/record.rs",
    "src/protocol/handshake.rs",
    "src/protocol/ids.rs",
    "src/worker/event_loop/timers.rs",
    "src/worker/proxy_header.rs",
];

/// Paths, and everything below them, that are sockets, clocks, files, threads or the environment.
const IMPURE_PATHS: [&str; 12] = [
    "std::os",
    "std::fs",
    "std::io",
    "std::thread",
    "std::env",
    "std::process",
    "Monotonic::now",
    "crate::sys",
    "mio",
    "nix",
    "socket2",
    "log",
];
const IMPURE_WORDS: [&str; 9] = [
    "Instant",
    "SystemTime",
    "TcpStream",
    "TcpListener",
    "UdpSocket",
    "UnixStream",
    "UnixListener",
    "UnixDatagram",
    "ToSocketAddrs",
];

fn pure_files_are_pure(source: &Source) -> Vec<Finding> {
    if !PURE_FILES.contains(&source.path.as_str()) {
        return vec![];
    }
    let finding = |line, what: &str| {
        source.finding(line, format!("`{what}` in a pure file: take it as an argument, or do it in the event loop"))
    };
    let is_impure = |path: &str| {
        let is_below =
            |root: &str| path.strip_prefix(root).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"));
        IMPURE_PATHS.iter().any(|root| is_below(root)) || path.ends_with("Monotonic::now")
    };
    let by_path = paths(source).into_iter().filter(|(line, path)| !source.is_test[line - 1] && is_impure(path));
    let mut findings: Vec<Finding> = by_path.map(|(line, path)| finding(line, &path)).collect();
    for (line, code) in source.code_outside_tests() {
        findings.extend(words(code).filter(|word| IMPURE_WORDS.contains(word)).map(|word| finding(line, word)));
    }
    findings
}

fn unsafe_is_fenced(source: &Source) -> Vec<Finding> {
    if source.path.starts_with("src/sys/") {
        return vec![];
    }
    let lines = source.code().filter(|(_, code)| words(code).any(|word| word == "unsafe"));
    lines
        .map(|(line, _)| source.finding(line, "`unsafe` outside src/sys: give src/sys a safe function for it"))
        .collect()
}

const SAFETY_LINES_BEFORE: usize = 6;

fn unsafe_says_why_it_is_sound(source: &Source) -> Vec<Finding> {
    let text: Vec<&str> = source.text.lines().collect();
    let mut findings = Vec::new();
    for (line, code) in source.code() {
        let mut after_unsafe = words(code).skip_while(|word| *word != "unsafe").skip(1);
        let needs_reason = match after_unsafe.next() {
            Some("fn" | "extern" | "trait") => false,
            Some(_) => true,
            None => words(code).any(|word| word == "unsafe"),
        };
        let before = &text[(line - 1).saturating_sub(SAFETY_LINES_BEFORE)..line];
        if needs_reason && !before.iter().any(|it| it.contains("// SAFETY:")) {
            findings.push(source.finding(line, "say above it in a `// SAFETY:` comment why it is sound"));
        }
    }
    findings
}

const EMPTY_NAMES: [&str; 7] = ["manager", "handler", "util", "utils", "helper", "helpers", "common"];

fn modules_have_real_names(source: &Source) -> Vec<Finding> {
    if !source.is_in_src() {
        return vec![];
    }
    let finding = |line, name: &str| source.finding(line, format!("`{name}` says nothing: name it after what it is"));
    let of_path = source.path.split(['/', '.']).filter(|name| EMPTY_NAMES.contains(name)).map(|name| finding(1, name));
    let mut findings: Vec<Finding> = of_path.collect();
    for (line, code) in source.code() {
        let module = words(code).skip_while(|word| *word != "mod").nth(1);
        findings.extend(module.filter(|name| EMPTY_NAMES.contains(name)).map(|name| finding(line, name)));
    }
    findings
}

fn nothing_unwraps_or_prints(source: &Source) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (line, code) in source.code_outside_tests() {
        if code.contains(".unwrap()") {
            findings.push(source.finding(line, "`unwrap`: return the error, or `expect(\"why it cannot fail\")`"));
        }
        for name in ["println", "eprintln", "print", "eprint", "dbg"] {
            if has_macro(code, name) {
                findings
                    .push(source.finding(line, format!("`{name}!` panics on a dead pipe: log, or write to a stream")));
            }
        }
    }
    findings
}

fn has_macro(code: &str, name: &str) -> bool {
    let call = format!("{name}!");
    code.match_indices(&call).any(|(at, _)| !code[..at].ends_with(is_name))
}

const LINES_MAX: usize = 700;
const LINE_CHARS_MAX: usize = 120;

fn files_and_lines_are_short(source: &Source) -> Vec<Finding> {
    let mut findings = Vec::new();
    let lines = source.text.lines().count();
    if lines > LINES_MAX {
        findings.push(source.finding(LINES_MAX + 1, format!("{lines} lines, {LINES_MAX} at most: split the file")));
    }
    for (line, text) in (1..).zip(source.text.lines()) {
        let chars = text.chars().count();
        if chars > LINE_CHARS_MAX {
            findings
                .push(source.finding(line, format!("{chars} characters, {LINE_CHARS_MAX} at most: break the line")));
        }
    }
    findings
}

fn nothing_is_ignored_or_left_undone(source: &Source) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (line, code) in source.code() {
        if code.contains("#[ignore") {
            findings.push(source.finding(line, "an ignored test checks nothing: repair it or remove it"));
        }
        for name in ["todo", "unimplemented"] {
            if has_macro(code, name) {
                findings.push(source.finding(line, format!("`{name}!`: do it, or do not offer it")));
            }
        }
    }
    findings
}

// The tests.

/// No file breaks `rule`, and `sample`, as the content of `path`, does at each of `lines`.
fn enforce(rule: Rule, path: &str, sample: &str, lines: &[usize]) {
    let found: Vec<usize> = rule(&Source::new(path, sample)).iter().map(|finding| finding.line).collect();
    assert_eq!(found, lines, "the rule does not see what is wrong with its own sample");
    let findings: Vec<String> = SOURCES
        .iter()
        .flat_map(rule)
        .map(|finding| format!("{}:{}: {}", finding.path, finding.line, finding.what))
        .collect();
    assert!(findings.is_empty(), "\n{}\n", findings.join("\n"));
}

#[test]
fn every_file_begins_with_its_purpose() {
    enforce(begins_with_its_purpose, "src/x.rs", "use std::io;\n//! Late.\n", &[1]);
}

#[test]
fn imports_go_one_way() {
    let sample = "//! x\nuse crate::protocol::ids;\nuse crate::{sys, worker::Lane};\nfn f() { crate::cli::run() }\n\
                  use super::super::cli;\nuse super::room;\n";
    enforce(imports_follow_the_layers, "src/primary/x.rs", sample, &[3, 4, 5]);
    for (path, sample) in [
        ("src/worker/x.rs", "use crate::primary::room;"),
        ("src/protocol/x.rs", "use crate::{\n    worker,\n};"),
        ("src/sys/x.rs", "use crate::protocol::ids;"),
        ("src/main.rs", "use croupier::primary::Primary;"),
        ("src/cli/x.rs", "use crate::protocol::ids;"),
        ("src/elsewhere/x.rs", ""),
    ] {
        assert_eq!(imports_follow_the_layers(&Source::new(path, sample)).len(), 1, "{path}: {sample}");
    }
}

#[test]
fn http_is_for_the_admin_thread_and_its_client() {
    let sample = "use axum::Router;\nuse hyper::{Request, body::Bytes};\ntokio::spawn(x);\n\
                  use crate::primary::admin::Admin;\nuse crate::primary::commands::Remote;\n";
    enforce(http_stays_out_of_the_event_loop, "src/primary/x.rs", sample, &[1, 2, 2, 3, 4]);
    assert!(http_stays_out_of_the_event_loop(&Source::new("src/primary/admin/x.rs", sample)).is_empty());
}

#[test]
fn pure_files_know_no_clock_and_no_socket() {
    for path in PURE_FILES {
        assert!(SOURCES.iter().any(|source| source.path == *path), "{path} is gone: say in PURE_FILES what is pure");
    }
    let sample = "use std::net::{IpAddr, SocketAddr};\nuse std::net::TcpStream;\nuse std::{fmt, io::Read};\n\
                  fn f() { log::info!(\"x\"); }\nlet now = Monotonic::now();\nlet at: Instant;\nuse crate::sys;\n\
                  use mio::Poll;\n#[cfg(test)]\nmod tests {\n    use std::io;\n}\n";
    let path = "src/primary/room.rs";
    let lines = |sample| {
        let mut lines: Vec<usize> =
            pure_files_are_pure(&Source::new(path, sample)).iter().map(|finding| finding.line).collect();
        lines.sort_unstable();
        lines
    };
    assert_eq!(lines(sample), [2, 3, 4, 5, 6, 7, 8]);
    enforce(pure_files_are_pure, path, "use std::os::fd::OwnedFd;", &[1]);
}

#[test]
fn unsafe_stays_in_sys() {
    let sample = "#![deny(unsafe_code)]\n// unsafe\nlet x = \"unsafe\";\nlet y = unsafe { f() };\n";
    enforce(unsafe_is_fenced, "src/worker/x.rs", sample, &[4]);
}

#[test]
fn every_unsafe_block_says_why_it_is_sound() {
    let sample = "// SAFETY: an integer.\nunsafe { f() }\n\n\n\n\n\n\nunsafe impl Send for X {}\nlet x = unsafe\n\
                  { f() };\nunsafe fn f() {}\n";
    enforce(unsafe_says_why_it_is_sound, "src/sys/x.rs", sample, &[9, 10]);
}

#[test]
fn no_module_has_an_empty_name() {
    enforce(modules_have_real_names, "src/primary/utils.rs", "//! x\nmod common {}\nmod model;\n", &[1, 2]);
}

#[test]
fn nothing_unwraps_or_prints_outside_tests() {
    let sample = "/// println!(\"in a doc comment\")\nfn f() { g().unwrap(); }\nfn h() { eprintln!(\"x\") }\ndbg!(x);\n\
                  #[cfg(test)]\nmod tests {\n    fn f() { g().unwrap(); println!() }\n}\nfn late() { g().unwrap(); }\n";
    enforce(nothing_unwraps_or_prints, "src/x.rs", sample, &[2, 3, 4, 9]);
}

#[test]
fn no_file_and_no_line_is_too_long() {
    let (long_line, long_file) = ("ä".repeat(LINE_CHARS_MAX + 1), "x\n".repeat(LINES_MAX));
    enforce(files_and_lines_are_short, "src/x.rs", &format!("{}\n{long_line}\n", &long_line[2..]), &[2]);
    enforce(files_and_lines_are_short, "src/x.rs", &format!("{long_file}x\n"), &[LINES_MAX + 1]);
}

#[test]
fn nothing_is_ignored_and_nothing_left_undone() {
    let sample = "#[test]\n#[ignore = \"slow\"]\nfn f() { todo!() }\nfn g() { unimplemented!(\"later\") }\n// todo!\n";
    enforce(nothing_is_ignored_or_left_undone, "tests/x.rs", sample, &[2, 3, 4]);
}

#[test]
fn comments_and_literals_are_no_code() {
    let text =
        "a /* b /* c */ d */ e // f\n\"g \\\" h\" i r#\"j \" k\"# 'l' '\\'' m<'n> b\"o\" br\"p\" r q\n\"r\ns\" t";
    let code = blank_comments_and_literals(text);
    let left: Vec<&str> = words(&code).collect();
    assert_eq!(left, ["a", "e", "i", "m", "n", "b", "r", "q", "t"]);
    assert_eq!(code.lines().count(), 4);
    assert_eq!(code.chars().count(), text.chars().count());
}
