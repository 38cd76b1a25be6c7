//! Joining an organisation: this home's keys are introduced to the hub, and its certificate
//! is fetched once they are on the staff list.

use crate::error::ClientError;
use crate::home::{StaffHome, StaffSettings};
use fernwart_certs::CertificateDer;
use fernwart_certs::catalogue::{Files, Trusted, advance};
use fernwart_certs::identity::{SigningKey, TlsIdentity, staff_key_id};
use fernwart_certs::invitation::Invitation;
use fernwart_certs::join::{prove_join_staff, prove_staff_claim, unsigned};
use fernwart_certs::peer::{Name, may_issue, read_certificate};
use fernwart_certs::tls::{self, Clock};
use fernwart_protocol::code::Goodbye;
use fernwart_protocol::enroll::{JoinStaff, Reply, Request, StaffClaim};
use fernwart_protocol::id::{Digest, KeyId};
use fernwart_protocol::limits::{HANDSHAKE_TIMEOUT, OFFER_FILES};
use fernwart_protocol::link::{Dialer, Door, Link, dial_any};
use fernwart_protocol::text::{Blob, List, Text};
use fernwart_protocol::to_agent::CatalogueFile;
use std::path::{Path, PathBuf};

/// A home that has joined and has no certificate yet, linked to its hub.
pub struct Newcomer {
    path: PathBuf,
    settings: StaffSettings,
    order: SigningKey,
    identity: TlsIdentity,
    trusted: Trusted,
    link: Link,
}

/// The certificate that the hub offers, and its catalogue; nothing of it is verified.
pub struct Offered {
    chain: List<Blob<4096>, 4>,
    files: Files,
}

impl Newcomer {
    /// Makes keys, introduces them with an invitation, and stores what the hub offers once it
    /// is verified. Also the organisation's name.
    ///
    /// # Errors
    /// When the hub cannot be reached or denies it, its catalogue is not the invitation's, or
    /// the home cannot be written.
    pub async fn join(path: &Path, invitation: &Invitation, name: Text<64>) -> Result<(Self, String), ClientError> {
        let (order, identity) = StaffHome::prepare(path).map_err(ClientError::Home)?;
        let addresses = invitation.addresses.as_slice().to_vec();
        let settings = StaffSettings { name, addresses, ca: invitation.ca };
        let link = dial(&settings).await?;
        let files = introduce(&link, invitation, &order, &identity, &settings.name).await?;
        let begun =
            Trusted::begin(invitation.root_version, &invitation.root, &files).map_err(ClientError::Catalogue)?;
        let (trusted, catalogue) = advance(&begun, &files).await.map_err(ClientError::Catalogue)?;
        StaffHome::keep_in(path, &trusted).map_err(ClientError::Home)?;
        StaffHome::settle(path, &settings, &identity).map_err(ClientError::Home)?;
        let path = path.to_owned();
        Ok((Self { path, settings, order, identity, trusted, link }, catalogue.shop.name.to_string()))
    }

    /// Continues where an earlier [`Newcomer::join`] has ended.
    ///
    /// # Errors
    /// When the home cannot be read, or the hub cannot be reached.
    pub async fn resume(path: &Path) -> Result<Self, ClientError> {
        let home = StaffHome::open(path).map_err(ClientError::Home)?;
        let trusted = home.trusted().map_err(ClientError::Home)?.unwrap_or_default();
        let link = dial(&home.settings).await?;
        let StaffHome { settings, order_key: order, identity, .. } = home;
        Ok(Self { path: path.to_owned(), settings, order, identity, trusted, link })
    }

    /// Introduces a complete home again, to a hub whose keys were all replaced since: the
    /// invitation names the new ones, the same order key gets a new certificate, and the hub's
    /// catalogue must follow the one that this home knows.
    ///
    /// # Errors
    /// As [`Newcomer::join`].
    pub async fn come_back(path: &Path, invitation: &Invitation) -> Result<Self, ClientError> {
        let home = StaffHome::open(path).map_err(ClientError::Home)?;
        let trusted = home.trusted().map_err(ClientError::Home)?.unwrap_or_default();
        let (addresses, ca) = (invitation.addresses.as_slice().to_vec(), invitation.ca);
        let settings = StaffSettings { name: home.settings.name.clone(), addresses, ca };
        let link = dial(&settings).await?;
        introduce(&link, invitation, &home.order_key, &home.identity, &settings.name).await?;
        let StaffHome { order_key: order, identity, .. } = home;
        Ok(Self { path: path.to_owned(), settings, order, identity, trusted, link })
    }

