//! Bundles and their files, stored by hash in the agent's folder.
//!
//! A file is used only if its content has the requested hash, and that hash is in a catalogue
//! that approvers signed.

use super::gate::Script;
use fernwart_certs::catalogue::{Approved, Catalogue};
use fernwart_certs::sha256;
use fernwart_protocol::document::Document;
use fernwart_protocol::id::Digest;
use fernwart_protocol::limits::BLOB_BYTES;
use fernwart_protocol::script::{Bundle, BundleName, Manifest};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::io::{self, Read};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
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

/// The cache.
#[derive(Debug, Clone)]
pub(super) struct BlobCache {
    folder: PathBuf,
    /// Blobs that could not be written to disk.
    memory: Arc<Mutex<HashMap<Digest, Vec<u8>>>>,
}

impl BlobCache {
    pub(super) fn at(path: &Path) -> Self {
        Self { folder: path.to_owned(), memory: Arc::default() }
    }

    fn in_memory(&self) -> MutexGuard<'_, HashMap<Digest, Vec<u8>>> {
        self.memory.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn get(&self, hash: &Digest) -> Option<Vec<u8>> {
        if let Some(bytes) = self.in_memory().get(hash) {
            return Some(bytes.clone());
        }
        let file = std::fs::File::open(self.folder.join(hash.to_string())).ok()?;
        let mut bytes = Vec::new();
        file.take(BLOB_BYTES as u64 + 1).read_to_end(&mut bytes).ok()?;
        (sha256(&bytes) == *hash).then_some(bytes)
    }

    /// Stores a file under its hash. If the disk is full, a small file is kept in memory.
    ///
    /// # Errors
    /// When it cannot be kept.
    pub(super) fn put(&self, bytes: &[u8]) -> io::Result<()> {
        let kept = self.put_on_disk(bytes);
        let is_full = |error: &io::Error| {
            matches!(
                error.kind(),
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::ReadOnlyFilesystem
            )
        };
        match kept {
            Err(error) if is_full(&error) => {
                let mut memory = self.in_memory();
                let used: usize = memory.values().map(Vec::len).sum();
                if used + bytes.len() > IN_MEMORY {
                    return Err(error);
                }
                memory.insert(sha256(bytes), bytes.to_vec());
                Ok(())
            }
            kept => kept,
        }
    }

    fn put_on_disk(&self, bytes: &[u8]) -> io::Result<()> {
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.folder)?;
        let name = sha256(bytes).to_string();
        // A unique temporary name: concurrent writers of the same file do not remove each
        // other's.
        let beside = self.folder.join(format!("{name}.{:08x}", u32::from_ne_bytes(fernwart_certs::random())));
        let mut options = std::fs::OpenOptions::new();
        let mut file = options.write(true).create_new(true).mode(0o600).open(&beside)?;
        let kept =
            io::Write::write_all(&mut file, bytes).and_then(|()| std::fs::rename(&beside, self.folder.join(name)));
        if kept.is_err() {
            // Do not fill a full disk with partial files.
            let _ = std::fs::remove_file(&beside);
        }
        kept
    }

    /// The complete script, if all of its files are here.
    ///
    /// # Errors
    /// The missing blobs.
    pub(super) fn script(&self, name: &BundleName, approved: &Approved) -> Result<Script, Lacks> {
        let document = self.get(&approved.sha256).ok_or(Lacks::Blobs(vec![approved.sha256]))?;
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
            match self.get(&file.sha256) {
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
    pub(super) fn tidy(&self, catalogue: &Catalogue) {
        let mut needed = HashSet::new();
        for (name, approved) in &catalogue.scripts {
            needed.insert(approved.sha256.to_string());
            if let Ok(script) = self.script(name, approved) {
                needed.extend(script.files.values().map(|(hash, _)| hash.to_string()));
            }
        }
        self.in_memory().retain(|hash, _| needed.contains(&hash.to_string()));
        let Ok(entries) = std::fs::read_dir(&self.folder) else { return };
        for entry in entries.flatten() {
            if !entry.file_name().to_str().is_some_and(|name| needed.contains(name)) {
                // A file that cannot be removed now is removed next time.
                let _ = std::fs::remove_file(entry.path());
            }
        }
    }
}
