//! Indexes machines' reports and answers SQL queries over them.
//!
//! ```text
//! outcome stored ─▶ index queue ─▶ a lull, or a query ─▶ (report from the store) ─▶ index
//! query ─▶ wait until the queue is empty ─▶ a separate process, which can only read ─▶ lines
//! ```
//! Indexing is asynchronous: no machine waits for it, and when thousands report, their outcomes are
//! stored first.

use crate::presence::Presence;
use crate::query::index_queue::IndexQueue;
use crate::records::Records;
use crate::run_end::{End, RunEnded};
use crate::trust::Trust;
use crate::trust::caller::Caller;
use crate::unanswered::Unanswered;
use fernwart_certs::catalogue::Customers;
use fernwart_fleet::{Machine, Standing};
use fernwart_index::{About, Index, IndexError, Question, Reported, Scope};
use fernwart_protocol::code::Denial;
use fernwart_protocol::diagnosis::Summary;
use fernwart_protocol::id::{KeyId, MachineId, RunId};
use fernwart_protocol::limits::{OUTPUT_BYTES, QUESTION_ROWS, QUESTION_TIME, QUESTIONS};
use fernwart_protocol::link::{FrameError, Sender};
use fernwart_protocol::staff::Reply;
use fernwart_protocol::text::{Blob, chain};
use std::collections::HashMap;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, SemaphorePermit};
use tokio_util::sync::CancellationToken;
use tracing::warn;

/// How long a query waits for earlier reports to be indexed: ten thousand took seven seconds.
const CATCHING_UP: Duration = Duration::from_secs(60);

/// A temporary failure is retried after this, or when a query arrives.
const AGAIN: Duration = Duration::from_secs(5);

/// An answer is abandoned if the client does not read it in this time.
const READING: Duration = Duration::from_secs(60);

/// The hidden subcommand that answers a query: it reads a [`Question`] on its standard input.
pub const ANSWER: &str = "answer-query";

/// The exit code of that command if the index file cannot be read.
pub const UNREADABLE: i32 = 9;

/// How often a query is retried when the index file is replaced under it.
const TRIES: u32 = 3;

/// This running program, even if its file was replaced since it started.
const ITSELF: &str = "/proc/self/exe";

/// The index and the queue of reports to index.
pub(crate) struct QueryService {
    records: Arc<Records>,
    presence: Arc<Presence>,
    /// The customers that the client may reach when the answer is computed.
    trust: Arc<Trust>,
    path: PathBuf,
    /// `None` if the file could not be opened, or has been lost.
    index: tokio::sync::Mutex<Option<Arc<Index>>>,
    /// Whether it was logged that the file cannot be opened.
    has_warned: AtomicBool,
    index_queue: Mutex<IndexQueue>,
    hint: Notify,
    places: Places,
    /// Held from reading the roster until the table is written, so that an older state does not
    /// overwrite a newer one.
    sync_machine_table: tokio::sync::Mutex<()>,
}

/// Limits concurrent queries: a total, and one per client.
struct Places {
    all: Semaphore,
    askers: Mutex<HashMap<KeyId, Arc<Semaphore>>>,
}

impl Places {
    fn new() -> Self {
        Self { all: Semaphore::new(QUESTIONS), askers: Mutex::default() }
    }

    /// A permit for this client, once one is free.
    async fn one(&self, asker: KeyId) -> Option<(OwnedSemaphorePermit, SemaphorePermit<'_>)> {
        let own = {
            let mut askers = self.askers.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
            askers.retain(|_, own| Arc::strong_count(own) > 1);
            askers.entry(asker).or_insert_with(|| Arc::new(Semaphore::new(1))).clone()
        };
        // Acquire the client's own permit first, so that waiting for it blocks no other client.
        let own = own.acquire_owned().await.ok()?;
        Some((own, self.all.acquire().await.ok()?))
    }
}

