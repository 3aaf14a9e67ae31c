//! Dealing by a policy: the glue as in `src/primary/dealing.rs`, and what must hold of each choice, by what is really
//! there.

use std::net::{Ipv4Addr, SocketAddr};

use croupier::primary::chooser::Chooser;
use croupier::primary::policy::{Choice, Policy, PolicyKind};
use croupier::protocol::ids::{Slot, WorkerId};
use proptest::prelude::*;

use super::kernel::Connection;
use super::primary::{Match, Matched, Next};
use super::{Fault, Simulation};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dealing {
    RoundRobin,
    LeastConnections,
    SourceHash,
    /// Chooses anybody, and now and then nobody.
    Erratic,
}

impl Dealing {
    pub fn any() -> impl Strategy<Value = Self> {
        prop_oneof![
            3 => Just(Self::RoundRobin),
            1 => Just(Self::LeastConnections),
            1 => Just(Self::SourceHash),
            1 => Just(Self::Erratic),
        ]
    }

    pub fn chooser(self) -> Chooser {
        Chooser::new(&match self {
            Self::RoundRobin => PolicyKind::RoundRobin,
            Self::LeastConnections => PolicyKind::LeastConnections,
            Self::SourceHash => PolicyKind::SourceHash,
            Self::Erratic => PolicyKind::custom("erratic", || Erratic(0)),
        })
    }
}

#[derive(Debug)]
struct Erratic(usize);

impl Policy for Erratic {
    fn choose(&mut self, _client: Option<SocketAddr>, choices: &[Choice]) -> usize {
        self.0 = self.0.wrapping_mul(31).wrapping_add(choices.len());
        self.0 % (choices.len() + 2)
    }
}

/// A few clients come again and again; some have no address.
fn client_of(connection: Connection) -> Option<SocketAddr> {
    let client = Ipv4Addr::new(127, 0, 0, (connection % 16) as u8);
    (!connection.is_multiple_of(7)).then(|| SocketAddr::new(client.into(), connection as u16))
}

impl Simulation {
    pub fn match_by_policy(&mut self) -> Matched {
        let slots: Vec<usize> = self.primary.rotation.in_turn().collect();
        let choices: Vec<Choice> = slots.into_iter().filter_map(|slot| self.choice(slot)).collect();
        let (first, is_alone) = match &choices[..] {
            [] => return Matched::Nothing,
            [alone] => (*alone, true),
            [first, ..] => (*first, false),
        };
        self.primary.chooser.offer(choices.into_iter().map(Ok::<_, ()>)).expect("no choice is an error");
        let next = if is_alone { self.next_for(first.worker) } else { self.next_but_from(None) };
        let Next::Connection(connection, held) = next else { return Matched::Nothing };
        let giver = held.filter(|held| held.not_again).map(|held| held.from);
        let giver = giver.filter(|_| self.world.fault != Some(Fault::DealsToTheGiver));
        let at = "127.0.0.1:1".parse().expect("an address");
        let chosen = self.primary.chooser.choose(&at, client_of(connection), giver).expect("somebody was offered");
        let slot = chosen.slot.0 as usize;
        let Some((worker, channel)) = self.seat(slot) else { panic!("nobody sits at {slot}") };
        self.check_choice(slot, connection);
        Matched::Match(Match { slot, passed: None, worker, channel, connection, held })
    }

    fn choice(&mut self, slot: usize) -> Option<Choice> {
        let (worker, channel) = self.primary.seats.get(slot).copied().flatten()?;
        let account = &mut self.primary.lanes.get_mut(&channel)?.account;
        if self.world.fault != Some(Fault::JudgesByOldNumbers) {
            account.observe(self.kernel.channels[channel].board.counts(), self.now).unwrap();
        }
        let (open, taken, untaken) = (account.open(), account.taken(), account.untaken());
        Some(Choice { slot: Slot(slot as u32), worker, open, taken, untaken })
    }

    /// Whoever was chosen had room, and nobody else with room who may have this connection was to be preferred.
    fn check_choice(&mut self, slot: usize, connection: Connection) {
        let with_room: Vec<usize> = self.watch.with_room_since.keys().copied().collect();
        assert!(with_room.contains(&slot), "slot {slot} has no room: {with_room:?}");
        let seat = |slot: usize| self.primary.seats[slot].expect("it has room");
        let rivals: Vec<usize> = with_room
            .into_iter()
            .filter(|other| *other != slot && !self.is_forbidden(connection, seat(*other).0))
            .collect();
        match (self.world.dealing, client_of(connection)) {
            (Dealing::RoundRobin | Dealing::Erratic, _) | (Dealing::SourceHash, None) => {}
            (Dealing::LeastConnections, _) => {
                let open = |slot| self.open_of(seat(slot));
                let fewer = rivals.iter().find(|other| open(**other) < open(slot) && open(slot).is_some());
                // The dead have nothing open, but that is not known yet.
                let fewer = fewer.filter(|other| open(**other).is_some());
                assert_eq!(fewer, None, "connection {connection} was dealt to slot {slot}, which has more open");
            }
            (Dealing::SourceHash, Some(client)) => {
                let preferred = self.watch.preferred.entry(client.ip()).or_default();
                for rival in rivals {
                    assert!(!preferred.contains(&(rival, slot)), "{client} has moved from slot {rival} to {slot}");
                    preferred.insert((slot, rival));
                }
            }
        }
    }

    /// What a living worker really has through a channel.
    fn open_of(&self, (worker, channel): (WorkerId, usize)) -> Option<usize> {
        let process = self.kernel.processes.get(&worker).filter(|process| process.is_alive)?;
        let open = process.open.iter().filter(|(_, through)| *through == channel).count();
        Some(open + self.kernel.channels[channel].untaken().count())
    }
}

/// The checks are known to be able to fail.
#[test]
fn a_choice_that_is_not_the_policy_s_is_seen() {
    use super::{Bounds, Step, World};
    for dealing in [Dealing::LeastConnections, Dealing::SourceHash] {
        let found = std::panic::catch_unwind(|| {
            let bounds = Bounds { queue_max: 16, connections_max: 100 };
            let world =
                World { slots: 3, bounds, socket_max: 278, held_max: 9, reload_parallel: 1, dealing, fault: None };
            let mut simulation = Simulation::new(world);
            simulation.primary.chooser = Dealing::Erratic.chooser();
            (0..40).for_each(|_| simulation.step(Step::Arrive(1)));
            simulation.turn();
        });
        assert!(found.is_err(), "{dealing:?}");
    }
}
