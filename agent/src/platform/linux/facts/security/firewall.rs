//! Whether a firewall blocks unsolicited connections.
//!
//! The presence of rules tells little, since fail2ban, Docker and libvirt add some, too. A
//! firewall blocks an unsolicited packet to a port that no rule names, so such a packet is traced
//! through the rules.

use crate::collect::{child, read};
use crate::platform::linux::facts::{netlink, network};
use fernwart_protocol::diagnosis::{Cause, Reason};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

/// Time limit for listing a large ruleset.
const BUDGET: Duration = Duration::from_millis(1500);

/// Whether incoming connections are filtered, and by which chains: `inet filter input`.
///
/// # Errors
/// When the rules cannot be listed.
pub(super) fn filters(until: Instant) -> Result<(bool, Vec<String>), Cause> {
    let until = until.min(Instant::now() + BUDGET);
    let interface = outer_interface();
    // -t leaves out the elements of sets, which may be hundreds of thousands of addresses.
    let nft = child::ask("nft", &["-j", "-t", "list", "ruleset"], until)
        .and_then(|text| parse(&text, &interface).ok_or_else(|| Cause::new(Reason::Unreadable, "nft")));
    let mut by = nft.clone().unwrap_or_default();
    let mut asked = vec![nft.map(drop)];
    for (program, family) in [("iptables", "ip"), ("ip6tables", "ip6")] {
        if covers(&by, family) {
            continue;
        }
        let listed = child::ask(program, &["-S", "INPUT"], until);
        if listed.as_ref().is_ok_and(|rules| drops_the_rest(rules)) {
            by.push(Chain { family, name: format!("{program} INPUT") });
        }
        asked.push(listed.map(drop));
    }
    // A firewall may exist in a source that could not be listed.
    let lost = asked.iter().filter_map(|asked| asked.as_ref().err()).find(|why| why.reason != Reason::NotInstalled);
    let is_known = asked.iter().any(Result::is_ok);
    let is_filtered = covers(&by, "ip") && (covers(&by, "ip6") || !has_public_ipv6());
    match (is_filtered, lost, is_known) {
        (true, ..) | (false, None, true) => {
            let names: BTreeSet<String> = by.into_iter().map(|chain| chain.name).collect();
            Ok((is_filtered, names.into_iter().collect()))
        }
        (false, Some(why), _) => Err(why.clone()),
        (false, None, false) => Err(Cause::new(Reason::NotInstalled, "nft")),
    }
}

/// A chain that blocks unsolicited packets of one address family.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Chain {
    family: &'static str,
    name: String,
}

fn covers(chains: &[Chain], family: &str) -> bool {
    chains.iter().any(|chain| chain.family == family)
}

/// Whether this machine has an IPv6 address that is reachable beyond its own link
/// (/proc/net/if_inet6: scope 00).
fn has_public_ipv6() -> bool {
    let table = read("/proc/net/if_inet6").unwrap_or_default();
    table.lines().any(|line| line.split_whitespace().nth(3) == Some("00"))
}

/// `-P INPUT DROP`, or an unconditional rule that drops before any that accepts.
fn drops_the_rest(rules: &str) -> bool {
    let verdict = |line: &str| match line.strip_prefix("-A INPUT -j ")?.split_whitespace().next()? {
        "DROP" | "REJECT" => Some(true),
        "ACCEPT" => Some(false),
        _ => None,
    };
    rules.lines().find_map(verdict).unwrap_or_else(|| rules.lines().any(|line| line == "-P INPUT DROP"))
}

/// A chain: family, table, name.
type Place<'a> = (&'a str, &'a str, &'a str);

/// The packet that is traced: the first packet of an unsolicited connection, to a port that no
/// rule names.
#[derive(Debug, Clone, Copy)]
struct Packet<'a> {
    family: &'static str,
    protocol: &'static str,
    /// The interface on which it arrives.
    interface: &'a str,
}

/// A port that no rule names.
const PORT: u64 = 54_321;

/// The result for a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    In,
    Out,
    /// It returns to the calling chain.
    Back,
}

