//! QUIC transport parameters for each role.
//!
//! quinn's defaults allow each peer an unlimited receive window and 100 streams. These values are
//! small, so that ten thousand idle links stay cheap.

use crate::limits;
use crate::link::LinkError;
use quinn::{IdleTimeout, TransportConfig, VarInt};
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

/// Whose side the parameters are for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    /// The hub, towards anyone.
    Hub,
    /// An agent.
    Agent,
    /// A technician's command.
    Staff,
}

/// The receive windows that one side grants its peer, bytes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Windows {
    /// On all streams.
    pub(super) link: u32,
    /// On one.
    pub(super) stream: u32,
}

impl Windows {
    /// Of this side.
    pub(super) const fn of(side: Side) -> Self {
        match side {
            Side::Hub | Side::Agent => Self { link: limits::LINK_WINDOW_BYTES, stream: limits::STREAM_WINDOW_BYTES },
            Side::Staff => Self { link: limits::STAFF_WINDOW_BYTES, stream: limits::STAFF_WINDOW_BYTES },
        }
    }
}

/// The transport parameters of one side.
pub(super) fn transport(side: Side) -> Result<TransportConfig, LinkError> {
    let idle = match side {
        // QUIC uses the shorter value of the two sides.
        Side::Hub | Side::Agent => limits::IDLE_TIMEOUT,
        Side::Staff => limits::STAFF_IDLE_TIMEOUT,
    };
    let idle = IdleTimeout::try_from(idle).map_err(|_| LinkError::Transport)?;
    let streams = match side {
        Side::Hub => limits::AGENT_STREAMS,
        Side::Agent => limits::DELIVER_STREAMS,
        Side::Staff => 0,
    };
    let Windows { link: window, stream: stream_window } = Windows::of(side);
    let keep_alive = match side {
        Side::Hub => None,
        Side::Agent => Some(limits::KEEP_ALIVE),
        Side::Staff => Some(limits::STAFF_KEEP_ALIVE),
    };
    let mut transport = TransportConfig::default();
    transport
        .max_idle_timeout(Some(idle))
        .keep_alive_interval(keep_alive)
        .max_concurrent_bidi_streams(VarInt::from_u32(streams))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .stream_receive_window(VarInt::from_u32(stream_window))
        .receive_window(VarInt::from_u32(window))
        .send_window(u64::from(window))
        .datagram_receive_buffer_size(None)
        // Idle links need no larger packets, and path MTU discovery costs a timer and a kilobyte
        // each.
        .mtu_discovery_config(None)
        .initial_rtt(Duration::from_millis(100))
        .crypto_buffer_size(16 * 1024);
    Ok(transport)
}

/// A bound UDP socket with large buffers. The kernel may grant less.
pub(super) fn socket(address: SocketAddr) -> io::Result<UdpSocket> {
    use socket2::{Domain, Protocol, Socket, Type};
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    if address.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    socket.set_recv_buffer_size(limits::SOCKET_BYTES)?;
    socket.set_send_buffer_size(limits::SOCKET_BYTES)?;
    socket.bind(&address.into())?;
    Ok(socket.into())
}
