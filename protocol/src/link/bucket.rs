//! A bucket that fills at a pace: how much may be asked for at once, and after
//! that.

use std::time::Duration;
use tokio::time::Instant;

/// It may be emptied below zero, where what something costs is known only when
/// it is done.
#[derive(Debug, Clone)]
pub struct Bucket {
    most: f64,
    per_second: f64,
    level: f64,
    at: Instant,
}

impl Bucket {
    /// A full one.
    pub fn new(most: u32, per_second: u32, now: Instant) -> Self {
        let most = f64::from(most);
        Self { most, per_second: f64::from(per_second), level: most, at: now }
    }

    /// Takes so much out of it, whether or not it is there.
    pub fn spend(&mut self, cost: f64, now: Instant) {
        let filled = now.saturating_duration_since(self.at).as_secs_f64() * self.per_second;
        self.level = (self.level + filled).min(self.most) - cost;
        self.at = now;
    }

    /// Whether so much is in it, as of the last time that something was spent.
    pub fn holds(&self, cost: f64) -> bool {
        self.level >= cost
    }

    /// Takes one out of it if there is one.
    pub fn take(&mut self, now: Instant) -> bool {
        self.spend(0.0, now);
        let is_there = self.level >= 1.0;
        if is_there {
            self.level -= 1.0;
        }
        is_there
    }

    /// How long until it is no longer below zero.
    pub fn debt(&self) -> Duration {
        Duration::from_secs_f64((-self.level).max(0.0) / self.per_second)
    }
}
