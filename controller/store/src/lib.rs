//! The fleet in a database: maps the types of `fleet` to rows and back.
//!
//! The database is SQLite, through sqlx's `AnyPool`. Reads go to the pool. Writes go through one
//! writer task that batches them into transactions; callers wait for the commit. It imports
//! `fleet` and the protocol's plain types, and has no access to links or keys.

mod bulk;
mod disk;
mod outcomes;
mod retention;
mod roster;
mod rows;
mod runs;
mod states;
mod writer;
mod writes;

pub use disk::{Disk, Piece, on_disk};
pub use outcomes::{NewOutcome, StoredOutcome};
pub use retention::{Before, ChainCut, DropOld};
pub use roster::{Change, Heads};
pub use runs::{Began, Expire, KeepCancel, NewJob, NewRun, NotTaken, Withdraw};
pub use writer::Write;
pub use writes::{
    Acknowledge, AddCustomer, Admit, Draft, Group, JoinMachine, JoinStaff, Joined, KeepLock, KeepSealedTo, Label,
    NoteJournal, Quarantine, RaiseAlarm, RejectStaff, Rename, Resume, Retire, Seen, SeenAs, SetStanding, SetTlsKey,
    Suspend,
};

use fernwart_fleet::{Job, Machine, Run, RunEvent, RunState, Standing, StoredToken};
use fernwart_protocol::code::{Denial, Refusal};
use fernwart_protocol::codec;
use fernwart_protocol::document::{Envelope, UnixMs};
use fernwart_protocol::id::{CustomerId, Digest, JobId, KeyId, MachineId, RunId, TokenId};
use fernwart_protocol::staff::{ChainLink, CustomerRow, PendingStaff};
use fernwart_protocol::text::MachineName;
use roster::Roster;
use sqlx::any::{AnyArguments, AnyPoolOptions, AnyRow};
use sqlx::{AnyConnection, AnyPool, Connection, Row};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Once};
use std::time::Duration;

type Query<'q> = sqlx::query::Query<'q, sqlx::Any, AnyArguments>;

/// The store cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The database failed.
    #[error("the store's database failed")]
    Sql(#[source] sqlx::Error),
    /// The file is damaged, or never was one.
    #[error("{0} is no database: it was damaged or replaced")]
    NoDatabase(PathBuf),
    /// A newer program has written it.
    #[error("a newer version of this program has written the store: it has step {0} of the tables' shape")]
    Newer(i64),
    /// Its schema cannot be migrated.
    #[error("bringing the store's tables up to date")]
    Migrate(#[source] sqlx::migrate::MigrateError),
    /// A row cannot be read.
    #[error("the store's {0} cannot be read")]
    Damaged(&'static str),
    /// The writer has stopped.
    #[error("the store is closed")]
    Closed,
}

impl StoreError {
    /// Whether the disk has no room left.
    pub fn is_full(&self) -> bool {
        // SQLITE_FULL is 13, PostgreSQL's disk_full is 53100.
        match self {
            Self::Sql(sqlx::Error::Database(error)) => matches!(error.code().as_deref(), Some("13" | "53100")),
            _ => false,
        }
    }
}

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        Self::Sql(error)
    }
}

/// The store. Clones are the same store.
#[derive(Debug, Clone)]
pub struct Store {
    disk: Option<Arc<dyn Disk>>,
    pool: AnyPool,
    roster: Arc<Roster>,
    writer: writer::Handle,
}

/// Number of connections: one writes, the others read; more do not help an embedded database.
const CONNECTIONS: u32 = 4;

/// Whether a file begins like an SQLite database, or is empty or missing and may become one. A pool
/// of connections would try a damaged file again and again, and in the end report only the time.
/// A write-ahead log beside it may still repair its beginning.
fn begins_like_a_database(path: &Path) -> bool {
    let log = path.with_extension("sqlite-wal");
    if log.metadata().is_ok_and(|data| data.len() > 0) {
        return true;
    }
    const MAGIC: &[u8] = b"SQLite format 3\0";
    let mut begin = Vec::new();
    match std::fs::File::open(path).and_then(|file| file.take(MAGIC.len() as u64).read_to_end(&mut begin)) {
        Ok(0) | Err(_) => true,
        Ok(_) => begin == MAGIC,
    }
}

