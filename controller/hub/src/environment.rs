//! The environment of a hub: this computer, or a simulated one.

use fernwart_certs::tls::ServerConfig;
use fernwart_protocol::clock::Clock;
use fernwart_protocol::link::{Datagrams, Listener, RestartKeys};
use fernwart_store::Disk;
use std::net::SocketAddr;
use std::sync::Arc;

/// Clock, network and the store's disk; by default this computer's. A simulation
/// puts its own in their place; keys, catalogue and index stay where they are.
#[derive(Debug, Clone, Default)]
pub struct Environment {
    /// The source of time.
    pub clock: Clock,
    /// The network for its datagrams.
    pub datagrams: Option<Arc<dyn Datagrams>>,
    /// The executor of the store's disk work.
    pub disk: Option<Arc<dyn Disk>>,
}

impl Environment {
    pub(crate) fn listen(
        &self,
        address: SocketAddr,
        tls: ServerConfig,
        keys: &RestartKeys,
    ) -> std::io::Result<Listener> {
        match &self.datagrams {
            None => Listener::bind(address, tls, keys),
            Some(datagrams) => Listener::over(datagrams.as_ref(), address, tls, keys),
        }
    }
}
