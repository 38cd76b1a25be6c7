//! Requests about machines: list, pending, admission, ping.

use super::{Answer, growing_rows, reply};
use crate::presence::RETIREMENT_TIMEOUT;
use crate::staff::StaffService;
use crate::trust::caller::Caller;
use crate::trust::denial_of;
use crate::unanswered::Unanswered;
use fernwart_certs::catalogue::Role;
use fernwart_fleet::{Machine, Standing};
use fernwart_protocol::code::{Denial, Goodbye};
use fernwart_protocol::document::{Envelope, Retirement};
use fernwart_protocol::enroll::Newcomer;
use fernwart_protocol::event::Happened;
use fernwart_protocol::id::MachineId;
use fernwart_protocol::link::{FrameError, Sender};
use fernwart_protocol::row::{Row, tag};
use fernwart_protocol::staff::{MachineRow, Membership, PendingMachine, Presence, Reply, Verdict};
use fernwart_protocol::text::{List, MachineName, Text};
use fernwart_protocol::to_agent::{Control, Deliver};
use fernwart_store::{Acknowledge, Admit, Group, Label, Rename, Retire, SetStanding, Write};
use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::task::JoinSet;
use tracing::info;

/// Maximum number of concurrent echoes.
const ECHOES: usize = 2_000;

/// A machine within the caller's reach.
pub(super) fn reachable(service: &StaffService, caller: &Caller, id: MachineId) -> Result<Arc<Machine>, Denial> {
    let machine = service.records.store.machine(&id);
    machine.filter(|machine| caller.reaches(machine)).ok_or(Denial::NoSuchMachine)
}

pub(super) async fn admit(
    service: &StaffService,
    caller: &Caller,
    machine: MachineId,
    name: MachineName,
    send: &mut Sender,
) -> Result<(), Unanswered> {
    let admitted = async {
        let name = write_as_lead(service, caller, machine, Admit { machine, name }).await??;
        service.trust.admitted.notify_waiters();
        info!(%machine, %name, by = %caller.entry.name, "a machine is admitted");
        service.records.happened_on(&machine, |machine| Happened::Admitted(machine, caller.entry.name.clone()));
        Ok(Reply::Named(name))
    };
    reply(send, admitted.await).await
}

/// Performs a write about one machine. The caller must be a lead and reach it.
async fn write_as_lead<W: Write>(
    service: &StaffService,
    caller: &Caller,
    machine: MachineId,
    write: W,
) -> Result<W::Reply, Denial> {
    caller.must_be(Role::Lead)?;
    reachable(service, caller, machine)?;
    service.records.or_denial(service.records.store.write(write).await)
}

pub(super) async fn reject(service: &StaffService, caller: &Caller, machine: MachineId) -> Answer {
    let write = SetStanding { machine, from: Standing::Pending, to: Standing::Rejected };
    write_as_lead(service, caller, machine, write).await??;
    service.trust.admitted.notify_waiters();
    service.records.happened_on(&machine, |machine| Happened::Rejected(machine, caller.entry.name.clone()));
    Ok(())
}

/// Retires a machine without a lead's signature, as programs before protocol version 3 do.
pub(super) async fn retire(service: &StaffService, caller: &Caller, machine: MachineId) -> Answer {
    let write = SetStanding { machine, from: Standing::Admitted, to: Standing::Retired };
    write_as_lead(service, caller, machine, write).await??;
    service.presence.part_with(&machine, Goodbye::Revoked);
    note_retired(service, caller, machine);
    Ok(())
}

/// Retires a machine by a retirement that a lead has signed. A linked machine receives it and has a
/// little time to end its link.
pub(super) async fn retire_signed(service: &Arc<StaffService>, caller: &Caller, signed: Envelope) -> Answer {
    caller.must_be(Role::Lead)?;
    let retirement = fernwart_certs::envelope::open::<Retirement>(&signed, &caller.entry.order_key);
    let machine = retirement.map_err(|error| denial_of(&error))?.machine;
    write_as_lead(service, caller, machine, Retire { machine, signed: signed.clone() }).await??;
    if let Some(linked) = service.presence.machine(&machine) {
        linked.say(&Control::Retired(signed)).await;
        let presence = service.presence.clone();
        service.lifecycle.tasks.spawn(async move {
            let _ = tokio::time::timeout(RETIREMENT_TIMEOUT, linked.link.closed()).await;
            presence.part_with(&machine, Goodbye::Revoked);
        });
    }
    note_retired(service, caller, machine);
    Ok(())
}

fn note_retired(service: &StaffService, caller: &Caller, machine: MachineId) {
    info!(%machine, by = %caller.entry.name, "a machine is retired");
    service.records.happened_on(&machine, |machine| Happened::Retired(machine, caller.entry.name.clone()));
}

pub(super) async fn rename(service: &StaffService, caller: &Caller, machine: MachineId, name: MachineName) -> Answer {
    write_as_lead(service, caller, machine, Rename { machine, name }).await?
}

pub(super) async fn acknowledge(service: &StaffService, caller: &Caller, machine: MachineId) -> Answer {
    caller.must_be(Role::Lead)?;
    let known = reachable(service, caller, machine)?;
    write_as_lead(service, caller, machine, Acknowledge(machine)).await?;
    info!(%machine, by = %caller.entry.name, alarm = %known.alarm, "an alarm is acknowledged");
    service.records.happened_on(&machine, |machine| Happened::Acknowledged(machine, caller.entry.name.clone()));
    Ok(())
}

pub(super) async fn label(
    service: &StaffService,
    caller: &Caller,
    machine: MachineId,
    labels: Vec<fernwart_protocol::staff::Label>,
) -> Answer {
    write_as_lead(service, caller, machine, Label { machine, labels }).await?
}

