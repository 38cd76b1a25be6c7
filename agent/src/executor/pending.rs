//! Pending runs: they wait for their content, the owner's answer, a window, or the end of another
//! act.
//!
//! ```text
//! order ─▶ consider ─┬▶ begin
//!                    ├▶ refused
//!                    └▶ waiting ─▶ (content | owner | window | turn | time) ─▶ consider: the complete gate again
//! ```
//! A pending run is in the state store and is considered again after a restart. It stays pending
//! until its start or its outcome is written; if the disk fails, that is retried.

use super::blob_cache::Lacks;
use super::gate::{self, AtHand, Authentic, GateContext};
use super::policy::{No, Owner, Policy, Yes};
use super::receipt::ReceiptBuilder;
use super::state::{Phase, RunRecord, StateError};
use super::{Event, Executor};
use crate::message::ToUplink;
use fernwart_protocol::code::Refusal;
use fernwart_protocol::document::{Action, ActionKind, Document, Envelope, Order, Outcome, UnixMs};
use fernwart_protocol::id::{Digest, RunId};
use fernwart_protocol::script::{NotRun, Parameters};
use fernwart_protocol::text::Text;
use fernwart_protocol::to_hub::{Delivered, Note, RunState};
use serde_json::json;
use std::time::Duration;
use tracing::{info, warn};

/// Maximum number of pending runs, which also bounds the questions to the owner.
const MOST_PENDING: usize = 32;

/// How long the content of a script may take to arrive.
const CONTENT_MS: UnixMs = 60_000;

pub(super) const DAY_MS: UnixMs = 24 * 3600 * 1000;

/// Maximum time between two checks of a deadline: a long timer would not notice that the computer
/// was suspended or its clock set.
const LOOK_AGAIN: Duration = Duration::from_secs(60);

/// Delay before a failed write is retried.
pub(super) const WRITE_AGAIN: Duration = Duration::from_secs(10);

/// The reason why a run is pending.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum WaitReason {
    /// Blobs with these hashes, until this time.
    Content(Vec<Digest>, UnixMs),
    /// The owner's answer to the question of this number, until this time.
    Owner(u32, UnixMs),
    /// A window that opens at this time.
    Window(UnixMs),
    /// The end of another act.
    Slot,
    /// The state store: its outcome is decided but not written yet.
    StateStore(Outcome, Option<Refusal>),
}

/// A pending run.
#[derive(Debug, Clone)]
pub(super) struct PendingRun {
    pub(super) envelope: Envelope,
    pub(super) order: Order,
    pub(super) staff: Text<64>,
    pub(super) why: WaitReason,
    /// Whether the owner has allowed it.
    pub(super) yes: bool,
    /// The number of the question the owner was asked about it, if any.
    pub(super) number: Option<u32>,
    /// When its order arrived; earlier runs go first.
    pub(super) since: UnixMs,
    /// The number of its newest timer; events of older timers are ignored.
    pub(super) timer: u64,
}

impl Executor {
    /// Takes an authentic order as far as possible now: it begins, is refused, or waits.
    pub(super) fn consider(&mut self, envelope: Envelope, authentic: Authentic, yes: bool) -> Result<(), StateError> {
        let order = authentic.order().clone();
        let (run, staff) = (order.run, authentic.staff().clone());
        let before = self.pending.get(&run);
        let since = before.map_or_else(|| self.now(), |wait| wait.since);
        let number = before.and_then(|wait| wait.number);
        let wait = |why| {
            let (envelope, order, staff) = (envelope.clone(), order.clone(), staff.clone());
            let number = if let WaitReason::Owner(number, _) = &why { Some(*number) } else { number };
            PendingRun { envelope, order, staff, why, yes, number, since, timer: 0 }
        };
        if self.taken_back.contains(&run) {
            let builder = ReceiptBuilder {
                outcome: Outcome::Cancelled,
                staff,
                ..ReceiptBuilder::refused(order, envelope, self.now())
            };
            return self.finish(builder, None);
        }
        let at_hand = match self.at_hand(&order) {
            Ok(at_hand) => at_hand,
            Err(missing) => {
                missing.iter().for_each(|hash| self.say(ToUplink::Want(*hash)));
                return self.wait(wait(WaitReason::Content(missing, self.now() + CONTENT_MS)));
            }
        };
        let policy = self.policy();
        let kind = at_hand.as_ref().map_or(ActionKind::Look, |at_hand| gate::kind(&order, &at_hand.script.manifest));
        let owner = self.owner(kind, yes)?;
        let acts = matches!(order.action, Action::Script { .. });
        // Only checked before acts, since it reads files and a look does no harm. An unreadable
        // policy refuses acts anyway.
        let changed = (kind == ActionKind::Act && policy.is_readable()).then(|| self.changed_files()).flatten();
        if let Some(files) = &changed {
            warn!(files, "files of this machine's agent were changed since it started; acts are refused");
        }
        let standing = GateContext { files_are_ours: changed.is_none(), ..self.standing() };
        match gate::permit(authentic, &standing, &policy, &owner, at_hand) {
            Ok(_) if acts && self.acting.is_some() => self.wait(wait(WaitReason::Slot)),
            Ok(permit) => self.begin(envelope, permit, kind, policy.hash),
            Err((No::Refused(refusal), _)) => self.refuse(order, envelope, staff, refusal),
            Err((No::Ask, _)) => {
                self.questions = self.questions.wrapping_add(1);
                let until = order.not_after.min(self.now() + Policy::TIMEOUT_MS);
                self.wait(wait(WaitReason::Owner(self.questions, until)))
            }
            Err((No::Later(at), _)) if at < order.not_after => self.wait(wait(WaitReason::Window(at))),
            Err((No::Later(_), _)) => self.refuse(order, envelope, staff, Refusal::OutsideWindow),
        }
    }

