//! Security-relevant files: keys, rules, records. They are created with mode 0600, written
//! atomically, and rejected if they are unsafe.
//!
//! A safe file is a plain file, owned by its reader, with no excess rights for others, and not too
//! long. It is no symbolic link, and no folder on its path lets another user replace it.

use rustix::fs::{CWD, FileType, Mode, OFlags, RenameFlags, Stat};
use rustix::io::Errno;
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

/// Longest key file, bytes.
const LONGEST: u64 = 8 * 1024;

/// Maximum length of a file of settings, rules or consent, bytes.
pub const SETTINGS: u64 = 64 * 1024;

/// What other users may do with a security-relevant file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Others {
    /// Nothing: it holds a secret. It must belong to its reader.
    Nothing,
    /// Read it. It must belong to its reader or to root.
    Read,
}

/// A file cannot be read or written.
#[derive(Debug, thiserror::Error)]
#[error("{doing} {path}")]
pub struct FileError {
    doing: &'static str,
    path: PathBuf,
    /// The system's error.
    source: io::Error,
}

impl FileError {
    /// Makes the error of a system call at this path; `doing` is `reading`, `writing` and the like.
    pub fn at(doing: &'static str, path: &Path) -> impl Fn(io::Error) -> Self + use<> {
        let path = path.to_owned();
        move |source| Self { doing, path: path.clone(), source }
    }

    /// Where.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The system's error.
    pub fn system(&self) -> &io::Error {
        &self.source
    }

    /// The system's error, alone.
    pub fn into_system(self) -> io::Error {
        self.source
    }
}

/// A security-relevant file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyFileError {
    /// It cannot be read or written.
    #[error(transparent)]
    Io(FileError),
    /// It is a link, a folder or a device.
    #[error("{path} is not a plain file")]
    NotPlain {
        /// Which file.
        path: PathBuf,
    },
    /// Other users may read or write it.
    #[error("{path} has mode {mode:04o}; others must have no rights: chmod 600 {path}")]
    Mode {
        /// Which file.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// It belongs to another user.
    #[error("{path} belongs to user {owner}, not to user {me} who reads it: chown {me} {path}")]
    Owner {
        /// Which file.
        path: PathBuf,
        /// Its owner.
        owner: u32,
        /// The user who reads it.
        me: u32,
    },
    /// Its content is no key of the expected kind.
    #[error("{path} does not hold a key of its kind")]
    Content {
        /// Which file.
        path: PathBuf,
    },
    /// It is longer than allowed.
    #[error("{path} is longer than {most} bytes")]
    TooLong {
        /// Which file.
        path: PathBuf,
        /// The maximum, bytes.
        most: u64,
    },
    /// Other users could replace it by another file.
    #[error(
        "others may change what lies in {folder} (mode {mode:04o}, of user {owner}): it must be root's or one's own, chmod go-w {folder}"
    )]
    Folder {
        /// Which folder on the path.
        folder: PathBuf,
        /// Its mode.
        mode: u32,
        /// Its owner.
        owner: u32,
    },
}

impl KeyFileError {
    /// An error from writing a file.
    pub fn writing(path: &Path, source: io::Error) -> Self {
        Self::Io(FileError::at("writing", path)(source))
    }

    /// The system's error, if it could not read or write the file.
    pub fn system(&self) -> Option<io::ErrorKind> {
        match self {
            Self::Io(error) => Some(error.system().kind()),
            _ => None,
        }
    }

    /// Whether the file does not exist.
    pub fn is_missing(&self) -> bool {
        self.system() == Some(io::ErrorKind::NotFound)
    }
}

/// Writes a new file atomically; an existing one is left unchanged and is an error. It is on disk
/// when this returns.
///
/// # Errors
/// When it exists or cannot be written.
pub fn create(path: &Path, secret: &[u8]) -> Result<(), KeyFileError> {
    put(path, secret, |beside| match rustix::fs::renameat_with(CWD, beside, CWD, path, RenameFlags::NOREPLACE) {
        // A file system without an exclusive rename can still create a hard link.
        Err(Errno::INVAL | Errno::NOSYS) => {
            std::fs::hard_link(beside, path)?;
            std::fs::remove_file(beside)
        }
        renamed => renamed.map_err(io::Error::from),
    })
}

