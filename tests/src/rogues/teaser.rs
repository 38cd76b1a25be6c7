//! Handshakes that are begun and never ended, by the thousand.

use super::Target;
use bytes::BytesMut;
use fernwart_certs::tls::{self, Clock};
use fernwart_protocol::link::{Door, HUB_SERVER_NAME};
use quinn_proto::{ClientConfig, DatagramEvent, Endpoint, EndpointConfig};
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Whether a teaser grants the hub's wish to see its address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Honesty {
    /// It falls silent at once.
    None,
    /// It grants the wish, and only then falls silent.
    ShowsItsAddress,
}

/// What a datagram from the hub is, by its first byte (RFC 9000, 17.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// The hub has begun a handshake: this cost it a key exchange.
    Handshake,
    /// The hub wants to see that the address is real; it keeps nothing.
    Retry,
    /// The hub will have no more.
    Refused,
    /// Silence.
    Nothing,
}

/// Somebody who begins handshakes and never ends one.
pub struct Teaser {
    hub: SocketAddr,
    config: ClientConfig,
}

impl Teaser {
    /// Somebody at the enrollment door.
    ///
    /// # Panics
    /// When TLS cannot be configured.
    pub fn new(hub: Target) -> Self {
        let mut tls = tls::newcomer(vec![hub.pin], Clock::MustBeRight).expect("TLS");
        tls.alpn_protocols = vec![Door::Enroll.alpn().to_vec()];
        let quic = quinn::crypto::rustls::QuicClientConfig::try_from(tls).expect("QUIC");
        Self { hub: hub.address, config: ClientConfig::new(Arc::new(quic)) }
    }

    /// The first datagram of a handshake that will never go on.
    ///
    /// # Panics
    /// When it cannot be made.
    pub fn first_word(&self) -> Vec<u8> {
        let mut endpoint = Endpoint::new(Arc::new(EndpointConfig::default()), None, true, None);
        let (_, mut connection) =
            endpoint.connect(Instant::now(), self.config.clone(), self.hub, HUB_SERVER_NAME).expect("a connection");
        let mut word = Vec::new();
        let _ = connection.poll_transmit(Instant::now(), 1, &mut word).expect("a first word");
        word
    }

    /// First packets of a handshake, and what comes back.
    ///
    /// # Panics
    /// When there is no socket.
    pub fn tease(&self, honesty: Honesty) -> Answer {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
        socket.set_read_timeout(Some(Duration::from_secs(2))).expect("set");
        let mut endpoint = Endpoint::new(Arc::new(EndpointConfig::default()), None, true, None);
        let (_, mut connection) =
            endpoint.connect(Instant::now(), self.config.clone(), self.hub, HUB_SERVER_NAME).expect("a connection");
        let mut first = Answer::Nothing;
        for _ in 0..=usize::from(honesty == Honesty::ShowsItsAddress) {
            let mut sent = Vec::new();
            let _ = connection.poll_transmit(Instant::now(), 1, &mut sent).expect("a first word");
            socket.send_to(&sent, self.hub).expect("sent");
            let mut heard = vec![0u8; 2048];
            // The rest of an earlier answer carries another connection's id.
            let (datagram, event) = loop {
                let Ok((length, _)) = socket.recv_from(&mut heard) else { return Answer::Nothing };
                let datagram = heard[..length].to_vec();
                let (now, mut reply) = (Instant::now(), Vec::new());
                let event = endpoint.handle(now, self.hub, None, None, BytesMut::from(&datagram[..]), &mut reply);
                if let Some(DatagramEvent::ConnectionEvent(_, event)) = event {
                    break (datagram, event);
                }
            };
            connection.handle_event(event);
            let refused = connection.is_closed() || connection.is_drained();
            first = match datagram[0] & 0xf0 {
                _ if refused => Answer::Refused,
                0xf0 => Answer::Retry,
                _ => Answer::Handshake,
            };
            if first != Answer::Retry {
                return first;
            }
        }
        first
    }
}
