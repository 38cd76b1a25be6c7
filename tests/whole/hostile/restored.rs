//! A hub that was restored from a backup, after something was published since.

use super::{attack, identity, incoming};
use fernwart_certs::approve::Draft;
use fernwart_client::{ClientError, Session};
use fernwart_protocol::code::Denial;
use fernwart_protocol::link::{Door, Link};
use fernwart_protocol::staff::Request;
use fernwart_protocol::text::{Blob, Text};
use fernwart_protocol::to_agent::{CatalogueFile, Control, Deliver};
use fernwart_protocol::to_hub::{Ask, GivenBack};
use fernwart_protocol::version::{Hello, tag};
use fernwart_tests::rogues::introduction;
use fernwart_tests::test_script::Script;
use fernwart_tests::{Machine, World, run, staff_command, wait_until, wait_within};
use std::time::Duration;

/// Backs the hub up; returns the path.
fn back_up(world: &World) -> String {
    let backup = world.path().join("backup").to_str().expect("text").to_owned();
    world.technician(&["backup", &backup]).exits(0);
    backup
}

/// Stops the hub and deletes its folder.
fn lose(world: &mut World) {
    world.hub.stop();
    std::fs::remove_dir_all(world.shop().join("hub")).expect("lost");
}

/// Backs the hub up, publishes something, and restores the backup.
fn go_back(world: &mut World, publish: impl FnMut(&World)) {
    go_back_with(world, publish, |_| ());
}

/// The same; `meanwhile` runs while there is no hub.
fn go_back_with(world: &mut World, mut publish: impl FnMut(&World), meanwhile: impl FnOnce(&World)) {
    let backup = back_up(world);
    publish(world);
    let after = targets(world);
    lose(world);
    meanwhile(world);
    world.technician(&["restore", &backup]).exits(0);
    assert!(targets(world) < after, "the hub has lost it");
    world.restart_hub();
}

fn follows(machine: &Machine, role: &str, version: u64) -> bool {
    let is_it =
        |(kind, body): &(String, serde_json::Value)| kind == "catalogue_followed" && body["versions"][role] == version;
    machine.journal().iter().any(is_it)
}

fn targets(world: &World) -> u64 {
    let published = world.shop().join("hub/catalogue/in-force.json");
    let text: serde_json::Value = serde_json::from_slice(&std::fs::read(published).expect("there")).expect("JSON");
    text["floors"]["targets"]["version"].as_u64().expect("a version")
}

fn timestamp(world: &World) -> u64 {
    let text = std::fs::read(world.shop().join("hub/catalogue/timestamp.json")).expect("there");
    let text: serde_json::Value = serde_json::from_slice(&text).expect("JSON");
    text["signed"]["version"].as_u64().expect("a version")
}

#[test]
fn a_restored_hub_recovers_the_newer_catalogue_from_a_technician() {
    let mut world = World::new();
    let mut machine = world.add_machine("kasse-1");
    let before = targets(&world);
    go_back(&mut world, |world| {
        world.approve(&Script::new("mend", "echo mended\n"));
        wait_until("the machine follows", || follows(&machine, "targets", before + 1));
        machine.agent.stop();
    });
    // Any command of the technician returns it.
    world.technician(&["ls"]).exits(0);
    assert_eq!(targets(&world), before + 1);
    machine.restart();
    wait_until("the machine is linked", || world.is_online("kasse-1"));
    assert!(matches!(world.technician(&["diagnose", "kasse-1", "--section", "memory"]).code, 0 | 1));
    // Publishing continues from there, also with new files of a script.
    world.approve(&Script::new("mend", "echo mended again\n").version(2));
    wait_until("the machine follows", || follows(&machine, "targets", before + 2));
    std::fs::write(machine.home.join("policy.toml"), "[look]\nmode = \"allow\"\n[act]\nmode = \"allow\"\n")
        .expect("written");
    let output = world.technician(&["run", "mend", "kasse-1", "--reason", "x"]).exits(0);
    assert!(output.out.contains("mended again"), "{output:?}");
}

