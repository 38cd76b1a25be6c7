//! The hash chain of what happened on a machine, and checking it.
//!
//! An entry is one line of JSON; its hash covers a domain line and exactly
//! those bytes, and stands in the next entry. What an entry is about lies
//! beside it and is named by hash, so that one body can be erased and the
//! chain still verifies.

use crate::identity::machine_id;
use crate::{envelope, sha256};
use fernwart_protocol::document::{Document, Envelope, UnixMs};
use fernwart_protocol::id::{BootId, Digest, KeyId, MachineId, PublicKey};
use fernwart_protocol::text::Text;
use serde::{Deserialize, Serialize};

/// Before an entry's line when it is hashed.
const DOMAIN: &str = "fernwart journal 1";

/// Longest line of an exported journal, bytes.
const LINE_BYTES: usize = 256 * 1024;

/// One line of a journal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// Counted from 1 without gaps.
    pub seq: u64,
    /// Hash of the entry before; zeros before the first.
    pub previous: Digest,
    /// What happened: `run_started`, `refused` …
    pub kind: Text<32>,
    /// When, by the machine's clock.
    pub at: UnixMs,
    /// Milliseconds since the machine's start, which no set clock alters.
    pub since_boot_ms: u64,
    /// The boot.
    pub boot: BootId,
    /// SHA-256 of the body.
    pub body: Digest,
}

/// The hash of an entry's exact line.
pub fn entry_hash(line: &str) -> Digest {
    sha256(format!("{DOMAIN}\n{line}\n").as_bytes())
}

/// The machine's signed word on how far its journal goes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Head {
    /// Whose journal.
    pub machine: MachineId,
    /// Its newest entry.
    pub seq: u64,
    /// That entry's hash.
    pub head: Digest,
    /// When this was said.
    pub at: UnixMs,
}

impl Document for Head {
    const KIND: &'static str = "journal head";
    fn signer(&self) -> KeyId {
        self.machine.key_id()
    }
}

/// One line of an exported journal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Line {
    /// An entry and what it is about, if that was not erased.
    Entry {
        /// Version of this shape.
        v: u32,
        /// The entry's exact line.
        line: String,
        /// The body's exact text.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        body: Option<String>,
    },
    /// The last line.
    Head {
        /// Version of this shape.
        v: u32,
        /// The machine's evidence public key.
        evidence_key: PublicKey,
        /// Its signed [`Head`].
        head: Envelope,
    },
}

impl Line {
    /// How far the journal goes, if this is its end.
    pub fn seq(&self) -> Option<u64> {
        match self {
            Self::Entry { .. } => None,
            Self::Head { head, .. } => Head::from_bytes(head.bytes.as_bytes()).ok().map(|head| head.seq),
        }
    }
}

/// What is wrong with an exported journal.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadJournal {
    /// A line cannot be read.
    #[error("line {0} is not a line of a journal")]
    Line(u64),
    /// An entry is missing, or stands twice.
    #[error("entry {expected} is missing: {found} stands in its place")]
    Gap {
        /// What should come.
        expected: u64,
        /// What came.
        found: u64,
    },
    /// An entry does not follow from the one before.
    #[error("entry {0} does not follow from the one before: something was changed")]
    Chain(u64),
    /// A body is not the one its entry names.
    #[error("what entry {0} is about was changed")]
    Body(u64),
    /// The end is missing or signed by somebody else.
    #[error("the journal has no end signed by its machine: it was cut")]
    Head,
}

/// A journal that holds together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verified {
    /// Whose it is.
    pub machine: MachineId,
    /// How many entries it has.
    pub entries: u64,
    /// How many bodies were erased.
    pub erased: u64,
}

/// Checks an exported journal, line by line.
///
/// # Errors
/// At the first thing that does not hold.
pub fn verify<'a>(lines: impl Iterator<Item = &'a str>) -> Result<Verified, BadJournal> {
    let (mut seq, mut previous, mut erased) = (0u64, Digest::from_bytes([0; 32]), 0u64);
    let mut head = None;
    for (number, text) in lines.enumerate() {
        let number = number as u64 + 1;
        if head.is_some() || text.len() > LINE_BYTES {
            return Err(BadJournal::Line(number));
        }
        match serde_json::from_str(text).map_err(|_| BadJournal::Line(number))? {
            Line::Entry { line, body, .. } => {
                let entry: Entry = serde_json::from_str(&line).map_err(|_| BadJournal::Line(number))?;
                if entry.seq != seq + 1 {
                    return Err(BadJournal::Gap { expected: seq + 1, found: entry.seq });
                }
                if entry.previous != previous {
                    return Err(BadJournal::Chain(entry.seq));
                }
                match body {
                    Some(body) if sha256(body.as_bytes()) != entry.body => return Err(BadJournal::Body(entry.seq)),
                    Some(_) => {}
                    None => erased += 1,
                }
                seq = entry.seq;
                previous = entry_hash(&line);
            }
            Line::Head { evidence_key, head: envelope, .. } => {
                let said: Head = envelope::open(&envelope, &evidence_key).map_err(|_| BadJournal::Head)?;
                if said.machine != machine_id(&evidence_key) || said.seq != seq || said.head != previous {
                    return Err(BadJournal::Head);
                }
                head = Some(said.machine);
            }
        }
    }
    let machine = head.ok_or(BadJournal::Head)?;
    Ok(Verified { machine, entries: seq, erased })
}
