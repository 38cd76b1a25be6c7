//! A proposed catalogue that collects signatures.
//!
//! A draft contains the complete text of its changes, so that an approver can review it on an
//! offline computer.

use super::{
    ROOT_LIFE_DAYS, SPEC, TARGETS_LIFE_DAYS, Unwritable, in_days, proposer_id, tuf_key, tuf_key_id, unsigned, version,
};
use crate::catalogue::{
    Approved, Catalogue, CatalogueError, Grants, Hub, PROPOSER, Shop, StaffList, VERSION, grants, scripts, target,
};
use crate::sha256;
use fernwart_protocol::document::{Document, UnixMs};
use fernwart_protocol::id::{Digest, PublicKey};
use fernwart_protocol::script::{Bundle, BundleName, FileName, Manifest};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use tough::TargetName;
use tough::schema::decoded::Decoded;
use tough::schema::{Hashes, Metafile, Role, RoleKeys, RoleType, Root, Signed, Snapshot, Target, Targets};

/// How many versions of the targets one draft may skip: far too few to exhaust the numbers.
pub const LEFT_OUT: u64 = 1000;

const ROOT_FILE: &str = ".root.json";
const TARGETS_FILE: &str = ".targets.json";
const SNAPSHOT_FILE: &str = ".snapshot.json";

/// Parses a published role.
fn read_role<T: serde::de::DeserializeOwned>(
    name: &str,
    published: &BTreeMap<String, String>,
) -> Result<T, CatalogueError> {
    let text = published.get(name).ok_or_else(|| CatalogueError::Missing(name.to_owned()))?;
    serde_json::from_str(text).map_err(|error| CatalogueError::Unreadable(name.to_owned(), error))
}

/// The content that a draft proposes: all targets.
#[derive(Debug, Clone, PartialEq)]
pub struct Contents {
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

/// The approvers and the hub's keys, for an organisation's first root.
#[derive(Debug, Clone)]
pub struct FirstRoot {
    /// The approvers' public keys.
    pub approvers: Vec<PublicKey>,
    /// How many of them must sign.
    pub threshold: u64,
    /// The hub's key for snapshots.
    pub snapshot: PublicKey,
    /// The hub's key for timestamps.
    pub timestamp: PublicKey,
}

/// The approvers from the next root on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NextRoot {
    /// The approvers' public keys.
    pub approvers: Vec<PublicKey>,
    /// How many of them must sign.
    pub threshold: u64,
}

/// A proposed catalogue with the signatures so far.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Draft {
    /// Version of this format.
    pub v: u32,
    /// A new root, if one is proposed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub root: Option<Signed<Root>>,
    /// The new targets.
    pub targets: Signed<Targets>,
    /// The named targets' text.
    pub files: BTreeMap<String, String>,
    /// New or changed bundles and their files, by SHA-256.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub blobs: BTreeMap<Digest, String>,
    /// Only in a draft of a catalogue that was published before: the exact bytes of its signed
    /// roles, by file name, and the hub's snapshot as proof. With other bytes, machines that know
    /// these would reject it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub published: BTreeMap<String, String>,
}

/// A script that a draft adds or changes, as its approvers review it.
#[derive(Debug, Clone)]
pub struct Proposed {
    /// The bundle.
    pub bundle: Bundle,
    /// Its manifest.
    pub manifest: Manifest,
    /// Its files' texts.
    pub files: BTreeMap<FileName, String>,
}

