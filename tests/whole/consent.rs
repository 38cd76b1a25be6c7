//! The owner of a machine is asked, and the answer decides.

use crate::scripts::{policy, run};
use fernwart_tests::test_script::Script;
use fernwart_tests::{Machine, Process, World, wait_until};
use serde_json::Value;

/// Starts a run of this script on `kasse-1`; its technician waits.
fn begin(world: &World, script: &str) -> Process {
    let words = ["run", script, "kasse-1", "--reason", "x", "--timeout", "60s"];
    Process::start(&mut world.command(&words), &world.path().join(script))
}

fn questions(machine: &Machine) -> String {
    machine.owner(&["--lang", "en", "questions"]).exits(0).out
}

/// Waits for the question with this title; returns its number.
fn question(machine: &Machine, title: &str) -> String {
    let mut number = None;
    wait_until("the owner is asked", || {
        let all = questions(machine);
        let line = all.lines().find(|line| line.contains(title));
        number = line.and_then(|line| line.split_whitespace().next()).map(ToOwned::to_owned);
        number.is_some()
    });
    number.expect("a number")
}

/// How often this script has begun, by the machine's journal.
fn begun(machine: &Machine, script: &str) -> usize {
    let of = |body: &Value| body["action"]["script"]["bundle"] == *script;
    machine.journal().iter().filter(|(kind, body)| kind == "run_started" && of(body)).count()
}

#[test]
fn the_owners_answer_decides_whether_a_repair_runs() {
    let world = World::new();
    let machine = world.add_machine("kasse-1");
    world.approve(&Script::new("mend", "echo mended\n"));
    let log = world.path().join("asked.log");
    let ask = || {
        let mut command = world.command(&["run", "mend", "kasse-1", "--reason", "Auftrag 4711", "--timeout", "60s"]);
        Process::start(&mut command, &log)
    };
    let question = || {
        wait_until("the owner is asked", || {
            !machine.owner(&["--lang", "en", "questions"]).exits(0).out.contains("no questions")
        });
        let output = machine.owner(&["--lang", "de", "questions"]).exits(0).out;
        assert!(
            output.contains("jana von Nordlicht IT möchte: Probe mend") && output.contains("Grund: Auftrag 4711"),
            "{output}"
        );
        let status = machine.owner(&["--lang", "de", "status"]).exits(0).out;
        assert!(status.contains("Fragen an Sie     1; lesen und antworten"), "{status}");
        output.split_whitespace().next().expect("a number").to_owned()
    };
    // No.
    let mut asking = ask();
    machine.owner(&["deny", &question()]).exits(0);
    wait_until("it is over", || !asking.is_running());
    assert!(asking.log().contains("asking the customer (until "), "{}", asking.log());
    assert!(!machine.journal().iter().any(|(kind, _)| kind == "run_started"));
    // Yes.
    let mut asking = ask();
    machine.owner(&["allow", &question()]).exits(0);
    wait_until("it is over", || !asking.is_running());
    assert!(asking.log().contains("allowed by \""), "{}", asking.log());
    let started = || machine.journal().iter().filter(|(kind, _)| kind == "run_started").count();
    assert_eq!(started(), 1);
    let again = machine.owner(&["allow", "1"]).exits(2);
    assert!(again.err.contains("FW-OWN-13"), "{}", again.err);
    // A temporary permission for all, before anything is asked.
    machine.owner(&["allow", "repair", "--for", "2h"]).exits(0);
    run(&world, &["mend", "kasse-1"]).exits(0);
    assert_eq!(started(), 2);
    // Paused: even a diagnosis is refused, and the status shows the pause.
    let status = || machine.owner(&["--lang", "de", "status"]).exits(0).out;
    assert!(status().contains("reparieren: ja, bis ") && !status().contains("ANGEHALTEN"), "{}", status());
    let output = machine.owner(&["--lang", "de", "pause", "3d"]).exits(0);
    assert!(output.out.starts_with("Angehalten bis 20"), "a moment on another day has its date: {}", output.out);
    assert!(status().contains("ANGEHALTEN") && !status().contains("reparieren: ja, bis"), "{}", status());
    machine.owner(&["pause", "0h"]).exits(2);
    machine.owner(&["pause", "2h"]).exits(0);
    let output = world.technician(&["diagnose", "kasse-1"]).exits(3);
    assert!(output.err.contains("FW-OWN-05"), "{}", output.err);
    let output = run(&world, &["mend", "kasse-1"]).exits(3);
    assert!(output.out.contains("FW-OWN-05"), "{}", output.out);
    world.technician(&["ping", "kasse-1"]).exits(0);
    machine.owner(&["resume"]).exits(0);
    // The pause has revoked the temporary permission, so the owner is asked about the next repair.
    let mut asking = ask();
    question();
    let output = machine.owner(&["--lang", "en", "deny", "repair"]).exits(0);
    assert!(output.out.starts_with("All open questions are refused"), "{}", output.out);
    wait_until("it is over", || !asking.is_running());
    assert_eq!(started(), 2);
    // Denying all repairs revokes a temporary permission, too.
    machine.owner(&["allow", "repair", "--for", "2h"]).exits(0);
    run(&world, &["mend", "kasse-1"]).exits(0);
    assert_eq!(started(), 3);
    machine.owner(&["deny", "repair"]).exits(0);
    let mut asking = ask();
    machine.owner(&["allow", &question()]).exits(0);
    wait_until("it is over", || !asking.is_running());
    assert_eq!(started(), 4);
}

