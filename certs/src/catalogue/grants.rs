//! Scripts that a staff entry may run beyond its role.
//!
//! A robot that should run one repair and nothing else is on the staff list with the role
//! `diagnose`, and the targets name the script beside its key. Programs that do not know
//! that read the role alone: they allow less, never more. In `staff.json` itself a field
//! that they do not know would have them refuse the whole catalogue. Approvers' programs
//! that do not know it sign no draft that says it, for they could not show it.

use super::CatalogueError;
use fernwart_protocol::id::KeyId;
use fernwart_protocol::script::BundleName;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// Where they stand in the targets: `{"KEY ID": ["script", …], …}`.
pub(crate) const MAY_RUN: &str = "may_run";

/// The scripts of each key.
pub type Grants = BTreeMap<KeyId, BTreeSet<BundleName>>;

/// What the targets say; nothing where they say nothing.
///
/// # Errors
/// When it stands there in another shape than [`write`] gives it.
pub(crate) fn read(extra: &HashMap<String, Value>) -> Result<Grants, CatalogueError> {
    let Some(value) = extra.get(MAY_RUN) else { return Ok(Grants::new()) };
    let unreadable = |error| CatalogueError::Unreadable(MAY_RUN.to_owned(), error);
    let grants: Grants = serde_json::from_value(value.clone()).map_err(unreadable)?;
    // Approvers are shown what was read, so nothing else may stand there.
    if write(&grants).as_ref() != Some(value) {
        return Err(unreadable(serde::de::Error::custom("it has another shape than it is written in")));
    }
    Ok(grants)
}

/// How it stands in the targets; nothing where there is nothing to say.
pub(crate) fn write(grants: &Grants) -> Option<Value> {
    if grants.is_empty() { None } else { serde_json::to_value(grants).ok() }
}
