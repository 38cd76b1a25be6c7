//! Reads the control stream, on which a machine reports about itself.

use super::{AgentDoor, newest_targets};
use crate::doors::rate_limiter::RateLimiter;
use crate::journal;
use crate::presence::Linked;
use fernwart_fleet::Standing;
use fernwart_protocol::code::{Denial, Goodbye};
use fernwart_protocol::event::Happened;
use fernwart_protocol::id::MachineId;
use fernwart_protocol::link::{FrameError, Link, Receiver};
use fernwart_protocol::text::Text;
use fernwart_protocol::to_agent::Control;
use fernwart_protocol::to_hub::{self, About};
use fernwart_store::{Heads, KeepSealedTo, SetStanding};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::Notify;
use tracing::{debug, info, warn};

/// An alarm is raised when a machine rejects the catalogue for this long.
pub(super) const STILL_DISBELIEVED: Duration = Duration::from_secs(45);

/// Reads the control stream to its end.
pub(super) async fn listen(
    (door, rate): (&Arc<AgentDoor>, &RateLimiter),
    (id, linked): (MachineId, &Linked),
    mut receive: Receiver,
    about: &About,
    heads: Heads,
    following: &Notify,
) -> Result<(), FrameError> {
    let belief = Belief::default();
    let mut journal = heads.journal_head.map(|head| (heads.journal_seq, head));
    loop {
        let word = match receive.next::<to_hub::Control>().await {
            Ok(Some(word)) => word,
            Ok(None) => return Ok(()),
            // Rate-limited and answered like any other request.
            Err(FrameError::Newer) => {
                rate.turn(&door.records.metrics).await;
                door.records.passed_over(&id);
                linked.say(&Control::Denied(Denial::Incompatible)).await;
                continue;
            }
            Err(error) => return Err(error),
        };
        rate.turn(&door.records.metrics).await;
        match word {
            to_hub::Control::Following(versions) => {
                debug!(?versions, "a machine follows");
                if versions.targets >= newest_targets(door) {
                    belief.believes();
                    following.notify_one();
                }
            }
            to_hub::Control::SealedTo(statement) => {
                // The hub only keeps it; a program that encrypts to it checks the signature.
                if !door.records.store.is_sealed_to(&id, &statement)
                    && let Err(error) = door.records.store.write(KeepSealedTo { machine: id, statement }).await
                {
                    warn!(machine = %id, %error, "a sealing key could not be stored");
                }
            }
            to_hub::Control::Journal(seq, hash) => {
                // Compare it once with what the machine reported before this link.
                let Some((_, head)) = journal.take_if(|(known, _)| *known == seq) else { continue };
                let rewritten = head != hash;
                let alarm = rewritten.then(|| format!("its journal was rewritten before entry {seq}"));
                journal::note(&door.records, id, (about.journal_seq, about.journal_head), alarm).await;
            }
            to_hub::Control::Denied(denial) => {
                debug!(machine = %id, code = %denial.code(), "a machine did not understand a control message");
            }
            to_hub::Control::CatalogueRefused(reason) => belief.refused(door, id, linked.link.clone(), reason),
            to_hub::Control::Leaving => {
                if owner_leaves(door, &id).await {
                    linked.link.close(Goodbye::Revoked);
                    return Ok(());
                }
            }
            to_hub::Control::Goodbye => return Ok(()),
        }
    }
}

/// Named as the one who retired a machine whose owner removed it.
pub(super) const BY_OWNER: &str = "its owner";

/// The owner removes the machine from the hub. Returns whether that is stored: the machine waits
/// for it.
pub(super) async fn owner_leaves(door: &Arc<AgentDoor>, id: &MachineId) -> bool {
    let write = SetStanding { machine: *id, from: Standing::Admitted, to: Standing::Retired };
    match door.records.store.write(write).await {
        Ok(Ok(())) => {
            info!(machine = %id, "a machine's owner removes it from this hub");
            door.records.happened_on(id, |machine| Happened::Retired(machine, Text::clipped(BY_OWNER)));
            true
        }
        Ok(Err(denial)) => {
            warn!(machine = %id, code = %denial.code(), "a machine wants to leave but is not admitted");
            true
        }
        Err(error) => {
            warn!(machine = %id, %error, "a machine's leaving could not be stored");
            false
        }
    }
}

/// Whether a machine accepts the published catalogue, as last reported on this link.
#[derive(Debug, Clone)]
pub(super) struct Belief(Arc<AtomicBool>);

impl Default for Belief {
    fn default() -> Self {
        Self(Arc::new(AtomicBool::new(true)))
    }
}

impl Belief {
    fn believes(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Notes a rejection. After a restore a machine rejects the catalogue before it has given its
    /// own back, so an alarm is raised only if that lasts.
    fn refused(&self, door: &Arc<AgentDoor>, id: MachineId, link: Link, reason: Text<256>) {
        if !self.0.swap(false, Ordering::Relaxed) {
            return;
        }
        let (tasks, door, believes) = (&door.lifecycle.tasks, door.clone(), self.0.clone());
        tasks.spawn(async move {
            tokio::select! {
                biased;
                () = door.lifecycle.stop.cancelled() => return,
                _ = link.closed() => return,
                () = tokio::time::sleep(STILL_DISBELIEVED) => {}
            }
            if !believes.load(Ordering::Relaxed) {
                disbelieved(&door, &id, &reason).await;
            }
        });
    }
}

/// Raises an alarm for a machine that rejects the published catalogue, once until somebody
/// acknowledges it.
pub(super) async fn disbelieved(door: &AgentDoor, id: &MachineId, reason: &Text<256>) {
    const WHAT: &str = "it rejects the published catalogue";
    let Some(machine) = door.records.store.machine(id) else { return };
    if !machine.alarm.as_raw().contains(WHAT) && journal::raise(&door.records, *id, WHAT).await {
        warn!(machine = %id, name = %machine.name, %reason, "a machine rejects the published catalogue");
    }
}
