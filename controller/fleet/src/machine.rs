//! A machine as the hub knows it.

use fernwart_protocol::diagnosis::{Finding, Severity, State, Summary};
use fernwart_protocol::document::UnixMs;
use fernwart_protocol::id::{CustomerId, Digest, MachineId, PublicKey};
use fernwart_protocol::staff::{Label, OtherHealth, Verdict};
use fernwart_protocol::text::{MachineName, Text};
use serde::{Deserialize, Serialize};
use std::str::FromStr;

/// Whether a machine is admitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// It has joined; a person must admit it.
    Pending,
    /// It is admitted.
    Admitted,
    /// A person has rejected it.
    Rejected,
    /// It was admitted once.
    Retired,
}

impl Standing {
    /// The word in the store.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Admitted => "admitted",
            Self::Rejected => "rejected",
            Self::Retired => "retired",
        }
    }
}

impl FromStr for Standing {
    type Err = ();
    fn from_str(word: &str) -> Result<Self, ()> {
        [Self::Pending, Self::Admitted, Self::Rejected, Self::Retired]
            .into_iter()
            .find(|s| s.as_str() == word)
            .ok_or(())
    }
}

/// One machine.
#[derive(Debug, Clone, PartialEq)]
pub struct Machine {
    /// Its id.
    pub id: MachineId,
    /// Its customer.
    pub customer: CustomerId,
    /// The customer's name.
    pub customer_name: Text<120>,
    /// Its name.
    pub name: MachineName,
    /// Whether it is admitted.
    pub standing: Standing,
    /// Its evidence public key.
    pub evidence_key: PublicKey,
    /// SHA-256 of its TLS public key.
    pub tls_key: Digest,
    /// Its own host name.
    pub hostname: Text<255>,
    /// Its operating system.
    pub os: Text<64>,
    /// Its program's version.
    pub agent: Text<32>,
    /// The newest protocol version that documents for it may use, as its program last reported.
    pub protocol: u16,
    /// The address of its last link.
    pub address: Text<64>,
    /// When it was quarantined because two computers use its identity; 0 if it is not.
    pub quarantined_at: UnixMs,
    /// When it joined.
    pub joined_at: UnixMs,
    /// When it was last linked.
    pub seen_at: UnixMs,
    /// When its certificate ends.
    pub certificate_until: UnixMs,
    /// Its labels.
    pub labels: Vec<Label>,
    /// Its groups.
    pub groups: Vec<Text<63>>,
    /// The result of its newest complete diagnosis.
    pub diagnosed: Diagnosed,
    /// The alarms about its data; empty if there are none.
    pub alarm: Text<128>,
}

/// The first free name: the wanted one, or it with a number.
pub fn free_name(wanted: &MachineName, taken: impl Fn(&MachineName) -> bool) -> MachineName {
    if !taken(wanted) {
        return wanted.clone();
    }
    let mut number = 2;
    loop {
        let name = wanted.numbered(number);
        if !taken(&name) {
            return name;
        }
        number += 1;
    }
}

/// The overall result of a diagnosis. Worst last.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Health {
    /// There was no diagnosis yet.
    #[default]
    Unknown,
    /// All checks were done and found nothing.
    Well,
    /// The first warning.
    Warn(Text<128>),
    /// A check has no result; names the first one.
    Lost(Text<128>),
    /// The first critical finding.
    Crit(Text<128>),
}

/// The result of a machine's newest complete diagnosis, and when it was taken.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(from = "Stored")]
pub struct Diagnosed {
    /// The result.
    pub health: Health,
    /// When it was taken, at the latest when it was stored; 0 if unknown.
    pub at: UnixMs,
}

/// The stored format; before 0.3.0 it had no time.
#[derive(Deserialize)]
#[serde(untagged)]
enum Stored {
    Dated { health: Health, at: UnixMs },
    Undated(Health),
}

impl From<Stored> for Diagnosed {
    fn from(stored: Stored) -> Self {
        match stored {
            Stored::Dated { health, at } => Self { health, at },
            Stored::Undated(health) => Self { health, at: 0 },
        }
    }
}

impl Health {
    /// The overall result of a report.
    pub fn of(report: &Summary) -> Self {
        let first = |severity| report.findings.iter().find(|finding| finding.severity == severity);
        let named = |finding: Option<&Finding>| Text::clipped(&finding.map(Finding::name).unwrap_or_default());
        match report.state() {
            State::Crit => Self::Crit(named(first(Severity::Crit))),
            State::Unknown => Self::Lost(Text::clipped(&report.lost_in_words().unwrap_or_default())),
            State::Warn => Self::Warn(named(first(Severity::Warn))),
            State::Ok => Self::Well,
        }
    }

    /// Its short name.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Unknown => "",
            Self::Well => "ok",
            Self::Warn(_) => "warn",
            Self::Lost(_) => "unknown",
            Self::Crit(_) => "crit",
        }
    }

    /// The result in version 1 of the protocol. That version cannot express a lost check, which
    /// must not look healthy.
    pub fn in_version_1(&self) -> Verdict {
        match self {
            Self::Unknown | Self::Lost(_) => Verdict::Unknown,
            Self::Well => Verdict::Well,
            Self::Warn(what) => Verdict::Warn(what.clone()),
            Self::Crit(what) => Verdict::Crit(what.clone()),
        }
    }

    /// The result that version 1 cannot express.
    pub fn other(&self) -> Option<OtherHealth> {
        match self {
            Self::Lost(about) => Some(OtherHealth { word: OtherHealth::LOST, about: about.clone() }),
            Self::Unknown | Self::Well | Self::Warn(_) | Self::Crit(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_machine_of_a_name_gets_a_number() {
        let name: MachineName = "kasse-1".parse().expect("a name");
        let taken = ["kasse-1", "kasse-1-2"];
        assert_eq!(free_name(&name, |n| taken.contains(&n.as_str())).as_str(), "kasse-1-3");
        assert_eq!(free_name(&name, |_| false), name);
    }

    #[test]
    fn a_diagnosis_stored_by_an_older_hub_is_read() {
        let read = |text: &str| serde_json::from_str::<Diagnosed>(text).expect("read");
        assert_eq!(read("\"Unknown\""), Diagnosed::default());
        let disk = Text::clipped("disk.free /");
        assert_eq!(read("{\"Crit\":\"disk.free /\"}"), Diagnosed { health: Health::Crit(disk), at: 0 });
        let lost = Diagnosed { health: Health::Lost(Text::clipped("disks: not answered")), at: 7 };
        assert_eq!(read(&serde_json::to_string(&lost).expect("written")), lost);
    }
}
