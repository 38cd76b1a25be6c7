//! The tables that queries can use, and their columns.
//!
//! Two base tables hold the data: `known` (machines) and `told` (machine, section, JSON). All
//! others are views over the JSON, so that new facts of a newer agent appear in `facts` at once.

/// A column.
#[derive(Debug, Clone, Copy)]
pub struct Column {
    /// Its name, which is the fact's.
    pub name: &'static str,
    /// Its description.
    pub about: &'static str,
}

/// A table.
#[derive(Debug, Clone, Copy)]
pub struct Table {
    /// Its name.
    pub name: &'static str,
    /// The description of a row.
    pub about: &'static str,
    /// The source of its rows; `None` for views that are written out below.
    pub(crate) from: Option<(&'static str, Option<&'static str>)>,
    /// Its columns beside `machine` and `customer`, which all tables have.
    pub columns: &'static [Column],
}

macro_rules! columns {
    ($($name:literal: $about:literal),* $(,)?) => {
        &[$(Column { name: $name, about: $about }),*]
    };
}

/// A table with one row per machine, from a section.
const fn one(name: &'static str, about: &'static str, section: &'static str, columns: &'static [Column]) -> Table {
    Table { name, about, from: Some((section, None)), columns }
}

/// A table with one row per item of a section's list.
const fn each(
    name: &'static str,
    about: &'static str,
    (section, list): (&'static str, &'static str),
    columns: &'static [Column],
) -> Table {
    Table { name, about, from: Some((section, Some(list))), columns }
}

