//! The cage: this very program, started again, on its way to becoming a script.
//!
//! ```text
//! agent ─▶ cage: own namespaces (processes, mounts, IPC, network), own group
//!            └▶ init: number one in there; read-only world, hidden home, limits
//!                 └▶ interpreter
//! ```
//! When number one ends, the kernel ends all that is in there with it, whatever
//! it has done to get away. When the agent ends, so do the two.

pub(super) mod group;
mod rights;
mod view;

use fernwart_protocol::script::{Cage, Limits, Manifest, Privilege};
use rustix::event::{PollFd, PollFlags};
use rustix::process::{Signal, WaitOptions, WaitStatus};
use rustix::thread::UnshareFlags;
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// First word of the command line of the outer program.
pub const OUTER: &str = "cage";
/// First word of the command line of the inner one.
pub const INNER: &str = "cage-init";

/// Where a script's other files lie; its folder to begin with.
pub const FOLDER: &str = "/tmp/fernwart";

/// Where the machine's own `/proc` is, for a script that sees only its own processes and
/// has to know of others.
pub const MACHINE_PROC: &str = "/tmp/machine-proc";

/// What the two are told. No secret is in it: it stands in their command line.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Spec {
    /// The agent's process; without it nothing begins.
    pub(super) parent: u32,
    /// Whether it only looks, and gets no right to change the network, the
    /// clock and the like.
    pub(super) looks: bool,
    /// What runs the script.
    pub(super) interpreter: String,
    /// The sealed file that is run.
    pub(super) script: RawFd,
    /// Its other files.
    pub(super) files: Vec<(String, RawFd)>,
    /// The pipe into which the inner program writes its report.
    #[serde(rename = "told")]
    pub(super) report: RawFd,
    /// The control group to join, if there is one.
    pub(super) groups: Vec<PathBuf>,
    /// Whether anything may be written outside its own folder.
    pub(super) writes_all: bool,
    /// What may be written to.
    pub(super) writes: Vec<String>,
    /// Whether it has a network.
    pub(super) network: bool,
    /// Whether it may set the clock.
    pub(super) clock: bool,
    /// Whether it may speak to the system's services over their sockets.
    pub(super) services: bool,
    /// Whether it sees only its own processes. Where systemd holds a script that
    /// speaks to services it sees all: systemd answers nobody whom it cannot
    /// see from where they are. The unit then ends what is left.
    pub(super) own_processes: bool,
    /// Where the machine's own `/proc` is shown, if the manifest says so.
    pub(super) sees_processes: bool,
    /// Folders below which no link is followed, beside what may be written: accounts that
    /// own a part of them could lead it elsewhere.
    pub(super) unlinked: Vec<String>,
    /// Folders that are empty in there.
    pub(super) hide: Vec<PathBuf>,
    /// Mounts that are not there: what answers for them hangs, or keeps root out.
    pub(super) detach: Vec<Vec<u8>>,
    /// Whether a control group counts what the kernel keeps for it; else it gets none of
    /// what nobody could count.
    pub(super) is_counted: bool,
    /// Memory of one process, and of its folder in memory, MiB.
    pub(super) memory_mib: u32,
}

/// What the inner program reports to the agent.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct CageReport {
    /// How it ended.
    #[serde(rename = "told")]
    pub(super) end: CageEnd,
    /// Mounts that the script does not see.
    #[serde(default)]
    pub(super) unseen: Vec<String>,
}

/// How the inner program ended.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum CageEnd {
    /// The cage could not be built; nothing was run.
    Unbuilt(String),
    /// The script has an exit code.
    Exit(i32),
    /// A signal ended it.
    Signal(i32),
}

