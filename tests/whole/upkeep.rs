//! What has to happen by itself as time goes by, and after a bad night: fresh
//! timestamps, renewed certificates, a hub from yesterday's backup.

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

/// What a timestamp says: its version, and when it ends.
fn timestamp(world: &World) -> (u64, String) {
    let text = std::fs::read(world.shop().join("hub/catalogue/timestamp.json")).expect("a timestamp");
    let json: Value = serde_json::from_slice(&text).expect("JSON");
    let signed = &json["signed"];
    (signed["version"].as_u64().expect("a version"), signed["expires"].as_str().expect("a time").to_owned())
}

#[test]
fn a_hub_renews_its_timestamp_by_itself_long_before_it_ends() {
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
    // A month in the cupboard: the old one has run out on every side.
    let (second, _) = timestamp(&world);
    machine.agent.stop();
    world.hub.stop();
    world.restart_hub_at("+31d");
    wait_until("a new one is published", || timestamp(&world).0 > second);
    machine.restart_at("+31d");
    wait_until("the machine is back", || world.technician_at("+31d", &["ping", "kasse-1"]).code == 0);
    let said = world.technician_at("+31d", &["diagnose", "kasse-1", "-o", "jsonl"]);
    assert!(matches!(said.code, 0 | 1), "{}", said.err);
    let report = &said.json_lines()[0]["report"];
    assert!(!report["findings"].to_string().contains("time.off"), "all clocks agree: {report}");
}

