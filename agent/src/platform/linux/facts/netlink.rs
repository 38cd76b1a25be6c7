//! Queries the kernel over netlink for routes, neighbours and sockets, which is faster than
//! parsing /proc (netlink(7), rtnetlink(7), sock_diag(7)).

use rustix::net::netlink::{SOCK_DIAG, SocketAddrNetlink};
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, Protocol, RecvFlags, SendFlags, SocketFlags, SocketType};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

/// NETLINK_ROUTE is number 0, the default.
const ROUTE: Option<Protocol> = None;
const RTM_NEWROUTE: u16 = 24;
const RTM_GETROUTE: u16 = 26;
const RTM_NEWNEIGH: u16 = 28;
const RTM_GETNEIGH: u16 = 30;
const SOCK_DIAG_BY_FAMILY: u16 = 20;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
/// NLM_F_REQUEST and NLM_F_DUMP.
const DUMP: u16 = 0x301;

const HEADER: usize = 16;

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

/// Dumps all objects of a kind; `each` gets the type and the body of every message.
fn dump(protocol: Option<Protocol>, kind: u16, body: &[u8], mut each: impl FnMut(u16, &[u8])) -> io::Result<()> {
    let socket = rustix::net::socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, protocol)?;
    rustix::net::bind(&socket, &SocketAddrNetlink::new(0, 0))?;
    set_socket_timeout(&socket, Timeout::Recv, Some(Duration::from_millis(500)))?;
    let length = u32::try_from(HEADER + body.len()).unwrap_or(u32::MAX);
    let mut request = length.to_ne_bytes().to_vec();
    request.extend(kind.to_ne_bytes());
    request.extend(DUMP.to_ne_bytes());
    request.extend([0; 8]);
    request.extend_from_slice(body);
    rustix::net::send(&socket, &request, SendFlags::empty())?;
    let mut buffer = vec![0; 32 * 1024];
    loop {
        let (length, _) = rustix::net::recv(&socket, buffer.as_mut_slice(), RecvFlags::empty())?;
        let mut rest = buffer.get(..length).unwrap_or_default();
        while let (Some(length), Some(kind)) = (u32_at(rest, 0), u16_at(rest, 4)) {
            let length = length as usize;
            let Some(body) = rest.get(HEADER..length) else { return Err(io::ErrorKind::InvalidData.into()) };
            match kind {
                NLMSG_DONE => return Ok(()),
                NLMSG_ERROR => {
                    let number = u32_at(body, 0).unwrap_or_default().cast_signed();
                    return Err(io::Error::from_raw_os_error(-number));
                }
                kind => each(kind, body),
            }
            rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        }
    }
}

/// The attributes after a message's fixed part: type and value.
fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(u16_at(bytes, 0)?);
        let kind = u16_at(bytes, 2)? & 0x3fff;
        let value = bytes.get(4..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => Some(Ipv4Addr::from(<[u8; 4]>::try_from(bytes).ok()?).into()),
        16 => Some(Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?).into()),
        _ => None,
    }
}

/// A default route.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct DefaultRoute {
    /// The index of its interface.
    pub(super) interface: u32,
    /// Its gateway; none for a directly connected interface.
    pub(super) gateway: Option<IpAddr>,
    table: u32,
    priority: u32,
}

/// The default routes of the main table; if it has none, those of other tables that routing rules
/// refer to.
///
/// # Errors
/// When the kernel does not answer.
pub(super) fn default_routes() -> io::Result<Vec<DefaultRoute>> {
    let mut routes = Vec::new();
    dump(ROUTE, RTM_GETROUTE, &[0; 12], |kind, body| {
        if kind == RTM_NEWROUTE {
            route(body, &mut routes);
        }
    })?;
    const MAIN: [u32; 2] = [254, 253];
    if routes.iter().any(|route: &DefaultRoute| MAIN.contains(&route.table)) {
        routes.retain(|route| MAIN.contains(&route.table));
    } else if !routes.is_empty() {
        let tables = ruled_tables()?;
        routes.retain(|route| tables.contains(&route.table));
    }
    routes.sort_by_key(|route| (!MAIN.contains(&route.table), route.priority));
    routes.dedup_by(|a, b| (a.interface, a.gateway) == (b.interface, b.gateway));
    Ok(routes)
}

