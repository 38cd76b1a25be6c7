//! Backs up a complete hub while it runs, and restores it.
//!
//! A backup holds the hub's keys: a thief of it can do what a thief of the hub can, which is to
//! read and delay orders, not to run anything. A restored hub knows less than its machines; they
//! notice at their next hello and return what it lacks.

use crate::HubHome;
use fernwart_certs::keyfile;
use fernwart_protocol::document::UnixMs;
use fernwart_store::{Store, StoreError};
use std::fs::{DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// A backup could not be taken or restored; the target is unchanged.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// The target exists already.
    #[error("{0} is there already")]
    Exists(PathBuf),
    /// The target lies inside the folder to be copied.
    #[error("{0} lies in the hub's own folder")]
    Inside(PathBuf),
    /// The source folder holds no hub.
    #[error("{0} holds no hub")]
    NotAHub(PathBuf),
    /// The store cannot be copied.
    #[error("copying the hub's store")]
    Store(#[source] StoreError),
    /// The copy of the store is damaged.
    #[error("the store in {0} is damaged")]
    Damaged(PathBuf),
    /// A file cannot be copied.
    #[error("copying {path}")]
    Io {
        /// Which.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
}

/// Maximum depth of folders below the home.
const DEEPEST: u32 = 8;

/// Whether a backup leaves this file out: the databases (the store is copied by SQLite, the facts
/// can be rebuilt), the lock, and unfinished files.
fn is_left_out(name: &str) -> bool {
    let is_database = name.starts_with("store.sqlite") || name.starts_with("facts.sqlite");
    is_database || name == "lock" || name.ends_with(keyfile::UNFINISHED)
}

/// Copies a hub into a new folder, for its owner alone. The hub may be running.
///
/// # Errors
/// When the target exists, or the disk cannot take all of it; then nothing is left there.
pub async fn back_up(home: &HubHome, to: &Path) -> Result<(), BackupError> {
    if !home.is_one() {
        return Err(BackupError::NotAHub(home.path().to_owned()));
    }
    copy(home.path(), &home.store(), to, None).await.map(drop)
}

/// Restores a hub's folder from a backup. Returns how many waiting orders were ended by it.
///
/// # Errors
/// When there is a hub already, or the backup is incomplete; then nothing is left there.
pub async fn put_back(from: &Path, home: &HubHome, now: UnixMs) -> Result<u64, BackupError> {
    let backup = HubHome::at(from);
    if !backup.is_one() {
        return Err(BackupError::NotAHub(from.to_owned()));
    }
    if !Store::is_complete(&backup.store()).await.map_err(BackupError::Store)? {
        return Err(BackupError::Damaged(from.to_owned()));
    }
    copy(from, &backup.store(), home.path(), Some(now)).await
}

fn failed(path: &Path) -> impl FnOnce(io::Error) -> BackupError {
    let path = path.to_owned();
    move |source| BackupError::Io { path, source }
}

/// Copies all or nothing: the folder gets its name once everything is on disk. With `restored`, the
/// copy is also prepared to run as a restored hub from that time on. Returns how many orders were
/// ended.
async fn copy(from: &Path, store: &Path, to: &Path, restored: Option<UnixMs>) -> Result<u64, BackupError> {
    if to.symlink_metadata().is_ok() {
        return Err(BackupError::Exists(to.to_owned()));
    }
    let to = std::path::absolute(to).map_err(failed(to))?;
    if let Some(parent) = to.parent().filter(|parent| !parent.exists()) {
        DirBuilder::new().recursive(true).mode(0o700).create(parent).map_err(failed(parent))?;
    }
    let (Some(parent), Some(name)) = (to.parent(), to.file_name()) else { return Err(BackupError::Exists(to)) };
    let (parent, inside) =
        (std::fs::canonicalize(parent).map_err(failed(parent))?, std::fs::canonicalize(from).map_err(failed(from))?);
    if parent.starts_with(&inside) {
        return Err(BackupError::Inside(to));
    }
    // A random name cannot collide with a file that exists.
    let beside = fernwart_certs::random::<8>().iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let beside = parent.join(format!(".{}.{beside}", name.to_string_lossy()));
    folder(&beside)?;
    let copied = async {
        fill(from, store, &beside).await?;
        let mut over = 0;
        if let Some(now) = restored {
            let home = HubHome::at(&beside);
            home.mark_restored().map_err(failed(&beside))?;
            over = Store::put_back(&home.store(), now).await.map_err(BackupError::Store)?;
        }
        std::fs::rename(&beside, &to).map_err(failed(&to))?;
        File::open(&parent).and_then(|folder| folder.sync_all()).map_err(failed(&parent))?;
        Ok(over)
    };
    let copied = copied.await;
    if copied.is_err() {
        // Nobody needs an incomplete copy.
        let _ = std::fs::remove_dir_all(&beside);
    }
    copied
}

async fn fill(from: &Path, store: &Path, to: &Path) -> Result<(), BackupError> {
    files(from, to, 0)?;
    let copy = to.join("store.sqlite");
    Store::copy(store, &copy).await.map_err(BackupError::Store)?;
    let file = File::open(&copy).map_err(failed(&copy))?;
    file.set_permissions(PermissionsExt::from_mode(0o600)).map_err(failed(&copy))?;
    file.sync_all().map_err(failed(&copy))?;
    File::open(to).and_then(|folder| folder.sync_all()).map_err(failed(to))
}

/// A new folder, for its owner alone.
fn folder(path: &Path) -> Result<(), BackupError> {
    DirBuilder::new().mode(0o700).create(path).map_err(failed(path))
}

fn files(from: &Path, to: &Path, depth: u32) -> Result<(), BackupError> {
    for entry in std::fs::read_dir(from).map_err(failed(from))? {
        let entry = entry.map_err(failed(from))?;
        let (path, name) = (entry.path(), entry.file_name());
        let kind = entry.file_type().map_err(failed(&path))?;
        let there = to.join(&name);
        if kind.is_dir() && depth < DEEPEST {
            folder(&there)?;
            files(&path, &there, depth + 1)?;
            File::open(&there).and_then(|folder| folder.sync_all()).map_err(failed(&there))?;
        } else if kind.is_file() && !(depth == 0 && name.to_str().is_some_and(is_left_out)) {
            let mut source = File::open(&path).map_err(failed(&path))?;
            let mut options = OpenOptions::new();
            let mut copy = options.write(true).create_new(true).mode(0o600).open(&there).map_err(failed(&there))?;
            io::copy(&mut source, &mut copy).and_then(|_| copy.sync_all()).map_err(failed(&there))?;
        }
    }
    Ok(())
}
