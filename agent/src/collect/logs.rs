//! Recent errors, grouped by the shape of their message.

use super::{child, clipped};
use crate::action::redact::Lines;
use fernwart_protocol::diagnosis::facts::{LogGroup, Logs};
use serde_json::Value;
use std::collections::HashMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;
use std::time::Instant;

const HOURS: u32 = 24;
const GROUPS: usize = 20;

/// How much of a log file's end is read, bytes.
const TAIL: u64 = 1024 * 1024;

/// Characters of a message that are kept until it is looked through.
const MESSAGE: usize = 1024;

/// Distinct shapes kept while counting.
const SHAPES: usize = 2000;

const FILES: [&str; 3] = ["/var/log/syslog", "/var/log/messages", "/var/log/kern.log"];
const BAD: [&str; 7] = ["error", "fail", "panic", "segfault", "critical", "out of memory", "corrupt"];

pub(super) fn facts(deadline: Instant) -> Result<Logs, String> {
    let journal = ["/var/log/journal", "/run/log/journal"].iter().any(|place| Path::new(place).is_dir());
    if journal {
        let arguments = [
            "--no-pager",
            "-q",
            "-p",
            "err",
            "-S",
            "-24h",
            "-n",
            "5001",
            "-o",
            "json",
            "--output-fields=MESSAGE,SYSLOG_IDENTIFIER",
        ];
        let text = child::run("journalctl", &arguments, deadline)?;
        return Ok(grouped("journald", text.lines().filter_map(from_journal)));
    }
    let file = FILES.iter().find(|file| Path::new(file).is_file()).ok_or("no system log was found")?;
    let text = tail(file).map_err(|error| format!("{file}: {error}"))?;
    Ok(grouped(file, text.lines().filter_map(from_syslog)))
}

fn tail(path: &str) -> std::io::Result<String> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(TAIL)))?;
    let mut bytes = Vec::new();
    file.take(TAIL).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn from_journal(line: &str) -> Option<(String, String)> {
    let json: Value = serde_json::from_str(line).ok()?;
    let text = |name: &str| json.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
    Some((text("SYSLOG_IDENTIFIER"), text("MESSAGE")))
}

/// A line that sounds like an error: `Nov 23 14:00:00 host program[7]: message`.
fn from_syslog(line: &str) -> Option<(String, String)> {
    let lower = line.to_lowercase();
    if !BAD.iter().any(|word| lower.contains(word)) {
        return None;
    }
    let (head, message) = line.split_once(": ")?;
    let source = head.rsplit(' ').next().unwrap_or_default();
    Some((source.split('[').next().unwrap_or_default().to_owned(), message.to_owned()))
}

/// What is left of a message when numbers, hex and quoted names are alike.
fn shape(message: &str) -> String {
    let mut out = String::with_capacity(message.len().min(200));
    for word in message.split_whitespace().take(24) {
        if !out.is_empty() {
            out.push(' ');
        }
        if word.chars().any(|c| c.is_ascii_digit()) || word.starts_with(['"', '\'', '/']) {
            out.push('#');
        } else {
            out.push_str(word);
        }
    }
    out
}

fn grouped(source: &str, lines: impl Iterator<Item = (String, String)>) -> Logs {
    let mut groups: HashMap<(String, String), LogGroup> = HashMap::new();
    let mut errors = 0;
    for (program, message) in lines {
        errors += 1;
        let key = (program, shape(&message));
        if !groups.contains_key(&key) && groups.len() >= SHAPES {
            continue;
        }
        let program = clipped(&key.0);
        let group = groups.entry(key).or_insert_with(|| LogGroup { source: program, ..LogGroup::default() });
        group.count += 1;
        group.message = message.chars().take(MESSAGE).collect();
    }
    let mut groups: Vec<LogGroup> = groups.into_values().collect();
    groups.sort_by(|a, b| b.count.cmp(&a.count).then_with(|| a.message.cmp(&b.message)));
    groups.truncate(GROUPS);
    if !groups.is_empty() {
        // What programs write into logs is not meant for others' eyes.
        let redact = Lines::new();
        for group in &mut groups {
            group.message = clipped(&redact.line(&group.message));
        }
    }
    Logs { source: source.to_owned(), hours: HOURS, errors, groups }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_that_differ_only_in_numbers_are_one_group() {
        let lines = ["disk sda1: I/O error, sector 5", "disk sda1: I/O error, sector 99", "fan failed"];
        let logs = grouped("test", lines.iter().map(|line| ("kernel".to_owned(), (*line).to_owned())));
        assert_eq!(logs.errors, 3);
        assert_eq!(logs.groups.len(), 2);
        assert_eq!((logs.groups[0].count, logs.groups[0].message.as_str()), (2, "disk sda1: I/O error, sector 99"));
    }

    #[test]
    fn a_password_in_a_log_stays_on_the_machine() {
        let lines = [("pos".to_owned(), "login failed: user=kasse password=backstube24".to_owned())];
        let logs = grouped("test", lines.into_iter());
        assert_eq!(logs.groups[0].message, "login failed: user=kasse password=[secret]");
    }

    #[test]
    fn a_syslog_line_is_taken_apart() {
        let line = "Nov 23 14:00:00 kasse-1 cupsd[77]: Printer error: out of paper";
        assert_eq!(from_syslog(line), Some(("cupsd".into(), "Printer error: out of paper".into())));
        assert_eq!(from_syslog("Nov 23 14:00:00 kasse-1 cupsd[77]: all is well"), None);
    }
}
