//! The books: journal, ledger, catalogue and floors in one durable file.
//!
//! One transaction carries a run's record and the journal line about it, so
//! that neither can be there without the other. What returns from
//! [`Books::write`] is on disk.

use super::reserve::ReservedFile;
use fernwart_certs::catalogue::{Floors, Trusted};
use fernwart_certs::journal::{Entry, Line, entry_hash};
use fernwart_certs::sha256;
use fernwart_protocol::codec;
use fernwart_protocol::document::{Envelope, UnixMs};
use fernwart_protocol::id::{BootId, Digest, KeyId, RunId};
use fernwart_protocol::limits::{LEDGER_RUNS, SPOOL_BYTES};
use fernwart_protocol::text::Text;
use redb::{Database, ReadableDatabase, ReadableTable, ReadableTableMetadata, TableDefinition, WriteTransaction};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

const RUNS: TableDefinition<'_, [u8; 16], &[u8]> = TableDefinition::new("runs");
const REPORTS: TableDefinition<'_, [u8; 16], &[u8]> = TableDefinition::new("reports");
const JOURNAL: TableDefinition<'_, u64, &str> = TableDefinition::new("journal");
const BODIES: TableDefinition<'_, u64, &str> = TableDefinition::new("bodies");
const FILES: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("catalogue");
const LOCKS: TableDefinition<'_, [u8; 32], &[u8]> = TableDefinition::new("locks");
const MARKS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("marks");

const FLOORS: &str = "floors";
const TIME_FLOOR: &str = "time floor";
const CHAIN: &str = "hub chain";
const HUB_KEY: &str = "hub key";
const ORDERS_SINCE: &str = "orders since";
const ACTS: &str = "acts";
const TAKEN_BACK: &str = "taken back";
const QUESTIONS: &str = "questions";

/// Acts whose beginnings are kept at most, for the bound per day.
const ACTS_KEPT: usize = 4096;

/// Cached pages, bytes: the books are small and seldom read.
const CACHE_BYTES: usize = 256 * 1024;

/// The books cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum BooksError {
    /// The file cannot be opened; another agent may have it.
    #[error("opening the books at {0}")]
    Open(String, #[source] Box<dyn std::error::Error + Send + Sync>),
    /// The disk does not take or give what it should.
    #[error("writing in the books")]
    Write(#[source] Box<redb::Error>),
    /// The ledger takes no further run.
    #[error("the ledger holds {LEDGER_RUNS} runs already")]
    Full,
    /// What stands there cannot be read.
    #[error("reading the books: {0} is damaged")]
    Damaged(&'static str),
}

fn failed<E: Into<redb::Error>>(error: E) -> BooksError {
    BooksError::Write(Box::new(error.into()))
}

/// How far a run has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Phase {
    /// The effect may have begun.
    Started,
    /// There is an outcome.
    Finished,
    /// The hub has stored the outcome.
    Acknowledged,
    /// It has not begun: something has to come first.
    Waiting,
}

/// What the ledger keeps of a run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunRecord {
    /// The order as it came.
    pub order: Envelope,
    /// How far it has come.
    pub phase: Phase,
    /// When it came.
    pub received_at: UnixMs,
    /// Until when a copy of the order could be valid.
    pub not_after: UnixMs,
    /// The signed outcome.
    pub receipt: Option<Envelope>,
    /// The hub's signature for it.
    pub countersigned: Option<Envelope>,
}

/// Where the journal stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct JournalHead {
    /// The newest entry.
    pub seq: u64,
    /// Its hash.
    pub hash: Digest,
}

/// When an entry is written: read by the caller, who owns the clocks.
#[derive(Debug, Clone, Copy)]
pub struct Moment {
    /// The machine's clock.
    pub now: UnixMs,
    /// Milliseconds since start.
    pub since_boot_ms: u64,
    /// The boot.
    pub boot: BootId,
}

/// The books.
#[derive(Debug)]
pub struct Books {
    /// None only between a failure of the disk and the next try.
    database: Option<Database>,
    path: PathBuf,
    head: JournalHead,
    floors: TimeFloors,
}

