//! Failures: wrong commands, a full disk on either side, a clock that is a year off.

use fernwart_tests::test_script::Script;
use fernwart_tests::{LoopDisk, Machine, SmallDisk, World, program, run, staff_command, wait_until};
use std::path::Path;
use std::process::Command;

#[test]
fn help_opens_with_examples_and_closes_with_the_next_step() {
    for arguments in [&["--help"][..], &["diagnose", "--help"]] {
        let output = run(&mut staff_command(Path::new("/nonexistent"), arguments)).exits(0);
        assert!(output.out.trim_start().starts_with("Examples:"), "{}", output.out);
        let last = output.out.trim_end().lines().last().expect("a line");
        assert!(last.starts_with("Next:"), "{last}");
    }
}

#[test]
fn an_incomplete_command_prints_its_usage() {
    for words in [&[][..], &["job"], &["staff"]] {
        let output = run(Command::new(program("fernwart")).args(words).env_remove("FERNWART_HOME")).exits(2);
        assert!(output.err.contains("Usage: fernwart") && !output.err.contains("error:"), "{words:?}: {}", output.err);
    }
    let output = run(&mut staff_command(Path::new("/nonexistent"), &[])).exits(2);
    assert!(output.err.contains("a command is missing") && !output.err.contains("answer-query"), "{}", output.err);
}

#[test]
fn owners_get_help_and_usage_errors_in_german() {
    let folder = tempfile::tempdir().expect("a folder");
    let agent = |words: &[&str]| {
        let mut command = Command::new(program("fernwart-agent"));
        run(command.arg("--home").arg(folder.path()).args(words).env("LC_ALL", "de_DE.UTF-8"))
    };
    let output = agent(&["--help"]).exits(0);
    assert!(output.out.starts_with("Zum Beispiel:\n  fernwart-agent status"), "{}", output.out);
    assert!(output.out.contains("\nBefehle:\n") && output.out.contains("Was Sie gefragt werden"), "{}", output.out);
    let output = agent(&["stauts"]).exits(2);
    assert!(output.err.starts_with("Fehler: Diesen Befehl gibt es so nicht     [FW-CLI-01]"), "{}", output.err);
    assert!(output.err.contains("'status'"), "what may have been meant: {}", output.err);
    let output = agent(&["--lang", "en", "stauts"]).exits(2);
    assert!(output.err.starts_with("Error: there is no such command     [FW-CLI-01]"), "{}", output.err);
    let output = agent(&["--lang", "en", "--help"]).exits(0);
    assert!(output.out.starts_with("Examples:") && output.out.contains("What you are asked"), "{}", output.out);
}

#[test]
fn unknown_commands_and_options_suggest_the_nearest_match() {
    let home = tempfile::tempdir().expect("a folder");
    let output = run(&mut staff_command(home.path(), &["diagnos", "kasse-1"])).exits(2);
    assert!(output.err.contains("diagnose"), "{}", output.err);
    let output = run(&mut staff_command(home.path(), &["diagnose", "kasse-1", "--sektion", "disks"])).exits(2);
    assert!(output.err.contains("--section"), "{}", output.err);
    let output = run(&mut staff_command(home.path(), &["ls"])).exits(2);
    assert!(output.err.contains("FW-CLI-03") && output.err.contains("fernwart init"), "{}", output.err);
    let output = run(&mut staff_command(home.path(), &["help", "fw-gate-06"])).exits(0);
    assert!(output.out.contains("the role does not allow this action"), "{}", output.out);
    run(&mut staff_command(home.path(), &["help", "FW-XXX-99"])).exits(2);
}

#[test]
fn an_unreachable_hub_is_reported_with_a_next_step() {
    let mut world = World::new();
    world.hub.stop();
    let output = world.technician(&["diagnose", "all", "--timeout", "1s"]).exits(4);
    assert!(output.err.contains("does not answer") && output.err.contains("now:"), "{}", output.err);
}

