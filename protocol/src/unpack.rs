//! Unpacking what came zstd'd, never more of it than allowed.

use crate::limits::REPORT_PLAIN_BYTES;
use std::cell::RefCell;
use std::io::{self, Read};
use zstd::bulk::Decompressor;

thread_local! {
    /// Making one costs more than using it.
    static UNPACKER: RefCell<Option<Decompressor<'static>>> = const { RefCell::new(None) };
}

/// The plain bytes, at most [`REPORT_PLAIN_BYTES`].
///
/// # Errors
/// `InvalidData` when it is not zstd, `FileTooLarge` when it would be more.
pub(crate) fn unpack(packed: &[u8]) -> io::Result<Vec<u8>> {
    let too_large = || io::Error::from(io::ErrorKind::FileTooLarge);
    match Decompressor::upper_bound(packed) {
        // What it says of itself is no promise, but a bound for this way of reading.
        Some(bytes) if bytes <= REPORT_PLAIN_BYTES => UNPACKER.with_borrow_mut(|kept| {
            let unpacker = match kept {
                Some(unpacker) => unpacker,
                None => kept.insert(Decompressor::new()?),
            };
            unpacker.decompress(packed, bytes)
        }),
        Some(_) => Err(too_large()),
        None => {
            let decoder = zstd::stream::read::Decoder::with_buffer(packed)?;
            let mut plain = Vec::new();
            decoder.take(REPORT_PLAIN_BYTES as u64 + 1).read_to_end(&mut plain)?;
            if plain.len() > REPORT_PLAIN_BYTES { Err(too_large()) } else { Ok(plain) }
        }
    }
}
