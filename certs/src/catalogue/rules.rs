//! Which rules of diagnosis hold.

use super::Catalogue;
use fernwart_protocol::diagnosis::{Rules, builtin_rules};
use std::sync::Arc;

/// The rules that hold where this catalogue is followed; without one, as on a computer that
/// has not joined, the built-in ones. The only place that decides it: the built-in rules
/// today, then those that approvers publish, then overrides per customer and machine.
pub fn rules_in_force(_: Option<&Catalogue>) -> Arc<Rules> {
    builtin_rules()
}

impl Catalogue {
    /// The rules that hold where it is followed.
    pub fn rules(&self) -> Arc<Rules> {
        rules_in_force(Some(self))
    }
}
