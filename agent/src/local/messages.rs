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

/// Longest question, bytes.
pub(super) const QUESTION: u64 = 4096;

/// Longest answer, bytes: a page of entries with bodies of 64 KiB at most.
pub(super) const ANSWER: u64 = 64 * 1024 * 1024;

/// What can be asked.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Question {
    /// How things are.
    Status,
    /// The journal from an entry on.
    Journal {
        /// The first entry wanted.
        from: u64,
    },
    /// The journal's signed end.
    JournalHead,
    /// What the owner is asked.
    Asked,
    /// What the package manager has said already.
    Updates,
    /// The owner takes this machine out of the care it is in, for good.
    Leave {
        /// Who says so; set by the agent from the kernel's word on who calls.
        #[serde(default)]
        by: Caller,
    },
    /// What the owner wants.
    #[serde(rename = "word")]
    OwnerCommand {
        /// It.
        #[serde(rename = "word")]
        command: OwnerCommand,
        /// Who says so; set by the agent from the kernel's word on who calls.
        #[serde(default)]
        by: Caller,
    },
}

/// Who calls, and whether as administrator.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Caller {
    /// The account.
    pub account: Text<64>,
    /// Whether it is the administrator, or the agent's own.
    #[serde(rename = "whole")]
    pub is_admin: bool,
}

/// What an owner can want. Times are milliseconds from now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OwnerCommand {
    /// Yes to this question; with a time, yes to all repairs for as long.
    Allow(u32, Option<u64>),
    /// No to this question.
    Deny(u32),
    /// Yes to all repairs for a while, before anybody asks.
    AllowAll(u64),
    /// No to all repairs: to what is asked, and to any yes before.
    DenyAll,
    /// Stop answering: for a while, or until resumed.
    Pause(Option<u64>),
    /// Go on.
    Resume,
    /// This computer's clock is right, whatever was signed before.
    TrustClock,
}

/// One question to the owner.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Asked {
    /// Its number.
    pub number: u32,
    /// Until when an answer counts.
    pub until: UnixMs,
    /// Who wants it.
    pub staff: Text<64>,
    /// Why.
    pub reason: Text<500>,
    /// What.
    pub action: Action,
    /// What it is called, from its manifest.
    pub title: Option<Both>,
    /// What it does, plainly.
    #[serde(default)]
    pub explain: Option<Both>,
    /// The firm of who wants it.
    #[serde(default)]
    pub shop: Text<120>,
}

/// What is answered.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// How things are.
    Status(Box<Status>),
    /// Some of the journal.
    Journal(Vec<Line>),
    /// What the owner is asked.
    Asked(Vec<Asked>),
    /// What the package manager has said, if it still holds: JSON that only `diagnose`
    /// of the same program reads.
    Updates(Option<String>),
    /// It is done.
    Done,
    /// Nobody asks that, or not any more.
    NoSuchQuestion,
    /// Only the administrator may say that.
    NotYours,
    /// It holds now, and could not be kept for after a restart.
    NotKept(String),
    /// It could not be answered.
    Failed(String),
}

/// How things are on this machine.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Status {
    /// This machine.
    pub machine: MachineId,
    /// Whether a link stands.
    pub linked: bool,
    /// Why the hub does not want this machine, where it has said so.
    #[serde(default, rename = "turned")]
    pub rejected: Option<Rejection>,
    /// That this machine is in nobody's care any more.
    #[serde(default)]
    pub parted: Option<Parted>,
    /// Its round-trip time, microseconds.
    pub rtt_us: Option<u32>,
    /// Who looks after this machine.
    pub shop: Shop,
    /// How looking is handled.
    pub look: Mode,
    /// How acting is handled.
    pub act: Mode,
    /// Nothing is answered until then.
    #[serde(default)]
    pub paused_until: Option<UnixMs>,
    /// Repairs are allowed until then, whatever the policy asks.
    #[serde(default)]
    pub allowed_until: Option<UnixMs>,
    /// How many questions wait for the owner.
    #[serde(default)]
    pub questions: usize,
    /// What is wrong with its state store, if it cannot be read or is not where it
    /// should be.
    #[serde(default, rename = "books")]
    pub store: Option<String>,
    /// How many runs have ended whose outcome the disk does not take.
    #[serde(default)]
    pub unwritten: usize,
    /// What is wrong with the files that say who this machine is, held against what the
    /// agent started with.
    #[serde(default)]
    pub changed_files: Option<String>,
    /// Whether the policy could be read.
    pub policy_readable: bool,
    /// Whether the clock agrees with the hub's and with signed times.
    pub clock_plausible: bool,
    /// When the catalogue runs out.
    pub catalogue_until: UnixMs,
    /// The newest run.
    pub last: Option<LastRun>,
}

/// The newest run.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct LastRun {
    /// When it ended.
    pub at: UnixMs,
    /// What was done.
    pub action: String,
    /// How it ended.
    pub outcome: Outcome,
    /// What the technician who wanted it calls this machine.
    #[serde(default)]
    pub machine_name: Option<MachineName>,
}
