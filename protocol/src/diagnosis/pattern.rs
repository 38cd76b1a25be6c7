//! Known patterns of log lines, as data: the problem a line reports, and what it is about.
//!
//! The log reader matches each line as it arrives, before any are discarded. A kernel pattern
//! counts only if the kernel itself wrote the line, since any program can write the same words.

use serde::Deserialize;

/// Who must have written a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum From {
    /// The kernel.
    Kernel,
    /// Any program.
    Program,
}

/// One pattern.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pattern {
    /// Its name: `disk.io`.
    pub id: String,
    /// Who must have written the line.
    pub from: From,
    /// The line contains one of these, ignoring case.
    #[serde(default)]
    pub words: Vec<String>,
    /// And one of these, if any are given.
    #[serde(default)]
    pub and: Vec<String>,
    /// And none of these.
    #[serde(default)]
    pub unless: Vec<String>,
    /// Or the line has one of these message ids (systemd's catalogue).
    #[serde(default)]
    pub message_ids: Vec<String>,
    /// Only lines of these programs; of all programs if empty.
    #[serde(default)]
    pub programs: Vec<String>,
    /// The subject of the line: the word before one of these,
    #[serde(default)]
    pub before: Vec<String>,
    /// or the word behind one of these,
    #[serde(default)]
    pub after: Vec<String>,
    /// or the text in brackets behind one of these,
    #[serde(default)]
    pub inside: Vec<String>,
    /// or the line's first word; else its unit, or its writer.
    #[serde(default)]
    pub first: bool,
    /// Subjects that do not count, by prefix: `loop`.
    #[serde(default)]
    pub not_about: Vec<String>,
    /// A later line with one of these, about the same subject, cancels the hit.
    #[serde(default)]
    pub healed_by: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Patterns {
    pattern: Vec<Pattern>,
}

/// The patterns that ship in the binary.
#[expect(clippy::expect_used, reason = "a test reads the same file, which is part of this program")]
pub fn builtin_patterns() -> Vec<Pattern> {
    let read: Patterns = toml::from_str(include_str!("rules/patterns.toml")).expect("the patterns are well-formed");
    read.pattern
}

impl Pattern {
    /// The subject of a line; `otherwise` if none is found.
    pub fn about<'a>(&self, line: &'a str, otherwise: &'a str) -> &'a str {
        let is_word = |c: char| c.is_alphanumeric() || matches!(c, '-' | '_' | '.' | '/' | '@');
        let after = |marker: &String| {
            let (_, rest) = line.split_once(marker.as_str())?;
            // Device numbers contain colons: `253:2`, `6:0:0:0`.
            let is_number = |at: usize| {
                let digit = |c: Option<&u8>| c.is_some_and(u8::is_ascii_digit);
                rest.bytes().take(at).all(|b| b.is_ascii_digit() || b == b':')
                    && digit(at.checked_sub(1).and_then(|at| rest.as_bytes().get(at)))
                    && digit(rest.as_bytes().get(at + 1))
            };
            let ends = |(at, c): &(usize, char)| !(is_word(*c) || *c == ':' && is_number(*at));
            let end = rest.char_indices().find(ends).map_or(rest.len(), |(at, _)| at);
            rest.get(..end).map(|word| word.trim_end_matches('.')).filter(|word| !word.is_empty())
        };
        let before = |marker: &String| {
            let (rest, _) = line.split_once(marker.as_str())?;
            let begin = rest.rfind(|c: char| !is_word(c)).map_or(0, |at| at + 1);
            rest.get(begin..).filter(|word| !word.is_empty())
        };
        let inside = |marker: &String| {
            let (_, rest) = line.split_once(marker.as_str())?;
            let (_, rest) = rest.split_once('(')?;
            rest.split_once(')').map(|(text, _)| text)
        };
        let first = || {
            let end = line.find(|c: char| !is_word(c))?;
            line.get(..end).filter(|word| !word.is_empty())
        };
        self.before
            .iter()
            .find_map(before)
            .or_else(|| self.after.iter().find_map(after))
            .or_else(|| self.inside.iter().find_map(inside))
            .or_else(|| if self.first { first() } else { None })
            .unwrap_or(otherwise)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_pattern_has_a_rule_that_uses_it() {
        let rules = super::super::builtin_rules();
        let logs = rules.rules.iter().filter(|rule| rule.each.as_deref() == Some("hits"));
        let asked: Vec<String> = logs.map(|rule| format!("{:?}", rule.which)).collect();
        let patterns = builtin_patterns();
        assert!(patterns.len() >= 20, "{}", patterns.len());
        for pattern in &patterns {
            assert!(asked.iter().any(|which| which.contains(&format!("{:?}", pattern.id))), "{}", pattern.id);
            assert!(!pattern.words.is_empty() || !pattern.message_ids.is_empty(), "{}", pattern.id);
        }
    }
}
