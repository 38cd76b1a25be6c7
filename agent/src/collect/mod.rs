//! Gathers facts on this machine. Each section has a file of its own, and none may block the
//! diagnosis.
//!
//! Each section runs on a short-lived thread until the common deadline. A section that does not
//! answer in time is reported as such, and is not started again before its thread has returned.
//! Items within a section have time limits of their own ([`budget`]). Nothing here needs more
//! rights than the agent has. The only network access is to name servers and the gateway.

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

/// Time reserved for judging and packing.
const JUDGING: Duration = Duration::from_millis(200);

/// Time reserved at the end of a section, so that its own queries end before it does.
const ANSWERING: Duration = Duration::from_millis(100);

/// What the uplink and the state store know and no section can find out.
#[derive(Debug, Clone, Default)]
pub struct Surroundings {
    /// Whether there is a link to the hub; none if nobody tried.
    pub hub_reachable: Option<bool>,
    /// Its round-trip time, microseconds.
    pub hub_rtt_us: Option<u32>,
    /// How far this clock is ahead of the hub's, milliseconds.
    pub ahead_of_hub_ms: Option<i64>,
    /// How far this clock is behind the newest signed time, milliseconds; none if no such time is
    /// known.
    pub behind_floor_ms: Option<i64>,
    /// A DNS name of the hub, if it has one.
    pub hub_name: Option<String>,
    /// The package manager's answer that a running agent already has ([`known_updates`]).
    pub known_updates: Option<String>,
    /// Whether this process keeps running after the look.
    pub stays: bool,
    /// What is remembered of the last complete diagnosis.
    pub past: Arc<Past>,
}

/// A report, and what the next diagnosis is to remember.
#[derive(Debug)]
pub struct Looked {
    /// The report.
    pub report: Report,
    /// What to remember; only after a complete diagnosis.
    pub past: Option<Past>,
}

/// Records why these facts are missing.
fn missing(reasons: &mut Reasons, facts: &[&str], why: &Cause) {
    reasons.extend(facts.iter().map(|fact| ((*fact).to_owned(), why.clone())));
}

/// Locks a mutex, even if another thread panicked while holding it.
fn locked<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// Facts, or why there are none.
type Gathered = Result<serde_json::Value, Cause>;

fn facts<T: Serialize>(facts: T) -> Gathered {
    serde_json::to_value(facts).map_err(|error| Cause::new(Reason::Unreadable, error.to_string()))
}

/// Stack size of a section's thread, bytes. Only touched pages use memory; reading time zones
/// takes more than a quarter of it in a debug build.
const STACK: usize = 1024 * 1024;

/// For each section, the number of threads that were given up and have not returned.
static STUCK: [AtomicUsize; SectionName::ALL.len()] = [const { AtomicUsize::new(0) }; SectionName::ALL.len()];

/// The state of one section's thread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    UnderWay,
    GivenUp,
    Back,
}

/// Tracks one section's thread. When it is dropped, also by a panic, the thread has returned and
/// is no longer counted as stuck.
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

/// Runs these sections, or all if none is named, and judges the results.
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
    let is_of_all_sections = wanted.len() == SectionName::ALL.len();
    let past = is_of_all_sections.then(|| {
        let mut past = std::mem::take(&mut judged.past);
        // A stuck section still holds the counters; they are remembered next time.
        if let Ok(counting) = Arc::try_unwrap(counting) {
            counting.remember(&mut past);
        }
        past
    });
    // Leave out sections that were needed only for judging.
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
            // Fails only if this section was given up.
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
        // It may have returned at the last moment.
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

