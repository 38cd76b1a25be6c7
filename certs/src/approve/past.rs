//! Earlier published targets, as far as they can still be interpreted.

use super::hex;
use crate::catalogue::{Approved, Catalogue, scripts, target, unix_ms};
use crate::identity::verify;
use fernwart_protocol::document::UnixMs;
use fernwart_protocol::id::{Digest, PublicKey, Signature};
use fernwart_protocol::script::BundleName;
use std::collections::BTreeMap;
use tough::schema::{Role, Signed, Targets};

/// One published version.
#[derive(Debug, Clone, PartialEq)]
pub struct Past {
    /// Its number.
    pub number: u64,
    /// When it would have expired.
    pub until: UnixMs,
    /// Present approvers who have signed it.
    pub signers: Vec<PublicKey>,
    /// The number of signatures by keys that are not approvers any more.
    pub former: usize,
    /// The hashes of the named targets.
    named: BTreeMap<String, Digest>,
    /// The scripts.
    scripts: BTreeMap<BundleName, Approved>,
}

/// Parses one version and checks which present approvers have signed it.
pub fn read(bytes: &[u8], now: &Catalogue) -> Option<Past> {
    let targets: Signed<Targets> = serde_json::from_slice(bytes).ok()?;
    let form = targets.signed.canonical_form().ok()?;
    let signed_by = |key: &PublicKey| {
        targets.signatures.iter().any(|signature| {
            let bytes = <[u8; 64]>::try_from(signature.sig.as_ref()).ok();
            bytes.is_some_and(|bytes| verify(key, &form, &Signature::from_bytes(bytes)))
        })
    };
    let signers: Vec<PublicKey> = now.approvers.values().copied().filter(signed_by).collect();
    let hash = |entry: &tough::schema::Target| hex(entry.hashes.sha256.as_ref()).parse().ok();
    let named = targets.signed.targets.iter().filter(|(name, _)| target::NAMED.contains(&name.raw()));
    Some(Past {
        number: targets.signed.version.get(),
        until: unix_ms(targets.signed.expires),
        former: targets.signatures.len().saturating_sub(signers.len()),
        signers,
        named: named.filter_map(|(name, entry)| Some((name.raw().to_owned(), hash(entry)?))).collect(),
        scripts: scripts(&targets.signed).ok()?,
    })
}

impl Past {
    /// What it changed, line by line.
    pub fn changes(&self, before: Option<&Self>) -> Vec<String> {
        let Some(before) = before else { return vec!["the first that is still known".to_owned()] };
        let mut lines = Vec::new();
        for (name, what) in [(target::STAFF, "staff list"), (target::HUB, "hub"), (target::SHOP, "shop")] {
            if self.named.get(name) != before.named.get(name) {
                lines.push(format!("~ {what}"));
            }
        }
        for (name, approved) in &self.scripts {
            match before.scripts.get(name) {
                None => lines.push(format!("+ script {name} {}", approved.version)),
                Some(known) if known != approved => {
                    lines.push(format!("~ script {name} {} (was {})", approved.version, known.version));
                }
                Some(_) => {}
            }
        }
        let gone = before.scripts.keys().filter(|name| !self.scripts.contains_key(*name));
        lines.extend(gone.map(|name| format!("- script {name}")));
        if lines.is_empty() {
            lines.push("nothing but its dates, or the approvers".to_owned());
        }
        lines
    }
}
