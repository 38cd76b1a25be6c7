//! Generations of the keys that can be replaced while the hub serves: CA and evidence key.

use super::HomeError;
use fernwart_certs::CertificateDer;
use fernwart_certs::catalogue::Hub;
use fernwart_certs::identity::SigningKey;
use fernwart_certs::issue::Authority;
use fernwart_certs::sha256;
use std::path::{Path, PathBuf};

/// Maximum number of generations.
pub(crate) const MOST: u32 = 99;

/// Maximum number of former CAs in the chain. There is more than one if a generation was made and
/// never approved.
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

/// The keys in use.
pub struct InUse {
    /// The newest approved CA.
    pub authority: Authority,
    /// The rest of the hub's certificate chain: its CA, the bridge, and former CAs, for machines
    /// that were away during a change.
    pub behind: Vec<CertificateDer<'static>>,
    /// Every approved CA; certificates of each are accepted.
    pub authorities: Vec<CertificateDer<'static>>,
    /// The newest approved evidence key.
    pub evidence: SigningKey,
}

/// A file of a generation: `ca.key`, then `ca.2.key`.
pub(crate) fn file(home: &Path, stem: &str, generation: u32, end: &str) -> PathBuf {
    let name = if generation == 1 { format!("{stem}.{end}") } else { format!("{stem}.{generation}.{end}") };
    home.join(name)
}

impl Rotating {
    /// Reads all generations. One whose creation was interrupted does not count.
    ///
    /// # Errors
    /// When a key may not be used, or there is none.
    pub(crate) fn read(home: &Path) -> Result<Self, HomeError> {
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

    /// Selects the keys in use by the approved `hub.json`; without one, the first generation.
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
