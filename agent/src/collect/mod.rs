//! Gathers facts on this machine. Each section has a file of its own, and none may block the
//! diagnosis.
//!
//! Each section runs on a short-lived thread until the common deadline. A section that does not
//! answer in time is reported as such, and is not started again before its thread has returned.
//! Items within a section have time limits of their own ([`budget`]). Nothing here needs more
//! rights than the agent has. The only network access is to name servers and the gateway.

pub(crate) mod budget;
pub(crate) mod bytes;
pub(crate) mod child;
pub mod counting;
pub(crate) mod memo;

use counting::Counting;
use fernwart_protocol::diagnosis::{Answer, Cause, Past, Reason, Reasons, Report, Rules, Section, judge};
use fernwart_protocol::document::SectionName;
use fernwart_protocol::limits::DIAGNOSE_BUDGET;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, mpsc};
use std::time::{Duration, Instant};

pub(crate) use bytes::{read, shown};

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
    /// The package manager's answer that a running agent already has (the platform keeps it).
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
pub(crate) fn missing(reasons: &mut Reasons, facts: &[&str], why: &Cause) {
    reasons.extend(facts.iter().map(|fact| ((*fact).to_owned(), why.clone())));
}

/// Locks a mutex, even if another thread panicked while holding it.
pub(crate) fn locked<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// Gathers the facts of one section, until this time at the latest.
pub type Gather = fn(SectionName, &Surroundings, &Counting, Instant) -> Gathered;

/// What a diagnosis is made with.
#[derive(Debug, Clone)]
pub struct Lens<'a> {
    /// Tells this boot from others; empty where that is unknown.
    pub boot: String,
    /// Seconds since boot; none where that is unknown.
    pub uptime_s: Option<u64>,
    /// How a system's facts are gathered.
    pub gather: Gather,
    /// The rules that hold.
    pub rules: &'a Rules,
}

/// Facts, or why there are none.
pub type Gathered = Result<serde_json::Value, Cause>;

pub(crate) fn facts<T: Serialize>(facts: T) -> Gathered {
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

fn unanswered(why: Cause) -> Section {
    Section { took_ms: 0, answer: Answer::Unanswered(why.in_words()), why: Some(why) }
}

/// Runs these sections, or all if none is named, and judges the results.
pub fn look(with: Lens<'_>, sections: &[SectionName], around: &Surroundings) -> Looked {
    let begun = Instant::now();
    let now = crate::now();
    let rules = with.rules;
    let all = SectionName::ALL.iter().copied();
    let wanted: BTreeSet<SectionName> =
        if sections.is_empty() { all.collect() } else { sections.iter().copied().collect() };
    let counting = Arc::new(Counting::begin(&around.past, with.boot, with.uptime_s, now));
    let gathered =
        gather_all(with.gather, &rules.needed(&wanted), around, &counting, begun + DIAGNOSE_BUDGET - JUDGING);
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
    Looked { report: Report::new(now, took_ms, sections, judged), past }
}

fn gather_all(
    gather: Gather,
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

/// The report of a machine on which no diagnosis could be started.
pub fn unable(rules: &Rules, why: &str) -> Report {
    let why = Cause::new(Reason::Unreadable, bytes::clipped(why));
    let sections: BTreeMap<_, _> = SectionName::ALL.into_iter().map(|name| (name, unanswered(why.clone()))).collect();
    let wanted = SectionName::ALL.into_iter().collect();
    let judged = judge(rules, &sections, &wanted, &Past::default(), crate::now());
    Report::new(crate::now(), 0, sections, judged)
}

/// A percentage with one decimal, to keep reports small.
pub(crate) fn pct(part: f64, total: f64) -> f64 {
    if total > 0.0 { (part / total * 1000.0).round() / 10.0 } else { 0.0 }
}