/// The ruleset as `nft -j` writes it (libnftables-json(5)).
struct Ruleset<'a> {
    rules: BTreeMap<Place<'a>, Vec<&'a [Value]>>,
}

/// A field that is text.
fn word<'a>(of: &'a Value, name: &str) -> &'a str {
    of.get(name).and_then(Value::as_str).unwrap_or_default()
}

/// The chains that block unsolicited packets.
fn parse(text: &str, interface: &str) -> Option<Vec<Chain>> {
    let json: Value = serde_json::from_str(text).ok()?;
    let items = json.get("nftables")?.as_array()?;
    let mut ruleset = Ruleset { rules: BTreeMap::new() };
    for rule in items.iter().filter_map(|item| item.get("rule")) {
        let word = |name: &str| rule.get(name).and_then(Value::as_str);
        if let (Some(family), Some(table), Some(chain)) = (word("family"), word("table"), word("chain")) {
            let parts = rule.get("expr").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
            ruleset.rules.entry((family, table, chain)).or_default().push(parts);
        }
    }
    let asleep: BTreeSet<(&str, &str)> = items
        .iter()
        .filter_map(|item| item.get("table"))
        // nft up to 1.0.6 writes the table's name in place of the flag.
        .filter(|table| {
            table.get("flags").is_some_and(|flags| has(flags, "dormant") || Some(flags) == table.get("name"))
        })
        .map(|table| (word(table, "family"), word(table, "name")))
        .collect();
    let mut found = Vec::new();
    for family in ["ip", "ip6"] {
        // One chain may block TCP and another UDP.
        let mut by = [Vec::new(), Vec::new()];
        for chain in items.iter().filter_map(|item| item.get("chain")) {
            let place @ (of, table, name) = (word(chain, "family"), word(chain, "table"), word(chain, "name"));
            // A bridge's chain sees forwarded packets, not those for this machine.
            let comes_in = ["input", "prerouting"].contains(&word(chain, "hook"))
                && (of == "inet" || of == family)
                && !asleep.contains(&(of, table));
            if !comes_in {
                continue;
            }
            for (protocol, by) in ["tcp", "udp"].into_iter().zip(&mut by) {
                let packet = Packet { family, protocol, interface };
                let end = match ruleset.end(place, packet, &mut BTreeMap::new()) {
                    Some(Verdict::In) => false,
                    Some(Verdict::Out) => true,
                    Some(Verdict::Back) | None => word(chain, "policy") == "drop",
                };
                if end {
                    by.push(format!("{of} {table} {name}"));
                }
            }
        }
        if by.iter().all(|by| !by.is_empty()) {
            let names: BTreeSet<String> = by.into_iter().flatten().collect();
            found.extend(names.into_iter().map(|name| Chain { family, name }));
        }
    }
    Some(found)
}

/// Whether a value is this word, or contains it.
fn has(value: &Value, word: &str) -> bool {
    match value {
        Value::String(text) => text == word,
        Value::Array(items) => items.iter().any(|item| has(item, word)),
        Value::Object(_) => value.get("set").is_some_and(|set| has(set, word)),
        _ => false,
    }
}

/// Whether a value contains a port: as a number, in a range, or in a set.
fn has_port(value: &Value, port: u64) -> bool {
    match value {
        Value::Number(number) => number.as_u64() == Some(port),
        Value::Array(items) => items.iter().any(|item| has_port(item, port)),
        Value::Object(_) => {
            let range = || {
                let bounds = value.get("range")?.as_array()?;
                Some((bounds.first()?.as_u64()?..=bounds.get(1)?.as_u64()?).contains(&port))
            };
            value.get("set").is_some_and(|set| has_port(set, port)) || range().unwrap_or_default()
        }
        _ => false,
    }
}

/// The results of the chains traced so far, for one packet.
type Ends<'a> = BTreeMap<Place<'a>, Option<Verdict>>;

impl<'a> Ruleset<'a> {
    /// The result of a chain for a packet; none if no rule decides.
    fn end(&self, chain: Place<'a>, packet: Packet<'_>, ends: &mut Ends<'a>) -> Option<Verdict> {
        if let Some(known) = ends.get(&chain) {
            return *known;
        }
        // Each chain is traced once, which also ends loops.
        ends.insert(chain, None);
        let end = self.rules.get(&chain)?.iter().find_map(|parts| self.rule_end(chain, parts, packet, ends));
        ends.insert(chain, end);
        end
    }

