//! Secrets that only one machine can read: encrypted with HPKE (RFC 9180) to its sealing key, and
//! bound to one run. The hub forwards them but cannot decrypt them.
//!
//! Suite: DHKEM(X25519, HKDF-SHA256), HKDF-SHA256, AES-128-GCM.

use crate::envelope;
use crate::identity::{SealingKey, machine_id};
use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use fernwart_protocol::document::{Envelope, SealedTo};
use fernwart_protocol::id::{MachineId, PublicKey, RunId};
use rustls::crypto::aws_lc_rs::hpke::DH_KEM_X25519_HKDF_SHA256_AES_128 as SUITE;
use rustls::crypto::hpke::{EncapsulatedSecret, Hpke, HpkePrivateKey, HpkePublicKey};

const INFO: &[u8] = b"fernwart sealed parameters 1";

/// Bytes of an encapsulated X25519 key (RFC 9180, 7.1).
const ENCAPSULATED: usize = 32;

/// Plaintexts are padded to a multiple of this, so that the length reveals little.
const PAD: usize = 256;

/// Something cannot be sealed or opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// The crypto library refuses the key.
    #[error("sealing for a machine")]
    Key,
    /// It was sealed for another machine or run, or altered.
    #[error("opening what was sealed for this machine")]
    Foreign,
    /// The machine has not signed this key.
    #[error("the sealing key is not the machine's own")]
    NotItsOwn,
}

fn bound_to(run: &RunId, machine: &MachineId) -> Vec<u8> {
    [run.as_bytes().as_slice(), machine.as_bytes().as_slice()].concat()
}

/// Seals a text for one run on one machine.
///
/// # Errors
/// When the key is none.
pub fn seal(to: &PublicKey, run: &RunId, machine: &MachineId, plain: &str) -> Result<String, SealError> {
    let mut padded = plain.as_bytes().to_vec();
    padded.push(b'\n');
    padded.resize(padded.len().next_multiple_of(PAD), b' ');
    let key = HpkePublicKey(to.as_bytes().to_vec());
    let sealed = SUITE.seal(INFO, &bound_to(run, machine), &padded, &key).map_err(|_| SealError::Key);
    // Erase the plaintext from memory.
    padded.fill(0);
    let (encapsulated, ciphertext) = sealed?;
    Ok(STANDARD_NO_PAD.encode([encapsulated.0, ciphertext].concat()))
}

impl SealingKey {
    /// Opens what was sealed for this run on this machine.
    ///
    /// # Errors
    /// When it was sealed for another, or altered.
    pub fn open(&self, run: &RunId, machine: &MachineId, sealed: &str) -> Result<String, SealError> {
        let foreign = |_| SealError::Foreign;
        let bytes = STANDARD_NO_PAD.decode(sealed).map_err(|_| SealError::Foreign)?;
        let (encapsulated, ciphertext) = bytes.split_at_checked(ENCAPSULATED).ok_or(SealError::Foreign)?;
        let encapsulated = EncapsulatedSecret(encapsulated.to_vec());
        let key = HpkePrivateKey::from(self.seed().to_vec());
        let plain = SUITE.open(&encapsulated, INFO, &bound_to(run, machine), ciphertext, &key).map_err(foreign)?;
        let text = String::from_utf8(plain).map_err(|_| SealError::Foreign)?;
        Ok(text.trim_end().to_owned())
    }
}

/// Accepts a sealing key that the machine's evidence key has signed.
///
/// # Errors
/// When it has not signed it.
pub fn believe(statement: &Envelope, evidence: &PublicKey, machine: &MachineId) -> Result<PublicKey, SealError> {
    let document: SealedTo = envelope::open(statement, evidence).map_err(|_| SealError::NotItsOwn)?;
    let own = machine_id(evidence) == *machine && document.machine == *machine;
    if own { Ok(document.sealing_key) } else { Err(SealError::NotItsOwn) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::SigningKey;
    use fernwart_protocol::version::Version;

    #[test]
    fn only_the_intended_machine_can_open_a_sealed_text_and_only_for_its_run() {
        let (own, other) = (SealingKey::generate().expect("a key"), SealingKey::generate().expect("a key"));
        let (run, machine) = (RunId::from_bytes([1; 16]), MachineId::from_bytes([2; 16]));
        let sealed = seal(&own.public(), &run, &machine, r#"{"pin":"1234"}"#).expect("sealed");
        assert_eq!(own.open(&run, &machine, &sealed).as_deref(), Ok(r#"{"pin":"1234"}"#));
        assert_eq!(other.open(&run, &machine, &sealed), Err(SealError::Foreign));
        assert_eq!(own.open(&RunId::from_bytes([9; 16]), &machine, &sealed), Err(SealError::Foreign));
        assert_eq!(own.open(&run, &MachineId::from_bytes([9; 16]), &sealed), Err(SealError::Foreign));
        let mut flipped = STANDARD_NO_PAD.decode(&sealed).expect("base64");
        for byte in 0..flipped.len() {
            flipped[byte] ^= 1;
            assert_eq!(own.open(&run, &machine, &STANDARD_NO_PAD.encode(&flipped)), Err(SealError::Foreign));
            flipped[byte] ^= 1;
        }
        assert!(own.open(&run, &machine, "").is_err() && own.open(&run, &machine, "AAAA").is_err());
        // The padding hides the length of the pin.
        let longer = seal(&own.public(), &run, &machine, r#"{"pin":"12345678"}"#).expect("sealed");
        assert_eq!(longer.len(), sealed.len());
    }

    #[test]
    fn a_hub_cannot_substitute_a_machines_sealing_key() {
        let (evidence, evil) = (SigningKey::generate().expect("a key"), SigningKey::generate().expect("a key"));
        let machine = machine_id(&evidence.public());
        let sealing_key = SealingKey::generate().expect("a key").public();
        let statement = envelope::seal(&SealedTo { machine, sealing_key }, &evidence, Version::OLDEST).expect("signed");
        assert_eq!(believe(&statement, &evidence.public(), &machine), Ok(sealing_key));
        let swapped = envelope::seal(&SealedTo { machine, sealing_key }, &evil, Version::OLDEST).expect("signed");
        assert_eq!(believe(&swapped, &evil.public(), &machine), Err(SealError::NotItsOwn));
        assert_eq!(believe(&swapped, &evidence.public(), &machine), Err(SealError::NotItsOwn));
    }
}
