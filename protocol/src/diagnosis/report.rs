//! The result of a diagnosis: sections of facts, and findings.
//!
//! It travels and is stored as JSON compressed with zstd. Its receipt hashes exactly those bytes.

use super::finding::{Finding, Severity, State, Unknown};
use super::judgement::Judgement;
use super::reason::{Cause, Reason};
use crate::document::{SectionName, UnixMs};
use crate::limits::{REPORT_BYTES, REPORT_PLAIN_BYTES};
use memchr::{memchr, memchr2, memchr3};
use serde::de::{DeserializeOwned, IgnoredAny};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// zstd level: 3 compresses a report of 40 KiB in a third of a millisecond.
const LEVEL: i32 = 3;

/// One diagnosis of one machine.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Version of this shape; it only grows.
    pub v: u32,
    /// When it was taken, by the machine's clock.
    pub taken_at: UnixMs,
    /// How long it took.
    pub took_ms: u32,
    /// The facts, by section.
    pub sections: BTreeMap<SectionName, Section>,
    /// How many checks were decided; before 0.3.0, how many rules were evaluated.
    pub checks: u32,
    /// The decided checks that found nothing, by name; `None` before 0.3.0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub well: Option<Vec<String>>,
    /// Faults, worst first.
    pub findings: Vec<Finding>,
    /// Notes: worth knowing, but no fault; includes blind spots.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<Finding>,
    /// Checks that should have an answer and have none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unknown: Vec<Unknown>,
    /// Rules that have nothing to judge here.
    #[serde(default)]
    pub not_applicable: u32,
    /// Rules that have no answer yet, by name: a slow program is still running, and a later
    /// diagnosis has its result.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub not_yet: Vec<String>,
    /// How many findings of a rule were left out, by rule.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub left_out: BTreeMap<String, u32>,
}

/// One section.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Section {
    /// How long it took.
    pub took_ms: u32,
    /// Why it is unanswered, from the closed list; `None` before 0.3.0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<Cause>,
    /// Its facts, or why there are none.
    #[serde(flatten)]
    pub answer: Answer,
}

/// How many checks had which result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counts {
    /// Found nothing.
    pub ok: usize,
    /// Found something critical.
    pub crit: usize,
    /// Found something that somebody should look at.
    pub warn: usize,
    /// Should have an answer and have none.
    pub unknown: usize,
    /// Notes, which are no checks.
    pub notes: usize,
}

impl Counts {
    /// All checks that apply.
    pub fn all(&self) -> usize {
        self.ok + self.crit + self.warn + self.unknown
    }
}

/// Facts, or why there are none.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// Facts as in [`super::facts`].
    Facts(Value),
    /// Why the section could not be answered.
    Unanswered(String),
}

