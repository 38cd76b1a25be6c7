//! Recovers a lost catalogue and lost locks from machines that keep them.
//!
//! A hub that was restored from a backup may have an older catalogue than its machines, which then
//! reject everything it publishes. The catalogue that they follow was signed by the approvers and
//! published by this hub, so any machine can return it.

use super::Trust;
use fernwart_certs::approve::{Draft, LEFT_OUT};
use fernwart_protocol::code::Denial;
use fernwart_protocol::document::{Envelope, Locked, Versions};
use fernwart_protocol::id::MachineId;
use fernwart_protocol::limits::OFFER_FILES;
use fernwart_protocol::link::{FrameError, Link};
use fernwart_protocol::to_agent::Deliver;
use fernwart_protocol::to_hub::GivenBack;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tracing::{debug, warn};

/// Timeout for a machine to give its catalogue back.
const ANSWERS: Duration = Duration::from_secs(30);

/// Maximum number of locks that one machine may give back.
const LOCKS: usize = 1024;

/// Why what a machine gives back is rejected.
#[derive(Debug, thiserror::Error)]
enum GiveBackError {
    #[error("it cannot be asked for it, or does not answer")]
    Link(#[source] FrameError),
    #[error("it does not answer in time")]
    Silent,
    #[error("it names more than a catalogue and its locks have")]
    Files,
    #[error("what it holds is no newer than what is published here")]
    Nothing,
    #[error("what it holds is no whole catalogue")]
    Catalogue(#[source] fernwart_certs::catalogue::CatalogueError),
    #[error("what it holds is not what this hub has published: {}", .0.code())]
    Refused(Denial),
}

/// What a machine returns.
#[derive(Default)]
struct Held {
    files: BTreeMap<String, Vec<u8>>,
    locks: Vec<Envelope>,
}

/// Recovers catalogue and locks from a machine that follows a newer catalogue than the published
/// one, or from any machine if this hub was restored recently. Machines with a newer catalogue are
/// asked one at a time: nearly always the first one suffices.
pub(crate) async fn take_back(trust: Arc<Trust>, link: Link, id: MachineId, knows: Knows) {
    let is_asked_first = knows.is_newer_than(&trust.published.versions());
    // A machine with a newer catalogue must not queue behind those that have only locks.
    let line = if is_asked_first { &trust.giving_back } else { &trust.giving_locks };
    let Ok(_place) = line.acquire().await else { return };
    let ours = trust.published.versions();
    let has_newer = knows.is_newer_than(&ours);
    if link.is_closed() || !(has_newer || trust.records.home.was_restored()) {
        return;
    }
    if has_newer {
        warn!(machine = %id, it_follows = knows.targets, published = ours.targets,
            "this machine follows a newer catalogue than this hub has: the hub was restored from a backup");
    }
    let held = match tokio::time::timeout(ANSWERS, fetch(&link, ours)).await.unwrap_or(Err(GiveBackError::Silent)) {
        Ok(held) => held,
        // An older agent does not support the request.
        Err(error) if !has_newer => return debug!(machine = %id, %error, "locks are not given back"),
        Err(error) => return not_given(&trust, &id, knows, &error),
    };
    // Take the locks first: they can only remove access.
    let mut unread = Vec::new();
    for lock in held.locks {
        unread.extend(take_lock(&trust, &id, lock).await);
    }
    if has_newer {
        match put_back(&trust, &held.files).await {
            Ok(targets) => warn!(machine = %id, targets, "a catalogue that this hub had lost is recovered"),
            // A technician may have published it meanwhile.
            Err(_) if knows.targets > ours.targets && newest(&trust) >= knows.targets => {}
            Err(error) => not_given(&trust, &id, knows, &error),
        }
        // The recovered catalogue may name the locks' signers.
        for lock in unread {
            take_lock(&trust, &id, lock).await;
        }
    }
}

fn not_given(trust: &Trust, id: &MachineId, knows: Knows, error: &GiveBackError) {
    let reason = fernwart_protocol::text::chain(error);
    warn!(machine = %id, reason, "a catalogue that this hub has lost cannot be recovered from this machine; fernwart doctor shows what to do");
    // Do not report a version so far ahead that no publication could exceed it.
    let ours = newest(trust);
    if knows.targets > ours && knows.targets - ours <= LEFT_OUT {
        trust.published.note_newer(knows.targets, *id);
    }
}

/// The catalogue versions that a machine states in its hello.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Knows {
    pub(crate) targets: u64,
    pub(crate) timestamp: u64,
}

impl Knows {
    pub(crate) fn is_newer_than(self, ours: &Versions) -> bool {
        self.targets > ours.targets || self.timestamp > ours.timestamp
    }
}

/// Stores a lock that a machine returns, if a signer in the catalogue has signed it, and suspends
/// the staff keys that it names. Returns the lock if its signer is unknown.
async fn take_lock(trust: &Arc<Trust>, machine: &MachineId, envelope: Envelope) -> Option<Envelope> {
    let catalogue = trust.published.catalogue()?;
    if trust.locks().contains(&envelope) {
        return None;
    }
    let Ok(lock) = fernwart_certs::lock::believe(&envelope, &catalogue) else {
        debug!(%machine, "a machine returned a lock whose signer is not in the catalogue");
        return Some(envelope);
    };
    if let Err(error) = trust.lock(&envelope).await {
        warn!(%error, "a lock could not be stored");
        return None;
    }
    warn!(%machine, reason = %lock.reason, "a lock that this hub has lost is given back");
    if let Locked::Keys(keys) = &lock.locked {
        for key in keys.as_slice() {
            if let Err(error) = trust.cut_off(*key).await {
                warn!(%key, %error, "a staff key could not be suspended");
            }
        }
    }
    None
}

fn newest(trust: &Trust) -> u64 {
    trust.published.versions().targets
}

/// Publishes what was given back. Returns the version of the recovered targets.
async fn put_back(trust: &Arc<Trust>, files: &BTreeMap<String, Vec<u8>>) -> Result<u64, GiveBackError> {
    let draft = Draft::given_back(files, trust.published.versions().root).map_err(GiveBackError::Catalogue)?;
    let targets = draft.targets.signed.version.get();
    let is_newer = targets > newest(trust);
    if is_newer {
        let draft = trust.published.acceptable(draft).map_err(GiveBackError::Refused)?;
        trust.put_in_force(&draft).await.map_err(GiveBackError::Refused)?;
    }
    // If the clock was ahead then, a timestamp made now would look older than the lost one.
    let lost = trust.published.signed_before(files);
    let fresh = trust.published.freshen_above(lost, trust.records.now()).await;
    let is_fresh = matches!(fresh, Ok(Some(_)));
    trust.announce_fresh(fresh).await;
    if is_newer || is_fresh { Ok(targets) } else { Err(GiveBackError::Nothing) }
}

async fn fetch(link: &Link, ours: Versions) -> Result<Held, GiveBackError> {
    let (mut send, mut receive) = link.open().await.map_err(|_| GiveBackError::Silent)?;
    send.send(&Deliver::GiveBack(ours)).await.map_err(GiveBackError::Link)?;
    send.finish();
    let mut held = Held::default();
    while let Some(one) = receive.next::<GivenBack>().await.map_err(GiveBackError::Link)? {
        match one {
            GivenBack::File(file) if held.files.len() < OFFER_FILES => {
                held.files.insert(file.name.as_raw().to_owned(), file.bytes.into_bytes());
            }
            GivenBack::Lock(lock) if held.locks.len() < LOCKS => held.locks.push(lock),
            GivenBack::File(_) | GivenBack::Lock(_) => return Err(GiveBackError::Files),
        }
    }
    Ok(held)
}
