//! Approved scripts: from a folder to a repaired machine, and every refusal on the way.

use fernwart_tests::test_script::Script;
use fernwart_tests::{CommandOutput, Machine, World, wait_until};
use serde_json::Value;
use std::process::Stdio;

pub(crate) fn policy(machine: &Machine, text: &str) {
    std::fs::write(machine.home.join("policy.toml"), text).expect("written");
}

fn trusting(machine: &Machine) {
    policy(machine, "[look]\nmode = \"allow\"\n[act]\nmode = \"allow\"\n");
}

pub(crate) fn run(world: &World, words: &[&str]) -> CommandOutput {
    let mut all = vec!["run"];
    all.extend(words);
    if !words.contains(&"--reason") {
        all.extend(["--reason", "test"]);
    }
    world.technician(&all)
}

fn result(printed: &CommandOutput) -> Value {
    let lines: Vec<Value> = printed.out.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    lines.into_iter().find(|line| line["type"] == "result").unwrap_or_else(|| panic!("{printed:?}"))
}

#[test]
fn an_approved_script_runs_and_reports_its_result() {
    let world = World::new();
    let machine = world.add_machine("kasse-1");
    trusting(&machine);
    let hello = Script::new("hello", "echo \"hello $FERNWART_PARAM_WHO\"; echo oops >&2; cat; exit 3\n")
        .parameter("who", "text", "default = \"world\"")
        .and("[[exit]]\ncode = 3\nwell = true\nen = \"greeted\"\nde = \"gegrüßt\"");
    let printed = world.approve(&hello);
    assert!(printed.err.contains("+ script hello 1: Test hello (privilege repair)"), "{}", printed.err);
    let listed = world.technician(&["script", "ls"]).exits(0).out;
    assert!(listed.contains("hello") && listed.contains("repair"), "{listed}");
    let shown = world.technician(&["script", "show", "hello"]).exits(0).out;
    assert!(shown.contains("echo \"hello $FERNWART_PARAM_WHO\""), "{shown}");

    let printed = run(&world, &["hello", "kasse-1", "-p", "who=Jana; $(id)"]).exits(0);
    assert!(printed.out.contains("hello Jana; $(id)\n"), "{}", printed.out);
    assert!(printed.out.contains("{\"who\":\"Jana; $(id)\"}"), "parameters come on standard input: {}", printed.out);
    assert!(printed.err.contains("oops"), "{}", printed.err);
    assert!(printed.out.contains("exit 3: greeted") && printed.out.contains("Receipt "), "{}", printed.out);

    let printed = run(&world, &["hello", "kasse-1", "-o", "jsonl"]).exits(0);
    let report = &result(&printed)["report"];
    assert_eq!(report["stdout"]["head"], "hello world\n{\"who\":\"world\"}");
    assert_eq!((report["exit"].as_i64(), report["well"].as_bool()), (Some(3), Some(true)));
    let kinds: Vec<_> = machine.journal().into_iter().map(|(kind, _)| kind).collect();
    assert_eq!(kinds.iter().filter(|kind| *kind == "run_started").count(), 2);
    let jobs = world.technician(&["job", "ls"]).exits(0).out;
    assert!(jobs.contains("script hello"), "{jobs}");
    let watched = world.technician(&["job", "watch", "1"]).exits(0).out;
    assert!(watched.contains("greeted"), "{watched}");
    // JSON output is one document, as for a diagnosis; CSV has a header.
    world.add_machine("kasse-2").agent.stop();
    let printed = run(&world, &["hello", "kasse-1", "kasse-2", "-o", "json"]).exits(4);
    let all: serde_json::Value = serde_json::from_str(&printed.out).expect("one JSON document");
    let status = |of: &str| {
        let results = all["results"].as_array().expect("results");
        results.iter().find(|one| one["machine"] == of).map(|one| one["status"].clone())
    };
    assert_eq!((all["type"].as_str(), status("kasse-1")), (Some("run"), Some("ok".into())), "{all}");
    assert_eq!((&all["summary"]["ok"], status("kasse-2")), (&1.into(), Some("away".into())), "{all}");
    assert_eq!(all["summary"]["selected"], 2, "{all}");
    let printed = run(&world, &["hello", "kasse-1", "kasse-2", "-o", "csv"]).exits(4);
    let mut lines: Vec<&str> = printed.out.lines().skip(1).collect();
    lines.sort_unstable();
    assert!(printed.out.starts_with("machine,customer,status,code,why\n"), "{}", printed.out);
    assert_eq!(lines, ["kasse-1,Bäckerei Meyer,ok,,", "kasse-2,Bäckerei Meyer,away,,the machine is away"]);
}