/// What is known of time; held in memory, so that a disk that fails makes no
/// old order new.
#[derive(Debug, Clone, Copy, Default)]
struct TimeFloors {
    /// The newest time any believed order was made; 0 before the first.
    time: UnixMs,
    /// When the owner last vouched for the clock; 0 if never.
    orders_since: UnixMs,
}

impl Books {
    /// Opens the books, or begins them.
    ///
    /// # Errors
    /// When the file cannot be had, or is in use by another agent.
    pub fn open(path: &Path) -> Result<Self, BooksError> {
        let database = open_database(path)?;
        let transaction = database.begin_write().map_err(failed)?;
        let head = {
            transaction.open_table(RUNS).map_err(failed)?;
            transaction.open_table(REPORTS).map_err(failed)?;
            transaction.open_table(BODIES).map_err(failed)?;
            transaction.open_table(FILES).map_err(failed)?;
            transaction.open_table(LOCKS).map_err(failed)?;
            transaction.open_table(MARKS).map_err(failed)?;
            let journal = transaction.open_table(JOURNAL).map_err(failed)?;
            let last = journal.last().map_err(failed)?;
            last.map(|(seq, line)| JournalHead { seq: seq.value(), hash: entry_hash(line.value()) })
        };
        transaction.commit().map_err(failed)?;
        let head = head.unwrap_or(JournalHead { seq: 0, hash: Digest::from_bytes([0; 32]) });
        let floors = TimeFloors::default();
        let mut books = Self { database: Some(database), path: path.to_owned(), head, floors };
        books.floors.time = books.mark(TIME_FLOOR)?.unwrap_or_default();
        books.floors.orders_since = books.mark(ORDERS_SINCE)?.unwrap_or_default();
        Ok(books)
    }

    /// Opens them once more, if a failure of the disk has closed them: it may
    /// be well by now.
    pub fn mend(&mut self) {
        if self.database.is_none() {
            self.database = open_database(&self.path).ok();
        }
    }

    /// Where the journal stands.
    pub fn head(&self) -> JournalHead {
        self.head
    }

