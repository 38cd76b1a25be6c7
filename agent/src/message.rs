//! What uplink and executor say to each other. Nothing else is shared.

use fernwart_protocol::document::{Envelope, Versions};
use fernwart_protocol::id::{Digest, PublicKey, RunId, Signature};
use fernwart_protocol::text::Text;
use fernwart_protocol::to_agent::CatalogueFile;
use fernwart_protocol::to_hub::{About, Delivered, GivenBack, SignedOutcome};
use serde::{Deserialize, Serialize};

/// Messages waiting on either way: sixteen orders under way, their answers,
/// and a catalogue.
pub const QUEUE: usize = 64;

/// Names a stream on which an order came.
pub type Ticket = u64;

/// From the uplink.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum ToExecutor {
    /// An order came on a stream.
    Order(Ticket, Envelope),
    /// The same, and the hub knows that this machine has begun it.
    Begun(Ticket, Envelope),
    /// The stream is gone; nobody waits for its answer.
    Gone(Ticket),
    /// Files of a catalogue.
    Catalogue(Vec<CatalogueFile>),
    /// A restored hub asks on a stream for what this machine follows beyond that.
    GiveBack(Ticket, Versions),
    /// A lock.
    Lock(Envelope),
    /// A cancel.
    Cancel(Envelope),
    /// A wanted blob; nothing if the hub does not have it.
    Blob(Digest, Option<Vec<u8>>),
    /// The hub has stored an outcome and signed for it.
    Stored(RunId, Envelope),
    /// A link stands.
    Linked(Linked),
    /// The link is gone.
    Unlinked,
    /// The hub does not want this machine.
    Rejected(Rejection),
    /// A signed retirement of this machine.
    Retirement(Envelope),
    /// Offer again what no hub has acknowledged.
    OfferOutcomes,
    /// Sign for this link that the machine is itself: the link's binding and
    /// the TLS key, SubjectPublicKeyInfo.
    Claim([u8; 32], Vec<u8>),
    /// Stop, after what is under way is in the state store.
    Stop,
}

/// Why a hub does not want a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Rejection {
    /// It was never admitted.
    Rejected,
    /// It was parted with.
    Retired,
    /// It is not known, or not any more.
    Unknown,
    /// A second computer has its identity.
    KeptOut,
}

/// What the uplink knows of a standing link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Linked {
    /// How far the hub's clock lies before this machine's, milliseconds.
    pub hub_ahead_ms: i64,
    /// Round-trip time, microseconds.
    pub rtt_us: u32,
    /// How many receipts of this machine the hub has, and their chain's head.
    pub hub_chain: Option<(u64, Digest)>,
    /// The newest entry of this machine's journal that the hub knows of.
    pub hub_journal: Option<u64>,
}

/// From the executor.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum ToUplink {
    /// Whom to dial, whenever that has changed.
    Dial(Dial),
    /// What is said on an order's stream, short of its outcome.
    Delivered(Ticket, Delivered),
    /// A run's outcome, on its order's stream where that is still there.
    Outcome(Option<Ticket>, RunId, Box<SignedOutcome>),
    /// What the hub has lost, on the stream on which it asked.
    GivenBack(Ticket, Vec<GivenBack>),
    /// Fetch this blob.
    Want(Digest),
    /// A signed claim.
    Claim(Signature),
    /// What to say about this machine at the next hello.
    About(About),
    /// An offered catalogue was not believed, and why.
    CatalogueRefused(Text<256>),
    /// The hash of a journal entry that the hub knows of.
    Journal(u64, Digest),
    /// Tell the hub that the owner takes this machine out.
    Leave,
    /// This machine is in nobody's care any more: dial no more.
    Parted,
    /// The executor has stopped.
    Stopped,
}

/// How the hub is found and known.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dial {
    /// Addresses, tried in turn.
    pub addresses: Vec<Text<255>>,
    /// SHA-256 of each CA certificate the hub may show.
    pub pins: Vec<Digest>,
    /// The catalogue this machine follows.
    pub versions: Versions,
    /// This machine's evidence public key.
    pub evidence_key: PublicKey,
    /// Its signed word on its sealing key.
    pub sealed_to: Envelope,
    /// The newest protocol version of which documents may be signed for it.
    pub reads: u16,
}
