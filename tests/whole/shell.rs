//! What shells and programs expect of a command: closed pipes, errors in JSON, help.

use fernwart_tests::{World, agent_command, program, run};
use std::process::Command;

/// Every command that ends by itself, with what it wants.
const COMMANDS: &[&str] = &[
    "ls",
    "show kasse-1",
    "diagnose kasse-1",
    "diagnose kasse-1 -o json",
    "facts kasse-1",
    "query --tables",
    "query 'SELECT * FROM machines'",
    "ping kasse-1",
    "events",
    "events -o table",
    "job ls",
    "job show 1",
    "job logs 1",
    "job watch 1",
    "catalogue show",
    "catalogue history",
    "script ls",
    "staff ls",
    "approver show",
    "pending",
    "customer ls",
    "group ls",
    "doctor",
    "limits",
    "completion bash",
    "man",
    "help",
    "help run",
    "help targets",
    "help FW-GATE-06",
    "version",
    "--help",
    "nonsense",
    "show nobody",
];

const OWNERS: &[&str] = &[
    "status",
    "diagnose",
    "journal",
    "journal --export",
    "history",
    "questions",
    "check",
    "policy check",
    "--help",
    "x",
];

#[test]
fn a_reader_that_goes_away_early_ends_no_command_in_a_panic() {
    let world = World::new();
    let machine = world.add_machine("kasse-1");
    world.technician(&["diagnose", "kasse-1"]);
    let shop = format!("{} --home {}", program("fernwart").display(), world.shop().display());
    let owner = format!("{} --home {}", program("fernwart-agent").display(), machine.home.display());
    let all = COMMANDS.iter().map(|words| (&shop, words)).chain(OWNERS.iter().map(|words| (&owner, words)));
    for (command, words) in all {
        // Nobody reads from the beginning; then not even what goes to standard error.
        for away in ["2>&1 >&-", "| true", "2>&1 | true", "2>&-"] {
            let line = format!("{command} {words} {away}; exit ${{PIPESTATUS[0]}}");
            let said = run(Command::new("bash").arg("-c").arg(&line));
            assert!((0..=5).contains(&said.code), "{words} {away}: {said:?}");
            assert!(!said.err.contains("panicked"), "{words} {away}: {}", said.err);
        }
    }
}

#[test]
fn failures_are_json_where_json_is_asked_for() {
    let world = World::new();
    for (words, code, exit) in [
        (&["show", "nobody", "-o", "json"][..], "FW-CLI-02", 2),
        (&["job", "logs", "77", "-o", "jsonl"], "FW-HUB-05", 2),
        (&["ls", "--colour", "--output=json"], "FW-CLI-01", 2),
        (&["nonsense", "-ojson"], "FW-CLI-01", 2),
    ] {
        let said = world.technician(words).exits(exit);
        let error: serde_json::Value = serde_json::from_str(said.err.trim()).unwrap_or_else(|_| panic!("{said:?}"));
        assert_eq!(
            (&error["v"], &error["type"], &error["code"]),
            (&1.into(), &"error".into(), &code.into()),
            "{words:?}"
        );
        assert!(error["message"].is_string() && error["exit"] == exit, "{error}");
        assert_eq!(said.out, "", "{words:?}");
    }
    let usage = world.technician(&["ssh", "kasse-1"]).exits(2).err;
    assert!(usage.contains("nobody gets a shell") && usage.contains("FW-CLI-01"), "{usage}");
}

#[test]
fn help_is_grouped_and_had_on_everything() {
    let world = World::new();
    let help = world.technician(&["--help"]).exits(0).out;
    for purpose in ["See:", "Act:", "Approve:", "Set up:", "Hub:"] {
        assert!(help.lines().any(|line| line == purpose), "{purpose} in {help}");
    }
    assert!(help.contains("fernwart help exit-codes"), "{help}");
    assert!(world.technician(&["help", "job", "logs"]).exits(0).out.contains("--failed"));
    assert!(world.technician(&["help", "exit-codes"]).exits(0).out.contains("130"));
    let owners = |words: &[&str]| run(&mut agent_command(world.path(), words)).exits(0).out;
    assert!(owners(&["--lang", "de", "--help"]).contains("verlassen"));
    assert!(owners(&["--lang", "de", "hilfe"]).contains("Befehle"));
}
