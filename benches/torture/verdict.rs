//! What became of every client: answered, cut, or lost.
//!
//! **Cut** is what nobody can avoid: a worker was SIGKILLed that had the client. How many that may be is in the account
//! that croupier logs at the worker's exit: what it had taken and not closed, and one take that it had not counted, if
//! one is missing there. A client that was cut belongs to the earliest kill shortly before; those beyond all accounts
//! are lost.
//!
//! **Lost** is everything else that is not a whole answer: refused; reset, ended or hanging although no worker was
//! killed that can have had it; idle when it was ended, because an idle connection should have been moved. A server
//! that says `connection: close` in its answer has not lost the client: it is told, at a message boundary.
//!
//! **Sent home**, when croupier as a whole ends: a client that could not connect any more, and one that was idle and
//! saw FIN (the design closes idle connections then). A reset is lost there too.

use std::time::{Duration, Instant};

use super::client::{Failure, Moment, What};
use super::load::Tally;
use super::stage::Exit;

/// How long after a kill its clients may notice: on a busy machine the dying process, and the client's thread, wait
/// for their turns. The account bounds how many they may be, whenever it is.
const NOTICE_MAX: Duration = Duration::from_secs(1);

/// A SIGKILL that we sent to a worker.
#[derive(Debug, Clone, Copy)]
pub struct Kill {
    pub pid: i32,
    pub at: Instant,
}

/// What is known besides what the clients saw.
#[derive(Debug, Default)]
pub struct Circumstances {
    pub kills: Vec<Kill>,
    pub exits: Vec<Exit>,
    /// From when on croupier as a whole was ending.
    pub ending_since: Option<Instant>,
}

#[derive(Debug, Default)]
pub struct Verdict {
    pub cut: u64,
    /// As many the accounts of the killed ones allow.
    pub cut_max: u64,
    /// Idle when croupier as a whole ended.
    pub sent_home: u64,
    /// Came when croupier as a whole was ending.
    pub turned_away: u64,
    pub lost: Vec<String>,
    /// Of the lost: nobody listened, or nobody answered.
    pub refused: u64,
    pub hung: u64,
    /// What is wrong although no client has suffered.
    pub faults: Vec<String>,
}

impl Verdict {
    /// By the accounts that croupier has logged.
    pub fn of(tally: &Tally, circumstances: &Circumstances, started: Instant) -> Self {
        let mut faults = Vec::new();
        let audited = circumstances.kills.iter().map(|kill| audit(kill, &circumstances.exits, &mut faults));
        let allowed = audited.collect();
        Self { faults, ..Self::allowing(allowed, tally, circumstances, started) }
    }

    /// With so many clients `allowed` to be cut by each kill.
    pub fn allowing(mut allowed: Vec<u64>, tally: &Tally, circumstances: &Circumstances, started: Instant) -> Self {
        let mut verdict = Self { cut_max: allowed.iter().sum(), ..Self::default() };
        let mut failures: Vec<&Failure> = tally.failures.iter().collect();
        failures.sort_by_key(|failure| failure.at);
        for failure in failures {
            let is_end = circumstances.ending_since.is_some_and(|since| failure.at >= since);
            if is_end && failure.moment == Moment::Connecting && failure.what == What::Refused {
                verdict.turned_away += 1;
            } else if is_end && failure.answered > 0 && failure.what == What::Ended {
                // Idle as far as croupier could know: if it was waiting, its request crossed the FIN.
                verdict.sent_home += 1;
            } else if let Some(index) = killer(failure, &circumstances.kills, &allowed) {
                allowed[index] -= 1;
                verdict.cut += 1;
            } else {
                verdict.refused += u64::from(failure.what == What::Refused);
                verdict.hung += u64::from(failure.what == What::Hung);
                verdict.lost.push(describe(failure, circumstances, started));
            }
        }
        verdict
    }

    pub fn add(&mut self, other: Self) {
        self.cut += other.cut;
        self.cut_max += other.cut_max;
        self.sent_home += other.sent_home;
        self.turned_away += other.turned_away;
        self.lost.extend(other.lost);
        self.refused += other.refused;
        self.hung += other.hung;
        self.faults.extend(other.faults);
    }
}

/// Whether a killed worker's account is whole; how many clients it may have had.
fn audit(kill: &Kill, exits: &[Exit], faults: &mut Vec<String>) -> u64 {
    let Some(exit) = exits.iter().find(|exit| exit.pid == kill.pid) else {
        faults.push(format!("no exit of killed pid={}", kill.pid));
        return 0;
    };
    if !(0..=1).contains(&exit.unaccounted()) {
        faults.push(format!("dealt - reclaimed != taken + untaken: {}", exit.line));
    }
    exit.open_max()
}

/// The earliest kill that explains the failure and whose account is not used up.
fn killer(failure: &Failure, kills: &[Kill], allowed: &[u64]) -> Option<usize> {
    let is_cut = matches!(failure.what, What::Reset(_) | What::Ended) && failure.moment != Moment::Connecting;
    let explains = |kill: &Kill| kill.at <= failure.at && failure.at - kill.at < NOTICE_MAX;
    kills.iter().zip(allowed).position(|(kill, allowed)| is_cut && *allowed > 0 && explains(kill))
}

fn describe(failure: &Failure, circumstances: &Circumstances, started: Instant) -> String {
    let ms = |at: Instant| (at - started).as_secs_f64() * 1000.0;
    let Failure { at, opened, asked, what, moment, answered, worker, address } = failure;
    let Circumstances { kills, exits, .. } = circumstances;
    let after_kill = kills.iter().rfind(|kill| kill.at <= *at).map(|kill| {
        let exit = exits.iter().find(|exit| exit.pid == kill.pid).map_or("", |exit| exit.line.as_str());
        format!(", {:.1} ms after the kill of pid={} ({exit})", ms(*at) - ms(kill.at), kill.pid)
    });
    format!(
        "{what:?} while {moment:?} at {:.1} ms: opened {:.1}, asked {:.1}, answers={answered} worker={worker:?} \
         from {}{}",
        ms(*at),
        ms(*opened),
        ms(*asked),
        address.map_or_else(|| "?".into(), |it| it.to_string()),
        after_kill.unwrap_or_default(),
    )
}
