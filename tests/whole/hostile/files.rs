//! Files that decide something, in hands that are not their owner's: rules, consent,
//! records, keys; and files of another machine.

use fernwart_tests::test_script::Script;
use fernwart_tests::{Machine, Process, World, agent_command, run, staff_command, wait_until};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

fn mode(path: &Path, bits: u32) {
    std::fs::set_permissions(path, PermissionsExt::from_mode(bits)).expect("set");
}

/// Where a script leaves its marks; a caged one has a `/tmp` of its own.
fn effects() -> tempfile::TempDir {
    tempfile::tempdir_in("/srv").expect("a folder")
}

/// A script that leaves a mark there, allowed at any time.
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
fn rules_that_others_may_have_written_allow_nothing_but_diagnosis() {
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
        let said = order().exits(3);
        assert!(said.err.contains("FW-OWN-04") || said.out.contains("FW-OWN-04"), "{what}: {said:?}");
        assert_eq!(done(), 1, "{what}");
        // Looking goes on, and its owner reads what is wrong.
        let looked = world.technician(&["diagnose", "kasse-1", "--section", "memory"]);
        assert!(matches!(looked.code, 0 | 1), "{what}: {looked:?}");
        let status = machine.owner(&["--lang", "de", "status"]);
        let check = machine.owner(&["--lang", "en", "check"]);
        if what.contains("exchange") {
            // Nothing that lies there is believed, not even whose machine it is.
            assert!(status.code == 5 && status.err.contains("FW-OWN-24") && check.code == 5, "{what}: {status:?}");
        } else {
            assert!(status.code == 0 && status.out.contains("Nur prüfen"), "{what}: {status:?}");
            assert!(check.code == 1 && check.out.contains("NOT OK    your rules"), "{what}: {check:?}");
        }
        mode(&home, 0o700);
        trusting(&machine);
    }
    order().exits(0);
    assert_eq!(done(), 2, "and all is well again");
}

#[test]
fn a_pause_is_not_ended_by_whoever_may_write_where_it_stands() {
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
        let said = world.technician(&["run", "leaves-a-mark", "kasse-1", "--reason", "Probe"]);
        assert!(said.code == 3 && format!("{said:?}").contains("FW-OWN-05"), "{what}: {said:?}");
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
    // What its owner says is believed again.
    machine.owner(&["resume"]).exits(0);
    world.technician(&["run", "leaves-a-mark", "kasse-1", "--reason", "Probe"]).exits(0);
}

/// Starts the agent, which must end by itself and name a file.
fn does_not_start(machine: &Machine, code: &str, file: &str) {
    let mut command = machine.command(&["run"]);
    let log = machine.home.with_extension("evil.log");
    let mut agent = Process::start(&mut command, &log);
    wait_until("the agent has ended", || !agent.is_running());
    let said = agent.log();
    assert!(said.contains(code) && said.contains(file), "{file}: {said}");
    std::fs::remove_file(&log).expect("removed");
}

#[test]
fn an_agent_whose_files_others_may_change_does_not_start_and_names_the_file() {
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
fn an_agent_with_files_of_another_machine_or_a_flipped_bit_does_nothing_and_names_the_file() {
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
    // All of another machine is that machine; but not two of its files.
    for name in ["evidence.key", "tls.identity"] {
        std::fs::copy(other.home.join(name), machine.home.join(name)).expect("copied");
    }
    does_not_start(&machine, "FW-OWN-25", "");
    assert!(!world.is_online("kasse-1") && !world.is_online("kasse-2"), "nobody has linked by it");
    other.restart();
    wait_until("the other is as it was", || world.is_online("kasse-2"));
}

#[test]
fn a_hub_and_a_technician_believe_no_file_that_others_may_change() {
    let mut world = World::new();
    let machine = world.add_machine("kasse-1");
    let staff = world.shop().join("staff");
    for name in ["staff.toml", "catalogue.json", "order.key", "staff.identity"] {
        let path = staff.join(name);
        mode(&path, 0o622);
        let said = world.technician(&["ls"]).exits(5);
        assert!(said.err.contains("FW-CLI-04") && said.err.contains(name), "{said:?}");
        mode(&path, 0o600);
    }
    mode(&staff, 0o777);
    let said = world.technician(&["ls"]).exits(5);
    assert!(said.err.contains("FW-CLI-04") && said.err.contains("staff"), "{said:?}");
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
        let said = run(&mut staff_command(&world.shop(), &["serve"]));
        assert!(said.code == 3 && said.err.contains(name), "{name}: {said:?}");
        mode(&path, before);
    }
    world.restart_hub();
    wait_until("the machine is back", || world.is_online(&machine.name));
    // An account that may pass through the folder still reads nothing in it.
    let said = run(agent_command(&machine.home, &["status"]).env("LANG", "C.UTF-8"));
    assert_eq!(said.code, 0, "{said:?}");
}

#[test]
fn records_that_are_taken_from_under_a_running_agent_end_its_acts() {
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
        let said = order();
        assert!(said.code != 0 && done().expect("there") == 1, "{what}: {said:?}");
        let check = machine.owner(&["check"]);
        assert!(check.code != 0 && check.out.contains("books.redb"), "{what}: {check:?}");
        mode(&store, mend);
    }
    order().exits(0);
    assert_eq!(done().expect("there"), 2, "what is put right goes on");
    // Written over in place.
    std::fs::File::create(&store).expect("emptied");
    let said = order();
    assert!(said.code != 0 && done().expect("there") == 2, "{said:?}");
    let check = machine.owner(&["check"]);
    assert!(check.code != 0 && check.out.contains("books.redb"), "{check:?}");
    machine.agent.kill_9();
}

