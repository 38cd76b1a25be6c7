//! Jobs and runs: each run is stored before it is offered, settled once, and ended when it expires.

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
    /// The action.
    pub action: Text<64>,
    /// The technician's key.
    pub key: KeyId,
    /// The technician's name.
    pub staff: Text<64>,
    /// Why.
    pub reason: Text<500>,
    /// When.
    pub at: UnixMs,
    /// Its runs.
    pub runs: Vec<NewRun>,
}

/// A new run.
#[derive(Debug)]
pub struct NewRun {
    /// Its id.
    pub id: RunId,
    /// Its machine.
    pub machine: MachineId,
    /// Its first state: queued, held, away or offered.
    pub state: RunState,
    /// Its order.
    pub order: Envelope,
    /// Whether it runs a script.
    pub is_script: bool,
    /// Until when the order is valid.
    pub not_after: UnixMs,
}

/// Ends expired runs without an outcome. An outcome that arrives later still counts.
#[derive(Debug)]
pub struct Expire {
    /// Ends orders that were valid until before this.
    pub before: UnixMs,
}

/// How long a run that has begun may continue after the end of its order.
const LONGEST_MS: UnixMs = 24 * 3600 * 1000;

impl Write for Expire {
    /// The number of runs ended.
    type Reply = u64;
    async fn apply(&self, to: &mut AnyConnection) -> Result<u64, sqlx::Error> {
        // The first condition must match that of the index runs_open word for word.
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
            let sql = rows_of(
                "INSERT INTO runs (id, job, machine, state, order_envelope, is_script, not_after)",
                7,
                runs.len(),
            );
            let mut query = sqlx::query(sqlx::AssertSqlSafe(sql + " ON CONFLICT DO NOTHING"));
            for run in runs {
                query = query
                    .bind(run.id.to_string())
                    .bind(id)
                    .bind(run.machine.to_string())
                    .bind(run.state.as_str())
                    .bind(encoded(&run.order, "order")?)
                    .bind(i64::from(run.is_script))
                    .bind(run.not_after);
            }
            query.execute(&mut *to).await?;
        }
        Ok(JobId(rows::unsigned(id)))
    }
}

/// A machine reports that a run has begun.
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

/// A machine has refused an order.
#[derive(Debug)]
pub struct NotTaken {
    /// The run.
    pub run: RunId,
    /// Why.
    pub refusal: Refusal,
}

impl Write for NotTaken {
    /// Whether that changed the run: an outcome may have been stored before.
    type Reply = bool;
    async fn apply(&self, to: &mut AnyConnection) -> Result<bool, sqlx::Error> {
        let (set, changed) = (states::set(RunEvent::Refused), states::is_changed_by(RunEvent::Refused));
        let sql = format!("UPDATE runs {set}, refusal = $2 WHERE id = $1 AND {changed}");
        let query = sqlx::query(sqlx::AssertSqlSafe(sql)).bind(self.run.to_string());
        Ok(query.bind(self.refusal.code().into_owned()).execute(to).await?.rows_affected() == 1)
    }
}

/// Withdraws a queued run. Returns false if it was offered already.
#[derive(Debug)]
pub struct Withdraw {
    /// The run.
    pub run: RunId,
    /// Its machine; a run of another machine is not changed.
    pub machine: MachineId,
}

/// Marks queued runs as offered, before they are sent. Returns those that were still queued.
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

/// Stores a signed cancel of an offered run for as long as its machine may not have received it.
#[derive(Debug)]
pub struct KeepCancel {
    /// The run.
    pub run: RunId,
    /// Its machine; a run of another machine is not changed.
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outcomes::tests::{MACHINES, envelope, fleet, outcome_of};
    use crate::{NewOutcome, Store};
    use fernwart_protocol::id::Digest;
    use proptest::prelude::*;
    use proptest::test_runner::{Config, TestRunner};
    use std::collections::BTreeMap;

    const RUNS: u8 = 4;

    /// What may happen, in any order.
    #[derive(Debug, Clone, Copy)]
    enum Step {
        /// An event of a run, from the party that may report it.
        Event(u8, RunEvent),
        /// One of two different outcomes of a run.
        Outcome(u8, u8),
        /// The hub is restored from its last backup.
        Restore,
        /// It is backed up.
        Backup,
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let event = (0..RUNS, proptest::sample::select(RunEvent::ALL.as_slice()));
        let step = prop_oneof![
            8 => event.prop_map(|(run, event)| match event {
                RunEvent::OutcomeStored => Step::Outcome(run, 0),
                event => Step::Event(run, event),
            }),
            2 => (0..RUNS, 0u8..2).prop_map(|(run, which)| Step::Outcome(run, which)),
            1 => Just(Step::Restore),
            1 => Just(Step::Backup),
        ];
        proptest::collection::vec(step, 1..40)
    }

    fn id(number: u8) -> RunId {
        RunId::from_bytes([number; 16])
    }

    /// The expected state of the store, computed from `RunState::after`.
    type Model = BTreeMap<u8, (RunState, Option<u8>)>;

