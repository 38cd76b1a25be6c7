//! One run of a script, from its sealed files to its report.

use super::cage::{self, Spec, Told, group};
use super::output::Keeper;
use super::redact::Patterns;
use super::watch;
use fernwart_protocol::document::UnixMs;
use fernwart_protocol::id::Digest;
use fernwart_protocol::script::{Cage, Checked, FileName, Kept, Kind, Manifest, Privilege, RunReport, Stopped};
use fernwart_protocol::to_hub::Stream;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::process::Child;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// After SIGTERM a script has this long to clean up.
const GRACE: Duration = Duration::from_secs(2);

/// Bytes read from a pipe at once.
const CHUNK: usize = 16 * 1024;

/// Chunks on their way to being kept; a script that writes faster waits.
const CHUNKS: usize = 8;

/// What is to be run.
#[derive(Debug)]
pub struct Task {
    /// The run's id, for names in the system.
    pub run: String,
    /// The manifest.
    pub manifest: Manifest,
    /// All files with the hashes they must have.
    pub files: BTreeMap<FileName, (Digest, Vec<u8>)>,
    /// The parameters.
    pub parameters: Checked,
    /// Only show what would be done.
    pub dry_run: bool,
    /// What holds it.
    pub cage: Cage,
    /// Folders it must not see.
    pub hide: Vec<PathBuf>,
}

impl Task {
    /// Whether it sees only its own processes: [`Spec::own_processes`].
    fn own_processes(&self) -> bool {
        self.cage != Cage::Systemd || !self.manifest.services
    }
}

/// A script could not be run; nothing has happened.
#[derive(Debug, thiserror::Error)]
pub enum ScriptError {
    /// A file is not the approved one.
    #[error("{0} is not the approved file")]
    Altered(FileName),
    /// The cage could not be built.
    #[error("building the cage: {0}")]
    Cage(String),
    /// The system has no room for another process or file.
    #[error("starting the script")]
    Io(#[source] std::io::Error),
}

impl From<std::io::Error> for ScriptError {
    fn from(error: std::io::Error) -> Self {
        Self::Io(error)
    }
}

/// How a script ended.
#[derive(Debug)]
struct Ended {
    told: Option<Told>,
    stopped: Option<Stopped>,
    stdout: (Kept, u64),
    stderr: (Kept, u64),
}

enum Piece {
    Some(Stream, Vec<u8>),
    End,
}

/// Runs it to its end. `live` hears what it writes, redacted; `cancelled` ends
/// it. The findings before and after are the caller's to fill in.
///
/// # Errors
/// When nothing was run.
pub fn run(
    task: &Task,
    cancelled: &AtomicBool,
    now: impl Fn() -> UnixMs,
    mut live: impl FnMut(Stream, Vec<u8>),
) -> Result<RunReport, ScriptError> {
    let mut sealed = BTreeMap::new();
    for (name, (wanted, content)) in &task.files {
        let file = cage::sealed(name.as_str(), content)?;
        // Through the very descriptor that will be run.
        if cage::hash(&file)? != *wanted {
            return Err(ScriptError::Altered(name.clone()));
        }
        sealed.insert(name.clone(), file);
    }
    let script = sealed.remove(&task.manifest.run).ok_or_else(|| ScriptError::Altered(task.manifest.run.clone()))?;
    let (started_at, begun) = (now(), Instant::now());
    let ended = in_cage(task, &script, &sealed, cancelled, &mut live)?;
    let (exit, signal) = match ended.told {
        Some(Told::Exit(code)) => (Some(code), None),
        Some(Told::Signal(signal)) => (None, Some(signal)),
        Some(Told::Unbuilt(why)) => return Err(ScriptError::Cage(why)),
        None => (None, None),
    };
    let means = exit.and_then(|code| task.manifest.meaning(code).1.cloned());
    Ok(RunReport {
        v: 1,
        bundle: task.manifest.name.clone(),
        version: task.manifest.version,
        dry_run: task.dry_run,
        cage: task.cage,
        exit,
        well: exit.is_some_and(|code| task.manifest.meaning(code).0),
        means,
        signal,
        stopped: ended.stopped,
        started_at,
        took_ms: u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX),
        stdout: ended.stdout.0,
        stderr: ended.stderr.0,
        redacted: ended.stdout.1 + ended.stderr.1,
        before: None,
        after: None,
    })
}

