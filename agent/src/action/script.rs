//! One run of a script, from its files in sealed memory to its report.

use super::output::Keeper;
use crate::platform::cage::{self, CageEnd, CageReport, Spec, group};
use crate::platform::opened;
use crate::platform::watch;
use crate::redact::{Own, Patterns};
use fernwart_protocol::diagnosis::Cause;
use fernwart_protocol::document::UnixMs;
use fernwart_protocol::id::Digest;
use fernwart_protocol::script::{Cage, Checked, FileName, Kept, Kind, Manifest, Privilege, RunReport, Stopped};
use fernwart_protocol::to_hub::Stream;
use rustix::event::{PollFd, PollFlags};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

/// How long a script has to clean up after SIGTERM.
const GRACE: Duration = Duration::from_secs(2);

/// How long an ended or killed script's streams may stay open.
const LEAVE: Duration = Duration::from_secs(5);

/// Bytes read from a pipe at once.
const CHUNK: usize = 16 * 1024;

/// Maximum number of chunks waiting to be kept; a script that writes faster is blocked.
const CHUNKS: usize = 8;

/// A script to be run.
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
    /// The cage it runs in.
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

/// Why a script could not be run; nothing has happened.
#[derive(Debug, thiserror::Error)]
pub enum ScriptError {
    /// A file is not the approved one.
    #[error("{0} is not the approved file")]
    Altered(FileName),
    /// The cage could not be built.
    #[error("building the cage: {0}")]
    Cage(String),
    /// It was cancelled before it began.
    #[error("it was taken back before it began")]
    Cancelled,
    /// The patterns for its secret parameters could not be built.
    #[error("looking for secrets")]
    Secrets(#[source] regex::Error),
    /// The system cannot create another process or file.
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
struct ScriptEnd {
    report: Option<CageReport>,
    stopped: Option<Stopped>,
    /// What its control groups refused it.
    refused: Option<Stopped>,
    stdout: (Kept, u64),
    stderr: (Kept, u64),
}

enum Piece {
    Some(Stream, Vec<u8>),
    End,
}

/// Runs a script to its end. `live` receives its redacted output; `cancelled` stops it. The
/// caller fills in the findings before and after.
///
/// # Errors
/// When nothing was run.
pub fn run(
    task: &Task,
    cancelled: &AtomicBool,
    now: impl Fn() -> UnixMs,
    mut live: impl FnMut(Stream, Vec<u8>),
) -> Result<RunReport, ScriptError> {
    let own = Own::new(&secrets(task)).map_err(ScriptError::Secrets)?;
    let mut sealed = BTreeMap::new();
    for (name, (wanted, content)) in &task.files {
        let file = cage::sealed(name.as_str(), content)?;
        // Hashed through the descriptor that will be run.
        if cage::hash(&file)? != *wanted {
            return Err(ScriptError::Altered(name.clone()));
        }
        sealed.insert(name.clone(), file);
    }
    let script = sealed.remove(&task.manifest.run).ok_or_else(|| ScriptError::Altered(task.manifest.run.clone()))?;
    let (started_at, begun) = (now(), Instant::now());
    let ended = in_cage(task, &script, &sealed, own, cancelled, &mut live)?;
    let (exit, signal, unseen) = match ended.report {
        Some(CageReport { end: CageEnd::Exit(code), unseen }) => (Some(code), None, unseen),
        Some(CageReport { end: CageEnd::Signal(signal), unseen }) => (None, Some(signal), unseen),
        Some(CageReport { end: CageEnd::Unbuilt(why), .. }) => return Err(ScriptError::Cage(why)),
        None => (None, None, Vec::new()),
    };
    let well = exit.is_some_and(|code| task.manifest.meaning(code).0);
    let means = exit.and_then(|code| task.manifest.meaning(code).1.cloned());
    Ok(RunReport {
        v: 1,
        bundle: task.manifest.name.clone(),
        version: task.manifest.version,
        dry_run: task.dry_run,
        cage: task.cage,
        exit,
        well,
        means,
        signal,
        stopped: ended.stopped.or(ended.refused.filter(|_| !well)),
        started_at,
        took_ms: u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX),
        stdout: ended.stdout.0,
        stderr: ended.stderr.0,
        redacted: ended.stdout.1 + ended.stderr.1,
        unseen,
        checked: !task.manifest.checks.is_empty(),
        before: None,
        after: None,
    })
}

/// The control groups of one run; removed when dropped.
struct Groups(Vec<PathBuf>);

impl Drop for Groups {
    fn drop(&mut self) {
        group::remove(&self.0);
    }
}

/// Refuses a script that needs a mount that does not answer: it would only wait until its time
/// limit.
fn needs_none(task: &Task, deaf: &[(PathBuf, Cause)]) -> Result<(), ScriptError> {
    for path in task.manifest.writes.iter().cloned().chain(given_paths(task)) {
        if let Some((place, why)) = deaf.iter().find(|(place, _)| Path::new(&path).starts_with(place)) {
            let place = crate::collect::shown(place.as_os_str().as_encoded_bytes());
            return Err(ScriptError::Cage(format!(
                "it needs {path}, and {place} does not answer ({})",
                why.in_words()
            )));
        }
    }
    Ok(())
}

/// The pids of the processes that have one of its path parameters open.
fn open_by(task: &Task) -> String {
    // Links are resolved, since the kernel reports open files without them. Unknown if that fails
    // or not all processes can be examined.
    let by = |path: String| opened::by(&crate::platform::paths::real_path(Path::new(&path))?);
    let Some(pids) = given_paths(task).map(by).collect::<Option<Vec<_>>>() else { return "unknown".to_owned() };
    pids.iter().flatten().map(u32::to_string).collect::<Vec<_>>().join(" ")
}

/// The values of its path parameters.
fn given_paths(task: &Task) -> impl Iterator<Item = String> {
    let is_path = |name: &str| {
        task.manifest.parameters.iter().any(|one| one.name == name && matches!(one.kind, Kind::Path { .. }))
    };
    task.parameters.iter().filter(move |(name, _)| is_path(name)).map(|(_, value)| value.to_string())
}

/// The folders that its path parameters may lie under, except the root: there the script itself
/// must take care of links.
fn unlinked(manifest: &Manifest) -> Vec<String> {
    let folders = manifest.parameters.iter().filter_map(|one| match &one.kind {
        Kind::Path { under, .. } => Some(under.iter().map(ToString::to_string)),
        _ => None,
    });
    folders.flatten().filter(|folder| folder != "/" && !manifest.writes.contains(folder)).collect()
}

fn in_cage(
    task: &Task,
    script: &File,
    files: &BTreeMap<FileName, File>,
    own: Own,
    cancelled: &AtomicBool,
    live: &mut impl FnMut(Stream, Vec<u8>),
) -> Result<ScriptEnd, ScriptError> {
    let limits = &task.manifest.limits;
    let deaf = crate::platform::paths::deaf_mounts();
    needs_none(task, &deaf)?;
    let groups = match task.cage {
        Cage::ControlGroup => group::make(&task.run, limits).map_err(|error| ScriptError::Cage(error.to_string()))?,
        Cage::Systemd | Cage::Namespaces => Vec::new(),
    };
    let groups = Groups(groups);
    let flags = rustix::pipe::PipeFlags::CLOEXEC | rustix::pipe::PipeFlags::NONBLOCK;
    let (report_reader, report_writer) = rustix::pipe::pipe_with(flags).map_err(std::io::Error::from)?;
    for file in files.values().chain([script]) {
        cage::inherited(file)?;
    }
    cage::inherited(&report_writer)?;
    let looks = task.manifest.changes_nothing(task.dry_run);
    let writes = cage::may_write(task.manifest.privilege, task.dry_run);
    let spec = Spec {
        parent: std::process::id(),
        looks,
        interpreter: task.manifest.interpreter.path().to_owned(),
        script: script.as_raw_fd(),
        files: files.iter().map(|(name, file)| (name.to_string(), file.as_raw_fd())).collect(),
        report: report_writer.as_raw_fd(),
        groups: groups.0.clone(),
        writes_all: writes && task.manifest.privilege == Privilege::Raw,
        writes: if writes { task.manifest.writes.clone() } else { Vec::new() },
        network: task.manifest.network,
        clock: task.manifest.repairs_clock,
        services: task.manifest.services,
        own_processes: task.own_processes(),
        sees_processes: task.manifest.sees_processes,
        unlinked: unlinked(&task.manifest),
        hide: task.hide.clone(),
        detach: deaf.into_iter().map(|(path, _)| path.into_os_string().into_vec()).collect(),
        is_counted: task.cage != Cage::Namespaces,
        memory_mib: limits.memory_mib,
    };
    let before = match task.cage {
        Cage::Systemd => cage::systemd(&task.run, limits),
        Cage::ControlGroup | Cage::Namespaces => Vec::new(),
    };
    let (mut command, _spec) = cage::command(&spec, before)?;
    command.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").env("LC_ALL", "C.UTF-8").env("HOME", cage::FOLDER);
    command.env("FERNWART_RUN", &task.run).env("FERNWART_DRY_RUN", if task.dry_run { "1" } else { "0" });
    if task.manifest.sees_processes {
        command.env("FERNWART_PROC", if task.own_processes() { cage::MACHINE_PROC } else { cage::OWN_PROC });
        command.env("FERNWART_OPEN_BY", open_by(task));
    }
    command.envs(task.parameters.environment());
    // The script has effects from here on, so this is the last check for a cancel.
    if cancelled.load(Ordering::SeqCst) {
        return Err(ScriptError::Cancelled);
    }
    let mut child = command.spawn()?;
    drop(report_writer);
    feed(&mut child, &task.parameters);
    let (send, pieces) = mpsc::sync_channel(CHUNKS);
    let over = Arc::new(AtomicBool::new(false));
    let out = child.stdout.take().map(|out| read(out, Stream::Out, send.clone(), over.clone()));
    let err = child.stderr.take().map(|err| read(err, Stream::Err, send, over.clone()));
    if let Some(Err(error)) = [out, err].into_iter().flatten().find(Result::is_err) {
        // Without a reader its output would be lost.
        over.store(true, Ordering::SeqCst);
        kill(task, &mut Outer::new(child));
        return Err(error.into());
    }
    // Built while the cage is being built; no output is passed on before.
    let patterns = Patterns::new(own);
    let ended = follow(task, Outer::new(child), &pieces, patterns, cancelled, live, (&report_reader, &groups.0));
    over.store(true, Ordering::SeqCst);
    Ok(ScriptEnd { refused: group::refused(&groups.0), ..ended })
}

/// The outer program. Its pid must not be used after it was reaped, since it may then belong to
/// another process.
struct Outer {
    child: Child,
    ended: bool,
}

impl Outer {
    fn new(child: Child) -> Self {
        Self { child, ended: false }
    }

