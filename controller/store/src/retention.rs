//! Drops old results in small portions.
//!
//! Dropped are ended runs with their orders, receipts and reports, and jobs without remaining runs.
//! Kept regardless of age are runs in progress, the newest complete report of each machine, the
//! state of each machine's chain of receipts, and the chain head before each kept receipt, so that
//! kept receipts still verify.

use crate::bulk::{places, several};
use crate::{Store, StoreError, Write, rows, states};
use fernwart_fleet::RunState;
use fernwart_protocol::document::UnixMs;
use fernwart_protocol::id::{Digest, MachineId, RunId};
use sqlx::any::AnyRow;
use sqlx::{AnyConnection, Row};
use std::collections::BTreeSet;

/// Runs dropped per transaction: few, so as not to block the writer.
const PORTION: i64 = 256;

/// Results that ended before these times are dropped; `None` keeps them for ever.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Before {
    /// Diagnoses.
    pub diagnoses: Option<UnixMs>,
    /// Runs of scripts.
    pub scripts: Option<UnixMs>,
}

impl Before {
    /// An SQL condition for runs that are old enough. `$1` is the time for diagnoses, `$2` that for
    /// scripts. A run without an outcome may still get one: it is kept as long as a script, counted
    /// from its order's end.
    fn condition() -> String {
        let over = states::is_one_of("state", RunState::ALL.into_iter().filter(|state| state.is_final()));
        format!(
            "{over} AND ((is_script = 0 AND settled_at < $1) OR (is_script = 1 AND settled_at < $2) \
             OR (is_script = 0 AND settled_at IS NULL AND not_after < $2) \
             OR (is_script = 1 AND settled_at IS NULL AND not_after < $2)) \
             AND id <> COALESCE((SELECT newest_run FROM records WHERE machine = runs.machine), '')"
        )
    }

    fn moments(self) -> [UnixMs; 2] {
        [self.diagnoses, self.scripts].map(|moment| moment.unwrap_or(UnixMs::MIN))
    }
}

/// Drops these runs, if they are still old enough.
#[derive(Debug)]
pub struct DropOld {
    /// The runs.
    pub runs: Vec<RunId>,
    /// The age limits.
    pub before: Before,
}

impl Write for DropOld {
    /// The number of runs dropped.
    type Reply = u64;
    async fn apply(&self, to: &mut AnyConnection) -> Result<u64, sqlx::Error> {
        let [diagnoses, scripts] = self.before.moments();
        let (mut jobs, mut machines, mut dropped) = (BTreeSet::new(), BTreeSet::new(), 0);
        for portion in several(&self.runs) {
            let sql = format!(
                "DELETE FROM runs WHERE id IN ({}) AND {} RETURNING job, machine, chain_seq, chain_head",
                places(2, portion.len()),
                Before::condition()
            );
            let mut query = sqlx::query(sqlx::AssertSqlSafe(sql)).bind(diagnoses).bind(scripts);
            for run in portion {
                query = query.bind(run.to_string());
            }
            for row in query.fetch_all(&mut *to).await? {
                dropped += 1;
                jobs.insert(row.try_get::<i64, _>("job")?);
                let machine: String = row.try_get("machine")?;
                if let Some(seq) = row.try_get::<Option<i64>, _>("chain_seq")? {
                    let head: Option<String> = row.try_get("chain_head")?;
                    let sql = "INSERT INTO chain_cuts (machine, seq, head) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING";
                    let query = sqlx::query(sql).bind(&machine).bind(seq).bind(head.unwrap_or_default());
                    query.execute(&mut *to).await?;
                    machines.insert(machine);
                }
            }
        }
        for machine in machines {
            // A cut is needed only before a kept receipt or at the end of the chain.
            let sql = "DELETE FROM chain_cuts WHERE machine = $1 \
                       AND seq <> (SELECT chain_seq FROM records WHERE machine = $1) \
                       AND NOT EXISTS (SELECT 1 FROM runs r WHERE r.machine = $1 AND r.chain_seq = chain_cuts.seq + 1)";
            sqlx::query(sql).bind(machine).execute(&mut *to).await?;
        }
        for job in jobs {
            // Keep the newest job: the next number is derived from it.
            let sql = "DELETE FROM jobs WHERE id = $1 AND id < (SELECT MAX(id) FROM jobs) \
                       AND NOT EXISTS (SELECT 1 FROM runs WHERE job = $1)";
            sqlx::query(sql).bind(job).execute(&mut *to).await?;
        }
        Ok(dropped)
    }
}

