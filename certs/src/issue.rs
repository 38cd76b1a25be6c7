//! Issues certificates from a fixed template. Only the public key is taken from a request, so a
//! peer cannot ask for additional rights.

use crate::identity::TlsKey;
use crate::keyfile::{FileError, KeyFileError};
use crate::peer::Name;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1, ParsedPublicKey};
use fernwart_protocol::link::HUB_SERVER_NAME;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PublicKeyData, SanType,
};
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use std::path::Path;
use std::time::{Duration, SystemTime};

/// How long a machine's or technician's certificate lasts.
pub const MEMBER_LIFE: Duration = Duration::from_secs(365 * 24 * 3600);

/// How long the CA lasts.
const CA_LIFE: Duration = Duration::from_secs(20 * 365 * 24 * 3600);

/// How long the hub's own certificate lasts; a new one is issued at each start.
const HUB_LIFE: Duration = Duration::from_secs(2 * 365 * 24 * 3600);

/// How long before now certificates become valid, because clocks differ.
const EARLY: Duration = Duration::from_secs(15 * 60);

/// A certificate cannot be issued.
#[derive(Debug, thiserror::Error)]
pub enum IssueError {
    /// The key is not a P-256 SubjectPublicKeyInfo.
    #[error("the public key is not of the kind certificates are issued for")]
    Key,
    /// Key and certificate are of two CAs, probably from an incomplete restore of a backup.
    #[error("the CA's key and its certificate do not belong together")]
    Apart,
    /// rcgen refuses.
    #[error("issuing a certificate")]
    Rcgen(#[source] rcgen::Error),
    /// The CA's files cannot be used.
    #[error("reading the CA")]
    File(#[source] KeyFileError),
}

/// The hub's certificate authority.
pub struct Authority {
    certificate: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Authority")
    }
}

fn rcgen_pair(key: &TlsKey) -> Result<KeyPair, IssueError> {
    let der = PrivatePkcs8KeyDer::from(key.pkcs8().to_vec());
    KeyPair::from_pkcs8_der_and_sign_algo(&der, &rcgen::PKCS_ECDSA_P256_SHA256).map_err(IssueError::Rcgen)
}

fn serial() -> rcgen::SerialNumber {
    let mut number = crate::random::<16>();
    number[0] &= 0x7f;
    rcgen::SerialNumber::from_slice(&number)
}

fn template(names: Vec<SanType>, usage: ExtendedKeyUsagePurpose, life: Duration, now: SystemTime) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.serial_number = Some(serial());
    params.not_before = (now - EARLY).into();
    params.not_after = (now + life).into();
    params.subject_alt_names = names;
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![usage];
    params.use_authority_key_identifier_extension = true;
    params
}

