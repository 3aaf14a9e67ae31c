//! Whose turn it is. Pure.
//!
//! Every listener has one rotation over the slots of its workers. A slot that has room is in it, one that has none
//! is skipped and keeps its place. Finding the next one does not depend on how many there are: the slots are bits,
//! and a second layer of bits says which words of the first are not empty.

/// The rotation of one listener.
#[derive(Debug, Clone, Default)]
pub struct Rotation {
    with_room: Bits,
    /// Where the search for the next one begins: after the last one that was dealt to.
    next: usize,
}

impl Rotation {
    /// An empty rotation.
    pub fn new() -> Self {
        Self::default()
    }

    /// An empty rotation whose search begins at `next`.
    pub fn starting_at(next: usize) -> Self {
        Self { next, ..Self::default() }
    }

    /// Where the search for the next one begins.
    pub fn position(&self) -> usize {
        self.next
    }

    /// Says whether the worker at `slot` has room.
    pub fn set_room(&mut self, slot: usize, has_room: bool) {
        self.with_room.set(slot, has_room);
    }

    /// The slot whose turn it is, or `None` if nobody has room. Its turn ends with [`advance`](Self::advance).
    pub fn pick(&self) -> Option<usize> {
        self.with_room.first_from(self.next).or_else(|| self.with_room.first_from(0))
    }

    /// The slot whose turn it would be if `slot` had no room.
    pub fn pick_other(&self, slot: usize) -> Option<usize> {
        let mut others = [self.next, slot + 1, 0].into_iter().filter_map(|from| self.with_room.first_from(from));
        others.find(|other| *other != slot)
    }

    /// All slots with room, beginning with the one whose turn it is.
    pub fn in_turn(&self) -> impl Iterator<Item = usize> {
        self.with_room.from(self.next).chain(self.with_room.from(0).take_while(|slot| *slot < self.next))
    }

    /// `slot` has had its turn.
    pub fn advance(&mut self, slot: usize) {
        self.next = slot + 1;
    }
}

const WORD: usize = u64::BITS as usize;

/// A set of small numbers in two layers.
#[derive(Debug, Clone, Default)]
struct Bits {
    words: Vec<u64>,
    /// Bit `i` is set if `words[i]` is not 0.
    summary: Vec<u64>,
}

impl Bits {
    fn set(&mut self, index: usize, value: bool) {
        let word = index / WORD;
        if word >= self.words.len() {
            self.words.resize(word + 1, 0);
            self.summary.resize(word / WORD + 1, 0);
        }
        assign(&mut self.words[word], index % WORD, value);
        assign(&mut self.summary[word / WORD], word % WORD, self.words[word] != 0);
    }

    /// All members that are `from` or more.
    fn from(&self, from: usize) -> impl Iterator<Item = usize> {
        std::iter::successors(self.first_from(from), |member| self.first_from(member + 1))
    }

    /// The smallest member that is `from` or more.
    fn first_from(&self, from: usize) -> Option<usize> {
        let word = from / WORD;
        let rest = self.words.get(word)? >> (from % WORD);
        if rest != 0 {
            return Some(from + rest.trailing_zeros() as usize);
        }
        let word = first_in(&self.summary, word + 1)?;
        Some(word * WORD + self.words[word].trailing_zeros() as usize)
    }
}

/// The first set bit that is `from` or more, over all of `words`.
fn first_in(words: &[u64], from: usize) -> Option<usize> {
    let start = from / WORD;
    let (first, others) = words.get(start..)?.split_first()?;
    let rest = first >> (from % WORD);
    if rest != 0 {
        return Some(from + rest.trailing_zeros() as usize);
    }
    let skipped = others.iter().position(|bits| *bits != 0)?;
    Some((start + 1 + skipped) * WORD + others[skipped].trailing_zeros() as usize)
}

fn assign(bits: &mut u64, bit: usize, value: bool) {
    *bits = *bits & !(1 << bit) | u64::from(value) << bit;
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn deal(rotation: &mut Rotation, count: usize) -> Vec<usize> {
        let mut order = Vec::new();
        for _ in 0..count {
            let Some(slot) = rotation.pick() else { break };
            rotation.advance(slot);
            order.push(slot);
        }
        order
    }

    #[test]
    fn with_room_everywhere_everyone_gets_the_same() {
        let mut rotation = Rotation::new();
        (0..3).for_each(|slot| rotation.set_room(slot, true));
        assert_eq!(deal(&mut rotation, 7), [0, 1, 2, 0, 1, 2, 0]);
    }

    #[test]
    fn a_slot_without_room_is_skipped_and_keeps_its_place() {
        let mut rotation = Rotation::new();
        (0..3).for_each(|slot| rotation.set_room(slot, slot != 1));
        assert_eq!(deal(&mut rotation, 3), [0, 2, 0]);
        rotation.set_room(1, true);
        assert_eq!(deal(&mut rotation, 3), [1, 2, 0]);
    }

    #[test]
    fn the_other_one_is_the_next_one_with_room() {
        let mut rotation = Rotation::new();
        (0..4).for_each(|slot| rotation.set_room(slot, slot != 2));
        assert_eq!((rotation.pick(), rotation.pick_other(0)), (Some(0), Some(1)));
        rotation.advance(2);
        assert_eq!((rotation.pick(), rotation.pick_other(3)), (Some(3), Some(0)));
        rotation.set_room(0, false);
        rotation.set_room(1, false);
        assert_eq!(rotation.pick_other(3), None);
    }

    #[test]
    fn nobody_with_room_is_nobody() {
        let mut rotation = Rotation::new();
        assert_eq!(rotation.pick(), None);
        rotation.set_room(5, true);
        rotation.set_room(5, false);
        assert_eq!(rotation.pick(), None);
    }

    proptest! {
        /// The obvious slow way gives the same order, whoever comes and goes in between.
        #[test]
        fn the_order_is_that_of_a_plain_search(
            size in 1usize..5000,
            changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<bool>(), 0usize..4), 1..200)
        ) {
            let mut rotation = Rotation::new();
            let mut plain = vec![false; size];
            let mut next = 0;
            for (index, has_room, deals) in changes {
                let slot = index.index(size);
                rotation.set_room(slot, has_room);
                plain[slot] = has_room;
                for _ in 0..deals {
                    let expected = (0..size).map(|step| (next + step) % size).find(|slot| plain[*slot]);
                    prop_assert_eq!(rotation.pick(), expected);
                    let all = (0..size).map(|step| (next + step) % size).filter(|slot| plain[*slot]);
                    prop_assert!(rotation.in_turn().eq(all));
                    if let Some(slot) = expected {
                        rotation.advance(slot);
                        next = (slot + 1) % size;
                    }
                }
            }
        }

        /// With everyone ready, from 1 to 1024 workers, the shares differ by at most one.
        #[test]
        fn shares_differ_by_at_most_one(workers in 1usize..=1024, connections in 0usize..5000) {
            let mut rotation = Rotation::new();
            (0..workers).for_each(|slot| rotation.set_room(slot, true));
            let mut shares = vec![0u32; workers];
            deal(&mut rotation, connections).into_iter().for_each(|slot| shares[slot] += 1);
            let (least, most) = (shares.iter().min().unwrap(), shares.iter().max().unwrap());
            prop_assert!(most - least <= 1);
            prop_assert_eq!(shares.iter().sum::<u32>() as usize, connections);
        }
    }
}
