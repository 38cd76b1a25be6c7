//! Messages from an agent to the hub.
//!
//! They travel on the control stream, as the first frame of a stream the agent opens, and as
//! replies on a stream the hub opened to deliver an order.

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

/// What an agent reports about itself when it connects.
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

/// Frames from the agent on the stream of a delivered order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Delivered {
    /// The order's state has changed.
    State(RunState),
    /// The end: what happened, signed, with the report.
    Outcome(Box<SignedOutcome>),
    /// Refused without a receipt: the order is not authentic, not for this machine, or cannot be
    /// recorded. Nothing was done.
    Refused(crate::code::Refusal),
    /// Progress for technicians who watch; not stored.
    Note(Note),
}

/// Progress of a run, for technicians who watch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Note {
    /// The owner is being asked, until this time.
    Asking(UnixMs),
    /// The owner has agreed: the name of the account, and when.
    Allowed(Text<64>, UnixMs),
    /// The run waits for a window of the owner's, which opens at this time.
    Window(UnixMs),
    /// The run waits for other runs on this machine.
    Turn,
    /// A piece of the script's output.
    Output(Stream, Blob<OUTPUT_BYTES>),
    /// The run has ended, but the machine cannot write the outcome to its disk, for this reason. It
    /// retries every ten seconds and reports each failure. Since version 3.
    Unwritten(Text<256>),
}

/// An output stream of a script.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Stream {
    /// Standard output.
    Out,
    /// Standard error.
    Err,
}

/// The state of a run on the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum RunState {
    /// In the ledger.
    Received,
    /// Waiting for the owner or for a window.
    Waiting,
    /// Under way.
    Started,
}

/// The end of a run: enough to restore the run in a hub that was restored from a backup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignedOutcome {
    /// The order as received.
    pub order: Envelope,
    /// The agent's statement.
    pub receipt: Envelope,
    /// The report whose hash is in the receipt: JSON compressed with zstd, or empty.
    pub body: Blob<REPORT_BYTES>,
}

/// Messages from the agent on the control stream, after the hello.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename = "to_hub.Control")]
pub enum Control {
    /// The catalogue this machine has verified and now follows.
    Following(Versions),
    /// The agent stops on purpose.
    Goodbye,
    /// A signed statement of this machine's sealing key.
    SealedTo(Envelope),
    /// The hash that this machine has for the journal entry named in the hub's hello.
    Journal(u64, Digest),
    /// The hub sent a frame of a newer version; it was skipped. Since version 2.
    Denied(Denial),
    /// The machine rejects the catalogue that the hub offers, for this reason, and keeps the one it
    /// follows. Since version 3.
    CatalogueRefused(Text<256>),
    /// The owner removes this machine from the organisation for good. Since version 3.
    Leaving,
}

/// What a machine returns to a hub that has lost it. Since version 3.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum GivenBack {
    /// A file of the catalogue that the machine follows.
    File(CatalogueFile),
    /// A lock that the machine keeps.
    Lock(Envelope),
}
