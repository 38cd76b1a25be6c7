//! Delivers orders to machines and receives their outcomes.
//!
//! An order is in the store before it is sent. [`crate::delivery::outcome`] handles the outcomes.

use crate::delivery::DeliveryService;
use crate::delivery::outcome::{self, Origin};
use crate::run_end::{End, RunEnded};
use fernwart_certs::sha256;
use fernwart_protocol::code::{Denial, Refusal};
use fernwart_protocol::document::{Envelope, Order};
use fernwart_protocol::id::PublicKey;
use fernwart_protocol::link::{FrameError, Link, LinkId, Receiver, Sender};
use fernwart_protocol::to_agent::{Deliver, Stored};
use fernwart_protocol::to_hub::{Delivered, Note, RunState as MachineState, SignedOutcome};
use fernwart_store::NotTaken;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;
use tracing::warn;

/// How a delivery ended.
#[derive(Debug)]
pub(crate) enum DeliveryEnd {
    /// The outcome is stored. The key is the one its receipt is signed with.
    Stored(Box<SignedOutcome>, PublicKey),
    /// The machine refused the order and did not store it.
    Refused(Refusal),
    /// The run's end is stored already, and this refusal changes nothing.
    Known,
    /// The end could not be stored now; the machine keeps its outcome, or gets the order again.
    NotStored(Denial),
    /// The link was lost; the outcome comes when the machine is back.
    Lost,
}

/// What a machine reports while a run is in progress.
#[derive(Debug)]
pub(crate) enum Received {
    /// The run's state.
    State(MachineState),
    /// A note for those who watch the job.
    Note(Note),
    /// The machine cannot use its state store now; it gets the order again in a while.
    NotYet,
}

/// Delay before an order is sent again to a machine that cannot use its state store.
const STORE_AGAIN: Duration = Duration::from_secs(60);

/// Whether a machine may have received an order before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sending {
    /// It has not, provided the order is sent over the link with this number.
    First(LinkId),
    /// It may have.
    Again,
    /// It has reported that the run began.
    Begun,
}

impl Sending {
    /// Adjusts this to the link that is really used.
    fn over(self, link: LinkId) -> Self {
        match self {
            Self::First(first) if first != link => Self::Again,
            known => known,
        }
    }

    /// Whether a refusal settles the run. A machine that cannot use its state store, or was
    /// downgraded, does not know whether it ran the order before; nor does this hub know what an
    /// unknown refusal code means.
    fn is_settled_by(self, refusal: Refusal) -> bool {
        let says_nothing =
            matches!(refusal, Refusal::NoJournal | Refusal::LedgerFull | Refusal::NewerOrder | Refusal::Other(_));
        matches!(self, Self::First(_)) || !says_nothing
    }
}

/// What is sent to a machine.
#[derive(Debug)]
pub(crate) struct Sent<'a> {
    /// The order, and the bytes it was read from.
    pub(crate) order: &'a Order,
    pub(crate) envelope: Envelope,
    /// Its cancel, if it was taken back.
    pub(crate) cancel: Option<Envelope>,
    pub(crate) sending: Sending,
}

/// Sends an order over its machine's link, with its cancel if it was taken back, and follows it to
/// its outcome. `on_received` is called with each report of the machine on the way.
pub(crate) async fn deliver<F: Future<Output = ()>>(
    service: &Arc<DeliveryService>,
    mut sent: Sent<'_>,
    on_received: impl Fn(Received) -> F,
) -> DeliveryEnd {
    let (machine, run) = (sent.order.machine, sent.order.run);
    let Some(linked) = service.presence.machine(&machine) else { return DeliveryEnd::Lost };
    sent.sending = sent.sending.over(linked.link.id());
    loop {
        match attempt(service, &linked.link, &sent, &on_received).await {
            Ok(Some(delivery)) => return delivery,
            Ok(None) => on_received(Received::NotYet).await,
            // Keep the link: the machine keeps the outcome and sends it later by itself.
            Err(FrameError::Newer) => {
                service.records.passed_over(&machine);
                return DeliveryEnd::NotStored(Denial::Incompatible);
            }
            Err(error @ (FrameError::PeerIsOlder(_) | FrameError::Rejected)) => {
                warn!(%machine, %run, %error, "an order needs a newer agent: update the agent on this machine");
                return DeliveryEnd::NotStored(Denial::Incompatible);
            }
            Err(error) => {
                if let Some(why) = error.reproach() {
                    warn!(%machine, %error, "a machine misbehaved");
                    linked.link.close(why);
                }
                return DeliveryEnd::Lost;
            }
        }
        tokio::select! {
            biased;
            // The machine gets its undelivered orders on its next link.
            _ = linked.link.closed() => return DeliveryEnd::Lost,
            () = service.lifecycle.draining.cancelled() => return DeliveryEnd::Lost,
            () = tokio::time::sleep(STORE_AGAIN) => {}
        }
    }
}

