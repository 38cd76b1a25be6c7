//! Grants: scripts that a staff entry may run beyond its role.
//!
//! A robot that should run one repair and nothing else is on the staff list with the role
//! `diagnose`, and the targets name the script beside its key. Programs that do not know grants
//! only read the role: they allow less, never more. A new field in `staff.json` instead would make
//! them reject the complete catalogue. Older approvers' programs do not sign a draft with grants,
//! since they cannot show them.

use super::CatalogueError;
use fernwart_protocol::id::KeyId;
use fernwart_protocol::script::BundleName;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// The name of the targets' field with the grants: `{"KEY ID": ["script", …], …}`.
pub(crate) const MAY_RUN: &str = "may_run";

/// The scripts of each key.
pub type Grants = BTreeMap<KeyId, BTreeSet<BundleName>>;

/// Parses the grants in the targets; empty if there are none.
///
/// # Errors
/// When they have another format than [`write`] produces.
pub(crate) fn read(extra: &HashMap<String, Value>) -> Result<Grants, CatalogueError> {
    let Some(value) = extra.get(MAY_RUN) else { return Ok(Grants::new()) };
    let unreadable = |error| CatalogueError::Unreadable(MAY_RUN.to_owned(), error);
    let grants: Grants = serde_json::from_value(value.clone()).map_err(unreadable)?;
    // Approvers are shown the parsed grants, so the field must not contain anything else.
    if write(&grants).as_ref() != Some(value) {
        return Err(unreadable(serde::de::Error::custom("it has another shape than it is written in")));
    }
    Ok(grants)
}

/// Encodes grants for the targets; `None` if there are none.
pub(crate) fn write(grants: &Grants) -> Option<Value> {
    if grants.is_empty() { None } else { serde_json::to_value(grants).ok() }
}
