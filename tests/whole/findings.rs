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
fn a_service_that_is_started_for_ever_is_seen_and_a_mount_is_no_service() {
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
    // The journal tells of it, too, though no line of it is an error.
    let restarts = finding(&report, "log.restarts").expect("the journal has it");
    assert_eq!(restarts["instance"], "till.service", "{restarts}");
    // What repairs a service repairs no mount.
    let mount = finding(&report, "unit.failed").expect("the mount has failed");
    assert_eq!((&mount["instance"], &mount["remedy"]), (&json!("mnt-pos1.mount"), &Value::Null), "{mount}");
    assert!(finding(&report, "service.failed").is_none(), "{report}");
}

#[test]
fn how_old_the_last_good_backup_is_is_known_and_none_is_not_called_well() {
    let world = World::new();
    let Some(guest) = Guest::boot(world.path()) else { return };
    join(&world, &guest);
    let report = diagnosed(&world, &["services"]);
    let blind = report["notes"].as_array().expect("notes").iter().find(|note| note["id"] == "backup.blind");
    assert!(blind.is_some(), "none can be seen: {report}");
    put_unit(&guest, "borg-kasse.service", "[Service]\nType=oneshot\nExecStart=/bin/sh -c 'test ! -e /run/broken'\n");
    guest.run(&["systemctl", "start", "borg-kasse.service"]).exits(0);
    // A unit that nothing names is forgotten by systemd once it has ended.
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

/// A service that runs as long as its paper is there.
fn printer(name: &str) -> String {
    format!(
        "[Unit]\nDescription={name}\n[Service]\nType=notify\nNotifyAccess=all\nExecStart=/bin/sh -c '[ -e /run/{name} ] && systemd-notify --ready && exec sleep infinity'\n"
    )
}

#[test]
fn a_remedy_is_for_the_finding_that_was_shown() {
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
        let said = world.technician(words);
        let named = said.out.lines().find_map(|line| {
            let named = line.trim().strip_prefix("fernwart run --remedy ")?.split_whitespace().next()?;
            named.ends_with(unit).then(|| named.to_owned())
        });
        named.unwrap_or_else(|| panic!("a remedy of {unit}: {} {}", said.out, said.err))
    };
    // A whole diagnosis shows the first; it is mended by hand, and then the second
    // fails, which a look at one part shows.
    guest.run(&["systemctl", "start", "pos1"]);
    let first = remedy_in(&["diagnose", "kasse-1"], "service.failed:pos1.service");
    guest.run(&["sh", "-ec", "touch /run/pos1 && systemctl restart pos1"]).exits(0);
    let id = |unit: &str| guest.run(&["systemctl", "show", "-P", "InvocationID", unit]).exits(0).out;
    let untouched = id("pos1");
    guest.run(&["systemctl", "start", "pos2"]);
    let second = remedy_in(&["diagnose", "kasse-1", "--section", "services"], "service.failed:pos2.service");
    guest.run(&["touch", "/run/pos2"]).exits(0);
    let run = |named: &str| world.technician(&["run", "--remedy", named, "--yes", "--reason", "Auftrag 4711"]);
    let said = run(&second).exits(0);
    assert!(said.out.contains("service.failed run again: ok"), "{}", said.out);
    guest.run(&["systemctl", "is-active", "pos2"]).exits(0);
    assert_eq!(id("pos1"), untouched, "nobody asked for that");
    // What is no longer so is refused: by whoever saw it first, and by whoever comes
    // second with the same line.
    for named in [&first, &second] {
        let said = run(named).exits(3);
        assert!(said.err.contains("FW-CLI-20") && said.err.contains("no longer so"), "{}", said.err);
    }
    assert_eq!(id("pos1"), untouched);
    let unknown = run("kasse-1/1/service.failed:pos7.service").exits(2);
    assert!(unknown.err.contains("FW-CLI-12"), "{}", unknown.err);
}

