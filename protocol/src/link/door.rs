//! The doors of a hub: one for each kind of peer.

/// Which door a link came through; its ALPN.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Door {
    /// Admitted machines.
    Agent,
    /// Technicians and robots.
    Staff,
    /// Newcomers without a certificate.
    Enroll,
}

impl Door {
    /// All doors, as the hub offers them.
    pub const ALL: [Self; 3] = [Self::Agent, Self::Staff, Self::Enroll];

    /// The ALPN token.
    pub const fn alpn(self) -> &'static [u8] {
        match self {
            Self::Agent => b"fernwart-agent/1",
            Self::Staff => b"fernwart-staff/1",
            Self::Enroll => b"fernwart-enroll/1",
        }
    }

    pub(super) fn from_alpn(token: &[u8]) -> Option<Self> {
        Self::ALL.into_iter().find(|door| door.alpn() == token)
    }
}
