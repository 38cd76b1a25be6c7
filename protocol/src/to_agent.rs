//! Messages from the hub to an agent.
//!
//! On the control stream, and as the first frame of a stream the hub opens.

use crate::code::Denial;
use crate::document::{Envelope, Versions};
use crate::limits::{BLOB_BYTES, METADATA_BYTES};
use crate::text::{Blob, List, Text};
use crate::version::Hello;
use serde::{Deserialize, Serialize};

/// Messages from the hub on the control stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename = "to_agent.Control")]
pub enum Control {
    /// The first frame.
    Hello(Hello),
    /// A newer catalogue than the last announced one is published.
    CatalogueChanged {
        /// Version of its timestamp.
        timestamp: u64,
    },
    /// A signed lock.
    Lock(Envelope),
    /// A signed cancel.
    Cancel(Envelope),
    /// The hub is leaving.
    Goodbye {
        /// How long to wait before dialling again, milliseconds.
        retry_after_ms: u32,
    },
    /// At the start: the two have no version in common, and the link ends. Later: a frame of a
    /// newer version was skipped.
    Denied(Denial),
    /// A signed retirement of this machine. Since version 3.
    Retired(Envelope),
}

/// The first frame of a stream that the hub opens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Deliver {
    /// An order; answered with [`crate::to_hub::Delivered`] frames.
    Order(Envelope),
    /// A number to echo unchanged: `fernwart ping`, and telling two computers with one identity apart.
    Echo(u64),
    /// An order that may have been delivered before, and its cancel. The agent applies the cancel
    /// first, then the order. Answered like an order.
    TakenBack(Envelope, Envelope),
    /// An order that this machine has reported as begun, and its cancel if there is one. Answered
    /// like an order. If the machine's state store does not know the run, the store was set back to
    /// an older state; the machine then never starts the run again.
    Begun(Envelope, Option<Envelope>),
    /// This hub was restored from a backup; these are the versions of the catalogue it has.
    /// Answered with [`crate::to_hub::GivenBack`] frames: the machine's catalogue files, if any is
    /// newer, and its locks. Since version 3.
    GiveBack(Versions),
}

/// The hub's last message about a delivered or settled run: whether the outcome is stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Stored {
    /// Stored and countersigned.
    Countersigned(Envelope),
    /// Not stored; the agent keeps it and settles later.
    NotNow(Denial),
}

/// Answers to the agent's [`crate::to_hub::Ask::Fetch`] and [`crate::to_hub::Ask::Blob`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Fetched {
    /// One file of the catalogue; more frames follow until the stream ends.
    File(CatalogueFile),
    /// The hub cannot answer.
    Denied(Denial),
    /// The answer to [`crate::to_hub::Ask::Blob`].
    Blob(Blob<BLOB_BYTES>),
}

/// One file of the catalogue's metadata or one of its named targets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CatalogueFile {
    /// `3.root.json`, `timestamp.json`, `staff.json` …
    pub name: Text<64>,
    /// The file's content.
    pub bytes: Blob<METADATA_BYTES>,
}

/// Answers to [`crate::to_hub::Ask::Renew`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Renewed {
    /// The new certificate and its issuer, DER.
    Certificate(List<Blob<4096>, 4>),
    /// The hub refuses.
    Denied(Denial),
}