    fn refuse(
        &mut self,
        order: Order,
        envelope: Envelope,
        staff: Text<64>,
        refusal: Refusal,
    ) -> Result<(), StateError> {
        info!(run = %order.run, code = %refusal.code(), "order refused");
        let builder =
            ReceiptBuilder { refusal: Some(refusal), staff, ..ReceiptBuilder::refused(order, envelope, self.now()) };
        self.finish(builder, None)
    }

    /// The order's script and what is needed to run it. None for a look, or if the gate will
    /// refuse the order.
    fn at_hand(&self, order: &Order) -> Result<Option<AtHand>, Vec<Digest>> {
        let Action::Script { bundle, sha256, .. } = &order.action else { return Ok(None) };
        let Some(approved) = self.catalogue.scripts.get(bundle).filter(|known| known.sha256 == *sha256) else {
            return Ok(None);
        };
        match self.blobs.script(self.files.as_ref(), bundle, approved) {
            Ok(script) => {
                let cage = self.machine.cage(&script.manifest);
                Ok(Some(AtHand { cage, script, secrets: self.unsealed(order) }))
            }
            Err(Lacks::Blobs(missing)) => Err(missing),
            Err(Lacks::Unreadable) => Ok(None),
        }
    }

    /// The decrypted parameters of this run; none if they cannot be decrypted.
    fn unsealed(&self, order: &Order) -> Option<Parameters> {
        let Some(sealed) = &order.sealed else { return Some(Parameters::default()) };
        let text = self.sealing.open(&order.run, &order.machine, sealed.as_raw());
        text.ok().and_then(|text| serde_json::from_str(&text).ok())
    }

    /// The owner's decisions that matter to an action of this kind.
    fn owner(&mut self, kind: ActionKind, yes: bool) -> Result<Owner, StateError> {
        let now = self.now();
        let mut changes = 0;
        if kind == ActionKind::Act {
            let acts = self.store.acts()?;
            if acts.iter().any(|at| *at > now) {
                // Else they would count until the clock reaches that time again.
                self.store.write(self.machine.moment(), |tx| tx.acts_until_now())?;
            }
            changes = acts.iter().filter(|at| **at >= now - DAY_MS).count();
        }
        let yes = match yes {
            true => Some(Yes::ToThis),
            // Consent for a while is judged only by a plausible clock.
            false => self.clock().own().filter(|now| self.consent.allows_until > *now).map(|_| Yes::ToAll),
        };
        Ok(Owner {
            paused: self.consent.paused(self.clock(), self.floor()),
            yes,
            changes: u32::try_from(changes).unwrap_or(u32::MAX),
        })
    }

    /// Makes a run wait, and informs those who watch it.
    fn wait(&mut self, wait: PendingRun) -> Result<(), StateError> {
        let (run, order) = (wait.order.run, &wait.order);
        let known = self.pending.contains_key(&run);
        if !known && self.pending.len() >= MOST_PENDING {
            return Err(StateError::Full);
        }
        let in_store = self.store.run(&run)?.is_some();
        let record = RunRecord {
            order: wait.envelope.clone(),
            phase: Phase::Waiting,
            received_at: self.now(),
            not_after: order.not_after,
            receipt: None,
            countersigned: None,
        };
        let asked = matches!(wait.why, WaitReason::Owner(..));
        let body = json!({
            "run": run, "staff": wait.staff, "key": order.key, "action": order.action, "reason": order.reason,
            "title": self.title_of(&order.action), "number": wait.number,
        });
        self.store.write(self.machine.moment(), |tx| {
            if !in_store {
                tx.place_for(&run)?;
                tx.run(&run, &record)?;
            }
            let WaitReason::Owner(number, _) = &wait.why else { return Ok(()) };
            tx.question(*number)?;
            tx.line("owner_asked", &body).map(drop)
        })?;
        let note = match &wait.why {
            WaitReason::Content(..) | WaitReason::StateStore(..) => None,
            WaitReason::Owner(_, until) => Some(Note::Asking(*until)),
            WaitReason::Window(at) => Some(Note::Window(*at)),
            WaitReason::Slot => Some(Note::Turn),
        };
        self.pending.insert(run, wait);
        self.send_to_watchers(
            run,
            Delivered::State(if note.is_some() { RunState::Waiting } else { RunState::Received }),
        );
        if let Some(note) = note {
            self.send_to_watchers(run, Delivered::Note(note));
        }
        if asked {
            self.notify_owner();
        }
        self.arm(run, LOOK_AGAIN);
        Ok(())
    }

