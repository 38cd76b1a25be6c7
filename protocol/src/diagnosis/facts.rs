//! Measured facts, by section, with units in the names.
//!
//! A field that could not be measured is `None`, never a guess, and `why` gives the reason under
//! the field's name. An empty list was read and is empty; a list that could not be read is `None`.
//! Lists are cut at [`LIST`] entries, worst first. Bytes that are not UTF-8 are escaped: `\xfc`.

use super::reason::Reasons;
use serde::{Deserialize, Serialize};

/// Maximum number of entries of any list in a report.
pub const LIST: usize = 64;

/// Name, operating system, uptime.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct System {
    /// The host name.
    pub hostname: String,
    /// Distribution and version: `debian-12`.
    pub os: String,
    /// The same, human-readable: `Debian GNU/Linux 12 (bookworm)`.
    pub os_name: String,
    /// Kernel release.
    pub kernel: String,
    /// Processor architecture.
    pub arch: String,
    /// Seconds since boot.
    pub uptime_s: u64,
    /// Whether installed updates need a restart.
    pub restart_required: Option<bool>,
    /// The newest installed kernel of the same flavour as the running one.
    pub kernel_installed: Option<String>,
    /// The kind of container this is; empty if it is none.
    pub container: String,
    /// The kind of virtual machine this is; empty on real hardware.
    pub virtual_machine: String,
    /// Days until the release gets no more security updates; negative afterwards.
    pub support_days: Option<f64>,
    /// When that is or was: `2028-06-30`.
    pub support_ends: Option<String>,
    /// Whether the boot before this one ended without a shutdown.
    pub boot_unclean: Option<bool>,
    /// How often it booted in the last seven days.
    pub boots_7d: Option<u32>,
    /// Version of the agent.
    pub agent: String,
    /// Why facts are missing.
    #[serde(skip_serializing_if = "Reasons::is_empty")]
    pub why: Reasons,
}

/// Cores, load, pressure.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Cpu {
    /// The processor's name.
    pub model: String,
    /// Logical cores.
    pub cores: u32,
    /// Load averages over 1, 5 and 15 minutes.
    pub load_1: f64,
    /// See `load_1`.
    pub load_5: f64,
    /// See `load_1`.
    pub load_15: f64,
    /// `load_15` divided by the cores; none in a container that shows its host's load.
    pub load_15_per_core: Option<f64>,
    /// Time with work waiting for a processor, last minute, per cent.
    pub pressure_pct: Option<f64>,
    /// The same over the last five minutes.
    pub pressure_5m_pct: Option<f64>,
    /// Time all tasks waited for a disk, last minute, per cent.
    pub io_pressure_pct: Option<f64>,
    /// The same over the last five minutes.
    pub io_pressure_5m_pct: Option<f64>,
    /// Busy time during the diagnosis, per cent of all cores.
    pub busy_pct: Option<f64>,
    /// Time the host withheld during the diagnosis, per cent.
    pub stolen_pct: Option<f64>,
    /// Time the host withheld since a diagnosis earlier in this boot, per cent.
    pub stolen_since_pct: Option<f64>,
    /// Why facts are missing.
    #[serde(skip_serializing_if = "Reasons::is_empty")]
    pub why: Reasons,
}

/// Memory and swap.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Memory {
    /// All memory.
    pub total_bytes: u64,
    /// What programs can still allocate, including ZFS's cache.
    pub available_bytes: u64,
    /// The same, per cent.
    pub available_pct: f64,
    /// All swap except in compressed memory.
    pub swap_total_bytes: u64,
    /// Swap in use.
    pub swap_used_bytes: u64,
    /// The same, per cent; none without swap.
    pub swap_used_pct: Option<f64>,
    /// Time all tasks waited for memory, last minute, per cent.
    pub pressure_pct: Option<f64>,
    /// The same over the last five minutes.
    pub pressure_5m_pct: Option<f64>,
    /// Time some tasks waited for memory over the last five minutes, per cent.
    pub some_pressure_5m_pct: Option<f64>,
    /// Processes the kernel killed for lack of memory since boot.
    pub killed: Option<u64>,
    /// How many of them since a diagnosis earlier in this boot. Excludes those that the kernel's
    /// log buffer shows to be killed at the limit of their own control group.
    pub killed_since: Option<u64>,
    /// Errors that memory modules have corrected, since an earlier diagnosis.
    pub ecc_corrected_since: Option<u64>,
    /// Errors that could not be corrected, since boot.
    pub ecc_uncorrected: Option<u64>,
    /// Memory that the kernel no longer uses, because it is broken.
    pub broken_bytes: Option<u64>,
    /// How long ago that earlier diagnosis was, seconds.
    pub since_s: Option<u64>,
    /// Why facts are missing.
    #[serde(skip_serializing_if = "Reasons::is_empty")]
    pub why: Reasons,
}

