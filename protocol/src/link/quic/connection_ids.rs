//! Connection ids that the hub knows for its own after a restart.
//!
//! A link of a former life is told so, by QUIC's stateless reset, only where its
//! id belongs to no link of the present one: otherwise its datagrams are taken for
//! that link's, cannot be opened, and nobody says a word. An id must therefore
//! never come twice in the life of a hub's keys. quinn's own generator that can
//! recognise its ids has 24 random bits, so of ten thousand machines that come back
//! one in a few storms met another's new id and noticed only by its idle time-out.

use aws_lc_rs::hmac;
use quinn::{ConnectionId, ConnectionIdGenerator};
use quinn_proto::{InvalidCid, RandomConnectionIdGenerator};
use std::time::Duration;

/// Random bytes: among 2⁶⁴ even the ids of a million links meet in one of a million lives.
const RANDOM: usize = 8;

/// Bytes that mark it: what is not ours is not worth a reset, and of what is made
/// up one in four thousand millions passes.
const MARK: usize = 4;

/// Makes ids and recognises them.
#[derive(Debug)]
pub(super) struct ConnectionIds {
    random: RandomConnectionIdGenerator,
    key: hmac::Key,
}

impl ConnectionIds {
    /// The ids of this key, in each life of a hub the same.
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
    fn no_id_comes_twice_and_a_hub_that_was_restarted_knows_them_all() {
        let (mut before, mut after) = (ConnectionIds::of(7), ConnectionIds::of(7));
        // With 24 random bits, about a hundred pairs would be the same.
        let links = 30_000;
        let former: HashSet<ConnectionId> = (0..links).map(|_| before.generate_cid()).collect();
        let present: HashSet<ConnectionId> = (0..links).map(|_| after.generate_cid()).collect();
        assert_eq!(former.union(&present).count(), 2 * links);
        assert!(former.iter().all(|id| id.len() == after.cid_len() && after.validate(id).is_ok()));
    }

    #[test]
    fn ids_that_are_not_of_this_hub_are_not_known() {
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