/// The cage this machine has for a script with these limits; nothing if what
/// is demanded cannot be enforced here.
///
/// `home` is the agent's folder: whoever may write above it could put another in
/// its place.
pub fn for_script(manifest: &Manifest, home: &Path) -> Option<Cage> {
    let above_home = manifest.writes.iter().any(|path| {
        let path = crate::collect::real_path(Path::new(path)).unwrap_or_else(|| path.into());
        home.starts_with(&path) || path.starts_with(home)
    });
    if !rustix::process::geteuid().is_root() || above_home {
        return None;
    }
    let cage = if Path::new("/run/systemd/system").is_dir() && Path::new("/usr/bin/systemd-run").is_file() {
        Cage::Systemd
    } else if group::is_there() {
        Cage::ControlGroup
    } else {
        Cage::Namespaces
    };
    // Only a group can hold the processor's share of a whole family.
    (cage != Cage::Namespaces || manifest.limits.cpu_pct.is_none()).then_some(cage)
}

/// Ends what is left of a run that an agent before this one began.
pub(crate) fn end(run: &str) {
    if Path::new("/run/systemd/system").is_dir() {
        end_unit(run);
    }
    let groups: Vec<_> = group::paths(run).into_iter().filter(|group| group.is_dir()).collect();
    group::remove(&groups);
}

pub(super) fn unit(run: &str) -> String {
    format!("fernwart-run-{run}.scope")
}

/// Ends all that is left in a run's unit.
pub(super) fn end_unit(run: &str) {
    let mut command = Command::new("/usr/bin/systemctl");
    command.args(["kill", "--signal=KILL", &unit(run)]).env_clear();
    // Mostly the unit is gone already.
    let _ = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
}

/// What stands before the outer program where systemd holds the limits.
pub(super) fn systemd(run: &str, limits: &Limits) -> Vec<String> {
    let mut words: Vec<String> = ["/usr/bin/systemd-run", "--scope", "--quiet", "--collect"].map(String::from).into();
    words.push(format!("--unit={}", unit(run)));
    words.push(format!("--property=MemoryMax={}M", limits.memory_mib));
    words.push("--property=MemorySwapMax=0".into());
    words.push(format!("--property=TasksMax={}", limits.processes + 2));
    words.push(format!("--property=RuntimeMaxSec={}", limits.time_s + 5));
    if let Some(pct) = limits.cpu_pct {
        words.push(format!("--property=CPUQuota={pct}%"));
    }
    words.push("--".into());
    words
}

/// What is to be run, out of the file with this number. It is no argument: paths of
/// mounts may be longer than the kernel lets one be, and need be no text.
fn spec(number: &str) -> Option<Spec> {
    let number: RawFd = number.parse().ok()?;
    serde_json::from_slice(&std::fs::read(format!("/proc/self/fd/{number}")).ok()?).ok()
}

/// The outer program. Its exit code means nothing; the inner one tells.
pub fn outer(text: &str) -> i32 {
    let Some(spec) = spec(text) else { return 70 };
    match open_namespaces(&spec).and_then(|pulse| {
        let mut inner = Command::new("/proc/self/exe");
        inner.arg(INNER).arg(text).arg(pulse.read.as_raw_fd().to_string());
        inner.spawn().map_err(|error| format!("starting: {error}")).map(|inner| (inner, pulse))
    }) {
        Ok((mut inner, _pulse)) => {
            // Its ends of the pipes must close with the script, not with us.
            let _ = inner.wait();
            0
        }
        Err(why) => unbuilt(spec.report, why),
    }
}

/// A pipe that nothing is said on: it ends when the outer program does.
struct Pulse {
    read: OwnedFd,
    _write: OwnedFd,
}

#[expect(deprecated, reason = "the flags share no file descriptors, so what makes the other unsafe is not so here")]
fn open_namespaces(spec: &Spec) -> Result<Pulse, String> {
    // A session and a process group of its own: no signal to a group, and no
    // terminal, reaches what is outside.
    rustix::process::setsid().map_err(|error| format!("own session: {error}"))?;
    dies_with_parent()?;
    // The parent may have ended before that was asked for.
    let parent = rustix::process::getppid().map(|pid| pid.as_raw_pid().cast_unsigned());
    if parent != Some(spec.parent) {
        return Err("the agent has ended".into());
    }
    let said = |error: rustix::io::Errno| error.to_string();
    let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map_err(said)?;
    rustix::io::fcntl_setfd(&read, rustix::io::FdFlags::empty()).map_err(said)?;
    for group in &spec.groups {
        std::fs::write(group.join("cgroup.procs"), "0").map_err(|error| format!("joining the group: {error}"))?;
    }
    let mut apart = UnshareFlags::NEWNS | UnshareFlags::NEWIPC;
    if spec.own_processes {
        apart |= UnshareFlags::NEWPID;
    }
    if !spec.network {
        apart |= UnshareFlags::NEWNET;
    }
    rustix::thread::unshare(apart).map_err(|error| format!("own namespaces: {error}"))?;
    Ok(Pulse { read, _write: write })
}

