//! States of runs, as a hub of any version sends them.

use fernwart_client::RunState;
use fernwart_protocol::staff::RunRow;

/// A run's state; `None` if a newer hub sends a state that this program does not know.
pub(crate) fn state_of(run: &RunRow) -> Option<RunState> {
    run.state.as_raw().parse().ok()
}

/// Whether a run may still begin or continue. A state that this program does not know counts as
/// open.
pub(crate) fn is_open(run: &RunRow) -> bool {
    state_of(run).is_none_or(|state| !state.is_final())
}
