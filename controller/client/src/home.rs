//! Homes of staff members and approvers: their keys, and the catalogue they trust.

use fernwart_certs::approve::{ProtectError, ProtectedKey};
use fernwart_certs::catalogue::{Catalogue, CatalogueError, Floors, Trusted};
use fernwart_certs::identity::{SigningKey, TlsIdentity, staff_key_id};
use fernwart_certs::keyfile::{self, FileError, KeyFileError, Others};
use fernwart_certs::peer::{Name, read_certificate};
use fernwart_protocol::id::{Digest, KeyId, PublicKey};
use fernwart_protocol::limits::{METADATA_BYTES, OFFER_FILES};
use fernwart_protocol::text::Text;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

/// A home cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ClientHomeError {
    /// There is no such home.
    #[error("{path} is no {kind} home: {file} is not there")]
    Missing {
        /// Where it should be.
        path: PathBuf,
        /// Of whom.
        kind: &'static str,
        /// The file that is not there.
        file: &'static str,
    },
    /// A key file cannot be used.
    #[error(transparent)]
    Key(KeyFileError),
    /// A file cannot be read or written.
    #[error(transparent)]
    Io(FileError),
    /// Key and certificate of a home belong to two people.
    #[error("{0} is not of the same person as the certificate beside it")]
    Mixed(PathBuf),
    /// A file is not what it should be.
    #[error("{0} cannot be read; it was altered or cut")]
    Damaged(PathBuf),
    /// The kept catalogue cannot be used.
    #[error("reading the kept catalogue")]
    Catalogue(#[source] CatalogueError),
}

fn make_folder(path: &Path) -> Result<(), ClientHomeError> {
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(|error| ClientHomeError::Io(FileError::at("making", path)(error)))
}

/// `staff.toml`: where the hub was when this home was made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StaffSettings {
    /// The technician's name.
    pub name: Text<64>,
    /// The hub's addresses at that time; the catalogue has newer ones.
    pub addresses: Vec<Text<255>>,
    /// SHA-256 of the hub's CA certificate.
    pub ca: Digest,
}

/// A technician's or robot's home.
#[derive(Debug)]
pub struct StaffHome {
    path: PathBuf,
    /// The hub's address and CA.
    pub settings: StaffSettings,
    /// The key that signs orders.
    pub order_key: SigningKey,
    /// The TLS key and certificate.
    pub identity: TlsIdentity,
}

/// The verified catalogue on disk. Its files are all text.
#[derive(Serialize, Deserialize)]
struct KeptCatalogue {
    floors: Floors,
    files: BTreeMap<String, String>,
}

const STAFF_FILE: &str = "staff.toml";
const ENTRY_FILE: &str = "entry.json";
const ORDER_KEY: &str = "order.key";
const IDENTITY: &str = "staff.identity";
const CATALOGUE: &str = "catalogue.json";

/// Longest kept catalogue, bytes: all files of an offer, quoted.
const KEPT_BYTES: u64 = 2 * (OFFER_FILES * METADATA_BYTES) as u64;

/// When this home first saw its staff entry.
#[derive(Debug, Serialize, Deserialize)]
struct SeenEntry {
    until: i64,
    since: i64,
}

impl StaffHome {
    /// Whether a home is there.
    pub fn exists(path: &Path) -> bool {
        path.join(STAFF_FILE).exists()
    }

    /// Makes a home with new keys. The settings, which complete it, are written last by
    /// [`StaffHome::settle`].
    ///
    /// # Errors
    /// When it cannot be written. Keys of an earlier attempt are reused.
    pub fn prepare(path: &Path) -> Result<(SigningKey, TlsIdentity), ClientHomeError> {
        make_folder(path)?;
        keyfile::check_folders(&path.join(ORDER_KEY)).map_err(ClientHomeError::Key)?;
        let no_randomness = |_| ClientHomeError::Damaged(path.to_owned());
        let order = match SigningKey::read(&path.join(ORDER_KEY)) {
            Err(error) if error.is_missing() => {
                let key = SigningKey::generate().map_err(no_randomness)?;
                key.create(&path.join(ORDER_KEY)).map_err(ClientHomeError::Key)?;
                key
            }
            other => other.map_err(ClientHomeError::Key)?,
        };
        let identity = match TlsIdentity::read(&path.join(IDENTITY)) {
            Err(error) if error.is_missing() => {
                let identity = TlsIdentity::generate().map_err(no_randomness)?;
                identity.write(&path.join(IDENTITY)).map_err(ClientHomeError::Key)?;
                identity
            }
            other => other.map_err(ClientHomeError::Key)?,
        };
        Ok((order, identity))
    }

