//! What simulated machines see: this computer, looked at once, as it might look
//! elsewhere. Reports are 8 to 30 KiB packed, as those of real machines with a
//! few hundred processes and logs.

use super::chance::Chance;
use fernwart_agent::collect::{self, Surroundings};
use fernwart_protocol::diagnosis::{Answer, Report};
use fernwart_protocol::document::SectionName;
use serde_json::Value;
use std::collections::BTreeMap;

/// Different computers.
const KINDS: u64 = 64;

/// Reports to choose from, packed: all sections, and each by itself.
pub struct Facts(Vec<(Vec<u8>, BTreeMap<SectionName, Vec<u8>>)>);

impl Facts {
    /// Looks at this computer once and varies what is seen.
    ///
    /// # Panics
    /// When a report cannot be packed.
    pub fn record() -> Self {
        let seen = collect::look(&[], &Surroundings::default());
        let kind = |kind| {
            let report = varied(&seen, &mut Chance::new(kind));
            let alone = report.sections.iter().map(|(name, section)| {
                let sections = BTreeMap::from([(*name, section.clone())]);
                let report = Report { sections, checks: 1, findings: Vec::new(), ..report.clone() };
                (*name, report.pack().expect("packed"))
            });
            (report.pack().expect("packed"), alone.collect())
        };
        Self((0..KINDS).map(kind).collect())
    }

    /// Bytes of a whole report as it travels, on average.
    pub fn packed_bytes(&self) -> usize {
        self.0.iter().map(|(whole, _)| whole.len()).sum::<usize>() / self.0.len().max(1)
    }

    /// What a machine of this seed sees of these sections: the first, or all if
    /// none is named.
    pub fn report(&self, seed: u64, sections: &[SectionName]) -> Vec<u8> {
        let (whole, alone) = &self.0[Chance::new(seed).below(KINDS) as usize];
        sections.first().and_then(|section| alone.get(section)).unwrap_or(whole).clone()
    }
}

fn varied(seen: &Report, chance: &mut Chance) -> Report {
    let mut report = seen.clone();
    for section in report.sections.values_mut() {
        if let Answer::Facts(facts) = &mut section.answer {
            vary(facts, chance);
        }
    }
    report
}

/// Numbers move by a tenth, and each list of things grows to what a busy machine
/// has of them, none quite like another.
fn vary(value: &mut Value, chance: &mut Chance) {
    match value {
        Value::Number(number) => {
            if let Some(whole) = number.as_u64().filter(|whole| *whole > 10) {
                *value = (whole - whole / 20 + chance.below(whole / 10 + 1)).into();
            }
        }
        Value::Array(items) => {
            let known = items.len();
            if known > 0 && items.iter().all(Value::is_object) {
                for index in known..known + 30 + chance.below(90) as usize {
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
            Value::String(text) => text.push_str(&format!("-{:012x}", chance.next() >> 16)),
            Value::Number(_) => *field = (chance.next() >> 32).into(),
            _ => {}
        }
    }
}
