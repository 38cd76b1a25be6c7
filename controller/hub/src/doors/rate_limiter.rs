//! Limits the requests of one link with a token bucket.
//!
//! Faster requests are delayed; other links are not affected. Only a peer that keeps opening empty
//! streams is disconnected.

use crate::metrics::Metrics;
use fernwart_protocol::code::Goodbye;
use fernwart_protocol::limits;
use fernwart_protocol::link::{Bucket, Door, FrameError};
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;
use tokio::time::Instant;

/// This many bytes of an answer count as one more request.
const BYTES_PER_ASK: usize = 16 * 1024;

#[derive(Debug)]
struct Buckets {
    asks: Bucket,
    empty: Bucket,
}

/// The recent requests of one link.
#[derive(Debug)]
pub(crate) struct RateLimiter {
    door: Door,
    buckets: Mutex<Buckets>,
}

impl RateLimiter {
    /// The limiter of a new link.
    pub(crate) fn of(door: Door) -> Self {
        let (most, per_second) = match door {
            Door::Agent => (limits::AGENT_ASKS, limits::AGENT_ASKS_PER_SECOND),
            Door::Staff => (limits::STAFF_ASKS, limits::STAFF_ASKS_PER_SECOND),
            Door::Enroll => (limits::ENROLL_ASKS, limits::ENROLL_ASKS_PER_SECOND),
        };
        let now = Instant::now();
        let empty = Bucket::new(limits::EMPTY_STREAMS, limits::EMPTY_STREAMS_PER_SECOND, now);
        Self { door, buckets: Mutex::new(Buckets { asks: Bucket::new(most, per_second, now), empty }) }
    }

    fn buckets(&self) -> MutexGuard<'_, Buckets> {
        self.buckets.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Counts one more request and waits until it may be served.
    pub(crate) async fn turn(&self, metrics: &Metrics) {
        let wait = self.ask();
        if !wait.is_zero() {
            metrics.paced(self.door);
            tokio::time::sleep(wait).await;
        }
    }

    /// Counts one more request. Returns how long to delay it.
    fn ask(&self) -> Duration {
        let mut buckets = self.buckets();
        buckets.asks.spend(1.0, Instant::now());
        buckets.asks.debt()
    }

    /// Counts the cost of an answer.
    pub(crate) fn answered(&self, bytes: usize) {
        let asks = (bytes / BYTES_PER_ASK) as f64;
        if asks > 0.0 {
            self.buckets().asks.spend(asks, Instant::now());
        }
    }

    /// The reason to close the link after a stream has ended with this error, if there is one.
    /// Abandoning a request is no offence; opening many empty streams is.
    pub(crate) fn reproach(&self, error: &FrameError) -> Option<Goodbye> {
        match error {
            FrameError::Empty => self.is_one_too_many().then_some(Goodbye::Misbehaved),
            FrameError::Cut
            | FrameError::TooSlow
            | FrameError::Length { .. }
            | FrameError::Body(_)
            | FrameError::Newer
            | FrameError::PeerIsOlder(_)
            | FrameError::Rejected => error.reproach(),
        }
    }

    /// Counts an empty stream. Returns whether there were too many.
    fn is_one_too_many(&self) -> bool {
        let mut buckets = self.buckets();
        buckets.empty.spend(1.0, Instant::now());
        buckets.empty.debt() > Duration::ZERO
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn continuous_requests_are_served_at_the_rate_and_at_once_after_a_pause() {
        let rate = RateLimiter::of(Door::Agent);
        for _ in 0..limits::AGENT_ASKS {
            assert_eq!(rate.ask(), Duration::ZERO);
        }
        let begun = Instant::now();
        for _ in 0..10 * limits::AGENT_ASKS_PER_SECOND {
            tokio::time::sleep(rate.ask()).await;
        }
        let took = begun.elapsed().as_secs_f64();
        assert!((9.9..11.0).contains(&took), "{took} s for ten seconds' worth");
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert_eq!(rate.ask(), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn a_large_answer_counts_as_many_requests() {
        let rate = RateLimiter::of(Door::Agent);
        for _ in 0..100 {
            rate.answered(1024 * 1024);
        }
        // 6,400 asks were taken from 512.
        let wait = rate.ask().as_secs_f64();
        assert!((91.0..93.0).contains(&wait), "{wait}");
    }

    #[tokio::test(start_paused = true)]
    async fn occasional_empty_streams_are_tolerated() {
        let rate = RateLimiter::of(Door::Agent);
        for _ in 0..1000 {
            assert!(!rate.is_one_too_many());
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        assert!((0..limits::EMPTY_STREAMS).all(|_| !rate.is_one_too_many()));
        assert!(rate.is_one_too_many());
    }
}
