//! Accepts jobs of many orders and reports on each, whether or not anybody watches.
//!
//! ```text
//! orders ─▶ store (away | queued ─▶ offered) ─▶ machines, many at once ─▶ outcomes stored ─▶ news
//! ```
//! As many orders as there are slots are offered at once; the rest are queued until a slot is free,
//! and can be withdrawn until then. The technician may leave at any moment: the stream is only for
//! watching.

use crate::delivery::order::{PendingOrder, deliver_one, is_script, send_update, send_update_later, settled_news};
use crate::delivery::redelivery::catch_up;
use crate::staff::StaffService;
use crate::staff::machines::reachable;
use crate::staff::records::visible;
use crate::trust::caller::Caller;
use crate::trust::denial_of;
use crate::unanswered::Unanswered;
use fernwart_certs::envelope::EnvelopeError;
use fernwart_fleet::{Machine, Run, RunState, Standing};
use fernwart_protocol::code::Denial;
use fernwart_protocol::document::{Action, ActionKind, BadDocument, Cancel, Document, Envelope, Order};
use fernwart_protocol::event::Happened;
use fernwart_protocol::id::{Digest, JobId, KeyId, RunId};
use fernwart_protocol::limits::JOB_MACHINES;
use fernwart_protocol::link::{FrameError, Link, Receiver, Sender};
use fernwart_protocol::script::{Bundle, Declared, Manifest};
use fernwart_protocol::staff::{JobHead, News, Orders, Reply, Update};
use fernwart_protocol::to_agent::Control;
use fernwart_store::{KeepCancel, NewJob, NewRun, Withdraw};
use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, Semaphore, mpsc};
use tracing::{info, warn};

/// Maximum number of concurrent orders unless the technician asks for fewer: measured on raw QUIC,
/// 2,000 beat both 500 and no limit.
const PARALLEL: usize = 2_000;

/// Updates buffered for a technician's link; when it is full, deliveries wait a little and then go
/// on unwatched.
const NEWS: usize = 64;

/// How often a watched job's runs are read; less often if a read takes more than a tenth of that,
/// as with ten thousand runs.
const LOOK_AGAIN: Duration = Duration::from_millis(250);
const LOOK_RARELY: Duration = Duration::from_secs(5);

/// What happens to an act for a machine that is away. A look is never held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum WhenAway {
    /// The run ends.
    Over,
    /// It is held until the machine returns or the order expires.
    Held,
}

/// Accepts a job, delivers its orders, and sends updates until all runs have ended.
pub(super) async fn submit(
    service: &Arc<StaffService>,
    (caller, link): (&Caller, &Link),
    (head, when_away): (JobHead, WhenAway),
    send: &mut Sender,
    receive: &mut Receiver,
) -> Result<(), Unanswered> {
    let envelopes = read_orders(service, &head, receive).await?;
    let mut orders = pending_orders(service, caller, envelopes)?;
    let parallel = if head.parallel == 0 { PARALLEL } else { PARALLEL.min(head.parallel as usize) };
    place(service, &mut orders, when_away, parallel);
    let id = store_job(service, caller, head, &orders).await?;
    send.send(&Reply::Job(id)).await?;
    let (news, mut updates) = mpsc::channel::<Update>(NEWS);
    service.lifecycle.tasks.spawn(carry(service.clone(), orders, parallel, news));
    loop {
        let update = tokio::select! {
            biased;
            // The technician has left; the job continues.
            _ = link.closed() => return Err(FrameError::Cut.into()),
            update = updates.recv() => update,
        };
        match update {
            Some(update) => send_update_to(send, update).await?,
            // Some runs may not have ended: the technician's program asks again when the hub is
            // back.
            None if service.lifecycle.draining.is_cancelled() => return Err(Denial::ShuttingDown.into()),
            None => return Ok(()),
        }
    }
}

