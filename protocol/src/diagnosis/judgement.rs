//! The result of judging facts by rules.

use super::finding::{Finding, Unknown};
use super::past::Past;
use std::collections::BTreeMap;

/// The result of judging.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Judgement {
    /// Rules that were decided: ok, or with a finding.
    pub checks: u32,
    /// Of these, rules that found nothing, by name.
    pub well: Vec<String>,
    /// Faults, worst first, then by rule.
    pub findings: Vec<Finding>,
    /// Notes: worth knowing, but no fault; includes blind spots.
    pub notes: Vec<Finding>,
    /// Checks that should have an answer and have none.
    pub unknown: Vec<Unknown>,
    /// Rules that have nothing to judge here.
    pub not_applicable: u32,
    /// Rules that have no answer yet, by name: a slow program is still running.
    pub not_yet: Vec<String>,
    /// How many findings of a rule were left out, by rule.
    pub left_out: BTreeMap<String, u32>,
    /// What the next diagnosis must remember of this one.
    pub past: Past,
}
