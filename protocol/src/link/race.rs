//! Dialling a hub that has several addresses.
//!
//! RFC 8305 ("Happy Eyeballs"): the next address is tried after a short delay, without waiting for
//! the earlier ones to fail. IPv6 and IPv4 alternate, and the first established link is used. A
//! name whose IPv6 address does not work costs that delay, not a complete handshake timeout. The
//! other handshakes are dropped before any data was sent on them.

use super::{DialError, Dialer, Door, Link, LinkError};
use crate::text::Text;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;

/// How long before the next address is tried in parallel. RFC 8305, section 5, calls this the
/// Connection Attempt Delay and recommends 250 ms. Nobody waits for an agent, and thousands of them
/// dial a hub that has just restarted: if each tried a second address after 250 ms, the number of
/// handshakes would double exactly at the peak.
const fn attempt_delay(door: Door) -> Duration {
    match door {
        Door::Staff | Door::Enroll => Duration::from_millis(250),
        Door::Agent => Duration::from_secs(2),
    }
}

/// Maximum number of addresses tried per name.
const ADDRESSES_PER_NAME: usize = 6;

/// No address of a hub could be reached.
#[derive(Debug, thiserror::Error)]
pub enum NotReached {
    /// There is no address at all, or no name has one.
    #[error("{0:?} has no address")]
    NoAddress(String),
    /// The most informative of the failures.
    #[error("reaching {name}")]
    Dial {
        /// `host:port`, as it was given.
        name: String,
        /// What happened.
        #[source]
        source: DialError,
    },
}

impl NotReached {
    /// A refusal is more informative than a timeout, and a timeout more than a missing socket.
    fn rank(&self) -> u8 {
        match self {
            Self::NoAddress(_) => 0,
            Self::Dial { source: DialError::Socket(_), .. } => 1,
            Self::Dial { source: DialError::Link { source: LinkError::TooSlow | LinkError::Silent, .. }, .. } => 2,
            Self::Dial { .. } => 3,
        }
    }
}

/// Opens a link through one door of a hub, at the first of these names (`host:port`) that answers.
/// Each address has `timeout`, at most [`HANDSHAKE_TIMEOUT`](crate::limits::HANDSHAKE_TIMEOUT).
/// `socket` makes a dialer for an address's family. Also returns the dialer that was used. Cancel
/// safe.
///
/// # Errors
/// When none of them leads to the hub, or the hub refuses this peer.
pub async fn dial_any(
    names: &[Text<255>],
    door: Door,
    tls: &rustls::ClientConfig,
    timeout: Duration,
    socket: impl Fn(SocketAddr) -> Result<Dialer, DialError>,
) -> Result<(Link, Dialer), NotReached> {
    let mut addresses = addresses_of(names);
    let mut are_more = true;
    let mut due = Instant::now();
    let mut racing = JoinSet::new();
    let mut failed: Option<NotReached> = None;
    loop {
        let next = async {
            tokio::time::sleep_until(due).await;
            addresses.recv().await
        };
        let failure = tokio::select! {
            biased;
            Some(ended) = racing.join_next() => {
                due = Instant::now();
                match ended {
                    Ok((_, Ok(link), dialer)) => return Ok((link, dialer)),
                    Ok((name, Err(source), _)) => NotReached::Dial { name, source },
                    Err(error) => match error.try_into_panic() {
                        Ok(panic) => std::panic::resume_unwind(panic),
                        // The runtime is shutting down.
                        Err(_) => continue,
                    },
                }
            }
            next = next, if are_more => match next {
                Some(Ok((name, address))) => match socket(address) {
                    Ok(dialer) => {
                        due = Instant::now() + attempt_delay(door);
                        let tls = tls.clone();
                        racing.spawn(async move {
                            let dialled = dialer.dial(address, door, tls, timeout).await;
                            (name, dialled, dialer)
                        });
                        continue;
                    }
                    Err(source) => NotReached::Dial { name, source },
                },
                Some(Err(name)) => NotReached::NoAddress(name),
                None => {
                    are_more = false;
                    continue;
                }
            },
            else => return Err(failed.unwrap_or_else(|| NotReached::NoAddress(String::new()))),
        };
        if failed.as_ref().is_none_or(|before| before.rank() <= failure.rank()) {
            failed = Some(failure);
        }
    }
}

