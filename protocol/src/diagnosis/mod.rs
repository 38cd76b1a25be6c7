//! Facts, rules and findings: what a diagnosis is, without gathering one.
//!
//! Pure: used by the agent while it looks, by the hub over stored reports and
//! by the technician's screen. Facts travel as JSON by section, so that a new
//! fact breaks nobody.

mod builtin;
pub mod facts;
mod finding;
mod judge;
mod past;
mod pattern;
mod plugin;
mod reason;
mod report;
mod rule;
mod wording;

pub use builtin::builtin_rules;
pub use finding::{Finding, Severity, State, Unknown};
pub use judge::{Judgement, judge};
pub use past::{Counters, Past};
pub use pattern::{From, Pattern, builtin_patterns};
pub use reason::{Cause, Class, Reason, Reasons};
pub use report::{Answer, Counts, PackError, Report, Section, Summary};
pub use rule::{BadRule, Both, Condition, Gap, Level, Rule, Rules, Test};
pub use wording::{Language, bytes_in_words, fill, pct_in_words};
