//! The hub: all agents and technicians connect to it, and it relays between them.
//!
//! It relays signed orders to machines and signed outcomes back, stores both, and countersigns the
//! outcomes. It can run nothing on any machine: none of its keys is on a staff list or signs
//! targets. It imports `fleet`, `store`, `index`, `certs` and `protocol`.
//!
//! ```text
//! accept ─▶ doors ─▶ staff ─▶ delivery ─▶ query ─▶ trust ─▶ presence
//!                                  └───────────┴───────┴──▶ records (store, events, metrics)
//! ```
//! Each part is a value that holds the parts to its right and none to its left.

mod accept;
pub mod backup;
mod delivery;
mod doors;
mod environment;
mod events;
pub mod home;
mod journal;
mod keys;
mod lifecycle;
mod log_limiter;
mod memory;
mod metrics;
mod presence;
mod query;
mod records;
pub mod retention;
pub mod rotation;
mod run_end;
mod staff;
mod sweep;
mod trust;
mod unanswered;

pub use environment::Environment;
pub use home::{HomeError, HubHome};
pub use query::service::{ANSWER, UNREADABLE};
pub use trust::published::{PublishedError, publish_first};

use accept::Doors;
use delivery::DeliveryService;
use doors::agent::{AgentDoor, Penalties};
use doors::enroll::EnrollDoor;
use doors::staff::StaffDoor;
use fernwart_certs::catalogue::Catalogue;
use fernwart_certs::tls;
use fernwart_fleet::Standing;
use fernwart_protocol::limits;
use fernwart_protocol::link::Listener;
use fernwart_store::{Store, StoreError};
use keys::HubKeys;
use lifecycle::Lifecycle;
use log_limiter::LogLimiter;
use metrics::Levels;
use presence::Presence;
use query::service::QueryService;
use records::Records;
use staff::StaffService;
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tracing::{info, warn};
use trust::Trust;
use trust::published::Published;

/// How long a shutdown waits for work in progress.
const GRACE: Duration = Duration::from_secs(5);

/// Expected duration of a planned restart.
const RESTART: Duration = Duration::from_secs(2);