#[test]
fn unapproved_scripts_and_invalid_parameters_are_refused() {
    let world = World::new();
    let machine = world.add_machine("kasse-1");
    trusting(&machine);
    let printed = run(&world, &["format-c", "kasse-1"]).exits(3);
    assert!(
        printed.err.contains("script \"format-c\" is not in the catalogue; nobody has approved it."),
        "{}",
        printed.err
    );
    assert!(printed.err.contains("FW-CAT-01"), "{}", printed.err);
    let script = Script::new("touchy", "echo $FERNWART_PARAM_PATH\n")
        .parameter("path", "path", "under = [\"/var/log\"]")
        .parameter("days", "integer", "min = 1\nmax = 9\ndefault = 3");
    world.approve(&script);
    for (parameters, why) in [
        (vec!["-p", "path=/etc/passwd"], "must lie under /var/log"),
        (vec!["-p", "path=/var/log/../../etc"], "plain path"),
        (vec!["-p", "path=/var/log", "-p", "days=10"], "must be from 1 to 9"),
        (vec!["-p", "path=/var/log", "-p", "days=many"], "a whole number is needed"),
        (vec!["-p", "path=/var/log", "-p", "color=red"], "it has path, days"),
        (vec![], "parameter path: must be given"),
        (vec!["-p", "path"], "NAME=VALUE"),
    ] {
        let mut words = vec!["touchy", "kasse-1"];
        words.extend(parameters);
        let printed = run(&world, &words).exits(2);
        assert!(printed.err.contains(why) && printed.err.contains("FW-CLI-11"), "{}", printed.err);
    }
    let printed = world.technician(&["run", "touchy", "kasse-1", "-p", "path=/var/log"]).exits(2);
    assert!(printed.err.contains("FW-CLI-13"), "an act needs a reason: {}", printed.err);
    let printed = run(&world, &["touchy", "kasse-1", "-p", "path=/var/log", "--dry-run"]).exits(3);
    assert!(printed.out.contains("FW-CAT-13"), "{}", printed.out);
    world.technician(&["catalogue", "withdraw", "--yes", "touchy"]).exits(0);
    run(&world, &["touchy", "kasse-1", "-p", "path=/var/log"]).exits(3);
    assert!(!machine.journal().iter().any(|(kind, _)| kind == "run_started"), "nothing has begun");
}

#[test]
fn queued_orders_run_in_the_order_they_were_given() {
    let world = World::new();
    let mut machine = world.add_machine("kasse-1");
    trusting(&machine);
    world.approve(&Script::new("mend", "exit 0\n").parameter("step", "integer", "min = 1\nmax = 9"));
    machine.agent.stop();
    wait_until("it is away", || !world.is_online("kasse-1"));
    for step in 1..=6 {
        run(&world, &["mend", "kasse-1", "--queue", "1h", "-p", &format!("step={step}")]).exits(0);
    }
    machine.restart();
    wait_until("it is back", || world.is_online("kasse-1"));
    let steps = || -> Vec<Value> {
        let begun = machine.journal().into_iter().filter(|(kind, _)| kind == "run_started");
        begun.map(|(_, body)| body["action"]["script"]["parameters"]["step"].clone()).collect()
    };
    wait_until("all are done", || steps().len() == 6);
    assert_eq!(steps(), [1, 2, 3, 4, 5, 6]);
}