    /// Starts a timer for this run's deadline, limited to `most`.
    fn arm(&mut self, run: RunId, most: Duration) {
        self.timers += 1;
        let (timer, now) = (self.timers, self.now());
        let until_then = |at| until_then(at, now);
        let Some(wait) = self.pending.get_mut(&run) else { return };
        wait.timer = timer;
        let due = match &wait.why {
            WaitReason::Content(_, until) | WaitReason::Owner(_, until) => until_then(*until),
            WaitReason::Window(at) => until_then(*at),
            WaitReason::Slot => until_then(wait.order.not_after),
            WaitReason::StateStore(..) => return self.machine.later(most, Event::Due(run, timer)),
        };
        let due = due.min(until_then(wait.order.not_after)) + Duration::from_millis(1);
        self.machine.later(due.min(most), Event::Due(run, timer));
    }

    /// Sends this to everyone who waits for this run's outcome.
    pub(super) fn send_to_watchers(&mut self, run: RunId, delivered: Delivered) {
        for ticket in self.waiting.get(&run).into_iter().flatten() {
            self.out.say(ToUplink::Delivered(*ticket, delivered.clone()));
        }
    }

    /// Passes a pending run through the complete gate again.
    pub(super) fn reconsider(&mut self, run: RunId) {
        let Some(wait) = self.pending.get(&run).cloned() else { return };
        let result = match gate::authenticate(&wait.envelope, &self.standing()) {
            Ok(authentic) => self.consider(wait.envelope, authentic, wait.yes),
            Err(no) => self.refuse(wait.order, wait.envelope, wait.staff, no.refusal()),
        };
        if let Err(error) = result {
            warn!(%run, %error, "a pending run could not continue; will retry");
            if let Some(wait) = self.pending.get_mut(&run) {
                wait.why = WaitReason::Slot;
            }
            self.arm(run, WRITE_AGAIN);
        }
    }

    /// Ends a pending run with this outcome, which is sent once it is written.
    pub(super) fn end_waiting(&mut self, run: RunId, outcome: Outcome, refusal: Option<Refusal>) -> bool {
        self.end_waiting_because(run, outcome, refusal, None)
    }

    /// The same, with a reason beside the code.
    fn end_waiting_because(
        &mut self,
        run: RunId,
        outcome: Outcome,
        refusal: Option<Refusal>,
        because: Option<&str>,
    ) -> bool {
        let Some(wait) = self.pending.get_mut(&run) else { return false };
        // From here on it never begins, even if the write fails, and the first decision stays.
        let (outcome, refusal) = match wait.why {
            WaitReason::StateStore(outcome, refusal) => (outcome, refusal),
            _ => (outcome, refusal),
        };
        wait.why = WaitReason::StateStore(outcome, refusal);
        let wait = wait.clone();
        let builder = ReceiptBuilder::refused(wait.order, wait.envelope, self.now());
        let body = because.map(|why| NotRun::because(why).pack());
        if let Err(error) = self.finish(ReceiptBuilder { outcome, refusal, staff: wait.staff, ..builder }, body) {
            warn!(%run, %error, "the outcome of a pending run could not be written; will retry");
            self.arm(run, WRITE_AGAIN);
        }
        true
    }

    /// Refuses an order that may or may not be in the state store, as soon as that is writable.
    /// If too many wait for that already, nothing is sent: the hub brings the order again, or it
    /// expires.
    pub(super) fn end_unsure(&mut self, order: Order, envelope: Envelope) {
        if self.pending.len() >= 2 * MOST_PENDING {
            return;
        }
        let (run, since, staff) = (order.run, self.now(), Text::default());
        let why = WaitReason::StateStore(Outcome::Refused, Some(Refusal::NoJournal));
        self.pending.insert(run, PendingRun { envelope, order, staff, why, yes: false, number: None, since, timer: 0 });
        self.arm(run, WRITE_AGAIN);
    }

    /// Refuses a pending run.
    pub(super) fn refuse_waiting(&mut self, run: RunId, refusal: Refusal) {
        self.end_waiting(run, Outcome::Refused, Some(refusal));
    }

