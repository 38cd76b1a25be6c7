//! Drives, with the health they report themselves (smartctl).

use crate::collect::bytes::{clipped, names_in, shown};
use crate::collect::counting::Counting;
use crate::collect::{budget, child, read};
use fernwart_protocol::diagnosis::facts::Drive;
use fernwart_protocol::diagnosis::{Cause, Reason};
use serde_json::Value;
use std::path::Path;
use std::time::{Duration, Instant};

/// Time limit for one drive. A drive that wakes up takes longer, but sleeping drives are not
/// woken.
const BUDGET: Duration = Duration::from_millis(2000);

/// Drives asked at once.
const AT_ONCE: usize = 4;

/// Maximum number of drives that are asked.
const DRIVES: usize = 256;

/// Facts that only the drive itself can report.
const OWN_WORD: [&str; 9] = [
    "healthy",
    "media_errors",
    "media_errors_since",
    "reallocated",
    "worn_pct",
    "spare_low",
    "self_test_failed",
    "temperature_c",
    "too_hot_c",
];

/// Temperature limits of SSDs and rotating drives that report none, °C.
const WARM_SSD: f64 = 70.0;
const WARM_ROTATING: f64 = 55.0;

pub(super) fn drives(counting: &Counting, until: Instant) -> Vec<Drive> {
    let is_drive =
        |name: &str| ["sd", "nvme", "vd", "hd", "xvd", "mmcblk"].iter().any(|prefix| name.starts_with(prefix));
    let mut names =
        names_in(Path::new("/sys/block"), |name| is_drive(name) && !name.contains("boot") && has_medium(name));
    names.truncate(DRIVES);
    let reports_health = |name: &str| ["sd", "nvme", "hd"].iter().any(|prefix| name.starts_with(prefix));
    let has_smartctl = child::find("smartctl").is_some();
    let asked: Vec<(String, (String, Instant))> = match has_smartctl {
        true => names
            .iter()
            .filter(|name| reports_health(name))
            .map(|n| (format!("drive {n}"), (n.clone(), until)))
            .collect(),
        false => Vec::new(),
    };
    let mut answers = budget::each(asked, AT_ONCE, BUDGET + Duration::from_millis(200), until, ask).into_iter();
    let drive = |name: &String| {
        let mut drive = described(name);
        let answer = match (reports_health(name), has_smartctl) {
            // Virtual disks have no health of their own; memory cards report none.
            (false, _) => Err(Cause::new(Reason::NotSupported, "")),
            (true, false) => Err(Cause::new(Reason::NotInstalled, "smartctl")),
            (true, true) => match answers.next() {
                Some(Ok(answer)) => answer,
                Some(Err(reason)) => Err(Cause::new(reason, "smartctl")),
                None => Err(Cause::new(Reason::TimedOut, "smartctl")),
            },
        };
        match answer.and_then(|text| read_smart(&mut drive, &text)) {
            Ok(()) => grown(&mut drive, name, counting),
            Err(why) => {
                for field in OWN_WORD {
                    drive.why.insert(field.into(), why.clone());
                }
            }
        }
        drive
    };
    names.iter().map(drive).collect()
}

/// Whether it has a medium: a card reader without a card has size 0.
fn has_medium(name: &str) -> bool {
    read(format!("/sys/block/{name}/size")).is_none_or(|size| size.trim() != "0")
}

/// The kernel's information about a drive.
fn described(name: &str) -> Drive {
    let sys = |file: &str| read(format!("/sys/block/{name}/{file}")).unwrap_or_default().trim().to_owned();
    let state = sys("device/state");
    let mut drive = Drive {
        device: format!("/dev/{name}"),
        model: clipped(&sys("device/model")),
        size_bytes: sys("size").parse::<u64>().unwrap_or_default().saturating_mul(512),
        rotating: sys("queue/rotational") == "1" && (name.starts_with("sd") || name.starts_with("hd")),
        // SCSI reports running or offline, NVMe live, resetting or dead.
        running: (!state.is_empty())
            .then(|| !["offline", "dead", "deleting", "transport-offline"].contains(&state.as_str())),
        ..Drive::default()
    };
    if drive.running.is_none() {
        drive.why.insert("running".into(), Reason::NotSupported.into());
    }
    drive
}

