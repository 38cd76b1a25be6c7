//! Every built-in rule against recorded facts: it reports its fault in both languages, and reports
//! nothing about a machine that is well.

#![allow(clippy::expect_used, clippy::indexing_slicing, reason = "a test may fail loudly")]

use fernwart_protocol::diagnosis::{
    Answer, Cause, Judgement, Past, Reason, Report, Rules, Section, Severity, State, builtin_patterns, builtin_rules,
    judge,
};
use fernwart_protocol::document::SectionName;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};

const NOW: i64 = 1_800_000_000_000;

fn sections(facts: Value) -> BTreeMap<SectionName, Section> {
    let object = facts.as_object().expect("sections").clone();
    object
        .into_iter()
        .map(|(name, facts)| {
            let section = Section { took_ms: 1, why: None, answer: Answer::Facts(facts) };
            (name.parse().expect("a section"), section)
        })
        .collect()
}

fn judged(facts: Value) -> Judgement {
    judged_with(&builtin_rules(), facts, &Past::default(), NOW)
}

fn judged_with(rules: &Rules, facts: Value, past: &Past, now: i64) -> Judgement {
    let sections = sections(facts);
    let wanted = sections.keys().copied().collect();
    judge(rules, &sections, &wanted, past, now)
}

/// The facts of a machine that is well, from a recording.
fn well() -> Value {
    json!({
        "system": {"hostname": "kasse-1", "os": "debian-12", "os_name": "Debian 12", "uptime_s": 9000, "kernel": "6.1.0-9-amd64",
                   "kernel_installed": "6.1.0-9-amd64", "restart_required": false, "container": "", "support_days": 500.0,
                   "support_ends": "2028-06-30", "boot_unclean": false, "boots_7d": 1},
        "cpu": {"cores": 2, "load_15": 0.4, "load_15_per_core": 0.2, "pressure_5m_pct": 1.0, "io_pressure_5m_pct": 0.2,
                "stolen_since_pct": 0.1},
        "memory": {"total_bytes": 8e9, "available_bytes": 5e9, "available_pct": 62.0, "swap_used_pct": 1.0,
                   "pressure_5m_pct": 0.0, "some_pressure_5m_pct": 0.0, "killed": 9, "killed_since": 0, "since_s": 40000,
                   "ecc_corrected_since": 0, "ecc_uncorrected": 0, "broken_bytes": 0},
        "disks": {
            "filesystems": [{"mount": "/", "kind": "ext4", "device": "/dev/sda1", "size_bytes": 1e11, "free_bytes": 6e10,
                             "free_pct": 60.0, "inodes_free_pct": 90.0, "read_only": false, "read_only_unasked": false,
                             "hangs": false, "errors": 0, "error_days": null, "why": {"error_days": "absent"}}],
            "drives": [{"device": "/dev/sda", "model": "A", "healthy": true, "media_errors": 0, "media_errors_since": 0,
                        "reallocated": 0, "worn_pct": 3.0, "spare_low": false, "self_test_failed": false,
                        "temperature_c": 35.0, "too_hot_c": -20.0, "running": true}],
            "arrays": [{"device": "/dev/md0", "level": "raid1", "state": "clean", "disks": 2, "missing": 0, "faulty": 0,
                        "rebuilding": false}],
            "pools": [{"name": "tank", "state": "ONLINE"}],
            "missing_mounts": []
        },
        "network": {"interfaces": [{"name": "eth0", "addresses": ["192.0.2.7/24"], "errors": 9000, "errors_since": 0,
                                    "errors_since_pct": 0.0, "self_assigned": false}],
                    "default_routes": [{"device": "eth0", "gateway": "192.0.2.1"}], "gateways": ["192.0.2.1"],
                    "gateway_reachable": true, "dns_servers": ["192.0.2.1", "192.0.2.2"], "resolvers_answering": 2,
                    "resolvers": [{"address": "192.0.2.1", "answers": true, "took_ms": 3.0, "said": "NOERROR"}],
                    "hub_reachable": true},
        "processes": {"zombies": 0, "outdated": [], "outdated_count": 0,
                      "top_memory": [{"name": "shop", "memory_pct": 9.0, "memory_bytes": 1e8}]},
        "services": {"failed": [], "restarting": [], "printers": [{"name": "kasse", "stopped": false, "refuses": false, "jobs": 0, "oldest_job_h": 0.0}],
                     "backups": [{"name": "borg.service", "program": "borg", "age_days": 0.9, "failed": false}]},
        "logs": {"errors": 3, "hours": 24, "hours_read": 24.0, "cut": false, "programs_read": true, "hits": [], "failed_logins": 4, "failed_logins_from": [],
                 "guessed_logins": [], "guessed_logins_count": 0},
        "updates": {"pending": 4, "security": 0, "lists_age_days": 1.0, "broken": [], "broken_count": 0, "bad_sources": [],
                    "bad_sources_count": 0},
        "time": {"off_s": 0.0, "synchronised": true},
        "power": {"mains": true, "batteries": [{"name": "BAT0", "state": "Full", "charge_pct": 90.0, "health_pct": 91.0,
                                                "discharging": false, "of_ups": false}]},
        "security": {"open_ports": 2, "open": ["tcp 22 (sshd)", "tcp 80 (nginx)"], "firewall": true, "sudo_without_password": [], "sudo_without_password_count": 0,
                     "second_roots": [], "second_roots_count": 0, "ssh_root_login": "no", "ssh_root_password": false,
                     "ssh_passwords": true,
                     "certificates": [{"file": "/etc/ssl/shop.pem", "used_by": "nginx", "days_left": 60.0, "begins_in_days": 0.0}]}
    })
}

