//! Jobs and their runs.
//!
//! [`RunState::after`] alone defines the states of a run, its events and who may report them. The
//! diagram is in this crate's README; a test compares it with the code.

use fernwart_protocol::code::Refusal;
use fernwart_protocol::document::{Envelope, Outcome, UnixMs};
use fernwart_protocol::id::{JobId, KeyId, MachineId, RunId};
use fernwart_protocol::text::{MachineName, Text};
use std::str::FromStr;

/// The state of a run as the hub knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RunState {
    /// Not offered yet.
    Queued,
    /// The machine was not linked; a look is never queued for later.
    Away,
    /// Sent, or about to be: it may take effect from now on.
    Offered,
    /// The machine reports that it has begun.
    Running,
    /// The machine refused the order.
    Refused,
    /// It expired without an outcome; one may still come.
    Expired,
    /// Withdrawn before it was offered.
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
    /// It has begun.
    Began,
    /// Its machine refused the order.
    Refused,
    /// It was withdrawn.
    Withdrawn,
    /// It expired.
    Expired,
    /// Its outcome is stored.
    OutcomeStored,
}

/// Who may report an event of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Speaker {
    /// The hub, by its own action or clock.
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

    /// Its name in the diagram.
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

    /// Who may report it.
    pub const fn stated_by(self) -> Speaker {
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

    /// The state that it leads to.
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

    /// The state after this event; `None` if the event changes nothing, because it is a duplicate,
    /// too late, or from before a restore.
    ///
    /// A run never goes back. An outcome ends the run however late it comes, since the machine has
    /// acted; after that nothing changes it.
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

    /// Its name in the store and on screens.
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

    /// Whether the run is over for the hub. A late outcome may still come.
    pub const fn is_final(self) -> bool {
        match self {
            Self::Queued | Self::Held | Self::Offered | Self::Running => false,
            Self::Away | Self::Refused | Self::Expired | Self::Cancelled | Self::Settled => true,
        }
    }

    /// Whether the machine may have received the order.
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

    /// Whether its order is redelivered when the machine links again: it was held, or sent without
    /// an answer.
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

/// An action that a technician ordered for a selection of machines.
#[derive(Debug, Clone, PartialEq)]
pub struct Job {
    /// Its number.
    pub id: JobId,
    /// The action.
    pub action: Text<64>,
    /// The technician's key.
    pub key: KeyId,
    /// The technician's name.
    pub staff: Text<64>,
    /// Why.
    pub reason: Text<500>,
    /// When.
    pub at: UnixMs,
    /// How many machines.
    pub selected: u32,
    /// Number of runs that have ended.
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
    /// Its state.
    pub state: RunState,
    /// How it ended.
    pub outcome: Option<Outcome>,
    /// Why the machine refused the order.
    pub refusal: Option<Refusal>,
    /// The machine's signed receipt.
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

    /// The progress of a run; it only grows.
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
    fn the_state_diagram_in_the_readme_matches_the_code() {
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
    fn state_names_are_parsed_as_they_are_written() {
        for state in RunState::ALL {
            assert_eq!(state.as_str().parse(), Ok(state));
        }
    }

    #[test]
    fn the_readme_names_who_may_report_each_event() {
        for event in RunEvent::ALL {
            let whose = match event.stated_by() {
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
    fn only_the_machine_reports_a_begun_run_and_only_a_receipt_settles_it() {
        for event in RunEvent::ALL {
            let by_receipt = event.stated_by() == Speaker::Receipt;
            assert_eq!(by_receipt, event.leads_to() == RunState::Settled, "{event:?}");
            let has_begun = event.leads_to() == RunState::Running;
            assert!(!has_begun || event.stated_by() == Speaker::Machine, "{event:?}");
        }
        assert!(!RunState::Offered.is_final() && RunState::Offered.may_be_known_there());
        // The hub alone cannot withdraw a run that its machine may know.
        for state in RunState::ALL.into_iter().filter(|state| state.may_be_known_there()) {
            assert_eq!(state.after(RunEvent::Withdrawn), None);
        }
    }

    proptest! {
        #[test]
        fn a_run_never_goes_back_and_has_one_outcome_for_events_in_any_order(
            first in proptest::sample::select(RunState::ALL.as_slice()),
            events in proptest::collection::vec(proptest::sample::select(RunEvent::ALL.as_slice()), 0..40),
        ) {
            let (mut state, mut outcomes) = (first, usize::from(first == RunState::Settled));
            for event in events {
                let Some(next) = state.after(event) else { continue };
                prop_assert!(rank(next) > rank(state), "{state:?} {event:?} {next:?}");
                outcomes += usize::from(next == RunState::Settled);
                state = next;
                // A repeated event changes nothing.
                prop_assert_eq!(state.after(event), None);
            }
            prop_assert!(outcomes <= 1);
        }
    }
}
