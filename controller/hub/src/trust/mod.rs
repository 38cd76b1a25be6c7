//! What the hub trusts: the published catalogue, locks, and suspended staff keys.
//!
//! The catalogue and the locks are signed by the approvers; the hub publishes them, keeps
//! the timestamp fresh, and takes back from machines what it has lost.

pub(crate) mod caller;
pub(crate) mod give_back;
pub(crate) mod published;

use crate::presence::Presence;
use crate::records::Records;
use fernwart_certs::approve::{Draft, PublishError};
use fernwart_certs::envelope::EnvelopeError;
use fernwart_protocol::code::Denial;
use fernwart_protocol::document::{Envelope, Versions};
use fernwart_protocol::event::Happened;
use fernwart_protocol::id::KeyId;
use fernwart_protocol::text::{Blob, Text};
use fernwart_protocol::to_agent::CatalogueFile;
use fernwart_protocol::version::{Hello, tag};
use fernwart_store::{Draft as DraftWrite, StoreError};
use published::{Published, PublishedError};
use std::collections::HashSet;
use std::sync::{Arc, RwLock};
use std::time::Duration;
use tokio::sync::{Notify, Semaphore};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// Maximum number of machines that give back locks concurrently.
const GIVING_LOCKS: usize = 16;

/// Documents signed by others that are in force here.
pub(crate) struct Trust {
    records: Arc<Records>,
    presence: Arc<Presence>,
    pub(crate) published: Published,
    /// Staff keys suspended at this hub: few, read at each request.
    suspended: RwLock<HashSet<KeyId>>,
    /// All locks: few, and each machine gets them when it links.
    locks: RwLock<Vec<Envelope>>,
    /// Woken when somebody was admitted or the staff list has changed.
    pub(crate) admitted: Notify,
    /// Lets one machine at a time give back a lost catalogue.
    giving_back: Semaphore,
    giving_locks: Semaphore,
}

/// Why a document that cannot be read is denied.
pub(crate) fn denial_of(error: &EnvelopeError) -> Denial {
    if error.is_newer() { Denial::NewerDocument } else { Denial::NotUnderstood }
}

impl Trust {
    pub(crate) fn new(
        (records, presence): (Arc<Records>, Arc<Presence>),
        published: Published,
        suspended: HashSet<KeyId>,
        locks: Vec<Envelope>,
    ) -> Self {
        Self {
            records,
            presence,
            published,
            suspended: RwLock::new(suspended),
            locks: RwLock::new(locks),
            admitted: Notify::new(),
            giving_back: Semaphore::new(1),
            giving_locks: Semaphore::new(GIVING_LOCKS),
        }
    }

    /// The hub's hello, with its clock and what it has published.
    pub(crate) fn hello(&self) -> Hello {
        let mut numbers = vec![(tag::CLOCK, u64::try_from(self.records.now()).unwrap_or_default())];
        if let Some(catalogue) = self.published.catalogue() {
            numbers.push((tag::TARGETS, catalogue.versions.targets));
            numbers.push((tag::TIMESTAMP, catalogue.versions.timestamp));
        }
        Hello::new(&numbers)
    }

    /// The catalogue files that a peer with these versions lacks.
    pub(crate) fn lacking(&self, known: &Versions) -> Result<Vec<CatalogueFile>, Denial> {
        match self.published.newer_than(known) {
            Ok(Some(files)) => Ok(files
                .iter()
                .filter_map(|(name, bytes)| {
                    Some(CatalogueFile { name: Text::clipped(name), bytes: Blob::try_from(bytes.clone()).ok()? })
                })
                .collect()),
            Ok(None) => Err(Denial::NoCatalogue),
            Err(error) => {
                warn!(%error, "the catalogue cannot be read");
                Err(Denial::StoreFailed)
            }
        }
    }

    /// Publishes an event with the published versions.
    fn announce_published(&self) {
        if let Some(catalogue) = self.published.catalogue() {
            let versions = catalogue.versions;
            self.records.happened(Happened::Published { targets: versions.targets, timestamp: versions.timestamp });
        }
    }

    /// Announces a new timestamp, if there is one, to technicians and machines.
    pub(crate) async fn announce_fresh(&self, fresh: Result<Option<u64>, PublishedError>) {
        match fresh {
            Ok(Some(timestamp)) => {
                info!(timestamp, "a new timestamp is published");
                self.announce_published();
                self.presence.catalogue_changed(timestamp).await;
            }
            Ok(None) => {}
            Err(error) => warn!(reason = fernwart_protocol::text::chain(&error), "the timestamp could not be renewed"),
        }
    }