/// One change to the facts of a well machine, the rule it must trigger, and the severity.
fn ills() -> Vec<(&'static str, Value, &'static str, Severity)> {
    use Severity::{Crit, Note, Warn};
    let failed = |unit: &str, kind: &str, once: bool| json!([{"unit": unit, "kind": kind, "description": "D", "state": "failed (failed)", "runs_once": once}]);
    let loops = |down: bool, restarts: u64, since: Value, per_h: Value| {
        json!([{"unit": "till.service", "description": "Till", "down": down, "restarts": restarts, "restarts_since": since,
                "restarts_per_h": per_h, "why": {"restarts_since": "first_look", "restarts_per_h": "first_look"}}])
    };
    let volume = |free_pct: f64, free_bytes: f64| {
        json!({"mount": "/var", "kind": "ext4", "size_bytes": 4e10, "free_bytes": free_bytes, "free_pct": free_pct, "inodes_free_pct": 50.0,
               "read_only": false, "read_only_unasked": false, "hangs": false, "errors": 0, "why": {"error_days": "absent"}})
    };
    let hung = json!({"mount": "/mnt/nas", "kind": "nfs4", "read_only": false, "read_only_unasked": false, "hangs": true,
        "why": {"free_pct": "hangs", "free_bytes": "hangs", "inodes_free_pct": "hangs", "errors": "not_supported", "error_days": "not_supported"}});
    let array = |missing: u64, faulty: u64, rebuilding: bool, state: &str| json!({"device": "/dev/md0", "level": "raid1", "state": state, "disks": 2, "missing": missing, "faulty": faulty, "rebuilding": rebuilding});
    let battery = |charge: f64, discharging: bool, of_ups: bool| json!({"name": "BAT0", "state": "x", "charge_pct": charge, "health_pct": 91.0, "discharging": discharging, "of_ups": of_ups});
    let printer = |stopped: bool, jobs: u64, hours: f64| json!({"name": "kasse", "stopped": stopped, "refuses": false, "jobs": jobs, "oldest_job_h": hours});
    let mut ills = vec![
        ("/cpu/load_15_per_core", json!(3), "cpu.load", Warn),
        ("/cpu/load_15_per_core", json!(9), "cpu.load", Crit),
        ("/cpu/pressure_5m_pct", json!(70), "cpu.pressure", Warn),
        ("/cpu/stolen_since_pct", json!(30), "cpu.stolen", Warn),
        ("/cpu/io_pressure_5m_pct", json!(50), "disk.pressure", Warn),
        ("/memory/available_pct", json!(7), "memory.low", Warn),
        ("/memory/available_pct", json!(2), "memory.low", Crit),
        (
            "/memory",
            json!({"total_bytes": 8e9, "available_bytes": 1e9, "available_pct": 14.0, "swap_used_pct": 90.0, "pressure_5m_pct": 0.0,
            "some_pressure_5m_pct": 0.0, "killed_since": 0, "since_s": 9, "ecc_corrected_since": 0, "ecc_uncorrected": 0, "broken_bytes": 0}),
            "memory.swap",
            Warn,
        ),
        ("/memory/pressure_5m_pct", json!(25), "memory.pressure", Crit),
        ("/memory/killed_since", json!(2), "memory.killed", Warn),
        ("/memory/ecc_uncorrected", json!(1), "hardware.memory", Crit),
        ("/memory/broken_bytes", json!(4096), "hardware.memory", Crit),
        ("/memory/ecc_corrected_since", json!(12), "hardware.memory", Warn),
        ("/processes/zombies", json!(30), "process.zombies", Warn),
        ("/processes/outdated_count", json!(2), "restart.needed", Note),
        ("/disks/filesystems/0", volume(2.8, 1.1e9), "disk.free", Crit),
        ("/disks/filesystems/0", volume(10.0, 4e9), "disk.free", Warn),
        ("/disks/filesystems/0/inodes_free_pct", json!(1), "disk.files", Crit),
        ("/disks/filesystems/0/read_only_unasked", json!(true), "disk.readonly", Crit),
        ("/disks/filesystems/0", hung, "disk.hangs", Crit),
        (
            "/disks/missing_mounts",
            json!([{"mount": "/data", "device": "/dev/sdb1", "may_be_absent": false}]),
            "mount.missing",
            Warn,
        ),
        (
            "/disks/missing_mounts",
            json!([{"mount": "/usb", "device": "/dev/sdb1", "may_be_absent": true}]),
            "mount.missing",
            Note,
        ),
        ("/disks/arrays/0", array(1, 0, false, "clean"), "raid.md", Crit),
        ("/disks/arrays/0", array(1, 1, true, "clean"), "raid.md", Warn),
        ("/disks/arrays/0", array(0, 1, false, "clean"), "raid.md", Warn),
        ("/disks/arrays/0", array(0, 0, false, "inactive"), "raid.md", Crit),
        ("/disks/pools/0/state", json!("DEGRADED"), "raid.zfs", Warn),
        ("/disks/pools/0/state", json!("SUSPENDED"), "raid.zfs", Crit),
        ("/disks/drives/0/running", json!(false), "disk.stopped", Crit),
        ("/disks/drives/0/healthy", json!(false), "smart.health", Crit),
        ("/disks/drives/0/media_errors", json!(7), "smart.media", Warn),
        ("/disks/drives/0/media_errors", json!(70), "smart.media", Crit),
        ("/disks/drives/0/media_errors_since", json!(1), "smart.media", Crit),
        ("/disks/drives/0/reallocated", json!(3), "smart.media", Note),
        ("/disks/drives/0/worn_pct", json!(95), "smart.worn", Warn),
        ("/disks/drives/0/spare_low", json!(true), "smart.worn", Crit),
        ("/disks/drives/0/self_test_failed", json!(true), "smart.selftest", Warn),
        ("/disks/drives/0/too_hot_c", json!(4), "smart.hot", Warn),
        ("/network/gateway_reachable", json!(false), "network.gateway", Crit),
        ("/network/default_routes", json!([]), "network.route", Warn),
        ("/network/dns_servers", json!([]), "network.names", Warn),
        ("/network/resolvers_answering", json!(0), "dns.fails", Crit),
        ("/network/resolvers/0/answers", json!(false), "dns.slow", Warn),
        ("/network/resolvers/0/took_ms", json!(900), "dns.slow", Warn),
        ("/network/hub_reachable", json!(false), "network.hub", Warn),
        (
            "/network/interfaces/0",
            json!({"name": "eth0", "errors_since": 5000, "errors_since_pct": 2.0, "self_assigned": false}),
            "network.errors",
            Warn,
        ),
        ("/network/interfaces/0/self_assigned", json!(true), "dhcp.failed", Warn),
        ("/services/failed", failed("cups.service", "service", false), "service.failed", Crit),
        ("/services/failed", failed("fsck.service", "service", true), "service.failed", Warn),
        ("/services/failed", failed("mnt-pos1.mount", "mount", false), "unit.failed", Warn),
        ("/services/restarting", loops(true, 9, Value::Null, Value::Null), "service.loop", Crit),
        ("/services/restarting", loops(false, 30, json!(20), json!(12.0)), "service.loop", Crit),
        ("/services/restarting", loops(false, 5, json!(5), json!(0.5)), "service.loop", Warn),
        ("/services/printers/0", printer(true, 0, 0.0), "print.stuck", Warn),
        ("/services/printers/0", printer(false, 2, 3.0), "print.stuck", Warn),
        ("/services/backups/0/age_days", json!(4.0), "backup.age", Warn),
        ("/services/backups/0/age_days", json!(40.0), "backup.age", Crit),
        ("/services/backups/0/failed", json!(true), "backup.age", Warn),
        ("/updates/security", json!(3), "update.security", Warn),
        ("/updates/security", json!(40), "update.security", Crit),
        ("/updates/pending", json!(150), "update.pending", Warn),
        ("/updates/lists_age_days", json!(30), "update.stale", Warn),
        ("/updates/broken_count", json!(1), "update.broken", Crit),
        ("/updates/bad_sources_count", json!(1), "update.sources", Warn),
        ("/system/restart_required", json!(true), "system.restart", Warn),
        ("/system/support_days", json!(-3), "os.ended", Warn),
        ("/system/support_days", json!(30), "os.ended", Note),
        ("/system/boot_unclean", json!(true), "boot.unclean", Warn),
        ("/time/off_s", json!(60), "time.off", Warn),
        ("/time/off_s", json!(31_536_000), "time.off", Crit),
        ("/time/synchronised", json!(false), "time.unsynchronised", Warn),
        ("/power/batteries/0", battery(9.0, true, false), "power.low", Warn),
        ("/power/batteries/0", battery(90.0, true, true), "power.low", Crit),
        ("/power/batteries/0/health_pct", json!(30), "power.battery", Warn),
        ("/logs/errors", json!(9000), "log.flood", Warn),
        ("/logs/cut", json!(true), "log.cut", Note),
        ("/logs/hours_read", json!(3.5), "log.short", Note),
        ("/logs/failed_logins", json!(60), "log.logins", Warn),
        ("/logs/guessed_logins_count", json!(1), "login.guessed", Crit),
        ("/security/ssh_root_password", json!(true), "security.ssh-root", Warn),
        ("/security/sudo_without_password_count", json!(1), "security.sudo", Warn),
        ("/security/second_roots_count", json!(1), "security.second-root", Crit),
        ("/security/firewall", json!(false), "security.firewall", Warn),
        ("/security/certificates/0/days_left", json!(9.0), "cert.expiry", Warn),
        ("/security/certificates/0/begins_in_days", json!(9.0), "cert.expiry", Crit),
        ("/services/printers/0/refuses", json!(true), "print.stuck", Warn),
        ("/security/certificates/0/days_left", json!(3.0), "cert.expiry", Crit),
        ("/security/certificates/0/days_left", json!(-3.0), "cert.expiry", Crit),
    ];
    // Facts of two sections: memory is short, and one program holds it.
    ills.push(("/", process_that_holds_all(), "process.memory", Warn));
    let mut aged = volume(60.0, 6e10);
    aged["errors"] = json!(4);
    aged["error_days"] = json!(3.0);
    ills.push(("/disks/filesystems/0", aged.clone(), "fs.damage", Crit));
    aged["error_days"] = json!(90.0);
    ills.push(("/disks/filesystems/0", aged, "fs.damage", Warn));
    ills
}

