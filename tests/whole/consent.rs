//! The owner of a machine is asked, and has the last word.

use crate::scripts::{policy, run};
use fernwart_tests::test_script::Script;
use fernwart_tests::{Machine, Process, World, wait_until};
use serde_json::Value;

/// A run of this script on `kasse-1`, while its technician waits.
fn begin(world: &World, script: &str) -> Process {
    let words = ["run", script, "kasse-1", "--reason", "x", "--timeout", "60s"];
    Process::start(&mut world.command(&words), &world.path().join(script))
}

fn questions(machine: &Machine) -> String {
    machine.owner(&["--lang", "en", "questions"]).exits(0).out
}

/// The number of the question in which this stands, once it is asked.
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
fn the_owner_is_asked_and_has_the_last_word() {
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
        let said = machine.owner(&["--lang", "de", "questions"]).exits(0).out;
        assert!(
            said.contains("jana von Nordlicht IT möchte: Probe mend") && said.contains("Grund: Auftrag 4711"),
            "{said}"
        );
        let status = machine.owner(&["--lang", "de", "status"]).exits(0).out;
        assert!(status.contains("Fragen an Sie     1; lesen und antworten"), "{status}");
        said.split_whitespace().next().expect("a number").to_owned()
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
    // Yes to all for a while, before anybody asks.
    machine.owner(&["allow", "repair", "--for", "2h"]).exits(0);
    run(&world, &["mend", "kasse-1"]).exits(0);
    assert_eq!(started(), 2);
    // Paused: not even a look; and whoever looks sees it.
    let status = || machine.owner(&["--lang", "de", "status"]).exits(0).out;
    assert!(status().contains("reparieren: ja, bis ") && !status().contains("ANGEHALTEN"), "{}", status());
    let said = machine.owner(&["--lang", "de", "pause", "3d"]).exits(0);
    assert!(said.out.starts_with("Angehalten bis 20"), "a moment on another day has its date: {}", said.out);
    assert!(status().contains("ANGEHALTEN") && !status().contains("reparieren: ja, bis"), "{}", status());
    machine.owner(&["pause", "0h"]).exits(2);
    machine.owner(&["pause", "2h"]).exits(0);
    let said = world.technician(&["diagnose", "kasse-1"]).exits(3);
    assert!(said.err.contains("FW-OWN-05"), "{}", said.err);
    let said = run(&world, &["mend", "kasse-1"]).exits(3);
    assert!(said.out.contains("FW-OWN-05"), "{}", said.out);
    world.technician(&["ping", "kasse-1"]).exits(0);
    machine.owner(&["resume"]).exits(0);
    // A pause has ended the yes for a while; the next repair is asked for.
    let mut asking = ask();
    question();
    let said = machine.owner(&["--lang", "en", "deny", "repair"]).exits(0);
    assert!(said.out.starts_with("All open questions are refused"), "{}", said.out);
    wait_until("it is over", || !asking.is_running());
    assert_eq!(started(), 2);
    // And the word against all repairs ends a yes for a while, too.
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
fn a_no_to_one_question_leaves_the_others_open() {
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
fn a_yes_for_a_while_answers_what_is_asked_already() {
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
fn a_pause_ends_what_runs_and_refuses_what_is_asked() {
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
fn what_the_owner_said_holds_after_a_crash() {
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
    let said = run(&world, &["mend", "kasse-1"]).exits(3);
    assert!(said.out.contains("FW-OWN-05"), "still paused: {}", said.out);
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
fn a_no_takes_back_a_yes_that_waits_for_its_turn() {
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
fn a_run_that_waits_for_its_owner_survives_restarts_and_blocks_no_diagnosis() {
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
    let said = world.technician(&["diagnose", "kasse-1", "--section", "memory"]);
    assert!(matches!(said.code, 0 | 1), "{}", said.err);
    machine.agent.kill_9();
    machine.restart();
    wait_until("the owner is asked again", || asked(&machine));
    wait_until("the machine is linked", || world.is_online("kasse-1"));
    let number = machine.owner(&["questions"]).out.split_whitespace().next().expect("a number").to_owned();
    // A yes that was meant for another question reaches nobody.
    assert_ne!(number, before);
    machine.owner(&["allow", &before]).exits(2);
    assert!(asking.is_running(), "whoever waits goes on waiting: {}", asking.log());
    machine.owner(&["allow", &number]).exits(0);
    wait_until("the outcome is told", || {
        let rows = world.technician(&["job", "show", "1", "-o", "jsonl"]).exits(0).json_lines();
        rows[0]["outcome"] == "ok"
    });
    let acted = |(kind, body): &&(String, Value)| kind == "run_started" && body["action"]["script"].is_object();
    assert_eq!(machine.journal().iter().filter(acted).count(), 1);
    wait_until("whoever waits hears of it", || !asking.is_running());
}

#[test]
fn an_account_that_the_policy_names_may_answer_and_no_other() {
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
    let stranger = as_account("nobody", &["questions"]);
    assert!(stranger.code != 0 && !stranger.out.contains("jana"), "{stranger:?}");
    wait_until("its account can ask", || as_account("games", &["questions"]).code == 0);
    assert!(as_account("games", &["status"]).exits(0).out.contains("yes, to Nordlicht IT"));
    let rules = machine.owner(&["--lang", "de", "policy", "check"]).exits(0).out;
    assert!(rules.contains("ohne Administratorrechte: games"), "{rules}");
    for file in ["evidence.key", "sealing.key", "tls.identity", "books.redb", "policy.toml", "agent.toml"] {
        let mut read = std::process::Command::new("setpriv");
        read.args(["--reuid", "games", "--clear-groups", "cat"]).arg(machine.home.join(file));
        let said = fernwart_tests::run(&mut read);
        assert!(said.code != 0 && said.out.is_empty(), "{file} stays closed");
    }
    let said = as_account("games", &["questions"]).exits(0).out;
    assert!(said.contains("jana from Nordlicht IT would like to"), "{said}");
    let clock = as_account("games", &["check", "--trust-clock"]);
    assert!(clock.code != 0, "{clock:?}");
    // An administrator's pause is the administrator's to end.
    machine.owner(&["pause"]).exits(0);
    let said = as_account("games", &["resume"]).exits(3);
    assert!(said.err.contains("FW-OWN-18"), "{}", said.err);
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
    // Allowed for eight hours at most, and that is what is said.
    let said = as_account("games", &["allow", "repair", "--for", "300d"]).exits(0).out;
    let status = machine.owner(&["--lang", "en", "status"]).exits(0).out;
    let until = said.split("until ").nth(1).and_then(|rest| rest.split(['.', ' ']).next()).expect("an end");
    assert!(status.contains(&format!("until {until}")), "{said}\n{status}");
    // A change of the named accounts takes effect without a restart.
    policy(&machine, "[look]\nmode = \"allow\"\n[act]\nmode = \"ask\"\nasked = [\"nobody\", \"meier\"]\n");
    wait_until("another is asked", || as_account("nobody", &["questions"]).code == 0);
    assert!(as_account("games", &["questions"]).code != 0);
    let rules = machine.owner(&["--lang", "de", "policy", "check"]).exits(0).out;
    assert!(rules.contains("ein Konto meier gibt es"), "{rules}");
    policy(&machine, "[look]\nmode = \"allow\"\n[act]\nmode = \"ask\"\n");
    wait_until("nobody else is", || as_account("nobody", &["questions"]).code != 0);
    let said = as_account("nobody", &["status"]);
    assert!(said.err.contains("FW-OWN-29") && said.err.contains("Put sudo in front"), "{}", said.err);
    // The owner reads afterwards who did what, and who allowed it.
    let told = machine.owner(&["--lang", "de", "history"]).exits(0).out;
    assert!(told.contains("Probe mend  jana  „x“  erledigt  Sie haben zugestimmt (games)"), "{told}");
    let whole = machine.owner(&["--lang", "en", "history", "2"]).exits(0).out;
    for part in ["Test mend", "mend 1", "jana", "you said yes (games)", "done", "no"] {
        assert!(whole.contains(part), "{part}: {whole}");
    }
    assert!(machine.owner(&["history", "9"]).exits(2).err.contains("FW-OWN-16"));
}
