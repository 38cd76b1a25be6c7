//! Proofs on the enrollment door, and the four words that people compare.
//!
//! All proofs cover the TLS exporter of their link, so none can be replayed on another link.

use crate::identity::{SigningKey, verify};
use crate::words;
use aws_lc_rs::{constant_time, hmac, pbkdf2};
use fernwart_protocol::diagnosis::Language;
use fernwart_protocol::enroll::{Claim, Join, JoinStaff, StaffClaim};
use fernwart_protocol::id::{CustomerId, Digest, PublicKey, Signature};
use std::num::NonZeroU32;

/// PBKDF2 iterations for the words: about 60 ms, which a person waits for once. A hub that searches
/// for other keys with the same words needs 2^32 times as much.
const WORD_ITERATIONS: NonZeroU32 = NonZeroU32::new(150_000).unwrap();

/// A key derived from the secret of an invitation, for proofs.
#[derive(Clone, PartialEq, Eq)]
pub struct ProofKey(pub [u8; 32]);

impl std::fmt::Debug for ProofKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ProofKey")
    }
}

impl ProofKey {
    fn prove(&self, transcript: &[u8]) -> Digest {
        let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &self.0), transcript);
        let mut out = [0u8; 32];
        out.copy_from_slice(tag.as_ref());
        Digest::from_bytes(out)
    }

    fn accepts(&self, transcript: &[u8], proof: &Digest) -> bool {
        constant_time::verify_slices_are_equal(self.prove(transcript).as_bytes(), proof.as_bytes()).is_ok()
    }
}

fn transcript(domain: &str, binding: &[u8; 32], parts: &[&[u8]]) -> Vec<u8> {
    let mut all = format!("{domain}\n").into_bytes();
    all.extend_from_slice(binding);
    for part in parts {
        all.extend_from_slice(&(part.len() as u32).to_be_bytes());
        all.extend_from_slice(part);
    }
    all
}

fn join_transcript(binding: &[u8; 32], join: &Join) -> Vec<u8> {
    let parts: [&[u8]; 4] =
        [join.token.as_bytes(), join.tls_key.as_bytes(), join.evidence_key.as_bytes(), join.sealing_key.as_bytes()];
    transcript("fernwart join 1", binding, &parts)
}

fn join_staff_transcript(binding: &[u8; 32], join: &JoinStaff) -> Vec<u8> {
    let parts: [&[u8]; 4] =
        [join.token.as_bytes(), join.tls_key.as_bytes(), join.order_key.as_bytes(), join.name.as_raw().as_bytes()];
    transcript("fernwart join staff 1", binding, &parts)
}

fn claim_transcript(binding: &[u8; 32], claim: &Claim) -> Vec<u8> {
    transcript("fernwart claim 1", binding, &[claim.machine.as_bytes(), claim.tls_key.as_bytes()])
}

fn staff_claim_transcript(binding: &[u8; 32], claim: &StaffClaim) -> Vec<u8> {
    transcript("fernwart staff claim 1", binding, &[claim.key.as_bytes()])
}

/// Fills in a join's proof and signature for this link.
pub fn prove_join(mut join: Join, binding: &[u8; 32], secret: &ProofKey, evidence: &SigningKey) -> Join {
    let transcript = join_transcript(binding, &join);
    join.proof = secret.prove(&transcript);
    join.signature = evidence.sign(&transcript);
    join
}

/// Whether a join proves its invitation and its evidence key on this link.
pub fn check_join(join: &Join, binding: &[u8; 32], secret: &ProofKey) -> JoinProof {
    let transcript = join_transcript(binding, join);
    judge(secret.accepts(&transcript, &join.proof), verify(&join.evidence_key, &transcript, &join.signature))
}

/// Fills in a staff member's proof and signature for this link.
pub fn prove_join_staff(mut join: JoinStaff, binding: &[u8; 32], secret: &ProofKey, order: &SigningKey) -> JoinStaff {
    let transcript = join_staff_transcript(binding, &join);
    join.proof = secret.prove(&transcript);
    join.signature = order.sign(&transcript);
    join
}

/// Whether a staff join proves its invitation and its order key on this link.
pub fn check_join_staff(join: &JoinStaff, binding: &[u8; 32], secret: &ProofKey) -> JoinProof {
    let transcript = join_staff_transcript(binding, join);
    judge(secret.accepts(&transcript, &join.proof), verify(&join.order_key, &transcript, &join.signature))
}

/// What a join has proved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JoinProof {
    /// The invitation's secret and the key.
    Holds,
    /// Not even the invitation's secret.
    NoInvitation,
    /// Only the invitation's secret, not the key.
    NoKey,
}

fn judge(invitation: bool, key: bool) -> JoinProof {
    match (invitation, key) {
        (false, _) => JoinProof::NoInvitation,
        (true, false) => JoinProof::NoKey,
        (true, true) => JoinProof::Holds,
    }
}

/// Signs a claim for this link.
pub fn prove_claim(mut claim: Claim, binding: &[u8; 32], evidence: &SigningKey) -> Claim {
    claim.signature = evidence.sign(&claim_transcript(binding, &claim));
    claim
}

/// Whether the machine's evidence key has signed this claim on this link.
pub fn check_claim(claim: &Claim, binding: &[u8; 32], evidence: &PublicKey) -> bool {
    verify(evidence, &claim_transcript(binding, claim), &claim.signature)
}

/// Signs a staff claim for this link.
pub fn prove_staff_claim(mut claim: StaffClaim, binding: &[u8; 32], order: &SigningKey) -> StaffClaim {
    claim.signature = order.sign(&staff_claim_transcript(binding, &claim));
    claim
}

/// Whether the order key has signed this claim on this link.
pub fn check_staff_claim(claim: &StaffClaim, binding: &[u8; 32], order: &PublicKey) -> bool {
    verify(order, &staff_claim_transcript(binding, claim), &claim.signature)
}

/// A placeholder for a signature that is added later.
pub fn unsigned() -> Signature {
    Signature::from_bytes([0; 64])
}

/// Four words that machine and technician compute independently, from data that each of them knows.
/// If a hub exchanges a key, the words differ.
pub fn four_words(
    evidence: &PublicKey,
    tls_key: &Digest,
    root: &Digest,
    customer: &CustomerId,
    language: Language,
) -> [&'static str; 4] {
    let mut input = Vec::with_capacity(32 * 3 + 16);
    input.extend_from_slice(evidence.as_bytes());
    input.extend_from_slice(tls_key.as_bytes());
    input.extend_from_slice(root.as_bytes());
    input.extend_from_slice(customer.as_bytes());
    let mut out = [0u8; 4];
    pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA256, WORD_ITERATIONS, b"fernwart words 1", &input, &mut out);
    out.map(|byte| words::word(byte, language))
}
