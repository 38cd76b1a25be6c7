//! Answers one query in a separate process: it opens the file read-only, runs one SELECT within its
//! time limit, and writes lines of JSON.
//!
//! ```text
//! ["machine","free_pct"]      the columns
//! ["kasse-1",4.2]             the rows
//! {"rows":1,"more":false}     the end; or {"error":"…"}
//! ```

use crate::keep::{code, is_damage};
use crate::tables::{BASE, views};
use fernwart_protocol::limits::QUESTION_MEMORY;
use futures::TryStreamExt;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sqlx::sqlite::{SqliteConnectOptions, SqliteRow};
use sqlx::{
    Column, ConnectOptions, Connection, Executor, Row, SqlSafeStr, SqliteConnection, Statement, TypeInfo, ValueRef,
};
use std::io::{self, Write};
use std::path::Path;
use std::time::{Duration, Instant};

/// The customers whose machines may be seen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// All.
    All,
    /// Those of these customers, by id.
    Customers(Vec<String>),
}

/// A query.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Question {
    /// One SELECT.
    pub sql: String,
    /// Whose machines it may see.
    pub scope: Scope,
    /// Maximum number of rows.
    pub rows: usize,
    /// Time limit, milliseconds.
    pub within_ms: u64,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// The index cannot be opened; the query is not at fault.
    #[error("opening what machines have told")]
    Open(#[source] sqlx::Error),
    /// The index is damaged or missing.
    #[error("what machines have told cannot be read any more")]
    Damaged(#[source] sqlx::Error),
    /// It is not one SELECT.
    #[error("a question is one SELECT")]
    NotASelect,
    /// It exceeded the time limit.
    #[error("it takes longer than {} s; ask for less, or fewer machines", .0.as_secs())]
    TooLong(Duration),
    /// It exceeded the memory limit.
    #[error("it needs more memory than a question may take; ask for fewer columns or machines")]
    TooLarge,
    /// The database does not understand it.
    #[error("{0}")]
    Sql(String),
    /// Nobody reads the answer.
    #[error("writing the answer")]
    Write(#[source] io::Error),
}

/// The database's memory limit, including the copy for a scope of some customers: ten thousand
/// reports of 30 KB. The largest value fits into the rest of the process once more.
const HEAP_BYTES: u64 = QUESTION_MEMORY / 3;

/// Database instructions between two checks of the time limit.
const STEPS: i32 = 100_000;

/// Answers one question on `out`.
///
/// # Errors
/// When the query cannot be answered; some rows may have been written by then.
pub async fn answer(path: &Path, question: &Question, out: &mut impl Write) -> Result<(), AskError> {
    if !is_one_select(&question.sql) {
        return Err(AskError::NotASelect);
    }
    let within = Duration::from_millis(question.within_ms);
    let mut connection = open(path, &question.scope).await.map_err(|error| match code(&error) {
        // SQLITE_ERROR (a table is missing) and CANTOPEN.
        Some(1 | 14) => AskError::Damaged(error),
        Some(7 | 18) => AskError::TooLarge,
        _ if is_damage(&error) => AskError::Damaged(error),
        _ => AskError::Open(error),
    })?;
    let end = Instant::now() + within;
    connection.lock_handle().await.map_err(failed)?.set_progress_handler(STEPS, move || Instant::now() < end);
    let reports = write_answer(&mut connection, question, out).await;
    match reports {
        Err(AskError::Sql(_)) if Instant::now() >= end => Err(AskError::TooLong(within)),
        other => other,
    }
}

/// Distinguishes errors of the query from those of the file.
fn failed(error: sqlx::Error) -> AskError {
    // SQLITE_NOMEM and TOOBIG.
    match code(&error) {
        Some(7 | 18) => AskError::TooLarge,
        _ if is_damage(&error) => AskError::Damaged(error),
        _ => AskError::Sql(in_words(&error)),
    }
}

async fn write_answer(
    connection: &mut SqliteConnection,
    question: &Question,
    out: &mut impl Write,
) -> Result<(), AskError> {
    let prepared = connection.prepare(sqlx::AssertSqlSafe(question.sql.clone()).into_sql_str()).await;
    let columns: Vec<String> =
        prepared.map_err(failed)?.columns().iter().map(|column| column.name().to_owned()).collect();
    line(out, &json!(columns))?;
    let mut rows = sqlx::query(sqlx::AssertSqlSafe(question.sql.clone())).persistent(false).fetch(connection);
    let mut count = 0;
    while let Some(row) = rows.try_next().await.map_err(failed)? {
        if count == question.rows {
            return line(out, &json!({"rows": count, "more": true}));
        }
        line(out, &Value::Array((0..row.len()).map(|at| cell(&row, at)).collect()))?;
        count += 1;
    }
    line(out, &json!({"rows": count, "more": false}))
}

fn line(out: &mut impl Write, value: &Value) -> Result<(), AskError> {
    writeln!(out, "{value}").map_err(AskError::Write)
}

fn cell(row: &SqliteRow, at: usize) -> Value {
    let Ok(raw) = row.try_get_raw(at) else { return Value::Null };
    if raw.is_null() {
        return Value::Null;
    }
    match raw.type_info().name() {
        "INTEGER" => row.try_get::<i64, _>(at).map(Value::from).unwrap_or_default(),
        "REAL" => row.try_get::<f64, _>(at).map(Value::from).unwrap_or_default(),
        "BLOB" => row.try_get::<&[u8], _>(at).map(|bytes| format!("{} bytes", bytes.len()).into()).unwrap_or_default(),
        _ => row.try_get::<&str, _>(at).map(Value::from).unwrap_or_default(),
    }
}

/// The database's message, without the driver's prefix.
fn in_words(error: &sqlx::Error) -> String {
    match error {
        sqlx::Error::Database(error) => error.message().to_owned(),
        other => other.to_string(),
    }
}

/// For all machines, opens the file read-only. For some customers, copies their data into memory,
/// so that no query reaches beyond it.
async fn open(path: &Path, scope: &Scope) -> Result<SqliteConnection, sqlx::Error> {
    let mut connection = match scope {
        Scope::All => {
            let mut connection = SqliteConnectOptions::new().filename(path).read_only(true).connect().await?;
            limit(&mut connection).await?;
            connection
        }
        Scope::Customers(customers) => {
            let mut connection = SqliteConnection::connect("sqlite::memory:").await?;
            limit(&mut connection).await?;
            sqlx::raw_sql(BASE).execute(&mut connection).await?;
            sqlx::query("ATTACH ?1 AS whole").bind(to_be_read(path)).execute(&mut connection).await?;
            let customers = serde_json::to_string(customers).unwrap_or_default();
            let known = "INSERT INTO known SELECT * FROM whole.known \
                         WHERE customer_id IN (SELECT value FROM json_each(?1))";
            sqlx::query(known).bind(customers).execute(&mut connection).await?;
            for copy in [
                "INSERT INTO told SELECT * FROM whole.told WHERE id IN (SELECT id FROM known)",
                "INSERT INTO taken SELECT * FROM whole.taken WHERE id IN (SELECT id FROM known)",
                "DETACH whole",
            ] {
                sqlx::raw_sql(copy).execute(&mut connection).await?;
            }
            for view in views() {
                sqlx::raw_sql(sqlx::AssertSqlSafe(view)).execute(&mut connection).await?;
            }
            connection
        }
    };
    sqlx::raw_sql("PRAGMA query_only = 1").execute(&mut connection).await?;
    Ok(connection)
}

async fn limit(connection: &mut SqliteConnection) -> Result<(), sqlx::Error> {
    let heap = format!("PRAGMA hard_heap_limit = {HEAP_BYTES}");
    sqlx::raw_sql(sqlx::AssertSqlSafe(heap)).execute(connection).await.map(drop)
}

/// The URI of a file for SQLite: an in-memory connection would take a plain path for another
/// in-memory database.
fn to_be_read(path: &Path) -> String {
    let mut address = String::from("file:");
    for byte in path.as_os_str().as_encoded_bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'/' | b'-' | b'_' | b'.' => address.push(char::from(*byte)),
            other => address.push_str(&format!("%{other:02x}")),
        }
    }
    address + "?mode=ro"
}

