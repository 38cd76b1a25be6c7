//! Gathering facts on this machine: one file a section, none may hang.
//!
//! Each section runs on its own short-lived thread and has until the common
//! deadline; one that does not answer in time says so in the report and is not
//! asked again before it has come back. Things within a section have budgets of
//! their own ([`budget`]). Nothing here needs more rights than the agent has, and
//! nothing a network but name servers and the gateway.

mod backups;
mod budget;
mod bytes;
mod child;
mod counting;
mod cpu;
mod disks;
mod dns;
mod kmsg;
mod logs;
mod memo;
mod memory;
pub(crate) mod mounts;
mod netlink;
mod network;
mod power;
mod printers;
mod processes;
mod security;
mod services;
mod smart;
mod sources;
mod system;
mod time;
mod updates;

use counting::Counting;
use fernwart_protocol::diagnosis::{Answer, Cause, Past, Reason, Reasons, Report, Section, builtin_rules, judge};
use fernwart_protocol::document::SectionName;
use fernwart_protocol::limits::DIAGNOSE_BUDGET;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, mpsc};
use std::time::{Duration, Instant};

pub(crate) use bytes::{read, shown};
pub(crate) use system::hostname;
pub use system::os_in_a_word;
pub use updates::known as known_updates;

/// Kept back of the whole budget for judging and packing.
const JUDGING: Duration = Duration::from_millis(200);

/// Kept back of a section's time, so that what it asks others is over before it is.
const ANSWERING: Duration = Duration::from_millis(100);

/// What the uplink and the state store know, and no section can see by itself.
#[derive(Debug, Clone, Default)]
pub struct Surroundings {
    /// Whether a link to the hub stands; none when nobody tried.
    pub hub_reachable: Option<bool>,
    /// Its round-trip time, microseconds.
    pub hub_rtt_us: Option<u32>,
    /// How far this clock lies before the hub's, milliseconds.
    pub ahead_of_hub_ms: Option<i64>,
    /// How far this clock lies behind the newest signed time, milliseconds; none
    /// where no such time is known.
    pub behind_floor_ms: Option<i64>,
    /// A name of the hub, where it is reached by a name.
    pub hub_name: Option<String>,
    /// What a running agent has heard of the package manager already ([`known_updates`]).
    pub known_updates: Option<String>,
    /// Whether whoever looks is still there for the next look.
    pub stays: bool,
    /// What is remembered of the last whole diagnosis.
    pub past: Arc<Past>,
}

/// A report, and what the next diagnosis is to remember of it.
#[derive(Debug)]
pub struct Looked {
    /// The report.
    pub report: Report,
    /// What to remember, where all was looked at.
    pub past: Option<Past>,
}

/// Says of facts that are missing why.
fn missing(reasons: &mut Reasons, facts: &[&str], why: &Cause) {
    reasons.extend(facts.iter().map(|fact| ((*fact).to_owned(), why.clone())));
}

/// What a lock guards, also after a panic beside it.
fn locked<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// Facts, or why there are none.
type Gathered = Result<serde_json::Value, Cause>;

fn facts<T: Serialize>(facts: T) -> Gathered {
    serde_json::to_value(facts).map_err(|error| Cause::new(Reason::Unreadable, error.to_string()))
}

/// Stack of a section's thread, bytes. Only what is touched is memory; reading time
/// zones takes more than a quarter of it in a debug build.
const STACK: usize = 1024 * 1024;

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
struct SectionProbe {
    section: SectionName,
    stage: Arc<Mutex<Stage>>,
}

impl Drop for SectionProbe {
    fn drop(&mut self) {
        let before = std::mem::replace(&mut *locked(&self.stage), Stage::Back);
        if before == Stage::GivenUp
            && let Some(stuck) = STUCK.get(self.section as usize)
        {
            stuck.fetch_sub(1, Ordering::AcqRel);
        }
    }
}

fn gather(section: SectionName, around: &Surroundings, counting: &Counting, until: Instant) -> Gathered {
    match section {
        SectionName::System => facts(system::facts(until)),
        SectionName::Cpu => facts(cpu::facts(counting)?),
        SectionName::Memory => facts(memory::facts(counting, until)?),
        SectionName::Disks => facts(disks::facts(counting, until)?),
        SectionName::Network => facts(network::facts(around, counting, until)),
        SectionName::Processes => facts(processes::facts(until)?),
        SectionName::Services => facts(services::facts(counting, until)),
        SectionName::Logs => facts(logs::facts(until)?),
        SectionName::Updates => facts(updates::facts(around, until)),
        SectionName::Time => facts(time::facts(around)),
        SectionName::Power => facts(power::facts()),
        SectionName::Security => facts(security::facts(until)),
    }
}

fn unanswered(why: Cause) -> Section {
    Section { took_ms: 0, answer: Answer::Unanswered(why.in_words()), why: Some(why) }
}

