//! An in-memory disk, which keeps its content while its machine is switched off.

use fernwart_agent::executor::state::{Changes, Memory, Row, Show, StateError, Table, Tables};
use std::sync::{Arc, Mutex, MutexGuard};

/// The disk. Clones are the same disk.
#[derive(Debug, Clone, Default)]
pub struct Disk(Arc<Mutex<Memory>>);

impl Disk {
    /// Another disk with the same content.
    #[must_use]
    pub fn copy(&self) -> Self {
        Self(Arc::new(Mutex::new(self.tables().clone())))
    }

    fn tables(&self) -> MutexGuard<'_, Memory> {
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl Tables for Disk {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, StateError> {
        self.tables().get(table, key)
    }

    fn each(&self, table: Table, from: &[u8], show: Show<'_>) -> Result<(), StateError> {
        self.tables().each(table, from, show)
    }

    fn last(&self, table: Table) -> Result<Option<Row>, StateError> {
        self.tables().last(table)
    }

    fn count(&self, table: Table) -> Result<u64, StateError> {
        self.tables().count(table)
    }

    fn commit(&mut self, changes: &Changes) -> Result<(), StateError> {
        self.tables().commit(changes)
    }
}
