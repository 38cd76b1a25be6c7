//! Files of one's own, keys above all: made with mode 0600, there whole or not
//! at all, refused if they are anything else.
//!
//! A key file must be a plain file of the one who reads it, with no rights for
//! others, and reached through no link.

use rustix::fs::{CWD, FileType, Mode, OFlags, RenameFlags};
use rustix::io::Errno;
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

/// Longest key file, bytes.
const LONGEST: u64 = 8 * 1024;

/// A secret file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyFileError {
    /// It cannot be read or written.
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
    /// It is a link, a folder or a device.
    #[error("the key file {path} is not a plain file")]
    NotPlain {
        /// Which file.
        path: PathBuf,
    },
    /// Others may read it.
    #[error("the key file {path} has mode {mode:04o}; others must have no rights: chmod 600 {path}")]
    Mode {
        /// Which file.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// It belongs to somebody else.
    #[error("the key file {path} belongs to user {owner}, not to user {me} who reads it")]
    Owner {
        /// Which file.
        path: PathBuf,
        /// Whose it is.
        owner: u32,
        /// Who reads it.
        me: u32,
    },
    /// Its content is no key of the kind.
    #[error("the key file {path} does not hold a key of its kind")]
    Content {
        /// Which file.
        path: PathBuf,
    },
}

impl KeyFileError {
    /// Writing there has failed.
    pub fn writing(path: &Path, source: io::Error) -> Self {
        Self::Io { doing: "writing", path: path.to_owned(), source }
    }

    /// What the system says, where it did not read or write the file.
    pub fn system(&self) -> Option<io::ErrorKind> {
        match self {
            Self::Io { source, .. } => Some(source.kind()),
            _ => None,
        }
    }

    /// Whether the file is simply not there.
    pub fn is_missing(&self) -> bool {
        self.system() == Some(io::ErrorKind::NotFound)
    }
}

/// Writes a new file, all or nothing; one that exists is left alone and is an
/// error. It is on disk when this returns.
///
/// # Errors
/// When it exists or cannot be written.
pub fn create(path: &Path, secret: &[u8]) -> Result<(), KeyFileError> {
    put(path, secret, |beside| match rustix::fs::renameat_with(CWD, beside, CWD, path, RenameFlags::NOREPLACE) {
        // A file system that cannot say "only if it is new" of a move can of a second name.
        Err(Errno::INVAL | Errno::NOSYS) => {
            std::fs::hard_link(beside, path)?;
            std::fs::remove_file(beside)
        }
        renamed => renamed.map_err(io::Error::from),
    })
}

/// Writes a file, in the place of an older one if there is one, all or nothing.
/// It is on disk when this returns.
///
/// # Errors
/// When it cannot be written.
pub fn replace(path: &Path, secret: &[u8]) -> Result<(), KeyFileError> {
    put(path, secret, |beside| std::fs::rename(beside, path))
}

/// Ends the name of a file that is being written; what has such a name was left by a
/// program that was killed.
pub const UNFINISHED: &str = ".new";

/// Writes a file beside its place and moves it there.
fn put(path: &Path, secret: &[u8], into_place: impl Fn(&Path) -> io::Result<()>) -> Result<(), KeyFileError> {
    // A name of its own: two programs may write the same file at once.
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
            // Not every file system writes its folders when told.
            Err(error) if matches!(error.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported) => Ok(()),
            synced => synced,
        }
    };
    done().map_err(|source| {
        let _ = std::fs::remove_file(&beside);
        KeyFileError::writing(path, source)
    })
}

/// Reads a secret file after looking at the very file that is read.
///
/// # Errors
/// When it is not a plain 0600 file of ours.
pub fn read(path: &Path) -> Result<Vec<u8>, KeyFileError> {
    let failed = |source| KeyFileError::Io { doing: "reading", path: path.to_owned(), source };
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let descriptor = match rustix::fs::open(path, flags, Mode::empty()) {
        Ok(descriptor) => descriptor,
        Err(Errno::LOOP) => return Err(KeyFileError::NotPlain { path: path.to_owned() }),
        Err(error) => return Err(failed(error.into())),
    };
    let stat = rustix::fs::fstat(&descriptor).map_err(|e| failed(e.into()))?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(KeyFileError::NotPlain { path: path.to_owned() });
    }
    let mode = stat.st_mode & 0o7777;
    if mode & 0o077 != 0 {
        return Err(KeyFileError::Mode { path: path.to_owned(), mode });
    }
    let me = rustix::process::geteuid().as_raw();
    if stat.st_uid != me {
        return Err(KeyFileError::Owner { path: path.to_owned(), owner: stat.st_uid, me });
    }
    let mut secret = Vec::new();
    File::from(descriptor).take(LONGEST).read_to_end(&mut secret).map_err(failed)?;
    Ok(secret)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, symlink};

    #[test]
    fn a_key_file_is_made_with_its_mode_and_read_back() {
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
    fn a_key_file_others_may_read_or_behind_a_link_is_refused_by_name() {
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
    }
}
