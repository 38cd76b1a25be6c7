//! The end of the care for this machine: by a lead's signed word, or by its owner's.
//!
//! From then on nothing is dialled and nothing is done, in this life and the next ones. The
//! hub's word alone does none of that: whoever steals a hub must not silence its machines.

use super::books::Parted;
use super::{Executor, gate};
use crate::local::{Answer, Speaker};
use crate::message::ToUplink;
use fernwart_protocol::code::Refusal;
use fernwart_protocol::document::{Envelope, Outcome};
use fernwart_protocol::text::{Text, chain};
use serde_json::json;
use tracing::{info, warn};

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
        let written = self.books.write(self.machine.moment(), |page| {
            page.part(&parted)?;
            page.line("retired", &body).map(drop)
        });
        match written {
            Ok(()) => {
                info!(by = %parted.by, "this machine is retired");
                self.parted = Some(parted);
                self.end_everything();
                self.say(ToUplink::Parted);
            }
            // The hub has it for the next time.
            Err(error) => warn!(%error, "a retirement could not be written"),
        }
    }

    /// The owner takes this machine out. The hub is told, where there is a link.
    pub(super) fn leave(&mut self, by: &Speaker) -> Answer {
        if !by.whole {
            return Answer::NotYours;
        }
        if self.parted.is_none() {
            let parted = Parted { at: self.now(), by: Text::default() };
            let body = json!({"by": by.account});
            let written = self.books.write(self.machine.moment(), |page| {
                page.part(&parted)?;
                page.line("left", &body).map(drop)
            });
            if let Err(error) = written {
                return Answer::Failed(chain(&error));
            }
            info!(by = %by.account, "the owner takes this machine out");
            self.parted = Some(parted);
        }
        self.end_everything();
        self.say(ToUplink::Leave);
        Answer::Done
    }

    /// What waits is refused, what is under way is ended.
    fn end_everything(&mut self) {
        for run in self.waits.keys().copied().collect::<Vec<_>>() {
            self.refuse_waiting(run, Refusal::Paused);
        }
        self.cancel_acting(None);
        while let Some((run, _)) = self.to_look.pop_front() {
            self.end_unbegun(run, Outcome::Refused, Some(Refusal::Paused));
        }
    }
}
