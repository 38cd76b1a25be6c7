//! The only writer: batches many writes into one transaction and one disk sync.
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

/// Maximum writes per transaction: at 1 KiB each, half a megabyte of log.
const BATCH: usize = 512;

/// Extra settings of the writer's connection: a batch of reports of usual size fits into its 16 MiB
/// cache, so no page is written twice for lack of room. The log is checkpointed every 16 MiB.
const ROOM: [&str; 2] = ["PRAGMA cache_size = -16384", "PRAGMA wal_autocheckpoint = 4096"];

/// Maximum number of queued writes, eight batches; beyond that, callers wait.
const QUEUE: usize = 4096;

/// A write, and its result.
pub trait Write: Send + Sync + 'static {
    /// The result.
    type Reply: Send + 'static;

    /// Writes inside a transaction. May be called again after a rollback.
    fn apply<'c>(
        &'c self,
        transaction: &'c mut AnyConnection,
    ) -> impl Future<Output = Result<Self::Reply, sqlx::Error>> + Send + 'c;

    /// The change to the roster after the commit.
    fn then(&self) -> Change {
        Change::Nothing
    }
}

trait Queued: Send {
    fn apply<'c>(&'c mut self, transaction: &'c mut AnyConnection) -> BoxFuture<'c, Result<(), sqlx::Error>>;
    fn then(&self) -> Change;
    fn answer(self: Box<Self>, result: Result<(), StoreError>);
}

/// A write, and the channel for its result.
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
        // The caller may have gone; the write stays.
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
    /// Stops the writer: earlier writes are done, later ones are not.
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

/// A handle to the writer.
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

    /// Waits until all earlier writes are on disk, and stops the writer.
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
            // Writes after the stop are rejected.
            return end.into_iter().for_each(|item| item.answer(Err(StoreError::Closed)));
        }
    }
}

/// Writes all or nothing. The writer reuses its connection, whose cache holds the pages written.
/// After any failure it drops the connection: its state is unknown, as after a full disk.
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
    // Runs are stored before they are offered, and offered before they are settled, so this order
    // is safe.
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

/// Applies committed changes to the roster before callers are answered. Machines that cannot be
/// read again are unknown until they can.
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
