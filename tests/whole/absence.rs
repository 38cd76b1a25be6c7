//! A machine that is away, and a hub that is killed.

use fernwart_protocol::limits::{IDLE_TIMEOUT, KEEP_ALIVE, STAFF_IDLE_TIMEOUT};
use fernwart_tests::test_script::Script;
use fernwart_tests::{Frozen, Process, World, wait_until, wait_within};
use std::io::{BufRead, BufReader, Read};
use std::process::Stdio;
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
    assert_eq!((away["status"].as_str(), away["why"].as_str()), (Some("away"), Some("the machine is away")));
    let summary = lines.last().expect("a summary");
    assert_eq!(
        (summary["no_answer"].as_u64(), summary["away"].as_u64(), summary["exit"].as_u64()),
        (Some(0), Some(1), Some(4))
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
    let world = World::new();
    let one = world.add_machine("kasse-1");
    let frozen = Frozen::new(&one.agent);
    assert!(world.is_online("kasse-1"), "nobody can know yet");
    let away = wait_within(IDLE_TIMEOUT + Duration::from_secs(10), "it is away", || !world.is_online("kasse-1"));
    println!("away after {away:?}");
    drop(frozen);
    // Mostly at once, its own idle time being over, too. One that heard something
    // last thing before it froze takes it in first, and notices when it speaks next.
    let back = wait_within(KEEP_ALIVE + Duration::from_secs(10), "it is back", || world.is_online("kasse-1"));
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
    assert_eq!((jobs.len(), jobs[0]["done"].as_u64()), (1, Some(3)));
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

fn started(machine: &fernwart_tests::Machine) -> usize {
    machine.journal().iter().filter(|(kind, _)| kind == "run_started").count()
}

/// A whole look, begun and not over yet.
fn look_in_background(world: &World, machine: &fernwart_tests::Machine) -> Process {
    let mut look = world.command(&["diagnose", &machine.name, "--timeout", "15s"]);
    let watcher = Process::start(&mut look, &world.path().join("look.log"));
    wait_until("the look has begun", || started(machine) == 1);
    watcher
}

#[test]
fn a_hub_killed_while_a_machine_looks_has_the_outcome_afterwards() {
    let mut world = World::new();
    let machine = world.add_machine("kasse-1");
    let mut watcher = look_in_background(&world, &machine);
    world.hub.kill_9();
    world.restart_hub();
    wait_until("the outcome is stored", || {
        let runs = world.technician(&["job", "show", "1", "-o", "jsonl"]).exits(0).json_lines();
        runs[0]["outcome"] == "ok"
    });
    assert_eq!(started(&machine), 1, "nothing was repeated");
    // Whoever waited for it need not ask again.
    wait_until("the technician has the answer", || !watcher.is_running());
    let log = watcher.log();
    assert!(log.contains("the hub is back") && !log.contains("no answer"), "{log}");
}

#[test]
fn who_follows_a_job_hears_its_end_past_a_hub_that_is_killed() {
    let mut world = World::new();
    let (one, mut two) = (world.add_machine("kasse-1"), world.add_machine("kasse-2"));
    for machine in [&one, &two] {
        let allowed = "[look]\nmode = \"allow\"\n[act]\nmode = \"allow\"\n";
        std::fs::write(machine.home.join("policy.toml"), allowed).expect("written");
    }
    world.approve(&Script::new("slow", "sleep 4\necho mended\n"));
    two.agent.stop();
    wait_until("the second is away", || !world.is_online("kasse-2"));
    let in_background = |words: &[&str]| {
        let mut command = world.command(words);
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("started")
    };
    let run = ["run", "slow", "kasse-1", "kasse-2", "--queue", "1h", "--reason", "x", "-o", "jsonl"];
    let running = in_background(&run);
    wait_until("it has begun", || started(&one) == 1);
    let mut watching = in_background(&["job", "watch", "1"]);
    let mut watched = BufReader::new(watching.stdout.take().expect("piped"));
    let mut heard = String::new();
    watched.read_line(&mut heard).expect("a line");
    assert!(heard.contains("kasse-2") && heard.contains("queued"), "{heard}");
    world.hub.kill_9();
    world.restart_hub();
    let ended = running.wait_with_output().expect("ended");
    let (out, err) = (String::from_utf8_lossy(&ended.stdout), String::from_utf8_lossy(&ended.stderr));
    assert_eq!(ended.status.code(), Some(0), "{out}{err}");
    assert!(err.contains("the hub has gone") && err.contains("the hub is back"), "{err}");
    assert!(out.contains(r#""machine":"kasse-1""#) && out.contains(r#""job":1"#), "{out}");
    // What was told before is not told twice.
    two.restart();
    watched.read_to_string(&mut heard).expect("read");
    assert_eq!(watching.wait().expect("ended").code(), Some(0));
    assert_eq!((heard.matches("queued").count(), heard.matches("done").count()), (1, 2), "{heard}");
    assert_eq!((started(&one), started(&two)), (1, 1), "nothing was repeated");
}

#[test]
fn who_follows_a_job_hears_its_end_past_a_hub_that_is_restarted() {
    let mut world = World::new();
    let machine = world.add_machine("kasse-1");
    std::fs::write(machine.home.join("policy.toml"), "[look]\nmode = \"allow\"\n[act]\nmode = \"allow\"\n")
        .expect("written");
    // Longer than a hub that stops hears out.
    world.approve(&Script::new("slow", "sleep 12\necho mended\n"));
    let mut command = world.command(&["run", "slow", "kasse-1", "--reason", "x", "-o", "jsonl"]);
    let running = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("started");
    wait_until("it has begun", || started(&machine) == 1);
    assert_eq!(world.hub.stop(), Some(0));
    world.restart_hub();
    let ended = running.wait_with_output().expect("ended");
    let (out, err) = (String::from_utf8_lossy(&ended.stdout), String::from_utf8_lossy(&ended.stderr));
    assert_eq!(ended.status.code(), Some(0), "{out}{err}");
    assert!(err.contains("the hub is back") && out.contains("mended"), "{out}{err}");
    assert_eq!(started(&machine), 1, "nothing was repeated");
}

#[test]
fn who_waits_for_a_hub_whose_computer_has_gone_notices_before_an_agent_would() {
    let mut world = World::new();
    let machine = world.add_machine("kasse-1");
    let _frozen = Frozen::new(&machine.agent);
    let mut look = world.command(&["diagnose", "kasse-1", "--timeout", "5m"]);
    let look = Process::start(&mut look, &world.path().join("look.log"));
    wait_until("the job is taken in", || world.technician(&["job", "show", "1"]).code == 0);
    world.hub.kill_9();
    let notices = STAFF_IDLE_TIMEOUT + Duration::from_secs(20);
    assert!(notices < IDLE_TIMEOUT);
    wait_within(notices, "it is told", || look.log().contains("the hub has gone; waiting for it"));
}

#[test]
fn a_hub_that_stops_hears_out_what_is_under_way() {
    let mut world = World::new();
    let machine = world.add_machine("kasse-1");
    let mut watcher = look_in_background(&world, &machine);
    assert_eq!(world.hub.stop(), Some(0));
    assert!(world.hub.log().contains("clean=true"), "{}", world.hub.log());
    wait_until("the technician has the answer", || !watcher.is_running());
    assert!(!watcher.log().contains("no answer"), "{}", watcher.log());
    world.restart_hub();
    let runs = world.technician(&["job", "show", "1", "-o", "jsonl"]).exits(0).json_lines();
    assert_eq!(runs[0]["outcome"], "ok");
}

#[test]
fn answers_come_as_they_arrive_and_a_job_can_be_left_and_watched_again() {
    let world = World::new();
    let (one, _two) = (world.add_machine("kasse-1"), world.add_machine("kasse-2"));
    let frozen = Frozen::new(&one.agent);
    let words = ["diagnose", "kasse-1", "kasse-2", "--section", "memory", "-o", "jsonl", "--timeout", "60s"];
    let mut asking = world
        .command(&words)
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::null())
        .spawn()
        .expect("started");
    let mut line = String::new();
    BufReader::new(asking.stdout.take().expect("piped")).read_line(&mut line).expect("a line");
    assert!(line.contains("kasse-2") && !line.contains("summary"), "before the other has answered: {line}");
    // The laptop is closed; the job goes on.
    asking.kill().expect("killed");
    asking.wait().expect("ended");
    let mut watch = world.command(&["job", "watch", "1"]);
    let mut watch = watch.stdout(std::process::Stdio::piped()).spawn().expect("started");
    drop(frozen);
    let said = std::io::read_to_string(watch.stdout.take().expect("piped")).expect("read");
    assert!(said.contains("kasse-1") && said.contains("kasse-2"), "{said}");
    assert!(matches!(watch.wait().expect("ended").code(), Some(0 | 1)));
}

#[test]
fn ctrl_c_ends_the_asking_within_a_second_and_says_that_the_job_goes_on() {
    use rustix::process::{Pid, Signal, kill_process};
    let world = World::new();
    let one = world.add_machine("kasse-1");
    let frozen = Frozen::new(&one.agent);
    let mut look = world.command(&["diagnose", "kasse-1", "--timeout", "60s"]);
    let mut asking = Process::start(&mut look, &world.path().join("look.log"));
    wait_until("it is asked", || !world.technician(&["job", "ls", "-o", "name"]).exits(0).out.is_empty());
    kill_process(Pid::from_raw(asking.pid().cast_signed()).expect("a pid"), Signal::INT).expect("interrupted");
    wait_within(Duration::from_secs(2), "it ends", || !asking.is_running());
    assert!(asking.log().contains("what was sent goes on"), "{}", asking.log());
    assert_eq!(asking.stop(), Some(130));
    drop(frozen);
}

#[test]
fn a_machine_is_online_within_a_second_of_joining() {
    let world = World::new();
    let mut machine = world.add_machine("kasse-1");
    // Other tests share this computer; the best of a few is what it can do.
    let best = (0..5).map(|_| {
        machine.agent.stop();
        wait_until("it is away", || !world.is_online("kasse-1"));
        machine.restart();
        wait_within(Duration::from_secs(10), "it is online", || world.is_online("kasse-1"))
    });
    let best = best.min().expect("five");
    assert!(best < Duration::from_secs(1), "{best:?}");
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
