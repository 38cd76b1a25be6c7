//! The runs on this computer, as text for its owner.
//!
//! Read from the journal: who wanted what, when and why, who allowed it, how it ended, and
//! whether it can be undone.

use crate::owner::words::{Words, action_word_in};
use fernwart_certs::journal::{Entry, Line};
use fernwart_protocol::diagnosis::Both;
use fernwart_protocol::document::UnixMs;
use fernwart_protocol::text::escaped;
use serde_json::Value;
use std::collections::HashMap;
use std::fmt::Write;

/// Whether the agent is running.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Agent {
    /// It is.
    Running,
    /// It has stopped, or was killed.
    Stopped,
}

/// One run, as read from the journal.
#[derive(Debug, Clone, Default, PartialEq)]
struct Run {
    id: String,
    began: UnixMs,
    ended: Option<UnixMs>,
    staff: String,
    reason: String,
    action: String,
    /// A script's title, name, version and parameters.
    title: Option<Both>,
    script: String,
    /// Whether it was a dry run.
    dry_run: bool,
    rule: String,
    /// The account that allowed it.
    by: String,
    undo: String,
    outcome: String,
    means: Option<Both>,
    code: String,
}

fn text(body: &Value, name: &str) -> String {
    escaped(body.get(name).and_then(Value::as_str).unwrap_or_default())
}

fn both(body: &Value, name: &str) -> Option<Both> {
    serde_json::from_value(body.get(name)?.clone()).ok()
}

fn runs(lines: &[Line]) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    let mut places: HashMap<String, usize> = HashMap::new();
    for line in lines {
        let Line::Entry { line, body, .. } = line else { continue };
        let Ok(entry) = serde_json::from_str::<Entry>(line) else { continue };
        let body: Value = body.as_deref().and_then(|body| serde_json::from_str(body).ok()).unwrap_or_default();
        let id = text(&body, "run");
        if id.is_empty() {
            continue;
        }
        let place = *places.entry(id.clone()).or_insert_with(|| {
            runs.push(Run { id, began: entry.at, ..Run::default() });
            runs.len() - 1
        });
        let Some(run) = runs.get_mut(place) else { continue };
        fill(run, entry.kind.as_raw(), entry.at, &body);
    }
    runs
}

/// Adds the content of one journal line.
fn fill(run: &mut Run, kind: &str, at: UnixMs, body: &Value) {
    let set = |field: &mut String, name: &str| {
        let value = text(body, name);
        if !value.is_empty() {
            *field = value;
        }
    };
    set(&mut run.staff, "staff");
    set(&mut run.reason, "reason");
    if let Some(word) = action_word_in(body) {
        run.action = word;
    }
    if let Some(script) = body.pointer("/action/script") {
        run.dry_run = script.get("dry_run").and_then(Value::as_bool).unwrap_or_default();
        let version = script.get("version").map(Value::to_string).unwrap_or_default();
        run.script = format!("{} {version}", text(script, "bundle"));
        for (name, value) in script.get("parameters").and_then(Value::as_object).into_iter().flatten() {
            let value = value.as_str().map_or_else(|| value.to_string(), escaped);
            let _ = write!(run.script, "  {}={value}", escaped(name));
        }
    }
    match kind {
        "run_started" => {
            run.began = at;
            set(&mut run.rule, "permitted_by");
            set(&mut run.undo, "undo");
            run.title = both(body, "title").or(run.title.take());
        }
        "owner_asked" => run.title = both(body, "title").or(run.title.take()),
        "owner_said" => set(&mut run.by, "by"),
        "run_finished" | "order_refused" => {
            run.ended = Some(at);
            run.outcome = if kind == "order_refused" { "refused".to_owned() } else { text(body, "outcome") };
            run.means = both(body, "means").or(run.means.take());
            set(&mut run.code, "code");
        }
        _ => {}
    }
}

fn at(ms: UnixMs, format: &str) -> String {
    let at = jiff::Timestamp::from_millisecond(ms).unwrap_or_default().to_zoned(jiff::tz::TimeZone::system());
    at.strftime(format).to_string()
}

