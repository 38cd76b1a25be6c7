//! Bad luck: wrong words, a full disk on either side, a clock a year off.

use fernwart_tests::test_script::Script;
use fernwart_tests::{LoopDisk, Machine, SmallDisk, World, program, run, staff_command, wait_until};
use std::path::Path;
use std::process::Command;

#[test]
fn help_opens_with_examples_and_closes_with_the_next_step() {
    for arguments in [&["--help"][..], &["diagnose", "--help"]] {
        let said = run(&mut staff_command(Path::new("/nonexistent"), arguments)).exits(0);
        assert!(said.out.trim_start().starts_with("Examples:"), "{}", said.out);
        let last = said.out.trim_end().lines().last().expect("a line");
        assert!(last.starts_with("Next:"), "{last}");
    }
}

#[test]
fn a_command_that_is_not_complete_yet_is_shown_how_it_goes_on() {
    for words in [&[][..], &["job"], &["staff"]] {
        let said = run(Command::new(program("fernwart")).args(words).env_remove("FERNWART_HOME")).exits(2);
        assert!(said.err.contains("Usage: fernwart") && !said.err.contains("error:"), "{words:?}: {}", said.err);
    }
    let said = run(&mut staff_command(Path::new("/nonexistent"), &[])).exits(2);
    assert!(said.err.contains("a command is missing") && !said.err.contains("answer-query"), "{}", said.err);
}

#[test]
fn an_owner_is_helped_in_german() {
    let folder = tempfile::tempdir().expect("a folder");
    let agent = |words: &[&str]| {
        let mut command = Command::new(program("fernwart-agent"));
        run(command.arg("--home").arg(folder.path()).args(words).env("LC_ALL", "de_DE.UTF-8"))
    };
    let said = agent(&["--help"]).exits(0);
    assert!(said.out.starts_with("Zum Beispiel:\n  fernwart-agent status"), "{}", said.out);
    assert!(said.out.contains("\nBefehle:\n") && said.out.contains("Was Sie gefragt werden"), "{}", said.out);
    let said = agent(&["stauts"]).exits(2);
    assert!(said.err.starts_with("Fehler: Diesen Befehl gibt es so nicht     [FW-CLI-01]"), "{}", said.err);
    assert!(said.err.contains("'status'"), "what may have been meant: {}", said.err);
    let said = agent(&["--lang", "en", "stauts"]).exits(2);
    assert!(said.err.starts_with("Error: there is no such command     [FW-CLI-01]"), "{}", said.err);
    let said = agent(&["--lang", "en", "--help"]).exits(0);
    assert!(said.out.starts_with("Examples:") && said.out.contains("What you are asked"), "{}", said.out);
}

#[test]
fn unknown_words_are_answered_with_what_may_have_been_meant() {
    let home = tempfile::tempdir().expect("a folder");
    let said = run(&mut staff_command(home.path(), &["diagnos", "kasse-1"])).exits(2);
    assert!(said.err.contains("diagnose"), "{}", said.err);
    let said = run(&mut staff_command(home.path(), &["diagnose", "kasse-1", "--sektion", "disks"])).exits(2);
    assert!(said.err.contains("--section"), "{}", said.err);
    let said = run(&mut staff_command(home.path(), &["ls"])).exits(2);
    assert!(said.err.contains("FW-CLI-03") && said.err.contains("fernwart init"), "{}", said.err);
    let said = run(&mut staff_command(home.path(), &["help", "fw-gate-06"])).exits(0);
    assert!(said.out.contains("the role does not allow this action"), "{}", said.out);
    run(&mut staff_command(home.path(), &["help", "FW-XXX-99"])).exits(2);
}

#[test]
fn a_hub_that_is_down_is_told_with_what_to_do() {
    let mut world = World::new();
    world.hub.stop();
    let said = world.technician(&["diagnose", "all", "--timeout", "1s"]).exits(4);
    assert!(said.err.contains("does not answer") && said.err.contains("now:"), "{}", said.err);
}

