//! Derives findings from facts and rules. Pure.
//!
//! A condition on a known fact is true or false; on a missing fact it is open. A level holds if all
//! its conditions are true, and is ruled out if one is false. The first level that holds makes a
//! finding. If none holds and one is open, the reason for the missing fact decides: lost means
//! unknown, a gap is a blind spot, and with any other reason the check does not apply. A missing
//! answer is never ok.

use super::both::Both;
use super::finding::{Finding, Severity, Unknown};
use super::judgement::Judgement;
use super::past::Past;
use super::reason::{Cause, Class, Reason, Reasons};
use super::report::{Answer, Section};
use super::rule::{Condition, Gap, Level, Rule, Rules};
use super::wording::{Language, fill};
use crate::document::{SectionName, UnixMs};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};

/// Maximum number of findings of one rule; the number of further ones is reported.
const FINDINGS_PER_RULE: usize = 16;

/// Evaluates every rule of the wanted sections on the gathered sections, which may be more
/// ([`Rules::needed`]).
///
/// `past` is what was remembered of the last complete diagnosis; `now` is the machine's clock.
pub fn judge(
    rules: &Rules,
    sections: &BTreeMap<SectionName, Section>,
    wanted: &BTreeSet<SectionName>,
    past: &Past,
    now: UnixMs,
) -> Judgement {
    let mut judge = Judge { sections, past, now, judgement: Judgement::default(), gaps: BTreeMap::new() };
    judge.judgement.past = past.clone();
    rules.rules.iter().filter(|rule| wanted.contains(&rule.section)).for_each(|rule| judge.rule(rule));
    let Judge { mut judgement, gaps, .. } = judge;
    judgement.notes.extend(gaps.into_iter().map(|(why, ids)| blind_spot(&rules.gaps, &why, ids)));
    judgement.findings.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
    judgement.unknown.sort_by_key(|unknown| std::cmp::Reverse(unknown.could_be));
    judgement.past.forget(|id| rules.rules.iter().any(|rule| rule.id == id), now);
    judgement
}

/// The result of one check on one thing.
enum Outcome {
    Ok,
    Found(Finding),
    Unknown(Cause, Severity),
    Gap(Cause),
    /// A later diagnosis has the answer.
    NotYet,
    NotApplicable,
}

struct Judge<'a> {
    sections: &'a BTreeMap<SectionName, Section>,
    past: &'a Past,
    now: UnixMs,
    judgement: Judgement,
    /// Blind rules, by the reason.
    gaps: BTreeMap<Cause, BTreeSet<String>>,
}

/// Where a condition finds its fact.
#[derive(Clone, Copy)]
struct Place<'a> {
    section: SectionName,
    /// The section's facts, and the object that the rule looks at: the same, or an entry of a list.
    facts: &'a Value,
    item: &'a Value,
}

