//! Why a hub's folder cannot be used.

use fernwart_certs::issue::IssueError;
use fernwart_certs::keyfile::{FileError, KeyFileError};
use std::path::PathBuf;

impl HomeError {
    /// A file that only serves to be locked cannot be opened.
    pub(crate) fn of_lock(error: KeyFileError) -> Self {
        match error {
            KeyFileError::Io(error) => Self::Io(error),
            error => Self::Key(error),
        }
    }
}

/// The folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum HomeError {
    /// It is not a hub's folder.
    #[error("{0} is not a hub's folder: hub.toml is not there")]
    NotAHub(PathBuf),
    /// Another hub runs on it.
    #[error("another hub is running on {0}")]
    InUse(PathBuf),
    /// It holds a key that must never be on a hub.
    #[error("{0} is a private key of an approver or of staff; it must not lie on a hub")]
    ForeignKey(PathBuf),
    /// A key file cannot be used.
    #[error(transparent)]
    Key(KeyFileError),
    /// The CA cannot be used.
    #[error("reading the hub's CA")]
    Authority(#[source] IssueError),
    /// A file cannot be read or written.
    #[error(transparent)]
    Io(FileError),
    /// None of its keys of a kind is in the approved `hub.json`.
    #[error("the approved hub.json names no {0} of this hub")]
    NotApproved(&'static str),
    /// The store is missing or empty.
    #[error("{0} is not there, or empty, though this hub has run before: without it no machine is known")]
    StoreLost(PathBuf),
    /// The store belongs to another organisation.
    #[error("{0} is of another shop")]
    ForeignStore(PathBuf),
    /// Its keys are being replaced already.
    #[error("a change of the hub's keys is under way already")]
    InProgress,
    /// Its keys are not being replaced.
    #[error("no change of the hub's keys is under way")]
    NothingInProgress,
    /// `hub.toml` is not right.
    #[error("{path} cannot be used")]
    Settings {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        #[source]
        source: toml::de::Error,
    },
}