#[test]
fn customers_read_what_went_wrong_in_their_language() {
    let world = World::new();
    let said = world.owner_in("kasse-1", &["--lang", "de", "status"]).exits(2);
    assert!(said.err.starts_with("Fehler: Dieser Rechner ist noch nicht angemeldet     [FW-JOIN-24]"), "{}", said.err);
    let said = world.owner_in("kasse-1", &["enroll", "fw1-abc", "--policy", "ask"]).exits(2);
    assert!(said.err.starts_with("Error: the invitation is incomplete"), "{}", said.err);
    let said = world.owner_in("kasse-1", &["--lang", "de", "enroll"]).exits(2);
    assert!(said.err.contains("Was nun: Bitten Sie Ihre IT-Betreuung"), "{}", said.err);
    let many = world.invitation(&["A", "--machines", "5"]);
    let said = world.owner_in("kasse-1", &["enroll", &many, "--policy", "ask"]).exits(2);
    assert!(said.err.contains("FW-JOIN-22"), "{}", said.err);
    let one = world.invitation(&["A"]);
    let said = world.owner_in("kasse-1", &["enroll", &one]).exits(2);
    assert!(said.err.contains("FW-OWN-10"), "{}", said.err);
    world.owner_in("kasse-1", &["enroll", &one, "--policy", "nightly", "--no-service"]).exits(0);
    let said = world.owner_in("kasse-2", &["--lang", "de", "enroll", &one, "--policy", "ask", "--no-service"]).exits(3);
    assert!(said.err.contains("schon von einem anderen Rechner benutzt     [FW-JOIN-03]"), "{}", said.err);
}

#[test]
fn the_small_commands_answer() {
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
    std::fs::write(&policy, "surprise = true").expect("written");
    machine.owner(&["policy", "check"]).exits(1);
    let said = world.technician(&["diagnose", "kasse-1", "--section", "power"]);
    assert!(matches!(said.code, 0 | 1), "a broken policy still allows diagnosis: {}", said.err);
}

/// A file as the agent makes them.
fn write_own(path: &std::path::Path, bytes: &[u8]) {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    let file = std::fs::File::options().write(true).create(true).truncate(true).mode(0o600).open(path);
    file.and_then(|mut file| file.write_all(bytes)).expect("written");
}

#[test]
fn each_key_file_that_is_not_as_it_must_be_is_refused_by_name() {
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
            let said = start();
            assert!(said.code >= 2 && said.err.contains(&name) && said.err.contains(why), "{name}: {}", said.err);
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
    // As they were, all work.
    world.restart_hub();
    machine.restart();
    wait_until("the machine is linked", || world.is_online("kasse-1"));
}

#[test]
fn a_stored_answer_that_was_altered_is_not_believed() {
    let mut world = World::new();
    let _machine = world.add_machine("kasse-1");
    assert!(matches!(world.technician(&["diagnose", "kasse-1", "--section", "memory"]).code, 0 | 1));
    assert!(matches!(world.technician(&["job", "watch", "1"]).code, 0 | 1));
    world.hub.stop();
    let store = world.shop().join("hub/store.sqlite");
    run(Command::new("sqlite3").arg(&store).arg("UPDATE runs SET report = x'00'")).exits(0);
    world.restart_hub();
    let said = world.technician(&["job", "watch", "1"]).exits(5);
    assert!(said.out.contains("not signed by this machine [FW-CLI-08]"), "{}", said.out);
}

#[test]
fn the_owner_can_check_the_agent_and_vouch_for_the_clock() {
    let world = World::new();
    let mut machine = world.add_machine("kasse-1");
    let said = machine.owner(&["--lang", "de", "check"]).exits(0);
    assert!(said.out.contains("OK        die Uhr dieses Rechners"), "{}", said.out);
    // A year ahead it is told an order; from then on the true time looks wrong.
    machine.agent.stop();
    if !machine.restart_at("+366d") {
        return;
    }
    wait_until("it is linked", || world.is_online("kasse-1"));
    let said = machine.owner(&["--lang", "en", "check"]).exits(1);
    assert!(said.out.contains("NOT OK    this computer's clock"), "{}", said.out);
    machine.agent.stop();
    machine.restart();
    wait_until("it is linked", || world.is_online("kasse-1"));
    machine.owner(&["check", "--trust-clock"]).exits(0);
    assert!(machine.journal().iter().any(|(kind, body)| kind == "owner_said" && body["word"] == "trust_clock"));
    let text = std::fs::read_to_string(machine.home.join("policy.toml")).expect("rules");
    std::fs::write(machine.home.join("policy.toml"), text + "surprise = 1\n").expect("written");
    let said = machine.owner(&["--lang", "en", "check"]).exits(1);
    assert!(said.out.contains("NOT OK    your rules"), "{}", said.out);
}

