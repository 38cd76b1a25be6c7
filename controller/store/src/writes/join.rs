//! Enrollment: tokens, joins of machines and staff, and admission.

use super::json;
use crate::rows;
use crate::{Change, Write};
use fernwart_fleet::{Diagnosed, Newcomer, Standing, free_name, judge_token};
use fernwart_protocol::code::Denial;
use fernwart_protocol::document::UnixMs;
use fernwart_protocol::id::{Digest, MachineId, PublicKey, TokenId};
use fernwart_protocol::staff::{Admission, PendingStaff, Token, TokenKind};
use fernwart_protocol::text::{MachineName, Text};
use sqlx::{AnyConnection, Row};
use std::collections::HashSet;
use std::net::IpAddr;

/// Stores a token.
impl Write for Token {
    type Reply = ();
    async fn apply(&self, to: &mut AnyConnection) -> Result<(), sqlx::Error> {
        let sql = "INSERT INTO tokens (id, token, until) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING";
        sqlx::query(sql).bind(self.id.to_string()).bind(json(self)?).bind(self.until).execute(to).await?;
        Ok(())
    }
}

async fn use_token(
    to: &mut AnyConnection,
    id: &TokenId,
    used_by: &str,
    newcomer: Newcomer,
    from: IpAddr,
    now: UnixMs,
) -> Result<Result<Token, Denial>, sqlx::Error> {
    let Some(stored) = rows::token(to, id, used_by).await? else { return Ok(Err(Denial::TokenUnknown)) };
    if let Err(denial) = judge_token(&stored, newcomer, from, now) {
        return Ok(Err(denial));
    }
    let sql = "INSERT INTO token_uses (token, used_by) VALUES ($1, $2) ON CONFLICT DO NOTHING";
    sqlx::query(sql).bind(id.to_string()).bind(used_by).execute(to).await?;
    Ok(Ok(stored.token))
}

/// A machine joins with a token that it has proved to hold.
#[derive(Debug)]
pub struct JoinMachine {
    /// The token.
    pub token: TokenId,
    /// The machine.
    pub machine: MachineId,
    /// Its evidence public key.
    pub evidence_key: PublicKey,
    /// Its sealing public key.
    pub sealing_key: PublicKey,
    /// SHA-256 of its TLS public key.
    pub tls_key: Digest,
    /// Its own host name.
    pub hostname: Text<255>,
    /// Its operating system.
    pub os: Text<64>,
    /// Its address.
    pub from: IpAddr,
    /// When.
    pub now: UnixMs,
}

/// The result of a join.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Joined {
    /// A person must admit it.
    Pending,
    /// It is admitted.
    Admitted,
}

impl Write for JoinMachine {
    type Reply = Result<Joined, Denial>;
    async fn apply(&self, to: &mut AnyConnection) -> Result<Self::Reply, sqlx::Error> {
        let id = self.machine.to_string();
        let token = match use_token(to, &self.token, &id, Newcomer::Machine, self.from, self.now).await? {
            Ok(token) => token,
            Err(denial) => return Ok(Err(denial)),
        };
        let TokenKind::Machine { customer, labels, admission } = token.admits else {
            return Ok(Err(Denial::TokenKind));
        };
        let known = sqlx::query("SELECT standing, tls_key FROM machines WHERE id = $1")
            .bind(&id)
            .fetch_optional(&mut *to)
            .await?;
        if let Some(row) = known {
            let standing: String = row.try_get("standing")?;
            let tls_key: String = row.try_get("tls_key")?;
            return Ok(match standing.parse() {
                Ok(Standing::Retired) => Err(Denial::MachineRetired),
                Ok(Standing::Rejected) => Err(Denial::MachineRejected),
                _ if tls_key != self.tls_key.to_string() => Err(Denial::KeysRefused),
                Ok(Standing::Admitted) => Ok(Joined::Admitted),
                Ok(Standing::Pending) | Err(()) => Ok(Joined::Pending),
            });
        }
        let (standing, joined) = match admission {
            Admission::Automatic => (Standing::Admitted, Joined::Admitted),
            Admission::ByPerson => (Standing::Pending, Joined::Pending),
        };
        let wanted = MachineName::from_hostname(self.hostname.as_raw());
        let name = unused_name(to, &wanted).await?;
        let sql = "INSERT INTO machines (id, customer, name, standing, evidence_key, sealing_key, tls_key, hostname, os, \
                   agent, address, joined_at, seen_at, certificate_until, labels, groups) \
                   VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, '', $10, $11, $11, 0, $12, '[]')";
        sqlx::query(sql)
            .bind(&id)
            .bind(customer.to_string())
            .bind(name.as_str())
            .bind(standing.as_str())
            .bind(self.evidence_key.to_string())
            .bind(self.sealing_key.to_string())
            .bind(self.tls_key.to_string())
            .bind(self.hostname.as_raw())
            .bind(self.os.as_raw())
            .bind(self.from.to_string())
            .bind(self.now)
            .bind(json(&labels)?)
            .execute(&mut *to)
            .await?;
        let sql = "INSERT INTO records (machine, chain_seq, chain_head, journal_seq, journal_head, verdict, newest_run) \
                   VALUES ($1, 0, $2, 0, '', $3, '')";
        let query =
            sqlx::query(sql).bind(&id).bind(Digest::from_bytes([0; 32]).to_string()).bind(json(&Diagnosed::default())?);
        query.execute(to).await?;
        Ok(Ok(joined))
    }