#[test]
fn customers_read_errors_in_their_language() {
    let world = World::new();
    let output = world.owner_in("kasse-1", &["--lang", "de", "status"]).exits(2);
    assert!(
        output.err.starts_with("Fehler: Dieser Rechner ist noch nicht angemeldet     [FW-JOIN-24]"),
        "{}",
        output.err
    );
    let output = world.owner_in("kasse-1", &["enroll", "fw1-abc", "--policy", "ask"]).exits(2);
    assert!(output.err.starts_with("Error: the invitation is incomplete"), "{}", output.err);
    let output = world.owner_in("kasse-1", &["--lang", "de", "enroll"]).exits(2);
    assert!(output.err.contains("Was nun: Bitten Sie Ihre IT-Betreuung"), "{}", output.err);
    let many = world.invitation(&["A", "--machines", "5"]);
    let output = world.owner_in("kasse-1", &["enroll", &many, "--policy", "ask"]).exits(2);
    assert!(output.err.contains("FW-JOIN-22"), "{}", output.err);
    let one = world.invitation(&["A"]);
    let output = world.owner_in("kasse-1", &["enroll", &one]).exits(2);
    assert!(output.err.contains("FW-OWN-10"), "{}", output.err);
    world.owner_in("kasse-1", &["enroll", &one, "--policy", "nightly", "--no-service"]).exits(0);
    let output =
        world.owner_in("kasse-2", &["--lang", "de", "enroll", &one, "--policy", "ask", "--no-service"]).exits(3);
    assert!(output.err.contains("schon von einem anderen Rechner benutzt     [FW-JOIN-03]"), "{}", output.err);
}

#[test]
fn doctor_show_limits_and_other_small_commands_work() {
    let world = World::new();
    let machine = world.add_machine("kasse-1");
    let doctor = world.technician(&["doctor"]);
    assert!(matches!(doctor.code, 0 | 1) && doctor.out.contains("1 of 1 machines online"), "{}", doctor.out);
    let shown = world.technician(&["show", "kasse-1"]).exits(0).out;
    assert!(shown.contains("certificate") && shown.contains("online"), "{shown}");
    assert!(world.technician(&["limits", "-o", "csv"]).exits(0).out.contains("frame,1048576,bytes"));
    assert!(world.technician(&["completion", "bash"]).exits(0).out.contains("_fernwart()"));
    assert!(world.technician(&["man"]).exits(0).out.contains(".TH fernwart"));
    assert!(world.technician(&["customer", "ls", "-o", "name"]).exits(0).out.contains("Bäckerei Meyer"));
    let last = world.technician(&["staff", "rm", "jana", "--yes=jana"]).exits(2);
    assert!(last.err.contains("FW-CAT-09"), "{}", last.err);
    let offline = machine.owner(&["diagnose", "--lang", "de"]);
    assert!(matches!(offline.code, 0 | 1) && offline.out.contains("Prüfungen"), "{}", offline.out);
    let policy = machine.home.join("policy.toml");
    std::fs::write(&policy, "[look]\nmode = \"never\"\n[act]\nmode = \"never\"\n").expect("written");
    let refused = world.technician(&["diagnose", "kasse-1"]).exits(3);
    assert!(refused.err.contains("FW-OWN-01"), "{}", refused.err);
    std::fs::write(&policy, "[look]\nmode = \"never\"\n[act]\nmode = \"nevr\"\n").expect("written");
    let refused = world.technician(&["diagnose", "kasse-1"]).exits(3);
    assert!(refused.err.contains("FW-OWN-01"), "a mistake loosens nothing: {}", refused.err);
    std::fs::write(&policy, "").expect("written");
    let refused = world.technician(&["diagnose", "kasse-1"]).exits(3);
    assert!(refused.err.contains("FW-OWN-01"), "nor does a file that was cut: {}", refused.err);
    std::fs::write(&policy, "[look]\nmode = \"allow\"\n[act]\nmode = \"never\"\n").expect("written");
    let output = world.technician(&["diagnose", "kasse-1", "--section", "power"]);
    assert!(matches!(output.code, 0 | 1), "the owner allows it: {}", output.err);
    std::fs::write(&policy, "surprise = true").expect("written");
    machine.owner(&["policy", "check"]).exits(1);
    let output = world.technician(&["diagnose", "kasse-1", "--section", "power"]);
    assert!(matches!(output.code, 0 | 1), "a broken policy still allows diagnosis: {}", output.err);
}

/// Writes a file with the mode that the agent uses.
fn write_own(path: &std::path::Path, bytes: &[u8]) {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    let file = std::fs::File::options().write(true).create(true).truncate(true).mode(0o600).open(path);
    file.and_then(|mut file| file.write_all(bytes)).expect("written");
}

