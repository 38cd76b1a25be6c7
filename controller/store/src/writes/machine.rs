//! Changes to a machine: its name and standing, keys, records, alarms.

use super::join::unused_name;
use super::json;
use crate::{Change, Write, encoded};
use fernwart_fleet::Standing;
use fernwart_protocol::code::Denial;
use fernwart_protocol::document::{Envelope, UnixMs};
use fernwart_protocol::id::{Digest, MachineId};
use fernwart_protocol::staff::{Label as LabelPair, Membership};
use fernwart_protocol::text::{MachineName, Text};
use sqlx::{AnyConnection, Row};

/// Rejects or retires a machine.
#[derive(Debug)]
pub struct SetStanding {
    /// The machine.
    pub machine: MachineId,
    /// The standing it must have now.
    pub from: Standing,
    /// Its new standing.
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

/// Retires an admitted machine and stores the retirement that a lead has signed.
#[derive(Debug)]
pub struct Retire {
    /// The machine.
    pub machine: MachineId,
    /// The signed retirement.
    pub signed: Envelope,
}

impl Write for Retire {
    type Reply = Result<(), Denial>;
    async fn apply(&self, to: &mut AnyConnection) -> Result<Self::Reply, sqlx::Error> {
        let id = self.machine.to_string();
        let row = sqlx::query("SELECT standing FROM machines WHERE id = $1").bind(&id).fetch_optional(&mut *to).await?;
        let standing: Option<String> = row.map(|row| row.try_get("standing")).transpose()?;
        // A retired machine may get a new signed retirement: the first signer may have left the
        // staff list.
        if standing.as_deref() != Some(Standing::Retired.as_str()) {
            let change = SetStanding { machine: self.machine, from: Standing::Admitted, to: Standing::Retired };
            if let Err(denial) = change.apply(&mut *to).await? {
                return Ok(Err(denial));
            }
        }
        let sql = "INSERT INTO retirements (machine, envelope) VALUES ($1, $2) \
                   ON CONFLICT (machine) DO UPDATE SET envelope = excluded.envelope";
        sqlx::query(sql).bind(&id).bind(encoded(&self.signed, "retirement")?).execute(to).await?;
        Ok(Ok(()))
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
        let kept = "INSERT INTO former_names (name, machine) SELECT name, id FROM machines \
                    WHERE id = $1 AND standing = 'admitted' ON CONFLICT (name, machine) DO NOTHING";
        sqlx::query(kept).bind(self.machine.to_string()).execute(&mut *to).await?;
        let query = sqlx::query("UPDATE machines SET name = $2 WHERE id = $1 AND standing = 'admitted'");
        let done = query.bind(self.machine.to_string()).bind(self.name.as_str()).execute(to).await?;
        Ok(if done.rows_affected() == 1 { Ok(()) } else { Err(Denial::NoSuchMachine) })
    }

    fn then(&self) -> Change {
        Change::Reload(self.machine)
    }
}

/// Sets labels; an empty value removes one.
#[derive(Debug)]
pub struct Label {
    /// The machine.
    pub machine: MachineId,
    /// The labels.
    pub labels: Vec<LabelPair>,
}

/// Maximum number of labels, and of groups, of one machine.
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
            return Ok(Err(Denial::TooManyTags));
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
            Membership::In if groups.len() >= TAGS => return Ok(Err(Denial::TooManyTags)),
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
    /// Whether the machine is admitted.
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
    /// What it reports about itself, if it has just linked.
    pub about: Option<SeenAs>,
}

/// What a machine reports about itself when it links.
#[derive(Debug, Clone)]
pub struct SeenAs {
    /// Its operating system.
    pub os: Text<64>,
    /// Its program's version.
    pub agent: Text<32>,
    /// The newest protocol version of which documents may be signed for it.
    pub protocol: u16,
    /// Its address.
    pub address: Text<64>,
}

