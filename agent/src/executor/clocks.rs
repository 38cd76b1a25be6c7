//! The machine's clocks, and whether its wall clock is plausible.

use super::gate::Clock;
use super::state::Moment;
use crate::message::Linked;
use fernwart_protocol::document::UnixMs;
use fernwart_protocol::limits::CLOCK_SKEW;

/// This build was made after 2026-11-01: a correct clock shows a later time.
pub(super) const BUILT: UnixMs = 1_793_491_200_000;

/// The clock's offset when the hub last reported its time. Later changes of the wall clock are
/// detected by comparing it with the time since boot, which nobody can set.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reference {
    /// How far the hub's clock was ahead of this one, milliseconds.
    ahead_ms: i64,
    at: Moment,
}

impl Reference {
    /// Taken when a link was made.
    pub(super) fn new(linked: &Linked, at: Moment) -> Self {
        Self { ahead_ms: linked.hub_ahead_ms, at }
    }

    /// How far the hub's clock is ahead of this one now. If the wall clock was set since, it has
    /// moved by another amount than the time since boot, which includes suspension.
    pub(super) fn ahead_ms(&self, now: &Moment) -> i64 {
        let went = now.now.saturating_sub(self.at.now);
        let passed = i64::try_from(now.since_boot_ms.saturating_sub(self.at.since_boot_ms)).unwrap_or(i64::MAX);
        self.ahead_ms.saturating_add(passed).saturating_sub(went)
    }
}

/// Compares the clock with the newest signed time and with the hub's clock.
pub(super) fn judge(moment: &Moment, floor: UnixMs, reference: Option<Reference>) -> Clock {
    let skew = i64::try_from(CLOCK_SKEW.as_millis()).unwrap_or(i64::MAX);
    let now = moment.now;
    let ahead = reference.map_or(0, |reference| reference.ahead_ms(moment));
    if now < floor.saturating_sub(skew) || ahead.saturating_abs() > skew {
        Clock::Implausible { hub: now.saturating_add(ahead) }
    } else {
        Clock::Plausible(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fernwart_protocol::id::BootId;

    const MINUTE: i64 = 60_000;

    fn moment(now: UnixMs, since_boot_ms: u64) -> Moment {
        Moment { now, since_boot_ms, boot: BootId::from_bytes([1; 16]) }
    }

    fn reference(hub_ahead_ms: i64, at: Moment) -> Reference {
        Reference::new(&Linked { hub_ahead_ms, rtt_us: 1, hub_chain: None, hub_journal: None }, at)
    }

    #[test]
    fn a_clock_set_back_within_the_skew_stands_still_and_beyond_it_is_followed() {
        let at = |ms| Clock::Plausible(BUILT + ms);
        for (now, latest, wanted) in [
            (0, -1, 0),
            (0, 0, 0),
            (-1, 0, 0),
            (-5 * MINUTE, 0, 0),
            // Beyond the allowed skew: the earlier time was wrong.
            (-5 * MINUTE - 1, 0, -5 * MINUTE - 1),
        ] {
            assert_eq!(at(now).not_before(BUILT + latest), at(wanted), "{now} {latest}");
        }
        let wrong = Clock::Implausible { hub: BUILT };
        assert_eq!(wrong.not_before(BUILT + 1), wrong);
    }

    #[test]
    fn a_clock_is_plausible_within_five_minutes_of_the_hubs() {
        let at = moment(BUILT, 0);
        let judge = |ahead| judge(&at, BUILT, Some(reference(ahead, at)));
        assert_eq!(super::judge(&at, BUILT, None), Clock::Plausible(BUILT));
        for (ahead, plausible) in
            [(0, true), (5 * MINUTE, true), (5 * MINUTE + 1, false), (-5 * MINUTE, true), (-5 * MINUTE - 1, false)]
        {
            let expected = if plausible { Clock::Plausible(BUILT) } else { Clock::Implausible { hub: BUILT + ahead } };
            assert_eq!(judge(ahead), expected, "{ahead}");
        }
        let behind = |ms| super::judge(&moment(BUILT - ms, 0), BUILT, None);
        assert_eq!(behind(5 * MINUTE), Clock::Plausible(BUILT - 5 * MINUTE));
        assert_eq!(behind(5 * MINUTE + 1), Clock::Implausible { hub: BUILT - 5 * MINUTE - 1 });
    }

    #[test]
    fn a_clock_set_while_linked_is_detected_and_suspension_is_not_mistaken_for_it() {
        let at = moment(BUILT, 1_000);
        let since = |went: i64, passed: i64| {
            let now = moment(BUILT + went, u64::try_from(1_000 + passed).expect("later"));
            judge(&now, BUILT, Some(reference(0, at)))
        };
        let hour = 60 * MINUTE;
        assert_eq!(since(hour, hour), Clock::Plausible(BUILT + hour), "an hour went by, perhaps asleep");
        assert_eq!(since(6 * MINUTE, 0), Clock::Implausible { hub: BUILT });
        assert_eq!(since(-10 * MINUTE, 0), Clock::Implausible { hub: BUILT });
        assert_eq!(since(hour + 4 * MINUTE, hour), Clock::Plausible(BUILT + hour + 4 * MINUTE));
        // A clock that was wrong when the link was made, and was corrected since.
        let right = judge(&moment(BUILT + 10 * MINUTE, 1_000), BUILT, Some(reference(10 * MINUTE, at)));
        assert_eq!(right, Clock::Plausible(BUILT + 10 * MINUTE));
    }
}
