//! The state store: journal, ledger, catalogue and floors in one durable file.
//!
//! One transaction writes a run's record and the journal line about it, so that neither exists
//! without the other. When [`StateStore::write`] returns, they are on disk.

mod bound;
mod file;
mod format;
mod reserve;
mod tables;
mod transaction;

pub use format::Format;
pub use tables::{Changes, Memory, Row, Show, Table, Tables};
pub use transaction::Transaction;

use fernwart_certs::catalogue::{Floors, Trusted};
use fernwart_certs::journal::{Line, entry_hash};
use fernwart_protocol::codec;
use fernwart_protocol::diagnosis::Past;
use fernwart_protocol::document::{Document, Envelope, Receipt, UnixMs};
use fernwart_protocol::id::{BootId, Digest, KeyId, MachineId, PublicKey, RunId};
use fernwart_protocol::limits::{JOURNAL_BYTES, LEDGER_RUNS};
use fernwart_protocol::text::Text;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::path::Path;

const FLOORS: &str = "floors";
const TIME_FLOOR: &str = "time floor";
const CHAIN: &str = "hub chain";
const HUB_KEY: &str = "hub key";
const PAST: &str = "past";
const ORDERS_SINCE: &str = "orders since";
const ACTS: &str = "acts";
const TAKEN_BACK: &str = "taken back";
const QUESTIONS: &str = "questions";
const SEALING_KEY: &str = "sealing key";
const PARTED: &str = "parted";
const DROPPED_TO: &str = "dropped to";

/// How often the journal is searched for entries that are too old.
const EVERY_MS: UnixMs = 24 * 3600 * 1000;

/// Minimum time before the next attempt to trim a journal that could not be trimmed.
const AGAIN_MS: UnixMs = 3600 * 1000;

/// Recorded when this machine was retired or left.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Parted {
    /// Since when.
    pub at: UnixMs,
    /// The lead who signed the retirement; empty if the owner took the machine out.
    pub by: Text<64>,
}

/// The state store cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// The file cannot be opened; another agent may have it.
    #[error("opening the state store at {0}")]
    Open(String, #[source] Box<dyn std::error::Error + Send + Sync>),
    /// The disk failed to write or read.
    #[error("writing to the state store")]
    Write(#[source] Box<redb::Error>),
    /// The ledger is full.
    #[error("the ledger holds {LEDGER_RUNS} runs already")]
    Full,
    /// The records have the format of a newer version.
    #[error("the records are of format {format}, and this program reads formats up to {}", Format::NEWEST.number())]
    Newer {
        /// The records' format.
        format: u16,
    },
    /// A record cannot be read.
    #[error("reading the state store: {0} is damaged")]
    Damaged(&'static str),
}

impl StateError {
    /// Whether another process holds the file, such as an agent that is starting or stopping.
    pub fn is_held(&self) -> bool {
        let Self::Open(_, error) = self else { return false };
        let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error.as_ref());
        while let Some(error) = cause {
            let error_of_system = error.downcast_ref::<std::io::Error>();
            if error_of_system.is_some_and(|error| error.kind() == std::io::ErrorKind::WouldBlock) {
                return true;
            }
            cause = error.source();
        }
        false
    }
}

fn failed<E: Into<redb::Error>>(error: E) -> StateError {
    StateError::Write(Box::new(error.into()))
}

/// The progress of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Phase {
    /// The effect may have begun.
    Started,
    /// There is an outcome.
    Finished,
    /// The hub has stored the outcome.
    Acknowledged,
    /// It has not begun: it waits for something.
    Waiting,
}

/// A run's record in the ledger.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunRecord {
    /// The order as it came.
    pub order: Envelope,
    /// Its progress.
    pub phase: Phase,
    /// When it came.
    pub received_at: UnixMs,
    /// Until when a copy of the order would be valid.
    pub not_after: UnixMs,
    /// The signed outcome.
    pub receipt: Option<Envelope>,
    /// The hub's signature for it.
    pub countersigned: Option<Envelope>,
}

/// The newest entry of the journal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct JournalHead {
    /// Its number.
    pub seq: u64,
    /// Its hash.
    pub hash: Digest,
}

