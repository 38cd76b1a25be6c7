//! Checks that all of the agent's files belong to the same machine. The enrollment and the
//! journal's first line name it by its id, the evidence key by its hash, the certificate by its
//! name. If they differ, a file was exchanged or damaged, and the agent does not start.

use crate::executor::state::{StateError, StateStore};
use crate::home::{Enrollment, Home};
use fernwart_certs::identity::{SealingKey, SigningKey, TlsIdentity, machine_id};
use fernwart_certs::journal::{Entry, Line};
use fernwart_certs::peer::{Name, read_certificate};
use fernwart_certs::sha256;
use fernwart_protocol::id::{MachineId, PublicKey};
use fernwart_protocol::text::chain;
use std::path::PathBuf;

/// Files of another machine, or damaged ones.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not of this machine, or damaged: {}", listed(.files))]
pub struct NotOneMachine {
    /// The files.
    pub files: Vec<PathBuf>,
}

fn listed(files: &[PathBuf]) -> String {
    files.iter().map(|file| file.display().to_string()).collect::<Vec<_>>().join(", ")
}

/// The machine a file names: one, none because it need not name any, or a contradiction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Named {
    Machine(MachineId),
    Nobody,
    Contradiction,
}

/// The machine that each file names.
#[derive(Debug)]
struct Claims(Vec<(PathBuf, Named)>);

impl Claims {
    /// The machine named by most files counts; in a tie, the one named first.
    fn judge(&self) -> Result<(), NotOneMachine> {
        let votes = |named: Named| self.0.iter().filter(|(_, other)| *other == named).count();
        let machines = self.0.iter().map(|(_, named)| *named).filter(|named| matches!(named, Named::Machine(_)));
        let most = machines.rev().max_by_key(|named| votes(*named));
        let is_foreign = |named: Named| named != Named::Nobody && Some(named) != most;
        let foreign = self.0.iter().filter(|(_, named)| is_foreign(*named));
        let files: Vec<PathBuf> = foreign.map(|(path, _)| path.clone()).collect();
        if files.is_empty() { Ok(()) } else { Err(NotOneMachine { files }) }
    }
}

/// The files to compare, already read.
pub struct Files<'a> {
    /// The evidence key.
    pub evidence: &'a SigningKey,
    /// The sealing key.
    pub sealing: &'a SealingKey,
    /// The TLS key and its certificate.
    pub tls: &'a TlsIdentity,
    /// The state store; none where a running agent holds it.
    pub store: Option<&'a StateStore>,
}

/// Checks that all files belong to one machine.
///
/// # Errors
/// The files that do not; or that the store cannot be read.
pub fn verify(
    home: &Home,
    enrollment: &Enrollment,
    files: &Files<'_>,
) -> Result<Result<(), NotOneMachine>, StateError> {
    let id = machine_id(&files.evidence.public());
    let mut claims = vec![
        (home.enrollment_file(), Named::Machine(enrollment.machine)),
        (home.evidence_key(), Named::Machine(id)),
        (home.tls_identity(), certified(files.tls)),
    ];
    if let Some(store) = files.store {
        claims.push((home.store(), recorded(store, &files.evidence.public())?));
        if !is_as_joined(store, enrollment)? {
            claims.push((home.enrollment_file(), Named::Contradiction));
        }
        let opens = store.sealing_key()?.is_none_or(|key| key == files.sealing.public());
        claims.push((home.sealing_key(), if opens { Named::Nobody } else { Named::Contradiction }));
    }
    Ok(Claims(claims).judge())
}

/// Checks that the files are those with which the running agent started: its enrollment, and the
/// public halves of its evidence and sealing keys. The certificate may have been renewed.
///
/// # Errors
/// Which file differs, as text.
pub fn unchanged(home: &Home, enrollment: &Enrollment, keys: (PublicKey, PublicKey)) -> Result<(), String> {
    let bad = |error: &dyn std::error::Error| chain(error);
    let evidence = SigningKey::read(&home.evidence_key()).map_err(|error| bad(&error))?;
    let sealing = SealingKey::read(&home.sealing_key()).map_err(|error| bad(&error))?;
    let tls = TlsIdentity::read(&home.tls_identity()).map_err(|error| bad(&error))?;
    let written = home.enrollment().map_err(|error| bad(&error))?;
    let named = [
        (home.evidence_key(), evidence.public() == keys.0),
        (home.sealing_key(), sealing.public() == keys.1),
        (home.enrollment_file(), written == *enrollment),
    ];
    if let Some((path, _)) = named.into_iter().find(|(_, same)| !same) {
        return Err(format!("{} is not what it was", path.display()));
    }
    let files = Files { evidence: &evidence, sealing: &sealing, tls: &tls, store: None };
    verify(home, enrollment, &files).map_err(|error| bad(&error))?.map_err(|error| bad(&error))
}

