//! The published catalogue: serves it, renews its timestamp, and publishes the next version.

use fernwart_certs::approve::{Draft, HubRoles, LEFT_OUT, PublishError, freshen, publish};
use fernwart_certs::catalogue::{Approved, Catalogue, CatalogueError, Files, Floors, Repository, Trusted};
use fernwart_certs::keyfile::{self, KeyFileError, Others};
use fernwart_certs::sha256;
use fernwart_protocol::code::Denial;
use fernwart_protocol::document::{Document, UnixMs, Versions};
use fernwart_protocol::id::{Digest, MachineId};
use fernwart_protocol::script::Bundle;
use fernwart_protocol::text::{Blob, Text};
use fernwart_protocol::to_agent::CatalogueFile;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashSet};
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, RwLock};
use tokio::sync::Mutex;

/// A timestamp is replaced when less than this is left of its seven days.
const FRESHEN_BEFORE_MS: i64 = 6 * 24 * 3600 * 1000;

/// How far version numbers may have been ahead of the clock before a restore, seconds.
const AHEAD_S: u64 = 3600;

/// The published catalogue cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PublishedError {
    /// A file cannot be read or written.
    #[error("using the catalogue's folder")]
    Io(#[source] io::Error),
    /// Other users could have written `in-force.json`.
    #[error(transparent)]
    File(KeyFileError),
    /// The files there are not a catalogue.
    #[error("reading the published catalogue")]
    Catalogue(#[source] CatalogueError),
    /// A new one cannot be made.
    #[error("publishing")]
    Publish(#[source] PublishError),
}

/// Names the files in force. It is written last, when all of them are on disk.
#[derive(Debug, Serialize, Deserialize)]
struct InForce {
    floors: Floors,
    files: Vec<String>,
}

/// What is published, if anything.
pub(crate) struct Published {
    repository: Repository,
    marker: PathBuf,
    /// Bundles and their files, by SHA-256. Published blobs are never removed.
    blobs: Repository,
    roles: HubRoles,
    current: RwLock<Option<(Arc<Trusted>, Arc<Catalogue>)>>,
    /// One change at a time.
    changing: Mutex<()>,
    /// The newest targets version that a machine claims to follow but could not give back, and that
    /// machine.
    newer: RwLock<Option<(u64, MachineId)>>,
    /// Script files that the published catalogue names, and the version of that catalogue.
    named: std::sync::Mutex<Option<(u64, HashSet<Digest>)>>,
}

impl Published {
    /// That of a catalogue's folder.
    pub(crate) async fn open(folder: PathBuf, roles: HubRoles) -> Result<Self, PublishedError> {
        let published = Self {
            repository: Repository::at(&folder),
            marker: folder.join("in-force.json"),
            blobs: Repository::at(&folder.join("blobs")),
            roles,
            current: RwLock::new(None),
            changing: Mutex::new(()),
            newer: RwLock::default(),
            named: std::sync::Mutex::default(),
        };
        if let Some(trusted) = published.read()? {
            let catalogue = trusted.view().map_err(PublishedError::Catalogue)?;
            published.set(trusted, catalogue);
        }
        Ok(published)
    }

    fn read(&self) -> Result<Option<Trusted>, PublishedError> {
        // The other files are signed; only this one holds the version floors, so its permissions
        // are checked.
        let text = match keyfile::read_checked(&self.marker, Others::Read, keyfile::SETTINGS) {
            Ok(text) => text,
            Err(error) if error.is_missing() => return Ok(None),
            Err(error) => return Err(PublishedError::File(error)),
        };
        let unreadable = |error| PublishedError::Catalogue(CatalogueError::Unreadable("in-force.json".into(), error));
        let in_force: InForce = serde_json::from_slice(&text).map_err(unreadable)?;
        let mut trusted = Trusted { floors: in_force.floors, ..Trusted::default() };
        for name in in_force.files {
            let bytes = self.repository.read(&name).map_err(PublishedError::Io)?;
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

    pub(crate) fn catalogue(&self) -> Option<Arc<Catalogue>> {
        self.now().map(|(_, catalogue)| catalogue)
    }

    /// Notes that a machine claims to follow these targets and has not given them back. The claim
    /// is unsigned, so nothing is decided by it.
    pub(crate) fn note_newer(&self, targets: u64, machine: MachineId) {
        let mut newer = self.newer.write().unwrap_or_else(|poisoned| poisoned.into_inner());
        if newer.is_none_or(|(known, _)| known < targets) {
            *newer = Some((targets, machine));
        }
    }

    /// The newest targets version that a machine claims to follow and that is not published here,
    /// and that machine.
    pub(crate) fn newer(&self) -> Option<(u64, MachineId)> {
        let newer = *self.newer.read().unwrap_or_else(|poisoned| poisoned.into_inner());
        newer.filter(|(newer, _)| *newer > self.versions().targets)
    }

    /// The published versions; 0 if nothing is published.
    pub(crate) fn versions(&self) -> Versions {
        self.catalogue().map(|catalogue| catalogue.versions).unwrap_or_default()
    }

    /// The files that a peer with these versions lacks.
    pub(crate) fn newer_than(&self, known: &Versions) -> Result<Option<Files>, PublishedError> {
        let Some((trusted, catalogue)) = self.now() else { return Ok(None) };
        let versions = catalogue.versions;
        // Nearly every peer is up to date; those cost no file access.
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

    /// Publishes a fully signed draft. Returns the new timestamp's version.
    pub(crate) async fn publish(&self, draft: &Draft, now: UnixMs) -> Result<u64, PublishedError> {
        let _one = self.changing.lock().await;
        let current = self.now();
        let before = current.as_ref().map(|(trusted, _)| trusted.as_ref());
        let (files, trusted, catalogue) =
            publish(draft, before, &self.roles, now).await.map_err(PublishedError::Publish)?;
        let timestamp = catalogue.versions.timestamp;
        // Store the blobs before the catalogue names them. The draft was verified: these are the
        // bundles and files of the scripts it changes, under their own hashes.
        let mut blobs = Files::default();
        for (hash, text) in draft.blobs.iter().filter(|(hash, text)| sha256(text.as_bytes()) == **hash) {
            blobs.insert(&hash.to_string(), text.clone().into_bytes());
        }
        self.blobs.publish(&blobs).map_err(PublishedError::Io)?;
        self.keep(&files, trusted, catalogue).await?;
        Ok(timestamp)
    }

    /// Identifies the organisation: the hash of its first root, which never changes.
    pub(crate) fn shop(&self) -> Option<Digest> {
        self.repository.read("1.root.json").ok().map(|bytes| sha256(&bytes))
    }

    /// The newest versions of snapshot and timestamp among these files that this hub has
    /// signed.
    pub(crate) fn signed_before(&self, files: &BTreeMap<String, Vec<u8>>) -> (u64, u64) {
        let root = self.now().and_then(|(trusted, _)| fernwart_certs::approve::root_of(&trusted).ok());
        root.map_or((0, 0), |root| fernwart_certs::approve::signed_before(files, &root))
    }

    /// Checks a draft and keeps only its valid signatures. A draft that claims to have been
    /// published before must prove it and be fully signed.
    pub(crate) fn acceptable(&self, mut draft: Draft) -> Result<Draft, Denial> {
        draft.contents().map_err(|_| Denial::CatalogueRefused)?;
        let (trusted, catalogue) = self.now().ok_or(Denial::NoCatalogue)?;
        let root = fernwart_certs::approve::root_of(&trusted).map_err(|_| Denial::NoCatalogue)?;
        let ruling = draft.ruled_by(&root).ok_or(Denial::CatalogueRefused)?;
        if !draft.follows(catalogue.versions.targets) {
            return Err(Denial::CatalogueStale);
        }
        draft.keep_valid(Some(&ruling));
        if draft.is_given_back() {
            if !draft.was_published(&root) {
                return Err(Denial::CatalogueRefused);
            }
            if !draft.progress(Some(&ruling)).is_complete() {
                return Err(Denial::CatalogueUnsigned);
            }
        }
        Ok(draft)
    }

    /// The last `count` targets that were published, oldest first.
    pub(crate) fn history(&self, count: usize) -> Vec<CatalogueFile> {
        let newest = self.catalogue().map_or(0, |catalogue| catalogue.versions.targets);
        let file = |number: u64| {
            let name = format!("{number}.targets.json");
            let bytes = Blob::try_from(self.repository.read(&name).ok()?).ok()?;
            Some(CatalogueFile { name: Text::clipped(&name), bytes })
        };
        // Version numbers may have gaps.
        let mut files: Vec<_> =
            (1..=newest).rev().take(count + LEFT_OUT as usize).filter_map(file).take(count).collect();
        files.reverse();
        files
    }

    /// Whether the published catalogue names this script file and the file is missing here.
    pub(crate) fn misses(&self, hash: &Digest) -> bool {
        self.names(hash) && self.blob(hash).is_none()
    }

    /// Whether the published catalogue names this file. The list is computed once per version, and
    /// again after `keep_file`, since a recovered bundle names more files.
    fn names(&self, hash: &Digest) -> bool {
        let Some(catalogue) = self.catalogue() else { return false };
        let version = catalogue.versions.targets;
        let mut named = self.named.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if named.as_ref().is_none_or(|(of, _)| *of != version) {
            let files = |document: Vec<u8>| Some(Bundle::from_bytes(&document).ok()?.files);
            let of = |approved: &Approved| self.blob(&approved.sha256).and_then(files).unwrap_or_default();
            let mut all: HashSet<Digest> = catalogue.scripts.values().map(|approved| approved.sha256).collect();
            for approved in catalogue.scripts.values() {
                all.extend(of(approved).as_slice().iter().map(|file| file.sha256));
            }
            *named = Some((version, all));
        }
        named.as_ref().is_some_and(|(_, all)| all.contains(hash))
    }

    /// Keeps a file of a script under its hash.
    pub(crate) fn keep_file(&self, hash: &Digest, bytes: &[u8]) -> io::Result<()> {
        let mut file = Files::default();
        file.insert(&hash.to_string(), bytes.to_vec());
        self.blobs.publish(&file)?;
        *self.named.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = None;
        Ok(())
    }

    /// A bundle or one of its files.
    pub(crate) fn blob(&self, hash: &Digest) -> Option<Vec<u8>> {
        let bytes = self.blobs.read(&hash.to_string()).ok()?;
        (sha256(&bytes) == *hash).then_some(bytes)
    }

    /// Renews the timestamp if it is due. Returns its version.
    pub(crate) async fn freshen_if_due(&self, now: UnixMs) -> Result<Option<u64>, PublishedError> {
        let _one = self.changing.lock().await;
        let Some((trusted, catalogue)) = self.now() else { return Ok(None) };
        if catalogue.expiries.timestamp.min(catalogue.expiries.snapshot) - now > FRESHEN_BEFORE_MS {
            return Ok(None);
        }
        self.renew(&trusted, (0, 0), now).await.map(Some)
    }

    /// Renews the timestamp above the versions of a snapshot and timestamp that this hub signed and
    /// lost. Returns its version; `None` if the current ones are at least as new.
    pub(crate) async fn freshen_above(&self, lost: (u64, u64), now: UnixMs) -> Result<Option<u64>, PublishedError> {
        let _one = self.changing.lock().await;
        let Some((trusted, catalogue)) = self.now() else { return Ok(None) };
        if lost.0 <= catalogue.versions.snapshot && lost.1 <= catalogue.versions.timestamp {
            return Ok(None);
        }
        self.renew(&trusted, lost, now).await.map(Some)
    }

    /// Renews the timestamp after a restore, above all versions made before it. Versions are Unix
    /// seconds and can run ahead of the clock when many are made within a second.
    pub(crate) async fn freshen_restored(&self, now: UnixMs) -> Result<Option<u64>, PublishedError> {
        let _one = self.changing.lock().await;
        let Some((trusted, _)) = self.now() else { return Ok(None) };
        let above = u64::try_from(now / 1000).unwrap_or_default() + AHEAD_S;
        self.renew(&trusted, (above, above), now).await.map(Some)
    }

    async fn renew(&self, trusted: &Trusted, above: (u64, u64), now: UnixMs) -> Result<u64, PublishedError> {
        let renewed = freshen(trusted, &self.roles, above, now).await;
        let (files, trusted, catalogue) = renewed.map_err(PublishedError::Publish)?;
        let timestamp = catalogue.versions.timestamp;
        self.keep(&files, trusted, catalogue).await?;
        Ok(timestamp)
    }
}

/// Publishes an organisation's first catalogue straight into a hub's catalogue folder.
///
/// # Errors
/// When signatures are missing or the folder cannot be written.
pub async fn publish_first(
    folder: PathBuf,
    roles: HubRoles,
    draft: &Draft,
    now: UnixMs,
) -> Result<Trusted, PublishedError> {
    let published = Published::open(folder, roles).await?;
    published.publish(draft, now).await?;
    let trusted = published.now().map(|(trusted, _)| trusted.as_ref().clone());
    trusted.ok_or_else(|| PublishedError::Catalogue(CatalogueError::Missing("timestamp.json".to_owned())))
}
