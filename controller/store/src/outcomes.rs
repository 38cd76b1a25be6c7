//! Stores each outcome once, with its position in its machine's chain of receipts. Outcomes are
//! batched into few statements.

use crate::bulk::{places, rows_of, several};
use crate::encoded;
use crate::roster::{Heads, Roster};
use crate::rows::{self, number};
use crate::writes::json;
use fernwart_fleet::{Diagnosed, RunEvent};
use fernwart_protocol::code::Denial;
use fernwart_protocol::document::{Envelope, Outcome, UnixMs};
use fernwart_protocol::id::{Digest, MachineId, RunId};
use sqlx::{AnyConnection, Row};
use std::collections::HashMap;

/// A run's outcome.
#[derive(Debug)]
pub struct NewOutcome {
    /// The run.
    pub run: RunId,
    /// The machine.
    pub machine: MachineId,
    /// Its order, which a restored hub may not have.
    pub order: Envelope,
    /// Whether it is a script's outcome.
    pub is_script: bool,
    /// How it ended.
    pub outcome: Outcome,
    /// The machine's signed receipt.
    pub receipt: Envelope,
    /// SHA-256 of the receipt.
    pub receipt_hash: Digest,
    /// The report.
    pub report: Vec<u8>,
    /// The summary of its report, if that covers the complete machine.
    pub diagnosed: Option<Diagnosed>,
    /// The journal's entry that the receipt names, and its hash.
    pub journal: (u64, Digest),
    /// When.
    pub now: UnixMs,
    /// Computes the chain's next head from the last one and the receipt's hash.
    pub chain: fn(&Digest, &Digest) -> Digest,
}

/// A receipt's position in its machine's chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoredOutcome {
    /// Its position.
    pub seq: u64,
    /// The chain's head after it.
    pub head: Digest,
    /// When it was first stored.
    pub at: UnixMs,
    /// Whether it was stored by this write.
    pub is_new: bool,
}

/// The result for each outcome.
pub(crate) type Reply = Result<StoredOutcome, Denial>;

/// Changes to the roster after the commit.
#[derive(Debug, Default)]
pub(crate) struct Learned(HashMap<MachineId, (Heads, Option<(Diagnosed, RunId)>)>);

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
    settled: Option<(Vec<u8>, StoredOutcome)>,
}

/// Writes outcomes inside a transaction, in their order. May be called again
/// after it was rolled back.
pub(crate) async fn apply(
    new: &[&NewOutcome],
    roster: &Roster,
    to: &mut AnyConnection,
) -> Result<(Vec<Reply>, Learned), sqlx::Error> {
    let mut known = known(new, to).await?;
    let (mut replies, mut fresh, mut learned) = (Vec::with_capacity(new.len()), Vec::new(), Learned::default());
    for outcome in new {
        let receipt = encoded(&outcome.receipt, "receipt")?;
        let run = known.get(&outcome.run);
        if run.is_some_and(|run| run.machine != outcome.machine.to_string()) {
            replies.push(Err(Denial::NoSuchMachine));
            continue;
        }
        if let Some((stored, settled)) = run.and_then(|run| run.settled.as_ref()) {
            // A run keeps its first outcome for ever; a different one is rejected.
            replies.push(if *stored == receipt { Ok(*settled) } else { Err(Denial::OtherOutcome) });
            continue;
        }
        let Some(before) = roster.heads(&outcome.machine) else {
            replies.push(Err(Denial::NoSuchMachine));
            continue;
        };
        let (records, verdict) = learned.0.entry(outcome.machine).or_insert((before, None));
        records.chain_seq += 1;
        records.chain_head = (outcome.chain)(&records.chain_head, &outcome.receipt_hash);
        // The receipt names a newer entry of the machine's journal.
        if outcome.journal.0 > records.journal_seq {
            (records.journal_seq, records.journal_head) = (outcome.journal.0, Some(outcome.journal.1));
        }
        if let Some(new) = &outcome.diagnosed {
            *verdict = Some((new.clone(), outcome.run));
        }
        let settled = StoredOutcome { seq: records.chain_seq, head: records.chain_head, at: outcome.now, is_new: true };
        let job = run.map_or(0, |run| run.job);
        let machine = outcome.machine.to_string();
        let stored = StoredOutcome { is_new: false, ..settled };
        known.insert(outcome.run, Known { job, machine, settled: Some((receipt.clone(), stored)) });
        fresh.push(Fresh { outcome, job, receipt, settled });
        replies.push(Ok(settled));
    }
    write_runs(&fresh, to).await?;
    write_records(&learned, to).await?;
    Ok((replies, learned))
}

