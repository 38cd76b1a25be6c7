//! Rules as data: TOML, typed, no expression language.
//!
//! A rule looks at one section, or at each entry of one list in it. Its levels are tried in order;
//! the first one whose conditions all hold makes the finding.

use super::both::Both;
use super::finding::Severity;
use super::reason::{Cause, Reason};
use crate::document::SectionName;
use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeSet;

/// Rules, and texts for blind spots. Also the format of a rule file.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rules {
    /// The rules.
    #[serde(default, rename = "rule")]
    pub rules: Vec<Rule>,
    /// Texts for blind spots, more specific ones first.
    #[serde(default, rename = "gap")]
    pub gaps: Vec<Gap>,
}

/// The text for checks that are blind for a certain reason.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Gap {
    /// The note's name: `smart.blind`.
    pub id: String,
    /// For which reason.
    #[serde(deserialize_with = "reason")]
    pub reason: Reason,
    /// The subject of the reason; any subject if absent.
    #[serde(default)]
    pub about: Option<String>,
    /// The cause, with `{about}` and `{checks}` in it.
    pub cause: Both,
    /// What to do.
    pub advice: Both,
}

fn reason<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Reason, D::Error> {
    let word = String::deserialize(from)?;
    match Cause::from(word.as_str()) {
        Cause { reason: Reason::Other, .. } => Err(serde::de::Error::custom(format!("{word:?} is no reason"))),
        why => Ok(why.reason),
    }
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
    /// Conditions that select the entries it looks at; all entries if empty.
    #[serde(default, rename = "where")]
    pub which: Vec<Condition>,
    /// Whether the list contains faults, so that an empty list is well. If it contains things, an
    /// empty list has nothing to judge.
    #[serde(default)]
    pub lists_faults: bool,
    /// Conditions for the rule to apply at all: on the section's facts, or on another's.
    #[serde(default)]
    pub applies: Vec<Condition>,
    /// Facts that are evidence in addition to those of the conditions.
    #[serde(default)]
    pub evidence: Vec<String>,
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
    /// All of these must hold.
    pub when: Vec<Condition>,
    /// This level's own cause.
    #[serde(default)]
    pub cause: Option<Both>,
    /// This level's own advice.
    #[serde(default)]
    pub advice: Option<Both>,
}

/// One condition on one fact: `fact = "free_pct"` of the thing that the rule looks at, or `fact =
/// "memory.available_pct"` of a section.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(try_from = "RawCondition")]
pub struct Condition {
    /// The section, if one is named.
    pub section: Option<SectionName>,
    /// The fact's field.
    pub fact: String,
    test: Test,
    clear: Option<f64>,
}

impl Condition {
    /// The test to apply. Hysteresis: a finding that was there before stays until the value has
    /// passed the `clear` bound, which is on the well side of the normal one.
    pub fn test(&self, was_found: bool) -> Test {
        match (&self.test, self.clear.filter(|_| was_found)) {
            (Test::Below(_), Some(clear)) => Test::Below(clear),
            (Test::Above(_), Some(clear)) => Test::Above(clear),
            (test, _) => test.clone(),
        }
    }
}

/// A test on a known fact.
#[derive(Debug, Clone, PartialEq)]
pub enum Test {
    /// A number less than this.
    Below(f64),
    /// A number greater than this.
    Above(f64),
    /// Exactly this.
    Is(Value),
    /// Anything but this.
    Not(Value),
    /// One of these.
    OneOf(Vec<Value>),
    /// A text that contains one of these, ignoring case.
    Contains(Vec<String>),
    /// A text that contains none of these, ignoring case.
    Lacks(Vec<String>),
    /// An empty list.
    Empty,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawCondition {
    fact: String,
    below: Option<f64>,
    above: Option<f64>,
    is: Option<Value>,
    not: Option<Value>,
    one_of: Option<Vec<Value>>,
    contains: Option<Vec<String>>,
    lacks: Option<Vec<String>>,
    empty: Option<bool>,
    clear: Option<f64>,
}

/// A rule that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum BadRule {
    /// Not the TOML of a rule file.
    #[error("reading a rule file")]
    Toml(#[source] toml::de::Error),
    /// Not exactly one test in a condition.
    #[error(
        "a condition on {fact:?} needs exactly one of below, above, is, not, one_of, contains, lacks, empty = true"
    )]
    Condition {
        /// The fact's field.
        fact: String,
    },
    /// A `clear` bound on the wrong side, or without a normal bound.
    #[error("a condition on {fact:?} must clear on the well side of its bound")]
    Clear {
        /// The fact's field.
        fact: String,
    },
}

