//! The status as aligned columns, for people. There are colours in it: whoever writes it where they do not belong takes
//! them out.

use std::time::Duration;

use anstyle::{AnsiColor, Style};

use super::harmless;
use super::rates::{Rates, is_counted};
use crate::primary::settings::DialectKind;
use crate::primary::status::{ListenerStatus, State, Status, WorkerStatus};

/// Between two columns.
const GAP: &str = "  ";
const PLAIN: Style = Style::new();
const TITLE: Style = Style::new().bold();
const GOOD: Style = AnsiColor::Green.on_default();
const UNDER_WAY: Style = AnsiColor::Yellow.on_default();
const BAD: Style = AnsiColor::Red.on_default();

/// The whole status, with what has happened since the last look if there was one, ending with a line break.
pub(super) fn of_status(status: &Status, rates: Option<&Rates>) -> String {
    let listeners = align(&LISTENER_TITLES, status.listeners.iter().map(|it| of_listener(it, rates)));
    let workers = align(&WORKER_TITLES, status.workers.iter().map(|it| of_worker(it, rates)));
    [head(status, rates), listeners, workers].join("\n")
}

fn head(status: &Status, rates: Option<&Rates>) -> String {
    let [name, version, kernel, command] =
        [&status.name, &status.version, &status.kernel, &status.command].map(|text| harmless::text(text));
    let (state, style) = match (status.state, status.enabled) {
        (State::Running, true) => ("running", GOOD),
        (State::Running, false) => ("running, disabled", UNDER_WAY),
        (State::Stopping, _) => ("stopping", UNDER_WAY),
    };
    let Status { pid, generation, upgrades, workers_wanted, counters, .. } = status;
    let (age, accepts) = (age(status.age_seconds), rates.map_or(String::new(), |it| format!(" ({:.1}/s)", it.accepts)));
    format!(
        "{TITLE}{name}{TITLE:#}: {style}{state}{style:#}, pid {pid}, up {age}, generation {generation}, \
         upgrades {upgrades}\n\
         croupier {version}, Linux {kernel}, command `{command}`\n\
         accepted {}{accepts}, dealt {}, of these again {}; workers wanted {workers_wanted}, started {}, ended {}\n",
        counters.accepted, counters.dealt, counters.redealt, counters.workers_started, counters.workers_ended
    )
}

/// One place of a table.
struct Cell {
    text: String,
    style: Style,
}

impl Cell {
    fn new(text: impl ToString, style: Style) -> Self {
        Self { text: harmless::text(&text.to_string()), style }
    }

    fn plain(text: impl ToString) -> Self {
        Self::new(text, PLAIN)
    }

    /// What nobody knows, or what is not.
    fn optional(text: Option<String>) -> Self {
        Self::plain(text.as_deref().unwrap_or("-"))
    }
}

/// Where the text of a column stands.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    Left,
    Right,
}
use Side::{Left, Right};

const LISTENER_TITLES: [(&str, Side); 9] = [
    ("LISTENER", Left),
    ("POLICY", Left),
    ("ACCEPTED", Right),
    ("ACCEPTS/S", Right),
    ("DEALT", Right),
    ("REDEALT", Right),
    ("EXPIRED", Right),
    ("RETURNED", Right),
    ("STATE", Left),
];

fn of_listener(listener: &ListenerStatus, rates: Option<&Rates>) -> [Cell; 9] {
    let state = match (listener.paused, listener.is_asked_for) {
        (true, _) => Cell::new("paused", BAD),
        (false, true) => Cell::new("dealing", GOOD),
        (false, false) => Cell::new("unused", UNDER_WAY),
    };
    let accepts = rates.filter(|_| is_counted(listener)).and_then(|rates| rates.accepts_at.get(&listener.address));
    [
        Cell::plain(&listener.address),
        Cell::plain(&listener.policy),
        Cell::plain(listener.accepted),
        Cell::optional(accepts.map(|it| format!("{it:.1}"))),
        Cell::plain(listener.dealt),
        Cell::plain(listener.redealt.sum()),
        Cell::plain(listener.expired),
        Cell::plain(listener.returned),
        state,
    ]
}

const WORKER_TITLES: [(&str, Side); 16] = [
    ("WORKER", Right),
    ("SLOT", Right),
    ("GENERATION", Right),
    ("PID", Right),
    ("STATE", Left),
    ("DIALECT", Left),
    ("OPEN", Right),
    ("UNTAKEN", Right),
    ("TAKEN", Right),
    ("TAKES/S", Right),
    ("SHARE", Right),
    ("DEALT", Right),
    ("RESTARTS", Right),
    ("MEMORY", Right),
    ("CPU", Right),
    ("AGE", Left),
];

fn of_worker(worker: &WorkerStatus, rates: Option<&Rates>) -> [Cell; 16] {
    let style = match worker.state.as_str() {
        "ready" => GOOD,
        "disconnected" => BAD,
        _ => UNDER_WAY,
    };
    // The usual one is not worth a column.
    let dialect = match worker.dialect {
        DialectKind::Native => None,
        DialectKind::Node => Some("node"),
    };
    let rates = rates.and_then(|rates| rates.workers.get(&worker.id));
    let share = rates.and_then(|it| it.share);
    [
        Cell::plain(worker.id),
        Cell::plain(worker.slot),
        Cell::plain(worker.generation),
        Cell::plain(worker.pid),
        Cell::new(&worker.state, style),
        Cell::optional(dialect.map(str::to_owned)),
        Cell::optional(worker.open.map(|open| open.to_string())),
        Cell::plain(worker.untaken),
        Cell::plain(worker.taken),
        Cell::optional(rates.map(|it| format!("{:.1}", it.takes))),
        Cell::optional(share.map(percent)),
        Cell::plain(worker.dealt),
        Cell::plain(worker.restarts),
        Cell::plain(format!("{:.1} MiB", worker.rss_bytes as f64 / f64::from(1 << 20))),
        Cell::plain(rates.map_or_else(|| format!("{:.2} s", worker.cpu_seconds), |it| percent(it.cpu))),
        Cell::plain(age(worker.age_seconds)),
    ]
}

