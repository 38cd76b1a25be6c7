//! Limits log lines that unauthenticated peers can trigger: one a second, with how many
//! were left out.

use fernwart_protocol::document::UnixMs;
use std::sync::Mutex;

/// At most one line in this time, milliseconds.
const EVERY_MS: UnixMs = 1000;

/// Counts what is not told at once.
#[derive(Debug, Default)]
pub(crate) struct LogLimiter(Mutex<(UnixMs, u64)>);

impl LogLimiter {
    /// Whether to tell now, and how many were passed over since the last time.
    pub(crate) fn now(&self, now: UnixMs) -> Option<u64> {
        let mut state = self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let (told, passed) = *state;
        if now.saturating_sub(told) >= EVERY_MS {
            *state = (now, 0);
            return Some(passed);
        }
        *state = (told, passed + 1);
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_a_second_tells_of_all() {
        let log_limiter = LogLimiter::default();
        assert_eq!(log_limiter.now(5_000), Some(0));
        assert_eq!((log_limiter.now(5_001), log_limiter.now(5_999)), (None, None));
        assert_eq!(log_limiter.now(6_000), Some(2));
    }
}
