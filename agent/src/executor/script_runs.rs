//! Running scripts: one at a time, on a thread of its own, with live output.

use super::gate::Ready;
use super::machine::Act;
use super::pending::WRITE_AGAIN;
use super::receipt::ReceiptBuilder;
use super::state::StateError;
use super::{Event, Executor};
use crate::action::script::{self, ScriptError, Task};
use crate::collect::{self, Looked, Surroundings};
use crate::message::ToUplink;
use fernwart_protocol::code::Refusal;
use fernwart_protocol::diagnosis::{Finding, Rules, Unknown, builtin_rules};
use fernwart_protocol::document::{Action, Document, Order, Outcome, SectionName, UnixMs};
use fernwart_protocol::id::RunId;
use fernwart_protocol::limits::OUTPUT_BYTES;
use fernwart_protocol::script::{Kind, Manifest, NotRun, RunReport, Stopped, Value};
use fernwart_protocol::text::{Blob, Text, chain};
use fernwart_protocol::to_hub::{Delivered, Note, Stream};
use serde_json::{Value as Json, json};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use tracing::warn;

/// The running script.
#[derive(Debug)]
pub(super) struct Acting {
    pub(super) run: RunId,
    /// Set to stop it.
    pub(super) cancelled: Arc<AtomicBool>,
}

/// The result of a script's thread: a report, or why nothing was run.
pub type ScriptResult = Result<Box<RunReport>, ScriptError>;

/// How a look or an act ended, ready to be written.
#[derive(Debug)]
pub struct RunEnd {
    outcome: Outcome,
    refusal: Option<Refusal>,
    details: serde_json::Map<String, Json>,
    body: Option<Vec<u8>>,
    /// When it began; none means when its order arrived.
    began: Option<UnixMs>,
}

impl RunEnd {
    /// The end of a look, with its report if there is one.
    pub(super) fn looked(report: Option<Vec<u8>>, began: UnixMs) -> Self {
        let outcome = if report.is_some() { Outcome::Ok } else { Outcome::Failed };
        Self { outcome, refusal: None, details: serde_json::Map::new(), body: report, began: Some(began) }
    }
}

impl From<ScriptResult> for RunEnd {
    fn from(result: ScriptResult) -> Self {
        let not_run = |outcome, refusal, why: Option<String>| {
            let mut details = serde_json::Map::new();
            let body = why.map(|why| {
                details.insert("why".into(), json!(why));
                NotRun::because(&why).pack()
            });
            Self { outcome, refusal, details, body, began: None }
        };
        let error = match result {
            Ok(report) => {
                let outcome = match (report.stopped, report.is_well()) {
                    (Some(Stopped::Cancelled), _) => Outcome::Cancelled,
                    (_, true) => Outcome::Ok,
                    (_, false) => Outcome::Failed,
                };
                let mut details = serde_json::Map::new();
                details.insert("exit".into(), json!(report.exit));
                details.insert("means".into(), json!(report.means));
                details.insert("mended".into(), json!(report.is_well()));
                return Self { outcome, refusal: None, details, body: report.pack_to_fit().ok(), began: None };
            }
            Err(ScriptError::Cancelled) => return not_run(Outcome::Cancelled, None, None),
            Err(error) => error,
        };
        warn!(%error, "a script was not run");
        let refusal = match error {
            ScriptError::Altered(_) => Refusal::NotFetched,
            ScriptError::Secrets(_) => Refusal::BadParameters,
            ScriptError::Cage(_) | ScriptError::Io(_) | ScriptError::Cancelled => Refusal::NoCage,
        };
        // The refusal code gives only the category; this names the cause.
        not_run(Outcome::Refused, Some(refusal), Some(chain(&error)))
    }
}

impl Executor {
    /// Starts a script. The state store already says that it has started.
    pub(super) fn act(&mut self, run: RunId, ready: Ready) {
        let cancelled = Arc::new(AtomicBool::new(false));
        self.acting = Some(Acting { run, cancelled: cancelled.clone() });
        let task = Task {
            run: run.to_string(),
            manifest: ready.script.manifest,
            files: ready.script.files,
            parameters: ready.parameters,
            dry_run: ready.dry_run,
            cage: ready.cage,
            hide: vec![self.home.real_path()],
        };
        self.machine.act(Act { run, task, surroundings: self.surroundings(), cancelled });
    }

    pub(super) fn handle_output(&mut self, run: RunId, stream: Stream, bytes: Vec<u8>) {
        let Ok(bytes) = Blob::try_from(bytes) else { return };
        for ticket in self.waiting.get(&run).into_iter().flatten() {
            let details = Delivered::Note(Note::Output(stream, bytes.clone()));
            self.out.say(ToUplink::Delivered(*ticket, details));
        }
    }

    pub(super) fn handle_script_ended(&mut self, run: RunId, result: ScriptResult) {
        self.acting.take_if(|acting| acting.run == run);
        self.conclude(run, RunEnd::from(result));
        self.act_on();
    }