fn process_that_holds_all() -> Value {
    let mut facts = well();
    facts["memory"]["available_pct"] = json!(15.0);
    facts["processes"]["top_memory"][0]["memory_pct"] = json!(70.0);
    facts
}

fn with(place: &str, value: Value) -> Value {
    if place == "/" {
        return value;
    }
    let mut facts = well();
    *facts.pointer_mut(place).unwrap_or_else(|| panic!("{place} is in the recording")) = value;
    facts
}

#[test]
fn a_well_machine_has_no_findings_and_every_rule_was_evaluated() {
    let judgement = judged(well());
    assert_eq!((&judgement.findings[..], &judgement.notes[..], &judgement.unknown[..]), (&[][..], &[][..], &[][..]));
    let rules = builtin_rules();
    let rules = &rules.rules;
    assert_eq!(
        (judgement.checks as usize, judgement.well.len(), judgement.not_applicable),
        (rules.len(), rules.len(), 0)
    );
    assert!(rules.len() >= 80, "{}", rules.len());
}

#[test]
fn each_fault_triggers_its_rule_and_no_other() {
    for (place, value, id, severity) in ills() {
        let judgement = judged(with(place, value));
        let all: Vec<_> = judgement.findings.iter().chain(&judgement.notes).collect();
        let found: Vec<_> = all.iter().map(|finding| (finding.id.as_str(), finding.severity)).collect();
        assert_eq!(found, [(id, severity)], "{place}");
        let finding = all[0];
        for text in [&finding.cause, &finding.advice] {
            for words in [&text.en, &text.de] {
                assert!(words.len() > 8 && !words.contains('?') || words.contains("? "), "{id}: {words}");
            }
            assert_ne!(text.en, text.de);
        }
        assert!(!finding.evidence.is_empty(), "{id} rests on numbers");
    }
}

