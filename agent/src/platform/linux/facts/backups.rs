//! The age of the last good backup. Backups that fail unnoticed for months cost small firms their
//! data.

use super::units::{Unit, properties};
use crate::collect::bytes::clipped;
use crate::collect::counting::Counting;
use fernwart_protocol::diagnosis::facts::{Backup, LIST};
use fernwart_protocol::diagnosis::{Cause, Reason, Reasons};
use std::path::Path;
use std::time::{Instant, SystemTime};

/// Words in unit names that identify backups, and the program.
const PROGRAMS: [(&str, &str); 17] = [
    ("borgmatic", "borg"),
    ("borg", "borg"),
    ("restic", "restic"),
    ("duplicity", "duplicity"),
    ("duply", "duplicity"),
    ("duplicati", "duplicati"),
    ("kopia", "kopia"),
    ("rsnapshot", "rsnapshot"),
    ("bacula", "bacula"),
    ("bareos", "bareos"),
    ("urbackup", "urbackup"),
    ("veeam", "veeam"),
    ("proxmox-backup", "proxmox"),
    ("timeshift", "timeshift"),
    ("deja-dup", "deja-dup"),
    ("rclone", "rclone"),
    ("backup", "backup"),
];

/// System units with similar names.
const NONE: [&str; 3] = ["dpkg-db-backup", "systemd-backup", "snapd"];

/// Folders to which each good backup adds something.
const FOLDERS: [(&str, &str); 3] = [
    ("/timeshift/snapshots", "timeshift"),
    ("/var/cache/rsnapshot", "rsnapshot"),
    ("/run/timeshift/backup/timeshift/snapshots", "timeshift"),
];

pub(super) fn of(units: &[Unit], counting: &Counting, until: Instant, why: &mut Reasons) -> Option<Vec<Backup>> {
    let mut backups = Vec::new();
    for unit in units.iter().filter(|unit| unit.name.ends_with(".service")) {
        let name = unit.name.to_lowercase();
        if NONE.iter().any(|none| name.contains(none)) {
            continue;
        }
        if let Some((_, program)) = PROGRAMS.iter().find(|(word, _)| name.contains(word))
            && let Some(backup) = by_unit(unit, program, counting, until)
        {
            backups.push(backup);
        }
    }
    for (folder, program) in FOLDERS {
        if let Some(age) = newest_age_days(Path::new(folder)) {
            backups.push(Backup {
                name: folder.into(),
                program: program.into(),
                age_days: Some(age),
                ..Backup::default()
            });
        }
    }
    backups.truncate(LIST);
    if backups.is_empty() {
        // No visible backup does not mean that there is none, so this is reported once.
        why.insert("backups".into(), Cause::new(Reason::NotConfigured, "backup"));
        return None;
    }
    Some(backups)
}

/// A service that runs and ends, usually started by a timer. A daemon does not report when its
/// last backup was made.
fn by_unit(unit: &Unit, program: &str, counting: &Counting, until: Instant) -> Option<Backup> {
    let values = properties(unit, &["Type", "Result", "ExecMainExitTimestamp", "ExecMainStatus"], until)?;
    let [kind, result, ended, _] = values.as_slice() else { return None };
    let is_once = kind.as_str() == Some("oneshot") || ended.as_u64().unwrap_or_default() > 0;
    if !is_once {
        return None;
    }
    let failed = result.as_str() != Some("success");
    let mut backup = Backup { name: clipped(&unit.name), program: program.to_owned(), failed, ..Backup::default() };
    let ended = ended.as_u64().filter(|at| *at > 0);
    // systemd forgets this at a reboot, and after a failed run it does not report the last good
    // one; an earlier diagnosis may have seen it.
    let ended = ended.filter(|_| !failed).and_then(|at| i64::try_from(at / 1000).ok());
    match counting.latest(&format!("{}.succeeded", backup.name), ended) {
        Some(at) => {
            let days = crate::now().saturating_sub(at).max(0) as f64 / 86_400_000.0;
            backup.age_days = Some((days * 10.0).round() / 10.0);
        }
        None => drop(backup.why.insert("age_days".into(), Cause::new(Reason::NotConfigured, "last backup"))),
    }
    Some(backup)
}

/// Days since something was last added to a folder.
fn newest_age_days(folder: &Path) -> Option<f64> {
    let entries = std::fs::read_dir(folder).ok()?.flatten();
    let newest = entries.filter_map(|entry| entry.metadata().ok()?.modified().ok()).max()?;
    let age = SystemTime::now().duration_since(newest).unwrap_or_default();
    Some((age.as_secs_f64() / 8640.0).round() / 10.0)
}