/// Everything that was made for one run, taken away again.
struct Group(Option<PathBuf>);

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(path) = &self.0 {
            group::remove(path);
        }
    }
}

fn in_cage(
    task: &Task,
    script: &File,
    files: &BTreeMap<FileName, File>,
    cancelled: &AtomicBool,
    live: &mut impl FnMut(Stream, Vec<u8>),
) -> Result<Ended, ScriptError> {
    let limits = &task.manifest.limits;
    let own_group = match task.cage {
        Cage::ControlGroup => {
            Some(group::make(&task.run, limits).map_err(|error| ScriptError::Cage(error.to_string()))?)
        }
        Cage::Systemd | Cage::Namespaces => None,
    };
    let own_group = Group(own_group);
    let (hear, tell) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map_err(std::io::Error::from)?;
    for file in files.values().chain([script]) {
        cage::inherited(file)?;
    }
    cage::inherited(&tell)?;
    let writes = cage::may_write(task.manifest.privilege, task.dry_run);
    let spec = Spec {
        interpreter: task.manifest.interpreter.path().to_owned(),
        script: script.as_raw_fd(),
        files: files.iter().map(|(name, file)| (name.to_string(), file.as_raw_fd())).collect(),
        told: tell.as_raw_fd(),
        group: own_group.0.clone(),
        writes_all: writes && task.manifest.privilege == Privilege::Raw,
        writes: if writes { task.manifest.writes.clone() } else { Vec::new() },
        network: task.manifest.network,
        clock: task.manifest.repairs_clock,
        services: task.manifest.services,
        own_processes: task.own_processes(),
        hide: task.hide.clone(),
        memory_mib: limits.memory_mib,
    };
    let before = match task.cage {
        Cage::Systemd => cage::systemd(&task.run, limits),
        Cage::ControlGroup | Cage::Namespaces => Vec::new(),
    };
    let mut command = cage::command(&spec, before)?;
    command.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").env("LC_ALL", "C.UTF-8").env("HOME", cage::FOLDER);
    command.env("FERNWART_RUN", &task.run).env("FERNWART_DRY_RUN", if task.dry_run { "1" } else { "0" });
    command.envs(task.parameters.environment());
    let mut child = command.spawn()?;
    drop(tell);
    feed(&mut child, &task.parameters);
    let (send, pieces) = mpsc::sync_channel(CHUNKS);
    if let Some(out) = child.stdout.take() {
        read(out, Stream::Out, send.clone())?;
    }
    if let Some(err) = child.stderr.take() {
        read(err, Stream::Err, send)?;
    }
    Ok(follow(task, &mut child, &pieces, cancelled, live, File::from(hear)))
}

/// Gives the parameters as JSON; a script need not read them.
fn feed(child: &mut Child, parameters: &Checked) {
    if let Some(mut stdin) = child.stdin.take() {
        // A pipe holds 64 KiB, and parameters are 8 KiB at most: this cannot wait.
        let _ = stdin.write_all(parameters.to_json().as_bytes());
    }
}

fn read(mut from: impl Read + Send + 'static, stream: Stream, to: mpsc::SyncSender<Piece>) -> std::io::Result<()> {
    let read = move || {
        let mut chunk = vec![0u8; CHUNK];
        loop {
            match from.read(&mut chunk) {
                Ok(length) if length > 0 => {
                    let piece = chunk.get(..length).unwrap_or_default().to_vec();
                    if to.send(Piece::Some(stream, piece)).is_err() {
                        return;
                    }
                }
                _ => {
                    // Nobody may be listening any more.
                    let _ = to.send(Piece::End);
                    return;
                }
            }
        }
    };
    std::thread::Builder::new().name("output".into()).stack_size(64 * 1024).spawn(read).map(drop)
}

