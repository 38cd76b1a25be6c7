//! TLS for each role. TLS 1.3 only, aws-lc-rs only, X25519MLKEM768 offered first.
//!
//! rustls' stock verifier checks the hub's certificate against the CA that the catalogue (or the
//! invitation) pins by hash. The CA itself is part of the hub's chain. The dialling code sets the
//! door (ALPN).

use crate::identity::TlsKey;
use crate::sha256;
use fernwart_protocol::id::Digest;
use fernwart_protocol::link::Door;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::{CertificateError, DigitallySignedStruct, RootCertStore, SignatureScheme};
pub use rustls::{ClientConfig, ServerConfig};
use std::sync::Arc;

/// A TLS configuration cannot be built from these keys and certificates.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// rustls refuses them.
    #[error("configuring TLS")]
    Rustls(#[source] rustls::Error),
    /// The CA certificate cannot be used.
    #[error("configuring TLS with this CA")]
    Verifier(#[source] rustls::server::VerifierBuilderError),
}

/// Whether the dialling side relies on its own clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Clock {
    /// A hub certificate outside its validity is rejected.
    MustBeRight,
    /// Pins, names and signatures are checked, not validity. A machine whose clock is a year off must stay
    /// reachable, so that somebody can be told about it. An attacker with a hub's expired key could
    /// only do what any hub can do: delay.
    MayBeWrong,
}

fn is_about_time(error: &CertificateError) -> bool {
    use CertificateError as E;
    matches!(error, E::Expired | E::ExpiredContext { .. } | E::NotValidYet | E::NotValidYetContext { .. })
}

/// Maximum number of certificates in a hub's chain that are considered, besides its own and the
/// pinned CA.
const MOST_BETWEEN: usize = 2;

/// A moment at which the certificate and its CA were valid: one second after the certificate's
/// start.
fn begin_of(certificate: &CertificateDer<'_>) -> Option<UnixTime> {
    let (_, certificate) = x509_parser::parse_x509_certificate(certificate).ok()?;
    let begin = u64::try_from(certificate.validity().not_before.timestamp()).ok()?;
    Some(UnixTime::since_unix_epoch(std::time::Duration::from_secs(begin + 1)))
}

/// The only crypto provider that is used.
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

/// The hub's side. TLS treats client certificates as optional; [`crate::peer::identify`] demands
/// them. Client certificates of all `cas` are accepted: there are two while the CA is being
/// replaced. No 0-RTT; resumption by stateless tickets.
///
/// # Errors
/// When the key and certificates do not fit each other.
pub fn hub(
    chain: Vec<CertificateDer<'static>>,
    key: &TlsKey,
    cas: &[CertificateDer<'static>],
) -> Result<ServerConfig, TlsError> {
    let mut roots = RootCertStore::empty();
    for ca in cas {
        roots.add(ca.clone()).map_err(TlsError::Rustls)?;
    }
    let clients = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider())
        .allow_unauthenticated()
        .build()
        .map_err(TlsError::Verifier)?;
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(TlsError::Rustls)?
        .with_client_cert_verifier(clients)
        .with_single_cert(chain, key.private_key())
        .map_err(TlsError::Rustls)?;
    config.alpn_protocols = Door::ALL.iter().map(|door| door.alpn().to_vec()).collect();
    config.max_early_data_size = 0;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.ticketer = aws_lc_rs::Ticketer::new().map_err(TlsError::Rustls)?;
    config.send_tls13_tickets = 1;
    Ok(config)
}

/// The dialling side of a peer that has a certificate.
///
/// # Errors
/// When the key and certificates do not fit each other.
pub fn member(
    pins: Vec<Digest>,
    clock: Clock,
    chain: Vec<CertificateDer<'static>>,
    key: &TlsKey,
) -> Result<ClientConfig, TlsError> {
    let mut config = pinned(pins, clock)?.with_client_auth_cert(chain, key.private_key()).map_err(TlsError::Rustls)?;
    config.resumption = Resumption::in_memory_sessions(2);
    Ok(config)
}

/// The dialling side of a peer that has no certificate yet.
///
/// # Errors
/// When rustls refuses the configuration.
pub fn newcomer(pins: Vec<Digest>, clock: Clock) -> Result<ClientConfig, TlsError> {
    let mut config = pinned(pins, clock)?.with_no_client_auth();
    config.resumption = Resumption::disabled();
    Ok(config)
}

fn pinned(
    pins: Vec<Digest>,
    clock: Clock,
) -> Result<rustls::ConfigBuilder<ClientConfig, rustls::client::WantsClientCert>, TlsError> {
    let verifier = PinnedCa { pins, clock, provider: provider() };
    Ok(ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(TlsError::Rustls)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier)))
}

/// Finds the pinned CA in the hub's chain, then lets rustls' stock verifier decide with that CA as
/// the only root. The chain may contain a bridge to a newer CA.
#[derive(Debug)]
struct PinnedCa {
    pins: Vec<Digest>,
    clock: Clock,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for PinnedCa {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let ca = intermediates
            .iter()
            .find(|certificate| self.pins.contains(&sha256(certificate)))
            .ok_or(rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer))?;
        let mut roots = RootCertStore::empty();
        roots.add(ca.clone().into_owned())?;
        let stock = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), self.provider.clone())
            .build()
            .map_err(|error| rustls::Error::General(error.to_string()))?;
        let between: Vec<_> = intermediates.iter().filter(|one| *one != ca).take(MOST_BETWEEN).cloned().collect();
        let judged = stock.verify_server_cert(end_entity, &between, server_name, ocsp_response, now);
        match (&judged, self.clock) {
            (Err(rustls::Error::InvalidCertificate(error)), Clock::MayBeWrong) if is_about_time(error) => {
                let then =
                    begin_of(end_entity).ok_or(rustls::Error::InvalidCertificate(CertificateError::BadEncoding))?;
                stock.verify_server_cert(end_entity, &between, server_name, ocsp_response, then)
            }
            _ => judged,
        }
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("TLS 1.3 only".into()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
