//! The hub's part: adds a snapshot and a timestamp to what the approvers signed.

use super::draft::Draft;
use super::{SNAPSHOT_LIFE_DAYS, SPEC, TIMESTAMP_LIFE_DAYS, Unwritable, in_days, sign_role, version};
use crate::catalogue::{Catalogue, CatalogueError, Files, Trusted, advance, target};
use crate::identity::SigningKey;
use crate::sha256;
use fernwart_protocol::document::UnixMs;
use std::collections::{BTreeMap, HashMap};
use tough::schema::decoded::Decoded;
use tough::schema::{Hashes, Metafile, Role, Root, Signed, Snapshot, Timestamp};

/// The hub's keys for its two roles.
#[derive(Debug)]
pub struct HubRoles {
    /// For snapshots.
    pub snapshot: SigningKey,
    /// For timestamps.
    pub timestamp: SigningKey,
}

/// A draft cannot be published.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// Signatures are missing.
    #[error("{have} of {need} signatures are there")]
    Unsigned {
        /// Valid ones.
        have: u64,
        /// Needed ones.
        need: u64,
    },
    /// It does not follow the published catalogue.
    #[error("the draft makes version {draft}, but version {published} is published")]
    Stale {
        /// The draft's targets version.
        draft: u64,
        /// The published one.
        published: u64,
    },
    /// Machines would reject the result.
    #[error("verifying what would be published")]
    Refused(#[source] Box<CatalogueError>),
    /// A role could not be written.
    #[error("writing the catalogue")]
    Unwritable(#[source] Unwritable),
}

impl From<Unwritable> for PublishError {
    fn from(error: Unwritable) -> Self {
        Self::Unwritable(error)
    }
}

fn refused(error: CatalogueError) -> PublishError {
    PublishError::Refused(Box::new(error))
}

fn to_file<T: Role>(role: &Signed<T>) -> Result<Vec<u8>, Unwritable> {
    let mut bytes = serde_json::to_vec_pretty(role).map_err(|_| Unwritable)?;
    bytes.push(b'\n');
    Ok(bytes)
}

/// A role's file, in the exact bytes in which it was published before, if it was.
fn as_published<T>(draft: &Draft, name: &str, role: &Signed<T>) -> Result<Vec<u8>, PublishError>
where
    T: Role + PartialEq + serde::de::DeserializeOwned,
{
    let Some(text) = draft.published.get(name) else { return Ok(to_file(role)?) };
    let same = serde_json::from_str::<Signed<T>>(text).is_ok_and(|published| published == *role);
    if same { Ok(text.clone().into_bytes()) } else { Err(refused(CatalogueError::TargetHash(name.to_owned()))) }
}

fn metafile(number: u64, bytes: &[u8]) -> Metafile {
    let sha256 = Decoded::from(sha256(bytes).as_bytes().to_vec());
    Metafile {
        length: Some(bytes.len() as u64),
        hashes: Some(Hashes { sha256, _extra: HashMap::new() }),
        version: version(number),
        _extra: HashMap::new(),
    }
}

/// Adds a snapshot and a timestamp for these targets. Their versions are at least the time in
/// seconds, so that machines do not take a hub restored from a backup for a rollback.
fn wrap(
    files: &mut Files,
    targets: (u64, &[u8]),
    last: (u64, u64),
    keys: &HubRoles,
    now: UnixMs,
) -> Result<(), Unwritable> {
    let seconds = u64::try_from(now / 1000).unwrap_or_default();
    let (snapshot_version, timestamp_version) = (seconds.max(last.0 + 1), seconds.max(last.1 + 1));
    let mut snapshot = Snapshot::new(SPEC.to_owned(), version(snapshot_version), in_days(now, SNAPSHOT_LIFE_DAYS)?);
    snapshot.meta.insert("targets.json".to_owned(), metafile(targets.0, targets.1));
    let signature = sign_role(&snapshot, &keys.snapshot)?;
    let snapshot = to_file(&Signed { signed: snapshot, signatures: vec![signature] })?;

    let mut timestamp = Timestamp::new(SPEC.to_owned(), version(timestamp_version), in_days(now, TIMESTAMP_LIFE_DAYS)?);
    timestamp.meta.insert("snapshot.json".to_owned(), metafile(snapshot_version, &snapshot));
    let signature = sign_role(&timestamp, &keys.timestamp)?;
    files.insert("timestamp.json", to_file(&Signed { signed: timestamp, signatures: vec![signature] })?);
    files.insert(&format!("{snapshot_version}.snapshot.json"), snapshot);
    Ok(())
}

/// The newest versions of snapshot and timestamp among these files that this hub has signed; 0 if
/// there is none.
pub fn signed_before(files: &BTreeMap<String, Vec<u8>>, root: &Root) -> (u64, u64) {
    fn version_of<T: Role + serde::de::DeserializeOwned>(bytes: &[u8], root: &Root) -> Option<u64> {
        let role: Signed<T> = serde_json::from_slice(bytes).ok()?;
        root.verify_role(&role).ok()?;
        Some(role.signed.version().get())
    }
    let snapshots = files.iter().filter(|(name, _)| name.ends_with(".snapshot.json"));
    let snapshot = snapshots.filter_map(|(_, bytes)| version_of::<Snapshot>(bytes, root)).max();
    let timestamp = files.get("timestamp.json").and_then(|bytes| version_of::<Timestamp>(bytes, root));
    (snapshot.unwrap_or_default(), timestamp.unwrap_or_default())
}

/// A new snapshot and timestamp for the published targets, newer than all known ones and than
/// `above`, versions that this hub has signed and lost.
///
/// # Errors
/// When the hub's keys are not the ones the root names.
pub async fn freshen(
    trusted: &Trusted,
    keys: &HubRoles,
    above: (u64, u64),
    now: UnixMs,
) -> Result<(Files, Trusted, Catalogue), PublishError> {
    let versions = trusted.floors.versions();
    let name = format!("{}.targets.json", versions.targets);
    let targets = trusted.files.get(&name).ok_or_else(|| refused(CatalogueError::Missing(name)))?;
    let mut files = Files::default();
    let last = (versions.snapshot.max(above.0), versions.timestamp.max(above.1));
    wrap(&mut files, (versions.targets, targets), last, keys, now)?;
    let (trusted, catalogue) = advance(trusted, &files).await.map_err(refused)?;
    Ok((files, trusted, catalogue))
}

/// The files to publish for a draft that has its signatures. They are verified exactly as a machine
/// will verify them.
///
/// # Errors
/// When signatures are missing, the draft is stale, or machines would reject the result.
pub async fn publish(
    draft: &Draft,
    published: Option<&Trusted>,
    keys: &HubRoles,
    now: UnixMs,
) -> Result<(Files, Trusted, Catalogue), PublishError> {
    let in_force: Option<Signed<Root>> = match published {
        Some(trusted) => {
            let bytes = trusted.root().map_err(refused)?;
            Some(serde_json::from_slice(bytes).map_err(|e| refused(CatalogueError::Unreadable("root".into(), e)))?)
        }
        None => None,
    };
    let stale_root = |root: u64, last: u64| PublishError::Stale { draft: root, published: last };
    let last = published.map(|trusted| trusted.floors.versions()).unwrap_or_default();
    let own_root = draft.root.as_ref().map(|root| root.signed.version.get());
    let ruling = match &in_force {
        Some(root) => {
            let ruling = draft.ruled_by(&root.signed);
            Some(ruling.ok_or_else(|| stale_root(own_root.unwrap_or_default(), last.root))?)
        }
        None => None,
    };
    let progress = draft.progress(ruling.as_ref());
    if !progress.is_complete() {
        return Err(PublishError::Unsigned { have: progress.have, need: progress.need });
    }
    let number = draft.targets.signed.version.get();
    if !draft.follows(last.targets) {
        return Err(PublishError::Stale { draft: number, published: last.targets });
    }
    let mut files = Files::default();
    let targets = as_published(draft, &format!("{number}.targets.json"), &draft.targets)?;
    if let Some(root) = &draft.root {
        // `ruled_by` has verified each of these with the root before it.
        for between in last.root.saturating_add(1)..root.signed.version.get() {
            let name = format!("{between}.root.json");
            if let Some(text) = draft.published.get(&name) {
                files.insert(&name, text.clone().into_bytes());
            }
        }
        let name = format!("{}.root.json", root.signed.version);
        files.insert(&name, as_published(draft, &name, root)?);
    }
    // Only the named targets: other files of a draft are not published.
    let before = published.map(Trusted::view).transpose().map_err(refused)?;
    // A catalogue that was published before may come without the files of its scripts.
    if !draft.is_given_back() {
        draft.new_scripts(before.as_ref()).map_err(|_| refused(CatalogueError::TargetHash("draft".to_owned())))?;
    }
    for name in target::NAMED {
        let text = draft.files.get(name).ok_or_else(|| refused(CatalogueError::Missing(name.to_owned())))?;
        files.insert(name, text.clone().into_bytes());
    }
    // Machines that followed the returned catalogue know its snapshot and accept no other snapshot
    // of that version. The timestamp's version is raised together with the snapshot's.
    let known = draft.published.keys().filter_map(|name| name.strip_suffix(".snapshot.json")?.parse::<u64>().ok());
    let known = known.max().unwrap_or_default();
    wrap(&mut files, (number, &targets), (last.snapshot.max(known), last.timestamp.max(known)), keys, now)?;
    files.insert(&format!("{number}.targets.json"), targets);
    let base = match (published, &draft.root) {
        (Some(trusted), _) => trusted.clone(),
        (None, Some(root)) => {
            root.signed
                .verify_role(root)
                .map_err(|_| PublishError::Unsigned { have: progress.have, need: progress.need })?;
            let name = format!("{}.root.json", root.signed.version);
            let bytes = files.get(&name).ok_or_else(|| refused(CatalogueError::Missing(name)))?;
            Trusted::begin(root.signed.version.get(), &sha256(bytes), &files).map_err(refused)?
        }
        (None, None) => return Err(refused(CatalogueError::Missing("root".to_owned()))),
    };
    let (trusted, catalogue) = advance(&base, &files).await.map_err(refused)?;
    Ok((files, trusted, catalogue))
}
