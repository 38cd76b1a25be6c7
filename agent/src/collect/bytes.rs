//! What the kernel and other programs say is bytes. Nobody promises that they are
//! UTF-8: what is not is shown escaped, and nothing else is lost.

use fernwart_protocol::text::Text;
use std::fs::File;
use std::io::Read;
use std::path::Path;

/// Bytes read of one file at most: system files are small, and none may fill memory.
const FILE: u64 = 8 * 1024 * 1024;

/// Bytes as text; those that are no UTF-8 as `\xfc`.
pub(crate) fn shown(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        out.push_str(chunk.valid());
        for byte in chunk.invalid() {
            out.push_str(&format!("\\x{byte:02x}"));
        }
    }
    out
}

/// A file's bytes.
///
/// # Errors
/// The system's own; [`std::io::ErrorKind::FileTooLarge`] beyond [`FILE`].
pub(crate) fn read_bytes(path: impl AsRef<Path>) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(FILE + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > FILE { Err(std::io::ErrorKind::FileTooLarge.into()) } else { Ok(bytes) }
}

/// A file as text, for whoever does not care why it is not there.
pub(crate) fn read(path: impl AsRef<Path>) -> Option<String> {
    read_bytes(path).ok().map(|bytes| shown(&bytes))
}

/// At most 200 bytes of a text, without blanks around it.
pub(super) fn clipped(text: &str) -> String {
    Text::<200>::clipped(text.trim()).as_raw().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_byte_of_another_encoding_costs_only_itself() {
        assert_eq!(shown("Bäckerei".as_bytes()), "Bäckerei");
        assert_eq!(shown(b"M\xfcller:x:1000"), "M\\xfcller:x:1000");
        assert_eq!(shown(b"\xff\xfe"), "\\xff\\xfe");
        assert_eq!(shown(b"cut \xc3"), "cut \\xc3");
    }

    #[test]
    fn a_file_that_never_ends_does_not_fill_memory() {
        let error = read_bytes("/dev/zero").expect_err("it never ends");
        assert_eq!(error.kind(), std::io::ErrorKind::FileTooLarge);
    }
}
