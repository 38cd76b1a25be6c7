//! The executor: verifies, asks, acts, proves. It has the evidence key and no
//! network.
//!
//! ```text
//! order ─▶ gate ─▶ state store (received, started) ─▶ action ─▶ state store (finished, receipt) ─▶ outcome
//! ```
//! It takes one event at a time, waits for the disk, and gives back words for the
//! uplink; time, looking and acting belong to a [`Machine`]. The daemon drives it
//! on a thread of its own ([`start`]).

mod blob_cache;
mod clocks;
mod consent;
mod drive;
pub mod gate;
mod hub_messages;
pub(crate) mod last_run;
mod line_budget;
mod machine;
mod outbox;
mod parting;
mod pending;
pub mod policy;
mod receipt;
mod runs;
mod script_runs;
pub mod state;

use crate::collect;
use crate::home::{Enrollment, Home};
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
use fernwart_protocol::diagnosis::Past;
use fernwart_protocol::document::{Envelope, Order, SealedTo, SectionName, UnixMs};
use fernwart_protocol::id::{Digest, MachineId, RunId};
use fernwart_protocol::text::chain;
use fernwart_protocol::to_hub::{About, Stream};
use fernwart_protocol::version::Version;
use gate::{Clock, GateContext, Locks};
use line_budget::{Line as Budgeted, LineBudget};
pub use machine::{Act, DesktopNotice, Look, Machine};
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

/// Looks under way at once; further ones wait their turn. Each takes some
/// fifteen short-lived threads.
const LOOKS: usize = 2;

/// Refused orders remembered, so that a replay does not fill the journal.
const NOTED: usize = 256;

/// Cancels remembered whose orders have not come.
const TAKEN_BACK: usize = 256;

/// An unbelievable catalogue is noted at most this often.
const DOUBT_EVERY: std::time::Duration = std::time::Duration::from_secs(60);

/// That the hub knows less than before is noted at most this often: nobody
/// fills the journal with it.
const FELL_EVERY: std::time::Duration = std::time::Duration::from_secs(3600);

/// What could not be confirmed is tried again after this.
const CONFIRM_AGAIN: Duration = Duration::from_secs(3600);

/// Locks kept at most.
const LOCKS: usize = 1024;