    /// Completes a prepared home.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn settle(path: &Path, settings: &StaffSettings, identity: &TlsIdentity) -> Result<(), ClientHomeError> {
        identity.write(&path.join(IDENTITY)).map_err(ClientHomeError::Key)?;
        let file = path.join(STAFF_FILE);
        let failed = |source| ClientHomeError::Io(FileError::at("writing", &file)(source));
        let text = toml::to_string(settings).map_err(|error| failed(io::Error::other(error)))?;
        keyfile::replace(&file, text.as_bytes()).map_err(ClientHomeError::Key)
    }

    /// When this home first saw its staff entry with this end, Unix milliseconds: the
    /// entry itself does not say when it began.
    pub fn entry_since(&self, until: i64, now: i64) -> i64 {
        let file = self.path.join(ENTRY_FILE);
        let known = keyfile::read_checked(&file, Others::Read, keyfile::SETTINGS).ok();
        let known: Option<SeenEntry> = known.and_then(|text| serde_json::from_slice(&text).ok());
        let since = match known {
            Some(known) if known.until == until && known.since <= now => return known.since,
            Some(_) => now,
            // The first entry is as old as the order key.
            None => {
                let made = std::fs::metadata(self.path.join(ORDER_KEY)).and_then(|file| file.modified()).ok();
                let made = made.and_then(|at| at.duration_since(std::time::UNIX_EPOCH).ok());
                made.and_then(|at| i64::try_from(at.as_millis()).ok()).map_or(now, |made| made.min(now))
            }
        };
        let text = serde_json::to_vec(&SeenEntry { until, since }).unwrap_or_default();
        // If this fails, the entry will be seen for the first time again.
        let _ = keyfile::replace(&file, &text);
        since
    }

    /// Opens a home.
    ///
    /// # Errors
    /// When it is no home, or a key file is unusable.
    pub fn open(path: &Path) -> Result<Self, ClientHomeError> {
        let file = path.join(STAFF_FILE);
        let text = match keyfile::read_checked(&file, Others::Read, keyfile::SETTINGS) {
            Ok(text) => text,
            Err(error) if error.is_missing() => {
                return Err(ClientHomeError::Missing { path: path.to_owned(), kind: "staff", file: STAFF_FILE });
            }
            Err(error) => return Err(ClientHomeError::Key(error)),
        };
        let home = Self {
            path: path.to_owned(),
            settings: toml::from_str(&String::from_utf8_lossy(&text)).map_err(|_| ClientHomeError::Damaged(file))?,
            order_key: SigningKey::read(&path.join(ORDER_KEY)).map_err(ClientHomeError::Key)?,
            identity: TlsIdentity::read(&path.join(IDENTITY)).map_err(ClientHomeError::Key)?,
        };
        // A certificate names the pair of keys that it was issued for.
        let named = match home.identity.chain.as_slice() {
            [leaf, ca, ..] => read_certificate(leaf, ca).ok().map(|certificate| certificate.name),
            _ => None,
        };
        match named {
            Some(name) if name != Name::Staff(home.key_id()) => Err(ClientHomeError::Mixed(path.join(ORDER_KEY))),
            _ => Ok(home),
        }
    }

    /// The id of this home's pair of keys.
    pub fn key_id(&self) -> KeyId {
        staff_key_id(&self.order_key.public(), &self.identity.key.digest())
    }

    /// Stores the TLS key with its current certificate.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn keep_identity(&self) -> Result<(), ClientHomeError> {
        self.identity.write(&self.path.join(IDENTITY)).map_err(ClientHomeError::Key)
    }

    /// The catalogue that was verified last, if any.
    ///
    /// # Errors
    /// When it is there and cannot be read.
    pub fn trusted(&self) -> Result<Option<Trusted>, ClientHomeError> {
        let path = self.path.join(CATALOGUE);
        let bytes = match keyfile::read_checked(&path, Others::Read, KEPT_BYTES) {
            Ok(bytes) => bytes,
            Err(error) if error.is_missing() => return Ok(None),
            Err(error) => return Err(ClientHomeError::Key(error)),
        };
        let kept: KeptCatalogue = serde_json::from_slice(&bytes).map_err(|_| ClientHomeError::Damaged(path))?;
        let files = kept.files.into_iter().map(|(name, text)| (name, text.into_bytes())).collect();
        Ok(Some(Trusted { floors: kept.floors, files }))
    }

    /// The catalogue that was verified last, parsed.
    ///
    /// # Errors
    /// When there is none or it cannot be read.
    pub fn catalogue(&self) -> Result<Catalogue, ClientHomeError> {
        let missing = ClientHomeError::Missing { path: self.path.clone(), kind: "staff", file: CATALOGUE };
        self.trusted()?.ok_or(missing)?.view().map_err(ClientHomeError::Catalogue)
    }

    /// Stores a verified catalogue, all or nothing.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn keep(&self, trusted: &Trusted) -> Result<(), ClientHomeError> {
        Self::keep_in(&self.path, trusted)
    }

    /// The same for a home that is not completed yet.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn keep_in(path: &Path, trusted: &Trusted) -> Result<(), ClientHomeError> {
        let file = path.join(CATALOGUE);
        let mut files = BTreeMap::new();
        for (name, bytes) in &trusted.files {
            let text = String::from_utf8(bytes.clone()).map_err(|_| ClientHomeError::Damaged(file.clone()))?;
            files.insert(name.clone(), text);
        }
        let kept = KeptCatalogue { floors: trusted.floors, files };
        let bytes = serde_json::to_vec(&kept).map_err(|_| ClientHomeError::Damaged(file.clone()))?;
        keyfile::replace(&file, &bytes).map_err(ClientHomeError::Key)
    }
}