/// A hit of a pattern with this count.
fn hit(pattern: &str, count: u64, message: &str) -> Value {
    json!([{"pattern": pattern, "about": "sdq", "message": message, "count": count, "hours_ago": 1.0}])
}

#[test]
fn each_log_pattern_triggers_one_rule_if_it_is_found_often_enough() {
    let mut patterns: BTreeSet<String> = builtin_patterns().into_iter().map(|pattern| pattern.id).collect();
    patterns.insert("disk.removable".into());
    for pattern in patterns {
        let judgement = judged(with("/logs/hits", hit(&pattern, 500, "EDAC MC0: 500 CE")));
        assert_eq!(judgement.findings.len(), 1, "{pattern}");
        assert!(judgement.findings[0].id.starts_with("log."), "{pattern}");
        assert_eq!(judgement.findings[0].instance.as_deref(), Some("sdq"));
    }
    for rare in ["disk.cable", "usb.broken", "net.link", "hardware.ecc", "service.restart"] {
        assert_eq!(judged(with("/logs/hits", hit(rare, 1, "x"))).findings, [], "{rare} once is nothing");
    }
    let uncorrected = judged(with("/logs/hits", hit("hardware.ecc", 1, "EDAC MC0: 1 UE memory read error")));
    assert_eq!(uncorrected.findings[0].severity, Severity::Crit);
}

