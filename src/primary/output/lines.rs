//! Bytes in, whole lines out. Pure: it knows no pipe.

use serde::{Deserialize, Serialize};

/// A longer line is split.
pub const LINE_MAX_BYTES: usize = 16 * 1024;

/// The lines of one stream of bytes, which may be cut anywhere.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Splitter {
    /// The line that has not ended, at most [`LINE_MAX_BYTES`].
    begun: Vec<u8>,
    /// A part of this line has left already.
    continues: bool,
}

/// One line or several.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part<'a> {
    /// Without the newline of the last one.
    pub text: &'a [u8],
    /// The first line goes on with the part before: it is longer than [`LINE_MAX_BYTES`], or had to leave before its
    /// end.
    pub continues: bool,
}

impl Splitter {
    /// Takes the next bytes. `emit` gets what they complete, in order; lines that are whole in `bytes` come in one part
    /// and are not copied.
    pub fn feed(&mut self, bytes: &[u8], emit: &mut dyn FnMut(Part<'_>)) {
        for bytes in bytes.chunks(LINE_MAX_BYTES) {
            self.feed_some(bytes, emit);
        }
    }

    /// Emits the line that has no end yet, if there is one. What follows on it, if anything does, says so.
    pub fn flush(&mut self, emit: &mut dyn FnMut(Part<'_>)) {
        if !self.begun.is_empty() {
            self.end_line(emit);
            self.continues = true;
        }
    }

    /// At most [`LINE_MAX_BYTES`], so that no line within them is too long.
    fn feed_some(&mut self, mut bytes: &[u8], emit: &mut dyn FnMut(Part<'_>)) {
        let is_newline = |byte: &u8| *byte == b'\n';
        if !self.begun.is_empty() || self.continues {
            let Some(end) = bytes.iter().position(is_newline) else { return self.go_on(bytes, emit) };
            self.go_on(&bytes[..end], emit);
            self.end_line(emit);
            bytes = &bytes[end + 1..];
        }
        if let Some(end) = bytes.iter().rposition(is_newline) {
            emit(Part { text: &bytes[..end], continues: false });
            bytes = &bytes[end + 1..];
        }
        self.go_on(bytes, emit);
    }

    fn go_on(&mut self, bytes: &[u8], emit: &mut dyn FnMut(Part<'_>)) {
        let (fitting, rest) = bytes.split_at(bytes.len().min(LINE_MAX_BYTES - self.begun.len()));
        self.begun.extend_from_slice(fitting);
        if !rest.is_empty() {
            self.flush(emit);
            self.begun.extend_from_slice(rest);
        }
    }

    fn end_line(&mut self, emit: &mut dyn FnMut(Part<'_>)) {
        emit(Part { text: &self.begun, continues: std::mem::take(&mut self.continues) });
        self.begun.clear();
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The lines that come out of these pieces, each with whether it continues the one before.
    fn lines(pieces: &[&[u8]]) -> Vec<(bool, Vec<u8>)> {
        let mut lines = Vec::new();
        let mut emit = |part: Part<'_>| {
            for (index, line) in part.text.split(|byte| *byte == b'\n').enumerate() {
                lines.push((part.continues && index == 0, line.to_vec()));
            }
        };
        let mut splitter = Splitter::default();
        pieces.iter().for_each(|piece| splitter.feed(piece, &mut emit));
        splitter.flush(&mut emit);
        lines
    }

    fn whole(lines: &[&str]) -> Vec<(bool, Vec<u8>)> {
        lines.iter().map(|line| (false, line.as_bytes().to_vec())).collect()
    }

    #[test]
    fn a_line_comes_out_whole_however_it_was_written() {
        assert_eq!(lines(&[b"a\nb", b"", b"c", b"\n\nd\n"]), whole(&["a", "bc", "", "d"]));
        assert_eq!(lines(&[b"", b"no end"]), whole(&["no end"]));
        assert_eq!(lines(&[b"\n"]), whole(&[""]));
        assert_eq!(lines(&[]), whole(&[]));
    }

    #[test]
    fn a_line_that_is_too_long_is_split_and_the_parts_say_so() {
        let longest = vec![b'x'; LINE_MAX_BYTES];
        assert_eq!(lines(&[&longest, b"\ny\n"]), [(false, longest.clone()), (false, b"y".to_vec())]);
        let longer = [&longest[..], b"y"].concat();
        assert_eq!(lines(&[&longer, b"\n\n"]), [(false, longest.clone()), (true, b"y".to_vec()), (false, vec![])]);
        let parts = lines(&[&longest, &longest, b"y", b"z\n"]);
        assert_eq!(parts, [(false, longest.clone()), (true, longest.clone()), (true, b"yz".to_vec())]);
    }

    #[test]
    fn what_follows_on_a_line_that_had_to_leave_says_so() {
        let mut splitter = Splitter::default();
        let mut parts = Vec::new();
        let mut emit = |part: Part<'_>| parts.push((part.continues, String::from_utf8_lossy(part.text).into_owned()));
        for text in ["a", "b", "c\nd\n", "e", "\n", "f\n"] {
            splitter.feed(text.as_bytes(), &mut emit);
            splitter.flush(&mut emit);
            splitter.flush(&mut emit);
        }
        let expected = [(false, "a"), (true, "b"), (true, "c"), (false, "d"), (false, "e"), (true, ""), (false, "f")];
        assert_eq!(parts, expected.map(|(continues, text)| (continues, text.to_owned())));
    }

    proptest! {
        #[test]
        fn pieces_of_any_size_give_the_same_lines_as_the_whole(
            text in prop::collection::vec(prop_oneof![9 => Just(b'x'), 1 => Just(b'\n')], 0..300),
            cuts in prop::collection::vec(0usize..300, 0..20),
            stretch in prop_oneof![Just(1), Just(LINE_MAX_BYTES / 3)],
        ) {
            // Each x stands for many: lines of several times the limit.
            let text: Vec<u8> =
                text.iter().flat_map(|byte| vec![*byte; if *byte == b'x' { stretch } else { 1 }]).collect();
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| (cut * stretch).min(text.len())).collect();
            cuts.extend([0, text.len()]);
            cuts.sort_unstable();
            let pieces: Vec<&[u8]> = cuts.windows(2).map(|ends| &text[ends[0]..ends[1]]).collect();
            let mut expected = Vec::new();
            for line in text.strip_suffix(b"\n").unwrap_or(&text).split(|byte| *byte == b'\n') {
                expected.push((false, line.iter().take(LINE_MAX_BYTES).copied().collect()));
                let rest = line.get(LINE_MAX_BYTES..).unwrap_or_default();
                expected.extend(rest.chunks(LINE_MAX_BYTES).map(|part| (true, part.to_vec())));
            }
            if text.is_empty() {
                expected.clear();
            }
            prop_assert_eq!(lines(&pieces), expected);
        }
    }
}
