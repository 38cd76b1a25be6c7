//! Security-relevant files that others can change: policy, consent, records, keys; and files of another
//! machine.

use fernwart_tests::test_script::Script;
use fernwart_tests::{Machine, Process, World, agent_command, run, staff_command, wait_until};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

fn mode(path: &Path, bits: u32) {
    std::fs::set_permissions(path, PermissionsExt::from_mode(bits)).expect("set");
}

/// A folder for a script's effects, outside `/tmp`: a caged script has a `/tmp` of its own.
fn effects() -> tempfile::TempDir {
    tempfile::tempdir_in("/srv").expect("a folder")
}

/// Approves a script that leaves a mark there, and allows it at any time.
fn marked(world: &World, machine: &Machine, place: &Path) {
    let script = Script::new("leaves-a-mark", &format!("echo x >> {}/mark\n", place.display()));
    world.approve(&script.with(&format!("writes = [{:?}]", place.to_str().expect("text"))));
    trusting(machine);
}

fn trusting(machine: &Machine) {
    let rules = machine.home.join("policy.toml");
    let _ = std::fs::remove_file(&rules);
    std::fs::write(&rules, "[look]\nmode = \"allow\"\n[act]\nmode = \"allow\"\n").expect("written");
    mode(&rules, 0o600);
}

#[test]
fn a_policy_that_others_can_write_allows_only_diagnosis() {
    let world = World::new();
    let machine = world.add_machine("kasse-1");
    let place = effects();
    marked(&world, &machine, place.path());
    let mark = place.path().join("mark");
    let (home, rules) = (machine.home.clone(), machine.home.join("policy.toml"));
    let aside = world.path().join("aside.toml");
    let order = || world.technician(&["run", "leaves-a-mark", "kasse-1", "--reason", "Probe"]);
    order().exits(0);
    let done = || std::fs::read_to_string(&mark).map(|text| text.lines().count()).unwrap_or_default();
    assert_eq!(done(), 1, "such rules allow it");
    let evils: [(&str, &dyn Fn()); 8] = [
        ("anybody may write", &|| mode(&rules, 0o666)),
        ("a group may write", &|| mode(&rules, 0o620)),
        ("another account's", &|| std::os::unix::fs::chown(&rules, Some(65534), None).expect("given away")),
        ("a link", &|| {
            std::fs::rename(&rules, &aside).expect("moved");
            symlink(&aside, &rules).expect("linked");
        }),
        ("endless", &|| {
            let file = std::fs::File::options().write(true).open(&rules).expect("opened");
            file.set_len(300 * 1024 * 1024).expect("grown");
        }),
        ("a pipe", &|| {
            std::fs::remove_file(&rules).expect("removed");
            run(std::process::Command::new("mkfifo").arg(&rules)).exits(0);
        }),
        ("gone", &|| std::fs::remove_file(&rules).expect("removed")),
        ("anybody may exchange it", &|| mode(&home, 0o777)),
    ];
    for (what, evil) in evils {
        evil();
        let output = order().exits(3);
        assert!(output.err.contains("FW-OWN-04") || output.out.contains("FW-OWN-04"), "{what}: {output:?}");
        assert_eq!(done(), 1, "{what}");
        // Diagnosis still works, and the owner is shown what is wrong.
        let looked = world.technician(&["diagnose", "kasse-1", "--section", "memory"]);
        assert!(matches!(looked.code, 0 | 1), "{what}: {looked:?}");
        let status = machine.owner(&["--lang", "de", "status"]);
        let check = machine.owner(&["--lang", "en", "check"]);
        if what.contains("exchange") {
            // No file in that folder is trusted, not even the machine's identity.
            assert!(status.code == 5 && status.err.contains("FW-OWN-24") && check.code == 5, "{what}: {status:?}");
        } else {
            assert!(status.code == 0 && status.out.contains("Höchstens prüfen"), "{what}: {status:?}");
            assert!(check.code == 1 && check.out.contains("NOT OK    your rules"), "{what}: {check:?}");
        }
        mode(&home, 0o700);
        trusting(&machine);
    }
    order().exits(0);
    assert_eq!(done(), 2, "and all is well again");
}

