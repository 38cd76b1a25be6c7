//! One run of a script, from its sealed files to its report.

use super::cage::{self, CageEnd, CageReport, Spec, group};
use super::opened;
use super::output::Keeper;
use super::redact::{Own, Patterns};
use super::watch;
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

/// After SIGTERM a script has this long to clean up.
const GRACE: Duration = Duration::from_secs(2);

/// How long what has ended, or was killed, may take to let go of its streams.
const LEAVE: Duration = Duration::from_secs(5);

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
    /// It was taken back before it began.
    #[error("it was taken back before it began")]
    Cancelled,
    /// What it writes could not be looked through for its secrets.
    #[error("looking for secrets")]
    Secrets(#[source] regex::Error),
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
struct ScriptEnd {
    report: Option<CageReport>,
    stopped: Option<Stopped>,
    /// What its control groups have refused it.
    refused: Option<Stopped>,
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
    let own = Own::new(&secrets(task)).map_err(ScriptError::Secrets)?;
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

/// Everything that was made for one run, taken away again.
struct Groups(Vec<PathBuf>);

impl Drop for Groups {
    fn drop(&mut self) {
        group::remove(&self.0);
    }
}

/// Refuses a script that needs what does not answer: it would wait until its time
/// was over, and nobody would know for what.
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

/// The numbers of processes that have one of its path parameters open.
fn open_by(task: &Task) -> String {
    // As the kernel names what is open: without links. Where that, or all processes, cannot
    // be looked at, nobody knows.
    let by = |path: String| opened::by(&crate::collect::real_path(Path::new(&path))?);
    let Some(pids) = given_paths(task).map(by).collect::<Option<Vec<_>>>() else { return "unknown".to_owned() };
    pids.iter().flatten().map(u32::to_string).collect::<Vec<_>>().join(" ")
}

/// The paths that it is given as parameters.
fn given_paths(task: &Task) -> impl Iterator<Item = String> {
    let is_path = |name: &str| {
        task.manifest.parameters.iter().any(|one| one.name == name && matches!(one.kind, Kind::Path { .. }))
    };
    task.parameters.iter().filter(move |(name, _)| is_path(name)).map(|(_, value)| value.to_string())
}

/// Folders that its parameters may lie under, but the root: below that it is the script's
/// own to look where it goes.
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
    let deaf = crate::collect::deaf_mounts();
    needs_none(task, &deaf)?;
    let groups = match task.cage {
        Cage::ControlGroup => group::make(&task.run, limits).map_err(|error| ScriptError::Cage(error.to_string()))?,
        Cage::Systemd | Cage::Namespaces => Vec::new(),
    };
    let groups = Groups(groups);
    let flags = rustix::pipe::PipeFlags::CLOEXEC | rustix::pipe::PipeFlags::NONBLOCK;
    let (hear, tell) = rustix::pipe::pipe_with(flags).map_err(std::io::Error::from)?;
    for file in files.values().chain([script]) {
        cage::inherited(file)?;
    }
    cage::inherited(&tell)?;
    let looks = task.manifest.changes_nothing(task.dry_run);
    let writes = cage::may_write(task.manifest.privilege, task.dry_run);
    let spec = Spec {
        parent: std::process::id(),
        looks,
        interpreter: task.manifest.interpreter.path().to_owned(),
        script: script.as_raw_fd(),
        files: files.iter().map(|(name, file)| (name.to_string(), file.as_raw_fd())).collect(),
        report: tell.as_raw_fd(),
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
        command.env("FERNWART_PROC", if task.own_processes() { cage::MACHINE_PROC } else { "/proc" });
        command.env("FERNWART_OPEN_BY", open_by(task));
    }
    command.envs(task.parameters.environment());
    // From here on there may be an effect; a word that came before this counts.
    if cancelled.load(Ordering::SeqCst) {
        return Err(ScriptError::Cancelled);
    }
    let mut child = command.spawn()?;
    drop(tell);
    feed(&mut child, &task.parameters);
    let (send, pieces) = mpsc::sync_channel(CHUNKS);
    let over = Arc::new(AtomicBool::new(false));
    let out = child.stdout.take().map(|out| read(out, Stream::Out, send.clone(), over.clone()));
    let err = child.stderr.take().map(|err| read(err, Stream::Err, send, over.clone()));
    if let Some(Err(error)) = [out, err].into_iter().flatten().find(Result::is_err) {
        // Without a reader nobody would see what it does.
        over.store(true, Ordering::SeqCst);
        kill(task, &mut Outer::new(child));
        return Err(error.into());
    }
    // Built while the cage is: nothing is passed on before it is there.
    let patterns = Patterns::new(own);
    let ended = follow(task, Outer::new(child), &pieces, patterns, cancelled, live, (&hear, &groups.0));
    over.store(true, Ordering::SeqCst);
    Ok(ScriptEnd { refused: group::refused(&groups.0), ..ended })
}

/// The outer program. Its pid is not used after it was reaped: it may be another's by then.
struct Outer {
    child: Child,
    ended: bool,
}

impl Outer {
    fn new(child: Child) -> Self {
        Self { child, ended: false }
    }

    /// Whether it has ended, of which it is buried.
    fn has_ended(&mut self) -> bool {
        self.ended = self.ended || !matches!(self.child.try_wait(), Ok(None));
        self.ended
    }

    /// Its number, as long as that is surely its own.
    fn pid(&mut self) -> Option<u32> {
        (!self.has_ended()).then(|| self.child.id())
    }

    /// Waits for its end, but not for ever: one that the kernel holds does not
    /// hold up the agent.
    fn bury(&mut self) {
        let until = Instant::now() + LEAVE;
        while !self.has_ended() && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

/// Gives the parameters as JSON; a script need not read them.
fn feed(child: &mut Child, parameters: &Checked) {
    if let Some(mut stdin) = child.stdin.take() {
        // A pipe holds 64 KiB, and parameters are 8 KiB at most: this cannot wait.
        let _ = stdin.write_all(parameters.to_json().as_bytes());
    }
}

/// Reads a stream until its end, or until the run is over: whoever took the
/// other end elsewhere may hold it for ever.
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
        // Nobody may be listening any more.
        let _ = to.send(Piece::End);
    };
    std::thread::Builder::new().name("output".into()).stack_size(64 * 1024).spawn(read).map(drop)
}

/// Waits until there is something to read; false once the run is over.
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

/// Both streams, kept.
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
        let told = match stream {
            Stream::Out => self.out.feed(&bytes),
            Stream::Err => self.err.feed(&bytes),
        };
        if !told.is_empty() {
            live(stream, told);
        }
    }

    fn bytes(&self) -> u64 {
        self.out.bytes() + self.err.bytes()
    }
}

