//! A report for a customer's own monitoring: as the output of a Nagios or Icinga plugin, and as
//! local checks of Checkmk.

use super::finding::{Finding, Severity, State};
use super::report::Report;
use crate::text::escaped;
use std::fmt::Write;

impl State {
    /// The exit code of a plugin: 0 ok, 1 warning, 2 critical, 3 unknown (Monitoring Plugins
    /// Development Guidelines).
    pub const fn plugin_code(self) -> u8 {
        match self {
            Self::Ok => 0,
            Self::Warn => 1,
            Self::Crit => 2,
            Self::Unknown => 3,
        }
    }

    const fn plugin_word(self) -> &'static str {
        match self {
            Self::Ok => "OK",
            Self::Warn => "WARNING",
            Self::Crit => "CRITICAL",
            Self::Unknown => "UNKNOWN",
        }
    }
}

/// Text on one line, without the plugin format's field separator.
fn plain(text: &str) -> String {
    escaped(text).replace('|', "/")
}

impl Report {
    /// One line with counts as performance data, then one line for each finding.
    pub fn as_plugin(&self) -> String {
        let (state, counts) = (self.state(), self.counts());
        let first = match (self.findings.first(), self.unknown.first()) {
            (Some(finding), _) if state == State::Crit || self.unknown.is_empty() => plain(&finding.cause.en),
            (_, Some(unknown)) => plain(&format!("{}: {}", unknown.name(), unknown.why.in_words())),
            _ if state == State::Unknown => "a section was not answered".to_owned(),
            _ if counts.ok == 0 => "nothing to judge here".to_owned(),
            _ => "nothing conspicuous".to_owned(),
        };
        let mut out = format!(
            "FERNWART {} - {first} | ok={} warn={} crit={} unknown={} notes={} took={}ms\n",
            state.plugin_word(),
            counts.ok,
            counts.warn,
            counts.crit,
            counts.unknown,
            counts.notes,
            self.took_ms
        );
        for finding in self.findings.iter().chain(&self.notes) {
            // Writing into a String does not fail.
            let _ =
                writeln!(out, "{} {}: {}", finding.severity.as_str(), plain(&finding.name()), plain(&finding.cause.en));
        }
        for unknown in &self.unknown {
            let _ = writeln!(out, "unknown {}: {}", plain(&unknown.name()), plain(&unknown.why.in_words()));
        }
        out
    }

    /// One line for each check, also for checks that are well, so that no check disappears. If a
    /// check has several findings, the worst decides.
    pub fn as_local_checks(&self) -> String {
        let mut lines: Vec<(String, u8, String)> = Vec::new();
        let mut add = |id: &str, state: State, text: String| {
            match lines.iter_mut().find(|(known, ..)| known == id) {
                // The worst comes first.
                Some((.., all)) => *all += &format!("; {text}"),
                None => lines.push((id.to_owned(), state.plugin_code(), text)),
            }
        };
        let found = |finding: &Finding| match finding.severity {
            Severity::Crit => State::Crit,
            Severity::Warn => State::Warn,
            Severity::Note => State::Ok,
        };
        for finding in self.findings.iter().filter(|finding| finding.severity == Severity::Crit) {
            add(&finding.id, found(finding), plain(&finding.cause.en));
        }
        for unknown in &self.unknown {
            add(&unknown.id, State::Unknown, plain(&format!("{}: {}", unknown.name(), unknown.why.in_words())));
        }
        for finding in self.findings.iter().filter(|finding| finding.severity == Severity::Warn) {
            add(&finding.id, found(finding), plain(&finding.cause.en));
        }
        for id in self.well.iter().flatten() {
            add(id, State::Ok, "nothing conspicuous".to_owned());
        }
        for note in &self.notes {
            add(&note.id, State::Ok, plain(&note.cause.en));
        }
        lines.sort();
        // A summary line that is always present.
        let counts = self.counts();
        let all = format!("{} ok, {} warn, {} crit, {} unknown", counts.ok, counts.warn, counts.crit, counts.unknown);
        lines.insert(0, (String::new(), self.state().plugin_code(), all));
        let line = |(id, code, text): &(String, u8, String)| {
            let name = format!("Fernwart {}", plain(id).replace('"', "'"));
            format!("{code} \"{}\" - {text}\n", name.trim_end())
        };
        lines.iter().map(line).collect()
    }
}