/// File systems and drives.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Disks {
    /// File systems with a size of their own, each once.
    pub filesystems: Vec<Filesystem>,
    /// Whole drives.
    pub drives: Vec<Drive>,
    /// Software RAIDs.
    pub arrays: Option<Vec<Array>>,
    /// ZFS pools.
    pub pools: Option<Vec<Pool>>,
    /// Why a drive's health could not be read: the first reason found.
    pub smart_unanswered: Option<String>,
    /// File systems in fstab that should be mounted and are not.
    pub missing_mounts: Option<Vec<MissingMount>>,
    /// Why facts are missing.
    #[serde(skip_serializing_if = "Reasons::is_empty")]
    pub why: Reasons,
}

/// One mounted file system.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Filesystem {
    /// Where it is mounted.
    pub mount: String,
    /// What is mounted.
    pub device: String,
    /// Its type.
    pub kind: String,
    /// Its size.
    pub size_bytes: Option<u64>,
    /// Bytes that ordinary programs can still write.
    pub free_bytes: Option<u64>,
    /// The same, per cent of what ordinary programs can use.
    pub free_pct: Option<f64>,
    /// Files it can hold; none if the file system does not count them.
    pub inodes: Option<u64>,
    /// Files it can still take, per cent.
    pub inodes_free_pct: Option<f64>,
    /// Whether it is read-only.
    pub read_only: bool,
    /// Whether it is read-only although it was not mounted so.
    pub read_only_unasked: bool,
    /// Whether accesses to it block for ever.
    pub hangs: bool,
    /// Errors that the file system has recorded about itself (ext4).
    pub errors: Option<u64>,
    /// Days since the last of these errors.
    pub error_days: Option<f64>,
    /// Why facts are missing.
    #[serde(skip_serializing_if = "Reasons::is_empty")]
    pub why: Reasons,
}

/// One drive.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Drive {
    /// Its device.
    pub device: String,
    /// Its maker's model name.
    pub model: String,
    /// Its size.
    pub size_bytes: u64,
    /// Whether it is a spinning disk.
    pub rotating: bool,
    /// Whether it reports to be healthy.
    pub healthy: Option<bool>,
    /// Errors of the medium, or sectors that could not be read.
    pub media_errors: Option<u64>,
    /// Sectors that were replaced by spare ones.
    pub reallocated: Option<u64>,
    /// How many of both were added since a diagnosis earlier in this boot.
    pub media_errors_since: Option<u64>,
    /// Wear, per cent of its rated life.
    pub worn_pct: Option<f64>,
    /// Whether its spare blocks are below its maker's threshold.
    pub spare_low: Option<bool>,
    /// Whether its last self-test failed.
    pub self_test_failed: Option<bool>,
    /// Its temperature.
    pub temperature_c: Option<f64>,
    /// By how many degrees that exceeds its rated maximum; negative below.
    pub too_hot_c: Option<f64>,
    /// Whether it runs; false if the kernel has disabled it.
    pub running: Option<bool>,
    /// Why facts are missing.
    #[serde(skip_serializing_if = "Reasons::is_empty")]
    pub why: Reasons,
}

/// One software RAID.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Array {
    /// Its device.
    pub device: String,
    /// Its level: `raid1`.
    pub level: String,
    /// Its state, as the kernel names it: `clean`, `inactive`.
    pub state: String,
    /// Disks it should have.
    pub disks: u32,
    /// Disks it lacks; none if its level has no redundancy.
    pub missing: Option<u32>,
    /// Disks in it that are marked faulty.
    pub faulty: u32,
    /// Whether it is being rebuilt.
    pub rebuilding: bool,
    /// Why facts are missing.
    #[serde(skip_serializing_if = "Reasons::is_empty")]
    pub why: Reasons,
}

