//! Jobs: many orders in, news of each out, whether or not anybody listens.
//!
//! ```text
//! orders ─▶ store (away | queued ─▶ offered) ─▶ machines, many at once ─▶ outcomes stored ─▶ news
//! ```
//! What finds a place at once is offered at once; the rest is queued, and may
//! be taken back, until a place is free.
//! The technician may leave at any moment: the stream is only for watching.

use crate::Shared;
use crate::delivery::order::{PendingOrder, deliver_one, is_script, send_update, send_update_later, settled_news};
use crate::delivery::outcome::unread;
use crate::delivery::redelivery::catch_up;
use crate::doors::caller::Caller;
use crate::staff::visible;
use fernwart_certs::envelope::EnvelopeError;
use fernwart_fleet::{Machine, Run, RunState, Standing};
use fernwart_protocol::code::Denial;
use fernwart_protocol::document::{Action, ActionKind, BadDocument, Document, Envelope, Order};
use fernwart_protocol::event::Happened;
use fernwart_protocol::id::{Digest, JobId, KeyId, RunId};
use fernwart_protocol::limits::JOB_MACHINES;
use fernwart_protocol::link::{FrameError, Link, Receiver, Sender};
use fernwart_protocol::script::{Bundle, Declared, Manifest};
use fernwart_protocol::staff::{JobHead, News, Orders, Reply, Update};
use fernwart_store::{NewJob, NewRun};
use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, Semaphore, mpsc};
use tracing::{info, warn};

/// Orders under way at once unless the technician asks for fewer: measured on
/// raw QUIC, 2,000 beat both 500 and no limit.
const PARALLEL: usize = 2_000;

/// News that waits for a technician's link; past that, deliveries wait a
/// little and then go on without being watched.
const NEWS: usize = 64;

/// How often a watched job's runs are looked up; less often where a look takes
/// more than a tenth of that, as with ten thousand runs.
const LOOK_AGAIN: Duration = Duration::from_millis(250);
const LOOK_SELDOM: Duration = Duration::from_secs(5);

/// What becomes of an act for a machine that is away. A look never waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum WhenAway {
    /// It is over.
    Over,
    /// It is held until the machine returns or the order expires.
    Held,
}

