//! Maintenance over time: fresh timestamps, retention, renewed certificates and keys, and a hub restored
//! from a backup.

use fernwart_certs::identity::TlsIdentity;
use fernwart_certs::issue::Authority;
use fernwart_certs::peer::{Name, read_certificate};
use fernwart_certs::sha256;
use fernwart_tests::test_script::Script;
use fernwart_tests::{World, run, wait_until};
use serde_json::Value;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, SystemTime};

/// The published timestamp: its version, and when it expires.
fn timestamp(world: &World) -> (u64, String) {
    let text = std::fs::read(world.shop().join("hub/catalogue/timestamp.json")).expect("a timestamp");
    let json: Value = serde_json::from_slice(&text).expect("JSON");
    let signed = &json["signed"];
    (signed["version"].as_u64().expect("a version"), signed["expires"].as_str().expect("a time").to_owned())
}

#[test]
fn a_hub_renews_its_timestamp_long_before_it_expires() {
    let mut world = World::new();
    let mut machine = world.add_machine("kasse-1");
    let (first, until) = timestamp(&world);
    // An hour later nothing is due.
    world.hub.stop();
    if !world.restart_hub_at("+1h") {
        return;
    }
    assert_eq!(timestamp(&world), (first, until));
    // Two days later it is, though five are left.
    world.hub.stop();
    world.restart_hub_at("+2d");
    wait_until("a new one is published", || timestamp(&world).0 > first);
    // After a month switched off the old timestamp has expired everywhere.
    let (second, _) = timestamp(&world);
    machine.agent.stop();
    world.hub.stop();
    world.restart_hub_at("+31d");
    wait_until("a new one is published", || timestamp(&world).0 > second);
    machine.restart_at("+31d");
    wait_until("the machine is back", || world.technician_at("+31d", &["ping", "kasse-1"]).code == 0);
    let output = world.technician_at("+31d", &["diagnose", "kasse-1", "-o", "jsonl"]);
    assert!(matches!(output.code, 0 | 1), "{}", output.err);
    let report = &output.json_lines()[0]["report"];
    assert!(!report["findings"].to_string().contains("time.off"), "all clocks agree: {report}");
}

