//! A proposal on its way to enough signatures.
//!
//! A draft carries the whole text of what it changes, so that an approver can
//! read it on a computer that has no link to anything.

use super::{
    ROOT_LIFE_DAYS, SPEC, TARGETS_LIFE_DAYS, Unwritable, hex, in_days, proposer_id, sign_role, tuf_key, tuf_key_id,
    unsigned, version,
};
use crate::catalogue::{
    Approved, Catalogue, Contact, Hub, PROPOSER, Shop, StaffEntry, StaffList, VERSION, public_key, scripts, target,
};
use crate::identity::{SigningKey, verify};
use crate::sha256;
use fernwart_protocol::document::{Document, UnixMs};
use fernwart_protocol::id::{Digest, PublicKey};
use fernwart_protocol::script::{Bundle, BundleName, FileName, Manifest};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap};
use tough::TargetName;
use tough::schema::decoded::{Decoded, Hex};
use tough::schema::{Hashes, Role, RoleKeys, RoleType, Root, Signature, Signed, Target, Targets};

/// What a draft proposes: all targets.
#[derive(Debug, Clone, PartialEq)]
pub struct Contents {
    /// The staff list.
    pub staff: StaffList,
    /// The hub's particulars.
    pub hub: Hub,
    /// The shop's particulars.
    pub shop: Shop,
    /// The scripts.
    pub scripts: BTreeMap<BundleName, Approved>,
}

/// Who may approve and what the hub signs with, for a shop's first root.
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

/// Who may approve from a next root on.
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
    /// Version of this shape.
    pub v: u32,
    /// A new root, if one is proposed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub root: Option<Signed<Root>>,
    /// The new targets.
    pub targets: Signed<Targets>,
    /// The named targets' text.
    pub files: BTreeMap<String, String>,
    /// Bundles that change, and their files, by SHA-256.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub blobs: BTreeMap<Digest, String>,
}

/// A script that a draft brings, as its approvers read it.
#[derive(Debug, Clone)]
pub struct Proposed {
    /// The bundle.
    pub bundle: Bundle,
    /// Its manifest.
    pub manifest: Manifest,
    /// Its files' texts.
    pub files: BTreeMap<FileName, String>,
}

/// Signatures so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Valid signatures of different approvers.
    pub have: u64,
    /// How many it takes.
    pub need: u64,
}

impl Progress {
    /// Whether it can be published.
    pub fn is_complete(&self) -> bool {
        self.have >= self.need
    }
}

/// A key may not sign a draft.
#[derive(Debug, thiserror::Error)]
pub enum SignError {
    /// It is no approver's.
    #[error("this key is none of the approvers'")]
    NotAnApprover,
    /// It has proposed the draft.
    #[error("nobody approves their own proposal where more than one must sign")]
    OwnProposal,
    /// It has signed already.
    #[error("this key has signed already")]
    AlreadySigned,
    /// The draft's files are not the ones its targets name.
    #[error("the draft's {0} is not what its targets say")]
    Files(String),
    /// A script it changes cannot be read whole, or is not what it says.
    #[error("the draft's script {name}: {why}")]
    Script {
        /// Its name.
        name: BundleName,
        /// What is wrong with it.
        why: &'static str,
    },
    /// It brings a root that does not follow the one in force.
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

