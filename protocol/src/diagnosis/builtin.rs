//! The rules that ship in the binary.

use super::rule::{Rule, RuleSet};

const FILES: [&str; 6] = [
    include_str!("rules/capacity.toml"),
    include_str!("rules/disks.toml"),
    include_str!("rules/network.toml"),
    include_str!("rules/upkeep.toml"),
    include_str!("rules/logs.toml"),
    include_str!("rules/security.toml"),
];

/// All of them, read anew.
#[expect(clippy::expect_used, reason = "a test reads the same files, which are part of this program")]
pub fn builtin_rules() -> Vec<Rule> {
    let read = |file: &str| RuleSet::from_toml(file).expect("the rules in the binary are well-formed");
    FILES.into_iter().flat_map(|file| read(file).rules).collect()
}