#[test]
fn results_are_dropped_after_their_retention_and_the_rest_still_verifies() {
    let mut world = World::new();
    let mut machine = world.add_machine("kasse-1");
    world.approve(&Script::new("mend", "echo mended\n"));
    let jobs = |world: &World| -> Vec<u64> {
        let output = world.technician_at("+40d", &["job", "ls", "-o", "jsonl"]).exits(0);
        let mut jobs: Vec<u64> = output.json_lines().iter().filter_map(|job| job["job"].as_u64()).collect();
        jobs.sort_unstable();
        jobs
    };
    for _ in 0..3 {
        world.technician(&["diagnose", "kasse-1"]);
    }
    machine.owner(&["allow", "repair", "--for", "2h"]).exits(0);
    world.technician(&["run", "mend", "kasse-1", "--reason", "test"]).exits(0);
    machine.agent.stop();
    world.hub.stop();
    let settings = world.shop().join("hub/hub.toml");
    let text = std::fs::read_to_string(&settings).expect("settings");
    assert!(text.contains("[retention]") && text.contains("diagnoses = \"90d\""), "{text}");
    std::fs::write(&settings, text.replace("\"90d\"", "\"30d\"")).expect("written");
    if !world.restart_hub_at("+40d") {
        return;
    }
    machine.restart_at("+40d");
    wait_until("the machine is back", || world.technician_at("+40d", &["ping", "kasse-1"]).code == 0);
    world.technician_at("+40d", &["diagnose", "kasse-1"]);
    assert_eq!(jobs(&world), [1, 2, 3, 4, 5]);
    world.hub.stop();
    // A clock jump alone expires nothing: some result must be between a day and two weeks old by the new
    // clock.
    let store = world.shop().join("hub/store.sqlite");
    let aged = "UPDATE runs SET settled_at = settled_at - 2 * 24 * 3600 * 1000 WHERE job = 5";
    run(Command::new("sqlite3").arg(&store).arg(aged)).exits(0);
    world.restart_hub_at("+40d");
    wait_until("what is old is dropped", || jobs(&world).len() == 2);
    assert_eq!(jobs(&world), [4, 5], "the repair and the newest diagnosis");
    world.technician_at("+40d", &["job", "logs", "4"]).exits(0);
    let gone = world.technician_at("+40d", &["job", "show", "1"]).exits(2);
    assert!(gone.err.contains("FW-HUB-05") && gone.err.contains("how long the hub keeps results"), "{}", gone.err);
    let exported = world.technician_at("+40d", &["journal", "export", "kasse-1"]).exits(0);
    let file = world.path().join("receipts.jsonl");
    std::fs::write(&file, &exported.out).expect("written");
    let output = world.technician(&["journal", "verify", &file.display().to_string()]).exits(0);
    assert!(output.out.contains("2 receipts (receipts 1 to 3 are not kept any more)"), "{}", output.out);
    // A receipt that is missing without a chain cut is detected.
    let fewer: String =
        exported.out.lines().filter(|line| !line.contains("\"cut\"")).map(|line| format!("{line}\n")).collect();
    std::fs::write(&file, fewer).expect("written");
    world.technician(&["journal", "verify", &file.display().to_string()]).exits(1);
    // A chain cut does not cover other receipts.
    let mut runs = 0;
    let without_a_run = exported.out.lines().filter(|line| {
        runs += u32::from(line.contains("\"type\":\"run\""));
        !(runs == 1 && line.contains("\"type\":\"run\""))
    });
    let fewer: String = without_a_run.map(|line| format!("{line}\n")).collect();
    std::fs::write(&file, fewer).expect("written");
    world.technician(&["journal", "verify", &file.display().to_string()]).exits(1);
    let doctor = world.technician_at("+40d", &["doctor"]);
    assert!(doctor.out.contains("diagnoses are kept 30d, scripts 730d"), "{}", doctor.out);
    // The next receipt follows from the same chain on both sides.
    wait_until("the machine is back", || world.technician_at("+40d", &["ping", "kasse-1"]).code == 0);
    let mut allow = machine.command(&["allow", "repair", "--for", "2h"]);
    fernwart_tests::at_another_time(&mut allow, "+40d");
    run(&mut allow).exits(0);
    world.technician_at("+40d", &["run", "mend", "kasse-1", "--reason", "test"]).exits(0);
    let exported = world.technician_at("+40d", &["journal", "export", "kasse-1"]).exits(0);
    assert_eq!(exported.out.matches("\"type\":\"run\"").count(), 3);
    assert!(!machine.journal().iter().any(|(kind, _)| kind == "hub_fell_back"));
    // Receipts that are missing at the end are detected, too, though the hub signed nothing false.
    world.hub.stop();
    let newest = "DELETE FROM runs WHERE chain_seq = (SELECT MAX(chain_seq) FROM runs)";
    run(Command::new("sqlite3").arg(&store).arg(newest)).exits(0);
    world.restart_hub_at("+40d");
    wait_until("the hub answers", || world.technician_at("+40d", &["ls"]).code == 0);
    let output = world.technician_at("+40d", &["journal", "export", "kasse-1"]).exits(1);
    assert!(output.err.contains("FW-JNL-01") && output.out.is_empty(), "{}", output.err);
}

#[test]
fn a_technicians_certificate_is_renewed_during_a_command() {
    let world = World::new();
    let path = world.shop().join("staff/staff.identity");
    let mut staff = TlsIdentity::read(&path).expect("an identity");
    let output = read_certificate(&staff.chain[0], &staff.chain[1]).expect("a certificate");
    assert!(matches!(output.name, Name::Staff(_)));
    // One that was issued 330 days ago has a month left.
    let then = SystemTime::now() - Duration::from_secs(330 * 24 * 3600);
    let home = world.shop().join("hub");
    let authority = Authority::read(&home.join("ca.key"), &home.join("ca.der")).expect("the CA");
    staff.chain = authority.issue_member(output.name, staff.key.spki(), then).expect("issued");
    staff.write(&path).expect("written");
    let until = || TlsIdentity::read(&path).expect("an identity").lasts().expect("a certificate").1;
    let before = until();
    assert!(before < fernwart_agent::now() + 60 * 24 * 3_600_000, "it ends soon");
    let output = world.technician(&["ls"]).exits(0);
    assert!(!output.err.contains("certificate"), "it is nobody's worry: {}", output.err);
    assert!(until() > before + 300 * 24 * 3_600_000);
    world.technician(&["ls"]).exits(0);
}

