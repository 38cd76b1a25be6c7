//! A machine as it is at a customer's: booted by systemd, with its journal and
//! its services, and the agent one of them.

use fernwart_tests::guest::Guest;
use fernwart_tests::test_script::Script;
use fernwart_tests::{World, program, wait_until};
use serde_json::Value;

/// Joins the guest as a customer does: the service is registered by `enroll`.
pub(crate) fn join(world: &World, guest: &Guest) {
    let agent = program("fernwart-agent");
    let line = world.invitation(&["Bäckerei Meyer"]);
    let output =
        guest.run(&[agent.to_str().expect("text"), "--lang", "de", "enroll", &line, "--policy", "ask"]).exits(0);
    assert!(!output.out.contains("fernwart-agent run") && !output.err.contains("fernwart-agent run"), "{output:?}");
    let waiting = world.technician(&["pending", "-o", "name"]).exits(0).out;
    world.technician(&["admit", waiting.trim(), "--as", "kasse-1"]).exits(0);
    wait_until("the machine is linked", || world.is_online("kasse-1"));
}

pub(crate) fn diagnosed(world: &World, sections: &[&str]) -> Value {
    let mut words = vec!["diagnose", "kasse-1", "-o", "jsonl"];
    sections.iter().for_each(|section| words.extend(["--section", section]));
    let output = world.technician(&words);
    assert!(matches!(output.code, 0 | 1), "{}", output.err);
    let result = output.json_lines().swap_remove(0);
    result["report"].clone()
}

pub(crate) fn finding<'a>(report: &'a Value, id: &str) -> Option<&'a Value> {
    report["findings"].as_array().expect("findings").iter().find(|finding| finding["id"] == id)
}

#[test]
fn enrolling_registers_a_service_that_restarts_after_a_crash() {
    let world = World::new();
    let Some(guest) = Guest::boot(world.path()) else { return };
    join(&world, &guest);
    guest.run(&["systemctl", "is-enabled", "fernwart-agent.service"]).exits(0);
    let pid = || guest.run(&["systemctl", "show", "-P", "MainPID", "fernwart-agent"]).exits(0).out.trim().to_owned();
    let first = pid();
    guest.run(&["kill", "-9", &first]).exits(0);
    wait_until("systemd has started it again", || !["0", first.as_str()].contains(&pid().as_str()));
    wait_until("it is linked again", || world.technician(&["ping", "kasse-1", "--timeout", "1s"]).code == 0);
    let mode = guest.run(&["stat", "-c", "%a", "/var/lib/fernwart-agent"]).exits(0).out;
    assert_eq!(mode.trim(), "700");
    guest.run(&["systemctl", "stop", "fernwart-agent"]).exits(0);
    wait_until("it said goodbye", || !world.is_online("kasse-1"));
}

#[test]
fn a_healthy_machine_has_no_unknown_checks() {
    let world = World::new();
    let Some(guest) = Guest::boot(world.path()) else { return };
    join(&world, &guest);
    let report = diagnosed(&world, &[]);
    assert!(report["unknown"].as_array().is_none_or(Vec::is_empty), "{}", report["unknown"]);
    let well = report["well"].as_array().expect("checks").len();
    assert!(well > 50, "{well} checks are well: {}", report["well"]);
}

#[test]
fn failed_units_and_errors_in_the_journal_are_found() {
    let world = World::new();
    let Some(guest) = Guest::boot(world.path()) else { return };
    join(&world, &guest);
    assert!(finding(&diagnosed(&world, &["services"]), "service.failed").is_none(), "all is well at first");
    guest.run(&["systemd-run", "--quiet", "--unit=kassendruck", "--description=Bondruck", "/bin/false"]).exits(0);
    for number in 0..30 {
        let message = format!("printer on port {number} does not answer");
        guest.run(&["systemd-cat", "-t", "kasse", "-p", "err", "echo", &message]).exits(0);
    }
    wait_until("the unit has failed", || guest.run(&["systemctl", "is-failed", "kassendruck"]).code == 0);
    wait_until("the journal has it", || {
        guest.run(&["journalctl", "-q", "-t", "kasse", "-o", "cat"]).out.lines().count() == 30
    });
    let report = diagnosed(&world, &["services", "logs"]);
    let services = &report["sections"]["services"]["facts"];
    assert_eq!(services["manager"], "systemd");
    assert!(services["running"].as_u64().is_some_and(|running| running >= 2), "{services}");
    let failed = &services["failed"][0];
    assert_eq!(
        (failed["unit"].as_str(), failed["state"].as_str()),
        (Some("kassendruck.service"), Some("failed (failed)"))
    );
    assert!(finding(&report, "service.failed").is_some(), "{report}");
    let logs = &report["sections"]["logs"]["facts"];
    assert_eq!(logs["source"], "journald");
    let groups = logs["groups"].as_array().expect("groups");
    let group = groups.iter().find(|group| group["source"] == "kasse").expect("the printer's errors");
    assert_eq!(group["count"], 30, "thirty messages are one shape: {group}");
}

