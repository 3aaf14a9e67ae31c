//! One line in the log for every action that somebody asks for at a door: what, who, and what came of it.
//!
//! ```text
//!   audit action=scale workers=+1 uid=0 pid=4711 outcome=done
//! ```
//! `done`; `begun` for what goes on after the answer, and for an upgrade, whose success is never answered; `refused`
//! and `failed` with the reason; `open` if the client did not wait for the end.

use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::http::{Method, StatusCode};
use axum::response::Response;

/// Refusals that are told in [`SECOND`], at each door; of more only their number is told, with the next one: whoever
/// can connect can be refused as often as it likes.
const REFUSALS_MAX: u32 = 10;
const SECOND: Duration = Duration::from_secs(1);
/// As much of a reason as is told, in characters: clients' words are in it.
const REASON_MAX_CHARS: usize = 200;

/// What there is to say of an action besides its path: an extension of its answer.
#[derive(Debug, Clone)]
pub(super) struct Detail(pub(super) String);

/// Why it was refused or failed: an extension of its answer.
#[derive(Debug, Clone)]
pub(super) struct Reason(pub(super) String);

/// An action that somebody asks for. Dropped without an outcome it says that too.
#[derive(Debug)]
pub(super) struct Audit {
    action: Action,
    who: String,
    has_outcome: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Action {
    Reload,
    Upgrade,
    Scale,
    Shutdown,
    Stop,
    Enable,
    Disable,
    Disconnect(Option<u32>),
    Kill(Option<u32>),
}

/// The refusals of one door.
#[derive(Debug, Default)]
pub(super) struct Refusals(Mutex<Told>);

#[derive(Debug, Default)]
struct Told {
    since: Option<Instant>,
    told: u32,
    untold: u64,
}

impl Audit {
    /// `None`: nobody asks for an action.
    pub(super) fn of(method: &Method, path: &str, who: &str) -> Option<Self> {
        let action = Action::at(path).filter(|_| !method.is_safe())?;
        Some(Self { action, who: who.to_owned(), has_outcome: false })
    }

    /// It is let in.
    pub(super) fn begin(&self) {
        if self.action == Action::Upgrade {
            log::info!("audit {} {} outcome=begun", self.action, self.who);
        }
    }

    /// It is answered.
    pub(super) fn conclude(mut self, answer: &Response, refusals: &Refusals) {
        self.has_outcome = true;
        let (action, who) = (self.action, &self.who);
        let detail = answer.extensions().get().map_or_else(String::new, |Detail(text)| format!(" {text}"));
        let reason = answer.extensions().get().map_or_else(String::new, |Reason(text)| shown(text));
        match answer.status() {
            StatusCode::ACCEPTED => log::info!("audit {action}{detail} {who} outcome=begun"),
            status if status.is_success() => log::info!("audit {action}{detail} {who} outcome=done"),
            status if status.is_server_error() => log::warn!("audit {action}{detail} {who} outcome=failed [{reason}]"),
            _ => match refusals.next(Instant::now()) {
                Some(0) => log::warn!("audit {action} {who} outcome=refused [{reason}]"),
                Some(untold) => {
                    log::warn!("audit {action} {who} outcome=refused [{reason}; {untold} more were refused before]");
                }
                None => {}
            },
        }
    }
}

impl Drop for Audit {
    fn drop(&mut self) {
        if !self.has_outcome {
            log::info!("audit {} {} outcome=open [the client did not wait for it]", self.action, self.who);
        }
    }
}

impl Action {
    fn at(path: &str) -> Option<Self> {
        let segments: Vec<&str> = path.split('/').skip(1).collect();
        match segments[..] {
            ["reload"] => Some(Action::Reload),
            ["upgrade"] => Some(Action::Upgrade),
            ["scale"] => Some(Action::Scale),
            ["shutdown"] => Some(Action::Shutdown),
            ["stop"] => Some(Action::Stop),
            ["workers", id, "disconnect"] => Some(Action::Disconnect(id.parse().ok())),
            ["workers", id, "kill"] => Some(Action::Kill(id.parse().ok())),
            // Wherever ECV is.
            [.., "enable"] => Some(Action::Enable),
            [.., "disable"] => Some(Action::Disable),
            _ => None,
        }
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, worker) = match self {
            Action::Reload => ("reload", None),
            Action::Upgrade => ("upgrade", None),
            Action::Scale => ("scale", None),
            Action::Shutdown => ("shutdown", None),
            Action::Stop => ("stop", None),
            Action::Enable => ("enable", None),
            Action::Disable => ("disable", None),
            Action::Disconnect(worker) => ("disconnect", *worker),
            Action::Kill(worker) => ("kill", *worker),
        };
        write!(f, "action={name}")?;
        worker.map_or(Ok(()), |id| write!(f, " worker={id}"))
    }
}

impl Refusals {
    /// One more. `None`: enough were told. Otherwise how many were not told since the last one.
    fn next(&self, now: Instant) -> Option<u64> {
        let mut it = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if it.since.is_none_or(|since| now.duration_since(since) >= SECOND) {
            (it.since, it.told) = (Some(now), 0);
        }
        if it.told == REFUSALS_MAX {
            it.untold += 1;
            return None;
        }
        it.told += 1;
        Some(std::mem::take(&mut it.untold))
    }
}

/// In one line.
fn shown(reason: &str) -> String {
    reason.chars().take(REASON_MAX_CHARS).map(|it| if it.is_control() { ' ' } else { it }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_action_is_told_from_its_path() {
        let told = |path: &str| Action::at(path).map(|action| action.to_string());
        assert_eq!(told("/scale").as_deref(), Some("action=scale"));
        assert_eq!(told("/workers/3/kill").as_deref(), Some("action=kill worker=3"));
        assert_eq!(told("/workers/a%0Ab/disconnect").as_deref(), Some("action=disconnect"));
        assert_eq!(told("/lb/health/disable").as_deref(), Some("action=disable"));
        for path in ["", "/", "/status", "/scale/", "/workers/3", "/ecv", "*", "/stop/it"] {
            assert_eq!(told(path), None, "{path}");
        }
        assert!(Audit::of(&Method::GET, "/stop", "").is_none());
    }

    #[test]
    fn of_many_refusals_only_the_number_is_told() {
        let (refusals, now) = (Refusals::default(), Instant::now());
        let told: Vec<Option<u64>> = (0..15).map(|_| refusals.next(now)).collect();
        assert_eq!(told.iter().filter(|it| **it == Some(0)).count(), 10);
        assert_eq!(told.iter().filter(|it| it.is_none()).count(), 5);
        assert_eq!(refusals.next(now + SECOND), Some(5));
        assert_eq!(refusals.next(now + SECOND), Some(0));
    }

    #[test]
    fn a_reason_is_one_line() {
        assert_eq!(shown("unknown field `a\nERROR all is lost`"), "unknown field `a ERROR all is lost`");
        assert_eq!(shown(&"ä".repeat(1000)).chars().count(), REASON_MAX_CHARS);
    }
}
