//! Runs a script with the checks that its manifest names, before and after it.

use crate::action::script::{self, ScriptError, Task};
use crate::collect::{self, Looked, Surroundings};
use crate::executor::{Act, Event, ScriptResult};
use crate::platform::{facts, memory, paths};
use fernwart_protocol::diagnosis::{Finding, Rules, Unknown};
use fernwart_protocol::document::SectionName;
use fernwart_protocol::script::{Kind, Value};
use fernwart_protocol::to_hub::Stream;
use serde_json::Value as Json;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::mpsc;

/// Runs the script on the current thread, and sends an event at its end.
pub(super) fn perform(Act { run, task, surroundings, rules, cancelled, output }: Act, events: &mpsc::Sender<Event>) {
    let result = act(&task, &surroundings, &rules, &cancelled, |stream, bytes| output.write(stream, &bytes));
    // Its last bytes are in the channel before the executor hears of its end.
    drop(output);
    // Fails only once the executor has stopped.
    let _ = events.blocking_send(Event::ScriptEnded(run, result));
}

/// Runs the checks, the script, and the checks again.
fn act(
    task: &Task,
    surroundings: &Surroundings,
    rules: &Rules,
    cancelled: &AtomicBool,
    live: impl FnMut(Stream, Vec<u8>),
) -> ScriptResult {
    let before = checked(task, surroundings, rules, Duration::ZERO);
    if cancelled.load(Ordering::SeqCst) {
        return Err(ScriptError::Cancelled);
    }
    let mut report = script::run(task, cancelled, crate::now, live)?;
    report.after = if task.dry_run { before.clone() } else { checked(task, surroundings, rules, STILL_ASKED) };
    report.before = before;
    Ok(Box::new(report))
}

/// How long slow checks may take to show whether the script has helped.
const STILL_ASKED: Duration = Duration::from_secs(90);

/// The findings of the checks that the manifest names, limited to what the script was given. None
/// if a section has no answer.
fn checked(task: &Task, surroundings: &Surroundings, rules: &Rules, wait: Duration) -> Option<Vec<Finding>> {
    let checks = &task.manifest.checks;
    let mut sections: Vec<SectionName> =
        rules.rules.iter().filter(|rule| checks.contains(&rule.id)).map(|rule| rule.section).collect();
    sections.sort();
    sections.dedup();
    if sections.is_empty() {
        return None;
    }
    let deadline = Instant::now() + wait;
    let report = loop {
        let Looked { report, .. } = collect::look(facts::lens(rules), &sections, surroundings);
        memory::give_back();
        match (report.still_asks(), Instant::now() < deadline) {
            (false, _) => break report,
            // A slow package manager's answer is ready at a later look.
            (true, true) => std::thread::sleep(Duration::from_secs(1)),
            (true, false) => return None,
        }
    };
    // An unknown result does not count as healthy. Unknowns about other things than the script
    // was given do not matter.
    let is_open = |unknown: &Unknown| checks.contains(&unknown.id) && may_be_about(unknown, rules, task);
    if report.unknown.iter().any(is_open) || checks.iter().any(|check| report.is_blind(check)) {
        return None;
    }
    let mut findings = report.findings;
    findings.retain(|finding| checks.contains(&finding.id) && is_about(&finding.evidence, task));
    Some(findings)
}

/// Whether such facts (`unit`, `mount` …) concern what the script was given.
fn is_about(facts: &BTreeMap<String, Json>, task: &Task) -> bool {
    task.manifest.parameters.iter().all(|declared| {
        let fact = declared.from.as_ref().and_then(|from| facts.get(from));
        let given = task.parameters.iter().find(|(name, _)| *name == declared.name);
        match (fact, given) {
            (Some(Json::String(mount)), Some((_, Value::Text(path)))) if matches!(declared.kind, Kind::Path { .. }) => {
                may_be_on(mount, path)
            }
            (Some(fact), Some((_, given))) => serde_json::to_value(given).is_ok_and(|given| given == *fact),
            _ => true,
        }
    })
}

