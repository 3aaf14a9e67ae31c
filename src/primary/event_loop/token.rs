//! What a readiness event is about, packed into the number that epoll carries.

use mio::Token;

use crate::primary::output::Stream;
use crate::protocol::ids::{LaneId, WorkerId};

/// What a token stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Source {
    Signals,
    Trial,
    Commands,
    Listener(usize),
    Control(WorkerId),
    Exit(WorkerId),
    Deal(WorkerId, LaneId),
    Output(WorkerId, Stream),
}

impl Source {
    const LANE_SHIFT: u32 = 32;
    const KIND_SHIFT: u32 = 48;

    pub(super) fn token(self) -> Token {
        let (kind, lane, number) = match self {
            Source::Signals => (0, 0, 0),
            Source::Trial => (5, 0, 0),
            Source::Listener(index) => (1, 0, index),
            Source::Control(worker) => (2, 0, worker.0 as usize),
            Source::Exit(worker) => (3, 0, worker.0 as usize),
            Source::Commands => (6, 0, 0),
            Source::Output(worker, stream) => (7, stream as usize, worker.0 as usize),
            Source::Deal(worker, lane) => (4, usize::from(lane.0), worker.0 as usize),
        };
        Token(kind << Self::KIND_SHIFT | lane << Self::LANE_SHIFT | number)
    }

    pub(super) fn of(token: Token) -> Source {
        let number = token.0 as u32;
        let lane = LaneId((token.0 >> Self::LANE_SHIFT) as u8);
        match token.0 >> Self::KIND_SHIFT {
            0 => Source::Signals,
            1 => Source::Listener(number as usize),
            2 => Source::Control(WorkerId(number)),
            3 => Source::Exit(WorkerId(number)),
            4 => Source::Deal(WorkerId(number), lane),
            5 => Source::Trial,
            7 => Source::Output(WorkerId(number), Stream::ALL[usize::from(lane.0)]),
            _ => Source::Commands,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_source_is_found_again_by_its_token() {
        let worker = WorkerId(u32::MAX);
        let sources = [
            Source::Signals,
            Source::Trial,
            Source::Commands,
            Source::Listener(3),
            Source::Control(worker),
            Source::Exit(WorkerId(1)),
            Source::Deal(worker, LaneId(23)),
            Source::Output(worker, Stream::Stdout),
            Source::Output(worker, Stream::Stderr),
        ];
        for source in sources {
            assert_eq!(Source::of(source.token()), source);
        }
    }
}
