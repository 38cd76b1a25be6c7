//! Limits log lines that peers can trigger: one a second, with the number of those left out.

use fernwart_protocol::document::UnixMs;
use std::sync::Mutex;

/// At most one line in this time, milliseconds.
const EVERY_MS: UnixMs = 1000;

/// Counts suppressed lines.
#[derive(Debug, Default)]
pub(crate) struct LogLimiter(Mutex<(UnixMs, u64)>);

impl LogLimiter {
    /// Returns the number of lines suppressed since the last one if a line may be logged now.
    pub(crate) fn now(&self, now: UnixMs) -> Option<u64> {
        let mut state = self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let (last, suppressed) = *state;
        if now.saturating_sub(last) >= EVERY_MS {
            *state = (now, 0);
            return Some(suppressed);
        }
        *state = (last, suppressed + 1);
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_a_second_carries_the_count_of_suppressed_ones() {
        let log_limiter = LogLimiter::default();
        assert_eq!(log_limiter.now(5_000), Some(0));
        assert_eq!((log_limiter.now(5_001), log_limiter.now(5_999)), (None, None));
        assert_eq!(log_limiter.now(6_000), Some(2));
    }
}
