//! Files that decide something: keys, rules, records. Made with mode 0600, there
//! whole or not at all, refused if they are anything else.
//!
//! Such a file must be a plain file of the one who reads it, with no rights for
//! others that it must not give, no longer than it may be, and reached through no
//! link and through no folder in which somebody else could put another in its place.

use rustix::fs::{CWD, FileType, Mode, OFlags, RenameFlags};
use rustix::io::Errno;
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

/// Longest key file, bytes.
const LONGEST: u64 = 8 * 1024;

/// Longest file of settings, rules or consent, bytes.
pub const SETTINGS: u64 = 64 * 1024;

/// What others may do with a file that is believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Others {
    /// Nothing: it holds a secret. It belongs to whoever reads it.
    Nothing,
    /// Read it. It belongs to whoever reads it, or to root.
    Read,
}

/// A file that decides something cannot be used.
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
    #[error("{path} is not a plain file")]
    NotPlain {
        /// Which file.
        path: PathBuf,
    },
    /// Others may read or write it.
    #[error("{path} has mode {mode:04o}; others must have no rights: chmod 600 {path}")]
    Mode {
        /// Which file.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// It belongs to somebody else.
    #[error("{path} belongs to user {owner}, not to user {me} who reads it: chown {me} {path}")]
    Owner {
        /// Which file.
        path: PathBuf,
        /// Whose it is.
        owner: u32,
        /// Who reads it.
        me: u32,
    },
    /// Its content is no key of the kind.
    #[error("{path} does not hold a key of its kind")]
    Content {
        /// Which file.
        path: PathBuf,
    },
    /// It is longer than any such file.
    #[error("{path} is longer than {most} bytes")]
    TooLong {
        /// Which file.
        path: PathBuf,
        /// The longest, bytes.
        most: u64,
    },
    /// Others could put another file in its place.
    #[error(
        "others may change what lies in {folder} (mode {mode:04o}, of user {owner}): it must be root's or one's own, chmod go-w {folder}"
    )]
    Folder {
        /// Which folder, on the way to the file.
        folder: PathBuf,
        /// Its mode.
        mode: u32,
        /// Whose it is.
        owner: u32,
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
/// When it is not a plain 0600 file of ours, in a folder of ours.
pub fn read(path: &Path) -> Result<Vec<u8>, KeyFileError> {
    read_checked(path, Others::Nothing, LONGEST)
}

/// Reads a file that decides something, of `most` bytes at most.
///
/// # Errors
/// When it is not as it must be: [`open`].
pub fn read_checked(path: &Path, others: Others, most: u64) -> Result<Vec<u8>, KeyFileError> {
    let too_long = || KeyFileError::TooLong { path: path.to_owned(), most };
    let failed = |source| KeyFileError::Io { doing: "reading", path: path.to_owned(), source };
    let file = open(path, others, OFlags::RDONLY)?;
    if file.metadata().map_err(failed)?.len() > most {
        return Err(too_long());
    }
    let mut bytes = Vec::new();
    file.take(most + 1).read_to_end(&mut bytes).map_err(failed)?;
    // It may have grown since.
    if bytes.len() as u64 > most { Err(too_long()) } else { Ok(bytes) }
}

/// Opens a file that decides something, after looking at the very file that is opened
/// and at all folders on the way to it.
///
/// # Errors
/// When it is no plain file, not ours, open to others, or could be exchanged by them.
pub fn open(path: &Path, others: Others, how: OFlags) -> Result<File, KeyFileError> {
    let file = open_plain(path, others, how)?;
    check_folders(path)?;
    Ok(file)
}

/// The same for reading a file that is nobody else's at all, and without the folders.
///
/// # Errors
/// When it is no plain file, not ours, or open to others.
pub fn open_alone(path: &Path) -> Result<File, KeyFileError> {
    open_plain(path, Others::Nothing, OFlags::RDONLY)
}

fn open_plain(path: &Path, others: Others, how: OFlags) -> Result<File, KeyFileError> {
    let failed = |source| KeyFileError::Io { doing: "reading", path: path.to_owned(), source };
    let flags = how | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let descriptor = match rustix::fs::open(path, flags, Mode::RUSR | Mode::WUSR) {
        Ok(descriptor) => descriptor,
        // A link, or a socket.
        Err(Errno::LOOP | Errno::NXIO) => return Err(KeyFileError::NotPlain { path: path.to_owned() }),
        Err(error) => return Err(failed(error.into())),
    };
    let stat = rustix::fs::fstat(&descriptor).map_err(|e| failed(e.into()))?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(KeyFileError::NotPlain { path: path.to_owned() });
    }
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
    Ok(File::from(descriptor))
}

