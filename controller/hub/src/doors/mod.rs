//! One door for each kind of peer (its ALPN), and the rate limits of each.

pub(crate) mod agent;
pub(crate) mod enroll;
pub(crate) mod key_rates;
pub(crate) mod rate_limiter;
pub(crate) mod staff;