#[test]
fn a_hub_with_an_approvers_key_in_its_home_does_not_start() {
    let mut world = World::new();
    world.hub.stop();
    std::fs::copy(world.shop().join("approver/approver.key"), world.shop().join("hub/approver.key")).expect("copied");
    let said = world.technician(&["serve"]).exits(3);
    assert!(said.err.contains("FW-HUB-22") && said.err.contains("approver.key"), "{}", said.err);
    std::fs::remove_file(world.shop().join("hub/approver.key")).expect("removed");
    // Whatever it is called, and a technician's as well.
    for key in ["approver/approver.key", "staff/order.key"] {
        let hidden = world.shop().join("hub/catalogue/notes.txt");
        std::fs::copy(world.shop().join(key), &hidden).expect("copied");
        let said = world.technician(&["serve"]).exits(3);
        assert!(said.err.contains("FW-HUB-22") && said.err.contains("notes.txt"), "{}", said.err);
        std::fs::remove_file(hidden).expect("removed");
    }
    world.restart_hub();
}

/// A write that failed leaves its connection in a transaction: what followed on it
/// seemed to be kept, and was seen by nobody else.
#[test]
fn what_is_indexed_after_a_full_disk_is_seen_by_others() {
    let folder = tempfile::tempdir().expect("a folder");
    let Some(disk) = SmallDisk::mount(folder.path(), 8) else { return };
    let path = folder.path().join("facts.sqlite");
    let facts = "a".repeat(30_000);
    let json = format!(r#"{{"taken_at":1,"sections":{{"memory":{{"facts":"{facts}"}}}},"findings":[]}}"#);
    let told = [fernwart_index::Reported::read("kasse-1".into(), "1".into(), &json).expect("a report")];
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        let index = fernwart_index::Index::open(&path).await.expect("opened");
        disk.fill();
        for _ in 0..3 {
            assert!(index.keep(&told).await.is_err_and(|error| error.may_pass()), "there is no room");
        }
        disk.empty();
        index.keep(&told).await.expect("kept");
        let seen = run(std::process::Command::new("sqlite3").arg(&path).arg("SELECT count(*) FROM taken")).exits(0);
        assert_eq!(seen.out.trim(), "1");
    });
}

#[test]
fn a_question_asked_after_the_hubs_disk_was_full_is_answered_from_all_that_was_told() {
    let folder = tempfile::tempdir().expect("a folder");
    let Some(disk) = SmallDisk::mount(&folder.path().join("shop"), 24) else { return };
    let world = World::in_folder(folder);
    let _till = world.add_machine("kasse-1");
    world.technician(&["diagnose", "kasse-1"]);
    let question = ["query", "SELECT machine FROM memory", "-o", "name"];
    disk.fill();
    // There is no room for what the index lacks, also not the second time.
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
    let said = world.technician(&["diagnose", "kasse-1"]).exits(5);
    assert!(said.err.contains("FW-HUB-08") && said.err.contains("free space"), "{}", said.err);
    let said = enroll().exits(4);
    assert!(said.err.contains("FW-HUB-08") && said.err.contains("kann das gerade nicht ausführen"), "{}", said.err);
    assert!(world.is_online("kasse-1"), "reading goes on");
    let before = machine.journal().len();
    disk.empty();
    let said = world.technician(&["diagnose", "kasse-1"]);
    assert!(matches!(said.code, 0 | 1), "{}", said.err);
    assert_eq!(machine.journal().len(), before + 2, "only the second was sent");
    enroll().exits(0);
    drop(world);
    drop(disk);
}