#[test]
fn every_rule_has_a_fault_that_triggers_it() {
    let mut woken: BTreeSet<String> = ills().into_iter().map(|(_, _, id, _)| id.to_owned()).collect();
    let rules = builtin_rules();
    let logs = rules.rules.iter().filter(|rule| rule.each.as_deref() == Some("hits"));
    woken.extend(logs.map(|rule| rule.id.clone()));
    let all: BTreeSet<String> = rules.rules.iter().map(|rule| rule.id.clone()).collect();
    assert_eq!(woken, all);
}

/// Former false alarms and false all-clears: one change to a well machine that must trigger
/// nothing.
#[test]
fn former_false_alarms_trigger_no_rule() {
    let traps = [
        ("/memory/swap_used_pct", json!(95), "swap alone stays full for weeks"),
        ("/memory/killed", json!(400), "killed 200 days ago"),
        ("/network/interfaces/0/errors", json!(900_000), "errors since boot"),
        ("/processes/top_memory/0/memory_pct", json!(80), "a database holds all there is, on purpose"),
        ("/disks/filesystems/0/read_only", json!(true), "mounted read-only on purpose"),
        ("/disks/arrays/0/state", json!("active-idle"), "an array at rest"),
        ("/network/default_routes", json!([{"device": "ppp0"}]), "a way out without a gateway"),
        ("/power/mains", json!(false), "a laptop on its battery"),
        ("/security/open_ports", json!(48), "many ports behind a firewall"),
    ];
    for (place, value, why) in traps {
        let judgement = judged(with(place, value));
        assert_eq!((judgement.findings, judgement.notes), (vec![], vec![]), "{why}");
    }
}

