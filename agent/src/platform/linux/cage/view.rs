//! What a script sees of the computer: read-only mounts, except what it may write; without the
//! agent's folder, without disks, and without the sockets of services, unless it declares that it
//! uses them.

use super::{FOLDER, MACHINE_PROC, Spec};
use crate::platform::linux::facts::mounts::{self, Mount};
use fernwart_protocol::text::Text;
use rustix::fs::Mode;
use rustix::mount::{MountFlags, MountPropagationFlags};
use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// The script's private folders, in memory.
const PRIVATE: [&str; 2] = ["/tmp", "/var/tmp"];

/// Flags of mounts on which nothing can be run.
const PLAIN: MountFlags = MountFlags::NOSUID.union(MountFlags::NODEV).union(MountFlags::NOEXEC);

/// Builds the view and enters the script's folder. Returns the mounts that the script does not
/// see.
pub(crate) fn make(spec: &Spec) -> Result<Vec<String>, String> {
    // Files created here must be readable by the account that the script runs as.
    rustix::process::umask(Mode::from_raw_mode(0o022));
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    rustix::mount::mount_change("/", private).map_err(failed("keeping mounts to itself"))?;
    // Done first: access to any path below such a mount may hang.
    let mut unseen = detach_all(spec)?;
    let mounts = mounts()?;
    let hidden: Vec<PathBuf> = spec.hide.iter().flat_map(|folder| everywhere(folder, &mounts)).collect();
    // Writable paths become mounts of their own, which stay writable. So do paths that no link
    // may lead out of.
    for path in spec.writes.iter().chain(&spec.unlinked).filter(|path| Path::new(path).exists()) {
        rustix::mount::mount_bind_recursive(path, path).map_err(failed(path))?;
    }
    read_only(spec, &mut unseen)?;
    if !spec.services {
        silence_sockets(spec)?;
    }
    let machine_proc = own_proc(spec)?;
    if !spec.writes_all {
        private_devices()?;
    }
    private_folders(spec)?;
    // A folder below a private folder is hidden already.
    hidden.iter().try_for_each(|place| hide(place))?;
    own_folder(spec, machine_proc)?;
    let more = unseen.len().saturating_sub(NAMED);
    if more > 0 {
        unseen.truncate(NAMED);
        unseen.push(format!("{more} more"));
    }
    Ok(unseen)
}

/// What a system call failed at.
fn failed(what: &str) -> impl Fn(rustix::io::Errno) -> String + use<> {
    let what = what.to_owned();
    move |error| format!("{what}: {error}")
}

/// Detaches mounts that hang. Their paths.
fn detach_all(spec: &Spec) -> Result<Vec<String>, String> {
    let before = if spec.detach.is_empty() { Vec::new() } else { mounts()? };
    let mut unseen = Vec::new();
    for place in &spec.detach {
        let place = Path::new(OsStr::from_bytes(place));
        // Several mounts that hang may be stacked on one path.
        let layers = before.iter().filter(|mount| mount.path == place && mount.is_remote()).count().max(1);
        for _ in 0..layers {
            detach(place).map_err(|error| format!("leaving out {}: {error}", place.display()))?;
        }
        unseen.push(text_of(place));
    }
    Ok(unseen)
}

/// Mounts a `/proc` that shows only the script's own processes, and in which no kernel setting
/// can be changed. The machine's own, if the script needs it, opened before it is covered: it
/// shows all locks and processes, and the kernel still checks the script's rights.
fn own_proc(spec: &Spec) -> Result<Option<OwnedFd>, String> {
    if !spec.own_processes {
        return Ok(None);
    }
    let machine_proc = match spec.sees_processes {
        true => {
            let flags = rustix::fs::OFlags::PATH | rustix::fs::OFlags::CLOEXEC;
            Some(rustix::fs::open("/proc", flags, Mode::empty()).map_err(failed("/proc"))?)
        }
        false => None,
    };
    rustix::mount::mount("proc", "/proc", "proc", PLAIN | MountFlags::RDONLY, c"").map_err(failed("/proc"))?;
    Ok(machine_proc)
}

/// Gives the script temporary folders of its own.
fn private_folders(spec: &Spec) -> Result<(), String> {
    for folder in PRIVATE.iter().filter(|folder| Path::new(folder).is_dir()) {
        // Every file name costs the kernel about a kilobyte, even if the file is empty.
        let size = format!("mode=1777,size={}m,nr_inodes={NAMES}", crate::platform::watch::folder_mib(spec.memory_mib));
        let size = std::ffi::CString::new(size).map_err(|error| error.to_string())?;
        let flags = MountFlags::NOSUID | MountFlags::NODEV;
        rustix::mount::mount("tmpfs", *folder, "tmpfs", flags, size.as_c_str()).map_err(failed(folder))?;
    }
    Ok(())
}

