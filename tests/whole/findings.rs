//! What is found on a machine with a real systemd, and what is done about it: services
//! that do not stay up, units that are no services, backups, remedies for the finding
//! that was shown.

use crate::booted::{diagnosed, finding, join};
use fernwart_tests::guest::Guest;
use fernwart_tests::{World, program, wait_until};
use serde_json::{Value, json};

fn put_unit(guest: &Guest, name: &str, text: &str) {
    let script = format!("cat > /etc/systemd/system/{name} <<'END'\n{text}END\nsystemctl daemon-reload");
    guest.run(&["sh", "-ec", &script]).exits(0);
}

fn entry<'a>(report: &'a Value, list: &str, field: &str, is: &str) -> Option<&'a Value> {
    report["sections"]["services"]["facts"][list].as_array()?.iter().find(|entry| entry[field] == is)
}

#[test]
fn a_restart_loop_is_found_and_a_failed_mount_is_not_called_a_service() {
    let world = World::new();
    let Some(guest) = Guest::boot(world.path()) else { return };
    join(&world, &guest);
    put_unit(
        &guest,
        "till.service",
        "[Unit]\nDescription=Till\nStartLimitIntervalSec=0\n[Service]\nExecStart=/bin/false\nRestart=always\nRestartSec=300ms\n",
    );
    put_unit(&guest, "mnt-pos1.mount", "[Mount]\nWhat=/no/such/disk.img\nWhere=/mnt/pos1\nType=ext4\nOptions=loop\n");
    guest.run(&["systemctl", "start", "mnt-pos1.mount"]);
    guest.run(&["systemctl", "start", "till.service"]);
    wait_until("it was started again some times", || {
        let restarts = guest.run(&["systemctl", "show", "-P", "NRestarts", "till.service"]).out;
        restarts.trim().parse::<u32>().is_ok_and(|restarts| restarts > 12)
    });
    let mut report = Value::Null;
    // Between two starts it is down most of the time.
    wait_until("it is seen down", || {
        report = diagnosed(&world, &["services", "logs"]);
        entry(&report, "restarting", "unit", "till.service").is_some()
    });
    let loops = finding(&report, "service.loop").expect("it does not stay up");
    assert_eq!((&loops["instance"], &loops["severity"]), (&json!("till.service"), &json!("crit")), "{loops}");
    // The journal shows it, too, though none of its lines is an error.
    let restarts = finding(&report, "log.restarts").expect("the journal has it");
    assert_eq!(restarts["instance"], "till.service", "{restarts}");
    // A remedy for services is not offered for a mount.
    let mount = finding(&report, "unit.failed").expect("the mount has failed");
    assert_eq!((&mount["instance"], &mount["remedy"]), (&json!("mnt-pos1.mount"), &Value::Null), "{mount}");
    assert!(finding(&report, "service.failed").is_none(), "{report}");
}

#[test]
fn backup_age_is_reported_and_no_backup_is_a_blind_spot() {
    let world = World::new();
    let Some(guest) = Guest::boot(world.path()) else { return };
    join(&world, &guest);
    let report = diagnosed(&world, &["services"]);
    let blind = report["notes"].as_array().expect("notes").iter().find(|note| note["id"] == "backup.blind");
    assert!(blind.is_some(), "none can be seen: {report}");
    put_unit(&guest, "borg-kasse.service", "[Service]\nType=oneshot\nExecStart=/bin/sh -c 'test ! -e /run/broken'\n");
    guest.run(&["systemctl", "start", "borg-kasse.service"]).exits(0);
    // systemd forgets an ended unit to which no other unit refers.
    put_unit(
        &guest,
        "borg-kasse.timer",
        "[Timer]\nOnCalendar=daily\nPersistent=true\n[Install]\nWantedBy=timers.target\n",
    );
    guest.run(&["systemctl", "start", "borg-kasse.timer"]).exits(0);
    guest.run(&["systemctl", "start", "borg-kasse.service"]).exits(0);
    let report = diagnosed(&world, &["services"]);
    let backup = entry(&report, "backups", "name", "borg-kasse.service").expect("it is known");
    assert_eq!((&backup["age_days"], &backup["failed"]), (&json!(0.0), &json!(false)), "{backup}");
    assert!(finding(&report, "backup.age").is_none());
    guest.run(&["touch", "/run/broken"]).exits(0);
    guest.run(&["systemctl", "start", "borg-kasse.service"]);
    let report = diagnosed(&world, &["services"]);
    assert_eq!(finding(&report, "backup.age").expect("it failed")["severity"], "warn");
}

