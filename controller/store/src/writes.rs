//! What can be written.

use crate::rows::{self};
use crate::{Change, Write, encoded};
use fernwart_fleet::{Newcomer, Standing, free_name, judge_token};
use fernwart_protocol::code::Denial;
use fernwart_protocol::document::{Envelope, UnixMs};
use fernwart_protocol::id::{Digest, KeyId, MachineId, PublicKey, TokenId};
use fernwart_protocol::staff::{
    Admission, CustomerRow, Label as LabelPair, Membership, PendingStaff, Token, TokenKind, Verdict,
};
use fernwart_protocol::text::{MachineName, Text};
use sqlx::{AnyConnection, Row};
use std::collections::HashSet;
use std::net::IpAddr;

pub(crate) fn json<T: serde::Serialize>(value: &T) -> Result<String, sqlx::Error> {
    serde_json::to_string(value).map_err(|error| sqlx::Error::Encode(error.into()))
}

fn zeros() -> Digest {
    Digest::from_bytes([0; 32])
}

/// Enters a customer; a name that is taken is a no.
#[derive(Debug)]
pub struct AddCustomer(pub CustomerRow);

impl Write for AddCustomer {
    type Reply = Result<(), Denial>;
    async fn apply(&self, to: &mut AnyConnection) -> Result<Self::Reply, sqlx::Error> {
        let sql = "INSERT INTO customers (id, name, language) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING";
        let query = sqlx::query(sql).bind(self.0.id.to_string());
        let done = query.bind(self.0.name.as_raw()).bind(self.0.language.as_raw()).execute(to).await?;
        Ok(if done.rows_affected() == 1 { Ok(()) } else { Err(Denial::NameTaken) })
    }
}

/// Makes a token known.
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

/// A machine comes with a token whose proof holds.
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
    /// What it calls itself.
    pub hostname: Text<255>,
    /// Its operating system.
    pub os: Text<64>,
    /// Where it comes from.
    pub from: IpAddr,
    /// When.
    pub now: UnixMs,
}

/// What came of a join.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Joined {
    /// A person must admit it.
    Pending,
    /// It is in.
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
        let query = sqlx::query(sql).bind(&id).bind(zeros().to_string()).bind(json(&Verdict::Unknown)?);
        query.execute(to).await?;
        Ok(Ok(joined))
    }

    fn then(&self) -> Change {
        Change::Reload(self.machine)
    }
}

async fn unused_name(to: &mut AnyConnection, wanted: &MachineName) -> Result<MachineName, sqlx::Error> {
    let sql = "SELECT name FROM machines WHERE standing IN ('admitted', 'pending') AND (name = $1 OR name LIKE $2)";
    let rows = sqlx::query(sql).bind(wanted.as_str()).bind(format!("{wanted}-%")).fetch_all(to).await?;
    let taken: HashSet<String> = rows.iter().filter_map(|row| row.try_get("name").ok()).collect();
    Ok(free_name(wanted, |name| taken.contains(name.as_str())))
}

/// A technician or robot comes with a token whose proof holds.
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

/// Lets a pending machine in. The answer is the name it got.
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

/// Turns a machine away, or parts with it.
#[derive(Debug)]
pub struct SetStanding {
    /// The machine.
    pub machine: MachineId,
    /// What it must be now.
    pub from: Standing,
    /// What it becomes.
    pub to: Standing,
}

impl Write for SetStanding {
    type Reply = Result<(), Denial>;
    async fn apply(&self, to: &mut AnyConnection) -> Result<Self::Reply, sqlx::Error> {
        let query = sqlx::query("UPDATE machines SET standing = $3 WHERE id = $1 AND standing = $2")
            .bind(self.machine.to_string());
        let done = query.bind(self.from.as_str()).bind(self.to.as_str()).execute(to).await?;
        Ok(match (done.rows_affected(), self.from) {
            (1.., _) => Ok(()),
            (0, Standing::Pending) => Err(Denial::NotPending),
            (0, _) => Err(Denial::NoSuchMachine),
        })
    }