#[test]
fn the_monitoring_a_customer_has_is_told_in_its_own_words() {
    let world = World::new();
    let mut machine = world.add_machine("kasse-1");
    let said = world.technician(&["diagnose", "kasse-1", "-o", "nagios", "--section", "memory"]);
    assert!(matches!(said.code, 0..=2), "{said:?}");
    let words = ["OK", "WARNING", "CRITICAL"];
    assert!(said.out.starts_with(&format!("FERNWART {} - ", words[said.code as usize])), "{}", said.out);
    assert!(said.out.lines().next().is_some_and(|line| line.contains(" | ok=")), "{}", said.out);
    let said = world.technician(&["diagnose", "kasse-1", "-o", "checkmk", "--section", "memory"]).exits(0);
    assert!(
        said.out.lines().all(|line| line.starts_with(['0', '1', '2', '3']) && line.contains(" \"Fernwart")),
        "{}",
        said.out
    );
    assert!(said.out.contains("\"Fernwart memory.low\""), "{}", said.out);
    world.technician(&["diagnose", "all", "-o", "nagios", "--limit", "0"]);
    // Whatever hinders it is unknown there, on standard output.
    machine.agent.stop();
    wait_until("it is away", || !world.is_online("kasse-1"));
    let said = world.technician(&["diagnose", "kasse-1", "-o", "nagios", "--timeout", "2s"]).exits(3);
    assert!(said.out.starts_with("FERNWART UNKNOWN - ") && said.out.contains("away"), "{}", said.out);
    let said = world.technician(&["diagnose", "kasse-1", "-o", "checkmk", "--timeout", "2s"]).exits(0);
    assert!(said.out.starts_with("3 \"Fernwart\" - "), "{}", said.out);
    let said = world.technician(&["diagnose", "nobody", "-o", "nagios"]).exits(3);
    assert!(said.out.contains("FW-CLI-02"), "{}", said.out);
    // On the machine itself, too.
    let said = machine.owner(&["diagnose", "-o", "nagios", "--section", "memory"]);
    assert!(said.out.starts_with("FERNWART ") && said.code < 3, "{said:?}");
}

#[test]
fn a_list_says_how_old_a_state_is_and_what_is_lost() {
    let mut world = World::new();
    let _machine = world.add_machine("kasse-1");
    let said = world.technician(&["diagnose", "kasse-1", "-o", "jsonl"]);
    assert!(matches!(said.code, 0 | 1), "{}", said.err);
    let row = |said: &fernwart_tests::CommandOutput| {
        said.json_lines().into_iter().find(|line| line["type"] == "machine").expect("a row")
    };
    let said = world.technician(&["ls", "-o", "jsonl"]).exits(0);
    let now = row(&said);
    assert_eq!(
        (&now["stale"], now["health_age_s"].as_i64().is_some_and(|age| age < 60)),
        (&json!(false), true),
        "{now}"
    );
    // Three days later nobody has looked: the state stays, with its age.
    world.hub.stop();
    if !world.restart_hub_at("+3d") {
        return;
    }
    let said = world.technician_at("+3d", &["ls"]).exits(0);
    assert!(said.out.contains("3 d ago"), "{}", said.out);
    let later = row(&world.technician_at("+3d", &["ls", "-o", "jsonl"]).exits(0));
    assert_eq!((&later["stale"], &later["health"]), (&json!(true), &now["health"]), "{later}");
}

#[test]
fn an_owner_reads_what_a_technician_calls_the_computer() {
    let world = World::new();
    let machine = world.add_machine("kasse-7");
    let said = world.technician(&["diagnose", "kasse-7", "--section", "power"]);
    assert!(matches!(said.code, 0 | 1), "{}", said.err);
    let own = fernwart_tests::run(std::process::Command::new("uname").arg("-n")).exits(0).out;
    let said = machine.owner(&["--lang", "en", "status"]).exits(0);
    let head = said.out.lines().next().unwrap_or_default();
    assert!(head.contains("kasse-7") && head.contains(own.trim()), "{head}");
}
