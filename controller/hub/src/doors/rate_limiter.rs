//! How much one link may ask of the hub: a bucket that fills at a pace.
//!
//! Whoever asks faster waits at the pace; others do not notice. Only whoever
//! opens streams without a word, again and again, is sent away.

use crate::metrics::Metrics;
use fernwart_protocol::code::Goodbye;
use fernwart_protocol::limits;
use fernwart_protocol::link::{Bucket, Door, FrameError};
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;
use tokio::time::Instant;

/// Bytes of an answer that count as one more ask.
const BYTES_PER_ASK: usize = 16 * 1024;

#[derive(Debug)]
struct Buckets {
    asks: Bucket,
    empty: Bucket,
}

/// What one link has asked for of late.
#[derive(Debug)]
pub(crate) struct RateLimiter {
    door: Door,
    buckets: Mutex<Buckets>,
}

impl RateLimiter {
    /// That of a new link.
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

    /// Waits for the turn of one more ask.
    pub(crate) async fn turn(&self, metrics: &Metrics) {
        let wait = self.ask();
        if !wait.is_zero() {
            metrics.paced(self.door);
            tokio::time::sleep(wait).await;
        }
    }

    /// Counts one more ask: how long to wait before it is looked at.
    fn ask(&self) -> Duration {
        let mut buckets = self.buckets();
        buckets.asks.spend(1.0, Instant::now());
        buckets.asks.debt()
    }

    /// Counts what an answer has cost.
    pub(crate) fn answered(&self, bytes: usize) {
        let asks = (bytes / BYTES_PER_ASK) as f64;
        if asks > 0.0 {
            self.buckets().asks.spend(asks, Instant::now());
        }
    }

    /// What the link is to be closed with after a stream has ended like this, if it
    /// is. Leaving a stream on which something was asked is no offence; opening
    /// many on which nothing is said is.
    pub(crate) fn reproach(&self, error: &FrameError) -> Option<Goodbye> {
        match error {
            FrameError::Empty => self.is_one_too_many().then_some(Goodbye::Misbehaved),
            FrameError::Cut
            | FrameError::TooSlow
            | FrameError::Length { .. }
            | FrameError::Body(_)
            | FrameError::Newer
            | FrameError::PeerIsOlder(_)
            | FrameError::TurnedAway => error.reproach(),
        }
    }

    /// Counts a stream that brought nothing: whether there were too many.
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
    async fn whoever_asks_without_end_is_served_at_the_pace_and_whoever_pauses_at_once() {
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
    async fn a_large_answer_counts_as_many() {
        let rate = RateLimiter::of(Door::Agent);
        for _ in 0..100 {
            rate.answered(1024 * 1024);
        }
        // 6,400 asks were taken from 512.
        let wait = rate.ask().as_secs_f64();
        assert!((91.0..93.0).contains(&wait), "{wait}");
    }

    #[tokio::test(start_paused = true)]
    async fn empty_streams_now_and_then_are_forgiven() {
        let rate = RateLimiter::of(Door::Agent);
        for _ in 0..1000 {
            assert!(!rate.is_one_too_many());
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        assert!((0..limits::EMPTY_STREAMS).all(|_| !rate.is_one_too_many()));
        assert!(rate.is_one_too_many());
    }
}
