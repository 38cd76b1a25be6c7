//! The hub: a courier all agents and technicians dial.
//!
//! It carries signed orders one way and signed outcomes the other, keeps both,
//! and signs that it has. It can run nothing on any machine: no key here is on
//! a staff list or signs targets. It imports `fleet`, `store`, `certs` and
//! `protocol`.
//!
//! ```text
//! listen ─▶ door (agent | staff | enroll) ─▶ typed peer ─▶ requests ─▶ fleet ─▶ store
//! ```

pub mod backup;
pub mod catalogue;
mod delivery;
mod doors;
mod environment;
mod events;
pub mod home;
mod journal;
mod log_limiter;
mod memory;
mod metrics;
mod presence;
mod query;
pub mod retention;
pub mod rotation;
mod staff;

pub use environment::Environment;
pub use home::{HomeError, HubHome};
pub use query::service::{ANSWER, UNREADABLE};

use catalogue::Published;
use fernwart_certs::CertificateDer;
use fernwart_certs::catalogue::Catalogue;
use fernwart_certs::identity::SigningKey;
use fernwart_certs::issue::Authority;
use fernwart_certs::peer::{NotAdmitted, Peer, identify};
use fernwart_certs::tls;
use fernwart_fleet::Standing;
use fernwart_protocol::clock::Clock;
use fernwart_protocol::code::{Denial, Goodbye};
use fernwart_protocol::document::{Envelope, UnixMs};
use fernwart_protocol::event::Happened;
use fernwart_protocol::id::{KeyId, MachineId};
use fernwart_protocol::limits;
use fernwart_protocol::link::{Incoming, Link, LinkError, Listener};
use fernwart_store::{Expire, Store, StoreError};
use presence::Presence;
use query::service::QueryService;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, RwLock};
use std::time::{Duration, SystemTime};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{error, info, warn};

/// How long work under way may take at the end.
const GRACE: Duration = Duration::from_secs(5);

/// A hub that is stopped in order is back after this long, if it is only restarted.
const RESTART: Duration = Duration::from_secs(2);

/// How often links are held against expiry.
const SWEEP: Duration = Duration::from_secs(30);