/// Looks at these sections, or at all if none is named, and judges them.
pub fn look(sections: &[SectionName], around: &Surroundings) -> Looked {
    let begun = Instant::now();
    let now = crate::now();
    let rules = builtin_rules();
    let all = SectionName::ALL.iter().copied();
    let wanted: BTreeSet<SectionName> =
        if sections.is_empty() { all.collect() } else { sections.iter().copied().collect() };
    let counting = Arc::new(Counting::begin(&around.past, now));
    let gathered = gather_all(&rules.needed(&wanted), around, &counting, begun + DIAGNOSE_BUDGET - JUDGING);
    let mut judged = judge(rules, &gathered, &wanted, &around.past, now);
    let is_whole = wanted.len() == SectionName::ALL.len();
    let past = is_whole.then(|| {
        let mut past = std::mem::take(&mut judged.past);
        // A section that has not come back still holds it; its counters come next time.
        if let Ok(counting) = Arc::try_unwrap(counting) {
            counting.remember(&mut past);
        }
        past
    });
    // What was only needed to judge was not asked for.
    let sections = gathered.into_iter().filter(|(section, _)| wanted.contains(section)).collect();
    let took_ms = u32::try_from(begun.elapsed().as_millis()).unwrap_or(u32::MAX);
    let looked = Looked { report: Report::new(now, took_ms, sections, judged), past };
    if around.stays {
        crate::memory::give_back();
    }
    looked
}

