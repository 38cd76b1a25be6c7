//! What the hub answers technicians, request by request; jobs apart.

use crate::agent_door::{catalogue_files, wire_chain};
use crate::caller::Caller;
use crate::{Shared, now};
use fernwart_certs::approve::Draft;
use fernwart_certs::catalogue::Role;
use fernwart_certs::peer::Name;
use fernwart_certs::sha256;
use fernwart_fleet::{Machine, Standing};
use fernwart_protocol::code::Denial;
use fernwart_protocol::document::{Cancel, ChainEnd, Versions};
use fernwart_protocol::enroll::Newcomer;
use fernwart_protocol::id::{Digest, JobId, MachineId};
use fernwart_protocol::limits::ROWS_PER_FRAME;
use fernwart_protocol::link::{FrameError, Sender};
use fernwart_protocol::staff::{
    Health, JobRow, MachineRow, PendingMachine, PendingStaff, Presence, Reply, Request, RunRow, TokenKind, Verdict,
};
use fernwart_protocol::text::{Blob, List, Text};
use fernwart_protocol::to_agent::{Control, Deliver};
use fernwart_protocol::version::{Hello, tag};
use fernwart_store::{
    Acknowledge, AddCustomer, Admit, Draft as DraftWrite, Group, KeepCancel, KeepLock, Label, Rename, SetStanding,
    Suspend, Withdraw,
};
use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};
use tokio::task::JoinSet;
use tracing::{info, warn};

/// Published versions in one list.
const HISTORY: u64 = 64;

/// Orders and receipts read and sent at once; each may have 64 KiB.
const PAGE: usize = 8;

/// Jobs in one list.
const JOBS: i64 = 100;

/// Echoes under way at once.
const ECHOES: usize = 2_000;

type Answer = Result<(), Denial>;

/// Sends rows in frames of a bounded number.
pub(crate) async fn rows<T: Clone>(
    send: &mut Sender,
    items: &[T],
    frame: impl Fn(List<T, ROWS_PER_FRAME>) -> Reply,
) -> Result<(), FrameError> {
    for chunk in items.chunks(ROWS_PER_FRAME) {
        send.send(&frame(List::try_from(chunk.to_vec()).unwrap_or_default())).await?;
    }
    Ok(())
}

