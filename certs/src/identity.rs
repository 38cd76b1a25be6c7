//! Keys and the names that follow from them.
//!
//! Ed25519 keys sign (order, evidence, approver, snapshot, timestamp), a P-256 key is used for TLS,
//! and an X25519 key decrypts what is sealed. Ids are hashes of public keys, so an id cannot be
//! assigned to another key.

use crate::keyfile::{self, KeyFileError};
use crate::{sha256, short_id};
use aws_lc_rs::agreement;
use aws_lc_rs::encoding::{AsBigEndian, AsDer, Curve25519SeedBin, PublicKeyX509Der};
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair};
use fernwart_protocol::codec;
use fernwart_protocol::document::UnixMs;
use fernwart_protocol::id::{Digest, KeyId, MachineId, PublicKey, Signature};
use fernwart_protocol::text::{Blob, List};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use serde::{Deserialize, Serialize};
use std::path::Path;
use std::sync::Arc;

/// Keys could not be made; the system lacks randomness.
#[derive(Debug, thiserror::Error)]
#[error("making a key")]
pub struct KeyGeneration;

/// Bytes that hold no key of the expected kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("reading an Ed25519 key")]
pub struct NotAKey;

/// An Ed25519 key that signs.
pub struct SigningKey {
    pair: Ed25519KeyPair,
    pkcs8: Vec<u8>,
}

impl std::fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SigningKey({})", self.public())
    }
}

impl SigningKey {
    /// A new key.
    ///
    /// # Errors
    /// When there is no randomness.
    pub fn generate() -> Result<Self, KeyGeneration> {
        let pair = Ed25519KeyPair::generate().map_err(|_| KeyGeneration)?;
        let pkcs8 = pair.to_pkcs8v1().map_err(|_| KeyGeneration)?.as_ref().to_vec();
        Ok(Self { pair, pkcs8 })
    }

    /// Reads a key file.
    ///
    /// # Errors
    /// When the file is unsafe or holds no such key.
    pub fn read(path: &Path) -> Result<Self, KeyFileError> {
        Self::from_pkcs8(keyfile::read(path)?).map_err(|_| KeyFileError::Content { path: path.to_owned() })
    }

    /// The key in a PKCS#8 document, DER.
    ///
    /// # Errors
    /// When it holds no such key.
    pub fn from_pkcs8(pkcs8: Vec<u8>) -> Result<Self, NotAKey> {
        let pair = Ed25519KeyPair::from_pkcs8(&pkcs8).map_err(|_| NotAKey)?;
        Ok(Self { pair, pkcs8 })
    }

    /// Writes a new key file.
    ///
    /// # Errors
    /// When it exists or cannot be written.
    pub fn create(&self, path: &Path) -> Result<(), KeyFileError> {
        keyfile::create(path, &self.pkcs8)
    }

    /// PKCS#8, DER.
    #[cfg(feature = "approve")]
    pub(crate) fn pkcs8(&self) -> &[u8] {
        &self.pkcs8
    }

    /// The public key.
    #[expect(clippy::expect_used, reason = "an Ed25519 public key has 32 bytes (RFC 8032, 5.1.5)")]
    pub fn public(&self) -> PublicKey {
        PublicKey::from_bytes(self.pair.public_key().as_ref().try_into().expect("32 bytes"))
    }

    /// Signs a message.
    #[expect(clippy::expect_used, reason = "an Ed25519 signature has 64 bytes (RFC 8032, 5.1.6)")]
    pub fn sign(&self, message: &[u8]) -> Signature {
        Signature::from_bytes(self.pair.sign(message).as_ref().try_into().expect("64 bytes"))
    }
}

/// Whether a key made this signature.
pub fn verify(key: &PublicKey, message: &[u8], signature: &Signature) -> bool {
    aws_lc_rs::signature::UnparsedPublicKey::new(&aws_lc_rs::signature::ED25519, key.as_bytes())
        .verify(message, signature.as_bytes())
        .is_ok()
}

/// A P-256 key for TLS.
pub struct TlsKey {
    pkcs8: Vec<u8>,
    spki: Vec<u8>,
}

impl std::fmt::Debug for TlsKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "TlsKey({})", self.digest())
    }
}

impl TlsKey {
    /// A new key.
    ///
    /// # Errors
    /// When there is no randomness.
    pub fn generate() -> Result<Self, KeyGeneration> {
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING).map_err(|_| KeyGeneration)?;
        let pkcs8 = pair.to_pkcs8v1().map_err(|_| KeyGeneration)?.as_ref().to_vec();
        Self::from_pkcs8(pkcs8).ok_or(KeyGeneration)
    }

    fn from_pkcs8(pkcs8: Vec<u8>) -> Option<Self> {
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &pkcs8).ok()?;
        let spki = AsDer::<PublicKeyX509Der>::as_der(pair.public_key()).ok()?.as_ref().to_vec();
        Some(Self { pkcs8, spki })
    }

    /// Reads a key file.
    ///
    /// # Errors
    /// When the file is unsafe or holds no such key.
    pub fn read(path: &Path) -> Result<Self, KeyFileError> {
        Self::from_pkcs8(keyfile::read(path)?).ok_or_else(|| KeyFileError::Content { path: path.to_owned() })
    }

    /// Writes a new key file.
    ///
    /// # Errors
    /// When it exists or cannot be written.
    pub fn create(&self, path: &Path) -> Result<(), KeyFileError> {
        keyfile::create(path, &self.pkcs8)
    }

    /// SubjectPublicKeyInfo, DER.
    pub fn spki(&self) -> &[u8] {
        &self.spki
    }

    /// SHA-256 of the SubjectPublicKeyInfo.
    pub fn digest(&self) -> Digest {
        sha256(&self.spki)
    }

    /// The key in the form that rustls needs.
    pub fn private_key(&self) -> PrivateKeyDer<'static> {
        PrivatePkcs8KeyDer::from(self.pkcs8.clone()).into()
    }

    /// PKCS#8, DER.
    #[cfg(feature = "issue")]
    pub(crate) fn pkcs8(&self) -> &[u8] {
        &self.pkcs8
    }
}