    /// What a published catalogue holds.
    pub fn of(catalogue: &Catalogue) -> Self {
        Self {
            staff: catalogue.staff.clone(),
            hub: catalogue.hub.clone(),
            shop: catalogue.shop.clone(),
            scripts: catalogue.scripts.clone(),
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
    scripts: &BTreeMap<BundleName, Approved>,
    proposer: Option<&PublicKey>,
    now: UnixMs,
) -> Result<Targets, Unwritable> {
    let mut targets = Targets::new(SPEC.to_owned(), version(number), in_days(now, TARGETS_LIFE_DAYS)?);
    targets.delegations = None;
    for (name, text) in files {
        let name = TargetName::new(name.as_str()).map_err(|_| Unwritable)?;
        targets.targets.insert(name, target_entry(text));
    }
    for (name, approved) in scripts {
        let name = TargetName::new(format!("{}{name}", target::SCRIPT)).map_err(|_| Unwritable)?;
        targets.targets.insert(name, script_entry(approved));
    }
    if let Some(proposer) = proposer {
        targets._extra.insert(PROPOSER.to_owned(), proposer_id(proposer)?.into());
    }
    Ok(targets)
}

impl Draft {
    /// A shop's first catalogue.
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
        let targets = unsigned(targets(1, &files, &contents.scripts, None, now)?);
        Ok(Self { v: 1, root: Some(unsigned(root)), targets, files, blobs: BTreeMap::new() })
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
        // With one approver the proposer is the approver; nothing is to be said.
        let proposer = proposer.filter(|_| before.threshold > 1);
        let targets = unsigned(targets(before.versions.targets + 1, &files, &contents.scripts, proposer, now)?);
        Ok(Self { v: 1, root: None, targets, files, blobs: BTreeMap::new() })
    }

    /// Adds the root that follows the one in force: it names who approves from
    /// then on, and lasts anew. The hub's keys stay.
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

    /// Names the draft by all that is signed, whoever has signed so far.
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

    /// The proposed named targets, once it is certain that the targets mean
    /// these very files.
    ///
    /// # Errors
    /// When they do not, or cannot be read.
    pub fn contents(&self) -> Result<Contents, SignError> {
        let foreign = self.files.keys().find(|name| !target::NAMED.contains(&name.as_str()));
        if let Some(name) = foreign {
            return Err(SignError::Files(name.clone()));
        }
        let scripts = scripts(&self.targets.signed).map_err(|_| SignError::Files("list of scripts".to_owned()))?;
        let strange = self.targets.signed.targets.iter().find(|(name, entry)| {
            let script = name.raw().strip_prefix(target::SCRIPT).and_then(|name| name.parse().ok());
            let known = script.and_then(|name: BundleName| scripts.get(&name));
            // Nothing may stand beside what is understood: it would be signed unread.
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
        })
    }

    /// Adds a script's bundle and files, so that they can be read.
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

    /// A script of this draft, read out of what the draft brings.
    ///
    /// # Errors
    /// When anything of it is missing, or is not what its hash or its name says.
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

    /// The scripts that this draft changes: all must have come along whole.
    ///
    /// # Errors
    /// When one has not, or goes back to an older version.
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

    /// The root whose keys must sign: the draft's own, else the one in force.
    fn ruling<'a>(&'a self, in_force: Option<&'a Root>) -> Option<&'a Root> {
        self.root.as_ref().map(|root| &root.signed).or(in_force)
    }

    /// Adds one approver's signature.
    ///
    /// # Errors
    /// When this key may not sign this draft.
    pub fn sign(
        &mut self,
        key: &SigningKey,
        in_force: Option<&Root>,
        before: Option<&Catalogue>,
    ) -> Result<(), SignError> {
        self.new_scripts(before)?;
        if let Some(root) = &self.root
            && !is_next(&root.signed, in_force)
        {
            return Err(SignError::NewRoot);
        }
        let id = tuf_key_id(&key.public())?;
        let counts = |asked: &Asked<'_>| asked.keys.contains(&id);
        let asked = self.asked(in_force);
        if !asked.iter().any(counts) {
            return Err(SignError::NotAnApprover);
        }
        let proposer = self.targets.signed._extra.get(PROPOSER).and_then(serde_json::Value::as_str);
        let alone = asked.iter().all(|asked| asked.need <= 1);
        if !alone && proposer == Some(hex(id.as_ref()).as_str()) {
            return Err(SignError::OwnProposal);
        }
        let (targets, root) = (
            asked.iter().any(|asked| asked.of == Of::Targets && counts(asked)),
            asked.iter().any(|asked| asked.of == Of::Root && counts(asked)),
        );
        if self.has_signed(&id) {
            return Err(SignError::AlreadySigned);
        }
        if targets {
            self.targets.signatures.push(sign_role(&self.targets.signed, key)?);
        }
        if let Some(new) = self.root.as_mut().filter(|_| root) {
            new.signatures.push(sign_role(&new.signed, key)?);
        }
        Ok(())
    }

    fn has_signed(&self, id: &Decoded<Hex>) -> bool {
        let root = self.root.iter().flat_map(|root| &root.signatures);
        self.targets.signatures.iter().chain(root).any(|signature| signature.keyid == *id)
    }

    /// Whose signatures it takes, and how many: the targets' approvers by the
    /// root that will rule, and of a next root both its own and the former
    /// root's approvers (TUF 5.3.4).
    fn asked<'a>(&'a self, in_force: Option<&'a Root>) -> Vec<Asked<'a>> {
        let new = self.root.as_ref().map(|root| &root.signed);
        let of = |of, root: Option<&'a Root>, role| {
            let keys = root?.roles.get(&role)?;
            Some(Asked { of, root: root?, keys: &keys.keyids, need: keys.threshold.get() })
        };
        let former = new.and(in_force);
        [
            of(Of::Targets, new.or(in_force), RoleType::Targets),
            of(Of::Root, new, RoleType::Root),
            of(Of::Root, former, RoleType::Root),
        ]
        .into_iter()
        .flatten()
        .collect()
    }

