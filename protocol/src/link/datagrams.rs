//! Where datagrams travel.

use super::tuning;
use quinn::{AsyncUdpSocket, Runtime, TokioRuntime};
use std::fmt::Debug;
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;

/// How much a socket carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Carries {
    /// A link or two: the system's own buffers do.
    Few,
    /// Hundreds of links or more: large buffers.
    Many,
}

/// Makes sockets: the system's, or those of a network that is only simulated.
/// QUIC and TLS above them are the same.
pub trait Datagrams: Debug + Send + Sync {
    /// A socket at this address, whose port may be 0. Called on a tokio runtime.
    ///
    /// # Errors
    /// When it cannot be had.
    fn bind(&self, address: SocketAddr, carries: Carries) -> io::Result<Arc<dyn AsyncUdpSocket>>;

    /// What QUIC leaves to chance begins with this, where it must be had again.
    fn seed(&self) -> Option<[u8; 32]> {
        None
    }
}

/// The system's sockets.
#[derive(Debug, Clone, Copy)]
pub(super) struct System;

impl Datagrams for System {
    fn bind(&self, address: SocketAddr, carries: Carries) -> io::Result<Arc<dyn AsyncUdpSocket>> {
        let socket = match carries {
            Carries::Few => UdpSocket::bind(address)?,
            Carries::Many => tuning::socket(address)?,
        };
        TokioRuntime.wrap_udp_socket(socket)
    }
}