/// The time of an entry, read by the caller, who owns the clocks.
#[derive(Debug, Clone, Copy)]
pub struct Moment {
    /// The machine's clock.
    pub now: UnixMs,
    /// Milliseconds since boot.
    pub since_boot_ms: u64,
    /// The id of this boot.
    pub boot: BootId,
}

/// The state store.
#[derive(Debug)]
pub struct StateStore {
    tables: Box<dyn Tables>,
    state: State,
    /// When the journal is next checked for old entries; a journal that is too long is checked
    /// earlier.
    bounds_at: UnixMs,
    /// The journal is not checked before this in any case.
    bounds_not_before: UnixMs,
}

/// Values cached in memory; they change only with writes.
#[derive(Debug, Clone, Copy)]
struct State {
    head: JournalHead,
    floors: TimeFloors,
    /// No acknowledged run can be forgotten until the time floor reaches this.
    forgets_at: UnixMs,
    /// Bytes of all reports; none until counted.
    spooled: Option<u64>,
    /// Bytes of the journal; none until counted.
    journal: Option<u64>,
    /// A write failed, so the content of the tables is uncertain.
    is_doubtful: bool,
    /// The format of the records.
    format: Format,
}

impl State {
    const fn fresh(head: JournalHead, floors: TimeFloors, format: Format) -> Self {
        let forgets_at = UnixMs::MIN;
        Self { head, floors, forgets_at, spooled: None, journal: None, is_doubtful: false, format }
    }
}

/// The time limits of orders. Kept in memory, so that no old order becomes valid again while the
/// disk fails.
#[derive(Debug, Clone, Copy, Default)]
struct TimeFloors {
    /// The newest time of any order that was permitted; 0 before the first.
    time: UnixMs,
    /// When the owner last vouched for the clock; 0 if never.
    orders_since: UnixMs,
}

impl StateStore {
    /// Opens the state store of a machine that has joined.
    ///
    /// # Errors
    /// When the file does not exist, cannot be opened, or is in use by another agent.
    pub fn open(path: &Path) -> Result<Self, StateError> {
        Self::over(Box::new(file::StateFile::open(path)?))
    }

    /// Creates the state store of a machine that joins, or opens the one an earlier attempt
    /// created. The caller must prevent concurrent calls.
    ///
    /// # Errors
    /// As [`StateStore::open`].
    pub fn begin(path: &Path) -> Result<Self, StateError> {
        Self::over(Box::new(file::StateFile::begin(path)?))
    }

    /// A state store over these tables.
    ///
    /// # Errors
    /// When they are damaged.
    pub fn over(tables: Box<dyn Tables>) -> Result<Self, StateError> {
        // The format is checked first: without it nothing else can be interpreted.
        let format = format_of(tables.as_ref())?;
        let head = newest_entry(tables.as_ref())?;
        let floors = TimeFloors::default();
        let state = State::fresh(head, floors, format);
        let mut store = Self { tables, state, bounds_at: UnixMs::MIN, bounds_not_before: UnixMs::MIN };
        store.state.floors.time = store.mark(TIME_FLOOR)?.unwrap_or_default();
        store.state.floors.orders_since = store.mark(ORDERS_SINCE)?.unwrap_or_default();
        Ok(store)
    }

    /// Reopens the tables if a disk error has closed them: the disk may work again.
    pub fn mend(&mut self) {
        self.tables.mend();
        if self.state.is_doubtful {
            // If this fails, it is tried again before the next write.
            let _ = self.look_again();
        }
    }

    /// Checks that the file is in place and readable.
    ///
    /// # Errors
    /// When it is not.
    pub fn look(&self) -> Result<(), StateError> {
        self.tables.in_place()?;
        newest_entry(self.tables.as_ref()).map(drop)
    }

    /// The format of the records.
    pub fn format(&self) -> Format {
        self.state.format
    }

    /// Rewrites all records in the newest format, in one transaction. After that the
    /// previous version of the program can no longer read the store.
    ///
    /// # Errors
    /// When the disk does not take it, or a record is damaged.
    pub fn confirm(&mut self, moment: Moment) -> Result<(), StateError> {
        if self.state.format >= Format::NEWEST {
            return Ok(());
        }
        self.write(moment, |tx| tx.rewrite(Format::NEWEST))
    }

