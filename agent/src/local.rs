//! Asking the running agent, from its own machine: a socket in its folder.
//!
//! One line of JSON each way. The socket can be reached by whoever may enter
//! the folder: the administrator, and the accounts that the policy says are
//! asked. Whoever calls, the kernel's word on who that is decides.

use crate::executor::Handle;
use crate::executor::policy::{Mode, Policy};
use crate::executor::state::{Parted, Phase, RunRecord, StateStore};
use crate::home::Home;
use crate::message::Rejection;
use crate::owner::words::action_word;
use fernwart_certs::catalogue::Shop;
use fernwart_certs::journal::Line;
use fernwart_protocol::diagnosis::Both;
use fernwart_protocol::document::{Action, Document, Order, Outcome, Receipt, UnixMs};
use fernwart_protocol::id::MachineId;
use fernwart_protocol::text::{MachineName, Text};
use serde::{Deserialize, Serialize};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt};
use tokio::sync::Semaphore;

/// Journal entries in one answer.
pub const JOURNAL_PAGE: usize = 500;

/// Longest question, bytes.
const QUESTION: u64 = 4096;

/// Longest answer, bytes: a page of entries with bodies of 64 KiB at most.
const ANSWER: u64 = 64 * 1024 * 1024;

/// Callers at once.
const CALLERS: usize = 8;

const TIMEOUT: Duration = Duration::from_secs(5);

/// What can be asked.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Question {
    /// How things are.
    Status,
    /// The journal from an entry on.
    Journal {
        /// The first entry wanted.
        from: u64,
    },
    /// The journal's signed end.
    JournalHead,
    /// What the owner is asked.
    Asked,
    /// What the package manager has said already.
    Updates,
    /// The owner takes this machine out of the care it is in, for good.
    Leave {
        /// Who says so; set by the agent from the kernel's word on who calls.
        #[serde(default)]
        by: Caller,
    },
    /// What the owner wants.
    #[serde(rename = "word")]
    OwnerCommand {
        /// It.
        #[serde(rename = "word")]
        command: OwnerCommand,
        /// Who says so; set by the agent from the kernel's word on who calls.
        #[serde(default)]
        by: Caller,
    },
}

/// Who calls, and whether as administrator.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Caller {
    /// The account.
    pub account: Text<64>,
    /// Whether it is the administrator, or the agent's own.
    #[serde(rename = "whole")]
    pub is_admin: bool,
}

/// What an owner can want. Times are milliseconds from now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OwnerCommand {
    /// Yes to this question; with a time, yes to all repairs for as long.
    Allow(u32, Option<u64>),
    /// No to this question.
    Deny(u32),
    /// Yes to all repairs for a while, before anybody asks.
    AllowAll(u64),
    /// No to all repairs: to what is asked, and to any yes before.
    DenyAll,
    /// Stop answering: for a while, or until resumed.
    Pause(Option<u64>),
    /// Go on.
    Resume,
    /// This computer's clock is right, whatever was signed before.
    TrustClock,
}

/// One question to the owner.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Asked {
    /// Its number.
    pub number: u32,
    /// Until when an answer counts.
    pub until: UnixMs,
    /// Who wants it.
    pub staff: Text<64>,
    /// Why.
    pub reason: Text<500>,
    /// What.
    pub action: Action,
    /// What it is called, from its manifest.
    pub title: Option<Both>,
    /// What it does, plainly.
    #[serde(default)]
    pub explain: Option<Both>,
    /// The firm of who wants it.
    #[serde(default)]
    pub shop: Text<120>,
}

/// What is answered.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// How things are.
    Status(Box<Status>),
    /// Some of the journal.
    Journal(Vec<Line>),
    /// What the owner is asked.
    Asked(Vec<Asked>),
    /// What the package manager has said, if it still holds: JSON that only `diagnose`
    /// of the same program reads.
    Updates(Option<String>),
    /// It is done.
    Done,
    /// Nobody asks that, or not any more.
    NoSuchQuestion,
    /// Only the administrator may say that.
    NotYours,
    /// It holds now, and could not be kept for after a restart.
    NotKept(String),
    /// It could not be answered.
    Failed(String),
}