/// A failing drive as smartctl reports it: only the few fields that are read.
const SMARTCTL: &str = r#"#!/bin/sh
echo '{"smart_status":{"passed":false},"temperature":{"current":71},
"nvme_smart_health_information_log":{"media_errors":70,"percentage_used":97}}'
"#;

/// Two drives in sysfs, because this computer's own are virtual.
const DRIVES: &str = "for name in sda sdb; do mkdir -p /srv/block/$name/device /srv/block/$name/queue
    echo 1000 > /srv/block/$name/size; echo KINGSTON > /srv/block/$name/device/model
    echo running > /srv/block/$name/device/state; echo 0 > /srv/block/$name/queue/rotational; done
mount --bind /srv/block /sys/block";

#[test]
fn drive_health_is_read_and_a_drive_that_hangs_is_named() {
    let world = World::new();
    let Some(guest) = Guest::boot(world.path()) else { return };
    join(&world, &guest);
    let disks = diagnosed(&world, &["disks"])["sections"]["disks"]["facts"].clone();
    // A virtual drive has no SMART data, which is not a blind spot.
    for drive in disks["drives"].as_array().expect("drives").iter().filter(|drive| drive["device"] == "/dev/vda") {
        assert_eq!(drive["why"]["healthy"], "not_supported", "{disks}");
    }
    guest.run(&["sh", "-ec", DRIVES]).exits(0);
    guest.put_program("/usr/sbin/smartctl", SMARTCTL);
    let report = diagnosed(&world, &["disks"]);
    for id in ["smart.health", "smart.media", "smart.worn", "smart.hot"] {
        assert!(finding(&report, id).is_some(), "{id}: {report}");
    }
    // smartctl hangs for one drive: the other is still read, and the complete diagnosis answers in time,
    // twice.
    guest.put_program(
        "/usr/sbin/smartctl",
        &format!("#!/bin/sh\n[ \"$5\" != /dev/sda ] || exec sleep 600\n{}", &SMARTCTL[10..]),
    );
    for _ in 0..2 {
        let report = diagnosed(&world, &[]);
        assert!(report["took_ms"].as_u64().is_some_and(|ms| ms <= 3000), "{}", report["took_ms"]);
        let sections = report["sections"].as_object().expect("sections");
        let answered = sections.values().filter(|section| section["facts"].is_object()).count();
        assert!(sections.len() == 12 && answered >= 10, "{answered} of {}: {report}", sections.len());
        let drives = report["sections"]["disks"]["facts"]["drives"].as_array().expect("drives").clone();
        assert_eq!((&drives[0]["healthy"], &drives[1]["healthy"]), (&Value::Null, &Value::Bool(false)), "{drives:?}");
        let unknown = report["unknown"].to_string();
        assert!(
            unknown.contains("smart.health") && unknown.contains("/dev/sda") && !unknown.contains("/dev/sdb"),
            "{unknown}"
        );
    }
    guest.remove("/usr/sbin/smartctl");
    let disks = diagnosed(&world, &["disks"])["sections"]["disks"]["facts"].clone();
    assert_eq!(disks["smart_unanswered"], "smartctl: not installed");
}

/// Two installed packages with newer versions, one a security update, in a repository on the guest's own
/// disk.
const REPOSITORY: &str = r#"
set -e
mkdir -p /srv/updates /etc/yum.repos.d && cd /srv
for name in kasse drucker; do for version in 1 2; do
    printf 'Name: %s\nVersion: %s\nRelease: 1\nSummary: x\nLicense: x\nBuildArch: noarch\n%%description\nx\n%%files\n' \
        $name $version > x.spec
    rpmbuild -bb --define '_topdir /srv/build' x.spec
