//! Interfaces, default routes, name servers, reachability.

use super::dns;
use super::netlink::{self, DefaultRoute, Neighbour};
use crate::collect::bytes::{clipped, shown};
use crate::collect::counting::Counting;
use crate::collect::{Surroundings, budget, child, missing, pct, read};
use fernwart_protocol::diagnosis::facts::{Interface, LIST, Network, Resolver, Route};
use fernwart_protocol::diagnosis::{Cause, Class, Reason};
use std::io;
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// Maximum number of name servers queried: the C library reads three.
const SERVERS: usize = 8;

pub(super) fn facts(around: &Surroundings, counting: &Counting, until: Instant) -> Network {
    let mut network = Network { interfaces: interfaces(counting), ..Network::default() };
    match netlink::default_routes() {
        Ok(routes) => ways_out(&mut network, &routes, until),
        Err(error) => {
            let why = Cause::new(Reason::Unreadable, clipped(&error.to_string()));
            network.why.insert("default_routes".into(), why.clone());
            network.why.insert("gateway_reachable".into(), why);
        }
    }
    names(&mut network, around, until);
    network.hub_reachable = around.hub_reachable;
    network.hub_rtt_ms = around.hub_rtt_us.map(|us| f64::from(us) / 1000.0);
    for (name, is_known) in
        [("hub_reachable", network.hub_reachable.is_some()), ("hub_rtt_ms", network.hub_rtt_ms.is_some())]
    {
        if !is_known {
            // The diagnosis runs without a hub, or there is no link to measure.
            network.why.insert(name.into(), Reason::Absent.into());
        }
    }
    network
}

fn interfaces(counting: &Counting) -> Vec<Interface> {
    let Ok(networks) = sysinfo::Networks::new_with_refreshed_list() else { return Vec::new() };
    let mut interfaces: Vec<Interface> = networks
        .iter()
        .map(|(name, network)| (shown(name.as_encoded_bytes()), network))
        .filter(|(name, _)| name != "lo")
        .map(|(name, network)| {
            let errors = network.total_errors_on_received() + network.total_errors_on_transmitted();
            let packets = network.total_packets_received() + network.total_packets_transmitted();
            let sys = |file: &str| read(format!("/sys/class/net/{name}/{file}")).unwrap_or_default().trim().to_owned();
            let state = sys("operstate");
            let networks = network.ip_networks();
            let mut addresses: Vec<String> = networks.iter().map(ToString::to_string).collect();
            addresses.sort();
            let v4 = || {
                networks.iter().filter_map(|network| match network.addr {
                    IpAddr::V4(address) => Some(address),
                    IpAddr::V6(_) => None,
                })
            };
            // A direct cable to a camera may use such addresses on purpose; a network card with a
            // carrier and no other address does not.
            let global_v6 =
                networks.iter().any(|network| matches!(network.addr, IpAddr::V6(v6) if !v6.is_unicast_link_local()));
            let is_card = std::path::Path::new(&format!("/sys/class/net/{name}/device")).exists();
            let self_assigned = is_card && v4().count() > 0 && v4().all(|v4| v4.is_link_local()) && !global_v6;
            let mut interface = Interface {
                // Tunnels and the like report no state but work.
                up: matches!(state.as_str(), "up" | "unknown"),
                addresses,
                mtu_bytes: network.mtu(),
                received_bytes: network.total_received(),
                sent_bytes: network.total_transmitted(),
                errors,
                errors_pct: pct(errors as f64, (packets + errors) as f64),
                self_assigned: self_assigned && state == "up",
                ..Interface::default()
            };
            let since = (
                counting.since(&format!("{name}.errors"), errors),
                counting.since(&format!("{name}.packets"), packets),
            );
            match since {
                (Ok(errors), Ok(packets)) => {
                    interface.errors_since = Some(errors);
                    interface.errors_since_pct = Some(pct(errors as f64, (packets + errors) as f64));
                }
                (Err(why), _) | (_, Err(why)) => {
                    interface.why.insert("errors_since".into(), why.clone());
                    interface.why.insert("errors_since_pct".into(), why);
                }
            }
            interface.name = clipped(&name);
            interface
        })
        .collect();
    interfaces.sort_by(|a, b| a.name.cmp(&b.name));
    interfaces.truncate(LIST);
    interfaces
}

/// The name of the interface with this number.
pub(super) fn interface_name(number: u32) -> String {
    let folder = std::fs::read_dir("/sys/class/net").into_iter().flatten().flatten();
    let is_it = |entry: &std::fs::DirEntry| {
        read(entry.path().join("ifindex")).and_then(|text| text.trim().parse().ok()) == Some(number)
    };
    folder
        .into_iter()
        .find(is_it)
        .map_or_else(|| number.to_string(), |entry| shown(entry.file_name().as_encoded_bytes()))
}

