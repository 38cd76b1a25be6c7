//! The gate: decides whether an order may run; denies by default. Pure.
//!
//! ```text
//! envelope ─▶ staff entry ─▶ signature ─▶ order ─▶ until, locks, role ─▶ this machine, customer
//!        Authentic ═══ from here the run id is in the ledger, whatever follows ═══
//!          ─▶ time ─▶ role again, machine lock, changed files, clock ─▶ catalogue, bundle,
//!             parameters ─▶ owner's policy ─▶ Permit
//! ```
//! Only this module makes a [`Permit`], and a run begins by consuming one. That nothing else starts
//! a script is held by `only_a_permitted_run_starts_a_script` in `tests/whole/architecture.rs`.

use super::policy::{No, Owner, Policy, Rule};
use fernwart_certs::catalogue::{Catalogue, Role};
use fernwart_certs::envelope::{self, EnvelopeError};
use fernwart_certs::sha256;
use fernwart_protocol::code::Refusal;
use fernwart_protocol::document::{
    Action, ActionKind, BadDocument, Envelope, Lock, Locked, Order, Retirement, SectionName, UnixMs,
};
use fernwart_protocol::id::{CustomerId, Digest, KeyId, MachineId};
use fernwart_protocol::limits::{CLOCK_SKEW, ORDER_LIFE};
use fernwart_protocol::script::{Cage, Checked, Declared, FileName, Manifest, Parameters, Platform};
use fernwart_protocol::text::Text;
use std::collections::{BTreeMap, HashSet};

/// The machine and its state, against which an order is judged.
#[derive(Debug, Clone, Copy)]
pub struct GateContext<'a> {
    /// This machine.
    pub machine: MachineId,
    /// Whose machine it is.
    pub customer: CustomerId,
    /// The catalogue in force.
    pub catalogue: &'a Catalogue,
    /// The locks in force.
    pub locks: &'a Locks,
    /// The time, as far as it is known.
    pub clock: Clock,
    /// Orders that ended before this are refused.
    pub floor: UnixMs,
    /// Acts whose orders may have been signed before this are refused: the ledger may have
    /// forgotten them.
    pub orders_since: UnixMs,
    /// Whether the keys and enrollment are those that the agent started with, and the certificate
    /// is theirs; a renewed one may be.
    pub files_are_ours: bool,
}

/// How far the machine's clock can be trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Clock {
    /// It agrees with the hub's clock and with the signed times seen.
    Plausible(UnixMs),
    /// It does not. The hub's time is used for looks and for an act that repairs the clock, but
    /// never for windows or standing consent.
    Implausible {
        /// The hub's time.
        hub: UnixMs,
    },
}

impl Clock {
    /// The machine's own time, if it is plausible. Windows and standing consent are judged only
    /// by this.
    pub fn own(self) -> Option<UnixMs> {
        match self {
            Self::Plausible(now) => Some(now),
            Self::Implausible { .. } => None,
        }
    }
}

impl Clock {
    /// The same clock, but not earlier than `latest`. If it was set back by more than the allowed
    /// skew, the new time counts: the clock was wrong before.
    pub fn not_before(self, latest: UnixMs) -> Self {
        let skew = i64::try_from(CLOCK_SKEW.as_millis()).unwrap_or(i64::MAX);
        match self {
            Self::Plausible(now) if latest.saturating_sub(now) <= skew => Self::Plausible(now.max(latest)),
            clock => clock,
        }
    }
}

impl GateContext<'_> {
    /// The best known time: the machine's own, or else the hub's, but not before the time floor.
    pub fn now(&self) -> UnixMs {
        match self.clock {
            Clock::Plausible(now) => now,
            Clock::Implausible { hub } => hub.max(self.floor),
        }
    }
}

/// The locks in force; each was verified when it arrived.
#[derive(Debug, Clone, Default)]
pub struct Locks {
    keys: HashSet<KeyId>,
    machine: bool,
}

impl Locks {
    /// Whether a key is locked.
    pub fn holds(&self, key: &KeyId) -> bool {
        self.keys.contains(key)
    }

