//! What a diagnosis remembers of earlier complete ones: which checks had an answer, which were bad,
//! which are lost since when, and the counters of this boot.

use super::finding::Severity;
use crate::document::UnixMs;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// How long a check that has lost its answer stays unknown.
const LOST: UnixMs = 30 * 24 * 3600 * 1000;

/// Minimum time between two diagnoses for a difference of counters.
const COUNTERS_APART: UnixMs = 10 * 60 * 1000;

/// A snapshot of counters is replaced when the one after it is this old, so that differences cover
/// half a day to a day.
const COUNTERS_KEPT: UnixMs = 12 * 3600 * 1000;

/// How long the time of an event is remembered.
const YEAR: UnixMs = 366 * 24 * 3600 * 1000;

/// Maximum number of things remembered for one rule.
const INSTANCES: usize = 256;

/// What is remembered.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Past {
    /// The last result of each check, by rule and thing. The thing is empty for a rule that looks
    /// at only one.
    checks: BTreeMap<String, BTreeMap<String, Known>>,
    /// Counters of one boot, older first; at most two.
    counters: Vec<Counters>,
    /// When named events were last seen to have happened, in whatever boot.
    moments: BTreeMap<String, UnixMs>,
}

/// The last result of a check.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
struct Known {
    /// How bad it was; `None` if it was well.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    bad: Option<Severity>,
    /// Since when there is no answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    lost: Option<UnixMs>,
    /// Whether it ever had an answer.
    #[serde(default)]
    known: bool,
}

/// Counters since boot, at one moment.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Counters {
    /// Which boot.
    pub boot: String,
    /// When, by the machine's clock.
    pub at: UnixMs,
    /// Seconds since boot then.
    pub uptime_s: u64,
    /// By name: `oom_kill`, `eth0.errors`.
    pub values: BTreeMap<String, u64>,
}

fn key(instance: Option<&str>) -> &str {
    instance.unwrap_or_default()
}

impl Past {
    fn of(&self, id: &str, instance: Option<&str>) -> Option<&Known> {
        self.checks.get(id)?.get(key(instance))
    }

    /// How bad a check was; `None` if it was well or never had an answer.
    pub(super) fn severity(&self, id: &str, instance: Option<&str>) -> Option<Severity> {
        self.of(id, instance)?.bad
    }

    /// Whether the last answer of a check was a fault, not only a note.
    pub(super) fn was_bad(&self, id: &str, instance: Option<&str>) -> bool {
        self.severity(id, instance).is_some_and(|bad| bad > Severity::Note)
    }

    /// Whether a check ever had an answer.
    pub(super) fn was_known(&self, id: &str, instance: Option<&str>) -> bool {
        self.of(id, instance).is_some_and(|known| known.known)
    }

    /// Since when a check has no answer.
    pub(super) fn lost_since(&self, id: &str, instance: Option<&str>) -> Option<UnixMs> {
        self.of(id, instance)?.lost
    }

    fn set(&mut self, id: &str, instance: Option<&str>, known: Known) {
        let things = self.checks.entry(id.to_owned()).or_default();
        if things.len() < INSTANCES || things.contains_key(key(instance)) {
            things.insert(key(instance).to_owned(), known);
        }
    }

    pub(super) fn ok(&mut self, id: &str, instance: Option<&str>) {
        self.set(id, instance, Known { known: true, ..Known::default() });
    }

    pub(super) fn found(&mut self, id: &str, instance: Option<&str>, bad: Severity) {
        self.set(id, instance, Known { known: true, bad: Some(bad), lost: None });
    }

    /// Records that there is no answer, and returns since when.
    pub(super) fn lost(&mut self, id: &str, instance: Option<&str>, now: UnixMs) -> UnixMs {
        let before = self.of(id, instance).copied().unwrap_or_default();
        // If the clock was set back, the time starts anew.
        let since = before.lost.filter(|since| *since <= now).unwrap_or(now);
        self.set(id, instance, Known { lost: Some(since), ..before });
        since
    }