#[test]
fn a_diagnose_only_key_can_return_the_catalogue_but_not_change_it() {
    let mut world = World::new();
    let mut machine = world.add_machine("kasse-1");
    machine.agent.stop();
    let robot = world.add_robot("Bäckerei Meyer");
    let robot = |words: &[&str]| run(&mut staff_command(&robot, words));
    let before = targets(&world);
    go_back(&mut world, |world| {
        world.approve(&Script::new("mend", "echo mended\n"));
        robot(&["ls"]).exits(0);
    });
    assert_eq!(targets(&world), before);
    // Evil: the same content in other bytes would be another catalogue to every machine; and without the
    // hub's snapshot it may never have been published.
    attack(async {
        let home = fernwart_client::StaffHome::open(&world.path().join("robot/staff")).expect("a home");
        let trusted = home.trusted().expect("readable").expect("a catalogue");
        let session = Session::open(home, Duration::from_secs(5)).await.expect("linked");
        let refused = async |change: &dyn Fn(&mut Draft)| {
            let mut draft = Draft::given_back(&trusted.files, trusted.floors.root.version).expect("a draft");
            change(&mut draft);
            let bytes = Blob::try_from(serde_json::to_vec(&draft).expect("written")).expect("short");
            matches!(
                session.request(&Request::PutDraft(bytes)).await,
                Err(ClientError::Denied(Denial::CatalogueRefused | Denial::BeyondRole))
            )
        };
        let text = |draft: &mut Draft, role: &str, change: &dyn Fn(&mut String)| {
            let found = draft.published.iter_mut().find(|(name, _)| name.ends_with(role));
            change(found.expect("there").1);
        };
        assert!(refused(&|draft| text(draft, ".targets.json", &|text| text.push(' '))).await);
        assert!(refused(&|draft| text(draft, ".snapshot.json", &|text| text.replace_range(.., "{}"))).await);
        assert!(refused(&|draft| draft.published.retain(|name, _| !name.ends_with(".snapshot.json"))).await);
        assert!(refused(&|draft| draft.published.clear()).await);
        assert!(refused(&|draft| drop(draft.published.insert("1.root.json".into(), "{}".into()))).await);
        assert!(refused(&|draft| drop(draft.blobs.insert(fernwart_certs::sha256(b"x"), "x".into()))).await);
        session.close().await;
    });
    assert_eq!(targets(&world), before, "nothing of it is in force");
    robot(&["ls"]).exits(0);
    assert_eq!(targets(&world), before + 1);
    world.technician(&["ls"]).exits(0);
    let output = robot(&[
        "catalogue",
        "propose",
        "--yes",
        concat!(env!("CARGO_MANIFEST_DIR"), "/../controller/scripts/disk-free"),
    ]);
    assert_ne!(output.code, 0, "a proposal of its own is refused");
}

#[test]
fn a_timestamp_from_the_future_does_not_block_a_restored_hub() {
    let mut world = World::new();
    let mut machine = world.add_machine("kasse-1");
    let before = targets(&world);
    let backup = back_up(&world);
    let older = std::fs::read(kept(&world)).expect("kept");
    // All clocks are a day ahead; then they are corrected.
    world.hub.stop();
    machine.agent.stop();
    if !world.restart_hub_at("+1d") || !machine.restart_at("+1d") {
        return;
    }
    let script = Script::new("mend", "echo mended\n").write(&world.path().join("scripts"));
    world.technician_at("+1d", &["catalogue", "propose", "--yes", script.to_str().expect("text")]).exits(0);
    wait_until("the machine follows", || follows(&machine, "targets", before + 1));
    let ahead = timestamp(&world);
    world.hub.stop();
    machine.agent.stop();
    std::fs::remove_dir_all(world.shop().join("hub")).expect("lost");
    std::fs::write(kept(&world), &older).expect("written");
    world.technician(&["restore", &backup]).exits(0);
    world.restart_hub();
    machine.restart();
    wait_until("it is given back", || targets(&world) == before + 1);
    wait_until("the machine is linked", || world.is_online("kasse-1"));
    assert!(timestamp(&world) > ahead);
    assert!(matches!(world.technician(&["diagnose", "kasse-1", "--section", "memory"]).code, 0 | 1));
}

