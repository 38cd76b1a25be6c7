//! Log files, for machines without a journal: lines of the last day by their timestamps, and the
//! kernel's messages from its own buffer if that may be read.

use super::lines::Line;
use super::{KERNEL, Reader, SECOND, no_log};
use crate::collect::bytes::{clipped, shown};
use crate::platform::linux::facts::kmsg::{self, Record};
use fernwart_protocol::diagnosis::{Cause, Reason};
use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;
use std::time::Instant;

/// Maximum number of bytes read from the end of a log file.
const TAIL: u64 = 16 * 1024 * 1024;

/// The possible system logs.
const SYSTEM: [&str; 2] = ["/var/log/syslog", "/var/log/messages"];

/// The possible login logs.
const LOGINS: [&str; 2] = ["/var/log/auth.log", "/var/log/secure"];

/// Words that mark a line as an error, since these files contain no priority.
const BAD: [&str; 8] = ["error", "fail", "panic", "segfault", "critical", "out of memory", "corrupt", "no space left"];

/// Reads the lines of the last day into a reader; returns the name of the log.
///
/// # Errors
/// Why there is nothing to read.
pub(super) fn read(reader: &mut Reader, until: Instant) -> Result<String, Cause> {
    // The kernel's buffer cannot be forged, but a file can. Only messages older than the buffer
    // are taken from files.
    let kernels = kernel(reader, until);
    let kernels_from = kernels.as_ref().ok().copied().flatten().unwrap_or(i64::MAX);
    let find = |names: [&'static str; 2]| names.into_iter().find(|path| Path::new(path).is_file());
    let Some(path) = find(SYSTEM) else {
        // Failed logins can be counted even without a system log.
        if let Some(logins) = find(LOGINS) {
            reader.has_logins = file(Path::new(logins), reader, i64::MAX, until).is_ok();
        }
        // The kernel's buffer is still there; in a container it is the host's.
        return match kernels {
            Err(error) if is_denied(&error) && super::is_own_kernel() => Err(Cause::new(Reason::NotPermitted, "")),
            _ if kernels_from != i64::MAX && super::is_own_kernel() => {
                reader.begins = kernels_from;
                Ok(KERNEL.to_owned())
            }
            _ => Err(no_log()),
        };
    };
    let mut read = |path: &str| {
        file(Path::new(path), reader, kernels_from, until).map_err(|error| match error.kind() {
            std::io::ErrorKind::PermissionDenied => Cause::new(Reason::NotPermitted, ""),
            _ => Cause::new(Reason::Unreadable, clipped(&format!("{path}: {error}"))),
        })
    };
    if !read(path)? {
        // Nothing is written to it any more, so it does not show that all is well.
        return Err(Cause::new(Reason::Unreadable, format!("{path}: nothing was written for a day")));
    }
    if let Some(logins) = find(LOGINS) {
        read(logins)?;
    }
    Ok(path.to_owned())
}

/// Whether permission is missing: EPERM or EACCES.
fn is_denied(error: &std::io::Error) -> bool {
    error.kind() == std::io::ErrorKind::PermissionDenied
}

/// Reads a file, and its predecessor if it was rotated within the day. Returns whether it has
/// lines of the day.
fn file(path: &Path, reader: &mut Reader, kernels_from: i64, until: Instant) -> std::io::Result<bool> {
    let before_it = reader.files_lines;
    let mut oldest = tail(path, reader, kernels_from, until)?;
    let before = path.with_added_extension("1");
    if oldest.is_none_or(|oldest| oldest > reader.since()) && before.is_file() {
        oldest = tail(&before, reader, kernels_from, until)?.or(oldest);
    }
    // If two logs begin at different times, only the later time is covered by both.
    reader.begins = reader.begins.max(oldest.unwrap_or(reader.now));
    Ok(reader.files_lines > before_it)
}

/// Reads the end of a file; returns the time of the oldest line.
fn tail(path: &Path, reader: &mut Reader, kernels_from: i64, until: Instant) -> std::io::Result<Option<i64>> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(TAIL)))?;
    let mut bytes = Vec::new();
    file.take(TAIL).read_to_end(&mut bytes)?;
    let mut lines = bytes.split(|byte| *byte == b'\n');
    if length > TAIL {
        // The first line is incomplete.
        lines.next();
    }
    let zone = TimeZone::system();
    let mut oldest = None;
    for (number, line) in lines.enumerate() {
        if number % 1024 == 0 && Instant::now() >= until {
            reader.is_cut = true;
            break;
        }
        let line = shown(line);
        let Some((at, rest)) = time(&line, reader.now, &zone) else { continue };
        oldest = oldest.or(Some(at));
        reader.files_lines += u64::from(at >= reader.since());
        take(reader, at, rest, kernels_from);
    }
    reader.is_cut |= length > TAIL && oldest.is_some_and(|oldest| oldest > reader.since());
    Ok(oldest)
}

