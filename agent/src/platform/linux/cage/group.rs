//! Control groups without systemd: version 2, or version 1 if its hierarchies have memory, pids
//! and cpu.
//!
//! | | version 2 | version 1 |
//! |---|---|---|
//! | folders of a run | one | one in each tree |
//! | where | below the root | below the agent's own group, whose limits apply, too |
//! | memory | `memory.max` | `memory.limit_in_bytes` |
//! | processes | `pids.max` | `pids.max` |
//! | processor | `cpu.max` | `cpu.cfs_quota_us` |
//! | kill all | `cgroup.kill` | forbid new processes, then kill each |

use fernwart_protocol::script::{Limits, Stopped};
use rustix::process::{Pid, Signal};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

const TREE: &str = "/sys/fs/cgroup";

/// The folder in each hierarchy that contains the groups of all runs.
const OURS: &str = "fernwart";

/// The controllers that are needed.
const CONTROLLERS: [&str; 3] = ["memory", "pids", "cpu"];

/// The period of a processor quota, microseconds.
const PERIOD_US: u64 = 100_000;

/// One hierarchy, and the controllers in it.
#[derive(Debug, PartialEq, Eq)]
struct Tree {
    /// Where [`OURS`] is.
    folder: PathBuf,
    holds: Holds,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Holds {
    /// Version 2: everything.
    All,
    /// Version 1: one of the [`CONTROLLERS`].
    One(&'static str),
}

/// Whether groups can be created here. This is tried out, since a container may show a hierarchy
/// in which nothing can be created.
pub(crate) fn is_there() -> bool {
    static TRIES: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
    let number = TRIES.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let limits = Limits { time_s: 1, memory_mib: 16, processes: 1, cpu_pct: None, output_mib: 1 };
    make(&format!("try-{}-{number}", std::process::id()), &limits).map(|groups| remove(&groups)).is_ok()
}

/// The possible folders of a run's groups.
pub(crate) fn paths(run: &str) -> Vec<PathBuf> {
    trees().into_iter().map(|tree| tree.folder.join(OURS).join(run)).collect()
}

fn trees() -> Vec<Tree> {
    let own = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let controllers = std::fs::read_to_string(Path::new(TREE).join("cgroup.controllers")).unwrap_or_default();
    if CONTROLLERS.iter().all(|wanted| controllers.split_whitespace().any(|one| one == *wanted)) {
        return vec![Tree { folder: TREE.into(), holds: Holds::All }];
    }
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let tree = |controller: &&'static str| {
        let folder = group_of(&mounts, &own, controller)?;
        Some(Tree { folder, holds: Holds::One(controller) })
    };
    let found: Vec<Tree> = CONTROLLERS.iter().filter_map(tree).collect();
    if found.len() == CONTROLLERS.len() { found } else { Vec::new() }
}

/// The agent's group in a version 1 hierarchy, or the hierarchy's root if that is not visible.
/// None if something else is mounted there.
fn group_of(mounts: &str, groups: &str, controller: &str) -> Option<PathBuf> {
    let root = mounted(mounts, controller)?;
    let folder = own_group(groups, controller).map(|group| root.join(group)).filter(|folder| folder.is_dir());
    let folder = folder.unwrap_or(root);
    // CGROUP_SUPER_MAGIC (statfs(2)).
    rustix::fs::statfs(&folder).is_ok_and(|stat| stat.f_type == 0x0027_e0eb).then_some(folder)
}

/// The control groups of a process in a systemd scope of this name; empty until the process is in
/// it.
pub(crate) fn of_scope(pid: u32, scope: &str) -> Vec<PathBuf> {
    let groups = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
    let unified = groups.lines().find_map(|line| line.strip_prefix("0::/")).map(|group| Path::new(TREE).join(group));
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let old = CONTROLLERS.iter().filter_map(|controller| group_of(&mounts, &groups, controller));
    unified.into_iter().chain(old).filter(|group| group.ends_with(scope)).collect()
}

/// Where a version 1 controller is mounted, from the lines of `mountinfo`.
fn mounted(mounts: &str, controller: &str) -> Option<PathBuf> {
    mounts.lines().find_map(|line| {
        let (place, kind) = line.split_once(" - ")?;
        let mut kind = kind.split(' ');
        let is_group = kind.next() == Some("cgroup");
        let holds = kind.nth(1)?.split(',').any(|option| option == controller);
        let path = place.split(' ').nth(4)?;
        // No hierarchy has a name that needs escaping.
        (is_group && holds && !path.contains('\\')).then(|| path.into())
    })
}

/// The agent's own group of a controller, from the lines of `/proc/self/cgroup`.
fn own_group<'a>(own: &'a str, controller: &str) -> Option<&'a str> {
    own.lines().find_map(|line| {
        let mut parts = line.splitn(3, ':').skip(1);
        let holds = parts.next()?.split(',').any(|one| one == controller);
        let group = parts.next()?.trim_start_matches('/');
        (holds && !group.split('/').any(|part| part == "..")).then_some(group)
    })
}