    /// The newest entry of the journal.
    pub fn head(&self) -> JournalHead {
        self.state.head
    }

    /// Runs one transaction, all or nothing. It is on disk when this returns.
    ///
    /// # Errors
    /// When `fill` fails, then nothing of it is in the state store; or when the disk does not take
    /// it: then it may be there or not, and the next use looks.
    pub fn write<T>(
        &mut self,
        moment: Moment,
        fill: impl FnOnce(&mut Transaction<'_>) -> Result<T, StateError>,
    ) -> Result<T, StateError> {
        if self.state.is_doubtful {
            self.look_again()?;
        }
        let mut tx = Transaction::new(self.tables.as_ref(), self.state, moment);
        let filled = fill(&mut tx);
        let (changes, state) = tx.done();
        let written = filled.and_then(|value| self.tables.commit(&changes).map(|()| value));
        match &written {
            Ok(_) => self.state = state,
            Err(StateError::Write(_)) => {
                // It is unknown whether the transaction was written.
                self.state.is_doubtful = true;
                self.tables.distrust();
            }
            // Nothing was written if the state store could not be opened.
            Err(StateError::Open(..) | StateError::Full | StateError::Damaged(_) | StateError::Newer { .. }) => {}
        }
        written
    }

    /// Reads the cached values again, so that later writes neither overwrite what a failed write
    /// has left nor fall below its floors.
    fn look_again(&mut self) -> Result<(), StateError> {
        self.state.format = format_of(self.tables.as_ref())?;
        let head = newest_entry(self.tables.as_ref())?;
        let time: UnixMs = self.mark(TIME_FLOOR)?.unwrap_or_default();
        let orders_since: UnixMs = self.mark(ORDERS_SINCE)?.unwrap_or_default();
        let floors = TimeFloors {
            time: time.max(self.state.floors.time),
            orders_since: orders_since.max(self.state.floors.orders_since),
        };
        let format = self.state.format;
        self.state = State::fresh(head, floors, format);
        Ok(())
    }

    /// Trims the journal if that is due. Returns the number of dropped entries.
    ///
    /// # Errors
    /// When the disk does not take it, or the journal is damaged.
    pub fn bound(&mut self, moment: Moment) -> Result<u64, StateError> {
        // The previous version, which may be put back until then, cannot read a journal with
        // gaps.
        if self.state.format < Format::NEWEST || moment.now < self.bounds_not_before {
            return Ok(0);
        }
        let is_short = self.state.journal.is_some_and(|bytes| bytes <= JOURNAL_BYTES);
        if is_short && moment.now < self.bounds_at {
            return Ok(0);
        }
        self.bounds_at = moment.now.saturating_add(EVERY_MS);
        self.bounds_not_before = moment.now.saturating_add(AGAIN_MS);
        let gone = self.write(moment, |tx| tx.bound_journal())?;
        if gone > 0 {
            self.bounds_not_before = UnixMs::MIN;
        }
        Ok(gone)
    }

    fn mark<T: DeserializeOwned>(&self, name: &'static str) -> Result<Option<T>, StateError> {
        let bytes = self.tables.get(Table::Metadata, name.as_bytes())?;
        bytes.map(|bytes| self.state.format.decode(&bytes, name)).transpose()
    }

    /// The catalogue this machine trusts, if it has joined.
    ///
    /// # Errors
    /// When the state store is damaged.
    pub fn trusted(&self) -> Result<Option<Trusted>, StateError> {
        let Some(floors) = self.mark::<Floors>(FLOORS)? else { return Ok(None) };
        let mut files = BTreeMap::new();
        self.tables.each(Table::Files, &[], &mut |name, bytes| {
            files.insert(String::from_utf8_lossy(name).into_owned(), bytes.to_vec());
            ControlFlow::Continue(())
        })?;
        Ok(Some(Trusted { floors, files }))
    }

    /// The record of this machine's retirement or leaving, if there is one.
    ///
    /// # Errors
    /// When the state store is damaged.
    pub fn parted(&self) -> Result<Option<Parted>, StateError> {
        self.mark(PARTED)
    }

    /// What is remembered of the last complete diagnosis. The next one is compared with it and
    /// nothing depends on it, so an unreadable value is ignored.
    pub fn past(&self) -> Past {
        let text = self.mark::<String>(PAST).ok().flatten();
        text.and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default()
    }

    /// The newest time of any order that was permitted; 0 before the first.
    pub fn time_floor(&self) -> UnixMs {
        self.state.floors.time
    }

    /// When the owner last vouched for the clock; 0 if never.
    pub fn orders_since(&self) -> UnixMs {
        self.state.floors.orders_since
    }

    /// The number of the last question to the owner.
    ///
    /// # Errors
    /// When the state store is damaged.
    pub fn questions(&self) -> Result<u32, StateError> {
        Ok(self.mark(QUESTIONS)?.unwrap_or_default())
    }

    /// When the acts of the last day began. Kept apart from the runs, which are forgotten
    /// earlier.
    ///
    /// # Errors
    /// When the state store is damaged.
    pub fn acts(&self) -> Result<Vec<UnixMs>, StateError> {
        Ok(self.mark(ACTS)?.unwrap_or_default())
    }

    /// Runs cancelled before their orders arrived, newest first.
    ///
    /// # Errors
    /// When the state store is damaged.
    pub fn taken_back(&self) -> Result<Vec<RunId>, StateError> {
        Ok(self.mark(TAKEN_BACK)?.unwrap_or_default())
    }

    /// Position and head of the hub's chain in the newest countersignature.
    ///
    /// # Errors
    /// When the state store is damaged.
    pub fn hub_chain(&self) -> Result<(u64, Digest), StateError> {
        Ok(self.mark(CHAIN)?.unwrap_or((0, Digest::from_bytes([0; 32]))))
    }

    /// The hub's evidence key that signed the last countersignature, if any.
    ///
    /// # Errors
    /// When the state store is damaged.
    pub fn hub_key(&self) -> Result<Option<KeyId>, StateError> {
        self.mark(HUB_KEY)
    }

    /// The public half of the sealing key, if noted.
    ///
    /// # Errors
    /// When the state store is damaged.
    pub fn sealing_key(&self) -> Result<Option<PublicKey>, StateError> {
        self.mark(SEALING_KEY)
    }

    /// The machines named in the receipts that the ledger holds.
    ///
    /// # Errors
    /// When the state store is damaged.
    pub fn receipts_machines(&self) -> Result<BTreeSet<MachineId>, StateError> {
        let mut machines = BTreeSet::new();
        self.each_run(&mut |_, record| {
            let receipt = record.receipt.and_then(|receipt| Receipt::from_bytes(receipt.bytes.as_bytes()).ok());
            machines.extend(receipt.map(|receipt| receipt.machine));
        })?;
        Ok(machines)
    }

    /// One run's record.
    ///
    /// # Errors
    /// When the state store is damaged.
    pub fn run(&self, id: &RunId) -> Result<Option<RunRecord>, StateError> {
        let bytes = self.tables.get(Table::Runs, id.as_bytes())?;
        bytes.map(|bytes| self.state.format.decode(&bytes, "runs")).transpose()
    }

    /// How many runs the ledger holds.
    ///
    /// # Errors
    /// When the state store is damaged.
    pub fn run_count(&self) -> Result<u64, StateError> {
        self.tables.count(Table::Runs)
    }

    /// Runs in this phase, oldest first.
    ///
    /// # Errors
    /// When the state store is damaged.
    pub fn runs_in(&self, phase: Phase) -> Result<Vec<(RunId, RunRecord)>, StateError> {
        let mut found = Vec::new();
        self.each_run(&mut |id, record| {
            if record.phase == phase {
                found.push((id, record));
            }
        })?;
        found.sort_by_key(|(_, record)| record.received_at);
        Ok(found)
    }

    /// Reads every record that a start reads. Returns the catalogue like [`StateStore::trusted`].
    ///
    /// # Errors
    /// When a record is damaged, or a newer program has written it.
    pub fn read_all(&self) -> Result<Option<Trusted>, StateError> {
        self.look()?;
        self.each_run(&mut |_, _| {})?;
        self.locks()?;
        self.acts()?;
        self.taken_back()?;
        self.questions()?;
        self.hub_chain()?;
        self.hub_key()?;
        self.trusted()
    }

    fn each_run(&self, show: &mut dyn FnMut(RunId, RunRecord)) -> Result<(), StateError> {
        let mut read = Ok(());
        self.tables.each(Table::Runs, &[], &mut |id, bytes| {
            let id = id.try_into().map_err(|_| StateError::Damaged("runs"));
            let run = id.and_then(|id| Ok((RunId::from_bytes(id), self.state.format.decode(bytes, "runs")?)));
            read = run.map(|(id, record)| show(id, record));
            if read.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        })?;
        read
    }

    /// The report of a run that the hub has not stored yet.
    ///
    /// # Errors
    /// When the state store is damaged.
    pub fn report(&self, id: &RunId) -> Result<Option<Vec<u8>>, StateError> {
        self.tables.get(Table::Reports, id.as_bytes())
    }

    /// All locks.
    ///
    /// # Errors
    /// When the state store is damaged.
    pub fn locks(&self) -> Result<Vec<Envelope>, StateError> {
        let mut locks = Vec::new();
        self.tables.each(Table::Locks, &[], &mut |_, bytes| {
            locks.push(codec::decode(bytes).map_err(|_| StateError::Damaged("locks")));
            ControlFlow::Continue(())
        })?;
        locks.into_iter().collect()
    }

    /// The hash of the journal entry of this number, if there is one.
    ///
    /// # Errors
    /// When the state store is damaged.
    pub fn entry(&self, seq: u64) -> Result<Option<Digest>, StateError> {
        let line = self.tables.get(Table::Journal, &seq.to_be_bytes())?;
        Ok(line.map(|line| entry_hash(&String::from_utf8_lossy(&line))))
    }

    /// The journal from an entry on, at most `count` entries, in export form.
    ///
    /// # Errors
    /// When the state store is damaged.
    pub fn journal(&self, from: u64, count: usize) -> Result<Vec<Line>, StateError> {
        let mut rows: Vec<Row> = Vec::new();
        if count == 0 {
            return Ok(Vec::new());
        }
        self.tables.each(Table::Journal, &from.to_be_bytes(), &mut |seq, line| {
            rows.push((seq.to_vec(), line.to_vec()));
            if rows.len() >= count { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })?;
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).map_err(|_| StateError::Damaged("journal"));
        let line = |(seq, line): Row| {
            let body = self.tables.get(Table::Bodies, &seq)?.map(text).transpose()?;
            Ok(Line::Entry { v: 1, line: text(line)?, body })
        };
        rows.into_iter().map(line).collect()
    }
}

/// The format of the records in these tables.
fn format_of(tables: &dyn Tables) -> Result<Format, StateError> {
    Format::read(tables.get(Table::Metadata, format::FORMAT.as_bytes())?.as_deref())
}

/// The newest entry of the journal.
fn newest_entry(tables: &dyn Tables) -> Result<JournalHead, StateError> {
    let Some((seq, line)) = tables.last(Table::Journal)? else {
        return Ok(JournalHead { seq: 0, hash: Digest::from_bytes([0; 32]) });
    };
    let seq = seq.try_into().map(u64::from_be_bytes).map_err(|_| StateError::Damaged("journal"))?;
    let line = String::from_utf8(line).map_err(|_| StateError::Damaged("journal"))?;
    Ok(JournalHead { seq, hash: entry_hash(&line) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use fernwart_protocol::id::Signature;
    use fernwart_protocol::limits::SPOOL_BYTES;
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
    fn written_records_survive_reopening_and_the_journal_chain_continues() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("books.redb");
        let id = RunId::from_bytes([3; 16]);
        let head = {
            let mut store = StateStore::begin(&path).expect("begun");
            store
                .write(moment(5), |tx| {
                    tx.run(&id, &record(5, Phase::Started))?;
                    tx.line("run_started", &"a")
                })
                .expect("written")
        };
        let mut store = StateStore::open(&path).expect("reopened");
        assert_eq!(store.head(), head);
        assert_eq!(store.run(&id).expect("read"), Some(record(5, Phase::Started)));
        store.write(moment(6), |tx| tx.line("run_finished", &"b")).expect("written");
        let lines = store.journal(1, 10).expect("read");
        assert_eq!(lines.len(), 2);
    }

    #[test]
    fn a_transaction_that_fails_leaves_no_trace() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut store = StateStore::begin(&folder.path().join("books.redb")).expect("begun");
        let result: Result<(), _> = store.write(moment(5), |tx| {
            tx.line("run_started", &"a")?;
            Err(StateError::Damaged("a test"))
        });
        assert!(result.is_err());
        assert_eq!(store.head().seq, 0);
        assert!(store.journal(1, 10).expect("read").is_empty());
    }

    #[test]
    fn only_acknowledged_runs_below_the_time_floor_are_forgotten() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut store = StateStore::begin(&folder.path().join("books.redb")).expect("begun");
        let ids: Vec<_> = (0..3).map(|n| RunId::from_bytes([n; 16])).collect();
        store
            .write(moment(5), |tx| {
                tx.run(&ids[0], &record(5, Phase::Acknowledged))?;
                tx.run(&ids[1], &record(5, Phase::Finished))?;
                tx.run(&ids[2], &record(50, Phase::Acknowledged))?;
                tx.raise_time_floor(30)
            })
            .expect("written");
        let there: Vec<_> = ids.iter().map(|id| store.run(id).expect("read").is_some()).collect();
        assert_eq!(there, [false, true, true]);
        assert_eq!(store.time_floor(), 30);
        store.write(moment(6), |tx| tx.raise_time_floor(20)).expect("written");
        drop(store);
        let store = StateStore::open(&folder.path().join("books.redb")).expect("reopened");
        assert_eq!(store.time_floor(), 30, "it only rises");
    }