/// Remote and FUSE mounts that do not answer or deny access to root, with the reason. A script
/// that touched one could hang.
pub(crate) fn deaf_mounts() -> Vec<(PathBuf, Cause)> {
    let table = mounts::of("self").unwrap_or_default();
    let is_below = |place: &Path, other: &mounts::Mount| other.is_remote() && place.starts_with(&other.path);
    // A mount inside another one is detached together with it.
    let outer = table.iter().filter(|mount| {
        // Of two mounts on one path the later one is visible.
        let covers = |other: &mounts::Mount| other.path != mount.path || other.id > mount.id;
        mount.is_remote() && !table.iter().any(|other| covers(other) && is_below(&mount.path, other))
    });
    let (numbers, asked): (Vec<&str>, Vec<PathBuf>) =
        outer.map(|mount| (mount.number.as_str(), mount.path.clone())).unzip();
    let things = numbers.iter().zip(&asked);
    let things = things.map(|(number, path)| (format!("mount {number} for a script"), path.clone()));
    let until = Instant::now() + 2 * MOUNT_BUDGET;
    // Metadata of its root may be cached; its size must be asked from the server.
    let ask = |path: PathBuf| std::fs::metadata(&path).and_then(|_| Ok(rustix::fs::statvfs(&path).map(drop)?));
    let answers = budget::each(things.collect(), 8, MOUNT_BUDGET, until, ask);
    let deaf = |(path, answer): (PathBuf, Result<std::io::Result<()>, Reason>)| match answer {
        Ok(Ok(())) => None,
        Ok(Err(error)) => Some((path, Cause::new(Reason::NotPermitted, error.to_string()))),
        Err(reason) => Some((path, Cause::new(reason, ""))),
    };
    asked.into_iter().zip(answers).filter_map(deaf).collect()
}

/// The answer to a question about a path. None if it does not answer in time: the path may be on
/// a mount that hangs.
fn of_path<R: Send + 'static>(what: &str, path: &Path, ask: fn(PathBuf) -> R) -> Option<R> {
    let things = vec![(format!("{what} {}", path.display()), path.to_owned())];
    budget::each(things, 1, MOUNT_BUDGET, Instant::now() + MOUNT_BUDGET, ask).pop()?.ok()
}

/// The path with links resolved. None if it does not exist or does not answer.
pub(crate) fn real_path(path: &Path) -> Option<PathBuf> {
    of_path("path", path, |path| std::fs::canonicalize(path).ok()).flatten()
}

/// The file system id of a path; if it does not exist, that of its folder. None if it does not
/// answer.
pub(crate) fn disk_of(path: &Path) -> Option<u64> {
    let ask = |path: PathBuf| path.ancestors().find_map(|path| Some(rustix::fs::statvfs(path).ok()?.f_fsid));
    of_path("disk of", path, ask).flatten()
}

/// The report of a machine on which no diagnosis could be started.
pub fn unable(why: &str) -> Report {
    let why = Cause::new(Reason::Unreadable, bytes::clipped(why));
    let sections: BTreeMap<_, _> = SectionName::ALL.into_iter().map(|name| (name, unanswered(why.clone()))).collect();
    let wanted = SectionName::ALL.into_iter().collect();
    let judged = judge(builtin_rules(), &sections, &wanted, &Past::default(), crate::now());
    Report::new(crate::now(), 0, sections, judged)
}

/// A percentage with one decimal, to keep reports small.
fn pct(part: f64, total: f64) -> f64 {
    if total > 0.0 { (part / total * 1000.0).round() / 10.0 } else { 0.0 }
}

/// `avg60` and `avg300` of the `kind` line of a pressure file (kernel: PSI). `names` are the
/// facts they are stored in. Some kernels are built without PSI.
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
    fn a_diagnosis_answers_every_section_in_time() {
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
    fn only_the_requested_sections_are_reported() {
        let Looked { report, past } = look(&[SectionName::Power, SectionName::Power], &Surroundings::default());
        assert_eq!(report.sections.keys().collect::<Vec<_>>(), [&SectionName::Power]);
        assert_eq!(past, None, "a part says nothing of the whole");
        let Looked { report, .. } = look(&[SectionName::Processes], &Surroundings::default());
        assert_eq!(report.sections.len(), 1, "what is needed to judge is not told");
    }

    /// Lists every missing fact as `section.field`, and whether it has a reason.
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
    fn every_missing_fact_has_a_reason() {
        let Looked { report, .. } = look(&[], &Surroundings::default());
        let mut found = Vec::new();
        for (name, section) in &report.sections {
            if let Answer::Facts(facts) = &section.answer {
                missing(name.as_str(), facts, &mut found);
            }
        }
        assert!(!found.is_empty(), "no machine tells everything");
        // The process of a socket is used by no check, so it needs no reason.
        found.retain(|(path, has_reason)| !has_reason && !path.ends_with(".listening.process"));
        assert_eq!(found, []);
    }
}
