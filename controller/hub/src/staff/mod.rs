//! What the hub answers technicians, request by request; submitting jobs apart.

mod drafts;
pub(crate) mod jobs;
mod machines;
mod records;

use crate::Shared;
use crate::delivery::outcome::unread;
use crate::doors::agent::{catalogue_files, retire, wire_chain};
use crate::doors::caller::Caller;
pub(crate) use drafts::put_in_force;
use fernwart_certs::catalogue::Role;
use fernwart_certs::peer::Name;
use fernwart_fleet::Standing;
use fernwart_protocol::code::{Denial, Goodbye, Refusal};
use fernwart_protocol::document::{Cancel, Document, Lock, Locked, Retirement, Versions};
use fernwart_protocol::event::Happened;
use fernwart_protocol::id::KeyId;
use fernwart_protocol::limits::ROWS_PER_FRAME;
use fernwart_protocol::link::{FrameError, Sender};
use fernwart_protocol::row::{self, Row};
use fernwart_protocol::staff::{Health, Reply, Request, Suspension, TokenKind};
use fernwart_protocol::text::{Blob, List, Text};
use fernwart_protocol::to_agent::Control;
use fernwart_protocol::version::{Hello, Version, tag};
use fernwart_store::{Acknowledge, AddCustomer, Group, KeepCancel, Label, RejectStaff, Rename, SetStanding, Withdraw};
use machines::reachable;
pub(crate) use records::visible;
use std::collections::HashSet;
use std::sync::Arc;
use std::time::SystemTime;
use tracing::info;

/// Published versions in one list.
const HISTORY: usize = 64;

type Answer = Result<(), Denial>;

/// Sends rows in frames of a bounded number.
async fn rows<T>(
    send: &mut Sender,
    rows: Vec<T>,
    frame: impl Fn(List<T, ROWS_PER_FRAME>) -> Reply,
) -> Result<(), FrameError> {
    let mut rows = rows.into_iter();
    while rows.len() > 0 {
        let chunk: Vec<T> = rows.by_ref().take(ROWS_PER_FRAME).collect();
        send.send(&frame(List::try_from(chunk).unwrap_or_default())).await?;
    }
    Ok(())
}