    /// Writes on one page, all or nothing; on disk when this returns.
    ///
    /// # Errors
    /// When the disk does not take it, or `fill` says so; then nothing of it
    /// stands in the books.
    pub fn write<T>(
        &mut self,
        moment: Moment,
        fill: impl FnOnce(&mut Page<'_>) -> Result<T, BooksError>,
    ) -> Result<T, BooksError> {
        let written = self.try_write(moment, fill);
        if let Err(BooksError::Write(_)) = &written {
            // redb takes nothing more after a failure of the disk, even once
            // the disk is well again; a fresh start does.
            self.database = None;
            self.database = open_database(&self.path).ok();
        }
        written
    }

    fn try_write<T>(
        &mut self,
        moment: Moment,
        fill: impl FnOnce(&mut Page<'_>) -> Result<T, BooksError>,
    ) -> Result<T, BooksError> {
        if self.database.is_none() {
            self.database = Some(open_database(&self.path)?);
        }
        let transaction = self.opened()?.begin_write().map_err(failed)?;
        let mut page = Page { transaction: &transaction, head: self.head, floors: self.floors, moment };
        let value = fill(&mut page)?;
        let (head, floors) = (page.head, page.floors);
        transaction.commit().map_err(failed)?;
        (self.head, self.floors) = (head, floors);
        Ok(value)
    }

    fn opened(&self) -> Result<&Database, BooksError> {
        self.database.as_ref().ok_or(BooksError::Damaged("file"))
    }

    fn mark<T: serde::de::DeserializeOwned>(&self, name: &'static str) -> Result<Option<T>, BooksError> {
        let read = self.opened()?.begin_read().map_err(failed)?;
        let marks = read.open_table(MARKS).map_err(failed)?;
        let Some(bytes) = marks.get(name).map_err(failed)? else { return Ok(None) };
        codec::decode(bytes.value()).map(Some).map_err(|_| BooksError::Damaged(name))
    }

    /// The catalogue this machine trusts, if it has joined.
    ///
    /// # Errors
    /// When the books are damaged.
    pub fn trusted(&self) -> Result<Option<Trusted>, BooksError> {
        let Some(floors) = self.mark::<Floors>(FLOORS)? else { return Ok(None) };
        let read = self.opened()?.begin_read().map_err(failed)?;
        let mut files = BTreeMap::new();
        for row in read.open_table(FILES).map_err(failed)?.iter().map_err(failed)? {
            let (name, bytes) = row.map_err(failed)?;
            files.insert(name.value().to_owned(), bytes.value().to_vec());
        }
        Ok(Some(Trusted { floors, files }))
    }

    /// The newest time any believed order was made; 0 before the first.
    pub fn time_floor(&self) -> UnixMs {
        self.floors.time
    }

    /// When the owner last vouched for the clock; 0 if never.
    pub fn orders_since(&self) -> UnixMs {
        self.floors.orders_since
    }

    /// The number of the last question to the owner.
    ///
    /// # Errors
    /// When the books are damaged.
    pub fn questions(&self) -> Result<u32, BooksError> {
        Ok(self.mark(QUESTIONS)?.unwrap_or_default())
    }

    /// When the acts of the last day began, for as long as anybody asks; they
    /// are kept apart from the runs, which are forgotten earlier.
    ///
    /// # Errors
    /// When the books are damaged.
    pub fn acts(&self) -> Result<Vec<UnixMs>, BooksError> {
        Ok(self.mark(ACTS)?.unwrap_or_default())
    }

    /// Runs that were taken back before their orders came, the newest first.
    ///
    /// # Errors
    /// When the books are damaged.
    pub fn taken_back(&self) -> Result<Vec<RunId>, BooksError> {
        Ok(self.mark(TAKEN_BACK)?.unwrap_or_default())
    }

    /// Position and head of the hub's chain in the newest countersignature.
    ///
    /// # Errors
    /// When the books are damaged.
    pub fn hub_chain(&self) -> Result<(u64, Digest), BooksError> {
        Ok(self.mark(CHAIN)?.unwrap_or((0, Digest::from_bytes([0; 32]))))
    }

    /// The hub's evidence key that signed for an outcome last; none yet.
    ///
    /// # Errors
    /// When the books are damaged.
    pub fn hub_key(&self) -> Result<Option<KeyId>, BooksError> {
        self.mark(HUB_KEY)
    }

    /// One run's record.
    ///
    /// # Errors
    /// When the books are damaged.
    pub fn run(&self, id: &RunId) -> Result<Option<RunRecord>, BooksError> {
        let read = self.opened()?.begin_read().map_err(failed)?;
        let runs = read.open_table(RUNS).map_err(failed)?;
        let Some(bytes) = runs.get(id.as_bytes()).map_err(failed)? else { return Ok(None) };
        codec::decode(bytes.value()).map(Some).map_err(|_| BooksError::Damaged("runs"))
    }

    /// How many runs the ledger holds.
    ///
    /// # Errors
    /// When the books are damaged.
    pub fn run_count(&self) -> Result<u64, BooksError> {
        let read = self.opened()?.begin_read().map_err(failed)?;
        read.open_table(RUNS).map_err(failed)?.len().map_err(failed)
    }

    /// Runs in this phase, oldest first.
    ///
    /// # Errors
    /// When the books are damaged.
    pub fn runs_in(&self, phase: Phase) -> Result<Vec<(RunId, RunRecord)>, BooksError> {
        let read = self.opened()?.begin_read().map_err(failed)?;
        let mut found = Vec::new();
        for row in read.open_table(RUNS).map_err(failed)?.iter().map_err(failed)? {
            let (id, bytes) = row.map_err(failed)?;
            let record: RunRecord = codec::decode(bytes.value()).map_err(|_| BooksError::Damaged("runs"))?;
            if record.phase == phase {
                found.push((RunId::from_bytes(id.value()), record));
            }
        }
        found.sort_by_key(|(_, record)| record.received_at);
        Ok(found)
    }

    /// The report of a run that the hub has not stored yet.
    ///
    /// # Errors
    /// When the books are damaged.
    pub fn report(&self, id: &RunId) -> Result<Option<Vec<u8>>, BooksError> {
        let read = self.opened()?.begin_read().map_err(failed)?;
        let reports = read.open_table(REPORTS).map_err(failed)?;
        let report = reports.get(id.as_bytes()).map_err(failed)?;
        Ok(report.map(|bytes| bytes.value().to_vec()))
    }

    /// All locks.
    ///
    /// # Errors
    /// When the books are damaged.
    pub fn locks(&self) -> Result<Vec<Envelope>, BooksError> {
        let read = self.opened()?.begin_read().map_err(failed)?;
        let mut locks = Vec::new();
        for row in read.open_table(LOCKS).map_err(failed)?.iter().map_err(failed)? {
            let (_, bytes) = row.map_err(failed)?;
            locks.push(codec::decode(bytes.value()).map_err(|_| BooksError::Damaged("locks"))?);
        }
        Ok(locks)
    }

    /// The hash of one entry of the journal, if there is one of this number.
    ///
    /// # Errors
    /// When the books are damaged.
    pub fn entry(&self, seq: u64) -> Result<Option<Digest>, BooksError> {
        let read = self.opened()?.begin_read().map_err(failed)?;
        let line = read.open_table(JOURNAL).map_err(failed)?.get(seq).map_err(failed)?;
        Ok(line.map(|line| entry_hash(line.value())))
    }

    /// The journal from an entry on, at most `count` entries, as exported.
    ///
    /// # Errors
    /// When the books are damaged.
    pub fn journal(&self, from: u64, count: usize) -> Result<Vec<Line>, BooksError> {
        let read = self.opened()?.begin_read().map_err(failed)?;
        let bodies = read.open_table(BODIES).map_err(failed)?;
        let mut lines = Vec::new();
        for row in read.open_table(JOURNAL).map_err(failed)?.range(from..).map_err(failed)?.take(count) {
            let (seq, line) = row.map_err(failed)?;
            let body = bodies.get(seq.value()).map_err(failed)?.map(|body| body.value().to_owned());
            lines.push(Line::Entry { v: 1, line: line.value().to_owned(), body });
        }
        Ok(lines)
    }
}

fn open_database(path: &Path) -> Result<Database, BooksError> {
    let name = path.display().to_string();
    let file = ReservedFile::open(path).map_err(|error| BooksError::Open(name.clone(), Box::new(error)))?;
    let builder = redb::Builder::new().set_cache_size(CACHE_BYTES).create_with_backend(file);
    builder.map_err(|error| BooksError::Open(name, Box::new(error)))
}

/// One transaction being filled.
pub struct Page<'a> {
    transaction: &'a WriteTransaction,
    head: JournalHead,
    floors: TimeFloors,
    moment: Moment,
}

impl Page<'_> {
    /// Writes the next line of the journal.
    ///
    /// # Errors
    /// When the disk does not take it.
    pub fn line<T: Serialize>(&mut self, kind: &str, body: &T) -> Result<JournalHead, BooksError> {
        let damaged = |_| BooksError::Damaged("journal");
        let body = serde_json::to_string(body).map_err(damaged)?;
        let seq = self.head.seq + 1;
        let entry = Entry {
            seq,
            previous: self.head.hash,
            kind: Text::clipped(kind),
            at: self.moment.now,
            since_boot_ms: self.moment.since_boot_ms,
            boot: self.moment.boot,
            body: sha256(body.as_bytes()),
        };
        let line = serde_json::to_string(&entry).map_err(damaged)?;
        self.transaction.open_table(JOURNAL).map_err(failed)?.insert(seq, line.as_str()).map_err(failed)?;
        self.transaction.open_table(BODIES).map_err(failed)?.insert(seq, body.as_str()).map_err(failed)?;
        self.head = JournalHead { seq, hash: entry_hash(&line) };
        Ok(self.head)
    }