impl QueryService {
    /// Opens the index and queues the reports that it lacks.
    pub(crate) async fn open(
        (records, presence, trust): (Arc<Records>, Arc<Presence>, Arc<Trust>),
        path: PathBuf,
        newest: Vec<(MachineId, RunId)>,
    ) -> Self {
        let service = Self {
            records,
            presence,
            trust,
            path,
            index: tokio::sync::Mutex::default(),
            has_warned: AtomicBool::new(false),
            index_queue: Mutex::default(),
            hint: Notify::new(),
            places: Places::new(),
            sync_machine_table: tokio::sync::Mutex::default(),
        };
        *service.index.lock().await = service.begin(newest).await;
        service
    }

    /// Opens the file and queues the newest reports that it lacks.
    async fn begin(&self, newest: Vec<(MachineId, RunId)>) -> Option<Arc<Index>> {
        let index = Index::open(&self.path).await;
        match &index {
            Ok(_) => self.has_warned.store(false, Ordering::Relaxed),
            Err(error) if !self.has_warned.swap(true, Ordering::Relaxed) => {
                warn!(error = chain(error), "the query index cannot be opened");
            }
            Err(_) => {}
        }
        let taken = match &index {
            Ok(index) => index.taken().await.unwrap_or_default(),
            Err(_) => HashMap::new(),
        };
        let mut index_queue = self.index_queue();
        for (machine, run) in newest {
            if taken.get(&machine.to_string()) != Some(&run.to_string()) {
                index_queue.add(machine);
            }
        }
        drop(index_queue);
        self.hint.notify_one();
        index.ok().map(Arc::new)
    }

    /// The index. A lost file, or one that could not be opened before, is created again.
    ///
    /// # Errors
    /// When the index cannot be opened now.
    async fn at_hand(&self) -> Result<Arc<Index>, Denial> {
        let mut held = self.index.lock().await;
        if let Some(index) = held.as_ref().filter(|index| index.is_there()) {
            return Ok(index.clone());
        }
        *held = None;
        let newest = self.records.or_denial(self.records.store.newest_runs().await)?;
        *held = self.begin(newest).await;
        held.clone().ok_or_else(|| self.records.failed_now())
    }

    /// Removes a damaged file; the next user creates it again.
    async fn part_with(&self, index: &Arc<Index>) {
        let mut held = self.index.lock().await;
        // Another task may have removed it already.
        if held.as_ref().is_some_and(|held| Arc::ptr_eq(held, index)) {
            warn!("the query index is damaged; it will be rebuilt");
            *held = None;
            Index::remove(&self.path);
        }
    }

    fn index_queue(&self) -> MutexGuard<'_, IndexQueue> {
        self.index_queue.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Queues a machine whose run has ended with a complete report.
    pub(crate) fn run_ended(&self, ended: &RunEnded) {
        if let End::Outcome { health: Some(_), .. } = &ended.end
            && self.index_queue().add(ended.machine)
        {
            self.hint.notify_one();
        }
    }

    /// Reports that are not indexed yet.
    pub(crate) fn index_queue_length(&self) -> usize {
        self.index_queue().len()
    }

    /// Waits for reports to index and takes them from the queue.
    async fn some(&self) -> Vec<MachineId> {
        self.index_queue().settle();
        loop {
            let wait = self.index_queue().wait();
            match wait {
                Some(Duration::ZERO) => return self.index_queue().take(),
                Some(wait) => {
                    let _ = tokio::time::timeout(wait, self.hint.notified()).await;
                }
                None => self.hint.notified().await,
            }
        }
    }

    /// Waits until all reports that arrived before are indexed.
    ///
    /// # Errors
    /// When that fails or takes too long: a query must not be answered from older facts.
    async fn caught_up(&self) -> Result<(), Denial> {
        let asked = self.index_queue().ask();
        let _asks = PendingQuestion(self);
        self.hint.notify_one();
        let settled = async {
            loop {
                let (is_past, has_failed) = {
                    let index_queue = self.index_queue();
                    (index_queue.is_past(asked), index_queue.has_failed(asked))
                };
                match (is_past, has_failed) {
                    (true, _) => return Ok(()),
                    (false, true) => return Err(Denial::StoreFailed),
                    (false, false) => tokio::time::sleep(Duration::from_millis(5)).await,
                }
            }
        };
        tokio::time::timeout(CATCHING_UP, settled).await.unwrap_or(Err(Denial::QuestionsBusy))
    }

