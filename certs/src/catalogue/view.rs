//! A verified catalogue, ready for use.

use super::{CatalogueError, Floors, Grants, Hub, Shop, StaffEntry, StaffList, grants, hex, target, unix_ms};
use fernwart_protocol::document::{Action, UnixMs, Versions};
use fernwart_protocol::id::{Digest, KeyId, PublicKey};
use fernwart_protocol::script::BundleName;
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;
use tough::schema::key::Key;
use tough::schema::{RoleType, Root, Signed, Snapshot, Targets, Timestamp};

/// When each role expires.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Expiries {
    /// The root.
    pub root: UnixMs,
    /// The targets.
    pub targets: UnixMs,
    /// The snapshot.
    pub snapshot: UnixMs,
    /// The timestamp.
    pub timestamp: UnixMs,
}

impl Expiries {
    /// The earliest expiry.
    pub fn earliest(&self) -> UnixMs {
        self.root.min(self.targets).min(self.snapshot).min(self.timestamp)
    }
}

/// An approved script: exactly these bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Approved {
    /// Its version.
    pub version: u32,
    /// SHA-256 of its bundle.
    pub sha256: Digest,
    /// The bundle's length.
    pub bytes: u64,
}

/// The name of the field with the version in an approved script's target.
pub(crate) const VERSION: &str = "version";

/// The scripts among the targets. Targets of other kinds, which a later version may add, are
/// ignored.
pub(crate) fn scripts(targets: &Targets) -> Result<BTreeMap<BundleName, Approved>, CatalogueError> {
    let mut scripts = BTreeMap::new();
    for (name, entry) in &targets.targets {
        let Some(bundle) = name.raw().strip_prefix(target::SCRIPT) else { continue };
        let bad = || CatalogueError::Script(name.raw().to_owned());
        let version = entry.custom.get(VERSION).and_then(serde_json::Value::as_u64);
        let version = version.and_then(|version| u32::try_from(version).ok()).ok_or_else(bad)?;
        let hash = <[u8; 32]>::try_from(entry.hashes.sha256.as_ref()).map_err(|_| bad())?;
        let approved = Approved { version, sha256: Digest::from_bytes(hash), bytes: entry.length };
        scripts.insert(bundle.parse().map_err(|_| bad())?, approved);
    }
    Ok(scripts)
}

/// Everything approved.
#[derive(Debug, Clone, PartialEq)]
pub struct Catalogue {
    /// Its versions.
    pub versions: Versions,
    /// SHA-256 of its root.
    pub root: Digest,
    /// When its roles expire.
    pub expiries: Expiries,
    /// The approvers: those whose keys sign targets.
    pub approvers: BTreeMap<KeyId, PublicKey>,
    /// How many of them must sign.
    pub threshold: u64,
    /// The staff list.
    pub staff: StaffList,
    /// The hub's addresses and keys.
    pub hub: Hub,
    /// The organisation's name and contacts.
    pub shop: Shop,
    /// The scripts.
    pub scripts: BTreeMap<BundleName, Approved>,
    /// Grants: scripts that a staff entry may run beyond its role.
    pub grants: Grants,
}

fn read<T: DeserializeOwned>(files: &BTreeMap<String, Vec<u8>>, name: &str) -> Result<T, CatalogueError> {
    let bytes = files.get(name).ok_or_else(|| CatalogueError::Missing(name.to_owned()))?;
    serde_json::from_slice(bytes).map_err(|error| CatalogueError::Unreadable(name.to_owned(), error))
}

impl Catalogue {
    pub(super) fn from_files(files: &BTreeMap<String, Vec<u8>>, floors: &Floors) -> Result<Self, CatalogueError> {
        let versions = floors.versions();
        let root: Signed<Root> = read(files, &format!("{}.root.json", versions.root))?;
        let timestamp: Signed<Timestamp> = read(files, "timestamp.json")?;
        let snapshot: Signed<Snapshot> = read(files, &format!("{}.snapshot.json", versions.snapshot))?;
        let targets: Signed<Targets> = read(files, &format!("{}.targets.json", versions.targets))?;
        Ok(Self {
            versions,
            root: floors.root.hash,
            expiries: Expiries {
                root: unix_ms(root.signed.expires),
                targets: unix_ms(targets.signed.expires),
                snapshot: unix_ms(snapshot.signed.expires),
                timestamp: unix_ms(timestamp.signed.expires),
            },
            approvers: approvers(&root.signed),
            threshold: root.signed.roles.get(&RoleType::Targets).map_or(1, |role| role.threshold.get()),
            staff: read(files, target::STAFF)?,
            hub: read(files, target::HUB)?,
            shop: read(files, target::SHOP)?,
            scripts: scripts(&targets.signed)?,
            grants: grants::read(&targets.signed._extra)?,
        })
    }

    /// Whether a staff entry may order this action, as far as the action itself tells whether it is
    /// a look or an act.
    pub fn may(&self, entry: &StaffEntry, action: &Action) -> bool {
        entry.role.may(action.kind()) || self.may_run(&entry.key, action)
    }

    /// Whether the action is a script that a grant allows the key to run regardless of its role.
    pub fn may_run(&self, key: &KeyId, action: &Action) -> bool {
        let Action::Script { bundle, .. } = action else { return false };
        self.grants.get(key).is_some_and(|scripts| scripts.contains(bundle))
    }
}

/// Converts a TUF key to our type; `None` if it is not Ed25519.
pub(crate) fn public_key(key: &Key) -> Option<PublicKey> {
    match key {
        Key::Ed25519 { keyval, .. } => hex(keyval.public.as_ref()).parse().ok(),
        _ => None,
    }
}

/// The approvers a root names, by our own key ids.
fn approvers(root: &Root) -> BTreeMap<KeyId, PublicKey> {
    root.keys(RoleType::Targets)
        .filter_map(public_key)
        .map(|public| (crate::identity::key_id(&public), public))
        .collect()
}
