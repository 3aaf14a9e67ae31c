//! Who gets the next connection of a listener, of those workers that have room. Pure.
//!
//! ```text
//!   round-robin         whose turn it is: the rotation itself, at no cost per worker
//!   least-connections   who has the fewest open; the rotation breaks ties
//!   source-hash         the same worker for the same client, as long as it has room
//!   shared              nobody: workers accept from the listening socket themselves
//!   custom              an embedder's own Policy
//! ```
//! Room always comes first: a policy only ever sees workers that have some, and is not asked while nobody has. Nor
//! does it see a worker that has just given the connection back, unless that is the only one. So whatever a policy
//! says, every connection reaches exactly one worker, and a full, paused or stuck one gets none.
//!
//! Anything but round-robin looks at every worker with room for every connection: for each of them a read of memory
//! that another processor writes.

use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;
use std::sync::Arc;

use crate::protocol::ids::{Slot, WorkerId};

mod least_connections;
mod source_hash;

pub use least_connections::LeastConnections;
pub use source_hash::SourceHash;

/// Chooses a worker for every connection of one listener. Each listener has one of its own.
///
/// It runs in the primary's only thread, once per connection: it must not block, must not panic, and should neither
/// do I/O nor ask for the time.
///
/// ```
/// use std::net::SocketAddr;
/// use croupier::primary::policy::{Choice, Policy, PolicyKind};
///
/// /// To whoever has had the fewest so far.
/// #[derive(Debug)]
/// struct FewestTaken;
///
/// impl Policy for FewestTaken {
///     fn choose(&mut self, _client: Option<SocketAddr>, choices: &[Choice]) -> usize {
///         let fewest = choices.iter().enumerate().min_by_key(|(_, choice)| choice.taken + choice.untaken);
///         fewest.map_or(0, |(index, _)| index)
///     }
/// }
///
/// // For `Settings::policy`, or for one listener: `ListenerSpec { policy: Some(kind), .. }`.
/// let kind = PolicyKind::custom("fewest-taken", || FewestTaken);
/// # assert_eq!(kind.name(), "fewest-taken");
/// ```
pub trait Policy: fmt::Debug + Send {
    /// Which of `choices` gets the connection: its index.
    ///
    /// `client` is the address of the client, `None` on a Unix listener. `choices` is never empty, and in the order of
    /// the rotation: the first is the one whose turn it is. An index out of range is logged once, and then and later
    /// taken for 0, which is strict rotation.
    fn choose(&mut self, client: Option<SocketAddr>, choices: &[Choice]) -> usize;

    /// Whether a client that gets another worker than before misses something there, like a session. Then as many of
    /// its connections may wait for a Node worker as for any other, instead of a few: asked when a worker listens.
    fn keeps_clients(&self) -> bool {
        false
    }
}

/// A worker that has room. Its numbers are those of one listener, since that worker has listened there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Choice {
    /// Its stable place, inherited by its replacement.
    pub slot: Slot,
    /// Which worker it is.
    pub worker: WorkerId,
    /// Connections that it has or is about to have: dealt, and neither closed nor back.
    pub open: u64,
    /// Connections that it has taken so far.
    pub taken: u64,
    /// Of `open`, those that it has not taken yet.
    pub untaken: u64,
}

/// By which policy a listener deals, before it has one of its own.
#[derive(Debug, Clone, Default)]
pub enum PolicyKind {
    /// Strict rotation among those with room.
    #[default]
    RoundRobin,
    /// See [`LeastConnections`].
    LeastConnections,
    /// See [`SourceHash`].
    SourceHash,
    /// Nobody deals: workers get the listening socket itself, and the kernel spreads the connections. UDP is always
    /// like that. The primary sees none of it: it does not count, and takes nothing back.
    Shared,
    /// An embedder's own: see [`custom`](Self::custom).
    Custom(Custom),
}

/// An embedder's policy and how it is called.
#[derive(Clone)]
pub struct Custom {
    name: &'static str,
    make: Arc<dyn Fn() -> Box<dyn Policy> + Send + Sync>,
}

/// A text that names no policy. Its message says which there are.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("there is no policy {0:?}: choose round-robin, least-connections, source-hash or shared")]
pub struct UnknownPolicy(String);

impl PolicyKind {
    /// Those that have a name on the command line.
    pub const BUILT_IN: [Self; 4] = [Self::RoundRobin, Self::LeastConnections, Self::SourceHash, Self::Shared];

    /// A policy of your own. `make` is called once for every listener that deals by it, and once more after an upgrade
    /// in place; `name` is what status and logs call it, and how an upgraded primary finds it again.
    pub fn custom<P: Policy + 'static>(name: &'static str, make: impl Fn() -> P + Send + Sync + 'static) -> Self {
        Self::Custom(Custom { name, make: Arc::new(move || Box::new(make())) })
    }

    /// How it is called.
    pub fn name(&self) -> &'static str {
        match self {
            Self::RoundRobin => "round-robin",
            Self::LeastConnections => "least-connections",
            Self::SourceHash => "source-hash",
            Self::Shared => "shared",
            Self::Custom(custom) => custom.name,
        }
    }

    /// A policy for one listener; `None` is the rotation, which needs no numbers.
    pub fn make(&self) -> Option<Box<dyn Policy>> {
        match self {
            Self::RoundRobin | Self::Shared => None,
            Self::LeastConnections => Some(Box::new(LeastConnections)),
            Self::SourceHash => Some(Box::new(SourceHash)),
            Self::Custom(custom) => Some((custom.make)()),
        }
    }
}

impl FromStr for PolicyKind {
    type Err = UnknownPolicy;

    fn from_str(text: &str) -> Result<Self, UnknownPolicy> {
        let named = Self::BUILT_IN.into_iter().find(|kind| kind.name() == text);
        named.ok_or_else(|| UnknownPolicy(text.to_owned()))
    }
}

impl fmt::Display for PolicyKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.name().fmt(f)
    }
}

impl fmt::Debug for Custom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Custom").field("name", &self.name).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Choices with these numbers of open connections, in slots 0, 1, 2 ...
    pub(super) fn choices(open: impl IntoIterator<Item = u64>) -> Vec<Choice> {
        let choice = |(slot, open)| Choice { slot: Slot(slot), worker: WorkerId(slot + 1), open, taken: 0, untaken: 0 };
        (0..).zip(open).map(choice).collect()
    }

    #[test]
    fn every_name_names_its_policy() {
        for kind in PolicyKind::BUILT_IN {
            assert_eq!(kind.to_string().parse::<PolicyKind>().unwrap().name(), kind.name());
        }
        let error = "fair".parse::<PolicyKind>().unwrap_err().to_string();
        for kind in PolicyKind::BUILT_IN {
            assert!(error.contains("\"fair\"") && error.contains(kind.name()), "{error}");
        }
    }

    proptest! {
        /// Those with room are all that a policy sees: it must choose one of them.
        #[test]
        fn no_policy_picks_one_without_room(
            client in proptest::option::of(any::<SocketAddr>()), open in proptest::collection::vec(any::<u64>(), 1..50)
        ) {
            for mut policy in PolicyKind::BUILT_IN.iter().filter_map(PolicyKind::make) {
                prop_assert!(policy.choose(client, &choices(open.clone())) < open.len());
            }
        }
    }
}
