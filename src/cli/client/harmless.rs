//! Texts of others as they may stand on a terminal. A worker chooses the path that it listens on, and whoever starts a
//! primary its name: a character of theirs must not move the cursor, change colours, or turn the rest of a line around.

use std::fmt::Write;

/// `text` with everything that is more than a sign to be seen written as an escape.
pub(super) fn text(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for it in text.chars() {
        if is_active(it) { safe.extend(it.escape_unicode()) } else { safe.push(it) }
    }
    safe
}

/// The same for a text in JSON: it stays the same JSON. The active characters below 127 are escaped there already, but
/// for its own line breaks.
pub(super) fn json(json: &str) -> String {
    let mut safe = String::with_capacity(json.len());
    for it in json.chars() {
        if it != '\n' && is_active(it) {
            // All of them are in the basic plane: one unit of UTF-16.
            let _ = write!(safe, "\\u{:04x}", u32::from(it));
        } else {
            safe.push(it);
        }
    }
    safe
}

/// Control characters, those of the second half included, which are what an escape sequence is; and those that only
/// say in which direction others run.
fn is_active(it: char) -> bool {
    let is_direction =
        matches!(it, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    it.is_control() || is_direction
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_a_terminal_obeys_is_left() {
        let evil = "a\u{1b}[31mb\u{9b}2Jc\u{7}\r\n\u{202e}d é 漢 \"q\" \\";
        assert_eq!(text(evil), "a\\u{1b}[31mb\\u{9b}2Jc\\u{7}\\u{d}\\u{a}\\u{202e}d é 漢 \"q\" \\");
        let sent = serde_json::to_string(evil).unwrap() + "\n";
        let shown = json(&sent);
        assert!(!shown.trim_end().chars().any(is_active), "{shown}");
        assert_eq!(serde_json::from_str::<String>(&shown).unwrap(), evil);
    }
}