/// A service that starts only if its file below `/run` exists.
fn printer(name: &str) -> String {
    format!(
        "[Unit]\nDescription={name}\n[Service]\nType=notify\nNotifyAccess=all\nExecStart=/bin/sh -c '[ -e /run/{name} ] && systemd-notify --ready && exec sleep infinity'\n"
    )
}

#[test]
fn a_remedy_applies_only_to_the_finding_it_was_shown_for() {
    let world = World::new();
    let Some(guest) = Guest::boot(world.path()) else { return };
    join(&world, &guest);
    let scripts = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../controller/scripts/service-restart");
    world.technician(&["catalogue", "propose", "--yes", scripts.to_str().expect("text")]).exits(0);
    let agent = program("fernwart-agent");
    let agent = agent.to_str().expect("text");
    wait_until("the machine follows", || guest.run(&[agent, "journal", "--export"]).out.contains("catalogue_followed"));
    guest.run(&[agent, "allow", "repair", "--for", "2h"]).exits(0);
    for name in ["pos1", "pos2"] {
        put_unit(&guest, &format!("{name}.service"), &printer(name));
    }
    let remedy_in = |words: &[&str], unit: &str| {
        let printed = world.technician(words);
        let named = printed.out.lines().find_map(|line| {
            let named = line.trim().strip_prefix("fernwart run --remedy ")?.split_whitespace().next()?;
            named.ends_with(unit).then(|| named.to_owned())
        });
        named.unwrap_or_else(|| panic!("a remedy of {unit}: {} {}", printed.out, printed.err))
    };
    // A complete diagnosis shows the first failure, which is then repaired manually. A diagnosis of one
    // section shows the second.
    guest.run(&["systemctl", "start", "pos1"]);
    let first = remedy_in(&["diagnose", "kasse-1"], "service.failed:pos1.service");
    guest.run(&["sh", "-ec", "touch /run/pos1 && systemctl restart pos1"]).exits(0);
    let id = |unit: &str| guest.run(&["systemctl", "show", "-P", "InvocationID", unit]).exits(0).out;
    let untouched = id("pos1");
    guest.run(&["systemctl", "start", "pos2"]);
    let second = remedy_in(&["diagnose", "kasse-1", "--section", "services"], "service.failed:pos2.service");
    guest.run(&["touch", "/run/pos2"]).exits(0);
    let run = |named: &str| world.technician(&["run", "--remedy", named, "--yes", "--reason", "Auftrag 4711"]);
    let printed = run(&second).exits(0);
    assert!(printed.out.contains("service.failed run again: ok"), "{}", printed.out);
    guest.run(&["systemctl", "is-active", "pos2"]).exits(0);
    assert_eq!(id("pos1"), untouched, "nobody asked for that");
    // A remedy whose finding no longer holds is refused: after a manual repair, and when the same line is
    // run twice.
    for named in [&first, &second] {
        let printed = run(named).exits(3);
        assert!(printed.err.contains("FW-CLI-20") && printed.err.contains("no longer so"), "{}", printed.err);
    }
    assert_eq!(id("pos1"), untouched);
    let unknown = run("kasse-1/1/service.failed:pos7.service").exits(2);
    assert!(unknown.err.contains("FW-CLI-12"), "{}", unknown.err);
}

