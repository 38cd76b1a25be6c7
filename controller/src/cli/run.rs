//! Running approved scripts, and remedies for findings.

use super::output::{Shape, json_text, moment};
use super::parallel::Parallel;
use super::script::{approved, in_words};
use super::tally::{Require, Tally};
use super::{Exit, Failure, Place, TargetArgs, say, with_session};
use clap::Args;
use fernwart_client::target::{Target, select};
use fernwart_client::{Answer, Session, judge_news};
use fernwart_protocol::diagnosis::{Finding, Report, Severity, builtin_rules};
use fernwart_protocol::document::{Action, Envelope, Order, Outcome, Receipt};
use fernwart_protocol::id::{JobId, MachineId};
use fernwart_protocol::script::{Bundle, BundleName, Declared, Manifest, Parameters, Privilege, RunReport, Value};
use fernwart_protocol::span;
use fernwart_protocol::staff::{JobHead, MachineRow, News, Reply, Request, RunRow};
use fernwart_protocol::text::{Text, escaped};
use fernwart_protocol::to_hub::{Note, Stream};
use serde_json::json;
use std::collections::{BTreeMap, HashMap};
use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

/// Past so many machines the number has to be typed.
const WITHOUT_ASKING: usize = 10;

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
    /// So many machines at once, or such a share of them: 20, 10%
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
    /// Yes, to so many machines; or yes to a remedy
    #[arg(long, value_name = "N", num_args = 0..=1, default_missing_value = "1")]
    yes: Option<usize>,
    /// How to write it
    #[arg(short, long, value_enum, default_value_t = Shape::Table)]
    output: Shape,
}

/// What is going to be run, and where.
struct Plan {
    bundle: Bundle,
    sha256: fernwart_protocol::id::Digest,
    manifest: Manifest,
    parameters: Parameters,
    /// Secret parameters as JSON, to be sealed for each machine.
    secrets: Option<String>,
    machines: Vec<MachineRow>,
}

/// Gives a job's orders anew: to all of its machines, or to those where it did
/// not end well.
///
/// # Errors
/// When it was no script's job, or nothing is left to do.
pub(crate) fn retry(job: JobId, whom: Whom, yes: bool, place: &Place) -> Result<Exit, Failure> {
    let begun = Instant::now();
    with_session(place, async |session| {
        let (head, runs) = super::jobs::job_and_runs(session, job).await?;
        let usage = |what: String| Failure::new(Exit::Usage, "FW-CLI-16", what);
        let mut orders = Vec::new();
        for reply in session.collect(&Request::JobOrders(job)).await? {
            if let Reply::Orders(some) = reply {
                orders.extend(some);
            }
        }
        session.sync().await?;
        // What was ordered is believed from whoever signed it, not from the hub.
        let order = orders.iter().find_map(|envelope| {
            let entry = session.catalogue.staff.find(&envelope.key)?;
            fernwart_certs::envelope::open::<Order>(envelope, &entry.order_key).ok()
        });
        let order = order.ok_or_else(|| usage(format!("job {job} holds no order of anybody on the staff list")))?;
        let Action::Script { bundle: name, parameters, dry_run, .. } = order.action else {
            return Err(usage(format!("job {job} ran no script")).now("fernwart diagnose TARGET asks again"));
        };
        let again = |run: &&RunRow| whom == Whom::All || run.outcome != Some(Outcome::Ok);
        let wanted: Vec<_> = runs.iter().filter(again).collect();
        let (bundle, manifest) = approved(session, &name).await?;
        let unknown = wanted.iter().filter(|run| run.outcome == Some(Outcome::Interrupted)).count();
        if unknown > 0 && !manifest.retry_safe && !yes {
            let what = format!("on {unknown} machine(s) nobody knows how it ended, and {name} is not safe to repeat");
            return Err(usage(what).now("look there first; then: add --yes"));
        }
        let machines: Vec<_> = session.machines().await?.into_iter().collect();
        let machines: Vec<_> =
            machines.into_iter().filter(|row| wanted.iter().any(|run| run.machine == row.id)).collect();
        if machines.is_empty() {
            return Err(usage(format!("job {job} ended well everywhere; there is nothing to do again")));
        }
        let reason = head.map(|head| head.reason).unwrap_or_default();
        let sha256 = sha256_of(session, &bundle)?;
        let secrets = secrets(&manifest, &[], &parameters)?;
        let plan = Plan { bundle, sha256, manifest, parameters, secrets, machines };
        let command = Run {
            script: Some(name),
            target: TargetArgs::default(),
            remedy: None,
            parameters: Vec::new(),
            secrets: Vec::new(),
            reason: String::new(),
            dry_run,
            parallel: Parallel::Number(0),
            timeout: Duration::from_secs(15 * 60),
            queue: None,
            require: Require::All,
            yes: None,
            output: Shape::Table,
        };
        follow(session, &command, &plan, reason, begun).await
    })
}