/// Takes a job in, carries its orders, and sends news until all are over.
pub(crate) async fn submit(
    shared: &Arc<Shared>,
    (caller, link): (&Caller, &Link),
    (head, when_away): (JobHead, WhenAway),
    send: &mut Sender,
    receive: &mut Receiver,
) -> Result<Result<(), Denial>, FrameError> {
    if head.orders as usize > JOB_MACHINES {
        return Ok(Err(Denial::TooMany));
    }
    if head.orders == 0 {
        return Ok(Err(Denial::NotUnderstood));
    }
    if shared.draining.is_cancelled() {
        return Ok(Err(Denial::ShuttingDown));
    }
    let mut envelopes = Vec::new();
    while envelopes.len() < head.orders as usize {
        envelopes.extend(receive.first::<Orders>().await?.0);
    }
    if envelopes.len() != head.orders as usize {
        return Ok(Err(Denial::NotUnderstood));
    }
    let mut pending_orders = match pending_orders(shared, caller, envelopes) {
        Ok(pending_orders) => pending_orders,
        Err(denial) => return Ok(Err(denial)),
    };
    let parallel = if head.parallel == 0 { PARALLEL } else { PARALLEL.min(head.parallel as usize) };
    let mut free = parallel;
    for pending in &mut pending_orders {
        pending.state = match shared.presence.machine(&pending.order.machine) {
            None if when_away == WhenAway::Held && pending.order.action.kind() == ActionKind::Act => RunState::Held,
            None => RunState::Away,
            Some(_) if free == 0 => RunState::Queued,
            Some(linked) => {
                free -= 1;
                pending.way = Some(shared.in_flight.begin(pending.order.run, linked.link.id()));
                RunState::Offered
            }
        };
    }
    let runs: Vec<NewRun> = pending_orders
        .iter()
        .map(|pending| NewRun {
            id: pending.order.run,
            machine: pending.order.machine,
            state: pending.state,
            order: pending.envelope.clone(),
            is_script: is_script(&pending.order),
            not_after: pending.order.not_after,
        })
        .collect();
    let away = runs.iter().filter(|run| run.state == RunState::Away).count();
    let job = NewJob {
        action: head.action.clone(),
        key: caller.entry.key,
        staff: caller.entry.name.clone(),
        reason: head.reason.clone(),
        at: shared.now(),
        runs,
    };
    let id = match shared.store.write(job).await {
        Ok(id) => id,
        Err(error) => {
            warn!(%error, "a job could not be stored; nothing was sent");
            return Ok(Err(shared.denial(&error)));
        }
    };
    // Stored first, marked then, and only then looked who has come back: whoever
    // comes between finds the one or is found by the other.
    let acts = pending_orders.iter().filter(|pending| is_script(&pending.order));
    acts.for_each(|pending| shared.redelivery().mark(pending.order.machine));
    info!(job = %id, by = %caller.entry.name, machines = pending_orders.len(), away, "a job begins");
    let machines = u32::try_from(pending_orders.len()).unwrap_or(u32::MAX);
    let (action, by, reason) = (head.action, caller.entry.name.clone(), head.reason);
    shared.happened_to(caller.entry.key, Happened::JobBegan { job: id, action, by, reason, machines });
    send.send(&Reply::Job(id)).await?;

    let places = Arc::new(Semaphore::new(parallel));
    let (news, mut updates) = mpsc::channel::<Update>(NEWS);
    {
        let shared = shared.clone();
        shared.clone().tasks.spawn(async move {
            for pending in pending_orders {
                if let RunState::Away | RunState::Held = pending.state {
                    let what = if pending.state == RunState::Held { News::Held } else { News::Away };
                    send_update(&news, &pending.order, what).await;
                    // It may have come back while the job was being stored.
                    let machine = pending.order.machine;
                    if pending.state == RunState::Held && shared.presence.machine(&machine).is_some() {
                        shared.deliveries.spawn(catch_up(shared.clone(), machine));
                    }
                    continue;
                }
                let Ok(place) = places.clone().acquire_owned().await else { return };
                let (shared, news) = (shared.clone(), news.clone());
                shared.clone().deliveries.spawn(async move {
                    let lost = deliver_one(&shared, pending, &news, &Notify::new()).await;
                    // A machine that was lost holds no place of others.
                    drop(place);
                    if let Some(lost) = lost {
                        shared.tasks.spawn(send_update_later(shared.clone(), lost, news));
                    }
                });
            }
        });
    }
    loop {
        let update = tokio::select! {
            biased;
            // Whoever has left is told nothing more; the job goes on.
            _ = link.closed() => return Err(FrameError::Cut),
            update = updates.recv() => update,
        };
        match update {
            Some(update) => tell_update(send, update).await?,
            // Not all may be over: whoever listens asks again when the hub is back.
            None if shared.draining.is_cancelled() => return Ok(Err(Denial::ShuttingDown)),
            None => return Ok(Ok(())),
        }
    }
}

