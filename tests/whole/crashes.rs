//! Power cuts at any moment: agents and the hub are killed repeatedly while runs are submitted. No run
//! takes effect twice, and none is lost.

use fernwart_tests::endure::{Plan, endure};
use fernwart_tests::test_script::Script;
use fernwart_tests::{Machine, World, wait_within};
use serde_json::Value;
use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

const MACHINES: usize = 8;
const RUNS: usize = 500;

/// Reproducible random numbers (Knuth's MMIX generator).
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }
}

fn runs_at_hub(world: &World) -> Vec<Value> {
    let jobs = world.technician(&["job", "ls", "-o", "name"]);
    let mut runs = Vec::new();
    for job in jobs.out.lines() {
        let output = world.technician(&["job", "show", job, "-o", "jsonl"]);
        runs.extend(output.json_lines());
    }
    runs
}

fn power_cut(world: &mut World, machines: &mut [Machine], dice: &mut Dice) {
    match dice.roll(MACHINES as u64 + 2) as usize {
        machine if machine < MACHINES => {
            machines[machine].agent.kill_9();
            machines[machine].restart();
        }
        _ => {
            world.hub.kill_9();
            world.restart_hub();
        }
    }
}

#[test]
fn five_hundred_runs_under_power_cuts_take_effect_once_or_not_at_all() {
    let seed = std::env::var("FERNWART_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(4711);
    println!("seed {seed}");
    let mut dice = Dice(seed);
    let effects = tempfile::tempdir_in("/srv").expect("a folder");
    let mut world = World::new();
    // Each effect is a line; short random sleeps vary the timing.
    let script = Script::new(
        "count",
        &format!(
            "sleep 0.0$(($$ % 8)); echo $FERNWART_RUN >> {}/effects; sleep 0.0$(($$ % 5))\n",
            effects.path().display()
        ),
    )
    .with(&format!("writes = [\"{}\"]", effects.path().display()));
    world.approve(&script);
    let mut machines: Vec<Machine> = (1..=MACHINES).map(|n| world.add_machine(&format!("kasse-{n}"))).collect();
    for machine in &machines {
        std::fs::write(machine.home.join("policy.toml"), "[look]\nmode = \"allow\"\n[act]\nmode = \"allow\"\n")
            .expect("written");
    }
    let (mut jobs, mut cuts) = (0, 0);
    let begun = Instant::now();
    while jobs * MACHINES < RUNS {
        let words = ["run", "count", "all", "--queue", "1h", "--reason", "x", "-o", "name"];
        let mut asking = fernwart_tests::Process::start(&mut world.command(&words), &world.path().join("asking.log"));
        // Two or three cuts while a job is on its way.
        for _ in 0..2 + dice.roll(2) {
            let pause = Duration::from_millis(dice.roll(160));
            let until = Instant::now() + pause;
            while Instant::now() < until && asking.is_running() {
                std::thread::sleep(Duration::from_millis(2));
            }
            power_cut(&mut world, &mut machines, &mut dice);
            cuts += 1;
        }
        asking.kill_9();
        jobs = world.technician(&["job", "ls", "-o", "name"]).exits(0).out.lines().count();
    }
    println!("{jobs} jobs under {cuts} power cuts in {:?}", begun.elapsed());
    assert!(cuts > 50);
    let mut runs = Vec::new();
    wait_within(Duration::from_secs(90), "every run has its outcome", || {
        runs = runs_at_hub(&world);
        runs.len() >= RUNS && runs.iter().all(|run| run["state"] == "settled")
    });
    let mut outcomes: HashMap<String, usize> = HashMap::new();
    let reported: HashMap<String, String> = runs
        .iter()
        .map(|run| (run["run"].as_str().expect("an id").to_owned(), run["outcome"].as_str().expect("one").to_owned()))
        .collect();
    for outcome in reported.values() {
        *outcomes.entry(outcome.clone()).or_default() += 1;
    }
    println!("{} runs: {outcomes:?}", reported.len());
    let text = std::fs::read_to_string(effects.path().join("effects")).expect("effects");
    let mut seen = HashSet::new();
    for run in text.lines() {
        assert!(seen.insert(run), "{run} took effect twice");
        let outcome = reported.get(run).unwrap_or_else(|| panic!("{run} took effect and nobody knows of it"));
        assert!(outcome == "ok" || outcome == "interrupted", "{run}: {outcome}");
    }
    for (run, outcome) in &reported {
        match outcome.as_str() {
            "ok" => assert!(seen.contains(run.as_str()), "{run} is told as done and was not"),
            // It may have taken effect or not; the journal says that it was under way.
            "interrupted" => {}
            other => panic!("{run}: {other}"),
        }
    }
    let mut started: HashMap<String, usize> = HashMap::new();
    for machine in &machines {
        for (_, body) in machine.journal().iter().filter(|(kind, _)| kind == "run_started") {
            *started.entry(body["run"].as_str().expect("an id").to_owned()).or_default() += 1;
        }
    }
    assert!(started.values().all(|times| *times == 1), "no run has begun twice");
    let unbegun = reported.keys().filter(|run| !started.contains_key(*run)).count();
    assert_eq!(unbegun, 0, "whatever has such an outcome has begun");
    assert!(outcomes.get("ok").is_some_and(|ok| *ok > RUNS / 2), "{outcomes:?}");
}

#[test]
fn a_repeatedly_killed_hub_loses_no_acknowledged_run() {
    let second = Duration::from_secs(1);
    let plan = Plan { machines: 40, runs_per_second: 50, time: 20 * second, lives: (second, 4 * second) };
    let came = endure(plan, 1, |word| println!("{word}"));
    println!("{came:?}");
    assert!(came.deaths >= 4 && came.acknowledged > 300, "{came:?}");
    assert_eq!((came.lost, came.twice, came.only_reported, came.denied, came.damaged), (0, 0, 0, 0, 0), "{came:?}");
    assert!(came.not_done.is_empty(), "nothing was in the way: {came:?}");
}