/// Whether nobody but us and root can put another file in this one's place: by the
/// folder it lies in, or by one on the way there.
///
/// # Errors
/// The first folder that somebody else may change.
pub fn check_folders(path: &Path) -> Result<(), KeyFileError> {
    let failed = |source| KeyFileError::Io { doing: "reading", path: path.to_owned(), source };
    let path = std::path::absolute(path).map_err(failed)?;
    let own = path.parent().unwrap_or(Path::new("/"));
    let real = std::fs::canonicalize(own).map_err(failed)?;
    // Where a part of the way is a link, it matters where the link lies, too.
    real.ancestors().chain(own.ancestors()).try_for_each(check_folder)
}

/// In a folder like `/tmp`, with its sticky bit, nobody moves what is another's.
fn check_folder(folder: &Path) -> Result<(), KeyFileError> {
    let stat = rustix::fs::stat(folder).map_err(|error| KeyFileError::Io {
        doing: "reading",
        path: folder.to_owned(),
        source: error.into(),
    })?;
    let (mode, owner) = (stat.st_mode & 0o7777, stat.st_uid);
    let is_shared = mode & 0o022 != 0 && mode & 0o1000 == 0;
    let is_ours = owner == rustix::process::geteuid().as_raw() || owner == 0 || is_nobody_here(owner);
    if is_ours && !is_shared { Ok(()) } else { Err(KeyFileError::Folder { folder: folder.to_owned(), mode, owner }) }
}

/// Whether this stands for accounts that do not exist in here: in a container of an
/// ordinary user, what is the host's.
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
        // What is no secret may be read by others, and written by nobody else.
        assert_eq!(read_checked(&path, Others::Read, 6).expect("read"), b"secret");
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o620)).expect("opened");
        assert!(matches!(read_checked(&path, Others::Read, 6), Err(KeyFileError::Mode { .. })));
    }

    #[test]
    fn what_is_too_long_or_no_file_at_all_keeps_nobody_waiting() {
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
    fn a_folder_that_others_may_change_is_named_wherever_it_is_on_the_way() {
        let top = tempfile::tempdir().expect("a folder");
        let way = top.path().join("way");
        let home = way.join("home");
        std::fs::create_dir_all(&home).expect("made");
        let path = home.join("a.key");
        create(&path, b"secret").expect("written");
        let mode = |folder: &Path, mode| {
            std::fs::set_permissions(folder, PermissionsExt::from_mode(mode)).expect("set");
        };
        mode(&way, 0o755);
        mode(&home, 0o755);
        assert!(read(&path).is_ok());
        for (folder, bits, refused) in [
            (&home, 0o775, true),
            (&home, 0o757, true),
            (&home, 0o1777, false),
            (&way, 0o777, true),
            (&way, 0o1777, false),
        ] {
            mode(folder, bits);
            let said = read(&path);
            let named = matches!(&said, Err(KeyFileError::Folder { folder: named, .. }) if named.ends_with(folder.file_name().expect("a name")));
            assert_eq!((named, said.is_ok()), (refused, !refused), "{bits:o} {said:?}");
            mode(folder, 0o755);
        }
        // A link on the way, in a folder where anybody may turn it.
        let open = top.path().join("open");
        std::fs::create_dir(&open).expect("made");
        symlink(&home, open.join("home")).expect("linked");
        mode(&open, 0o777);
        assert!(matches!(read(&open.join("home/a.key")), Err(KeyFileError::Folder { .. })));
        mode(&open, 0o755);
        assert!(read(&open.join("home/a.key")).is_ok());
    }
}