/// A TLS key with its certificate, in one file, so that the two are always replaced together.
#[derive(Debug, Clone)]
pub struct TlsIdentity {
    /// The key.
    pub key: Arc<TlsKey>,
    /// The certificate and its issuer; empty before the first certificate was issued.
    pub chain: Vec<CertificateDer<'static>>,
}

#[derive(Serialize, Deserialize)]
struct TlsIdentityFile {
    pkcs8: Blob<512>,
    chain: List<Blob<4096>, 4>,
}

impl TlsIdentity {
    /// A new key without a certificate.
    ///
    /// # Errors
    /// When there is no randomness.
    pub fn generate() -> Result<Self, KeyGeneration> {
        Ok(Self { key: Arc::new(TlsKey::generate()?), chain: Vec::new() })
    }

    /// Reads the file.
    ///
    /// # Errors
    /// When the file is unsafe or holds something else.
    pub fn read(path: &Path) -> Result<Self, KeyFileError> {
        let content = || KeyFileError::Content { path: path.to_owned() };
        let file: TlsIdentityFile = codec::decode(&keyfile::read(path)?).map_err(|_| content())?;
        let key = TlsKey::from_pkcs8(file.pkcs8.into_bytes()).map(Arc::new).ok_or_else(content)?;
        let chain = file.chain.into_iter().map(|der| CertificateDer::from(der.into_bytes())).collect();
        Ok(Self { key, chain })
    }

    /// Writes the file, replacing an existing one.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&self, path: &Path) -> Result<(), KeyFileError> {
        let content = || KeyFileError::Content { path: path.to_owned() };
        let chain = self.chain.iter().map(|der| Blob::try_from(der.to_vec())).collect::<Result<Vec<_>, _>>();
        let file = TlsIdentityFile {
            pkcs8: Blob::try_from(self.key.pkcs8.clone()).map_err(|_| content())?,
            chain: chain.ok().and_then(|chain| List::try_from(chain).ok()).ok_or_else(content)?,
        };
        keyfile::replace(path, &codec::encode(&file).map_err(|_| content())?)
    }

    /// The certificate's validity, Unix milliseconds; `None` without one.
    pub fn lasts(&self) -> Option<(UnixMs, UnixMs)> {
        let (_, leaf) = x509_parser::parse_x509_certificate(self.chain.first()?).ok()?;
        let ms = |at: x509_parser::time::ASN1Time| at.timestamp().saturating_mul(1000);
        Some((ms(leaf.validity().not_before), ms(leaf.validity().not_after)))
    }

    /// Whether the hub now issues certificates from another pinned CA than the one ours is from.
    /// `shown` is the hub's chain on a link.
    pub fn is_outdated_by(&self, shown: &[CertificateDer<'_>], pins: &[Digest]) -> bool {
        let (Some(ours), Some(now)) = (self.chain.get(1), shown.get(1)) else { return false };
        ours != now && pins.contains(&crate::sha256(now))
    }
}

/// An X25519 key that decrypts what is sealed to a machine.
pub struct SealingKey {
    seed: Vec<u8>,
    public: PublicKey,
}

impl SealingKey {
    /// A new key.
    ///
    /// # Errors
    /// When there is no randomness.
    pub fn generate() -> Result<Self, KeyGeneration> {
        let key = agreement::PrivateKey::generate(&agreement::X25519).map_err(|_| KeyGeneration)?;
        let seed = AsBigEndian::<Curve25519SeedBin>::as_be_bytes(&key).map_err(|_| KeyGeneration)?;
        Self::from_seed(seed.as_ref().to_vec()).ok_or(KeyGeneration)
    }

    pub(crate) fn seed(&self) -> &[u8] {
        &self.seed
    }

    fn from_seed(seed: Vec<u8>) -> Option<Self> {
        let key = agreement::PrivateKey::from_private_key(&agreement::X25519, &seed).ok()?;
        let public = PublicKey::from_bytes(key.compute_public_key().ok()?.as_ref().try_into().ok()?);
        Some(Self { seed, public })
    }

    /// Reads a key file.
    ///
    /// # Errors
    /// When the file is unsafe or holds no such key.
    pub fn read(path: &Path) -> Result<Self, KeyFileError> {
        Self::from_seed(keyfile::read(path)?).ok_or_else(|| KeyFileError::Content { path: path.to_owned() })
    }

    /// Writes a new key file.
    ///
    /// # Errors
    /// When it exists or cannot be written.
    pub fn create(&self, path: &Path) -> Result<(), KeyFileError> {
        keyfile::create(path, &self.seed)
    }

    /// The public key.
    pub fn public(&self) -> PublicKey {
        self.public
    }
}

/// The id of the machine that holds an evidence key.
pub fn machine_id(evidence: &PublicKey) -> MachineId {
    MachineId::from_bytes(short_id("fernwart machine 1", &[evidence.as_bytes()]))
}

/// The id of a staff member's two keys; it commits to both.
pub fn staff_key_id(order: &PublicKey, tls_key: &Digest) -> KeyId {
    KeyId::from_bytes(short_id("fernwart staff 1", &[order.as_bytes(), tls_key.as_bytes()]))
}

/// The id of any other signing key: approver, hub evidence.
pub fn key_id(public: &PublicKey) -> KeyId {
    KeyId::from_bytes(short_id("fernwart key 1", &[public.as_bytes()]))
}
