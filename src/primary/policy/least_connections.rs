//! To whoever has the fewest open connections. Pure.

use std::net::SocketAddr;

use super::{Choice, Policy};

/// The worker with the fewest open connections; of several, the one whose turn it is. Connections that were dealt and
/// not taken yet count as open.
///
/// For connections that live long: a worker that was replaced begins with none, and gets what comes until it has as
/// many as the others. Rotation alone would leave it behind for as long as the others' connections live.
///
/// A worker that closes every connection at once, because it fails, looks as if it were idle and gets most of them.
#[derive(Debug, Clone, Copy, Default)]
pub struct LeastConnections;

impl Policy for LeastConnections {
    fn choose(&mut self, _client: Option<SocketAddr>, choices: &[Choice]) -> usize {
        let fewest = choices.iter().enumerate().min_by_key(|(_, choice)| choice.open);
        fewest.map_or(0, |(index, _)| index)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use proptest::sample::Index;

    use super::super::tests::choices;
    use super::*;

    #[test]
    fn of_those_with_the_fewest_it_is_the_one_whose_turn_it_is() {
        assert_eq!(LeastConnections.choose(None, &choices([3, 1, 2, 1])), 1);
        assert_eq!(LeastConnections.choose(None, &choices([1, 1, 1])), 0);
    }

    /// Workers that only count what they have open. The turn goes round them as in the primary.
    struct Workers {
        open: Vec<u64>,
        next: usize,
    }

    impl Workers {
        fn deal(&mut self, allowed: impl Fn(usize) -> bool) {
            let count = self.open.len();
            let in_turn = (0..count).map(|step| (self.next + step) % count).filter(|slot| allowed(*slot));
            let in_turn: Vec<usize> = in_turn.collect();
            let chosen = LeastConnections.choose(None, &choices(in_turn.iter().map(|slot| self.open[*slot])));
            self.open[in_turn[chosen]] += 1;
            self.next = in_turn[chosen] + 1;
        }

        /// A new worker comes to `slot`; the old one gives back its idle connections.
        fn replace(&mut self, slot: usize) {
            let given_back = std::mem::take(&mut self.open[slot]);
            (0..given_back).for_each(|_| self.deal(|_| true));
        }

        /// One of all the connections ends.
        fn close(&mut self, which: Index) {
            let mut number = which.index(self.open.iter().sum::<u64>() as usize) as u64;
            for open in &mut self.open {
                match number.checked_sub(*open) {
                    Some(rest) => number = rest,
                    None => return *open -= 1,
                }
            }
        }

        fn spread(&self) -> u64 {
            self.open.iter().max().unwrap() - self.open.iter().min().unwrap()
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

        /// 400 idle connections, everybody replaced in turn, with the idle ones given back or lost with their worker;
        /// then they come and go. Rotation ends at spreads of 100 here.
        #[test]
        fn after_everybody_was_replaced_it_converges_as_connections_come_and_go(
            workers in 2usize..=16, gives_back: bool, closes in proptest::collection::vec(any::<Index>(), 1200)
        ) {
            let mut workers = Workers { open: vec![0; workers], next: 0 };
            (0..400).for_each(|_| workers.deal(|_| true));
            prop_assert!(workers.spread() <= 1);
            for slot in 0..workers.open.len() {
                if gives_back {
                    workers.replace(slot);
                    prop_assert!(workers.spread() <= 1, "{:?}", workers.open);
                } else {
                    let lost = std::mem::take(&mut workers.open[slot]);
                    // Their clients come again before the replacement is ready.
                    (0..lost).for_each(|_| workers.deal(|other| other != slot));
                }
            }
            for which in closes {
                workers.close(which);
                workers.deal(|_| true);
            }
            prop_assert!(workers.spread() <= 1, "{:?}", workers.open);
        }
    }
}