#[test]
fn a_key_file_with_wrong_mode_owner_or_type_is_refused_by_name() {
    use std::os::unix::fs::{PermissionsExt, chown, symlink};
    let mut world = World::new();
    let mut machine = world.add_machine("kasse-1");
    machine.agent.stop();
    world.hub.stop();
    let home = world.shop();
    let staff = || world.technician(&["ls"]);
    let approver = || world.technician(&["approver", "show"]);
    let hub = || world.technician(&["serve"]);
    let agent = || machine.owner(&["run"]);
    let cases: Vec<(std::path::PathBuf, &dyn Fn() -> fernwart_tests::CommandOutput)> = vec![
        (home.join("staff/order.key"), &staff),
        (home.join("staff/staff.identity"), &staff),
        (home.join("approver/approver.key"), &approver),
        (home.join("hub/ca.key"), &hub),
        (home.join("hub/evidence.key"), &hub),
        (home.join("hub/snapshot.key"), &hub),
        (home.join("hub/timestamp.key"), &hub),
        (home.join("hub/restart.key"), &hub),
        (machine.home.join("evidence.key"), &agent),
        (machine.home.join("sealing.key"), &agent),
        (machine.home.join("tls.identity"), &agent),
    ];
    for (path, start) in cases {
        let name = path.file_name().and_then(|name| name.to_str()).expect("text").to_owned();
        let refused = |why: &str| {
            let output = start();
            assert!(
                output.code >= 2 && output.err.contains(&name) && output.err.contains(why),
                "{name}: {}",
                output.err
            );
        };
        let mode = |bits| std::fs::set_permissions(&path, PermissionsExt::from_mode(bits)).expect("set");
        mode(0o644);
        refused("0644");
        mode(0o600);
        if chown(&path, Some(1), None).is_ok() {
            refused("belongs to user 1");
            chown(&path, Some(0), None).expect("given back");
        }
        let aside = path.with_extension("aside");
        std::fs::rename(&path, &aside).expect("moved");
        symlink(&aside, &path).expect("linked");
        refused("not a plain file");
        std::fs::remove_file(&path).expect("removed");
        std::fs::rename(&aside, &path).expect("moved");
    }
    // With the original files everything works.
    world.restart_hub();
    machine.restart();
    wait_until("the machine is linked", || world.is_online("kasse-1"));
}

#[test]
fn an_altered_stored_result_is_rejected_by_the_technicians_program() {
    let mut world = World::new();
    let _machine = world.add_machine("kasse-1");
    assert!(matches!(world.technician(&["diagnose", "kasse-1", "--section", "memory"]).code, 0 | 1));
    assert!(matches!(world.technician(&["job", "watch", "1"]).code, 0 | 1));
    world.hub.stop();
    let store = world.shop().join("hub/store.sqlite");
    run(Command::new("sqlite3").arg(&store).arg("UPDATE runs SET report = x'00'")).exits(0);
    world.restart_hub();
    let output = world.technician(&["job", "watch", "1"]).exits(5);
    assert!(output.out.contains("not signed by this machine [FW-CLI-08]"), "{}", output.out);
}

#[test]
fn the_owner_can_check_the_agent_and_confirm_its_clock() {
    let world = World::new();
    let mut machine = world.add_machine("kasse-1");
    let output = machine.owner(&["--lang", "de", "check"]).exits(0);
    assert!(output.out.contains("OK        die Uhr dieses Rechners"), "{}", output.out);
    // It runs with a clock a year ahead; afterwards the true time looks wrong to it.
    machine.agent.stop();
    if !machine.restart_at("+366d") {
        return;
    }
    wait_until("it is linked", || world.is_online("kasse-1"));
    let output = machine.owner(&["--lang", "en", "check"]).exits(1);
    assert!(output.out.contains("NOT OK    this computer's clock"), "{}", output.out);
    machine.agent.stop();
    machine.restart();
    wait_until("it is linked", || world.is_online("kasse-1"));
    machine.owner(&["check", "--trust-clock"]).exits(0);
    assert!(machine.journal().iter().any(|(kind, body)| kind == "owner_said" && body["word"] == "trust_clock"));
    let text = std::fs::read_to_string(machine.home.join("policy.toml")).expect("rules");
    std::fs::write(machine.home.join("policy.toml"), text + "surprise = 1\n").expect("written");
    let output = machine.owner(&["--lang", "en", "check"]).exits(1);
    assert!(output.out.contains("NOT OK    your rules"), "{}", output.out);
}

#[test]
fn a_hub_with_an_approvers_key_in_its_home_does_not_start() {
    let mut world = World::new();
    world.hub.stop();
    std::fs::copy(world.shop().join("approver/approver.key"), world.shop().join("hub/approver.key")).expect("copied");
    let output = world.technician(&["serve"]).exits(3);
    assert!(output.err.contains("FW-HUB-22") && output.err.contains("approver.key"), "{}", output.err);
    std::fs::remove_file(world.shop().join("hub/approver.key")).expect("removed");
    // Under any file name, and a technician's key as well.
    for key in ["approver/approver.key", "staff/order.key"] {
        let hidden = world.shop().join("hub/catalogue/notes.txt");
        std::fs::copy(world.shop().join(key), &hidden).expect("copied");
        let output = world.technician(&["serve"]).exits(3);
        assert!(output.err.contains("FW-HUB-22") && output.err.contains("notes.txt"), "{}", output.err);
        std::fs::remove_file(hidden).expect("removed");
    }
    world.restart_hub();
}