#[test]
fn keys_that_are_exchanged_under_a_running_agent_end_its_acts() {
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
        let said = order();
        assert!(said.code != 0 && said.out.contains("FW-GATE-22"), "{name}: {said:?}");
        assert_eq!(done().expect("there"), times + 1, "{name}");
        let check = machine.owner(&["check"]);
        assert!(check.code != 0 && check.out.contains(name), "{name}: {check:?}");
        assert!(machine.agent.log().contains(name), "{name}: {}", machine.agent.log());
        // It still says how it is.
        assert!(matches!(world.technician(&["diagnose", "kasse-1", "--section", "memory"]).code, 0 | 1), "{name}");
        std::fs::write(&file, kept).expect("put back");
        order().exits(0);
    }
}

#[test]
fn a_home_of_two_people_does_nothing() {
    let world = World::new();
    let _machine = world.add_machine("kasse-1");
    let robot = world.add_robot("Bäckerei Meyer");
    let (own, other) = (world.shop().join("staff/order.key"), robot.join("staff/order.key"));
    let kept = std::fs::read(&own).expect("a key");
    std::fs::write(&own, std::fs::read(&other).expect("a key")).expect("exchanged");
    for words in [&["ls"][..], &["doctor"], &["diagnose", "kasse-1"]] {
        let said = world.technician(words).exits(3);
        assert!(said.err.contains("order.key") && said.err.contains("FW-CLI-03"), "{said:?}");
    }
    std::fs::write(&own, kept).expect("put back");
    world.technician(&["ls"]).exits(0);
}

#[test]
fn a_hub_whose_store_has_gone_or_is_anothers_does_not_begin_anew() {
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
    let evils: [(&str, &dyn Fn()); 3] = [
        ("emptied", &|| drop(std::fs::File::create(&store).expect("emptied"))),
        ("gone", &|| std::fs::remove_file(&store).expect("removed")),
        ("another shop's", &|| assert!(std::fs::copy(&foreign, &store).expect("exchanged") > 0)),
    ];
    for (what, evil) in evils {
        evil();
        let said = serve().exits(3);
        assert!(said.err.contains("FW-HUB-36") && said.err.contains("store.sqlite"), "{what}: {said:?}");
        std::fs::copy(&kept, &store).expect("put back");
        mode(&store, 0o600);
    }
    // A pipe waits for nobody.
    let staff = hub.join("catalogue/staff.json");
    let text = std::fs::read(&staff).expect("there");
    std::fs::remove_file(&staff).expect("removed");
    run(std::process::Command::new("mkfifo").arg(&staff)).exits(0);
    let said = serve();
    assert!(![0, 124].contains(&said.code), "{said:?}");
    std::fs::remove_file(&staff).expect("removed");
    std::fs::write(&staff, text).expect("put back");
    world.restart_hub();
    world.technician(&["ls"]).exits(0);
}

#[test]
fn what_was_typed_or_written_by_others_is_told_without_acting_on_the_terminal() {
    let world = World::new();
    let machine = world.add_machine("kasse-1");
    let evil = "a\u{1b}[31mb\u{202e}c\u{fffc}";
    let is_plain = |said: &fernwart_tests::CommandOutput| {
        let all = [said.out.as_str(), said.err.as_str()].concat();
        assert!(!all.is_empty() && !all.contains(['\u{1b}', '\u{202e}', '\u{fffc}']), "{said:?}");
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
        let said = world.technician(words);
        assert_ne!(said.code, 0, "{words:?}");
        is_plain(&said);
    }
    let rules = "[look]\nmode = \"allow\"\n[act]\nmode = \"a\\u001b[31mb\u{202e}\"\n";
    std::fs::write(machine.home.join("policy.toml"), rules).expect("written");
    for words in [&["policy", "check"][..], &["check"], &[evil], &["allow", "repair", "--for", evil]] {
        let said = machine.owner(words);
        assert_ne!(said.code, 0, "{words:?}");
        is_plain(&said);
    }
    for span in ["999999999d", "10000000d", "2y"] {
        let said = machine.owner(&["allow", "repair", "--for", span]);
        assert_ne!(said.code, 0, "{span}: {said:?}");
    }
}

#[test]
fn no_invitation_is_spent_on_a_folder_of_others_or_an_endless_policy() {
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
    let said = enroll(&open, "ask");
    assert!(said.code != 0 && said.err.contains("FW-OWN-24") && said.err.contains("open"), "{said:?}");
    assert_eq!(std::fs::read_dir(&open).expect("there").count(), 0, "no key lies there");
    let home = world.path().join("home");
    let said = enroll(&home, "/dev/zero");
    assert!(said.code != 0 && said.err.contains("FW-CLI-10"), "{said:?}");
    enroll(&home, "ask").exits(0);
    assert_eq!(world.technician(&["pending", "-o", "name"]).exits(0).out.lines().count(), 1, "and nobody else waits");
    let key = run(&mut fernwart_tests::staff_command(&open, &["approver", "new"]));
    assert!(key.code != 0 && !open.join("approver").join("approver.key").exists(), "{key:?}");
}
