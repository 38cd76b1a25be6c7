//! The one writer: many writes, one transaction, one wait for the disk.
//!
//! ```text
//! write ─▶ queue ─▶ take what is there (at most a batch) ─▶ apply all ─▶ commit ─▶ roster ─▶ answer all
//!                                     └─ one fails ─▶ roll back ─▶ each by itself
//! ```

use crate::StoreError;
use crate::disk::{self, Disk};
use crate::outcomes::{self, Learned, NewOutcome};
use crate::roster::{Change, Roster};
use crate::runs;
use fernwart_protocol::id::{MachineId, RunId};
use futures::future::BoxFuture;
use sqlx::pool::PoolConnection;
use sqlx::{Any, AnyConnection, AnyPool};
use std::future::Future;
use std::sync::Arc;
use tokio::sync::{mpsc, oneshot};

/// Writes in one transaction: with 1 KiB each half a megabyte of log.
const BATCH: usize = 512;

/// What the writer's connection has more than the readers': a batch of reports of
/// usual size fits into its 16 MiB of pages, and is not written twice for want of
/// room; the log is carried over every 16 MiB.
const ROOM: [&str; 2] = ["PRAGMA cache_size = -16384", "PRAGMA wal_autocheckpoint = 4096"];

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

    /// What becomes of the roster once it is on disk.
    fn then(&self) -> Change {
        Change::Nothing
    }
}

trait Queued: Send {
    fn apply<'c>(&'c mut self, transaction: &'c mut AnyConnection) -> BoxFuture<'c, Result<(), sqlx::Error>>;
    fn then(&self) -> Change;
    fn answer(self: Box<Self>, result: Result<(), StoreError>);
}

/// What was asked, and who waits for the answer.
struct WriteRequest<T, R> {
    what: T,
    reply: Option<R>,
    asker: oneshot::Sender<Result<R, StoreError>>,
}

impl<T, R> WriteRequest<T, R> {
    fn new(what: T) -> (Box<Self>, oneshot::Receiver<Result<R, StoreError>>) {
        let (asker, answer) = oneshot::channel();
        (Box::new(Self { what, reply: None, asker }), answer)
    }

    fn answer(self, result: Result<(), StoreError>) {
        let Self { reply, asker, .. } = self;
        let reply = result.and_then(|()| reply.ok_or(StoreError::Closed));
        // Whoever asked may have gone; what was written stays.
        let _ = asker.send(reply);
    }
}

impl<W: Write> Queued for WriteRequest<W, W::Reply> {
    fn apply<'c>(&'c mut self, transaction: &'c mut AnyConnection) -> BoxFuture<'c, Result<(), sqlx::Error>> {
        Box::pin(async move {
            self.reply = Some(self.what.apply(transaction).await?);
            Ok(())
        })
    }

    fn then(&self) -> Change {
        self.what.then()
    }

    fn answer(self: Box<Self>, result: Result<(), StoreError>) {
        Self::answer(*self, result);
    }
}

enum Item {
    Write(Box<dyn Queued>),
    /// Written together with others, in few statements.
    Offer(Box<WriteRequest<RunId, bool>>),
    /// The same.
    Outcome(Box<WriteRequest<NewOutcome, outcomes::Reply>>),
    /// The end: all before it is written, nothing after it.
    Stop(oneshot::Sender<()>),
}

impl Item {
    fn answer(self, result: Result<(), StoreError>) {
        match self {
            Self::Write(queued) => queued.answer(result),
            Self::Offer(request) => request.answer(result),
            Self::Outcome(request) => request.answer(result),
            Self::Stop(asker) => drop(asker.send(())),
        }
    }
}

/// How the writer is reached.
#[derive(Clone)]
pub(crate) struct Handle(mpsc::Sender<Item>);

impl std::fmt::Debug for Handle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Writer")
    }
}

impl Handle {
    pub(crate) async fn write<W: Write>(&self, write: W) -> Result<W::Reply, StoreError> {
        let (request, answer) = WriteRequest::new(write);
        self.ask(Item::Write(request), answer).await
    }

    pub(crate) async fn note<W: Write>(&self, write: W) {
        let (request, _) = WriteRequest::new(write);
        // Fails only once the store is closed.
        let _ = self.send(Item::Write(request)).await;
    }

    pub(crate) async fn offer(&self, run: RunId) -> Result<bool, StoreError> {
        let (request, answer) = WriteRequest::new(run);
        self.ask(Item::Offer(request), answer).await
    }

    pub(crate) async fn store_outcome(&self, outcome: NewOutcome) -> Result<outcomes::Reply, StoreError> {
        let (request, answer) = WriteRequest::new(outcome);
        self.ask(Item::Outcome(request), answer).await
    }

    async fn ask<R>(&self, item: Item, answer: oneshot::Receiver<Result<R, StoreError>>) -> Result<R, StoreError> {
        self.send(item).await?;
        answer.await.map_err(|_| StoreError::Closed)?
    }

