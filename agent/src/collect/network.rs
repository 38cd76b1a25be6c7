//! Interfaces, routes, name servers, reachability.

use super::{Surroundings, child, pct, read};
use fernwart_protocol::diagnosis::facts::{Interface, LIST, Network};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};

pub(super) fn facts(around: &Surroundings, deadline: Instant) -> Network {
    let gateways = gateways();
    let gateway_reachable = gateways.first().and_then(|gateway| reachable(gateway, deadline));
    Network {
        interfaces: interfaces(),
        gateways,
        gateway_reachable,
        dns_servers: dns_servers(),
        hub_reachable: around.hub_reachable,
        hub_rtt_ms: around.hub_rtt_us.map(|us| f64::from(us) / 1000.0),
    }
}

fn interfaces() -> Vec<Interface> {
    let Ok(networks) = sysinfo::Networks::new_with_refreshed_list() else { return Vec::new() };
    let mut interfaces: Vec<Interface> = networks
        .iter()
        .map(|(name, network)| (name.to_string_lossy().into_owned(), network))
        .filter(|(name, _)| name != "lo")
        .map(|(name, network)| {
            let errors = network.total_errors_on_received() + network.total_errors_on_transmitted();
            let packets = network.total_packets_received() + network.total_packets_transmitted();
            let state = read(&format!("/sys/class/net/{name}/operstate")).unwrap_or_default();
            let mut addresses: Vec<String> = network.ip_networks().iter().map(ToString::to_string).collect();
            addresses.sort();
            Interface {
                name,
                // Tunnels and the like have no state but carry.
                up: matches!(state.trim(), "up" | "unknown"),
                addresses,
                mtu_bytes: network.mtu(),
                received_bytes: network.total_received(),
                sent_bytes: network.total_transmitted(),
                errors,
                errors_pct: pct(errors as f64, (packets + errors) as f64),
            }
        })
        .collect();
    interfaces.sort_by(|a, b| a.name.cmp(&b.name));
    interfaces.truncate(LIST);
    interfaces
}

fn gateways() -> Vec<String> {
    let mut gateways = Vec::new();
    for line in read("/proc/net/route").unwrap_or_default().lines().skip(1) {
        let fields: Vec<_> = line.split_whitespace().collect();
        // destination and mask 0: the default route; the address is in host order
        if let [_, "00000000", gateway, _, _, _, _, "00000000", ..] = fields.as_slice()
            && let Ok(address) = u32::from_str_radix(gateway, 16)
            && address != 0
        {
            gateways.push(Ipv4Addr::from(address.to_ne_bytes()).to_string());
        }
    }
    for line in read("/proc/net/ipv6_route").unwrap_or_default().lines() {
        let fields: Vec<_> = line.split_whitespace().collect();
        if let [destination, "00", _, _, gateway, _, _, _, _, device] = fields.as_slice()
            && destination.bytes().all(|digit| digit == b'0')
            && *device != "lo"
            && let Ok(address) = u128::from_str_radix(gateway, 16)
            && address != 0
        {
            gateways.push(format!("{}%{device}", Ipv6Addr::from(address)));
        }
    }
    gateways.dedup();
    gateways.truncate(8);
    gateways
}

/// Whether a gateway answers: by the neighbour table, else by one ping. Both
/// may be silent about a gateway that is well, so a "no" needs both.
fn reachable(gateway: &str, deadline: Instant) -> Option<bool> {
    // flag 2: the neighbour's hardware address is known (arp(7))
    let known = read("/proc/net/arp").unwrap_or_default().lines().any(|line| {
        let fields: Vec<_> = line.split_whitespace().collect();
        matches!(fields.as_slice(), [address, _, "0x2", ..] if *address == gateway)
    });
    if known {
        return Some(true);
    }
    let until = deadline.min(Instant::now() + Duration::from_millis(1300));
    let answer = child::run_status("ping", &["-n", "-q", "-c", "1", "-W", "1", gateway], until);
    answer.ok().map(|(_, code)| code == Some(0))
}

fn dns_servers() -> Vec<String> {
    let from = |file: &str| -> Vec<String> {
        let text = read(file).unwrap_or_default();
        text.lines().filter_map(|line| line.trim().strip_prefix("nameserver")).map(|s| s.trim().to_owned()).collect()
    };
    let mut servers = from("/etc/resolv.conf");
    // systemd-resolved stands in between; the real ones are in its own file
    if servers == ["127.0.0.53"] {
        let upstream = from("/run/systemd/resolve/resolv.conf");
        if !upstream.is_empty() {
            servers = upstream;
        }
    }
    servers.truncate(8);
    servers
}
