//! A machine that misbehaves, or links too often, is served again only after a time.

use fernwart_protocol::id::MachineId;
use fernwart_protocol::limits::PENALTY;
use fernwart_protocol::link::Link;
use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Machines that wait out a penalty.
#[derive(Debug, Default)]
pub(crate) struct Penalties(Mutex<HashMap<MachineId, Penalised>>);

#[derive(Debug)]
struct Penalised {
    /// When it is served again.
    until: Instant,
    /// Whether one of its links is held open until then.
    is_held: bool,
}

impl Penalties {
    fn all(&self) -> MutexGuard<'_, HashMap<MachineId, Penalised>> {
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Begins a penalty, or prolongs the one that runs.
    pub(super) fn begin(&self, id: MachineId) {
        let until = Instant::now() + PENALTY;
        self.all().entry(id).or_insert(Penalised { until, is_held: false }).until = until;
    }

    /// Holds the link of a penalised machine until its time is over: one that comes again
    /// at once waits, and costs no more than that. False where it need not.
    pub(super) async fn serve(&self, link: &Link, id: &MachineId, stop: &CancellationToken) -> bool {
        let until = {
            let mut all = self.all();
            let Some(penalised) = all.get_mut(id) else { return false };
            if penalised.until <= Instant::now() {
                all.remove(id);
                return false;
            }
            if std::mem::replace(&mut penalised.is_held, true) {
                // One link is held already; more would only fill this hub.
                return true;
            }
            penalised.until
        };
        tokio::select! {
            biased;
            () = stop.cancelled() => {}
            _ = link.closed() => {}
            () = tokio::time::sleep_until(until) => {}
        }
        if let Some(penalised) = self.all().get_mut(id) {
            penalised.is_held = false;
        }
        true
    }
}
