//! What a spent permit sets off beside looking: a script in its cage.
//!
//! ```text
//! sealed files ─▶ cage (namespaces, limits, watch) ─▶ interpreter
//!                                   output ─▶ redact ─▶ keep + tell live
//! ```
//! This room knows no network, no order and no policy: whoever holds a permit
//! hands over a [`script::Task`] and gets a report.

pub mod cage;
mod opened;
mod output;
pub(crate) mod redact;
pub mod script;
pub(crate) mod watch;
