//! The format in which the store's records are written.
//!
//! | format | brought by | values of runs and marks |
//! |---|---|---|
//! | 1 | 0.2.0 | the record |
//! | 2 | 0.3.0 | two bytes: the record's own format; then the record |
//!
//! The store names its format under the mark [`FORMAT`]; where nothing stands
//! there it is 1. A program reads every older format, and refuses a newer one
//! with words, before any record is changed. It goes on writing the format it
//! found until its own version is confirmed ([`StateStore::confirm`]
//! (super::StateStore::confirm)): until then the program before it can be put back and
//! reads all that was written meanwhile; until then the hub is told, too, that
//! nothing of a newer version may be signed for this machine. A program of format 1 knows no such mark;
//! it refuses a store of format 2 because it cannot read the floors in it.
//!
//! From format 2 on each record carries its own number, so that the next format
//! need not write all of them anew. Files of the catalogue, locks, reports and the
//! journal are signed or hashed bytes of others, and are kept as they came.

use super::StateError;
use fernwart_protocol::codec;
use fernwart_protocol::version::Version;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// The mark under which the store names its format.
pub(super) const FORMAT: &str = "format";

/// A format that this program reads and writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Format(u16);

impl Format {
    /// What every program reads.
    pub const OLDEST: Self = Self(1);

    /// The best that this program writes.
    pub const NEWEST: Self = Self(2);

    /// The newest protocol version of which documents may be signed for a machine
    /// whose store is of this format: the program of an older format, which may be put
    /// back, must be able to read all that was begun.
    pub const fn reads(self) -> Version {
        match self.0 {
            ..=1 => Version::OLDEST,
            // What version 3 brought is signed by machines alone.
            _ => Version::of_peer(2),
        }
    }

    /// The number.
    pub const fn number(self) -> u16 {
        self.0
    }

    /// What stands under [`FORMAT`], if anything.
    pub(super) fn read(mark: Option<&[u8]>) -> Result<Self, StateError> {
        let Some(bytes) = mark else { return Ok(Self::OLDEST) };
        let number: u16 = codec::decode(bytes).map_err(|_| StateError::Damaged(FORMAT))?;
        match Self(number) {
            format if format > Self::NEWEST => Err(StateError::Newer { format: number }),
            // The oldest has no such mark.
            format if format <= Self::OLDEST => Err(StateError::Damaged(FORMAT)),
            format => Ok(format),
        }
    }

    /// A record as it stands in a store of this format.
    pub(super) fn encode<T: Serialize>(self, value: &T, what: &'static str) -> Result<Vec<u8>, StateError> {
        let record = codec::encode(value).map_err(|_| StateError::Damaged(what))?;
        if self == Self::OLDEST {
            return Ok(record);
        }
        let mut bytes = self.0.to_le_bytes().to_vec();
        bytes.extend(record);
        Ok(bytes)
    }

    /// A record out of a store of this format.
    pub(super) fn decode<T: DeserializeOwned>(self, bytes: &[u8], what: &'static str) -> Result<T, StateError> {
        codec::decode(self.record(bytes, what)?).map_err(|_| StateError::Damaged(what))
    }

    /// The same record as it stands in a store of another format.
    pub(super) fn rewrite(self, bytes: &[u8], to: Self, what: &'static str) -> Result<Vec<u8>, StateError> {
        let record = self.record(bytes, what)?;
        let number = to.0.to_le_bytes();
        let number = if to == Self::OLDEST { &[] } else { number.as_slice() };
        Ok([number, record].concat())
    }

    /// A record without its number.
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
    fn each_format_is_read_and_a_newer_one_is_told_from_damage() {
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
