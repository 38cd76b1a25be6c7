//! Messages to bytes and back: bincode, and the only place that names it.
//!
//! Fixed-width integers, nothing longer than a frame, no trailing bytes. The
//! frame's length prefix is the link's business.

use crate::limits::FRAME_BYTES;
use bincode::Options;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// A message could not be turned into bytes or back.
#[derive(Debug, thiserror::Error)]
pub enum CodecError {
    /// The value is larger than a frame.
    #[error("encoding a message of more than {FRAME_BYTES} bytes")]
    Encode(#[source] bincode::Error),
    /// The bytes are no value of this type.
    #[error("decoding a message of {bytes} bytes")]
    Decode {
        /// How many bytes came.
        bytes: usize,
        /// What was wrong with them.
        #[source]
        source: bincode::Error,
    },
}

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

/// Turns the body of one frame into a message.
///
/// # Errors
/// When the bytes are not exactly one value of the type.
pub fn decode<T: DeserializeOwned>(body: &[u8]) -> Result<T, CodecError> {
    options().deserialize(body).map_err(|source| CodecError::Decode { bytes: body.len(), source })
}