#[test]
fn a_hub_can_change_its_keys_without_cutting_off_a_machine() {
    let mut world = World::new();
    let here = world.add_machine("kasse-1");
    let mut away = world.add_machine("kasse-2");
    away.agent.stop();
    let mut asleep = world.add_machine("kasse-3");
    asleep.agent.stop();
    let home = world.shop().join("hub");
    let folder = world.path().join("next");
    let folder = folder.to_str().expect("text");
    let pin = |file: &str| sha256(&std::fs::read(home.join(file)).expect("a certificate"));
    let issuer = |machine: &fernwart_tests::Machine| {
        let identity = TlsIdentity::read(&machine.home.join("tls.identity")).expect("an identity");
        sha256(&identity.chain[1])
    };
    let look = |world: &World, name: &str| {
        let output = world.technician(&["diagnose", name, "--section", "memory"]);
        assert!(matches!(output.code, 0 | 1), "{}", output.err);
    };
    let next_keys = |words: &[&str]| run(world.command(&["next-keys", "--to", folder]).args(words));
    look(&world, "kasse-1");
    let on_holiday = world.path().join("holiday");
    copy(&world.shop().join("staff"), &on_holiday);
    assert_eq!(next_keys(&["--finish"]).exits(3).code, 3, "there is nothing to finish");

    // Keys that nobody approved are not used, whatever lies in the hub's folder.
    next_keys(&[]).exits(0);
    let (old, new) = (pin("ca.der"), pin("ca.2.der"));
    assert_eq!(std::fs::metadata(home.join("ca.2.key")).expect("a key").permissions().mode() & 0o777, 0o600);
    world.hub.stop();
    world.restart_hub();
    wait_until("the machine is back", || world.is_online("kasse-1"));
    assert_eq!(issuer(&here), old);

    // Approved keys are used, by machines that were linked and by machines that were away.
    world.technician(&["catalogue", "propose", "--yes", folder]).exits(0);
    let again = run(&mut world.command(&["next-keys", "--to", folder])).exits(3);
    assert!(again.err.contains("FW-HUB-27"), "{}", again.err);
    world.hub.stop();
    world.restart_hub();
    wait_until("the machine is back", || world.is_online("kasse-1"));
    away.restart();
    wait_until("who was away finds the bridge", || world.is_online("kasse-2"));
    look(&world, "kasse-1");
    look(&world, "kasse-2");
    let staff = || TlsIdentity::read(&world.shop().join("staff/staff.identity")).expect("an identity");
    assert_eq!(sha256(&staff().chain[1]), new, "the technician's is renewed on the way");

    let joined = world.add_machine("kasse-4");
    assert_eq!(issuer(&joined), new, "whoever joins meanwhile can");

    // The old CA is removed while one machine is away that still has its certificate.
    away.agent.kill_9();
    let left_behind = authority_of(&home).issue_member(machine_name(&away), tls_key(&away).spki(), SystemTime::now());
    let mut identity = TlsIdentity::read(&away.home.join("tls.identity")).expect("an identity");
    identity.chain = left_behind.expect("issued");
    identity.write(&away.home.join("tls.identity")).expect("written");
    run(world.command(&["next-keys", "--to", folder]).arg("--finish")).exits(0);
    world.technician(&["catalogue", "propose", "--yes", folder]).exits(0);
    world.hub.stop();
    world.restart_hub();
    wait_until("the machine is back", || world.is_online("kasse-1"));
    away.restart();
    wait_until("who was left behind comes back by its evidence key", || world.is_online("kasse-2"));
    assert_eq!(issuer(&away), new);
    // A machine that was off the whole time, with an old certificate and old pins, returns, too.
    asleep.restart();
    wait_until("who slept through it comes back", || world.is_online("kasse-3"));
    assert_eq!(issuer(&asleep), new);
    wait_until("it follows", || {
        let output = world.technician(&["diagnose", "kasse-3", "--section", "memory"]);
        matches!(output.code, 0 | 1)
    });
    look(&world, "kasse-1");
    look(&world, "kasse-2");
    assert_eq!(issuer(&here), new);
    // A technician who missed the change rejoins with a new invitation and the same keys.
    let back = world.path().join("back");
    std::fs::create_dir(&back).expect("made");
    copy(&on_holiday, &back.join("staff"));
    let theirs = |words: &[&str]| run(&mut fernwart_tests::staff_command(&back, words));
    let output = theirs(&["ls"]);
    assert!(output.code != 0, "{output:?}");
    let output = theirs(&["join"]).exits(0);
    assert!(output.err.contains("--invitation"), "{}", output.err);
    theirs(&["join", "--invitation", &world.invitation_for_staff()]).exits(0);
    assert!(theirs(&["ls", "-o", "name"]).exits(0).out.contains("kasse-3"));
    // What the old evidence key signed can still be checked.
    let journal = world.path().join("journal");
    std::fs::write(&journal, world.technician(&["journal", "export", "kasse-1"]).exits(0).out).expect("written");
    world.technician(&["journal", "verify", journal.to_str().expect("text")]).exits(0);
}

