//! The catalogue, which contains everything approved: a TUF repository, verified in memory.
//!
//! The approvers sign the roles root and targets, k of n; the hub signs snapshot and timestamp.
//! `tough` verifies them, with a temporary datastore. What must persist is in [`Trusted`], which
//! the caller stores in one transaction.
//!
//! ```text
//! files offered ─▶ tough: signatures, thresholds, versions, hashes
//!               ─▶ our rules: no delegations, no duplicate keys, no approval of own proposals
//!               ─▶ floors: no version decreases unless a root rotates the role's keys
//!               ─▶ Trusted (to be stored) + Catalogue (to be used)
//! ```

mod floors;
pub(crate) mod grants;
mod offer;
mod particulars;
mod rules;
mod staff_list;
mod view;

pub use floors::{Floor, Floors};
pub use grants::Grants;
pub use offer::{Files, Repository};
pub use particulars::{Contact, Hub, Shop};
pub use rules::rules_in_force;
pub use staff_list::{Customers, Role, StaffEntry, StaffList};
pub(crate) use view::public_key;
pub use view::{Approved, Catalogue, Expiries};
#[cfg(feature = "approve")]
pub(crate) use view::{VERSION, scripts};

use crate::hex;
use crate::sha256;
use fernwart_protocol::document::UnixMs;
use fernwart_protocol::id::Digest;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::PathBuf;
use tough::schema::{RoleType, Root, Signed};
use tough::{ExpirationEnforcement, Limits, RepositoryLoader};

/// Names of the targets that every catalogue has.
pub mod target {
    /// The staff list.
    pub const STAFF: &str = "staff.json";
    /// The hub's addresses and keys.
    pub const HUB: &str = "hub.json";
    /// The organisation's name and contacts.
    pub const SHOP: &str = "shop.json";
    /// All of them.
    pub const NAMED: [&str; 3] = [STAFF, HUB, SHOP];
    /// Prefix of the name of a script's target; the bundle's name follows.
    pub const SCRIPT: &str = "script/";
}

/// Why files are rejected.
#[derive(Debug, thiserror::Error)]
pub enum CatalogueError {
    /// A file is missing from what was offered.
    #[error("the catalogue lacks {0}")]
    Missing(String),
    /// A file cannot be read as what it should be.
    #[error("reading {0} of the catalogue")]
    Unreadable(String, #[source] serde_json::Error),
    /// A script's target has no good name, version or hash.
    #[error("the target {0} names no script")]
    Script(String),
    /// tough refused.
    #[error("verifying the catalogue")]
    Tough(#[source] Box<tough::error::Error>),
    /// The root is not the one that the invitation names.
    #[error("the root is not the one that was announced")]
    OtherRoot,
    /// A version is older than one that was accepted before.
    #[error("{role} fell back from version {floor} to {offered}")]
    Rollback {
        /// Which role.
        role: &'static str,
        /// The version accepted before.
        floor: u64,
        /// The version offered.
        offered: u64,
    },
    /// A known version with different bytes.
    #[error("{role} version {version} came with two contents")]
    TwoFaces {
        /// Which role.
        role: &'static str,
        /// Its version.
        version: u64,
    },
    /// One public key has two ids.
    #[error("one key stands twice in the root")]
    KeyTwice,
    /// A key of another kind than Ed25519.
    #[error("the root holds a key that is not Ed25519")]
    KeyKind,
    /// The hub has no address or no CA.
    #[error("hub.json names no address or no CA")]
    NoHub,
    /// Targets contain delegations, which are not supported.
    #[error("the targets delegate")]
    Delegation,
    /// The proposer has signed the own proposal.
    #[error("the proposal was approved by its proposer")]
    OwnApproval,
    /// A named target does not match the targets' hash.
    #[error("{0} is not the approved one")]
    TargetHash(String),
}

/// The persistent state, which the caller must store: the newest accepted files, and the minimum
/// versions against rollback.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Trusted {
    /// Newest versions and hashes accepted, by role.
    pub floors: Floors,
    /// The files by name: newest root and up to eight before it, timestamp,
    /// snapshot, targets and the named targets.
    pub files: BTreeMap<String, Vec<u8>>,
}

impl Trusted {
    /// Starts with one root that is trusted by its hash.
    ///
    /// # Errors
    /// When that root is missing from the files, or has another hash.
    pub fn begin(version: u64, hash: &Digest, offered: &Files) -> Result<Self, CatalogueError> {
        let name = format!("{version}.root.json");
        let bytes = offered.get(&name).ok_or_else(|| CatalogueError::Missing(name.clone()))?;
        if sha256(bytes) != *hash {
            return Err(CatalogueError::OtherRoot);
        }
        let floors = Floors { root: Floor { version, hash: *hash }, ..Floors::default() };
        Ok(Self { floors, files: BTreeMap::from([(name, bytes.clone())]) })
    }

