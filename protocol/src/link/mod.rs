//! The link: quinn behind a few words, tuned for many idle peers.
//!
//! Everything outside this folder says `Listener`, `Dialer`, `Link`, `Sender`
//! and `Receiver`, so that another transport can stand beside QUIC. TLS
//! configurations come from `certs`; here they are only carried. 0-RTT is off
//! on both sides, datagrams too.

mod assembly;
mod bucket;
mod connection_ids;
mod datagrams;
mod dial;
mod frame;
mod initial_filter;
mod inspected;
mod listen;
mod race;
mod restart_hint;
mod settled;
mod tuning;

pub use assembly::KeyFrames;
pub use bucket::Bucket;
pub use datagrams::{Datagrams, Peers};
pub use dial::{DialError, Dialer};
pub use frame::{FrameError, Receiver, Sender};
pub use listen::{Incoming, Listener, Rejections, RestartKeys};
pub use race::{NotReached, dial_any};
pub use restart_hint::RestartHint;

use crate::code::Goodbye;
use crate::limits;
use crate::version::{Hello, NoCommonVersion, Version};
use assembly::Assembly;
use quinn::VarInt;
use rustls::pki_types::CertificateDer;
use settled::Settled;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tuning::{Side, Windows};

/// The name under which every hub presents itself.
pub const HUB_SERVER_NAME: &str = "hub.fernwart.internal";

/// How long a program that ends waits for its last packet to leave.
pub const LAST_WORD: Duration = Duration::from_millis(5);

/// How often others get a turn before it sleeps meanwhile.
const TURNS: u32 = 64;

/// Which door a link came through; its ALPN.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Door {
    /// Admitted machines.
    Agent,
    /// Technicians and robots.
    Staff,
    /// Newcomers without a certificate.
    Enroll,
}

impl Door {
    /// All doors, as the hub offers them.
    pub const ALL: [Self; 3] = [Self::Agent, Self::Staff, Self::Enroll];

    /// The ALPN token.
    pub const fn alpn(self) -> &'static [u8] {
        match self {
            Self::Agent => b"fernwart-agent/1",
            Self::Staff => b"fernwart-staff/1",
            Self::Enroll => b"fernwart-enroll/1",
        }
    }

    fn from_alpn(token: &[u8]) -> Option<Self> {
        Self::ALL.into_iter().find(|door| door.alpn() == token)
    }
}

/// Why a link ended or could not be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LinkError {
    /// The peer closed it and said why.
    #[error("the peer closed the link: {0}")]
    Closed(Goodbye),
    /// We closed it, and said why.
    #[error("the link was closed on this side: {0}")]
    ClosedHere(Goodbye),
    /// The peer fell silent.
    #[error("the peer has fallen silent")]
    Silent,
    /// The peer has restarted and forgotten the link.
    #[error("the peer has restarted")]
    Forgotten,
    /// The peer refused the TLS handshake: the alert's number.
    #[error("the handshake was refused (TLS alert {0})")]
    Handshake(u8),
    /// This side refused the TLS handshake, what the peer showed being none of
    /// what is known here: the alert's number.
    #[error("the handshake was refused here (TLS alert {0})")]
    HandshakeHere(u8),
    /// Anything else of the transport.
    #[error("the transport failed")]
    Transport,
    /// The handshake took too long.
    #[error("there was no answer in time")]
    TooSlow,
    /// The peer offers none of our doors.
    #[error("the peer asked for no door of ours")]
    NoDoor,
}

impl From<quinn::ConnectionError> for LinkError {
    fn from(error: quinn::ConnectionError) -> Self {
        use quinn::ConnectionError as E;
        match error {
            E::ApplicationClosed(close) => {
                let number = u32::try_from(close.error_code.into_inner()).unwrap_or(u32::MAX);
                Self::Closed(Goodbye::from_number(number))
            }
            E::ConnectionClosed(close) => Self::from_transport(u64::from(close.error_code)),
            E::TransportError(error) => match Self::from_transport(u64::from(error.code)) {
                Self::Handshake(alert) => Self::HandshakeHere(alert),
                other => other,
            },
            E::TimedOut => Self::Silent,
            E::Reset => Self::Forgotten,
            // As a link says it that knows no better; see [`Link::end`].
            E::LocallyClosed => Self::ClosedHere(Goodbye::Done),
            E::VersionMismatch | E::CidsExhausted => Self::Transport,
        }
    }
}

impl LinkError {
    /// One word, for counting: from a closed list.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Closed(why) | Self::ClosedHere(why) => why.as_str(),
            Self::Silent => "silent",
            Self::Forgotten => "forgotten",
            Self::Handshake(_) | Self::HandshakeHere(_) => "tls_refused",
            Self::Transport => "transport",
            Self::TooSlow => "too_slow",
            Self::NoDoor => "no_door",
        }
    }

    /// RFC 9000, 20.1: codes 0x100 to 0x1ff carry a TLS alert; 0x2 refuses.
    fn from_transport(code: u64) -> Self {
        match code {
            0x2 => Self::Closed(Goodbye::Overloaded),
            0x100..=0x1ff => Self::Handshake((code & 0xff) as u8),
            _ => Self::Transport,
        }
    }
}

/// An open link with one peer. Clones are the same link.
#[derive(Debug, Clone)]
pub struct Link {
    connection: quinn::Connection,
    door: Door,
    /// What this side has closed it with; quinn does not remember.
    said: Arc<OnceLock<Goodbye>>,
    settled: Arc<Settled>,
    assembly: Arc<Assembly>,
}