impl Run {
    fn what(&self, words: &Words) -> String {
        let what = self.title(words);
        if self.dry_run { words.say_with("history-dry-run", &[("what", &what)]) } else { what }
    }

    fn title(&self, words: &Words) -> String {
        match &self.title {
            Some(title) => escaped(words.language.of(title)),
            None if !self.script.is_empty() => self.script.split("  ").next().unwrap_or_default().to_owned(),
            None => words.say(&format!("action-{}", if self.action.is_empty() { "other" } else { &self.action })),
        }
    }

    fn result(&self, words: &Words, agent: Agent) -> String {
        if self.outcome.is_empty() {
            // A run ends with the agent process that began it.
            return words.say(if agent == Agent::Running { "history-under-way" } else { "outcome-interrupted" });
        }
        let outcome = words.say(&format!("outcome-{}", self.outcome));
        // Refusals by the owner are explained; for others the code is enough for the IT support.
        let by_owner = match self.code.as_str() {
            "FW-OWN-02" => Some("refused-by-you"),
            "FW-OWN-03" => Some("refused-no-answer"),
            "FW-OWN-05" => Some("refused-paused"),
            _ => None,
        };
        match (&self.means, by_owner) {
            (Some(means), _) => format!("{outcome}: {}", escaped(words.language.of(means))),
            (None, Some(id)) => format!("{} ({})", words.say(id), self.code),
            (None, None) if self.code.is_empty() => outcome,
            (None, None) => format!("{outcome} ({})", self.code),
        }
    }

    fn allowed(&self, words: &Words) -> String {
        let rule = self.rule.as_str();
        if rule.is_empty() {
            // For a refused run the result is enough.
            return if self.outcome == "refused" { String::new() } else { words.say("allowed-not") };
        }
        let by = [("by", self.by.as_str())];
        match rule {
            "the owner said yes to this" => words.say_with("allowed-you", &by),
            "the owner allows repairs for a while" => words.say("allowed-while"),
            "act.mode = window, and one is open" => words.say("allowed-window"),
            _ => words.say("allowed-rules"),
        }
    }
}

/// All runs, newest first, one line each; or one run in detail. None if there is no run with this
/// number.
pub fn in_words(lines: &[Line], number: Option<usize>, words: &Words, agent: Agent) -> Option<String> {
    let runs = runs(lines);
    let mut out = String::new();
    match number {
        Some(number) => {
            let run = runs.get(number.checked_sub(1)?)?;
            let ended = run.ended.map(|ended| format!(" – {}", at(ended, "%H:%M:%S"))).unwrap_or_default();
            let undo = match run.undo.as_str() {
                "" => words.say("no"),
                undo => words.say_with("history-undo-by", &[("script", undo)]),
            };
            let rows = [
                ("history-what", run.what(words)),
                ("history-script", run.script.clone()),
                ("history-who", run.staff.clone()),
                ("history-when", at(run.began, "%Y-%m-%d %H:%M:%S") + &ended),
                ("history-why", run.reason.clone()),
                ("history-allowed", run.allowed(words)),
                ("history-result", run.result(words, agent)),
                ("history-undo", if run.action == "script" { undo } else { String::new() }),
                ("history-run", run.id.clone()),
            ];
            for (label, value) in rows.iter().filter(|(_, value)| !value.is_empty()) {
                // Writing into a String does not fail.
                let _ = writeln!(out, "{:<14} {value}", words.say(label));
            }
        }
        None => {
            for (place, run) in runs.iter().enumerate().rev() {
                let reason = if run.reason.is_empty() { "–".to_owned() } else { format!("„{}“", run.reason) };
                let line = format!(
                    "{:>4}  {}  {}  {}  {reason}  {}  {}",
                    place + 1,
                    at(run.began, "%Y-%m-%d %H:%M"),
                    run.what(words),
                    run.staff,
                    run.result(words, agent),
                    run.allowed(words)
                );
                let _ = writeln!(out, "{}", line.trim_end());
            }
            out += &(words.say(if runs.is_empty() { "history-none" } else { "history-more" }) + "\n");
        }
    }
    Some(out)
}
