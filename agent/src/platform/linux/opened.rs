//! Finds the processes that have a file open: a caged script cannot see them itself.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant};

/// Time limit for examining all processes.
const BUDGET: Duration = Duration::from_secs(2);

/// Maximum number of processes listed.
const NAMED: usize = 16;

/// The pids of the processes that have this file open; empty if there is no such file. None if
/// not all processes could be examined in time.
pub(crate) fn by(path: &Path) -> Option<Vec<u32>> {
    let Ok(data) = path.symlink_metadata() else { return Some(Vec::new()) };
    if !data.is_file() {
        return Some(Vec::new());
    }
    let until = Instant::now() + BUDGET;
    let mut found = Vec::new();
    for process in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = process.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        if Instant::now() > until {
            return None;
        }
        if found.len() >= NAMED {
            break;
        }
        if has_open(&process.path(), path, data.ino()) {
            found.push(pid);
        }
    }
    Some(found)
}

/// Compares the names and inode numbers that the kernel reports. Opening the files themselves
/// could block on a mount that does not answer.
fn has_open(process: &Path, path: &Path, inode: u64) -> bool {
    let open = std::fs::read_dir(process.join("fd")).into_iter().flatten().flatten();
    open.into_iter().any(|one| {
        let Ok(name) = std::fs::read_link(one.path()) else { return false };
        if name == path {
            return true;
        }
        // In a container it has another path; Linux 5.14 and later report its inode number.
        name.file_name() == path.file_name() && {
            let info = process.join("fdinfo").join(one.file_name());
            let info = std::fs::read_to_string(info).unwrap_or_default();
            info.lines().filter_map(|line| line.strip_prefix("ino:")).any(|ino| ino.trim().parse() == Ok(inode))
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_processes_that_have_a_file_open_are_found() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().canonicalize().expect("there").join("till.lock");
        let by = |path: &Path| by(path).expect("in time");
        assert_eq!(by(&path), Vec::<u32>::new(), "there is none");
        std::fs::write(&path, "").expect("written");
        assert_eq!(by(&path), Vec::<u32>::new());
        let open = std::fs::File::open(&path).expect("open");
        assert_eq!(by(&path), [std::process::id()]);
        drop(open);
        assert_eq!(by(&path), Vec::<u32>::new());
    }
}
