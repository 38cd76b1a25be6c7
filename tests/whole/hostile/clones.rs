//! A machine whose disk was copied: two computers with one identity.

use fernwart_tests::{Machine, Process, World, program, wait_until, wait_within};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

fn health(world: &World) -> String {
    let rows = world.technician(&["ls", "-o", "jsonl"]).exits(0).json_lines();
    rows[0]["health"].as_str().unwrap_or_default().to_owned()
}

fn copy_of(machine: &Machine, to: &Path) {
    std::fs::create_dir(to).expect("a folder");
    for file in std::fs::read_dir(&machine.home).expect("the home").flatten() {
        if file.file_type().is_ok_and(|kind| kind.is_file()) {
            std::fs::copy(file.path(), to.join(file.file_name())).expect("copied");
        }
    }
}

#[test]
fn two_computers_with_one_identity_are_both_kept_out_until_somebody_has_looked() {
    let world = World::new();
    let mut machine = world.add_machine("kasse-1");
    // A restart of the one and only is no such thing, however sudden.
    for _ in 0..3 {
        machine.agent.kill_9();
        machine.restart();
        wait_until("it is back", || world.technician(&["ping", "kasse-1", "--timeout", "1s"]).code == 0);
    }
    assert!(!health(&world).contains("two computers"), "{}", health(&world));

    machine.agent.stop();
    let copy = world.path().join("copy");
    copy_of(&machine, &copy);
    machine.restart();
    wait_until("the first is there", || world.is_online("kasse-1"));
    let mut command = Command::new(program("fernwart-agent"));
    let mut clone = Process::start(command.arg("--home").arg(&copy).arg("run"), &world.path().join("copy.log"));
    wait_within(Duration::from_secs(15), "both are found out", || health(&world).contains("two computers"));
    wait_until("neither is linked", || !world.is_online("kasse-1"));
    let said = world.technician(&["diagnose", "kasse-1", "--timeout", "2s"]).exits(4);
    assert!(said.out.contains("away") || said.err.contains("away"), "{said:?}");
    assert!(clone.is_running() && machine.agent.is_running(), "no one has fallen over it");
    let counted = world.hub.log().matches("two computers use one identity").count();
    assert_eq!(counted, 1, "told once, not at each try");

    // Somebody has switched the copy off, and says so.
    clone.stop();
    world.technician(&["acknowledge", "kasse-1"]).exits(0);
    wait_within(Duration::from_secs(20), "the first is back", || world.is_online("kasse-1"));
    assert!(!health(&world).contains("two computers"), "{}", health(&world));
}