#[test]
fn the_reason_of_a_missing_fact_decides_its_check() {
    let missing = |reason: Option<&str>| {
        let mut facts = well();
        facts["security"]["firewall"] = Value::Null;
        if let Some(reason) = reason {
            facts["security"]["why"] = json!({"firewall": reason});
        }
        judged(facts)
    };
    let count = builtin_rules().rules.len();
    for lost in ["timed_out:nft", "hangs", "unreadable:nft", "eaten:by a goat"] {
        let judgement = missing(Some(lost));
        let unknown = &judgement.unknown[..];
        assert_eq!(
            (unknown.len(), unknown[0].id.as_str(), unknown[0].why.to_string()),
            (1, "security.firewall", lost.to_owned())
        );
        assert_eq!((unknown[0].could_be, judgement.well.len()), (Severity::Warn, count - 1), "{lost}");
        assert_eq!(report_of(judgement).state(), State::Unknown);
    }
    let silent = missing(None);
    assert_eq!(silent.unknown.len(), 1, "no reason is no excuse");
    for gap in ["not_installed:nft", "not_permitted", "not_permitted:nft", "not_configured:x"] {
        let judgement = missing(Some(gap));
        assert_eq!((judgement.unknown.len(), judgement.notes.len(), judgement.well.len()), (0, 1, count - 1), "{gap}");
        let note = &judgement.notes[0];
        assert_eq!((note.severity, note.evidence["checks"].clone()), (Severity::Note, json!(["security.firewall"])));
        assert!(
            note.cause.en.len() > 20 && note.cause.de.len() > 20 && note.cause.en != note.cause.de,
            "{gap}: {note:?}"
        );
        assert_eq!(report_of(judgement).state(), State::Ok);
    }
    // Checks for which a slow program is still running are listed: they are neither well nor lost.
    let later = missing(Some("still_asked"));
    assert_eq!(
        (later.unknown.len(), later.not_applicable, later.not_yet.as_slice()),
        (0, 0, &["security.firewall".to_owned()][..])
    );
    assert_eq!(later.well.len(), count - 1);
    for none in ["absent", "not_supported", "asleep", "first_look"] {
        let judgement = missing(Some(none));
        assert_eq!((judgement.unknown.len(), judgement.notes.len(), judgement.not_applicable), (0, 0, 1), "{none}");
        assert!(!judgement.well.contains(&"security.firewall".to_owned()), "{none} is not ok");
    }
}

#[test]
fn a_fault_stays_unknown_while_its_fact_is_temporarily_missing() {
    let disk = |healthy: Value, why: &str| {
        let mut facts = well();
        facts["disks"]["drives"][0]["healthy"] = healthy;
        facts["disks"]["drives"][0]["why"] = json!({"healthy": why});
        facts
    };
    let bad = judged(disk(json!(false), "absent"));
    assert_eq!(bad.findings.len(), 1);
    for (why, unknown) in [("asleep", 1), ("still_asked", 1), ("first_look", 1), ("not_supported", 0), ("absent", 0)] {
        let asleep = judged_with(&builtin_rules(), disk(Value::Null, why), &bad.past, NOW + 1);
        assert_eq!(asleep.unknown.len(), unknown, "{why}");
        let never = judged(disk(Value::Null, why));
        assert_eq!(never.unknown, [], "{why}");
    }
}

#[test]
fn a_level_without_an_answer_counts_only_if_it_is_the_worse_one() {
    let mut facts = well();
    facts["logs"]["failed_logins"] = json!(60);
    facts["security"]["ssh_passwords"] = Value::Null;
    facts["security"]["why"] = json!({"ssh_passwords": "timed_out:sshd"});
    let judgement = judged(facts);
    let unknown: Vec<&str> = judgement.unknown.iter().map(|unknown| unknown.id.as_str()).collect();
    assert!(
        unknown.contains(&"log.logins") && judgement.notes.is_empty(),
        "what may be a fault is no note: {unknown:?}"
    );
    let mut facts = well();
    let printer = json!({"name": "kasse", "stopped": null, "jobs": 3, "oldest_job_h": 9.0, "why": {"stopped": "timed_out:lpstat"}});
    facts["services"]["printers"] = json!([printer]);
    let judgement = judged(facts);
    assert_eq!((judgement.findings.len(), judgement.findings[0].worse_unknown), (1, false), "both only warn");
}

fn report_of(judgement: Judgement) -> Report {
    Report::new(NOW, 5, sections(well()), judgement)
}

