//! Jobs: what was asked, how far it is, watching, taking back.

use super::output::{Rows, Shape, moment};
use super::run::{Retry, retry};
use super::{Exit, Failure, Place, ShapeArgs, reply_of, say, with_session};
use clap::{Args, Subcommand};
use fernwart_client::{Answer, Following, RunState, judge_news, now};
use fernwart_protocol::document::Cancel;
use fernwart_protocol::id::JobId;
use fernwart_protocol::staff::{News, Reply, Request, RunRow};
use fernwart_protocol::text::{List, escaped};
use serde_json::Value;
use std::collections::{HashMap, HashSet};

/// Jobs.
#[derive(Args)]
pub(crate) struct Job {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// The newest jobs
    Ls(ShapeArgs),
    /// One job with its runs
    Show {
        /// Its number
        job: u64,
        #[command(flatten)]
        shape: ShapeArgs,
    },
    /// Follow a job until it is over
    Watch {
        /// Its number
        job: u64,
    },
    /// Give a script's orders anew
    Retry(Retry),
    /// Take back what has not begun; a script that is under way is ended
    Cancel {
        /// Its number
        job: u64,
    },
}

pub(crate) fn job(command: &Job, place: &Place) -> Result<Exit, Failure> {
    match &command.command {
        Command::Ls(shape) => ls(shape.output, place),
        Command::Show { job, shape } => show(JobId(*job), shape.output, place),
        Command::Watch { job } => watch(JobId(*job), place),
        Command::Retry(command) => retry(command, place),
        Command::Cancel { job } => cancel(JobId(*job), place),
    }
}

fn ls(shape: Shape, place: &Place) -> Result<Exit, Failure> {
    let jobs = with_session(place, async |session| Ok(session.jobs().await?))?;
    let mut rows = Rows::new("job", &["job", "action", "by", "when", "machines", "over", "reason"]);
    for job in jobs {
        let when = if shape == Shape::Table { moment(job.at).into() } else { Value::from(job.at) };
        rows.push(vec![
            job.id.0.into(),
            job.action.as_raw().into(),
            job.staff.as_raw().into(),
            when,
            job.selected.into(),
            job.settled.into(),
            job.reason.as_raw().into(),
        ]);
    }
    rows.print(shape)
}

/// Where a run stands; nothing where a newer hub has a word for it that this
/// program does not know.
pub(super) fn state_of(run: &RunRow) -> Option<RunState> {
    run.state.as_raw().parse().ok()
}

/// Whether a run may still begin, or go on. So may one in a state that this
/// program does not know.
pub(super) fn is_open(run: &RunRow) -> bool {
    state_of(run).is_none_or(|state| !state.is_final())
}

fn show(job: JobId, shape: Shape, place: &Place) -> Result<Exit, Failure> {
    let (head, runs) = with_session(place, async |session| Ok(session.job(job).await?))?;
    if let Some(head) = head
        && shape == Shape::Table
    {
        let reason = if head.reason.is_empty() { String::new() } else { format!(" · {}", head.reason) };
        eprintln!("job {} · {} by {} · {}{reason}", head.id, head.action, head.staff, moment(head.at));
    }
    let mut rows = Rows::new("run", &["machine", "state", "outcome", "settled", "run"]);
    for run in runs {
        let settled = match (run.settled_at, shape) {
            (Some(at), Shape::Table) => moment(at).into(),
            (Some(at), _) => Value::from(at),
            (None, _) => Value::Null,
        };
        let outcome = run.outcome.map(|outcome| Value::from(outcome.as_str())).unwrap_or_default();
        rows.push(vec![
            run.name.as_str().into(),
            run.state.as_raw().into(),
            outcome,
            settled,
            run.run.to_string().into(),
        ]);
    }
    rows.print(shape)
}

