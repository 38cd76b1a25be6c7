//! `fernwart diagnose`: one signed order per machine, answers in order of arrival.

mod screen;

use super::choosing::chosen;
use super::output::{Cell, Rows, harmless, is_watched, json_text};
use super::parallel::Parallel;
use super::tally::{FailOn, Require, Tally};
use super::{Exit, Failure, HUB_BACK, HUB_GONE, HomePaths, Shape, TargetArgs, say, span, with_session_within};
use clap::{Args, ValueEnum};
use fernwart_certs::catalogue::Catalogue;
use fernwart_client::target::Target;
use fernwart_client::{Answer, Answered, JobEvent, Session, Work};
use fernwart_protocol::code::{Denial, Refusal};
use fernwart_protocol::diagnosis::{Report, State};
use fernwart_protocol::document::{Action, SectionName, UnixMs};
use fernwart_protocol::event::Named;
use fernwart_protocol::id::{JobId, MachineId};
use fernwart_protocol::row::Row;
use fernwart_protocol::staff::MachineRow;
use fernwart_protocol::text::{List, Text, escaped};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::{Value, json};
use std::borrow::Cow;
use std::collections::HashMap;
use std::io::IsTerminal;
use std::time::{Duration, Instant};

/// What is wrong with machines, and why.
#[derive(Args)]
#[command(
    before_help = "Examples:\n  fernwart diagnose kasse-2\n  fernwart diagnose -l site=kiel --section disks -o jsonl > disks.jsonl",
    after_help = "Exit: 0 well · 1 findings at or above --fail-on · 3 refused · 4 no answer in time · 5 fernwart failed\n      -o nagios ends as a plugin does: 0 ok · 1 warning · 2 critical · 3 unknown\nNext: fernwart facts MACHINE shows every number"
)]
pub(crate) struct Diagnose {
    #[command(flatten)]
    target: TargetArgs,
    /// How to write it; nagios and checkmk are for one machine
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    output: Output,
    /// From what on the exit code is 1; crit counts what could be critical and is not known
    #[arg(long, value_enum, default_value_t = FailOn::Crit)]
    fail_on: FailOn,
    /// Whose absence counts: all, online, or a share like 95%; with complete (all,complete) an
    /// answer that lacks something counts as none
    #[arg(long, default_value = "all", value_parser = Require::parse)]
    require: Require,
    /// Only these sections: disks,logs
    #[arg(long, value_name = "SECTION", value_delimiter = ',')]
    section: Vec<SectionName>,
    /// Wait at most so long
    #[arg(long, default_value = "15s", value_parser = timeout)]
    timeout: Duration,
    /// At most N machines at once, or N% of them
    #[arg(long, value_name = "N|N%", default_value = "0", hide_default_value = true)]
    parallel: Parallel,
    /// Why, for the machine's journal
    #[arg(long, default_value = "")]
    reason: String,
    /// Show the checks that found nothing, too
    #[arg(long)]
    all: bool,
}

/// How a diagnosis is written: as any list, or for a monitoring system.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Output {
    /// A table for people.
    Table,
    /// One JSON document, at the end.
    Json,
    /// One JSON object a line, as they come.
    Jsonl,
    /// Comma-separated values.
    Csv,
    /// Names alone, one a line.
    Name,
    /// As a plugin of Nagios and Icinga.
    Nagios,
    /// As local checks of Checkmk.
    Checkmk,
}

/// A sensible time to wait: an order lasts at most seven days.
fn timeout(text: &str) -> Result<Duration, String> {
    let span = span::parse(text)?;
    let sensible = Duration::from_millis(100)..=Duration::from_secs(24 * 3600);
    if sensible.contains(&span) { Ok(span) } else { Err("between 100ms and 24h".into()) }
}

pub(crate) fn run(command: &Diagnose, homes: &HomePaths) -> Result<Exit, Failure> {
    let target = command.target.read()?;
    if matches!(command.output, Output::Nagios | Output::Checkmk) {
        return as_plugin(command, &target, homes);
    }
    let begun = Instant::now();
    let (asked, catalogue) = with_session_within(homes, command.timeout, async |session| {
        Ok((ask(command, &target, begun, session).await?, session.catalogue.clone()))
    })?;
    let exit = conclude(command, &asked, &catalogue, begun.elapsed())?;
    asked.failure.map_or(Ok(exit), Err)
}

