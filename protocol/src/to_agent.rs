//! What the hub says to an agent.
//!
//! On the control stream, and as the first frame of a stream the hub opens.

use crate::code::Denial;
use crate::document::{Envelope, Versions};
use crate::limits::{BLOB_BYTES, METADATA_BYTES};
use crate::text::{Blob, List, Text};
use crate::version::Hello;
use serde::{Deserialize, Serialize};

/// Down the control stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename = "to_agent.Control")]
pub enum Control {
    /// The first frame.
    Hello(Hello),
    /// A newer catalogue than the one told before is published.
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
    /// The two have no version in common, and the link ends; or, later on it, a
    /// frame was of a newer version and was passed over.
    Denied(Denial),
    /// A signed retirement of this machine. Since version 3.
    Retired(Envelope),
}

/// The first frame of a stream that the hub opens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Deliver {
    /// An order; answered with [`crate::to_hub::Delivered`] frames.
    Order(Envelope),
    /// To be sent back as it is: `fernwart ping`.
    Echo(u64),
    /// An order that may have come before, and the cancel of it, in this order
    /// of effect: cancel, order. Answered like an order.
    TakenBack(Envelope, Envelope),
    /// An order of which this machine has said that it had begun, and its cancel if
    /// it was taken back. Answered like an order; where its state store does not know it,
    /// they went back, and it never begins again.
    Begun(Envelope, Option<Envelope>),
    /// This hub was restored from a backup, and this is all it has of the catalogue.
    /// Answered with [`crate::to_hub::GivenBack`] frames: what the machine follows, if
    /// any of it is newer, and the locks it holds. Since version 3.
    GiveBack(Versions),
}

/// The hub's last word on a delivered or settled run: it is stored.
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
    /// What is in it.
    pub bytes: Blob<METADATA_BYTES>,
}

/// Answers to [`crate::to_hub::Ask::Renew`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Renewed {
    /// The new certificate and its issuer, DER.
    Certificate(List<Blob<4096>, 4>),
    /// The hub will not.
    Denied(Denial),
}