impl Write for Seen {
    type Reply = ();
    async fn apply(&self, to: &mut AnyConnection) -> Result<(), sqlx::Error> {
        let id = self.machine.to_string();
        match &self.about {
            Some(SeenAs { os, agent, protocol, address }) => {
                let sql = "UPDATE machines SET seen_at = $2, os = $3, agent = $4, protocol = $5, address = $6 \
                           WHERE id = $1";
                let query = sqlx::query(sql).bind(id).bind(self.at).bind(os.as_raw()).bind(agent.as_raw());
                query.bind(i64::from(*protocol)).bind(address.as_raw()).execute(to).await?;
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
                if let Some(SeenAs { os, agent, protocol, address }) = about {
                    (machine.os, machine.agent, machine.address) = (os, agent, address);
                    machine.protocol = protocol;
                }
            }),
        )
    }
}

/// Updates a machine's journal head, and raises an alarm if there is one.
#[derive(Debug)]
pub struct NoteJournal {
    /// The machine.
    pub machine: MachineId,
    /// Its newest entry.
    pub seq: u64,
    /// That entry's hash.
    pub head: Digest,
    /// The alarm; `None` leaves older alarms unchanged.
    pub alarm: Option<Text<128>>,
}

impl Write for NoteJournal {
    type Reply = ();
    /// The head only advances unless there is an alarm: receipts may have reported a newer one.
    async fn apply(&self, to: &mut AnyConnection) -> Result<(), sqlx::Error> {
        let alarm = self.alarm.as_ref().map(|alarm| alarm.as_raw().to_owned()).unwrap_or_default();
        let sql = "UPDATE records SET journal_seq = $2, journal_head = $3 \
                   WHERE machine = $1 AND ($4 <> '' OR journal_seq < $2)";
        let query = sqlx::query(sql).bind(self.machine.to_string()).bind(crate::rows::number(self.seq));
        query.bind(self.head.to_string()).bind(&alarm).execute(&mut *to).await?;
        if alarm.is_empty() { Ok(()) } else { add_alarm(to, &self.machine, &alarm).await }
    }

    fn then(&self) -> Change {
        Change::Reload(self.machine)
    }
}

/// Raises an alarm about a machine's data; it stays until somebody acknowledges it.
#[derive(Debug)]
pub struct RaiseAlarm {
    /// The machine.
    pub machine: MachineId,
    /// What is wrong.
    pub alarm: Text<128>,
}

impl Write for RaiseAlarm {
    type Reply = ();
    async fn apply(&self, to: &mut AnyConnection) -> Result<(), sqlx::Error> {
        add_alarm(to, &self.machine, self.alarm.as_raw()).await
    }

    fn then(&self) -> Change {
        Change::Reload(self.machine)
    }
}

/// Earlier alarms are kept.
async fn add_alarm(to: &mut AnyConnection, machine: &MachineId, alarm: &str) -> Result<(), sqlx::Error> {
    let sql = "UPDATE machines SET alarm = $2 || CASE WHEN alarm = '' THEN '' ELSE '; ' || alarm END \
               WHERE id = $1 AND alarm NOT LIKE '%' || $2 || '%'";
    sqlx::query(sql).bind(machine.to_string()).bind(alarm).execute(to).await.map(drop)
}

/// Quarantines a machine until somebody acknowledges it.
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
        // Keep earlier alarms.
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

/// Clears a machine's alarms and quarantine.
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

/// Stores a machine's signed statement of its sealing key.
#[derive(Debug)]
pub struct KeepSealedTo {
    /// The machine.
    pub machine: MachineId,
    /// The statement.
    pub statement: Envelope,
}

impl Write for KeepSealedTo {
    type Reply = ();
    async fn apply(&self, to: &mut AnyConnection) -> Result<(), sqlx::Error> {
        let query = sqlx::query("UPDATE machines SET sealed_to = $2 WHERE id = $1").bind(self.machine.to_string());
        query.bind(encoded(&self.statement, "sealing key")?).execute(to).await?;
        Ok(())
    }

    fn then(&self) -> Change {
        Change::Reload(self.machine)
    }
}
