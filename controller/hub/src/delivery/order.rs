//! One order's way: offered, carried to its machine, followed to its end, and told
//! to whoever watches.

use crate::Shared;
use crate::delivery::exchange::{self, Delivery, Received, Sending, Sent};
use fernwart_fleet::{Machine, RunState};
use fernwart_protocol::code::Refusal;
use fernwart_protocol::document::{Action, Envelope, Order};
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

/// How long a delivery waits for a technician who does not read.
const UNREAD: Duration = Duration::from_secs(20);

/// A run that its machine took longer than this to settle is left to the
/// machine's return.
const LONGEST: Duration = Duration::from_secs(24 * 3600);

/// How often it is looked after a run whose machine was lost, beside the call at
/// its end: its time may pass, and thousands may be lost at once.
const LOST_AGAIN: Duration = Duration::from_secs(10);

/// An owner who does not answer is waited for until the order ends; the machine
/// says so a moment later.
const LAST_ANSWER: Duration = Duration::from_secs(3);

/// A machine that is back says something to each order within this time.
pub(crate) const UNHEARD: Duration = Duration::from_secs(10);

/// An order on its way, and what is known of it.
pub(crate) struct PendingOrder {
    pub(crate) order: Order,
    pub(crate) envelope: Envelope,
    pub(crate) state: RunState,
    /// Set where it was taken back after it had been offered.
    pub(crate) cancel: Option<Envelope>,
    /// Set where it is sent for the first time.
    pub(crate) way: Option<InFlightGuard>,
}

/// Orders that are sent for the first time, each over one link: whoever brings a
/// machine what it may not have got does not send them a second time over the same.
/// Two concurrent copies of one order would receive each other's replies.
#[derive(Debug, Default)]
pub(crate) struct InFlight(Mutex<HashMap<(RunId, LinkId), u32>>);

impl InFlight {
    fn ways(&self) -> MutexGuard<'_, HashMap<(RunId, LinkId), u32>> {
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Before the store says that this order is offered.
    pub(crate) fn begin(self: &Arc<Self>, run: RunId, link: LinkId) -> InFlightGuard {
        *self.ways().entry((run, link)).or_default() += 1;
        InFlightGuard { ways: self.clone(), run, link }
    }

    /// Whether an order is on its first way over this link.
    pub(crate) fn holds(&self, run: RunId, link: LinkId) -> bool {
        self.ways().contains_key(&(run, link))
    }
}

/// An order's first way, until it is over.
pub(crate) struct InFlightGuard {
    ways: Arc<InFlight>,
    run: RunId,
    link: LinkId,
}

impl Drop for InFlightGuard {
    fn drop(&mut self) {
        if let Entry::Occupied(mut count) = self.ways.ways().entry((self.run, self.link)) {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
    }
}

/// Whether an order is brought again: a look is not worth it.
pub(crate) fn is_script(order: &Order) -> bool {
    matches!(order.action, Action::Script { .. })
}

/// Tells whoever watches, if anybody does.
pub(crate) async fn send_update(news: &mpsc::Sender<Update>, order: &Order, what: News) {
    let update = Update { run: order.run, machine: order.machine, news: what };
    // A technician who has left, or does not read, does not hold up the job.
    let _ = news.send_timeout(update, UNREAD).await;
}

/// Carries one order to its end; `seen` is told when the machine has answered
/// first, or will not.
pub(crate) async fn deliver_one(
    shared: &Arc<Shared>,
    pending: PendingOrder,
    news: &mpsc::Sender<Update>,
    seen: &Notify,
) -> Option<Lost> {
    let lost = carry(shared, pending, news, seen).await;
    seen.notify_one();
    lost
}

/// An act whose machine was lost on the way.
pub(crate) struct Lost {
    order: Order,
    /// How long to wait for what becomes of it.
    timeout: Duration,
}

async fn carry(
    shared: &Arc<Shared>,
    pending: PendingOrder,
    news: &mpsc::Sender<Update>,
    seen: &Notify,
) -> Option<Lost> {
    let PendingOrder { order, envelope, state, cancel, mut way } = pending;
    if order.not_after <= shared.now() && cancel.is_none() {
        // Its turn has not come in time; nothing is sent that nobody waits for.
        send_update(news, &order, News::NoAnswer).await;
        return None;
    }
    if state == RunState::Queued {
        let linked = shared.presence.machine(&order.machine);
        way = linked.map(|linked| shared.in_flight.begin(order.run, linked.link.id()));
        match shared.store.offer(order.run).await {
            // Only now can it be redelivered: a machine that came while it stood in line
            // had nothing to get.
            Ok(true) if is_script(&order) => shared.redelivery().mark(order.machine),
            Ok(true) => {}
            Ok(false) => {
                send_update(news, &order, News::Cancelled).await;
                return None;
            }
            Err(error) => {
                warn!(%error, "a queued order could not be offered");
                send_update(news, &order, News::Denied(shared.denial(&error))).await;
                return None;
            }
        }
    }
    let sending = match (&way, state) {
        (Some(way), _) => Sending::First(way.link),
        (None, RunState::Running) => Sending::Begun,
        (None, _) => Sending::Again,
    };
    let left = u64::try_from(order.not_after.saturating_sub(shared.now())).unwrap_or_default();
    let timeout = Duration::from_millis(left).min(LONGEST);
    let timeout = if cancel.is_some() { timeout.max(UNHEARD) } else { timeout };
    send_update(news, &order, News::Offered).await;
    let acts = is_script(&order);
    // What waited for the owner until the very end is told just after it.
    let timeout = if acts { timeout + LAST_ANSWER } else { timeout };
    // A look must be done in time; an act must have begun by then.
    let (begun, has_begun) = (Notify::new(), AtomicBool::new(false));
    let on_received = |received: Received| {
        let (shared, run) = (shared.clone(), order.run);
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
                    if !acts {
                        return;
                    }
                    // Not worth waiting for the disk: a restart would find "offered", and
                    // bring it as an order, which a machine's state store is there for.
                    shared.clone().tasks.spawn(async move {
                        if let Err(error) = shared.store.write(Began(run)).await {
                            warn!(%run, %error, "that a run has begun could not be stored");
                        }
                    });
                }
                Received::State(MachineState::Received | MachineState::Waiting) | Received::NotYet => {}
                Received::Note(note) => send_update(news, order, News::Note(note)).await,
            }
        }
    };
    let delivery = exchange::deliver(shared, Sent { order: &order, envelope, cancel, sending }, on_received);
    let over = async {
        tokio::select! {
            biased;
            () = tokio::time::sleep(timeout) => {}
            () = begun.notified(), if acts => tokio::time::sleep(LONGEST).await,
        }
    };
    let ended = tokio::select! {
        biased;
        shared_too = delivery => Some(shared_too),
        () = over => None,
    };
    let what = match ended {
        Some(Delivery::Stored(outcome, key)) => News::Outcome(outcome.receipt, key, outcome.body),
        Some(Delivery::Refused(refusal)) => News::Refused(refusal),
        Some(Delivery::Known) => stored_news(shared, &order).await,
        Some(Delivery::NotStored(denial)) => News::Denied(denial),
        // An act is brought again when its machine is back.
        Some(Delivery::Lost) if acts => {
            let timeout = if has_begun.load(Ordering::Relaxed) { LONGEST } else { timeout };
            return Some(Lost { order, timeout });
        }
        // It was the hub that has left; what the machine has seen is told to the next one.
        Some(Delivery::Lost) if shared.draining.is_cancelled() => return None,
        Some(Delivery::Lost) | None => News::NoAnswer,
    };
    send_update(news, &order, what).await;
    None
}

