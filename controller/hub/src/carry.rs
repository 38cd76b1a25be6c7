//! Carrying orders to machines and outcomes back.
//!
//! An order is in the store before it is sent. An outcome is in the store, and
//! signed for, before the machine may forget it.

use crate::Shared;
use fernwart_certs::{envelope, sha256};
use fernwart_fleet::{RunState, verdict};
use fernwart_protocol::code::{Denial, Refusal};
use fernwart_protocol::diagnosis::Summary;
use fernwart_protocol::document::{Action, Countersignature, Document, Envelope, Order, Outcome, Receipt};
use fernwart_protocol::event::Happened;
use fernwart_protocol::id::{Digest, MachineId, PublicKey, RunId};
use fernwart_protocol::link::FrameError;
use fernwart_protocol::text::Text;
use fernwart_protocol::to_agent::{Deliver, Stored};
use fernwart_protocol::to_hub::{Delivered, Note, RunState as MachineState, Settle};
use fernwart_store::{NoteJournal, SetState};
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;
use tracing::{debug, warn};

/// How a delivery ended.
#[derive(Debug)]
pub(crate) enum Carried {
    /// Settled: the outcome is stored.
    Settled(Box<Settle>, PublicKey),
    /// The machine did not take it into its books.
    Refused(Refusal),
    /// How it ended could not be stored now; the machine keeps its outcome, or gets
    /// the order again.
    NotStored(Denial),
    /// The link was lost; the outcome comes when the machine is back.
    Lost,
}

/// What is heard of a run on its way.
#[derive(Debug)]
pub(crate) enum Heard {
    /// Where it stands.
    State(MachineState),
    /// Something for those who watch.
    Note(Note),
    /// The machine cannot use its books now; it gets the order again in a while.
    NotYet,
}

/// How long a machine that cannot use its books is left in peace.
const BOOKS_AGAIN: Duration = Duration::from_secs(60);

/// Whether a machine may have got an order before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sending {
    /// It has not, if it gets it over the link with this number.
    First(usize),
    /// It may have.
    Again,
    /// It has said that it had begun it.
    Begun,
}

impl Sending {
    /// The same over the link with this number.
    fn over(self, link: usize) -> Self {
        match self {
            Self::First(first) if first != link => Self::Again,
            known => known,
        }
    }

    /// Whether a refusal says what becomes of the run. A machine that cannot use
    /// its books does not know whether it stands in them.
    fn is_settled_by(self, refusal: Refusal) -> bool {
        matches!(self, Self::First(_)) || !matches!(refusal, Refusal::NoJournal | Refusal::LedgerFull)
    }
}

/// Sends an order over a machine's link, with its cancel if it was taken back,
/// and follows it to its outcome. `told` hears whatever the machine reports on the way.
pub(crate) async fn deliver<F: Future<Output = ()>>(
    shared: &Arc<Shared>,
    machine: MachineId,
    (order, cancel, sending): (Envelope, Option<Envelope>, Sending),
    run: RunId,
    told: impl Fn(Heard) -> F,
) -> Carried {
    let Some(linked) = shared.presence.machine(&machine) else { return Carried::Lost };
    let sending = sending.over(linked.link.serial());
    loop {
        let parcel = (order.clone(), cancel.clone(), sending);
        match attempt(shared, &linked.link, machine, parcel, run, &told).await {
            Ok(Some(carried)) => return carried,
            Ok(None) => told(Heard::NotYet).await,
            Err(error) => {
                if let Some(why) = error.reproach() {
                    warn!(%machine, %error, "a machine misbehaved");
                    linked.link.close(why);
                }
                return Carried::Lost;
            }
        }
        tokio::select! {
            biased;
            // On its next link it gets what it is owed.
            _ = linked.link.closed() => return Carried::Lost,
            () = shared.draining.cancelled() => return Carried::Lost,
            () = tokio::time::sleep(BOOKS_AGAIN) => {}
        }
    }
}