/// An outcome may come so much later than its order ends.
const LATE_MS: i64 = 60_000;

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
    /// Its catalogue cannot be used.
    #[error("reading the published catalogue")]
    Catalogue(#[source] catalogue::PublishedError),
    /// TLS cannot be configured.
    #[error("configuring TLS")]
    Tls(#[source] tls::TlsError),
    /// Its certificate cannot be issued.
    #[error("issuing the hub's certificate")]
    Issue(#[source] fernwart_certs::issue::IssueError),
    /// Metrics would be told to others.
    #[error("metrics are told on this computer only, and {0} is not an address of it alone: take 127.0.0.1 or [::1]")]
    MetricsOpen(SocketAddr),
    /// The port of the metrics cannot be had.
    #[error("listening on TCP {address} for metrics")]
    ListenMetrics {
        /// Where.
        address: SocketAddr,
        /// What the system says.
        #[source]
        source: std::io::Error,
    },
    /// The port cannot be had.
    #[error("listening on UDP {address}")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// What the system says.
        #[source]
        source: std::io::Error,
    },
}

/// What all doors share.
struct Shared {
    home: HubHome,
    clock: Clock,
    store: Store,
    /// Issues all certificates.
    authority: Authority,
    /// Every CA whose certificates are known.
    authorities: Vec<CertificateDer<'static>>,
    evidence: SigningKey,
    evidence_id: KeyId,
    listener: Listener,
    presence: Presence,
    published: Published,
    /// Staff keys cut off at this hub: few, read at each request.
    suspended: RwLock<HashSet<KeyId>>,
    /// All locks: few, and each machine hears them when it comes.
    locks: RwLock<Vec<Envelope>>,
    asking: QueryService,
    /// Machines that may not have got all their orders; perhaps some that have.
    redelivery: Mutex<delivery::redelivery::RedeliveryQueue>,
    in_flight: Arc<delivery::order::InFlight>,
    watchers: delivery::watchers::Watchers,
    /// Links at the enrollment door.
    newcomers: Arc<Semaphore>,
    /// Woken when somebody was admitted or the staff list has changed.
    admitted: tokio::sync::Notify,
    /// Handshakes that failed.
    connects: log_limiter::LogLimiter,
    /// Newcomers that were denied.
    newcomers_denied: log_limiter::LogLimiter,
    /// Times the store has failed.
    store_trouble: log_limiter::LogLimiter,
    /// Frames of newer versions than this hub's.
    newer_frames: log_limiter::LogLimiter,
    /// Machines that have misbehaved of late.
    penalty: Mutex<HashMap<MachineId, doors::agent::Penalised>>,
    /// How often jobs are given by a key, and how often a machine links.
    key_rates: Mutex<doors::key_rates::KeyRates>,
    /// Requests of technicians that were denied.
    requests_denied: log_limiter::LogLimiter,
    /// A lost catalogue is taken back from one machine at a time.
    giving_back: Semaphore,
    /// Lost locks from a few.
    giving_locks: Semaphore,
    metrics: metrics::Metrics,
    events: events::Events,
    /// How long results are kept.
    retention: retention::Retention,
    /// Set when no new job is taken in any more.
    draining: CancellationToken,
    /// Orders under way to machines.
    deliveries: TaskTracker,
    stop: CancellationToken,
    tasks: TaskTracker,
}

/// Ports other than those in `hub.toml`.
#[derive(Debug, Clone, Copy, Default)]
pub struct Ports {
    /// UDP, for all doors.
    pub listen: Option<SocketAddr>,
    /// TCP on this computer alone, for metrics.
    pub metrics: Option<SocketAddr>,
}

/// A hub that listens.
pub struct Hub {
    shared: Arc<Shared>,
    metrics: Option<SocketAddr>,
}

impl Hub {
    /// Opens the folder, the store and the port, and begins to serve.
    ///
    /// # Errors
    /// When any of them cannot be had, or the folder holds a key that must not
    /// be there.
    pub async fn start(home: HubHome, ports: Ports) -> Result<Self, StartError> {
        Self::start_on(Environment::default(), home, ports).await
    }

    /// The same on another ground than this computer.
    ///
    /// # Errors
    /// As [`Hub::start`].
    pub async fn start_on(environment: Environment, home: HubHome, ports: Ports) -> Result<Self, StartError> {
        let keys = home.open().map_err(StartError::Home)?;
        let address = ports.listen.unwrap_or(keys.settings.listen);
        let metrics = match ports.metrics.or(keys.settings.metrics) {
            Some(address) => Some(metrics::scrape::bind(address).await?),
            None => None,
        };
        home.refuse_lost_store().map_err(StartError::Home)?;
        let store = Store::open_on(environment.disk.clone(), &home.store()).await.map_err(|error| match error {
            StoreError::Newer(_) => StartError::NewerStore(error),
            error => StartError::Store(error),
        })?;
        match store.compact(home.free_bytes()).await {
            Ok(false) => {}
            Ok(true) => info!("the store was written anew, without what was free in it"),
            Err(error) => warn!(%error, "the store keeps what is free in it"),
        }
        let published = Published::open(&home, keys.roles).await.map_err(StartError::Catalogue)?;
        if let Some(shop) = published.shop()
            && !store.is_of(shop).await.map_err(StartError::Store)?
        {
            return Err(StartError::Home(home::HomeError::ForeignStore(home.store())));
        }
        let catalogue = published.catalogue();
        if let Some(catalogue) = &catalogue {
            home.refuse_keys_of(catalogue).map_err(StartError::Home)?;
        }
        let in_use = keys.rotating.in_use(catalogue.as_deref().map(|catalogue| &catalogue.hub));
        let in_use = in_use.map_err(StartError::Home)?;
        let tls = in_use.tls(SystemTime::now())?;
        let suspended = store.suspensions().await.map_err(StartError::Store)?.into_iter().collect();
        let locks = store.locks().await.map_err(StartError::Store)?;
        let newest = store.newest_runs().await.map_err(StartError::Store)?;
        let asking = fernwart_store::on_disk(&environment.disk, QueryService::open(home.facts(), newest)).await;
        let asking = asking.map_err(|error| StartError::Store(StoreError::Sql(error.into())))?;
        let redelivery = store.redelivery().await.map_err(StartError::Store)?.into_iter().collect();
        let listener =
            environment.listen(address, tls, &keys.restart).map_err(|source| StartError::Listen { address, source })?;
        let shared = Arc::new(Shared {
            evidence_id: fernwart_certs::identity::key_id(&in_use.evidence.public()),
            evidence: in_use.evidence,
            authority: in_use.authority,
            authorities: in_use.authorities,
            home,
            clock: environment.clock,
            store,
            listener,
            presence: Presence::default(),
            published,
            suspended: RwLock::new(suspended),
            locks: RwLock::new(locks),
            redelivery: Mutex::new(redelivery),
            in_flight: Arc::default(),
            watchers: delivery::watchers::Watchers::default(),
            asking,
            newcomers: Arc::new(Semaphore::new(limits::ENROLL_LINKS)),
            admitted: tokio::sync::Notify::new(),
            connects: log_limiter::LogLimiter::default(),
            newcomers_denied: log_limiter::LogLimiter::default(),
            store_trouble: log_limiter::LogLimiter::default(),
            newer_frames: log_limiter::LogLimiter::default(),
            penalty: Mutex::default(),
            key_rates: Mutex::default(),
            requests_denied: log_limiter::LogLimiter::default(),
            giving_back: Semaphore::new(1),
            giving_locks: Semaphore::new(16),
            metrics: metrics::Metrics::default(),
            events: events::Events::default(),
            retention: keys.settings.retention,
            draining: CancellationToken::new(),
            deliveries: TaskTracker::new(),
            stop: CancellationToken::new(),
            tasks: TaskTracker::new(),
        });
        shared.ring_all().await;
        shared.tasks.spawn(accept(shared.clone()));
        shared.tasks.spawn(query::service::keep_up(shared.clone()));
        shared.tasks.spawn(sweep(shared.clone()));
        shared.tasks.spawn(retention::keep(shared.clone()));
        shared.tasks.spawn(keep_fresh(shared.clone()));
        let mut told_at = None;
        if let Some(listener) = metrics {
            told_at = listener.local_addr().ok();
            shared.tasks.spawn(metrics::scrape::serve(shared.clone(), listener));
        }
        Ok(Self { shared, metrics: told_at })
    }

    /// Where it listens.
    ///
    /// # Errors
    /// When the socket is gone.
    pub fn address(&self) -> std::io::Result<SocketAddr> {
        self.shared.listener.local_addr()
    }

    /// Where it tells its metrics, if it does.
    pub fn metrics(&self) -> Option<SocketAddr> {
        self.metrics
    }

    /// What it has published, if anything.
    pub fn catalogue(&self) -> Option<Arc<Catalogue>> {
        self.shared.published.catalogue()
    }

    /// Waits for an essential part to end by itself, which none should.
    pub async fn failed(&self) {
        self.shared.stop.cancelled().await;
    }

    /// Stops: no newcomers, goodbye to all, work under way finished, store
    /// closed. True if all was done in time.
    pub async fn shutdown(self) -> bool {
        let shared = self.shared;
        shared.listener.stop_accepting();
        shared.draining.cancel();
        // A look ends within seconds and is heard out; what takes longer is told
        // when its machine is back.
        shared.deliveries.close();
        let _ = tokio::time::timeout(GRACE, shared.deliveries.wait()).await;
        // A restart takes a moment; nobody need try before.
        let spread = shared.return_spread().max(RESTART);
        shared.presence.goodbye(u32::try_from(spread.as_millis()).unwrap_or(u32::MAX)).await;
        shared.stop.cancel();
        shared.tasks.close();
        let clean = tokio::time::timeout(GRACE, shared.tasks.wait()).await.is_ok();
        shared.asking.close().await;
        shared.store.close().await;
        let closed = tokio::time::timeout(Duration::from_secs(2), shared.listener.close()).await.is_ok();
        clean && closed
    }
}

impl Shared {
    /// Clock of the hub, Unix milliseconds.
    fn now(&self) -> UnixMs {
        self.clock.now()
    }

    /// Rings at every place a machine was last linked from: those that are
    /// idle would notice a restarted hub late.
    async fn ring_all(&self) {
        let machines = self.store.machines(Standing::Admitted);
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

    /// What whoever asked is told when the store fails. SQLite has many names
    /// for a disk without room, so the disk itself is asked.
    fn denial(&self, error: &StoreError) -> Denial {
        warn!(%error, "the store has failed");
        self.metrics.store_failed();
        let denial = if error.is_full() { Denial::StoreFull } else { self.failed_now() };
        if self.store_trouble.now(self.now()).is_some() {
            self.happened(Happened::StoreFailed(denial));
        }
        denial
    }

    /// Why something could not be kept or read just now, as far as the disk tells.
    fn failed_now(&self) -> Denial {
        if self.home.is_disk_full() { Denial::StoreFull } else { Denial::StoreFailed }
    }

    /// Room where the store lies, bytes; plenty where the system does not say.
    fn free_bytes(&self) -> u64 {
        self.home.free_bytes()
    }

    /// Over how long machines should come back that all lose this hub at once.
    fn return_spread(&self) -> Duration {
        let machines = self.store.known() as u64;
        Duration::from_millis(machines * 1000 / limits::ARRIVALS_PER_SECOND).min(limits::RETURN_SPREAD)
    }

    /// Tells those who follow what is published now.
    fn tell_published(&self) {
        if let Some(catalogue) = self.published.catalogue() {
            let versions = catalogue.versions;
            self.happened(Happened::Published { targets: versions.targets, timestamp: versions.timestamp });
        }
    }

    fn locks(&self) -> Vec<Envelope> {
        self.locks.read().unwrap_or_else(|poisoned| poisoned.into_inner()).clone()
    }

    /// Keeps a lock that is believed, and tells every machine of it.
    async fn lock(&self, envelope: &Envelope) -> Result<(), StoreError> {
        let id = fernwart_certs::sha256(envelope.bytes.as_bytes());
        self.store.write(fernwart_store::KeepLock { id, envelope: envelope.clone() }).await?;
        {
            let mut locks = self.locks.write().unwrap_or_else(|poisoned| poisoned.into_inner());
            if !locks.contains(envelope) {
                locks.push(envelope.clone());
            }
        }
        self.happened(Happened::Locked);
        self.presence.lock(envelope).await;
        Ok(())
    }

    fn redelivery(&self) -> MutexGuard<'_, delivery::redelivery::RedeliveryQueue> {
        self.redelivery.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn penalty(&self) -> MutexGuard<'_, HashMap<MachineId, doors::agent::Penalised>> {
        self.penalty.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// A machine has sent what only a newer hub would know.
    fn passed_over(&self, machine: &MachineId) {
        self.metrics.frame_passed_over();
        if let Some(passed_over) = self.newer_frames.now(self.now()) {
            warn!(%machine, passed_over, "a machine speaks a newer version than this hub: update the hub");
        }
    }

    fn key_rates(&self) -> MutexGuard<'_, doors::key_rates::KeyRates> {
        self.key_rates.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Cuts a staff key off.
    async fn cut_off(&self, key: KeyId) -> Result<(), StoreError> {
        self.store.write(fernwart_store::Suspend { key, at: self.now() }).await?;
        self.suspended.write().unwrap_or_else(|poisoned| poisoned.into_inner()).insert(key);
        self.presence.cut_staff(|known| *known == key);
        Ok(())
    }

    /// Lets a staff key in again that was cut off.
    async fn let_in(&self, key: KeyId) -> Result<(), StoreError> {
        self.store.write(fernwart_store::Resume(key)).await?;
        self.suspended.write().unwrap_or_else(|poisoned| poisoned.into_inner()).remove(&key);
        Ok(())
    }

    /// The staff keys that are cut off.
    fn suspended(&self) -> Vec<KeyId> {
        self.suspended.read().unwrap_or_else(|poisoned| poisoned.into_inner()).iter().copied().collect()
    }

    fn is_suspended(&self, key: &KeyId) -> bool {
        self.suspended.read().unwrap_or_else(|poisoned| poisoned.into_inner()).contains(key)
    }
}

async fn accept(shared: Arc<Shared>) {
    loop {
        tokio::select! {
            biased;
            () = shared.stop.cancelled() => return,
            incoming = shared.listener.accept() => match incoming {
                Some(incoming) => {
                    shared.tasks.spawn(welcome(shared.clone(), incoming));
                }
                None => {
                    if !shared.stop.is_cancelled() {
                        error!("the port has closed by itself");
                        shared.stop.cancel();
                    }
                    return;
                }
            }
        }
    }
}

/// From a handshake to the right door.
async fn welcome(shared: Arc<Shared>, incoming: Incoming) {
    let link = match incoming.finish().await {
        Ok(link) => link,
        Err(reason) => {
            shared.metrics.handshake_failed(&reason);
            if let Some(passed_over) = shared.connects.now(shared.now()) {
                info!(%reason, passed_over, "a handshake failed");
            }
            return;
        }
    };
    let (door, seen) = (link.door(), link.clone());
    shared.metrics.link_came(door);
    enter(&shared, link).await;
    // Whoever was served until the hub stops is parted with at the port.
    let end = seen.end().unwrap_or(LinkError::ClosedHere(Goodbye::Done));
    shared.metrics.link_ended(door, &end);
}

async fn enter(shared: &Arc<Shared>, link: Link) {
    let peer = identify(link.door(), &link.peer_certificates(), &shared.authorities, shared.now());
    match peer {
        Ok(Peer::Newcomer) => doors::enroll::serve(shared, link).await,
        Ok(Peer::Machine { id, tls_key, until }) => doors::agent::serve(shared, link, id, tls_key, until).await,
        Ok(Peer::Staff { key, tls_key, .. }) => doors::staff::serve(shared, link, key, tls_key).await,
        Err(reason) => turn_away(&link, reason),
    }
}

fn turn_away(link: &Link, reason: NotAdmitted) {
    info!(address = %link.remote_address(), %reason, door = ?link.door(), "turned away");
    link.close(match reason {
        NotAdmitted::Expired => Goodbye::CertificateExpired,
        NotAdmitted::NoCertificate | NotAdmitted::Foreign | NotAdmitted::WrongDoor => Goodbye::NotAdmitted,
    });
}

/// Cuts links whose certificate has run out; ends runs whose time has passed; gives free
/// memory back.
async fn sweep(shared: Arc<Shared>) {
    let mut tick = tokio::time::interval(SWEEP);
    let mut memory = memory::Keeper::new();
    loop {
        tokio::select! {
            biased;
            () = shared.stop.cancelled() => return,
            _ = tick.tick() => {
                shared.presence.cut_expired(shared.now());
                let over = Expire { before: shared.now() - LATE_MS };
                if let Err(error) = shared.store.write(over).await {
                    warn!(%error, "runs whose time has passed could not be ended");
                }
                memory.tidy(SWEEP).await;
            }
        }
    }
}

/// Tells all who follow of a new timestamp, if there is one.
async fn tell_fresh(shared: &Shared, fresh: Result<Option<u64>, catalogue::PublishedError>) {
    match fresh {
        Ok(Some(timestamp)) => {
            info!(timestamp, "a new timestamp is published");
            shared.tell_published();
            shared.presence.catalogue_changed(timestamp).await;
        }
        Ok(None) => {}
        Err(error) => warn!(reason = fernwart_protocol::text::chain(&error), "no new timestamp"),
    }
}

/// Makes a new timestamp well before the old one ends.
async fn keep_fresh(shared: Arc<Shared>) {
    let mut restored = shared.home.was_restored();
    let mut tick = tokio::time::interval(Duration::from_secs(3600));
    loop {
        tokio::select! {
            biased;
            () = shared.stop.cancelled() => return,
            _ = tick.tick() => {
                let fresh = match restored {
                    true => shared.published.freshen_restored(shared.now()).await,
                    false => shared.published.freshen_if_due(shared.now()).await,
                };
                restored &= fresh.is_err();
                tell_fresh(&shared, fresh).await;
            }
        }
    }
}