/// Asks a drive, unless it is asleep.
fn ask((name, until): (String, Instant)) -> Result<String, Cause> {
    let until = until.min(Instant::now() + BUDGET);
    let device = format!("/dev/{name}");
    let ended = child::run("smartctl", &["-n", "standby", "-a", "-j", &device], until)?;
    match ended {
        child::ProcessOutput { is_late: true, .. } => Err(Cause::new(Reason::TimedOut, "smartctl")),
        // The exit code is a bit mask about the drive (smartctl(8)), and 2 also means that it is
        // asleep; the message tells which ("Device is in STANDBY mode").
        ended => match shown(&ended.out) {
            text if text.contains("mode, exit(") => Err(Cause::new(Reason::Asleep, "")),
            text => Ok(text),
        },
    }
}

/// A row of an ATA drive's attribute table.
fn attribute(json: &Value, wanted: impl Fn(u64, &str) -> bool) -> Option<&Value> {
    let table = json.pointer("/ata_smart_attributes/table")?.as_array()?;
    table.iter().find(|row| {
        let id = row.get("id").and_then(Value::as_u64).unwrap_or_default();
        wanted(id, row.get("name").and_then(Value::as_str).unwrap_or_default())
    })
}

/// Reads the relevant facts from smartctl's JSON.
///
/// # Errors
/// With smartctl's message, if the drive reported nothing.
fn read_smart(drive: &mut Drive, text: &str) -> Result<(), Cause> {
    let unreadable = |about: &str| Cause::new(Reason::Unreadable, clipped(about));
    let json: Value = serde_json::from_str(text).map_err(|_| unreadable("smartctl's answer"))?;
    let number = |pointer: &str| json.pointer(pointer).and_then(Value::as_f64);
    let number_at = |pointer: &str| json.pointer(pointer).and_then(Value::as_u64);
    drive.healthy = json.pointer("/smart_status/passed").and_then(Value::as_bool);
    drive.temperature_c = number("/temperature/current");
    let raw = |row: Option<&Value>| row.and_then(|row| row.pointer("/raw/value")).and_then(Value::as_u64);
    // 197 counts pending and 198 uncorrectable sectors, mostly the same ones. Attributes named
    // `Total_…` never decrease, so they may be of any age (drivedb.h).
    let sector = |id: u64| raw(attribute(&json, |this, name| this == id && !name.starts_with("Total_")));
    let sectors =
        json.pointer("/ata_smart_attributes/table").map(|_| sector(197).unwrap_or(0).max(sector(198).unwrap_or(0)));
    // SCSI counts errors separately for read, write and verify.
    let counts = json.get("scsi_error_counter_log").and_then(Value::as_object);
    let uncorrected = counts
        .map(|counts| counts.values().filter_map(|count| count.get("total_uncorrected_errors")?.as_u64()).sum::<u64>());
    drive.media_errors = number_at("/nvme_smart_health_information_log/media_errors").or(sectors).or(uncorrected);
    drive.reallocated = raw(attribute(&json, |id, _| id == 5)).or_else(|| number_at("/scsi_grown_defect_list"));
    drive.worn_pct = number("/endurance_used/current_percent")
        .or_else(|| number("/nvme_smart_health_information_log/percentage_used"))
        .or_else(|| worn_by_attribute(drive, &json));
    let spare = number("/spare_available/current_percent")
        .or_else(|| number("/nvme_smart_health_information_log/available_spare"));
    let bound = number("/spare_available/threshold_percent")
        .or_else(|| number("/nvme_smart_health_information_log/available_spare_threshold"));
    drive.spare_low = spare.zip(bound).map(|(spare, bound)| spare < bound);
    if let Some(warning) = number_at("/nvme_smart_health_information_log/critical_warning") {
        // Bit 0 spare, 2 reliability, 3 read-only; 1 is heat, judged by itself (NVMe base specification).
        drive.spare_low = Some(drive.spare_low.unwrap_or_default() || warning & 1 != 0);
        if warning & 0b1100 != 0 {
            drive.healthy = Some(false);
        }
    }
    let tests = json.pointer("/ata_smart_self_test_log/standard/table/0/status/passed").and_then(Value::as_bool);
    let nvme_test =
        number_at("/nvme_self_test_log/table/0/self_test_result/value").map(|result| !matches!(result, 5..=7));
    drive.self_test_failed = tests.or(nvme_test).map(|passed| !passed);
    let limit = number("/temperature/op_limit_max").or_else(|| number("/nvme_composite_temperature_threshold/warning"));
    let limit = limit.unwrap_or(if drive.rotating { WARM_ROTATING } else { WARM_SSD });
    drive.too_hot_c = drive.temperature_c.map(|now| now - limit);
    if drive.healthy.is_none() && drive.media_errors.is_none() {
        let message = json.pointer("/smartctl/messages/0/string").and_then(Value::as_str);
        let message = message.unwrap_or("the drive tells nothing about its health");
        // A virtual disk has no health; SMART that is switched off is another case.
        let has_none = json.pointer("/smart_support/available").and_then(Value::as_bool) == Some(false);
        let says = |words: &[&str]| words.iter().any(|word| message.to_lowercase().contains(word));
        return Err(match message.to_lowercase() {
            _ if says(&["permission denied"]) => Cause::new(Reason::NotPermitted, ""),
            _ if says(&["-d megaraid", "-d cciss", "-d 3ware", "-d areca", "-d aacraid", "megaraid controller"]) => {
                Cause::new(Reason::NotConfigured, "RAID controller")
            }
            // A USB bridge may be in between.
            _ if has_none || says(&["unknown usb bridge", "unable to detect device type", "no medium present"]) => {
                Cause::new(Reason::NotSupported, "")
            }
            _ => unreadable(message),
        });
    }
    let missing = |field: &str| match field {
        "healthy" => drive.healthy.is_none(),
        "media_errors" => drive.media_errors.is_none(),
        "reallocated" => drive.reallocated.is_none(),
        "worn_pct" => drive.worn_pct.is_none(),
        "spare_low" => drive.spare_low.is_none(),
        "self_test_failed" => drive.self_test_failed.is_none(),
        "temperature_c" | "too_hot_c" => drive.temperature_c.is_none(),
        _ => false,
    };
    let silent: Vec<&str> = OWN_WORD.into_iter().filter(|field| missing(field)).collect();
    for field in silent {
        // Not every drive reports every value.
        drive.why.insert(field.into(), Reason::NotSupported.into());
    }
    Ok(())
}

