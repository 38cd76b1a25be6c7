//! Memory for frames that have not come whole: so much a link, and so much a key,
//! however many streams are open and whatever lengths they announce.
//!
//! A frame waits for its turn before a byte of it is read; what it sends meanwhile
//! stays within the link's window. One that stands still is closed
//! ([`crate::limits::STALL_TIMEOUT`]), so that nobody waits for it for ever.

use crate::limits::{KEY_FRAMES_BYTES, LINK_FRAMES_BYTES};
use std::sync::{Arc, OnceLock};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// What one key's links may have in the making together, bytes.
#[derive(Debug, Clone)]
pub struct KeyFrames(Arc<Semaphore>);

impl Default for KeyFrames {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(KEY_FRAMES_BYTES)))
    }
}

/// What one link may have in the making, and its key with it.
#[derive(Debug)]
pub(super) struct Assembly {
    link: Arc<Semaphore>,
    key: OnceLock<KeyFrames>,
}

impl Default for Assembly {
    fn default() -> Self {
        Self { link: Arc::new(Semaphore::new(LINK_FRAMES_BYTES)), key: OnceLock::new() }
    }
}

/// Room for one frame, until it has come.
#[derive(Debug)]
pub(super) struct Room {
    _link: OwnedSemaphorePermit,
    _key: Option<OwnedSemaphorePermit>,
}

impl Assembly {
    /// Counts this link's frames against a key's, too.
    pub(super) fn share(&self, key: KeyFrames) {
        // A link has one key.
        let _ = self.key.set(key);
    }

    /// Waits for room for a frame of this length; nothing where there can be none.
    pub(super) async fn room(&self, bytes: usize) -> Option<Room> {
        let bytes = u32::try_from(bytes).ok()?;
        let link = self.link.clone().acquire_many_owned(bytes).await.ok()?;
        let key = match self.key.get() {
            Some(key) => Some(key.0.clone().acquire_many_owned(bytes).await.ok()?),
            None => None,
        };
        Some(Room { _link: link, _key: key })
    }
}