#[test]
fn an_order_is_held_for_a_machine_that_is_away_and_run_once_when_it_returns() {
    let mut world = World::new();
    let mut machine = world.add_machine("kasse-1");
    trusting(&machine);
    world.approve(&Script::new("mend", "echo mended\n"));
    machine.agent.stop();
    wait_until("it is away", || !world.is_online("kasse-1"));
    // Without --queue the run fails at once.
    run(&world, &["mend", "kasse-1"]).exits(4);
    let printed = run(&world, &["mend", "kasse-1", "--queue", "8h", "-o", "jsonl"]).exits(0);
    assert_eq!(result(&printed)["status"], "queued");
    run(&world, &["mend", "kasse-1", "--queue", "8h"]).exits(0);
    let taken_back = run(&world, &["mend", "kasse-1", "--queue", "8h"]).exits(0);
    assert!(taken_back.out.contains("queued: away"), "{}", taken_back.out);
    world.technician(&["job", "cancel", "4"]).exits(0);
    let state = |job: &str| world.technician(&["job", "show", job, "-o", "jsonl"]).exits(0).json_lines()[0].clone();
    assert_eq!((state("2")["state"].as_str(), state("4")["state"].as_str()), (Some("held"), Some("cancelled")));
    machine.restart();
    for job in ["2", "3"] {
        wait_until("it is run", || state(job)["outcome"] == "ok");
    }
    let started = |machine: &Machine| machine.journal().iter().filter(|(kind, _)| kind == "run_started").count();
    assert_eq!(started(&machine), 2);
    // Neither another reconnect nor a restarted hub delivers it again.
    machine.agent.kill_9();
    world.hub.kill_9();
    world.restart_hub();
    machine.restart();
    wait_until("it is back", || world.is_online("kasse-1"));
    let printed = run(&world, &["mend", "kasse-1"]).exits(0);
    assert!(printed.out.contains("done in"), "{}", printed.out);
    assert_eq!(started(&machine), 3);
}

#[test]
fn job_retry_repeats_only_the_failed_runs() {
    let world = World::new();
    let (one, two) = (world.add_machine("kasse-1"), world.add_machine("kasse-2"));
    trusting(&one);
    policy(&two, "[look]\nmode = \"allow\"\n[act]\nmode = \"never\"\n");
    world.approve(&Script::new("mend", "echo mended\n"));
    run(&world, &["mend", "all", "--parallel", "50%"]).exits(3);
    trusting(&two);
    // The technician has not typed what is sent, so it is shown and must be confirmed.
    let printed = world.technician(&["job", "retry", "1", "--failed"]).exits(2);
    assert!(printed.err.contains("FW-CLI-14") && printed.err.contains("as jana ordered it on"), "{}", printed.err);
    assert!(printed.err.contains("on 1 machine of 1 customer:\n  Bäckerei Meyer: kasse-2"), "{}", printed.err);
    let printed = world.technician(&["job", "retry", "1", "--failed", "--yes", "other"]).exits(2);
    assert!(printed.err.contains("FW-CLI-14") && printed.err.contains("ran mend"), "{}", printed.err);
    let printed = world.technician(&["job", "retry", "1", "--failed", "--yes", "mend"]).exits(0);
    assert!(printed.out.contains("kasse-2  done") && !printed.out.contains("kasse-1"), "{}", printed.out);
    let printed = world.technician(&["job", "retry", "2", "--failed", "--yes", "mend"]).exits(2);
    assert!(printed.err.contains("FW-CLI-16"), "{}", printed.err);
    world.technician(&["job", "retry", "1", "--yes", "mend"]).exits(0);
}

#[test]
fn job_retry_refuses_unfinished_runs_and_mismatched_orders() {
    let mut world = World::new();
    let machine = world.add_machine("kasse-1");
    trusting(&machine);
    world.approve_all(&[Script::new("mend", "echo mended\n"), Script::new("other", "echo other\n")]);
    let log = world.path().join("job.log");
    // The machine is frozen, so the run counts as under way.
    let frozen = fernwart_tests::Frozen::new(&machine.agent);
    let mut command = world.command(&["run", "mend", "kasse-1", "--reason", "x", "--timeout", "60s"]);
    let mut asking = fernwart_tests::Process::start(&mut command, &log);
    wait_until("it is offered", || world.technician(&["job", "ls", "-o", "name"]).exits(0).out.contains('1'));
    let printed = world.technician(&["job", "retry", "1", "--yes", "mend"]).exits(2);
    assert!(printed.err.contains("kasse-1  offered: not over, and not given anew"), "{}", printed.err);
    drop(frozen);
    wait_until("it is over", || !asking.is_running());
    run(&world, &["other", "kasse-1"]).exits(0);
    // The hub puts the order of one job under the run of another.
    world.hub.stop();
    let swap = "UPDATE runs SET order_envelope = (SELECT order_envelope FROM runs WHERE job = 2) WHERE job = 1";
    let store = world.shop().join("hub/store.sqlite");
    fernwart_tests::run(std::process::Command::new("sqlite3").arg(&store).arg(swap)).exits(0);
    world.restart_hub();
    let printed = world.technician(&["job", "retry", "1", "--yes", "mend"]).exits(2);
    assert!(printed.err.contains("FW-CLI-16") && printed.err.contains("shows no order"), "{}", printed.err);
    let started = machine.journal().iter().filter(|(kind, _)| kind == "run_started").count();
    assert_eq!(started, 2);
}

