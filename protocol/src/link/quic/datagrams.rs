//! Where UDP sockets come from: the system, or a simulated network.

use super::tuning;
use quinn::{AsyncUdpSocket, EndpointConfig, Runtime, TokioRuntime, TransportConfig};
use std::fmt::Debug;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::Arc;

/// How many links a socket carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Peers {
    /// A link or two: the system's default buffers are enough.
    Few,
    /// Hundreds of links or more: large buffers.
    Many,
}

/// Makes UDP sockets: the system's, or those of a simulated network. QUIC and TLS above them are
/// the same, except for what [`Datagrams::tune_endpoint`] and [`Datagrams::tune_link`] change.
pub trait Datagrams: Debug + Send + Sync {
    /// A socket at this address, whose port may be 0. Called on a tokio runtime.
    ///
    /// # Errors
    /// When the socket cannot be created.
    fn bind(&self, address: SocketAddr, peers: Peers) -> io::Result<Arc<dyn AsyncUdpSocket>>;

    /// Changes the configuration of an endpoint on such a socket: a simulation seeds its random
    /// numbers.
    fn tune_endpoint(&self, _: &mut EndpointConfig) {}

    /// Changes the transport configuration of its links.
    fn tune_link(&self, _: &mut TransportConfig) {}
}

/// Whether the error means that this computer does not support the address family.
fn is_without(error: &io::Error) -> bool {
    /// As Linux numbers it.
    const EAFNOSUPPORT: i32 = 97;
    error.kind() == io::ErrorKind::AddrNotAvailable || error.raw_os_error() == Some(EAFNOSUPPORT)
}

/// The system's sockets.
#[derive(Debug, Clone, Copy)]
pub(super) struct System;

impl Datagrams for System {
    fn bind(&self, address: SocketAddr, peers: Peers) -> io::Result<Arc<dyn AsyncUdpSocket>> {
        let bind = |address| match peers {
            Peers::Few => UdpSocket::bind(address),
            Peers::Many => tuning::socket(address),
        };
        let socket = bind(address).or_else(|error| match address {
            // A machine without IPv6: listen on all IPv4 addresses instead.
            SocketAddr::V6(six) if six.ip().is_unspecified() && peers == Peers::Many && is_without(&error) => {
                bind((Ipv4Addr::UNSPECIFIED, six.port()).into())
            }
            _ => Err(error),
        })?;
        TokioRuntime.wrap_udp_socket(socket)
    }
}
