//! The keys of a hub that can be replaced while it serves: CA and evidence key.
//!
//! ```text
//! make_next   ca.2.key, ca.2.der, ca.2.bridge.der, evidence.2.key   (on the hub)
//! approve     hub.json names old and new                            (by people)
//! restart     the newest approved generation signs; the old one is still known
//! approve     hub.json names only the new                           (by people)
//! ```
//! A key counts only once `hub.json` names it: a hub cannot move its machines to
//! keys of its own making. Whoever knows only the old CA finds the new one by the
//! bridge, a certificate for the new CA from the old; so no machine is cut off that
//! sleeps through one change, however long.

use crate::StartError;
use crate::catalogue::Published;
use crate::home::{HomeError, HubHome};
use fernwart_certs::catalogue::Hub;
use fernwart_certs::identity::{SigningKey, TlsKey};
use fernwart_certs::issue::{Authority, IssueError};
use fernwart_certs::keyfile::{self, KeyFileError};
use fernwart_certs::tls::{self, ServerConfig};
use fernwart_certs::{CertificateDer, sha256};
use fernwart_protocol::id::{Digest, PublicKey};
use rustix::fs::{FlockOperation, flock};
use std::fs::File;
use std::path::PathBuf;
use std::time::SystemTime;

/// A home with more generations than this is no home of ours.
const MOST: u32 = 99;

/// Former CAs that are shown. More than one is there when a generation was made
/// and never approved.
const MOST_BEFORE: usize = 2;

/// One generation of the CA.
struct Generation {
    authority: Authority,
    /// This CA, certified by the one that was in use when it was made.
    bridge: Option<CertificateDer<'static>>,
}

/// All generations that lie in a home, oldest first.
pub struct Rotating {
    authorities: Vec<Generation>,
    evidence: Vec<SigningKey>,
}

/// What of them is in use.
pub struct InUse {
    /// The newest approved CA.
    pub authority: Authority,
    /// What a hub shows behind its own certificate: the CA, and the way to it
    /// from the one before, for whoever was away while it was replaced.
    pub behind: Vec<CertificateDer<'static>>,
    /// Every approved CA: certificates of each are known.
    pub authorities: Vec<CertificateDer<'static>>,
    /// The newest approved evidence key.
    pub evidence: SigningKey,
}

impl InUse {
    /// The hub's side of TLS, with a key and a certificate made now. The key is
    /// never written: what a stolen folder holds cannot pass for the hub once its
    /// CA has been replaced.
    ///
    /// # Errors
    /// When there is no randomness.
    pub fn tls(&self, now: SystemTime) -> Result<ServerConfig, StartError> {
        let key = TlsKey::generate().map_err(|_| StartError::Issue(IssueError::Key))?;
        let mut chain = self.authority.issue_hub(key.spki(), now).map_err(StartError::Issue)?;
        chain.truncate(1);
        chain.extend(self.behind.iter().cloned());
        tls::hub(chain, &key, &self.authorities).map_err(StartError::Tls)
    }
}

/// A file of a generation: `ca.key`, then `ca.2.key`.
fn file(home: &HubHome, stem: &str, generation: u32, end: &str) -> PathBuf {
    let name = if generation == 1 { format!("{stem}.{end}") } else { format!("{stem}.{generation}.{end}") };
    home.path().join(name)
}

impl Rotating {
    /// Reads all that is there. A generation that was cut off while it was made
    /// does not count.
    ///
    /// # Errors
    /// When a key may not be used, or there is none.
    pub(crate) fn read(home: &HubHome) -> Result<Self, HomeError> {
        let mut all = Self { authorities: Vec::new(), evidence: Vec::new() };
        for generation in 1..=MOST {
            let (ca, bridge) = (file(home, "ca", generation, "der"), file(home, "ca", generation, "bridge.der"));
            if generation > 1 && !bridge.exists() {
                continue;
            }
            let authority = Authority::read(&file(home, "ca", generation, "key"), &ca).map_err(HomeError::Authority)?;
            let bridge = std::fs::read(&bridge).ok().map(CertificateDer::from);
            all.authorities.push(Generation { authority, bridge });
            let evidence = file(home, "evidence", generation, "key");
            all.evidence.push(SigningKey::read(&evidence).map_err(HomeError::Key)?);
        }
        Ok(all)
    }