/// Creates a run's groups: one folder in each hierarchy.
///
/// # Errors
/// When a folder cannot be created or a limit cannot be set; then nothing is left behind.
pub(crate) fn make(run: &str, limits: &Limits) -> io::Result<Vec<PathBuf>> {
    let trees = trees();
    if trees.is_empty() {
        return Err(io::Error::from(io::ErrorKind::NotFound));
    }
    let mut made = Vec::new();
    for tree in &trees {
        let ours = tree.folder.join(OURS);
        let path = ours.join(run);
        let place = || {
            std::fs::create_dir_all(&ours)?;
            if tree.holds == Holds::All {
                pass_on(&tree.folder, &ours)?;
            }
            std::fs::create_dir(&path)
        };
        let done = place()
            // Another run that has just ended may have removed the folder.
            .or_else(|error| if error.kind() == io::ErrorKind::NotFound { place() } else { Err(error) })
            .and_then(|()| {
                made.push(path.clone());
                tree.holds.set(&path, limits)
            });
        if let Err(error) = done {
            remove(&made);
            return Err(error);
        }
    }
    Ok(made)
}

/// Enables the controllers for the groups below.
fn pass_on(root: &Path, ours: &Path) -> io::Result<()> {
    for folder in [root, ours] {
        std::fs::write(folder.join("cgroup.subtree_control"), "+memory +pids +cpu")?;
    }
    Ok(())
}

impl Holds {
    fn set(self, path: &Path, limits: &Limits) -> io::Result<()> {
        let memory = (u64::from(limits.memory_mib) << 20).to_string();
        let processes = (limits.processes + 2).to_string();
        let quota = limits.cpu_pct.map(|pct| u64::from(pct) * (PERIOD_US / 100));
        let write = |file: &str, value: &str| {
            // A missing file is not created: it would limit nothing.
            std::fs::OpenOptions::new().write(true).open(path.join(file))?.write_all(value.as_bytes())
        };
        match self {
            Self::All => {
                write("memory.max", &memory)?;
                // The file does not exist on kernels without swap.
                let _ = write("memory.swap.max", "0");
                write("pids.max", &processes)?;
                quota.map_or(Ok(()), |quota| write("cpu.max", &format!("{quota} {PERIOD_US}")))
            }
            Self::One("memory") => {
                write("memory.limit_in_bytes", &memory)?;
                // The file exists only if the kernel was told to count swap.
                let _ = write("memory.memsw.limit_in_bytes", &memory);
                // The kernel kills a process that exceeds the limit and counts that; the agent
                // then stops the run. A kernel before 4.13 does not count, so the process is made
                // to wait instead. That is worse: a system call that fails for lack of memory
                // does not wait, and such a run appears to have succeeded.
                let control = std::fs::read_to_string(path.join("memory.oom_control")).unwrap_or_default();
                if !control.lines().any(|line| line.starts_with("oom_kill ")) {
                    let _ = write("memory.oom_control", "1");
                }
                Ok(())
            }
            Self::One("pids") => write("pids.max", &processes),
            Self::One(_) => {
                write("cpu.cfs_period_us", &PERIOD_US.to_string())?;
                match quota.map_or(Ok(()), |quota| write("cpu.cfs_quota_us", &quota.to_string())) {
                    // A group above has a tighter limit already.
                    Err(error) if error.kind() == io::ErrorKind::InvalidInput => Ok(()),
                    written => written,
                }
            }
        }
    }
}