/// Results are dropped only if one arrived in this period before now. If none did, either no space
/// is needed, or the clock has jumped and makes everything look old.
const RECENT_MS: [UnixMs; 2] = [14 * DAY_MS, DAY_MS];

const DAY_MS: UnixMs = 24 * 3600 * 1000;

/// A smaller database is not compacted: that would save too little.
const WORTH_BYTES: u64 = 16 << 20;

/// The chain's head where earlier receipts were dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChainCut {
    /// The last dropped receipt.
    pub seq: u64,
    /// The chain's head after it.
    pub head: Digest,
}

impl Store {
    /// A portion of the runs that are old enough to be dropped.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn droppable(&self, before: Before) -> Result<Vec<RunId>, StoreError> {
        let [diagnoses, scripts] = before.moments();
        let sql = format!("SELECT id FROM runs WHERE {} LIMIT $3", Before::condition());
        let query = sqlx::query(sqlx::AssertSqlSafe(sql)).bind(diagnoses).bind(scripts).bind(PORTION);
        self.fetch_all(query).await?.iter().map(|row| rows::parsed(row, "id")).collect()
    }

    /// Drops all old results in portions, but only if a result arrived between a day and two weeks
    /// ago by this clock. Returns the number of runs dropped.
    ///
    /// # Errors
    /// When the database fails; portions dropped before stay dropped.
    pub async fn drop_old(&self, before: Before, now: UnixMs) -> Result<u64, StoreError> {
        let sql = "SELECT 1 FROM runs WHERE is_script IN (0, 1) AND settled_at BETWEEN $1 AND $2 LIMIT 1";
        let [from, to] = RECENT_MS.map(|ms| now.saturating_sub(ms));
        if self.fetch_optional(sqlx::query(sql).bind(from).bind(to)).await?.is_none() {
            return Ok(0);
        }
        let mut all = 0;
        loop {
            let runs = self.droppable(before).await?;
            let dropped = if runs.is_empty() { 0 } else { self.write(DropOld { runs, before }).await? };
            if dropped == 0 {
                return Ok(all);
            }
            all += dropped;
            // Let other writes go between.
            tokio::task::yield_now().await;
        }
    }

    /// The chain cuts of a machine after `seq` and up to `until`, in order.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn chain_cuts(&self, machine: &MachineId, seq: u64, until: u64) -> Result<Vec<ChainCut>, StoreError> {
        let sql = "SELECT seq, head FROM chain_cuts WHERE machine = $1 AND seq > $2 AND seq <= $3 ORDER BY seq";
        let rows = self
            .fetch_all(sqlx::query(sql).bind(machine.to_string()).bind(rows::number(seq)).bind(rows::number(until)))
            .await?;
        let cut =
            |row: &AnyRow| Ok(ChainCut { seq: rows::unsigned(row.try_get("seq")?), head: rows::parsed(row, "head")? });
        rows.iter().map(cut).collect()
    }

    /// Compacts the database if most of it is free, as after a first drop or a shorter retention,
    /// and the disk with `free` bytes has room for it. Returns whether it did.
    ///
    /// # Errors
    /// When there is no room for a copy; the database is unchanged then.
    pub async fn compact(&self, free: u64) -> Result<bool, StoreError> {
        let (bytes, unused) = self.size().await?;
        // VACUUM makes a copy and also writes it into the log.
        if bytes < WORTH_BYTES || unused * 2 < bytes || free < 2 * (bytes - unused) {
            return Ok(false);
        }
        let done = self.fetch_optional(sqlx::query("VACUUM")).await;
        self.fetch_optional(sqlx::query("PRAGMA wal_checkpoint(TRUNCATE)")).await?;
        done.map(|_| true).map_err(StoreError::Sql)
    }

    /// Size of the database, and how much of it is free, bytes.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn size(&self) -> Result<(u64, u64), StoreError> {
        let number = async |sql: &'static str| -> Result<u64, StoreError> {
            let row = self.fetch_optional(sqlx::query(sql)).await?;
            Ok(rows::unsigned(row.map_or(Ok(0), |row| row.try_get(0))?))
        };
        let page = number("PRAGMA page_size").await?;
        Ok((page * number("PRAGMA page_count").await?, page * number("PRAGMA freelist_count").await?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outcomes::tests::{MACHINES, envelope, fleet, outcome_of};
    use crate::{NewJob, NewOutcome, NewRun};
    use fernwart_protocol::id::{JobId, KeyId};
    use fernwart_protocol::text::Text;

    const DAY: UnixMs = DAY_MS;

    fn job(runs: Vec<NewRun>) -> NewJob {
        let (action, staff, reason) = (Text::clipped("diagnose"), Text::clipped("jana"), Text::default());
        NewJob { action, key: KeyId::from_bytes([0; 16]), staff, reason, at: 5, runs }
    }

    fn run(number: u8, is_script: bool, not_after: UnixMs) -> NewRun {
        let (id, machine) = (RunId::from_bytes([number; 16]), MACHINES[usize::from(number % 2)]);
        NewRun { id, machine, state: RunState::Offered, order: envelope(number), is_script, not_after }
    }

    #[tokio::test]
    async fn old_results_are_dropped_and_newest_reports_and_chain_heads_are_kept() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("store.sqlite");
        let store = fleet(&path).await;
        // Machine 0: looks 0, 2, 4, 8 and an act 6; machine 1: an act 1, a look 3.
        let acts = [1, 6];
        let mut jobs = Vec::new();
        for number in [0, 1, 2, 3, 4, 6, 8, 10] {
            let runs = vec![run(number, acts.contains(&number), 900)];
            jobs.push(store.write(job(runs)).await.expect("written"));
        }
        for number in [0, 1, 2, 3, 4, 6, 8u8] {
            let is_script = acts.contains(&number);
            let mut outcome = NewOutcome { is_script, now: DAY * UnixMs::from(number), ..outcome_of(number) };
            // Only complete diagnoses count as a newest report.
            outcome.diagnosed = outcome.diagnosed.filter(|_| number < 4);
            store.store_outcome(outcome).await.expect("written").expect("stored");
        }
        let now = DAY * 9;
        let before = Before { diagnoses: Some(DAY * 7), scripts: Some(DAY * 6) };
        let by_a_wrong_clock = Before { diagnoses: Some(DAY * 400), scripts: Some(DAY * 400) };
        assert_eq!(store.drop_old(by_a_wrong_clock, DAY * 400).await.expect("read"), 0);
        assert_eq!(store.drop_old(before, now).await.expect("dropped"), 3, "0, 4 and 1");
        assert_eq!(store.drop_old(before, now).await.expect("dropped"), 0);
        let mut left = Vec::new();
        for id in &jobs {
            left.extend(store.runs(*id).await.expect("read").iter().map(|run| run.id.as_bytes()[0]));
        }
        left.sort_unstable();
        assert_eq!(left, [2, 3, 6, 8, 10], "the newest reports, the act, what is new, what is under way");
        assert!(store.job(jobs[0]).await.expect("read").is_none(), "a job without runs goes");
        // Receipts of machine 0: 1 = run 0, 2 = run 2, 3 = run 4, 4 = run 6, 5 = run 8.
        let cuts = store.chain_cuts(&MACHINES[0], 0, u64::MAX).await.expect("read");
        assert_eq!(cuts.iter().map(|cut| cut.seq).collect::<Vec<_>>(), [1, 3]);
        let links = store.chain_links(&MACHINES[0], 0, 9).await.expect("read");
        assert_eq!(links.iter().map(|link| link.seq).collect::<Vec<_>>(), [2, 4, 5]);
        let chain = outcome_of(0).chain;
        for (cut, link) in cuts.iter().zip(&links) {
            let number = link.receipt.bytes.as_bytes()[0];
            assert_eq!(chain(&cut.head, &Digest::from_bytes([number; 32])), link.head, "it follows from the cut");
        }
        // The next receipt continues the chain.
        let records = store.heads(&MACHINES[0]).expect("there");
        let next = NewOutcome { now, ..outcome_of(10) };
        let stored = store.store_outcome(next).await.expect("written").expect("stored");
        assert_eq!((records.chain_seq, stored.seq), (5, 6));
        // Job numbers continue, too.
        let newest = store.write(job(vec![run(12, false, 900)])).await.expect("written");
        assert_eq!(newest, JobId(9));
        store.close().await;
    }

    #[tokio::test]
    async fn unanswered_runs_are_dropped_by_their_orders_end_and_forever_keeps_all() {
        let folder = tempfile::tempdir().expect("a folder");
        let store = fleet(&folder.path().join("store.sqlite")).await;
        let runs = vec![run(0, true, DAY), run(1, false, DAY), run(2, false, DAY * 3)];
        store.write(job(runs)).await.expect("written");
        store.store_outcome(NewOutcome { now: DAY * 3, ..outcome_of(2) }).await.expect("written").expect("stored");
        store.write(crate::Expire { before: DAY * 3 }).await.expect("written");
        let before = Before { diagnoses: Some(DAY * 2), scripts: None };
        assert_eq!(store.drop_old(before, DAY * 5).await.expect("dropped"), 0, "a late outcome may come");
        let before = Before { diagnoses: None, scripts: Some(DAY * 2) };
        assert_eq!(store.drop_old(before, DAY * 5).await.expect("dropped"), 2, "those that nobody answered");
        assert_eq!(store.drop_old(Before { diagnoses: None, scripts: None }, DAY * 5).await.expect("dropped"), 0);
        store.close().await;
    }

    /// A hundred thousand looks, a minute apart: the file is as large after all of them
    /// as after the first tenth.
    #[tokio::test]
    async fn the_store_does_not_grow_over_a_hundred_thousand_looks() {
        const LOOKS: u32 = 100_000;
        const MINUTE: UnixMs = 60_000;
        let folder = tempfile::tempdir().expect("a folder");
        let store = fleet(&folder.path().join("store.sqlite")).await;
        let mut sizes = Vec::new();
        for hundred in 0..LOOKS / 500 {
            let numbers = hundred * 500..(hundred + 1) * 500;
            let outcomes = numbers.map(|number| {
                let mut id = [9; 16];
                id[..4].copy_from_slice(&number.to_be_bytes());
                let run = RunId::from_bytes(id);
                let report = vec![7; 3000];
                NewOutcome { run, report, now: MINUTE * UnixMs::from(number), machine: MACHINES[0], ..outcome_of(2) }
            });
            for stored in futures::future::join_all(outcomes.map(|outcome| store.store_outcome(outcome))).await {
                stored.expect("written").expect("stored");
            }
            let now = MINUTE * UnixMs::from((hundred + 1) * 500);
            let before = Before { diagnoses: Some(now - 4 * DAY), scripts: None };
            store.drop_old(before, now).await.expect("dropped");
            sizes.push(store.size().await.expect("read").0);
        }
        let (tenth, last) = (sizes[sizes.len() / 8], sizes[sizes.len() - 1]);
        assert!(last <= tenth + tenth / 10, "{tenth} bytes, then {last}");
        // A shorter retention frees space when the store is compacted.
        assert!(!store.compact(u64::MAX).await.expect("asked"), "most of it is in use");
        let now = MINUTE * UnixMs::from(LOOKS);
        store.drop_old(Before { diagnoses: Some(now - DAY), scripts: None }, now).await.expect("dropped");
        assert_eq!(store.size().await.expect("read").0, last);
        assert!(!store.compact(last / 3).await.expect("asked"), "no room");
        assert!(store.compact(u64::MAX).await.expect("done"));
        let (bytes, unused) = store.size().await.expect("read");
        assert!(bytes < last / 2 && unused < bytes / 2, "{bytes}, {unused} of them free");
        assert_eq!(store.heads(&MACHINES[0]).expect("there").chain_seq, u64::from(LOOKS));
        assert_eq!(store.chain_cuts(&MACHINES[0], 0, u64::MAX).await.expect("read").len(), 1);
        store.close().await;
    }
}
