//! The machine's certificate: collected once the machine is admitted, renewed monthly, requested
//! again after it has expired.

use super::{ExecutorState, Uplink, UplinkError, dial};
use crate::message::{ToExecutor, ToUplink};
use fernwart_certs::identity::{TlsIdentity, TlsKey};
use fernwart_certs::peer::{Name, may_issue, read_certificate};
use fernwart_certs::tls::ClientConfig;
use fernwart_certs::tls::{self, Clock};
use fernwart_protocol::code::Goodbye;
use fernwart_protocol::enroll::{Claim, Reply, Request};
use fernwart_protocol::limits::COLLECT_WAIT;
use fernwart_protocol::link::{Dialer, Door, Link};
use fernwart_protocol::text::{Blob, List};
use fernwart_protocol::to_agent::Renewed;
use fernwart_protocol::to_hub::Ask;
use rustls_pki_types::CertificateDer;
use std::sync::Arc;
use std::time::Duration;
use tracing::info;

/// A certificate is renewed after this long; it lasts a year.
const RENEW_AFTER_MS: i64 = 30 * 24 * 3600 * 1000;

/// Minimum time between two renewals or attempts.
pub(super) const RENEW_AGAIN: Duration = Duration::from_secs(3600);

/// Which request a claim goes with.
#[derive(Clone, Copy)]
enum Wanted {
    First,
    Again,
}

impl Uplink {
    /// TLS as this machine.
    pub(super) fn member_tls(&self, state: &ExecutorState) -> Result<ClientConfig, UplinkError> {
        let chain = self.identity.chain.clone();
        tls::member(state.dial.pins.clone(), Clock::MayBeWrong, chain, &self.identity.key).map_err(UplinkError::Tls)
    }

    /// Requests the first certificate; waits while the machine is not admitted yet.
    pub(super) async fn collect(
        &mut self,
        state: &mut ExecutorState,
        dialer: &mut Option<Dialer>,
    ) -> Result<(), UplinkError> {
        self.claim(state, dialer, Wanted::First).await
    }

    /// Requests a new certificate after the old one has expired.
    pub(super) async fn come_back(
        &mut self,
        state: &mut ExecutorState,
        dialer: &mut Option<Dialer>,
    ) -> Result<(), UplinkError> {
        self.claim(state, dialer, Wanted::Again).await
    }

    async fn claim(
        &mut self,
        state: &mut ExecutorState,
        dialer: &mut Option<Dialer>,
        wanted: Wanted,
    ) -> Result<(), UplinkError> {
        let tls = tls::newcomer(state.dial.pins.clone(), Clock::MayBeWrong).map_err(UplinkError::Tls)?;
        let (link, _) = tokio::select! {
            biased;
            dialled = dial(state, dialer, Door::Enroll, &tls) => dialled?,
            () = self.stop.cancelled() => return Ok(()),
        };
        let result = self.claim_on(state, &link, wanted).await;
        link.close(Goodbye::Done);
        result
    }

    async fn claim_on(&mut self, state: &mut ExecutorState, link: &Link, wanted: Wanted) -> Result<(), UplinkError> {
        let binding = link.binding().map_err(UplinkError::Link)?;
        let spki = self.identity.key.spki().to_vec();
        self.executor.send(ToExecutor::Claim(binding, spki.clone())).await;
        let signature = loop {
            match self.from_executor.recv().await {
                Some(ToUplink::Claim(signature)) => break signature,
                Some(ToUplink::Stopped) | None => return Err(UplinkError::NoExecutor),
                Some(news) => state.update(news, self.executor.channels()),
            }
        };
        let tls_key = Blob::try_from(spki).map_err(|_| UplinkError::Key)?;
        let claim = Claim { machine: self.machine, tls_key, signature };
        let request = match wanted {
            Wanted::First => Request::Collect(claim),
            Wanted::Again => Request::Return(claim),
        };
        let (mut send, mut receive) = link.open().await.map_err(UplinkError::Link)?;
        send.send(&request).await.map_err(UplinkError::Frame)?;
        send.finish();
        let wait = COLLECT_WAIT + Duration::from_secs(10);
        let reply = tokio::select! {
            biased;
            reply = tokio::time::timeout(wait, receive.expect::<Reply>()) => {
                reply.map_err(|_| UplinkError::Link(link_silent()))?.map_err(UplinkError::Frame)?
            }
            () = self.stop.cancelled() => return Ok(()),
        };
        match reply {
            Reply::Pending => Ok(()),
            Reply::Denied(denial) => Err(UplinkError::Denied(denial)),
            Reply::Certificate(chain) => {
                let chain = self.accept_chain(chain, state, link, &self.identity.key)?;
                self.identity.chain = chain;
                self.keep(&self.identity)?;
                info!("this machine has a certificate");
                Ok(())
            }
        }
    }

