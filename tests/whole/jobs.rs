//! Jobs of many orders: a few at a time, and taken back.

use fernwart_tests::test_script::Script;
use fernwart_tests::{Frozen, Machine, Process, World, wait_until};
use std::process::Command;

/// A command that goes on while the test does.
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
fn no_more_orders_are_under_way_than_the_technician_allows() {
    let world = World::new();
    let (one, two) = (world.add_machine("kasse-1"), world.add_machine("kasse-2"));
    let look = |parallel: &str| {
        let words =
            ["diagnose", "kasse-1", "kasse-2", "--section", "memory", "--parallel", parallel, "--timeout", "2s"];
        world.technician(&[&words[..], &["-o", "jsonl"]].concat()).exits(4).json_lines()
    };
    // One hangs; a single place is never free again in time.
    let frozen = Frozen::new(&one.agent);
    let lines = look("1");
    assert_eq!(lines.last().expect("a summary")["answered"], 0);
    assert_eq!(runs(&two), 0, "its turn has not come");
    // With two places the other is not held up.
    let lines = look("2");
    assert_eq!(lines.last().expect("a summary")["answered"], 1);
    assert_eq!(runs(&two), 1);
    drop(frozen);
    wait_until("the one that hung is back", || world.technician(&["ping", "kasse-1"]).code == 0);
    let said = world.technician(&["diagnose", "all", "--section", "memory", "--parallel", "1", "-o", "jsonl"]);
    assert!(matches!(said.code, 0 | 1), "{}", said.err);
    assert_eq!(said.json_lines().last().expect("a summary")["answered"], 2);
}

#[test]
fn a_job_that_is_taken_back_does_not_begin_where_it_has_not_begun() {
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
    let said = world.technician(&["job", "cancel", "1"]).exits(0);
    assert!(said.err.contains("Cancellation sent to 2 machines"), "{}", said.err);
    assert_eq!(states(&world, "1")[1], ("kasse-2".into(), "cancelled".into(), None), "taken back at the hub");
    // Again, and nothing changes.
    world.technician(&["job", "cancel", "1"]).exits(0);
    drop(frozen);
    wait_until("the job is over", || !watcher.is_running());
    wait_until("the machine has settled", || states(&world, "1")[0].1 == "settled");
    // The first had its order before the word: it began, or it was in time.
    let outcome = states(&world, "1")[0].2.clone().expect("an outcome");
    assert!(["ok", "cancelled"].contains(&outcome.as_str()), "{outcome}");
    assert_eq!(runs(&one), usize::from(outcome == "ok"));
    assert_eq!(runs(&two), 0, "it never heard of it");
    world.technician(&["job", "cancel", "77"]).exits(2);
}

#[test]
fn an_order_that_was_taken_back_while_its_machine_was_away_is_never_done() {
    let world = World::new();
    let mut machine = world.add_machine("kasse-1");
    std::fs::write(machine.home.join("policy.toml"), "[look]\nmode = \"allow\"\n[act]\nmode = \"allow\"\n")
        .expect("written");
    world.approve(&Script::new("mend", "echo mended\n"));
    let mut run = world.command(&["run", "mend", "kasse-1", "--reason", "x", "--timeout", "60s"]);
    // It is offered, and the agent dies before it hears of it, or of the cancel.
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
    // In its own signed word.
    let cancelled = || states(&world, "1")[0] == ("kasse-1".into(), "settled".into(), Some("cancelled".into()));
    wait_until("the machine has heard of it", cancelled);
    // What comes after it is done, and it is not.
    world.technician(&["run", "mend", "kasse-1", "--reason", "x"]).exits(0);
    assert_eq!(runs(&machine), 1);
    assert!(cancelled());
    watcher.kill_9();
}

#[test]
fn an_order_that_stood_in_line_is_brought_to_a_machine_that_was_lost_since() {
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
    // It comes back, and has nothing undelivered: its order has not left the line.
    two.agent.kill_9();
    two.restart();
    wait_until("it is back", || world.technician(&["ping", "kasse-2", "--timeout", "1s"]).code == 0);
    let frozen_two = Frozen::new(&two.agent);
    drop(frozen);
    wait_until("its turn has come", || state_of_two() == "offered");
    // It dies before it has heard of it.
    two.agent.kill_9();
    drop(frozen_two);
    assert_eq!(runs(&two), 0);
    two.restart();
    wait_until("it is done", || states(&world, "1")[1] == ("kasse-2".into(), "settled".into(), Some("ok".into())));
    assert_eq!(runs(&two), 1);
    watcher.kill_9();
}

#[test]
fn looks_that_wait_their_turn_on_the_machine_are_cancelled_there() {
    const LOOKS: usize = 12;
    let world = World::new();
    let machine = world.add_machine("kasse-1");
    // More looks at once than a machine takes up: the last ones wait their turn there.
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
    // So many acknowledgements may overtake each other; nobody takes that for a hub that fell back.
    wait_until("all are acknowledged", || machine.owner(&["check"]).code == 0);
    assert!(!machine.journal().iter().any(|(kind, _)| kind == "hub_fell_back"));
    assert!(outcomes.iter().all(|outcome| ["ok", "cancelled"].contains(&outcome.as_str())), "{outcomes:?}");
    drop(looks);
}