/// The executor cannot begin.
#[derive(Debug, thiserror::Error)]
pub enum ExecutorError {
    /// The machine's word on its own keys cannot be signed.
    #[error("signing for this machine's keys")]
    Sign(#[source] EnvelopeError),
    /// The evidence key cannot be used.
    #[error("reading this machine's evidence key")]
    Key(#[source] KeyFileError),
    /// The state store cannot be opened.
    #[error("opening this machine's books")]
    StateStore(#[source] StateError),
    /// The catalogue in the state store cannot be used.
    #[error("reading the catalogue this machine follows")]
    Catalogue(#[source] CatalogueError),
    /// Keys, certificate and state store are not all of one machine.
    #[error("the files of this machine's agent")]
    Mixed(#[source] NotOneMachine),
    /// There is no catalogue in the state store.
    #[error("the state store holds no catalogue")]
    NoCatalogue,
    /// The thread cannot be started.
    #[error("starting the executor")]
    Thread(#[source] std::io::Error),
}

/// What the executor takes, one at a time.
#[derive(Debug)]
pub enum Event {
    /// Word from the uplink.
    Uplink(ToExecutor),
    /// A look is over: the packed report, if it could be packed, when it began, and
    /// what the next one is to remember.
    Looked(RunId, Option<Vec<u8>>, UnixMs, Option<Box<Past>>),
    /// A program on this machine asks.
    Asked(local::Question, oneshot::Sender<local::Answer>),
    /// A script has ended.
    ScriptEnded(RunId, ScriptResult),
    /// Some of what a script writes.
    Output(RunId, Stream, Vec<u8>),
    /// A timer of a waiting run has run out.
    Due(RunId, u64),
    /// An outcome that the disk did not take is to be tried again.
    Unwritten(RunId, Box<RunEnd>),
    /// What waits in the state store, and could not be read, is to be taken up.
    Unread,
    /// This program may have shown by now that it stays.
    Confirm,
    /// What is said to the uplink once this machine is in nobody's care.
    FinalMessage(Box<ToUplink>),
}

/// How others reach the executor.
#[derive(Clone)]
pub struct Handle(mpsc::Sender<Event>);

/// What an executor begins with.
pub struct Parts {
    /// The machine's folder: its policy and scripts.
    pub home: Home,
    /// Who this machine is.
    pub enrollment: Enrollment,
    /// Signs for what happens here.
    pub evidence: Arc<SigningKey>,
    /// Opens what is sealed to this machine.
    pub sealing: Arc<SealingKey>,
    /// Journal, ledger and catalogue.
    pub store: StateStore,
}

impl Handle {
    /// Tells the executor something; waits while its queue is full.
    pub async fn send(&self, message: ToExecutor) {
        // Fails only once the executor has stopped, which ends the daemon.
        let _ = self.0.send(Event::Uplink(message)).await;
    }

    /// Tells the executor something that may be left unsaid.
    pub fn hint(&self, message: ToExecutor) {
        let _ = self.0.try_send(Event::Uplink(message));
    }

    /// Asks on behalf of a program on this machine.
    pub async fn ask(&self, question: local::Question) -> Option<local::Answer> {
        let (answer, answered) = oneshot::channel();
        self.0.send(Event::Asked(question, answer)).await.ok()?;
        answered.await.ok()
    }
}

/// The executor: events in by [`Executor::take`], words out by [`Executor::next_word`].
pub struct Executor {
    home: Home,
    enrollment: Enrollment,
    evidence: Arc<SigningKey>,
    store: StateStore,
    trusted: Trusted,
    catalogue: Catalogue,
    locks: Locks,
    linked: Option<Linked>,
    /// What the hub last told of this clock; it outlives the link.
    reference: Option<Reference>,
    /// Why the hub does not want this machine, where it has said so.
    rejected: Option<Rejection>,
    /// That this machine is in nobody's care any more.
    parted: Option<Parted>,
    /// Streams that wait for a run's outcome.
    waiting: HashMap<RunId, Vec<Ticket>>,
    /// The runs that this life has begun.
    started: HashMap<RunId, StartedRun>,
    /// The runs whose outcome the disk has not taken yet.
    unwritten: HashSet<RunId>,
    /// What is remembered of the last whole diagnosis.
    past: Arc<Past>,
    /// Whether the state store has an older one.
    is_past_unwritten: bool,
    looking: usize,
    to_look: VecDeque<(RunId, Vec<SectionName>)>,
    unknown_signers: UnknownSigners,
    /// What others can have written here.
    line_budgets: BTreeMap<&'static str, LineBudget>,
    /// Orders whose refusal stands in the journal already; the newest first.
    noted: VecDeque<Digest>,
    /// Opens what is sealed to this machine.
    sealing: Arc<SealingKey>,
    /// The machine's word on that key.
    sealed_to: Envelope,
    /// Scripts' files.
    blobs: BlobCache,
    /// The script under way.
    acting: Option<Acting>,
    /// Runs that have not begun, in the order of their ids.
    pending: BTreeMap<RunId, PendingRun>,
    /// The number of the last question to the owner.
    questions: u32,
    /// The number of the last timer.
    timers: u64,
    consent: OwnerConsent,
    /// The owner's rules as they were read last, and what was read, or why it was not.
    last_policy: RefCell<Option<LastPolicy>>,
    /// Runs taken back before their orders came: a cancel may overtake.
    taken_back: VecDeque<RunId>,
    /// When an unbelievable catalogue was noted last.
    doubted_at: Option<Duration>,
    /// When it was noted last that the hub knows less than before.
    fell_at: Option<Duration>,
    /// The hub on this link says that it knows less; its next signature sets
    /// what it is held against.
    fell_back: bool,
    /// The latest that this clock was at: set back a little it would bring back a yes that
    /// has ended, or a window that has closed.
    latest: Cell<UnixMs>,
    /// How long this life has been linked.
    linked_time: LinkedTime,
    /// Whether a timer for confirming this program runs.
    confirm_is_due: bool,
    machine: Box<dyn Machine>,
    out: Outbox,
}

/// The owner's rules in force.
#[derive(Debug)]
struct LastPolicy {
    /// The file's text, or why it is not believed.
    read: Result<String, String>,
    policy: Arc<Policy>,
}

/// How long a link stood, by a clock that nobody sets.
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

/// A run that this life has begun.
#[derive(Debug)]
struct StartedRun {
    order: Order,
    /// What permitted it.
    rule: Rule,
    /// SHA-256 of the policy then.
    policy: Digest,
}

/// Orders that nobody we know has signed: counted, and noted now and then.
#[derive(Default)]
struct UnknownSigners {
    count: u64,
    noted_at: Option<Duration>,
}

/// When the newest line of the journal was written, by this clock; 0 where there is none.
fn latest_line(store: &StateStore) -> UnixMs {
    let line = store.journal(store.head().seq, 1).unwrap_or_default().into_iter().next();
    let Some(Line::Entry { line, .. }) = line else { return 0 };
    serde_json::from_str::<Entry>(&line).map_or(0, |entry| entry.at)
}

impl Executor {
    /// An executor with what the state store holds. What was cut short is settled, what
    /// waited is taken up.
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

    /// Once noted, another key in its place is noticed at the next start.
    fn remember_sealing_key(&mut self) {
        let key = self.sealing.public();
        if matches!(self.store.sealing_key(), Ok(None))
            && let Err(error) = self.store.write(self.machine.moment(), |tx| tx.sealing_key(&key))
        {
            warn!(%error, "which key opens what is sealed to this machine could not be noted");
        }
    }

    fn asleep(parts: Parts, machine: Box<dyn Machine>) -> Result<Self, ExecutorError> {
        let Parts { home, enrollment, evidence, sealing, store } = parts;
        let said = SealedTo { machine: enrollment.machine, sealing_key: sealing.public() };
        let sealed_to =
            fernwart_certs::envelope::seal(&said, &evidence, Version::OLDEST).map_err(ExecutorError::Sign)?;
        let trusted = store.trusted().map_err(ExecutorError::StateStore)?.ok_or(ExecutorError::NoCatalogue)?;
        let taken_back = store.taken_back().map_err(ExecutorError::StateStore)?;
        let questions = store.questions().map_err(ExecutorError::StateStore)?;
        let catalogue = trusted.view().map_err(ExecutorError::Catalogue)?;
        let parted = store.parted().map_err(ExecutorError::StateStore)?;
        let past = Arc::new(store.past());
        let latest = Cell::new(latest_line(&store));
        let mut locks = Locks::default();
        for envelope in store.locks().map_err(ExecutorError::StateStore)? {
            // A lock whose signer has left the catalogue stays: it only takes away.
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
            blobs: BlobCache::at(&home.blobs()),
            acting: None,
            pending: BTreeMap::new(),
            questions,
            timers: 0,
            consent: OwnerConsent::read(&home.consent()),
            last_policy: RefCell::new(None),
            home,
            doubted_at: None,
            fell_at: None,
            fell_back: false,
            latest,
            linked_time: LinkedTime::default(),
            confirm_is_due: false,
            machine,
            out: Outbox::default(),
        })
    }

    /// Takes one event in. False once it has been told to stop.
    pub fn take(&mut self, event: Event) -> bool {
        self.store.mend();
        match event {
            Event::Uplink(ToExecutor::Stop) => {
                self.say(ToUplink::Stopped);
                return false;
            }
            Event::Uplink(message) => self.handle(message),
            Event::Looked(run, report, started_at, past) => self.handle_looked(run, report, started_at, past),
            Event::ScriptEnded(run, acted) => self.handle_script_ended(run, acted),
            Event::Output(run, stream, bytes) => self.handle_output(run, stream, bytes),
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
                // Whoever asked may have gone.
                let _ = answer.send(answered);
            }
        }
        true
    }

    /// The next word for the uplink, until there is none.
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

    /// Whether a link to the hub stands.
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
                // The hub hears at the next hello what may be signed from now on.
                self.say(ToUplink::Dial(self.dial()));
            }
            Err(error) => {
                warn!(error = chain(&error), "the records could not be written anew; it is tried again");
                self.look_at_confirming_in(CONFIRM_AGAIN);
            }
        }
    }

    /// One timer at a time, however often the link comes and goes.
    fn look_at_confirming_in(&mut self, then: Duration) {
        if !std::mem::replace(&mut self.confirm_is_due, true) {
            self.machine.later(then, Event::Confirm);
        }
    }

    /// How long the computer has been running: a clock that nobody sets.
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
                // Their streams are gone; outcomes are settled on the next link.
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
            os: collect::os_in_a_word(),
            journal_seq: head.seq,
            journal_head: head.hash,
            chain_seq,
            chain_head,
        }
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

