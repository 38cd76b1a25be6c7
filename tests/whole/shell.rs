//! What shells and programs expect of a command: closed pipes, errors in JSON, help.

use fernwart_tests::test_script::Script;
use fernwart_tests::{World, agent_command, program, run, wait_until};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

/// Every command that ends by itself, with its arguments.
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
fn a_closed_output_pipe_makes_no_command_panic() {
    let world = World::new();
    let machine = world.add_machine("kasse-1");
    world.technician(&["diagnose", "kasse-1"]);
    let shop = format!("{} --home {}", program("fernwart").display(), world.shop().display());
    let owner = format!("{} --home {}", program("fernwart-agent").display(), machine.home.display());
    let all = COMMANDS.iter().map(|words| (&shop, words)).chain(OWNERS.iter().map(|words| (&owner, words)));
    for (command, words) in all {
        // Standard output or standard error is closed, or its reader ends early.
        for away in ["2>&1 >&-", "| true", "2>&1 | true", "2>&-"] {
            let line = format!("{command} {words} {away}; exit ${{PIPESTATUS[0]}}");
            let printed = run(Command::new("bash").arg("-c").arg(&line));
            assert!((0..=5).contains(&printed.code), "{words} {away}: {printed:?}");
            assert!(!printed.err.contains("panicked"), "{words} {away}: {}", printed.err);
        }
    }
}

#[test]
fn errors_are_json_when_json_output_is_requested() {
    let world = World::new();
    for (words, code, exit) in [
        (&["show", "nobody", "-o", "json"][..], "FW-CLI-02", 2),
        (&["job", "logs", "77", "-o", "jsonl"], "FW-HUB-05", 2),
        (&["ls", "--colour", "--output=json"], "FW-CLI-01", 2),
        (&["nonsense", "-ojson"], "FW-CLI-01", 2),
    ] {
        let printed = world.technician(words).exits(exit);
        let error: serde_json::Value =
            serde_json::from_str(printed.err.trim()).unwrap_or_else(|_| panic!("{printed:?}"));
        assert_eq!(
            (&error["v"], &error["type"], &error["code"]),
            (&1.into(), &"error".into(), &code.into()),
            "{words:?}"
        );
        assert!(error["message"].is_string() && error["exit"] == exit, "{error}");
        assert_eq!(printed.out, "", "{words:?}");
    }
    let usage = world.technician(&["ssh", "kasse-1"]).exits(2).err;
    assert!(usage.contains("nobody gets a shell") && usage.contains("FW-CLI-01"), "{usage}");
}

