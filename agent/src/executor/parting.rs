//! The end of the care for this machine: by a lead's signed word, or by its owner's.
//!
//! From then on nothing is dialled and nothing is done, in this life and the next ones. The
//! hub's word alone does none of that: whoever steals a hub must not silence its machines.

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

/// How long runs that are ended have to tell how, before the link goes for good.
const LAST_OUTCOMES: Duration = Duration::from_secs(3);

impl Executor {
    pub(super) fn handle_retirement(&mut self, envelope: &Envelope) {
        if self.parted.is_some() {
            return;
        }
        let (staff, at) = match gate::retired_by(envelope, &self.standing()) {
            Ok(signed) => signed,
            Err(refusal) => {
                warn!(code = %refusal.code(), "a retirement was not believed");
                let body = json!({"code": refusal.code(), "key": envelope.key});
                if let Err(error) = self.note_of_others("retirement_refused", &body) {
                    warn!(%error, "that could not be noted");
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
            // The hub has it for the next time.
            Err(error) => warn!(%error, "a retirement could not be written"),
        }
    }

    /// The owner takes this machine out. The hub is told, where there is a link.
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
            info!(by = %by.account, "the owner takes this machine out");
            self.parted = Some(parted);
        }
        self.end_everything(ToUplink::Leave);
        Answer::Done
    }

    /// What waits is refused, what is under way is ended; then the word for the uplink. A
    /// script that is ended has a little time for its outcome: nobody dials afterwards.
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

    /// Says it, now that what was under way has had its time.
    pub(super) fn final_message(&mut self, word: ToUplink) {
        self.say(word);
    }
}