/// Writes a file atomically, replacing an existing one. It is on disk when this returns.
///
/// # Errors
/// When it cannot be written.
pub fn replace(path: &Path, secret: &[u8]) -> Result<(), KeyFileError> {
    put(path, secret, |beside| std::fs::rename(beside, path))
}

/// Suffix of a file that is being written. A remaining file with this suffix was left by a program
/// that was killed.
pub const UNFINISHED: &str = ".new";

/// Writes a temporary file in the same folder and moves it to its place.
fn put(path: &Path, secret: &[u8], into_place: impl Fn(&Path) -> io::Result<()>) -> Result<(), KeyFileError> {
    // A random name, since two programs may write the same file at once.
    let mut beside = path.as_os_str().to_owned();
    beside.push(format!(".{:016x}{UNFINISHED}", u64::from_ne_bytes(crate::random())));
    let beside = PathBuf::from(beside);
    let folder = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let done = || {
        let folder = File::open(folder)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut file = File::from(rustix::fs::open(&beside, flags, Mode::RUSR | Mode::WUSR)?);
        file.write_all(secret)?;
        file.sync_all()?;
        into_place(&beside)?;
        match folder.sync_all() {
            // Not every file system supports syncing a folder.
            Err(error) if matches!(error.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported) => Ok(()),
            synced => synced,
        }
    };
    done().map_err(|source| {
        let _ = std::fs::remove_file(&beside);
        KeyFileError::writing(path, source)
    })
}

/// Reads a secret file after checking the opened file itself.
///
/// # Errors
/// When it is not a plain file with mode 0600 of this user, in a safe folder.
pub fn read(path: &Path) -> Result<Vec<u8>, KeyFileError> {
    read_checked(path, Others::Nothing, LONGEST)
}

/// Reads a security-relevant file of at most `most` bytes.
///
/// # Errors
/// When it is unsafe: see [`open`].
pub fn read_checked(path: &Path, others: Others, most: u64) -> Result<Vec<u8>, KeyFileError> {
    let too_long = || KeyFileError::TooLong { path: path.to_owned(), most };
    let failed = |error| KeyFileError::Io(FileError::at("reading", path)(error));
    let file = open(path, others, OFlags::RDONLY)?;
    if file.metadata().map_err(failed)?.len() > most {
        return Err(too_long());
    }
    let mut bytes = Vec::new();
    file.take(most + 1).read_to_end(&mut bytes).map_err(failed)?;
    // It may have grown after the check.
    if bytes.len() as u64 > most { Err(too_long()) } else { Ok(bytes) }
}

/// Opens a security-relevant file after checking the opened file itself and all folders on its
/// path.
///
/// # Errors
/// When it is no plain file, of another user, open to others, or could be replaced by them.
pub fn open(path: &Path, others: Others, how: OFlags) -> Result<File, KeyFileError> {
    let file = open_plain(path, others, how)?;
    check_folders(path)?;
    Ok(file)
}

/// Like [`open`], for reading a file to which others have no access, without checking the folders.
///
/// # Errors
/// When it is no plain file, of another user, or open to others.
pub fn open_alone(path: &Path) -> Result<File, KeyFileError> {
    open_plain(path, Others::Nothing, OFlags::RDONLY)
}

/// Opens a file that only serves to be locked, and makes it if need be.
///
/// # Errors
/// When it is no plain file, or cannot be made.
pub fn open_lock(path: &Path) -> Result<File, KeyFileError> {
    Ok(open_regular(path, OFlags::RDWR | OFlags::CREATE)?.0)
}

