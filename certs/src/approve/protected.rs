//! A signing key protected by a passphrase: Argon2id (RFC 9106) derives a key from the passphrase,
//! and AES-256-GCM encrypts the private key with it.
//!
//! The public key is stored unencrypted, so that the key can be identified without the passphrase.
//! It is authenticated together with the ciphertext.

use super::hex;
use crate::identity::SigningKey;
use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use fernwart_protocol::id::PublicKey;
use serde::{Deserialize, Serialize};

/// Memory for one guess, KiB, and passes over it: a second or less on one core.
const COST: Cost = Cost { memory_kib: 64 * 1024, passes: 3 };

/// The highest cost that is accepted from a file; we never write more.
const MOST: Cost = Cost { memory_kib: 1024 * 1024, passes: 16 };

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Cost {
    memory_kib: u32,
    passes: u32,
}

/// A protected key in the format of its file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProtectedKey {
    v: u32,
    /// The public key.
    pub public: PublicKey,
    argon2id: Cost,
    salt: String,
    nonce: String,
    sealed: String,
}

/// A protected key cannot be made or opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ProtectError {
    /// Wrong passphrase, or an altered file.
    #[error("the passphrase does not open this key")]
    Passphrase,
    /// The file is no protected key, or its cost is too high.
    #[error("reading a protected key")]
    Content,
}

fn bytes(text: &str) -> Option<Vec<u8>> {
    let digits = text.as_bytes();
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    digits.len().is_multiple_of(2).then(|| digits.chunks(2).map(byte).collect())?
}

fn key_of(passphrase: &str, salt: &[u8], cost: Cost) -> Result<LessSafeKey, ProtectError> {
    let content = |_| ProtectError::Content;
    if cost.memory_kib > MOST.memory_kib || cost.passes > MOST.passes {
        return Err(ProtectError::Content);
    }
    let parameters = argon2::Params::new(cost.memory_kib, cost.passes, 1, Some(32)).map_err(content)?;
    let argon2 = argon2::Argon2::new(argon2::Algorithm::Argon2id, argon2::Version::V0x13, parameters);
    let mut key = [0u8; 32];
    argon2.hash_password_into(passphrase.as_bytes(), salt, &mut key).map_err(content)?;
    let unbound = UnboundKey::new(&AES_256_GCM, &key).map_err(|_| ProtectError::Content)?;
    Ok(LessSafeKey::new(unbound))
}

impl ProtectedKey {
    /// Encrypts a key with a passphrase.
    ///
    /// # Errors
    /// When the crypto library refuses.
    pub fn seal(key: &SigningKey, passphrase: &str) -> Result<Self, ProtectError> {
        let (salt, nonce) = (crate::random::<16>(), crate::random::<NONCE_LEN>());
        let mut sealed = key.pkcs8().to_vec();
        let with = key_of(passphrase, &salt, COST)?;
        let public = key.public();
        with.seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::from(public.as_bytes()), &mut sealed)
            .map_err(|_| ProtectError::Content)?;
        Ok(Self { v: 1, public, argon2id: COST, salt: hex(&salt), nonce: hex(&nonce), sealed: hex(&sealed) })
    }

    /// Parses a file's content; `None` if it is something else.
    pub fn read(content: &[u8]) -> Option<Self> {
        serde_json::from_slice(content).ok()
    }

    /// Encodes it for its file.
    ///
    /// # Errors
    /// Never for a key made here.
    pub fn to_bytes(&self) -> Result<Vec<u8>, ProtectError> {
        serde_json::to_vec(self).map_err(|_| ProtectError::Content)
    }

    /// Decrypts it.
    ///
    /// # Errors
    /// When the passphrase is wrong, or the file was altered.
    pub fn open(&self, passphrase: &str) -> Result<SigningKey, ProtectError> {
        let read = |text: &str| bytes(text).ok_or(ProtectError::Content);
        let (salt, mut sealed) = (read(&self.salt)?, read(&self.sealed)?);
        let nonce: [u8; NONCE_LEN] = read(&self.nonce)?.try_into().map_err(|_| ProtectError::Content)?;
        let with = key_of(passphrase, &salt, self.argon2id)?;
        let opened = with
            .open_in_place(Nonce::assume_unique_for_key(nonce), Aad::from(self.public.as_bytes()), &mut sealed)
            .map_err(|_| ProtectError::Passphrase)?;
        let key = SigningKey::from_pkcs8(opened.to_vec()).map_err(|_| ProtectError::Content)?;
        if key.public() == self.public { Ok(key) } else { Err(ProtectError::Content) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_protected_key_opens_only_with_its_own_passphrase() {
        let key = SigningKey::generate().expect("a key");
        let sealed = ProtectedKey::seal(&key, "lampe kiesel anker").expect("sealed");
        let content = sealed.to_bytes().expect("written");
        let read = ProtectedKey::read(&content).expect("read");
        assert_eq!(read.open("lampe kiesel anker").expect("opened").public(), key.public());
        for wrong in ["", "lampe kiesel anke", "Lampe kiesel anker"] {
            assert_eq!(read.open(wrong).expect_err("closed"), ProtectError::Passphrase);
        }
        // The public key is authenticated, so the key does not open under another one.
        let other = ProtectedKey { public: SigningKey::generate().expect("a key").public(), ..read.clone() };
        assert_eq!(other.open("lampe kiesel anker").expect_err("closed"), ProtectError::Passphrase);
        // A file with an excessive memory cost is rejected before the memory is allocated.
        let greedy = ProtectedKey { argon2id: Cost { memory_kib: u32::MAX, passes: 1 }, ..read };
        assert_eq!(greedy.open("x").expect_err("closed"), ProtectError::Content);
        assert!(ProtectedKey::read(key.pkcs8()).is_none());
    }
}
