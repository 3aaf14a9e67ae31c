//! The same worker for the same client. Pure.

use std::net::{IpAddr, SocketAddr};

use super::{Choice, Policy};

/// The worker in the slot that scores highest for the client's IP address (rendezvous hashing). The port does not
/// count, and an IPv4 address is the same client on an IPv4 and on an IPv6 listener.
///
/// Every client has an order of preference of its own over the slots, and gets the first one that has room. So while a
/// worker is full, paused or away, its clients go to the others, each to the next in its order and all in about
/// equal parts; nobody else's clients move. A replacement inherits the slot, and with it the clients.
///
/// The scores depend on nothing but address and slot: they are the same after an upgrade, in every version and on every
/// machine with as many workers. Clients without an address, on a Unix listener, go round.
///
/// Balance is that of the addresses: behind a proxy or a NAT many clients are one.
#[derive(Debug, Clone, Copy, Default)]
pub struct SourceHash;

impl Policy for SourceHash {
    fn choose(&mut self, client: Option<SocketAddr>, choices: &[Choice]) -> usize {
        let Some(client) = client else { return 0 };
        let client = hash_of(client.ip());
        // Two slots with the same score are told apart, so that whose turn it is does not matter.
        let score = |choice: &Choice| (mix(client.wrapping_add(u64::from(choice.slot.0))), choice.slot);
        let best = choices.iter().enumerate().max_by_key(|(_, choice)| score(choice));
        best.map_or(0, |(index, _)| index)
    }

    fn keeps_clients(&self) -> bool {
        true
    }
}

/// Of the address as the 128 bits of an IPv6 address, high half first; an IPv4 address as its IPv4-mapped one.
fn hash_of(ip: IpAddr) -> u64 {
    let bits = match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped().to_bits(),
        IpAddr::V6(ip) => ip.to_bits(),
    };
    mix(mix((bits >> 64) as u64).wrapping_add(bits as u64))
}

/// One step of SplitMix64: every bit of the result depends on every bit of `state`. Source: Steele, Lea and Flood,
/// "Fast splittable pseudorandom number generators", 2014.
fn mix(state: u64) -> u64 {
    let state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let state = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let state = (state ^ (state >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    state ^ (state >> 31)
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use proptest::prelude::*;

    use super::super::tests::choices;
    use super::*;
    use crate::protocol::ids::Slot;

    fn slot_of(ip: IpAddr, choices: &[Choice]) -> Slot {
        choices[SourceHash.choose(Some(SocketAddr::new(ip, 1)), choices)].slot
    }

    /// The first outputs of the published generator with seed 0: the hash is the one that is documented.
    #[test]
    fn the_hash_is_splitmix64() {
        let outputs = [0_u64, 1, 2].map(|step| mix(step.wrapping_mul(0x9e37_79b9_7f4a_7c15)));
        assert_eq!(outputs, [0xe220_a839_7b1d_cdaf, 0x6e78_9e6a_a1b9_65f4, 0x06c4_5d18_8009_454f]);
    }

    #[test]
    fn a_client_is_its_address_whatever_the_port_and_the_family_of_the_listener() {
        let all = choices([0; 64]);
        for last in 0..=255 {
            let plain: SocketAddr = format!("192.0.2.{last}:1").parse().unwrap();
            let mapped: SocketAddr = format!("[::ffff:192.0.2.{last}]:2").parse().unwrap();
            assert_eq!(SourceHash.choose(Some(plain), &all), SourceHash.choose(Some(mapped), &all));
        }
    }

    #[test]
    fn clients_without_an_address_go_round() {
        assert_eq!(SourceHash.choose(None, &choices([5, 0])), 0);
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

        /// Neither the order of the choices nor what the workers have says where a client belongs.
        #[test]
        fn a_client_belongs_to_one_slot(
            ip in any::<IpAddr>(), open in proptest::collection::vec(any::<u64>(), 1..40), turn in any::<usize>()
        ) {
            let plain = choices(open.iter().map(|_| 0));
            let mut other = choices(open);
            let turn = turn % other.len();
            other.rotate_left(turn);
            prop_assert_eq!(slot_of(ip, &plain), slot_of(ip, &other));
        }

        /// A worker goes away, or has no room: its clients, and no others, move to all the others in about equal parts.
        /// The clients are one network, as they are in life.
        #[test]
        fn only_the_clients_of_the_one_that_left_move_and_all_others_get_their_share(
            workers in 2u32..=32, left in any::<u32>(), network in any::<u32>()
        ) {
            const CLIENTS: u32 = 8192;
            let left = Slot(left % workers);
            let all = choices((0..workers).map(|_| 0));
            let others: Vec<Choice> = all.iter().copied().filter(|choice| choice.slot != left).collect();
            let mut moved = vec![0_u32; workers as usize];
            for client in 0..CLIENTS {
                let ip = IpAddr::V4(Ipv4Addr::from_bits(network.wrapping_add(client)));
                let (before, after) = (slot_of(ip, &all), slot_of(ip, &others));
                prop_assert!(before == left || before == after, "{} has moved", ip);
                if before == left {
                    moved[after.0 as usize] += 1;
                }
            }
            assert_even(&[moved.iter().sum()], CLIENTS / workers)?;
            moved.remove(left.0 as usize);
            assert_even(&moved, CLIENTS / workers / (workers - 1))?;
        }
    }

    /// As even as chance is: six standard deviations and a few more for small numbers.
    fn assert_even(shares: &[u32], expected: u32) -> Result<(), TestCaseError> {
        let tolerance = 6.0 * f64::from(expected).sqrt() + 8.0;
        let is_near = |share: &u32| (f64::from(*share) - f64::from(expected)).abs() <= tolerance;
        prop_assert!(shares.iter().all(is_near), "{:?} are not about {}", shares, expected);
        Ok(())
    }

    /// A client's slot is part of what users rely on: it must not change from one version to the next.
    #[test]
    fn the_slots_of_some_clients_are_what_they_have_always_been() {
        let all = choices([0; 8]);
        let slots = ["127.0.0.1", "127.0.0.2", "192.0.2.1", "::1", "2001:db8::1"];
        let slots = slots.map(|ip| slot_of(ip.parse().unwrap(), &all).0);
        assert_eq!(slots, [2, 0, 4, 2, 4]);
    }
}
