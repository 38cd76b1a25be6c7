//! Signing orders, and sending them.

use super::{Session, Stream};
use crate::error::ClientError;
use crate::now;
use crate::order::{OlderAgent, SignedOrder};
use fernwart_certs::envelope::{EnvelopeError, seal};
use fernwart_certs::sealed;
use fernwart_protocol::document::{Action, Document, Envelope, Order};
use fernwart_protocol::id::RunId;
use fernwart_protocol::limits::{ORDER_EARLY, ORDERS_PER_FRAME};
use fernwart_protocol::row::Row;
use fernwart_protocol::staff::{JobHead, MachineRow, Orders, Reply, Request};
use fernwart_protocol::text::{List, Text};
use fernwart_protocol::version::Version;
use std::time::Duration;

impl Session {
    /// Signs an order for one machine.
    ///
    /// # Errors
    /// When it would be too long.
    pub fn order(
        &self,
        machine: &Row<MachineRow>,
        action: Action,
        reason: &Text<500>,
        life: Duration,
    ) -> Result<SignedOrder, ClientError> {
        let run = RunId::from_bytes(fernwart_certs::random());
        self.order_with(run, machine, action, reason, life, None)
    }

    /// The same with secret parameters, encrypted for the machine.
    ///
    /// # Errors
    /// When the machine has not published its sealing key, or the order cannot be signed.
    pub async fn sealed_order(
        &mut self,
        machine: &Row<MachineRow>,
        action: Action,
        reason: &Text<500>,
        life: Duration,
        secrets: &str,
    ) -> Result<SignedOrder, ClientError> {
        let mut replies = self.collect(&Request::SealedTo(machine.id)).await?.into_iter();
        let (Some(Reply::EvidenceKey(evidence)), Some(Reply::SealedTo(statement))) = (replies.next(), replies.next())
        else {
            return Err(ClientError::NoSealingKey(machine.name.clone()));
        };
        let key = sealed::believe(&statement, &evidence, &machine.id).map_err(ClientError::Sealing)?;
        let run = RunId::from_bytes(fernwart_certs::random());
        let sealed = sealed::seal(&key, &run, &machine.id, secrets).map_err(ClientError::Sealing)?;
        let sealed = sealed.parse().map_err(|_| ClientError::TooMany)?;
        self.order_with(run, machine, action, reason, life, Some(sealed))
    }

    fn order_with(
        &self,
        run: RunId,
        machine: &Row<MachineRow>,
        action: Action,
        reason: &Text<500>,
        life: Duration,
        sealed: Option<Text<16384>>,
    ) -> Result<SignedOrder, ClientError> {
        let (now, ms) = (now(), |duration: Duration| i64::try_from(duration.as_millis()).unwrap_or(i64::MAX));
        let order = Order {
            run,
            machine: machine.id,
            machine_name: machine.name.clone(),
            customer: machine.customer,
            action,
            key: self.key_id(),
            reason: reason.clone(),
            targets_version: self.catalogue.versions.targets,
            not_before: now.saturating_sub(ms(ORDER_EARLY)),
            not_after: now.saturating_add(ms(life)),
            sealed,
            session_key: None,
        };
        let envelope = self.sign_for(machine, &order)?;
        Ok(SignedOrder { run, envelope })
    }

    /// Signs a document that both the hub and a machine must be able to read.
    ///
    /// # Errors
    /// When one of them is too old to read it.
    pub fn sign_for<D: Document>(&self, machine: &Row<MachineRow>, document: &D) -> Result<Envelope, ClientError> {
        let needs = document.needs();
        if self.link.version().is_some_and(|hub| hub < needs.version) {
            return Err(ClientError::OlderHub { what: needs.what });
        }
        seal(document, &self.home.order_key, Version::of_peer(machine.protocol())).map_err(|error| match error {
            EnvelopeError::Newer { what, .. } => ClientError::OlderAgent {
                machine: machine.name.clone(),
                why: OlderAgent {
                    agent: machine.agent.clone(),
                    what: if what.is_empty() { "orders of this version" } else { what },
                },
            },
            error => ClientError::Sign(error),
        })
    }

    /// Submits a job; its updates arrive on the stream.
    ///
    /// # Errors
    /// When the link breaks.
    pub async fn submit(&self, head: JobHead, orders: &[Envelope]) -> Result<Stream, ClientError> {
        self.send_job(Request::Submit(head), orders).await
    }

    /// The same, but acts for machines that are away are held.
    ///
    /// # Errors
    /// When the hub says no, or the link breaks.
    pub async fn queue(&self, head: JobHead, orders: &[Envelope]) -> Result<Stream, ClientError> {
        self.send_job(Request::Queue(head), orders).await
    }

    async fn send_job(&self, job: Request, orders: &[Envelope]) -> Result<Stream, ClientError> {
        let mut stream = self.ask(&job).await?;
        // Limit each frame by number and by size: an order may be long.
        let most = fernwart_protocol::limits::FRAME_BYTES / 2;
        let mut batch = Vec::new();
        let mut bytes = 0;
        for order in orders {
            if batch.len() == ORDERS_PER_FRAME || (bytes + order.bytes.as_bytes().len() > most && !batch.is_empty()) {
                send_batch(&mut stream, std::mem::take(&mut batch)).await?;
                bytes = 0;
            }
            bytes += order.bytes.as_bytes().len() + 128;
            batch.push(order.clone());
        }
        if !batch.is_empty() {
            send_batch(&mut stream, batch).await?;
        }
        stream.send.finish();
        Ok(stream)
    }
}

async fn send_batch(stream: &mut Stream, batch: Vec<Envelope>) -> Result<(), ClientError> {
    let orders = Orders(List::try_from(batch).map_err(|_| ClientError::TooMany)?);
    stream.send.send(&orders).await.map_err(ClientError::Frame)
}