pub(super) async fn group(
    service: &StaffService,
    caller: &Caller,
    (group, membership): (Text<63>, Membership),
    machines: Vec<MachineId>,
) -> Answer {
    caller.must_be(Role::Lead)?;
    for machine in machines {
        write_as_lead(service, caller, machine, Group { machine, group: group.clone(), membership }).await??;
    }
    Ok(())
}

fn row(service: &StaffService, machine: &Machine) -> Row<MachineRow> {
    let linked = service.presence.machine(&machine.id);
    let presence = match &linked {
        Some(linked) => Presence::Online(u32::try_from(linked.link.rtt().as_micros()).unwrap_or(u32::MAX)),
        None => Presence::Away,
    };
    let row = MachineRow {
        id: machine.id,
        name: machine.name.clone(),
        customer: machine.customer,
        customer_name: machine.customer_name.clone(),
        os: machine.os.clone(),
        presence,
        health_in_version_1: match &machine.alarm {
            alarm if alarm.is_empty() => machine.diagnosed.health.in_version_1(),
            alarm => Verdict::Crit(alarm.clone()),
        },
        seen_at: if linked.is_some() { service.records.now() } else { machine.seen_at },
        labels: List::try_from(machine.labels.clone()).unwrap_or_default(),
        groups: List::try_from(machine.groups.clone()).unwrap_or_default(),
        certificate_until: machine.certificate_until,
        agent: machine.agent.clone(),
    };
    let mut row = Row::from(row).with(tag::PROTOCOL, &machine.protocol);
    if let Some(other) = machine.diagnosed.health.other().filter(|_| machine.alarm.is_empty()) {
        row = row.with(tag::HEALTH, &other);
    }
    if machine.diagnosed.at > 0 {
        row = row.with(tag::LOOKED_AT, &machine.diagnosed.at);
    }
    row
}

pub(super) async fn machines(service: &StaffService, caller: &Caller, send: &mut Sender) -> Result<(), Unanswered> {
    let machines = service.records.store.machines(Standing::Admitted);
    let reached = machines.iter().filter(|machine| caller.reaches(machine)).map(|machine| row(service, machine));
    growing_rows(send, reached.collect(), Reply::MachineRows, Reply::Machines).await?;
    Ok(())
}

/// Other machines that had this name: retired and renamed ones.
pub(super) async fn formerly(
    service: &StaffService,
    caller: &Caller,
    name: &MachineName,
    send: &mut Sender,
) -> Result<(), Unanswered> {
    let retired = service.records.store.machines(Standing::Retired);
    let renamed = service.records.or_denial(service.records.store.formerly_named(name).await)?;
    let renamed =
        renamed.iter().filter_map(|id| service.records.store.machine(id)).filter(|machine| machine.name != *name);
    let retired = retired.into_iter().filter(|machine| machine.name == *name);
    let alike = retired.chain(renamed).filter(|machine| caller.reaches(machine));
    growing_rows(send, alike.map(|machine| row(service, &machine)).collect(), Reply::MachineRows, Reply::Machines)
        .await?;
    Ok(())
}

pub(super) async fn pending(service: &StaffService, caller: &Caller, send: &mut Sender) -> Result<(), Unanswered> {
    let machines = service.records.store.machines(Standing::Pending);
    let staff = service.records.or_denial(service.records.store.staff_joins().await)?;
    let machines = machines.iter().filter(|machine| caller.reaches(machine)).map(|machine| {
        let newcomer = Newcomer {
            machine: machine.id,
            customer: machine.customer,
            tls_key: machine.tls_key,
            evidence_key: machine.evidence_key,
        };
        Row::from(PendingMachine {
            newcomer,
            hostname: Text::clipped(machine.name.as_str()),
            os: machine.os.clone(),
            address: machine.address.clone(),
            at: machine.joined_at,
        })
    });
    let listed: HashSet<_> = service
        .trust
        .published
        .catalogue()
        .map(|catalogue| catalogue.staff.staff.iter().map(|entry| entry.key).collect())
        .unwrap_or_default();
    let rows = |list| Reply::PendingRows(list, List::default());
    growing_rows(send, machines.collect(), rows, |list| Reply::Pending(list, List::default())).await?;
    let staff = staff.into_iter().filter(|staff| !listed.contains(&staff.key)).map(Row::from);
    let rows = |list| Reply::PendingRows(List::default(), list);
    growing_rows(send, staff.collect(), rows, |list| Reply::Pending(List::default(), list)).await?;
    Ok(())
}

pub(super) async fn ping(
    service: &Arc<StaffService>,
    caller: &Caller,
    machines: &[MachineId],
    wait_ms: u32,
    send: &mut Sender,
) -> Result<(), Unanswered> {
    let wait = Duration::from_millis(u64::from(wait_ms.min(60_000)));
    let mut echoes = JoinSet::new();
    for &id in machines {
        reachable(service, caller, id)?;
        while echoes.len() >= ECHOES {
            pong(&mut echoes, send).await?;
        }
        let linked = service.presence.machine(&id);
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
    Ok(())
}

async fn pong(echoes: &mut JoinSet<(MachineId, Option<u32>)>, send: &mut Sender) -> Result<(), FrameError> {
    if let Some(Ok((id, took))) = echoes.join_next().await {
        send.send(&Reply::Pong(id, took)).await?;
    }
    Ok(())
}

pub(super) async fn sealed_to(service: &StaffService, machine: &Machine, send: &mut Sender) -> Result<(), Unanswered> {
    let stated = service.records.or_denial(service.records.store.sealed_to(&machine.id).await)?;
    send.send(&Reply::EvidenceKey(machine.evidence_key)).await?;
    if let Some(stated) = stated {
        send.send(&Reply::SealedTo(stated)).await?;
    }
    Ok(())
}
