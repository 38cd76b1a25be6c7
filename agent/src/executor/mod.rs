//! The executor: verifies, asks, acts, proves. It has the evidence key and no
//! network.
//!
//! ```text
//! order ─▶ gate ─▶ books (received, started) ─▶ action ─▶ books (finished, receipt) ─▶ outcome
//! ```
//! It runs on a thread of its own, takes one event at a time and waits for the
//! disk; looking happens on further threads, so that nothing waits for it.

pub mod books;
mod clocks;
pub mod gate;
pub mod policy;
mod proof;
mod reserve;

use crate::collect::{self, Surroundings};
use crate::home::{Enrollment, Home};
use crate::local;
use crate::message::{Dial, Linked, QUEUE, Ticket, ToExecutor, ToUplink};
use books::{Books, BooksError, Phase, RunRecord};
use fernwart_certs::catalogue::{self, Catalogue, CatalogueError, Files, Trusted};
use fernwart_certs::identity::SigningKey;
use fernwart_certs::keyfile::KeyFileError;
use fernwart_protocol::code::Refusal;
use fernwart_protocol::diagnosis::Report;
use fernwart_protocol::document::{Cancel, Countersignature, Envelope, Outcome, SectionName, UnixMs};
use fernwart_protocol::enroll::Claim;
use fernwart_protocol::id::{BootId, Digest, MachineId, RunId};
use fernwart_protocol::limits::{CLOCK_SKEW, STRANGER_NOTE_EVERY};
use fernwart_protocol::text::{Blob, chain};
use fernwart_protocol::to_agent::CatalogueFile;
use fernwart_protocol::to_hub::{About, Delivered, RunState, Settle};
use gate::{Authentic, Clock, Locks, NotAuthentic, Permit, Permitted, Standing};
use policy::{Policy, Rule};
use proof::Proof;
use serde_json::json;
use std::collections::{HashMap, VecDeque};
use tokio::sync::{mpsc, oneshot};
use tracing::{info, warn};

/// Looks under way at once; further ones wait their turn. Each takes some
/// fifteen short-lived threads.
const LOOKS: usize = 2;

/// Refused orders remembered, so that a replay does not fill the journal.
const NOTED: usize = 256;

/// An unbelievable catalogue is noted at most this often.
const DOUBT_EVERY: std::time::Duration = std::time::Duration::from_secs(60);

/// Locks kept at most.
const LOCKS: usize = 1024;

