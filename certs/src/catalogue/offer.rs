//! Files of a catalogue in memory, offered by a peer or read from a folder.

use super::target;
use crate::keyfile::{KeyFileError, Others, read_checked};
use async_trait::async_trait;
use bytes::Bytes;
use fernwart_protocol::document::Versions;
use fernwart_protocol::limits::{BLOB_BYTES, METADATA_BYTES};
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use tough::{Transport, TransportError, TransportErrorKind, TransportStream};
use url::Url;

/// Files by name.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Files(BTreeMap<String, Vec<u8>>);

impl Files {
    /// Adds one.
    pub fn insert(&mut self, name: &str, bytes: Vec<u8>) {
        self.0.insert(name.to_owned(), bytes);
    }

    /// One of them.
    pub fn get(&self, name: &str) -> Option<&Vec<u8>> {
        self.0.get(name)
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = (&String, &Vec<u8>)> {
        self.0.iter()
    }

    /// These files, completed by those of `beneath`.
    pub(super) fn over(&self, beneath: &BTreeMap<String, Vec<u8>>) -> Self {
        let mut all = beneath.clone();
        all.extend(self.0.iter().map(|(name, bytes)| (name.clone(), bytes.clone())));
        Self(all)
    }
}

impl From<BTreeMap<String, Vec<u8>>> for Files {
    fn from(files: BTreeMap<String, Vec<u8>>) -> Self {
        Self(files)
    }
}

/// tough's transport: reads from memory, never from the network.
#[derive(Debug, Clone)]
pub(super) struct Memory(std::sync::Arc<Files>);

impl Memory {
    pub(super) fn new(files: Files) -> Self {
        Self(std::sync::Arc::new(files))
    }
}

#[async_trait]
impl Transport for Memory {
    async fn fetch(&self, url: Url) -> Result<TransportStream, TransportError> {
        let name = url.path().trim_start_matches('/');
        match self.0.get(name) {
            Some(bytes) => {
                let chunk = Bytes::copy_from_slice(bytes);
                Ok(Box::pin(futures::stream::once(std::future::ready(Ok(chunk)))))
            }
            None => Err(TransportError::new(TransportErrorKind::FileNotFound, url.as_str())),
        }
    }
}

/// Reads a plain file of limited length: never a pipe or a device, which could block or be endless.
fn plain(path: &Path) -> io::Result<Vec<u8>> {
    let most = METADATA_BYTES.max(BLOB_BYTES) as u64;
    read_checked(path, Others::Read, most).map_err(|error| match error {
        KeyFileError::Io(error) => error.into_system(),
        other => io::Error::other(other),
    })
}

/// A published catalogue in a folder: all roots, and the newest files of the other roles.
#[derive(Debug, Clone)]
pub struct Repository {
    folder: PathBuf,
}

impl Repository {
    /// The catalogue in this folder.
    pub fn at(folder: &Path) -> Self {
        Self { folder: folder.to_owned() }
    }

    /// Whether anything has been published here.
    pub fn is_published(&self) -> bool {
        self.folder.join("timestamp.json").exists()
    }

    /// The files that a reader with these versions lacks.
    ///
    /// # Errors
    /// When a file cannot be read.
    pub fn newer_than(&self, known: &Versions, current: &Versions) -> io::Result<Files> {
        let mut files = Files::default();
        for version in known.root + 1..=current.root {
            self.load(&mut files, &format!("{version}.root.json"))?;
        }
        if known.timestamp != current.timestamp {
            self.load(&mut files, "timestamp.json")?;
            self.load(&mut files, &format!("{}.snapshot.json", current.snapshot))?;
        }
        if known.targets != current.targets {
            self.load(&mut files, &format!("{}.targets.json", current.targets))?;
            for name in target::NAMED {
                self.load(&mut files, name)?;
            }
        }
        Ok(files)
    }

    fn load(&self, files: &mut Files, name: &str) -> io::Result<()> {
        files.insert(name, plain(&self.folder.join(name))?);
        Ok(())
    }

    /// One file.
    ///
    /// # Errors
    /// When it cannot be read, or its name is a path.
    pub fn read(&self, name: &str) -> io::Result<Vec<u8>> {
        if name.contains(['/', '\\']) || name.starts_with('.') {
            return Err(io::Error::other("a file of a catalogue with a path in its name"));
        }
        plain(&self.folder.join(name))
    }

    /// Writes files, the timestamp last: a concurrent reader finds the complete older catalogue.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn publish(&self, files: &Files) -> io::Result<()> {
        std::fs::create_dir_all(&self.folder)?;
        let is_last = |name: &str| name == "timestamp.json";
        let (last, first): (Vec<_>, Vec<_>) = files.iter().partition(|(name, _)| is_last(name));
        if files.iter().any(|(name, _)| name.contains(['/', '\\']) || name.starts_with('.')) {
            return Err(io::Error::other("a file of a catalogue with a path in its name"));
        }
        for (name, bytes) in first.into_iter().chain(last) {
            let beside = self.folder.join(format!("{name}.new"));
            let mut file = std::fs::File::create(&beside)?;
            io::Write::write_all(&mut file, bytes)?;
            file.sync_all()?;
            std::fs::rename(&beside, self.folder.join(name))?;
        }
        std::fs::File::open(&self.folder)?.sync_all()
    }
}
