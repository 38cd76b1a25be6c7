//! The machine's clocks, and what its wall clock is worth.

use super::books::Moment;
use super::gate::Clock;
use crate::message::Linked;
use fernwart_protocol::document::UnixMs;
use fernwart_protocol::id::BootId;
use fernwart_protocol::limits::CLOCK_SKEW;

/// This build was made after 2026-11-01: no true clock is behind that.
pub(super) const BUILT: UnixMs = 1_793_491_200_000;

/// What time it is.
pub(super) fn moment(boot: BootId) -> Moment {
    let uptime = std::fs::read_to_string("/proc/uptime").unwrap_or_default();
    let seconds: f64 = uptime.split_whitespace().next().and_then(|s| s.parse().ok()).unwrap_or_default();
    Moment { now: crate::now(), since_boot_ms: (seconds * 1000.0) as u64, boot }
}

/// The kernel's name for this boot; zeros where it gives none.
pub(super) fn boot_id() -> BootId {
    let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let digits: String = text.chars().filter(char::is_ascii_hexdigit).collect();
    digits.parse().unwrap_or(BootId::from_bytes([0; 16]))
}

/// Judges the clock against the newest signed time and the hub's.
pub(super) fn judge(now: UnixMs, floor: UnixMs, linked: Option<Linked>) -> Clock {
    let skew = i64::try_from(CLOCK_SKEW.as_millis()).unwrap_or(i64::MAX);
    let ahead = linked.map_or(0, |linked| linked.hub_ahead_ms);
    if now < floor.saturating_sub(skew) || ahead.saturating_abs() > skew {
        Clock::Implausible { hub: now.saturating_add(ahead) }
    } else {
        Clock::Plausible(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: i64 = 60_000;

    #[test]
    fn a_clock_is_believed_within_five_minutes_of_the_hubs() {
        let linked = |hub_ahead_ms| Some(Linked { hub_ahead_ms, rtt_us: 1, hub_chain: None, hub_journal: None });
        assert_eq!(judge(BUILT, BUILT, None), Clock::Plausible(BUILT));
        assert_eq!(judge(BUILT, BUILT, linked(4 * MINUTE)), Clock::Plausible(BUILT));
        assert_eq!(judge(BUILT, BUILT, linked(6 * MINUTE)), Clock::Implausible { hub: BUILT + 6 * MINUTE });
        assert_eq!(judge(BUILT, BUILT, linked(-6 * MINUTE)), Clock::Implausible { hub: BUILT - 6 * MINUTE });
        assert_eq!(judge(BUILT - 6 * MINUTE, BUILT, None), Clock::Implausible { hub: BUILT - 6 * MINUTE });
    }
}
