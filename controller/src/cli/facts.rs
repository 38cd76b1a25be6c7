//! `fernwart facts`: a machine's stored facts, now or earlier, and their changes.

use super::choosing::one;
use super::diagnose::stored;
use super::output::{Rows, Shape, json_text, moment, rfc3339};
use super::{Exit, Failure, HomePaths, say, span, with_session};
use clap::Args;
use fernwart_client::now;
use fernwart_protocol::diagnosis::{Answer, Report};
use fernwart_protocol::document::SectionName;
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

/// Show the stored facts of a machine
#[derive(Args)]
#[command(
    before_help = "Examples:\n  fernwart facts kasse-1 --section disks\n  fernwart facts kasse-1 --since 24h --changed"
)]
pub(crate) struct Facts {
    /// Its name
    machine: String,
    /// Only these sections
    #[arg(long, value_name = "SECTION")]
    section: Vec<SectionName>,
    /// As they were at that time in the past: 24h
    #[arg(long, value_name = "TIME", value_parser = span::parse)]
    since: Option<Duration>,
    /// Only what has changed since then
    #[arg(long, requires = "since")]
    changed: bool,
    /// How to write it
    #[arg(short, long, value_enum, default_value_t = Shape::Table)]
    output: Shape,
}

pub(crate) fn run(command: &Facts, homes: &HomePaths) -> Result<Exit, Failure> {
    let then = command.since.map(|since| now().saturating_sub(i64::try_from(since.as_millis()).unwrap_or(i64::MAX)));
    let (row, newest, earlier) = with_session(homes, async |session| {
        let row = one(session, &command.machine).await?;
        let newest = stored(session.facts(row.id).await?)?;
        let earlier = match then {
            Some(then) => stored(session.facts_at(row.id, then).await?)?,
            None => None,
        };
        Ok((row, newest, earlier))
    })?;
    let Some(newest) = newest else {
        let what = format!("{} has no report of a whole diagnosis yet (one with --section is not kept)", row.name);
        return Err(Failure::new(Exit::Bad, "FW-CLI-21", what).now(format!("fernwart diagnose {}", row.name)));
    };
    let shown = match then {
        None => newest,
        Some(then) => {
            let Some(earlier) = earlier else {
                let what = format!("{} has no report from before {}", row.name, moment(then));
                let now = format!("a shorter --since: its newest is of {}", moment(newest.0));
                return Err(Failure::new(Exit::Bad, "FW-CLI-21", what).now(now));
            };
            if command.changed {
                let before = facts(&earlier.1, &command.section);
                return changes(command.output, &before, &facts(&newest.1, &command.section), (earlier.0, newest.0));
            }
            earlier
        }
    };
    let facts = facts(&shown.1, &command.section);
    if !matches!(command.output, Shape::Json | Shape::Jsonl) {
        if command.output == Shape::Table {
            note!("{} · as told on {}", row.name, moment(shown.0));
        }
        let mut rows = Rows::new("fact", &["fact", "value"]);
        leaves(&facts).into_iter().for_each(|(fact, value)| rows.push(vec![fact.into(), value.into()]));
        return rows.print(command.output);
    }
    let object = json!({"v": 1, "type": "facts", "machine": row.name, "at": rfc3339(shown.0), "facts": facts});
    say(&(json_text(&object) + "\n"))
}

fn facts(report: &Report, wanted: &[SectionName]) -> Map<String, Value> {
    let sections = report.sections.iter().filter(|(section, _)| wanted.is_empty() || wanted.contains(section));
    sections
        .map(|(section, answer)| match &answer.answer {
            Answer::Facts(value) => (section.to_string(), value.clone()),
            Answer::Unanswered(why) => (section.to_string(), json!({ "unanswered": why })),
        })
        .collect()
}

fn changes(
    shape: Shape,
    before: &Map<String, Value>,
    after: &Map<String, Value>,
    (from, to): (i64, i64),
) -> Result<Exit, Failure> {
    let (before, after) = (leaves(before), leaves(after));
    let mut rows = Rows::new("change", &["fact", "before", "now"]);
    let mut facts: Vec<&String> = before.keys().chain(after.keys()).collect();
    facts.sort_unstable();
    facts.dedup();
    for fact in facts {
        let (one, other) = (before.get(fact), after.get(fact));
        if one != other {
            let cell = |value: Option<&Value>| value.cloned().unwrap_or_default();
            rows.push(vec![fact.as_str().into(), cell(one).into(), cell(other).into()]);
        }
    }
    note!("{} → {}", moment(from), moment(to));
    rows.print(shape)
}

/// Fields that identify an item of a list.
const NAMES: [&str; 7] = ["mount", "name", "unit", "device", "message", "port", "id"];

/// All single facts by their path: `disks.filesystems[/var].free_pct`.
fn leaves(facts: &Map<String, Value>) -> BTreeMap<String, Value> {
    fn walk(path: String, value: &Value, into: &mut BTreeMap<String, Value>) {
        match value {
            Value::Object(fields) => {
                for (name, field) in fields {
                    walk(format!("{path}.{name}"), field, into);
                }
            }
            Value::Array(items) if items.iter().any(Value::is_object) => {
                let mut known = HashMap::<String, u32>::new();
                for (index, item) in items.iter().enumerate() {
                    let name = NAMES.iter().find_map(|name| item.get(name)).map(|name| match name {
                        Value::String(text) => text.clone(),
                        other => other.to_string(),
                    });
                    let name = name.unwrap_or_else(|| index.to_string());
                    let alike = known.entry(name.clone()).or_default();
                    *alike += 1;
                    let name = if *alike > 1 { format!("{name}#{alike}") } else { name };
                    walk(format!("{path}[{name}]"), item, into);
                }
            }
            leaf => drop(into.insert(path, leaf.clone())),
        }
    }
    let mut into = BTreeMap::new();
    for (section, value) in facts {
        walk(section.clone(), value, &mut into);
    }
    into
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn list_items_are_named_by_their_identifying_field() {
        let facts =
            json!({"disks": {"filesystems": [{"mount": "/", "free_pct": 4.0}, {"mount": "/var"}], "ok": ["a"]}});
        let leaves = leaves(facts.as_object().expect("an object"));
        let names: Vec<&str> = leaves.keys().map(String::as_str).collect();
        assert_eq!(
            names,
            [
                "disks.filesystems[/].free_pct",
                "disks.filesystems[/].mount",
                "disks.filesystems[/var].mount",
                "disks.ok"
            ]
        );
    }
}
