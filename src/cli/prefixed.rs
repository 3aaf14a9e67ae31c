//! `--stdout prefix` and `--stderr prefix`: the lines of all workers on one stream, each with its worker's id.

use super::writer;
use crate::primary::output::{LineSink, Lines};

/// Writes the lines of workers to where croupier's own output goes: `worker=3 | text`, and `worker=3 + text` for what
/// goes on with the line before, which was too long.
#[derive(Debug)]
pub(super) struct Prefixed;

impl LineSink for Prefixed {
    fn take(&self, lines: &Lines<'_>) {
        let [begins, continues] = ['|', '+'].map(|mark| format!("worker={} {mark} ", lines.worker).into_bytes());
        let mut text = Vec::new();
        let mut line_count = 0;
        for (line, goes_on) in lines.iter() {
            text.extend_from_slice(if goes_on { &continues } else { &begins });
            text.extend_from_slice(line);
            text.push(b'\n');
            line_count += 1;
        }
        writer::write_output(lines.stream, text, line_count);
    }
}