#[test]
fn an_order_is_queued_for_seven_days_at_most() {
    let world = World::new();
    let mut machine = world.add_machine("kasse-1");
    trusting(&machine);
    world.approve(&Script::new("mend", "echo mended\n"));
    machine.agent.stop();
    wait_until("it is away", || !world.is_online("kasse-1"));
    let printed = run(&world, &["mend", "kasse-1", "--queue", "8d"]).exits(2);
    assert!(printed.err.contains("seven days") && printed.err.contains("FW-CLI-01"), "{}", printed.err);
    run(&world, &["mend", "kasse-1", "--queue", "7d"]).exits(0);
    machine.restart();
    wait_until("it is done", || {
        world.technician(&["job", "show", "1", "-o", "jsonl"]).exits(0).json_lines()[0]["outcome"] == "ok"
    });
}

#[test]
fn exported_receipts_verify_until_they_are_altered() {
    let world = World::new();
    let machine = world.add_machine("kasse-1");
    trusting(&machine);
    world.approve(&Script::new("mend", "echo mended\n"));
    run(&world, &["mend", "kasse-1"]).exits(0);
    assert!(matches!(world.technician(&["diagnose", "kasse-1", "--section", "memory"]).code, 0 | 1));
    let shown = world.technician(&["journal", "show", "kasse-1"]).exits(0).out;
    assert!(shown.contains("mend 1") && shown.contains("diagnose") && shown.contains("act.mode = allow"), "{shown}");
    let text = world.technician(&["journal", "export", "kasse-1"]).exits(0).out;
    let file = world.path().join("chain.jsonl");
    let verify = |text: &str| {
        std::fs::write(&file, text).expect("written");
        world.technician(&["journal", "verify", file.to_str().expect("text")])
    };
    let printed = verify(&text).exits(0);
    assert!(
        printed.out.contains("whole: 2 receipts") && printed.out.contains("the hub of this home"),
        "{}",
        printed.out
    );
    let lines: Vec<&str> = text.lines().collect();
    let without = |place: usize| {
        let kept = lines.iter().enumerate().filter(|(at, _)| *at != place);
        kept.map(|(_, line)| format!("{line}\n")).collect::<String>()
    };
    for place in 0..lines.len() {
        verify(&without(place)).exits(1);
    }
    verify(&text.replace("\"seq\":2", "\"seq\":1")).exits(1);
    // Receipts in another order are refused, too.
    let mut swapped = lines.clone();
    swapped.swap(1, 2);
    verify(&(swapped.join("\n").replace("\"seq\":2", "\"seq\":9") + "\n")).exits(1);
}

#[test]
fn a_machine_with_rolled_back_records_is_detected_and_flagged() {
    let mut world = World::new();
    let mut machine = world.add_machine("kasse-1");
    let look = |world: &World| {
        assert!(matches!(world.technician(&["diagnose", "kasse-1", "--section", "memory"]).code, 0 | 1));
    };
    look(&world);
    machine.agent.stop();
    let (store, backup) = (machine.home.join("books.redb"), world.path().join("books.backup"));
    std::fs::copy(&store, &backup).expect("copied");
    machine.restart();
    wait_until("it is back", || world.is_online("kasse-1"));
    look(&world);
    machine.agent.stop();
    std::fs::copy(&backup, &store).expect("put back");
    machine.restart();
    wait_until("the hub notices", || world.hub.log().contains("its journal went back from entry"));
    let listed = world.technician(&["ls"]).exits(0).out;
    assert!(listed.contains("crit: its journal went back"), "{listed}");
    let printed = world.technician(&["acknowledge", "kasse-1"]).exits(0);
    assert!(printed.err.contains("acknowledged: its journal went back"), "{}", printed.err);
    assert!(!world.technician(&["ls"]).exits(0).out.contains("journal"));
    // A rolled-back journal that has since grown beyond what the hub knows is detected, too.
    look(&world);
    machine.agent.stop();
    world.hub.stop();
    std::fs::copy(&backup, &store).expect("put back");
    machine.restart();
    wait_until("it can be asked", || machine.owner(&["questions"]).code == 0);
    for _ in 0..4 {
        machine.owner(&["pause"]).exits(0);
        machine.owner(&["resume"]).exits(0);
    }
    world.restart_hub();
    wait_until("the hub notices", || world.hub.log().contains("its journal was rewritten before entry"));
    assert!(world.technician(&["ls"]).exits(0).out.contains("crit: its journal was rewritten"));
}

