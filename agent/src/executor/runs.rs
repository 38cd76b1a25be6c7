//! Orders: from the gate into the state store, up to their single outcome.

use super::gate::{self, Authentic, Clock, NotAuthentic, Permit, Permitted};
use super::machine::Look;
use super::notice::Done;
use super::pending::DAY_MS;
use super::policy::{Mode, Policy};
use super::receipt::ReceiptBuilder;
use super::script_runs::RunEnd;
use super::state::{Phase, RunRecord, StateError, StateStore};
use super::{Executor, ExecutorError, FELL_EVERY, LOOKS, LastPolicy, NOTED, StartedRun};
use crate::collect::Surroundings;
use crate::message::{Ticket, ToUplink};
use fernwart_protocol::code::Refusal;
use fernwart_protocol::diagnosis::Past;
use fernwart_protocol::document::{Action, ActionKind, Countersignature, Document, Envelope, Order, Outcome, UnixMs};
use fernwart_protocol::id::{Digest, RunId};
use fernwart_protocol::limits::{CLOCK_SKEW, UNKNOWN_SIGNER_NOTE_EVERY};
use fernwart_protocol::text::{Blob, chain};
use fernwart_protocol::to_hub::{Delivered, RunState, SignedOutcome};
use serde_json::json;
use std::sync::Arc;
use tracing::{info, warn};

impl Executor {
    /// Settles runs that had started when the agent stopped: their outcome is *interrupted*.
    pub(super) fn wake(&mut self) -> Result<(), ExecutorError> {
        for (run, record) in self.store.runs_in(Phase::Started).map_err(ExecutorError::StateStore)? {
            // Its end may be decided but not written yet.
            if self.started.contains_key(&run) || self.pending.contains_key(&run) {
                continue;
            }
            warn!(%run, "the run was interrupted when the agent stopped");
            let order = Document::from_bytes(record.order.bytes.as_bytes());
            let Ok(order): Result<Order, _> = order else { continue };
            if matches!(order.action, Action::Script { .. }) {
                // Kill what it left running before its end is reported.
                self.machine.end(&run);
            }
            let builder = ReceiptBuilder {
                outcome: Outcome::Interrupted,
                ..ReceiptBuilder::refused(order, record.order, self.now())
            };
            self.finish(builder, None).map_err(ExecutorError::StateStore)?;
        }
        Ok(())
    }

    /// The owner's policy as it is in the file now.
    pub(super) fn policy(&self) -> Arc<Policy> {
        let read = self.files.policy().map_err(|error| chain(&error));
        let mut last = self.last_policy.borrow_mut();
        if let Some(last) = last.as_ref().filter(|last| last.read == read) {
            return last.policy.clone();
        }
        let policy = match &read {
            Ok(text) => Policy::from_toml(text).map_err(|error| chain(&error)),
            Err(why) => Err(why.clone()),
        };
        let former = last.as_ref().map(|last| last.policy.clone());
        let policy = Arc::new(policy.unwrap_or_else(|why| {
            warn!(why, "the policy is rejected; nothing but diagnosis is allowed, and that only if it was");
            Policy::unreadable(read.as_deref().unwrap_or_default().as_bytes(), former.as_deref())
        }));
        *last = Some(LastPolicy { read, policy: policy.clone() });
        policy
    }