/// Tables that routing rules refer to (fib_rule_hdr: family, …, table (4), …, flags (8)).
fn ruled_tables() -> io::Result<Vec<u32>> {
    const RTM_NEWRULE: u16 = 32;
    const RTM_GETRULE: u16 = 34;
    const FRA_TABLE: u16 = 15;
    let mut tables = Vec::new();
    dump(ROUTE, RTM_GETRULE, &[0; 12], |kind, body| {
        if kind == RTM_NEWRULE {
            let by_name = |(kind, value): (u16, &[u8])| (kind == FRA_TABLE).then(|| u32_at(value, 0)).flatten();
            let table = attributes(body.get(12..).unwrap_or_default()).find_map(by_name);
            tables.push(table.unwrap_or_else(|| u32::from(body.get(4).copied().unwrap_or_default())));
        }
    })?;
    Ok(tables)
}

/// rtmsg: family, length of the destination, …, table (4), …, type (7), flags.
fn route(body: &[u8], routes: &mut Vec<DefaultRoute>) {
    const UNICAST: u8 = 1;
    const LOCAL: u32 = 255;
    /// The next hop is dead or has no carrier.
    const DEAD: u32 = 1 | 16;
    let byte = |at: usize| body.get(at).copied().unwrap_or_default();
    let flags = u32_at(body, 8).unwrap_or_default();
    if byte(1) != 0 || byte(7) != UNICAST || flags & DEAD != 0 {
        return;
    }
    let mut found = DefaultRoute { interface: 0, gateway: None, table: u32::from(byte(4)), priority: 0 };
    let mut hops: Vec<(u32, Option<IpAddr>)> = Vec::new();
    for (kind, value) in attributes(body.get(12..).unwrap_or_default()) {
        match kind {
            4 => found.interface = u32_at(value, 0).unwrap_or_default(),
            5 => found.gateway = address(value),
            6 => found.priority = u32_at(value, 0).unwrap_or_default(),
            15 => found.table = u32_at(value, 0).unwrap_or(found.table),
            // A gateway of the other address family; two bytes give the family.
            18 => found.gateway = address(value.get(2..).unwrap_or_default()),
            9 => hops = next_hops(value),
            _ => {}
        }
    }
    if found.table == LOCAL {
        return;
    }
    if hops.is_empty() {
        routes.push(found);
    } else {
        routes.extend(hops.into_iter().map(|(interface, gateway)| DefaultRoute {
            interface,
            gateway,
            ..found.clone()
        }));
    }
}

/// Several next hops: length, flags, hops, interface, attributes; one after another.
fn next_hops(mut bytes: &[u8]) -> Vec<(u32, Option<IpAddr>)> {
    let mut hops = Vec::new();
    while let (Some(length), Some(interface)) = (u16_at(bytes, 0), u32_at(bytes, 4)) {
        let Some(hop) = bytes.get(8..usize::from(length)) else { break };
        let gateway = attributes(hop).find(|(kind, _)| *kind == 5).and_then(|(_, value)| address(value));
        hops.push((interface, gateway));
        bytes = bytes.get(usize::from(length).next_multiple_of(4)..).unwrap_or_default();
    }
    hops
}

/// The state of a neighbour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Neighbour {
    /// It answered recently, or is being probed.
    Answers,
    /// It answered at some earlier time.
    Stale,
    /// It does not answer.
    Silent,
}

