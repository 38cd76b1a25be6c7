//! Numbers in words, and texts with facts inserted, in both languages.

use super::both::Both;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// A customer's language.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Language {
    /// English.
    #[default]
    En,
    /// German.
    De,
}

impl Language {
    /// The word, as in JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::En => "en",
            Self::De => "de",
        }
    }

    /// A text in this language.
    pub fn of(self, both: &Both) -> &str {
        match self {
            Self::En => &both.en,
            Self::De => &both.de,
        }
    }
}

impl std::str::FromStr for Language {
    type Err = String;
    fn from_str(word: &str) -> Result<Self, String> {
        match word {
            "en" => Ok(Self::En),
            "de" => Ok(Self::De),
            _ => Err("languages are en and de".into()),
        }
    }
}

fn decimal(number: f64, language: Language) -> String {
    let text =
        if number.abs() >= 10.0 || number.fract() == 0.0 { format!("{number:.0}") } else { format!("{number:.1}") };
    match language {
        Language::En => text,
        Language::De => text.replace('.', ","),
    }
}

/// `1.1 GiB`, `1,1 GiB`.
pub fn bytes_in_words(bytes: f64, language: Language) -> String {
    let mut value = bytes;
    let mut unit = "B";
    for next in ["KiB", "MiB", "GiB", "TiB", "PiB"] {
        if value < 1024.0 {
            break;
        }
        value /= 1024.0;
        unit = next;
    }
    format!("{} {unit}", decimal(value, language))
}

/// `2.8 %`, `2,8 %`.
pub fn pct_in_words(pct: f64, language: Language) -> String {
    format!("{} %", decimal(pct, language))
}

fn duration_in_words(seconds: f64, language: Language) -> String {
    let (value, en, de) = match seconds {
        s if s < 120.0 => (s, "s", "s"),
        s if s < 7200.0 => (s / 60.0, "min", "Min."),
        s if s < 172_800.0 => (s / 3600.0, "h", "Std."),
        // German needs the dative after "in den letzten", "seit" and "vor".
        s => (s / 86_400.0, "d", "Tagen"),
    };
    let unit = match language {
        Language::En => en,
        Language::De => de,
    };
    format!("{} {unit}", decimal(value, language))
}

/// How many items of a list a text names; the remaining ones are only counted.
const SHOWN: usize = 5;

/// Inserts facts into a text: `{field}` as it is; `{field:bytes}`, `{field:pct}` and
/// `{field:seconds}` formatted with their unit; `{field:one|many}` the word that fits the number. A
/// missing fact reads `?`.
pub fn fill(text: &str, facts: &Value, language: Language) -> String {
    let mut out = String::with_capacity(text.len() + 32);
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('{') {
        out.push_str(before);
        let Some((slot, tail)) = after.split_once('}') else {
            out.push('{');
            rest = after;
            continue;
        };
        let (field, unit) = slot.split_once(':').unwrap_or((slot, ""));
        let fact = facts.get(field);
        let number = fact.and_then(Value::as_f64);
        match (unit, number, fact) {
            ("bytes", Some(n), _) => out.push_str(&bytes_in_words(n, language)),
            ("pct", Some(n), _) => out.push_str(&pct_in_words(n, language)),
            ("seconds", Some(n), _) => out.push_str(&duration_in_words(n, language)),
            ("", Some(n), _) => out.push_str(&decimal(n, language)),
            (words, Some(n), _) if words.contains('|') => {
                let (one, many) = words.split_once('|').unwrap_or((words, words));
                out.push_str(if decimal(n, language) == "1" { one } else { many });
            }
            (_, _, Some(Value::String(text))) => out.push_str(text),
            (_, _, Some(Value::Array(items))) => {
                let words: Vec<_> = items.iter().take(SHOWN).filter_map(Value::as_str).collect();
                out.push_str(&words.join(", "));
                let more = items.len().saturating_sub(SHOWN);
                match language {
                    _ if more == 0 => {}
                    Language::En => out.push_str(&format!(" and {more} more")),
                    Language::De => out.push_str(&format!(" und {more} weitere")),
                }
            }
            _ => out.push('?'),
        }
        rest = tail;
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn numbers_are_formatted_as_people_write_them() {
        assert_eq!(bytes_in_words(1_181_116_006.0, Language::En), "1.1 GiB");
        assert_eq!(bytes_in_words(1_181_116_006.0, Language::De), "1,1 GiB");
        assert_eq!(bytes_in_words(512.0, Language::En), "512 B");
        assert_eq!(pct_in_words(2.84, Language::De), "2,8 %");
        assert_eq!(pct_in_words(42.0, Language::De), "42 %");
    }

    #[test]
    fn facts_are_inserted_into_a_text() {
        let facts = json!({"mount": "/var", "free": 1024.0, "up": 90_000, "who": ["a", "b"]});
        assert_eq!(
            fill("{mount}: {free:bytes} {up:seconds} {who} {no}", &facts, Language::En),
            "/var: 1 KiB 25 h a, b ?"
        );
        let updates = |n: u32| fill("{n} {n:update is|updates are} waiting", &json!({"n": n}), Language::En);
        assert_eq!(
            [updates(0), updates(1), updates(2)],
            ["0 updates are", "1 update is", "2 updates are"].map(|said| format!("{said} waiting"))
        );
        assert_eq!(fill("{no:update|updates}", &facts, Language::En), "?");
        assert_eq!(fill("open { brace", &facts, Language::En), "open { brace");
    }
}
