//! Misbehaving peers: they hold an admitted machine's key, or none, and break every rule that QUIC itself
//! does not enforce.
//!
//! Each bypasses the framing layer, with quinn alone or with bare datagrams.

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

/// The hub's address, and the certificate that it must present.
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
    /// Opens a stream and sends no frame on it.
    Silent,
    /// Sends one byte of a frame a second.
    SlowSender,
    /// Requests large replies and reads one byte a second.
    SlowReader,
    /// Sends requests on every stream it may open and reads nothing.
    NeverReads,
    /// Sends the next request as soon as one is answered, on every stream it may open.
    Flood,
    /// Opens streams and resets them at once.
    Resets,
    /// Announces a frame of 1 GiB.
    GiantFrame,
    /// Sends messages on the control stream without end.
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

    /// Its name.
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

    /// Its receive window: a small one makes the hub wait for the reader at once.
    fn window(self) -> u32 {
        match self {
            Self::SlowReader | Self::NeverReads => 64,
            _ => 64 * 1024,
        }
    }

    /// Misbehaves on one link until it is closed or `timeout` is over, and counts its actions in `times`.
    /// Returns the code with which the hub closed the link.
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
            // It has nothing left to send and waits for the hub to close the link.
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
                // The peer learns of a stream only when data arrives on it.
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
                // Messages that the hub sends unasked are read, as by an honest machine.
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
                // One byte, so that the hub learns of the stream.
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

/// Dials the hub with quinn itself, below the framing layer, and with the given receive window.
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
/// When it does not fit the length field.
pub fn frame(body: &[u8]) -> Vec<u8> {
    let mut frame = u32::try_from(body.len()).expect("short").to_be_bytes().to_vec();
    frame.extend_from_slice(body);
    frame
}

/// The first message of a machine that has no records yet.
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

/// The unsigned receipt of a machine that did nothing for an order.
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

/// Requests the complete catalogue.
async fn ask(link: &Connection) -> Option<(SendStream, RecvStream)> {
    let (mut send, receive) = link.open_bi().await.ok()?;
    send.write_all(&frame(&codec::encode(&Ask::Fetch(Versions::default())).ok()?)).await.ok()?;
    Some((send, receive))
}
