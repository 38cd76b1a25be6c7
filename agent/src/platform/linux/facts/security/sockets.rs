//! Sockets that can be reached from other machines, and their programs.

use crate::collect::bytes::clipped;
use crate::collect::read;
use crate::platform::linux::facts::netlink::{self, Listener};
use fernwart_protocol::diagnosis::facts::Listening;
use fernwart_protocol::diagnosis::{Cause, Reason};
use rustix::fs::Dir;
use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Sockets that can be reached from other machines, one per protocol and port.
///
/// # Errors
/// When they cannot be listed.
pub(super) fn listening() -> Result<Vec<Listening>, Cause> {
    let mut found: Vec<(Listening, u64)> = Vec::new();
    let given_out = given_out(&read("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default());
    for protocol in ["tcp", "udp"] {
        let listeners = netlink::listeners(protocol == "tcp").or_else(|_| listed(protocol));
        let listeners = listeners.map_err(|error| Cause::new(Reason::Unreadable, clipped(&error.to_string())))?;
        for Listener { address, port, inode } in listeners {
            // UDP sockets on ephemeral ports belong to clients.
            if protocol == "udp" && given_out.contains(&port) {
                continue;
            }
            let known = found.iter().any(|(socket, _)| socket.protocol == protocol && socket.port == port);
            if !address.is_loopback() && !known {
                let address = address.to_string();
                found.push((Listening { protocol: protocol.into(), address, port, process: None }, inode));
            }
        }
    }
    let mut owners = owners(found.iter().map(|(_, inode)| *inode).collect());
    let mut found: Vec<Listening> =
        found.into_iter().map(|(socket, inode)| Listening { process: owners.remove(&inode), ..socket }).collect();
    found.sort_by(|a, b| (&a.protocol, a.port).cmp(&(&b.protocol, b.port)));
    Ok(found)
}

/// The range of ephemeral ports (ip(7)).
fn given_out(range: &str) -> std::ops::RangeInclusive<u16> {
    let mut bounds = range.split_whitespace().filter_map(|bound| bound.parse().ok());
    bounds.next().unwrap_or(32_768)..=bounds.next().unwrap_or(60_999)
}

/// The same from /proc, if netlink is not available.
fn listed(protocol: &str) -> std::io::Result<Vec<Listener>> {
    let mut found = Vec::new();
    for file in [format!("/proc/net/{protocol}"), format!("/proc/net/{protocol}6")] {
        let table = match File::open(&file) {
            Ok(table) => table,
            // IPv6 may be disabled.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        for line in BufReader::new(table).lines().skip(1) {
            let line = line?;
            // Listening sockets come first, on old kernels mixed with half-open connections (03).
            // A hundred thousand connections may follow (tcp_ipv4.c).
            if protocol == "tcp" && !matches!(line.split_whitespace().nth(3), Some("0A" | "03")) {
                break;
            }
            found.extend(parse(&line, protocol));
        }
    }
    Ok(found)
}

/// Parses a line of /proc/net/tcp or udp that listens: state 0A, or for UDP 07 without a peer.
fn parse(line: &str, protocol: &str) -> Option<Listener> {
    let fields: Vec<_> = line.split_whitespace().collect();
    let (local, remote, state, inode) = match fields.as_slice() {
        [_, local, remote, state, _, _, _, _, _, inode, ..] => (*local, *remote, *state, *inode),
        _ => return None,
    };
    let is_listening = match protocol {
        "tcp" => state == "0A",
        _ => state == "07" && remote.ends_with(":0000"),
    };
    let (address, port) = local.split_once(':')?;
    let address = match address.len() {
        8 => IpAddr::from(Ipv4Addr::from(u32::from_str_radix(address, 16).ok()?.to_ne_bytes())),
        32 => {
            let mut bytes = [0u8; 16];
            for (word, chunk) in bytes.chunks_exact_mut(4).zip(address.as_bytes().chunks_exact(8)) {
                let digits = std::str::from_utf8(chunk).ok()?;
                word.copy_from_slice(&u32::from_str_radix(digits, 16).ok()?.to_ne_bytes());
            }
            IpAddr::from(Ipv6Addr::from(bytes))
        }
        _ => return None,
    };
    let (port, inode) = (u16::from_str_radix(port, 16).ok()?, inode.parse().ok()?);
    is_listening.then_some(Listener { address: address.to_canonical(), port, inode })
}

/// The programs that hold these sockets, as far as permissions allow.
fn owners(mut wanted: HashSet<u64>) -> HashMap<u64, String> {
    let mut owners = HashMap::new();
    let Ok(processes) = std::fs::read_dir("/proc") else { return owners };
    let mut pids: Vec<u32> = processes.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    // systemd holds sockets it has opened for other programs, whose names are better.
    pids.sort_by_key(|pid| (*pid == 1, *pid));
    for pid in pids {
        if wanted.is_empty() {
            break;
        }
        let Ok(folder) = File::open(format!("/proc/{pid}/fd")) else { continue };
        let Ok(descriptors) = Dir::read_from(&folder) else { continue };
        for descriptor in descriptors.flatten() {
            let Ok(target) = rustix::fs::readlinkat(&folder, descriptor.file_name(), Vec::new()) else { continue };
            let inode = |text: &str| text.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok();
            if let Some(inode) = target.to_str().ok().and_then(inode).filter(|inode| wanted.remove(inode)) {
                let program = read(format!("/proc/{pid}/comm")).unwrap_or_default();
                owners.insert(inode, clipped(&program));
            }
        }
    }
    owners
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listening_sockets_are_distinguished_from_connections() {
        let tcp = "0: 00000000:0016 00000000:0000 0A 00000000:00000000 00:00000000 00000000 0 0 1234 1";
        let found = parse(tcp, "tcp").expect("it listens");
        assert_eq!((found.address, found.port, found.inode), (IpAddr::from([0, 0, 0, 0]), 22, 1234));
        let connected = tcp.replace(" 0A ", " 01 ");
        assert_eq!(parse(&connected, "tcp"), None);
        let local = tcp.replace("00000000:0016", "0100007F:0016");
        assert!(parse(&local, "tcp").is_some_and(|listener| listener.address.is_loopback()));
        assert_eq!(parse("garbage", "tcp"), None);
    }

    #[test]
    fn netlink_and_proc_report_the_same_sockets() {
        let _tcp = std::net::TcpListener::bind("127.0.0.1:0").expect("bound");
        let ports = |found: Vec<Listener>| {
            let mut ports: Vec<u16> = found.into_iter().map(|listener| listener.port).collect();
            ports.sort_unstable();
            ports.dedup();
            ports
        };
        // Other tests open sockets at the same time.
        let same = (0..20).any(|_| match netlink::listeners(true) {
            Ok(asked) => ports(asked) == ports(listed("tcp").expect("listed")),
            Err(_) => true,
        });
        assert!(same);
    }
}
