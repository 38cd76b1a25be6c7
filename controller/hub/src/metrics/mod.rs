//! Metrics, named by the rules of Prometheus
//!
//! Labels come from closed lists. No machine, customer or person is a label: the page would grow
//! with the fleet and reveal it.

pub(crate) mod scrape;

use crate::run_end::{End, RunEnded};
use fernwart_protocol::code::Denial;
use fernwart_protocol::document::{Outcome, UnixMs};
use fernwart_protocol::link::{Door, LinkError, Rejections};
use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};
use std::time::Duration;

/// Upper bound of the first histogram bucket, seconds. Ten buckets that grow by four reach four
/// minutes.
const FIRST_STEP: f64 = 0.001;

/// The result of a successful handshake.
const LINKED: &str = "linked";

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct At {
    door: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct LinkEnded {
    door: &'static str,
    by: &'static str,
    reason: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Went {
    result: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Build {
    version: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Code {
    code: &'static str,
}

/// All metrics of a hub.
#[derive(Debug)]
pub(crate) struct Metrics {
    links: Family<At, Gauge>,
    handshakes: Family<Went, Counter>,
    ended: Family<LinkEnded, Counter>,
    paced: Family<At, Counter>,
    orders: Counter,
    outcomes: Family<Went, Counter>,
    refusals: Family<Code, Counter>,
    denials: Family<Code, Counter>,
    store_failures: Counter,
    newer_frames: Counter,
    refused_outcomes: Counter,
    deliveries: Histogram,
}

impl Default for Metrics {
    fn default() -> Self {
        let metrics = Self {
            links: Family::default(),
            handshakes: Family::default(),
            ended: Family::default(),
            paced: Family::default(),
            orders: Counter::default(),
            outcomes: Family::default(),
            refusals: Family::default(),
            denials: Family::default(),
            store_failures: Counter::default(),
            newer_frames: Counter::default(),
            refused_outcomes: Counter::default(),
            deliveries: Histogram::new(exponential_buckets(FIRST_STEP, 4.0, 10)),
        };
        // Create the series at 0: rates need a start value.
        for door in Door::ALL {
            drop(metrics.links.get_or_create(&at(door)));
            drop(metrics.paced.get_or_create(&at(door)));
        }
        for outcome in Outcome::ALL {
            drop(metrics.outcomes.get_or_create(&Went { result: outcome.as_str() }));
        }
        drop(metrics.handshakes.get_or_create(&Went { result: LINKED }));
        metrics
    }
}

const fn at(door: Door) -> At {
    let door = match door {
        Door::Agent => "agent",
        Door::Staff => "staff",
        Door::Enroll => "enroll",
    };
    At { door }
}

/// Gauges that are read for each page.
#[derive(Debug)]
pub(crate) struct Levels {
    pub(crate) rejections: Rejections,
    pub(crate) machines_online: usize,
    pub(crate) machines_admitted: usize,
    /// Reports that are not indexed for queries yet.
    pub(crate) reports_due: usize,
    pub(crate) free_bytes: u64,
    /// When the published timestamp expires; 0 if nothing is published.
    pub(crate) timestamp_until: UnixMs,
}

impl Metrics {
    /// A handshake has failed.
    pub(crate) fn handshake_failed(&self, reason: &LinkError) {
        self.handshakes.get_or_create(&Went { result: reason.as_str() }).inc();
    }

    /// A link is open.
    pub(crate) fn link_came(&self, door: Door) {
        self.handshakes.get_or_create(&Went { result: LINKED }).inc();
        self.links.get_or_create(&at(door)).inc();
    }

    /// A link has ended.
    pub(crate) fn link_ended(&self, door: Door, end: &LinkError) {
        self.links.get_or_create(&at(door)).dec();
        let by = match end {
            LinkError::ClosedHere(_) | LinkError::HandshakeHere(_) => "hub",
            LinkError::Closed(_) | LinkError::Handshake(_) => "peer",
            LinkError::Silent
            | LinkError::Forgotten
            | LinkError::Transport
            | LinkError::TooSlow
            | LinkError::NoDoor => "network",
        };
        self.ended.get_or_create(&LinkEnded { door: at(door).door, by, reason: end.as_str() }).inc();
    }

    /// A request was delayed by a rate limit.
    pub(crate) fn paced(&self, door: Door) {
        self.paced.get_or_create(&at(door)).inc();
    }

    /// An order was sent to a machine.
    pub(crate) fn order_sent(&self) {
        self.orders.inc();
    }

    /// An outcome is stored, this long after its order was sent.
    pub(crate) fn delivered(&self, took: Duration) {
        self.deliveries.observe(took.as_secs_f64());
    }

    /// A run has ended.
    pub(crate) fn run_ended(&self, ended: &RunEnded) {
        match &ended.end {
            End::Outcome { outcome, is_new: true, .. } => {
                self.outcomes.get_or_create(&Went { result: outcome.as_str() }).inc();
            }
            End::Outcome { is_new: false, .. } => {}
            End::NotTaken(refusal) => {
                self.refusals.get_or_create(&Code { code: refusal.label() }).inc();
            }
        }
    }

    /// A technician's request was denied.
    pub(crate) fn denied(&self, denial: Denial) {
        self.denials.get_or_create(&Code { code: denial.label() }).inc();
    }

    /// The store could not do something.
    pub(crate) fn store_failed(&self) {
        self.store_failures.inc();
    }

    /// A frame was of a newer version than this hub's.
    pub(crate) fn frame_passed_over(&self) {
        self.newer_frames.inc();
    }

    /// An outcome failed verification.
    pub(crate) fn outcome_refused(&self) {
        self.refused_outcomes.inc();
    }

    /// The page of all metrics, with gauges read now.
    pub(crate) fn page(&self, levels: &Levels) -> String {
        let mut all = Registry::default();
        let hub = all.sub_registry_with_prefix("fernwart");
        let build = Family::<Build, Gauge>::default();
        build.get_or_create(&Build { version: env!("CARGO_PKG_VERSION") }).set(1);
        hub.register("build_info", "This program; always 1", build);
        hub.register("links", "Links open now", self.links.clone());
        hub.register("links_ended", "Links that have ended, by whom and why", self.ended.clone());
        hub.register("handshakes", "Handshakes, by result", self.handshakes.clone());
        let rejections = levels.rejections;
        let sent_back = ConstCounter::new(rejections.sent_back);
        hub.register("handshakes_sent_back", "Peers that first had to validate their address", sent_back);
        let refused = ConstCounter::new(rejections.refused);
        hub.register("handshakes_refused", "Peers for which there was no room", refused);
        let dropped = ConstCounter::new(rejections.dropped);
        hub.register("first_datagrams_dropped", "Initial datagrams dropped because too many arrived", dropped);
        hub.register("asks_paced", "Requests delayed because their link asks too fast", self.paced.clone());
        hub.register("orders_sent", "Orders sent to machines, counting each time", self.orders.clone());
        let help = "From sending an order to its stored outcome";
        hub.register_with_unit("delivery", help, Unit::Seconds, self.deliveries.clone());
        hub.register("outcomes_stored", "Outcomes of runs that were stored", self.outcomes.clone());
        hub.register("orders_refused", "Orders that a machine refused", self.refusals.clone());
        hub.register("requests_denied", "Requests of technicians that were denied", self.denials.clone());
        hub.register("store_failures", "Failed reads and writes of the store", self.store_failures.clone());
        let help = "Frames of machines whose version is newer than this hub's";
        hub.register("newer_frames", help, self.newer_frames.clone());
        let help = "Outcomes that a machine has not signed, or that do not fit their orders";
        hub.register("outcomes_refused", help, self.refused_outcomes.clone());
        gauge(hub, "machines_online", "Machines that are linked", levels.machines_online as u64);
        gauge(hub, "machines_admitted", "Machines that are admitted", levels.machines_admitted as u64);
        gauge(hub, "reports_due", "Reports that are not indexed for queries yet", levels.reports_due as u64);
        let free = ConstGauge::new(levels.free_bytes);
        hub.register_with_unit("disk_free", "Free space on the store's disk", Unit::Bytes, free);
        let until = levels.timestamp_until / 1000;
        let until = ConstGauge::new(until);
        let help = "When the published timestamp expires, Unix time";
        hub.register_with_unit("catalogue_expiry_timestamp", help, Unit::Seconds, until);

        let process = all.sub_registry_with_prefix("process");
        let cpu = ConstCounter::new(cpu().as_secs_f64());
        process.register_with_unit("cpu", "Time on processors, user and system", Unit::Seconds, cpu);
        let memory = ConstGauge::new(resident_bytes());
        process.register_with_unit("resident_memory", "Memory in use", Unit::Bytes, memory);
        gauge(process, "open_fds", "File descriptors in use", open_files());
        let mut page = String::new();
        // Writing to a string does not fail.
        let _ = text::encode(&mut page, &all);
        page
    }
}

fn gauge(registry: &mut Registry, name: &str, help: &str, value: u64) {
    registry.register(name, help, ConstGauge::new(value));
}

/// Memory of this process, bytes; 0 where the system does not say.
pub(crate) fn resident_bytes() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages: u64 = statm.split_whitespace().nth(1).and_then(|pages| pages.parse().ok()).unwrap_or_default();
    pages.saturating_mul(rustix::param::page_size() as u64)
}

fn cpu() -> Duration {
    let spent = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(u64::try_from(spent.tv_sec).unwrap_or_default(), u32::try_from(spent.tv_nsec).unwrap_or_default())
}

fn open_files() -> u64 {
    std::fs::read_dir("/proc/self/fd").map_or(0, |files| files.count() as u64)
}