#[test]
fn a_shop_that_could_not_be_begun_leaves_nothing_and_can_be_begun_again() {
    let folder = tempfile::tempdir().expect("a folder");
    let Some(disk) = SmallDisk::mount(folder.path(), 8) else { return };
    let shop = folder.path().join("shop");
    std::fs::create_dir(&shop).expect("made");
    // An earlier try that was killed.
    std::fs::create_dir_all(shop.join(".fernwart-init/hub")).expect("made");
    std::fs::write(shop.join(".fernwart-init/hub/ca.key"), "half").expect("written");
    let init = || run(&mut staff_command(&shop, &["init", "--address", "127.0.0.1:7443", "--name", "jana"]));
    // On a full disk, and on ones that fill up at this place or that.
    let said = [0, 8, 16, 32, 64, 128, 8192].into_iter().find_map(|room| {
        disk.fill();
        let filler = std::fs::File::options().write(true).open(folder.path().join("filler")).expect("opened");
        let full = filler.metadata().expect("its size").len();
        filler.set_len(full.saturating_sub(room << 10)).expect("some room");
        let said = init();
        disk.empty();
        if said.code == 0 {
            return Some((room, said));
        }
        assert!(said.code == 5 && !said.err.contains("homes are in"), "{room}: {}", said.err);
        if room == 0 {
            assert!(said.err.contains("FW-CLI-10") && said.err.contains("free some space"), "{}", said.err);
        }
        assert_eq!(std::fs::read_dir(&shop).expect("read").count(), 0, "nothing is left, room for {room} KiB");
        None
    });
    let (room, said) = said.expect("a shop, with all the room there is");
    assert!(room > 8 && said.err.contains("Three homes are in"), "{room}: {}", said.err);
    assert_eq!(std::fs::read_dir(&shop).expect("read").count(), 3);

    // One that was killed while it moved them to their place.
    std::fs::create_dir(shop.join(".fernwart-init.made")).expect("made");
    for name in ["approver", "hub"] {
        std::fs::rename(shop.join(name), shop.join(".fernwart-init.made").join(name)).expect("moved back");
    }
    let said = init().exits(2);
    assert!(said.err.contains("it is finished now") && said.err.contains("holds a shop already"), "{}", said.err);
    assert_eq!(std::fs::read_dir(&shop).expect("read").count(), 3);
    // Nobody's file is overwritten.
    let other = folder.path().join("other");
    std::fs::create_dir(&other).expect("made");
    std::fs::write(other.join("hub"), "mine").expect("written");
    let said = run(&mut staff_command(&other, &["init", "--address", "127.0.0.1:7443"])).exits(2);
    assert!(said.err.contains("is there already"), "{}", said.err);
    assert_eq!(std::fs::read_to_string(other.join("hub")).expect("read"), "mine");
}

#[test]
fn a_computer_that_could_not_join_for_want_of_room_joins_when_there_is_some() {
    let world = World::new();
    let Some(disk) = SmallDisk::mount(&world.path().join("kasse-1"), 24) else { return };
    let line = world.invitation(&["Bäckerei Meyer"]);
    let enroll = || world.owner_in("kasse-1", &["--lang", "de", "enroll", &line, "--policy", "ask", "--no-service"]);
    disk.fill();
    let said = enroll().exits(5);
    assert!(said.err.contains("FW-JOIN-23") && said.err.contains("Schaffen Sie etwas Platz"), "{}", said.err);
    disk.empty();
    assert_eq!(std::fs::read_dir(disk.path()).expect("read").count(), 0, "no half key is left");
    // A state store whose making was cut off: redb writes the mark at its beginning last.
    write_own(&disk.path().join("books.redb"), &[0; 20_000]);
    let said = enroll().exits(0);
    assert!(said.out.contains("Nordlicht IT"), "{}", said.out);
}

#[test]
fn a_machine_with_a_full_disk_is_still_diagnosed() {
    let world = World::new();
    let Some(disk) = SmallDisk::mount(&world.path().join("kasse-1"), 24) else { return };
    let mut machine = world.add_machine("kasse-1");
    disk.fill();
    for _ in 0..10 {
        let said = world.technician(&["diagnose", "kasse-1", "--section", "memory"]);
        assert!(matches!(said.code, 0 | 1), "{}", said.err);
    }
    // Even one that is started again with its disk full.
    machine.agent.kill_9();
    machine.restart();
    wait_until("it is linked again", || world.is_online("kasse-1"));
    let said = world.technician(&["diagnose", "kasse-1", "--section", "memory"]);
    assert!(matches!(said.code, 0 | 1), "{}", said.err);
    assert_eq!(machine.journal().len(), 1 + 2 * 11);
    drop(machine);
    drop(disk);
}

