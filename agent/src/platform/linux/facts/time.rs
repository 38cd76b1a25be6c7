//! The clock, and whether it is synchronised.

use crate::collect::bytes::{clipped, read, shown};
use crate::collect::{Surroundings, missing};
use fernwart_protocol::diagnosis::facts::Time;
use fernwart_protocol::diagnosis::{Cause, Reason};
use std::os::unix::ffi::OsStrExt;

/// Beyond this error bound the clock counts as unsynchronised, as in timedatectl (NTP_PHASE_LIMIT
/// of adjtimex(2), 16 s).
const FREE_S: f64 = 16.0;

pub(super) fn facts(around: &Surroundings) -> Time {
    let ahead = around.ahead_of_hub_ms.map(|ms| ms as f64 / 1000.0);
    let behind = around.behind_floor_ms.map(|ms| ms as f64 / 1000.0);
    let behind = behind.into_iter().chain(behind_files_s()).reduce(f64::max);
    let mut time = Time {
        now_ms: crate::now(),
        zone: zone(),
        error_bound_s: error_bound_s(),
        ahead_of_hub_s: ahead.map(|s| (s * 10.0).round() / 10.0),
        ..Time::default()
    };
    let is_hosts = !super::system::container().is_empty();
    match time.error_bound_s {
        // The clock belongs to the host, which synchronises it.
        Some(_) if is_hosts => {
            drop(time.why.insert("synchronised".into(), Cause::new(Reason::NotSupported, "container")))
        }
        Some(bound) => time.synchronised = Some(bound < FREE_S),
        None => {
            missing(&mut time.why, &["error_bound_s", "synchronised"], &Cause::new(Reason::NotSupported, "adjtimex"));
        }
    }
    if ahead.is_none() {
        time.why.insert("ahead_of_hub_s".into(), Reason::Absent.into());
    }
    time.off_s = match (ahead, behind) {
        // There is nothing to compare the clock with.
        (None, None) => {
            time.why.insert("off_s".into(), Reason::Absent.into());
            None
        }
        (ahead, behind) => Some(ahead.map_or(0.0, f64::abs).max(behind.unwrap_or_default()).round()),
    };
    time
}

/// Files that are written while the clock is right.
const FILES: [&str; 4] = ["/proc/self/exe", "/etc/passwd", "/var/lib/dpkg/status", "/var/lib/rpm/rpmdb.sqlite"];

/// How far this clock is behind the newest of these files, seconds; none if less than a day. A
/// computer with an empty clock battery starts in another year.
fn behind_files_s() -> Option<f64> {
    let now = std::time::SystemTime::now();
    let written = FILES.iter().filter_map(|file| std::fs::metadata(file).ok()?.modified().ok()).max()?;
    let behind = written.duration_since(now).ok()?.as_secs_f64();
    Some(behind).filter(|behind| *behind > 86_400.0)
}

fn zone() -> String {
    let link = std::fs::read_link("/etc/localtime").ok().map(|path| shown(path.as_os_str().as_bytes()));
    match link.as_deref().and_then(|path| path.split_once("zoneinfo/")) {
        Some((_, zone)) => clipped(zone),
        None => read("/etc/timezone").map_or_else(|| "UTC".to_owned(), |zone| clipped(&zone)),
    }
}

/// The kernel's bound on the clock's error, seconds. Programs that synchronise the clock report
/// it to the kernel, and it grows while none does.
#[expect(unsafe_code, reason = "the C library has the only way to ask; nothing is changed with modes = 0")]
fn error_bound_s() -> Option<f64> {
    // SAFETY: all fields are numbers, and zero is one.
    let mut timex: libc::timex = unsafe { std::mem::zeroed() };
    // SAFETY: it is given a structure of its own size.
    let answer = unsafe { libc::adjtimex(&raw mut timex) };
    (answer >= 0).then_some(timex.maxerror as f64 / 1_000_000.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_cannot_be_compared_is_not_reported_as_right() {
        let time = facts(&Surroundings::default());
        assert_eq!((time.off_s, time.why.get("off_s")), (None, Some(&Reason::Absent.into())));
        let around = Surroundings { ahead_of_hub_ms: Some(-61_000), ..Surroundings::default() };
        assert_eq!(facts(&around).off_s, Some(61.0));
    }
}