    /// Writes how a run ended. If the disk fails, it is retried until it succeeds, so that no
    /// outcome is lost.
    pub(super) fn conclude(&mut self, run: RunId, ended: RunEnd) {
        let Err(error) = self.write_end(run, &ended) else {
            self.unwritten.remove(&run);
            return;
        };
        warn!(%run, %error, "an outcome could not be written; will retry");
        self.unwritten.insert(run);
        self.send_to_watchers(run, Delivered::Note(Note::Unwritten(Text::clipped(&chain(&error)))));
        self.machine.later(WRITE_AGAIN, Event::Unwritten(run, Box::new(ended)));
    }

    fn write_end(&mut self, run: RunId, ended: &RunEnd) -> Result<(), StateError> {
        let Some(record) = self.store.run(&run)? else {
            // An earlier attempt succeeded, and the run was acknowledged and forgotten since.
            self.started.remove(&run);
            return Ok(());
        };
        let started = self.started.get(&run);
        let permitted = started.map(|known| (known.rule, known.policy));
        let order = match started {
            Some(known) => known.order.clone(),
            None => Order::from_bytes(record.order.bytes.as_bytes()).map_err(|_| StateError::Damaged("runs"))?,
        };
        let RunEnd { outcome, refusal, details, body, began } = ended;
        let builder = ReceiptBuilder::refused(order, record.order, began.unwrap_or(record.received_at));
        let builder =
            ReceiptBuilder { permitted, outcome: *outcome, refusal: *refusal, details: details.clone(), ..builder };
        self.finish(builder, body.clone())
    }

    /// Stops the running script: this run's, or any if `run` is none.
    pub(super) fn cancel_acting(&self, run: Option<RunId>) {
        if let Some(acting) = self.acting.as_ref().filter(|acting| run.is_none_or(|run| run == acting.run)) {
            acting.cancelled.store(true, Ordering::SeqCst);
        }
    }

    /// The title of an action's script in both languages; none if its manifest is not here.
    pub(super) fn title_of(&self, action: &Action) -> Option<fernwart_protocol::diagnosis::Both> {
        self.manifest_of(action).map(|manifest| manifest.title)
    }

    /// The manifest of an action's script, if it is here.
    pub(super) fn manifest_of(&self, action: &Action) -> Option<Manifest> {
        let Action::Script { bundle, .. } = action else { return None };
        let approved = self.catalogue.scripts.get(bundle)?;
        self.blobs.script(bundle, approved).ok().map(|script| script.manifest)
    }
}

/// Runs the script on the current thread and sends events about it.
pub(super) fn perform(Act { run, task, surroundings, cancelled }: &Act, events: &mpsc::Sender<Event>) {
    let result = act(task, surroundings, cancelled, |stream, bytes| {
        for piece in bytes.chunks(OUTPUT_BYTES) {
            // A slow watcher misses output; the report contains it.
            let _ = events.try_send(Event::Output(*run, stream, piece.to_vec()));
        }
    });
    // Fails only once the executor has stopped.
    let _ = events.blocking_send(Event::ScriptEnded(*run, result));
}

/// Runs the checks, the script, and the checks again.
fn act(
    task: &Task,
    surroundings: &Surroundings,
    cancelled: &AtomicBool,
    live: impl FnMut(Stream, Vec<u8>),
) -> ScriptResult {
    let before = checked(task, surroundings, Duration::ZERO);
    if cancelled.load(Ordering::SeqCst) {
        return Err(ScriptError::Cancelled);
    }
    let mut report = script::run(task, cancelled, crate::now, live)?;
    report.after = if task.dry_run { before.clone() } else { checked(task, surroundings, STILL_ASKED) };
    report.before = before;
    Ok(Box::new(report))
}

/// How long slow checks may take to show whether the script has helped.
const STILL_ASKED: Duration = Duration::from_secs(90);

/// The findings of the checks that the manifest names, limited to what the script was given. None
/// if a section has no answer.
fn checked(task: &Task, surroundings: &Surroundings, wait: Duration) -> Option<Vec<Finding>> {
    let checks = &task.manifest.checks;
    let rules = builtin_rules();
    let mut sections: Vec<SectionName> =
        rules.rules.iter().filter(|rule| checks.contains(&rule.id)).map(|rule| rule.section).collect();
    sections.sort();
    sections.dedup();
    if sections.is_empty() {
        return None;
    }
    let deadline = Instant::now() + wait;
    let report = loop {
        let Looked { report, .. } = collect::look(&sections, surroundings);
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
    let disk = |path: &str| collect::disk_of(std::path::Path::new(path));
    disk(path).is_none_or(|it| disk(mount) == Some(it))
}

#[cfg(test)]
mod tests {
    use super::*;
    use fernwart_protocol::diagnosis::{Reason, Severity};
    use fernwart_protocol::script::{Cage, Declared, Manifest, Parameters};

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
        let result = act(&task, &surroundings, &taken_back, |_, _| {});
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
            may_be_about(&unknown, builtin_rules(), &task)
        };
        assert!(unknown("disk.free", Some("/proc")), "it lies there");
        assert!(!unknown("disk.free", Some("/")), "another one is no matter of this script");
        assert!(unknown("disk.free", None), "nothing of the whole part is known");
        assert!(unknown("memory.low", None));
    }
}