/// All tables.
pub const TABLES: &[Table] = &[
    Table {
        name: "machines",
        about: "a machine that is admitted",
        from: None,
        columns: columns! {
            "id": "its id", "os": "its operating system in a word", "agent": "its program's version",
            "state": "online or away", "seen_at": "when it was last linked, Unix milliseconds",
            "health": "ok, warn, unknown, crit, or nothing before the first diagnosis",
            "diagnosed_at": "when its facts were taken, by its own clock, Unix milliseconds",
            "age_s": "seconds since then",
        },
    },
    Table {
        name: "labels",
        about: "a label of a machine",
        from: None,
        columns: columns! { "name": "its name", "value": "its value" },
    },
    Table {
        name: "groups",
        about: "a group that a machine is in",
        from: None,
        columns: columns! { "name": "its name" },
    },
    Table {
        name: "facts",
        about: "a section as the machine told it",
        from: None,
        columns: columns! { "section": "its name", "facts": "all of it, JSON: facts ->> '$.kernel'" },
    },
    each(
        "findings",
        "what is not well on a machine",
        ("findings", "$"),
        columns! {
            "id": "the rule that found it", "severity": "warn or crit", "instance": "which one, for instance the mount",
            "cause": "why, in English", "remedy": "the script that repairs it",
        },
    ),
    each(
        "notes",
        "what is worth knowing of a machine and no fault, blind spots among it",
        ("notes", "$"),
        columns! {
            "id": "its name", "instance": "which one, for instance the program that is missing", "cause": "why, in English",
        },
    ),
    each(
        "unknown",
        "a check that should have an answer and has none",
        ("unknown", "$"),
        columns! {
            "id": "the rule", "instance": "which one, for instance the mount", "reason": "why it has no answer",
            "could_be": "the worst it could be: warn or crit", "since": "since when, by its own clock, Unix milliseconds",
        },
    ),
    one(
        "system",
        "the computer and its operating system",
        "system",
        columns! {
            "hostname": "what it calls itself", "os": "in a word", "os_name": "in full", "kernel": "its version",
            "arch": "the processor's kind", "uptime_s": "seconds since its start",
            "restart_required": "1 where an update waits for a restart", "kernel_installed": "the newest one installed",
            "container": "the kind of container, if it is one", "virtual_machine": "the kind, if it is one",
            "support_ends": "when its release gets no more security updates", "support_days": "days until then",
            "boot_unclean": "1 where the boot before ended without a shutdown", "boots_7d": "starts in seven days",
            "agent": "its program's version",
        },
    ),
    one(
        "cpu",
        "the processor",
        "cpu",
        columns! {
            "model": "its name", "cores": "how many", "busy_pct": "share of time", "stolen_pct": "share taken by the host",
            "load_15_per_core": "load of 15 minutes for each core", "pressure_5m_pct": "share of five minutes in which something waited for it",
            "io_pressure_5m_pct": "the same for disks",
            "pressure_pct": "share of time in which something waited for it", "io_pressure_pct": "the same for disks",
        },
    ),
    one(
        "memory",
        "memory and swap",
        "memory",
        columns! {
            "total_bytes": "all", "available_bytes": "what programs can still have", "available_pct": "its share",
            "swap_total_bytes": "all", "swap_used_bytes": "in use", "swap_used_pct": "its share",
            "pressure_pct": "share of time in which something waited for it", "killed": "processes ended for want of it",
            "killed_since": "of these since an earlier diagnosis", "ecc_uncorrected": "errors of memory modules",
        },
    ),
    each(
        "filesystems",
        "a mounted file system",
        ("disks", "$.filesystems"),
        columns! {
            "mount": "where", "device": "what", "kind": "ext4, ntfs …", "size_bytes": "all", "free_bytes": "free",
            "free_pct": "its share", "inodes": "how many files fit", "inodes_free_pct": "share that is free",
            "read_only": "1 where it can only be read", "read_only_unasked": "1 where nobody mounted it so",
            "hangs": "1 where it does not answer", "errors": "errors it has recorded about itself",
        },
    ),
    each(
        "raids",
        "a software RAID",
        ("disks", "$.arrays"),
        columns! {
            "device": "what", "level": "raid1 …", "state": "the kernel's word", "disks": "how many it wants",
            "missing": "how many it lacks", "faulty": "how many are marked faulty", "rebuilding": "1 while it is",
        },
    ),
    each(
        "missing_mounts",
        "what should be mounted and is not",
        ("disks", "$.missing_mounts"),
        columns! { "mount": "where", "device": "what", "may_be_absent": "1 where the machine starts without it" },
    ),
    each(
        "drives",
        "a drive",
        ("disks", "$.drives"),
        columns! {
            "device": "what", "model": "its name", "size_bytes": "all", "rotating": "1 for a hard disk",
            "healthy": "what it says of itself (SMART)", "media_errors": "errors", "reallocated": "sectors replaced",
            "worn_pct": "share of its life", "temperature_c": "degrees Celsius",
        },
    ),
    one(
        "network",
        "how it reaches the world",
        "network",
        columns! {
            "gateway_reachable": "1 where it is", "hub_reachable": "1 where it is", "hub_rtt_ms": "round-trip time",
        },
    ),
    each(
        "interfaces",
        "a network interface",
        ("network", "$.interfaces"),
        columns! {
            "name": "its name", "up": "1 where it is up", "mtu_bytes": "largest packet", "received_bytes": "since the start",
            "sent_bytes": "since the start", "errors": "since the start", "errors_pct": "their share",
        },
    ),
    one(
        "processes",
        "all processes",
        "processes",
        columns! { "count": "how many", "zombies": "of these ended and not collected" },
    ),
    each(
        "top_memory",
        "a process that uses much memory",
        ("processes", "$.top_memory"),
        columns! {
            "pid": "its number", "name": "its name", "cpu_pct": "share of one core", "memory_bytes": "resident",
            "memory_pct": "its share",
        },
    ),
    one("services", "the service manager", "services", columns! { "manager": "systemd …", "running": "how many" }),
    each(
        "failed_services",
        "a service that has failed",
        ("services", "$.failed"),
        columns! {
            "unit": "its name", "description": "what it is", "state": "how it failed", "kind": "service, mount …",
        },
    ),
    each(
        "restarting_services",
        "a service that does not stay up",
        ("services", "$.restarting"),
        columns! { "unit": "its name", "description": "what it is", "restarts": "how often it was started again" },
    ),
    each(
        "printers",
        "a printer",
        ("services", "$.printers"),
        columns! { "name": "its name", "stopped": "1 where it is", "jobs": "how many wait", "oldest_job_h": "hours" },
    ),
    each(
        "backups",
        "a backup",
        ("services", "$.backups"),
        columns! { "name": "its unit or folder", "program": "what makes it", "age_days": "of the last good one", "failed": "1 where the last failed" },
    ),
    one(
        "logs",
        "errors in the logs",
        "logs",
        columns! {
            "source": "which log", "hours": "how far back", "errors": "how many", "failed_logins": "how many",
            "cut": "1 where not all could be read",
        },
    ),
    each(
        "log_hits",
        "a known pattern in the logs",
        ("logs", "$.hits"),
        columns! {
            "pattern": "which", "about": "what it is about", "message": "the newest", "count": "how often",
            "hours_ago": "since the newest",
        },
    ),
    each(
        "log_errors",
        "a kind of error in the logs",
        ("logs", "$.groups"),
        columns! {
            "message": "what it says", "source": "who says it", "count": "how often",
        },
    ),
    one(
        "updates",
        "updates that wait",
        "updates",
        columns! {
            "manager": "apt, dnf …", "pending": "how many", "security": "of these closing security holes",
            "kept_back": "how many the manager would not update", "broken_count": "packages half installed",
            "bad_sources_count": "sources that cannot be used", "lists_age_days": "how old the lists are",
        },
    ),
    one(
        "clock",
        "the clock",
        "time",
        columns! {
            "zone": "its time zone", "synchronised": "1 where it is", "ahead_of_hub_s": "seconds before the hub's",
            "off_s": "seconds by which it is wrong",
        },
    ),
    one("power", "mains", "power", columns! { "mains": "1 on mains" }),
    each(
        "batteries",
        "a battery",
        ("power", "$.batteries"),
        columns! {
            "name": "its name", "state": "charging …", "charge_pct": "how full", "health_pct": "how much it still holds",
        },
    ),
    one(
        "security",
        "how open it is",
        "security",
        columns! {
            "open_ports": "how many", "firewall": "1 where there is one", "ssh_root_login": "what sshd allows root",
            "ssh_root_password": "1 where root may come in with a password",
            "sudo_without_password_count": "accounts", "second_roots_count": "accounts beside root with its number",
        },
    ),
    each(
        "certificates",
        "a certificate that a service uses",
        ("security", "$.certificates"),
        columns! { "file": "where", "used_by": "whose settings name it", "days_left": "until it ends" },
    ),
    each(
        "name_servers",
        "a name server",
        ("network", "$.resolvers"),
        columns! { "address": "where", "answers": "1 where it does", "took_ms": "how long", "said": "its answer's code" },
    ),
    each(
        "listening",
        "a port that listens",
        ("security", "$.listening"),
        columns! {
            "protocol": "tcp or udp", "address": "where", "port": "which", "process": "who, where that can be seen",
        },
    ),
];

