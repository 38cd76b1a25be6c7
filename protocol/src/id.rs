//! Ids as newtypes: 128-bit names and SHA-256 digests.
//!
//! They print and parse as lower-case hex, travel as raw bytes in frames and as hex strings in
//! documents. The caller makes the bytes, at random or as a hash.

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::str::FromStr;

/// A text was not the hex form of an id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected {expected} hex digits")]
pub struct BadId {
    /// How many digits the id has.
    pub expected: usize,
}

fn nibble(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        b'A'..=b'F' => Some(digit - b'A' + 10),
        _ => None,
    }
}

const fn digit(nibble: u8) -> u8 {
    if nibble < 10 { b'0' + nibble } else { b'a' - 10 + nibble }
}

fn parse_hex<const N: usize>(text: &str) -> Result<[u8; N], BadId> {
    let bad = BadId { expected: N * 2 };
    let digits = text.as_bytes();
    if digits.len() != N * 2 {
        return Err(bad);
    }
    let mut out = [0u8; N];
    for (byte, pair) in out.iter_mut().zip(digits.chunks_exact(2)) {
        let [high, low] = pair else { return Err(bad) };
        *byte = nibble(*high).ok_or(bad)? << 4 | nibble(*low).ok_or(bad)?;
    }
    Ok(out)
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $bytes:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name([u8; $bytes]);

        impl $name {
            /// Takes the raw bytes.
            pub const fn from_bytes(bytes: [u8; $bytes]) -> Self {
                Self(bytes)
            }
            /// The raw bytes.
            pub const fn as_bytes(&self) -> &[u8; $bytes] {
                &self.0
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                let digits = self.0.map(|byte| [byte >> 4, byte & 15].map(digit));
                f.write_str(std::str::from_utf8(digits.as_flattened()).unwrap_or_default())
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self)
            }
        }
        impl FromStr for $name {
            type Err = BadId;
            fn from_str(text: &str) -> Result<Self, BadId> {
                parse_hex(text).map(Self)
            }
        }
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
                if to.is_human_readable() { to.collect_str(self) } else { SerdeBytes(self.0).serialize(to) }
            }
        }
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                if from.is_human_readable() {
                    let text = std::borrow::Cow::<'de, str>::deserialize(from)?;
                    text.parse().map_err(serde::de::Error::custom)
                } else {
                    SerdeBytes::<$bytes>::deserialize(from).map(|bytes| Self(bytes.0))
                }
            }
        }
    };
}

/// Fixed bytes as a tuple: serde supports arrays only up to 32 elements.
struct SerdeBytes<const N: usize>([u8; N]);

impl<const N: usize> Serialize for SerdeBytes<N> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        use serde::ser::SerializeTuple;
        let mut tuple = to.serialize_tuple(N)?;
        for byte in &self.0 {
            tuple.serialize_element(byte)?;
        }
        tuple.end()
    }
}

impl<'de, const N: usize> Deserialize<'de> for SerdeBytes<N> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Fixed<const N: usize>;
        impl<'de, const N: usize> serde::de::Visitor<'de> for Fixed<N> {
            type Value = [u8; N];
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{N} bytes")
            }
            fn visit_seq<A: serde::de::SeqAccess<'de>>(self, mut seq: A) -> Result<[u8; N], A::Error> {
                let mut out = [0u8; N];
                for (at, byte) in out.iter_mut().enumerate() {
                    *byte = seq.next_element()?.ok_or_else(|| serde::de::Error::invalid_length(at, &self))?;
                }
                Ok(out)
            }
        }
        from.deserialize_tuple(N, Fixed::<N>).map(SerdeBytes)
    }
}

id!(
    /// A machine: the first 128 bits of SHA-256 over its evidence public key.
    MachineId, 16);
id!(
    /// A customer: random, given when the customer is entered.
    CustomerId, 16);
id!(
    /// One order's execution on one machine: random, takes effect at most once.
    RunId, 16);
id!(
    /// A signing key of a staff member, approver, machine or hub.
    KeyId, 16);
id!(
    /// An invitation's token: names it without revealing its secret.
    TokenId, 16);
id!(
    /// One boot of a machine, as its kernel names it.
    BootId, 16);
id!(
    /// A SHA-256 digest.
    Digest, 32);
id!(
    /// An Ed25519 public key.
    PublicKey, 32);
id!(
    /// An Ed25519 signature.
    Signature, 64);

impl MachineId {
    /// The id of the machine's evidence key: the same 128 bits.
    pub const fn key_id(self) -> KeyId {
        KeyId(self.0)
    }
}

/// A job's number at its hub, counted from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct JobId(pub u64);

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_prints_and_parses_as_hex() {
        let id = MachineId::from_bytes([0xab; 16]);
        assert_eq!(id.to_string(), "ab".repeat(16));
        assert_eq!(id.to_string().parse(), Ok(id));
        assert_eq!("ABAB".parse::<MachineId>(), Err(BadId { expected: 32 }));
        assert_eq!("é".repeat(16).parse::<MachineId>(), Err(BadId { expected: 32 }));
    }

    #[test]
    fn an_id_is_hex_in_json_and_bare_in_frames() {
        let id = KeyId::from_bytes([7; 16]);
        assert_eq!(serde_json::to_string(&id).ok(), Some(format!("\"{}\"", "07".repeat(16))));
        assert_eq!(crate::codec::encode(&id).ok(), Some(vec![7; 16]));
    }
}