/// Wear of a SATA SSD without a standard value for it: the remaining life, by attribute name.
fn worn_by_attribute(drive: &Drive, json: &Value) -> Option<f64> {
    if drive.rotating {
        return None;
    }
    let names = [
        "SSD_Life_Left",
        "Media_Wearout_Indicator",
        "Wear_Leveling_Count",
        "Percent_Lifetime_Remain",
        "Remaining_Lifetime_Perc",
    ];
    let row = attribute(json, |_, name| names.contains(&name))?;
    row.get("value").and_then(Value::as_f64).map(|left| (100.0 - left).clamp(0.0, 100.0))
}

/// Computes the growth of errors since an earlier diagnosis.
fn grown(drive: &mut Drive, name: &str, counting: &Counting) {
    let Some(errors) = drive.media_errors else {
        drive.why.insert("media_errors_since".into(), Reason::NotSupported.into());
        return;
    };
    let errors = errors + drive.reallocated.unwrap_or_default();
    // Errors counted over the drive's whole life are not new just because the boot is young.
    match counting.since_known(&format!("{name}.media"), errors) {
        Ok(since) => drive.media_errors_since = Some(since),
        Err(why) => drop(drive.why.insert("media_errors_since".into(), why)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_as(text: &str) -> Result<Drive, Cause> {
        let mut drive = Drive::default();
        read_smart(&mut drive, text).map(|()| drive)
    }

    #[test]
    fn smart_is_read_for_both_kinds_of_drive() {
        let drive = read_as(
            r#"{"smart_status":{"passed":false},"temperature":{"current":41},
               "nvme_smart_health_information_log":{"critical_warning":0,"media_errors":7,"percentage_used":93,
               "available_spare":9,"available_spare_threshold":10}}"#,
        )
        .expect("read");
        assert_eq!((drive.healthy, drive.media_errors, drive.worn_pct), (Some(false), Some(7), Some(93.0)));
        assert_eq!((drive.spare_low, drive.too_hot_c), (Some(true), Some(-29.0)));
        let drive = read_as(
            r#"{"smart_status":{"passed":true},"ata_smart_attributes":{"table":[
               {"id":5,"name":"Reallocated_Sector_Ct","raw":{"value":3}},{"id":9,"raw":{"value":900}},
               {"id":197,"name":"Current_Pending_Sector","raw":{"value":4}}]}}"#,
        )
        .expect("read");
        assert_eq!((drive.healthy, drive.media_errors, drive.reallocated), (Some(true), Some(4), Some(3)));
        assert_eq!(drive.why.get("worn_pct").map(|why| why.reason), Some(Reason::NotSupported));
    }

    #[test]
    fn total_counters_that_never_decrease_are_ignored() {
        let drive = read_as(
            r#"{"smart_status":{"passed":true},"ata_smart_attributes":{"table":[
               {"id":197,"name":"Total_Pending_Sectors","raw":{"value":9}},
               {"id":198,"name":"Total_Offl_Uncorrectabl","raw":{"value":9}}]}}"#,
        )
        .expect("read");
        assert_eq!(drive.media_errors, Some(0));
    }

    #[test]
    fn scsi_errors_are_summed_over_read_write_and_verify() {
        let drive = read_as(
            r#"{"smart_status":{"passed":true},"scsi_grown_defect_list":9000,"scsi_error_counter_log":{
               "read":{"total_uncorrected_errors":55},"write":{"total_uncorrected_errors":3},"verify":{}}}"#,
        )
        .expect("read");
        assert_eq!((drive.media_errors, drive.reallocated), (Some(58), Some(9000)));
    }

    #[test]
    fn a_virtual_disk_is_distinguished_from_a_drive_behind_a_raid_controller() {
        let message = |text: &str| read_as(text).map(|_| ()).unwrap_err();
        let virtual_disk = r#"{"smart_support":{"available":false}}"#;
        assert_eq!(message(virtual_disk).reason, Reason::NotSupported);
        let behind = r#"{"smartctl":{"messages":[{"string":"DELL or MegaRaid controller, please try adding '-d megaraid,N'"}]}}"#;
        assert_eq!(message(behind), Cause::new(Reason::NotConfigured, "RAID controller"));
    }

    #[test]
    fn a_drive_that_reports_nothing_has_a_reason() {
        let bridge =
            r#"{"smartctl":{"messages":[{"string":"/dev/sdb: Unknown USB bridge [0x1]","severity":"error"}]}}"#;
        assert_eq!(read_as(bridge).unwrap_err().reason, Reason::NotSupported);
        let dead = r#"{"smartctl":{"messages":[{"string":"Read Device Identity failed: Input/output error"}]}}"#;
        assert_eq!(
            read_as(dead).unwrap_err(),
            Cause::new(Reason::Unreadable, "Read Device Identity failed: Input/output error")
        );
        assert_eq!(read_as("garbage").unwrap_err().reason, Reason::Unreadable);
        let denied =
            r#"{"smartctl":{"messages":[{"string":"Smartctl open device: /dev/sda failed: Permission denied"}]}}"#;
        assert_eq!(read_as(denied).unwrap_err().reason, Reason::NotPermitted);
    }

    #[test]
    fn a_worn_sata_ssd_and_an_nvme_warning_are_detected() {
        let worn = r#"{"smart_status":{"passed":true},"ata_smart_attributes":{"table":[
            {"id":177,"name":"Wear_Leveling_Count","value":4,"raw":{"value":3000}}]}}"#;
        assert_eq!(read_as(worn).expect("read").worn_pct, Some(96.0));
        let readonly = r#"{"smart_status":{"passed":true},"nvme_smart_health_information_log":{"critical_warning":8,"media_errors":0}}"#;
        assert_eq!(read_as(readonly).expect("read").healthy, Some(false));
    }
}
