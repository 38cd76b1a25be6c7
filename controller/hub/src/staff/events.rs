//! Following events.

use super::StaffService;
use crate::events::Whose;
use crate::trust::caller::Caller;
use crate::unanswered::Unanswered;
use fernwart_certs::catalogue::Customers;
use fernwart_protocol::code::Denial;
use fernwart_protocol::event::{Event, Happened, Until};
use fernwart_protocol::id::{Digest, KeyId};
use fernwart_protocol::link::{FrameError, Link, Sender};
use fernwart_protocol::staff::Reply;
use tokio::sync::broadcast::error::RecvError;

/// Whether the caller may see such an event.
fn may_see(caller: &Caller, whose: Whose) -> bool {
    match whose {
        Whose::Customer(customer) => caller.entry.customers.include(&customer),
        Whose::Giver(key) => key == caller.entry.key || caller.entry.customers == Customers::All,
        Whose::Everybody => true,
    }
}

/// Sends a technician the remembered events and, if they stay, new ones.
pub(crate) async fn follow(
    service: &StaffService,
    (key, tls_key): (KeyId, Digest),
    link: &Link,
    until: Until,
    send: &mut Sender,
) -> Result<(), Unanswered> {
    let (kept, mut news) = service.records.events.listen();
    let caller = Caller::current(&service.trust, key, tls_key)?;
    for recorded in kept.iter().filter(|recorded| may_see(&caller, recorded.whose)) {
        send_event(send, recorded.event.clone()).await?;
    }
    let mut seen = kept.last().map_or(0, |recorded| recorded.event.seq);
    drop(kept);
    if until == Until::Now {
        return Ok(());
    }
    loop {
        let recorded = tokio::select! {
            biased;
            () = service.lifecycle.stop.cancelled() => return Err(Denial::ShuttingDown.into()),
            _ = link.closed() => return Err(FrameError::Cut.into()),
            recorded = news.recv() => recorded,
        };
        // The caller's permissions may have changed.
        let caller = Caller::current(&service.trust, key, tls_key)?;
        let event = match recorded {
            Ok(recorded) => {
                seen = recorded.event.seq;
                if !may_see(&caller, recorded.whose) {
                    continue;
                }
                recorded.event.clone()
            }
            Err(RecvError::Lagged(missed)) => {
                seen += missed;
                Event {
                    life: service.records.events.life,
                    seq: seen,
                    at: service.records.now(),
                    what: Happened::Missed(missed),
                }
            }
            Err(RecvError::Closed) => return Err(Denial::ShuttingDown.into()),
        };
        send_event(send, event).await?;
    }
}

/// Sends one event. A program too old to know the event is told that it missed one.
async fn send_event(send: &mut Sender, event: Event) -> Result<(), FrameError> {
    let Event { life, seq, at, .. } = event;
    match send.send(&Reply::Event(event)).await {
        Err(FrameError::PeerIsOlder(_)) => {
            send.send(&Reply::Event(Event { life, seq, at, what: Happened::Missed(1) })).await
        }
        recorded => recorded,
    }
}
