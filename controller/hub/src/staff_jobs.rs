//! Jobs: many orders in, news of each out, whether or not anybody listens.
//!
//! ```text
//! orders ─▶ store (away | queued ─▶ offered) ─▶ machines, many at once ─▶ outcomes stored ─▶ news
//! ```
//! What finds a place at once is offered at once; the rest is queued, and may
//! be taken back, until a place is free.
//! The technician may leave at any moment: the stream is only for watching.

use crate::Shared;
use crate::caller::Caller;
use crate::carry::{self, Carried, Heard, Sending};
use crate::owed::{UNHEARD, catch_up};
use crate::staff_answers::visible;
use fernwart_fleet::{Machine, Run, RunState, Standing};
use fernwart_protocol::code::{Denial, Refusal};
use fernwart_protocol::document::{Action, ActionKind, Document, Envelope, Order};
use fernwart_protocol::event::Happened;
use fernwart_protocol::id::{Digest, JobId, KeyId, RunId};
use fernwart_protocol::limits::JOB_MACHINES;
use fernwart_protocol::link::{FrameError, Link, Receiver, Sender};
use fernwart_protocol::script::{Bundle, Declared, Manifest};
use fernwart_protocol::staff::{JobHead, News, Orders, Reply, Update};
use fernwart_protocol::text::Blob;
use fernwart_protocol::to_hub::RunState as MachineState;
use fernwart_store::{NewJob, NewRun, SetState};
use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::{Notify, Semaphore, mpsc};
use tracing::{info, warn};

/// Orders under way at once unless the technician asks for fewer: measured on
/// raw QUIC, 2,000 beat both 500 and no limit.
const PARALLEL: usize = 2_000;

/// News that waits for a technician's link; past that, deliveries wait a
/// little and then go on without being watched.
const NEWS: usize = 64;

/// How long a delivery waits for a technician who does not read.
const UNREAD: Duration = Duration::from_secs(20);

/// How often a watched job's runs are looked up; less often where a look takes
/// more than a tenth of that, as with ten thousand runs.
const LOOK_AGAIN: Duration = Duration::from_millis(250);
const LOOK_SELDOM: Duration = Duration::from_secs(5);

/// A run that its machine took longer than this to settle is left to the
/// machine's return.
const LONGEST: Duration = Duration::from_secs(24 * 3600);

/// How often it is looked after a run whose machine was lost: thousands may be
/// lost at once.
const LOST_AGAIN: Duration = Duration::from_secs(2);

/// An owner who does not answer is waited for until the order ends; the machine
/// says so a moment later.
const LAST_WORD: Duration = Duration::from_secs(3);

