//! The dialling side: agents, technicians, newcomers.

use super::connection::Connection;
use super::datagrams::{Datagrams, Peers, System};
use super::restart_hint::{RestartHint, with_hints};
use super::tuning::{self, Side};
use crate::limits::HANDSHAKE_TIMEOUT;
use crate::link::transport::Transport;
use crate::link::{Door, HUB_SERVER_NAME, Link, LinkError};
use quinn::crypto::rustls::QuicClientConfig;
use quinn::{ClientConfig, Endpoint, EndpointConfig, TokioRuntime};
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

/// A hub could not be dialled.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// No socket.
    #[error("opening a UDP socket")]
    Socket(#[source] io::Error),
    /// The TLS configuration does not serve QUIC, or the address is unusable.
    #[error("the link cannot be configured")]
    Configure,
    /// The hub did not answer or refused.
    #[error("reaching the hub at {address}")]
    Link {
        /// Where it should be.
        address: SocketAddr,
        /// What happened.
        #[source]
        source: LinkError,
    },
}

/// The unspecified address of the same family.
fn any(towards: SocketAddr) -> SocketAddr {
    match towards {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    }
}

/// Opens links to hubs. Clones share one socket.
#[derive(Debug, Clone)]
pub struct Dialer {
    endpoint: Endpoint,
    hint: RestartHint,
    datagrams: Arc<dyn Datagrams>,
}

impl Dialer {
    /// A socket that reaches `towards`. Must be called on a tokio runtime.
    ///
    /// # Errors
    /// When no socket can be created.
    pub fn new(towards: SocketAddr) -> Result<Self, DialError> {
        Self::over(Arc::new(System), any(towards), Peers::Few)
    }

    /// The same with buffers for hundreds of links: for programs that simulate many machines.
    ///
    /// # Errors
    /// When no socket can be created.
    pub fn for_many(towards: SocketAddr) -> Result<Self, DialError> {
        Self::over(Arc::new(System), any(towards), Peers::Many)
    }

    /// The same on a socket that `datagrams` makes, from this address.
    ///
    /// # Errors
    /// When no socket can be created.
    pub fn over(datagrams: Arc<dyn Datagrams>, local: SocketAddr, peers: Peers) -> Result<Self, DialError> {
        let hint = RestartHint::default();
        let socket = datagrams.bind(local, peers).map_err(DialError::Socket)?;
        let mut config = EndpointConfig::default();
        datagrams.tune_endpoint(&mut config);
        let socket = with_hints(socket, &hint);
        let endpoint = Endpoint::new_with_abstract_socket(config, None, socket, Arc::new(TokioRuntime));
        Ok(Self { endpoint: endpoint.map_err(DialError::Socket)?, hint, datagrams })
    }

    /// Whether the socket has the same address family as `address`.
    pub fn reaches(&self, address: SocketAddr) -> bool {
        self.endpoint.local_addr().is_ok_and(|local| local.is_ipv4() == address.is_ipv4())
    }

    /// Receives restart hints that arrive from now on.
    pub fn restart_hint(&self) -> RestartHint {
        self.hint.fresh()
    }

    /// Opens a link through one door of the hub, within `timeout` and at most
    /// [`HANDSHAKE_TIMEOUT`].
    ///
    /// # Errors
    /// When the hub does not answer in time, does not prove its identity, or refuses this peer.
    pub async fn dial(
        &self,
        address: SocketAddr,
        door: Door,
        mut tls: rustls::ClientConfig,
        timeout: Duration,
    ) -> Result<Link, DialError> {
        tls.alpn_protocols = vec![door.alpn().to_vec()];
        tls.enable_early_data = false;
        let side = match door {
            Door::Agent | Door::Enroll => Side::Agent,
            Door::Staff => Side::Staff,
        };
        let failed = |source| DialError::Link { address, source };
        let quic = QuicClientConfig::try_from(tls).map_err(|_| DialError::Configure)?;
        let mut config = ClientConfig::new(Arc::new(quic));
        let mut transport = tuning::transport(side).map_err(failed)?;
        self.datagrams.tune_link(&mut transport);
        config.transport_config(Arc::new(transport));
        let connecting =
            self.endpoint.connect_with(config, address, HUB_SERVER_NAME).map_err(|_| DialError::Configure)?;
        let connection = tokio::time::timeout(timeout.min(HANDSHAKE_TIMEOUT), connecting)
            .await
            .map_err(|_| failed(LinkError::TooSlow))?
            .map_err(|error| failed(error.into()))?;
        Link::new(Transport::Quic(Connection::new(connection, side))).map_err(failed)
    }
}
