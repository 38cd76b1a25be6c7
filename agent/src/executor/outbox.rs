//! The executor's queue of messages for the uplink.

use crate::message::ToUplink;
use fernwart_protocol::id::RunId;
use std::collections::VecDeque;

/// One queued message.
pub(super) enum Outgoing {
    /// This message.
    Say(Box<ToUplink>),
    /// The outcome of this run. It is read from the state store only when it is sent, so that a
    /// spool of many megabytes is never in memory at once.
    Outcome(RunId),
}

/// The queue, first in, first out.
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
