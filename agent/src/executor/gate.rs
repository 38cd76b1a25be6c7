//! The gate: default deny, on one page. Pure.
//!
//! ```text
//! envelope ─▶ staff entry ─▶ signature ─▶ order ─▶ role, customer, until, locks ─▶ mine
//!        Authentic ═══ from here the run id is in the ledger, whatever follows ═══
//!          ─▶ time ─▶ catalogue ─▶ bundle ─▶ owner's policy ─▶ Permit
//! ```
//! A [`Permit`] has one maker, here, and is consumed by the action: without
//! one there is no effect, and the compiler holds it.

use super::policy::{Policy, Rule};
use fernwart_certs::catalogue::Catalogue;
use fernwart_certs::envelope::{self, EnvelopeError};
use fernwart_certs::sha256;
use fernwart_protocol::code::Refusal;
use fernwart_protocol::document::{Action, ActionKind, Envelope, Lock, Locked, Order, SectionName, UnixMs};
use fernwart_protocol::id::{CustomerId, Digest, KeyId, MachineId};
use fernwart_protocol::limits::ORDER_LIFE;
use fernwart_protocol::text::Text;
use std::collections::HashSet;

/// Who is asked to do something.
#[derive(Debug, Clone, Copy)]
pub struct Standing<'a> {
    /// This machine.
    pub machine: MachineId,
    /// Its owner.
    pub customer: CustomerId,
    /// What is approved.
    pub catalogue: &'a Catalogue,
    /// What is locked.
    pub locks: &'a Locks,
    /// The time, as far as it can be told.
    pub clock: Clock,
    /// No order that ended before this is believed.
    pub floor: UnixMs,
}

/// What the machine's clock is worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Clock {
    /// It agrees with the hub's and with signed times seen.
    Plausible(UnixMs),
    /// It does not; the hub's word may serve for looking, never for acting.
    Implausible {
        /// The hub's time.
        hub: UnixMs,
    },
}

impl Clock {
    fn for_looking(self) -> UnixMs {
        match self {
            Self::Plausible(now) => now,
            Self::Implausible { hub } => hub,
        }
    }
}

/// Locks in force, believed when they came.
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

/// An order that this machine is truly asked to follow.
#[derive(Debug, Clone)]
pub struct Authentic {
    order: Order,
    hash: Digest,
    staff: Text<64>,
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

    /// Who gave it.
    pub fn staff(&self) -> &Text<64> {
        &self.staff
    }
}

/// Why an order is not authentic, and whether whoever sent it held a staff key.
#[derive(Debug, Clone)]
pub enum NotAuthentic {
    /// Nobody we know: only counted, so that a stranger cannot fill the journal.
    Stranger(Refusal),
    /// Signed by staff, and yet not to be followed here: one line in the journal.
    Staff(Refusal, Box<Authentic>),
}

impl NotAuthentic {
    /// What to answer.
    pub fn refusal(&self) -> Refusal {
        match self {
            Self::Stranger(refusal) | Self::Staff(refusal, _) => *refusal,
        }
    }
}

/// Whether an envelope holds an order to this machine by staff who may give it.
///
/// # Errors
/// Why not.
pub fn authenticate(envelope: &Envelope, me: &Standing<'_>) -> Result<Authentic, NotAuthentic> {
    let stranger = NotAuthentic::Stranger;
    let entry = me.catalogue.staff.find(&envelope.key).ok_or(stranger(Refusal::UnknownStaff))?;
    let order: Order = envelope::open(envelope, &entry.order_key).map_err(|error| {
        stranger(match error {
            EnvelopeError::Signature | EnvelopeError::Signer => Refusal::BadSignature,
            EnvelopeError::Document(_) => Refusal::NotAnOrder,
        })
    })?;
    let kind = order.action.kind();
    let authentic = Authentic { order, hash: sha256(envelope.bytes.as_bytes()), staff: entry.name.clone() };
    let order = &authentic.order;
    let refusal = if entry.until < me.clock.for_looking() {
        Some(Refusal::StaffExpired)
    } else if me.locks.keys.contains(&entry.key) {
        Some(Refusal::StaffLocked)
    } else if !entry.role.may(kind) {
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

/// The owner's yes to one order, naming the rule. Made only by [`permit`],
/// consumed by the action.
#[derive(Debug)]
pub struct Permit {
    authentic: Authentic,
    rule: Rule,
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

    /// Spends the permit on what it permits.
    pub fn spend(self) -> Permitted {
        match self.authentic.order.action {
            Action::Diagnose { sections } => Permitted::Diagnose(sections.into_vec()),
            Action::Script { .. } => Permitted::Nothing,
        }
    }
}

/// What a spent permit allows to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Permitted {
    /// Look at these sections.
    Diagnose(Vec<SectionName>),
    /// No catalogue of this protocol version holds scripts.
    Nothing,
}

/// Whether an authentic order may take effect now.
///
/// # Errors
/// Why not, with the order back for the books.
pub fn permit(authentic: Authentic, me: &Standing<'_>, policy: &Policy) -> Result<Permit, (Refusal, Box<Authentic>)> {
    match check(&authentic.order, me, policy) {
        Ok(rule) => Ok(Permit { authentic, rule }),
        Err(refusal) => Err((refusal, Box::new(authentic))),
    }
}

fn check(order: &Order, me: &Standing<'_>, policy: &Policy) -> Result<Rule, Refusal> {
    let kind = order.action.kind();
    let life = i64::try_from(ORDER_LIFE.as_millis()).unwrap_or(i64::MAX);
    let now = me.clock.for_looking();
    if order.not_after < me.floor || order.not_after < now {
        return Err(Refusal::TooLate);
    }
    if order.not_before > now || order.not_after.saturating_sub(order.not_before) > life {
        return Err(Refusal::NotYet);
    }
    if kind == ActionKind::Act {
        if me.locks.machine {
            return Err(Refusal::MachineLocked);
        }
        if let Clock::Implausible { .. } = me.clock {
            return Err(Refusal::ClockImplausible);
        }
        if me.catalogue.expiries.earliest() < now {
            return Err(Refusal::CatalogueExpired);
        }
        if me.catalogue.versions.targets < order.targets_version {
            return Err(Refusal::CatalogueBehind);
        }
    }
    match &order.action {
        Action::Diagnose { .. } => {}
        // The catalogue's targets are the staff list and the particulars of hub
        // and shop: no bundle is among them.
        Action::Script { .. } => return Err(Refusal::NotApproved),
    }
    policy.judge(kind)
}
