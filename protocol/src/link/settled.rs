//! The version that the two ends of a link have settled on, shared by its streams.
//!
//! Streams are opened before the hello arrives, since it travels on one of them. Until then only
//! version 1 is spoken.

use crate::version::{CURRENT, Version};
use std::sync::atomic::{AtomicU32, Ordering};

/// Settled version and the peer's newest, in one word; 0 before the hello.
#[derive(Debug, Default)]
pub(super) struct Settled(AtomicU32);

impl Settled {
    /// Stores what the peer's hello has settled.
    pub(super) fn agree(&self, version: Version, theirs: u16) {
        // Each request of a technician has a hello; an honest peer always sends the same versions.
        self.0.store(u32::from(version.number()) << 16 | u32::from(theirs), Ordering::Relaxed);
    }

    /// The settled version; `None` before the hello.
    pub(super) fn agreed(&self) -> Option<Version> {
        match self.0.load(Ordering::Relaxed) >> 16 {
            0 => None,
            number => u16::try_from(number).ok().map(Version::of_peer),
        }
    }

    /// The version to encode for.
    pub(super) fn version(&self) -> Version {
        self.agreed().unwrap_or(Version::OLDEST)
    }

    /// Whether the peer may send messages that this program does not know.
    pub(super) fn is_peer_newer(&self) -> bool {
        self.0.load(Ordering::Relaxed) & 0xffff > u32::from(CURRENT)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn before_the_hello_the_oldest_version_is_spoken() {
        let settled = Settled::default();
        assert_eq!((settled.agreed(), settled.version(), settled.is_peer_newer()), (None, Version::OLDEST, false));
        settled.agree(Version::NEWEST, CURRENT + 7);
        assert_eq!(settled.agreed(), Some(Version::NEWEST));
        assert!(settled.is_peer_newer());
        settled.agree(Version::OLDEST, 1);
        assert!(!settled.is_peer_newer());
    }
}