#[test]
fn diagnose_prints_nagios_and_checkmk_formats() {
    let world = World::new();
    let mut machine = world.add_machine("kasse-1");
    let printed = world.technician(&["diagnose", "kasse-1", "-o", "nagios", "--section", "memory"]);
    assert!(matches!(printed.code, 0..=2), "{printed:?}");
    let words = ["OK", "WARNING", "CRITICAL"];
    assert!(printed.out.starts_with(&format!("FERNWART {} - ", words[printed.code as usize])), "{}", printed.out);
    assert!(printed.out.lines().next().is_some_and(|line| line.contains(" | ok=")), "{}", printed.out);
    let printed = world.technician(&["diagnose", "kasse-1", "-o", "checkmk", "--section", "memory"]).exits(0);
    assert!(
        printed.out.lines().all(|line| line.starts_with(['0', '1', '2', '3']) && line.contains(" \"Fernwart")),
        "{}",
        printed.out
    );
    assert!(printed.out.contains("\"Fernwart memory.low\""), "{}", printed.out);
    world.technician(&["diagnose", "all", "-o", "nagios", "--limit", "0"]);
    // Every failure is UNKNOWN there, on standard output.
    machine.agent.stop();
    wait_until("it is away", || !world.is_online("kasse-1"));
    let printed = world.technician(&["diagnose", "kasse-1", "-o", "nagios", "--timeout", "2s"]).exits(3);
    assert!(printed.out.starts_with("FERNWART UNKNOWN - ") && printed.out.contains("away"), "{}", printed.out);
    let printed = world.technician(&["diagnose", "kasse-1", "-o", "checkmk", "--timeout", "2s"]).exits(0);
    assert!(printed.out.starts_with("3 \"Fernwart\" - "), "{}", printed.out);
    let printed = world.technician(&["diagnose", "nobody", "-o", "nagios"]).exits(3);
    assert!(printed.out.contains("FW-CLI-02"), "{}", printed.out);
    // On the machine itself, too.
    let printed = machine.owner(&["diagnose", "-o", "nagios", "--section", "memory"]);
    assert!(printed.out.starts_with("FERNWART ") && printed.code < 3, "{printed:?}");
}

#[test]
fn ls_shows_the_age_of_a_health_state_and_marks_it_stale() {
    let mut world = World::new();
    let _machine = world.add_machine("kasse-1");
    let printed = world.technician(&["diagnose", "kasse-1", "-o", "jsonl"]);
    assert!(matches!(printed.code, 0 | 1), "{}", printed.err);
    let row = |printed: &fernwart_tests::CommandOutput| {
        printed.json_lines().into_iter().find(|line| line["type"] == "machine").expect("a row")
    };
    let printed = world.technician(&["ls", "-o", "jsonl"]).exits(0);
    let now = row(&printed);
    assert_eq!(
        (&now["stale"], now["health_age_s"].as_i64().is_some_and(|age| age < 60)),
        (&json!(false), true),
        "{now}"
    );
    // After three days without a diagnosis the state stays, with its age.
    world.hub.stop();
    if !world.restart_hub_at("+3d") {
        return;
    }
    let printed = world.technician_at("+3d", &["ls"]).exits(0);
    assert!(printed.out.contains("3 d ago"), "{}", printed.out);
    let later = row(&world.technician_at("+3d", &["ls", "-o", "jsonl"]).exits(0));
    assert_eq!((&later["stale"], &later["health"]), (&json!(true), &now["health"]), "{later}");
}

#[test]
fn owner_status_shows_the_name_used_by_technicians() {
    let world = World::new();
    let machine = world.add_machine("kasse-7");
    let printed = world.technician(&["diagnose", "kasse-7", "--section", "power"]);
    assert!(matches!(printed.code, 0 | 1), "{}", printed.err);
    let own = fernwart_tests::run(std::process::Command::new("uname").arg("-n")).exits(0).out;
    let printed = machine.owner(&["--lang", "en", "status"]).exits(0);
    let head = printed.out.lines().next().unwrap_or_default();
    assert!(head.contains("kasse-7") && head.contains(own.trim()), "{head}");
}
