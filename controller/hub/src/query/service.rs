//! What machines have told, kept so that it can be asked in SQL, and the asking.
//!
//! ```text
//! outcome stored ─▶ due ─▶ a lull, or a question ─▶ (report from the store) ─▶ index
//! query ─▶ wait until nothing is due ─▶ a process of its own, which can only read ─▶ lines
//! ```
//! Indexing happens behind the fleet's back: a machine waits for nobody here, and
//! while thousands tell, their outcomes come first.

use crate::presence::Presence;
use crate::query::index_queue::IndexQueue;
use crate::records::Records;
use crate::run_end::{End, RunEnded};
use crate::trust::Trust;
use crate::trust::caller::Caller;
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

/// How long a question waits for reports that came before it: ten thousand at
/// once took seven seconds.
const CATCHING_UP: Duration = Duration::from_secs(60);

/// What failed and may pass is tried again after this, or when somebody asks.
const AGAIN: Duration = Duration::from_secs(5);

/// An answer that its asker does not read in this time is over.
const READING: Duration = Duration::from_secs(60);

/// The hidden command that answers: it reads a [`Question`] on its standard input.
pub const ANSWER: &str = "answer-query";

/// How that command ends where the file cannot be read.
pub const UNREADABLE: i32 = 9;

/// An index that gives way to another under a question is tried again.
const TRIES: u32 = 3;

/// This very program, also where it has been replaced since it began.
const ITSELF: &str = "/proc/self/exe";

/// What is due to be indexed, and the index.
pub(crate) struct QueryService {
    records: Arc<Records>,
    presence: Arc<Presence>,
    /// Whom an asker may reach at the moment of the answer.
    trust: Arc<Trust>,
    path: PathBuf,
    /// None where the file could not be had yet, or has gone.
    index: tokio::sync::Mutex<Option<Arc<Index>>>,
    /// Whether it was said that the file cannot be had.
    has_warned: AtomicBool,
    index_queue: Mutex<IndexQueue>,
    hint: Notify,
    places: Places,
    /// Held from looking who there is until that is written: an older look must
    /// not be written over a newer one.
    sync_machine_table: tokio::sync::Mutex<()>,
}

/// Where questions are answered: so many at once, and one of each asker.
struct Places {
    all: Semaphore,
    askers: Mutex<HashMap<KeyId, Arc<Semaphore>>>,
}

impl Places {
    fn new() -> Self {
        Self { all: Semaphore::new(QUESTIONS), askers: Mutex::default() }
    }

    /// A place for this asker, once one is free.
    async fn one(&self, asker: KeyId) -> Option<(OwnedSemaphorePermit, SemaphorePermit<'_>)> {
        let own = {
            let mut askers = self.askers.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
            askers.retain(|_, own| Arc::strong_count(own) > 1);
            askers.entry(asker).or_insert_with(|| Arc::new(Semaphore::new(1))).clone()
        };
        // One's own first: who waits for it is in nobody else's way.
        let own = own.acquire_owned().await.ok()?;
        Some((own, self.all.acquire().await.ok()?))
    }
}

impl QueryService {
    /// Opens the index; what it has missed is due.
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