#[test]
fn denying_one_question_leaves_the_others_open() {
    let world = World::new();
    let machine = world.add_machine("kasse-1");
    world.approve_all(&[Script::new("first", "echo ran\n"), Script::new("second", "echo ran\n")]);
    let (mut first, mut second) = (begin(&world, "first"), begin(&world, "second"));
    let (no, yes) = (question(&machine, "Test first"), question(&machine, "Test second"));
    machine.owner(&["deny", &no]).exits(0);
    wait_until("the first is over", || !first.is_running());
    let open = questions(&machine);
    assert!(open.contains("Test second") && !open.contains("Test first"), "{open}");
    machine.owner(&["allow", &yes]).exits(0);
    wait_until("the second is over", || !second.is_running());
    assert_eq!((begun(&machine, "first"), begun(&machine, "second")), (0, 1));
}

#[test]
fn a_temporary_permission_also_answers_open_questions() {
    let world = World::new();
    let machine = world.add_machine("kasse-1");
    world.approve(&Script::new("mend", "echo mended\n"));
    let mut asking = begin(&world, "mend");
    question(&machine, "Test mend");
    machine.owner(&["allow", "repair", "--for", "2h"]).exits(0);
    wait_until("it is over", || !asking.is_running());
    assert_eq!(begun(&machine, "mend"), 1);
}

#[test]
fn a_pause_cancels_running_scripts_and_refuses_open_questions() {
    let world = World::new();
    let machine = world.add_machine("kasse-1");
    world.approve_all(&[Script::new("slow", "sleep 50\n"), Script::new("quick", "echo ran\n")]);
    let mut slow = begin(&world, "slow");
    machine.owner(&["allow", &question(&machine, "Test slow")]).exits(0);
    wait_until("it runs", || begun(&machine, "slow") == 1);
    let mut quick = begin(&world, "quick");
    question(&machine, "Test quick");
    machine.owner(&["pause"]).exits(0);
    wait_until("both have ended", || !slow.is_running() && !quick.is_running());
    let refused = world.technician(&["job", "logs", "2"]);
    assert!(refused.err.contains("FW-OWN-05"), "{refused:?}");
    assert_eq!(begun(&machine, "quick"), 0);
    let ended = world.technician(&["job", "show", "1", "-o", "jsonl"]).exits(0).json_lines();
    assert_eq!(ended[0]["outcome"], "cancelled", "{ended:?}");
}

#[test]
fn owner_decisions_survive_an_agent_crash() {
    let world = World::new();
    let mut machine = world.add_machine("kasse-1");
    world.approve(&Script::new("mend", "echo mended\n"));
    let crash = |machine: &mut Machine| {
        machine.agent.kill_9();
        machine.restart();
        wait_until("it is linked", || world.is_online("kasse-1"));
    };
    machine.owner(&["pause"]).exits(0);
    crash(&mut machine);
    let output = run(&world, &["mend", "kasse-1"]).exits(3);
    assert!(output.out.contains("FW-OWN-05"), "still paused: {}", output.out);
    machine.owner(&["resume"]).exits(0);
    machine.owner(&["allow", "repair", "--for", "2h"]).exits(0);
    crash(&mut machine);
    run(&world, &["mend", "kasse-1"]).exits(0);
    assert_eq!(begun(&machine, "mend"), 1);
    machine.owner(&["deny", "repair"]).exits(0);
    crash(&mut machine);
    let mut asking = begin(&world, "mend");
    machine.owner(&["deny", &question(&machine, "Test mend")]).exits(0);
    wait_until("it is over", || !asking.is_running());
    assert_eq!(begun(&machine, "mend"), 1);
}

