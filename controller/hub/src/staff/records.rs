//! Requests about jobs and their signed outcomes.

use super::{Answer, growing_rows};
use crate::staff::StaffService;
use crate::trust::caller::Caller;
use crate::unanswered::Unanswered;
use fernwart_certs::catalogue::Role;
use fernwart_fleet::{Job, Machine};
use fernwart_protocol::code::Denial;
use fernwart_protocol::document::{self, Action, ChainEnd, Document, Order, UnixMs};
use fernwart_protocol::id::{Digest, JobId, MachineId};
use fernwart_protocol::link::{FrameError, Sender};
use fernwart_protocol::row::Row;
use fernwart_protocol::staff::{CustomerRow, JobRow, Reply, RunRow, Token, TokenKind};
use fernwart_protocol::text::{Blob, List, Text};
use fernwart_store::{AddCustomer, ChainCut, Evidence};

/// Orders and receipts per page; each may have 64 KiB.
const PAGE: usize = 8;

/// How often a page of receipts is read again while some are dropped.
const TRIES: u32 = 8;

/// Maximum number of jobs in one list.
const JOBS: i64 = 100;

fn job_row(job: &Job) -> Row<JobRow> {
    Row::from(JobRow {
        id: job.id,
        action: job.action.clone(),
        staff: job.staff.clone(),
        reason: job.reason.clone(),
        at: job.at,
        selected: job.selected,
        settled: job.over,
    })
}

pub(super) async fn customers(service: &StaffService, caller: &Caller, send: &mut Sender) -> Result<(), Unanswered> {
    let mut customers = service.records.or_denial(service.records.store.customers().await)?;
    customers.retain(|customer| caller.entry.customers.include(&customer.id));
    let customers = customers.into_iter().map(Row::from).collect();
    growing_rows(send, customers, Reply::CustomerRows, Reply::Customers).await?;
    Ok(())
}

pub(super) async fn add_customer(service: &StaffService, caller: &Caller, customer: CustomerRow) -> Answer {
    caller.must_be(Role::Lead)?;
    service.records.or_denial(service.records.store.write(AddCustomer(customer)).await)?
}

pub(super) async fn invite(service: &StaffService, caller: &Caller, token: Token) -> Answer {
    caller.must_be(Role::Lead)?;
    let store = &service.records.store;
    if let TokenKind::Machine { customer, .. } = &token.admits
        && (!caller.entry.customers.include(customer)
            || !service.records.or_denial(store.has_customer(customer).await)?)
    {
        return Err(Denial::NoSuchCustomer);
    }
    service.records.or_denial(store.write(token).await)
}

/// A job that the caller may see.
pub(super) async fn visible(service: &StaffService, caller: &Caller, id: JobId) -> Result<Job, Denial> {
    let job = service.records.or_denial(service.records.store.job(id).await)?;
    job.filter(|job| caller.may_see(job)).ok_or(Denial::NoSuchJob)
}

pub(super) async fn jobs(service: &StaffService, caller: &Caller, send: &mut Sender) -> Result<(), Unanswered> {
    let jobs = service.records.or_denial(service.records.store.jobs(JOBS).await)?;
    let seen = jobs.iter().filter(|job| caller.may_see(job)).map(job_row);
    growing_rows(send, seen.collect(), Reply::JobRows, Reply::Jobs).await?;
    Ok(())
}

pub(super) async fn job(service: &StaffService, job: &Job, send: &mut Sender) -> Result<(), Unanswered> {
    growing_rows(send, vec![job_row(job)], Reply::JobRows, Reply::Jobs).await?;
    let runs = service.records.or_denial(service.records.store.runs(job.id).await)?;
    let runs = runs.into_iter().map(|run| {
        Row::from(RunRow {
            run: run.id,
            machine: run.machine,
            name: run.name,
            state: Text::clipped(run.state.as_str()),
            outcome: run.outcome,
            settled_at: run.settled_at,
        })
    });
    growing_rows(send, runs.collect(), Reply::RunRows, Reply::Runs).await?;
    Ok(())
}

/// How many reports are searched for a complete one.
const LOOKED_THROUGH: i64 = 512;

/// Sends the newest complete report that was stored by this time.
pub(super) async fn facts_at(
    service: &StaffService,
    machine: &Machine,
    at: UnixMs,
    send: &mut Sender,
) -> Result<(), Unanswered> {
    let read = async {
        let orders = service.records.store.reported_until(&machine.id, at, LOOKED_THROUGH).await?;
        let of_all = orders
            .iter()
            .filter_map(|order| Order::from_bytes(order.bytes.as_bytes()).ok())
            .find(|order| matches!(&order.action, Action::Diagnose { sections } if sections.as_slice().is_empty()));
        match of_all {
            Some(order) => service.records.store.evidence(&order.run).await,
            None => Ok(None),
        }
    };
    let evidence = service.records.or_denial(read.await)?;
    Ok(show_report(evidence, machine, send).await?)
}