fn dies_with_parent() -> Result<(), String> {
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL)).map_err(|error| error.to_string())
}

/// Whether the outer program, which holds the other end, is still there.
fn beats(pulse: &File) -> Result<(), String> {
    let mut wanted = [PollFd::new(pulse, PollFlags::IN)];
    let now = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
    match rustix::event::poll(&mut wanted, Some(&now)) {
        Ok(0) => Ok(()),
        Ok(_) => Err("the outer program has ended".into()),
        Err(error) => Err(error.to_string()),
    }
}

fn unbuilt(pipe: RawFd, why: String) -> i32 {
    send_report(pipe, &CageReport { end: CageEnd::Unbuilt(why), unseen: Vec::new() });
    71
}

fn send_report(pipe: RawFd, report: &CageReport) {
    if let Ok(text) = serde_json::to_vec(report)
        && let Ok(mut pipe) = std::fs::OpenOptions::new().write(true).open(format!("/proc/self/fd/{pipe}"))
    {
        // Whoever should read it may be gone.
        let _ = pipe.write_all(&text);
    }
}

/// The inner program: number one in there.
pub fn inner(text: &str, pulse: &str) -> i32 {
    let (Some(spec), Ok(pulse)) = (spec(text), pulse.parse()) else { return 70 };
    // Held open, and closed for the script.
    let (Ok(mut pipe), Ok(pulse)) = (own(spec.report), own(pulse)) else { return 70 };
    let built = dies_with_parent()
        .and_then(|()| beats(&pulse))
        .and_then(|()| view::make(&spec))
        .and_then(|unseen| rights::give_up(&spec).map(|()| unseen));
    let what = match built.and_then(|unseen| Ok(CageReport { end: run(&spec)?, unseen })) {
        Ok(word) => word,
        Err(why) => CageReport { end: CageEnd::Unbuilt(why), unseen: Vec::new() },
    };
    if let Ok(text) = serde_json::to_vec(&what) {
        let _ = pipe.write_all(&text);
    }
    0
}

/// The pipe's end, which no child inherits.
#[expect(unsafe_code, reason = "the number is our parent's word for a pipe that nothing else here uses")]
fn own(fd: RawFd) -> Result<File, String> {
    // SAFETY: the outer program passed this descriptor on for this use alone.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    rustix::io::fcntl_setfd(&fd, rustix::io::FdFlags::CLOEXEC).map_err(|error| error.to_string())?;
    Ok(File::from(fd))
}

fn run(spec: &Spec) -> Result<CageEnd, String> {
    // Whoever loses its parent stays in the family.
    rustix::process::set_child_subreaper(Some(rustix::process::getpid())).map_err(|error| error.to_string())?;
    let script = format!("/proc/self/fd/{}", spec.script);
    keep_to_itself(Some(spec.script)).map_err(|error| format!("closing what it does not need: {error}"))?;
    rights::hold_writes(spec)?;
    rights::refuse_calls(spec)?;
    // What it signals to its whole group is not meant for us.
    let child = Command::new(&spec.interpreter).arg(script).process_group(0).spawn();
    let child = child.map_err(|error| format!("{}: {error}", spec.interpreter))?;
    // Nobody else holds an end of these pipes for longer than the script does.
    drop_standard_streams();
    loop {
        // Number one also buries those whose parents have gone.
        match rustix::process::wait(WaitOptions::empty()) {
            Ok(Some((pid, status))) if pid.as_raw_pid().cast_unsigned() == child.id() => return Ok(end_of(status)),
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(format!("waiting: {error}")),
        }
    }
}

