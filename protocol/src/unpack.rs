//! Decompresses zstd data, with a limit on the size of the result.

use crate::limits::REPORT_PLAIN_BYTES;
use std::cell::RefCell;
use std::io::{self, Read};
use zstd::bulk::Decompressor;

thread_local! {
    /// Reused, since creating a decompressor costs more than using it.
    static UNPACKER: RefCell<Option<Decompressor<'static>>> = const { RefCell::new(None) };
}

/// Decompresses to at most [`REPORT_PLAIN_BYTES`] bytes.
///
/// # Errors
/// `InvalidData` when it is not zstd, `FileTooLarge` when the result would be larger.
pub(crate) fn unpack(packed: &[u8]) -> io::Result<Vec<u8>> {
    let too_large = || io::Error::from(io::ErrorKind::FileTooLarge);
    match Decompressor::upper_bound(packed) {
        // The size in the header may be wrong, but `decompress` never writes more than that.
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
