//! How long to wait before the next connection attempt.
//!
//! Full jitter keeps ten thousand agents from reconnecting at once. In the first minutes attempts
//! are frequent, because a restarted hub is back in seconds. After that they are rare, and the
//! hub's restart hint ends the wait.

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

/// After a denial that only a person can undo.
const AFTER_NO: Duration = Duration::from_secs(60);

/// After the hub said, unsigned, that this machine is retired. A stolen or restored hub may say
/// so of all its machines, so the agent keeps trying.
const ONCE_A_DAY: Duration = Duration::from_secs(24 * 3600);

/// While this machine is quarantined, because two computers use its identity.
const KEPT_OUT: Duration = Duration::from_secs(15);

/// Counts failures and computes the waits.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    failures: u32,
    since: Option<Instant>,
    hub_wait: Option<Duration>,
    /// The time over which the hub wants its machines to reconnect.
    spread: Duration,
    /// The state of the seeded generator, for reproducible waits.
    seed: Option<u64>,
}

impl Backoff {
    /// A backoff with jitter from this seed, or from the system's randomness if there is none.
    pub(super) fn new(seed: Option<u64>) -> Self {
        Self { seed, ..Self::default() }
    }

    /// A random part of a duration.
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

    /// Resets after a successful attempt.
    pub(super) fn rest(&mut self) {
        self.failures = 0;
        self.since = None;
    }

    /// Sets the time over which machines that lose the hub should reconnect.
    pub(super) fn spread(&mut self, spread: Duration) {
        self.spread = spread.min(RETURN_SPREAD);
    }

    /// Sets the next wait to what the hub asked for.
    pub(super) fn wait_as_asked(&mut self, wait: Duration) {
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
            // All machines lost the hub at the same moment, or the hub is overloaded.
            UplinkError::Link(_) if self.failures == 1 => self.spread.max(FIRST),
            UplinkError::Dial(DialError::Link { source: LinkError::Closed(Goodbye::Overloaded), .. }) => {
                (self.spread / 2).max(QUICK)
            }
            _ => FIRST.saturating_mul(1 << self.failures.min(3)).min(QUICK),
        };
        let most = self.hub_wait.take().unwrap_or(most);
        self.some_of(most)
    }

    /// A random wait, for when all other machines do the same at this moment.
    pub(super) fn scatter(&mut self) -> Duration {
        self.some_of(self.spread)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn machines_reconnect_spread_over_the_time_that_their_hub_asks_for() {
        let lost = UplinkError::Link(LinkError::Forgotten);
        let first = |spread: u64| {
            let mut backoff = Backoff::default();
            backoff.spread(Duration::from_secs(spread));
            backoff.next(&lost)
        };
        assert!((0..64).all(|_| first(0) <= FIRST));
        let large: Vec<Duration> = (0..64).map(|_| first(10)).collect();
        assert!(large.iter().all(|wait| *wait <= Duration::from_secs(10)));
        // The chance that all 64 fall in the first fifth is negligible.
        assert!(large.iter().any(|wait| *wait > Duration::from_secs(2)), "{large:?}");
        assert!((0..64).all(|_| first(u64::MAX / 1000) <= RETURN_SPREAD), "whatever a hub wishes");
    }
}
