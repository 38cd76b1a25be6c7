//! Which processes have a file open: what a script in a cage cannot see by itself.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant};

/// Time for looking through all processes.
const BUDGET: Duration = Duration::from_secs(2);

/// Processes that are named at most.
const NAMED: usize = 16;

/// The numbers of processes that have this file open; none where there is no such file,
/// and nothing where not all could be looked at in time.
pub(super) fn by(path: &Path) -> Option<Vec<u32>> {
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

/// Compares names and numbers that the kernel tells of what is open: to look at the files
/// themselves could wait for a mount that does not answer.
fn has_open(process: &Path, path: &Path, inode: u64) -> bool {
    let open = std::fs::read_dir(process.join("fd")).into_iter().flatten().flatten();
    open.into_iter().any(|one| {
        let Ok(name) = std::fs::read_link(one.path()) else { return false };
        if name == path {
            return true;
        }
        // In a container it has another path; its inode's number is told from Linux 5.14 on.
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
    fn a_process_that_has_a_file_open_is_found_and_no_other() {
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