/// Whether the kernel has ended one of the script's processes for its memory, or has it
/// wait: what the others make of that is not what was approved.
fn ended_by_kernel(task: &Task, pid: u32, groups: &mut Vec<PathBuf>) -> Option<Stopped> {
    if task.cage == Cage::Systemd && groups.is_empty() {
        *groups = group::of_scope(pid, &cage::unit(&task.run));
    }
    group::refused(groups).filter(|refused| *refused == Stopped::Memory)
}

fn follow(
    task: &Task,
    mut outer: Outer,
    pieces: &mpsc::Receiver<Piece>,
    patterns: Patterns,
    cancelled: &AtomicBool,
    live: &mut impl FnMut(Stream, Vec<u8>),
    (hear, groups): (&OwnedFd, &[PathBuf]),
) -> ScriptEnd {
    let mut groups = groups.to_vec();
    let mut streams = Streams::new(patterns);
    let begun = Instant::now();
    let helpers = if task.cage == Cage::Systemd { 3 } else { 2 };
    let raw = task.manifest.privilege == Privilege::Raw;
    let written = task.manifest.writes.iter().map(String::as_str).chain(raw.then_some("/"));
    let disks: Vec<watch::Disk> = written.filter_map(watch::Disk::at).collect();
    let most_output = u64::from(task.manifest.limits.output_mib) << 20;
    let mut stopped = None;
    let mut next_look = begun + watch::EVERY;
    let mut kill_at: Option<Instant> = None;
    let mut leave_at: Option<Instant> = None;
    while streams.open > 0 && leave_at.is_none_or(|at| Instant::now() < at) {
        match pieces.recv_timeout(next_look.saturating_duration_since(Instant::now())) {
            Ok(piece) => streams.take(piece, live),
            Err(mpsc::RecvTimeoutError::Disconnected) => break,
            Err(mpsc::RecvTimeoutError::Timeout) => {}
        }
        if Instant::now() < next_look {
            continue;
        }
        next_look = Instant::now() + watch::EVERY;
        let Some(pid) = outer.pid() else {
            // It has ended; whatever it left behind ends now, and whoever took
            // its streams out of here is not waited for.
            if leave_at.is_none() {
                end_the_rest(task);
                leave_at = Some(Instant::now() + LEAVE);
            }
            continue;
        };
        if kill_at.is_some_and(|at| Instant::now() >= at) {
            leave_at = leave_at.or(Some(Instant::now() + LEAVE));
            kill(task, &mut outer);
            continue;
        }
        if stopped.is_none() {
            stopped = match cancelled.load(Ordering::SeqCst) {
                true => Some(Stopped::Cancelled),
                false if streams.bytes() > most_output => Some(Stopped::Output),
                false => watch::verdict(pid, helpers, begun, &task.manifest.limits, &disks)
                    .or_else(|| ended_by_kernel(task, pid, &mut groups)),
            };
            match stopped {
                // What grows is not asked.
                Some(Stopped::Memory | Stopped::Processes | Stopped::Disk | Stopped::Output) => {
                    kill_at = Some(Instant::now());
                    kill(task, &mut outer);
                }
                Some(Stopped::Time | Stopped::Cancelled) => {
                    ask_to_end(pid);
                    kill_at = Some(Instant::now() + GRACE);
                }
                None => {}
            }
        }
    }
    end_the_rest(task);
    outer.bury();
    let mut finish = |keeper: Keeper, stream| {
        let (rest, kept, count) = keeper.finish();
        if !rest.is_empty() {
            live(stream, rest);
        }
        (kept, count)
    };
    ScriptEnd {
        report: report(hear),
        stopped,
        refused: None,
        stdout: finish(streams.out, Stream::Out),
        stderr: finish(streams.err, Stream::Err),
    }
}

/// What the inner program has reported. It reports before it ends, so nothing is
/// waited for.
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

/// Where a script shares the system's processes, its unit ends what it leaves.
fn end_the_rest(task: &Task) {
    if !task.own_processes() {
        cage::end_unit(&task.run);
    }
}

fn send(pid: u32, signal: rustix::process::Signal) {
    if let Some(pid) = rustix::process::Pid::from_raw(pid.cast_signed()) {
        // It may have ended by itself.
        let _ = rustix::process::kill_process(pid, signal);
    }
}

/// Ends a script unasked: with the outer program the kernel ends all, or the
/// unit does.
fn kill(task: &Task, outer: &mut Outer) {
    end_the_rest(task);
    if let Some(pid) = outer.pid() {
        send(pid, rustix::process::Signal::KILL);
    }
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