/// Answers one request. The outer error is the link's, the inner a denial.
pub(crate) async fn answer(
    shared: &Arc<Shared>,
    caller: &Caller,
    spki: &[u8],
    hello: &Hello,
    request: Request,
    send: &mut Sender,
) -> Result<Answer, FrameError> {
    Ok(match request {
        Request::Machines => return machines(shared, caller, send).await,
        Request::Customers => match shared.store.customers().await {
            Ok(mut customers) => {
                customers.retain(|customer| caller.entry.customers.include(&customer.id));
                rows(send, &customers, Reply::Customers).await?;
                Ok(())
            }
            Err(error) => Err(shared.denial(&error)),
        },
        Request::Pending => return pending(shared, caller, send).await,
        Request::Ping(machines, wait_ms) => return ping(shared, caller, &machines.into_vec(), wait_ms, send).await,
        Request::Jobs => return jobs(shared, caller, send).await,
        Request::Job(id) => return job(shared, caller, id, send).await,
        Request::Facts(machine) => return facts(shared, caller, machine, send).await,
        Request::JobOrders(id) => return job_orders(shared, caller, id, send).await,
        Request::SealedTo(machine) => return sealed_to(shared, caller, machine, send).await,
        Request::Chain(machine) => return chain(shared, caller, machine, send).await,
        Request::History => {
            for file in shared.published.history(HISTORY) {
                send.send(&Reply::File(file)).await?;
            }
            Ok(())
        }
        Request::Catalogue => {
            let known = |tag| hello.number(tag).unwrap_or_default();
            // A technician's client says its targets; whoever lacks a root says none.
            let versions = Versions { targets: known(tag::TARGETS), ..Versions::default() };
            match catalogue_files(shared, &versions) {
                Ok(files) => {
                    for file in files {
                        send.send(&Reply::File(file)).await?;
                    }
                    Ok(())
                }
                Err(denial) => Err(denial),
            }
        }
        Request::Blob(hash) => match shared.published.blob(&hash).and_then(|bytes| Blob::try_from(bytes).ok()) {
            Some(blob) => {
                send.send(&Reply::Blob(blob)).await?;
                Ok(())
            }
            None => Err(Denial::NoSuchBlob),
        },
        Request::Drafts => match shared.store.drafts().await {
            Ok(drafts) => {
                for (_, bytes) in drafts {
                    if let Ok(bytes) = Blob::try_from(bytes) {
                        send.send(&Reply::Draft(bytes)).await?;
                    }
                }
                Ok(())
            }
            Err(error) => Err(shared.denial(&error)),
        },
        Request::Health => {
            send.send(&Reply::Health(health(shared).await)).await?;
            Ok(())
        }
        Request::Admit(machine, name) => match admit(shared, caller, machine, name).await {
            Ok(name) => {
                send.send(&Reply::Named(name)).await?;
                Ok(())
            }
            Err(denial) => Err(denial),
        },
        Request::Renew => {
            let name = Name::Staff(caller.entry.key);
            let chain = shared.authority.issue_member(name, spki, SystemTime::now()).map_err(|_| Denial::KeysRefused);
            match chain.and_then(|chain| wire_chain(&chain)) {
                Ok(chain) => {
                    send.send(&Reply::Certificate(chain)).await?;
                    Ok(())
                }
                Err(denial) => Err(denial),
            }
        }
        Request::Submit(_) | Request::Queue(_) | Request::Watch(_) => Err(Denial::NotUnderstood),
        change => apply(shared, caller, change).await,
    })
}