/// Rows that grow with the versions; a program of version 1 gets those it knew.
pub(crate) async fn growing_rows<T>(
    send: &mut Sender,
    all: Vec<Row<T>>,
    frame: impl Fn(List<Row<T>, ROWS_PER_FRAME>) -> Reply,
    in_version_1: impl Fn(List<T, ROWS_PER_FRAME>) -> Reply,
) -> Result<(), FrameError> {
    if send.version() > Version::OLDEST {
        rows(send, all, frame).await
    } else {
        rows(send, all.into_iter().map(Row::into_base).collect(), in_version_1).await
    }
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
        Request::Machines => return machines::machines(shared, caller, send).await,
        Request::Customers => match shared.store.customers().await {
            Ok(mut customers) => {
                customers.retain(|customer| caller.entry.customers.include(&customer.id));
                let customers = customers.into_iter().map(Row::from).collect();
                growing_rows(send, customers, Reply::CustomerRows, Reply::Customers).await?;
                Ok(())
            }
            Err(error) => Err(shared.denial(&error)),
        },
        Request::Pending => return machines::pending(shared, caller, send).await,
        Request::Formerly(name) => return machines::formerly(shared, caller, &name, send).await,
        Request::Suspensions => return suspensions(shared, caller, send).await,
        Request::Ping(machines, wait_ms) => {
            return machines::ping(shared, caller, &machines.into_vec(), wait_ms, send).await;
        }
        Request::Jobs => return records::jobs(shared, caller, send).await,
        Request::Job(id) => return records::job(shared, caller, id, send).await,
        Request::Facts(machine) => return records::facts(shared, caller, machine, send).await,
        Request::FactsAt(machine, at) => return records::facts_at(shared, caller, machine, at, send).await,
        Request::Query(sql) => return crate::query::service::query(shared, caller, sql.as_raw(), send).await,
        Request::JobOrders(id) => return records::job_orders(shared, caller, id, send).await,
        Request::SealedTo(machine) => return machines::sealed_to(shared, caller, machine, send).await,
        Request::Chain(machine) => return records::chain(shared, caller, machine, send).await,
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
            let health = health(shared).await;
            let in_version_1 = send.version() == Version::OLDEST;
            let kept = shared.retention.in_words();
            let size = shared.store.size().await.ok();
            let row = |row: Row<Health>| {
                let row = row.with(row::tag::RETENTION, &kept);
                let row = size.iter().fold(row, |row, size| row.with(row::tag::STORE, size));
                let newer = shared.published.newer();
                newer.iter().fold(row, |row, newer| row.with(row::tag::NEWER_CATALOGUE, newer))
            };
            let reply = if in_version_1 { Reply::Health(health) } else { Reply::HubHealth(row(health.into())) };
            send.send(&reply).await?;
            Ok(())
        }
        Request::Admit(machine, name) => match machines::admit(shared, caller, machine, name).await {
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
        Request::Submit(_) | Request::Queue(_) | Request::Watch(_) | Request::Outcomes(..) | Request::Events(_) => {
            Err(Denial::NotUnderstood)
        }
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
            reachable(shared, caller, machine)?;
            let write = SetStanding { machine, from: Standing::Pending, to: Standing::Rejected };
            shared.store.write(write).await.map_err(|error| shared.denial(&error))??;
            shared.admitted.notify_waiters();
            shared.happened_on(&machine, |machine| Happened::Rejected(machine, caller.entry.name.clone()));
            Ok(())
        }
        Request::Retire(machine) => {
            caller.must_be(Role::Lead)?;
            reachable(shared, caller, machine)?;
            let write = SetStanding { machine, from: Standing::Admitted, to: Standing::Retired };
            shared.store.write(write).await.map_err(|error| shared.denial(&error))??;
            shared.presence.part_with(&machine, Goodbye::Revoked);
            info!(%machine, by = %caller.entry.name, "a machine is retired");
            shared.happened_on(&machine, |machine| Happened::Retired(machine, caller.entry.name.clone()));
            Ok(())
        }
        Request::RetireSigned(signed) => {
            caller.must_be(Role::Lead)?;
            let word: Retirement =
                fernwart_certs::envelope::open(&signed, &caller.entry.order_key).map_err(|error| unread(&error))?;
            let machine = word.machine;
            reachable(shared, caller, machine)?;
            retire(shared, machine, signed).await?;
            info!(%machine, by = %caller.entry.name, "a machine is retired");
            shared.happened_on(&machine, |machine| Happened::Retired(machine, caller.entry.name.clone()));
            Ok(())
        }
        Request::Rename(machine, name) => {
            caller.must_be(Role::Lead)?;
            reachable(shared, caller, machine)?;
            shared.store.write(Rename { machine, name }).await.map_err(|error| shared.denial(&error))?
        }
        Request::Acknowledge(machine) => {
            caller.must_be(Role::Lead)?;
            let known = reachable(shared, caller, machine)?;
            shared.store.write(Acknowledge(machine)).await.map_err(|error| shared.denial(&error))?;
            info!(%machine, by = %caller.entry.name, alarm = %known.alarm, "an alarm is acknowledged");
            shared.happened_on(&machine, |machine| Happened::Acknowledged(machine, caller.entry.name.clone()));
            Ok(())
        }
        Request::Label(machine, labels) => {
            caller.must_be(Role::Lead)?;
            reachable(shared, caller, machine)?;
            shared
                .store
                .write(Label { machine, labels: labels.into_vec() })
                .await
                .map_err(|error| shared.denial(&error))?
        }
        Request::Group(group, machines, membership) => {
            caller.must_be(Role::Lead)?;
            for machine in machines {
                reachable(shared, caller, machine)?;
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
                    .map_err(|error| unread(&error))?;
                reachable(shared, caller, cancel.machine)?;
                let withdrawn = shared.store.write(Withdraw { run: cancel.run, machine: cancel.machine }).await;
                if withdrawn.map_err(|error| shared.denial(&error))? {
                    continue;
                }
                // Kept first: a machine that is away hears it when it returns.
                let kept = KeepCancel { run: cancel.run, machine: cancel.machine, envelope: envelope.clone() };
                shared.store.write(kept).await.map_err(|error| shared.denial(&error))?;
                shared.redelivery().mark(cancel.machine);
                if let Some(linked) = shared.presence.machine(&cancel.machine) {
                    linked.say(&Control::Cancel(envelope)).await;
                }
            }
            Ok(())
        }
        Request::PutDraft(bytes) => drafts::put_draft(shared, caller, bytes.as_bytes()).await,
        Request::PutFile(bytes) => drafts::put_file(shared, caller, bytes.as_bytes()),
        Request::Publish(id) => drafts::publish(shared, caller, &id).await,
        Request::Suspend(key) => {
            caller.must_be(Role::Lead)?;
            shared.cut_off(key).await.map_err(|error| shared.denial(&error))?;
            info!(%key, by = %caller.entry.name, "a staff key is suspended");
            shared.happened(Happened::Suspended(key, caller.entry.name.clone()));
            Ok(())
        }
        Request::Resume(key) => {
            caller.must_be(Role::Lead)?;
            shared.let_in(key).await.map_err(|error| shared.denial(&error))?;
            info!(%key, by = %caller.entry.name, "a staff key is let in again");
            Ok(())
        }
        Request::RejectStaff(key) => {
            caller.must_be(Role::Lead)?;
            // Of those on the list the hub needs what they came with.
            if shared.published.catalogue().is_some_and(|catalogue| catalogue.staff.find(&key).is_some()) {
                return Err(Denial::NotPending);
            }
            let waited = shared.store.write(RejectStaff(key)).await.map_err(|error| shared.denial(&error))?;
            info!(%key, by = %caller.entry.name, "a technician is turned away");
            if waited { Ok(()) } else { Err(Denial::NotPending) }
        }
        Request::Lock(envelope) => {
            let catalogue = shared.published.catalogue().ok_or(Denial::NoCatalogue)?;
            fernwart_certs::lock::believe(&envelope, &catalogue).map_err(|refusal| match refusal {
                Refusal::NewerOrder => Denial::NewerDocument,
                _ => Denial::BeyondRole,
            })?;
            shared.lock(&envelope).await.map_err(|error| shared.denial(&error))
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
        | Request::Outcomes(..)
        | Request::Events(_)
        | Request::Jobs
        | Request::Job(_)
        | Request::Facts(_)
        | Request::FactsAt(..)
        | Request::Query(_)
        | Request::Catalogue
        | Request::Drafts
        | Request::Suspensions
        | Request::Formerly(_)
        | Request::Health
        | Request::Blob(_)
        | Request::Renew => Err(Denial::NotUnderstood),
    }
}

