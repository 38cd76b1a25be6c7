//! The wall clock, and a simulated one.

use crate::document::UnixMs;
use tokio::time::Instant;

/// A source of the current time.
#[derive(Debug, Clone, Copy, Default)]
pub enum Clock {
    /// This computer's.
    #[default]
    System,
    /// A clock that follows tokio's time, which a test can pause and advance.
    Counted {
        /// The time at `since`, Unix milliseconds.
        from: UnixMs,
        /// The instant of `from` on tokio's clock.
        since: Instant,
    },
}

impl Clock {
    /// A clock that starts at `from` and follows tokio's time.
    pub fn counted(from: UnixMs) -> Self {
        Self::Counted { from, since: Instant::now() }
    }

    /// What time it is, Unix milliseconds.
    pub fn now(&self) -> UnixMs {
        match self {
            Self::System => {
                let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
                i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
            }
            Self::Counted { from, since } => {
                from.saturating_add(i64::try_from(since.elapsed().as_millis()).unwrap_or(i64::MAX))
            }
        }
    }
}
