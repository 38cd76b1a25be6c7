//! Jobs and their runs.
//!
//! ```text
//! queued ─▶ offered ─▶ running ─▶ settled
//!    └─▶ away | cancelled          (only while never offered)
//! ```

use fernwart_protocol::code::Refusal;
use fernwart_protocol::document::{Envelope, Outcome, UnixMs};
use fernwart_protocol::id::{JobId, KeyId, MachineId, RunId};
use fernwart_protocol::text::{MachineName, Text};
use std::str::FromStr;

/// Where a run stands, as the hub knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RunState {
    /// Not offered yet.
    Queued,
    /// The machine was not linked; a look is never queued for later.
    Away,
    /// Sent, or about to be: it may take effect from here on.
    Offered,
    /// The machine says that it is under way.
    Running,
    /// The machine would not take it into its books.
    Refused,
    /// Its time has passed without an outcome; one may still come.
    Expired,
    /// Taken back before it was offered.
    Cancelled,
    /// There is an outcome.
    Settled,
    /// The machine is away; it gets the order when it returns.
    Held,
}

impl RunState {
    const ALL: [Self; 9] = [
        Self::Queued,
        Self::Away,
        Self::Offered,
        Self::Running,
        Self::Refused,
        Self::Expired,
        Self::Cancelled,
        Self::Settled,
        Self::Held,
    ];

    /// The word in the store and on screens.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Away => "away",
            Self::Offered => "offered",
            Self::Running => "running",
            Self::Refused => "refused",
            Self::Expired => "expired",
            Self::Cancelled => "cancelled",
            Self::Settled => "settled",
            Self::Held => "held",
        }
    }

    /// Whether nothing more will come.
    pub const fn is_final(self) -> bool {
        match self {
            Self::Queued | Self::Held | Self::Offered | Self::Running => false,
            Self::Away | Self::Refused | Self::Expired | Self::Cancelled | Self::Settled => true,
        }
    }
}

impl FromStr for RunState {
    type Err = ();
    fn from_str(word: &str) -> Result<Self, ()> {
        Self::ALL.into_iter().find(|state| state.as_str() == word).ok_or(())
    }
}

/// What a technician has asked of a selection of machines.
#[derive(Debug, Clone, PartialEq)]
pub struct Job {
    /// Its number.
    pub id: JobId,
    /// What was asked.
    pub action: Text<64>,
    /// Who asked.
    pub key: KeyId,
    /// The name of who asked.
    pub staff: Text<64>,
    /// Why.
    pub reason: Text<500>,
    /// When.
    pub at: UnixMs,
    /// How many machines.
    pub selected: u32,
    /// How many runs are over.
    pub over: u32,
}

/// One order's execution.
#[derive(Debug, Clone, PartialEq)]
pub struct Run {
    /// Its id.
    pub id: RunId,
    /// Its job.
    pub job: JobId,
    /// Its machine.
    pub machine: MachineId,
    /// The machine's name.
    pub name: MachineName,
    /// Where it stands.
    pub state: RunState,
    /// How it ended.
    pub outcome: Option<Outcome>,
    /// Why the machine would not take it into its books.
    pub refusal: Option<Refusal>,
    /// The machine's signed word on that.
    pub receipt: Option<Envelope>,
    /// When it was stored.
    pub settled_at: Option<UnixMs>,
}
