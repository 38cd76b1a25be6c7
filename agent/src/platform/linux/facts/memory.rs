//! Memory and swap.

use super::kmsg::{self, Record};
use super::pressure;
use crate::collect::bytes::names_in;
use crate::collect::counting::Counting;
use crate::collect::{missing, pct, read};
use fernwart_protocol::diagnosis::facts::Memory;
use fernwart_protocol::diagnosis::{Cause, Reason};
use std::path::Path;
use std::time::Instant;

/// A field of /proc/meminfo, bytes.
fn field(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    line.split_whitespace().next()?.parse::<u64>().ok().map(|kib| kib.saturating_mul(1024))
}

pub(super) fn facts(counting: &Counting, until: Instant) -> Result<Memory, Cause> {
    let mut system = sysinfo::System::new().map_err(|error| Cause::new(Reason::Unreadable, error.to_string()))?;
    system.refresh_memory();
    let total = system.total_memory();
    if total == 0 {
        return Err(Cause::new(Reason::Unreadable, "/proc/meminfo"));
    }
    // The ZFS statistics are the host's, also in a container.
    let cached = if super::system::container().is_empty() { given_back_by_zfs() } else { 0 };
    let available = system.available_memory().saturating_add(cached).min(total);
    let (swap, used) = swap(&read("/proc/swaps").unwrap_or_default());
    let mut memory = Memory {
        total_bytes: total,
        available_bytes: available,
        available_pct: pct(available as f64, total as f64),
        swap_total_bytes: swap,
        swap_used_bytes: used,
        since_s: counting.over_s(),
        ..Memory::default()
    };
    match swap {
        0 => drop(memory.why.insert("swap_used_pct".into(), Reason::Absent.into())),
        swap => memory.swap_used_pct = Some(pct(used as f64, swap as f64)),
    }
    if memory.since_s.is_none() {
        memory.why.insert("since_s".into(), Reason::FirstLook.into());
    }
    let why = &mut memory.why;
    (memory.pressure_pct, memory.pressure_5m_pct) =
        pressure("memory", "full", ("pressure_pct", "pressure_5m_pct"), why);
    (_, memory.some_pressure_5m_pct) = pressure("memory", "some", ("", "some_pressure_5m_pct"), why);
    let vmstat = read("/proc/vmstat").unwrap_or_default();
    let killed = vmstat.lines().find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok());
    memory.killed = killed;
    match killed.map(|killed| counting.since("oom_kill", killed)) {
        Some(Ok(0)) => memory.killed_since = Some(0),
        Some(Ok(since)) => {
            let mut limited = Limited::since(counting.base_uptime_s());
            // If the buffer cannot be read, every kill counts as a lack of memory.
            let _ = kmsg::each(until, |record| limited.take(record));
            memory.killed_since = Some(since.saturating_sub(limited.killed));
        }
        Some(Err(reason)) => drop(why.insert("killed_since".into(), reason)),
        None => {
            missing(why, &["killed", "killed_since"], &Cause::new(Reason::NotSupported, "oom_kill"));
        }
    }
    hardware(&mut memory, counting, Path::new("/sys/devices/system/edac/mc"));
    let meminfo = read("/proc/meminfo").unwrap_or_default();
    match field(&meminfo, "HardwareCorrupted") {
        Some(bytes) => memory.broken_bytes = Some(bytes),
        None => drop(memory.why.insert("broken_bytes".into(), Reason::NotSupported.into())),
    }
    Ok(memory)
}

/// Processes killed at the limit of their own control group. The kernel includes them in its
/// counter, although the machine has enough memory.
#[derive(Debug)]
struct Limited {
    from_us: i64,
    killed: u64,
}

impl Limited {
    /// Those after this uptime, seconds.
    fn since(uptime_s: u64) -> Self {
        Self { from_us: i64::try_from(uptime_s.saturating_mul(1_000_000)).unwrap_or(i64::MAX), killed: 0 }
    }

    fn take(&mut self, record: &Record<'_>) {
        // Kernels before 5.3 say "Kill process".
        let is_one = record.is_kernels && record.message.starts_with("Memory cgroup out of memory: Kill");
        self.killed += u64::from(is_one && record.after_boot_us >= self.from_us);
    }
}

