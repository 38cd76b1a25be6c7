//! Doors left open: listening sockets, logins, firewall.

use super::{child, clipped, read};
use fernwart_protocol::diagnosis::facts::{LIST, Listening, Security};
use rustix::fs::Dir;
use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Instant;

pub(super) fn facts(deadline: Instant) -> Result<Security, String> {
    let listening = listening();
    let sudo = sudo_without_password();
    let second_roots = second_roots();
    let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    Ok(Security {
        open_ports: count(listening.len()),
        listening: listening.into_iter().take(LIST).collect(),
        firewall: firewall(deadline),
        sudo_without_password_count: count(sudo.len()),
        sudo_without_password: sudo.into_iter().take(LIST).collect(),
        ssh_root_login: ssh_root_login(),
        second_roots_count: count(second_roots.len()),
        second_roots,
    })
}

/// Sockets that hear more than this machine, one per protocol and port.
fn listening() -> Vec<Listening> {
    let mut found: Vec<(Listening, u64)> = Vec::new();
    for (protocol, file) in
        [("tcp", "/proc/net/tcp"), ("tcp", "/proc/net/tcp6"), ("udp", "/proc/net/udp"), ("udp", "/proc/net/udp6")]
    {
        let Ok(table) = File::open(file) else { continue };
        for line in BufReader::new(table).lines().skip(1).map_while(Result::ok) {
            // What listens comes first, in old kernels with what knocks there (03); a
            // hundred thousand connections may follow (tcp_ipv4.c).
            if protocol == "tcp" && !matches!(line.split_whitespace().nth(3), Some("0A" | "03")) {
                break;
            }
            let Some((address, port, inode)) = parse_socket(&line, protocol) else { continue };
            let known = found.iter().any(|(socket, _)| socket.protocol == protocol && socket.port == port);
            if !address.is_loopback() && !known {
                let address = address.to_string();
                found.push((Listening { protocol: protocol.into(), address, port, process: None }, inode));
            }
        }
    }
    let mut owners = socket_owners(found.iter().map(|(_, inode)| *inode).collect());
    let mut found: Vec<Listening> =
        found.into_iter().map(|(socket, inode)| Listening { process: owners.remove(&inode), ..socket }).collect();
    found.sort_by(|a, b| (&a.protocol, a.port).cmp(&(&b.protocol, b.port)));
    found
}

/// A line of /proc/net/tcp or udp that listens: state 0A, or for UDP 07
/// without a peer.
fn parse_socket(line: &str, protocol: &str) -> Option<(IpAddr, u16, u64)> {
    let fields: Vec<_> = line.split_whitespace().collect();
    let (local, remote, state, inode) = match fields.as_slice() {
        [_, local, remote, state, _, _, _, _, _, inode, ..] => (*local, *remote, *state, *inode),
        _ => return None,
    };
    let hears = match protocol {
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
    hears.then_some((address.to_canonical(), u16::from_str_radix(port, 16).ok()?, inode.parse().ok()?))
}

/// Which program holds which of these sockets, as far as we may look.
fn socket_owners(mut wanted: HashSet<u64>) -> HashMap<u64, String> {
    let mut owners = HashMap::new();
    let Ok(processes) = std::fs::read_dir("/proc") else { return owners };
    let mut pids: Vec<u32> = processes.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    // systemd holds what it has opened for others; theirs is the better name.
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
                let program = read(&format!("/proc/{pid}/comm")).unwrap_or_default();
                owners.insert(inode, clipped(&program));
            }
        }
    }
    owners
}

fn sudo_without_password() -> Vec<String> {
    let mut files = vec!["/etc/sudoers".to_owned()];
    if let Ok(folder) = std::fs::read_dir("/etc/sudoers.d") {
        files.extend(folder.flatten().filter_map(|entry| entry.path().to_str().map(str::to_owned)));
    }
    let mut found = Vec::new();
    for file in files {
        for line in read(&file).unwrap_or_default().lines() {
            let line = line.trim();
            if line.contains("NOPASSWD") && !line.starts_with('#') {
                found.push(clipped(line));
            }
        }
    }
    found
}

/// sshd's word on root; the first one counts (sshd_config(5)).
fn ssh_root_login() -> Option<String> {
    let main = read("/etc/ssh/sshd_config")?;
    let mut texts = Vec::new();
    if let Ok(folder) = std::fs::read_dir("/etc/ssh/sshd_config.d") {
        let mut parts: Vec<_> = folder.flatten().map(|entry| entry.path()).collect();
        parts.sort();
        texts.extend(parts.iter().filter_map(|path| read(path.to_str()?)));
    }
    texts.push(main);
    let word = texts.iter().flat_map(|text| text.lines()).find_map(|line| {
        let mut words = line.split_whitespace();
        let key = words.next()?;
        key.eq_ignore_ascii_case("PermitRootLogin").then(|| words.next().unwrap_or_default().to_lowercase())
    });
    Some(word.unwrap_or_else(|| "prohibit-password".into()))
}

fn second_roots() -> Vec<String> {
    let accounts = read("/etc/passwd").unwrap_or_default();
    let roots = accounts.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let (name, _, number) = (fields.next()?, fields.next()?, fields.next()?);
        (number == "0" && name != "root").then(|| clipped(name))
    });
    roots.take(LIST).collect()
}

/// Whether any packet filter has rules; none where nobody may be asked.
fn firewall(deadline: Instant) -> Option<bool> {
    let nft = child::run("nft", &["list", "ruleset"], deadline).ok().map(|rules| rules.contains("hook input"));
    if nft == Some(true) {
        return nft;
    }
    let iptables = child::run("iptables", &["-S", "INPUT"], deadline).ok();
    let iptables = iptables.filter(|rules| rules.contains("-P INPUT")).map(|rules| {
        rules.contains("-P INPUT DROP") || rules.contains("-P INPUT REJECT") || rules.contains("-A INPUT")
    });
    match (nft, iptables) {
        (_, Some(true)) => Some(true),
        (Some(false), _) | (_, Some(false)) => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listening_sockets_are_told_from_others() {
        let tcp = "0: 00000000:0016 00000000:0000 0A 00000000:00000000 00:00000000 00000000 0 0 1234 1";
        assert_eq!(parse_socket(tcp, "tcp"), Some((IpAddr::from([0, 0, 0, 0]), 22, 1234)));
        let connected = tcp.replace(" 0A ", " 01 ");
        assert_eq!(parse_socket(&connected, "tcp"), None);
        let local = tcp.replace("00000000:0016", "0100007F:0016");
        assert!(parse_socket(&local, "tcp").is_some_and(|(address, _, _)| address.is_loopback()));
        assert_eq!(parse_socket("garbage", "tcp"), None);
    }
}
