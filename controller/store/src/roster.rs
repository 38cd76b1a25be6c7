//! Caches all machines in memory, so that looking one up needs no database access.
//!
//! The database is authoritative: only the writer changes the roster, and only after a commit. A
//! hub that shared its database with another would have to be notified of the other's writes.

use crate::StoreError;
use crate::rows;
use fernwart_fleet::{Diagnosed, Machine, Standing};
use fernwart_protocol::id::{Digest, MachineId};
use sqlx::any::AnyRow;
use sqlx::{AnyConnection, Row};
use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, RwLock, RwLockReadGuard, RwLockWriteGuard};

/// The state of one machine's records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Heads {
    /// Number of its receipts that the hub has countersigned.
    pub chain_seq: u64,
    /// The head of their chain.
    pub chain_head: Digest,
    /// The newest entry of its journal that is known; 0 is none.
    pub journal_seq: u64,
    /// That entry's hash; none before the first.
    pub journal_head: Option<Digest>,
    /// Identifies its statement of its sealing key; none before the first.
    pub sealed_to: Option<u64>,
}

/// Identifies an envelope. A collision only harms the signer who made both.
pub(crate) fn mark_of(envelope: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    envelope.hash(&mut hasher);
    hasher.finish()
}

/// One machine with its records. About 1 KiB each.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub(crate) machine: Arc<Machine>,
    pub(crate) records: Heads,
}

/// The change to the roster after a write is committed.
pub enum Change {
    /// Nothing.
    Nothing,
    /// Read this machine again.
    Reload(MachineId),
    /// Apply the change that was made to the database.
    Edit(MachineId, Box<dyn FnOnce(&mut Machine) + Send>),
}

impl std::fmt::Debug for Change {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Change")
    }
}

/// The machines by id.
#[derive(Debug, Default)]
pub(crate) struct Roster(RwLock<HashMap<MachineId, Entry>>);

const SQL: &str = "SELECT m.*, c.name AS customer_name, r.chain_seq, r.chain_head, r.journal_seq, r.journal_head, r.verdict \
     FROM machines m JOIN customers c ON c.id = m.customer JOIN records r ON r.machine = m.id";

fn entry(row: &AnyRow) -> Result<Entry, StoreError> {
    let journal_head: String = row.try_get("journal_head")?;
    Ok(Entry {
        machine: Arc::new(rows::machine(row)?),
        records: Heads {
            chain_seq: rows::unsigned(row.try_get("chain_seq")?),
            chain_head: rows::parsed(row, "chain_head")?,
            journal_seq: rows::unsigned(row.try_get("journal_seq")?),
            journal_head: journal_head.parse().ok(),
            sealed_to: row.try_get::<Option<Vec<u8>>, _>("sealed_to")?.map(|statement| mark_of(&statement)),
        },
    })
}

impl Roster {
    /// Loads all machines.
    pub(crate) async fn load(connection: &mut AnyConnection) -> Result<Self, StoreError> {
        let rows = sqlx::query(SQL).fetch_all(connection).await?;
        let entries = rows.iter().map(|row| entry(row).map(|entry| (entry.machine.id, entry)));
        Ok(Self(RwLock::new(entries.collect::<Result<_, _>>()?)))
    }

    fn read(&self) -> RwLockReadGuard<'_, HashMap<MachineId, Entry>> {
        self.0.read().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn write(&self) -> RwLockWriteGuard<'_, HashMap<MachineId, Entry>> {
        self.0.write().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    pub(crate) fn len(&self) -> usize {
        self.read().len()
    }

    pub(crate) fn machine(&self, id: &MachineId) -> Option<Arc<Machine>> {
        self.read().get(id).map(|entry| entry.machine.clone())
    }

    pub(crate) fn heads(&self, id: &MachineId) -> Option<Heads> {
        self.read().get(id).map(|entry| entry.records)
    }

    /// The machines of this standing, by name.
    pub(crate) fn machines(&self, standing: Standing) -> Vec<Arc<Machine>> {
        let entries = self.read();
        let all = entries.values().filter(|entry| entry.machine.standing == standing);
        let mut machines: Vec<_> = all.map(|entry| entry.machine.clone()).collect();
        drop(entries);
        machines.sort_by(|one, other| one.name.cmp(&other.name));
        machines
    }

    /// Reads these machines again. Those that cannot be read are removed from the roster and stay
    /// in the list, to be tried again.
    pub(crate) async fn reload(&self, connection: &mut AnyConnection, ids: &mut Vec<MachineId>) {
        let mut failed = Vec::new();
        for id in ids.drain(..) {
            if self.reload_one(connection, &id).await.is_err() {
                self.write().remove(&id);
                failed.push(id);
            }
        }
        *ids = failed;
    }

    async fn reload_one(&self, connection: &mut AnyConnection, id: &MachineId) -> Result<(), StoreError> {
        let sql = format!("{SQL} WHERE m.id = $1");
        let row = sqlx::query(sqlx::AssertSqlSafe(sql)).bind(id.to_string()).fetch_optional(connection).await?;
        match row {
            Some(row) => drop(self.write().insert(*id, entry(&row)?)),
            None => drop(self.write().remove(id)),
        }
        Ok(())
    }

    pub(crate) fn edit(&self, id: &MachineId, edit: impl FnOnce(&mut Machine)) {
        if let Some(entry) = self.write().get_mut(id) {
            edit(Arc::make_mut(&mut entry.machine));
        }
    }

    /// Applies the changes made by outcomes.
    pub(crate) fn settled(&self, changed: impl IntoIterator<Item = (MachineId, Heads, Option<Diagnosed>)>) {
        let mut entries = self.write();
        for (id, records, diagnosed) in changed {
            let Some(entry) = entries.get_mut(&id) else { continue };
            entry.records = records;
            if let Some(diagnosed) = diagnosed.filter(|diagnosed| *diagnosed != entry.machine.diagnosed) {
                Arc::make_mut(&mut entry.machine).diagnosed = diagnosed;
            }
        }
    }
}