    /// Handles an order. `had_begun`: the hub knows from this machine that the run had begun.
    pub(super) fn handle_order(&mut self, ticket: Ticket, envelope: Envelope, had_begun: bool) {
        if self.parted.is_some() {
            return self.say(ToUplink::Delivered(ticket, Delivered::Refused(Refusal::OwnerForbids)));
        }
        let authentic = match gate::authenticate(&envelope, &self.standing()) {
            Ok(authentic) => authentic,
            Err(no) => return self.reject(ticket, &no),
        };
        let run = authentic.order().run;
        match (self.store.run(&run), self.in_hand(&run)) {
            (Ok(Some(record)), _) => return self.answer_again(ticket, run, &authentic, record),
            // The run is known in memory, whatever the state store returns.
            (Ok(None) | Err(_), Some((known, state))) => return self.go_on(ticket, &authentic, known, state),
            (Ok(None), None) => {}
            (Err(error), None) => return self.refuse_unrecorded(ticket, &error),
        }
        let order = authentic.order().clone();
        let forgets = order.not_after <= self.floor() || order.not_before < self.store.orders_since();
        if had_begun && forgets {
            // Its end may have been acknowledged and forgotten since.
            return self.reject(ticket, &NotAuthentic::Staff(Refusal::TooLate, Box::new(authentic)));
        }
        self.waiting.entry(run).or_default().push(ticket);
        if had_begun {
            return self.end_forgotten(order, envelope);
        }
        if let Err(error) = self.consider(envelope.clone(), authentic, false) {
            // A failed write may still have reached the disk. If the order may be in the state
            // store, it cannot be refused here, since it would begin after a restart. If the
            // state store could not be opened, nothing was written.
            self.store.mend();
            let tried = !matches!(error, StateError::Open(..));
            let is_recorded = tried && !matches!(self.store.run(&run), Ok(None));
            if is_recorded {
                self.end_unsure(order, envelope);
                return warn!(%run, %error, "an order will be refused once the state store is writable");
            }
            self.waiting.remove(&run);
            self.refuse_unrecorded(ticket, &error);
        }
    }

    /// Settles a run that had begun here according to the hub, but is missing from the state
    /// store: an older copy was put back. Its outcome is unknown, and it must not begin again.
    fn end_forgotten(&mut self, order: Order, envelope: Envelope) {
        let run = order.run;
        warn!(%run, "the run had begun here but is missing from the state store, which was set back");
        if matches!(order.action, Action::Script { .. }) {
            // Kill what it left running before its end is reported.
            self.machine.end(&run);
        }
        let staff = self.catalogue.staff.find(&order.key).map(|entry| entry.name.clone()).unwrap_or_default();
        let refusal = Some(Refusal::RecordsWentBack);
        let refused = ReceiptBuilder::refused(order, envelope, self.now());
        let builder = ReceiptBuilder { outcome: Outcome::Interrupted, refusal, staff, ..refused };
        if let Err(error) = self.finish(builder, None) {
            self.store.mend();
            for ticket in self.waiting.remove(&run).unwrap_or_default() {
                self.refuse_unrecorded(ticket, &error);
            }
        }
    }

    /// The hash and the state of an order that is pending or running.
    fn in_hand(&self, run: &RunId) -> Option<(Option<Digest>, RunState)> {
        let pending = self.pending.get(run);
        let hash = pending.map(|wait| fernwart_certs::sha256(wait.envelope.bytes.as_bytes()));
        match (hash, self.started.contains_key(run)) {
            (Some(hash), _) => Some((Some(hash), RunState::Waiting)),
            (None, true) => Some((None, RunState::Started)),
            (None, false) => None,
        }
    }

    /// Another copy of an order that is pending or running gets the outcome when that is known.
    fn go_on(&mut self, ticket: Ticket, authentic: &Authentic, known: Option<Digest>, state: RunState) {
        if known.is_some_and(|known| known != authentic.hash()) {
            let no = NotAuthentic::Staff(Refusal::Replayed, Box::new(authentic.clone()));
            return self.reject(ticket, &no);
        }
        let run = authentic.order().run;
        self.waiting.entry(run).or_default().push(ticket);
        self.say(ToUplink::Delivered(ticket, Delivered::State(state)));
        self.show_output(ticket, run);
    }

    /// Lets a stream read the live output of its run, if that is a script at work.
    fn show_output(&mut self, ticket: Ticket, run: RunId) {
        if self.acting.as_ref().is_some_and(|acting| acting.run == run) {
            self.say(ToUplink::Opened(ticket, run));
        }
    }

