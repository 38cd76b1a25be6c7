//! The format in which the store's records are written.
//!
//! | format | brought by | values of runs and marks |
//! |---|---|---|
//! | 1 | 0.2.0 | the record |
//! | 2 | 0.3.0 | two bytes: the record's own format; then the record |
//!
//! The store names its format under [`FORMAT`]; if that is absent, it is 1. A program reads every
//! older format. It refuses a newer one with an error, before it changes any record. It keeps
//! writing the format it found until its own version is confirmed
//! ([`StateStore::confirm`](super::StateStore::confirm)). Until then the previous version can be
//! put back and reads everything written since, and the hub is asked to sign nothing newer for
//! this machine. A program of format 1 does not know [`FORMAT`]; it refuses a store of format 2
//! because it cannot read the floors in it.
//!
//! From format 2 on, each record carries its own format number, so that a later format need not
//! rewrite all records. Catalogue files, locks, reports and the journal are signed or hashed by
//! others and are kept unchanged.

use super::StateError;
use fernwart_protocol::codec;
use fernwart_protocol::version::Version;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// The name under which the store keeps its format.
pub(super) const FORMAT: &str = "format";

/// A format that this program reads and writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Format(u16);

impl Format {
    /// The format that every version reads.
    pub const OLDEST: Self = Self(1);

    /// The newest format that this version writes.
    pub const NEWEST: Self = Self(2);

    /// The newest protocol version at which documents may be signed for a machine with a store of
    /// this format. The previous version of the program may be put back and must be able to read
    /// every order that was begun.
    pub const fn reads(self) -> Version {
        match self.0 {
            ..=1 => Version::OLDEST,
            // Only machines sign what version 3 added.
            _ => Version::of_peer(2),
        }
    }

    /// The number.
    pub const fn number(self) -> u16 {
        self.0
    }

    /// Reads the value under [`FORMAT`].
    pub(super) fn read(mark: Option<&[u8]>) -> Result<Self, StateError> {
        let Some(bytes) = mark else { return Ok(Self::OLDEST) };
        let number: u16 = codec::decode(bytes).map_err(|_| StateError::Damaged(FORMAT))?;
        match Self(number) {
            format if format > Self::NEWEST => Err(StateError::Newer { format: number }),
            // A store of the oldest format has no such value.
            format if format <= Self::OLDEST => Err(StateError::Damaged(FORMAT)),
            format => Ok(format),
        }
    }

    /// Encodes a record for a store of this format.
    pub(super) fn encode<T: Serialize>(self, value: &T, what: &'static str) -> Result<Vec<u8>, StateError> {
        let record = codec::encode(value).map_err(|_| StateError::Damaged(what))?;
        if self == Self::OLDEST {
            return Ok(record);
        }
        let mut bytes = self.0.to_le_bytes().to_vec();
        bytes.extend(record);
        Ok(bytes)
    }

    /// Decodes a record from a store of this format.
    pub(super) fn decode<T: DeserializeOwned>(self, bytes: &[u8], what: &'static str) -> Result<T, StateError> {
        codec::decode(self.record(bytes, what)?).map_err(|_| StateError::Damaged(what))
    }

    /// Converts an encoded record to another format.
    pub(super) fn rewrite(self, bytes: &[u8], to: Self, what: &'static str) -> Result<Vec<u8>, StateError> {
        let record = self.record(bytes, what)?;
        let number = to.0.to_le_bytes();
        let number = if to == Self::OLDEST { &[] } else { number.as_slice() };
        Ok([number, record].concat())
    }

    /// A record without its format number.
    fn record<'a>(self, bytes: &'a [u8], what: &'static str) -> Result<&'a [u8], StateError> {
        if self == Self::OLDEST {
            return Ok(bytes);
        }
        let (number, record) = bytes.split_first_chunk().ok_or(StateError::Damaged(what))?;
        match Self(u16::from_le_bytes(*number)) {
            format if format > self => Err(StateError::Newer { format: format.0 }),
            format if format <= Self::OLDEST => Err(StateError::Damaged(what)),
            _ => Ok(record),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_format_is_read_and_a_newer_one_is_distinguished_from_damage() {
        for format in [Format::OLDEST, Format::NEWEST] {
            let bytes = format.encode(&7u64, "a number").expect("written");
            assert_eq!(format.decode::<u64>(&bytes, "a number").expect("read"), 7);
        }
        let old = Format::OLDEST.encode(&7u64, "a number").expect("written");
        let new = Format::OLDEST.rewrite(&old, Format::NEWEST, "a number").expect("written");
        assert_eq!(new, Format::NEWEST.encode(&7u64, "a number").expect("written"));
        assert!(codec::decode::<u64>(&new).is_err(), "a program of format 1 does not take it for anything");
        let mut newer = new.clone();
        newer[0] = 3;
        assert!(matches!(Format::NEWEST.decode::<u64>(&newer, "a number"), Err(StateError::Newer { format: 3 })));
        for damaged in [&[][..], &[2], &[1, 0, 7, 0, 0, 0, 0, 0, 0, 0]] {
            assert!(matches!(Format::NEWEST.decode::<u64>(damaged, "a number"), Err(StateError::Damaged(_))));
        }
        let mark = |number: u16| Format::read(Some(&codec::encode(&number).expect("written")));
        assert_eq!(Format::read(None).ok(), Some(Format::OLDEST));
        assert_eq!(mark(2).ok(), Some(Format::NEWEST));
        assert!(matches!(mark(3), Err(StateError::Newer { format: 3 })));
        assert!(matches!(mark(1), Err(StateError::Damaged(_))));
        assert!(matches!(Format::read(Some(b"x")), Err(StateError::Damaged(_))));
    }
}
