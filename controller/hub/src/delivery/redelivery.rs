//! Redelivers orders that machines may not have received when they link again.

use crate::delivery::DeliveryService;
use crate::delivery::order::{PendingOrder, UNHEARD, deliver_one, is_script};
use fernwart_fleet::RunState;
use fernwart_protocol::document::{Document, Order};
use fernwart_protocol::id::MachineId;
use fernwart_protocol::link::LinkId;
use fernwart_store::Undelivered;
use std::collections::HashMap;
use std::sync::Arc;
use tokio::sync::{Notify, Semaphore, mpsc};
use tracing::{info, warn};

/// Maximum number of concurrent redeliveries to one machine.
const AT_ONCE: usize = 16;

/// Machines with possibly undelivered orders in the store, each with the generation of its
/// last mark, which keeps [`clear`](RedeliveryQueue::clear) from erasing a newer mark.
#[derive(Debug, Default)]
pub(crate) struct RedeliveryQueue {
    marks: HashMap<MachineId, u64>,
    last: u64,
}

impl RedeliveryQueue {
    /// Notes that an order for this machine was stored.
    pub(crate) fn mark(&mut self, machine: MachineId) {
        self.last += 1;
        self.marks.insert(machine, self.last);
    }

    fn mark_of(&self, machine: &MachineId) -> Option<u64> {
        self.marks.get(machine).copied()
    }

    /// Removes the machine if no newer mark was set.
    fn clear(&mut self, machine: &MachineId, mark: u64) {
        if self.mark_of(machine) == Some(mark) {
            self.marks.remove(machine);
        }
    }
}

impl FromIterator<MachineId> for RedeliveryQueue {
    fn from_iter<I: IntoIterator<Item = MachineId>>(machines: I) -> Self {
        let mut redelivery = Self::default();
        machines.into_iter().for_each(|machine| redelivery.mark(machine));
        redelivery
    }
}

/// Redelivers to a returning machine: orders held for it, orders offered before that have no
/// outcome, and orders cancelled since, with their cancel. The machine answers a second copy of an
/// order without running it again; the same holds for a cancelled one.
pub(crate) async fn catch_up(service: Arc<DeliveryService>, machine: MachineId) {
    let Some(linked) = service.presence.machine(&machine) else { return };
    let Some(mark) = service.redelivery().mark_of(&machine) else { return };
    let mut undelivered = match service.records.store.undelivered(&machine, service.records.now()).await {
        Ok(undelivered) => undelivered,
        Err(error) => return warn!(%machine, %error, "held orders cannot be read"),
    };
    if undelivered.is_empty() {
        return service.redelivery().clear(&machine, mark);
    }
    undelivered.sort_by_key(|one| one.cancel.is_none());
    // Send concurrently, so that an order which waits for the owner blocks no other. But await an
    // answer to each before sending the next, so that they arrive in order.
    let places = Arc::new(Semaphore::new(AT_ONCE));
    for Undelivered { order: envelope, state, cancel } in undelivered {
        let order = match Order::from_bytes(envelope.bytes.as_bytes()) {
            Ok(order) => order,
            Err(error) => {
                warn!(%machine, %error, "an order cannot be read by this hub; it is not redelivered");
                continue;
            }
        };
        if !is_script(&order) && cancel.is_none() {
            continue;
        }
        let Ok(place) = places.clone().acquire_owned().await else { return };
        if service.presence.machine(&machine).is_none_or(|now| now.link.id() != linked.link.id()) {
            // The next link reads the store again: a cancel may have come since.
            return;
        }
        if cancel.is_none() && is_over_or_first(&service, &order, linked.link.id()).await {
            continue;
        }
        let seen = Arc::new(Notify::new());
        let (tracker, service, answered) = (&service.lifecycle.deliveries, service.clone(), seen.clone());
        tracker.spawn(async move {
            info!(%machine, run = %order.run, state = state.as_str(), "an order is redelivered to a machine that has linked again");
            // Those who watch the job read the end from the store.
            let (news, _) = mpsc::channel(1);
            let state = if state == RunState::Held { RunState::Queued } else { state };
            deliver_one(&service, PendingOrder { order, envelope, state, cancel, in_flight: None }, &news, &answered)
                .await;
            drop(place);
        });
        // Send the next one even if no answer came, while the link stands.
        let _ = tokio::time::timeout(UNHEARD, seen.notified()).await;
    }
}

/// Whether the first delivery of an order over this link is in flight, or the order has ended since
/// it was read.
async fn is_over_or_first(service: &DeliveryService, order: &Order, link: LinkId) -> bool {
    if service.in_flight.holds(order.run, link) {
        return true;
    }
    match service.records.store.run_state(&order.run).await {
        Ok(state) => state.is_none_or(|(state, _)| state.is_final()),
        Err(error) => {
            warn!(run = %order.run, %error, "an order cannot be looked up; it is redelivered on the next link");
            true
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clearing_an_old_mark_keeps_a_newer_one() {
        let machine = MachineId::from_bytes([1; 16]);
        let mut redelivery = RedeliveryQueue::from_iter([machine]);
        let looked = redelivery.mark_of(&machine).expect("marked");
        redelivery.mark(machine);
        redelivery.clear(&machine, looked);
        let looked = redelivery.mark_of(&machine).expect("still marked");
        redelivery.clear(&machine, looked);
        assert_eq!(redelivery.mark_of(&machine), None);
    }
}