/// One ZFS pool.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Pool {
    /// Its name.
    pub name: String,
    /// Its state, as ZFS names it: `ONLINE`.
    pub state: String,
}

/// One file system in fstab that should be mounted.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct MissingMount {
    /// Its mount point.
    pub mount: String,
    /// Its device.
    pub device: String,
    /// Whether the machine may boot without it (`nofail`).
    pub may_be_absent: bool,
}

/// Interfaces, routes, name servers, reachability.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Network {
    /// Interfaces except loopback.
    pub interfaces: Vec<Interface>,
    /// Default routes.
    pub default_routes: Option<Vec<Route>>,
    /// Default gateways.
    pub gateways: Vec<String>,
    /// Whether the first gateway answers; none if it cannot be determined.
    pub gateway_reachable: Option<bool>,
    /// Name servers.
    pub dns_servers: Option<Vec<String>>,
    /// The result of asking each of them for the hub's name.
    pub resolvers: Option<Vec<Resolver>>,
    /// How many of them answered.
    pub resolvers_answering: Option<u32>,
    /// Whether the hub can be reached; none if the machine is off line on purpose.
    pub hub_reachable: Option<bool>,
    /// Round-trip time to the hub.
    pub hub_rtt_ms: Option<f64>,
    /// Why facts are missing.
    #[serde(skip_serializing_if = "Reasons::is_empty")]
    pub why: Reasons,
}

/// One default route.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Route {
    /// Its interface.
    pub device: String,
    /// Its gateway; none if the interface needs none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gateway: Option<String>,
}

/// One name server.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Resolver {
    /// Its address.
    pub address: String,
    /// Whether it answers.
    pub answers: Option<bool>,
    /// How long its answer took.
    pub took_ms: Option<f64>,
    /// The response code: `NOERROR`, `SERVFAIL`; or why there was no response.
    pub said: String,
    /// Why facts are missing.
    #[serde(skip_serializing_if = "Reasons::is_empty")]
    pub why: Reasons,
}

/// One network interface.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// Whether it has a link.
    pub up: bool,
    /// Its addresses with prefix.
    pub addresses: Vec<String>,
    /// Its MTU.
    pub mtu_bytes: u64,
    /// Bytes received since boot.
    pub received_bytes: u64,
    /// Bytes sent since boot.
    pub sent_bytes: u64,
    /// Packets lost to errors, in both directions, since boot.
    pub errors: u64,
    /// The same, per cent of all packets.
    pub errors_pct: f64,
    /// Packets lost to errors since a diagnosis earlier in this boot.
    pub errors_since: Option<u64>,
    /// The same, per cent of all packets since then.
    pub errors_since_pct: Option<f64>,
    /// Whether it is up, but has only a self-assigned address.
    pub self_assigned: bool,
    /// Why facts are missing.
    #[serde(skip_serializing_if = "Reasons::is_empty")]
    pub why: Reasons,
}

/// Who uses processor and memory.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Processes {
    /// How many there are.
    pub count: Option<u32>,
    /// Processes that have ended, but were not reaped by their parents.
    pub zombies: Option<u32>,
    /// Those that used the processor most during the diagnosis.
    pub top_cpu: Vec<Process>,
    /// Those that use most memory.
    pub top_memory: Option<Vec<Process>>,
    /// How many wait for a disk or another device right now.
    pub waiting_for_device: Option<u32>,
    /// Programs that still run code an update has replaced.
    pub outdated: Option<Vec<String>>,
    /// How many such programs there are.
    pub outdated_count: Option<u32>,
    /// Why facts are missing.
    #[serde(skip_serializing_if = "Reasons::is_empty")]
    pub why: Reasons,
}

/// One process.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Process {
    /// Its pid.
    pub pid: u32,
    /// Its name.
    pub name: String,
    /// Share of one core during the diagnosis, per cent.
    pub cpu_pct: f64,
    /// Resident memory.
    pub memory_bytes: u64,
    /// The same, per cent of all memory.
    pub memory_pct: f64,
}

/// Services that should run.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Services {
    /// The service manager; empty if there is none.
    pub manager: String,
    /// How many are running.
    pub running: Option<u32>,
    /// Those that failed.
    pub failed: Option<Vec<FailedService>>,
    /// Those that restart repeatedly.
    pub restarting: Option<Vec<RestartingService>>,
    /// Printers.
    pub printers: Option<Vec<Printer>>,
    /// Backups.
    pub backups: Option<Vec<Backup>>,
    /// Why facts are missing.
    #[serde(skip_serializing_if = "Reasons::is_empty")]
    pub why: Reasons,
}

