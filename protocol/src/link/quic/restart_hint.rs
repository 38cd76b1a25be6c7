//! The restart hint: how a hub that has restarted wakes its idle peers.
//!
//! An idle agent speaks only every 20 s, so it would notice a restarted hub late. The new
//! hub sends one small datagram from its port to the addresses it remembers. Who receives it
//! sends something on its link, at most every two seconds, and a hub that does not know the
//! link answers with QUIC's stateless reset (RFC 9000, section 10.3). The hint carries no
//! authority at all: a forged one costs one packet.

use super::inspected::{Inspect, Inspected};
use quinn::AsyncUdpSocket;
use quinn::udp::RecvMeta;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;

/// The datagram's content. Its first byte has QUIC's fixed bit clear, so that a QUIC endpoint drops
/// it.
pub(super) const RESTART_HINT: &[u8; 16] = b"\x00fernwart-ring-1";

const RINGS_EVERY: Duration = Duration::from_secs(2);

/// Receives restart hints; each clone receives every one.
#[derive(Debug, Clone)]
pub struct RestartHint(watch::Receiver<u64>, Arc<watch::Sender<u64>>);

impl Default for RestartHint {
    fn default() -> Self {
        let (ring, rings) = watch::channel(0);
        Self(rings, Arc::new(ring))
    }
}

impl RestartHint {
    /// Waits for the next hint. Cancel safe.
    pub async fn rung(&mut self) {
        // Fails only when all senders are gone.
        if self.0.changed().await.is_err() {
            std::future::pending().await
        }
    }

    /// The same receiver, without the hints that came before.
    pub(super) fn fresh(&self) -> Self {
        let mut hint = self.clone();
        hint.0.mark_unchanged();
        hint
    }
}

/// A socket that reports received restart hints to `hint`.
pub(super) fn with_hints(inner: Arc<dyn AsyncUdpSocket>, hint: &RestartHint) -> Arc<dyn AsyncUdpSocket> {
    Inspected::new(inner, HintListener { hint: hint.1.clone(), last: std::sync::Mutex::new(None) })
}

#[derive(Debug)]
struct HintListener {
    hint: Arc<watch::Sender<u64>>,
    last: std::sync::Mutex<Option<Instant>>,
}

impl HintListener {
    fn received(&self, datagram: &[u8]) {
        if datagram != RESTART_HINT {
            return;
        }
        let now = Instant::now();
        let mut last = self.last.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if last.is_none_or(|last| now.duration_since(last) >= RINGS_EVERY) {
            *last = Some(now);
            self.hint.send_modify(|rings| *rings += 1);
        }
    }
}

impl Inspect for HintListener {
    fn inspect(&self, received: &mut [u8], _: &mut RecvMeta) {
        self.received(received);
    }
}
