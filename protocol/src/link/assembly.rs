//! Memory for frames that have not come whole: so much a link, and so much a key,
//! however many streams are open and whatever lengths they announce.
//!
//! A frame waits for its turn before a byte of it is read; what it sends meanwhile
//! stays within its stream's window, by which the link's window is widened for as long:
//! else those that wait would leave nothing to the one they wait for. One that stands
//! still is closed ([`crate::limits::STALL_TIMEOUT`]), so that nobody waits for it for ever.

use super::transport::Transport;
use crate::limits::{KEY_FRAMES_BYTES, KEY_WAITING_STREAMS, LINK_FRAMES_BYTES};
use std::sync::{Arc, Mutex, OnceLock};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// What one key's links may have in the making together, bytes.
#[derive(Debug, Clone)]
pub struct KeyFrames {
    frames: Arc<Semaphore>,
    /// Streams that wait and whose links are wider for it. Not of the same bytes: frames
    /// would wait for those that wait for them.
    waiting: Arc<Semaphore>,
}

impl Default for KeyFrames {
    fn default() -> Self {
        let semaphore = |most| Arc::new(Semaphore::new(most));
        Self { frames: semaphore(KEY_FRAMES_BYTES), waiting: semaphore(KEY_WAITING_STREAMS) }
    }
}

/// What one link may have in the making, and its key with it.
#[derive(Debug)]
pub(super) struct Assembly {
    transport: Transport,
    link: Arc<Semaphore>,
    key: OnceLock<KeyFrames>,
    /// Streams by whose windows the link's is wider now.
    waiting: Mutex<u32>,
}

/// Room for one frame, until it has come.
#[derive(Debug)]
pub(super) struct Room {
    _link: OwnedSemaphorePermit,
    _key: Option<OwnedSemaphorePermit>,
}

/// A link's window is wider by a stream's until this is dropped.
struct Wider<'a> {
    assembly: &'a Assembly,
    _key: Option<OwnedSemaphorePermit>,
}

impl Drop for Wider<'_> {
    fn drop(&mut self) {
        self.assembly.widen(|waiting| waiting.saturating_sub(1));
    }
}

impl Assembly {
    pub(super) fn new(transport: Transport) -> Self {
        let link = Arc::new(Semaphore::new(LINK_FRAMES_BYTES));
        Self { transport, link, key: OnceLock::new(), waiting: Mutex::default() }
    }

    /// Counts this link's frames against a key's, too.
    pub(super) fn share(&self, key: KeyFrames) {
        // A link has one key.
        let _ = self.key.set(key);
    }

    /// Waits for room for a frame of this length; nothing where there can be none.
    pub(super) async fn room(&self, bytes: usize) -> Option<Room> {
        let bytes = u32::try_from(bytes).ok()?;
        let at_once = self.link.clone().try_acquire_many_owned(bytes);
        let _wider = if at_once.is_err() { self.wait() } else { None };
        let link = match at_once {
            Ok(permit) => permit,
            Err(_) => self.link.clone().acquire_many_owned(bytes).await.ok()?,
        };
        let key = match self.key.get() {
            Some(key) => Some(key.frames.clone().acquire_many_owned(bytes).await.ok()?),
            None => None,
        };
        Some(Room { _link: link, _key: key })
    }

    /// Widens the link's window for one that waits, as far as its key has room for that.
    fn wait(&self) -> Option<Wider<'_>> {
        let key = match self.key.get() {
            Some(key) => Some(key.waiting.clone().try_acquire_owned().ok()?),
            None => None,
        };
        self.widen(|waiting| waiting + 1);
        Some(Wider { assembly: self, _key: key })
    }

    fn widen(&self, change: impl Fn(u32) -> u32) {
        let mut waiting = self.waiting.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        *waiting = change(*waiting);
        self.transport.widen_by_streams(*waiting);
    }
}