/// Covers a folder or file.
fn hide(place: &Path) -> Result<(), String> {
    let flags = PLAIN | MountFlags::RDONLY;
    match place.metadata() {
        Ok(there) if there.is_dir() => {
            rustix::mount::mount("tmpfs", place, "tmpfs", flags, c"mode=000,size=4k").map_err(failed("hiding"))
        }
        Ok(_) => rustix::mount::mount_bind("/dev/null", place).map_err(failed("hiding")),
        Err(_) => Ok(()),
    }
}

/// Makes the script's folder with its files, and enters it.
fn own_folder(spec: &Spec, machine_proc: Option<OwnedFd>) -> Result<(), String> {
    std::fs::create_dir(FOLDER).map_err(|error| format!("{FOLDER}: {error}"))?;
    if let Some(machine_proc) = machine_proc {
        std::fs::create_dir(MACHINE_PROC).map_err(|error| format!("{MACHINE_PROC}: {error}"))?;
        let hand = format!("/proc/self/fd/{}", machine_proc.as_raw_fd());
        rustix::mount::mount_bind(&*hand, MACHINE_PROC).map_err(failed(MACHINE_PROC))?;
        let flags = MountFlags::BIND | PLAIN | MountFlags::RDONLY;
        rustix::mount::mount_remount(MACHINE_PROC, flags, c"").map_err(failed(MACHINE_PROC))?;
    }
    for (name, fd) in &spec.files {
        let copied = std::fs::copy(format!("/proc/self/fd/{fd}"), Path::new(FOLDER).join(name));
        copied.map_err(|error| format!("{name}: {error}"))?;
    }
    std::env::set_current_dir(FOLDER).map_err(|error| format!("{FOLDER}: {error}"))
}

/// Maximum number of files and folders that a script may create in memory.
const NAMES: u32 = 8192;

/// Maximum number of mounts listed: any user may create many.
const NAMED: usize = 16;

fn text_of(place: &Path) -> String {
    let text = crate::collect::shown(place.as_os_str().as_encoded_bytes());
    Text::<200>::clipped(&text).as_raw().to_owned()
}

