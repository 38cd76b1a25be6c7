//! Hands the retirement to a machine that was away when it was retired.

use super::arrival::greet;
use super::requests::one_stream;
use super::{AgentDoor, newest_targets};
use crate::doors::rate_limiter::RateLimiter;
use crate::presence::RETIREMENT_TIMEOUT;
use fernwart_fleet::{Machine, Standing};
use fernwart_protocol::id::{Digest, MachineId};
use fernwart_protocol::link::{Door, FrameError, Link};
use fernwart_protocol::to_agent::Control;
use fernwart_protocol::to_hub::{self, Ask};
use fernwart_protocol::version::tag;
use std::sync::Arc;
use std::time::Duration;
use tracing::{debug, warn};

/// Timeout for its hello.
pub(super) const SPEAKS_WITHIN: Duration = Duration::from_secs(2);

/// How long it may take to follow the catalogue before the retirement is sent anyway.
pub(super) const FOLLOWS_WITHIN: Duration = Duration::from_secs(4);

/// Whether this is a retired machine that uses its own key.
pub(super) fn is_retired_with(door: &AgentDoor, id: &MachineId, tls_key: Digest) -> bool {
    let of_ours = |machine: &Machine| machine.standing == Standing::Retired && machine.tls_key == tls_key;
    door.records.store.machine(id).is_some_and(|machine| of_ours(&machine))
}

/// Sends a machine that was away at its retirement the retirement that a lead has signed; it would
/// not stop for good on this hub's word alone. Before that it may fetch the catalogue, which names
/// the lead, and hand over its outcomes.
pub(super) async fn hand_over_retirement(door: &Arc<AgentDoor>, link: &Link, id: &MachineId) {
    let signed = match door.records.store.retirement(id).await {
        Ok(Some(signed)) => signed,
        Ok(None) => return,
        Err(error) => return warn!(machine = %id, %error, "a retirement cannot be read"),
    };
    let handed_over = async {
        let first = tokio::time::timeout(SPEAKS_WITHIN, link.accept()).await;
        let Ok(Ok((mut send, mut receive))) = first else { return Err(FrameError::TooSlow) };
        send.demand_rate();
        let Ask::Control(hello, _) = receive.first::<Ask>().await? else { return Err(FrameError::Cut) };
        let Some(heads) = door.records.store.heads(id) else { return Err(FrameError::Cut) };
        let Some(mut send) = greet(door, link, send, &hello, &heads).await? else { return Err(FrameError::Cut) };
        let newest = newest_targets(door);
        let mut follows = hello.number(tag::TARGETS).unwrap_or_default() >= newest;
        let mut is_sent = false;
        let give_up = tokio::time::sleep(FOLLOWS_WITHIN);
        tokio::pin!(give_up);
        let rate = RateLimiter::of(Door::Agent);
        loop {
            if follows && !std::mem::replace(&mut is_sent, true) {
                send.send(&Control::Retired(signed.clone())).await?;
            }
            tokio::select! {
                biased;
                // The machine ends the link once it has stored the retirement.
                _ = link.closed() => return Ok(()),
                word = receive.next::<to_hub::Control>() => match word? {
                    Some(to_hub::Control::Following(versions)) => follows |= versions.targets >= newest,
                    Some(_) => {}
                    None => return Ok(()),
                },
                stream = link.accept() => {
                    let (send, receive) = stream.map_err(|_| FrameError::Cut)?;
                    if one_stream(door, *id, &rate, send, receive).await.is_some() {
                        return Err(FrameError::Cut);
                    }
                }
                () = &mut give_up, if !follows => follows = true,
            }
        }
    };
    if let Ok(Err(error)) = tokio::time::timeout(FOLLOWS_WITHIN + RETIREMENT_TIMEOUT, handed_over).await {
        debug!(machine = %id, %error, "a machine could not be sent its retirement");
    }
}
