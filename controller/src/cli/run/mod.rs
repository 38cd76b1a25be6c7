//! Runs approved scripts: parses the command, plans it, and follows the job to its end.

mod remedy;
mod retry;
mod screen;

use super::output::Shape;
use super::parallel::Parallel;
use super::prompt::{self, Confirm};
use super::script::{approved, in_words};
use super::tally::{FailOn, Require, Tally};
use super::{Exit, Failure, HUB_BACK, HUB_GONE, HomePaths, TargetArgs, with_session};
use crate::cli::choosing::chosen;
use clap::Args;
use fernwart_client::{Answer, Answered, JobEvent, Session, Work};
use fernwart_protocol::document::{Action, ActionKind};
use fernwart_protocol::id::MachineId;
use fernwart_protocol::limits::{ORDER_EARLY, ORDER_LIFE};
use fernwart_protocol::row::Row;
use fernwart_protocol::script::{Bundle, BundleName, Declared, Manifest, Parameters, Privilege, Value};
use fernwart_protocol::span;
use fernwart_protocol::staff::MachineRow;
use fernwart_protocol::text::{Text, escaped};
pub(crate) use retry::{Retry, retry};
use screen::Screen;
pub(crate) use screen::ran_in_words;
use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

/// Reported when nobody confirms.
const NOTHING: &str = "nothing was sent";

/// For more machines than this, their number must be typed to confirm.
const UNCONFIRMED_MACHINES: usize = 10;

/// Run an approved script.
#[derive(Args)]
#[command(
    before_help = "Examples:\n  fernwart run disk-free kasse-2 --dry-run\n  fernwart run service-restart kasse-2 -p unit=cups.service --reason 'Drucker, Auftrag 4711'\n  fernwart run --remedy kasse-2/service.failed --reason 'Drucker'",
    after_help = "Next: fernwart job show JOB, fernwart diagnose MACHINE"
)]
pub(crate) struct Run {
    /// The script's name
    #[arg(required_unless_present = "remedy")]
    script: Option<BundleName>,
    #[command(flatten)]
    target: TargetArgs,
    /// Run what repairs a finding, as diagnose prints it: MACHINE/FINDING or MACHINE/FINDING:2
    #[arg(long, value_name = "MACHINE/FINDING", conflicts_with_all = ["script", "words", "parameters"])]
    remedy: Option<String>,
    /// A parameter: NAME=VALUE
    #[arg(short = 'p', long = "param", value_name = "NAME=VALUE")]
    parameters: Vec<String>,
    /// A secret parameter, out of a file that others cannot read: NAME=FILE
    #[arg(long = "secret", value_name = "NAME=FILE", conflicts_with = "remedy")]
    secrets: Vec<String>,
    /// Why; the customer reads it
    #[arg(long, default_value = "")]
    reason: String,
    /// Show what would be done, and change nothing
    #[arg(long)]
    dry_run: bool,
    /// At most N machines at once, or N% of them
    #[arg(long, default_value = "0", value_name = "N|N%", hide_default_value = true)]
    parallel: Parallel,
    /// It must have begun by then; a customer who is asked may take 15 minutes
    #[arg(long, default_value = "15m", value_parser = span::parse)]
    timeout: Duration,
    /// Machines that are away get it when they return within this time: 8h
    #[arg(long, value_name = "TIME", value_parser = span::parse, conflicts_with_all = ["timeout", "dry_run"])]
    queue: Option<Duration>,
    /// Whose absence counts: all, online, or a share as 95%
    #[arg(long, default_value = "all", value_parser = Require::parse)]
    require: Require,
    /// Confirm: the number of machines, or the remedy
    #[arg(long, value_name = "N", num_args = 0..=1, default_missing_value = "1")]
    yes: Option<usize>,
    /// How to write it
    #[arg(short, long, value_enum, default_value_t = Shape::Table)]
    output: Shape,
}

/// How the orders are sent, and how updates are written.
#[derive(Debug, Clone, Copy)]
struct How {
    dry_run: bool,
    parallel: Parallel,
    /// How long the orders are valid.
    life: Duration,
    /// Held for machines that are away.
    queued: bool,
    require: Require,
    output: Shape,
}

