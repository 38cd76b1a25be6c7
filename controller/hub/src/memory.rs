//! Returns free memory to the system, so that one burst does not keep the process large for months.

use crate::metrics::resident_bytes;
use tokio::time::{Duration, Instant};

/// Growth since the last trim that makes another one worthwhile, bytes.
const WORTH: u64 = 16 * 1024 * 1024;

/// Maximum delay between two trims that free nothing: each scans the allocator's memory in vain.
const LOG_LIMITER: Duration = Duration::from_secs(1800);

/// Decides when the C library is to return free memory, which it does not do by itself.
#[derive(Debug)]
pub(crate) struct Keeper {
    /// The smallest resident size after any trim, bytes.
    least: u64,
    /// The resident size after the last trim, bytes.
    last: u64,
    wait: Duration,
    next: Option<Instant>,
}

impl Keeper {
    pub(crate) fn new() -> Self {
        let now = resident_bytes();
        Self { least: now, last: now, wait: Duration::ZERO, next: None }
    }

    /// Whether a trim is worthwhile at this resident size: it has grown, or memory in use at the
    /// last trim may be free by now.
    fn is_worth(&self, resident: u64, now: Instant) -> bool {
        let grown = resident > self.last + WORTH;
        grown || (resident > self.least + WORTH && self.next.is_some_and(|next| next <= now))
    }

    /// Adapts the delay to what a trim has freed.
    fn learn(&mut self, before: u64, after: u64, every: Duration, now: Instant) {
        let grown = before > self.last + WORTH;
        let brought = before.saturating_sub(after) > WORTH / 4;
        self.wait = if grown || brought { every } else { (self.wait * 2).min(LOG_LIMITER) };
        self.next = Some(now + self.wait);
        self.last = after;
        self.least = self.least.min(after);
    }

    /// Returns free memory to the system, if that is worthwhile.
    pub(crate) async fn tidy(&mut self, every: Duration) {
        let before = resident_bytes();
        let now = Instant::now();
        if !self.is_worth(before, now) {
            return;
        }
        // It scans all free memory, which takes some milliseconds.
        if tokio::task::spawn_blocking(give_back).await.is_ok() {
            self.learn(before, resident_bytes(), every, now);
        }
    }
}

#[cfg_attr(
    target_env = "gnu",
    expect(unsafe_code, reason = "a call of the C library's allocator, which has no other way to it")
)]
fn give_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: it takes nothing away that is in use, and locks what it looks at.
    unsafe {
        libc::malloc_trim(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn memory_is_trimmed_after_growth_and_less_often_when_nothing_is_freed() {
        const MIB: u64 = 1024 * 1024;
        const EVERY: Duration = Duration::from_secs(30);
        let begun = Instant::now();
        let mut keeper = Keeper { least: 60 * MIB, last: 60 * MIB, wait: Duration::ZERO, next: None };
        assert!(!keeper.is_worth(70 * MIB, begun));
        assert!(keeper.is_worth(90 * MIB, begun));
        // All of it is in use: the delay doubles from half a minute.
        keeper.learn(90 * MIB, 90 * MIB, EVERY, begun);
        assert!(!keeper.is_worth(90 * MIB, begun + EVERY / 2) && keeper.is_worth(90 * MIB, begun + EVERY));
        keeper.learn(90 * MIB, 89 * MIB, EVERY, begun);
        assert!(!keeper.is_worth(90 * MIB, begun + EVERY) && keeper.is_worth(90 * MIB, begun + 2 * EVERY));
        for _ in 0..20 {
            keeper.learn(90 * MIB, 90 * MIB, EVERY, begun);
        }
        assert_eq!(keeper.wait, LOG_LIMITER);
        // New growth is trimmed at once, and the delay starts small again.
        assert!(keeper.is_worth(110 * MIB, begun));
        keeper.learn(110 * MIB, 110 * MIB, EVERY, begun);
        assert!(keeper.is_worth(110 * MIB, begun + EVERY));
        keeper.learn(110 * MIB, 62 * MIB, EVERY, begun);
        assert!(!keeper.is_worth(70 * MIB, begun + LOG_LIMITER) && keeper.is_worth(80 * MIB, begun));
    }
}