/// The base tables.
pub(crate) const BASE: &str = "
CREATE TABLE known (
    id TEXT NOT NULL PRIMARY KEY, name TEXT NOT NULL, customer_id TEXT NOT NULL, customer TEXT NOT NULL,
    os TEXT NOT NULL, agent TEXT NOT NULL, state TEXT NOT NULL, seen_at INTEGER NOT NULL, health TEXT NOT NULL,
    labels TEXT NOT NULL, groups TEXT NOT NULL
) WITHOUT ROWID;
CREATE INDEX known_by_name ON known (name);
CREATE TABLE told (
    id TEXT NOT NULL, section TEXT NOT NULL, facts BLOB NOT NULL, PRIMARY KEY (section, id)
);
CREATE TABLE life (boot TEXT NOT NULL);
CREATE TABLE taken (id TEXT NOT NULL PRIMARY KEY, run TEXT NOT NULL, at INTEGER NOT NULL) WITHOUT ROWID;
";

/// The views, one statement each.
pub(crate) fn views() -> Vec<String> {
    let whose = "k.name AS machine, k.customer";
    let mut views = vec![
        format!(
            "CREATE VIEW machines AS SELECT {whose}, k.id, k.os, k.agent, k.state, k.seen_at, k.health, \
             t.at AS diagnosed_at, CASE WHEN t.at IS NOT NULL THEN CAST(strftime('%s', 'now') AS INTEGER) - t.at / 1000 END AS age_s FROM known k LEFT JOIN taken t ON t.id = k.id"
        ),
        format!(
            "CREATE VIEW labels AS SELECT {whose}, e.value ->> 0 AS name, e.value ->> 1 AS value \
             FROM known k, json_each(k.labels) e"
        ),
        format!("CREATE VIEW groups AS SELECT {whose}, e.value AS name FROM known k, json_each(k.groups) e"),
        format!(
            "CREATE VIEW facts AS SELECT {whose}, t.section, json(t.facts) AS facts FROM told t JOIN known k ON k.id = t.id"
        ),
    ];
    for table in TABLES {
        let Some((section, list)) = table.from else { continue };
        let (row, source) = match list {
            Some(list) => ("e.value", format!(", json_each(t.facts, '{list}') e")),
            None => ("t.facts", String::new()),
        };
        // A section without an answer yields no row.
        let reports = if list.is_none() { " AND json_type(t.facts) = 'object'" } else { "" };
        let columns: Vec<String> = table
            .columns
            .iter()
            .map(|column| match column.name {
                "cause" => ("$.cause.en".to_owned(), "cause"),
                name => (format!("$.{name}"), name),
            })
            .map(|(path, name)| match list {
                // A machine's list may hold items that are not objects.
                Some(_) => format!("CASE WHEN e.type = 'object' THEN {row} ->> '{path}' END AS \"{name}\""),
                None => format!("{row} ->> '{path}' AS \"{name}\""),
            })
            .collect();
        views.push(format!(
            "CREATE VIEW {} AS SELECT {whose}, {} FROM told t JOIN known k ON k.id = t.id{source} WHERE t.section = '{section}'{reports}",
            table.name,
            columns.join(", ")
        ));
    }
    views
}