impl TryFrom<RawCondition> for Condition {
    type Error = BadRule;
    fn try_from(raw: RawCondition) -> Result<Self, BadRule> {
        let lower = |words: Vec<String>| words.iter().map(|w| w.to_lowercase()).collect();
        let mut tests = [
            raw.below.map(Test::Below),
            raw.above.map(Test::Above),
            raw.is.map(Test::Is),
            raw.not.map(Test::Not),
            raw.one_of.map(Test::OneOf),
            raw.contains.map(|words| Test::Contains(lower(words))),
            raw.lacks.map(|words| Test::Lacks(lower(words))),
            raw.empty.filter(|empty| *empty).map(|_| Test::Empty),
        ]
        .into_iter()
        .flatten();
        let (Some(test), None) = (tests.next(), tests.next()) else {
            return Err(BadRule::Condition { fact: raw.fact });
        };
        let clears_well = match (&test, raw.clear) {
            (_, None) => true,
            (Test::Below(bound), Some(clear)) => clear >= *bound,
            (Test::Above(bound), Some(clear)) => clear <= *bound,
            (_, Some(_)) => false,
        };
        if !clears_well {
            return Err(BadRule::Clear { fact: raw.fact });
        }
        let named = raw.fact.split_once('.').and_then(|(section, fact)| Some((section.parse().ok()?, fact.to_owned())));
        let (section, fact) = match named {
            Some((section, fact)) => (Some(section), fact),
            None => (None, raw.fact),
        };
        Ok(Self { section, fact, test, clear: raw.clear })
    }
}

impl Rule {
    /// The worst it can find.
    pub fn worst(&self) -> Severity {
        self.levels.iter().map(|level| level.severity).max().unwrap_or(Severity::Warn)
    }

    /// The sections it looks at, its own first.
    pub fn sections(&self) -> impl Iterator<Item = SectionName> {
        let conditions = self.levels.iter().flat_map(|level| &level.when).chain(&self.applies);
        std::iter::once(self.section).chain(conditions.filter_map(|condition| condition.section))
    }
}

impl Rules {
    /// Reads a rule file.
    ///
    /// # Errors
    /// When it is not one.
    pub fn from_toml(text: &str) -> Result<Self, BadRule> {
        toml::from_str(text).map_err(BadRule::Toml)
    }

    /// A rule by its name.
    pub fn find(&self, id: &str) -> Option<&Rule> {
        self.rules.iter().find(|rule| rule.id == id)
    }

    /// The sections that must be looked at to judge these.
    pub fn needed(&self, wanted: &BTreeSet<SectionName>) -> BTreeSet<SectionName> {
        let rules = self.rules.iter().filter(|rule| wanted.contains(&rule.section));
        rules.flat_map(Rule::sections).chain(wanted.iter().copied()).collect()
    }
}

impl Test {
    /// Whether the fact passes the test.
    pub fn holds(&self, fact: &Value) -> bool {
        let has = |words: &[String]| {
            fact.as_str().map(|text| {
                let text = text.to_lowercase();
                words.iter().any(|word| text.contains(word.as_str()))
            })
        };
        match self {
            Self::Below(bound) => fact.as_f64().is_some_and(|n| n < *bound),
            Self::Above(bound) => fact.as_f64().is_some_and(|n| n > *bound),
            Self::Is(value) => fact == value,
            Self::Not(value) => fact != value,
            Self::OneOf(values) => values.contains(fact),
            Self::Contains(words) => has(words) == Some(true),
            Self::Lacks(words) => has(words) == Some(false),
            Self::Empty => fact.as_array().is_some_and(Vec::is_empty),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_condition_has_one_test_and_clears_on_the_well_side() {
        let read = |text: &str| toml::from_str::<Condition>(text).map_err(|error| error.to_string());
        let condition = read("fact = \"memory.available_pct\"\nbelow = 10\nclear = 12").expect("read");
        assert_eq!((condition.section, condition.fact.as_str()), (Some(SectionName::Memory), "available_pct"));
        assert_eq!((condition.test(false), condition.test(true)), (Test::Below(10.0), Test::Below(12.0)));
        assert_eq!(read("fact = \"a.b\"\nabove = 1").expect("no section is named a").fact, "a.b");
        for bad in [
            "fact = \"a\"",
            "fact = \"a\"\nabove = 1\nbelow = 2",
            "fact = \"a\"\nabove = 1\nclear = 2",
            "fact = \"a\"\nis = 1\nclear = 1",
        ] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }
}
