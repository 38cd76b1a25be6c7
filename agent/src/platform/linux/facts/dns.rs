//! Queries one name server for one name, over UDP (RFC 1035).

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6, UdpSocket};
use std::time::{Duration, Instant};

/// How long a name server may take.
pub(crate) const TIMEOUT: Duration = Duration::from_millis(1000);

/// A name server's reply.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct DnsReply {
    /// Its response code (RFC 1035, 4.1.1).
    pub(crate) code: u8,
    /// How long it took.
    pub(crate) took: Duration,
}

impl DnsReply {
    /// The name of the code.
    pub(crate) fn word(&self) -> String {
        match self.code {
            0 => "NOERROR".into(),
            2 => "SERVFAIL".into(),
            3 => "NXDOMAIN".into(),
            5 => "REFUSED".into(),
            code => format!("RCODE {code}"),
        }
    }
}

/// A name server's address, with a scope if there is one: `fe80::1%eth0`.
pub(crate) fn server(text: &str) -> Option<SocketAddr> {
    match text.split_once('%') {
        None => Some(SocketAddr::new(text.parse().ok()?, 53)),
        Some((address, scope)) => {
            let address: Ipv6Addr = address.parse().ok()?;
            let number = || crate::collect::read(format!("/sys/class/net/{scope}/ifindex"))?.trim().parse().ok();
            let scope = scope.parse().ok().or_else(number)?;
            Some(SocketAddrV6::new(address, 53, 0, scope).into())
        }
    }
}

/// A query for a name's IPv4 address, or for the root servers if it is `.`. None if the name is
/// invalid.
fn question(id: u16, name: &str) -> Option<Vec<u8>> {
    let (name, kind) = if name == "." { ("", 2) } else { (name, 1) };
    let mut packet = id.to_be_bytes().to_vec();
    // Recursion desired; one question.
    packet.extend([1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    for label in name.trim_end_matches('.').split('.').filter(|_| kind == 1) {
        let length = u8::try_from(label.len()).ok().filter(|length| (1..=63).contains(length))?;
        packet.push(length);
        packet.extend(label.as_bytes());
    }
    packet.extend([0, 0, kind, 0, 1]);
    (packet.len() <= 512).then_some(packet)
}

/// Queries a name server; only the reply's code is used.
///
/// # Errors
/// When it cannot be reached, or does not answer in time.
pub(crate) fn ask(server: SocketAddr, name: &str) -> io::Result<DnsReply> {
    let id = u16::from_ne_bytes(fernwart_certs::random());
    let packet = question(id, name).ok_or(io::ErrorKind::InvalidInput)?;
    let any: SocketAddr = match server {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = UdpSocket::bind(any)?;
    socket.connect(server)?;
    let begun = Instant::now();
    let mut answer = [0; 512];
    // Sent twice, since a packet may be lost.
    for _ in 0..2 {
        socket.send(&packet)?;
        let until = Instant::now() + TIMEOUT / 2;
        while let Some(left) = until.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
            socket.set_read_timeout(Some(left))?;
            let length = match socket.recv(&mut answer) {
                Ok(length) => length,
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => break,
                Err(error) => return Err(error),
            };
            if let Some([high, low, flags, code, ..]) = answer.get(..length)
                && [*high, *low] == id.to_be_bytes()
                && flags & 0x80 != 0
            {
                return Ok(DnsReply { code: code & 0x0f, took: begun.elapsed() });
            }
        }
    }
    Err(io::ErrorKind::TimedOut.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_is_encoded_as_the_rfc_requires() {
        let packet = question(0x1234, "hub.example.").expect("a question");
        assert_eq!(packet, b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x03hub\x07example\x00\x00\x01\x00\x01");
        assert_eq!(question(1, "a..b"), None);
        assert_eq!(question(1, &"a".repeat(64)), None);
        assert_eq!(server("192.0.2.1"), Some("192.0.2.1:53".parse().expect("an address")));
        assert_eq!(server("fe80::1%7"), Some("[fe80::1%7]:53".parse().expect("an address")));
        assert_eq!(server("nonsense"), None);
    }

    #[test]
    fn a_reply_to_another_query_is_ignored() {
        let server = UdpSocket::bind("127.0.0.1:0").expect("bound");
        let address = server.local_addr().expect("known");
        let serve = std::thread::spawn(move || {
            let mut packet = [0; 512];
            let (length, from) = server.recv_from(&mut packet).expect("asked");
            let mut answer = packet[..length].to_vec();
            answer[0] ^= 0xff;
            answer[2] |= 0x80;
            server.send_to(&answer, from).expect("sent");
            answer[0] ^= 0xff;
            answer[3] = 2;
            server.send_to(&answer, from).expect("sent");
        });
        let answer = ask(address, "hub.example").expect("an answer");
        assert_eq!((answer.code, answer.word().as_str()), (2, "SERVFAIL"));
        serve.join().expect("served");
        let silent = UdpSocket::bind("127.0.0.1:0").expect("bound");
        assert!(ask(silent.local_addr().expect("known"), "hub.example").is_err());
    }
}
