//! The door of technicians and robots: each request is one stream.

use crate::doors::agent::our_hello;
use crate::doors::caller::Caller;
use crate::doors::rate_limiter::RateLimiter;
use crate::staff::jobs;
use crate::staff::jobs::WhenAway;
use crate::{Shared, events};
use fernwart_protocol::code::{Denial, Goodbye};
use fernwart_protocol::id::{Digest, KeyId};
use fernwart_protocol::link::{Door, FrameError, Link, Receiver, Sender};
use fernwart_protocol::staff::{Reply, Request};
use fernwart_protocol::version::Hello;
use std::sync::Arc;
use tracing::{debug, info, warn};

/// Serves a technician until the link ends.
pub(crate) async fn serve(shared: &Arc<Shared>, link: Link, key: KeyId, tls_key: Digest) {
    if let Err(denial) = Caller::current(shared, key, tls_key) {
        info!(%key, code = %denial.code(), "a technician is not let in");
        return link.close(Goodbye::Revoked);
    }
    let Some(frames) = shared.presence.staff_came(key, &link) else {
        info!(%key, address = %link.remote_address(), "a technician has too many links");
        return link.close(Goodbye::Overloaded);
    };
    link.widen_for_staff(frames);
    let rate = Arc::new(RateLimiter::of(Door::Staff));
    debug!(%key, address = %link.remote_address(), "a technician is linked");
    loop {
        let stream = tokio::select! {
            biased;
            () = shared.stop.cancelled() => return,
            stream = link.accept() => stream,
        };
        let Ok((send, receive)) = stream else { return };
        let (shared, link, rate) = (shared.clone(), link.clone(), rate.clone());
        shared.clone().tasks.spawn(async move {
            rate.turn(&shared).await;
            let Err(error) = request(&shared, &link, key, tls_key, send, receive).await else { return };
            let Some(why) = rate.reproach(&error) else { return };
            warn!(%key, %error, "a technician's program misbehaved");
            link.close(why);
        });
    }
}

async fn request(
    shared: &Arc<Shared>,
    link: &Link,
    key: KeyId,
    tls_key: Digest,
    mut send: Sender,
    mut receive: Receiver,
) -> Result<(), FrameError> {
    let hello = receive.first::<Hello>().await?;
    let settled = link.settle(&hello);
    send.send(&our_hello(shared)).await?;
    let result = match settled {
        Ok(_) => match served(shared, link, (key, tls_key), &hello, &mut send, &mut receive).await {
            Ok(result) => result,
            // Either asks or is told what the other does not know.
            Err(FrameError::Newer | FrameError::PeerIsOlder(_)) => Err(Denial::Incompatible),
            Err(error) => return Err(error),
        },
        Err(_) => Err(Denial::Incompatible),
    };
    if let Err(denial) = result {
        shared.metrics.denied(denial);
        if let Some(passed_over) = shared.requests_denied.now(shared.now()) {
            info!(%key, code = %denial.code(), passed_over, "a technician's request was denied");
        }
    }
    last_word(&mut send, result).await
}

/// One request, served to its end. The outer error is the link's, the inner a
/// denial.
async fn served(
    shared: &Arc<Shared>,
    link: &Link,
    (key, tls_key): (KeyId, Digest),
    hello: &Hello,
    send: &mut Sender,
    receive: &mut Receiver,
) -> Result<Result<(), Denial>, FrameError> {
    let asked = receive.first::<Request>().await?;
    if let Request::Submit(_) | Request::Queue(_) = &asked {
        let Some(wait) = shared.key_rates().job(key, tokio::time::Instant::now()) else {
            return Ok(Err(Denial::TooMany));
        };
        tokio::select! {
            biased;
            () = shared.draining.cancelled() => return Ok(Err(Denial::ShuttingDown)),
            _ = link.closed() => return Err(FrameError::Cut),
            () = tokio::time::sleep(wait) => {}
        }
    }
    // Only now: who may what can have changed meanwhile.
    let caller = match Caller::current(shared, key, tls_key) {
        Ok(caller) => caller,
        Err(denial) => return Ok(Err(denial)),
    };
    match asked {
        Request::Submit(head) => jobs::submit(shared, (&caller, link), (head, WhenAway::Over), send, receive).await,
        Request::Queue(head) => jobs::submit(shared, (&caller, link), (head, WhenAway::Held), send, receive).await,
        Request::Watch(job) => jobs::watch(shared, (key, tls_key), link, job, send).await,
        Request::Outcomes(job, runs) => jobs::outcomes(shared, &caller, job, runs.as_slice(), send).await,
        Request::Events(until) => events::follow(shared, (key, tls_key), link, until, send).await,
        other => {
            // The key that TLS has seen, whatever anybody says.
            let spki =
                link.peer_certificates().first().and_then(fernwart_certs::peer::public_key_of).unwrap_or_default();
            crate::staff::answer(shared, &caller, &spki, hello, other, send).await
        }
    }
}

async fn last_word(send: &mut Sender, result: Result<(), Denial>) -> Result<(), FrameError> {
    let reply = match result {
        Ok(()) => Reply::Done,
        Err(denial) => Reply::Denied(denial),
    };
    send.send(&reply).await?;
    send.delivered().await
}
