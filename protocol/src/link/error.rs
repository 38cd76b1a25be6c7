//! How a link ends.

use crate::code::Goodbye;

/// Why a link ended or could not be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LinkError {
    /// The peer closed it and said why.
    #[error("the peer closed the link: {0}")]
    Closed(Goodbye),
    /// We closed it, and said why.
    #[error("the link was closed on this side: {0}")]
    ClosedHere(Goodbye),
    /// The peer stopped sending.
    #[error("the peer has fallen silent")]
    Silent,
    /// The peer has restarted and forgotten the link.
    #[error("the peer has restarted")]
    Forgotten,
    /// The peer refused the TLS handshake: the alert's number.
    #[error("the handshake was refused (TLS alert {0})")]
    Handshake(u8),
    /// This side refused the TLS handshake, because it does not trust what the peer presented: the
    /// alert's number.
    #[error("the handshake was refused here (TLS alert {0})")]
    HandshakeHere(u8),
    /// Any other error of the transport.
    #[error("the transport failed")]
    Transport,
    /// The handshake took too long.
    #[error("there was no answer in time")]
    TooSlow,
    /// The peer offers none of our doors.
    #[error("the peer asked for no door of ours")]
    NoDoor,
}

impl LinkError {
    /// One word as a metrics label, from a closed list.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Closed(why) | Self::ClosedHere(why) => why.as_str(),
            Self::Silent => "silent",
            Self::Forgotten => "forgotten",
            Self::Handshake(_) | Self::HandshakeHere(_) => "tls_refused",
            Self::Transport => "transport",
            Self::TooSlow => "too_slow",
            Self::NoDoor => "no_door",
        }
    }
}