    fn then(&self) -> Change {
        Change::Reload(self.machine)
    }
}

pub(super) async fn unused_name(to: &mut AnyConnection, wanted: &MachineName) -> Result<MachineName, sqlx::Error> {
    let sql = "SELECT name FROM machines WHERE standing IN ('admitted', 'pending') AND (name = $1 OR name LIKE $2)";
    let rows = sqlx::query(sql).bind(wanted.as_str()).bind(format!("{wanted}-%")).fetch_all(to).await?;
    let taken: HashSet<String> = rows.iter().filter_map(|row| row.try_get("name").ok()).collect();
    Ok(free_name(wanted, |name| taken.contains(name.as_str())))
}

/// A technician or robot joins with a token that they have proved to hold.
#[derive(Debug)]
pub struct JoinStaff {
    /// The token.
    pub token: TokenId,
    /// The name and keys.
    pub staff: PendingStaff,
    /// The TLS public key itself.
    pub tls_spki: Vec<u8>,
    /// Where from.
    pub from: IpAddr,
}

impl Write for JoinStaff {
    type Reply = Result<(), Denial>;
    async fn apply(&self, to: &mut AnyConnection) -> Result<Self::Reply, sqlx::Error> {
        let PendingStaff { key, order_key, tls_key, name, at } = &self.staff;
        if let Err(denial) = use_token(to, &self.token, &key.to_string(), Newcomer::Staff, self.from, *at).await? {
            return Ok(Err(denial));
        }
        let sql = "INSERT INTO staff_joins (staff_key, order_key, tls_key, tls_spki, name, joined_at) \
                   VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT DO NOTHING";
        sqlx::query(sql)
            .bind(key.to_string())
            .bind(order_key.to_string())
            .bind(tls_key.to_string())
            .bind(json(&self.tls_spki)?)
            .bind(name.as_raw())
            .bind(*at)
            .execute(to)
            .await?;
        Ok(Ok(()))
    }
}

/// Admits a pending machine. Returns the name that it got.
#[derive(Debug)]
pub struct Admit {
    /// The machine.
    pub machine: MachineId,
    /// The name wanted.
    pub name: MachineName,
}

impl Write for Admit {
    type Reply = Result<MachineName, Denial>;
    async fn apply(&self, to: &mut AnyConnection) -> Result<Self::Reply, sqlx::Error> {
        let id = self.machine.to_string();
        let row =
            sqlx::query("SELECT name, standing FROM machines WHERE id = $1").bind(&id).fetch_optional(&mut *to).await?;
        let Some(row) = row else { return Ok(Err(Denial::NoSuchMachine)) };
        let (standing, current): (String, String) = (row.try_get("standing")?, row.try_get("name")?);
        if standing != Standing::Pending.as_str() {
            return Ok(Err(Denial::NotPending));
        }
        let name = if current == self.name.as_str() { self.name.clone() } else { unused_name(to, &self.name).await? };
        let sql = "UPDATE machines SET standing = 'admitted', name = $2 WHERE id = $1";
        sqlx::query(sql).bind(&id).bind(name.as_str()).execute(to).await?;
        Ok(Ok(name))
    }

    fn then(&self) -> Change {
        Change::Reload(self.machine)
    }
}
