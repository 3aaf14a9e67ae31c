//! Tortures croupier: every scenario under load, one table, and exit code 1 if a single client was lost.
//!
//! `scripts/torture [--quick] [-v] [--connections N] [--rate N] [--seed N] [--node] [SCENARIO]...`

#[path = "../tests/support/mod.rs"]
mod support;
#[path = "torture/mod.rs"]
mod torture;

use std::process::ExitCode;
use std::time::Instant;

use torture::scenario::{Extent, Scenario};
use torture::table::{self, Row};

/// Details of one row that are shown without `-v`.
const DETAILS_MAX: usize = 5;

struct Arguments {
    extent: Extent,
    is_verbose: bool,
    scenarios: Vec<&'static Scenario>,
}

fn main() -> ExitCode {
    let arguments = match read_arguments(std::env::args().skip(1)) {
        Ok(arguments) => arguments,
        Err(what) => {
            eprintln!("torture: {what}\nscenarios:");
            torture::scenarios().for_each(|it| eprintln!("  {:<24} {}", it.name, it.what));
            return ExitCode::from(2);
        }
    };
    println!("{}", table::HEAD);
    let mut rows = Vec::new();
    for scenario in &arguments.scenarios {
        let started = Instant::now();
        let row = (scenario.play)(scenario.name, &arguments.extent);
        println!("{}", table::line(&row));
        explain(&row, arguments.is_verbose, started);
        rows.push(row);
    }
    let bad: Vec<&str> = rows.iter().filter(|row| !row.is_good()).map(|row| row.name.as_str()).collect();
    if bad.is_empty() {
        return ExitCode::SUCCESS;
    }
    println!("not kept: {}", bad.join(", "));
    ExitCode::FAILURE
}

fn explain(row: &Row, is_verbose: bool, started: Instant) {
    let max = if is_verbose { usize::MAX } else { DETAILS_MAX };
    row.notes.iter().for_each(|note| eprintln!("    {}: {note}", row.name));
    row.faults.iter().take(max).for_each(|fault| eprintln!("    {}: FAULT {fault}", row.name));
    if !row.is_comparison || is_verbose {
        row.details.iter().take(max).for_each(|detail| eprintln!("    {}: LOST {detail}", row.name));
    }
    if is_verbose {
        eprintln!("    {}: took {:.1?}", row.name, started.elapsed());
    }
}

fn read_arguments(arguments: impl Iterator<Item = String>) -> Result<Arguments, String> {
    let (mut extent, mut is_verbose, mut scenarios) = (Extent::FULL, false, Vec::new());
    let mut arguments = arguments.peekable();
    while let Some(argument) = arguments.next() {
        let mut number = || {
            let number = arguments.next().and_then(|text| text.parse::<u32>().ok());
            number.filter(|number| *number > 0).ok_or(format!("{argument} takes a number"))
        };
        match argument.as_str() {
            "--bench" => {} // from cargo
            "--quick" | "--test" => extent = Extent { seed: extent.seed, ..Extent::QUICK },
            "-v" => is_verbose = true,
            "--connections" => extent.connections = number()?.into(),
            "--occurrences" => extent.occurrences = number()?.into(),
            "--rate" => extent.rate = number()?,
            "--seed" => extent.seed = number()?.into(),
            "--node" => scenarios.extend(torture::node_scenarios()),
            name => match torture::scenarios().find(|it| it.name == name) {
                Some(scenario) => scenarios.push(scenario),
                None => return Err(format!("no scenario {name}")),
            },
        }
    }
    if scenarios.is_empty() {
        scenarios = torture::scenarios().collect();
    }
    Ok(Arguments { extent, is_verbose, scenarios })
}
