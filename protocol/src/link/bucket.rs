//! A token bucket: how much may be used at once, and per second after that.

use std::time::Duration;
use tokio::time::Instant;

/// A token bucket. Its level may become negative, for operations whose cost is only known
/// afterwards.
#[derive(Debug, Clone)]
pub struct Bucket {
    most: f64,
    per_second: f64,
    level: f64,
    at: Instant,
}

impl Bucket {
    /// A full bucket.
    pub fn new(most: u32, per_second: u32, now: Instant) -> Self {
        let most = f64::from(most);
        Self { most, per_second: f64::from(per_second), level: most, at: now }
    }

    /// Removes `cost` tokens, even if there are fewer.
    pub fn spend(&mut self, cost: f64, now: Instant) {
        let filled = now.saturating_duration_since(self.at).as_secs_f64() * self.per_second;
        self.level = (self.level + filled).min(self.most) - cost;
        self.at = now;
    }

    /// Whether at least `cost` tokens are left, as of the last change.
    pub fn holds(&self, cost: f64) -> bool {
        self.level >= cost
    }

    /// Removes one token if there is one, and reports whether there was.
    pub fn take(&mut self, now: Instant) -> bool {
        self.spend(0.0, now);
        let is_there = self.level >= 1.0;
        if is_there {
            self.level -= 1.0;
        }
        is_there
    }

    /// How long until the level is no longer negative.
    pub fn debt(&self) -> Duration {
        Duration::from_secs_f64((-self.level).max(0.0) / self.per_second)
    }
}
