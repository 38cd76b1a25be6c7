//! Protocol versions.
//!
//! One number covers messages, codes and signed documents. Variants and tags
//! are appended, never changed, never removed; each is listed beside the
//! version that brought it ([`variants`], and the table in this crate's
//! README). [`Hello`] is frozen. Two peers settle on the lower `current` of
//! both and refuse when that lies below either's `min`.
//!
//! How this is enforced: a link carries the settled [`Version`], and its sender writes nothing that
//! the version does not know ([`crate::codec::encode_for`]). A document is signed at the lowest
//! version that can express it, and only for readers of that version
//! ([`crate::document::Document::needs`]).
//!
//! A frame that cannot be decoded is *incompatible* if the peer's `current` is newer than ours: the
//! peer receives a typed answer, and the link stays. From any other peer it is *misbehaviour*: the
//! link is closed and the peer is counted.

pub mod variants;

use crate::id::Digest;
use crate::text::{Blob, List};
use serde::{Deserialize, Serialize};

/// The oldest version that this build speaks.
pub const MIN: u16 = 1;

/// The newest version that this build speaks. 1 is the version of the programs 0.2.0.
pub const CURRENT: u16 = 3;

/// A version that both ends of a link speak, or that the readers of a document
/// know. Never above [`CURRENT`]: this program cannot write what it does not
/// know itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version(u16);

impl Version {
    /// The version that every program reads, and the only one that may be sent before a hello.
    pub const OLDEST: Self = Self(MIN);

    /// The newest version that this build speaks.
    pub const NEWEST: Self = Self(CURRENT);

    /// The newest version known to both this build and a peer whose newest version is `current`.
    pub const fn of_peer(current: u16) -> Self {
        Self(if current < CURRENT { current } else { CURRENT })
    }

    /// The number on the wire.
    pub const fn number(self) -> u16 {
        self.0
    }
}

impl std::fmt::Display for Version {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// The first frame of every control and request stream, in both directions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// The oldest version the sender speaks.
    pub min: u16,
    /// The newest version the sender speaks.
    pub current: u16,
    /// Further information by tag; unknown tags are ignored.
    pub tags: List<(u16, Blob<256>), 16>,
}

/// Tags of a hello.
pub mod tag {
    /// Text: the sender's program version.
    pub const PROGRAM: u16 = 1;
    /// u64, little endian: the version of the newest targets the sender knows.
    pub const TARGETS: u16 = 2;
    /// u64, little endian: the sender's clock, Unix milliseconds.
    pub const CLOCK: u16 = 3;
    /// u64, little endian: the version of the newest timestamp the sender knows.
    pub const TIMESTAMP: u16 = 4;
    /// u64, little endian: how many receipts of this machine the hub has.
    pub const CHAIN_SEQ: u16 = 5;
    /// 32 bytes: the head of that chain.
    pub const CHAIN_HEAD: u16 = 6;
    /// u64, little endian: the newest entry of this machine's journal that the
    /// hub knows of.
    pub const JOURNAL_SEQ: u16 = 7;
    /// u64, little endian: milliseconds over which machines should spread their reconnects after
    /// losing the hub.
    pub const RETURN_SPREAD: u16 = 8;
    /// u64, little endian: the newest version in which documents for the sender may be signed. Sent
    /// only if it is older than the version the sender speaks: by an agent whose update may still
    /// be rolled back.
    pub const READS: u16 = 9;
}

/// Two peers have no version in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the peer speaks protocol {their_min} to {their_current}, this program {MIN} to {CURRENT}")]
pub struct NoCommonVersion {
    /// The peer's oldest.
    pub their_min: u16,
    /// The peer's newest.
    pub their_current: u16,
}

impl Hello {
    /// A hello of this build with numeric tags.
    pub fn new(numbers: &[(u16, u64)]) -> Self {
        let program = (tag::PROGRAM, env!("CARGO_PKG_VERSION").as_bytes().to_vec());
        let numbers = numbers.iter().map(|(tag, number)| (*tag, number.to_le_bytes().to_vec()));
        let tags: Vec<_> = std::iter::once(program)
            .chain(numbers)
            .take(16)
            .filter_map(|(tag, bytes)| Some((tag, Blob::try_from(bytes).ok()?)))
            .collect();
        Self { min: MIN, current: CURRENT, tags: List::try_from(tags).unwrap_or_default() }
    }

    /// The newest version that both speak.
    ///
    /// # Errors
    /// When there is none.
    pub fn settle(&self) -> Result<Version, NoCommonVersion> {
        let settled = Version::of_peer(self.current);
        if settled >= Version::OLDEST && settled.number() >= self.min {
            Ok(settled)
        } else {
            Err(NoCommonVersion { their_min: self.min, their_current: self.current })
        }
    }

    /// The number under a tag.
    pub fn number(&self, tag: u16) -> Option<u64> {
        let (_, bytes) = self.tags.as_slice().iter().find(|(t, _)| *t == tag)?;
        Some(u64::from_le_bytes(bytes.as_bytes().try_into().ok()?))
    }

    /// The newest version in which documents for the sender may be signed.
    pub fn reads(&self) -> u16 {
        let stated = self.number(tag::READS).and_then(|version| u16::try_from(version).ok());
        stated.unwrap_or(self.current).min(self.current)
    }

    /// The same hello with one more tag; unchanged if there is no room.
    #[must_use]
    pub fn with(self, tag: u16, bytes: &[u8]) -> Self {
        let mut tags = self.tags.clone().into_vec();
        if let Ok(bytes) = Blob::try_from(bytes.to_vec()) {
            tags.push((tag, bytes));
        }
        Self { tags: List::try_from(tags).unwrap_or(self.tags), ..self }
    }

    /// The digest under a tag.
    pub fn digest(&self, tag: u16) -> Option<Digest> {
        let (_, bytes) = self.tags.as_slice().iter().find(|(t, _)| *t == tag)?;
        Some(Digest::from_bytes(bytes.as_bytes().try_into().ok()?))
    }

    /// The sender's program version, if it was sent.
    pub fn program(&self) -> Option<String> {
        let (_, bytes) = self.tags.as_slice().iter().find(|(t, _)| *t == tag::PROGRAM)?;
        Some(crate::text::escaped(&String::from_utf8_lossy(bytes.as_bytes())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_peers_settle_on_the_lower_version_or_not_at_all() {
        let peer = |min, current| Hello { min, current, tags: List::default() };
        assert_eq!(peer(1, 1).settle(), Ok(Version::OLDEST));
        assert_eq!(peer(1, 9).settle(), Ok(Version::NEWEST));
        assert!(peer(CURRENT + 1, 9).settle().is_err());
        assert!(peer(0, 0).settle().is_err());
    }

    #[test]
    fn a_hello_carries_numbers() {
        let hello = Hello::new(&[(tag::CLOCK, 77)]);
        assert_eq!(hello.number(tag::CLOCK), Some(77));
        assert_eq!(hello.number(tag::TARGETS), None);
        assert_eq!(hello.reads(), CURRENT, "what it speaks");
        assert_eq!(Hello::new(&[(tag::READS, 1)]).reads(), 1);
        assert_eq!(Hello::new(&[(tag::READS, 99)]).reads(), CURRENT, "never more than it speaks");
        assert_eq!(hello.program().as_deref(), Some(env!("CARGO_PKG_VERSION")));
    }
}