/// A report could not be packed or unpacked.
#[derive(Debug, thiserror::Error)]
pub enum PackError {
    /// Larger than allowed.
    #[error("a report of more than {REPORT_BYTES} bytes packed or {REPORT_PLAIN_BYTES} unpacked")]
    TooLarge,
    /// Not zstd.
    #[error("unpacking a report")]
    Zstd(#[source] std::io::Error),
    /// Not a report.
    #[error("reading a report")]
    Json(#[source] serde_json::Error),
}

impl Report {
    /// A report of what was gathered and judged.
    pub fn new(taken_at: UnixMs, took_ms: u32, sections: BTreeMap<SectionName, Section>, judged: Judgement) -> Self {
        let Judgement { checks, well, findings, notes, unknown, not_applicable, not_yet, left_out, past: _ } = judged;
        let well = Some(well);
        Self {
            v: 1,
            taken_at,
            took_ms,
            sections,
            checks,
            well,
            findings,
            notes,
            unknown,
            not_applicable,
            not_yet,
            left_out,
        }
    }

    /// Encodes it for travel.
    ///
    /// # Errors
    /// When it is too large.
    pub fn pack(&self) -> Result<Vec<u8>, PackError> {
        let json = serde_json::to_vec(self).map_err(PackError::Json)?;
        if json.len() > REPORT_PLAIN_BYTES {
            return Err(PackError::TooLarge);
        }
        let packed = zstd::bulk::compress(&json, LEVEL).map_err(PackError::Zstd)?;
        if packed.len() > REPORT_BYTES { Err(PackError::TooLarge) } else { Ok(packed) }
    }

    /// Decodes what [`Report::pack`] made; never decompresses more than [`REPORT_PLAIN_BYTES`].
    ///
    /// # Errors
    /// When it is too large or no report.
    pub fn unpack(packed: &[u8]) -> Result<Self, PackError> {
        serde_json::from_slice(&plain(packed)?).map_err(PackError::Json)
    }

    /// The facts of one section, if they were answered and fit the type.
    pub fn facts<T: DeserializeOwned>(&self, section: SectionName) -> Option<T> {
        match &self.sections.get(&section)?.answer {
            Answer::Facts(facts) => T::deserialize(facts).ok(),
            Answer::Unanswered(_) => None,
        }
    }

    /// The worst finding's severity.
    pub fn worst(&self) -> Option<Severity> {
        worst(&self.findings)
    }

    /// The overall state. A section without an answer counts as lost.
    pub fn state(&self) -> State {
        let silent = self.sections.values().any(|section| matches!(section.answer, Answer::Unanswered(_)));
        State::of(self.worst(), silent || !self.unknown.is_empty())
    }

    /// Whether something is critical, or unknown and possibly critical.
    pub fn could_be_critical(&self) -> bool {
        could_be_critical(&self.findings, &self.unknown)
    }

    /// How many checks were decided, by result. A report from before 0.3.0 does not show which
    /// rules had nothing to judge.
    pub fn counts(&self) -> Counts {
        let rules = |of: &mut dyn Iterator<Item = &str>| of.collect::<BTreeSet<_>>().len();
        let with =
            |severity| rules(&mut self.findings.iter().filter(|f| f.severity == severity).map(|f| f.id.as_str()));
        let crit = with(Severity::Crit);
        let found = rules(&mut self.findings.iter().map(|f| f.id.as_str()));
        let ok = match &self.well {
            Some(well) => well.len(),
            None => usize::try_from(self.checks).unwrap_or_default().saturating_sub(found),
        };
        let is_found = |id: &str| self.findings.iter().any(|finding| finding.id == id);
        let unknown = rules(&mut self.unknown.iter().map(|u| u.id.as_str()).filter(|id| !is_found(id)));
        // A rule with findings of both severities counts as the worse.
        Counts { ok, crit, warn: found - crit.min(found), unknown, notes: self.notes.len() }
    }

    /// Whether a slow program was still running when the look ended.
    pub fn still_asks(&self) -> bool {
        let facts = self.sections.values().filter_map(|section| match &section.answer {
            Answer::Facts(facts) => facts.get("why")?.as_object(),
            Answer::Unanswered(_) => None,
        });
        let word = Reason::StillAsked.as_str();
        facts.flat_map(|why| why.values()).filter_map(Value::as_str).any(|why| why.starts_with(word))
    }

    /// Whether a note lists this check as blind here.
    pub fn is_blind(&self, id: &str) -> bool {
        let is_blind = |note: &Finding| {
            let checks = note.evidence.get("checks").and_then(Value::as_array);
            checks.is_some_and(|checks| checks.iter().any(|check| check == id))
        };
        self.notes.iter().any(is_blind)
    }
}

fn worst(findings: &[Finding]) -> Option<Severity> {
    findings.iter().map(|finding| finding.severity).max()
}

fn could_be_critical(findings: &[Finding], unknown: &[Unknown]) -> bool {
    worst(findings) == Some(Severity::Crit)
        || findings.iter().any(|finding| finding.worse_unknown)
        || unknown.iter().any(|unknown| unknown.could_be == Severity::Crit)
}

fn plain(packed: &[u8]) -> Result<Vec<u8>, PackError> {
    if packed.len() > REPORT_BYTES {
        return Err(PackError::TooLarge);
    }
    crate::unpack::unpack(packed).map_err(|error| match error.kind() {
        std::io::ErrorKind::FileTooLarge => PackError::TooLarge,
        _ => PackError::Zstd(error),
    })
}

/// Maximum nesting of objects and lists: what common JSON parsers accept.
const DEPTH: u32 = 100;

/// Whether other programs can parse it: serde does not limit the depth of values that it skips.
/// This jumps from quote to quote, since most of a report is text.
fn is_shallow(json: &[u8]) -> bool {
    let mut depth = 0_u32;
    let mut rest = json;
    loop {
        let (outside, quoted) = rest.split_at(memchr(b'"', rest).unwrap_or(rest.len()));
        for byte in outside {
            match byte {
                b'{' | b'[' => depth += 1,
                b'}' | b']' => depth = depth.saturating_sub(1),
                _ => {}
            }
            if depth > DEPTH {
                return false;
            }
        }
        // An unterminated text is no JSON; the parser reports that.
        let Some(after) = quoted.get(1..).and_then(after_text) else { return true };
        rest = after;
    }
}

/// The rest after a text's closing quote.
fn after_text(mut text: &[u8]) -> Option<&[u8]> {
    loop {
        let at = memchr2(b'"', b'\\', text)?;
        match text.get(at) {
            Some(b'"') => return text.get(at + 1..),
            _ => text = text.get(at + 2..)?,
        }
    }
}

/// A report without its facts: reading it takes a tenth of the work.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Summary {
    /// When it was taken, by the machine's clock.
    pub taken_at: UnixMs,
    /// How long it took.
    pub took_ms: u32,
    /// How many checks were decided.
    pub checks: u32,
    /// The decided checks that found nothing; `None` before 0.3.0.
    #[serde(default)]
    pub well: Option<Vec<IgnoredAny>>,
    /// Faults, worst first.
    pub findings: Vec<Finding>,
    /// Notes: worth knowing, but no fault.
    #[serde(default)]
    pub notes: Vec<Finding>,
    /// Checks that should have an answer and have none.
    #[serde(default)]
    pub unknown: Vec<Unknown>,
    /// Checks that have no answer yet.
    #[serde(default)]
    pub not_yet: Vec<String>,
    sections: BTreeMap<SectionName, Head>,
}

/// Whether a section was answered; its facts must be JSON, but are skipped.
#[derive(Debug, Clone, PartialEq, Deserialize)]
struct Head {
    #[serde(default)]
    unanswered: Option<IgnoredAny>,
}

impl Summary {
    /// Decodes a packed report. Also returns the complete report as JSON on one line.
    ///
    /// # Errors
    /// When it is too large or no report.
    pub fn unpack(packed: &[u8]) -> Result<(Self, String), PackError> {
        let mut json = String::from_utf8(plain(packed)?)
            .map_err(|error| PackError::Json(<serde_json::Error as serde::de::Error>::custom(error)))?;
        if !is_shallow(json.as_bytes()) {
            return Err(PackError::Json(<serde_json::Error as serde::de::Error>::custom("nested too deeply")));
        }
        let summary = serde_json::from_str(&json).map_err(PackError::Json)?;
        // JSON has no such characters inside strings; outside they are only whitespace.
        if memchr3(b'\n', b'\r', b'\t', json.as_bytes()).is_some() {
            json = json.replace(['\n', '\r', '\t'], " ");
        }
        Ok((summary, json))
    }