/// Sends the order once. Returns `None` if the machine cannot tell now what becomes of the run.
async fn attempt<F: Future<Output = ()>>(
    service: &Arc<DeliveryService>,
    link: &Link,
    sent: &Sent<'_>,
    on_received: &impl Fn(Received) -> F,
) -> Result<Option<DeliveryEnd>, FrameError> {
    let (mut send, mut receive) = link.open().await.map_err(|_| FrameError::Cut)?;
    let delivery = on_stream(service, (&mut send, &mut receive), sent, on_received).await;
    if let Err(FrameError::Newer) = delivery {
        send.reject();
        receive.reject();
    }
    delivery
}

async fn on_stream<F: Future<Output = ()>>(
    service: &Arc<DeliveryService>,
    (send, receive): (&mut Sender, &mut Receiver),
    sent: &Sent<'_>,
    on_received: &impl Fn(Received) -> F,
) -> Result<Option<DeliveryEnd>, FrameError> {
    let (machine, run, sending) = (sent.order.machine, sent.order.run, sent.sending);
    let hash = sha256(sent.envelope.bytes.as_bytes());
    let first = match (sent.envelope.clone(), sent.cancel.clone(), sending) {
        (order, cancel, Sending::Begun) => Deliver::Begun(order, cancel),
        (order, Some(cancel), Sending::First(_) | Sending::Again) => Deliver::TakenBack(order, cancel),
        (order, None, Sending::First(_) | Sending::Again) => Deliver::Order(order),
    };
    send.demand_rate();
    send.send(&first).await?;
    service.records.metrics.order_sent();
    let begun = tokio::time::Instant::now();
    loop {
        match receive.expect::<Delivered>().await? {
            Delivered::State(state) => on_received(Received::State(state)).await,
            Delivered::Note(note) => on_received(Received::Note(note)).await,
            Delivered::Refused(refusal) if !sending.is_settled_by(refusal) => {
                send.finish();
                warn!(%machine, %run, code = %refusal.code(), "a machine cannot use its state store; the order will be sent again");
                return Ok(None);
            }
            // The run is known to have begun; a refusal does not tell how it ended.
            Delivered::Refused(refusal) if sending == Sending::Begun => {
                send.finish();
                warn!(%machine, %run, code = %refusal.code(), "a machine does not report how a run that had begun has ended");
                return Ok(Some(DeliveryEnd::Lost));
            }
            Delivered::Refused(refusal) => {
                send.finish();
                return Ok(Some(match service.records.store.write(NotTaken { run, refusal }).await {
                    Ok(true) => {
                        outcome::publish(service, &RunEnded { machine, run, end: End::NotTaken(refusal) });
                        DeliveryEnd::Refused(refusal)
                    }
                    Ok(false) => DeliveryEnd::Known,
                    Err(error) => {
                        // The order will be sent again and may be accepted then.
                        warn!(%run, %error, "a refusal could not be stored");
                        DeliveryEnd::NotStored(service.records.denial(&error))
                    }
                }));
            }
            Delivered::Outcome(signed) => {
                let origin = Origin::Delivered(sent.order, hash);
                let (word, delivery) = match outcome::take_in(service, machine, *signed.clone(), origin).await {
                    Ok((countersignature, key)) => {
                        service.records.metrics.delivered(begun.elapsed());
                        (Stored::Countersigned(countersignature), DeliveryEnd::Stored(signed, key))
                    }
                    Err(denial) => (Stored::NotNow(denial), DeliveryEnd::NotStored(denial)),
                };
                send.send(&word).await?;
                send.finish();
                return Ok(Some(delivery));
            }
        }
    }
}
