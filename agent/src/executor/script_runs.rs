//! Running scripts: one at a time, on a thread of its own, with live output.

use super::gate::Ready;
use super::machine::Act;
use super::pending::WRITE_AGAIN;
use super::receipt::ReceiptBuilder;
use super::state::StateError;
use super::{Event, Executor};
use crate::action::script::{ScriptError, Task};
use crate::message::ToUplink;
use fernwart_protocol::code::Refusal;
use fernwart_protocol::document::{Action, Document, Order, Outcome, UnixMs};
use fernwart_protocol::id::RunId;
use fernwart_protocol::script::{Manifest, NotRun, RunReport, Stopped};
use fernwart_protocol::text::{Text, chain};
use fernwart_protocol::to_hub::{Delivered, Note};
use serde_json::{Value as Json, json};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
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
    pub(crate) outcome: Outcome,
    pub(crate) refusal: Option<Refusal>,
    details: serde_json::Map<String, Json>,
    pub(crate) body: Option<Vec<u8>>,
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
            hide: Vec::new(),
        };
        let watchers = self.waiting.get(&run).cloned().unwrap_or_default();
        let output = self.channels.open(run, !watchers.is_empty());
        for ticket in watchers {
            self.say(ToUplink::Opened(ticket, run));
        }
        let (surroundings, rules) = (self.surroundings(), self.rules());
        self.machine.act(Act { run, task, surroundings, rules, cancelled, output });
    }

    pub(super) fn handle_script_ended(&mut self, run: RunId, result: ScriptResult) {
        self.acting.take_if(|acting| acting.run == run);
        if !self.waiting.contains_key(&run) {
            self.channels.revoke(&run);
        }
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
        self.blobs.script(self.files.as_ref(), bundle, approved).ok().map(|script| script.manifest)
    }
}