/// Where the technician keeps the catalogue.
fn kept(world: &World) -> std::path::PathBuf {
    world.shop().join("staff/catalogue.json")
}

fn approver(world: &World, name: &str) -> (String, String) {
    let home = world.path().join(name);
    let key = run(&mut staff_command(&home, &["approver", "new"])).exits(0).out.trim().to_owned();
    (home.to_str().expect("text").to_owned(), key)
}

fn sign(world: &World, key: &str) {
    let unread = world.technician(&["catalogue", "sign", "--key", key]).exits(2);
    let id = unread.err.split("--yes ").nth(1).expect("an id").split_whitespace().next().expect("an id");
    world.technician(&["catalogue", "sign", "--key", key, "--yes", id]).exits(0);
}

#[test]
fn a_restored_hub_recovers_the_newer_catalogue_from_a_machine() {
    let mut world = World::new();
    let machine = world.add_machine("kasse-1");
    let before = targets(&world);
    let older = std::fs::read(kept(&world)).expect("kept");
    let script = Script::new("mend", "echo mended\n");
    go_back_with(
        &mut world,
        |world| {
            world.approve(&script);
            wait_until("the machine follows", || follows(&machine, "targets", before + 1));
        },
        |world| std::fs::write(kept(world), &older).expect("written"),
    );
    // No command is needed.
    wait_until("it is given back", || targets(&world) == before + 1);
    wait_until("it is told", || world.hub.log().contains("is recovered"));
    world.technician(&["doctor"]).exits(0);
    let rows = world.technician(&["ls", "-o", "jsonl"]).exits(0).json_lines();
    assert!(
        !rows[0].to_string().contains("rejects the published catalogue"),
        "it is no fault of the machine's: {rows:?}"
    );
    // The hub still lacks the script's files; proposing its folder again returns them.
    std::fs::write(machine.home.join("policy.toml"), "[look]\nmode = \"allow\"\n[act]\nmode = \"allow\"\n")
        .expect("written");
    wait_until("the machine is linked", || world.is_online("kasse-1"));
    let output = world.technician(&["run", "mend", "kasse-1", "--reason", "x"]);
    assert!(output.code != 0 && output.err.contains("FW-HUB-"), "{output:?}");
    let output = world.approve(&script);
    assert!(output.err.contains("the hub had lost 2 files"), "{output:?}");
    assert_eq!(targets(&world), before + 1, "nothing new is published");
    let output = world.technician(&["run", "mend", "kasse-1", "--reason", "x"]).exits(0);
    assert!(output.out.contains("mended"), "{output:?}");
    // Evil: a file that no approved script names is not stored.
    attack(async {
        let home = fernwart_client::StaffHome::open(&world.shop().join("staff")).expect("a home");
        let mut session = Session::open(home, Duration::from_secs(5)).await.expect("linked");
        let given = session.give_file_back(b"#!/bin/sh\n").await;
        assert!(matches!(given, Err(ClientError::Denied(Denial::NoSuchBlob))), "{given:?}");
        session.close().await;
    });
}

