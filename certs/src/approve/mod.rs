//! Drafts of the catalogue, from proposal to publication.
//!
//! ```text
//! propose ─▶ Draft ─▶ sign (each approver, alone) ─▶ publish (the hub: snapshot, timestamp)
//! ```
//! A draft is one JSON file that people can pass around. It collects the approvers' signatures
//! directly on the roles that machines will verify.

mod changes;
mod draft;
pub mod past;
mod protected;
mod publish;
mod signatures;

pub use draft::{Contents, Draft, FirstRoot, LEFT_OUT, NextRoot, Proposed, SignError};
pub use protected::{ProtectError, ProtectedKey};
pub use publish::{HubRoles, PublishError, freshen, publish, signed_before};
pub use signatures::Progress;

use crate::catalogue::{CatalogueError, Trusted};
use crate::hex;
use crate::identity::SigningKey;
use fernwart_protocol::document::UnixMs;
use fernwart_protocol::id::PublicKey;
use std::collections::HashMap;
use std::num::NonZeroU64;
use tough::schema::decoded::{Decoded, Hex};
use tough::schema::key::{Ed25519Key, Ed25519Scheme, Key};
use tough::schema::{Role, Signature, Signed};

/// The TUF specification version in our files.
const SPEC: &str = "1.0.0";

/// Validity of a root.
const ROOT_LIFE_DAYS: i64 = 3 * 365;
/// Validity of targets.
const TARGETS_LIFE_DAYS: i64 = 365;
/// Validity of a snapshot.
const SNAPSHOT_LIFE_DAYS: i64 = 30;
/// Validity of a timestamp: a stolen hub can keep machines on an old catalogue for a week at most.
const TIMESTAMP_LIFE_DAYS: i64 = 7;

pub use tough::schema::Root;

/// The root in force.
///
/// # Errors
/// When no root is trusted yet, or it cannot be parsed.
pub fn root_of(trusted: &Trusted) -> Result<Root, CatalogueError> {
    let root: Signed<Root> =
        serde_json::from_slice(trusted.root()?).map_err(|error| CatalogueError::Unreadable("root".into(), error))?;
    Ok(root.signed)
}

/// A role's JSON could not be written; an invariant of tough's own types.
#[derive(Debug, thiserror::Error)]
#[error("writing a role of the catalogue")]
pub struct Unwritable;

fn tuf_key(public: &PublicKey) -> Key {
    Key::Ed25519 {
        keyval: Ed25519Key { public: Decoded::from(public.as_bytes().to_vec()), _extra: HashMap::new() },
        scheme: Ed25519Scheme::Ed25519,
        _extra: HashMap::new(),
    }
}

fn tuf_key_id(public: &PublicKey) -> Result<Decoded<Hex>, Unwritable> {
    tuf_key(public).key_id().map_err(|_| Unwritable)
}

/// An approver's key id as TUF writes it.
///
/// # Errors
/// When tough cannot write the key.
pub fn proposer_id(public: &PublicKey) -> Result<String, Unwritable> {
    Ok(hex(tuf_key_id(public)?.as_ref()))
}

fn sign_role<T: Role>(role: &T, key: &SigningKey) -> Result<Signature, Unwritable> {
    let form = role.canonical_form().map_err(|_| Unwritable)?;
    Ok(Signature { keyid: tuf_key_id(&key.public())?, sig: Decoded::from(key.sign(&form).as_bytes().to_vec()) })
}

fn unsigned<T>(role: T) -> Signed<T> {
    Signed { signed: role, signatures: Vec::new() }
}

fn version(number: u64) -> NonZeroU64 {
    NonZeroU64::new(number).unwrap_or(NonZeroU64::MIN)
}

/// Whole seconds, as TUF writes times.
fn in_days(now: UnixMs, days: i64) -> Result<jiff::Timestamp, Unwritable> {
    jiff::Timestamp::from_second(now / 1000 + days * 24 * 3600).map_err(|_| Unwritable)
}