fn ways_out(network: &mut Network, routes: &[DefaultRoute], until: Instant) {
    let mut default_routes = Vec::new();
    for route in routes {
        let device = clipped(&interface_name(route.interface));
        if device == "lo" {
            continue;
        }
        let gateway = route.gateway.map(|gateway| match gateway {
            IpAddr::V6(v6) if v6.is_unicast_link_local() => format!("{gateway}%{device}"),
            _ => gateway.to_string(),
        });
        network.gateways.extend(gateway.clone());
        default_routes.push((Route { device, gateway }, route));
    }
    network.gateways.truncate(8);
    // One reachable gateway is enough: the others may be spares.
    let asked: Vec<(String, DefaultRoute)> = default_routes
        .iter()
        .filter_map(|(default_route, route)| Some((default_route.gateway.clone()?, (*route).clone())))
        .take(8)
        .collect();
    let things =
        asked.iter().map(|(gateway, route)| (format!("gateway {gateway}"), (gateway.clone(), route.clone(), until)));
    let ask = |(gateway, route, until): (String, DefaultRoute, Instant)| reachable(&gateway, &route, until);
    let answers = budget::each(things.collect(), 8, Duration::from_millis(1800), until, ask);
    let answers: Vec<Option<bool>> = answers.into_iter().map(|answer| answer.ok().flatten()).collect();
    let is_open = answers.iter().any(Option::is_none);
    network.gateway_reachable = match answers.iter().flatten().max() {
        // A gateway that could not be checked might be the reachable one.
        Some(false) if is_open => {
            network.why.insert("gateway_reachable".into(), Cause::new(Reason::TimedOut, "ping"));
            None
        }
        Some(answers) => Some(*answers),
        None => {
            let why = if answers.is_empty() { Reason::Absent.into() } else { Cause::new(Reason::NotInstalled, "ping") };
            network.why.insert("gateway_reachable".into(), why);
            None
        }
    };
    network.default_routes =
        Some(default_routes.into_iter().map(|(default_route, _)| default_route).take(LIST).collect());
}

/// Whether a gateway answers: by the kernel's neighbour table, else by one ping. Either may miss
/// a working gateway, so a "no" needs both.
fn reachable(gateway: &str, route: &DefaultRoute, until: Instant) -> Option<bool> {
    let known = || netlink::neighbour(route.interface, route.gateway?);
    if known() == Some(Neighbour::Answers) {
        return Some(true);
    }
    let until = until.min(Instant::now() + Duration::from_millis(1300));
    let answered = child::run("ping", &["-n", "-q", "-c", "1", "-W", "1", gateway], until);
    match (answered, known()) {
        // The ping has updated the neighbour table, even if the gateway does not answer pings.
        (_, Some(Neighbour::Answers)) | (Ok(child::ProcessOutput { code: Some(0), .. }), _) => Some(true),
        (Ok(child::ProcessOutput { code: Some(1), .. }), _) => Some(false),
        // Ping is not permitted or not installed: only the neighbour table is left.
        (_, Some(Neighbour::Silent)) => Some(false),
        _ => None,
    }
}

/// Parses lines `nameserver ADDRESS`.
fn name_servers(text: &str) -> Vec<String> {
    let server = |line: &str| {
        // The C library accepts the word only at the beginning of a line.
        if line.starts_with([' ', '\t']) {
            return None;
        }
        let mut words = line.split_whitespace();
        words.next().filter(|word| *word == "nameserver")?;
        words.next().map(str::to_owned)
    };
    // The C library ignores invalid addresses.
    text.lines().filter_map(server).filter(|server| dns::server(server).is_some()).take(SERVERS).collect()
}

fn names(network: &mut Network, around: &Surroundings, until: Instant) {
    let resolv = match crate::collect::bytes::read_bytes("/etc/resolv.conf") {
        Ok(bytes) => shown(&bytes),
        // A missing file or a dangling link: no server is set.
        Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
        Err(error) => {
            let why = Cause::new(Reason::Unreadable, clipped(&format!("/etc/resolv.conf: {error}")));
            missing(&mut network.why, &["dns_servers", "resolvers", "resolvers_answering"], &why);
            return;
        }
    };
    let mut servers = name_servers(&resolv);
    // systemd-resolved is a local proxy; the real servers are in its own file.
    if servers.iter().all(|server| server == "127.0.0.53" || server == "127.0.0.54") && !servers.is_empty() {
        let upstream = name_servers(&read("/run/systemd/resolve/resolv.conf").unwrap_or_default());
        if !upstream.is_empty() {
            servers = upstream;
        }
    }
    // The query is for the hub's name or the root: any other name would tell the resolvers'
    // operators something about this machine.
    match servers.is_empty() {
        false => ask_resolvers(network, &servers, around.hub_name.as_deref(), until),
        true => {
            missing(&mut network.why, &["resolvers", "resolvers_answering"], &Reason::Absent.into());
        }
    }
    network.dns_servers = Some(servers.into_iter().map(|server| clipped(&server)).collect());
}