/// Nothing that is open here goes to the programs that are started from here,
/// but the three standard streams and `but`.
///
/// # Errors
/// When that cannot be found out.
pub fn keep_to_itself(but: Option<RawFd>) -> std::io::Result<()> {
    let open: Vec<RawFd> = std::fs::read_dir("/proc/self/fd")?
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|fd| *fd > 2 && Some(*fd) != but)
        .collect();
    for fd in open {
        close_for_others(fd);
    }
    Ok(())
}

#[expect(unsafe_code, reason = "only a flag is set, on whatever is open under this number, if anything is")]
fn close_for_others(fd: RawFd) {
    // SAFETY: the descriptor is not closed, read or kept; one that is gone gives an error.
    let borrowed = unsafe { BorrowedFd::borrow_raw(fd) };
    let _ = rustix::io::fcntl_setfd(borrowed, rustix::io::FdFlags::CLOEXEC);
}

fn end_of(status: WaitStatus) -> CageEnd {
    match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => CageEnd::Exit(code),
        (None, Some(signal)) => CageEnd::Signal(signal),
        (None, None) => CageEnd::Signal(0),
    }
}

fn drop_standard_streams() {
    if let Ok(null) = File::options().read(true).write(true).open("/dev/null") {
        let _ = rustix::stdio::dup2_stdin(&null);
        let _ = rustix::stdio::dup2_stdout(&null);
        let _ = rustix::stdio::dup2_stderr(&null);
    }
}

/// A file that nobody can change any more, with what was hashed in it.
///
/// # Errors
/// When the kernel has no room for it.
pub(super) fn sealed(name: &str, content: &[u8]) -> std::io::Result<File> {
    let flags = rustix::fs::MemfdFlags::ALLOW_SEALING;
    let mut file = File::from(rustix::fs::memfd_create(name, flags)?);
    file.write_all(content)?;
    let seals = rustix::fs::SealFlags::WRITE
        | rustix::fs::SealFlags::GROW
        | rustix::fs::SealFlags::SHRINK
        | rustix::fs::SealFlags::SEAL;
    rustix::fs::fcntl_add_seals(&file, seals)?;
    Ok(file)
}

/// SHA-256 of an open file, read through its own descriptor.
///
/// # Errors
/// When it cannot be read.
pub(super) fn hash(file: &File) -> std::io::Result<fernwart_protocol::id::Digest> {
    let mut bytes = Vec::new();
    // Opened anew so that the script finds the position at the beginning.
    File::open(format!("/proc/self/fd/{}", file.as_raw_fd()))?.read_to_end(&mut bytes)?;
    Ok(fernwart_certs::sha256(&bytes))
}

/// The command that starts the outer program with `spec`, and the file that it is in,
/// which must be open until then.
pub(super) fn command(spec: &Spec, before: Vec<String>) -> std::io::Result<(Command, File)> {
    let file = sealed("spec", &serde_json::to_vec(spec)?)?;
    inherited(&file)?;
    let text = file.as_raw_fd().to_string();
    let program = std::env::current_exe()?;
    let mut words = before.into_iter().map(std::ffi::OsString::from).chain([program.into()]);
    let first = words.next().unwrap_or_default();
    let mut command = Command::new(first);
    command.args(words).arg(OUTER).arg(text).env_clear().current_dir("/").stdin(Stdio::piped());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    Ok((command, file))
}

/// Lets children have a descriptor.
pub(super) fn inherited(file: &impl AsFd) -> std::io::Result<()> {
    Ok(rustix::io::fcntl_setfd(file, rustix::io::FdFlags::empty())?)
}

/// Whether a script of this privilege, or its dry run, writes anywhere at all.
pub(super) fn may_write(privilege: Privilege, dry_run: bool) -> bool {
    !dry_run && privilege != Privilege::Read
}
