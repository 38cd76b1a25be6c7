//! The listening side: the hub's one UDP port.

use super::connection::Connection;
use super::connection_ids::ConnectionIds;
use super::datagrams::{Datagrams, Peers, System};
use super::initial_filter::InitialFilter;
use super::inspected::Inspected;
use super::restart_hint::RESTART_HINT;
use super::tuning::{self, Side};
use crate::code::Goodbye;
use crate::limits;
use crate::link::transport::Transport;
use crate::link::{Link, LinkError};
use quinn::crypto::rustls::QuicServerConfig;
use quinn::udp::Transmit;
use quinn::{AsyncUdpSocket, Endpoint, EndpointConfig, ServerConfig, TokioRuntime, VarInt};
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Secrets that let a restarted hub recognise and reset links from before the restart (RFC 9000,
/// 10.3). They protect nothing else.
#[derive(Clone)]
pub struct RestartKeys {
    /// Marks this hub's connection ids.
    pub connection_ids: u64,
    /// Makes the reset tokens.
    pub reset: [u8; 32],
}

/// One UDP port that serves all doors.
#[derive(Debug)]
pub struct Listener {
    endpoint: Endpoint,
    socket: Arc<Inspected<InitialFilter>>,
    handshakes: Arc<Semaphore>,
    sent_back: AtomicU64,
    refused: AtomicU64,
}

/// Peers rejected at their first packet, counted since the port was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rejections {
    /// Sent a QUIC Retry, since they first had to prove their address.
    pub sent_back: u64,
    /// Refused, since a limit was reached.
    pub refused: u64,
    /// Datagrams dropped, since Initials arrived faster than the allowed rate.
    pub dropped: u64,
}

impl Listener {
    /// Binds the port. Must be called on a tokio runtime.
    ///
    /// # Errors
    /// When the port cannot be bound or the TLS configuration does not serve QUIC.
    pub fn bind(address: SocketAddr, tls: rustls::ServerConfig, keys: &RestartKeys) -> io::Result<Self> {
        Self::over(&System, address, tls, keys)
    }

    /// The same on a socket that `datagrams` makes.
    ///
    /// # Errors
    /// When the port cannot be bound or the TLS configuration does not serve QUIC.
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
        let ids = keys.connection_ids;
        endpoint
            // QUIC version 1 (RFC 9000), no drafts.
            .supported_versions(vec![1])
            .cid_generator(move || Box::new(ConnectionIds::of(ids)))
            // A reset is shorter than the datagram that triggers it, so it needs no rate limit.
            .min_reset_interval(std::time::Duration::ZERO);
        datagrams.tune_endpoint(&mut endpoint);
        datagrams.tune_link(&mut transport);
        config.transport_config(Arc::new(transport));
        let socket = Inspected::new(datagrams.bind(address, Peers::Many)?, InitialFilter::new());
        let runtime = Arc::new(TokioRuntime);
        let endpoint = Endpoint::new_with_abstract_socket(endpoint, Some(config), socket.clone(), runtime)?;
        Ok(Self {
            endpoint,
            socket,
            handshakes: Arc::new(Semaphore::new(limits::HANDSHAKES)),
            sent_back: AtomicU64::new(0),
            refused: AtomicU64::new(0),
        })
    }

    /// Where it listens.
    ///
    /// # Errors
    /// When the socket is gone.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.endpoint.local_addr()
    }

    /// The next peer that begins a handshake; `None` once closed. Cancel safe.
    ///
    /// Under load a peer must first prove its address; beyond the limit it is refused.
    pub async fn accept(&self) -> Option<Incoming> {
        loop {
            let incoming = self.endpoint.accept().await?;
            let in_progress = limits::HANDSHAKES - self.handshakes.available_permits();
            if in_progress >= limits::HANDSHAKES_BEFORE_RETRY
                && incoming.may_retry()
                && !incoming.remote_address_validated()
            {
                self.sent_back.fetch_add(1, Ordering::Relaxed);
                let _ = incoming.retry();
                continue;
            }
            let full = self.endpoint.open_connections() >= limits::LINKS;
            match self.handshakes.clone().try_acquire_owned() {
                Ok(permit) if !full => match incoming.accept() {
                    Ok(connecting) => return Some(Incoming { connecting, _permit: permit }),
                    Err(_) => continue,
                },
                _ => {
                    self.refused.fetch_add(1, Ordering::Relaxed);
                    incoming.refuse();
                }
            }
        }
    }

    /// How many peers were rejected at their first packet.
    pub fn rejections(&self) -> Rejections {
        let (sent_back, refused) = (self.sent_back.load(Ordering::Relaxed), self.refused.load(Ordering::Relaxed));
        Rejections { sent_back, refused, dropped: self.socket.by.dropped() }
    }

    /// Sends a restart hint to the address of a peer that was linked before a restart. A peer that
    /// does not receive it notices later by itself. Cancel safe.
    pub async fn ring(&self, address: SocketAddr) {
        let address = match (address, self.local_addr()) {
            // A dual-stack socket expects IPv4 addresses in their mapped form.
            (SocketAddr::V4(four), Ok(SocketAddr::V6(_))) => (four.ip().to_ipv6_mapped(), four.port()).into(),
            _ => address,
        };
        let ring =
            Transmit { destination: address, ecn: None, contents: RESTART_HINT, segment_size: None, src_ip: None };
        let mut socket = self.socket.clone().create_io_poller();
        // A new socket does not know that it is writable before it was polled.
        while poll_fn(|context| socket.as_mut().poll_writable(context)).await.is_ok() {
            match self.socket.try_send(&ring) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                _ => return,
            }
        }
    }

    /// Open links of all doors, including handshakes in progress.
    pub fn open_links(&self) -> usize {
        self.endpoint.open_connections()
    }

    /// Refuses new links from now on.
    pub fn stop_accepting(&self) {
        self.endpoint.set_server_config(None);
    }

    /// Closes all links and waits until they are shut down.
    pub async fn close(&self) {
        self.endpoint.close(VarInt::from_u32(Goodbye::Done.number()), b"");
        self.endpoint.wait_idle().await;
    }
}

/// A handshake in progress.
#[derive(Debug)]
pub struct Incoming {
    connecting: quinn::Connecting,
    _permit: OwnedSemaphorePermit,
}

impl Incoming {
    /// Waits for the handshake's end.
    ///
    /// # Errors
    /// When it fails or takes too long.
    pub async fn finish(self) -> Result<Link, LinkError> {
        let connection = tokio::time::timeout(limits::HANDSHAKE_TIMEOUT, self.connecting)
            .await
            .map_err(|_| LinkError::TooSlow)??;
        Link::new(Transport::Quic(Connection::new(connection, Side::Hub)))
    }
}
