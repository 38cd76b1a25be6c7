//! The door of technicians and robots: each request is one stream.

use crate::doors::key_rates::KeyRates;
use crate::doors::rate_limiter::RateLimiter;
use crate::log_limiter::LogLimiter;
use crate::staff::{self, Asked, StaffService};
use crate::trust::caller::Caller;
use crate::unanswered::Unanswered;
use fernwart_protocol::code::{Denial, Goodbye};
use fernwart_protocol::id::{Digest, KeyId};
use fernwart_protocol::link::{Door, FrameError, Link, Receiver, Sender};
use fernwart_protocol::staff::{Reply, Request};
use fernwart_protocol::version::Hello;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::time::Instant;
use tracing::{debug, info, warn};

/// The parts of the hub that this door uses, and its limits.
pub(crate) struct StaffDoor {
    pub(crate) service: Arc<StaffService>,
    /// How often jobs are submitted with a key.
    pub(crate) job_rates: Mutex<KeyRates<KeyId>>,
    /// Requests that were denied.
    pub(crate) denied: LogLimiter,
}

impl StaffDoor {
    /// The delay for one more job of this key; `None` if it would be too long.
    fn job_wait(&self, key: KeyId, now: Instant) -> Option<Duration> {
        self.job_rates.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).job(key, now)
    }
}

/// Serves a technician until the link ends.
pub(crate) async fn serve(door: &Arc<StaffDoor>, link: Link, key: KeyId, tls_key: Digest) {
    if let Err(denial) = Caller::current(&door.service.trust, key, tls_key) {
        info!(%key, code = %denial.code(), "a technician is not let in");
        return link.close(Goodbye::Revoked);
    }
    let Some(frames) = door.service.presence.staff_came(key, &link) else {
        info!(%key, address = %link.remote_address(), "a technician has too many links");
        return link.close(Goodbye::Overloaded);
    };
    link.widen_for_staff(frames);
    let rate = Arc::new(RateLimiter::of(Door::Staff));
    debug!(%key, address = %link.remote_address(), "a technician is linked");
    loop {
        let stream = tokio::select! {
            biased;
            () = door.service.lifecycle.stop.cancelled() => return,
            stream = link.accept() => stream,
        };
        let Ok((send, receive)) = stream else { return };
        let (tasks, door, link, rate) = (&door.service.lifecycle.tasks, door.clone(), link.clone(), rate.clone());
        tasks.spawn(async move {
            rate.turn(&door.service.records.metrics).await;
            let Err(error) = request(&door, &link, key, tls_key, send, receive).await else { return };
            let Some(why) = rate.reproach(&error) else { return };
            warn!(%key, %error, "a technician's program misbehaved");
            link.close(why);
        });
    }
}

async fn request(
    door: &Arc<StaffDoor>,
    link: &Link,
    key: KeyId,
    tls_key: Digest,
    mut send: Sender,
    mut receive: Receiver,
) -> Result<(), FrameError> {
    let hello = receive.first::<Hello>().await?;
    let settled = link.settle(&hello);
    send.send(&door.service.trust.hello()).await?;
    let result = match settled {
        Ok(_) => match served(door, link, (key, tls_key), &hello, &mut send, &mut receive).await {
            Ok(()) => Ok(()),
            Err(Unanswered::Denied(denial)) => Err(denial),
            // One side sent what the other's version does not know.
            Err(Unanswered::Link(FrameError::Newer | FrameError::PeerIsOlder(_))) => Err(Denial::Incompatible),
            Err(Unanswered::Link(error)) => return Err(error),
        },
        Err(_) => Err(Denial::Incompatible),
    };
    if let Err(denial) = result {
        door.service.records.metrics.denied(denial);
        if let Some(passed_over) = door.denied.now(door.service.records.now()) {
            info!(%key, code = %denial.code(), passed_over, "a technician's request was denied");
        }
    }
    last_word(&mut send, result).await
}

/// Serves one request.
async fn served(
    door: &Arc<StaffDoor>,
    link: &Link,
    (key, tls_key): (KeyId, Digest),
    hello: &Hello,
    send: &mut Sender,
    receive: &mut Receiver,
) -> Result<(), Unanswered> {
    let asked = receive.first::<Request>().await?;
    if let Request::Submit(_) | Request::Queue(_) = &asked {
        let Some(wait) = door.job_wait(key, Instant::now()) else {
            return Err(Denial::TooMany.into());
        };
        tokio::select! {
            biased;
            () = door.service.lifecycle.draining.cancelled() => return Err(Denial::ShuttingDown.into()),
            _ = link.closed() => return Err(FrameError::Cut.into()),
            () = tokio::time::sleep(wait) => {}
        }
    }
    // Look up the caller after the wait: its permissions may have changed.
    staff::answer(&door.service, Asked { link, key, tls_key, hello, send, receive }, asked).await
}

async fn last_word(send: &mut Sender, result: Result<(), Denial>) -> Result<(), FrameError> {
    let reply = match result {
        Ok(()) => Reply::Done,
        Err(denial) => Reply::Denied(denial),
    };
    send.send(&reply).await?;
    send.delivered().await
}