/// Tells of one run. What a program has no word for on the way is left out; an end
/// that it has no word for is none that it can be told.
async fn tell_update(send: &mut Sender, update: Update) -> Result<(), FrameError> {
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

/// Orders of the caller's own key, each for a machine within reach.
fn pending_orders(shared: &Shared, caller: &Caller, envelopes: Vec<Envelope>) -> Result<Vec<PendingOrder>, Denial> {
    let mut pending_orders = Vec::with_capacity(envelopes.len());
    let mut seen = HashSet::new();
    let mut judged: Vec<Action> = Vec::new();
    let catalogue = shared.published.catalogue().ok_or(Denial::NoCatalogue)?;
    for envelope in envelopes {
        let order =
            Order::from_bytes(envelope.bytes.as_bytes()).map_err(|error| unread(&EnvelopeError::Document(error)))?;
        if envelope.key != caller.entry.key || order.key != caller.entry.key || !seen.insert(order.run) {
            return Err(Denial::NotUnderstood);
        }
        if !catalogue.may(&caller.entry, &order.action) {
            return Err(Denial::BeyondRole);
        }
        // Orders of one job ask for the same: it is looked at once.
        if !judged.contains(&order.action) {
            fits_script(shared, &order)?;
            judged.push(order.action.clone());
        }
        let machine = shared.store.machine(&order.machine);
        if !machine.is_some_and(|machine| machine.standing == Standing::Admitted && caller.reaches(&machine)) {
            return Err(Denial::NoSuchMachine);
        }
        pending_orders.push(PendingOrder { order, envelope, state: RunState::Queued, cancel: None, way: None });
    }
    Ok(pending_orders)
}

/// Whether an order's script is approved and takes its parameters. The machine
/// decides; what it would refuse need not travel.
fn fits_script(shared: &Shared, order: &Order) -> Result<(), Denial> {
    let Action::Script { bundle, version, sha256, parameters, privilege, .. } = &order.action else { return Ok(()) };
    let catalogue = shared.published.catalogue().ok_or(Denial::NoCatalogue)?;
    let approved = catalogue.scripts.get(bundle).ok_or(Denial::UnknownScript)?;
    if (approved.version, approved.sha256) != (*version, *sha256) {
        return Err(Denial::UnknownScript);
    }
    let document = shared.published.blob(sha256).ok_or(Denial::NoSuchBlob)?;
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

/// Sends a job's news from its beginning until all runs are over, as far as the
/// staff list of the moment lets whoever watches reach.
pub(crate) async fn watch(
    shared: &Arc<Shared>,
    (key, tls_key): (KeyId, Digest),
    link: &Link,
    id: JobId,
    send: &mut Sender,
) -> Result<Result<(), Denial>, FrameError> {
    let mut told = HashSet::new();
    let mut held = HashSet::new();
    loop {
        let caller = match Caller::current(shared, key, tls_key) {
            Ok(caller) => caller,
            Err(denial) => return Ok(Err(denial)),
        };
        if let Err(denial) = visible(shared, &caller, id).await {
            return Ok(Err(denial));
        }
        let begun = tokio::time::Instant::now();
        let runs = match shared.store.runs(id).await {
            Ok(runs) => runs,
            Err(error) => return Ok(Err(shared.denial(&error))),
        };
        let again = LOOK_AGAIN.max(begun.elapsed() * 10).min(LOOK_SELDOM);
        let reached = |run: &Run| shared.store.machine(&run.machine).filter(|machine| caller.reaches(machine));
        for run in runs.iter().filter(|run| run.state == RunState::Held) {
            if reached(run).is_some() && held.insert(run.id) {
                tell_update(send, Update { run: run.id, machine: run.machine, news: News::Held }).await?;
            }
        }
        for run in runs.iter().filter(|run| run.state.is_final()) {
            let Some(machine) = reached(run) else { continue };
            if !told.insert(run.id) {
                continue;
            }
            if let Some(news) = news_of(shared, run, &machine).await {
                tell_update(send, Update { run: run.id, machine: run.machine, news }).await?;
            }
        }
        if runs.iter().all(|run| run.state.is_final()) {
            return Ok(Ok(()));
        }
        tokio::select! {
            biased;
            () = shared.stop.cancelled() => return Ok(Err(Denial::ShuttingDown)),
            // Nobody watches any more.
            _ = link.closed() => return Err(FrameError::Cut),
            () = tokio::time::sleep(again) => {}
        }
    }
}

/// Where a run stands; nothing while it waits for its turn.
async fn news_of(shared: &Shared, run: &Run, machine: &Machine) -> Option<News> {
    Some(match run.state {
        RunState::Away => News::Away,
        RunState::Refused => run.refusal.map_or(News::NoAnswer, News::Refused),
        RunState::Settled => settled_news(shared, run.id, machine).await,
        RunState::Cancelled => News::Cancelled,
        RunState::Expired => News::NoAnswer,
        RunState::Held => News::Held,
        RunState::Offered => News::Offered,
        RunState::Running => News::Started,
        RunState::Queued => return None,
    })
}

/// Tells where these runs of a job stand, as far as the caller reaches.
pub(crate) async fn outcomes(
    shared: &Shared,
    caller: &Caller,
    id: JobId,
    wanted: &[RunId],
    send: &mut Sender,
) -> Result<Result<(), Denial>, FrameError> {
    if let Err(denial) = visible(shared, caller, id).await {
        return Ok(Err(denial));
    }
    let runs = match shared.store.runs(id).await {
        Ok(runs) => runs,
        Err(error) => return Ok(Err(shared.denial(&error))),
    };
    let wanted: HashSet<&RunId> = wanted.iter().collect();
    for run in runs.iter().filter(|run| wanted.contains(&run.id)) {
        let Some(machine) = shared.store.machine(&run.machine).filter(|machine| caller.reaches(machine)) else {
            continue;
        };
        if let Some(news) = news_of(shared, run, &machine).await {
            tell_update(send, Update { run: run.id, machine: run.machine, news }).await?;
        }
    }
    Ok(Ok(()))
}
