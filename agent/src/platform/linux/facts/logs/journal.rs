//! The systemd journal, read with `journalctl`, newest entries first: if time runs out, the
//! oldest are missing.

use super::lines::Line;
use super::{Reader, no_log};
use crate::collect::bytes::{read, shown};
use crate::collect::child;
use fernwart_protocol::diagnosis::{Cause, From, Reason, builtin_patterns};
use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeSet;
use std::fs::File;
use std::io::Read;
use std::path::PathBuf;
use std::time::{Duration, Instant};

const PLACES: [&str; 2] = ["/var/log/journal", "/run/log/journal"];

pub(super) fn is_there() -> bool {
    !folders().is_empty()
}

/// Folders of this machine's journal. Folders with another machine's id are copies, which
/// journalctl ignores. All folders if the machine has no id.
fn folders() -> Vec<PathBuf> {
    let own = read("/etc/machine-id").map(|id| id.trim().to_owned()).filter(|id| !id.is_empty());
    let entries = PLACES.iter().filter_map(|place| std::fs::read_dir(place).ok()).flatten().flatten();
    let is_own = |entry: &std::fs::DirEntry| {
        let name = entry.file_name();
        own.as_ref().is_none_or(|own| name == own.as_str()) && entry.path().is_dir()
    };
    entries.filter(is_own).map(|entry| entry.path()).collect()
}

/// Whether this user may read the machine's journal, not only their own.
fn may_read() -> bool {
    if rustix::process::geteuid().is_root() {
        return true;
    }
    folders().iter().any(|folder| File::open(folder.join("system.journal")).is_ok())
}

const FIELDS: &str = "--output-fields=MESSAGE,PRIORITY,SYSLOG_IDENTIFIER,SYSLOG_FACILITY,_TRANSPORT,_COMM,_UID,_PID,MESSAGE_ID,UNIT,_SYSTEMD_UNIT";

/// The offset of a journal file's first and last timestamps, and its signature
/// (systemd.io/JOURNAL_FILE_FORMAT).
const HEAD_AT: usize = 184;
const SIGNATURE: &[u8] = b"LPKSHHRH";

/// When the machine's journal begins and ends, microseconds since 1970; none if no file tells.
fn span() -> Option<(i64, i64)> {
    let files = folders().into_iter().filter_map(|folder| std::fs::read_dir(folder).ok()).flatten().flatten();
    let systems = files.filter(|file| {
        let name = file.file_name();
        name.as_encoded_bytes().starts_with(b"system") && name.as_encoded_bytes().ends_with(b".journal")
    });
    let ends = |file: std::fs::DirEntry| {
        let mut head = [0; HEAD_AT + 16];
        File::open(file.path()).ok()?.read_exact(&mut head).ok()?;
        let time = |at: usize| {
            let time = head.get(at..at + 8).and_then(|bytes| bytes.try_into().ok()).map(u64::from_le_bytes)?;
            i64::try_from(time).ok().filter(|time| *time > 0)
        };
        head.starts_with(SIGNATURE).then_some((time(HEAD_AT)?, time(HEAD_AT + 8)?))
    };
    systems.filter_map(ends).reduce(|one, other| (one.0.min(other.0), one.1.max(other.1)))
}

