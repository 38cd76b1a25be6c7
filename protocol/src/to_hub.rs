//! What an agent says to the hub.
//!
//! On the control stream, as the first frame of a stream the agent opens, and
//! back on a stream the hub opened to deliver an order.

use crate::code::Denial;
use crate::document::{Envelope, UnixMs, Versions};
use crate::id::{BootId, Digest};
use crate::limits::{OUTPUT_BYTES, REPORT_BYTES};
use crate::text::{Blob, Text};
use crate::to_agent::CatalogueFile;
use crate::version::Hello;
use serde::{Deserialize, Serialize};

/// The first frame of a stream that the agent opens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ask {
    /// The control stream: the first one of a link, and it stays.
    Control(Hello, About),
    /// Catalogue files newer than these versions.
    Fetch(Versions),
    /// An outcome that no hub has acknowledged yet.
    Outcome(SignedOutcome),
    /// A new certificate for a new TLS key: SubjectPublicKeyInfo, DER.
    Renew(Blob<256>),
    /// A bundle or one of its files, by SHA-256.
    Blob(Digest),
}

/// What an agent says about itself when it comes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct About {
    /// The boot it runs under.
    pub boot: BootId,
    /// The operating system in a few words: `debian-12`.
    pub os: Text<64>,
    /// Lines in its journal.
    pub journal_seq: u64,
    /// Hash of the newest line.
    pub journal_head: Digest,
    /// The chain position of the newest countersignature it holds.
    pub chain_seq: u64,
    /// The hub's chain head in that countersignature.
    pub chain_head: Digest,
}

/// Up the stream of a delivered order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Delivered {
    /// The order's state has changed.
    State(RunState),
    /// The end: what happened, signed, with the report.
    Outcome(Box<SignedOutcome>),
    /// Not an order this machine can keep a record of: nothing was done.
    Refused(crate::code::Refusal),
    /// Something to tell whoever watches; not kept.
    Note(Note),
}

/// What happens on the way of a run, for those who watch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Note {
    /// The owner is asked, until then.
    Asking(UnixMs),
    /// The owner has said yes: the name of the account, and when.
    Allowed(Text<64>, UnixMs),
    /// A window of the owner's opens then.
    Window(UnixMs),
    /// Others are under way on this machine.
    Turn,
    /// Some of what the script writes.
    Output(Stream, Blob<OUTPUT_BYTES>),
    /// It has ended, and the machine's disk does not take the outcome: why. It is tried
    /// again every ten seconds, and told each time. Since version 3.
    Unwritten(Text<256>),
}

/// Where a script writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Stream {
    /// Standard output.
    Out,
    /// Standard error.
    Err,
}

/// Where a run stands on the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum RunState {
    /// In the ledger.
    Received,
    /// Waiting for the owner or for a window.
    Waiting,
    /// Under way.
    Started,
}

/// A run's end: enough for a hub restored from a backup to rebuild it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignedOutcome {
    /// The order as it came.
    pub order: Envelope,
    /// The agent's statement.
    pub receipt: Envelope,
    /// The report, as its receipt hashes it: zstd'd JSON, or nothing.
    pub body: Blob<REPORT_BYTES>,
}

/// Up the control stream after the hello.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename = "to_hub.Control")]
pub enum Control {
    /// The catalogue this machine has verified and now follows.
    Following(Versions),
    /// The agent stops on purpose.
    Goodbye,
    /// Which key opens what is sealed to this machine, in its own signed word.
    SealedTo(Envelope),
    /// An entry of this machine's journal that the hub knows of, and its hash.
    Journal(u64, Digest),
    /// A frame of the hub's was of a newer version; it was passed over. Since
    /// version 2.
    Denied(Denial),
    /// The catalogue that the hub offers is not believed, and why; the machine keeps to
    /// the one it follows. Since version 3.
    CatalogueRefused(Text<256>),
    /// The owner takes this machine out of the shop's care, for good. Since version 3.
    Leaving,
}

/// What a machine gives back to a hub that has lost it. Since version 3.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum GivenBack {
    /// A file of the catalogue that the machine follows.
    File(CatalogueFile),
    /// A lock that the machine keeps.
    Lock(Envelope),
}