/// Tells what became of a run whose machine was lost, once that is known, as
/// long as somebody listens.
pub(crate) async fn send_update_later(shared: Arc<Shared>, Lost { order, timeout }: Lost, news: mpsc::Sender<Update>) {
    let over = tokio::time::Instant::now() + timeout + LAST_ANSWER;
    let watcher = shared.watchers.watch(order.run);
    let what = loop {
        match shared.store.run_state(&order.run).await {
            Ok(Some((state, refusal))) if state.is_final() => break final_news(&shared, &order, state, refusal).await,
            Ok(Some(_)) => {}
            Ok(None) => break News::NoAnswer,
            Err(error) => break News::Denied(shared.denial(&error)),
        }
        tokio::select! {
            biased;
            () = shared.draining.cancelled() => return,
            () = news.closed() => return,
            () = tokio::time::sleep_until(over) => break News::NoAnswer,
            () = watcher.called() => {}
            () = tokio::time::sleep(LOST_AGAIN) => {}
        }
    };
    send_update(&news, &order, what).await;
}

/// What is stored of a run that has ended.
async fn stored_news(shared: &Shared, order: &Order) -> News {
    match shared.store.run_state(&order.run).await {
        Ok(Some((state, refusal))) => final_news(shared, order, state, refusal).await,
        Ok(None) => News::NoAnswer,
        Err(error) => News::Denied(shared.denial(&error)),
    }
}

async fn final_news(shared: &Shared, order: &Order, state: RunState, refusal: Option<Refusal>) -> News {
    match (state, shared.store.machine(&order.machine)) {
        (RunState::Refused, _) => refusal.map_or(News::NoAnswer, News::Refused),
        (RunState::Cancelled, _) => News::Cancelled,
        (RunState::Settled, Some(machine)) => settled_news(shared, order.run, &machine).await,
        _ => News::NoAnswer,
    }
}

/// What became of a run that is settled, from the store.
pub(crate) async fn settled_news(shared: &Shared, run: RunId, machine: &Machine) -> News {
    match shared.store.evidence(&run).await {
        Ok(Some(evidence)) => match (evidence.receipt, Blob::try_from(evidence.report)) {
            (Some(receipt), Ok(report)) => News::Outcome(receipt, machine.evidence_key, report),
            _ => News::NoAnswer,
        },
        Ok(None) => News::NoAnswer,
        Err(error) => News::Denied(shared.denial(&error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_first_way_is_over_when_nobody_goes_it_any_more() {
        let ways = Arc::new(InFlight::default());
        let run = RunId::from_bytes([1; 16]);
        let (link, another) = (LinkId::next(), LinkId::next());
        let (one, other) = (ways.begin(run, link), ways.begin(run, link));
        assert!(ways.holds(run, link) && !ways.holds(run, another));
        drop(one);
        assert!(ways.holds(run, link), "the other goes it still");
        drop(other);
        assert!(!ways.holds(run, link) && ways.ways().is_empty());
    }
}
