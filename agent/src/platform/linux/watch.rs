//! Adds up the resources a script and its children use, and reports when a limit is exceeded.
//!
//! The second line of defence where control groups enforce the limits, the only one where there
//! are none.

use fernwart_protocol::script::{Limits, Stopped};
use std::collections::HashSet;
use std::time::{Duration, Instant};

/// How often it is added up. A script that grows by 1 GiB a second exceeds its limit by 50 MiB
/// before it is noticed; each process has a limit of its own, too.
pub(crate) const EVERY: Duration = Duration::from_millis(50);

/// Maximum number of processes examined: more exceed any limit anyway.
const MOST: usize = 5000;

/// A process and all of its descendants.
pub(crate) fn family(first: u32) -> HashSet<u32> {
    let mut all = HashSet::from([first]);
    let mut open = vec![first];
    while let Some(pid) = open.pop() {
        let Ok(tasks) = std::fs::read_dir(format!("/proc/{pid}/task")) else { continue };
        for task in tasks.flatten() {
            let children = std::fs::read_to_string(task.path().join("children")).unwrap_or_default();
            for child in children.split_whitespace().filter_map(|child| child.parse().ok()) {
                if all.len() < MOST && all.insert(child) {
                    open.push(child);
                }
            }
        }
    }
    all
}

/// Size of each of the script's two folders in memory, MiB. Their content counts as the script's
/// memory.
pub(crate) fn folder_mib(memory_mib: u32) -> u32 {
    (memory_mib / 4).max(1)
}

/// Threads of a family.
fn threads(family: &HashSet<u32>) -> usize {
    let of = |pid: &u32| std::fs::read_dir(format!("/proc/{pid}/task")).map_or(0, Iterator::count);
    family.iter().map(of).sum()
}

/// Average number of threads a process may have.
const THREADS: usize = 16;

/// Content of the script's folders in memory, KiB, as seen by one of its processes. Before they
/// are mounted, the machine's folders are visible there, which have another size.
fn folders_kib(family: &HashSet<u32>, first: u32, limits: &Limits) -> u64 {
    // The outer program sees the machine's folders; those inside see the script's.
    let Some(inner) = family.iter().filter(|pid| **pid != first).max() else { return 0 };
    let used = |folder: &str| {
        let stat = rustix::fs::statvfs(format!("/proc/{inner}/root{folder}")).ok()?;
        let is_own = stat.f_blocks.saturating_mul(stat.f_frsize) == u64::from(folder_mib(limits.memory_mib)) << 20;
        is_own.then_some(stat.f_blocks.saturating_sub(stat.f_bfree).saturating_mul(stat.f_frsize) / 1024)
    };
    ["/tmp", "/var/tmp"].into_iter().filter_map(used).sum()
}

/// Memory of a process, KiB: anonymous memory, shared memory and page tables, without mapped
/// files.
fn own_kib(pid: u32) -> u64 {
    status_kib(pid, &["RssAnon:", "RssShmem:", "VmPTE:"])
}

/// The sum of these lines of a process's status, KiB.
fn status_kib(pid: u32, names: &[&str]) -> u64 {
    let text = crate::collect::read(format!("/proc/{pid}/status")).unwrap_or_default();
    let field = |name: &&str| {
        let line = text.lines().find_map(|line| line.strip_prefix(*name))?;
        line.split_whitespace().next()?.parse::<u64>().ok()
    };
    names.iter().filter_map(field).sum()
}

/// Memory of a family, KiB, with each shared page divided among its users.
fn fair_kib(family: &HashSet<u32>) -> Option<u64> {
    let mut sum = 0;
    for pid in family {
        sum += status_kib(*pid, &["VmPTE:"]);
        let text = crate::collect::read(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
        for name in ["Pss_Anon:", "Pss_Shmem:"] {
            // Kernels before 5.4 do not report it.
            let line = text.lines().find_map(|line| line.strip_prefix(name));
            if line.is_none() && !text.is_empty() {
                return None;
            }
            let number = line.and_then(|line| line.split_whitespace().next()).and_then(|number| number.parse().ok());
            sum += number.unwrap_or(0u64);
        }
    }
    Some(sum)
}

/// A file system that a script may write to, and how far it may fill it.
#[derive(Debug)]
pub(crate) struct Disk {
    path: String,
    floor: u64,
}

/// Space that a script must leave free, bytes: enough for logs and for the agent.
const LEAVE_FREE: u64 = 64 * 1024 * 1024;

impl Disk {
    /// Measured when the script begins. It may fill the disk up to [`LEAVE_FREE`], or take half
    /// of the free space if that is little.
    pub(crate) fn at(path: &str) -> Option<Self> {
        let free = free_bytes(path)?;
        Some(Self { path: path.to_owned(), floor: LEAVE_FREE.min(free / 2) })
    }

    fn is_filled(&self) -> bool {
        free_bytes(&self.path).is_some_and(|free| free < self.floor)
    }
}

fn free_bytes(path: &str) -> Option<u64> {
    rustix::fs::statvfs(path).ok().map(|stat| stat.f_bavail.saturating_mul(stat.f_frsize))
}

/// Why the script must be stopped now, if it must. `helpers` is the number of our own programs
/// around it.
pub(crate) fn verdict(first: u32, helpers: usize, begun: Instant, limits: &Limits, disks: &[Disk]) -> Option<Stopped> {
    if begun.elapsed() >= Duration::from_secs(u64::from(limits.time_s)) {
        return Some(Stopped::Time);
    }
    let family = family(first);
    let most = limits.processes as usize + helpers;
    if family.len() > most || threads(&family) > most * THREADS {
        return Some(Stopped::Processes);
    }
    let folders = folders_kib(&family, first, limits);
    let kib: u64 = family.iter().map(|pid| own_kib(*pid)).sum::<u64>() + folders;
    let most = u64::from(limits.memory_mib) * 1024;
    // The quick sum counts shared memory once per process.
    if kib > most && fair_kib(&family).is_none_or(|fair| fair + folders > most) {
        return Some(Stopped::Memory);
    }
    disks.iter().any(Disk::is_filled).then_some(Stopped::Disk)
}
