//! Writes machines' reports to the index. A failure loses no data: the store has everything.

use crate::tables::{BASE, TABLES, views};
use fernwart_protocol::document::UnixMs;
use serde::Deserialize;
use serde_json::value::RawValue;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{ConnectOptions, Connection, Row, SqliteConnection, SqlitePool};
use std::collections::{BTreeMap, HashMap};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

/// The file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum IndexError {
    /// The database failed.
    #[error("keeping what machines have told")]
    Sql(#[from] sqlx::Error),
    /// A report cannot be parsed.
    #[error("reading a report")]
    Report(#[source] serde_json::Error),
}

impl IndexError {
    /// Whether a retry may succeed: the cause is the disk, a concurrent writer or memory, and not
    /// the data.
    pub fn may_pass(&self) -> bool {
        match self {
            Self::Sql(sqlx::Error::PoolTimedOut) => true,
            // SQLITE_BUSY, LOCKED, NOMEM, IOERR and FULL.
            Self::Sql(error) => matches!(code(error), Some(5 | 6 | 7 | 10 | 13)),
            Self::Report(_) => false,
        }
    }

    /// Whether the file is damaged.
    pub fn is_damage(&self) -> bool {
        matches!(self, Self::Sql(error) if is_damage(error))
    }
}

/// SQLite's primary error code, without the extended bits.
pub(crate) fn code(error: &sqlx::Error) -> Option<i32> {
    let sqlx::Error::Database(error) = error else { return None };
    error.code()?.parse::<i32>().ok().map(|code| code & 0xff)
}

/// SQLITE_CORRUPT or NOTADB; or one of our tables is missing.
pub(crate) fn is_damage(error: &sqlx::Error) -> bool {
    let lacks = |text: &str| {
        let name = text.strip_prefix("no such table: ").map(|name| name.trim_start_matches("main."));
        name.is_some_and(|name| BASE_TABLES.contains(&name) || TABLES.iter().any(|table| table.name == name))
    };
    match (code(error), error) {
        (Some(11 | 26), _) => true,
        (Some(1), sqlx::Error::Database(error)) => lacks(error.message()),
        _ => false,
    }
}

const BASE_TABLES: [&str; 4] = ["known", "told", "taken", "life"];

/// The schema version; a file of another version is created again.
const SHAPE: i64 = 2;

/// What the hub knows of a machine besides its facts.
#[derive(Debug, Clone, Hash)]
pub struct About {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Its customer: id and name.
    pub customer: (String, String),
    /// Its operating system.
    pub os: String,
    /// Its program's version.
    pub agent: String,
    /// `online` or `away`.
    pub state: &'static str,
    /// When it was last linked.
    pub seen_at: UnixMs,
    /// `ok`, `warn`, `unknown`, `crit` or empty.
    pub health: &'static str,
    /// Labels: JSON, a list of pairs.
    pub labels: String,
    /// Groups: JSON, a list of names.
    pub groups: String,
}

/// One report.
#[derive(Debug)]
pub struct Reported {
    /// The machine.
    pub id: String,
    /// The run that brought it.
    pub run: String,
    at: UnixMs,
    sections: Vec<(String, String)>,
}

#[derive(Deserialize)]
struct Report<'a> {
    taken_at: UnixMs,
    #[serde(borrow)]
    sections: BTreeMap<&'a str, Section<'a>>,
    #[serde(borrow)]
    findings: &'a RawValue,
    #[serde(borrow, default)]
    notes: Option<&'a RawValue>,
    #[serde(borrow, default)]
    unknown: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Section<'a> {
    #[serde(borrow, default)]
    facts: Option<&'a RawValue>,
}

impl Reported {
    /// Reads a complete report without parsing its facts.
    ///
    /// # Errors
    /// When it is not a report.
    pub fn read(id: String, run: String, json: &str) -> Result<Self, IndexError> {
        let report: Report<'_> = serde_json::from_str(json).map_err(IndexError::Report)?;
        let facts = |section: &Section<'_>| section.facts.map_or("null", RawValue::get).to_owned();
        let mut sections: Vec<_> = report.sections.iter().map(|(name, one)| ((*name).to_owned(), facts(one))).collect();
        sections.push(("findings".to_owned(), report.findings.get().to_owned()));
        for (name, list) in [("notes", report.notes), ("unknown", report.unknown)] {
            let list = list.map_or("[]", RawValue::get);
            sections.push((name.to_owned(), list.to_owned()));
        }
        Ok(Self { id, run, at: report.taken_at, sections })
    }
}