/// The state of a neighbour, if the kernel knows it.
pub(super) fn neighbour(interface: u32, wanted: IpAddr) -> Option<Neighbour> {
    let mut known = None;
    // On failure the caller uses a ping instead.
    let _ = dump(ROUTE, RTM_GETNEIGH, &[0; 12], |kind, body| {
        let state = u16_at(body, 8).unwrap_or_default();
        let is_it = kind == RTM_NEWNEIGH
            && u32_at(body, 4) == Some(interface)
            && attributes(body.get(12..).unwrap_or_default())
                .any(|(kind, value)| kind == 1 && address(value) == Some(wanted));
        if is_it {
            known = match state {
                // reachable, delay, probe, noarp, permanent
                state if state & (0x02 | 0x08 | 0x10 | 0x40 | 0x80) != 0 => Some(Neighbour::Answers),
                state if state & 0x20 != 0 => Some(Neighbour::Silent),
                state if state & 0x04 != 0 => Some(Neighbour::Stale),
                _ => None,
            };
        }
    });
    known
}

/// A listening socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Listener {
    pub(super) address: IpAddr,
    pub(super) port: u16,
    pub(super) inode: u64,
}

/// The listening sockets of a protocol: TCP in state 10, UDP in state 7 without a peer.
///
/// # Errors
/// When the kernel does not support the query.
pub(super) fn listeners(is_tcp: bool) -> io::Result<Vec<Listener>> {
    let (protocol, state) = if is_tcp { (6, 10) } else { (17, 7) };
    let mut found = Vec::new();
    for family in [2u8, 10] {
        let mut request = vec![family, protocol, 0, 0];
        request.extend((1u32 << state).to_ne_bytes());
        request.extend([0; 48]);
        dump(Some(SOCK_DIAG), SOCK_DIAG_BY_FAMILY, &request, |kind, body| {
            if kind == SOCK_DIAG_BY_FAMILY {
                found.extend(listener(body));
            }
        })?;
    }
    Ok(found)
}

/// inet_diag_msg: family, state, timer, retransmits, ports (network order),
/// addresses, interface, cookie, expires, queues, user, inode.
fn listener(body: &[u8]) -> Option<Listener> {
    let port = |at: usize| Some(u16::from_be_bytes(body.get(at..at + 2)?.try_into().ok()?));
    let length = if *body.first()? == 2 { 4 } else { 16 };
    let address = address(body.get(8..8 + length)?)?;
    // A UDP socket with a peer receives only from that peer.
    let is_free = port(6)? == 0;
    let inode = u64::from(u32_at(body, 68)?);
    is_free.then_some(Listener { address: address.to_canonical(), port: port(4)?, inode })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listening_sockets_are_found() {
        let tcp = std::net::TcpListener::bind("127.0.0.1:0").expect("bound");
        let udp =
            std::net::UdpSocket::bind("[::1]:0").or_else(|_| std::net::UdpSocket::bind("127.0.0.1:0")).expect("bound");
        let port = |address: io::Result<std::net::SocketAddr>| address.expect("known").port();
        let has = |is_tcp: bool, port: u16| match listeners(is_tcp) {
            Ok(found) => found.iter().any(|listener| listener.port == port && listener.inode > 0),
            // A kernel without the module; /proc is read then.
            Err(error) => error.kind() == io::ErrorKind::NotFound,
        };
        assert!(has(true, port(tcp.local_addr())));
        assert!(has(false, port(udp.local_addr())));
        let connected = std::net::UdpSocket::bind("127.0.0.1:0").expect("bound");
        connected.connect("127.0.0.1:9").expect("connected");
        let own = port(connected.local_addr());
        assert!(listeners(false).is_ok_and(|found| found.iter().all(|listener| listener.port != own)));
    }

    #[test]
    fn garbage_is_no_route() {
        let mut routes = Vec::new();
        for length in 0..64 {
            route(&vec![0xff; length], &mut routes);
            route(&vec![0; length], &mut routes);
        }
        assert!(routes.iter().all(|route| route.gateway.is_none()));
        assert!(default_routes().is_ok());
    }
}
