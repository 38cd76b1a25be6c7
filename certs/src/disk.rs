//! Free space on the disk of keys and state store.

use std::path::Path;

/// Below this many free bytes a disk counts as full: neither a key nor a batch of writes is certain
/// to fit.
const FULL_BYTES: u64 = 1024 * 1024;

/// Free bytes on the disk of a folder; a very large number if the system does not report it.
pub fn free_bytes(folder: &Path) -> u64 {
    rustix::fs::statvfs(folder).map_or(u64::MAX, |disk| disk.f_bavail.saturating_mul(disk.f_frsize))
}

/// Whether so few bytes are free that the disk counts as full.
pub fn is_full(folder: &Path) -> bool {
    free_bytes(folder) < FULL_BYTES
}