    /// Adds one.
    pub fn add(&mut self, lock: &Lock, me: MachineId) {
        match &lock.locked {
            Locked::Keys(keys) => self.keys.extend(keys),
            Locked::Machine(machine) => self.machine |= *machine == me,
        }
    }
}

/// An order whose signature, signer, role, machine and customer have been checked.
#[derive(Debug, Clone)]
pub struct Authentic {
    order: Order,
    hash: Digest,
    staff: Text<64>,
    role: Role,
    /// Whether the staff entry has a grant for its script.
    is_named: bool,
}

impl Authentic {
    /// The order.
    pub fn order(&self) -> &Order {
        &self.order
    }

    /// SHA-256 of its bytes.
    pub fn hash(&self) -> Digest {
        self.hash
    }

    /// The name of the staff who signed it.
    pub fn staff(&self) -> &Text<64> {
        &self.staff
    }
}

/// Why an order is not authentic, and whether staff signed it.
#[derive(Debug, Clone)]
pub enum NotAuthentic {
    /// Signed by no known key: only counted, so that unknown signers cannot fill the journal.
    UnknownSigner(Refusal),
    /// Signed by staff but refused here: gets one line in the journal.
    Staff(Refusal, Box<Authentic>),
}

impl NotAuthentic {
    /// The refusal to answer with.
    pub fn refusal(&self) -> Refusal {
        match self {
            Self::UnknownSigner(refusal) | Self::Staff(refusal, _) => *refusal,
        }
    }
}

/// Verifies that an envelope holds an order for this machine, signed by staff who may give it.
///
/// # Errors
/// Why it is refused.
pub fn authenticate(envelope: &Envelope, me: &GateContext<'_>) -> Result<Authentic, NotAuthentic> {
    let unknown_signer = NotAuthentic::UnknownSigner;
    let entry = me.catalogue.staff.find(&envelope.key).ok_or(unknown_signer(Refusal::UnknownStaff))?;
    let order: Order = envelope::open(envelope, &entry.order_key).map_err(|error| {
        unknown_signer(match error {
            EnvelopeError::Signature | EnvelopeError::Signer => Refusal::BadSignature,
            EnvelopeError::Document(BadDocument::Newer { .. }) => Refusal::NewerOrder,
            EnvelopeError::Document(_) | EnvelopeError::Newer { .. } => Refusal::NotAnOrder,
        })
    })?;
    let hash = sha256(envelope.bytes.as_bytes());
    let is_named = me.catalogue.may_run(&entry.key, &order.action);
    let authentic = Authentic { order, hash, staff: entry.name.clone(), role: entry.role, is_named };
    let order = &authentic.order;
    let refusal = if entry.until < me.now() {
        Some(Refusal::StaffExpired)
    } else if me.locks.holds(&entry.key) {
        Some(Refusal::StaffLocked)
    } else if !me.catalogue.may(entry, &order.action) {
        Some(Refusal::BeyondRole)
    } else if order.machine != me.machine {
        Some(Refusal::WrongMachine)
    } else if order.customer != me.customer || !entry.customers.include(&order.customer) {
        Some(Refusal::WrongCustomer)
    } else {
        None
    };
    match refusal {
        Some(refusal) => Err(NotAuthentic::Staff(refusal, Box::new(authentic))),
        None => Ok(authentic),
    }
}