/// Prints for a monitoring system: every failure is reported as unknown, on the one line that it
/// reads.
fn as_plugin(command: &Diagnose, target: &Target, homes: &HomePaths) -> Result<Exit, Failure> {
    let begun = Instant::now();
    let is_plugin = command.output == Output::Nagios;
    let unknown = |why: &str| {
        let (line, exit) = match is_plugin {
            true => (format!("FERNWART UNKNOWN - {}\n", escaped(why).replace('|', "/")), Exit::Plugin(State::Unknown)),
            false => (format!("3 \"Fernwart\" - {}\n", escaped(why)), Exit::Done),
        };
        say(&line).map(|_| exit)
    };
    let asked = with_session_within(homes, command.timeout, async |session| ask(command, target, begun, session).await);
    let asked = match asked {
        Ok(asked) => asked,
        Err(failure) => return unknown(&failure.in_short()),
    };
    if asked.rows.len() != 1 {
        let what = "nagios and checkmk are for one machine";
        return Err(Failure::new(Exit::Usage, "FW-CLI-01", what).now("name one machine, or take -o jsonl"));
    }
    match asked.answers.first().map(|answered| &answered.answer) {
        Some(Answer::Report(report, _)) => {
            let report = report.decode().map_err(unreadable)?;
            match is_plugin {
                true => say(&report.as_plugin()).map(|_| Exit::Plugin(report.state())),
                false => say(&report.as_local_checks()),
            }
        }
        other => {
            let (_, code, why) = status(other.unwrap_or(&Answer::Silent));
            unknown(&format!("{} {}", why.unwrap_or_default(), code.unwrap_or_default()))
        }
    }
}

/// The machines asked, their job, and their answers.
struct Collected {
    rows: Vec<Row<MachineRow>>,
    job: Option<JobId>,
    answers: Vec<Answered>,
    /// The hub has gone before all had answered.
    failure: Option<Failure>,
}

async fn ask(command: &Diagnose, target: &Target, begun: Instant, session: &mut Session) -> Result<Collected, Failure> {
    let deadline = tokio::time::Instant::from_std(begun) + command.timeout;
    let in_time = tokio::time::timeout_at(deadline, chosen(session, target)).await;
    let silent = || Failure::new(Exit::NoAnswer, "FW-CLI-05", "the hub did not answer in time");
    let selected = in_time.map_err(|_| silent())??;
    let reason: Text<500> =
        command.reason.parse().map_err(|_| Failure::new(Exit::Usage, "FW-CLI-01", "a reason has at most 500 bytes"))?;
    let sections = List::try_from(command.section.clone())
        .map_err(|_| Failure::new(Exit::Usage, "FW-CLI-01", "at most 16 sections"))?;
    let work =
        Work { action: Action::Diagnose { sections }, secrets: None, reason, life: command.timeout, queued: false };
    let mut sealed = session.seal(&selected, &work).await?;
    sealed.at_once(command.parallel.of(sealed.orders()));
    let mut answers = std::mem::take(&mut sealed.too_old);
    let by_id: HashMap<MachineId, &Row<MachineRow>> = selected.iter().map(|row| (row.id, row)).collect();
    if command.output == Output::Jsonl {
        for (row, answered) in answers.iter().filter_map(|one: &Answered| Some((by_id.get(&one.machine)?, one))) {
            say(&result_text(row, &answered.answer))?;
        }
    }
    let started = tokio::time::timeout_at(deadline, session.start(sealed)).await;
    let mut stream = started.map_err(|_| silent())??;
    let progress = progress(selected.len());
    progress.inc(answers.len() as u64);
    let mut failure = None;
    // Machines that have not answered by the deadline count as silent.
    while let Ok(next) = tokio::time::timeout_at(deadline, stream.next()).await {
        let mut answered = match next {
            Ok(Some(JobEvent::Answered(answered))) => answered,
            Ok(Some(JobEvent::HubGone)) => {
                progress.suspend(|| note!("{HUB_GONE}"));
                continue;
            }
            Ok(Some(JobEvent::HubBack)) => {
                progress.suspend(|| note!("{HUB_BACK}"));
                continue;
            }
            Ok(Some(JobEvent::Stored(_) | JobEvent::Held(_) | JobEvent::Note(..))) => continue,
            Ok(None) => break,
            Err(error) if stream.job().is_none() => return Err(error.into()),
            Err(error) => {
                failure = Some(error.into());
                break;
            }
        };
        progress.inc(1);
        if let Some(row) = by_id.get(&answered.machine)
            && command.output == Output::Jsonl
        {
            progress.suspend(|| say(&result_text(row, &answered.answer)))?;
        }
        // Drop the report's text: for thousands of machines only the summary is needed.
        if let Answer::Report(report, _) = &mut answered.answer
            && (selected.len() > 1 || command.output == Output::Jsonl)
            && command.output != Output::Json
        {
            report.json = String::new();
        }
        answers.push(answered);
    }
    progress.finish_and_clear();
    let job = stream.job();
    drop(stream);
    Ok(Collected { rows: selected, job, answers, failure })
}

