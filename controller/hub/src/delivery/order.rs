//! Handles one order: offers it, delivers it to its machine, follows it to its end, and reports to
//! those who watch.

use crate::delivery::DeliveryService;
use crate::delivery::exchange::{self, DeliveryEnd, Received, Sending, Sent};
use fernwart_fleet::{Machine, RunState};
use fernwart_protocol::code::Refusal;
use fernwart_protocol::document::{Action, Envelope, Order, UnixMs};
use fernwart_protocol::id::RunId;
use fernwart_protocol::link::LinkId;
use fernwart_protocol::staff::{News, Update};
use fernwart_protocol::text::Blob;
use fernwart_protocol::to_hub::RunState as MachineState;
use fernwart_store::Began;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use tokio::sync::{Notify, mpsc};
use tracing::warn;

/// How long a delivery waits for a technician's program that does not read.
const UNREAD: Duration = Duration::from_secs(20);

/// Maximum time that a delivery waits for a run to settle; after that the outcome comes when the
/// machine links again.
const LONGEST: Duration = Duration::from_secs(24 * 3600);

/// How often a run whose machine was lost is looked up, besides the wake-up at its end: the run may
/// expire, and thousands may be lost at once.
const LOST_AGAIN: Duration = Duration::from_secs(10);

/// Extra time after the order's end. A run waits for the owner's answer until the end, and the
/// machine reports its expiry a moment later.
const LAST_ANSWER: Duration = Duration::from_secs(3);

/// Within this time a returning machine answers each order.
pub(crate) const UNHEARD: Duration = Duration::from_secs(10);

/// An order to deliver, and its state.
pub(crate) struct PendingOrder {
    pub(crate) order: Order,
    pub(crate) envelope: Envelope,
    pub(crate) state: RunState,
    /// Set if the order was taken back after it had been offered.
    pub(crate) cancel: Option<Envelope>,
    /// Set if the order is sent for the first time.
    pub(crate) in_flight: Option<InFlightGuard>,
}

/// Orders that are being sent for the first time, each over one link. The redelivery queue does not
/// send them again over the same link: two concurrent copies of one order would receive each
/// other's replies.
#[derive(Debug, Default)]
pub(crate) struct InFlight(Mutex<HashMap<(RunId, LinkId), u32>>);

impl InFlight {
    fn counts(&self) -> MutexGuard<'_, HashMap<(RunId, LinkId), u32>> {
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Must be called before the store marks the order as offered.
    pub(crate) fn begin(self: &Arc<Self>, run: RunId, link: LinkId) -> InFlightGuard {
        *self.counts().entry((run, link)).or_default() += 1;
        InFlightGuard { all: self.clone(), run, link }
    }

    /// Whether the first delivery of an order over this link is in flight.
    pub(crate) fn holds(&self, run: RunId, link: LinkId) -> bool {
        self.counts().contains_key(&(run, link))
    }
}

/// Marks an order's first delivery as in flight until dropped.
pub(crate) struct InFlightGuard {
    all: Arc<InFlight>,
    run: RunId,
    link: LinkId,
}

