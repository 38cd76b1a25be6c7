//! QUIC as a transport; the only place that names quinn.
//!
//! 0-RTT and QUIC's datagrams are off on both sides. TLS configurations come from
//! `certs`; here they are only carried.

mod connection;
mod connection_ids;
mod datagrams;
mod dial;
mod initial_filter;
mod inspected;
mod listen;
mod restart_hint;
mod tuning;

pub(super) use connection::{Connection, ReceiveStream, SendStream};
pub use datagrams::{Datagrams, Peers};
pub use dial::{DialError, Dialer};
pub use listen::{Incoming, Listener, Rejections, RestartKeys};
pub use restart_hint::RestartHint;
