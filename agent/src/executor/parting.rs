//! Retirement of this machine, or removal by its owner: retired by a lead's signed document, or taken out by its
//! owner.
//!
//! From then on the agent neither dials nor runs anything, also after a restart. The hub alone
//! cannot cause that: a stolen hub must not be able to silence its machines.

use super::state::Parted;
use super::{Event, Executor, gate};
use crate::local::{Answer, Caller};
use crate::message::ToUplink;
use fernwart_protocol::code::Refusal;
use fernwart_protocol::document::{Envelope, Outcome};
use fernwart_protocol::text::{Text, chain};
use serde_json::json;
use std::time::Duration;
use tracing::{info, warn};

/// How long stopped runs have to report their outcomes before the link is closed for good.
const LAST_OUTCOMES: Duration = Duration::from_secs(3);

impl Executor {
    pub(super) fn handle_retirement(&mut self, envelope: &Envelope) {
        if self.parted.is_some() {
            return;
        }
        let (staff, at) = match gate::retired_by(envelope, &self.standing()) {
            Ok(signed) => signed,
            Err(refusal) => {
                warn!(code = %refusal.code(), "a retirement was rejected");
                let body = json!({"code": refusal.code(), "key": envelope.key});
                if let Err(error) = self.note_of_others("retirement_refused", &body) {
                    warn!(%error, "the rejected retirement could not be noted in the journal");
                }
                return;
            }
        };
        let body = json!({"staff": staff, "key": envelope.key});
        let parted = Parted { at, by: staff };
        let written = self.store.write(self.machine.moment(), |tx| {
            tx.part(&parted)?;
            tx.line("retired", &body).map(drop)
        });
        match written {
            Ok(()) => {
                info!(by = %parted.by, "this machine is retired");
                self.parted = Some(parted);
                self.end_everything(ToUplink::Parted);
            }
            // The hub sends it again on the next link.
            Err(error) => warn!(%error, "a retirement could not be written"),
        }
    }

    /// The owner takes this machine out. The hub is informed if there is a link.
    pub(super) fn leave(&mut self, by: &Caller) -> Answer {
        if !by.is_admin {
            return Answer::NotYours;
        }
        if self.parted.is_none() {
            let parted = Parted { at: self.now(), by: Text::default() };
            let body = json!({"by": by.account});
            let written = self.store.write(self.machine.moment(), |tx| {
                tx.part(&parted)?;
                tx.line("left", &body).map(drop)
            });
            if let Err(error) = written {
                return Answer::Failed(chain(&error));
            }
            info!(by = %by.account, "the owner has taken this machine out");
            self.parted = Some(parted);
        }
        self.end_everything(ToUplink::Leave);
        Answer::Done
    }

    /// Refuses pending runs, stops running ones, then sends the final message to the uplink. A
    /// stopped script has a little time to report its outcome, since nothing is dialled
    /// afterwards.
    fn end_everything(&mut self, word: ToUplink) {
        for run in self.pending.keys().copied().collect::<Vec<_>>() {
            self.refuse_waiting(run, Refusal::OwnerForbids);
        }
        while let Some((run, _)) = self.to_look.pop_front() {
            self.end_unbegun(run, Outcome::Refused, Some(Refusal::OwnerForbids));
        }
        if self.started.is_empty() {
            return self.say(word);
        }
        self.cancel_acting(None);
        self.machine.later(LAST_OUTCOMES, Event::FinalMessage(Box::new(word)));
    }

    /// Sends the final message after the stopped runs had their time.
    pub(super) fn final_message(&mut self, word: ToUplink) {
        self.say(word);
    }
}
