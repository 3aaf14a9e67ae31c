//! Where `croupier status` writes to: colours if somebody can see them, and one picture in the place of the last one.

use std::io::{self, IsTerminal, Stdout, Write};

use anstream::{AutoStream, ColorChoice};

/// To the upper left corner; long lines are cut, not continued on the next one, which would be a line too many. Source:
/// console_codes(4).
const BEGIN: &str = "\x1b[H\x1b[?7l";
/// What is left of the line, and of the screen, from before.
const END_OF_LINE: &str = "\x1b[K\r\n";
const END: &str = "\x1b[J\x1b[?7h";

/// The standard output.
pub(super) struct Screen {
    stdout: Stdout,
    has_colours: bool,
    /// It is a terminal: pictures replace each other.
    is_terminal: bool,
    is_first: bool,
}

impl Screen {
    /// Colours on a terminal that has some, unless `NO_COLOR` is set.
    pub(super) fn open() -> Self {
        let stdout = io::stdout();
        let has_colours = AutoStream::choice(&stdout) != ColorChoice::Never;
        Self { has_colours, is_terminal: stdout.is_terminal(), stdout, is_first: true }
    }

    /// Writes a text after what is there.
    ///
    /// # Errors
    /// Those of write(2); `BrokenPipe`: nobody reads any more.
    pub(super) fn write(&mut self, text: &str) -> io::Result<()> {
        let text = if self.has_colours { text.to_owned() } else { anstream::adapter::strip_str(text).to_string() };
        self.put(&text)
    }

    /// Shows a text in the place of the last one; what the terminal has no lines for is left out. Elsewhere one text
    /// follows the other, with an empty line in between.
    ///
    /// # Errors
    /// As [`write`](Self::write).
    pub(super) fn show(&mut self, text: &str) -> io::Result<()> {
        let is_first = std::mem::replace(&mut self.is_first, false);
        if !self.is_terminal {
            return self.write(&if is_first { text.to_owned() } else { format!("\n{text}") });
        }
        let rows = terminal_size::terminal_size_of(&self.stdout).map_or(usize::MAX, |(_, rows)| rows.0.into());
        let text = if self.has_colours { text.to_owned() } else { anstream::adapter::strip_str(text).to_string() };
        self.put(&picture(&text, rows))
    }

    fn put(&mut self, text: &str) -> io::Result<()> {
        self.stdout.write_all(text.as_bytes())?;
        self.stdout.flush()
    }
}

/// One picture in one piece: an interrupt comes before it or after it. Its last line stays empty, for the cursor.
fn picture(text: &str, rows: usize) -> String {
    let lines = text.lines().take(rows.saturating_sub(1).max(1));
    let lines: String = lines.flat_map(|line| [line, END_OF_LINE]).collect();
    [BEGIN, &lines, END].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_picture_has_a_line_less_than_the_terminal() {
        let shown = |rows: usize| picture("1\n2\n3\n", rows).matches(END_OF_LINE).count();
        assert_eq!([0, 1, 2, 3, 4, 25, usize::MAX].map(shown), [1, 1, 1, 2, 3, 3, 3]);
    }
}
