//! The keys of a hub that can be replaced while it serves: CA and evidence key.
//!
//! ```text
//! make_next   ca.2.key, ca.2.der, ca.2.bridge.der, evidence.2.key   (on the hub)
//! approve     hub.json names old and new                            (by people)
//! restart     the newest approved generation signs; the old one is still known
//! approve     hub.json names only the new                           (by people)
//! ```
//! A key is used only once `hub.json` names it: a hub cannot move its machines to keys of its own
//! making. A machine that knows only the old CA verifies the new one by the bridge, a certificate
//! for the new CA signed by the old. So no machine is locked out by sleeping through one change,
//! however long.

use crate::StartError;
use crate::home::generations::{InUse, MOST, Rotating, file};
use crate::home::{HomeError, HubHome};
use crate::trust::published::Published;
use fernwart_certs::catalogue::Hub;
use fernwart_certs::identity::{SigningKey, TlsKey};
use fernwart_certs::issue::{Authority, IssueError};
use fernwart_certs::keyfile::{self, FileError, KeyFileError};
use fernwart_certs::sha256;
use fernwart_certs::tls::{self, ServerConfig};
use fernwart_protocol::id::{Digest, PublicKey};
use rustix::fs::{FlockOperation, flock};
use std::time::SystemTime;

impl InUse {
    /// The hub's TLS configuration, with a new key and certificate. The key is never written to
    /// disk: a thief of the folder cannot impersonate the hub once its CA has been replaced.
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

/// Makes the next generation of both keys in a hub's home, while the hub may be running. They are
/// used only after the returned `hub.json` is approved and the hub is restarted.
///
/// # Errors
/// When a change of keys is under way already, or they cannot be written.
pub async fn make_next(home: &HubHome) -> Result<Hub, StartError> {
    let mut hub = approved(home).await?;
    if hub.ca.len() > 1 {
        return Err(StartError::Home(HomeError::InProgress));
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
        return Err(StartError::Home(HomeError::NothingInProgress));
    }
    let rotating = Rotating::read(home.path()).map_err(StartError::Home)?;
    let in_use = rotating.in_use(Some(&hub)).map_err(StartError::Home)?;
    hub.ca = vec![sha256(in_use.authority.certificate())];
    Ok(hub)
}

async fn approved(home: &HubHome) -> Result<Hub, StartError> {
    let keys = home.keys().map_err(StartError::Home)?;
    let published = Published::open(home.catalogue(), keys.roles).await.map_err(StartError::Catalogue)?;
    let catalogue = published.catalogue().ok_or(StartError::Home(HomeError::NotApproved("CA")))?;
    Ok(catalogue.hub.clone())
}

fn write_next(home: &HubHome, approved: &Hub) -> Result<(Digest, PublicKey), HomeError> {
    let path = home.path().join("next-keys.lock");
    let lock = keyfile::open_lock(&path).map_err(HomeError::of_lock)?;
    flock(&lock, FlockOperation::NonBlockingLockExclusive).map_err(|_| HomeError::InProgress)?;
    let current = Rotating::read(home.path())?.in_use(Some(approved))?.authority;
    let next = (2..=MOST)
        .find(|generation| !file(home.path(), "ca", *generation, "bridge.der").exists())
        .ok_or(HomeError::InProgress)?;
    // Files of an interrupted attempt were never used.
    for (stem, end) in [("ca", "key"), ("ca", "der"), ("evidence", "key")] {
        let path = file(home.path(), stem, next, end);
        match std::fs::remove_file(&path) {
            Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
                return Err(HomeError::Io(FileError::at("removing", &path)(source)));
            }
            _ => {}
        }
    }
    let no_randomness = |_| HomeError::Key(KeyFileError::Content { path: home.path().to_owned() });
    let now = SystemTime::now();
    let evidence = SigningKey::generate().map_err(no_randomness)?;
    evidence.create(&file(home.path(), "evidence", next, "key")).map_err(HomeError::Key)?;
    let key = TlsKey::generate().map_err(no_randomness)?;
    key.create(&file(home.path(), "ca", next, "key")).map_err(HomeError::Key)?;
    let certificate = Authority::create(&key, now).map_err(HomeError::Authority)?;
    let bridge = current.vouch_for(&certificate, now).map_err(HomeError::Authority)?;
    // The bridge is written last: it makes the generation count.
    keyfile::create(&file(home.path(), "ca", next, "der"), &certificate).map_err(HomeError::Key)?;
    keyfile::replace(&file(home.path(), "ca", next, "bridge.der"), &bridge).map_err(HomeError::Key)?;
    Ok((sha256(&certificate), evidence.public()))
}
