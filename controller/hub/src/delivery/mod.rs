//! Orders on their way to machines, and outcomes on their way back.
//!
//! ```text
//! order (one order, start to end) ─▶ exchange (one stream to its machine) ─▶ outcome (checked, stored, signed for)
//! redelivery: what a machine that comes back may not have got ─▶ order
//! ```

pub(crate) mod exchange;
pub(crate) mod give_back;
pub(crate) mod order;
pub(crate) mod outcome;
pub(crate) mod redelivery;
pub(crate) mod watchers;
