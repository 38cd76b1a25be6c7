//! Machines: which there are, who waits to be one, and what a lead changes about them.

use super::Session;
use crate::error::ClientError;
use crate::now;
use fernwart_protocol::document::Retirement;
use fernwart_protocol::id::MachineId;
use fernwart_protocol::limits::{JOB_MACHINES, RETIREMENT_LIFE};
use fernwart_protocol::row::Row;
use fernwart_protocol::staff::{Label, MachineRow, Membership, PendingMachine, PendingStaff, Reply, Request};
use fernwart_protocol::text::{List, MachineName, Text};
use std::collections::HashMap;
use std::time::Duration;

/// Machines in one request about a group.
const GROUPED: usize = 4096;

impl Session {
    /// All machines within reach.
    ///
    /// # Errors
    /// When the hub says no, or the link breaks.
    pub async fn machines(&mut self) -> Result<Vec<Row<MachineRow>>, ClientError> {
        let mut machines = Vec::new();
        for reply in self.collect(&Request::Machines).await? {
            match reply {
                Reply::MachineRows(rows) => machines.extend(rows),
                Reply::Machines(rows) => machines.extend(rows.into_iter().map(Row::from)),
                _ => return Err(ClientError::Unexpected),
            }
        }
        Ok(machines)
    }

    /// Machines and people who wait to be admitted.
    ///
    /// # Errors
    /// When the hub says no, or the link breaks.
    pub async fn pending(&mut self) -> Result<(Vec<PendingMachine>, Vec<PendingStaff>), ClientError> {
        let (mut machines, mut staff) = (Vec::new(), Vec::new());
        for reply in self.collect(&Request::Pending).await? {
            match reply {
                Reply::PendingRows(some_machines, some_staff) => {
                    machines.extend(some_machines.into_iter().map(Row::into_base));
                    staff.extend(some_staff.into_iter().map(Row::into_base));
                }
                Reply::Pending(some_machines, some_staff) => {
                    machines.extend(some_machines);
                    staff.extend(some_staff);
                }
                _ => return Err(ClientError::Unexpected),
            }
        }
        Ok((machines, staff))
    }

    /// Other machines that had this name: retired and renamed ones. An older hub returns none.
    ///
    /// # Errors
    /// When the hub says no, or the link breaks.
    pub async fn formerly(&mut self, name: &MachineName) -> Result<Vec<Row<MachineRow>>, ClientError> {
        let replies = match self.collect(&Request::Formerly(name.clone())).await {
            Err(ClientError::OlderHub { .. }) => return Ok(Vec::new()),
            replies => replies?,
        };
        let rows = |reply| if let Reply::MachineRows(rows) = reply { rows.into_vec() } else { Vec::new() };
        Ok(replies.into_iter().flat_map(rows).collect())
    }

    /// Round-trip times through the hub to these machines' agents, microseconds; none where
    /// an agent did not answer within `timeout`.
    ///
    /// # Errors
    /// When the hub says no, or the link breaks.
    pub async fn ping(
        &mut self,
        machines: &[MachineId],
        timeout: Duration,
    ) -> Result<HashMap<MachineId, Option<u32>>, ClientError> {
        let wait_ms = u32::try_from(timeout.as_millis()).unwrap_or(u32::MAX);
        let mut answers = HashMap::with_capacity(machines.len());
        for chunk in machines.chunks(JOB_MACHINES) {
            let ids = List::try_from(chunk.to_vec()).unwrap_or_default();
            for reply in self.collect(&Request::Ping(ids, wait_ms)).await? {
                if let Reply::Pong(id, took) = reply {
                    answers.insert(id, took);
                }
            }
        }
        Ok(answers)
    }

    /// Admits a machine under this name. The name it got, which differs if that was taken.
    ///
    /// # Errors
    /// When the hub says no, or the link breaks.
    pub async fn admit(&mut self, machine: MachineId, name: MachineName) -> Result<MachineName, ClientError> {
        let replies = self.collect(&Request::Admit(machine, name.clone())).await?;
        let named =
            replies.into_iter().find_map(|reply| if let Reply::Named(name) = reply { Some(name) } else { None });
        Ok(named.unwrap_or(name))
    }

    /// Turns away a machine that waits to be admitted.
    ///
    /// # Errors
    /// When the hub says no, or the link breaks.
    pub async fn reject(&self, machine: MachineId) -> Result<(), ClientError> {
        self.request(&Request::Reject(machine)).await
    }

    /// Retires a machine, signed with this home's key. A hub that is too old for signed
    /// retirements has only its own word for the machine, which then asks again once a day.
    ///
    /// # Errors
    /// When the hub says no, or the link breaks.
    pub async fn retire(&self, row: &Row<MachineRow>) -> Result<(), ClientError> {
        let (at, life) = (now(), i64::try_from(RETIREMENT_LIFE.as_millis()).unwrap_or(i64::MAX));
        let retirement = Retirement {
            machine: row.id,
            machine_name: row.name.clone(),
            customer: row.customer,
            key: self.key_id(),
            at,
            not_after: at.saturating_add(life),
        };
        let signed = self.sign_for(row, &retirement)?;
        match self.request(&Request::RetireSigned(signed)).await {
            Err(ClientError::OlderHub { .. }) => self.request(&Request::Retire(row.id)).await,
            done => done,
        }
    }

    /// Gives a machine another name.
    ///
    /// # Errors
    /// When the hub says no, or the link breaks.
    pub async fn rename(&self, machine: MachineId, name: MachineName) -> Result<(), ClientError> {
        self.request(&Request::Rename(machine, name)).await
    }

    /// Acknowledges a machine's alarm.
    ///
    /// # Errors
    /// When the hub says no, or the link breaks.
    pub async fn acknowledge(&self, machine: MachineId) -> Result<(), ClientError> {
        self.request(&Request::Acknowledge(machine)).await
    }

    /// Replaces a machine's labels.
    ///
    /// # Errors
    /// When the hub says no, or the link breaks.
    pub async fn label(&self, machine: MachineId, labels: List<Label, 32>) -> Result<(), ClientError> {
        self.request(&Request::Label(machine, labels)).await
    }

    /// Puts machines into a group, or takes them out.
    ///
    /// # Errors
    /// When the hub says no, or the link breaks.
    pub async fn group(
        &self,
        group: &Text<63>,
        machines: &[MachineId],
        membership: Membership,
    ) -> Result<(), ClientError> {
        for chunk in machines.chunks(GROUPED) {
            let list = List::try_from(chunk.to_vec()).unwrap_or_default();
            self.request(&Request::Group(group.clone(), list, membership)).await?;
        }
        Ok(())
    }
}
