//! Streams that the agent opens: outcomes that no hub has acknowledged, catalogue files, blobs.

use super::streams::await_stored;
use crate::executor::Handle;
use crate::message::ToExecutor;
use fernwart_protocol::id::{Digest, RunId};
use fernwart_protocol::limits::OFFER_FILES;
use fernwart_protocol::link::{FrameError, Link};
use fernwart_protocol::to_agent::Fetched;
use fernwart_protocol::to_hub::{Ask, SignedOutcome};
use std::collections::HashSet;
use std::sync::Arc;
use tokio::sync::Mutex;
use tracing::{debug, warn};

/// Outcomes being sent on a link.
#[derive(Debug, Default)]
pub(super) struct Offering {
    runs: std::sync::Mutex<HashSet<RunId>>,
    turn: Mutex<()>,
}

impl Offering {
    fn runs(&self) -> std::sync::MutexGuard<'_, HashSet<RunId>> {
        self.runs.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// Offers an outcome that no hub has acknowledged. One at a time, since several at once would all
/// be too slow on a slow line.
pub(super) async fn offer(
    link: Link,
    (run, outcome): (RunId, SignedOutcome),
    executor: Handle,
    offering: Arc<Offering>,
) {
    if !offering.runs().insert(run) {
        // It is queued already.
        return;
    }
    let turn = offering.turn.lock().await;
    let Ok((mut send, mut receive)) = link.open().await else { return };
    if send.send(&Ask::Outcome(outcome)).await.is_ok() {
        send.finish();
        await_stored(&mut receive, run, &executor).await;
    }
    drop(turn);
    offering.runs().remove(&run);
}

/// Fetches the catalogue files that are newer than these versions.
pub(super) async fn fetch(link: Link, known: fernwart_protocol::document::Versions, executor: Handle) {
    let Ok((mut send, mut receive)) = link.open().await else { return };
    if send.send(&Ask::Fetch(known)).await.is_err() {
        return;
    }
    send.finish();
    let mut files = Vec::new();
    loop {
        match receive.next::<Fetched>().await {
            Ok(Some(Fetched::File(file))) if files.len() < OFFER_FILES => files.push(file),
            Ok(Some(Fetched::Blob(_))) => return warn!("the hub sent a blob instead of catalogue files"),
            Ok(Some(Fetched::File(_))) => return warn!("the hub offers too many files"),
            Ok(Some(Fetched::Denied(denial))) => return debug!(code = %denial.code(), "no catalogue to fetch"),
            Ok(None) => break,
            Err(error) => return debug!(%error, "fetching the catalogue was cut"),
        }
    }
    if !files.is_empty() {
        executor.send(ToExecutor::Catalogue(files)).await;
    }
}

/// Fetches a script's file. If the link breaks, nothing is reported: the file is requested again
/// on the next one.
pub(super) async fn fetch_blob(link: Link, hash: Digest, executor: Handle) {
    let fetched = async {
        let (mut send, mut receive) = link.open().await.ok()?;
        send.send(&Ask::Blob(hash)).await.ok()?;
        send.finish();
        match receive.next::<Fetched>().await {
            Ok(Some(Fetched::Blob(bytes))) => Some(Some(bytes.into_bytes())),
            Ok(Some(Fetched::Denied(denial))) => {
                warn!(%hash, code = %denial.code(), "the hub denied a script's file");
                Some(None)
            }
            Ok(Some(Fetched::File(_)) | None) | Err(FrameError::Newer | FrameError::Rejected) => Some(None),
            Err(error) => {
                let why = error.reproach()?;
                warn!(%hash, %error, "a script's file cannot be read");
                link.close(why);
                Some(None)
            }
        }
    };
    if let Some(bytes) = fetched.await {
        executor.send(ToExecutor::Blob(hash, bytes)).await;
    }
}
