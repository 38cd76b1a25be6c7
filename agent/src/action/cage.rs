//! The cage: this very program, started again, on its way to becoming a script.
//!
//! ```text
//! agent ─▶ cage: own namespaces (processes, mounts, IPC, network), own group
//!            └▶ init: number one in there; read-only world, hidden home, limits
//!                 └▶ interpreter
//! ```
//! When number one ends, the kernel ends all that is in there with it, whatever
//! it has done to get away. When the agent ends, so do the two.

use fernwart_protocol::script::{Cage, Limits, Manifest, Privilege};
use rustix::event::{PollFd, PollFlags};
use rustix::fs::Mode;
use rustix::mount::{MountFlags, MountPropagationFlags};
use rustix::process::{Resource, Rlimit, Signal, WaitOptions, WaitStatus};
use rustix::thread::{CapabilitySet, UnshareFlags};
use serde::{Deserialize, Serialize};
use std::ffi::OsString;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// First word of the command line of the outer program.
pub const OUTER: &str = "cage";
/// First word of the command line of the inner one.
pub const INNER: &str = "cage-init";

/// Where a script's other files lie; its folder to begin with.
pub const FOLDER: &str = "/tmp/fernwart";

/// Its own folder for passing things, in memory.
const PRIVATE: [&str; 2] = ["/tmp", "/var/tmp"];

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
    /// Where the inner program tells how it ended.
    pub(super) told: RawFd,
    /// The control group to join, if there is one.
    pub(super) group: Option<PathBuf>,
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
    /// Folders that are empty in there.
    pub(super) hide: Vec<PathBuf>,
    /// Memory of one process, and of its folder in memory, MiB.
    pub(super) memory_mib: u32,
}

/// How the inner program ended, as it tells the agent.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Told {
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
        let path = std::fs::canonicalize(path).unwrap_or_else(|_| path.into());
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
    let group = group::path(run);
    if group.is_dir() {
        group::remove(&group);
    }
}

