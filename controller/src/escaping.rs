//! Makes text safe for terminals and shells.

use fernwart_protocol::text::is_unseen;
use serde_json::Value;
use std::borrow::Cow;

/// JSON in which no character can control a terminal: serde_json itself escapes only those below
/// U+0020.
pub(crate) fn json_text(value: &Value) -> String {
    harmless(&value.to_string()).into_owned()
}

/// JSON text with the same characters escaped.
pub(crate) fn harmless(text: &str) -> Cow<'_, str> {
    // Characters below U+0020 occur in JSON only as insignificant whitespace.
    let acts = |c: char| c >= '\u{7f}' && is_unseen(c);
    // Fast path: nearly all texts are ASCII.
    let plain = text.bytes().all(|byte| byte < 0x7f);
    if plain || !text.contains(acts) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 64);
    for c in text.chars() {
        if acts(c) {
            let mut units = [0; 2];
            c.encode_utf16(&mut units).iter().for_each(|unit| out.push_str(&format!("\\u{unit:04x}")));
        } else {
            out.push(c);
        }
    }
    Cow::Owned(out)
}

/// Quotes a word so that it can be pasted into a shell, even if it is hostile.
pub(crate) fn shell_word(word: &str) -> String {
    let word = fernwart_protocol::text::escaped(word);
    let is_plain = !word.is_empty() && word.chars().all(|c| c.is_ascii_alphanumeric() || "/:._-@%+,=".contains(c));
    if is_plain { word } else { format!("'{}'", word.replace('\'', "'\\''")) }
}
