//! The hash chain of events on a machine, and its verification.
//!
//! An entry is one line of JSON. Its hash covers a domain line and exactly those bytes, and is part
//! of the next entry. An entry's details are kept in a separate body, named by its hash. A body can
//! be erased, and the chain still verifies.

use crate::identity::machine_id;
use crate::{envelope, sha256};
use fernwart_protocol::document::{Document, Envelope, UnixMs};
use fernwart_protocol::id::{BootId, Digest, KeyId, MachineId, PublicKey};
use fernwart_protocol::text::Text;
use serde::{Deserialize, Serialize};

/// The domain line, hashed before an entry's line.
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
    /// The kind of event: `run_started`, `refused` …
    pub kind: Text<32>,
    /// When, by the machine's clock.
    pub at: UnixMs,
    /// Milliseconds since the machine's boot, independent of changes to the clock.
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

/// The machine's signed statement of its journal's length.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Head {
    /// Whose journal.
    pub machine: MachineId,
    /// Its newest entry.
    pub seq: u64,
    /// That entry's hash.
    pub head: Digest,
    /// When it was signed.
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
    /// An entry and its body, if that was not erased.
    Entry {
        /// Version of this format.
        v: u32,
        /// The entry's exact line.
        line: String,
        /// The body's exact text.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        body: Option<String>,
    },
    /// The last line.
    Head {
        /// Version of this format.
        v: u32,
        /// The machine's evidence public key.
        evidence_key: PublicKey,
        /// Its signed [`Head`].
        head: Envelope,
    },
}

impl Line {
    /// An entry's number; for the last line, the number of the last entry.
    pub fn seq(&self) -> Option<u64> {
        match self {
            Self::Entry { line, .. } => serde_json::from_str::<Entry>(line).ok().map(|entry| entry.seq),
            Self::Head { head, .. } => Head::from_bytes(head.bytes.as_bytes()).ok().map(|head| head.seq),
        }
    }
}

/// The body of an entry that replaces older entries, some of which were deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dropped {
    /// The newest of them. Some entries up to it were deleted; the next entry follows from it.
    pub through: u64,
    /// That entry's hash.
    pub head: Digest,
    /// The hash over the remaining entries up to it: see [`kept_hash`].
    pub kept: Digest,
    /// How many entries up to it were deleted.
    pub count: u64,
}

/// The kind of that entry.
pub const DROPPED: &str = "entries_dropped";

/// One hash over the remaining entries of a part of the journal, from their hashes in order.
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
    /// An entry is missing or duplicated.
    #[error("entry {expected} is missing: {found} stands in its place")]
    Gap {
        /// The expected number.
        expected: u64,
        /// The number found.
        found: u64,
    },
    /// An entry does not follow from the one before.
    #[error("entry {0} does not follow from the one before: something was changed")]
    Chain(u64),
    /// The remaining older entries are not those that remained when the others were deleted.
    #[error("of the entries up to {0}, others are here than were kept: something was taken out or changed")]
    Kept(u64),
    /// A body is not the one its entry names.
    #[error("what entry {0} is about was changed")]
    Body(u64),
    /// The last line is missing or signed by another key.
    #[error("the journal has no end signed by its machine: it was cut")]
    Head,
}

/// A journal that was verified.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verified {
    /// Whose it is.
    pub machine: MachineId,
    /// How many entries it has.
    pub entries: u64,
    /// How many more entries there were that were deleted.
    pub dropped: u64,
    /// How many bodies were erased.
    pub erased: u64,
}

/// One parsed entry.
struct Seen {
    seq: u64,
    previous: Digest,
    hash: Digest,
    dropped: Option<Dropped>,
}

/// Verifies an exported journal, line by line.
///
/// # Errors
/// The first violation found.
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
                let signed_head: Head = envelope::open(&head, &evidence_key).map_err(|_| BadJournal::Head)?;
                if signed_head.machine != machine_id(&evidence_key) {
                    return Err(BadJournal::Head);
                }
                end = Some(signed_head);
            }
        }
    }
    let end = end.ok_or(BadJournal::Head)?;
    let dropped = follow(&entries, &end)?;
    Ok(Verified { machine: end.machine, entries: entries.len() as u64, dropped, erased })
}

/// Verifies the chain up to its end. It begins with the first entry, or after the entries that the
/// newest [`Dropped`] body replaces. Returns how many were deleted.
fn follow(entries: &[Seen], end: &Head) -> Result<u64, BadJournal> {
    for (one, next) in entries.iter().zip(entries.iter().skip(1)) {
        if one.seq >= next.seq {
            return Err(BadJournal::Gap { expected: one.seq.saturating_add(1), found: next.seq });
        }
    }
    let dropped = entries.iter().rev().find_map(|entry| entry.dropped.map(|dropped| (dropped, entry.seq)));
    // Ignore a body that claims to replace its own entry or later ones.
    let dropped = dropped.filter(|(dropped, recorded_in)| dropped.through < *recorded_in).map(|(dropped, _)| dropped);
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
