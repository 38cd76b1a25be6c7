//! Repeats a job. The hub returns the earlier orders; their content is trusted only if staff signed
//! them, and is shown before it is sent again.

use super::super::jobs::state::{is_open, state_of};
use super::super::machines::machines_in_words;
use super::super::output::{Shape, moment};
use super::super::parallel::Parallel;
use super::super::prompt;
use super::super::script::{approved, in_words};
use super::super::tally::Require;
use super::super::{Exit, Failure, HomePaths, with_session};
use super::{How, Plan, confirm, follow, secrets, sha256_of, where_in_words};
use clap::Args;
use fernwart_client::{Given, RunState, Session};
use fernwart_protocol::document::{Action, Outcome};
use fernwart_protocol::id::{JobId, RunId};
use fernwart_protocol::limits::ORDER_EARLY;
use fernwart_protocol::row::Row;
use fernwart_protocol::script::{BundleName, Manifest};
use fernwart_protocol::staff::{MachineRow, RunRow};
use std::collections::HashMap;
use std::time::{Duration, Instant};

/// Give a script's orders anew.
#[derive(Args)]
pub(crate) struct Retry {
    /// The job's number
    job: u64,
    /// Only where it did not end well
    #[arg(long)]
    failed: bool,
    /// Also where nobody knows how it ended, though the script is not safe to repeat
    #[arg(long)]
    unknown: bool,
    /// Yes, this script: without a terminal it must be named, for the hub could show another
    #[arg(long, value_name = "SCRIPT")]
    yes: Option<BundleName>,
}

/// Repeats a job's orders on all of its machines, or on those where it did not end well.
///
/// # Errors
/// When the job ran no script, nothing is left to repeat, or nobody confirms.
pub(crate) fn retry(command: &Retry, homes: &HomePaths) -> Result<Exit, Failure> {
    let (begun, job) = (Instant::now(), JobId(command.job));
    with_session(homes, async |session| {
        let (_, runs) = session.job(job).await?;
        session.sync().await?;
        let given = session.job_orders(job).await?;
        let (open, over): (Vec<_>, Vec<_>) = runs.into_iter().partition(is_open);
        for run in &open {
            note!("{}  {}: not over, and not given anew", run.name, run.state);
        }
        if !open.is_empty() {
            note!("To end them: fernwart job cancel {job}");
        }
        let wanted: Vec<RunRow> =
            over.into_iter().filter(|run| !command.failed || run.outcome != Some(Outcome::Ok)).collect();
        if wanted.is_empty() {
            let where_over = if open.is_empty() { "everywhere" } else { "everywhere else" };
            return Err(usage(format!("job {job} ended well {where_over}; there is nothing to do again")));
        }
        let first = one_action(job, &wanted, &given)?;
        let Action::Script { bundle: name, version, parameters, dry_run, .. } = &first.order.action else {
            return Err(usage(format!("job {job} ran no script")).now("fernwart diagnose TARGET asks again"));
        };
        if let Some(other) = command.yes.as_ref().filter(|yes| *yes != name) {
            let what = format!("--yes names {other}, but job {job} ran {name}; nothing was sent");
            return Err(Failure::new(Exit::Usage, "FW-CLI-14", what).now(format!("fernwart job show {job}")));
        }
        let (bundle, manifest) = approved(session, name).await?;
        unknown(&wanted, &manifest, command.unknown)?;
        let machines = reached(session, &wanted, &given).await?;
        if machines.is_empty() {
            return Err(usage(format!("none of the machines of job {job} is admitted any more")));
        }
        let sha256 = sha256_of(session, &bundle)?;
        // An order's validity begins slightly before it is given.
        let early = i64::try_from(ORDER_EARLY.as_millis()).unwrap_or_default();
        let at = moment(first.order.not_before.saturating_add(early));
        note!("job {job}: {name} {version}, as {} ordered it on {at}: \"{}\"", first.staff, first.order.reason);
        if *version != manifest.version {
            note!("approved now, and run, is version {}", manifest.version);
        }
        if command.yes.is_some() {
            note_text!("{}", where_in_words(&machines));
        }
        if command.yes.is_none() && !prompt::is_possible() {
            note_text!("{}{}", where_in_words(&machines), in_words(&manifest));
            parameters.iter().for_each(|(name, value)| note!("  {name} = {value}"));
            let what = "without a terminal the script to run again must be named; nothing was sent";
            return Err(Failure::new(Exit::Usage, "FW-CLI-14", what).now(format!("read it, then: --yes {name}")));
        }
        let (parameters, reason) = (parameters.clone(), first.order.reason.clone());
        let secrets = secrets(&manifest, &[], &parameters)?;
        let plan = Plan { bundle, sha256, manifest, parameters, secrets, machines };
        let named = command.yes.as_ref().map(|_| plan.machines.len());
        confirm(&plan, true, named)?;
        let how = How {
            dry_run: *dry_run,
            parallel: Parallel::Number(0),
            life: Duration::from_secs(15 * 60),
            queued: false,
            require: Require::ALL,
            output: Shape::Table,
        };
        follow(session, &how, &plan, reason, begun).await
    })
}

