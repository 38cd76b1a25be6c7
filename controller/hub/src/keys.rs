//! The hub's own keys, and the certificates it issues with them.

use crate::records::Records;
use fernwart_certs::CertificateDer;
use fernwart_certs::identity::SigningKey;
use fernwart_certs::issue::Authority;
use fernwart_certs::peer::Name;
use fernwart_protocol::code::Denial;
use fernwart_protocol::document::UnixMs;
use fernwart_protocol::id::{KeyId, MachineId};
use fernwart_protocol::text::{Blob, List};
use fernwart_store::SetTlsKey;
use std::time::SystemTime;

/// A certificate chain as it is sent, leaf first.
pub(crate) type Chain = List<Blob<4096>, 4>;

/// The hub's signing keys. None of them can order anything on a machine.
pub(crate) struct HubKeys {
    /// Issues all certificates.
    pub(crate) authority: Authority,
    /// Every CA whose certificates are accepted.
    pub(crate) authorities: Vec<CertificateDer<'static>>,
    /// Countersigns receipts.
    pub(crate) evidence: SigningKey,
    pub(crate) evidence_id: KeyId,
}

impl HubKeys {
    /// Issues a certificate to an admitted machine and stores which key it is for.
    pub(crate) async fn certify(&self, records: &Records, id: MachineId, spki: &[u8]) -> Result<Chain, Denial> {
        let chain =
            self.authority.issue_member(Name::Machine(id), spki, SystemTime::now()).map_err(|_| Denial::KeysRefused)?;
        let until = chain.first().and_then(|leaf| self.lasts_until(leaf)).ok_or(Denial::KeysRefused)?;
        let noted = SetTlsKey { machine: id, tls_key: fernwart_certs::sha256(spki), until };
        if !records.or_denial(records.store.write(noted).await)? {
            return Err(Denial::MachineRetired);
        }
        wire_chain(&chain)
    }

    /// Issues a certificate to a technician.
    pub(crate) fn certify_staff(&self, key: KeyId, spki: &[u8]) -> Result<Chain, Denial> {
        let chain = self.authority.issue_member(Name::Staff(key), spki, SystemTime::now());
        wire_chain(&chain.map_err(|_| Denial::KeysRefused)?)
    }

    fn lasts_until(&self, leaf: &CertificateDer<'_>) -> Option<UnixMs> {
        fernwart_certs::peer::read_certificate(leaf, self.authority.certificate()).ok().map(|read| read.until)
    }
}

fn wire_chain(chain: &[CertificateDer<'_>]) -> Result<Chain, Denial> {
    let blobs = chain.iter().map(|der| Blob::try_from(der.to_vec())).collect::<Result<Vec<_>, _>>();
    blobs.ok().and_then(|blobs| List::try_from(blobs).ok()).ok_or(Denial::KeysRefused)
}
