//! Facts and rules to findings. Pure.

use super::finding::Finding;
use super::report::{Answer, Section};
use super::rule::{Both, Rule};
use super::wording::{Language, fill};
use crate::document::SectionName;
use serde_json::Value;
use std::collections::BTreeMap;

/// Findings of one rule at most: a machine with 500 failed units is told once
/// it has many.
const FINDINGS_PER_RULE: usize = 8;

/// What judging yields.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Judgement {
    /// Rules whose section was answered.
    pub checks: u32,
    /// What is not well, worst first, then by rule.
    pub findings: Vec<Finding>,
}

/// Holds every rule against the sections that were answered.
pub fn judge(rules: &[Rule], sections: &BTreeMap<SectionName, Section>) -> Judgement {
    let mut judgement = Judgement::default();
    for rule in rules {
        let Some(Section { answer: Answer::Facts(facts), .. }) = sections.get(&rule.section) else { continue };
        judgement.checks += 1;
        match &rule.each {
            None => judgement.findings.extend(look(rule, facts)),
            Some(list) => {
                let entries = facts.get(list).and_then(Value::as_array).into_iter().flatten();
                judgement.findings.extend(entries.filter_map(|entry| look(rule, entry)).take(FINDINGS_PER_RULE));
            }
        }
    }
    judgement.findings.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
    judgement
}

fn look(rule: &Rule, facts: &Value) -> Option<Finding> {
    let level = rule.levels.iter().find(|level| level.when.iter().all(|c| c.test.holds(facts.get(&c.fact))))?;
    let filled =
        |text: &Both| Both { en: fill(&text.en, facts, Language::En), de: fill(&text.de, facts, Language::De) };
    let mut evidence = BTreeMap::new();
    // What it is about is evidence, too: a remedy takes its parameters from here.
    for fact in level.when.iter().map(|condition| &condition.fact).chain(&rule.name) {
        if let Some(value) = facts.get(fact) {
            evidence.insert(fact.clone(), value.clone());
        }
    }
    let instance = rule.name.as_ref().and_then(|name| facts.get(name)).and_then(Value::as_str).map(str::to_owned);
    Some(Finding {
        id: rule.id.clone(),
        instance,
        severity: level.severity,
        cause: filled(&rule.cause),
        advice: filled(&rule.advice),
        evidence,
        remedy: rule.remedy.clone(),
    })
}
