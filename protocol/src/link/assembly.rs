//! Memory limits for incomplete frames, one per link and one per staff key. They hold for any
//! number of open streams and any announced lengths.
//!
//! A frame waits for room before its body is read. What the peer sends while it waits stays in its
//! stream's receive window. The link's window is widened by that amount for as long: otherwise the
//! waiting streams could use it up, and nothing would be left for the frame they wait for. A
//! stalled frame closes its link ([`crate::limits::STALL_TIMEOUT`]), so that no other waits for it
//! for ever.

use super::transport::Transport;
use crate::limits::{KEY_FRAMES_BYTES, KEY_WAITING_STREAMS, LINK_FRAMES_BYTES};
use std::sync::{Arc, Mutex, OnceLock};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Memory for the incomplete frames of all links of one staff key.
#[derive(Debug, Clone)]
pub struct KeyFrames {
    frames: Arc<Semaphore>,
    /// Waiting streams for which a link is widened. This is a separate budget: with a shared one,
    /// frames could wait for streams that wait for them.
    waiting: Arc<Semaphore>,
}

impl Default for KeyFrames {
    fn default() -> Self {
        let semaphore = |most| Arc::new(Semaphore::new(most));
        Self { frames: semaphore(KEY_FRAMES_BYTES), waiting: semaphore(KEY_WAITING_STREAMS) }
    }
}

/// Memory for the incomplete frames of one link, and its key's.
#[derive(Debug)]
pub(super) struct Assembly {
    transport: Transport,
    link: Arc<Semaphore>,
    key: OnceLock<KeyFrames>,
    /// How many waiting streams the link's window is widened for now.
    waiting: Mutex<u32>,
}

/// Room for one frame, held until it is complete.
#[derive(Debug)]
pub(super) struct Room {
    _link: OwnedSemaphorePermit,
    _key: Option<OwnedSemaphorePermit>,
}

/// The link's window is widened by one stream's window until this is dropped.
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

    /// Counts this link's frames against a key's limit, too.
    pub(super) fn share(&self, key: KeyFrames) {
        // Each link has exactly one key, so a second call changes nothing.
        let _ = self.key.set(key);
    }

    /// Waits for room for a frame of this length; `None` if there can never be any.
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

    /// Widens the link's window for a waiting stream, if its key's budget allows.
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
