//! An independent account of whose turn it was, and of who gave what back.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use croupier::protocol::ids::WorkerId;
use croupier::protocol::time::Monotonic;

use super::kernel::Connection;

#[derive(Default)]
pub struct Watch {
    /// Turns, by slot. A slot that could not have what there was has had its turn too.
    pub deals: Vec<usize>,
    /// For each slot with room: how many turns there had been when it got it.
    pub with_room_since: BTreeMap<usize, usize>,
    /// Connections that were given back and not dealt since: by whom, and when that was heard.
    pub givers: BTreeMap<Connection, (WorkerId, Monotonic)>,
    pub reclaimed: usize,
    /// Dealing by source: of each client, which slots it was dealt to although which others had room.
    pub preferred: BTreeMap<IpAddr, BTreeSet<(usize, usize)>>,
}

impl Watch {
    pub fn room_changed(&mut self, slot: usize, has_room: bool) {
        if has_room {
            self.with_room_since.entry(slot).or_insert(self.deals.len());
        } else {
            self.with_room_since.remove(&slot);
        }
    }

    /// Between two turns of one slot everybody else who had room all the time has had a turn; just one, if the slot
    /// itself had room all the time.
    pub fn dealt(&mut self, slot: usize) {
        if let Some(before) = self.deals.iter().rposition(|dealt| *dealt == slot) {
            let always_had_room = self.with_room_since.get(&slot).is_some_and(|since| *since <= before);
            for (other, _) in self.with_room_since.iter().filter(|(other, since)| **other != slot && **since <= before)
            {
                let turns = self.deals[before..].iter().filter(|dealt| *dealt == other).count();
                assert!(turns >= 1, "slot {other} was passed over: {:?} then {slot}", &self.deals[before..]);
                assert!(turns == 1 || !always_had_room, "slot {other} had {turns} turns to one of {slot}");
            }
        }
        self.deals.push(slot);
    }
}

/// The watch is known to be able to see a slot that was passed over, and one that was favoured.
#[test]
fn the_watch_sees_an_unfair_rotation() {
    for unfair in [&[0, 1, 2, 0, 2, 0][..], &[0, 1, 2, 1, 0]] {
        let watched = std::panic::catch_unwind(|| {
            let mut watch = Watch::default();
            (0..3).for_each(|slot| watch.room_changed(slot, true));
            unfair.iter().for_each(|slot| watch.dealt(*slot));
        });
        assert!(watched.is_err(), "{unfair:?}");
    }
}