#[test]
fn a_started_run_is_not_repeated_after_the_state_store_is_rolled_back() {
    state_store_goes_back(false);
}

#[test]
fn a_started_run_is_reported_as_interrupted_after_rollback_and_cancel() {
    state_store_goes_back(true);
}

fn state_store_goes_back(taken_back: bool) {
    let world = World::new();
    let mut machine = world.add_machine("kasse-1");
    trusting(&machine);
    world.approve(&Script::new("slow", "sleep 3\n"));
    wait_until("it follows what was published", || machine.agent.log().contains("following a newer catalogue"));
    machine.agent.stop();
    let (store, older) = (machine.home.join("books.redb"), machine.home.join("older"));
    std::fs::copy(&store, &older).expect("copied");
    machine.restart();
    wait_until("it is linked", || world.is_online("kasse-1"));
    let mut command = world.command(&["run", "slow", "kasse-1", "--reason", "x", "-o", "jsonl"]);
    let running = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("started");
    let state = || world.technician(&["job", "show", "1", "-o", "jsonl"]).json_lines().first().cloned();
    wait_until("the hub knows that it has begun", || state().is_some_and(|run| run["state"] == "running"));
    machine.agent.kill_9();
    std::fs::rename(&older, &store).expect("restored");
    if taken_back {
        world.technician(&["job", "cancel", "1"]).exits(0);
    }
    machine.restart();
    let ended = running.wait_with_output().expect("ended");
    let printed = String::from_utf8_lossy(&ended.stdout).into_owned();
    assert_eq!(ended.status.code(), Some(5), "{printed}");
    assert!(printed.contains("interrupted"), "{printed}");
    let kinds: Vec<String> = machine.journal().into_iter().map(|(kind, _)| kind).collect();
    assert!(!kinds.contains(&"run_started".to_owned()), "{kinds:?}");
    let last = machine.journal().pop().expect("an entry");
    assert_eq!((last.0.as_str(), &last.1["code"]), ("run_finished", &"FW-GATE-20".into()), "{last:?}");
    let listed = world.technician(&["ls"]).exits(0).out;
    assert!(listed.contains("crit: its state store is an older copy"), "{listed}");
}

#[test]
fn restarts_of_agent_and_hub_raise_no_alarm() {
    let mut world = World::new();
    let mut machine = world.add_machine("kasse-1");
    for turn in 0..4 {
        assert!(matches!(world.technician(&["diagnose", "kasse-1", "--section", "memory"]).code, 0 | 1));
        match turn % 2 {
            0 => {
                machine.agent.kill_9();
                machine.restart();
            }
            _ => {
                world.hub.kill_9();
                world.restart_hub();
            }
        }
        wait_until("it is linked", || world.is_online("kasse-1"));
    }
    let listed = world.technician(&["ls"]).exits(0).out;
    assert!(!listed.contains("journal") && !world.hub.log().contains("its journal"), "{listed}");
    assert!(!machine.journal().iter().any(|(kind, _)| kind == "hub_fell_back"));
}

#[test]
fn script_test_cannot_touch_the_computer_it_runs_on() {
    let folder = tempfile::tempdir_in("/srv").expect("a folder");
    let tries = "echo 1 > /srv/repaired\n\
                 touch /srv/fernwart-evil\n\
                 for file in /proc/sys/kernel/core_pattern /proc/sysrq-trigger /sys/power/state; do\n\
                     [ -w $file ] && (: >> $file) 2>/dev/null && echo $file >> /srv/reached\n\
                 done\n\
                 for disk in /dev/vda /dev/sda /dev/mem /dev/kmsg; do [ -e $disk ] && echo $disk >> /srv/reached; done\n\
                 mount -t tmpfs none /mnt 2>/dev/null && echo mounts >> /srv/reached\n\
                 mknod /srv/disk b 254 0 2>/dev/null && echo a device >> /srv/reached\n\
                 [ -e /.below ] && echo below >> /srv/reached\n\
                 date -s @1 2>/dev/null && echo the clock >> /srv/reached\n\
                 exit 0\n";
    let path = Script::new("tries", tries).with("writes = [\"/srv\"]").write(folder.path());
    std::fs::create_dir(path.join(".test")).expect("made");
    std::fs::write(path.join(".test/break.sh"), "rm -f /srv/repaired\n").expect("written");
    std::fs::write(path.join(".test/check.sh"), "[ -e /srv/repaired ] && [ ! -e /srv/reached ]\n").expect("written");
    let mut test = std::process::Command::new(fernwart_tests::program("fernwart"));
    let printed = fernwart_tests::run(test.args(["script", "test"]).arg(&path));
    if printed.code == 2 && printed.err.contains("needs root") {
        assert!(std::env::var_os("CI").is_none(), "{}", printed.err);
        println!("skipped: {}", printed.err);
        return;
    }
    assert!(printed.code == 0 && printed.out.contains("broken, repaired, checked"), "{printed:?}");
    assert!(!std::path::Path::new("/srv/fernwart-evil").exists() && !std::path::Path::new("/srv/repaired").exists());
}

