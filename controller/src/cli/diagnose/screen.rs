//! A diagnosis as text for a technician.

use super::status;
use crate::cli::output::{moment, shell_word};
use fernwart_certs::catalogue::Catalogue;
use fernwart_client::Answer;
use fernwart_protocol::diagnosis::{Answer as Facts, Finding, Report, Rules, Severity, State, Unknown, facts};
use fernwart_protocol::document::SectionName;
use fernwart_protocol::event::Named;
use fernwart_protocol::id::JobId;
use fernwart_protocol::row::Row;
use fernwart_protocol::script::BundleName;
use fernwart_protocol::staff::MachineRow;
use fernwart_protocol::text::escaped;
use std::collections::BTreeMap;

/// Maximum number of checks named on a line; the others are counted.
const NAMED: usize = 3;

/// One machine among several, on one line.
pub(super) fn line_in_words(row: &Row<MachineRow>, answer: &Answer) -> String {
    let (status, code, why) = status(answer);
    let text = match answer {
        Answer::Report(report, _) if !report.summary.is_nothing_known() => {
            let found = match report.summary.findings.as_slice() {
                [] => String::new(),
                [only] => escaped(&only.cause.en),
                [first, rest @ ..] => format!("{} (and {} more)", escaped(&first.cause.en), rest.len()),
            };
            match (report.summary.lost_in_words(), found.is_empty()) {
                (None, _) => found,
                (Some(lost), true) => format!("unknown: {}", escaped(&lost)),
                (Some(lost), false) => format!("{found} – unknown: {}", escaped(&lost)),
            }
        }
        _ => format!("{} {}", why.unwrap_or_default(), code.map(|code| format!("[{code}]")).unwrap_or_default()),
    };
    format!("{:<16} {:<9} {}\n", row.name, status.replace('_', " "), text.trim())
}

/// One machine's report. Remedies are named by `job`; `os` is shown if the report has no system
/// section.
pub(super) fn one_in_words(
    machine: &Named,
    os: &str,
    job: Option<JobId>,
    report: &Report,
    all: bool,
    catalogue: &Catalogue,
) -> String {
    let system: Option<facts::System> = report.facts(SectionName::System);
    let up = match system.as_ref().map(|system| system.uptime_s) {
        None => String::new(),
        Some(s) if s < 7200 => format!(" · up {} min", s / 60),
        Some(s) if s < 172_800 => format!(" · up {} h", s / 3600),
        Some(s) => format!(" · up {} d", s / 86_400),
    };
    let name = system.map_or_else(|| os.to_owned(), |system| escaped(&system.os_name));
    let name = if name.is_empty() { name } else { format!(" · {name}") };
    let mut out = format!(
        "{} · {}{name}{up} · checked {} in {:.1} s\n",
        machine.name,
        machine.customer,
        moment(report.taken_at),
        f64::from(report.took_ms) / 1000.0,
    );
    for finding in &report.findings {
        out += &finding_in_words(machine, job, finding, catalogue);
    }
    for (id, count) in &report.left_out {
        out += &format!("         and {count} more of {}\n", escaped(id));
    }
    for (why, checks) in lost(report, &catalogue.rules()) {
        out += &format!("UNKNOWN  {}\n         why       {}\n", listed(&checks), escaped(&why));
    }
    if !report.not_yet.is_empty() {
        out += &format!("not yet  {}\n", listed(&report.not_yet));
        out += "         why       a slow program is still being asked; diagnose again in a minute\n";
    }
    for note in &report.notes {
        out += &finding_in_words(machine, job, note, catalogue);
    }
    if all {
        for id in report.well.iter().flatten() {
            out += &format!("ok       {}\n", escaped(id));
        }
        if report.not_applicable > 0 {
            let checks = if report.not_applicable == 1 { "check has" } else { "checks have" };
            out += &format!("n/a      {} {checks} nothing to judge here\n", report.not_applicable);
        }
    }
    out + &counts_in_words(report, all) + "\n"
}

fn finding_in_words(machine: &Named, job: Option<JobId>, finding: &Finding, catalogue: &Catalogue) -> String {
    let severity = match finding.severity {
        Severity::Crit => "CRIT",
        Severity::Warn => "WARN",
        Severity::Note => "NOTE",
    };
    let worse = if finding.worse_unknown { "     (it may be worse: what would tell is not known)" } else { "" };
    let mut out = format!("{severity:<8} {}{worse}\n", escaped(&finding.name()));
    out += &format!("         why       {}\n", escaped(&finding.cause.en));
    out += &format!("         what now  {}\n", escaped(&finding.advice.en));
    // The remedy comes from our own rules, not from the machine.
    let remedy = catalogue.rules().find(&finding.id).and_then(|rule| {
        let name: BundleName = rule.remedy.as_ref()?.parse().ok()?;
        Some((catalogue.scripts.get(&name)?.version, name))
    });
    if let (Some((version, name)), Some(job)) = (remedy, job) {
        let named = shell_word(&format!("{}/{job}/{}", machine.name, finding.name()));
        out += &format!("                   fernwart run --remedy {named}     ({name} {version}, approved)\n");
    }
    out
}

/// Checks without a result, grouped by reason. If a complete section did not answer, it is named
/// instead of its checks.
fn lost(report: &Report, rules: &Rules) -> Vec<(String, Vec<String>)> {
    let mut lost: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut silent = Vec::new();
    for (name, section) in &report.sections {
        if let Facts::Unanswered(text) = &section.answer {
            silent.push(*name);
            let why = section.why.as_ref().map_or_else(|| text.clone(), |why| why.in_words());
            lost.entry(why).or_default().push(format!("{name} (all of it)"));
        }
    }
    let is_listed = |unknown: &&Unknown| rules.find(&unknown.id).is_some_and(|rule| silent.contains(&rule.section));
    for unknown in report.unknown.iter().filter(|unknown| !is_listed(unknown)) {
        lost.entry(unknown.why.in_words()).or_default().push(unknown.name());
    }
    lost.into_iter().collect()
}

fn listed(names: &[String]) -> String {
    let shown: Vec<String> = names.iter().take(NAMED).map(|name| escaped(name)).collect();
    match names.len().saturating_sub(NAMED) {
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
    }
}

/// `55 checks: 53 ok · 1 crit · 1 unknown, plus 1 note`
fn counts_in_words(report: &Report, all: bool) -> String {
    let counts = report.counts();
    if counts.all() == 0 && report.not_yet.is_empty() && report.state() == State::Ok {
        return "There is nothing of that to judge on this machine.".to_owned();
    }
    let parts = [
        (counts.ok, "ok"),
        (counts.crit, "crit"),
        (counts.warn, "warn"),
        (counts.unknown, "unknown"),
        (report.not_yet.len(), "not yet"),
    ];
    let parts: Vec<String> =
        parts.iter().filter(|(count, _)| *count > 0).map(|(count, word)| format!("{count} {word}")).collect();
    // Notes are not results of checks, so they are not part of the sum.
    let notes = match counts.notes {
        0 => String::new(),
        1 => ", plus 1 note".to_owned(),
        notes => format!(", plus {notes} notes"),
    };
    let more = if all || counts.ok == 0 { "" } else { "          --all shows them" };
    let all = counts.all() + report.not_yet.len();
    let checks = if all == 1 { "check" } else { "checks" };
    format!("{all} {checks}: {}{notes}{more}", parts.join(" · "))
}