impl Authority {
    /// Creates a CA certificate for this key, DER, which the caller must store.
    ///
    /// # Errors
    /// When rcgen refuses.
    pub fn create(key: &TlsKey, now: SystemTime) -> Result<CertificateDer<'static>, IssueError> {
        let mut params = CertificateParams::default();
        params.serial_number = Some(serial());
        params.not_before = (now - EARLY).into();
        params.not_after = (now + CA_LIFE).into();
        params.distinguished_name = rcgen::DistinguishedName::new();
        // Distinguishes two CAs of one organisation; it has no other meaning.
        let mark: String = crate::random::<4>().iter().map(|byte| format!("{byte:02x}")).collect();
        params.distinguished_name.push(DnType::CommonName, format!("Fernwart hub {mark}"));
        // One CA may be below it: its successor.
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(1));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let issuer = CertifiedIssuer::self_signed(params, rcgen_pair(key)?).map_err(IssueError::Rcgen)?;
        Ok(issuer.der().clone())
    }

    /// The CA of this key and certificate.
    ///
    /// # Errors
    /// When they cannot be used, or do not belong together.
    pub fn new(key: &TlsKey, certificate: CertificateDer<'static>) -> Result<Self, IssueError> {
        if crate::peer::public_key_of(&certificate).as_deref() != Some(key.spki()) {
            return Err(IssueError::Apart);
        }
        let params = ca_params(&certificate)?;
        Ok(Self { certificate, issuer: Issuer::new(params, rcgen_pair(key)?) })
    }

    /// Reads the CA's files.
    ///
    /// # Errors
    /// When they cannot be read safely, or hold no CA.
    pub fn read(key: &Path, certificate: &Path) -> Result<Self, IssueError> {
        let key = TlsKey::read(key).map_err(IssueError::File)?;
        let bytes = std::fs::read(certificate)
            .map_err(|source| IssueError::File(KeyFileError::Io(FileError::at("reading", certificate)(source))))?;
        Self::new(&key, CertificateDer::from(bytes))
    }

    /// The CA's certificate.
    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// Issues a bridge: a certificate for another CA. With it, a peer that only trusts this CA can
    /// verify certificates that the other CA issues.
    ///
    /// # Errors
    /// When the other is not one of our CAs.
    pub fn vouch_for(
        &self,
        other: &CertificateDer<'_>,
        now: SystemTime,
    ) -> Result<CertificateDer<'static>, IssueError> {
        let mut params = ca_params(other)?;
        params.serial_number = Some(serial());
        params.not_before = (now - EARLY).into();
        params.not_after = (now + CA_LIFE).into();
        params.use_authority_key_identifier_extension = true;
        let spki = crate::peer::public_key_of(other).ok_or(IssueError::Key)?;
        let bridge = params.signed_by(&p256(&spki)?, &self.issuer).map_err(IssueError::Rcgen)?;
        Ok(bridge.der().clone())
    }

    /// Issues a certificate for a machine or staff member, followed by its issuer.
    ///
    /// # Errors
    /// When the key is not a P-256 SubjectPublicKeyInfo, DER.
    pub fn issue_member(
        &self,
        name: Name,
        spki: &[u8],
        now: SystemTime,
    ) -> Result<Vec<CertificateDer<'static>>, IssueError> {
        let uri = name.uri().try_into().map_err(IssueError::Rcgen)?;
        let params = template(vec![SanType::URI(uri)], ExtendedKeyUsagePurpose::ClientAuth, MEMBER_LIFE, now);
        self.sign(params, spki)
    }

    /// Issues a certificate for the hub itself, followed by its issuer.
    ///
    /// # Errors
    /// When the key is not a P-256 SubjectPublicKeyInfo, DER.
    pub fn issue_hub(&self, spki: &[u8], now: SystemTime) -> Result<Vec<CertificateDer<'static>>, IssueError> {
        let name = HUB_SERVER_NAME.to_owned().try_into().map_err(IssueError::Rcgen)?;
        self.sign(template(vec![SanType::DnsName(name)], ExtendedKeyUsagePurpose::ServerAuth, HUB_LIFE, now), spki)
    }

    fn sign(&self, params: CertificateParams, spki: &[u8]) -> Result<Vec<CertificateDer<'static>>, IssueError> {
        let public = p256(spki)?;
        let certificate = params.signed_by(&public, &self.issuer).map_err(IssueError::Rcgen)?;
        Ok(vec![certificate.der().clone(), self.certificate.clone()])
    }
}

/// The bytes before the point in a P-256 SubjectPublicKeyInfo (RFC 5480, 2.1.1).
const P256_SPKI: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce,
    0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];

struct P256Point(Vec<u8>);

impl PublicKeyData for P256Point {
    fn der_bytes(&self) -> &[u8] {
        &self.0
    }
    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        &rcgen::PKCS_ECDSA_P256_SHA256
    }
}

/// Accepts only P-256 keys: no other kind is ever certified.
fn p256(spki: &[u8]) -> Result<P256Point, IssueError> {
    let point = spki.strip_prefix(&P256_SPKI).ok_or(IssueError::Key)?;
    ParsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, point).map_err(|_| IssueError::Key)?;
    if point.len() == 65 { Ok(P256Point(point.to_vec())) } else { Err(IssueError::Key) }
}

