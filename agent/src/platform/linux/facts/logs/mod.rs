//! Errors of the last day: known patterns, and all others grouped by shape.
//!
//! ```text
//! journalctl, or log files and the kernel's own buffer ─▶ lines ─▶ patterns · logins · shapes ─▶ facts
//! ```
//! Lines are matched as they are read, newest first where possible. Memory is bounded by the
//! number of distinct kinds, not of lines; every line is counted.

mod journal;
mod lines;
mod logins;
mod patterns;
mod syslog;

use crate::collect::bytes::clipped;
use crate::collect::missing;
use crate::redact::Lines;
use fernwart_protocol::diagnosis::facts::{LIST, LogGroup, LogHit, Logs};
use fernwart_protocol::diagnosis::{Cause, Class, From, Reason};
use lines::Line;
use logins::Logins;
use std::collections::HashMap;
use std::time::Instant;

const HOURS: u32 = 24;
const GROUPS: usize = 20;

/// Maximum number of characters kept of a message until secrets are removed.
const MESSAGE: usize = 1024;

/// Maximum number of distinct shapes counted.
const SHAPES: usize = 2000;

/// Maximum number of distinct things counted for one pattern.
const ABOUT: usize = 64;

/// Priorities up to this are errors (syslog(3): 3 is LOG_ERR).
const ERROR: u8 = 3;

/// The name of the source if only the kernel's buffer is available.
const KERNEL: &str = "kernel";

const SECOND: i64 = 1_000_000;

pub(super) fn facts(until: Instant) -> Result<Logs, Cause> {
    let now = crate::now().saturating_mul(1000);
    let mut reader = Reader::new(now);
    let source = match journal::is_there() {
        true => match journal::take_in(&mut reader, until) {
            Ok(()) => Ok("journald".to_owned()),
            // There may be another log beside the journal.
            Err(why) => {
                reader = Reader::new(now);
                // The kernel's messages alone cannot replace the journal.
                syslog::read(&mut reader, until).ok().filter(|source| source != KERNEL).ok_or(why)
            }
        },
        false => syslog::read(&mut reader, until),
    };
    match source {
        Ok(source) => Ok(reader.end(&source)),
        Err(why) if why.reason.class() == Class::Lost => Err(why),
        // There is no log, or reading it is not permitted: both are known states.
        Err(why) => {
            let mut logs = Logs { hours: HOURS, ..Logs::default() };
            let of_logins = ["failed_logins", "guessed_logins", "guessed_logins_count"];
            missing(&mut logs.why, &["hours_read", "errors", "programs_read", "hits", "cut"], &why);
            missing(&mut logs.why, &of_logins, &why);
            Ok(logs)
        }
    }
}

/// The matches of one pattern for one thing.
#[derive(Debug, Default)]
struct Found {
    count: u64,
    oldest: i64,
    newest: i64,
    message: String,
}

/// Reads lines and counts.
struct Reader {
    now: i64,
    errors: u64,
    groups: HashMap<(String, String), LogGroup>,
    newest: HashMap<(String, String), i64>,
    found: HashMap<(usize, String), Found>,
    healed: HashMap<(usize, String), i64>,
    logins: Logins,
    /// When USB devices were unplugged, microseconds since 1970.
    pulled: Vec<i64>,
    lines: u64,
    /// Lines of the last day in log files.
    files_lines: u64,
    /// Lines that could not be parsed.
    unread: u64,
    oldest: i64,
    /// When the log begins; 0 if unknown.
    begins: i64,
    /// Whether a login log was read although there is no system log.
    has_logins: bool,
    is_cut: bool,
}

impl Reader {
    fn new(now: i64) -> Self {
        Self {
            now,
            errors: 0,
            groups: HashMap::new(),
            newest: HashMap::new(),
            found: HashMap::new(),
            healed: HashMap::new(),
            logins: Logins::default(),
            pulled: Vec::new(),
            lines: 0,
            files_lines: 0,
            unread: 0,
            oldest: now,
            begins: 0,
            has_logins: false,
            is_cut: false,
        }
    }

    /// The beginning of the day that is examined, microseconds since 1970.
    fn since(&self) -> i64 {
        self.now.saturating_sub(i64::from(HOURS) * 3600 * SECOND)
    }

