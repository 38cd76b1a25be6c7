//! Whether a firewall keeps out what was not let in.
//!
//! That there are rules says little: fail2ban, Docker and libvirt make some, too. A
//! firewall is a chain for what comes in that drops or rejects what no rule has let
//! in, by its policy or by its last rule.

use crate::collect::{child, read};
use fernwart_protocol::diagnosis::{Reason, Why};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

/// How long a large set of rules may take.
const BUDGET: Duration = Duration::from_millis(1500);

/// Whether incoming connections are filtered, and by what: `inet filter input`.
///
/// # Errors
/// Why nobody says.
pub(super) fn filters(until: Instant) -> Result<(bool, Vec<String>), Why> {
    let until = until.min(Instant::now() + BUDGET);
    // -t leaves out what is in sets; that may be hundreds of thousands of addresses.
    let nft = child::ask("nft", &["-j", "-t", "list", "ruleset"], until)
        .and_then(|text| parse(&text).ok_or_else(|| Why::new(Reason::Unreadable, "nft")));
    let mut by = nft.clone().unwrap_or_default();
    let mut asked = vec![nft.map(drop)];
    for (program, family) in [("iptables", "ip"), ("ip6tables", "ip6")] {
        if covers(&by, family) {
            continue;
        }
        let listed = child::ask(program, &["-S", "INPUT"], until);
        if listed.as_ref().is_ok_and(|rules| drops_the_rest(rules)) {
            by.push(Chain { family: family.to_owned(), name: format!("{program} INPUT") });
        }
        asked.push(listed.map(drop));
    }
    // What nobody could be asked about may still be there.
    let lost = asked.iter().filter_map(|asked| asked.as_ref().err()).find(|why| why.reason != Reason::NotInstalled);
    let is_known = asked.iter().any(Result::is_ok);
    let is_filtered = covers(&by, "ip") && (covers(&by, "ip6") || !has_public_ipv6());
    match (is_filtered, lost, is_known) {
        (true, ..) | (false, None, true) => Ok((is_filtered, by.into_iter().map(|chain| chain.name).collect())),
        (false, Some(why), _) => Err(why.clone()),
        (false, None, false) => Err(Why::new(Reason::NotInstalled, "nft")),
    }
}

/// A chain that keeps out what was not let in.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Chain {
    family: String,
    name: String,
}

fn covers(chains: &[Chain], family: &str) -> bool {
    chains.iter().any(|chain| chain.family == family || chain.family == "inet")
}

/// Whether this machine has an address in the whole Internet over IPv6
/// (/proc/net/if_inet6: scope 00).
fn has_public_ipv6() -> bool {
    let table = read("/proc/net/if_inet6").unwrap_or_default();
    table.lines().any(|line| line.split_whitespace().nth(3) == Some("00") && !line.starts_with("fd"))
}

/// Lines `-P INPUT DROP` and `-A INPUT -j REJECT …` without any condition.
fn drops_the_rest(rules: &str) -> bool {
    let is_end = |line: &str| {
        let Some(rest) = line.strip_prefix("-A INPUT -j ") else { return false };
        matches!(rest.split_whitespace().next(), Some("DROP" | "REJECT"))
    };
    rules.lines().any(|line| line == "-P INPUT DROP" || is_end(line))
}

/// Which chain of which table of which family.
type Place<'a> = (&'a str, &'a str, &'a str);

/// The ruleset as `nft -j` writes it (libnftables-json(5)).
struct Ruleset<'a> {
    rules: BTreeMap<Place<'a>, Vec<&'a [Value]>>,
}

/// The chains that keep out what was not let in.
fn parse(text: &str) -> Option<Vec<Chain>> {
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
    let mut found = Vec::new();
    for chain in items.iter().filter_map(|item| item.get("chain")) {
        let word = |name: &str| chain.get(name).and_then(Value::as_str).unwrap_or_default();
        let (family, table, name) = (word("family"), word("table"), word("name"));
        // A bridge's chain sees what passes through, not what comes in.
        let is_input = word("hook") == "input" && word("type") == "filter" && ["inet", "ip", "ip6"].contains(&family);
        if !is_input {
            continue;
        }
        let ends = ruleset.end((family, table, name), &mut BTreeSet::new());
        if ends.unwrap_or(word("policy") == "drop") {
            found.push(Chain { family: family.to_owned(), name: format!("{family} {table} {name}") });
        }
    }
    Some(found)
}

impl<'a> Ruleset<'a> {
    /// How a chain ends for what none of its conditions fits: dropped, let in, or
    /// neither.
    fn end(&self, chain: Place<'a>, seen: &mut BTreeSet<Place<'a>>) -> Option<bool> {
        if !seen.insert(chain) {
            return None;
        }
        self.rules.get(&chain)?.iter().find_map(|parts| self.rule_end(chain, parts, seen))
    }

    fn rule_end(&self, chain: Place<'a>, parts: &'a [Value], seen: &mut BTreeSet<Place<'a>>) -> Option<bool> {
        for part in parts {
            let (word, value) = part.as_object()?.iter().next()?;
            match word.as_str() {
                "counter" | "log" | "comment" => {}
                "drop" | "reject" => return Some(true),
                "accept" => return Some(false),
                "jump" | "goto" => {
                    let target = value.get("target").and_then(Value::as_str)?;
                    return self.end((chain.0, chain.1, target), seen);
                }
                // A condition: it is not for all.
                _ => return None,
            }
        }
        None
    }
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
        parse(&text).expect("read").into_iter().map(|chain| chain.name).collect()
    }

    fn rule(chain: &str, parts: &str) -> String {
        format!(r#",{{"rule":{{"family":"inet","table":"t","chain":"{chain}","handle":9,"expr":[{parts}]}}}}"#)
    }

    #[test]
    fn only_what_keeps_out_the_rest_is_a_firewall() {
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
        assert!(parse("garbage").is_none());
    }

    #[test]
    fn iptables_listings_are_read_the_same_way() {
        assert!(drops_the_rest("-P INPUT DROP\n-A INPUT -i lo -j ACCEPT\n"));
        assert!(drops_the_rest(
            "-P INPUT ACCEPT\n-A INPUT -i lo -j ACCEPT\n-A INPUT -j REJECT --reject-with icmp-host-prohibited\n"
        ));
        assert!(!drops_the_rest("-P INPUT ACCEPT\n-A INPUT -p tcp -j f2b-sshd\n-A INPUT -s 192.0.2.1/32 -j DROP\n"));
        assert!(!drops_the_rest("-P INPUT ACCEPT\n"));
    }
}