/// A machine's link whose hello claims that it follows these targets.
async fn follower(world: &World, machine: &Machine, targets: u64) -> Link {
    let own = identity(&machine.home.join("tls.identity"));
    let link = incoming(world, Door::Agent, own.chain.clone(), &own.key).await.expect("let in");
    let Ask::Control(_, about) = introduction() else { unreachable!("an introduction") };
    let (mut send, mut receive) = link.open().await.expect("a stream");
    send.send(&Ask::Control(Hello::new(&[(tag::TARGETS, targets)]), about)).await.expect("sent");
    let Control::Hello(hello) = receive.expect().await.expect("a word") else { panic!("no hello") };
    link.settle(&hello).expect("a version");
    // The control stream must stay.
    std::mem::forget((send, receive));
    link
}

#[test]
fn a_machine_that_falsely_claims_a_newer_catalogue_changes_nothing() {
    let (world, machine) = World::with_one_away("kasse-1");
    let before = targets(&world);
    let home = fernwart_client::StaffHome::open(&world.shop().join("staff")).expect("a home");
    let trusted = home.trusted().expect("readable").expect("a catalogue");
    attack(async {
        // It gives back nothing, or what is published already under a higher number, or endless data.
        for how in 0..3 {
            let link = follower(&world, &machine, 999 + how).await;
            let (mut send, mut receive) = link.accept().await.expect("a stream");
            assert!(matches!(receive.expect::<Deliver>().await.expect("a word"), Deliver::GiveBack(_)));
            let file = |name: &str, bytes: &[u8]| {
                let bytes = Blob::try_from(bytes.to_vec()).expect("short");
                GivenBack::File(CatalogueFile { name: Text::clipped(name), bytes })
            };
            match how {
                0 => {}
                1 => {
                    for (name, bytes) in &trusted.files {
                        let name = name.replace(&format!("{before}.targets"), "1000.targets");
                        send.send(&file(&name, bytes)).await.expect("sent");
                    }
                }
                _ => {
                    let junk = vec![0; 100_000];
                    for number in 0..10_000 {
                        if send.send(&file(&format!("{number}.root.json"), &junk)).await.is_err() {
                            break;
                        }
                    }
                }
            }
            send.finish();
            let reported = format!("it_follows={}", 999 + how);
            let log = || world.hub.log();
            tokio::task::block_in_place(|| {
                wait_until("it is told", || {
                    log().split_once(&reported).is_some_and(|(_, after)| after.contains("cannot be recovered"))
                });
            });
            link.close(fernwart_protocol::code::Goodbye::Done);
        }
    });
    assert_eq!(targets(&world), before);
    let output = world.technician(&["doctor"]).exits(1);
    assert!(output.out.contains("propose --above 1001"), "{output:?}");
}

#[test]
fn approvers_can_publish_above_a_catalogue_that_is_lost() {
    let mut world = World::new();
    let mut machine = world.add_machine("kasse-1");
    let before = targets(&world);
    let older = std::fs::read(kept(&world)).expect("kept");
    go_back_with(
        &mut world,
        |world| {
            for version in 1..=3 {
                world.approve(&Script::new("mend", "echo mended\n").version(version));
            }
            wait_until("the machine follows", || follows(&machine, "targets", before + 3));
            machine.agent.stop();
        },
        |world| std::fs::write(kept(world), &older).expect("written"),
    );
    assert_eq!(targets(&world), before);
    // From here on two must sign.
    let (ben, key) = approver(&world, "ben");
    let (anna, her_key) = approver(&world, "anna");
    world.technician(&["catalogue", "rotate", "--yes", "--add", &key, "--add", &her_key, "-k", "2"]).exits(0);
    sign(&world, &ben);
    world.technician(&["catalogue", "publish"]).exits(0);
    assert_eq!(targets(&world), before + 1);
    let above = (before + 3).to_string();
    let far = world.technician(&["catalogue", "propose", "--yes", "--above", "99999"]).exits(2);
    assert!(far.err.contains("FW-CAT-20"), "{far:?}");
    let output = world.technician(&["catalogue", "propose", "--yes", "--above", &above]).exits(0);
    assert!(output.err.contains(&format!("version {}: above all", before + 4)), "{output:?}");
    sign(&world, &ben);
    world.technician(&["catalogue", "publish"]).exits(3);
    sign(&world, &anna);
    world.technician(&["catalogue", "publish"]).exits(0);
    assert_eq!(targets(&world), before + 4);
    // The machine knows an older root, and follows from there.
    machine.restart();
    wait_until("the machine is linked", || world.is_online("kasse-1"));
    wait_until("the machine follows", || follows(&machine, "targets", before + 4));
    assert!(matches!(world.technician(&["diagnose", "kasse-1", "--section", "memory"]).code, 0 | 1));
    let history = world.technician(&["catalogue", "history"]).exits(0);
    assert!(history.out.contains(&format!("version {}", before + 4)), "{history:?}");
}