done; done
cp build/RPMS/noarch/*-2-1.noarch.rpm updates
update() { printf '<update from="x" status="final" type="%s" version="1"><id>%s</id><title>x</title>
    <severity>%s</severity><pkglist><collection><package name="%s" version="2" release="1" epoch="0" arch="noarch">
    <filename>%s-2-1.noarch.rpm</filename></package></collection></pkglist></update>' $1 $2 $3 $4 $4; }
{ echo '<updates>'; update security FW-1 Important kasse; update bugfix FW-2 None drucker; echo '</updates>'; } > updateinfo.xml
createrepo_c -q updates
modifyrepo_c updateinfo.xml updates/repodata
printf '[updates]\nname=x\nbaseurl=file:///srv/updates\ngpgcheck=0\n' > /etc/yum.repos.d/updates.repo
rpm -i --nodeps build/RPMS/noarch/*-1-1.noarch.rpm
dnf -q makecache
mv updates gone
"#;

#[test]
fn updates_are_counted_without_a_network_by_apt_and_by_dnf() {
    let world = World::new();
    let Some(guest) = Guest::boot(world.path()) else { return };
    join(&world, &guest);
    let counted = |report: &Value| {
        let updates = report["sections"]["updates"]["facts"].clone();
        (updates["manager"].as_str().map(str::to_owned), updates["pending"].as_u64(), updates["security"].as_u64())
    };
    // Container images disable apt's cache, which makes apt slow. Without the large lists the check is the
    // same.
    guest.run(&["find", "/var/lib/apt/lists", "-type", "f", "-size", "+2M", "-delete"]).exits(0);
    let apt = guest.run(&["apt-get", "-s", "-q", "-o", "Debug::NoLocking=true", "dist-upgrade"]).exits(0).out;
    let pending = apt.lines().filter(|line| line.starts_with("Inst ")).count() as u64;
    let (manager, ours, security) = counted(&diagnosed(&world, &["updates"]));
    assert_eq!((manager.as_deref(), ours), (Some("apt"), Some(pending)));
    assert!(security <= ours);

    guest.run(&["sh", "-c", REPOSITORY]).exits(0);
    guest.remove("/usr/bin/apt-get");
    let dnf = counted(&diagnosed(&world, &["updates"]));
    assert_eq!(dnf, (Some("dnf".to_owned()), Some(2), Some(1)), "the repository is gone, what was fetched is there");
}

/// An apt on a slow computer.
const SLOW: &str = "#!/bin/sh
sleep 5
echo 'Inst kasse [1] (2 Debian-Security:12/stable-security [amd64])'
";

#[test]
fn a_slow_apt_finishes_in_the_background_and_answers_the_next_diagnosis() {
    let world = World::new();
    let Some(guest) = Guest::boot(world.path()) else { return };
    join(&world, &guest);
    guest.put_program("/usr/bin/apt-get", SLOW);
    let report = diagnosed(&world, &["updates", "system"]);
    assert!(report["took_ms"].as_u64().is_some_and(|ms| ms <= 3000), "{report}");
    let updates = &report["sections"]["updates"]["facts"];
    assert_eq!(
        (&updates["pending"], &updates["why"]["pending"]),
        (&Value::Null, &Value::from("still_asked:apt")),
        "{report}"
    );
    assert!(report["unknown"].is_null(), "it is only slow: {report}");
    wait_until("a look has apt's answer", || {
        let updates = diagnosed(&world, &["updates", "system"])["sections"]["updates"]["facts"].clone();
        (updates["pending"].as_u64(), updates["security"].as_u64()) == (Some(1), Some(1))
    });
}

/// A service that fails until `/run/paper` exists.
const UNIT: &str = "[Unit]\nDescription=Bondruck\n[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=/bin/sh -c '[ -e /run/paper ]'\n";

#[test]
fn a_remedy_repairs_a_finding_and_runs_its_check_again() {
    let world = World::new();
    let Some(guest) = Guest::boot(world.path()) else { return };
    join(&world, &guest);
    let scripts = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../controller/scripts");
    let restart = scripts.join("service-restart");
    world.technician(&["catalogue", "propose", "--yes", restart.to_str().expect("text")]).exits(0);
    world.approve_all(&[
        Script::new("greedy", "head -c 400M /dev/zero | tail -c 400M | wc -c\n")
            .and("[limits]\nmemory_mib = 64\ncpu_pct = 50"),
        Script::new(
            "lingers",
            "setsid sh -c 'trap \"\" TERM HUP; sleep 300; : fernwart-evil-2718' & systemctl is-active dbus.socket\n",
        )
        .with("services = true"),
        Script::new("where", "cat /proc/self/cgroup; id -u\n").and("[limits]\ncpu_pct = 50"),
        Script::new(
            "mutinous",
            "systemctl stop fernwart-agent; systemctl reboot; busctl list >/dev/null && echo spoke\n",
        ),
    ]);
    guest
        .run(&[
            "sh",
            "-c",
            &format!(
                "printf '{}' > /etc/systemd/system/bondruck.service",
                UNIT.replace('\n', "\\n").replace('\'', "'\\''")
            ),
        ])
        .exits(0);
    guest.run(&["systemctl", "daemon-reload"]).exits(0);
    guest.run(&["systemctl", "start", "bondruck"]).exits(1);
    wait_until("the machine follows", || {
        guest
            .run(&[program("fernwart-agent").to_str().expect("text"), "journal", "--export"])
            .out
            .matches("catalogue_followed")
            .count()
            >= 2
    });
    let output = world.technician(&["diagnose", "kasse-1", "--fail-on", "warn"]).exits(1);
    // Named by machine, job, rule and unit; the printed line can be typed as it is.
    let line =
        output.out.lines().find_map(|line| line.trim().strip_prefix("fernwart run --remedy ")).expect("a remedy");
    let named = line.split_whitespace().next().expect("a name").to_owned();
    assert!(named.starts_with("kasse-1/") && named.ends_with("/service.failed:bondruck.service"), "{named}");
    // A remedy is shown before it runs, and needs a confirmation.
    let remedy = ["run", "--remedy", &named, "--reason", "Bondrucker, Auftrag 4711"];
    let unsure = world.technician(&remedy).exits(2);
    assert!(unsure.err.contains("FW-CLI-14") && unsure.err.contains("unit = bondruck.service"), "{}", unsure.err);
    // The paper is still missing: the remedy runs, and the check still fails.
    let yes = |words: &[&str]| world.technician(&[words, &["--yes"]].concat());
    let agent = program("fernwart-agent");
    let allow = ["allow", "repair", "--for", "2h"];
    guest.run(&[&[agent.to_str().expect("text")][..], &allow].concat()).exits(0);
    let output = yes(&remedy).exits(1);
    assert!(output.out.contains("still not well") && output.out.contains("bondruck.service"), "{}", output.out);
    guest.run(&["touch", "/run/paper"]).exits(0);
    let output = yes(&remedy).exits(0);
    assert!(output.out.contains("service.failed run again: ok") && output.out.contains("Receipt "), "{}", output.out);
    guest.run(&["systemctl", "is-active", "bondruck"]).exits(0);
    // A finding that no longer holds is not repaired again.
    let output = yes(&remedy).exits(3);
    assert!(output.err.contains("FW-CLI-20") && output.err.contains("no longer so"), "{}", output.err);
    let again = world.technician(&["diagnose", "kasse-1"]);
    assert!(!again.out.contains("service.failed"), "{}", again.out);
    // systemd enforces the limits in a unit of the run's own, which is removed afterwards.
    let output = world.technician(&["run", "where", "kasse-1", "--reason", "x", "-o", "jsonl"]).exits(0);
    let report = output.json_lines()[0]["report"].clone();
    assert_eq!(report["cage"], "systemd", "{report}");
    assert!(report["stdout"]["head"].as_str().expect("text").contains("fernwart-run-"), "{report}");
    let output = world.technician(&["run", "greedy", "kasse-1", "--reason", "x", "-o", "jsonl"]);
    let report = output.json_lines()[0]["report"].clone();
    assert!(report["stdout"]["head"] != "419430400\n", "{report}");
    // A script without `services` cannot stop the agent or the computer through systemd.
    let output = world.technician(&["run", "mutinous", "kasse-1", "--reason", "x", "-o", "jsonl"]);
    let report = output.json_lines()[0]["report"].clone();
    assert!(!report["stdout"]["head"].as_str().expect("text").contains("spoke"), "{report}");
    guest.run(&["systemctl", "is-active", "fernwart-agent"]).exits(0);
    // A script with `services` leaves no process behind either.
    let output = world.technician(&["run", "lingers", "kasse-1", "--reason", "x", "-o", "jsonl"]).exits(0);
    assert_eq!(output.json_lines()[0]["report"]["stdout"]["head"], "active\n", "{}", output.out);
    assert_eq!(guest.run(&["pgrep", "-f", "fernwart-evil-2718"]).out, "", "what it left behind has ended");
    let left = guest.run(&["systemctl", "list-units", "--all", "--no-legend", "fernwart-run-*"]);
    assert_eq!(left.out.trim(), "", "no unit is left");
}
