//! The published catalogue: served, kept fresh, and followed by a next one.

use crate::home::HubHome;
use fernwart_certs::approve::{Draft, HubRoles, PublishError, freshen, publish};
use fernwart_certs::catalogue::{Catalogue, CatalogueError, Files, Floors, Repository, Trusted};
use fernwart_certs::keyfile::{self, KeyFileError, Others};
use fernwart_certs::sha256;
use fernwart_protocol::document::{UnixMs, Versions};
use fernwart_protocol::id::Digest;
use fernwart_protocol::text::{Blob, Text};
use fernwart_protocol::to_agent::CatalogueFile;
use serde::{Deserialize, Serialize};
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, RwLock};
use tokio::sync::Mutex;

/// A timestamp is replaced when less than this is left of its seven days.
const FRESHEN_BEFORE_MS: i64 = 6 * 24 * 3600 * 1000;

/// The published catalogue cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PublishedError {
    /// A file cannot be read or written.
    #[error("using the catalogue's folder")]
    Io(#[source] io::Error),
    /// Which files are in force may have been written by others.
    #[error(transparent)]
    File(KeyFileError),
    /// What lies there is not a catalogue.
    #[error("reading the published catalogue")]
    Catalogue(#[source] CatalogueError),
    /// A new one cannot be made.
    #[error("publishing")]
    Publish(#[source] PublishError),
}

/// Which files are in force: written last, so that they are all there.
#[derive(Debug, Serialize, Deserialize)]
struct InForce {
    floors: Floors,
    files: Vec<String>,
}

/// What is published, if anything.
pub(crate) struct Published {
    repository: Repository,
    marker: PathBuf,
    folder: PathBuf,
    /// Bundles and their files, by SHA-256; what was once published stays.
    blobs: Repository,
    roles: HubRoles,
    current: RwLock<Option<(Arc<Trusted>, Arc<Catalogue>)>>,
    /// One change at a time.
    changing: Mutex<()>,
}

impl Published {
    pub(crate) async fn open(home: &HubHome, roles: HubRoles) -> Result<Self, PublishedError> {
        let folder = home.catalogue();
        let published = Self {
            repository: Repository::at(&folder),
            marker: folder.join("in-force.json"),
            blobs: Repository::at(&folder.join("blobs")),
            folder,
            roles,
            current: RwLock::new(None),
            changing: Mutex::new(()),
        };
        if let Some(trusted) = published.read()? {
            let catalogue = trusted.view().map_err(PublishedError::Catalogue)?;
            published.set(trusted, catalogue);
        }
        Ok(published)
    }

    fn read(&self) -> Result<Option<Trusted>, PublishedError> {
        // What lies beside it was signed; how low no version may fall stands here alone.
        let text = match keyfile::read_checked(&self.marker, Others::Read, keyfile::SETTINGS) {
            Ok(text) => text,
            Err(error) if error.is_missing() => return Ok(None),
            Err(error) => return Err(PublishedError::File(error)),
        };
        let unreadable = |error| PublishedError::Catalogue(CatalogueError::Unreadable("in-force.json".into(), error));
        let in_force: InForce = serde_json::from_slice(&text).map_err(unreadable)?;
        let mut trusted = Trusted { floors: in_force.floors, ..Trusted::default() };
        for name in in_force.files {
            let bytes = std::fs::read(self.folder.join(&name)).map_err(PublishedError::Io)?;
            trusted.files.insert(name, bytes);
        }
        Ok(Some(trusted))
    }

    fn set(&self, trusted: Trusted, catalogue: Catalogue) {
        let mut current = self.current.write().unwrap_or_else(|poisoned| poisoned.into_inner());
        *current = Some((Arc::new(trusted), Arc::new(catalogue)));
    }

    fn now(&self) -> Option<(Arc<Trusted>, Arc<Catalogue>)> {
        self.current.read().unwrap_or_else(|poisoned| poisoned.into_inner()).clone()
    }

    pub(crate) fn trusted(&self) -> Option<Arc<Trusted>> {
        self.now().map(|(trusted, _)| trusted)
    }

    pub(crate) fn catalogue(&self) -> Option<Arc<Catalogue>> {
        self.now().map(|(_, catalogue)| catalogue)
    }

    /// What somebody who knows these versions lacks.
    pub(crate) fn newer_than(&self, known: &Versions) -> Result<Option<Files>, PublishedError> {
        let Some((trusted, catalogue)) = self.now() else { return Ok(None) };
        let versions = catalogue.versions;
        // Who is up to date, nearly everybody, costs no file.
        if *known == versions {
            return Ok(Some(Files::default()));
        }
        if known.root == versions.root {
            let mut files = Files::default();
            for (name, bytes) in &trusted.files {
                if !name.ends_with(".root.json") {
                    files.insert(name, bytes.clone());
                }
            }
            return Ok(Some(files));
        }
        self.repository.newer_than(known, &versions).map(Some).map_err(PublishedError::Io)
    }

    async fn keep(&self, files: &Files, trusted: Trusted, catalogue: Catalogue) -> Result<(), PublishedError> {
        self.repository.publish(files).map_err(PublishedError::Io)?;
        let in_force = InForce { floors: trusted.floors, files: trusted.files.keys().cloned().collect() };
        let mut marker = Files::default();
        let text = serde_json::to_vec(&in_force).map_err(|error| PublishedError::Io(error.into()))?;
        marker.insert("in-force.json", text);
        self.repository.publish(&marker).map_err(PublishedError::Io)?;
        self.set(trusted, catalogue);
        Ok(())
    }

    /// Publishes a draft that has its signatures. The new timestamp's version.
    pub(crate) async fn publish(&self, draft: &Draft, now: UnixMs) -> Result<u64, PublishedError> {
        let _one = self.changing.lock().await;
        let current = self.now();
        let before = current.as_ref().map(|(trusted, _)| trusted.as_ref());
        let (files, trusted, catalogue) =
            publish(draft, before, &self.roles, now).await.map_err(PublishedError::Publish)?;
        let timestamp = catalogue.versions.timestamp;
        // Before anybody hears of them. The draft was verified: these are the
        // bundles and files of the scripts it changes, under their own hashes.
        let mut blobs = Files::default();
        for (hash, text) in draft.blobs.iter().filter(|(hash, text)| sha256(text.as_bytes()) == **hash) {
            blobs.insert(&hash.to_string(), text.clone().into_bytes());
        }
        self.blobs.publish(&blobs).map_err(PublishedError::Io)?;
        self.keep(&files, trusted, catalogue).await?;
        Ok(timestamp)
    }

    /// The last `count` targets that were published, oldest first.
    pub(crate) fn history(&self, count: u64) -> Vec<CatalogueFile> {
        let newest = self.catalogue().map_or(0, |catalogue| catalogue.versions.targets);
        let first = newest.saturating_sub(count.saturating_sub(1)).max(1);
        let file = |number: u64| {
            let name = format!("{number}.targets.json");
            let bytes = Blob::try_from(self.repository.read(&name).ok()?).ok()?;
            Some(CatalogueFile { name: Text::clipped(&name), bytes })
        };
        (first..=newest).filter_map(file).collect()
    }

    /// A bundle or one of its files.
    pub(crate) fn blob(&self, hash: &Digest) -> Option<Vec<u8>> {
        let bytes = self.blobs.read(&hash.to_string()).ok()?;
        (sha256(&bytes) == *hash).then_some(bytes)
    }

    /// A new timestamp, if the old one is due. Its version.
    pub(crate) async fn freshen_if_due(&self, now: UnixMs) -> Result<Option<u64>, PublishedError> {
        let _one = self.changing.lock().await;
        let Some((trusted, catalogue)) = self.now() else { return Ok(None) };
        if catalogue.expiries.timestamp.min(catalogue.expiries.snapshot) - now > FRESHEN_BEFORE_MS {
            return Ok(None);
        }
        let (files, trusted, catalogue) = freshen(&trusted, &self.roles, now).await.map_err(PublishedError::Publish)?;
        let timestamp = catalogue.versions.timestamp;
        self.keep(&files, trusted, catalogue).await?;
        Ok(Some(timestamp))
    }
}

/// Publishes a shop's first catalogue straight into a hub's folder.
///
/// # Errors
/// When signatures are missing or the folder cannot be written.
pub async fn publish_first(
    home: &HubHome,
    roles: HubRoles,
    draft: &Draft,
    now: UnixMs,
) -> Result<Trusted, PublishedError> {
    let published = Published::open(home, roles).await?;
    published.publish(draft, now).await?;
    let trusted = published.now().map(|(trusted, _)| trusted.as_ref().clone());
    trusted.ok_or_else(|| PublishedError::Catalogue(CatalogueError::Missing("timestamp.json".to_owned())))
}