/// Sends a stored report, if there is one, and the key that its machine signs with.
async fn show_report(evidence: Option<Evidence>, machine: &Machine, send: &mut Sender) -> Result<(), FrameError> {
    let Some(Evidence { receipt: Some(receipt), report, settled_at, .. }) = evidence else { return Ok(()) };
    if let Ok(report) = Blob::try_from(report) {
        send.send(&Reply::Report(settled_at, receipt, report)).await?;
        send.send(&Reply::EvidenceKey(machine.evidence_key)).await?;
    }
    Ok(())
}

pub(super) async fn facts(service: &StaffService, machine: &Machine, send: &mut Sender) -> Result<(), Unanswered> {
    let evidence = service.records.or_denial(service.records.store.newest(&machine.id).await)?;
    Ok(show_report(evidence, machine, send).await?)
}

pub(super) async fn job_orders(service: &StaffService, job: &Job, send: &mut Sender) -> Result<(), Unanswered> {
    let orders = service.records.or_denial(service.records.store.orders(job.id).await)?;
    for page in orders.chunks(PAGE) {
        send.send(&Reply::Orders(List::try_from(page.to_vec()).unwrap_or_default())).await?;
    }
    Ok(())
}

/// Sends a signed statement that receipts were dropped. A program too old to know it sees them as
/// missing.
async fn tell_cut(
    service: &StaffService,
    machine: MachineId,
    after: u64,
    cut: ChainCut,
    send: &mut Sender,
) -> Result<(), FrameError> {
    let stated = document::ChainCut {
        machine,
        after,
        seq: cut.seq,
        head: cut.head,
        key: service.keys.evidence_id,
        at: service.records.now(),
    };
    let Ok(envelope) = fernwart_certs::envelope::seal(&stated, &service.keys.evidence, send.version()) else {
        return Ok(());
    };
    match send.send(&Reply::ChainCut(envelope)).await {
        Err(FrameError::PeerIsOlder(_)) => Ok(()),
        sent => sent,
    }
}

/// The number and chain head of a machine's receipts.
fn stands(service: &StaffService, id: &MachineId) -> (u64, Digest) {
    let records = service.records.store.heads(id);
    records.map_or((0, fernwart_certs::chain::no_head()), |records| (records.chain_seq, records.chain_head))
}

/// Delay before the count is read again, when receipts were stored meanwhile.
const SETTLES: std::time::Duration = std::time::Duration::from_millis(20);

/// Sends a machine's receipts in the order in which this hub countersigned them, and its signed
/// statement of how many there are.
pub(super) async fn chain(service: &StaffService, machine: &Machine, send: &mut Sender) -> Result<(), Unanswered> {
    send.send(&Reply::EvidenceKey(machine.evidence_key)).await?;
    let (mut last, mut tries) = ((0, Digest::from_bytes([0; 32])), 0);
    let (seq, head) = loop {
        let links =
            service.records.or_denial(service.records.store.chain_links(&machine.id, last.0, PAGE as i64).await)?;
        // Read the cuts after the receipts, so that receipts dropped in between are reported as
        // dropped.
        let until = links.last().map_or(u64::MAX, |link| link.seq);
        let cuts = service.records.or_denial(service.records.store.chain_cuts(&machine.id, last.0, until).await)?;
        let is_end = links.is_empty();
        for link in links {
            if link.seq > last.0 + 1 {
                match cuts.iter().find(|cut| cut.seq + 1 == link.seq) {
                    Some(cut) => tell_cut(service, machine.id, last.0, *cut, send).await?,
                    // The cut has moved: more receipts were dropped just now.
                    None if tries < TRIES => {
                        tries += 1;
                        break;
                    }
                    None => {}
                }
            }
            last = (link.seq, link.head);
            send.send(&Reply::ChainLink(link)).await?;
        }
        if !is_end {
            tries = 0;
            continue;
        }
        if let Some(cut) = cuts.last() {
            tell_cut(service, machine.id, last.0, *cut, send).await?;
            last = (cut.seq, cut.head);
        }
        // Outcomes may have been stored since. Sign the hub's count, not what was found, so that
        // missing newest receipts are noticed.
        let counted = stands(service, &machine.id);
        if counted == last || tries >= TRIES {
            break counted;
        }
        tries += 1;
        tokio::time::sleep(SETTLES).await;
    };
    let end = ChainEnd { machine: machine.id, seq, head, key: service.keys.evidence_id, at: service.records.now() };
    match fernwart_certs::envelope::seal(&end, &service.keys.evidence, send.version()) {
        Ok(envelope) => {
            send.send(&Reply::ChainEnd(envelope)).await?;
            Ok(())
        }
        Err(_) => Err(Denial::StoreFailed.into()),
    }
}
