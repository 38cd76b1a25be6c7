//! Thousands of handshakes that are begun and never completed.

use super::Target;
use bytes::BytesMut;
use fernwart_certs::tls::{self, Clock};
use fernwart_protocol::link::{Door, HUB_SERVER_NAME};
use quinn_proto::{ClientConfig, DatagramEvent, Endpoint, EndpointConfig};
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Whether a teaser answers the hub's Retry and so proves its address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Honesty {
    /// It sends one Initial and nothing more.
    None,
    /// It answers the Retry, and then sends nothing more.
    ShowsItsAddress,
}

/// What a datagram from the hub is, by its first byte (RFC 9000, 17.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// The hub has begun a handshake: this cost it a key exchange.
    Handshake,
    /// The hub has sent a Retry to verify the address; it keeps no state.
    Retry,
    /// The hub has refused the connection.
    Refused,
    /// No answer.
    Nothing,
}

/// A client that begins handshakes and never completes one.
pub struct Teaser {
    hub: SocketAddr,
    config: ClientConfig,
}

impl Teaser {
    /// A client at the enrollment door.
    ///
    /// # Panics
    /// When TLS cannot be configured.
    pub fn new(hub: Target) -> Self {
        let mut tls = tls::newcomer(vec![hub.pin], Clock::MustBeRight).expect("TLS");
        tls.alpn_protocols = vec![Door::Enroll.alpn().to_vec()];
        let quic = quinn::crypto::rustls::QuicClientConfig::try_from(tls).expect("QUIC");
        Self { hub: hub.address, config: ClientConfig::new(Arc::new(quic)) }
    }

    /// The Initial of a handshake that is never continued.
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

    /// Sends the first packets of a handshake; returns the hub's answer.
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
            let mut received = vec![0u8; 2048];
            // Packets that belong to another connection id are skipped.
            let (datagram, event) = loop {
                let Ok((length, _)) = socket.recv_from(&mut received) else { return Answer::Nothing };
                let datagram = received[..length].to_vec();
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