/// The orders of a job, as many as its head announces.
async fn read_orders(
    service: &StaffService,
    head: &JobHead,
    receive: &mut Receiver,
) -> Result<Vec<Envelope>, Unanswered> {
    let announced = head.orders as usize;
    if announced > JOB_MACHINES {
        return Err(Denial::TooMany.into());
    }
    if announced == 0 {
        return Err(Denial::NotUnderstood.into());
    }
    if service.lifecycle.draining.is_cancelled() {
        return Err(Denial::ShuttingDown.into());
    }
    let mut envelopes = Vec::new();
    while envelopes.len() < announced {
        envelopes.extend(receive.first::<Orders>().await?.0);
    }
    if envelopes.len() == announced { Ok(envelopes) } else { Err(Denial::NotUnderstood.into()) }
}

/// Sets the first state of each order: offered, queued, or for a machine that is away.
fn place(service: &StaffService, orders: &mut [PendingOrder], when_away: WhenAway, parallel: usize) {
    let mut free = parallel;
    for pending in orders {
        pending.state = match service.presence.machine(&pending.order.machine) {
            None if when_away == WhenAway::Held && pending.order.action.kind() == ActionKind::Act => RunState::Held,
            None => RunState::Away,
            Some(_) if free == 0 => RunState::Queued,
            Some(linked) => {
                free -= 1;
                pending.in_flight = Some(service.delivery.in_flight.begin(pending.order.run, linked.link.id()));
                RunState::Offered
            }
        };
    }
}

/// Stores a job with its runs, and announces it.
async fn store_job(
    service: &StaffService,
    caller: &Caller,
    head: JobHead,
    orders: &[PendingOrder],
) -> Result<JobId, Denial> {
    let run = |pending: &PendingOrder| NewRun {
        id: pending.order.run,
        machine: pending.order.machine,
        state: pending.state,
        order: pending.envelope.clone(),
        is_script: is_script(&pending.order),
        not_after: pending.order.not_after,
    };
    let runs: Vec<NewRun> = orders.iter().map(run).collect();
    let away = runs.iter().filter(|run| run.state == RunState::Away).count();
    let (action, by, reason) = (head.action, caller.entry.name.clone(), head.reason);
    let (key, at) = (caller.entry.key, service.records.now());
    let job = NewJob { action: action.clone(), key, staff: by.clone(), reason: reason.clone(), at, runs };
    let stored = service.records.store.write(job).await;
    let id = service.records.or_denial(stored.inspect_err(|_| warn!("a job could not be stored; nothing was sent")))?;
    // Store first, then mark, then check who has linked: a machine that links in between either
    // finds the stored order or is found here.
    let acts = orders.iter().filter(|pending| is_script(&pending.order));
    acts.for_each(|pending| service.delivery.redelivery().mark(pending.order.machine));
    info!(job = %id, by = %by, machines = orders.len(), away, "a job begins");
    let machines = u32::try_from(orders.len()).unwrap_or(u32::MAX);
    service.records.happened_to(key, Happened::JobBegan { job: id, action, by, reason, machines });
    Ok(id)
}

/// Delivers the orders of a job, at most `parallel` at once.
async fn carry(service: Arc<StaffService>, orders: Vec<PendingOrder>, parallel: usize, news: mpsc::Sender<Update>) {
    let (delivery, lifecycle) = (&service.delivery, &service.lifecycle);
    let places = Arc::new(Semaphore::new(parallel));
    for pending in orders {
        if let RunState::Away | RunState::Held = pending.state {
            let what = if pending.state == RunState::Held { News::Held } else { News::Away };
            send_update(&news, &pending.order, what).await;
            // The machine may have linked while the job was being stored.
            let machine = pending.order.machine;
            if pending.state == RunState::Held && service.presence.machine(&machine).is_some() {
                lifecycle.deliveries.spawn(catch_up(delivery.clone(), machine));
            }
            continue;
        }
        let Ok(place) = places.clone().acquire_owned().await else { return };
        let (delivery, tasks, news) = (delivery.clone(), lifecycle.tasks.clone(), news.clone());
        lifecycle.deliveries.spawn(async move {
            let lost = deliver_one(&delivery, pending, &news, &Notify::new()).await;
            // A machine whose link was lost must not keep a slot.
            drop(place);
            if let Some(lost) = lost {
                tasks.spawn(send_update_later(delivery, lost, news));
            }
        });
    }
}