fn percent(part: f64) -> String {
    format!("{:.1} %", part * 100.0)
}

fn age(seconds: u64) -> String {
    humantime::format_duration(Duration::from_secs(seconds)).to_string()
}

/// Without columns of which nobody knows anything, and without blanks at the end of a line.
fn align<const COLUMNS: usize>(
    titles: &[(&str, Side); COLUMNS],
    rows: impl Iterator<Item = [Cell; COLUMNS]>,
) -> String {
    let rows: Vec<[Cell; COLUMNS]> =
        std::iter::once(titles.map(|(title, _)| Cell::new(title, TITLE))).chain(rows).collect();
    let is_known = |column: usize| rows.len() == 1 || rows[1..].iter().any(|row| row[column].text != "-");
    let columns: Vec<usize> = (0..COLUMNS).filter(|column| is_known(*column)).collect();
    let mut text = String::new();
    for row in &rows {
        for (index, column) in columns.iter().enumerate() {
            let width = rows.iter().map(|row| row[*column].text.chars().count()).max().unwrap_or(0);
            let Cell { text: cell, style } = &row[*column];
            let pad = " ".repeat(width - cell.chars().count());
            let (before, after) = if titles[*column].1 == Right { (pad, String::new()) } else { (String::new(), pad) };
            let (gap, is_last) = (if index == 0 { "" } else { GAP }, index + 1 == columns.len());
            text += &format!("{gap}{before}{style}{cell}{style:#}{}", if is_last { "" } else { &after });
        }
        text += "\n";
    }
    text
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::primary::status::{Counters, Redealt};

    pub(crate) fn status(listeners: Vec<ListenerStatus>, workers: Vec<WorkerStatus>) -> Status {
        Status {
            name: "name".into(),
            pid: 7,
            version: "1.2.3".into(),
            command: "serve".into(),
            kernel: "6.1".into(),
            started_unix_seconds: 1,
            age_seconds: 61,
            upgrades: 0,
            generation: 0,
            state: State::Running,
            enabled: true,
            enabled_since_unix_seconds: 1,
            workers_wanted: 2,
            workers,
            listeners,
            counters: Counters::default(),
        }
    }

    pub(crate) fn listener(address: &str) -> ListenerStatus {
        ListenerStatus {
            address: address.into(),
            policy: "round-robin".into(),
            accepted: 0,
            dealt: 0,
            redealt: Redealt::default(),
            expired: 0,
            returned: 0,
            paused: false,
            is_asked_for: true,
            declared: true,
        }
    }

    pub(crate) fn worker(id: u32) -> WorkerStatus {
        WorkerStatus {
            id,
            slot: id - 1,
            generation: 0,
            pid: 1000,
            state: "ready".into(),
            dialect: DialectKind::Native,
            open: Some(0),
            taken: 0,
            untaken: 0,
            dealt: 0,
            reclaimed: 0,
            restarts: 0,
            age_seconds: 5,
            rss_bytes: 3 << 19,
            cpu_seconds: 0.25,
        }
    }

    fn plain(text: &str) -> String {
        anstream::adapter::strip_str(text).to_string()
    }

    #[test]
    fn columns_are_aligned_numbers_to_the_right_and_what_nobody_knows_is_left_out() {
        let titles = [("NAME", Left), ("N", Right), ("RATE", Right), ("STATE", Left)];
        let row = |cells: [&str; 4]| cells.map(|text| Cell::new(text, GOOD));
        let rows = [row(["a", "10", "-", "ready"]), row(["bcdef", "9", "-", "ok"])];
        assert_eq!(plain(&align(&titles, rows.into_iter())), "NAME    N  STATE\na      10  ready\nbcdef   9  ok\n");
        assert_eq!(plain(&align(&titles, std::iter::empty())), "NAME  N  RATE  STATE\n");
    }

    #[test]
    fn a_text_of_somebody_else_changes_neither_colours_nor_lines() {
        let mut evil = status(vec![listener("unix:\u{1b}[2J\n")], vec![worker(1)]);
        (evil.name, evil.command, evil.workers[0].state) = ("\u{9b}1m".into(), "\r\u{1b}c".into(), "\u{7}".into());
        let text = plain(&of_status(&evil, None));
        assert!(!text.chars().any(|it| it.is_control() && it != '\n'), "{text:?}");
        let well = of_status(&status(vec![listener("a")], vec![worker(1)]), None);
        assert_eq!(text.lines().count(), well.lines().count());
    }

    #[test]
    fn without_a_look_before_there_are_no_rates_and_with_one_there_are() {
        let now = status(vec![listener("a:1")], vec![worker(1)]);
        let text = plain(&of_status(&now, None));
        assert!(text.contains("  1.5 MiB  0.25 s  5s\n") && !text.contains("SHARE") && !text.contains("/s"), "{text}");
        let rates = Rates::between(&now, &now, Duration::from_secs(1)).unwrap();
        let text = plain(&of_status(&now, Some(&rates)));
        assert!(text.contains("accepted 0 (0.0/s)") && text.contains("  1.5 MiB  0.0 %  5s\n"), "{text}");
    }
}
