//! Every built-in rule against recorded facts: it speaks when it must, in both
//! languages, and is silent about a machine that is well.

#![allow(clippy::expect_used, clippy::indexing_slicing, reason = "a test may fail loudly")]

use fernwart_protocol::diagnosis::{Answer, Section, Severity, builtin_rules, judge};
use fernwart_protocol::document::SectionName;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};

fn sections(facts: Value) -> BTreeMap<SectionName, Section> {
    let object = facts.as_object().expect("sections").clone();
    object
        .into_iter()
        .map(|(name, facts)| (name.parse().expect("a section"), Section { took_ms: 1, answer: Answer::Facts(facts) }))
        .collect()
}

/// A machine that is well, as one was recorded.
fn well() -> Value {
    json!({
        "system": {"hostname": "kasse-1", "os": "debian-12", "uptime_s": 9000, "restart_required": false},
        "cpu": {"cores": 2, "load_15": 0.4, "load_15_per_core": 0.2, "pressure_pct": 1.0, "io_pressure_pct": 0.2, "stolen_pct": 0.1},
        "memory": {"total_bytes": 8e9, "available_bytes": 5e9, "available_pct": 62.0, "swap_used_pct": 1.0, "pressure_pct": 0.0, "killed": 0},
        "disks": {
            "filesystems": [{"mount": "/", "size_bytes": 1e11, "free_bytes": 6e10, "free_pct": 60.0, "inodes_free_pct": 90.0, "read_only": false}],
            "drives": [{"device": "/dev/sda", "model": "A", "healthy": true, "media_errors": 0, "worn_pct": 3.0, "temperature_c": 35.0}]
        },
        "network": {"interfaces": [{"name": "eth0", "errors": 0, "errors_pct": 0.0}], "gateways": ["192.0.2.1"],
                    "gateway_reachable": true, "dns_servers": ["192.0.2.1"], "hub_reachable": true},
        "processes": {"zombies": 0, "top_memory": [{"name": "shop", "memory_pct": 9.0, "memory_bytes": 1e8}]},
        "services": {"failed": []},
        "logs": {"errors": 3, "hours": 24, "groups": [{"source": "cups", "message": "paper tray open", "count": 3}]},
        "updates": {"pending": 4, "security": 0, "lists_age_days": 1.0},
        "time": {"off_s": 0.0, "synchronised": true},
        "power": {"mains": true, "batteries": [{"name": "BAT0", "health_pct": 91.0}]},
        "security": {"open_ports": 2, "firewall": true, "sudo_without_password_count": 0, "second_roots_count": 0, "ssh_root_login": "no"}
    })
}