#[test]
fn help_is_grouped_and_available_for_every_topic() {
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

/// Kinds with their fields and types, as `fernwart help json` prints them.
fn documented(help: &str) -> BTreeMap<String, BTreeMap<String, String>> {
    let (mut kinds, mut current): (BTreeMap<String, BTreeMap<String, String>>, _) = (BTreeMap::new(), String::new());
    for line in help.lines() {
        if let Some(field) = line.strip_prefix("  ") {
            let mut words = field.split_whitespace();
            let (name, kind) = (words.next().expect("a name"), words.next().expect("a type"));
            kinds.entry(current.clone()).or_default().insert(name.to_owned(), kind.to_owned());
        } else if line == "Every event has" {
            current = "every event".to_owned();
        } else if let Some((kind, about)) = line.split_once(": ") {
            current = kind.to_owned();
            let fields = kinds.entry(current.clone()).or_default();
            if about.starts_with("event: ") {
                fields.insert("(event)".to_owned(), String::new());
            }
        }
    }
    let common = kinds.remove("every event").expect("what every event has");
    for fields in kinds.values_mut().filter(|fields| fields.contains_key("(event)")) {
        fields.remove("(event)");
        fields.extend(common.clone());
    }
    kinds
}

fn is_of(kind: &str, value: &Value) -> bool {
    match kind {
        "any" => true,
        "text" => value.is_string(),
        "number" => value.is_number(),
        "bool" => value.is_boolean(),
        "object" => value.is_object(),
        "list" => value.is_array(),
        "time" => value.as_str().is_some_and(|text| text.len() >= 20 && text.ends_with('Z') && text.contains('T')),
        optional => value.is_null() || is_of(optional.trim_end_matches('?'), value),
    }
}

#[test]
fn every_json_field_is_documented_with_its_type() {
    let world = World::new();
    let mut machine = world.add_machine("kasse-1");
    let rules = |act: &str| {
        let text = format!("[look]\nmode = \"allow\"\n[act]\nmode = \"{act}\"\n");
        std::fs::write(machine.home.join("policy.toml"), text).expect("written");
    };
    rules("never");
    world.add_machine("kasse-2").agent.stop();
    let line = world.invitation(&["Praxis Petersen"]);
    world.owner_in("waiting", &["enroll", &line, "--policy", "ask", "--no-service"]).exits(0);
    world.approve(&Script::new("mend", "echo mended\n"));
    world.technician(&["label", "kasse-1", "site=kiel"]).exits(0);
    world.technician(&["group", "add", "tills", "kasse-1"]).exits(0);
    wait_until("it is away", || !world.is_online("kasse-2"));
    world.technician(&["run", "mend", "kasse-1", "--reason", "test"]).exits(3);
    rules("allow");
    let kinds = documented(&world.technician(&["help", "json"]).exits(0).out);
    let mut seen: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let mut check = |words: &[&str], value: &Value| {
        let kind = value["type"].as_str().unwrap_or_else(|| panic!("{words:?}: no type in {value}")).to_owned();
        let fields = kinds.get(&kind).unwrap_or_else(|| panic!("{words:?}: {kind} is not documented"));
        assert_eq!(value["v"], 1, "{words:?}: {value}");
        for (name, field) in value.as_object().expect("an object") {
            if matches!(name.as_str(), "v" | "type") || kind == "row" {
                continue;
            }
            let wanted = fields.get(name).unwrap_or_else(|| panic!("{words:?}: {kind}.{name} is not documented"));
            assert!(is_of(wanted, field), "{words:?}: {kind}.{name} is no {wanted}: {field}");
            seen.entry(kind.clone()).or_default().insert(name.clone());
        }
        for (name, kind_of) in fields {
            let missing = value.get(name).is_none() && !kind_of.ends_with('?') && kind_of != "any";
            assert!(!missing, "{words:?}: {kind} has no {name}: {value}");
        }
    };
    for words in [
        &["run", "mend", "kasse-1", "--reason", "test", "-o", "json"][..],
        &["run", "mend", "kasse-1", "kasse-2", "--reason", "test", "-o", "jsonl"],
        &["run", "mend", "kasse-2", "--reason", "test", "--queue", "1h", "-o", "jsonl"],
        &["diagnose", "all", "-o", "json", "--timeout", "9s"],
        &["diagnose", "all", "-o", "jsonl", "--timeout", "9s"],
        &["ls", "-o", "json"],
        &["show", "kasse-1", "-o", "json"],
        &["ping", "all", "-o", "jsonl", "--timeout", "2s"],
        &["job", "ls", "-o", "json"],
        &["job", "show", "3", "-o", "json"],
        &["job", "logs", "1", "-o", "json"],
        &["job", "logs", "4", "-o", "jsonl"],
        &["journal", "show", "kasse-1", "-o", "json"],
        &["facts", "kasse-1", "-o", "json"],
        &["group", "ls", "-o", "json"],
        &["customer", "ls", "-o", "json"],
        &["script", "ls", "-o", "json"],
        &["staff", "ls", "-o", "json"],
        &["pending", "-o", "json"],
        &["limits", "-o", "json"],
        &["doctor", "-o", "json"],
        &["catalogue", "show", "-o", "json"],
        &["catalogue", "history", "-o", "jsonl"],
        &["query", "--tables", "-o", "jsonl"],
        &["query", "SELECT machine FROM machines", "-o", "jsonl"],
        &["events", "-o", "jsonl"],
        &["show", "nobody", "-o", "json"],
    ] {
        let printed = world.technician(words);
        let text = if printed.out.is_empty() { &printed.err } else { &printed.out };
        for line in text.lines() {
            let value: Value = serde_json::from_str(line).unwrap_or_else(|_| panic!("{words:?}: no JSON: {printed:?}"));
            let values = value.as_array().cloned().unwrap_or_else(|| vec![value.clone()]);
            for value in &values {
                check(words, value);
                for result in value["results"].as_array().into_iter().flatten().chain(value.get("summary")) {
                    check(words, result);
                }
            }
        }
    }
    machine.agent.stop();
    // Every documented field is written by some command.
    let never: Vec<String> = kinds
        .iter()
        .filter(|(kind, _)| !["change", "row"].contains(&kind.as_str()) && seen.contains_key(*kind))
        // Not every event has all the common fields of events.
        .filter(|(_, fields)| !fields.contains_key("machine_id"))
        .flat_map(|(kind, fields)| {
            let seen = &seen[kind];
            fields.keys().filter(|name| !seen.contains(*name)).map(move |name| format!("{kind}.{name}"))
        })
        .collect();
    assert_eq!(never, ["summary.live"], "documented and never written");
    for kind in
        ["machine", "result", "summary", "diagnosis", "run", "job_logs", "job", "receipt", "facts", "pong", "error"]
    {
        assert!(seen.contains_key(kind), "{kind} was not written");
    }
}

/// Each hint such as `fernwart catalogue publish --file FILE` names a command and options that
/// exist.
#[test]
fn commands_and_options_named_in_hints_exist() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let command = regex::Regex::new(r"\bfernwart((?: [a-z][a-z-]+)+)([^;:()`\n\\]*)").expect("a pattern");
    let option = regex::Regex::new(r"--[a-z][a-z-]+").expect("a pattern");
    let mut open = vec![root.join("controller/src")];
    let mut helps: BTreeMap<String, Option<String>> = BTreeMap::new();
    let mut help_of = |words: &[&str]| -> Option<String> {
        let key = words.join(" ");
        let made = || {
            let printed = run(Command::new(program("fernwart")).args(words).arg("--help"));
            (printed.code == 0).then_some(printed.out)
        };
        helps.entry(key).or_insert_with(made).clone()
    };
    // What follows the program's name in sentences.
    const PROSE: &[&str] = &["itself", "is", "and", "has", "cannot", "failed", "command"];
    let mut named = 0;
    while let Some(next) = open.pop() {
        if next.is_dir() {
            open.extend(std::fs::read_dir(&next).expect("a folder").flatten().map(|entry| entry.path()));
            continue;
        }
        let text = std::fs::read_to_string(&next).unwrap_or_default();
        // Only string literals: comments may say anything.
        let literals = text.lines().filter(|line| !line.trim_start().starts_with("//") && line.contains('"'));
        for line in literals {
            for found in command.captures_iter(line) {
                let words: Vec<&str> = found.get(1).expect("words").as_str().split_whitespace().collect();
                let (first, second) = (words.first().copied().expect("one"), words.get(1).copied());
                let help = second.and_then(|second| help_of(&[first, second])).or_else(|| help_of(&[first]));
                let Some(help) = help else {
                    assert!(PROSE.contains(&first), "{}: no command {first}: {line}", next.display());
                    continue;
                };
                let is_part = |c: char| c.is_ascii_alphanumeric() || c == '-';
                let options: BTreeSet<&str> = help.split(|c| !is_part(c)).collect();

                for asked in option.find_iter(found.get(2).expect("the rest").as_str()) {
                    named += 1;
                    assert!(options.contains(asked.as_str()), "{}: {}: {line}", next.display(), asked.as_str());
                }
            }
        }
    }
    assert!(named > 20, "{named} options");
}