/// The addresses of all names in their order. A name is only resolved after all addresses of the
/// names before it were taken. An error is a name without addresses.
fn addresses_of(names: &[Text<255>]) -> mpsc::Receiver<Result<(String, SocketAddr), String>> {
    let (give, addresses) = mpsc::channel(1);
    let names = names.to_vec();
    tokio::spawn(async move {
        for name in names {
            let found = match resolve(name.as_raw()).await {
                Ok(found) if !found.is_empty() => found,
                _ => {
                    if give.send(Err(name.to_string())).await.is_err() {
                        return;
                    }
                    continue;
                }
            };
            for address in found {
                if give.send(Ok((name.to_string(), address))).await.is_err() {
                    return;
                }
            }
        }
    });
    addresses
}

/// Resolves `host:port`, alternating address families. A literal address needs no resolver.
async fn resolve(name: &str) -> std::io::Result<Vec<SocketAddr>> {
    match name.parse() {
        Ok(address) => Ok(vec![address]),
        Err(_) => Ok(by_turns(tokio::net::lookup_host(name.to_owned()).await?.collect())),
    }
}

/// Alternates address families, starting with the one the system prefers.
fn by_turns(addresses: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let six_first = addresses.first().is_some_and(SocketAddr::is_ipv6);
    let (first, second): (Vec<_>, Vec<_>) = addresses.into_iter().partition(|one| one.is_ipv6() == six_first);
    let mut second = second.into_iter();
    let mut all = Vec::new();
    for address in first {
        all.push(address);
        all.extend(second.next());
    }
    all.extend(second);
    all.truncate(ADDRESSES_PER_NAME);
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn dialling_unreachable_addresses_returns_the_most_informative_error() {
        let provider = std::sync::Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let tls = rustls::ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .expect("TLS 1.3")
            .with_root_certificates(rustls::RootCertStore::empty())
            .with_no_client_auth();
        let silent = std::net::UdpSocket::bind("127.0.0.1:0").expect("a port");
        let silent = silent.local_addr().expect("an address").to_string();
        let dial = async |names: &[&str]| {
            let names: Vec<Text<255>> = names.iter().map(|name| name.parse().expect("short")).collect();
            dial_any(&names, Door::Enroll, &tls, Duration::from_millis(300), Dialer::new).await.expect_err("nobody")
        };
        assert!(matches!(dial(&[]).await, NotReached::NoAddress(name) if name.is_empty()));
        assert!(matches!(dial(&["none.invalid:1"]).await, NotReached::NoAddress(name) if name == "none.invalid:1"));
        for names in [&[&*silent, "none.invalid:1"], &["none.invalid:1", &*silent], &[&*silent, &*silent]] {
            let error = dial(names).await;
            assert!(matches!(&error, NotReached::Dial { name, .. } if *name == silent), "{error:?}");
        }
    }

    #[test]
    fn address_families_alternate_and_the_preferred_one_is_first() {
        let turns = |addresses: &[&str]| {
            let addresses = addresses.iter().map(|one| one.parse().expect("an address")).collect();
            by_turns(addresses).iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(turns(&[]), "");
        assert_eq!(turns(&["[::1]:1", "[::2]:1", "1.0.0.1:1"]), "[::1]:1 1.0.0.1:1 [::2]:1");
        assert_eq!(turns(&["1.0.0.1:1", "1.0.0.2:1", "[::1]:1"]), "1.0.0.1:1 [::1]:1 1.0.0.2:1");
        let many: Vec<String> = (1..=20).map(|last| format!("1.0.0.{last}:1")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).chain(["[::1]:1"]).collect();
        assert!(turns(&many).starts_with("1.0.0.1:1 [::1]:1 1.0.0.2:1"), "the other family is not cut off");
    }
}