fn unit(run: &str) -> String {
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

/// Control groups, version 2, without systemd.
pub(super) mod group {
    use super::Limits;
    use std::io;
    use std::path::{Path, PathBuf};

    const TREE: &str = "/sys/fs/cgroup";
    const OURS: &str = "/sys/fs/cgroup/fernwart";

    pub(super) fn is_there() -> bool {
        let controllers = std::fs::read_to_string(Path::new(TREE).join("cgroup.controllers")).unwrap_or_default();
        ["memory", "pids", "cpu"].iter().all(|wanted| controllers.split_whitespace().any(|one| one == *wanted))
    }

    /// Where one for a run is.
    pub(super) fn path(run: &str) -> PathBuf {
        Path::new(OURS).join(run)
    }

    /// Makes one for a run.
    pub(in crate::action) fn make(run: &str, limits: &Limits) -> io::Result<PathBuf> {
        let ours = Path::new(OURS);
        std::fs::create_dir_all(ours)?;
        for folder in [Path::new(TREE), ours] {
            std::fs::write(folder.join("cgroup.subtree_control"), "+memory +pids +cpu")?;
        }
        let path = path(run);
        std::fs::create_dir(&path)?;
        std::fs::write(path.join("memory.max"), (u64::from(limits.memory_mib) << 20).to_string())?;
        // Not everywhere: without swap there is no such file.
        let _ = std::fs::write(path.join("memory.swap.max"), "0");
        std::fs::write(path.join("pids.max"), (limits.processes + 2).to_string())?;
        if let Some(pct) = limits.cpu_pct {
            std::fs::write(path.join("cpu.max"), format!("{} 100000", u64::from(pct) * 1000))?;
        }
        Ok(path)
    }

    /// Ends whatever is left in it, and removes it.
    pub(in crate::action) fn remove(path: &Path) {
        let _ = std::fs::write(path.join("cgroup.kill"), "1");
        for _ in 0..50 {
            match std::fs::remove_dir(path) {
                Err(error) if error.kind() == io::ErrorKind::ResourceBusy => {
                    std::thread::sleep(std::time::Duration::from_millis(10));
                }
                _ => return,
            }
        }
    }
}

/// The outer program. Its exit code means nothing; the inner one tells.
pub fn outer(text: &str) -> i32 {
    let Ok(spec) = serde_json::from_str::<Spec>(text) else { return 70 };
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
        Err(why) => unbuilt(spec.told, why),
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
    if let Some(group) = &spec.group {
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

fn unbuilt(told: RawFd, why: String) -> i32 {
    tell(told, &Told::Unbuilt(why));
    71
}

fn tell(told: RawFd, what: &Told) {
    if let Ok(text) = serde_json::to_vec(what)
        && let Ok(mut pipe) = std::fs::OpenOptions::new().write(true).open(format!("/proc/self/fd/{told}"))
    {
        // Whoever should read it may be gone.
        let _ = pipe.write_all(&text);
    }
}

/// The inner program: number one in there.
pub fn inner(text: &str, pulse: &str) -> i32 {
    let (Ok(spec), Ok(pulse)) = (serde_json::from_str::<Spec>(text), pulse.parse()) else { return 70 };
    // Held open, and closed for the script.
    let (Ok(mut told), Ok(pulse)) = (own(spec.told), own(pulse)) else { return 70 };
    let built = dies_with_parent().and_then(|()| beats(&pulse)).and_then(|()| build(&spec));
    let what = match built.and_then(|()| run(&spec)) {
        Ok(told) => told,
        Err(why) => Told::Unbuilt(why),
    };
    if let Ok(text) = serde_json::to_vec(&what) {
        let _ = told.write_all(&text);
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

fn build(spec: &Spec) -> Result<(), String> {
    let said = |what: &str| {
        let what = what.to_owned();
        move |error: rustix::io::Errno| format!("{what}: {error}")
    };
    // What is made in here is for whoever the script becomes.
    rustix::process::umask(Mode::from_raw_mode(0o022));
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    rustix::mount::mount_change("/", private).map_err(said("keeping mounts to itself"))?;
    let mounts = mounts()?;
    let hidden: Vec<PathBuf> = spec.hide.iter().flat_map(|folder| everywhere(folder, &mounts)).collect();
    // What may be written becomes a mount of its own, which stays writable.
    for path in spec.writes.iter().filter(|path| Path::new(path).exists()) {
        rustix::mount::mount_bind_recursive(path, path).map_err(said(path))?;
    }
    read_only(spec)?;
    if !spec.services {
        silence_sockets(spec)?;
    }
    let plain = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    // Its own processes only; and no switch of the kernel can be turned there.
    if spec.own_processes {
        rustix::mount::mount("proc", "/proc", "proc", plain | MountFlags::RDONLY, c"").map_err(said("/proc"))?;
    }
    if !spec.writes_all {
        private_devices()?;
    }
    for folder in PRIVATE.iter().filter(|folder| Path::new(folder).is_dir()) {
        let size = std::ffi::CString::new(format!("mode=1777,size={}m", (spec.memory_mib / 2).max(1)));
        let size = size.map_err(|error| error.to_string())?;
        let flags = MountFlags::NOSUID | MountFlags::NODEV;
        rustix::mount::mount("tmpfs", *folder, "tmpfs", flags, size.as_c_str()).map_err(said(folder))?;
    }
    // One that lay below a private folder is out of sight already.
    for place in hidden {
        let flags = plain | MountFlags::RDONLY;
        match place.metadata() {
            Ok(there) if there.is_dir() => {
                rustix::mount::mount("tmpfs", &place, "tmpfs", flags, c"mode=000,size=4k").map_err(said("hiding"))?;
            }
            Ok(_) => rustix::mount::mount_bind("/dev/null", &place).map_err(said("hiding"))?,
            Err(_) => {}
        }
    }
    std::fs::create_dir(FOLDER).map_err(|error| format!("{FOLDER}: {error}"))?;
    for (name, fd) in &spec.files {
        let copied = std::fs::copy(format!("/proc/self/fd/{fd}"), Path::new(FOLDER).join(name));
        copied.map_err(|error| format!("{name}: {error}"))?;
    }
    std::env::set_current_dir(FOLDER).map_err(|error| error.to_string())?;
    bounds(spec)
}

/// Devices that do nothing to the computer.
const DEVICES: [&str; 5] = ["null", "zero", "full", "random", "urandom"];

/// A `/dev` with nothing of the computer in it: a read-only mount keeps nobody
/// from writing to a disk's device.
fn private_devices() -> Result<(), String> {
    let said = |error: std::io::Error| format!("/dev: {error}");
    let stage = Path::new("/dev/shm");
    let stage = if stage.is_dir() { stage } else { Path::new("/tmp") };
    let flags = MountFlags::NOSUID | MountFlags::NOEXEC;
    let errno = |error: rustix::io::Errno| said(error.into());
    rustix::mount::mount("tmpfs", stage, "tmpfs", flags, c"mode=755,size=64k").map_err(errno)?;
    for name in DEVICES {
        let (from, to) = (Path::new("/dev").join(name), stage.join(name));
        if from.exists() {
            File::create(&to).map_err(said)?;
            rustix::mount::mount_bind(&from, &to).map_err(errno)?;
        }
    }
    for (name, target) in [("fd", "/proc/self/fd"), ("stdin", "fd/0"), ("stdout", "fd/1"), ("stderr", "fd/2")] {
        std::os::unix::fs::symlink(target, stage.join(name)).map_err(said)?;
    }
    std::fs::create_dir(stage.join("shm")).map_err(said)?;
    rustix::mount::mount_bind_recursive(stage, "/dev").map_err(errno)?;
    rustix::mount::mount("tmpfs", "/dev/shm", "tmpfs", flags | MountFlags::NODEV, c"mode=1777,size=1m")
        .map_err(errno)?;
    let flags = MountFlags::BIND | MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NOEXEC;
    rustix::mount::mount_remount("/dev", flags, c"").map_err(errno)
}

/// What of `/run` every script sees: where names are looked up and lines are
/// logged, and what only tells about the system.
const RUN: [&str; 15] = [
    "/run/systemd/journal/dev-log",
    "/run/systemd/journal/socket",
    "/run/systemd/journal/stdout",
    "/run/systemd/resolve",
    "/run/systemd/userdb",
    "/run/resolvconf/resolv.conf",
    "/run/NetworkManager/resolv.conf",
    "/run/log",
    "/run/lock",
    "/run/mount",
    "/run/udev/data",
    "/run/utmp",
    "/run/reboot-required",
    "/run/reboot-required.pkgs",
    "/run/motd.dynamic",
];

/// Folders elsewhere with sockets through which a computer can be ruled.
const SOCKETS: [&str; 3] = ["/var/lib/lxd", "/var/snap/lxd/common/lxd", "/var/lib/incus"];

/// Sockets in folders that hold much else; these come back with a restart.
const SOCKET_FILES: [&str; 1] = ["/var/lib/mysql/mysql.sock"];

/// Takes the sockets of the system's services out of sight: whoever may speak
/// to systemd can do what systemd can. What is not there cannot come back when
/// a service is started again.
fn silence_sockets(spec: &Spec) -> Result<(), String> {
    let run = Path::new("/run");
    let own = spec
        .writes
        .iter()
        .map(String::as_str)
        .filter(|path| Path::new(path).starts_with(run) && Path::new(path) != run);
    // Taken in hand before they are covered.
    let mut seen = Vec::new();
    for path in RUN.into_iter().chain(own) {
        let flags = rustix::fs::OFlags::PATH | rustix::fs::OFlags::CLOEXEC;
        if let Ok(there) = rustix::fs::open(path, flags, Mode::empty()) {
            seen.push((Path::new(path), there));
        }
    }
    let empty = |place: &Path, size: &std::ffi::CStr| {
        let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
        let mounted = rustix::mount::mount("tmpfs", place, "tmpfs", flags, size);
        mounted.map_err(|error| format!("silencing {}: {error}", place.display()))
    };
    for folder in SOCKETS.iter().map(Path::new).filter(|folder| folder.is_dir()) {
        empty(folder, c"mode=000,size=4k")?;
    }
    for file in SOCKET_FILES.iter().filter(|file| Path::new(file).exists()) {
        rustix::mount::mount_bind("/dev/null", *file).map_err(|error| format!("silencing {file}: {error}"))?;
    }
    if !run.is_dir() {
        return Ok(());
    }
    empty(run, c"mode=755,size=1m")?;
    for (path, there) in seen {
        let said = |error: std::io::Error| format!("{}: {error}", path.display());
        let stat = rustix::fs::fstat(&there).map_err(|error| said(error.into()))?;
        let is_socket = rustix::fs::FileType::from_raw_mode(stat.st_mode).is_socket();
        if is_socket && !RUN.iter().any(|open| Path::new(open) == path) {
            continue;
        }
        if rustix::fs::FileType::from_raw_mode(stat.st_mode).is_dir() {
            std::fs::create_dir_all(path).map_err(said)?;
        } else if !path.exists() {
            std::fs::create_dir_all(path.parent().unwrap_or(run)).map_err(said)?;
            File::create(path).map_err(said)?;
        }
        let hand = format!("/proc/self/fd/{}", there.as_raw_fd());
        rustix::mount::mount_bind_recursive(&*hand, path).map_err(|error| said(error.into()))?;
    }
    if spec.writes_all {
        return Ok(());
    }
    let flags = MountFlags::BIND | MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    rustix::mount::mount_remount(run, flags, c"").map_err(|error| format!("/run: {error}"))
}

/// A mount, as the kernel tells it.
struct Mount {
    /// The file system's device, `8:1`.
    device: String,
    /// What of the file system is mounted.
    root: PathBuf,
    /// Where.
    place: PathBuf,
    options: String,
}

/// All mounts of this process, in the order in which they were made.
fn mounts() -> Result<Vec<Mount>, String> {
    let text = std::fs::read("/proc/self/mountinfo").map_err(|error| error.to_string())?;
    let mount = |line: &[u8]| {
        let mut fields = line.split(|byte| *byte == b' ').skip(2);
        let (device, root, place, options) = (fields.next()?, fields.next()?, fields.next()?, fields.next()?);
        let path = |field: &[u8]| PathBuf::from(OsString::from_vec(unescaped(field)));
        let text = |field: &[u8]| String::from_utf8_lossy(field).into_owned();
        Some(Mount { device: text(device), root: path(root), place: path(place), options: text(options) })
    };
    let lines = text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    lines.map(|line| mount(line).ok_or_else(|| format!("not understood: {}", String::from_utf8_lossy(line)))).collect()
}

/// A path as in the kernel's lists: blanks and the like stand there as `\040`.
fn unescaped(field: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, after)) = rest.split_first() {
        let octal = after.get(..3).filter(|_| *first == b'\\').and_then(|digits| std::str::from_utf8(digits).ok());
        match octal.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) => {
                out.push(byte);
                rest = after.get(3..).unwrap_or_default();
            }
            None => {
                out.push(*first);
                rest = after;
            }
        }
    }
    out
}

/// Every place where a folder, or a part of it, can be seen: a file system may
/// be mounted more than once.
fn everywhere(folder: &Path, mounts: &[Mount]) -> Vec<PathBuf> {
    let mut places = vec![folder.to_owned()];
    let above = mounts.iter().filter(|mount| folder.starts_with(&mount.place));
    let Some(own) = above.max_by_key(|mount| mount.place.components().count()) else { return places };
    let Ok(below) = folder.strip_prefix(&own.place) else { return places };
    let inside = own.root.join(below);
    for mount in mounts.iter().filter(|mount| mount.device == own.device) {
        if let Ok(below) = inside.strip_prefix(&mount.root) {
            places.push(mount.place.join(below));
        } else if mount.root.starts_with(&inside) && !mount.place.starts_with(folder) {
            places.push(mount.place.clone());
        }
    }
    places.sort();
    places.dedup();
    places
}

/// Whether a mount stays as it is.
fn stays_writable(spec: &Spec, place: &Path) -> bool {
    // The kernel's own switches are nobody's, whatever the script may write.
    let switches = ["/sys", "/proc"].iter().any(|folder| place.starts_with(folder));
    !switches && (spec.writes_all || spec.writes.iter().any(|path| place.starts_with(path)))
}

/// Everything that is mounted becomes read-only, but for what may be written.
fn read_only(spec: &Spec) -> Result<(), String> {
    for Mount { place, options, .. } in mounts()? {
        if stays_writable(spec, &place) || options.split(',').any(|option| option == "ro") {
            continue;
        }
        let mut flags = MountFlags::BIND | MountFlags::RDONLY;
        for (word, flag) in [
            ("nosuid", MountFlags::NOSUID),
            ("nodev", MountFlags::NODEV),
            ("noexec", MountFlags::NOEXEC),
            ("noatime", MountFlags::NOATIME),
            ("nodiratime", MountFlags::NODIRATIME),
            ("relatime", MountFlags::RELATIME),
        ] {
            if options.split(',').any(|option| option == word) {
                flags |= flag;
            }
        }
        match rustix::mount::mount_remount(&place, flags, c"") {
            // Covered by another mount, or gone: it cannot be reached either.
            Ok(()) | Err(rustix::io::Errno::NOENT | rustix::io::Errno::INVAL) => {}
            Err(error) => return Err(format!("making {} read-only: {error}", place.display())),
        }
    }
    Ok(())
}

/// What no script needs: with these a cage could be opened from inside, the
/// kernel changed, or the computer stopped.
const NEVER: [CapabilitySet; 15] = [
    // Whoever runs before all others is not stopped in time.
    CapabilitySet::SYS_NICE,
    // open_by_handle_at would reach the whole file system around every mount.
    CapabilitySet::DAC_READ_SEARCH,
    CapabilitySet::SYS_ADMIN,
    CapabilitySet::SYS_MODULE,
    CapabilitySet::SYS_RAWIO,
    CapabilitySet::SYS_BOOT,
    CapabilitySet::SYS_PTRACE,
    CapabilitySet::SYS_RESOURCE,
    CapabilitySet::MKNOD,
    CapabilitySet::MAC_ADMIN,
    CapabilitySet::MAC_OVERRIDE,
    CapabilitySet::SYSLOG,
    CapabilitySet::BPF,
    CapabilitySet::PERFMON,
    CapabilitySet::SETPCAP,
];

/// What a script that only looks does not need besides.
const LOOKING: [CapabilitySet; 9] = [
    CapabilitySet::NET_ADMIN,
    CapabilitySet::NET_RAW,
    CapabilitySet::SYS_TIME,
    CapabilitySet::SYS_TTY_CONFIG,
    CapabilitySet::SYS_PACCT,
    CapabilitySet::AUDIT_CONTROL,
    CapabilitySet::LINUX_IMMUTABLE,
    CapabilitySet::WAKE_ALARM,
    CapabilitySet::BLOCK_SUSPEND,
];

fn bounds(spec: &Spec) -> Result<(), String> {
    let both = |most: u64| Rlimit { current: Some(most), maximum: Some(most) };
    let memory = u64::from(spec.memory_mib) << 20;
    for (resource, most) in [(Resource::Data, memory), (Resource::Core, 0), (Resource::Nofile, 1024)] {
        rustix::process::setrlimit(resource, both(most)).map_err(|error| format!("limits: {error}"))?;
    }
    rustix::thread::set_no_new_privs(true).map_err(|error| error.to_string())?;
    let clock = (!spec.clock).then_some(CapabilitySet::SYS_TIME);
    let looks = LOOKING.into_iter().filter(|_| spec.looks);
    for capability in clock.into_iter().chain(looks).chain(NEVER) {
        match rustix::thread::remove_capability_from_bounding_set(capability) {
            // One that this kernel does not know, nobody has.
            Ok(()) | Err(rustix::io::Errno::INVAL) => {}
            Err(error) => return Err(format!("giving up rights: {error}")),
        }
    }
    Ok(())
}

fn run(spec: &Spec) -> Result<Told, String> {
    // Whoever loses its parent stays in the family.
    rustix::process::set_child_subreaper(Some(rustix::process::getpid())).map_err(|error| error.to_string())?;
    let script = format!("/proc/self/fd/{}", spec.script);
    keep_to_itself(Some(spec.script)).map_err(|error| format!("closing what it does not need: {error}"))?;
    refuse_calls()?;
    // What it signals to its whole group is not meant for us.
    let child = Command::new(&spec.interpreter).arg(script).process_group(0).spawn();
    let child = child.map_err(|error| format!("{}: {error}", spec.interpreter))?;
    // Nobody else holds an end of these pipes for longer than the script does.
    drop_standard_streams();
    loop {
        // Number one also buries those whose parents have gone.
        match rustix::process::wait(WaitOptions::empty()) {
            Ok(Some((pid, status))) if pid.as_raw_pid().cast_unsigned() == child.id() => return Ok(ended(status)),
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

/// What the kernel answers nobody in there: its keyrings, which are shared by
/// all of one account; and ways around mounts and other processes, once more
/// beside the rights that are given up.
const FORBIDDEN: [libc::c_long; 22] = [
    libc::SYS_add_key,
    libc::SYS_keyctl,
    libc::SYS_request_key,
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_open_by_handle_at,
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_move_mount,
    libc::SYS_open_tree,
    libc::SYS_fsopen,
    libc::SYS_mount_setattr,
    libc::SYS_setns,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_kexec_load,
    libc::SYS_reboot,
];

/// What is not there: memory that nobody counts, and a way past this filter.
const ABSENT: [libc::c_long; 3] = [libc::SYS_memfd_create, libc::SYS_memfd_secret, libc::SYS_io_uring_setup];

/// Lets the kernel answer these calls with a no, here and in all that is
/// started from here.
fn refuse_calls() -> Result<(), String> {
    refuse(&FORBIDDEN, libc::EPERM)?;
    refuse(&ABSENT, libc::ENOSYS)
}

fn refuse(calls: &[libc::c_long], answer: libc::c_int) -> Result<(), String> {
    use seccompiler::{BackendError, BpfProgram, SeccompAction, SeccompFilter};
    let said = |error: &dyn std::fmt::Display| format!("refusing calls: {error}");
    let rules = calls.iter().map(|call| (*call, Vec::new())).collect();
    let answer = SeccompAction::Errno(answer.unsigned_abs());
    let here = std::env::consts::ARCH.try_into().map_err(|error: BackendError| said(&error))?;
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, answer, here).map_err(|error| said(&error))?;
    let program: BpfProgram = filter.try_into().map_err(|error: BackendError| said(&error))?;
    seccompiler::apply_filter(&program).map_err(|error| said(&error))
}

fn ended(status: WaitStatus) -> Told {
    match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => Told::Exit(code),
        (None, Some(signal)) => Told::Signal(signal),
        (None, None) => Told::Signal(0),
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

/// The command that starts the outer program with `spec`.
pub(super) fn command(spec: &Spec, before: Vec<String>) -> std::io::Result<Command> {
    let text = serde_json::to_string(spec)?;
    let program = std::env::current_exe()?;
    let mut words = before.into_iter().map(std::ffi::OsString::from).chain([program.into()]);
    let first = words.next().unwrap_or_default();
    let mut command = Command::new(first);
    command.args(words).arg(OUTER).arg(text).env_clear().current_dir("/").stdin(Stdio::piped());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    Ok(command)
}

/// Lets children have a descriptor.
pub(super) fn inherited(file: &impl AsFd) -> std::io::Result<()> {
    Ok(rustix::io::fcntl_setfd(file, rustix::io::FdFlags::empty())?)
}

/// Whether a script of this privilege, or its dry run, writes anywhere at all.
pub(super) fn may_write(privilege: Privilege, dry_run: bool) -> bool {
    !dry_run && privilege != Privilege::Read
}