    fn mark<T: Serialize>(&mut self, name: &'static str, value: &T) -> Result<(), BooksError> {
        let bytes = codec::encode(value).map_err(|_| BooksError::Damaged(name))?;
        self.transaction.open_table(MARKS).map_err(failed)?.insert(name, bytes.as_slice()).map_err(failed)?;
        Ok(())
    }

    fn marked<T: serde::de::DeserializeOwned>(&self, name: &'static str) -> Result<Option<T>, BooksError> {
        let marks = self.transaction.open_table(MARKS).map_err(failed)?;
        let Some(bytes) = marks.get(name).map_err(failed)? else { return Ok(None) };
        codec::decode(bytes.value()).map(Some).map_err(|_| BooksError::Damaged(name))
    }

    /// Notes which of the hub's keys has signed for an outcome.
    ///
    /// # Errors
    /// When the disk does not take it.
    pub fn hub_key(&mut self, key: &KeyId) -> Result<(), BooksError> {
        self.mark(HUB_KEY, key)
    }

    /// Follows a catalogue from now on.
    ///
    /// # Errors
    /// When the disk does not take it.
    pub fn follow(&mut self, trusted: &Trusted) -> Result<(), BooksError> {
        self.mark(FLOORS, &trusted.floors)?;
        let mut files = self.transaction.open_table(FILES).map_err(failed)?;
        files.retain(|name, _| trusted.files.contains_key(name)).map_err(failed)?;
        for (name, bytes) in &trusted.files {
            files.insert(name.as_str(), bytes.as_slice()).map_err(failed)?;
        }
        Ok(())
    }

