//! The organisation's own data: customers, locks, drafts, suspended keys.

use crate::{Write, encoded};
use fernwart_protocol::code::Denial;
use fernwart_protocol::document::{Envelope, UnixMs};
use fernwart_protocol::id::{Digest, KeyId};
use fernwart_protocol::staff::CustomerRow;
use sqlx::AnyConnection;

/// Adds a customer. A name that is taken is denied.
#[derive(Debug)]
pub struct AddCustomer(pub CustomerRow);

impl Write for AddCustomer {
    type Reply = Result<(), Denial>;
    async fn apply(&self, to: &mut AnyConnection) -> Result<Self::Reply, sqlx::Error> {
        let sql = "INSERT INTO customers (id, name, language) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING";
        let query = sqlx::query(sql).bind(self.0.id.to_string());
        let done = query.bind(self.0.name.as_raw()).bind(self.0.language.as_raw()).execute(to).await?;
        Ok(if done.rows_affected() == 1 { Ok(()) } else { Err(Denial::NameTaken) })
    }
}

/// Suspends a staff key at this hub.
#[derive(Debug)]
pub struct Suspend {
    /// The key.
    pub key: KeyId,
    /// When.
    pub at: UnixMs,
}

impl Write for Suspend {
    type Reply = ();
    async fn apply(&self, to: &mut AnyConnection) -> Result<(), sqlx::Error> {
        let sql = "INSERT INTO suspensions (staff_key, suspended_at) VALUES ($1, $2) ON CONFLICT DO NOTHING";
        sqlx::query(sql).bind(self.key.to_string()).bind(self.at).execute(to).await?;
        Ok(())
    }
}

/// Resumes a staff key. Returns whether it was suspended.
#[derive(Debug)]
pub struct Resume(pub KeyId);

impl Write for Resume {
    type Reply = bool;
    async fn apply(&self, to: &mut AnyConnection) -> Result<bool, sqlx::Error> {
        let query = sqlx::query("DELETE FROM suspensions WHERE staff_key = $1").bind(self.0.to_string());
        Ok(query.execute(to).await?.rows_affected() > 0)
    }
}

/// Rejects a person who waits to get onto the staff list. Returns whether that person was waiting.
#[derive(Debug)]
pub struct RejectStaff(pub KeyId);

impl Write for RejectStaff {
    type Reply = bool;
    async fn apply(&self, to: &mut AnyConnection) -> Result<bool, sqlx::Error> {
        let query = sqlx::query("DELETE FROM staff_joins WHERE staff_key = $1").bind(self.0.to_string());
        Ok(query.execute(to).await?.rows_affected() > 0)
    }
}

/// Stores a lock, to be sent to every machine.
#[derive(Debug)]
pub struct KeepLock {
    /// SHA-256 of its bytes.
    pub id: Digest,
    /// The lock.
    pub envelope: Envelope,
}

impl Write for KeepLock {
    type Reply = ();
    async fn apply(&self, to: &mut AnyConnection) -> Result<(), sqlx::Error> {
        let sql = "INSERT INTO locks (id, envelope) VALUES ($1, $2) ON CONFLICT DO NOTHING";
        sqlx::query(sql).bind(self.id.to_string()).bind(encoded(&self.envelope, "lock")?).execute(to).await?;
        Ok(())
    }
}

/// Stores a draft of a catalogue, replacing its older state.
#[derive(Debug)]
pub struct Draft {
    /// Its id.
    pub id: Digest,
    /// Its text; `None` deletes the draft.
    pub bytes: Option<Vec<u8>>,
    /// When.
    pub at: UnixMs,
}

impl Write for Draft {
    type Reply = ();
    async fn apply(&self, to: &mut AnyConnection) -> Result<(), sqlx::Error> {
        sqlx::query("DELETE FROM drafts WHERE id = $1").bind(self.id.to_string()).execute(&mut *to).await?;
        if let Some(bytes) = &self.bytes {
            let sql = "INSERT INTO drafts (id, draft, made_at) VALUES ($1, $2, $3)";
            sqlx::query(sql).bind(self.id.to_string()).bind(bytes.as_slice()).bind(self.at).execute(to).await?;
        }
        Ok(())
    }
}
