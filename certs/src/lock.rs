//! Whom a lock is believed from.

use crate::catalogue::Catalogue;
use crate::envelope;
use fernwart_protocol::code::Refusal;
use fernwart_protocol::document::{Envelope, Lock, Locked};

/// Whether a lock is signed by an approver, or by a staff key about itself.
///
/// # Errors
/// Why not.
pub fn believe(envelope: &Envelope, catalogue: &Catalogue) -> Result<Lock, Refusal> {
    if let Some(key) = catalogue.approvers.get(&envelope.key) {
        return envelope::open(envelope, key).map_err(|_| Refusal::BadSignature);
    }
    let entry = catalogue.staff.find(&envelope.key).ok_or(Refusal::UnknownStaff)?;
    let lock: Lock = envelope::open(envelope, &entry.order_key).map_err(|_| Refusal::BadSignature)?;
    match &lock.locked {
        Locked::Keys(keys) if keys.as_slice() == [envelope.key] => Ok(lock),
        Locked::Keys(_) | Locked::Machine(_) => Err(Refusal::BeyondRole),
    }
}