fn usage(what: String) -> Failure {
    Failure::new(Exit::Usage, "FW-CLI-16", what)
}

/// The action that all of these runs share. Each run has its own order for its own machine, and
/// their actions must be equal.
fn one_action<'a>(job: JobId, wanted: &[RunRow], given: &'a HashMap<RunId, Given>) -> Result<&'a Given, Failure> {
    let mut first: Option<&Given> = None;
    for run in wanted {
        let own = given.get(&run.run).filter(|own| own.order.machine == run.machine);
        let own = own.ok_or_else(|| {
            usage(format!("the hub shows no order of anybody on the staff list for {} in job {job}", run.name))
                .now("give it anew yourself: fernwart run SCRIPT MACHINE")
        })?;
        match first {
            None => first = Some(own),
            Some(first) if (&first.order.action, first.order.key) == (&own.order.action, own.order.key) => {}
            Some(_) => return Err(usage(format!("the orders of job {job} are not all the same"))),
        }
    }
    first.ok_or_else(|| usage(format!("job {job} has no runs")))
}

/// Rejects a repetition of runs with unknown results, unless the script is safe to repeat or the
/// user allows it.
fn unknown(wanted: &[RunRow], manifest: &Manifest, allowed: bool) -> Result<(), Failure> {
    let unclear = |run: &&RunRow| run.outcome == Some(Outcome::Interrupted) || state_of(run) == Some(RunState::Expired);
    let names: Vec<&str> = wanted.iter().filter(unclear).map(|run| run.name.as_str()).collect();
    if names.is_empty() || manifest.retry_safe || allowed {
        return Ok(());
    }
    let (count, names) = (machines_in_words(names.len()), names.join(" "));
    let what = format!("on {count} nobody knows how it ended, and {} is not safe to repeat: {names}", manifest.name);
    Err(usage(what).now("look there first; then: add --unknown"))
}

/// The machines as the hub knows them now. Reports those that were renamed since the order.
async fn reached(
    session: &mut Session,
    wanted: &[RunRow],
    given: &HashMap<RunId, Given>,
) -> Result<Vec<Row<MachineRow>>, Failure> {
    let mut machines = session.machines().await?;
    machines.retain(|row| wanted.iter().any(|run| run.machine == row.id));
    for row in &machines {
        let run = wanted.iter().find(|run| run.machine == row.id);
        let then = run.and_then(|run| given.get(&run.run)).map(|given| &given.order.machine_name);
        if let Some(then) = then.filter(|then| **then != row.name) {
            note!("{} was called {then} when the order was given", row.name);
        }
    }
    Ok(machines)
}