    /// Whether it has ended; reaps it if so.
    fn has_exited(&mut self) -> bool {
        self.ended = self.ended || !matches!(self.child.try_wait(), Ok(None));
        self.ended
    }

    /// Its pid, unless it was reaped.
    fn pid(&mut self) -> Option<u32> {
        (!self.has_exited()).then(|| self.child.id())
    }

    /// Waits for its end, but only for a while: a process stuck in the kernel must not block the
    /// agent.
    fn bury(&mut self) {
        let until = Instant::now() + LEAVE;
        while !self.has_exited() && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

/// Writes the parameters to standard input as JSON; a script need not read them.
fn feed(child: &mut Child, parameters: &Checked) {
    if let Some(mut stdin) = child.stdin.take() {
        // A pipe holds 64 KiB and parameters have at most 8 KiB, so this cannot block.
        let _ = stdin.write_all(parameters.to_json().as_bytes());
    }
}

/// Reads a stream until its end, or until the run is over: a process outside the cage may hold
/// the other end forever.
fn read(
    mut from: impl Read + AsFd + Send + 'static,
    stream: Stream,
    to: mpsc::SyncSender<Piece>,
    over: Arc<AtomicBool>,
) -> std::io::Result<()> {
    let read = move || {
        let mut chunk = vec![0u8; CHUNK];
        while is_there(&from, &over) {
            match from.read(&mut chunk) {
                Ok(length) if length > 0 => {
                    let piece = chunk.get(..length).unwrap_or_default().to_vec();
                    if to.send(Piece::Some(stream, piece)).is_err() {
                        return;
                    }
                }
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                _ => break,
            }
        }
        // The receiver may be gone.
        let _ = to.send(Piece::End);
    };
    std::thread::Builder::new().name("output".into()).stack_size(64 * 1024).spawn(read).map(drop)
}

/// Waits until there is something to read; returns false once the run is over.
fn is_there(from: &impl AsFd, over: &AtomicBool) -> bool {
    let timeout = rustix::event::Timespec { tv_sec: 1, tv_nsec: 0 };
    while !over.load(Ordering::SeqCst) {
        let mut wanted = [PollFd::new(from, PollFlags::IN)];
        match rustix::event::poll(&mut wanted, Some(&timeout)) {
            Ok(0) | Err(rustix::io::Errno::INTR) => {}
            Ok(_) | Err(_) => return true,
        }
    }
    false
}

/// Both streams, as far as they are kept.
struct Streams {
    out: Keeper,
    err: Keeper,
    open: u8,
}

impl Streams {
    fn new(patterns: Patterns) -> Self {
        Self { out: Keeper::new(patterns.clone()), err: Keeper::new(patterns), open: 2 }
    }

    fn take(&mut self, piece: Piece, live: &mut impl FnMut(Stream, Vec<u8>)) {
        let Piece::Some(stream, bytes) = piece else {
            self.open -= 1;
            return;
        };
        let new_output = match stream {
            Stream::Out => self.out.feed(&bytes),
            Stream::Err => self.err.feed(&bytes),
        };
        if !new_output.is_empty() {
            live(stream, new_output);
        }
    }

    fn bytes(&self) -> u64 {
        self.out.bytes() + self.err.bytes()
    }
}

/// Whether the kernel has killed one of the script's processes for its memory, or blocks it.
/// Without that process the script is not the approved one, so the run ends.
fn killed_by_kernel(task: &Task, pid: u32, groups: &mut Vec<PathBuf>) -> Option<Stopped> {
    if task.cage == Cage::Systemd && groups.is_empty() {
        *groups = group::of_scope(pid, &cage::unit(&task.run));
    }
    group::refused(groups).filter(|refused| *refused == Stopped::Memory)
}

fn follow(
    task: &Task,
    outer: Outer,
    pieces: &mpsc::Receiver<Piece>,
    patterns: Patterns,
    cancelled: &AtomicBool,
    live: &mut impl FnMut(Stream, Vec<u8>),
    (report_reader, groups): (&OwnedFd, &[PathBuf]),
) -> ScriptEnd {
    let mut streams = Streams::new(patterns);
    let mut guard = Guard::new(task, outer, groups.to_vec());
    while streams.open > 0 && guard.waits() {
        match pieces.recv_timeout(guard.next_look.saturating_duration_since(Instant::now())) {
            Ok(piece) => streams.take(piece, live),
            Err(mpsc::RecvTimeoutError::Disconnected) => break,
            Err(mpsc::RecvTimeoutError::Timeout) => {}
        }
        if Instant::now() >= guard.next_look {
            guard.look(cancelled.load(Ordering::SeqCst), streams.bytes());
        }
    }
    end_the_rest(task);
    guard.outer.bury();
    let mut finish = |keeper: Keeper, stream| {
        let (rest, kept, count) = keeper.finish();
        if !rest.is_empty() {
            live(stream, rest);
        }
        (kept, count)
    };
    ScriptEnd {
        report: report(report_reader),
        stopped: guard.stopped,
        refused: None,
        stdout: finish(streams.out, Stream::Out),
        stderr: finish(streams.err, Stream::Err),
    }
}

/// Holds a running script to its limits.
struct Guard<'a> {
    task: &'a Task,
    outer: Outer,
    groups: Vec<PathBuf>,
    begun: Instant,
    /// The file systems it may write to.
    disks: Vec<watch::Disk>,
    stopped: Option<Stopped>,
    next_look: Instant,
    /// When it is killed.
    kill_at: Option<Instant>,
    /// When its output is waited for no longer.
    leave_at: Option<Instant>,
}

impl<'a> Guard<'a> {
    fn new(task: &'a Task, outer: Outer, groups: Vec<PathBuf>) -> Self {
        let begun = Instant::now();
        let raw = task.manifest.privilege == Privilege::Raw;
        let written = task.manifest.writes.iter().map(String::as_str).chain(raw.then_some("/"));
        let disks = written.filter_map(watch::Disk::at).collect();
        let next_look = begun + watch::EVERY;
        Self { task, outer, groups, begun, disks, stopped: None, next_look, kill_at: None, leave_at: None }
    }