/// Verifies that an envelope holds a lead's signed retirement of this machine. Returns who signed
/// it, and when.
///
/// # Errors
/// Why it is refused.
pub fn retired_by(envelope: &Envelope, me: &GateContext<'_>) -> Result<(Text<64>, UnixMs), Refusal> {
    let entry = me.catalogue.staff.find(&envelope.key).ok_or(Refusal::UnknownStaff)?;
    let word: Retirement = envelope::open(envelope, &entry.order_key).map_err(|error| match error {
        EnvelopeError::Signature | EnvelopeError::Signer => Refusal::BadSignature,
        EnvelopeError::Document(BadDocument::Newer { .. }) => Refusal::NewerOrder,
        EnvelopeError::Document(_) | EnvelopeError::Newer { .. } => Refusal::NotAnOrder,
    })?;
    if entry.until < me.now() {
        return Err(Refusal::StaffExpired);
    }
    if me.locks.holds(&entry.key) {
        return Err(Refusal::StaffLocked);
    }
    if entry.role != Role::Lead {
        return Err(Refusal::BeyondRole);
    }
    if word.machine != me.machine {
        return Err(Refusal::WrongMachine);
    }
    if word.customer != me.customer || !entry.customers.include(&me.customer) {
        return Err(Refusal::WrongCustomer);
    }
    if word.not_after < me.now() {
        return Err(Refusal::TooLate);
    }
    Ok((entry.name.clone(), word.at))
}

/// The permission for one order, with the rule that gave it. Made only by [`permit`], consumed by
/// the action.
#[derive(Debug)]
pub struct Permit {
    authentic: Authentic,
    rule: Rule,
    ready: Option<Ready>,
}

/// A script as stored on this machine, each file with its hash.
#[derive(Debug, Clone)]
pub struct Script {
    /// SHA-256 of its bundle.
    pub sha256: Digest,
    /// Its manifest.
    pub manifest: Manifest,
    /// Its files.
    pub files: BTreeMap<FileName, (Digest, Vec<u8>)>,
}

/// An approved script with parameters that fit it.
#[derive(Debug)]
pub struct Ready {
    /// The script.
    pub script: Script,
    /// Its parameters.
    pub parameters: Checked,
    /// Whether it is a dry run.
    pub dry_run: bool,
    /// The cage it will run in.
    pub cage: Cage,
}

impl Permit {
    /// The rule that permits it.
    pub fn rule(&self) -> Rule {
        self.rule
    }

    /// The order it permits.
    pub fn authentic(&self) -> &Authentic {
        &self.authentic
    }

    /// The script it permits, if it is one.
    pub fn script(&self) -> Option<&Script> {
        self.ready.as_ref().map(|ready| &ready.script)
    }

    /// Consumes the permit and returns what it permits.
    pub fn spend(self) -> Permitted {
        match (self.authentic.order.action, self.ready) {
            (Action::Diagnose { sections }, _) => Permitted::Diagnose(sections.into_vec()),
            (Action::Script { .. }, Some(ready)) => Permitted::Run(Box::new(ready)),
            (Action::Script { .. }, None) => Permitted::Nothing,
        }
    }
}

/// What a consumed permit allows.
#[derive(Debug)]
pub enum Permitted {
    /// Look at these sections.
    Diagnose(Vec<SectionName>),
    /// Run this script.
    Run(Box<Ready>),
    /// Nothing: a permit for a script is never made without it.
    Nothing,
}

/// What this machine has available for running a script.
#[derive(Debug)]
pub struct AtHand {
    /// The script itself.
    pub script: Script,
    /// The cage available here for its limits.
    pub cage: Option<Cage>,
    /// The sealed parameters of this run; none if they cannot be decrypted.
    pub secrets: Option<Parameters>,
}

/// Decides whether an authentic order may take effect now.
///
/// # Errors
/// Why not, or what it must wait for; the order is returned for the state store.
pub fn permit(
    authentic: Authentic,
    me: &GateContext<'_>,
    policy: &Policy,
    owner: &Owner,
    at_hand: Option<AtHand>,
) -> Result<Permit, (No, Box<Authentic>)> {
    match check(&authentic, me, policy, owner, at_hand) {
        Ok((rule, ready)) => Ok(Permit { authentic, rule, ready }),
        Err(no) => Err((no, Box::new(authentic))),
    }
}

