//! Converts rows to the types of `fleet`.

use crate::{Evidence, StoreError, states};
use fernwart_fleet::{Job, Machine, Run, RunState, StoredToken};
use fernwart_protocol::codec;
use fernwart_protocol::document::Outcome;
use fernwart_protocol::id::{JobId, TokenId};
use fernwart_protocol::staff::{CustomerRow, PendingStaff};
use fernwart_protocol::text::Text;
use fernwart_protocol::version::MIN;
use serde::de::DeserializeOwned;
use sqlx::any::AnyRow;
use sqlx::{AnyConnection, Row};
use std::str::FromStr;

/// A query for jobs with the number of their ended runs.
pub(crate) fn jobs() -> String {
    let over = states::is_one_of("r.state", RunState::ALL.into_iter().filter(|state| state.is_final()));
    format!("SELECT j.*, (SELECT COUNT(*) FROM runs r WHERE r.job = j.id AND {over}) AS over_count FROM jobs j")
}

pub(crate) fn parsed<T: FromStr>(row: &AnyRow, column: &'static str) -> Result<T, StoreError> {
    let text: String = row.try_get(column)?;
    text.parse().map_err(|_| StoreError::Damaged(column))
}

fn json<T: DeserializeOwned>(row: &AnyRow, column: &'static str) -> Result<T, StoreError> {
    let text: String = row.try_get(column)?;
    serde_json::from_str(&text).map_err(|_| StoreError::Damaged(column))
}

pub(crate) fn decoded<T: DeserializeOwned>(bytes: Vec<u8>, what: &'static str) -> Result<T, StoreError> {
    codec::decode(&bytes).map_err(|_| StoreError::Damaged(what))
}

fn clipped<const N: usize>(row: &AnyRow, column: &'static str) -> Result<Text<N>, StoreError> {
    Ok(Text::clipped(&row.try_get::<String, _>(column)?))
}

/// BIGINT to a number that is never negative.
pub(crate) fn unsigned(number: i64) -> u64 {
    u64::try_from(number).unwrap_or_default()
}

/// A number to BIGINT.
pub(crate) fn number(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn count(row: &AnyRow, column: &'static str) -> Result<u32, StoreError> {
    Ok(u32::try_from(row.try_get::<i64, _>(column)?).unwrap_or(u32::MAX))
}

pub(crate) fn customer(row: &AnyRow) -> Result<CustomerRow, StoreError> {
    Ok(CustomerRow {
        id: parsed(row, "id")?,
        name: clipped(row, "name")?,
        language: clipped(row, "language")?,
        machines: count(row, "machines")?,
    })
}

pub(crate) fn machine(row: &AnyRow) -> Result<Machine, StoreError> {
    Ok(Machine {
        id: parsed(row, "id")?,
        customer: parsed(row, "customer")?,
        customer_name: clipped(row, "customer_name")?,
        name: parsed(row, "name")?,
        standing: row.try_get::<String, _>("standing")?.parse().map_err(|()| StoreError::Damaged("standing"))?,
        evidence_key: parsed(row, "evidence_key")?,
        tls_key: parsed(row, "tls_key")?,
        hostname: clipped(row, "hostname")?,
        os: clipped(row, "os")?,
        agent: clipped(row, "agent")?,
        protocol: u16::try_from(row.try_get::<i64, _>("protocol")?).unwrap_or(MIN),
        address: clipped(row, "address")?,
        quarantined_at: row.try_get("quarantined_at")?,
        joined_at: row.try_get("joined_at")?,
        seen_at: row.try_get("seen_at")?,
        certificate_until: row.try_get("certificate_until")?,
        labels: json(row, "labels")?,
        groups: json(row, "groups")?,
        diagnosed: json(row, "verdict")?,
        alarm: clipped(row, "alarm")?,
    })
}

pub(crate) async fn token(
    connection: &mut AnyConnection,
    id: &TokenId,
    used_by: &str,
) -> Result<Option<StoredToken>, sqlx::Error> {
    let sql = "SELECT t.token, (SELECT COUNT(*) FROM token_uses u WHERE u.token = t.id) AS used, \
               (SELECT COUNT(*) FROM token_uses u WHERE u.token = t.id AND u.used_by = $2) AS by_this \
               FROM tokens t WHERE t.id = $1";
    let Some(row) = sqlx::query(sql).bind(id.to_string()).bind(used_by).fetch_optional(connection).await? else {
        return Ok(None);
    };
    let text: String = row.try_get("token")?;
    let token = serde_json::from_str(&text).map_err(|error| sqlx::Error::Decode(error.into()))?;
    let used = u32::try_from(row.try_get::<i64, _>("used")?).unwrap_or(u32::MAX);
    Ok(Some(StoredToken { token, used, used_by_this: row.try_get::<i64, _>("by_this")? > 0 }))
}

pub(crate) fn staff_join(row: &AnyRow) -> Result<(PendingStaff, Vec<u8>), StoreError> {
    let spki: String = row.try_get("tls_spki")?;
    let spki = serde_json::from_str(&spki).map_err(|_| StoreError::Damaged("tls_spki"))?;
    let staff = PendingStaff {
        key: parsed(row, "staff_key")?,
        order_key: parsed(row, "order_key")?,
        tls_key: parsed(row, "tls_key")?,
        name: clipped(row, "name")?,
        at: row.try_get("joined_at")?,
    };
    Ok((staff, spki))
}

pub(crate) fn job(row: &AnyRow) -> Result<Job, StoreError> {
    Ok(Job {
        id: JobId(unsigned(row.try_get("id")?)),
        action: clipped(row, "action")?,
        key: parsed(row, "staff_key")?,
        staff: clipped(row, "staff")?,
        reason: clipped(row, "reason")?,
        at: row.try_get("made_at")?,
        selected: count(row, "selected")?,
        over: count(row, "over_count")?,
    })
}

pub(crate) fn run(row: &AnyRow) -> Result<Run, StoreError> {
    let outcome: Option<String> = row.try_get("outcome")?;
    let outcome: Option<Outcome> = outcome
        .map(|word| serde_json::from_value(serde_json::Value::String(word)))
        .transpose()
        .map_err(|_| StoreError::Damaged("outcome"))?;
    let receipt: Option<Vec<u8>> = row.try_get("receipt")?;
    let refusal: Option<String> = row.try_get("refusal")?;
    Ok(Run {
        id: parsed(row, "id")?,
        job: JobId(unsigned(row.try_get("job")?)),
        machine: parsed(row, "machine")?,
        name: parsed(row, "name")?,
        state: row.try_get::<String, _>("state")?.parse().map_err(|()| StoreError::Damaged("state"))?,
        outcome,
        refusal: refusal.and_then(|code| code.parse().ok()),
        receipt: receipt.map(|bytes| decoded(bytes, "receipt")).transpose()?,
        settled_at: row.try_get("settled_at")?,
    })
}

pub(crate) fn evidence(row: &AnyRow) -> Result<Evidence, StoreError> {
    let receipt: Option<Vec<u8>> = row.try_get("receipt")?;
    Ok(Evidence {
        order: decoded(row.try_get("order_envelope")?, "order")?,
        receipt: receipt.map(|bytes| decoded(bytes, "receipt")).transpose()?,
        report: row.try_get::<Option<Vec<u8>>, _>("report")?.unwrap_or_default(),
        settled_at: row.try_get::<Option<i64>, _>("settled_at")?.unwrap_or_default(),
    })
}
