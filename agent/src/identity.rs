//! One machine, one identity. Its files name it each in its own way: the enrollment and
//! the journal's first line by its id, the evidence key by its hash, the certificate by
//! its name. Where they do not all name the same machine, one was exchanged or damaged,
//! and the agent does nothing.

use crate::executor::state::{StateError, StateStore};
use crate::home::{Enrollment, Home};
use fernwart_certs::identity::{SealingKey, SigningKey, TlsIdentity, machine_id};
use fernwart_certs::journal::{Entry, Line};
use fernwart_certs::peer::{Name, read_certificate};
use fernwart_certs::sha256;
use fernwart_protocol::id::{MachineId, PublicKey};
use fernwart_protocol::text::chain;
use std::path::PathBuf;

/// Files that are of another machine, or of none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not of this machine, or damaged: {}", listed(.files))]
pub struct NotOneMachine {
    /// Which.
    pub files: Vec<PathBuf>,
}

fn listed(files: &[PathBuf]) -> String {
    files.iter().map(|file| file.display().to_string()).collect::<Vec<_>>().join(", ")
}

/// Whom a file names: a machine, none that can be told, or nobody, for it need not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Named {
    Machine(MachineId),
    Nobody,
    Contradiction,
}

/// What a machine's files say of whom they belong to.
#[derive(Debug)]
struct Claims(Vec<(PathBuf, Named)>);

impl Claims {
    /// Whose most files are counts; where as many speak for another, whom the first names.
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

/// What has to be read before this can be told.
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

/// Whether all files are of one machine.
///
/// # Errors
/// Those that are not; or that the store cannot be read.
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

/// Whether the files are those that a running agent started with: its enrollment, and
/// the public halves of its evidence and sealing keys. The certificate may have been
/// renewed.
///
/// # Errors
/// Which is not, in words.
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

/// Whom a certificate names; it must be one for the key beside it.
fn certified(tls: &TlsIdentity) -> Named {
    match tls.chain.as_slice() {
        [] => Named::Nobody,
        [leaf, ca, ..] => match read_certificate(leaf, ca) {
            Ok(said) if said.tls_key == tls.key.digest() => match said.name {
                Name::Machine(id) => Named::Machine(id),
                Name::Staff(_) => Named::Contradiction,
            },
            _ => Named::Contradiction,
        },
        [_] => Named::Contradiction,
    }
}

/// Whether the enrollment is for whom the line about joining names.
fn is_as_joined(store: &StateStore, enrollment: &Enrollment) -> Result<bool, StateError> {
    let Some(Line::Entry { body: Some(body), .. }) = store.journal(1, 1)?.into_iter().next() else { return Ok(true) };
    let joined: serde_json::Value = serde_json::from_str(&body).unwrap_or_default();
    let Enrollment { customer, customer_name, root, .. } = enrollment;
    let own = serde_json::json!({"customer": customer, "customer_name": customer_name, "root": root});
    let same = |name: &str| joined.get(name).is_none_or(|joined| Some(joined) == own.get(name));
    Ok(["customer", "customer_name", "root"].into_iter().all(same))
}

/// Whom the records name: the line about joining, and whoever has signed for what was
/// done since.
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
        // What it was about may have been erased.
        _ => Named::Nobody,
    };
    let own = machine_id(evidence);
    let is_foreign = store.receipts_machines()?.iter().any(|machine| *machine != own);
    Ok(match joined {
        // Records that name another are whole: it may be the key that was exchanged.
        Named::Machine(machine) if machine != own => joined,
        _ if is_foreign => Named::Contradiction,
        _ => joined,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    type Said<'a> = &'a [(&'a str, Named)];

    fn claims(of: Said<'_>) -> Claims {
        Claims(of.iter().map(|(file, named)| (PathBuf::from(file), *named)).collect())
    }

    #[test]
    fn the_file_that_names_another_machine_is_the_one_that_is_told() {
        let [ours, other] = [1, 2].map(|byte| Named::Machine(MachineId::from_bytes([byte; 16])));
        let cases: [(Said<'_>, &[&str]); 8] = [
            (&[("toml", ours), ("key", ours), ("tls", ours), ("store", ours)], &[]),
            (&[("toml", ours), ("key", ours), ("tls", Named::Nobody)], &[]),
            (&[("toml", other), ("key", ours), ("tls", ours), ("store", ours)], &["toml"]),
            (&[("toml", ours), ("key", other), ("tls", ours), ("store", ours)], &["key"]),
            (&[("toml", ours), ("key", ours), ("tls", other), ("store", ours)], &["tls"]),
            (&[("toml", ours), ("key", ours), ("tls", ours), ("store", other)], &["store"]),
            (&[("toml", ours), ("key", ours), ("tls", Named::Contradiction)], &["tls"]),
            // As many for one as for the other: it is not all well, whoever is right.
            (&[("toml", ours), ("key", other), ("tls", ours), ("store", other)], &["key", "store"]),
        ];
        for (said, foreign) in cases {
            let told = claims(said).judge().err().map(|error| error.files).unwrap_or_default();
            assert_eq!(told, foreign.iter().map(PathBuf::from).collect::<Vec<_>>(), "{said:?}");
        }
    }
}
