//! The executor's files, in the agent's folder.

use crate::executor::Files;
use crate::home::Home;
use fernwart_certs::keyfile::{self, KeyFileError, Others};
use fernwart_protocol::id::Digest;
use fernwart_protocol::limits::BLOB_BYTES;
use std::collections::HashSet;
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};

/// Those below this folder.
#[derive(Debug, Clone)]
pub struct HomeFiles(pub Home);

impl Files for HomeFiles {
    fn policy(&self) -> Result<String, KeyFileError> {
        self.0.read_policy()
    }

    fn consent(&self) -> Result<Option<Vec<u8>>, KeyFileError> {
        match keyfile::read_checked(&self.0.consent(), Others::Read, keyfile::SETTINGS) {
            Ok(text) => Ok(Some(text)),
            Err(error) if error.is_missing() => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn keep_consent(&self, text: &[u8]) -> Result<(), KeyFileError> {
        keyfile::replace(&self.0.consent(), text)
    }

    fn blob(&self, hash: &Digest) -> Option<Vec<u8>> {
        let file = std::fs::File::open(self.0.blobs().join(hash.to_string())).ok()?;
        let mut bytes = Vec::new();
        file.take(BLOB_BYTES as u64 + 1).read_to_end(&mut bytes).ok()?;
        Some(bytes)
    }

    fn keep_blob(&self, hash: &Digest, bytes: &[u8]) -> io::Result<()> {
        let folder = self.0.blobs();
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&folder)?;
        // A unique temporary name: concurrent writers of the same file do not remove each
        // other's.
        let beside = folder.join(format!("{hash}.{:08x}", u32::from_ne_bytes(fernwart_certs::random())));
        let mut options = std::fs::OpenOptions::new();
        let mut file = options.write(true).create_new(true).mode(0o600).open(&beside)?;
        let kept = file.write_all(bytes).and_then(|()| std::fs::rename(&beside, folder.join(hash.to_string())));
        if kept.is_err() {
            // Do not fill a full disk with partial files.
            let _ = std::fs::remove_file(&beside);
        }
        kept
    }

    fn keep_only_blobs(&self, needed: &HashSet<Digest>) {
        let Ok(entries) = std::fs::read_dir(self.0.blobs()) else { return };
        for entry in entries.flatten() {
            let name = entry.file_name().to_str().and_then(|name| name.parse::<Digest>().ok());
            if !name.is_some_and(|name| needed.contains(&name)) {
                // A file that cannot be removed now is removed next time.
                let _ = std::fs::remove_file(entry.path());
            }
        }
    }
}
