//! The one function that turns a link's door and certificate into a peer.
//!
//! It is asked on every link, resumed or not: a resumed TLS session carries
//! the certificate of its first handshake, at which nobody has looked since.

use crate::sha256;
use fernwart_protocol::document::UnixMs;
use fernwart_protocol::id::{Digest, KeyId, MachineId};
use fernwart_protocol::link::Door;
use rustls::pki_types::CertificateDer;
use x509_parser::prelude::{FromDer, GeneralName, ParsedExtension, X509Certificate};

/// Who a peer has shown to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Peer {
    /// Nobody yet: may only enroll.
    Newcomer,
    /// A machine.
    Machine {
        /// Which.
        id: MachineId,
        /// Its TLS key.
        tls_key: Digest,
        /// When its certificate ends.
        until: UnixMs,
    },
    /// A technician or robot.
    Staff {
        /// Which.
        key: KeyId,
        /// Its TLS key.
        tls_key: Digest,
        /// When its certificate ends.
        until: UnixMs,
    },
}

/// Why a peer may not come through the door.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotAdmitted {
    /// The door needs a certificate.
    #[error("no certificate was shown")]
    NoCertificate,
    /// The certificate is none of ours, or of no kind we issue.
    #[error("the certificate is not one this hub issues")]
    Foreign,
    /// The certificate names somebody the door is not for.
    #[error("the certificate is for another door")]
    WrongDoor,
    /// The certificate has run out.
    #[error("the certificate has run out")]
    Expired,
}

/// Whom a certificate names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Name {
    /// A machine.
    Machine(MachineId),
    /// A staff key.
    Staff(KeyId),
}

impl Name {
    /// The URI that stands in the certificate.
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

/// What a certificate of ours says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Certified {
    /// Whom it names.
    pub name: Name,
    /// SHA-256 of its SubjectPublicKeyInfo.
    pub tls_key: Digest,
    /// Not valid before.
    pub from: UnixMs,
    /// Not valid after.
    pub until: UnixMs,
}

/// Reads a client certificate of our template, issued by `ca`.
///
/// The signature over it was checked by TLS when the certificate was first
/// shown; here its issuer is compared by key.
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

/// Whether whoever holds these pins may take a certificate from this CA: it is
/// pinned, or the hub has shown it on a link that TLS verified against a pin.
pub fn may_issue(ca: &CertificateDer<'_>, pins: &[Digest], shown: &[CertificateDer<'_>]) -> bool {
    pins.contains(&sha256(ca)) || shown.get(1) == Some(ca)
}

/// Who stands behind a link, from its door and the certificates shown.
///
/// `cas` are those in use: two while the hub's CA is replaced.
/// Whether that somebody is still welcome (admitted, not retired, on the staff
/// list, not suspended) is for the caller, who keeps those lists.
///
/// # Errors
/// When nobody may come through this door with these certificates.
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
