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
    /// An entry's number; at the end that of the last one.
    pub fn seq(&self) -> Option<u64> {
        match self {
            Self::Entry { line, .. } => serde_json::from_str::<Entry>(line).ok().map(|entry| entry.seq),
            Self::Head { head, .. } => Head::from_bytes(head.bytes.as_bytes()).ok().map(|head| head.seq),
        }
    }
}

/// What an entry tells that stands for older ones, which are not kept any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dropped {
    /// Entries up to this one are kept in part. The next one follows from it.
    pub through: u64,
    /// That entry's hash.
    pub head: Digest,
    /// The hash of those up to it that are kept: see [`kept_hash`].
    pub kept: Digest,
    /// How many up to it are not kept.
    pub count: u64,
}

/// The kind of the entry that says so.
pub const DROPPED: &str = "entries_dropped";

/// One hash for the kept entries of a part of the journal, from their own, in order.
pub fn kept_hash(entries: impl Iterator<Item = Digest>) -> Digest {
    let mut all = b"fernwart journal kept 1\n".to_vec();
    entries.for_each(|hash| all.extend_from_slice(hash.as_bytes()));
    sha256(&all)
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
    /// What is left of older entries is not what was left when the others were dropped.
    #[error("of the entries up to {0}, others are here than were kept: something was taken out or changed")]
    Kept(u64),
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
    /// How many more there were, which are not kept any more.
    pub dropped: u64,
    /// How many bodies were erased.
    pub erased: u64,
}

/// One entry as it was read.
struct Seen {
    seq: u64,
    previous: Digest,
    hash: Digest,
    dropped: Option<Dropped>,
}

/// Checks an exported journal, line by line.
///
/// # Errors
/// At the first thing that does not hold.
pub fn verify<'a>(lines: impl Iterator<Item = &'a str>) -> Result<Verified, BadJournal> {
    let (mut entries, mut erased, mut end) = (Vec::new(), 0u64, None);
    for (number, text) in lines.enumerate() {
        let number = number as u64 + 1;
        if end.is_some() || text.len() > LINE_BYTES {
            return Err(BadJournal::Line(number));
        }
        match serde_json::from_str(text).map_err(|_| BadJournal::Line(number))? {
            Line::Entry { line, body, .. } => {
                let entry: Entry = serde_json::from_str(&line).map_err(|_| BadJournal::Line(number))?;
                match &body {
                    Some(body) if sha256(body.as_bytes()) != entry.body => return Err(BadJournal::Body(entry.seq)),
                    Some(_) => {}
                    None => erased += 1,
                }
                let dropped = body.filter(|_| entry.kind.as_raw() == DROPPED);
                let dropped = dropped.and_then(|body| serde_json::from_str(&body).ok());
                entries.push(Seen { seq: entry.seq, previous: entry.previous, hash: entry_hash(&line), dropped });
            }
            Line::Head { evidence_key, head, .. } => {
                let said: Head = envelope::open(&head, &evidence_key).map_err(|_| BadJournal::Head)?;
                if said.machine != machine_id(&evidence_key) {
                    return Err(BadJournal::Head);
                }
                end = Some(said);
            }
        }
    }
    let end = end.ok_or(BadJournal::Head)?;
    let dropped = follow(&entries, &end)?;
    Ok(Verified { machine: end.machine, entries: entries.len() as u64, dropped, erased })
}

/// Follows the chain to its end. It begins with the first entry, or after what the newest
/// entry that tells of dropped ones stands for. How many were dropped.
fn follow(entries: &[Seen], end: &Head) -> Result<u64, BadJournal> {
    for (one, next) in entries.iter().zip(entries.iter().skip(1)) {
        if one.seq >= next.seq {
            return Err(BadJournal::Gap { expected: one.seq.saturating_add(1), found: next.seq });
        }
    }
    let dropped = entries.iter().rev().find_map(|entry| entry.dropped.map(|dropped| (dropped, entry.seq)));
    // One that stands among those it tells of tells nothing.
    let dropped = dropped.filter(|(dropped, told_in)| dropped.through < *told_in).map(|(dropped, _)| dropped);
    let through = dropped.map_or(0, |dropped| dropped.through);
    let (older, chain) = entries.split_at(entries.partition_point(|entry| entry.seq <= through));
    let mut head = Digest::from_bytes([0; 32]);
    if let Some(dropped) = dropped {
        if kept_hash(older.iter().map(|entry| entry.hash)) != dropped.kept {
            return Err(BadJournal::Kept(through));
        }
        head = dropped.head;
    }
    let mut seq = through;
    for entry in chain {
        if seq.checked_add(1) != Some(entry.seq) {
            return Err(BadJournal::Gap { expected: seq.saturating_add(1), found: entry.seq });
        }
        if entry.previous != head {
            return Err(BadJournal::Chain(entry.seq));
        }
        (seq, head) = (entry.seq, entry.hash);
    }
    if (end.seq, end.head) != (seq, head) {
        return Err(BadJournal::Head);
    }
    Ok(through.saturating_sub(older.len() as u64))
}