    /// Forgets things of a rule that no longer exist: its list was read, and they are not in it.
    pub(super) fn keep_only(&mut self, id: &str, all: &BTreeSet<Option<&str>>) {
        let has_nameless = all.iter().any(Option::is_none);
        if let Some(things) = self.checks.get_mut(id)
            && !has_nameless
        {
            things.retain(|thing, _| all.contains(&Some(thing.as_str())));
        }
    }

    /// Forgets removed rules, and checks that were lost too long ago.
    pub(super) fn forget(&mut self, is_rule: impl Fn(&str) -> bool, now: UnixMs) {
        self.checks.retain(|id, things| {
            things.retain(|_, known| known.lost.is_none_or(|since| now.saturating_sub(since) < LOST));
            is_rule(id) && !things.is_empty()
        });
    }

    /// The counters to subtract: of this boot, and old enough.
    pub fn counters(&self, boot: &str, now: UnixMs) -> Option<&Counters> {
        let old_enough =
            |counters: &&Counters| counters.boot == boot && now.saturating_sub(counters.at) >= COUNTERS_APART;
        self.counters.iter().find(old_enough)
    }

    /// When named events were last seen to have happened.
    pub const fn moments(&self) -> &BTreeMap<String, UnixMs> {
        &self.moments
    }

    /// Remembers when named events happened, for a year.
    pub fn note(&mut self, mut moments: BTreeMap<String, UnixMs>, now: UnixMs) {
        moments.retain(|_, at| now.saturating_sub(*at) < YEAR);
        while moments.len() > INSTANCES {
            moments.pop_first();
        }
        self.moments = moments;
    }

    /// Remembers counters, if the last snapshot is old enough.
    pub fn count(&mut self, new: Counters) {
        // After a reboot, or if the clock was set back, the old counters are useless.
        self.counters.retain(|old| old.boot == new.boot && old.at <= new.at);
        let newest = self.counters.last().map(|last| new.at.saturating_sub(last.at));
        if newest.is_none_or(|age| age >= COUNTERS_KEPT) {
            self.counters.push(new);
            if self.counters.len() > 2 {
                self.counters.remove(0);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counters(boot: &str, at: UnixMs, kills: u64) -> Counters {
        Counters { boot: boot.into(), at, uptime_s: 9, values: BTreeMap::from([("oom_kill".into(), kills)]) }
    }

    #[test]
    fn counter_differences_are_within_one_boot_and_cover_half_a_day_to_a_day() {
        let (mut past, hour) = (Past::default(), 3_600_000);
        past.count(counters("a", 0, 1));
        assert_eq!(past.counters("a", hour / 60), None, "a minute is too short");
        assert_eq!(past.counters("a", hour).map(|c| c.at), Some(0));
        assert_eq!(past.counters("b", hour), None);
        for at in 1..40 {
            past.count(counters("a", at * hour, 1));
            let from = past.counters("a", at * hour).expect("old enough").at;
            assert!(at < 13 || (12 * hour..=25 * hour).contains(&(at * hour - from)), "{at} h from {}", from / hour);
        }
        past.count(counters("b", 41 * hour, 0));
        assert_eq!(past.counters("a", 42 * hour), None);
        assert_eq!(past.counters("b", 42 * hour).map(|c| c.at), Some(41 * hour));
    }

    #[test]
    fn a_lost_check_keeps_its_start_and_is_forgotten_after_thirty_days() {
        let mut past = Past::default();
        past.ok("a", Some("/"));
        assert!(past.was_known("a", Some("/")) && !past.was_known("a", None));
        assert_eq!(past.lost("a", Some("/"), 50), 50);
        assert_eq!(past.lost("a", Some("/"), 70), 50);
        past.forget(|_| true, 70);
        assert_eq!(past.lost_since("a", Some("/")), Some(50));
        past.forget(|_| true, LOST + 50);
        assert_eq!(past, Past::default());
    }
}
