//! Units of systemd, and their properties.

use crate::collect::child;
use serde_json::Value;
use std::time::Instant;

/// systemd's bus name.
pub(super) const MANAGER: &str = "org.freedesktop.systemd1";

/// One unit, as returned by `ListUnits`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Unit {
    pub(super) name: String,
    pub(super) description: String,
    pub(super) active: String,
    pub(super) sub: String,
    /// Its D-Bus object.
    pub(super) object: String,
}

/// Properties of a service, in the order of `names`.
pub(super) fn properties(unit: &Unit, names: &[&str], until: Instant) -> Option<Vec<Value>> {
    let mut arguments = vec!["--system", "--json=short", "--timeout=1", "get-property", MANAGER, &unit.object];
    arguments.push("org.freedesktop.systemd1.Service");
    arguments.extend(names);
    let text = child::ask("busctl", &arguments, until).ok()?;
    let values = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()?.get("data").cloned());
    Some(values.collect::<Vec<_>>()).filter(|values| values.len() == names.len())
}
