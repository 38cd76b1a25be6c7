//! Jobs of many orders: limited parallelism, and cancelling.

use fernwart_tests::test_script::Script;
use fernwart_tests::{Frozen, Machine, Process, World, wait_until};
use std::process::Command;

/// Starts a command in the background.
fn in_background(world: &World, command: &mut Command) -> Process {
    Process::start(command, &world.path().join("background.log"))
}

fn runs(machine: &Machine) -> usize {
    machine.journal().iter().filter(|(kind, _)| kind == "run_started").count()
}

fn states(world: &World, job: &str) -> Vec<(String, String, Option<String>)> {
    let rows = world.technician(&["job", "show", job, "-o", "jsonl"]).exits(0).json_lines();
    let text = |row: &serde_json::Value, field: &str| row[field].as_str().map(str::to_owned);
    let mut states: Vec<_> = rows
        .iter()
        .map(|row| {
            let name = text(row, "machine").expect("a name");
            (name, text(row, "state").expect("a state"), text(row, "outcome"))
        })
        .collect();
    states.sort();
    states
}

#[test]
fn no_more_orders_run_at_once_than_parallel_allows() {
    let world = World::new();
    let (one, two) = (world.add_machine("kasse-1"), world.add_machine("kasse-2"));
    let look = |parallel: &str| {
        let words =
            ["diagnose", "kasse-1", "kasse-2", "--section", "memory", "--parallel", parallel, "--timeout", "2s"];
        world.technician(&[&words[..], &["-o", "jsonl"]].concat()).exits(4).json_lines()
    };
    // One machine hangs, so a single slot is never free in time.
    let frozen = Frozen::new(&one.agent);
    let lines = look("1");
    assert_eq!(lines.last().expect("a summary")["answered"], 0);
    assert_eq!(runs(&two), 0, "its turn has not come");
    // With two slots the other machine is not delayed.
    let lines = look("2");
    assert_eq!(lines.last().expect("a summary")["answered"], 1);
    assert_eq!(runs(&two), 1);
    drop(frozen);
    wait_until("the one that hung is back", || world.technician(&["ping", "kasse-1"]).code == 0);
    let output = world.technician(&["diagnose", "all", "--section", "memory", "--parallel", "1", "-o", "jsonl"]);
    assert!(matches!(output.code, 0 | 1), "{}", output.err);
    assert_eq!(output.json_lines().last().expect("a summary")["answered"], 2);
}

#[test]
fn cancelling_a_job_stops_its_runs_that_have_not_begun() {
    let world = World::new();
    let (one, two) = (world.add_machine("kasse-1"), world.add_machine("kasse-2"));
    let frozen = Frozen::new(&one.agent);
    let mut look = world.command(&["diagnose", "kasse-1", "kasse-2", "--parallel", "1", "--timeout", "60s"]);
    let mut watcher = in_background(&world, &mut look);
    wait_until("one is offered, one queued", || {
        let jobs = world.technician(&["job", "ls", "-o", "name"]).exits(0).out;
        !jobs.is_empty() && {
            let states: Vec<_> = states(&world, "1").into_iter().map(|(_, state, _)| state).collect();
            states == ["offered", "queued"]
        }
    });
    let output = world.technician(&["job", "cancel", "1"]).exits(0);
    assert!(output.err.contains("Cancellation sent to 2 machines"), "{}", output.err);
    assert_eq!(states(&world, "1")[1], ("kasse-2".into(), "cancelled".into(), None), "taken back at the hub");
    // Again, and nothing changes.
    world.technician(&["job", "cancel", "1"]).exits(0);
    drop(frozen);
    wait_until("the job is over", || !watcher.is_running());
    wait_until("the machine has settled", || states(&world, "1")[0].1 == "settled");
    // The first machine had its order before the cancel: it ran, or the cancel was in time.
    let outcome = states(&world, "1")[0].2.clone().expect("an outcome");
    assert!(["ok", "cancelled"].contains(&outcome.as_str()), "{outcome}");
    assert_eq!(runs(&one), usize::from(outcome == "ok"));
    assert_eq!(runs(&two), 0, "it never heard of it");
    world.technician(&["job", "cancel", "77"]).exits(2);
}

