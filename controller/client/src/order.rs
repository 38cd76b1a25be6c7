//! Signed orders, and why one could not be signed.

use fernwart_certs::sha256;
use fernwart_protocol::document::{Envelope, Receipt};
use fernwart_protocol::id::RunId;
use fernwart_protocol::text::Text;

/// An order that this program has signed.
#[derive(Debug, Clone)]
pub struct SignedOrder {
    /// The id of its run.
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

/// Why no order was sent to a machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OlderAgent {
    /// The version of its program.
    pub agent: Text<32>,
    /// What that program does not know.
    pub what: &'static str,
}

impl std::fmt::Display for OlderAgent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "its agent {} knows no {}: update it there", self.agent, self.what)
    }
}