/// One failed unit.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct FailedService {
    /// Its unit.
    pub unit: String,
    /// What kind of unit it is: `service`, `mount`, `timer`.
    pub kind: String,
    /// Its description.
    pub description: String,
    /// How it failed.
    pub state: String,
    /// Whether it runs once and ends, started by a timer or at boot.
    pub runs_once: Option<bool>,
    /// Why facts are missing.
    #[serde(skip_serializing_if = "Reasons::is_empty")]
    pub why: Reasons,
}

/// One service that restarts repeatedly.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct RestartingService {
    /// Its unit.
    pub unit: String,
    /// Its description.
    pub description: String,
    /// Whether it is down right now, between two starts.
    pub down: bool,
    /// How often it was restarted automatically since boot.
    pub restarts: Option<u64>,
    /// The same since a diagnosis earlier in this boot.
    pub restarts_since: Option<u64>,
    /// The same per hour.
    pub restarts_per_h: Option<f64>,
    /// Why facts are missing.
    #[serde(skip_serializing_if = "Reasons::is_empty")]
    pub why: Reasons,
}

/// One printer.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Printer {
    /// Its name.
    pub name: String,
    /// Whether it was stopped.
    pub stopped: bool,
    /// Whether it accepts no new jobs.
    pub refuses: bool,
    /// Queued jobs.
    pub jobs: u32,
    /// Hours since the oldest of them was queued.
    pub oldest_job_h: Option<f64>,
    /// Why facts are missing.
    #[serde(skip_serializing_if = "Reasons::is_empty")]
    pub why: Reasons,
}

/// One backup.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Backup {
    /// Its unit or folder.
    pub name: String,
    /// The program that makes it: `borg`, `restic`.
    pub program: String,
    /// Days since the last successful one; none if there was none.
    pub age_days: Option<f64>,
    /// Whether the last one failed.
    pub failed: bool,
    /// Why facts are missing.
    #[serde(skip_serializing_if = "Reasons::is_empty")]
    pub why: Reasons,
}

/// Recent errors, grouped.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Logs {
    /// The log that was read.
    pub source: String,
    /// How many hours back should be read.
    pub hours: u32,
    /// Hours that were really read; less if the log begins later, or reading was stopped early.
    pub hours_read: Option<f64>,
    /// Errors in that time.
    pub errors: Option<u64>,
    /// Errors grouped by shape of message, most frequent first.
    pub groups: Vec<LogGroup>,
    /// Whether the log contains messages of programs, not only of the kernel.
    pub programs_read: Option<bool>,
    /// Known patterns that were found; also rare hits are kept.
    pub hits: Option<Vec<LogHit>>,
    /// Failed logins.
    pub failed_logins: Option<u64>,
    /// Where most of them came from.
    pub failed_logins_from: Vec<String>,
    /// Successful logins from addresses with 20 or more failed ones.
    pub guessed_logins: Option<Vec<String>>,
    /// How many there are.
    pub guessed_logins_count: Option<u32>,
    /// Whether reading was stopped early, by time or size; the newest lines were read.
    pub cut: Option<bool>,
    /// Why facts are missing.
    #[serde(skip_serializing_if = "Reasons::is_empty")]
    pub why: Reasons,
}

/// Messages of one shape: equal except for numbers and names.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct LogGroup {
    /// The newest of them.
    pub message: String,
    /// The program that wrote it.
    pub source: String,
    /// How many.
    pub count: u64,
}

/// One known pattern that was found.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct LogHit {
    /// Which pattern.
    pub pattern: String,
    /// What it is about: a device, a unit, a program.
    pub about: String,
    /// The newest message.
    pub message: String,
    /// How many.
    pub count: u64,
    /// Hours since the newest of them.
    pub hours_ago: f64,
}

