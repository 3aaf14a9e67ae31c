//! Tests that a table names: `file::name` between backticks is the function `name` of `tests/file.rs`.

use std::path::Path;

/// What stands between backticks and looks like `file::name`.
pub fn named(tests: &str) -> impl Iterator<Item = (&str, &str)> {
    let is_name = |it: &str| it.chars().all(|it| matches!(it, 'a'..='z' | '0'..='9' | '_'));
    let named = tests.split('`').skip(1).step_by(2).filter_map(|it| it.split_once("::"));
    named.filter(move |(file, name)| is_name(file) && is_name(name))
}

/// Those that are not there as a test that is no worker's part.
pub fn missing(tests: &str) -> Vec<(&str, &str)> {
    named(tests).filter(|named| !is_a_test(named)).collect()
}

fn is_a_test((file, name): &(&str, &str)) -> bool {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(file).with_extension("rs");
    let source = std::fs::read_to_string(path).unwrap_or_default();
    let is_part = source.contains(&format!("plays(\"{name}\")")) || *name == "worker_with_script";
    !is_part && source.contains(&format!("#[test]\nfn {name}() {{"))
}
