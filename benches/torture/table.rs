//! One line per scenario.

use std::time::Duration;

use super::stage::Holding;

/// A line of the table, and what is behind it.
#[derive(Debug, Default)]
pub struct Row {
    pub name: String,
    pub connections: u64,
    pub occurrences: u64,
    pub answered: u64,
    pub cut: u64,
    pub lost: u64,
    /// Of the lost: nobody listened, or nobody answered.
    pub refused: u64,
    pub hung: u64,
    pub p50: Duration,
    pub p99: Duration,
    pub max: Duration,
    pub holding: Option<(Holding, Holding)>,
    /// For people.
    pub notes: Vec<String>,
    /// Each of them is a failure of the scenario.
    pub faults: Vec<String>,
    /// For those who search.
    pub details: Vec<String>,
    /// Something to compare with: nothing is promised.
    pub is_comparison: bool,
}

impl Row {
    pub fn is_good(&self) -> bool {
        self.is_comparison || self.lost == 0 && self.faults.is_empty()
    }
}

pub const HEAD: &str = "\
| scenario             | clients |  acts | answered |   cut |  lost | refused |  hung \
|  p50 ms |  p99 ms | max ms | fds     | RSS MiB   |
|----------------------|--------:|------:|---------:|------:|------:|--------:|------:\
|--------:|--------:|-------:|---------|-----------|";

pub fn line(row: &Row) -> String {
    let ms = |time: Duration| time.as_secs_f64() * 1000.0;
    let mib = |kib: u64| kib as f64 / 1024.0;
    let (fds, rss) = match row.holding {
        Some((before, after)) => (
            format!("{} > {}", before.fds, after.fds),
            format!("{:.1} > {:.1}", mib(before.rss_kib), mib(after.rss_kib)),
        ),
        None => Default::default(),
    };
    format!(
        "| {:<20} | {:>7} | {:>5} | {:>8} | {:>5} | {:>5} | {:>7} | {:>5} \
         | {:>7.2} | {:>7.2} | {:>6.1} | {fds:<7} | {rss:<9} |",
        row.name,
        row.connections,
        row.occurrences,
        row.answered,
        row.cut,
        row.lost,
        row.refused,
        row.hung,
        ms(row.p50),
        ms(row.p99),
        ms(row.max),
    )
}
