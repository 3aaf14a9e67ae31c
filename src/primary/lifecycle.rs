//! The life of one worker, as a table. Pure.
//!
//! ```text
//!              Hello            Listening
//!   Starting ─────────▶ Online ◀────────▶ Ready
//!       │                 │   LastClosed    │
//!       └────────┬────────┴─────────────────┘
//!            DrainOrdered
//!                ▼
//!            Draining        ChannelEnded, from anywhere ──▶ Disconnected
//! ```
//! The end of the process is not a state: the worker then leaves the register.

use serde::{Deserialize, Serialize};
/// Where a worker stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum State {
    /// Its process runs and has said nothing yet.
    Starting,
    /// It has said hello and listens on nothing (yet, or any more).
    Online,
    /// It listens and is dealt connections.
    Ready,
    /// It has been told to finish.
    Draining,
    /// It has closed its control channel. Only its exit can follow.
    Disconnected,
}

/// What happens to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// It said hello.
    Hello,
    /// It said that it takes from a lane.
    Listening,
    /// It closed the last of its lanes.
    LastClosed,
    /// The primary told it to finish.
    DrainOrdered,
    /// Its control channel ended.
    ChannelEnded,
}

/// It said something that a worker in its state does not say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OutOfTurn;

impl State {
    /// The state after `event`.
    ///
    /// # Errors
    /// [`OutOfTurn`]: treat it like a malformed message.
    pub fn after(self, event: Event) -> Result<State, OutOfTurn> {
        match (self, event) {
            (State::Disconnected, _) | (_, Event::ChannelEnded) => Ok(State::Disconnected),
            (State::Starting, Event::Hello) => Ok(State::Online),
            (State::Online | State::Ready, Event::Listening) => Ok(State::Ready),
            (State::Online | State::Ready, Event::LastClosed) => Ok(State::Online),
            (_, Event::DrainOrdered) => Ok(State::Draining),
            // One that was ended before it said hello may still say it, and listen on what it had asked for.
            (State::Draining, Event::Hello | Event::Listening | Event::LastClosed) => Ok(State::Draining),
            (State::Online | State::Ready, Event::Hello) => Err(OutOfTurn),
            (State::Starting, Event::Listening | Event::LastClosed) => Err(OutOfTurn),
        }
    }

    /// It understands `disconnect`; one that does not is ended by SIGTERM.
    pub fn hears(self) -> bool {
        match self {
            State::Online | State::Ready | State::Draining => true,
            State::Starting | State::Disconnected => false,
        }
    }

    /// The word for logs and tables.
    pub fn name(self) -> &'static str {
        match self {
            State::Starting => "starting",
            State::Online => "online",
            State::Ready => "ready",
            State::Draining => "draining",
            State::Disconnected => "disconnected",
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const EVENTS: [Event; 5] =
        [Event::Hello, Event::Listening, Event::LastClosed, Event::DrainOrdered, Event::ChannelEnded];

    #[test]
    fn the_usual_life() {
        let ready = State::Starting.after(Event::Hello).and_then(|it| it.after(Event::Listening));
        assert_eq!(ready, Ok(State::Ready));
        assert_eq!(State::Ready.after(Event::LastClosed), Ok(State::Online));
        assert_eq!(State::Ready.after(Event::DrainOrdered), Ok(State::Draining));
    }

    #[test]
    fn nobody_is_ready_before_hello_or_says_it_twice() {
        assert_eq!(State::Starting.after(Event::Listening), Err(OutOfTurn));
        assert_eq!(State::Online.after(Event::Hello), Err(OutOfTurn));
    }

    proptest! {
        #[test]
        fn a_worker_that_was_told_to_finish_is_never_dealt_to_again(
            before in proptest::collection::vec(0usize..5, 0..10), after in proptest::collection::vec(0usize..5, 0..10)
        ) {
            let step = |state: State, event: &usize| state.after(EVENTS[*event]).unwrap_or(state);
            let told = before.iter().fold(State::Starting, step).after(Event::DrainOrdered).unwrap();
            let states = after.iter().scan(told, |state, event| { *state = step(*state, event); Some(*state) });
            prop_assert!(states.into_iter().all(|state| state != State::Ready));
        }
    }
}
