//! Checks the dependencies in `controller/docs/architecture.md` against `Cargo.toml`s and `use` lines.

use regex::Regex;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Rust files below a path, or the file itself, each cut off before its test module.
fn sources(path: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut open = vec![root().join(path)];
    while let Some(next) = open.pop() {
        if next.is_dir() {
            open.extend(std::fs::read_dir(&next).expect("a folder").flatten().map(|entry| entry.path()));
        } else if next.extension().is_some_and(|extension| extension == "rs") {
            let text = std::fs::read_to_string(&next).expect("a source");
            let text = text.split("\n#[cfg(test)]\nmod ").next().expect("a beginning").to_owned();
            found.push((next.strip_prefix(root()).expect("below").display().to_string(), text));
        }
    }
    assert!(!found.is_empty(), "nothing lies at {path}");
    found
}

#[test]
fn crates_depend_only_on_the_crates_below_them() {
    let may: [(&str, &[&str]); 9] = [
        ("protocol", &[]),
        ("certs", &["protocol"]),
        ("agent", &["certs", "protocol"]),
        ("controller/fleet", &["protocol"]),
        ("controller/store", &["fleet", "protocol"]),
        ("controller/index", &["protocol"]),
        ("controller/hub", &["certs", "fleet", "index", "protocol", "store"]),
        ("controller/client", &["certs", "fleet", "protocol"]),
        ("controller", &["certs", "client", "hub", "index", "protocol"]),
    ];
    let ours = Regex::new(r"^fernwart-([a-z]+)\b").expect("a pattern");
    for (name, wanted) in may {
        let text = std::fs::read_to_string(root().join(name).join("Cargo.toml")).expect("Cargo.toml");
        let section = text.split("\n[dependencies]\n").nth(1).expect("dependencies");
        let section = section.split("\n[").next().expect("an end");
        let found: BTreeSet<&str> =
            section.lines().filter_map(|line| Some(ours.captures(line)?.get(1)?.as_str())).collect();
        assert_eq!(found, wanted.iter().copied().collect(), "{name}");
    }
}

#[test]
fn modules_use_only_the_modules_below_them() {
    // A path, the pattern that is forbidden there, and the reason.
    let above = |rooms: &str| format!(r"\bcrate::(\{{[^;]*\b)?({rooms})\b");
    let never: [(&str, &str, &str); 12] = [
        ("controller/src", r"\b(Request|Reply|News)::", "typed operations of the client stand between"),
        ("controller/src/cli", r"\bfernwart_(hub|store|fleet)\b", "what people type knows only the client"),
        ("controller/src/operate", r"\bcrate::(\{[^;]*\b)?cli\b", "starting things is no command line"),
        ("controller/src/failure.rs", r"\bcrate::(\{[^;]*\b)?(cli|operate)\b", "it lies below both"),
        ("controller/src/homes.rs", r"\bcrate::(\{[^;]*\b)?(cli|operate)\b", "it lies below both"),
        ("controller/store/src", r"\bfernwart_(certs|hub)\b", "rows know no keys"),
        (
            "agent/src/collect",
            &above("platform|action|executor|machine|uplink|local|owner"),
            "gathering knows no system",
        ),
        ("agent/src/platform", &above("action|executor|machine|uplink|local|owner"), "a system knows no order"),
        ("agent/src/action", &above("executor|machine|uplink|local|owner"), "an act knows no order"),
        ("agent/src/executor", &above("platform|machine|uplink|owner"), "a decision has its effects elsewhere"),
        ("agent/src/uplink", &above("collect|platform|action|machine|local|owner"), "the link changes nothing here"),
        ("agent/src/machine", &above("uplink|local"), "effects know no network"),
    ];
    for (place, pattern, why) in never {
        let pattern = Regex::new(pattern).expect("a pattern");
        for (file, text) in sources(place) {
            let line = text.lines().find(|line| !line.trim_start().starts_with("//") && pattern.is_match(line));
            assert!(line.is_none(), "{file}: {why}: {line:?}");
        }
    }
}