static DRIVERS: Once = Once::new();

impl Store {
    /// Opens the embedded database in a file, or creates it.
    ///
    /// # Errors
    /// When it cannot be opened or brought up to date.
    pub async fn open(path: &Path) -> Result<Self, StoreError> {
        Self::open_on(None, path).await
    }

    /// The same, with a custom executor for its work.
    ///
    /// # Errors
    /// When it cannot be opened or brought up to date.
    pub async fn open_on(disk: Option<Arc<dyn Disk>>, path: &Path) -> Result<Self, StoreError> {
        if !begins_like_a_database(path) {
            return Err(StoreError::NoDatabase(path.to_owned()));
        }
        let url = format!("sqlite://{}?mode=rwc", path.display());
        let (pool, roster) = disk::ask(&disk, Self::connect(&url)).await?;
        let writer = writer::start(disk.clone(), pool.clone(), roster.clone());
        Ok(Self { disk, pool, roster, writer })
    }

    /// Copies the embedded database in a file, which may be in use, into a new one.
    ///
    /// # Errors
    /// When it cannot be read, or the disk cannot hold the copy.
    pub async fn copy(from: &Path, to: &Path) -> Result<(), StoreError> {
        let mut connection = Self::reader(from).await?;
        sqlx::query("VACUUM INTO $1").bind(to.display().to_string()).execute(&mut connection).await?;
        Ok(connection.close().await?)
    }

    /// Whether the database in a file is undamaged.
    ///
    /// # Errors
    /// When it cannot be read at all.
    pub async fn is_complete(path: &Path) -> Result<bool, StoreError> {
        let mut connection = Self::reader(path).await?;
        let row = sqlx::query("PRAGMA integrity_check(1)").fetch_one(&mut connection).await?;
        let is_complete = row.try_get::<String, _>(0)? == "ok";
        connection.close().await?;
        Ok(is_complete)
    }

    /// Whether this store belongs to an organisation, identified by the hash of its first root; a
    /// new store is assigned to it. SQLite's `application_id` records the owner.
    ///
    /// # Errors
    /// When that cannot be read or written.
    pub async fn is_of(&self, shop: Digest) -> Result<bool, StoreError> {
        let [a, b, c, d, ..] = *shop.as_bytes();
        // 0 means that no owner is set.
        let own = i64::from(i32::from_be_bytes([a & 0x7f, b, c, d | 1]));
        let row = self.fetch_optional(sqlx::query("PRAGMA application_id")).await?;
        let owner = row.map_or(Ok(0), |row| row.try_get::<i64, _>(0))?;
        if owner == 0 {
            let sql = format!("PRAGMA application_id = {own}");
            sqlx::query(sqlx::AssertSqlSafe(sql)).execute(&self.pool).await?;
        }
        Ok(owner == 0 || owner == own)
    }

    /// Prepares a database that was restored from a backup. Ends orders that may not have reached
    /// their machines: they may have been cancelled since, unknown to this hub. Their outcomes are
    /// still accepted. Job numbers skip to the next ten thousand, above any number given out since
    /// the backup. Returns how many orders were ended.
    ///
    /// # Errors
    /// When it cannot be written.
    pub async fn put_back(path: &Path, now: UnixMs) -> Result<u64, StoreError> {
        let mut reader = Self::reader(path).await?;
        let mut connection = reader.begin().await?;
        let mut over = 0;
        // Orders that were never sent are withdrawn; those that were sent may still get an outcome.
        for (event, states) in [
            (RunEvent::Withdrawn, [RunState::Held, RunState::Queued].as_slice()),
            (RunEvent::Expired, &[RunState::Offered]),
        ] {
            let (set, these) = (states::set(event), states::is_one_of("state", states.iter().copied()));
            let sql = format!("UPDATE runs {set} WHERE {these}");
            over += sqlx::query(sqlx::AssertSqlSafe(sql)).execute(&mut *connection).await?.rows_affected();
        }
        let sql = "INSERT INTO jobs (id, action, staff_key, staff, reason, made_at, selected) \
                   SELECT (COALESCE(MAX(id), 0) / 10000 + 1) * 10000, 'restore', '00000000000000000000000000000000', '-', \
                   'the hub was put back from a backup', $1, 0 FROM jobs";
        sqlx::query(sql).bind(now).execute(&mut *connection).await?;
        connection.commit().await?;
        reader.close().await?;
        Ok(over)
    }

