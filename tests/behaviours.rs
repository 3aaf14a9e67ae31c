//! `tests/BEHAVIOURS.md` says the truth: it has a line for every behaviour, and every test that it names is there.

#[path = "support/named_tests.rs"]
mod named_tests;

use std::collections::BTreeSet;

use named_tests::{missing, named};

const TABLE: &str = include_str!("BEHAVIOURS.md");

/// The sections after the one of Node's faults, and how many tests of Node are in each.
const SECTIONS: [(char, usize); 8] =
    [('A', 11), ('B', 20), ('C', 4), ('D', 15), ('E', 27), ('F', 4), ('G', 27), ('H', 13)];
const FAULTS: usize = 7;

/// A line of a table, without its head.
#[derive(Debug)]
struct Line<'a> {
    /// The section's letter; `F` is also that of the faults, which come first.
    section: char,
    name: &'a str,
    /// `PWN`; empty for a fault.
    applies: &'a str,
    tests: &'a str,
}

fn lines(text: &str) -> Vec<Line<'_>> {
    let (mut lines, mut section) = (Vec::new(), ' ');
    for line in text.lines() {
        if let Some(title) = line.strip_prefix("## ") {
            section = title.chars().next().unwrap_or(' ');
        }
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        match cells[..] {
            ["", "test of Node" | "fault" | "---", .., ""] => {}
            ["", name, applies, tests, ""] => lines.push(Line { section, name, applies, tests }),
            ["", name, tests, ""] => lines.push(Line { section, name, applies: "", tests }),
            _ => {}
        }
    }
    lines
}

/// What is wrong with a line.
fn finding(line: &Line<'_>) -> Option<String> {
    let missing = missing(line.tests);
    if !missing.is_empty() {
        return Some(format!("{}: no such test: {missing:?}", line.name));
    }
    let is_ours = line.applies.is_empty() || line.applies.contains(['P', 'W', 'N']);
    let has_reason = line.tests.strip_prefix("not applicable: ").is_some_and(|reason| !reason.is_empty());
    let is_settled = match line.applies {
        "J" => line.tests.starts_with("JavaScript API only"),
        _ => is_ours && (has_reason || named(line.tests).next().is_some()),
    };
    if !is_settled {
        return Some(format!("{}: neither a test nor `not applicable: REASON`", line.name));
    }
    let is_with_node = named(line.tests).any(|(file, _)| file == "node" || file.starts_with("node_"));
    let lacks_node = line.applies.contains('N') && !is_with_node;
    lacks_node.then(|| format!("{}: no test in tests/node*.rs, although it applies to N", line.name))
}

#[test]
fn every_behaviour_has_its_test_or_a_reason() {
    let lines = lines(TABLE);
    let findings: Vec<String> = lines.iter().filter_map(finding).collect();
    assert!(findings.is_empty(), "\n{}\n", findings.join("\n"));
}

#[test]
fn no_behaviour_is_forgotten_or_there_twice() {
    let lines = lines(TABLE);
    assert_eq!(lines.iter().filter(|line| line.applies.is_empty()).count(), FAULTS);
    for (section, expected) in SECTIONS {
        let its = lines.iter().filter(|line| line.section == section && !line.applies.is_empty());
        assert_eq!(its.count(), expected, "section {section}");
    }
    let names: BTreeSet<&str> = lines.iter().map(|line| line.name).collect();
    let total: usize = SECTIONS.iter().map(|(_, count)| count).sum();
    assert_eq!((names.len(), lines.len()), (FAULTS + total, FAULTS + total));
}

#[test]
fn the_check_sees_what_is_wrong() {
    let own = "`behaviours::the_check_sees_what_is_wrong`";
    let with_node = "`node::what_is_preloaded_knows_its_worker`";
    let sample = format!(
        "## A. x\n\n| test of Node | applies | tests |\n|---|---|---|\n| good | PWN | {own} (why), {with_node} |\n\
         | reason | W | not applicable: none |\n| node | N | {with_node} |\n| bad | P | |\n\
         | gone | PN | {with_node}, `behaviours::nobody` |\n| part | W | `listeners::worker_with_script` |\n\
         | none | W | not applicable: |\n| late | J | later |\n| native | PN | {own} |\n"
    );
    let lines = lines(&sample);
    let found: Vec<&str> = lines.iter().filter(|line| finding(line).is_some()).map(|line| line.name).collect();
    assert_eq!((lines.len(), found), (9, vec!["bad", "gone", "part", "none", "late", "native"]));
}
