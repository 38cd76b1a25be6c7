//! Jobs and their runs.
//!
//! The states of a run, what happens to it and who says so stand here and
//! nowhere else: [`RunState::after`]. The drawing is in this crate's README, and
//! a test holds it against the code.

use fernwart_protocol::code::Refusal;
use fernwart_protocol::document::{Envelope, Outcome, UnixMs};
use fernwart_protocol::id::{JobId, KeyId, MachineId, RunId};
use fernwart_protocol::text::{MachineName, Text};
use std::str::FromStr;

/// Where a run stands, as the hub knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RunState {
    /// Not offered yet.
    Queued,
    /// The machine was not linked; a look is never queued for later.
    Away,
    /// Sent, or about to be: it may take effect from here on.
    Offered,
    /// The machine says that it is under way.
    Running,
    /// The machine would not take it into its state store.
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

/// What happens to a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RunEvent {
    /// Its order is about to be sent.
    Offered,
    /// It is under way.
    Began,
    /// Its order was not taken in.
    Refused,
    /// It was taken back.
    Withdrawn,
    /// Its time has passed.
    Expired,
    /// Its outcome is stored.
    OutcomeStored,
}

/// Who may say that something happened to a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Speaker {
    /// The hub, by what it does or by its clock.
    Hub,
    /// The machine, in a frame on its own link.
    Machine,
    /// The machine, in a receipt that it has signed.
    Receipt,
    /// Staff, in a cancel that they have signed.
    Staff,
}

impl RunEvent {
    /// All there are.
    pub const ALL: [Self; 6] =
        [Self::Offered, Self::Began, Self::Refused, Self::Withdrawn, Self::Expired, Self::OutcomeStored];

    /// The word in the drawing.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Offered => "offered",
            Self::Began => "began",
            Self::Refused => "refused",
            Self::Withdrawn => "withdrawn",
            Self::Expired => "expired",
            Self::OutcomeStored => "outcome stored",
        }
    }

    /// Whose word it is.
    pub const fn said_by(self) -> Speaker {
        match self {
            Self::Offered | Self::Expired => Speaker::Hub,
            Self::Began | Self::Refused => Speaker::Machine,
            Self::OutcomeStored => Speaker::Receipt,
            Self::Withdrawn => Speaker::Staff,
        }
    }

    /// The states that it changes.
    pub fn changes(self) -> impl Iterator<Item = RunState> {
        RunState::ALL.into_iter().filter(move |state| state.after(self).is_some())
    }

    /// What a run becomes by it.
    pub const fn leads_to(self) -> RunState {
        match self {
            Self::Offered => RunState::Offered,
            Self::Began => RunState::Running,
            Self::Refused => RunState::Refused,
            Self::Withdrawn => RunState::Cancelled,
            Self::Expired => RunState::Expired,
            Self::OutcomeStored => RunState::Settled,
        }
    }
}

impl RunState {
    /// All there are.
    pub const ALL: [Self; 9] = [
        Self::Queued,
        Self::Held,
        Self::Away,
        Self::Offered,
        Self::Running,
        Self::Refused,
        Self::Expired,
        Self::Cancelled,
        Self::Settled,
    ];

    /// What it becomes when this happens; none where it stays as it is, because
    /// the event came twice, too late, or from another life of the hub.
    ///
    /// A run never goes back. Once there is an outcome, nothing changes it; until
    /// then an outcome ends it, however late it comes: the machine has acted.
    pub const fn after(self, event: RunEvent) -> Option<Self> {
        let changes = match (self, event) {
            (Self::Queued | Self::Held, RunEvent::Offered | RunEvent::Withdrawn | RunEvent::Expired)
            | (Self::Offered, RunEvent::Began | RunEvent::Refused | RunEvent::Expired)
            | (Self::Running, RunEvent::Expired)
            | (
                Self::Queued
                | Self::Held
                | Self::Away
                | Self::Offered
                | Self::Running
                | Self::Refused
                | Self::Expired
                | Self::Cancelled,
                RunEvent::OutcomeStored,
            ) => true,
            (Self::Queued | Self::Held, RunEvent::Began | RunEvent::Refused)
            | (Self::Offered, RunEvent::Offered | RunEvent::Withdrawn)
            | (Self::Running, RunEvent::Offered | RunEvent::Began | RunEvent::Refused | RunEvent::Withdrawn)
            | (
                Self::Away | Self::Refused | Self::Expired | Self::Cancelled,
                RunEvent::Offered | RunEvent::Began | RunEvent::Refused | RunEvent::Withdrawn | RunEvent::Expired,
            )
            | (Self::Settled, _) => false,
        };
        if changes { Some(event.leads_to()) } else { None }
    }

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