impl<'a> Judge<'a> {
    fn facts(&self, section: SectionName) -> Result<&'a Value, Cause> {
        match self.sections.get(&section) {
            Some(Section { answer: Answer::Facts(facts), .. }) => Ok(facts),
            Some(Section { answer: Answer::Unanswered(text), why, .. }) => {
                Err(why.clone().unwrap_or_else(|| Cause::new(Reason::Unreadable, clipped(text))))
            }
            None => Err(Reason::Absent.into()),
        }
    }

    fn rule(&mut self, rule: &Rule) {
        let facts = match self.facts(rule.section) {
            Ok(facts) => facts,
            Err(why) => return self.end(rule, vec![(None, self.open(rule, None, why, rule.worst()))]),
        };
        let section_place = Place { section: rule.section, facts, item: facts };
        let applies =
            rule.applies.iter().all(|condition| !matches!(self.answer(condition, section_place, false), Ok(false)));
        if !applies {
            return self.end(rule, Vec::new());
        }
        let Some(list) = &rule.each else {
            let outcome = self.item(rule, None, section_place);
            return self.end(rule, vec![(None, outcome)]);
        };
        match facts.get(list).and_then(Value::as_array) {
            Some(entries) => {
                let is_looked_at = |item: &&Value| {
                    let place = Place { item, ..section_place };
                    rule.which.iter().all(|condition| !matches!(self.answer(condition, place, false), Ok(false)))
                };
                let outcomes = entries.iter().filter(is_looked_at).map(|item| {
                    let instance = rule.name.as_ref().and_then(|name| item.get(name)).map(text_of);
                    let outcome = self.item(rule, instance.as_deref(), Place { item, ..section_place });
                    (instance, outcome)
                });
                let mut outcomes: Vec<_> = outcomes.collect();
                if outcomes.is_empty() && rule.lists_faults {
                    outcomes.push((Some(String::new()), Outcome::Ok));
                }
                self.end(rule, outcomes);
            }
            None => {
                let why = reason_for(facts, list);
                self.end(rule, vec![(None, self.open(rule, None, why, rule.worst()))]);
            }
        }
    }

    /// The result of a rule for one thing.
    fn item(&self, rule: &Rule, instance: Option<&str>, place: Place<'a>) -> Outcome {
        let was = self.past.severity(&rule.id, instance);
        let mut open: Option<(Cause, Severity)> = None;
        let mut is_decided = false;
        for level in &rule.levels {
            // Hysteresis: a level that held before holds until the value has passed its clear
            // bound.
            let clears = was.is_some_and(|was| was >= level.severity);
            match self.level(level, place, clears) {
                Ok(true) => {
                    let is_worse = |(why, severity): &(Cause, Severity)| {
                        why.reason.class() == Class::Lost && *severity > level.severity
                    };
                    let worse_unknown = open.as_ref().is_some_and(is_worse);
                    if let Some((why, severity)) = open.filter(|_| worse_unknown && level.severity == Severity::Note) {
                        // A possible fault is more important than a note.
                        return self.open(rule, instance, why, severity);
                    }
                    return Outcome::Found(Finding { worse_unknown, ..found(rule, level, instance, place.item) });
                }
                Ok(false) => is_decided = true,
                Err(why) => {
                    let worse = open.as_ref().is_none_or(|(known, _)| why.reason.class() > known.reason.class());
                    if worse {
                        open = Some((why, level.severity));
                    }
                }
            }
        }
        match open {
            None => Outcome::Ok,
            // One level was decided; the other one does not apply here.
            Some((why, severity)) => match self.open(rule, instance, why, severity) {
                Outcome::NotApplicable if is_decided => Outcome::Ok,
                outcome => outcome,
            },
        }
    }

    /// Evaluates a level: true, false, or open with the gravest reason.
    fn level(&self, level: &Level, place: Place<'a>, clears: bool) -> Result<bool, Cause> {
        let mut open: Option<Cause> = None;
        for condition in &level.when {
            match self.answer(condition, place, clears) {
                Ok(true) => {}
                Ok(false) => return Ok(false),
                Err(why) => {
                    if open.as_ref().is_none_or(|known| why.reason.class() > known.reason.class()) {
                        open = Some(why);
                    }
                }
            }
        }
        open.map_or(Ok(true), Err)
    }

    fn answer(&self, condition: &Condition, place: Place<'a>, clears: bool) -> Result<bool, Cause> {
        let (facts, name) = match condition.section {
            Some(section) if section != place.section => (self.facts(section)?, condition.fact.as_str()),
            Some(_) => (place.facts, condition.fact.as_str()),
            None => (place.item, condition.fact.as_str()),
        };
        match facts.get(name) {
            None | Some(Value::Null) => Err(reason_for(facts, name)),
            Some(fact) => Ok(condition.test(clears).holds(fact)),
        }
    }

    /// The outcome of an open check. A check that had an answer before and is a gap now is lost. A
    /// lost check stays lost until it is answered. A bad check is not well merely because its fact
    /// is missing for a while.
    fn open(&self, rule: &Rule, instance: Option<&str>, why: Cause, severity: Severity) -> Outcome {
        let class = match why.reason.class() {
            Class::Gap if self.past.was_known(&rule.id, instance) => Class::Lost,
            Class::NotApplicable if why.reason.is_for_a_while() && self.past.was_bad(&rule.id, instance) => Class::Lost,
            Class::Gap | Class::NotApplicable
                if self.past.lost_since(&rule.id, instance).is_some() && why.reason != Reason::Absent =>
            {
                Class::Lost
            }
            class => class,
        };
        match class {
            Class::Lost => Outcome::Unknown(why, severity),
            Class::Gap => Outcome::Gap(why),
            Class::NotApplicable if why.reason == Reason::StillAsked => Outcome::NotYet,
            Class::NotApplicable => Outcome::NotApplicable,
        }
    }

    /// Counts the outcomes of a rule.
    fn end(&mut self, rule: &Rule, outcomes: Vec<(Option<String>, Outcome)>) {
        let all: BTreeSet<Option<&str>> = outcomes.iter().map(|(instance, _)| instance.as_deref()).collect();
        self.judgement.past.keep_only(&rule.id, &all);
        let (mut decided, mut bad, mut open, mut later) = (false, false, false, false);
        let mut found = 0;
        for (instance, outcome) in outcomes {
            let past = &mut self.judgement.past;
            match outcome {
                Outcome::Ok => {
                    decided = true;
                    past.ok(&rule.id, instance.as_deref());
                }
                Outcome::Found(finding) => {
                    past.found(&rule.id, instance.as_deref(), finding.severity);
                    if finding.severity == Severity::Note {
                        decided = true;
                        self.judgement.notes.push(finding);
                        continue;
                    }
                    (decided, bad) = (true, true);
                    found += 1;
                    if found <= FINDINGS_PER_RULE {
                        self.judgement.findings.push(finding);
                    } else {
                        *self.judgement.left_out.entry(rule.id.clone()).or_default() += 1;
                    }
                }
                Outcome::Unknown(why, could_be) => {
                    open = true;
                    let since = past.lost(&rule.id, instance.as_deref(), self.now);
                    let id = rule.id.clone();
                    self.judgement.unknown.push(Unknown { id, instance, why, could_be, since });
                }
                Outcome::Gap(why) => {
                    open = true;
                    self.gaps.entry(why).or_default().insert(rule.id.clone());
                }
                Outcome::NotYet => later = true,
                Outcome::NotApplicable => {}
            }
        }
        if later {
            self.judgement.not_yet.push(rule.id.clone());
        }
        match (bad, open || later, decided) {
            (true, ..) => self.judgement.checks += 1,
            (false, true, _) => {}
            (false, false, true) => {
                self.judgement.checks += 1;
                self.judgement.well.push(rule.id.clone());
            }
            (false, false, false) => self.judgement.not_applicable += 1,
        }
    }
}

