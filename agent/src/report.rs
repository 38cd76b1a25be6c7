//! A diagnosis as its owner reads it.

use crate::collect::{self, Surroundings};
use crate::words::Words;
use fernwart_protocol::diagnosis::{Answer, Finding, Language, Report, State, Unknown, Why, builtin_rules, facts};
use fernwart_protocol::document::SectionName;
use fernwart_protocol::text::escaped;
use std::collections::BTreeMap;
use std::fmt::Write as _;

/// A diagnosis without a hub, of these sections or of all where none is named.
pub fn diagnose(sections: &[SectionName]) -> Report {
    collect::look(sections, &Surroundings::default()).report
}

/// A report in the customer's words.
pub fn in_words(report: &Report, words: &Words) -> String {
    let system: facts::System = report.facts(SectionName::System).unwrap_or_default();
    let seconds = format!("{:.1}", f64::from(report.took_ms) / 1000.0);
    let seconds = if words.language == Language::De { seconds.replace('.', ",") } else { seconds };
    // The section may not have been asked for, or not have answered.
    let host = match system.hostname.as_str() {
        "" => escaped(&collect::hostname()),
        host => escaped(host),
    };
    let os = match system.os.as_str() {
        "" => collect::os_in_a_word().as_raw().to_owned(),
        os => os.to_owned(),
    };
    let counts = report.counts();
    let mut out = words.say_with("diagnose-head", &[("host", &host), ("os", &os), ("seconds", &seconds)]) + "\n";
    if report.findings.is_empty() {
        let how = match report.state() {
            // Nothing was checked, so nothing is well.
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
    for (why, checks) in lost(report) {
        let _ = writeln!(out, "{:<9} {}: {}", words.say("unknown"), escaped(&checks.join(", ")), words.reason(&why));
    }
    for note in &report.notes {
        finding_in_words(note, words, &mut out);
    }
    let parts = [
        ("ok", counts.ok),
        ("crit", counts.crit),
        ("warn", counts.warn),
        ("unknown", counts.unknown),
        ("note", counts.notes),
    ];
    let parts: Vec<String> = parts
        .iter()
        .filter(|(_, count)| *count > 0)
        .map(|(word, count)| words.say_with(&format!("count-{word}"), &[("count", &count.to_string())]))
        .collect();
    let all = counts.all().to_string();
    if counts.all() == 0 {
        return out;
    }
    out += &format!("{}: {}\n", words.say_with("diagnose-checks", &[("count", &all)]), parts.join(" · "));
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

/// Lost checks by why they are, so that a section that is silent is one line.
fn lost(report: &Report) -> Vec<(Why, Vec<String>)> {
    let silent = report.sections.iter().filter_map(|(name, section)| match &section.answer {
        Answer::Unanswered(text) => Some((*name, section.why.clone().unwrap_or_else(|| Why::from(text.as_str())))),
        Answer::Facts(_) => None,
    });
    let mut lost: BTreeMap<Why, Vec<String>> = BTreeMap::new();
    let silent: Vec<(SectionName, Why)> = silent.collect();
    for (name, why) in &silent {
        lost.entry(why.clone()).or_default().push(name.to_string());
    }
    let rules = builtin_rules();
    let is_told = |unknown: &&Unknown| {
        let section = rules.find(&unknown.id).map(|rule| rule.section);
        silent.iter().any(|(name, _)| Some(*name) == section)
    };
    for unknown in report.unknown.iter().filter(|unknown| !is_told(unknown)) {
        lost.entry(unknown.why.clone()).or_default().push(unknown.name());
    }
    lost.into_iter().collect()
}