fn ask_resolvers(network: &mut Network, servers: &[String], name: Option<&str>, until: Instant) {
    let ask = |(server, name): (String, String)| -> io::Result<dns::DnsReply> {
        let address = dns::server(&server).ok_or(io::ErrorKind::InvalidInput)?;
        dns::ask(address, &name)
    };
    let things = servers
        .iter()
        .map(|server| (format!("name server {server}"), (server.clone(), name.unwrap_or(".").to_owned())));
    let answers = budget::each(things.collect(), SERVERS, dns::TIMEOUT * 3 / 2, until, ask);
    let resolver = |(server, answer): (&String, Result<io::Result<dns::DnsReply>, Reason>)| {
        let mut resolver = Resolver { address: clipped(server), ..Resolver::default() };
        match answer {
            Ok(Ok(reply)) => {
                resolver.said = reply.word();
                resolver.took_ms = Some((reply.took.as_secs_f64() * 10_000.0).round() / 10.0);
                resolver.answers = match reply.code {
                    0 | 3 => Some(true),
                    // A server for local names only cannot resolve the root.
                    _ if name.is_none() => None,
                    // It may serve other zones only.
                    5 => None,
                    _ => Some(false),
                };
                if resolver.answers.is_none() {
                    resolver.why.insert("answers".into(), Cause::new(Reason::NotSupported, "REFUSED"));
                }
            }
            Ok(Err(error)) => {
                resolver.answers = Some(false);
                resolver.said = match error.kind() {
                    io::ErrorKind::TimedOut => "no answer".to_owned(),
                    io::ErrorKind::InvalidInput => "no address".to_owned(),
                    _ => clipped(&error.to_string()),
                };
                resolver.why.insert("took_ms".into(), Reason::Absent.into());
            }
            Err(reason) => {
                missing(&mut resolver.why, &["answers", "took_ms"], &Cause::new(reason, ""));
            }
        }
        resolver
    };
    let resolvers: Vec<Resolver> = servers.iter().zip(answers).map(resolver).collect();
    let lost =
        |resolver: &Resolver| resolver.why.get("answers").filter(|why| why.reason.class() == Class::Lost).cloned();
    // A server that refuses other zones may well work.
    let works = |resolver: &&Resolver| resolver.answers != Some(false) && lost(resolver).is_none();
    match (resolvers.iter().filter(works).count(), resolvers.iter().find_map(lost)) {
        // It is unknown whether a server that was not queried in time works.
        (0, Some(why)) => drop(network.why.insert("resolvers_answering".into(), why)),
        (answering, _) => network.resolvers_answering = u32::try_from(answering).ok(),
    }
    network.resolvers = Some(resolvers);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_servers_are_read_among_other_lines() {
        let text = "# nameserver 192.0.2.9\nsearch shop.example\n nameserver\t192.0.2.1  # router\nnameserver fe80::1%eth0\noptions rotate\n;nameserver 1\nnameservers x\n";
        // The C library ignores a keyword that does not begin its line.
        assert_eq!(name_servers(text), ["fe80::1%eth0"]);
    }

    /// Starts a name server on a loopback address that replies with this code, or never. None if
    /// port 53 cannot be bound.
    fn serve(address: &str, code: Option<u8>) -> Option<std::thread::JoinHandle<()>> {
        let socket = match std::net::UdpSocket::bind((address, 53)) {
            Ok(socket) => socket,
            Err(error) => {
                assert!(std::env::var_os("CI").is_none(), "{address}: {error}");
                println!("skipped: {address}: {error}");
                return None;
            }
        };
        socket.set_read_timeout(Some(Duration::from_secs(3))).expect("set");
        Some(std::thread::spawn(move || {
            let mut packet = [0; 512];
            while let Ok((length, from)) = socket.recv_from(&mut packet) {
                if let Some(code) = code {
                    packet[2] |= 0x80;
                    packet[3] = code;
                    socket.send_to(&packet[..length], from).expect("sent");
                }
            }
        }))
    }

    #[test]
    fn a_name_server_not_queried_in_time_does_not_count_as_working() {
        let mut network = Network::default();
        ask_resolvers(&mut network, &["192.0.2.53".to_owned()], Some("hub.example"), Instant::now());
        assert_eq!(network.resolvers_answering, None);
        assert_eq!(network.why["resolvers_answering"].reason, Reason::TimedOut);
    }

    #[test]
    fn each_name_server_is_queried_and_a_dead_one_is_named() {
        let servers = ["127.0.0.91", "127.0.0.92", "127.0.0.93"].map(str::to_owned);
        let codes = [Some(0), None, Some(5)];
        let serving: Option<Vec<_>> = servers.iter().zip(codes).map(|(server, code)| serve(server, code)).collect();
        let Some(_serving) = serving else { return };
        let mut network = Network::default();
        ask_resolvers(&mut network, &servers, Some("hub.example"), Instant::now() + Duration::from_secs(3));
        let resolvers = network.resolvers.expect("asked");
        let short: Vec<_> = resolvers.iter().map(|one| (one.answers, one.said.as_str())).collect();
        assert_eq!(short, [(Some(true), "NOERROR"), (Some(false), "no answer"), (None, "REFUSED")]);
        assert_eq!(network.resolvers_answering, Some(2), "one that serves other names only may well work");
        let mut dead = Network::default();
        ask_resolvers(&mut dead, &servers[1..2], Some("hub.example"), Instant::now() + Duration::from_secs(3));
        assert_eq!(dead.resolvers_answering, Some(0));
    }
}