#[test]
fn a_full_disk_does_not_keep_out_the_small_script_that_would_free_it() {
    let world = World::new();
    let Some(disk) = SmallDisk::mount(&world.path().join("kasse-1"), 24) else { return };
    let machine = world.add_machine("kasse-1");
    std::fs::write(machine.home.join("policy.toml"), "[look]\nmode = \"allow\"\n[act]\nmode = \"allow\"\n")
        .expect("written");
    world.approve_all(&[Script::new("frees", "echo freed\n")]);
    wait_until("it follows what was published", || machine.agent.log().contains("following a newer catalogue"));
    // Its file has not been fetched yet.
    disk.fill();
    let said = world.technician(&["run", "frees", "kasse-1", "--reason", "Platte voll"]).exits(0);
    assert!(said.out.contains("freed"), "{}", said.out);
    drop(machine);
    drop(disk);
}

#[test]
fn a_result_that_a_machine_cannot_save_is_told_to_whoever_waits_and_to_its_owner() {
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
    let said = machine.owner(&["--lang", "de", "status"]).exits(0);
    assert!(said.out.contains("Ein Ergebnis lässt sich hier nicht speichern"), "{}", said.out);
    // It is not told as an end, and not as well: nobody knows yet.
    let said = world.technician(&["job", "show", "1"]);
    assert!(said.out.contains("running"), "{}", said.out);
    machine.agent.kill_9();
}

#[test]
fn every_shipped_script_is_had_and_begun_on_a_disk_with_no_byte_free() {
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
        let said = world.technician(&words);
        let is_it = |(kind, body): &(String, serde_json::Value)| {
            kind == "run_started" && body["action"]["script"]["bundle"] == name
        };
        assert!(machine.journal().iter().any(is_it), "{name}: {} {}", said.out, said.err);
    }
    drop(machine);
    drop(disk);
}

#[test]
fn a_no_counts_even_where_nothing_can_be_written() {
    let world = World::new();
    let Some(disk) = SmallDisk::mount(&world.path().join("kasse-1"), 24) else { return };
    let machine = world.add_machine("kasse-1");
    world.approve(&Script::new("mend", "echo mended\n"));
    // What is under way when the disk fills may give blocks back.
    wait_until("it follows what was published", || machine.agent.log().contains("following a newer catalogue"));
    // An owner's word needs a new block; the state store has some to spare, until
    // these are written full, too.
    disk.fill();
    let said = machine.owner(&["--lang", "de", "pause"]).exits(5);
    assert!(said.err.contains("FW-OWN-17") && said.err.contains("Ihre Entscheidung gilt jetzt"), "{}", said.err);
    let said = world.technician(&["diagnose", "kasse-1"]).exits(3);
    assert!(said.err.contains("FW-OWN-05"), "{}", said.err);
    // What loosens counts only once it is written.
    let said = machine.owner(&["resume"]).exits(5);
    assert!(said.err.contains("FW-OWN-15"), "{}", said.err);
    world.technician(&["diagnose", "kasse-1"]).exits(3);
    let said = machine.owner(&["allow", "repair", "--for", "2h"]).exits(5);
    assert!(said.err.contains("FW-OWN-15"), "{}", said.err);
    disk.empty();
    machine.owner(&["resume"]).exits(0);
    let said = world.technician(&["diagnose", "kasse-1", "--section", "memory"]);
    assert!(matches!(said.code, 0 | 1), "{}", said.err);
    drop(machine);
    drop(disk);
}

#[test]
fn a_machine_whose_clock_is_a_year_off_is_still_diagnosed_and_told_so() {
    let world = World::new();
    for (name, offset) in [("kasse-1", "+366d"), ("kasse-2", "-366d")] {
        let mut machine = world.add_machine(name);
        machine.agent.stop();
        if !machine.restart_at(offset) {
            return;
        }
        wait_until("it is linked", || world.is_online(name));
        let said = world.technician(&["diagnose", name, "-o", "jsonl", "--section", "time"]).exits(1);
        let result = &said.json_lines()[0];
        let findings = result["report"]["findings"].as_array().expect("findings");
        let off = findings.iter().find(|finding| finding["id"] == "time.off").expect("the finding time.off");
        assert_eq!(off["severity"], "crit");
        let ahead = result["report"]["sections"]["time"]["facts"]["ahead_of_hub_s"].as_f64().expect("a number");
        assert!((ahead.abs() - 366.0 * 86_400.0).abs() < 3600.0, "{ahead}");
    }
}