impl Run {
    fn how(&self) -> Result<How, Failure> {
        let life = self.queue.unwrap_or(self.timeout);
        if life > ORDER_LIFE {
            let what = "an order is good for seven days at most";
            return Err(Failure::new(Exit::Usage, "FW-CLI-01", what).now("--queue 7d"));
        }
        Ok(How {
            dry_run: self.dry_run,
            parallel: self.parallel,
            // An order's seven days begin slightly before now.
            life: life.min(ORDER_LIFE.saturating_sub(ORDER_EARLY)),
            queued: self.queue.is_some(),
            require: self.require,
            output: self.output,
        })
    }
}

/// The script to run, and the machines.
struct Plan {
    bundle: Bundle,
    sha256: fernwart_protocol::id::Digest,
    manifest: Manifest,
    parameters: Parameters,
    /// Secret parameters as JSON, to be encrypted for each machine.
    secrets: Option<String>,
    machines: Vec<Row<MachineRow>>,
}

pub(crate) fn run(command: &Run, homes: &HomePaths) -> Result<Exit, Failure> {
    let begun = Instant::now();
    with_session(homes, async |session| {
        let plan = match &command.remedy {
            // Check this before asking the machine whether the finding still holds.
            Some(_) if !command.dry_run && command.reason.trim().is_empty() => return Err(no_reason()),
            Some(remedy) => remedy::plan(session, remedy).await?,
            None => plan(session, command).await?,
        };
        let reason = reason(command, &plan)?;
        // Show what this program has put together before it is sent.
        confirm(&plan, command.remedy.is_some(), command.yes)?;
        follow(session, &command.how()?, &plan, reason, begun).await
    })
}

async fn plan(session: &mut Session, command: &Run) -> Result<Plan, Failure> {
    let Some(name) = &command.script else {
        return Err(Failure::new(Exit::Usage, "FW-CLI-01", "which script? all: fernwart script ls"));
    };
    let (bundle, manifest) = approved(session, name).await?;
    let mut values = BTreeMap::new();
    for typed in &command.parameters {
        let usage =
            |what: String| Failure::new(Exit::Usage, "FW-CLI-11", what).now(format!("fernwart script show {name}"));
        let (key, value) = typed.split_once('=').ok_or_else(|| usage("a parameter is NAME=VALUE".to_owned()))?;
        let declared = manifest.parameters.iter().find(|one| one.name == key);
        let value = match declared {
            Some(declared) => declared.read(value).map_err(|error| usage(error.to_string()))?,
            // The check below reports it, with the known names.
            None => Value::Text(value.to_owned()),
        };
        values.insert(key.to_owned(), value);
    }
    let parameters = checked(&manifest, values)?;
    let secrets = secrets(&manifest, &command.secrets, &parameters)?;
    let target = command.target.read()?;
    let machines = chosen(session, &target).await?;
    let sha256 = sha256_of(session, &bundle)?;
    Ok(Plan { bundle, sha256, manifest, parameters, secrets, machines })
}

/// Reads secret parameters from files, or from the terminal without echo.
fn secrets(manifest: &Manifest, named: &[String], open: &Parameters) -> Result<Option<String>, Failure> {
    let usage = |what: String| {
        Failure::new(Exit::Usage, "FW-CLI-11", what).now("--secret NAME=FILE; never -p, which others can read")
    };
    let mut values: BTreeMap<String, Value> = BTreeMap::new();
    for one in named {
        let (name, file) = one.split_once('=').ok_or_else(|| usage("a secret is NAME=FILE".to_owned()))?;
        values.insert(name.to_owned(), Value::Text(crate::homes::read_secret(std::path::Path::new(file))?));
    }
    for declared in manifest.parameters.iter().filter(|one| one.is_secret() && one.default.is_none()) {
        if values.contains_key(&declared.name) {
            continue;
        }
        if !prompt::is_possible() {
            return Err(usage(format!("the secret parameter {} must be given", declared.name)));
        }
        let question = format!("{} ({}): ", declared.name, escaped(&declared.label.en));
        let typed = prompt::secret(&question, NOTHING)?;
        values.insert(declared.name.clone(), Value::Text(typed));
    }
    if values.is_empty() {
        return Ok(None);
    }
    let secret = Parameters::try_from(values).map_err(|error| usage(error.to_string()))?;
    Declared::check_both(&manifest.parameters, open, &secret).map_err(|error| usage(error.to_string()))?;
    serde_json::to_string(&secret).map(Some).map_err(|error| usage(error.to_string()))
}