    /// Drops signatures that do not hold, so that none can stand in the way of
    /// a good one.
    pub fn keep_valid(&mut self, in_force: Option<&Root>) {
        let Some(ruling) = self.ruling(in_force).cloned() else { return };
        let form = self.targets.signed.canonical_form().unwrap_or_default();
        self.targets.signatures.retain(|signature| holds(&ruling, signature, &form));
        if let Some(own) = &mut self.root {
            let form = own.signed.canonical_form().unwrap_or_default();
            let by = |root: &Root, signature: &Signature| holds(root, signature, &form);
            own.signatures
                .retain(|signature| by(&ruling, signature) || in_force.is_some_and(|former| by(former, signature)));
        }
    }

    /// Takes over signatures of the same draft that others have collected.
    pub fn merge(&mut self, other: &Self) {
        fn add(mine: &mut Vec<Signature>, theirs: &[Signature]) {
            for signature in theirs {
                if !mine.iter().any(|known| known.keyid == signature.keyid) {
                    mine.push(signature.clone());
                }
            }
        }
        let root = |draft: &Self| draft.root.as_ref().map(|root| root.signed.clone());
        if self.targets.signed != other.targets.signed || root(self) != root(other) {
            return;
        }
        add(&mut self.targets.signatures, &other.targets.signatures);
        if let (Some(mine), Some(theirs)) = (&mut self.root, &other.root) {
            add(&mut mine.signatures, &theirs.signatures);
        }
    }

    /// Valid signatures so far. Invalid ones count for nothing.
    pub fn progress(&self, in_force: Option<&Root>) -> Progress {
        let targets = self.targets.signed.canonical_form().unwrap_or_default();
        let root = self.root.as_ref().map(|root| root.signed.canonical_form().unwrap_or_default());
        let none: &[Signature] = &[];
        let count = |asked: &Asked<'_>| {
            let (signatures, form) = match asked.of {
                Of::Targets => (self.targets.signatures.as_slice(), targets.as_slice()),
                Of::Root => (
                    self.root.as_ref().map_or(none, |root| root.signatures.as_slice()),
                    root.as_deref().unwrap_or_default(),
                ),
            };
            let valid = |id: &&Decoded<_>| {
                let signature = signatures.iter().find(|signature| signature.keyid == **id);
                signature.is_some_and(|signature| holds(asked.root, signature, form))
            };
            asked.keys.iter().filter(valid).count() as u64
        };
        let asked = self.asked(in_force);
        let missing = asked.iter().map(|asked| asked.need.saturating_sub(count(asked))).max();
        let need = asked.iter().map(|asked| asked.need).max();
        match (missing, need) {
            // More than needed is told as it is, where nothing else is asked.
            (Some(0), Some(need)) => {
                Progress { have: asked.first().map_or(need, |first| count(first).max(need)), need }
            }
            (Some(missing), Some(need)) => Progress { have: need - missing, need },
            _ => Progress { have: 0, need: u64::MAX },
        }
    }

    /// What a published catalogue's successor changes, line by line, for the
    /// eyes of whoever is about to sign.
    ///
    /// # Errors
    /// When the draft's files are not what its targets say.
    pub fn changes(&self, before: Option<&Catalogue>) -> Result<Vec<String>, SignError> {
        let new = self.contents()?;
        let old = before.map(Contents::of);
        let mut lines = Vec::new();
        if let Some(root) = &self.root {
            let role = root.signed.roles.get(&RoleType::Targets);
            let (k, n) = role.map_or((0, 0), |role| (role.threshold.get(), role.keyids.len()));
            lines.push(format!("root {}: {k} of {n} approvers must sign", root.signed.version));
            if let Some(before) = before {
                lines.extend(approvers_changed(&root.signed, before));
            }
        }
        let entries = |contents: Option<&Contents>| contents.map(|c| c.staff.staff.clone()).unwrap_or_default();
        let (old_staff, new_staff) = (entries(old.as_ref()), entries(Some(&new)));
        for entry in &new_staff {
            match old_staff.iter().find(|known| known.key == entry.key) {
                None => lines.push(format!("+ staff {}", described(entry))),
                Some(known) if known != entry => {
                    lines.push(format!("~ staff {} (was {})", described(entry), described(known)));
                }
                Some(_) => {}
            }
        }
        for entry in old_staff.iter().filter(|known| !new_staff.iter().any(|entry| entry.key == known.key)) {
            lines.push(format!("- staff {}", described(entry)));
        }
        for script in self.new_scripts(before)? {
            let known = old.as_ref().is_some_and(|contents| contents.scripts.contains_key(&script.bundle.name));
            let sign = if known { '~' } else { '+' };
            lines.push(format!("{sign} script {}", script_in_words(&script.manifest)));
        }
        for (name, approved) in old.iter().flat_map(|contents| &contents.scripts) {
            if !new.scripts.contains_key(name) {
                lines.push(format!("- script {name} {}", approved.version));
            }
        }
        if old.as_ref().map(|c| &c.hub) != Some(&new.hub) {
            let addresses: Vec<_> = new.hub.addresses.iter().map(ToString::to_string).collect();
            lines.push(format!("~ hub at {}", addresses.join(", ")));
            lines.extend(new.hub.ca.iter().map(|pin| format!("    CA {pin}")));
            lines.extend(new.hub.evidence_keys.iter().map(|key| format!("    evidence key {key}")));
        }
        if old.as_ref().map(|c| &c.shop) != Some(&new.shop) {
            let contact = |c: &Contact| format!("{} {} {}", c.name, c.phone, c.mail).trim().to_owned();
            let contacts: Vec<_> = new.shop.contacts.iter().map(contact).collect();
            let parts = [new.shop.name.to_string(), contacts.join(", "), new.shop.hours.to_string()];
            let parts: Vec<_> = parts.into_iter().filter(|part| !part.is_empty()).collect();
            lines.push(format!("~ shop {}", parts.join(" · ")));
        }
        Ok(lines)
    }
}