/// Which limit the run's groups enforced, if any. For memory the kernel kills a process or
/// (version 1) makes it wait; for processes it refuses to create one.
pub(crate) fn refused(paths: &[PathBuf]) -> Option<Stopped> {
    let count = |file: &str, name: &str| {
        let text = paths.iter().find_map(|path| std::fs::read_to_string(path.join(file)).ok())?;
        text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<u64>().ok())
    };
    let happened = |file, name| count(file, name).is_some_and(|times| times > 0);
    let control = "memory.oom_control";
    if happened("memory.events", "oom_kill ") || happened(control, "under_oom ") || happened(control, "oom_kill ") {
        return Some(Stopped::Memory);
    }
    happened("pids.events", "max ").then_some(Stopped::Processes)
}

/// Kills all processes in these groups and removes the groups.
pub(crate) fn remove(paths: &[PathBuf]) {
    for path in paths {
        let killed = std::fs::write(path.join("cgroup.kill"), "1").is_ok();
        // Forbid new processes, so that the list is complete.
        let _ = std::fs::write(path.join("pids.max"), "0");
        for _ in 0..50 {
            if !killed {
                kill_each(path);
            }
            match std::fs::remove_dir(path) {
                Err(error) if error.kind() == io::ErrorKind::ResourceBusy => {
                    std::thread::sleep(Duration::from_millis(10));
                }
                _ => break,
            }
        }
        // Fails if another run's group is still in there.
        let _ = path.parent().map(std::fs::remove_dir);
    }
}

fn kill_each(group: &Path) {
    let members = std::fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
    let members = members.lines().filter_map(|line| Pid::from_raw(line.parse().ok()?));
    for pid in members.filter(|pid| *pid != rustix::process::getpid()) {
        // The process may have ended by itself.
        let _ = rustix::process::kill_process(pid, Signal::KILL);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_controllers_mount_and_the_agents_own_group_are_found() {
        let mounts = "29 23 0:25 / /sys/fs/cgroup ro,nosuid - tmpfs tmpfs ro,mode=755\n\
             30 29 0:26 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n\
             33 29 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:15 - cgroup cgroup rw,cpu,cpuacct\n\
             34 29 0:30 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n\
             35 29 0:31 / /mnt/with\\040space rw - cgroup cgroup rw,pids\n";
        assert_eq!(mounted(mounts, "cpu").as_deref(), Some(Path::new("/sys/fs/cgroup/cpu,cpuacct")));
        assert_eq!(mounted(mounts, "memory").as_deref(), Some(Path::new("/sys/fs/cgroup/memory")));
        assert_eq!(mounted(mounts, "pids"), None, "a name that nobody gives");
        assert_eq!(mounted(mounts, "cpuset"), None);
        let own = "4:cpu,cpuacct:/user.slice\n3:memory:/\n2:pids:/../../elsewhere\n0::/init.scope\n";
        assert_eq!(own_group(own, "cpu"), Some("user.slice"));
        assert_eq!(own_group(own, "memory"), Some(""));
        assert_eq!(own_group(own, "pids"), None, "outside of what is seen here");
        assert_eq!(own_group(own, "freezer"), None);
    }

    /// Skipped on a computer where groups cannot be created, except in CI.
    #[test]
    fn memory_refused_inside_a_system_call_is_detected() {
        let run = format!("fernwart-test-{}", std::process::id());
        let limits = Limits { time_s: 20, memory_mib: 64, processes: 32, cpu_pct: None, output_mib: 1 };
        let made = match make(&run, &limits) {
            Ok(made) => made,
            Err(error) => {
                assert!(std::env::var_os("CI").is_none(), "no control groups can be made here: {error}");
                return println!("skipped: no control groups can be made here: {error}");
            }
        };
        assert_eq!(refused(&made), None, "nothing has happened yet");
        let doors: Vec<String> = made.iter().map(|path| path.join("cgroup.procs").display().to_string()).collect();
        // The kernel itself touches the memory first, in read(2).
        let line = "for door in \"$@\"; do echo $$ > \"$door\"; done; dd if=/dev/zero of=/dev/null bs=200M count=1";
        let mut dd = std::process::Command::new("timeout");
        dd.args(["-s", "KILL", "10", "sh", "-c", line, "sh"]).args(&doors).stderr(std::process::Stdio::null());
        let _ = dd.status().expect("sh");
        let refused = refused(&made);
        remove(&made);
        assert_eq!(refused, Some(Stopped::Memory));
    }
}
