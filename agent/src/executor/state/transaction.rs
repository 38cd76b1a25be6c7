//! A transaction being filled: collects changes, and reads through them.

use super::format::{FORMAT, Format};
use super::tables::{Changes, Table, Tables};
use super::{
    ACTS, CHAIN, FLOORS, HUB_KEY, JournalHead, Moment, ORDERS_SINCE, PARTED, PAST, Parted, Phase, QUESTIONS, RunRecord,
    SEALING_KEY, State, StateError, TAKEN_BACK, TIME_FLOOR, TimeFloors,
};
use fernwart_certs::catalogue::Trusted;
use fernwart_certs::journal::{Entry, entry_hash};
use fernwart_certs::sha256;
use fernwart_protocol::codec;
use fernwart_protocol::diagnosis::Past;
use fernwart_protocol::document::{Envelope, UnixMs};
use fernwart_protocol::id::{Digest, KeyId, PublicKey, RunId};
use fernwart_protocol::limits::{LEDGER_RUNS, SPOOL_BYTES};
use fernwart_protocol::text::Text;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::ops::ControlFlow;

/// Maximum number of acts remembered for the daily limit.
const ACTS_KEPT: usize = 4096;

/// A transaction being filled.
pub struct Transaction<'a> {
    tables: &'a dyn Tables,
    changes: Changes,
    pub(super) state: State,
    moment: Moment,
}

impl<'a> Transaction<'a> {
    pub(super) fn new(tables: &'a dyn Tables, state: State, moment: Moment) -> Self {
        Self { tables, changes: Changes::new(), state, moment }
    }

    pub(super) fn done(self) -> (Changes, State) {
        (self.changes, self.state)
    }

    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, StateError> {
        match self.changes.get(&(table, key.to_vec())) {
            Some(changed) => Ok(changed.clone()),
            None => self.tables.get(table, key),
        }
    }

    /// Calls `show` for each row as it will be after the commit.
    fn each(&self, table: Table, mut show: impl FnMut(&[u8], &[u8])) -> Result<(), StateError> {
        self.tables.each(table, &[], &mut |key, value| {
            if !self.changes.contains_key(&(table, key.to_vec())) {
                show(key, value);
            }
            ControlFlow::Continue(())
        })?;
        let changed = self.changes.iter().filter(|((changed, _), _)| *changed == table);
        changed.filter_map(|((_, key), value)| Some((key, value.as_ref()?))).for_each(|(key, value)| show(key, value));
        Ok(())
    }

    fn put(&mut self, table: Table, key: &[u8], value: Vec<u8>) {
        self.changes.insert((table, key.to_vec()), Some(value));
    }

    fn remove(&mut self, table: Table, key: &[u8]) {
        self.changes.insert((table, key.to_vec()), None);
    }
}