    async fn reader(path: &Path) -> Result<AnyConnection, StoreError> {
        DRIVERS.call_once(sqlx::any::install_default_drivers);
        Ok(AnyConnection::connect(&format!("sqlite://{}?mode=rw", path.display())).await?)
    }

    async fn connect(url: &str) -> Result<(AnyPool, Arc<Roster>), StoreError> {
        DRIVERS.call_once(sqlx::any::install_default_drivers);
        let pool = AnyPoolOptions::new()
            .max_connections(CONNECTIONS)
            .acquire_timeout(Duration::from_secs(5))
            .after_connect(|connection, _| {
                Box::pin(async move {
                    for pragma in
                        ["journal_mode = WAL", "synchronous = FULL", "busy_timeout = 10000", "cache_size = -2000"]
                    {
                        sqlx::query(sqlx::AssertSqlSafe(format!("PRAGMA {pragma}"))).execute(&mut *connection).await?;
                    }
                    Ok(())
                })
            })
            .connect(url)
            .await?;
        sqlx::migrate!("./migrations").run(&pool).await.map_err(|error| match error {
            sqlx::migrate::MigrateError::VersionMissing(step) => StoreError::Newer(step),
            error => StoreError::Migrate(error),
        })?;
        let roster = Arc::new(Roster::load(&mut *pool.acquire().await?).await?);
        Ok((pool, roster))
    }

