//! A catalogue that this hub has lost, given back by a machine that follows it.
//!
//! A hub that was restored from a backup may know an older catalogue than its machines,
//! which then believe nothing it publishes. What they follow was signed by the approvers
//! and published by this hub, so it may come from any of them.

use crate::staff_answers::put_in_force;
use crate::{Shared, tell_fresh};
use fernwart_certs::approve::Draft;
use fernwart_protocol::code::Denial;
use fernwart_protocol::id::MachineId;
use fernwart_protocol::limits::OFFER_FILES;
use fernwart_protocol::link::{FrameError, Link};
use fernwart_protocol::to_agent::{CatalogueFile, Deliver};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tracing::warn;

/// A machine gives its catalogue back within this time.
const ANSWERS: Duration = Duration::from_secs(30);

/// What a machine gives back is not taken.
#[derive(Debug, thiserror::Error)]
enum GiveBackError {
    #[error("it cannot be asked for it, or does not answer")]
    Link(#[source] FrameError),
    #[error("it does not answer in time")]
    Silent,
    #[error("it names more files than a catalogue has")]
    Files,
    #[error("what it holds is no newer than what is published here")]
    Nothing,
    #[error("what it holds is no whole catalogue")]
    Catalogue(#[source] fernwart_certs::catalogue::CatalogueError),
    #[error("what it holds is not what this hub has published: {}", .0.code())]
    Refused(Denial),
}

/// Takes back what a machine follows, if it is newer than what is published here. One
/// machine is asked at a time: nearly always the first one is enough.
pub(crate) async fn take_back(shared: Arc<Shared>, link: Link, id: MachineId, (knows, stamped): (u64, u64)) {
    let _one = shared.giving_back.lock().await;
    let published = newest(&shared);
    let timestamp = shared.published.catalogue().map_or(0, |catalogue| catalogue.versions.timestamp);
    if (knows <= published && stamped <= timestamp) || link.is_closed() {
        return;
    }
    warn!(machine = %id, it_follows = knows, published,
        "this machine follows a newer catalogue than this hub has: the hub was restored from a backup");
    match ask(&shared, &link).await {
        Ok(targets) => warn!(machine = %id, targets, "a catalogue that this hub has lost is given back"),
        // A technician may have been faster.
        Err(_) if knows > published && newest(&shared) >= knows => {}
        Err(error) => {
            let reason = fernwart_protocol::text::chain(&error);
            warn!(machine = %id, reason, "it is not given back; fernwart doctor tells what to do");
            shared.published.note_newer(knows);
        }
    }
}

fn newest(shared: &Shared) -> u64 {
    shared.published.catalogue().map_or(0, |catalogue| catalogue.versions.targets)
}

/// The version of the targets that are given back and in force now.
async fn ask(shared: &Arc<Shared>, link: &Link) -> Result<u64, GiveBackError> {
    let files = tokio::time::timeout(ANSWERS, fetch(link)).await.map_err(|_| GiveBackError::Silent)??;
    let root = shared.published.catalogue().map_or(0, |catalogue| catalogue.versions.root);
    let draft = Draft::given_back(&files, root).map_err(GiveBackError::Catalogue)?;
    let targets = draft.targets.signed.version.get();
    let is_newer = targets > newest(shared);
    if is_newer {
        let draft = shared.published.acceptable(draft).map_err(GiveBackError::Refused)?;
        put_in_force(shared, &draft).await.map_err(GiveBackError::Refused)?;
    }
    // Where the clock was ahead then, what is made now would look older.
    let lost = shared.published.signed_before(&files);
    let fresh = shared.published.freshen_above(lost, shared.now()).await;
    let is_fresh = matches!(fresh, Ok(Some(_)));
    tell_fresh(shared, fresh).await;
    if is_newer || is_fresh { Ok(targets) } else { Err(GiveBackError::Nothing) }
}

async fn fetch(link: &Link) -> Result<BTreeMap<String, Vec<u8>>, GiveBackError> {
    let (mut send, mut receive) = link.open().await.map_err(|_| GiveBackError::Silent)?;
    send.send(&Deliver::GiveBack).await.map_err(GiveBackError::Link)?;
    send.finish();
    let mut files = BTreeMap::new();
    while let Some(file) = receive.next::<CatalogueFile>().await.map_err(GiveBackError::Link)? {
        files.insert(file.name.as_raw().to_owned(), file.bytes.into_bytes());
        if files.len() > OFFER_FILES {
            return Err(GiveBackError::Files);
        }
    }
    Ok(files)
}
