//! The cage: this program starts itself again, twice, and finally becomes the script.
//!
//! ```text
//! agent ─▶ cage: own namespaces (processes, mounts, IPC, network), own group
//!            └▶ init: pid 1 inside; read-only view, hidden home, limits
//!                 └▶ interpreter
//! ```
//! When pid 1 of the namespace ends, the kernel kills all processes in it; none can escape. When
//! the agent ends, so do the outer and the inner program.
//!
//! # Decisions
//!
//! - **The cage is the agent's own program.** The outer one gets namespaces of its own: mounts,
//!   IPC, processes, and a network namespace unless the manifest wants the network. It has a
//!   session of its own, so no signal to a group and no terminal reaches out of it. The inner one
//!   makes the world read-only but for what the manifest names, gives up rights, and starts the
//!   interpreter on a sealed file. The file's hash was taken through the very descriptor that is
//!   run. The script inherits no descriptor but its streams and its text.
//! - **What a script sees** (`view`): a `/dev` without disks (but for `raw`), a `/proc` without
//!   switches, a private `/tmp`. Unless the manifest says `services`, `/run` shows only what merely
//!   informs. So no service's socket is there, nor comes back when the service restarts. The
//!   agent's folder is hidden wherever its file system is mounted, and a script whose `writes` lie
//!   above that folder is refused.
//! - **Read-only does not mean that nothing happens.** A device, a pipe or a socket opens for
//!   writing on a read-only mount, and a disk can be read through a device node wherever it lies.
//!   So every mount is `nosuid`, and all but those at `/dev` are `nodev`. A script without
//!   `services` makes no AF_UNIX socket but pairs that are joined for good. Landlock (kernels from
//!   5.13 on) lets nothing be opened for writing but what the manifest names, the script's own
//!   folders, harmless devices and its `/proc`.
//! - **What only looks loses more rights**: those over network and clock besides (`rights`).
//! - **A filter of system calls (`seccompiler`) stands behind the rights.** The kernel's keyrings
//!   are shared by all that root runs, and memory behind `memfd_create` is counted for nobody, so
//!   both are refused. So are, once more, the calls around mounts and other processes. No script
//!   makes namespaces of its own, where it would have every right, nor (but for `raw`) a file that
//!   gives its caller another's rights. Calls whose flags a filter cannot see (`clone3`, `openat2`)
//!   are answered as an older kernel would, and programs do without. Programs for another processor
//!   (32 bits on 64) are ended by it.
//! - **Limits hold for the whole family of processes.** A systemd scope holds them where systemd
//!   is; else control groups where a run may make some: version 2, or the trees of version 1 below
//!   the agent's own group (`group`); else bounds of each process. Every 50 ms the sum is looked
//!   at, with threads, page tables and folders in memory (`watch` beside this folder). Without a
//!   control group, what cannot be counted (System V and POSIX shared memory and queues, shared
//!   memory without a file) is not to be had, and a share of the processor, which cannot be held,
//!   is refused. A script one of whose processes was ended for its memory is ended as a whole: the
//!   others would go on with less than they think they have.
//! - **Nobody outside waits for a script.** It takes no lease on a file. It has no socket that a
//!   network namespace does not keep apart (AF_VSOCK, AF_ALG and the like), and none on which
//!   programs write to each other through the kernel.
//! - **An account that owns a folder may exchange names in it** while root works there. In `writes`
//!   and in the folders of a path parameter no symbolic link is followed (`nosymfollow`, Linux
//!   5.10). Our own scripts open a file once, look at what they have open, and
//!   create with `set -C`. They know a hard link to another's file by its count of names.
//! - **A script cannot see others' locks from processes of its own**: the kernel hides them. With
//!   `sees_processes = true` it finds the machine's `/proc`, read-only, at `$FERNWART_PROC`.
//!   `$FERNWART_OPEN_BY` has the numbers of the processes that have one of its path parameters
//!   open, which `/proc` does not tell a cage. `lock-remove` decides by what holds the file, has it
//!   open, or is named in it.
//! - **A script that speaks to services can do what they can**, and approvers are shown that before
//!   they sign it. systemd does not answer a process that it cannot see. So where systemd is, such a script
//!   sees all processes, and its unit ends whatever it leaves behind.

pub(crate) mod group;
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

/// Whether a process is one of these two programs.
pub(crate) fn is_of_the_cage(pid: u32) -> bool {
    let text = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let second = text.split(|byte| *byte == 0).nth(1).unwrap_or_default();
    second == OUTER.as_bytes() || second == INNER.as_bytes()
}

