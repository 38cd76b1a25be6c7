//! Machines: which there are, who waits to be one, who answers.

use super::{Answer, growing_rows};
use crate::Shared;
use crate::doors::caller::Caller;
use fernwart_certs::catalogue::Role;
use fernwart_fleet::{Machine, Standing};
use fernwart_protocol::code::Denial;
use fernwart_protocol::enroll::Newcomer;
use fernwart_protocol::event::Happened;
use fernwart_protocol::id::MachineId;
use fernwart_protocol::link::{FrameError, Sender};
use fernwart_protocol::row::{Row, tag};
use fernwart_protocol::staff::{MachineRow, PendingMachine, Presence, Reply, Verdict};
use fernwart_protocol::text::{List, MachineName, Text};
use fernwart_protocol::to_agent::Deliver;
use fernwart_store::Admit;
use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::task::JoinSet;
use tracing::info;

/// Echoes under way at once.
const ECHOES: usize = 2_000;

/// A machine within the caller's reach.
pub(super) fn reachable(shared: &Shared, caller: &Caller, id: MachineId) -> Result<Arc<Machine>, Denial> {
    let machine = shared.store.machine(&id);
    machine.filter(|machine| caller.reaches(machine)).ok_or(Denial::NoSuchMachine)
}

pub(super) async fn admit(
    shared: &Shared,
    caller: &Caller,
    machine: MachineId,
    name: fernwart_protocol::text::MachineName,
) -> Result<fernwart_protocol::text::MachineName, Denial> {
    caller.must_be(Role::Lead)?;
    reachable(shared, caller, machine)?;
    let name = shared.store.write(Admit { machine, name }).await.map_err(|error| shared.denial(&error))??;
    shared.admitted.notify_waiters();
    info!(%machine, %name, by = %caller.entry.name, "a machine is admitted");
    shared.happened_on(&machine, |machine| Happened::Admitted(machine, caller.entry.name.clone()));
    Ok(name)
}

fn row(shared: &Shared, machine: &Machine) -> Row<MachineRow> {
    let linked = shared.presence.machine(&machine.id);
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
        seen_at: if linked.is_some() { shared.now() } else { machine.seen_at },
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

pub(super) async fn machines(shared: &Shared, caller: &Caller, send: &mut Sender) -> Result<Answer, FrameError> {
    let machines = shared.store.machines(Standing::Admitted);
    let reached = machines.iter().filter(|machine| caller.reaches(machine)).map(|machine| row(shared, machine));
    growing_rows(send, reached.collect(), Reply::MachineRows, Reply::Machines).await?;
    Ok(Ok(()))
}

/// Other machines that had this name: retired ones, and ones that are called otherwise now.
pub(super) async fn formerly(
    shared: &Shared,
    caller: &Caller,
    name: &MachineName,
    send: &mut Sender,
) -> Result<Answer, FrameError> {
    let retired = shared.store.machines(Standing::Retired);
    let renamed = match shared.store.formerly_named(name).await {
        Ok(renamed) => renamed,
        Err(error) => return Ok(Err(shared.denial(&error))),
    };
    let renamed = renamed.iter().filter_map(|id| shared.store.machine(id)).filter(|machine| machine.name != *name);
    let retired = retired.into_iter().filter(|machine| machine.name == *name);
    let alike = retired.chain(renamed).filter(|machine| caller.reaches(machine));
    growing_rows(send, alike.map(|machine| row(shared, &machine)).collect(), Reply::MachineRows, Reply::Machines)
        .await?;
    Ok(Ok(()))
}

pub(super) async fn pending(shared: &Shared, caller: &Caller, send: &mut Sender) -> Result<Answer, FrameError> {
    let machines = shared.store.machines(Standing::Pending);
    let staff = match shared.store.staff_joins().await {
        Ok(staff) => staff,
        Err(error) => return Ok(Err(shared.denial(&error))),
    };
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
    let listed: HashSet<_> = shared
        .published
        .catalogue()
        .map(|catalogue| catalogue.staff.staff.iter().map(|entry| entry.key).collect())
        .unwrap_or_default();
    let rows = |list| Reply::PendingRows(list, List::default());
    growing_rows(send, machines.collect(), rows, |list| Reply::Pending(list, List::default())).await?;
    let staff = staff.into_iter().filter(|staff| !listed.contains(&staff.key)).map(Row::from);
    let rows = |list| Reply::PendingRows(List::default(), list);
    growing_rows(send, staff.collect(), rows, |list| Reply::Pending(List::default(), list)).await?;
    Ok(Ok(()))
}

pub(super) async fn ping(
    shared: &Arc<Shared>,
    caller: &Caller,
    machines: &[MachineId],
    wait_ms: u32,
    send: &mut Sender,
) -> Result<Answer, FrameError> {
    let wait = Duration::from_millis(u64::from(wait_ms.min(60_000)));
    let mut echoes = JoinSet::new();
    for &id in machines {
        if let Err(denial) = reachable(shared, caller, id) {
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

pub(super) async fn sealed_to(
    shared: &Shared,
    caller: &Caller,
    id: MachineId,
    send: &mut Sender,
) -> Result<Answer, FrameError> {
    let machine = match reachable(shared, caller, id) {
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