/// Whether this is one statement that begins like a SELECT. The read-only connection refuses any
/// write in it.
fn is_one_select(sql: &str) -> bool {
    if sql.contains('\0') {
        return false;
    }
    let mut word = String::new();
    let mut began = false;
    let mut ended = false;
    let mut rest = sql.chars().peekable();
    while let Some(c) = rest.next() {
        let quoted = match c {
            '-' if rest.peek() == Some(&'-') => {
                rest.by_ref().find(|c| *c == '\n');
                continue;
            }
            '/' if rest.peek() == Some(&'*') => {
                rest.next();
                while let Some(c) = rest.next() {
                    if c == '*' && rest.peek() == Some(&'/') {
                        rest.next();
                        break;
                    }
                }
                continue;
            }
            c if c.is_whitespace() => {
                began |= !word.is_empty();
                continue;
            }
            ';' => {
                ended = true;
                continue;
            }
            _ if ended => return false,
            '\'' | '"' | '`' => Some(c),
            '[' => Some(']'),
            _ => None,
        };
        match quoted {
            // A doubled quote counts as an end and a new begin, which is equivalent here.
            Some(end) => {
                began = true;
                if rest.by_ref().find(|c| *c == end).is_none() {
                    return false;
                }
            }
            None if !began && c.is_ascii_alphabetic() => word.push(c.to_ascii_lowercase()),
            None => began = true,
        }
    }
    matches!(word.as_str(), "select" | "with" | "values")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keep::{About, Index, Reported};

    #[test]
    fn a_query_is_one_select_and_nothing_else() {
        for good in [
            "SELECT 1",
            " select ';' ; ",
            "SELECT 1;;",
            "-- why\nWITH a AS (SELECT 1) SELECT * FROM a",
            "/* a;b */ values (1)",
            "SELECT/**/1",
        ] {
            assert!(is_one_select(good), "{good}");
        }
        for bad in [
            "",
            ";",
            "DELETE FROM told",
            "SELECT 1; SELECT 2",
            "SELECT 1;--\n attach 'x' as y",
            "ATTACH 'x' AS y",
            "PRAGMA x",
            "SELECT 'a",
            "selectx 1",
            "EXPLAIN SELECT 1",
            "SELECT 1\0",
        ] {
            assert!(!is_one_select(bad), "{bad}");
        }
    }

    fn about(name: &str, customer: &str) -> About {
        About {
            id: format!("id-{name}"),
            name: name.into(),
            customer: (format!("c-{customer}"), customer.into()),
            os: "debian-12".into(),
            agent: "1".into(),
            state: "online",
            seen_at: 5,
            health: "ok",
            labels: r#"[["site","kiel"]]"#.into(),
            groups: "[]".into(),
        }
    }

    fn report(free_pct: f64) -> String {
        json!({
            "v": 1, "taken_at": 7, "took_ms": 1, "checks": 3,
            "sections": {
                "disks": {"took_ms": 1, "facts": {"filesystems": [{"mount": "/", "free_pct": free_pct}]}},
                "system": {"took_ms": 1, "facts": {"kernel": "6.1", "restart_required": free_pct < 10.0}},
                "power": {"took_ms": 1, "unanswered": "no"},
            },
            "findings": [{"id": "disk.free", "severity": "crit", "instance": "/", "cause": {"en": "full", "de": "voll"}}],
        })
        .to_string()
    }

    async fn asked(path: &Path, sql: &str, scope: Scope) -> String {
        let question = Question { sql: sql.into(), scope, rows: 10, within_ms: 500 };
        let mut out = Vec::new();
        if let Err(error) = answer(path, &question, &mut out).await {
            return error.to_string();
        }
        String::from_utf8(out).expect("text")
    }

    #[tokio::test]
    async fn reported_facts_can_be_queried_only_within_the_scope() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("facts.sqlite");
        std::fs::write(&path, "no database").expect("written");
        let index = Index::open(&path).await.expect("begun anew");
        index.machines(&[about("kasse-1", "Meyer"), about("kasse-2", "Petersen")]).await.expect("kept");
        let reports =
            |name: &str, free| Reported::read(format!("id-{name}"), "r".into(), &report(free)).expect("a report");
        index.keep(&[reports("kasse-1", 4.5), reports("kasse-2", 60.0)]).await.expect("kept");
        let sql = "SELECT f.machine, free_pct FROM filesystems f JOIN system s USING (machine) \
                   WHERE free_pct < 10 AND restart_required";
        let all = asked(&path, sql, Scope::All).await;
        assert_eq!(all, "[\"machine\",\"free_pct\"]\n[\"kasse-1\",4.5]\n{\"more\":false,\"rows\":1}\n");
        let some = |sql: &'static str| asked(&path, sql, Scope::Customers(vec!["c-Petersen".into()]));
        let reports = some("SELECT machine, id, cause FROM findings").await;
        assert_eq!(reports.lines().nth(1), Some(r#"["kasse-2","disk.free","full"]"#), "{reports}");
        assert!(!some("SELECT * FROM known, told").await.contains("kasse-1"));
        assert!(some("SELECT * FROM whole.known").await.contains("no such table"));
        assert!(asked(&path, "SELECT machine FROM power", Scope::All).await.ends_with("\"rows\":0}\n"));
        assert!(asked(&path, "SELECT value FROM labels", Scope::All).await.contains("kiel"));
        for table in crate::TABLES {
            let sql = format!("SELECT * FROM {}", table.name);
            let text = asked(&path, &sql, Scope::All).await;
            let columns: Vec<String> =
                serde_json::from_str(text.lines().next().expect("a line")).unwrap_or_else(|e| panic!("{e}: {text}"));
            let known: Vec<&str> =
                ["machine", "customer"].into_iter().chain(table.columns.iter().map(|column| column.name)).collect();
            assert_eq!(columns, known, "{}", table.name);
        }
        // A machine whose list holds non-objects does not break the table.
        let hostile = report(1.0).replace("[{\"free_pct\"", "[\"x\",{\"free_pct\"");
        assert_ne!(hostile, report(1.0));
        index
            .keep(&[Reported::read("id-kasse-2".into(), "r".into(), &hostile).expect("a report")])
            .await
            .expect("kept");
        let text = asked(&path, "SELECT machine, mount FROM filesystems ORDER BY machine", Scope::All).await;
        assert!(text.ends_with("\"rows\":3}\n"), "{text}");
        let slow = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT count(*) FROM n";
        assert!(asked(&path, slow, Scope::All).await.contains("takes longer"));
        for large in ["SELECT zeroblob(900000000)", "SELECT hex(zeroblob(400000000))"] {
            let text = asked(&path, large, Scope::All).await;
            assert!(text.contains("memory"), "{large}: {text}");
        }
        assert!(asked(&path, "DELETE FROM told", Scope::All).await.contains("one SELECT"));
        assert!(asked(&path, "WITH a AS (SELECT 1) DELETE FROM told", Scope::All).await.contains("readonly"));
        let text = asked(&path, "SELECT fre_pct FROM machines", Scope::All).await;
        assert_eq!(text, "no such column: fre_pct");
        // Machines that are not listed any more are removed; reopening keeps the rest.
        index.machines(&[about("kasse-2", "Petersen")]).await.expect("kept");
        assert!(!asked(&path, "SELECT machine FROM findings", Scope::All).await.contains("kasse-1"));
        index.close().await;
        let index = Index::open(&path).await.expect("opened");
        assert_eq!(index.taken().await.expect("read").len(), 2);
    }
}