/// Which of a job's machines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Whom {
    /// All of them.
    All,
    /// Those where it did not end well.
    Failed,
}

pub(crate) fn run(command: &Run, place: &Place) -> Result<Exit, Failure> {
    let begun = Instant::now();
    with_session(place, async |session| {
        let plan = match &command.remedy {
            Some(remedy) => remedy_plan(session, remedy).await?,
            None => plan(session, command).await?,
        };
        let reason = reason(command, &plan)?;
        confirm(command, &plan)?;
        follow(session, command, &plan, reason, begun).await
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
            // Named by the check below, with those there are.
            None => Value::Text(value.to_owned()),
        };
        values.insert(key.to_owned(), value);
    }
    let parameters = checked(&manifest, values)?;
    let secrets = secrets(&manifest, &command.secrets, &parameters)?;
    let target = command.target.read()?;
    let machines = select(&target, &session.machines().await?)?;
    let sha256 = sha256_of(session, &bundle)?;
    Ok(Plan { bundle, sha256, manifest, parameters, secrets, machines })
}

/// Secret parameters, out of files or typed where nobody sees them.
fn secrets(manifest: &Manifest, named: &[String], open: &Parameters) -> Result<Option<String>, Failure> {
    let usage = |what: String| {
        Failure::new(Exit::Usage, "FW-CLI-11", what).now("--secret NAME=FILE; never -p, which others can read")
    };
    let mut values: BTreeMap<String, Value> = BTreeMap::new();
    for one in named {
        let (name, file) = one.split_once('=').ok_or_else(|| usage("a secret is NAME=FILE".to_owned()))?;
        values.insert(name.to_owned(), Value::Text(super::place::read_secret(std::path::Path::new(file))?));
    }
    for declared in manifest.parameters.iter().filter(|one| one.is_secret() && one.default.is_none()) {
        if values.contains_key(&declared.name) {
            continue;
        }
        if !std::io::stdin().is_terminal() {
            return Err(usage(format!("the secret parameter {} must be given", declared.name)));
        }
        let typed = rpassword::prompt_password(format!("{} ({}): ", declared.name, escaped(&declared.label.en)))?;
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

/// Parameters that fit what the script declares.
fn checked(manifest: &Manifest, values: BTreeMap<String, Value>) -> Result<Parameters, Failure> {
    let usage = |what: String| {
        Failure::new(Exit::Usage, "FW-CLI-11", what).now(format!("fernwart script show {}", manifest.name))
    };
    let parameters = Parameters::try_from(values).map_err(|error| usage(error.to_string()))?;
    Declared::check_open(&manifest.parameters, &parameters).map_err(|error| usage(error.to_string()))?;
    Ok(parameters)
}

/// A remedy rebuilt from typed facts: nothing a machine says becomes a command.
async fn remedy_plan(session: &mut Session, remedy: &str) -> Result<Plan, Failure> {
    let usage = |what: String| Failure::new(Exit::Usage, "FW-CLI-12", what);
    let parts = remedy.split_once('/').and_then(|(machine, finding)| match finding.split_once(':') {
        None => Some((machine, finding, None)),
        Some((id, number)) => Some((machine, id, Some(number.parse::<usize>().ok()?.checked_sub(1)?))),
    });
    let Some((machine, id, number)) = parts else {
        return Err(usage("a remedy is MACHINE/FINDING or MACHINE/FINDING:2, as diagnose prints it".to_owned()));
    };
    let target = Target { words: vec![machine.to_owned()], ..Target::default() };
    let machines = select(&target, &session.machines().await?)?;
    let [row] = machines.as_slice() else {
        return Err(usage("a remedy is for one machine".to_owned()));
    };
    let report = newest_report(session, row).await?;
    let mut found = report.findings.iter().filter(|finding| finding.id == id).skip(number.unwrap_or_default());
    let finding = match (found.next(), found.next().filter(|_| number.is_none())) {
        (Some(finding), None) => finding.clone(),
        (None, _) => {
            return Err(usage(format!("{machine} has no finding {id:?} in its newest report"))
                .now(format!("fernwart diagnose {machine}")));
        }
        (Some(_), Some(_)) => {
            return Err(usage(format!("{machine} has several findings {id:?}; name one: {machine}/{id}:2"))
                .now(format!("fernwart diagnose {machine}")));
        }
    };
    // What repairs it is our own word, not the machine's.
    let rule = builtin_rules().into_iter().find(|rule| rule.id == finding.id);
    let name: Option<BundleName> = rule.and_then(|rule| rule.remedy?.parse().ok());
    let name = name.ok_or_else(|| usage(format!("nothing is known that repairs {id:?}")))?;
    let (bundle, manifest) = approved(session, &name).await?;
    let parameters = checked(&manifest, from_finding(&manifest, &finding))?;
    let secrets = secrets(&manifest, &[], &parameters)?;
    let sha256 = sha256_of(session, &bundle)?;
    Ok(Plan { bundle, sha256, manifest, parameters, secrets, machines })
}

/// Parameters that a manifest takes from a finding's evidence.
fn from_finding(manifest: &Manifest, finding: &Finding) -> BTreeMap<String, Value> {
    let value = |declared: &Declared| {
        let evidence = finding.evidence.get(declared.from.as_ref()?)?;
        serde_json::from_value::<Value>(evidence.clone()).ok()
    };
    manifest.parameters.iter().filter_map(|one| Some((one.name.clone(), value(one)?))).collect()
}

async fn newest_report(session: &mut Session, row: &MachineRow) -> Result<Report, Failure> {
    let mut replies = session.collect(&Request::Facts(row.id)).await?.into_iter();
    if let (Some(Reply::Report(_, receipt, body)), Some(Reply::EvidenceKey(key))) = (replies.next(), replies.next()) {
        // Believed only if this machine has signed for it.
        let judged = judge_news(row.id, None, News::Settled(receipt, key, body));
        return match judged.map(|answered| answered.answer) {
            Some(Answer::Report(report, _)) => Ok(*report),
            _ => Err(Failure::new(Exit::Failed, "FW-CLI-08", "the stored report is not signed by this machine")),
        };
    }
    let what = format!("{} has not been diagnosed yet", row.name);
    Err(Failure::new(Exit::Usage, "FW-CLI-12", what).now(format!("fernwart diagnose {}", row.name)))
}

/// Each act has a reason, which the customer reads.
fn reason(command: &Run, plan: &Plan) -> Result<Text<500>, Failure> {
    let acts = plan.manifest.privilege != Privilege::Read && !command.dry_run;
    if acts && command.reason.trim().is_empty() {
        let what = "what is the reason? The customer reads it";
        return Err(Failure::new(Exit::Usage, "FW-CLI-13", what).now("add --reason 'Drucker, Auftrag 4711'"));
    }
    command.reason.parse().map_err(|_| Failure::new(Exit::Usage, "FW-CLI-01", "a reason has at most 500 bytes"))
}

fn confirm(command: &Run, plan: &Plan) -> Result<(), Failure> {
    let count = plan.machines.len();
    let many = count > WITHOUT_ASKING && plan.manifest.privilege != Privilege::Read;
    if command.remedy.is_some() {
        eprint!("{}", in_words(&plan.manifest));
        for (name, value) in plan.parameters.iter() {
            eprintln!("  {name} = {value}");
        }
    }
    let stopped = |what: String, now: String| Err(Failure::new(Exit::Usage, "FW-CLI-14", what).now(now));
    match (many, command.remedy.is_some(), command.yes) {
        (false, false, _) | (false, true, Some(_)) => return Ok(()),
        (true, _, Some(yes)) if yes == count => return Ok(()),
        (true, _, Some(yes)) => {
            return stopped(
                format!("--yes={yes}, but {count} machines are meant; nothing was sent"),
                format!("--yes={count}"),
            );
        }
        (_, _, None) if !std::io::stdin().is_terminal() => {
            let now = if many { format!("--yes={count}") } else { "--yes".to_owned() };
            return stopped("without a terminal this must be confirmed; nothing was sent".to_owned(), now);
        }
        (_, _, None) => {}
    }
    let wanted = if many { count.to_string() } else { "yes".to_owned() };
    eprint!("Type {wanted} to start: ");
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer)?;
    if answer.trim() == wanted { Ok(()) } else { Err(Failure::new(Exit::Stopped, "FW-CLI-14", "nothing was sent")) }
}

async fn follow(
    session: &mut Session,
    command: &Run,
    plan: &Plan,
    reason: Text<500>,
    begun: Instant,
) -> Result<Exit, Failure> {
    if command.queue.is_some() && plan.manifest.privilege == Privilege::Read {
        let what = "a script that only reads is not queued: what it would find later is another matter";
        return Err(Failure::new(Exit::Usage, "FW-CLI-01", what).now("leave out --queue"));
    }
    let life = command.queue.unwrap_or(command.timeout);
    let action = Action::Script {
        bundle: plan.bundle.name.clone(),
        version: plan.bundle.version,
        sha256: plan.sha256,
        privilege: plan.manifest.privilege,
        parameters: plan.parameters.clone(),
        dry_run: command.dry_run,
    };
    let mut orders: HashMap<MachineId, Envelope> = HashMap::new();
    let mut envelopes = Vec::new();
    for row in &plan.machines {
        let envelope = match &plan.secrets {
            None => session.order(row, action.clone(), &reason, life)?,
            Some(secrets) => session.sealed_order(row, action.clone(), &reason, life, secrets).await?,
        };
        orders.insert(row.id, envelope.clone());
        envelopes.push(envelope);
    }
    let head = JobHead {
        action: Text::clipped(&format!("script {}", plan.bundle.name)),
        reason,
        orders: u32::try_from(envelopes.len()).unwrap_or(u32::MAX),
        parallel: command.parallel.of(plan.machines.len()),
    };
    if command.output == Shape::Table {
        let undo = if plan.manifest.undo.is_some() { "yes" } else { "no" };
        let dry = if command.dry_run { " · dry run: nothing is changed" } else { "" };
        eprintln!(
            "{} {} · privilege {} · undo: {undo}{dry}",
            plan.bundle.name,
            plan.bundle.version,
            plan.manifest.privilege.as_str()
        );
    }
    let mut stream = match command.queue {
        Some(_) => session.queue(head, &envelopes).await?,
        None => session.submit(head, &envelopes).await?,
    };
    let mut summary = Tally::of(plan.machines.len());
    let mut screen = Screen { shape: command.output, one: plan.machines.len() == 1, at_line_start: true };
    let mut job = None;
    let mut open: HashMap<MachineId, &MachineRow> = plan.machines.iter().map(|row| (row.id, row)).collect();
    while let Some(reply) = stream.next().await? {
        if let Reply::Job(id) = reply {
            job = Some(id);
            continue;
        }
        let Reply::Update(update) = reply else { continue };
        let Some(row) = open.get(&update.machine).copied() else { continue };
        if update.news == News::Held {
            open.remove(&update.machine);
            summary.queue();
            screen.held(row, life)?;
            continue;
        }
        if let News::Told(note) = &update.news {
            screen.note(row, note)?;
            continue;
        }
        let Some(answered) = judge_news(update.machine, orders.get(&update.machine), update.news) else { continue };
        open.remove(&update.machine);
        summary.add(&answered.answer);
        screen.result(row, &answered.answer)?;
    }
    for row in plan.machines.iter().filter(|row| open.contains_key(&row.id)) {
        summary.add(&Answer::Silent);
        screen.result(row, &Answer::Silent)?;
    }
    let exit = summary.exit(command.require, Severity::Crit);
    match command.output {
        Shape::Jsonl | Shape::Json => {
            say(&(json_text(&summary.summary(command.require, begun.elapsed(), exit)) + "\n"))?;
        }
        Shape::Table | Shape::Csv | Shape::Name => {
            if plan.machines.len() > 1 {
                eprintln!("{}", summary.in_words(command.require, begun.elapsed()));
            }
            if let Some(job) = job.filter(|_| command.output == Shape::Table) {
                eprintln!("Later: fernwart job show {job}");
            }
        }
    }
    Ok(exit)
}

/// Where news are written as they come.
struct Screen {
    shape: Shape,
    one: bool,
    at_line_start: bool,
}

impl Screen {
    fn note(&mut self, row: &MachineRow, note: &Note) -> Result<(), Failure> {
        if self.shape != Shape::Table {
            return Ok(());
        }
        let name = row.name.as_str();
        match note {
            Note::Output(stream, bytes) if self.one => self.output(*stream, bytes.as_bytes())?,
            Note::Output(..) => {}
            Note::Asking(until) => eprintln!("{name}  asking the customer (until {})", clock(*until)),
            Note::Allowed(by, at) => eprintln!("{name}  allowed by \"{by}\" at {}", clock(*at)),
            Note::Window(at) => eprintln!("{name}  waits for the customer's window at {}", clock(*at)),
            Note::Turn => eprintln!("{name}  waits for its turn"),
        }
        Ok(())
    }

    /// A machine that is away: its order waits.
    fn held(&mut self, row: &MachineRow, life: Duration) -> Result<(), Failure> {
        let until = fernwart_client::now().saturating_add(i64::try_from(life.as_millis()).unwrap_or(i64::MAX));
        match self.shape {
            Shape::Table => say(&format!(
                "{}  queued: away; it gets the order when it returns, until {}\n",
                row.name,
                moment(until)
            )),
            Shape::Jsonl | Shape::Json => {
                let line = json!({"v": 1, "type": "result", "machine": row.name, "id": row.id,
                    "customer": row.customer_name.as_raw(), "status": "queued", "until": until});
                say(&(json_text(&line) + "\n"))
            }
            Shape::Csv => say(&format!("{},queued,,\n", row.name)),
            Shape::Name => Ok(Exit::Done),
        }
        .map(drop)
    }

    /// Live output of one machine, with whatever could move a cursor escaped.
    fn output(&mut self, stream: Stream, bytes: &[u8]) -> Result<(), Failure> {
        let text = String::from_utf8_lossy(bytes);
        let mut shown = String::new();
        for piece in text.split_inclusive('\n') {
            let line = piece.strip_suffix('\n');
            shown += &escaped(line.unwrap_or(piece));
            if line.is_some() {
                shown.push('\n');
            }
        }
        self.at_line_start = shown.ends_with('\n');
        match stream {
            Stream::Out => drop(say(&shown)?),
            Stream::Err => std::io::stderr().write_all(shown.as_bytes())?,
        }
        Ok(())
    }

    fn result(&mut self, row: &MachineRow, answer: &Answer) -> Result<(), Failure> {
        match self.shape {
            Shape::Table => {
                if !self.at_line_start {
                    say("\n")?;
                    self.at_line_start = true;
                }
                say(&in_a_line(row, answer)).map(drop)
            }
            Shape::Jsonl | Shape::Json => {
                say(&(json_text(&super::diagnose::result_line(row, answer)) + "\n")).map(drop)
            }
            Shape::Name => match answer {
                Answer::Ran(report, _) if report.is_well() => Ok(()),
                _ => say(&format!("{}\n", row.name)).map(drop),
            },
            Shape::Csv => {
                let (status, code, why) = super::diagnose::status(answer);
                let why = why.unwrap_or_default().replace('"', "\"\"");
                say(&format!("{},{status},{},\"{why}\"\n", row.name, code.unwrap_or_default())).map(drop)
            }
        }
    }
}

fn clock(at: i64) -> String {
    let at = jiff::Timestamp::from_millisecond(at).unwrap_or_default().to_zoned(jiff::tz::TimeZone::system());
    at.strftime("%H:%M").to_string()
}

/// How a run ended, in half a sentence.
pub(crate) fn ran_in_words(report: &RunReport) -> String {
    use fernwart_protocol::script::Stopped;
    let how = match (report.stopped, report.exit, report.signal) {
        (Some(Stopped::Time), ..) => "stopped: its time was over".to_owned(),
        (Some(Stopped::Memory), ..) => "stopped: it used too much memory".to_owned(),
        (Some(Stopped::Processes), ..) => "stopped: it had too many processes".to_owned(),
        (Some(Stopped::Disk), ..) => "stopped: it was filling the disk".to_owned(),
        (Some(Stopped::Output), ..) => "stopped: it wrote too much".to_owned(),
        (Some(Stopped::Cancelled), ..) => "stopped: taken back".to_owned(),
        (None, Some(0), _) => "done".to_owned(),
        (None, Some(code), _) => match &report.means {
            Some(means) => format!("exit {code}: {}", escaped(&means.en)),
            None => format!("exit {code}"),
        },
        (None, None, signal) => format!("ended by signal {}", signal.unwrap_or_default()),
    };
    let took = format!("{how} in {:.1} s", report.took_ms as f64 / 1000.0);
    let checks = match (&report.before, &report.after) {
        _ if report.dry_run => " · nothing was changed".to_owned(),
        (_, Some(after)) if !after.is_empty() => {
            let all: Vec<_> = after.iter().map(|finding| escaped(&finding.cause.en)).collect();
            format!(" · still not well: {}", all.join("; "))
        }
        (Some(before), Some(_)) if !before.is_empty() => {
            let mut ids: Vec<_> = before.iter().map(|finding| escaped(&finding.id)).collect();
            ids.dedup();
            format!(" · {} run again: ok", ids.join(", "))
        }
        _ => String::new(),
    };
    let redacted = match report.redacted {
        0 => String::new(),
        count => format!(" · {count} secret(s) taken out"),
    };
    took + &checks + &redacted
}

fn in_a_line(row: &MachineRow, answer: &Answer) -> String {
    let name = row.name.as_str();
    match answer {
        Answer::Ran(report, receipt) => {
            format!("{name}  {}\nReceipt {} signed by {name}.\n", ran_in_words(report), short(receipt))
        }
        _ => {
            let (status, code, why) = super::diagnose::status(answer);
            let code = code.map(|code| format!("     [{code}]")).unwrap_or_default();
            format!("{name}  {}: {}{code}\n", status.replace('_', " "), why.unwrap_or_default())
        }
    }
}

fn short(receipt: &Receipt) -> String {
    receipt.run.to_string().get(..8).unwrap_or_default().to_owned()
}
