//! Orders on their way to machines, and outcomes on their way back.
//!
//! ```text
//! order (one order, start to end) ─▶ exchange (one stream to its machine) ─▶ outcome (checked, stored, signed for)
//! redelivery: what a returning machine may not have received ─▶ order
//! ```

pub(crate) mod exchange;
pub(crate) mod order;
pub(crate) mod outcome;
pub(crate) mod redelivery;
pub(crate) mod watchers;

use crate::keys::HubKeys;
use crate::lifecycle::Lifecycle;
use crate::presence::Presence;
use crate::query::service::QueryService;
use crate::records::Records;
use crate::trust::Trust;
use order::InFlight;
use redelivery::RedeliveryQueue;
use std::sync::{Arc, Mutex, MutexGuard};
use watchers::Watchers;

/// What orders and outcomes pass through.
pub(crate) struct DeliveryService {
    pub(crate) records: Arc<Records>,
    pub(crate) presence: Arc<Presence>,
    pub(crate) trust: Arc<Trust>,
    pub(crate) keys: Arc<HubKeys>,
    /// Learns of reports that are to be indexed.
    pub(crate) query: Arc<QueryService>,
    pub(crate) lifecycle: Lifecycle,
    /// Machines that may have undelivered orders. It can contain machines that have none.
    redelivery: Mutex<RedeliveryQueue>,
    pub(crate) in_flight: Arc<InFlight>,
    watchers: Watchers,
}

impl DeliveryService {
    /// Creates it with the machines that have undelivered orders in the store.
    pub(crate) fn new(
        (records, presence, trust): (Arc<Records>, Arc<Presence>, Arc<Trust>),
        (keys, query, lifecycle): (Arc<HubKeys>, Arc<QueryService>, Lifecycle),
        undelivered: RedeliveryQueue,
    ) -> Self {
        let redelivery = Mutex::new(undelivered);
        let (in_flight, watchers) = (Arc::default(), Watchers::default());
        Self { records, presence, trust, keys, query, lifecycle, redelivery, in_flight, watchers }
    }

    pub(crate) fn redelivery(&self) -> MutexGuard<'_, RedeliveryQueue> {
        self.redelivery.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}
