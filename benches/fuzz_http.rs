//! Sends malformed HTTP to both doors of a real croupier: `scripts/fuzz-http [REQUESTS] [SEED]`. Exit code 1 if it
//! noticed.

#[path = "fuzz_http/mod.rs"]
mod fuzz_http;
#[path = "../tests/support/mod.rs"]
mod support;

use std::process::ExitCode;

const REQUESTS: u64 = 100_000;
const SEED: u64 = 1;
/// Faults that are shown.
const FAULTS_MAX: usize = 10;

fn main() -> ExitCode {
    let numbers = std::env::args().skip(1).filter(|argument| argument != "--bench").map(|text| text.parse::<u64>());
    let Ok(numbers) = numbers.collect::<Result<Vec<u64>, _>>() else {
        eprintln!("give the number of requests and a seed, like 100000 1");
        return ExitCode::from(2);
    };
    let (count, seed) = (numbers.first().unwrap_or(&REQUESTS), numbers.get(1).unwrap_or(&SEED));
    let report = fuzz_http::attack::run(*count as usize, *seed);
    let ([rss, rss_after], [open, open_after]) = (report.rss_kib, report.descriptors);
    println!("{} requests in {:.1?}, seed {seed}", report.requests, report.took);
    println!("answers by status (0: none): {:?}", report.statuses);
    println!("RssAnon {rss} -> {rss_after} KiB, descriptors {open} -> {open_after}");
    for fault in report.faults.iter().take(FAULTS_MAX) {
        println!("FAULT {fault}");
    }
    println!("{} faults", report.faults.len());
    if report.faults.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