#[test]
fn every_shipped_script_passes_its_own_test() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../controller/scripts");
    let mut folders: Vec<_> = std::fs::read_dir(folder).expect("scripts").flatten().map(|entry| entry.path()).collect();
    folders.sort();
    assert!(folders.len() >= 12, "{}", folders.len());
    let mut lint = std::process::Command::new(fernwart_tests::program("fernwart"));
    let printed = fernwart_tests::run(lint.args(["script", "lint"]).args(&folders)).exits(0);
    assert_eq!(printed.err.matches(": no mistakes").count(), folders.len());
    let test = |folders: &[std::path::PathBuf]| {
        let mut test = std::process::Command::new(fernwart_tests::program("fernwart"));
        fernwart_tests::run(test.args(["script", "test"]).args(folders))
    };
    let printed = test(&folders);
    if printed.code == 2 && printed.err.contains("needs root") {
        assert!(std::env::var_os("CI").is_none(), "{}", printed.err);
        println!("skipped: {}", printed.err);
        return;
    }
    let printed = printed.exits(0);
    assert_eq!(printed.out.matches(": broken, repaired, checked").count(), folders.len(), "{}", printed.out);
    // A script that does nothing fails its test, and so does a check that cannot fail.
    let place = tempfile::tempdir().expect("a folder");
    let idle = Script::new("idle", "exit 0\n").write(place.path());
    std::fs::create_dir(idle.join(".test")).expect("a folder");
    std::fs::write(idle.join(".test/break.sh"), "touch /run/broken\n").expect("written");
    std::fs::write(idle.join(".test/check.sh"), "[ ! -e /run/broken ]\n").expect("written");
    let printed = test(std::slice::from_ref(&idle)).exits(1);
    assert!(printed.err.contains("check.sh still fails"), "{}", printed.err);
    std::fs::write(idle.join(".test/check.sh"), "true\n").expect("written");
    assert!(test(&[idle]).exits(1).err.contains("it could not tell"));
    assert!(!std::path::Path::new("/run/broken").exists(), "this computer has felt nothing");
}

/// Lines that contain a secret, each with that secret, filled in as in the agent's own test.
fn planted() -> Vec<(String, String)> {
    let pattern = regex::Regex::new(r"\{([aAh])(\d+)\}").expect("a pattern");
    let filled = |found: &regex::Captures<'_>| {
        let of = match &found[1] {
            "a" => "xY5",
            "A" => "KW2",
            _ => "fedcba9876543210",
        };
        of.chars().cycle().take(found[2].parse().expect("a number")).collect::<String>()
    };
    let text = include_str!("../../agent/tests/data/secrets.txt");
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines
        .map(|line| {
            let line = pattern.replace_all(line, filled).into_owned();
            (line.replace('§', ""), line.split('§').nth(1).expect("a secret").to_owned())
        })
        .collect()
}

