//! Requests about staff keys: suspend, resume, reject, lock, and renew certificates.

use super::{Answer, reply};
use crate::staff::StaffService;
use crate::trust::caller::Caller;
use crate::unanswered::Unanswered;
use fernwart_certs::catalogue::Role;
use fernwart_protocol::code::{Denial, Refusal};
use fernwart_protocol::document::{Document, Envelope, Lock, Locked};
use fernwart_protocol::event::Happened;
use fernwart_protocol::id::KeyId;
use fernwart_protocol::limits::ROWS_PER_FRAME;
use fernwart_protocol::link::{Link, Sender};
use fernwart_protocol::staff::{Reply, Suspension};
use fernwart_protocol::text::List;
use fernwart_store::RejectStaff;
use std::collections::HashSet;
use tracing::info;

pub(super) async fn suspend(service: &StaffService, caller: &Caller, key: KeyId) -> Answer {
    caller.must_be(Role::Lead)?;
    service.records.or_denial(service.trust.cut_off(key).await)?;
    info!(%key, by = %caller.entry.name, "a staff key is suspended");
    service.records.happened(Happened::Suspended(key, caller.entry.name.clone()));
    Ok(())
}

pub(super) async fn resume(service: &StaffService, caller: &Caller, key: KeyId) -> Answer {
    caller.must_be(Role::Lead)?;
    service.records.or_denial(service.trust.let_in(key).await)?;
    info!(%key, by = %caller.entry.name, "a staff key is resumed");
    Ok(())
}

/// Rejects a person who waits for the staff list. Keys of people on the list are kept: the hub
/// needs them.
pub(super) async fn reject(service: &StaffService, caller: &Caller, key: KeyId) -> Answer {
    caller.must_be(Role::Lead)?;
    if service.trust.published.catalogue().is_some_and(|catalogue| catalogue.staff.find(&key).is_some()) {
        return Err(Denial::NotPending);
    }
    let waited = service.records.store.write(RejectStaff(key)).await;
    let waited = service.records.or_denial(waited)?;
    info!(%key, by = %caller.entry.name, "a technician who asked to join is rejected");
    if waited { Ok(()) } else { Err(Denial::NotPending) }
}

/// Accepts a lock from any signer that the catalogue allows.
pub(super) async fn lock(service: &StaffService, envelope: &Envelope) -> Answer {
    let catalogue = service.trust.published.catalogue().ok_or(Denial::NoCatalogue)?;
    fernwart_certs::lock::believe(envelope, &catalogue).map_err(|refusal| match refusal {
        Refusal::NewerOrder => Denial::NewerDocument,
        _ => Denial::BeyondRole,
    })?;
    service.records.or_denial(service.trust.lock(envelope).await)
}

/// Issues a certificate for the key from the TLS handshake, not for one from the request.
pub(super) async fn renew(
    service: &StaffService,
    caller: &Caller,
    link: &Link,
    send: &mut Sender,
) -> Result<(), Unanswered> {
    let spki = link.peer_certificates().first().and_then(fernwart_certs::peer::public_key_of).unwrap_or_default();
    reply(send, service.keys.certify_staff(caller.entry.key, &spki).map(Reply::Certificate)).await
}

/// Lists the suspended staff keys.
pub(super) async fn suspensions(service: &StaffService, caller: &Caller, send: &mut Sender) -> Result<(), Unanswered> {
    caller.must_be(Role::Lead)?;
    let mut locked: HashSet<KeyId> = HashSet::new();
    for envelope in service.trust.locks() {
        if let Ok(Lock { locked: Locked::Keys(keys), .. }) = Lock::from_bytes(envelope.bytes.as_bytes()) {
            locked.extend(keys);
        }
    }
    let mut all: Vec<Suspension> =
        service.trust.suspended().into_iter().map(|key| Suspension { key, locked: locked.contains(&key) }).collect();
    all.sort_by_key(|one| one.key.to_string());
    for some in all.chunks(ROWS_PER_FRAME) {
        send.send(&Reply::Suspensions(List::try_from(some.to_vec()).unwrap_or_default())).await?;
    }
    Ok(())
}