fn check(
    authentic: &Authentic,
    me: &GateContext<'_>,
    policy: &Policy,
    owner: &Owner,
    at_hand: Option<AtHand>,
) -> Result<(Rule, Option<Ready>), No> {
    let order = &authentic.order;
    // The kind that the order claims counts only until the manifest is here.
    let kind = at_hand.as_ref().map_or(order.action.kind(), |at_hand| kind(order, &at_hand.script.manifest));
    let life = i64::try_from(ORDER_LIFE.as_millis()).unwrap_or(i64::MAX);
    let now = me.now();
    let refused = |refusal| Err(No::Refused(refusal));
    // A look expires with its caller's timeout, which may be shorter than the allowed clock skew.
    // Running it slightly late does no harm.
    let skew = i64::try_from(CLOCK_SKEW.as_millis()).unwrap_or(i64::MAX);
    let slack = if kind == ActionKind::Look { skew } else { 0 };
    if order.not_after.saturating_add(slack) < me.floor.max(now) {
        return refused(Refusal::TooLate);
    }
    if kind == ActionKind::Act && order.not_before < me.orders_since {
        return refused(Refusal::TooLate);
    }
    if order.not_before > now || order.not_after.saturating_sub(order.not_before) > life {
        return refused(Refusal::NotYet);
    }
    let repairs_clock = at_hand.as_ref().is_some_and(|at_hand| at_hand.script.manifest.repairs_clock);
    if kind == ActionKind::Act {
        if !authentic.role.may(kind) && !authentic.is_named {
            return refused(Refusal::BeyondRole);
        }
        if me.locks.machine {
            return refused(Refusal::MachineLocked);
        }
        if !me.files_are_ours {
            return refused(Refusal::FilesChanged);
        }
        if matches!(me.clock, Clock::Implausible { .. }) && !repairs_clock {
            return refused(Refusal::ClockImplausible);
        }
    }
    let (ready, name) = match &order.action {
        Action::Diagnose { .. } => (None, None),
        Action::Script { bundle, .. } => (Some(script(order, me, now, at_hand).map_err(No::Refused)?), Some(bundle)),
    };
    let rule = policy.judge(kind, name, owner, me.clock.own())?;
    Ok((rule, ready))
}

/// Whether an order is a look or an act, judged by its script's manifest.
pub(super) fn kind(order: &Order, manifest: &Manifest) -> ActionKind {
    match order.action {
        Action::Script { dry_run, .. } => manifest.kind(dry_run),
        Action::Diagnose { .. } => ActionKind::Look,
    }
}

/// Checks that the order's script is approved, is for this platform, and accepts these
/// parameters.
fn script(order: &Order, me: &GateContext<'_>, now: UnixMs, at_hand: Option<AtHand>) -> Result<Ready, Refusal> {
    let Action::Script { bundle, version, sha256, privilege, parameters, dry_run } = &order.action else {
        return Err(Refusal::NotAnOrder);
    };
    if me.catalogue.expiries.earliest() < now {
        return Err(Refusal::CatalogueExpired);
    }
    if me.catalogue.versions.targets < order.targets_version {
        return Err(Refusal::CatalogueBehind);
    }
    let approved = me.catalogue.scripts.get(bundle).ok_or(Refusal::NotApproved)?;
    if (approved.version, approved.sha256) != (*version, *sha256) {
        return Err(Refusal::NotApproved);
    }
    let AtHand { script, cage, secrets } = at_hand.ok_or(Refusal::NotFetched)?;
    let manifest = &script.manifest;
    // What the order claims about the script must match the approved manifest.
    if script.sha256 != *sha256 || manifest.privilege != *privilege {
        return Err(Refusal::NotApproved);
    }
    if manifest.expires.is_some_and(|end| end <= now) {
        return Err(Refusal::ScriptExpired);
    }
    if !manifest.platforms.contains(&Platform::HERE) {
        return Err(Refusal::OtherPlatform);
    }
    if *dry_run && !manifest.dry_run {
        return Err(Refusal::NoDryRun);
    }
    let secrets = secrets.ok_or(Refusal::BadParameters)?;
    let parameters = Declared::check_both(&manifest.parameters, parameters, &secrets);
    let parameters = parameters.map_err(|_| Refusal::BadParameters)?;
    let cage = cage.ok_or(Refusal::NoCage)?;
    Ok(Ready { parameters, dry_run: *dry_run, cage, script })
}

#[cfg(test)]
mod cases;