#[test]
fn blind_spots_with_the_same_reason_are_merged_into_one_note() {
    let mut facts = well();
    let fields = [
        "healthy",
        "media_errors",
        "media_errors_since",
        "reallocated",
        "worn_pct",
        "spare_low",
        "self_test_failed",
        "too_hot_c",
    ];
    for field in fields {
        facts["disks"]["drives"][0][field] = Value::Null;
    }
    facts["disks"]["drives"][0]["why"] =
        fields.iter().map(|field| ((*field).to_owned(), json!("not_installed:smartctl"))).collect();
    let judgement = judged(facts);
    assert_eq!((judgement.notes.len(), judgement.notes[0].id.as_str()), (1, "smart.blind"));
    assert_eq!(judgement.notes[0].evidence["checks"].as_array().map(Vec::len), Some(5));
    assert_eq!(judgement.unknown, []);
}

#[test]
fn an_empty_list_of_things_is_not_judged_and_an_empty_list_of_faults_is_well() {
    let mut facts = well();
    facts["power"]["batteries"] = json!([]);
    facts["services"]["failed"] = json!([]);
    let judgement = judged(facts);
    assert!(!judgement.well.iter().any(|id| id.starts_with("power.")));
    assert!(judgement.well.contains(&"service.failed".to_owned()));
    let mut facts = well();
    facts["services"]["failed"] = Value::Null;
    facts["services"]["why"] = json!({"failed": "timed_out:busctl"});
    let judgement = judged(facts);
    let unknown: Vec<&str> = judgement.unknown.iter().map(|unknown| unknown.id.as_str()).collect();
    assert_eq!(unknown, ["service.failed", "unit.failed"]);
}

#[test]
fn every_check_of_an_unanswered_section_is_unknown() {
    let mut some = sections(well());
    let why = Some(Cause::from(Reason::TimedOut));
    let silent = Section { took_ms: 1, why, answer: Answer::Unanswered("it took too long".into()) };
    some.insert(SectionName::Updates, silent);
    let rules = builtin_rules();
    let updates = rules.rules.iter().filter(|rule| rule.section == SectionName::Updates).count();
    let wanted = some.keys().copied().collect();
    let judgement = judge(&rules, &some, &wanted, &Past::default(), NOW);
    assert_eq!((judgement.unknown.len(), judgement.checks as usize), (updates, rules.rules.len() - updates));
    let report = Report::new(NOW, 5, some, judgement);
    assert_eq!((report.state(), report.could_be_critical()), (State::Unknown, true));
}

#[test]
fn sections_that_a_partial_diagnosis_depends_on_are_gathered_but_not_judged() {
    let rules = builtin_rules();
    let wanted = BTreeSet::from([SectionName::Processes]);
    assert_eq!(rules.needed(&wanted), BTreeSet::from([SectionName::Processes, SectionName::Memory]));
    let judgement = judge(&rules, &sections(process_that_holds_all()), &wanted, &Past::default(), NOW);
    assert_eq!(judgement.findings.len(), 1);
    assert_eq!(judgement.checks as usize, rules.rules.iter().filter(|r| r.section == SectionName::Processes).count());
}

const DISK: &str = r#"
[[rule]]
id = "disk.free"
section = "disks"
each = "filesystems"
name = "mount"
level = [
  { severity = "crit", when = [{ fact = "free_pct", below = 5, clear = 7 }] },
  { severity = "warn", when = [{ fact = "free_pct", below = 12, clear = 15 }] },
]
cause = { en = "full", de = "voll" }
advice = { en = "free it", de = "leeren" }
"#;

fn disk(free: Value, why: Value) -> Value {
    json!({"disks": {"filesystems": [{"mount": "/", "free_pct": free, "why": why}]}})
}

#[test]
fn a_finding_clears_only_beyond_its_clear_bound() {
    let rules = Rules::from_toml(DISK).expect("rules");
    let mut past = Past::default();
    let mut says = |free: f64| {
        let judgement = judged_with(&rules, disk(json!(free), json!({})), &past, NOW);
        past = judgement.past;
        judgement.findings.first().map(|finding| finding.severity)
    };
    use Severity::{Crit, Warn};
    let curve = [
        (14.0, None),
        (11.0, Some(Warn)),
        (14.0, Some(Warn)),
        (16.0, None),
        (14.0, None),
        (4.0, Some(Crit)),
        (6.0, Some(Crit)),
        (8.0, Some(Warn)),
        (6.0, Some(Warn)),
        (14.0, Some(Warn)),
        (15.5, None),
    ];
    for (step, (free, wanted)) in curve.into_iter().enumerate() {
        assert_eq!(says(free), wanted, "step {step}: {free}");
    }
}