impl Transaction<'_> {
    /// Appends a line to the journal.
    ///
    /// # Errors
    /// When the disk does not take it.
    pub fn line<T: Serialize>(&mut self, kind: &str, body: &T) -> Result<JournalHead, StateError> {
        let damaged = |_| StateError::Damaged("journal");
        let body = serde_json::to_string(body).map_err(damaged)?;
        let seq = self.state.head.seq + 1;
        let entry = Entry {
            seq,
            previous: self.state.head.hash,
            kind: Text::clipped(kind),
            at: self.moment.now,
            since_boot_ms: self.moment.since_boot_ms,
            boot: self.moment.boot,
            body: sha256(body.as_bytes()),
        };
        let line = serde_json::to_string(&entry).map_err(damaged)?;
        self.state.head = JournalHead { seq, hash: entry_hash(&line) };
        self.state.journal = self.state.journal.map(|bytes| bytes + (line.len() + body.len()) as u64);
        self.put(Table::Journal, &seq.to_be_bytes(), line.into_bytes());
        self.put(Table::Bodies, &seq.to_be_bytes(), body.into_bytes());
        Ok(self.state.head)
    }

    pub(super) fn now(&self) -> UnixMs {
        self.moment.now
    }

    /// Size in bytes of the journal's lines and their bodies.
    pub(super) fn journal_bytes(&mut self) -> Result<u64, StateError> {
        if let Some(known) = self.state.journal {
            return Ok(known);
        }
        let mut total = 0;
        for table in [Table::Journal, Table::Bodies] {
            self.each(table, |_, bytes| total += bytes.len() as u64)?;
        }
        self.state.journal = Some(total);
        Ok(total)
    }

    /// Calls `show` for the rows of a journal table up to number `last`, at most `count`, without
    /// this transaction's changes.
    pub(super) fn each_up_to(
        &self,
        table: Table,
        last: u64,
        mut count: usize,
        mut show: impl FnMut(u64, &[u8]) -> Result<(), StateError>,
    ) -> Result<(), StateError> {
        let mut shown = Ok(());
        self.tables.each(table, &[], &mut |seq, bytes| {
            let seq = seq.try_into().map(u64::from_be_bytes).map_err(|_| StateError::Damaged("journal"));
            match seq {
                Ok(seq) if seq > last || count == 0 => return ControlFlow::Break(()),
                Ok(seq) => shown = show(seq, bytes),
                Err(error) => shown = Err(error),
            }
            count -= 1;
            if shown.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        })?;
        shown
    }

    /// Drops one entry of this size.
    pub(super) fn drop_entry(&mut self, seq: u64, bytes: u64) {
        self.remove(Table::Journal, &seq.to_be_bytes());
        self.remove(Table::Bodies, &seq.to_be_bytes());
        self.state.journal = self.state.journal.map(|total| total.saturating_sub(bytes));
    }

    pub(super) fn mark<T: Serialize>(&mut self, name: &'static str, value: &T) -> Result<(), StateError> {
        let bytes = self.state.format.encode(value, name)?;
        self.put(Table::Metadata, name.as_bytes(), bytes);
        Ok(())
    }

    pub(super) fn marked<T: DeserializeOwned>(&self, name: &'static str) -> Result<Option<T>, StateError> {
        let bytes = self.get(Table::Metadata, name.as_bytes())?;
        bytes.map(|bytes| self.state.format.decode(&bytes, name)).transpose()
    }

    /// Rewrites all records in another format.
    ///
    /// # Errors
    /// When a record is damaged.
    pub(super) fn rewrite(&mut self, to: Format) -> Result<(), StateError> {
        let from = self.state.format;
        for (table, what) in [(Table::Runs, "runs"), (Table::Metadata, "marks")] {
            let mut rows = Vec::new();
            self.each(table, |key, bytes| rows.push((key.to_vec(), from.rewrite(bytes, to, what))))?;
            for (key, bytes) in rows.into_iter().filter(|(key, _)| key != FORMAT.as_bytes()) {
                self.put(table, &key, bytes?);
            }
        }
        let number = codec::encode(&to.number()).map_err(|_| StateError::Damaged(FORMAT))?;
        self.put(Table::Metadata, FORMAT.as_bytes(), number);
        self.state.format = to;
        Ok(())
    }

    /// Remembers a complete diagnosis for the next one.
    ///
    /// # Errors
    /// When the disk does not take it.
    pub fn past(&mut self, past: &Past) -> Result<(), StateError> {
        let text = serde_json::to_string(past).map_err(|_| StateError::Damaged(PAST))?;
        self.mark(PAST, &text)
    }

    /// Notes the public half of the sealing key.
    ///
    /// # Errors
    /// When the disk does not take it.
    pub fn sealing_key(&mut self, key: &PublicKey) -> Result<(), StateError> {
        self.mark(SEALING_KEY, key)
    }

    /// Notes which of the hub's keys signed the last countersignature.
    ///
    /// # Errors
    /// When the disk does not take it.
    pub fn hub_key(&mut self, key: &KeyId) -> Result<(), StateError> {
        self.mark(HUB_KEY, key)
    }

    /// Replaces the catalogue in force.
    ///
    /// # Errors
    /// When the disk does not take it.
    pub fn follow(&mut self, trusted: &Trusted) -> Result<(), StateError> {
        self.mark(FLOORS, &trusted.floors)?;
        let mut old = Vec::new();
        self.each(Table::Files, |name, _| old.push(name.to_vec()))?;
        for name in old {
            self.remove(Table::Files, &name);
        }
        for (name, bytes) in &trusted.files {
            self.put(Table::Files, name.as_bytes(), bytes.clone());
        }
        Ok(())
    }

    /// Raises the time floor and forgets acknowledged runs whose orders can no longer be valid.
    ///
    /// # Errors
    /// When the disk does not take it.
    pub fn raise_time_floor(&mut self, floor: UnixMs) -> Result<(), StateError> {
        let floor = floor.max(self.state.floors.time);
        self.mark(TIME_FLOOR, &floor)?;
        self.state.floors.time = floor;
        if floor <= self.state.forgets_at {
            return Ok(());
        }
        let (mut over, mut forgets_at) = (Vec::new(), UnixMs::MAX);
        let format = self.state.format;
        self.each(Table::Runs, |id, bytes| match format.decode::<RunRecord>(bytes, "runs") {
            Ok(record) if record.phase != Phase::Acknowledged => {}
            Ok(record) if record.not_after < floor => over.push(id.to_vec()),
            Ok(record) => forgets_at = forgets_at.min(record.not_after),
            Err(_) => {}
        })?;
        for id in over {
            self.remove(Table::Runs, &id);
        }
        self.state.forgets_at = forgets_at;
        Ok(())
    }

    /// Sets the time floor to the owner's clock, if the floor was wrong. Older orders are refused
    /// from now on: the ledger may have forgotten their runs under that floor.
    ///
    /// # Errors
    /// When the disk does not take it.
    pub fn trust_clock(&mut self, now: UnixMs) -> Result<(), StateError> {
        self.mark(TIME_FLOOR, &now)?;
        self.mark(ORDERS_SINCE, &now)?;
        self.state.floors = TimeFloors { time: now, orders_since: now };
        Ok(())
    }

    /// Notes the number of the newest question to the owner. Numbers are never reused, so that a
    /// late answer cannot reach another question.
    ///
    /// # Errors
    /// When the disk does not take it.
    pub fn question(&mut self, number: u32) -> Result<(), StateError> {
        self.mark(QUESTIONS, &number)
    }

    /// Sets the start of acts that lie in the clock's future to now, after the clock was set
    /// back.
    ///
    /// # Errors
    /// When the disk does not take it.
    pub fn acts_until_now(&mut self) -> Result<(), StateError> {
        let mut acts: Vec<UnixMs> = self.marked(ACTS)?.unwrap_or_default();
        acts.iter_mut().for_each(|at| *at = (*at).min(self.moment.now));
        self.mark(ACTS, &acts)
    }

    /// Notes that an act begins now, and forgets those begun before `since`.
    ///
    /// # Errors
    /// When the disk does not take it, or the state store is damaged.
    pub fn act_begins(&mut self, since: UnixMs) -> Result<(), StateError> {
        let mut acts: Vec<UnixMs> = self.marked(ACTS)?.unwrap_or_default();
        acts.retain(|at| *at >= since);
        acts.push(self.moment.now);
        let over = acts.len().saturating_sub(ACTS_KEPT);
        acts.drain(..over);
        self.mark(ACTS, &acts)
    }

    /// Stores which runs were cancelled before their orders arrived.
    ///
    /// # Errors
    /// When the disk does not take it.
    pub fn take_back(&mut self, runs: &[RunId]) -> Result<(), StateError> {
        self.mark(TAKEN_BACK, &runs)
    }

    /// Notes the hub's chain position and head.
    ///
    /// # Errors
    /// When the disk does not take it.
    pub fn hub_chain(&mut self, seq: u64, head: &Digest) -> Result<(), StateError> {
        self.mark(CHAIN, &(seq, head))
    }

    /// Writes a run's record. A new run needs room in the ledger.
    ///
    /// # Errors
    /// When the disk does not take it.
    pub fn run(&mut self, id: &RunId, record: &RunRecord) -> Result<(), StateError> {
        let bytes = self.state.format.encode(record, "runs")?;
        if record.phase == Phase::Acknowledged {
            self.state.forgets_at = self.state.forgets_at.min(record.not_after);
        }
        self.put(Table::Runs, id.as_bytes(), bytes);
        Ok(())
    }

    /// Checks that the ledger has room for this run, or already holds it.
    ///
    /// # Errors
    /// When it is full, or the state store is damaged.
    pub fn place_for(&mut self, id: &RunId) -> Result<(), StateError> {
        let known = self.get(Table::Runs, id.as_bytes())?.is_some();
        let forgotten = self.changes.iter().filter(|((table, _), value)| *table == Table::Runs && value.is_none());
        let held = self.tables.count(Table::Runs)?.saturating_sub(forgotten.count() as u64);
        if known || held < LEDGER_RUNS as u64 { Ok(()) } else { Err(StateError::Full) }
    }

    /// Keeps a report until the hub has it. If the spool is full, the oldest reports are dropped;
    /// outcomes never are.
    ///
    /// # Errors
    /// When the disk does not take it.
    pub fn report(&mut self, id: &RunId, report: &[u8]) -> Result<(), StateError> {
        let before = self.get(Table::Reports, id.as_bytes())?.map_or(0, |old| old.len() as u64);
        let total = (self.spooled()? + report.len() as u64).saturating_sub(before);
        self.put(Table::Reports, id.as_bytes(), report.to_vec());
        self.state.spooled = Some(total);
        if total > SPOOL_BYTES { self.drop_oldest(total) } else { Ok(()) }
    }

    /// Size in bytes of all reports.
    fn spooled(&self) -> Result<u64, StateError> {
        if let Some(known) = self.state.spooled {
            return Ok(known);
        }
        let mut total = 0;
        self.each(Table::Reports, |_, bytes| total += bytes.len() as u64)?;
        Ok(total)
    }

    fn drop_oldest(&mut self, mut total: u64) -> Result<(), StateError> {
        let mut sizes: Vec<(Vec<u8>, u64)> = Vec::new();
        self.each(Table::Reports, |run, bytes| sizes.push((run.to_vec(), bytes.len() as u64)))?;
        let mut kept = Vec::new();
        for (run, bytes) in sizes {
            let record = self.get(Table::Runs, &run)?;
            let record = record.and_then(|bytes| self.state.format.decode::<RunRecord>(&bytes, "runs").ok());
            kept.push((record.map_or(0, |record| record.received_at), run, bytes));
        }
        kept.sort_unstable();
        for (_, run, bytes) in kept {
            if total <= SPOOL_BYTES {
                break;
            }
            self.remove(Table::Reports, &run);
            total -= bytes;
        }
        self.state.spooled = Some(total);
        Ok(())
    }

    /// Drops a report that the hub has.
    ///
    /// # Errors
    /// When the disk does not take it.
    pub fn drop_report(&mut self, id: &RunId) -> Result<(), StateError> {
        if let Some(report) = self.get(Table::Reports, id.as_bytes())? {
            self.state.spooled = Some(self.spooled()?.saturating_sub(report.len() as u64));
            self.remove(Table::Reports, id.as_bytes());
        }
        Ok(())
    }

    /// Notes that this machine was retired or left.
    ///
    /// # Errors
    /// When the disk does not take it.
    pub fn part(&mut self, parted: &Parted) -> Result<(), StateError> {
        self.mark(PARTED, parted)
    }

    /// Keeps a lock.
    ///
    /// # Errors
    /// When the disk does not take it.
    pub fn lock(&mut self, envelope: &Envelope) -> Result<(), StateError> {
        let bytes = codec::encode(envelope).map_err(|_| StateError::Damaged("locks"))?;
        self.put(Table::Locks, sha256(envelope.bytes.as_bytes()).as_bytes(), bytes);
        Ok(())
    }
}