fn watch(job: JobId, place: &Place) -> Result<Exit, Failure> {
    with_session(place, async |session| {
        let names: HashMap<_, _> =
            session.machines().await?.into_iter().map(|row| (row.id, row.into_base().name)).collect();
        let mut following = Following::known(session, job).await?;
        let (mut exit, mut held, mut told) = (Exit::Done, HashSet::new(), HashSet::new());
        while let Some(heard) = following.next().await? {
            let Some(Reply::Update(update)) = reply_of(heard, |line| eprintln!("{line}")) else { continue };
            if update.news == News::Held {
                // A hub that came back tells everything from the beginning.
                if !held.insert(update.run) {
                    continue;
                }
                let name = names.get(&update.machine).map(ToString::to_string).unwrap_or_default();
                say(&format!("{name:<16} queued: away; it gets the order when it returns\n"))?;
                continue;
            }
            let run = update.run;
            let Some(answered) = judge_news(update.machine, None, update.news) else { continue };
            if !told.insert(run) {
                continue;
            }
            let name =
                names.get(&answered.machine).map(ToString::to_string).unwrap_or_else(|| answered.machine.to_string());
            let this = match &answered.answer {
                Answer::Report(report, _) if report.summary.could_be_critical() => Exit::Bad,
                Answer::Ran(report, _) if !report.is_well() => Exit::Bad,
                Answer::Report(..) | Answer::Ran(..) => Exit::Done,
                Answer::Refused(..) | Answer::OlderAgent(_) => Exit::Refused,
                Answer::Away | Answer::Silent => Exit::NoAnswer,
                Answer::Ended(_) | Answer::Denied(_) | Answer::Newer | Answer::Forged => Exit::Failed,
            };
            exit = exit.or(this);
            let word = match &answered.answer {
                Answer::Report(report, _) => match report.summary.lost_in_words() {
                    Some(lost) => format!("{} – unknown: {}", report.summary.state().as_str(), escaped(&lost)),
                    None => report.summary.state().as_str().to_owned(),
                },
                Answer::Ran(report, _) => super::run::ran_in_words(report),
                Answer::Refused(refusal, why) => {
                    format!(
                        "refused: {} [{}]",
                        super::diagnose::refused_in_words(*refusal, why.as_deref()),
                        refusal.code()
                    )
                }
                Answer::OlderAgent(why) => format!("refused: {why} [FW-CLI-17]"),
                Answer::Ended(outcome) => outcome.as_str().to_owned(),
                Answer::Away => "away".into(),
                Answer::Silent => "no answer".into(),
                Answer::Denied(denial) => format!("{} [{}]", super::diagnose::denied_in_words(*denial), denial.code()),
                Answer::Newer => format!("{} [FW-CLI-18]", super::diagnose::NEWER_ANSWER),
                Answer::Forged => "the answer is not signed by this machine [FW-CLI-08]".into(),
            };
            say(&format!("{name:<16} {word}\n"))?;
        }
        Ok(exit)
    })
}

fn cancel(job: JobId, place: &Place) -> Result<Exit, Failure> {
    let (count, out_of_reach) = with_session(place, async |session| {
        let (_, runs) = session.job(job).await?;
        let machines: HashMap<_, _> = session.machines().await?.into_iter().map(|row| (row.id, row)).collect();
        let open: Vec<_> = runs.iter().filter(|run| is_open(run)).collect();
        let (mut cancels, mut out_of_reach) = (Vec::with_capacity(open.len()), Vec::new());
        for run in &open {
            let cancel = Cancel { run: run.run, machine: run.machine, key: session.key_id(), at: now() };
            let Some(machine) = machines.get(&run.machine) else {
                out_of_reach.push(run.name.to_string());
                continue;
            };
            cancels.push(session.sign_for(machine, &cancel)?);
        }
        for chunk in cancels.chunks(fernwart_protocol::limits::ORDERS_PER_FRAME) {
            let list = List::try_from(chunk.to_vec()).unwrap_or_default();
            session.tell(&Request::Cancel(list)).await?;
        }
        Ok((cancels.len(), out_of_reach))
    })?;
    if !out_of_reach.is_empty() {
        eprintln!("not admitted any more, or out of your reach: {}", out_of_reach.join(" "));
    }
    if count == 0 && !out_of_reach.is_empty() {
        return Err(Failure::new(Exit::Refused, "FW-HUB-04", "nothing was taken back"));
    }
    if count == 0 {
        eprintln!("job {job} is over; there is nothing to take back. See: fernwart job show {job}");
        return Ok(Exit::Done);
    }
    eprintln!(
        "asked {count} machine(s) to leave it; a look that has begun goes on to its end, a script is ended. See: fernwart job show {job}"
    );
    Ok(Exit::Done)
}
