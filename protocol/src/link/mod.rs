//! Links: framed messages on streams to one authenticated peer.
//!
//! Code outside of this folder uses `Listener`, `Dialer`, `Link`, `Sender`, `Receiver`, and the types
//! that go with them. An
//! enum (`transport`) selects the transport. Today that is always QUIC; only its folder uses quinn.
//!
//! # Decisions
//!
//! - **Slow peers and peers that break rules are closed, with the reason.** A stream's first frame
//!   must begin within ten seconds, a frame must come at 2 KiB a second, and answers must be read
//!   as fast (`frame`). A peer that only asks too much waits: QUIC's limit of eight streams holds a
//!   machine back at its own end. Nothing is held against an address, because many peers share one.
//!   `fernwart limits` prints all limits; [`crate::limits`] has their arithmetic.
//! - **Memory is for bytes that have come** (`assembly`). A frame's body grows while it is read.
//!   Incomplete frames share 1.25 MiB on one link and 16 MiB on all links of a staff key. One that
//!   stands still for ten seconds closes its link.
//! - **Initials are filtered before they cost anything** (`quic/initial_filter.rs`). QUIC must make
//!   keys for every Initial before it can refuse it, 30 µs each. A look at a few bytes of the
//!   header passes 3,000 a second (12,000 at once) of those who have not shown their address, as
//!   many of those who have answered a Retry, and drops the rest, as a full network would. Links
//!   that are open notice nothing.
//! - **Connection ids are our own** (`quic/connection_ids.rs`): 8 random bytes, and 4 that mark
//!   them as ours. quinn's generator that recognises its ids after a restart has 24 random bits.
//!   With ten thousand machines, the id of an old link was now and then that of another machine's
//!   new link. QUIC took the old link's datagrams for the new one's, and sent no reset. The old
//!   link's machine came back only after its idle time-out: in four of fifteen mass reconnects, a
//!   single machine after 65 s. With ids of 16 random bits, each of three mass reconnects of 3,000
//!   machines had machines that came back after 67 s; with 64 random bits, none had.
//! - **A hub that starts sends a restart hint** (`quic/restart_hint.rs`). An idle agent sends
//!   something only every 20 s, so it would notice a restarted hub late. The hint is one 16-byte
//!   datagram from the hub's port to each address that it remembers. A receiver sends
//!   something on the link, and QUIC's stateless reset, whose key is kept in the hub's home, ends
//!   the dead link at once. The hint has no authority: a forged one costs one packet every two
//!   seconds at most.
//! - **A hub says over how long its machines should come back** (hello tag 8): one millisecond a
//!   machine, 30 s at most.
//! - **A technician's link sends something every two seconds** and counts as gone after twenty
//!   seconds of silence; a machine's after 65 (`quic/tuning.rs`). So a hub that has just restarted
//!   can soon answer a technician with a reset. Technicians are few, and somebody waits.
//! - **The addresses of a hub are dialled beside each other** (`race`, RFC 8305): the next one
//!   after 250 ms, and the first link that stands is taken. An agent waits two seconds before the
//!   next: nobody sits there, and thousands that dial a restarted hub would double its handshakes.
//!   A machine has arrived only when it says hello, so a losing handshake replaces no link. Of the
//!   failures the most telling one is reported: a refusal before silence, silence before a missing
//!   socket.
//! - **A program that ends waits until its goodbye has left, not until it has arrived**
//!   (`Link::close_aloud`). A lost goodbye costs the hub an idle time-out. Waiting for its arrival
//!   would cost every call three round trips.
//! - **A simulation replaces the sockets, not the messages** (`Datagrams`). So QUIC, TLS, frames
//!   and all above them are the real code. Only congestion control has a stand-in: it would count
//!   bytes, whose number cannot be seeded.

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