    /// The newest accepted root's bytes.
    ///
    /// # Errors
    /// When this was not made by [`Trusted::begin`].
    pub fn root(&self) -> Result<&[u8], CatalogueError> {
        let name = format!("{}.root.json", self.floors.root.version);
        self.files.get(&name).map(Vec::as_slice).ok_or(CatalogueError::Missing(name))
    }

    /// The catalogue in these files, which were verified when they were accepted.
    ///
    /// # Errors
    /// When only a root has been accepted yet.
    pub fn view(&self) -> Result<Catalogue, CatalogueError> {
        Catalogue::from_files(&self.files, &self.floors)
    }
}

/// Verifies offered files on top of the trusted ones. A rejected offer changes nothing. Store the
/// result before using it.
///
/// Expiry is not checked here but by the gate, so that diagnoses are still possible under an
/// expired catalogue.
///
/// # Errors
/// When any rule is violated.
pub async fn advance(trusted: &Trusted, offered: &Files) -> Result<(Trusted, Catalogue), CatalogueError> {
    let old_root_bytes = trusted.root()?.to_vec();
    let files = offered.over(&trusted.files);
    let base = url::Url::parse("memory:///").map_err(|_| CatalogueError::Missing("memory".into()))?;
    let scratch = Scratch::new();
    let repository = RepositoryLoader::new(&old_root_bytes, base.clone(), base)
        .transport(offer::Memory::new(files.clone()))
        .limits(LIMITS)
        .datastore(scratch.0.clone())
        .expiration_enforcement(ExpirationEnforcement::Unsafe)
        .load()
        .await
        .map_err(|error| CatalogueError::Tough(Box::new(error)))?;
    let root = &repository.root().signed;
    refuse_doubled_keys(root)?;
    let targets = repository.targets();
    if targets.signed.delegations.as_ref().is_some_and(|delegations| !delegations.roles.is_empty()) {
        return Err(CatalogueError::Delegation);
    }
    refuse_own_approval(root, RoleType::Targets, &targets.signed._extra, &targets.signatures)?;
    refuse_own_approval(root, RoleType::Root, &root._extra, &repository.root().signatures)?;

    let names = [
        format!("{}.root.json", root.version),
        "timestamp.json".to_owned(),
        format!("{}.snapshot.json", repository.snapshot().signed.version),
        format!("{}.targets.json", targets.signed.version),
    ];
    let mut kept = BTreeMap::new();
    for name in names {
        let bytes = files.get(&name).ok_or_else(|| CatalogueError::Missing(name.clone()))?;
        kept.insert(name, bytes.clone());
    }
    for name in target::NAMED {
        let bytes = files.get(name).ok_or_else(|| CatalogueError::Missing(name.to_owned()))?;
        let approved = targets.signed.targets.iter().find(|(target, _)| target.raw() == name);
        let matches = approved.is_some_and(|(_, target)| {
            target.length == bytes.len() as u64 && target.hashes.sha256.as_ref() == sha256(bytes).as_bytes()
        });
        if !matches {
            return Err(CatalogueError::TargetHash(name.to_owned()));
        }
        kept.insert(name.to_owned(), bytes.clone());
    }
    let (newest, before) = (root.version.get(), trusted.floors.root.version);
    for version in newest.saturating_sub(ROOTS_KEPT)..newest {
        let name = format!("{version}.root.json");
        // tough has verified each new root with the one before it. For known roots only our own
        // copy is used.
        let bytes = if version > before { files.get(&name) } else { trusted.files.get(&name) };
        if let Some(bytes) = bytes {
            kept.insert(name, bytes.clone());
        }
    }
    let old_root: Signed<Root> =
        serde_json::from_slice(&old_root_bytes).map_err(|error| CatalogueError::Unreadable("root".into(), error))?;
    let floors = trusted.floors.risen(&old_root.signed, root, &kept, &repository)?;
    let trusted = Trusted { floors, files: kept };
    let catalogue = trusted.view()?;
    if catalogue.hub.addresses.is_empty() || catalogue.hub.ca.is_empty() {
        return Err(CatalogueError::NoHub);
    }
    Ok((trusted, catalogue))
}

/// How many older roots are kept, for a hub that has lost them. A reader with an old root needs
/// every root in between to follow to the newest.
const ROOTS_KEPT: u64 = 8;

const LIMITS: Limits = Limits {
    max_root_size: fernwart_protocol::limits::METADATA_BYTES as u64,
    max_targets_size: fernwart_protocol::limits::METADATA_BYTES as u64,
    max_timestamp_size: 16 * 1024,
    max_snapshot_size: 64 * 1024,
    max_root_updates: fernwart_protocol::limits::OFFER_FILES as u64,
};

fn refuse_doubled_keys(root: &Root) -> Result<(), CatalogueError> {
    let mut seen = HashSet::new();
    for key in root.keys.values() {
        // Compare the bare keys: tough's key id also covers irrelevant fields.
        let public = public_key(key).ok_or(CatalogueError::KeyKind)?;
        if !seen.insert(public) {
            return Err(CatalogueError::KeyTwice);
        }
    }
    for role in root.roles.values() {
        let ids: HashSet<_> = role.keyids.iter().collect();
        if ids.len() != role.keyids.len() {
            return Err(CatalogueError::KeyTwice);
        }
    }
    Ok(())
}

/// With a threshold above one, proposers must not approve their own proposals.
fn refuse_own_approval(
    root: &Root,
    role: RoleType,
    extra: &HashMap<String, serde_json::Value>,
    signatures: &[tough::schema::Signature],
) -> Result<(), CatalogueError> {
    let k = root.roles.get(&role).map_or(1, |role| role.threshold.get());
    let proposer = extra.get(PROPOSER).and_then(serde_json::Value::as_str);
    let Some(proposer) = proposer.filter(|_| k > 1) else { return Ok(()) };
    let own = signatures.iter().any(|signature| hex(signature.keyid.as_ref()).starts_with(proposer));
    if own { Err(CatalogueError::OwnApproval) } else { Ok(()) }
}

/// The name of the targets' field with the proposer: an approver's key id.
pub const PROPOSER: &str = "proposer";

/// A temporary folder for tough's datastore during verification.
///
/// It is in memory if the system supports that, so that a machine with a full disk can still follow
/// the catalogue.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Self {
        let name = format!("fernwart-{}", hex(&crate::random::<12>()));
        let memory = PathBuf::from("/dev/shm");
        let place = if memory.is_dir() { memory } else { std::env::temp_dir() };
        let path = place.join(name);
        // If this fails, tough reports an error when it writes.
        let _ = std::fs::create_dir(&path);
        Self(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Milliseconds of a TUF expiry.
pub(crate) fn unix_ms(at: jiff::Timestamp) -> UnixMs {
    at.as_millisecond()
}
