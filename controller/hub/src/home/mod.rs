//! The hub's folder: its keys, its store, its catalogue.
//!
//! No approver's and no staff member's private key may lie in it; a hub that
//! finds one does not start. A second hub on the same folder does not either.

mod error;
pub mod generations;

pub use error::HomeError;

use crate::retention::Retention;
use fernwart_certs::approve::{HubRoles, ProtectedKey};
use fernwart_certs::catalogue::Catalogue;
use fernwart_certs::identity::{SigningKey, TlsKey};
use fernwart_certs::issue::Authority;
use fernwart_certs::keyfile::{self, FileError, KeyFileError, Others};
use fernwart_protocol::id::PublicKey;
use fernwart_protocol::link::RestartKeys;
use generations::Rotating;
use rustix::fs::{FlockOperation, OFlags, flock};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// `hub.toml`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// The UDP address to listen on.
    pub listen: SocketAddr,
    /// The loopback TCP address that serves metrics; none if they are off.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metrics: Option<SocketAddr>,
    /// How long results are kept.
    #[serde(default)]
    pub retention: Retention,
}

/// The hub's folder. Clones hold the same lock.
#[derive(Debug, Clone)]
pub struct HubHome {
    path: PathBuf,
    lock: Arc<std::sync::OnceLock<File>>,
}

/// What a hub's folder holds: settings and all keys.
pub struct HomeContents {
    /// Its settings.
    pub settings: Settings,
    /// Its CA, and the key that countersigns receipts.
    pub rotating: Rotating,
    /// The keys for snapshot and timestamp.
    pub roles: HubRoles,
    /// The keys by which a restarted hub recognises packets of former links.
    pub restart: RestartKeys,
}

const CA_KEY: &str = "ca.key";
const CA_CERTIFICATE: &str = "ca.der";
const EVIDENCE: &str = "evidence.key";
const SNAPSHOT: &str = "snapshot.key";
const TIMESTAMP: &str = "timestamp.key";
const RESTART: &str = "restart.key";

/// Depth of folders below the home that are searched for keys.
const DEEPEST: u32 = 3;

/// Longest file that could be a bare signing key, bytes.
const KEY_BYTES: u64 = 1024;

/// Names of key files that belong elsewhere.
const FOREIGN: [&str; 3] = ["approver.key", "order.key", "staff.identity"];

impl HubHome {
    /// The folder at this place.
    pub fn at(path: &Path) -> Self {
        Self { path: path.to_owned(), lock: Arc::default() }
    }

    /// The folder itself.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The store's file.
    pub fn store(&self) -> PathBuf {
        self.path.join("store.sqlite")
    }

    /// The query index over machines' reports; it is rebuilt when it is lost.
    pub fn facts(&self) -> PathBuf {
        self.path.join("facts.sqlite")
    }

    /// Rejects a lost store. The facts file, which is made at the first start, shows that there was
    /// one.
    ///
    /// # Errors
    /// When the store is missing or empty.
    pub(crate) fn refuse_lost_store(&self) -> Result<(), HomeError> {
        let is_there = self.store().metadata().is_ok_and(|data| data.len() > 0);
        if is_there || !self.facts().exists() { Ok(()) } else { Err(HomeError::StoreLost(self.store())) }
    }

    /// The file that marks a restored folder.
    fn restored(&self) -> PathBuf {
        self.path.join("restored")
    }

