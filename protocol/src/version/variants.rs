//! How many variants of each wire enum each protocol version knows.
//!
//! Names are those that serde passes to a serializer. An enum that is not listed cannot be sent to
//! a peer of an older version, so none can be forgotten.

use super::{CURRENT, Version};

/// The enums, sorted by name; for each version from 1 on, how many of their variants it knows. The
/// numbers never shrink.
const VARIANTS: &[(&str, [u32; CURRENT as usize])] = &[
    ("Admission", [2, 2, 2]),
    ("Ask", [5, 5, 5]),
    ("Deliver", [4, 4, 5]),
    ("Delivered", [4, 4, 4]),
    ("Denial", [35, 36, 36]),
    ("Fetched", [3, 3, 3]),
    ("GivenBack", [0, 0, 2]),
    ("Happened", [18, 18, 18]),
    ("Membership", [2, 2, 2]),
    ("News", [10, 10, 10]),
    ("Note", [5, 5, 6]),
    ("Outcome", [6, 6, 6]),
    ("Presence", [2, 2, 2]),
    ("Refusal", [33, 34, 35]),
    ("Renewed", [2, 2, 2]),
    ("RunState", [3, 3, 3]),
    ("Stored", [2, 2, 2]),
    ("Stream", [2, 2, 2]),
    ("TokenKind", [2, 2, 2]),
    ("Until", [2, 2, 2]),
    ("Verdict", [4, 4, 4]),
    ("enroll.Reply", [3, 3, 3]),
    ("enroll.Request", [5, 5, 5]),
    ("staff.Reply", [24, 30, 32]),
    ("staff.Request", [36, 36, 43]),
    ("to_agent.Control", [6, 6, 7]),
    ("to_hub.Control", [4, 5, 7]),
];

/// How many variants of an enum a version knows; none if the enum is not listed.
pub fn known(name: &str, version: Version) -> Option<u32> {
    let at = VARIANTS.binary_search_by_key(&name, |(name, _)| name).ok()?;
    let (_, counts) = VARIANTS.get(at)?;
    let row = usize::from(version.number()).checked_sub(1)?;
    counts.get(row).copied()
}

/// All enums that are listed.
pub fn names() -> impl Iterator<Item = &'static str> {
    VARIANTS.iter().map(|(name, _)| *name)
}

/// The first version that knows a variant; none if no version does.
pub fn since(name: &str, index: u32) -> Option<Version> {
    (1..=CURRENT).map(Version::of_peer).find(|version| known(name, *version).is_some_and(|count| index < count))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variant_counts_are_sorted_by_name_and_never_shrink() {
        assert!(VARIANTS.is_sorted_by_key(|(name, _)| name));
        for (name, counts) in VARIANTS {
            assert!(counts.is_sorted(), "{name}");
        }
    }

    #[test]
    fn the_readme_lists_each_enum_that_has_grown() {
        let readme = include_str!("../../README.md");
        for version in 2..=CURRENT {
            let row = readme.lines().find(|line| line.starts_with(&format!("| {version} |")));
            let row = row.unwrap_or_else(|| panic!("version {version} has no row"));
            let grown: Vec<String> = VARIANTS
                .iter()
                .filter_map(|(name, counts)| {
                    let (before, now) = (counts.get(usize::from(version) - 2)?, counts.get(usize::from(version) - 1)?);
                    (before != now).then(|| format!("`{name}` {before} → {now}"))
                })
                .collect();
            for what in &grown {
                assert!(row.contains(what), "version {version}: {what}");
            }
            assert_eq!(row.matches(" → ").count(), grown.len(), "version {version} tells of more than has grown");
        }
    }

    #[test]
    fn a_variant_is_known_since_the_version_that_brought_it() {
        assert_eq!(since("to_hub.Control", 3), Some(Version::OLDEST));
        assert_eq!(since("to_hub.Control", 4), Some(Version::of_peer(2)));
        assert_eq!(since("to_hub.Control", 6), Some(Version::of_peer(3)));
        assert_eq!(since("to_hub.Control", 7), None);
        assert_eq!(known("Answer", Version::NEWEST), None);
    }
}