/// Requests that only change something.
async fn apply(shared: &Arc<Shared>, caller: &Caller, request: Request) -> Answer {
    match request {
        Request::AddCustomer(customer) => {
            caller.must_be(Role::Lead)?;
            shared.store.write(AddCustomer(customer)).await.map_err(|error| shared.denial(&error))?
        }
        Request::Invite(token) => {
            caller.must_be(Role::Lead)?;
            if let TokenKind::Machine { customer, .. } = &token.admits
                && (!caller.entry.customers.include(customer)
                    || !shared.store.has_customer(customer).await.map_err(|error| shared.denial(&error))?)
            {
                return Err(Denial::NoSuchCustomer);
            }
            shared.store.write(token).await.map_err(|error| shared.denial(&error))
        }
        Request::Reject(machine) => {
            caller.must_be(Role::Lead)?;
            reachable(shared, caller, machine).await?;
            let write = SetStanding { machine, from: Standing::Pending, to: Standing::Rejected };
            shared.store.write(write).await.map_err(|error| shared.denial(&error))??;
            shared.admitted.notify_waiters();
            Ok(())
        }
        Request::Retire(machine) => {
            caller.must_be(Role::Lead)?;
            reachable(shared, caller, machine).await?;
            let write = SetStanding { machine, from: Standing::Admitted, to: Standing::Retired };
            shared.store.write(write).await.map_err(|error| shared.denial(&error))??;
            shared.presence.part_with(&machine);
            info!(%machine, by = %caller.entry.name, "a machine is retired");
            Ok(())
        }
        Request::Rename(machine, name) => {
            caller.must_be(Role::Lead)?;
            reachable(shared, caller, machine).await?;
            shared.store.write(Rename { machine, name }).await.map_err(|error| shared.denial(&error))?
        }
        Request::Acknowledge(machine) => {
            caller.must_be(Role::Lead)?;
            let known = reachable(shared, caller, machine).await?;
            shared.store.write(Acknowledge(machine)).await.map_err(|error| shared.denial(&error))?;
            info!(%machine, by = %caller.entry.name, alarm = %known.alarm, "an alarm is acknowledged");
            Ok(())
        }
        Request::Label(machine, labels) => {
            caller.must_be(Role::Lead)?;
            reachable(shared, caller, machine).await?;
            shared
                .store
                .write(Label { machine, labels: labels.into_vec() })
                .await
                .map_err(|error| shared.denial(&error))?
        }
        Request::Group(group, machines, membership) => {
            caller.must_be(Role::Lead)?;
            for machine in machines {
                reachable(shared, caller, machine).await?;
                shared
                    .store
                    .write(Group { machine, group: group.clone(), membership })
                    .await
                    .map_err(|error| shared.denial(&error))??;
            }
            Ok(())
        }
        Request::Cancel(envelopes) => {
            for envelope in envelopes {
                let cancel: Cancel = fernwart_certs::envelope::open(&envelope, &caller.entry.order_key)
                    .map_err(|_| Denial::NotUnderstood)?;
                reachable(shared, caller, cancel.machine).await?;
                let withdrawn = shared.store.write(Withdraw { run: cancel.run, machine: cancel.machine }).await;
                if withdrawn.map_err(|error| shared.denial(&error))? {
                    continue;
                }
                // Kept first: a machine that is away hears it when it returns.
                let kept = KeepCancel { run: cancel.run, machine: cancel.machine, envelope: envelope.clone() };
                shared.store.write(kept).await.map_err(|error| shared.denial(&error))?;
                if let Some(linked) = shared.presence.machine(&cancel.machine) {
                    linked.say(&Control::Cancel(envelope)).await;
                }
            }
            Ok(())
        }
        Request::PutDraft(bytes) => {
            caller.must_be(Role::Lead)?;
            put_draft(shared, bytes.as_bytes()).await
        }
        Request::Publish(id) => {
            caller.must_be(Role::Lead)?;
            publish(shared, &id).await
        }
        Request::Suspend(key) => {
            caller.must_be(Role::Lead)?;
            shared.store.write(Suspend { key, at: now() }).await.map_err(|error| shared.denial(&error))?;
            shared.suspended.write().unwrap_or_else(|poisoned| poisoned.into_inner()).insert(key);
            shared.presence.cut_staff(|known| *known == key);
            info!(%key, by = %caller.entry.name, "a staff key is suspended");
            Ok(())
        }
        Request::Lock(envelope) => {
            let catalogue = shared.published.catalogue().ok_or(Denial::NoCatalogue)?;
            fernwart_certs::lock::believe(&envelope, &catalogue).map_err(|_| Denial::BeyondRole)?;
            let id = sha256(envelope.bytes.as_bytes());
            shared
                .store
                .write(KeepLock { id, envelope: envelope.clone() })
                .await
                .map_err(|error| shared.denial(&error))?;
            shared.presence.lock(&envelope).await;
            Ok(())
        }
        // Answered before, with more than a yes or no.
        Request::Machines
        | Request::Customers
        | Request::Pending
        | Request::Admit(..)
        | Request::Ping(..)
        | Request::Submit(_)
        | Request::Queue(_)
        | Request::JobOrders(_)
        | Request::Chain(_)
        | Request::SealedTo(_)
        | Request::History
        | Request::Watch(_)
        | Request::Jobs
        | Request::Job(_)
        | Request::Facts(_)
        | Request::Catalogue
        | Request::Drafts
        | Request::Health
        | Request::Blob(_)
        | Request::Renew => Err(Denial::NotUnderstood),
    }
}

/// A machine within the caller's reach.
async fn reachable(shared: &Shared, caller: &Caller, id: MachineId) -> Result<Machine, Denial> {
    let machine = shared.store.machine(&id).await.map_err(|error| shared.denial(&error))?;
    machine.filter(|machine| caller.reaches(machine)).ok_or(Denial::NoSuchMachine)
}