#[test]
fn an_order_cancelled_while_its_machine_is_away_never_runs() {
    let world = World::new();
    let mut machine = world.add_machine("kasse-1");
    std::fs::write(machine.home.join("policy.toml"), "[look]\nmode = \"allow\"\n[act]\nmode = \"allow\"\n")
        .expect("written");
    world.approve(&Script::new("mend", "echo mended\n"));
    let mut run = world.command(&["run", "mend", "kasse-1", "--reason", "x", "--timeout", "60s"]);
    // The order is offered, and the agent dies before it receives it or the cancel.
    let frozen = Frozen::new(&machine.agent);
    let mut watcher = in_background(&world, &mut run);
    wait_until("it is offered", || {
        let jobs = world.technician(&["job", "ls", "-o", "name"]).exits(0).out;
        !jobs.is_empty() && states(&world, "1")[0].1 == "offered"
    });
    machine.agent.kill_9();
    drop(frozen);
    world.technician(&["job", "cancel", "1"]).exits(0);
    machine.restart();
    // The outcome comes from the machine's own receipt.
    let cancelled = || states(&world, "1")[0] == ("kasse-1".into(), "settled".into(), Some("cancelled".into()));
    wait_until("the machine has heard of it", cancelled);
    // A later order runs, and the cancelled one does not.
    world.technician(&["run", "mend", "kasse-1", "--reason", "x"]).exits(0);
    assert_eq!(runs(&machine), 1);
    assert!(cancelled());
    watcher.kill_9();
}

#[test]
fn a_queued_order_is_delivered_to_a_machine_that_died_meanwhile() {
    let world = World::new();
    let (one, mut two) = (world.add_machine("kasse-1"), world.add_machine("kasse-2"));
    for machine in [&one, &two] {
        let allowed = "[look]\nmode = \"allow\"\n[act]\nmode = \"allow\"\n";
        std::fs::write(machine.home.join("policy.toml"), allowed).expect("written");
    }
    world.approve(&Script::new("mend", "echo mended\n"));
    let state_of_two = || states(&world, "1")[1].1.clone();
    let frozen = Frozen::new(&one.agent);
    let words = ["run", "mend", "kasse-1", "kasse-2", "--parallel", "1", "--reason", "x", "--timeout", "120s"];
    let mut watcher = in_background(&world, &mut world.command(&words));
    wait_until("the second stands in line", || {
        let jobs = world.technician(&["job", "ls", "-o", "name"]).exits(0).out;
        !jobs.is_empty() && state_of_two() == "queued"
    });
    // It reconnects with nothing to redeliver: its order is still queued at the hub.
    two.agent.kill_9();
    two.restart();
    wait_until("it is back", || world.technician(&["ping", "kasse-2", "--timeout", "1s"]).code == 0);
    let frozen_two = Frozen::new(&two.agent);
    drop(frozen);
    wait_until("its turn has come", || state_of_two() == "offered");
    // It dies before it receives the order.
    two.agent.kill_9();
    drop(frozen_two);
    assert_eq!(runs(&two), 0);
    two.restart();
    wait_until("it is done", || states(&world, "1")[1] == ("kasse-2".into(), "settled".into(), Some("ok".into())));
    assert_eq!(runs(&two), 1);
    watcher.kill_9();
}

#[test]
fn diagnoses_queued_on_a_machine_can_be_cancelled() {
    const LOOKS: usize = 12;
    let world = World::new();
    let machine = world.add_machine("kasse-1");
    // More diagnoses at once than a machine runs: the last ones are queued there.
    let looks: Vec<_> = (0..LOOKS)
        .map(|_| in_background(&world, &mut world.command(&["diagnose", "kasse-1", "--timeout", "60s"])))
        .collect();
    wait_until("all are there", || runs(&machine) == LOOKS);
    // The last ones first: they wait the longest.
    for job in (1..=LOOKS).rev() {
        world.technician(&["job", "cancel", &job.to_string()]).exits(0);
    }
    wait_until("all are over", || (1..=LOOKS).all(|job| states(&world, &job.to_string())[0].1 == "settled"));
    let outcomes: Vec<_> = (1..=LOOKS).filter_map(|job| states(&world, &job.to_string())[0].2.clone()).collect();
    let cancelled = outcomes.iter().filter(|outcome| *outcome == "cancelled").count();
    assert!(cancelled >= 1, "{outcomes:?}");
    // Many acknowledgements may overtake each other; that must not look like a hub that was rolled back.
    wait_until("all are acknowledged", || machine.owner(&["check"]).code == 0);
    assert!(!machine.journal().iter().any(|(kind, _)| kind == "hub_fell_back"));
    assert!(outcomes.iter().all(|outcome| ["ok", "cancelled"].contains(&outcome.as_str())), "{outcomes:?}");
    drop(looks);
}
