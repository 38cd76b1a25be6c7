//! Outcomes: each once, with its place in its machine's chain of receipts. Many
//! at a time, in few statements.

use crate::bulk::{places, rows_of, several};
use crate::encoded;
use crate::roster::{Records, Roster};
use crate::rows::{self, number};
use crate::writes::json;
use fernwart_fleet::RunState;
use fernwart_protocol::code::Denial;
use fernwart_protocol::document::{Envelope, Outcome, UnixMs};
use fernwart_protocol::id::{Digest, MachineId, RunId};
use fernwart_protocol::staff::Verdict;
use sqlx::{AnyConnection, Row};
use std::collections::HashMap;

/// A run's outcome.
#[derive(Debug)]
pub struct Settle {
    /// The run.
    pub run: RunId,
    /// The machine.
    pub machine: MachineId,
    /// Its order, for a hub that was restored from before it.
    pub order: Envelope,
    /// How it ended.
    pub outcome: Outcome,
    /// The machine's signed word.
    pub receipt: Envelope,
    /// SHA-256 of the receipt.
    pub receipt_hash: Digest,
    /// The report.
    pub report: Vec<u8>,
    /// What the report says, if there is one.
    pub verdict: Option<Verdict>,
    /// The journal's entry that the receipt names, and its hash.
    pub journal: (u64, Digest),
    /// When.
    pub now: UnixMs,
    /// The chain's next head from its last and the receipt's hash.
    pub chain: fn(&Digest, &Digest) -> Digest,
}

/// Where a receipt stands in its machine's chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settled {
    /// Its position.
    pub seq: u64,
    /// The chain's head with it.
    pub head: Digest,
    /// When it was stored first.
    pub at: UnixMs,
}

/// What comes back for each: where it stands, or why it may not.
pub(crate) type Reply = Result<Settled, Denial>;

/// What the roster learns once all is on disk.
#[derive(Debug, Default)]
pub(crate) struct Learned(HashMap<MachineId, (Records, Option<(Verdict, RunId)>)>);

impl Learned {
    pub(crate) fn teach(self, roster: &Roster) {
        roster.settled(
            self.0.into_iter().map(|(id, (records, verdict))| (id, records, verdict.map(|(verdict, _)| verdict))),
        );
    }
}

/// What the database knows of a run.
struct Known {
    job: i64,
    machine: String,
    settled: Option<(Vec<u8>, Settled)>,
}

/// Writes outcomes inside a transaction, in their order. May be called again
/// after it was rolled back.
pub(crate) async fn apply(
    settles: &[&Settle],
    roster: &Roster,
    to: &mut AnyConnection,
) -> Result<(Vec<Reply>, Learned), sqlx::Error> {
    let mut known = known(settles, to).await?;
    let (mut replies, mut fresh, mut learned) = (Vec::with_capacity(settles.len()), Vec::new(), Learned::default());
    for settle in settles {
        let receipt = encoded(&settle.receipt, "receipt")?;
        let run = known.get(&settle.run);
        if run.is_some_and(|run| run.machine != settle.machine.to_string()) {
            replies.push(Err(Denial::NoSuchMachine));
            continue;
        }
        if let Some((stored, settled)) = run.and_then(|run| run.settled.as_ref()) {
            // One outcome a run, for ever: another one is not signed for.
            replies.push(if *stored == receipt { Ok(*settled) } else { Err(Denial::OtherOutcome) });
            continue;
        }
        let Some(before) = roster.records(&settle.machine) else {
            replies.push(Err(Denial::NoSuchMachine));
            continue;
        };
        let (records, verdict) = learned.0.entry(settle.machine).or_insert((before, None));
        records.chain_seq += 1;
        records.chain_head = (settle.chain)(&records.chain_head, &settle.receipt_hash);
        // So far the machine's journal has come, in its own signed word.
        if settle.journal.0 > records.journal_seq {
            (records.journal_seq, records.journal_head) = (settle.journal.0, Some(settle.journal.1));
        }
        if let Some(new) = &settle.verdict {
            *verdict = Some((new.clone(), settle.run));
        }
        let settled = Settled { seq: records.chain_seq, head: records.chain_head, at: settle.now };
        let job = run.map_or(0, |run| run.job);
        let machine = settle.machine.to_string();
        known.insert(settle.run, Known { job, machine, settled: Some((receipt.clone(), settled)) });
        fresh.push(Fresh { settle, job, receipt, settled });
        replies.push(Ok(settled));
    }
    write_runs(&fresh, to).await?;
    write_records(&learned, to).await?;
    Ok((replies, learned))
}

