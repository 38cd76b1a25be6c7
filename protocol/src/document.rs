//! Signed documents: order, cancel, lock, receipt, countersignature.
//!
//! A document is one domain line with a version, then one line of JSON. These exact bytes are kept,
//! sent, verified and exported; nothing is re-encoded. They travel in an [`Envelope`]. `certs`
//! makes and checks signatures; this module only defines the format.
//!
//! The version in the domain line is the lowest protocol version that can express the content
//! ([`Document::needs`]), so old programs can read a new program's documents as long as these use
//! nothing new. A reader that does not know the version reports that ([`BadDocument::Newer`]).

use crate::code::Refusal;
use crate::id::{BootId, CustomerId, Digest, KeyId, MachineId, PublicKey, RunId, Signature};
use crate::limits::DOCUMENT_BYTES;
use crate::script::{BundleName, Parameters, Privilege};
use crate::text::{Blob, List, MachineName, Text};
use crate::version::{CURRENT, MIN, Version};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// Milliseconds since 1970-01-01 UTC.
pub type UnixMs = i64;

/// Signed bytes in transit. The key id only selects the key to verify with; it must equal the one
/// inside the document.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Envelope {
    /// The key that is claimed to have signed.
    pub key: KeyId,
    /// Ed25519 over `bytes`.
    pub signature: Signature,
    /// The document.
    pub bytes: Blob<DOCUMENT_BYTES>,
}

/// Bytes are no document of the kind that was expected.
#[derive(Debug, thiserror::Error)]
pub enum BadDocument {
    /// Another kind.
    #[error("the first line is not \"fernwart {expected}\" with a version")]
    Kind {
        /// The kind that was expected.
        expected: &'static str,
    },
    /// A newer program has signed it.
    #[error("{kind} of version {version}, and this program reads them up to version {CURRENT}")]
    Newer {
        /// The kind.
        kind: &'static str,
        /// Its version.
        version: u16,
    },
    /// Its content needs a newer version than its first line names.
    #[error("{kind} of version {version} with {what}, which came with a later version")]
    TooOld {
        /// The kind.
        kind: &'static str,
        /// Its version.
        version: u16,
        /// The content that needs a newer version.
        what: &'static str,
    },
    /// Longer than a document may be.
    #[error("longer than {DOCUMENT_BYTES} bytes")]
    TooLong,
    /// The line of JSON does not fit the type.
    #[error("reading the line of JSON")]
    Json(#[source] serde_json::Error),
}

/// What a reader of a document must know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Needs {
    /// The first version that can express it.
    pub version: Version,
    /// What needs that version, human-readable: `fixes`.
    pub what: &'static str,
}

impl Needs {
    /// What every version knows.
    pub const NOTHING: Self = Self { version: Version::OLDEST, what: "" };
}

/// A kind of document.
pub trait Document: Serialize + DeserializeOwned {
    /// The first line without its version: `order` in `fernwart order 1`.
    const KIND: &'static str;

    /// The key that must have signed it.
    fn signer(&self) -> KeyId;

    /// What its readers must know. Covers fields, variants and codes that were added after version
    /// 1.
    fn needs(&self) -> Needs {
        Needs::NOTHING
    }

    /// The bytes to sign.
    ///
    /// # Errors
    /// When they would be longer than [`DOCUMENT_BYTES`].
    fn to_bytes(&self) -> Result<Vec<u8>, BadDocument> {
        let mut bytes = format!("fernwart {} {}\n", Self::KIND, self.needs().version).into_bytes();
        serde_json::to_writer(&mut bytes, self).map_err(BadDocument::Json)?;
        bytes.push(b'\n');
        if bytes.len() > DOCUMENT_BYTES { Err(BadDocument::TooLong) } else { Ok(bytes) }
    }