    async fn apply(store: &Store, model: &mut Model, step: Step) {
        let (run, event) = match step {
            Step::Event(run, event) => (run, event),
            Step::Outcome(run, _) => (run, RunEvent::OutcomeStored),
            Step::Restore | Step::Backup => return,
        };
        let (machine, (state, kept)) = (MACHINES[usize::from(run % 2)], model.get_mut(&run).expect("known"));
        match (step, event) {
            (Step::Outcome(_, which), _) => {
                let receipt = envelope(run + 100 * which);
                let hash = Digest::from_bytes([run + 100 * which; 32]);
                let outcome = NewOutcome { receipt, receipt_hash: hash, ..outcome_of(run) };
                let stored = store.store_outcome(outcome).await.expect("written");
                // The first outcome counts for ever, and is acknowledged each time it is sent.
                assert_eq!(stored.is_ok(), kept.is_none_or(|first| first == which), "{stored:?}");
                kept.get_or_insert(which);
            }
            (_, RunEvent::Offered) => {
                let offered = store.offer(id(run)).await.expect("written");
                assert_eq!(offered, state.after(event).is_some());
            }
            (_, RunEvent::Began) => store.write(Began(id(run))).await.expect("written"),
            (_, RunEvent::Refused) => {
                let taken = store.write(NotTaken { run: id(run), refusal: Refusal::Paused }).await.expect("written");
                assert_eq!(taken, state.after(event).is_some());
            }
            (_, RunEvent::Withdrawn) => {
                let withdrawn = store.write(Withdraw { run: id(run), machine }).await.expect("written");
                assert_eq!(withdrawn, state.after(event).is_some());
            }
            (_, RunEvent::Expired) => {
                // Late enough that runs in progress expire too.
                let before = UnixMs::from(900) + 2 * LONGEST_MS;
                let ended = store.write(Expire { before }).await.expect("written");
                let expected = model.values().filter(|(state, _)| state.after(event).is_some()).count();
                assert_eq!(ended, expected as u64);
                for (state, _) in model.values_mut() {
                    *state = state.after(event).unwrap_or(*state);
                }
                return;
            }
            (_, RunEvent::OutcomeStored) => {}
        }
        *state = state.after(event).unwrap_or(*state);
    }

    async fn play(steps: &[Step]) {
        let folder = tempfile::tempdir().expect("a folder");
        let path = |name: &str| folder.path().join(name);
        let mut store = fleet(&path("0.sqlite")).await;
        let first = [RunState::Queued, RunState::Held, RunState::Away, RunState::Offered];
        let runs = (0..RUNS).map(|number| NewRun {
            id: id(number),
            machine: MACHINES[usize::from(number % 2)],
            state: first[usize::from(number)],
            order: envelope(number),
            is_script: true,
            not_after: 900,
        });
        let (action, staff, reason) = (Text::clipped("script"), Text::clipped("jana"), Text::default());
        let key = KeyId::from_bytes([0; 16]);
        let job = NewJob { action, key, staff, reason, at: 5, runs: runs.collect() };
        let job = store.write(job).await.expect("written");
        let mut model: Model = (0..RUNS).map(|run| (run, (first[usize::from(run)], None))).collect();
        let mut backup = None;
        for (number, step) in steps.iter().enumerate() {
            match step {
                Step::Backup => {
                    let copy = path(&format!("{number}.backup"));
                    // The writer has answered: what it has written is in the file.
                    Store::copy(&path("0.sqlite"), &copy).await.expect("copied");
                    backup = Some((copy, model.clone()));
                }
                Step::Restore => {
                    let Some((copy, then)) = &backup else { continue };
                    store.close().await;
                    for name in ["0.sqlite", "0.sqlite-wal", "0.sqlite-shm"] {
                        let _ = std::fs::remove_file(path(name));
                    }
                    std::fs::copy(copy, path("0.sqlite")).expect("restored");
                    store = Store::open(&path("0.sqlite")).await.expect("opened");
                    model = then.clone();
                }
                step => apply(&store, &mut model, *step).await,
            }
            let known = store.runs(job).await.expect("read");
            for (run, (state, kept)) in &model {
                let row = known.iter().find(|row| row.id == id(*run)).expect("there");
                assert_eq!(row.state, *state, "run {run} after {step:?}");
                assert_eq!(row.outcome.is_some(), kept.is_some());
                assert_eq!(row.receipt.as_ref(), kept.map(|which| envelope(run + 100 * which)).as_ref());
            }
        }
        store.close().await;
    }

    /// Duplicates, late events, and events that a restored hub gets again: the database matches the
    /// state type, and each run has at most one outcome.
    #[test]
    fn runs_in_the_database_follow_the_state_type_for_events_in_any_order() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let config = Config { cases: 40, failure_persistence: None, ..Config::default() };
        // A failing case is shrunk and printed with its steps.
        let mut runner = TestRunner::new_with_rng(
            config,
            proptest::test_runner::TestRng::deterministic_rng(proptest::test_runner::RngAlgorithm::ChaCha),
        );
        let played = runner.run(&steps(), |steps| {
            runtime.block_on(play(&steps));
            Ok(())
        });
        if let Err(error) = played {
            panic!("{error}");
        }
    }

    #[tokio::test]
    async fn expired_runs_are_found_through_their_index() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("store.sqlite");
        fleet(&path).await.close().await;
        let sql = format!(
            "EXPLAIN QUERY PLAN UPDATE runs {} WHERE {} AND not_after < 5",
            states::set(RunEvent::Expired),
            states::is_changed_by(RunEvent::Expired)
        );
        let mut connection = Store::reader(&path).await.expect("opened");
        let rows = sqlx::query(sqlx::AssertSqlSafe(sql)).fetch_all(&mut connection).await.expect("explained");
        let plan: Vec<String> = rows.iter().map(|row| row.try_get("detail").expect("text")).collect();
        assert!(plan.iter().any(|step| step.contains("runs_open")), "{plan:?}");
    }
}