/// The parts of a CA certificate that signing needs: its name and key id.
fn ca_params(certificate: &CertificateDer<'_>) -> Result<CertificateParams, IssueError> {
    let bad = || IssueError::Rcgen(rcgen::Error::CouldNotParseCertificate);
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate).map_err(|_| bad())?;
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    let name = parsed.subject().iter_common_name().next().and_then(|name| name.as_str().ok()).ok_or_else(bad)?;
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let key_id = parsed.extensions().iter().find_map(|extension| match extension.parsed_extension() {
        x509_parser::extensions::ParsedExtension::SubjectKeyIdentifier(id) => Some(id.0.to_vec()),
        _ => None,
    });
    params.key_identifier_method = rcgen::KeyIdMethod::PreSpecified(key_id.ok_or_else(bad)?);
    Ok(params)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::peer::{NotAdmitted, Peer, identify, read_certificate};
    use fernwart_protocol::id::{KeyId, MachineId};
    use fernwart_protocol::link::Door;

    fn authority() -> (Authority, SystemTime) {
        let now = SystemTime::now();
        let key = TlsKey::generate().expect("a key");
        let certificate = Authority::create(&key, now).expect("a CA");
        (Authority::new(&key, certificate).expect("an authority"), now)
    }

    fn ms(at: SystemTime) -> i64 {
        at.duration_since(SystemTime::UNIX_EPOCH).expect("after 1970").as_millis() as i64
    }

    #[test]
    fn a_machine_is_identified_by_a_valid_certificate_at_its_own_door_only() {
        let (ca, now) = authority();
        let key = TlsKey::generate().expect("a key");
        let id = MachineId::from_bytes([5; 16]);
        let chain = ca.issue_member(Name::Machine(id), key.spki(), now).expect("issued");
        let at = |door, now| identify(door, &chain, std::slice::from_ref(ca.certificate()), ms(now));
        assert!(
            matches!(at(Door::Agent, now), Ok(Peer::Machine { id: i, tls_key, .. }) if i == id && tls_key == key.digest())
        );
        assert_eq!(at(Door::Staff, now), Err(NotAdmitted::WrongDoor));
        assert_eq!(at(Door::Enroll, now), Err(NotAdmitted::WrongDoor));
        assert_eq!(at(Door::Agent, now + MEMBER_LIFE + EARLY), Err(NotAdmitted::Expired));
        assert_eq!(at(Door::Agent, now - EARLY - EARLY), Err(NotAdmitted::Expired));
        assert_eq!(identify(Door::Agent, &[], &[], ms(now)), Err(NotAdmitted::NoCertificate));
        assert_eq!(identify(Door::Enroll, &[], &[], ms(now)), Ok(Peer::Newcomer));
    }

    #[test]
    fn each_door_accepts_only_its_certificates_and_only_while_they_are_valid() {
        let ((ca, now), (next, _), (other, _)) = (authority(), authority(), authority());
        let key = TlsKey::generate().expect("a key");
        let (machine, staff) = (MachineId::from_bytes([5; 16]), KeyId::from_bytes([6; 16]));
        let issue = |ca: &Authority, name| ca.issue_member(name, key.spki(), now).expect("issued");
        // Two CAs are in use while the hub's CA is being replaced.
        let in_use = [ca.certificate().clone(), next.certificate().clone()];
        let cases = [
            ("nothing", Vec::new(), Err(NotAdmitted::NoCertificate), Err(NotAdmitted::NoCertificate), Ok(())),
            (
                "a machine's",
                issue(&ca, Name::Machine(machine)),
                Ok(()),
                Err(NotAdmitted::WrongDoor),
                Err(NotAdmitted::WrongDoor),
            ),
            (
                "a machine's by the next CA",
                issue(&next, Name::Machine(machine)),
                Ok(()),
                Err(NotAdmitted::WrongDoor),
                Err(NotAdmitted::WrongDoor),
            ),
            (
                "a technician's",
                issue(&ca, Name::Staff(staff)),
                Err(NotAdmitted::WrongDoor),
                Ok(()),
                Err(NotAdmitted::WrongDoor),
            ),
            (
                "another CA's",
                issue(&other, Name::Machine(machine)),
                Err(NotAdmitted::Foreign),
                Err(NotAdmitted::Foreign),
                Err(NotAdmitted::WrongDoor),
            ),
            (
                "a hub's",
                ca.issue_hub(key.spki(), now).expect("issued"),
                Err(NotAdmitted::Foreign),
                Err(NotAdmitted::Foreign),
                Err(NotAdmitted::WrongDoor),
            ),
            (
                "the CA's own",
                vec![ca.certificate().clone()],
                Err(NotAdmitted::Foreign),
                Err(NotAdmitted::Foreign),
                Err(NotAdmitted::WrongDoor),
            ),
            (
                "garbage",
                vec![CertificateDer::from(vec![0; 40])],
                Err(NotAdmitted::Foreign),
                Err(NotAdmitted::Foreign),
                Err(NotAdmitted::WrongDoor),
            ),
        ];
        for (what, chain, agents, staffs, newcomers) in cases {
            for (door, wanted) in [(Door::Agent, agents), (Door::Staff, staffs), (Door::Enroll, newcomers)] {
                assert_eq!(identify(door, &chain, &in_use, ms(now)).map(drop), wanted, "{what} at {door:?}");
            }
        }
        // Valid from its first millisecond to its last, both included.
        let chain = issue(&ca, Name::Machine(machine));
        let certificate = read_certificate(&chain[0], ca.certificate()).expect("read");
        let at = |now| identify(Door::Agent, &chain, &in_use, now).map(drop);
        for (moment, wanted) in [
            (certificate.from - 1, Err(NotAdmitted::Expired)),
            (certificate.from, Ok(())),
            (certificate.until, Ok(())),
            (certificate.until + 1, Err(NotAdmitted::Expired)),
        ] {
            assert_eq!(at(moment), wanted, "{}", moment - certificate.from);
        }
        assert_eq!(identify(Door::Agent, &chain, &[], ms(now)), Err(NotAdmitted::Foreign), "no CA is in use");
    }

    #[test]
    fn certificates_of_another_ca_or_for_servers_are_rejected() {
        let ((ca, now), (other, _)) = (authority(), authority());
        let key = TlsKey::generate().expect("a key");
        let chain = other.issue_member(Name::Staff(KeyId::from_bytes([1; 16])), key.spki(), now).expect("issued");
        assert_eq!(read_certificate(&chain[0], ca.certificate()), Err(NotAdmitted::Foreign));
        assert!(read_certificate(&chain[0], other.certificate()).is_ok());
        let server = ca.issue_hub(key.spki(), now).expect("issued");
        assert_eq!(read_certificate(&server[0], ca.certificate()), Err(NotAdmitted::Foreign));
        assert_eq!(read_certificate(ca.certificate(), ca.certificate()), Err(NotAdmitted::Foreign));
    }

    #[test]
    fn only_a_bare_p256_key_is_certified() {
        let (ca, now) = authority();
        let name = Name::Machine(MachineId::from_bytes([5; 16]));
        let request = rcgen::CertificateParams::default();
        let request = request.serialize_request(&KeyPair::generate().expect("a key")).expect("a request");
        let ed25519 = KeyPair::generate_for(&rcgen::PKCS_ED25519).expect("a key");
        let spki = rcgen::PublicKeyData::subject_public_key_info(&ed25519);
        for evil in [request.der().as_ref(), spki.as_slice(), &[], &[0; 91]] {
            assert!(matches!(ca.issue_member(name, evil, now), Err(IssueError::Key)));
        }
    }
}
