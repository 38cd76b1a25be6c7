//! Jobs and runs: stored before they are offered, settled once, ended in time.

use crate::bulk::{places, rows_of, several};
use crate::rows::{self, number};
use crate::{Write, encoded, states};
use fernwart_fleet::{RunEvent, RunState};
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
        // The first condition is that of the index runs_open, word for word.
        let (set, changed) = (states::set(RunEvent::Expired), states::is_changed_by(RunEvent::Expired));
        let begun = states::is_one_of("state", std::iter::once(RunState::Running));
        let sql = format!("UPDATE runs {set} WHERE {changed} AND not_after < $1 AND (not_after < $2 OR NOT ({begun}))");
        let query = sqlx::query(sqlx::AssertSqlSafe(sql)).bind(self.before).bind(self.before - LONGEST_MS);
        Ok(query.execute(to).await?.rows_affected())
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

/// A machine says that a run is under way.
#[derive(Debug)]
pub struct Began(pub RunId);

impl Write for Began {
    type Reply = ();
    async fn apply(&self, to: &mut AnyConnection) -> Result<(), sqlx::Error> {
        let (set, changed) = (states::set(RunEvent::Began), states::is_changed_by(RunEvent::Began));
        let sql = format!("UPDATE runs {set} WHERE id = $1 AND {changed}");
        sqlx::query(sqlx::AssertSqlSafe(sql)).bind(self.0.to_string()).execute(to).await?;
        Ok(())
    }
}

/// A machine has not taken an order in.
#[derive(Debug)]
pub struct NotTaken {
    /// The run.
    pub run: RunId,
    /// Why.
    pub refusal: Refusal,
}

impl Write for NotTaken {
    type Reply = ();
    async fn apply(&self, to: &mut AnyConnection) -> Result<(), sqlx::Error> {
        let (set, changed) = (states::set(RunEvent::Refused), states::is_changed_by(RunEvent::Refused));
        let sql = format!("UPDATE runs {set}, refusal = $2 WHERE id = $1 AND {changed}");
        let query = sqlx::query(sqlx::AssertSqlSafe(sql)).bind(self.run.to_string());
        query.bind(self.refusal.code().into_owned()).execute(to).await?;
        Ok(())
    }
}

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
            "UPDATE runs {} WHERE id IN ({}) AND {} RETURNING id",
            states::set(RunEvent::Offered),
            places(0, portion.len()),
            states::is_changed_by(RunEvent::Offered)
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
        let (set, changed) = (states::set(RunEvent::Withdrawn), states::is_changed_by(RunEvent::Withdrawn));
        let sql = format!("UPDATE runs {set} WHERE id = $1 AND machine = $2 AND {changed}");
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
        let known = RunState::ALL.into_iter().filter(|state| state.may_be_known_there());
        let known = states::is_one_of("state", known);
        let sql = format!("UPDATE runs SET cancel = $3 WHERE id = $1 AND machine = $2 AND {known}");
        let query = sqlx::query(sqlx::AssertSqlSafe(sql)).bind(self.run.to_string()).bind(self.machine.to_string());
        query.bind(encoded(&self.envelope, "cancel")?).execute(to).await?;
        Ok(())
    }
}