    /// Publishes a draft and announces it.
    pub(crate) async fn put_in_force(&self, draft: &Draft) -> Result<(), Denial> {
        let timestamp = self.published.publish(draft, self.records.now()).await.map_err(|error| {
            warn!(%error, "a draft was not published");
            match error {
                PublishedError::Publish(PublishError::Unsigned { .. }) => Denial::CatalogueUnsigned,
                PublishedError::Publish(PublishError::Stale { .. }) => Denial::CatalogueStale,
                PublishedError::Publish(_) | PublishedError::Catalogue(_) => Denial::CatalogueRefused,
                PublishedError::Io(_) => Denial::StoreFull,
                PublishedError::File(_) => Denial::StoreFailed,
            }
        })?;
        info!(timestamp, "a new catalogue is published");
        self.announce_published();
        let Some(catalogue) = self.published.catalogue() else { return Err(Denial::NoCatalogue) };
        self.drop_overtaken(catalogue.versions.targets).await;
        self.presence.cut_staff(|key| catalogue.staff.find(key).is_none());
        self.admitted.notify_waiters();
        self.presence.catalogue_changed(timestamp).await;
        Ok(())
    }

    /// Deletes drafts that no longer follow the published catalogue.
    async fn drop_overtaken(&self, published: u64) {
        let drafts = match self.records.store.drafts().await {
            Ok(drafts) => drafts,
            Err(error) => return warn!(%error, "drafts cannot be read"),
        };
        let overtaken = |bytes: &[u8]| {
            serde_json::from_slice::<Draft>(bytes).is_ok_and(|draft| draft.targets.signed.version.get() <= published)
        };
        for (id, _) in drafts.iter().filter(|(_, bytes)| overtaken(bytes)) {
            if let Err(error) =
                self.records.store.write(DraftWrite { id: *id, bytes: None, at: self.records.now() }).await
            {
                warn!(draft = %id, %error, "an outdated draft could not be deleted");
            }
        }
    }

    pub(crate) fn locks(&self) -> Vec<Envelope> {
        self.locks.read().unwrap_or_else(|poisoned| poisoned.into_inner()).clone()
    }

    /// Stores a verified lock and sends it to every linked machine.
    pub(crate) async fn lock(&self, envelope: &Envelope) -> Result<(), StoreError> {
        let id = fernwart_certs::sha256(envelope.bytes.as_bytes());
        self.records.store.write(fernwart_store::KeepLock { id, envelope: envelope.clone() }).await?;
        {
            let mut locks = self.locks.write().unwrap_or_else(|poisoned| poisoned.into_inner());
            if !locks.contains(envelope) {
                locks.push(envelope.clone());
            }
        }
        self.records.happened(Happened::Locked);
        self.presence.lock(envelope).await;
        Ok(())
    }

    /// Suspends a staff key.
    pub(crate) async fn cut_off(&self, key: KeyId) -> Result<(), StoreError> {
        self.records.store.write(fernwart_store::Suspend { key, at: self.records.now() }).await?;
        self.suspended.write().unwrap_or_else(|poisoned| poisoned.into_inner()).insert(key);
        self.presence.cut_staff(|known| *known == key);
        Ok(())
    }

    /// Resumes a suspended staff key.
    pub(crate) async fn let_in(&self, key: KeyId) -> Result<(), StoreError> {
        self.records.store.write(fernwart_store::Resume(key)).await?;
        self.suspended.write().unwrap_or_else(|poisoned| poisoned.into_inner()).remove(&key);
        Ok(())
    }

    /// The suspended staff keys.
    pub(crate) fn suspended(&self) -> Vec<KeyId> {
        self.suspended.read().unwrap_or_else(|poisoned| poisoned.into_inner()).iter().copied().collect()
    }

    pub(crate) fn is_suspended(&self, key: &KeyId) -> bool {
        self.suspended.read().unwrap_or_else(|poisoned| poisoned.into_inner()).contains(key)
    }
}

/// Renews the timestamp well before it expires.
pub(crate) async fn keep_fresh(trust: Arc<Trust>, stop: CancellationToken) {
    let mut restored = trust.records.home.was_restored();
    let mut tick = tokio::time::interval(Duration::from_secs(3600));
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            _ = tick.tick() => {
                let fresh = match restored {
                    true => trust.published.freshen_restored(trust.records.now()).await,
                    false => trust.published.freshen_if_due(trust.records.now()).await,
                };
                restored &= fresh.is_err();
                trust.announce_fresh(fresh).await;
            }
        }
    }
}
