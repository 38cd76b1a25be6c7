//! The storage of the state store: tables of bytes with atomic commits.

use super::StateError;
use std::collections::BTreeMap;
use std::ops::ControlFlow;

/// A table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Table {
    /// Run id, 16 bytes: a run's record.
    Runs,
    /// Run id, 16 bytes: its report.
    Reports,
    /// Number, 8 bytes, big endian: a line of the journal, text.
    Journal,
    /// Number, 8 bytes, big endian: the body of that line, text.
    Bodies,
    /// Name, text: a file of the catalogue.
    Files,
    /// SHA-256, 32 bytes: a lock.
    Locks,
    /// Name, text: one value.
    Metadata,
}

impl Table {
    /// All of them.
    pub const ALL: [Self; 7] =
        [Self::Runs, Self::Reports, Self::Journal, Self::Bodies, Self::Files, Self::Locks, Self::Metadata];
}

/// Changes of rows: a new value, or none to remove it.
pub type Changes = BTreeMap<(Table, Vec<u8>), Option<Vec<u8>>>;

/// One row: key and value.
pub type Row = (Vec<u8>, Vec<u8>);

/// Called with key and value of each row, until it breaks.
pub type Show<'a> = &'a mut dyn FnMut(&[u8], &[u8]) -> ControlFlow<()>;

/// Tables of bytes. Keys are ordered as bytes.
pub trait Tables: std::fmt::Debug + Send {
    /// The value under a key.
    ///
    /// # Errors
    /// When it cannot be read.
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, StateError>;

    /// Calls `show` for each row from this key on, in order, until it breaks.
    ///
    /// # Errors
    /// When they cannot be read.
    fn each(&self, table: Table, from: &[u8], show: Show<'_>) -> Result<(), StateError>;

    /// The row with the greatest key.
    ///
    /// # Errors
    /// When it cannot be read.
    fn last(&self, table: Table) -> Result<Option<Row>, StateError>;

    /// How many rows there are.
    ///
    /// # Errors
    /// When that cannot be read.
    fn count(&self, table: Table) -> Result<u64, StateError>;

    /// Makes all changes or none; durable when this returns.
    ///
    /// # Errors
    /// When they cannot be written. They may have reached the disk nevertheless.
    fn commit(&mut self, changes: &Changes) -> Result<(), StateError>;

    /// Checks that the file being written is still the one that will be read later.
    ///
    /// # Errors
    /// When it is not where it should be.
    fn in_place(&self) -> Result<(), StateError> {
        Ok(())
    }

    /// Called after an error: the storage is reopened, since it may have failed for good.
    fn distrust(&mut self) {}

    /// Tries to become usable again after a failure.
    fn mend(&mut self) {}
}

/// Tables in memory, for simulated machines.
#[derive(Debug, Clone, Default)]
pub struct Memory(BTreeMap<(Table, Vec<u8>), Vec<u8>>);

impl Memory {
    fn rows(&self, table: Table, from: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
        let rows = self.0.range((table, from.to_vec())..).take_while(move |((of, _), _)| *of == table);
        rows.map(|((_, key), value)| (key.as_slice(), value.as_slice()))
    }
}

impl Tables for Memory {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, StateError> {
        Ok(self.0.get(&(table, key.to_vec())).cloned())
    }

    fn each(&self, table: Table, from: &[u8], show: Show<'_>) -> Result<(), StateError> {
        // An early stop is no error.
        let _ = self.rows(table, from).try_for_each(|(key, value)| show(key, value));
        Ok(())
    }

    fn last(&self, table: Table) -> Result<Option<Row>, StateError> {
        Ok(self.rows(table, &[]).last().map(|(key, value)| (key.to_vec(), value.to_vec())))
    }

    fn count(&self, table: Table) -> Result<u64, StateError> {
        Ok(self.rows(table, &[]).count() as u64)
    }

    fn commit(&mut self, changes: &Changes) -> Result<(), StateError> {
        for (row, value) in changes {
            match value {
                Some(value) => drop(self.0.insert(row.clone(), value.clone())),
                None => drop(self.0.remove(row)),
            }
        }
        Ok(())
    }
}