    fn rule_end(
        &self,
        chain: Place<'a>,
        parts: &'a [Value],
        packet: Packet<'_>,
        ends: &mut Ends<'a>,
    ) -> Option<Verdict> {
        for part in parts {
            let (word, value) = part.as_object()?.iter().next()?;
            match word.as_str() {
                "match" => {
                    if !packet.fits(value) {
                        return None;
                    }
                }
                "vmap" => {
                    let verdict = packet.looked_up(value)?;
                    return self.rule_end(chain, std::slice::from_ref(verdict), packet, ends);
                }
                "limit" if value.get("inv").and_then(Value::as_bool) == Some(true) => return None,
                // These statements do not decide, so tracing continues.
                "limit" | "counter" | "log" | "comment" | "mangle" | "notrack" | "continue" => {}
                "drop" | "reject" => return Some(Verdict::Out),
                "accept" => return Some(Verdict::In),
                "return" => return Some(Verdict::Back),
                "jump" | "goto" => {
                    let target = value.get("target").and_then(Value::as_str)?;
                    return match self.end((chain.0, chain.1, target), packet, ends) {
                        // After a jump the calling chain continues; after a goto it does not.
                        Some(Verdict::Back) | None if word == "jump" => None,
                        Some(verdict @ (Verdict::In | Verdict::Out)) => Some(verdict),
                        _ => Some(Verdict::Back),
                    };
                }
                // An unknown condition does not match every packet.
                _ => return None,
            }
        }
        None
    }
}

impl Packet<'_> {
    /// Whether a condition is true for this packet.
    fn fits(self, condition: &Value) -> bool {
        let (Some(left), Some(right)) = (condition.get("left"), condition.get("right")) else { return false };
        let negated = condition.get("op").and_then(Value::as_str) == Some("!=");
        match self.is(left, right) {
            Some(is) => is != negated,
            // An unknown condition selects special packets, so this one does not match; its
            // negation does.
            None => negated,
        }
    }

    /// Whether a property of the packet is among these values; none if unknown.
    fn is(self, left: &Value, right: &Value) -> Option<bool> {
        let of = |kind: &str, key: &str| left.get(kind).and_then(|value| value.get(key)).and_then(Value::as_str);
        let number = if self.protocol == "tcp" { 6 } else { 17 };
        match (of("meta", "key"), of("ct", "key"), of("payload", "protocol"), of("payload", "field")) {
            (Some("iifname" | "iif"), ..) => Some(has_name(right, self.interface)),
            (Some("l4proto"), ..) => Some(has(right, self.protocol) || has_port(right, number)),
            (Some("nfproto"), ..) => Some(has(right, if self.family == "ip" { "ipv4" } else { "ipv6" })),
            (Some("pkttype"), ..) => Some(has(right, "host") || has(right, "unicast")),
            (_, Some("state"), ..) => Some(has(right, "new")),
            (.., Some("ip"), Some("protocol")) if self.family == "ip" => {
                Some(has(right, self.protocol) || has_port(right, number))
            }
            (.., Some("ip6"), Some("nexthdr")) if self.family == "ip6" => {
                Some(has(right, self.protocol) || has_port(right, number))
            }
            (.., Some("th"), Some("dport")) => Some(has_port(right, PORT)),
            (.., Some(protocol @ ("tcp" | "udp")), Some("dport")) => {
                Some(protocol == self.protocol && has_port(right, PORT))
            }
            // A condition on another protocol does not match.
            (.., Some(protocol), _) if ["tcp", "udp", "icmp", "icmpv6"].contains(&protocol) => {
                (protocol != self.protocol).then_some(false)
            }
            _ => None,
        }
    }

    /// The entry for this packet in a verdict map.
    fn looked_up(self, map: &Value) -> Option<&Value> {
        let (key, data) = (map.get("key")?, map.get("data")?.get("set")?.as_array()?);
        let entry = |entry: &&Value| entry.get(0).is_some_and(|wanted| self.is(key, wanted) == Some(true));
        data.iter().find(entry)?.get(1)
    }
}

