//! The line of text that lets a machine or a staff member join.
//!
//! A technician's program composes it from its own verified root, so that a hub cannot invite
//! anyone to another hub. Its secret never travels: the newcomer proves that it knows it.

use crate::join::ProofKey;
use crate::{random, sha256};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use fernwart_protocol::codec;
use fernwart_protocol::diagnosis::Language;
use fernwart_protocol::document::UnixMs;
use fernwart_protocol::id::{CustomerId, Digest, TokenId};
use fernwart_protocol::staff::Admission;
use fernwart_protocol::text::{List, Text};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// How a line begins: format version 1.
const PREFIX: &str = "fw1-";

/// Maximum length of a line, characters.
pub const LONGEST: usize = 2048;

/// The content of an invitation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Invitation {
    /// Whom it invites.
    pub guest: Guest,
    /// Addresses of the hub: `host:port`, tried in order.
    pub addresses: List<Text<255>, 4>,
    /// SHA-256 of the hub's CA certificate.
    pub ca: Digest,
    /// Version of the newest root the technician has verified.
    pub root_version: u64,
    /// SHA-256 of its bytes.
    pub root: Digest,
    /// Names the invitation at the hub.
    pub token: TokenId,
    /// The secret to be proved.
    pub secret: Secret,
    /// How many keys may use it.
    pub uses: u32,
    /// When it ends.
    pub until: UnixMs,
}

/// Whom an invitation invites.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Guest {
    /// A machine.
    Machine {
        /// Whose.
        customer: CustomerId,
        /// The customer's name, displayed on the machine.
        customer_name: Text<120>,
        /// The customer's language.
        language: Language,
        /// Whether a person must admit it.
        admission: Admission,
    },
    /// A technician or robot.
    Staff,
}

/// A secret that does not print.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Secret([u8; 32]);

impl Secret {
    /// A new one.
    pub fn generate() -> Self {
        Self(random())
    }

    /// The key for proofs, which is all that the hub receives.
    pub fn proof_key(&self) -> ProofKey {
        let mut input = b"fernwart proof 1\n".to_vec();
        input.extend_from_slice(&self.0);
        ProofKey(*sha256(&input).as_bytes())
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

/// A text is not an invitation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadInvitation {
    /// It does not begin with the prefix.
    #[error("an invitation begins with {PREFIX}")]
    Prefix,
    /// It is incomplete or has a typing error.
    #[error("the invitation is incomplete or has a typing error")]
    Damaged,
}

impl Invitation {
    /// The invitation as one line.
    ///
    /// # Errors
    /// When it would be too long.
    pub fn to_line(&self) -> Result<String, BadInvitation> {
        let mut bytes = codec::encode(self).map_err(|_| BadInvitation::Damaged)?;
        let sum = sha256(&bytes);
        bytes.extend_from_slice(sum.as_bytes().get(..4).unwrap_or_default());
        let line = format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(bytes));
        if line.len() > LONGEST { Err(BadInvitation::Damaged) } else { Ok(line) }
    }

    /// Whether the line may be used on a command line, where other users of the machine can read
    /// it: only if it admits one machine, after approval by a person.
    pub fn may_stand_in_argv(&self) -> bool {
        self.uses == 1 && matches!(self.guest, Guest::Machine { admission: Admission::ByPerson, .. })
    }
}

impl FromStr for Invitation {
    type Err = BadInvitation;
    /// Ignores every character that cannot be part of a line, anywhere in it: blanks, line ends,
    /// quotes, invisible characters and others. The checksum shows whether the line is complete.
    fn from_str(text: &str) -> Result<Self, BadInvitation> {
        let letter = |c: char| match c {
            // Hyphens that a word processor may substitute.
            '\u{2010}' | '\u{2011}' => Some('-'),
            c if c.is_ascii_alphanumeric() || matches!(c, '-' | '_') => Some(c),
            _ => None,
        };
        let line: String = text.chars().filter_map(letter).take(LONGEST + 1).collect();
        let (prefix, encoded) = line.split_at_checked(PREFIX.len()).ok_or(BadInvitation::Prefix)?;
        if !prefix.eq_ignore_ascii_case(PREFIX) {
            return Err(BadInvitation::Prefix);
        }
        if line.len() > LONGEST {
            return Err(BadInvitation::Damaged);
        }
        let bytes = URL_SAFE_NO_PAD.decode(encoded).map_err(|_| BadInvitation::Damaged)?;
        let (body, sum) = bytes.split_last_chunk::<4>().ok_or(BadInvitation::Damaged)?;
        if sha256(body).as_bytes().get(..4) != Some(sum.as_slice()) {
            return Err(BadInvitation::Damaged);
        }
        codec::decode(body).map_err(|_| BadInvitation::Damaged)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn invitation() -> Invitation {
        Invitation {
            guest: Guest::Staff,
            addresses: List::try_from(vec![Text::clipped("127.0.0.1:443")]).expect("one address"),
            ca: Digest::from_bytes([1; 32]),
            root_version: 1,
            root: Digest::from_bytes([2; 32]),
            token: TokenId::from_bytes([3; 16]),
            secret: Secret::generate(),
            uses: 1,
            until: 4,
        }
    }

    #[test]
    fn an_invitation_tolerates_line_folding_but_no_changed_character() {
        let line = invitation().to_line().expect("a line");
        let folded = format!(" {}\n  {}\n", &line[..40], &line[40..]);
        let read: Invitation = folded.parse().expect("read");
        assert_eq!(read.to_line().expect("a line"), line);
        let soft = format!("\u{feff}„F{}\u{2011}{}\u{ad}\u{200b}{}“.", &line[1..3], &line[4..30], &line[30..]);
        assert_eq!(soft.parse::<Invitation>().expect("read").to_line().expect("a line"), line);
        // A file that an editor has saved as UTF-16, read as if it were UTF-8.
        let utf_16: Vec<u8> = format!("\u{feff}{line}\r\n").encode_utf16().flat_map(u16::to_le_bytes).collect();
        let read: Invitation = String::from_utf8_lossy(&utf_16).parse().expect("read");
        assert_eq!(read.to_line().expect("a line"), line);
        for at in PREFIX.len()..line.len() {
            let mut typo = line.clone().into_bytes();
            typo[at] = if typo[at] == b'A' { b'B' } else { b'A' };
            let typo = String::from_utf8(typo).expect("ascii");
            if typo != line {
                assert_eq!(typo.parse::<Invitation>(), Err(BadInvitation::Damaged), "at {at}");
            }
        }
        assert_eq!(line[..line.len() - 1].parse::<Invitation>(), Err(BadInvitation::Damaged));
        assert_eq!("hello".parse::<Invitation>(), Err(BadInvitation::Prefix));
    }

    #[test]
    fn a_secret_does_not_print() {
        assert_eq!(format!("{:?}", invitation().secret), "Secret");
    }
}