#[test]
fn denying_revokes_a_permission_whose_run_has_not_begun() {
    let world = World::new();
    let machine = world.add_machine("kasse-1");
    world.approve_all(&[Script::new("slow", "sleep 3\n"), Script::new("second", "echo ran\n")]);
    for word in ["number", "all"] {
        let mut slow = begin(&world, "slow");
        machine.owner(&["allow", &question(&machine, "Test slow")]).exits(0);
        let mut second = begin(&world, "second");
        let number = question(&machine, "Test second");
        machine.owner(&["allow", &number]).exits(0);
        machine.owner(&["deny", if word == "all" { "repair" } else { &number }]).exits(0);
        wait_until("both are over", || !slow.is_running() && !second.is_running());
    }
    assert_eq!((begun(&machine, "slow"), begun(&machine, "second")), (2, 0));
}

#[test]
fn a_run_waiting_for_the_owner_survives_restarts_and_blocks_no_diagnosis() {
    let world = World::new();
    let mut machine = world.add_machine("kasse-1");
    world.approve(&Script::new("mend", "echo mended\n"));
    let mut command = world.command(&["run", "mend", "kasse-1", "--reason", "x", "--timeout", "60s"]);
    let mut asking = Process::start(&mut command, &world.path().join("asked.log"));
    let asked = |machine: &Machine| {
        machine.owner(&["--lang", "en", "questions"]).out.contains("jana from Nordlicht IT would like to")
    };
    wait_until("the owner is asked", || asked(&machine));
    let before = machine.owner(&["questions"]).out.split_whitespace().next().expect("a number").to_owned();
    let output = world.technician(&["diagnose", "kasse-1", "--section", "memory"]);
    assert!(matches!(output.code, 0 | 1), "{}", output.err);
    machine.agent.kill_9();
    machine.restart();
    wait_until("the owner is asked again", || asked(&machine));
    wait_until("the machine is linked", || world.is_online("kasse-1"));
    let number = machine.owner(&["questions"]).out.split_whitespace().next().expect("a number").to_owned();
    // After the restart the question has a new number; an answer to the old one is refused.
    assert_ne!(number, before);
    machine.owner(&["allow", &before]).exits(2);
    assert!(asking.is_running(), "whoever waits goes on waiting: {}", asking.log());
    machine.owner(&["allow", &number]).exits(0);
    wait_until("the outcome is told", || {
        let rows = world.technician(&["job", "show", "1", "-o", "jsonl"]).exits(0).json_lines();
        rows[0]["outcome"] == "ok"
    });
    let result = |(kind, body): &&(String, Value)| kind == "run_started" && body["action"]["script"].is_object();
    assert_eq!(machine.journal().iter().filter(result).count(), 1);
    wait_until("whoever waits hears of it", || !asking.is_running());
}

