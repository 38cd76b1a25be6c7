//! Gathering facts on this machine: one file a section, none may hang.
//!
//! Each section runs on its own short-lived thread and has until the common
//! deadline; one that does not answer in time says so in the report and is not
//! asked again before it has come back. Nothing here needs a network or more
//! rights than the agent has.

mod child;
mod cpu;
mod disks;
mod logs;
mod memory;
mod network;
mod power;
mod processes;
mod security;
mod services;
mod system;
mod time;
mod updates;

use fernwart_protocol::diagnosis::{Answer, Report, Section, builtin_rules, judge};
use fernwart_protocol::document::SectionName;
use fernwart_protocol::limits::DIAGNOSE_BUDGET;
use fernwart_protocol::text::Text;
use serde::Serialize;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, mpsc};
use std::time::{Duration, Instant};

pub use system::os_in_a_word;

/// Kept back of the whole budget for judging and packing.
const JUDGING: Duration = Duration::from_millis(200);

/// What the uplink and the books know, and no section can see by itself.
#[derive(Debug, Clone, Copy, Default)]
pub struct Surroundings {
    /// Whether a link to the hub stands; none when nobody tried.
    pub hub_reachable: Option<bool>,
    /// Its round-trip time, microseconds.
    pub hub_rtt_us: Option<u32>,
    /// How far this clock lies before the hub's, milliseconds.
    pub ahead_of_hub_ms: Option<i64>,
    /// How far this clock lies behind the newest signed time, milliseconds.
    pub behind_floor_ms: i64,
    /// Whether whoever looks is still there for the next look.
    pub stays: bool,
}

/// Facts, or why there are none.
type Gathered = Result<serde_json::Value, String>;

fn facts<T: Serialize>(facts: T) -> Gathered {
    serde_json::to_value(facts).map_err(|error| error.to_string())
}

/// How many looks at each section were given up and have not come back.
static STUCK: [AtomicUsize; SectionName::ALL.len()] = [const { AtomicUsize::new(0) }; SectionName::ALL.len()];

/// How far one look at one section has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    UnderWay,
    GivenUp,
    Back,
}

/// One look at one section: whoever is later, the end of the look or its
/// deadline, finds what the other has left. Also when the look panics.
struct Errand {
    section: SectionName,
    stage: Arc<Mutex<Stage>>,
}

fn locked(stage: &Mutex<Stage>) -> MutexGuard<'_, Stage> {
    stage.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

impl Drop for Errand {
    fn drop(&mut self) {
        let before = std::mem::replace(&mut *locked(&self.stage), Stage::Back);
        if before == Stage::GivenUp
            && let Some(stuck) = STUCK.get(self.section as usize)
        {
            stuck.fetch_sub(1, Ordering::AcqRel);
        }
    }
}

fn gather(section: SectionName, around: &Surroundings, deadline: Instant) -> Gathered {
    match section {
        SectionName::System => facts(system::facts()),
        SectionName::Cpu => facts(cpu::facts()?),
        SectionName::Memory => facts(memory::facts()?),
        SectionName::Disks => facts(disks::facts(deadline)?),
        SectionName::Network => facts(network::facts(around, deadline)),
        SectionName::Processes => facts(processes::facts()?),
        SectionName::Services => facts(services::facts(deadline)?),
        SectionName::Logs => facts(logs::facts(deadline)?),
        SectionName::Updates => facts(updates::facts(around, deadline)?),
        SectionName::Time => facts(time::facts(around, deadline)),
        SectionName::Power => facts(power::facts()),
        SectionName::Security => facts(security::facts(deadline)?),
    }
}