/// Opens a regular file, without following a link or waiting for a pipe.
fn open_regular(path: &Path, how: OFlags) -> Result<(File, Stat), KeyFileError> {
    let failed = |error: Errno| KeyFileError::Io(FileError::at("reading", path)(error.into()));
    let flags = how | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let descriptor = match rustix::fs::open(path, flags, Mode::RUSR | Mode::WUSR) {
        Ok(descriptor) => descriptor,
        // A symbolic link, a socket, or a folder.
        Err(Errno::LOOP | Errno::NXIO | Errno::ISDIR) => return Err(KeyFileError::NotPlain { path: path.to_owned() }),
        Err(error) => return Err(failed(error)),
    };
    let stat = rustix::fs::fstat(&descriptor).map_err(failed)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(KeyFileError::NotPlain { path: path.to_owned() });
    }
    Ok((File::from(descriptor), stat))
}

fn open_plain(path: &Path, others: Others, how: OFlags) -> Result<File, KeyFileError> {
    let (file, stat) = open_regular(path, how)?;
    let mode = stat.st_mode & 0o7777;
    let (forbidden, roots) = match others {
        Others::Nothing => (0o077, false),
        Others::Read => (0o022, true),
    };
    if mode & forbidden != 0 {
        return Err(KeyFileError::Mode { path: path.to_owned(), mode });
    }
    let me = rustix::process::geteuid().as_raw();
    if stat.st_uid != me && !(roots && stat.st_uid == 0) {
        return Err(KeyFileError::Owner { path: path.to_owned(), owner: stat.st_uid, me });
    }
    Ok(file)
}

/// Checks that only this user and root can replace this file, through its folder or any other
/// folder on its path.
///
/// # Errors
/// The first folder that another user may change.
pub fn check_folders(path: &Path) -> Result<(), KeyFileError> {
    let failed = |error| KeyFileError::Io(FileError::at("reading", path)(error));
    let path = std::path::absolute(path).map_err(failed)?;
    let own = path.parent().unwrap_or(Path::new("/"));
    let real = std::fs::canonicalize(own).map_err(failed)?;
    // If a part of the path is a symbolic link, check the folders of the link, too.
    real.ancestors().chain(own.ancestors()).try_for_each(check_folder)
}

/// In a folder with the sticky bit, such as `/tmp`, users cannot move each other's files.
fn check_folder(folder: &Path) -> Result<(), KeyFileError> {
    let stat =
        rustix::fs::stat(folder).map_err(|error| KeyFileError::Io(FileError::at("reading", folder)(error.into())))?;
    let (mode, owner) = (stat.st_mode & 0o7777, stat.st_uid);
    let is_shared = mode & 0o022 != 0 && mode & 0o1000 == 0;
    let is_ours = owner == rustix::process::geteuid().as_raw() || owner == 0 || is_nobody_here(owner);
    if is_ours && !is_shared { Ok(()) } else { Err(KeyFileError::Folder { folder: folder.to_owned(), mode, owner }) }
}

