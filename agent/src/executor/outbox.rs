//! What the executor has to tell the uplink, in order.

use crate::message::ToUplink;
use fernwart_protocol::id::RunId;
use std::collections::VecDeque;

/// One word.
pub(super) enum Outgoing {
    /// This.
    Say(Box<ToUplink>),
    /// This run's outcome, read from the state store only when its turn comes: a spool
    /// of many megabytes is never in memory as a whole.
    Outcome(RunId),
}

/// The words, first in, first out.
#[derive(Default)]
pub(super) struct Outbox(VecDeque<Outgoing>);

impl Outbox {
    pub(super) fn say(&mut self, message: ToUplink) {
        self.0.push_back(Outgoing::Say(Box::new(message)));
    }

    pub(super) fn offer(&mut self, run: RunId) {
        self.0.push_back(Outgoing::Outcome(run));
    }

    pub(super) fn next(&mut self) -> Option<Outgoing> {
        self.0.pop_front()
    }
}
