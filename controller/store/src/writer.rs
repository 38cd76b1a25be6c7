//! The one writer: many writes, one transaction, one wait for the disk.
//!
//! ```text
//! write ─▶ queue ─▶ take what is there (at most a batch) ─▶ apply all ─▶ commit ─▶ answer all
//!                                     └─ one fails ─▶ roll back ─▶ each by itself
//! ```

use crate::StoreError;
use futures::future::BoxFuture;
use sqlx::{AnyConnection, AnyPool};
use std::future::Future;
use tokio::sync::{mpsc, oneshot};

/// Writes in one transaction: with 1 KiB each half a megabyte of log.
const BATCH: usize = 512;

/// Writes that wait: eight batches, then askers wait.
const QUEUE: usize = 4096;

/// Something to be written, and what the asker gets back.
pub trait Write: Send + Sync + 'static {
    /// What comes back.
    type Reply: Send + 'static;

    /// Writes inside a transaction. May be called a second time when the first
    /// transaction was rolled back.
    fn apply<'c>(
        &'c self,
        transaction: &'c mut AnyConnection,
    ) -> impl Future<Output = Result<Self::Reply, sqlx::Error>> + Send + 'c;
}

trait Queued: Send {
    fn apply<'c>(&'c mut self, transaction: &'c mut AnyConnection) -> BoxFuture<'c, Result<(), sqlx::Error>>;
    fn answer(self: Box<Self>, result: Result<(), StoreError>);
}

struct Waiting<W: Write> {
    write: W,
    reply: Option<W::Reply>,
    asker: oneshot::Sender<Result<W::Reply, StoreError>>,
}

impl<W: Write> Queued for Waiting<W> {
    fn apply<'c>(&'c mut self, transaction: &'c mut AnyConnection) -> BoxFuture<'c, Result<(), sqlx::Error>> {
        Box::pin(async move {
            self.reply = Some(self.write.apply(transaction).await?);
            Ok(())
        })
    }

    fn answer(self: Box<Self>, result: Result<(), StoreError>) {
        let Self { reply, asker, .. } = *self;
        let reply = result.and_then(|()| reply.ok_or(StoreError::Closed));
        // Whoever asked may have gone; what was written stays.
        let _ = asker.send(reply);
    }
}

/// How the writer is reached.
#[derive(Clone)]
pub(crate) struct Handle(mpsc::Sender<Box<dyn Queued>>);

impl std::fmt::Debug for Handle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Writer")
    }
}

impl Handle {
    pub(crate) async fn write<W: Write>(&self, write: W) -> Result<W::Reply, StoreError> {
        let (asker, answer) = oneshot::channel();
        self.0.send(Box::new(Waiting { write, reply: None, asker })).await.map_err(|_| StoreError::Closed)?;
        answer.await.map_err(|_| StoreError::Closed)?
    }

    /// Waits until all that was queued before is on disk.
    pub(crate) async fn stop(&self) {
        // An empty write comes after all others.
        let _ = self.write(Nothing).await;
    }
}

struct Nothing;

impl Write for Nothing {
    type Reply = ();
    async fn apply(&self, _: &mut AnyConnection) -> Result<(), sqlx::Error> {
        Ok(())
    }
}

pub(crate) fn start(pool: AnyPool) -> Handle {
    let (sender, inbox) = mpsc::channel(QUEUE);
    tokio::spawn(run(pool, inbox));
    Handle(sender)
}

async fn run(pool: AnyPool, mut inbox: mpsc::Receiver<Box<dyn Queued>>) {
    let mut batch = Vec::with_capacity(BATCH);
    while inbox.recv_many(&mut batch, BATCH).await > 0 {
        if together(&pool, &mut batch).await.is_ok() {
            for queued in batch.drain(..) {
                queued.answer(Ok(()));
            }
            continue;
        }
        for mut queued in batch.drain(..) {
            let result = together(&pool, std::slice::from_mut(&mut queued)).await;
            queued.answer(result.map_err(StoreError::Sql));
        }
    }
}

/// All or nothing. A connection on which anything has failed is not used
/// again: after a full disk nobody knows what it still holds.
async fn together(pool: &AnyPool, batch: &mut [Box<dyn Queued>]) -> Result<(), sqlx::Error> {
    let mut connection = pool.acquire().await?;
    let result = in_transaction(&mut connection, batch).await;
    if result.is_err() {
        connection.close_on_drop();
    }
    result
}

async fn in_transaction(connection: &mut AnyConnection, batch: &mut [Box<dyn Queued>]) -> Result<(), sqlx::Error> {
    sqlx::query("BEGIN IMMEDIATE").execute(&mut *connection).await?;
    for queued in batch {
        queued.apply(&mut *connection).await?;
    }
    sqlx::query("COMMIT").execute(connection).await?;
    Ok(())
}
