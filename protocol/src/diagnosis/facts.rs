//! What is measured, by section, with units in the names.
//!
//! A field that could not be measured is `None`, never a guess. Lists are cut
//! at [`LIST`] entries, worst first.

use serde::{Deserialize, Serialize};

/// Entries of any list in a report.
pub const LIST: usize = 64;

/// Name, operating system, uptime.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct System {
    /// What the machine calls itself.
    pub hostname: String,
    /// Distribution and version: `debian-12`.
    pub os: String,
    /// The same for people: `Debian GNU/Linux 12 (bookworm)`.
    pub os_name: String,
    /// Kernel release.
    pub kernel: String,
    /// Processor architecture.
    pub arch: String,
    /// Seconds since boot.
    pub uptime_s: u64,
    /// Whether installed updates wait for a restart.
    pub restart_required: bool,
    /// Version of the agent.
    pub agent: String,
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
    /// `load_15` divided by the cores.
    pub load_15_per_core: f64,
    /// Time with work waiting for a processor, last minute, per cent.
    pub pressure_pct: Option<f64>,
    /// Time all tasks waited for a disk, last minute, per cent.
    pub io_pressure_pct: Option<f64>,
    /// Busy time while looking, per cent of all cores.
    pub busy_pct: f64,
    /// Time the host took away while looking, per cent.
    pub stolen_pct: f64,
}

/// Memory and swap.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Memory {
    /// All memory.
    pub total_bytes: u64,
    /// What programs can still have.
    pub available_bytes: u64,
    /// The same, per cent.
    pub available_pct: f64,
    /// All swap.
    pub swap_total_bytes: u64,
    /// Swap in use.
    pub swap_used_bytes: u64,
    /// The same, per cent; none without swap.
    pub swap_used_pct: Option<f64>,
    /// Time all tasks waited for memory, last minute, per cent.
    pub pressure_pct: Option<f64>,
    /// Processes the kernel killed for lack of memory since boot.
    pub killed: Option<u64>,
}

/// File systems and drives.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Disks {
    /// Local file systems that hold data.
    pub filesystems: Vec<Filesystem>,
    /// Whole drives.
    pub drives: Vec<Drive>,
    /// Why drives could not be asked for their health.
    pub smart_unanswered: Option<String>,
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
    pub size_bytes: u64,
    /// What ordinary programs can still write.
    pub free_bytes: u64,
    /// The same, per cent of what ordinary programs can have.
    pub free_pct: f64,
    /// Files it can hold; none where that is not counted.
    pub inodes: Option<u64>,
    /// Files it can still take, per cent.
    pub inodes_free_pct: Option<f64>,
    /// Mounted read-only although it is no image or disc.
    pub read_only: bool,
}

/// One drive.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Drive {
    /// Its device.
    pub device: String,
    /// Its maker's name for it.
    pub model: String,
    /// Its size.
    pub size_bytes: u64,
    /// Whether it has turning parts.
    pub rotating: bool,
    /// Whether it says it is well.
    pub healthy: Option<bool>,
    /// Errors of the medium or sectors given up.
    pub media_errors: Option<u64>,
    /// Wear, per cent of its rated life.
    pub worn_pct: Option<f64>,
    /// Its temperature.
    pub temperature_c: Option<f64>,
}

/// Interfaces, routes, name servers, reachability.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Network {
    /// Interfaces but for loopback.
    pub interfaces: Vec<Interface>,
    /// Default gateways.
    pub gateways: Vec<String>,
    /// Whether the first gateway answers; none if it cannot be told.
    pub gateway_reachable: Option<bool>,
    /// Name servers.
    pub dns_servers: Vec<String>,
    /// Whether the hub can be reached; none while off line on purpose.
    pub hub_reachable: Option<bool>,
    /// Round-trip time to the hub.
    pub hub_rtt_ms: Option<f64>,
}

