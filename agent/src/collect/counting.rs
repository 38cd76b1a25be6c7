//! Counters since boot mean little by themselves, so their difference to an earlier diagnosis of
//! the same boot is judged.

use super::locked;
use fernwart_protocol::diagnosis::{Cause, Counters, Past, Reason};
use fernwart_protocol::document::UnixMs;
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard};

/// If a boot is younger than this, the complete value of a counter counts as new, seconds.
const YOUNG_S: u64 = 24 * 3600;

/// The counters of one diagnosis, and those of the earlier one.
#[derive(Debug, Default)]
pub struct Counting {
    before: Option<Counters>,
    boot: String,
    now: UnixMs,
    uptime_s: u64,
    values: Mutex<BTreeMap<String, u64>>,
    /// When events were last seen.
    moments: Mutex<BTreeMap<String, UnixMs>>,
}

impl Counting {
    /// Starts counting in this boot. Without a boot id nothing can be compared; a boot of unknown
    /// age is not young.
    pub(crate) fn begin(past: &Past, boot: String, uptime_s: Option<u64>, now: UnixMs) -> Self {
        let before = past.counters(&boot, now).filter(|_| !boot.is_empty()).cloned();
        let moments = Mutex::new(past.moments().clone());
        let uptime_s = uptime_s.unwrap_or(u64::MAX);
        Self { before, boot, now, uptime_s, values: Mutex::default(), moments }
    }

    fn values(&self) -> MutexGuard<'_, BTreeMap<String, u64>> {
        locked(&self.values)
    }

    /// How much a counter has grown since [`Self::over_s`].
    ///
    /// # Errors
    /// [`Reason::FirstLook`] if there is no earlier value and the boot is not young.
    pub(crate) fn since(&self, name: &str, value: u64) -> Result<u64, Cause> {
        self.values().insert(name.to_owned(), value);
        match &self.before {
            // A counter that is new started at zero; one that has shrunk was reset.
            Some(before) => match before.values.get(name) {
                Some(earlier) if *earlier <= value => Ok(value - earlier),
                _ => Ok(value),
            },
            None if self.uptime_s < YOUNG_S => Ok(value),
            None => Err(Reason::FirstLook.into()),
        }
    }

    /// The same for counters that survive a reboot: only observed growth counts.
    ///
    /// # Errors
    /// [`Reason::FirstLook`] if there is no earlier value.
    pub(crate) fn since_known(&self, name: &str, value: u64) -> Result<u64, Cause> {
        let known = self.before.as_ref().is_some_and(|before| before.values.contains_key(name));
        match (self.since(name, value), known) {
            (Ok(since), true) => Ok(since),
            _ => Err(Reason::FirstLook.into()),
        }
    }

    /// When an event last happened: seen now, or by an earlier diagnosis, even of another boot.
    pub(crate) fn latest(&self, name: &str, seen: Option<UnixMs>) -> Option<UnixMs> {
        let mut moments = locked(&self.moments);
        // Ignores times that lie in the future because the clock was set back.
        let known = moments.get(name).copied().filter(|at| *at <= self.now);
        let latest = known.max(seen)?;
        moments.insert(name.to_owned(), latest);
        Some(latest)
    }

    /// The seconds covered by the differences.
    pub(crate) fn over_s(&self) -> Option<u64> {
        match &self.before {
            Some(before) => u64::try_from(self.now.saturating_sub(before.at) / 1000).ok(),
            None => Some(self.uptime_s).filter(|uptime| *uptime < YOUNG_S),
        }
    }

    /// The uptime in seconds at which the differences start.
    pub(crate) fn base_uptime_s(&self) -> u64 {
        self.before.as_ref().map_or(0, |before| before.uptime_s)
    }

    /// Stores these counters for later diagnoses.
    pub(crate) fn remember(self, past: &mut Past) {
        past.note(self.moments.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner()), self.now);
        let values = self.values.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner());
        if !self.boot.is_empty() && !values.is_empty() {
            past.count(Counters { boot: self.boot, at: self.now, uptime_s: self.uptime_s, values });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn begin(past: &Past, now: UnixMs) -> Counting {
        Counting::begin(past, "a-boot".to_owned(), Some(86_400), now)
    }

    const NOW: UnixMs = 1_800_000_000_000;
    const HOUR: UnixMs = 3_600_000;

    fn counting(before: Option<(u64, UnixMs)>, uptime_s: u64) -> Counting {
        let before = before.map(|(kills, at)| Counters {
            boot: "a".into(),
            at,
            uptime_s: 1,
            values: BTreeMap::from([("kills".to_owned(), kills)]),
        });
        Counting { before, boot: "a".into(), now: NOW, uptime_s, values: Mutex::default(), moments: Mutex::default() }
    }

    #[test]
    fn only_growth_since_an_earlier_diagnosis_counts() {
        let old_boot = 200 * YOUNG_S;
        let first = counting(None, old_boot);
        assert_eq!((first.since("kills", 7), first.over_s()), (Err(Reason::FirstLook.into()), None));
        let later = counting(Some((7, NOW - 20 * HOUR)), old_boot);
        assert_eq!((later.since("kills", 7), later.over_s()), (Ok(0), Some(72_000)));
        assert_eq!(later.since("kills", 9), Ok(2));
        assert_eq!(later.since("kills", 3), Ok(3), "it was begun anew");
        assert_eq!(later.since("eth7.errors", 4), Ok(4), "what came meanwhile began at nothing");
        let young = counting(None, 600);
        assert_eq!((young.since("kills", 7), young.over_s()), (Ok(7), Some(600)), "all of a young boot is new");
        let unknown = Counting::begin(&Past::default(), "a".into(), None, NOW);
        assert_eq!((unknown.since("kills", 7), unknown.over_s()), (Err(Reason::FirstLook.into()), None));
        assert_eq!(young.since_known("sda.media", 7), Err(Reason::FirstLook.into()), "a drive is older than its boot");
    }

    #[test]
    fn counters_are_remembered_for_this_boot() {
        let mut past = Past::default();
        let now = crate::now();
        let first = begin(&past, now);
        let _ = first.since("kills", 7);
        first.remember(&mut past);
        let soon = begin(&past, now + HOUR / 60);
        assert!(soon.before.is_none(), "a minute is too short for a difference");
        let later = begin(&past, now + HOUR);
        assert_eq!(later.since("kills", 9), Ok(2));
    }

    #[test]
    fn events_are_remembered_across_boots_but_not_from_the_future() {
        let first = Counting { boot: "a".into(), now: NOW, ..Counting::default() };
        assert_eq!(first.latest("backup", None), None);
        assert_eq!(first.latest("backup", Some(NOW - 9 * HOUR)), Some(NOW - 9 * HOUR));
        assert_eq!(first.latest("ahead", Some(NOW + HOUR)), Some(NOW + HOUR));
        let mut past = Past::default();
        first.remember(&mut past);
        let later = begin(&past, NOW + 1);
        assert_eq!(later.latest("backup", None), Some(NOW - 9 * HOUR), "systemd has forgotten it");
        assert_eq!(later.latest("backup", Some(NOW)), Some(NOW));
        assert_eq!(later.latest("ahead", None), None, "the clock was put back");
        let mut old = Past::default();
        begin(&past, NOW + 400 * 24 * HOUR).remember(&mut old);
        assert!(old.moments().is_empty());
    }
}
