//! Greets a machine, and detects a second computer with its identity.

use super::AgentDoor;
use crate::journal;
use fernwart_protocol::code::{Denial, Goodbye};
use fernwart_protocol::event::Happened;
use fernwart_protocol::id::MachineId;
use fernwart_protocol::link::{FrameError, Link, Sender};
use fernwart_protocol::text::Text;
use fernwart_protocol::to_agent::{Control, Deliver};
use fernwart_protocol::to_hub::About;
use fernwart_protocol::version::{Hello, tag};
use fernwart_store::{Heads, Quarantine, Seen, SeenAs};
use std::sync::Arc;
use std::time::Duration;
use tracing::warn;

/// An agent that is still there answers an echo within this time.
pub(super) const STILL_THERE: Duration = Duration::from_secs(3);

/// Whether the peer answers an echo now.
pub(super) async fn answers(link: &Link) -> bool {
    let echo = async {
        let (mut send, mut receive) = link.open().await.ok()?;
        send.send(&Deliver::Echo(0)).await.ok()?;
        send.finish();
        receive.expect::<Deliver>().await.ok()
    };
    matches!(tokio::time::timeout(STILL_THERE, echo).await, Ok(Some(_)))
}

/// Handles two links of one machine, of which the newer one answered an echo. An agent that
/// restarted or moved no longer answers on the older link; if it does answer, two computers use one
/// identity and the machine is quarantined.
pub(super) async fn tell_apart(door: Arc<AgentDoor>, id: MachineId, older: Link) {
    if !answers(&older).await {
        return older.close(Goodbye::Replaced);
    }
    warn!(machine = %id, one = %older.remote_address(), "two computers use one identity; the machine is quarantined");
    older.close(Goodbye::Quarantined);
    let alarm = Text::clipped("two computers use its identity: it was copied, and is kept out");
    door.records.happened_on(&id, |machine| Happened::Alarm(machine, alarm.clone()));
    if let Err(error) = door.records.store.write(Quarantine { machine: id, at: door.records.now(), alarm }).await {
        warn!(machine = %id, %error, "a quarantine could not be stored");
    }
    door.presence.part_with(&id, Goodbye::Quarantined);
}

/// Answers the hello. Returns `None` if no common version exists.
pub(super) async fn greet(
    door: &AgentDoor,
    link: &Link,
    mut send: Sender,
    hello: &Hello,
    heads: &Heads,
) -> Result<Option<Sender>, FrameError> {
    if link.settle(hello).is_err() {
        send.send(&Control::Denied(Denial::Incompatible)).await?;
        send.delivered().await?;
        return Ok(None);
    }
    let (seq, head) = (heads.chain_seq, heads.chain_head);
    let spread = u64::try_from(door.records.return_spread().as_millis()).unwrap_or_default();
    let ours = door.trust.hello().with(tag::RETURN_SPREAD, &spread.to_le_bytes());
    let mut ours = ours.with(tag::CHAIN_SEQ, &seq.to_le_bytes()).with(tag::CHAIN_HEAD, head.as_bytes());
    if heads.journal_seq > 0 {
        ours = ours.with(tag::JOURNAL_SEQ, &heads.journal_seq.to_le_bytes());
    }
    send.send(&Control::Hello(ours)).await?;
    Ok(Some(send))
}

pub(super) async fn note_arrival(
    door: &AgentDoor,
    link: &Link,
    id: MachineId,
    hello: &Hello,
    about: &About,
    heads: &Heads,
) {
    let hub_has = heads.chain_seq;
    if about.chain_seq > hub_has || (about.chain_seq == hub_has && about.chain_head != heads.chain_head) {
        warn!(machine = %id, machine_has = about.chain_seq, hub_has,
            "this machine holds other receipts than this hub: the hub was restored from a backup, or one of them was altered");
    }
    let at @ (seq, _) = (about.journal_seq, about.journal_head);
    match heads.journal_seq {
        0 => journal::note(&door.records, id, at, None).await,
        known if seq < known => {
            journal::note(&door.records, id, at, Some(format!("its journal went back from entry {known} to {seq}")))
                .await;
        }
        // The machine will send the hash of the entry that is known here; `listen` compares it.
        _ => {}
    }
    let about = SeenAs {
        os: about.os.clone(),
        agent: Text::clipped(&hello.program().unwrap_or_default()),
        protocol: hello.reads(),
        address: Text::clipped(&link.remote_address().to_string()),
    };
    door.records.store.note(Seen { machine: id, at: door.records.now(), about: Some(about) }).await;
}