    /// Writes; the data is on disk when this returns. Cancel safe: a write that has begun is
    /// finished.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn write<W: Write>(&self, write: W) -> Result<W::Reply, StoreError> {
        self.writer.write(write).await
    }

    /// Marks a queued run as offered, before it is sent. Returns false if it is not queued any
    /// more.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn offer(&self, run: RunId) -> Result<bool, StoreError> {
        self.writer.offer(run).await
    }

    /// Stores an outcome with its position in its machine's chain; on disk when this returns.
    /// Cancel safe.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn store_outcome(&self, outcome: NewOutcome) -> Result<Result<StoredOutcome, Denial>, StoreError> {
        self.writer.store_outcome(outcome).await
    }

    /// Waits for all writes and closes.
    pub async fn close(&self) {
        self.writer.stop().await;
        self.pool.close().await;
    }

    async fn fetch_all<'q>(&self, query: Query<'q>) -> Result<Vec<AnyRow>, sqlx::Error> {
        disk::ask(&self.disk, query.fetch_all(&self.pool)).await
    }

    async fn fetch_optional<'q>(&self, query: Query<'q>) -> Result<Option<AnyRow>, sqlx::Error> {
        disk::ask(&self.disk, query.fetch_optional(&self.pool)).await
    }

    /// All customers with how many machines each has.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn customers(&self) -> Result<Vec<CustomerRow>, StoreError> {
        let sql = "SELECT c.id, c.name, c.language, \
                   (SELECT COUNT(*) FROM machines m WHERE m.customer = c.id AND m.standing = 'admitted') AS machines \
                   FROM customers c ORDER BY c.name";
        self.fetch_all(sqlx::query(sql)).await?.iter().map(rows::customer).collect()
    }

    /// Machines of this standing, by name.
    pub fn machines(&self, standing: Standing) -> Vec<Arc<Machine>> {
        self.roster.machines(standing)
    }

    /// How many machines there are, of every standing.
    pub fn known(&self) -> usize {
        self.roster.len()
    }

    /// One machine, whatever its standing.
    pub fn machine(&self, id: &MachineId) -> Option<Arc<Machine>> {
        self.roster.machine(id)
    }

    /// Whether this statement of a machine's sealing key is the stored one.
    pub fn is_sealed_to(&self, id: &MachineId, statement: &Envelope) -> bool {
        let known = self.roster.heads(id).and_then(|records| records.sealed_to);
        known.is_some() && codec::encode(statement).ok().map(|statement| roster::mark_of(&statement)) == known
    }

    /// Queues a write without waiting for the disk, for data that may be lost. Waits only for room
    /// in the queue.
    pub async fn note<W: Write>(&self, write: W) {
        self.writer.note(write).await;
    }

    /// Machines that may have undelivered orders.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn redelivery(&self) -> Result<Vec<MachineId>, StoreError> {
        let sql = format!("SELECT DISTINCT machine FROM runs WHERE {}", states::is_brought_again());
        let rows = self.fetch_all(sqlx::query(sqlx::AssertSqlSafe(sql))).await?;
        rows.iter().map(|row| rows::parsed(row, "machine")).collect()
    }

    /// The state of a machine's records.
    pub fn heads(&self, id: &MachineId) -> Option<Heads> {
        self.roster.heads(id)
    }

    /// A token, and whether this key has used it.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn token(&self, id: &TokenId, used_by: &str) -> Result<Option<StoredToken>, StoreError> {
        let found = async { rows::token(&mut *self.pool.acquire().await?, id, used_by).await };
        Ok(disk::ask(&self.disk, found).await?)
    }

    /// A staff member who has joined: name, key hashes, and the TLS key itself.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn staff_join(&self, key: &KeyId) -> Result<Option<(PendingStaff, Vec<u8>)>, StoreError> {
        let sql = "SELECT * FROM staff_joins WHERE staff_key = $1";
        let row = self.fetch_optional(sqlx::query(sql).bind(key.to_string())).await?;
        row.as_ref().map(rows::staff_join).transpose()
    }

    /// All staff members who have ever joined.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn staff_joins(&self) -> Result<Vec<PendingStaff>, StoreError> {
        let sql = "SELECT * FROM staff_joins ORDER BY joined_at";
        let rows = self.fetch_all(sqlx::query(sql)).await?;
        rows.iter().map(|row| rows::staff_join(row).map(|(staff, _)| staff)).collect()
    }

    /// Machines that had this name before they were renamed.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn formerly_named(&self, name: &MachineName) -> Result<Vec<MachineId>, StoreError> {
        let query = sqlx::query("SELECT machine FROM former_names WHERE name = $1");
        let rows = self.fetch_all(query.bind(name.as_str().to_owned())).await?;
        rows.iter().map(|row| rows::parsed(row, "machine")).collect()
    }

    /// The signed retirement of a machine.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn retirement(&self, id: &MachineId) -> Result<Option<Envelope>, StoreError> {
        let query = sqlx::query("SELECT envelope FROM retirements WHERE machine = $1");
        let row = self.fetch_optional(query.bind(id.to_string())).await?;
        row.map(|row| rows::decoded(row.try_get("envelope")?, "retirements")).transpose()
    }

    /// Suspended staff keys.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn suspensions(&self) -> Result<Vec<KeyId>, StoreError> {
        let rows = self.fetch_all(sqlx::query("SELECT staff_key FROM suspensions")).await?;
        rows.iter().map(|row| rows::parsed(row, "staff_key")).collect()
    }

    /// All locks.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn locks(&self) -> Result<Vec<Envelope>, StoreError> {
        let rows = self.fetch_all(sqlx::query("SELECT envelope FROM locks")).await?;
        rows.iter().map(|row| rows::decoded(row.try_get("envelope")?, "locks")).collect()
    }

    /// All drafts, newest first.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn drafts(&self) -> Result<Vec<(Digest, Vec<u8>)>, StoreError> {
        let rows = self.fetch_all(sqlx::query("SELECT id, draft FROM drafts ORDER BY made_at DESC LIMIT 64")).await?;
        rows.iter().map(|row| Ok((rows::parsed(row, "id")?, row.try_get("draft")?))).collect()
    }

    /// One draft.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn draft(&self, id: &Digest) -> Result<Option<Vec<u8>>, StoreError> {
        let row =
            self.fetch_optional(sqlx::query("SELECT draft FROM drafts WHERE id = $1").bind(id.to_string())).await?;
        Ok(row.map(|row| row.try_get("draft")).transpose()?)
    }

    /// The newest jobs.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn jobs(&self, count: i64) -> Result<Vec<Job>, StoreError> {
        let sql = format!("{} ORDER BY j.id DESC LIMIT $1", rows::jobs());
        let rows = self.fetch_all(sqlx::query(sqlx::AssertSqlSafe(sql)).bind(count)).await?;
        rows.iter().map(rows::job).collect()
    }

    /// One job.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn job(&self, id: JobId) -> Result<Option<Job>, StoreError> {
        let sql = format!("{} WHERE j.id = $1", rows::jobs());
        let row = self.fetch_optional(sqlx::query(sqlx::AssertSqlSafe(sql)).bind(rows::number(id.0))).await?;
        row.as_ref().map(rows::job).transpose()
    }

    /// A job's runs, by machine.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn runs(&self, job: JobId) -> Result<Vec<Run>, StoreError> {
        let sql = "SELECT r.id, r.job, r.machine, r.state, r.outcome, r.refusal, r.receipt, r.settled_at, m.name FROM runs r \
                   JOIN machines m ON m.id = r.machine WHERE r.job = $1 ORDER BY m.name";
        self.fetch_all(sqlx::query(sql).bind(rows::number(job.0))).await?.iter().map(rows::run).collect()
    }

    /// A job's orders.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn orders(&self, job: JobId) -> Result<Vec<Envelope>, StoreError> {
        let rows = self
            .fetch_all(
                sqlx::query("SELECT order_envelope FROM runs WHERE job = $1 ORDER BY id").bind(rows::number(job.0)),
            )
            .await?;
        rows.iter().map(|row| rows::decoded(row.try_get("order_envelope")?, "order")).collect()
    }

    /// Orders that a machine may not have received, oldest first: held ones, and offered ones
    /// without an outcome.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn undelivered(&self, machine: &MachineId, now: UnixMs) -> Result<Vec<Undelivered>, StoreError> {
        let sql = format!(
            "SELECT order_envelope, state, cancel FROM runs WHERE machine = $1 AND {} \
             AND (not_after > $2 OR cancel IS NOT NULL) ORDER BY job, id",
            states::is_brought_again()
        );
        let rows = self.fetch_all(sqlx::query(sqlx::AssertSqlSafe(sql)).bind(machine.to_string()).bind(now)).await?;
        rows.iter()
            .map(|row| {
                let state: String = row.try_get("state")?;
                let state = state.parse().map_err(|()| StoreError::Damaged("state"))?;
                let cancel: Option<Vec<u8>> = row.try_get("cancel")?;
                let cancel = cancel.map(|bytes| rows::decoded(bytes, "cancel")).transpose()?;
                Ok(Undelivered { order: rows::decoded(row.try_get("order_envelope")?, "order")?, state, cancel })
            })
            .collect()
    }

    /// Receipts of a machine's chain after `seq`, at most `count`.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn chain_links(&self, machine: &MachineId, seq: u64, count: i64) -> Result<Vec<ChainLink>, StoreError> {
        let sql = "SELECT chain_seq, chain_head, order_envelope, receipt, settled_at FROM runs \
                   WHERE machine = $1 AND chain_seq > $2 AND receipt IS NOT NULL ORDER BY chain_seq LIMIT $3";
        let query = sqlx::query(sql).bind(machine.to_string()).bind(rows::number(seq)).bind(count);
        let link = |row: &sqlx::any::AnyRow| {
            Ok(ChainLink {
                seq: rows::unsigned(row.try_get("chain_seq")?),
                head: rows::parsed(row, "chain_head")?,
                order: rows::decoded(row.try_get("order_envelope")?, "order")?,
                receipt: rows::decoded(row.try_get("receipt")?, "receipt")?,
                at: row.try_get("settled_at")?,
            })
        };
        self.fetch_all(query).await?.iter().map(link).collect()
    }

    /// A machine's signed statement of its sealing key, if it has sent one.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn sealed_to(&self, machine: &MachineId) -> Result<Option<Envelope>, StoreError> {
        let row = self
            .fetch_optional(sqlx::query("SELECT sealed_to FROM machines WHERE id = $1").bind(machine.to_string()))
            .await?;
        let statement = row.map(|row| row.try_get::<Option<Vec<u8>>, _>("sealed_to")).transpose()?.flatten();
        statement.map(|bytes| rows::decoded(bytes, "sealed_to")).transpose()
    }

    /// A run's state, and the refusal if its machine refused it.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn run_state(&self, run: &RunId) -> Result<Option<(RunState, Option<Refusal>)>, StoreError> {
        let sql = "SELECT state, refusal FROM runs WHERE id = $1";
        let row = self.fetch_optional(sqlx::query(sql).bind(run.to_string())).await?;
        let Some(row) = row else { return Ok(None) };
        let state: String = row.try_get("state")?;
        let refusal: Option<String> = row.try_get("refusal")?;
        let refusal = refusal.and_then(|code| code.parse().ok());
        Ok(Some((state.parse().map_err(|()| StoreError::Damaged("state"))?, refusal)))
    }

    /// A run's order, receipt and report.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn evidence(&self, run: &RunId) -> Result<Option<Evidence>, StoreError> {
        let sql = "SELECT order_envelope, receipt, report, settled_at FROM runs WHERE id = $1";
        let row = self.fetch_optional(sqlx::query(sql).bind(run.to_string())).await?;
        row.as_ref().map(rows::evidence).transpose()
    }

    /// Orders of a machine whose outcomes, with a report, were stored at this time or
    /// before, newest first.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn reported_until(
        &self,
        machine: &MachineId,
        at: UnixMs,
        count: i64,
    ) -> Result<Vec<Envelope>, StoreError> {
        let sql = "SELECT order_envelope FROM runs WHERE machine = $1 AND settled_at <= $2 AND LENGTH(report) > 0 \
                   ORDER BY settled_at DESC LIMIT $3";
        let query = sqlx::query(sql).bind(machine.to_string()).bind(at).bind(count);
        let rows = self.fetch_all(query).await?;
        rows.iter().map(|row| rows::decoded(row.try_get("order_envelope")?, "order")).collect()
    }

    /// The run that brought the newest complete report of each machine.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn newest_runs(&self) -> Result<Vec<(MachineId, RunId)>, StoreError> {
        let sql = "SELECT machine, newest_run FROM records WHERE newest_run <> ''";
        let rows = self.fetch_all(sqlx::query(sql)).await?;
        rows.iter().map(|row| Ok((rows::parsed(row, "machine")?, rows::parsed(row, "newest_run")?))).collect()
    }

    /// The newest complete report of a machine, and the run that brought it.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn newest_report(&self, machine: &MachineId) -> Result<Option<(RunId, Vec<u8>)>, StoreError> {
        let sql = "SELECT r.id, r.report FROM records m JOIN runs r ON r.id = m.newest_run WHERE m.machine = $1";
        let row = self.fetch_optional(sqlx::query(sql).bind(machine.to_string())).await?;
        let Some(row) = row else { return Ok(None) };
        Ok(Some((rows::parsed(&row, "id")?, row.try_get::<Option<Vec<u8>>, _>("report")?.unwrap_or_default())))
    }

    /// The newest report of a machine.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn newest(&self, machine: &MachineId) -> Result<Option<Evidence>, StoreError> {
        let sql = "SELECT r.order_envelope, r.receipt, r.report, r.settled_at FROM records m \
                   JOIN runs r ON r.id = m.newest_run WHERE m.machine = $1";
        let row = self.fetch_optional(sqlx::query(sql).bind(machine.to_string())).await?;
        row.as_ref().map(rows::evidence).transpose()
    }

    /// Whether a customer exists.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn has_customer(&self, id: &CustomerId) -> Result<bool, StoreError> {
        let row =
            self.fetch_optional(sqlx::query("SELECT id FROM customers WHERE id = $1").bind(id.to_string())).await?;
        Ok(row.is_some())
    }
}

/// An order that its machine may not have received.
#[derive(Debug, Clone, PartialEq)]
pub struct Undelivered {
    /// The order.
    pub order: Envelope,
    /// The state of its run.
    pub state: RunState,
    /// The cancel, if it was taken back after it was offered.
    pub cancel: Option<Envelope>,
}

/// The stored data of a run that has ended.
#[derive(Debug, Clone, PartialEq)]
pub struct Evidence {
    /// The order.
    pub order: Envelope,
    /// The receipt.
    pub receipt: Option<Envelope>,
    /// The report as it travelled.
    pub report: Vec<u8>,
    /// When it was stored.
    pub settled_at: UnixMs,
}

fn encoded<T: serde::Serialize>(value: &T, what: &'static str) -> Result<Vec<u8>, sqlx::Error> {
    codec::encode(value).map_err(|_| sqlx::Error::Protocol(format!("{what} cannot be written")))
}
