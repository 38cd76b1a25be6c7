//! A fact judged.

use super::rule::Both;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;

/// How bad.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// Someone should look.
    Warn,
    /// Someone must act.
    Crit,
}

impl Severity {
    /// The word, as in JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Warn => "warn",
            Self::Crit => "crit",
        }
    }
}

impl std::str::FromStr for Severity {
    type Err = String;
    fn from_str(word: &str) -> Result<Self, String> {
        match word {
            "warn" => Ok(Self::Warn),
            "crit" => Ok(Self::Crit),
            _ => Err("severities are warn and crit".into()),
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
    /// The cause, plainly.
    pub cause: Both,
    /// What to do, plainly.
    pub advice: Both,
    /// The numbers it rests on.
    pub evidence: BTreeMap<String, Value>,
    /// The script that would repair it, once approved.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
}