/// The executor cannot begin.
#[derive(Debug, thiserror::Error)]
pub enum ExecutorError {
    /// The evidence key cannot be used.
    #[error("reading this machine's evidence key")]
    Key(#[source] KeyFileError),
    /// The books cannot be opened.
    #[error("opening this machine's books")]
    Books(#[source] BooksError),
    /// The catalogue in the books cannot be used.
    #[error("reading the catalogue this machine follows")]
    Catalogue(#[source] CatalogueError),
    /// There is no catalogue in the books.
    #[error("the books hold no catalogue; this machine has not joined")]
    NoCatalogue,
    /// The thread cannot be started.
    #[error("starting the executor")]
    Thread(#[source] std::io::Error),
}

/// What the executor takes, one at a time.
enum Event {
    Uplink(ToExecutor),
    Looked(RunId, Box<Report>, UnixMs),
    Asked(local::Question, oneshot::Sender<local::Answer>),
}

/// How others reach the executor.
#[derive(Clone)]
pub struct Handle(mpsc::Sender<Event>);

impl Handle {
    /// Tells the executor something; waits while its queue is full.
    pub async fn tell(&self, message: ToExecutor) {
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

/// Starts the executor on its thread.
///
/// # Errors
/// When keys, books or catalogue cannot be used.
pub fn start(home: &Home, enrollment: Enrollment) -> Result<(Handle, mpsc::Receiver<ToUplink>), ExecutorError> {
    let (events, inbox) = mpsc::channel(QUEUE);
    let (out, to_uplink) = mpsc::channel(QUEUE);
    let mut executor = Executor::new(home.clone(), enrollment, events.clone(), out)?;
    executor.wake()?;
    std::thread::Builder::new()
        .name("executor".into())
        .stack_size(512 * 1024)
        .spawn(move || executor.run(inbox))
        .map_err(ExecutorError::Thread)?;
    Ok((Handle(events), to_uplink))
}

struct Executor {
    home: Home,
    enrollment: Enrollment,
    evidence: SigningKey,
    books: Books,
    trusted: Trusted,
    catalogue: Catalogue,
    locks: Locks,
    boot: BootId,
    linked: Option<Linked>,
    /// Streams that wait for a run's outcome.
    waiting: HashMap<RunId, Vec<Ticket>>,
    /// What permitted the runs that this life has begun, and the policy then.
    under_way: HashMap<RunId, (Rule, Digest)>,
    looking: usize,
    to_look: VecDeque<(RunId, Vec<SectionName>)>,
    strangers: Strangers,
    /// Orders whose refusal stands in the journal already; the newest first.
    noted: VecDeque<Digest>,
    /// When an unbelievable catalogue was noted last.
    doubted_at: Option<std::time::Instant>,
    events: mpsc::Sender<Event>,
    out: mpsc::Sender<ToUplink>,
}

/// Orders that nobody we know has signed: counted, and noted now and then.
#[derive(Default)]
struct Strangers {
    count: u64,
    noted_at: Option<std::time::Instant>,
}

impl Executor {
    fn new(
        home: Home,
        enrollment: Enrollment,
        events: mpsc::Sender<Event>,
        out: mpsc::Sender<ToUplink>,
    ) -> Result<Self, ExecutorError> {
        let evidence = SigningKey::read(&home.evidence_key()).map_err(ExecutorError::Key)?;
        let books = Books::open(&home.books()).map_err(ExecutorError::Books)?;
        let trusted = books.trusted().map_err(ExecutorError::Books)?.ok_or(ExecutorError::NoCatalogue)?;
        let catalogue = trusted.view().map_err(ExecutorError::Catalogue)?;
        let mut locks = Locks::default();
        for envelope in books.locks().map_err(ExecutorError::Books)? {
            // A lock whose signer has left the catalogue stays: it only takes away.
            if let Ok(lock) = fernwart_protocol::document::Document::from_bytes(envelope.bytes.as_bytes()) {
                locks.add(&lock, enrollment.machine);
            }
        }
        Ok(Self {
            home,
            enrollment,
            evidence,
            books,
            trusted,
            catalogue,
            locks,
            boot: clocks::boot_id(),
            linked: None,
            waiting: HashMap::new(),
            under_way: HashMap::new(),
            looking: 0,
            to_look: VecDeque::new(),
            strangers: Strangers::default(),
            noted: VecDeque::new(),
            doubted_at: None,
            events,
            out,
        })
    }

    /// What was begun and is not under way has an outcome now: nobody knows.
    fn wake(&mut self) -> Result<(), ExecutorError> {
        for (run, record) in self.books.runs_in(Phase::Started).map_err(ExecutorError::Books)? {
            if self.under_way.contains_key(&run) {
                continue;
            }
            warn!(%run, "was under way when the agent stopped");
            let order = fernwart_protocol::document::Document::from_bytes(record.order.bytes.as_bytes());
            let Ok(order) = order else { continue };
            let proof = Proof { outcome: Outcome::Interrupted, ..Proof::refused(order, record.order, crate::now()) };
            self.settle(proof, None).map_err(ExecutorError::Books)?;
        }
        Ok(())
    }

    fn run(mut self, mut inbox: mpsc::Receiver<Event>) {
        self.say(ToUplink::Dial(self.dial()));
        self.say(ToUplink::About(self.about()));
        while let Some(event) = inbox.blocking_recv() {
            match event {
                Event::Uplink(ToExecutor::Stop) => break,
                Event::Uplink(message) => self.handle(message),
                Event::Looked(run, report, started_at) => self.handle_looked(run, *report, started_at),
                Event::Asked(question, answer) => {
                    // Whoever asked may have gone.
                    let _ = answer.send(self.answer(question));
                }
            }
        }
        self.say(ToUplink::Stopped);
    }

    fn say(&self, message: ToUplink) {
        // Fails only once the uplink has stopped, which ends the daemon.
        let _ = self.out.blocking_send(message);
    }

    fn handle(&mut self, message: ToExecutor) {
        match message {
            ToExecutor::Order(ticket, envelope) => self.handle_order(ticket, envelope),
            ToExecutor::Gone(ticket) => {
                self.waiting.values_mut().for_each(|tickets| tickets.retain(|t| *t != ticket));
            }
            ToExecutor::Catalogue(files) => self.handle_catalogue(files),
            ToExecutor::Lock(envelope) => self.handle_lock(&envelope),
            ToExecutor::Cancel(envelope) => self.handle_cancel(&envelope),
            ToExecutor::Stored(run, envelope) => self.handle_stored(run, envelope),
            ToExecutor::Linked(linked) => {
                self.linked = Some(linked);
                self.resettle();
            }
            ToExecutor::Resettle => self.resettle(),
            ToExecutor::Unlinked => {
                self.linked = None;
                // Their streams are gone; outcomes are settled on the next link.
                self.waiting.clear();
                self.say(ToUplink::About(self.about()));
            }
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
        }
    }

    fn about(&self) -> About {
        let head = self.books.head();
        let (chain_seq, chain_head) = self.books.hub_chain().unwrap_or((0, fernwart_certs::sha256(b"")));
        About {
            boot: self.boot,
            os: collect::os_in_a_word(),
            journal_seq: head.seq,
            journal_head: head.hash,
            chain_seq,
            chain_head,
        }
    }

    fn floor(&self) -> UnixMs {
        self.books.time_floor().unwrap_or_default().max(clocks::BUILT)
    }

    fn clock(&self) -> Clock {
        clocks::judge(crate::now(), self.floor(), self.linked)
    }

    fn standing(&self) -> Standing<'_> {
        Standing {
            machine: self.enrollment.machine,
            customer: self.enrollment.customer,
            catalogue: &self.catalogue,
            locks: &self.locks,
            clock: self.clock(),
            floor: self.floor(),
        }
    }

    /// The owner's policy as it stands in the file now.
    fn policy(&self) -> Policy {
        let text = std::fs::read_to_string(self.home.policy()).unwrap_or_default();
        Policy::from_toml(&text).unwrap_or_else(|error| {
            warn!(%error, "the policy cannot be read; nothing but diagnosis is allowed");
            Policy::unreadable(text.as_bytes())
        })
    }

    fn handle_order(&mut self, ticket: Ticket, envelope: Envelope) {
        let authentic = match gate::authenticate(&envelope, &self.standing()) {
            Ok(authentic) => authentic,
            Err(no) => return self.turn_away(ticket, &no),
        };
        let run = authentic.order().run;
        match self.books.run(&run) {
            Ok(None) => {}
            Ok(Some(record)) => return self.answer_again(ticket, run, &authentic, record),
            Err(error) => return self.refuse_unrecorded(ticket, &error),
        }
        let policy = self.policy();
        let permitted = gate::permit(authentic, &self.standing(), &policy);
        let result = match permitted {
            Ok(permit) => self.begin(ticket, envelope, permit, policy.hash),
            Err((refusal, authentic)) => {
                info!(%run, code = refusal.code(), "order refused");
                self.waiting.entry(run).or_default().push(ticket);
                let proof = Proof {
                    refusal: Some(refusal),
                    staff: authentic.staff().clone(),
                    ..Proof::refused(authentic.order().clone(), envelope, crate::now())
                };
                self.settle(proof, None)
            }
        };
        if let Err(error) = result {
            self.waiting.remove(&run);
            self.refuse_unrecorded(ticket, &error);
        }
    }

    /// Refuses before the ledger: nothing was done and nothing is kept but,
    /// for staff, a line.
    fn turn_away(&mut self, ticket: Ticket, no: &NotAuthentic) {
        let refusal = no.refusal();
        let noted = match no {
            NotAuthentic::Staff(_, authentic) if self.noted.contains(&authentic.hash()) => Ok(()),
            NotAuthentic::Staff(_, authentic) => {
                self.noted.truncate(NOTED - 1);
                self.noted.push_front(authentic.hash());
                let order = authentic.order();
                let body = json!({
                    "code": refusal.code(), "run": order.run, "staff": authentic.staff(), "key": order.key,
                    "action": order.action.word(), "machine": order.machine, "customer": order.customer,
                });
                self.note("order_refused", &body)
            }
            NotAuthentic::Stranger(_) => {
                self.strangers.count += 1;
                let due = self.strangers.noted_at.is_none_or(|at| at.elapsed() >= STRANGER_NOTE_EVERY);
                if due {
                    self.strangers.noted_at = Some(std::time::Instant::now());
                    let body = json!({"code": refusal.code(), "count": std::mem::take(&mut self.strangers.count)});
                    self.note("strangers_refused", &body)
                } else {
                    Ok(())
                }
            }
        };
        if let Err(error) = noted {
            warn!(%error, "a refusal could not be noted");
        }
        info!(code = refusal.code(), "order turned away");
        self.say(ToUplink::Delivered(ticket, Delivered::Refused(refusal)));
    }

    fn refuse_unrecorded(&self, ticket: Ticket, error: &BooksError) {
        let refusal = match error {
            BooksError::Full => Refusal::LedgerFull,
            BooksError::Open(..) | BooksError::Write(_) | BooksError::Damaged(_) => Refusal::NoJournal,
        };
        warn!(%error, code = refusal.code(), "order refused: the books cannot be kept");
        self.say(ToUplink::Delivered(ticket, Delivered::Refused(refusal)));
    }

    fn note(&mut self, kind: &str, body: &serde_json::Value) -> Result<(), BooksError> {
        self.books.write(clocks::moment(self.boot), |page| page.line(kind, body).map(drop))
    }

    /// A run id that is in the ledger already: told again, never done again.
    fn answer_again(&mut self, ticket: Ticket, run: RunId, authentic: &Authentic, record: RunRecord) {
        if fernwart_certs::sha256(record.order.bytes.as_bytes()) != authentic.hash() {
            let no = NotAuthentic::Staff(Refusal::Replayed, Box::new(authentic.clone()));
            return self.turn_away(ticket, &no);
        }
        match settlement(&self.books, run, record) {
            Some(settle) => self.say(ToUplink::Delivered(ticket, Delivered::Outcome(Box::new(settle)))),
            None => {
                self.waiting.entry(run).or_default().push(ticket);
                self.say(ToUplink::Delivered(ticket, Delivered::State(RunState::Started)));
            }
        }
    }

    /// Books first, then the effect.
    fn begin(&mut self, ticket: Ticket, envelope: Envelope, permit: Permit, policy: Digest) -> Result<(), BooksError> {
        let order = permit.authentic().order().clone();
        let body = json!({
            "run": order.run, "staff": permit.authentic().staff(), "key": order.key, "action": order.action,
            "reason": order.reason, "permitted_by": permit.rule().0,
        });
        let record = RunRecord {
            order: envelope,
            phase: Phase::Started,
            received_at: crate::now(),
            not_after: order.not_after,
            receipt: None,
            countersigned: None,
        };
        let floor = match self.clock() {
            Clock::Plausible(now) => self.floor().max(order.not_before.min(now)),
            Clock::Implausible { .. } => self.floor(),
        };
        self.books.write(clocks::moment(self.boot), |page| {
            page.raise_time_floor(floor)?;
            if !page.has_room()? {
                return Err(BooksError::Full);
            }
            page.run(&order.run, &record)?;
            page.line("run_started", &body).map(drop)
        })?;
        self.under_way.insert(order.run, (permit.rule(), policy));
        self.waiting.entry(order.run).or_default().push(ticket);
        self.say(ToUplink::Delivered(ticket, Delivered::State(RunState::Started)));
        match permit.spend() {
            Permitted::Diagnose(sections) => {
                self.to_look.push_back((order.run, sections));
                self.look_on();
                Ok(())
            }
            Permitted::Nothing => {
                let proof = Proof::refused(order, record.order, crate::now());
                self.settle(proof, None)
            }
        }
    }

    fn surroundings(&self) -> Surroundings {
        let now = crate::now();
        let skew = i64::try_from(CLOCK_SKEW.as_millis()).unwrap_or(i64::MAX);
        let behind = self.floor().saturating_sub(now);
        Surroundings {
            hub_reachable: Some(self.linked.is_some()),
            hub_rtt_us: self.linked.map(|linked| linked.rtt_us),
            ahead_of_hub_ms: self.linked.map(|linked| linked.hub_ahead_ms.saturating_neg()),
            behind_floor_ms: if behind > skew { behind } else { 0 },
        }
    }

    fn look_on(&mut self) {
        while self.looking < LOOKS {
            let Some((run, sections)) = self.to_look.pop_front() else { return };
            self.looking += 1;
            let (events, surroundings, started_at) = (self.events.clone(), self.surroundings(), crate::now());
            let look = move || {
                let report = collect::look(&sections, &surroundings);
                // Fails only once the executor has stopped.
                let _ = events.blocking_send(Event::Looked(run, Box::new(report), started_at));
            };
            if let Err(error) = std::thread::Builder::new().name("look".into()).stack_size(512 * 1024).spawn(look) {
                warn!(%error, "no thread to look with");
                self.looking -= 1;
                let report = collect::unable(&error.to_string());
                self.handle_looked(run, report, started_at);
            }
        }
    }

    fn handle_looked(&mut self, run: RunId, report: Report, started_at: UnixMs) {
        self.looking = self.looking.saturating_sub(1);
        let finished = self.books.run(&run).and_then(|record| {
            let record = record.ok_or(BooksError::Damaged("runs"))?;
            let order = fernwart_protocol::document::Document::from_bytes(record.order.bytes.as_bytes())
                .map_err(|_| BooksError::Damaged("runs"))?;
            let packed = report.pack();
            let outcome = if packed.is_ok() { Outcome::Ok } else { Outcome::Failed };
            let permitted = self.under_way.get(&run).copied();
            let proof = Proof { outcome, permitted, ..Proof::refused(order, record.order, started_at) };
            self.settle(proof, packed.ok())
        });
        if let Err(error) = finished {
            warn!(%run, %error, "an outcome could not be written; it will be told as interrupted");
            self.under_way.remove(&run);
            for ticket in self.waiting.remove(&run).unwrap_or_default() {
                self.refuse_unrecorded(ticket, &error);
            }
        }
        self.look_on();
    }

    /// Writes a run's one outcome and its receipt, then tells who waits.
    fn settle(&mut self, proof: Proof, report: Option<Vec<u8>>) -> Result<(), BooksError> {
        let run = proof.order.run;
        let policy = self.policy();
        let (versions, evidence) = (self.catalogue.versions, &self.evidence);
        let moment = clocks::moment(self.boot);
        let record = self.books.write(moment, |page| {
            let record = proof.write(page, report.as_deref(), &policy, versions, evidence, moment)?;
            page.run(&run, &record)?;
            if let Some(report) = &report {
                page.report(&run, report)?;
            }
            Ok(record)
        })?;
        let settle = record.receipt.map(|receipt| Settle {
            order: record.order,
            receipt,
            body: report.and_then(|report| Blob::try_from(report).ok()).unwrap_or_default(),
        });
        self.under_way.remove(&run);
        if let Some(settle) = settle {
            let tickets = self.waiting.remove(&run).unwrap_or_default();
            if tickets.is_empty() && self.linked.is_some() {
                self.say(ToUplink::Settle(settle));
                return Ok(());
            }
            for ticket in tickets {
                self.say(ToUplink::Delivered(ticket, Delivered::Outcome(Box::new(settle.clone()))));
            }
        }
        Ok(())
    }

    /// Every outcome that no hub has acknowledged, oldest first.
    fn resettle(&mut self) {
        if let Err(error) = self.wake() {
            return warn!(reason = chain(&error), "runs that were cut short cannot be settled yet");
        }
        let finished = match self.books.runs_in(Phase::Finished) {
            Ok(finished) => finished,
            Err(error) => return warn!(%error, "unacknowledged outcomes cannot be read"),
        };
        for (run, record) in finished {
            if let Some(settle) = settlement(&self.books, run, record) {
                self.say(ToUplink::Settle(settle));
            }
        }
    }

    fn handle_stored(&mut self, run: RunId, envelope: Envelope) {
        let Ok(Some(record)) = self.books.run(&run) else { return };
        let Some(receipt) = &record.receipt else { return };
        let key = self.catalogue.hub.evidence_key(&envelope.key);
        let said: Option<Countersignature> = key.and_then(|key| fernwart_certs::envelope::open(&envelope, key).ok());
        let fits = |said: &Countersignature| {
            said.run == run
                && said.machine == self.enrollment.machine
                && said.receipt == fernwart_certs::sha256(receipt.bytes.as_bytes())
        };
        let Some(said) = said.filter(fits) else {
            return warn!(%run, "the hub's countersignature does not fit; the outcome is kept");
        };
        let record = RunRecord { phase: Phase::Acknowledged, countersigned: Some(envelope), ..record };
        let newest = self.books.hub_chain().map(|(seq, _)| seq).unwrap_or_default();
        let fell = json!({"run": run, "hub_had": newest, "hub_has": said.chain_seq});
        let written = self.books.write(clocks::moment(self.boot), |page| {
            page.run(&run, &record)?;
            page.drop_report(&run)?;
            if said.chain_seq > newest {
                page.hub_chain(said.chain_seq, &said.chain_head)
            } else {
                page.line("hub_fell_back", &fell).map(drop)
            }
        });
        if let Err(error) = written {
            warn!(%run, %error, "an acknowledgement could not be written; the outcome will be sent again");
        }
    }

    fn handle_lock(&mut self, envelope: &Envelope) {
        match fernwart_certs::lock::believe(envelope, &self.catalogue) {
            Ok(lock) => {
                let body = json!({"locked": lock.locked, "key": lock.key, "reason": lock.reason});
                let known = self.books.locks().is_ok_and(|locks| locks.contains(envelope) || locks.len() >= LOCKS);
                let kept = known
                    || self
                        .books
                        .write(clocks::moment(self.boot), |page| {
                            page.lock(envelope)?;
                            page.line("locked", &body).map(drop)
                        })
                        .inspect_err(|error| warn!(%error, "a lock could not be written; it holds until a restart"))
                        .is_ok();
                if kept && !known {
                    info!(key = %lock.key, "a lock came");
                }
                self.locks.add(&lock, self.enrollment.machine);
            }
            Err(refusal) => warn!(code = refusal.code(), "a lock was not believed"),
        }
    }

    /// A cancel reaches what has not begun; a look that is under way ends by
    /// itself within seconds.
    fn handle_cancel(&mut self, envelope: &Envelope) {
        let Some(entry) = self.catalogue.staff.find(&envelope.key) else { return };
        let may = entry.until >= crate::now() && entry.customers.include(&self.enrollment.customer);
        if !may || self.locks.holds(&envelope.key) {
            return;
        }
        let Ok(cancel) = fernwart_certs::envelope::open::<Cancel>(envelope, &entry.order_key) else { return };
        if cancel.machine != self.enrollment.machine {
            return;
        }
        let Some(at) = self.to_look.iter().position(|(run, _)| *run == cancel.run) else { return };
        self.to_look.remove(at);
        let Ok(Some(record)) = self.books.run(&cancel.run) else { return };
        let order = fernwart_protocol::document::Document::from_bytes(record.order.bytes.as_bytes());
        let Ok(order) = order else { return };
        let proof = Proof { outcome: Outcome::Cancelled, ..Proof::refused(order, record.order, crate::now()) };
        if let Err(error) = self.settle(proof, None) {
            warn!(run = %cancel.run, %error, "a cancel could not be written");
        }
    }

    fn handle_catalogue(&mut self, offered: Vec<CatalogueFile>) {
        let mut files = Files::default();
        for file in offered {
            files.insert(file.name.as_raw(), file.bytes.into_bytes());
        }
        let runtime = tokio::runtime::Builder::new_current_thread().build();
        let advanced = match runtime {
            Ok(runtime) => runtime.block_on(catalogue::advance(&self.trusted, &files)),
            Err(error) => return warn!(%error, "no runtime to verify a catalogue with"),
        };
        match advanced {
            Ok((trusted, _)) if trusted == self.trusted => {}
            Ok((trusted, catalogue)) => {
                let body = json!({"versions": catalogue.versions});
                // New timestamps come daily and change nothing; only what people
                // signed is worth a line.
                let news = catalogue.versions.targets != self.catalogue.versions.targets
                    || catalogue.versions.root != self.catalogue.versions.root;
                let written = self.books.write(clocks::moment(self.boot), |page| {
                    page.follow(&trusted)?;
                    if news { page.line("catalogue_followed", &body).map(drop) } else { Ok(()) }
                });
                if let Err(error) = written {
                    return warn!(%error, "a newer catalogue could not be written; the old one stays");
                }
                info!(targets = catalogue.versions.targets, "following a newer catalogue");
                self.trusted = trusted;
                self.catalogue = catalogue;
                self.say(ToUplink::Dial(self.dial()));
            }
            Err(error) => {
                let reason = chain(&error);
                warn!(reason, "an offered catalogue was not believed");
                if self.doubted_at.is_none_or(|at| at.elapsed() >= DOUBT_EVERY) {
                    self.doubted_at = Some(std::time::Instant::now());
                    if let Err(error) = self.note("catalogue_refused", &json!({"reason": reason})) {
                        warn!(%error, "that could not be noted");
                    }
                }
                self.say(ToUplink::CatalogueRefused(Refusal::BadSignature));
            }
        }
    }

    fn handle_claim(&self, binding: &[u8; 32], tls_key: Vec<u8>) {
        let Ok(tls_key) = Blob::try_from(tls_key) else { return };
        let claim = Claim { machine: self.enrollment.machine, tls_key, signature: fernwart_certs::join::unsigned() };
        let claim = fernwart_certs::join::prove_claim(claim, binding, &self.evidence);
        self.say(ToUplink::Claim(claim.signature));
    }

    fn answer(&self, question: local::Question) -> local::Answer {
        match question {
            local::Question::Status => local::Answer::Status(Box::new(self.status())),
            local::Question::Journal { from } => match self.books.journal(from, local::JOURNAL_PAGE) {
                Ok(lines) => local::Answer::Journal(lines),
                Err(error) => local::Answer::Failed(chain(&error)),
            },
            local::Question::JournalHead => {
                match proof::journal_end(self.enrollment.machine, &self.books, &self.evidence, crate::now()) {
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
            rtt_us: self.linked.map(|linked| linked.rtt_us),
            shop: self.catalogue.shop.clone(),
            look: policy.look(),
            act: policy.act(),
            policy_readable: policy.is_readable(),
            catalogue_until: self.catalogue.expiries.earliest(),
            last: local::last_run(&self.books),
        }
    }
}

fn settlement(books: &Books, run: RunId, record: RunRecord) -> Option<Settle> {
    let body = books.report(&run).ok().flatten().unwrap_or_default();
    Some(Settle { order: record.order, receipt: record.receipt?, body: Blob::try_from(body).unwrap_or_default() })
}

/// The journal of an agent that is not running, and its signed end.
///
/// # Errors
/// When keys or books cannot be used.
pub fn journal_at_rest(home: &Home, machine: MachineId) -> Result<Vec<fernwart_certs::journal::Line>, ExecutorError> {
    let evidence = SigningKey::read(&home.evidence_key()).map_err(ExecutorError::Key)?;
    let books = Books::open(&home.books()).map_err(ExecutorError::Books)?;
    let mut lines = books.journal(1, usize::MAX).map_err(ExecutorError::Books)?;
    lines.push(proof::journal_end(machine, &books, &evidence, crate::now()).map_err(ExecutorError::Books)?);
    Ok(lines)
}