/// A failed write must not leave its connection in an open transaction: later writes on it would seem to be
/// kept, but nobody else would see them.
#[test]
fn rows_indexed_after_a_full_disk_are_visible_to_other_connections() {
    let folder = tempfile::tempdir().expect("a folder");
    let Some(disk) = SmallDisk::mount(folder.path(), 8) else { return };
    let path = folder.path().join("facts.sqlite");
    let facts = "a".repeat(30_000);
    let json = format!(r#"{{"taken_at":1,"sections":{{"memory":{{"facts":"{facts}"}}}},"findings":[]}}"#);
    let reported = [fernwart_index::Reported::read("kasse-1".into(), "1".into(), &json).expect("a report")];
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        let index = fernwart_index::Index::open(&path).await.expect("opened");
        disk.fill();
        for _ in 0..3 {
            assert!(index.keep(&reported).await.is_err_and(|error| error.may_pass()), "there is no room");
        }
        disk.empty();
        index.keep(&reported).await.expect("kept");
        let seen = run(std::process::Command::new("sqlite3").arg(&path).arg("SELECT count(*) FROM taken")).exits(0);
        assert_eq!(seen.out.trim(), "1");
    });
}

#[test]
fn queries_after_a_full_disk_include_every_report() {
    let folder = tempfile::tempdir().expect("a folder");
    let Some(disk) = SmallDisk::mount(&folder.path().join("shop"), 24) else { return };
    let world = World::in_folder(folder);
    let _till = world.add_machine("kasse-1");
    world.technician(&["diagnose", "kasse-1"]);
    let question = ["query", "SELECT machine FROM memory", "-o", "name"];
    disk.fill();
    // The disk has no space for what the index lacks, however often it is asked.
    (0..3).for_each(|_| drop(world.technician(&question).exits(5)));
    disk.empty();
    wait_until("it is answered", || world.technician(&question).code == 0);
    assert_eq!(world.technician(&question).out, "kasse-1\n");
}

#[test]
fn a_hub_with_a_full_disk_refuses_new_work_and_recovers_by_itself() {
    let folder = tempfile::tempdir().expect("a folder");
    let Some(disk) = SmallDisk::mount(&folder.path().join("shop"), 24) else { return };
    let world = World::in_folder(folder);
    let machine = world.add_machine("kasse-1");
    let line = world.invitation(&["Praxis Petersen"]);
    let enroll = || world.owner_in("praxis-1", &["--lang", "de", "enroll", &line, "--policy", "ask", "--no-service"]);
    disk.fill();
    let output = world.technician(&["diagnose", "kasse-1"]).exits(5);
    assert!(output.err.contains("FW-HUB-08") && output.err.contains("free space"), "{}", output.err);
    let output = enroll().exits(4);
    assert!(
        output.err.contains("FW-HUB-08") && output.err.contains("kann das gerade nicht ausführen"),
        "{}",
        output.err
    );
    assert!(world.is_online("kasse-1"), "reading goes on");
    let before = machine.journal().len();
    disk.empty();
    let output = world.technician(&["diagnose", "kasse-1"]);
    assert!(matches!(output.code, 0 | 1), "{}", output.err);
    assert_eq!(machine.journal().len(), before + 2, "only the second was sent");
    enroll().exits(0);
    drop(world);
    drop(disk);
}

