//! Text from a server as a terminal may show it: without characters that a terminal takes for a command.

use std::fmt::Write;

use serde_json::Value;

/// The text with control characters, and those that turn the direction of text, in the form `\u{1b}`.
pub(crate) fn plain(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '\n' => plain.push_str("\\n"),
            '\t' => plain.push_str("\\t"),
            hidden if is_hidden(hidden) => {
                let _ = write!(plain, "\\u{{{:x}}}", u32::from(hidden));
            }
            shown => plain.push(shown),
        }
    }
    plain
}

/// As [`plain`], with its lines.
pub(crate) fn plain_lines(text: &str) -> String {
    text.lines().map(plain).collect::<Vec<_>>().join("\n")
}

/// A value as JSON in one line, whose text is safe for a terminal and still the same to a program.
pub(crate) fn json(value: &Value) -> String {
    escaped(&value.to_string())
}

/// As [`json`], in several lines.
pub(crate) fn json_lines(value: &Value) -> String {
    escaped(&format!("{value:#}"))
}

/// Characters beyond ASCII stand only inside strings, where the escape means the same.
fn escaped(json: &str) -> String {
    let mut safe = String::with_capacity(json.len());
    for character in json.chars() {
        if character != '\n' && is_hidden(character) {
            let _ = write!(safe, "\\u{:04x}", u32::from(character));
        } else {
            safe.push(character);
        }
    }
    safe
}

fn is_hidden(character: char) -> bool {
    character.is_control()
        || matches!(character, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// The beginning of a text that is longer than this many characters.
pub(crate) fn cut(text: &str, most: usize) -> String {
    match text.char_indices().nth(most) {
        None => text.to_owned(),
        Some((end, _)) => format!("{} ..", &text[..end]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_terminal_gets_no_command_from_a_text() {
        assert_eq!(plain("a\u{1b}[2Jb\r\n\u{9b}c\u{202e}"), "a\\u{1b}[2Jb\\u{d}\\n\\u{9b}c\\u{202e}");
        assert_eq!(plain("ä 漢 😀"), "ä 漢 😀");
        assert_eq!(plain_lines("a\nb\u{7}"), "a\nb\\u{7}");
    }

    #[test]
    fn json_is_safe_and_still_the_same_value() {
        let value = serde_json::json!({ "x\u{9b}": "\u{1b}[31m\u{7f}\u{202e}", "n": u64::MAX });
        for text in [json(&value), json_lines(&value)] {
            assert!(!text.chars().any(|c| c != '\n' && is_hidden(c)), "{text:?}");
            assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), value);
        }
    }

    #[test]
    fn a_long_text_is_cut_between_characters() {
        assert_eq!((cut("äöü", 3).as_str(), cut("äöü", 2).as_str()), ("äöü", "äö .."));
    }
}
