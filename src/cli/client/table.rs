//! The status as aligned columns, for people.

use std::time::Duration;

use crate::primary::status::{ListenerStatus, State, Status, WorkerStatus};

/// Between two columns.
const GAP: &str = "  ";

/// The whole status, ending with a line break.
pub(super) fn of_status(status: &Status) -> String {
    let Status { name, pid, version, generation, workers_wanted, counters, .. } = status;
    let state = match status.state {
        State::Running => "running",
        State::Stopping => "stopping",
    };
    let age = age(status.age_seconds);
    let head = format!(
        "{name}: {state}, pid {pid}, up {age}, generation {generation}, croupier {version}\n\
         accepted {}, dealt {}, of these again {}; workers wanted {workers_wanted}, started {}, ended {}\n",
        counters.accepted, counters.dealt, counters.redealt, counters.workers_started, counters.workers_ended
    );
    let listeners = std::iter::once(LISTENER_TITLES.map(str::to_owned)).chain(status.listeners.iter().map(of_listener));
    let workers = std::iter::once(WORKER_TITLES.map(str::to_owned)).chain(status.workers.iter().map(of_worker));
    [head, align(&listeners.collect::<Vec<_>>()), align(&workers.collect::<Vec<_>>())].join("\n")
}

const LISTENER_TITLES: [&str; 8] =
    ["LISTENER", "POLICY", "ACCEPTED", "DEALT", "REDEALT", "EXPIRED", "RETURNED", "STATE"];

fn of_listener(listener: &ListenerStatus) -> [String; 8] {
    let state = match (listener.paused, listener.is_asked_for) {
        (true, _) => "paused",
        (false, true) => "dealing",
        (false, false) => "unused",
    };
    [
        listener.address.clone(),
        listener.policy.clone(),
        listener.accepted.to_string(),
        listener.dealt.to_string(),
        listener.redealt.sum().to_string(),
        listener.expired.to_string(),
        listener.returned.to_string(),
        state.to_owned(),
    ]
}

const WORKER_TITLES: [&str; 11] =
    ["WORKER", "SLOT", "GENERATION", "PID", "STATE", "OPEN", "UNTAKEN", "TAKEN", "DEALT", "RESTARTS", "AGE"];

fn of_worker(worker: &WorkerStatus) -> [String; 11] {
    [
        worker.id.to_string(),
        worker.slot.to_string(),
        worker.generation.to_string(),
        worker.pid.to_string(),
        worker.state.clone(),
        worker.open.to_string(),
        worker.untaken.to_string(),
        worker.taken.to_string(),
        worker.dealt.to_string(),
        worker.restarts.to_string(),
        age(worker.age_seconds),
    ]
}

fn age(seconds: u64) -> String {
    humantime::format_duration(Duration::from_secs(seconds)).to_string()
}

/// Numbers to the right, texts to the left, no blanks at the end of a line.
fn align<const COLUMNS: usize>(rows: &[[String; COLUMNS]]) -> String {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let is_number = |text: &str| !text.is_empty() && text.chars().all(|it| it.is_ascii_digit());
    let of_numbers = |column: usize| rows.iter().skip(1).all(|row| is_number(&row[column])) && rows.len() > 1;
    let columns: Vec<(usize, bool)> = (0..COLUMNS).map(|column| (width(column), of_numbers(column))).collect();
    let mut text = String::new();
    for row in rows {
        let cells = row.iter().zip(&columns).map(|(cell, (width, to_the_right))| match to_the_right {
            true => format!("{cell:>width$}"),
            false => format!("{cell:<width$}"),
        });
        text += cells.collect::<Vec<_>>().join(GAP).trim_end();
        text += "\n";
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_numbers_to_the_right() {
        let row = |a: &str, b: &str, c: &str| [a.to_owned(), b.to_owned(), c.to_owned()];
        let rows = [row("NAME", "N", "STATE"), row("a", "10", "ready"), row("bcdef", "9", "ok")];
        assert_eq!(align(&rows), "NAME    N  STATE\na      10  ready\nbcdef   9  ok\n");
        assert_eq!(align(&rows[..1]), "NAME  N  STATE\n");
    }
}