    fn take(&mut self, line: &Line<'_>) {
        if line.at < self.since() {
            return;
        }
        self.lines += 1;
        self.oldest = self.oldest.min(line.at);
        if line.is_kernels && line.message.contains(": USB disconnect") && self.pulled.len() < ABOUT {
            self.pulled.push(line.at);
        }
        self.match_patterns(line);
        self.logins.take(line);
        if line.priority <= ERROR {
            self.group(line);
        }
    }

    fn match_patterns(&mut self, line: &Line<'_>) {
        for (index, heals, about) in patterns::matches(line) {
            if heals {
                let at = self.healed.entry((index, about)).or_default();
                *at = (*at).max(line.at);
                continue;
            }
            let things = self.found.keys().filter(|(of, _)| *of == index).count();
            if things >= ABOUT && !self.found.contains_key(&(index, about.clone())) {
                continue;
            }
            let found = self.found.entry((index, about)).or_default();
            found.count += line.times;
            found.oldest = if found.oldest == 0 { line.at } else { found.oldest.min(line.at) };
            if line.at >= found.newest {
                found.newest = line.at;
                found.message = line.message.chars().take(MESSAGE).collect();
            }
        }
    }

    fn group(&mut self, line: &Line<'_>) {
        self.errors += line.times;
        let key = (clipped(line.program), shape(line.message));
        if !self.groups.contains_key(&key) && self.groups.len() >= SHAPES {
            return;
        }
        let newest = self.newest.entry(key.clone()).or_default();
        let program = key.0.clone();
        let group = self.groups.entry(key).or_insert_with(|| LogGroup { source: program, ..LogGroup::default() });
        group.count += line.times;
        if line.at >= *newest {
            *newest = line.at;
            group.message = line.message.chars().take(MESSAGE).collect();
        }
    }

    fn end(self, source: &str) -> Logs {
        let since = self.since();
        let mut groups: Vec<LogGroup> = self.groups.into_values().collect();
        groups.sort_by(|a, b| b.count.cmp(&a.count).then_with(|| a.message.cmp(&b.message)));
        groups.truncate(GROUPS);
        let hours = |from: i64| (self.now.saturating_sub(from) as f64 / (3600.0 * SECOND as f64) * 10.0).round() / 10.0;
        let mut hits: Vec<LogHit> = Vec::new();
        for ((index, about), found) in self.found {
            let healed = self.healed.get(&(index, about.clone())).is_some_and(|at| *at >= found.newest);
            let Some(pattern) = patterns::pattern(index).filter(|_| !healed) else { continue };
            let is_disks =
                pattern.from == From::Kernel && ["disk.", "fs."].iter().any(|kind| pattern.id.starts_with(kind));
            let removable = is_disks && patterns::was_pulled_out(&about, found.oldest, &self.pulled);
            let id = if removable { "disk.removable".to_owned() } else { pattern.id.clone() };
            let hit = LogHit {
                pattern: id,
                about,
                message: found.message,
                count: found.count,
                hours_ago: hours(found.newest),
            };
            // Two patterns may have the same id and match the same events.
            match hits.iter_mut().find(|known| (&known.pattern, &known.about) == (&hit.pattern, &hit.about)) {
                Some(known) => known.count = known.count.max(hit.count),
                None => hits.push(hit),
            }
        }
        hits.sort_by(|a, b| (&a.pattern, &a.about).cmp(&(&b.pattern, &b.about)));
        hits.truncate(LIST);
        if !groups.is_empty() || !hits.is_empty() {
            // Messages may contain secrets.
            let redact = Lines::new();
            for message in groups.iter_mut().map(|g| &mut g.message).chain(hits.iter_mut().map(|h| &mut h.message)) {
                *message = clipped(&redact.line(message));
            }
        }
        let (failed, from, guessed) = self.logins.end();
        let mut logs = Logs {
            source: source.to_owned(),
            hours: HOURS,
            hours_read: Some(hours(if self.is_cut { self.oldest } else { self.begins.max(since) })),
            errors: Some(self.errors),
            groups,
            programs_read: Some(source != KERNEL),
            hits: Some(hits),
            failed_logins: Some(failed),
            failed_logins_from: from,
            guessed_logins_count: u32::try_from(guessed.len()).ok(),
            guessed_logins: Some(guessed),
            cut: Some(self.is_cut),
            ..Logs::default()
        };
        if source == KERNEL && !self.has_logins {
            (logs.failed_logins, logs.guessed_logins, logs.guessed_logins_count) = (None, None, None);
            missing(&mut logs.why, &["failed_logins", "guessed_logins", "guessed_logins_count"], &no_log());
        }
        logs
    }
}

