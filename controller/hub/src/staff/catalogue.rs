//! The published catalogue, its history and its files; drafts: kept, put together, published.

use super::{Answer, reply};
use crate::staff::StaffService;
use crate::trust::caller::Caller;
use crate::unanswered::Unanswered;
use fernwart_certs::approve::Draft;
use fernwart_certs::catalogue::Role;
use fernwart_protocol::code::Denial;
use fernwart_protocol::document::Versions;
use fernwart_protocol::id::Digest;
use fernwart_protocol::link::Sender;
use fernwart_protocol::staff::Reply;
use fernwart_protocol::text::Blob;
use fernwart_protocol::to_agent::CatalogueFile;
use fernwart_protocol::version::{Hello, tag};
use fernwart_store::Draft as DraftWrite;
use tracing::warn;

/// Maximum number of published versions in one list.
const HISTORY: usize = 64;

pub(super) async fn history(service: &StaffService, send: &mut Sender) -> Result<(), Unanswered> {
    send_files(service.trust.published.history(HISTORY), send).await
}

/// The files that a technician lacks. Their program names its targets in the hello;
/// one that lacks a root names none.
pub(super) async fn newest(service: &StaffService, hello: &Hello, send: &mut Sender) -> Result<(), Unanswered> {
    let targets = hello.number(tag::TARGETS).unwrap_or_default();
    send_files(service.trust.lacking(&Versions { targets, ..Versions::default() })?, send).await
}

async fn send_files(files: Vec<CatalogueFile>, send: &mut Sender) -> Result<(), Unanswered> {
    for file in files {
        send.send(&Reply::File(file)).await?;
    }
    Ok(())
}

/// A bundle or one of its files.
pub(super) async fn blob(service: &StaffService, hash: &Digest, send: &mut Sender) -> Result<(), Unanswered> {
    let blob = service.trust.published.blob(hash).and_then(|bytes| Blob::try_from(bytes).ok());
    reply(send, blob.map(Reply::Blob).ok_or(Denial::NoSuchBlob)).await
}

pub(super) async fn drafts(service: &StaffService, send: &mut Sender) -> Result<(), Unanswered> {
    let drafts = service.records.or_denial(service.records.store.drafts().await)?;
    for (_, bytes) in drafts {
        if let Ok(bytes) = Blob::try_from(bytes) {
            send.send(&Reply::Draft(bytes)).await?;
        }
    }
    Ok(())
}

/// Stores a draft and merges it with earlier signatures of the same draft. Anybody on the staff
/// list may return a catalogue that was published once and is lost here.
pub(super) async fn put_draft(service: &StaffService, caller: &Caller, bytes: &[u8]) -> Answer {
    let draft: Draft = serde_json::from_slice(bytes).map_err(|_| Denial::CatalogueRefused)?;
    if !draft.is_given_back() {
        caller.must_be(Role::Lead)?;
    }
    let mut draft = service.trust.published.acceptable(draft)?;
    let id = draft.id().map_err(|_| Denial::CatalogueRefused)?;
    if let Some(known) = service.records.or_denial(service.records.store.draft(&id).await)?
        && let Ok(known) = serde_json::from_slice::<Draft>(&known)
    {
        draft.merge(&known);
    }
    let bytes = serde_json::to_vec(&draft).map_err(|_| Denial::CatalogueRefused)?;
    let write = DraftWrite { id, bytes: Some(bytes), at: service.records.now() };
    service.records.or_denial(service.records.store.write(write).await)
}

pub(super) async fn publish(service: &StaffService, caller: &Caller, id: &Digest) -> Answer {
    let draft = service.records.or_denial(service.records.store.draft(id).await)?;
    let bytes = draft.ok_or(Denial::NoSuchDraft)?;
    let draft: Draft = serde_json::from_slice(&bytes).map_err(|_| Denial::CatalogueRefused)?;
    if draft.is_given_back() {
        let targets = draft.targets.signed.version;
        warn!(%targets, by = %caller.entry.name, "a catalogue that this hub had lost is recovered");
    } else {
        caller.must_be(Role::Lead)?;
    }
    service.trust.put_in_force(&draft).await?;
    if let Err(error) =
        service.records.store.write(DraftWrite { id: *id, bytes: None, at: service.records.now() }).await
    {
        warn!(draft = %id, %error, "a published draft could not be deleted");
    }
    Ok(())
}

/// Stores a script file that the published catalogue names, if it is lost here.
pub(super) fn put_file(service: &StaffService, caller: &Caller, bytes: &[u8]) -> Answer {
    let hash = fernwart_certs::sha256(bytes);
    if !service.trust.published.misses(&hash) {
        return Err(Denial::NoSuchBlob);
    }
    service.trust.published.keep_file(&hash, bytes).map_err(|error| {
        warn!(%hash, %error, "a file of a script could not be kept");
        Denial::StoreFull
    })?;
    warn!(%hash, by = %caller.entry.name, "a script file that this hub had lost is recovered");
    Ok(())
}
