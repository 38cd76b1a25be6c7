//! Orders as they are signed here.

use crate::answer::{Answer, Answered};
use crate::session::ClientError;
use fernwart_certs::sha256;
use fernwart_protocol::document::{Envelope, Receipt};
use fernwart_protocol::id::{MachineId, RunId};
use fernwart_protocol::row::Row;
use fernwart_protocol::staff::MachineRow;
use std::collections::HashMap;

/// An order that this program has signed.
#[derive(Debug, Clone)]
pub struct SignedOrder {
    /// The run it asks for.
    pub run: RunId,
    /// What is sent.
    pub envelope: Envelope,
}

impl SignedOrder {
    /// Whether a receipt is about this very order.
    pub fn is_meant_by(&self, receipt: &Receipt) -> bool {
        receipt.run == self.run && receipt.order == sha256(self.envelope.bytes.as_bytes())
    }
}

/// The orders of one job, and the machines for which none could be signed.
#[derive(Debug, Default)]
pub struct Batch {
    /// By machine.
    pub orders: HashMap<MachineId, SignedOrder>,
    /// As they are sent, in the order in which they were signed.
    pub envelopes: Vec<Envelope>,
    /// Machines whose agents are too old for it.
    pub too_old: Vec<Answered>,
}

impl Batch {
    /// Adds what came of signing for one machine.
    ///
    /// # Errors
    /// When it could be signed for no machine at all.
    pub fn add(
        &mut self,
        machine: &Row<MachineRow>,
        signed: Result<SignedOrder, ClientError>,
    ) -> Result<(), ClientError> {
        match signed {
            Ok(order) => {
                self.envelopes.push(order.envelope.clone());
                self.orders.insert(machine.id, order);
                Ok(())
            }
            Err(ClientError::OlderAgent { why, .. }) => {
                self.too_old.push(Answered { machine: machine.id, answer: Answer::OlderAgent(why) });
                Ok(())
            }
            Err(error) => Err(error),
        }
    }
}
