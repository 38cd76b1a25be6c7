//! `fernwart job logs`: the output of a job's runs, and how each ended.

use super::state::is_open;
use super::{exit_of, outcome_in_words};
use crate::cli::diagnose::{report_in_words, result_line, status};
use crate::cli::output::{Rows, Shape, json_text, moment};
use crate::cli::{Exit, Failure, HomePaths, ShapeArgs, say, terminal, with_session};
use clap::Args;
use fernwart_certs::catalogue::Catalogue;
use fernwart_client::target::is_name;
use fernwart_client::{Answer, ClientError, Session, Standing};
use fernwart_protocol::event::Named;
use fernwart_protocol::id::{JobId, MachineId, RunId};
use fernwart_protocol::limits::ORDERS_PER_FRAME;
use fernwart_protocol::script::{Kept, RunReport};
use fernwart_protocol::staff::RunRow;
use fernwart_protocol::text::Text;
use serde_json::json;
use std::collections::{HashMap, HashSet};

/// Show what a job's scripts wrote on each machine, or its reports
#[derive(Args)]
#[command(
    before_help = "Examples:\n  fernwart job logs 218                    every machine of job 218\n  fernwart job logs 218 --failed           only where it did not end well\n  fernwart job logs 218 kasse-2 -o json | jq -r '.results[].report.stdout.head'",
    after_help = "One machine: what its script wrote to standard output and to standard error goes where it belongs.\nSeveral: each under a heading. Progress lines are shown as they stood at the end."
)]
pub(crate) struct Logs {
    /// The job's number
    job: u64,
    /// Only these machines: names, or 'kasse-*'
    #[arg(value_name = "MACHINE")]
    machines: Vec<String>,
    /// Only where it did not end well
    #[arg(long)]
    failed: bool,
    #[command(flatten)]
    shape: ShapeArgs,
}

/// Where a run stands that has not ended; the hub reports nothing of one that is queued there.
fn open_in_words(standing: Option<&Standing>) -> &'static str {
    match standing {
        Some(Standing::Held) => "queued: away; it gets the order when it returns",
        Some(Standing::Offered) => "sent to the machine, not begun yet",
        Some(Standing::Started | Standing::Final(_)) => "under way",
        None => "not begun yet",
    }
}

pub(crate) fn logs(command: &Logs, homes: &HomePaths) -> Result<Exit, Failure> {
    let (job, shape) = (JobId(command.job), command.shape.output);
    with_session(homes, async |session| {
        let (head, runs) = session.job(job).await?;
        let runs = meant(&command.machines, runs)?;
        let customers: HashMap<MachineId, Text<120>> =
            session.machines().await?.iter().map(|row| (row.id, row.customer_name.clone())).collect();
        if let Some(head) = head.filter(|_| shape == Shape::Table) {
            note!("job {job} · {} by {} · {}", head.action, head.staff, moment(head.at));
        }
        let catalogue = session.catalogue.clone();
        let is_alone = runs.len() == 1;
        let mut written = Written { job, shape, is_alone, catalogue, rows: rows(), results: Vec::new(), shown: 0 };
        let mut unheard: HashSet<RunId> = runs.iter().map(|run| run.run).collect();
        for chunk in runs.chunks(ORDERS_PER_FRAME) {
            let by_run: HashMap<RunId, &RunRow> = chunk.iter().map(|run| (run.run, run)).collect();
            let mut outcomes = session.outcomes(job, chunk).await?;
            while let Some((run, standing)) = outcomes.next().await? {
                let Some(row) = by_run.get(&run) else { continue };
                unheard.remove(&run);
                let is_wanted =
                    !command.failed || matches!(&standing, Standing::Final(answer) if exit_of(answer) != Exit::Done);
                let customer = customers.get(&row.machine).cloned().unwrap_or_default();
                let machine = Named { id: row.machine, name: row.name.clone(), customer };
                if is_wanted {
                    written.run(&machine, row, Some(&standing))?;
                }
            }
        }
        // The hub sent nothing for queued runs and for machines out of reach.
        let queued = runs.iter().filter(|run| unheard.contains(&run.run) && is_open(run) && !command.failed);
        for row in queued {
            let machine = Named { id: row.machine, name: row.name.clone(), customer: Text::default() };
            written.run(&machine, row, None)?;
        }
        let beyond: Vec<&str> = runs
            .iter()
            .filter(|run| unheard.contains(&run.run) && !is_open(run))
            .map(|run| run.name.as_str())
            .collect();
        if !beyond.is_empty() {
            note!("out of your reach: {}", beyond.join(" "));
        }
        if written.shown == 0 && command.failed && shape == Shape::Table {
            note!("Every run that is over ended well.");
        }
        written.end()
    })
}

/// The runs on the named machines; all if none was named.
fn meant(words: &[String], runs: Vec<RunRow>) -> Result<Vec<RunRow>, Failure> {
    for word in words {
        if !runs.iter().any(|run| is_name(word, run.name.as_str())) {
            let what = format!("{word} was not in this job");
            return Err(Failure::new(Exit::Usage, "FW-CLI-02", what).now("fernwart job show JOB lists its machines"));
        }
    }
    let is_meant = |run: &RunRow| words.is_empty() || words.iter().any(|word| is_name(word, run.name.as_str()));
    let mut wanted: Vec<RunRow> = runs.into_iter().filter(is_meant).collect();
    wanted.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(wanted)
}