/// The machine that a certificate names; it must be for the key beside it.
fn certified(tls: &TlsIdentity) -> Named {
    match tls.chain.as_slice() {
        [] => Named::Nobody,
        [leaf, ca, ..] => match read_certificate(leaf, ca) {
            Ok(claim) if claim.tls_key == tls.key.digest() => match claim.name {
                Name::Machine(id) => Named::Machine(id),
                Name::Staff(_) => Named::Contradiction,
            },
            _ => Named::Contradiction,
        },
        [_] => Named::Contradiction,
    }
}

/// Whether the enrollment matches the journal's line about joining.
fn is_as_joined(store: &StateStore, enrollment: &Enrollment) -> Result<bool, StateError> {
    let Some(Line::Entry { body: Some(body), .. }) = store.journal(1, 1)?.into_iter().next() else { return Ok(true) };
    let joined: serde_json::Value = serde_json::from_str(&body).unwrap_or_default();
    let Enrollment { customer, customer_name, root, .. } = enrollment;
    let own = serde_json::json!({"customer": customer, "customer_name": customer_name, "root": root});
    let same = |name: &str| joined.get(name).is_none_or(|joined| Some(joined) == own.get(name));
    Ok(["customer", "customer_name", "root"].into_iter().all(same))
}

/// The machine that the records name: in the line about joining, and in the receipts.
fn recorded(store: &StateStore, evidence: &PublicKey) -> Result<Named, StateError> {
    let joined = match store.journal(1, 1)?.into_iter().next() {
        Some(Line::Entry { line, body: Some(body), .. }) => {
            let entry: Option<Entry> = serde_json::from_str(&line).ok();
            let is_its_own = entry.is_some_and(|entry| entry.body == sha256(body.as_bytes()));
            let body: serde_json::Value = serde_json::from_str(&body).unwrap_or_default();
            let machine = body.get("machine").and_then(serde_json::Value::as_str).and_then(|id| id.parse().ok());
            match machine {
                Some(machine) if is_its_own => Named::Machine(machine),
                _ => Named::Contradiction,
            }
        }
        // The body of that line may have been erased.
        _ => Named::Nobody,
    };
    let own = machine_id(evidence);
    let is_foreign = store.receipts_machines()?.iter().any(|machine| *machine != own);
    Ok(match joined {
        // The records are consistent but of another machine: the key may have been exchanged
        // instead.
        Named::Machine(machine) if machine != own => joined,
        _ if is_foreign => Named::Contradiction,
        _ => joined,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    type Claim<'a> = &'a [(&'a str, Named)];

    fn claims(of: Claim<'_>) -> Claims {
        Claims(of.iter().map(|(file, named)| (PathBuf::from(file), *named)).collect())
    }

    #[test]
    fn the_file_that_names_another_machine_is_reported() {
        let [ours, other] = [1, 2].map(|byte| Named::Machine(MachineId::from_bytes([byte; 16])));
        let cases: [(Claim<'_>, &[&str]); 8] = [
            (&[("toml", ours), ("key", ours), ("tls", ours), ("store", ours)], &[]),
            (&[("toml", ours), ("key", ours), ("tls", Named::Nobody)], &[]),
            (&[("toml", other), ("key", ours), ("tls", ours), ("store", ours)], &["toml"]),
            (&[("toml", ours), ("key", other), ("tls", ours), ("store", ours)], &["key"]),
            (&[("toml", ours), ("key", ours), ("tls", other), ("store", ours)], &["tls"]),
            (&[("toml", ours), ("key", ours), ("tls", ours), ("store", other)], &["store"]),
            (&[("toml", ours), ("key", ours), ("tls", Named::Contradiction)], &["tls"]),
            // In a tie either may be right, but the files do not fit together.
            (&[("toml", ours), ("key", other), ("tls", ours), ("store", other)], &["key", "store"]),
        ];
        for (claim, foreign) in cases {
            let foreign_files = claims(claim).judge().err().map(|error| error.files).unwrap_or_default();
            assert_eq!(foreign_files, foreign.iter().map(PathBuf::from).collect::<Vec<_>>(), "{claim:?}");
        }
    }
}