    async fn send(&self, item: Item) -> Result<(), StoreError> {
        self.0.send(item).await.map_err(|_| StoreError::Closed)
    }

    /// Waits until all that was queued before is on disk, and ends the writer.
    pub(crate) async fn stop(&self) {
        let (asker, answer) = oneshot::channel();
        if self.send(Item::Stop(asker)).await.is_ok() {
            let _ = answer.await;
        }
    }
}

pub(crate) fn start(disk: Option<Arc<dyn Disk>>, pool: AnyPool, roster: Arc<Roster>) -> Handle {
    let (sender, inbox) = mpsc::channel(QUEUE);
    tokio::spawn(run(disk, pool, roster, inbox));
    Handle(sender)
}

async fn run(disk: Option<Arc<dyn Disk>>, pool: AnyPool, roster: Arc<Roster>, mut inbox: mpsc::Receiver<Item>) {
    let mut batch = Vec::with_capacity(BATCH);
    let mut stale = Vec::new();
    let mut own = None;
    while inbox.recv_many(&mut batch, BATCH).await > 0 {
        let end = batch.iter().position(|item| matches!(item, Item::Stop(_))).map(|at| batch.split_off(at));
        let all = together(&pool, &mut own, &roster, &mut batch, &mut stale);
        if disk::ask(&disk, all).await.is_ok() {
            batch.drain(..).for_each(|item| item.answer(Ok(())));
        }
        for mut item in batch.drain(..) {
            let alone = together(&pool, &mut own, &roster, std::slice::from_mut(&mut item), &mut stale);
            let result = disk::ask(&disk, alone).await;
            item.answer(result.map_err(StoreError::Sql));
        }
        if let Some(end) = end {
            drop(own);
            // What was asked after the end is not written.
            return end.into_iter().for_each(|item| item.answer(Err(StoreError::Closed)));
        }
    }
}

/// All or nothing. The writer keeps its connection, whose cache knows what is
/// written to; one on which anything has failed is not used again, for after a
/// full disk nobody knows what it still holds.
async fn together(
    pool: &AnyPool,
    own: &mut Option<PoolConnection<Any>>,
    roster: &Roster,
    batch: &mut [Item],
    stale: &mut Vec<MachineId>,
) -> Result<(), sqlx::Error> {
    let mut connection = match own.take() {
        Some(connection) => connection,
        None => {
            let mut connection = pool.acquire().await?;
            for pragma in ROOM {
                sqlx::query(pragma).execute(&mut *connection).await?;
            }
            connection
        }
    };
    match in_transaction(&mut connection, roster, batch).await {
        Ok(learned) => {
            learned.teach(roster);
            let changes = batch.iter().map(|item| match item {
                Item::Write(queued) => queued.then(),
                Item::Offer(_) | Item::Outcome(_) | Item::Stop(_) => Change::Nothing,
            });
            let changes: Vec<Change> = changes.collect();
            follow(&mut connection, roster, changes, stale).await;
            *own = Some(connection);
            Ok(())
        }
        Err(error) => {
            connection.close_on_drop();
            Err(error)
        }
    }
}

async fn in_transaction(
    connection: &mut AnyConnection,
    roster: &Roster,
    batch: &mut [Item],
) -> Result<Learned, sqlx::Error> {
    sqlx::query("BEGIN IMMEDIATE").execute(&mut *connection).await?;
    let (mut offers, mut outcomes) = (Vec::new(), Vec::new());
    for item in batch {
        match item {
            Item::Write(queued) => queued.apply(&mut *connection).await?,
            Item::Offer(request) => offers.push(request),
            Item::Outcome(request) => outcomes.push(request),
            Item::Stop(_) => {}
        }
    }
    // Nobody offers a run before it is stored, or settles it before it is offered.
    let runs: Vec<RunId> = offers.iter().map(|request| request.what).collect();
    let mut offered = runs::offer(&runs, connection).await?;
    for request in offers {
        request.reply = Some(offered.remove(&request.what));
    }
    let settles: Vec<&NewOutcome> = outcomes.iter().map(|request| &request.what).collect();
    let (replies, learned) = outcomes::apply(&settles, roster, connection).await?;
    for (request, reply) in outcomes.into_iter().zip(replies) {
        request.reply = Some(reply);
    }
    sqlx::query("COMMIT").execute(connection).await?;
    Ok(learned)
}

/// What is on disk now, the roster knows before anybody is answered. Machines
/// that cannot be read again are nobody's until they can.
async fn follow(connection: &mut AnyConnection, roster: &Roster, changes: Vec<Change>, stale: &mut Vec<MachineId>) {
    for change in changes {
        match change {
            Change::Nothing => {}
            Change::Reload(machine) => stale.push(machine),
            Change::Edit(machine, edit) => roster.edit(&machine, edit),
        }
    }
    stale.sort_unstable();
    stale.dedup();
    roster.reload(connection, stale).await;
}
