//! The executor: verifies orders, asks the owner, acts, and signs receipts. It holds the evidence
//! key and has no network access.
//!
//! ```text
//! order ─▶ gate ─▶ state store (received, started) ─▶ action ─▶ state store (finished, receipt) ─▶ outcome
//! ```
//! It handles one event at a time, waits for the disk, and returns messages for the uplink. Time,
//! looks and acts belong to a [`Machine`]. The daemon runs it on a thread of its own ([`start`]).

mod blob_cache;
mod clocks;
mod consent;
mod drive;
pub mod gate;
mod hub_messages;
pub(crate) mod last_run;
mod line_budget;
mod machine;
pub(crate) mod notice;
mod outbox;
mod parting;
mod pending;
pub mod policy;
mod receipt;
mod runs;
mod script_runs;
pub mod state;

use crate::channel::Channels;
use crate::home::Enrollment;
use crate::identity::NotOneMachine;
use crate::local;
use crate::message::{Dial, Linked, Rejection, Ticket, ToExecutor, ToUplink};
use blob_cache::BlobCache;
use clocks::Reference;
use consent::OwnerConsent;
pub use drive::{start, start_simulated};
use fernwart_certs::catalogue::{Catalogue, CatalogueError, Trusted};
use fernwart_certs::envelope::EnvelopeError;
use fernwart_certs::identity::{SealingKey, SigningKey};
use fernwart_certs::journal::{Entry, Line};
use fernwart_certs::keyfile::KeyFileError;
use fernwart_protocol::diagnosis::{Past, Rules};
use fernwart_protocol::document::{Envelope, Order, SealedTo, SectionName, UnixMs};
use fernwart_protocol::id::{Digest, MachineId, RunId};
use fernwart_protocol::text::chain;
use fernwart_protocol::to_hub::About;
use fernwart_protocol::version::Version;
use gate::{Clock, GateContext, Locks};
use line_budget::{Line as Budgeted, LineBudget};
pub use machine::{Act, DesktopNotice, Files, Look, Machine, send_later};
use outbox::{Outbox, Outgoing};
use pending::PendingRun;
use policy::{Policy, Rule};
use script_runs::Acting;
pub use script_runs::{RunEnd, ScriptResult};
use serde_json::json;
use state::{Format, Parted, StateError, StateStore};
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tracing::{info, warn};

/// Maximum number of concurrent looks; further ones queue. Each takes some fifteen short-lived
/// threads.
const LOOKS: usize = 2;

/// Number of refused orders remembered, so that a replay does not fill the journal.
const NOTED: usize = 256;

/// Number of remembered cancels whose orders have not arrived.
const TAKEN_BACK: usize = 256;

/// Minimum time between two journal lines about a rejected catalogue.
const DOUBT_EVERY: std::time::Duration = std::time::Duration::from_secs(60);

/// Minimum time between two journal lines saying that the hub lost receipts, so that a hub cannot
/// fill the journal with them.
const FELL_EVERY: std::time::Duration = std::time::Duration::from_secs(3600);

/// Delay before a failed confirmation of this version is retried.
const CONFIRM_AGAIN: Duration = Duration::from_secs(3600);

/// Maximum number of locks kept.
const LOCKS: usize = 1024;