async fn admit(
    shared: &Shared,
    caller: &Caller,
    machine: MachineId,
    name: fernwart_protocol::text::MachineName,
) -> Result<fernwart_protocol::text::MachineName, Denial> {
    caller.must_be(Role::Lead)?;
    reachable(shared, caller, machine).await?;
    let name = shared.store.write(Admit { machine, name }).await.map_err(|error| shared.denial(&error))??;
    shared.admitted.notify_waiters();
    info!(%machine, %name, by = %caller.entry.name, "a machine is admitted");
    Ok(name)
}

fn row(shared: &Shared, machine: &Machine) -> MachineRow {
    let linked = shared.presence.machine(&machine.id);
    let presence = match &linked {
        Some(linked) => Presence::Online(u32::try_from(linked.link.rtt().as_micros()).unwrap_or(u32::MAX)),
        None => Presence::Away,
    };
    MachineRow {
        id: machine.id,
        name: machine.name.clone(),
        customer: machine.customer,
        customer_name: machine.customer_name.clone(),
        os: machine.os.clone(),
        presence,
        health: match &machine.alarm {
            alarm if alarm.is_empty() => machine.verdict.clone(),
            alarm => Verdict::Crit(alarm.clone()),
        },
        seen_at: if linked.is_some() { now() } else { machine.seen_at },
        labels: List::try_from(machine.labels.clone()).unwrap_or_default(),
        groups: List::try_from(machine.groups.clone()).unwrap_or_default(),
        certificate_until: machine.certificate_until,
        agent: machine.agent.clone(),
    }
}

async fn machines(shared: &Shared, caller: &Caller, send: &mut Sender) -> Result<Answer, FrameError> {
    let machines = match shared.store.machines(Standing::Admitted).await {
        Ok(machines) => machines,
        Err(error) => return Ok(Err(shared.denial(&error))),
    };
    let list: Vec<_> = machines.iter().filter(|m| caller.reaches(m)).map(|m| row(shared, m)).collect();
    rows(send, &list, Reply::Machines).await?;
    Ok(Ok(()))
}

async fn pending(shared: &Shared, caller: &Caller, send: &mut Sender) -> Result<Answer, FrameError> {
    let (machines, staff) = match (shared.store.machines(Standing::Pending).await, shared.store.staff_joins().await) {
        (Ok(machines), Ok(staff)) => (machines, staff),
        (Err(error), _) | (_, Err(error)) => return Ok(Err(shared.denial(&error))),
    };
    let machines: Vec<_> = machines
        .iter()
        .filter(|machine| caller.reaches(machine))
        .map(|machine| PendingMachine {
            newcomer: Newcomer {
                machine: machine.id,
                customer: machine.customer,
                tls_key: machine.tls_key,
                evidence_key: machine.evidence_key,
            },
            hostname: Text::clipped(machine.name.as_str()),
            os: machine.os.clone(),
            address: machine.address.clone(),
            at: machine.joined_at,
        })
        .collect();
    let listed: HashSet<_> = shared
        .published
        .catalogue()
        .map(|catalogue| catalogue.staff.staff.iter().map(|entry| entry.key).collect())
        .unwrap_or_default();
    let staff: Vec<PendingStaff> = staff.into_iter().filter(|staff| !listed.contains(&staff.key)).collect();
    for chunk in machines.chunks(ROWS_PER_FRAME) {
        let list = List::try_from(chunk.to_vec()).unwrap_or_default();
        send.send(&Reply::Pending(list, List::default())).await?;
    }
    for chunk in staff.chunks(ROWS_PER_FRAME) {
        let list = List::try_from(chunk.to_vec()).unwrap_or_default();
        send.send(&Reply::Pending(List::default(), list)).await?;
    }
    Ok(Ok(()))
}