/// How things are on this machine.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Status {
    /// This machine.
    pub machine: MachineId,
    /// Whether a link stands.
    pub linked: bool,
    /// Why the hub does not want this machine, where it has said so.
    #[serde(default, rename = "turned")]
    pub rejected: Option<Rejection>,
    /// That this machine is in nobody's care any more.
    #[serde(default)]
    pub parted: Option<Parted>,
    /// Its round-trip time, microseconds.
    pub rtt_us: Option<u32>,
    /// Who looks after this machine.
    pub shop: Shop,
    /// How looking is handled.
    pub look: Mode,
    /// How acting is handled.
    pub act: Mode,
    /// Nothing is answered until then.
    #[serde(default)]
    pub paused_until: Option<UnixMs>,
    /// Repairs are allowed until then, whatever the policy asks.
    #[serde(default)]
    pub allowed_until: Option<UnixMs>,
    /// How many questions wait for the owner.
    #[serde(default)]
    pub questions: usize,
    /// What is wrong with its state store, if it cannot be read or is not where it
    /// should be.
    #[serde(default, rename = "books")]
    pub store: Option<String>,
    /// How many runs have ended whose outcome the disk does not take.
    #[serde(default)]
    pub unwritten: usize,
    /// What is wrong with the files that say who this machine is, held against what the
    /// agent started with.
    #[serde(default)]
    pub changed_files: Option<String>,
    /// Whether the policy could be read.
    pub policy_readable: bool,
    /// Whether the clock agrees with the hub's and with signed times.
    pub clock_plausible: bool,
    /// When the catalogue runs out.
    pub catalogue_until: UnixMs,
    /// The newest run.
    pub last: Option<LastRun>,
}

/// The newest run.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct LastRun {
    /// When it ended.
    pub at: UnixMs,
    /// What was done.
    pub action: String,
    /// How it ended.
    pub outcome: Outcome,
    /// What the technician who wanted it calls this machine.
    #[serde(default)]
    pub machine_name: Option<MachineName>,
}

/// An agent that starts holds its records, and does not answer yet: so long it is asked
/// again.
pub const STARTS: Duration = Duration::from_secs(4);

/// The same of an agent that is not running: what it had begun was interrupted.
pub(crate) fn last_run_at_rest(store: &StateStore) -> Option<LastRun> {
    let begun = store.runs_in(Phase::Started).unwrap_or_default();
    let interrupted = begun.iter().filter_map(|(_, record)| {
        let order = Order::from_bytes(record.order.bytes.as_bytes()).ok()?;
        let (at, action) = (record.received_at, action_word(&order.action).to_owned());
        Some(LastRun { at, action, outcome: Outcome::Interrupted, machine_name: Some(order.machine_name) })
    });
    interrupted.chain(last_run(store)).max_by_key(|last| last.at)
}

/// The newest run in the state store that has an outcome.
pub(crate) fn last_run(store: &StateStore) -> Option<LastRun> {
    let finished = store.runs_in(Phase::Finished).unwrap_or_default();
    let acknowledged = store.runs_in(Phase::Acknowledged).unwrap_or_default();
    let told = |record: &RunRecord| {
        let order = Order::from_bytes(record.order.bytes.as_bytes()).ok()?;
        let receipt = Receipt::from_bytes(record.receipt.as_ref()?.bytes.as_bytes()).ok()?;
        let (action, outcome) = (action_word(&order.action).to_owned(), receipt.outcome);
        Some(LastRun { at: receipt.finished_at, action, outcome, machine_name: Some(order.machine_name) })
    };
    finished.iter().chain(&acknowledged).filter_map(|(_, record)| told(record)).max_by_key(|last| last.at)
}

/// How soon an account that the policy names can ask.
const ACCOUNTS: Duration = Duration::from_secs(2);

/// Answers on the socket until cancelled.
///
/// # Errors
/// When the socket cannot be made.
pub async fn serve(home: &Home, executor: Handle) -> io::Result<()> {
    let socket = home.socket();
    match std::fs::remove_file(&socket) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = tokio::net::UnixListener::bind(&socket)?;
    let accounts = || home.read_policy().ok().and_then(|text| Policy::from_toml(&text).ok());
    let accounts = || accounts().map(|policy| policy.asked().to_vec()).unwrap_or_default();
    let mut open_for = accounts();
    open_to(home, &open_for)?;
    let mut looks = tokio::time::interval(ACCOUNTS);
    let me = rustix::process::geteuid().as_raw();
    let callers = Arc::new(Semaphore::new(CALLERS));
    loop {
        let (stream, _) = tokio::select! {
            accepted = listener.accept() => accepted?,
            _ = looks.tick() => {
                // Its owner may have named another account meanwhile.
                let now = accounts();
                if now != open_for {
                    open_to(home, &now)?;
                    open_for = now;
                }
                continue;
            }
        };
        let Ok(caller) = stream.peer_cred() else { continue };
        let is_admin = caller.uid() == me || caller.uid() == 0;
        if !is_at_home(caller.pid()) || !is_admin && !accounts().contains(&name_of(caller.uid())) {
            continue;
        }
        // The administrator is let in even while others hold all the places.
        let place = match callers.clone().try_acquire_owned() {
            Ok(place) => Some(place),
            Err(_) if is_admin => None,
            Err(_) => continue,
        };
        let by = Caller { account: account(caller.uid(), caller.pid()), is_admin };
        let executor = executor.clone();
        tokio::spawn(async move {
            // Whoever says nothing keeps nobody waiting.
            let _ = tokio::time::timeout(TIMEOUT, answer(stream, executor, by)).await;
            drop(place);
        });
    }
}

