//! Room on the disk on which keys and state store are to lie.

use std::path::Path;

/// With less room than this, bytes, a disk is full: neither a key nor a batch of
/// writes can be relied on to find a place.
const FULL_BYTES: u64 = 1024 * 1024;

/// Room on the disk of a folder, bytes; plenty where the system does not say.
pub fn free_bytes(folder: &Path) -> u64 {
    rustix::fs::statvfs(folder).map_or(u64::MAX, |disk| disk.f_bavail.saturating_mul(disk.f_frsize))
}

/// Whether that is as good as none.
pub fn is_full(folder: &Path) -> bool {
    free_bytes(folder) < FULL_BYTES
}
