//! A diagnosis as its owner reads it.

use crate::collect::{self, Surroundings};
use crate::local::{self, Question};
use crate::owner::words::Words;
use crate::platform;
use fernwart_certs::catalogue::rules_in_force;
use fernwart_protocol::diagnosis::{Answer, Cause, Finding, Language, Report, State, facts};
use fernwart_protocol::document::SectionName;
use fernwart_protocol::text::escaped;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

/// A diagnosis without a hub, of these sections or of all if none is named.
///
/// A running agent at this socket is asked for the package manager's answer it already has.
pub fn diagnose(sections: &[SectionName], agent: &Path) -> Report {
    // An agent that does not answer must not delay the diagnosis.
    let known = local::ask_within(agent, &Question::Updates, Duration::from_millis(300));
    let known_updates = match known {
        Ok(Some(local::Answer::Updates(known))) => known,
        _ => None,
    };
    let rules = rules_in_force(None);
    collect::look(platform::facts::lens(&rules), sections, &Surroundings { known_updates, ..Surroundings::default() })
        .report
}

/// A report in the customer's words.
pub fn in_words(report: &Report, words: &Words) -> String {
    let system: facts::System = report.facts(SectionName::System).unwrap_or_default();
    let seconds = format!("{:.1}", f64::from(report.took_ms) / 1000.0);
    let seconds = if words.language == Language::De { seconds.replace('.', ",") } else { seconds };
    // The section may be missing or unanswered.
    let host = match system.hostname.as_str() {
        "" => escaped(&platform::facts::hostname()),
        host => escaped(host),
    };
    let os = match system.os.as_str() {
        "" => platform::facts::os_in_a_word().as_raw().to_owned(),
        os => os.to_owned(),
    };
    let counts = report.counts();
    let mut out = words.say_with("diagnose-head", &[("host", &host), ("os", &os), ("seconds", &seconds)]) + "\n";
    if report.findings.is_empty() {
        let how = match report.state() {
            // Nothing was checked, so the machine is not reported as healthy.
            State::Ok if !report.not_yet.is_empty() => "diagnose-incomplete",
            State::Ok if counts.ok == 0 => "diagnose-nothing",
            State::Ok => "diagnose-well",
            _ => "diagnose-incomplete",
        };
        out += &(words.say(how) + "\n");
    }
    for finding in &report.findings {
        finding_in_words(finding, words, &mut out);
    }
    for (rule, count) in &report.left_out {
        let with = [("count", count.to_string()), ("check", escaped(rule))];
        out += &format!(
            "{:<9} {}\n",
            "",
            words.say_with("diagnose-more", &with.each_ref().map(|(k, v)| (*k, v.as_str())))
        );
    }
    for (why, sections) in lost(report) {
        let about: Vec<String> = sections.iter().map(|section| words.section(*section)).collect();
        let _ = writeln!(out, "{:<9} {}: {}", words.say("unknown"), about.join(", "), words.reason(&why));
    }
    if !report.not_yet.is_empty() {
        let sections: BTreeSet<SectionName> = report.not_yet.iter().filter_map(|id| section_of(id)).collect();
        let about: Vec<String> = sections.into_iter().map(|section| words.section(section)).collect();
        let _ = writeln!(
            out,
            "{:<9} {}",
            words.say("not-yet"),
            words.say_with("not-yet-now", &[("about", &about.join(", "))])
        );
    }
    for note in &report.notes {
        finding_in_words(note, words, &mut out);
    }
    let parts = [("ok", counts.ok), ("crit", counts.crit), ("warn", counts.warn), ("unknown", counts.unknown)];
    let parts: Vec<String> = parts
        .iter()
        .filter(|(_, count)| *count > 0)
        .map(|(word, count)| words.say_with(&format!("count-{word}"), &[("count", &count.to_string())]))
        .collect();
    let all = counts.all().to_string();
    if counts.all() == 0 {
        return out;
    }
    let notes = match counts.notes {
        0 => String::new(),
        notes => format!(", {}", words.say_with("count-note", &[("count", &notes.to_string())])),
    };
    let checks = words.say_with("diagnose-checks", &[("count", &all)]);
    out += &format!("{checks}: {}{notes}\n", parts.join(" · "));
    out
}

fn finding_in_words(finding: &Finding, words: &Words, out: &mut String) {
    let severity = words.say(finding.severity.as_str());
    let (cause, advice) = (words.language.of(&finding.cause), words.language.of(&finding.advice));
    // Writing into a String does not fail.
    let _ = writeln!(
        out,
        "{severity:<9} {}\n          {}: {}",
        escaped(cause),
        words.say("diagnose-advice"),
        escaped(advice)
    );
}

fn section_of(check: &str) -> Option<SectionName> {
    rules_in_force(None).find(check).map(|rule| rule.section)
}

/// The sections with unknown results, grouped by the cause. An owner does not know the names of
/// checks.
fn lost(report: &Report) -> BTreeMap<Cause, BTreeSet<SectionName>> {
    let mut lost: BTreeMap<Cause, BTreeSet<SectionName>> = BTreeMap::new();
    let mut silent = BTreeSet::new();
    for (name, section) in &report.sections {
        if let Answer::Unanswered(text) = &section.answer {
            silent.insert(*name);
            lost.entry(section.why.clone().unwrap_or_else(|| Cause::from(text.as_str()))).or_default().insert(*name);
        }
    }
    for unknown in &report.unknown {
        if let Some(section) = section_of(&unknown.id).filter(|section| !silent.contains(section)) {
            lost.entry(unknown.why.clone()).or_default().insert(section);
        }
    }
    lost
}
