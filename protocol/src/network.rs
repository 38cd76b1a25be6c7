//! A range of IP addresses to which an invitation may be limited.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

/// All addresses with a common prefix, as `192.0.2.0/24` (RFC 4632).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network {
    base: IpAddr,
    length: u32,
}

/// A text is no network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a network is written as 192.0.2.0/24 or 2001:db8::/32")]
pub struct NotANetwork;

impl FromStr for Network {
    type Err = NotANetwork;
    fn from_str(text: &str) -> Result<Self, NotANetwork> {
        let (base, length) = match text.split_once('/') {
            Some((base, length)) => (base, Some(length)),
            None => (text, None),
        };
        let base: IpAddr = base.parse().map_err(|_| NotANetwork)?;
        let bits = if base.is_ipv4() { 32 } else { 128 };
        let length = length.map_or(Ok(bits), |length| length.parse().map_err(|_| NotANetwork))?;
        if length > bits { Err(NotANetwork) } else { Ok(Self { base, length }) }
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.base, self.length)
    }
}

impl Network {
    /// Whether the range contains an address. An IPv4-mapped IPv6 address counts as IPv4.
    pub fn contains(&self, address: IpAddr) -> bool {
        let (base, address) = match (self.base, address.to_canonical()) {
            (IpAddr::V4(base), IpAddr::V4(address)) => {
                (u128::from(base.to_bits()) << 96, u128::from(address.to_bits()) << 96)
            }
            (IpAddr::V6(base), IpAddr::V6(address)) => (base.to_bits(), address.to_bits()),
            _ => return false,
        };
        let mask = u128::MAX.checked_shl(128 - self.length).unwrap_or(0);
        base & mask == address & mask
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn contains(net: &str, address: &str) -> bool {
        net.parse::<Network>().expect("a network").contains(address.parse().expect("an address"))
    }

    #[test]
    fn networks_contain_their_addresses() {
        assert!(contains("10.0.0.0/8", "10.9.8.7"));
        assert!(!contains("10.0.0.0/8", "11.0.0.0"));
        assert!(contains("0.0.0.0/0", "11.0.0.0"));
        assert!(contains("2001:db8::/32", "2001:db8::7"));
        assert!(!contains("2001:db8::/32", "10.0.0.1"));
        assert!(contains("10.0.0.1", "::ffff:10.0.0.1"));
        assert!(!contains("10.0.0.1", "10.0.0.2"));
    }

    #[test]
    fn text_that_is_no_network_is_rejected() {
        for text in ["", "garbage", "10.0.0.0/99", "10.0.0/8", "10.0.0.0/", "10.0.0.0/-1", "::/129"] {
            assert_eq!(text.parse::<Network>(), Err(NotANetwork), "{text}");
        }
        assert_eq!("10.0.0.0/8".parse::<Network>().expect("one").to_string(), "10.0.0.0/8");
    }
}
