//! When to look at which connection: one ordered set, so that no turn of the loop looks at all of them. Pure.
//!
//! A deadline that moves away, as that of an idle connection does with every request, costs nothing: the entry stays
//! where it is, and whoever is called too early asks again. So a connection is looked at once per timeout, not once
//! per request.

use std::collections::BTreeSet;

use crate::protocol::time::Monotonic;

/// At most one entry per key. Keys are small numbers that are used again.
#[derive(Debug, Default)]
pub(super) struct Timers {
    in_order: BTreeSet<(Monotonic, usize)>,
    /// By key, the entry that it has in there.
    entries: Vec<Option<Monotonic>>,
}

impl Timers {
    /// Sees to it that `key` is due at `deadline` or before. `None` asks for nothing, and takes nothing back.
    pub(super) fn ask(&mut self, key: usize, deadline: Option<Monotonic>) {
        let Some(deadline) = deadline else { return };
        if self.entries.len() <= key {
            self.entries.resize(key + 1, None);
        }
        if self.entries[key].is_none_or(|entry| deadline < entry) {
            self.forget(key);
            self.in_order.insert((deadline, key));
            self.entries[key] = Some(deadline);
        }
    }

    /// `key` is not due any more: whoever had it is gone.
    pub(super) fn forget(&mut self, key: usize) {
        if let Some(entry) = self.entries.get_mut(key).and_then(Option::take) {
            self.in_order.remove(&(entry, key));
        }
    }

    /// When the next one is due.
    pub(super) fn next_due(&self) -> Option<Monotonic> {
        self.in_order.first().map(|(due, _)| *due)
    }

    /// Takes out one that is due, if there is one. Its deadline may have moved away: if it has, ask again.
    pub(super) fn pop_due(&mut self, now: Monotonic) -> Option<usize> {
        let (_, key) = self.in_order.first().filter(|(due, _)| *due <= now).copied()?;
        self.forget(key);
        Some(key)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    #[derive(Debug, Clone)]
    enum Step {
        Ask(usize, Option<u64>),
        Forget(usize),
        LetPass(u64),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            4 => (0..8_usize, prop::option::of(0..50_u64)).prop_map(|(key, after)| Step::Ask(key, after)),
            1 => (0..8_usize).prop_map(Step::Forget),
            2 => (0..30_u64).prop_map(Step::LetPass),
        ];
        prop::collection::vec(step, 0..200)
    }

    fn at(ns: u64) -> Monotonic {
        Monotonic { ns }
    }

    proptest! {
        /// The model: each key with the earliest time that was asked for since it was due or forgotten.
        #[test]
        fn everybody_is_due_at_the_earliest_time_asked_for_and_nobody_else_ever(steps in steps()) {
            let (mut timers, mut model, mut now) = (Timers::default(), BTreeMap::<usize, u64>::new(), 0);
            for step in steps {
                match step {
                    Step::Ask(key, after) => {
                        let deadline = after.map(|after| now + after);
                        timers.ask(key, deadline.map(at));
                        if let Some(deadline) = deadline {
                            let earliest = model.entry(key).or_insert(deadline);
                            *earliest = deadline.min(*earliest);
                        }
                    }
                    Step::Forget(key) => {
                        timers.forget(key);
                        model.remove(&key);
                    }
                    Step::LetPass(time) => {
                        now += time;
                        let mut due: Vec<usize> = std::iter::from_fn(|| timers.pop_due(at(now))).collect();
                        due.sort_unstable();
                        let expected = model.iter().filter(|(_, it)| **it <= now).map(|(key, _)| *key);
                        prop_assert_eq!(due, expected.collect::<Vec<usize>>());
                        model.retain(|_, it| *it > now);
                    }
                }
                prop_assert_eq!(timers.next_due(), model.values().min().copied().map(at));
            }
        }
    }
}