/// The executor cannot begin.
#[derive(Debug, thiserror::Error)]
pub enum ExecutorError {
    /// The document that names this machine's sealing key cannot be signed.
    #[error("signing for this machine's keys")]
    Sign(#[source] EnvelopeError),
    /// The evidence key cannot be used.
    #[error("reading this machine's evidence key")]
    Key(#[source] KeyFileError),
    /// The state store cannot be opened.
    #[error("opening this machine's state store")]
    StateStore(#[source] StateError),
    /// The catalogue in the state store cannot be used.
    #[error("reading the catalogue this machine follows")]
    Catalogue(#[source] CatalogueError),
    /// Keys, certificate and state store do not all belong to the same machine.
    #[error("the files of this machine's agent")]
    Mixed(#[source] NotOneMachine),
    /// There is no catalogue in the state store.
    #[error("the state store holds no catalogue")]
    NoCatalogue,
    /// The thread cannot be started.
    #[error("starting the executor")]
    Thread(#[source] std::io::Error),
}

/// Input of the executor, handled one event at a time.
#[derive(Debug)]
pub enum Event {
    /// A message from the uplink.
    Uplink(ToExecutor),
    /// A look has finished: its packed report (none if packing failed), when it began, and what
    /// the next look compares with.
    Looked(RunId, Option<Vec<u8>>, UnixMs, Option<Box<Past>>),
    /// A program on this machine asks.
    Asked(local::Question, oneshot::Sender<local::Answer>),
    /// A script has ended.
    ScriptEnded(RunId, ScriptResult),
    /// The timer of a pending run has fired.
    Due(RunId, u64),
    /// Retry of an outcome that could not be written.
    Unwritten(RunId, Box<RunEnd>),
    /// Retry of reading the pending runs from the state store.
    Unread,
    /// Check whether this version can be confirmed.
    Confirm,
    /// The last message for the uplink after this machine was retired or left.
    FinalMessage(Box<ToUplink>),
}

/// A handle for sending events to the executor.
#[derive(Clone)]
pub struct Handle(mpsc::Sender<Event>, Channels);

/// The parts from which an executor is built.
pub struct Parts {
    /// Its policy, consent and scripts.
    pub files: Box<dyn Files>,
    /// This machine's enrollment.
    pub enrollment: Enrollment,
    /// The evidence key, which signs receipts.
    pub evidence: Arc<SigningKey>,
    /// The sealing key, which decrypts secret parameters.
    pub sealing: Arc<SealingKey>,
    /// Journal, ledger and catalogue.
    pub store: StateStore,
}

impl Handle {
    /// Sends a message to the executor; waits while its queue is full.
    pub async fn send(&self, message: ToExecutor) {
        // Fails only once the executor has stopped, which ends the daemon.
        let _ = self.0.send(Event::Uplink(message)).await;
    }

    /// Sends a message that may be lost: it is dropped while the queue is full.
    pub fn hint(&self, message: ToExecutor) {
        let _ = self.0.try_send(Event::Uplink(message));
    }

    /// The byte channels that it opens.
    pub(crate) fn channels(&self) -> &Channels {
        &self.1
    }

    /// Asks on behalf of a program on this machine.
    pub async fn ask(&self, question: local::Question) -> Option<local::Answer> {
        let (answer, answered) = oneshot::channel();
        self.0.send(Event::Asked(question, answer)).await.ok()?;
        answered.await.ok()
    }
}

/// The executor: takes events with [`Executor::take`], returns messages with
/// [`Executor::next_outgoing`].
pub struct Executor {
    files: Box<dyn Files>,
    enrollment: Enrollment,
    evidence: Arc<SigningKey>,
    store: StateStore,
    trusted: Trusted,
    catalogue: Catalogue,
    locks: Locks,
    linked: Option<Linked>,
    /// How far the hub's clock was ahead when it last reported it; outlives the link.
    reference: Option<Reference>,
    /// Why the hub rejects this machine, if it does.
    rejected: Option<Rejection>,
    /// Set once this machine was retired or left.
    parted: Option<Parted>,
    /// Streams that wait for a run's outcome.
    waiting: HashMap<RunId, Vec<Ticket>>,
    /// The runs begun since this process started.
    started: HashMap<RunId, StartedRun>,
    /// The runs whose outcome is not written yet.
    unwritten: HashSet<RunId>,
    /// What is remembered of the last complete diagnosis.
    past: Arc<Past>,
    /// Whether `past` is newer than the copy in the state store.
    is_past_unwritten: bool,
    looking: usize,
    to_look: VecDeque<(RunId, Vec<SectionName>)>,
    unknown_signers: UnknownSigners,
    /// Hourly limits for journal lines that others can cause, by kind.
    line_budgets: BTreeMap<&'static str, LineBudget>,
    /// Hashes of orders whose refusal is already in the journal, newest first.
    noted: VecDeque<Digest>,
    /// The sealing key, which decrypts secret parameters.
    sealing: Arc<SealingKey>,
    /// The signed document that names this machine's sealing key.
    sealed_to: Envelope,
    /// Scripts' files.
    blobs: BlobCache,
    /// The running script.
    acting: Option<Acting>,
    /// Runs that have not begun, in the order of their ids.
    pending: BTreeMap<RunId, PendingRun>,
    /// The number of the newest question to the owner.
    questions: u32,
    /// The number of the newest timer.
    timers: u64,
    consent: OwnerConsent,
    /// The owner's policy as last read.
    last_policy: RefCell<Option<LastPolicy>>,
    /// Runs cancelled before their orders arrived: a cancel may overtake its order.
    taken_back: VecDeque<RunId>,
    /// When a rejected catalogue was last noted.
    doubted_at: Option<Duration>,
    /// When it was last noted that the hub lost receipts.
    fell_at: Option<Duration>,
    /// Whether the hub on this link reports a shorter chain than it has signed for. Its next
    /// countersignature then sets the chain it is compared with.
    fell_back: bool,
    /// The latest time this clock has shown. A clock set back slightly must not revive an expired
    /// consent or reopen a closed window.
    latest: Cell<UnixMs>,
    /// How long this process has been linked in total.
    linked_time: LinkedTime,
    /// Whether a timer for the confirmation of this version is running.
    confirm_is_due: bool,
    machine: Box<dyn Machine>,
    /// Of running scripts.
    channels: Channels,
    out: Outbox,
}

/// The owner's rules in force.
#[derive(Debug)]
struct LastPolicy {
    /// The file's text, or why it was rejected.
    read: Result<String, String>,
    policy: Arc<Policy>,
}

/// Total time linked, by the monotonic clock.
#[derive(Debug, Clone, Copy, Default)]
struct LinkedTime {
    before: Duration,
    since: Option<Duration>,
}

impl LinkedTime {
    fn begins(&mut self, now: Duration) {
        self.ends(now);
        self.since = Some(now);
    }

    fn ends(&mut self, now: Duration) {
        self.before = self.so_far(now);
        self.since = None;
    }

    fn so_far(&self, now: Duration) -> Duration {
        self.before + self.since.map_or(Duration::ZERO, |since| now.saturating_sub(since))
    }
}

/// A run begun since this process started.
#[derive(Debug)]
struct StartedRun {
    order: Order,
    /// The rule that permitted it.
    rule: Rule,
    /// SHA-256 of the policy at that time.
    policy: Digest,
}

/// Orders from unknown signers: counted, with an occasional journal line.
#[derive(Default)]
struct UnknownSigners {
    count: u64,
    noted_at: Option<Duration>,
}

/// When the newest journal line was written, by this machine's clock; 0 if there is none.
fn latest_line(store: &StateStore) -> UnixMs {
    let line = store.journal(store.head().seq, 1).unwrap_or_default().into_iter().next();
    let Some(Line::Entry { line, .. }) = line else { return 0 };
    serde_json::from_str::<Entry>(&line).map_or(0, |entry| entry.at)
}

impl Executor {
    /// Builds an executor from the state store. Interrupted runs are settled and pending runs are
    /// resumed.
    ///
    /// # Errors
    /// When the state store or catalogue cannot be used.
    pub fn new(parts: Parts, machine: Box<dyn Machine>) -> Result<Self, ExecutorError> {
        let mut executor = Self::asleep(parts, machine)?;
        executor.remember_sealing_key();
        executor.wake()?;
        if executor.parted.is_some() {
            executor.say(ToUplink::Parted);
            return Ok(executor);
        }
        executor.say(ToUplink::Dial(executor.dial()));
        executor.say(ToUplink::About(executor.about()));
        executor.resume_waiting();
        Ok(executor)
    }

    /// Notes the sealing key if none is noted yet, so that the next start detects an exchanged
    /// key.
    fn remember_sealing_key(&mut self) {
        let key = self.sealing.public();
        if matches!(self.store.sealing_key(), Ok(None))
            && let Err(error) = self.store.write(self.machine.moment(), |tx| tx.sealing_key(&key))
        {
            warn!(%error, "the sealing key could not be noted in the state store");
        }
    }

    fn asleep(parts: Parts, machine: Box<dyn Machine>) -> Result<Self, ExecutorError> {
        let Parts { files, enrollment, evidence, sealing, store } = parts;
        let statement = SealedTo { machine: enrollment.machine, sealing_key: sealing.public() };
        let sealed_to =
            fernwart_certs::envelope::seal(&statement, &evidence, Version::OLDEST).map_err(ExecutorError::Sign)?;
        let trusted = store.trusted().map_err(ExecutorError::StateStore)?.ok_or(ExecutorError::NoCatalogue)?;
        let taken_back = store.taken_back().map_err(ExecutorError::StateStore)?;
        let questions = store.questions().map_err(ExecutorError::StateStore)?;
        let catalogue = trusted.view().map_err(ExecutorError::Catalogue)?;
        let parted = store.parted().map_err(ExecutorError::StateStore)?;
        let past = Arc::new(store.past());
        let latest = Cell::new(latest_line(&store));
        let mut locks = Locks::default();
        for envelope in store.locks().map_err(ExecutorError::StateStore)? {
            // A lock stays even if its signer has left the catalogue: a lock only restricts.
            if let Ok(lock) = fernwart_protocol::document::Document::from_bytes(envelope.bytes.as_bytes()) {
                locks.add(&lock, enrollment.machine);
            }
        }
        Ok(Self {
            enrollment,
            evidence,
            store,
            trusted,
            catalogue,
            locks,
            linked: None,
            reference: None,
            rejected: None,
            parted,
            waiting: HashMap::new(),
            started: HashMap::new(),
            unwritten: HashSet::new(),
            past,
            is_past_unwritten: false,
            looking: 0,
            to_look: VecDeque::new(),
            unknown_signers: UnknownSigners::default(),
            line_budgets: BTreeMap::new(),
            noted: VecDeque::new(),
            taken_back: taken_back.into(),
            sealing,
            sealed_to,
            blobs: BlobCache::default(),
            acting: None,
            pending: BTreeMap::new(),
            questions,
            timers: 0,
            consent: OwnerConsent::read(files.as_ref()),
            last_policy: RefCell::new(None),
            files,
            doubted_at: None,
            fell_at: None,
            fell_back: false,
            latest,
            linked_time: LinkedTime::default(),
            confirm_is_due: false,
            machine,
            channels: Channels::default(),
            out: Outbox::default(),
        })
    }

    /// Handles one event. Returns false once it was asked to stop.
    pub fn take(&mut self, event: Event) -> bool {
        self.store.mend();
        match event {
            Event::Uplink(ToExecutor::Stop) => {
                self.say(ToUplink::Stopped);
                return false;
            }
            Event::Uplink(message) => self.handle(message),
            Event::Looked(run, report, started_at, past) => self.handle_looked(run, report, started_at, past),
            Event::ScriptEnded(run, result) => self.handle_script_ended(run, result),
            Event::Unwritten(run, ended) => self.conclude(run, *ended),
            Event::Unread => self.resume_waiting(),
            Event::Confirm => {
                self.confirm_is_due = false;
                self.confirm();
            }
            Event::FinalMessage(word) => self.final_message(*word),
            Event::Due(run, timer) => self.handle_due(run, timer),
            Event::Asked(question, answer) => {
                let answered = self.answer(question);
                // The asking program may have closed its connection.
                let _ = answer.send(answered);
            }
        }
        true
    }

    /// The next message for the uplink, if any.
    pub fn next_outgoing(&mut self) -> Option<ToUplink> {
        loop {
            match self.out.next()? {
                Outgoing::Say(message) => return Some(*message),
                Outgoing::Outcome(run) => {
                    let record = self.store.run(&run).ok().flatten();
                    if let Some(settle) = record.and_then(|record| runs::signed_outcome(&self.store, run, record)) {
                        return Some(ToUplink::Outcome(None, run, Box::new(settle)));
                    }
                }
            }
        }
    }

    /// Whether there is a link to the hub.
    pub fn is_linked(&self) -> bool {
        self.linked.is_some()
    }

    fn say(&mut self, message: ToUplink) {
        self.out.say(message);
    }

    fn now(&self) -> UnixMs {
        self.machine.now()
    }

    /// Confirms this program once it has been linked for long enough: the store is
    /// rewritten in its own format. Until then the previous version can be put back.
    fn confirm(&mut self) {
        if self.linked.is_none() || self.store.format() >= Format::NEWEST {
            return;
        }
        let left = self.machine.confirm_after().saturating_sub(self.linked_time.so_far(self.awake()));
        if !left.is_zero() {
            return self.look_at_confirming_in(left);
        }
        match self.store.confirm(self.machine.moment()) {
            Ok(()) => {
                info!(format = self.store.format().number(), "this version is confirmed");
                // The next hello announces up to which version documents may be signed for this
                // machine.
                self.say(ToUplink::Dial(self.dial()));
            }
            Err(error) => {
                warn!(error = chain(&error), "the state store could not be converted to the newest format; will retry");
                self.look_at_confirming_in(CONFIRM_AGAIN);
            }
        }
    }

    /// Starts the timer, unless it is already running: the link may come and go often.
    fn look_at_confirming_in(&mut self, then: Duration) {
        if !std::mem::replace(&mut self.confirm_is_due, true) {
            self.machine.later(then, Event::Confirm);
        }
    }

    /// Time since boot: a clock that nobody can set.
    fn awake(&self) -> Duration {
        Duration::from_millis(self.machine.moment().since_boot_ms)
    }

    fn is_due(&self, last: Option<Duration>, every: Duration) -> bool {
        last.is_none_or(|last| self.awake().saturating_sub(last) >= every)
    }

    fn handle(&mut self, message: ToExecutor) {
        match message {
            ToExecutor::Order(ticket, envelope) => self.handle_order(ticket, envelope, false),
            ToExecutor::Begun(ticket, envelope) => self.handle_order(ticket, envelope, true),
            ToExecutor::Gone(ticket) => {
                self.waiting.values_mut().for_each(|tickets| tickets.retain(|t| *t != ticket));
            }
            ToExecutor::Catalogue(files) => self.handle_catalogue(files),
            ToExecutor::GiveBack(ticket, hubs) => self.handle_give_back(ticket, &hubs),
            ToExecutor::Lock(envelope) => self.handle_lock(&envelope),
            ToExecutor::Cancel(envelope) => self.handle_cancel(&envelope),
            ToExecutor::Stored(run, envelope) => self.handle_stored(run, envelope),
            ToExecutor::Rejected(rejection) => self.rejected = Some(rejection),
            ToExecutor::Retirement(envelope) => self.handle_retirement(&envelope),
            ToExecutor::Linked(linked) => {
                self.rejected = None;
                self.linked = Some(linked);
                self.reference = Some(Reference::new(&linked, self.machine.moment()));
                self.linked_time.begins(self.awake());
                self.confirm();
                self.hold_against(linked.hub_chain);
                self.show_entry(linked.hub_journal);
                self.offer_outcomes();
                self.want_again();
            }
            ToExecutor::OfferOutcomes => self.offer_outcomes(),
            ToExecutor::Unlinked => {
                self.linked = None;
                self.linked_time.ends(self.awake());
                // Their streams are closed; the outcomes are offered on the next link.
                self.waiting.clear();
                self.say(ToUplink::About(self.about()));
            }
            ToExecutor::Blob(hash, bytes) => self.handle_blob(hash, bytes),
            ToExecutor::Claim(binding, tls_key) => self.handle_claim(&binding, tls_key),
            ToExecutor::Stop => {}
        }
    }

    fn dial(&self) -> Dial {
        let hub = &self.catalogue.hub;
        Dial {
            addresses: hub.addresses.clone(),
            pins: hub.ca.clone(),
            versions: self.catalogue.versions,
            evidence_key: self.evidence.public(),
            sealed_to: self.sealed_to.clone(),
            reads: self.store.format().reads().number(),
        }
    }

    fn about(&self) -> About {
        let head = self.store.head();
        let (chain_seq, chain_head) = self.store.hub_chain().unwrap_or((0, fernwart_certs::sha256(b"")));
        About {
            boot: self.machine.moment().boot,
            os: self.machine.os(),
            journal_seq: head.seq,
            journal_head: head.hash,
            chain_seq,
            chain_head,
        }
    }

    /// The rules that hold here.
    fn rules(&self) -> Arc<Rules> {
        self.catalogue.rules()
    }

    fn floor(&self) -> UnixMs {
        self.store.time_floor().max(clocks::BUILT)
    }

    fn clock(&self) -> Clock {
        let judged = clocks::judge(&self.machine.moment(), self.floor(), self.reference);
        let clock = judged.not_before(self.latest.get());
        if let Clock::Plausible(now) = clock {
            self.latest.set(now);
        }
        clock
    }

    /// Until when the owner's pause lasts, if there is one. An implausible clock ends no pause.
    fn paused_until(&self) -> Option<UnixMs> {
        self.consent.paused(self.clock(), self.floor()).then_some(self.consent.paused_until)
    }

    fn standing(&self) -> GateContext<'_> {
        GateContext {
            machine: self.enrollment.machine,
            customer: self.enrollment.customer,
            catalogue: &self.catalogue,
            locks: &self.locks,
            clock: self.clock(),
            floor: self.floor(),
            orders_since: self.store.orders_since(),
            files_are_ours: true,
        }
    }

    /// What is wrong with the files that hold this machine's identity, if anything.
    fn changed_files(&self) -> Option<String> {
        let keys = (self.evidence.public(), self.sealing.public());
        self.machine.changed_files(&self.enrollment, keys)
    }

    /// Writes a journal line that others can cause, within an hourly limit. Returns whether it
    /// was written.
    fn note_of_others(&mut self, kind: &'static str, body: &serde_json::Value) -> Result<bool, StateError> {
        let now = self.awake();
        // Each kind has its own limit: orders from outside cannot use up that of local accounts.
        match self.line_budgets.entry(kind).or_default().take(now) {
            Budgeted::Write => self.note(kind, body).map(|()| true),
            Budgeted::LeaveOut => Ok(false),
            Budgeted::WriteAfter(count) => {
                let left_out = json!({"kind": kind, "count": count});
                self.store.write(self.machine.moment(), |tx| {
                    tx.line("lines_left_out", &left_out)?;
                    tx.line(kind, body).map(|_| true)
                })
            }
        }
    }

    fn note(&mut self, kind: &str, body: &serde_json::Value) -> Result<(), StateError> {
        self.store.write(self.machine.moment(), |tx| tx.line(kind, body).map(drop))
    }

    fn answer(&mut self, question: local::Question) -> local::Answer {
        match question {
            local::Question::Asked => local::Answer::Asked(self.asked()),
            local::Question::OwnerCommand { command, by } => self.handle_owner_command(command, &by),
            local::Question::Leave { by } => self.leave(&by),
            local::Question::Updates => local::Answer::Updates(self.machine.known_updates()),
            local::Question::Status => local::Answer::Status(Box::new(self.status())),
            local::Question::Journal { from } => match self.store.journal(from, local::JOURNAL_PAGE) {
                Ok(lines) => local::Answer::Journal(lines),
                Err(error) => local::Answer::Failed(chain(&error)),
            },
            local::Question::JournalHead => {
                match receipt::journal_end(self.enrollment.machine, &self.store, &self.evidence, self.now()) {
                    Ok(line) => local::Answer::Journal(vec![line]),
                    Err(error) => local::Answer::Failed(chain(&error)),
                }
            }
        }
    }

    fn status(&self) -> local::Status {
        let policy = self.policy();
        local::Status {
            machine: self.enrollment.machine,
            linked: self.linked.is_some(),
            rejected: self.rejected,
            parted: self.parted.clone(),
            rtt_us: self.linked.map(|linked| linked.rtt_us),
            shop: self.catalogue.shop.clone(),
            look: policy.look(),
            act: policy.act(),
            paused_until: self.paused_until(),
            allowed_until: Some(self.consent.allows_until).filter(|until| *until > self.now()),
            questions: self.pending.values().filter(|wait| matches!(wait.why, pending::WaitReason::Owner(..))).count(),
            store: self.store.look().err().map(|error| fernwart_protocol::text::chain(&error)),
            unwritten: self.unwritten.len(),
            changed_files: self.changed_files(),
            policy_readable: policy.is_readable(),
            clock_plausible: matches!(self.clock(), Clock::Plausible(_)),
            catalogue_until: self.catalogue.expiries.earliest(),
            last: last_run::last_run(&self.store),
        }
    }
}

/// Until when the agent is paused, read while it is not running.
pub fn paused_until(files: &dyn Files) -> Option<UnixMs> {
    Some(consent::OwnerConsent::read(files).paused_until).filter(|until| *until > 0)
}

/// The journal of an agent that is not running, with its signed end.
///
/// # Errors
/// When the state store cannot be used.
pub fn journal_at_rest(
    machine: MachineId,
    store: &StateStore,
    evidence: &SigningKey,
) -> Result<Vec<Line>, ExecutorError> {
    let mut lines = store.journal(1, usize::MAX).map_err(ExecutorError::StateStore)?;
    lines.push(receipt::journal_end(machine, store, evidence, crate::now()).map_err(ExecutorError::StateStore)?);
    Ok(lines)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_linked_time_counts_towards_confirmation() {
        let at = Duration::from_secs;
        let mut linked = LinkedTime::default();
        assert_eq!(linked.so_far(at(100)), Duration::ZERO);
        linked.begins(at(100));
        linked.ends(at(102));
        // Two linked seconds and an hour without a link count as two seconds.
        assert_eq!(linked.so_far(at(3700)), at(2));
        linked.begins(at(3700));
        assert_eq!(linked.so_far(at(3710)), at(12));
        // A new link replaces the old one without a gap.
        linked.begins(at(3710));
        linked.ends(at(3720));
        assert_eq!(linked.so_far(at(9999)), at(22));
    }
}