    /// Marks this folder as restored from a backup.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(crate) fn mark_restored(&self) -> std::io::Result<()> {
        std::fs::write(self.restored(), "")
    }

    /// Whether this folder was restored from a backup in the last week. Most machines link within
    /// that time.
    pub(crate) fn was_restored(&self) -> bool {
        const WEEK: Duration = Duration::from_secs(7 * 24 * 3600);
        let restored = self.restored().metadata().and_then(|data| data.modified());
        restored.is_ok_and(|at| at.elapsed().is_ok_and(|since| since < WEEK))
    }

    /// The published catalogue's folder.
    pub fn catalogue(&self) -> PathBuf {
        self.path.join("catalogue")
    }

    /// Whether this folder holds a hub.
    pub fn is_one(&self) -> bool {
        self.settings_file().exists() && self.store().exists()
    }

    /// Free space on its disk, bytes; a large value if the system does not report it.
    pub fn free_bytes(&self) -> u64 {
        fernwart_certs::disk::free_bytes(&self.path)
    }

    /// Whether the disk is practically full.
    pub fn is_disk_full(&self) -> bool {
        fernwart_certs::disk::is_full(&self.path)
    }

    fn settings_file(&self) -> PathBuf {
        self.path.join("hub.toml")
    }

    /// Makes a hub's folder with new keys.
    ///
    /// # Errors
    /// When it exists already or cannot be written.
    pub fn create(&self, settings: &Settings) -> Result<HomeContents, HomeError> {
        let io = |path: &Path| {
            let path = path.to_owned();
            move |source| HomeError::Io(FileError::at("writing", &path)(source))
        };
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.path).map_err(io(&self.path))?;
        let no_randomness = |_| HomeError::Key(KeyFileError::Content { path: self.path.clone() });
        let ca = TlsKey::generate().map_err(no_randomness)?;
        ca.create(&self.path.join(CA_KEY)).map_err(HomeError::Key)?;
        let certificate = Authority::create(&ca, SystemTime::now()).map_err(HomeError::Authority)?;
        keyfile::replace(&self.path.join(CA_CERTIFICATE), &certificate).map_err(HomeError::Key)?;
        for name in [EVIDENCE, SNAPSHOT, TIMESTAMP] {
            let key = SigningKey::generate().map_err(no_randomness)?;
            key.create(&self.path.join(name)).map_err(HomeError::Key)?;
        }
        keyfile::create(&self.path.join(RESTART), &fernwart_certs::random::<40>()).map_err(HomeError::Key)?;
        let path = self.settings_file();
        let text = toml::to_string(settings).map_err(|error| io(&path)(io::Error::other(error)))?;
        keyfile::replace(&path, text.as_bytes()).map_err(HomeError::Key)?;
        self.keys()
    }

    /// Locks the folder for this process and reads its keys.
    ///
    /// # Errors
    /// When another hub has locked it, it holds a foreign key, or a key file is unusable.
    pub fn open(&self) -> Result<HomeContents, HomeError> {
        let path = self.settings_file();
        match path.metadata() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(HomeError::NotAHub(self.path.clone())),
            Err(source) => return Err(HomeError::Io(FileError::at("reading", &path)(source))),
            Ok(_) => {}
        }
        self.refuse_foreign_keys()?;
        for name in ["store.sqlite", "store.sqlite-wal", "store.sqlite-shm"] {
            match keyfile::open(&self.path.join(name), Others::Read, OFlags::RDONLY) {
                Err(error) if !error.is_missing() => return Err(HomeError::Key(error)),
                // A new hub has none yet.
                Ok(_) | Err(_) => {}
            }
        }
        let path = self.path.join("lock");
        let lock = keyfile::open_lock(&path).map_err(HomeError::of_lock)?;
        flock(&lock, FlockOperation::NonBlockingLockExclusive).map_err(|_| HomeError::InUse(self.path.clone()))?;
        // Held until the last clone of this home is gone.
        let _ = self.lock.set(lock);
        self.keys()
    }

    /// Rejects a home that holds a private key of an approver or staff member of this catalogue,
    /// whatever the file's name.
    ///
    /// # Errors
    /// When there is one.
    pub(crate) fn refuse_keys_of(&self, catalogue: &Catalogue) -> Result<(), HomeError> {
        let theirs = |public: &PublicKey| {
            catalogue.approvers.values().any(|known| known == public)
                || catalogue.staff.staff.iter().any(|entry| entry.order_key == *public)
        };
        let mut folders = vec![(self.path.clone(), 0)];
        while let Some((folder, depth)) = folders.pop() {
            for entry in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
                let path = entry.path();
                match entry.metadata() {
                    Ok(data) if data.is_dir() && depth < DEEPEST => folders.push((path, depth + 1)),
                    Ok(data) if data.is_file() && data.len() <= KEY_BYTES => {
                        let bytes = std::fs::read(&path).unwrap_or_default();
                        let protected = ProtectedKey::read(&bytes).map(|key| key.public);
                        let open = || SigningKey::from_pkcs8(bytes).ok().map(|key| key.public());
                        if protected.or_else(open).is_some_and(|public| theirs(&public)) {
                            return Err(HomeError::ForeignKey(path));
                        }
                    }
                    _ => {}
                }
            }
        }
        Ok(())
    }

    fn refuse_foreign_keys(&self) -> Result<(), HomeError> {
        for folder in [self.path.clone(), self.path.join("approver"), self.path.join("staff")] {
            for entry in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
                let name = entry.file_name();
                // Include unfinished files, whose names have a suffix.
                let name = name.to_string_lossy();
                if FOREIGN.iter().any(|foreign| {
                    name.strip_prefix(foreign).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
                }) {
                    return Err(HomeError::ForeignKey(entry.path()));
                }
            }
        }
        Ok(())
    }

    pub(crate) fn keys(&self) -> Result<HomeContents, HomeError> {
        let path = self.settings_file();
        let text = keyfile::read_checked(&path, Others::Read, keyfile::SETTINGS).map_err(HomeError::Key)?;
        let settings =
            toml::from_str(&String::from_utf8_lossy(&text)).map_err(|source| HomeError::Settings { path, source })?;
        let signing = |name: &str| SigningKey::read(&self.path.join(name)).map_err(HomeError::Key);
        let path = self.path.join(RESTART);
        let secret = keyfile::read(&path).map_err(HomeError::Key)?;
        let (reset, ids) =
            secret.split_first_chunk::<32>().ok_or(HomeError::Key(KeyFileError::Content { path: path.clone() }))?;
        let ids: [u8; 8] = ids.try_into().map_err(|_| HomeError::Key(KeyFileError::Content { path }))?;
        Ok(HomeContents {
            settings,
            rotating: Rotating::read(&self.path)?,
            roles: HubRoles { snapshot: signing(SNAPSHOT)?, timestamp: signing(TIMESTAMP)? },
            restart: RestartKeys { connection_ids: u64::from_le_bytes(ids), reset: *reset },
        })
    }
}