/// One sending; nothing where the machine cannot say what becomes of the run.
async fn attempt<F: Future<Output = ()>>(
    shared: &Arc<Shared>,
    link: &fernwart_protocol::link::Link,
    machine: MachineId,
    (order, cancel, sending): (Envelope, Option<Envelope>, Sending),
    run: RunId,
    told: &impl Fn(Heard) -> F,
) -> Result<Option<Carried>, FrameError> {
    let (mut send, mut receive) = link.open().await.map_err(|_| FrameError::Cut)?;
    let sent = sha256(order.bytes.as_bytes());
    let first = match (cancel, sending) {
        (cancel, Sending::Begun) => Deliver::Begun(order, cancel),
        (Some(cancel), Sending::First(_) | Sending::Again) => Deliver::TakenBack(order, cancel),
        (None, Sending::First(_) | Sending::Again) => Deliver::Order(order),
    };
    send.demand_pace();
    send.send(&first).await?;
    shared.metrics.order_sent();
    let begun = tokio::time::Instant::now();
    loop {
        match receive.expect::<Delivered>().await? {
            Delivered::State(state) => told(Heard::State(state)).await,
            Delivered::Told(note) => told(Heard::Note(note)).await,
            Delivered::Refused(refusal) if !sending.is_settled_by(refusal) => {
                send.finish();
                warn!(%machine, %run, code = refusal.code(), "a machine cannot use its books; the order is brought again");
                return Ok(None);
            }
            // That it had begun is known; this says nothing of its end.
            Delivered::Refused(refusal) if sending == Sending::Begun => {
                send.finish();
                warn!(%machine, %run, code = refusal.code(), "a machine does not say what became of a run that had begun");
                return Ok(Some(Carried::Lost));
            }
            Delivered::Refused(refusal) => {
                send.finish();
                let state = SetState { run, state: RunState::Refused, refusal: Some(refusal) };
                if let Err(error) = shared.store.write(state).await {
                    // The order will be brought again, and may then be taken.
                    warn!(%run, %error, "a refusal could not be stored");
                    return Ok(Some(Carried::NotStored(shared.denial(&error))));
                }
                shared.metrics.order_refused(refusal);
                shared.happened_on(&machine, |machine| Happened::RunRefused(machine, run, refusal));
                return Ok(Some(Carried::Refused(refusal)));
            }
            Delivered::Outcome(settle) => {
                let origin = Origin::Delivered(sent);
                let (word, carried) = match store(shared, machine, *settle.clone(), origin).await {
                    Ok((countersignature, key)) => {
                        shared.metrics.delivered(begun.elapsed());
                        (Stored::Countersigned(countersignature), Carried::Settled(settle, key))
                    }
                    Err(denial) => (Stored::NotNow(denial), Carried::NotStored(denial)),
                };
                send.send(&word).await?;
                send.finish();
                return Ok(Some(carried));
            }
        }
    }
}

/// How an outcome has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Origin {
    /// On the stream on which this order was sent: its hash.
    Delivered(Digest),
    /// By itself, later: the order must be staff's.
    Claimed,
}

/// Whether the order in a settlement is one that this hub has carried, or that
/// staff has signed.
fn is_genuine(shared: &Shared, order: &Envelope, origin: Origin) -> bool {
    match origin {
        Origin::Delivered(sent) => sha256(order.bytes.as_bytes()) == sent,
        Origin::Claimed => shared.published.catalogue().is_some_and(|catalogue| {
            let entry = catalogue.staff.find(&order.key);
            entry.is_some_and(|entry| envelope::open::<Order>(order, &entry.order_key).is_ok())
        }),
    }
}

/// Keeps where a machine's journal stands, and what is wrong with it.
pub(crate) async fn note_journal(
    shared: &Shared,
    machine: MachineId,
    (seq, head): (u64, Digest),
    alarm: Option<String>,
) {
    if let Some(alarm) = &alarm {
        warn!(%machine, alarm, "this machine was restored from a backup, or its records were altered");
    }
    let alarm = alarm.map(|alarm| Text::clipped(&alarm));
    if let Some(alarm) = &alarm {
        shared.happened_on(&machine, |machine| Happened::Alarm(machine, alarm.clone()));
    }
    if let Err(error) = shared.store.write(NoteJournal { machine, seq, head, alarm }).await {
        warn!(%machine, %error, "a journal's head could not be stored");
    }
}