    /// Whether nothing more is waited for. A late outcome may still come.
    pub const fn is_final(self) -> bool {
        match self {
            Self::Queued | Self::Held | Self::Offered | Self::Running => false,
            Self::Away | Self::Refused | Self::Expired | Self::Cancelled | Self::Settled => true,
        }
    }

    /// Whether the machine may have its order.
    pub const fn may_be_known_there(self) -> bool {
        match self {
            Self::Offered | Self::Running => true,
            Self::Queued
            | Self::Held
            | Self::Away
            | Self::Refused
            | Self::Expired
            | Self::Cancelled
            | Self::Settled => false,
        }
    }

    /// Whether its order is brought to a machine that has come back: it was held
    /// for it, or sent and not answered.
    pub const fn is_brought_again(self) -> bool {
        match self {
            Self::Held | Self::Offered | Self::Running => true,
            Self::Queued | Self::Away | Self::Refused | Self::Expired | Self::Cancelled | Self::Settled => false,
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
    /// Why the machine would not take it into its state store.
    pub refusal: Option<Refusal>,
    /// The machine's signed word on that.
    pub receipt: Option<Envelope>,
    /// When it was stored.
    pub settled_at: Option<UnixMs>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    const DRAWING: &str = include_str!("../README.md");

    /// How far a run has come: it only grows.
    const fn rank(state: RunState) -> u8 {
        match state {
            RunState::Queued | RunState::Held => 0,
            RunState::Offered => 1,
            RunState::Running => 2,
            RunState::Away | RunState::Refused | RunState::Expired | RunState::Cancelled => 3,
            RunState::Settled => 4,
        }
    }

    #[test]
    fn the_drawing_shows_what_the_code_does() {
        let arrows = DRAWING.lines().filter_map(|line| {
            let (from, rest) = line.trim().split_once(" --> ")?;
            let (to, event) = rest.split_once(" : ")?;
            Some((from.to_owned(), event.to_owned(), to.to_owned()))
        });
        let drawn: BTreeSet<_> = arrows.collect();
        let moves = RunState::ALL.into_iter().flat_map(|from| {
            RunEvent::ALL.into_iter().filter_map(move |event| Some((from, event, from.after(event)?)))
        });
        let coded: BTreeSet<_> = moves
            .map(|(from, event, to)| (from.as_str().to_owned(), event.as_str().to_owned(), to.as_str().to_owned()))
            .collect();
        assert_eq!(drawn, coded);
    }

    #[test]
    fn words_are_read_as_they_are_written() {
        for state in RunState::ALL {
            assert_eq!(state.as_str().parse(), Ok(state));
        }
    }

    #[test]
    fn the_readme_names_who_says_what() {
        for event in RunEvent::ALL {
            let whose = match event.said_by() {
                Speaker::Hub => "the hub's",
                Speaker::Machine => "the machine's, on its own link",
                Speaker::Receipt => "the machine's, in a signed receipt",
                Speaker::Staff => "staff's, in a signed cancel",
            };
            let named = |line: &&str| {
                line.split('|').nth(1).is_some_and(|cell| cell.split(", ").any(|word| word.trim() == event.as_str()))
            };
            let row = DRAWING.lines().filter(named).find(|line| line.ends_with(&format!("| {whose} |")));
            assert!(row.is_some(), "{event:?}: {whose}");
        }
    }

    #[test]
    fn only_its_machine_says_that_a_run_has_begun_and_only_a_receipt_settles_it() {
        for event in RunEvent::ALL {
            let by_receipt = event.said_by() == Speaker::Receipt;
            assert_eq!(by_receipt, event.leads_to() == RunState::Settled, "{event:?}");
            let has_begun = event.leads_to() == RunState::Running;
            assert!(!has_begun || event.said_by() == Speaker::Machine, "{event:?}");
        }
        assert!(!RunState::Offered.is_final() && RunState::Offered.may_be_known_there());
        // What may be known there cannot be taken back by the hub alone.
        for state in RunState::ALL.into_iter().filter(|state| state.may_be_known_there()) {
            assert_eq!(state.after(RunEvent::Withdrawn), None);
        }
    }

    proptest! {
        #[test]
        fn whatever_comes_in_whatever_order_a_run_never_goes_back_and_has_one_outcome(
            first in proptest::sample::select(RunState::ALL.as_slice()),
            events in proptest::collection::vec(proptest::sample::select(RunEvent::ALL.as_slice()), 0..40),
        ) {
            let (mut state, mut outcomes) = (first, usize::from(first == RunState::Settled));
            for event in events {
                let Some(next) = state.after(event) else { continue };
                prop_assert!(rank(next) > rank(state), "{state:?} {event:?} {next:?}");
                outcomes += usize::from(next == RunState::Settled);
                state = next;
                // The same once more changes nothing.
                prop_assert_eq!(state.after(event), None);
            }
            prop_assert!(outcomes <= 1);
        }
    }
}
