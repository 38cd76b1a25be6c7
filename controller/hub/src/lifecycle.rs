//! Tracks the hub's tasks, and tells them to end.

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Signals and trackers of one hub. Clones share them.
#[derive(Debug, Clone, Default)]
pub(crate) struct Lifecycle {
    /// Cancelled first: no new jobs are accepted any more.
    pub(crate) draining: CancellationToken,
    /// Deliveries in progress; awaited before the links are closed.
    pub(crate) deliveries: TaskTracker,
    /// Cancelled second: every task ends.
    pub(crate) stop: CancellationToken,
    /// All other tasks.
    pub(crate) tasks: TaskTracker,
}