/// Detaches a mount and its submounts from this view. The kernel does not access the file system
/// behind it.
fn detach(place: &Path) -> rustix::io::Result<()> {
    let flags = rustix::mount::UnmountFlags::DETACH | rustix::mount::UnmountFlags::NOFOLLOW;
    match rustix::mount::unmount(place, flags) {
        // It is gone or covered, so it cannot be reached.
        Ok(()) | Err(rustix::io::Errno::NOENT | rustix::io::Errno::INVAL) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Harmless devices.
const DEVICES: [&str; 5] = ["null", "zero", "full", "random", "urandom"];

/// Replaces `/dev` by one without the computer's devices: a read-only mount does not prevent
/// writing to a disk's device.
fn private_devices() -> Result<(), String> {
    let failed = |error: std::io::Error| format!("/dev: {error}");
    let stage = Path::new("/dev/shm");
    let stage = if stage.is_dir() { stage } else { Path::new("/tmp") };
    let flags = MountFlags::NOSUID | MountFlags::NOEXEC;
    let errno = |error: rustix::io::Errno| failed(error.into());
    rustix::mount::mount("tmpfs", stage, "tmpfs", flags, c"mode=755,size=64k").map_err(errno)?;
    for name in DEVICES {
        let (from, to) = (Path::new("/dev").join(name), stage.join(name));
        if from.exists() {
            File::create(&to).map_err(failed)?;
            rustix::mount::mount_bind(&from, &to).map_err(errno)?;
        }
    }
    for (name, target) in [("fd", "/proc/self/fd"), ("stdin", "fd/0"), ("stdout", "fd/1"), ("stderr", "fd/2")] {
        std::os::unix::fs::symlink(target, stage.join(name)).map_err(failed)?;
    }
    std::fs::create_dir(stage.join("shm")).map_err(failed)?;
    rustix::mount::mount_bind_recursive(stage, "/dev").map_err(errno)?;
    rustix::mount::mount("tmpfs", "/dev/shm", "tmpfs", flags | MountFlags::NODEV, c"mode=1777,size=1m")
        .map_err(errno)?;
    let flags = MountFlags::BIND | MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NOEXEC;
    rustix::mount::mount_remount("/dev", flags, c"").map_err(errno)
}

/// What every script sees of `/run`: name lookup, logging, and information about the system.
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

/// Folders elsewhere with sockets that give full control of the computer.
const SOCKETS: [&str; 3] = ["/var/lib/lxd", "/var/snap/lxd/common/lxd", "/var/lib/incus"];

/// Sockets in folders with other content; a restarted service recreates them.
const SOCKET_FILES: [&str; 1] = ["/var/lib/mysql/mysql.sock"];

/// Hides the sockets of the system's services: a process that may talk to systemd can do what
/// systemd can. An allowlist is used, so that sockets created later stay hidden, too.
fn silence_sockets(spec: &Spec) -> Result<(), String> {
    let run = Path::new("/run");
    let own = spec
        .writes
        .iter()
        .map(String::as_str)
        .filter(|path| Path::new(path).starts_with(run) && Path::new(path) != run);
    // Opened before they are covered.
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
        let failed = |error: std::io::Error| format!("{}: {error}", path.display());
        let stat = rustix::fs::fstat(&there).map_err(|error| failed(error.into()))?;
        let is_socket = rustix::fs::FileType::from_raw_mode(stat.st_mode).is_socket();
        if is_socket && !RUN.iter().any(|open| Path::new(open) == path) {
            continue;
        }
        if rustix::fs::FileType::from_raw_mode(stat.st_mode).is_dir() {
            std::fs::create_dir_all(path).map_err(failed)?;
        } else if !path.exists() {
            std::fs::create_dir_all(path.parent().unwrap_or(run)).map_err(failed)?;
            File::create(path).map_err(failed)?;
        }
        let hand = format!("/proc/self/fd/{}", there.as_raw_fd());
        rustix::mount::mount_bind_recursive(&*hand, path).map_err(|error| failed(error.into()))?;
    }
    if spec.writes_all {
        return Ok(());
    }
    let flags = MountFlags::BIND | MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    rustix::mount::mount_remount(run, flags, c"").map_err(|error| format!("/run: {error}"))
}

/// All mounts of this process, in the order in which they were made.
fn mounts() -> Result<Vec<Mount>, String> {
    let failed = |error: std::io::Error| format!("the kernel's list of mounts: {error}");
    let table = std::fs::read("/proc/self/mountinfo").map_err(failed)?;
    let mounts = mounts::parse(&table);
    // A mount whose line cannot be parsed would stay writable.
    let lines = table.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).count();
    if lines == mounts.len() { Ok(mounts) } else { Err("the kernel's list of mounts is not understood".to_owned()) }
}

/// Every path at which a folder, or a part of it, is visible: a file system may be mounted more
/// than once.
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

/// Whether a mount stays writable.
fn stays_writable(spec: &Spec, place: &Path) -> bool {
    // Kernel settings are never writable, whatever the script may write.
    let switches = ["/sys", "/proc"].iter().any(|folder| place.starts_with(folder));
    !switches && (spec.writes_all || spec.writes.iter().any(|path| place.starts_with(path)))
}

/// Makes every mount read-only, except what may be written, without devices and without setuid: a
/// device file may lie anywhere, and a read-only mount does not prevent reading a disk through
/// it. A mount that cannot be changed is detached and listed.
fn read_only(spec: &Spec, unseen: &mut Vec<String>) -> Result<(), String> {
    let mut gone: Vec<PathBuf> = Vec::new();
    for Mount { path, options, .. } in mounts()? {
        let has = |word: &str| options.split(',').any(|option| option == word);
        let is_gone = gone.iter().any(|place| path.starts_with(place));
        // The content of `/dev` is replaced later, except for scripts that may write everything.
        let has_devices = path.starts_with("/dev");
        let mut flags = MountFlags::BIND | MountFlags::NOSUID;
        if has("ro") || !stays_writable(spec, &path) {
            flags |= MountFlags::RDONLY;
        }
        if !has_devices || has("nodev") {
            flags |= MountFlags::NODEV;
        }
        // Kernels before 5.10 ignore the flag.
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
            // Covered by another mount, or gone: it cannot be reached.
            Ok(()) | Err(rustix::io::Errno::NOENT | rustix::io::Errno::INVAL) => {}
            Err(error) => {
                let why = |what: rustix::io::Errno| {
                    format!("making {} read-only: {error}; leaving it out: {what}", path.display())
                };
                // It contains a writable path, or is the root.
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