/// The reasons why these runs did not end well, by run.
pub(super) async fn reasons(
    session: &mut Session,
    job: JobId,
    runs: &[RunRow],
) -> Result<HashMap<RunId, String>, Failure> {
    let mut reasons = HashMap::new();
    for chunk in runs.chunks(ORDERS_PER_FRAME) {
        let mut outcomes = match session.outcomes(job, chunk).await {
            // An older hub reports how runs ended, but not why.
            Err(ClientError::OlderHub { .. }) => return Ok(reasons),
            outcomes => outcomes?,
        };
        while let Some((run, standing)) = outcomes.next().await? {
            if let Standing::Final(answer) = standing
                && let (_, code, Some(why)) = status(&answer)
            {
                let code = code.map(|code| format!(" [{code}]")).unwrap_or_default();
                reasons.insert(run, why + &code);
            }
        }
    }
    Ok(reasons)
}

fn rows() -> Rows {
    Rows::new("log", &["machine", "customer", "status", "code", "why", "stdout", "stderr"])
}

/// The output: written at once, or collected into one document.
struct Written {
    job: JobId,
    shape: Shape,
    is_alone: bool,
    catalogue: Catalogue,
    rows: Rows,
    results: Vec<serde_json::Value>,
    /// Number of runs shown.
    shown: usize,
}

impl Written {
    fn run(&mut self, machine: &Named, row: &RunRow, standing: Option<&Standing>) -> Result<(), Failure> {
        self.shown += 1;
        match (self.shape, standing) {
            (Shape::Table, Some(Standing::Final(answer))) => self.ended(machine, answer),
            (Shape::Table, open) => self.heading(machine, open_in_words(open)),
            (Shape::Json | Shape::Jsonl, _) => {
                let mut line = match standing {
                    Some(Standing::Final(answer)) => result_line(machine, answer),
                    _ => json!({"v": 1, "type": "result", "machine": machine.name, "id": machine.id,
                        "customer": machine.customer.as_raw(), "status": row.state.as_raw()}),
                };
                if let Some(fields) = line.as_object_mut() {
                    fields.insert("run".into(), row.run.to_string().into());
                }
                if self.shape == Shape::Jsonl {
                    return say(&(json_text(&line) + "\n")).map(drop);
                }
                self.results.push(line);
                Ok(())
            }
            (Shape::Csv, _) => {
                let (status, code, why, streams) = match standing {
                    Some(Standing::Final(answer)) => {
                        let (status, code, why) = status(answer);
                        let streams = match answer {
                            Answer::Ran(report, _) | Answer::Closed(_, Some(report)) => {
                                Some((report.stdout.in_one(), report.stderr.in_one()))
                            }
                            _ => None,
                        };
                        (status, code, why, streams)
                    }
                    _ => (row.state.as_raw(), None, None, None),
                };
                let (out, err) = streams.unzip();
                let cells = [machine.name.as_str().into(), machine.customer.as_raw().into(), status.into()];
                self.rows.push(
                    cells.into_iter().chain([code.as_deref().into(), why.into(), out.into(), err.into()]).collect(),
                );
                Ok(())
            }
            (Shape::Name, _) => say(&format!("{}\n", machine.name)).map(drop),
        }
    }

    /// Prints a machine's state, as a heading if there are several machines.
    fn heading(&self, machine: &Named, how: &str) -> Result<(), Failure> {
        if self.is_alone {
            note!("{}: {how}", machine.name);
            return Ok(());
        }
        say(&format!("==> {} · {} · {how} <==\n", machine.name, machine.customer)).map(drop)
    }

    fn ended(&self, machine: &Named, answer: &Answer) -> Result<(), Failure> {
        self.heading(machine, &outcome_in_words(answer))?;
        match answer {
            Answer::Ran(report, _) | Answer::Closed(_, Some(report)) => self.streams(report)?,
            Answer::Report(seen, _) => {
                let report = seen.decode().map_err(crate::cli::diagnose::unreadable)?;
                say(&report_in_words(machine, Some(self.job), &report, &self.catalogue))?;
            }
            _ => {}
        }
        if self.is_alone { Ok(()) } else { say("\n").map(drop) }
    }

    fn streams(&self, report: &RunReport) -> Result<(), Failure> {
        let text = |kept: &Kept| {
            let mut text = terminal::shown(&kept.in_one());
            if !text.is_empty() && !text.ends_with('\n') {
                text.push('\n');
            }
            text
        };
        let (out, err) = (text(&report.stdout), text(&report.stderr));
        say(&out)?;
        match err.as_str() {
            "" => {}
            err if self.is_alone => note_text!("{err}"),
            err => drop(say(&format!("-- standard error:\n{err}"))?),
        }
        if out.is_empty() && err.is_empty() && self.is_alone {
            note!("it wrote nothing");
        }
        Ok(())
    }

    fn end(self) -> Result<Exit, Failure> {
        match self.shape {
            Shape::Json => {
                let all = json!({"v": 1, "type": "job_logs", "job": self.job.0, "results": self.results});
                say(&(json_text(&all) + "\n"))
            }
            Shape::Csv => self.rows.print(self.shape),
            _ => Ok(Exit::Done),
        }
    }
}