    fn then(&self) -> Change {
        Change::Reload(self.machine)
    }
}

/// Gives an admitted machine another name.
#[derive(Debug)]
pub struct Rename {
    /// The machine.
    pub machine: MachineId,
    /// Its new name.
    pub name: MachineName,
}

impl Write for Rename {
    type Reply = Result<(), Denial>;
    async fn apply(&self, to: &mut AnyConnection) -> Result<Self::Reply, sqlx::Error> {
        let free = unused_name(to, &self.name).await?;
        if free != self.name {
            return Ok(Err(Denial::NameTaken));
        }
        let query = sqlx::query("UPDATE machines SET name = $2 WHERE id = $1 AND standing = 'admitted'");
        let done = query.bind(self.machine.to_string()).bind(self.name.as_str()).execute(to).await?;
        Ok(if done.rows_affected() == 1 { Ok(()) } else { Err(Denial::NoSuchMachine) })
    }

    fn then(&self) -> Change {
        Change::Reload(self.machine)
    }
}

/// Sets labels; an empty value takes one away.
#[derive(Debug)]
pub struct Label {
    /// The machine.
    pub machine: MachineId,
    /// The labels.
    pub labels: Vec<LabelPair>,
}

/// Labels or groups of one machine at most.
const TAGS: usize = 32;

impl Write for Label {
    type Reply = Result<(), Denial>;
    async fn apply(&self, to: &mut AnyConnection) -> Result<Self::Reply, sqlx::Error> {
        let id = self.machine.to_string();
        let row = sqlx::query("SELECT labels FROM machines WHERE id = $1").bind(&id).fetch_optional(&mut *to).await?;
        let Some(row) = row else { return Ok(Err(Denial::NoSuchMachine)) };
        let mut labels: Vec<LabelPair> = serde_json::from_str(&row.try_get::<String, _>("labels")?).unwrap_or_default();
        for (name, value) in &self.labels {
            labels.retain(|(known, _)| known != name);
            if !value.is_empty() {
                labels.push((name.clone(), value.clone()));
            }
        }
        if labels.len() > TAGS {
            return Ok(Err(Denial::TooMany));
        }
        labels.sort();
        sqlx::query("UPDATE machines SET labels = $2 WHERE id = $1").bind(&id).bind(json(&labels)?).execute(to).await?;
        Ok(Ok(()))
    }

    fn then(&self) -> Change {
        Change::Reload(self.machine)
    }
}

/// Puts a machine into a group, or takes it out.
#[derive(Debug)]
pub struct Group {
    /// The machine.
    pub machine: MachineId,
    /// The group.
    pub group: Text<63>,
    /// In or out.
    pub membership: Membership,
}

impl Write for Group {
    type Reply = Result<(), Denial>;
    async fn apply(&self, to: &mut AnyConnection) -> Result<Self::Reply, sqlx::Error> {
        let id = self.machine.to_string();
        let row = sqlx::query("SELECT groups FROM machines WHERE id = $1").bind(&id).fetch_optional(&mut *to).await?;
        let Some(row) = row else { return Ok(Err(Denial::NoSuchMachine)) };
        let mut groups: Vec<Text<63>> = serde_json::from_str(&row.try_get::<String, _>("groups")?).unwrap_or_default();
        groups.retain(|known| *known != self.group);
        match self.membership {
            Membership::In if groups.len() >= TAGS => return Ok(Err(Denial::TooMany)),
            Membership::In => groups.push(self.group.clone()),
            Membership::Out => {}
        }
        groups.sort();
        sqlx::query("UPDATE machines SET groups = $2 WHERE id = $1").bind(&id).bind(json(&groups)?).execute(to).await?;
        Ok(Ok(()))
    }

    fn then(&self) -> Change {
        Change::Reload(self.machine)
    }
}

/// A machine has a new certificate, perhaps for a new key.
#[derive(Debug)]
pub struct SetTlsKey {
    /// The machine.
    pub machine: MachineId,
    /// SHA-256 of its TLS public key.
    pub tls_key: Digest,
    /// When the certificate ends.
    pub until: UnixMs,
}

