//! QUIC as a transport; the only folder that uses quinn.
//!
//! 0-RTT and QUIC datagrams are disabled on both sides. TLS configurations come from `certs` and
//! are only passed on here.

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