/// Cancels orders: in the store if they were not offered yet, otherwise at their machines.
pub(super) async fn cancel(
    service: &StaffService,
    caller: &Caller,
    cancels: impl IntoIterator<Item = Envelope>,
) -> Result<(), Denial> {
    let (records, delivery) = (&service.records, &service.delivery);
    for envelope in cancels {
        let cancel: Cancel =
            fernwart_certs::envelope::open(&envelope, &caller.entry.order_key).map_err(|error| denial_of(&error))?;
        reachable(service, caller, cancel.machine)?;
        let withdrawn = records.store.write(Withdraw { run: cancel.run, machine: cancel.machine }).await;
        if records.or_denial(withdrawn)? {
            continue;
        }
        // Store it first: a machine that is away gets it when it links again.
        let kept = KeepCancel { run: cancel.run, machine: cancel.machine, envelope: envelope.clone() };
        records.or_denial(records.store.write(kept).await)?;
        delivery.redelivery().mark(cancel.machine);
        if let Some(linked) = service.presence.machine(&cancel.machine) {
            linked.say(&Control::Cancel(envelope)).await;
        }
    }
    Ok(())
}

/// Sends one update. If the program is too old for it, an intermediate update is left out, and an
/// end is replaced by a denial.
async fn send_update_to(send: &mut Sender, update: Update) -> Result<(), FrameError> {
    let Update { run, machine, ref news } = update;
    let is_end = !matches!(news, News::Offered | News::Started | News::Note(_));
    match send.send(&Reply::Update(update)).await {
        Err(FrameError::PeerIsOlder(_)) if is_end => {
            let news = News::Denied(Denial::Incompatible);
            send.send(&Reply::Update(Update { run, machine, news })).await
        }
        Err(FrameError::PeerIsOlder(_)) => Ok(()),
        sent => sent,
    }
}

/// Checks the orders of a job: each must name the caller's key and be for a machine within reach.
/// Signatures are verified by the machines.
fn pending_orders(
    service: &StaffService,
    caller: &Caller,
    envelopes: Vec<Envelope>,
) -> Result<Vec<PendingOrder>, Denial> {
    let mut pending_orders = Vec::with_capacity(envelopes.len());
    let mut seen = HashSet::new();
    let mut judged: Vec<Action> = Vec::new();
    let catalogue = service.trust.published.catalogue().ok_or(Denial::NoCatalogue)?;
    for envelope in envelopes {
        let order =
            Order::from_bytes(envelope.bytes.as_bytes()).map_err(|error| denial_of(&EnvelopeError::Document(error)))?;
        if envelope.key != caller.entry.key || order.key != caller.entry.key || !seen.insert(order.run) {
            return Err(Denial::NotUnderstood);
        }
        if !catalogue.may(&caller.entry, &order.action) {
            return Err(Denial::BeyondRole);
        }
        // The orders of one job have the same action: check it once.
        if !judged.contains(&order.action) {
            fits_script(service, &order)?;
            judged.push(order.action.clone());
        }
        let machine = service.records.store.machine(&order.machine);
        if !machine.is_some_and(|machine| machine.standing == Standing::Admitted && caller.reaches(&machine)) {
            return Err(Denial::NoSuchMachine);
        }
        pending_orders.push(PendingOrder { order, envelope, state: RunState::Queued, cancel: None, in_flight: None });
    }
    Ok(pending_orders)
}

