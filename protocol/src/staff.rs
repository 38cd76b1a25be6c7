//! Requests of technicians to the hub, and its replies.
//!
//! Each request has its own stream. The client sends a hello and the request at once; the hub sends
//! a hello and replies, the last of which is `Done` or `Denied`. Closing the stream early only
//! stops watching; a job continues.

use crate::code::{Denial, Refusal};
use crate::document::{Envelope, Outcome, UnixMs};
use crate::enroll::Newcomer;
use crate::event::{Event, Until};
use crate::id::{CustomerId, Digest, JobId, KeyId, MachineId, PublicKey, RunId, TokenId};
use crate::limits::{
    BLOB_BYTES, JOB_MACHINES, METADATA_BYTES, ORDERS_PER_FRAME, OUTPUT_BYTES, QUESTION_BYTES, REPORT_BYTES,
    ROWS_PER_FRAME,
};
use crate::row::{Row, tag};
use crate::text::{Blob, List, MachineName, Text};
use crate::to_agent::CatalogueFile;
use crate::to_hub::Note;
pub use crate::verdict::Verdict;
use crate::version::MIN;
use serde::{Deserialize, Serialize};

/// A label: `site=kiel`.
pub type Label = (Text<63>, Text<63>);

/// A request of a technician.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename = "staff.Request")]
pub enum Request {
    /// All admitted machines: `MachineRows` replies, or `Machines` replies to a program of version
    /// 1.
    Machines,
    /// All customers.
    Customers,
    /// Create a customer under a random id that the client has chosen.
    AddCustomer(CustomerRow),
    /// Register an invitation's token; the client has composed the invitation itself.
    Invite(Token),
    /// Machines that wait for admission, and people who wait for the staff list.
    Pending,
    /// Admit a machine under a name.
    Admit(MachineId, MachineName),
    /// Reject a machine.
    Reject(MachineId),
    /// Remove a machine for good.
    Retire(MachineId),
    /// Give a machine another name.
    Rename(MachineId, MachineName),
    /// Set labels; an empty value removes one.
    Label(MachineId, List<Label, 32>),
    /// Put machines into a group, or take them out.
    Group(Text<63>, List<MachineId, 4096>, Membership),
    /// Echo over the links of these machines: `Pong` replies.
    Ping(List<MachineId, JOB_MACHINES>, u32),
    /// Submit a job: `Orders` frames follow until the client finishes its side.
    Submit(JobHead),
    /// Watch a job from its beginning.
    Watch(JobId),
    /// The newest jobs.
    Jobs,
    /// One job with its runs.
    Job(JobId),
    /// Cancel runs: signed cancels.
    Cancel(List<Envelope, ORDERS_PER_FRAME>),
    /// The newest stored report of a machine.
    Facts(MachineId),
    /// Catalogue files newer than the client's hello says.
    Catalogue,
    /// Store a draft of a catalogue for others to sign.
    PutDraft(Blob<METADATA_BYTES>),
    /// All drafts.
    Drafts,
    /// Publish a draft that has its signatures.
    Publish(Digest),
    /// Suspend a staff key at this hub, effective at once.
    Suspend(KeyId),
    /// Hand a signed lock to every machine.
    Lock(Envelope),
    /// The hub's health.
    Health,
    /// A new certificate for the same key.
    Renew,
    /// A bundle or one of its files, by SHA-256.
    Blob(Digest),
    /// A job whose orders wait for machines that are away, until they expire.
    Queue(JobHead),
    /// The orders of a job, to submit them again.
    JobOrders(JobId),
    /// A machine's chain of receipts, from its beginning.
    Chain(MachineId),
    /// Signed targets of earlier versions, oldest first.
    History,
    /// The sealing key of a machine.
    SealedTo(MachineId),
    /// Acknowledge an alarm about a machine's records: somebody has investigated it.
    Acknowledge(MachineId),
    /// One SELECT over what machines have reported: `Lines` replies.
    Query(Text<QUESTION_BYTES>),
    /// The newest complete report of a machine that was stored at this time.
    FactsAt(MachineId, UnixMs),
    /// Recent events: `Event` replies.
    Events(Until),
    /// A bundle of the published catalogue, or one of its files, for a hub that has lost
    /// it. Since version 3.
    PutFile(Blob<BLOB_BYTES>),
    /// The current state of these runs of a job: one `Update` reply for each run on a machine that
    /// the caller may see, without waiting for changes. Since version 3.
    Outcomes(JobId, List<RunId, ORDERS_PER_FRAME>),
    /// The suspended staff keys of this hub: `Suspensions` replies. Since version 3.
    Suspensions,
    /// Lift the suspension of a staff key. Since version 3.
    Resume(KeyId),
    /// Reject a person who waits for the staff list. Since version 3.
    RejectStaff(KeyId),
    /// Retired machines that had this name: `MachineRows` replies. Since version 3.
    Formerly(MachineName),
    /// Retire a machine: a signed retirement, which the hub also forwards to the machine. Since
    /// version 3.
    RetireSigned(Envelope),
}

