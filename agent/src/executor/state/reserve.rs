//! A storage backend for redb that allocates disk blocks in advance.
//!
//! A machine with a full disk needs diagnosing, so its journal must still be writable. Blocks are
//! allocated beyond the file's end, so that growing works on a full file system.

use fernwart_certs::keyfile::{self, FileError, KeyFileError, Others};
use fernwart_protocol::limits::RESERVE_BYTES;
use redb::StorageBackend;
use rustix::fs::{FallocateFlags, FlockOperation, OFlags, fallocate, flock};
use rustix::io::Errno;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

/// How long a locked file is waited for: a child that was just started when the agent was killed
/// holds the lock for a moment.
const HELD: Duration = Duration::from_secs(2);

fn take(file: &File) -> io::Result<()> {
    let begun = Instant::now();
    loop {
        match flock(file, FlockOperation::NonBlockingLockExclusive) {
            Err(Errno::WOULDBLOCK) if begun.elapsed() < HELD => std::thread::sleep(Duration::from_millis(20)),
            taken => return taken.map_err(io::Error::from),
        }
    }
}

/// Opens a file that no other account can have accessed.
pub(super) fn checked(path: &Path, how: OFlags) -> Result<File, KeyFileError> {
    keyfile::open(path, Others::Nothing, how)
}

/// A file with more blocks allocated than its length shows.
#[derive(Debug)]
pub(super) struct ReservedFile(File);

impl ReservedFile {
    /// Opens the file for this process alone. An empty file is an error.
    pub(super) fn open(path: &Path) -> Result<Self, KeyFileError> {
        let failed = |error| KeyFileError::Io(FileError::at("opening", path)(error));
        let file = checked(path, OFlags::RDWR)?;
        take(&file).map_err(failed)?;
        match file.metadata().map_err(failed)?.len() {
            0 => Err(failed(io::Error::new(io::ErrorKind::UnexpectedEof, "the file is empty"))),
            length => Ok(Self::reserved(file, length)),
        }
    }

    /// The same, but creates the file with mode 0600 if it does not exist.
    pub(super) fn open_or_make(path: &Path) -> Result<Self, KeyFileError> {
        let failed = |error| KeyFileError::Io(FileError::at("opening", path)(error));
        let file = checked(path, OFlags::RDWR | OFlags::CREATE)?;
        take(&file).map_err(failed)?;
        let length = file.metadata().map_err(failed)?.len();
        Ok(Self::reserved(file, length))
    }

    fn reserved(file: File, length: u64) -> Self {
        let reserved = Self(file);
        reserved.reserve(length);
        reserved
    }

    /// Allocates blocks beyond `length`. If that fails or is unsupported, later writes may fail
    /// instead.
    fn reserve(&self, length: u64) {
        let _ = fallocate(&self.0, FallocateFlags::KEEP_SIZE, 0, length + RESERVE_BYTES);
    }
}

impl StorageBackend for ReservedFile {
    fn len(&self) -> Result<u64, io::Error> {
        Ok(self.0.metadata()?.len())
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), io::Error> {
        self.0.read_exact_at(out, offset)
    }

    fn set_len(&self, length: u64) -> Result<(), io::Error> {
        // Shortening frees blocks, so they are reserved again.
        if length > self.0.metadata()?.len() {
            fallocate(&self.0, FallocateFlags::empty(), 0, length).or_else(|error| match error {
                rustix::io::Errno::OPNOTSUPP => self.0.set_len(length),
                other => Err(other.into()),
            })?;
            self.reserve(length);
        } else {
            self.0.set_len(length)?;
            self.reserve(length);
        }
        Ok(())
    }

    fn sync_data(&self) -> Result<(), io::Error> {
        self.0.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<(), io::Error> {
        self.0.write_all_at(data, offset)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_briefly_locked_file_is_waited_for() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("books");
        let held = ReservedFile::open_or_make(&path).expect("opened");
        let other = std::thread::spawn(move || ReservedFile::open_or_make(&path).map(drop));
        std::thread::sleep(Duration::from_millis(200));
        assert!(!other.is_finished(), "it waits");
        drop(held);
        other.join().expect("joined").expect("opened");
    }
}
