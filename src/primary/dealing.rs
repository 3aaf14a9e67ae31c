//! Dealing: one connection after the other to the worker whose turn it is, or whom a policy chooses. The only code that
//! runs per connection.

use std::io;
use std::time::Duration;

use nix::errno::Errno;

use super::lanes::Lane;
use super::listeners::{Listener, Next};
use super::policy::Choice;
use super::returned::Candidate;
use super::room::Impossible;
use super::workers::{Register, Worker};
use crate::protocol::ids::{LaneId, Slot, WorkerId};
use crate::protocol::time::Monotonic;

/// How many connections one turn of the loop deals from one listener before it looks at other things.
pub const DEALS_PER_TURN: usize = 64;
/// How long dealing rests when this user has too much in flight, or the kernel no memory for it.
pub const DEAL_PAUSE: Duration = Duration::from_millis(10);

/// Why a round of dealing ended.
#[derive(Debug)]
pub enum Stopped {
    /// There is nothing to deal, or nothing to hold it with.
    NothingToDeal,
    /// Nobody has room. A kick will come.
    NoRoom,
    /// The turn is over; there may be more.
    TurnOver,
    /// A worker's counts make no sense: replace it, and go on.
    BadAccount(WorkerId, Impossible),
    /// A worker's deal channel is shut: end it, and go on.
    BadChannel(WorkerId, io::Error),
}

/// Deals from `listener` until one of [`Stopped`].
pub fn deal(listener: &mut Listener, workers: &mut Register, sequence: &mut u64, now: Monotonic) -> Stopped {
    for _ in 0..DEALS_PER_TURN {
        // First a place, then the connection: none is accepted that nobody has room for.
        let matched = match listener.chooser.is_rotation() {
            true => match_in_turn(listener, workers, sequence, now),
            false => match_by_policy(listener, workers, sequence, now),
        };
        let Match { slot, worker, lane, candidate } = match matched {
            Ok(Some(matched)) => matched,
            Ok(None) => continue,
            Err(stopped) => return stopped,
        };
        let Some(whose) = workers.get_mut(worker) else {
            listener.put_back(candidate, worker, now);
            listener.unseat(slot, worker, lane);
            continue;
        };
        match deal_one(listener, whose, lane, slot, candidate, now) {
            Ok(true) => {}
            Ok(false) => listener.rotation.set_room(slot, false),
            Err(stopped) => return stopped,
        }
    }
    Stopped::TurnOver
}

/// A place, and a connection for it.
struct Match {
    slot: usize,
    worker: WorkerId,
    lane: LaneId,
    candidate: Candidate,
}

/// The next connection for the worker whose turn it is. `None`: nobody sits there, it is the next one's turn.
fn match_in_turn(
    listener: &mut Listener,
    workers: &mut Register,
    sequence: &mut u64,
    now: Monotonic,
) -> Result<Option<Match>, Stopped> {
    let mut slot = listener.rotation.pick().ok_or(Stopped::NoRoom)?;
    let Some((mut worker, mut lane)) = seat(listener, slot) else { return Ok(None) };
    let mut next = listener.next_for(worker, sequence, now);
    if let Next::NotForThisWorker = next {
        slot = listener.rotation.pick_other(slot).ok_or(Stopped::NoRoom)?;
        let Some(seated) = seat(listener, slot) else { return Ok(None) };
        (worker, lane) = seated;
        next = listener.next_for(worker, sequence, now);
    }
    match next {
        Next::Connection(candidate) => Ok(Some(Match { slot, worker, lane, candidate: counted(candidate, workers) })),
        Next::Nothing | Next::NotForThisWorker | Next::Resting => Err(Stopped::NothingToDeal),
    }
}