/// Why a key may not sign a draft.
#[derive(Debug, thiserror::Error)]
pub enum SignError {
    /// The key is no approver's.
    #[error("this key is none of the approvers'")]
    NotAnApprover,
    /// The key's owner has proposed the draft.
    #[error("nobody approves their own proposal where more than one must sign")]
    OwnProposal,
    /// The key has signed already.
    #[error("this key has signed already")]
    AlreadySigned,
    /// The draft's files do not match its targets.
    #[error("the draft's {0} is not what its targets say")]
    Files(String),
    /// A script that it changes is incomplete, or does not match its name or hash.
    #[error("the draft's script {name}: {why}")]
    Script {
        /// Its name.
        name: BundleName,
        /// What is wrong with it.
        why: &'static str,
    },
    /// It would be valid for longer than allowed.
    #[error("the draft is to last until {end}, and {days} days are the most")]
    Lasts {
        /// Its end.
        end: jiff::Timestamp,
        /// The maximum validity, days.
        days: i64,
    },
    /// It contains something that approvers are not shown.
    #[error("the draft's {0} hold something that is not shown")]
    Unread(&'static str),
    /// Its targets do not follow those in force.
    #[error("the draft does not follow the catalogue that is published")]
    NotNext,
    /// It contains a root that does not follow the one in force.
    #[error("the draft brings a root that does not follow the one in force")]
    NewRoot,
    /// A role could not be written.
    #[error("signing the draft")]
    Unwritable(#[source] Unwritable),
}

impl From<Unwritable> for SignError {
    fn from(error: Unwritable) -> Self {
        Self::Unwritable(error)
    }
}

fn role_keys(keys: &[PublicKey], threshold: u64) -> Result<RoleKeys, Unwritable> {
    let keyids = keys.iter().map(tuf_key_id).collect::<Result<_, _>>()?;
    Ok(RoleKeys { keyids, threshold: version(threshold), _extra: HashMap::new() })
}

impl Contents {
    fn files(&self) -> Result<BTreeMap<String, String>, Unwritable> {
        let text = |json: Result<String, serde_json::Error>| json.map(|text| text + "\n").map_err(|_| Unwritable);
        Ok(BTreeMap::from([
            (target::STAFF.to_owned(), text(serde_json::to_string_pretty(&self.staff))?),
            (target::HUB.to_owned(), text(serde_json::to_string_pretty(&self.hub))?),
            (target::SHOP.to_owned(), text(serde_json::to_string_pretty(&self.shop))?),
        ]))
    }

    /// The content of a published catalogue.
    pub fn of(catalogue: &Catalogue) -> Self {
        Self {
            staff: catalogue.staff.clone(),
            hub: catalogue.hub.clone(),
            shop: catalogue.shop.clone(),
            scripts: catalogue.scripts.clone(),
            grants: catalogue.grants.clone(),
        }
    }
}

fn target_entry(text: &str) -> Target {
    let hash = sha256(text.as_bytes());
    Target {
        length: text.len() as u64,
        hashes: Hashes { sha256: Decoded::from(hash.as_bytes().to_vec()), _extra: HashMap::new() },
        custom: HashMap::new(),
        _extra: HashMap::new(),
    }
}

fn script_entry(approved: &Approved) -> Target {
    Target {
        length: approved.bytes,
        hashes: Hashes { sha256: Decoded::from(approved.sha256.as_bytes().to_vec()), _extra: HashMap::new() },
        custom: HashMap::from([(VERSION.to_owned(), approved.version.into())]),
        _extra: HashMap::new(),
    }
}

fn targets(
    number: u64,
    files: &BTreeMap<String, String>,
    contents: &Contents,
    proposer: Option<&PublicKey>,
    now: UnixMs,
) -> Result<Targets, Unwritable> {
    let mut targets = Targets::new(SPEC.to_owned(), version(number), in_days(now, TARGETS_LIFE_DAYS)?);
    targets.delegations = None;
    for (name, text) in files {
        let name = TargetName::new(name.as_str()).map_err(|_| Unwritable)?;
        targets.targets.insert(name, target_entry(text));
    }
    for (name, approved) in &contents.scripts {
        let name = TargetName::new(format!("{}{name}", target::SCRIPT)).map_err(|_| Unwritable)?;
        targets.targets.insert(name, script_entry(approved));
    }
    if let Some(grants) = grants::write(&contents.grants) {
        targets._extra.insert(grants::MAY_RUN.to_owned(), grants);
    }
    if let Some(proposer) = proposer {
        targets._extra.insert(PROPOSER.to_owned(), proposer_id(proposer)?.into());
    }
    Ok(targets)
}

impl Draft {
    /// An organisation's first catalogue.
    ///
    /// # Errors
    /// When a role cannot be written.
    pub fn first(plan: &FirstRoot, contents: &Contents, now: UnixMs) -> Result<Self, Unwritable> {
        let mut keys = HashMap::new();
        for public in plan.approvers.iter().chain([&plan.snapshot, &plan.timestamp]) {
            keys.insert(tuf_key_id(public)?, tuf_key(public));
        }
        let roles = HashMap::from([
            (RoleType::Root, role_keys(&plan.approvers, plan.threshold)?),
            (RoleType::Targets, role_keys(&plan.approvers, plan.threshold)?),
            (RoleType::Snapshot, role_keys(std::slice::from_ref(&plan.snapshot), 1)?),
            (RoleType::Timestamp, role_keys(std::slice::from_ref(&plan.timestamp), 1)?),
        ]);
        let root = Root {
            spec_version: SPEC.to_owned(),
            consistent_snapshot: true,
            version: version(1),
            expires: in_days(now, ROOT_LIFE_DAYS)?,
            keys,
            roles,
            _extra: HashMap::new(),
        };
        let files = contents.files()?;
        let targets = unsigned(targets(1, &files, contents, None, now)?);
        Ok(Self {
            v: 1,
            root: Some(unsigned(root)),
            targets,
            files,
            blobs: BTreeMap::new(),
            published: BTreeMap::new(),
        })
    }

    /// The next catalogue after a published one.
    ///
    /// # Errors
    /// When a role cannot be written.
    pub fn next(
        before: &Catalogue,
        contents: &Contents,
        proposer: Option<&PublicKey>,
        now: UnixMs,
    ) -> Result<Self, Unwritable> {
        let files = contents.files()?;
        // With a single approver, the proposer may approve, so none is recorded.
        let proposer = proposer.filter(|_| before.threshold > 1);
        let targets = unsigned(targets(before.versions.targets + 1, &files, contents, proposer, now)?);
        Ok(Self { v: 1, root: None, targets, files, blobs: BTreeMap::new(), published: BTreeMap::new() })
    }

    /// Makes a draft from a catalogue that was published before, for a hub that has lost it: from
    /// the files that a machine or technician still holds, by name. `hubs_root` is the newest root
    /// that the hub still has. The files of scripts are not included.
    ///
    /// # Errors
    /// When the files are not a complete catalogue.
    pub fn given_back(files: &BTreeMap<String, Vec<u8>>, hubs_root: u64) -> Result<Self, CatalogueError> {
        let text = |name: &str| {
            let bytes = files.get(name).ok_or_else(|| CatalogueError::Missing(name.to_owned()))?;
            String::from_utf8(bytes.clone()).map_err(|_| CatalogueError::TargetHash(name.to_owned()))
        };
        let numbers = |role: &str| {
            let number = |name: &String| name.strip_suffix(role)?.parse::<u64>().ok();
            files.keys().filter_map(number).collect::<BTreeSet<_>>()
        };
        let newest = |role: &str| {
            let newest = numbers(role).pop_last().ok_or_else(|| CatalogueError::Missing(role.to_owned()))?;
            Ok::<_, CatalogueError>(format!("{newest}{role}"))
        };
        let mut published = BTreeMap::new();
        let (targets, snapshot) = (newest(TARGETS_FILE)?, newest(SNAPSHOT_FILE)?);
        for name in [&targets, &snapshot] {
            published.insert(name.clone(), text(name)?);
        }
        let mut root = None;
        for number in numbers(ROOT_FILE).split_off(&hubs_root.saturating_add(1)) {
            let name = format!("{number}{ROOT_FILE}");
            published.insert(name.clone(), text(&name)?);
            root = Some(name);
        }
        let files = target::NAMED.into_iter().map(|name| Ok((name.to_owned(), text(name)?)));
        let files = files.collect::<Result<_, CatalogueError>>()?;
        let root = root.map(|name| read_role(&name, &published)).transpose()?;
        Ok(Self { v: 1, root, targets: read_role(&targets, &published)?, files, blobs: BTreeMap::new(), published })
    }

    /// Whether it claims to have been published before.
    pub fn is_given_back(&self) -> bool {
        !self.published.is_empty()
    }

    /// The root whose approvers must sign the draft's own root: the one in force, or the last of
    /// those published between the two. `None` if one of these is missing or not properly signed.
    pub fn ruled_by(&self, in_force: &Root) -> Option<Root> {
        let mut ruling = in_force.clone();
        let Some(newest) = self.root.as_ref().map(|root| root.signed.version.get()) else { return Some(ruling) };
        while ruling.version.get().checked_add(1)? < newest {
            let name = format!("{}{ROOT_FILE}", ruling.version.get() + 1);
            let next: Signed<Root> = read_role(&name, &self.published).ok()?;
            let is_next = next.signed.version.get() == ruling.version.get() + 1;
            if !is_next || ruling.verify_role(&next).is_err() || next.signed.verify_role(&next).is_err() {
                return None;
            }
            ruling = next.signed;
        }
        (ruling.version.get() + 1 == newest).then_some(ruling)
    }

    /// Whether the hub itself has published exactly these targets before, and the draft contains
    /// nothing else. This excludes targets that were signed but never published, and other
    /// encodings.
    pub fn was_published(&self, in_force: &Root) -> bool {
        let targets = format!("{}{TARGETS_FILE}", self.targets.signed.version);
        let own = self.root.as_ref().map(|root| root.signed.version.get());
        let roots = in_force.version.get().saturating_add(1)..=own.unwrap_or_default();
        let is_role = |name: &String| {
            let root = name.strip_suffix(ROOT_FILE).and_then(|number| number.parse().ok());
            *name == targets || root.is_some_and(|root| roots.contains(&root) && *name == format!("{root}{ROOT_FILE}"))
        };
        let mut others = self.published.iter().filter(|(name, _)| !is_role(name));
        let (Some((name, snapshot)), None) = (others.next(), others.next()) else { return false };
        let Ok(snapshot) = serde_json::from_str::<Signed<Snapshot>>(snapshot) else { return false };
        let signed = self.root.as_ref().map_or(in_force, |root| &root.signed);
        let Some(bytes) = self.published.get(&targets) else { return false };
        let names = |meta: &Metafile| {
            meta.version == self.targets.signed.version
                && meta
                    .hashes
                    .as_ref()
                    .is_some_and(|hashes| hashes.sha256.as_ref() == sha256(bytes.as_bytes()).as_bytes())
        };
        self.blobs.is_empty()
            && own.is_none_or(|root| self.published.contains_key(&format!("{root}{ROOT_FILE}")))
            && *name == format!("{}{SNAPSHOT_FILE}", snapshot.signed.version)
            && signed.verify_role(&snapshot).is_ok()
            && snapshot.signed.meta.get("targets.json").is_some_and(names)
    }

    /// Whether it may be published after targets of this version: if it is the next version, if it
    /// skips at most [`LEFT_OUT`] versions to replace a lost catalogue, or if it was published
    /// before and is newer.
    pub fn follows(&self, targets: u64) -> bool {
        let number = self.targets.signed.version.get();
        number > targets && (self.is_given_back() || number - targets <= LEFT_OUT + 1)
    }

    /// Skips versions, so that it is newer than a lost catalogue that others may have followed and
    /// nobody can return.
    #[must_use]
    pub fn above(mut self, number: u64) -> Self {
        let next = self.targets.signed.version.get();
        self.targets.signed.version = version(next.max(number.saturating_add(1)));
        self
    }

    /// Adds the successor of the root in force, with new approvers and a new validity. The hub's
    /// keys stay.
    ///
    /// # Errors
    /// When a role cannot be written.
    pub fn with_root(mut self, in_force: &Root, next: &NextRoot, now: UnixMs) -> Result<Self, Unwritable> {
        let mut root = in_force.clone();
        root.version = version(in_force.version.get() + 1);
        root.expires = in_days(now, ROOT_LIFE_DAYS)?;
        for role in [RoleType::Root, RoleType::Targets] {
            root.roles.insert(role, role_keys(&next.approvers, next.threshold)?);
        }
        for public in &next.approvers {
            root.keys.insert(tuf_key_id(public)?, tuf_key(public));
        }
        root._extra.remove(PROPOSER);
        if let Some(proposer) = self.targets.signed._extra.get(PROPOSER) {
            root._extra.insert(PROPOSER.to_owned(), proposer.clone());
        }
        let used: Vec<_> = root.roles.values().flat_map(|role| role.keyids.clone()).collect();
        root.keys.retain(|id, _| used.contains(id));
        self.root = Some(unsigned(root));
        Ok(self)
    }

    /// The draft's id: a hash of everything that is signed, without the signatures.
    ///
    /// # Errors
    /// When a role cannot be written.
    pub fn id(&self) -> Result<Digest, Unwritable> {
        let mut all = self.targets.signed.canonical_form().map_err(|_| Unwritable)?;
        if let Some(root) = &self.root {
            all.extend(root.signed.canonical_form().map_err(|_| Unwritable)?);
        }
        Ok(sha256(&all))
    }

    /// The proposed named targets, after checking that the files match the targets.
    ///
    /// # Errors
    /// When they do not match, or cannot be parsed.
    pub fn contents(&self) -> Result<Contents, SignError> {
        let foreign = self.files.keys().find(|name| !target::NAMED.contains(&name.as_str()));
        if let Some(name) = foreign {
            return Err(SignError::Files(name.clone()));
        }
        let scripts = scripts(&self.targets.signed).map_err(|_| SignError::Files("list of scripts".to_owned()))?;
        let grants = grants::read(&self.targets.signed._extra).map_err(|_| SignError::Unread("targets"))?;
        let strange = self.targets.signed.targets.iter().find(|(name, entry)| {
            let script = name.raw().strip_prefix(target::SCRIPT).and_then(|name| name.parse().ok());
            let known = script.and_then(|name: BundleName| scripts.get(&name));
            // Allow nothing beside the parts that are understood: approvers would sign it unread.
            !target::NAMED.contains(&name.raw()) && known.map(script_entry).as_ref() != Some(*entry)
        });
        if let Some((name, _)) = strange {
            return Err(SignError::Files(name.raw().to_owned()));
        }
        for name in target::NAMED {
            let approved = self.targets.signed.targets.iter().find(|(target, _)| target.raw() == name);
            let same =
                approved.zip(self.files.get(name)).is_some_and(|((_, entry), text)| *entry == target_entry(text));
            if !same {
                return Err(SignError::Files(name.to_owned()));
            }
        }
        fn read<T: serde::de::DeserializeOwned>(files: &BTreeMap<String, String>, name: &str) -> Result<T, SignError> {
            let text = files.get(name).map(String::as_str).unwrap_or_default();
            serde_json::from_str(text).map_err(|_| SignError::Files(name.to_owned()))
        }
        Ok(Contents {
            staff: read(&self.files, target::STAFF)?,
            hub: read(&self.files, target::HUB)?,
            shop: read(&self.files, target::SHOP)?,
            scripts,
            grants,
        })
    }

    /// Adds a script's bundle and files, so that approvers can review them.
    ///
    /// # Errors
    /// When the bundle cannot be written, or is too long.
    pub fn bring(&mut self, bundle: &Bundle, files: &BTreeMap<FileName, String>) -> Result<(), Unwritable> {
        let document = String::from_utf8(bundle.to_bytes().map_err(|_| Unwritable)?).map_err(|_| Unwritable)?;
        for text in files.values().chain([&document]) {
            self.blobs.insert(sha256(text.as_bytes()), text.clone());
        }
        Ok(())
    }

    /// A script of this draft, from the files in the draft.
    ///
    /// # Errors
    /// When a part of it is missing, or does not match its hash or name.
    pub fn proposed(&self, name: &BundleName, approved: &Approved) -> Result<Proposed, SignError> {
        let bad = |why| SignError::Script { name: name.clone(), why };
        let text = |hash: &Digest| self.blobs.get(hash).filter(|text| sha256(text.as_bytes()) == *hash);
        let document = text(&approved.sha256).ok_or(bad("is not brought along"))?;
        let bundle = Bundle::from_bytes(document.as_bytes()).map_err(|_| bad("is no bundle"))?;
        let manifest = Manifest::read(bundle.manifest.as_raw()).map_err(|_| bad("has mistakes in its manifest"))?;
        let named = (&bundle.name, bundle.version) == (name, approved.version)
            && (&manifest.name, manifest.version) == (name, approved.version)
            && document.len() as u64 == approved.bytes;
        if !named {
            return Err(bad("is another one, or another version"));
        }
        let mut files = BTreeMap::new();
        for file in &bundle.files {
            let text = text(&file.sha256).filter(|text| text.len() as u64 == file.bytes);
            files.insert(file.name.clone(), text.ok_or(bad("lacks a file"))?.clone());
        }
        if !files.contains_key(&manifest.run) {
            return Err(bad("lacks the file it runs"));
        }
        Ok(Proposed { bundle, manifest, files })
    }

    /// The scripts that this draft adds or changes. The draft must contain all of their files.
    ///
    /// # Errors
    /// When a file is missing, or a version does not rise.
    pub fn new_scripts(&self, before: Option<&Catalogue>) -> Result<Vec<Proposed>, SignError> {
        let mut new = Vec::new();
        for (name, approved) in &self.contents()?.scripts {
            let known = before.and_then(|before| before.scripts.get(name));
            if known == Some(approved) {
                continue;
            }
            if known.is_some_and(|known| known.version >= approved.version) {
                return Err(SignError::Script { name: name.clone(), why: "does not raise the version" });
            }
            new.push(self.proposed(name, approved)?);
        }
        Ok(new)
    }
}
