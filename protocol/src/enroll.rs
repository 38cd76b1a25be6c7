//! Messages on the enrollment door, where no peer has a certificate yet.
//!
//! There is no hello: newcomers have nothing that depends on a version. A request that was added
//! after this program is recognised by its variant number and answered *incompatible*; nothing else
//! of it is read, since the peer is unauthenticated.
//!
//! Every request fits into 8 KiB. Proofs are bound to the TLS link, so a message cannot be replayed
//! on another link.

use crate::code::Denial;
use crate::id::{CustomerId, Digest, KeyId, MachineId, PublicKey, Signature, TokenId};
use crate::text::{Blob, List, Text};
use serde::{Deserialize, Serialize};

/// The name of [`Request`] in serde and in [`crate::version::variants`].
pub const REQUEST: &str = "enroll.Request";

/// Requests; each is answered with one [`Reply`], after which the stream ends.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename = "enroll.Request")]
pub enum Request {
    /// A machine comes with an invitation.
    Join(Join),
    /// A machine that has joined asks for its certificate.
    Collect(Claim),
    /// A machine whose certificate has run out asks for a new one.
    Return(Claim),
    /// A technician or robot comes with an invitation.
    JoinStaff(JoinStaff),
    /// A technician who has joined asks for a certificate.
    CollectStaff(StaffClaim),
}

/// A machine introduces itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Join {
    /// The invitation.
    pub token: TokenId,
    /// HMAC-SHA-256 with the invitation's secret over the link and the keys.
    pub proof: Digest,
    /// The TLS public key: SubjectPublicKeyInfo, DER.
    pub tls_key: Blob<256>,
    /// The evidence public key.
    pub evidence_key: PublicKey,
    /// The sealing public key (X25519).
    pub sealing_key: PublicKey,
    /// Made with the evidence key over what the proof covers.
    pub signature: Signature,
    /// What the machine calls itself.
    pub hostname: Text<255>,
    /// The operating system in a few words.
    pub os: Text<64>,
}

/// A joined machine proves its identity.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    /// Which machine.
    pub machine: MachineId,
    /// The TLS public key to be certified: SubjectPublicKeyInfo, DER.
    pub tls_key: Blob<256>,
    /// Made with the evidence key over the link and the TLS key.
    pub signature: Signature,
}

/// A technician or robot introduces itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinStaff {
    /// The invitation.
    pub token: TokenId,
    /// HMAC-SHA-256 with the invitation's secret over the link and the keys.
    pub proof: Digest,
    /// The TLS public key: SubjectPublicKeyInfo, DER.
    pub tls_key: Blob<256>,
    /// The order public key.
    pub order_key: PublicKey,
    /// Made with the order key over what the proof covers.
    pub signature: Signature,
    /// The name the person goes by.
    pub name: Text<64>,
}

/// A technician who has joined proves the identity.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StaffClaim {
    /// Which key.
    pub key: KeyId,
    /// Made with the order key over the link.
    pub signature: Signature,
}

/// Answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename = "enroll.Reply")]
pub enum Reply {
    /// The join is noted; a person must admit it.
    Pending,
    /// Admitted: the certificate and its issuer, DER.
    Certificate(List<Blob<4096>, 4>),
    /// No.
    Denied(Denial),
}

/// A machine that has joined: what a technician's client needs to compute the words to compare.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Newcomer {
    /// The machine.
    pub machine: MachineId,
    /// Whose invitation it used.
    pub customer: CustomerId,
    /// SHA-256 of its TLS public key.
    pub tls_key: Digest,
    /// Its evidence public key.
    pub evidence_key: PublicKey,
}
