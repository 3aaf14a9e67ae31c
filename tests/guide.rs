//! What `docs/operations.md` and the README tell operators is there: log lines, options, commands, files.

#![cfg(feature = "cli")]

mod support;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use support::{Directory, Outcome, PROGRAM, plain};

const GUIDE: &str = "docs/operations.md";

fn root() -> PathBuf {
    env!("CARGO_MANIFEST_DIR").into()
}

fn guide() -> String {
    std::fs::read_to_string(root().join(GUIDE)).unwrap()
}

fn help(arguments: &[&str]) -> String {
    let mut command = plain(PROGRAM);
    command.args(arguments).arg("--help");
    Outcome::of(command).assert_ok().stdout.clone()
}

/// All sources of croupier, with literals that go on in the next line in one.
fn sources() -> String {
    fn collect(folder: &Path, text: &mut String) {
        for path in std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
            if path.is_dir() {
                collect(&path, text);
            } else {
                text.push_str(&std::fs::read_to_string(path).unwrap());
            }
        }
    }
    let mut text = String::new();
    collect(&root().join("src"), &mut text);
    let lines: Vec<&str> = text.split("\\\n").map(str::trim_start).collect();
    lines.concat()
}

/// What stands in the text between an opening and a closing mark.
fn between<'a>(text: &'a str, open: &str, close: &str) -> Vec<&'a str> {
    text.split(open).skip(1).filter_map(|rest| rest.split_once(close)).map(|(inside, _)| inside).collect()
}

/// The parts of a log line that do not differ from one time to the next.
fn fixed_parts(line: &str) -> impl Iterator<Item = &str> {
    line.split('…').map(str::trim).filter(|part| part.chars().any(char::is_alphabetic))
}

/// The first cells of the table of log lines.
fn log_lines(guide: &str) -> Vec<&str> {
    let section = guide.split("\n## ").find(|section| section.starts_with("What the log says")).unwrap();
    section.lines().filter_map(|line| line.strip_prefix("| `")?.split_once("` |")).map(|(line, _)| line).collect()
}

fn missing_log_lines<'a>(guide: &'a str, sources: &str) -> Vec<&'a str> {
    let is_missing = |line: &&str| fixed_parts(line).any(|part| !sources.contains(part));
    log_lines(guide).into_iter().filter(is_missing).collect()
}

#[test]
fn every_log_line_is_one_that_croupier_writes() {
    let (guide, sources) = (guide(), sources());
    let lines = log_lines(&guide);
    assert!(lines.len() > 20, "the table was found");
    assert_eq!(lines.iter().collect::<BTreeSet<_>>().len(), lines.len(), "each stands there once");
    assert_eq!(missing_log_lines(&guide, &sources), [""; 0]);
    let wrong = "\n## What the log says\n| `worker=… has gone fishing` | x |\n";
    assert_eq!(missing_log_lines(wrong, &sources), ["worker=… has gone fishing"]);
}

/// Everything that is written as code: spans, and the lines of blocks.
fn code(guide: &str) -> Vec<&str> {
    let (blocks, prose): (Vec<_>, Vec<_>) = guide.split("```").enumerate().partition(|(index, _)| index % 2 == 1);
    let lines = blocks.into_iter().flat_map(|(_, block)| block.lines().skip(1)).flat_map(|line| line.split(" || "));
    lines.chain(prose.into_iter().flat_map(|(_, text)| text.split('`').skip(1).step_by(2))).collect()
}

#[test]
fn every_command_and_option_exists() {
    let guide = guide();
    let code = code(&guide);
    let of_croupier: Vec<Vec<&str>> = code.iter().map(|text| text.split(' ').collect()).collect();
    let with_command = of_croupier.iter().filter(|words| words[0] == "croupier" && words.len() > 1);
    let commands: BTreeSet<&str> = with_command.map(|words| words[1]).collect();
    assert!(commands.contains("reload") && commands.contains("check"), "{commands:?}");
    let there: String = commands.iter().map(|command| help(&[command])).collect();
    let options = of_croupier.iter().filter(|words| words[0] == "croupier" || words[0].starts_with("--")).flatten();
    let options: BTreeSet<&str> = options
        .filter(|word| word.len() > 2 && word.starts_with("--"))
        .map(|word| word.split(['=', ',']).next().unwrap().trim_end_matches("-…"))
        .collect();
    assert!(options.contains("--hang-timeout"), "{options:?}");
    let unknown: Vec<_> = options.into_iter().filter(|option| !there.contains(option)).collect();
    assert_eq!(unknown, [""; 0]);
}

#[test]
fn every_link_leads_somewhere() {
    let guide = guide();
    let links = between(&guide, "](", ")");
    assert!(links.contains(&"../deploy/haproxy.cfg"), "{links:?}");
    let docs = root().join("docs");
    let dead: Vec<_> = links.into_iter().filter(|link| !docs.join(link).exists()).collect();
    assert_eq!(dead, [""; 0]);
}

#[test]
fn the_file_for_production_in_the_readme_is_one() {
    let readme = std::fs::read_to_string(root().join("README.md")).unwrap();
    let section = readme.split("\n## In production\n").nth(1).expect("there is such a section");
    let text = between(section, "```toml\n", "```")[0].replace("/usr/local/bin/web", "/bin/true");
    let directory = Directory::new();
    let file = directory.file("web.toml");
    std::fs::write(&file, text).unwrap();
    let mut check = plain(PROGRAM);
    check.args(["check", "--config", &file]);
    let checked = Outcome::of(check).assert_ok().stdout.clone();
    assert!(checked.contains("monitor = \"127.0.0.1:3001\"\n"), "{checked}");
}
