//! File systems, and drives with their own word on their health.

use super::{child, clipped, pct, read};
use fernwart_protocol::diagnosis::facts::{Disks, Drive, Filesystem, LIST};
use serde_json::Value;
use std::collections::HashSet;
use std::time::Instant;

/// File systems that hold people's data on this machine. Others (network,
/// kernel, images) are passed over: asking a dead server would hang.
const KINDS: [&str; 15] = [
    "ext2", "ext3", "ext4", "xfs", "btrfs", "f2fs", "zfs", "bcachefs", "jfs", "reiserfs", "vfat", "exfat", "ntfs",
    "ntfs3", "overlay",
];

pub(super) fn facts(deadline: Instant) -> Result<Disks, String> {
    let mounts = read("/proc/self/mounts").ok_or("the kernel lists no mounts")?;
    let mut filesystems = Vec::new();
    let mut seen = HashSet::new();
    for line in mounts.lines() {
        let mut fields = line.split(' ');
        let (Some(device), Some(mount), Some(kind), Some(options)) =
            (fields.next(), fields.next(), fields.next(), fields.next())
        else {
            continue;
        };
        // A disk in memory counts only where it is the data's only place.
        let wanted = KINDS.contains(&kind) || (kind == "tmpfs" && mount == "/tmp");
        if !wanted || !seen.insert((device.to_owned(), kind == "overlay", kind == "tmpfs")) {
            continue;
        }
        if let Some(filesystem) = filesystem(device, &unescape(mount), kind, options) {
            filesystems.push(filesystem);
        }
    }
    filesystems.sort_by(|a, b| a.free_pct.total_cmp(&b.free_pct));
    filesystems.truncate(LIST);
    let (drives, smart_unanswered) = drives(deadline);
    Ok(Disks { filesystems, drives, smart_unanswered })
}

/// Mount points write spaces as \040 (fstab(5)).
fn unescape(text: &str) -> String {
    text.replace("\\040", " ").replace("\\011", "\t").replace("\\134", "\\")
}

fn filesystem(device: &str, mount: &str, kind: &str, options: &str) -> Option<Filesystem> {
    let stat = rustix::fs::statvfs(mount).ok()?;
    if stat.f_blocks == 0 {
        return None;
    }
    let free = stat.f_bavail.saturating_mul(stat.f_frsize);
    let used = stat.f_blocks.saturating_sub(stat.f_bfree).saturating_mul(stat.f_frsize);
    // btrfs and vfat count no inodes.
    let inodes = (stat.f_files > 0).then_some(stat.f_files);
    Some(Filesystem {
        mount: clipped(mount),
        device: clipped(device),
        kind: kind.to_owned(),
        size_bytes: stat.f_blocks.saturating_mul(stat.f_frsize),
        free_bytes: free,
        // As df: reserved blocks count as neither used nor free.
        free_pct: pct(free as f64, (free + used) as f64),
        inodes,
        inodes_free_pct: inodes.map(|all| pct(stat.f_favail as f64, all as f64)),
        read_only: options.split(',').any(|option| option == "ro") && device.starts_with("/dev/"),
    })
}

fn drives(deadline: Instant) -> (Vec<Drive>, Option<String>) {
    let Ok(blocks) = std::fs::read_dir("/sys/block") else { return (Vec::new(), Some("no drives are listed".into())) };
    let mut names: Vec<String> = blocks.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.retain(|name| ["sd", "nvme", "vd", "hd", "xvd", "mmcblk"].iter().any(|prefix| name.starts_with(prefix)));
    names.sort();
    names.truncate(16);
    let smartctl = child::find("smartctl").is_some();
    let mut unanswered = (!smartctl).then(|| "smartctl is not installed".to_owned());
    let mut drives = Vec::new();
    for name in names {
        let sys = |file: &str| read(&format!("/sys/block/{name}/{file}")).unwrap_or_default().trim().to_owned();
        let mut drive = Drive {
            device: format!("/dev/{name}"),
            model: clipped(&sys("device/model")),
            size_bytes: sys("size").parse::<u64>().unwrap_or_default().saturating_mul(512),
            rotating: sys("queue/rotational") == "1" && !name.starts_with("vd"),
            ..Drive::default()
        };
        if smartctl {
            // Its exit code is a set of bits about the drive (smartctl(8)).
            match child::run_status("smartctl", &["-n", "standby", "-a", "-j", &drive.device], deadline) {
                Ok((text, _)) => unanswered = read_smart(&mut drive, &text).err().or(unanswered),
                Err(why) => unanswered = Some(why),
            }
        }
        drives.push(drive);
    }
    (drives, unanswered)
}

/// Takes what is worth knowing out of smartctl's JSON.
///
/// # Errors
/// In smartctl's words, when the drive told it nothing.
fn read_smart(drive: &mut Drive, text: &str) -> Result<(), String> {
    let json: Value = serde_json::from_str(text).map_err(|_| "smartctl's answer cannot be read".to_owned())?;
    let number = |pointer: &str| json.pointer(pointer).and_then(Value::as_f64);
    drive.healthy = json.pointer("/smart_status/passed").and_then(Value::as_bool);
    drive.temperature_c = number("/temperature/current");
    drive.worn_pct = number("/nvme_smart_health_information_log/percentage_used");
    let attributes = json.pointer("/ata_smart_attributes/table").and_then(Value::as_array);
    // 5 reallocated, 197 pending, 198 uncorrectable sectors
    let sectors = attributes.map(|table| {
        let wanted = |row: &&Value| row.get("id").and_then(Value::as_u64).is_some_and(|id| [5, 197, 198].contains(&id));
        table.iter().filter(wanted).filter_map(|row| row.pointer("/raw/value").and_then(Value::as_u64)).sum()
    });
    let nvme = json.pointer("/nvme_smart_health_information_log/media_errors").and_then(Value::as_u64);
    drive.media_errors = nvme.or(sectors);
    if drive.healthy.is_none() && drive.media_errors.is_none() {
        let said = json.pointer("/smartctl/messages/0/string").and_then(Value::as_str);
        return Err(clipped(said.unwrap_or("the drive tells nothing about its health")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn smart_is_read_for_both_kinds_of_drive() {
        let mut drive = Drive::default();
        let answered = read_smart(
            &mut drive,
            r#"{"smart_status":{"passed":false},"temperature":{"current":41},
               "nvme_smart_health_information_log":{"media_errors":7,"percentage_used":93}}"#,
        );
        assert_eq!(answered, Ok(()));
        assert_eq!((drive.healthy, drive.media_errors, drive.worn_pct), (Some(false), Some(7), Some(93.0)));
        let mut drive = Drive::default();
        let answered = read_smart(
            &mut drive,
            r#"{"smart_status":{"passed":true},"ata_smart_attributes":{"table":[
               {"id":5,"raw":{"value":3}},{"id":9,"raw":{"value":900}},{"id":197,"raw":{"value":4}}]}}"#,
        );
        assert_eq!(answered, Ok(()));
        assert_eq!((drive.healthy, drive.media_errors), (Some(true), Some(7)));
        let silent =
            r#"{"smartctl":{"messages":[{"string":"/dev/vda: Unable to detect device type","severity":"error"}]}}"#;
        let mut drive = Drive::default();
        assert_eq!(read_smart(&mut drive, silent), Err("/dev/vda: Unable to detect device type".to_owned()));
        assert!(read_smart(&mut drive, "garbage").is_err());
    }

    #[test]
    fn a_mount_point_with_a_space_is_found() {
        assert_eq!(unescape("/mnt/my\\040disk"), "/mnt/my disk");
    }
}