/// The part of ZFS's cache that is freed when programs need memory.
fn given_back_by_zfs() -> u64 {
    let text = read("/proc/spl/kstat/zfs/arcstats").unwrap_or_default();
    let field = |name: &str| -> Option<u64> {
        let mut words = text.lines().map(str::split_whitespace).find(|words| words.clone().next() == Some(name))?;
        words.nth(2)?.parse().ok()
    };
    field("size").zip(field("c_min")).map_or(0, |(size, least)| size.saturating_sub(least))
}

/// Swap on disks, total and used, bytes. Swap in compressed memory (zram) is meant to be full.
fn swap(table: &str) -> (u64, u64) {
    let lines = table.lines().skip(1).filter(|line| !line.starts_with("/dev/zram"));
    lines.fold((0, 0), |(all, used), line| {
        // The sizes follow the name, in which blanks are written as \040.
        let mut numbers = line.split_whitespace().skip(2).map(|word| word.parse::<u64>().unwrap_or_default() * 1024);
        (all + numbers.next().unwrap_or_default(), used + numbers.next().unwrap_or_default())
    })
}

/// Errors of memory modules (Documentation/driver-api/edac.rst).
fn hardware(memory: &mut Memory, counting: &Counting, folder: &Path) {
    let controllers = names_in(folder, |name| name.strip_prefix("mc").is_some_and(|n| n.parse::<u32>().is_ok()));
    if controllers.is_empty() {
        missing(&mut memory.why, &["ecc_corrected_since", "ecc_uncorrected"], &Reason::NotSupported.into());
        return;
    }
    let sum = |file: &str| -> u64 {
        let counts =
            controllers.iter().filter_map(|name| read(folder.join(name).join(file))?.trim().parse::<u64>().ok());
        counts.sum()
    };
    memory.ecc_uncorrected = Some(sum("ue_count"));
    match counting.since("ecc_corrected", sum("ce_count")) {
        Ok(since) => memory.ecc_corrected_since = Some(since),
        Err(why) => drop(memory.why.insert("ecc_corrected_since".into(), why)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn swap_in_compressed_memory_is_not_counted() {
        let table = "Filename\t\t\tType\t\tSize\t\tUsed\t\tPriority\n\
                     /dev/zram0 partition 8388604 8000000 100\n/swap\\040file file 2097148 1024 -2\n";
        assert_eq!(swap(table), (2_097_148 * 1024, 1024 * 1024));
        assert_eq!(swap("Filename Type Size Used Priority\n"), (0, 0));
    }

    #[test]
    fn kills_at_a_cgroup_limit_are_not_counted_as_lack_of_memory() {
        let mut limited = Limited::since(100);
        for text in [
            "3,1,99000000,-;Memory cgroup out of memory: Killed process 7 (old) total-vm:1kB",
            "3,2,100000000,-;Memory cgroup out of memory: Killed process 8 (tail) total-vm:1kB",
            "3,3,200000000,-;Memory cgroup out of memory: Kill process 9 (tail) score 1 or sacrifice child",
            "3,4,200000000,-;Out of memory: Killed process 10 (mysqld) total-vm:1kB",
            "11,5,200000000,-;Memory cgroup out of memory: Killed process 11 (forged) total-vm:1kB",
        ] {
            limited.take(&Record::parse(text).expect("a record"));
        }
        assert_eq!(limited.killed, 2);
    }

    /// Sample data from the kernel's documentation.
    #[test]
    fn memory_module_errors_are_summed_over_controllers() {
        let place = tempfile::tempdir().expect("a folder");
        for (controller, corrected, not) in [("mc0", "12", "0"), ("mc1", "3", "1")] {
            let folder = place.path().join(controller);
            std::fs::create_dir(&folder).expect("made");
            std::fs::write(folder.join("ce_count"), format!("{corrected}\n")).expect("written");
            std::fs::write(folder.join("ue_count"), format!("{not}\n")).expect("written");
        }
        std::fs::create_dir(place.path().join("power")).expect("made");
        let mut memory = Memory::default();
        let counting = Counting::default();
        hardware(&mut memory, &counting, place.path());
        assert_eq!(
            (memory.ecc_uncorrected, memory.ecc_corrected_since),
            (Some(1), Some(15)),
            "in a young boot all is new"
        );
    }
}