pub(crate) struct Parcel {
    pub(crate) order: Order,
    pub(crate) envelope: Envelope,
    pub(crate) state: RunState,
    /// Set where it was taken back after it had been offered.
    pub(crate) cancel: Option<Envelope>,
    pub(crate) sending: Sending,
}

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
    caller: &Caller,
    (head, when_away): (JobHead, WhenAway),
    send: &mut Sender,
    receive: &mut Receiver,
) -> Result<Result<(), Denial>, FrameError> {
    if head.orders as usize > JOB_MACHINES {
        return Ok(Err(Denial::TooMany));
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
    let mut parcels = match parcels(shared, caller, envelopes) {
        Ok(parcels) => parcels,
        Err(denial) => return Ok(Err(denial)),
    };
    let parallel = if head.parallel == 0 { PARALLEL } else { PARALLEL.min(head.parallel as usize) };
    let mut free = parallel;
    for parcel in &mut parcels {
        parcel.state = match shared.presence.machine(&parcel.order.machine) {
            None if when_away == WhenAway::Held && parcel.order.action.kind() == ActionKind::Act => RunState::Held,
            None => RunState::Away,
            Some(_) if free == 0 => RunState::Queued,
            Some(_) => {
                free -= 1;
                RunState::Offered
            }
        };
    }
    let runs: Vec<NewRun> = parcels
        .iter()
        .map(|parcel| NewRun {
            id: parcel.order.run,
            machine: parcel.order.machine,
            state: parcel.state,
            order: parcel.envelope.clone(),
            not_after: parcel.order.not_after,
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
    let acts = parcels.iter().filter(|parcel| is_script(&parcel.order));
    acts.for_each(|parcel| shared.owed().mark(parcel.order.machine));
    info!(job = %id, by = %caller.entry.name, machines = parcels.len(), away, "a job begins");
    let machines = u32::try_from(parcels.len()).unwrap_or(u32::MAX);
    let (action, by, reason) = (head.action, caller.entry.name.clone(), head.reason);
    shared.happened_to(caller.entry.key, Happened::JobBegan { job: id, action, by, reason, machines });
    send.send(&Reply::Job(id)).await?;

    let places = Arc::new(Semaphore::new(parallel));
    let (news, mut heard) = mpsc::channel::<Update>(NEWS);
    {
        let shared = shared.clone();
        shared.clone().tasks.spawn(async move {
            for parcel in parcels {
                if let RunState::Away | RunState::Held = parcel.state {
                    let what = if parcel.state == RunState::Held { News::Held } else { News::Away };
                    tell(&news, &parcel.order, what).await;
                    // It may have come back while the job was being stored.
                    let machine = parcel.order.machine;
                    if parcel.state == RunState::Held && shared.presence.machine(&machine).is_some() {
                        shared.deliveries.spawn(catch_up(shared.clone(), machine));
                    }
                    continue;
                }
                let Ok(place) = places.clone().acquire_owned().await else { return };
                let (shared, news) = (shared.clone(), news.clone());
                shared.clone().deliveries.spawn(async move {
                    let lost = carry_one(&shared, parcel, &news, &Notify::new()).await;
                    // A machine that was lost holds no place of others.
                    drop(place);
                    if let Some(lost) = lost {
                        shared.tasks.spawn(tell_later(shared.clone(), lost, news));
                    }
                });
            }
        });
    }
    while let Some(update) = heard.recv().await {
        send.send(&Reply::Update(update)).await?;
    }
    Ok(Ok(()))
}

/// Orders of the caller's own key, each for a machine within reach.
fn parcels(shared: &Shared, caller: &Caller, envelopes: Vec<Envelope>) -> Result<Vec<Parcel>, Denial> {
    let mut parcels = Vec::with_capacity(envelopes.len());
    let mut seen = HashSet::new();
    let mut judged: Vec<Action> = Vec::new();
    for envelope in envelopes {
        let order = Order::from_bytes(envelope.bytes.as_bytes()).map_err(|_| Denial::NotUnderstood)?;
        if envelope.key != caller.entry.key || order.key != caller.entry.key || !seen.insert(order.run) {
            return Err(Denial::NotUnderstood);
        }
        if !caller.entry.role.may(order.action.kind()) {
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
        parcels.push(Parcel { order, envelope, state: RunState::Queued, cancel: None, sending: Sending::First });
    }
    Ok(parcels)
}

/// Whether an order is brought again: a look is not worth it.
pub(crate) fn is_script(order: &Order) -> bool {
    matches!(order.action, Action::Script { .. })
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
    let bundle = Bundle::from_bytes(&document).map_err(|_| Denial::UnknownScript)?;
    let manifest = Manifest::read(bundle.manifest.as_raw()).map_err(|_| Denial::UnknownScript)?;
    if manifest.privilege != *privilege {
        return Err(Denial::UnknownScript);
    }
    Declared::check_open(&manifest.parameters, parameters).map(drop).map_err(|_| Denial::UnfitParameters)
}

async fn tell(news: &mpsc::Sender<Update>, order: &Order, what: News) {
    let update = Update { run: order.run, machine: order.machine, news: what };
    // A technician who has left, or does not read, does not hold up the job.
    let _ = news.send_timeout(update, UNREAD).await;
}

/// Carries one order to its end; `seen` is told when the machine has answered
/// first, or will not.
pub(crate) async fn carry_one(
    shared: &Arc<Shared>,
    parcel: Parcel,
    news: &mpsc::Sender<Update>,
    seen: &Notify,
) -> Option<Lost> {
    let lost = carry(shared, parcel, news, seen).await;
    seen.notify_one();
    lost
}

/// An act whose machine was lost on the way.
pub(crate) struct Lost {
    order: Order,
    /// How long to wait for what becomes of it.
    patience: Duration,
}

async fn carry(shared: &Arc<Shared>, parcel: Parcel, news: &mpsc::Sender<Update>, seen: &Notify) -> Option<Lost> {
    let Parcel { order, envelope, state, cancel, sending } = parcel;
    if order.not_after <= shared.now() && cancel.is_none() {
        // Its turn has not come in time; nothing is sent that nobody waits for.
        tell(news, &order, News::NoAnswer).await;
        return None;
    }
    if state == RunState::Queued {
        match shared.store.offer(order.run).await {
            // Only now can it be owed: a machine that came while it stood in line
            // owed nothing.
            Ok(true) if is_script(&order) => shared.owed().mark(order.machine),
            Ok(true) => {}
            Ok(false) => {
                tell(news, &order, News::Cancelled).await;
                return None;
            }
            Err(error) => {
                warn!(%error, "a queued order could not be offered");
                tell(news, &order, News::Denied(shared.denial(&error))).await;
                return None;
            }
        }
    }
    let left = u64::try_from(order.not_after.saturating_sub(shared.now())).unwrap_or_default();
    let patience = Duration::from_millis(left).min(LONGEST);
    let patience = if cancel.is_some() { patience.max(UNHEARD) } else { patience };
    tell(news, &order, News::Offered).await;
    let acts = matches!(order.action, Action::Script { .. });
    // What waited for the owner until the very end is told just after it.
    let patience = if acts { patience + LAST_WORD } else { patience };
    // A look must be done in time; an act must have begun by then.
    let (begun, has_begun) = (Notify::new(), AtomicBool::new(false));
    let told = |heard: Heard| {
        let (shared, run) = (shared.clone(), order.run);
        let (news, order, begun, has_begun) = (news, &order, &begun, &has_begun);
        async move {
            if let Heard::State(_) | Heard::NotYet = heard {
                seen.notify_one();
            }
            match heard {
                Heard::State(MachineState::Started) => {
                    has_begun.store(true, Ordering::Relaxed);
                    begun.notify_one();
                    tell(news, order, News::Started).await;
                    if !acts {
                        return;
                    }
                    // Not worth waiting for the disk: a restart would find "offered".
                    shared.clone().tasks.spawn(async move {
                        let _ = shared.store.write(SetState { run, state: RunState::Running, refusal: None }).await;
                    });
                }
                Heard::State(MachineState::Received | MachineState::Waiting) | Heard::NotYet => {}
                Heard::Note(note) => tell(news, order, News::Told(note)).await,
            }
        }
    };
    let delivery = carry::deliver(shared, order.machine, (envelope, cancel, sending), order.run, told);
    let over = async {
        tokio::select! {
            biased;
            () = tokio::time::sleep(patience) => {}
            () = begun.notified(), if acts => tokio::time::sleep(LONGEST).await,
        }
    };
    let ended = tokio::select! {
        biased;
        carried = delivery => Some(carried),
        () = over => None,
    };
    let what = match ended {
        Some(Carried::Settled(settle, key)) => News::Settled(settle.receipt, key, settle.body),
        Some(Carried::Refused(refusal)) => News::Refused(refusal),
        Some(Carried::NotStored(denial)) => News::Denied(denial),
        // An act is brought again when its machine is back.
        Some(Carried::Lost) if acts => {
            let patience = if has_begun.load(Ordering::Relaxed) { LONGEST } else { patience };
            return Some(Lost { order, patience });
        }
        Some(Carried::Lost) | None => News::NoAnswer,
    };
    tell(news, &order, what).await;
    None
}

/// Tells what became of a run whose machine was lost, once that is known, as
/// long as somebody listens.
async fn tell_later(shared: Arc<Shared>, Lost { order, patience }: Lost, news: mpsc::Sender<Update>) {
    let over = tokio::time::Instant::now() + patience + LAST_WORD;
    let what = loop {
        match shared.store.run_state(&order.run).await {
            Ok(Some((state, refusal))) if state.is_final() => break final_news(&shared, &order, state, refusal).await,
            Ok(Some(_)) => {}
            Ok(None) => break News::NoAnswer,
            Err(error) => break News::Denied(shared.denial(&error)),
        }
        tokio::select! {
            biased;
            () = shared.draining.cancelled() => return,
            () = news.closed() => return,
            () = tokio::time::sleep_until(over) => break News::NoAnswer,
            () = tokio::time::sleep(LOST_AGAIN) => {}
        }
    };
    tell(&news, &order, what).await;
}

async fn final_news(shared: &Shared, order: &Order, state: RunState, refusal: Option<Refusal>) -> News {
    match (state, shared.store.machine(&order.machine)) {
        (RunState::Refused, _) => refusal.map_or(News::NoAnswer, News::Refused),
        (RunState::Cancelled, _) => News::Cancelled,
        (RunState::Settled, Some(machine)) => settled_news(shared, order.run, &machine).await,
        _ => News::NoAnswer,
    }
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
        let begun = tokio::time::Instant::now();
        let caller = match Caller::current(shared, key, tls_key) {
            Ok(caller) => caller,
            Err(denial) => return Ok(Err(denial)),
        };
        if let Err(denial) = visible(shared, &caller, id).await {
            return Ok(Err(denial));
        }
        let runs = match shared.store.runs(id).await {
            Ok(runs) => runs,
            Err(error) => return Ok(Err(shared.denial(&error))),
        };
        let reached = |run: &Run| shared.store.machine(&run.machine).filter(|machine| caller.reaches(machine));
        for run in runs.iter().filter(|run| run.state == RunState::Held) {
            if reached(run).is_some() && held.insert(run.id) {
                send.send(&Reply::Update(Update { run: run.id, machine: run.machine, news: News::Held })).await?;
            }
        }
        for run in runs.iter().filter(|run| run.state.is_final()) {
            let Some(machine) = reached(run) else { continue };
            if !told.insert(run.id) {
                continue;
            }
            let news = match run.state {
                RunState::Away => News::Away,
                RunState::Refused => run.refusal.map_or(News::NoAnswer, News::Refused),
                RunState::Settled => settled_news(shared, run.id, &machine).await,
                RunState::Cancelled => News::Cancelled,
                RunState::Queued | RunState::Held | RunState::Offered | RunState::Running | RunState::Expired => {
                    News::NoAnswer
                }
            };
            send.send(&Reply::Update(Update { run: run.id, machine: run.machine, news })).await?;
        }
        if runs.iter().all(|run| run.state.is_final()) {
            return Ok(Ok(()));
        }
        tokio::select! {
            biased;
            () = shared.stop.cancelled() => return Ok(Err(Denial::ShuttingDown)),
            // Nobody watches any more.
            _ = link.closed() => return Err(FrameError::Cut),
            () = tokio::time::sleep(LOOK_AGAIN.max(begun.elapsed() * 10).min(LOOK_SELDOM)) => {}
        }
    }
}

async fn settled_news(shared: &Shared, run: RunId, machine: &Machine) -> News {
    match shared.store.evidence(&run).await {
        Ok(Some(evidence)) => match (evidence.receipt, Blob::try_from(evidence.report)) {
            (Some(receipt), Ok(report)) => News::Settled(receipt, machine.evidence_key, report),
            _ => News::NoAnswer,
        },
        Ok(None) => News::NoAnswer,
        Err(error) => News::Denied(shared.denial(&error)),
    }
}
