//! Rows that grow: what version 1 knew of a row, and tags for what came later.
//!
//! A row's own fields and the enums in them are frozen. What a later version
//! adds travels under a tag, as bytes of its own; a program passes over tags
//! that it does not know, so that no newer hub breaks an older program.

use crate::codec;
use crate::text::{Blob, List};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::ops::Deref;

/// Bytes of one tag: as long as the longest text of a row.
const TAG_BYTES: usize = 1024;

/// Tags of one row.
const TAGS: usize = 32;

/// A row with what later versions have added to it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Row<T> {
    base: T,
    more: More,
}

/// What later versions have added to a row, each under its tag.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct More(List<(u16, Blob<TAG_BYTES>), TAGS>);

/// Tags of rows. A number means one thing in every kind of row.
pub mod tag {
    /// u16: the newest protocol version of which documents may be signed for the
    /// machine.
    pub const PROTOCOL: u16 = 1;
    /// [`OtherHealth`](crate::staff::OtherHealth): what a machine's newest report says,
    /// where the row's own field cannot.
    pub const HEALTH: u16 = 2;
    /// i64: when a machine's newest whole diagnosis was taken, Unix milliseconds.
    pub const LOOKED_AT: u16 = 3;
    /// (u64, [`MachineId`](crate::id::MachineId)): the newest targets of which a machine
    /// says that it follows them, where the hub has none so new.
    pub const NEWER_CATALOGUE: u16 = 4;
    /// (u64, u64): bytes of the hub's store, and how many of them are free for what comes.
    pub const STORE: u16 = 5;
    /// (text, text): how long the hub keeps results of diagnoses and of scripts, as in `hub.toml`.
    pub const RETENTION: u16 = 6;
}

impl<T> From<T> for Row<T> {
    fn from(base: T) -> Self {
        Self { base, more: More::default() }
    }
}

impl<T> Deref for Row<T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.base
    }
}

impl<T> Row<T> {
    /// The row as version 1 knew it.
    pub fn into_base(self) -> T {
        self.base
    }

    /// The same row with one more tag; left out where it has no room.
    #[must_use]
    pub fn with<V: Serialize>(self, tag: u16, value: &V) -> Self {
        let mut tags = self.more.0.clone().into_vec();
        if let Some(bytes) = codec::encode(value).ok().and_then(|bytes| Blob::try_from(bytes).ok()) {
            tags.push((tag, bytes));
        }
        Self { more: List::try_from(tags).map_or(self.more, More), ..self }
    }

    /// Whether anything stands under a tag.
    pub fn has(&self, tag: u16) -> bool {
        self.more.0.as_slice().iter().any(|(known, _)| *known == tag)
    }

    /// What stands under a tag; nothing where it is absent or cannot be read.
    pub fn get<V: DeserializeOwned>(&self, tag: u16) -> Option<V> {
        let (_, bytes) = self.more.0.as_slice().iter().find(|(known, _)| *known == tag)?;
        codec::decode(bytes.as_bytes()).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::Text;

    #[test]
    fn what_a_newer_version_adds_is_passed_over_and_what_is_known_is_read() {
        let row = Row::from(Text::<8>::clipped("kasse-1")).with(900, &"new").with(tag::PROTOCOL, &3u16);
        let read: Row<Text<8>> = codec::decode(&codec::encode(&row).expect("written")).expect("read");
        assert_eq!((read.as_raw(), read.get(tag::PROTOCOL)), ("kasse-1", Some(3u16)));
        assert_eq!((read.get::<u8>(tag::HEALTH), read.has(tag::HEALTH)), (None, false));
        assert_eq!((read.get::<Text<8>>(tag::PROTOCOL), read.has(tag::PROTOCOL)), (None, true), "not of this shape");
        let full = (0..99).fold(Row::from(0u8), |row, tag| row.with(tag, &0u8));
        assert_eq!(full.get(0), Some(0u8));
        assert_eq!(full.get::<u8>(98), None, "a row has so many tags and no more");
    }
}