#[test]
fn secrets_in_script_output_never_leave_the_machine() {
    let world = World::new();
    let machine = world.add_machine("kasse-1");
    trusting(&machine);
    let planted = planted();
    assert!(planted.len() >= 40, "{}", planted.len());
    // The lines are in a file, because the script's own text is public.
    let lines: String = planted.iter().map(|(line, _)| format!("{line}\n")).collect();
    let key = "-----BEGIN RSA PRIVATE KEY-----\nMIIEowIBAAKCAQEA75\nq83vEjRWeJq83vEj\n-----END RSA PRIVATE KEY-----\n";
    let folder = tempfile::tempdir_in("/srv").expect("a folder");
    let file = folder.path().join("log");
    // Each once more within one line of some megabytes, and the key in one line.
    let alone = |line: &str| ["password ", "mysql "].iter().any(|word| line.trim_start().starts_with(word));
    let long = planted.iter().filter(|(line, _)| !alone(line));
    let long: String = long.map(|(line, _)| format!("{line} {}", "-".repeat(50_021))).collect();
    let flat = key.replace('\n', "\\n");
    std::fs::write(&file, format!("{lines}{key}{long}{flat}{}\nend\n", "-".repeat(70_000))).expect("written");
    let scripts = [
        Script::new("whole", "cat $FERNWART_PARAM_FILE\n").parameter("file", "path", "under = [\"/srv\"]"),
        // One byte at a time, on standard error.
        Script::new("drips", "dd if=$FERNWART_PARAM_FILE bs=1 status=none >&2\n")
            .parameter("file", "path", "under = [\"/srv\"]")
            .and("[limits]\ntime_s = 120"),
    ];
    world.approve_all(&scripts);
    let parameter = format!("file={}", file.display());
    let mut reported = String::new();
    for (name, shape) in [("whole", "table"), ("whole", "jsonl"), ("drips", "jsonl"), ("drips", "table")] {
        let printed = run(&world, &[name, "kasse-1", "-p", &parameter, "-o", shape]).exits(0);
        assert!(printed.out.contains("[secret]") || printed.err.contains("[secret]"), "{name} {shape}: {printed:?}");
        reported += &(printed.out + &printed.err);
    }
    assert!(reported.contains("end\n") && reported.contains("taken out"), "{reported}");
    let watched = world.technician(&["job", "watch", "1"]).exits(0);
    reported += &watched.out;
    // All reports at the hub, unpacked, and all records of the machine.
    let store = world.shop().join("hub/store.sqlite");
    let dump = fernwart_tests::run(
        std::process::Command::new("sqlite3")
            .arg(&store)
            .arg("PRAGMA wal_checkpoint(TRUNCATE); SELECT hex(report) FROM runs WHERE report IS NOT NULL"),
    );
    let mut reports = 0;
    for line in dump.exits(0).out.lines().filter(|line| line.len() > 40) {
        let bytes: Vec<u8> = (0..line.len() / 2)
            .map(|at| u8::from_str_radix(&line[2 * at..2 * at + 2], 16).expect("hexadecimal"))
            .collect();
        reported += &serde_json::to_string(&fernwart_protocol::script::RunReport::unpack(&bytes).expect("a report"))
            .expect("JSON");
        reports += 1;
    }
    assert_eq!(reports, 4);
    reported += &machine.owner(&["journal", "--export"]).exits(0).out;
    reported += &machine.agent.log();
    for (line, secret) in &planted {
        assert!(!reported.contains(secret.as_str()), "{secret} of {line:?} has left");
        let json = serde_json::to_string(secret).expect("JSON");
        assert!(!reported.contains(json.trim_matches('"')), "{secret} has left");
    }
    for part in ["MIIEowIBAAKCAQEA75", "q83vEjRWeJq83vEj"] {
        assert!(!reported.contains(part), "a private key has left");
    }
}