/// Reads the entries of the last day into a reader.
///
/// # Errors
/// Why there is nothing to read.
pub(super) fn take_in(reader: &mut Reader, until: Instant) -> Result<(), Cause> {
    if child::find("journalctl").is_none() {
        return Err(no_log());
    }
    if !may_read() {
        return Err(Cause::new(Reason::NotPermitted, ""));
    }
    let patterns = builtin_patterns();
    let ids: Vec<String> = patterns.iter().flat_map(|p| &p.message_ids).map(|id| format!("MESSAGE_ID={id}")).collect();
    // Output of a service has priority "info", whatever it contains. systemd gives its relevant
    // messages a higher one and writes much else, so it is left out here.
    let programs: BTreeSet<&str> =
        patterns.iter().flat_map(|p| &p.programs).map(String::as_str).filter(|name| *name != "systemd").collect();
    let named: Vec<String> = programs.iter().map(|name| format!("SYSLOG_IDENTIFIER={name}")).collect();
    let running: Vec<String> = programs.iter().map(|name| format!("_COMM={name}")).collect();
    let base = ["--no-pager", "-q", "-r", "-a", "-S", "-24h", "-o", "json", FIELDS];
    let mut arguments = base.to_vec();
    // All entries of the kernel; the ssh server, which reports failed logins as "info"; of all
    // others only warnings and worse.
    arguments.extend(["_TRANSPORT=kernel", "+", "_COMM=sshd", "+", "_COMM=sshd-session"]);
    for priority in ["PRIORITY=0", "PRIORITY=1", "PRIORITY=2", "PRIORITY=3", "PRIORITY=4"] {
        arguments.extend(["+", priority]);
    }
    for id in &ids {
        arguments.extend(["+", id]);
    }
    for of_a_field in [&named, &running] {
        arguments.push("+");
        arguments.extend(of_a_field.iter().map(String::as_str));
    }
    // Stop before the section's deadline, so that what was read is kept.
    let until = until.checked_sub(Duration::from_millis(150)).unwrap_or(until);
    let half = Instant::now() + until.saturating_duration_since(Instant::now()) * 2 / 3;
    let ended = child::lines("journalctl", &arguments, half, |line| read_line(reader, line, &BTreeSet::new()))?;
    // journalctl skips damaged files, complains, and exits with 0.
    let is_complete = ended.code == Some(0) && !ended.is_late && !ended.is_cut && ended.complaints.trim().is_empty();
    if !is_complete && reader.lines == 0 {
        // Without a single line the cause is reported.
        return Err(if ended.is_late {
            Cause::new(Reason::TimedOut, "journalctl")
        } else {
            ended.failed("journalctl")
        });
    }
    // Some files are damaged, but the others were read.
    reader.is_cut |= !is_complete;
    // For the few patterns that any program may log at any priority, journalctl filters by text.
    let words = patterns.iter().filter(|p| p.from == From::Program && p.programs.is_empty()).flat_map(|p| &p.words);
    let sought = format!("--grep={}", words.map(|word| word.to_lowercase()).collect::<Vec<_>>().join("|"));
    let mut arguments = base.to_vec();
    arguments.extend([sought.as_str(), "PRIORITY=5", "PRIORITY=6", "PRIORITY=7"]);
    let ended = child::lines("journalctl", &arguments, until, |line| read_line(reader, line, &programs))?;
    // Without a match it exits with an error code, but prints no message.
    let is_complete = !ended.is_late && !ended.is_cut && (ended.code == Some(0) || ended.complaints.trim().is_empty());
    reader.is_cut |= !is_complete || reader.unread > 0;
    match span() {
        Some((begin, _)) if reader.lines > 0 => reader.begins = begin,
        // No relevant entries, but the journal was written to.
        Some((begin, end)) if end >= reader.since() => reader.begins = begin,
        _ if reader.lines > 0 => {}
        _ => return Err(Cause::new(Reason::Unreadable, "the journal: nothing was written for a day")),
    }
    Ok(())
}

/// Handles a line, unless it is from one of these programs, which were read already.
fn read_line(reader: &mut Reader, line: &[u8], but: &BTreeSet<&str>) {
    if !line.is_empty() && !take(reader, line, but) {
        reader.unread += 1;
    }
}

#[derive(Deserialize)]
struct Entry {
    #[serde(rename = "__REALTIME_TIMESTAMP")]
    at: String,
    #[serde(default, rename = "MESSAGE")]
    message: Value,
    #[serde(default, rename = "PRIORITY")]
    priority: Value,
    #[serde(default, rename = "SYSLOG_IDENTIFIER")]
    program: Value,
    #[serde(default, rename = "SYSLOG_FACILITY")]
    facility: Value,
    #[serde(default, rename = "_TRANSPORT")]
    transport: Value,
    #[serde(default, rename = "_COMM")]
    command: Value,
    #[serde(default, rename = "_UID")]
    user: Value,
    #[serde(default, rename = "_PID")]
    process: Value,
    #[serde(default, rename = "MESSAGE_ID")]
    message_id: Value,
    #[serde(default, rename = "UNIT")]
    unit: Value,
    #[serde(default, rename = "_SYSTEMD_UNIT")]
    own_unit: Value,
}