/// A message with numbers, hex and quoted names made equal.
fn shape(message: &str) -> String {
    let mut out = String::with_capacity(message.len().min(200));
    for word in message.split_whitespace().take(24) {
        if !out.is_empty() {
            out.push(' ');
        }
        if word.chars().any(|c| c.is_ascii_digit()) || word.starts_with(['"', '\'', '/']) {
            out.push('#');
        } else {
            out.push_str(word);
        }
    }
    out
}

/// Whether the kernel is this machine's own, not a container host's.
fn is_own_kernel() -> bool {
    super::system::container().is_empty()
}

/// The cause for a machine without any log.
fn no_log() -> Cause {
    match is_own_kernel() {
        true => Cause::new(Reason::NotInstalled, "a system log"),
        // The container's host keeps the log.
        false => Cause::new(Reason::NotSupported, "container"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 2_000_000 * SECOND;

    fn read_all(lines: &[(&str, bool, u8, &str)]) -> Logs {
        let mut reader = Reader::new(NOW);
        for (index, (program, is_kernels, priority, message)) in lines.iter().enumerate() {
            let at = NOW - 3600 * SECOND + i64::try_from(index).unwrap_or_default() * SECOND;
            let line = Line { at, program, is_kernels: *is_kernels, priority: *priority, message, ..Line::default() };
            reader.take(&line);
        }
        reader.end("test")
    }

    fn hits(lines: &[(&str, bool, u8, &str)]) -> Vec<(String, String, u64)> {
        let hits = read_all(lines).hits.unwrap_or_default();
        hits.into_iter().map(|hit| (hit.pattern, hit.about, hit.count)).collect()
    }

    #[test]
    fn messages_that_differ_only_in_numbers_are_one_group() {
        let lines = ["disk sda1: I/O error, sector 5", "disk sda1: I/O error, sector 99", "fan failed"];
        let logs = read_all(&lines.map(|line| ("kernel", true, 3, line)));
        assert_eq!(logs.errors, Some(3));
        assert_eq!(logs.groups.len(), 2);
        assert_eq!((logs.groups[0].count, logs.groups[0].message.as_str()), (2, "disk sda1: I/O error, sector 99"));
    }

    #[test]
    fn a_password_in_a_log_is_removed() {
        let logs = read_all(&[("pos", false, 3, "login failed: user=kasse password=backstube24")]);
        assert_eq!(logs.groups[0].message, "login failed: user=kasse password=[secret]");
    }

    #[test]
    fn one_rare_line_is_found_among_thousands_of_others() {
        let noise: Vec<String> =
            (0..30).flat_map(|kind| (0..300).map(move |n| format!("noise {} {n}", (b'a' + kind) as char))).collect();
        let mut lines: Vec<_> = noise.iter().map(|line| ("pos", false, 3, line.as_str())).collect();
        lines.insert(
            77,
            ("kernel", true, 2, "EXT4-fs error (device sda1): ext4_lookup:1785: inode #2: comm ls: bad entry"),
        );
        let logs = read_all(&lines);
        assert_eq!(logs.errors, Some(9001));
        assert!(logs.groups.iter().all(|group| !group.message.contains("EXT4")), "it is too rare to be among them");
        assert_eq!(hits(&lines), [("fs.ext4".to_owned(), "sda1".to_owned(), 1)]);
    }

    /// Program, whether the kernel wrote the line, priority, message; and the pattern and thing
    /// it must match.
    type Case = (&'static str, bool, u8, &'static str, Option<(&'static str, &'static str)>);

    /// Real lines of kernels and programs, each with the expected match; none if it must be
    /// ignored.
    /// Real lines, and what each is about.
    const CASES: &[Case] = &[
        (
            "kernel",
            true,
            3,
            "I/O error, dev sdz, sector 2048 op 0x0:(READ) flags 0x80700 phys_seg 1 prio class 2",
            Some(("disk.io", "sdz")),
        ),
        (
            "kernel",
            true,
            3,
            "blk_update_request: I/O error, dev nvme0n1, sector 0 op 0x0:(READ)",
            Some(("disk.io", "nvme0n1")),
        ),
        (
            "kernel",
            true,
            3,
            "Buffer I/O error on dev dm-0, logical block 1, lost async page write",
            Some(("disk.io", "dm-0")),
        ),
        ("kernel", true, 3, "I/O error, dev loop3, sector 8", None),
        ("kernel", true, 3, "I/O error, dev sr0, sector 0 op 0x0:(READ)", None),
        ("kernel", true, 3, "I/O error, dev fd0, sector 0", None),
        ("mallory", false, 3, "I/O error, dev sda, sector 2048", None),
        ("kernel", false, 3, "I/O error, dev sda, sector 2048", None),
        ("kernel", true, 3, "critical medium error, dev sdz, sector 1234 op 0x0:(READ)", Some(("disk.sector", "sdz"))),
        ("kernel", true, 3, "ata3: hard resetting link", Some(("disk.cable", "ata3"))),
        ("kernel", true, 4, "ata3: limiting SATA link speed to 1.5 Gbps", Some(("disk.cable", "ata3"))),
        (
            "kernel",
            true,
            4,
            "nvme nvme0: controller is down; will reset: CSTS=0xffffffff, PCI_STATUS=0x10",
            Some(("disk.nvme", "nvme0")),
        ),
        ("kernel", true, 4, "nvme nvme1: I/O 100 QID 3 timeout, aborting", Some(("disk.nvme", "nvme1"))),
        ("kernel", true, 1, "XFS (dm-2): Corruption detected. Unmount and run xfs_repair", Some(("fs.xfs", "dm-2"))),
        (
            "kernel",
            true,
            2,
            "BTRFS error (device sdb): parent transid verify failed on logical 1 mirror 1 wanted 5 found 3",
            Some(("fs.btrfs", "sdb")),
        ),
        ("kernel", true, 1, "md/raid1:md0: Disk failure on sdb1, disabling device.", Some(("raid.md", "md0"))),
        (
            "kernel",
            true,
            4,
            "device-mapper: thin: 253:2: switching pool to out-of-data-space (queue IO) mode",
            Some(("lvm.thin", "253:2")),
        ),
        ("kernel", true, 4, "device-mapper: thin: 253:2: reached low water mark for data device: sending event.", None),
        ("kernel", true, 3, "sd 93:0:0:0: rejecting I/O to offline device", Some(("disk.scsi", "93:0:0:0"))),
        (
            "kernel",
            true,
            3,
            "sd 93:0:0:0: [sdzz] Device offlined - not ready after error recovery",
            Some(("disk.scsi", "sdzz")),
        ),
        ("kernel", true, 3, "usb 1-4: device descriptor read/64, error -71", Some(("usb.broken", "1-4"))),
        ("kernel", true, 0, "mce: [Hardware Error]: Machine check events logged", Some(("hardware.logged", "kernel"))),
        ("kernel", true, 3, "mce: Uncorrected error, action required", Some(("hardware.mce", "kernel"))),
        ("kernel", true, 4, "EDAC MC0: 20 CE memory read error on DIMM0", Some(("hardware.ecc", "MC0"))),
        ("kernel", true, 4, "EDAC MC0: 0 CE memory read error on DIMM0", None),
        ("kernel", true, 6, "usb 1-4: reset high-speed USB device number 9 using xhci_hcd", None),
        ("kernel", true, 4, "neighbour: arp_cache: neighbor table overflow!", None),
        (
            "kernel",
            true,
            3,
            "r8169 0000:02:00.0 eth0: NETDEV WATCHDOG: CPU: 3: transmit queue 0 timed out 5376 ms",
            Some(("net.card", "eth0")),
        ),
        // Program names chosen by a user.
        (
            "kernel",
            true,
            6,
            "Kernel panic[7]: segfault at 0 ip 0000 sp 0000 error 4 in x[400000+1000]",
            Some(("program.crash", "Kernel")),
        ),
        (
            "kernel",
            true,
            6,
            "traps: kernel BUG at[99] trap invalid opcode ip:1 sp:2 error:0",
            Some(("program.crash", "kernel")),
        ),
        (
            "kernel",
            true,
            3,
            "Out of memory: Killed process 812 (I/O error, dev ) total-vm:2097152kB",
            Some(("memory.oom", "I/O error, dev")),
        ),
        ("kernel", true, 4, "{1}[Hardware Error]: Corrected error, no action required.", None),
        (
            "kernel",
            true,
            4,
            "EDAC MC0: 1 CE memory read error on CPU_SrcID#0_Ha#0_Chan#1_DIMM#0",
            Some(("hardware.ecc", "MC0")),
        ),
        (
            "kernel",
            true,
            3,
            "Out of memory: Killed process 812 (mysqld) total-vm:2097152kB, anon-rss:1048576kB",
            Some(("memory.oom", "mysqld")),
        ),
        (
            "kernel",
            true,
            3,
            "Memory cgroup out of memory: Killed process 99 (java) total-vm:1kB",
            Some(("memory.limit", "java")),
        ),
        (
            "kernel",
            true,
            6,
            "till[7]: segfault at 0 ip 0000 sp 0000 error 4 in till[400000+1000]",
            Some(("program.crash", "till")),
        ),
        (
            "kernel",
            true,
            6,
            "traps: chrome[99] trap invalid opcode ip:1 sp:2 error:0",
            Some(("program.crash", "chrome")),
        ),
        (
            "kernel",
            true,
            1,
            "BUG: kernel NULL pointer dereference, address: 0000000000000008",
            Some(("kernel.bug", "kernel")),
        ),
        (
            "kernel",
            true,
            0,
            "watchdog: BUG: soft lockup - CPU#1 stuck for 22s! [kworker:7]",
            Some(("kernel.lockup", "kernel")),
        ),
        (
            "kernel",
            true,
            3,
            "INFO: task jbd2/sda1-8:312 blocked for more than 120 seconds.",
            Some(("kernel.hung", "jbd2/sda1-8")),
        ),
        ("kernel", true, 6, "NETDEV WATCHDOG: eth0 (r8169): transmit queue 0 timed out", Some(("net.card", "eth0"))),
        ("kernel", true, 3, "e1000e 0000:00:1f.6 eno1: Detected Hardware Unit Hang:", Some(("net.card", "eno1"))),
        ("kernel", true, 6, "r8169 0000:02:00.0 enp2s0: Link is Down", Some(("net.link", "enp2s0"))),
        ("kernel", true, 6, "ata2: SATA link down (SStatus 0 SControl 300)", None),
        ("kernel", true, 5, "nfs: server nas.shop not responding, still trying", Some(("net.share", "nas.shop"))),
        (
            "kernel",
            true,
            4,
            "nf_conntrack: nf_conntrack: table full, dropping packet",
            Some(("net.conntrack", "kernel")),
        ),
        ("pos", false, 3, "write: No space left on device", Some(("disk.full", "pos"))),
        (
            "systemd",
            false,
            4,
            "till.service: Start request repeated too quickly.",
            Some(("service.start", "till.service")),
        ),
        (
            "mysqld",
            false,
            3,
            "[ERROR] Table './shop/orders' is marked as crashed and should be repaired",
            Some(("service.database", "mysqld")),
        ),
        ("CRON", false, 3, "(root) error (grandchild #77 failed with exit status 1)", Some(("service.cron", "CRON"))),
        (
            "borg",
            false,
            4,
            "Failed to create/acquire the lock /backup/lock.exclusive (timeout).",
            Some(("service.backup", "borg")),
        ),
        (
            "smartd",
            false,
            2,
            "Device: /dev/sda [SAT], FAILED SMART self-check. BACK UP DATA NOW!",
            Some(("disk.failing", "/dev/sda")),
        ),
        (
            "smartd",
            false,
            2,
            "Device: /dev/sda [SAT], 8 Currently unreadable (pending) sectors",
            Some(("disk.failing", "/dev/sda")),
        ),
        (
            "mdadm",
            false,
            2,
            "Fail event detected on md device /dev/md0, component device /dev/sdb1",
            Some(("raid.watched", "/dev/md0")),
        ),
        (
            "kernel",
            true,
            3,
            "BTRFS error (device sdzb): bdev /dev/sdzb errs: wr 0, rd 5, flush 0, corrupt 3, gen 0",
            Some(("fs.btrfs", "sdzb")),
        ),
        ("kernel", true, 3, "Aborting journal on device dm-3-8.", Some(("fs.ext4", "dm-3"))),
        (
            "kernel",
            true,
            3,
            "JBD2: Error -5 detected when updating journal superblock for dm-3-8.",
            Some(("fs.ext4", "kernel")),
        ),
        ("kernel", true, 3, "XFS (dm-1): log I/O error -5", Some(("fs.xfs", "dm-1"))),
        ("kernel", true, 3, "md: super_written gets error=-5", Some(("raid.md", "kernel"))),
        ("kernel", true, 6, "usb 1-4: new high-speed USB device number 9 using xhci_hcd", None),
        ("kernel", true, 6, "EXT4-fs (sda1): mounted filesystem with ordered data mode", None),
    ];

    #[test]
    fn real_log_lines_match_the_expected_patterns() {
        for (program, is_kernels, priority, message, wanted) in CASES {
            let found = hits(&[(program, *is_kernels, *priority, message)]);
            let found: Vec<_> = found.iter().map(|(id, about, _)| (id.as_str(), about.as_str())).collect();
            assert_eq!(found, wanted.iter().copied().collect::<Vec<_>>(), "{message}");
        }
    }

    #[test]
    fn a_server_that_answers_again_is_not_reported() {
        let gone = ("kernel", true, 5, "nfs: server nas not responding, still trying");
        let back = ("kernel", true, 5, "nfs: server nas OK");
        let other = ("kernel", true, 5, "nfs: server old OK");
        assert_eq!(hits(&[gone, back]), []);
        assert_eq!(hits(&[gone, other]).len(), 1);
        assert_eq!(hits(&[gone, back, gone]).len(), 1, "and gone again");
    }

    #[test]
    fn errors_of_an_unplugged_disk_are_reported_as_removable() {
        let pulled = ("kernel", true, 6, "usb 1-4: USB disconnect, device number 9");
        let read = ("kernel", true, 3, "I/O error, dev sdzz, sector 8");
        let damaged = ("kernel", true, 2, "EXT4-fs error (device sdzz1): ext4_lookup:1: inode #2: comm ls: bad entry");
        let removable = |about: &str| ("disk.removable".to_owned(), about.to_owned(), 1);
        assert_eq!(hits(&[pulled, read, damaged]), [removable("sdzz"), removable("sdzz1")]);
        let idle = ("kernel", true, 6, "nothing");
        let late = [[pulled].as_slice(), &[idle; 300], &[read]].concat();
        assert_eq!(hits(&late)[0].0, "disk.io", "a disk that dies later was not pulled out");
        assert_eq!(hits(&[read])[0].0, "disk.io");
    }

    #[test]
    fn a_users_line_cannot_pass_for_a_services() {
        let line =
            Line { at: NOW - SECOND, program: "postgres", command: "logger", message: "PANIC: ", ..Line::default() };
        let found = |is_trusted: bool| {
            let mut reader = Reader::new(NOW);
            reader.take(&Line { is_trusted, ..line });
            reader.end("test").hits.unwrap_or_default().len()
        };
        assert_eq!((found(true), found(false)), (1, 0));
    }

    #[test]
    fn lines_older_than_a_day_are_ignored() {
        let mut reader = Reader::new(NOW);
        let old = NOW - 40 * 24 * 3600 * SECOND;
        reader.take(&Line {
            at: old,
            program: "kernel",
            is_kernels: true,
            message: "I/O error, dev sda, sector 1",
            ..Line::default()
        });
        let logs = reader.end("test");
        assert_eq!((logs.errors, logs.hits), (Some(0), Some(Vec::new())));
    }
}
