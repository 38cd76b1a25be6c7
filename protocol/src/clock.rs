//! The wall clock, and one that a simulation turns.

use crate::document::UnixMs;
use tokio::time::Instant;

/// What tells the time of day.
#[derive(Debug, Clone, Copy, Default)]
pub enum Clock {
    /// This computer's.
    #[default]
    System,
    /// One that goes as tokio's time goes, which a test may stop and turn.
    Counted {
        /// What time it was, Unix milliseconds.
        from: UnixMs,
        /// When it was that.
        since: Instant,
    },
}

impl Clock {
    /// A clock that goes on from here as tokio's time goes.
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
