//! The clock, and whether something keeps it right.

use super::{Surroundings, child, read};
use fernwart_protocol::diagnosis::facts::Time;
use std::path::Path;
use std::time::Instant;

pub(super) fn facts(around: &Surroundings, deadline: Instant) -> Time {
    let ahead = around.ahead_of_hub_ms.map(|ms| ms as f64 / 1000.0);
    let behind = around.behind_floor_ms as f64 / 1000.0;
    Time {
        now_ms: crate::now(),
        zone: zone(),
        synchronised: synchronised(deadline),
        ahead_of_hub_s: ahead.map(|s| (s * 10.0).round() / 10.0),
        off_s: ahead.map_or(0.0, f64::abs).max(behind).round(),
    }
}

fn zone() -> String {
    let link = std::fs::read_link("/etc/localtime").ok();
    let from_link = link.as_deref().and_then(Path::to_str).and_then(|path| path.split_once("zoneinfo/"));
    match from_link {
        Some((_, zone)) => zone.to_owned(),
        None => read("/etc/timezone").map_or_else(|| "UTC".to_owned(), |zone| zone.trim().to_owned()),
    }
}

/// Asks whoever may know; nobody knowing is no answer.
fn synchronised(deadline: Instant) -> Option<bool> {
    if Path::new("/run/systemd/timesync/synchronized").exists() {
        return Some(true);
    }
    if Path::new("/run/systemd/system").exists() {
        let told = child::run("timedatectl", &["show", "-p", "NTPSynchronized", "--value"], deadline).ok()?;
        return match told.trim() {
            "yes" => Some(true),
            "no" => Some(false),
            _ => None,
        };
    }
    let told = child::run("chronyc", &["-n", "tracking"], deadline).ok()?;
    told.lines().find_map(|line| line.strip_prefix("Leap status")).map(|status| !status.contains("Not synchronised"))
}