/// The next connection for the worker that the policy chooses. Everybody with room is looked at before it is accepted:
/// the policy judges by fresh numbers, and one that cannot be believed is found while there is nothing to put back.
fn match_by_policy(
    listener: &mut Listener,
    workers: &mut Register,
    sequence: &mut u64,
    now: Monotonic,
) -> Result<Option<Match>, Stopped> {
    let Listener { rotation, seats, chooser, .. } = &mut *listener;
    let choices = rotation.in_turn().filter_map(|slot| {
        let (worker, lane) = seats.get(slot).copied().flatten()?;
        Some(choice(slot, worker, workers.lane_mut(worker, lane)?, now))
    });
    let (first, is_alone) = match chooser.offer(choices)? {
        [] => return Err(Stopped::NoRoom),
        [alone] => (*alone, true),
        [first, ..] => (*first, false),
    };
    let next = match is_alone {
        true => listener.next_for(first.worker, sequence, now),
        false => listener.next_for_several(sequence, now),
    };
    let candidate = match next {
        Next::Connection(candidate) => counted(candidate, workers),
        Next::NotForThisWorker => return Err(Stopped::NoRoom),
        Next::Nothing | Next::Resting => return Err(Stopped::NothingToDeal),
    };
    let slot = listener.choose(&candidate).unwrap_or(first).slot.0 as usize;
    let Some((worker, lane)) = seat(listener, slot) else {
        listener.put_back(candidate, first.worker, now);
        return Ok(None);
    };
    Ok(Some(Match { slot, worker, lane, candidate }))
}

/// One worker with room, as a policy sees it.
fn choice(slot: usize, worker: WorkerId, lane: &mut Lane, now: Monotonic) -> Result<Choice, Stopped> {
    let account = lane.look(now).map_err(|impossible| Stopped::BadAccount(worker, impossible))?;
    let (open, taken, untaken) = (account.open(), account.taken(), account.untaken());
    Ok(Choice { slot: Slot(slot as u32), worker, open, taken, untaken })
}

fn counted(candidate: Candidate, workers: &mut Register) -> Candidate {
    if let Some(came_back) = &candidate.came_back {
        workers.count_received_back(came_back);
    }
    candidate
}

/// Who sits at `slot`. A slot where nobody sits has no room.
fn seat(listener: &mut Listener, slot: usize) -> Option<(WorkerId, LaneId)> {
    let seated = listener.seats.get(slot).copied().flatten();
    if seated.is_none() {
        listener.rotation.set_room(slot, false);
    }
    seated
}

/// Sends one connection to one worker. True if there is room for another one.
fn deal_one(
    listener: &mut Listener,
    worker: &mut Worker,
    lane_id: LaneId,
    slot: usize,
    candidate: Candidate,
    now: Monotonic,
) -> Result<bool, Stopped> {
    let id = worker.id;
    let bad_account = |impossible| Stopped::BadAccount(id, impossible);
    let Candidate { record, connection, came_back } = candidate;
    let Err((connection, error)) = worker.deal(lane_id, &record, connection, now) else {
        listener.rotation.advance(slot);
        listener.counters.dealt += 1;
        if let Some(came_back) = came_back {
            listener.counters.redealt[came_back.reason as usize] += 1;
        }
        return worker.lane_mut(lane_id).map_or(Ok(false), |lane| lane.has_room_left(now)).map_err(bad_account);
    };
    listener.put_back(Candidate { record, connection, came_back }, id, now);
    match error.raw_os_error().map(Errno::from_raw) {
        _ if error.kind() == io::ErrorKind::NotFound => {
            listener.unseat(slot, id, lane_id);
            Ok(false)
        }
        // Its exit, or its end, takes it out of the rotation.
        Some(Errno::EPIPE | Errno::ECONNRESET) => Err(Stopped::BadChannel(id, error)),
        _ if error.kind() == io::ErrorKind::WouldBlock => {
            let asked = worker.lane_mut(lane_id).map_or(Ok(false), |lane| lane.ask_for_kick_at_next_take(now));
            asked.map_err(bad_account)
        }
        // ETOOMANYREFS is per user, ENOBUFS and ENOMEM are the machine's: no other worker would do better.
        _ => {
            listener.rest("cannot deal", &error, now + DEAL_PAUSE);
            Err(Stopped::NothingToDeal)
        }
    }
}
