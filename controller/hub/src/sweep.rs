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

/// How often links are held against expiry.
const SWEEP: Duration = Duration::from_secs(30);

/// An outcome may come so much later than its order ends.
const LATE_MS: i64 = 60_000;

/// How often what is old is dropped.
const DROP_EVERY: Duration = Duration::from_secs(3600);

/// The first time is soon after the start.
const DROP_FIRST: Duration = Duration::from_secs(5);

/// Cuts links whose certificate has run out; ends runs whose time has passed; gives free
/// memory back.
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
                    warn!(%error, "runs whose time has passed could not be ended");
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
            Ok(runs) => info!(runs, "results that were kept long enough are dropped"),
            Err(error) => warn!(%error, "results that were kept long enough could not be dropped"),
        }
    }
}