fn progress(machines: usize) -> ProgressBar {
    let target = if is_watched() { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
    let bar = ProgressBar::with_draw_target(Some(machines as u64), target);
    if let Ok(style) = ProgressStyle::with_template("{spinner} {pos} of {len} answered  {elapsed}") {
        bar.set_style(style);
    }
    bar.enable_steady_tick(Duration::from_millis(100));
    bar
}

/// A refusal with the machine's explanation.
pub(crate) fn refused_in_words(refusal: Refusal, why: Option<&str>) -> String {
    why.map_or_else(|| refusal.to_string(), |why| format!("{refusal}: {}", escaped(why)))
}

/// Explains a denial for one machine. The hub checks orders before it accepts them, so
/// `NotUnderstood` here is about the machine's answer.
pub(crate) fn denied_in_words(denial: Denial) -> String {
    match denial {
        Denial::NotUnderstood => {
            "the hub has refused its answer: not signed by this machine, or not for this order (see: fernwart events)"
                .to_owned()
        }
        other => other.to_string(),
    }
}

/// Reported for an answer in a version that this program does not read.
pub(super) const NEWER_ANSWER: &str = "the answer is of a newer version than this program reads: update it";

/// A stored report as text for people.
pub(crate) fn report_in_words(machine: &Named, job: Option<JobId>, report: &Report, catalogue: &Catalogue) -> String {
    screen::one_in_words(machine, "", job, report, false, catalogue)
}

/// The status, the code if there is one, and the reason.
pub(crate) fn status(answer: &Answer) -> (&'static str, Option<Cow<'static, str>>, Option<String>) {
    match answer {
        Answer::Report(report, _) if report.summary.is_nothing_known() => {
            ("failed", None, Some("nothing could be looked at".into()))
        }
        Answer::Report(report, _) => match report.summary.state() {
            State::Unknown => ("unknown", None, report.summary.lost_in_words()),
            state => (state.as_str(), None, None),
        },
        Answer::Ran(report, _) if report.is_well() => ("ok", None, None),
        Answer::Ran(report, _) => ("crit", None, Some(super::run::ran_in_words(report))),
        Answer::Refused(refusal, why) => {
            ("refused", Some(refusal.code()), Some(refused_in_words(*refusal, why.as_deref())))
        }
        Answer::Away => ("away", None, Some("the machine is away".into())),
        Answer::Silent => ("no_answer", None, Some("no answer in time".into())),
        Answer::Closed(outcome, _) => ("failed", None, Some(outcome.as_str().into())),
        Answer::Denied(denial) => ("failed", Some(denial.code()), Some(denied_in_words(*denial))),
        Answer::OlderAgent(why) => ("refused", Some("FW-CLI-17".into()), Some(why.to_string())),
        Answer::Newer => ("failed", Some("FW-CLI-18".into()), Some(NEWER_ANSWER.into())),
        Answer::Forged => ("failed", Some("FW-CLI-08".into()), Some("the answer is not signed by this machine".into())),
    }
}

/// A stored report and its time, accepted only if its machine has signed it.
pub(super) fn stored(found: Option<(UnixMs, Answer)>) -> Result<Option<(UnixMs, Report)>, Failure> {
    match found {
        None => Ok(None),
        Some((at, Answer::Report(report, _))) => Ok(Some((at, report.decode().map_err(unreadable)?))),
        Some((_, Answer::Newer)) => {
            Err(Failure::new(Exit::Failed, "FW-CLI-18", NEWER_ANSWER).now("update this program"))
        }
        Some(_) => Err(Failure::new(Exit::Failed, "FW-CLI-08", "the stored report is not signed by this machine")),
    }
}

/// Diagnoses these machines now. Returns how many were asked and how many answered.
pub(super) async fn refresh(
    session: &mut Session,
    target: TargetArgs,
    timeout: Duration,
) -> Result<(usize, usize), Failure> {
    let command = Diagnose {
        target,
        output: Output::Table,
        fail_on: FailOn::Crit,
        require: Require::ALL,
        section: Vec::new(),
        timeout,
        parallel: Parallel::Number(0),
        reason: String::new(),
        all: false,
    };
    let target = command.target.read()?;
    let Collected { rows, answers, failure, .. } = ask(&command, &target, Instant::now(), session).await?;
    if let Some(failure) = failure {
        return Err(failure);
    }
    let reported = answers.iter().filter(|answered| matches!(answered.answer, Answer::Report(..)));
    Ok((rows.len(), reported.count()))
}

/// Diagnoses one section of one machine now.
pub(super) async fn look_again(
    session: &mut Session,
    row: &Row<MachineRow>,
    section: SectionName,
    reason: &str,
) -> Result<Answer, Failure> {
    let command = Diagnose {
        target: TargetArgs::default(),
        output: Output::Table,
        fail_on: FailOn::Crit,
        require: Require::ALL,
        section: vec![section],
        timeout: Duration::from_secs(15),
        parallel: Parallel::Number(0),
        reason: Text::<500>::clipped(reason).as_raw().to_owned(),
        all: false,
    };
    let target = Target { words: vec![row.name.to_string()], ..Target::default() };
    let Collected { answers, failure, .. } = ask(&command, &target, Instant::now(), session).await?;
    match failure {
        Some(failure) => Err(failure),
        None => Ok(answers.into_iter().next().map_or(Answer::Silent, |answered| answered.answer)),
    }
}

/// The failure for a report in an unknown format.
pub(super) fn unreadable(error: serde_json::Error) -> Failure {
    Failure::new(Exit::Failed, "FW-CLI-08", format!("the report cannot be read: {error}"))
}

/// One machine's answer as a line of text for programs. A report is passed on unchanged: it was
/// parsed as JSON before.
pub(super) fn result_text(row: &Row<MachineRow>, answer: &Answer) -> String {
    let machine = named(row);
    let Answer::Report(report, receipt) = answer else { return json_text(&result_line(&machine, answer)) + "\n" };
    let mut line = line_of(&machine, answer);
    if let Some(fields) = line.as_object_mut() {
        fields.insert("run".into(), receipt.run.to_string().into());
    }
    let mut text = json_text(&line);
    text.truncate(text.len().saturating_sub(1));
    text + ",\"report\":" + &harmless(&report.json) + "}\n"
}

/// A machine by its name, id and customer.
pub(super) fn named(row: &Row<MachineRow>) -> Named {
    Named { id: row.id, name: row.name.clone(), customer: row.customer_name.clone() }
}

/// One machine's answer as an object for programs.
pub(super) fn result_line(machine: &Named, answer: &Answer) -> Value {
    let mut line = line_of(machine, answer);
    let signed = match answer {
        Answer::Report(report, receipt) => Some((receipt, serde_json::from_str(&report.json))),
        Answer::Ran(report, receipt) => Some((receipt, serde_json::to_value(report))),
        _ => None,
    };
    if let (Answer::Closed(_, Some(report)), Some(fields)) = (answer, line.as_object_mut()) {
        fields.insert("report".into(), serde_json::to_value(report).unwrap_or_default());
    }
    if let (Some((receipt, report)), Some(fields)) = (signed, line.as_object_mut()) {
        fields.insert("run".into(), receipt.run.to_string().into());
        fields.insert("report".into(), report.unwrap_or_default());
    }
    line
}

fn line_of(machine: &Named, answer: &Answer) -> Value {
    let (status, code, why) = status(answer);
    let mut line = json!({
        "v": 1, "type": "result", "machine": machine.name, "id": machine.id, "customer": machine.customer.as_raw(),
        "status": status,
    });
    if let Some(fields) = line.as_object_mut() {
        if let Some(code) = code {
            fields.insert("code".into(), code.into());
        }
        if let Some(why) = why {
            fields.insert("why".into(), why.into());
        }
    }
    line
}

fn conclude(
    command: &Diagnose,
    Collected { rows, job, answers, .. }: &Collected,
    catalogue: &Catalogue,
    took: Duration,
) -> Result<Exit, Failure> {
    let by_machine: HashMap<_, _> = answers.iter().map(|answered| (answered.machine, &answered.answer)).collect();
    let mut tally = Tally::of(rows.len());
    let all: Vec<(&Row<MachineRow>, &Answer)> =
        rows.iter().map(|row| (row, by_machine.get(&row.id).copied().unwrap_or(&Answer::Silent))).collect();
    all.iter().for_each(|(_, answer)| tally.add(answer));
    let exit = tally.exit(command.require, command.fail_on);
    let summary = tally.summary(*job, took, exit);
    match command.output {
        Output::Jsonl => {
            for (row, _) in all.iter().filter(|(row, _)| !by_machine.contains_key(&row.id)) {
                say(&(json_text(&result_line(&named(row), &Answer::Silent)) + "\n"))?;
            }
            say(&(json_text(&summary) + "\n"))?;
        }
        Output::Json => {
            let results: Vec<_> = all.iter().map(|(row, answer)| result_line(&named(row), answer)).collect();
            say(&(json_text(&json!({"v": 1, "type": "diagnosis", "results": results, "summary": summary})) + "\n"))?;
        }
        Output::Csv | Output::Name => {
            let mut table =
                Rows::new("result", &["machine", "customer", "status", "severity", "finding", "instance", "cause"]);
            for (row, answer) in &all {
                if command.output == Output::Csv {
                    push_findings(&mut table, row, answer);
                } else if matches!(answer, Answer::Report(report, _) if report.summary.state() != State::Ok) {
                    table.push(vec![row.name.as_str().into()]);
                }
            }
            table.print(if command.output == Output::Csv { Shape::Csv } else { Shape::Name })?;
        }
        Output::Table | Output::Nagios | Output::Checkmk => match all.as_slice() {
            [(row, Answer::Report(report, _))] => {
                let report = report.decode().map_err(unreadable)?;
                say(&screen::one_in_words(&named(row), &row.os.to_string(), *job, &report, command.all, catalogue))?;
            }
            several => {
                let lines: String = several.iter().map(|(row, answer)| screen::line_in_words(row, answer)).collect();
                say(&lines)?;
            }
        },
    }
    // Programs read the counts in the summary, and cron mails any unexpected output; so print them
    // only for people.
    let is_for_eyes = command.output == Output::Table && rows.len() > 1;
    if is_for_eyes || (command.output != Output::Table && std::io::stderr().is_terminal()) {
        note!("{}", tally.in_words(took));
    }
    if let [(row, answer)] = all.as_slice()
        && command.output == Output::Table
        && !matches!(answer, Answer::Report(report, _) if !report.summary.is_nothing_known())
        && let (_, code, Some(why)) = status(answer)
    {
        let code = code.map(|code| format!("     [{code}]")).unwrap_or_default();
        note!("{}: {why}{code}", row.name);
    }
    if let Some(job) = job.filter(|_| tally.is_anybody_silent()) {
        note!("What comes later: fernwart job show {job}");
    }
    Ok(exit)
}

fn push_findings(table: &mut Rows, row: &Row<MachineRow>, answer: &Answer) {
    let (status, code, why) = status(answer);
    let cells = |severity: &str, finding: &str, instance: &str, cause: &str| {
        [row.name.as_str(), row.customer_name.as_raw(), status, severity, finding, instance, cause]
            .iter()
            .map(|cell| Cell::from(*cell))
            .collect::<Vec<_>>()
    };
    match answer {
        Answer::Report(report, _) if !report.summary.is_nothing_known() => {
            let summary = &report.summary;
            for finding in summary.findings.iter().chain(&summary.notes) {
                let instance = finding.instance.as_deref().unwrap_or_default();
                table.push(cells(finding.severity.as_str(), &finding.id, instance, &finding.cause.en));
            }
            for unknown in &summary.unknown {
                let instance = unknown.instance.as_deref().unwrap_or_default();
                table.push(cells("unknown", &unknown.id, instance, &unknown.why.in_words()));
            }
            if summary.findings.is_empty() && summary.notes.is_empty() && summary.unknown.is_empty() {
                table.push(cells("", "", "", ""));
            }
        }
        _ => table.push(cells("", &code.unwrap_or_default(), "", &why.unwrap_or_default())),
    }
}
