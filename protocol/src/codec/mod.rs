//! Encodes and decodes messages; the only place that uses bincode.
//!
//! Integers have a fixed width, no message is longer than a frame, and trailing bytes are an error.
//! The link adds the frame's length prefix.

mod older;

use crate::limits::FRAME_BYTES;
use crate::version::{Version, variants};
use bincode::Options;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// A message could not be turned into bytes or back.
#[derive(Debug, thiserror::Error)]
pub enum CodecError {
    /// The value is larger than a frame.
    #[error("encoding a message of more than {FRAME_BYTES} bytes")]
    Encode(#[source] bincode::Error),
    /// The value needs a newer version than the peer speaks.
    #[error("{what} is not known to a peer of version {peer}")]
    Newer {
        /// The enum, and the variant's name.
        what: String,
        /// What the peer speaks.
        peer: Version,
    },
    /// The bytes are no value of this type.
    #[error("decoding a message of {bytes} bytes")]
    Decode {
        /// The length of the body.
        bytes: usize,
        /// The first four bytes: the variant number, if the type is an enum.
        variant: Option<u32>,
        /// What bincode reports.
        #[source]
        source: bincode::Error,
    },
}

impl CodecError {
    /// Whether the bytes are probably a variant of this enum that was added after this program was
    /// built.
    pub fn is_later_variant_of(&self, name: &str) -> bool {
        match self {
            Self::Decode { variant: Some(variant), .. } => {
                variants::known(name, Version::NEWEST).is_some_and(|count| *variant >= count && *variant < LATER)
            }
            Self::Decode { variant: None, .. } | Self::Encode(_) | Self::Newer { .. } => false,
        }
    }
}

/// No wire enum ever has this many variants: a higher number is garbage.
const LATER: u32 = 1024;

fn options() -> impl Options {
    bincode::DefaultOptions::new().with_fixint_encoding().with_limit(FRAME_BYTES as u64).reject_trailing_bytes()
}

/// Turns a message into the body of one frame.
///
/// # Errors
/// When the body would be longer than [`FRAME_BYTES`].
pub fn encode<T: Serialize>(message: &T) -> Result<Vec<u8>, CodecError> {
    options().serialize(message).map_err(CodecError::Encode)
}

/// Encodes a message for a peer of this version: writes nothing that the peer does not know. A code
/// (refusal, denial) that it does not know is replaced by an older, less exact one.
///
/// # Errors
/// When the body would be too long, or needs a newer version.
pub fn encode_for<T: Serialize>(message: &T, peer: Version) -> Result<Vec<u8>, CodecError> {
    // A peer at least as new as this program knows everything that this program can send.
    if peer >= Version::NEWEST {
        return encode(message);
    }
    let size = options().serialized_size(message).map_err(CodecError::Encode)?;
    let mut body = Vec::with_capacity(usize::try_from(size).unwrap_or_default());
    let mut serializer = bincode::Serializer::new(&mut body, options());
    older::write(message, &mut serializer, peer)?;
    Ok(body)
}

/// Turns the body of one frame into a message.
///
/// # Errors
/// When the bytes are not exactly one value of the type.
pub fn decode<T: DeserializeOwned>(body: &[u8]) -> Result<T, CodecError> {
    options().deserialize(body).map_err(|source| {
        let variant = body.first_chunk().copied().map(u32::from_le_bytes);
        CodecError::Decode { bytes: body.len(), variant, source }
    })
}
