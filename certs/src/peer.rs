//! The one function that derives an authenticated peer from a link's door and certificate.
//!
//! It is called for every link, resumed or not. A resumed TLS session carries the certificate of
//! its first handshake, which TLS has not checked since.

use crate::sha256;
use fernwart_protocol::document::UnixMs;
use fernwart_protocol::id::{Digest, KeyId, MachineId};
use fernwart_protocol::link::Door;
use rustls::pki_types::CertificateDer;
use x509_parser::prelude::{FromDer, GeneralName, ParsedExtension, X509Certificate};

/// The authenticated identity of a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Peer {
    /// Unauthenticated: may only enroll.
    Newcomer,
    /// A machine.
    Machine {
        /// Its id.
        id: MachineId,
        /// Its TLS key.
        tls_key: Digest,
        /// When its certificate ends.
        until: UnixMs,
    },
    /// A technician or robot.
    Staff {
        /// Its key id.
        key: KeyId,
        /// Its TLS key.
        tls_key: Digest,
        /// When its certificate ends.
        until: UnixMs,
    },
}

/// Why a peer is not admitted through a door.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotAdmitted {
    /// The door needs a certificate.
    #[error("no certificate was shown")]
    NoCertificate,
    /// The certificate is not from our CA, or of a kind that we do not issue.
    #[error("the certificate is not one this hub issues")]
    Foreign,
    /// The certificate is for a peer of another door.
    #[error("the certificate is for another door")]
    WrongDoor,
    /// The certificate has run out.
    #[error("the certificate has run out")]
    Expired,
}

/// The identity in a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Name {
    /// A machine.
    Machine(MachineId),
    /// A staff key.
    Staff(KeyId),
}

impl Name {
    /// The URI in the certificate.
    pub fn uri(&self) -> String {
        match self {
            Self::Machine(id) => format!("fernwart://machine/{id}"),
            Self::Staff(key) => format!("fernwart://staff/{key}"),
        }
    }

    fn from_uri(uri: &str) -> Option<Self> {
        if let Some(id) = uri.strip_prefix("fernwart://machine/") {
            return id.parse().ok().map(Self::Machine);
        }
        uri.strip_prefix("fernwart://staff/")?.parse().ok().map(Self::Staff)
    }
}

/// The content of one of our certificates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Certified {
    /// The identity.
    pub name: Name,
    /// SHA-256 of its SubjectPublicKeyInfo.
    pub tls_key: Digest,
    /// Not valid before.
    pub from: UnixMs,
    /// Not valid after.
    pub until: UnixMs,
}

/// Parses a client certificate of our template, issued by `ca`.
///
/// TLS checked its signature when the certificate was first presented; this function compares the
/// issuer by key.
///
/// # Errors
/// When it is of another template or another issuer.
pub fn read_certificate(certificate: &CertificateDer<'_>, ca: &CertificateDer<'_>) -> Result<Certified, NotAdmitted> {
    let foreign = |_| NotAdmitted::Foreign;
    let (_, leaf) = X509Certificate::from_der(certificate).map_err(foreign)?;
    let (_, ca) = X509Certificate::from_der(ca).map_err(foreign)?;
    if leaf.is_ca() || leaf.issuer() != ca.subject() || authority_key(&leaf) != subject_key(&ca) {
        return Err(NotAdmitted::Foreign);
    }
    let client = leaf.extended_key_usage().ok().flatten().is_some_and(|usage| usage.value.client_auth);
    let names = leaf.subject_alternative_name().ok().flatten();
    let name = match names.as_ref().map(|names| names.value.general_names.as_slice()) {
        Some([GeneralName::URI(uri)]) if client => Name::from_uri(uri).ok_or(NotAdmitted::Foreign)?,
        _ => return Err(NotAdmitted::Foreign),
    };
    let ms = |seconds: i64| seconds.saturating_mul(1000);
    Ok(Certified {
        name,
        tls_key: sha256(leaf.public_key().raw),
        from: ms(leaf.validity().not_before.timestamp()),
        until: ms(leaf.validity().not_after.timestamp()),
    })
}

/// A certificate's SubjectPublicKeyInfo, DER.
pub fn public_key_of(certificate: &CertificateDer<'_>) -> Option<Vec<u8>> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    Some(parsed.public_key().raw.to_vec())
}

fn authority_key<'a>(certificate: &X509Certificate<'a>) -> Option<&'a [u8]> {
    certificate.extensions().iter().find_map(|extension| match extension.parsed_extension() {
        ParsedExtension::AuthorityKeyIdentifier(id) => id.key_identifier.as_ref().map(|id| id.0),
        _ => None,
    })
}

fn subject_key<'a>(certificate: &X509Certificate<'a>) -> Option<&'a [u8]> {
    certificate.extensions().iter().find_map(|extension| match extension.parsed_extension() {
        ParsedExtension::SubjectKeyIdentifier(id) => Some(id.0),
        _ => None,
    })
}

/// Whether a holder of these pins may accept a certificate from this CA: it is pinned, or the hub
/// has presented it on a link that TLS verified against a pin.
pub fn may_issue(ca: &CertificateDer<'_>, pins: &[Digest], shown: &[CertificateDer<'_>]) -> bool {
    pins.contains(&sha256(ca)) || shown.get(1) == Some(ca)
}

/// Identifies the peer of a link, from its door and the certificates presented.
///
/// `cas` are those in use: two while the hub's CA is being replaced. The caller must check whether
/// the peer is still allowed (admitted, not retired, on the staff list, not suspended), since it
/// keeps those lists.
///
/// # Errors
/// When these certificates admit no peer to this door.
pub fn identify(
    door: Door,
    shown: &[CertificateDer<'_>],
    cas: &[CertificateDer<'_>],
    now: UnixMs,
) -> Result<Peer, NotAdmitted> {
    let leaf = match (door, shown.first()) {
        (Door::Enroll, None) => return Ok(Peer::Newcomer),
        (Door::Enroll, Some(_)) => return Err(NotAdmitted::WrongDoor),
        (Door::Agent | Door::Staff, None) => return Err(NotAdmitted::NoCertificate),
        (Door::Agent | Door::Staff, Some(leaf)) => leaf,
    };
    let issued = cas.iter().find_map(|ca| read_certificate(leaf, ca).ok());
    let Certified { name, tls_key, from, until } = issued.ok_or(NotAdmitted::Foreign)?;
    if now > until || now < from {
        return Err(NotAdmitted::Expired);
    }
    match (door, name) {
        (Door::Agent, Name::Machine(id)) => Ok(Peer::Machine { id, tls_key, until }),
        (Door::Staff, Name::Staff(key)) => Ok(Peer::Staff { key, tls_key, until }),
        _ => Err(NotAdmitted::WrongDoor),
    }
}
