//! Decides who may join with an invitation's token.

use fernwart_protocol::code::Denial;
use fernwart_protocol::document::UnixMs;
use fernwart_protocol::network::Network;
use fernwart_protocol::staff::{Token, TokenKind};
use std::net::IpAddr;

/// A token and its use so far.
#[derive(Debug, Clone, PartialEq)]
pub struct StoredToken {
    /// The token.
    pub token: Token,
    /// How many keys have used it.
    pub used: u32,
    /// Whether the joining key is one of them.
    pub used_by_this: bool,
}

/// The kind of peer that wants to join.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Newcomer {
    /// A machine.
    Machine,
    /// A technician or robot.
    Staff,
}

/// Whether the token admits this peer now.
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
    // The same key may join again any number of times: its first attempt may have been cut off.
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
    fn a_token_admits_only_the_kind_network_time_and_number_it_was_made_for() {
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