#[test]
fn malicious_parameters_are_refused_or_passed_on_verbatim() {
    let world = World::new();
    let machine = world.add_machine("kasse-1");
    trusting(&machine);
    let script = Script::new("echoes", "printf '%s' \"$FERNWART_PARAM_TEXT\"; echo; cat\n")
        .parameter("text", "text", "max_bytes = 4096")
        .parameter("path", "path", "under = [\"/var/log\"]\ndefault = \"/var/log\"")
        .parameter("count", "integer", "min = 1\nmax = 9\ndefault = 1")
        .parameter("sure", "boolean", "default = true");
    world.approve(&script);
    let marker = world.path().join("marker");
    let touch = format!("touch {}", marker.display());
    // Passed on verbatim, as variable and on standard input, and nothing is executed.
    for evil in [
        format!("; {touch}"),
        format!("| {touch}"),
        format!("& {touch} &"),
        format!("$({touch})"),
        format!("`{touch}`"),
        format!("' ; {touch} ; '"),
        format!("\" ; {touch} ; \""),
        "../../etc/passwd".to_owned(),
        "%00%0a%s%n".to_owned(),
        "$HOME ${IFS} *".to_owned(),
        "äöü \u{202e}txt.exe".to_owned(),
    ] {
        let printed = run(&world, &["echoes", "kasse-1", "-p", &format!("text={evil}"), "-o", "jsonl"]).exits(0);
        let head = result(&printed)["report"]["stdout"]["head"].as_str().expect("text").to_owned();
        let (shown, json) = head.split_once('\n').expect("two lines");
        let json: Value = serde_json::from_str(json).expect("JSON");
        assert_eq!((shown, json["text"].as_str()), (evil.as_str(), Some(evil.as_str())));
        assert!(!marker.exists(), "{evil}");
    }
    // Refused by the technician's program.
    let long = format!("text={}", "a".repeat(4097));
    for bad in [
        "text=--flag",
        "text=-x",
        "text=a\nb",
        "text=a\tb",
        "text=\u{1b}[2J",
        &long,
        "path=/etc",
        "path=/var/log/..",
        "path=-rf",
        "path=/var/log/a b\n",
        "count=0",
        "count=1;2",
        "count=0x5",
        "count= 5",
        "count=99999999999999999999",
        "sure=yes",
        "sure=1",
        "extra=1",
        "TEXT=x",
    ] {
        let printed = run(&world, &["echoes", "kasse-1", "-p", "text=x", "-p", bad]).exits(2);
        assert!(printed.err.contains("FW-CLI-11"), "{bad:?}: {}", printed.err);
    }
    assert!(!marker.exists());
}

#[test]
fn a_secret_parameter_is_readable_only_on_the_machine() {
    use std::os::unix::fs::OpenOptionsExt;
    let world = World::new();
    let machine = world.add_machine("kasse-1");
    trusting(&machine);
    let script = Script::new("logs-in", "env | grep -c geheim; grep -o '[0-9]*-[a-z]*' | md5sum\n")
        .parameter("user", "text", "")
        .parameter("pin", "text", "secret = true");
    world.approve(&script);
    let file = world.path().join("pin");
    let mut pin = std::fs::File::options().write(true).create_new(true).mode(0o600).open(&file).expect("a file");
    std::io::Write::write_all(&mut pin, b"4711-geheim\n").expect("written");
    // On the command line, where others could read it, it is refused.
    let open = run(&world, &["logs-in", "kasse-1", "-p", "user=kasse", "-p", "pin=4711-geheim"]).exits(2);
    assert!(open.err.contains("is secret and travels sealed"), "{}", open.err);
    let none = run(&world, &["logs-in", "kasse-1", "-p", "user=kasse"]).exits(2);
    assert!(none.err.contains("the secret parameter pin must be given"), "{}", none.err);
    let secret = format!("pin={}", file.display());
    let printed = run(&world, &["logs-in", "kasse-1", "-p", "user=kasse", "--secret", &secret]).exits(0);
    // The script has it on standard input and nowhere else; it prints a hash of it.
    let hash = fernwart_tests::run(std::process::Command::new("sh").args(["-c", "echo 4711-geheim | md5sum"])).out;
    assert!(printed.out.starts_with(&format!("0\n{hash}")), "{}", printed.out);
    // Neither the hub nor any record has it.
    let mut all = printed.out + &printed.err + &machine.owner(&["journal", "--export"]).out + &machine.agent.log();
    for file in ["store.sqlite", "store.sqlite-wal"] {
        let bytes = std::fs::read(world.shop().join("hub").join(file)).unwrap_or_default();
        all += &String::from_utf8_lossy(&bytes);
    }
    assert!(!all.contains("4711-geheim"), "it has left");
    std::fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o644)).expect("opened");
    let printed = run(&world, &["logs-in", "kasse-1", "-p", "user=kasse", "--secret", &secret]).exits(2);
    assert!(printed.err.contains("0644"), "{}", printed.err);
}

#[test]
fn machines_follow_a_new_catalogue_within_five_seconds() {
    let world = World::new();
    let machines: Vec<_> = ["kasse-1", "kasse-2"].iter().map(|name| world.add_machine(name)).collect();
    world.approve(&Script::new("mend", "echo mended\n"));
    for machine in &machines {
        fernwart_tests::wait_within(std::time::Duration::from_secs(5), "it is followed", || {
            machine
                .journal()
                .iter()
                .any(|(kind, body)| kind == "catalogue_followed" && body["versions"]["targets"] == 2)
        });
    }
}
