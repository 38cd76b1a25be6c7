//! A machine as it is at a customer's: booted by systemd, with its journal and
//! its services, and the agent one of them.

use fernwart_tests::guest::Guest;
use fernwart_tests::{World, program, wait_until};
use serde_json::Value;

/// Joins the guest as a customer does: the service is registered by `enroll`.
fn join(world: &World, guest: &Guest) {
    let agent = program("fernwart-agent");
    let line = world.invitation(&["Bäckerei Meyer"]);
    let said = guest.run(&[agent.to_str().expect("text"), "--lang", "de", "enroll", &line, "--policy", "ask"]).exits(0);
    assert!(!said.out.contains("fernwart-agent run") && !said.err.contains("fernwart-agent run"), "{said:?}");
    let waiting = world.technician(&["pending", "-o", "name"]).exits(0).out;
    world.technician(&["admit", waiting.trim(), "--as", "kasse-1"]).exits(0);
    wait_until("the machine is linked", || world.is_online("kasse-1"));
}

fn diagnosed(world: &World, sections: &[&str]) -> Value {
    let mut words = vec!["diagnose", "kasse-1", "-o", "jsonl"];
    sections.iter().for_each(|section| words.extend(["--section", section]));
    let said = world.technician(&words);
    assert!(matches!(said.code, 0 | 1), "{}", said.err);
    let result = said.json_lines().swap_remove(0);
    result["report"].clone()
}

fn finding<'a>(report: &'a Value, id: &str) -> Option<&'a Value> {
    report["findings"].as_array().expect("findings").iter().find(|finding| finding["id"] == id)
}

#[test]
fn enrolling_registers_the_service_and_it_comes_back_by_itself() {
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