#[test]
fn a_failed_init_leaves_nothing_behind_and_can_be_repeated() {
    let folder = tempfile::tempdir().expect("a folder");
    let Some(disk) = SmallDisk::mount(folder.path(), 8) else { return };
    let shop = folder.path().join("shop");
    std::fs::create_dir(&shop).expect("made");
    // What an earlier, killed `init` left behind.
    std::fs::create_dir_all(shop.join(".fernwart-init/hub")).expect("made");
    std::fs::write(shop.join(".fernwart-init/hub/ca.key"), "half").expect("written");
    let init = || run(&mut staff_command(&shop, &["init", "--address", "127.0.0.1:7443", "--name", "jana"]));
    // On a full disk, and on disks that fill up at different points.
    let output = [0, 8, 16, 32, 64, 128, 8192].into_iter().find_map(|room| {
        disk.fill();
        let filler = std::fs::File::options().write(true).open(folder.path().join("filler")).expect("opened");
        let full = filler.metadata().expect("its size").len();
        filler.set_len(full.saturating_sub(room << 10)).expect("some room");
        let output = init();
        disk.empty();
        if output.code == 0 {
            return Some((room, output));
        }
        assert!(output.code == 5 && !output.err.contains("homes are in"), "{room}: {}", output.err);
        if room == 0 {
            assert!(output.err.contains("FW-CLI-10") && output.err.contains("free some space"), "{}", output.err);
        }
        assert_eq!(std::fs::read_dir(&shop).expect("read").count(), 0, "nothing is left, room for {room} KiB");
        None
    });
    let (room, output) = output.expect("a shop, with all the room there is");
    assert!(room > 8 && output.err.contains("Three homes are in"), "{room}: {}", output.err);
    assert_eq!(std::fs::read_dir(&shop).expect("read").count(), 3);

    // An `init` that was killed while it moved the homes to their place.
    std::fs::create_dir(shop.join(".fernwart-init.made")).expect("made");
    for name in ["approver", "hub"] {
        std::fs::rename(shop.join(name), shop.join(".fernwart-init.made").join(name)).expect("moved back");
    }
    let output = init().exits(2);
    assert!(output.err.contains("it is finished now") && output.err.contains("holds a shop already"), "{}", output.err);
    assert_eq!(std::fs::read_dir(&shop).expect("read").count(), 3);
    // An existing file is not overwritten.
    let other = folder.path().join("other");
    std::fs::create_dir(&other).expect("made");
    std::fs::write(other.join("hub"), "mine").expect("written");
    let output = run(&mut staff_command(&other, &["init", "--address", "127.0.0.1:7443"])).exits(2);
    assert!(output.err.contains("is there already"), "{}", output.err);
    assert_eq!(std::fs::read_to_string(other.join("hub")).expect("read"), "mine");
}

#[test]
fn enrolling_fails_cleanly_on_a_full_disk_and_works_once_there_is_space() {
    let world = World::new();
    let Some(disk) = SmallDisk::mount(&world.path().join("kasse-1"), 24) else { return };
    let line = world.invitation(&["Bäckerei Meyer"]);
    let enroll = || world.owner_in("kasse-1", &["--lang", "de", "enroll", &line, "--policy", "ask", "--no-service"]);
    disk.fill();
    let output = enroll().exits(5);
    assert!(output.err.contains("FW-JOIN-23") && output.err.contains("Schaffen Sie etwas Platz"), "{}", output.err);
    disk.empty();
    assert_eq!(std::fs::read_dir(disk.path()).expect("read").count(), 0, "no half key is left");
    // A state store whose creation was interrupted: redb writes its magic number last.
    write_own(&disk.path().join("books.redb"), &[0; 20_000]);
    let output = enroll().exits(0);
    assert!(output.out.contains("Nordlicht IT"), "{}", output.out);
}

#[test]
fn a_machine_with_a_full_disk_is_still_diagnosed() {
    let world = World::new();
    let Some(disk) = SmallDisk::mount(&world.path().join("kasse-1"), 24) else { return };
    let mut machine = world.add_machine("kasse-1");
    disk.fill();
    for _ in 0..10 {
        let output = world.technician(&["diagnose", "kasse-1", "--section", "memory"]);
        assert!(matches!(output.code, 0 | 1), "{}", output.err);
    }
    // Even after a restart with a full disk.
    machine.agent.kill_9();
    machine.restart();
    wait_until("it is linked again", || world.is_online("kasse-1"));
    let output = world.technician(&["diagnose", "kasse-1", "--section", "memory"]);
    assert!(matches!(output.code, 0 | 1), "{}", output.err);
    assert_eq!(machine.journal().len(), 1 + 2 * 11);
    drop(machine);
    drop(disk);
}

#[test]
fn a_small_script_still_runs_on_a_machine_with_a_full_disk() {
    let world = World::new();
    let Some(disk) = SmallDisk::mount(&world.path().join("kasse-1"), 24) else { return };
    let machine = world.add_machine("kasse-1");
    std::fs::write(machine.home.join("policy.toml"), "[look]\nmode = \"allow\"\n[act]\nmode = \"allow\"\n")
        .expect("written");
    world.approve_all(&[Script::new("frees", "echo freed\n")]);
    wait_until("it follows what was published", || machine.agent.log().contains("following a newer catalogue"));
    // The script's file has not been fetched yet.
    disk.fill();
    let output = world.technician(&["run", "frees", "kasse-1", "--reason", "Platte voll"]).exits(0);
    assert!(output.out.contains("freed"), "{}", output.out);
    drop(machine);
    drop(disk);
}