/// Parses a line's time, microseconds since 1970, and returns the rest: `Nov 23 14:00:00` (RFC
/// 3164, no year), or `2026-11-23T14:00:00.5+01:00` (RFC 5424).
fn time<'a>(line: &'a str, now: i64, zone: &TimeZone) -> Option<(i64, &'a str)> {
    if line.as_bytes().first()?.is_ascii_digit() {
        let (stamp, rest) = line.split_once(' ')?;
        let at: Timestamp = stamp.parse().ok()?;
        return Some((at.as_microsecond(), rest));
    }
    let (stamp, rest) = (line.get(..15)?, line.get(15..)?);
    let year = Timestamp::from_microsecond(now).ok()?.to_zoned(zone.clone()).year();
    let at = |year: i16| -> Option<i64> {
        let at = DateTime::strptime("%Y %b %e %H:%M:%S", format!("{year} {stamp}")).ok()?;
        Some(at.to_zoned(zone.clone()).ok()?.timestamp().as_microsecond())
    };
    // A time in the future means last year.
    let day = 24 * 3600 * SECOND;
    let found = at(year).filter(|at| *at <= now.saturating_add(day)).or_else(|| at(year - 1))?;
    Some((found, rest.trim_start()))
}

/// Parses `host program[7]: message`.
fn take(reader: &mut Reader, at: i64, rest: &str, kernels_from: i64) {
    let Some((head, message)) = rest.split_once(": ") else { return };
    let program = head.rsplit(' ').next().unwrap_or_default();
    let program = program.split('[').next().unwrap_or_default();
    let claims_kernel = program == "kernel";
    if claims_kernel && at >= kernels_from {
        return;
    }
    // Kernel messages begin with a time since boot: `[ 12.345678] `.
    let message = match claims_kernel {
        true => message.strip_prefix('[').and_then(|m| m.split_once("] ")).map_or(message, |(_, message)| message),
        false => message,
    };
    let (times, message) = repeated(message);
    let lower = message.to_lowercase();
    let is_bad = BAD.iter().any(|word| lower.contains(word));
    reader.take(&Line {
        at,
        program,
        is_kernels: claims_kernel,
        is_sshds: program == "sshd" || program == "sshd-session",
        priority: if is_bad { 3 } else { 6 },
        message,
        times,
        ..Line::default()
    });
}

/// Parses `message repeated 2 times: [ text]`, as written by rsyslog.
fn repeated(message: &str) -> (u64, &str) {
    let inner = || {
        let rest = message.strip_prefix("message repeated ")?;
        let (times, rest) = rest.split_once(" times: [ ")?;
        Some((times.parse().ok()?, rest.strip_suffix(']').unwrap_or(rest)))
    };
    inner().unwrap_or((1, message))
}

/// Reads the kernel's buffer; returns the time of its oldest record, if any.
fn kernel(reader: &mut Reader, until: Instant) -> std::io::Result<Option<i64>> {
    let uptime = crate::collect::read("/proc/uptime").unwrap_or_default();
    let uptime: f64 = uptime.split_whitespace().next().and_then(|s| s.parse().ok()).unwrap_or_default();
    let boot = reader.now.saturating_sub((uptime * SECOND as f64) as i64);
    let mut oldest = None;
    let is_complete = kmsg::each(until, |record| {
        let at = kernel_record(reader, record, boot);
        oldest.get_or_insert(at);
    })?;
    reader.is_cut |= !is_complete;
    Ok(oldest)
}

