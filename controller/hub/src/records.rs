//! The store, its clock, and the parts that are notified of failures and events.

use crate::events::{Events, Whose, named};
use crate::home::HubHome;
use crate::log_limiter::LogLimiter;
use crate::metrics::Metrics;
use crate::run_end::{End, NewHealth, RunEnded};
use fernwart_fleet::Machine;
use fernwart_protocol::clock::Clock;
use fernwart_protocol::code::Denial;
use fernwart_protocol::document::UnixMs;
use fernwart_protocol::event::{Happened, Named};
use fernwart_protocol::id::{KeyId, MachineId};
use fernwart_protocol::limits;
use fernwart_store::{Store, StoreError};
use std::time::Duration;
use tracing::warn;

/// What every part of the hub writes to.
pub(crate) struct Records {
    pub(crate) home: HubHome,
    pub(crate) clock: Clock,
    pub(crate) store: Store,
    pub(crate) metrics: Metrics,
    pub(crate) events: Events,
    /// Failures of the store.
    failures: LogLimiter,
    /// Frames of newer versions than this hub's.
    newer_frames: LogLimiter,
}

impl Records {
    pub(crate) fn new(home: HubHome, clock: Clock, store: Store) -> Self {
        let (metrics, events) = (Metrics::default(), Events::default());
        Self {
            home,
            clock,
            store,
            metrics,
            events,
            failures: LogLimiter::default(),
            newer_frames: LogLimiter::default(),
        }
    }

    /// Clock of the hub, Unix milliseconds.
    pub(crate) fn now(&self) -> UnixMs {
        self.clock.now()
    }

    /// The denial to answer with when the store fails. SQLite reports a full disk with many
    /// different errors, so free space is checked too.
    pub(crate) fn denial(&self, error: &StoreError) -> Denial {
        warn!(%error, "the store has failed");
        self.metrics.store_failed();
        let denial = if error.is_full() { Denial::StoreFull } else { self.failed_now() };
        if self.failures.now(self.now()).is_some() {
            self.happened(Happened::StoreFailed(denial));
        }
        denial
    }

    /// What the store answered, or the [denial](Self::denial) to answer with.
    pub(crate) fn or_denial<T>(&self, stored: Result<T, StoreError>) -> Result<T, Denial> {
        stored.map_err(|error| self.denial(&error))
    }

    /// The denial for a store failure now, judged by free disk space.
    pub(crate) fn failed_now(&self) -> Denial {
        if self.home.is_disk_full() { Denial::StoreFull } else { Denial::StoreFailed }
    }

    /// Free space on the store's disk, bytes; a large value if the system does not report it.
    pub(crate) fn free_bytes(&self) -> u64 {
        self.home.free_bytes()
    }

    /// The period over which machines should spread their redials when all lose this hub at once.
    pub(crate) fn return_spread(&self) -> Duration {
        let machines = self.store.known() as u64;
        Duration::from_millis(machines * 1000 / limits::ARRIVALS_PER_SECOND).min(limits::RETURN_SPREAD)
    }

    /// Counts and logs a frame of a newer version than this hub's.
    pub(crate) fn passed_over(&self, machine: &MachineId) {
        self.metrics.frame_passed_over();
        if let Some(passed_over) = self.newer_frames.now(self.now()) {
            warn!(%machine, passed_over, "a machine speaks a newer version than this hub: update the hub");
        }
    }

    /// Records an event that all may see.
    pub(crate) fn happened(&self, what: Happened) {
        self.events.record(self.clock, Whose::Everybody, what);
    }

    /// Records an event for one technician.
    pub(crate) fn happened_to(&self, giver: KeyId, what: Happened) {
        self.events.record(self.clock, Whose::Giver(giver), what);
    }

    /// Records an event about one machine, if it is known.
    pub(crate) fn happened_on(&self, machine: &MachineId, what: impl FnOnce(Named) -> Happened) {
        if let Some(machine) = self.store.machine(machine) {
            let machine: &Machine = &machine;
            self.events.record(self.clock, Whose::Customer(machine.customer), what(named(machine)));
        }
    }

    /// Records the end of a run and, if it has changed, the machine's health.
    pub(crate) fn run_ended(&self, ended: &RunEnded) {
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