/// Into or out of a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Membership {
    /// Into it.
    In,
    /// Out of it.
    Out,
}

/// A reply of the hub.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename = "staff.Reply")]
pub enum Reply {
    /// The last reply: success.
    Done,
    /// The last reply: the request was denied.
    Denied(Denial),
    /// Some machines.
    Machines(List<MachineRow, ROWS_PER_FRAME>),
    /// Some customers.
    Customers(List<CustomerRow, ROWS_PER_FRAME>),
    /// Some machines and people who wait.
    Pending(List<PendingMachine, ROWS_PER_FRAME>, List<PendingStaff, ROWS_PER_FRAME>),
    /// The name a machine got.
    Named(MachineName),
    /// A machine answered an echo, or did not.
    Pong(MachineId, Option<u32>),
    /// A job was stored under this number.
    Job(JobId),
    /// A status change of a run.
    Update(Update),
    /// Some jobs.
    Jobs(List<JobRow, ROWS_PER_FRAME>),
    /// Some runs of a job.
    Runs(List<RunRow, ROWS_PER_FRAME>),
    /// A stored report: when it was received, its receipt and its body.
    Report(UnixMs, Envelope, Blob<REPORT_BYTES>),
    /// One file of the catalogue.
    File(CatalogueFile),
    /// A draft.
    Draft(Blob<METADATA_BYTES>),
    /// The hub's health.
    Health(Health),
    /// A new certificate and its issuer, DER.
    Certificate(List<Blob<4096>, 4>),
    /// A bundle or one of its files.
    Blob(Blob<BLOB_BYTES>),
    /// After a report: the key that signed its receipt.
    EvidenceKey(PublicKey),
    /// Some orders of a job.
    Orders(List<Envelope, ORDERS_PER_FRAME>),
    /// One receipt of a chain.
    ChainLink(ChainLink),
    /// How far the chain goes, signed by the hub.
    ChainEnd(Envelope),
    /// A machine's signed statement of its sealing key; its evidence key is sent before it.
    SealedTo(Envelope),
    /// A part of a query's result, lines of JSON; a part may end within a line.
    Lines(Blob<OUTPUT_BYTES>),
    /// Something has happened.
    Event(Event),
    /// Some machines. Since version 2, in the place of `Machines`.
    MachineRows(List<Row<MachineRow>, ROWS_PER_FRAME>),
    /// Some customers. Since version 2, in the place of `Customers`.
    CustomerRows(List<Row<CustomerRow>, ROWS_PER_FRAME>),
    /// Some machines and people who wait. Since version 2, in the place of `Pending`.
    PendingRows(List<Row<PendingMachine>, ROWS_PER_FRAME>, List<Row<PendingStaff>, ROWS_PER_FRAME>),
    /// Some jobs. Since version 2, in the place of `Jobs`.
    JobRows(List<Row<JobRow>, ROWS_PER_FRAME>),
    /// Some runs of a job. Since version 2, in the place of `Runs`.
    RunRows(List<Row<RunRow>, ROWS_PER_FRAME>),
    /// The hub's health. Since version 2, in the place of `Health`.
    HubHealth(Row<Health>),
    /// Some suspended staff keys. Since version 3.
    Suspensions(List<Suspension, ROWS_PER_FRAME>),
    /// The hub's signed statement that it no longer keeps some receipts of a chain
    /// ([`ChainCut`](crate::document::ChainCut)). Since version 3.
    ChainCut(Envelope),
}

