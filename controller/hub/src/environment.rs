//! What a hub stands on: this computer, or one that is only simulated.

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
    /// What tells it the time.
    pub clock: Clock,
    /// Where its datagrams travel.
    pub datagrams: Option<Arc<dyn Datagrams>>,
    /// What carries out the store's work.
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
