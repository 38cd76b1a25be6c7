//! The agent's folder: what lies where, and what `enroll` has left there.

use fernwart_certs::keyfile::{self, KeyFileError, Others};
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

/// Where the agent lives unless told otherwise.
pub const DEFAULT: &str = "/var/lib/fernwart-agent";

/// The folder.
#[derive(Debug, Clone)]
pub struct Home(PathBuf);

/// What `enroll` has left, in `agent.toml`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Enrollment {
    /// This machine.
    pub machine: MachineId,
    /// Whose it is.
    pub customer: CustomerId,
    /// The customer's name, from the invitation.
    pub customer_name: Text<120>,
    /// The customer's language.
    pub language: Language,
    /// Where the hub was when this machine joined; the catalogue knows newer.
    pub addresses: Vec<Text<255>>,
    /// SHA-256 of the hub's CA certificate then.
    pub ca: Digest,
    /// Version of the root in the invitation.
    pub root_version: u64,
    /// SHA-256 of that root.
    pub root: Digest,
    /// The TLS key that joined: the one the four words were made of.
    pub joined_tls_key: Digest,
    /// When it joined.
    pub joined_at: UnixMs,
}

/// A folder that is being set up by this program and no other.
#[derive(Debug)]
pub struct Held {
    _folder: File,
}

/// The agent's folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum HomeError {
    /// A file cannot be read or written.
    #[error("{doing} {path}")]
    Io {
        /// Reading or writing.
        doing: &'static str,
        /// Which file.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// `agent.toml` is not what `enroll` wrote.
    #[error("{path} is not what enroll has written")]
    Enrollment {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        #[source]
        source: toml::de::Error,
    },
    /// A file cannot be written, or is not as it must be.
    #[error(transparent)]
    File(KeyFileError),
    /// Somebody else is setting it up.
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

    /// Makes the folder, for its owner alone.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn create(&self) -> Result<(), HomeError> {
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.0).map_err(|source| HomeError::Io {
            doing: "making",
            path: self.0.clone(),
            source,
        })
    }

    /// Makes the folder and holds it: nobody else sets it up while this lives.
    ///
    /// # Errors
    /// When it cannot be made, or somebody is setting it up now.
    pub fn hold(&self) -> Result<Held, HomeError> {
        self.create()?;
        // Before anything is spent or written: keys would lie there.
        keyfile::check_folders(&self.enrollment_file()).map_err(HomeError::File)?;
        let failed = |source| HomeError::Io { doing: "holding", path: self.0.clone(), source };
        let folder = File::open(&self.0).map_err(failed)?;
        match flock(&folder, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Held { _folder: folder }),
            Err(Errno::WOULDBLOCK) => Err(HomeError::Held(self.0.clone())),
            Err(error) => Err(failed(error.into())),
        }
    }

    /// Clears away what programs that were killed have left half written. Only while
    /// the folder is held.
    pub fn sweep(&self) {
        let ours =
            [self.evidence_key(), self.sealing_key(), self.tls_identity(), self.policy(), self.enrollment_file()];
        let unfinished = |path: &Path| {
            let name = path.to_str().and_then(|name| name.strip_suffix(keyfile::UNFINISHED)?.rsplit_once('.'));
            name.is_some_and(|(of, number)| ours.iter().any(|own| own == Path::new(of)) && number.len() == 16)
        };
        let entries = std::fs::read_dir(&self.0).into_iter().flatten().flatten();
        for entry in entries.filter(|entry| unfinished(&entry.path())) {
            // Whatever cannot be removed does no harm.
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

    /// The owner's standing word.
    pub fn consent(&self) -> PathBuf {
        self.0.join("owner.json")
    }

    /// The owner's rules.
    pub fn policy(&self) -> PathBuf {
        self.0.join("policy.toml")
    }

    /// The text of the owner's rules. A byte that is no UTF-8 is shown as such.
    ///
    /// # Errors
    /// When there is no such file, or others might have written it.
    pub fn read_policy(&self) -> Result<String, KeyFileError> {
        let bytes = keyfile::read_checked(&self.policy(), Others::Read, keyfile::SETTINGS)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// The folder itself, whatever links lead to it.
    pub fn real_path(&self) -> PathBuf {
        std::fs::canonicalize(&self.0).unwrap_or_else(|_| self.0.clone())
    }

    /// Where the running agent can be asked.
    pub fn socket(&self) -> PathBuf {
        self.0.join("agent.sock")
    }

    /// What `enroll` has left.
    pub fn enrollment_file(&self) -> PathBuf {
        self.0.join("agent.toml")
    }

    /// Whether `enroll` has been here.
    pub fn is_enrolled(&self) -> bool {
        self.enrollment_file().exists()
    }

    /// What `enroll` has left.
    ///
    /// # Errors
    /// When it has not been here, or the file is damaged.
    pub fn enrollment(&self) -> Result<Enrollment, HomeError> {
        let path = self.enrollment_file();
        let bytes = match keyfile::read_checked(&path, Others::Read, keyfile::SETTINGS) {
            Ok(bytes) => bytes,
            Err(error) if error.is_missing() => return Err(HomeError::NotEnrolled(path)),
            Err(error) => return Err(HomeError::File(error)),
        };
        toml::from_str(&String::from_utf8_lossy(&bytes)).map_err(|source| HomeError::Enrollment { path, source })
    }

    /// Leaves what `enroll` has found out; the last thing it does.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write_enrollment(&self, enrollment: &Enrollment) -> Result<(), HomeError> {
        let path = self.enrollment_file();
        let text = toml::to_string(enrollment).map_err(|error| HomeError::Io {
            doing: "writing",
            path: path.clone(),
            source: io::Error::other(error),
        })?;
        keyfile::replace(&path, text.as_bytes()).map_err(HomeError::File)
    }

    /// Leaves the owner's rules.
    ///
    /// # Errors
    /// When they cannot be written.
    pub fn write_policy(&self, text: &str) -> Result<(), HomeError> {
        keyfile::replace(&self.policy(), text.as_bytes()).map_err(HomeError::File)
    }

    /// Whether the disk it lies on is as good as full; no where nobody knows.
    pub fn is_disk_full(&self) -> bool {
        fernwart_certs::disk::is_full(&self.0)
    }
}
