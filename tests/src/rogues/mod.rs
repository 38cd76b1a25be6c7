//! The rogues' gallery: peers that hold an admitted machine's key, or none, and
//! keep no rule but those that QUIC itself enforces.
//!
//! Each speaks below the frames, with quinn alone, or with bare datagrams.

mod teaser;

pub use teaser::{Answer, Honesty, Teaser};

use fernwart_certs::identity::TlsIdentity;
use fernwart_certs::sha256;
use fernwart_certs::tls::{self, Clock};
use fernwart_protocol::codec;
use fernwart_protocol::document::{Envelope, Order, Outcome, Receipt, Versions};
use fernwart_protocol::id::{BootId, Digest};
use fernwart_protocol::limits::{AGENT_STREAMS, FRAME_BYTES};
use fernwart_protocol::link::{Door, HUB_SERVER_NAME};
use fernwart_protocol::text::Text;
use fernwart_protocol::to_hub::{self, About, Ask};
use fernwart_protocol::version::Hello;
use quinn::crypto::rustls::QuicClientConfig;
use quinn::{Connection, Endpoint, RecvStream, SendStream, TransportConfig, VarInt};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Where the hub is, and what it must show.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    /// Its address.
    pub address: SocketAddr,
    /// SHA-256 of its CA's certificate.
    pub pin: Digest,
}

/// A way to misbehave on an admitted machine's link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rogue {
    /// Opens a stream and says nothing on it.
    Silent,
    /// Sends one byte of a frame a second.
    SlowSender,
    /// Asks for what is large and reads one byte a second.
    SlowReader,
    /// Asks, on every stream it may open, and reads nothing at all.
    NeverReads,
    /// Asks again as soon as it is answered, on every stream it may open.
    Flood,
    /// Opens streams and resets them at once.
    Resets,
    /// Announces a frame of 1 GiB.
    GiantFrame,
    /// Says words on the control stream without end.
    Chatter,
}

impl Rogue {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Silent,
        Self::SlowSender,
        Self::SlowReader,
        Self::NeverReads,
        Self::Flood,
        Self::Resets,
        Self::GiantFrame,
        Self::Chatter,
    ];

    /// One word.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Silent => "silent",
            Self::SlowSender => "slow-sender",
            Self::SlowReader => "slow-reader",
            Self::NeverReads => "never-reads",
            Self::Flood => "flood",
            Self::Resets => "resets",
            Self::GiantFrame => "giant-frame",
            Self::Chatter => "chatter",
        }
    }

    /// The one of this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|rogue| rogue.name() == name)
    }

    /// Windows this small make the hub wait for the reader at once.
    fn window(self) -> u32 {
        match self {
            Self::SlowReader | Self::NeverReads => 64,
            _ => 64 * 1024,
        }
    }

    /// Misbehaves on one link until it is closed or `timeout` is over; counts
    /// in `times` how often it does what it does. The code it was closed with.
    ///
    /// # Panics
    /// When the hub does not let it in at first.
    pub async fn attack(
        self,
        hub: Target,
        identity: &TlsIdentity,
        timeout: Duration,
        times: &Arc<AtomicU64>,
    ) -> Option<u64> {
        let (_endpoint, link) = dial(hub, Some(identity), Door::Agent, self.window()).await;
        let misbehave = async {
            self.misbehave(&link, times).await;
            // What it had to do is done; it waits for what comes of it.
            std::future::pending::<()>().await;
        };
        let end = async {
            tokio::select! {
                () = misbehave => unreachable!("it never ends"),
                end = link.closed() => end,
            }
        };
        match tokio::time::timeout(timeout, end).await {
            Ok(quinn::ConnectionError::ApplicationClosed(close)) => Some(close.error_code.into_inner()),
            Ok(_) | Err(_) => None,
        }
    }

    async fn misbehave(self, link: &Connection, times: &Arc<AtomicU64>) -> Option<()> {
        let once = || times.fetch_add(1, Ordering::Relaxed);
        let (mut to_hub, mut from_hub) = greet(link).await?;
        match self {
            Self::Silent => {
                let (mut send, receive) = link.open_bi().await.ok()?;
                // A stream that carries nothing does not exist for the other side.
                send.write_all(&[0]).await.ok()?;
                once();
                link.closed().await;
                drop((send, receive));
            }
            Self::SlowSender => {
                let (mut send, _receive) = link.open_bi().await.ok()?;
                for byte in frame(&[0; 4096]) {
                    send.write_all(&[byte]).await.ok()?;
                    once();
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            }
            Self::SlowReader => {
                // What the hub says by itself is read, as an honest machine would.
                tokio::spawn(async move { while matches!(from_hub.read_chunk(64, true).await, Ok(Some(_))) {} });
                let mut answers = vec![ask(link).await?, ask(link).await?];
                let mut byte = [0];
                loop {
                    for (_, receive) in &mut answers {
                        receive.read(&mut byte).await.ok()?;
                    }
                    once();
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            }
            Self::NeverReads => {
                let mut unread = Vec::new();
                loop {
                    unread.push(ask(link).await?);
                    once();
                }
            }
            Self::Flood => {
                let mut floods = tokio::task::JoinSet::new();
                for _ in 1..AGENT_STREAMS {
                    let (link, times) = (link.clone(), times.clone());
                    floods.spawn(async move {
                        while let Some((_, mut receive)) = ask(&link).await {
                            let _ = receive.read_to_end(8 * FRAME_BYTES).await;
                            times.fetch_add(1, Ordering::Relaxed);
                        }
                    });
                }
                while floods.join_next().await.is_some() {}
            }
            Self::Resets => loop {
                let (mut send, mut receive) = link.open_bi().await.ok()?;
                // One byte, so that the hub hears of it at all.
                send.write_all(&[0]).await.ok()?;
                send.reset(VarInt::from_u32(7)).ok()?;
                receive.stop(VarInt::from_u32(7)).ok()?;
                once();
            },
            Self::GiantFrame => {
                let (mut send, _receive) = link.open_bi().await.ok()?;
                send.write_all(&(1u32 << 30).to_be_bytes()).await.ok()?;
                once();
                loop {
                    send.write_all(&[7; 4096]).await.ok()?;
                }
            }
            Self::Chatter => {
                let word = to_hub::Control::Following(Versions::default());
                let word = frame(&codec::encode(&word).ok()?);
                loop {
                    to_hub.write_all(&word).await.ok()?;
                    once();
                }
            }
        }
        Some(())
    }
}

/// A link below the frames: quinn itself, with windows of one's own.
///
/// # Panics
/// When the hub does not let it in.
pub async fn dial(hub: Target, identity: Option<&TlsIdentity>, door: Door, window: u32) -> (Endpoint, Connection) {
    let pins = vec![hub.pin];
    let mut tls = match identity {
        Some(identity) => tls::member(pins, Clock::MustBeRight, identity.chain.clone(), &identity.key),
        None => tls::newcomer(pins, Clock::MustBeRight),
    }
    .expect("TLS");
    tls.alpn_protocols = vec![door.alpn().to_vec()];
    let mut config = quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls).expect("QUIC")));
    let mut transport = TransportConfig::default();
    transport.stream_receive_window(VarInt::from_u32(window)).keep_alive_interval(Some(Duration::from_secs(5)));
    config.transport_config(Arc::new(transport));
    let endpoint = Endpoint::client("127.0.0.1:0".parse().expect("an address")).expect("a socket");
    let link = endpoint.connect_with(config, hub.address, HUB_SERVER_NAME).expect("dialled").await.expect("linked");
    (endpoint, link)
}

