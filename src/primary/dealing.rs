//! Dealing: one connection after the other to the worker whose turn it is. The only code that runs per connection.

use std::os::fd::AsFd;
use std::time::Duration;

use nix::errno::Errno;

use super::listeners::{Listener, Next};
use super::workers::{Lane, Register};
use crate::protocol::ids::WorkerId;
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
    /// A worker cannot be dealt to any more: end it, and go on.
    BadWorker(WorkerId, String),
}

/// Deals from `listener` until one of [`Stopped`].
pub fn deal(listener: &mut Listener, workers: &mut Register, sequence: &mut u64, now: Monotonic) -> Stopped {
    for _ in 0..DEALS_PER_TURN {
        // First a place, then the connection: none is accepted that nobody has room for.
        let Some(slot) = listener.rotation.pick() else { return Stopped::NoRoom };
        let Some((worker, lane)) = seated(listener, workers, slot) else {
            listener.rotation.set_room(slot, false);
            continue;
        };
        let (record, connection) = match listener.next(sequence, now) {
            Next::Connection(record, connection) => (record, connection),
            Next::Nothing | Next::Resting => return Stopped::NothingToDeal,
        };
        let room = match lane.deal(&record, connection.as_fd()) {
            Ok(()) => {
                listener.rotation.advance(slot);
                lane.has_room_left()
            }
            Err(error) => {
                listener.put_back(record, connection);
                match error.raw_os_error().map(Errno::from_raw) {
                    Some(Errno::EAGAIN) => lane.ask_for_kick_at_next_take(),
                    Some(Errno::EPIPE | Errno::ECONNRESET) => {
                        listener.rotation.set_room(slot, false);
                        return Stopped::BadWorker(worker, format!("its deal channel is shut: {error}"));
                    }
                    // ETOOMANYREFS is per user, ENOBUFS and ENOMEM are the machine's: no other worker would do better.
                    _ => {
                        listener.rest("cannot deal", &error, now + DEAL_PAUSE);
                        return Stopped::NothingToDeal;
                    }
                }
            }
        };
        match room {
            Ok(true) => {}
            Ok(false) => listener.rotation.set_room(slot, false),
            Err(impossible) => {
                listener.rotation.set_room(slot, false);
                return Stopped::BadWorker(worker, impossible.to_string());
            }
        }
    }
    Stopped::TurnOver
}

fn seated<'a>(listener: &Listener, workers: &'a mut Register, slot: usize) -> Option<(WorkerId, &'a mut Lane)> {
    let (worker, lane) = (*listener.lanes.get(slot)?)?;
    Some((worker, workers.lane_mut(worker, lane)?))
}