/// Identifies a file: device and inode.
fn which(path: &Path) -> Option<(u64, u64)> {
    path.metadata().ok().map(|data| (data.dev(), data.ino()))
}

/// Records the boot in which the file is being written; empty once it is closed.
async fn live(pool: &SqlitePool, boot: &str) -> Result<(), IndexError> {
    let mut transaction = pool.begin().await?;
    sqlx::query("DELETE FROM life").execute(&mut *transaction).await?;
    sqlx::query("INSERT INTO life (boot) VALUES (?1)").bind(boot).execute(&mut *transaction).await?;
    Ok(transaction.commit().await?)
}

/// The index file, for its only writer. A connection on which a write has failed is closed: it may
/// still be inside its transaction, and later writes would seem to succeed but be invisible to
/// others.
#[derive(Debug)]
pub struct Index {
    pool: SqlitePool,
    path: PathBuf,
    /// The file when it was opened: device and inode.
    file: Option<(u64, u64)>,
    /// A hash of the last row written for each machine.
    written: Mutex<HashMap<String, u64>>,
}

impl Index {
    /// Opens the file. Creates it again if it is missing, damaged or of another schema version.
    ///
    /// # Errors
    /// When it can be neither opened nor created.
    pub async fn open(path: &Path) -> Result<Self, IndexError> {
        // If the file is missing, its WAL files belong to a lost one.
        if which(path).is_some()
            && let Ok(index) = Self::try_open(path).await
        {
            return Ok(index);
        }
        Self::remove(path);
        Self::try_open(path).await
    }

    /// Removes the file, so that it is created again.
    pub fn remove(path: &Path) {
        for end in ["", "-wal", "-shm"] {
            // Missing files are fine.
            let _ = std::fs::remove_file(format!("{}{end}", path.display()));
        }
    }

    /// Whether the file is still the one that was opened.
    pub fn is_there(&self) -> bool {
        self.file.is_some() && self.file == which(&self.path)
    }

    async fn try_open(path: &Path) -> Result<Self, IndexError> {
        let options = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            // A section takes kilobytes.
            .page_size(16 * 1024)
            .pragma("wal_autocheckpoint", "4096")
            // After a power cut it is created again.
            .synchronous(SqliteSynchronous::Off)
            // A batch of many reports is slow, and its statement is a page long.
            .disable_statement_logging();
        let pool = SqlitePoolOptions::new().max_connections(1).connect_with(options).await?;
        let shape: i64 = sqlx::query("PRAGMA user_version").fetch_one(&pool).await?.try_get(0)?;
        match shape {
            SHAPE => {}
            0 => {
                let mut transaction = pool.begin().await?;
                sqlx::raw_sql(BASE).execute(&mut *transaction).await?;
                for view in views() {
                    sqlx::raw_sql(sqlx::AssertSqlSafe(view)).execute(&mut *transaction).await?;
                }
                let shape = format!("PRAGMA user_version = {SHAPE}");
                sqlx::raw_sql(sqlx::AssertSqlSafe(shape)).execute(&mut *transaction).await?;
                transaction.commit().await?;
            }
            _ => return Err(IndexError::Sql(sqlx::Error::Protocol("another shape".into()))),
        }
        // The content is unreliable after a power cut.
        let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        let row = sqlx::query("SELECT boot FROM life").fetch_optional(&pool).await?;
        let last: String = row.map(|row| row.try_get(0)).transpose()?.unwrap_or_default();
        if !last.is_empty() && last != boot {
            pool.close().await;
            return Err(IndexError::Sql(sqlx::Error::Protocol("written when the power was cut".into())));
        }
        live(&pool, &boot).await?;
        Ok(Self { pool, path: path.to_owned(), file: which(path), written: Mutex::default() })
    }