    /// Stores the identity in its file, if there is one.
    fn keep(&self, identity: &TlsIdentity) -> Result<(), UplinkError> {
        let file = self.identity_file.as_ref();
        file.map_or(Ok(()), |file| identity.write(file)).map_err(UplinkError::Identity)
    }

    /// Verifies a certificate: it must name this machine, contain this key, and come from the
    /// pinned CA or one that it vouches for.
    fn accept_chain(
        &self,
        chain: List<Blob<4096>, 4>,
        state: &ExecutorState,
        link: &Link,
        key: &TlsKey,
    ) -> Result<Vec<CertificateDer<'static>>, UplinkError> {
        let chain: Vec<_> = chain.into_iter().map(|der| CertificateDer::from(der.into_bytes())).collect();
        let [leaf, ca] = chain.as_slice() else { return Err(UplinkError::WrongCertificate) };
        let certificate = read_certificate(leaf, ca).map_err(|_| UplinkError::WrongCertificate)?;
        let ours = certificate.name == Name::Machine(self.machine) && certificate.tls_key == key.digest();
        if ours && may_issue(ca, &state.dial.pins, &link.peer_certificates()) {
            Ok(chain)
        } else {
            Err(UplinkError::WrongCertificate)
        }
    }

    /// How long until the certificate should be renewed, by the hub's clock. Zero if renewal is
    /// due or the issuing CA is about to be removed. At least an hour after the last renewal,
    /// whatever the clocks show.
    pub(super) fn renewal_in(&self, state: &ExecutorState, link: &Link, hub_ahead_ms: i64) -> Duration {
        let rest = self.renewed_at.map_or(Duration::ZERO, |at| RENEW_AGAIN.saturating_sub(at.elapsed()));
        let Some((from, until)) = self.identity.lasts() else { return Duration::ZERO };
        if self.identity.is_outdated_by(&link.peer_certificates(), &state.dial.pins) {
            // All machines learn of it at once, so their renewals are spread out.
            let [first, ..] = *self.machine.as_bytes();
            return rest.max(Duration::from_millis(u64::from(first) * 200));
        }
        let due = (from + RENEW_AFTER_MS).min(until - (until - from) / 4);
        let hub_now = self.clock.now().saturating_add(hub_ahead_ms);
        Duration::from_millis(u64::try_from(due.saturating_sub(hub_now)).unwrap_or_default()).max(rest)
    }

    /// Renews key and certificate over an existing link; the next link uses them.
    pub(super) async fn renew(&mut self, state: &ExecutorState, link: &Link) -> Result<(), UplinkError> {
        let key = TlsKey::generate().map_err(|_| UplinkError::Key)?;
        let (mut send, mut receive) = link.open().await.map_err(UplinkError::Link)?;
        let spki = Blob::try_from(key.spki().to_vec()).map_err(|_| UplinkError::Key)?;
        send.send(&Ask::Renew(spki)).await.map_err(UplinkError::Frame)?;
        send.finish();
        match receive.expect::<Renewed>().await.map_err(UplinkError::Frame)? {
            Renewed::Denied(denial) => Err(UplinkError::Denied(denial)),
            Renewed::Certificate(chain) => {
                let chain = self.accept_chain(chain, state, link, &key)?;
                let identity = TlsIdentity { key: Arc::new(key), chain };
                self.keep(&identity)?;
                self.identity = identity;
                self.renewed_at = Some(tokio::time::Instant::now());
                info!("certificate renewed");
                Ok(())
            }
        }
    }
}

fn link_silent() -> fernwart_protocol::link::LinkError {
    fernwart_protocol::link::LinkError::Silent
}
