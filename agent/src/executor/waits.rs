//! Runs that have not begun: their content is on its way, the owner is asked,
//! a window opens later, or another act is under way.
//!
//! ```text
//! order ─▶ consider ─┬▶ begin
//!                    ├▶ refused
//!                    └▶ waiting ─▶ (content | owner | window | turn | time) ─▶ consider, the whole gate again
//! ```
//! A waiting run is in the books; after a restart it is considered anew.

use super::books::{BooksError, Phase, RunRecord};
use super::gate::{self, AtHand, Authentic};
use super::policy::{No, Owner, Policy, Yes};
use super::proof::Proof;
use super::shelf::Lacks;
use super::{Event, Executor, clocks};
use crate::action::cage;
use crate::message::ToUplink;
use fernwart_protocol::code::Refusal;
use fernwart_protocol::document::{Action, ActionKind, Document, Envelope, Order, Outcome, Receipt, UnixMs};
use fernwart_protocol::id::{Digest, RunId};
use fernwart_protocol::script::Parameters;
use fernwart_protocol::text::Text;
use fernwart_protocol::to_hub::{Delivered, Note, RunState};
use serde_json::json;
use std::time::Duration;
use tracing::{info, warn};

/// Runs that may wait at once: an owner who is asked more often is not asked at all.
const WAITS: usize = 32;

/// How long the content of a script may take to arrive.
const CONTENT: Duration = Duration::from_secs(60);

const DAY_MS: UnixMs = 24 * 3600 * 1000;

/// What a run waits for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Why {
    /// These blobs.
    Content(Vec<Digest>),
    /// The owner's answer to a question with this number, until then.
    Owner(u32, UnixMs),
    /// A window that opens then.
    Window(UnixMs),
    /// Another act to be over.
    Turn,
}

/// A run that waits.
#[derive(Debug, Clone)]
pub(super) struct Wait {
    pub(super) envelope: Envelope,
    pub(super) order: Order,
    pub(super) staff: Text<64>,
    pub(super) why: Why,
    /// The owner has said yes to it already.
    pub(super) yes: bool,
}

impl Executor {
    /// Brings an authentic order as far as it can get now.
    pub(super) fn consider(&mut self, envelope: Envelope, authentic: Authentic, yes: bool) -> Result<(), BooksError> {
        let order = authentic.order().clone();
        let (run, staff) = (order.run, authentic.staff().clone());
        let wait = |why| Wait { envelope: envelope.clone(), order: order.clone(), staff: staff.clone(), why, yes };
        if self.taken_back.contains(&run) {
            let proof = Proof { outcome: Outcome::Cancelled, staff, ..Proof::refused(order, envelope, crate::now()) };
            return self.settle(proof, None);
        }
        let at_hand = match self.at_hand(&order) {
            Ok(at_hand) => at_hand,
            Err(missing) => {
                missing.iter().for_each(|hash| self.say(ToUplink::Want(*hash)));
                return self.wait(wait(Why::Content(missing)));
            }
        };
        let policy = self.policy();
        let owner = self.owner(&order, yes);
        let acts = matches!(order.action, Action::Script { .. });
        match gate::permit(authentic, &self.standing(), &policy, &owner, at_hand) {
            Ok(_) if acts && self.acting.is_some() => self.wait(wait(Why::Turn)),
            Ok(permit) => self.begin(envelope, permit, policy.hash),
            Err((No::Refused(refusal), _)) => self.refuse(order, envelope, staff, refusal),
            Err((No::Ask, _)) => {
                self.questions += 1;
                let until = order.not_after.min(crate::now() + Policy::PATIENCE_MS);
                self.wait(wait(Why::Owner(self.questions, until)))
            }
            Err((No::Later(at), _)) if at < order.not_after => self.wait(wait(Why::Window(at))),
            Err((No::Later(_), _)) => self.refuse(order, envelope, staff, Refusal::OutsideWindow),
        }
    }

    fn refuse(
        &mut self,
        order: Order,
        envelope: Envelope,
        staff: Text<64>,
        refusal: Refusal,
    ) -> Result<(), BooksError> {
        info!(run = %order.run, code = refusal.code(), "order refused");
        let proof = Proof { refusal: Some(refusal), staff, ..Proof::refused(order, envelope, crate::now()) };
        self.settle(proof, None)
    }

