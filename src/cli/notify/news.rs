//! What the service manager is to hear after a look at the primary: pure.
//!
//! ```text
//!   starting ── as many ready as there should be: READY ──▶ ready ── a reload: RELOADING ──▶ reloading
//!                                                              ▲                                │
//!                                                              └── its end, whatever it was: READY
//!   any ── a stop: STOPPING ──▶ stopping
//! ```
//! A look says it all but for a reload that began and ended since the last one, which the service manager may be
//! waiting for all the same (`Type=notify-reload`). A new image, after an upgrade, begins at the left: hearing READY
//! twice changes nothing. Source: sd_notify(3), systemd.service(5).

use std::time::Duration;

use crate::primary::status::{Glance, State};

/// Over how long a rate is taken, and so how often the status changes only for that.
const RATE_OVER: Duration = Duration::from_secs(5);

/// What the service manager has heard so far.
#[derive(Debug, Clone, Default)]
pub(super) struct Heard {
    /// The primary's process.
    pid: u32,
    is_ready: bool,
    is_reloading: bool,
    is_stopping: bool,
    status: String,
}

/// Connections per second, for people.
#[derive(Debug, Default)]
pub(super) struct Rate {
    since: Option<(Duration, u64)>,
    per_second: u64,
}

impl Rate {
    /// The rate, after `accepted` connections at `now`, a time of `CLOCK_MONOTONIC` as everywhere here.
    pub(super) fn after(&mut self, accepted: u64, now: Duration) -> u64 {
        let (since, before) = *self.since.get_or_insert((now, accepted));
        let time = now.saturating_sub(since);
        if time >= RATE_OVER {
            self.per_second = (accepted.saturating_sub(before) as f64 / time.as_secs_f64()).round() as u64;
            self.since = Some((now, accepted));
        }
        self.per_second
    }
}

impl Heard {
    /// Nothing, of a primary with this pid.
    pub(super) fn nothing_of(pid: u32) -> Self {
        Self { pid, ..Self::default() }
    }

    /// What is to be said now, each a message of its own, in this order. It counts as heard.
    pub(super) fn news(&mut self, glance: &Glance, per_second: u64, reload_ended: bool, now: Duration) -> Vec<String> {
        if glance.state == State::Stopping {
            return self.stopping(glance.workers).into_iter().collect();
        }
        let reloading = format!("RELOADING=1\nMONOTONIC_USEC={}", now.as_micros());
        let ready = format!("READY=1\nMAINPID={}", self.pid);
        let mut news = Vec::new();
        if reload_ended && self.is_ready {
            if !self.is_reloading {
                news.push(reloading.clone());
            }
            news.push(ready.clone());
            self.is_reloading = false;
        }
        if glance.is_reloading && !self.is_reloading && self.is_ready {
            news.push(reloading);
            self.is_reloading = true;
        }
        let is_complete = glance.workers_ready >= glance.workers_wanted;
        if !glance.is_reloading && (self.is_reloading || !self.is_ready && is_complete) {
            news.push(ready);
            (self.is_ready, self.is_reloading) = (true, false);
        }
        let status = self.status_of(glance, per_second);
        self.append_status(&mut news, status);
        news
    }

    /// The same when nobody answers any more, because the primary has ended.
    pub(super) fn stopping(&mut self, workers: u32) -> Option<String> {
        let mut news = Vec::new();
        if !std::mem::replace(&mut self.is_stopping, true) {
            news.push("STOPPING=1".to_owned());
        }
        self.append_status(&mut news, format!("stopping, workers left: {workers}"));
        news.pop()
    }

    fn status_of(&self, glance: &Glance, per_second: u64) -> String {
        // While one follows the other both may be ready.
        let ready = glance.workers_ready.min(glance.workers_wanted);
        let phase = match self {
            Self { is_reloading: true, .. } => "reloading, ",
            Self { is_ready: false, .. } => "starting, ",
            _ => "",
        };
        format!("{phase}{ready} of {} workers ready, {per_second} connections/s", glance.workers_wanted)
    }