/// Looks at these sections, or at all if none is named, and judges them.
pub fn look(sections: &[SectionName], around: &Surroundings) -> Report {
    let begun = Instant::now();
    let deadline = begun + DIAGNOSE_BUDGET - JUDGING;
    let wanted = if sections.is_empty() { SectionName::ALL.as_slice() } else { sections };
    let (done, results) = mpsc::sync_channel::<(SectionName, Section)>(SectionName::ALL.len());
    let mut report = BTreeMap::new();
    let mut awaited: BTreeMap<SectionName, Arc<Mutex<Stage>>> = BTreeMap::new();
    for &section in wanted {
        if report.contains_key(&section) {
            continue;
        }
        let unanswered = |why: &str| Section { took_ms: 0, answer: Answer::Unanswered(why.to_owned()) };
        // Replaced when the section answers.
        report.insert(section, unanswered("it took longer than the diagnosis may take"));
        if STUCK.get(section as usize).is_some_and(|stuck| stuck.load(Ordering::Acquire) > 0) {
            report.insert(section, unanswered("the last look at it still hangs; a restart of the computer may help"));
            continue;
        }
        let (done, around) = (done.clone(), *around);
        let stage = Arc::new(Mutex::new(Stage::UnderWay));
        let errand = Errand { section, stage: stage.clone() };
        let job = move || {
            let _errand = errand;
            let begun = Instant::now();
            let answer = match gather(section, &around, deadline) {
                Ok(facts) => Answer::Facts(facts),
                Err(why) => Answer::Unanswered(why),
            };
            let took_ms = u32::try_from(begun.elapsed().as_millis()).unwrap_or(u32::MAX);
            // Fails only when the look has given this section up.
            let _ = done.send((section, Section { took_ms, answer }));
        };
        match std::thread::Builder::new().name(section.as_str().into()).stack_size(256 * 1024).spawn(job) {
            Ok(_) => {
                awaited.insert(section, stage);
            }
            Err(error) => {
                report.insert(section, unanswered(&error.to_string()));
            }
        }
    }
    drop(done);
    while !awaited.is_empty() {
        match results.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok((section, answer)) => {
                report.insert(section, answer);
                awaited.remove(&section);
            }
            Err(_) => break,
        }
    }
    for (section, stage) in awaited {
        // It may have come back meanwhile.
        let mut stage = locked(&stage);
        if *stage == Stage::UnderWay
            && let Some(stuck) = STUCK.get(section as usize)
        {
            *stage = Stage::GivenUp;
            stuck.fetch_add(1, Ordering::AcqRel);
        }
    }
    let judgement = judge(&builtin_rules(), &report);
    Report {
        v: 1,
        taken_at: crate::now(),
        took_ms: u32::try_from(begun.elapsed().as_millis()).unwrap_or(u32::MAX),
        sections: report,
        checks: judgement.checks,
        findings: judgement.findings,
    }
}

/// A report for a machine that cannot even look.
pub fn unable(why: &str) -> Report {
    let unanswered = |section| (section, Section { took_ms: 0, answer: Answer::Unanswered(why.to_owned()) });
    Report {
        v: 1,
        taken_at: crate::now(),
        took_ms: 0,
        sections: SectionName::ALL.into_iter().map(unanswered).collect(),
        checks: 0,
        findings: Vec::new(),
    }
}

fn read(path: &str) -> Option<String> {
    std::fs::read_to_string(path).ok()
}

fn clipped(text: &str) -> String {
    Text::<200>::clipped(text.trim()).as_raw().to_owned()
}

/// Per cent with one decimal: more would only make reports larger.
fn pct(part: f64, whole: f64) -> f64 {
    if whole > 0.0 { (part / whole * 1000.0).round() / 10.0 } else { 0.0 }
}

/// `avg60` of the `kind` line of a pressure file (kernel: PSI).
fn pressure(file: &str, kind: &str) -> Option<f64> {
    let text = read(file)?;
    let line = text.lines().find(|line| line.starts_with(kind))?;
    line.split_whitespace().find_map(|word| word.strip_prefix("avg60=")).and_then(|number| number.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_look_answers_every_section_in_time() {
        let begun = Instant::now();
        let report = look(&[], &Surroundings::default());
        assert!(begun.elapsed() <= DIAGNOSE_BUDGET + Duration::from_millis(500), "{:?}", begun.elapsed());
        assert_eq!(report.sections.len(), SectionName::ALL.len());
        for section in [SectionName::System, SectionName::Cpu, SectionName::Memory, SectionName::Disks] {
            let answer = report.sections.get(&section).map(|section| &section.answer);
            assert!(matches!(answer, Some(Answer::Facts(_))), "{section}: {answer:?}");
        }
        assert!(report.checks >= 20, "{} checks", report.checks);
        assert!(report.pack().is_ok());
    }

    #[test]
    fn only_the_sections_asked_for_are_looked_at() {
        let report = look(&[SectionName::Power, SectionName::Power], &Surroundings::default());
        assert_eq!(report.sections.keys().collect::<Vec<_>>(), [&SectionName::Power]);
    }
}