    /// Refuses an order before it reaches the ledger. Nothing is kept except, for staff, a
    /// journal line.
    fn reject(&mut self, ticket: Ticket, no: &NotAuthentic) {
        let refusal = no.refusal();
        let noted = match no {
            NotAuthentic::Staff(_, authentic) if self.noted.contains(&authentic.hash()) => Ok(()),
            NotAuthentic::Staff(_, authentic) => {
                self.noted.truncate(NOTED - 1);
                self.noted.push_front(authentic.hash());
                let order = authentic.order();
                let body = json!({
                    "code": refusal.code(), "run": order.run, "staff": authentic.staff(), "key": order.key,
                    "action": order.action, "machine": order.machine, "customer": order.customer,
                });
                self.note_of_others("order_refused", &body).map(drop)
            }
            NotAuthentic::UnknownSigner(_) => {
                self.unknown_signers.count += 1;
                if self.is_due(self.unknown_signers.noted_at, UNKNOWN_SIGNER_NOTE_EVERY) {
                    self.unknown_signers.noted_at = Some(self.awake());
                    let body =
                        json!({"code": refusal.code(), "count": std::mem::take(&mut self.unknown_signers.count)});
                    self.note("strangers_refused", &body)
                } else {
                    Ok(())
                }
            }
        };
        if let Err(error) = noted {
            warn!(%error, "a refusal could not be noted in the journal");
        }
        info!(code = %refusal.code(), "order rejected");
        self.say(ToUplink::Delivered(ticket, Delivered::Refused(refusal)));
    }

    pub(super) fn refuse_unrecorded(&mut self, ticket: Ticket, error: &StateError) {
        let refusal = match error {
            StateError::Full => Refusal::LedgerFull,
            StateError::Open(..) | StateError::Write(_) | StateError::Damaged(_) | StateError::Newer { .. } => {
                Refusal::NoJournal
            }
        };
        warn!(%error, code = %refusal.code(), "order refused: the state store cannot be written");
        self.say(ToUplink::Delivered(ticket, Delivered::Refused(refusal)));
    }

    /// Answers an order whose run id is in the ledger already; it is never run again.
    fn answer_again(&mut self, ticket: Ticket, run: RunId, authentic: &Authentic, record: RunRecord) {
        if fernwart_certs::sha256(record.order.bytes.as_bytes()) != authentic.hash() {
            let no = NotAuthentic::Staff(Refusal::Replayed, Box::new(authentic.clone()));
            return self.reject(ticket, &no);
        }
        if record.receipt.is_none() {
            self.waiting.entry(run).or_default().push(ticket);
            let pending = record.phase == Phase::Waiting || self.pending.contains_key(&run);
            let state = if pending { RunState::Waiting } else { RunState::Started };
            self.say(ToUplink::Delivered(ticket, Delivered::State(state)));
            self.show_output(ticket, run);
            if record.phase == Phase::Waiting {
                // This process may not have it yet, if its state store was unreadable.
                self.take_up(run, record);
            }
        } else if let Some(outcome) = signed_outcome(&self.store, run, record) {
            self.say(ToUplink::Outcome(Some(ticket), run, Box::new(outcome)));
        }
    }

    /// Begins a run: writes it to the state store, then starts it.
    pub(super) fn begin(
        &mut self,
        envelope: Envelope,
        permit: Permit,
        kind: ActionKind,
        policy: Digest,
    ) -> Result<(), StateError> {
        let order = permit.authentic().order().clone();
        let known = self.store.run(&order.run)?;
        if known.as_ref().is_some_and(|record| record.receipt.is_some()) {
            // Its end was written by a write that seemed to fail.
            let builder = ReceiptBuilder::refused(order, envelope, self.now());
            return self.finish(builder, None);
        }
        let mut body = json!({
            "run": order.run, "staff": permit.authentic().staff(), "key": order.key, "action": order.action,
            "reason": order.reason, "permitted_by": permit.rule().0, "kind": kind,
        });
        if let (Some(script), Some(fields)) = (permit.script(), body.as_object_mut()) {
            fields.insert("title".into(), json!(script.manifest.title));
            fields.insert("undo".into(), json!(script.manifest.undo));
        }
        let record = RunRecord {
            order: envelope,
            phase: Phase::Started,
            received_at: self.now(),
            not_after: order.not_after,
            receipt: None,
            countersigned: None,
        };
        let floor = match self.clock() {
            Clock::Plausible(now) => self.floor().max(order.not_before.min(now)),
            Clock::Implausible { .. } => self.floor(),
        };
        // If the start is in the store already, a write that seemed to fail had succeeded.
        // Nothing was started then, else it would be in memory.
        if known.is_none_or(|known| known.phase != Phase::Started) {
            self.store.write(self.machine.moment(), |tx| {
                tx.raise_time_floor(floor)?;
                tx.place_for(&order.run)?;
                tx.run(&order.run, &record)?;
                if kind == ActionKind::Act {
                    tx.act_begins(record.received_at - DAY_MS)?;
                }
                tx.line("run_started", &body).map(drop)
            })?;
        }
        self.pending.remove(&order.run);
        self.started.insert(order.run, StartedRun { order: order.clone(), rule: permit.rule(), policy });
        // A diagnosis ends too soon for that state to be of use.
        if matches!(order.action, Action::Script { .. }) {
            self.send_to_watchers(order.run, Delivered::State(RunState::Started));
        }
        match permit.spend() {
            Permitted::Diagnose(sections) => {
                self.to_look.push_back((order.run, sections));
                self.look_on();
                Ok(())
            }
            Permitted::Run(ready) => {
                self.act(order.run, *ready);
                Ok(())
            }
            Permitted::Nothing => {
                let builder = ReceiptBuilder::refused(order, record.order, self.now());
                self.finish(builder, None)
            }
        }
    }