    /// Parses the signed bytes.
    ///
    /// # Errors
    /// When the kind differs, the version is newer than this program's, or the
    /// JSON does not fit.
    fn from_bytes(bytes: &[u8]) -> Result<Self, BadDocument> {
        if bytes.len() > DOCUMENT_BYTES {
            return Err(BadDocument::TooLong);
        }
        let other = || BadDocument::Kind { expected: Self::KIND };
        let (version, json) = version_and_json(bytes, Self::KIND).ok_or_else(other)?;
        if version > CURRENT {
            return Err(BadDocument::Newer { kind: Self::KIND, version });
        }
        // Exactly one line with nothing around it: no second encoding of the same document.
        if !(json.starts_with(b"{") && json.ends_with(b"}")) || json.contains(&b'\n') {
            return Err(other());
        }
        let document: Self = serde_json::from_slice(json).map_err(BadDocument::Json)?;
        match document.needs() {
            Needs { version: needed, what } if needed.number() > version => {
                Err(BadDocument::TooOld { kind: Self::KIND, version, what })
            }
            _ => Ok(document),
        }
    }
}

/// The version that the first line names, and the line after it.
fn version_and_json<'a>(bytes: &'a [u8], kind: &str) -> Option<(u16, &'a [u8])> {
    let rest = bytes.strip_prefix(b"fernwart ")?.strip_prefix(kind.as_bytes())?.strip_prefix(b" ")?;
    let end = rest.iter().take(6).position(|byte| *byte == b'\n')?;
    let (number, json) = rest.split_at_checked(end)?;
    // Only as a signer writes it: no sign, no leading zero.
    let number = std::str::from_utf8(number).ok().filter(|number| number.starts_with(|c| ('1'..='9').contains(&c)))?;
    let version = number.parse().ok().filter(|version| *version >= MIN)?;
    Some((version, json.strip_prefix(b"\n")?.strip_suffix(b"\n")?))
}

/// The signed part of a job for one machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Order {
    /// Takes effect at most once, ever.
    pub run: RunId,
    /// The one machine it is for.
    pub machine: MachineId,
    /// The machine's name as the technician typed it.
    pub machine_name: MachineName,
    /// Whose machine it is.
    pub customer: CustomerId,
    /// What to do.
    pub action: Action,
    /// Who signs.
    pub key: KeyId,
    /// Why, in the technician's words.
    pub reason: Text<500>,
    /// The newest targets version the technician has seen.
    pub targets_version: u64,
    /// Not valid before.
    pub not_before: UnixMs,
    /// Not valid after; at most seven days later.
    pub not_after: UnixMs,
    /// Secret parameters, sealed to the machine's key: see `certs::sealed`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sealed: Option<Text<16384>>,
    /// Reserved for a key of a session; no program sets it yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session_key: Option<Text<256>>,
}

/// What a run does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Action {
    /// Look: gather facts and judge them.
    Diagnose {
        /// Which sections; empty means all.
        sections: List<SectionName, 16>,
    },
    /// Act: run a bundle of the catalogue.
    Script {
        /// Its name.
        bundle: BundleName,
        /// Its version.
        version: u32,
        /// Its content.
        sha256: Digest,
        /// How much it may change, as its manifest says.
        privilege: Privilege,
        /// What it is given.
        #[serde(default)]
        parameters: Parameters,
        /// Only show what would be done.
        #[serde(default)]
        dry_run: bool,
    },
}

/// Whether an action only looks or may change something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ActionKind {
    /// Reads, changes nothing.
    Look,
    /// May change something.
    Act,
}

impl Action {
    /// Look or act, as far as the action itself tells. For a script, its manifest decides:
    /// [`Manifest::kind`](crate::script::Manifest::kind).
    pub const fn kind(&self) -> ActionKind {
        match self {
            Self::Diagnose { .. }
            | Self::Script { dry_run: true, .. }
            | Self::Script { privilege: Privilege::Read, .. } => ActionKind::Look,
            Self::Script { .. } => ActionKind::Act,
        }
    }
}

/// A section of a diagnosis.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SectionName {
    /// Name, operating system, kernel, uptime.
    System,
    /// Cores, load, pressure.
    Cpu,
    /// Memory and swap.
    Memory,
    /// File systems and drives.
    Disks,
    /// Interfaces, routes, name servers, reachability.
    Network,
    /// Who uses processor and memory.
    Processes,
    /// Services that should run.
    Services,
    /// Recent errors, grouped.
    Logs,
    /// Pending updates.
    Updates,
    /// Clock and its synchronisation.
    Time,
    /// Batteries and mains.
    Power,
    /// Listening sockets, logins, firewall.
    Security,
}