#[test]
fn only_accounts_named_in_the_policy_may_answer_questions() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o711)).expect("opened");
    let world = World::in_folder(folder);
    let machine = world.add_machine("kasse-1");
    world.approve(&Script::new("mend", "echo mended\n"));
    policy(&machine, "[look]\nmode = \"allow\"\n[act]\nmode = \"ask\"\nasked = [\"games\"]\n");
    let log = world.path().join("asked.log");
    let mut command = world.command(&["run", "mend", "kasse-1", "--reason", "x", "--timeout", "60s"]);
    let mut asking = Process::start(&mut command, &log);
    wait_until("the owner is asked", || {
        machine.owner(&["--lang", "en", "questions"]).exits(0).out.contains("jana from Nordlicht IT would like to")
    });
    let program = world.path().join("agent");
    std::fs::copy(fernwart_tests::program("fernwart-agent"), &program).expect("copied");
    let as_account = |account: &str, words: &[&str]| {
        let mut command = std::process::Command::new("setpriv");
        command.args(["--reuid", account, "--clear-groups"]).arg(&program).arg("--home").arg(&machine.home);
        fernwart_tests::run(command.args(["--lang", "en"]).args(words).env_remove("LC_ALL"))
    };
    let outsider = as_account("nobody", &["questions"]);
    assert!(outsider.code != 0 && !outsider.out.contains("jana"), "{outsider:?}");
    wait_until("its account can ask", || as_account("games", &["questions"]).code == 0);
    assert!(as_account("games", &["status"]).exits(0).out.contains("yes, to Nordlicht IT"));
    let rules = machine.owner(&["--lang", "de", "policy", "check"]).exits(0).out;
    assert!(rules.contains("ohne Administratorrechte: games"), "{rules}");
    for file in ["evidence.key", "sealing.key", "tls.identity", "books.redb", "policy.toml", "agent.toml"] {
        let mut read = std::process::Command::new("setpriv");
        read.args(["--reuid", "games", "--clear-groups", "cat"]).arg(machine.home.join(file));
        let output = fernwart_tests::run(&mut read);
        assert!(output.code != 0 && output.out.is_empty(), "{file} stays closed");
    }
    let output = as_account("games", &["questions"]).exits(0).out;
    assert!(output.contains("jana from Nordlicht IT would like to"), "{output}");
    let clock = as_account("games", &["check", "--trust-clock"]);
    assert!(clock.code != 0, "{clock:?}");
    // Only an administrator may end an administrator's pause.
    machine.owner(&["pause"]).exits(0);
    let output = as_account("games", &["resume"]).exits(3);
    assert!(output.err.contains("FW-OWN-18"), "{}", output.err);
    machine.owner(&["resume"]).exits(0);
    wait_until("it is over", || !asking.is_running());
    let mut command = world.command(&["run", "mend", "kasse-1", "--reason", "x", "--timeout", "60s"]);
    let mut asking = Process::start(&mut command, &log);
    wait_until("the owner is asked", || {
        machine.owner(&["--lang", "en", "questions"]).exits(0).out.contains("jana from Nordlicht IT would like to")
    });
    let number = machine.owner(&["questions"]).out.split_whitespace().next().expect("a number").to_owned();
    as_account("games", &["allow", &number]).exits(0);
    wait_until("it is over", || !asking.is_running());
    assert!(asking.log().contains("allowed by \"games\""), "{}", asking.log());
    // A named account may allow eight hours at most, and is told the real end.
    let output = as_account("games", &["allow", "repair", "--for", "300d"]).exits(0).out;
    let status = machine.owner(&["--lang", "en", "status"]).exits(0).out;
    let until = output.split("until ").nth(1).and_then(|rest| rest.split(['.', ' ']).next()).expect("an end");
    assert!(status.contains(&format!("until {until}")), "{output}\n{status}");
    // A change of the named accounts takes effect without a restart.
    policy(&machine, "[look]\nmode = \"allow\"\n[act]\nmode = \"ask\"\nasked = [\"nobody\", \"meier\"]\n");
    wait_until("another is asked", || as_account("nobody", &["questions"]).code == 0);
    assert!(as_account("games", &["questions"]).code != 0);
    let rules = machine.owner(&["--lang", "de", "policy", "check"]).exits(0).out;
    assert!(rules.contains("ein Konto meier gibt es"), "{rules}");
    policy(&machine, "[look]\nmode = \"allow\"\n[act]\nmode = \"ask\"\n");
    wait_until("nobody else is", || as_account("nobody", &["questions"]).code != 0);
    let output = as_account("nobody", &["status"]);
    assert!(output.err.contains("FW-OWN-29") && output.err.contains("Put sudo in front"), "{}", output.err);
    // The owner reads afterwards who did what, and who allowed it.
    let reported = machine.owner(&["--lang", "de", "history"]).exits(0).out;
    assert!(reported.contains("Probe mend  jana  „x“  erledigt  Sie haben zugestimmt (games)"), "{reported}");
    let complete = machine.owner(&["--lang", "en", "history", "2"]).exits(0).out;
    for part in ["Test mend", "mend 1", "jana", "you said yes (games)", "done", "no"] {
        assert!(complete.contains(part), "{part}: {complete}");
    }
    assert!(machine.owner(&["history", "9"]).exits(2).err.contains("FW-OWN-16"));
}
