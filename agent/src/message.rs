//! The messages between uplink and executor. Beside them they share only byte channels
//! ([`crate::channel`]).

use fernwart_protocol::document::{Envelope, Versions};
use fernwart_protocol::id::{Digest, PublicKey, RunId, Signature};
use fernwart_protocol::text::Text;
use fernwart_protocol::to_agent::CatalogueFile;
use fernwart_protocol::to_hub::{About, Delivered, GivenBack, SignedOutcome};
use serde::{Deserialize, Serialize};

/// Length of each queue: sixteen running orders, their answers, and a catalogue.
pub const QUEUE: usize = 64;

/// Identifies the stream on which an order arrived.
pub type Ticket = u64;

/// From the uplink.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum ToExecutor {
    /// An order came on a stream.
    Order(Ticket, Envelope),
    /// The same, but the hub knows that this machine has begun it.
    Begun(Ticket, Envelope),
    /// The stream is gone, so its answer is not needed.
    Gone(Ticket),
    /// Files of a catalogue.
    Catalogue(Vec<CatalogueFile>),
    /// A restored hub asks for catalogue files newer than these versions, and for locks.
    GiveBack(Ticket, Versions),
    /// A lock.
    Lock(Envelope),
    /// A cancel.
    Cancel(Envelope),
    /// A requested blob; none if the hub does not have it.
    Blob(Digest, Option<Vec<u8>>),
    /// The hub has stored an outcome and signed for it.
    Stored(RunId, Envelope),
    /// A link was made.
    Linked(Linked),
    /// The link is gone.
    Unlinked,
    /// The hub rejects this machine.
    Rejected(Rejection),
    /// A signed retirement of this machine.
    Retirement(Envelope),
    /// Offer all unacknowledged outcomes again.
    OfferOutcomes,
    /// Sign a claim to be this machine, for a link with this binding and this TLS key
    /// (SubjectPublicKeyInfo).
    Claim([u8; 32], Vec<u8>),
    /// Stop, once running work is in the state store.
    Stop,
}

/// Why a hub rejects a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Rejection {
    /// It was never admitted.
    Rejected,
    /// It was retired.
    Retired,
    /// It is unknown.
    Unknown,
    /// A second computer uses its identity.
    KeptOut,
}

/// What the uplink knows of a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Linked {
    /// How far the hub's clock is ahead of this machine's, milliseconds.
    pub hub_ahead_ms: i64,
    /// Round-trip time, microseconds.
    pub rtt_us: u32,
    /// The number of this machine's receipts that the hub has, and their chain's head.
    pub hub_chain: Option<(u64, Digest)>,
    /// The newest journal entry of this machine that the hub knows.
    pub hub_journal: Option<u64>,
}

/// From the executor.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum ToUplink {
    /// Whom to dial; sent whenever that changes.
    Dial(Dial),
    /// A state or note for an order's stream, before its outcome.
    Delivered(Ticket, Delivered),
    /// The byte channel of this run is open; it is for the stream of its order.
    Opened(Ticket, RunId),
    /// A run's outcome, for its order's stream if that still exists.
    Outcome(Option<Ticket>, RunId, Box<SignedOutcome>),
    /// The data that the hub has lost, for the stream on which it asked.
    GivenBack(Ticket, Vec<GivenBack>),
    /// Fetch this blob.
    Want(Digest),
    /// A signed claim.
    Claim(Signature),
    /// The data about this machine for the next hello.
    About(About),
    /// An offered catalogue was rejected, and why.
    CatalogueRefused(Text<256>),
    /// The hash of the journal entry that the hub knows.
    Journal(u64, Digest),
    /// The owner takes this machine out: inform the hub.
    Leave,
    /// This machine was retired or left: stop dialling.
    Parted,
    /// The executor has stopped.
    Stopped,
}

/// How to reach the hub and verify it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dial {
    /// Addresses, tried in turn.
    pub addresses: Vec<Text<255>>,
    /// SHA-256 of each CA certificate that the hub may use.
    pub pins: Vec<Digest>,
    /// The catalogue this machine follows.
    pub versions: Versions,
    /// This machine's evidence public key.
    pub evidence_key: PublicKey,
    /// Its signed document that names its sealing key.
    pub sealed_to: Envelope,
    /// The newest protocol version of which documents may be signed for it.
    pub reads: u16,
}