#[test]
fn tampering_with_the_owners_file_does_not_end_a_pause() {
    let world = World::new();
    let mut machine = world.add_machine("kasse-1");
    let place = effects();
    marked(&world, &machine, place.path());
    machine.owner(&["pause"]).exits(0);
    let word = machine.home.join("owner.json");
    let refused = |machine: &mut Machine, what: &str| {
        machine.agent.stop();
        machine.restart();
        wait_until("it is back", || world.is_online("kasse-1"));
        let output = world.technician(&["run", "leaves-a-mark", "kasse-1", "--reason", "Probe"]);
        assert!(output.code == 3 && format!("{output:?}").contains("FW-OWN-05"), "{what}: {output:?}");
    };
    let nothing = "{\"allows_until\": 9223372036854775807}";
    std::fs::write(&word, nothing).expect("written");
    mode(&word, 0o666);
    refused(&mut machine, "anybody may write it");
    mode(&word, 0o600);
    std::os::unix::fs::chown(&word, Some(65534), None).expect("given away");
    refused(&mut machine, "another account's");
    std::fs::remove_file(&word).expect("removed");
    let aside = world.path().join("aside.json");
    std::fs::write(&aside, nothing).expect("written");
    symlink(&aside, &word).expect("linked");
    refused(&mut machine, "a link");
    // The owner's next decision is valid again.
    machine.owner(&["resume"]).exits(0);
    world.technician(&["run", "leaves-a-mark", "kasse-1", "--reason", "Probe"]).exits(0);
}

/// Starts the agent, and asserts that it exits with this code and names this file.
fn does_not_start(machine: &Machine, code: &str, file: &str) {
    let mut command = machine.command(&["run"]);
    let log = machine.home.with_extension("evil.log");
    let mut agent = Process::start(&mut command, &log);
    wait_until("the agent has ended", || !agent.is_running());
    let output = agent.log();
    assert!(output.contains(code) && output.contains(file), "{file}: {output}");
    std::fs::remove_file(&log).expect("removed");
}

#[test]
fn an_agent_refuses_to_start_with_files_that_others_can_change() {
    let world = World::new();
    let mut machine = world.add_machine("kasse-1");
    machine.agent.stop();
    for name in ["agent.toml", "books.redb", "evidence.key", "sealing.key", "tls.identity"] {
        let path = machine.home.join(name);
        for evil in ["mode", "owner", "link", "folder"] {
            let aside = world.path().join("aside");
            match evil {
                "mode" => mode(&path, 0o666),
                "owner" => std::os::unix::fs::chown(&path, Some(65534), None).expect("given away"),
                "link" => {
                    std::fs::rename(&path, &aside).expect("moved");
                    symlink(&aside, &path).expect("linked");
                }
                _ => mode(&machine.home, 0o777),
            }
            let named = if evil == "folder" { machine.home.to_str().expect("text") } else { name };
            does_not_start(&machine, "FW-OWN-24", named);
            let check = machine.owner(&["check"]);
            assert!(check.code != 0, "{name} {evil}: {check:?}");
            mode(&machine.home, 0o700);
            if evil == "link" {
                std::fs::rename(&aside, &path).expect("put back");
            }
            std::os::unix::fs::chown(&path, Some(0), None).expect("taken back");
            mode(&path, 0o600);
        }
    }
    machine.restart();
    wait_until("it is back", || world.is_online("kasse-1"));
}

