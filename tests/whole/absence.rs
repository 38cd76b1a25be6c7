//! A machine that is away, and a hub that is killed.

use fernwart_tests::{Frozen, World, wait_until, wait_within};
use std::time::Duration;

#[test]
fn a_stopped_machine_is_named_and_not_waited_for() {
    let world = World::new();
    let _one = world.add_machine("kasse-1");
    let mut two = world.add_machine("kasse-2");
    assert_eq!(two.agent.stop(), Some(0), "the agent stops cleanly");
    wait_until("the hub sees it away", || !world.is_online("kasse-2"));
    let said = world.technician(&["diagnose", "all", "-o", "jsonl", "--timeout", "8s"]).exits(4);
    assert!(said.took < Duration::from_secs(8), "{:?}", said.took);
    let lines = said.json_lines();
    let away = lines.iter().find(|line| line["machine"] == "kasse-2").expect("it is named");
    assert_eq!((away["status"].as_str(), away["why"].as_str()), (Some("no_answer"), Some("the machine is away")));
    let summary = lines.last().expect("a summary");
    assert_eq!(
        (summary["no_answer"].as_u64(), summary["away"].as_u64(), summary["exit"].as_u64()),
        (Some(1), Some(0), Some(4))
    );
    let said = world.technician(&["diagnose", "all", "-o", "jsonl", "--require", "online"]);
    assert!(matches!(said.code, 0 | 1), "{}", said.err);
    assert_eq!(said.json_lines().last().expect("a summary")["away"], 1);
}

#[test]
fn a_frozen_machine_is_given_up_at_the_timeout() {
    let world = World::new();
    let one = world.add_machine("kasse-1");
    let frozen = Frozen::new(&one.agent);
    let said = world.technician(&["diagnose", "kasse-1", "-o", "jsonl", "--timeout", "2s"]);
    drop(frozen);
    let said = said.exits(4);
    assert!(said.took >= Duration::from_secs(2) && said.took < Duration::from_secs(8), "{:?}", said.took);
    assert_eq!(said.json_lines()[0]["why"], "no answer in time");
}

#[test]
fn a_machine_that_falls_silent_counts_as_away_within_the_idle_time() {
    use fernwart_protocol::limits::IDLE_TIMEOUT;
    let world = World::new();
    let one = world.add_machine("kasse-1");
    let frozen = Frozen::new(&one.agent);
    assert!(world.is_online("kasse-1"), "nobody can know yet");
    let away = wait_within(IDLE_TIMEOUT + Duration::from_secs(10), "it is away", || !world.is_online("kasse-1"));
    println!("away after {away:?}");
    drop(frozen);
    let back = wait_within(Duration::from_secs(10), "it is back", || world.is_online("kasse-1"));
    println!("back after {back:?}");
}

#[test]
fn a_killed_hub_finds_its_machines_back_within_five_seconds_and_its_history() {
    let mut world = World::new();
    let _machines: Vec<_> = ["kasse-1", "kasse-2", "lager-1"].iter().map(|name| world.add_machine(name)).collect();
    let said = world.technician(&["diagnose", "all", "-o", "jsonl"]);
    assert!(matches!(said.code, 0 | 1), "{}", said.err);
    world.hub.kill_9();
    let down = world.technician(&["ls"]).exits(4);
    assert!(down.err.contains("FW-CLI-05"), "{}", down.err);
    world.restart_hub();
    let back = wait_within(Duration::from_secs(5), "all are back", || {
        ["kasse-1", "kasse-2", "lager-1"].iter().all(|name| world.is_online(name))
    });
    println!("all back after {back:?}");
    let jobs = world.technician(&["job", "ls", "-o", "jsonl"]).exits(0).json_lines();
    assert_eq!((jobs.len(), jobs[0]["over"].as_u64()), (1, Some(3)));
    let said = world.technician(&["diagnose", "all", "-o", "jsonl"]);
    assert!(matches!(said.code, 0 | 1), "{}", said.err);
}

#[test]
fn a_hub_that_stops_says_whether_it_was_clean_and_a_second_one_is_refused() {
    let mut world = World::new();
    let machine = world.add_machine("kasse-1");
    let second = world.technician(&["serve"]).exits(5);
    assert!(second.err.contains("FW-HUB-21"), "{}", second.err);
    assert_eq!(world.hub.stop(), Some(0));
    assert!(world.hub.log().contains("clean=true"), "{}", world.hub.log());
    world.restart_hub();
    wait_within(Duration::from_secs(5), "the machine is back", || world.is_online(&machine.name));
}

#[test]
fn an_agent_killed_while_it_looks_says_interrupted_and_repeats_nothing() {
    let world = World::new();
    let mut machine = world.add_machine("kasse-1");
    let mut watcher = world
        .command(&["diagnose", "kasse-1", "--timeout", "10s"])
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn()
        .expect("started");
    wait_until("the run has started", || machine.journal().iter().any(|(kind, _)| kind == "run_started"));
    machine.agent.kill_9();
    machine.restart();
    wait_until("the outcome is told", || {
        let runs = world.technician(&["job", "show", "1", "-o", "jsonl"]).exits(0).json_lines();
        runs[0]["outcome"] == "interrupted"
    });
    let _ = watcher.wait();
    let kinds: Vec<_> = machine.journal().into_iter().map(|(kind, _)| kind).collect();
    assert_eq!(kinds, ["joined", "run_started", "run_finished"]);
}