    pub(crate) async fn close(&self) {
        if let Some(index) = self.index.lock().await.as_ref() {
            index.close().await;
        }
    }
}

/// Keeps a waiting query registered until dropped, even if its client leaves.
struct PendingQuestion<'a>(&'a QueryService);

impl Drop for PendingQuestion<'_> {
    fn drop(&mut self) {
        self.0.index_queue().leave();
    }
}

/// Indexes queued reports until the hub stops.
pub(crate) async fn keep_up(service: Arc<QueryService>, stop: CancellationToken) {
    loop {
        let some = tokio::select! {
            biased;
            () = stop.cancelled() => return,
            some = service.some() => some,
        };
        let again = match service.at_hand().await {
            Ok(index) => take_in(&service, &index, some).await,
            Err(_) => some,
        };
        let fails = !again.is_empty();
        service.index_queue().put_back(again);
        if fails {
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = service.hint.notified() => {}
                () = tokio::time::sleep(AGAIN) => {}
            }
        }
    }
}

/// Indexes the newest report of each of these machines. Returns the machines to try again.
async fn take_in(service: &QueryService, index: &Arc<Index>, some: Vec<MachineId>) -> Vec<MachineId> {
    let mut reports = Vec::with_capacity(some.len());
    let mut again = Vec::new();
    for machine in some {
        // Read the newest report, which may have arrived since it was queued.
        match service.records.store.newest_report(&machine).await {
            Ok(Some((run, report))) => {
                let Ok((_, json)) = Summary::unpack(&report) else { continue };
                reports.extend(
                    Reported::read(machine.to_string(), run.to_string(), &json).ok().map(|read| (machine, read)),
                );
            }
            Ok(None) => {}
            Err(_) => again.push(machine),
        }
    }
    let (machines, reports): (Vec<MachineId>, Vec<Reported>) = reports.into_iter().unzip();
    match index.keep(&reports).await {
        Ok(()) => {}
        Err(error) if error.is_damage() => {
            service.part_with(index).await;
            again.extend(machines);
        }
        Err(error) if error.may_pass() => {
            warn!(error = chain(&error), reports = reports.len(), "reports cannot be indexed now");
            again.extend(machines);
        }
        // Index them one by one: a report that SQLite rejects must not block the others.
        Err(_) => {
            for (machine, one) in machines.into_iter().zip(&reports) {
                if let Err(error) = index.keep(std::slice::from_ref(one)).await {
                    warn!(%machine, error = chain(&error), "a report cannot be indexed");
                    if error.may_pass() {
                        again.push(machine);
                    }
                }
            }
        }
    }
    again
}

fn about(service: &QueryService, machine: &Machine) -> About {
    let online = service.presence.machine(&machine.id).is_some();
    About {
        id: machine.id.to_string(),
        name: machine.name.to_string(),
        customer: (machine.customer.to_string(), machine.customer_name.as_raw().to_owned()),
        os: machine.os.as_raw().to_owned(),
        agent: machine.agent.as_raw().to_owned(),
        state: if online { "online" } else { "away" },
        seen_at: machine.seen_at,
        health: machine.diagnosed.health.as_str(),
        labels: serde_json::to_string(&machine.labels).unwrap_or_default(),
        groups: serde_json::to_string(&machine.groups).unwrap_or_default(),
    }
}

async fn sync_machine_table_now(service: &QueryService, index: &Index) -> Result<(), IndexError> {
    let _held = service.sync_machine_table.lock().await;
    let machines = service.records.store.machines(Standing::Admitted);
    let all: Vec<About> = machines.iter().map(|machine| about(service, machine)).collect();
    index.machines(&all).await
}