#[test]
fn a_check_that_loses_its_answer_is_lost_until_it_is_answered() {
    let rules = Rules::from_toml(DISK).expect("rules");
    let day = 24 * 3600 * 1000;
    let says = |free: Value, why: Value, past: &Past, now: i64| judged_with(&rules, disk(free, why), past, now);
    let gap = json!({"free_pct": "not_installed:df"});
    let first = says(Value::Null, gap.clone(), &Past::default(), NOW);
    assert_eq!((first.unknown.len(), first.notes.len()), (0, 1), "never known: a blind spot");
    let known = says(json!(50), json!({}), &Past::default(), NOW);
    let lost = says(Value::Null, gap.clone(), &known.past, NOW + day);
    assert_eq!((lost.unknown.len(), lost.notes.len(), lost.unknown[0].since), (1, 0, NOW + day));
    let still = says(Value::Null, json!({"free_pct": "still_asked:df"}), &lost.past, NOW + 2 * day);
    assert_eq!(still.unknown.first().map(|unknown| unknown.since), Some(NOW + day), "nobody has answered since");
    let gone = judged_with(&rules, json!({"disks": {"filesystems": []}}), &still.past, NOW + 3 * day);
    assert_eq!((gone.unknown.len(), gone.not_applicable), (0, 1), "it is seen to be gone");
    let answered = says(json!(50), json!({}), &still.past, NOW + 3 * day);
    assert_eq!((answered.unknown.len(), answered.well.len()), (0, 1));
    let old = says(Value::Null, gap.clone(), &lost.past, NOW + 40 * day);
    let older = says(Value::Null, gap, &old.past, NOW + 41 * day);
    assert_eq!((older.unknown.len(), older.notes.len()), (0, 1), "after thirty days it is a blind spot");
}

#[test]
fn a_finding_that_may_be_worse_is_marked() {
    let rules = Rules::from_toml(
        r#"
[[rule]]
id = "drive"
section = "disks"
level = [
  { severity = "crit", when = [{ fact = "healthy", is = false }] },
  { severity = "warn", when = [{ fact = "worn", above = 90 }] },
]
cause = { en = "bad", de = "schlecht" }
advice = { en = "x", de = "y" }
"#,
    )
    .expect("rules");
    let says = |reason: &str| {
        let facts = json!({"disks": {"healthy": null, "worn": 95, "why": {"healthy": reason}}});
        let judgement = judged_with(&rules, facts, &Past::default(), NOW);
        (judgement.findings[0].severity, judgement.findings[0].worse_unknown)
    };
    assert_eq!(says("timed_out:smartctl"), (Severity::Warn, true));
    assert_eq!(says("not_supported"), (Severity::Warn, false));
    let facts = json!({"disks": {"healthy": null, "worn": 5, "why": {"healthy": "not_supported"}}});
    let judgement = judged_with(&rules, facts, &Past::default(), NOW);
    assert_eq!(judgement.well, ["drive"], "what was decided was decided");
}

#[test]
fn findings_that_are_left_out_are_counted() {
    let mut facts = well();
    let unit = |n: u32| json!({"unit": format!("till-{n}.service"), "kind": "service", "description": "D", "state": "failed", "runs_once": false});
    facts["services"]["failed"] = (0..40).map(unit).collect();
    let judgement = judged(facts);
    assert_eq!((judgement.findings.len(), judgement.left_out.get("service.failed")), (16, Some(&24)));
}

#[test]
fn a_report_from_before_0_3_0_is_read_and_unanswered_sections_are_unknown() {
    let old = json!({"v": 1, "taken_at": 5, "took_ms": 6, "checks": 41, "findings": [],
        "sections": {"system": {"took_ms": 1, "facts": {"os": "debian-12"}}, "updates": {"took_ms": 2500, "unanswered": "apt was not done in time"}}});
    let report: Report = serde_json::from_value(old).expect("read");
    assert_eq!((report.state(), report.counts().ok), (State::Unknown, 41));
    let packed = report.pack().expect("packed");
    let (summary, _) = fernwart_protocol::diagnosis::Summary::unpack(&packed).expect("read");
    assert_eq!((summary.state(), summary.could_be_critical()), (State::Unknown, true));
    assert_eq!(summary.lost_in_words().as_deref(), Some("updates: not answered"));
}