#[test]
fn an_agent_refuses_to_start_with_foreign_or_corrupted_files() {
    let world = World::new();
    let mut machine = world.add_machine("kasse-1");
    let mut other = world.add_machine("kasse-2");
    // Both have done something, so that their records hold receipts.
    for name in ["kasse-1", "kasse-2"] {
        let looked = world.technician(&["diagnose", name, "--section", "memory"]);
        assert!(matches!(looked.code, 0 | 1), "{looked:?}");
    }
    machine.agent.stop();
    other.agent.stop();
    wait_until("both are away", || !world.is_online("kasse-1") && !world.is_online("kasse-2"));
    let names = ["agent.toml", "books.redb", "evidence.key", "sealing.key", "tls.identity"];
    for name in names {
        let (path, foreign) = (machine.home.join(name), other.home.join(name));
        let own = std::fs::read(&path).expect("read");
        let theirs = std::fs::read(&foreign).expect("read");
        assert_ne!(own, theirs, "{name} is another");
        std::fs::write(&path, theirs).expect("written");
        does_not_start(&machine, "FW-OWN-25", name);
        let check = machine.owner(&["check"]);
        assert!(check.code == 1 && check.out.contains(name), "{name}: {check:?}");
        std::fs::write(&path, &own).expect("put back");
    }
    // One bit of a key: another key, or none.
    for (name, at) in [("evidence.key", 40), ("sealing.key", 9), ("tls.identity", 60)] {
        let path = machine.home.join(name);
        let own = std::fs::read(&path).expect("read");
        let mut flipped = own.clone();
        flipped[at] ^= 1;
        std::fs::write(&path, flipped).expect("written");
        does_not_start(&machine, "FW-OWN-2", name);
        let check = machine.owner(&["check"]);
        assert!(check.code == 1 && check.out.contains(name), "{name}: {check:?}");
        std::fs::write(&path, &own).expect("put back");
    }
    // A complete copy of another machine's files would be that machine; two of its files are refused.
    for name in ["evidence.key", "tls.identity"] {
        std::fs::copy(other.home.join(name), machine.home.join(name)).expect("copied");
    }
    does_not_start(&machine, "FW-OWN-25", "");
    assert!(!world.is_online("kasse-1") && !world.is_online("kasse-2"), "nobody has linked by it");
    other.restart();
    wait_until("the other is as it was", || world.is_online("kasse-2"));
}

#[test]
fn hub_and_technician_refuse_files_that_others_can_change() {
    let mut world = World::new();
    let machine = world.add_machine("kasse-1");
    let staff = world.shop().join("staff");
    for name in ["staff.toml", "catalogue.json", "order.key", "staff.identity"] {
        let path = staff.join(name);
        mode(&path, 0o622);
        let output = world.technician(&["ls"]).exits(5);
        assert!(output.err.contains("FW-CLI-04") && output.err.contains(name), "{output:?}");
        mode(&path, 0o600);
    }
    mode(&staff, 0o777);
    let output = world.technician(&["ls"]).exits(5);
    assert!(output.err.contains("FW-CLI-04") && output.err.contains("staff"), "{output:?}");
    mode(&staff, 0o700);
    world.technician(&["ls"]).exits(0);

    world.hub.stop();
    let hub = world.shop().join("hub");
    for name in ["hub.toml", "store.sqlite", "catalogue/in-force.json", "ca.key", "hub.evidence.key"] {
        let path = hub.join(name);
        if !path.exists() {
            continue;
        }
        let before = std::fs::metadata(&path).expect("there").permissions().mode() & 0o7777;
        mode(&path, 0o666);
        let output = run(&mut staff_command(&world.shop(), &["serve"]));
        assert!(output.code == 3 && output.err.contains(name), "{name}: {output:?}");
        mode(&path, before);
    }
    world.restart_hub();
    wait_until("the machine is back", || world.is_online(&machine.name));
    // The owner's commands still work.
    let output = run(agent_command(&machine.home, &["status"]).env("LANG", "C.UTF-8"));
    assert_eq!(output.code, 0, "{output:?}");
}

#[test]
fn a_running_agent_refuses_acts_when_its_records_are_tampered_with() {
    let world = World::new();
    let mut machine = world.add_machine("kasse-1");
    let place = effects();
    marked(&world, &machine, place.path());
    let store = Machine::store(&machine.home);
    let order = || world.technician(&["run", "leaves-a-mark", "kasse-1", "--reason", "Probe"]);
    let done = || std::fs::read_to_string(place.path().join("mark")).map(|text| text.lines().count());
    order().exits(0);
    assert_eq!(done().expect("there"), 1);
    for (what, evil, mend) in [("open to others", 0o666, 0o600), ("a group may write", 0o620, 0o600)] {
        mode(&store, evil);
        let output = order();
        assert!(output.code != 0 && done().expect("there") == 1, "{what}: {output:?}");
        let check = machine.owner(&["check"]);
        assert!(check.code != 0 && check.out.contains("books.redb"), "{what}: {check:?}");
        mode(&store, mend);
    }
    order().exits(0);
    assert_eq!(done().expect("there"), 2, "what is put right goes on");
    // Truncated in place.
    std::fs::File::create(&store).expect("emptied");
    let output = order();
    assert!(output.code != 0 && done().expect("there") == 2, "{output:?}");
    let check = machine.owner(&["check"]);
    assert!(check.code != 0 && check.out.contains("books.redb"), "{check:?}");
    machine.agent.kill_9();
}