    /// Sections that could not be gathered.
    pub fn unanswered(&self) -> impl Iterator<Item = SectionName> {
        self.sections.iter().filter(|(_, head)| head.unanswered.is_some()).map(|(name, _)| *name)
    }

    /// Whether all sections were requested, answered or not.
    pub fn covers_all_sections(&self) -> bool {
        self.sections.len() == SectionName::ALL.len()
    }

    /// The worst finding's severity.
    pub fn worst(&self) -> Option<Severity> {
        worst(&self.findings)
    }

    /// The overall state. A section without an answer counts as lost.
    pub fn state(&self) -> State {
        State::of(self.worst(), !self.is_complete())
    }

    /// Whether nothing at all is known. A machine on which no check applies does not count.
    pub fn is_nothing_known(&self) -> bool {
        self.checks == 0 && !self.is_complete()
    }

    /// Whether everything that was requested has an answer.
    pub fn is_complete(&self) -> bool {
        self.unanswered().next().is_none() && self.unknown.is_empty()
    }

    /// Whether it is complete, and no slow program is still running.
    pub fn is_finished(&self) -> bool {
        self.is_complete() && self.not_yet.is_empty()
    }

    /// Whether something is critical, or unknown and possibly critical.
    pub fn could_be_critical(&self) -> bool {
        // A report from before 0.3.0 only shows unanswered sections, not unknown checks.
        could_be_critical(&self.findings, &self.unknown) || (self.well.is_none() && self.unanswered().next().is_some())
    }

