//! The end of a run, as it is published to metrics, index, events and watchers.

use fernwart_fleet::Health;
use fernwart_protocol::code::Refusal;
use fernwart_protocol::document::Outcome;
use fernwart_protocol::id::{MachineId, RunId};

/// A run has ended, and its end is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RunEnded {
    /// On which machine.
    pub(crate) machine: MachineId,
    /// Which run.
    pub(crate) run: RunId,
    /// How.
    pub(crate) end: End,
}

/// How a run has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum End {
    /// The machine did not take its order in.
    NotTaken(Refusal),
    /// With an outcome.
    Outcome {
        /// Which.
        outcome: Outcome,
        /// Whether it was not known before.
        is_new: bool,
        /// What its report says, where it is one of the whole machine.
        health: Option<NewHealth>,
    },
}

/// The health in a machine's newest report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NewHealth {
    /// The overall health.
    pub(crate) health: Health,
    /// Whether it differs from the report before.
    pub(crate) has_changed: bool,
}