#[test]
fn a_running_agent_refuses_acts_when_its_keys_are_replaced() {
    let world = World::new();
    let machine = world.add_machine("kasse-1");
    let other = world.add_machine("kasse-2");
    let place = effects();
    marked(&world, &machine, place.path());
    let order = || world.technician(&["run", "leaves-a-mark", "kasse-1", "--reason", "Probe"]);
    let done = || std::fs::read_to_string(place.path().join("mark")).map(|text| text.lines().count());
    order().exits(0);
    for (times, name) in ["evidence.key", "sealing.key", "tls.identity", "agent.toml"].into_iter().enumerate() {
        let file = machine.home.join(name);
        let kept = std::fs::read(&file).expect("there");
        std::fs::write(&file, std::fs::read(other.home.join(name)).expect("there")).expect("exchanged");
        let output = order();
        assert!(output.code != 0 && output.out.contains("FW-GATE-22"), "{name}: {output:?}");
        assert_eq!(done().expect("there"), times + 1, "{name}");
        let check = machine.owner(&["check"]);
        assert!(check.code != 0 && check.out.contains(name), "{name}: {check:?}");
        assert!(machine.agent.log().contains(name), "{name}: {}", machine.agent.log());
        // It can still be diagnosed.
        assert!(matches!(world.technician(&["diagnose", "kasse-1", "--section", "memory"]).code, 0 | 1), "{name}");
        std::fs::write(&file, kept).expect("put back");
        order().exits(0);
    }
}

#[test]
fn a_home_with_another_technicians_order_key_is_refused() {
    let world = World::new();
    let _machine = world.add_machine("kasse-1");
    let robot = world.add_robot("Bäckerei Meyer");
    let (own, other) = (world.shop().join("staff/order.key"), robot.join("staff/order.key"));
    let kept = std::fs::read(&own).expect("a key");
    std::fs::write(&own, std::fs::read(&other).expect("a key")).expect("exchanged");
    for words in [&["ls"][..], &["doctor"], &["diagnose", "kasse-1"]] {
        let output = world.technician(words).exits(3);
        assert!(output.err.contains("order.key") && output.err.contains("FW-CLI-03"), "{output:?}");
    }
    std::fs::write(&own, kept).expect("put back");
    world.technician(&["ls"]).exits(0);
}

#[test]
fn a_hub_with_a_missing_or_foreign_store_refuses_to_start() {
    let mut world = World::new();
    let _machine = world.add_machine("kasse-1");
    world.hub.stop();
    let mut other = World::new();
    other.hub.stop();
    let hub = world.shop().join("hub");
    let store = hub.join("store.sqlite");
    let (kept, foreign) = (world.path().join("kept"), other.shop().join("hub/store.sqlite"));
    std::fs::copy(&store, &kept).expect("kept");
    for beside in ["store.sqlite-wal", "store.sqlite-shm"] {
        let _ = std::fs::remove_file(hub.join(beside));
    }
    let serve = || {
        let mut command = std::process::Command::new("timeout");
        command.arg("20").arg(fernwart_tests::program("fernwart")).arg("--home").arg(world.shop()).arg("serve");
        run(&mut command)
    };
    let evils: [(&str, &dyn Fn()); 4] = [
        ("damaged", &|| std::fs::write(&store, [0xa5; 300]).expect("damaged")),
        ("emptied", &|| drop(std::fs::File::create(&store).expect("emptied"))),
        ("gone", &|| std::fs::remove_file(&store).expect("removed")),
        ("another shop's", &|| assert!(std::fs::copy(&foreign, &store).expect("exchanged") > 0)),
    ];
    for (what, evil) in evils {
        evil();
        let output = serve().exits(3);
        assert!(output.err.contains("FW-HUB-36") && output.err.contains("store.sqlite"), "{what}: {output:?}");
        assert!(output.err.contains("fernwart restore"), "{what}: {output:?}");
        std::fs::copy(&kept, &store).expect("put back");
        mode(&store, 0o600);
    }
    // A pipe in place of a file does not make the hub hang.
    let staff = hub.join("catalogue/staff.json");
    let text = std::fs::read(&staff).expect("there");
    std::fs::remove_file(&staff).expect("removed");
    run(std::process::Command::new("mkfifo").arg(&staff)).exits(0);
    let output = serve();
    assert!(![0, 124].contains(&output.code), "{output:?}");
    std::fs::remove_file(&staff).expect("removed");
    std::fs::write(&staff, text).expect("put back");
    world.restart_hub();
    world.technician(&["ls"]).exits(0);
}