/// Whether a check without an answer may concern what the script was given.
fn may_be_about(unknown: &Unknown, rules: &Rules, task: &Task) -> bool {
    let named_by = rules.find(&unknown.id).and_then(|rule| rule.name.clone());
    let thing = named_by.zip(unknown.instance.clone().map(Json::String));
    is_about(&thing.into_iter().collect(), task)
}

/// Whether a path may lie on the same file system as a mount. A path that does not exist lies
/// where its folder does. A path that does not answer may lie anywhere; a path that answers is
/// not on a mount that hangs.
fn may_be_on(mount: &str, path: &str) -> bool {
    let disk = |path: &str| paths::disk_of(Path::new(path));
    disk(path).is_none_or(|it| disk(mount) == Some(it))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::executor::RunEnd;
    use fernwart_protocol::diagnosis::builtin_rules;
    use fernwart_protocol::diagnosis::{Reason, Severity};
    use fernwart_protocol::document::Outcome;
    use fernwart_protocol::script::{Cage, Declared, Manifest, Parameters};
    use serde_json::json;

    const MANIFEST: &str = r#"
name = "mend"
version = 1
title = { en = "Mend", de = "Reparieren" }
explain = { en = "Mends.", de = "Repariert." }
interpreter = "sh"
run = "run.sh"
platforms = ["linux"]
privilege = "raw"
checks = ["memory.low"]
"#;

    fn task(run: &str) -> Task {
        let manifest = Manifest::read(MANIFEST).expect("a manifest");
        let text = run.as_bytes().to_vec();
        let file = (fernwart_certs::sha256(&text), text);
        Task {
            run: "cancelled-before".into(),
            parameters: Declared::check(&manifest.parameters, &Parameters::default()).expect("none"),
            files: BTreeMap::from([(manifest.run.clone(), file)]),
            manifest,
            dry_run: false,
            cage: Cage::Namespaces,
            hide: Vec::new(),
        }
    }

    #[test]
    fn a_script_cancelled_before_its_start_is_not_run_and_ends_as_cancelled() {
        let folder = tempfile::tempdir().expect("a folder");
        let task = task(&format!("touch {}/done\n", folder.path().display()));
        let surroundings = Surroundings::default();
        let taken_back = AtomicBool::new(true);
        let result = act(&task, &surroundings, &builtin_rules(), &taken_back, |_, _| {});
        assert!(matches!(result, Err(ScriptError::Cancelled)));
        // Also if the cancel arrives just before the start.
        let ran = script::run(&task, &taken_back, crate::now, |_, _| {});
        assert!(matches!(ran, Err(ScriptError::Cancelled)), "{ran:?}");
        let ended = RunEnd::from(result);
        assert_eq!((ended.outcome, ended.refusal, ended.body), (Outcome::Cancelled, None, None));
        assert!(!folder.path().join("done").exists());
    }

    #[test]
    fn only_checks_of_what_the_script_was_given_must_have_an_answer() {
        let parameter = "[[parameter]]\nname = \"place\"\nkind = \"path\"\nunder = [\"/\"]\nfrom = \"mount\"\nen = \"x\"\nde = \"y\"\n";
        let manifest = Manifest::read(&format!("{MANIFEST}\n{parameter}")).expect("a manifest");
        let given = serde_json::from_value(json!({"place": "/proc/self/x"})).expect("parameters");
        let parameters = Declared::check(&manifest.parameters, &given).expect("they fit");
        let task = Task { manifest, parameters, ..task("") };
        let unknown = |id: &str, instance: Option<&str>| {
            let unknown = Unknown {
                id: id.into(),
                instance: instance.map(str::to_owned),
                why: Reason::Hangs.into(),
                could_be: Severity::Crit,
                since: 0,
            };
            may_be_about(&unknown, &builtin_rules(), &task)
        };
        assert!(unknown("disk.free", Some("/proc")), "it lies there");
        assert!(!unknown("disk.free", Some("/")), "another one is no matter of this script");
        assert!(unknown("disk.free", None), "nothing of the whole part is known");
        assert!(unknown("memory.low", None));
    }
}
