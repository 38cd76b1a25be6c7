//! Joining: keys, proof, the four words, the owner's policy.
//!
//! ```text
//! invitation ─▶ keys ─▶ enrollment door (pins checked, token proved) ─▶ catalogue verified ─▶ words ─▶ agent.toml
//! ```
//! Nothing counts before `agent.toml` is written. Until then `enroll` can be repeated and reuses
//! the keys it has made.

use crate::executor::state::{Moment, StateError, StateStore};
use crate::home::{Enrollment, Home};
use crate::platform::facts::os_in_a_word;
use fernwart_certs::catalogue::{Catalogue, CatalogueError, Files, Trusted, advance};
use fernwart_certs::identity::{KeyGeneration, SealingKey, SigningKey, TlsIdentity, machine_id};
use fernwart_certs::invitation::{Guest, Invitation};
use fernwart_certs::join::{four_words, prove_join, unsigned};
use fernwart_certs::journal::Line;
use fernwart_certs::keyfile::KeyFileError;
use fernwart_certs::peer::{Name, may_issue, read_certificate};
use fernwart_certs::tls::{self, Clock, TlsError};
use fernwart_protocol::code::{Denial, Goodbye};
use fernwart_protocol::enroll::{Join, Reply, Request};
use fernwart_protocol::id::{BootId, Digest};
use fernwart_protocol::limits::{HANDSHAKE_TIMEOUT, OFFER_FILES};
use fernwart_protocol::link::{DialError, Dialer, Door, FrameError, Link, LinkError, NotReached, dial_any};
use fernwart_protocol::text::{Blob, Text};
use fernwart_protocol::to_agent::CatalogueFile;
use rustls_pki_types::CertificateDer;
use serde_json::json;
use std::path::Path;

