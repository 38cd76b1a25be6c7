//! The uplink: finds the hub, keeps one link to it, and carries frames to and from the executor.
//! It holds the TLS key but not the evidence key.
//!
//! ```text
//! no certificate ─▶ enrollment door: collect ─┐
//! certificate ran out ─▶ enrollment door: return ─┴▶ certificate ─▶ link ─(lost)─▶ wait ─▶ link …
//! ```

mod backoff;
mod certificate;
mod fetch;
mod session;
mod streams;

use crate::channel::Channels;
use crate::executor::Handle;
use crate::message::{Dial, Rejection, Ticket, ToExecutor, ToUplink};
use backoff::Backoff;
use fernwart_certs::identity::TlsIdentity;
use fernwart_certs::keyfile::KeyFileError;
use fernwart_certs::tls::TlsError;
use fernwart_protocol::clock::Clock;
use fernwart_protocol::code::{Denial, Goodbye};
use fernwart_protocol::id::MachineId;
use fernwart_protocol::limits::HANDSHAKE_TIMEOUT;
use fernwart_protocol::link::{DialError, Dialer, Door, FrameError, Link, LinkError, NotReached, dial_any};
use fernwart_protocol::to_hub::About;
use std::path::PathBuf;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// Why a connection attempt or a link ended.
#[derive(Debug, thiserror::Error)]
pub enum UplinkError {
    /// No hub could be dialled.
    #[error("dialling the hub")]
    Dial(#[source] DialError),
    /// None of the hub's host names resolves to an address.
    #[error("finding an address of the hub")]
    NoAddress,
    /// The link has ended.
    #[error("the link to the hub has ended")]
    Link(#[source] LinkError),
    /// A frame could not be sent or received.
    #[error("speaking with the hub")]
    Frame(#[source] FrameError),
    /// TLS cannot be configured.
    #[error("configuring the link")]
    Tls(#[source] TlsError),
    /// The identity file cannot be used.
    #[error("keeping the TLS identity")]
    Identity(#[source] KeyFileError),
    /// A key cannot be made.
    #[error("making a TLS key")]
    Key,
    /// The hub denied the request.
    #[error("the hub says: {0}")]
    Denied(Denial),
    /// The hub sent a certificate that is not for this machine.
    #[error("the hub's certificate is not for this machine and key")]
    WrongCertificate,
    /// The executor has stopped.
    #[error("the executor has stopped")]
    NoExecutor,
}

/// The parts from which an uplink is built.
pub struct Parts {
    /// This machine.
    pub machine: MachineId,
    /// Its TLS key and certificate.
    pub identity: TlsIdentity,
    /// The file they are kept in; none for a simulated machine.
    pub identity_file: Option<PathBuf>,
    /// The handle of the executor.
    pub executor: Handle,
    /// The executor's messages.
    pub from_executor: mpsc::Receiver<ToUplink>,
    /// A socket to start with; thousands of simulated machines share a few.
    pub dialer: Option<Dialer>,
    /// Stops the uplink.
    pub stop: CancellationToken,
    /// Its clock.
    pub clock: Clock,
    /// The seed of its jitter; the system's randomness if none is given.
    pub seed: Option<u64>,
}

/// The uplink with all it needs.
pub struct Uplink {
    machine: MachineId,
    identity: TlsIdentity,
    identity_file: Option<PathBuf>,
    executor: Handle,
    from_executor: mpsc::Receiver<ToUplink>,
    dialer: Option<Dialer>,
    stop: CancellationToken,
    clock: Clock,
    seed: Option<u64>,
    /// The last ticket assigned; unique within this process.
    last_ticket: Ticket,
    /// When this process last renewed the certificate.
    renewed_at: Option<tokio::time::Instant>,
}

/// The executor's state as last reported.
pub(crate) struct ExecutorState {
    dial: Dial,
    about: About,
    /// Whether this machine was retired or left, so that nothing is dialled any more.
    parted: bool,
}

impl ExecutorState {
    /// Applies a message while there is no link. What was for a stream is dropped: outcomes are
    /// sent again later.
    fn update(&mut self, message: ToUplink, channels: &Channels) {
        match message {
            ToUplink::Dial(dial) => self.dial = dial,
            ToUplink::About(about) => self.about = about,
            // Without a link the hub cannot be informed.
            ToUplink::Parted | ToUplink::Leave => self.parted = true,
            ToUplink::Outcome(_, run, _) => channels.revoke(&run),
            ToUplink::Delivered(..)
            | ToUplink::Opened(..)
            | ToUplink::GivenBack(..)
            | ToUplink::Want(_)
            | ToUplink::Claim(_)
            | ToUplink::CatalogueRefused(_)
            | ToUplink::Journal(..)
            | ToUplink::Stopped => {}
        }
    }
}

impl Uplink {
    /// An uplink that has not dialled yet.
    pub fn new(parts: Parts) -> Self {
        let Parts { machine, identity, identity_file, executor, from_executor, dialer, stop, clock, seed } = parts;
        Self {
            machine,
            identity,
            identity_file,
            executor,
            from_executor,
            dialer,
            stop,
            clock,
            seed,
            last_ticket: 0,
            renewed_at: None,
        }
    }

    /// Keeps the machine linked until it is stopped.
    pub async fn run(mut self) {
        let Some(mut state) = self.first_words().await else { return };
        let mut backoff = Backoff::new(self.seed);
        let mut dialer = self.dialer.take();
        while !self.stop.is_cancelled() {
            while let Ok(news) = self.from_executor.try_recv() {
                state.update(news, self.executor.channels());
            }
            if state.parted {
                return self.rest_for_good().await;
            }
            let error = match self.try_once(&mut state, &mut dialer, &mut backoff).await {
                Ok(()) => {
                    backoff.rest();
                    continue;
                }
                Err(error) => error,
            };
            if matches!(error, UplinkError::NoExecutor) {
                return;
            }
            if matches!(error, UplinkError::Dial(DialError::Socket(_))) {
                dialer = None;
            }
            if let Some(rejection) = rejection_of(&error) {
                self.executor.hint(ToExecutor::Rejected(rejection));
            }
            let wait = backoff.next(&error);
            let reason = fernwart_protocol::text::chain(&error);
            info!(reason, wait_ms = wait.as_millis() as u64, "no link");
            let mut hint = dialer.as_ref().map(Dialer::restart_hint).unwrap_or_default();
            let over = tokio::time::Instant::now() + wait;
            let waited = async {
                tokio::select! {
                    biased;
                    () = tokio::time::sleep_until(over) => {}
                    // The hub is back. Machines of a large hub spread their return, and the hint
                    // never lengthens the wait.
                    () = hint.rung() => {
                        let soon = tokio::time::Instant::now() + backoff.scatter();
                        tokio::time::sleep_until(over.min(soon)).await;
                    }
                }
            };
            tokio::select! {
                biased;
                () = waited => {}
                () = self.stop.cancelled() => {}
            }
        }
    }

    /// Stops dialling; returns when the executor has stopped or the uplink is cancelled.
    async fn rest_for_good(&mut self) {
        loop {
            tokio::select! {
                biased;
                () = self.stop.cancelled() => return,
                word = self.from_executor.recv() => match word {
                    Some(ToUplink::Stopped) | None => return,
                    Some(_) => {}
                },
            }
        }
    }

    /// Waits for the addresses to dial and the data of the hello.
    async fn first_words(&mut self) -> Option<ExecutorState> {
        let (mut dial, mut about) = (None, None);
        loop {
            match self.from_executor.recv().await? {
                ToUplink::Dial(known) => dial = Some(known),
                ToUplink::About(known) => about = Some(known),
                ToUplink::Parted => {
                    self.rest_for_good().await;
                    return None;
                }
                _ => {}
            }
            if let (Some(dial), Some(about)) = (&dial, &about) {
                return Some(ExecutorState { dial: dial.clone(), about: about.clone(), parted: false });
            }
        }
    }

    /// One attempt: gets a certificate if there is none, else dials and serves the link until it
    /// ends.
    async fn try_once(
        &mut self,
        state: &mut ExecutorState,
        dialer: &mut Option<Dialer>,
        backoff: &mut Backoff,
    ) -> Result<(), UplinkError> {
        if self.identity.chain.is_empty() {
            return self.collect(state, dialer).await;
        }
        let tls = self.member_tls(state)?;
        let dialled = tokio::select! {
            biased;
            dialled = dial(state, dialer, Door::Agent, &tls) => dialled,
            () = self.stop.cancelled() => return Ok(()),
        };
        let ended = match dialled {
            Ok((link, hint)) => {
                let ended = self.session(state, link.clone(), hint, backoff).await;
                // Under TLS 1.3 the hub's rejection may arrive after the handshake has finished
                // here.
                match ended {
                    Err(UplinkError::Frame(FrameError::Cut)) if link.is_closed() => {
                        Err(UplinkError::Link(link.closed().await))
                    }
                    other => other,
                }
            }
            Err(error) => Err(error),
        };
        match ended {
            // Only the hub's clock decides whether a certificate has expired, since ours may be
            // wrong. If the hub does not know our key, a renewal was interrupted or the hub was
            // restored from a backup: the evidence key proves our identity.
            Err(error) if is_about_certificate(&error) => {
                warn!(reason = fernwart_protocol::text::chain(&error), "asking for a new certificate");
                self.come_back(state, dialer).await
            }
            other => other,
        }
    }
}

/// The rejection, if the hub rejects this machine.
fn rejection_of(error: &UplinkError) -> Option<Rejection> {
    match error {
        UplinkError::Denied(Denial::MachineRejected) => Some(Rejection::Rejected),
        UplinkError::Denied(Denial::MachineRetired) => Some(Rejection::Retired),
        UplinkError::Denied(Denial::MachineUnknown) => Some(Rejection::Unknown),
        UplinkError::Link(LinkError::Closed(Goodbye::Quarantined))
        | UplinkError::Dial(DialError::Link { source: LinkError::Closed(Goodbye::Quarantined), .. }) => {
            Some(Rejection::KeptOut)
        }
        _ => None,
    }
}

/// RFC 8446, 6.2: alert 45 is certificate_expired, 48 is unknown_ca (the hub has removed the CA
/// that issued ours).
fn is_about_certificate(error: &UplinkError) -> bool {
    let link = match error {
        UplinkError::Dial(DialError::Link { source, .. }) | UplinkError::Link(source) => source,
        _ => return false,
    };
    matches!(link, LinkError::Handshake(45 | 48) | LinkError::Closed(Goodbye::CertificateExpired | Goodbye::Revoked))
}

/// Dials the hub's addresses. The socket is reused while its address family fits: a restarted hub
/// sends its restart hint to the address it knows.
async fn dial(
    state: &ExecutorState,
    dialer: &mut Option<Dialer>,
    door: Door,
    tls: &fernwart_certs::tls::ClientConfig,
) -> Result<(Link, fernwart_protocol::link::RestartHint), UplinkError> {
    let socket = |address| match dialer.as_ref().filter(|ready| ready.reaches(address)) {
        Some(ready) => Ok(ready.clone()),
        None => Dialer::new(address),
    };
    let dialled = dial_any(&state.dial.addresses, door, tls, HANDSHAKE_TIMEOUT, socket).await;
    let (link, used) = dialled.map_err(|error| match error {
        NotReached::NoAddress(_) => UplinkError::NoAddress,
        NotReached::Dial { source, .. } => UplinkError::Dial(source),
    })?;
    let hint = used.restart_hint();
    *dialer = Some(used);
    Ok((link, hint))
}
