//! What has happened of late, for those who want to follow it.
//!
//! In memory alone: the truth is in the store. Who comes late hears what is
//! remembered; who reads slowly is told how much they missed.

use crate::Shared;
use crate::delivery::outcome::{End, NewHealth, RunEnded};
use crate::doors::caller::Caller;
use fernwart_certs::catalogue::Customers;
use fernwart_certs::random;
use fernwart_fleet::Machine;
use fernwart_protocol::clock::Clock;
use fernwart_protocol::code::Denial;
use fernwart_protocol::event::{Event, Happened, Named, Until};
use fernwart_protocol::id::{CustomerId, Digest, KeyId, MachineId};
use fernwart_protocol::limits::EVENTS_KEPT;
use fernwart_protocol::link::{FrameError, Link, Sender};
use fernwart_protocol::staff::Reply;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard};
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;

/// Who may hear of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Whose {
    /// Those who reach this customer.
    Customer(CustomerId),
    /// The one with this key, and those who reach all customers.
    Giver(KeyId),
    /// All.
    Everybody,
}

impl Whose {
    fn includes(self, caller: &Caller) -> bool {
        match self {
            Self::Customer(customer) => caller.entry.customers.include(&customer),
            Self::Giver(key) => key == caller.entry.key || caller.entry.customers == Customers::All,
            Self::Everybody => true,
        }
    }
}

#[derive(Debug)]
struct Recorded {
    event: Event,
    whose: Whose,
}

/// The events that are remembered, and those who listen.
#[derive(Debug)]
pub(crate) struct Events {
    /// Told with each: numbers begin anew with every start.
    life: u64,
    kept: Mutex<VecDeque<Arc<Recorded>>>,
    listeners: broadcast::Sender<Arc<Recorded>>,
}

impl Default for Events {
    fn default() -> Self {
        Self {
            life: u64::from_be_bytes(random()),
            kept: Mutex::default(),
            listeners: broadcast::Sender::new(EVENTS_KEPT),
        }
    }
}

impl Events {
    fn kept(&self) -> MutexGuard<'_, VecDeque<Arc<Recorded>>> {
        self.kept.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn record(&self, clock: Clock, whose: Whose, what: Happened) {
        let mut kept = self.kept();
        let (life, at) = (self.life, clock.now());
        let seq = kept.back().map_or(1, |newest| newest.event.seq + 1);
        let recorded = Arc::new(Recorded { event: Event { life, seq, at, what }, whose });
        if kept.len() == EVENTS_KEPT {
            kept.pop_front();
        }
        kept.push_back(recorded.clone());
        // Under the lock, so that all hear them in their order; nobody may listen.
        let _ = self.listeners.send(recorded);
    }

    /// What is remembered, and what comes after it, without a gap.
    fn listen(&self) -> (Vec<Arc<Recorded>>, broadcast::Receiver<Arc<Recorded>>) {
        let kept = self.kept();
        (kept.iter().cloned().collect(), self.listeners.subscribe())
    }
}

impl Shared {
    /// Something has happened that all may hear of.
    pub(crate) fn happened(&self, what: Happened) {
        self.events.record(self.clock, Whose::Everybody, what);
    }

    /// Something that is a technician's own.
    pub(crate) fn happened_to(&self, giver: KeyId, what: Happened) {
        self.events.record(self.clock, Whose::Giver(giver), what);
    }

    /// Something that is about one machine, if it is known.
    pub(crate) fn happened_on(&self, machine: &MachineId, what: impl FnOnce(Named) -> Happened) {
        if let Some(machine) = self.store.machine(machine) {
            self.events.record(self.clock, Whose::Customer(machine.customer), what(named(&machine)));
        }
    }
}

