//! Output of the kernel and other programs is bytes, not necessarily UTF-8. Invalid bytes are
//! shown escaped, and everything else is kept.

use fernwart_protocol::text::Text;
use rustix::fs::{CWD, Mode, OFlags};
use std::fs::File;
use std::io::Read;
use std::path::Path;

/// Maximum number of bytes read from one file: system files are small, and no file may exhaust
/// the memory.
const FILE: u64 = 8 * 1024 * 1024;

/// Bytes as text; invalid UTF-8 is shown as `\xfc`.
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
    // Opening a pipe must not block.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = File::from(rustix::fs::openat(CWD, path.as_ref(), flags, Mode::empty())?);
    file.take(FILE + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > FILE { Err(std::io::ErrorKind::FileTooLarge.into()) } else { Ok(bytes) }
}

/// Reads a file as text, ignoring the cause of errors.
pub(crate) fn read(path: impl AsRef<Path>) -> Option<String> {
    read_bytes(path).ok().map(|bytes| shown(&bytes))
}

/// The names in a folder, sorted.
pub(crate) fn names_in(folder: &Path, wanted: impl Fn(&str) -> bool) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let names = entries.flatten().map(|entry| shown(entry.file_name().as_encoded_bytes()));
    let mut names: Vec<String> = names.filter(|name| wanted(name)).collect();
    names.sort();
    names
}

/// Trims a text and cuts it to at most 200 bytes.
pub(crate) fn clipped(text: &str) -> String {
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
    fn an_endless_file_is_rejected() {
        let error = read_bytes("/dev/zero").expect_err("it never ends");
        assert_eq!(error.kind(), std::io::ErrorKind::FileTooLarge);
    }
}
