//! Drafts of the catalogue: kept, put together, published.

use super::Answer;
use crate::Shared;
use crate::doors::caller::Caller;
use fernwart_certs::approve::Draft;
use fernwart_certs::catalogue::Role;
use fernwart_protocol::code::Denial;
use fernwart_protocol::id::Digest;
use fernwart_store::Draft as DraftWrite;
use std::sync::Arc;
use tracing::{info, warn};

/// Keeps a draft; signatures of the same draft that came before are kept too. What was
/// published once, and is lost here, comes back from whoever has it.
pub(super) async fn put_draft(shared: &Shared, caller: &Caller, bytes: &[u8]) -> Answer {
    let draft: Draft = serde_json::from_slice(bytes).map_err(|_| Denial::CatalogueRefused)?;
    if !draft.is_given_back() {
        caller.must_be(Role::Lead)?;
    }
    let mut draft = shared.published.acceptable(draft)?;
    let id = draft.id().map_err(|_| Denial::CatalogueRefused)?;
    if let Some(known) = shared.store.draft(&id).await.map_err(|error| shared.denial(&error))?
        && let Ok(known) = serde_json::from_slice::<Draft>(&known)
    {
        draft.merge(&known);
    }
    let bytes = serde_json::to_vec(&draft).map_err(|_| Denial::CatalogueRefused)?;
    shared
        .store
        .write(DraftWrite { id, bytes: Some(bytes), at: shared.now() })
        .await
        .map_err(|error| shared.denial(&error))
}

pub(super) async fn publish(shared: &Arc<Shared>, caller: &Caller, id: &Digest) -> Answer {
    let bytes = shared.store.draft(id).await.map_err(|error| shared.denial(&error))?.ok_or(Denial::NoSuchDraft)?;
    let draft: Draft = serde_json::from_slice(&bytes).map_err(|_| Denial::CatalogueRefused)?;
    if draft.is_given_back() {
        let targets = draft.targets.signed.version;
        warn!(%targets, by = %caller.entry.name, "a catalogue that this hub has lost is given back");
    } else {
        caller.must_be(Role::Lead)?;
    }
    put_in_force(shared, &draft).await?;
    if let Err(error) = shared.store.write(DraftWrite { id: *id, bytes: None, at: shared.now() }).await {
        warn!(draft = %id, %error, "a published draft could not be let go");
    }
    Ok(())
}

/// Publishes a draft, and tells everybody.
pub(crate) async fn put_in_force(shared: &Arc<Shared>, draft: &Draft) -> Answer {
    use crate::catalogue::PublishedError;
    use fernwart_certs::approve::PublishError;
    let timestamp = shared.published.publish(draft, shared.now()).await.map_err(|error| {
        warn!(%error, "a draft was not published");
        match error {
            PublishedError::Publish(PublishError::Unsigned { .. }) => Denial::CatalogueUnsigned,
            PublishedError::Publish(PublishError::Stale { .. }) => Denial::CatalogueStale,
            PublishedError::Publish(_) | PublishedError::Catalogue(_) => Denial::CatalogueRefused,
            PublishedError::Io(_) => Denial::StoreFull,
            PublishedError::File(_) => Denial::StoreFailed,
        }
    })?;
    info!(timestamp, "a new catalogue is published");
    shared.tell_published();
    let Some(catalogue) = shared.published.catalogue() else { return Err(Denial::NoCatalogue) };
    drop_overtaken(shared, catalogue.versions.targets).await;
    shared.presence.cut_staff(|key| catalogue.staff.find(key).is_none());
    shared.admitted.notify_waiters();
    shared.presence.catalogue_changed(timestamp).await;
    Ok(())
}

/// Keeps a file of a script that the published catalogue names, where it is lost here.
pub(super) fn put_file(shared: &Shared, caller: &Caller, bytes: &[u8]) -> Answer {
    let hash = fernwart_certs::sha256(bytes);
    if !shared.published.misses(&hash) {
        return Err(Denial::NoSuchBlob);
    }
    shared.published.keep_file(&hash, bytes).map_err(|error| {
        warn!(%hash, %error, "a file of a script could not be kept");
        Denial::StoreFull
    })?;
    warn!(%hash, by = %caller.entry.name, "a file of a script that this hub has lost is given back");
    Ok(())
}

/// Lets go of drafts that no longer follow what is published.
async fn drop_overtaken(shared: &Shared, published: u64) {
    let drafts = match shared.store.drafts().await {
        Ok(drafts) => drafts,
        Err(error) => return warn!(%error, "drafts cannot be read"),
    };
    let overtaken = |bytes: &[u8]| {
        serde_json::from_slice::<Draft>(bytes).is_ok_and(|draft| draft.targets.signed.version.get() <= published)
    };
    for (id, _) in drafts.iter().filter(|(_, bytes)| overtaken(bytes)) {
        if let Err(error) = shared.store.write(DraftWrite { id: *id, bytes: None, at: shared.now() }).await {
            warn!(draft = %id, %error, "an overtaken draft could not be let go");
        }
    }
}