    pub(super) fn surroundings(&self) -> Surroundings {
        let now = self.now();
        let skew = i64::try_from(CLOCK_SKEW.as_millis()).unwrap_or(i64::MAX);
        let behind = self.floor().saturating_sub(now);
        let is_name = |host: &&str| host.parse::<std::net::IpAddr>().is_err() && *host != "localhost";
        let mut addresses = self.catalogue.hub.addresses.as_slice().iter().map(|address| address.as_raw());
        let host = |address: &str| address.rsplit_once(':').map(|(host, _)| host.trim_matches(['[', ']']).to_owned());
        Surroundings {
            hub_reachable: Some(self.linked.is_some()),
            hub_rtt_us: self.linked.map(|linked| linked.rtt_us),
            ahead_of_hub_ms: self
                .reference
                .filter(|_| self.linked.is_some())
                .map(|reference| reference.ahead_ms(&self.machine.moment()).saturating_neg()),
            behind_floor_ms: Some(if behind > skew { behind } else { 0 }),
            hub_name: addresses.find_map(|address| host(address).filter(|host| is_name(&host.as_str()))),
            past: self.past.clone(),
            known_updates: None,
            stays: true,
        }
    }

    fn look_on(&mut self) {
        while self.looking < LOOKS {
            let Some((run, sections)) = self.to_look.pop_front() else { return };
            self.looking += 1;
            let (surroundings, started_at) = (self.surroundings(), self.now());
            self.machine.look(Look { run, sections, surroundings, rules: self.rules(), started_at });
        }
    }

    pub(super) fn handle_looked(
        &mut self,
        run: RunId,
        report: Option<Vec<u8>>,
        started_at: UnixMs,
        past: Option<Box<Past>>,
    ) {
        self.looking = self.looking.saturating_sub(1);
        if let Some(past) = past {
            self.past = Arc::new(*past);
            self.is_past_unwritten = true;
        }
        self.conclude(run, RunEnd::looked(report, started_at));
        self.look_on();
    }

    /// Writes a run's outcome and receipt, unless they exist already, then sends them to everyone
    /// who waits.
    pub(super) fn finish(&mut self, builder: ReceiptBuilder, report: Option<Vec<u8>>) -> Result<(), StateError> {
        let (run, outcome) = (builder.order.run, builder.outcome);
        let done = Done {
            action: builder.order.action.clone(),
            title: self.title_of(&builder.order.action),
            staff: self.catalogue.staff.find(&builder.order.key).map(|entry| entry.name.clone()).unwrap_or_default(),
            reason: builder.order.reason.clone(),
            outcome: builder.outcome,
        };
        let signed = match self.store.run(&run)?.filter(|record| record.receipt.is_some()) {
            // A write that seemed to fail had succeeded; the outcome may have been sent already.
            Some(record) => signed_outcome(&self.store, run, record),
            None => self.write_outcome(builder, report)?,
        };
        self.pending.remove(&run);
        let permitted = self.started.remove(&run);
        // The rule that permitted an interrupted run was known only to the process that stopped.
        let cut_short = outcome == Outcome::Interrupted && self.policy().act() == Mode::Notify;
        if permitted.is_some_and(|permitted| permitted.rule.notifies()) || cut_short {
            self.notify_owner_of(done);
        }
        if let Some(signed) = signed {
            let tickets = self.waiting.remove(&run).unwrap_or_default();
            if tickets.is_empty() && self.linked.is_some() {
                self.say(ToUplink::Outcome(None, run, Box::new(signed)));
                return Ok(());
            }
            for ticket in tickets {
                self.say(ToUplink::Outcome(Some(ticket), run, Box::new(signed.clone())));
            }
        }
        Ok(())
    }

