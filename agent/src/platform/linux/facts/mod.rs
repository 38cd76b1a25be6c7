//! Facts on a Linux machine: one file a section.
//!
//! Nothing here needs more rights than the agent has, and nothing uses a network but to
//! probe name servers and the gateway.

mod backups;
mod cpu;
mod disks;
mod dns;
mod kmsg;
mod logs;
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
mod units;
mod updates;

pub(crate) use system::hostname;
pub use system::os_in_a_word;
pub use updates::known as known_updates;

use crate::collect::counting::Counting;
use crate::collect::{Gathered, Lens, Surroundings, facts, read};
use crate::platform::linux::clock;
use fernwart_protocol::diagnosis::{Cause, Reason, Reasons, Rules};
use fernwart_protocol::document::SectionName;
use std::time::Instant;

/// How this system is diagnosed, by these rules.
pub fn lens(rules: &Rules) -> Lens<'_> {
    let uptime_s = clock::known_since_boot_ms().map(|ms| ms / 1000);
    Lens { boot: clock::boot_text(), uptime_s, gather, rules }
}

/// Gathers one section, until this time at the latest.
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

/// `avg60` and `avg300` of the `kind` line of a pressure file (kernel: PSI). `names` are the
/// facts they are stored in. Some kernels are built without PSI.
pub(crate) fn pressure(what: &str, kind: &str, names: (&str, &str), why: &mut Reasons) -> (Option<f64>, Option<f64>) {
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
    use crate::collect::{Looked, look};
    use fernwart_certs::catalogue::rules_in_force;
    use fernwart_protocol::diagnosis::{Answer, Past};
    use fernwart_protocol::limits::DIAGNOSE_BUDGET;
    use serde_json::Value;
    use std::time::Duration;

    #[test]
    fn a_diagnosis_answers_every_section_in_time() {
        let begun = Instant::now();
        let Looked { report, past } = look(lens(&rules_in_force(None)), &[], &Surroundings::default());
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
        let Looked { report, past } =
            look(lens(&rules_in_force(None)), &[SectionName::Power, SectionName::Power], &Surroundings::default());
        assert_eq!(report.sections.keys().collect::<Vec<_>>(), [&SectionName::Power]);
        assert_eq!(past, None, "a part says nothing of the whole");
        let Looked { report, .. } =
            look(lens(&rules_in_force(None)), &[SectionName::Processes], &Surroundings::default());
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
        let Looked { report, .. } = look(lens(&rules_in_force(None)), &[], &Surroundings::default());
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