fn sha256_of(session: &Session, bundle: &Bundle) -> Result<fernwart_protocol::id::Digest, Failure> {
    let known = session.catalogue.scripts.get(&bundle.name).map(|approved| approved.sha256);
    known.ok_or_else(|| Failure::new(Exit::Refused, "FW-CAT-01", "the script was withdrawn just now"))
}

/// Checks parameters against the script's declaration.
fn checked(manifest: &Manifest, values: BTreeMap<String, Value>) -> Result<Parameters, Failure> {
    let usage = |what: String| {
        Failure::new(Exit::Usage, "FW-CLI-11", what).now(format!("fernwart script show {}", manifest.name))
    };
    let parameters = Parameters::try_from(values).map_err(|error| usage(error.to_string()))?;
    Declared::check_open(&manifest.parameters, &parameters).map_err(|error| usage(error.to_string()))?;
    Ok(parameters)
}

fn no_reason() -> Failure {
    let what = "what is the reason? The customer reads it";
    Failure::new(Exit::Usage, "FW-CLI-13", what).now("add --reason 'Drucker, Auftrag 4711'")
}

/// The reason, which every act needs: the customer reads it.
fn reason(command: &Run, plan: &Plan) -> Result<Text<500>, Failure> {
    let acts = plan.manifest.kind(command.dry_run) == ActionKind::Act;
    if acts && command.reason.trim().is_empty() {
        return Err(no_reason());
    }
    command.reason.parse().map_err(|_| Failure::new(Exit::Usage, "FW-CLI-01", "a reason has at most 500 bytes"))
}

/// Asks for confirmation if there are many machines, or if this program chose the script.
fn confirm(plan: &Plan, shown: bool, yes: Option<usize>) -> Result<(), Failure> {
    let count = plan.machines.len();
    let many = count > UNCONFIRMED_MACHINES && plan.manifest.privilege != Privilege::Read;
    if shown {
        note_text!("{}", in_words(&plan.manifest));
        for (name, value) in plan.parameters.iter() {
            note!("  {name} = {value}");
        }
    }
    if many || (shown && yes.is_none()) {
        note_text!("{}", where_in_words(&plan.machines));
    }
    let word = if many { count.to_string() } else { "yes".to_owned() };
    let yes = match (many, shown, yes) {
        (false, false, _) | (false, true, Some(_)) => return Ok(()),
        (_, _, yes) => yes.map(|yes| yes.to_string()),
    };
    Confirm { to: "to start", word: &word, yes: yes.as_deref(), nothing: NOTHING }.ask()
}

/// The selected machines by customer: their names if they are few, otherwise their number.
pub(crate) fn where_in_words(machines: &[Row<MachineRow>]) -> String {
    let mut by_customer: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    for row in machines {
        by_customer.entry(row.customer_name.to_string()).or_default().push(row.name.as_str());
    }
    let plural =
        |count: usize, one: &str, more: &str| if count == 1 { format!("1 {one}") } else { format!("{count} {more}") };
    let machine_count = plural(machines.len(), "machine", "machines");
    let mut out = format!("on {machine_count} of {}:\n", plural(by_customer.len(), "customer", "customers"));
    for (customer, names) in by_customer.iter().take(UNCONFIRMED_MACHINES) {
        match machines.len() {
            0..=UNCONFIRMED_MACHINES => out += &format!("  {customer}: {}\n", names.join(" ")),
            _ => out += &format!("  {customer}: {}\n", plural(names.len(), "machine", "machines")),
        }
    }
    match by_customer.len().saturating_sub(UNCONFIRMED_MACHINES) {
        0 => {}
        more => out += &format!("  and {}\n", plural(more, "more customer", "more customers")),
    }
    out
}