    /// The id that a lead puts on the staff list.
    pub fn key_id(&self) -> KeyId {
        staff_key_id(&self.order.public(), &self.identity.key.digest())
    }

    /// The name it joined under.
    pub fn name(&self) -> &Text<64> {
        &self.settings.name
    }

    /// Asks the hub for the certificate; the hub answers at once or when somebody puts the key
    /// on the staff list, within a minute or so. None if nobody did. Cancelled, it can be called
    /// again.
    ///
    /// # Errors
    /// When the hub denies it, or the link breaks.
    pub async fn offered(&self) -> Result<Option<Offered>, ClientError> {
        let binding = self.link.binding().map_err(ClientError::Link)?;
        let key = self.key_id();
        let claim = prove_staff_claim(StaffClaim { key, signature: unsigned() }, &binding, &self.order);
        let (reply, files) = ask(&self.link, &Request::CollectStaff(claim)).await?;
        let chain = match reply {
            Reply::Denied(denial) => return Err(ClientError::Denied(denial)),
            Reply::Pending => return Ok(None),
            Reply::Certificate(chain) => chain,
        };
        Ok(Some(Offered { chain, files }))
    }

    /// Verifies and stores what the hub has offered. The home is complete then.
    ///
    /// # Errors
    /// When the certificate or catalogue is wrong, or the home cannot be written.
    pub async fn complete(&mut self, offered: Offered) -> Result<(), ClientError> {
        let Offered { chain, files } = offered;
        let key = self.key_id();
        let chain: Vec<_> = chain.into_iter().map(|der| CertificateDer::from(der.into_bytes())).collect();
        let [leaf, ca] = chain.as_slice() else { return Err(ClientError::WrongCertificate) };
        let certificate = read_certificate(leaf, ca).map_err(|_| ClientError::WrongCertificate)?;
        if certificate.name != Name::Staff(key)
            || certificate.tls_key != self.identity.key.digest()
            || !may_issue(ca, &[self.settings.ca], &self.link.peer_certificates())
        {
            return Err(ClientError::WrongCertificate);
        }
        let (trusted, _) = advance(&self.trusted, &files).await.map_err(ClientError::Catalogue)?;
        StaffHome::keep_in(&self.path, &trusted).map_err(ClientError::Home)?;
        self.identity.chain = chain;
        StaffHome::settle(&self.path, &self.settings, &self.identity).map_err(ClientError::Home)?;
        self.link.close(Goodbye::Done);
        Ok(())
    }
}

async fn dial(settings: &StaffSettings) -> Result<Link, ClientError> {
    let tls = tls::newcomer(vec![settings.ca], Clock::MustBeRight).map_err(ClientError::Tls)?;
    let dialled = dial_any(&settings.addresses, Door::Enroll, &tls, HANDSHAKE_TIMEOUT, Dialer::new).await;
    Ok(dialled.map_err(ClientError::from)?.0)
}

async fn ask(link: &Link, request: &Request) -> Result<(Reply, Files), ClientError> {
    let (mut send, mut receive) = link.open().await.map_err(ClientError::Link)?;
    send.send(request).await.map_err(ClientError::Frame)?;
    send.finish();
    let reply: Reply = receive.expect().await.map_err(ClientError::Frame)?;
    let mut files = Files::default();
    for _ in 0..OFFER_FILES {
        match receive.next::<CatalogueFile>().await.map_err(ClientError::Frame)? {
            Some(file) => files.insert(file.name.as_raw(), file.bytes.into_bytes()),
            None => break,
        }
    }
    Ok((reply, files))
}

/// Registers keys at the hub. The catalogue files that it offers.
async fn introduce(
    link: &Link,
    invitation: &Invitation,
    order: &SigningKey,
    identity: &TlsIdentity,
    name: &Text<64>,
) -> Result<Files, ClientError> {
    let binding = link.binding().map_err(ClientError::Link)?;
    let tls_key = Blob::try_from(identity.key.spki().to_vec()).map_err(|_| ClientError::KeyTooLong)?;
    let request = JoinStaff {
        token: invitation.token,
        proof: Digest::from_bytes([0; 32]),
        tls_key,
        order_key: order.public(),
        signature: unsigned(),
        name: name.clone(),
    };
    let request = prove_join_staff(request, &binding, &invitation.secret.proof_key(), order);
    match ask(link, &Request::JoinStaff(request)).await? {
        (Reply::Denied(denial), _) => Err(ClientError::Denied(denial)),
        (_, files) => Ok(files),
    }
}
