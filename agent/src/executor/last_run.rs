//! The newest run in the state store.

use super::state::{Phase, RunRecord, StateStore};
use crate::local::messages::LastRun;
use fernwart_protocol::document::{Action, Document, Order, Outcome, Receipt};
use fernwart_protocol::script::Privilege;

/// The newest run of an agent that is not running: started runs count as interrupted.
pub(crate) fn last_run_at_rest(store: &StateStore) -> Option<LastRun> {
    let begun = store.runs_in(Phase::Started).unwrap_or_default();
    let interrupted = begun.iter().filter_map(|(_, record)| {
        let order = Order::from_bytes(record.order.bytes.as_bytes()).ok()?;
        let (at, action) = (record.received_at, action_word(&order.action).to_owned());
        Some(LastRun { at, action, outcome: Outcome::Interrupted, machine_name: Some(order.machine_name) })
    });
    interrupted.chain(last_run(store)).max_by_key(|last| last.at)
}

/// The newest run in the state store that has an outcome.
pub(crate) fn last_run(store: &StateStore) -> Option<LastRun> {
    let finished = store.runs_in(Phase::Finished).unwrap_or_default();
    let acknowledged = store.runs_in(Phase::Acknowledged).unwrap_or_default();
    let summary = |record: &RunRecord| {
        let order = Order::from_bytes(record.order.bytes.as_bytes()).ok()?;
        let receipt = Receipt::from_bytes(record.receipt.as_ref()?.bytes.as_bytes()).ok()?;
        let (action, outcome) = (action_word(&order.action).to_owned(), receipt.outcome);
        Some(LastRun { at: receipt.finished_at, action, outcome, machine_name: Some(order.machine_name) })
    };
    finished.iter().chain(&acknowledged).filter_map(|(_, record)| summary(record)).max_by_key(|last| last.at)
}

/// The name of an action in texts.
pub(crate) const fn action_word(action: &Action) -> &'static str {
    match action {
        Action::Diagnose { .. } => "diagnose",
        Action::Script { dry_run: true, .. } => "dry-run",
        Action::Script { privilege: Privilege::Read, .. } => "read",
        Action::Script { .. } => "script",
    }
}
