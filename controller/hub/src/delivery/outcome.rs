//! Accepts outcomes of runs.
//!
//! ```text
//! SignedOutcome (wire) ─▶ verify ─▶ VerifiedOutcome ─▶ store ─▶ RunEnded ─▶ publish ─▶ metrics, index, events, watchers
//! ```
//! An outcome is stored and countersigned before its machine may forget it.

use crate::delivery::DeliveryService;
use crate::journal;
use crate::run_end::{End, NewHealth, RunEnded};
use crate::trust::denial_of;
use fernwart_certs::envelope::{self, EnvelopeError};
use fernwart_certs::sha256;
use fernwart_fleet::{Diagnosed, Health, Machine};
use fernwart_protocol::code::{Denial, Refusal};
use fernwart_protocol::diagnosis::Summary;
use fernwart_protocol::document::{Action, Countersignature, Document, Envelope, Order, Outcome, Receipt};
use fernwart_protocol::id::{Digest, MachineId, PublicKey};
use fernwart_protocol::text::chain;
use fernwart_protocol::to_hub::SignedOutcome;
use fernwart_protocol::version::Version;
use fernwart_store::{NewOutcome, StoredOutcome};
use std::sync::Arc;
use tracing::{debug, warn};

/// How an outcome arrived.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Origin<'a> {
    /// On the stream on which this order was sent; with the hash of the sent bytes.
    Delivered(&'a Order, Digest),
    /// On a stream that the machine opened later; a staff key must have signed the order.
    Claimed,
}

/// An outcome that this machine has signed, of an order that staff has signed or
/// this hub has delivered.
#[derive(Debug)]
struct VerifiedOutcome {
    machine: Arc<Machine>,
    signed: SignedOutcome,
    receipt: Receipt,
    receipt_hash: Digest,
    /// The summary of its report, if that covers the complete machine.
    diagnosed: Option<Diagnosed>,
}

/// Verifies, stores and publishes an outcome. Returns the countersignature and the key of the
/// receipt.
///
/// # Errors
/// When the machine has not signed it, or it cannot be stored.
pub(crate) async fn take_in(
    service: &DeliveryService,
    machine: MachineId,
    signed: SignedOutcome,
    origin: Origin<'_>,
) -> Result<(Envelope, PublicKey), Denial> {
    let verified = verify(service, machine, signed, origin).await?;
    let key = verified.machine.evidence_key;
    let (ended, countersignature) = store(service, verified).await?;
    publish(service, &ended);
    Ok((countersignature, key))
}

/// Handles an outcome that fails verification: counts it, and raises an alarm once per machine
/// until somebody acknowledges it, since the machine's program may retry for ever.
async fn refused(service: &DeliveryService, machine: &Machine, what: &'static str) {
    service.records.metrics.outcome_refused();
    if !machine.alarm.as_raw().contains(what) && journal::raise(&service.records, machine.id, what).await {
        warn!(machine = %machine.id, name = %machine.name, what, "an outcome was refused");
    }
}

async fn verify(
    service: &DeliveryService,
    machine: MachineId,
    signed: SignedOutcome,
    origin: Origin<'_>,
) -> Result<VerifiedOutcome, Denial> {
    let machine = service.records.store.machine(&machine).ok_or(Denial::NoSuchMachine)?;
    let receipt: Receipt = match envelope::open(&signed.receipt, &machine.evidence_key) {
        Ok(receipt) => receipt,
        Err(error) => {
            if !error.is_newer() {
                refused(service, &machine, "it has sent a receipt that it has not signed").await;
            }
            return Err(denial_of(&error));
        }
    };
    let order_hash = sha256(signed.order.bytes.as_bytes());
    let claimed;
    let order = match origin {
        Origin::Delivered(order, sent) => Some(order).filter(|_| sent == order_hash),
        Origin::Claimed => {
            claimed = claimed_order(service, &signed.order).await?;
            claimed.as_ref()
        }
    };
    let fits = |order: &&Order| {
        receipt.machine == machine.id
            && order.machine == machine.id
            && receipt.run == order.run
            && receipt.order == order_hash
            && (signed.body.as_bytes().is_empty() || receipt.body == sha256(signed.body.as_bytes()))
    };
    let Some(order) = order.filter(fits) else {
        refused(service, &machine, "it has sent a receipt that does not fit its order or its report").await;
        return Err(Denial::NotUnderstood);
    };
    // A look at one section says nothing about the others.
    let is_of_all_sections = matches!(&order.action, Action::Diagnose { sections } if sections.as_slice().is_empty());
    let summary = || Summary::unpack(signed.body.as_bytes()).ok().filter(|(report, _)| report.covers_all_sections());
    let diagnosed = match receipt.outcome {
        // A machine's clock that runs ahead must not make its report look fresh for ever.
        Outcome::Ok if is_of_all_sections => summary().map(|(report, _)| Diagnosed {
            health: Health::of(&report),
            at: report.taken_at.min(service.records.now()),
        }),
        Outcome::Ok
        | Outcome::Failed
        | Outcome::Refused
        | Outcome::Expired
        | Outcome::Cancelled
        | Outcome::Interrupted => None,
    };
    let receipt_hash = sha256(signed.receipt.bytes.as_bytes());
    Ok(VerifiedOutcome { machine, signed, receipt, receipt_hash, diagnosed })
}

