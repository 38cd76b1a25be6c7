//! Findings: the result of judging facts.

use super::both::Both;
use super::reason::Cause;
use crate::document::UnixMs;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// Worth knowing, but no fault, and never reflected in an exit code. Notes are kept apart from
    /// findings in a report, so that programs before 0.3.0 can read it.
    Note,
    /// Someone should look.
    Warn,
    /// Someone must act.
    Crit,
}

impl Severity {
    /// The word, as in JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Note => "note",
            Self::Warn => "warn",
            Self::Crit => "crit",
        }
    }
}

/// The overall state of a machine, best first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum State {
    /// Everything that was looked at is well.
    Ok,
    /// Someone should look.
    Warn,
    /// A check that should have an answer has none.
    Unknown,
    /// Someone must act.
    Crit,
}

impl State {
    /// The word, as in JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warn => "warn",
            Self::Unknown => "unknown",
            Self::Crit => "crit",
        }
    }

    /// The state that follows from the worst finding and from lost checks.
    pub(super) fn of(worst: Option<Severity>, is_anything_lost: bool) -> Self {
        match worst {
            Some(Severity::Crit) => Self::Crit,
            _ if is_anything_lost => Self::Unknown,
            Some(Severity::Warn) => Self::Warn,
            Some(Severity::Note) | None => Self::Ok,
        }
    }
}

/// One thing that is not well.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Finding {
    /// The rule: `disk.free`.
    pub id: String,
    /// Which of several: `/var`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance: Option<String>,
    /// How bad.
    pub severity: Severity,
    /// The cause, in plain language.
    pub cause: Both,
    /// What to do, in plain language.
    pub advice: Both,
    /// The facts it is based on.
    pub evidence: BTreeMap<String, Value>,
    /// The script that would repair it, once approved.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
    /// It may be worse than this: a fact that would show it is missing.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub worse_unknown: bool,
}

impl Finding {
    /// How it is named: `disk.free:/var`.
    pub fn name(&self) -> String {
        named(&self.id, self.instance.as_deref())
    }
}

/// A check that should have an answer and has none.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unknown {
    /// The rule.
    pub id: String,
    /// Which of several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance: Option<String>,
    /// Why there is no answer.
    #[serde(rename = "reason")]
    pub why: Cause,
    /// The worst it could be.
    pub could_be: Severity,
    /// Since when, by the machine's clock.
    pub since: UnixMs,
}

impl Unknown {
    /// How it is named: `smart.health:/dev/sda`.
    pub fn name(&self) -> String {
        named(&self.id, self.instance.as_deref())
    }
}

fn named(id: &str, instance: Option<&str>) -> String {
    instance.map_or_else(|| id.to_owned(), |instance| format!("{id}:{instance}"))
}
