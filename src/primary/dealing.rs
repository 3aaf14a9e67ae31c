//! Dealing: one connection after the other to the worker whose turn it is. The only code that runs per connection.

use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

use nix::errno::Errno;

use super::lanes::Lane;
use super::listeners::{Listener, Next};
use super::returned::{CameBack, Candidate};
use super::room::Impossible;
use super::workers::Register;
use crate::protocol::ids::{LaneId, WorkerId};
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
        let Some(mut slot) = listener.rotation.pick() else { return Stopped::NoRoom };
        let Some((mut worker, mut lane)) = seat(listener, slot) else { continue };
        let mut next = listener.next_for(worker, sequence, now);
        if let Next::NotForThisWorker = next {
            let Some(other) = listener.rotation.pick_other(slot) else { return Stopped::NoRoom };
            let Some(seated) = seat(listener, other) else { continue };
            (slot, (worker, lane)) = (other, seated);
            next = listener.next_for(worker, sequence, now);
        }
        let candidate = match next {
            Next::Connection(candidate) => counted(candidate, workers),
            Next::Nothing | Next::NotForThisWorker | Next::Resting => return Stopped::NothingToDeal,
        };
        let Some(lane) = workers.lane_mut(worker, lane) else {
            listener.put_back(candidate, worker, now);
            listener.unseat(slot, worker, lane);
            continue;
        };
        match deal_one(listener, lane, slot, worker, candidate, now) {
            Ok(true) => {}
            Ok(false) => listener.rotation.set_room(slot, false),
            Err(stopped) => return stopped,
        }
    }
    Stopped::TurnOver
}

/// Tells the account of a lane that has ended, and whose worker lives, what has come out of its queue.
fn counted(candidate: Candidate, workers: &mut Register) -> Candidate {
    if let Some(CameBack { from, uncounted: Some(lane), .. }) = candidate.came_back
        && let Some(lane) = workers.lane_mut(from, lane)
    {
        lane.count_received_back();
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
    lane: &mut Lane,
    slot: usize,
    worker: WorkerId,
    candidate: Candidate,
    now: Monotonic,
) -> Result<bool, Stopped> {
    let bad_account = |impossible| Stopped::BadAccount(worker, impossible);
    let Err(error) = lane.deal(&candidate.record, candidate.connection.as_fd(), now) else {
        listener.rotation.advance(slot);
        listener.counters.dealt += 1;
        if let Some(came_back) = candidate.came_back {
            listener.counters.redealt[came_back.reason as usize] += 1;
        }
        return lane.has_room_left(now).map_err(bad_account);
    };
    listener.put_back(candidate, worker, now);
    match error.raw_os_error().map(Errno::from_raw) {
        Some(Errno::EAGAIN) => lane.ask_for_kick_at_next_take(now).map_err(bad_account),
        // Its exit, or its end, takes it out of the rotation.
        Some(Errno::EPIPE | Errno::ECONNRESET) => Err(Stopped::BadChannel(worker, error)),
        // ETOOMANYREFS is per user, ENOBUFS and ENOMEM are the machine's: no other worker would do better.
        _ => {
            listener.rest("cannot deal", &error, now + DEAL_PAUSE);
            Err(Stopped::NothingToDeal)
        }
    }
}
