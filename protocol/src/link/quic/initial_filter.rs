//! Drops excess QUIC Initials before they cost anything.
//!
//! QUIC must derive keys for an Initial and decrypt it before it can answer: 30 us each. An
//! attacker who sends ten thousands of them from forged addresses would block all other peers. This
//! filter only looks at a few bytes and drops Initials above a rate, as a congested network would;
//! an honest peer retransmits. Initials with a token have a separate budget: peers that have
//! answered a Retry are not crowded out by those that have not, and an invalid token gains nothing
//! more.

use super::inspected::Inspect;
use crate::limits;
use crate::link::Bucket;
use quinn::udp::RecvMeta;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard};
use tokio::time::Instant;

/// Minimum length of a datagram with an Initial (RFC 9000, 14.1).
const INITIAL_BYTES: usize = 1200;

/// An Initial, by its unencrypted header (RFC 9000, 17.2.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Without a token: the address may be forged.
    Unproven,
    /// With a token: the address is proven if the token is valid, which only QUIC can check.
    Proven,
}

/// The kind of a datagram that begins with an Initial of version 1; `None` for any other.
fn kind_of(datagram: &[u8]) -> Option<Kind> {
    let (&[form, v1, v2, v3, v4, to], rest) = datagram.split_first_chunk::<6>()?;
    // Long header, type Initial; QUIC does not insist on the fixed bit (RFC 9287).
    if form & 0xb0 != 0x80 || [v1, v2, v3, v4] != [0, 0, 0, 1] {
        return None;
    }
    let (from, rest) = rest.get(usize::from(to)..)?.split_first()?;
    let (length, rest) = rest.get(usize::from(*from)..)?.split_first()?;
    // A variable-length integer of one, two, four or eight bytes (RFC 9000, 16); its first two bits
    // encode the length.
    let more = rest.get(..(1 << (length >> 6)) - 1)?;
    let is_zero = length & 0x3f == 0 && more.iter().all(|byte| *byte == 0);
    Some(if is_zero { Kind::Unproven } else { Kind::Proven })
}

#[derive(Debug)]
struct Rules {
    unproven: Bucket,
    proven: Bucket,
}

impl Rules {
    fn new(now: Instant) -> Self {
        let bucket = Bucket::new(limits::INITIALS, limits::INITIALS_PER_SECOND, now);
        Self { unproven: bucket.clone(), proven: bucket }
    }

    fn lets(&mut self, datagram: &[u8], now: Instant) -> bool {
        match kind_of(datagram) {
            // QUIC discards a shorter one, so it must not use up the budget.
            Some(_) if datagram.len() < INITIAL_BYTES => false,
            Some(Kind::Unproven) => self.unproven.take(now),
            Some(Kind::Proven) => self.proven.take(now),
            None => true,
        }
    }
}

/// The filter in front of a socket.
#[derive(Debug)]
pub(super) struct InitialFilter {
    rules: Mutex<Rules>,
    dropped: AtomicU64,
}

impl InitialFilter {
    pub(super) fn new() -> Self {
        Self { rules: Mutex::new(Rules::new(Instant::now())), dropped: AtomicU64::new(0) }
    }

    fn rules(&self) -> MutexGuard<'_, Rules> {
        self.rules.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// How many datagrams were dropped.
    pub(super) fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }
}

impl Inspect for InitialFilter {
    fn inspect(&self, received: &mut [u8], meta: &mut RecvMeta) {
        let (now, stride) = (Instant::now(), meta.stride.max(1));
        let mut rules = self.rules();
        let (mut kept, mut at) = (0, 0);
        while at < received.len() {
            let end = received.len().min(at + stride);
            if received.get(at..end).is_some_and(|datagram| rules.lets(datagram, now)) {
                received.copy_within(at..end, kept);
                kept += end - at;
            } else {
                self.dropped.fetch_add(1, Ordering::Relaxed);
            }
            at = end;
        }
        meta.len = kept;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn initial(token: &[u8]) -> Vec<u8> {
        let mut datagram = vec![0xc3, 0, 0, 0, 1, 8];
        datagram.extend([7; 8]);
        datagram.push(4);
        datagram.extend([9; 4]);
        datagram.push(u8::try_from(token.len()).expect("short"));
        datagram.extend(token);
        datagram.resize(1200, 0x55);
        datagram
    }

    #[test]
    fn initials_are_recognised_by_their_header() {
        assert_eq!(kind_of(&initial(b"")), Some(Kind::Unproven));
        assert_eq!(kind_of(&initial(b"token")), Some(Kind::Proven));
        let mut other = initial(b"");
        other[0] = 0x83;
        assert_eq!(kind_of(&other), Some(Kind::Unproven), "without the fixed bit");
        let mut other = initial(b"");
        other[19] = 0x40;
        other[20] = 0;
        assert_eq!(kind_of(&other), Some(Kind::Unproven), "no token, told in two bytes");
        for (at, byte) in [(0, 0x43), (0, 0xe3), (4, 2)] {
            let mut other = initial(b"");
            other[at] = byte;
            assert_eq!(kind_of(&other), None, "byte {at} is {byte:#x}");
        }
        for length in 0..20 {
            assert_eq!(kind_of(&initial(b"")[..length.min(19)]), None, "{length} bytes");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn excess_initials_are_dropped_with_separate_budgets_for_peers_with_a_token() {
        let mut rules = Rules::new(Instant::now());
        let many = |rules: &mut Rules, token: &[u8], times: u32| {
            let datagram = initial(token);
            (0..times).filter(|_| rules.lets(&datagram, Instant::now())).count()
        };
        let burst = limits::INITIALS as usize;
        assert_eq!(many(&mut rules, b"", 10 * limits::INITIALS), burst);
        assert_eq!(many(&mut rules, b"t", 10 * limits::INITIALS), burst, "a token that may be none is no key");
        assert!(!rules.lets(&initial(b"")[..1199], Instant::now()), "too short to be one");
        assert!(rules.lets(&[0x43; 60], Instant::now()), "links that are open notice nothing");
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(many(&mut rules, b"", 10 * limits::INITIALS), limits::INITIALS_PER_SECOND as usize);
    }

    #[test]
    fn only_initials_are_removed_from_a_batch_of_datagrams() {
        let (filter, now) = (InitialFilter::new(), Instant::now());
        filter.rules().unproven.spend(f64::from(limits::INITIALS), now);
        let data = |byte: u8| vec![0x40 | byte; 1200];
        let mut buffer: Vec<u8> = [data(1), initial(b""), data(2), initial(b""), data(3)[..70].to_vec()].concat();
        let mut meta =
            RecvMeta { addr: ([192, 0, 2, 7], 7).into(), len: buffer.len(), stride: 1200, ecn: None, dst_ip: None };
        filter.inspect(&mut buffer, &mut meta);
        assert_eq!(buffer[..meta.len], [data(1), data(2), data(3)[..70].to_vec()].concat());
        assert_eq!(filter.dropped(), 2);
    }
}
