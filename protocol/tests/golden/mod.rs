//! Golden bytes of messages that one version added, so that no older peer may receive them.

use fernwart_protocol::codec::{CodecError, decode, encode_for};
use fernwart_protocol::version::Version;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Bytes in hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Asserts that a message has exactly these bytes, and that it is not encoded for a peer of the
/// version before.
///
/// # Panics
/// When that does not hold.
#[track_caller]
pub(crate) fn golden<T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug>(
    number: u16,
    message: &T,
    literal: &str,
) {
    let bytes = encode_for(message, Version::of_peer(number)).expect("encoded");
    assert_eq!(hex(&bytes), literal.replace(char::is_whitespace, ""));
    assert_eq!(&decode::<T>(&bytes).expect("decoded"), message);
    let older = encode_for(message, Version::of_peer(number - 1));
    assert!(matches!(older, Err(CodecError::Newer { .. })), "{older:?}");
}