#[test]
fn a_restored_hub_recovers_several_changes_of_approvers() {
    for by_machine in [false, true] {
        let mut world = World::new();
        let mut machine = world.add_machine("kasse-1");
        let (ben, key) = approver(&world, "ben");
        let (anna, her_key) = approver(&world, "anna");
        let older = std::fs::read(kept(&world)).expect("kept");
        let before = targets(&world);
        go_back_with(
            &mut world,
            |world| {
                world
                    .technician(&["catalogue", "rotate", "--yes", "--add", &key, "--add", &her_key, "-k", "2"])
                    .exits(0);
                sign(world, &ben);
                world.technician(&["catalogue", "publish"]).exits(0);
                world.technician(&["catalogue", "rotate", "--yes", "-k", "1"]).exits(0);
                sign(world, &ben);
                sign(world, &anna);
                world.technician(&["catalogue", "publish"]).exits(0);
                wait_until("the machine follows", || follows(&machine, "root", 3));
                if !by_machine {
                    machine.agent.stop();
                }
            },
            |world| {
                if by_machine {
                    std::fs::write(kept(world), &older).expect("written");
                }
            },
        );
        if by_machine {
            wait_until("it is given back", || targets(&world) == before + 2);
        }
        let output = world.technician(&["catalogue", "show"]).exits(0);
        assert!(output.out.contains("1 of 3 approvers"), "{output:?}");
        assert_eq!(targets(&world), before + 2);
    }
}

#[test]
fn a_restored_hub_recovers_new_approvers_and_their_threshold() {
    let mut world = World::new();
    let mut machine = world.add_machine("kasse-1");
    let (ben, key) = approver(&world, "ben");
    let before = targets(&world);
    go_back(&mut world, |world| {
        world.technician(&["catalogue", "rotate", "--yes", "--add", &key, "-k", "2"]).exits(0);
        sign(world, &ben);
        world.technician(&["catalogue", "publish"]).exits(0);
        wait_until("the machine follows", || follows(&machine, "root", 2));
        machine.agent.stop();
    });
    world.technician(&["ls"]).exits(0);
    assert_eq!(targets(&world), before + 1);
    // Two must still sign, as before the loss.
    let anna = run(&mut staff_command(&world.path().join("anna"), &["approver", "new"])).exits(0);
    world.technician(&["catalogue", "rotate", "--yes", "--add", anna.out.trim()]).exits(0);
    world.technician(&["catalogue", "publish"]).exits(3);
    sign(&world, &ben);
    world.technician(&["catalogue", "publish"]).exits(3);
}

