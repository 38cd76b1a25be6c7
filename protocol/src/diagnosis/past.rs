//! What one diagnosis remembers of the whole ones before it: what was known,
//! what was bad, what was lost since when, and the counters of this boot.

use super::finding::Severity;
use crate::document::UnixMs;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// How long a check that has lost its answer stays unknown.
const LOST: UnixMs = 30 * 24 * 3600 * 1000;

/// A difference of counters needs as much time between two diagnoses.
const COUNTERS_APART: UnixMs = 10 * 60 * 1000;

/// A snapshot of counters is replaced when the one after it is so old, so that
/// differences cover between half a day and a day.
const COUNTERS_KEPT: UnixMs = 12 * 3600 * 1000;

/// How long a moment is remembered.
const YEAR: UnixMs = 366 * 24 * 3600 * 1000;

/// Things of one rule that are remembered at most.
const INSTANCES: usize = 256;

/// What is remembered.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Past {
    /// What each check said, by rule and thing; the thing is empty where a rule
    /// looks at one only.
    checks: BTreeMap<String, BTreeMap<String, Known>>,
    /// Counters of one boot, older first; at most two.
    counters: Vec<Counters>,
    /// When things were last seen to have happened, whatever boot that was in.
    moments: BTreeMap<String, UnixMs>,
}

/// What a check said when it last said something.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
struct Known {
    /// How bad it was; nothing where it was well.
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

    /// How bad a check was.
    pub(super) fn severity(&self, id: &str, instance: Option<&str>) -> Option<Severity> {
        self.of(id, instance)?.bad
    }

    /// Whether a check has found something that is more than worth knowing.
    pub(super) fn was_bad(&self, id: &str, instance: Option<&str>) -> bool {
        self.severity(id, instance).is_some_and(|bad| bad > Severity::Note)
    }

    /// Whether a check has had an answer.
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

    /// Notes that there is no answer; since when.
    pub(super) fn lost(&mut self, id: &str, instance: Option<&str>, now: UnixMs) -> UnixMs {
        let before = self.of(id, instance).copied().unwrap_or_default();
        // A clock that was put back does not make it longer ago.
        let since = before.lost.filter(|since| *since <= now).unwrap_or(now);
        self.set(id, instance, Known { lost: Some(since), ..before });
        since
    }

    /// Forgets things of a rule that are gone: its list was read, and they are not
    /// in it.
    pub(super) fn keep_only(&mut self, id: &str, all: &BTreeSet<Option<&str>>) {
        let whole = all.iter().any(Option::is_none);
        if let Some(things) = self.checks.get_mut(id)
            && !whole
        {
            things.retain(|thing, _| all.contains(&Some(thing.as_str())));
        }
    }

    /// Forgets rules that are no more, and what was lost too long ago.
    pub(super) fn forget(&mut self, is_rule: impl Fn(&str) -> bool, now: UnixMs) {
        self.checks.retain(|id, things| {
            things.retain(|_, known| known.lost.is_none_or(|since| now.saturating_sub(since) < LOST));
            is_rule(id) && !things.is_empty()
        });
    }

    /// The counters that differences are taken from: of this boot, and old enough.
    pub fn counters(&self, boot: &str, now: UnixMs) -> Option<&Counters> {
        let old_enough =
            |counters: &&Counters| counters.boot == boot && now.saturating_sub(counters.at) >= COUNTERS_APART;
        self.counters.iter().find(old_enough)
    }

    /// When things were last seen to have happened, by name.
    pub const fn moments(&self) -> &BTreeMap<String, UnixMs> {
        &self.moments
    }

    /// Remembers when things happened, for a year.
    pub fn note(&mut self, mut moments: BTreeMap<String, UnixMs>, now: UnixMs) {
        moments.retain(|_, at| now.saturating_sub(*at) < YEAR);
        while moments.len() > INSTANCES {
            moments.pop_first();
        }
        self.moments = moments;
    }

    /// Remembers counters, where it is time for it.
    pub fn count(&mut self, new: Counters) {
        // Another boot, or a clock that was put back: what was kept says nothing.
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
    fn differences_are_of_one_boot_and_of_half_a_day_to_a_day() {
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
    fn what_is_lost_stays_so_since_the_same_moment_and_is_forgotten_after_thirty_days() {
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