    /// Lifts the time floor; forgets acknowledged runs whose orders can no
    /// longer be valid.
    ///
    /// # Errors
    /// When the disk does not take it.
    pub fn raise_time_floor(&mut self, floor: UnixMs) -> Result<(), BooksError> {
        let floor = floor.max(self.floors.time);
        self.mark(TIME_FLOOR, &floor)?;
        self.floors.time = floor;
        let mut runs = self.transaction.open_table(RUNS).map_err(failed)?;
        runs.retain(|_, bytes| match codec::decode::<RunRecord>(bytes) {
            Ok(record) => record.phase != Phase::Acknowledged || record.not_after >= floor,
            Err(_) => true,
        })
        .map_err(failed)?;
        Ok(())
    }

    /// Takes the clock's word against a floor that was wrong. What the ledger
    /// has forgotten under that floor must not come again, so older orders are
    /// not followed any more.
    ///
    /// # Errors
    /// When the disk does not take it.
    pub fn trust_clock(&mut self, now: UnixMs) -> Result<(), BooksError> {
        self.mark(TIME_FLOOR, &now)?;
        self.mark(ORDERS_SINCE, &now)?;
        self.floors = TimeFloors { time: now, orders_since: now };
        Ok(())
    }

    /// Notes the number of a question to the owner: none is used twice, for a
    /// yes that comes late must not reach another.
    ///
    /// # Errors
    /// When the disk does not take it.
    pub fn question(&mut self, number: u32) -> Result<(), BooksError> {
        self.mark(QUESTIONS, &number)
    }

    /// Acts that began in a future which the clock has left again began now.
    ///
    /// # Errors
    /// When the disk does not take it.
    pub fn acts_until_now(&mut self) -> Result<(), BooksError> {
        let mut acts: Vec<UnixMs> = self.marked(ACTS)?.unwrap_or_default();
        acts.iter_mut().for_each(|at| *at = (*at).min(self.moment.now));
        self.mark(ACTS, &acts)
    }

    /// Notes that an act begins now, and forgets those that began before `since`.
    ///
    /// # Errors
    /// When the disk does not take it, or the books are damaged.
    pub fn act_begins(&mut self, since: UnixMs) -> Result<(), BooksError> {
        let mut acts: Vec<UnixMs> = self.marked(ACTS)?.unwrap_or_default();
        acts.retain(|at| *at >= since);
        acts.push(self.moment.now);
        let over = acts.len().saturating_sub(ACTS_KEPT);
        acts.drain(..over);
        self.mark(ACTS, &acts)
    }

    /// Keeps which runs were taken back before their orders came.
    ///
    /// # Errors
    /// When the disk does not take it.
    pub fn take_back(&mut self, runs: &[RunId]) -> Result<(), BooksError> {
        self.mark(TAKEN_BACK, &runs)
    }

    /// Notes how far the hub's chain has come.
    ///
    /// # Errors
    /// When the disk does not take it.
    pub fn hub_chain(&mut self, seq: u64, head: &Digest) -> Result<(), BooksError> {
        self.mark(CHAIN, &(seq, head))
    }

    /// Writes a run's record. A new run needs room in the ledger.
    ///
    /// # Errors
    /// When the disk does not take it.
    pub fn run(&mut self, id: &RunId, record: &RunRecord) -> Result<(), BooksError> {
        let bytes = codec::encode(record).map_err(|_| BooksError::Damaged("runs"))?;
        let mut runs = self.transaction.open_table(RUNS).map_err(failed)?;
        runs.insert(id.as_bytes(), bytes.as_slice()).map_err(failed)?;
        Ok(())
    }