#[test]
fn every_code_that_an_owner_may_read_can_be_explained() {
    let source = include_str!("../../agent/src/owner/user_error.rs");
    let codes: std::collections::BTreeSet<&str> =
        source.split('"').filter(|word| word.starts_with("FW-") && word.len() > 8).collect();
    assert!(codes.len() > 10, "{codes:?}");
    for code in codes {
        let said = run(&mut staff_command(std::path::Path::new("/nonexistent"), &["help", code])).exits(0);
        assert!(said.out.contains(code) && said.out.contains("now:"), "{}", said.out);
    }
}

#[test]
fn an_agent_whose_state_store_has_gone_says_so_and_begins_no_new_one() {
    let world = World::new();
    let mut machine = world.add_machine("kasse-1");
    let (store, aside) = (machine.home.join("books.redb"), machine.home.join("aside"));
    machine.owner(&["check"]).exits(0);
    std::fs::rename(&store, &aside).expect("moved");
    // Under its hands: what it writes from now on nobody would find again.
    let said = machine.owner(&["--lang", "de", "check"]).exits(1);
    assert!(said.out.contains("NICHT OK  die Aufzeichnungen") && said.out.contains("books.redb"), "{}", said.out);
    let said = world.technician(&["diagnose", "kasse-1"]).exits(3);
    assert!(said.err.contains("FW-GATE-15"), "{}", said.err);
    machine.agent.stop();
    // With an empty ledger, what it has done could be done once more.
    let refuses = |machine: &Machine| {
        for words in [&["run"][..], &["status"], &["journal"]] {
            let said = machine.owner(&[&["--lang", "de"], words].concat()).exits(5);
            assert!(said.err.contains("FW-OWN-22") && said.err.contains("books.redb"), "{words:?}: {}", said.err);
        }
        let said = machine.owner(&["--lang", "de", "check"]).exits(1);
        assert!(said.out.contains("NICHT OK  die Aufzeichnungen"), "{}", said.out);
        assert!(said.out.contains("books.redb"), "{}", said.out);
    };
    refuses(&machine);
    assert!(!store.exists());
    // Nor does a state store in which nothing stands belong to a machine that has joined.
    write_own(&store, &[]);
    refuses(&machine);
    assert_eq!(std::fs::read(&store).expect("read"), b"");
    let line = world.invitation(&["Bäckerei Meyer"]);
    let said = machine.owner(&["--lang", "de", "enroll", &line, "--policy", "ask", "--no-service"]).exits(5);
    assert!(said.err.contains("FW-OWN-22"), "{}", said.err);
    std::fs::rename(&aside, &store).expect("moved back");
    machine.restart();
    wait_until("it is linked again", || world.is_online("kasse-1"));
}