    /// Handles the timer of a pending run; the timer may be outdated.
    pub(super) fn handle_due(&mut self, run: RunId, timer: u64) {
        let Some(wait) = self.pending.get(&run).filter(|wait| wait.timer == timer) else { return };
        let now = self.now();
        let too_late = wait.order.not_after < now;
        match wait.why.clone() {
            WaitReason::StateStore(outcome, refusal) => drop(self.end_waiting(run, outcome, refusal)),
            WaitReason::Owner(_, until) if until <= now => self.refuse_waiting(run, Refusal::OwnerSilent),
            WaitReason::Content(_, until) if until <= now => self.refuse_waiting(run, Refusal::NotFetched),
            _ if too_late => self.refuse_waiting(run, Refusal::TooLate),
            WaitReason::Window(at) if at <= now => self.reconsider(run),
            WaitReason::Slot if self.acting.is_none() => self.reconsider(run),
            WaitReason::Owner(..) | WaitReason::Content(..) | WaitReason::Window(_) | WaitReason::Slot => {
                self.arm(run, LOOK_AGAIN)
            }
        }
    }

    /// A blob has arrived, or cannot be had.
    pub(super) fn handle_blob(&mut self, hash: Digest, bytes: Option<Vec<u8>>) {
        let has_come = bytes.is_some();
        // A file with another hash than the approved one counts as missing.
        let kept = match bytes.filter(|bytes| fernwart_certs::sha256(bytes) == hash) {
            Some(bytes) => self.blobs.put(self.files.as_ref(), &bytes).inspect_err(|error| {
                warn!(%hash, %error, "a script's file could not be kept");
            }),
            None => Err(std::io::Error::from(std::io::ErrorKind::InvalidData)),
        };
        let for_this =
            |wait: &PendingRun| matches!(&wait.why, WaitReason::Content(missing, _) if missing.contains(&hash));
        let mut runs: Vec<(UnixMs, u64, RunId)> = self
            .pending
            .iter()
            .filter(|(_, wait)| for_this(wait))
            .map(|(run, wait)| (wait.since, wait.timer, *run))
            .collect();
        runs.sort_unstable();
        for (_, _, run) in runs {
            if let Err(error) = &kept {
                let why = format!("this machine could not keep it: {error}");
                let why = Some(why.as_str()).filter(|_| has_come);
                self.end_waiting_because(run, Outcome::Refused, Some(Refusal::NotFetched), why);
                continue;
            }
            let Some(WaitReason::Content(missing, _)) = self.pending.get_mut(&run).map(|wait| &mut wait.why) else {
                continue;
            };
            missing.retain(|wanted| *wanted != hash);
            if missing.is_empty() {
                self.reconsider(run);
            }
        }
    }

    /// A link was made: missing blobs are requested again.
    pub(super) fn want_again(&mut self) {
        for wait in self.pending.values() {
            if let WaitReason::Content(missing, _) = &wait.why {
                missing.iter().for_each(|hash| self.out.say(ToUplink::Want(*hash)));
            }
        }
    }

    /// Reconsiders the runs that wait for the slot, oldest first, until one acts.
    pub(super) fn act_on(&mut self) {
        let in_line = self.pending.iter().filter(|(_, wait)| wait.why == WaitReason::Slot);
        let mut in_line: Vec<(UnixMs, RunId)> = in_line.map(|(run, wait)| (wait.since, *run)).collect();
        in_line.sort_unstable();
        for (_, run) in in_line {
            if self.acting.is_some() {
                return;
            }
            self.reconsider(run);
        }
    }

    /// Takes up the runs that were pending when the agent stopped. Retries while they cannot be
    /// read.
    pub(super) fn resume_waiting(&mut self) {
        match self.store.runs_in(Phase::Waiting) {
            Ok(waiting) => waiting.into_iter().for_each(|(run, record)| self.take_up(run, record)),
            Err(error) => {
                warn!(%error, "pending runs cannot be read; will retry");
                self.machine.later(WRITE_AGAIN, Event::Unread);
            }
        }
    }

    /// Reconsiders a pending run from the state store, unless this process already has it.
    pub(super) fn take_up(&mut self, run: RunId, record: RunRecord) {
        if self.pending.contains_key(&run) || self.parted.is_some() {
            return;
        }
        let Ok(order) = Order::from_bytes(record.order.bytes.as_bytes()) else { return };
        let (envelope, since, staff) = (record.order, record.received_at, Text::default());
        let wait =
            PendingRun { envelope, order, staff, why: WaitReason::Slot, yes: false, number: None, since, timer: 0 };
        self.pending.insert(run, wait);
        self.reconsider(run);
    }
}

fn until_then(at: UnixMs, now: UnixMs) -> Duration {
    Duration::from_millis(u64::try_from(at.saturating_sub(now)).unwrap_or_default())
}