    /// The order's script as it lies here; nothing for a look, or where the
    /// gate will say no.
    fn at_hand(&self, order: &Order) -> Result<Option<AtHand>, Vec<Digest>> {
        let Action::Script { bundle, sha256, .. } = &order.action else { return Ok(None) };
        let Some(approved) = self.catalogue.scripts.get(bundle).filter(|known| known.sha256 == *sha256) else {
            return Ok(None);
        };
        match self.shelf.script(bundle, approved) {
            Ok(script) => {
                let cage = cage::for_script(&script.manifest);
                Ok(Some(AtHand { cage, script, secrets: self.unsealed(order) }))
            }
            Err(Lacks::Blobs(missing)) => Err(missing),
            Err(Lacks::Unreadable) => Ok(None),
        }
    }

    /// What was sealed for this run; nothing if it is not for us.
    fn unsealed(&self, order: &Order) -> Option<Parameters> {
        let Some(sealed) = &order.sealed else { return Some(Parameters::default()) };
        let text = self.sealing.open(&order.run, &order.machine, sealed.as_raw());
        text.ok().and_then(|text| serde_json::from_str(&text).ok())
    }

    /// What the owner has said that matters to this order.
    fn owner(&self, order: &Order, yes: bool) -> Owner {
        let now = crate::now();
        let changes = if order.action.kind() == ActionKind::Act { self.changes_since(now - DAY_MS) } else { 0 };
        let yes = match yes {
            true => Some(Yes::ToThis),
            false => (self.says.allows_until > now).then_some(Yes::ToAll),
        };
        Owner { paused: self.says.paused(now), yes, changes }
    }

    /// Acts that have begun since then.
    fn changes_since(&self, since: UnixMs) -> u32 {
        let mut changes = 0;
        for phase in [Phase::Started, Phase::Finished, Phase::Acknowledged] {
            for (_, record) in self.books.runs_in(phase).unwrap_or_default() {
                let acts = Order::from_bytes(record.order.bytes.as_bytes())
                    .is_ok_and(|order| order.action.kind() == ActionKind::Act);
                let receipt = record.receipt.and_then(|receipt| Receipt::from_bytes(receipt.bytes.as_bytes()).ok());
                let began = receipt.is_none_or(|receipt| {
                    matches!(receipt.outcome, Outcome::Ok | Outcome::Failed | Outcome::Interrupted)
                });
                changes += u32::from(record.received_at >= since && acts && began);
            }
        }
        changes
    }

    /// Lets a run wait, and says so where it is heard.
    fn wait(&mut self, wait: Wait) -> Result<(), BooksError> {
        let (run, order) = (wait.order.run, &wait.order);
        let known = self.waits.contains_key(&run);
        if !known && self.waits.len() >= WAITS {
            return Err(BooksError::Full);
        }
        let in_books = self.books.run(&run)?.is_some();
        let record = RunRecord {
            order: wait.envelope.clone(),
            phase: Phase::Waiting,
            received_at: crate::now(),
            not_after: order.not_after,
            receipt: None,
            countersigned: None,
        };
        let asked = matches!(wait.why, Why::Owner(..));
        let body = json!({
            "run": run, "staff": wait.staff, "key": order.key, "action": order.action, "reason": order.reason,
            "title": self.title_of(&order.action),
        });
        self.books.write(clocks::moment(self.boot), |page| {
            if !in_books {
                if !page.has_room()? {
                    return Err(BooksError::Full);
                }
                page.run(&run, &record)?;
            }
            if asked { page.line("owner_asked", &body).map(drop) } else { Ok(()) }
        })?;
        let due = match &wait.why {
            Why::Content(_) => CONTENT,
            Why::Owner(_, until) => until_then(*until),
            Why::Window(at) => until_then(*at),
            Why::Turn => until_then(order.not_after),
        };
        let due = due.min(until_then(order.not_after) + Duration::from_millis(1));
        let note = match &wait.why {
            Why::Content(_) => None,
            Why::Owner(_, until) => Some(Note::Asking(*until)),
            Why::Window(at) => Some(Note::Window(*at)),
            Why::Turn => Some(Note::Turn),
        };
        self.waits.insert(run, wait);
        self.tell_watchers(run, Delivered::State(if note.is_some() { RunState::Waiting } else { RunState::Received }));
        if let Some(note) = note {
            self.tell_watchers(run, Delivered::Told(note));
        }
        if asked {
            self.notify_owner();
        }
        let events = self.events.clone();
        self.runtime.spawn(async move {
            tokio::time::sleep(due).await;
            // Fails only once the executor has stopped.
            let _ = events.send(Event::Due(run)).await;
        });
        Ok(())
    }

