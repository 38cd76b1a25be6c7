//! Processes that use much processor or memory, measured over a short time.

use super::mounts;
use crate::collect::bytes::{clipped, read_bytes, shown};
use crate::collect::{budget, locked, missing, pct, read};
use fernwart_protocol::diagnosis::facts::{LIST, Process, Processes};
use fernwart_protocol::diagnosis::{Cause, Reason};
use std::collections::{BTreeMap, HashMap};
use std::os::unix::fs::MetadataExt;
use std::sync::Mutex;
use std::time::{Duration, Instant, SystemTime};

const WATCH: Duration = Duration::from_millis(250);
const TOP: usize = 8;

/// Clock ticks per second in /proc (proc_pid_stat(5)); 100 on every Linux.
const TICKS: f64 = 100.0;

struct Sample {
    name: String,
    state: char,
    ticks: u64,
    pages: u64,
    started: u64,
    is_kernels: bool,
}

fn sample() -> HashMap<u32, Sample> {
    let Ok(entries) = std::fs::read_dir("/proc") else { return HashMap::new() };
    let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.filter_map(|pid| Some((pid, parse(&read_bytes(format!("/proc/{pid}/stat")).ok()?)?))).collect()
}

/// Parses /proc/PID/stat; the name is in brackets and may contain any bytes.
fn parse(stat: &[u8]) -> Option<Sample> {
    let begins = memchr::memchr(b'(', stat)?;
    let ends = memchr::memrchr(b')', stat)?;
    let name = shown(stat.get(begins + 1..ends)?);
    let tail = std::str::from_utf8(stat.get(ends + 1..)?).ok()?;
    let fields: Vec<&str> = tail.split_whitespace().collect();
    let number = |index: usize| fields.get(index).and_then(|field| field.parse::<u64>().ok()).unwrap_or_default();
    // PF_KTHREAD
    let is_kernels = number(6) & 0x0020_0000 != 0;
    let state = fields.first()?.chars().next()?;
    Some(Sample { name, state, ticks: number(11) + number(12), pages: number(21), started: number(19), is_kernels })
}

pub(super) fn facts(until: Instant) -> Result<Processes, Cause> {
    let begun = Instant::now();
    let before = sample();
    std::thread::sleep(WATCH);
    let now = sample();
    let passed = begun.elapsed().as_secs_f64();
    if now.is_empty() {
        return Err(Cause::new(Reason::Unreadable, "/proc"));
    }
    let page = rustix::param::page_size() as u64;
    let total = read("/proc/meminfo")
        .and_then(|text| text.lines().next()?.split_whitespace().nth(1)?.parse::<f64>().ok())
        .unwrap_or_default()
        * 1024.0;
    let mut all: Vec<Process> = now
        .iter()
        .map(|(pid, sample)| {
            // A reused pid belongs to another process.
            let earlier = before.get(pid).filter(|earlier| earlier.started == sample.started);
            let used = earlier.map_or(0, |earlier| sample.ticks.saturating_sub(earlier.ticks));
            let memory = sample.pages.saturating_mul(page);
            Process {
                pid: *pid,
                name: clipped(&sample.name),
                cpu_pct: pct(used as f64 / TICKS, passed),
                memory_bytes: memory,
                memory_pct: pct(memory as f64, total),
            }
        })
        .collect();
    let top = |all: &[Process]| all.iter().take(TOP).cloned().collect::<Vec<_>>();
    all.sort_by(|a, b| b.cpu_pct.total_cmp(&a.cpu_pct).then(a.pid.cmp(&b.pid)));
    let mut top_cpu = top(&all);
    top_cpu.retain(|process| process.cpu_pct > 0.0);
    all.sort_by_key(|process| std::cmp::Reverse(process.memory_bytes));
    let in_state = |state: char| u32::try_from(now.values().filter(|sample| sample.state == state).count()).ok();
    let mut processes = Processes { top_cpu, ..Processes::default() };
    if hides_others() {
        // Hidden processes must not be counted as zero.
        missing(
            &mut processes.why,
            &["count", "zombies", "waiting_for_device", "top_memory"],
            &Cause::new(Reason::NotPermitted, ""),
        );
    } else {
        processes.count = u32::try_from(now.len()).ok();
        (processes.zombies, processes.waiting_for_device) = (in_state('Z'), in_state('D'));
        processes.top_memory = Some(top(&all));
    }
    outdated(&mut processes, now, until);
    Ok(processes)
}