#[test]
fn an_owner_is_told_what_holds_and_a_second_agent_that_one_is_running() {
    let world = World::new();
    let machine = world.add_machine("kasse-1");
    let said = machine.owner(&["--lang", "de", "run"]).exits(2);
    assert!(said.err.contains("FW-OWN-20") && said.err.contains("läuft hier schon"), "{}", said.err);
    machine.owner(&["allow", "repair", "--for", "2h"]).exits(0);
    let said = machine.owner(&["--lang", "de", "status"]).exits(0);
    assert!(said.out.contains("reparieren: ja, bis "), "{}", said.out);
    // Where the rules say never, no yes changes that.
    std::fs::write(machine.home.join("policy.toml"), "[look]\nmode = \"allow\"\n[act]\nmode = \"never\"\n")
        .expect("written");
    let said = machine.owner(&["--lang", "de", "status"]).exits(0);
    assert!(said.out.contains("reparieren: nie"), "{}", said.out);
    std::fs::write(machine.home.join("policy.toml"), "[look]\nmode = \"allow\"\n[act]\nmode = \"ask\"\n")
        .expect("written");
    machine.owner(&["pause", "--for", "2"]).exits(2);
    machine.owner(&["pause", "--for", "2h"]).exits(0);
    let said = machine.owner(&["--lang", "de", "allow", "repair", "--for", "1h"]).exits(0);
    assert!(said.out.contains("das gilt erst nach:  fernwart-agent resume"), "{}", said.out);
    let said = machine.owner(&["--lang", "de", "status"]).exits(0);
    assert!(said.out.contains("reparieren: nur mit Ihrer Zustimmung"), "{}", said.out);
    let said = world.owner_in("kasse-9", &["--lang", "de", "enroll", "fw1-x", "--policy", "nosuch"]).exits(2);
    assert!(said.err.contains("FW-JOIN-21"), "{}", said.err);
    let line = world.invitation(&["Praxis Petersen"]);
    let said = world.owner_in("kasse-9", &["--lang", "de", "enroll", &line, "--policy", "nosuch"]).exits(2);
    assert!(said.err.contains("FW-OWN-11") && said.err.contains("nosuch"), "{}", said.err);
    // Who waits to be admitted can have the words once more.
    let enroll = || {
        let words = ["--lang", "de", "enroll", &line, "--policy", "ask", "--no-service"];
        world.owner_in("kasse-9", &words).exits(0).out
    };
    let (first, again) = (enroll(), enroll());
    let words = |said: &str| said.lines().find(|line| line.contains("diese Wörter")).map(str::to_owned);
    assert!(words(&first).is_some() && words(&first) == words(&again), "{first}{again}");
    assert!(again.contains("schon angemeldet"), "{again}");
    // Another customer's invitation, another shop's, and a second window.
    for other in [world.invitation(&["Bäckerei Meyer"]), World::new().invitation(&["Praxis Petersen"])] {
        let said = world.owner_in("kasse-9", &["--lang", "de", "enroll", &other, "--policy", "ask"]).exits(2);
        assert!(said.err.contains("FW-JOIN-27") && said.err.contains("für jemand anderen"), "{}", said.err);
        assert!(said.err.contains("(Praxis Petersen)"), "{}", said.err);
    }
    let folder = world.path().join("kasse-10");
    std::fs::create_dir(&folder).expect("made");
    let held = std::fs::File::open(&folder).expect("opened");
    held.lock().expect("held");
    let said = world.owner_in("kasse-10", &["--lang", "de", "enroll", &line, "--policy", "ask"]).exits(2);
    assert!(said.err.contains("FW-JOIN-28") && said.err.contains("in einem anderen Fenster"), "{}", said.err);
    // What it has left may be anybody's, where it cannot be read.
    std::fs::write(world.path().join("kasse-9/agent.toml"), "customer = ").expect("written");
    let said = world.owner_in("kasse-9", &["--lang", "de", "enroll", &line, "--policy", "ask"]).exits(5);
    assert!(said.err.contains("FW-OWN-27") && said.err.contains("agent.toml"), "{}", said.err);
    // And where it is gone, the records still know for whom it has joined.
    std::fs::remove_file(world.path().join("kasse-9/agent.toml")).expect("removed");
    std::fs::write(world.path().join("kasse-9/evidence.key.0123456789abcdef.new"), "half").expect("written");
    let other = world.invitation(&["Bäckerei Meyer"]);
    let words =
        |line: &str| world.owner_in("kasse-9", &["--lang", "de", "enroll", line, "--policy", "ask", "--no-service"]);
    let said = words(&other).exits(2);
    assert!(said.err.contains("FW-JOIN-27"), "{}", said.err);
    words(&line).exits(0);
    assert!(!world.path().join("kasse-9/evidence.key.0123456789abcdef.new").exists(), "half a key is cleared away");

    let said = machine.owner(&["--lang", "de", "journal"]).exits(0);
    assert!(said.out.contains("Sie haben entschieden: alles angehalten"), "{}", said.out);
    world.technician(&["retire", "kasse-1", "--yes=kasse-1"]).exits(0);
    let says = || machine.owner(&["--lang", "de", "status"]).exits(0).out;
    wait_until("it is told", || says().contains("Nordlicht IT hat die Betreuung dieses Rechners am "));
}
