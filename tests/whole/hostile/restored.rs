//! A hub that was restored from a backup, after something was published since.

use super::attack;
use fernwart_certs::approve::Draft;
use fernwart_client::{ClientError, Session};
use fernwart_protocol::code::Denial;
use fernwart_protocol::staff::Request;
use fernwart_protocol::text::Blob;
use fernwart_tests::shelf::Script;
use fernwart_tests::{Machine, World, run, staff_command, wait_until};
use std::time::Duration;

/// Backs the hub up, publishes something, and puts the backup in its place.
fn go_back(world: &mut World, publish: impl Fn(&World)) {
    let backup = world.path().join("backup");
    let backup = backup.to_str().expect("text").to_owned();
    world.technician(&["backup", &backup]).exits(0);
    publish(world);
    world.hub.stop();
    std::fs::remove_dir_all(world.shop().join("hub")).expect("lost");
    world.technician(&["restore", &backup]).exits(0);
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

#[test]
fn what_was_published_since_a_backup_comes_back_from_a_technician() {
    let mut world = World::new();
    let machine = world.add_machine("kasse-1");
    let before = targets(&world);
    go_back(&mut world, |world| {
        world.approve(&Script::new("mend", "echo mended\n"));
        wait_until("the machine follows", || follows(&machine, "targets", before + 1));
    });
    assert_eq!(targets(&world), before, "the hub has lost it");
    // The first command of any kind.
    world.technician(&["ls"]).exits(0);
    assert_eq!(targets(&world), before + 1);
    wait_until("the machine is linked", || world.is_online("kasse-1"));
    assert!(matches!(world.technician(&["diagnose", "kasse-1", "--section", "memory"]).code, 0 | 1));
    // It goes on from there, for all: the next one, and what was lost with its files.
    world.approve(&Script::new("mend", "echo mended again\n").version(2));
    wait_until("the machine follows", || follows(&machine, "targets", before + 2));
    std::fs::write(machine.home.join("policy.toml"), "[look]\nmode = \"allow\"\n[act]\nmode = \"allow\"\n")
        .expect("written");
    let said = world.technician(&["run", "mend", "kasse-1", "--reason", "x"]).exits(0);
    assert!(said.out.contains("mended again"), "{said:?}");
}

#[test]
fn somebody_who_may_only_look_gives_it_back_as_well_and_nothing_but_that() {
    let mut world = World::new();
    let _machine = world.add_machine("kasse-1");
    let robot = world.add_robot("Bäckerei Meyer");
    let robot = |words: &[&str]| run(&mut staff_command(&robot, words));
    let before = targets(&world);
    go_back(&mut world, |world| {
        world.approve(&Script::new("mend", "echo mended\n"));
        robot(&["ls"]).exits(0);
    });
    assert_eq!(targets(&world), before);
    // Evil: the very same in other bytes would be another catalogue to every machine; and
    // without the hub's snapshot it may never have been published.
    attack(async {
        let home = fernwart_client::StaffHome::open(&world.path().join("robot/staff")).expect("a home");
        let trusted = home.trusted().expect("readable").expect("a catalogue");
        let session = Session::open(home, Duration::from_secs(5)).await.expect("linked");
        let refused = async |change: &dyn Fn(&mut Draft)| {
            let mut draft = Draft::given_back(&trusted, false).expect("a draft");
            change(&mut draft);
            let bytes = Blob::try_from(serde_json::to_vec(&draft).expect("written")).expect("short");
            matches!(
                session.tell(&Request::PutDraft(bytes)).await,
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
    let said =
        robot(&["catalogue", "propose", concat!(env!("CARGO_MANIFEST_DIR"), "/../controller/scripts/disk-free")]);
    assert_ne!(said.code, 0, "a proposal of its own is refused");
}

#[test]
fn new_approvers_come_back_with_what_they_approve() {
    let mut world = World::new();
    let machine = world.add_machine("kasse-1");
    let ben = world.path().join("ben");
    let key = run(&mut staff_command(&ben, &["approver", "new"])).exits(0).out.trim().to_owned();
    let ben = ben.to_str().expect("text").to_owned();
    let sign = |world: &World, key: &str| {
        let unread = world.technician(&["catalogue", "sign", "--key", key]).exits(2);
        let id = unread.err.split("--yes ").nth(1).expect("an id").split_whitespace().next().expect("an id");
        world.technician(&["catalogue", "sign", "--key", key, "--yes", id]).exits(0);
    };
    let before = targets(&world);
    go_back(&mut world, |world| {
        world.technician(&["catalogue", "rotate", "--add", &key, "-k", "2"]).exits(0);
        sign(world, &ben);
        world.technician(&["catalogue", "publish"]).exits(0);
        wait_until("the machine follows", || follows(&machine, "root", 2));
    });
    assert_eq!(targets(&world), before);
    world.technician(&["ls"]).exits(0);
    assert_eq!(targets(&world), before + 1);
    // It takes two from here on, as it did before.
    let anna = run(&mut staff_command(&world.path().join("anna"), &["approver", "new"])).exits(0);
    world.technician(&["catalogue", "rotate", "--add", anna.out.trim()]).exits(0);
    world.technician(&["catalogue", "publish"]).exits(3);
    sign(&world, &ben);
    world.technician(&["catalogue", "publish"]).exits(3);
}
