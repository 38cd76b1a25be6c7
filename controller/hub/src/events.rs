//! Recent events, for technicians who follow them.
//!
//! Events are kept in memory only: the store is authoritative. A new listener first gets the
//! remembered events; a slow one is told how many it missed.

use fernwart_certs::random;
use fernwart_fleet::Machine;
use fernwart_protocol::clock::Clock;
use fernwart_protocol::event::{Event, Happened, Named};
use fernwart_protocol::id::{CustomerId, KeyId};
use fernwart_protocol::limits::EVENTS_KEPT;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard};
use tokio::sync::broadcast;

/// Who may receive an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Whose {
    /// Those who reach this customer.
    Customer(CustomerId),
    /// The one with this key, and those who reach all customers.
    Giver(KeyId),
    /// All.
    Everybody,
}

#[derive(Debug)]
pub(crate) struct Recorded {
    pub(crate) event: Event,
    pub(crate) whose: Whose,
}

/// The events that are remembered, and those who listen.
#[derive(Debug)]
pub(crate) struct Events {
    /// Identifies this run of the hub in each event, since sequence numbers restart with it.
    pub(crate) life: u64,
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

    pub(crate) fn record(&self, clock: Clock, whose: Whose, what: Happened) {
        let mut kept = self.kept();
        let (life, at) = (self.life, clock.now());
        let seq = kept.back().map_or(1, |newest| newest.event.seq + 1);
        let recorded = Arc::new(Recorded { event: Event { life, seq, at, what }, whose });
        if kept.len() == EVENTS_KEPT {
            kept.pop_front();
        }
        kept.push_back(recorded.clone());
        // Sent under the lock to keep the order; there may be no listeners.
        let _ = self.listeners.send(recorded);
    }

    /// The remembered events and a receiver for later ones, without a gap.
    pub(crate) fn listen(&self) -> (Vec<Arc<Recorded>>, broadcast::Receiver<Arc<Recorded>>) {
        let kept = self.kept();
        (kept.iter().cloned().collect(), self.listeners.subscribe())
    }
}

pub(crate) fn named(machine: &Machine) -> Named {
    Named { id: machine.id, name: machine.name.clone(), customer: machine.customer_name.clone() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::sync::broadcast::error::RecvError;

    fn publish(events: &Events, count: u64) {
        (0..count).for_each(|targets| {
            events.record(Clock::System, Whose::Everybody, Happened::Published { targets, timestamp: 0 });
        });
    }

    #[tokio::test]
    async fn a_listener_gets_the_remembered_and_new_events_without_gap_or_duplicate() {
        let events = Events::default();
        publish(&events, EVENTS_KEPT as u64 + 5);
        let (kept, mut news) = events.listen();
        publish(&events, 1);
        assert_eq!((kept.len(), kept[0].event.seq), (EVENTS_KEPT, 6));
        let next = news.recv().await.expect("told");
        assert_eq!(next.event.seq, kept[EVENTS_KEPT - 1].event.seq + 1);
    }

    #[tokio::test]
    async fn a_slow_listener_is_told_how_many_events_it_missed() {
        let events = Events::default();
        let (_, mut news) = events.listen();
        publish(&events, EVENTS_KEPT as u64 * 2);
        assert_eq!(news.recv().await.err(), Some(RecvError::Lagged(EVENTS_KEPT as u64)));
        assert_eq!(news.recv().await.expect("told").event.seq, EVENTS_KEPT as u64 + 1);
    }
}