#[test]
fn orders_cancelled_after_a_backup_do_not_run_after_a_restore() {
    let mut world = World::new();
    let mut machine = world.add_machine("kasse-1");
    std::fs::write(machine.home.join("policy.toml"), "[look]\nmode = \"allow\"\n[act]\nmode = \"allow\"\n")
        .expect("written");
    world.approve(&Script::new("mend", "echo mended\n"));
    wait_until("the machine follows", || follows(&machine, "targets", targets(&world)));
    machine.agent.stop();
    wait_until("it is away", || !world.is_online("kasse-1"));
    world.technician(&["run", "mend", "kasse-1", "--queue", "8h", "--reason", "x"]);
    let job = world.technician(&["job", "ls", "-o", "name"]).exits(0).out.trim().to_owned();
    let backup = back_up(&world);
    world.technician(&["job", "cancel", &job]).exits(0);
    lose(&mut world);
    // The hub's home may be named as for `backup` and `serve`.
    let hub = world.shop().join("hub");
    let output = run(&mut staff_command(&hub, &["restore", &backup])).exits(0);
    assert!(output.err.contains("1 orders that waited"), "{output:?}");
    world.restart_hub();
    machine.restart();
    wait_until("the machine is linked", || world.is_online("kasse-1"));
    // A retry runs, as a job with a number never used before. The cancelled order would have run before it,
    // since queued orders are delivered in order when a machine links.
    world.technician(&["job", "retry", &job, "--yes", "mend"]).exits(0);
    let begun = machine.journal().iter().filter(|(kind, _)| kind == "run_started").count();
    assert_eq!(begun, 1, "what was taken back is not done");
    let rows = world.technician(&["job", "show", &job, "-o", "jsonl"]).exits(0).json_lines();
    assert_eq!(rows[0]["state"], "cancelled", "{rows:?}");
    let jobs = world.technician(&["job", "ls", "-o", "name"]).exits(0).out;
    assert_eq!(jobs.lines().map(str::trim).collect::<Vec<_>>(), ["10001", "10000", &job], "{jobs}");
}

#[test]
fn a_machine_that_rejects_the_catalogue_is_reported() {
    let mut world = World::new();
    let mut machine = world.add_machine("kasse-1");
    let older = std::fs::read(kept(&world)).expect("kept");
    let before = targets(&world);
    go_back_with(
        &mut world,
        |world| {
            world.approve(&Script::new("mend", "echo mended\n"));
            wait_until("the machine follows", || follows(&machine, "targets", before + 1));
            machine.agent.stop();
        },
        |world| std::fs::write(kept(world), &older).expect("written"),
    );
    // Another catalogue under the same number.
    world.approve(&Script::new("other", "echo other\n"));
    machine.restart();
    wait_until("the machine is linked", || world.is_online("kasse-1"));
    let row = || world.technician(&["ls", "-o", "jsonl"]).exits(0).json_lines()[0].to_string();
    wait_within(Duration::from_secs(90), "it is reported", || row().contains("rejects the published catalogue"));
    assert!(world.hub.log().contains("two contents"), "{}", world.hub.log());
    // The next publication resolves it.
    world.approve(&Script::new("other", "echo other\n").version(2));
    wait_until("the machine follows", || follows(&machine, "targets", before + 2));
    world.technician(&["acknowledge", "kasse-1"]).exits(0);
    assert!(!row().contains("rejects the published catalogue"), "{}", row());
}

#[test]
fn a_restored_hub_recovers_locks_from_machines() {
    let mut world = World::new();
    let machine = world.add_machine("kasse-1");
    let robot = world.add_robot("Bäckerei Meyer");
    let robot = |words: &[&str]| run(&mut staff_command(&robot, words));
    robot(&["ls"]).exits(0);
    let backup = back_up(&world);
    let name = world.technician(&["staff", "ls", "-o", "jsonl"]).exits(0).json_lines();
    let name = name.iter().find(|row| row["role"] == "diagnose").expect("a robot")["name"].as_str().expect("text");
    world.technician(&["staff", "suspend", name]).exits(0);
    wait_until("the machine knows", || machine.journal().iter().any(|(kind, _)| kind == "locked"));
    robot(&["ls"]).exits(3);
    lose(&mut world);
    world.technician(&["restore", &backup]).exits(0);
    world.restart_hub();
    wait_until("the lock is given back", || world.hub.log().contains("a lock that this hub has lost is given back"));
    robot(&["ls"]).exits(3);
}