/// Whether this owner stands for accounts that do not exist here: in a rootless container, those of
/// the host.
fn is_nobody_here(owner: u32) -> bool {
    let number = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let all = ["0", "0", "4294967295"];
    number("/proc/sys/kernel/overflowuid").trim().parse() == Ok(owner)
        && !number("/proc/self/uid_map").split_whitespace().eq(all)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, symlink};

    #[test]
    fn a_lock_that_is_no_plain_file_is_refused_at_once() {
        let home = tempfile::tempdir().expect("a folder");
        let lock = home.path().join("lock");
        assert!(open_lock(&lock).is_ok() && open_lock(&lock).is_ok());
        let is_refused = || matches!(open_lock(&lock), Err(KeyFileError::NotPlain { .. }));
        std::fs::remove_file(&lock).expect("removed");
        std::fs::create_dir(&lock).expect("a folder");
        assert!(is_refused());
        std::fs::remove_dir(&lock).expect("removed");
        let victim = home.path().join("victim");
        std::os::unix::fs::symlink(&victim, &lock).expect("a link");
        assert!(is_refused() && !victim.exists());
        std::fs::remove_file(&lock).expect("removed");
        rustix::fs::mknodat(rustix::fs::CWD, &lock, rustix::fs::FileType::Fifo, Mode::RUSR, 0).expect("a pipe");
        assert!(is_refused());
    }

    #[test]
    fn a_key_file_is_created_with_mode_0600_and_read_back() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("a.key");
        create(&path, b"secret").expect("written");
        let mode = std::fs::metadata(&path).expect("there").permissions().mode();
        assert_eq!(mode & 0o7777, 0o600);
        assert_eq!(read(&path).expect("read"), b"secret");
        assert!(create(&path, b"other").is_err(), "an existing key is never overwritten");
        replace(&path, b"other").expect("replaced");
        assert_eq!(read(&path).expect("read"), b"other");
    }

    #[test]
    fn a_key_file_that_is_readable_by_others_or_a_symlink_is_rejected_by_name() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("a.key");
        create(&path, b"secret").expect("written");
        let link = folder.path().join("link.key");
        symlink(&path, &link).expect("linked");
        assert!(matches!(read(&link), Err(KeyFileError::NotPlain { .. })));
        assert!(matches!(read(folder.path()), Err(KeyFileError::Mode { .. } | KeyFileError::NotPlain { .. })));
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o644)).expect("opened");
        let error = read(&path).expect_err("refused").to_string();
        assert!(error.contains("a.key") && error.contains("0644"), "{error}");
        // A file that is no secret may be read by others, but only written by its owner.
        assert_eq!(read_checked(&path, Others::Read, 6).expect("read"), b"secret");
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o620)).expect("opened");
        assert!(matches!(read_checked(&path, Others::Read, 6), Err(KeyFileError::Mode { .. })));
    }

    #[test]
    fn an_oversized_file_or_a_pipe_is_rejected_without_blocking() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("rules");
        create(&path, &[b'x'; 100]).expect("written");
        assert!(matches!(read_checked(&path, Others::Read, 99), Err(KeyFileError::TooLong { most: 99, .. })));
        assert!(read_checked(&path, Others::Read, 100).is_ok());
        let pipe = folder.path().join("pipe");
        rustix::fs::mknodat(CWD, &pipe, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).expect("made");
        assert!(matches!(read(&pipe), Err(KeyFileError::NotPlain { .. })));
        let socket = folder.path().join("socket");
        let _listener = std::os::unix::net::UnixListener::bind(&socket).expect("bound");
        assert!(matches!(read(&socket), Err(KeyFileError::NotPlain { .. })));
    }

    #[test]
    fn a_path_with_a_folder_that_others_may_change_is_rejected() {
        let top = tempfile::tempdir().expect("a folder");
        let above = top.path().join("way");
        let home = above.join("home");
        std::fs::create_dir_all(&home).expect("made");
        let path = home.join("a.key");
        create(&path, b"secret").expect("written");
        let mode = |folder: &Path, mode| {
            std::fs::set_permissions(folder, PermissionsExt::from_mode(mode)).expect("set");
        };
        mode(&above, 0o755);
        mode(&home, 0o755);
        assert!(read(&path).is_ok());
        for (folder, bits, refused) in [
            (&home, 0o775, true),
            (&home, 0o757, true),
            (&home, 0o1777, false),
            (&above, 0o777, true),
            (&above, 0o1777, false),
        ] {
            mode(folder, bits);
            let result = read(&path);
            let named = matches!(&result, Err(KeyFileError::Folder { folder: named, .. }) if named.ends_with(folder.file_name().expect("a name")));
            assert_eq!((named, result.is_ok()), (refused, !refused), "{bits:o} {result:?}");
            mode(folder, 0o755);
        }
        // A symbolic link on the path, in a folder where anybody may replace it.
        let open = top.path().join("open");
        std::fs::create_dir(&open).expect("made");
        symlink(&home, open.join("home")).expect("linked");
        mode(&open, 0o777);
        assert!(matches!(read(&open.join("home/a.key")), Err(KeyFileError::Folder { .. })));
        mode(&open, 0o755);
        assert!(read(&open.join("home/a.key")).is_ok());
    }
}
