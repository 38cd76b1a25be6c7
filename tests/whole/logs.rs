//! Logs as machines keep them: journals that systemd's own tool wrote, files, the
//! kernel's buffer, and what stands in their place.

use fernwart_tests::place::{Diagnosed, Place};
use serde_json::json;

/// A journal file made by systemd's own tool, including the kernel's trusted field.
const JOURNAL: &str = r#"
mount -t tmpfs none /mnt && mount -t tmpfs none /var/log && mkdir -p /var/log/journal/$(cat /etc/machine-id 2>/dev/null || echo 0123456789abcdef0123456789abcdef)
remote=/lib/systemd/systemd-journal-remote
write() { $remote -o "$(echo /var/log/journal/*)/system.journal" - >/dev/null 2>&1; }
"#;

/// One entry of a journal in its export format, of the kernel or of root.
fn entry(minutes_ago: i64, transport: &str, program: &str, priority: u8, message: &[u8]) -> Vec<u8> {
    let facility = if transport == "kernel" { "SYSLOG_FACILITY=0\n" } else { "" };
    let fields = format!("_UID=0\n_COMM={program}\n{facility}");
    entry_with(&fields, minutes_ago, transport, program, priority, message)
}

/// The same with the fields that journald itself adds about the sender.
fn entry_with(fields: &str, minutes_ago: i64, transport: &str, program: &str, priority: u8, message: &[u8]) -> Vec<u8> {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970");
    let at = i64::try_from(now.as_micros()).expect("before 294247") - minutes_ago * 60_000_000;
    let mut entry = format!(
        "__REALTIME_TIMESTAMP={at}\n__MONOTONIC_TIMESTAMP=1\n_BOOT_ID=0123456789abcdef0123456789abcdef\n_TRANSPORT={transport}\nPRIORITY={priority}\nSYSLOG_IDENTIFIER={program}\n{fields}"
    )
    .into_bytes();
    // Binary: the name, the length, the bytes.
    entry.extend(b"MESSAGE\n");
    entry.extend((message.len() as u64).to_le_bytes());
    entry.extend(message);
    entry.extend(b"\n\n");
    entry
}

