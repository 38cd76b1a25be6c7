//! Answers technicians' requests, within the reach that the current staff list gives them.

mod catalogue;
mod events;
mod jobs;
mod keys;
mod machines;
mod records;

use crate::delivery::DeliveryService;
use crate::keys::HubKeys;
use crate::lifecycle::Lifecycle;
use crate::presence::Presence;
use crate::query::service::QueryService;
use crate::records::Records;
use crate::retention::Retention;
use crate::trust::Trust;
use crate::trust::caller::Caller;
use crate::unanswered::Unanswered;
use fernwart_fleet::Standing;
use fernwart_protocol::code::Denial;
use fernwart_protocol::id::{Digest, KeyId};
use fernwart_protocol::limits::ROWS_PER_FRAME;
use fernwart_protocol::link::{FrameError, Link, Receiver, Sender};
use fernwart_protocol::row::{self, Row};
use fernwart_protocol::staff::{Health, Reply, Request};
use fernwart_protocol::text::{List, Text};
use fernwart_protocol::version::{Hello, Version};
use jobs::WhenAway;
use machines::reachable;
use records::visible;
use std::sync::Arc;

/// The parts of the hub that technicians' requests use.
pub(crate) struct StaffService {
    pub(crate) records: Arc<Records>,
    pub(crate) presence: Arc<Presence>,
    pub(crate) trust: Arc<Trust>,
    pub(crate) keys: Arc<HubKeys>,
    pub(crate) query: Arc<QueryService>,
    pub(crate) delivery: Arc<DeliveryService>,
    pub(crate) lifecycle: Lifecycle,
    /// How long results are kept.
    pub(crate) retention: Retention,
}

type Answer = Result<(), Denial>;

/// One request: its link, its stream and its caller.
pub(crate) struct Asked<'a> {
    pub(crate) link: &'a Link,
    pub(crate) key: KeyId,
    pub(crate) tls_key: Digest,
    pub(crate) hello: &'a Hello,
    pub(crate) send: &'a mut Sender,
    pub(crate) receive: &'a mut Receiver,
}

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

/// Sends rows that gain fields with newer versions; a program of version 1 gets the fields it
/// knows.
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

