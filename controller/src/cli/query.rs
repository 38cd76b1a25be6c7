//! `fernwart query`: an SQL query over machines' reports.

use super::diagnose::refresh;
use super::output::{Cell, Rows, Shape, harmless};
use super::{Exit, Failure, HomePaths, TargetArgs, say, span, with_session};
use clap::Args;
use fernwart_certs::catalogue::rules_in_force;
use fernwart_client::Session;
use fernwart_protocol::limits::QUESTION_BYTES;
use fernwart_protocol::text::Text;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// Query the newest reports of machines in SQL
#[derive(Args)]
#[command(
    before_help = "Examples:\n  fernwart query \"SELECT machine, mount, free_pct FROM filesystems WHERE free_pct < 10\"\n  fernwart query --finding disk.free -o name\n  fernwart query --tables",
    after_help = "Exit: 0 answered · 2 not understood · 4 the hub did not answer in time, or is busy with other questions · 5 it could not, or it would take too much\nThe answer is as old as each machine's newest whole diagnosis: machines.diagnosed_at; --live takes new ones first."
)]
pub(crate) struct Query {
    /// One SELECT, or - to read it from standard input
    #[arg(required_unless_present_any = ["tables", "finding"], conflicts_with = "finding")]
    sql: Option<String>,
    /// Which machines have this finding now
    #[arg(long, value_name = "ID")]
    finding: Option<String>,
    /// What can be asked: all tables and their columns
    #[arg(long)]
    tables: bool,
    /// Look at all machines first, or at these
    #[arg(long, value_name = "TARGET", num_args = 0..=1, default_missing_value = "all", require_equals = true)]
    live: Option<String>,
    /// How long --live waits for machines
    #[arg(long, default_value = "15s", value_parser = span::parse, requires = "live")]
    timeout: Duration,
    /// How to write it
    #[arg(short, long, value_enum, default_value_t = Shape::Table)]
    output: Shape,
}

pub(crate) fn run(command: &Query, homes: &HomePaths) -> Result<Exit, Failure> {
    if command.tables {
        return tables(command.output);
    }
    // Reject an unknown check: an empty result would read as "no machine has it".
    let rules = rules_in_force(None);
    let is_known = |id: &str| rules.find(id).is_some() || rules.gaps.iter().any(|gap| gap.id == id);
    if let Some(id) = command.finding.as_deref().filter(|id| !is_known(id)) {
        let what = format!("this version knows no check called {id}");
        return Err(Failure::new(Exit::Usage, "FW-QRY-01", what).now("fernwart diagnose MACHINE --all names them"));
    }
    let sql = match (&command.sql, &command.finding) {
        (Some(sql), _) if sql == "-" => std::io::read_to_string(std::io::stdin())?,
        (Some(sql), _) => sql.clone(),
        (None, finding) => {
            let finding = finding.as_deref().unwrap_or_default().replace('\'', "''");
            format!(
                "SELECT machine, customer, severity, instance, cause FROM findings WHERE id = '{finding}' ORDER BY machine, instance"
            )
        }
    };
    let question: Text<QUESTION_BYTES> = sql.parse().map_err(|_| {
        Failure::new(Exit::Usage, "FW-QRY-01", format!("a question has at most {QUESTION_BYTES} bytes"))
    })?;
    let begun = Instant::now();
    let (looked, lines) = with_session(homes, async |session| {
        let looked = match &command.live {
            Some(target) => {
                let target = TargetArgs { words: vec![target.clone()], ..TargetArgs::default() };
                Some(refresh(session, target, command.timeout).await?)
            }
            None => None,
        };
        Ok((looked, answer(session, question).await?))
    })?;
    if let Some((asked, answered)) = looked
        && answered < asked
    {
        note!("{} of {asked} machines did not tell anything new; what they told before is asked", asked - answered);
    }
    print(command.output, &lines, looked, begun.elapsed())
}

async fn answer(session: &mut Session, question: Text<QUESTION_BYTES>) -> Result<Vec<Value>, Failure> {
    let text = session.query(question).await?;
    let broken = || Failure::new(Exit::Failed, "FW-QRY-02", "the hub could not answer; its log says why");
    let lines = text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    let lines: Result<Vec<Value>, _> = lines.map(serde_json::from_slice).collect();
    let lines = lines.map_err(|_| broken())?;
    match lines.last() {
        Some(Value::Object(end)) => match end.get("error").and_then(Value::as_str) {
            Some(error) if end.contains_key("limit") => {
                Err(Failure::new(Exit::Failed, "FW-QRY-03", fernwart_protocol::text::escaped(error))
                    .now("fernwart limits lists what a question may take"))
            }
            Some(error) => Err(Failure::new(Exit::Usage, "FW-QRY-01", fernwart_protocol::text::escaped(error))
                .now("fernwart query --tables lists what can be asked")),
            None => Ok(lines),
        },
        _ => Err(broken()),
    }
}

fn print(shape: Shape, lines: &[Value], looked: Option<(usize, usize)>, took: Duration) -> Result<Exit, Failure> {
    let Some((Value::Array(columns), [rows @ .., end])) = lines.split_first() else { return Ok(Exit::Done) };
    let columns: Vec<&str> = columns.iter().map(|column| column.as_str().unwrap_or_default()).collect();
    let mut table = Rows::of_others("row", &columns);
    for row in rows {
        table.push(row.as_array().cloned().unwrap_or_default().into_iter().map(Cell::from).collect());
    }
    table.print(shape)?;
    let more = end.get("more") == Some(&Value::Bool(true));
    if shape == Shape::Jsonl {
        let took_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        let mut summary = json!({"v": 1, "type": "summary", "rows": rows.len(), "more": more, "took_ms": took_ms});
        if let (Some(fields), Some((asked, answered))) = (summary.as_object_mut(), looked) {
            fields.insert("live".into(), json!({"asked": asked, "told": answered}));
        }
        say(&(harmless(&summary.to_string()).into_owned() + "\n"))?;
    }
    if more {
        note!("these are the first {} rows; there are more", rows.len());
        // These formats cannot express that there are more rows.
        if matches!(shape, Shape::Json | Shape::Csv | Shape::Name) {
            return Ok(Exit::Bad);
        }
    } else if shape == Shape::Table {
        let what = if rows.len() == 1 { "row" } else { "rows" };
        note!("{} {what} · {:.2} s", rows.len(), took.as_secs_f64());
    }
    Ok(Exit::Done)
}

fn tables(shape: Shape) -> Result<Exit, Failure> {
    let mut rows = Rows::new("column", &["table", "column", "about:what it says"]);
    for table in fernwart_index::TABLES {
        rows.push(vec![table.name.into(), "".into(), format!("one row is {}", table.about).into()]);
        for (name, about) in [("machine", "its name"), ("customer", "whose it is")]
            .into_iter()
            .chain(table.columns.iter().map(|column| (column.name, column.about)))
        {
            rows.push(vec![table.name.into(), name.into(), about.into()]);
        }
    }
    rows.print(shape)
}