/// Handles one record; returns when it was written.
fn kernel_record(reader: &mut Reader, record: &Record<'_>, boot: i64) -> i64 {
    let at = boot.saturating_add(record.after_boot_us);
    reader.take(&Line {
        at,
        program: "kernel",
        is_kernels: record.is_kernels,
        priority: record.level,
        message: record.message,
        ..Line::default()
    });
    at
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> i64 {
        text.parse::<Timestamp>().expect("a time").as_microsecond()
    }

    #[test]
    fn a_lines_timestamp_is_parsed_and_a_missing_year_inferred() {
        let now = at("2026-01-02T10:00:00Z");
        let time = |line: &str| time(line, now, &TimeZone::UTC).map(|(at, rest)| (at, rest.to_owned()));
        assert_eq!(time("Jan  2 09:00:00 kasse-1 x: y"), Some((at("2026-01-02T09:00:00Z"), "kasse-1 x: y".into())));
        assert_eq!(time("Dec 31 23:59:59 kasse-1 x: y").map(|(at, _)| at), Some(at("2025-12-31T23:59:59Z")));
        assert_eq!(time("2026-01-02T10:00:00.5+01:00 k x: y").map(|(at, _)| at), Some(at("2026-01-02T09:00:00.5Z")));
        assert_eq!(time("nonsense"), None);
        assert_eq!(time("Jän  2 09:00:00 x"), None);
    }

    #[test]
    fn only_lines_of_the_last_day_are_counted_across_rotation() {
        let place = tempfile::tempdir().expect("a folder");
        let path = place.path().join("syslog");
        let mut reader = Reader::new(crate::now() * 1000);
        let stamp = |hours: i64| {
            let then = Timestamp::from_microsecond(reader.now - hours * 3600 * SECOND).expect("a time");
            then.to_zoned(TimeZone::system()).strftime("%b %e %H:%M:%S").to_string()
        };
        let lines = [
            (40 * 24, "cupsd[7]: old error"),
            (30, "cupsd[7]: error of yesterday"),
            (3, "cupsd[7]: Printer error: out of paper"),
            (2, "cupsd[7]: all is well"),
            (1, "sshd[9]: message repeated 4 times: [ Failed password for root from 192.0.2.7 port 1 ssh2]"),
        ];
        let text: Vec<u8> =
            lines.iter().flat_map(|(ago, line)| format!("{} kasse-1 {line}\n", stamp(*ago)).into_bytes()).collect();
        std::fs::write(&path, [text.as_slice(), b"M\xfcller\n"].concat()).expect("written");
        // Rotated an hour ago: the predecessor has lines of the day, too.
        let before = format!("{} kasse-1 pos[1]: write: No space left on device\n", stamp(20));
        std::fs::write(place.path().join("syslog.1"), before).expect("written");
        file(&path, &mut reader, i64::MAX, Instant::now() + std::time::Duration::from_secs(9)).expect("read");
        let logs = reader.end("syslog");
        assert_eq!((logs.errors, logs.failed_logins), (Some(5), Some(4)), "{logs:?}");
        let mut reader = Reader::new(crate::now() * 1000);
        std::fs::write(&path, format!("{} kasse-1 cupsd[7]: error now\n", stamp_of(&reader, 1))).expect("written");
        file(&path, &mut reader, i64::MAX, Instant::now() + std::time::Duration::from_secs(9)).expect("read");
        let logs = reader.end("syslog");
        assert_eq!((logs.errors, logs.hits.map(|hits| hits.len())), (Some(2), Some(1)));
    }

    fn stamp_of(reader: &Reader, hours: i64) -> String {
        let then = Timestamp::from_microsecond(reader.now - hours * 3600 * SECOND).expect("a time");
        then.to_zoned(TimeZone::system()).strftime("%b %e %H:%M:%S").to_string()
    }

    #[test]
    fn kernel_records_are_distinguished_from_those_of_programs() {
        let mut reader = Reader::new(1_000_000 * SECOND);
        let boot = 999_990 * SECOND;
        for text in [
            "3,77,1000,-;I/O error, dev sdq, sector 5\n SUBSYSTEM=block\n",
            "11,78,1000,-;I/O error, dev sdr, sector 5\n",
        ] {
            kernel_record(&mut reader, &Record::parse(text).expect("a record"), boot);
        }
        assert!(Record::parse("garbage").is_none());
        let hits = reader.end("kmsg").hits.unwrap_or_default();
        assert_eq!(hits.iter().map(|hit| hit.about.as_str()).collect::<Vec<_>>(), ["sdq"]);
    }
}