#[test]
fn a_hub_keeps_results_as_long_as_it_is_told_and_the_rest_still_verifies() {
    let mut world = World::new();
    let mut machine = world.add_machine("kasse-1");
    world.approve(&Script::new("mend", "echo mended\n"));
    let jobs = |world: &World| -> Vec<u64> {
        let said = world.technician_at("+40d", &["job", "ls", "-o", "jsonl"]).exits(0);
        let mut jobs: Vec<u64> = said.json_lines().iter().filter_map(|job| job["job"].as_u64()).collect();
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
    // A clock that has only jumped makes nothing old: for a day results must have come by it.
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
    let said = world.technician(&["journal", "verify", &file.display().to_string()]).exits(0);
    assert!(said.out.contains("2 receipts (receipts 1 to 3 are not kept any more)"), "{}", said.out);
    // A receipt that is missing without a word still shows.
    let fewer: String =
        exported.out.lines().filter(|line| !line.contains("\"cut\"")).map(|line| format!("{line}\n")).collect();
    std::fs::write(&file, fewer).expect("written");
    world.technician(&["journal", "verify", &file.display().to_string()]).exits(1);
    // Nor does the hub's word on some stand for others.
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
    // What is missing at the end shows, too, though the hub has written nothing wrong.
    world.hub.stop();
    let newest = "DELETE FROM runs WHERE chain_seq = (SELECT MAX(chain_seq) FROM runs)";
    run(Command::new("sqlite3").arg(&store).arg(newest)).exits(0);
    world.restart_hub_at("+40d");
    wait_until("the hub answers", || world.technician_at("+40d", &["ls"]).code == 0);
    let said = world.technician_at("+40d", &["journal", "export", "kasse-1"]).exits(1);
    assert!(said.err.contains("FW-JNL-01") && said.out.is_empty(), "{}", said.err);
}

#[test]
fn a_technicians_certificate_is_renewed_on_the_way() {
    let world = World::new();
    let path = world.shop().join("staff/staff.identity");
    let mut staff = TlsIdentity::read(&path).expect("an identity");
    let said = read_certificate(&staff.chain[0], &staff.chain[1]).expect("a certificate");
    assert!(matches!(said.name, Name::Staff(_)));
    // One that was issued 330 days ago has a month left.
    let then = SystemTime::now() - Duration::from_secs(330 * 24 * 3600);
    let home = world.shop().join("hub");
    let authority = Authority::read(&home.join("ca.key"), &home.join("ca.der")).expect("the CA");
    staff.chain = authority.issue_member(said.name, staff.key.spki(), then).expect("issued");
    staff.write(&path).expect("written");
    let until = || TlsIdentity::read(&path).expect("an identity").lasts().expect("a certificate").1;
    let before = until();
    assert!(before < fernwart_agent::now() + 60 * 24 * 3_600_000, "it ends soon");
    let said = world.technician(&["ls"]).exits(0);
    assert!(!said.err.contains("certificate"), "it is nobody's worry: {}", said.err);
    assert!(until() > before + 300 * 24 * 3_600_000);
    world.technician(&["ls"]).exits(0);
}

#[test]
fn a_hub_changes_its_keys_and_no_machine_is_cut_off() {
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
        let said = world.technician(&["diagnose", name, "--section", "memory"]);
        assert!(matches!(said.code, 0 | 1), "{}", said.err);
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

    // Approved, they are: for who was told, and for who was away and was not.
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

    // The old one goes, while one machine is away that still has its certificate.
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
    // And who slept through it all, with a certificate and pins of old.
    asleep.restart();
    wait_until("who slept through it comes back", || world.is_online("kasse-3"));
    assert_eq!(issuer(&asleep), new);
    wait_until("it follows", || {
        let said = world.technician(&["diagnose", "kasse-3", "--section", "memory"]);
        matches!(said.code, 0 | 1)
    });
    look(&world, "kasse-1");
    look(&world, "kasse-2");
    assert_eq!(issuer(&here), new);
    // A technician who was on holiday finds the hub again by a new invitation,
    // with the keys of before.
    let back = world.path().join("back");
    std::fs::create_dir(&back).expect("made");
    copy(&on_holiday, &back.join("staff"));
    let theirs = |words: &[&str]| run(&mut fernwart_tests::staff_command(&back, words));
    let said = theirs(&["ls"]);
    assert!(said.code != 0, "{said:?}");
    let said = theirs(&["join"]).exits(0);
    assert!(said.err.contains("--invitation"), "{}", said.err);
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
fn a_hub_from_yesterdays_backup_is_noticed_and_goes_on_where_the_machines_are() {
    let mut world = World::new();
    let machine = world.add_machine("kasse-1");
    let look = |world: &World| {
        let said = world.technician(&["diagnose", "kasse-1", "--section", "memory"]);
        assert!(matches!(said.code, 0 | 1), "{}", said.err);
    };
    look(&world);
    // Taken while the hub runs, for its owner alone.
    let backup = world.path().join("backup");
    let backup = backup.to_str().expect("text");
    world.technician(&["backup", backup]).exits(0);
    let said = world.technician(&["backup", backup]).exits(2);
    assert!(said.err.contains("FW-BAK-01"), "{}", said.err);
    for file in ["", "ca.key", "store.sqlite", "catalogue"] {
        let mode = std::fs::metadata(world.path().join("backup").join(file)).expect("there").permissions().mode();
        assert_eq!(mode & 0o077, 0, "{file}");
    }
    look(&world);
    look(&world);
    // What is there is not written over; what is damaged is not put back.
    let said = world.technician(&["restore", backup]).exits(2);
    assert!(said.err.contains("FW-BAK-01"), "{}", said.err);
    world.hub.stop();
    std::fs::remove_dir_all(world.shop().join("hub")).expect("lost");
    let damaged = world.path().join("damaged");
    copy(&world.path().join("backup"), &damaged);
    let store = std::fs::File::options().write(true).open(damaged.join("store.sqlite")).expect("opened");
    store.write_all_at(&[0xff; 4096], 8192).expect("damaged");
    let said = world.technician(&["restore", damaged.to_str().expect("text")]).exits(2);
    assert!(said.err.contains("FW-BAK-02") && !world.shop().join("hub").exists(), "{}", said.err);
    world.technician(&["restore", backup]).exits(0);
    world.restart_hub();
    wait_until("the machine is back", || world.is_online("kasse-1"));
    wait_until("the hub notices", || world.hub.log().contains("hub_has=1"));
    // What it has forgotten is not done again; what is asked now is.
    let started = || machine.journal().iter().filter(|(kind, _)| kind == "run_started").count();
    assert_eq!(started(), 3);
    look(&world);
    assert_eq!(started(), 4);
    wait_until("the machine notices", || machine.journal().iter().any(|(kind, _)| kind == "hub_fell_back"));
}

#[test]
fn what_runs_out_is_told_in_good_time_and_made_anew_by_one_command() {
    let mut world = World::new();
    world.hub.stop();
    if !world.restart_hub_at("+310d") {
        return;
    }
    let early = world.technician_at("+1d", &["staff", "ls"]);
    assert!(!early.err.contains("runs out"), "{}", early.err);
    let said = world.technician_at("+310d", &["ls"]).exits(0);
    assert!(said.err.contains("the catalogue's targets runs out on"), "{}", said.err);
    let doctor = world.technician_at("+310d", &["doctor"]).exits(1).out;
    assert!(doctor.contains("BAD   the catalogue's targets"), "{doctor}");
    world.technician_at("+310d", &["catalogue", "rotate", "--yes"]).exits(0);
    let said = world.technician_at("+310d", &["ls"]).exits(0);
    assert!(!said.err.contains("the catalogue's targets"), "{}", said.err);
    // An entry on the staff list is for a lead to renew.
    assert!(said.err.contains("your staff entry runs out on"), "{}", said.err);
}
