//! Facts, rules and findings: the data and logic of a diagnosis, without gathering facts.
//!
//! All of it is pure: the agent uses it during a look, the hub on stored reports, and the
//! technician's program for display. Facts travel as JSON by section, so that a new fact breaks no
//! program.

mod both;
mod builtin;
pub mod facts;
mod finding;
mod judge;
mod judgement;
mod past;
mod pattern;
mod plugin;
mod reason;
mod report;
mod rule;
mod wording;

pub use both::Both;
pub use builtin::builtin_rules;
pub use finding::{Finding, Severity, State, Unknown};
pub use judge::judge;
pub use judgement::Judgement;
pub use past::{Counters, Past};
pub use pattern::{From, Pattern, builtin_patterns};
pub use reason::{Cause, Class, Reason, Reasons};
pub use report::{Answer, Counts, PackError, Report, Section, Summary};
pub use rule::{BadRule, Condition, Gap, Level, Rule, Rules, Test};
pub use wording::{Language, bytes_in_words, fill, pct_in_words};
