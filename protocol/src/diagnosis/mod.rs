//! Facts, rules and findings: what a diagnosis is, without gathering one.
//!
//! Pure: used by the agent while it looks, by the hub over stored reports and
//! by the technician's screen. Facts travel as JSON by section, so that a new
//! fact breaks nobody.

mod builtin;
pub mod facts;
mod finding;
mod judge;
mod report;
mod rule;
mod wording;

pub use builtin::builtin_rules;
pub use finding::{Finding, Severity};
pub use judge::{Judgement, judge};
pub use report::{Answer, PackError, Report, Section, Summary};
pub use rule::{BadRule, Both, Level, Rule, RuleSet, Test};
pub use wording::{Language, bytes_in_words, fill, pct_in_words};