    /// Opens the file; what it lacks of the newest reports is due.
    async fn begin(&self, newest: Vec<(MachineId, RunId)>) -> Option<Arc<Index>> {
        let index = Index::open(&self.path).await;
        match &index {
            Ok(_) => self.has_warned.store(false, Ordering::Relaxed),
            Err(error) if !self.has_warned.swap(true, Ordering::Relaxed) => {
                warn!(error = chain(error), "the fleet cannot be asked in SQL");
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

    /// The index; one that has gone, or could not be had, is begun anew.
    ///
    /// # Errors
    /// When it cannot be had now.
    async fn at_hand(&self) -> Result<Arc<Index>, Denial> {
        let mut held = self.index.lock().await;
        if let Some(index) = held.as_ref().filter(|index| index.is_there()) {
            return Ok(index.clone());
        }
        *held = None;
        let newest = self.records.store.newest_runs().await.map_err(|error| self.records.denial(&error))?;
        *held = self.begin(newest).await;
        held.clone().ok_or_else(|| self.records.failed_now())
    }

    /// Parts with a file that is damaged; whoever needs it next begins it anew.
    async fn part_with(&self, index: &Arc<Index>) {
        let mut held = self.index.lock().await;
        // Somebody else may have been first.
        if held.as_ref().is_some_and(|held| Arc::ptr_eq(held, index)) {
            warn!("what machines have told cannot be read any more; it is begun anew");
            *held = None;
            Index::remove(&self.path);
        }
    }

    fn index_queue(&self) -> MutexGuard<'_, IndexQueue> {
        self.index_queue.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// A run has ended: a whole report of its machine is to be indexed.
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

    /// What is to be indexed now, once there is something.
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

    /// Waits until all that was told before is indexed.
    ///
    /// # Errors
    /// When it cannot be, or takes too long: older facts are no answer.
    async fn caught_up(&self) -> Result<(), Denial> {
        let asked = self.index_queue().ask();
        let _asks = Asks(self);
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

/// A question that waits, also when its asker leaves.
struct Asks<'a>(&'a QueryService);

impl Drop for Asks<'_> {
    fn drop(&mut self) {
        self.0.index_queue().leave();
    }
}

/// Indexes what is due, until the hub stops.
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

/// Indexes the newest report of each of these; which are to be tried again.
async fn take_in(service: &QueryService, index: &Arc<Index>, some: Vec<MachineId>) -> Vec<MachineId> {
    let mut reports = Vec::with_capacity(some.len());
    let mut again = Vec::new();
    for machine in some {
        // Its newest, whatever has come since.
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
        // One that SQLite does not take must not keep out the others.
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

/// Answers one question.
pub(crate) async fn query(
    service: &QueryService,
    caller: &Caller,
    sql: &str,
    send: &mut Sender,
) -> Result<Result<(), Denial>, FrameError> {
    let place = tokio::time::timeout(QUESTION_TIME, service.places.one(caller.entry.key)).await;
    let Ok(Some(_place)) = place else { return Ok(Err(Denial::QuestionsBusy)) };
    let index = match ready(service).await {
        Ok(index) => index,
        Err(denial) => return Ok(Err(denial)),
    };
    // The wait may have been long, and the reach may be another now.
    let caller = match Caller::current(&service.trust, caller.entry.key, caller.entry.tls_key) {
        Ok(caller) => caller,
        Err(denial) => return Ok(Err(denial)),
    };
    let scope = match &caller.entry.customers {
        Customers::All => Scope::All,
        Customers::Only(ids) => Scope::Customers(ids.iter().map(ToString::to_string).collect()),
    };
    let within_ms = u64::try_from(QUESTION_TIME.as_millis()).unwrap_or_default();
    let question = Question { sql: sql.to_owned(), scope, rows: QUESTION_ROWS, within_ms };
    // Whoever does not read holds a place no longer; the process ends with it.
    let Ok(answered) = tokio::time::timeout(READING, ask(service, &question, send)).await else {
        return Err(FrameError::TooSlow);
    };
    match answered? {
        Ok(Answered::Whole) => Ok(Ok(())),
        Ok(Answered::Unreadable) => {
            service.part_with(&index).await;
            Ok(Err(service.records.failed_now()))
        }
        Err(error) => {
            warn!(%error, "a question could not be asked");
            Ok(Err(service.records.failed_now()))
        }
    }
}

/// The index with all that was told before now, and with whoever is there.
async fn ready(service: &QueryService) -> Result<Arc<Index>, Denial> {
    for _ in 0..TRIES {
        service.at_hand().await?;
        service.caught_up().await.map_err(|denial| match denial {
            Denial::StoreFailed => service.records.failed_now(),
            other => other,
        })?;
        // That took a while: it may be another file by now.
        let index = service.at_hand().await?;
        match sync_machine_table_now(service, &index).await {
            Ok(()) if index.is_there() => return Ok(index),
            Ok(()) => {}
            Err(error) if error.is_damage() => service.part_with(&index).await,
            Err(error) => {
                warn!(error = chain(&error), "what is known of machines cannot be indexed");
                return Err(service.records.failed_now());
            }
        }
    }
    Err(service.records.failed_now())
}

/// How a question's process has ended.
enum Answered {
    /// With an answer, or with why there is none.
    Whole,
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
    // It has closed its output; it ends by itself or is killed on the way out.
    let end = tokio::time::timeout(Duration::from_secs(1), child.wait()).await;
    Ok(match end.ok().and_then(Result::ok) {
        Some(status) if status.code() == Some(UNREADABLE) => Ok(Answered::Unreadable),
        Some(status) if is_silent && !status.success() => Err(std::io::Error::other(format!("its process: {status}"))),
        _ => Ok(Answered::Whole),
    })
}
