//! Receipts: the machine's signed statement on how a run ended.

use super::policy::Rule;
use super::state::{Moment, Phase, RunRecord, StateError, StateStore, Transaction};
use fernwart_certs::identity::SigningKey;
use fernwart_certs::journal::{Head, Line};
use fernwart_certs::{envelope, sha256};
use fernwart_protocol::code::Refusal;
use fernwart_protocol::document::{Envelope, Order, Outcome, Receipt, UnixMs, Versions};
use fernwart_protocol::id::{Digest, MachineId};
use fernwart_protocol::text::Text;
use fernwart_protocol::version::Version;
use serde_json::json;

/// What a receipt is made of.
pub(super) struct ReceiptBuilder {
    pub(super) order: Order,
    pub(super) envelope: Envelope,
    pub(super) outcome: Outcome,
    pub(super) refusal: Option<Refusal>,
    pub(super) staff: Text<64>,
    /// The rule that permitted the run, and the policy's hash at that time.
    pub(super) permitted: Option<(Rule, Digest)>,
    pub(super) started_at: UnixMs,
    /// Further fields of its journal line.
    pub(super) details: serde_json::Map<String, serde_json::Value>,
}

impl ReceiptBuilder {
    /// The receipt of a run that was not carried out; the caller fills in why.
    pub(super) fn refused(order: Order, envelope: Envelope, started_at: UnixMs) -> Self {
        Self {
            order,
            envelope,
            outcome: Outcome::Refused,
            refusal: None,
            staff: Text::default(),
            permitted: None,
            started_at,
            details: serde_json::Map::new(),
        }
    }

    /// Writes the journal line, and signs a receipt that names it and the owner's
    /// policy.
    pub(super) fn write(
        &self,
        tx: &mut Transaction<'_>,
        report: Option<&[u8]>,
        policy: Digest,
        catalogue: Versions,
        evidence: &SigningKey,
        moment: Moment,
    ) -> Result<RunRecord, StateError> {
        let body = report.unwrap_or_default();
        let hash = sha256(body);
        let mut about = json!({
            "run": self.order.run, "outcome": self.outcome, "body": hash, "body_bytes": body.len(),
        });
        if let Some(fields) = about.as_object_mut() {
            fields.extend(self.details.clone());
        }
        if let (Some(refusal), Some(fields)) = (self.refusal, about.as_object_mut()) {
            fields.insert("code".into(), refusal.code().into_owned().into());
            fields.insert("staff".into(), self.staff.as_raw().into());
            fields.insert("action".into(), json!(self.order.action));
            fields.insert("reason".into(), json!(self.order.reason));
        }
        let kind = if self.outcome == Outcome::Refused { "order_refused" } else { "run_finished" };
        let line = tx.line(kind, &about)?;
        let receipt = Receipt {
            run: self.order.run,
            machine: self.order.machine,
            order: sha256(self.envelope.bytes.as_bytes()),
            outcome: self.outcome,
            refusal: self.refusal,
            body: hash,
            body_bytes: body.len() as u64,
            permitted_by: self.permitted.map(|(rule, _)| Text::clipped(rule.0)),
            policy,
            catalogue,
            journal_seq: line.seq,
            journal_head: line.hash,
            started_at: self.started_at,
            finished_at: moment.now,
            boot: moment.boot,
        };
        // Kept until a hub that can read it has stored it.
        let receipt =
            envelope::seal(&receipt, evidence, Version::NEWEST).map_err(|_| StateError::Damaged("receipt"))?;
        Ok(RunRecord {
            order: self.envelope.clone(),
            phase: Phase::Finished,
            received_at: self.started_at,
            not_after: self.order.not_after,
            receipt: Some(receipt),
            countersigned: None,
        })
    }
}

/// The last line of an exported journal.
pub(super) fn journal_end(
    machine: MachineId,
    store: &StateStore,
    evidence: &SigningKey,
    now: UnixMs,
) -> Result<Line, StateError> {
    let head = store.head();
    let head = Head { machine, seq: head.seq, head: head.hash, at: now };
    let head = envelope::seal(&head, evidence, Version::OLDEST).map_err(|_| StateError::Damaged("journal"))?;
    Ok(Line::Head { v: 1, evidence_key: evidence.public(), head })
}