#[test]
fn a_result_that_cannot_be_saved_is_reported_to_technician_and_owner() {
    let world = World::new();
    let Some(disk) = LoopDisk::mount(&world.path().join("kasse-1")) else { return };
    let mut machine = world.add_machine("kasse-1");
    let policy = "[look]\nmode = \"allow\"\n[act]\nmode = \"allow\"\n";
    std::fs::write(machine.home.join("policy.toml"), policy).expect("written");
    world.approve(&Script::new("slow", "echo begun; sleep 4; echo mended\n"));
    let words = ["run", "slow", "kasse-1", "--reason", "test"];
    let log = world.path().join("asking.log");
    let asking = fernwart_tests::Process::start(&mut world.command(&words), &log);
    wait_until("it runs", || machine.journal().iter().any(|(kind, _)| kind == "run_started"));
    disk.fail();
    wait_until("who waits is told", || {
        asking.log().contains("kasse-1  has ended, but the machine cannot save the result")
    });
    let output = machine.owner(&["--lang", "de", "status"]).exits(0);
    assert!(output.out.contains("Ein Ergebnis lässt sich hier nicht speichern"), "{}", output.out);
    // The run is shown neither as ended nor as successful: its outcome is not known yet.
    let output = world.technician(&["job", "show", "1"]);
    assert!(output.out.contains("running"), "{}", output.out);
    machine.agent.kill_9();
}

#[test]
fn every_shipped_script_starts_on_a_machine_with_a_full_disk() {
    let world = World::new();
    let Some(disk) = SmallDisk::mount(&world.path().join("kasse-1"), 24) else { return };
    let machine = world.add_machine("kasse-1");
    std::fs::write(machine.home.join("policy.toml"), "[look]\nmode = \"allow\"\n[act]\nmode = \"allow\"\n")
        .expect("written");
    let scripts = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../controller/scripts");
    let folders = std::fs::read_dir(scripts).expect("there").flatten().map(|entry| entry.path());
    let folders: Vec<String> = folders.map(|path| path.to_string_lossy().into_owned()).collect();
    let mut words = vec!["catalogue", "propose", "--yes"];
    words.extend(folders.iter().map(String::as_str));
    world.technician(&words).exits(0);
    wait_until("it follows what was published", || machine.agent.log().contains("following a newer catalogue"));
    disk.fill();
    assert_eq!(folders.len(), 12);
    for folder in &folders {
        let name = folder.rsplit('/').next().expect("a name");
        let more: &[&str] = match name {
            "filesystem-check" => &["--dry-run", "-p", "mount=/"],
            "lock-remove" => &["--dry-run", "-p", "path=/run/lock/fernwart-none"],
            "log-rotate" => &["--dry-run", "-p", "path=/var/log/fernwart-none"],
            "dhcp-renew" => &["--dry-run", "-p", "interface=none0"],
            "service-restart" => &["--dry-run", "-p", "unit=none.service"],
            "logs-collect" | "resolver-flush" => &[],
            _ => &["--dry-run"],
        };
        let words = [&["run", name, "kasse-1", "--reason", "Platte voll"][..], more].concat();
        let output = world.technician(&words);
        let is_it = |(kind, body): &(String, serde_json::Value)| {
            kind == "run_started" && body["action"]["script"]["bundle"] == name
        };
        assert!(machine.journal().iter().any(is_it), "{name}: {} {}", output.out, output.err);
    }
    drop(machine);
    drop(disk);
}

#[test]
fn a_pause_takes_effect_even_if_it_cannot_be_written_to_disk() {
    let world = World::new();
    let Some(disk) = SmallDisk::mount(&world.path().join("kasse-1"), 24) else { return };
    let machine = world.add_machine("kasse-1");
    world.approve(&Script::new("mend", "echo mended\n"));
    // Writes that are under way when the disk fills could free blocks.
    wait_until("it follows what was published", || machine.agent.log().contains("following a newer catalogue"));
    // Recording an owner's decision needs a new block.
    disk.fill();
    let output = machine.owner(&["--lang", "de", "pause"]).exits(5);
    assert!(output.err.contains("FW-OWN-17") && output.err.contains("Ihre Entscheidung gilt jetzt"), "{}", output.err);
    let output = world.technician(&["diagnose", "kasse-1"]).exits(3);
    assert!(output.err.contains("FW-OWN-05"), "{}", output.err);
    // A permission takes effect only once it is written.
    let output = machine.owner(&["resume"]).exits(5);
    assert!(output.err.contains("FW-OWN-15"), "{}", output.err);
    world.technician(&["diagnose", "kasse-1"]).exits(3);
    let output = machine.owner(&["allow", "repair", "--for", "2h"]).exits(5);
    assert!(output.err.contains("FW-OWN-15"), "{}", output.err);
    disk.empty();
    machine.owner(&["resume"]).exits(0);
    let output = world.technician(&["diagnose", "kasse-1", "--section", "memory"]);
    assert!(matches!(output.code, 0 | 1), "{}", output.err);
    drop(machine);
    drop(disk);
}

