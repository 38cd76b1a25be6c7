//! What the hub has under way, and how it is told to end.

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Signals and trackers of one hub. Clones are the same.
#[derive(Debug, Clone, Default)]
pub(crate) struct Lifecycle {
    /// Set first: no new job is taken in any more.
    pub(crate) draining: CancellationToken,
    /// Orders under way to machines; waited for before the links are closed.
    pub(crate) deliveries: TaskTracker,
    /// Set then: every task ends.
    pub(crate) stop: CancellationToken,
    /// All other tasks.
    pub(crate) tasks: TaskTracker,
}