    /// Makes sure that the ledger has a place for this run: its own, or one more.
    ///
    /// # Errors
    /// When it is full, or the books are damaged.
    pub fn place_for(&mut self, id: &RunId) -> Result<(), BooksError> {
        let runs = self.transaction.open_table(RUNS).map_err(failed)?;
        let known = runs.get(id.as_bytes()).map_err(failed)?.is_some();
        if known || runs.len().map_err(failed)? < LEDGER_RUNS as u64 { Ok(()) } else { Err(BooksError::Full) }
    }

    /// Keeps a report until the hub has it. Where the spool is full, the
    /// oldest reports go first; outcomes never do.
    ///
    /// # Errors
    /// When the disk does not take it.
    pub fn report(&mut self, id: &RunId, report: &[u8]) -> Result<(), BooksError> {
        let mut reports = self.transaction.open_table(REPORTS).map_err(failed)?;
        reports.insert(id.as_bytes(), report).map_err(failed)?;
        let runs = self.transaction.open_table(RUNS).map_err(failed)?;
        let mut kept = Vec::new();
        for row in reports.iter().map_err(failed)? {
            let (run, bytes) = row.map_err(failed)?;
            let record = runs.get(run.value()).map_err(failed)?;
            let age = record.and_then(|bytes| codec::decode::<RunRecord>(bytes.value()).ok()).map(|r| r.received_at);
            kept.push((age.unwrap_or_default(), run.value(), bytes.value().len() as u64));
        }
        kept.sort_unstable();
        let mut total: u64 = kept.iter().map(|(_, _, bytes)| bytes).sum();
        for (_, run, bytes) in kept {
            if total <= SPOOL_BYTES {
                break;
            }
            reports.remove(run).map_err(failed)?;
            total -= bytes;
        }
        Ok(())
    }

    /// Lets a report go: the hub has it.
    ///
    /// # Errors
    /// When the disk does not take it.
    pub fn drop_report(&mut self, id: &RunId) -> Result<(), BooksError> {
        self.transaction.open_table(REPORTS).map_err(failed)?.remove(id.as_bytes()).map_err(failed)?;
        Ok(())
    }

    /// Keeps a lock.
    ///
    /// # Errors
    /// When the disk does not take it.
    pub fn lock(&mut self, envelope: &Envelope) -> Result<(), BooksError> {
        let bytes = codec::encode(envelope).map_err(|_| BooksError::Damaged("locks"))?;
        let key = *sha256(envelope.bytes.as_bytes()).as_bytes();
        self.transaction.open_table(LOCKS).map_err(failed)?.insert(key, bytes.as_slice()).map_err(failed)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fernwart_protocol::id::Signature;
    use fernwart_protocol::text::Blob;

    fn moment(now: UnixMs) -> Moment {
        Moment { now, since_boot_ms: 1, boot: BootId::from_bytes([9; 16]) }
    }

    fn record(received_at: UnixMs, phase: Phase) -> RunRecord {
        let order = Envelope {
            key: KeyId::from_bytes([1; 16]),
            signature: Signature::from_bytes([0; 64]),
            bytes: Blob::default(),
        };
        RunRecord { order, phase, received_at, not_after: received_at + 10, receipt: None, countersigned: None }
    }

    #[test]
    fn what_was_written_is_there_after_reopening_and_the_chain_goes_on() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("books.redb");
        let id = RunId::from_bytes([3; 16]);
        let head = {
            let mut books = Books::open(&path).expect("opened");
            books
                .write(moment(5), |page| {
                    page.run(&id, &record(5, Phase::Started))?;
                    page.line("run_started", &"a")
                })
                .expect("written")
        };
        let mut books = Books::open(&path).expect("reopened");
        assert_eq!(books.head(), head);
        assert_eq!(books.run(&id).expect("read"), Some(record(5, Phase::Started)));
        books.write(moment(6), |page| page.line("run_finished", &"b")).expect("written");
        let lines = books.journal(1, 10).expect("read");
        assert_eq!(lines.len(), 2);
    }