    #[test]
    fn a_state_store_closed_by_a_disk_error_is_reopened() {
        let folder = tempfile::tempdir().expect("a folder");
        let (path, aside) = (folder.path().join("books.redb"), folder.path().join("aside"));
        let mut store = StateStore::begin(&path).expect("begun");
        store.write(moment(5), |tx| tx.raise_time_floor(30)).expect("written");
        // The state after a failed write on a disk that cannot be read either.
        store.tables = Box::new(file::StateFile::closed(&path));
        std::fs::rename(&path, &aside).expect("moved");
        std::fs::create_dir(&path).expect("made");
        store.mend();
        assert!(store.acts().is_err() && store.write(moment(6), |tx| tx.act_begins(0)).is_err());
        assert_eq!(store.time_floor(), 30, "no old order is new meanwhile");
        std::fs::remove_dir(&path).expect("removed");
        std::fs::rename(&aside, &path).expect("moved back");
        store.mend();
        assert!(store.acts().expect("read").is_empty());
        store.write(moment(7), |tx| tx.act_begins(0)).expect("written");
    }

    #[test]
    fn opening_a_missing_state_store_never_creates_a_new_one() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("books.redb");
        assert!(StateStore::open(&path).is_err());
        let mut store = StateStore::begin(&path).expect("begun");
        store.write(moment(5), |tx| tx.raise_time_floor(30)).expect("written");
        // The state after a failed write, with the disk replaced since.
        store.tables = Box::new(file::StateFile::closed(&path));
        std::fs::remove_file(&path).expect("removed");
        store.mend();
        assert!(store.write(moment(6), |tx| tx.act_begins(0)).is_err(), "an empty ledger would let runs run twice");
        assert!(!path.exists());
        std::fs::write(&path, []).expect("written");
        store.mend();
        assert!(store.write(moment(6), |tx| tx.act_begins(0)).is_err() && StateStore::open(&path).is_err());
        assert_eq!(std::fs::read(&path).expect("read"), b"", "emptied is as good as gone");
    }

    #[test]
    fn nothing_is_written_to_a_state_store_whose_file_was_moved_or_replaced() {
        let folder = tempfile::tempdir().expect("a folder");
        let (path, aside) = (folder.path().join("books.redb"), folder.path().join("aside"));
        let mut store = StateStore::begin(&path).expect("begun");
        store.write(moment(5), |tx| tx.raise_time_floor(30)).expect("written");
        std::fs::rename(&path, &aside).expect("moved");
        assert!(store.write(moment(6), |tx| tx.act_begins(0)).is_err() && store.look().is_err());
        assert!(store.acts().expect("what is known is known").is_empty());
        std::fs::rename(&aside, &path).expect("put back");
        store.write(moment(7), |tx| tx.act_begins(0)).expect("written");
        // This process never accepts an older copy in its place.
        std::fs::copy(&path, &aside).expect("copied");
        std::fs::rename(&aside, &path).expect("put there");
        for _ in 0..3 {
            assert!(store.write(moment(8), |tx| tx.act_begins(0)).is_err());
            store.mend();
        }
        store.tables.distrust();
        assert!(store.acts().is_err());
    }

    /// Tables whose first commit reports failure although it succeeded.
    #[derive(Debug, Default)]
    struct Unsure {
        memory: Memory,
        fails: bool,
    }

    impl Tables for Unsure {
        fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, StateError> {
            self.memory.get(table, key)
        }
        fn each(&self, table: Table, from: &[u8], show: Show<'_>) -> Result<(), StateError> {
            self.memory.each(table, from, show)
        }
        fn last(&self, table: Table) -> Result<Option<Row>, StateError> {
            self.memory.last(table)
        }
        fn count(&self, table: Table) -> Result<u64, StateError> {
            self.memory.count(table)
        }
        fn commit(&mut self, changes: &Changes) -> Result<(), StateError> {
            self.memory.commit(changes)?;
            match std::mem::take(&mut self.fails) {
                true => Err(failed(redb::Error::Io(std::io::Error::other("a test")))),
                false => Ok(()),
            }
        }
    }

    #[test]
    fn a_write_that_failed_but_reached_the_disk_is_not_overwritten() {
        let mut store = StateStore::over(Box::new(Unsure { fails: true, ..Unsure::default() })).expect("books");
        let failed = store.write(moment(5), |tx| {
            tx.raise_time_floor(50)?;
            tx.line("one", &"a")
        });
        assert!(failed.is_err());
        let head = store
            .write(moment(6), |tx| {
                tx.raise_time_floor(20)?;
                tx.line("two", &"b")
            })
            .expect("written");
        assert_eq!((head.seq, store.time_floor()), (2, 50));
        let kinds: Vec<String> = store.journal(1, 9).expect("read").iter().map(|line| format!("{line:?}")).collect();
        assert!(kinds[0].contains("one") && kinds[1].contains("two"), "{kinds:?}");
    }

    #[test]
    fn the_acts_of_a_day_are_counted_even_if_the_ledger_forgets_their_runs() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("books.redb");
        let mut store = StateStore::begin(&path).expect("begun");
        for at in [5, 20, 30] {
            store
                .write(moment(at), |tx| {
                    tx.run(&RunId::from_bytes([7; 16]), &record(at, Phase::Acknowledged))?;
                    tx.act_begins(10)?;
                    tx.raise_time_floor(1000)
                })
                .expect("written");
        }
        assert_eq!(store.run_count().expect("read"), 0);
        assert_eq!(store.acts().expect("read"), [20, 30]);
        drop(store);
        let mut store = StateStore::open(&path).expect("reopened");
        assert_eq!(store.acts().expect("read"), [20, 30]);
        // The clock was ahead and has been corrected.
        store.write(moment(25), |tx| tx.acts_until_now()).expect("written");
        assert_eq!(store.acts().expect("read"), [20, 25]);
    }

    #[test]
    fn a_full_spool_drops_the_oldest_reports_but_no_outcome() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut store = StateStore::begin(&folder.path().join("books.redb")).expect("begun");
        let big = vec![7u8; (SPOOL_BYTES / 4) as usize];
        for n in 0..6u8 {
            let id = RunId::from_bytes([n; 16]);
            store
                .write(moment(i64::from(n)), |tx| {
                    tx.run(&id, &record(i64::from(n), Phase::Finished))?;
                    tx.report(&id, &big)
                })
                .expect("written");
        }
        let kept: Vec<_> =
            (0..6u8).map(|n| store.report(&RunId::from_bytes([n; 16])).expect("read").is_some()).collect();
        assert_eq!(kept, [false, false, true, true, true, true]);
        assert_eq!(store.runs_in(Phase::Finished).expect("read").len(), 6);
    }
}
