//! How long to wait before the next try.
//!
//! Full jitter, so that ten thousand agents do not come back in one moment. The
//! first minutes are quick, because a hub that restarts is back in seconds;
//! after that it is rare, and the hub's restart hint shortens it.

use super::UplinkError;
use fernwart_protocol::code::{Denial, Goodbye};
use fernwart_protocol::limits::RETURN_SPREAD;
use fernwart_protocol::link::{DialError, LinkError};
use std::time::Duration;
use tokio::time::Instant;

const FIRST: Duration = Duration::from_millis(250);
const QUICK: Duration = Duration::from_secs(2);
const QUICK_FOR: Duration = Duration::from_secs(300);
const SLOW: Duration = Duration::from_secs(30);

/// After a no that a person must undo.
const AFTER_NO: Duration = Duration::from_secs(60);

/// After the hub's word alone that this machine is retired. Nobody has signed it; a hub
/// that is stolen, or was restored, may say so of all its machines.
const ONCE_A_DAY: Duration = Duration::from_secs(24 * 3600);

/// While somebody looks into why two computers use one identity.
const KEPT_OUT: Duration = Duration::from_secs(15);

/// Counts failures.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    failures: u32,
    since: Option<Instant>,
    hub_wait: Option<Duration>,
    /// Over how long the hub wants its machines to come back.
    spread: Duration,
    /// Where the next part comes from, if it must be had again.
    seed: Option<u64>,
}

impl Backoff {
    /// Backoff whose jitter comes from this seed, or from this computer's chance.
    pub(super) fn new(seed: Option<u64>) -> Self {
        Self { seed, ..Self::default() }
    }

    /// A random part of it.
    fn some_of(&mut self, most: Duration) -> Duration {
        let part = match &mut self.seed {
            None => u32::from_be_bytes(fernwart_certs::random()),
            Some(seed) => {
                // Knuth's multiplier, Lehmer's sequence; the upper half is well mixed.
                *seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                (*seed >> 32) as u32
            }
        };
        most.mul_f64(f64::from(part) / f64::from(u32::MAX))
    }

    /// A try has worked.
    pub(super) fn rest(&mut self) {
        self.failures = 0;
        self.since = None;
    }

    /// The hub has said over how long those who lose it should come back.
    pub(super) fn spread(&mut self, spread: Duration) {
        self.spread = spread.min(RETURN_SPREAD);
    }

    /// The hub has said how long to stay away.
    pub(super) fn wait_as_told(&mut self, wait: Duration) {
        self.hub_wait = Some(wait.min(SLOW));
    }

    /// How long to wait after this failure.
    pub(super) fn next(&mut self, error: &UplinkError) -> Duration {
        let since = *self.since.get_or_insert_with(Instant::now);
        self.failures = self.failures.saturating_add(1);
        let most = match error {
            UplinkError::Denied(Denial::MachineRetired) => ONCE_A_DAY,
            UplinkError::Denied(Denial::MachineRejected | Denial::MachineUnknown) => AFTER_NO,
            UplinkError::Link(LinkError::Closed(Goodbye::Quarantined)) => KEPT_OUT,
            _ if since.elapsed() > QUICK_FOR => SLOW,
            // All have lost it in the same moment, or it has no time for more now.
            UplinkError::Link(_) if self.failures == 1 => self.spread.max(FIRST),
            UplinkError::Dial(DialError::Link { source: LinkError::Closed(Goodbye::Overloaded), .. }) => {
                (self.spread / 2).max(QUICK)
            }
            _ => FIRST.saturating_mul(1 << self.failures.min(3)).min(QUICK),
        };
        let most = self.hub_wait.take().unwrap_or(most);
        self.some_of(most)
    }

    /// How long to wait where others do the same in this moment.
    pub(super) fn scatter(&mut self) -> Duration {
        self.some_of(self.spread)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn machines_of_a_large_hub_come_back_spread_as_it_wishes_and_those_of_a_small_one_at_once() {
        let lost = UplinkError::Link(LinkError::Forgotten);
        let first = |spread: u64| {
            let mut backoff = Backoff::default();
            backoff.spread(Duration::from_secs(spread));
            backoff.next(&lost)
        };
        assert!((0..64).all(|_| first(0) <= FIRST));
        let large: Vec<Duration> = (0..64).map(|_| first(10)).collect();
        assert!(large.iter().all(|wait| *wait <= Duration::from_secs(10)));
        // All of 64 in the same fifth: less likely than a hit by lightning.
        assert!(large.iter().any(|wait| *wait > Duration::from_secs(2)), "{large:?}");
        assert!((0..64).all(|_| first(u64::MAX / 1000) <= RETURN_SPREAD), "whatever a hub wishes");
    }
}
