//! Jobs: listing, progress, results, watching, cancelling.

mod logs;
pub(crate) mod state;

use super::output::{Cell, Rows, Shape, moment};
use super::run::{Retry, retry};
use super::{Exit, Failure, HUB_BACK, HUB_GONE, HomePaths, ShapeArgs, say, with_session};
use clap::{Args, Subcommand};
use fernwart_client::{Answer, Answered, JobEvent};
use fernwart_protocol::document::Outcome;
use fernwart_protocol::id::{JobId, MachineId};
use fernwart_protocol::staff::RunRow;
use fernwart_protocol::text::escaped;
use serde_json::Value;
use state::is_open;
use std::collections::HashMap;

/// Jobs.
#[derive(Args)]
pub(crate) struct Job {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// List the newest jobs
    Ls(ShapeArgs),
    /// Show a job and how it stands on each machine
    Show {
        /// Its number
        job: u64,
        #[command(flatten)]
        shape: ShapeArgs,
    },
    Logs(logs::Logs),
    /// Follow a job until it is over
    Watch {
        /// Its number
        job: u64,
    },
    /// Give a script's orders again
    Retry(Retry),
    /// Cancel what has not begun; a running script is ended
    Cancel {
        /// Its number
        job: u64,
    },
}

pub(crate) fn job(command: &Job, homes: &HomePaths) -> Result<Exit, Failure> {
    match &command.command {
        Command::Ls(shape) => ls(shape.output, homes),
        Command::Show { job, shape } => show(JobId(*job), shape.output, homes),
        Command::Logs(command) => logs::logs(command, homes),
        Command::Watch { job } => watch(JobId(*job), homes),
        Command::Retry(command) => retry(command, homes),
        Command::Cancel { job } => cancel(JobId(*job), homes),
    }
}

fn ls(shape: Shape, homes: &HomePaths) -> Result<Exit, Failure> {
    let jobs = with_session(homes, async |session| Ok(session.jobs().await?))?;
    let mut rows = Rows::new("job", &["job", "action", "by", "at:when", "machines", "done", "reason"]);
    for job in jobs {
        rows.push(vec![
            job.id.0.into(),
            job.action.as_raw().into(),
            job.staff.as_raw().into(),
            Cell::moment(job.at),
            job.selected.into(),
            job.settled.into(),
            job.reason.as_raw().into(),
        ]);
    }
    rows.print(shape)
}

/// Maximum number of runs whose reasons are shown with a job.
const REASONS: usize = 20;

fn show(job: JobId, shape: Shape, homes: &HomePaths) -> Result<Exit, Failure> {
    let (head, runs, reasons) = with_session(homes, async |session| {
        let (head, runs) = session.job(job).await?;
        let is_bad = |run: &&RunRow| !is_open(run) && run.outcome != Some(Outcome::Ok);
        // People see the first reasons, programs all.
        let most = if shape == Shape::Table { REASONS } else { usize::MAX };
        let bad: Vec<RunRow> = runs.iter().filter(is_bad).take(most).cloned().collect();
        let reasons = if bad.is_empty() { HashMap::new() } else { logs::reasons(session, job, &bad).await? };
        Ok((head, runs, reasons))
    })?;
    if let Some(head) = head
        && shape == Shape::Table
    {
        let reason = if head.reason.is_empty() { String::new() } else { format!(" · {}", head.reason) };
        note!("job {} · {} by {} · {}{reason}", head.id, head.action, head.staff, moment(head.at));
    }
    let mut rows = Rows::new("run", &["machine", "state", "outcome", "settled_at:settled", "run", "why"]);
    let is_any_written = runs.iter().any(|run| run.outcome.is_some());
    for run in runs {
        let settled = run.settled_at.map_or_else(|| Value::Null.into(), Cell::moment);
        let outcome = run.outcome.map(|outcome| outcome.as_str());
        rows.push(vec![
            run.name.as_str().into(),
            run.state.as_raw().into(),
            outcome.into(),
            settled,
            run.run.to_string().into(),
            reasons.get(&run.run).map(String::as_str).into(),
        ]);
    }
    let exit = rows.print(shape)?;
    if is_any_written && shape == Shape::Table {
        note!("What they wrote: fernwart job logs {job}");
    }
    Ok(exit)
}