    /// The run of each machine's indexed report.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub async fn taken(&self) -> Result<HashMap<String, String>, IndexError> {
        let rows = sqlx::query("SELECT id, run FROM taken").fetch_all(&self.pool).await?;
        rows.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?))).collect()
    }

    /// Writes reports, replacing earlier ones.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub async fn keep(&self, all: &[Reported]) -> Result<(), IndexError> {
        let mut connection = self.pool.acquire().await?;
        let kept = Self::keep_over(&mut connection, all).await;
        if kept.is_err() {
            connection.close_on_drop();
        }
        kept
    }

    async fn keep_over(connection: &mut SqliteConnection, all: &[Reported]) -> Result<(), IndexError> {
        let mut transaction = connection.begin().await?;
        for reports in all {
            // jsonb() rejects what SQLite cannot read as JSON.
            let place = |at: usize| format!("(?1, ?{}, jsonb(?{}))", 2 * at + 2, 2 * at + 3);
            let places: Vec<String> = (0..reports.sections.len()).map(place).collect();
            // Unchanged sections are not written again.
            let sql = format!(
                "INSERT INTO told (id, section, facts) VALUES {} ON CONFLICT (section, id) \
                 DO UPDATE SET facts = excluded.facts WHERE facts <> excluded.facts",
                places.join(", ")
            );
            let mut query = sqlx::query(sqlx::AssertSqlSafe(sql)).bind(&reports.id);
            for (section, facts) in &reports.sections {
                query = query.bind(section).bind(facts);
            }
            query.execute(&mut *transaction).await?;
            let sql = "INSERT OR REPLACE INTO taken (id, run, at) VALUES (?1, ?2, ?3)";
            sqlx::query(sql).bind(&reports.id).bind(&reports.run).bind(reports.at).execute(&mut *transaction).await?;
        }
        transaction.commit().await?;
        Ok(())
    }

    /// Writes the machine table and removes machines that are not listed. Only changes are written.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub async fn machines(&self, all: &[About]) -> Result<(), IndexError> {
        let mark = |about: &About| {
            let mut hasher = DefaultHasher::new();
            about.hash(&mut hasher);
            hasher.finish()
        };
        let marks: HashMap<String, u64> = all.iter().map(|about| (about.id.clone(), mark(about))).collect();
        let written = self.written.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).clone();
        let changed = all.iter().filter(|about| written.get(&about.id) != marks.get(&about.id));
        let gone = written.keys().filter(|id| !marks.contains_key(*id));
        let mut connection = self.pool.acquire().await?;
        let kept = Self::roll_over(&mut connection, written.is_empty(), gone, changed).await;
        if kept.is_err() {
            connection.close_on_drop();
        }
        kept?;
        *self.written.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = marks;
        Ok(())
    }

    async fn roll_over<'a>(
        connection: &mut SqliteConnection,
        anew: bool,
        gone: impl Iterator<Item = &'a String>,
        changed: impl Iterator<Item = &'a About>,
    ) -> Result<(), IndexError> {
        let mut transaction = connection.begin().await?;
        if anew {
            sqlx::query("DELETE FROM known").execute(&mut *transaction).await?;
        }
        for id in gone {
            sqlx::query("DELETE FROM known WHERE id = ?1").bind(id).execute(&mut *transaction).await?;
        }
        for about in changed {
            let sql = "INSERT OR REPLACE INTO known VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)";
            sqlx::query(sql)
                .bind(&about.id)
                .bind(&about.name)
                .bind(&about.customer.0)
                .bind(&about.customer.1)
                .bind(&about.os)
                .bind(&about.agent)
                .bind(about.state)
                .bind(about.seen_at)
                .bind(about.health)
                .bind(&about.labels)
                .bind(&about.groups)
                .execute(&mut *transaction)
                .await?;
        }
        transaction.commit().await?;
        Ok(())
    }

    /// Closes the file.
    pub async fn close(&self) {
        // If this fails, the file will be created again after the next boot.
        let _ = live(&self.pool, "").await;
        self.pool.close().await;
    }
}
