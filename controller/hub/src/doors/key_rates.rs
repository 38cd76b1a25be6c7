//! Limits what one key can cause over all its links: jobs of a technician, and links of a machine.
//! Each of these leaves a row, an event or a log line.

use fernwart_protocol::id::{KeyId, MachineId};
use fernwart_protocol::limits::{JOBS, JOBS_PER_SECOND, MACHINE_LINKS};
use fernwart_protocol::link::Bucket;
use std::collections::HashMap;
use std::time::Duration;
use tokio::time::Instant;

/// After a burst, a machine may link once in this many seconds.
const LINK_AGAIN: u32 = 10;

/// Maximum time that a job is delayed.
const LONGEST_WAIT: Duration = Duration::from_secs(30);

/// Buckets by key. Only admitted machines and staff have one, so they are few.
#[derive(Debug)]
pub(crate) struct KeyRates<K>(HashMap<K, Bucket>);

impl<K> Default for KeyRates<K> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl KeyRates<KeyId> {
    /// Counts one more job and returns its delay. Returns `None`, without counting it, if the delay
    /// would be too long.
    pub(crate) fn job(&mut self, key: KeyId, now: Instant) -> Option<Duration> {
        let bucket = self.0.entry(key).or_insert_with(|| Bucket::new(JOBS, JOBS_PER_SECOND, now));
        bucket.spend(0.0, now);
        if bucket.debt() > LONGEST_WAIT {
            return None;
        }
        bucket.spend(1.0, now);
        Some(bucket.debt())
    }
}

impl KeyRates<MachineId> {
    /// Counts one more link. Returns whether there were too many.
    pub(crate) fn is_link_too_many(&mut self, machine: MachineId, now: Instant) -> bool {
        let full = || Bucket::new(MACHINE_LINKS * LINK_AGAIN, 1, now);
        let bucket = self.0.entry(machine).or_insert_with(full);
        bucket.spend(0.0, now);
        let is_there = bucket.holds(f64::from(LINK_AGAIN));
        if is_there {
            bucket.spend(f64::from(LINK_AGAIN), now);
        }
        !is_there
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jobs_of_a_key_start_at_once_up_to_a_burst_and_then_at_a_fixed_rate() {
        let (mut key_rates, begun) = (KeyRates::default(), Instant::now());
        let (one, other) = (KeyId::from_bytes([1; 16]), KeyId::from_bytes([2; 16]));
        for _ in 0..JOBS {
            assert_eq!(key_rates.job(one, begun), Some(Duration::ZERO));
        }
        assert_eq!(key_rates.job(one, begun), Some(Duration::from_millis(100)));
        assert_eq!(key_rates.job(one, begun), Some(Duration::from_millis(200)));
        assert_eq!(key_rates.job(other, begun), Some(Duration::ZERO), "others do not notice");
        assert_eq!(key_rates.job(one, begun + Duration::from_secs(1)), Some(Duration::ZERO));
        // No job is delayed for ever, and rejected ones are not counted.
        let later = begun + Duration::from_secs(1);
        let taken = (0..10_000).filter_map(|_| key_rates.job(one, later)).collect::<Vec<_>>();
        assert!(taken.len() < 310 && taken.iter().all(|wait| *wait <= LONGEST_WAIT + Duration::from_millis(100)));
        assert_eq!(key_rates.job(one, later + Duration::from_secs(31)), Some(Duration::ZERO));
    }

    #[test]
    fn a_machine_may_link_in_a_burst_and_then_once_in_ten_seconds() {
        let (mut key_rates, begun) = (KeyRates::default(), Instant::now());
        let machine = MachineId::from_bytes([1; 16]);
        assert_eq!((0..100).filter(|_| !key_rates.is_link_too_many(machine, begun)).count(), MACHINE_LINKS as usize);
        let later = |seconds| begun + Duration::from_secs(seconds);
        assert!(key_rates.is_link_too_many(machine, later(9)));
        assert!(!key_rates.is_link_too_many(machine, later(10)));
        assert!(key_rates.is_link_too_many(machine, later(11)));
    }
}