/// The order of a claimed outcome, if a staff key has signed it. The key may have left the staff
/// list since; then an order that is stored here counts.
async fn claimed_order(service: &DeliveryService, envelope: &Envelope) -> Result<Option<Order>, Denial> {
    let catalogue = service.trust.published.catalogue();
    let entry = catalogue.as_ref().and_then(|catalogue| catalogue.staff.find(&envelope.key));
    if let Some(order) = entry.and_then(|entry| envelope::open::<Order>(envelope, &entry.order_key).ok()) {
        return Ok(Some(order));
    }
    let order =
        Order::from_bytes(envelope.bytes.as_bytes()).map_err(|error| denial_of(&EnvelopeError::Document(error)))?;
    let known = service.records.store.evidence(&order.run).await;
    Ok(Some(order).filter(|_| matches!(known, Ok(Some(known)) if known.order == *envelope)))
}

/// Stores an outcome and signs for it.
async fn store(service: &DeliveryService, verified: VerifiedOutcome) -> Result<(RunEnded, Envelope), Denial> {
    let VerifiedOutcome { machine, signed, receipt, receipt_hash, diagnosed } = verified;
    let (id, run) = (machine.id, receipt.run);
    if receipt.refusal == Some(Refusal::RecordsWentBack) {
        // Raise the alarm first: once the outcome is stored, it does not come again.
        let alarm = "its state store is an older copy: it lacks a run that had begun there".to_owned();
        journal::note(&service.records, id, (receipt.journal_seq, receipt.journal_head), Some(alarm)).await;
    }
    let outcome = NewOutcome {
        run,
        machine: id,
        // Treat an unreadable order as a script, so that its outcome is kept longer.
        is_script: !Order::from_bytes(signed.order.bytes.as_bytes())
            .is_ok_and(|order| matches!(order.action, Action::Diagnose { .. })),
        order: signed.order,
        outcome: receipt.outcome,
        receipt: signed.receipt,
        receipt_hash,
        report: signed.body.into_bytes(),
        diagnosed: diagnosed.clone(),
        journal: (receipt.journal_seq, receipt.journal_head),
        now: service.records.now(),
        chain: fernwart_certs::chain::next_head,
    };
    let stored = service.records.store.store_outcome(outcome).await.map_err(|error| {
        warn!(machine = %id, %run, %error, "an outcome could not be stored");
        service.records.denial(&error)
    })??;
    let StoredOutcome { seq, head, at, is_new } = stored;
    debug!(machine = %id, %run, outcome = receipt.outcome.as_str(), "an outcome is stored");
    let stated = Countersignature {
        run,
        machine: id,
        receipt: receipt_hash,
        chain_seq: seq,
        chain_head: head,
        key: service.keys.evidence_id,
        at,
    };
    // The recorded version may be lower than the oldest that every program reads.
    let reads = Version::of_peer(machine.protocol).max(Version::OLDEST);
    let countersignature = envelope::seal(&stated, &service.keys.evidence, reads).map_err(|error| {
        warn!(machine = %id, %run, error = chain(&error), "an outcome cannot be countersigned");
        Denial::Incompatible
    })?;
    let health =
        diagnosed.map(|Diagnosed { health, .. }| NewHealth { has_changed: health != machine.diagnosed.health, health });
    let end = End::Outcome { outcome: receipt.outcome, is_new, health };
    Ok((RunEnded { machine: id, run, end }, countersignature))
}

/// Notifies metrics, index, events and watchers that a run has ended.
pub(crate) fn publish(service: &DeliveryService, ended: &RunEnded) {
    service.records.metrics.run_ended(ended);
    service.query.run_ended(ended);
    service.records.run_ended(ended);
    service.watchers.run_ended(ended);
}
