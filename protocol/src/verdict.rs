//! A machine's health, as version 1 knows it.

use crate::text::Text;
use serde::{Deserialize, Serialize};

/// The worst finding in a machine's newest report. Its variants are frozen; rows carry others under
/// a tag ([`crate::row::tag::HEALTH`]).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Verdict {
    /// No report yet.
    Unknown,
    /// Nothing found.
    Well,
    /// The first warning.
    Warn(Text<128>),
    /// The first critical finding.
    Crit(Text<128>),
}