/// Whether an interface is among these names, which may end with an asterisk.
fn has_name(value: &Value, name: &str) -> bool {
    match value {
        Value::String(text) => match text.strip_suffix('*') {
            Some(begin) => name.starts_with(begin),
            None => text == name,
        },
        Value::Array(items) => items.iter().any(|item| has_name(item, name)),
        Value::Object(_) => value.get("set").is_some_and(|set| has_name(set, name)),
        _ => false,
    }
}

/// The interface of the default route, where unsolicited packets arrive.
fn outer_interface() -> String {
    let routes = netlink::default_routes().unwrap_or_default();
    routes.first().map(|route| network::interface_name(route.interface)).unwrap_or_else(|| "eth0".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chain(family: &str, hook: &str, policy: &str, rules: &str) -> Vec<String> {
        let text = format!(
            r#"{{"nftables":[{{"metainfo":{{"version":"1.0.6"}}}},{{"table":{{"family":"{family}","name":"t","handle":1}}}},
            {{"chain":{{"family":"{family}","table":"t","name":"in","handle":1,"type":"filter","hook":"{hook}","prio":0,"policy":"{policy}"}}}},
            {{"chain":{{"family":"{family}","table":"t","name":"rest","handle":2}}}}{rules}]}}"#
        );
        parse(&text, "eth0").expect("read").into_iter().filter(|c| c.family == "ip").map(|c| c.name).collect()
    }

    fn rule(chain: &str, parts: &str) -> String {
        format!(r#",{{"rule":{{"family":"inet","table":"t","chain":"{chain}","handle":9,"expr":[{parts}]}}}}"#)
    }

    #[test]
    fn only_rules_that_block_unsolicited_packets_count_as_a_firewall() {
        let matched = r#"{"match":{"op":"==","left":{"meta":{"key":"iifname"}},"right":"lo"}}"#;
        assert_eq!(chain("inet", "input", "drop", ""), ["inet t in"]);
        assert!(chain("inet", "input", "accept", "").is_empty(), "an empty chain that lets all in");
        assert!(chain("bridge", "input", "drop", "").is_empty(), "a bridge's");
        assert!(chain("inet", "forward", "drop", "").is_empty(), "what passes through");
        let banned = rule("in", &format!(r#"{matched},{{"drop":null}}"#));
        assert!(chain("inet", "input", "accept", &banned).is_empty(), "fail2ban's kind");
        let last =
            rule("in", r#"{"counter":{"packets":1,"bytes":2}},{"reject":{"type":"icmpx","expr":"admin-prohibited"}}"#);
        assert_eq!(chain("inet", "input", "accept", &(banned.clone() + &last)), ["inet t in"], "firewalld's kind");
        let open = rule("in", r#"{"accept":null}"#);
        assert!(chain("inet", "input", "accept", &(open.clone() + &last)).is_empty(), "let in before");
        assert!(chain("inet", "input", "drop", &open).is_empty(), "let in whatever the policy");
        let jump = rule("in", r#"{"jump":{"target":"rest"}}"#) + &rule("rest", r#"{"drop":null}"#);
        assert_eq!(chain("inet", "input", "accept", &jump), ["inet t in"]);
        let round = rule("in", r#"{"jump":{"target":"rest"}}"#) + &rule("rest", r#"{"jump":{"target":"in"}}"#);
        assert!(chain("inet", "input", "accept", &round).is_empty());
        assert!(parse("garbage", "eth0").is_none());
    }

    /// Rules as written by nft 1.0.6 of Debian 12.
    #[test]
    fn an_unsolicited_packet_is_traced_through_the_rules() {
        let ends = |policy: &str, rules: &[&str]| {
            let rules: String = rules.iter().map(|parts| rule("in", parts)).collect();
            let rest = rule("rest", r#"{"drop":null}"#);
            !chain("inet", "input", policy, &(rules + &rest)).is_empty()
        };
        let state =
            |states: &str| format!(r#"{{"match":{{"op":"in","left":{{"ct":{{"key":"state"}}}},"right":[{states}]}}}}"#);
        let meta = |op: &str, key: &str, right: &str| {
            format!(r#"{{"match":{{"op":"{op}","left":{{"meta":{{"key":"{key}"}}}},"right":{right}}}}}"#)
        };
        let port = |protocol: &str, right: &str| {
            format!(
                r#"{{"match":{{"op":"==","left":{{"payload":{{"protocol":"{protocol}","field":"dport"}}}},"right":{right}}}}}"#
            )
        };
        let then = |condition: &str, verdict: &str| format!(r#"{condition},{{"{verdict}":null}}"#);
        let known = then(&state(r#""established","related""#), "accept");
        assert!(ends("drop", &[&known, &then(&port("tcp", "22"), "accept")]));
        assert!(!ends("drop", &[&then(&state(r#""established","related","new""#), "accept")]), "new ones, too");
        assert!(!ends("drop", &[&then(&meta("==", "l4proto", r#"{"set":["tcp","udp","icmp"]}"#), "accept")]));
        let all = r#"{"range":[1,65535]}"#;
        assert!(!ends("drop", &[&then(&port("tcp", all), "accept")]), "every port of one protocol");
        assert!(ends("accept", &[&then(&meta("!=", "iifname", r#""lo""#), "drop")]));
        assert!(ends("accept", &[&then(&state(r#""new""#), "drop")]));
        let each =
            [then(&meta("==", "l4proto", r#""tcp""#), "reject"), then(&meta("==", "l4proto", r#""udp""#), "reject")];
        assert!(ends("accept", &[&each[0], &each[1]]) && !ends("accept", &[&each[0]]));
        assert!(ends("accept", &[&then(&meta("==", "nfproto", r#"{"set":["ipv4","ipv6"]}"#), "drop")]));
        assert!(ends("accept", &[r#"{"mangle":{"key":{"meta":{"key":"mark"}},"value":1}},{"drop":null}"#]));
        assert!(!ends("accept", &[r#"{"return":null}"#, r#"{"drop":null}"#]));
        assert!(!ends("accept", &[r#"{"goto":{"target":"nothing"}}"#, r#"{"drop":null}"#]), "it does not come back");
        assert!(ends("accept", &[r#"{"jump":{"target":"nothing"}}"#, r#"{"drop":null}"#]));
        let map = |name: &str| {
            format!(
                r#"{{"vmap":{{"key":{{"meta":{{"key":"iifname"}}}},"data":{{"set":[["{name}",{{"jump":{{"target":"rest"}}}}]]}}}}}}"#
            )
        };
        assert!(ends("accept", &[&map("eth0")]) && !ends("accept", &[&map("wg0")]));
        assert!(!chain("inet", "prerouting", "drop", "").is_empty(), "before it comes in");
        assert!(!ends("drop", &[&then(&meta("==", "iifname", r#""eth*""#), "accept")]), "a trusted zone");
        let asleep = r#"{"nftables":[{"table":{"family":"inet","name":"t","flags":["dormant"]}},
            {"chain":{"family":"inet","table":"t","name":"in","type":"filter","hook":"input","prio":0,"policy":"drop"}}]}"#;
        assert_eq!(parse(asleep, "eth0"), Some(Vec::new()));
    }

    #[test]
    fn iptables_rules_are_judged_the_same_way() {
        assert!(drops_the_rest("-P INPUT DROP\n-A INPUT -i lo -j ACCEPT\n"));
        assert!(drops_the_rest(
            "-P INPUT ACCEPT\n-A INPUT -i lo -j ACCEPT\n-A INPUT -j REJECT --reject-with icmp-host-prohibited\n"
        ));
        assert!(!drops_the_rest("-P INPUT ACCEPT\n-A INPUT -p tcp -j f2b-sshd\n-A INPUT -s 192.0.2.1/32 -j DROP\n"));
        assert!(!drops_the_rest("-P INPUT ACCEPT\n"));
        assert!(!drops_the_rest("-P INPUT DROP\n-A INPUT -j ACCEPT\n"));
    }
}
