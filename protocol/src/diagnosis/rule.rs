//! Rules as data: TOML, typed, no expression language.
//!
//! A rule looks at one section, or at each entry of one list in it. Its levels
//! are tried in turn; the first whose conditions all hold makes the finding.

use super::finding::Severity;
use crate::document::SectionName;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// A text in both languages of our customers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Both {
    /// English.
    pub en: String,
    /// German.
    pub de: String,
}

/// A rule file.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RuleSet {
    /// Its rules.
    #[serde(rename = "rule")]
    pub rules: Vec<Rule>,
}

/// One check.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// Its name: `disk.free`.
    pub id: String,
    /// The section it looks at.
    pub section: SectionName,
    /// The list in that section, if it looks at each entry.
    #[serde(default)]
    pub each: Option<String>,
    /// The field that names an entry.
    #[serde(default)]
    pub name: Option<String>,
    /// From worst to mildest.
    #[serde(rename = "level")]
    pub levels: Vec<Level>,
    /// The cause, with `{field}` or `{field:unit}` in it.
    pub cause: Both,
    /// What to do.
    pub advice: Both,
    /// The script that would repair it.
    #[serde(default)]
    pub remedy: Option<String>,
}

/// One severity of a rule.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Level {
    /// How bad.
    pub severity: Severity,
    /// All must hold.
    pub when: Vec<Condition>,
}

/// One condition on one fact.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(try_from = "RawCondition")]
pub struct Condition {
    /// The fact's field.
    pub fact: String,
    /// What must be so.
    pub test: Test,
}

/// What can be asked of a fact. A fact that was not measured meets no test.
#[derive(Debug, Clone, PartialEq)]
pub enum Test {
    /// A number less than this.
    Below(f64),
    /// A number greater than this.
    Above(f64),
    /// Exactly this.
    Is(Value),
    /// A text that has one of these in it, letter case aside.
    Contains(Vec<String>),
    /// A list with nothing in it.
    Empty,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawCondition {
    fact: String,
    below: Option<f64>,
    above: Option<f64>,
    is: Option<Value>,
    contains: Option<Vec<String>>,
    empty: Option<bool>,
}

/// A rule that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum BadRule {
    /// Not the TOML of a rule file.
    #[error("reading a rule file")]
    Toml(#[source] toml::de::Error),
    /// Not exactly one test in a condition.
    #[error("a condition on {fact:?} needs exactly one of below, above, is, contains, empty = true")]
    Condition {
        /// The fact's field.
        fact: String,
    },
}

impl TryFrom<RawCondition> for Condition {
    type Error = BadRule;
    fn try_from(raw: RawCondition) -> Result<Self, BadRule> {
        let mut tests = [
            raw.below.map(Test::Below),
            raw.above.map(Test::Above),
            raw.is.map(Test::Is),
            raw.contains.map(|words| Test::Contains(words.iter().map(|w| w.to_lowercase()).collect())),
            raw.empty.filter(|empty| *empty).map(|_| Test::Empty),
        ]
        .into_iter()
        .flatten();
        match (tests.next(), tests.next()) {
            (Some(test), None) => Ok(Self { fact: raw.fact, test }),
            _ => Err(BadRule::Condition { fact: raw.fact }),
        }
    }
}

impl RuleSet {
    /// Reads a rule file.
    ///
    /// # Errors
    /// When it is not one.
    pub fn from_toml(text: &str) -> Result<Self, BadRule> {
        toml::from_str(text).map_err(BadRule::Toml)
    }
}

impl Test {
    /// Whether the fact is so.
    pub fn holds(&self, fact: Option<&Value>) -> bool {
        let Some(fact) = fact else { return false };
        match self {
            Self::Below(bound) => fact.as_f64().is_some_and(|n| n < *bound),
            Self::Above(bound) => fact.as_f64().is_some_and(|n| n > *bound),
            Self::Is(value) => fact == value,
            Self::Contains(words) => fact.as_str().is_some_and(|text| {
                let text = text.to_lowercase();
                words.iter().any(|word| text.contains(word.as_str()))
            }),
            Self::Empty => fact.as_array().is_some_and(Vec::is_empty),
        }
    }
}