#[test]
fn a_clock_a_year_off_is_diagnosed_as_a_critical_finding() {
    let world = World::new();
    for (name, offset) in [("kasse-1", "+366d"), ("kasse-2", "-366d")] {
        let mut machine = world.add_machine(name);
        machine.agent.stop();
        if !machine.restart_at(offset) {
            return;
        }
        wait_until("it is linked", || world.is_online(name));
        let output = world.technician(&["diagnose", name, "-o", "jsonl", "--section", "time"]).exits(1);
        let result = &output.json_lines()[0];
        let findings = result["report"]["findings"].as_array().expect("findings");
        let off = findings.iter().find(|finding| finding["id"] == "time.off").expect("the finding time.off");
        assert_eq!(off["severity"], "crit");
        let ahead = result["report"]["sections"]["time"]["facts"]["ahead_of_hub_s"].as_f64().expect("a number");
        assert!((ahead.abs() - 366.0 * 86_400.0).abs() < 3600.0, "{ahead}");
    }
}

#[test]
fn every_error_code_shown_to_owners_has_a_help_text() {
    let source = include_str!("../../agent/src/owner/user_error.rs");
    let codes: std::collections::BTreeSet<&str> =
        source.split('"').filter(|word| word.starts_with("FW-") && word.len() > 8).collect();
    assert!(codes.len() > 10, "{codes:?}");
    for code in codes {
        let output = run(&mut staff_command(std::path::Path::new("/nonexistent"), &["help", code])).exits(0);
        assert!(output.out.contains(code) && output.out.contains("now:"), "{}", output.out);
    }
}

#[test]
fn an_agent_without_its_state_store_refuses_to_start_a_new_one() {
    let world = World::new();
    let mut machine = world.add_machine("kasse-1");
    let (store, aside) = (machine.home.join("books.redb"), machine.home.join("aside"));
    machine.owner(&["check"]).exits(0);
    std::fs::rename(&store, &aside).expect("moved");
    // While it runs: what it writes from now on would be lost.
    let output = machine.owner(&["--lang", "de", "check"]).exits(1);
    assert!(output.out.contains("NICHT OK  die Aufzeichnungen") && output.out.contains("books.redb"), "{}", output.out);
    let output = world.technician(&["diagnose", "kasse-1"]).exits(3);
    assert!(output.err.contains("FW-GATE-15"), "{}", output.err);
    machine.agent.stop();
    // With an empty ledger, a run could be repeated.
    let refuses = |machine: &Machine| {
        for words in [&["run"][..], &["status"], &["journal"]] {
            let output = machine.owner(&[&["--lang", "de"], words].concat()).exits(5);
            assert!(output.err.contains("FW-OWN-22") && output.err.contains("books.redb"), "{words:?}: {}", output.err);
        }
        let output = machine.owner(&["--lang", "de", "check"]).exits(1);
        assert!(output.out.contains("NICHT OK  die Aufzeichnungen"), "{}", output.out);
        assert!(output.out.contains("books.redb"), "{}", output.out);
    };
    refuses(&machine);
    assert!(!store.exists());
    // An empty state store is refused, too, on a machine that has joined.
    write_own(&store, &[]);
    refuses(&machine);
    assert_eq!(std::fs::read(&store).expect("read"), b"");
    let line = world.invitation(&["Bäckerei Meyer"]);
    let output = machine.owner(&["--lang", "de", "enroll", &line, "--policy", "ask", "--no-service"]).exits(5);
    assert!(output.err.contains("FW-OWN-22"), "{}", output.err);
    std::fs::rename(&aside, &store).expect("moved back");
    machine.restart();
    wait_until("it is linked again", || world.is_online("kasse-1"));
}