/// A staff key that is suspended at a hub.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Suspension {
    /// The key.
    pub key: KeyId,
    /// Whether a lock makes machines refuse it, too.
    pub locked: bool,
}

/// One receipt in a machine's chain at its hub.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChainLink {
    /// Its position, from 1.
    pub seq: u64,
    /// The chain's head at this receipt.
    pub head: Digest,
    /// The order.
    pub order: Envelope,
    /// The machine's signed outcome.
    pub receipt: Envelope,
    /// When the hub stored it.
    pub at: UnixMs,
}

/// Frames that follow `Submit`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Orders(pub List<Envelope, ORDERS_PER_FRAME>);

/// A job without its orders.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobHead {
    /// What is asked: `diagnose`.
    pub action: Text<64>,
    /// Why.
    pub reason: Text<500>,
    /// How many orders will follow.
    pub orders: u32,
    /// Maximum number of orders in flight; 0 leaves it to the hub.
    pub parallel: u32,
}

/// A status change of one run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Update {
    /// The run.
    pub run: RunId,
    /// Its machine.
    pub machine: MachineId,
    /// What is new.
    pub news: News,
}

/// The kinds of status changes of a run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum News {
    /// The machine is not linked.
    Away,
    /// Sent to the machine.
    Offered,
    /// Under way there.
    Started,
    /// Settled: the receipt, the machine's evidence key, and the report.
    Outcome(Envelope, PublicKey, Blob<REPORT_BYTES>),
    /// The machine did not accept it into its state store.
    Refused(Refusal),
    /// The hub did not deliver it.
    Denied(Denial),
    /// The time limit has passed without an answer.
    NoAnswer,
    /// Cancelled before it was sent to the machine.
    Cancelled,
    /// Progress of the run.
    Note(Note),
    /// The machine is away and gets the order when it returns.
    Held,
}

/// Whether a machine is linked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Presence {
    /// Linked, with this round-trip time in microseconds.
    Online(u32),
    /// Not linked.
    Away,
}

/// One machine in a list, with the fields of version 1; later additions are tags of its [`Row`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MachineRow {
    /// Its id.
    pub id: MachineId,
    /// Its name.
    pub name: MachineName,
    /// Whose it is.
    pub customer: CustomerId,
    /// The customer's name.
    pub customer_name: Text<120>,
    /// Its operating system.
    pub os: Text<64>,
    /// Whether it is linked.
    pub presence: Presence,
    /// Its health from the newest report, in a variant that version 1 knows.
    pub health_in_version_1: Verdict,
    /// When it was last linked.
    pub seen_at: UnixMs,
    /// Its labels.
    pub labels: List<Label, 32>,
    /// Its groups.
    pub groups: List<Text<63>, 32>,
    /// When its certificate ends.
    pub certificate_until: UnixMs,
    /// Its program's version.
    pub agent: Text<32>,
}

/// A machine's health for which version 1 has no variant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OtherHealth {
    /// Which state it is: [`Self::LOST`].
    pub word: u16,
    /// What it is about.
    pub about: Text<128>,
}

impl OtherHealth {
    /// A check that should have an answer has none.
    pub const LOST: u16 = 1;
}

