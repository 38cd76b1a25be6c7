//! The orders of one job.

use crate::answer::{Answer, Answered};
use crate::order::SignedOrder;
use crate::session::ClientError;
use fernwart_protocol::document::Envelope;
use fernwart_protocol::id::MachineId;
use fernwart_protocol::row::Row;
use fernwart_protocol::staff::MachineRow;
use std::collections::HashMap;

/// The orders of one job, and the machines for which none could be signed.
#[derive(Debug, Default)]
pub struct Batch {
    /// By machine.
    pub orders: HashMap<MachineId, SignedOrder>,
    /// As they are sent, in the order in which they were signed.
    pub envelopes: Vec<Envelope>,
    /// Machines whose agents are too old for the order.
    pub too_old: Vec<Answered>,
}

impl Batch {
    /// Adds the result of signing for one machine.
    ///
    /// # Errors
    /// When the order cannot be signed for any machine.
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