fn authority_of(home: &Path) -> Authority {
    Authority::read(&home.join("ca.key"), &home.join("ca.der")).expect("the first CA")
}

fn tls_key(machine: &fernwart_tests::Machine) -> std::sync::Arc<fernwart_certs::identity::TlsKey> {
    TlsIdentity::read(&machine.home.join("tls.identity")).expect("an identity").key
}

fn machine_name(machine: &fernwart_tests::Machine) -> Name {
    let identity = TlsIdentity::read(&machine.home.join("tls.identity")).expect("an identity");
    read_certificate(&identity.chain[0], &identity.chain[1]).expect("a certificate").name
}

fn copy(from: &Path, to: &Path) {
    run(Command::new("cp").arg("-a").arg(from).arg(to)).exits(0);
}

#[test]
fn a_hub_restored_from_an_old_backup_is_detected_and_repeats_no_run() {
    let mut world = World::new();
    let machine = world.add_machine("kasse-1");
    let look = |world: &World| {
        let output = world.technician(&["diagnose", "kasse-1", "--section", "memory"]);
        assert!(matches!(output.code, 0 | 1), "{}", output.err);
    };
    look(&world);
    // A backup is made while the hub runs, and only its owner can read it.
    let backup = world.path().join("backup");
    let backup = backup.to_str().expect("text");
    world.technician(&["backup", backup]).exits(0);
    let output = world.technician(&["backup", backup]).exits(2);
    assert!(output.err.contains("FW-BAK-01"), "{}", output.err);
    for file in ["", "ca.key", "store.sqlite", "catalogue"] {
        let mode = std::fs::metadata(world.path().join("backup").join(file)).expect("there").permissions().mode();
        assert_eq!(mode & 0o077, 0, "{file}");
    }
    look(&world);
    look(&world);
    // An existing hub is not overwritten, and a damaged backup is not restored.
    let output = world.technician(&["restore", backup]).exits(2);
    assert!(output.err.contains("FW-BAK-01"), "{}", output.err);
    world.hub.stop();
    std::fs::remove_dir_all(world.shop().join("hub")).expect("lost");
    let damaged = world.path().join("damaged");
    copy(&world.path().join("backup"), &damaged);
    let store = std::fs::File::options().write(true).open(damaged.join("store.sqlite")).expect("opened");
    store.write_all_at(&[0xff; 4096], 8192).expect("damaged");
    let output = world.technician(&["restore", damaged.to_str().expect("text")]).exits(2);
    assert!(output.err.contains("FW-BAK-02") && !world.shop().join("hub").exists(), "{}", output.err);
    world.technician(&["restore", backup]).exits(0);
    world.restart_hub();
    wait_until("the machine is back", || world.is_online("kasse-1"));
    wait_until("the hub notices", || world.hub.log().contains("hub_has=1"));
    // Runs that the hub has lost are not repeated; a new order runs.
    let started = || machine.journal().iter().filter(|(kind, _)| kind == "run_started").count();
    assert_eq!(started(), 3);
    look(&world);
    assert_eq!(started(), 4);
    wait_until("the machine notices", || machine.journal().iter().any(|(kind, _)| kind == "hub_fell_back"));
}

#[test]
fn expiring_signatures_are_announced_early_and_renewed_by_one_command() {
    let mut world = World::new();
    world.hub.stop();
    if !world.restart_hub_at("+310d") {
        return;
    }
    let early = world.technician_at("+1d", &["staff", "ls"]);
    assert!(!early.err.contains("runs out"), "{}", early.err);
    let output = world.technician_at("+310d", &["ls"]).exits(0);
    assert!(output.err.contains("the catalogue's targets runs out on"), "{}", output.err);
    let doctor = world.technician_at("+310d", &["doctor"]).exits(1).out;
    assert!(doctor.contains("BAD   the catalogue's targets"), "{doctor}");
    world.technician_at("+310d", &["catalogue", "rotate", "--yes"]).exits(0);
    let output = world.technician_at("+310d", &["ls"]).exits(0);
    assert!(!output.err.contains("the catalogue's targets"), "{}", output.err);
    // An entry on the staff list is for a lead to renew.
    assert!(output.err.contains("your staff entry runs out on"), "{}", output.err);
}