fn with_journal(entries: &[Vec<u8>]) -> Option<Diagnosed> {
    let place = Place::new()?;
    if !std::path::Path::new("/lib/systemd/systemd-journal-remote").exists() {
        assert!(std::env::var_os("CI").is_none(), "systemd-journal-remote is missing");
        println!("skipped: systemd-journal-remote is missing");
        return None;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("entries");
    std::fs::write(&path, entries.concat()).expect("written");
    let copied = format!("cat {} > /dev/null\n", path.display());
    let script = format!("{copied}{JOURNAL}\nwrite < {}\n", path.display());
    Some(place.prepared(&script).diagnose_only("logs"))
}

#[test]
fn journal_messages_of_any_size_and_encoding_are_read() {
    let long = [b"I/O error, dev sdr, sector 7 ".as_slice(), &b"x".repeat(6000)].concat();
    let latin = b"I/O error, dev sdq, sector 5 M\xfcller";
    let entries = [
        entry(60 * 30, "kernel", "kernel", 3, b"I/O error, dev sdold, sector 5"),
        entry(5, "kernel", "kernel", 3, latin),
        entry(4, "kernel", "kernel", 3, &long),
        entry(3, "kernel", "kernel", 6, b"till[7]: segfault at 0 ip 0 sp 0 error 4"),
        entry(2, "journal", "mallory", 3, b"I/O error, dev sds, sector 5"),
    ];
    let Some(diagnosed) = with_journal(&entries) else { return };
    let logs = diagnosed.facts("logs");
    let found: Vec<String> = diagnosed.found("log.").into_iter().map(|(name, _)| name).collect();
    assert_eq!(found, ["log.disk:sdq", "log.disk:sdr", "log.crash:till"], "{logs}");
    assert_eq!(logs["errors"], 3, "{logs}");
}

/// What a service prints gets the priority `info`, and a user's program may choose its own name.
#[test]
fn service_messages_count_at_any_priority_and_users_cannot_forge_them() {
    let damaged = b"[ERROR] Table './shop/orders' is marked as crashed and should be repaired";
    let database = "_UID=104\n_COMM=mariadbd\n_SYSTEMD_UNIT=mariadb.service\n";
    let user = "_UID=1000\n_COMM=logger\n_SYSTEMD_UNIT=session-3.scope\n";
    let till = "_UID=1000\n_COMM=till\n_SYSTEMD_UNIT=user@1000.service\n";
    let entries = [
        entry_with(database, 9, "stdout", "mariadbd", 6, damaged),
        entry_with(user, 8, "syslog", "postgres", 3, b"PANIC: forged"),
        entry_with(till, 7, "stdout", "till", 6, b"write failed: No space left on device"),
        entry(6, "syslog", "CRON", 6, b"(root) error (grandchild #77 failed with exit status 1)"),
        entry_with("_UID=0\nSYSLOG_FACILITY=3\n", 5, "kernel", "kernel", 3, b"I/O error, dev sdq, sector 5"),
        entry(5, "stdout", "pos", 6, b"nothing to see"),
    ];
    let Some(diagnosed) = with_journal(&entries) else { return };
    let mut found: Vec<String> = diagnosed.found("log.").into_iter().map(|(name, _)| name).collect();
    found.sort();
    let facts = diagnosed.facts("logs");
    assert_eq!(found, ["log.cron:CRON", "log.database:mariadbd", "log.full:till", "log.short"], "{facts}");
    assert!(facts["hours_read"].as_f64().is_some_and(|hours| hours < 1.0), "the journal begins now: {facts}");
}

#[test]
fn an_unreadable_journal_is_reported_as_unknown() {
    let Some(place) = Place::new() else { return };
    let script = format!("{JOURNAL}\nhead -c 65536 /dev/urandom > \"$(echo /var/log/journal/*)/system.journal\"\n");
    let diagnosed = place.prepared(&script).diagnose_only("logs");
    assert_eq!(diagnosed.unknown("log.disk").len(), 2, "{:?}", diagnosed.unknown(""));
    assert_eq!(diagnosed.found("log."), []);
}

#[test]
fn a_pipe_in_place_of_a_log_does_not_block_a_diagnosis() {
    let Some(place) = Place::new() else { return };
    let line = "$(date '+%b %e %H:%M:%S') kasse-1 kernel: I/O error, dev sdq, sector 5";
    let script = format!(
        "mount -t tmpfs none /var/log && mount --bind /dev/null /dev/kmsg
        echo \"{line}\" > /var/log/syslog
        mkfifo /var/log/pipe && touch /etc/fstab && mount --bind /var/log/pipe /etc/fstab"
    );
    let place = place.prepared(&script);
    let diagnosed = place.diagnose();
    assert_eq!(diagnosed.found("log.disk"), [("log.disk:sdq".to_owned(), "crit".to_owned())]);
    // With other tests running, apt may exceed its time limit.
    let is_silent = |(id, why): &(String, String)| why.starts_with("timed_out") && !id.starts_with("update.");
    let silent: Vec<_> = diagnosed.unknown("").into_iter().filter(is_silent).collect();
    assert_eq!(silent, [], "a pipe in a file's place");
}

#[test]
fn a_stopped_journal_is_not_reported_as_free_of_errors() {
    let entries = [entry(60 * 24 * 4, "syslog", "pos", 3, b"of four days ago")];
    let Some(diagnosed) = with_journal(&entries) else { return };
    assert!(!diagnosed.unknown("log.disk").is_empty(), "{:?}", diagnosed.unknown(""));
    let Some(place) = Place::new() else { return };
    let script = "mount -t tmpfs none /mnt && mount -t tmpfs none /var/log && touch /etc/machine-id
        echo 0123456789abcdef0123456789abcdef > /mnt/id && mount --bind /mnt/id /etc/machine-id
        mkdir -p /var/log/journal/00000000000000000000000000000001
        printf x > /var/log/journal/00000000000000000000000000000001/system.journal";
    let diagnosed = place.prepared(script).diagnose_only("logs");
    let logs = &diagnosed.report["sections"]["logs"];
    assert_ne!(logs["facts"]["source"], "journald", "it is another machine's: {logs}");
}

#[test]
fn one_disk_error_is_found_among_twelve_thousand_program_errors() {
    let noise = (0..12_000)
        .map(|n| entry(60 + n / 100, "journal", "pos", 3, format!("error {n}: printer {} is away", n * 7).as_bytes()));
    let mut entries: Vec<Vec<u8>> = noise.collect();
    entries.insert(
        0,
        entry(
            600,
            "kernel",
            "kernel",
            2,
            b"EXT4-fs error (device sdq1): ext4_find_entry:1455: inode #2: comm ls: reading directory lblock 0",
        ),
    );
    let Some(diagnosed) = with_journal(&entries) else { return };
    let logs = diagnosed.facts("logs");
    assert_eq!(diagnosed.found("log.filesystem"), [("log.filesystem:sdq1".to_owned(), "crit".to_owned())], "{logs}");
    assert_eq!((&logs["errors"], &logs["cut"]), (&json!(12_001), &json!(false)), "{logs}");
    assert_eq!(diagnosed.found("log.flood").len(), 1);
}

#[test]
fn a_login_after_many_failed_attempts_is_reported() {
    let failed = (0..30)
        .map(|n| entry(100 - n, "syslog", "sshd", 6, b"Failed password for root from 192.0.2.7 port 40000 ssh2"));
    let mut entries: Vec<Vec<u8>> = failed.collect();
    entries.push(entry(2, "syslog", "sshd", 6, b"Accepted password for root from 192.0.2.7 port 40001 ssh2"));
    let Some(diagnosed) = with_journal(&entries) else { return };
    assert_eq!(diagnosed.facts("logs")["failed_logins"], 30);
    assert_eq!(diagnosed.found("login.guessed"), [("login.guessed".to_owned(), "crit".to_owned())]);
}

#[test]
fn a_stale_log_file_is_not_reported_as_free_of_errors() {
    let Some(place) = Place::new() else { return };
    let script = "mount -t tmpfs none /var/log
        echo 'Jan  2 03:04:05 kasse-1 pos[1]: error of another year' > /var/log/syslog && touch -d '1 year ago' /var/log/syslog";
    let diagnosed = place.prepared(script).diagnose_only("logs");
    assert_eq!(diagnosed.unknown("log.disk").len(), 2, "{:?}", diagnosed.unknown(""));
    assert_eq!(diagnosed.found("log."), []);
}