#[test]
fn status_shows_the_rules_in_force_and_a_second_agent_is_refused() {
    let world = World::new();
    let machine = world.add_machine("kasse-1");
    let output = machine.owner(&["--lang", "de", "run"]).exits(2);
    assert!(output.err.contains("FW-OWN-20") && output.err.contains("läuft hier schon"), "{}", output.err);
    machine.owner(&["allow", "repair", "--for", "2h"]).exits(0);
    let output = machine.owner(&["--lang", "de", "status"]).exits(0);
    assert!(output.out.contains("reparieren: ja, bis "), "{}", output.out);
    // A permission does not override the rule `never`.
    std::fs::write(machine.home.join("policy.toml"), "[look]\nmode = \"allow\"\n[act]\nmode = \"never\"\n")
        .expect("written");
    let output = machine.owner(&["--lang", "de", "status"]).exits(0);
    assert!(output.out.contains("reparieren: nie"), "{}", output.out);
    std::fs::write(machine.home.join("policy.toml"), "[look]\nmode = \"allow\"\n[act]\nmode = \"ask\"\n")
        .expect("written");
    machine.owner(&["pause", "--for", "2"]).exits(2);
    machine.owner(&["pause", "--for", "2h"]).exits(0);
    let output = machine.owner(&["--lang", "de", "allow", "repair", "--for", "1h"]).exits(0);
    assert!(output.out.contains("das gilt erst nach:  fernwart-agent resume"), "{}", output.out);
    let output = machine.owner(&["--lang", "de", "status"]).exits(0);
    assert!(output.out.contains("reparieren: nur mit Ihrer Zustimmung"), "{}", output.out);
    let output = world.owner_in("kasse-9", &["--lang", "de", "enroll", "fw1-x", "--policy", "nosuch"]).exits(2);
    assert!(output.err.contains("FW-JOIN-21"), "{}", output.err);
    let line = world.invitation(&["Praxis Petersen"]);
    let output = world.owner_in("kasse-9", &["--lang", "de", "enroll", &line, "--policy", "nosuch"]).exits(2);
    assert!(output.err.contains("FW-OWN-11") && output.err.contains("nosuch"), "{}", output.err);
    // A machine that waits to be admitted is shown the confirmation words again.
    let enroll = || {
        let words = ["--lang", "de", "enroll", &line, "--policy", "ask", "--no-service"];
        world.owner_in("kasse-9", &words).exits(0).out
    };
    let (first, again) = (enroll(), enroll());
    let words = |output: &str| output.lines().find(|line| line.contains("diese Wörter")).map(str::to_owned);
    assert!(words(&first).is_some() && words(&first) == words(&again), "{first}{again}");
    assert!(again.contains("schon angemeldet"), "{again}");
    // An invitation of another customer, one of another organisation, and a second `enroll` at the same
    // time.
    for other in [world.invitation(&["Bäckerei Meyer"]), World::new().invitation(&["Praxis Petersen"])] {
        let output = world.owner_in("kasse-9", &["--lang", "de", "enroll", &other, "--policy", "ask"]).exits(2);
        assert!(output.err.contains("FW-JOIN-27") && output.err.contains("für jemand anderen"), "{}", output.err);
        assert!(output.err.contains("(Praxis Petersen)"), "{}", output.err);
    }
    let folder = world.path().join("kasse-10");
    std::fs::create_dir(&folder).expect("made");
    let held = std::fs::File::open(&folder).expect("opened");
    held.lock().expect("held");
    let output = world.owner_in("kasse-10", &["--lang", "de", "enroll", &line, "--policy", "ask"]).exits(2);
    assert!(output.err.contains("FW-JOIN-28") && output.err.contains("in einem anderen Fenster"), "{}", output.err);
    // An unreadable `agent.toml` may be of another enrollment.
    std::fs::write(world.path().join("kasse-9/agent.toml"), "customer = ").expect("written");
    let output = world.owner_in("kasse-9", &["--lang", "de", "enroll", &line, "--policy", "ask"]).exits(5);
    assert!(output.err.contains("FW-OWN-27") && output.err.contains("agent.toml"), "{}", output.err);
    // Without `agent.toml`, the state store still knows for which customer it has joined.
    std::fs::remove_file(world.path().join("kasse-9/agent.toml")).expect("removed");
    std::fs::write(world.path().join("kasse-9/evidence.key.0123456789abcdef.new"), "half").expect("written");
    let other = world.invitation(&["Bäckerei Meyer"]);
    let words =
        |line: &str| world.owner_in("kasse-9", &["--lang", "de", "enroll", line, "--policy", "ask", "--no-service"]);
    let output = words(&other).exits(2);
    assert!(output.err.contains("FW-JOIN-27"), "{}", output.err);
    words(&line).exits(0);
    assert!(!world.path().join("kasse-9/evidence.key.0123456789abcdef.new").exists(), "half a key is cleared away");

    let output = machine.owner(&["--lang", "de", "journal"]).exits(0);
    assert!(output.out.contains("Sie haben entschieden: alles angehalten"), "{}", output.out);
    world.technician(&["retire", "kasse-1", "--yes=kasse-1"]).exits(0);
    let says = || machine.owner(&["--lang", "de", "status"]).exits(0).out;
    wait_until("it is told", || says().contains("Nordlicht IT hat die Betreuung dieses Rechners am "));
}