fn gather_all(
    sections: &BTreeSet<SectionName>,
    around: &Surroundings,
    counting: &Arc<Counting>,
    deadline: Instant,
) -> BTreeMap<SectionName, Section> {
    let (done, results) = mpsc::sync_channel::<(SectionName, Section)>(SectionName::ALL.len());
    let mut report = BTreeMap::new();
    let mut awaited: BTreeMap<SectionName, Arc<Mutex<Stage>>> = BTreeMap::new();
    for &section in sections {
        // Replaced when the section answers.
        report.insert(section, unanswered(Reason::TimedOut.into()));
        if STUCK.get(section as usize).is_some_and(|stuck| stuck.load(Ordering::Acquire) > 0) {
            report.insert(section, unanswered(Cause::new(Reason::Hangs, "since an earlier diagnosis")));
            continue;
        }
        let (done, around, counting) = (done.clone(), around.clone(), counting.clone());
        let stage = Arc::new(Mutex::new(Stage::UnderWay));
        let probe = SectionProbe { section, stage: stage.clone() };
        let job = move || {
            let _probe = probe;
            let begun = Instant::now();
            let gathered = gather(section, &around, &counting, deadline - ANSWERING);
            drop(counting);
            let took_ms = u32::try_from(begun.elapsed().as_millis()).unwrap_or(u32::MAX);
            let section_facts = match gathered {
                Ok(facts) => Section { took_ms, why: None, answer: Answer::Facts(facts) },
                Err(why) => Section { took_ms, ..unanswered(why) },
            };
            // Fails only when the look has given this section up.
            let _ = done.send((section, section_facts));
        };
        match std::thread::Builder::new().name(section.as_str().into()).stack_size(STACK).spawn(job) {
            Ok(_) => {
                awaited.insert(section, stage);
            }
            Err(error) => {
                report.insert(section, unanswered(Cause::new(Reason::Unreadable, error.to_string())));
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
    report
}

/// How long a mount may take to answer before a script is run without it.
const MOUNT_BUDGET: Duration = Duration::from_millis(800);

/// Mounts behind a program or a server that do not answer, or keep root out, with
/// why: a script that came upon one would wait for ever.
pub(crate) fn deaf_mounts() -> Vec<(PathBuf, Cause)> {
    let table = mounts::of("self").unwrap_or_default();
    let is_below = |place: &Path, other: &mounts::Mount| other.is_remote() && place.starts_with(&other.path);
    // What lies in another one goes with it.
    let outer = table.iter().filter(|mount| {
        // Of two on one place the later one is seen.
        let covers = |other: &mounts::Mount| other.path != mount.path || other.id > mount.id;
        mount.is_remote() && !table.iter().any(|other| covers(other) && is_below(&mount.path, other))
    });
    let (numbers, asked): (Vec<&str>, Vec<PathBuf>) =
        outer.map(|mount| (mount.number.as_str(), mount.path.clone())).unzip();
    let things = numbers.iter().zip(&asked);
    let things = things.map(|(number, path)| (format!("mount {number} for a script"), path.clone()));
    let until = Instant::now() + 2 * MOUNT_BUDGET;
    // What is known of its root may be remembered; its size is asked of whoever has it.
    let ask = |path: PathBuf| std::fs::metadata(&path).and_then(|_| Ok(rustix::fs::statvfs(&path).map(drop)?));
    let answers = budget::each(things.collect(), 8, MOUNT_BUDGET, until, ask);
    let deaf = |(path, answer): (PathBuf, Result<std::io::Result<()>, Reason>)| match answer {
        Ok(Ok(())) => None,
        Ok(Err(error)) => Some((path, Cause::new(Reason::NotPermitted, error.to_string()))),
        Err(reason) => Some((path, Cause::new(reason, ""))),
    };
    asked.into_iter().zip(answers).filter_map(deaf).collect()
}

/// What a question about a path says; nothing where it does not answer: a path may
/// lead into a mount that hangs.
fn of_path<R: Send + 'static>(what: &str, path: &Path, ask: fn(PathBuf) -> R) -> Option<R> {
    let things = vec![(format!("{what} {}", path.display()), path.to_owned())];
    budget::each(things, 1, MOUNT_BUDGET, Instant::now() + MOUNT_BUDGET, ask).pop()?.ok()
}

/// Where a path leads, links followed; nothing where it leads nowhere, or does not
/// answer.
pub(crate) fn real_path(path: &Path) -> Option<PathBuf> {
    of_path("path", path, |path| std::fs::canonicalize(path).ok()).flatten()
}

/// The file system that a path lies on; of what is not there, the one of its folder.
/// Nothing where it does not answer.
pub(crate) fn disk_of(path: &Path) -> Option<u64> {
    let ask = |path: PathBuf| path.ancestors().find_map(|path| Some(rustix::fs::statvfs(path).ok()?.f_fsid));
    of_path("disk of", path, ask).flatten()
}

/// A report for a machine that cannot even look.
pub fn unable(why: &str) -> Report {
    let why = Cause::new(Reason::Unreadable, bytes::clipped(why));
    let sections: BTreeMap<_, _> = SectionName::ALL.into_iter().map(|name| (name, unanswered(why.clone()))).collect();
    let wanted = SectionName::ALL.into_iter().collect();
    let judged = judge(builtin_rules(), &sections, &wanted, &Past::default(), crate::now());
    Report::new(crate::now(), 0, sections, judged)
}

/// Per cent with one decimal: more would only make reports larger.
fn pct(part: f64, whole: f64) -> f64 {
    if whole > 0.0 { (part / whole * 1000.0).round() / 10.0 } else { 0.0 }
}

/// `avg60` and `avg300` of the `kind` line of a pressure file (kernel: PSI), which
/// are the facts of these names. Some kernels are built without it.
fn pressure(what: &str, kind: &str, names: (&str, &str), why: &mut Reasons) -> (Option<f64>, Option<f64>) {
    let text = read(format!("/proc/pressure/{what}")).unwrap_or_default();
    let line = text.lines().find(|line| line.starts_with(kind)).unwrap_or_default();
    let average = |name: &str| {
        let number = line.split_whitespace().find_map(|word| word.strip_prefix(name))?;
        number.strip_prefix('=')?.parse().ok()
    };
    let found = (average("avg60"), average("avg300"));
    for (name, known) in [(names.0, found.0), (names.1, found.1)] {
        if known.is_none() && !name.is_empty() {
            why.insert(name.to_owned(), Cause::new(Reason::NotSupported, "pressure stall information"));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    #[test]
    fn a_look_answers_every_section_in_time() {
        let begun = Instant::now();
        let Looked { report, past } = look(&[], &Surroundings::default());
        assert!(begun.elapsed() <= DIAGNOSE_BUDGET + Duration::from_millis(500), "{:?}", begun.elapsed());
        assert_eq!(report.sections.len(), SectionName::ALL.len());
        for section in [SectionName::System, SectionName::Cpu, SectionName::Memory, SectionName::Disks] {
            let answer = report.sections.get(&section).map(|section| &section.answer);
            assert!(matches!(answer, Some(Answer::Facts(_))), "{section}: {answer:?}");
        }
        assert!(report.checks >= 20, "{} checks", report.checks);
        assert!(report.pack().is_ok());
        assert_ne!(past, Some(Past::default()));
    }

    #[test]
    fn only_the_sections_asked_for_are_looked_at() {
        let Looked { report, past } = look(&[SectionName::Power, SectionName::Power], &Surroundings::default());
        assert_eq!(report.sections.keys().collect::<Vec<_>>(), [&SectionName::Power]);
        assert_eq!(past, None, "a part says nothing of the whole");
        let Looked { report, .. } = look(&[SectionName::Processes], &Surroundings::default());
        assert_eq!(report.sections.len(), 1, "what is needed to judge is not told");
    }

    /// Every fact that is missing, as `section.field`, and whether a reason stands
    /// beside it.
    fn missing(path: &str, value: &Value, found: &mut Vec<(String, bool)>) {
        match value {
            Value::Object(fields) => {
                for (name, field) in fields {
                    if field.is_null() {
                        let why = fields.get("why").and_then(|why| why.get(name));
                        found.push((format!("{path}.{name}"), why.is_some()));
                    }
                    missing(&format!("{path}.{name}"), field, found);
                }
            }
            Value::Array(items) => items.iter().for_each(|item| missing(path, item, found)),
            _ => {}
        }
    }

    #[test]
    fn every_missing_fact_says_why() {
        let Looked { report, .. } = look(&[], &Surroundings::default());
        let mut found = Vec::new();
        for (name, section) in &report.sections {
            if let Answer::Facts(facts) = &section.answer {
                missing(name.as_str(), facts, &mut found);
            }
        }
        assert!(!found.is_empty(), "no machine tells everything");
        // Whose a socket is, is no check's fact.
        found.retain(|(path, has_reason)| !has_reason && !path.ends_with(".listening.process"));
        assert_eq!(found, []);
    }
}