async fn health(shared: &Shared) -> Health {
    let machines = shared.store.machines(Standing::Admitted).len();
    let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    let expiries = shared.published.catalogue().map(|catalogue| catalogue.expiries);
    Health {
        program: Text::clipped(env!("CARGO_PKG_VERSION")),
        now: shared.now(),
        online: count(shared.presence.machines_online()),
        machines: count(machines),
        free_bytes: shared.free_bytes(),
        rss_bytes: crate::metrics::resident_bytes(),
        timestamp_until: expiries.map_or(0, |expiries| expiries.timestamp.min(expiries.snapshot)),
    }
}

/// Tells which staff keys are cut off.
async fn suspensions(shared: &Shared, caller: &Caller, send: &mut Sender) -> Result<Answer, FrameError> {
    if let Err(denial) = caller.must_be(Role::Lead) {
        return Ok(Err(denial));
    }
    let mut locked: HashSet<KeyId> = HashSet::new();
    for envelope in shared.locks() {
        if let Ok(Lock { locked: Locked::Keys(keys), .. }) = Lock::from_bytes(envelope.bytes.as_bytes()) {
            locked.extend(keys);
        }
    }
    let mut all: Vec<Suspension> =
        shared.suspended().into_iter().map(|key| Suspension { key, locked: locked.contains(&key) }).collect();
    all.sort_by_key(|one| one.key.to_string());
    for some in all.chunks(ROWS_PER_FRAME) {
        send.send(&Reply::Suspensions(List::try_from(some.to_vec()).unwrap_or_default())).await?;
    }
    Ok(Ok(()))
}