async fn ping(
    shared: &Arc<Shared>,
    caller: &Caller,
    machines: &[MachineId],
    wait_ms: u32,
    send: &mut Sender,
) -> Result<Answer, FrameError> {
    let wait = Duration::from_millis(u64::from(wait_ms.min(60_000)));
    let mut echoes = JoinSet::new();
    for &id in machines {
        if let Err(denial) = reachable(shared, caller, id).await {
            return Ok(Err(denial));
        }
        while echoes.len() >= ECHOES {
            pong(&mut echoes, send).await?;
        }
        let linked = shared.presence.machine(&id);
        echoes.spawn(async move {
            let begun = Instant::now();
            let echo = async {
                let (mut up, mut down) = linked?.link.open().await.ok()?;
                up.send(&Deliver::Echo(0)).await.ok()?;
                up.finish();
                down.expect::<Deliver>().await.ok()
            };
            let answered = tokio::time::timeout(wait, echo).await.ok().flatten();
            (id, answered.map(|_| u32::try_from(begun.elapsed().as_micros()).unwrap_or(u32::MAX)))
        });
    }
    while !echoes.is_empty() {
        pong(&mut echoes, send).await?;
    }
    Ok(Ok(()))
}

async fn pong(echoes: &mut JoinSet<(MachineId, Option<u32>)>, send: &mut Sender) -> Result<(), FrameError> {
    if let Some(Ok((id, took))) = echoes.join_next().await {
        send.send(&Reply::Pong(id, took)).await?;
    }
    Ok(())
}

fn job_row(job: &fernwart_fleet::Job) -> JobRow {
    JobRow {
        id: job.id,
        action: job.action.clone(),
        staff: job.staff.clone(),
        reason: job.reason.clone(),
        at: job.at,
        selected: job.selected,
        settled: job.over,
    }
}

async fn jobs(shared: &Shared, caller: &Caller, send: &mut Sender) -> Result<Answer, FrameError> {
    match shared.store.jobs(JOBS).await {
        Ok(jobs) => {
            let list: Vec<_> = jobs.iter().filter(|job| caller.may_see(job)).map(job_row).collect();
            rows(send, &list, Reply::Jobs).await?;
            Ok(Ok(()))
        }
        Err(error) => Ok(Err(shared.denial(&error))),
    }
}

async fn job(
    shared: &Shared,
    caller: &Caller,
    id: fernwart_protocol::id::JobId,
    send: &mut Sender,
) -> Result<Answer, FrameError> {
    let job = match shared.store.job(id).await {
        Ok(Some(job)) if caller.may_see(&job) => job,
        Ok(_) => return Ok(Err(Denial::NoSuchJob)),
        Err(error) => return Ok(Err(shared.denial(&error))),
    };
    rows(send, &[job_row(&job)], Reply::Jobs).await?;
    match shared.store.runs(id).await {
        Ok(runs) => {
            let list: Vec<_> = runs
                .into_iter()
                .map(|run| RunRow {
                    run: run.id,
                    machine: run.machine,
                    name: run.name,
                    state: Text::clipped(run.state.as_str()),
                    outcome: run.outcome,
                    settled_at: run.settled_at,
                })
                .collect();
            rows(send, &list, Reply::Runs).await?;
            Ok(Ok(()))
        }
        Err(error) => Ok(Err(shared.denial(&error))),
    }
}

async fn facts(shared: &Shared, caller: &Caller, id: MachineId, send: &mut Sender) -> Result<Answer, FrameError> {
    let machine = match reachable(shared, caller, id).await {
        Ok(machine) => machine,
        Err(denial) => return Ok(Err(denial)),
    };
    match shared.store.newest(&id).await {
        Ok(Some(evidence)) => {
            if let (Some(receipt), Ok(report)) = (evidence.receipt, Blob::try_from(evidence.report)) {
                send.send(&Reply::Report(evidence.settled_at, receipt, report)).await?;
                send.send(&Reply::EvidenceKey(machine.evidence_key)).await?;
            }
            Ok(Ok(()))
        }
        Ok(None) => Ok(Ok(())),
        Err(error) => Ok(Err(shared.denial(&error))),
    }
}

