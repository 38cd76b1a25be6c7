//! Bundles and their files, stored by hash.
//!
//! A file is used only if its content has the requested hash, and that hash is in a catalogue
//! that approvers signed.

use super::gate::Script;
use super::machine::Files;
use fernwart_certs::catalogue::{Approved, Catalogue};
use fernwart_certs::sha256;
use fernwart_protocol::document::Document;
use fernwart_protocol::id::Digest;
use fernwart_protocol::script::{Bundle, BundleName, Manifest};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};

/// Why a script cannot be run: blobs are missing, or it is unreadable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Lacks {
    /// The blobs with these hashes are missing.
    Blobs(Vec<Digest>),
    /// The approved bundle is not a script that this agent can read.
    Unreadable,
}

/// Maximum size of the blobs kept in memory while the disk is full: a script that frees disk
/// space has a few kilobytes.
const IN_MEMORY: usize = 1024 * 1024;

/// The cache: on disk, and in memory what the disk did not take.
#[derive(Debug, Clone, Default)]
pub(super) struct BlobCache {
    memory: Arc<Mutex<HashMap<Digest, Vec<u8>>>>,
}

impl BlobCache {
    fn in_memory(&self) -> MutexGuard<'_, HashMap<Digest, Vec<u8>>> {
        self.memory.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn get(&self, files: &dyn Files, hash: &Digest) -> Option<Vec<u8>> {
        if let Some(bytes) = self.in_memory().get(hash) {
            return Some(bytes.clone());
        }
        files.blob(hash).filter(|bytes| sha256(bytes) == *hash)
    }

    /// Stores a file under its hash. If the disk is full, a small file is kept in memory.
    ///
    /// # Errors
    /// When it cannot be kept.
    pub(super) fn put(&self, files: &dyn Files, bytes: &[u8]) -> io::Result<()> {
        let hash = sha256(bytes);
        let is_full = |error: &io::Error| {
            matches!(
                error.kind(),
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::ReadOnlyFilesystem
            )
        };
        match files.keep_blob(&hash, bytes) {
            Err(error) if is_full(&error) => {
                let mut memory = self.in_memory();
                let used: usize = memory.values().map(Vec::len).sum();
                if used + bytes.len() > IN_MEMORY {
                    return Err(error);
                }
                memory.insert(hash, bytes.to_vec());
                Ok(())
            }
            kept => kept,
        }
    }

    /// The complete script, if all of its files are here.
    ///
    /// # Errors
    /// The missing blobs.
    pub(super) fn script(&self, on_disk: &dyn Files, name: &BundleName, approved: &Approved) -> Result<Script, Lacks> {
        let document = self.get(on_disk, &approved.sha256).ok_or(Lacks::Blobs(vec![approved.sha256]))?;
        let bundle = Bundle::from_bytes(&document).map_err(|_| Lacks::Unreadable)?;
        let manifest = Manifest::read(bundle.manifest.as_raw()).map_err(|_| Lacks::Unreadable)?;
        let itself = (&bundle.name, bundle.version) == (name, approved.version)
            && (&manifest.name, manifest.version) == (name, approved.version);
        if !itself {
            return Err(Lacks::Unreadable);
        }
        let mut files = BTreeMap::new();
        let mut missing = Vec::new();
        for file in &bundle.files {
            match self.get(on_disk, &file.sha256) {
                Some(content) => drop(files.insert(file.name.clone(), (file.sha256, content))),
                None => missing.push(file.sha256),
            }
        }
        if missing.is_empty() {
            Ok(Script { sha256: approved.sha256, manifest, files })
        } else {
            Err(Lacks::Blobs(missing))
        }
    }

    /// Removes files that no approved script needs any more.
    pub(super) fn tidy(&self, on_disk: &dyn Files, catalogue: &Catalogue) {
        let mut needed = HashSet::new();
        for (name, approved) in &catalogue.scripts {
            needed.insert(approved.sha256);
            if let Ok(script) = self.script(on_disk, name, approved) {
                needed.extend(script.files.values().map(|(hash, _)| *hash));
            }
        }
        self.in_memory().retain(|hash, _| needed.contains(hash));
        on_disk.keep_only_blobs(&needed);
    }
}