/// The folder of the script's other files; its working directory.
pub const FOLDER: &str = "/tmp/fernwart";

/// Where a script sees the processes of its namespace.
pub const OWN_PROC: &str = "/proc";

/// Where the machine's own `/proc` is mounted, for a script that sees only its own processes but
/// needs to know of others.
pub const MACHINE_PROC: &str = "/tmp/machine-proc";

/// The parameters of the two programs. Must not contain a secret.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Spec {
    /// The agent's pid; the cage stops if the agent has ended.
    pub(crate) parent: u32,
    /// Whether the script is a look; it then has no right to change the network, the clock and
    /// the like.
    pub(crate) looks: bool,
    /// What runs the script.
    pub(crate) interpreter: String,
    /// The sealed file that is run.
    pub(crate) script: RawFd,
    /// Its other files.
    pub(crate) files: Vec<(String, RawFd)>,
    /// The pipe to which the inner program writes its report.
    #[serde(rename = "told")]
    pub(crate) report: RawFd,
    /// The control groups to join, if any.
    pub(crate) groups: Vec<PathBuf>,
    /// Whether it may write anywhere.
    pub(crate) writes_all: bool,
    /// The paths it may write to.
    pub(crate) writes: Vec<String>,
    /// Whether it has a network.
    pub(crate) network: bool,
    /// Whether it may set the clock.
    pub(crate) clock: bool,
    /// Whether it may connect to the system's services over their sockets.
    pub(crate) services: bool,
    /// Whether it sees only its own processes. A script in a systemd unit that talks to services
    /// sees all, since systemd does not answer a process it cannot see. Its unit is then killed
    /// at the end.
    pub(crate) own_processes: bool,
    /// Whether the machine's own `/proc` is shown, if the manifest says so.
    pub(crate) sees_processes: bool,
    /// Further folders below which no link is followed: accounts that own a part of them could
    /// redirect it.
    pub(crate) unlinked: Vec<String>,
    /// Folders that are hidden.
    pub(crate) hide: Vec<PathBuf>,
    /// Mounts that are detached: they hang, or deny access to root.
    pub(crate) detach: Vec<Vec<u8>>,
    /// Whether a control group counts the kernel memory used by the script; if not, calls that
    /// use uncounted memory are refused.
    pub(crate) is_counted: bool,
    /// Memory limit of one process, and of its folder in memory, MiB.
    pub(crate) memory_mib: u32,
}

/// What the inner program reports to the agent.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct CageReport {
    /// How it ended.
    #[serde(rename = "told")]
    pub(crate) end: CageEnd,
    /// Mounts that the script does not see.
    #[serde(default)]
    pub(crate) unseen: Vec<String>,
}

/// How the inner program ended.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum CageEnd {
    /// The cage could not be built; nothing was run.
    Unbuilt(String),
    /// The script has an exit code.
    Exit(i32),
    /// A signal ended it.
    Signal(i32),
}

