//! The door of admitted machines: one task per link.

mod arrival;
mod control;
mod penalty;
mod requests;
mod retirement;

use crate::delivery::{DeliveryService, redelivery};
use crate::doors::key_rates::KeyRates;
use crate::doors::rate_limiter::RateLimiter;
use crate::keys::HubKeys;
use crate::lifecycle::Lifecycle;
use crate::presence::{Linked, Presence};
use crate::records::Records;
use crate::trust::Trust;
use crate::trust::give_back::{Knows, take_back};
use arrival::{answers, greet, note_arrival, tell_apart};
use control::listen;
use fernwart_fleet::Standing;
use fernwart_protocol::code::Goodbye;
use fernwart_protocol::document::UnixMs;
use fernwart_protocol::event::Happened;
use fernwart_protocol::id::{Digest, MachineId};
use fernwart_protocol::limits::FIRST_FRAME_TIMEOUT;
use fernwart_protocol::link::{Door, FrameError, Link, LinkError};
use fernwart_protocol::text::Text;
use fernwart_protocol::to_agent::Control;
use fernwart_protocol::to_hub::Ask;
use fernwart_protocol::version::{Hello, tag};
use fernwart_store::Seen;
pub(crate) use penalty::Penalties;
use requests::one_stream;
use retirement::{hand_over_retirement, is_retired_with};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::Instant;
use tracing::{debug, info, warn};

/// How long a machine's orders wait until it follows the newest catalogue.
const FOLLOWS: Duration = Duration::from_secs(10);

/// The parts of the hub that this door uses, and the state it keeps per machine.
pub(crate) struct AgentDoor {
    pub(crate) records: Arc<Records>,
    pub(crate) presence: Arc<Presence>,
    pub(crate) trust: Arc<Trust>,
    pub(crate) keys: Arc<HubKeys>,
    pub(crate) delivery: Arc<DeliveryService>,
    pub(crate) lifecycle: Lifecycle,
    /// Machines that misbehaved recently.
    pub(crate) penalties: Penalties,
    /// How often machines link.
    pub(crate) link_rates: Mutex<KeyRates<MachineId>>,
}

impl AgentDoor {
    fn is_link_too_many(&self, id: MachineId) -> bool {
        let mut rates = self.link_rates.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        rates.is_link_too_many(id, Instant::now())
    }
}

/// Serves a machine until its link ends.
pub(crate) async fn serve(door: &Arc<AgentDoor>, link: Link, id: MachineId, tls_key: Digest, until: UnixMs) {
    let may_come = may_come(door, &id, tls_key);
    if let Err(why) = may_come {
        info!(machine = %id, address = %link.remote_address(), ?why, "a machine is not let in");
    }
    let retired = may_come.is_err() && is_retired_with(door, &id, tls_key);
    if let (Err(why), false) = (may_come, retired) {
        return link.close(why);
    }
    if door.is_link_too_many(id) {
        door.penalties.begin(id);
    }
    if door.penalties.serve(&link, &id, &door.lifecycle.stop).await {
        return link.close(Goodbye::Overloaded);
    }
    if let Err(why) = may_come {
        hand_over_retirement(door, &link, &id).await;
        return link.close(why);
    }
    let result = converse(door, &link, id, tls_key, until).await;
    let has_left = door.presence.machine_left(&id, &link);
    if let Err(error) = result
        && let Some(why) = error.reproach()
    {
        warn!(machine = %id, %error, "a machine misbehaved");
        link.close(why);
    }
    if let Some(LinkError::ClosedHere(Goodbye::Misbehaved | Goodbye::TooSlow)) = link.end() {
        door.penalties.begin(id);
    }
    // Do not wait for the disk: the hub tracks who is linked in memory, even when the disk is full.
    door.records.store.note(Seen { machine: id, at: door.records.now(), about: None }).await;
    if has_left {
        let why = link.end().unwrap_or(LinkError::ClosedHere(Goodbye::Done));
        debug!(machine = %id, %why, "a machine has left");
        door.records.happened_on(&id, |machine| Happened::Left(machine, Text::clipped(why.as_str())));
    }
}

/// Whether this machine, with this key, is admitted and not quarantined.
fn may_come(door: &AgentDoor, id: &MachineId, tls_key: Digest) -> Result<(), Goodbye> {
    match door.records.store.machine(id) {
        Some(machine) if machine.standing == Standing::Admitted && machine.tls_key == tls_key => {
            if machine.quarantined_at > 0 { Err(Goodbye::Quarantined) } else { Ok(()) }
        }
        _ => Err(Goodbye::Revoked),
    }
}

