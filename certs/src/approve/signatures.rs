//! Signatures on a draft: who may sign, and when there are enough signatures.

use super::draft::{Draft, SignError};
use super::{ROOT_LIFE_DAYS, SPEC, TARGETS_LIFE_DAYS, in_days, sign_role, tuf_key, tuf_key_id};
use crate::catalogue::{Catalogue, PROPOSER, grants, public_key};
use crate::identity::{SigningKey, verify};
use crate::{hex, sha256};
use fernwart_protocol::document::UnixMs;
use tough::schema::decoded::{Decoded, Hex};
use tough::schema::{Role, RoleType, Root, Signature};

/// The signatures collected so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Valid signatures of different approvers.
    pub have: u64,
    /// How many are needed.
    pub need: u64,
}

impl Progress {
    /// Whether it can be published.
    pub fn is_complete(&self) -> bool {
        self.have >= self.need
    }
}

/// The role that is signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Of {
    Targets,
    Root,
}

/// The keys that must sign a role of a draft.
struct Required<'a> {
    of: Of,
    /// The root that defines the keys.
    root: &'a Root,
    keys: &'a [Decoded<Hex>],
    need: u64,
}

impl Draft {
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
        now: UnixMs,
    ) -> Result<(), SignError> {
        self.new_scripts(before)?;
        self.shows_all(now)?;
        // A catalogue that was published before is never signed again. A version far ahead would
        // leave no room for later ones.
        if self.is_given_back() {
            return Err(SignError::NotNext);
        }
        let in_turn = match (before, in_force) {
            (Some(before), _) => self.follows(before.versions.targets),
            (None, None) => self.targets.signed.version.get() == 1,
            (None, Some(_)) => true,
        };
        if !in_turn {
            return Err(SignError::NotNext);
        }
        if let Some(root) = &self.root
            && !is_next(&root.signed, in_force)
        {
            return Err(SignError::NewRoot);
        }
        let id = tuf_key_id(&key.public())?;
        let counts = |required: &Required<'_>| required.keys.contains(&id);
        let required = self.required(in_force);
        if !required.iter().any(counts) {
            return Err(SignError::NotAnApprover);
        }
        let proposer = self.targets.signed._extra.get(PROPOSER).and_then(serde_json::Value::as_str);
        let alone = required.iter().all(|required| required.need <= 1);
        if !alone && proposer == Some(hex(id.as_ref()).as_str()) {
            return Err(SignError::OwnProposal);
        }
        let (targets, root) = (
            required.iter().any(|required| required.of == Of::Targets && counts(required)),
            required.iter().any(|required| required.of == Of::Root && counts(required)),
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

    /// Checks that approvers are shown everything that they would sign: validity is not too long,
    /// and there is nothing beside the parts that are understood.
    fn shows_all(&self, now: UnixMs) -> Result<(), SignError> {
        let targets = &self.targets.signed;
        lasts(targets.expires, TARGETS_LIFE_DAYS, now)?;
        let proposer = targets._extra.get(PROPOSER);
        let plain = targets.spec_version == SPEC
            && targets.delegations.is_none()
            && targets._extra.keys().all(|name| name == PROPOSER || name == grants::MAY_RUN)
            && grants::read(&targets._extra).is_ok()
            && proposer.is_none_or(serde_json::Value::is_string);
        if !plain {
            return Err(SignError::Unread("targets"));
        }
        let Some(root) = self.root.as_ref().map(|root| &root.signed) else { return Ok(()) };
        lasts(root.expires, ROOT_LIFE_DAYS, now)?;
        let used = |id: &Decoded<Hex>| root.roles.values().any(|role| role.keyids.contains(id));
        let plain = root.spec_version == SPEC
            && root._extra.keys().all(|name| name == PROPOSER)
            && root._extra.get(PROPOSER) == proposer
            && root.roles.values().all(|role| role._extra.is_empty())
            && root
                .keys
                .iter()
                .all(|(id, key)| used(id) && public_key(key).map(|public| tuf_key(&public)).as_ref() == Some(key));
        if plain { Ok(()) } else { Err(SignError::Unread("root")) }
    }

    fn has_signed(&self, id: &Decoded<Hex>) -> bool {
        let root = self.root.iter().flat_map(|root| &root.signatures);
        self.targets.signatures.iter().chain(root).any(|signature| signature.keyid == *id)
    }

    /// The required signatures: for the targets, of the approvers in the root that will be in
    /// force; for a new root, of its own approvers and of the former root's (TUF 5.3.4).
    fn required<'a>(&'a self, in_force: Option<&'a Root>) -> Vec<Required<'a>> {
        let new = self.root.as_ref().map(|root| &root.signed);
        let of = |of, root: Option<&'a Root>, role| {
            let keys = root?.roles.get(&role)?;
            Some(Required { of, root: root?, keys: &keys.keyids, need: keys.threshold.get() })
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

    /// Drops invalid signatures, so that none can block a valid one.
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

    /// Adds the signatures that others have collected on the same draft.
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
        for (hash, text) in &other.blobs {
            if sha256(text.as_bytes()) == *hash {
                self.blobs.entry(*hash).or_insert_with(|| text.clone());
            }
        }
        if let (Some(mine), Some(theirs)) = (&mut self.root, &other.root) {
            add(&mut mine.signatures, &theirs.signatures);
        }
    }

    /// The number of valid signatures so far.
    pub fn progress(&self, in_force: Option<&Root>) -> Progress {
        let targets = self.targets.signed.canonical_form().unwrap_or_default();
        let root = self.root.as_ref().map(|root| root.signed.canonical_form().unwrap_or_default());
        let none: &[Signature] = &[];
        let count = |required: &Required<'_>| {
            let (signatures, form) = match required.of {
                Of::Targets => (self.targets.signatures.as_slice(), targets.as_slice()),
                Of::Root => (
                    self.root.as_ref().map_or(none, |root| root.signatures.as_slice()),
                    root.as_deref().unwrap_or_default(),
                ),
            };
            let valid = |id: &&Decoded<_>| {
                let signature = signatures.iter().find(|signature| signature.keyid == **id);
                signature.is_some_and(|signature| holds(required.root, signature, form))
            };
            required.keys.iter().filter(valid).count() as u64
        };
        let required = self.required(in_force);
        let missing = required.iter().map(|required| required.need.saturating_sub(count(required))).max();
        let need = required.iter().map(|required| required.need).max();
        match (missing, need) {
            // All requirements are met: report the actual number, even if it is more than needed.
            (Some(0), Some(need)) => {
                Progress { have: required.first().map_or(need, |first| count(first).max(need)), need }
            }
            (Some(missing), Some(need)) => Progress { have: need - missing, need },
            _ => Progress { have: 0, need: u64::MAX },
        }
    }
}

/// Allowed difference between two correct clocks, days.
const SKEW_DAYS: i64 = 1;

/// Checks that a role does not end later than its maximum validity allows.
fn lasts(end: jiff::Timestamp, days: i64, now: UnixMs) -> Result<(), SignError> {
    let most = in_days(now, days + SKEW_DAYS)?;
    if end <= most { Ok(()) } else { Err(SignError::Lasts { end, days }) }
}

/// Whether a key of this root has made this signature over these bytes.
fn holds(root: &Root, signature: &Signature, form: &[u8]) -> bool {
    let public = root.keys.get(&signature.keyid).and_then(crate::catalogue::public_key);
    let bytes = <[u8; 64]>::try_from(signature.sig.as_ref());
    public
        .zip(bytes.ok())
        .is_some_and(|(public, bytes)| verify(&public, form, &fernwart_protocol::id::Signature::from_bytes(bytes)))
}

/// Whether a root differs from the one in force only in what approvers are shown: it is the next
/// version, with the same approvers for root and targets, and everything else is unchanged. If none
/// is in force, only a first root is accepted.
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
