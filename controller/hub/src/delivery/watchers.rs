//! Wakes tasks that wait for the end of a run.

use crate::run_end::RunEnded;
use fernwart_protocol::id::RunId;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};
use tokio::sync::Notify;

/// The waiting tasks by run.
#[derive(Debug, Default)]
pub(crate) struct Watchers(Mutex<HashMap<RunId, Vec<Arc<Notify>>>>);

/// Waits for a run's end until dropped.
pub(crate) struct Watcher<'a> {
    all: &'a Watchers,
    run: RunId,
    /// Stores one wake-up, so an end between two look-ups is not missed.
    call: Arc<Notify>,
}

impl Watchers {
    fn waiting(&self) -> MutexGuard<'_, HashMap<RunId, Vec<Arc<Notify>>>> {
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Waits for this run from now on.
    pub(crate) fn watch(&self, run: RunId) -> Watcher<'_> {
        let call = Arc::new(Notify::new());
        self.waiting().entry(run).or_default().push(call.clone());
        Watcher { all: self, run, call }
    }

    /// Wakes those who wait for this run.
    pub(crate) fn run_ended(&self, ended: &RunEnded) {
        if let Some(waiting) = self.waiting().get(&ended.run) {
            waiting.iter().for_each(|call| call.notify_one());
        }
    }
}

impl Watcher<'_> {
    /// Waits until the run has ended since the last call. Cancel safe.
    pub(crate) async fn called(&self) {
        self.call.notified().await;
    }
}

impl Drop for Watcher<'_> {
    fn drop(&mut self) {
        let mut waiting = self.all.waiting();
        if let Some(calls) = waiting.get_mut(&self.run) {
            calls.retain(|call| !Arc::ptr_eq(call, &self.call));
            if calls.is_empty() {
                waiting.remove(&self.run);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run_end::End;
    use fernwart_protocol::code::Refusal;
    use fernwart_protocol::id::MachineId;

    #[tokio::test]
    async fn a_watcher_is_woken_for_an_end_before_its_wait_and_leaves_no_entry() {
        let watchers = Watchers::default();
        let (run, other) = (RunId::from_bytes([1; 16]), RunId::from_bytes([2; 16]));
        let ended =
            |run| RunEnded { machine: MachineId::from_bytes([3; 16]), run, end: End::NotTaken(Refusal::Paused) };
        let (one, two, three) = (watchers.watch(run), watchers.watch(run), watchers.watch(other));
        watchers.run_ended(&ended(run));
        one.called().await;
        two.called().await;
        let waits = tokio::time::timeout(std::time::Duration::from_millis(20), three.called()).await;
        assert!(waits.is_err(), "another run has ended");
        drop((one, two, three));
        assert!(watchers.waiting().is_empty());
    }
}
