//! Name, operating system, kind of machine, boots.

use crate::collect::bytes::{clipped, names_in, shown};
use crate::collect::{child, missing, read};
use fernwart_protocol::diagnosis::facts::System;
use fernwart_protocol::diagnosis::{Cause, Reason};
use fernwart_protocol::text::Text;
use std::path::Path;
use std::time::{Duration, Instant};

/// Files with which distributions announce that a restart is required.
const RESTART: [&str; 2] = ["/run/reboot-required", "/var/run/reboot-required"];

pub(super) fn facts(until: Instant) -> System {
    let mut system = System {
        hostname: clipped(&hostname()),
        os: os_in_a_word().as_raw().to_owned(),
        os_name: clipped(&release("PRETTY_NAME")),
        kernel: clipped(&shown(rustix::system::uname().release().to_bytes())),
        arch: clipped(&shown(rustix::system::uname().machine().to_bytes())),
        uptime_s: sysinfo::System::uptime().unwrap_or_default(),
        container: container(),
        virtual_machine: virtual_machine(),
        agent: env!("CARGO_PKG_VERSION").to_owned(),
        ..System::default()
    };
    restart(&mut system);
    support(&mut system);
    boots(&mut system, until);
    system
}

/// The machine's complete host name.
pub(crate) fn hostname() -> String {
    shown(rustix::system::uname().nodename().to_bytes())
}

/// A field of os-release(5).
fn release(field: &str) -> String {
    let text = read("/etc/os-release").or_else(|| read("/usr/lib/os-release")).unwrap_or_default();
    let line = text.lines().find_map(|line| line.trim().strip_prefix(field)?.strip_prefix('='));
    line.unwrap_or_default().trim_matches(['"', '\'']).to_owned()
}

/// The operating system's short name: `debian-12`.
pub fn os_in_a_word() -> Text<64> {
    let (id, version) = (release("ID"), release("VERSION_ID"));
    match (id.is_empty(), version.is_empty()) {
        (true, _) => Text::clipped(std::env::consts::OS),
        (false, true) => Text::clipped(&id),
        (false, false) => Text::clipped(&format!("{id}-{version}")),
    }
}

/// The kind of container this is; empty outside of any.
pub(super) fn container() -> String {
    if let Some(kind) = read("/run/systemd/container").filter(|kind| !kind.trim().is_empty()) {
        return clipped(&kind);
    }
    if Path::new("/.dockerenv").exists() {
        return "docker".to_owned();
    }
    if Path::new("/run/.containerenv").exists() {
        return "podman".to_owned();
    }
    // Only root can read it; container runtimes set this variable.
    let environment = crate::collect::bytes::read_bytes("/proc/1/environ").unwrap_or_default();
    let set = environment.split(|byte| *byte == 0).find_map(|entry| entry.strip_prefix(b"container="));
    set.map(|kind| clipped(&shown(kind))).unwrap_or_default()
}

/// The kind of virtual machine this is; empty on real hardware.
fn virtual_machine() -> String {
    let dmi = ["sys_vendor", "product_name", "bios_vendor"]
        .map(|file| read(format!("/sys/class/dmi/id/{file}")).unwrap_or_default());
    let known = [
        ("QEMU", "qemu"),
        ("KVM", "kvm"),
        ("VMware", "vmware"),
        ("VirtualBox", "virtualbox"),
        ("innotek", "virtualbox"),
        ("Xen", "xen"),
        ("Bochs", "qemu"),
        ("Parallels", "parallels"),
        ("Amazon EC2", "amazon"),
        ("Google", "google"),
        ("Virtual Machine", "hyper-v"),
        ("OpenStack", "openstack"),
        ("BHYVE", "bhyve"),
        ("Hetzner", "kvm"),
        ("Apple Virtualization", "apple"),
    ];
    let by_dmi = known.iter().find(|(word, _)| dmi.iter().any(|text| text.contains(word))).map(|(_, kind)| *kind);
    let by_processor = || {
        let flags = read("/proc/cpuinfo")?;
        flags
            .lines()
            .find(|line| line.starts_with("flags"))?
            .split_whitespace()
            .any(|f| f == "hypervisor")
            .then_some("unknown kind")
    };
    by_dmi.or_else(by_processor).unwrap_or_default().to_owned()
}