/// Whether a process shares this one's PID namespace. A caged script runs in a child
/// namespace and is refused here. A process that cannot be inspected is no script.
fn is_at_home(pid: Option<i32>) -> bool {
    let namespace = |pid: &str| std::fs::read_link(format!("/proc/{pid}/ns/pid"));
    let Some(pid) = pid.filter(|pid| *pid > 0) else { return true };
    match (namespace("self"), namespace(&pid.to_string())) {
        (Ok(own), Ok(theirs)) => own == theirs,
        (_, Err(error)) => error.kind() == io::ErrorKind::PermissionDenied,
        (Err(_), _) => true,
    }
}

/// Who calls. An administrator is named as the account that has logged in,
/// which the kernel keeps however often somebody has become somebody else since
/// (sudo); all others as what they are.
fn account(uid: u32, pid: Option<i32>) -> Text<64> {
    let login = pid.filter(|_| uid == 0).and_then(|pid| std::fs::read_to_string(format!("/proc/{pid}/loginuid")).ok());
    let login = login.and_then(|text| text.trim().parse::<u32>().ok()).filter(|login| *login != u32::MAX);
    Text::clipped(&name_of(login.unwrap_or(uid)))
}

/// An account's name; its number where it has none.
pub(crate) fn name_of(uid: u32) -> String {
    // One byte of another encoding, in anybody's full name, costs nobody else.
    let accounts = crate::collect::read("/etc/passwd").unwrap_or_default();
    let name = accounts.lines().find_map(|line| {
        let mut fields = line.split(':');
        let (name, id) = (fields.next()?, fields.nth(1)?);
        (id.parse() == Ok(uid)).then(|| name.to_owned())
    });
    name.unwrap_or_else(|| uid.to_string())
}

/// Whether this computer's own list has an account of this name.
pub fn is_account(name: &str) -> bool {
    let accounts = crate::collect::read("/etc/passwd").unwrap_or_default();
    accounts.lines().any(|line| line.split(':').next() == Some(name))
}

/// Lets these accounts reach the socket, and nothing else: the folder can be
/// passed through but not listed, and its files keep their modes.
///
/// # Errors
/// When the modes cannot be set.
pub(crate) fn open_to(home: &Home, accounts: &[String]) -> io::Result<()> {
    let (folder, socket) = if accounts.is_empty() { (0o700, 0o600) } else { (0o711, 0o666) };
    let set = |path: &Path, bits| std::fs::set_permissions(path, PermissionsExt::from_mode(bits));
    // What others could change is not made to look as if they never could.
    let is_ours = |path: &Path| path.symlink_metadata().is_ok_and(|file| file.permissions().mode() & 0o022 == 0);
    if !accounts.is_empty() {
        // Whoever can pass through the folder still reads nothing in it.
        for entry in std::fs::read_dir(home.path())?.flatten() {
            let (path, kind) = (entry.path(), entry.file_type()?);
            if (kind.is_file() || kind.is_dir()) && is_ours(&path) {
                set(&path, if kind.is_dir() { 0o700 } else { 0o600 })?;
            }
        }
    }
    set(&home.socket(), socket)?;
    if is_ours(home.path()) { set(home.path(), folder) } else { Ok(()) }
}

async fn answer(stream: tokio::net::UnixStream, executor: Handle, caller: Caller) -> Option<()> {
    let (read, mut write) = stream.into_split();
    let mut line = String::new();
    tokio::io::BufReader::new(read.take(QUESTION)).read_line(&mut line).await.ok()?;
    let question = match serde_json::from_str(&line).ok()? {
        // An account that is asked says yes, no and stop; not what time it is.
        Question::OwnerCommand { command: OwnerCommand::TrustClock, .. } if !caller.is_admin => return None,
        Question::OwnerCommand { command, .. } => Question::OwnerCommand { command, by: caller },
        Question::Leave { .. } => Question::Leave { by: caller },
        other => other,
    };
    let answer = executor.ask(question).await?;
    let mut text = serde_json::to_vec(&answer).ok()?;
    text.push(b'\n');
    write.write_all(&text).await.ok()
}

/// Asks the running agent; nothing if none is running.
///
/// # Errors
/// When one is running but does not answer.
pub fn ask(socket: &Path, question: &Question) -> io::Result<Option<Answer>> {
    ask_within(socket, question, TIMEOUT)
}

/// The same, with a limit of one's own.
///
/// # Errors
/// As [`ask`].
pub fn ask_within(socket: &Path, question: &Question, limit: Duration) -> io::Result<Option<Answer>> {
    let stream = match std::os::unix::net::UnixStream::connect(socket) {
        Ok(stream) => stream,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {
            return Ok(None);
        }
        Err(error) => return Err(error),
    };
    stream.set_read_timeout(Some(limit))?;
    let mut text = serde_json::to_string(question)?;
    text.push('\n');
    (&stream).write_all(text.as_bytes())?;
    let mut line = String::new();
    BufReader::new(stream.take(ANSWER)).read_line(&mut line)?;
    Ok(Some(serde_json::from_str(&line)?))
}