/// An approver's home: one key, kept away from every network.
#[derive(Debug)]
pub struct ApproverHome {
    key: ApproverKey,
}

#[derive(Debug)]
enum ApproverKey {
    Open(SigningKey),
    Protected(Box<ProtectedKey>),
}

const APPROVER_KEY: &str = "approver.key";

impl ApproverHome {
    /// Whether a home is there.
    pub fn exists(path: &Path) -> bool {
        path.join(APPROVER_KEY).exists()
    }

    /// Makes a home with a new key, behind a passphrase if there is one.
    ///
    /// # Errors
    /// When one is there already, or it cannot be written.
    pub fn create(path: &Path, passphrase: Option<&str>) -> Result<Self, ClientHomeError> {
        make_folder(path)?;
        keyfile::check_folders(&path.join(APPROVER_KEY)).map_err(ClientHomeError::Key)?;
        let damaged = || ClientHomeError::Damaged(path.to_owned());
        let key = SigningKey::generate().map_err(|_| damaged())?;
        let file = path.join(APPROVER_KEY);
        match passphrase {
            None => key.create(&file).map_err(ClientHomeError::Key)?,
            Some(passphrase) => {
                let sealed = ProtectedKey::seal(&key, passphrase).and_then(|sealed| sealed.to_bytes());
                keyfile::create(&file, &sealed.map_err(|_| damaged())?).map_err(ClientHomeError::Key)?;
            }
        }
        Ok(Self { key: ApproverKey::Open(key) })
    }

    /// Its public key, which needs no passphrase.
    pub fn public(&self) -> PublicKey {
        match &self.key {
            ApproverKey::Open(key) => key.public(),
            ApproverKey::Protected(key) => key.public,
        }
    }

    /// Whether a passphrase protects it.
    pub fn is_protected(&self) -> bool {
        matches!(self.key, ApproverKey::Protected(_))
    }

    /// The key itself; `passphrase` is called only if one protects it.
    ///
    /// # Errors
    /// When no passphrase is given, or it is wrong.
    pub fn unlock<E>(self, passphrase: impl FnOnce() -> Result<String, E>) -> Result<SigningKey, Unlock<E>> {
        match self.key {
            ApproverKey::Open(key) => Ok(key),
            ApproverKey::Protected(key) => {
                let passphrase = passphrase().map_err(Unlock::Prompt)?;
                key.open(&passphrase).map_err(Unlock::Closed)
            }
        }
    }

    /// Opens a home.
    ///
    /// # Errors
    /// When it is no home, or its key file is unusable.
    pub fn open(path: &Path) -> Result<Self, ClientHomeError> {
        if !Self::exists(path) {
            return Err(ClientHomeError::Missing { path: path.to_owned(), kind: "approver", file: APPROVER_KEY });
        }
        let file = path.join(APPROVER_KEY);
        let content = keyfile::read(&file).map_err(ClientHomeError::Key)?;
        let key = match ProtectedKey::read(&content) {
            Some(key) => ApproverKey::Protected(Box::new(key)),
            None => {
                let bad = |_| ClientHomeError::Key(KeyFileError::Content { path: file.clone() });
                ApproverKey::Open(SigningKey::from_pkcs8(content).map_err(bad)?)
            }
        };
        Ok(Self { key })
    }
}

/// Why a key stays locked.
#[derive(Debug)]
pub enum Unlock<E> {
    /// Nobody gave a passphrase.
    Prompt(E),
    /// The passphrase does not open it.
    Closed(ProtectError),
}