    #[test]
    fn a_page_that_fails_leaves_no_trace() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut books = Books::open(&folder.path().join("books.redb")).expect("opened");
        let result: Result<(), _> = books.write(moment(5), |page| {
            page.line("run_started", &"a")?;
            Err(BooksError::Damaged("a test"))
        });
        assert!(result.is_err());
        assert_eq!(books.head().seq, 0);
        assert!(books.journal(1, 10).expect("read").is_empty());
    }

    #[test]
    fn runs_are_forgotten_only_when_acknowledged_and_below_the_floor() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut books = Books::open(&folder.path().join("books.redb")).expect("opened");
        let ids: Vec<_> = (0..3).map(|n| RunId::from_bytes([n; 16])).collect();
        books
            .write(moment(5), |page| {
                page.run(&ids[0], &record(5, Phase::Acknowledged))?;
                page.run(&ids[1], &record(5, Phase::Finished))?;
                page.run(&ids[2], &record(50, Phase::Acknowledged))?;
                page.raise_time_floor(30)
            })
            .expect("written");
        let there: Vec<_> = ids.iter().map(|id| books.run(id).expect("read").is_some()).collect();
        assert_eq!(there, [false, true, true]);
        assert_eq!(books.time_floor(), 30);
        books.write(moment(6), |page| page.raise_time_floor(20)).expect("written");
        drop(books);
        let books = Books::open(&folder.path().join("books.redb")).expect("reopened");
        assert_eq!(books.time_floor(), 30, "it only rises");
    }

    #[test]
    fn books_that_a_failing_disk_has_closed_are_opened_again() {
        let folder = tempfile::tempdir().expect("a folder");
        let (path, aside) = (folder.path().join("books.redb"), folder.path().join("aside"));
        let mut books = Books::open(&path).expect("opened");
        books.write(moment(5), |page| page.raise_time_floor(30)).expect("written");
        // As after a failed write on a disk that cannot be read either.
        books.database = None;
        std::fs::rename(&path, &aside).expect("moved");
        std::fs::create_dir(&path).expect("made");
        books.mend();
        assert!(books.acts().is_err() && books.write(moment(6), |page| page.act_begins(0)).is_err());
        assert_eq!(books.time_floor(), 30, "no old order is new meanwhile");
        std::fs::remove_dir(&path).expect("removed");
        std::fs::rename(&aside, &path).expect("moved back");
        books.mend();
        assert!(books.acts().expect("read").is_empty());
        books.write(moment(7), |page| page.act_begins(0)).expect("written");
    }

    #[test]
    fn the_acts_of_a_day_are_counted_whatever_the_ledger_forgets() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("books.redb");
        let mut books = Books::open(&path).expect("opened");
        for at in [5, 20, 30] {
            books
                .write(moment(at), |page| {
                    page.run(&RunId::from_bytes([7; 16]), &record(at, Phase::Acknowledged))?;
                    page.act_begins(10)?;
                    page.raise_time_floor(1000)
                })
                .expect("written");
        }
        assert_eq!(books.run_count().expect("read"), 0);
        assert_eq!(books.acts().expect("read"), [20, 30]);
        drop(books);
        let mut books = Books::open(&path).expect("opened");
        assert_eq!(books.acts().expect("read"), [20, 30]);
        // The clock was ahead, and is not any more.
        books.write(moment(25), |page| page.acts_until_now()).expect("written");
        assert_eq!(books.acts().expect("read"), [20, 25]);
    }

    #[test]
    fn a_full_spool_drops_the_oldest_report_and_no_outcome() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut books = Books::open(&folder.path().join("books.redb")).expect("opened");
        let big = vec![7u8; (SPOOL_BYTES / 4) as usize];
        for n in 0..6u8 {
            let id = RunId::from_bytes([n; 16]);
            books
                .write(moment(i64::from(n)), |page| {
                    page.run(&id, &record(i64::from(n), Phase::Finished))?;
                    page.report(&id, &big)
                })
                .expect("written");
        }
        let kept: Vec<_> =
            (0..6u8).map(|n| books.report(&RunId::from_bytes([n; 16])).expect("read").is_some()).collect();
        assert_eq!(kept, [false, false, true, true, true, true]);
        assert_eq!(books.runs_in(Phase::Finished).expect("read").len(), 6);
    }
}