fn text_of(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

fn clipped(text: &str) -> String {
    crate::text::Text::<200>::clipped(text).as_raw().to_owned()
}

/// Why a fact is missing; one that is missing without a reason counts as unreadable.
fn reason_for(facts: &Value, name: &str) -> Cause {
    let reasons: Option<Reasons> = facts.get("why").and_then(|why| serde::Deserialize::deserialize(why).ok());
    reasons.and_then(|mut reasons| reasons.remove(name)).unwrap_or_else(|| Cause::new(Reason::Unreadable, name))
}

fn found(rule: &Rule, level: &Level, instance: Option<&str>, facts: &Value) -> Finding {
    let filled =
        |text: &Both| Both { en: fill(&text.en, facts, Language::En), de: fill(&text.de, facts, Language::De) };
    let mut evidence = BTreeMap::new();
    // The fact that names the thing is evidence, too: a remedy takes its parameters from the
    // evidence.
    let facts_named = level.when.iter().filter(|condition| condition.section.is_none()).map(|c| &c.fact);
    for fact in facts_named.chain(&rule.name).chain(&rule.evidence) {
        if let Some(value) = facts.get(fact) {
            evidence.insert(fact.clone(), value.clone());
        }
    }
    Finding {
        id: rule.id.clone(),
        instance: instance.map(str::to_owned),
        severity: level.severity,
        cause: filled(level.cause.as_ref().unwrap_or(&rule.cause)),
        advice: filled(level.advice.as_ref().unwrap_or(&rule.advice)),
        evidence,
        remedy: rule.remedy.clone(),
        worse_unknown: false,
    }
}

/// One note for all rules that are blind for the same reason.
fn blind_spot(gaps: &[Gap], why: &Cause, ids: BTreeSet<String>) -> Finding {
    let facts = json!({"about": why.about, "checks": ids});
    let known = gaps.iter().find(|gap| gap.reason == why.reason && gap.about.as_ref().is_none_or(|a| *a == why.about));
    let filled =
        |text: &Both| Both { en: fill(&text.en, &facts, Language::En), de: fill(&text.de, &facts, Language::De) };
    let empty = Both { en: String::new(), de: String::new() };
    Finding {
        id: known.map_or_else(|| format!("blind.{}", why.reason.as_str()), |gap| gap.id.clone()),
        instance: Some(why.about.clone()).filter(|about| !about.is_empty()),
        severity: Severity::Note,
        cause: known.map_or_else(|| empty.clone(), |gap| filled(&gap.cause)),
        advice: known.map_or(empty, |gap| filled(&gap.advice)),
        evidence: BTreeMap::from([
            ("reason".to_owned(), Value::from(why.to_string())),
            ("checks".to_owned(), json!(ids)),
        ]),
        remedy: None,
        worse_unknown: false,
    }
}