    /// What is lost, in a few words; `None` if nothing is.
    pub fn lost_in_words(&self) -> Option<String> {
        let section = self.unanswered().next().map(|section| format!("{section}: not answered"));
        let check = || {
            let unknown = self.unknown.first()?;
            Some(format!("{}: {}", unknown.name(), unknown.why.reason.in_words()))
        };
        section.or_else(check)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(filler: usize) -> Report {
        let facts = serde_json::json!({"os": "debian-12", "filler": "x".repeat(filler)});
        let section = Section { took_ms: 1, why: None, answer: Answer::Facts(facts) };
        Report::new(5, 6, BTreeMap::from([(SectionName::System, section)]), Judgement::default())
    }

    #[test]
    fn a_report_is_the_same_after_packing_and_unpacking() {
        let packed = report(10).pack().unwrap_or_default();
        assert_eq!(Report::unpack(&packed).ok(), Some(report(10)));
    }

    #[test]
    fn a_summary_agrees_with_its_report_and_rejects_anything_else() {
        let packed = report(10).pack().unwrap_or_default();
        let (summary, json) = Summary::unpack(&packed).expect("a report");
        assert_eq!((summary.taken_at, summary.checks, summary.covers_all_sections()), (5, 0, false));
        assert_eq!(summary.unanswered().count(), 0);
        let mut silent = report(10);
        let silence = Section { took_ms: 1, why: None, answer: Answer::Unanswered("no".into()) };
        silent.sections.insert(SectionName::Updates, silence);
        let (summary, _) = Summary::unpack(&silent.pack().unwrap_or_default()).expect("a report");
        assert_eq!(summary.unanswered().collect::<Vec<_>>(), [SectionName::Updates]);
        assert_eq!(serde_json::from_str::<Report>(&json).ok(), Some(report(10)));
        for bad in ["{}", "{\"v\":1", "null"] {
            let packed = zstd::bulk::compress(bad.as_bytes(), 1).unwrap_or_default();
            assert!(Summary::unpack(&packed).is_err(), "{bad}");
        }
        let deep = json.replace("\"os\":", &format!("\"deep\":{}{},\"os\":", "[".repeat(200), "]".repeat(200)));
        let packed = zstd::bulk::compress(deep.as_bytes(), 1).unwrap_or_default();
        assert!(deep != json && Summary::unpack(&packed).is_err(), "nobody could read it on");
        let spread = json.replace(':', "\n:\t");
        let packed = zstd::bulk::compress(spread.as_bytes(), 1).unwrap_or_default();
        assert!(!Summary::unpack(&packed).expect("a report").1.contains(['\n', '\t']));
    }

    #[test]
    fn brackets_inside_a_text_do_not_count_as_nesting() {
        let (open, close) = ("[".repeat(101), "]".repeat(101));
        for text in [open.clone(), format!("\\\"{open}"), format!("\\\\\\\"{open}")] {
            assert!(is_shallow(format!("[\"{text}\"]").as_bytes()), "{text}");
            assert!(!is_shallow(format!("[\"{close}\",{open}").as_bytes()), "a text takes nothing back");
        }
        assert!(!is_shallow(format!("[\"\\\\\",{open}{close}]").as_bytes()), "the text ends after its backslash");
        let (open, close) = ("[".repeat(100), "]".repeat(100));
        assert!(is_shallow(format!("{open}\"{open}\"{close}").as_bytes()));
        for unfinished in ["\"", "[\"\\", "", "[\"a\\\""] {
            assert!(is_shallow(unfinished.as_bytes()), "{unfinished}");
        }
    }

    #[test]
    fn a_report_that_decompresses_to_too_much_is_rejected_early() {
        assert!(matches!(report(REPORT_PLAIN_BYTES).pack(), Err(PackError::TooLarge)));
        let bomb = zstd::bulk::compress(&vec![b' '; 64 << 20], 19).unwrap_or_default();
        assert!(bomb.len() < 16 * 1024, "a bomb must be small: {}", bomb.len());
        assert!(matches!(Report::unpack(&bomb), Err(PackError::TooLarge)));
    }
}