/// Whether /proc shows only this user's processes (`hidepid`, proc(5)).
fn hides_others() -> bool {
    if rustix::process::geteuid().is_root() {
        return false;
    }
    let table = mounts::of("self").unwrap_or_default();
    let proc = table.iter().rev().find(|mount| mount.path == std::path::Path::new("/proc"));
    let options = proc.map(|mount| mount.super_options.clone()).unwrap_or_default();
    let option = |name: &str| options.split(',').find_map(|option| option.strip_prefix(name)?.strip_prefix('='));
    let hides = option("hidepid").is_some_and(|how| !matches!(how, "0" | "off"));
    // Members of the exempt group see all.
    let groups = rustix::process::getgroups().unwrap_or_default();
    let gid = option("gid").and_then(|gid| gid.parse::<u32>().ok()).filter(|gid| *gid != 0);
    let is_member = gid.is_some_and(|gid| {
        rustix::process::getegid().as_raw() == gid || groups.iter().any(|group| group.as_raw() == gid)
    });
    hides && !is_member
}

/// For each process, by pid and start time: whether it is outdated.
type Known = BTreeMap<(u32, u64), bool>;

/// When packages last changed, and the results since then.
static KNOWN: Mutex<Option<(SystemTime, Known)>> = Mutex::new(None);

/// Files in which package managers record what is installed.
const PACKAGES: [&str; 4] = [
    "/var/lib/dpkg/status",
    "/var/lib/rpm/rpmdb.sqlite",
    "/usr/lib/sysimage/rpm/rpmdb.sqlite",
    "/var/lib/rpm/Packages",
];

/// Time limit for finding outdated programs. Reading a process's maps blocks while that process
/// waits for a device.
const OUTDATED: Duration = Duration::from_millis(1500);

/// Finds programs that still run a file which an update has replaced. Each process is checked
/// once after a change of packages.
fn outdated(processes: &mut Processes, now: HashMap<u32, Sample>, until: Instant) {
    let unknown = |processes: &mut Processes, why: Cause| {
        missing(&mut processes.why, &["outdated", "outdated_count"], &why);
    };
    if !rustix::process::geteuid().is_root() {
        return unknown(processes, Cause::new(Reason::NotPermitted, ""));
    }
    let changed = PACKAGES.iter().filter_map(|file| std::fs::metadata(file).ok()?.modified().ok()).max();
    let Some(changed) = changed else { return unknown(processes, Reason::NotSupported.into()) };
    let until = until.min(Instant::now() + OUTDATED);
    let things = vec![(
        "outdated programs".to_owned(),
        (now, changed, until.checked_sub(Duration::from_millis(200)).unwrap_or(until)),
    )];
    match budget::each(things, 1, OUTDATED, until, find_outdated).pop() {
        // If not all were checked, the next diagnosis continues.
        Some(Ok((names, is_complete))) if is_complete || !names.is_empty() => {
            processes.outdated_count = u32::try_from(names.len()).ok();
            processes.outdated = Some(names.into_iter().take(LIST).collect());
        }
        Some(Ok(_)) => unknown(processes, Cause::new(Reason::StillAsked, "/proc")),
        Some(Err(reason)) => unknown(processes, Cause::new(reason, "/proc")),
        None => unknown(processes, Cause::new(Reason::TimedOut, "/proc")),
    }
}