#[test]
fn control_characters_in_input_never_reach_the_terminal() {
    let world = World::new();
    let machine = world.add_machine("kasse-1");
    let evil = "a\u{1b}[31mb\u{202e}c\u{fffc}";
    let is_plain = |output: &fernwart_tests::CommandOutput| {
        let all = [output.out.as_str(), output.err.as_str()].concat();
        assert!(!all.is_empty() && !all.contains(['\u{1b}', '\u{202e}', '\u{fffc}']), "{output:?}");
    };
    for words in [
        &["run", evil, "kasse-1", "--reason", "x"][..],
        &[evil],
        &["rename", evil, "x"],
        &["job", "show", evil],
        &["script", "lint", evil],
        &["help", evil],
        &["journal", "verify", evil],
    ] {
        let output = world.technician(words);
        assert_ne!(output.code, 0, "{words:?}");
        is_plain(&output);
    }
    let rules = "[look]\nmode = \"allow\"\n[act]\nmode = \"a\\u001b[31mb\u{202e}\"\n";
    std::fs::write(machine.home.join("policy.toml"), rules).expect("written");
    for words in [&["policy", "check"][..], &["check"], &[evil], &["allow", "repair", "--for", evil]] {
        let output = machine.owner(words);
        assert_ne!(output.code, 0, "{words:?}");
        is_plain(&output);
    }
    for span in ["999999999d", "10000000d", "2y"] {
        let output = machine.owner(&["allow", "repair", "--for", span]);
        assert_ne!(output.code, 0, "{span}: {output:?}");
    }
}

#[test]
fn enrolling_with_an_unsafe_folder_or_endless_policy_spends_no_invitation() {
    let world = World::new();
    let line = world.path().join("line");
    std::fs::write(&line, world.invitation(&["Bäckerei Meyer"])).expect("written");
    let line = line.to_str().expect("text");
    let enroll = |home: &Path, policy: &str| {
        let words = ["enroll", "--invitation", line, "--policy", policy, "--no-service"];
        run(&mut fernwart_tests::agent_command(home, &words))
    };
    let open = world.path().join("open");
    std::fs::create_dir(&open).expect("made");
    mode(&open, 0o777);
    let output = enroll(&open, "ask");
    assert!(output.code != 0 && output.err.contains("FW-OWN-24") && output.err.contains("open"), "{output:?}");
    assert_eq!(std::fs::read_dir(&open).expect("there").count(), 0, "no key lies there");
    let home = world.path().join("home");
    let output = enroll(&home, "/dev/zero");
    assert!(output.code != 0 && output.err.contains("FW-CLI-10"), "{output:?}");
    enroll(&home, "ask").exits(0);
    assert_eq!(world.technician(&["pending", "-o", "name"]).exits(0).out.lines().count(), 1, "and nobody else waits");
    let key = run(&mut fernwart_tests::staff_command(&open, &["approver", "new"]));
    assert!(key.code != 0 && !open.join("approver").join("approver.key").exists(), "{key:?}");
}

#[test]
fn a_hub_whose_lock_is_no_plain_file_does_not_wait_for_it() {
    let mut world = World::new();
    world.hub.stop();
    let (lock, victim) = (world.shop().join("hub/lock"), world.path().join("victim"));
    let serve = || {
        let mut command = std::process::Command::new("timeout");
        command.arg("20").arg(fernwart_tests::program("fernwart")).arg("--home").arg(world.shop()).arg("serve");
        run(&mut command)
    };
    std::fs::remove_file(&lock).expect("removed");
    assert!(std::process::Command::new("mkfifo").arg(&lock).status().is_ok_and(|status| status.success()));
    let output = serve().exits(3);
    assert!(output.err.contains("is not a plain file") && output.err.contains("FW-HUB-23"), "{output:?}");
    std::fs::remove_file(&lock).expect("removed");
    std::os::unix::fs::symlink(&victim, &lock).expect("a link");
    let output = serve().exits(3);
    assert!(output.err.contains("is not a plain file") && !victim.exists(), "{output:?}");
    std::fs::remove_file(&lock).expect("removed");
    world.restart_hub();
}