    /// Until when nothing is answered, if the owner has stopped it. By a clock that is
    /// worth nothing no pause ends.
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

    /// What is wrong with the files that say who this machine is, if anything.
    fn changed_files(&self) -> Option<String> {
        let keys = (self.evidence.public(), self.sealing.public());
        self.machine.changed_files(&self.enrollment, keys)
    }

    /// A line that somebody else has caused: only so many an hour. Whether it stands there.
    fn note_of_others(&mut self, kind: &'static str, body: &serde_json::Value) -> Result<bool, StateError> {
        let now = self.awake();
        // Each kind has its own: nobody's orders use up what an account may say.
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
            local::Question::Updates => local::Answer::Updates(collect::known_updates()),
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

/// Until when an agent that is not running was paused.
pub fn paused_until(consent: &std::path::Path) -> Option<UnixMs> {
    Some(consent::OwnerConsent::read(consent).paused_until).filter(|until| *until > 0)
}

/// The journal of an agent that is not running, and its signed end.
///
/// # Errors
/// When keys or state store cannot be used.
pub fn journal_at_rest(home: &Home, machine: MachineId) -> Result<Vec<fernwart_certs::journal::Line>, ExecutorError> {
    let evidence = SigningKey::read(&home.evidence_key()).map_err(ExecutorError::Key)?;
    let store = StateStore::open(&home.store()).map_err(ExecutorError::StateStore)?;
    let mut lines = store.journal(1, usize::MAX).map_err(ExecutorError::StateStore)?;
    lines.push(receipt::journal_end(machine, &store, &evidence, crate::now()).map_err(ExecutorError::StateStore)?);
    Ok(lines)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_time_on_the_line_counts() {
        let at = Duration::from_secs;
        let mut linked = LinkedTime::default();
        assert_eq!(linked.so_far(at(100)), Duration::ZERO);
        linked.begins(at(100));
        linked.ends(at(102));
        // Two seconds on the line and an hour without it are two seconds.
        assert_eq!(linked.so_far(at(3700)), at(2));
        linked.begins(at(3700));
        assert_eq!(linked.so_far(at(3710)), at(12));
        // A link in the place of another.
        linked.begins(at(3710));
        linked.ends(at(3720));
        assert_eq!(linked.so_far(at(9999)), at(22));
    }
}