async fn job_orders(shared: &Shared, caller: &Caller, id: JobId, send: &mut Sender) -> Result<Answer, FrameError> {
    match shared.store.job(id).await {
        Ok(Some(job)) if caller.may_see(&job) => {}
        Ok(_) => return Ok(Err(Denial::NoSuchJob)),
        Err(error) => return Ok(Err(shared.denial(&error))),
    }
    match shared.store.orders(id).await {
        Ok(orders) => {
            for page in orders.chunks(PAGE) {
                send.send(&Reply::Orders(List::try_from(page.to_vec()).unwrap_or_default())).await?;
            }
            Ok(Ok(()))
        }
        Err(error) => Ok(Err(shared.denial(&error))),
    }
}

async fn sealed_to(shared: &Shared, caller: &Caller, id: MachineId, send: &mut Sender) -> Result<Answer, FrameError> {
    let machine = match reachable(shared, caller, id).await {
        Ok(machine) => machine,
        Err(denial) => return Ok(Err(denial)),
    };
    match shared.store.sealed_to(&id).await {
        Ok(said) => {
            send.send(&Reply::EvidenceKey(machine.evidence_key)).await?;
            if let Some(said) = said {
                send.send(&Reply::SealedTo(said)).await?;
            }
            Ok(Ok(()))
        }
        Err(error) => Ok(Err(shared.denial(&error))),
    }
}

/// A machine's receipts in the order in which this hub has signed for them, and
/// its word on how far they go.
async fn chain(shared: &Shared, caller: &Caller, id: MachineId, send: &mut Sender) -> Result<Answer, FrameError> {
    let machine = match reachable(shared, caller, id).await {
        Ok(machine) => machine,
        Err(denial) => return Ok(Err(denial)),
    };
    send.send(&Reply::EvidenceKey(machine.evidence_key)).await?;
    let mut last = (0, Digest::from_bytes([0; 32]));
    loop {
        let links = match shared.store.chain_links(&id, last.0, PAGE as i64).await {
            Ok(links) => links,
            Err(error) => return Ok(Err(shared.denial(&error))),
        };
        let Some(end) = links.last().map(|link| (link.seq, link.head)) else { break };
        last = end;
        for link in links {
            send.send(&Reply::ChainLink(link)).await?;
        }
    }
    let end = ChainEnd { machine: id, seq: last.0, head: last.1, key: shared.evidence_id, at: now() };
    match fernwart_certs::envelope::seal(&end, &shared.evidence) {
        Ok(envelope) => {
            send.send(&Reply::ChainEnd(envelope)).await?;
            Ok(Ok(()))
        }
        Err(_) => Ok(Err(Denial::StoreFailed)),
    }
}

/// Keeps a draft; signatures of the same draft that came before are kept too.
async fn put_draft(shared: &Shared, bytes: &[u8]) -> Answer {
    let mut draft: Draft = serde_json::from_slice(bytes).map_err(|_| Denial::CatalogueRefused)?;
    draft.contents().map_err(|_| Denial::CatalogueRefused)?;
    let trusted = shared.published.trusted().ok_or(Denial::NoCatalogue)?;
    let root = fernwart_certs::approve::root_of(&trusted).map_err(|_| Denial::NoCatalogue)?;
    let follows =
        |draft: &Draft| draft.root.as_ref().is_none_or(|new| new.signed.version.get() == root.version.get() + 1);
    if !follows(&draft) {
        return Err(Denial::CatalogueRefused);
    }
    let newest = shared.published.catalogue().map(|catalogue| catalogue.versions.targets);
    if newest.is_some_and(|newest| draft.targets.signed.version.get() != newest + 1) {
        return Err(Denial::CatalogueStale);
    }
    draft.keep_valid(Some(&root));
    let id = draft.id().map_err(|_| Denial::CatalogueRefused)?;
    if let Some(known) = shared.store.draft(&id).await.map_err(|error| shared.denial(&error))?
        && let Ok(known) = serde_json::from_slice::<Draft>(&known)
    {
        draft.merge(&known);
    }
    let bytes = serde_json::to_vec(&draft).map_err(|_| Denial::CatalogueRefused)?;
    shared.store.write(DraftWrite { id, bytes: Some(bytes), at: now() }).await.map_err(|error| shared.denial(&error))
}