/// Whether updates need a restart: announced by the distribution, or because a newer kernel of
/// the same kind is installed.
fn restart(system: &mut System) {
    if !system.container.is_empty() {
        // A container runs its host's kernel.
        missing(
            &mut system.why,
            &["restart_required", "kernel_installed"],
            &Cause::new(Reason::NotSupported, "container"),
        );
        return;
    }
    let installed =
        names_in(Path::new("/lib/modules"), |name| Path::new("/lib/modules").join(name).join("modules.dep").exists());
    let newest = newest_kernel(&system.kernel, &installed).unwrap_or_else(|| system.kernel.clone());
    // A self-built kernel has no such modules folder, so other kernels are not its updates.
    let is_newer = installed.contains(&system.kernel) && newest != system.kernel;
    system.restart_required = Some(is_newer || RESTART.iter().any(|file| Path::new(file).exists()));
    system.kernel_installed = Some(clipped(&newest));
}

/// The newest installed kernel of the running one's kind: their names are equal except for
/// numbers, so that neither another flavour nor a self-built kernel counts as an update.
fn newest_kernel(running: &str, installed: &[String]) -> Option<String> {
    // Distribution suffixes in which only the number changes: fc39, el8, deb12.
    const RELEASES: [&str; 7] = ["fc", "el", "deb", "rc", "bpo", "lp", "amzn"];
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let kind = |name: &str| -> Vec<String> {
        let words = name.split(['.', '-', '~', '+', '_']).filter(|word| !word.is_empty() && !is_number(word));
        let word = |word: &str| {
            let release = RELEASES.iter().find(|begin| word.strip_prefix(**begin).is_some_and(is_number));
            release.map_or_else(|| word.to_owned(), |begin| (*begin).to_owned())
        };
        words.map(word).collect()
    };
    let numbers = |name: &str| -> Vec<u64> {
        name.split(|c: char| !c.is_ascii_digit())
            .filter(|n| !n.is_empty())
            .map(|n| n.parse().unwrap_or(u64::MAX))
            .collect()
    };
    installed.iter().filter(|name| kind(name) == kind(running)).max_by_key(|name| numbers(name)).cloned()
}

/// Days since 1970 of a date like `2028-06-30`.
fn day(text: &str) -> Option<f64> {
    let date: jiff::civil::Date = text.trim().parse().ok()?;
    let at = date.to_zoned(jiff::tz::TimeZone::UTC).ok()?.timestamp();
    Some(at.as_second() as f64 / 86_400.0)
}

/// The release data of distributions (distro-info-data).
const RELEASES: &str = "/usr/share/distro-info";

/// End dates of releases that do not include them, as published: the end of free security
/// updates, including Debian's long-term support (wiki.debian.org/LTS,
/// ubuntu.com/about/release-cycle, both read in 2026).
const ENDS: [(&str, &str); 21] = [
    ("debian-9", "2022-06-30"),
    ("debian-10", "2024-06-30"),
    ("debian-11", "2026-08-31"),
    ("debian-12", "2028-06-30"),
    ("debian-13", "2030-06-30"),
    ("ubuntu-18.04", "2023-05-31"),
    ("ubuntu-20.04", "2025-05-31"),
    ("ubuntu-22.04", "2027-04-30"),
    ("ubuntu-24.04", "2029-04-30"),
    ("centos-7", "2024-06-30"),
    ("centos-8", "2021-12-31"),
    ("rhel-8", "2029-05-31"),
    ("rocky-8", "2029-05-31"),
    ("almalinux-8", "2029-03-01"),
    ("rhel-9", "2032-05-31"),
    ("rocky-9", "2032-05-31"),
    ("almalinux-9", "2032-05-31"),
    ("opensuse-leap-15.4", "2023-12-07"),
    ("opensuse-leap-15.5", "2024-12-31"),
    ("opensuse-leap-15.6", "2026-04-30"),
    ("linuxmint-20", "2025-04-30"),
];

