//! Serves the streams that a machine opens, one request each.

use super::AgentDoor;
use crate::delivery::outcome::{self, Origin};
use crate::doors::rate_limiter::RateLimiter;
use fernwart_protocol::code::{Denial, Goodbye};
use fernwart_protocol::document::Versions;
use fernwart_protocol::id::MachineId;
use fernwart_protocol::link::{FrameError, Receiver, Sender};
use fernwart_protocol::text::Blob;
use fernwart_protocol::to_agent::{Fetched, Renewed, Stored};
use fernwart_protocol::to_hub::Ask;
use std::sync::Arc;
use tracing::warn;

/// Serves one stream that a machine has opened, at the link's rate. Returns a reason if the link is
/// to be closed.
pub(super) async fn one_stream(
    door: &Arc<AgentDoor>,
    id: MachineId,
    rate: &RateLimiter,
    mut send: Sender,
    mut receive: Receiver,
) -> Option<Goodbye> {
    rate.turn(&door.records.metrics).await;
    let answered = answer(door, id, &mut send, &mut receive).await;
    rate.answered(send.sent_bytes());
    let error = answered.err()?;
    if let FrameError::Newer = error {
        door.records.passed_over(&id);
        receive.reject();
        send.reject();
        return None;
    }
    let why = rate.reproach(&error)?;
    warn!(machine = %id, %error, "a machine misbehaved");
    Some(why)
}

pub(super) async fn answer(
    door: &Arc<AgentDoor>,
    id: MachineId,
    send: &mut Sender,
    receive: &mut Receiver,
) -> Result<(), FrameError> {
    let ask = receive.first::<Ask>().await?;
    send.demand_rate();
    match ask {
        Ask::Fetch(known) => send_files(door, send, &known).await?,
        Ask::Outcome(signed) => {
            let stored = match outcome::take_in(&door.delivery, id, signed, Origin::Claimed).await {
                Ok((countersignature, _)) => Stored::Countersigned(countersignature),
                Err(denial) => Stored::NotNow(denial),
            };
            send.send(&stored).await?;
        }
        Ask::Blob(hash) => {
            let blob = door.trust.published.blob(&hash).and_then(|bytes| Blob::try_from(bytes).ok());
            send.send(&blob.map_or(Fetched::Denied(Denial::NoSuchBlob), Fetched::Blob)).await?;
        }
        Ask::Renew(spki) => send.send(&renew(door, id, &spki).await).await?,
        Ask::Control(..) => return Err(FrameError::Cut),
    }
    send.delivered().await
}

pub(super) async fn send_files(door: &AgentDoor, send: &mut Sender, known: &Versions) -> Result<(), FrameError> {
    match door.trust.lacking(known) {
        Ok(files) => {
            for file in files {
                send.send(&Fetched::File(file)).await?;
            }
            Ok(())
        }
        Err(denial) => send.send(&Fetched::Denied(denial)).await,
    }
}

/// A certificate for a machine's new TLS key.
pub(super) async fn renew(door: &AgentDoor, id: MachineId, spki: &Blob<256>) -> Renewed {
    match door.keys.certify(&door.records, id, spki.as_bytes()).await {
        Ok(chain) => Renewed::Certificate(chain),
        Err(denial) => Renewed::Denied(denial),
    }
}