impl Drop for InFlightGuard {
    fn drop(&mut self) {
        if let Entry::Occupied(mut count) = self.all.counts().entry((self.run, self.link)) {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
    }
}

/// Whether an order is redelivered: only scripts are, diagnoses are not.
pub(crate) fn is_script(order: &Order) -> bool {
    matches!(order.action, Action::Script { .. })
}

/// Sends an update to the watching technician, if there is one.
pub(crate) async fn send_update(news: &mpsc::Sender<Update>, order: &Order, what: News) {
    let update = Update { run: order.run, machine: order.machine, news: what };
    // A technician who has left, or whose program does not read, must not block the job.
    let _ = news.send_timeout(update, UNREAD).await;
}

/// Delivers one order. `seen` is notified when the machine has answered for the first time, or will
/// not.
pub(crate) async fn deliver_one(
    service: &Arc<DeliveryService>,
    pending: PendingOrder,
    news: &mpsc::Sender<Update>,
    seen: &Notify,
) -> Option<Lost> {
    let lost = carry(service, pending, news, seen).await;
    seen.notify_one();
    lost
}

/// An act whose machine lost its link during delivery.
pub(crate) struct Lost {
    order: Order,
    /// How long to wait for its end.
    timeout: Duration,
}

async fn carry(
    service: &Arc<DeliveryService>,
    mut pending: PendingOrder,
    news: &mpsc::Sender<Update>,
    seen: &Notify,
) -> Option<Lost> {
    if pending.order.not_after <= service.records.now() && pending.cancel.is_none() {
        // The order expired in the queue; do not send what nobody waits for.
        send_update(news, &pending.order, News::NoAnswer).await;
        return None;
    }
    if pending.state == RunState::Queued
        && let Err(denied) = offer(service, &mut pending).await
    {
        send_update(news, &pending.order, denied).await;
        return None;
    }
    let timeout = timeout_of(&pending, service.records.now());
    let PendingOrder { order, envelope, state, cancel, in_flight } = pending;
    let sending = match (&in_flight, state) {
        (Some(first), _) => Sending::First(first.link),
        (None, RunState::Running) => Sending::Begun,
        (None, _) => Sending::Again,
    };
    send_update(news, &order, News::Offered).await;
    let acts = is_script(&order);
    // A diagnosis must be done in time; a script must have begun by then.
    let (begun, has_begun) = (Notify::new(), AtomicBool::new(false));
    let on_received = |received: Received| {
        let (news, order, begun, has_begun) = (news, &order, &begun, &has_begun);
        async move {
            if let Received::State(_) | Received::NotYet = received {
                seen.notify_one();
            }
            match received {
                Received::State(MachineState::Started) => {
                    has_begun.store(true, Ordering::Relaxed);
                    begun.notify_one();
                    send_update(news, order, News::Started).await;
                    if acts {
                        store_began(service, order.run);
                    }
                }
                Received::State(MachineState::Received | MachineState::Waiting) | Received::NotYet => {}
                Received::Note(note) => send_update(news, order, News::Note(note)).await,
            }
        }
    };
    let delivery = exchange::deliver(service, Sent { order: &order, envelope, cancel, sending }, on_received);
    let over = async {
        tokio::select! {
            biased;
            () = tokio::time::sleep(timeout) => {}
            () = begun.notified(), if acts => tokio::time::sleep(LONGEST).await,
        }
    };
    let end = tokio::select! {
        biased;
        end = delivery => Some(end),
        () = over => None,
    };
    let what = match end {
        Some(DeliveryEnd::Stored(outcome, key)) => News::Outcome(outcome.receipt, key, outcome.body),
        Some(DeliveryEnd::Refused(refusal)) => News::Refused(refusal),
        Some(DeliveryEnd::Known) => stored_news(service, &order).await,
        Some(DeliveryEnd::NotStored(denial)) => News::Denied(denial),
        // A script is redelivered when its machine links again.
        Some(DeliveryEnd::Lost) if acts => {
            let timeout = if has_begun.load(Ordering::Relaxed) { LONGEST } else { timeout };
            return Some(Lost { order, timeout });
        }
        // The hub is shutting down; the machine gives its outcome to the restarted one.
        Some(DeliveryEnd::Lost) if service.lifecycle.draining.is_cancelled() => return None,
        Some(DeliveryEnd::Lost) | None => News::NoAnswer,
    };
    send_update(news, &order, what).await;
    None
}

/// Marks a queued order as offered in the store, unless it was taken back.
async fn offer(service: &DeliveryService, pending: &mut PendingOrder) -> Result<(), News> {
    let order = &pending.order;
    let linked = service.presence.machine(&order.machine);
    pending.in_flight = linked.map(|linked| service.in_flight.begin(order.run, linked.link.id()));
    match service.records.store.offer(order.run).await {
        Ok(true) => {
            // Mark it now: while the order was queued, there was nothing to redeliver to a machine
            // that linked.
            if is_script(order) {
                service.redelivery().mark(order.machine);
            }
            Ok(())
        }
        Ok(false) => Err(News::Cancelled),
        Err(error) => {
            warn!(%error, "a queued order could not be offered");
            Err(News::Denied(service.records.denial(&error)))
        }
    }
}

/// How long to wait for an order's machine. The report of a script that waited for the owner until
/// its end comes just after it.
fn timeout_of(pending: &PendingOrder, now: UnixMs) -> Duration {
    let left = u64::try_from(pending.order.not_after.saturating_sub(now)).unwrap_or_default();
    let timeout = Duration::from_millis(left).min(LONGEST);
    let timeout = if pending.cancel.is_some() { timeout.max(UNHEARD) } else { timeout };
    if is_script(&pending.order) { timeout + LAST_ANSWER } else { timeout }
}

/// Stores that a run has begun, without waiting for the disk: after a crash the hub would find
/// "offered" and send the order again, which the machine's ledger handles.
fn store_began(service: &Arc<DeliveryService>, run: RunId) {
    let service = service.clone();
    service.lifecycle.tasks.clone().spawn(async move {
        if let Err(error) = service.records.store.write(Began(run)).await {
            warn!(%run, %error, "the start of a run could not be stored");
        }
    });
}

/// Waits for the end of a run whose machine was lost, and sends it while somebody watches.
pub(crate) async fn send_update_later(
    service: Arc<DeliveryService>,
    Lost { order, timeout }: Lost,
    news: mpsc::Sender<Update>,
) {
    let over = tokio::time::Instant::now() + timeout + LAST_ANSWER;
    let watcher = service.watchers.watch(order.run);
    let what = loop {
        match service.records.store.run_state(&order.run).await {
            Ok(Some((state, refusal))) if state.is_final() => break final_news(&service, &order, state, refusal).await,
            Ok(Some(_)) => {}
            Ok(None) => break News::NoAnswer,
            Err(error) => break News::Denied(service.records.denial(&error)),
        }
        tokio::select! {
            biased;
            () = service.lifecycle.draining.cancelled() => return,
            () = news.closed() => return,
            () = tokio::time::sleep_until(over) => break News::NoAnswer,
            () = watcher.called() => {}
            () = tokio::time::sleep(LOST_AGAIN) => {}
        }
    };
    send_update(&news, &order, what).await;
}

/// The stored end of a run.
async fn stored_news(service: &DeliveryService, order: &Order) -> News {
    match service.records.store.run_state(&order.run).await {
        Ok(Some((state, refusal))) => final_news(service, order, state, refusal).await,
        Ok(None) => News::NoAnswer,
        Err(error) => News::Denied(service.records.denial(&error)),
    }
}

async fn final_news(service: &DeliveryService, order: &Order, state: RunState, refusal: Option<Refusal>) -> News {
    match (state, service.records.store.machine(&order.machine)) {
        (RunState::Refused, _) => refusal.map_or(News::NoAnswer, News::Refused),
        (RunState::Cancelled, _) => News::Cancelled,
        (RunState::Settled, Some(machine)) => settled_news(service, order.run, &machine).await,
        _ => News::NoAnswer,
    }
}

/// The outcome of a settled run, from the store.
pub(crate) async fn settled_news(service: &DeliveryService, run: RunId, machine: &Machine) -> News {
    match service.records.store.evidence(&run).await {
        Ok(Some(evidence)) => match (evidence.receipt, Blob::try_from(evidence.report)) {
            (Some(receipt), Ok(report)) => News::Outcome(receipt, machine.evidence_key, report),
            _ => News::NoAnswer,
        },
        Ok(None) => News::NoAnswer,
        Err(error) => News::Denied(service.records.denial(&error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_is_in_flight_until_its_last_guard_is_dropped() {
        let in_flight = Arc::new(InFlight::default());
        let run = RunId::from_bytes([1; 16]);
        let (link, another) = (LinkId::next(), LinkId::next());
        let (one, other) = (in_flight.begin(run, link), in_flight.begin(run, link));
        assert!(in_flight.holds(run, link) && !in_flight.holds(run, another));
        drop(one);
        assert!(in_flight.holds(run, link), "the other guard is left");
        drop(other);
        assert!(!in_flight.holds(run, link) && in_flight.counts().is_empty());
    }
}
