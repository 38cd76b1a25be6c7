//! The rules that ship in the binary.

use super::rule::Rules;
use std::sync::{Arc, LazyLock};

const FILES: [&str; 7] = [
    include_str!("rules/capacity.toml"),
    include_str!("rules/disks.toml"),
    include_str!("rules/network.toml"),
    include_str!("rules/upkeep.toml"),
    include_str!("rules/logs.toml"),
    include_str!("rules/security.toml"),
    include_str!("rules/gaps.toml"),
];

/// All of them, read once. Which rules hold is decided by `rules_in_force` of the crate `certs`.
#[expect(clippy::expect_used, reason = "a test reads the same files, which are part of this program")]
pub fn builtin_rules() -> Arc<Rules> {
    static RULES: LazyLock<Arc<Rules>> = LazyLock::new(|| {
        let mut all = Rules::default();
        for file in FILES {
            let read = Rules::from_toml(file).expect("the rules in the binary are well-formed");
            all.rules.extend(read.rules);
            all.gaps.extend(read.gaps);
        }
        Arc::new(all)
    });
    RULES.clone()
}