/// Answers one request.
pub(crate) async fn answer(service: &Arc<StaffService>, asked: Asked<'_>, request: Request) -> Result<(), Unanswered> {
    let Asked { link, key, tls_key, hello, send, receive } = asked;
    let caller = Caller::current(&service.trust, key, tls_key)?;
    let caller = &caller;
    match request {
        Request::Submit(head) => jobs::submit(service, (caller, link), (head, WhenAway::Over), send, receive).await,
        Request::Queue(head) => jobs::submit(service, (caller, link), (head, WhenAway::Held), send, receive).await,
        Request::Watch(job) => jobs::watch(service, (key, tls_key), link, job, send).await,
        Request::Outcomes(job, runs) => jobs::outcomes(service, caller, job, runs.as_slice(), send).await,
        Request::Cancel(cancels) => Ok(jobs::cancel(service, caller, cancels).await?),
        Request::Events(until) => events::follow(service, (key, tls_key), link, until, send).await,
        Request::Query(sql) => crate::query::service::query(&service.query, caller, sql.as_raw(), send).await,
        Request::Health => health(service, send).await,

        Request::Machines => machines::machines(service, caller, send).await,
        Request::Pending => machines::pending(service, caller, send).await,
        Request::Formerly(name) => machines::formerly(service, caller, &name, send).await,
        Request::Ping(machines, wait_ms) => machines::ping(service, caller, &machines.into_vec(), wait_ms, send).await,
        Request::SealedTo(machine) => machines::sealed_to(service, &*reachable(service, caller, machine)?, send).await,
        Request::Admit(machine, name) => machines::admit(service, caller, machine, name, send).await,
        Request::Reject(machine) => Ok(machines::reject(service, caller, machine).await?),
        Request::Retire(machine) => Ok(machines::retire(service, caller, machine).await?),
        Request::RetireSigned(signed) => Ok(machines::retire_signed(service, caller, signed).await?),
        Request::Rename(machine, name) => Ok(machines::rename(service, caller, machine, name).await?),
        Request::Acknowledge(machine) => Ok(machines::acknowledge(service, caller, machine).await?),
        Request::Label(machine, labels) => Ok(machines::label(service, caller, machine, labels.into_vec()).await?),
        Request::Group(group, machines, membership) => {
            Ok(machines::group(service, caller, (group, membership), machines.into_vec()).await?)
        }

        Request::Customers => records::customers(service, caller, send).await,
        Request::AddCustomer(customer) => Ok(records::add_customer(service, caller, customer).await?),
        Request::Invite(token) => Ok(records::invite(service, caller, token).await?),
        Request::Jobs => records::jobs(service, caller, send).await,
        Request::Job(id) => records::job(service, &visible(service, caller, id).await?, send).await,
        Request::JobOrders(id) => records::job_orders(service, &visible(service, caller, id).await?, send).await,
        Request::Facts(machine) => records::facts(service, &*reachable(service, caller, machine)?, send).await,
        Request::FactsAt(machine, at) => {
            records::facts_at(service, &*reachable(service, caller, machine)?, at, send).await
        }
        Request::Chain(machine) => records::chain(service, &*reachable(service, caller, machine)?, send).await,

        Request::History => catalogue::history(service, send).await,
        Request::Catalogue => catalogue::newest(service, hello, send).await,
        Request::Blob(hash) => catalogue::blob(service, &hash, send).await,
        Request::Drafts => catalogue::drafts(service, send).await,
        Request::PutDraft(bytes) => Ok(catalogue::put_draft(service, caller, bytes.as_bytes()).await?),
        Request::PutFile(bytes) => Ok(catalogue::put_file(service, caller, bytes.as_bytes())?),
        Request::Publish(id) => Ok(catalogue::publish(service, caller, &id).await?),

        Request::Suspensions => keys::suspensions(service, caller, send).await,
        Request::Suspend(key) => Ok(keys::suspend(service, caller, key).await?),
        Request::Resume(key) => Ok(keys::resume(service, caller, key).await?),
        Request::RejectStaff(key) => Ok(keys::reject(service, caller, key).await?),
        Request::Lock(envelope) => Ok(keys::lock(service, &envelope).await?),
        Request::Renew => keys::renew(service, caller, link, send).await,
    }
}

/// Sends one reply, or the denial where there is none.
async fn reply(send: &mut Sender, reply: Result<Reply, Denial>) -> Result<(), Unanswered> {
    Ok(send.send(&reply?).await?)
}

/// How the hub is.
async fn health(service: &StaffService, send: &mut Sender) -> Result<(), Unanswered> {
    let machines = service.records.store.machines(Standing::Admitted).len();
    let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    let expiries = service.trust.published.catalogue().map(|catalogue| catalogue.expiries);
    let health = Health {
        program: Text::clipped(env!("CARGO_PKG_VERSION")),
        now: service.records.now(),
        online: count(service.presence.machines_online()),
        machines: count(machines),
        free_bytes: service.records.free_bytes(),
        rss_bytes: crate::metrics::resident_bytes(),
        timestamp_until: expiries.map_or(0, |expiries| expiries.timestamp.min(expiries.snapshot)),
    };
    if send.version() == Version::OLDEST {
        return reply(send, Ok(Reply::Health(health))).await;
    }
    let mut row = Row::from(health).with(row::tag::RETENTION, &service.retention.in_words());
    if let Ok(size) = service.records.store.size().await {
        row = row.with(row::tag::STORE, &size);
    }
    if let Some(newer) = service.trust.published.newer() {
        row = row.with(row::tag::NEWER_CATALOGUE, &newer);
    }
    reply(send, Ok(Reply::HubHealth(row))).await
}