impl Link {
    fn new(connection: quinn::Connection, side: Side) -> Result<Self, LinkError> {
        let data =
            connection.handshake_data().and_then(|data| data.downcast::<quinn::crypto::rustls::HandshakeData>().ok());
        let alpn = data.and_then(|data| data.protocol);
        match alpn.as_deref().and_then(Door::from_alpn) {
            Some(door) => {
                let assembly = Arc::new(Assembly::new(connection.clone(), Windows::of(side)));
                Ok(Self { connection, door, said: Arc::default(), settled: Arc::default(), assembly })
            }
            None => {
                connection.close(VarInt::from_u32(Goodbye::NotAdmitted.number()), b"");
                Err(LinkError::NoDoor)
            }
        }
    }

    /// The door it came through.
    pub fn door(&self) -> Door {
        self.door
    }

    /// Settles on a version with the peer that has said this hello: from here on the
    /// link, and every stream of it, speaks that version.
    ///
    /// # Errors
    /// When the two have none in common.
    pub fn settle(&self, hello: &Hello) -> Result<Version, NoCommonVersion> {
        let version = hello.settle()?;
        self.settled.agree(version, hello.current);
        Ok(version)
    }

    /// The version the two have settled on; none before the peer's hello.
    pub fn version(&self) -> Option<Version> {
        self.settled.agreed()
    }

    /// The certificates the peer showed, leaf first; empty if none. Also on a
    /// resumed link, where TLS itself has not looked at them again.
    pub fn peer_certificates(&self) -> Vec<CertificateDer<'static>> {
        self.connection
            .peer_identity()
            .and_then(|any| any.downcast::<Vec<CertificateDer<'static>>>().ok())
            .map(|chain| *chain)
            .unwrap_or_default()
    }

    /// 32 bytes that only the two ends of this link know (RFC 8446, 7.5).
    ///
    /// # Errors
    /// When TLS cannot export, which a finished handshake always can.
    pub fn binding(&self) -> Result<[u8; 32], LinkError> {
        let mut out = [0u8; 32];
        self.connection
            .export_keying_material(&mut out, b"EXPORTER-fernwart-enroll-1", b"")
            .map_err(|_| LinkError::Transport)?;
        Ok(out)
    }

    /// Opens a stream; waits while the peer allows no more. Cancel safe.
    ///
    /// # Errors
    /// When the link is gone.
    pub async fn open(&self) -> Result<(Sender, Receiver), LinkError> {
        let (send, recv) = self.connection.open_bi().await?;
        Ok(self.halves(send, recv))
    }

    /// The next stream the peer opens. Cancel safe.
    ///
    /// # Errors
    /// When the link is gone.
    pub async fn accept(&self) -> Result<(Sender, Receiver), LinkError> {
        let (send, recv) = self.connection.accept_bi().await?;
        Ok(self.halves(send, recv))
    }

    fn halves(&self, send: quinn::SendStream, recv: quinn::RecvStream) -> (Sender, Receiver) {
        (Sender::new(send, self.settled.clone()), Receiver::new(recv, self.settled.clone(), self.assembly.clone()))
    }

    /// Closes the link and says why.
    pub fn close(&self, why: Goodbye) {
        if !self.is_closed() {
            let _ = self.said.set(why);
        }
        self.connection.close(VarInt::from_u32(why.number()), b"");
    }

    /// Closes the link and waits until the word has left, at most
    /// [`LAST_WORD`]. Whether it arrived is not waited for: a peer that missed it
    /// finds out by its idle time-out.
    pub async fn close_aloud(&self, why: Goodbye) {
        if self.is_closed() {
            return;
        }
        self.close(why);
        let before = self.connection.stats().udp_tx.datagrams;
        let left = async {
            // It leaves as soon as others get a turn, as a rule the first; then time
            // must pass for it to leave at all.
            for turn in 0.. {
                if self.connection.stats().udp_tx.datagrams != before {
                    return;
                }
                match turn {
                    0..TURNS => tokio::task::yield_now().await,
                    _ => tokio::time::sleep(Duration::from_millis(1)).await,
                }
            }
        };
        let _ = tokio::time::timeout(LAST_WORD, left).await;
    }

    /// Waits for the link's end. Cancel safe.
    pub async fn closed(&self) -> LinkError {
        let end = self.connection.closed().await;
        self.ended_by(end)
    }

    /// How the link has ended, if it has.
    pub fn end(&self) -> Option<LinkError> {
        self.connection.close_reason().map(|end| self.ended_by(end))
    }

    fn ended_by(&self, end: quinn::ConnectionError) -> LinkError {
        match (LinkError::from(end), self.said.get()) {
            (LinkError::ClosedHere(_), Some(said)) => LinkError::ClosedHere(*said),
            (end, _) => end,
        }
    }

    /// Whether the link has ended.
    pub fn is_closed(&self) -> bool {
        self.connection.close_reason().is_some()
    }

    /// Where the peer is. One of IPv4 is written as such, also where one socket
    /// hears both families.
    pub fn remote_address(&self) -> SocketAddr {
        let remote = self.connection.remote_address();
        SocketAddr::new(remote.ip().to_canonical(), remote.port())
    }

    /// The present estimate of the round-trip time.
    pub fn rtt(&self) -> Duration {
        self.connection.rtt()
    }

    /// Tells this link from every other of its endpoint.
    pub fn serial(&self) -> usize {
        self.connection.stable_id()
    }

    /// Gives the peer the streams of a technician and room for what it is told, once it
    /// has shown to be one. What it sends has the window of any other link; frames
    /// count against its key's, whatever links it has.
    pub fn widen_for_staff(&self, key: KeyFrames) {
        self.assembly.share(key);
        self.connection.set_max_concurrent_bi_streams(VarInt::from_u32(limits::STAFF_STREAMS));
        self.connection.set_send_window(u64::from(limits::STAFF_WINDOW_BYTES));
    }
}