/// The names of outdated programs, and whether all processes were checked.
fn find_outdated((now, changed, until): (HashMap<u32, Sample>, SystemTime, Instant)) -> (Vec<String>, bool) {
    let mut known = locked(&KNOWN);
    known.take_if(|(at, _)| *at != changed);
    let (_, known) = known.get_or_insert_with(|| (changed, Known::new()));
    known.retain(|(pid, started), _| now.get(pid).is_some_and(|sample| sample.started == *started));
    let changed_at = changed_since_boot(changed);
    let mut names = Vec::new();
    let mut is_complete = true;
    for (pid, sample) in now.iter().filter(|(_, sample)| !sample.is_kernels) {
        let key = (*pid, sample.started);
        // A process started after the change runs the new files.
        let is_newer = || changed_at.is_some_and(|at| (sample.started as f64 / TICKS) >= at);
        let is_old = match known.get(&key) {
            Some(is_old) => *is_old,
            // Reading it would block like the process itself.
            None if sample.state == 'D' => continue,
            None if Instant::now() >= until => {
                is_complete = false;
                continue;
            }
            None => *known.entry(key).or_insert(!is_newer() && runs_replaced(*pid)),
        };
        if is_old {
            names.push(clipped(&sample.name));
        }
    }
    names.sort();
    names.dedup();
    (names, is_complete)
}

/// The uptime in seconds at a moment.
fn changed_since_boot(at: SystemTime) -> Option<f64> {
    let uptime: f64 = read("/proc/uptime")?.split_whitespace().next()?.parse().ok()?;
    let ago = SystemTime::now().duration_since(at).unwrap_or_default().as_secs_f64();
    // The margin covers an update that continues after its list is written.
    Some((uptime - ago + 60.0).max(0.0))
}

/// Whether a process runs a program or library whose file was replaced. Files that programs
/// create and delete themselves do not count (see needrestart's settings).
fn runs_replaced(pid: u32) -> bool {
    // A process with another root, such as a container's, is skipped. A service may have another
    // mount namespace with the same root.
    let root = |of: &str| std::fs::metadata(format!("/proc/{of}/root/")).ok().map(|data| (data.dev(), data.ino()));
    if root(&pid.to_string()) != root("self") {
        return false;
    }
    let Ok(maps) = read_bytes(format!("/proc/{pid}/maps")) else { return false };
    maps.split(|byte| *byte == b'\n').any(is_replaced)
}

/// Whether a line of /proc/PID/maps is for an installed file that was replaced.
fn is_replaced(line: &[u8]) -> bool {
    let Some(path) = line.strip_suffix(b" (deleted)") else { return false };
    let Some(begins) = memchr::memchr(b'/', path) else { return false };
    let (head, path) = path.split_at(begins);
    let is_program = head.split(|byte| *byte == b' ').nth(1).is_some_and(|rights| rights.get(2) == Some(&b'x'));
    let installed: [&[u8]; 5] = [b"/usr/lib", b"/usr/bin/", b"/usr/sbin/", b"/lib", b"/bin/"];
    let is_installed = installed.iter().any(|folder| path.starts_with(folder)) || path.starts_with(b"/sbin/");
    // dpkg's temporary name for a new file.
    is_program && is_installed && !path.ends_with(b".dpkg-new")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_with_any_bytes_in_its_name_is_read() {
        let tail: Vec<String> = (4..=52).map(|n| n.to_string()).collect();
        let stat = [b"77 (evil) R (M\xfcller) S ".as_slice(), tail.join(" ").as_bytes()].concat();
        let sample = parse(&stat).expect("read");
        assert_eq!((sample.name.as_str(), sample.state), ("evil) R (M\\xfcller", 'S'));
        assert_eq!((sample.ticks, sample.pages, sample.started), (14 + 15, 24, 22));
        assert!(parse(b"garbage").is_none() && parse(b"7 )x( S").is_none());
    }

    #[test]
    fn only_installed_programs_that_were_replaced_are_outdated() {
        let line = |path: &str| format!("7f00-7f01 r-xp 00000000 08:01 77   {path}");
        assert!(is_replaced(line("/usr/lib/x86_64-linux-gnu/libssl.so.3 (deleted)").as_bytes()));
        assert!(is_replaced(line("/usr/sbin/sshd (deleted)").as_bytes()));
        for fine in [
            "/usr/lib/x86_64-linux-gnu/libssl.so.3",
            "/memfd:doublemapper (deleted)",
            "/dev/zero (deleted)",
            "/tmp/x (deleted)",
            "/SYSV00000000 (deleted)",
        ] {
            assert!(!is_replaced(line(fine).as_bytes()), "{fine}");
        }
        let data = line("/usr/lib/locale/locale-archive (deleted)").replace("r-xp", "r--p");
        assert!(!is_replaced(data.as_bytes()), "data is no program");
    }
}