/// The text of a field. It may be a string, bytes if it is not UTF-8 or has control characters,
/// or a list if the entry has the field more than once (systemd.journal-fields(7), "Journal JSON
/// Format").
fn text(field: &Value) -> String {
    match field {
        Value::String(text) => text.clone(),
        Value::Array(items) if items.iter().all(Value::is_u64) => {
            let bytes: Vec<u8> = items.iter().filter_map(|n| n.as_u64().and_then(|n| u8::try_from(n).ok())).collect();
            shown(&bytes)
        }
        Value::Array(items) => items.iter().map(text).collect::<Vec<_>>().join(" "),
        Value::Number(number) => number.to_string(),
        Value::Null | Value::Bool(_) | Value::Object(_) => String::new(),
    }
}

fn take(reader: &mut Reader, line: &[u8], but: &BTreeSet<&str>) -> bool {
    let Ok(entry) = serde_json::from_slice::<Entry>(line) else { return false };
    let Ok(at) = entry.at.parse() else { return false };
    let (message, program, unit) = (text(&entry.message), text(&entry.program), text(&entry.unit));
    let (own_unit, message_id, command) = (text(&entry.own_unit), text(&entry.message_id), text(&entry.command));
    // Fields with a leading underscore are set by journald and can be trusted. Programs that
    // write to the kernel's buffer have another facility.
    let is_kernels = entry.transport == "kernel" && text(&entry.facility) == "0";
    let is_sshds = (command == "sshd" || command == "sshd-session") && entry.user == "0";
    let program = if program.is_empty() { &command } else { &program };
    if but.contains(program.as_str()) || but.contains(command.as_str()) {
        return true;
    }
    // A user's programs never run in a system service. systemd itself is process 1.
    let is_services = own_unit.ends_with(".service") && !own_unit.starts_with("user@");
    let is_trusted = match program.as_str() {
        "systemd" => entry.process == "1",
        _ => is_services || entry.user == "0",
    };
    reader.take(&Line {
        at,
        program,
        command: &command,
        is_trusted,
        // The unit that systemd reports on, else the unit that logged the message.
        unit: if unit.is_empty() && !message_id.is_empty() { &own_unit } else { &unit },
        is_kernels,
        is_sshds,
        priority: text(&entry.priority).parse().unwrap_or(6),
        message_id: &message_id,
        message: &message,
        times: 1,
    });
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(message: &str) -> Reader {
        let now = crate::now() * 1000;
        let mut reader = Reader::new(now);
        let line = format!(
            "{{\"__REALTIME_TIMESTAMP\":\"{}\",\"_TRANSPORT\":\"kernel\",\"PRIORITY\":\"3\",\"SYSLOG_IDENTIFIER\":\"kernel\",\"SYSLOG_FACILITY\":\"0\",\"MESSAGE\":{message}}}",
            now - 1000
        );
        assert!(take(&mut reader, line.as_bytes(), &BTreeSet::new()));
        reader
    }

    #[test]
    fn a_disk_error_is_found_in_every_json_form_of_a_message() {
        let words = "I/O error, dev sdq, sector 5";
        let bytes = format!("{:?}", words.bytes().chain([0xfc]).collect::<Vec<u8>>());
        let long = format!("\"{words}{}\"", "x".repeat(6000));
        let list = format!("[\"{words}\",\"again\"]");
        for message in [&format!("\"{words}\""), &bytes, &long, &list, &format!("[{bytes},{bytes}]")] {
            let hits = taken(message).end("test").hits.unwrap_or_default();
            let short: Vec<_> = hits.iter().map(|hit| (hit.pattern.as_str(), hit.about.as_str())).collect();
            assert_eq!(short, [("disk.io", "sdq")], "{message:.80}");
        }
        assert_eq!(taken("null").end("test").errors, Some(1), "it is counted, whatever it said");
    }

    #[test]
    fn invalid_lines_are_rejected() {
        let mut reader = Reader::new(0);
        for line in [&b"garbage"[..], b"{}", b"{\"__REALTIME_TIMESTAMP\":\"soon\"}", b"\xff\xfe"] {
            assert!(!take(&mut reader, line, &BTreeSet::new()));
        }
    }
}
