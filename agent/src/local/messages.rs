//! What is asked and answered on the local socket. JSON field names are a contract between
//! programs of two versions: a renamed field keeps its JSON name (`serde(rename)`).

use crate::executor::policy::Mode;
use crate::executor::state::Parted;
use crate::message::Rejection;
use fernwart_certs::catalogue::Shop;
use fernwart_certs::journal::Line;
use fernwart_protocol::diagnosis::Both;
use fernwart_protocol::document::{Action, Outcome, UnixMs};
use fernwart_protocol::id::MachineId;
use fernwart_protocol::text::{MachineName, Text};
use serde::{Deserialize, Serialize};

/// Journal entries in one answer.
pub const JOURNAL_PAGE: usize = 500;

/// Maximum length of a question, bytes.
pub(super) const QUESTION: u64 = 4096;

/// Maximum length of an answer, bytes: a page of entries with bodies of up to 64 KiB.
pub(super) const ANSWER: u64 = 64 * 1024 * 1024;

/// A request to the agent.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Question {
    /// The agent's status.
    Status,
    /// The journal from an entry on.
    Journal {
        /// The first entry wanted.
        from: u64,
    },
    /// The journal's signed end.
    JournalHead,
    /// The open questions to the owner.
    Asked,
    /// The package manager's last answer, if it is known.
    Updates,
    /// The owner takes this machine out of care, for good.
    Leave {
        /// The caller; set by the agent from what the kernel reports.
        #[serde(default)]
        by: Caller,
    },
    /// A command of the owner.
    #[serde(rename = "word")]
    OwnerCommand {
        /// The command.
        #[serde(rename = "word")]
        command: OwnerCommand,
        /// The caller; set by the agent from what the kernel reports.
        #[serde(default)]
        by: Caller,
    },
}

/// The calling account, and whether it is the administrator.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Caller {
    /// The account.
    pub account: Text<64>,
    /// Whether it is root or the agent's own account.
    #[serde(rename = "whole")]
    pub is_admin: bool,
}

/// A command of the owner. Times are milliseconds from now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OwnerCommand {
    /// Yes to this question; with a time, yes to all repairs for as long.
    Allow(u32, Option<u64>),
    /// No to this question.
    Deny(u32),
    /// Allow all repairs for a while, in advance.
    AllowAll(u64),
    /// Refuse all repairs: the open questions, and any earlier consent.
    DenyAll,
    /// Refuse every order: for a while, or until resumed.
    Pause(Option<u64>),
    /// End the pause.
    Resume,
    /// This computer's clock is right, even if it contradicts signed times.
    TrustClock,
}

/// One question to the owner.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Asked {
    /// Its number.
    pub number: u32,
    /// Until when an answer counts.
    pub until: UnixMs,
    /// The technician who wants it.
    pub staff: Text<64>,
    /// The technician's reason.
    pub reason: Text<500>,
    /// The action wanted.
    pub action: Action,
    /// Its title, from its manifest.
    pub title: Option<Both>,
    /// What it does, in plain words.
    #[serde(default)]
    pub explain: Option<Both>,
    /// The technician's organisation.
    #[serde(default)]
    pub shop: Text<120>,
}

/// An answer.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// The agent's status.
    Status(Box<Status>),
    /// Part of the journal.
    Journal(Vec<Line>),
    /// The open questions to the owner.
    Asked(Vec<Asked>),
    /// The package manager's last answer, if it is still valid: JSON that only `diagnose` of the
    /// same version reads.
    Updates(Option<String>),
    /// It is done.
    Done,
    /// There is no such open question.
    NoSuchQuestion,
    /// Only the administrator may give this command.
    NotYours,
    /// It is in force, but could not be stored and will be lost at a restart.
    NotKept(String),
    /// It could not be answered.
    Failed(String),
}

/// The status of this machine.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Status {
    /// This machine.
    pub machine: MachineId,
    /// Whether there is a link to the hub.
    pub linked: bool,
    /// Why the hub rejects this machine, if it does.
    #[serde(default, rename = "turned")]
    pub rejected: Option<Rejection>,
    /// Set once this machine was retired or left.
    #[serde(default)]
    pub parted: Option<Parted>,
    /// The link's round-trip time, microseconds.
    pub rtt_us: Option<u32>,
    /// The organisation that looks after this machine.
    pub shop: Shop,
    /// The policy for looks.
    pub look: Mode,
    /// The policy for acts.
    pub act: Mode,
    /// Every order is refused until then.
    #[serde(default)]
    pub paused_until: Option<UnixMs>,
    /// Repairs are allowed until then, even if the policy asks.
    #[serde(default)]
    pub allowed_until: Option<UnixMs>,
    /// The number of open questions to the owner.
    #[serde(default)]
    pub questions: usize,
    /// What is wrong with the state store, if it cannot be read or was moved.
    #[serde(default, rename = "books")]
    pub store: Option<String>,
    /// The number of ended runs whose outcome could not be written yet.
    #[serde(default)]
    pub unwritten: usize,
    /// What differs in the files that hold this machine's identity from what the agent started
    /// with.
    #[serde(default)]
    pub changed_files: Option<String>,
    /// Whether the policy could be read.
    pub policy_readable: bool,
    /// Whether the clock agrees with the hub's and with signed times.
    pub clock_plausible: bool,
    /// When the catalogue expires.
    pub catalogue_until: UnixMs,
    /// The newest run.
    pub last: Option<LastRun>,
}

/// The newest run.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct LastRun {
    /// When it ended.
    pub at: UnixMs,
    /// The action.
    pub action: String,
    /// How it ended.
    pub outcome: Outcome,
    /// The technician's name for this machine.
    #[serde(default)]
    pub machine_name: Option<MachineName>,
}