    /// With the last message, or as one of its own; not if it is the same as before.
    fn append_status(&mut self, news: &mut Vec<String>, status: String) {
        if self.status != status {
            let line = format!("STATUS={status}");
            match news.last_mut() {
                Some(last) => *last += &format!("\n{line}"),
                None => news.push(line),
            }
            self.status = status;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::primary::status::Enabled;

    const GLANCE: Glance = Glance {
        state: State::Running,
        is_reloading: false,
        workers_ready: 0,
        workers_wanted: 2,
        workers: 2,
        accepted: 0,
        enabled: Enabled { is_enabled: true, since_unix_seconds: 0 },
        address: None,
    };
    const NOW: Duration = Duration::from_micros(1500);

    /// What is said, without pids and statuses.
    fn said(heard: &mut Heard, glance: Glance, reload_ended: bool) -> Vec<String> {
        let first = |message: &String| message.lines().next().unwrap().split('=').next().unwrap().to_owned();
        heard.news(&glance, 0, reload_ended, NOW).iter().map(first).collect()
    }

    fn ready() -> Heard {
        let mut heard = Heard::nothing_of(4711);
        assert_eq!(said(&mut heard, Glance { workers_ready: 2, ..GLANCE }, false), ["READY"]);
        heard
    }

    #[test]
    fn it_is_ready_once_as_many_workers_are_as_there_should_be() {
        let mut heard = Heard::nothing_of(4711);
        assert_eq!(heard.news(&GLANCE, 0, false, NOW), ["STATUS=starting, 0 of 2 workers ready, 0 connections/s"]);
        assert_eq!(said(&mut heard, GLANCE, false), [""; 0], "nothing new");
        assert_eq!(said(&mut heard, Glance { workers_ready: 1, ..GLANCE }, false), ["STATUS"]);
        let news = heard.news(&Glance { workers_ready: 2, ..GLANCE }, 7, false, NOW);
        assert_eq!(news, ["READY=1\nMAINPID=4711\nSTATUS=2 of 2 workers ready, 7 connections/s"]);
        assert_eq!(said(&mut heard, Glance { workers_ready: 1, ..GLANCE }, false), ["STATUS"], "it stays ready");
        assert_eq!(said(&mut heard, Glance { workers_ready: 2, ..GLANCE }, false), ["STATUS"]);
    }

    #[test]
    fn every_reload_begins_and_ends_also_one_that_nobody_saw() {
        let mut heard = ready();
        let (calm, reloading) =
            (Glance { workers_ready: 2, ..GLANCE }, Glance { workers_ready: 3, is_reloading: true, ..GLANCE });
        let news = heard.news(&reloading, 0, false, NOW);
        let status = "STATUS=reloading, 2 of 2 workers ready, 0 connections/s";
        assert_eq!(news, [format!("RELOADING=1\nMONOTONIC_USEC=1500\n{status}")]);
        assert_eq!(said(&mut heard, reloading, false), [""; 0], "it goes on");
        assert_eq!(said(&mut heard, calm, true), ["READY"]);
        assert_eq!(said(&mut heard, calm, true), ["RELOADING", "READY"], "too quick to be seen");
        assert_eq!(said(&mut heard, reloading, true), ["RELOADING", "READY", "RELOADING"], "and the next one");
        assert_eq!(said(&mut heard, reloading, true), ["READY", "RELOADING"], "one after the other");
        assert_eq!(said(&mut heard, calm, false), ["READY"], "the event was lost");
    }

    #[test]
    fn a_reload_before_it_is_ready_is_part_of_the_start() {
        let mut heard = Heard::nothing_of(4711);
        assert_eq!(said(&mut heard, Glance { is_reloading: true, workers_ready: 2, ..GLANCE }, false), ["STATUS"]);
        assert_eq!(said(&mut heard, Glance { workers_ready: 1, ..GLANCE }, true), ["STATUS"]);
        assert_eq!(said(&mut heard, Glance { workers_ready: 2, ..GLANCE }, false), ["READY"]);
    }

    #[test]
    fn a_stop_is_the_last_word() {
        let mut heard = ready();
        let stopping = Glance { state: State::Stopping, is_reloading: true, ..GLANCE };
        assert_eq!(heard.news(&stopping, 0, true, NOW), ["STOPPING=1\nSTATUS=stopping, workers left: 2"]);
        let fewer = Glance { workers: 1, ..stopping };
        assert_eq!(heard.news(&fewer, 0, false, NOW), ["STATUS=stopping, workers left: 1"]);
        assert_eq!(heard.stopping(0).as_deref(), Some("STATUS=stopping, workers left: 0"));
        assert_eq!(ready().stopping(0).as_deref(), Some("STOPPING=1\nSTATUS=stopping, workers left: 0"));
    }

    #[test]
    fn a_rate_is_taken_over_seconds() {
        let mut rate = Rate::default();
        let at = |seconds| NOW + Duration::from_secs(seconds);
        let rates = [(0, 100), (1, 200), (5, 700), (6, 5000), (15, 700)];
        assert_eq!(rates.map(|(seconds, accepted)| rate.after(accepted, at(seconds))), [0, 0, 120, 120, 0]);
    }
}