/// Pending updates.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Updates {
    /// The package manager; empty where none is known.
    pub manager: String,
    /// Packages with a newer version.
    pub pending: Option<u32>,
    /// Those of them that close security holes.
    pub security: Option<u32>,
    /// Packages that the package manager holds back.
    pub kept_back: Option<u32>,
    /// Days since the package lists were fetched.
    pub lists_age_days: Option<f64>,
    /// Half-installed packages, and anything else that keeps the package manager from working.
    pub broken: Option<Vec<String>>,
    /// How many there are.
    pub broken_count: Option<u32>,
    /// Repositories that can no longer be used, and why.
    pub bad_sources: Option<Vec<String>>,
    /// How many there are.
    pub bad_sources_count: Option<u32>,
    /// Why facts are missing.
    #[serde(skip_serializing_if = "Reasons::is_empty")]
    pub why: Reasons,
}

/// Clock and its synchronisation.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Time {
    /// The machine's clock, Unix milliseconds.
    pub now_ms: i64,
    /// Its zone.
    pub zone: String,
    /// Whether something synchronises it; none if that cannot be determined.
    pub synchronised: Option<bool>,
    /// The kernel's upper bound for the clock's error, seconds.
    pub error_bound_s: Option<f64>,
    /// How far it is ahead of (+) or behind (−) the hub's clock.
    pub ahead_of_hub_s: Option<f64>,
    /// The absolute value of that, or how far the clock is behind the newest signed time seen,
    /// whichever is more.
    pub off_s: Option<f64>,
    /// Why facts are missing.
    #[serde(skip_serializing_if = "Reasons::is_empty")]
    pub why: Reasons,
}

/// Batteries and mains.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Power {
    /// Whether mains power is connected; none on machines that do not report it.
    pub mains: Option<bool>,
    /// Batteries.
    pub batteries: Vec<Battery>,
    /// Why facts are missing.
    #[serde(skip_serializing_if = "Reasons::is_empty")]
    pub why: Reasons,
}

/// One battery.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Battery {
    /// Its name.
    pub name: String,
    /// Charging, discharging, full.
    pub state: String,
    /// Whether the machine runs on it now.
    pub discharging: bool,
    /// Whether it belongs to an uninterruptible power supply.
    pub of_ups: bool,
    /// Charge, per cent.
    pub charge_pct: Option<f64>,
    /// Its capacity now, per cent of its capacity when new.
    pub health_pct: Option<f64>,
    /// Why facts are missing.
    #[serde(skip_serializing_if = "Reasons::is_empty")]
    pub why: Reasons,
}

/// Listening sockets, logins, firewall.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Security {
    /// Sockets that listen beyond this machine, by port.
    pub listening: Vec<Listening>,
    /// How many of them there are.
    pub open_ports: Option<u32>,
    /// The first of them, as `tcp 22 (sshd)`.
    pub open: Vec<String>,
    /// Whether a firewall blocks incoming connections that are not allowed.
    pub firewall: Option<bool>,
    /// The active filters: `nftables inet filter input`.
    pub firewall_by: Vec<String>,
    /// Who may become root without a password: user, command, and the file that allows it.
    pub sudo_without_password: Option<Vec<String>>,
    /// How many such grants there are.
    pub sudo_without_password_count: Option<u32>,
    /// The ssh server's setting for root logins from outside: `prohibit-password`.
    pub ssh_root_login: Option<String>,
    /// Whether root can log in over ssh with a password.
    pub ssh_root_password: Option<bool>,
    /// Whether anybody can log in over ssh with a password.
    pub ssh_passwords: Option<bool>,
    /// Accounts besides root with root's user id.
    pub second_roots: Option<Vec<String>>,
    /// How many there are.
    pub second_roots_count: Option<u32>,
    /// Certificates that services here use.
    pub certificates: Option<Vec<Certificate>>,
    /// Why facts are missing.
    #[serde(skip_serializing_if = "Reasons::is_empty")]
    pub why: Reasons,
}

/// One certificate that a service uses.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Certificate {
    /// Its file.
    pub file: String,
    /// The settings that name it.
    pub used_by: String,
    /// Days until it expires; negative afterwards.
    pub days_left: Option<f64>,
    /// Days until it becomes valid; 0 afterwards.
    pub begins_in_days: Option<f64>,
    /// Why facts are missing.
    #[serde(skip_serializing_if = "Reasons::is_empty")]
    pub why: Reasons,
}

/// One listening socket.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Listening {
    /// `tcp` or `udp`.
    pub protocol: String,
    /// The address it listens on.
    pub address: String,
    /// Its port.
    pub port: u16,
    /// The program, if it may be known.
    pub process: Option<String>,
}
