//! Jobs and runs: stored before they are offered, settled once, ended in time.

use crate::bulk::{places, rows_of, several};
use crate::rows::{self, number};
use crate::{Write, encoded};
use fernwart_fleet::RunState;
use fernwart_protocol::code::Refusal;
use fernwart_protocol::document::{Envelope, UnixMs};
use fernwart_protocol::id::{JobId, KeyId, MachineId, RunId};
use fernwart_protocol::text::Text;
use sqlx::{AnyConnection, Row};
use std::collections::HashSet;

/// Stores a job with its runs, before any is offered.
#[derive(Debug)]
pub struct NewJob {
    /// What is asked.
    pub action: Text<64>,
    /// Who asks.
    pub key: KeyId,
    /// The name of who asks.
    pub staff: Text<64>,
    /// Why.
    pub reason: Text<500>,
    /// When.
    pub at: UnixMs,
    /// Its runs.
    pub runs: Vec<NewRun>,
}

/// A run to be.
#[derive(Debug)]
pub struct NewRun {
    /// Its id.
    pub id: RunId,
    /// Its machine.
    pub machine: MachineId,
    /// Where it begins: offered, or away.
    pub state: RunState,
    /// Its order.
    pub order: Envelope,
    /// Until when the order is valid.
    pub not_after: UnixMs,
}

/// Ends runs whose time has passed without an outcome. One that comes later
/// still wins.
#[derive(Debug)]
pub struct Expire {
    /// Orders valid until before this are over.
    pub before: UnixMs,
}

/// A run that has begun may take this long beyond the end of its order.
const LONGEST_MS: UnixMs = 24 * 3600 * 1000;

impl Write for Expire {
    /// How many there were.
    type Reply = u64;
    async fn apply(&self, to: &mut AnyConnection) -> Result<u64, sqlx::Error> {
        let sql = "UPDATE runs SET state = 'expired' WHERE (state IN ('queued', 'held', 'offered') AND not_after < $1) \
             OR (state = 'running' AND not_after < $2)";
        Ok(sqlx::query(sql).bind(self.before).bind(self.before - LONGEST_MS).execute(to).await?.rows_affected())
    }
}

impl Write for NewJob {
    type Reply = JobId;
    async fn apply(&self, to: &mut AnyConnection) -> Result<JobId, sqlx::Error> {
        let row = sqlx::query("SELECT COALESCE(MAX(id), 0) + 1 AS next FROM jobs").fetch_one(&mut *to).await?;
        let id: i64 = row.try_get("next")?;
        let sql = "INSERT INTO jobs (id, action, staff_key, staff, reason, made_at, selected) VALUES ($1, $2, $3, $4, $5, $6, $7)";
        sqlx::query(sql)
            .bind(id)
            .bind(self.action.as_raw())
            .bind(self.key.to_string())
            .bind(self.staff.as_raw())
            .bind(self.reason.as_raw())
            .bind(self.at)
            .bind(number(self.runs.len() as u64))
            .execute(&mut *to)
            .await?;
        for runs in several(&self.runs) {
            let sql = rows_of("INSERT INTO runs (id, job, machine, state, order_envelope, not_after)", 6, runs.len());
            let mut query = sqlx::query(sqlx::AssertSqlSafe(sql + " ON CONFLICT DO NOTHING"));
            for run in runs {
                query = query
                    .bind(run.id.to_string())
                    .bind(id)
                    .bind(run.machine.to_string())
                    .bind(run.state.as_str())
                    .bind(encoded(&run.order, "order")?)
                    .bind(run.not_after);
            }
            query.execute(&mut *to).await?;
        }
        Ok(JobId(rows::unsigned(id)))
    }
}

/// A run has come further, short of its outcome.
#[derive(Debug)]
pub struct SetState {
    /// The run.
    pub run: RunId,
    /// Where it stands.
    pub state: RunState,
    /// Why the machine would not take it.
    pub refusal: Option<Refusal>,
}

impl Write for SetState {
    type Reply = ();
    async fn apply(&self, to: &mut AnyConnection) -> Result<(), sqlx::Error> {
        let sql = "UPDATE runs SET state = $2, refusal = $3 WHERE id = $1 AND state = 'offered'";
        let refusal = self.refusal.map(Refusal::code);
        sqlx::query(sql).bind(self.run.to_string()).bind(self.state.as_str()).bind(refusal).execute(to).await?;
        Ok(())
    }
}

/// What has not been sent yet.
const QUEUED: &str = "state IN ('queued', 'held')";

/// A queued run is taken back. False if it has been offered already.
#[derive(Debug)]
pub struct Withdraw {
    /// The run.
    pub run: RunId,
    /// Its machine: a run of another one is not touched.
    pub machine: MachineId,
}

/// Queued runs are about to be sent: those that were still queued.
pub(crate) async fn offer(runs: &[RunId], to: &mut AnyConnection) -> Result<HashSet<RunId>, sqlx::Error> {
    let mut offered = HashSet::with_capacity(runs.len());
    for portion in several(runs) {
        let sql = format!(
            "UPDATE runs SET state = '{}' WHERE id IN ({}) AND {QUEUED} RETURNING id",
            RunState::Offered.as_str(),
            places(0, portion.len())
        );
        let mut query = sqlx::query(sqlx::AssertSqlSafe(sql));
        for run in portion {
            query = query.bind(run.to_string());
        }
        for row in query.fetch_all(&mut *to).await? {
            let id = row.try_get::<String, _>("id")?;
            offered.insert(id.parse().map_err(|_| sqlx::Error::Decode("id".into()))?);
        }
    }
    Ok(offered)
}

impl Write for Withdraw {
    type Reply = bool;
    async fn apply(&self, to: &mut AnyConnection) -> Result<bool, sqlx::Error> {
        let state = RunState::Cancelled.as_str();
        let sql = format!("UPDATE runs SET state = '{state}' WHERE id = $1 AND machine = $2 AND {QUEUED}");
        let query = sqlx::query(sqlx::AssertSqlSafe(sql)).bind(self.run.to_string()).bind(self.machine.to_string());
        Ok(query.execute(to).await?.rows_affected() == 1)
    }
}

/// Keeps a signed cancel of a run that has been offered, for as long as its
/// machine may not have heard it.
#[derive(Debug)]
pub struct KeepCancel {
    /// The run.
    pub run: RunId,
    /// Its machine: a run of another one is not touched.
    pub machine: MachineId,
    /// The cancel.
    pub envelope: Envelope,
}

impl Write for KeepCancel {
    type Reply = ();
    async fn apply(&self, to: &mut AnyConnection) -> Result<(), sqlx::Error> {
        let sql = "UPDATE runs SET cancel = $3 WHERE id = $1 AND machine = $2 AND state IN ('offered', 'running')";
        let envelope = encoded(&self.envelope, "cancel")?;
        sqlx::query(sql).bind(self.run.to_string()).bind(self.machine.to_string()).bind(envelope).execute(to).await?;
        Ok(())
    }
}
