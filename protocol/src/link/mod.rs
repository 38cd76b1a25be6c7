//! Links: framed messages on streams to one authenticated peer.
//!
//! Code outside of this folder only uses `Listener`, `Dialer`, `Link`, `Sender` and `Receiver`. An
//! enum (`transport`) selects the transport. Today that is always QUIC; only its folder uses quinn.

mod assembly;
mod bucket;
mod door;
mod error;
mod frame;
mod quic;
mod race;
mod settled;
mod transport;

pub use assembly::KeyFrames;
pub use bucket::Bucket;
pub use door::Door;
pub use error::LinkError;
pub use frame::{FrameError, Receiver, Sender};
pub use quic::{Datagrams, DialError, Dialer, Incoming, Listener, Peers, Rejections, RestartHint, RestartKeys};
pub use race::{NotReached, dial_any};
pub use transport::LinkId;

use crate::code::Goodbye;
use crate::limits;
use crate::version::{Hello, NoCommonVersion, Version};
use assembly::Assembly;
use rustls::pki_types::CertificateDer;
use settled::Settled;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use transport::Transport;

/// The TLS server name of every hub.
pub const HUB_SERVER_NAME: &str = "hub.fernwart.internal";

/// How long a program that ends waits until its last packet is sent.
pub const CLOSE_TIMEOUT: Duration = Duration::from_millis(5);

/// How often [`Link::close_aloud`] yields to other tasks before it sleeps instead.
const TURNS: u32 = 64;

/// An open link with one peer. Clones are the same link.
#[derive(Debug, Clone)]
pub struct Link {
    id: LinkId,
    transport: Transport,
    door: Door,
    /// The reason with which this side closed it; a transport need not keep it.
    closed_with: Arc<OnceLock<Goodbye>>,
    settled: Arc<Settled>,
    assembly: Arc<Assembly>,
}

impl Link {
    fn new(transport: Transport) -> Result<Self, LinkError> {
        match transport.alpn().as_deref().and_then(Door::from_alpn) {
            Some(door) => {
                let assembly = Arc::new(Assembly::new(transport.clone()));
                let (closed_with, settled) = (Arc::default(), Arc::default());
                Ok(Self { id: LinkId::next(), transport, door, closed_with, settled, assembly })
            }
            None => {
                transport.close(Goodbye::NotAdmitted.number());
                Err(LinkError::NoDoor)
            }
        }
    }

    /// Distinguishes this link from all others of the process.
    pub fn id(&self) -> LinkId {
        self.id
    }

    /// The door it came through.
    pub fn door(&self) -> Door {
        self.door
    }

    /// Settles on a version with the peer that sent this hello. From here on all streams of the
    /// link speak that version.
    ///
    /// # Errors
    /// When the two have none in common.
    pub fn settle(&self, hello: &Hello) -> Result<Version, NoCommonVersion> {
        let version = hello.settle()?;
        self.settled.agree(version, hello.current);
        Ok(version)
    }

    /// The settled version; `None` before the peer's hello.
    pub fn version(&self) -> Option<Version> {
        self.settled.agreed()
    }

    /// The certificates the peer presented, leaf first; empty if none. Also set on a resumed link,
    /// where TLS itself has not checked them again.
    pub fn peer_certificates(&self) -> Vec<CertificateDer<'static>> {
        self.transport.peer_certificates()
    }

    /// 32 bytes that only the two ends of this link know (RFC 8446, 7.5).
    ///
    /// # Errors
    /// When TLS cannot export, which a finished handshake always can.
    pub fn binding(&self) -> Result<[u8; 32], LinkError> {
        let mut out = [0u8; 32];
        self.transport.export_keying_material(&mut out, b"EXPORTER-fernwart-enroll-1")?;
        Ok(out)
    }

    /// Opens a stream; waits while the peer's stream limit is reached. Cancel safe.
    ///
    /// # Errors
    /// When the link is gone.
    pub async fn open(&self) -> Result<(Sender, Receiver), LinkError> {
        let (send, receive) = self.transport.open().await?;
        Ok(self.framed(send, receive))
    }

    /// The next stream the peer opens. Cancel safe.
    ///
    /// # Errors
    /// When the link is gone.
    pub async fn accept(&self) -> Result<(Sender, Receiver), LinkError> {
        let (send, receive) = self.transport.accept().await?;
        Ok(self.framed(send, receive))
    }

    fn framed(&self, send: transport::SendStream, receive: transport::ReceiveStream) -> (Sender, Receiver) {
        (Sender::new(send, self.settled.clone()), Receiver::new(receive, self.settled.clone(), self.assembly.clone()))
    }

    /// Closes the link and says why.
    pub fn close(&self, why: Goodbye) {
        if !self.is_closed() {
            let _ = self.closed_with.set(why);
        }
        self.transport.close(why.number());
    }

    /// Closes the link and waits until the close packet is sent, at most [`CLOSE_TIMEOUT`]. It does
    /// not wait for the packet to arrive: a peer that misses it notices by its idle time-out.
    pub async fn close_aloud(&self, why: Goodbye) {
        if self.is_closed() {
            return;
        }
        self.close(why);
        let before = self.transport.packets_sent();
        let left = async {
            // The packet is usually sent at the first yield to quinn's task. If it is not, it
            // cannot be sent before some time has passed.
            for turn in 0.. {
                if self.transport.packets_sent() != before {
                    return;
                }
                match turn {
                    0..TURNS => tokio::task::yield_now().await,
                    _ => tokio::time::sleep(Duration::from_millis(1)).await,
                }
            }
        };
        let _ = tokio::time::timeout(CLOSE_TIMEOUT, left).await;
    }

    /// Waits for the link's end. Cancel safe.
    pub async fn closed(&self) -> LinkError {
        self.complete(self.transport.closed().await)
    }

    /// How the link has ended, if it has.
    pub fn end(&self) -> Option<LinkError> {
        self.transport.end().map(|end| self.complete(end))
    }

    /// Adds the reason that this side gave, if it closed the link.
    fn complete(&self, end: LinkError) -> LinkError {
        match (end, self.closed_with.get()) {
            (LinkError::ClosedHere(_), Some(reason)) => LinkError::ClosedHere(*reason),
            (end, _) => end,
        }
    }

    /// Whether the link has ended.
    pub fn is_closed(&self) -> bool {
        self.transport.end().is_some()
    }

    /// The peer's address. An IPv4 address is returned as IPv4, even if a dual-stack socket maps
    /// it.
    pub fn remote_address(&self) -> SocketAddr {
        let remote = self.transport.remote_address();
        SocketAddr::new(remote.ip().to_canonical(), remote.port())
    }

    /// The present estimate of the round-trip time.
    pub fn rtt(&self) -> Duration {
        self.transport.rtt()
    }

    /// Gives an authenticated technician's link more streams and a larger send window. Its receive
    /// window stays that of any other link. Its frames count against the limit that all links of
    /// its key share.
    pub fn widen_for_staff(&self, key: KeyFrames) {
        self.assembly.share(key);
        self.transport.set_limits(limits::STAFF_STREAMS, limits::STAFF_WINDOW_BYTES);
    }
}