    /// Tells everybody who waits for this run's outcome.
    pub(super) fn tell_watchers(&self, run: RunId, delivered: Delivered) {
        for ticket in self.waiting.get(&run).into_iter().flatten() {
            self.say(ToUplink::Delivered(*ticket, delivered.clone()));
        }
    }

    /// The whole gate again for a run that waited.
    pub(super) fn reconsider(&mut self, run: RunId) {
        let Some(wait) = self.waits.remove(&run) else { return };
        let result = match gate::authenticate(&wait.envelope, &self.standing()) {
            Ok(authentic) => self.consider(wait.envelope, authentic, wait.yes),
            Err(no) => self.refuse(wait.order, wait.envelope, wait.staff, no.refusal()),
        };
        if let Err(error) = result {
            warn!(%run, %error, "a waiting run could not go on");
            for ticket in self.waiting.remove(&run).unwrap_or_default() {
                self.refuse_unrecorded(ticket, &error);
            }
        }
    }

    /// Time has come for a run that waits, if it still does.
    pub(super) fn handle_due(&mut self, run: RunId) {
        let Some(wait) = self.waits.get(&run) else { return };
        let now = crate::now();
        let refusal = match &wait.why {
            Why::Owner(_, until) if *until <= now => Refusal::OwnerSilent,
            Why::Content(_) => Refusal::NotFetched,
            Why::Window(_) | Why::Turn if wait.order.not_after < now => Refusal::TooLate,
            Why::Window(at) if *at <= now => return self.reconsider(run),
            // An older timer, of what the run waited for before.
            Why::Owner(..) | Why::Window(_) | Why::Turn => return,
        };
        let Some(wait) = self.waits.remove(&run) else { return };
        if let Err(error) = self.refuse(wait.order, wait.envelope, wait.staff, refusal) {
            warn!(%run, %error, "a refusal could not be written");
        }
    }

    /// A blob has come, or cannot come.
    pub(super) fn handle_blob(&mut self, hash: Digest, bytes: Option<Vec<u8>>) {
        // Another file than the approved one is none.
        let kept = match bytes.filter(|bytes| fernwart_certs::sha256(bytes) == hash) {
            Some(bytes) => self.shelf.put(&bytes).inspect_err(|error| {
                warn!(%hash, %error, "a script's file could not be kept");
            }),
            None => Err(std::io::Error::from(std::io::ErrorKind::InvalidData)),
        };
        let for_this = |wait: &Wait| matches!(&wait.why, Why::Content(missing) if missing.contains(&hash));
        let runs: Vec<RunId> = self.waits.iter().filter(|(_, wait)| for_this(wait)).map(|(run, _)| *run).collect();
        for run in runs {
            if kept.is_err() {
                self.refuse_waiting(run, Refusal::NotFetched);
                continue;
            }
            let Some(Why::Content(missing)) = self.waits.get_mut(&run).map(|wait| &mut wait.why) else { continue };
            missing.retain(|wanted| *wanted != hash);
            if missing.is_empty() {
                self.reconsider(run);
            }
        }
    }

    /// A link stands: what is missing can be asked for again.
    pub(super) fn want_again(&self) {
        for wait in self.waits.values() {
            if let Why::Content(missing) = &wait.why {
                missing.iter().for_each(|hash| self.say(ToUplink::Want(*hash)));
            }
        }
    }

    /// The next run in line for its turn.
    pub(super) fn act_on(&mut self) {
        let next = self.waits.iter().find(|(_, wait)| wait.why == Why::Turn).map(|(run, _)| *run);
        if let Some(run) = next {
            self.reconsider(run);
        }
    }

    /// Takes up what waited when the agent stopped.
    pub(super) fn resume_waiting(&mut self) -> Result<(), BooksError> {
        for (run, record) in self.books.runs_in(Phase::Waiting)? {
            let Ok(order) = Order::from_bytes(record.order.bytes.as_bytes()) else { continue };
            let wait = Wait { envelope: record.order, order, staff: Text::default(), why: Why::Turn, yes: false };
            self.waits.insert(run, wait);
            self.reconsider(run);
        }
        Ok(())
    }
}

fn until_then(at: UnixMs) -> Duration {
    Duration::from_millis(u64::try_from(at.saturating_sub(crate::now())).unwrap_or_default())
}