fn support(system: &mut System) {
    let own = release("SUPPORT_END");
    let attached = || {
        // Ubuntu Pro and similar support continues for years.
        read("/var/lib/ubuntu-advantage/status.json").is_some_and(|text| text.contains("\"attached\": true"))
    };
    let listed = || distro_info(&read(format!("{RELEASES}/{}.csv", release("ID")))?, &release("VERSION_ID"));
    // For some only the major number counts; Raspbian uses Debian's dates.
    let os = system.os.replace("raspbian-", "debian-");
    let major = os.rsplit_once('.').map_or(os.as_str(), |(major, _)| major);
    let of = |os: &str| ENDS.iter().find(|(known, _)| *known == os).map(|(_, end)| (*end).to_owned());
    let known = || of(&os).or_else(|| of(major));
    let end = Some(own).filter(|end| !end.is_empty()).or_else(listed).or_else(known);
    match end.and_then(|end| Some((day(&end)?, end))).filter(|_| !attached()) {
        Some((last, end)) => {
            let today = crate::now() as f64 / 86_400_000.0;
            // The last day is included.
            system.support_days = Some((last + 1.0 - today).floor());
            system.support_ends = Some(clipped(&end));
        }
        None => {
            missing(&mut system.why, &["support_days", "support_ends"], &Reason::NotSupported.into());
        }
    }
}

/// The last day of free updates from a table of releases; columns are found by name.
fn distro_info(table: &str, version: &str) -> Option<String> {
    let mut lines = table.lines();
    let head: Vec<&str> = lines.next()?.split(',').collect();
    let at = |name: &str| head.iter().position(|column| *column == name);
    let row: Vec<&str> = lines
        .map(|line| line.split(',').collect::<Vec<_>>())
        .find(|row| at("version").and_then(|at| row.get(at)).is_some_and(|v| v.trim_end_matches(" LTS") == version))?;
    let field =
        |name: &str| at(name).and_then(|at| row.get(at)).filter(|text| !text.is_empty()).map(|text| (*text).to_owned());
    field("eol-lts").or_else(|| field("eol"))
}

/// Counts the boots of the last week, and checks whether the previous boot was shut down
/// properly.
fn boots(system: &mut System, until: Instant) {
    let unknown = |system: &mut System, why: Cause| {
        missing(&mut system.why, &["boot_unclean", "boots_7d"], &why);
    };
    if !system.container.is_empty() {
        return unknown(system, Cause::new(Reason::NotSupported, "container"));
    }
    if !Path::new("/var/log/journal").is_dir() {
        // The journal of earlier boots is not kept.
        return unknown(system, Cause::new(Reason::NotSupported, "journal in memory"));
    }
    let until = until.min(Instant::now() + Duration::from_millis(1500));
    // Reads the end of the previous boot's journal. Only entries of systemd and the journal
    // itself count, since any user can log the same text.
    let words = ["--no-pager", "-q", "-b", "-1", "-n", "300", "-o", "cat", "_TRANSPORT=driver", "+", "_PID=1"];
    let last = child::ask("journalctl", &words, until);
    match last {
        Ok(text) if text.trim().is_empty() => drop(system.why.insert("boot_unclean".into(), Reason::Absent.into())),
        Ok(text) => system.boot_unclean = Some(!is_goodbye(&text)),
        Err(why) if why.about.contains("-1") || why.about.contains("boot") => {
            system.why.insert("boot_unclean".into(), Reason::Absent.into());
        }
        Err(why) => drop(system.why.insert("boot_unclean".into(), why)),
    }
    // Slow on a large journal, and used only in a text, so it comes last.
    let list = child::ask("journalctl", &["--no-pager", "-q", "--list-boots", "-o", "json"], until);
    match list.map(|text| serde_json::from_str::<Vec<Boot>>(&text)) {
        Ok(Ok(boots)) => {
            let week = 7 * 86_400_000_000;
            let since = crate::now().saturating_mul(1000).saturating_sub(week);
            system.boots_7d = u32::try_from(boots.iter().filter(|boot| boot.first_entry >= since).count()).ok();
        }
        // Before systemd 254 there is no JSON output here.
        Ok(Err(_)) => drop(system.why.insert("boots_7d".into(), Cause::new(Reason::NotSupported, "journalctl"))),
        Err(why) => drop(system.why.insert("boots_7d".into(), why)),
    }
}

#[derive(serde::Deserialize)]
struct Boot {
    /// Microseconds since 1970.
    first_entry: i64,
}

