//! Who may come in with an invitation's token.

use fernwart_protocol::code::Denial;
use fernwart_protocol::document::UnixMs;
use fernwart_protocol::network::Network;
use fernwart_protocol::staff::{Token, TokenKind};
use std::net::IpAddr;

/// A token with what has become of it.
#[derive(Debug, Clone, PartialEq)]
pub struct StoredToken {
    /// The token.
    pub token: Token,
    /// How many keys have used it.
    pub used: u32,
    /// Whether the key at the door is one of them.
    pub used_by_this: bool,
}

/// What stands at the door.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Newcomer {
    /// A machine.
    Machine,
    /// A technician or robot.
    Staff,
}

/// Whether the token lets this newcomer in now.
///
/// # Errors
/// Why not.
pub fn judge_token(stored: &StoredToken, newcomer: Newcomer, from: IpAddr, now: UnixMs) -> Result<(), Denial> {
    let fits = match (&stored.token.admits, newcomer) {
        (TokenKind::Machine { .. }, Newcomer::Machine) | (TokenKind::Staff, Newcomer::Staff) => true,
        (TokenKind::Machine { .. }, Newcomer::Staff) | (TokenKind::Staff, Newcomer::Machine) => false,
    };
    if !fits {
        return Err(Denial::TokenKind);
    }
    if stored.token.until < now {
        return Err(Denial::TokenExpired);
    }
    if let Some(net) = &stored.token.from_net
        && !net.as_raw().parse::<Network>().is_ok_and(|net| net.contains(from))
    {
        return Err(Denial::TokenNetwork);
    }
    // The same key may come again as often as it likes: its join may have been cut.
    if stored.used_by_this || stored.used < stored.token.uses { Ok(()) } else { Err(Denial::TokenSpent) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fernwart_protocol::id::{CustomerId, Digest, TokenId};
    use fernwart_protocol::staff::Admission;
    use fernwart_protocol::text::{List, Text};

    fn stored(uses: u32, used: u32) -> StoredToken {
        let admits = TokenKind::Machine {
            customer: CustomerId::from_bytes([1; 16]),
            labels: List::default(),
            admission: Admission::ByPerson,
        };
        let token = Token {
            id: TokenId::from_bytes([2; 16]),
            proof_key: Digest::from_bytes([3; 32]),
            admits,
            uses,
            until: 100,
            from_net: Some(Text::clipped("192.0.2.0/24")),
        };
        StoredToken { token, used, used_by_this: false }
    }

    #[test]
    fn a_token_lets_in_whom_it_was_made_for_and_nobody_else() {
        let home: IpAddr = [192, 0, 2, 7].into();
        let away: IpAddr = [198, 51, 100, 7].into();
        assert_eq!(judge_token(&stored(1, 0), Newcomer::Machine, home, 50), Ok(()));
        assert_eq!(judge_token(&stored(1, 0), Newcomer::Staff, home, 50), Err(Denial::TokenKind));
        assert_eq!(judge_token(&stored(1, 0), Newcomer::Machine, home, 101), Err(Denial::TokenExpired));
        assert_eq!(judge_token(&stored(1, 0), Newcomer::Machine, away, 50), Err(Denial::TokenNetwork));
        assert_eq!(judge_token(&stored(1, 1), Newcomer::Machine, home, 50), Err(Denial::TokenSpent));
        let again = StoredToken { used_by_this: true, ..stored(1, 1) };
        assert_eq!(judge_token(&again, Newcomer::Machine, home, 50), Ok(()));
    }
}
