//! A machine that is away, and a hub that is killed.

use fernwart_protocol::limits::{IDLE_TIMEOUT, KEEP_ALIVE, STAFF_IDLE_TIMEOUT};
use fernwart_tests::test_script::Script;
use fernwart_tests::{Frozen, Process, World, wait_until, wait_within};
use std::io::{BufRead, BufReader, Read};
use std::process::Stdio;
use std::time::Duration;

#[test]
fn a_stopped_machine_is_reported_as_away_without_waiting() {
    let world = World::new();
    let _one = world.add_machine("kasse-1");
    let mut two = world.add_machine("kasse-2");
    assert_eq!(two.agent.stop(), Some(0), "the agent stops cleanly");
    wait_until("the hub sees it away", || !world.is_online("kasse-2"));
    let output = world.technician(&["diagnose", "all", "-o", "jsonl", "--timeout", "8s"]).exits(4);
    assert!(output.took < Duration::from_secs(8), "{:?}", output.took);
    let lines = output.json_lines();
    let away = lines.iter().find(|line| line["machine"] == "kasse-2").expect("it is named");
    assert_eq!((away["status"].as_str(), away["why"].as_str()), (Some("away"), Some("the machine is away")));
    let summary = lines.last().expect("a summary");
    assert_eq!(
        (summary["no_answer"].as_u64(), summary["away"].as_u64(), summary["exit"].as_u64()),
        (Some(0), Some(1), Some(4))
    );
    let output = world.technician(&["diagnose", "all", "-o", "jsonl", "--require", "online"]);
    assert!(matches!(output.code, 0 | 1), "{}", output.err);
    assert_eq!(output.json_lines().last().expect("a summary")["away"], 1);
}

#[test]
fn diagnose_gives_up_on_a_frozen_machine_at_its_timeout() {
    let world = World::new();
    let one = world.add_machine("kasse-1");
    let frozen = Frozen::new(&one.agent);
    let output = world.technician(&["diagnose", "kasse-1", "-o", "jsonl", "--timeout", "2s"]);
    drop(frozen);
    let output = output.exits(4);
    assert!(output.took >= Duration::from_secs(2) && output.took < Duration::from_secs(8), "{:?}", output.took);
    assert_eq!(output.json_lines()[0]["why"], "no answer in time");
}

#[test]
fn a_silent_machine_is_shown_as_away_after_the_idle_timeout() {
    let world = World::new();
    let one = world.add_machine("kasse-1");
    let frozen = Frozen::new(&one.agent);
    assert!(world.is_online("kasse-1"), "nobody can know yet");
    let away = wait_within(IDLE_TIMEOUT + Duration::from_secs(10), "it is away", || !world.is_online("kasse-1"));
    println!("away after {away:?}");
    drop(frozen);
    // It usually reconnects at once, since its own idle timeout has passed, too. If a datagram was waiting
    // when it froze, it processes that first and notices at its next keep-alive.
    let back = wait_within(KEEP_ALIVE + Duration::from_secs(10), "it is back", || world.is_online("kasse-1"));
    println!("back after {back:?}");
}

#[test]
fn a_killed_hub_keeps_its_history_and_machines_reconnect_within_five_seconds() {
    let mut world = World::new();
    let _machines: Vec<_> = ["kasse-1", "kasse-2", "lager-1"].iter().map(|name| world.add_machine(name)).collect();
    let output = world.technician(&["diagnose", "all", "-o", "jsonl"]);
    assert!(matches!(output.code, 0 | 1), "{}", output.err);
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
    let output = world.technician(&["diagnose", "all", "-o", "jsonl"]);
    assert!(matches!(output.code, 0 | 1), "{}", output.err);
}

#[test]
fn a_stopping_hub_logs_a_clean_stop_and_a_second_hub_is_refused() {
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

/// Starts a complete diagnosis and waits until it has begun.
fn look_in_background(world: &World, machine: &fernwart_tests::Machine) -> Process {
    let mut look = world.command(&["diagnose", &machine.name, "--timeout", "15s"]);
    let watcher = Process::start(&mut look, &world.path().join("look.log"));
    wait_until("the look has begun", || started(machine) == 1);
    watcher
}

#[test]
fn an_outcome_reaches_a_hub_that_was_killed_during_the_diagnosis() {
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
    // The waiting technician gets the outcome without asking again.
    wait_until("the technician has the answer", || !watcher.is_running());
    let log = watcher.log();
    assert!(log.contains("the hub is back") && !log.contains("no answer"), "{log}");
}

#[test]
fn a_job_watcher_receives_the_end_after_the_hub_is_killed() {
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
    let mut received = String::new();
    watched.read_line(&mut received).expect("a line");
    assert!(received.contains("kasse-2") && received.contains("queued"), "{received}");
    world.hub.kill_9();
    world.restart_hub();
    let ended = running.wait_with_output().expect("ended");
    let (out, err) = (String::from_utf8_lossy(&ended.stdout), String::from_utf8_lossy(&ended.stderr));
    assert_eq!(ended.status.code(), Some(0), "{out}{err}");
    assert!(err.contains("the hub has gone") && err.contains("the hub is back"), "{err}");
    assert!(out.contains(r#""machine":"kasse-1""#) && out.contains(r#""job":1"#), "{out}");
    // Updates shown before are not shown again.
    two.restart();
    watched.read_to_string(&mut received).expect("read");
    assert_eq!(watching.wait().expect("ended").code(), Some(0));
    assert_eq!((received.matches("queued").count(), received.matches("done").count()), (1, 2), "{received}");
    assert_eq!((started(&one), started(&two)), (1, 1), "nothing was repeated");
}

#[test]
fn a_job_watcher_receives_the_end_after_the_hub_restarts() {
    let mut world = World::new();
    let machine = world.add_machine("kasse-1");
    std::fs::write(machine.home.join("policy.toml"), "[look]\nmode = \"allow\"\n[act]\nmode = \"allow\"\n")
        .expect("written");
    // Longer than a stopping hub waits for running orders.
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
fn a_waiting_technician_detects_a_vanished_hub_sooner_than_an_agent() {
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
fn a_stopping_hub_waits_for_running_orders() {
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
fn results_print_as_they_arrive_and_a_left_job_can_be_watched_again() {
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
    // The technician disconnects; the job continues.
    asking.kill().expect("killed");
    asking.wait().expect("ended");
    let mut watch = world.command(&["job", "watch", "1"]);
    let mut watch = watch.stdout(std::process::Stdio::piped()).spawn().expect("started");
    drop(frozen);
    let output = std::io::read_to_string(watch.stdout.take().expect("piped")).expect("read");
    assert!(output.contains("kasse-1") && output.contains("kasse-2"), "{output}");
    assert!(matches!(watch.wait().expect("ended").code(), Some(0 | 1)));
}

#[test]
fn ctrl_c_detaches_from_a_job_and_says_that_it_continues() {
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
fn a_machine_is_online_within_a_second_of_its_start() {
    let world = World::new();
    let mut machine = world.add_machine("kasse-1");
    // Other tests share this computer, so the best of five counts.
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
fn an_agent_killed_during_a_diagnosis_reports_interrupted_and_repeats_nothing() {
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