/// Stores an outcome and signs for it. Also the machine's evidence key.
///
/// # Errors
/// When it is not this machine's word, or cannot be stored.
pub(crate) async fn store(
    shared: &Arc<Shared>,
    machine: MachineId,
    settle: Settle,
    origin: Origin,
) -> Result<(Envelope, PublicKey), Denial> {
    let known = shared.store.machine(&machine).ok_or(Denial::NoSuchMachine)?;
    let receipt: Receipt = envelope::open(&settle.receipt, &known.evidence_key).map_err(|_| Denial::NotUnderstood)?;
    let order = Order::from_bytes(settle.order.bytes.as_bytes()).map_err(|_| Denial::NotUnderstood)?;
    // A technician who has left has given orders before: what is known is settled.
    let carried = || async {
        matches!(shared.store.evidence(&order.run).await, Ok(Some(carried)) if carried.order == settle.order)
    };
    let fits = receipt.machine == machine
        && order.machine == machine
        && (is_genuine(shared, &settle.order, origin) || carried().await)
        && receipt.run == order.run
        && receipt.order == sha256(settle.order.bytes.as_bytes())
        && (settle.body.as_bytes().is_empty() || receipt.body == sha256(settle.body.as_bytes()));
    if !fits {
        warn!(%machine, run = %receipt.run, "a receipt does not fit what came with it");
        return Err(Denial::NotUnderstood);
    }
    let receipt_hash = sha256(settle.receipt.bytes.as_bytes());
    // A look at one section says nothing about the others.
    let looked = matches!(&order.action, Action::Diagnose { sections } if sections.as_slice().is_empty());
    let verdict = match receipt.outcome {
        Outcome::Ok if looked => Summary::unpack(settle.body.as_bytes())
            .ok()
            .filter(|(report, _)| report.is_whole())
            .map(|(report, _)| verdict(&report)),
        Outcome::Ok
        | Outcome::Failed
        | Outcome::Refused
        | Outcome::Expired
        | Outcome::Cancelled
        | Outcome::Interrupted => None,
    };
    if receipt.refusal == Some(Refusal::RecordsWentBack) {
        // First: an outcome that is stored does not come a second time.
        let alarm = "its records went back: they did not know a run that had begun there".to_owned();
        note_journal(shared, machine, (receipt.journal_seq, receipt.journal_head), Some(alarm)).await;
    }
    let settled = shared
        .store
        .settle(fernwart_store::Settle {
            run: receipt.run,
            machine,
            order: settle.order,
            outcome: receipt.outcome,
            receipt: settle.receipt,
            receipt_hash,
            report: settle.body.into_bytes(),
            verdict: verdict.clone(),
            journal: (receipt.journal_seq, receipt.journal_head),
            now: shared.now(),
            chain: fernwart_certs::chain::next_head,
        })
        .await
        .map_err(|error| {
            warn!(%machine, run = %receipt.run, %error, "an outcome could not be stored");
            shared.denial(&error)
        })??;
    if settled.is_new {
        shared.metrics.outcome_stored(receipt.outcome);
        shared.happened_on(&machine, |machine| Happened::RunSettled(machine, receipt.run, receipt.outcome));
    }
    if let Some(verdict) = verdict {
        shared.asking.told(machine);
        if settled.is_new && verdict != known.verdict {
            shared.happened_on(&machine, |machine| Happened::Health(machine, verdict));
        }
    }
    let said = Countersignature {
        run: receipt.run,
        machine,
        receipt: receipt_hash,
        chain_seq: settled.seq,
        chain_head: settled.head,
        key: shared.evidence_id,
        at: settled.at,
    };
    debug!(%machine, run = %receipt.run, outcome = receipt.outcome.as_str(), "an outcome is stored");
    let countersignature = envelope::seal(&said, &shared.evidence).map_err(|_| Denial::NotUnderstood)?;
    Ok((countersignature, known.evidence_key))
}