impl Write for SetTlsKey {
    /// Whether the machine is one of ours.
    type Reply = bool;
    async fn apply(&self, to: &mut AnyConnection) -> Result<bool, sqlx::Error> {
        let sql = "UPDATE machines SET tls_key = $2, certificate_until = $3 WHERE id = $1 AND standing = 'admitted'";
        let query = sqlx::query(sql).bind(self.machine.to_string()).bind(self.tls_key.to_string());
        let done = query.bind(self.until).execute(to).await?;
        Ok(done.rows_affected() == 1)
    }

    fn then(&self) -> Change {
        Change::Reload(self.machine)
    }
}

/// A machine was seen.
#[derive(Debug)]
pub struct Seen {
    /// The machine.
    pub machine: MachineId,
    /// When.
    pub at: UnixMs,
    /// What it says about itself, where it has just come.
    pub about: Option<(Text<64>, Text<32>, Text<64>)>,
}

impl Write for Seen {
    type Reply = ();
    async fn apply(&self, to: &mut AnyConnection) -> Result<(), sqlx::Error> {
        let id = self.machine.to_string();
        match &self.about {
            Some((os, agent, address)) => {
                let sql = "UPDATE machines SET seen_at = $2, os = $3, agent = $4, address = $5 WHERE id = $1";
                let query = sqlx::query(sql).bind(id).bind(self.at).bind(os.as_raw()).bind(agent.as_raw());
                query.bind(address.as_raw()).execute(to).await?;
            }
            None => {
                sqlx::query("UPDATE machines SET seen_at = $2 WHERE id = $1")
                    .bind(id)
                    .bind(self.at)
                    .execute(to)
                    .await?;
            }
        }
        Ok(())
    }

    fn then(&self) -> Change {
        let (at, about) = (self.at, self.about.clone());
        Change::Edit(
            self.machine,
            Box::new(move |machine| {
                machine.seen_at = at;
                if let Some((os, agent, address)) = about {
                    (machine.os, machine.agent, machine.address) = (os, agent, address);
                }
            }),
        )
    }
}

/// Cuts a staff key off at this hub.
#[derive(Debug)]
pub struct Suspend {
    /// The key.
    pub key: KeyId,
    /// When.
    pub at: UnixMs,
}

impl Write for Suspend {
    type Reply = ();
    async fn apply(&self, to: &mut AnyConnection) -> Result<(), sqlx::Error> {
        let sql = "INSERT INTO suspensions (staff_key, suspended_at) VALUES ($1, $2) ON CONFLICT DO NOTHING";
        sqlx::query(sql).bind(self.key.to_string()).bind(self.at).execute(to).await?;
        Ok(())
    }
}

/// Keeps a lock, to be handed to every machine.
#[derive(Debug)]
pub struct KeepLock {
    /// SHA-256 of its bytes.
    pub id: Digest,
    /// The lock.
    pub envelope: Envelope,
}

impl Write for KeepLock {
    type Reply = ();
    async fn apply(&self, to: &mut AnyConnection) -> Result<(), sqlx::Error> {
        let sql = "INSERT INTO locks (id, envelope) VALUES ($1, $2) ON CONFLICT DO NOTHING";
        sqlx::query(sql).bind(self.id.to_string()).bind(encoded(&self.envelope, "lock")?).execute(to).await?;
        Ok(())
    }
}

/// Keeps a draft of a catalogue in the place of an older state of it.
#[derive(Debug)]
pub struct Draft {
    /// Its id.
    pub id: Digest,
    /// Its text; nothing takes it away.
    pub bytes: Option<Vec<u8>>,
    /// When.
    pub at: UnixMs,
}