/// Answers one query.
pub(crate) async fn query(
    service: &QueryService,
    caller: &Caller,
    sql: &str,
    send: &mut Sender,
) -> Result<(), Unanswered> {
    let place = tokio::time::timeout(QUESTION_TIME, service.places.one(caller.entry.key)).await;
    let Ok(Some(_place)) = place else { return Err(Denial::QuestionsBusy.into()) };
    let index = ready(service).await?;
    // The caller's permissions may have changed during the wait.
    let caller = Caller::current(&service.trust, caller.entry.key, caller.entry.tls_key)?;
    let scope = match &caller.entry.customers {
        Customers::All => Scope::All,
        Customers::Only(ids) => Scope::Customers(ids.iter().map(ToString::to_string).collect()),
    };
    let within_ms = u64::try_from(QUESTION_TIME.as_millis()).unwrap_or_default();
    let question = Question { sql: sql.to_owned(), scope, rows: QUESTION_ROWS, within_ms };
    // A client that does not read must not keep its permit. The process is killed when this is
    // dropped.
    let Ok(answered) = tokio::time::timeout(READING, ask(service, &question, send)).await else {
        return Err(FrameError::TooSlow.into());
    };
    match answered? {
        Ok(Answered::Complete) => Ok(()),
        Ok(Answered::Unreadable) => {
            service.part_with(&index).await;
            Err(service.records.failed_now().into())
        }
        Err(error) => {
            warn!(%error, "a query could not be run");
            Err(service.records.failed_now().into())
        }
    }
}

/// The index, with all earlier reports and a current machine table.
async fn ready(service: &QueryService) -> Result<Arc<Index>, Denial> {
    for _ in 0..TRIES {
        service.at_hand().await?;
        service.caught_up().await.map_err(|denial| match denial {
            Denial::StoreFailed => service.records.failed_now(),
            other => other,
        })?;
        // The file may have been replaced during the wait.
        let index = service.at_hand().await?;
        match sync_machine_table_now(service, &index).await {
            Ok(()) if index.is_there() => return Ok(index),
            Ok(()) => {}
            Err(error) if error.is_damage() => service.part_with(&index).await,
            Err(error) => {
                warn!(error = chain(&error), "the machine table of the query index cannot be written");
                return Err(service.records.failed_now());
            }
        }
    }
    Err(service.records.failed_now())
}

/// How the process of a query has ended.
enum Answered {
    /// With an answer, or with why there is none.
    Complete,
    /// It could not read the file.
    Unreadable,
}

async fn ask(
    service: &QueryService,
    question: &Question,
    send: &mut Sender,
) -> Result<Result<Answered, std::io::Error>, FrameError> {
    let started = async {
        let mut command = tokio::process::Command::new(ITSELF);
        command.arg(ANSWER).arg(&service.path).env_clear().kill_on_drop(true);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn()?;
        let missing = || std::io::Error::from(std::io::ErrorKind::BrokenPipe);
        let (mut input, output) = (child.stdin.take().ok_or_else(missing)?, child.stdout.take().ok_or_else(missing)?);
        input.write_all(&serde_json::to_vec(question)?).await?;
        drop(input);
        Ok((child, output))
    };
    let (mut child, mut output) = match started.await {
        Ok(started) => started,
        Err(error) => return Ok(Err(error)),
    };
    let mut piece = vec![0; OUTPUT_BYTES];
    let mut is_silent = true;
    loop {
        let filled = match output.read(&mut piece).await {
            Ok(0) => break,
            Ok(filled) => filled,
            Err(error) => return Ok(Err(error)),
        };
        is_silent = false;
        let lines = piece.get(..filled).unwrap_or_default().to_vec();
        send.send(&Reply::Lines(Blob::try_from(lines).unwrap_or_default())).await?;
    }
    // It has closed its output: it exits by itself, or is killed when dropped.
    let end = tokio::time::timeout(Duration::from_secs(1), child.wait()).await;
    Ok(match end.ok().and_then(Result::ok) {
        Some(status) if status.code() == Some(UNREADABLE) => Ok(Answered::Unreadable),
        Some(status) if is_silent && !status.success() => Err(std::io::Error::other(format!("its process: {status}"))),
        _ => Ok(Answered::Complete),
    })
}
