//! What the hub does again and again: cutting expired links, ending overdue runs, dropping
//! old results, giving memory back.

use crate::lifecycle::Lifecycle;
use crate::memory;
use crate::presence::Presence;
use crate::records::Records;
use crate::retention::Retention;
use fernwart_store::Expire;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// How often links are checked for expired certificates.
const SWEEP: Duration = Duration::from_secs(30);

/// How long after an order's end its outcome is still awaited.
const LATE_MS: i64 = 60_000;

/// How often old results are dropped.
const DROP_EVERY: Duration = Duration::from_secs(3600);

/// Delay of the first time after a start.
const DROP_FIRST: Duration = Duration::from_secs(5);

/// Periodically cuts links whose certificate has expired, ends expired runs, and returns free
/// memory to the system.
pub(crate) async fn sweep(records: Arc<Records>, presence: Arc<Presence>, lifecycle: Lifecycle) {
    let mut tick = tokio::time::interval(SWEEP);
    let mut memory = memory::Keeper::new();
    loop {
        tokio::select! {
            biased;
            () = lifecycle.stop.cancelled() => return,
            _ = tick.tick() => {
                presence.cut_expired(records.now());
                let over = Expire { before: records.now() - LATE_MS };
                if let Err(error) = records.store.write(over).await {
                    warn!(%error, "expired runs could not be ended");
                }
                memory.tidy(SWEEP).await;
            }
        }
    }
}

/// Drops what is old, once an hour.
pub(crate) async fn drop_old(records: Arc<Records>, retention: Retention, stop: CancellationToken) {
    let mut tick = tokio::time::interval_at(tokio::time::Instant::now() + DROP_FIRST, DROP_EVERY);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            _ = tick.tick() => {}
        }
        let now = records.now();
        let dropped = tokio::select! {
            biased;
            () = stop.cancelled() => return,
            dropped = records.store.drop_old(retention.before(now), now) => dropped,
        };
        match dropped {
            Ok(0) => {}
            Ok(runs) => info!(runs, "results older than the retention time were dropped"),
            Err(error) => warn!(%error, "results older than the retention time could not be dropped"),
        }
    }
}