async fn converse(
    door: &Arc<AgentDoor>,
    link: &Link,
    id: MachineId,
    tls_key: Digest,
    until: UnixMs,
) -> Result<(), FrameError> {
    let Ok(Ok((mut send, mut receive))) = tokio::time::timeout(FIRST_FRAME_TIMEOUT, link.accept()).await else {
        return Err(if link.is_closed() { FrameError::Cut } else { FrameError::TooSlow });
    };
    send.demand_rate();
    let (hello, about) = match receive.first::<Ask>().await? {
        Ask::Control(hello, about) => (hello, about),
        Ask::Fetch(_) | Ask::Outcome(_) | Ask::Renew(_) | Ask::Blob(_) => {
            link.close(Goodbye::Misbehaved);
            return Err(FrameError::Cut);
        }
    };
    let Some(heads) = door.records.store.heads(&id) else { return Err(FrameError::Cut) };
    let Some(send) = greet(door, link, send, &hello, &heads).await? else {
        link.close(Goodbye::Incompatible);
        return Ok(());
    };
    // A network can deliver the first packets of a dial that was given up long ago; then nobody
    // answers on this link.
    if door.presence.machine(&id).is_some() && !answers(link).await {
        info!(machine = %id, address = %link.remote_address(), "a link on which nobody answers does not replace the machine's current link");
        link.close(Goodbye::Overloaded);
        return Ok(());
    }
    let linked = Linked::new(link.clone(), send, until);
    let to_it = linked.clone();
    if let Some(older) = door.presence.machine_came(id, linked.clone()) {
        door.lifecycle.tasks.spawn(tell_apart(door.clone(), id, older));
    }
    introduce(door, &linked).await;
    // Check again, now that this link is registered: the machine may have been retired or
    // quarantined since it connected.
    if let Err(why) = may_come(door, &id, tls_key) {
        link.close(why);
        return Ok(());
    }
    note_arrival(door, link, id, &hello, &about, &heads).await;
    let following = begin_exchange(door, link, id, &hello);
    info!(machine = %id, address = %link.remote_address(), "a machine is linked");
    door.records.happened_on(&id, Happened::Linked);

    let rate = Arc::new(RateLimiter::of(Door::Agent));
    let words = listen((door, &rate), (id, &to_it), receive, &about, heads, &following);
    tokio::pin!(words);
    loop {
        tokio::select! {
            biased;
            () = door.lifecycle.stop.cancelled() => return Ok(()),
            result = &mut words => {
                // A link does not outlive its control stream.
                let why = result.as_ref().err().and_then(FrameError::reproach);
                link.close(why.unwrap_or(Goodbye::Done));
                return result;
            }
            stream = link.accept() => match stream {
                Ok((send, receive)) => {
                    let (tasks, door, link, rate) = (&door.lifecycle.tasks, door.clone(), link.clone(), rate.clone());
                    tasks.spawn(async move {
                        if let Some(why) = one_stream(&door, id, &rate, send, receive).await {
                            link.close(why);
                        }
                    });
                }
                Err(_) => return Ok(()),
            }
        }
    }
}

/// Sends a machine the locks and what is published. Called once it is registered: later
/// changes are sent to all registered machines, so none is missed.
async fn introduce(door: &AgentDoor, linked: &Linked) {
    for envelope in door.trust.locks() {
        linked.say(&Control::Lock(envelope)).await;
    }
    if let Some(catalogue) = door.trust.published.catalogue() {
        linked.say(&Control::CatalogueChanged { timestamp: catalogue.versions.timestamp }).await;
    }
}

/// Begins to take back what this hub has lost, and to deliver what waits. Returns what is to be
/// notified once the machine follows the newest catalogue.
fn begin_exchange(door: &Arc<AgentDoor>, link: &Link, id: MachineId, hello: &Hello) -> Arc<Notify> {
    let following = Arc::new(Notify::new());
    let targets = hello.number(tag::TARGETS).unwrap_or_default();
    let follows = Knows { targets, timestamp: hello.number(tag::TIMESTAMP).unwrap_or_default() };
    if follows.is_newer_than(&door.trust.published.versions()) || door.records.home.was_restored() {
        door.lifecycle.tasks.spawn(take_back(door.trust.clone(), link.clone(), id, follows));
    }
    door.lifecycle.deliveries.spawn(bring(door.clone(), id, targets, following.clone()));
    following
}

fn newest_targets(door: &AgentDoor) -> u64 {
    door.trust.published.catalogue().map_or(0, |catalogue| catalogue.versions.targets)
}

/// Redelivers a machine's orders once it follows the published catalogue; before that it would
/// refuse what it does not know yet.
async fn bring(door: Arc<AgentDoor>, id: MachineId, knows: u64, following: Arc<Notify>) {
    if knows < newest_targets(&door) {
        tokio::select! {
            biased;
            () = following.notified() => {}
            () = tokio::time::sleep(FOLLOWS) => {}
            () = door.lifecycle.draining.cancelled() => return,
        }
    }
    redelivery::catch_up(door.delivery.clone(), id).await;
}
