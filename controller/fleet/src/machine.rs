//! A machine as its hub knows it.

use fernwart_protocol::diagnosis::{Severity, Summary};
use fernwart_protocol::document::UnixMs;
use fernwart_protocol::id::{CustomerId, Digest, MachineId, PublicKey};
use fernwart_protocol::staff::{Label, Verdict};
use fernwart_protocol::text::{MachineName, Text};
use std::str::FromStr;

/// Whether a machine is let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// It has joined; a person must admit it.
    Pending,
    /// It is one of ours.
    Admitted,
    /// A person has turned it away.
    Rejected,
    /// It was one of ours.
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
    /// Whose it is.
    pub customer: CustomerId,
    /// The customer's name.
    pub customer_name: Text<120>,
    /// Its name.
    pub name: MachineName,
    /// Whether it is let in.
    pub standing: Standing,
    /// Its evidence public key.
    pub evidence_key: PublicKey,
    /// SHA-256 of its TLS public key.
    pub tls_key: Digest,
    /// What it calls itself.
    pub hostname: Text<255>,
    /// Its operating system.
    pub os: Text<64>,
    /// Its program's version.
    pub agent: Text<32>,
    /// The newest protocol version of which documents may be signed for it, as its
    /// program said last.
    pub protocol: u16,
    /// Where it was last linked from.
    pub address: Text<64>,
    /// Since when it is kept out because two computers use its identity; 0 if it
    /// is not.
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
    /// What its newest report says.
    pub verdict: Verdict,
    /// What is wrong with its records; empty if nothing.
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

/// What a report says in a word.
pub fn verdict(report: &Summary) -> Verdict {
    let first = |severity| report.findings.iter().find(|finding| finding.severity == severity);
    let named = |finding: &fernwart_protocol::diagnosis::Finding| {
        let instance = finding.instance.as_ref().map(|instance| format!(" {instance}")).unwrap_or_default();
        Text::clipped(&format!("{}{instance}", finding.id))
    };
    match (first(Severity::Crit), first(Severity::Warn)) {
        (Some(finding), _) => Verdict::Crit(named(finding)),
        (None, Some(finding)) => Verdict::Warn(named(finding)),
        (None, None) if report.checks == 0 => Verdict::Unknown,
        (None, None) => Verdict::Well,
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
}