/// One change to a well machine, the rule it must wake, and how loudly.
fn ills() -> Vec<(&'static str, Value, &'static str, Severity)> {
    use Severity::{Crit, Warn};
    let group = |message: &str, count: u64| json!([{"source": "kernel", "message": message, "count": count}]);
    vec![
        ("/cpu/load_15_per_core", json!(3), "cpu.load", Warn),
        ("/cpu/load_15_per_core", json!(9), "cpu.load", Crit),
        ("/cpu/pressure_pct", json!(70), "cpu.pressure", Warn),
        ("/cpu/stolen_pct", json!(30), "cpu.stolen", Warn),
        ("/cpu/io_pressure_pct", json!(50), "disk.pressure", Warn),
        ("/memory/available_pct", json!(7), "memory.low", Warn),
        ("/memory/available_pct", json!(2), "memory.low", Crit),
        ("/memory/swap_used_pct", json!(90), "memory.swap", Warn),
        ("/memory/pressure_pct", json!(25), "memory.pressure", Crit),
        ("/memory/killed", json!(2), "memory.killed", Warn),
        ("/processes/zombies", json!(30), "process.zombies", Warn),
        ("/processes/top_memory/0/memory_pct", json!(70), "process.memory", Warn),
        (
            "/disks/filesystems/0",
            json!({"mount": "/var", "size_bytes": 4e10, "free_bytes": 1.1e9, "free_pct": 2.8, "read_only": false}),
            "disk.free",
            Crit,
        ),
        (
            "/disks/filesystems/0",
            json!({"mount": "/var", "size_bytes": 4e10, "free_bytes": 4e9, "free_pct": 10.0, "read_only": false}),
            "disk.free",
            Warn,
        ),
        ("/disks/filesystems/0/inodes_free_pct", json!(1), "disk.files", Crit),
        ("/disks/filesystems/0/read_only", json!(true), "disk.readonly", Crit),
        ("/disks/drives/0/healthy", json!(false), "smart.health", Crit),
        ("/disks/drives/0/media_errors", json!(7), "smart.media", Warn),
        ("/disks/drives/0/media_errors", json!(70), "smart.media", Crit),
        ("/disks/drives/0/worn_pct", json!(95), "smart.worn", Warn),
        ("/disks/drives/0/temperature_c", json!(70), "smart.hot", Warn),
        ("/network/gateway_reachable", json!(false), "network.gateway", Crit),
        ("/network/gateways", json!([]), "network.route", Warn),
        ("/network/dns_servers", json!([]), "network.names", Warn),
        ("/network/hub_reachable", json!(false), "network.hub", Warn),
        ("/network/interfaces/0", json!({"name": "eth0", "errors": 5000, "errors_pct": 2.0}), "network.errors", Warn),
        (
            "/services/failed",
            json!([{"unit": "cups.service", "description": "Printing", "state": "failed (failed)"}]),
            "service.failed",
            Crit,
        ),
        ("/updates/security", json!(3), "update.security", Warn),
        ("/updates/security", json!(40), "update.security", Crit),
        ("/updates/pending", json!(150), "update.pending", Warn),
        ("/updates/lists_age_days", json!(30), "update.stale", Warn),
        ("/system/restart_required", json!(true), "system.restart", Warn),
        ("/time/off_s", json!(60), "time.off", Warn),
        ("/time/off_s", json!(31_536_000), "time.off", Crit),
        ("/time/synchronised", json!(false), "time.unsynchronised", Warn),
        ("/power/mains", json!(false), "power.mains", Warn),
        ("/power/batteries/0/health_pct", json!(30), "power.battery", Warn),
        ("/logs/groups", group("sda: I/O error, dev sda", 2), "log.disk", Crit),
        ("/logs/groups", group("till[7]: segfault at 0", 1), "log.crash", Warn),
        ("/logs/groups", group("Out of memory: Killed process 7", 1), "log.memory", Warn),
        ("/logs/groups", group("write: No space left on device", 4), "log.full", Warn),
        ("/logs/groups", group("Failed password for root", 60), "log.logins", Warn),
        ("/logs/errors", json!(9000), "log.flood", Warn),
        ("/security/ssh_root_login", json!("yes"), "security.ssh-root", Warn),
        ("/security/sudo_without_password_count", json!(1), "security.sudo", Warn),
        ("/security/second_roots_count", json!(1), "security.second-root", Crit),
        ("/security/firewall", json!(false), "security.firewall", Warn),
    ]
}

#[test]
fn a_well_machine_has_no_findings_and_every_rule_was_asked() {
    let rules = builtin_rules();
    let judgement = judge(&rules, &sections(well()));
    assert_eq!(judgement.findings, []);
    assert_eq!(judgement.checks as usize, rules.len());
    assert!(rules.len() >= 20, "{}", rules.len());
}

#[test]
fn each_ill_wakes_its_rule_and_no_other() {
    let rules = builtin_rules();
    for (place, value, id, severity) in ills() {
        let mut facts = well();
        *facts.pointer_mut(place).unwrap_or_else(|| panic!("{place} is in the recording")) = value;
        let findings = judge(&rules, &sections(facts)).findings;
        let found: Vec<_> = findings.iter().map(|finding| (finding.id.as_str(), finding.severity)).collect();
        assert_eq!(found, [(id, severity)], "{place}");
        let finding = &findings[0];
        for text in [&finding.cause, &finding.advice] {
            for words in [&text.en, &text.de] {
                assert!(words.len() > 8 && words.ends_with(['.', ']']) || words.contains(':'), "{words}");
            }
            assert_ne!(text.en, text.de);
        }
        assert!(!finding.evidence.is_empty(), "{id} rests on numbers");
    }
}

#[test]
fn every_rule_has_an_ill_that_wakes_it() {
    let woken: BTreeSet<&str> = ills().into_iter().map(|(_, _, id, _)| id).collect();
    let all: BTreeSet<String> = builtin_rules().into_iter().map(|rule| rule.id).collect();
    assert_eq!(woken, all.iter().map(String::as_str).collect());
}

#[test]
fn a_section_that_was_not_answered_is_not_judged() {
    let mut some = sections(well());
    let silent = Section { took_ms: 1, answer: Answer::Unanswered("no service manager".into()) };
    some.insert(SectionName::Services, silent);
    let rules = builtin_rules();
    let services = rules.iter().filter(|rule| rule.section == SectionName::Services).count();
    assert_eq!(judge(&rules, &some).checks as usize, rules.len() - services);
}