/// The bytes of a frame.
///
/// # Panics
/// When it is longer than a length can say.
pub fn frame(body: &[u8]) -> Vec<u8> {
    let mut frame = u32::try_from(body.len()).expect("short").to_be_bytes().to_vec();
    frame.extend_from_slice(body);
    frame
}

/// What a machine says first, one that knows nothing yet.
pub fn introduction() -> Ask {
    let nothing = Digest::from_bytes([0; 32]);
    let about = About {
        boot: BootId::from_bytes([0; 16]),
        os: Text::clipped("test"),
        journal_seq: 0,
        journal_head: nothing,
        chain_seq: 0,
        chain_head: nothing,
    };
    Ask::Control(Hello::new(&[]), about)
}

/// What a machine signs about an order for which it did nothing.
pub fn receipt(order: &Order, envelope: &Envelope, outcome: Outcome) -> Receipt {
    let nothing = Digest::from_bytes([0; 32]);
    Receipt {
        run: order.run,
        machine: order.machine,
        order: sha256(envelope.bytes.as_bytes()),
        outcome,
        refusal: None,
        body: sha256(&[]),
        body_bytes: 0,
        permitted_by: None,
        policy: nothing,
        catalogue: Versions::default(),
        journal_seq: 1,
        journal_head: nothing,
        started_at: 1,
        finished_at: 2,
        boot: BootId::from_bytes([7; 16]),
    }
}

/// The first frames of a machine on its control stream.
async fn greet(link: &Connection) -> Option<(SendStream, RecvStream)> {
    let (mut send, receive) = link.open_bi().await.ok()?;
    let hello = codec::encode(&introduction()).ok()?;
    send.write_all(&frame(&hello)).await.ok()?;
    Some((send, receive))
}

/// Asks for the whole catalogue.
async fn ask(link: &Connection) -> Option<(SendStream, RecvStream)> {
    let (mut send, receive) = link.open_bi().await.ok()?;
    send.write_all(&frame(&codec::encode(&Ask::Fetch(Versions::default())).ok()?)).await.ok()?;
    Some((send, receive))
}
