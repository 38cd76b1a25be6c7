//! Events of a hub, as subscribers receive them.
//!
//! Events are a view, not a record: the store and the journals are authoritative.

use crate::code::{Denial, Refusal};
use crate::document::{Outcome, UnixMs};
use crate::id::{JobId, KeyId, MachineId, RunId};
use crate::text::{MachineName, Text};
use crate::verdict::Verdict;
use serde::{Deserialize, Serialize};

/// How long events are sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Until {
    /// Only the remembered events, up to now.
    Now,
    /// The remembered events, then new ones until the subscriber leaves.
    Left,
}

/// Something that has happened at a hub.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Identifies this start of the hub: a new number each time it starts.
    pub life: u64,
    /// Its number, counted from 1 at each start.
    pub seq: u64,
    /// When.
    pub at: UnixMs,
    /// What.
    pub what: Happened,
}

/// A machine as an event names it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Named {
    /// Its id.
    pub id: MachineId,
    /// Its name at that time.
    pub name: MachineName,
    /// Whose it is.
    pub customer: Text<120>,
}

/// What can happen. Variants are appended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Happened {
    /// The number of events that were not sent: the subscriber read too slowly, or its version does
    /// not know their kind.
    Missed(u64),
    /// A machine is linked.
    Linked(Named),
    /// Its link has ended, for this reason.
    Left(Named, Text<32>),
    /// A machine waits to be admitted.
    Waits(Named),
    /// Somebody has admitted it.
    Admitted(Named, Text<64>),
    /// Somebody has turned it away.
    Rejected(Named, Text<64>),
    /// Somebody has removed it.
    Retired(Named, Text<64>),
    /// Something is wrong with its records or its identity.
    Alarm(Named, Text<128>),
    /// Somebody has investigated and acknowledged the alarm.
    Acknowledged(Named, Text<64>),
    /// The health in a machine's newest report differs from the one before.
    Health(Named, Verdict),
    /// Somebody has submitted a job.
    JobBegan {
        /// Its number.
        job: JobId,
        /// What is asked.
        action: Text<64>,
        /// Who asks.
        by: Text<64>,
        /// Why.
        reason: Text<500>,
        /// How many machines.
        machines: u32,
    },
    /// A run is over: its outcome.
    RunSettled(Named, RunId, Outcome),
    /// A machine did not take a run into its state store.
    RunRefused(Named, RunId, Refusal),
    /// Another catalogue is published: the versions of its targets and timestamp.
    Published {
        /// The targets'.
        targets: u64,
        /// The timestamp's.
        timestamp: u64,
    },
    /// Somebody waits for the staff list.
    StaffWaits(KeyId, Text<64>),
    /// Somebody has cut a staff key off at this hub.
    Suspended(KeyId, Text<64>),
    /// A lock was handed to every machine.
    Locked,
    /// The hub's store could not be written.
    StoreFailed(Denial),
}