/// The cage that this machine can provide for a script with these limits; none if its limits
/// cannot be enforced here.
///
/// `home` is the agent's folder. A script that may write above it could replace it, and gets no
/// cage.
pub fn for_script(manifest: &Manifest, home: &Path) -> Option<Cage> {
    let above_home = manifest.writes.iter().any(|path| {
        let path = crate::platform::paths::real_path(Path::new(path)).unwrap_or_else(|| path.into());
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
    // Only a control group can limit the processor share of several processes.
    (cage != Cage::Namespaces || manifest.limits.cpu_pct.is_none()).then_some(cage)
}

/// Kills what is left of a run that an earlier agent process began.
pub(crate) fn end(run: &str) {
    if Path::new("/run/systemd/system").is_dir() {
        end_unit(run);
    }
    let groups: Vec<_> = group::paths(run).into_iter().filter(|group| group.is_dir()).collect();
    group::remove(&groups);
}

pub(crate) fn unit(run: &str) -> String {
    format!("fernwart-run-{run}.scope")
}

/// Kills all processes in a run's unit.
pub(crate) fn end_unit(run: &str) {
    let mut command = Command::new("/usr/bin/systemctl");
    command.args(["kill", "--signal=KILL", &unit(run)]).env_clear();
    // The unit is usually gone already.
    let _ = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
}

/// The command before the outer program where systemd enforces the limits.
pub(crate) fn systemd(run: &str, limits: &Limits) -> Vec<String> {
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

/// Reads the spec from the file with this descriptor. It is not a command line argument, since
/// mount paths may exceed the kernel's limit for one and need not be text.
fn spec(number: &str) -> Option<Spec> {
    let number: RawFd = number.parse().ok()?;
    serde_json::from_slice(&std::fs::read(format!("/proc/self/fd/{number}")).ok()?).ok()
}

/// The outer program. Its exit code means nothing; the inner program reports.
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

/// A pipe that nothing is written to: it closes when the outer program ends.
struct Pulse {
    read: OwnedFd,
    _write: OwnedFd,
}

#[expect(deprecated, reason = "the flags share no file descriptors, so what makes the other unsafe is not so here")]
fn open_namespaces(spec: &Spec) -> Result<Pulse, String> {
    // A new session and process group: signals to the group and the terminal stay inside.
    rustix::process::setsid().map_err(|error| format!("own session: {error}"))?;
    dies_with_parent()?;
    // The parent may have ended before the death signal was set.
    let parent = rustix::process::getppid().map(|pid| pid.as_raw_pid().cast_unsigned());
    if parent != Some(spec.parent) {
        return Err("the agent has ended".into());
    }
    let failed = |error: rustix::io::Errno| error.to_string();
    let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map_err(failed)?;
    rustix::io::fcntl_setfd(&read, rustix::io::FdFlags::empty()).map_err(failed)?;
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

/// Whether the outer program, which holds the other end, is still running.
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
        // The reader may be gone.
        let _ = pipe.write_all(&text);
    }
}

/// The inner program: pid 1 of the namespace.
pub fn inner(text: &str, pulse: &str) -> i32 {
    let (Some(spec), Ok(pulse)) = (spec(text), pulse.parse()) else { return 70 };
    // Open here, but not inherited by the script.
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

/// Takes over the pipe's end and keeps children from inheriting it.
#[expect(unsafe_code, reason = "the number is our parent's word for a pipe that nothing else here uses")]
fn own(fd: RawFd) -> Result<File, String> {
    // SAFETY: the outer program passed this descriptor on for this use alone.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    rustix::io::fcntl_setfd(&fd, rustix::io::FdFlags::CLOEXEC).map_err(|error| error.to_string())?;
    Ok(File::from(fd))
}

fn run(spec: &Spec) -> Result<CageEnd, String> {
    // Orphaned processes become children of this one.
    rustix::process::set_child_subreaper(Some(rustix::process::getpid())).map_err(|error| error.to_string())?;
    let script = format!("/proc/self/fd/{}", spec.script);
    keep_to_itself(Some(spec.script)).map_err(|error| format!("closing what it does not need: {error}"))?;
    rights::hold_writes(spec)?;
    rights::refuse_calls(spec)?;
    // The script gets its own process group, so that a signal to its group does not reach us.
    let child = Command::new(&spec.interpreter).arg(script).process_group(0).spawn();
    let child = child.map_err(|error| format!("{}: {error}", spec.interpreter))?;
    // Only the script keeps the ends of these pipes open.
    drop_standard_streams();
    loop {
        // Also reaps orphaned processes.
        match rustix::process::wait(WaitOptions::empty()) {
            Ok(Some((pid, status))) if pid.as_raw_pid().cast_unsigned() == child.id() => return Ok(end_of(status)),
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(format!("waiting: {error}")),
        }
    }
}

/// Keeps the programs started from here from inheriting open descriptors, except the three
/// standard streams and `but`.
///
/// # Errors
/// When the open descriptors cannot be listed.
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

/// A file in memory that can no longer be changed, with this content.
///
/// # Errors
/// When the kernel cannot create it.
pub(crate) fn sealed(name: &str, content: &[u8]) -> std::io::Result<File> {
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
pub(crate) fn hash(file: &File) -> std::io::Result<fernwart_protocol::id::Digest> {
    let mut bytes = Vec::new();
    // Reopened, so that the script's own descriptor stays at position zero.
    File::open(format!("/proc/self/fd/{}", file.as_raw_fd()))?.read_to_end(&mut bytes)?;
    Ok(fernwart_certs::sha256(&bytes))
}

/// The command that starts the outer program with `spec`, and the file of the spec, which must
/// stay open until then.
pub(crate) fn command(spec: &Spec, before: Vec<String>) -> std::io::Result<(Command, File)> {
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

/// Allows children to inherit a descriptor.
pub(crate) fn inherited(file: &impl AsFd) -> std::io::Result<()> {
    Ok(rustix::io::fcntl_setfd(file, rustix::io::FdFlags::empty())?)
}

/// Whether a script of this privilege, or its dry run, may write anywhere at all.
pub(crate) fn may_write(privilege: Privilege, dry_run: bool) -> bool {
    !dry_run && privilege != Privilege::Read
}