/// Whether a key of this root has made a signature over these bytes.
/// Which role somebody is asked to sign.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Of {
    Targets,
    Root,
}

/// Whose signatures a role of a draft takes.
struct Asked<'a> {
    of: Of,
    /// The root that names them.
    root: &'a Root,
    keys: &'a [Decoded<Hex>],
    need: u64,
}

fn holds(root: &Root, signature: &Signature, form: &[u8]) -> bool {
    let public = root.keys.get(&signature.keyid).and_then(crate::catalogue::public_key);
    let bytes = <[u8; 64]>::try_from(signature.sig.as_ref());
    public
        .zip(bytes.ok())
        .is_some_and(|(public, bytes)| verify(&public, form, &fernwart_protocol::id::Signature::from_bytes(bytes)))
}

/// Who may approve from this root on, and who may not any more.
fn approvers_changed(root: &Root, before: &Catalogue) -> Vec<String> {
    let ids = root.roles.get(&RoleType::Targets).map(|role| role.keyids.as_slice()).unwrap_or_default();
    let new: Vec<PublicKey> = ids.iter().filter_map(|id| public_key(root.keys.get(id)?)).collect();
    let old: Vec<PublicKey> = before.approvers.values().copied().collect();
    let added = new.iter().filter(|key| !old.contains(key)).map(|key| format!("+ approver fwa1-{key}"));
    let taken = old.iter().filter(|key| !new.contains(key)).map(|key| format!("- approver fwa1-{key}"));
    added.chain(taken).collect()
}

fn script_in_words(manifest: &Manifest) -> String {
    let mut parts = vec![format!("privilege {}", manifest.privilege.as_str())];
    if !manifest.writes.is_empty() {
        parts.push(format!("writes {}", manifest.writes.join(" ")));
    }
    if manifest.network {
        parts.push("uses the network".to_owned());
    }
    if manifest.services {
        parts.push("speaks to the system's services".to_owned());
    }
    format!("{} {}: {} ({})", manifest.name, manifest.version, manifest.title.en, parts.join(", "))
}

fn described(entry: &StaffEntry) -> String {
    use crate::catalogue::Customers;
    let reach = match &entry.customers {
        Customers::All => "all customers".to_owned(),
        Customers::Only(some) => {
            let ids: Vec<_> = some.iter().map(ToString::to_string).collect();
            format!("only customers {}", ids.join(" "))
        }
    };
    let until = jiff::Timestamp::from_millisecond(entry.until)
        .map(|at| at.strftime("%Y-%m-%d").to_string())
        .unwrap_or_default();
    format!("{}: {}, {reach}, until {until}, key {}", entry.name, entry.role.as_str(), entry.key)
}

/// Whether a root is what it is shown as to whoever signs: the next one, with the
/// same approvers for root and targets, and all else as in the one in force.
/// Without one in force only a first root is.
fn is_next(root: &Root, in_force: Option<&Root>) -> bool {
    let one_list = root.roles.get(&RoleType::Root) == root.roles.get(&RoleType::Targets);
    let Some(before) = in_force else { return one_list && root.version.get() == 1 };
    let kept =
        [RoleType::Snapshot, RoleType::Timestamp].iter().all(|role| root.roles.get(role) == before.roles.get(role));
    one_list
        && kept
        && root.roles.len() == before.roles.len()
        && root.version.get() == before.version.get() + 1
        && root.consistent_snapshot == before.consistent_snapshot
}
