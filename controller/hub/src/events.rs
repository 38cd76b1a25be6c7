//! What has happened of late, for those who want to follow it.
//!
//! In memory alone: the truth is in the store. Who comes late hears what is
//! remembered; who reads slowly is told how much they missed.

use fernwart_certs::random;
use fernwart_fleet::Machine;
use fernwart_protocol::clock::Clock;
use fernwart_protocol::event::{Event, Happened, Named};
use fernwart_protocol::id::{CustomerId, KeyId};
use fernwart_protocol::limits::EVENTS_KEPT;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard};
use tokio::sync::broadcast;

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

#[derive(Debug)]
pub(crate) struct Recorded {
    pub(crate) event: Event,
    pub(crate) whose: Whose,
}

/// The events that are remembered, and those who listen.
#[derive(Debug)]
pub(crate) struct Events {
    /// Told with each: numbers begin anew with every start.
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
        // Under the lock, so that all hear them in their order; nobody may listen.
        let _ = self.listeners.send(recorded);
    }

    /// What is remembered, and what comes after it, without a gap.
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