/// The hub cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Its folder cannot be used.
    #[error("using the hub's folder")]
    Home(#[source] HomeError),
    /// Its store cannot be opened.
    #[error("opening the hub's store")]
    Store(#[source] StoreError),
    /// A newer program has written its store.
    #[error("opening the hub's store")]
    NewerStore(#[source] StoreError),
    /// Its store is no database any more.
    #[error("opening the hub's store")]
    DamagedStore(#[source] StoreError),
    /// Its catalogue cannot be used.
    #[error("reading the published catalogue")]
    Catalogue(#[source] PublishedError),
    /// TLS cannot be configured.
    #[error("configuring TLS")]
    Tls(#[source] tls::TlsError),
    /// Its certificate cannot be issued.
    #[error("issuing the hub's certificate")]
    Issue(#[source] fernwart_certs::issue::IssueError),
    /// The metrics address is not a loopback address.
    #[error("metrics are served on this computer only, and {0} is not an address of it alone: take 127.0.0.1 or [::1]")]
    MetricsOpen(SocketAddr),
    /// The metrics port cannot be bound.
    #[error("listening on TCP {address} for metrics")]
    ListenMetrics {
        /// Where.
        address: SocketAddr,
        /// What the system says.
        #[source]
        source: std::io::Error,
    },
    /// The port cannot be bound.
    #[error("listening on UDP {address}")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// What the system says.
        #[source]
        source: std::io::Error,
    },
}

/// Ports other than those in `hub.toml`.
#[derive(Debug, Clone, Copy, Default)]
pub struct Ports {
    /// UDP, for all doors.
    pub listen: Option<SocketAddr>,
    /// Loopback TCP, for metrics.
    pub metrics: Option<SocketAddr>,
}

/// A hub that listens.
pub struct Hub {
    listener: Arc<Listener>,
    lifecycle: Lifecycle,
    records: Arc<Records>,
    presence: Arc<Presence>,
    trust: Arc<Trust>,
    query: Arc<QueryService>,
    metrics: Option<SocketAddr>,
}

impl Hub {
    /// Opens the folder, the store and the port, and begins to serve.
    ///
    /// # Errors
    /// When any of them cannot be opened, or the folder holds a key that must not be there.
    pub async fn start(home: HubHome, ports: Ports) -> Result<Self, StartError> {
        Self::start_on(Environment::default(), home, ports).await
    }

    /// The same in another environment than this computer's.
    ///
    /// # Errors
    /// As [`Hub::start`].
    pub async fn start_on(environment: Environment, home: HubHome, ports: Ports) -> Result<Self, StartError> {
        let opened = home.open().map_err(StartError::Home)?;
        let address = ports.listen.unwrap_or(opened.settings.listen);
        let scraped = match ports.metrics.or(opened.settings.metrics) {
            Some(address) => Some(metrics::scrape::bind(address).await?),
            None => None,
        };
        let store = open_store(&environment, &home).await?;
        let published = Published::open(home.catalogue(), opened.roles).await.map_err(StartError::Catalogue)?;
        let catalogue = belongs_here(&home, &store, &published).await?;
        let in_use = opened.rotating.in_use(catalogue.as_deref().map(|catalogue| &catalogue.hub));
        let in_use = in_use.map_err(StartError::Home)?;
        let tls = in_use.tls(SystemTime::now())?;
        let suspended = store.suspensions().await.map_err(StartError::Store)?.into_iter().collect();
        let locks = store.locks().await.map_err(StartError::Store)?;
        let newest = store.newest_runs().await.map_err(StartError::Store)?;
        let undelivered = store.redelivery().await.map_err(StartError::Store)?.into_iter().collect();

        let lifecycle = Lifecycle::default();
        let facts = home.facts();
        let records = Arc::new(Records::new(home, environment.clock, store));
        let presence = Arc::new(Presence::default());
        let keys = Arc::new(HubKeys {
            evidence_id: fernwart_certs::identity::key_id(&in_use.evidence.public()),
            evidence: in_use.evidence,
            authority: in_use.authority,
            authorities: in_use.authorities,
        });
        let trust = Arc::new(Trust::new((records.clone(), presence.clone()), published, suspended, locks));
        let parts = (records.clone(), presence.clone(), trust.clone());
        let query = fernwart_store::on_disk(&environment.disk, QueryService::open(parts.clone(), facts, newest)).await;
        let query = Arc::new(query.map_err(|error| StartError::Store(StoreError::Sql(error.into())))?);
        let signing = (keys.clone(), query.clone(), lifecycle.clone());
        let delivery = Arc::new(DeliveryService::new(parts, signing, undelivered));
        let listener = environment.listen(address, tls, &opened.restart);
        let listener = Arc::new(listener.map_err(|source| StartError::Listen { address, source })?);

        let hub = Self { listener, lifecycle, records, presence, trust, query, metrics: None };
        hub.ring_all().await;
        let tasks = &hub.lifecycle.tasks;
        let doors = hub.doors(&keys, &delivery, opened.settings.retention);
        tasks.spawn(accept::accept(Arc::new(doors)));
        let stop = &hub.lifecycle.stop;
        tasks.spawn(query::service::keep_up(hub.query.clone(), stop.clone()));
        tasks.spawn(sweep::sweep(hub.records.clone(), hub.presence.clone(), hub.lifecycle.clone()));
        tasks.spawn(sweep::drop_old(hub.records.clone(), opened.settings.retention, stop.clone()));
        tasks.spawn(trust::keep_fresh(hub.trust.clone(), stop.clone()));
        Ok(match scraped {
            Some(listener) => hub.with_metrics(listener),
            None => hub,
        })
    }

    /// The three doors, each with what it needs.
    fn doors(&self, keys: &Arc<HubKeys>, delivery: &Arc<DeliveryService>, retention: retention::Retention) -> Doors {
        let service = StaffService {
            records: self.records.clone(),
            presence: self.presence.clone(),
            trust: self.trust.clone(),
            keys: keys.clone(),
            query: self.query.clone(),
            delivery: delivery.clone(),
            lifecycle: self.lifecycle.clone(),
            retention,
        };
        let staff =
            StaffDoor { service: Arc::new(service), job_rates: Mutex::default(), denied: LogLimiter::default() };
        let agent = AgentDoor {
            records: self.records.clone(),
            presence: self.presence.clone(),
            trust: self.trust.clone(),
            keys: keys.clone(),
            delivery: delivery.clone(),
            lifecycle: self.lifecycle.clone(),
            penalties: Penalties::default(),
            link_rates: Mutex::default(),
        };
        let enroll = EnrollDoor {
            records: self.records.clone(),
            trust: self.trust.clone(),
            keys: keys.clone(),
            lifecycle: self.lifecycle.clone(),
            links: Arc::new(Semaphore::new(limits::ENROLL_LINKS)),
            denied: LogLimiter::default(),
        };
        Doors {
            listener: self.listener.clone(),
            records: self.records.clone(),
            keys: keys.clone(),
            lifecycle: self.lifecycle.clone(),
            agent: Arc::new(agent),
            staff: Arc::new(staff),
            enroll: Arc::new(enroll),
            failed: LogLimiter::default(),
        }
    }

    /// Serves the metrics.
    fn with_metrics(mut self, listener: TcpListener) -> Self {
        self.metrics = listener.local_addr().ok();
        let (records, query, quic) = (self.records.clone(), self.query.clone(), self.listener.clone());
        let (presence, trust) = (self.presence.clone(), self.trust.clone());
        let page = move || {
            records.metrics.page(&Levels {
                rejections: quic.rejections(),
                machines_online: presence.machines_online(),
                machines_admitted: records.store.machines(Standing::Admitted).len(),
                reports_due: query.index_queue_length(),
                free_bytes: records.free_bytes(),
                timestamp_until: trust.published.catalogue().map_or(0, |catalogue| catalogue.expiries.timestamp),
            })
        };
        let serve = metrics::scrape::serve(Arc::new(page), self.lifecycle.clone(), listener);
        self.lifecycle.tasks.spawn(serve);
        self
    }

    /// Where it listens.
    ///
    /// # Errors
    /// When the socket is gone.
    pub fn address(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Where it serves its metrics, if it does.
    pub fn metrics(&self) -> Option<SocketAddr> {
        self.metrics
    }

    /// What it has published, if anything.
    pub fn catalogue(&self) -> Option<Arc<Catalogue>> {
        self.trust.published.catalogue()
    }

    /// Waits until an essential part fails.
    pub async fn failed(&self) {
        self.lifecycle.stop.cancelled().await;
    }

    /// Stops: accepts no new links, lets work in progress finish, says goodbye to all, closes the
    /// store. Returns true if all was done in time.
    pub async fn shutdown(self) -> bool {
        let Self { listener, lifecycle, records, presence, query, .. } = self;
        listener.stop_accepting();
        lifecycle.draining.cancel();
        // A diagnosis ends within seconds and is waited for; the result of what takes
        // longer comes when its machine is back.
        lifecycle.deliveries.close();
        let _ = tokio::time::timeout(GRACE, lifecycle.deliveries.wait()).await;
        // Machines need not redial before a restart can be finished.
        let spread = records.return_spread().max(RESTART);
        presence.goodbye(u32::try_from(spread.as_millis()).unwrap_or(u32::MAX)).await;
        lifecycle.stop.cancel();
        lifecycle.tasks.close();
        let clean = tokio::time::timeout(GRACE, lifecycle.tasks.wait()).await.is_ok();
        query.close().await;
        records.store.close().await;
        let closed = tokio::time::timeout(Duration::from_secs(2), listener.close()).await.is_ok();
        clean && closed
    }

    /// Sends a restart hint to the last address of each machine: idle machines would notice a
    /// restart late.
    async fn ring_all(&self) {
        let machines = self.records.store.machines(Standing::Admitted);
        let addresses: BTreeSet<SocketAddr> =
            machines.iter().filter_map(|machine| machine.address.as_raw().parse().ok()).collect();
        for (rung, address) in addresses.into_iter().enumerate() {
            self.listener.ring(address).await;
            // A few thousand datagrams at once would only be dropped.
            if rung % 256 == 255 {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
    }
}

/// Opens the store. Rejects a missing store in a folder that had one, such as after an incomplete
/// restore.
async fn open_store(environment: &Environment, home: &HubHome) -> Result<Store, StartError> {
    home.refuse_lost_store().map_err(StartError::Home)?;
    let store = Store::open_on(environment.disk.clone(), &home.store()).await.map_err(|error| match error {
        StoreError::Newer(_) => StartError::NewerStore(error),
        StoreError::NoDatabase(_) => StartError::DamagedStore(error),
        error => StartError::Store(error),
    })?;
    match store.compact(home.free_bytes()).await {
        Ok(false) => {}
        Ok(true) => info!("the store was compacted"),
        Err(error) => warn!(%error, "the store could not be compacted"),
    }
    Ok(store)
}

/// Opens the published catalogue. Checks that the store belongs to the same organisation, and that
/// the folder contains no forbidden key.
async fn belongs_here(
    home: &HubHome,
    store: &Store,
    published: &Published,
) -> Result<Option<Arc<Catalogue>>, StartError> {
    if let Some(shop) = published.shop()
        && !store.is_of(shop).await.map_err(StartError::Store)?
    {
        return Err(StartError::Home(home::HomeError::ForeignStore(home.store())));
    }
    let catalogue = published.catalogue();
    if let Some(catalogue) = &catalogue {
        home.refuse_keys_of(catalogue).map_err(StartError::Home)?;
    }
    Ok(catalogue)
}
