//! Identities and authority: who a peer is, and what it may sign.
//!
//! This crate holds keys and their files, TLS for each role, the one function that authenticates a
//! peer, invitations and enrollment proofs, signed envelopes, and the catalogue (TUF). It only
//! imports `protocol`, opens no socket and has no database. The features `issue` (certificates) and
//! `approve` (drafts of the catalogue) are only for hubs and signing ceremonies; the agent is built
//! without them.

#[cfg(feature = "approve")]
pub mod approve;
pub mod catalogue;
pub mod chain;
pub mod disk;
pub mod envelope;
pub mod identity;
pub mod invitation;
#[cfg(feature = "issue")]
pub mod issue;
pub mod join;
pub mod journal;
pub mod keyfile;
pub mod lock;
pub mod peer;
pub mod sealed;
pub mod tls;
mod words;

pub use rustls::pki_types::CertificateDer;

use aws_lc_rs::digest::{Context, SHA256, digest};
use fernwart_protocol::id::Digest;

/// SHA-256.
pub fn sha256(bytes: &[u8]) -> Digest {
    let mut out = [0u8; 32];
    out.copy_from_slice(digest(&SHA256, bytes).as_ref());
    Digest::from_bytes(out)
}

/// Bytes as lower-case hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// An incremental SHA-256.
pub struct Sha256(Context);

impl Sha256 {
    /// The state before any input.
    pub fn new() -> Self {
        Self(Context::new(&SHA256))
    }

    /// Adds a piece.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The hash of all pieces.
    pub fn finish(self) -> Digest {
        let mut out = [0u8; 32];
        out.copy_from_slice(self.0.finish().as_ref());
        Digest::from_bytes(out)
    }
}

impl Default for Sha256 {
    fn default() -> Self {
        Self::new()
    }
}

/// Fresh random bytes.
///
/// # Panics
/// When the system has no randomness, without which nothing here is safe.
#[expect(clippy::expect_used, reason = "no key may be made without randomness")]
pub fn random<const N: usize>() -> [u8; N] {
    let mut out = [0u8; N];
    aws_lc_rs::rand::fill(&mut out).expect("the system gives randomness");
    out
}

/// The first 128 bits of SHA-256 over a domain line and parts.
fn short_id(domain: &str, parts: &[&[u8]]) -> [u8; 16] {
    let mut all = Vec::with_capacity(domain.len() + 1 + parts.iter().map(|part| part.len()).sum::<usize>());
    all.extend_from_slice(domain.as_bytes());
    all.push(b'\n');
    parts.iter().for_each(|part| all.extend_from_slice(part));
    let [first @ .., _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _] = *sha256(&all).as_bytes();
    first
}