impl Shared {
    /// A run has ended: that, and what its report says where that is new.
    pub(crate) fn tell_run_ended(&self, ended: &RunEnded) {
        let (machine, run) = (&ended.machine, ended.run);
        match &ended.end {
            End::NotTaken(refusal) => {
                self.happened_on(machine, |machine| Happened::RunRefused(machine, run, *refusal));
            }
            End::Outcome { is_new: false, .. } => {}
            End::Outcome { outcome, is_new: true, health } => {
                self.happened_on(machine, |machine| Happened::RunSettled(machine, run, *outcome));
                if let Some(NewHealth { health, has_changed: true }) = health {
                    self.happened_on(machine, |machine| Happened::Health(machine, health.in_version_1()));
                }
            }
        }
    }
}

fn named(machine: &Machine) -> Named {
    Named { id: machine.id, name: machine.name.clone(), customer: machine.customer_name.clone() }
}

/// Tells a technician what is remembered and, if they stay, what comes.
pub(crate) async fn follow(
    shared: &Shared,
    (key, tls_key): (KeyId, Digest),
    link: &Link,
    until: Until,
    send: &mut Sender,
) -> Result<Result<(), Denial>, FrameError> {
    let (kept, mut news) = shared.events.listen();
    let caller = match Caller::current(shared, key, tls_key) {
        Ok(caller) => caller,
        Err(denial) => return Ok(Err(denial)),
    };
    for recorded in kept.iter().filter(|recorded| recorded.whose.includes(&caller)) {
        send_event(send, recorded.event.clone()).await?;
    }
    let mut seen = kept.last().map_or(0, |recorded| recorded.event.seq);
    drop(kept);
    if until == Until::Now {
        return Ok(Ok(()));
    }
    loop {
        let recorded = tokio::select! {
            biased;
            () = shared.stop.cancelled() => return Ok(Err(Denial::ShuttingDown)),
            _ = link.closed() => return Err(FrameError::Cut),
            recorded = news.recv() => recorded,
        };
        // Whom they may hear of, or whether they may at all, may have changed.
        let caller = match Caller::current(shared, key, tls_key) {
            Ok(caller) => caller,
            Err(denial) => return Ok(Err(denial)),
        };
        let event = match recorded {
            Ok(recorded) => {
                seen = recorded.event.seq;
                if !recorded.whose.includes(&caller) {
                    continue;
                }
                recorded.event.clone()
            }
            Err(RecvError::Lagged(missed)) => {
                seen += missed;
                Event { life: shared.events.life, seq: seen, at: shared.now(), what: Happened::Missed(missed) }
            }
            Err(RecvError::Closed) => return Ok(Err(Denial::ShuttingDown)),
        };
        send_event(send, event).await?;
    }
}

/// Tells of one event. A program that has no word for it is told that it missed
/// one.
async fn send_event(send: &mut Sender, event: Event) -> Result<(), FrameError> {
    let Event { life, seq, at, .. } = event;
    match send.send(&Reply::Event(event)).await {
        Err(FrameError::PeerIsOlder(_)) => {
            send.send(&Reply::Event(Event { life, seq, at, what: Happened::Missed(1) })).await
        }
        recorded => recorded,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn publish(events: &Events, count: u64) {
        (0..count).for_each(|targets| {
            events.record(Clock::System, Whose::Everybody, Happened::Published { targets, timestamp: 0 });
        });
    }

    #[tokio::test]
    async fn only_the_newest_are_remembered_and_none_is_told_twice_or_left_out() {
        let events = Events::default();
        publish(&events, EVENTS_KEPT as u64 + 5);
        let (kept, mut news) = events.listen();
        publish(&events, 1);
        assert_eq!((kept.len(), kept[0].event.seq), (EVENTS_KEPT, 6));
        let next = news.recv().await.expect("told");
        assert_eq!(next.event.seq, kept[EVENTS_KEPT - 1].event.seq + 1);
    }

    #[tokio::test]
    async fn who_reads_too_slowly_learns_how_much_was_missed() {
        let events = Events::default();
        let (_, mut news) = events.listen();
        publish(&events, EVENTS_KEPT as u64 * 2);
        assert_eq!(news.recv().await.err(), Some(RecvError::Lagged(EVENTS_KEPT as u64)));
        assert_eq!(news.recv().await.expect("told").event.seq, EVENTS_KEPT as u64 + 1);
    }
}