    fn write_outcome(
        &mut self,
        builder: ReceiptBuilder,
        report: Option<Vec<u8>>,
    ) -> Result<Option<SignedOutcome>, StateError> {
        let run = builder.order.run;
        let policy = builder.permitted.map_or_else(|| self.policy().hash, |(_, policy)| policy);
        let (versions, evidence) = (self.catalogue.versions, &self.evidence);
        let moment = self.machine.moment();
        let past = Some(self.past.clone()).filter(|_| self.is_past_unwritten);
        let record = self.store.write(moment, |tx| {
            tx.place_for(&run)?;
            let record = builder.write(tx, report.as_deref(), policy, versions, evidence, moment)?;
            tx.run(&run, &record)?;
            if let Some(report) = &report {
                tx.report(&run, report)?;
            }
            if let Some(past) = &past {
                tx.past(past)?;
            }
            Ok(record)
        })?;
        self.is_past_unwritten = false;
        Ok(record.receipt.map(|receipt| SignedOutcome {
            order: record.order,
            receipt,
            body: report.and_then(|report| Blob::try_from(report).ok()).unwrap_or_default(),
        }))
    }

    /// Offers every outcome that no hub has acknowledged, oldest first.
    pub(super) fn offer_outcomes(&mut self) {
        if let Err(error) = self.wake() {
            return warn!(reason = chain(&error), "interrupted runs cannot be settled yet");
        }
        let finished = match self.store.runs_in(Phase::Finished) {
            Ok(finished) => finished,
            Err(error) => return warn!(%error, "unacknowledged outcomes cannot be read"),
        };
        for (run, _) in finished {
            self.out.offer(run);
        }
    }

    pub(super) fn handle_stored(&mut self, run: RunId, envelope: Envelope) {
        let Ok(Some(record)) = self.store.run(&run) else { return };
        let Some(receipt) = &record.receipt else { return };
        let key = self.catalogue.hub.evidence_key(&envelope.key);
        let countersigned: Option<Countersignature> =
            key.and_then(|key| fernwart_certs::envelope::open(&envelope, key).ok());
        let fits = |countersigned: &Countersignature| {
            countersigned.run == run
                && countersigned.machine == self.enrollment.machine
                && countersigned.receipt == fernwart_certs::sha256(receipt.bytes.as_bytes())
        };
        let Some(countersigned) = countersigned.filter(fits) else {
            return warn!(%run, "the hub's countersignature does not fit; the outcome is kept");
        };
        let (key, hub) = (envelope.key, &self.catalogue.hub);
        match self.store.hub_key() {
            Ok(last) if last.is_none_or(|last| !hub.came_before(&key, &last)) => {}
            Ok(_) => return warn!(%run, %key, "signed with a key that the hub retired; the outcome is kept"),
            Err(error) => return warn!(%run, %error, "the hub's last key cannot be read; the outcome is kept"),
        }
        let before = record.countersigned.as_ref();
        let before = before.and_then(|envelope| Countersignature::from_bytes(envelope.bytes.as_bytes()).ok());
        if before.is_some_and(|before| {
            (before.chain_seq, before.chain_head) == (countersigned.chain_seq, countersigned.chain_head)
        }) {
            return;
        }
        let record = RunRecord { phase: Phase::Acknowledged, countersigned: Some(envelope), ..record };
        let newest = match self.store.hub_chain() {
            Ok((seq, _)) => seq,
            Err(error) => return warn!(%run, %error, "the hub's chain position cannot be read; the outcome is kept"),
        };
        // Countersignatures of several runs may arrive out of order. A position in the hub's
        // chain that is taken already means that the hub fell back.
        let taken = countersigned.chain_seq <= newest && self.is_taken(countersigned.chain_seq) && self.may_note_fall();
        let fell = json!({"run": run, "hub_had": newest, "hub_has": countersigned.chain_seq});
        // After the hub fell back, its chain is compared with what it has signed since.
        let follows = countersigned.chain_seq > newest || self.fell_back;
        let written = self.store.write(self.machine.moment(), |tx| {
            tx.run(&run, &record)?;
            tx.drop_report(&run)?;
            tx.hub_key(&key)?;
            if follows {
                tx.hub_chain(countersigned.chain_seq, &countersigned.chain_head)?;
            }
            if taken { tx.line("hub_fell_back", &fell).map(drop) } else { Ok(()) }
        });
        match written {
            Ok(()) => {
                self.fell_back = false;
                self.bound_journal();
            }
            Err(error) => {
                warn!(%run, %error, "an acknowledgement could not be written; the outcome will be sent again")
            }
        }
    }
}

