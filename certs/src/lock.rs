//! Decides whether to accept a lock, by its signer.

use crate::catalogue::Catalogue;
use crate::envelope::{self, EnvelopeError};
use fernwart_protocol::code::Refusal;
use fernwart_protocol::document::{Envelope, Lock, Locked};

/// Accepts a lock that is signed by an approver, or by a staff key for itself.
///
/// # Errors
/// The reason why not.
pub fn believe(envelope: &Envelope, catalogue: &Catalogue) -> Result<Lock, Refusal> {
    let not_read = |error: EnvelopeError| if error.is_newer() { Refusal::NewerOrder } else { Refusal::BadSignature };
    if let Some(key) = catalogue.approvers.get(&envelope.key) {
        return envelope::open(envelope, key).map_err(not_read);
    }
    let entry = catalogue.staff.find(&envelope.key).ok_or(Refusal::UnknownStaff)?;
    let lock: Lock = envelope::open(envelope, &entry.order_key).map_err(not_read)?;
    match &lock.locked {
        Locked::Keys(keys) if keys.as_slice() == [envelope.key] => Ok(lock),
        Locked::Keys(_) | Locked::Machine(_) => Err(Refusal::BeyondRole),
    }
}
