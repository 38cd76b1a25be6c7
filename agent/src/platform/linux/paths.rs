//! Questions about paths that may lie on a mount that hangs.

use crate::collect::budget;
use crate::collect::bytes::read_bytes;
use crate::platform::linux::facts::mounts;
use fernwart_protocol::diagnosis::{Cause, Reason};
use rustix::fs::{CWD, FileType, Mode, OFlags};
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long a mount may take to answer before a script is run without it.
const MOUNT_BUDGET: Duration = Duration::from_millis(800);

/// Remote and FUSE mounts that do not answer or deny access to root, with the reason. A script
/// that touched one could hang.
pub(crate) fn deaf_mounts() -> Vec<(PathBuf, Cause)> {
    let table = mounts::of("self").unwrap_or_default();
    let is_below = |place: &Path, other: &mounts::Mount| other.is_remote() && place.starts_with(&other.path);
    // A mount inside another one is detached together with it.
    let outer = table.iter().filter(|mount| {
        // Of two mounts on one path the later one is visible.
        let covers = |other: &mounts::Mount| other.path != mount.path || other.id > mount.id;
        mount.is_remote() && !table.iter().any(|other| covers(other) && is_below(&mount.path, other))
    });
    let (numbers, asked): (Vec<&str>, Vec<PathBuf>) =
        outer.map(|mount| (mount.number.as_str(), mount.path.clone())).unzip();
    let things = numbers.iter().zip(&asked);
    let things = things.map(|(number, path)| (format!("mount {number} for a script"), path.clone()));
    let until = Instant::now() + 2 * MOUNT_BUDGET;
    // Metadata of its root may be cached; its size must be asked from the server.
    let ask = |path: PathBuf| std::fs::metadata(&path).and_then(|_| Ok(rustix::fs::statvfs(&path).map(drop)?));
    let answers = budget::each(things.collect(), 8, MOUNT_BUDGET, until, ask);
    let deaf = |(path, answer): (PathBuf, Result<std::io::Result<()>, Reason>)| match answer {
        Ok(Ok(())) => None,
        Ok(Err(error)) => Some((path, Cause::new(Reason::NotPermitted, error.to_string()))),
        Err(reason) => Some((path, Cause::new(reason, ""))),
    };
    asked.into_iter().zip(answers).filter_map(deaf).collect()
}

/// The answer to a question about a path. None if it does not answer in time: the path may be on
/// a mount that hangs.
fn of_path<R: Send + 'static>(what: &str, path: &Path, ask: fn(PathBuf) -> R) -> Option<R> {
    let things = vec![(format!("{what} {}", path.display()), path.to_owned())];
    budget::each(things, 1, MOUNT_BUDGET, Instant::now() + MOUNT_BUDGET, ask).pop()?.ok()
}

/// The path with links resolved. None if it does not exist or does not answer.
pub(crate) fn real_path(path: &Path) -> Option<PathBuf> {
    of_path("path", path, |path| std::fs::canonicalize(path).ok()).flatten()
}

/// The file system id of a path; if it does not exist, that of its folder. None if it does not
/// answer.
pub(crate) fn disk_of(path: &Path) -> Option<u64> {
    let ask = |path: PathBuf| path.ancestors().find_map(|path| Some(rustix::fs::statvfs(path).ok()?.f_fsid));
    of_path("disk of", path, ask).flatten()
}

/// Reads a file at a path chosen by others. Only a regular file is opened, never a device or
/// pipe.
///
/// # Errors
/// See [`read_bytes`]; [`std::io::ErrorKind::IsADirectory`] for a folder and
/// [`std::io::ErrorKind::InvalidInput`] for a device, pipe or socket.
pub(crate) fn read_regular(path: &Path) -> std::io::Result<Vec<u8>> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let place = rustix::fs::openat(CWD, path, flags, Mode::empty())?;
    match FileType::from_raw_mode(rustix::fs::fstat(&place)?.st_mode) {
        FileType::RegularFile => read_bytes(format!("/proc/self/fd/{}", place.as_raw_fd())),
        FileType::Directory => Err(std::io::ErrorKind::IsADirectory.into()),
        _ => Err(std::io::ErrorKind::InvalidInput.into()),
    }
}

/// Whether a process holds a lock on a file (/proc/locks: `MAJOR:MINOR:INODE`).
pub(crate) fn is_locked(path: &Path) -> bool {
    let Ok(data) = path.metadata() else { return false };
    let inode = data.ino();
    let locks = crate::collect::read("/proc/locks").unwrap_or_default();
    locks
        .lines()
        .filter_map(|line| line.split_whitespace().nth(5)?.rsplit(':').next()?.parse::<u64>().ok())
        .any(|i| i == inode)
}