impl Executor {
    /// Compares the hub's chain with its last countersignature. If it is shorter or differs, the
    /// hub was restored or altered: that is noted, and the receipts it lacks are offered again.
    pub(super) fn hold_against(&mut self, hub: Option<(u64, Digest)>) {
        self.fell_back = false;
        let (Some((seq, head)), Ok((known, known_head))) = (hub, self.store.hub_chain()) else { return };
        if seq > known || (seq == known && head == known_head) {
            return;
        }
        let fell = json!({"hub_had": known, "hub_has": seq});
        // The hub has not signed its present chain, so the last signed one is kept.
        self.fell_back = true;
        if self.may_note_fall()
            && let Err(error) = self.note("hub_fell_back", &fell)
        {
            warn!(%error, "the hub's fallen-back chain could not be noted in the journal");
        }
        warn!(hub_had = known, hub_has = seq, "the hub's chain is not the one that it has signed for");
        for (run, record) in self.store.runs_in(Phase::Acknowledged).unwrap_or_default() {
            let place = record.countersigned.as_ref();
            let place = place.and_then(|envelope| Countersignature::from_bytes(envelope.bytes.as_bytes()).ok());
            let lost = place.is_none_or(|place| place.chain_seq > seq || seq == known);
            if lost {
                self.out.offer(run);
            }
        }
    }

    /// Trims the journal to its bound.
    fn bound_journal(&mut self) {
        // With an implausible clock no entry counts as old.
        if !matches!(self.clock(), Clock::Plausible(_)) {
            return;
        }
        match self.store.bound(self.machine.moment()) {
            Ok(0) => {}
            Ok(entries) => info!(entries, "dropped old journal entries"),
            Err(error) => warn!(%error, "old journal entries could not be dropped"),
        }
    }

    /// Whether enough time has passed to note again that the hub fell back.
    fn may_note_fall(&mut self) -> bool {
        let due = self.is_due(self.fell_at, FELL_EVERY);
        if due {
            self.fell_at = Some(self.awake());
        }
        due
    }

    /// Sends the hub the hash of the journal entry it last knew of, for comparison.
    pub(super) fn show_entry(&mut self, seq: Option<u64>) {
        let Some(seq) = seq else { return };
        if let Ok(Some(hash)) = self.store.entry(seq) {
            self.say(ToUplink::Journal(seq, hash));
        }
    }

    /// Whether another receipt has this position in the hub's chain.
    fn is_taken(&self, seq: u64) -> bool {
        let known = self.store.runs_in(Phase::Acknowledged).unwrap_or_default();
        known.iter().filter_map(|(_, record)| record.countersigned.as_ref()).any(|envelope| {
            Countersignature::from_bytes(envelope.bytes.as_bytes())
                .is_ok_and(|countersigned| countersigned.chain_seq == seq)
        })
    }
}

pub(super) fn signed_outcome(store: &StateStore, run: RunId, record: RunRecord) -> Option<SignedOutcome> {
    let body = store.report(&run).ok().flatten().unwrap_or_default();
    Some(SignedOutcome {
        order: record.order,
        receipt: record.receipt?,
        body: Blob::try_from(body).unwrap_or_default(),
    })
}
