//! The facts that simulated machines report: this computer is diagnosed once, and the result is varied.
//! Packed reports are 8 to 30 KiB, like those of real machines with a few hundred processes and logs.

use super::chance::Chance;
use fernwart_agent::collect::{self, Surroundings};
use fernwart_agent::platform::facts::lens;
use fernwart_certs::catalogue::rules_in_force;
use fernwart_protocol::diagnosis::{Answer, Past, Report, judge};
use fernwart_protocol::document::SectionName;
use serde_json::Value;
use std::collections::BTreeMap;

/// Number of different simulated computers.
const KINDS: u64 = 64;

/// Reports to choose from, packed.
pub struct Facts(Vec<Kind>);

/// Packed reports of one computer: all sections together, and each section alone.
struct Kind {
    complete: Vec<u8>,
    alone: BTreeMap<SectionName, Vec<u8>>,
}

impl Facts {
    /// Diagnoses this computer once and varies the result.
    ///
    /// # Panics
    /// When a report cannot be packed.
    pub fn record() -> Self {
        let around = Surroundings { stays: true, ..Surroundings::default() };
        let rules = rules_in_force(None);
        let seen = collect::look(lens(&rules), &[], &around).report;
        let kind = |kind| {
            let report = varied(&seen, &mut Chance::new(kind));
            let alone = report.sections.iter().map(|(name, section)| {
                let sections = BTreeMap::from([(*name, section.clone())]);
                let judged = judge(&rules, &sections, &[*name].into(), &Past::default(), report.taken_at);
                let report = Report::new(report.taken_at, report.took_ms, sections, judged);
                (*name, report.pack().expect("packed"))
            });
            Kind { complete: report.pack().expect("packed"), alone: alone.collect() }
        };
        Self((0..KINDS).map(kind).collect())
    }

    /// Average size of a complete packed report, in bytes.
    pub fn packed_bytes(&self) -> usize {
        self.0.iter().map(|kind| kind.complete.len()).sum::<usize>() / self.0.len().max(1)
    }

    /// The report of the machine with this seed: of the first named section, or of all sections if none is
    /// named.
    pub fn report(&self, seed: u64, sections: &[SectionName]) -> Vec<u8> {
        let Kind { complete, alone } = &self.0[Chance::new(seed).below(KINDS) as usize];
        sections.first().and_then(|section| alone.get(section)).unwrap_or(complete).clone()
    }
}

fn varied(seen: &Report, chance: &mut Chance) -> Report {
    let mut report = seen.clone();
    if let Some(Answer::Facts(logs)) = report.sections.get_mut(&SectionName::Logs).map(|section| &mut section.answer) {
        logs["groups"] = (0..LOG_ERRORS / 2 + chance.below(LOG_ERRORS)).map(|_| log_error(chance)).collect();
    }
    for section in report.sections.values_mut() {
        if let Answer::Facts(facts) = &mut section.answer {
            vary(facts, chance);
        }
    }
    report
}

/// Approximate number of error groups in a machine's logs.
const LOG_ERRORS: u64 = 160;

fn log_error(chance: &mut Chance) -> Value {
    let mut word = || format!("{:016x}", chance.number());
    let message = format!("service {} could not reach {}: reset by {} after {}", word(), word(), word(), word());
    serde_json::json!({"message": message, "source": word(), "count": chance.below(100)})
}

/// Varies each number by up to 5 %, and extends each list of objects by 2 to 11 renamed copies, as on a
/// busy machine.
fn vary(value: &mut Value, chance: &mut Chance) {
    match value {
        Value::Number(number) => {
            if let Some(complete) = number.as_u64().filter(|complete| *complete > 10) {
                *value = (complete - complete / 20 + chance.below(complete / 10 + 1)).into();
            }
        }
        Value::Array(items) => {
            let known = items.len();
            if known > 0 && items.iter().all(Value::is_object) {
                for index in known..known + 2 + chance.below(10) as usize {
                    let mut one = items[index % known].clone();
                    name_anew(&mut one, chance);
                    items.push(one);
                }
            }
            items.iter_mut().for_each(|item| vary(item, chance));
        }
        Value::Object(fields) => fields.values_mut().for_each(|field| vary(field, chance)),
        Value::String(_) | Value::Bool(_) | Value::Null => {}
    }
}

fn name_anew(thing: &mut Value, chance: &mut Chance) {
    for field in thing.as_object_mut().into_iter().flat_map(serde_json::Map::values_mut) {
        match field {
            Value::String(text) => text.push_str(&format!("-{:012x}", chance.number() >> 16)),
            Value::Number(_) => *field = (chance.number() >> 32).into(),
            _ => {}
        }
    }
}
