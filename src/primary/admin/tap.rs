//! The lines of workers on their way from the event loop to the admin thread: copied as they are, dropped if there are
//! too many, and made to what watchers see only there.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crossbeam_channel::{Receiver, Sender, bounded};
use serde::Serialize;

use crate::primary::output::{LineSink, Lines, Stream};
use crate::protocol::ids::WorkerId;

/// Pieces of output that wait for the admin thread, of about 16 KiB at most. Above it lines are lost to watchers.
const PIECES_MAX: usize = 64;
/// What watchers see of one line. Of a longer one they see the beginning and an ellipsis.
const SHOWN_MAX_BYTES: usize = 1024;

/// Where the event loop puts lines.
pub(super) struct Tap {
    pieces: Sender<Piece>,
    wake: Box<dyn Fn() + Send + Sync>,
    /// The number of the next line. Only the event loop counts.
    next: AtomicU64,
}

/// Some lines.
#[derive(Debug)]
pub(super) struct Piece {
    first: u64,
    worker: WorkerId,
    stream: Stream,
    lines: Vec<u8>,
}

/// One line, as watchers see it.
#[derive(Serialize)]
struct Shown<'a> {
    worker: WorkerId,
    stream: String,
    line: &'a str,
}

impl Tap {
    /// `wake` is called in the event loop.
    pub(super) fn new(wake: impl Fn() + Send + Sync + 'static) -> (Self, Receiver<Piece>) {
        let (pieces, receiver) = bounded(PIECES_MAX);
        (Self { pieces, wake: Box::new(wake), next: AtomicU64::new(1) }, receiver)
    }
}

impl LineSink for Tap {
    fn take(&self, lines: &Lines<'_>) {
        let (worker, stream, text) = (lines.worker, lines.stream, lines.text());
        let count = 1 + text.iter().filter(|byte| **byte == b'\n').count() as u64;
        let first = self.next.fetch_add(count, Ordering::Relaxed);
        // The numbers of the lines after them tell of those that found no room.
        let _ = self.pieces.try_send(Piece { first, worker, stream, lines: text.to_vec() });
        (self.wake)();
    }
}

impl fmt::Debug for Tap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tap")
    }
}

impl Piece {
    /// Each line with its number, in JSON. What is no UTF-8 is replaced.
    pub(super) fn shown(&self) -> impl Iterator<Item = (u64, Arc<str>)> {
        let stream = self.stream.to_string();
        let lines = self.lines.split(|byte| *byte == b'\n');
        (self.first..).zip(lines).map(move |(number, line)| {
            let shown = Shown { worker: self.worker, stream: stream.clone(), line: &beginning(line) };
            (number, serde_json::to_string(&shown).expect("a number and two texts").into())
        })
    }
}

/// The text, if it is not too long.
fn beginning(line: &[u8]) -> String {
    if line.len() <= SHOWN_MAX_BYTES {
        return String::from_utf8_lossy(line).into_owned();
    }
    // Of a character that is cut in two nothing is shown.
    let is_begin = |at: &usize| line[*at] & 0b1100_0000 != 0b1000_0000;
    let end = (0..=SHOWN_MAX_BYTES).rev().take(4).find(is_begin).unwrap_or(SHOWN_MAX_BYTES);
    String::from_utf8_lossy(&line[..end]).into_owned() + "\u{2026}"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_shown_up_to_their_limit_and_with_nothing_that_is_no_text() {
        let piece =
            |lines: &[u8]| Piece { first: 7, worker: WorkerId(3), stream: Stream::Stderr, lines: lines.to_vec() };
        let shown: Vec<_> =
            piece(b"<b>\"\xff\"\r\n\nend").shown().map(|(number, json)| (number, json.to_string())).collect();
        let json = |line: &str| format!(r#"{{"worker":3,"stream":"stderr","line":"{line}"}}"#);
        assert_eq!(shown, [(7, json("<b>\\\"\u{fffd}\\\"\\r")), (8, json("")), (9, json("end"))]);
    }

    #[test]
    fn a_long_line_is_cut_between_two_characters() {
        for (before, kept) in [(1020, "\u{1f3b2}"), (1021, ""), (1022, ""), (1023, ""), (1024, "")] {
            let line = "x".repeat(before) + "\u{1f3b2}" + &"y".repeat(9);
            assert_eq!(beginning(line.as_bytes()), "x".repeat(before) + kept + "\u{2026}", "{before}");
        }
        assert_eq!(beginning("x".repeat(1024).as_bytes()), "x".repeat(1024));
    }

    #[test]
    fn what_nobody_fetches_is_bounded_and_missed_by_number() {
        let (tap, pieces) = Tap::new(|| {});
        let lines = Lines::of(WorkerId(1), Stream::Stdout, b"a\nb");
        (0..PIECES_MAX + 5).for_each(|_| tap.take(&lines));
        assert_eq!(pieces.try_iter().last().map(|piece| piece.first), Some(2 * PIECES_MAX as u64 - 1));
        tap.take(&lines);
        let next = pieces.try_recv().unwrap();
        assert_eq!(next.shown().map(|(number, _)| number).collect::<Vec<_>>(), [139, 140], "ten are missing");
    }
}