/// What is ordered, by the plan.
fn work(how: &How, plan: &Plan, reason: Text<500>) -> Result<Work, Failure> {
    if how.queued && plan.manifest.privilege == Privilege::Read {
        let what = "a script that only reads is not queued: what it would find later is another matter";
        return Err(Failure::new(Exit::Usage, "FW-CLI-01", what).now("leave out --queue"));
    }
    let action = Action::Script {
        bundle: plan.bundle.name.clone(),
        version: plan.bundle.version,
        sha256: plan.sha256,
        privilege: plan.manifest.privilege,
        parameters: plan.parameters.clone(),
        dry_run: how.dry_run,
    };
    Ok(Work { action, secrets: plan.secrets.clone(), reason, life: how.life, queued: how.queued })
}

/// What runs, on one line.
fn what_runs(how: &How, plan: &Plan) -> String {
    let undo = if plan.manifest.undo.is_some() { "yes" } else { "no" };
    let dry = if how.dry_run { " · dry run: nothing is changed" } else { "" };
    let (name, version, privilege) = (&plan.bundle.name, plan.bundle.version, plan.manifest.privilege.as_str());
    format!("{name} {version} · privilege {privilege} · undo: {undo}{dry}")
}

/// What was shown of a job, and what is still open.
struct Shown<'a> {
    summary: Tally,
    screen: Screen,
    open: HashMap<MachineId, &'a Row<MachineRow>>,
}

impl Shown<'_> {
    /// Shows how a machine's run ended, unless that was done.
    fn answered(&mut self, Answered { machine, answer }: &Answered) -> Result<(), Failure> {
        let Some(row) = self.open.remove(machine) else { return Ok(()) };
        self.summary.add(answer);
        self.screen.result(row, answer)
    }
}

/// Seals the plan's orders, sends them, and shows what happens to the end.
async fn follow(
    session: &mut Session,
    how: &How,
    plan: &Plan,
    reason: Text<500>,
    begun: Instant,
) -> Result<Exit, Failure> {
    let mut sealed = session.seal(&plan.machines, &work(how, plan, reason)?).await?;
    sealed.at_once(how.parallel.of(plan.machines.len()));
    let mut shown = Shown {
        summary: Tally::of(plan.machines.len()),
        screen: Screen::new(how.output, plan.machines.len() == 1),
        open: plan.machines.iter().map(|row| (row.id, row)).collect(),
    };
    for answered in std::mem::take(&mut sealed.too_old) {
        shown.answered(&answered)?;
    }
    let mut stream = session.start(sealed).await?;
    let mut failure = None;
    loop {
        match stream.next().await {
            Ok(None) => break,
            Ok(Some(JobEvent::Stored(job))) => shown.screen.begun(job, &what_runs(how, plan)),
            Ok(Some(JobEvent::HubGone)) => note!("{HUB_GONE}"),
            Ok(Some(JobEvent::HubBack)) => note!("{HUB_BACK}"),
            Ok(Some(JobEvent::Note(machine, note))) => {
                if let Some(row) = shown.open.get(&machine) {
                    shown.screen.note(row, &note)?;
                }
            }
            Ok(Some(JobEvent::Held(machine))) => {
                if let Some(row) = shown.open.remove(&machine) {
                    shown.summary.queue();
                    shown.screen.held(row, how.life)?;
                }
            }
            Ok(Some(JobEvent::Answered(answered))) => shown.answered(&answered)?,
            Err(error) => {
                let Some(job) = stream.job() else {
                    if error.is_no_answer() {
                        note!("whether it has begun is not known: fernwart job ls");
                    }
                    return Err(error.into());
                };
                // The job continues without this program.
                note!("job {job} was taken in and goes on. Later: fernwart job show {job}");
                failure = Some(Failure::from(error));
                break;
            }
        }
    }
    for row in &plan.machines {
        shown.answered(&Answered { machine: row.id, answer: Answer::Silent })?;
    }
    let Shown { summary, screen, .. } = shown;
    let exit = summary.exit(how.require, FailOn::Crit);
    let job = stream.job();
    screen.end(&summary.summary(job, begun.elapsed(), exit))?;
    if !matches!(how.output, Shape::Jsonl | Shape::Json) && plan.machines.len() > 1 {
        note!("{}", summary.in_words(begun.elapsed()));
    }
    if let Some(job) = job.filter(|_| how.output == Shape::Table) {
        let what = if plan.machines.len() > 1 { "All they wrote" } else { "Later" };
        note!("{what}: fernwart job logs {job}");
    }
    failure.map_or(Ok(exit), Err)
}