async fn known(new: &[&NewOutcome], to: &mut AnyConnection) -> Result<HashMap<RunId, Known>, sqlx::Error> {
    let mut known = HashMap::with_capacity(new.len());
    let damaged = |what: &'static str| sqlx::Error::Decode(what.into());
    for portion in several(new) {
        let sql = format!(
            "SELECT id, job, machine, CASE WHEN state = '{}' THEN receipt END AS receipt, settled_at, chain_seq, chain_head \
             FROM runs WHERE id IN ({})",
            RunEvent::OutcomeStored.leads_to().as_str(),
            places(0, portion.len())
        );
        let mut query = sqlx::query(sqlx::AssertSqlSafe(sql));
        for outcome in portion {
            query = query.bind(outcome.run.to_string());
        }
        for row in query.fetch_all(&mut *to).await? {
            let id: RunId = row.try_get::<String, _>("id")?.parse().map_err(|_| damaged("id"))?;
            let settled = match row.try_get::<Option<Vec<u8>>, _>("receipt")? {
                Some(receipt) => {
                    let head = row.try_get::<String, _>("chain_head")?.parse().map_err(|_| damaged("chain_head"))?;
                    let seq = rows::unsigned(row.try_get("chain_seq")?);
                    Some((receipt, StoredOutcome { seq, head, at: row.try_get("settled_at")?, is_new: false }))
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
    outcome: &'a NewOutcome,
    job: i64,
    receipt: Vec<u8>,
    settled: StoredOutcome,
}

async fn write_runs(fresh: &[Fresh<'_>], to: &mut AnyConnection) -> Result<(), sqlx::Error> {
    const INTO: &str = "INSERT INTO runs (id, job, machine, state, order_envelope, is_script, not_after, outcome, \
                        receipt, report, settled_at, chain_seq, chain_head)";
    const ELSE: &str = " ON CONFLICT (id) DO UPDATE SET state = excluded.state, outcome = excluded.outcome, \
                        receipt = excluded.receipt, report = excluded.report, settled_at = excluded.settled_at, \
                        chain_seq = excluded.chain_seq, chain_head = excluded.chain_head";
    for portion in several(fresh) {
        let mut query = sqlx::query(sqlx::AssertSqlSafe(rows_of(INTO, 13, portion.len()) + ELSE));
        for Fresh { outcome, job, receipt, settled } in portion {
            query = query
                .bind(outcome.run.to_string())
                .bind(*job)
                .bind(outcome.machine.to_string())
                .bind(RunEvent::OutcomeStored.leads_to().as_str())
                .bind(encoded(&outcome.order, "order")?)
                .bind(i64::from(outcome.is_script))
                .bind(0_i64)
                .bind(outcome.outcome.as_str())
                .bind(receipt.as_slice())
                .bind(outcome.report.as_slice())
                .bind(outcome.now)
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

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::{JoinMachine, NewJob, NewRun, NoteJournal, Seen, Store};
    use fernwart_fleet::{Health, Machine, RunState};
    use fernwart_protocol::id::{CustomerId, KeyId, PublicKey, Signature, TokenId};
    use fernwart_protocol::staff::{Admission, CustomerRow, Token, TokenKind};
    use fernwart_protocol::text::{Blob, Text};
    use futures::future::join_all;
    use std::sync::Arc;

    pub(crate) const MACHINES: [MachineId; 2] = [MachineId::from_bytes([1; 16]), MachineId::from_bytes([2; 16])];

    pub(crate) fn envelope(number: u8) -> Envelope {
        let bytes = Blob::try_from(vec![number]).expect("short");
        Envelope { key: KeyId::from_bytes([0; 16]), signature: Signature::from_bytes([0; 64]), bytes }
    }

    fn run(number: u8) -> RunId {
        RunId::from_bytes([number; 16])
    }

    /// An outcome of a run, of the first machine for even numbers.
    pub(crate) fn outcome_of(number: u8) -> NewOutcome {
        NewOutcome {
            run: run(number),
            machine: MACHINES[usize::from(number % 2)],
            order: envelope(number),
            is_script: false,
            outcome: Outcome::Ok,
            receipt: envelope(number),
            receipt_hash: Digest::from_bytes([number; 32]),
            report: vec![number],
            diagnosed: Some(Diagnosed { health: Health::Warn(Text::clipped(&number.to_string())), at: 1 }),
            journal: (u64::from(number), Digest::from_bytes([number; 32])),
            now: i64::from(number),
            chain: |last, next| {
                let mut head = *last.as_bytes();
                head.iter_mut().zip(next.as_bytes()).for_each(|(head, next)| *head = head.rotate_left(1) ^ next);
                Digest::from_bytes(head)
            },
        }
    }

    pub(crate) async fn fleet(path: &std::path::Path) -> Store {
        let store = Store::open(path).await.expect("opened");
        let (id, customer) = (TokenId::from_bytes([7; 16]), CustomerId::from_bytes([8; 16]));
        let row =
            CustomerRow { id: customer, name: Text::clipped("Meyer"), language: Text::clipped("de"), machines: 0 };
        store.write(crate::AddCustomer(row)).await.expect("written").expect("new");
        let admits = TokenKind::Machine { customer, labels: Default::default(), admission: Admission::Automatic };
        let proof_key = Digest::from_bytes([0; 32]);
        store.write(Token { id, proof_key, admits, uses: 9, until: 1000, from_net: None }).await.expect("written");
        for (number, machine) in MACHINES.into_iter().enumerate() {
            let key = PublicKey::from_bytes([u8::try_from(number).expect("small"); 32]);
            let join = JoinMachine {
                token: id,
                machine,
                evidence_key: key,
                sealing_key: key,
                tls_key: Digest::from_bytes([1; 32]),
                hostname: Text::clipped("kasse"),
                os: Text::clipped("debian-12"),
                from: std::net::Ipv4Addr::LOCALHOST.into(),
                now: 5,
            };
            store.write(join).await.expect("written").expect("joined");
        }
        store
    }

    fn known(store: &Store) -> Vec<(Arc<Machine>, Heads)> {
        let both = |id| Some((store.machine(id)?, store.heads(id)?));
        MACHINES.iter().filter_map(both).collect()
    }

    #[tokio::test]
    async fn concurrent_outcomes_get_one_chain_position_each_and_the_roster_matches_the_disk() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("store.sqlite");
        let store = fleet(&path).await;
        let runs = (0..40).map(|number| NewRun {
            id: run(number),
            machine: MACHINES[usize::from(number % 2)],
            state: RunState::Offered,
            order: envelope(number),
            is_script: false,
            not_after: 900,
        });
        let key = KeyId::from_bytes([0; 16]);
        let (action, staff, reason) = (Text::clipped("diagnose"), Text::clipped("jana"), Text::default());
        let job =
            store.write(NewJob { action, key, staff, reason, at: 5, runs: runs.collect() }).await.expect("written");
        assert_eq!(store.runs(job).await.expect("read").len(), 40);

        // All at once: each twice, some without a job.
        let numbers: Vec<u8> = (0..44).chain(0..44).collect();
        let settled = join_all(numbers.iter().map(|number| store.store_outcome(outcome_of(*number)))).await;
        let settled: Vec<StoredOutcome> =
            settled.into_iter().map(|one| one.expect("written").expect("stored")).collect();
        for (first, again) in settled.iter().zip(&settled[44..]) {
            assert!(first.is_new != again.is_new, "one of the two is the first");
            assert_eq!(
                StoredOutcome { is_new: again.is_new, ..*first },
                *again,
                "the same place, however often it is said"
            );
        }
        for machine in 0..2 {
            let mut places: Vec<u64> = settled[..44].iter().skip(machine).step_by(2).map(|one| one.seq).collect();
            places.sort_unstable();
            assert_eq!(places, (1..=22).collect::<Vec<_>>(), "a chain without a gap");
        }
        let theirs = NewOutcome { machine: MACHINES[0], ..outcome_of(1) };
        assert_eq!(store.store_outcome(theirs).await.expect("written"), Err(Denial::NoSuchMachine));
        let other = NewOutcome { receipt: envelope(99), ..outcome_of(1) };
        assert_eq!(store.store_outcome(other).await.expect("written"), Err(Denial::OtherOutcome));

        // A concurrent note of a newer journal entry is not overwritten.
        let head = Digest::from_bytes([9; 32]);
        let note = NoteJournal { machine: MACHINES[0], seq: 500, head, alarm: None };
        let seen = Seen { machine: MACHINES[0], at: 77, about: None };
        let (noted, late, seen) =
            tokio::join!(store.write(note), store.store_outcome(outcome_of(44)), store.write(seen));
        assert!(noted.is_ok() && late.is_ok() && seen.is_ok());
        let records = store.heads(&MACHINES[0]).expect("there");
        assert_eq!((records.journal_seq, records.journal_head, records.chain_seq), (500, Some(head), 23));

        // A new alarm is added to earlier ones, without duplicates.
        for (seq, alarm) in [(501, "one"), (502, "two"), (503, "one")] {
            let note = NoteJournal { machine: MACHINES[0], seq, head, alarm: Some(Text::clipped(alarm)) };
            store.write(note).await.expect("written");
        }
        assert_eq!(store.machine(&MACHINES[0]).expect("there").alarm.to_string(), "two; one");

        let before = known(&store);
        assert_eq!(before.len(), 2);
        store.close().await;
        let store = Store::open(&path).await.expect("opened");
        assert_eq!(known(&store), before, "what was in memory is what is on disk");
        assert_eq!(store.newest_runs().await.expect("read").len(), 2);
        store.close().await;
    }
}
