//! Tracks which machines and technicians are linked now.
//!
//! Kept in memory only. The newest link of a machine counts; an older one is closed as replaced.

use fernwart_protocol::code::Goodbye;
use fernwart_protocol::document::{Envelope, UnixMs};
use fernwart_protocol::id::{KeyId, MachineId};
use fernwart_protocol::limits::STAFF_LINKS;
use fernwart_protocol::link::{FrameError, KeyFrames, Link, Sender};
use fernwart_protocol::to_agent::Control;
use std::collections::BTreeMap;
use std::sync::{Arc, RwLock};
use std::time::Duration;
use tokio::sync::Mutex;
use tokio::task::JoinSet;
use tracing::debug;

/// Timeout for sending one control message.
const SAY_WAIT: Duration = Duration::from_secs(2);

/// Timeout for a machine to end its link after it got its retirement, so that its work can finish.
pub(crate) const RETIREMENT_TIMEOUT: Duration = Duration::from_secs(4);

/// A linked machine. Several tasks share its control stream and send one message after another;
/// each message is a few hundred bytes.
#[derive(Debug, Clone)]
pub(crate) struct Linked {
    pub(crate) link: Link,
    control: Arc<Mutex<Sender>>,
    until: UnixMs,
}

impl Linked {
    pub(crate) fn new(link: Link, control: Sender, until: UnixMs) -> Self {
        Self { link, control: Arc::new(Mutex::new(control)), until }
    }

    /// Sends one control message. A machine that does not accept it in time loses its link; it gets
    /// what matters when it links again.
    pub(crate) async fn say(&self, word: &Control) {
        let stated = async { self.control.lock().await.send(word).await };
        match tokio::time::timeout(SAY_WAIT, stated).await {
            Ok(Ok(())) => {}
            // An older program works without messages that it does not know.
            Ok(Err(error @ FrameError::PeerIsOlder(_))) => debug!(%error, "a control message is too new for a machine"),
            Ok(Err(_)) | Err(_) => self.link.close(Goodbye::Overloaded),
        }
    }
}

/// All linked peers.
#[derive(Debug, Default)]
pub(crate) struct Presence {
    machines: RwLock<BTreeMap<MachineId, Linked>>,
    /// With the memory that all links of a key share for incomplete frames.
    staff: RwLock<Vec<(KeyId, Link, KeyFrames)>>,
}

fn read<T>(lock: &RwLock<T>) -> std::sync::RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(|poisoned| poisoned.into_inner())
}

fn write<T>(lock: &RwLock<T>) -> std::sync::RwLockWriteGuard<'_, T> {
    lock.write().unwrap_or_else(|poisoned| poisoned.into_inner())
}

impl Presence {
    /// Registers a machine's link. Returns its older link if that is still open; the caller closes
    /// it.
    pub(crate) fn machine_came(&self, id: MachineId, linked: Linked) -> Option<Link> {
        let older = write(&self.machines).insert(id, linked);
        older.map(|older| older.link).filter(|link| !link.is_closed())
    }

    /// Removes a machine's ended link. Returns whether it was the current one.
    pub(crate) fn machine_left(&self, id: &MachineId, link: &Link) -> bool {
        let mut machines = write(&self.machines);
        let counts = machines.get(id).is_some_and(|linked| linked.link.id() == link.id());
        if counts {
            machines.remove(id);
        }
        counts
    }

    pub(crate) fn machine(&self, id: &MachineId) -> Option<Linked> {
        read(&self.machines).get(id).filter(|linked| !linked.link.is_closed()).cloned()
    }

    pub(crate) fn machines_online(&self) -> usize {
        read(&self.machines).len()
    }

    pub(crate) fn part_with(&self, id: &MachineId, why: Goodbye) {
        if let Some(linked) = write(&self.machines).remove(id) {
            linked.link.close(why);
        }
    }

    /// Registers a technician's link. Returns the frame memory that all links of the key share, or
    /// `None` if there are too many links.
    pub(crate) fn staff_came(&self, key: KeyId, link: &Link) -> Option<KeyFrames> {
        let mut staff = write(&self.staff);
        staff.retain(|(_, link, _)| !link.is_closed());
        let mut own = staff.iter().filter(|(other, ..)| *other == key);
        let frames = own.next().map(|(.., frames)| frames.clone()).unwrap_or_default();
        if own.count() + 1 >= STAFF_LINKS {
            return None;
        }
        staff.push((key, link.clone(), frames.clone()));
        Some(frames)
    }

    /// Cuts all links of the matching staff keys.
    pub(crate) fn cut_staff(&self, keys: impl Fn(&KeyId) -> bool) {
        for (_, link, _) in read(&self.staff).iter().filter(|(key, ..)| keys(key)) {
            link.close(Goodbye::Revoked);
        }
    }

    pub(crate) fn cut_expired(&self, now: UnixMs) {
        let expired: Vec<_> = {
            let machines = read(&self.machines);
            machines.values().filter(|linked| linked.until < now).map(|linked| linked.link.clone()).collect()
        };
        for link in expired {
            link.close(Goodbye::CertificateExpired);
        }
    }

    fn all(&self) -> Vec<Linked> {
        read(&self.machines).values().cloned().collect()
    }

    /// Sends a message to all machines concurrently, so that none delays another.
    async fn say_to_all(&self, word: &Control) {
        let mut words = JoinSet::new();
        for linked in self.all() {
            let word = word.clone();
            words.spawn(async move { linked.say(&word).await });
        }
        while words.join_next().await.is_some() {}
    }

    pub(crate) async fn catalogue_changed(&self, timestamp: u64) {
        self.say_to_all(&Control::CatalogueChanged { timestamp }).await;
    }

    pub(crate) async fn lock(&self, envelope: &Envelope) {
        self.say_to_all(&Control::Lock(envelope.clone())).await;
    }

    /// Says goodbye to all machines, as the last message of each control stream.
    pub(crate) async fn goodbye(&self, retry_after_ms: u32) {
        self.say_to_all(&Control::Goodbye { retry_after_ms }).await;
        for linked in self.all() {
            // A stream that is dropped unfinished is reset, and a goodbye still on its way is lost.
            if let Ok(mut control) = linked.control.try_lock() {
                control.finish();
            }
        }
    }
}