impl SectionName {
    /// All, in the order of a report.
    pub const ALL: [Self; 12] = [
        Self::System,
        Self::Cpu,
        Self::Memory,
        Self::Disks,
        Self::Network,
        Self::Processes,
        Self::Services,
        Self::Logs,
        Self::Updates,
        Self::Time,
        Self::Power,
        Self::Security,
    ];

    /// The word, as in JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::System => "system",
            Self::Cpu => "cpu",
            Self::Memory => "memory",
            Self::Disks => "disks",
            Self::Network => "network",
            Self::Processes => "processes",
            Self::Services => "services",
            Self::Logs => "logs",
            Self::Updates => "updates",
            Self::Time => "time",
            Self::Power => "power",
            Self::Security => "security",
        }
    }
}

impl std::fmt::Display for SectionName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.as_str())
    }
}

impl std::str::FromStr for SectionName {
    type Err = String;
    fn from_str(word: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|section| section.as_str() == word).ok_or_else(|| {
            let all: Vec<_> = Self::ALL.iter().map(|s| s.as_str()).collect();
            format!("sections are {}", all.join(", "))
        })
    }
}

impl Document for Order {
    const KIND: &'static str = "order";
    fn signer(&self) -> KeyId {
        self.key
    }
}

/// A staff member takes an order back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cancel {
    /// The order's run.
    pub run: RunId,
    /// Its machine.
    pub machine: MachineId,
    /// Who signs.
    pub key: KeyId,
    /// When.
    pub at: UnixMs,
}

impl Document for Cancel {
    const KIND: &'static str = "cancel";
    fn signer(&self) -> KeyId {
        self.key
    }
}

/// A lead retires a machine: its agent stops for good.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Retirement {
    /// The machine.
    pub machine: MachineId,
    /// Its name, as the lead has typed it.
    pub machine_name: MachineName,
    /// Whose it is.
    pub customer: CustomerId,
    /// Who signs.
    pub key: KeyId,
    /// When.
    pub at: UnixMs,
    /// Not valid after.
    pub not_after: UnixMs,
}

impl Document for Retirement {
    const KIND: &'static str = "retirement";
    fn signer(&self) -> KeyId {
        self.key
    }
}

/// Takes rights away, never grants any. Only the catalogue can lift a lock.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lock {
    /// What is locked.
    pub locked: Locked,
    /// Who signs: an approver, or the staff key itself.
    pub key: KeyId,
    /// Why.
    pub reason: Text<500>,
    /// When.
    pub at: UnixMs,
}

/// What a lock names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Locked {
    /// Staff keys: their orders are refused.
    Keys(List<KeyId, 64>),
    /// A machine: it answers looks and does nothing else.
    Machine(MachineId),
}

impl Document for Lock {
    const KIND: &'static str = "lock";
    fn signer(&self) -> KeyId {
        self.key
    }
}

/// How a run ended. Exactly one per accepted order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Executed successfully.
    Ok,
    /// Executed, but failed.
    Failed,
    /// Not executed: the machine refused.
    Refused,
    /// Not executed: time ran out.
    Expired,
    /// Not executed: cancelled.
    Cancelled,
    /// The machine stopped during the run; what was done is unknown.
    Interrupted,
}

impl Outcome {
    /// All there are.
    pub const ALL: [Self; 6] =
        [Self::Ok, Self::Failed, Self::Refused, Self::Expired, Self::Cancelled, Self::Interrupted];

    /// The word, as in JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Failed => "failed",
            Self::Refused => "refused",
            Self::Expired => "expired",
            Self::Cancelled => "cancelled",
            Self::Interrupted => "interrupted",
        }
    }
}

/// The versions of a catalogue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Versions {
    /// Of the root.
    pub root: u64,
    /// Of the targets.
    pub targets: u64,
    /// Of the snapshot.
    pub snapshot: u64,
    /// Of the timestamp.
    pub timestamp: u64,
}

