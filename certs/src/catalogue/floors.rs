//! Minimum versions of all roles, against rollback.

use super::CatalogueError;
use crate::sha256;
use fernwart_protocol::document::Versions;
use fernwart_protocol::id::Digest;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use tough::schema::{RoleType, Root};

/// The newest version of one role, and its content.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Floor {
    /// Its version; 0 before the first.
    pub version: u64,
    /// SHA-256 of its file.
    pub hash: Digest,
}

impl Default for Floor {
    fn default() -> Self {
        Self { version: 0, hash: Digest::from_bytes([0; 32]) }
    }
}

impl Floor {
    fn rise(self, role: &'static str, version: u64, bytes: &[u8]) -> Result<Self, CatalogueError> {
        let hash = sha256(bytes);
        if version < self.version {
            return Err(CatalogueError::Rollback { role, floor: self.version, offered: version });
        }
        if version == self.version && hash != self.hash {
            return Err(CatalogueError::TwoFaces { role, version });
        }
        Ok(Self { version, hash })
    }
}

/// The floors of all roles.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Floors {
    /// Of the root.
    pub root: Floor,
    /// Of the targets.
    pub targets: Floor,
    /// Of the snapshot.
    pub snapshot: Floor,
    /// Of the timestamp.
    pub timestamp: Floor,
}

fn key_set(root: &Root, role: RoleType) -> BTreeSet<Vec<u8>> {
    root.roles.get(&role).map(|r| r.keyids.iter().map(|id| id.as_ref().to_vec()).collect()).unwrap_or_default()
}

impl Floors {
    /// The versions alone.
    pub fn versions(&self) -> Versions {
        Versions {
            root: self.root.version,
            targets: self.targets.version,
            snapshot: self.snapshot.version,
            timestamp: self.timestamp.version,
        }
    }

    /// The floors after accepting these files. A role's floor is reset only if a newer root has
    /// replaced all of the role's former keys. So rotating a stolen key undoes a thief's
    /// fast-forward attack.
    pub(super) fn risen(
        &self,
        old: &Root,
        new: &Root,
        files: &BTreeMap<String, Vec<u8>>,
        repository: &tough::Repository,
    ) -> Result<Self, CatalogueError> {
        let file = |name: String| files.get(&name).ok_or(CatalogueError::Missing(name));
        let floor_of = |role, floor: Floor| {
            let rotated = key_set(old, role).is_disjoint(&key_set(new, role));
            if rotated { Floor::default() } else { floor }
        };
        let root = new.version.get();
        let targets = repository.targets().signed.version.get();
        let snapshot = repository.snapshot().signed.version.get();
        let timestamp = repository.timestamp().signed.version.get();
        Ok(Self {
            root: self.root.rise("root", root, file(format!("{root}.root.json"))?)?,
            targets: floor_of(RoleType::Targets, self.targets).rise(
                "targets",
                targets,
                file(format!("{targets}.targets.json"))?,
            )?,
            snapshot: floor_of(RoleType::Snapshot, self.snapshot).rise(
                "snapshot",
                snapshot,
                file(format!("{snapshot}.snapshot.json"))?,
            )?,
            timestamp: floor_of(RoleType::Timestamp, self.timestamp).rise(
                "timestamp",
                timestamp,
                file("timestamp.json".to_owned())?,
            )?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_floor_accepts_higher_versions_or_the_same_bytes_and_never_decreases() {
        let floor = Floor::default().rise("targets", 5, b"five").expect("from nothing");
        assert_eq!(floor, Floor { version: 5, hash: sha256(b"five") });
        let cases: [(u64, &[u8], Result<u64, &str>); 8] = [
            (0, b"nothing", Err("fell back")),
            (4, b"four", Err("fell back")),
            (4, b"five", Err("fell back")),
            (5, b"five", Ok(5)),
            (5, b"five ", Err("two contents")),
            (5, b"", Err("two contents")),
            (6, b"five", Ok(6)),
            (u64::MAX, b"last", Ok(u64::MAX)),
        ];
        for (version, bytes, wanted) in cases {
            let risen = floor.rise("targets", version, bytes);
            match wanted {
                Ok(version) => assert_eq!(risen.expect("risen"), Floor { version, hash: sha256(bytes) }),
                Err(why) => {
                    let error = risen.expect_err("not risen").to_string();
                    assert!(error.contains(why) && error.contains("targets"), "{version}: {error}");
                }
            }
        }
    }
}