fn follow(
    task: &Task,
    child: &mut Child,
    pieces: &mpsc::Receiver<Piece>,
    cancelled: &AtomicBool,
    live: &mut impl FnMut(Stream, Vec<u8>),
    mut hear: File,
) -> Ended {
    let patterns = Patterns::new(&secrets(task));
    let (mut out, mut err) = (Keeper::new(patterns.clone()), Keeper::new(patterns));
    let (begun, pid) = (Instant::now(), child.id());
    let helpers = if task.cage == Cage::Systemd { 3 } else { 2 };
    let raw = task.manifest.privilege == Privilege::Raw;
    let written = task.manifest.writes.iter().map(String::as_str).chain(raw.then_some("/"));
    let disks: Vec<watch::Disk> = written.filter_map(watch::Disk::at).collect();
    let most_output = u64::from(task.manifest.limits.output_mib) << 20;
    let mut open = 2;
    let mut stopped = None;
    let mut next_look = begun + watch::EVERY;
    let mut kill_at: Option<Instant> = None;
    while open > 0 {
        let wait = next_look.saturating_duration_since(Instant::now());
        match pieces.recv_timeout(wait) {
            Ok(Piece::Some(stream, piece)) => {
                let keeper = match stream {
                    Stream::Out => &mut out,
                    Stream::Err => &mut err,
                };
                let told = keeper.feed(&piece);
                if !told.is_empty() {
                    live(stream, told);
                }
            }
            Ok(Piece::End) => open -= 1,
            Err(mpsc::RecvTimeoutError::Disconnected) => break,
            Err(mpsc::RecvTimeoutError::Timeout) => {}
        }
        if Instant::now() < next_look {
            continue;
        }
        next_look = Instant::now() + watch::EVERY;
        if !task.own_processes() && matches!(child.try_wait(), Ok(Some(_))) {
            // It has ended; whatever it left behind ends now.
            cage::end_unit(&task.run);
        }
        if kill_at.is_some_and(|at| Instant::now() >= at) {
            kill(task, pid);
            continue;
        }
        if stopped.is_none() {
            stopped = match cancelled.load(Ordering::Relaxed) {
                true => Some(Stopped::Cancelled),
                false if out.bytes() + err.bytes() > most_output => Some(Stopped::Output),
                false => watch::verdict(pid, helpers, begun, &task.manifest.limits, &disks),
            };
            match stopped {
                // What grows is not asked.
                Some(Stopped::Memory | Stopped::Processes | Stopped::Disk | Stopped::Output) => kill(task, pid),
                Some(Stopped::Time | Stopped::Cancelled) => {
                    ask_to_end(pid);
                    kill_at = Some(Instant::now() + GRACE);
                }
                None => {}
            }
        }
    }
    if !task.own_processes() {
        cage::end_unit(&task.run);
    }
    let _ = child.wait();
    let mut text = String::new();
    let told = match hear.read_to_string(&mut text) {
        Ok(_) => serde_json::from_str(&text).ok(),
        Err(_) => None,
    };
    let mut finish = |keeper: Keeper, stream| {
        let (rest, kept, count) = keeper.finish();
        if !rest.is_empty() {
            live(stream, rest);
        }
        (kept, count)
    };
    Ended { told, stopped, stdout: finish(out, Stream::Out), stderr: finish(err, Stream::Err) }
}

fn send(pid: u32, signal: rustix::process::Signal) {
    if let Some(pid) = rustix::process::Pid::from_raw(pid.cast_signed()) {
        // It may have ended by itself.
        let _ = rustix::process::kill_process(pid, signal);
    }
}

/// Ends a script unasked: with the outer program the kernel ends all, or the
/// unit does.
fn kill(task: &Task, outer: u32) {
    if !task.own_processes() {
        cage::end_unit(&task.run);
    }
    send(outer, rustix::process::Signal::KILL);
}

/// Asks a script to end: all processes but our own two.
fn ask_to_end(outer: u32) {
    let ours = |pid: &u32| {
        let text = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let second = text.split(|byte| *byte == 0).nth(1).unwrap_or_default();
        second == cage::OUTER.as_bytes() || second == cage::INNER.as_bytes()
    };
    let family = watch::family(outer);
    family.iter().filter(|pid| **pid != outer && !ours(pid)).for_each(|pid| send(*pid, rustix::process::Signal::TERM));
}

fn secrets(task: &Task) -> Vec<String> {
    let secret = |name: &str| {
        task.manifest
            .parameters
            .iter()
            .any(|one| one.name == name && matches!(one.kind, Kind::Text { secret: true, .. }))
    };
    task.parameters.iter().filter(|(name, _)| secret(name)).map(|(_, value)| value.to_string()).collect()
}