/// A machine's health from its newest report, as far as this program can read it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MachineHealth {
    /// A state that this program knows.
    Known(Verdict),
    /// A state of a newer hub; `None` if not even that can be decoded.
    Other(Option<OtherHealth>),
}

impl Row<MachineRow> {
    /// The newest protocol version in which documents for the machine may be signed, as last
    /// reported to its hub.
    pub fn protocol(&self) -> u16 {
        self.get(tag::PROTOCOL).unwrap_or(MIN)
    }

    /// When its newest complete diagnosis was taken; `None` if its hub does not send it.
    pub fn looked_at(&self) -> Option<UnixMs> {
        self.get(tag::LOOKED_AT)
    }

    /// Its health from the newest report.
    pub fn health(&self) -> MachineHealth {
        if self.has(tag::HEALTH) {
            return MachineHealth::Other(self.get(tag::HEALTH));
        }
        MachineHealth::Known(self.health_in_version_1.clone())
    }
}

/// One customer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CustomerRow {
    /// Its id.
    pub id: CustomerId,
    /// Its name.
    pub name: Text<120>,
    /// Its language: `de` or `en`.
    pub language: Text<8>,
    /// How many machines are admitted.
    pub machines: u32,
}

/// What an invitation's token lets in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Token {
    /// Its public name.
    pub id: TokenId,
    /// The key of the proof.
    pub proof_key: Digest,
    /// For whom.
    pub admits: TokenKind,
    /// How many keys may use it.
    pub uses: u32,
    /// When it ends.
    pub until: UnixMs,
    /// Only from this network, as `192.0.2.0/24`.
    pub from_net: Option<Text<64>>,
}

/// Whom a token lets in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum TokenKind {
    /// Machines of a customer.
    Machine {
        /// Whose.
        customer: CustomerId,
        /// Labels they get.
        labels: List<Label, 32>,
        /// Whether a person must admit them.
        admission: Admission,
    },
    /// A technician or robot.
    Staff,
}

/// How a machine gets in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Admission {
    /// A person compares the words.
    ByPerson,
    /// At once.
    Automatic,
}

/// A machine that waits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PendingMachine {
    /// Its keys.
    pub newcomer: Newcomer,
    /// What it calls itself.
    pub hostname: Text<255>,
    /// Its operating system.
    pub os: Text<64>,
    /// Where it came from.
    pub address: Text<64>,
    /// When it came.
    pub at: UnixMs,
}

/// A technician or robot who waits for the staff list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PendingStaff {
    /// The key id.
    pub key: KeyId,
    /// The order public key.
    pub order_key: PublicKey,
    /// SHA-256 of the TLS public key.
    pub tls_key: Digest,
    /// The name the person gave.
    pub name: Text<64>,
    /// When it came.
    pub at: UnixMs,
}

/// One job in a list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobRow {
    /// Its number.
    pub id: JobId,
    /// What was asked.
    pub action: Text<64>,
    /// Who asked.
    pub staff: Text<64>,
    /// Why.
    pub reason: Text<500>,
    /// When.
    pub at: UnixMs,
    /// How many machines.
    pub selected: u32,
    /// How many have settled.
    pub settled: u32,
}

/// One run in a list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunRow {
    /// The run.
    pub run: RunId,
    /// Its machine.
    pub machine: MachineId,
    /// The machine's name.
    pub name: MachineName,
    /// Where it stands.
    pub state: Text<16>,
    /// How it ended.
    pub outcome: Option<Outcome>,
    /// When it ended.
    pub settled_at: Option<UnixMs>,
}

/// The hub's health.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    /// Its program's version.
    pub program: Text<32>,
    /// Its clock.
    pub now: UnixMs,
    /// Machines linked.
    pub online: u32,
    /// Machines admitted.
    pub machines: u32,
    /// Free bytes on the file system of its store.
    pub free_bytes: u64,
    /// Memory in use, bytes.
    pub rss_bytes: u64,
    /// When the first of the catalogue's snapshot and timestamp expires.
    pub timestamp_until: UnixMs,
}