    /// Whether its output is still waited for.
    fn waits(&self) -> bool {
        self.leave_at.is_none_or(|at| Instant::now() < at)
    }

    /// Looks at it once, and stops it where it must not go on.
    fn look(&mut self, is_cancelled: bool, output_bytes: u64) {
        self.next_look = Instant::now() + watch::EVERY;
        let Some(pid) = self.outer.pid() else {
            // It has ended. Kill what it left behind; do not wait for processes that hold its
            // streams outside the cage.
            if self.leave_at.is_none() {
                end_the_rest(self.task);
                self.leave_at = Some(Instant::now() + LEAVE);
            }
            return;
        };
        if self.kill_at.is_some_and(|at| Instant::now() >= at) {
            self.leave_at = self.leave_at.or(Some(Instant::now() + LEAVE));
            return kill(self.task, &mut self.outer);
        }
        if self.stopped.is_some() {
            return;
        }
        let limits = &self.task.manifest.limits;
        let helpers = if self.task.cage == Cage::Systemd { 3 } else { 2 };
        self.stopped = match is_cancelled {
            true => Some(Stopped::Cancelled),
            false if output_bytes > u64::from(limits.output_mib) << 20 => Some(Stopped::Output),
            false => watch::verdict(pid, helpers, self.begun, limits, &self.disks)
                .or_else(|| killed_by_kernel(self.task, pid, &mut self.groups)),
        };
        match self.stopped {
            // A script that exceeds a resource limit is killed at once.
            Some(Stopped::Memory | Stopped::Processes | Stopped::Disk | Stopped::Output) => {
                self.kill_at = Some(Instant::now());
                kill(self.task, &mut self.outer);
            }
            Some(Stopped::Time | Stopped::Cancelled) => {
                ask_to_end(pid);
                self.kill_at = Some(Instant::now() + GRACE);
            }
            None => {}
        }
    }
}

/// The inner program's report. It is written before that program ends, so this need not wait.
fn report(from: &OwnedFd) -> Option<CageReport> {
    let mut bytes = Vec::new();
    let mut portion = [0; 4096];
    loop {
        match rustix::io::read(from, &mut portion) {
            Ok(0) | Err(rustix::io::Errno::AGAIN) => break,
            Ok(length) => bytes.extend_from_slice(portion.get(..length)?),
            Err(rustix::io::Errno::INTR) => {}
            Err(_) => return None,
        }
    }
    serde_json::from_slice(&bytes).ok()
}

/// Kills the rest of the script's unit, if the script shares the system's processes.
fn end_the_rest(task: &Task) {
    if !task.own_processes() {
        cage::end_unit(&task.run);
    }
}

fn send(pid: u32, signal: rustix::process::Signal) {
    if let Some(pid) = rustix::process::Pid::from_raw(pid.cast_signed()) {
        // The process may have ended by itself.
        let _ = rustix::process::kill_process(pid, signal);
    }
}

/// Kills a script. When the outer program ends, the kernel kills all others; without namespaces,
/// the unit does.
fn kill(task: &Task, outer: &mut Outer) {
    end_the_rest(task);
    if let Some(pid) = outer.pid() {
        send(pid, rustix::process::Signal::KILL);
    }
}

/// Sends SIGTERM to all of the script's processes, but not to our own two.
fn ask_to_end(outer: u32) {
    let family = watch::family(outer);
    family
        .iter()
        .filter(|pid| **pid != outer && !cage::is_of_the_cage(**pid))
        .for_each(|pid| send(*pid, rustix::process::Signal::TERM));
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
