//! Describes the changes of a draft in words, for the approver who is about to sign it.

use super::draft::{Contents, Draft, SignError};
use crate::catalogue::{Catalogue, Contact, Grants, StaffEntry, public_key};
use fernwart_protocol::id::{KeyId, PublicKey};
use fernwart_protocol::script::{BundleName, Manifest};
use std::collections::BTreeSet;
use tough::schema::{RoleType, Root};

impl Draft {
    /// The changes from a published catalogue to this draft, line by line, for the approver who is
    /// about to sign.
    ///
    /// # Errors
    /// When the draft's files do not match its targets.
    pub fn changes(&self, before: Option<&Catalogue>) -> Result<Vec<String>, SignError> {
        let new = self.contents()?;
        let old = before.map(Contents::of);
        let mut lines = Vec::new();
        let number = self.targets.signed.version.get();
        let last = before.map_or(0, |before| before.versions.targets);
        if number > last + 1 {
            lines.push(format!("version {number}: above all that may have been published after version {last}"));
        }
        if let Some(root) = &self.root {
            let role = root.signed.roles.get(&RoleType::Targets);
            let (k, n) = role.map_or((0, 0), |role| (role.threshold.get(), role.keyids.len()));
            let until = day(root.signed.expires);
            lines.push(format!("root {}: {k} of {n} approvers must sign, good until {until}", root.signed.version));
            lines.extend(approvers(&root.signed, before));
        }
        lines.extend(staff(old.as_ref(), &new));
        for script in self.new_scripts(before)? {
            let known = old.as_ref().is_some_and(|contents| contents.scripts.contains_key(&script.bundle.name));
            let sign = if known { '~' } else { '+' };
            lines.push(format!("{sign} script {}", script_in_words(&script.manifest)));
            // A grant is by name, so it also applies to this version.
            let may = new.staff.staff.iter().filter(|entry| {
                new.grants.get(&entry.key).is_some_and(|scripts| scripts.contains(&script.bundle.name))
            });
            lines.extend(
                may.map(|entry| format!("    {} may run it beyond the role {}", entry.name, entry.role.as_str())),
            );
        }
        for (name, approved) in old.iter().flat_map(|contents| &contents.scripts) {
            if !new.scripts.contains_key(name) {
                lines.push(format!("- script {name} {}", approved.version));
            }
        }
        if old.as_ref().map(|c| &c.hub) != Some(&new.hub) {
            let addresses: Vec<_> = new.hub.addresses.iter().map(ToString::to_string).collect();
            lines.push(format!("~ hub at {}", addresses.join(", ")));
            lines.extend(new.hub.ca.iter().map(|pin| format!("    CA {pin}")));
            lines.extend(new.hub.evidence_keys.iter().map(|key| format!("    evidence key {key}")));
        }
        if old.as_ref().map(|c| &c.shop) != Some(&new.shop) {
            let contact = |c: &Contact| format!("{} {} {}", c.name, c.phone, c.mail).trim().to_owned();
            let contacts: Vec<_> = new.shop.contacts.iter().map(contact).collect();
            let parts = [new.shop.name.to_string(), contacts.join(", "), new.shop.hours.to_string()];
            let parts: Vec<_> = parts.into_iter().filter(|part| !part.is_empty()).collect();
            lines.push(format!("~ shop {}", parts.join(" · ")));
        }
        lines.push(format!("good until {}", day(self.targets.signed.expires)));
        Ok(lines)
    }
}

/// Added, changed and removed rights of staff.
fn staff(old: Option<&Contents>, new: &Contents) -> Vec<String> {
    let none = Grants::new();
    let (entries, grants) = old.map_or((&[][..], &none), |old| (old.staff.staff.as_slice(), &old.grants));
    let mut lines = Vec::new();
    for entry in &new.staff.staff {
        let now = described(entry, &new.grants);
        let known = entries.iter().find(|known| known.key == entry.key);
        match known.map(|known| (known, described(known, grants))) {
            None => lines.push(format!("+ staff {now}")),
            Some((known, before)) if known != entry || before != now => {
                lines.push(format!("~ staff {now} (was {before})"));
            }
            Some(_) => {}
        }
    }
    let is_listed = |key: &KeyId| new.staff.staff.iter().any(|entry| entry.key == *key);
    for entry in entries.iter().filter(|entry| !is_listed(&entry.key)) {
        lines.push(format!("- staff {}", described(entry, grants)));
    }
    // A grant has no effect until its key is on the list, but then it would.
    for (key, scripts) in new.grants.iter().filter(|(key, _)| !is_listed(key)) {
        lines.push(format!("  key {key}, which is not on the staff list, may run {}", listed(scripts)));
    }
    lines
}

fn listed(scripts: &BTreeSet<BundleName>) -> String {
    scripts.iter().map(BundleName::as_str).collect::<Vec<_>>().join(", ")
}

/// The approvers of this root by key, and those it removes.
fn approvers(root: &Root, before: Option<&Catalogue>) -> Vec<String> {
    let ids = root.roles.get(&RoleType::Targets).map(|role| role.keyids.as_slice()).unwrap_or_default();
    let new: Vec<PublicKey> = ids.iter().filter_map(|id| public_key(root.keys.get(id)?)).collect();
    let old: Vec<PublicKey> = before.map(|before| before.approvers.values().copied().collect()).unwrap_or_default();
    let named = new.iter().map(|key| {
        let sign = if before.is_some() && !old.contains(key) { '+' } else { ' ' };
        format!("{sign} approver fwa1-{key}")
    });
    let taken = old.iter().filter(|key| !new.contains(key)).map(|key| format!("- approver fwa1-{key}"));
    named.chain(taken).collect()
}

fn day(at: jiff::Timestamp) -> String {
    at.strftime("%Y-%m-%d").to_string()
}

fn script_in_words(manifest: &Manifest) -> String {
    let mut parts = vec![format!("privilege {}", manifest.privilege.as_str())];
    if !manifest.writes.is_empty() {
        parts.push(format!("writes {}", manifest.writes.join(" ")));
    }
    if manifest.network {
        parts.push("uses the network".to_owned());
    }
    if manifest.services {
        parts.push("speaks to the system's services".to_owned());
    }
    if manifest.sees_processes {
        parts.push("sees all processes".to_owned());
    }
    format!("{} {}: {} ({})", manifest.name, manifest.version, manifest.title.en, parts.join(", "))
}

fn described(entry: &StaffEntry, grants: &Grants) -> String {
    use crate::catalogue::Customers;
    let reach = match &entry.customers {
        Customers::All => "all customers".to_owned(),
        Customers::Only(some) => {
            let ids: Vec<_> = some.iter().map(ToString::to_string).collect();
            format!("only customers {}", ids.join(" "))
        }
    };
    let until = jiff::Timestamp::from_millisecond(entry.until).map(day).unwrap_or_default();
    let more = grants.get(&entry.key).map(|scripts| format!(" and running {}", listed(scripts))).unwrap_or_default();
    format!("{}: {}{more}, {reach}, until {until}, key {}", entry.name, entry.role.as_str(), entry.key)
}
