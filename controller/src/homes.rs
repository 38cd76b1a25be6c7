//! Paths of homes. A home may contain others: `DIR` itself, or `DIR/staff`, `DIR/approver`,
//! `DIR/hub`, as `init` creates them.

use crate::failure::{Exit, Failure, chain};
use crate::prompt;
use fernwart_certs::identity::SigningKey;
use fernwart_certs::keyfile::KeyFileError;
use fernwart_client::{ApproverHome, StaffHome, Unlock};
use fernwart_protocol::id::PublicKey;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};

/// The folder named by `--home` or the environment, or the default one.
#[derive(Debug, Clone)]
pub struct HomePaths {
    home: PathBuf,
    passphrase_file: Option<PathBuf>,
}

impl HomePaths {
    /// From `--home`.
    pub fn new(home: Option<PathBuf>) -> Self {
        let usual = || {
            let data = std::env::var_os("XDG_DATA_HOME").map(PathBuf::from);
            let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".local/share"));
            data.or_else(home).unwrap_or_else(|| PathBuf::from(".")).join("fernwart")
        };
        Self { home: home.unwrap_or_else(usual), passphrase_file: None }
    }

    /// The folder itself.
    pub fn path(&self) -> &Path {
        &self.home
    }

    /// The staff home.
    pub fn staff(&self) -> PathBuf {
        if StaffHome::exists(&self.home) { self.home.clone() } else { self.home.join("staff") }
    }

    /// The approver's home.
    pub fn approver(&self) -> PathBuf {
        if ApproverHome::exists(&self.home) { self.home.clone() } else { self.home.join("approver") }
    }

    /// The hub's home.
    pub fn hub(&self) -> PathBuf {
        if self.home.join("hub.toml").exists() { self.home.clone() } else { self.home.join("hub") }
    }

    /// Where to create a hub's home: the named folder itself if it is called `hub`, as in the
    /// commands that `backup` and `serve` print.
    pub fn new_hub(&self) -> PathBuf {
        let is_named = self.home.file_name().is_some_and(|name| name == "hub") && !self.home.exists();
        if is_named { self.home.clone() } else { self.hub() }
    }

    /// The same place, with a file that holds an approver's passphrase.
    #[must_use]
    pub fn with_passphrase_file(self, passphrase_file: Option<PathBuf>) -> Self {
        Self { passphrase_file, ..self }
    }

    /// Another home, with the same passphrase file.
    #[must_use]
    pub fn elsewhere(&self, home: PathBuf) -> Self {
        Self { home, passphrase_file: self.passphrase_file.clone() }
    }

    /// The passphrase of an approver's key, from the file or typed.
    ///
    /// # Errors
    /// When there is neither a file nor a terminal.
    pub(crate) fn passphrase(&self) -> Result<String, Failure> {
        if let Some(path) = &self.passphrase_file {
            return read_secret(path);
        }
        if !prompt::is_possible() {
            let what = "the approver's key is protected, and there is no terminal to ask for the passphrase";
            return Err(Failure::new(Exit::Usage, "FW-CAT-17", what).now("--passphrase-file FILE"));
        }
        prompt::secret("Passphrase of the approver's key: ", "nothing was signed")
    }

    /// A passphrase for a new key; `None` if nobody can be asked, or none is wanted.
    ///
    /// # Errors
    /// When the file cannot be read, or two typed ones differ.
    pub(crate) fn new_passphrase(&self) -> Result<Option<String>, Failure> {
        if let Some(path) = &self.passphrase_file {
            return read_secret(path).map(Some);
        }
        if !prompt::is_possible() || !std::io::stderr().is_terminal() {
            return Ok(None);
        }
        let nothing = "nothing was made";
        let first = prompt::secret("A passphrase for the approver's key (Enter for none): ", nothing)?;
        if first.is_empty() {
            return Ok(None);
        }
        if prompt::secret("Once more: ", nothing)? != first {
            return Err(Failure::new(Exit::Usage, "FW-CAT-17", "the two passphrases differ; nothing was made"));
        }
        Ok(Some(first))
    }

    /// An approver's key, opened.
    ///
    /// # Errors
    /// When it stays locked.
    pub(crate) fn unlock(&self, home: ApproverHome) -> Result<SigningKey, Failure> {
        home.unlock(|| self.passphrase()).map_err(|error| match error {
            Unlock::Prompt(failure) => failure,
            Unlock::Closed(error) => Failure::new(Exit::Refused, "FW-CAT-17", error.to_string()).now("try again"),
        })
    }
}

/// The first line of a file that others must not read.
pub(crate) fn read_secret(path: &Path) -> Result<String, Failure> {
    let failed = |error: KeyFileError| Failure::new(Exit::Usage, "FW-CLI-10", chain(&error));
    let content = fernwart_certs::keyfile::read(path).map_err(failed)?;
    let text = String::from_utf8_lossy(&content).into_owned();
    let line = text.lines().next().unwrap_or_default();
    if line.is_empty() {
        return Err(Failure::new(Exit::Usage, "FW-CLI-10", format!("{} is empty", path.display())));
    }
    Ok(line.to_owned())
}

/// The prefix of an approver's public key.
pub(crate) const APPROVER_PREFIX: &str = "fwa1-";

/// Reads an approver's public key.
///
/// # Errors
/// When the text is not a key.
pub(crate) fn approver_key(text: &str) -> Result<PublicKey, String> {
    let hex =
        text.strip_prefix(APPROVER_PREFIX).ok_or_else(|| format!("an approver's key begins with {APPROVER_PREFIX}"))?;
    hex.parse().map_err(|_| "this approver's key is incomplete".to_owned())
}