/// Whether a boot's last entries show a shutdown. A journal that an update restarted has stopped
/// before, and so have targets after rescue mode.
fn is_goodbye(text: &str) -> bool {
    let again = [
        "Journal started",
        "Reached target Multi-User",
        "Reached target multi-user.target",
        "Reached target Graphical",
        "Reached target graphical.target",
    ];
    let words = [
        "Journal stopped",
        "Reached target Power-Off",
        "Reached target Reboot",
        "Reached target System Power Off",
        "Reached target System Reboot",
        "Reached target Halt",
        "Reached target poweroff.target",
        "Reached target reboot.target",
        "Reached target kexec",
        "systemd-shutdown",
        // If /var is a separate file system, the journal stops before the last entries.
        "Stopped target Multi-User",
        "Stopped target multi-user.target",
        "Stopped target graphical.target",
        "Stopped target Local File Systems",
        "Stopped target local-fs.target",
        "Stopped target System Initialization",
        "Stopped target sysinit.target",
        "System is powering down",
        "System is rebooting",
        "Reached target Late Shutdown Services",
        "Reached target final.target",
        "Reached target shutdown.target",
        "Reached target System Shutdown",
    ];
    let has = |line: &str, words: &[&str]| words.iter().any(|word| line.contains(word));
    text.lines().fold(false, |goodbye, line| has(line, &words) || goodbye && !has(line, &again))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_kernel_of_the_same_kind_counts_as_an_update() {
        let installed: Vec<String> =
            ["6.1.0-30-amd64", "6.1.0-9-amd64", "6.1.0-31-cloud-amd64", "6.12.3-own+"].map(String::from).into();
        assert_eq!(newest_kernel("6.1.0-9-amd64", &installed).as_deref(), Some("6.1.0-30-amd64"));
        assert_eq!(newest_kernel("6.12.3-own+", &installed).as_deref(), Some("6.12.3-own+"));
        assert_eq!(newest_kernel("6.1.0-9-rpi", &installed), None);
        let pairs = [
            ("6.6.20+rpt-rpi-v7", "6.6.31+rpt-rpi-v8", false),
            ("6.6.20+rpt-rpi-v8", "6.6.31+rpt-rpi-v8", true),
            ("6.5.6-200.fc39.x86_64", "6.8.1-300.fc40.x86_64", true),
            ("6.1.0-28+deb12-amd64", "6.12.41+deb13-amd64", true),
            ("5.15.0-91-generic", "5.15.0-91-lowlatency", false),
        ];
        for (running, installed, is_update) in pairs {
            let newest = newest_kernel(running, &[installed.to_owned()]);
            assert_eq!(newest.is_some(), is_update, "{running} {installed}");
        }
    }

    #[test]
    fn the_end_of_a_release_is_read_from_distro_info() {
        let table = "version,codename,series,created,release,eol,eol-lts,eol-elts\n\
                     12,Bookworm,bookworm,2021-08-14,2023-06-10,2026-06-10,2028-06-30,2033-06-30\n\
                     13,Trixie,trixie,2023-06-10,2025-08-09,2028-08-09\n";
        assert_eq!(distro_info(table, "12").as_deref(), Some("2028-06-30"));
        assert_eq!(distro_info(table, "13").as_deref(), Some("2028-08-09"));
        assert_eq!(distro_info(table, "11"), None);
        let ubuntu = "version,codename,series,created,release,eol,eol-server,eol-esm\n22.04 LTS,Jammy Jellyfish,jammy,2021-10-14,2022-04-21,2027-06-01,2027-06-01,2032-04-09\n";
        assert_eq!(distro_info(ubuntu, "22.04").as_deref(), Some("2027-06-01"));
        assert_eq!(day("1970-01-11"), Some(10.0));
    }

    #[test]
    fn a_clean_shutdown_is_recognised_by_its_last_journal_entries() {
        assert!(is_goodbye("Reached target Power-Off.\nShutting down.\nJournal stopped\n"));
        assert!(!is_goodbye("usb 1-1: new device\nCRON[7]: (root) CMD (run-parts)\n"));
        // An update of systemd restarts the journal, and later the power fails.
        assert!(!is_goodbye("Journal stopped\nJournal started\nFinished apt-daily.service\n"));
        assert!(!is_goodbye("Stopped target Multi-User System.\nReached target Multi-User System.\n"));
    }
}