/// The agent's signed statement about one run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Receipt {
    /// The run.
    pub run: RunId,
    /// The machine that makes the statement.
    pub machine: MachineId,
    /// SHA-256 of the order's bytes.
    pub order: Digest,
    /// How it ended.
    pub outcome: Outcome,
    /// Why it was refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refusal: Option<Refusal>,
    /// SHA-256 of the report as it travels (compressed); of zero bytes if there is none.
    pub body: Digest,
    /// Its length, bytes.
    pub body_bytes: u64,
    /// The rule of the owner's policy that permitted it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub permitted_by: Option<Text<64>>,
    /// SHA-256 of the owner's policy file.
    pub policy: Digest,
    /// The catalogue that was in force.
    pub catalogue: Versions,
    /// The number of the journal entry that records the end.
    pub journal_seq: u64,
    /// Hash of that entry.
    pub journal_head: Digest,
    /// When it started.
    pub started_at: UnixMs,
    /// When it ended.
    pub finished_at: UnixMs,
    /// The boot it ran under.
    pub boot: BootId,
}

impl Document for Receipt {
    const KIND: &'static str = "receipt";
    fn signer(&self) -> KeyId {
        self.machine.key_id()
    }
    fn needs(&self) -> Needs {
        // A refusal that this program does not know has no known version.
        let since = self.refusal.and_then(|refusal| refusal.since()).filter(|since| *since > Version::OLDEST);
        since.map_or(Needs::NOTHING, |version| Needs { version, what: "a new reason to refuse" })
    }
}

/// The hub's signed statement that it has stored a receipt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Countersignature {
    /// The run.
    pub run: RunId,
    /// The machine.
    pub machine: MachineId,
    /// SHA-256 of the receipt's bytes.
    pub receipt: Digest,
    /// How many receipts of this machine the hub holds.
    pub chain_seq: u64,
    /// SHA-256 over the machine's chain up to this receipt.
    pub chain_head: Digest,
    /// Which key signs.
    pub key: KeyId,
    /// When it was stored.
    pub at: UnixMs,
}

/// A machine's signed statement of its sealing key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SealedTo {
    /// Which machine.
    pub machine: MachineId,
    /// Its X25519 public key.
    pub sealing_key: PublicKey,
}

impl Document for SealedTo {
    const KIND: &'static str = "sealing key";
    fn signer(&self) -> KeyId {
        self.machine.key_id()
    }
}

/// The hub's signed statement of how long its chain of a machine's receipts is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChainEnd {
    /// Whose receipts.
    pub machine: MachineId,
    /// How many.
    pub seq: u64,
    /// The chain's head.
    pub head: Digest,
    /// The hub's evidence key.
    pub key: KeyId,
    /// When it was signed.
    pub at: UnixMs,
}

impl Document for ChainEnd {
    const KIND: &'static str = "chain end";
    fn signer(&self) -> KeyId {
        self.key
    }
}

/// The hub's signed statement that it no longer keeps a range of a machine's receipts: those after
/// `after`, up to and including `seq`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChainCut {
    /// Whose receipts.
    pub machine: MachineId,
    /// The last receipt kept before the range; 0 if there is none.
    pub after: u64,
    /// The last receipt of the range.
    pub seq: u64,
    /// The chain's head at that receipt.
    pub head: Digest,
    /// The hub's evidence key.
    pub key: KeyId,
    /// When it was signed.
    pub at: UnixMs,
}

impl Document for ChainCut {
    const KIND: &'static str = "chain cut";
    fn signer(&self) -> KeyId {
        self.key
    }
}