/// One network interface.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// Whether it carries.
    pub up: bool,
    /// Its addresses with prefix.
    pub addresses: Vec<String>,
    /// Largest packet.
    pub mtu_bytes: u64,
    /// Bytes received since boot.
    pub received_bytes: u64,
    /// Bytes sent since boot.
    pub sent_bytes: u64,
    /// Packets lost to errors, both ways, since boot.
    pub errors: u64,
    /// The same, per cent of all packets.
    pub errors_pct: f64,
}

/// Who uses processor and memory.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Processes {
    /// How many there are.
    pub count: u32,
    /// Ended, but not collected by their parents.
    pub zombies: u32,
    /// Those that used the processor most while looking.
    pub top_cpu: Vec<Process>,
    /// Those that hold most memory.
    pub top_memory: Vec<Process>,
}

/// One process.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Process {
    /// Its number.
    pub pid: u32,
    /// Its name.
    pub name: String,
    /// Share of one core while looking, per cent.
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
    /// Who looks after them.
    pub manager: String,
    /// How many are running.
    pub running: u32,
    /// Those that failed.
    pub failed: Vec<FailedService>,
}

/// One failed service.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct FailedService {
    /// Its unit.
    pub unit: String,
    /// What it is.
    pub description: String,
    /// How it failed.
    pub state: String,
}

/// Recent errors, grouped.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Logs {
    /// Where they were read.
    pub source: String,
    /// How far back.
    pub hours: u32,
    /// Errors in that time.
    pub errors: u64,
    /// The same by shape of message, most frequent first.
    pub groups: Vec<LogGroup>,
}

/// Messages of one shape: equal but for numbers and names.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct LogGroup {
    /// The newest of them.
    pub message: String,
    /// Who wrote it.
    pub source: String,
    /// How many.
    pub count: u64,
}

/// Pending updates.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Updates {
    /// The package manager.
    pub manager: String,
    /// Packages with a newer version.
    pub pending: u32,
    /// Those of them that close security holes.
    pub security: u32,
    /// Days since the lists were fetched.
    pub lists_age_days: Option<f64>,
}

/// Clock and its synchronisation.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Time {
    /// The machine's clock, Unix milliseconds.
    pub now_ms: i64,
    /// Its zone.
    pub zone: String,
    /// Whether something keeps it right; none if that cannot be told.
    pub synchronised: Option<bool>,
    /// How far it lies before (+) or behind (−) the hub's clock.
    pub ahead_of_hub_s: Option<f64>,
    /// The same without its sign, or how far it lies behind the newest signed
    /// time seen, whichever is more.
    pub off_s: f64,
}

/// Batteries and mains.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Power {
    /// Whether mains power is there; none on machines that do not tell.
    pub mains: Option<bool>,
    /// Batteries.
    pub batteries: Vec<Battery>,
}

/// One battery.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Battery {
    /// Its name.
    pub name: String,
    /// Charging, discharging, full.
    pub state: String,
    /// Charge, per cent.
    pub charge_pct: Option<f64>,
    /// What it can still hold, per cent of new.
    pub health_pct: Option<f64>,
}

/// Listening sockets, logins, firewall.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Security {
    /// Sockets that hear more than this machine, by port.
    pub listening: Vec<Listening>,
    /// How many of them there are.
    pub open_ports: u32,
    /// Whether a firewall filters; none if that cannot be told.
    pub firewall: Option<bool>,
    /// Lines that allow root's rights without a password.
    pub sudo_without_password: Vec<String>,
    /// How many such lines there are.
    pub sudo_without_password_count: u32,
    /// The ssh server's word on root logins; none without a server.
    pub ssh_root_login: Option<String>,
    /// Accounts besides root that are root.
    pub second_roots: Vec<String>,
    /// How many there are.
    pub second_roots_count: u32,
}

/// One listening socket.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Listening {
    /// `tcp` or `udp`.
    pub protocol: String,
    /// The address it hears.
    pub address: String,
    /// Its port.
    pub port: u16,
    /// The program, where that may be known.
    pub process: Option<String>,
}
