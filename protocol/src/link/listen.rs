//! The listening side: the hub's one UDP port.

use super::datagrams::{Carries, Datagrams, System};
use super::doorbell::RING;
use super::tuning::{self, Side};
use super::{Link, LinkError};
use crate::code::Goodbye;
use crate::limits;
use quinn::crypto::rustls::QuicServerConfig;
use quinn::udp::Transmit;
use quinn::{AsyncUdpSocket, Endpoint, EndpointConfig, ServerConfig, TokioRuntime, VarInt};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Secrets that let a restarted hub recognise, and reset, links of its former
/// life (RFC 9000, 10.3). They protect nothing else.
#[derive(Clone)]
pub struct RestartKeys {
    /// Marks this hub's connection ids.
    pub connection_ids: u64,
    /// Makes the reset tokens.
    pub reset: [u8; 32],
}

/// One UDP port that hears all doors.
#[derive(Debug)]
pub struct Listener {
    endpoint: Endpoint,
    socket: Arc<dyn AsyncUdpSocket>,
    handshakes: Arc<Semaphore>,
}

impl Listener {
    /// Binds the port. Must be called on a tokio runtime.
    ///
    /// # Errors
    /// When the port cannot be had or the TLS configuration does not serve QUIC.
    pub fn bind(address: SocketAddr, tls: rustls::ServerConfig, keys: &RestartKeys) -> io::Result<Self> {
        Self::over(&System, address, tls, keys)
    }

    /// The same over datagrams of one's own.
    ///
    /// # Errors
    /// When the port cannot be had or the TLS configuration does not serve QUIC.
    pub fn over(
        datagrams: &dyn Datagrams,
        address: SocketAddr,
        tls: rustls::ServerConfig,
        keys: &RestartKeys,
    ) -> io::Result<Self> {
        let quic = QuicServerConfig::try_from(tls).map_err(io::Error::other)?;
        let mut config = ServerConfig::with_crypto(Arc::new(quic));
        let mut transport = tuning::transport(Side::Hub).map_err(io::Error::other)?;
        config.max_incoming(limits::HANDSHAKES);
        let reset = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, &keys.reset);
        let mut endpoint = EndpointConfig::new(Arc::new(reset));
        let cid_key = keys.connection_ids;
        endpoint
            .cid_generator(move || Box::new(quinn_cid(cid_key)))
            // A reset is shorter than what provoked it, so none need be held back.
            .min_reset_interval(std::time::Duration::ZERO);
        datagrams.tune_endpoint(&mut endpoint);
        datagrams.tune_link(&mut transport);
        config.transport_config(Arc::new(transport));
        let socket = datagrams.bind(address, Carries::Many)?;
        let runtime = Arc::new(TokioRuntime);
        let endpoint = Endpoint::new_with_abstract_socket(endpoint, Some(config), socket.clone(), runtime)?;
        Ok(Self { endpoint, socket, handshakes: Arc::new(Semaphore::new(limits::HANDSHAKES)) })
    }

    /// Where it listens.
    ///
    /// # Errors
    /// When the socket is gone.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.endpoint.local_addr()
    }

    /// The next peer that begins a handshake; nothing once closed. Cancel safe.
    ///
    /// Under load a peer must first prove its address; past the cap it is
    /// refused.
    pub async fn accept(&self) -> Option<Knock> {
        loop {
            let incoming = self.endpoint.accept().await?;
            let under_way = limits::HANDSHAKES - self.handshakes.available_permits();
            if under_way >= limits::HANDSHAKES_BEFORE_RETRY
                && incoming.may_retry()
                && !incoming.remote_address_validated()
            {
                let _ = incoming.retry();
                continue;
            }
            let full = self.endpoint.open_connections() >= limits::LINKS;
            match self.handshakes.clone().try_acquire_owned() {
                Ok(permit) if !full => match incoming.accept() {
                    Ok(connecting) => return Some(Knock { connecting, _permit: permit }),
                    Err(_) => continue,
                },
                _ => incoming.refuse(),
            }
        }
    }

    /// Rings at an address where a peer was linked before a restart.
    pub fn ring(&self, address: SocketAddr) {
        // A peer that cannot be rung notices by itself, later.
        let ring = Transmit { destination: address, ecn: None, contents: RING, segment_size: None, src_ip: None };
        let _ = self.socket.try_send(&ring);
    }

    /// Links open now, of all doors, with those still shaking hands.
    pub fn open_links(&self) -> usize {
        self.endpoint.open_connections()
    }

    /// Refuses newcomers from now on.
    pub fn stop_accepting(&self) {
        self.endpoint.set_server_config(None);
    }

    /// Closes all links and waits until the peers know.
    pub async fn close(&self) {
        self.endpoint.close(VarInt::from_u32(Goodbye::Done.number()), b"");
        self.endpoint.wait_idle().await;
    }
}

fn quinn_cid(key: u64) -> quinn_proto::HashedConnectionIdGenerator {
    quinn_proto::HashedConnectionIdGenerator::from_key(key)
}

/// A handshake under way.
#[derive(Debug)]
pub struct Knock {
    connecting: quinn::Connecting,
    _permit: OwnedSemaphorePermit,
}

impl Knock {
    /// Waits for the handshake's end.
    ///
    /// # Errors
    /// When it fails or takes too long.
    pub async fn finish(self) -> Result<Link, LinkError> {
        let connection = tokio::time::timeout(limits::HANDSHAKE_TIMEOUT, self.connecting)
            .await
            .map_err(|_| LinkError::TooSlow)??;
        Link::new(connection)
    }
}