impl Document for Countersignature {
    const KIND: &'static str = "countersignature";
    fn signer(&self) -> KeyId {
        self.key
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cancel() -> Cancel {
        Cancel {
            run: RunId::from_bytes([1; 16]),
            machine: MachineId::from_bytes([2; 16]),
            key: KeyId::from_bytes([3; 16]),
            at: 4,
        }
    }

    #[test]
    fn a_document_is_a_domain_line_and_a_line_of_json() {
        let bytes = cancel().to_bytes().unwrap_or_default();
        let expected = format!(
            "fernwart cancel 1\n{{\"run\":\"{}\",\"machine\":\"{}\",\"key\":\"{}\",\"at\":4}}\n",
            "01".repeat(16),
            "02".repeat(16),
            "03".repeat(16)
        );
        assert_eq!(String::from_utf8_lossy(&bytes), expected);
        assert_eq!(Cancel::from_bytes(&bytes).ok(), Some(cancel()));
    }

    #[test]
    fn a_document_of_another_kind_or_with_additional_content_is_rejected() {
        let bytes = cancel().to_bytes().unwrap_or_default();
        assert!(Lock::from_bytes(&bytes).is_err());
        let text = String::from_utf8_lossy(&bytes).replace("\"at\":4", "\"at\":4,\"and\":5");
        assert!(Cancel::from_bytes(text.as_bytes()).is_err());
        let mut twice = bytes.clone();
        twice.extend_from_slice(&bytes);
        assert!(Cancel::from_bytes(&twice).is_err());
    }

    #[test]
    fn a_document_of_a_newer_version_is_distinguished_from_a_damaged_one() {
        let text = String::from_utf8(cancel().to_bytes().unwrap_or_default()).unwrap_or_default();
        let of = |version: &str| Cancel::from_bytes(text.replace("cancel 1", version).as_bytes());
        assert!(of("cancel 1").is_ok());
        assert!(matches!(of("cancel 9"), Err(BadDocument::Newer { kind: "cancel", version: 9 })));
        for damaged in ["cancel 0", "cancel 01", "cancel +1", "cancel 99999", "cancel", "cancel  1", "cancel -1"] {
            assert!(matches!(of(damaged), Err(BadDocument::Kind { .. })), "{damaged}");
        }
    }

    #[test]
    fn a_document_names_the_lowest_version_that_can_express_it() {
        let receipt = |refusal| Receipt {
            run: RunId::from_bytes([1; 16]),
            machine: MachineId::from_bytes([2; 16]),
            order: Digest::from_bytes([3; 32]),
            outcome: Outcome::Refused,
            refusal,
            body: Digest::from_bytes([4; 32]),
            body_bytes: 0,
            permitted_by: None,
            policy: Digest::from_bytes([5; 32]),
            catalogue: Versions::default(),
            journal_seq: 1,
            journal_head: Digest::from_bytes([6; 32]),
            started_at: 1,
            finished_at: 2,
            boot: BootId::from_bytes([7; 16]),
        };
        let first_line = |receipt: &Receipt| {
            let bytes = receipt.to_bytes().unwrap_or_default();
            String::from_utf8_lossy(&bytes).lines().next().map(str::to_owned)
        };
        assert_eq!(first_line(&receipt(Some(Refusal::Paused))).as_deref(), Some("fernwart receipt 1"));
        let newer = receipt(Some(Refusal::NewerOrder));
        assert_eq!(first_line(&newer).as_deref(), Some("fernwart receipt 2"));
        let bytes = newer.to_bytes().unwrap_or_default();
        assert_eq!(Receipt::from_bytes(&bytes).ok(), Some(newer));
        // As if its signer had only known the older version.
        let aged = String::from_utf8_lossy(&bytes).replace("receipt 2", "receipt 1");
        assert!(matches!(Receipt::from_bytes(aged.as_bytes()), Err(BadDocument::TooOld { version: 1, .. })));
        // A refusal code that no version knows yet is read as such.
        let unknown = aged.replace("FW-GATE-21", "FW-GATE-99");
        let read = Receipt::from_bytes(unknown.as_bytes()).ok().and_then(|receipt| receipt.refusal);
        assert_eq!(read.map(|refusal| refusal.code().into_owned()).as_deref(), Some("FW-GATE-99"));
    }

    #[test]
    fn section_names_are_the_same_in_json() {
        for section in SectionName::ALL {
            let json = serde_json::to_string(&section).unwrap_or_default();
            assert_eq!(json, format!("\"{section}\""));
            assert_eq!(section.as_str().parse(), Ok(section));
        }
    }
}
