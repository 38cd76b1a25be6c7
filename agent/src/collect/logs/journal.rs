//! The journal, asked through `journalctl`, newest first: where time runs out, what
//! is oldest is missing.

use super::lines::Line;
use super::{Reader, no_log};
use crate::collect::bytes::shown;
use crate::collect::child;
use fernwart_protocol::diagnosis::{Reason, Why, builtin_patterns};
use serde::Deserialize;
use serde_json::Value;
use std::fs::File;
use std::time::{Duration, Instant};

const PLACES: [&str; 2] = ["/var/log/journal", "/run/log/journal"];

pub(super) fn is_there() -> bool {
    let folders = PLACES.iter().filter_map(|place| std::fs::read_dir(place).ok());
    folders.flatten().flatten().any(|entry| entry.path().is_dir())
}

/// Whether this user may read the machine's journal, and not only the own one.
fn may_read() -> bool {
    let folders = PLACES.iter().filter_map(|place| std::fs::read_dir(place).ok());
    folders.flatten().flatten().any(|entry| File::open(entry.path().join("system.journal")).is_ok())
}

const FIELDS: &str =
    "--output-fields=MESSAGE,PRIORITY,SYSLOG_IDENTIFIER,_TRANSPORT,_COMM,_UID,MESSAGE_ID,UNIT,_SYSTEMD_UNIT";

/// Reads the last day into a reader.
///
/// # Errors
/// Why there is nothing to read.
pub(super) fn read(reader: &mut Reader, until: Instant) -> Result<(), Why> {
    if child::find("journalctl").is_none() {
        return Err(no_log());
    }
    if !may_read() {
        return Err(Why::new(Reason::NotPermitted, ""));
    }
    let ids: Vec<String> =
        builtin_patterns().into_iter().flat_map(|p| p.message_ids).map(|id| format!("MESSAGE_ID={id}")).collect();
    let mut arguments = vec!["--no-pager", "-q", "-r", "-a", "-S", "-24h", "-o", "json", FIELDS];
    // The kernel at every priority; the ssh server, which tells of failed logins as
    // of news; of all others what is a warning or worse.
    arguments.extend(["_TRANSPORT=kernel", "+", "_COMM=sshd", "+", "_COMM=sshd-session"]);
    for priority in ["PRIORITY=0", "PRIORITY=1", "PRIORITY=2", "PRIORITY=3", "PRIORITY=4"] {
        arguments.extend(["+", priority]);
    }
    for id in &ids {
        arguments.extend(["+", id]);
    }
    // What was read is kept when the time is over.
    let until = until.checked_sub(Duration::from_millis(150)).unwrap_or(until);
    let mut unread = 0u64;
    let ended = child::lines("journalctl", &arguments, until, |line| {
        if !line.is_empty() && !take(reader, line) {
            unread += 1;
        }
    })?;
    reader.is_cut |= ended.is_late || ended.is_cut;
    match ended.code {
        Some(0) | None => Ok(()),
        // Damaged files beside good ones: what could be read was read.
        Some(_) if reader.errors > 0 || !reader.found.is_empty() => Ok(()),
        Some(_) => Err(ended.failed("journalctl")),
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
    #[serde(default, rename = "_TRANSPORT")]
    transport: Value,
    #[serde(default, rename = "_COMM")]
    command: Value,
    #[serde(default, rename = "_UID")]
    user: Value,
    #[serde(default, rename = "MESSAGE_ID")]
    message_id: Value,
    #[serde(default, rename = "UNIT")]
    unit: Value,
    #[serde(default, rename = "_SYSTEMD_UNIT")]
    own_unit: Value,
}

/// A field's text: it may be text, bytes where it is no UTF-8 or holds control
/// characters, or a list where an entry has the field more than once
/// (systemd.journal-fields(7), "Journal JSON Format").
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

fn take(reader: &mut Reader, line: &[u8]) -> bool {
    let Ok(entry) = serde_json::from_slice::<Entry>(line) else { return false };
    let Ok(at) = entry.at.parse() else { return false };
    let (message, program, unit) = (text(&entry.message), text(&entry.program), text(&entry.unit));
    let (own_unit, message_id, command) = (text(&entry.own_unit), text(&entry.message_id), text(&entry.command));
    // Fields with an underline before them are journald's own word.
    let is_kernels = entry.transport == "kernel";
    let is_sshds = (command == "sshd" || command == "sshd-session") && entry.user == "0";
    let program = if program.is_empty() { &command } else { &program };
    reader.take(&Line {
        at,
        program,
        // The service that systemd speaks of, else the one that speaks.
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
            "{{\"__REALTIME_TIMESTAMP\":\"{}\",\"_TRANSPORT\":\"kernel\",\"PRIORITY\":\"3\",\"SYSLOG_IDENTIFIER\":\"kernel\",\"MESSAGE\":{message}}}",
            now - 1000
        );
        assert!(take(&mut reader, line.as_bytes()));
        reader
    }

    #[test]
    fn a_disk_error_is_found_whatever_shape_its_message_has() {
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
    fn garbage_is_no_entry() {
        let mut reader = Reader::new(0);
        for line in [&b"garbage"[..], b"{}", b"{\"__REALTIME_TIMESTAMP\":\"soon\"}", b"\xff\xfe"] {
            assert!(!take(&mut reader, line));
        }
    }
}
