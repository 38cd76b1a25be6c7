//! Runs a script in its cage, once its order was permitted.
//!
//! ```text
//! sealed files ─▶ cage (namespaces, limits, watch) ─▶ interpreter
//!                                   output ─▶ redact ─▶ keep + send live
//! ```
//! This module knows no network, no order and no policy: the caller hands over a [`script::Task`]
//! and gets a report.

mod output;
pub mod script;