#[test]
fn only_the_platform_names_linux_and_systemd() {
    let pattern = Regex::new(r#""/(proc|sys)/|"[^"]*\b(systemctl|systemd)\b"#).expect("a pattern");
    for (file, text) in sources("agent/src").into_iter().filter(|(file, _)| !file.contains("/platform/linux/")) {
        let named = |line: &&str| !line.trim_start().starts_with("//") && pattern.is_match(line);
        let lines: Vec<&str> = text.lines().filter(named).collect();
        // The program's first error, before anything else runs, and a word for people.
        let known = matches!(file.as_str(), "agent/src/main.rs" | "agent/src/owner/user_error.rs");
        assert!(lines.is_empty() || known, "{file}: {lines:?}");
    }
}

#[test]
fn parts_of_the_hub_use_only_the_parts_below_them() {
    // From the lowest layer to the highest; parts in one line must not use each other.
    let floors: [&[&str]; 9] = [
        &["run_end", "lifecycle", "log_limiter", "environment", "retention", "unanswered"],
        &["home", "events", "metrics"],
        &["records", "memory"],
        &["presence", "keys", "journal"],
        &["trust"],
        &["query"],
        &["delivery"],
        &["staff"],
        &["doors"],
    ];
    for (height, floor) in floors.iter().enumerate() {
        let above = floors.iter().skip(height + 1).flat_map(|floor| floor.iter()).copied();
        for room in *floor {
            let beside = floor.iter().copied().filter(|other| other != room);
            let names: Vec<&str> = above.clone().chain(beside).chain(["accept", "sweep", "Hub"]).collect();
            let pattern = format!(r"\bcrate::(\{{[^;]*\b)?({})\b", names.join("|"));
            let pattern = Regex::new(&pattern).expect("a pattern");
            let folder = format!("controller/hub/src/{room}");
            let place = if root().join(&folder).is_dir() { folder } else { format!("{folder}.rs") };
            for (file, text) in sources(&place) {
                let code: Vec<&str> = text.lines().filter(|line| !line.trim_start().starts_with("//")).collect();
                let named = pattern.find(&code.join("\n")).map(|found| found.as_str().to_owned());
                assert!(named.is_none(), "{file} stands below what it names: {named:?}");
                assert!(!code.iter().any(|line| line.contains("super::super::super::")), "{file} reaches around");
            }
        }
    }
    // Every part has its layer. The first four build the others or work on a stopped hub's folder.
    let known: Vec<&str> = ["accept", "sweep", "backup", "rotation"]
        .into_iter()
        .chain(floors.iter().flat_map(|f| f.iter()).copied())
        .collect();
    let declared = Regex::new(r"(?m)^(?:pub(?:\([^)]*\))? )?mod (\w+);").expect("a pattern");
    let lib = std::fs::read_to_string(root().join("controller/hub/src/lib.rs")).expect("the crate");
    for found in declared.captures_iter(&lib) {
        let module = found.get(1).expect("a name").as_str();
        assert!(known.contains(&module), "{module} has no layer");
    }
}

#[test]
fn only_one_module_uses_quinn_and_one_uses_bincode() {
    for (what, home) in [(r"\bquinn(_proto|_udp)?::", "protocol/src/link/quic"), (r"\bbincode::", "protocol/src/codec")]
    {
        let pattern = Regex::new(what).expect("a pattern");
        for part in ["protocol/src", "certs/src", "agent/src", "controller"] {
            for (file, text) in sources(part).into_iter().filter(|(file, _)| !file.starts_with(home)) {
                let line = text.lines().find(|line| !line.trim_start().starts_with("//") && pattern.is_match(line));
                assert!(line.is_none(), "{file}: {line:?}");
            }
        }
    }
}

#[test]
fn tests_named_in_scripts_and_documents_exist() {
    let function = Regex::new(r"fn (\w+)").expect("a pattern");
    let mut known = BTreeSet::new();
    for folder in ["agent", "certs", "controller", "protocol", "tests"] {
        let mut open = vec![root().join(folder)];
        while let Some(next) = open.pop() {
            if next.is_dir() {
                open.extend(std::fs::read_dir(&next).expect("a folder").flatten().map(|entry| entry.path()));
            } else if next.extension().is_some_and(|extension| extension == "rs") {
                let text = std::fs::read_to_string(&next).expect("a source");
                known.extend(function.captures_iter(&text).filter_map(|found| Some(found.get(1)?.as_str().to_owned())));
            }
        }
    }
    // In documents the beginning of a name is enough; a command must name the whole.
    let in_prose = Regex::new(r"`(?:\w+::)*([a-z0-9]+(?:_[a-z0-9]+){2,})…?`").expect("a pattern");
    let command = Regex::new(r"(?m)^cargo (?:test|nextest)\b.* ([a-z0-9]+(?:_[a-z0-9]+){2,})$").expect("a pattern");
    let read = |path: &str| std::fs::read_to_string(root().join(path)).expect("a file");
    let mut named = 0;
    let crates = ["client", "fleet", "hub", "index", "store"].map(|one| format!("controller/{one}/README.md"));
    let others = ["tests", "agent", "certs", "controller", "protocol"].map(|one| format!("{one}/README.md"));
    for path in crates.iter().chain(&others) {
        for found in in_prose.captures_iter(&read(path)) {
            let name = found.get(1).expect("a name").as_str();
            // Names of metrics.
            if name.ends_with("_total") {
                continue;
            }
            assert!(known.iter().any(|one| one.starts_with(name)), "{path}: no test {name}");
            named += 1;
        }
    }
    assert!(named > 10, "{named} tests are named");
    let mut named = 0;
    for path in ["tests/simulate", "tests/old-versions", "tests/run", "tests/mutants"] {
        for found in command.captures_iter(&read(path)) {
            let name = found.get(1).expect("a name").as_str();
            assert!(known.contains(name), "{path}: no test {name}");
            named += 1;
        }
    }
    assert!(named > 0, "no command names a test");
}

#[test]
fn only_a_permitted_run_starts_a_script() {
    // Who may name the steps between a permit and a script.
    let steps: [(&str, &[&str]); 6] = [
        (r"\.spend\(", &["agent/src/executor/runs.rs"]),
        (r"\bReady \{", &["agent/src/executor/gate.rs"]),
        (r"\bscript::run\(", &["agent/src/machine/script.rs"]),
        (r"\bmachine\.act\(", &["agent/src/executor/script_runs.rs"]),
        (r"\bTask \{", &["agent/src/action/script.rs", "agent/src/executor/script_runs.rs"]),
        (r"\bself\.act\(", &["agent/src/executor/runs.rs"]),
    ];
    for (pattern, may) in steps {
        let pattern = Regex::new(pattern).expect("a pattern");
        let users: Vec<String> = sources("agent/src")
            .into_iter()
            .filter(|(_, text)| text.lines().any(|line| !line.trim_start().starts_with("//") && pattern.is_match(line)))
            .map(|(file, _)| file)
            .collect();
        assert!(!users.is_empty(), "nobody uses {pattern}");
        let others: Vec<&String> = users.iter().filter(|user| !may.contains(&user.as_str())).collect();
        assert!(others.is_empty(), "{pattern}: {others:?}");
    }
}

#[test]
fn functions_stay_short_and_files_do_not_import_each_other_in_rings() {
    let counted = std::process::Command::new(root().join("tests/structure")).output();
    let counted = match counted {
        Ok(output) => output,
        Err(error) if std::env::var_os("CI").is_none() => return eprintln!("skipped, python3 is missing: {error}"),
        Err(error) => panic!("python3 is missing: {error}"),
    };
    let text = String::from_utf8_lossy(&counted.stdout).into_owned();
    assert!(text.contains("functions over 80 lines 0\n"), "{text}");
    assert!(text.contains("rings of files 0 "), "{text}");
    let words = Regex::new(r"words of our own in names (\d+)").expect("a pattern");
    let left: u32 = words.captures(&text).and_then(|found| found.get(1)?.as_str().parse().ok()).expect("a number");
    assert!(left <= 29, "names use more words of our own than before: {text}");
}