/// Whether an order's script is approved and accepts its parameters. The machine decides; this only
/// saves sending what it would refuse.
fn fits_script(service: &StaffService, order: &Order) -> Result<(), Denial> {
    let Action::Script { bundle, version, sha256, parameters, privilege, .. } = &order.action else { return Ok(()) };
    let catalogue = service.trust.published.catalogue().ok_or(Denial::NoCatalogue)?;
    let approved = catalogue.scripts.get(bundle).ok_or(Denial::UnknownScript)?;
    if (approved.version, approved.sha256) != (*version, *sha256) {
        return Err(Denial::UnknownScript);
    }
    let document = service.trust.published.blob(sha256).ok_or(Denial::NoSuchBlob)?;
    let bundle = Bundle::from_bytes(&document).map_err(|error| match error {
        BadDocument::Newer { .. } => Denial::NewerDocument,
        _ => Denial::UnknownScript,
    })?;
    let manifest = Manifest::read(bundle.manifest.as_raw()).map_err(|_| Denial::UnknownScript)?;
    if manifest.privilege != *privilege {
        return Err(Denial::UnknownScript);
    }
    Declared::check_open(&manifest.parameters, parameters).map(drop).map_err(|_| Denial::UnfitParameters)
}

/// Sends a job's updates from its beginning until all runs have ended, for the machines that the
/// current staff list lets the watcher reach.
pub(super) async fn watch(
    service: &Arc<StaffService>,
    (key, tls_key): (KeyId, Digest),
    link: &Link,
    id: JobId,
    send: &mut Sender,
) -> Result<(), Unanswered> {
    let mut reported = HashSet::new();
    let mut held = HashSet::new();
    loop {
        let caller = Caller::current(&service.trust, key, tls_key)?;
        visible(service, &caller, id).await?;
        let begun = tokio::time::Instant::now();
        let runs = service.records.or_denial(service.records.store.runs(id).await)?;
        let again = LOOK_AGAIN.max(begun.elapsed() * 10).min(LOOK_RARELY);
        let reached = |run: &Run| service.records.store.machine(&run.machine).filter(|machine| caller.reaches(machine));
        for run in runs.iter().filter(|run| run.state == RunState::Held) {
            if reached(run).is_some() && held.insert(run.id) {
                send_update_to(send, Update { run: run.id, machine: run.machine, news: News::Held }).await?;
            }
        }
        for run in runs.iter().filter(|run| run.state.is_final()) {
            let Some(machine) = reached(run) else { continue };
            if !reported.insert(run.id) {
                continue;
            }
            if let Some(news) = news_of(service, run, &machine).await {
                send_update_to(send, Update { run: run.id, machine: run.machine, news }).await?;
            }
        }
        if runs.iter().all(|run| run.state.is_final()) {
            return Ok(());
        }
        tokio::select! {
            biased;
            () = service.lifecycle.stop.cancelled() => return Err(Denial::ShuttingDown.into()),
            // The watcher has left.
            _ = link.closed() => return Err(FrameError::Cut.into()),
            () = tokio::time::sleep(again) => {}
        }
    }
}

/// The update for a run's current state; `None` while it is queued.
async fn news_of(service: &StaffService, run: &Run, machine: &Machine) -> Option<News> {
    Some(match run.state {
        RunState::Away => News::Away,
        RunState::Refused => run.refusal.map_or(News::NoAnswer, News::Refused),
        RunState::Settled => settled_news(&service.delivery, run.id, machine).await,
        RunState::Cancelled => News::Cancelled,
        RunState::Expired => News::NoAnswer,
        RunState::Held => News::Held,
        RunState::Offered => News::Offered,
        RunState::Running => News::Started,
        RunState::Queued => return None,
    })
}

/// Sends the current state of these runs of a job, for the machines that the caller reaches.
pub(super) async fn outcomes(
    service: &StaffService,
    caller: &Caller,
    id: JobId,
    wanted: &[RunId],
    send: &mut Sender,
) -> Result<(), Unanswered> {
    visible(service, caller, id).await?;
    let runs = service.records.or_denial(service.records.store.runs(id).await)?;
    let wanted: HashSet<&RunId> = wanted.iter().collect();
    for run in runs.iter().filter(|run| wanted.contains(&run.id)) {
        let Some(machine) = service.records.store.machine(&run.machine).filter(|machine| caller.reaches(machine))
        else {
            continue;
        };
        if let Some(news) = news_of(service, run, &machine).await {
            send_update_to(send, Update { run: run.id, machine: run.machine, news }).await?;
        }
    }
    Ok(())
}
