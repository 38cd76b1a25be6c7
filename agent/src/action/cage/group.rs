//! Control groups, version 2, without systemd.

use fernwart_protocol::script::Limits;
use std::io;
use std::path::{Path, PathBuf};

const TREE: &str = "/sys/fs/cgroup";
const OURS: &str = "/sys/fs/cgroup/fernwart";

pub(super) fn is_there() -> bool {
    let controllers = std::fs::read_to_string(Path::new(TREE).join("cgroup.controllers")).unwrap_or_default();
    ["memory", "pids", "cpu"].iter().all(|wanted| controllers.split_whitespace().any(|one| one == *wanted))
}

/// Where one for a run is.
pub(super) fn path(run: &str) -> PathBuf {
    Path::new(OURS).join(run)
}

/// Makes one for a run.
pub(in crate::action) fn make(run: &str, limits: &Limits) -> io::Result<PathBuf> {
    let ours = Path::new(OURS);
    std::fs::create_dir_all(ours)?;
    for folder in [Path::new(TREE), ours] {
        std::fs::write(folder.join("cgroup.subtree_control"), "+memory +pids +cpu")?;
    }
    let path = path(run);
    std::fs::create_dir(&path)?;
    std::fs::write(path.join("memory.max"), (u64::from(limits.memory_mib) << 20).to_string())?;
    // Not everywhere: without swap there is no such file.
    let _ = std::fs::write(path.join("memory.swap.max"), "0");
    std::fs::write(path.join("pids.max"), (limits.processes + 2).to_string())?;
    if let Some(pct) = limits.cpu_pct {
        std::fs::write(path.join("cpu.max"), format!("{} 100000", u64::from(pct) * 1000))?;
    }
    Ok(path)
}

/// Ends whatever is left in it, and removes it.
pub(in crate::action) fn remove(path: &Path) {
    let _ = std::fs::write(path.join("cgroup.kill"), "1");
    for _ in 0..50 {
        match std::fs::remove_dir(path) {
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy => {
                std::thread::sleep(std::time::Duration::from_millis(10));
            }
            _ => return,
        }
    }
}