async fn known(settles: &[&Settle], to: &mut AnyConnection) -> Result<HashMap<RunId, Known>, sqlx::Error> {
    let mut known = HashMap::with_capacity(settles.len());
    let damaged = |what: &'static str| sqlx::Error::Decode(what.into());
    for portion in several(settles) {
        let sql = format!(
            "SELECT id, job, machine, CASE WHEN state = '{}' THEN receipt END AS receipt, settled_at, chain_seq, chain_head \
             FROM runs WHERE id IN ({})",
            RunState::Settled.as_str(),
            places(0, portion.len())
        );
        let mut query = sqlx::query(sqlx::AssertSqlSafe(sql));
        for settle in portion {
            query = query.bind(settle.run.to_string());
        }
        for row in query.fetch_all(&mut *to).await? {
            let id: RunId = row.try_get::<String, _>("id")?.parse().map_err(|_| damaged("id"))?;
            let settled = match row.try_get::<Option<Vec<u8>>, _>("receipt")? {
                Some(receipt) => {
                    let head = row.try_get::<String, _>("chain_head")?.parse().map_err(|_| damaged("chain_head"))?;
                    let seq = rows::unsigned(row.try_get("chain_seq")?);
                    Some((receipt, Settled { seq, head, at: row.try_get("settled_at")? }))
                }
                None => None,
            };
            known.insert(id, Known { job: row.try_get("job")?, machine: row.try_get("machine")?, settled });
        }
    }
    Ok(known)
}

/// An outcome that is not stored yet.
struct Fresh<'a> {
    settle: &'a Settle,
    job: i64,
    receipt: Vec<u8>,
    settled: Settled,
}

async fn write_runs(fresh: &[Fresh<'_>], to: &mut AnyConnection) -> Result<(), sqlx::Error> {
    const INTO: &str = "INSERT INTO runs (id, job, machine, state, order_envelope, not_after, outcome, receipt, report, \
                        settled_at, chain_seq, chain_head)";
    const ELSE: &str = " ON CONFLICT (id) DO UPDATE SET state = excluded.state, outcome = excluded.outcome, \
                        receipt = excluded.receipt, report = excluded.report, settled_at = excluded.settled_at, \
                        chain_seq = excluded.chain_seq, chain_head = excluded.chain_head";
    for portion in several(fresh) {
        let mut query = sqlx::query(sqlx::AssertSqlSafe(rows_of(INTO, 12, portion.len()) + ELSE));
        for Fresh { settle, job, receipt, settled } in portion {
            query = query
                .bind(settle.run.to_string())
                .bind(*job)
                .bind(settle.machine.to_string())
                .bind(RunState::Settled.as_str())
                .bind(encoded(&settle.order, "order")?)
                .bind(0_i64)
                .bind(settle.outcome.as_str())
                .bind(receipt.as_slice())
                .bind(settle.report.as_slice())
                .bind(settle.now)
                .bind(number(settled.seq))
                .bind(settled.head.to_string());
        }
        query.execute(&mut *to).await?;
    }
    Ok(())
}

async fn write_records(learned: &Learned, to: &mut AnyConnection) -> Result<(), sqlx::Error> {
    const INTO: &str =
        "INSERT INTO records (machine, chain_seq, chain_head, journal_seq, journal_head, verdict, newest_run)";
    const ELSE: &str = " ON CONFLICT (machine) DO UPDATE SET chain_seq = excluded.chain_seq, \
                        chain_head = excluded.chain_head, \
                        journal_head = CASE WHEN excluded.journal_seq > records.journal_seq \
                        THEN excluded.journal_head ELSE records.journal_head END, \
                        journal_seq = CASE WHEN excluded.journal_seq > records.journal_seq \
                        THEN excluded.journal_seq ELSE records.journal_seq END, \
                        verdict = CASE WHEN excluded.newest_run = '' THEN records.verdict ELSE excluded.verdict END, \
                        newest_run = CASE WHEN excluded.newest_run = '' THEN records.newest_run ELSE excluded.newest_run END";
    let all: Vec<_> = learned.0.iter().collect();
    for portion in several(&all) {
        let mut query = sqlx::query(sqlx::AssertSqlSafe(rows_of(INTO, 7, portion.len()) + ELSE));
        for (machine, (records, verdict)) in portion {
            let journal_head = records.journal_head.map(|head| head.to_string()).unwrap_or_default();
            let (verdict, newest) = match verdict {
                Some((verdict, run)) => (json(verdict)?, run.to_string()),
                None => (String::new(), String::new()),
            };
            query = query
                .bind(machine.to_string())
                .bind(number(records.chain_seq))
                .bind(records.chain_head.to_string())
                .bind(number(records.journal_seq))
                .bind(journal_head)
                .bind(verdict)
                .bind(newest);
        }
        query.execute(&mut *to).await?;
    }
    Ok(())
}