impl Write for Draft {
    type Reply = ();
    async fn apply(&self, to: &mut AnyConnection) -> Result<(), sqlx::Error> {
        sqlx::query("DELETE FROM drafts WHERE id = $1").bind(self.id.to_string()).execute(&mut *to).await?;
        if let Some(bytes) = &self.bytes {
            let sql = "INSERT INTO drafts (id, draft, made_at) VALUES ($1, $2, $3)";
            sqlx::query(sql).bind(self.id.to_string()).bind(bytes.as_slice()).bind(self.at).execute(to).await?;
        }
        Ok(())
    }
}

/// How far a machine's journal goes, and what is wrong with that.
#[derive(Debug)]
pub struct NoteJournal {
    /// The machine.
    pub machine: MachineId,
    /// Its newest entry.
    pub seq: u64,
    /// That entry's hash.
    pub head: Digest,
    /// What is wrong; nothing leaves an older alarm as it is.
    pub alarm: Option<Text<128>>,
}

impl Write for NoteJournal {
    type Reply = ();
    /// It only goes on, unless something is wrong: receipts may know more.
    async fn apply(&self, to: &mut AnyConnection) -> Result<(), sqlx::Error> {
        let alarm = self.alarm.as_ref().map(|alarm| alarm.as_raw().to_owned()).unwrap_or_default();
        let sql = "UPDATE records SET journal_seq = $2, journal_head = $3 \
                   WHERE machine = $1 AND ($4 <> '' OR journal_seq < $2)";
        let query = sqlx::query(sql).bind(self.machine.to_string()).bind(crate::rows::number(self.seq));
        query.bind(self.head.to_string()).bind(&alarm).execute(&mut *to).await?;
        if !alarm.is_empty() {
            let query = sqlx::query("UPDATE machines SET alarm = $2 WHERE id = $1").bind(self.machine.to_string());
            query.bind(alarm).execute(to).await?;
        }
        Ok(())
    }

    fn then(&self) -> Change {
        Change::Reload(self.machine)
    }
}

/// Keeps a machine out until somebody has looked into it.
#[derive(Debug)]
pub struct Quarantine {
    /// The machine.
    pub machine: MachineId,
    /// When.
    pub at: UnixMs,
    /// Why.
    pub alarm: Text<128>,
}

impl Write for Quarantine {
    type Reply = ();
    async fn apply(&self, to: &mut AnyConnection) -> Result<(), sqlx::Error> {
        // What else was wrong stays to be read.
        let sql = "UPDATE machines SET quarantined_at = $2, \
                   alarm = $3 || CASE WHEN alarm = '' THEN '' ELSE '; ' || alarm END WHERE id = $1";
        let query = sqlx::query(sql);
        query.bind(self.machine.to_string()).bind(self.at).bind(self.alarm.as_raw()).execute(to).await?;
        Ok(())
    }

    fn then(&self) -> Change {
        Change::Reload(self.machine)
    }
}

/// Somebody has looked into what was wrong with a machine's records.
#[derive(Debug)]
pub struct Acknowledge(pub MachineId);

impl Write for Acknowledge {
    type Reply = ();
    async fn apply(&self, to: &mut AnyConnection) -> Result<(), sqlx::Error> {
        let sql = "UPDATE machines SET alarm = '', quarantined_at = 0 WHERE id = $1";
        sqlx::query(sql).bind(self.0.to_string()).execute(to).await?;
        Ok(())
    }

    fn then(&self) -> Change {
        Change::Reload(self.0)
    }
}

/// Keeps a machine's signed word on its sealing key.
#[derive(Debug)]
pub struct KeepSealedTo {
    /// The machine.
    pub machine: MachineId,
    /// Its word.
    pub said: Envelope,
}

impl Write for KeepSealedTo {
    type Reply = ();
    async fn apply(&self, to: &mut AnyConnection) -> Result<(), sqlx::Error> {
        let query = sqlx::query("UPDATE machines SET sealed_to = $2 WHERE id = $1").bind(self.machine.to_string());
        query.bind(encoded(&self.said, "sealing key")?).execute(to).await?;
        Ok(())
    }

    fn then(&self) -> Change {
        Change::Reload(self.machine)
    }
}
