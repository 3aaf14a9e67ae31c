//! How one listener chooses who gets a connection: by the rotation alone, or by a policy over all who have room.

use std::net::SocketAddr;

use super::address::Address;
use super::policy::{Choice, Policy, PolicyKind};
use crate::protocol::ids::WorkerId;

/// The policy of one listener.
#[derive(Debug)]
pub struct Chooser {
    name: &'static str,
    /// `None`: the rotation chooses.
    policy: Option<Box<dyn Policy>>,
    /// Nobody does: workers have the socket.
    shares: bool,
    /// It has been said that the policy chose nobody.
    has_complained: bool,
    /// Those with room, in the order of the rotation. Kept between two deals for its memory only.
    choices: Vec<Choice>,
}

impl Default for Chooser {
    /// The rotation.
    fn default() -> Self {
        Self::new(&PolicyKind::default())
    }
}

impl Chooser {
    /// One that deals by `kind`.
    pub fn new(kind: &PolicyKind) -> Self {
        let shares = matches!(kind, PolicyKind::Shared);
        Self { name: kind.name(), policy: kind.make(), shares, has_complained: false, choices: Vec::new() }
    }

    /// What its policy is called.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Whether nobody chooses: workers get the listening socket itself.
    pub fn shares(&self) -> bool {
        self.shares
    }

    /// Whether the rotation chooses, so that nobody has to be looked at.
    pub fn is_rotation(&self) -> bool {
        self.policy.is_none()
    }

    /// As [`Policy::keeps_clients`].
    pub fn keeps_clients(&self) -> bool {
        self.policy.as_ref().is_some_and(|policy| policy.keeps_clients())
    }

    /// Those who may be chosen next.
    ///
    /// # Errors
    /// That of `choices`; those before it may be chosen.
    pub fn offer<E>(&mut self, choices: impl Iterator<Item = Result<Choice, E>>) -> Result<&[Choice], E> {
        self.choices.clear();
        for choice in choices {
            self.choices.push(choice?);
        }
        Ok(&self.choices)
    }

    /// The choice for a connection of `client`. If `giver` has given it back it goes to anybody else who was offered.
    /// `None` if nobody was.
    pub fn choose(&mut self, at: &Address, client: Option<SocketAddr>, giver: Option<WorkerId>) -> Option<Choice> {
        let may_have_it = |choice: &Choice| Some(choice.worker) != giver;
        if self.choices.iter().any(may_have_it) {
            self.choices.retain(may_have_it);
        }
        let first = *self.choices.first()?;
        let Some(policy) = &mut self.policy else { return Some(first) };
        let index = policy.choose(client, &self.choices);
        let chosen = self.choices.get(index).copied();
        if chosen.is_none() && !std::mem::replace(&mut self.has_complained, true) {
            let (name, count) = (self.name, self.choices.len());
            log::error!(
                "listener={at} policy={name} chose number {index} of {count} [dealing in turn whenever it does so]"
            );
        }
        Some(chosen.unwrap_or(first))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::ids::Slot;

    /// Chooses the last one, or one that is not there.
    #[derive(Debug)]
    struct Last {
        beyond: usize,
    }

    impl Policy for Last {
        fn choose(&mut self, _client: Option<SocketAddr>, choices: &[Choice]) -> usize {
            choices.len() - 1 + self.beyond
        }
    }

    /// Who is chosen of workers 1 to `count`.
    fn chosen(kind: &PolicyKind, count: u32, giver: Option<u32>) -> Option<u32> {
        let choice = |id| Choice { slot: Slot(id - 1), worker: WorkerId(id), open: 0, taken: 0, untaken: 0 };
        let mut chooser = Chooser::new(kind);
        chooser.offer((1..=count).map(|id| Ok::<_, ()>(choice(id)))).unwrap();
        let at = "127.0.0.1:1".parse().unwrap();
        chooser.choose(&at, None, giver.map(WorkerId)).map(|choice| choice.worker.0)
    }

    #[test]
    fn the_policy_chooses_among_those_who_have_not_given_it_back() {
        let last = PolicyKind::custom("last", || Last { beyond: 0 });
        assert_eq!(chosen(&last, 3, None), Some(3));
        assert_eq!(chosen(&last, 3, Some(3)), Some(2));
        assert_eq!(chosen(&last, 1, Some(1)), Some(1), "alone, it has to");
        assert_eq!(chosen(&last, 0, None), None);
    }

    #[test]
    fn a_policy_that_chooses_nobody_is_the_rotation() {
        for beyond in [1, usize::MAX / 2] {
            let nonsense = PolicyKind::custom("nonsense", move || Last { beyond });
            assert_eq!(chosen(&nonsense, 3, None), Some(1));
            assert_eq!(chosen(&nonsense, 3, Some(1)), Some(2));
        }
    }
}