/// Joining has failed; nothing counts yet, and it can be tried again.
#[derive(Debug, thiserror::Error)]
pub enum EnrollError {
    /// The invitation is for staff.
    #[error("this invitation is for a technician, not for a machine")]
    NotForMachines,
    /// The invitation has run out.
    #[error("this invitation has expired; ask for a new one")]
    Expired,
    /// The state store in this folder is of a machine that has joined for another customer.
    #[error("what lies in the folder is of a machine that has joined for {0}")]
    JoinedForAnother(String),
    /// Keys cannot be made or kept.
    #[error("keeping this machine's keys")]
    Keys(#[source] KeyFileError),
    /// Keys cannot be made.
    #[error("making this machine's keys")]
    Generate(#[source] KeyGeneration),
    /// The state store cannot be created.
    #[error("beginning this machine's books")]
    StateStore(#[source] StateError),
    /// TLS cannot be configured.
    #[error("configuring the link")]
    Tls(#[source] TlsError),
    /// The hub cannot be reached or is not the one invited to.
    #[error("reaching the hub the invitation names")]
    Dial(#[source] DialError),
    /// None of the hub's host names resolves to an address.
    #[error("the hub's name {0} has no address")]
    NoAddress(String),
    /// The link broke.
    #[error("the link to the hub has ended")]
    Link(#[source] LinkError),
    /// A frame could not be sent or received.
    #[error("speaking with the hub")]
    Frame(#[source] FrameError),
    /// The hub denied the request.
    #[error("{0}")]
    Denied(Denial),
    /// The hub's catalogue is not validly signed.
    #[error("verifying what the hub has offered")]
    Catalogue(#[source] CatalogueError),
    /// The hub sent a certificate that is not for this machine.
    #[error("the hub's certificate is not for this machine and key")]
    WrongCertificate,
}

/// The result of joining.
#[derive(Debug)]
pub struct Joined {
    /// The content of `agent.toml`, to be written.
    pub enrollment: Enrollment,
    /// The verified catalogue.
    pub catalogue: Catalogue,
    /// The four words.
    pub words: [&'static str; 4],
    /// Whether the machine is admitted already.
    pub admitted: bool,
}

/// The keys of a machine.
pub struct Keys {
    /// The evidence key, which signs receipts.
    pub evidence: SigningKey,
    /// The sealing key, which decrypts secret parameters.
    pub sealing: SealingKey,
    /// Its TLS key.
    pub identity: TlsIdentity,
}

impl Keys {
    /// Generates new keys.
    ///
    /// # Errors
    /// When there is no randomness.
    pub fn generate() -> Result<Self, EnrollError> {
        Ok(Self {
            evidence: SigningKey::generate().map_err(EnrollError::Generate)?,
            sealing: SealingKey::generate().map_err(EnrollError::Generate)?,
            identity: TlsIdentity::generate().map_err(EnrollError::Generate)?,
        })
    }
}

/// The hub's answer to a new machine.
#[derive(Debug)]
pub struct Accepted {
    /// Who the machine is now.
    pub enrollment: Enrollment,
    /// Its certificate; none until a person admits it.
    pub chain: Vec<CertificateDer<'static>>,
    /// The catalogue files that the hub sent, not yet verified.
    pub files: Files,
}

/// Reads the keys of an earlier attempt, or generates new ones.
fn keys(home: &Home) -> Result<Keys, EnrollError> {
    fn kept<T>(
        path: &Path,
        read: impl Fn(&Path) -> Result<T, KeyFileError>,
        make: impl Fn() -> Result<T, KeyGeneration>,
        keep: impl Fn(&T, &Path) -> Result<(), KeyFileError>,
    ) -> Result<T, EnrollError> {
        match read(path) {
            Ok(key) => Ok(key),
            Err(error) if error.is_missing() => {
                let key = make().map_err(EnrollError::Generate)?;
                keep(&key, path).map_err(EnrollError::Keys)?;
                Ok(key)
            }
            Err(error) => Err(EnrollError::Keys(error)),
        }
    }
    Ok(Keys {
        evidence: kept(&home.evidence_key(), SigningKey::read, SigningKey::generate, SigningKey::create)?,
        sealing: kept(&home.sealing_key(), SealingKey::read, SealingKey::generate, SealingKey::create)?,
        identity: kept(&home.tls_identity(), TlsIdentity::read, TlsIdentity::generate, TlsIdentity::write)?,
    })
}

/// Checks that an invitation is for a machine and has not expired.
///
/// # Errors
/// When it is not.
pub fn check(invitation: &Invitation) -> Result<(), EnrollError> {
    match invitation.guest {
        Guest::Staff => Err(EnrollError::NotForMachines),
        Guest::Machine { .. } if invitation.until < crate::now() => Err(EnrollError::Expired),
        Guest::Machine { .. } => Ok(()),
    }
}

/// The state of an earlier attempt is reused, unless the machine had joined for another customer
/// and its enrollment was lost.
fn must_not_be_anothers(home: &Home, invitation: &Invitation) -> Result<(), EnrollError> {
    let store = match StateStore::open(&home.store()) {
        Ok(store) => store,
        Err(error @ StateError::Newer { .. }) => return Err(EnrollError::StateStore(error)),
        Err(_) => return Ok(()),
    };
    let first = store.journal(1, 1).map_err(EnrollError::StateStore)?;
    let Some(Line::Entry { body: Some(body), .. }) = first.first() else { return Ok(()) };
    let joined: serde_json::Value = serde_json::from_str(body).unwrap_or_default();
    match &invitation.guest {
        Guest::Machine { customer, .. } if joined.get("customer") == Some(&json!(customer)) => Ok(()),
        _ => {
            let name = joined.get("customer_name").and_then(serde_json::Value::as_str).unwrap_or_default();
            Err(EnrollError::JoinedForAnother(fernwart_protocol::text::escaped(name)))
        }
    }
}

/// Joins a hub. `on_step` is called after each step. The caller holds the folder.
///
/// # Errors
/// When it cannot be done; it may be tried again.
pub async fn join(
    home: &Home,
    invitation: &Invitation,
    mut on_step: impl FnMut(Step<'_>),
) -> Result<Joined, EnrollError> {
    check(invitation)?;
    must_not_be_anothers(home, invitation)?;
    home.sweep();
    let mut keys = keys(home)?;
    on_step(Step::Keys);

    let hostname = Text::clipped(&crate::platform::facts::hostname());
    let Accepted { enrollment, chain, files } = incoming(&keys, invitation, hostname).await?;
    let (trusted, catalogue) = believe(invitation, &files).await?;
    on_step(Step::Linked(&catalogue));

    let admitted = !chain.is_empty();
    if admitted {
        keys.identity.chain = chain;
        keys.identity.write(&home.tls_identity()).map_err(EnrollError::Keys)?;
    }
    let mut store = StateStore::begin(&home.store()).map_err(EnrollError::StateStore)?;
    begin(&mut store, &enrollment, &trusted).map_err(EnrollError::StateStore)?;
    let words = words(&keys.evidence, &enrollment);
    Ok(Joined { enrollment, catalogue, words, admitted })
}

/// Sends the join request, with proofs of keys and token. Stores nothing.
///
/// # Errors
/// When the hub cannot be reached, is not the invited one, or denies the request.
pub async fn incoming(keys: &Keys, invitation: &Invitation, hostname: Text<255>) -> Result<Accepted, EnrollError> {
    let Guest::Machine { customer, customer_name, language, .. } = &invitation.guest else {
        return Err(EnrollError::NotForMachines);
    };
    let machine = machine_id(&keys.evidence.public());
    let link = dial(invitation).await?;
    let binding = link.binding().map_err(EnrollError::Link)?;
    let request = Join {
        token: invitation.token,
        proof: Digest::from_bytes([0; 32]),
        tls_key: Blob::try_from(keys.identity.key.spki().to_vec()).map_err(|_| EnrollError::Generate(KeyGeneration))?,
        evidence_key: keys.evidence.public(),
        sealing_key: keys.sealing.public(),
        signature: unsigned(),
        hostname,
        os: os_in_a_word(),
    };
    let request = prove_join(request, &binding, &invitation.secret.proof_key(), &keys.evidence);
    let (reply, files) = ask(&link, &Request::Join(request)).await?;
    let shown = link.peer_certificates();
    link.close(Goodbye::Done);
    let chain = match reply {
        Reply::Denied(denial) => return Err(EnrollError::Denied(denial)),
        Reply::Pending => Vec::new(),
        Reply::Certificate(chain) => {
            let chain: Vec<_> = chain.into_iter().map(|der| CertificateDer::from(der.into_bytes())).collect();
            let [leaf, ca] = chain.as_slice() else { return Err(EnrollError::WrongCertificate) };
            let certificate = read_certificate(leaf, ca).map_err(|_| EnrollError::WrongCertificate)?;
            let ours = certificate.name == Name::Machine(machine) && certificate.tls_key == keys.identity.key.digest();
            if !ours || !may_issue(ca, &[invitation.ca], &shown) {
                return Err(EnrollError::WrongCertificate);
            }
            chain
        }
    };
    let enrollment = Enrollment {
        machine,
        customer: *customer,
        customer_name: customer_name.clone(),
        language: *language,
        addresses: invitation.addresses.as_slice().to_vec(),
        ca: invitation.ca,
        root_version: invitation.root_version,
        root: invitation.root,
        joined_tls_key: keys.identity.key.digest(),
        joined_at: crate::now(),
    };
    Ok(Accepted { enrollment, chain, files })
}

/// Verifies the hub's catalogue, starting from the root that the invitation names.
///
/// # Errors
/// When it is not validly signed.
pub async fn believe(invitation: &Invitation, files: &Files) -> Result<(Trusted, Catalogue), EnrollError> {
    let begun = Trusted::begin(invitation.root_version, &invitation.root, files).map_err(EnrollError::Catalogue)?;
    advance(&begun, files).await.map_err(EnrollError::Catalogue)
}

/// Initialises a machine's state store with its catalogue and the journal line about joining.
///
/// # Errors
/// When the disk does not take it.
pub fn begin(store: &mut StateStore, enrollment: &Enrollment, trusted: &Trusted) -> Result<(), StateError> {
    let moment = Moment { now: crate::now(), since_boot_ms: 0, boot: BootId::from_bytes([0; 16]) };
    let Enrollment { machine, customer, customer_name, root, .. } = enrollment;
    let body = json!({"machine": machine, "customer": customer, "customer_name": customer_name, "root": root});
    store.write(moment, |tx| {
        tx.follow(trusted)?;
        tx.line("joined", &body).map(drop)
    })
}

/// The four words of a machine that has joined.
pub fn words(evidence: &SigningKey, enrollment: &Enrollment) -> [&'static str; 4] {
    let Enrollment { joined_tls_key, root, customer, language, .. } = enrollment;
    four_words(&evidence.public(), joined_tls_key, root, customer, *language)
}

/// A finished step.
#[derive(Debug)]
pub enum Step<'a> {
    /// The keys exist.
    Keys,
    /// The hub was reached and its catalogue verified.
    Linked(&'a Catalogue),
}

async fn dial(invitation: &Invitation) -> Result<Link, EnrollError> {
    let tls = tls::newcomer(vec![invitation.ca], Clock::MayBeWrong).map_err(EnrollError::Tls)?;
    match dial_any(invitation.addresses.as_slice(), Door::Enroll, &tls, HANDSHAKE_TIMEOUT, Dialer::new).await {
        Ok((link, _)) => Ok(link),
        Err(NotReached::NoAddress(name)) => Err(EnrollError::NoAddress(name)),
        Err(NotReached::Dial { source, .. }) => Err(EnrollError::Dial(source)),
    }
}

/// Sends one request; returns the reply and the catalogue files that follow it.
async fn ask(link: &Link, request: &Request) -> Result<(Reply, Files), EnrollError> {
    let (mut send, mut receive) = link.open().await.map_err(EnrollError::Link)?;
    send.send(request).await.map_err(EnrollError::Frame)?;
    send.finish();
    let reply = receive.expect::<Reply>().await.map_err(EnrollError::Frame)?;
    let mut files = Files::default();
    for _ in 0..OFFER_FILES {
        match receive.next::<CatalogueFile>().await.map_err(EnrollError::Frame)? {
            Some(file) => files.insert(file.name.as_raw(), file.bytes.into_bytes()),
            None => break,
        }
    }
    Ok((reply, files))
}