async fn publish(shared: &Arc<Shared>, id: &Digest) -> Answer {
    use crate::catalogue::PublishedError;
    use fernwart_certs::approve::PublishError;
    let bytes = shared.store.draft(id).await.map_err(|error| shared.denial(&error))?.ok_or(Denial::NoSuchDraft)?;
    let draft: Draft = serde_json::from_slice(&bytes).map_err(|_| Denial::CatalogueRefused)?;
    let timestamp = shared.published.publish(&draft, now()).await.map_err(|error| {
        warn!(%error, "a draft was not published");
        match error {
            PublishedError::Publish(PublishError::Unsigned { .. }) => Denial::CatalogueUnsigned,
            PublishedError::Publish(PublishError::Stale { .. }) => Denial::CatalogueStale,
            PublishedError::Publish(_) | PublishedError::Catalogue(_) => Denial::CatalogueRefused,
            PublishedError::Io(_) => Denial::StoreFull,
        }
    })?;
    shared.store.write(DraftWrite { id: *id, bytes: None, at: now() }).await.map_err(|error| shared.denial(&error))?;
    info!(timestamp, "a new catalogue is published");
    let Some(catalogue) = shared.published.catalogue() else { return Err(Denial::NoCatalogue) };
    drop_overtaken(shared, catalogue.versions.targets).await;
    shared.presence.cut_staff(|key| catalogue.staff.find(key).is_none());
    shared.admitted.notify_waiters();
    shared.presence.catalogue_changed(timestamp).await;
    Ok(())
}

/// Lets go of drafts that no longer follow what is published.
async fn drop_overtaken(shared: &Shared, published: u64) {
    let drafts = match shared.store.drafts().await {
        Ok(drafts) => drafts,
        Err(error) => return warn!(%error, "drafts cannot be read"),
    };
    let overtaken = |bytes: &[u8]| {
        serde_json::from_slice::<Draft>(bytes).is_ok_and(|draft| draft.targets.signed.version.get() <= published)
    };
    for (id, _) in drafts.iter().filter(|(_, bytes)| overtaken(bytes)) {
        if let Err(error) = shared.store.write(DraftWrite { id: *id, bytes: None, at: now() }).await {
            warn!(draft = %id, %error, "an overtaken draft could not be let go");
        }
    }
}

async fn health(shared: &Shared) -> Health {
    let machines = shared.store.machines(Standing::Admitted).await.map(|machines| machines.len()).unwrap_or_default();
    let free = rustix::fs::statvfs(shared.home.path()).map(|stat| stat.f_bavail * stat.f_frsize).unwrap_or_default();
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages: u64 = statm.split_whitespace().nth(1).and_then(|pages| pages.parse().ok()).unwrap_or_default();
    let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    let expiries = shared.published.catalogue().map(|catalogue| catalogue.expiries);
    Health {
        program: Text::clipped(env!("CARGO_PKG_VERSION")),
        now: now(),
        online: count(shared.presence.machines_online()),
        machines: count(machines),
        free_bytes: free,
        rss_bytes: pages.saturating_mul(rustix::param::page_size() as u64),
        timestamp_until: expiries.map_or(0, |expiries| expiries.timestamp.min(expiries.snapshot)),
    }
}