    /// What is in use where this is approved; before any approval the first.
    ///
    /// # Errors
    /// When nothing in the home is approved.
    pub fn in_use(self, approved: Option<&Hub>) -> Result<InUse, HomeError> {
        let knows =
            |authority: &Authority| approved.is_none_or(|hub| hub.ca.contains(&sha256(authority.certificate())));
        let signs = |key: &SigningKey| approved.is_none_or(|hub| hub.evidence_keys.contains(&key.public()));
        let all: Vec<_> = self.authorities.iter().map(|one| one.authority.certificate().clone()).collect();
        let mut known: Vec<Generation> = self.authorities.into_iter().filter(|one| knows(&one.authority)).collect();
        let mut evidence: Vec<SigningKey> = self.evidence.into_iter().filter(signs).collect();
        if approved.is_none() {
            known.truncate(1);
            evidence.truncate(1);
        }
        let authorities: Vec<_> = known.iter().map(|one| one.authority.certificate().clone()).collect();
        let newest = known.pop().ok_or(HomeError::NotApproved("CA"))?;
        let evidence = evidence.pop().ok_or(HomeError::NotApproved("evidence key"))?;
        let mut behind = vec![newest.authority.certificate().clone()];
        if let Some(bridge) = newest.bridge {
            let before = all.into_iter().rev().skip_while(|one| one != newest.authority.certificate()).skip(1);
            behind.push(bridge);
            behind.extend(before.take(MOST_BEFORE));
        }
        Ok(InUse { authority: newest.authority, behind, authorities, evidence })
    }
}

/// Makes the next generation of both keys in a hub's home, beside a hub that
/// may be running. Nothing uses them before what this returns, the next
/// `hub.json`, is approved and the hub has been started again.
///
/// # Errors
/// When a change of keys is under way already, or they cannot be written.
pub async fn make_next(home: &HubHome) -> Result<Hub, StartError> {
    let mut hub = approved(home).await?;
    if hub.ca.len() > 1 {
        return Err(StartError::Home(HomeError::UnderWay));
    }
    let (ca, evidence) = write_next(home, &hub).map_err(StartError::Home)?;
    hub.ca.push(ca);
    hub.evidence_keys.push(evidence);
    Ok(hub)
}

/// `hub.json` as it should be once every machine has linked since the change:
/// only the newest CA is left. Evidence keys stay, so that what they signed can
/// be checked.
///
/// # Errors
/// When no change is under way, or the hub's folder cannot be read.
pub async fn finished(home: &HubHome) -> Result<Hub, StartError> {
    let mut hub = approved(home).await?;
    if hub.ca.len() < 2 {
        return Err(StartError::Home(HomeError::NothingUnderWay));
    }
    let rotating = Rotating::read(home).map_err(StartError::Home)?;
    let in_use = rotating.in_use(Some(&hub)).map_err(StartError::Home)?;
    hub.ca = vec![sha256(in_use.authority.certificate())];
    Ok(hub)
}

async fn approved(home: &HubHome) -> Result<Hub, StartError> {
    let keys = home.keys().map_err(StartError::Home)?;
    let published = Published::open(home, keys.roles).await.map_err(StartError::Catalogue)?;
    let catalogue = published.catalogue().ok_or(StartError::Home(HomeError::NotApproved("CA")))?;
    Ok(catalogue.hub.clone())
}

fn write_next(home: &HubHome, approved: &Hub) -> Result<(Digest, PublicKey), HomeError> {
    let path = home.path().join("next-keys.lock");
    let io = |source| HomeError::Io { doing: "writing", path: path.clone(), source };
    let lock = File::options().create(true).truncate(false).write(true).open(&path).map_err(io)?;
    flock(&lock, FlockOperation::NonBlockingLockExclusive).map_err(|_| HomeError::UnderWay)?;
    let current = Rotating::read(home)?.in_use(Some(approved))?.authority;
    let next = (2..=MOST)
        .find(|generation| !file(home, "ca", *generation, "bridge.der").exists())
        .ok_or(HomeError::UnderWay)?;
    // Whatever a try that was cut off has left behind was never used.
    for (stem, end) in [("ca", "key"), ("ca", "der"), ("evidence", "key")] {
        let path = file(home, stem, next, end);
        match std::fs::remove_file(&path) {
            Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
                return Err(HomeError::Io { doing: "removing", path, source });
            }
            _ => {}
        }
    }
    let no_randomness = |_| HomeError::Key(KeyFileError::Content { path: home.path().to_owned() });
    let now = SystemTime::now();
    let evidence = SigningKey::generate().map_err(no_randomness)?;
    evidence.create(&file(home, "evidence", next, "key")).map_err(HomeError::Key)?;
    let key = TlsKey::generate().map_err(no_randomness)?;
    key.create(&file(home, "ca", next, "key")).map_err(HomeError::Key)?;
    let certificate = Authority::create(&key, now).map_err(HomeError::Authority)?;
    let bridge = current.vouch_for(&certificate, now).map_err(HomeError::Authority)?;
    // The bridge comes last: with it the generation counts.
    keyfile::create(&file(home, "ca", next, "der"), &certificate).map_err(HomeError::Key)?;
    keyfile::replace(&file(home, "ca", next, "bridge.der"), &bridge).map_err(HomeError::Key)?;
    Ok((sha256(&certificate), evidence.public()))
}
