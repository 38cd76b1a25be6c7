//! The agent's folder: the paths of its files, and the enrollment.

use fernwart_certs::keyfile::{self, FileError, KeyFileError, Others};
use fernwart_protocol::diagnosis::Language;
use fernwart_protocol::document::UnixMs;
use fernwart_protocol::id::{CustomerId, Digest, MachineId};
use fernwart_protocol::text::Text;
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

/// The default path of the folder.
pub const DEFAULT: &str = "/var/lib/fernwart-agent";

/// The folder.
#[derive(Debug, Clone)]
pub struct Home(PathBuf);

/// The result of `enroll`, stored in `agent.toml`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Enrollment {
    /// This machine.
    pub machine: MachineId,
    /// The customer it belongs to.
    pub customer: CustomerId,
    /// The customer's name, from the invitation.
    pub customer_name: Text<120>,
    /// The customer's language.
    pub language: Language,
    /// The hub's addresses when this machine joined; the catalogue has newer ones.
    pub addresses: Vec<Text<255>>,
    /// SHA-256 of the hub's CA certificate at that time.
    pub ca: Digest,
    /// Version of the root in the invitation.
    pub root_version: u64,
    /// SHA-256 of that root.
    pub root: Digest,
    /// The TLS key it joined with, which is part of the four words.
    pub joined_tls_key: Digest,
    /// When it joined.
    pub joined_at: UnixMs,
}

/// The lock on a folder that this process is setting up.
#[derive(Debug)]
pub struct Held {
    _folder: File,
}

/// The agent's folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum HomeError {
    /// A file cannot be read or written.
    #[error(transparent)]
    Io(FileError),
    /// `agent.toml` is not what `enroll` wrote.
    #[error("{path} is not what enroll has written")]
    Enrollment {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        #[source]
        source: toml::de::Error,
    },
    /// A file cannot be written, or has wrong content or rights.
    #[error(transparent)]
    File(KeyFileError),
    /// Another process is setting it up.
    #[error("{0} is being set up already")]
    Held(PathBuf),
    /// This machine has not joined yet.
    #[error("this machine has not joined: {0} is not there")]
    NotEnrolled(PathBuf),
}

impl Home {
    /// The folder at this place.
    pub fn at(path: &Path) -> Self {
        Self(path.to_owned())
    }

    /// The folder itself.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Creates the folder, accessible to its owner only.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn create(&self) -> Result<(), HomeError> {
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.0)
            .map_err(|error| HomeError::Io(FileError::at("making", &self.0)(error)))
    }

    /// Creates and locks the folder: no other process sets it up while the lock exists.
    ///
    /// # Errors
    /// When it cannot be created, or another process holds it.
    pub fn hold(&self) -> Result<Held, HomeError> {
        self.create()?;
        // Checked before anything is written: the folder will contain keys.
        keyfile::check_folders(&self.enrollment_file()).map_err(HomeError::File)?;
        let failed = |source| HomeError::Io(FileError::at("holding", &self.0)(source));
        let folder = File::open(&self.0).map_err(failed)?;
        match flock(&folder, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Held { _folder: folder }),
            Err(Errno::WOULDBLOCK) => Err(HomeError::Held(self.0.clone())),
            Err(error) => Err(failed(error.into())),
        }
    }

    /// Removes temporary files of processes that were killed. Only call this while the folder is
    /// held.
    pub fn sweep(&self) {
        let ours =
            [self.evidence_key(), self.sealing_key(), self.tls_identity(), self.policy(), self.enrollment_file()];
        let unfinished = |path: &Path| {
            let name = path.to_str().and_then(|name| name.strip_suffix(keyfile::UNFINISHED)?.rsplit_once('.'));
            name.is_some_and(|(of, number)| ours.iter().any(|own| own == Path::new(of)) && number.len() == 16)
        };
        let entries = std::fs::read_dir(&self.0).into_iter().flatten().flatten();
        for entry in entries.filter(|entry| unfinished(&entry.path())) {
            // A file that cannot be removed does no harm.
            let _ = std::fs::remove_file(entry.path());
        }
    }

    /// The evidence key.
    pub fn evidence_key(&self) -> PathBuf {
        self.0.join("evidence.key")
    }

    /// The sealing key.
    pub fn sealing_key(&self) -> PathBuf {
        self.0.join("sealing.key")
    }

    /// The TLS key and its certificate.
    pub fn tls_identity(&self) -> PathBuf {
        self.0.join("tls.identity")
    }

    /// Journal, ledger and catalogue.
    pub fn store(&self) -> PathBuf {
        self.0.join("books.redb")
    }

    /// Scripts' files, by hash.
    pub fn blobs(&self) -> PathBuf {
        self.0.join("blobs")
    }

    /// The owner's consent and pause.
    pub fn consent(&self) -> PathBuf {
        self.0.join("owner.json")
    }

    /// The owner's policy.
    pub fn policy(&self) -> PathBuf {
        self.0.join("policy.toml")
    }

    /// The text of the owner's policy. Invalid UTF-8 is replaced.
    ///
    /// # Errors
    /// When there is no such file, or others may have written it.
    pub fn read_policy(&self) -> Result<String, KeyFileError> {
        let bytes = keyfile::read_checked(&self.policy(), Others::Read, keyfile::SETTINGS)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// The path of the folder with all links resolved.
    pub fn real_path(&self) -> PathBuf {
        std::fs::canonicalize(&self.0).unwrap_or_else(|_| self.0.clone())
    }

    /// The socket of the running agent.
    pub fn socket(&self) -> PathBuf {
        self.0.join("agent.sock")
    }

    /// The file that `enroll` writes last.
    pub fn enrollment_file(&self) -> PathBuf {
        self.0.join("agent.toml")
    }

    /// Whether `enroll` has finished.
    pub fn is_enrolled(&self) -> bool {
        self.enrollment_file().exists()
    }

    /// Reads what `enroll` has written.
    ///
    /// # Errors
    /// When `enroll` has not finished, or the file is damaged.
    pub fn enrollment(&self) -> Result<Enrollment, HomeError> {
        let path = self.enrollment_file();
        let bytes = match keyfile::read_checked(&path, Others::Read, keyfile::SETTINGS) {
            Ok(bytes) => bytes,
            Err(error) if error.is_missing() => return Err(HomeError::NotEnrolled(path)),
            Err(error) => return Err(HomeError::File(error)),
        };
        toml::from_str(&String::from_utf8_lossy(&bytes)).map_err(|source| HomeError::Enrollment { path, source })
    }

    /// Writes the enrollment; the last step of `enroll`.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write_enrollment(&self, enrollment: &Enrollment) -> Result<(), HomeError> {
        let path = self.enrollment_file();
        let text = toml::to_string(enrollment)
            .map_err(|error| HomeError::Io(FileError::at("writing", &path)(io::Error::other(error))))?;
        keyfile::replace(&path, text.as_bytes()).map_err(HomeError::File)
    }

    /// Writes the owner's policy.
    ///
    /// # Errors
    /// When they cannot be written.
    pub fn write_policy(&self, text: &str) -> Result<(), HomeError> {
        keyfile::replace(&self.policy(), text.as_bytes()).map_err(HomeError::File)
    }

    /// Whether its disk is nearly full; false if that is unknown.
    pub fn is_disk_full(&self) -> bool {
        fernwart_certs::disk::is_full(&self.0)
    }
}
