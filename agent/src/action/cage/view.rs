//! What a script sees of the computer: a world that is read-only but for what it
//! may write, without the agent's folder, without disks, and without the sockets
//! of services that it does not say it speaks to.

use super::{FOLDER, MACHINE_PROC, Spec};
use crate::collect::mounts::{self, Mount};
use fernwart_protocol::text::Text;
use rustix::fs::Mode;
use rustix::mount::{MountFlags, MountPropagationFlags};
use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// Its own folder for passing things, in memory.
const PRIVATE: [&str; 2] = ["/tmp", "/var/tmp"];

/// Makes it, and goes to the script's folder. The mounts that it does not have.
pub(super) fn make(spec: &Spec) -> Result<Vec<String>, String> {
    let said = |what: &str| {
        let what = what.to_owned();
        move |error: rustix::io::Errno| format!("{what}: {error}")
    };
    // What is made in here is for whoever the script becomes.
    rustix::process::umask(Mode::from_raw_mode(0o022));
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    rustix::mount::mount_change("/", private).map_err(said("keeping mounts to itself"))?;
    // First of all: whoever looks at a path below one of these may wait for ever.
    let mut unseen = Vec::new();
    let before = if spec.detach.is_empty() { Vec::new() } else { mounts()? };
    for place in &spec.detach {
        let place = Path::new(OsStr::from_bytes(place));
        // One may lie on another that is as deaf.
        let layers = before.iter().filter(|mount| mount.path == place && mount.is_remote()).count().max(1);
        for _ in 0..layers {
            detach(place).map_err(|error| format!("leaving out {}: {error}", place.display()))?;
        }
        unseen.push(text_of(place));
    }
    let mounts = mounts()?;
    let hidden: Vec<PathBuf> = spec.hide.iter().flat_map(|folder| everywhere(folder, &mounts)).collect();
    // What may be written becomes a mount of its own, which stays writable; so does what
    // no link may lead out of.
    for path in spec.writes.iter().chain(&spec.unlinked).filter(|path| Path::new(path).exists()) {
        rustix::mount::mount_bind_recursive(path, path).map_err(said(path))?;
    }
    read_only(spec, &mut unseen)?;
    if !spec.services {
        silence_sockets(spec)?;
    }
    let plain = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    // Taken in hand before it is covered: the kernel tells there of all locks and
    // processes, and keeps what they hold from whoever lacks their rights.
    let machine_proc = match spec.sees_processes && spec.own_processes {
        true => {
            let flags = rustix::fs::OFlags::PATH | rustix::fs::OFlags::CLOEXEC;
            Some(rustix::fs::open("/proc", flags, Mode::empty()).map_err(said("/proc"))?)
        }
        false => None,
    };
    // Its own processes only; and no switch of the kernel can be turned there.
    if spec.own_processes {
        rustix::mount::mount("proc", "/proc", "proc", plain | MountFlags::RDONLY, c"").map_err(said("/proc"))?;
    }
    if !spec.writes_all {
        private_devices()?;
    }
    for folder in PRIVATE.iter().filter(|folder| Path::new(folder).is_dir()) {
        // What has a name costs the kernel a kilobyte, however empty it is.
        let size = format!("mode=1777,size={}m,nr_inodes={NAMES}", crate::action::watch::folder_mib(spec.memory_mib));
        let size = std::ffi::CString::new(size);
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
    if let Some(machine_proc) = machine_proc {
        std::fs::create_dir(MACHINE_PROC).map_err(|error| format!("{MACHINE_PROC}: {error}"))?;
        let hand = format!("/proc/self/fd/{}", machine_proc.as_raw_fd());
        rustix::mount::mount_bind(&*hand, MACHINE_PROC).map_err(said(MACHINE_PROC))?;
        let flags = MountFlags::BIND | plain | MountFlags::RDONLY;
        rustix::mount::mount_remount(MACHINE_PROC, flags, c"").map_err(said(MACHINE_PROC))?;
    }
    for (name, fd) in &spec.files {
        let copied = std::fs::copy(format!("/proc/self/fd/{fd}"), Path::new(FOLDER).join(name));
        copied.map_err(|error| format!("{name}: {error}"))?;
    }
    std::env::set_current_dir(FOLDER).map_err(|error| format!("{FOLDER}: {error}"))?;
    let more = unseen.len().saturating_sub(NAMED);
    if more > 0 {
        unseen.truncate(NAMED);
        unseen.push(format!("{more} more"));
    }
    Ok(unseen)
}

/// Files and folders that a script may make in memory.
const NAMES: u32 = 8192;

/// Mounts that are named at most: any user may make many.
const NAMED: usize = 16;

fn text_of(place: &Path) -> String {
    let text = crate::collect::shown(place.as_os_str().as_encoded_bytes());
    Text::<200>::clipped(&text).as_raw().to_owned()
}

/// Takes a mount, and what is mounted in it, out of this view. The kernel goes to
/// where it is mounted and asks nobody behind it.
fn detach(place: &Path) -> rustix::io::Result<()> {
    let flags = rustix::mount::UnmountFlags::DETACH | rustix::mount::UnmountFlags::NOFOLLOW;
    match rustix::mount::unmount(place, flags) {
        // Gone meanwhile, or covered: it cannot be reached.
        Ok(()) | Err(rustix::io::Errno::NOENT | rustix::io::Errno::INVAL) => Ok(()),
        Err(error) => Err(error),
    }
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

/// All mounts of this process, in the order in which they were made.
fn mounts() -> Result<Vec<Mount>, String> {
    let said = |error: std::io::Error| format!("the kernel's list of mounts: {error}");
    let table = std::fs::read("/proc/self/mountinfo").map_err(said)?;
    let mounts = mounts::parse(&table);
    // One that is not understood would stay writable.
    let lines = table.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).count();
    if lines == mounts.len() { Ok(mounts) } else { Err("the kernel's list of mounts is not understood".to_owned()) }
}

/// Every place where a folder, or a part of it, can be seen: a file system may
/// be mounted more than once.
fn everywhere(folder: &Path, mounts: &[Mount]) -> Vec<PathBuf> {
    let mut places = vec![folder.to_owned()];
    let above = mounts.iter().filter(|mount| folder.starts_with(&mount.path));
    let Some(own) = above.max_by_key(|mount| mount.path.components().count()) else { return places };
    let Ok(below) = folder.strip_prefix(&own.path) else { return places };
    let inside = own.root().join(below);
    for mount in mounts.iter().filter(|mount| mount.number == own.number) {
        if let Ok(below) = inside.strip_prefix(mount.root()) {
            places.push(mount.path.join(below));
        } else if mount.root().starts_with(&inside) && !mount.path.starts_with(folder) {
            places.push(mount.path.clone());
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

/// Everything that is mounted becomes read-only, but for what may be written, and holds
/// no devices and gives nobody another's rights: a device may lie anywhere, and a
/// read-only mount keeps nobody from reading a disk through it. What cannot be made so
/// is taken out of the view, and named.
fn read_only(spec: &Spec, unseen: &mut Vec<String>) -> Result<(), String> {
    let mut gone: Vec<PathBuf> = Vec::new();
    for Mount { path, options, .. } in mounts()? {
        let has = |word: &str| options.split(',').any(|option| option == word);
        let is_gone = gone.iter().any(|place| path.starts_with(place));
        // What lies there is taken away later, but for scripts that may do all.
        let has_devices = path.starts_with("/dev");
        let mut flags = MountFlags::BIND | MountFlags::NOSUID;
        if has("ro") || !stays_writable(spec, &path) {
            flags |= MountFlags::RDONLY;
        }
        if !has_devices || has("nodev") {
            flags |= MountFlags::NODEV;
        }
        // Kernels before 5.10 pass over it.
        let is_unlinked = spec.writes.iter().chain(&spec.unlinked).any(|one| path.starts_with(one));
        if is_unlinked {
            flags |= MountFlags::NOSYMFOLLOW;
        }
        let is_so = !is_unlinked
            && has("nosuid")
            && has("ro") == flags.contains(MountFlags::RDONLY)
            && (has_devices || has("nodev"));
        if is_gone || is_so {
            continue;
        }
        for (word, flag) in [
            ("noexec", MountFlags::NOEXEC),
            ("noatime", MountFlags::NOATIME),
            ("nodiratime", MountFlags::NODIRATIME),
            ("relatime", MountFlags::RELATIME),
        ] {
            if has(word) {
                flags |= flag;
            }
        }
        match rustix::mount::mount_remount(&path, flags, c"") {
            // Covered by another mount, or gone: it cannot be reached either.
            Ok(()) | Err(rustix::io::Errno::NOENT | rustix::io::Errno::INVAL) => {}
            Err(error) => {
                let why = |what: rustix::io::Errno| {
                    format!("making {} read-only: {error}; leaving it out: {what}", path.display())
                };
                // What may be written lies in it, or it is the world itself.
                let is_needed =
                    path == Path::new("/") || spec.writes.iter().any(|one| Path::new(one).starts_with(&path));
                if is_needed {
                    return Err(format!("making {} read-only: {error}", path.display()));
                }
                detach(&path).map_err(why)?;
                unseen.push(text_of(&path));
                gone.push(path);
            }
        }
    }
    Ok(())
}