/// The exit code for a run that ended like this.
fn exit_of(answer: &Answer) -> Exit {
    match answer {
        Answer::Report(report, _) if report.summary.could_be_critical() => Exit::Bad,
        Answer::Ran(report, _) if !report.is_well() => Exit::Bad,
        Answer::Report(..) | Answer::Ran(..) => Exit::Done,
        Answer::Refused(..) | Answer::OlderAgent(_) => Exit::Refused,
        Answer::Away | Answer::Silent => Exit::NoAnswer,
        Answer::Closed(..) | Answer::Denied(_) | Answer::Newer | Answer::Forged => Exit::Failed,
    }
}

/// How a run ended, on one line.
fn outcome_in_words(answer: &Answer) -> String {
    match answer {
        Answer::Report(report, _) => match report.summary.lost_in_words() {
            Some(lost) => format!("{} – unknown: {}", report.summary.state().as_str(), escaped(&lost)),
            None => report.summary.state().as_str().to_owned(),
        },
        Answer::Ran(report, _) => super::run::ran_in_words(report),
        other => {
            let (status, code, why) = super::diagnose::status(other);
            let code = code.map(|code| format!(" [{code}]")).unwrap_or_default();
            let why = why.filter(|why| why != status).map(|why| format!(": {why}")).unwrap_or_default();
            format!("{}{why}{code}", status.replace('_', " "))
        }
    }
}

fn watch(job: JobId, homes: &HomePaths) -> Result<Exit, Failure> {
    with_session(homes, async |session| {
        let names: HashMap<_, _> =
            session.machines().await?.into_iter().map(|row| (row.id, row.into_base().name)).collect();
        let mut stream = session.watch(job).await?;
        let mut exit = Exit::Done;
        let name = |machine: MachineId| names.get(&machine).map_or_else(|| machine.to_string(), ToString::to_string);
        while let Some(event) = stream.next().await? {
            match event {
                JobEvent::HubGone => note!("{HUB_GONE}"),
                JobEvent::HubBack => note!("{HUB_BACK}"),
                JobEvent::Stored(_) | JobEvent::Note(..) => {}
                JobEvent::Held(machine) => {
                    say(&format!("{:<16} queued: away; it gets the order when it returns\n", name(machine)))?;
                }
                JobEvent::Answered(Answered { machine, answer }) => {
                    exit = exit.or(exit_of(&answer));
                    say(&format!("{:<16} {}\n", name(machine), outcome_in_words(&answer)))?;
                }
            }
        }
        Ok(exit)
    })
}

fn cancel(job: JobId, homes: &HomePaths) -> Result<Exit, Failure> {
    let (count, out_of_reach) = with_session(homes, async |session| {
        let (_, runs) = session.job(job).await?;
        let machines: HashMap<_, _> = session.machines().await?.into_iter().map(|row| (row.id, row)).collect();
        let open: Vec<_> = runs.iter().filter(|run| is_open(run)).collect();
        let (mut reached, mut out_of_reach) = (Vec::with_capacity(open.len()), Vec::new());
        for run in &open {
            match machines.get(&run.machine) {
                Some(machine) => reached.push((run.run, machine)),
                None => out_of_reach.push(run.name.to_string()),
            }
        }
        session.cancel(&reached).await?;
        Ok((reached.len(), out_of_reach))
    })?;
    if !out_of_reach.is_empty() {
        note!("not admitted any more, or out of your reach: {}", out_of_reach.join(" "));
    }
    if count == 0 && !out_of_reach.is_empty() {
        return Err(Failure::new(Exit::Refused, "FW-HUB-04", "nothing was cancelled"));
    }
    if count == 0 {
        note!("job {job} is over; there is nothing to cancel. See: fernwart job show {job}");
        return Ok(Exit::Done);
    }
    let machines = if count == 1 { "machine" } else { "machines" };
    note!(
        "Cancellation sent to {count} {machines}; a running diagnosis will finish, a running script is ended. See: fernwart job show {job}"
    );
    Ok(Exit::Done)
}
