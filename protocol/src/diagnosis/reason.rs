//! Why a fact is missing, from a closed list.
//!
//! Beside missing facts, `why` gives the reason by the field's name: `{"healthy": null, "why":
//! {"healthy": "not_installed:smartctl"}}`.

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::collections::BTreeMap;
use std::fmt;

/// Why something is not known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reason {
    /// The program that would supply the fact is not installed.
    NotInstalled,
    /// The agent lacks the right to see it.
    NotPermitted,
    /// It is not configured what to look at.
    NotConfigured,
    /// There is no such thing on this machine: no battery, no package manager.
    Absent,
    /// This kernel, container or device does not report it.
    NotSupported,
    /// The device sleeps and was not woken.
    Asleep,
    /// A difference needs a second diagnosis in the same boot.
    FirstLook,
    /// A slow program is still running; a later diagnosis has its result.
    StillAsked,
    /// It did not answer within its time limit.
    TimedOut,
    /// It is still stuck from an earlier diagnosis, or waits for a device.
    Hangs,
    /// There is something, but it cannot be read or understood.
    Unreadable,
    /// A reason of a newer agent.
    Other,
}

/// What a reason means for a check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    /// The check has nothing to report yet, or ever.
    NotApplicable,
    /// A blind spot that somebody can fix once: by installing, permitting or configuring something.
    Gap,
    /// Something that should be known is not known.
    Lost,
}

impl Reason {
    const WORDS: [(&'static str, Self); 11] = [
        ("not_installed", Self::NotInstalled),
        ("not_permitted", Self::NotPermitted),
        ("not_configured", Self::NotConfigured),
        ("absent", Self::Absent),
        ("not_supported", Self::NotSupported),
        ("asleep", Self::Asleep),
        ("first_look", Self::FirstLook),
        ("still_asked", Self::StillAsked),
        ("timed_out", Self::TimedOut),
        ("hangs", Self::Hangs),
        ("unreadable", Self::Unreadable),
    ];

    /// The word, as in JSON.
    pub fn as_str(self) -> &'static str {
        Self::WORDS.iter().find(|(_, reason)| *reason == self).map_or("other", |(word, _)| word)
    }

    /// What it means for a check.
    pub const fn class(self) -> Class {
        match self {
            Self::NotInstalled | Self::NotPermitted | Self::NotConfigured => Class::Gap,
            Self::Absent | Self::NotSupported | Self::Asleep | Self::FirstLook | Self::StillAsked => {
                Class::NotApplicable
            }
            Self::TimedOut | Self::Hangs | Self::Unreadable | Self::Other => Class::Lost,
        }
    }

    /// Whether a later diagnosis will have the answer.
    pub const fn is_for_a_while(self) -> bool {
        matches!(self, Self::Asleep | Self::FirstLook | Self::StillAsked)
    }

    /// Human-readable text.
    pub const fn in_words(self) -> &'static str {
        match self {
            Self::NotInstalled => "not installed",
            Self::NotPermitted => "not permitted",
            Self::NotConfigured => "not configured",
            Self::Absent => "not here",
            Self::NotSupported => "not supported here",
            Self::Asleep => "asleep",
            Self::FirstLook => "needs a second diagnosis",
            Self::StillAsked => "still being asked",
            Self::TimedOut => "did not answer in time",
            Self::Hangs => "hangs",
            Self::Unreadable => "cannot be read",
            Self::Other => "unknown reason",
        }
    }
}

/// A reason, and what it is about: a program, a file, or other text.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cause {
    /// The reason.
    pub reason: Reason,
    /// At most 200 bytes; may be empty.
    pub about: String,
}

/// Reasons by the name of the field that is missing.
pub type Reasons = BTreeMap<String, Cause>;

impl Cause {
    /// A reason about something.
    pub fn new(reason: Reason, about: impl Into<String>) -> Self {
        Self { reason, about: about.into() }
    }

    /// Human-readable: `smartctl: not installed`.
    pub fn in_words(&self) -> String {
        match self.about.as_str() {
            "" => self.reason.in_words().to_owned(),
            about => format!("{about}: {}", self.reason.in_words()),
        }
    }
}

impl From<Reason> for Cause {
    fn from(reason: Reason) -> Self {
        Self::new(reason, "")
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.reason, self.about.as_str()) {
            // Displayed and forwarded as received.
            (Reason::Other, about) => f.write_str(about),
            (reason, "") => f.write_str(reason.as_str()),
            (reason, about) => write!(f, "{}:{about}", reason.as_str()),
        }
    }
}

impl From<&str> for Cause {
    fn from(text: &str) -> Self {
        let (word, about) = text.split_once(':').unwrap_or((text, ""));
        match Reason::WORDS.iter().find(|(known, _)| *known == word) {
            Some((_, reason)) => Self::new(*reason, about),
            None => Self::new(Reason::Other, text),
        }
    }
}

impl Serialize for Cause {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Cause {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        Ok(Self::from(String::deserialize(from)?.as_str()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reason_is_read_as_it_was_written_and_a_newer_one_counts_as_lost() {
        for (_, reason) in Reason::WORDS {
            for about in ["", "smartctl", "/mnt/a:b"] {
                let why = Cause::new(reason, about);
                assert_eq!(Cause::from(why.to_string().as_str()), why);
            }
        }
        let newer = Cause::from("eaten:by a goat");
        assert_eq!((newer.reason.class(), newer.to_string().as_str()), (Class::Lost, "eaten:by a goat"));
    }
}
