//! Rows that later versions can extend: the fields of version 1, and tags for later additions.
//!
//! A row's own fields and the enums in them are frozen. What a later version adds travels under a
//! tag, encoded separately. A program ignores tags that it does not know, so a newer hub never
//! breaks an older program.

use crate::codec;
use crate::text::{Blob, List};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::ops::Deref;

/// Maximum bytes of one tag: as long as the longest text of a row.
const TAG_BYTES: usize = 1024;

/// Maximum number of tags of one row.
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

/// Tags of rows. A number has the same meaning in every kind of row.
pub mod tag {
    /// u16: the newest protocol version in which documents for the machine may be signed.
    pub const PROTOCOL: u16 = 1;
    /// [`OtherHealth`](crate::staff::OtherHealth): the health from a machine's newest report, if
    /// the row's own field cannot express it.
    pub const HEALTH: u16 = 2;
    /// i64: when a machine's newest complete diagnosis was taken, Unix milliseconds.
    pub const LOOKED_AT: u16 = 3;
    /// (u64, [`MachineId`](crate::id::MachineId)): the newest targets version that a machine
    /// reports to follow, and that machine, if it is newer than the hub's own.
    pub const NEWER_CATALOGUE: u16 = 4;
    /// (u64, u64): size of the hub's store in bytes, and how many of them are free for new data.
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

    /// The same row with one more tag; unchanged if the tag does not fit.
    #[must_use]
    pub fn with<V: Serialize>(self, tag: u16, value: &V) -> Self {
        let mut tags = self.more.0.clone().into_vec();
        if let Some(bytes) = codec::encode(value).ok().and_then(|bytes| Blob::try_from(bytes).ok()) {
            tags.push((tag, bytes));
        }
        Self { more: List::try_from(tags).map_or(self.more, More), ..self }
    }

    /// Whether the row has this tag.
    pub fn has(&self, tag: u16) -> bool {
        self.more.0.as_slice().iter().any(|(known, _)| *known == tag)
    }

    /// The value of a tag; `None` if it is absent or cannot be decoded.
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
    fn unknown_tags_of_a_row_are_ignored_and_known_ones_are_read() {
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
