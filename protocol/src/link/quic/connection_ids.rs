//! Connection ids that the hub recognises as its own after a restart.
//!
//! The hub answers datagrams of a link from before the restart with QUIC's stateless reset, but
//! only if no present link has the same id. If one has, quinn takes them for that link's, cannot
//! decrypt them and drops them silently. An id must therefore never repeat during the life of a
//! hub's keys. quinn's own generator of recognisable ids has 24 random bits: when ten thousand
//! machines reconnected, now and then an old id equalled another machine's new one, and its machine
//! noticed only by its idle time-out.

use aws_lc_rs::hmac;
use quinn::{ConnectionId, ConnectionIdGenerator};
use quinn_proto::{InvalidCid, RandomConnectionIdGenerator};
use std::time::Duration;

/// Random bytes. With 2⁶⁴ values, the ids of a million links collide in one of a million restarts.
const RANDOM: usize = 8;

/// Bytes of HMAC that mark an id as ours, since a foreign one gets no reset. A made-up id passes
/// with a probability of one in four thousand millions.
const MARK: usize = 4;

/// Generates ids and recognises them.
#[derive(Debug)]
pub(super) struct ConnectionIds {
    random: RandomConnectionIdGenerator,
    key: hmac::Key,
}

impl ConnectionIds {
    /// Generates the ids of this key, which stays the same when the hub restarts.
    pub(super) fn of(key: u64) -> Self {
        Self {
            random: RandomConnectionIdGenerator::new(RANDOM),
            key: hmac::Key::new(hmac::HMAC_SHA256, &key.to_le_bytes()),
        }
    }

    fn marked(&self, random: &[u8]) -> ConnectionId {
        let tag = hmac::sign(&self.key, random);
        let mut id = [0; RANDOM + MARK];
        for (byte, made) in id.iter_mut().zip(random.iter().take(RANDOM).chain(tag.as_ref())) {
            *byte = *made;
        }
        ConnectionId::new(&id)
    }
}

impl ConnectionIdGenerator for ConnectionIds {
    fn generate_cid(&mut self) -> ConnectionId {
        let random = self.random.generate_cid();
        self.marked(&random)
    }

    fn validate(&self, id: &ConnectionId) -> Result<(), InvalidCid> {
        match id.get(..RANDOM) {
            Some(random) if self.marked(random) == *id => Ok(()),
            _ => Err(InvalidCid),
        }
    }

    fn cid_len(&self) -> usize {
        RANDOM + MARK
    }

    fn cid_lifetime(&self) -> Option<Duration> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn connection_ids_never_repeat_and_a_restarted_hub_recognises_them() {
        let (mut before, mut after) = (ConnectionIds::of(7), ConnectionIds::of(7));
        // With 24 random bits, about a hundred pairs would be the same.
        let links = 30_000;
        let former: HashSet<ConnectionId> = (0..links).map(|_| before.generate_cid()).collect();
        let present: HashSet<ConnectionId> = (0..links).map(|_| after.generate_cid()).collect();
        assert_eq!(former.union(&present).count(), 2 * links);
        assert!(former.iter().all(|id| id.len() == after.cid_len() && after.validate(id).is_ok()));
    }

    #[test]
    fn connection_ids_of_another_hub_are_not_recognised() {
        let (mut ours, mut others) = (ConnectionIds::of(7), ConnectionIds::of(8));
        assert!(ours.validate(&others.generate_cid()).is_err());
        let id = ours.generate_cid();
        for at in 0..id.len() {
            let mut other = id.to_vec();
            other[at] ^= 1;
            assert!(ours.validate(&ConnectionId::new(&other)).is_err(), "byte {at}");
        }
        for length in 0..id.len() {
            assert!(ours.validate(&ConnectionId::new(&id[..length])).is_err(), "{length} bytes");
        }
    }
}
